//! Laws that hold for all values: keys order as values do, sorts as comparisons, updates as a naive model.

use std::cmp::Ordering;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Bson, DateTime, Decimal128, Document, RawBson, RawDocumentBuf, Timestamp, doc};
use cloudlet_base::Deadline;
use proptest::prelude::*;

use crate::keycode;
use crate::path::{Path, index_values};
use crate::projection::Projection;
use crate::query::{Filter, Predicate};
use crate::sort::SortSpec;
use crate::tests::{all, inserts, memory, ns, query};
use crate::update::{Now, Update};
use crate::value::compare;
use crate::{Find, Insert};

const NOW: Now = Now {
    date: DateTime::from_millis(1_000),
    timestamp: Timestamp {
        time: 1,
        increment: 1,
    },
};

fn raw(doc: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(doc).unwrap()
}

fn value_raw(v: &Bson) -> RawBson {
    RawBson::try_from(v.clone()).unwrap()
}

/// Numbers that are close to each other in different types: around zero, 2^53, 2^63 and the ends of each range.
fn number() -> impl Strategy<Value = Bson> {
    let near = |base: i64| (-3i64..=3).prop_map(move |d| base.wrapping_add(d));
    let integer = prop_oneof![
        near(0),
        near(1 << 53),
        near(-(1 << 53)),
        near(i64::MAX),
        near(1 << 31),
        any::<i64>()
    ];
    let double = prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
        Just(0.1),
        Just(-0.1),
        integer.clone().prop_map(|i| i as f64),
        any::<f64>(),
    ];
    let decimal = prop_oneof![
        integer.clone().prop_map(|i| i.to_string()),
        integer.clone().prop_map(|i| format!("{i}.0")),
        integer.clone().prop_map(|i| format!("{i}.5")),
        (integer.clone(), -30i32..30).prop_map(|(i, e)| format!("{i}E{e}")),
        (integer.clone(), -6000i32..6000).prop_map(|(i, e)| format!("{i}E{e}")),
        double
            .clone()
            .prop_filter("finite", |d| d.is_finite())
            .prop_map(|d| format!("{d:.20e}").to_uppercase()),
        Just("0.1".to_owned()),
        Just("NaN".to_owned()),
        Just("-Infinity".to_owned()),
    ];
    prop_oneof![
        integer.clone().prop_map(|i| Bson::Int32(i as i32)),
        integer.prop_map(Bson::Int64),
        double.prop_map(Bson::Double),
        decimal
            .prop_filter_map("a decimal128", |text| text.parse::<Decimal128>().ok())
            .prop_map(Bson::Decimal128),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab\u{0}\u{1}\u{2}é日]{0,4}", "[a-c]{0,2}"]
}

fn scalar() -> impl Strategy<Value = Bson> {
    prop_oneof![
        4 => number(),
        3 => text().prop_map(Bson::String),
        1 => text().prop_map(Bson::Symbol),
        1 => text().prop_map(Bson::JavaScriptCode),
        1 => prop_oneof![Just(Bson::Null), Just(Bson::Undefined), Just(Bson::MinKey), Just(Bson::MaxKey)],
        1 => any::<bool>().prop_map(Bson::Boolean),
        1 => any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        1 => (0u32..3, 0u32..3).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        1 => any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
        1 => (prop::collection::vec(any::<u8>(), 0..4), 0u8..4).prop_map(|(bytes, subtype)| {
            Bson::Binary(bson::Binary { subtype: BinarySubtype::from(subtype), bytes })
        }),
        1 => ("[a-b]{0,2}", "(|i|im)").prop_map(|(pattern, options)| {
            Bson::RegularExpression(bson::Regex {
                pattern: pattern.try_into().unwrap(),
                options: options.try_into().unwrap(),
            })
        }),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "(a|b|c|0|1|)".prop_map(String::from)
}

pub(crate) fn value() -> impl Strategy<Value = Bson> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
            prop::collection::vec((name(), inner.clone()), 0..3)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            (text(), prop::collection::vec((name(), inner), 0..2)).prop_map(|(code, fields)| {
                Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                    code,
                    scope: fields.into_iter().collect(),
                })
            }),
        ]
    })
}

