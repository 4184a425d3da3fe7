//! What every implementation of [`Documents`] must do, as one suite: run it on each, so that they stay alike. It
//! asks for MongoDB's semantics and for nothing that only one engine promises. Panics at the first difference.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, RawBson, RawDocumentBuf, doc};
use cloudlet_base::Deadline;

use crate::{
    Aggregate, BeforeChange, Capped, ChangeCursor, Changes, Code, CollectionChange, CollectionOptions,
    Delete, DeleteOne, Documents, Error, Find, FindAndModify, FullDocument, IndexChange, IndexSpec, Insert,
    Inserted, NATURAL_BACKWARD, Namespace, Update, UpdateOne, Updated, ValidationLevel, View, Watch,
    WatchScope, WatchStart, Write, default_index_name, pipeline_update,
};

/// Runs the suite in databases whose names begin with `prefix`; they should not be there yet, and are left behind.
///
/// # Panics
/// When an answer is not the one expected.
pub async fn run(documents: &dyn Documents, prefix: &str) {
    let suite = |name: &str| Suite {
        documents,
        ns: Namespace::new(prefix, name),
    };
    suite("inserts").inserts().await;
    suite("queries").queries().await;
    suite("order").sorts_and_pages().await;
    suite("projections").projections().await;
    suite("updates").updates().await;
    suite("upserts").upserts().await;
    suite("deletes").deletes().await;
    suite("modify").find_and_modify().await;
    suite("unique").unique_indexes().await;
    suite("plans").indexes_answer_alike().await;
    suite("places").places().await;
    suite("aggregations").aggregations().await;
    suite("transactions").transactions().await;
    suite("options").options().await;
    suite("views").views().await;
    suite("capped").capped().await;
    suite("changes").changes().await;
    suite("resumes").resumes().await;
    suite("refusals").refusals().await;
    Suite {
        documents,
        ns: Namespace::new(format!("{prefix}2"), "catalog"),
    }
    .catalog()
    .await;
}

/// One collection under test.
struct Suite<'d> {
    documents: &'d dyn Documents,
    ns: Namespace,
}

