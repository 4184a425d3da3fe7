//! What filters match and what they refuse.

use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocumentBuf, doc};

use super::Filter;
use crate::Code;

fn raw(doc: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&doc).unwrap()
}

#[track_caller]
fn check(filter: Document, doc: Document, expected: bool) {
    let parsed = Filter::parse(&raw(filter.clone())).unwrap();
    assert_eq!(parsed.matches(&raw(doc.clone())), expected, "{filter} on {doc}");
}

#[track_caller]
fn refused(filter: Document, code: Code) {
    assert_eq!(Filter::parse(&raw(filter)).map(|_| ()).unwrap_err().code(), code);
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(bson::Regex {
        pattern: pattern.try_into().unwrap(),
        options: options.try_into().unwrap(),
    })
}

#[test]
fn equality_is_by_value_and_exact() {
    check(doc! {}, doc! { "a": 1 }, true);
    check(doc! { "a": 1 }, doc! { "a": 1_i64 }, true);
    check(doc! { "a": 1 }, doc! { "a": 1.0 }, true);
    check(doc! { "a": 1 }, doc! { "a": decimal("1.0") }, true);
    check(doc! { "a": 0.1 }, doc! { "a": decimal("0.1") }, false);
    check(doc! { "a": 1 }, doc! { "a": "1" }, false);
    check(doc! { "a": 1 }, doc! { "a": true }, false);
    check(doc! { "a": 0 }, doc! { "a": -0.0 }, true);
    check(
        doc! { "a": 9007199254740993_i64 },
        doc! { "a": 9007199254740992.0 },
        false,
    );
    check(doc! { "a": f64::NAN }, doc! { "a": f64::NAN }, true);
    check(doc! { "a": f64::NAN }, doc! { "a": decimal("NaN") }, true);
    check(doc! { "a": f64::NAN }, doc! { "a": 1 }, false);
    check(doc! { "a": { "b": 1 } }, doc! { "a": { "b": 1 } }, true);
    check(doc! { "a": { "b": 1 } }, doc! { "a": { "b": 1, "c": 2 } }, false);
    check(
        doc! { "a": { "b": 1, "c": 2 } },
        doc! { "a": { "c": 2, "b": 1 } },
        false,
    );
    check(doc! { "a": { "b": 1 } }, doc! { "a": { "b": 1.0 } }, true);
    check(doc! { "a": {} }, doc! { "a": {} }, true);
    check(
        doc! { "a": { "$ref": "c", "$id": 1 } },
        doc! { "a": { "$ref": "c", "$id": 1 } },
        true,
    );
    check(
        doc! { "a": { "b": 1, "$gt": 1 } },
        doc! { "a": { "b": 1, "$gt": 1 } },
        true,
    );
    check(doc! { "a": Bson::Symbol("x".into()) }, doc! { "a": "x" }, true);
    let id = ObjectId::from_bytes([7; 12]);
    check(doc! { "_id": id }, doc! { "_id": id }, true);
}

#[test]
fn null_matches_missing() {
    check(doc! { "a": Bson::Null }, doc! {}, true);
    check(doc! { "a": Bson::Null }, doc! { "a": Bson::Null }, true);
    check(doc! { "a": Bson::Null }, doc! { "a": 0 }, false);
    check(doc! { "a": Bson::Null }, doc! { "a": [] }, false);
    check(doc! { "a": Bson::Null }, doc! { "a": [1, Bson::Null] }, true);
    check(doc! { "a.b": Bson::Null }, doc! { "a": 1 }, true);
    check(doc! { "a.b": Bson::Null }, doc! { "a": [] }, false);
    check(doc! { "a.b": Bson::Null }, doc! { "a": [1] }, false);
    check(doc! { "a.b": Bson::Null }, doc! { "a": [{ "b": 1 }, {}] }, true);
    check(doc! { "a": { "$ne": Bson::Null } }, doc! {}, false);
    check(doc! { "a": { "$gte": Bson::Null } }, doc! {}, true);
    check(doc! { "a": { "$gt": Bson::Null } }, doc! {}, false);
    check(doc! { "a": { "$in": [Bson::Null, 1] } }, doc! {}, true);
    check(doc! { "a": { "$nin": [Bson::Null, 1] } }, doc! {}, false);
    check(doc! { "a": { "$type": 10 } }, doc! {}, false);
    check(doc! { "a": { "$type": 10 } }, doc! { "a": Bson::Null }, true);
    check(doc! { "a": { "$exists": true } }, doc! { "a": Bson::Null }, true);
    check(doc! { "a": { "$exists": true } }, doc! {}, false);
    check(doc! { "a": { "$exists": 0 } }, doc! {}, true);
    check(doc! { "a.b": { "$exists": false } }, doc! { "a": [] }, true);
    check(
        doc! { "a.b": { "$exists": false } },
        doc! { "a": [{ "b": 1 }, {}] },
        false,
    );
}

