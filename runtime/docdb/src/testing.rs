//! Entry points for fuzzing, and what must hold for any input: no panic, and each law checked by assertions.

pub mod replay;

pub use crate::spill::MemScratch;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{DateTime, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use cloudlet_base::{Deadline, SeededEntropy, SystemClock};

use crate::check::{check_well_formed, validate_document};
use crate::expression::{Env, Expr, Runtime, Scope};
use crate::projection::Projection;
use crate::query::{ARGUMENT_DEPTH_MAX, Filter};
use crate::sort::SortSpec;
use crate::update::{Now, Update};
use crate::value::{as_object, compare, elements, fields};
use crate::{Aggregate, Config, Docs, Limits, Namespace, keycode, show};

/// A fuzz target's body.
pub type FuzzTarget = fn(&[u8]);

/// All of them by name; inputs to begin with are in `runtime/fuzz/seeds/NAME`.
pub const FUZZ_TARGETS: &[(&str, FuzzTarget)] = &[
    ("bson", fuzz_bson),
    ("expression", fuzz_expression),
    ("filter", fuzz_filter),
    ("geo", fuzz_geo),
    ("keycode", fuzz_keycode),
    ("pipeline", fuzz_pipeline),
    ("projection", fuzz_projection),
    ("sort", fuzz_sort),
    ("update", fuzz_update),
];

/// How often an expression may look at the clock before it is stopped.
const FUZZ_CHECKS_MAX: u32 = 200;
/// Values of one input that are compared with each other.
const FUZZ_VALUES_MAX: usize = 32;
/// How long a pipeline may run before it is stopped.
const FUZZ_TIME_MAX: Duration = Duration::from_millis(200);

/// Splits the input into two documents: the first has the length that its first four bytes say.
fn two_documents(data: &[u8]) -> Option<(&RawDocument, &RawDocument)> {
    let len = usize::try_from(i32::from_le_bytes(*data.first_chunk::<4>()?)).ok()?;
    let (first, second) = data.split_at_checked(len)?;
    let (first, second) = (
        RawDocument::from_bytes(first).ok()?,
        RawDocument::from_bytes(second).ok()?,
    );
    validate_document(second, &Limits::default()).ok()?;
    Some((first, second))
}

/// A filter and a document: what parses can be matched, and `$nor` is its complement.
pub fn fuzz_filter(data: &[u8]) {
    let Some((filter, doc)) = two_documents(data) else {
        return;
    };
    let Ok(filter) = Filter::parse(filter) else { return };
    let matches = filter.matches(doc);
    assert_ne!(Filter::Nor(vec![filter.clone()]).matches(doc), matches);
    if filter.array_position(doc).is_some() {
        assert!(matches, "a position without a match");
    }
    let _ = filter.equality_fields();
}

/// An update and a document: what comes out is well-formed and keeps its `_id`.
pub fn fuzz_update(data: &[u8]) {
    let Some((update, doc)) = two_documents(data) else {
        return;
    };
    let Ok(update) = Update::parse(update, &[]) else {
        return;
    };
    let now = Now {
        date: DateTime::from_millis(0),
        timestamp: Timestamp {
            time: 0,
            increment: 0,
        },
    };
    if let Ok(Some(updated)) = update.apply(doc, &Filter::AlwaysTrue, now, false) {
        let limits = Limits::default();
        check_well_formed(&updated, limits.depth_max).expect("an update makes well-formed documents");
        if let Ok(Some(old)) = doc.get("_id") {
            let new = updated
                .get("_id")
                .expect("well-formed")
                .expect("an update keeps _id");
            assert!(compare(old, new).is_eq(), "an update changed _id");
        }
    }
    if let Ok(made) = update.upsert_document(&Filter::AlwaysTrue, now, ObjectId::from_bytes([0; 12])) {
        validate_document(&made, &Limits::default()).expect("an upsert makes valid documents");
    }
}

/// A projection and a document.
pub fn fuzz_projection(data: &[u8]) {
    let Some((projection, doc)) = two_documents(data) else {
        return;
    };
    let Ok(projection) = Projection::parse(projection) else {
        return;
    };
    if let Ok(projected) = projection.apply(doc, &Filter::AlwaysTrue) {
        check_well_formed(&projected, ARGUMENT_DEPTH_MAX).expect("a projection makes well-formed documents");
    }
}

/// An expression, the first field of the first document, and a document to evaluate it on: what comes out is
/// well-formed, and folding constants changes nothing but when errors are told.
pub fn fuzz_expression(data: &[u8]) {
    let Some((expr, doc)) = two_documents(data) else {
        return;
    };
    if check_well_formed(expr, Limits::default().depth_max).is_err() {
        return;
    }
    let Some((_, expr)) = fields(expr).next() else {
        return;
    };
    let scope = Scope::new(fuzz_runtime());
    let Ok(expr) = Expr::parse(expr, &scope) else {
        return;
    };
    if let Ok(value) = expr.eval(&mut Env::new(doc, scope.runtime()))
        && let Some(made) = value.get().and_then(as_object)
    {
        check_well_formed(made, ARGUMENT_DEPTH_MAX * 2).expect("expressions make well-formed values");
    }
}

/// So that what is not endless, only long, does not hold the fuzzer up.
fn fuzz_runtime() -> Arc<Runtime> {
    let runtime = Runtime::fixed();
    runtime.cancel_after_checks(FUZZ_CHECKS_MAX);
    runtime
}

/// A pipeline, the array in the first field of the first document, and a document to run it on: it ends, and what
/// comes out is well-formed.
pub fn fuzz_pipeline(data: &[u8]) {
    static DOCS: OnceLock<Docs> = OnceLock::new();
    let Some((pipeline, doc)) = two_documents(data) else {
        return;
    };
    if check_well_formed(pipeline, Limits::default().depth_max).is_err() {
        return;
    }
    let Some((_, RawBsonRef::Array(stages))) = fields(pipeline).next() else {
        return;
    };
    let mut literal = RawDocumentBuf::new();
    let mut list = RawArrayBuf::new();
    list.push(doc);
    literal.append(cstr!("$literal"), list);
    let mut first = RawDocumentBuf::new();
    first.append(cstr!("$documents"), literal);
    let mut pipeline = vec![first];
    for stage in elements(stages) {
        let RawBsonRef::Document(stage) = stage else {
            return;
        };
        // These would fill the database that all inputs share.
        if fields(stage).any(|(name, _)| matches!(name, "$out" | "$merge")) {
            return;
        }
        pipeline.push(stage.to_owned());
    }
    let docs = DOCS.get_or_init(|| {
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SeededEntropy::new(1)));
        Docs::open(Config::default(), clock, entropy, &prometheus::Registry::new())
            .expect("a database in memory opens")
    });
    let aggregate = Aggregate {
        pipeline,
        batch: Some(u32::MAX),
        ..Aggregate::default()
    };
    let deadline = Deadline::after(docs.lanes.engine().clock.as_ref(), FUZZ_TIME_MAX);
    match docs
        .aggregate(&Namespace::new("fuzz", "c"), aggregate, deadline)
        .wait()
    {
        Ok(page) => {
            for made in page.documents {
                check_well_formed(&made, ARGUMENT_DEPTH_MAX).expect("pipelines make well-formed documents");
            }
        }
        Err(error) => assert_ne!(error.code(), crate::Code::InternalError, "{error}"),
    }
}

