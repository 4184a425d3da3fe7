//! Sessions over a database: what clients see and change, by example and by property.

use bson::{Bson, Document, RawBson, doc, rawdoc};
use cloudlet_base::{LoginType, User};
use proptest::prelude::*;

use super::*;
use crate::testing::{MemoryDocuments, embedded};
use crate::{Code, IndexSpec};

const NEVER: Deadline = Deadline::NEVER;

fn user(app: &str, uid: &str) -> Principal {
    let app = app.parse().unwrap();
    Principal::User(Arc::new(User {
        app,
        uid: uid.into(),
        openid: None,
        login: LoginType::Anonymous,
    }))
}

fn admin() -> Principal {
    Principal::Admin { key_id: "k".into() }
}

fn over(documents: Arc<dyn Documents>, rule: Option<Rule>) -> AppData {
    let rules = rule.map(|rule| ("c".to_owned(), rule)).into_iter().collect();
    AppData {
        app: "hotel".parse().unwrap(),
        documents,
        rules: Arc::new(rules),
    }
}

/// The same data in the model and in the engine.
fn both_kinds(rule: Option<Rule>) -> [AppData; 2] {
    [over(MemoryDocuments::new(), rule.clone()), over(embedded(), rule)]
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn query(filter: RawDocumentBuf) -> Find {
    Find {
        filter,
        ..Find::default()
    }
}

fn update(filter: RawDocumentBuf, update: RawDocumentBuf, upsert: bool) -> Update {
    let statement = UpdateOne {
        filter,
        update,
        multi: false,
        upsert,
        ..UpdateOne::default()
    };
    Update {
        statements: vec![statement],
        ordered: true,
        ..Update::default()
    }
}

fn insert(document: RawDocumentBuf) -> Insert {
    Insert {
        documents: vec![document],
        ordered: true,
        ..Insert::default()
    }
}

fn delete(filter: RawDocumentBuf) -> Delete {
    Delete {
        statements: vec![DeleteOne {
            filter,
            multi: true,
            ..DeleteOne::default()
        }],
        ordered: true,
    }
}

async fn all(data: &AppData) -> Vec<Document> {
    let find = Find {
        sort: Some(rawdoc! { "_id": 1 }),
        ..Find::default()
    };
    let page = data.session(admin()).find("c", find, NEVER).await.unwrap();
    assert!(page.cursor.is_none());
    page.documents
        .iter()
        .map(|d| Document::try_from(&**d).unwrap())
        .collect()
}

async fn seed(data: &AppData) {
    let session = data.session(admin());
    for document in [
        rawdoc! { "_id": 1, "_openid": "me", "n": 1 },
        rawdoc! { "_id": 2, "_openid": "you", "n": 2 },
        rawdoc! { "_id": 3, "n": 3 },
    ] {
        assert!(
            session
                .insert("c", insert(document), NEVER)
                .await
                .unwrap()
                .errors
                .is_empty()
        );
    }
}

fn ids(page: &Page) -> Vec<i32> {
    page.documents.iter().map(|d| d.get_i32("_id").unwrap()).collect()
}

fn denied<T>(result: Result<T, AccessError>) -> String {
    match result {
        Err(AccessError::Denied(message)) => message,
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("expected a refusal"),
    }
}

#[test]
fn private_shows_the_creator_its_own_and_nobody_else_anything() {
    run(async {
        for data in both_kinds(Some(Rule::Private)) {
            seed(&data).await;
            let me = data.session(user("hotel", "me"));
            assert_eq!(ids(&me.find("c", query(rawdoc! {}), NEVER).await.unwrap()), [1]);
            assert_eq!(
                ids(&me
                    .find("c", query(rawdoc! { "_openid": "{openid}" }), NEVER)
                    .await
                    .unwrap()),
                [1]
            );
            assert!(
                ids(&me
                    .find("c", query(rawdoc! { "_openid": "you" }), NEVER)
                    .await
                    .unwrap())
                .is_empty()
            );
            assert!(
                ids(&me
                    .find("c", query(rawdoc! { "$or": [{ "_id": 2 }, { "n": 3 }] }), NEVER)
                    .await
                    .unwrap())
                .is_empty()
            );
            assert_eq!(me.count("c", rawdoc! {}, NEVER).await.unwrap(), 1);
            for stranger in [Principal::Public, user("other", "me")] {
                let message = denied(data.session(stranger).find("c", query(rawdoc! {}), NEVER).await);
                assert!(message.contains("log in first"), "{message}");
            }
        }
    });
}

#[test]
fn functions_and_admins_pass_unless_of_another_app() {
    run(async {
        for data in both_kinds(None) {
            seed(&data).await;
            let function = |app: &str| Principal::Function {
                app: app.parse().unwrap(),
                function: "f".into(),
            };
            assert_eq!(
                data.session(function("hotel"))
                    .count("c", rawdoc! {}, NEVER)
                    .await
                    .unwrap(),
                3
            );
            assert_eq!(
                data.session(admin()).count("c", rawdoc! {}, NEVER).await.unwrap(),
                3
            );
            denied(
                data.session(function("other"))
                    .count("c", rawdoc! {}, NEVER)
                    .await,
            );
            denied(
                data.session(user("hotel", "me"))
                    .count("c", rawdoc! {}, NEVER)
                    .await,
            );
        }
    });
}

#[test]
fn readonly_shows_everybody_all_and_lets_the_creator_write() {
    run(async {
        for data in both_kinds(Some(Rule::ReadOnly)) {
            seed(&data).await;
            assert_eq!(
                data.session(Principal::Public)
                    .count("c", rawdoc! {}, NEVER)
                    .await
                    .unwrap(),
                3
            );
            denied(
                data.session(Principal::Public)
                    .insert("c", insert(rawdoc! {}), NEVER)
                    .await,
            );
            let me = data.session(user("hotel", "me"));
            let set = || rawdoc! { "$set": { "n": 9 } };
            assert_eq!(
                me.update("c", update(rawdoc! { "_id": 1 }, set(), false), NEVER)
                    .await
                    .unwrap()
                    .matched,
                1
            );
            assert_eq!(
                me.update("c", update(rawdoc! { "_id": 2 }, set(), false), NEVER)
                    .await
                    .unwrap()
                    .matched,
                0
            );
            assert_eq!(
                me.delete("c", delete(rawdoc! {}), NEVER).await.unwrap().deleted,
                1
            );
            assert_eq!(all(&data).await.len(), 2);
        }
    });
}

#[test]
fn owner_is_stamped_and_never_taken_from_the_client() {
    run(async {
        for data in both_kinds(Some(Rule::Private)) {
            seed(&data).await;
            let me = data.session(user("hotel", "me"));
            assert_eq!(
                me.insert("c", insert(rawdoc! { "_id": 4 }), NEVER)
                    .await
                    .unwrap()
                    .ids
                    .len(),
                1
            );
            for owner in ["me", "you", "{openid}"] {
                let message = denied(me.insert("c", insert(rawdoc! { "_openid": owner }), NEVER).await);
                assert!(message.contains("_openid"), "{message}");
            }
            me.update(
                "c",
                update(rawdoc! { "_id": 1 }, rawdoc! { "x": 1 }, false),
                NEVER,
            )
            .await
            .unwrap();
            me.update(
                "c",
                update(rawdoc! { "_id": 5 }, rawdoc! { "$set": { "x": 1 } }, true),
                NEVER,
            )
            .await
            .unwrap();
            me.update("c", update(rawdoc! { "_id": 6 }, rawdoc! { "x": 1 }, true), NEVER)
                .await
                .unwrap();
            denied(
                me.update(
                    "c",
                    update(rawdoc! { "_openid": "you" }, rawdoc! { "x": 1 }, true),
                    NEVER,
                )
                .await,
            );
            let own: Vec<_> = all(&data)
                .await
                .into_iter()
                .filter(|d| d.get("_openid") == Some(&"me".into()))
                .collect();
            let own: Vec<_> = own.iter().map(|d| d.get_i32("_id").unwrap()).collect();
            assert_eq!(own, [1, 4, 5, 6]);
            assert_eq!(all(&data).await[0], doc! { "_id": 1, "x": 1, "_openid": "me" });
        }
    });
}

#[test]
fn a_taken_id_is_neither_overwritten_nor_shown() {
    run(async {
        for data in both_kinds(Some(Rule::Private)) {
            seed(&data).await;
            let me = data.session(user("hotel", "me"));
            let inserted = me.insert("c", insert(rawdoc! { "_id": 2 }), NEVER).await.unwrap();
            let upserted = me
                .update("c", update(rawdoc! { "_id": 2 }, rawdoc! { "n": 0 }, true), NEVER)
                .await
                .unwrap();
            for failed in inserted.errors.iter().chain(&upserted.errors) {
                assert_eq!(failed.error.code(), Code::DuplicateKey);
                assert_eq!(
                    failed.error.to_string(),
                    "a document with the same _id exists already"
                );
                assert!(failed.error.duplicate().is_none());
            }
            assert_eq!((inserted.errors.len(), upserted.errors.len()), (1, 1));
            assert_eq!(all(&data).await[1], doc! { "_id": 2, "_openid": "you", "n": 2 });
        }
    });
}

#[test]
fn find_and_modify_keeps_to_the_rule() {
    run(async {
        for data in both_kinds(Some(Rule::ReadOnly)) {
            seed(&data).await;
            let me = data.session(user("hotel", "me"));
            let modify = |id: i32, update| FindAndModify {
                filter: rawdoc! { "_id": id },
                update,
                ..Default::default()
            };
            let set = || Some(rawdoc! { "$set": { "n": 9 } });
            assert!(
                me.find_and_modify("c", modify(1, set()), NEVER)
                    .await
                    .unwrap()
                    .matched
            );
            assert!(
                !me.find_and_modify("c", modify(2, set()), NEVER)
                    .await
                    .unwrap()
                    .matched
            );
            assert!(
                !me.find_and_modify("c", modify(2, None), NEVER)
                    .await
                    .unwrap()
                    .matched
            );
            denied(
                me.find_and_modify("c", modify(1, Some(rawdoc! { "_openid": "you" })), NEVER)
                    .await,
            );
            assert_eq!(all(&data).await.len(), 3);
        }
    });
}

/// One engine for all cases: opening one starts threads.
fn shared_engine() -> Arc<dyn Documents> {
    static ENGINE: std::sync::OnceLock<Arc<dyn Documents>> = std::sync::OnceLock::new();
    ENGINE.get_or_init(embedded).clone()
}

/// What a preset lets `owner` do, said as plainly as possible: the oracle of the property below.
fn may(rule: &Rule, owner: Option<&str>, writes: bool, document: &Document) -> bool {
    let own = match (owner, document.get("_openid")) {
        (Some(owner), Some(Bson::String(stored))) => stored == owner,
        (Some(owner), Some(Bson::Array(stored))) => stored.contains(&owner.into()),
        _ => false,
    };
    match rule {
        Rule::ReadOnly => !writes || own,
        Rule::Private => own,
        Rule::AdminWrite => !writes,
        Rule::AdminOnly => false,
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Find(RawDocumentBuf),
    Insert(RawDocumentBuf),
    Update(RawDocumentBuf, RawDocumentBuf, bool, bool),
    Modify(RawDocumentBuf, Option<RawDocumentBuf>, bool),
    Delete(RawDocumentBuf),
}

fn any_owner() -> impl Strategy<Value = RawBson> {
    prop_oneof![
        Just(RawBson::String("me".into())),
        Just(RawBson::String("you".into())),
        Just(RawBson::String("{openid}".into())),
        Just(RawBson::Null),
    ]
}

fn any_filter() -> impl Strategy<Value = RawDocumentBuf> {
    prop_oneof![
        Just(rawdoc! {}),
        (0..6).prop_map(|id| rawdoc! { "_id": id }),
        (0..3).prop_map(|n| rawdoc! { "n": n }),
        any_owner().prop_map(|owner| rawdoc! { "_openid": owner }),
        any_owner().prop_map(|owner| rawdoc! { "_openid": { "$ne": owner } }),
        (0..6, any_owner()).prop_map(|(id, owner)| rawdoc! { "$or": [{ "_id": id }, { "_openid": owner }] }),
        (0..6, any_owner()).prop_map(|(id, owner)| rawdoc! { "$and": [{ "_id": id }, { "_openid": owner }] }),
    ]
}

fn any_update() -> impl Strategy<Value = RawDocumentBuf> {
    prop_oneof![
        (0..3).prop_map(|n| rawdoc! { "$set": { "n": n } }),
        (0..3).prop_map(|n| rawdoc! { "n": n }),
        (0..6).prop_map(|id| rawdoc! { "$setOnInsert": { "_id": id } }),
        any_owner().prop_map(|owner| rawdoc! { "$set": { "_openid": owner } }),
        any_owner().prop_map(|owner| rawdoc! { "_openid": owner }),
        Just(rawdoc! { "$rename": { "n": "_openid" } }),
        Just(rawdoc! { "$unset": { "_openid": 1 } }),
        Just(rawdoc! { "$inc": { "n": 1 } }),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        any_filter().prop_map(Operation::Find),
        (0..6, 0..3).prop_map(|(id, n)| Operation::Insert(rawdoc! { "_id": id, "n": n })),
        any_owner().prop_map(|owner| Operation::Insert(rawdoc! { "_openid": owner })),
        (any_filter(), any_update(), any::<bool>(), any::<bool>())
            .prop_map(|(filter, update, multi, upsert)| Operation::Update(filter, update, multi, upsert)),
        (any_filter(), proptest::option::of(any_update()), any::<bool>())
            .prop_map(|(filter, update, upsert)| Operation::Modify(filter, update, upsert)),
        any_filter().prop_map(Operation::Delete),
    ]
}

/// Runs `operation` and returns the documents that the client got to see.
async fn perform(session: &Session, operation: Operation) -> Vec<RawDocumentBuf> {
    match operation {
        Operation::Find(filter) => session
            .find("c", query(filter), NEVER)
            .await
            .map(|page| page.documents)
            .unwrap_or_default(),
        Operation::Insert(document) => {
            let _ = session.insert("c", insert(document), NEVER).await;
            Vec::new()
        }
        Operation::Update(filter, change, multi, upsert) => {
            let mut update = update(filter, change, upsert);
            update.statements[0].multi = multi;
            let _ = session.update("c", update, NEVER).await;
            Vec::new()
        }
        Operation::Modify(filter, update, upsert) => {
            let modify = FindAndModify {
                filter,
                update,
                upsert,
                ..FindAndModify::default()
            };
            session
                .find_and_modify("c", modify, NEVER)
                .await
                .ok()
                .and_then(|m| m.document)
                .into_iter()
                .collect()
        }
        Operation::Delete(filter) => {
            let _ = session.delete("c", delete(filter), NEVER).await;
            Vec::new()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    /// No operation of a client returns or changes a document that a naive check of the preset refuses, makes one
    /// with another owner, or gives one away.
    #[test]
    fn sessions_agree_with_a_naive_check(
        rule in prop_oneof![
            Just(Rule::ReadOnly), Just(Rule::Private), Just(Rule::AdminWrite), Just(Rule::AdminOnly),
        ],
        who in 0..4_usize,
        owners in proptest::collection::vec(any_owner(), 0..5),
        operations in proptest::collection::vec(any_operation(), 1..6),
    ) {
        let principals: [Principal; 4] = [user("hotel", "me"), user("hotel", "you"), Principal::Public, user("other", "me")];
        let principal = principals[who].clone();
        let owner = [Some("me"), Some("you"), None, None][who];
        run(async {
            for documents in [MemoryDocuments::new() as Arc<dyn Documents>, shared_engine()] {
            let data = over(documents, Some(rule.clone()));
            data.documents.drop_collection(&Namespace::new("hotel", "c")).await.unwrap();
            for (id, owner) in owners.iter().cloned().enumerate() {
                let mut document = rawdoc! { "_id": id as i32, "n": 1 };
                match owner {
                    RawBson::Null => {}
                    owner if id == 3 => document.append(bson::raw::cstr!("_openid"), bson::rawbson!([owner, "x"])),
                    owner => document.append(bson::raw::cstr!("_openid"), owner),
                }
                data.session(admin()).insert("c", insert(document), NEVER).await.unwrap();
            }
            let session = data.session(principal.clone());
            for operation in operations.iter().cloned() {
                let before = all(&data).await;
                for seen in perform(&session, operation).await {
                    let seen = Document::try_from(&*seen).unwrap();
                    prop_assert!(may(&rule, owner, false, &seen), "saw {}", seen);
                }
                let after = all(&data).await;
                for document in &before {
                    if !may(&rule, owner, true, document) {
                        prop_assert!(after.contains(document), "changed {}", document);
                    }
                }
                for document in after.iter().filter(|document| !before.contains(document)) {
                    prop_assert!(may(&rule, owner, true, document), "made {}", document);
                }
            }
            }
            Ok(())
        })?;
    }
}

fn stages(pipeline: impl IntoIterator<Item = RawDocumentBuf>) -> crate::Aggregate {
    crate::Aggregate {
        pipeline: pipeline.into_iter().collect(),
        ..crate::Aggregate::default()
    }
}

#[test]
fn a_clients_pipeline_sees_its_own_documents_and_no_other_collection() {
    run(async {
        let data = over(embedded(), Some(Rule::Private));
        seed(&data).await;
        let me = data.session(user("hotel", "me"));
        let count = async |session: &Session, pipeline: Vec<RawDocumentBuf>| {
            let page = session.aggregate("c", stages(pipeline), NEVER).await.unwrap();
            ids(&page)
        };
        assert_eq!(count(&me, vec![]).await, [1]);
        assert_eq!(
            count(&me, vec![rawdoc! { "$match": { "_openid": "you" } }]).await,
            Vec::<i32>::new()
        );
        assert_eq!(
            count(&me, vec![rawdoc! { "$match": { "_openid": "{openid}" } }]).await,
            [1]
        );
        assert_eq!(count(&data.session(admin()), vec![]).await, [1, 2, 3]);
        // An expression that would fail on a foreign document is not evaluated there.
        let prying = rawdoc! { "$match": { "$expr": { "$cond": [{ "$eq": ["$_openid", "you"] }, { "$toInt": "$_openid" }, true] } } };
        assert_eq!(count(&me, vec![prying]).await, [1]);
        // So it is with what is near, of which the rule becomes a part.
        let spec = IndexSpec::parse(&rawdoc! { "key": { "at": "2dsphere" } }).unwrap();
        let ns = Namespace::new("hotel", "c");
        data.documents.create_indexes(&ns, vec![spec]).await.unwrap();
        let mut everywhere = update(rawdoc! {}, rawdoc! { "$set": { "at": [1, 2] } }, false);
        everywhere.statements[0].multi = true;
        data.session(admin())
            .update("c", everywhere, NEVER)
            .await
            .unwrap();
        let near = |query: RawDocumentBuf| rawdoc! { "$geoNear": { "near": [1, 2], "spherical": true, "distanceField": "d", "query": query } };
        assert_eq!(
            count(&data.session(admin()), vec![near(rawdoc! {})]).await,
            [1, 2, 3]
        );
        assert_eq!(count(&me, vec![near(rawdoc! {})]).await, [1]);
        assert_eq!(
            count(&me, vec![near(rawdoc! { "_openid": "you" })]).await,
            Vec::<i32>::new()
        );
        let prying = rawdoc! { "$expr": { "$cond": [{ "$eq": ["$_openid", "you"] }, { "$toInt": "$_openid" }, true] } };
        assert_eq!(count(&me, vec![near(prying)]).await, [1]);
        let bare = rawdoc! { "$geoNear": { "near": [1, 2], "spherical": true, "distanceField": "d" } };
        assert_eq!(count(&me, vec![bare]).await, [1]);
        for stage in [
            rawdoc! { "$lookup": { "from": "c", "localField": "x", "foreignField": "x", "as": "all" } },
            rawdoc! { "$unionWith": "c" },
            rawdoc! { "$graphLookup": {} },
            rawdoc! { "$out": "d" },
            rawdoc! { "$merge": "d" },
            rawdoc! { "$collStats": {} },
            rawdoc! { "$documents": [] },
            rawdoc! { "$facet": { "a": [{ "$limit": 1 }, { "$unionWith": "c" }] } },
            rawdoc! { "$facet": { "a": [{ "$facet": { "b": [{ "$lookup": {} }] } }] } },
        ] {
            let refused = denied(me.aggregate("c", stages([stage]), NEVER).await);
            assert!(refused.contains("not open to clients"), "{refused}");
        }
        denied(
            data.session(Principal::Public)
                .aggregate("c", stages([]), NEVER)
                .await,
        );
        denied(me.aggregate("other", stages([]), NEVER).await);
        for target in [
            rawdoc! { "$out": { "db": "elsewhere", "coll": "x" } },
            rawdoc! { "$merge": { "into": { "db": "hotel/system", "coll": "x" } } },
        ] {
            denied(
                data.session(admin())
                    .aggregate("c", stages([target]), NEVER)
                    .await,
            );
        }
        let kept = rawdoc! { "$out": { "db": "hotel", "coll": "x" } };
        data.session(admin())
            .aggregate("c", stages([kept]), NEVER)
            .await
            .unwrap();
        let pipeline = crate::pipeline_update(&[rawdoc! { "$set": { "_openid": "you" } }]);
        denied(
            me.update("c", update(rawdoc! { "_id": 1 }, pipeline, false), NEVER)
                .await,
        );
    });
}

#[test]
fn what_the_platform_keeps_in_an_apps_database_is_closed_to_clients_whatever_the_rule() {
    let name = "cloudlet.keyvalue.default";
    for mut data in both_kinds(None) {
        let rules = [name, "cloudletish"].map(|name| (name.to_owned(), Rule::ReadOnly));
        data.rules = Arc::new(rules.into_iter().collect());
        let client = data.session(user("hotel", "a"));
        let find = || query(RawDocumentBuf::new());
        denied(run(client.find(name, find(), NEVER)));
        denied(run(client.insert(name, insert(rawdoc! { "_id": "k" }), NEVER)));
        assert!(run(client.find("cloudletish", find(), NEVER)).is_ok());
        assert!(run(data.session(admin()).find(name, find(), NEVER)).is_ok());
    }
}