impl Suite<'_> {
    async fn inserts(&self) {
        let done = self.insert([doc! { "a": 1 }, doc! { "a": 2, "_id": 7 }]).await;
        assert!(
            matches!(done.ids[0], (0, RawBson::ObjectId(_))),
            "an ObjectId is made"
        );
        assert_eq!(done.ids[1], (1, RawBson::Int32(7)));
        let found = self.find(doc! { "a": 2 }).await;
        assert_eq!(
            found[0].keys().next().map(String::as_str),
            Some("_id"),
            "_id is moved first"
        );
        let done = self
            .insert([doc! { "_id": 8 }, doc! { "_id": 7.0 }, doc! { "_id": 9 }])
            .await;
        assert_eq!(
            (done.ids.len(), done.errors.len()),
            (1, 1),
            "ordered stops at the first failure"
        );
        assert_eq!(
            (done.errors[0].index, done.errors[0].error.code()),
            (1, Code::DuplicateKey)
        );
        let documents = vec![raw(doc! { "_id": 7 }), raw(doc! { "_id": 9 })];
        let unordered = Insert {
            documents,
            ordered: false,
            ..Insert::default()
        };
        let done = self
            .documents
            .insert(&self.ns, unordered, Deadline::NEVER)
            .await
            .expect("insert");
        assert_eq!((done.ids.len(), done.errors.len()), (1, 1), "unordered goes on");
        for id in [Bson::Array(vec![]), Bson::Undefined] {
            let done = self.insert([doc! { "_id": id }]).await;
            assert_eq!(done.errors[0].error.code(), Code::InvalidIdField);
        }
        assert_eq!(self.count(doc! {}).await, 4);
    }

    async fn queries(&self) {
        self.seed().await;
        let check = async |filter: Document, expected: &[i32]| {
            assert_eq!(
                self.ids(doc! { "$and": [filter.clone()] }).await,
                expected,
                "{filter}"
            );
            assert_eq!(self.ids(filter.clone()).await, expected, "{filter}");
        };
        check(doc! { "n": 2 }, &[2]).await;
        check(doc! { "n": 2.0 }, &[2]).await;
        check(doc! { "n": { "$gt": 2 } }, &[3, 4]).await;
        check(doc! { "n": { "$gte": 2, "$lt": 4 } }, &[2, 3]).await;
        check(doc! { "n": { "$ne": 2 } }, &[1, 3, 4, 5]).await;
        check(doc! { "n": { "$in": [1, 4, "x"] } }, &[1, 4]).await;
        check(doc! { "n": { "$nin": [1, 4] } }, &[2, 3, 5]).await;
        check(doc! { "n": null }, &[5]).await;
        check(doc! { "n": { "$exists": false } }, &[5]).await;
        check(doc! { "tags": "b" }, &[1, 2]).await;
        check(doc! { "tags": ["b"] }, &[2]).await;
        check(doc! { "tags": { "$all": ["a", "b"] } }, &[1]).await;
        check(doc! { "tags": { "$size": 0 } }, &[3]).await;
        check(doc! { "d.x": 1 }, &[1]).await;
        check(doc! { "d": { "x": 1, "y": 1 } }, &[1]).await;
        check(doc! { "d": { "y": 1, "x": 1 } }, &[]).await;
        check(doc! { "lines.sku": "p" }, &[4]).await;
        check(doc! { "lines": { "$elemMatch": { "sku": "p", "n": 2 } } }, &[]).await;
        check(doc! { "lines.sku": "p", "lines.n": 2 }, &[4]).await;
        check(doc! { "lines.1.sku": "q" }, &[4]).await;
        check(doc! { "s": { "$regex": "^t", "$options": "i" } }, &[2, 3]).await;
        check(doc! { "$or": [{ "n": 1 }, { "s": "Two" }] }, &[1, 2]).await;
        check(doc! { "$nor": [{ "n": 1 }, { "s": "Two" }] }, &[3, 4, 5]).await;
        check(doc! { "n": { "$not": { "$gt": 1 } } }, &[1, 5]).await;
        assert_eq!(self.count(doc! { "n": { "$gt": 1 } }).await, 3);
        let values = self
            .documents
            .distinct(&self.ns, "tags", query(doc! {}), Deadline::NEVER)
            .await;
        assert_eq!(
            values.expect("distinct"),
            ["a", "b"].map(|tag| RawBson::String(tag.to_owned()))
        );
    }

    async fn sorts_and_pages(&self) {
        self.insert((0..25).map(|i| doc! { "_id": i, "m": i % 3, "n": 25 - i }))
            .await;
        for batch in [1, 4, 100] {
            let find = Find {
                batch: Some(batch),
                ..Find::default()
            };
            assert_eq!(self.pages(find.clone()).await, (0..25).collect::<Vec<_>>());
            let by_n = Find {
                sort: Some(raw(doc! { "n": 1 })),
                skip: 2,
                limit: Some(9),
                ..find.clone()
            };
            assert_eq!(self.pages(by_n).await, (14..23).rev().collect::<Vec<_>>());
            let by_two = Find {
                sort: Some(raw(doc! { "m": -1, "n": 1 })),
                limit: Some(3),
                ..find
            };
            assert_eq!(self.pages(by_two).await, [23, 20, 17]);
        }
    }

    async fn projections(&self) {
        self.seed().await;
        let project = async |projection: Document| {
            let find = Find {
                filter: raw(doc! { "_id": 1 }),
                projection: Some(raw(projection)),
                ..Find::default()
            };
            self.all(find).await.remove(0)
        };
        assert_eq!(project(doc! { "n": 1 }).await, doc! { "_id": 1, "n": 1 });
        assert_eq!(
            project(doc! { "d.x": 1, "_id": 0 }).await,
            doc! { "d": { "x": 1 } }
        );
        assert_eq!(
            project(doc! { "d": 0, "tags": 0, "s": 0 }).await,
            doc! { "_id": 1, "n": 1 }
        );
    }

    async fn updates(&self) {
        self.seed().await;
        let done = self
            .update(doc! { "n": { "$gt": 1 } }, doc! { "$inc": { "n": 10 } }, true)
            .await;
        assert_eq!((done.matched, done.modified), (3, 3));
        let done = self
            .update(doc! { "_id": 2 }, doc! { "$set": { "n": 12 } }, false)
            .await;
        assert_eq!(
            (done.matched, done.modified),
            (1, 0),
            "the same value changes nothing"
        );
        let change = doc! { "$set": { "d.z": 9 }, "$unset": { "d.x": "" }, "$push": { "tags": "c" }, "$mul": { "n": 3 } };
        self.update(doc! { "_id": 1 }, change, false).await;
        let expected =
            doc! { "_id": 1, "n": 3, "s": "one", "tags": ["a", "b", "c"], "d": { "y": 1, "z": 9 } };
        assert_eq!(self.find(doc! { "_id": 1 }).await, [expected]);
        self.update(
            doc! { "_id": 1 },
            doc! { "$pull": { "tags": "a" }, "$addToSet": { "tags2": "x" } },
            false,
        )
        .await;
        assert_eq!(
            self.ids(doc! { "tags2": "x", "tags": { "$ne": "a" }, "_id": 1 })
                .await,
            [1]
        );
        self.update(doc! { "_id": 1 }, doc! { "whole": true }, false)
            .await;
        assert_eq!(
            self.find(doc! { "_id": 1 }).await,
            [doc! { "_id": 1, "whole": true }]
        );
        let code = async |change: Document| {
            self.update(doc! { "_id": 2 }, change, false).await.errors[0]
                .error
                .code()
        };
        assert_eq!(code(doc! { "$set": { "_id": 3 } }).await, Code::ImmutableField);
        assert_eq!(
            code(doc! { "$set": { "a": 1 }, "$inc": { "a": 1 } }).await,
            Code::ConflictingUpdateOperators
        );
        assert_eq!(code(doc! { "$set": { "n.x": 1 } }).await, Code::PathNotViable);
        assert_eq!(code(doc! { "$inc": { "s": 1 } }).await, Code::TypeMismatch);
        assert_eq!(code(doc! { "$nope": { "s": 1 } }).await, Code::FailedToParse);
        assert_eq!(
            self.update(doc! { "_id": 404 }, doc! { "$nope": {} }, false)
                .await
                .errors
                .len(),
            1,
            "a bad update fails even when nothing matches"
        );
    }

    async fn upserts(&self) {
        let upsert = async |filter: Document, update: Document| {
            let statement = UpdateOne {
                upsert: true,
                ..statement(filter, update, false)
            };
            self.run_update(statement).await
        };
        let done = upsert(
            doc! { "_id": 1, "a": 5 },
            doc! { "$set": { "b": 6 }, "$setOnInsert": { "c": 7 } },
        )
        .await;
        assert_eq!(
            (done.matched, done.modified, done.upserted),
            (0, 0, vec![(0, RawBson::Int32(1))])
        );
        assert_eq!(
            self.find(doc! {}).await,
            [doc! { "_id": 1, "a": 5, "b": 6, "c": 7 }]
        );
        let done = upsert(doc! { "_id": 1 }, doc! { "$set": { "b": 7 } }).await;
        assert_eq!((done.matched, done.modified, done.upserted.len()), (1, 1, 0));
        let done = upsert(doc! { "a": { "$gt": 9 } }, doc! { "x": 1 }).await;
        assert!(matches!(done.upserted[0].1, RawBson::ObjectId(_)));
    }

    async fn deletes(&self) {
        self.seed().await;
        assert_eq!(self.delete(doc! { "n": { "$gt": 1 } }, false).await, 1);
        assert_eq!(self.delete(doc! { "n": { "$gt": 1 } }, true).await, 2);
        assert_eq!(self.delete(doc! { "n": { "$gt": 1 } }, true).await, 0);
        assert_eq!(self.ids(doc! {}).await, [1, 5]);
    }

    async fn find_and_modify(&self) {
        self.seed().await;
        let run = async |modify| {
            self.documents
                .find_and_modify(&self.ns, modify, Deadline::NEVER)
                .await
                .expect("modify")
        };
        let last = || FindAndModify {
            filter: raw(doc! { "n": { "$exists": true } }),
            sort: Some(raw(doc! { "n": -1 })),
            update: Some(raw(doc! { "$inc": { "n": 100 } })),
            projection: Some(raw(doc! { "n": 1 })),
            ..FindAndModify::default()
        };
        assert_eq!(run(last()).await.document, Some(raw(doc! { "_id": 4, "n": 4 })));
        let new = FindAndModify {
            return_new: true,
            ..last()
        };
        assert_eq!(run(new).await.document, Some(raw(doc! { "_id": 4, "n": 204 })));
        let remove = FindAndModify {
            update: None,
            ..last()
        };
        assert_eq!(run(remove).await.document, Some(raw(doc! { "_id": 4, "n": 204 })));
        let none = FindAndModify {
            filter: raw(doc! { "_id": 404 }),
            ..last()
        };
        let done = run(none.clone()).await;
        assert!(done.document.is_none() && !done.matched);
        let done = run(FindAndModify {
            upsert: true,
            return_new: true,
            ..none
        })
        .await;
        assert_eq!(
            (done.upserted, done.document),
            (
                Some(RawBson::Int32(404)),
                Some(raw(doc! { "_id": 404, "n": 100 }))
            )
        );
    }

    async fn unique_indexes(&self) {
        let spec = IndexSpec {
            unique: true,
            ..index(&[("u", 1)])
        };
        assert_eq!(self.index(spec.clone()).await, Ok(1));
        assert_eq!(
            self.index(spec.clone()).await,
            Ok(0),
            "the same index twice is one"
        );
        let done = self
            .insert([doc! { "_id": 1, "u": 2 }, doc! { "_id": 2, "u": 2.0 }])
            .await;
        let error = &done.errors[0].error;
        assert_eq!(error.code(), Code::DuplicateKey);
        assert!(
            error
                .to_string()
                .starts_with("E11000 duplicate key error collection: "),
            "{error}"
        );
        assert!(
            error.to_string().contains(" index: u_1 dup key: { u: 2"),
            "{error}"
        );
        self.insert([doc! { "_id": 3, "u": 3 }]).await;
        let done = self
            .update(doc! { "_id": 3 }, doc! { "$set": { "u": 2 } }, false)
            .await;
        assert_eq!(done.errors[0].error.code(), Code::DuplicateKey);
        assert_eq!(
            self.ids(doc! { "u": 3 }).await,
            [3],
            "a refused update changes nothing"
        );
        self.delete(doc! { "_id": 1 }, false).await;
        self.update(doc! { "_id": 3 }, doc! { "$set": { "u": 2 } }, false)
            .await;
        assert_eq!(
            self.ids(doc! { "u": 2 }).await,
            [3],
            "a removed document's key is free"
        );
        self.insert([doc! { "_id": 4, "v": 1 }, doc! { "_id": 5, "u": 9, "v": 1 }])
            .await;
        assert_eq!(
            self.index(IndexSpec {
                unique: true,
                ..index(&[("v", 1)])
            })
            .await,
            Err(Code::DuplicateKey)
        );
        assert_eq!(
            self.documents.list_indexes(&self.ns).await.expect("list").len(),
            2,
            "a failed index is not there"
        );
    }

    async fn indexes_answer_alike(&self) {
        self.seed().await;
        let filters = || {
            [
                doc! { "n": { "$gte": 2 } },
                doc! { "n": null },
                doc! { "tags": "b" },
                doc! { "tags": { "$gte": "a", "$lt": "b" } },
                doc! { "lines.sku": "p", "lines.n": 2 },
                doc! { "s": { "$regex": "^T" } },
                doc! { "n": { "$in": [4, 1] }, "s": { "$gt": "a" } },
            ]
        };
        let mut before = Vec::new();
        for filter in filters() {
            before.push(self.ids(filter).await);
        }
        for keys in [
            &[("n", 1), ("s", -1)][..],
            &[("tags", 1)],
            &[("lines.sku", 1), ("lines.n", 1)],
            &[("s", -1)],
        ] {
            assert_eq!(self.index(index(keys)).await, Ok(1));
        }
        for (filter, before) in filters().into_iter().zip(before) {
            assert_eq!(self.ids(filter.clone()).await, before, "{filter}");
        }
        let find = Find {
            filter: raw(doc! { "n": 3 }),
            ..Find::default()
        };
        let explained = self
            .documents
            .explain(&self.ns, find, Deadline::NEVER)
            .await
            .expect("explain");
        assert!(
            Document::try_from(explained.as_ref())
                .expect("bson")
                .to_string()
                .contains("IXSCAN")
        );
    }

    async fn places(&self) {
        let point = |x: f64, y: f64| doc! { "type": "Point", "coordinates": [x, y] };
        let near = |x: f64, y: f64| doc! { "$geometry": point(x, y) };
        let ring = vec![
            vec![0.0, 0.0],
            vec![4.0, 0.0],
            vec![4.0, 4.0],
            vec![0.0, 4.0],
            vec![0.0, 0.0],
        ];
        let square = doc! { "$geometry": { "type": "Polygon", "coordinates": [ring] } };
        let filters = || {
            [
                (doc! { "at": { "$geoWithin": square.clone() } }, vec![1, 2]),
                (doc! { "at": { "$geoIntersects": square.clone() } }, vec![1, 2, 4]),
                (
                    doc! { "at": { "$geoWithin": { "$centerSphere": [[1, 1], 0.01] } } },
                    vec![1],
                ),
            ]
        };
        self.insert([
            doc! { "_id": 1, "at": point(1.0, 1.0) },
            doc! { "_id": 2, "at": [3, 3] },
            doc! { "_id": 3, "at": point(179.5, 10.0) },
            doc! { "_id": 4, "at": { "type": "LineString", "coordinates": [[2, 2], [9, 9]] } },
            doc! { "_id": 5 },
        ])
        .await;
        for (filter, wanted) in filters() {
            assert_eq!(self.ids(filter.clone()).await, wanted, "{filter}");
        }
        let nearest = doc! { "at": { "$near": near(1.2, 1.2) } };
        let find = |filter: Document| Find {
            filter: raw(filter),
            batch: Some(1),
            ..Find::default()
        };
        let refused = self
            .documents
            .find(&self.ns, find(nearest.clone()), Deadline::NEVER)
            .await
            .map(drop)
            .map_err(|error| error.code());
        assert_eq!(refused, Err(Code::NoQueryExecutionPlans));
        let spec = IndexSpec::parse(&raw(doc! { "key": { "at": "2dsphere" } })).expect("an index");
        assert_eq!(self.index(spec.clone()).await, Ok(1));
        let kept = self.documents.list_indexes(&self.ns).await.expect("list");
        assert_eq!(kept.last(), Some(&spec));
        for (filter, wanted) in filters() {
            let mut found = self.ids(filter.clone()).await;
            found.sort_unstable();
            assert_eq!(found, wanted, "{filter}");
        }
        assert_eq!(self.pages(find(nearest)).await, [1, 4, 2, 3]);
        let across =
            doc! { "at": { "$nearSphere": { "$geometry": point(-179.5, 10.0), "$maxDistance": 120_000 } } };
        assert_eq!(self.pages(find(across)).await, [3]);
        let stage =
            doc! { "$geoNear": { "near": point(3.0, 3.0), "distanceField": "away", "maxDistance": 2000 } };
        let found = self.aggregate(vec![stage]).await.expect("aggregate");
        let away: Vec<f64> = found.iter().filter_map(|one| one.get_f64("away").ok()).collect();
        // The shortest line from (2, 2) to (9, 9) leads by (3, 3) at some hundred metres.
        assert_eq!(away.len(), 2, "the point and the line: {away:?}");
        assert!(away[0] < 1.0 && (10.0..2000.0).contains(&away[1]), "{away:?}");
        let done = self.insert([doc! { "_id": 6, "at": 5 }]).await;
        assert_eq!(done.errors[0].error.code().number(), 16_755);
    }

    async fn aggregations(&self) {
        self.seed().await;
        let check = async |pipeline: Vec<Document>, expected: Vec<Document>| {
            assert_eq!(
                self.aggregate(pipeline.clone()).await,
                Ok(expected),
                "{pipeline:?}"
            );
        };
        check(
            vec![
                doc! { "$match": { "n": { "$gte": 2 } } },
                doc! { "$sort": { "n": -1 } },
                doc! { "$project": { "double": { "$multiply": ["$n", 2] } } },
            ],
            vec![
                doc! { "_id": 4, "double": 8 },
                doc! { "_id": 3, "double": 6 },
                doc! { "_id": 2, "double": 4 },
            ],
        )
        .await;
        check(
            vec![
                doc! { "$unwind": "$tags" },
                doc! { "$group": { "_id": "$tags", "n": { "$sum": 1 }, "last": { "$max": "$_id" } } },
                doc! { "$sort": { "_id": 1 } },
            ],
            vec![
                doc! { "_id": "a", "n": 1, "last": 1 },
                doc! { "_id": "b", "n": 2, "last": 2 },
            ],
        )
        .await;
        check(
            vec![
                doc! { "$match": { "$expr": { "$lt": [{ "$add": ["$n", "$_id"] }, 5] }, "n": { "$exists": true } } },
                doc! { "$lookup": { "from": &*self.ns.collection, "localField": "n", "foreignField": "_id", "as": "same" } },
                doc! { "$sort": { "_id": 1 } },
                doc! { "$project": { "same": "$same._id" } },
            ],
            vec![doc! { "_id": 1, "same": [1] }, doc! { "_id": 2, "same": [2] }],
        )
        .await;
        check(vec![doc! { "$count": "all" }], vec![doc! { "all": 5 }]).await;
        let refused = |pipeline| async { self.aggregate(pipeline).await.expect_err("refused") };
        assert_eq!(refused(vec![doc! { "$nope": 1 }]).await, Code::Location(40_324));
        assert_eq!(
            refused(vec![doc! { "$set": { "a": { "$nope": 1 } } }]).await,
            Code::InvalidPipelineOperator
        );
        let find = Find {
            projection: Some(raw(doc! { "m": { "$add": ["$n", 1] } })),
            filter: raw(doc! { "_id": 1 }),
            ..Find::default()
        };
        assert_eq!(self.all(find).await, [doc! { "_id": 1, "m": 2 }]);
        let mut update = statement(doc! { "_id": 1 }, doc! {}, false);
        update.update = pipeline_update(&[raw(doc! { "$set": { "m": { "$add": ["$n", 10] } } })]);
        let update = Update {
            statements: vec![update],
            ordered: true,
            ..Update::default()
        };
        let done = self.documents.update(&self.ns, update, Deadline::NEVER).await;
        assert_eq!(done.expect("update").modified, 1);
        assert_eq!(self.ids(doc! { "m": 11 }).await, [1]);
    }

    async fn transactions(&self) {
        self.seed().await;
        let writes = |id: i32| {
            vec![
                Write::Update(
                    self.ns.clone(),
                    Update {
                        statements: vec![statement(doc! { "_id": 1 }, doc! { "$set": { "t": id } }, false)],
                        ordered: true,
                        ..Update::default()
                    },
                ),
                Write::Delete(
                    self.ns.clone(),
                    Delete {
                        statements: vec![DeleteOne {
                            filter: raw(doc! { "_id": 2 }),
                            multi: false,
                            ..DeleteOne::default()
                        }],
                        ordered: true,
                    },
                ),
                Write::Insert(
                    self.ns.clone(),
                    Insert {
                        documents: vec![raw(doc! { "_id": id })],
                        ordered: true,
                        ..Insert::default()
                    },
                ),
            ]
        };
        let error = self
            .documents
            .transact(writes(5), Deadline::NEVER)
            .await
            .expect_err("5 is there");
        assert_eq!(error.code(), Code::DuplicateKey);
        assert_eq!(self.ids(doc! {}).await, [1, 2, 3, 4, 5]);
        assert_eq!(self.count(doc! { "t": { "$exists": true } }).await, 0);
        assert_eq!(
            self.documents
                .transact(writes(6), Deadline::NEVER)
                .await
                .expect("transact")
                .len(),
            3
        );
        assert_eq!(self.ids(doc! {}).await, [1, 3, 4, 5, 6]);
    }

    async fn refusals(&self) {
        for filter in [
            doc! { "$nope": 1 },
            doc! { "a": { "$nope": 1 } },
            doc! { "$or": [] },
            doc! { "a": { "$in": 1 } },
        ] {
            let find = Find {
                filter: raw(filter.clone()),
                ..Find::default()
            };
            let error = self
                .documents
                .find(&self.ns, find, Deadline::NEVER)
                .await
                .expect_err("refused");
            assert_eq!(error.code(), Code::BadValue, "{filter}");
        }
        let done = self
            .insert([doc! { "_id": 1, "text": "x".repeat(17 << 20) }])
            .await;
        assert_eq!(done.errors[0].error.code(), Code::BSONObjectTooLarge);
        assert_eq!(self.count(doc! {}).await, 0);
    }

    async fn options(&self) {
        let validator = raw(doc! { "n": { "$gt": 0 } });
        let options = CollectionOptions {
            validator: Some(validator.clone()),
            ..CollectionOptions::default()
        };
        self.documents
            .create_collection_with(&self.ns, options.clone())
            .await
            .expect("create");
        let error = self
            .documents
            .create_collection_with(&self.ns, options.clone())
            .await
            .expect_err("it exists");
        assert_eq!(error.code(), Code::NamespaceExists);
        let there = self
            .documents
            .collection_options(&self.ns)
            .await
            .expect("options");
        assert_eq!(there, options);
        let done = self.insert([doc! { "_id": 1, "n": 0 }]).await;
        let refused = &done.errors[0].error;
        assert_eq!(refused.code(), Code::DocumentValidationFailure);
        let info = refused.info().expect("it says why");
        assert_eq!(info.get_i32("failingDocumentId").expect("the _id"), 1);
        let passing = Insert {
            documents: vec![raw(doc! { "_id": 1, "n": 0 })],
            bypass_validation: true,
            ..Insert::default()
        };
        let done = self
            .documents
            .insert(&self.ns, passing, Deadline::NEVER)
            .await
            .expect("insert");
        assert_eq!(done.ids.len(), 1, "the validator was passed over");
        let change = CollectionChange {
            validation_level: Some(ValidationLevel::Off),
            images: Some(true),
            ..CollectionChange::default()
        };
        self.documents
            .modify_collection(&self.ns, change.clone())
            .await
            .expect("modify");
        self.insert([doc! { "_id": 2, "n": 0 }]).await;
        assert_eq!(self.ids(doc! {}).await, [1, 2]);
        let listed = self
            .documents
            .describe_collections(&self.ns.database)
            .await
            .expect("describe");
        let own = listed.iter().find(|one| one.name == self.ns.collection);
        let expected = CollectionOptions {
            validator: Some(validator),
            validation_level: ValidationLevel::Off,
            images: true,
            ..CollectionOptions::default()
        };
        assert_eq!(own.expect("it is listed").options, expected);
        self.index(index(&[("at", 1)])).await.expect("index");
        let (before, after) = self
            .documents
            .modify_index(
                &self.ns,
                "at_1",
                IndexChange {
                    expire_after_seconds: Some(60),
                    hidden: Some(true),
                },
            )
            .await
            .expect("modify");
        assert_eq!((before.expire_after_seconds, before.hidden), (None, false));
        assert_eq!((after.expire_after_seconds, after.hidden), (Some(60), true));
        let nowhere = Namespace::new(self.ns.database.clone(), "nowhere");
        let error = self
            .documents
            .modify_collection(&nowhere, change)
            .await
            .expect_err("not there");
        assert_eq!(error.code(), Code::NamespaceNotFound);
        let error = self
            .documents
            .modify_index(&self.ns, "nope", IndexChange::default())
            .await
            .expect_err("not there");
        assert_eq!(error.code(), Code::IndexNotFound);
    }

    async fn views(&self) {
        self.seed().await;
        let of = |stage: Document| View {
            on: self.ns.collection.clone(),
            pipeline: vec![raw(stage)],
            ..View::default()
        };
        let view = Suite {
            documents: self.documents,
            ns: Namespace::new(self.ns.database.clone(), "a view"),
        };
        let first = of(doc! { "$match": { "n": { "$gte": 3 } } });
        self.documents
            .create_view(&view.ns, first.clone())
            .await
            .expect("create");
        assert_eq!(view.ids(doc! {}).await, [3, 4]);
        assert_eq!(view.count(doc! { "n": 3 }).await, 1);
        let again = self.documents.create_view(&view.ns, first.clone()).await;
        assert_eq!(again.expect_err("it exists").code(), Code::NamespaceExists);
        let write = Insert {
            documents: vec![raw(doc! {})],
            ..Insert::default()
        };
        let refused = self.documents.insert(&view.ns, write, Deadline::NEVER).await;
        assert_eq!(
            refused.expect_err("a view").code(),
            Code::CommandNotSupportedOnView
        );
        let second = of(doc! { "$match": { "n": 1 } });
        self.documents
            .modify_view(&view.ns, second.clone())
            .await
            .expect("modify");
        assert_eq!(view.ids(doc! {}).await, [1]);
        let listed = self
            .documents
            .describe_collections(&self.ns.database)
            .await
            .expect("describe");
        let own = listed.iter().find(|one| one.name == view.ns.collection);
        assert_eq!(own.expect("it is listed").view, Some(second));
        assert!(self.documents.drop_collection(&view.ns).await.expect("drop"));
        assert_eq!(view.count(doc! {}).await, 0);
    }

    async fn capped(&self) {
        let capped = Capped {
            size: 10_000,
            max: Some(3),
        };
        let options = CollectionOptions {
            capped: Some(capped),
            ..CollectionOptions::default()
        };
        self.documents
            .create_collection_with(&self.ns, options)
            .await
            .expect("create");
        self.insert([5, 1, 4, 2].map(|n| doc! { "_id": n })).await;
        assert_eq!(self.pages(Find::default()).await, [1, 4, 2], "as they came");
        let backward = Find {
            hint: Some(NATURAL_BACKWARD.into()),
            ..Find::default()
        };
        assert_eq!(self.pages(backward).await, [2, 4, 1]);
        let tailable = Find {
            tailable: true,
            ..Find::default()
        };
        let page = self
            .documents
            .find(&self.ns, tailable, Deadline::NEVER)
            .await
            .expect("find");
        assert_eq!(page.documents.len(), 3);
        let cursor = page.cursor.expect("it stays at the end");
        let tail = |cursor, wait| self.documents.tail(cursor, None, wait, Deadline::NEVER);
        let page = tail(cursor, Duration::ZERO).await.expect("nothing yet");
        assert!(page.documents.is_empty());
        let cursor = page.cursor.expect("it stays at the end");
        self.insert([doc! { "_id": 9 }]).await;
        let page = tail(cursor, Duration::from_secs(60))
            .await
            .expect("what came meanwhile");
        assert_eq!(page.documents, [raw(doc! { "_id": 9 })]);
    }

    async fn changes(&self) {
        self.documents.create_collection(&self.ns).await.expect("create");
        self.documents.keep_images(&self.ns, true).await.expect("images");
        let watch = Watch {
            full_document: FullDocument::UpdateLookup,
            before_change: BeforeChange::WhenAvailable,
            ..Watch::default()
        };
        let stream = self.watch(watch).await.expect("watch");
        self.insert([doc! { "_id": 1, "a": { "b": 1, "c": [1, 2, 3] }, "d": 1 }])
            .await;
        let set = doc! { "$set": { "a.b": 2 }, "$unset": { "d": "" }, "$push": { "a.c": 4 } };
        self.update(doc! { "_id": 1 }, set, false).await;
        self.update(doc! { "_id": 1 }, doc! { "new": true }, false).await;
        self.delete(doc! { "_id": 1 }, false).await;
        self.documents.drop_collection(&self.ns).await.expect("drop");
        let (events, cursor) = self.events(stream).await;
        assert!(cursor.is_none(), "the stream ends with the collection");
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event.get_str("operationType").expect("a type"))
            .collect();
        assert_eq!(
            kinds,
            ["insert", "update", "replace", "delete", "drop", "invalidate"]
        );
        let first = doc! { "_id": 1, "a": { "b": 1, "c": [1, 2, 3] }, "d": 1 };
        let ns = doc! { "db": &*self.ns.database, "coll": &*self.ns.collection };
        assert_eq!(
            events[0].get_document("fullDocument").expect("a document"),
            &first
        );
        assert_eq!(
            events[0].get_document("documentKey").expect("a document"),
            &doc! { "_id": 1 }
        );
        let described = doc! {
            "updatedFields": { "a.b": 2, "a.c.3": 4 }, "removedFields": ["d"], "truncatedArrays": []
        };
        let told = events[1].get_document("updateDescription").expect("described");
        for part in ["removedFields", "truncatedArrays"] {
            assert_eq!(told.get(part), described.get(part));
        }
        assert_eq!(told.get_document("updatedFields").expect("fields").len(), 2);
        assert_eq!(
            events[1]
                .get_document("fullDocumentBeforeChange")
                .expect("a document"),
            &first
        );
        assert_eq!(
            events[1].get("fullDocument"),
            Some(&Bson::Null),
            "it is gone by the time of the look"
        );
        assert_eq!(
            events[2].get_document("fullDocument").expect("a document"),
            &doc! { "_id": 1, "new": true }
        );
        assert_eq!(
            events[3]
                .get_document("fullDocumentBeforeChange")
                .expect("a document"),
            &doc! { "_id": 1, "new": true }
        );
        assert!(!events[3].contains_key("fullDocument"));
        assert!(
            events[..5]
                .iter()
                .all(|event| event.get_document("ns").expect("a document") == &ns)
        );
        let tokens: Vec<&str> = events
            .iter()
            .map(|event| {
                event
                    .get_document("_id")
                    .expect("a token")
                    .get_str("_data")
                    .expect("text")
            })
            .collect();
        assert!(tokens.is_sorted() && tokens[0] != tokens[1]);
        let times: Vec<bson::Timestamp> = events
            .iter()
            .map(|event| event.get_timestamp("clusterTime").expect("a time"))
            .collect();
        assert!(times.is_sorted());
        assert!(self.documents.operation_time().await.expect("time") >= Some(times[4]));
    }

    async fn resumes(&self) {
        let since = self
            .documents
            .operation_time()
            .await
            .expect("time")
            .expect("a log");
        self.insert((1..=5).map(|id| doc! { "_id": id, "even": id % 2 == 0 }))
            .await;
        let at = |start| Watch {
            start,
            ..Watch::default()
        };
        let later = bson::Timestamp {
            time: since.time,
            increment: since.increment + 1,
        };
        let stream = self
            .watch(at(WatchStart::AtOperationTime(later)))
            .await
            .expect("watch");
        let (all, _) = self.events(stream).await;
        let ids = |events: &[Document]| -> Vec<i32> {
            let key = |event: &Document| event.get_document("documentKey").expect("a key").get_i32("_id");
            events.iter().map(|event| key(event).expect("an id")).collect()
        };
        assert_eq!(ids(&all), [1, 2, 3, 4, 5]);
        for (at_event, event) in all.iter().enumerate() {
            let token = raw(event.get_document("_id").expect("a token").clone());
            for start in [
                WatchStart::ResumeAfter(token.clone()),
                WatchStart::StartAfter(token),
            ] {
                let stream = self.watch(at(start)).await.expect("resume");
                assert_eq!(ids(&self.events(stream).await.0), ids(&all[at_event + 1..]));
            }
        }
        // A pipeline sees whole events, and where it lets none through the stream still gets on.
        let watch = Watch {
            pipeline: vec![
                raw(doc! { "$match": { "fullDocument.even": true } }),
                raw(doc! { "$unset": "ns" }),
            ],
            start: WatchStart::AtOperationTime(later),
            ..Watch::default()
        };
        let stream = self.watch(watch.clone()).await.expect("watch");
        let (even, cursor) = self.events(stream).await;
        assert_eq!(ids(&even), [2, 4]);
        assert!(!even[0].contains_key("ns"));
        let token = cursor.expect("open").token();
        let stream = self
            .watch(at(WatchStart::ResumeAfter(token)))
            .await
            .expect("resume");
        assert!(self.events(stream.clone()).await.0.is_empty());
        // Waiting ends with an event, and otherwise with the time.
        let none = self.next(stream.clone(), Duration::from_millis(20)).await;
        assert!(none.events.is_empty() && none.cursor.is_some());
        self.insert([doc! { "_id": 6 }]).await;
        let one = self.next(stream, Duration::from_secs(60)).await;
        assert_eq!(one.events.len(), 1);
        let refused = Watch {
            pipeline: vec![raw(doc! { "$group": { "_id": "$ns" } })],
            ..Watch::default()
        };
        let error = self.watch(refused).await.expect_err("refused");
        assert_eq!(error.code(), Code::IllegalOperation);
        let error = self.watch(at(WatchStart::ResumeAfter(raw(doc! { "_data": "00" }))));
        assert_eq!(
            error.await.expect_err("no token").code(),
            Code::InvalidResumeToken
        );
    }

    async fn watch(&self, watch: Watch) -> Result<ChangeCursor, Error> {
        self.documents
            .watch(WatchScope::Collection(self.ns.clone()), watch)
            .await
    }

    async fn next(&self, cursor: ChangeCursor, wait: Duration) -> Changes {
        self.documents
            .next_changes(cursor, None, wait, Deadline::NEVER)
            .await
            .expect("changes")
    }

    /// All events that are there, two at a time.
    async fn events(&self, mut cursor: ChangeCursor) -> (Vec<Document>, Option<ChangeCursor>) {
        let mut events = Vec::new();
        loop {
            let changes = self
                .documents
                .next_changes(cursor, Some(2), Duration::ZERO, Deadline::NEVER)
                .await
                .expect("changes");
            let decode = |event: &RawDocumentBuf| Document::try_from(event.as_ref()).expect("an event");
            events.extend(changes.events.iter().map(decode));
            match changes.cursor {
                Some(next) if !changes.events.is_empty() => cursor = next,
                cursor => return (events, cursor),
            }
        }
    }

    async fn catalog(&self) {
        let names = async || {
            self.documents
                .list_collections(&self.ns.database)
                .await
                .expect("list")
        };
        assert_eq!(names().await, Vec::<Arc<str>>::new());
        self.documents.create_collection(&self.ns).await.expect("create");
        let error = self
            .documents
            .create_collection(&self.ns)
            .await
            .expect_err("it exists");
        assert_eq!(error.code(), Code::NamespaceExists);
        assert_eq!(names().await, std::slice::from_ref(&self.ns.collection));
        self.index(index(&[("a", 1), ("b", -1)])).await.expect("index");
        let indexes = self.documents.list_indexes(&self.ns).await.expect("list");
        let shown: Vec<&str> = indexes.iter().map(|index| &*index.name).collect();
        assert_eq!(shown, ["_id_", "a_1_b_-1"]);
        let error = self
            .documents
            .drop_index(&self.ns, "nope")
            .await
            .expect_err("not there");
        assert_eq!(error.code(), Code::IndexNotFound);
        self.documents
            .drop_index(&self.ns, "a_1_b_-1")
            .await
            .expect("drop");
        self.insert([doc! { "_id": 1 }]).await;
        assert!(self.documents.drop_collection(&self.ns).await.expect("drop"));
        assert!(
            !self
                .documents
                .drop_collection(&self.ns)
                .await
                .expect("drop again")
        );
        assert_eq!(
            self.count(doc! {}).await,
            0,
            "a missing collection is an empty one"
        );
        let error = self
            .documents
            .drop_index(&self.ns, "a_1")
            .await
            .expect_err("no collection");
        assert_eq!(error.code(), Code::NamespaceNotFound);
        self.renames().await;
    }

    /// Renaming, and databases as a whole; the database is empty before and after.
    async fn renames(&self) {
        let documents = self.documents;
        let to = Namespace::new(self.ns.database.clone(), "renamed");
        let error = documents.rename_collection(&self.ns, &to, false).await;
        assert_eq!(error.expect_err("no source").code(), Code::NamespaceNotFound);
        self.insert([doc! { "_id": 1, "a": 5 }]).await;
        self.index(index(&[("a", 1)])).await.expect("index");
        documents
            .rename_collection(&self.ns, &to, false)
            .await
            .expect("rename");
        let moved = Suite {
            documents,
            ns: to.clone(),
        };
        assert_eq!(self.count(doc! {}).await, 0);
        assert_eq!(moved.count(doc! { "a": 5 }).await, 1, "the index came along");
        assert_eq!(documents.list_indexes(&to).await.expect("list").len(), 2);
        self.insert([doc! { "_id": 2 }, doc! { "_id": 3 }]).await;
        let error = documents.rename_collection(&self.ns, &to, false).await;
        assert_eq!(error.expect_err("target is there").code(), Code::NamespaceExists);
        documents
            .rename_collection(&self.ns, &to, true)
            .await
            .expect("rename over it");
        assert_eq!(moved.count(doc! {}).await, 2);
        assert!(
            documents
                .list_databases()
                .await
                .expect("list")
                .contains(&to.database)
        );
        documents.drop_database(&to.database).await.expect("drop");
        documents
            .drop_database(&to.database)
            .await
            .expect("nothing to drop is no error");
        assert!(
            !documents
                .list_databases()
                .await
                .expect("list")
                .contains(&to.database)
        );
    }

    /// Five documents with most kinds of fields.
    async fn seed(&self) {
        let done = self
            .insert([
                doc! { "_id": 1, "n": 1, "s": "one", "tags": ["a", "b"], "d": { "x": 1, "y": 1 } },
                doc! { "_id": 2, "n": 2, "s": "Two", "tags": ["b"] },
                doc! { "_id": 3, "n": 3, "s": "three", "tags": [] },
                doc! { "_id": 4, "n": 4, "lines": [{ "sku": "p", "n": 1 }, { "sku": "q", "n": 2 }] },
                doc! { "_id": 5 },
            ])
            .await;
        assert_eq!(done.ids.len(), 5);
    }

    async fn insert(&self, documents: impl IntoIterator<Item = Document>) -> Inserted {
        let insert = Insert {
            documents: documents.into_iter().map(raw).collect(),
            ordered: true,
            ..Insert::default()
        };
        self.documents
            .insert(&self.ns, insert, Deadline::NEVER)
            .await
            .expect("insert")
    }

    async fn update(&self, filter: Document, update: Document, multi: bool) -> Updated {
        self.run_update(statement(filter, update, multi)).await
    }

    async fn run_update(&self, statement: UpdateOne) -> Updated {
        let update = Update {
            statements: vec![statement],
            ordered: true,
            ..Update::default()
        };
        self.documents
            .update(&self.ns, update, Deadline::NEVER)
            .await
            .expect("update")
    }

    async fn delete(&self, filter: Document, multi: bool) -> u64 {
        let delete = Delete {
            statements: vec![DeleteOne {
                filter: raw(filter),
                multi,
                ..DeleteOne::default()
            }],
            ordered: true,
        };
        self.documents
            .delete(&self.ns, delete, Deadline::NEVER)
            .await
            .expect("delete")
            .deleted
    }

    async fn index(&self, spec: IndexSpec) -> Result<usize, Code> {
        self.documents
            .create_indexes(&self.ns, vec![spec])
            .await
            .map_err(|error: Error| error.code())
    }

    async fn count(&self, filter: Document) -> u64 {
        self.documents
            .count(&self.ns, query(filter), Deadline::NEVER)
            .await
            .expect("count")
    }

    async fn all(&self, find: Find) -> Vec<Document> {
        let batch = find.batch;
        let mut page = self
            .documents
            .find(&self.ns, find, Deadline::NEVER)
            .await
            .expect("find");
        let mut found = std::mem::take(&mut page.documents);
        while let Some(cursor) = page.cursor {
            page = self
                .documents
                .next_page(cursor, batch, Deadline::NEVER)
                .await
                .expect("next page");
            found.append(&mut page.documents);
        }
        found
            .iter()
            .map(|document| Document::try_from(document.as_ref()).expect("bson"))
            .collect()
    }

    async fn aggregate(&self, pipeline: Vec<Document>) -> Result<Vec<Document>, Code> {
        let aggregate = Aggregate {
            pipeline: pipeline.into_iter().map(raw).collect(),
            batch: Some(2),
            ..Aggregate::default()
        };
        let page = self
            .documents
            .aggregate(&self.ns, aggregate, Deadline::NEVER)
            .await;
        let mut page = page.map_err(|error| error.code())?;
        let mut found = std::mem::take(&mut page.documents);
        while let Some(cursor) = page.cursor {
            page = self
                .documents
                .next_page(cursor, Some(2), Deadline::NEVER)
                .await
                .expect("next page");
            found.append(&mut page.documents);
        }
        let decoded = found.iter().map(|document| Document::try_from(document.as_ref()));
        Ok(decoded.collect::<Result<_, _>>().expect("bson"))
    }

    async fn find(&self, filter: Document) -> Vec<Document> {
        self.all(Find {
            filter: raw(filter),
            ..Find::default()
        })
        .await
    }

    /// Matching `_id`s in ascending order: nothing else is promised without a sort.
    async fn ids(&self, filter: Document) -> Vec<i32> {
        self.pages(Find {
            filter: raw(filter),
            sort: Some(raw(doc! { "_id": 1 })),
            ..Find::default()
        })
        .await
    }

    async fn pages(&self, find: Find) -> Vec<i32> {
        self.all(find)
            .await
            .iter()
            .map(|document| document.get_i32("_id").expect("an int32 _id"))
            .collect()
    }
}

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).expect("a document made here is BSON")
}