/// Documents whose fields meet the paths of `path`.
fn document() -> impl Strategy<Value = Document> {
    prop::collection::vec((name(), value()), 0..4).prop_map(|fields| fields.into_iter().collect())
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("(a|b|c|0|1)".prop_map(String::from), 1..3).prop_map(|parts| parts.join("."))
}

fn key(v: &Bson, descending: bool) -> Vec<u8> {
    let mut out = Vec::new();
    keycode::encode(&mut out, value_raw(v).as_raw_bson_ref(), descending);
    out
}

/// A number as exact decimal text: sign, digits before and after the point, padded so that texts compare.
fn exact_text(v: &Bson) -> Option<(i8, String)> {
    let (negative, digits, exponent) = match v {
        Bson::Int32(i) => (*i < 0, i.unsigned_abs().to_string(), 0i32),
        Bson::Int64(i) => (*i < 0, i.unsigned_abs().to_string(), 0),
        Bson::Double(d) if d.is_finite() => {
            let text = format!("{:.1080}", d.abs());
            (*d < 0.0, text.replace('.', ""), -1080)
        }
        Bson::Decimal128(d) => {
            let text = d.to_string();
            let (mantissa, exponent) = text.split_once('E').unwrap_or((&text, "0"));
            let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
            if !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (
                text.starts_with('-'),
                digits,
                exponent.parse::<i32>().unwrap() - fraction.len() as i32,
            )
        }
        _ => return None,
    };
    let digits = digits.trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return Some((0, String::new()));
    }
    // The power of ten of the first digit, then the digits: compares as the number does.
    let power = 20_000 + digits.len() as i32 + exponent;
    Some((
        if negative { -1 } else { 1 },
        format!("{power:05}{}", digits.trim_end_matches('0')),
    ))
}

fn exact_order(a: &Bson, b: &Bson) -> Option<Ordering> {
    let ((sign, a), (sign_b, b)) = (exact_text(a)?, exact_text(b)?);
    Some(
        sign.cmp(&sign_b)
            .then_with(|| if sign < 0 { b.cmp(&a) } else { a.cmp(&b) }),
    )
}

fn field_model(doc: &mut Document, name: &str, change: impl FnOnce(Option<&Bson>) -> Option<Bson>) {
    match change(doc.get(name)) {
        Some(v) => drop(doc.insert(name.to_owned(), v)),
        None => drop(doc.remove(name)),
    }
}

