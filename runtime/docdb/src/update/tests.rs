//! What updates make of documents and what they refuse.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};

use super::{Now, Update};
use crate::query::Filter;
use crate::{Code, Result};

const NOW: Now = Now {
    date: DateTime::from_millis(1_000),
    timestamp: Timestamp {
        time: 1,
        increment: 1,
    },
};

fn raw(doc: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&doc).unwrap()
}

fn run(update: Document, filters: Vec<Document>, query: Document, doc: Document) -> Result<Option<Document>> {
    let filters: Vec<_> = filters.into_iter().map(raw).collect();
    let update = Update::parse(&raw(update), &filters)?;
    let query = Filter::parse(&raw(query))?;
    let updated = update.apply(&raw(doc), &query, NOW, false)?;
    Ok(updated.map(|doc| Document::try_from(&*doc).unwrap()))
}

/// `expected` equal to `doc` means that nothing changed.
#[track_caller]
fn check(update: Document, doc: Document, expected: Document) {
    let updated = run(update.clone(), vec![], doc! {}, doc.clone()).unwrap();
    let unchanged = raw(expected.clone()) == raw(doc.clone());
    let shown = updated.as_ref().map(Document::to_string);
    assert_eq!(
        updated.map(raw),
        (!unchanged).then(|| raw(expected)),
        "{update} on {doc}: {shown:?}"
    );
}

#[track_caller]
fn refused(update: Document, code: Code) {
    assert_eq!(
        Update::parse(&raw(update.clone()), &[])
            .map(|_| ())
            .unwrap_err()
            .code(),
        code,
        "{update}"
    );
}