/// Two documents that may be geometries: what is read holds to the laws of places.
pub fn fuzz_geo(data: &[u8]) {
    let Some((asked, stored)) = two_documents(data) else {
        return;
    };
    crate::geo::check_laws(RawBsonRef::Document(asked), RawBsonRef::Document(stored));
    crate::geo::check_flat_laws(asked, stored);
}

/// A sort and a document to compare with its own key.
pub fn fuzz_sort(data: &[u8]) {
    let Some((sort, doc)) = two_documents(data) else {
        return;
    };
    let Ok(sort) = SortSpec::parse(sort) else { return };
    assert!(sort.compare(doc, doc).is_eq());
    let _ = sort.sort_key(doc);
}

/// A document, whose values' keys order as the values do; or any bytes, which are walked as a key.
pub fn fuzz_keycode(data: &[u8]) {
    let _ = keycode::field_len(data, false);
    let _ = keycode::field_len(data, true);
    let Ok(doc) = RawDocument::from_bytes(data) else {
        return;
    };
    if check_well_formed(doc, ARGUMENT_DEPTH_MAX).is_err() {
        return;
    }
    let key = |v: RawBsonRef<'_>| {
        let mut key = Vec::new();
        keycode::encode(&mut key, v, false);
        key
    };
    let values: Vec<_> = fields(doc)
        .map(|(_, value)| (key(value), value))
        .take(FUZZ_VALUES_MAX)
        .collect();
    for (one_key, one) in &values {
        assert_eq!(keycode::field_len(one_key, false), Some(one_key.len()));
        let mut descending = one_key.clone();
        keycode::invert(&mut descending);
        assert_eq!(keycode::field_len(&descending, true), Some(one_key.len()));
        for (other_key, other) in &values {
            assert_eq!(
                one_key.cmp(other_key),
                compare(*one, *other),
                "{one:?} and {other:?}"
            );
        }
    }
}