/// What an update of one field does, by the book.
fn naive(mut doc: Document, operator: &str, name: &str, v: &Bson) -> Option<Document> {
    match operator {
        "$set" => field_model(&mut doc, name, |_| Some(v.clone())),
        "$unset" => field_model(&mut doc, name, |_| None),
        "$push" => {
            let mut array = match doc.get(name) {
                None => vec![],
                Some(Bson::Array(array)) => array.clone(),
                Some(_) => return None,
            };
            array.push(v.clone());
            field_model(&mut doc, name, |_| Some(Bson::Array(array)));
        }
        "$min" | "$max" => field_model(&mut doc, name, |old| {
            let wanted = if operator == "$min" {
                Ordering::Less
            } else {
                Ordering::Greater
            };
            let Some(old) = old else { return Some(v.clone()) };
            let order = compare(value_raw(v).as_raw_bson_ref(), value_raw(old).as_raw_bson_ref());
            Some(if order == wanted { v.clone() } else { old.clone() })
        }),
        _ => {
            let Bson::Int32(by) = v else { return None };
            let new = match doc.get(name) {
                None => Bson::Int32(*by),
                Some(Bson::Int32(old)) => match old.checked_add(*by) {
                    Some(sum) => Bson::Int32(sum),
                    None => Bson::Int64(i64::from(*old) + i64::from(*by)),
                },
                Some(Bson::Int64(old)) => Bson::Int64(old.checked_add(i64::from(*by))?),
                Some(Bson::Double(old)) => Bson::Double(old + f64::from(*by)),
                Some(Bson::Decimal128(_)) => return Some(Document::new()),
                Some(_) => return None,
            };
            field_model(&mut doc, name, |_| Some(new));
        }
    }
    Some(doc)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn keys_order_as_values(a in value(), b in value(), c in scalar()) {
        let (raw_a, raw_b) = (value_raw(&a), value_raw(&b));
        let order = compare(raw_a.as_raw_bson_ref(), raw_b.as_raw_bson_ref());
        prop_assert_eq!(key(&a, false).cmp(&key(&b, false)), order);
        prop_assert_eq!(key(&a, true).cmp(&key(&b, true)), order.reverse());
        prop_assert_eq!(compare(raw_b.as_raw_bson_ref(), raw_a.as_raw_bson_ref()), order.reverse());
        for descending in [false, true] {
            // Self-delimiting: what follows does not matter, nor does a key begin another.
            let first = key(&a, descending);
            let both = [first.clone(), key(&c, !descending)].concat();
            prop_assert_eq!(keycode::field_len(&both, descending), Some(first.len()));
        }
        let (low, high) = keycode::class_range(raw_a.as_raw_bson_ref());
        prop_assert!(low <= key(&a, false) && key(&a, false) < high);
    }

    #[test]
    fn numbers_order_exactly(a in number(), b in number()) {
        let (raw_a, raw_b) = (value_raw(&a), value_raw(&b));
        let order = compare(raw_a.as_raw_bson_ref(), raw_b.as_raw_bson_ref());
        prop_assert_eq!(key(&a, false).cmp(&key(&b, false)), order, "{} {}", a, b);
        if let Some(exact) = exact_order(&a, &b) {
            prop_assert_eq!(order, exact, "{} {}", a, b);
        }
    }

    #[test]
    fn string_prefixes_are_ranges(prefix in text(), other in text()) {
        let (low, high) = keycode::string_prefix_range(&prefix);
        let key = key(&Bson::String(other.clone()), false);
        prop_assert_eq!(low <= key && key < high, other.starts_with(&prefix));
    }

    #[test]
    fn sort_keys_order_as_comparisons(a in document(), b in document(), p in path(), q in path(), d in prop::bool::ANY) {
        let mut sort = doc! { p.clone(): if d { 1 } else { -1 } };
        sort.entry(q).or_insert(Bson::Int32(1));
        let sort = SortSpec::parse(&raw(&sort)).unwrap();
        let (a, b) = (raw(&a), raw(&b));
        prop_assert_eq!(sort.sort_key(&a).cmp(&sort.sort_key(&b)), sort.compare(&a, &b));
    }

    #[test]
    fn indexes_have_all_that_predicates_match(doc in document(), p in path(), v in scalar(), op in "(eq|lt|lte|gt|gte)") {
        prop_assume!(!matches!(v, Bson::RegularExpression(_) | Bson::Undefined | Bson::MinKey | Bson::MaxKey));
        let filter = doc! { p.clone(): { format!("${op}"): v.clone() } };
        let doc = raw(&doc);
        let (predicate, found) = match Filter::parse(&raw(&filter)).unwrap() {
            Filter::Field { predicate, path } => (predicate, index_values(&doc, &path).values),
            other => panic!("{other:?}"),
        };
        if Filter::parse(&raw(&filter)).unwrap().matches(&doc) {
            let wanted = value_raw(&v);
            let hit = found.iter().any(|v| match predicate {
                Predicate::Lt(_) => compare(*v, wanted.as_raw_bson_ref()).is_lt(),
                Predicate::Lte(_) => compare(*v, wanted.as_raw_bson_ref()).is_le(),
                Predicate::Gt(_) => compare(*v, wanted.as_raw_bson_ref()).is_gt(),
                Predicate::Gte(_) => compare(*v, wanted.as_raw_bson_ref()).is_ge(),
                _ => compare(*v, wanted.as_raw_bson_ref()).is_eq(),
            });
            prop_assert!(hit, "{} {:?}", filter, found);
        }
    }

    #[test]
    fn negation_is_the_complement(doc in document(), p in path(), v in scalar()) {
        prop_assume!(!matches!(v, Bson::RegularExpression(_) | Bson::Undefined));
        let doc = raw(&doc);
        let matches = |filter: Document| Filter::parse(&raw(&filter)).unwrap().matches(&doc);
        let equal = matches(doc! { p.clone(): { "$eq": v.clone() } });
        prop_assert_eq!(matches(doc! { p.clone(): { "$ne": v.clone() } }), !equal);
        prop_assert_eq!(matches(doc! { p.clone(): { "$in": [v.clone()] } }), equal);
        prop_assert_eq!(matches(doc! { p.clone(): { "$nin": [v.clone()] } }), !equal);
        prop_assert_eq!(matches(doc! { "$nor": [{ p: { "$eq": v } }] }), !equal);
    }

    #[test]
    fn updates_do_as_the_model(doc in document(), op in "(set|unset|inc|push|min|max)", at in "(a|b|c|d)", v in scalar(), by in any::<i32>()) {
        let operator = format!("${op}");
        let v = if op == "inc" { Bson::Int32(by) } else { v };
        let update = Update::parse(&raw(&doc! { operator.clone(): { at.clone(): v.clone() } }), &[]).unwrap();
        let before = raw(&doc);
        let after = update.apply(&before, &Filter::AlwaysTrue, NOW, false);
        match naive(doc, &operator, &at, &v) {
            None => prop_assert!(after.is_err()),
            // Decimal arithmetic has tests of its own.
            Some(model) if model.is_empty() && op == "inc" => prop_assert!(after.is_ok()),
            Some(model) => {
                let changed = after.unwrap();
                prop_assert_eq!(changed.is_none(), raw(&model) == before);
                prop_assert_eq!(changed.unwrap_or(before), raw(&model));
            }
        }
    }

    #[test]
    fn looking_an_id_up_finds_what_a_scan_does(ids in prop::collection::vec(scalar(), 1..8), other in scalar()) {
        let docs = memory();
        let documents = ids.iter().zip(0..).map(|(id, n)| doc! { "_id": id.clone(), "n": n });
        let insert = Insert { ordered: false, ..inserts(documents) };
        docs.insert(&ns(), insert, Deadline::NEVER).wait().unwrap();
        for id in ids.iter().chain([&other]) {
            let find = query(doc! { "_id": id.clone() });
            let scan = Find { hint: Some("$natural".into()), ..find.clone() };
            let (found, scanned) = (all(&docs, find), all(&docs, scan));
            prop_assert_eq!(format!("{found:?}"), format!("{scanned:?}"));
        }
    }

    #[test]
    fn set_values_are_found_again(doc in document(), p in path(), v in scalar()) {
        let update = Update::parse(&raw(&doc! { "$set": { p.clone(): v.clone() } }), &[]).unwrap();
        let before = raw(&doc);
        if let Ok(after) = update.apply(&before, &Filter::AlwaysTrue, NOW, false) {
            let after = after.unwrap_or(before);
            let path = Path::parse(&p).unwrap();
            let found = index_values(&after, &path).values;
            let wanted = value_raw(&v);
            prop_assert!(found.iter().any(|found| compare(*found, wanted.as_raw_bson_ref()).is_eq()));
            prop_assert!(update.apply(&after, &Filter::AlwaysTrue, NOW, false).unwrap().is_none());
        }
    }

    #[test]
    fn projections_split_documents(doc in document(), p in path()) {
        let doc = raw(&doc);
        let project = |projection: Document| {
            let projection = Projection::parse(&raw(&projection)).unwrap();
            let projected = projection.apply(&doc, &Filter::AlwaysTrue).unwrap();
            // Projecting again changes nothing.
            let again = projection.apply(&projected, &Filter::AlwaysTrue).unwrap();
            (projected.clone(), again == projected)
        };
        let (included, stable) = project(doc! { p.clone(): 1 });
        prop_assert!(stable);
        let (excluded, stable) = project(doc! { p.clone(): 0 });
        prop_assert!(stable);
        if !p.contains('.') {
            prop_assert_eq!(included.iter().count() + excluded.iter().count(), doc.iter().count());
        }
        let named = |doc: &RawDocumentBuf| doc.get(p.split('.').next().unwrap()).unwrap().map(|v| v.element_type());
        if p.contains('.') {
            prop_assert_eq!(named(&excluded), named(&doc));
        }
    }
}