#[test]
fn comparisons_stay_within_their_type() {
    check(doc! { "a": { "$gt": 1 } }, doc! { "a": 2.5 }, true);
    check(doc! { "a": { "$gt": 1 } }, doc! { "a": "2" }, false);
    check(doc! { "a": { "$lt": "b" } }, doc! { "a": 1 }, false);
    check(doc! { "a": { "$lt": "b" } }, doc! { "a": "abc" }, true);
    check(doc! { "a": { "$lt": 1 } }, doc! {}, false);
    check(doc! { "a": { "$lt": 1 } }, doc! { "a": Bson::Null }, false);
    check(doc! { "a": { "$gte": 1, "$lte": 1 } }, doc! { "a": 1 }, true);
    check(doc! { "a": { "$gt": 1, "$lt": 5 } }, doc! { "a": 7 }, false);
    check(doc! { "a": { "$lt": 1 } }, doc! { "a": f64::NAN }, false);
    check(doc! { "a": { "$lte": f64::NAN } }, doc! { "a": f64::NAN }, true);
    check(
        doc! { "a": { "$lt": f64::NAN } },
        doc! { "a": f64::NEG_INFINITY },
        false,
    );
    check(doc! { "a": { "$gte": f64::NAN } }, doc! { "a": 1 }, false);
    check(doc! { "a": { "$lt": Bson::MaxKey } }, doc! { "a": "x" }, true);
    check(doc! { "a": { "$lt": Bson::MaxKey } }, doc! {}, true);
    check(doc! { "a": { "$gt": Bson::MinKey } }, doc! { "a": 1 }, true);
    check(doc! { "a": { "$gt": Bson::MaxKey } }, doc! { "a": 1 }, false);
    check(
        doc! { "a": { "$gt": { "b": 1 } } },
        doc! { "a": { "b": 2 } },
        true,
    );
    check(doc! { "a": { "$lt": [2] } }, doc! { "a": [1, 5] }, true);
    check(doc! { "a": { "$gt": false } }, doc! { "a": true }, true);
    check(doc! { "a": { "$eq": regex("x", "") } }, doc! { "a": "x" }, false);
    check(
        doc! { "a": { "$eq": regex("x", "") } },
        doc! { "a": regex("x", "") },
        true,
    );
    refused(doc! { "a": { "$gt": regex("x", "") } }, Code::BadValue);
    refused(doc! { "a": { "$ne": regex("x", "") } }, Code::BadValue);
    refused(doc! { "a": Bson::Undefined }, Code::BadValue);
}

