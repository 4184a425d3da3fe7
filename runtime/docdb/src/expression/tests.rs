//! Expressions by what they evaluate to: one line a case, the traps among them.

use bson::{Bson, DateTime, Document, RawDocumentBuf, bson, doc, oid::ObjectId};
use proptest::prelude::*;

use super::*;

fn raw(doc: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&doc).unwrap()
}

/// The value of an expression for a document; `None` is missing.
fn eval(expr: impl Into<Bson>, doc: Document) -> Result<Option<Bson>> {
    let holder = raw(doc! { "e": expr.into() });
    let scope = Scope::new(Runtime::fixed());
    let parsed = Expr::parse(holder.get("e").unwrap().unwrap(), &scope)?;
    let doc = raw(doc);
    let value = parsed.eval(&mut Env::new(&doc, scope.runtime()))?;
    Ok(value.into_raw().map(|v| Bson::try_from(v).unwrap()))
}

#[track_caller]
fn on(doc: Document, expr: impl Into<Bson>, expected: impl Into<Bson>) {
    let (expr, expected) = (expr.into(), expected.into());
    let found = eval(expr.clone(), doc.clone()).unwrap();
    assert_eq!(found.as_ref(), Some(&expected), "{expr} on {doc}");
}

/// The same with the document's fields as constants: folding must not change anything.
#[track_caller]
fn check(expr: impl Into<Bson>, expected: impl Into<Bson>) {
    on(doc! {}, expr, expected);
}

#[track_caller]
fn missing(doc: Document, expr: impl Into<Bson>) {
    assert_eq!(eval(expr, doc).unwrap(), None);
}