#[track_caller]
fn fails(update: Document, doc: Document, code: Code) {
    assert_eq!(
        run(update.clone(), vec![], doc! {}, doc).unwrap_err().code(),
        code,
        "{update}"
    );
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

#[test]
fn sets_and_unsets() {
    check(
        doc! { "$set": { "a": 2 } },
        doc! { "_id": 1, "a": 1, "b": 1 },
        doc! { "_id": 1, "a": 2, "b": 1 },
    );
    check(doc! { "$set": { "a": 1 } }, doc! { "a": 1 }, doc! { "a": 1 });
    check(
        doc! { "$set": { "a": 1_i64 } },
        doc! { "a": 1 },
        doc! { "a": 1_i64 },
    );
    check(doc! { "$set": {} }, doc! { "a": 1 }, doc! { "a": 1 });
    check(
        doc! { "$set": { "z": 1, "b": 2, "10": 3, "9": 4 } },
        doc! {},
        doc! { "9": 4, "10": 3, "b": 2, "z": 1 },
    );
    check(
        doc! { "$set": { "a.b.c": 1 } },
        doc! {},
        doc! { "a": { "b": { "c": 1 } } },
    );
    check(
        doc! { "$set": { "a.b": 1, "a.c": 2 } },
        doc! { "a": { "x": 0 } },
        doc! { "a": { "x": 0, "b": 1, "c": 2 } },
    );
    check(
        doc! { "$set": { "a.0": 9 } },
        doc! { "a": [1, 2] },
        doc! { "a": [9, 2] },
    );
    check(
        doc! { "$set": { "a.3": 9 } },
        doc! { "a": [1] },
        doc! { "a": [1, Bson::Null, Bson::Null, 9] },
    );
    check(
        doc! { "$set": { "a.0.b": 9 } },
        doc! { "a": [{ "b": 1 }] },
        doc! { "a": [{ "b": 9 }] },
    );
    check(doc! { "$set": { "a.0": 9 } }, doc! {}, doc! { "a": { "0": 9 } });
    check(
        doc! { "$unset": { "a": "" } },
        doc! { "a": 1, "b": 2 },
        doc! { "b": 2 },
    );
    check(
        doc! { "$unset": { "a.b": 1 } },
        doc! { "a": { "b": 1 } },
        doc! { "a": {} },
    );
    check(
        doc! { "$unset": { "a.b.c": 1 } },
        doc! { "a": 5 },
        doc! { "a": 5 },
    );
    check(
        doc! { "$unset": { "a.0": 1 } },
        doc! { "a": [1, 2] },
        doc! { "a": [Bson::Null, 2] },
    );
    check(doc! { "$setOnInsert": { "a": 1 } }, doc! {}, doc! {});
    check(
        doc! { "$set": { "_id": 1 } },
        doc! { "_id": 1 },
        doc! { "_id": 1 },
    );
    fails(
        doc! { "$set": { "_id": 2 } },
        doc! { "_id": 1 },
        Code::ImmutableField,
    );
    fails(
        doc! { "$unset": { "_id": 1 } },
        doc! { "_id": 1 },
        Code::ImmutableField,
    );
    fails(
        doc! { "$set": { "_id.x": 1 } },
        doc! { "_id": {} },
        Code::ImmutableField,
    );
    fails(
        doc! { "$set": { "a.b": 1 } },
        doc! { "a": 5 },
        Code::PathNotViable,
    );
    fails(
        doc! { "$set": { "a.b": 1 } },
        doc! { "a": [] },
        Code::PathNotViable,
    );
    fails(
        doc! { "$set": { "a.b": 1 } },
        doc! { "a": Bson::Null },
        Code::PathNotViable,
    );
    fails(
        doc! { "$set": { "a.9999999": 1 } },
        doc! { "a": [] },
        Code::BadValue,
    );
}

#[test]
fn computes() {
    check(doc! { "$inc": { "a": 2 } }, doc! { "a": 1 }, doc! { "a": 3 });
    check(doc! { "$inc": { "a": 2 } }, doc! {}, doc! { "a": 2 });
    check(doc! { "$inc": { "a": 0 } }, doc! { "a": 1 }, doc! { "a": 1 });
    check(
        doc! { "$inc": { "a": 1 } },
        doc! { "a": i32::MAX },
        doc! { "a": 2147483648_i64 },
    );
    check(
        doc! { "$inc": { "a": 1_i64 } },
        doc! { "a": 1 },
        doc! { "a": 2_i64 },
    );
    check(doc! { "$inc": { "a": 1 } }, doc! { "a": 1.5 }, doc! { "a": 2.5 });
    check(
        doc! { "$inc": { "a": decimal("0.2") } },
        doc! { "a": 0.1 },
        doc! { "a": decimal("0.3") },
    );
    check(
        doc! { "$inc": { "a": 1 } },
        doc! { "a": decimal("1.10") },
        doc! { "a": decimal("2.10") },
    );
    check(doc! { "$mul": { "a": 3 } }, doc! { "a": 2 }, doc! { "a": 6 });
    check(doc! { "$mul": { "a": 3.5 } }, doc! {}, doc! { "a": 0.0 });
    check(
        doc! { "$mul": { "a": 65536 } },
        doc! { "a": 65536 },
        doc! { "a": 4294967296_i64 },
    );
    check(doc! { "$min": { "a": 3 } }, doc! { "a": 5 }, doc! { "a": 3 });
    check(doc! { "$min": { "a": 7 } }, doc! { "a": 5 }, doc! { "a": 5 });
    check(doc! { "$min": { "a": 5.0 } }, doc! { "a": 5 }, doc! { "a": 5 });
    check(doc! { "$max": { "a": "x" } }, doc! { "a": 5 }, doc! { "a": "x" });
    check(doc! { "$max": { "a": 1 } }, doc! {}, doc! { "a": 1 });
    check(
        doc! { "$currentDate": { "a": true } },
        doc! {},
        doc! { "a": NOW.date },
    );
    check(
        doc! { "$currentDate": { "a": { "$type": "timestamp" } } },
        doc! { "a": 1 },
        doc! { "a": NOW.timestamp },
    );
    check(
        doc! { "$bit": { "a": { "and": 6, "or": 8 } } },
        doc! { "a": 3 },
        doc! { "a": 10 },
    );
    check(
        doc! { "$bit": { "a": { "xor": 5_i64 } } },
        doc! {},
        doc! { "a": 5_i64 },
    );
    fails(
        doc! { "$inc": { "a": 1 } },
        doc! { "a": i64::MAX },
        Code::BadValue,
    );
    fails(doc! { "$inc": { "a": 1 } }, doc! { "a": "x" }, Code::TypeMismatch);
    fails(
        doc! { "$inc": { "a": 1 } },
        doc! { "a": Bson::Null },
        Code::TypeMismatch,
    );
    fails(
        doc! { "$bit": { "a": { "or": 1 } } },
        doc! { "a": 1.0 },
        Code::BadValue,
    );
    refused(doc! { "$inc": { "a": "x" } }, Code::TypeMismatch);
    refused(doc! { "$mul": { "a": Bson::Null } }, Code::TypeMismatch);
    refused(doc! { "$currentDate": { "a": 1 } }, Code::BadValue);
    refused(doc! { "$bit": { "a": { "nand": 1 } } }, Code::BadValue);
}

#[test]
fn renames() {
    check(
        doc! { "$rename": { "a": "b" } },
        doc! { "a": 1, "c": 2 },
        doc! { "c": 2, "b": 1 },
    );
    check(
        doc! { "$rename": { "a": "b" } },
        doc! { "a": 1, "b": 2 },
        doc! { "b": 1 },
    );
    check(
        doc! { "$rename": { "a.b": "c.d" } },
        doc! { "a": { "b": 1 } },
        doc! { "a": {}, "c": { "d": 1 } },
    );
    check(doc! { "$rename": { "x": "b" } }, doc! { "b": 2 }, doc! { "b": 2 });
    fails(
        doc! { "$rename": { "a.0": "b" } },
        doc! { "a": [1] },
        Code::BadValue,
    );
    fails(
        doc! { "$rename": { "b": "a.0" } },
        doc! { "a": [1], "b": 1 },
        Code::BadValue,
    );
    fails(
        doc! { "$rename": { "_id": "b" } },
        doc! { "_id": 1 },
        Code::ImmutableField,
    );
    refused(doc! { "$rename": { "a": "a" } }, Code::BadValue);
    refused(doc! { "$rename": { "a": 1 } }, Code::BadValue);
    refused(
        doc! { "$rename": { "a": "b" }, "$set": { "b": 1 } },
        Code::ConflictingUpdateOperators,
    );
    refused(
        doc! { "$rename": { "a": "a.b" } },
        Code::ConflictingUpdateOperators,
    );
}

#[test]
fn pushes() {
    check(
        doc! { "$push": { "a": 3 } },
        doc! { "a": [1] },
        doc! { "a": [1, 3] },
    );
    check(doc! { "$push": { "a": [3] } }, doc! {}, doc! { "a": [[3]] });
    check(
        doc! { "$push": { "a": { "x": 1 } } },
        doc! {},
        doc! { "a": [{ "x": 1 }] },
    );
    check(
        doc! { "$push": { "a": { "$each": [3, 4] } } },
        doc! { "a": [1] },
        doc! { "a": [1, 3, 4] },
    );
    check(
        doc! { "$push": { "a": { "$each": [] } } },
        doc! { "a": [1] },
        doc! { "a": [1] },
    );
    let with = |key: &str, v: Bson| doc! { "$push": { "a": { "$each": [5, 2], key: v } } };
    check(
        with("$position", 0.into()),
        doc! { "a": [1] },
        doc! { "a": [5, 2, 1] },
    );
    check(
        with("$position", Bson::Int32(-1)),
        doc! { "a": [1, 9] },
        doc! { "a": [1, 5, 2, 9] },
    );
    check(
        with("$position", Bson::Int32(-9)),
        doc! { "a": [1] },
        doc! { "a": [5, 2, 1] },
    );
    check(with("$slice", 2.into()), doc! { "a": [1] }, doc! { "a": [1, 5] });
    check(
        with("$slice", Bson::Int32(-2)),
        doc! { "a": [1] },
        doc! { "a": [5, 2] },
    );
    check(with("$slice", 0.into()), doc! { "a": [1] }, doc! { "a": [] });
    check(
        with("$sort", 1.into()),
        doc! { "a": [3] },
        doc! { "a": [2, 3, 5] },
    );
    let by_field =
        doc! { "$push": { "a": { "$each": [{ "x": 1, "y": 2 }], "$sort": { "x": -1 }, "$slice": 2 } } };
    check(
        by_field,
        doc! { "a": [{ "x": 0 }, { "x": 2 }] },
        doc! { "a": [{ "x": 2 }, { "x": 1, "y": 2 }] },
    );
    fails(doc! { "$push": { "a": 1 } }, doc! { "a": 1 }, Code::BadValue);
    refused(with("$foo", 1.into()), Code::BadValue);
    refused(with("$slice", 1.5.into()), Code::BadValue);
    refused(doc! { "$push": { "a": { "$each": 1 } } }, Code::BadValue);
    refused(
        doc! { "$push": { "a": { "$slice": 1 } } },
        Code::DollarPrefixedFieldName,
    );
}

#[test]
fn changes_sets() {
    check(
        doc! { "$addToSet": { "a": 1.0 } },
        doc! { "a": [1] },
        doc! { "a": [1] },
    );
    check(
        doc! { "$addToSet": { "a": { "$each": [2, 1, 2] } } },
        doc! { "a": [1] },
        doc! { "a": [1, 2] },
    );
    check(doc! { "$addToSet": { "a": [1] } }, doc! {}, doc! { "a": [[1]] });
    check(
        doc! { "$addToSet": { "a": { "x": 1, "y": 2 } } },
        doc! { "a": [{ "y": 2, "x": 1 }] },
        doc! {
            "a": [{ "y": 2, "x": 1 }, { "x": 1, "y": 2 }]
        },
    );
    check(
        doc! { "$pull": { "a": 1 } },
        doc! { "a": [1, 2, 1.0] },
        doc! { "a": [2] },
    );
    check(
        doc! { "$pull": { "a": { "$gte": 2 } } },
        doc! { "a": [1, 2, 3] },
        doc! { "a": [1] },
    );
    check(
        doc! { "$pull": { "a": { "$in": [1, 3] } } },
        doc! { "a": [1, 2, 3] },
        doc! { "a": [2] },
    );
    check(
        doc! { "$pull": { "a": { "x": 1 } } },
        doc! { "a": [{ "x": 1, "y": 2 }, { "x": 2 }, 1] },
        doc! {
            "a": [{ "x": 2 }, 1]
        },
    );
    check(
        doc! { "$pull": { "a": { "x": { "$gt": 1 } } } },
        doc! { "a": [{ "x": 1 }, { "x": 2 }] },
        doc! {
            "a": [{ "x": 1 }]
        },
    );
    check(
        doc! { "$pull": { "a": [1] } },
        doc! { "a": [1, [1]] },
        doc! { "a": [1] },
    );
    check(doc! { "$pull": { "a": 1 } }, doc! {}, doc! {});
    check(
        doc! { "$pullAll": { "a": [1, 3] } },
        doc! { "a": [1, 2, 3] },
        doc! { "a": [2] },
    );
    check(
        doc! { "$pop": { "a": 1 } },
        doc! { "a": [1, 2] },
        doc! { "a": [1] },
    );
    check(
        doc! { "$pop": { "a": -1 } },
        doc! { "a": [1, 2] },
        doc! { "a": [2] },
    );
    check(doc! { "$pop": { "a": -1 } }, doc! { "a": [] }, doc! { "a": [] });
    fails(doc! { "$pull": { "a": 1 } }, doc! { "a": 1 }, Code::BadValue);
    fails(doc! { "$addToSet": { "a": 1 } }, doc! { "a": 1 }, Code::BadValue);
    fails(doc! { "$pop": { "a": 1 } }, doc! { "a": 1 }, Code::TypeMismatch);
    refused(doc! { "$pop": { "a": 2 } }, Code::FailedToParse);
    refused(doc! { "$pullAll": { "a": 1 } }, Code::BadValue);
    refused(doc! { "$pull": { "a": { "$foo": 1 } } }, Code::BadValue);
}

#[track_caller]
fn positional(update: Document, filters: Vec<Document>, query: Document, doc: Document, expected: Document) {
    let updated = run(update, filters, query, doc).unwrap().unwrap();
    assert_eq!(updated.to_string(), expected.to_string());
}

#[test]
fn finds_positions() {
    let set = |path: &str| doc! { "$set": { path: 9 } };
    positional(
        set("a.$"),
        vec![],
        doc! { "a": 2 },
        doc! { "a": [1, 2] },
        doc! { "a": [1, 9] },
    );
    positional(
        set("a.$.b"),
        vec![],
        doc! { "a.b": 2 },
        doc! { "a": [{ "b": 1 }, { "b": 2 }] },
        doc! {
            "a": [{ "b": 1 }, { "b": 9 }]
        },
    );
    positional(
        set("a.$[]"),
        vec![],
        doc! {},
        doc! { "a": [1, 2] },
        doc! { "a": [9, 9] },
    );
    positional(
        set("a.$[].b"),
        vec![],
        doc! {},
        doc! { "a": [{ "b": 1 }, {}] },
        doc! { "a": [{ "b": 9 }, { "b": 9 }] },
    );
    positional(
        set("a.$[e]"),
        vec![doc! { "e": { "$gte": 2 } }],
        doc! {},
        doc! { "a": [1, 2, 3] },
        doc! {
            "a": [1, 9, 9]
        },
    );
    let nested = doc! { "a": [{ "k": 1, "b": [1, 5] }, { "k": 2, "b": [5] }] };
    positional(
        set("a.$[x].b.$[y]"),
        vec![doc! { "x.k": 1 }, doc! { "y": { "$gt": 3 } }],
        doc! {},
        nested,
        doc! {
            "a": [{ "k": 1, "b": [1, 9] }, { "k": 2, "b": [5] }]
        },
    );
    positional(
        doc! { "$unset": { "a.$[]": 1 } },
        vec![],
        doc! {},
        doc! { "a": [1] },
        doc! { "a": [Bson::Null] },
    );
    fails(set("a.$"), doc! { "a": [1] }, Code::BadValue);
    fails(set("a.$[]"), doc! { "a": 1 }, Code::BadValue);
    fails(set("a.$[]"), doc! {}, Code::BadValue);
    fails(
        doc! { "$set": { "a.$[]": 1, "a.0": 2 } },
        doc! { "a": [0] },
        Code::ConflictingUpdateOperators,
    );
    refused(set("a.$[e]"), Code::BadValue);
    refused(set("$"), Code::BadValue);
    refused(set("a.$.b.$"), Code::BadValue);
    let with = |filters: Vec<Document>| {
        run(set("a.$[e]"), filters, doc! {}, doc! { "a": [1] })
            .unwrap_err()
            .code()
    };
    assert_eq!(with(vec![doc! { "e": 1 }, doc! { "f": 1 }]), Code::FailedToParse);
    assert_eq!(with(vec![doc! { "e": 1 }, doc! { "e": 2 }]), Code::FailedToParse);
    assert_eq!(with(vec![doc! { "e": 1, "f": 2 }]), Code::FailedToParse);
    assert_eq!(with(vec![doc! {}]), Code::FailedToParse);
}

#[test]
fn refuses_bad_updates_before_any_document() {
    refused(
        doc! { "$set": { "a": 1, "a.b": 2 } },
        Code::ConflictingUpdateOperators,
    );
    refused(
        doc! { "$set": { "a": 1 }, "$inc": { "a": 2 } },
        Code::ConflictingUpdateOperators,
    );
    refused(
        doc! { "$set": { "a.b": 1 }, "$unset": { "a": 2 } },
        Code::ConflictingUpdateOperators,
    );
    assert!(Update::parse(&raw(doc! { "$set": { "a": 1, "ab": 2, "a-b.c": 3 } }), &[]).is_ok());
    refused(doc! { "$set": { "": 1 } }, Code::EmptyFieldName);
    refused(doc! { "$set": { "a..b": 1 } }, Code::EmptyFieldName);
    refused(doc! { "$set": { "$a": 1 } }, Code::DollarPrefixedFieldName);
    refused(doc! { "$set": { "a.$b": 1 } }, Code::DollarPrefixedFieldName);
    refused(doc! { "a": 1, "$set": { "b": 1 } }, Code::DollarPrefixedFieldName);
    refused(doc! { "$set": { "b": 1 }, "a": 1 }, Code::FailedToParse);
    refused(doc! { "$foo": { "b": 1 } }, Code::FailedToParse);
    refused(doc! { "$set": 1 }, Code::FailedToParse);
}

#[test]
fn replaces_all_but_the_id() {
    check(
        doc! { "b": 2 },
        doc! { "_id": 1, "a": 1 },
        doc! { "_id": 1, "b": 2 },
    );
    check(
        doc! { "b": 2, "_id": 1 },
        doc! { "_id": 1, "a": 1 },
        doc! { "_id": 1, "b": 2 },
    );
    check(doc! {}, doc! { "_id": 1, "a": 1 }, doc! { "_id": 1 });
    check(
        doc! { "a": 1 },
        doc! { "_id": 1, "a": 1 },
        doc! { "_id": 1, "a": 1 },
    );
    fails(doc! { "_id": 2 }, doc! { "_id": 1 }, Code::ImmutableField);
    let too_large = doc! { "$set": { "b": "x".repeat(9 << 20) } };
    fails(
        too_large,
        doc! { "a": "x".repeat(9 << 20) },
        Code::BSONObjectTooLarge,
    );
    let nested = (0..99).fold(doc! {}, |inner, _| doc! { "a": inner });
    fails(doc! { "$set": { "x.y": nested } }, doc! {}, Code::Overflow);
}

#[track_caller]
fn upsert(query: Document, update: Document) -> Result<Document> {
    let update = Update::parse(&raw(update), &[])?;
    let made = update.upsert_document(&Filter::parse(&raw(query))?, NOW, ObjectId::from_bytes([7; 12]))?;
    Ok(Document::try_from(&*made).unwrap())
}

#[test]
fn makes_documents_to_upsert() {
    let id = ObjectId::from_bytes([7; 12]);
    let check = |query, update, expected: Document| {
        assert_eq!(upsert(query, update).unwrap().to_string(), expected.to_string())
    };
    check(
        doc! { "a": 1 },
        doc! { "$set": { "b": 2 } },
        doc! { "_id": id, "a": 1, "b": 2 },
    );
    check(
        doc! { "_id": 5, "a": { "$gt": 1 } },
        doc! { "$setOnInsert": { "b": 2 } },
        doc! { "_id": 5, "b": 2 },
    );
    check(
        doc! { "a.b": 1, "$and": [{ "a.c": 2 }] },
        doc! { "$inc": { "n": 1 } },
        doc! { "_id": id, "a": { "b": 1, "c": 2 }, "n": 1 },
    );
    check(
        doc! { "a": 1, "$or": [{ "b": 1 }, { "b": 2 }] },
        doc! { "$inc": { "a": 1 } },
        doc! { "_id": id, "a": 2 },
    );
    check(
        doc! { "_id": 5, "a": 1 },
        doc! { "b": 2 },
        doc! { "_id": 5, "b": 2 },
    );
    check(
        doc! { "a": 1 },
        doc! { "b": 2, "_id": 6 },
        doc! { "_id": 6, "b": 2 },
    );
    check(
        doc! {},
        doc! { "$set": { "b": 2, "_id": 6 } },
        doc! { "_id": 6, "b": 2 },
    );
    let code = |query, update| upsert(query, update).unwrap_err().code();
    assert_eq!(
        code(doc! { "_id": 5 }, doc! { "$set": { "_id": 6 } }),
        Code::ImmutableField
    );
    assert_eq!(code(doc! { "_id": 5 }, doc! { "_id": 6 }), Code::ImmutableField);
    assert_eq!(
        code(doc! { "a": 1, "$and": [{ "a": 2 }] }, doc! { "$set": { "b": 1 } }),
        Code::NotSingleValueField
    );
    assert_eq!(
        code(doc! { "a": 1, "a.b": 2 }, doc! { "$set": { "b": 1 } }),
        Code::NotSingleValueField
    );
    assert_eq!(
        code(doc! { "a": [1] }, doc! { "$set": { "a.$": 1 } }),
        Code::BadValue
    );
    assert_eq!(
        code(doc! {}, doc! { "$set": { "_id": [1] } }),
        Code::InvalidIdField
    );
}