#[test]
fn arrays_match_whole_or_by_element() {
    check(doc! { "a": 1 }, doc! { "a": [1, 2] }, true);
    check(doc! { "a": [1, 2] }, doc! { "a": [1, 2] }, true);
    check(doc! { "a": [2, 1] }, doc! { "a": [1, 2] }, false);
    check(doc! { "a": [1] }, doc! { "a": [[1], 2] }, true);
    check(doc! { "a": 1 }, doc! { "a": [[1]] }, false);
    check(doc! { "a": [] }, doc! { "a": [] }, true);
    check(doc! { "a": { "$gt": 3, "$lt": 2 } }, doc! { "a": [1, 4] }, true);
    check(
        doc! { "a": { "$elemMatch": { "$gt": 3, "$lt": 2 } } },
        doc! { "a": [1, 4] },
        false,
    );
    check(doc! { "a": { "$ne": 1 } }, doc! { "a": [1, 2] }, false);
    check(doc! { "a": { "$ne": 3 } }, doc! { "a": [1, 2] }, true);
    check(doc! { "a": { "$nin": [2, 9] } }, doc! { "a": [1, 2] }, false);
    check(
        doc! { "a": { "$not": { "$gt": 1 } } },
        doc! { "a": [1, 2] },
        false,
    );
    check(doc! { "a.0": 1 }, doc! { "a": [1, 2] }, true);
    check(doc! { "a.1": 1 }, doc! { "a": [1, 2] }, false);
    check(doc! { "a.0": 7 }, doc! { "a": { "0": 7 } }, true);
    check(doc! { "a.0": 7 }, doc! { "a": [{ "0": 7 }] }, true);
    check(doc! { "a.0": 1 }, doc! { "a": [[1]] }, false);
    check(doc! { "a.0.b": 1 }, doc! { "a": [{ "b": 1 }] }, true);
    check(doc! { "a.1.b": 1 }, doc! { "a": [{ "b": 1 }] }, false);
    check(doc! { "a.b": 2 }, doc! { "a": [{ "b": 1 }, { "b": 2 }] }, true);
    check(doc! { "a.b": 2 }, doc! { "a": [[{ "b": 2 }]] }, false);
    check(
        doc! { "a.b.c": 2 },
        doc! { "a": [{ "b": [{ "c": 1 }, { "c": 2 }] }] },
        true,
    );
    check(
        doc! { "a.b": 1, "a.c": 2 },
        doc! { "a": [{ "b": 1 }, { "c": 2 }] },
        true,
    );
    check(
        doc! { "a": { "$elemMatch": { "b": 1, "c": 2 } } },
        doc! { "a": [{ "b": 1 }, { "c": 2 }] },
        false,
    );
    check(
        doc! { "a": { "$elemMatch": { "b": 1, "c": 2 } } },
        doc! { "a": [{ "b": 1, "c": 2 }] },
        true,
    );
    check(
        doc! { "a": { "$elemMatch": { "b": 1 } } },
        doc! { "a": { "b": 1 } },
        false,
    );
    check(doc! { "a": { "$elemMatch": {} } }, doc! { "a": [1] }, false);
    check(doc! { "a": { "$elemMatch": {} } }, doc! { "a": [{}] }, true);
    check(
        doc! { "a": { "$elemMatch": { "0": 1 } } },
        doc! { "a": [[1]] },
        true,
    );
    check(
        doc! { "a": { "$elemMatch": { "$elemMatch": { "$gt": 1 } } } },
        doc! { "a": [[2]] },
        true,
    );
    check(
        doc! { "a": { "$elemMatch": { "$or": [{ "b": 1 }] } } },
        doc! { "a": [{ "b": 1 }] },
        true,
    );
    check(
        doc! { "a": { "$elemMatch": { "$not": { "$gt": 1 } } } },
        doc! { "a": [5, 1] },
        true,
    );
    check(
        doc! { "a.b": { "$elemMatch": { "$gt": 1 } } },
        doc! { "a": [{ "b": [0] }, { "b": [2] }] },
        true,
    );
}

#[test]
fn all_and_size_and_in() {
    check(doc! { "a": { "$all": [1, 2] } }, doc! { "a": [2, 1, 3] }, true);
    check(doc! { "a": { "$all": [1, 9] } }, doc! { "a": [2, 1, 3] }, false);
    check(doc! { "a": { "$all": [1] } }, doc! { "a": 1 }, true);
    check(doc! { "a": { "$all": [] } }, doc! { "a": [] }, false);
    check(doc! { "a": { "$all": [[1, 2]] } }, doc! { "a": [1, 2] }, true);
    check(
        doc! { "a": { "$all": [regex("^x", "")] } },
        doc! { "a": ["xy"] },
        true,
    );
    let both = doc! { "$all": [{ "$elemMatch": { "$gt": 5 } }, { "$elemMatch": { "$lt": 2 } }] };
    check(doc! { "a": both.clone() }, doc! { "a": [1, 6] }, true);
    check(doc! { "a": both }, doc! { "a": [6] }, false);
    check(doc! { "a": { "$size": 2 } }, doc! { "a": [1, [2]] }, true);
    check(doc! { "a": { "$size": 0 } }, doc! { "a": [] }, true);
    check(doc! { "a": { "$size": 1 } }, doc! { "a": 1 }, false);
    check(doc! { "a": { "$size": 1.0 } }, doc! { "a": [[1, 2]] }, true);
    check(doc! { "a": { "$in": [3, "x", 1] } }, doc! { "a": 1.0 }, true);
    check(
        doc! { "a": { "$in": [3, regex("^a", "")] } },
        doc! { "a": "abc" },
        true,
    );
    check(doc! { "a": { "$in": [] } }, doc! { "a": 1 }, false);
    check(doc! { "a": { "$nin": [] } }, doc! { "a": 1 }, true);
    check(doc! { "a": { "$in": [[1, 2]] } }, doc! { "a": [1, 2] }, true);
    refused(doc! { "a": { "$in": 1 } }, Code::BadValue);
    refused(doc! { "a": { "$in": [{ "$gt": 1 }] } }, Code::BadValue);
    refused(doc! { "a": { "$size": -1 } }, Code::BadValue);
    refused(doc! { "a": { "$size": 1.5 } }, Code::BadValue);
    refused(doc! { "a": { "$all": 1 } }, Code::BadValue);
    refused(doc! { "a": { "$elemMatch": 1 } }, Code::BadValue);
}