#[track_caller]
fn fails(expr: impl Into<Bson>, number: i32) {
    let expr = expr.into();
    let error = eval(expr.clone(), doc! { "s": "x", "n": 1, "nul": null }).unwrap_err();
    assert_eq!(error.code().number(), number, "{expr}: {error}");
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

fn date(text: &str) -> Bson {
    Bson::DateTime(DateTime::parse_rfc3339_str(text).unwrap())
}

const LARGE: i64 = i64::MAX;

#[test]
fn paths_fan_out_through_arrays_of_documents() {
    let d =
        doc! { "a": { "b": 1 }, "l": [{ "b": 1 }, { "c": 2 }, { "b": [3, 4] }, [{ "b": 9 }], 5], "s": "x" };
    on(d.clone(), "$a.b", 1);
    on(d.clone(), "$l.b", bson!([1, [3, 4]]));
    on(d.clone(), "$$ROOT.a.b", 1);
    on(d.clone(), "$$CURRENT.a.b", 1);
    missing(d.clone(), "$s.b");
    missing(d.clone(), "$no");
    // In expressions a number in a path is a name only.
    on(d.clone(), "$l.0", bson!([]));
    on(d.clone(), doc! { "x": "$no", "y": "$s" }, doc! { "y": "x" });
    on(d.clone(), bson!(["$no", "$s"]), bson!([null, "x"]));
    missing(d.clone(), "$$REMOVE");
    on(d, "$$NOW", DateTime::from_millis(1_700_000_000_000));
}

#[test]
fn malformed_expressions_have_their_numbers() {
    fails("$", 16_872);
    fails("$a..b", 15_998);
    fails("$a.", 40_353);
    fails("$a.$b", 16_410);
    fails("$$nobody", 17_276);
    fails(doc! { "$nobody": 1 }, 168);
    fails(doc! { "$add": [1], "b": 1 }, 15_983);
    fails(doc! { "a.b": 1 }, 16_412);
    fails(doc! { "$eq": [1] }, 16_020);
    fails(doc! { "$slice": [1] }, 28_667);
    fails(doc! { "$let": { "vars": { "A": 1 }, "in": 1 } }, 9);
    fails(doc! { "$cond": { "if": 1, "then": 2 } }, 17_082);
    fails(doc! { "$cond": [1, 2] }, 16_020);
    fails(doc! { "$switch": { "branches": [] } }, 40_068);
    fails(doc! { "$function": {} }, 115);
}

#[test]
fn compares_all_types_and_missing_with_null() {
    for (a, b, order) in [
        (bson!(1), bson!(1.0), 0),
        (bson!("$no"), bson!(null), -1),
        (bson!("$no"), bson!("$no"), 0),
        (bson!(null), bson!(-1e300), -1),
        (bson!(5), bson!("a"), -1),
        (bson!([1]), bson!([1, 2]), -1),
        (bson!(true), bson!(5), 1),
        (
            Bson::Int64(9_007_199_254_740_993),
            bson!(9_007_199_254_740_992.0),
            1,
        ),
        (bson!("$no"), Bson::MinKey, 1),
    ] {
        check(doc! { "$cmp": [a.clone(), b.clone()] }, order);
        check(doc! { "$cmp": [b.clone(), a.clone()] }, -order);
        check(doc! { "$eq": [a.clone(), b.clone()] }, order == 0);
        check(doc! { "$gt": [a.clone(), b.clone()] }, order > 0);
        check(doc! { "$lte": [a, b] }, order <= 0);
    }
    // Not bracketed by type, as queries are.
    on(doc! { "a": "text" }, doc! { "$gt": ["$a", 5] }, true);
    on(doc! {}, doc! { "$lt": ["$a", 5] }, true);
}

#[test]
fn logic_is_lazy_and_follows_mongodb_truth() {
    check(doc! { "$and": [] }, true);
    check(doc! { "$or": [] }, false);
    check(doc! { "$and": [1, "", []] }, true);
    check(doc! { "$and": [1, null] }, false);
    check(doc! { "$or": [0, "$no", 0.0] }, false);
    check(doc! { "$not": [0] }, true);
    check(doc! { "$not": ["x"] }, false);
    on(
        doc! { "z": 0 },
        doc! { "$or": [true, { "$divide": [1, "$z"] }] },
        true,
    );
    on(
        doc! { "z": 0 },
        doc! { "$cond": [{ "$eq": ["$z", 0] }, "none", { "$divide": [1, "$z"] }] },
        "none",
    );
    check(
        doc! { "$cond": { "if": false, "then": 1, "else": { "$divide": [1, 1] } } },
        1.0,
    );
    check(doc! { "$cond": [true, 1, { "$divide": [1, 0] }] }, 1);
    check(doc! { "$ifNull": ["$no", null, 7] }, 7);
    check(doc! { "$ifNull": [null, null] }, Bson::Null);
    check(
        doc! { "$switch": { "branches": [{ "case": false, "then": 1 }, { "case": true, "then": 2 }], "default": 3 } },
        2,
    );
    check(
        doc! { "$switch": { "branches": [{ "case": false, "then": 1 }], "default": 3 } },
        3,
    );
    fails(
        doc! { "$switch": { "branches": [{ "case": false, "then": 1 }] } },
        40_066,
    );
}

#[test]
fn arithmetic_widens_when_it_must() {
    check(doc! { "$add": [1, 2] }, 3);
    check(doc! { "$add": [i32::MAX, 1] }, 2_147_483_648_i64);
    check(doc! { "$add": [1, 2_i64] }, 3_i64);
    check(doc! { "$add": [LARGE, 1] }, 9_223_372_036_854_775_808.0);
    check(doc! { "$add": [1, 2.5] }, 3.5);
    check(doc! { "$add": [0.1, 0.2, decimal("1")] }, decimal("1.3"));
    check(doc! { "$add": [1e308, 1.0, -1e308] }, 1.0);
    check(doc! { "$add": [] }, 0);
    check(doc! { "$add": [1, "$no"] }, Bson::Null);
    check(
        doc! { "$add": [date("2024-01-01T00:00:00Z"), 1000] },
        date("2024-01-01T00:00:01Z"),
    );
    check(
        doc! { "$add": [1.5, date("2024-01-01T00:00:00Z")] },
        date("2024-01-01T00:00:00.002Z"),
    );
    fails(doc! { "$add": ["$s", 1] }, 14);
    fails(doc! { "$add": ["$$NOW", "$$NOW"] }, 16_612);
    check(doc! { "$subtract": [5, 7] }, -2);
    check(doc! { "$subtract": [i32::MIN, 1] }, -2_147_483_649_i64);
    check(doc! { "$subtract": [i64::MIN, 1] }, -9_223_372_036_854_775_808.0);
    check(
        doc! { "$subtract": [date("2024-01-01T00:00:01Z"), date("2024-01-01T00:00:00Z")] },
        1000_i64,
    );
    check(
        doc! { "$subtract": [date("2024-01-01T00:00:01Z"), 1000] },
        date("2024-01-01T00:00:00Z"),
    );
    fails(doc! { "$subtract": [1, "$$NOW"] }, 14);
    check(doc! { "$multiply": [3, 4] }, 12);
    check(doc! { "$multiply": [i32::MAX, 2] }, 4_294_967_294_i64);
    check(doc! { "$multiply": [LARGE, 2] }, 18_446_744_073_709_551_616.0);
    check(doc! { "$multiply": [decimal("1.10"), 2] }, decimal("2.20"));
    check(doc! { "$divide": [7, 2] }, 3.5);
    check(doc! { "$divide": [4, 2] }, 2.0);
    check(
        doc! { "$divide": [decimal("1"), 3] },
        decimal("0.3333333333333333333333333333333333"),
    );
    check(
        doc! { "$divide": [decimal("2"), decimal("3")] },
        decimal("0.6666666666666666666666666666666667"),
    );
    fails(doc! { "$divide": ["$n", 0] }, 2);
    fails(doc! { "$divide": ["$s", 1] }, 14);
    check(doc! { "$mod": [-7, 3] }, -1);
    check(doc! { "$mod": [7.5, 2] }, 1.5);
    check(doc! { "$mod": [i64::MIN, -1_i64] }, 0_i64);
    check(doc! { "$mod": [decimal("7.5"), 2] }, decimal("1.5"));
    fails(doc! { "$mod": ["$n", 0] }, 16_610);
    check(doc! { "$abs": i32::MIN }, 2_147_483_648_i64);
    fails(doc! { "$abs": i64::MIN }, 28_680);
    check(doc! { "$ceil": -1.5 }, -1.0);
    check(doc! { "$floor": -1.5 }, -2.0);
    check(doc! { "$floor": decimal("-1.5") }, decimal("-2"));
    check(doc! { "$floor": 7 }, 7);
    check(doc! { "$pow": [2, 10] }, 1024);
    check(doc! { "$pow": [2, 40] }, 1_099_511_627_776_i64);
    check(doc! { "$pow": [2, -1] }, 0.5);
    check(doc! { "$pow": [2, 64] }, 18_446_744_073_709_551_616.0);
    check(doc! { "$pow": [decimal("1.1"), 2] }, decimal("1.21"));
    fails(doc! { "$pow": [0, -1] }, 28_764);
    check(doc! { "$sqrt": 16 }, 4.0);
    check(
        doc! { "$sqrt": decimal("2") },
        decimal("1.414213562373095048801688724209698"),
    );
    fails(doc! { "$sqrt": -1 }, 28_714);
    check(doc! { "$ln": 1 }, 0.0);
    check(doc! { "$log10": 1000 }, 3.0);
    check(doc! { "$log": [8, 2] }, 3.0);
    fails(doc! { "$ln": 0 }, 28_766);
    fails(doc! { "$log": [1, 1] }, 28_759);
    check(doc! { "$exp": 0 }, 1.0);
    check(doc! { "$bitAnd": [6, 3] }, 2);
    check(doc! { "$bitOr": [6, 1_i64] }, 7_i64);
    check(doc! { "$bitXor": [6, 3] }, 5);
    check(doc! { "$bitNot": 0 }, -1);
    fails(doc! { "$bitAnd": [1.0] }, 14);
}

#[test]
fn rounds_half_to_even() {
    for (v, places, expected) in [
        (2.5, 0, 2.0),
        (3.5, 0, 4.0),
        (-2.5, 0, -2.0),
        (1.2345, 2, 1.23),
        (1234.5, -2, 1200.0),
    ] {
        check(doc! { "$round": [v, places] }, expected);
    }
    check(doc! { "$round": 10.5 }, 10.0);
    check(doc! { "$round": [15, -1] }, 20);
    check(doc! { "$round": [25, -1] }, 20);
    check(doc! { "$round": [decimal("1.25"), 1] }, decimal("1.2"));
    check(doc! { "$trunc": [-1.99, 1] }, -1.9);
    check(doc! { "$trunc": 7.9 }, 7.0);
    check(doc! { "$trunc": [19, -1] }, 10);
    check(doc! { "$round": [null, 1] }, Bson::Null);
    fails(doc! { "$round": [1.5, 101] }, 51_083);
    fails(doc! { "$round": [1.5, 0.5] }, 51_082);
    fails(doc! { "$round": "$s" }, 51_081);
}

#[test]
fn strings() {
    check(doc! { "$concat": ["a", "b"] }, "ab");
    check(doc! { "$concat": ["a", "$no"] }, Bson::Null);
    fails(doc! { "$concat": ["a", 1] }, 16_702);
    check(doc! { "$toLower": "ÀB" }, "Àb");
    check(doc! { "$toUpper": "$no" }, "");
    check(doc! { "$toUpper": 12 }, "12");
    check(doc! { "$substr": ["hello", 1, 3] }, "ell");
    check(doc! { "$substrBytes": ["hello", 1, -1] }, "ello");
    check(doc! { "$substrBytes": ["hello", 9, 1] }, "");
    fails(doc! { "$substrBytes": ["é", 1, 1] }, 28_656);
    fails(doc! { "$substrBytes": ["é", 0, 1] }, 28_657);
    check(doc! { "$substrCP": ["日本語", 1, 1] }, "本");
    fails(doc! { "$substrCP": ["x", -1, 1] }, 34_455);
    check(doc! { "$split": ["a-b--c", "-"] }, bson!(["a", "b", "", "c"]));
    fails(doc! { "$split": ["a", ""] }, 40_087);
    check(doc! { "$trim": { "input": " \t a \n" } }, "a");
    check(doc! { "$ltrim": { "input": "xxaxx", "chars": "x" } }, "axx");
    check(doc! { "$rtrim": { "input": "xxaxx", "chars": "x" } }, "xxa");
    fails(doc! { "$trim": { "input": 1 } }, 50_699);
    fails(doc! { "$trim": { "chars": "x" } }, 50_695);
    check(doc! { "$strLenCP": "日本" }, 2);
    check(doc! { "$strLenBytes": "日本" }, 6);
    fails(doc! { "$strLenCP": "$no" }, 34_471);
    check(doc! { "$indexOfCP": ["日本語", "語"] }, 2);
    check(doc! { "$indexOfBytes": ["日本語", "語"] }, 6);
    check(doc! { "$indexOfCP": ["abcabc", "b", 2] }, 4);
    check(doc! { "$indexOfCP": ["abcabc", "b", 2, 4] }, -1);
    check(doc! { "$indexOfBytes": ["abc", "x"] }, -1);
    check(doc! { "$strcasecmp": ["aB", "Ab"] }, 0);
    check(doc! { "$strcasecmp": ["a", "B"] }, -1);
    check(
        doc! { "$regexMatch": { "input": "Hello", "regex": "^h", "options": "i" } },
        true,
    );
    check(doc! { "$regexMatch": { "input": "$no", "regex": "x" } }, false);
    check(
        doc! { "$regexFind": { "input": "日本42", "regex": "([a-z])?([0-9]+)" } },
        doc! { "match": "42", "idx": 2, "captures": [null, "42"] },
    );
    check(doc! { "$regexFind": { "input": "x", "regex": "y" } }, Bson::Null);
    check(
        doc! { "$map": { "input": { "$regexFindAll": { "input": "a1b22", "regex": "[0-9]+" } }, "in": "$$this.match" } },
        bson!(["1", "22"]),
    );
    fails(doc! { "$regexMatch": { "input": 1, "regex": "x" } }, 51_104);
    fails(doc! { "$regexMatch": { "input": "x", "regex": "(" } }, 51_111);
    check(
        doc! { "$replaceOne": { "input": "aaa", "find": "a", "replacement": "b" } },
        "baa",
    );
    check(
        doc! { "$replaceAll": { "input": "aaa", "find": "a", "replacement": "bc" } },
        "bcbcbc",
    );
    check(
        doc! { "$replaceAll": { "input": "$no", "find": "a", "replacement": "b" } },
        Bson::Null,
    );
}

#[test]
fn arrays() {
    check(doc! { "$arrayElemAt": [[1, 2, 3], -1] }, 3);
    check(doc! { "$arrayElemAt": ["$no", 0] }, Bson::Null);
    missing(doc! {}, doc! { "$arrayElemAt": [[1], 5] });
    missing(doc! {}, doc! { "$arrayElemAt": [[1], -2] });
    fails(doc! { "$arrayElemAt": [1, 0] }, 28_689);
    fails(doc! { "$arrayElemAt": [[1], 0.5] }, 28_691);
    check(doc! { "$first": [[1, 2]] }, 1);
    check(doc! { "$last": [[1, 2]] }, 2);
    check(doc! { "$size": [[1, 2]] }, 2);
    fails(doc! { "$size": "$no" }, 17_124);
    check(doc! { "$in": [2, [1, 2.0]] }, true);
    check(doc! { "$in": ["$no", [null]] }, false);
    fails(doc! { "$in": [1, "$s"] }, 40_081);
    check(doc! { "$slice": [[1, 2, 3], 2] }, bson!([1, 2]));
    check(doc! { "$slice": [[1, 2, 3], -2] }, bson!([2, 3]));
    check(doc! { "$slice": [[1, 2, 3], 1, 5] }, bson!([2, 3]));
    check(doc! { "$slice": [[1, 2, 3], -9, 1] }, bson!([1]));
    fails(doc! { "$slice": [[1], 0, 0] }, 28_729);
    check(doc! { "$concatArrays": [[1], [], [2, [3]]] }, bson!([1, 2, [3]]));
    check(doc! { "$concatArrays": [[1], "$no"] }, Bson::Null);
    fails(doc! { "$concatArrays": [[1], 2] }, 28_664);
    check(doc! { "$isArray": [[1]] }, true);
    check(doc! { "$isArray": "$no" }, false);
    check(doc! { "$range": [0, 5, 2] }, bson!([0, 2, 4]));
    check(doc! { "$range": [2, 0, -1] }, bson!([2, 1]));
    fails(doc! { "$range": [0, 5, 0] }, 34_449);
    check(doc! { "$reverseArray": [[1, 2]] }, bson!([2, 1]));
    check(doc! { "$indexOfArray": [[1, 2, 1], 1, 1] }, 2);
    check(doc! { "$zip": { "inputs": [[1, 2], ["a"]] } }, bson!([[1, "a"]]));
    check(
        doc! { "$zip": { "inputs": [[1, 2], ["a"]], "useLongestLength": true, "defaults": [0, "z"] } },
        bson!([[1, "a"], [2, "z"]]),
    );
    check(
        doc! { "$sortArray": { "input": [3, "a", 1, null], "sortBy": 1 } },
        bson!([null, 1, 3, "a"]),
    );
    check(
        doc! { "$sortArray": { "input": [{ "a": 1 }, { "a": 2 }], "sortBy": { "a": -1 } } },
        bson!([{ "a": 2 }, { "a": 1 }]),
    );
    check(doc! { "$firstN": { "n": 2, "input": [1, 2, 3] } }, bson!([1, 2]));
    check(doc! { "$lastN": { "n": 2, "input": [1, 2, 3] } }, bson!([2, 3]));
    check(
        doc! { "$maxN": { "n": 2, "input": [1, null, 3, 2] } },
        bson!([3, 2]),
    );
    check(
        doc! { "$minN": { "n": 2, "input": [1, null, 3, 2] } },
        bson!([1, 2]),
    );
    check(
        doc! { "$filter": { "input": [1, 2, 3], "cond": { "$gt": ["$$this", 1] } } },
        bson!([2, 3]),
    );
    check(
        doc! { "$filter": { "input": [1, 2, 3], "as": "x", "cond": { "$gt": ["$$x", 1] }, "limit": 1 } },
        bson!([2]),
    );
    check(doc! { "$filter": { "input": "$no", "cond": true } }, Bson::Null);
    on(
        doc! { "k": 10 },
        doc! { "$map": { "input": [1, 2], "as": "x", "in": { "$add": ["$$x", "$k"] } } },
        bson!([11, 12]),
    );
    check(doc! { "$map": { "input": [1], "in": "$no" } }, bson!([null]));
    fails(doc! { "$map": { "input": "$s", "in": 1 } }, 16_883);
    check(
        doc! { "$reduce": { "input": ["a", "b"], "initialValue": "", "in": { "$concat": ["$$value", "$$this"] } } },
        "ab",
    );
    let nested = doc! { "$map": { "input": [1, 2], "as": "x", "in": { "$map": { "input": [10], "as": "y", "in": { "$add": ["$$x", "$$y"] } } } } };
    check(nested, bson!([[11], [12]]));
}

#[test]
fn sets() {
    check(doc! { "$setUnion": [[1, 2], [2.0, 3]] }, bson!([1, 2, 3]));
    check(doc! { "$setIntersection": [[3, 1, 2], [2, 3]] }, bson!([2, 3]));
    check(doc! { "$setDifference": [[1, 2, 1], [2]] }, bson!([1]));
    check(doc! { "$setEquals": [[1, 2, 2], [2, 1]] }, true);
    check(doc! { "$setIsSubset": [[1], [1, 2]] }, true);
    check(doc! { "$allElementsTrue": [[1, true]] }, true);
    check(doc! { "$anyElementTrue": [[0, null]] }, false);
    check(doc! { "$setUnion": [[1], null] }, Bson::Null);
    fails(doc! { "$setEquals": [[1], null] }, 17_044);
}

#[test]
fn objects() {
    check(
        doc! { "$objectToArray": { "a": 1 } },
        bson!([{ "k": "a", "v": 1 }]),
    );
    check(
        doc! { "$arrayToObject": [[["a", 1], ["b", 2], ["a", 3]]] },
        doc! { "a": 3, "b": 2 },
    );
    check(
        doc! { "$arrayToObject": [[{ "k": "a", "v": 1 }]] },
        doc! { "a": 1 },
    );
    fails(doc! { "$arrayToObject": [[[1, 2]]] }, 40_395);
    fails(doc! { "$arrayToObject": [[["a"]]] }, 40_397);
    check(
        doc! { "$mergeObjects": [{ "a": 1, "b": 1 }, null, { "b": 2, "c": 3 }] },
        doc! { "a": 1, "b": 2, "c": 3 },
    );
    fails(doc! { "$mergeObjects": [1] }, 40_400);
    on(doc! { "a.b": 5 }, doc! { "$getField": "a.b" }, 5);
    check(doc! { "$getField": { "field": "x", "input": { "x": 1 } } }, 1);
    check(
        doc! { "$setField": { "field": "a.b", "input": { "c": 1 }, "value": 2 } },
        doc! { "c": 1, "a.b": 2 },
    );
    check(
        doc! { "$unsetField": { "field": "c", "input": { "c": 1, "d": 2 } } },
        doc! { "d": 2 },
    );
    check(
        doc! { "$let": { "vars": { "x": 1, "y": { "z": 2 } }, "in": { "$add": ["$$x", "$$y.z"] } } },
        3,
    );
    check(doc! { "$literal": { "$add": [1, 2] } }, doc! { "$add": [1, 2] });
    check(doc! { "$bsonSize": { "a": 1 } }, 12);
    check(doc! { "$binarySize": "abc" }, 3);
}

#[test]
fn dates() {
    let d = date("2024-02-29T13:05:09.123Z");
    for (operator, expected) in [
        ("$year", 2024),
        ("$month", 2),
        ("$dayOfMonth", 29),
        ("$dayOfWeek", 5),
        ("$dayOfYear", 60),
        ("$hour", 13),
        ("$minute", 5),
        ("$second", 9),
        ("$millisecond", 123),
        ("$week", 8),
        ("$isoWeek", 9),
        ("$isoWeekYear", 2024),
        ("$isoDayOfWeek", 4),
    ] {
        check(doc! { operator: d.clone() }, expected);
        check(
            doc! { operator: { "date": d.clone(), "timezone": "UTC" } },
            expected,
        );
        on(doc! { "d": d.clone() }, doc! { operator: "$d" }, expected);
        check(doc! { operator: "$no" }, Bson::Null);
    }
    check(doc! { "$hour": { "date": d.clone(), "timezone": "+05:30" } }, 18);
    check(
        doc! { "$hour": { "date": d.clone(), "timezone": "Asia/Shanghai" } },
        21,
    );
    check(
        doc! { "$hour": { "date": date("2024-07-01T12:00:00Z"), "timezone": "America/New_York" } },
        8,
    );
    fails(
        doc! { "$hour": { "date": d.clone(), "timezone": "Mars/Base" } },
        40_485,
    );
    fails(doc! { "$year": "x" }, 16_006);
    check(
        doc! { "$dateToString": { "date": d.clone() } },
        "2024-02-29T13:05:09.123Z",
    );
    check(
        doc! { "$dateToString": { "date": d.clone(), "format": "%Y/%m/%d %H:%M:%S %j %u %V %z %%", "timezone": "+08" } },
        "2024/02/29 21:05:09 060 4 09 +0800 %",
    );
    check(
        doc! { "$dateToString": { "date": null, "onNull": "none" } },
        "none",
    );
    fails(
        doc! { "$dateToString": { "date": d.clone(), "format": "%q" } },
        18_536,
    );
    check(
        doc! { "$dateFromString": { "dateString": "2024-02-29T13:05:09.123Z" } },
        d.clone(),
    );
    check(
        doc! { "$dateFromString": { "dateString": "2024-02-29 21:05:09.123", "timezone": "Asia/Shanghai" } },
        d.clone(),
    );
    check(
        doc! { "$dateFromString": { "dateString": "29.02.2024", "format": "%d.%m.%Y" } },
        date("2024-02-29T00:00:00Z"),
    );
    check(
        doc! { "$dateFromString": { "dateString": "nonsense", "onError": 1 } },
        1,
    );
    fails(doc! { "$dateFromString": { "dateString": "2023-02-29" } }, 241);
    check(
        doc! { "$dateToParts": { "date": d.clone() } },
        doc! { "year": 2024, "month": 2, "day": 29, "hour": 13, "minute": 5, "second": 9, "millisecond": 123 },
    );
    check(
        doc! { "$dateFromParts": { "year": 2024, "month": 14, "day": 1 } },
        date("2025-02-01T00:00:00Z"),
    );
    check(
        doc! { "$dateFromParts": { "isoWeekYear": 2024, "isoWeek": 9, "isoDayOfWeek": 4, "hour": -1 } },
        date("2024-02-28T23:00:00Z"),
    );
    fails(doc! { "$dateFromParts": { "month": 1 } }, 40_516);
    for (unit, expected) in [
        ("year", "2024-01-01T00:00:00Z"),
        ("quarter", "2024-01-01T00:00:00Z"),
        ("month", "2024-02-01T00:00:00Z"),
        ("week", "2024-02-25T00:00:00Z"),
        ("day", "2024-02-29T00:00:00Z"),
        ("hour", "2024-02-29T13:00:00Z"),
        ("minute", "2024-02-29T13:05:00Z"),
        ("second", "2024-02-29T13:05:09Z"),
    ] {
        check(
            doc! { "$dateTrunc": { "date": d.clone(), "unit": unit } },
            date(expected),
        );
    }
    check(
        doc! { "$dateTrunc": { "date": d.clone(), "unit": "week", "startOfWeek": "Monday" } },
        date("2024-02-26T00:00:00Z"),
    );
    check(
        doc! { "$dateTrunc": { "date": d.clone(), "unit": "hour", "binSize": 2 } },
        date("2024-02-29T12:00:00Z"),
    );
    check(
        doc! { "$dateTrunc": { "date": d.clone(), "unit": "day", "timezone": "Asia/Shanghai" } },
        date("2024-02-28T16:00:00Z"),
    );
    check(
        doc! { "$dateAdd": { "startDate": d.clone(), "unit": "year", "amount": 1 } },
        date("2025-02-28T13:05:09.123Z"),
    );
    check(
        doc! { "$dateSubtract": { "startDate": d.clone(), "unit": "month", "amount": 1 } },
        date("2024-01-29T13:05:09.123Z"),
    );
    // A day in spring has 23 hours.
    let spring = date("2024-03-09T17:00:00Z");
    let moved = |unit: &str, amount: i32| doc! { "$dateAdd": { "startDate": spring.clone(), "unit": unit, "amount": amount, "timezone": "America/New_York" } };
    check(moved("day", 1), date("2024-03-10T16:00:00Z"));
    check(moved("hour", 24), date("2024-03-10T17:00:00Z"));
    let diff = |unit: &str| doc! { "$dateDiff": { "startDate": date("2023-12-31T23:59:59Z"), "endDate": date("2024-01-01T00:00:00Z"), "unit": unit } };
    for (unit, expected) in [
        ("year", 1),
        ("quarter", 1),
        ("month", 1),
        ("week", 0),
        ("day", 1),
        ("hour", 1),
        ("millisecond", 1000),
    ] {
        check(diff(unit), i64::from(expected));
    }
    fails(
        doc! { "$dateAdd": { "startDate": d, "unit": "eon", "amount": 1 } },
        9,
    );
}

#[test]
fn converts_types() {
    check(doc! { "$toInt": "42" }, 42);
    check(doc! { "$toInt": 2.9 }, 2);
    check(doc! { "$toInt": true }, 1);
    check(doc! { "$toLong": 2.9 }, 2_i64);
    check(doc! { "$toDouble": "1.5" }, 1.5);
    check(doc! { "$toDecimal": "1.50" }, decimal("1.50"));
    check(doc! { "$toString": 1.5 }, "1.5");
    check(doc! { "$toString": 1.0 }, "1");
    check(
        doc! { "$toString": date("2024-01-01T00:00:00Z") },
        "2024-01-01T00:00:00.000Z",
    );
    check(doc! { "$toBool": "" }, true);
    check(doc! { "$toBool": 0.0 }, false);
    check(doc! { "$toDate": 0_i64 }, date("1970-01-01T00:00:00Z"));
    check(doc! { "$toDate": "2024-01-01" }, date("2024-01-01T00:00:00Z"));
    let id = ObjectId::parse_str("65920080ffffffffffffffff").unwrap();
    check(doc! { "$toObjectId": "65920080ffffffffffffffff" }, id);
    check(doc! { "$toDate": id }, date("2024-01-01T00:00:00Z"));
    check(doc! { "$toInt": null }, Bson::Null);
    for expr in [
        doc! { "$toInt": "1.5" },
        doc! { "$toInt": " 1" },
        doc! { "$toInt": 3e9 },
        doc! { "$toInt": f64::NAN },
        doc! { "$toObjectId": "x" },
        doc! { "$toDate": "x" },
        doc! { "$toString": { "$literal": { "a": 1 } } },
        doc! { "$toInt": { "$literal": [1] } },
        doc! { "$toDouble": "1,5" },
    ] {
        fails(expr, 241);
    }
    check(
        doc! { "$convert": { "input": "x", "to": "int", "onError": -1 } },
        -1,
    );
    check(
        doc! { "$convert": { "input": "$no", "to": "int", "onNull": 0 } },
        0,
    );
    check(doc! { "$convert": { "input": "7", "to": 16 } }, 7);
    check(doc! { "$type": "$no" }, "missing");
    check(doc! { "$type": 1.5 }, "double");
    check(doc! { "$isNumber": decimal("1") }, true);
}

#[test]
fn accumulators_are_expressions_too() {
    check(doc! { "$sum": [1, 2.5, "x"] }, 3.5);
    check(doc! { "$sum": [[1, 2], 3] }, 3);
    on(doc! { "l": [1, 2, 3] }, doc! { "$sum": "$l" }, 6);
    on(doc! { "l": [1, 2] }, doc! { "$avg": "$l" }, 1.5);
    check(doc! { "$avg": ["x"] }, Bson::Null);
    check(doc! { "$min": [3, null, 1] }, 1);
    check(doc! { "$max": [3, "$no", "a"] }, "a");
    on(doc! { "l": [2, 4] }, doc! { "$stdDevPop": "$l" }, 1.0);
    on(doc! { "l": [2] }, doc! { "$stdDevSamp": "$l" }, Bson::Null);
}

#[test]
fn work_and_size_are_bounded() {
    fails(doc! { "$range": [0, i32::MAX] }, 10_334);
    let doubling = doc! { "$reduce": { "input": { "$range": [0, 40] }, "initialValue": "ab", "in": { "$concat": ["$$value", "$$value"] } } };
    fails(doubling, 10_334);
    let nesting = doc! { "$reduce": { "input": { "$range": [0, 5000] }, "initialValue": {}, "in": { "a": "$$value" } } };
    fails(nesting, 15);
    let large = doc! { "$range": [0, 1_000_000] };
    fails(doc! { "$size": { "$concatArrays": vec![large; 20] } }, 292);
    let clock = Arc::new(cloudlet_base::ManualClock::at_millis(0));
    let runtime = Runtime::fixed();
    runtime.set_deadline(&Deadline::after(clock.as_ref(), std::time::Duration::ZERO));
    let endless = raw(
        doc! { "e": { "$map": { "input": { "$range": [0, 100_000] }, "in": { "$map": { "input": { "$range": [0, 100_000] }, "in": "$no" } } } } },
    );
    let scope = Scope::new(runtime);
    let expr = Expr::parse(endless.get("e").unwrap().unwrap(), &scope).unwrap();
    let error = expr.eval(&mut Env::new(&endless, scope.runtime())).unwrap_err();
    assert_eq!(error.code(), Code::MaxTimeMSExpired);
}

/// An integer as BSON has it, with the type the widest argument asks for; past 64 bits what doubles make of it.
fn integer(v: i128, narrow: bool, double: f64) -> Bson {
    match (i32::try_from(v), i64::try_from(v)) {
        (Ok(v), _) if narrow => Bson::Int32(v),
        (_, Ok(v)) => Bson::Int64(v),
        _ => Bson::Double(double),
    }
}

fn whole() -> impl Strategy<Value = (i128, Bson)> {
    prop_oneof![
        any::<i32>().prop_map(|v| (v.into(), Bson::Int32(v))),
        any::<i64>().prop_map(|v| (v.into(), Bson::Int64(v))),
        (-9_i64..9).prop_map(|v| (v.into(), Bson::Int64(v))),
    ]
}

proptest! {
    /// Whole numbers against exact arithmetic of 128 bits, by way of constants and of fields.
    #[test]
    fn integers_are_exact_until_they_do_not_fit((a, x) in whole(), (b, y) in whole()) {
        let narrow = matches!((&x, &y), (Bson::Int32(_), Bson::Int32(_)));
        let doc = doc! { "x": x.clone(), "y": y.clone() };
        let (da, db) = (a as f64, b as f64);
        for (operator, expected, double) in
            [("$add", a + b, (a + b) as f64), ("$subtract", a - b, da - db), ("$multiply", a * b, da * db)]
        {
            let expected = Some(integer(expected, narrow, double));
            prop_assert_eq!(eval(doc! { operator: ["$x", "$y"] }, doc.clone()).unwrap(), expected.clone());
            prop_assert_eq!(eval(doc! { operator: [x.clone(), y.clone()] }, doc! {}).unwrap(), expected);
        }
        prop_assert_eq!(eval(doc! { "$cmp": ["$x", "$y"] }, doc.clone()).unwrap(), Some(Bson::Int32(a.cmp(&b) as i32)));
        if b != 0 {
            prop_assert_eq!(eval(doc! { "$mod": ["$x", "$y"] }, doc).unwrap(), Some(integer(a % b, narrow, 0.0)));
        }
    }

    /// Decimals of few digits against whole numbers scaled alike.
    #[test]
    fn decimals_are_exact_within_their_digits(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000, scale in 0..6_u32) {
        let text = |v: i128, places: u32| {
            let digits = format!("{:0width$}", v.unsigned_abs(), width = places as usize + 1);
            let (whole, part) = digits.split_at(digits.len() - places as usize);
            let sign = if v < 0 { "-" } else { "" };
            if places == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
        };
        let (x, y) = (decimal(&text(a.into(), scale)), decimal(&text(b.into(), scale)));
        for (operator, v, places) in [
            ("$add", i128::from(a) + i128::from(b), scale),
            ("$subtract", i128::from(a) - i128::from(b), scale),
            ("$multiply", i128::from(a) * i128::from(b), scale * 2),
        ] {
            let found = eval(doc! { operator: [x.clone(), y.clone()] }, doc! {}).unwrap().unwrap();
            let equal = doc! { "$eq": [found, decimal(&text(v, places))] };
            prop_assert_eq!(eval(equal, doc! {}).unwrap(), Some(Bson::Boolean(true)));
        }
        if b != 0 {
            let quotient = doc! { "$divide": [{ "$multiply": [x.clone(), y.clone()] }, y] };
            prop_assert_eq!(eval(doc! { "$eq": [quotient, x] }, doc! {}).unwrap(), Some(Bson::Boolean(true)));
        }
    }

    /// Moving a date forth and back, and its parts put together again.
    #[test]
    fn dates_come_back(millis in -60_000_000_000_000_i64..250_000_000_000_000, days in -5000..5000_i32) {
        let date = Bson::DateTime(DateTime::from_millis(millis));
        for zone in ["UTC", "+05:30", "-11"] {
            let moved = doc! { "$dateAdd": { "startDate": date.clone(), "unit": "day", "amount": days, "timezone": zone } };
            let back = doc! { "$dateSubtract": { "startDate": moved.clone(), "unit": "day", "amount": days, "timezone": zone } };
            prop_assert_eq!(eval(back, doc! {}).unwrap(), Some(date.clone()));
            let apart = doc! { "$dateDiff": { "startDate": date.clone(), "endDate": moved, "unit": "day", "timezone": zone } };
            prop_assert_eq!(eval(apart, doc! {}).unwrap(), Some(Bson::Int64(days.into())));
        }
        let text = doc! { "$dateToString": { "date": date.clone(), "format": "%Y-%m-%dT%H:%M:%S.%L%z", "timezone": "+0130" } };
        prop_assert_eq!(eval(doc! { "$toDate": text }, doc! {}).unwrap(), Some(date));
    }
}
