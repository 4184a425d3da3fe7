//! Deliveries that run one after another: of those with the same `order` one at most waits for its invocation, and the
//! others are held. `deliveries` lets the next one go when one is answered or has failed; here they are made, and what a stop
//! in between left is set right.

use std::collections::BTreeSet;

use bson::{RawArrayBuf, RawBson, rawdoc};
use cloudlet_base::Deadline;
use cloudlet_data::{Code, Documents, Error, Find, Insert, Update, UpdateOne, Write};
use tokio::sync::Mutex;

use super::deliveries::{Delivery, State, deliveries, unanswered};
use crate::apps::records::{find_all, write};

/// Held deliveries that are looked at in one go.
const HELD_MAX: u64 = 1000;

/// Makes deliveries of one trigger, in the order of their ids, in one commit with another write. One whose event has made
/// one that is still there is left out.
///
/// # Errors
/// Those of the database; nothing is made then.
pub(super) async fn make_in_order(
    documents: &dyn Documents,
    ordering: &Mutex<()>,
    mut made: Vec<Delivery>,
    and: Write,
) -> Result<(), Error> {
    let mut seen: BTreeSet<String> = made
        .iter()
        .filter_map(|delivery| delivery.order.clone())
        .collect();
    let busy = busy(documents, seen.iter()).await?;
    seen.clone_from(&busy);
    for delivery in &mut made {
        // Of those that begin an order here the first does not wait for another.
        let is_first = delivery
            .order
            .as_ref()
            .is_none_or(|order| seen.insert(order.clone()));
        delivery.state = if is_first { State::Waiting } else { State::Held };
    }
    match insert(documents, &made, and.clone()).await {
        Err(error) if error.code() == Code::DuplicateKey => {
            let there = there(documents, &made).await?;
            made.retain(|delivery| !there.contains(&delivery.id));
            // Which of them is first may have changed with that, so all of them are looked at below.
            made.iter_mut()
                .filter(|delivery| delivery.order.is_some())
                .for_each(|delivery| delivery.state = State::Held);
            insert(documents, &made, and).await?;
            seen = made
                .iter()
                .filter_map(|delivery| delivery.order.clone())
                .collect();
        }
        done => {
            done?;
            seen = busy;
        }
    }
    for order in &seen {
        release(documents, ordering, order).await?;
    }
    Ok(())
}

async fn insert(documents: &dyn Documents, made: &[Delivery], and: Write) -> Result<(), Error> {
    let mut writes = Vec::new();
    if !made.is_empty() {
        let insert = Insert {
            documents: made.iter().map(write).collect::<Result<_, _>>()?,
            ordered: true,
            ..Insert::default()
        };
        writes.push(Write::Insert(deliveries(), insert));
    }
    writes.push(and);
    documents.transact(writes, Deadline::NEVER).await.map(drop)
}

/// Those of these orders of which one waits or is held.
async fn busy<'o>(
    documents: &dyn Documents,
    orders: impl Iterator<Item = &'o String>,
) -> Result<BTreeSet<String>, Error> {
    let orders: Vec<RawBson> = orders.map(|order| RawBson::String(order.clone())).collect();
    if orders.is_empty() {
        return Ok(BTreeSet::new());
    }
    let find = Find {
        filter: rawdoc! { "order": { "$in": RawArrayBuf::from_iter(orders) }, "state": unanswered() },
        ..Find::default()
    };
    let found = documents
        .distinct(&deliveries(), "order", find, Deadline::NEVER)
        .await?;
    Ok(texts(found))
}

/// The ids of those that are on disk already.
async fn there(documents: &dyn Documents, made: &[Delivery]) -> Result<BTreeSet<String>, Error> {
    let ids = made.iter().map(|delivery| RawBson::String(delivery.id.clone()));
    let find = Find {
        filter: rawdoc! { "_id": { "$in": RawArrayBuf::from_iter(ids) } },
        ..Find::default()
    };
    let found = documents
        .distinct(&deliveries(), "_id", find, Deadline::NEVER)
        .await?;
    Ok(texts(found))
}

fn texts(values: Vec<RawBson>) -> BTreeSet<String> {
    let texts = values.into_iter().filter_map(|value| match value {
        RawBson::String(text) => Some(text),
        _ => None,
    });
    texts.collect()
}

/// Lets the first held delivery of an order wait for its invocation, if none of it does.
///
/// # Errors
/// Those of the database.
async fn release(documents: &dyn Documents, ordering: &Mutex<()>, order: &str) -> Result<(), Error> {
    // Two of these at once could let two wait.
    let _ordering = ordering.lock().await;
    let find = Find {
        filter: rawdoc! { "order": order, "state": State::Waiting.as_str() },
        limit: Some(1),
        ..Find::default()
    };
    if documents.count(&deliveries(), find, Deadline::NEVER).await? > 0 {
        return Ok(());
    }
    documents
        .transact(vec![releasing(order)], Deadline::NEVER)
        .await
        .map(drop)
}

/// The write that lets the first held delivery of an order wait for its invocation. Its time came when it was made.
pub(super) fn releasing(order: &str) -> Write {
    let update = Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "order": order, "state": State::Held.as_str() },
            update: rawdoc! { "$set": { "state": State::Waiting.as_str() } },
            sort: Some(rawdoc! { "_id": 1 }),
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    Write::Update(deliveries(), update)
}