#[test]
fn logic() {
    check(doc! { "$or": [{ "a": 1 }, { "b": 1 }] }, doc! { "b": 1 }, true);
    check(doc! { "$nor": [{ "a": 1 }, { "b": 1 }] }, doc! { "b": 1 }, false);
    check(doc! { "$nor": [{ "a": 1 }] }, doc! {}, true);
    check(doc! { "$and": [{ "a": 1 }, { "b": 1 }] }, doc! { "a": 1 }, false);
    check(
        doc! { "$and": [{ "a": 1 }], "b": 1 },
        doc! { "a": 1, "b": 1 },
        true,
    );
    check(doc! { "$comment": "x", "a": 1 }, doc! { "a": 1 }, true);
    check(doc! { "a": { "$not": regex("^x", "") } }, doc! { "a": "y" }, true);
    check(doc! { "a": { "$not": { "$gt": 1 } } }, doc! {}, true);
    check(
        doc! { "a": { "$not": { "$gt": 1, "$lt": 3 } } },
        doc! { "a": 2 },
        false,
    );
    check(
        doc! { "a": { "$not": { "$gt": 1, "$lt": 3 } } },
        doc! { "a": 5 },
        true,
    );
    refused(doc! { "$or": [] }, Code::BadValue);
    refused(doc! { "$and": { "a": 1 } }, Code::BadValue);
    refused(doc! { "$nor": [1] }, Code::BadValue);
    refused(doc! { "$foo": 1 }, Code::BadValue);
    refused(doc! { "a": { "$foo": 1 } }, Code::BadValue);
    refused(doc! { "a": { "$gt": 1, "b": 1 } }, Code::BadValue);
    refused(doc! { "a": { "$not": {} } }, Code::BadValue);
    refused(doc! { "a": { "$not": 1 } }, Code::BadValue);
    refused(doc! { "$where": "1" }, Code::CommandNotSupported);
    let error = Filter::parse(&raw(doc! { "a": { "$foo": 1 } })).unwrap_err();
    assert_eq!(error.to_string(), "unknown operator: $foo");
}