fn query(filter: Document) -> Find {
    Find {
        filter: raw(filter),
        ..Find::default()
    }
}

fn statement(filter: Document, update: Document, multi: bool) -> UpdateOne {
    UpdateOne {
        filter: raw(filter),
        update: raw(update),
        multi,
        upsert: false,
        ..UpdateOne::default()
    }
}

fn index(keys: &[(&str, i32)]) -> IndexSpec {
    let keys: Vec<(Arc<str>, i32)> = keys
        .iter()
        .map(|(path, sign)| (Arc::from(*path), *sign))
        .collect();
    IndexSpec {
        name: default_index_name(&keys),
        keys,
        unique: false,
        sparse: false,
        ..IndexSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use cloudlet_base::{SeededEntropy, SystemClock};
    use cloudlet_docdb::{Config, Docs};

    use super::*;
    use crate::Embedded;

    async fn on(config: Config) {
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SeededEntropy::new(1)));
        let docs = Docs::open(config, clock, entropy, &prometheus::Registry::new()).unwrap();
        run(&Embedded::new(docs.clone()), "conformance").await;
        docs.verify(Deadline::NEVER).await.unwrap();
    }

    #[tokio::test]
    async fn the_embedded_engine_in_memory_conforms() {
        on(Config::default()).await;
    }

    #[tokio::test]
    async fn the_embedded_engine_on_disk_conforms() {
        let directory = tempfile::tempdir().unwrap();
        on(Config {
            path: Some(directory.path().join("db")),
            ..Config::default()
        })
        .await;
    }
}