/// Looks at every order of which something is held.
///
/// # Errors
/// Those of the database.
pub(super) async fn release_all(documents: &dyn Documents, ordering: &Mutex<()>) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let find = Find {
            filter: rawdoc! { "order": { "$gt": after.as_str() }, "state": State::Held.as_str() },
            sort: Some(rawdoc! { "order": 1 }),
            projection: Some(rawdoc! { "order": 1 }),
            limit: Some(HELD_MAX),
            ..Find::default()
        };
        let held = find_all(documents, &deliveries(), find).await?;
        let orders: BTreeSet<String> = held
            .iter()
            .filter_map(|held| held.get_str("order").ok().map(str::to_owned))
            .collect();
        for order in &orders {
            release(documents, ordering, order).await?;
        }
        match orders.last() {
            Some(last) => after.clone_from(last),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cloudlet_base::{AppId, Timestamp};
    use cloudlet_data::Namespace;
    use cloudlet_data::testing::embedded;

    use super::super::Kind;
    use super::super::deliveries::{self, date};
    use super::*;

    struct Made {
        documents: Arc<dyn Documents>,
        ordering: Mutex<()>,
    }

    fn delivery(id: &str, order: &str) -> Delivery {
        Delivery {
            id: id.to_owned(),
            app: "hotel".to_owned(),
            trigger: "t".to_owned(),
            kind: Kind::Database.as_str().to_owned(),
            function: "f".to_owned(),
            payload: "{}".to_owned(),
            state: State::Waiting,
            order: Some(order.to_owned()),
            due: date(Timestamp(0)),
            attempts: 0,
            retries: 0,
            lease: 1000,
            made: date(Timestamp(0)),
            error: None,
            failed: None,
        }
    }

    impl Made {
        async fn new() -> Self {
            let documents = embedded();
            deliveries::prepare(&*documents).await.unwrap();
            Self {
                documents,
                ordering: Mutex::default(),
            }
        }

        /// Makes these, each with the order that is its first letter, and a record of the last one.
        async fn make(&self, ids: &[&str]) {
            let made = ids.iter().map(|id| delivery(id, &id[..1])).collect();
            let place = Insert {
                documents: vec![rawdoc! { "_id": ids.join(" ") }],
                ordered: true,
                ..Insert::default()
            };
            let and = Write::Insert(Namespace::new("/node", "places"), place);
            make_in_order(&*self.documents, &self.ordering, made, and)
                .await
                .unwrap();
        }

        async fn waiting(&self) -> Vec<String> {
            let find = Find {
                filter: rawdoc! { "state": "waiting" },
                sort: Some(rawdoc! { "_id": 1 }),
                ..Find::default()
            };
            let found = find_all(&*self.documents, &deliveries(), find).await.unwrap();
            let ids = found.iter().map(|found| found.get_str("_id").unwrap().to_owned());
            ids.collect()
        }

        async fn answered(&self, id: &str) {
            let answered = delivery(id, &id[..1]);
            deliveries::answered(&*self.documents, &answered).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_of_an_order_waits_at_a_time_and_the_ids_say_which_is_next() {
        let made = Made::new().await;
        made.make(&["a1", "a2", "b1", "a3"]).await;
        assert_eq!(made.waiting().await, ["a1", "b1"]);
        made.make(&["a4", "c1"]).await;
        assert_eq!(made.waiting().await, ["a1", "b1", "c1"]);
        made.answered("b1").await;
        made.answered("a1").await;
        assert_eq!(made.waiting().await, ["a2", "c1"]);
        // One that is kept for a person lets the next go, and is sent again when nothing of its order waits.
        let app: AppId = "hotel".parse().unwrap();
        let failed = delivery("a2", "a");
        deliveries::give_up(&*made.documents, &failed, Timestamp(1), "why")
            .await
            .unwrap();
        assert_eq!(made.waiting().await, ["a3", "c1"]);
        let now = Timestamp(2);
        let replayed = deliveries::replay(&*made.documents, &made.ordering, &app, None, now).await;
        assert_eq!(replayed.unwrap(), 1);
        assert_eq!(made.waiting().await, ["a3", "c1"]);
        made.answered("a3").await;
        assert_eq!(made.waiting().await, ["a2", "c1"], "before those after it");
        made.answered("a2").await;
        made.answered("a4").await;
        assert_eq!(made.waiting().await, ["c1"]);
    }

    #[tokio::test]
    async fn what_is_made_already_is_left_out_and_a_stop_in_between_is_set_right() {
        let made = Made::new().await;
        made.make(&["a1", "b1"]).await;
        made.answered("b1").await;
        // The same events once more, and new ones: the trigger's place was lost.
        made.make(&["a1", "b2", "a2", "b3"]).await;
        assert_eq!(made.waiting().await, ["a1", "b2"]);
        // As if the node had stopped before it looked who is next.
        let delete = rawdoc! { "_id": "a1" };
        let delete = cloudlet_data::Delete {
            statements: vec![cloudlet_data::DeleteOne {
                filter: delete,
                ..Default::default()
            }],
            ordered: true,
        };
        made.documents
            .delete(&deliveries(), delete, Deadline::NEVER)
            .await
            .unwrap();
        assert_eq!(made.waiting().await, ["b2"]);
        deliveries::let_go(&*made.documents, &made.ordering, Timestamp(5))
            .await
            .unwrap();
        assert_eq!(made.waiting().await, ["a2", "b2"]);
    }
}
