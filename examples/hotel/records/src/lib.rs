//! Keeps the records that follow from others: which stays a room has, and which photos there are. Called by triggers, for each
//! stay and each photo that comes or goes, in the order in which it happens to it.
//!
//! A change may be told twice, so everything here can be done twice.

use cloudlet::db::{self, Document, doc};
use cloudlet::{DatabaseEvent, Error, ObjectChange, Operation, Result, StorageEvent};
use serde::Deserialize;

/// What happened.
#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Stay(DatabaseEvent<Stay>),
    Photo(StorageEvent),
}

/// What we need of a stay.
#[derive(Deserialize)]
struct Stay {
    room: i32,
}

/// The entry point.
#[cloudlet::call]
fn record(event: Event) -> Result<()> {
    match event {
        Event::Stay(event) => stay(&event),
        Event::Photo(event) => photo(&event),
    }
}

/// `rooms`: `{_id: ROOM, stays: [ID]}`
fn stay(event: &DatabaseEvent<Stay>) -> Result<()> {
    let id = event.document_key.get("_id").ok_or("a stay has an _id")?;
    let (stay, change) = match event.operation {
        Operation::Delete => (
            &event.full_document_before_change,
            doc! { "$pull": { "stays": id } },
        ),
        _ => (&event.full_document, doc! { "$addToSet": { "stays": id } }),
    };
    let stay = stay.as_ref().ok_or("the event lacks the stay")?;
    db::collection::<Document>("rooms")
        .update_one(doc! { "_id": stay.room }, change)
        .upsert(true)
        .run()?;
    Ok(())
}

/// `photos`: `{_id: PATH, size}`
fn photo(event: &StorageEvent) -> Result<()> {
    let photos = db::collection::<Document>("photos");
    let path = doc! { "_id": &event.path };
    match event.change {
        ObjectChange::Created => {
            let size = i64::try_from(event.size).map_err(Error::invalid)?;
            photos
                .update_one(path, doc! { "$set": { "size": size } })
                .upsert(true)
                .run()?;
        }
        ObjectChange::Deleted => {
            photos.delete_one(path).run()?;
        }
    }
    Ok(())
}
