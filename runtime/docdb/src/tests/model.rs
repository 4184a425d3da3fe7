//! The engine against a naive model: a list of documents, each query a filter over all of them. Whatever indexes
//! there are and whichever plan is chosen, the answers are the same.

use std::collections::BTreeMap;

use bson::Bson;
use proptest::prelude::*;

use super::*;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::update;

#[derive(Debug, Clone)]
enum Step {
    Insert(i32, Document),
    Update {
        filter: Document,
        update: Document,
        multi: bool,
    },
    Delete {
        filter: Document,
        multi: bool,
    },
    MakeIndex(Vec<(&'static str, i32)>, IndexOption),
    DropIndex(usize),
    Find {
        filter: Document,
        sort: Option<Document>,
        skip: u64,
        limit: Option<u64>,
        batch: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum IndexOption {
    Plain,
    Sparse,
    Hashed,
    PartialRange,
    PartialExists,
    PartialAny,
}

impl IndexOption {
    const ALL: [IndexOption; 6] = [
        IndexOption::Plain,
        IndexOption::Sparse,
        IndexOption::Hashed,
        IndexOption::PartialRange,
        IndexOption::PartialExists,
        IndexOption::PartialAny,
    ];

    fn on(self, keys: &[(&str, i32)]) -> IndexSpec {
        let partial = match self {
            IndexOption::PartialRange => Some(doc! { "a": { "$gte": 1, "$lt": 4 } }),
            IndexOption::PartialExists => Some(doc! { "b": { "$exists": true } }),
            IndexOption::PartialAny => {
                Some(doc! { "$or": [{ "a": { "$in": [1, "a", null] } }, { "c": { "$lte": 2 } }] })
            }
            _ => None,
        };
        let hashed = self == IndexOption::Hashed;
        let mut spec = index(keys);
        if hashed {
            spec = index(&[(keys[0].0, 1)]);
        }
        spec.name = format!("{}_{self:?}", spec.name).into();
        IndexSpec {
            kind: if hashed {
                IndexKind::Hashed
            } else {
                IndexKind::Ordered
            },
            sparse: self == IndexOption::Sparse,
            partial_filter: partial.map(raw),
            ..spec
        }
    }
}

fn scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        12 => (0..5_i32).prop_map(Bson::Int32),
        1 => (0..5_i32).prop_map(|n| Bson::Double(f64::from(n))),
        1 => Just(Bson::Double(1.5)),
        1 => Just(Bson::Double(f64::NAN)),
        2 => Just(Bson::Null),
        3 => prop::sample::select(vec!["", "a", "ab", "b"]).prop_map(|text| Bson::String(text.to_owned())),
        1 => any::<bool>().prop_map(Bson::Boolean),
    ]
}

fn value() -> impl Strategy<Value = Bson> {
    let below = || {
        prop_oneof![
            scalar().prop_map(|b| Bson::Document(doc! { "b": b })),
            (scalar(), scalar()).prop_map(|(b, d)| Bson::Document(doc! { "b": b, "d": d })),
        ]
    };
    let array = |of| prop::collection::vec(of, 0..4).prop_map(Bson::Array);
    prop_oneof![
        4 => scalar(),
        2 => below(),
        3 => array(scalar().boxed()),
        2 => array(below().boxed()),
        1 => array(prop_oneof![scalar(), below(), array(scalar().boxed())].boxed()),
    ]
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a.b", "c", "b.0", "_id"])
}

fn document() -> impl Strategy<Value = Document> {
    let field =
        |name: &'static str| prop::option::weighted(0.8, value()).prop_map(move |value| (name, value));
    (field("a"), field("b"), field("c")).prop_map(|(a, b, c)| {
        [a, b, c]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    })
}

fn predicate() -> impl Strategy<Value = Bson> {
    let operator = |name: &'static str| value().prop_map(move |value| Bson::Document(doc! { name: value }));
    prop_oneof![
        4 => value(),
        1 => operator("$eq"),
        1 => operator("$gt"),
        1 => operator("$gte"),
        1 => operator("$lt"),
        1 => operator("$lte"),
        1 => operator("$ne"),
        5 => (0..5_i32, 0..3_i32).prop_map(|(low, width)| Bson::Document(doc! { "$gte": low, "$lt": low + width })),
        2 => prop::collection::vec(value(), 0..4).prop_map(|values| Bson::Document(doc! { "$in": values })),
        1 => prop::collection::vec(value(), 0..3).prop_map(|values| Bson::Document(doc! { "$nin": values })),
        1 => prop::collection::vec(value(), 0..3).prop_map(|values| Bson::Document(doc! { "$all": values })),
        1 => any::<bool>().prop_map(|there| Bson::Document(doc! { "$exists": there })),
        1 => Just(Bson::Document(doc! { "$regex": "^a" })),
        1 => Just(Bson::Document(doc! { "$regex": "b$" })),
        1 => (scalar(), scalar()).prop_map(|(low, high)| Bson::Document(doc! { "$elemMatch": { "$gte": low, "$lt": high } })),
        1 => scalar().prop_map(|b| Bson::Document(doc! { "$elemMatch": { "b": b } })),
        1 => (scalar(), scalar()).prop_map(|(b, d)| Bson::Document(doc! { "$elemMatch": { "b": b, "d": { "$lte": d } } })),
        1 => scalar().prop_map(|value| Bson::Document(doc! { "$in": [value, bson::Regex { pattern: "^a".try_into().unwrap(), options: "".try_into().unwrap() }] })),
        1 => (0..3_i32).prop_map(|size| Bson::Document(doc! { "$size": size })),
        1 => scalar().prop_map(|low| Bson::Document(doc! { "$not": { "$gt": low } })),
    ]
}

fn filter() -> impl Strategy<Value = Document> {
    let one = (path(), predicate())
        .prop_map(|(path, predicate)| doc! { path: predicate })
        .boxed();
    let few = prop::collection::vec(one.clone(), 1..3).boxed();
    prop_oneof![
        4 => one.clone(),
        3 => few.clone().prop_map(|all| all.into_iter().flatten().collect()),
        1 => few.clone().prop_map(|all| doc! { "$and": all }),
        2 => few.clone().prop_map(|any| doc! { "$or": any }),
        2 => (few.clone(), few).prop_map(|(all, any)| {
            let mut filter: Document = all.into_iter().flatten().collect();
            filter.insert("$or", any);
            filter
        }),
        1 => one.prop_map(|none| doc! { "$nor": [none] }),
        1 => Just(doc! {}),
    ]
}

fn keys() -> impl Strategy<Value = Vec<(&'static str, i32)>> {
    let direction = || prop::sample::select(vec![1, -1]);
    let paths = prop::sample::subsequence(vec!["a", "a.b", "a.d", "b", "c", "b.0"], 1..3).prop_shuffle();
    (paths, direction(), direction())
        .prop_map(|(paths, first, second)| paths.into_iter().zip([first, second]).collect())
}

fn sort() -> impl Strategy<Value = Document> {
    prop_oneof![
        keys().prop_map(|keys| keys
            .into_iter()
            .map(|(path, sign)| (path.to_owned(), Bson::Int32(sign)))
            .collect()),
        Just(doc! { "_id": -1 }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        value().prop_map(|value| doc! { "$set": { "a": value } }),
        value().prop_map(|value| doc! { "$set": { "b": value } }),
        Just(doc! { "$unset": { "a": "" } }),
        Just(doc! { "$inc": { "c": 1 } }),
        scalar().prop_map(|value| doc! { "$push": { "b": value } }),
        document(),
    ];
    prop_oneof![
        8 => (0..30_i32, document()).prop_map(|(id, document)| Step::Insert(id, document)),
        3 => (filter(), change, any::<bool>()).prop_map(|(filter, update, multi)| Step::Update { filter, update, multi }),
        1 => (filter(), any::<bool>()).prop_map(|(filter, multi)| Step::Delete { filter, multi }),
        3 => (keys(), prop::sample::select(IndexOption::ALL.to_vec())).prop_map(|(keys, option)| Step::MakeIndex(keys, option)),
        1 => (0..3_usize).prop_map(Step::DropIndex),
        8 => (filter(), prop::option::of(sort()), 0..3_u64, prop::option::of(1..6_u64), 1..5_u32).prop_map(
            |(filter, sort, skip, limit, batch)| Step::Find { filter, sort, skip, limit, batch }
        ),
    ]
}

/// Documents by `_id`, which is also the natural order.
type Model = BTreeMap<i32, RawDocumentBuf>;

fn read_all(docs: &Docs) -> Model {
    let find = Find {
        hint: Some("$natural".into()),
        batch: Some(u32::MAX),
        ..Find::default()
    };
    let page = docs.find(&ns(), find, Deadline::NEVER).wait().unwrap();
    page.documents
        .into_iter()
        .map(|document| (document.get_i32("_id").unwrap(), document))
        .collect()
}

fn matching(model: &Model, filter: &Document) -> Option<Vec<i32>> {
    let filter = Filter::parse(&raw(filter.clone())).ok()?;
    Some(
        model
            .iter()
            .filter(|(_, document)| filter.matches(document))
            .map(|(id, _)| *id)
            .collect(),
    )
}

fn check_find(docs: &Docs, model: &Model, step: &Step) {
    let Step::Find {
        filter,
        sort,
        skip,
        limit,
        batch,
    } = step
    else {
        return;
    };
    let Some(expected) = matching(model, filter) else {
        return;
    };
    let spec = sort.as_ref().map(|sort| SortSpec::parse(&raw(sort.clone())));
    if spec.as_ref().is_some_and(Result::is_err) {
        return;
    }
    let spec = spec.map(Result::unwrap);
    let find = Find {
        sort: sort.clone().map(raw),
        batch: Some(*batch),
        ..query(filter.clone())
    };
    let mut got = ids(docs, find.clone());
    if let Some(spec) = &spec {
        assert!(
            got.is_sorted_by_key(|id| spec.sort_key(&model[id])),
            "not in the order of {sort:?}: {got:?}"
        );
    }
    let ordered = got.clone();
    got.sort_unstable();
    assert_eq!(got, expected, "{filter} sorted by {sort:?}");
    // A part of the result is that part of the whole, up to documents that sort alike.
    let part = ids(
        docs,
        Find {
            skip: *skip,
            limit: *limit,
            ..find
        },
    );
    let whole = ordered
        .iter()
        .skip(*skip as usize)
        .take(limit.map_or(usize::MAX, |limit| limit as usize));
    match &spec {
        None => assert_eq!(part.len(), whole.count()),
        Some(spec) => {
            let key = |id: &i32| spec.sort_key(&model[id]);
            assert_eq!(
                part.iter().map(key).collect::<Vec<_>>(),
                whole.map(key).collect::<Vec<_>>()
            );
        }
    }
    let count = docs
        .count(&ns(), query(filter.clone()), Deadline::NEVER)
        .wait()
        .unwrap();
    assert_eq!(count, expected.len() as u64);
}

fn apply(docs: &Docs, model: &mut Model, step: &Step) {
    match step {
        Step::Insert(id, document) => {
            let mut whole = doc! { "_id": id };
            whole.extend(document.clone());
            let done = insert(docs, [whole.clone()]);
            match done.errors.first().map(|failure| failure.error.code()) {
                None => assert!(model.insert(*id, raw(whole)).is_none(), "inserted {id} twice"),
                Some(Code::DuplicateKey) => assert!(model.contains_key(id)),
                Some(code) => assert!(matches!(
                    code,
                    Code::CannotIndexParallelArrays | Code::Location(16_766)
                )),
            }
        }
        Step::Update {
            filter,
            update,
            multi,
        } => {
            let replacement = !update.keys().any(|key| key.starts_with('$'));
            let statement = UpdateOne {
                multi: *multi && !replacement,
                ..update_one(filter.clone(), update.clone())
            };
            let multi = statement.multi;
            let done = docs
                .update(&ns(), updates(vec![statement]), Deadline::NEVER)
                .wait()
                .unwrap();
            if !done.errors.is_empty() {
                // MongoDB leaves the documents before the failing one changed; the model takes what is there.
                *model = read_all(docs);
                return;
            }
            let Some(mut expected) = matching(model, filter) else {
                return;
            };
            if !multi {
                // Which one is first depends on the plan.
                assert_eq!(done.matched, expected.len().min(1) as u64);
                let after = read_all(docs);
                expected.retain(|id| model[id] != after[id]);
                assert_eq!(expected.len() as u64, done.modified);
            }
            let now = update::Now {
                date: bson::DateTime::from_millis(0),
                timestamp: bson::Timestamp {
                    time: 0,
                    increment: 0,
                },
            };
            let parsed = update::Update::parse(&raw(update.clone()), &[]).unwrap();
            let filter = Filter::parse(&raw(filter.clone())).unwrap();
            for id in expected {
                if let Some(new) = parsed.apply(&model[&id], &filter, now, false).unwrap() {
                    model.insert(id, new);
                }
            }
        }
        Step::Delete { filter, multi } => {
            let Some(expected) = matching(model, filter) else {
                return;
            };
            let done = docs
                .delete(&ns(), deletes(filter.clone(), *multi), Deadline::NEVER)
                .wait()
                .unwrap();
            if *multi {
                assert_eq!(done.deleted, expected.len() as u64);
                model.retain(|id, _| !expected.contains(id));
            } else {
                assert_eq!(done.deleted, expected.len().min(1) as u64);
                let after = read_all(docs);
                assert!(
                    model
                        .keys()
                        .filter(|id| !after.contains_key(id))
                        .all(|id| expected.contains(id))
                );
                *model = after;
            }
        }
        Step::MakeIndex(keys, option) => {
            let made = docs.create_indexes(&ns(), vec![option.on(keys)]).wait();
            if let Err(error) = made {
                assert!(
                    matches!(
                        error.code(),
                        Code::CannotIndexParallelArrays
                            | Code::IndexOptionsConflict
                            | Code::IndexKeySpecsConflict
                            | Code::Location(16_766)
                    ),
                    "{error}"
                );
            }
        }
        Step::DropIndex(place) => {
            let indexes = docs.list_indexes(&ns()).wait().unwrap_or_default();
            if let Some(spec) = indexes.get(place + 1) {
                docs.drop_index(&ns(), &spec.name).wait().unwrap();
            }
        }
        Step::Find { .. } => check_find(docs, model, step),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_answers_as_a_full_scan(steps in prop::collection::vec(step(), 1..60)) {
        let docs = memory();
        let mut model = Model::new();
        for step in &steps {
            apply(&docs, &mut model, step);
        }
        assert!(read_all(&docs) == model, "the documents differ");
        docs.verify(Deadline::NEVER).wait().unwrap();
    }
}