/// Any bytes: what passes the check of documents from outside can be read to its end and written again.
pub fn fuzz_bson(data: &[u8]) {
    let Ok(doc) = RawDocument::from_bytes(data) else {
        return;
    };
    if check_well_formed(doc, Limits::default().depth_max).is_err() {
        return;
    }
    let read = bson::Document::try_from(doc).expect("checked documents can be read");
    let written = RawDocumentBuf::try_from(&read).expect("what was read can be written");
    check_well_formed(&written, Limits::default().depth_max).expect("what was written is well-formed");
    let _ = show::document(doc);
    let _ = validate_document(doc, &Limits::default());
    assert!(compare(RawBsonRef::Document(doc), RawBsonRef::Document(doc)).is_eq());
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, doc};

    use super::replay::{Dice, replay};
    use super::*;

    /// Bytes that mean something somewhere.
    const TELLING: [u8; 6] = [0, 1, 0x24, 0x7F, 0x80, 0xFF];

    /// Makes other inputs of those that are there.
    struct Changer<'d> {
        dice: &'d mut Dice,
        /// Values to put in the place of others.
        values: &'d [Bson],
    }

    impl Changer<'_> {
        fn below(&mut self, bound: usize) -> usize {
            self.dice.below(bound)
        }

        fn change(&mut self, input: &[u8]) -> Vec<u8> {
            let mut changed = input.to_vec();
            for _ in 0..self.dice.changes() {
                changed = match self.below(3) {
                    0 => self.dice.change_bytes(changed, &TELLING),
                    _ => self.inside(&changed),
                };
            }
            changed
        }

        /// The documents with one value somewhere inside put in the place of another, or one name changed.
        fn inside(&mut self, input: &[u8]) -> Vec<u8> {
            let mut documents = Vec::new();
            let mut rest = input;
            while let Some(length) = rest.first_chunk::<4>() {
                let length = usize::try_from(i32::from_le_bytes(*length)).unwrap_or(usize::MAX);
                let Some((first, after)) = rest.split_at_checked(length) else {
                    break;
                };
                let raw = RawDocument::from_bytes(first).ok();
                let Some(document) = raw.and_then(|raw| Document::try_from(raw).ok()) else {
                    break;
                };
                documents.push(Bson::Document(document));
                rest = after;
            }
            if documents.is_empty() {
                return self.dice.change_bytes(input.to_vec(), &TELLING);
            }
            let nth = self.below(documents.len());
            self.walk(&mut documents[nth]);
            let mut bytes = Vec::new();
            // An empty document may have become something else.
            for document in documents.iter().filter_map(Bson::as_document) {
                // Names with NUL can't be written.
                let raw = RawDocumentBuf::try_from(document);
                bytes.extend(raw.map(RawDocumentBuf::into_bytes).unwrap_or_default());
            }
            bytes
        }

        fn walk(&mut self, value: &mut Bson) {
            match value {
                Bson::Document(document) if !document.is_empty() => {
                    let nth = self.below(document.len());
                    let name = document.keys().nth(nth).unwrap().clone();
                    match self.below(12) {
                        0 => drop(document.remove(&name)),
                        1 => {
                            let value = document.remove(&name).unwrap();
                            document.insert(format!("${name}"), value);
                        }
                        2 => {
                            let value = document.get(&name).unwrap().clone();
                            document.insert(format!("{name}.0"), value);
                        }
                        _ => self.step(document.get_mut(&name).unwrap()),
                    }
                }
                Bson::Array(array) if !array.is_empty() => {
                    let nth = self.below(array.len());
                    self.step(&mut array[nth]);
                }
                other => self.put(other),
            }
        }

        fn step(&mut self, value: &mut Bson) {
            let nested = matches!(value, Bson::Document(_) | Bson::Array(_));
            match self.below(4) {
                0 => self.put(value),
                1 if nested => {
                    let inner = value.clone();
                    *value = Bson::Array(vec![inner]);
                }
                _ => self.walk(value),
            }
        }

        fn put(&mut self, value: &mut Bson) {
            let nth = self.below(self.values.len());
            *value = self.values[nth].clone();
        }
    }

    /// A value of each kind, and some at the edges.
    fn values() -> Vec<Bson> {
        let kinds = Document::try_from(
            RawDocument::from_bytes(
                &std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/bson/types")).unwrap(),
            )
            .unwrap(),
        )
        .unwrap();
        let mut values: Vec<Bson> = kinds.into_iter().map(|(_, value)| value).collect();
        values.extend([i64::MIN, i64::MAX, -1, 0, 64].map(Bson::Int64));
        values.extend([f64::NAN, f64::INFINITY, -0.0, 1e300].map(Bson::Double));
        values.extend(["$a", "$$ROOT", "$", "a.0.b", "", "$a.b.c"].map(|text| Bson::String(text.into())));
        values.extend([
            Bson::Array(Vec::new()),
            Bson::Document(doc! {}),
            Bson::Int32(i32::MIN),
        ]);
        values
    }

    #[test]
    fn targets_survive_their_seeds_and_changes_of_them() {
        let values = &values();
        std::thread::scope(|scope| {
            for (name, target) in FUZZ_TARGETS {
                scope.spawn(move || {
                    replay(name, *target, |dice, seed| Changer { dice, values }.change(seed));
                });
            }
        });
    }

    /// Each input changed at each byte: a fuzz target is of use only if it survives this.
    #[test]
    fn targets_survive_changed_bytes() {
        let bytes = |doc: bson::Document| RawDocumentBuf::try_from(&doc).unwrap().into_bytes();
        let stored =
            doc! { "_id": 1, "a": [{ "b": 1.5 }, { "b": "x" }], "c": { "d": [1, 2, [3]] }, "e": -1_i64 };
        let inputs = [
            (
                fuzz_filter as fn(&[u8]),
                doc! { "a.b": { "$in": [1, "x"], "$not": { "$size": 2 } }, "$or": [{ "e": { "$lt": 1 } }] },
            ),
            (
                fuzz_update,
                doc! { "$set": { "a.0.b": 1 }, "$inc": { "e": 1 }, "$push": { "c.d": { "$each": [1], "$slice": -2 } } },
            ),
            (
                fuzz_expression,
                doc! { "e": { "$map": { "input": { "$filter": { "input": "$c.d", "cond": { "$gt": ["$$this", 1] } } }, "as": "x",
                "in": { "$cond": [{ "$isArray": "$$x" }, { "$size": "$$x" }, { "$dateToString": { "date": { "$add": [DateTime::from_millis(0), "$e"] } } }] } } } },
            ),
            (
                fuzz_pipeline,
                doc! { "p": [{ "$match": { "e": -1 } }, { "$unwind": "$a" }, { "$group": { "_id": "$a.b", "n": { "$sum": 1 } } },
                { "$facet": { "x": [{ "$sort": { "n": 1 } }, { "$limit": 1 }] } }, { "$project": { "k": { "$first": "$x.n" } } }] },
            ),
            (fuzz_projection, doc! { "a.b": 1, "c": { "d": { "$slice": 1 } } }),
            (fuzz_sort, doc! { "a.b": 1, "e": -1 }),
            (fuzz_keycode, stored.clone()),
        ];
        for (target, first) in inputs {
            let whole = [bytes(first), bytes(stored.clone())].concat();
            target(&whole);
            for at in 0..whole.len() {
                for change in [0x00, 0x01, 0x02, 0x03, 0x04, 0x10, 0x24, 0x2E, 0x7F, 0xFF] {
                    let mut changed = whole.clone();
                    changed[at] = change;
                    target(&changed);
                }
            }
        }
    }
}