#[test]
fn types_numbers_bits_and_text() {
    check(doc! { "a": { "$type": "number" } }, doc! { "a": 1_i64 }, true);
    check(doc! { "a": { "$type": "int" } }, doc! { "a": 1_i64 }, false);
    check(doc! { "a": { "$type": "array" } }, doc! { "a": [1] }, true);
    check(doc! { "a": { "$type": "int" } }, doc! { "a": [1] }, true);
    check(doc! { "a": { "$type": ["string", 8] } }, doc! { "a": true }, true);
    check(doc! { "a": { "$type": -1 } }, doc! { "a": Bson::MinKey }, true);
    refused(doc! { "a": { "$type": "foo" } }, Code::BadValue);
    refused(doc! { "a": { "$type": 200 } }, Code::BadValue);
    refused(doc! { "a": { "$type": [] } }, Code::FailedToParse);
    check(doc! { "a": { "$mod": [4, 1] } }, doc! { "a": 5.7 }, true);
    check(doc! { "a": { "$mod": [4, -1] } }, doc! { "a": -5 }, true);
    check(doc! { "a": { "$mod": [4, 0] } }, doc! { "a": "8" }, false);
    check(doc! { "a": { "$mod": [-1, 0] } }, doc! { "a": i64::MIN }, true);
    check(
        doc! { "a": { "$mod": [2, 1] } },
        doc! { "a": decimal("3.9") },
        true,
    );
    check(
        doc! { "a": { "$mod": [2, 0] } },
        doc! { "a": f64::INFINITY },
        false,
    );
    refused(doc! { "a": { "$mod": [0, 0] } }, Code::BadValue);
    refused(doc! { "a": { "$mod": [1] } }, Code::BadValue);
    check(doc! { "a": { "$bitsAllSet": [0, 2] } }, doc! { "a": 5 }, true);
    check(doc! { "a": { "$bitsAnySet": 2 } }, doc! { "a": 5 }, false);
    check(doc! { "a": { "$bitsAllClear": 2 } }, doc! { "a": 5.0 }, true);
    check(doc! { "a": { "$bitsAnyClear": 7 } }, doc! { "a": 5 }, true);
    check(doc! { "a": { "$bitsAllSet": [100] } }, doc! { "a": -1 }, true);
    check(doc! { "a": { "$bitsAllSet": 1 } }, doc! { "a": 1.5 }, false);
    check(doc! { "a": regex("^ab", "i") }, doc! { "a": "ABC" }, true);
    check(doc! { "a": regex("^ab", "") }, doc! { "a": ["x", "abc"] }, true);
    check(doc! { "a": regex("1", "") }, doc! { "a": 1 }, false);
    check(
        doc! { "a": { "$regex": "^ab", "$options": "i" } },
        doc! { "a": "ABC" },
        true,
    );
    check(
        doc! { "a": { "$options": "i", "$regex": "^ab" } },
        doc! { "a": "ABC" },
        true,
    );
    check(
        doc! { "a": { "$regex": regex("b", ""), "$ne": "ab" } },
        doc! { "a": "ab" },
        false,
    );
    refused(doc! { "a": { "$options": "i" } }, Code::BadValue);
    refused(
        doc! { "a": { "$regex": regex("b", "i"), "$options": "i" } },
        Code::BadValue,
    );
    refused(doc! { "a": { "$regex": "(?=x)" } }, Code::BadValue);
}

#[test]
fn tells_the_position_for_updates() {
    let position =
        |filter: Document, doc: Document| Filter::parse(&raw(filter)).unwrap().array_position(&raw(doc));
    assert_eq!(position(doc! { "a": 2 }, doc! { "a": [1, 2] }), Some(1));
    assert_eq!(
        position(doc! { "a.b": 2 }, doc! { "a": [{ "b": 1 }, { "b": [0, 2] }] }),
        Some(1)
    );
    assert_eq!(
        position(
            doc! { "x": 1, "a": { "$gt": 1 } },
            doc! { "x": 1, "a": [1, 2, 3] }
        ),
        Some(1)
    );
    assert_eq!(
        position(
            doc! { "a": { "$elemMatch": { "b": 2 } } },
            doc! { "a": [{ "b": 1 }, { "b": 2 }] }
        ),
        Some(1)
    );
    assert_eq!(
        position(doc! { "a": { "$all": [1, 2] } }, doc! { "a": [1, 2] }),
        Some(1)
    );
    assert_eq!(position(doc! { "a": [1, 2] }, doc! { "a": [1, 2] }), None);
    assert_eq!(position(doc! { "a": { "$ne": 5 } }, doc! { "a": [1, 2] }), None);
    assert_eq!(position(doc! { "a": 2 }, doc! { "a": 2 }), None);
    assert_eq!(position(doc! { "a": 3 }, doc! { "a": [1, 2] }), None);
}

#[test]
fn tells_what_an_upsert_starts_from() {
    let seeds = |filter: Document| {
        let fields = Filter::parse(&raw(filter)).unwrap().equality_fields();
        fields
            .iter()
            .map(|(path, _)| path.as_str().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        seeds(doc! { "a": 1, "b.c": { "$eq": 2 }, "d": { "$gt": 1 } }),
        "a b.c"
    );
    assert_eq!(
        seeds(doc! { "$and": [{ "a": 1 }, { "$and": [{ "b": 1 }] }], "$or": [{ "c": 1 }, { "d": 1 }] }),
        "a b"
    );
    assert_eq!(
        seeds(doc! { "a": regex("x", ""), "b": { "$in": [1] }, "c": { "$ne": 1 } }),
        ""
    );
}
