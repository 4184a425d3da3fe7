//! Validators: `$jsonSchema` by tables, which writes are asked, what is told of a failure, and options that stay.

use bson::{Bson, bson, doc};
use proptest::prelude::*;

use super::*;

/// Whether documents match a schema, as a query.
#[track_caller]
fn check(schema: Document, matching: &[Document], other: &[Document]) {
    let docs = memory();
    let all = matching.iter().chain(other).cloned();
    insert(
        &docs,
        (0..).zip(all).map(|(id, mut document)| {
            document.insert("_id", id);
            document
        }),
    );
    let count = i32::try_from(matching.len()).unwrap();
    let found = ids(&docs, query(doc! { "$jsonSchema": schema.clone() }));
    assert_eq!(found, (0..count).collect::<Vec<_>>(), "{schema}");
    let others = ids(&docs, query(doc! { "$nor": [{ "$jsonSchema": schema.clone() }] }));
    let total = count + i32::try_from(other.len()).unwrap();
    assert_eq!(others, (count..total).collect::<Vec<_>>(), "{schema}");
}

/// A schema for the field `a`.
#[track_caller]
fn on_a(schema: Document, matching: &[Bson], other: &[Bson]) {
    let wrap = |values: &[Bson]| values.iter().map(|v| doc! { "a": v }).collect::<Vec<_>>();
    let mut fits = wrap(matching);
    fits.push(doc! {});
    check(doc! { "properties": { "a": schema } }, &fits, &wrap(other));
}

#[test]
fn keywords_of_values() {
    let date = Bson::DateTime(bson::DateTime::from_millis(0));
    on_a(
        doc! { "bsonType": "int" },
        &[bson!(1)],
        &[bson!(1.0), bson!(1_i64), bson!("1"), Bson::Null],
    );
    on_a(
        doc! { "bsonType": ["number", "date"] },
        &[bson!(1), bson!(1.5), date.clone()],
        &[bson!("x")],
    );
    on_a(
        doc! { "type": "number" },
        &[bson!(1), bson!(1_i64), bson!(0.5)],
        &[date, bson!([1])],
    );
    on_a(
        doc! { "type": ["boolean", "null"] },
        &[bson!(true), Bson::Null],
        &[bson!(0)],
    );
    on_a(
        doc! { "type": "array" },
        &[bson!([]), bson!([1])],
        &[bson!({}), bson!(1)],
    );
    on_a(
        doc! { "enum": [1, "x", [2], Bson::Null] },
        &[bson!(1), bson!(1.0), bson!([2]), Bson::Null],
        &[bson!(2), bson!([1])],
    );
    on_a(
        doc! { "minimum": 2 },
        &[bson!(2), bson!(2.5), bson!("x"), bson!([1])],
        &[bson!(1.9), bson!(f64::NAN)],
    );
    on_a(
        doc! { "minimum": 2, "exclusiveMinimum": true },
        &[bson!(3)],
        &[bson!(2), bson!(2.0)],
    );
    on_a(
        doc! { "maximum": 2 },
        &[bson!(2_i64), bson!(-1), bson!("x")],
        &[bson!(2.1), bson!(f64::NAN)],
    );
    on_a(
        doc! { "maximum": 2, "exclusiveMaximum": true },
        &[bson!(1.9)],
        &[bson!(2)],
    );
    on_a(
        doc! { "maximum": 2, "exclusiveMaximum": false },
        &[bson!(2)],
        &[bson!(3)],
    );
    let tenth: bson::Decimal128 = "0.1".parse().unwrap();
    let (third, fifth): (bson::Decimal128, bson::Decimal128) =
        ("0.3".parse().unwrap(), "0.25".parse().unwrap());
    on_a(
        doc! { "multipleOf": 3 },
        &[bson!(0), bson!(-9), bson!(6.0), bson!("x")],
        &[bson!(4), bson!(3.5)],
    );
    on_a(
        doc! { "multipleOf": 0.5 },
        &[bson!(2), bson!(1.5)],
        &[bson!(1.2), bson!(f64::INFINITY)],
    );
    on_a(
        doc! { "multipleOf": tenth },
        &[Bson::Decimal128(third)],
        &[Bson::Decimal128(fifth)],
    );
    // Length counts characters, not bytes.
    on_a(
        doc! { "minLength": 2, "maxLength": 3 },
        &[bson!("ab"), bson!("äöü"), bson!(1)],
        &[bson!("a"), bson!("abcd")],
    );
    on_a(
        doc! { "pattern": "^a.c" },
        &[bson!("abcd"), bson!(1)],
        &[bson!("xabc")],
    );
}

#[test]
fn keywords_of_arrays() {
    on_a(
        doc! { "items": { "type": "number" } },
        &[bson!([]), bson!([1, 2.5]), bson!("x")],
        &[bson!([1, "x"])],
    );
    let tuple = doc! { "items": [{ "type": "number" }, { "type": "string" }] };
    on_a(
        tuple.clone(),
        &[bson!([1]), bson!([1, "x", null])],
        &[bson!(["x"]), bson!([1, 2])],
    );
    let mut closed = tuple.clone();
    closed.insert("additionalItems", false);
    on_a(closed, &[bson!([1]), bson!([1, "x"])], &[bson!([1, "x", null])]);
    let mut typed = tuple;
    typed.insert("additionalItems", doc! { "type": "boolean" });
    on_a(typed, &[bson!([1, "x", true])], &[bson!([1, "x", true, 1])]);
    on_a(doc! { "additionalItems": false }, &[bson!([1, 2])], &[]);
    on_a(
        doc! { "minItems": 1, "maxItems": 2 },
        &[bson!([1]), bson!([1, 2]), bson!(1)],
        &[bson!([]), bson!([1, 2, 3])],
    );
    on_a(
        doc! { "uniqueItems": true },
        &[bson!([]), bson!([1, 2, "1"]), bson!([[1], [2]])],
        &[bson!([1, 2, 1.0]), bson!([[1], [1]])],
    );
    on_a(doc! { "uniqueItems": false }, &[bson!([1, 1])], &[]);
}

#[test]
fn keywords_of_documents() {
    check(doc! {}, &[doc! {}, doc! { "a": 1 }], &[]);
    check(
        doc! { "required": ["a", "b"] },
        &[doc! { "a": 1, "b": Bson::Null }],
        &[doc! { "a": 1 }, doc! {}],
    );
    let closed =
        doc! { "properties": { "_id": {}, "a": { "type": "number" } }, "additionalProperties": false };
    check(
        closed,
        &[doc! {}, doc! { "a": 1 }],
        &[doc! { "a": "x" }, doc! { "a": 1, "b": 1 }],
    );
    let patterns = doc! {
        "properties": { "_id": {} },
        "patternProperties": { "^n": { "type": "number" }, "t$": { "type": "string" } },
        "additionalProperties": { "type": "boolean" },
    };
    check(
        patterns,
        &[doc! {}, doc! { "n1": 1, "at": "x", "other": true }],
        &[doc! { "n1": "x" }, doc! { "nt": 1 }, doc! { "other": 1 }],
    );
    check(
        doc! { "minProperties": 2, "maxProperties": 3 },
        &[doc! { "a": 1 }, doc! { "a": 1, "b": 1 }],
        &[doc! {}, doc! { "a": 1, "b": 1, "c": 1 }],
    );
    let dependent = doc! { "dependencies": { "a": ["b"], "c": { "required": ["d"] } } };
    check(
        dependent,
        &[doc! {}, doc! { "a": 1, "b": 1 }, doc! { "c": 1, "d": 1 }],
        &[doc! { "a": 1 }, doc! { "c": 1 }],
    );
    let inner = doc! { "properties": { "a": { "bsonType": "object", "required": ["b"], "properties": { "b": { "minimum": 1 } } } } };
    check(
        inner,
        &[doc! {}, doc! { "a": { "b": 1 } }],
        &[
            doc! { "a": {} },
            doc! { "a": { "b": 0 } },
            doc! { "a": [{ "b": 1 }] },
        ],
    );
}

#[test]
fn schemas_of_schemas() {
    let (low, even) = (doc! { "maximum": 5 }, doc! { "multipleOf": 2 });
    let both = [low, even];
    on_a(
        doc! { "allOf": both.to_vec() },
        &[bson!(4), bson!("x")],
        &[bson!(3), bson!(6), bson!(7)],
    );
    on_a(
        doc! { "anyOf": both.to_vec() },
        &[bson!(4), bson!(3), bson!(6)],
        &[bson!(7)],
    );
    on_a(
        doc! { "oneOf": both.to_vec() },
        &[bson!(3), bson!(6)],
        &[bson!(4), bson!(7)],
    );
    on_a(doc! { "not": { "type": "string" } }, &[bson!(1)], &[bson!("x")]);
}

#[test]
fn what_is_no_schema_is_refused() {
    let docs = memory();
    for (schema, code) in [
        (bson!(1), Code::TypeMismatch),
        (
            bson!({ "type": "string", "bsonType": "string" }),
            Code::FailedToParse,
        ),
        (bson!({ "type": "integer" }), Code::FailedToParse),
        (bson!({ "type": "text" }), Code::BadValue),
        (bson!({ "bsonType": 1 }), Code::TypeMismatch),
        (bson!({ "bsonType": [] }), Code::FailedToParse),
        (bson!({ "required": [] }), Code::FailedToParse),
        (bson!({ "required": ["a", "a"] }), Code::FailedToParse),
        (bson!({ "required": "a" }), Code::TypeMismatch),
        (bson!({ "enum": [1, 1.0] }), Code::FailedToParse),
        (bson!({ "exclusiveMinimum": true }), Code::FailedToParse),
        (bson!({ "exclusiveMaximum": 1, "maximum": 1 }), Code::TypeMismatch),
        (bson!({ "multipleOf": 0 }), Code::FailedToParse),
        (bson!({ "minLength": -1 }), Code::FailedToParse),
        (bson!({ "minItems": 1.5 }), Code::FailedToParse),
        (bson!({ "pattern": "(" }), Code::BadValue),
        (bson!({ "properties": { "a": 1 } }), Code::TypeMismatch),
        (bson!({ "additionalProperties": 1 }), Code::TypeMismatch),
        (bson!({ "$ref": "#/x" }), Code::FailedToParse),
        (bson!({ "minimun": 1 }), Code::FailedToParse),
        (bson!({ "title": 1 }), Code::TypeMismatch),
    ] {
        let find = query(doc! { "$jsonSchema": schema.clone() });
        let error = all(&docs, find).unwrap_err();
        assert_eq!(error.code(), code, "{schema}: {error}");
    }
}

fn validated(validator: Document, level: ValidationLevel, action: ValidationAction) -> Docs {
    let docs = memory();
    let options = CollectionOptions {
        validator: Some(raw(validator)),
        validation_level: level,
        validation_action: action,
        ..CollectionOptions::default()
    };
    docs.create_collection_with(&ns(), options).wait().unwrap();
    docs
}

fn strict() -> Docs {
    let validator = doc! { "n": { "$gte": 0 } };
    validated(validator, ValidationLevel::Strict, ValidationAction::Error)
}

fn change(docs: &Docs, change: CollectionChange) -> Result<()> {
    docs.modify_collection(&ns(), change).wait()
}

fn set_n(filter: Document, n: i32) -> Update {
    updates(vec![update_one(filter, doc! { "$set": { "n": n } })])
}

#[track_caller]
fn refused(errors: &[WriteError], id: impl Into<Bson>) {
    let [failed] = errors else {
        panic!("one failure is expected: {errors:?}")
    };
    assert_eq!(failed.error.code(), Code::DocumentValidationFailure);
    let info = Document::try_from(failed.error.info().unwrap()).unwrap();
    assert_eq!(info.get("failingDocumentId"), Some(&id.into()));
    assert!(info.get_document("details").unwrap().contains_key("operatorName"));
}

#[test]
fn every_write_is_asked_and_may_pass_over() {
    let docs = strict();
    let run = |update: Update| docs.update(&ns(), update, Deadline::NEVER).wait().unwrap();
    let done = insert(
        &docs,
        [
            doc! { "_id": 1, "n": 1 },
            doc! { "_id": 2, "n": -1 },
            doc! { "_id": 3 },
        ],
    );
    assert_eq!(done.ids.len(), 1);
    refused(&done.errors, 2);
    refused(&run(set_n(doc! { "_id": 1 }, -1)).errors, 1);
    let replaced = run(updates(vec![update_one(doc! { "_id": 1 }, doc! { "m": 1 })]));
    refused(&replaced.errors, 1);
    let upsert = UpdateOne {
        upsert: true,
        ..update_one(doc! { "_id": 9 }, doc! { "$set": { "n": -1 } })
    };
    refused(&run(updates(vec![upsert])).errors, 9);
    let modify = FindAndModify {
        filter: raw(doc! { "_id": 1 }),
        update: Some(raw(doc! { "$set": { "n": -1 } })),
        ..FindAndModify::default()
    };
    let error = docs
        .find_and_modify(&ns(), modify.clone(), Deadline::NEVER)
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::DocumentValidationFailure);
    let out = |bypass_validation| Aggregate {
        pipeline: vec![
            raw(doc! { "$documents": [{ "_id": 1, "n": 5 }, { "_id": 4, "n": -1 }] }),
            raw(doc! { "$merge": "c" }),
        ],
        bypass_validation,
        ..Aggregate::default()
    };
    let error = docs
        .aggregate(&ns(), out(false), Deadline::NEVER)
        .wait()
        .unwrap_err();
    assert_eq!(error.code(), Code::DocumentValidationFailure);
    assert_eq!(all(&docs, query(doc! {})).unwrap(), [doc! { "_id": 1, "n": 1 }]);

    let bypassing = Insert {
        bypass_validation: true,
        ..inserts([doc! { "_id": 2, "n": -1 }])
    };
    let done = docs
        .insert(&ns(), bypassing.clone(), Deadline::NEVER)
        .wait()
        .unwrap();
    assert!(done.errors.is_empty());
    let done = run(Update {
        bypass_validation: true,
        ..set_n(doc! { "_id": 1 }, -2)
    });
    assert!(done.errors.is_empty());
    let modify = FindAndModify {
        bypass_validation: true,
        ..modify
    };
    docs.find_and_modify(&ns(), modify, Deadline::NEVER)
        .wait()
        .unwrap();
    docs.aggregate(&ns(), out(true), Deadline::NEVER).wait().unwrap();
    assert_eq!(ids(&docs, query(doc! { "n": -1 })), [2, 4]);

    // What passes over is the statement's affair, not that of the others in its commit.
    let writes = vec![
        Write::Insert(
            ns(),
            Insert {
                bypass_validation: true,
                ..inserts([doc! { "_id": 7 }])
            },
        ),
        Write::Insert(ns(), inserts([doc! { "_id": 8 }])),
    ];
    let error = docs.transact(writes, Deadline::NEVER).wait().unwrap_err();
    assert_eq!(error.code(), Code::DocumentValidationFailure);
    let transaction = docs.start_transaction().unwrap();
    let done = transaction.insert(
        &ns(),
        Insert {
            ordered: true,
            bypass_validation: true,
            ..inserts([doc! { "_id": 7 }])
        },
        Deadline::NEVER,
    );
    assert!(done.wait().unwrap().errors.is_empty());
    let done = transaction.insert(&ns(), inserts([doc! { "_id": 8 }]), Deadline::NEVER);
    refused(&done.wait().unwrap().errors, 8);
}

#[test]
fn an_expression_is_parsed_once_and_the_time_is_each_operations() {
    let clock = Arc::new(cloudlet_base::ManualClock::at_millis(1_000_000));
    let docs = super::clocked(Limits::default(), &clock);
    let make = |validator: Document| {
        let options = CollectionOptions {
            validator: Some(raw(validator)),
            ..CollectionOptions::default()
        };
        docs.drop_collection(&ns()).wait().ok();
        docs.create_collection_with(&ns(), options).wait().unwrap();
    };
    let filter_is_kept = || {
        let catalog = docs.lanes.engine().catalog().unwrap();
        let collection = catalog.collection(&ns()).unwrap();
        collection.validator.as_ref().unwrap().is_parsed()
    };
    make(doc! { "$expr": { "$lt": ["$n", "$m"] } });
    assert!(!filter_is_kept());
    assert!(insert(&docs, [doc! { "n": 1, "m": 2 }]).errors.is_empty());
    assert!(filter_is_kept());
    assert_eq!(insert(&docs, [doc! { "n": 2, "m": 2 }]).errors.len(), 1);
    make(doc! { "$expr": { "$lt": ["$at", "$$NOW"] } });
    let at = bson::DateTime::from_millis(1_050_000);
    assert_eq!(insert(&docs, [doc! { "at": at }]).errors.len(), 1);
    clock.advance(std::time::Duration::from_secs(100));
    assert!(insert(&docs, [doc! { "at": at }]).errors.is_empty());
    assert!(!filter_is_kept());
}

#[test]
fn levels_and_actions() {
    let docs = strict();
    change(
        &docs,
        CollectionChange {
            validation_level: Some(ValidationLevel::Off),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    assert!(
        insert(&docs, [doc! { "_id": 1, "n": -1 }, doc! { "_id": 2, "n": 1 }])
            .errors
            .is_empty()
    );
    change(
        &docs,
        CollectionChange {
            validation_level: Some(ValidationLevel::Moderate),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    let run = |update: Update| docs.update(&ns(), update, Deadline::NEVER).wait().unwrap();
    assert!(
        run(set_n(doc! { "_id": 1 }, -2)).errors.is_empty(),
        "it did not match before"
    );
    refused(&run(set_n(doc! { "_id": 2 }, -2)).errors, 2);
    refused(&insert(&docs, [doc! { "_id": 3 }]).errors, 3);
    change(
        &docs,
        CollectionChange {
            validation_level: Some(ValidationLevel::Strict),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    refused(&run(set_n(doc! { "_id": 1 }, -3)).errors, 1);
    change(
        &docs,
        CollectionChange {
            validation_action: Some(ValidationAction::Warn),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    assert!(insert(&docs, [doc! { "_id": 3 }]).errors.is_empty());
    change(
        &docs,
        CollectionChange {
            validator: Some(raw(doc! { "$expr": { "$lt": ["$n", "$m"] } })),
            validation_action: Some(ValidationAction::Error),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    let done = insert(
        &docs,
        [
            doc! { "_id": 4, "n": 1, "m": 2 },
            doc! { "_id": 5, "n": 2, "m": 2 },
        ],
    );
    refused(&done.errors, 5);
    change(
        &docs,
        CollectionChange {
            validator: Some(raw(doc! {})),
            ..CollectionChange::default()
        },
    )
    .unwrap();
    assert!(insert(&docs, [doc! { "_id": 6 }]).errors.is_empty());
    assert_eq!(
        docs.collection_options(&ns()).wait().unwrap(),
        CollectionOptions::default()
    );
}

#[test]
fn options_that_can_not_be_are_refused() {
    let docs = memory();
    let with = |validator: Document| CollectionOptions {
        validator: Some(raw(validator)),
        ..CollectionOptions::default()
    };
    let make = |ns: Namespace, validator| {
        docs.create_collection_with(&ns, with(validator))
            .wait()
            .unwrap_err()
            .code()
    };
    assert_eq!(make(ns(), doc! { "$nope": 1 }), Code::BadValue);
    assert_eq!(
        make(Namespace::new("admin", "c"), doc! { "a": 1 }),
        Code::InvalidOptions
    );
    assert_eq!(
        make(ns(), doc! { "a": "x".repeat(300_000) }),
        Code::BSONObjectTooLarge
    );
    assert_eq!(
        docs.list_collections("db").wait().unwrap(),
        Vec::<Arc<str>>::new()
    );
    let missing = change(&docs, CollectionChange::default()).unwrap_err();
    assert_eq!(missing.code(), Code::NamespaceNotFound);
    docs.create_collection_with(&ns(), with(doc! { "a": 1 }))
        .wait()
        .unwrap();
    assert_eq!(make(ns(), doc! { "a": 1 }), Code::NamespaceExists);
}

/// The details of the failure of a document with `_id` 1.
fn details(validator: Document, mut document: Document) -> Document {
    document.insert("_id", 1);
    let docs = validated(validator, ValidationLevel::Strict, ValidationAction::Error);
    let mut done = insert(&docs, [document]);
    let error = done.errors.pop().unwrap().error;
    assert_eq!(error.to_string(), "Document failed validation");
    let info = Document::try_from(error.info().unwrap()).unwrap();
    info.get_document("details").unwrap().clone()
}

#[test]
fn failures_are_explained() {
    assert_eq!(
        details(doc! { "a": { "$gt": 5 } }, doc! { "a": 3 }),
        doc! { "operatorName": "$gt", "specifiedAs": { "a": { "$gt": 5 } }, "reason": "comparison failed", "consideredValue": 3 }
    );
    assert_eq!(
        details(
            doc! { "a": 1, "b": { "$exists": true }, "c": { "$type": "int", "$lt": 3 } },
            doc! { "a": 1, "c": 4 }
        ),
        doc! { "operatorName": "$and", "clausesNotSatisfied": [
            { "index": 1, "details": { "operatorName": "$exists", "specifiedAs": { "b": { "$exists": true } }, "reason": "path does not exist" } },
            { "index": 2, "details": { "operatorName": "$and", "clausesNotSatisfied": [
                { "index": 1, "details": { "operatorName": "$lt", "specifiedAs": { "c": { "$lt": 3 } }, "reason": "comparison failed", "consideredValue": 4 } },
            ] } },
        ] }
    );
    let schema = doc! { "$jsonSchema": {
        "title": "person",
        "required": ["name", "age"],
        "properties": {
            "name": { "bsonType": "string", "description": "what to call them" },
            "tags": { "items": { "type": "string" } },
        },
        "patternProperties": { "^_id$": {} },
        "additionalProperties": false,
    } };
    assert_eq!(
        details(schema, doc! { "name": 1, "tags": ["x", 2], "other": 1 }),
        doc! { "operatorName": "$jsonSchema", "title": "person", "schemaRulesNotSatisfied": [
            { "operatorName": "required", "specifiedAs": { "required": ["name", "age"] }, "missingProperties": ["age"] },
            { "operatorName": "properties", "propertiesNotSatisfied": [
                { "propertyName": "name", "description": "what to call them", "details": [
                    { "operatorName": "bsonType", "specifiedAs": { "bsonType": "string" }, "reason": "type did not match", "consideredValue": 1, "consideredType": "int" },
                ] },
                { "propertyName": "tags", "details": [
                    { "operatorName": "items", "specifiedAs": { "items": { "type": "string" } }, "reason": "At least one item did not match the sub-schema", "itemIndex": 1, "details": [
                        { "operatorName": "type", "specifiedAs": { "type": "string" }, "reason": "type did not match", "consideredValue": 2, "consideredType": "int" },
                    ] },
                ] },
            ] },
            { "operatorName": "additionalProperties", "specifiedAs": { "additionalProperties": false }, "additionalProperties": ["other"] },
        ] }
    );
    // However large the document, what is told of it stays small.
    let many: Document = (0..200_000)
        .map(|i| (format!("field number {i}"), bson!("x")))
        .collect();
    let long = details(
        doc! { "$jsonSchema": { "additionalProperties": { "type": "number" } } },
        many,
    );
    assert!(raw(long).as_bytes().len() < 2_000_000);
}

#[test]
fn options_stay_and_move_with_the_collection() {
    let directory = tempfile::tempdir().unwrap();
    let config = || Config {
        path: Some(directory.path().join("db")),
        ..Config::default()
    };
    let options = CollectionOptions {
        validator: Some(raw(doc! { "n": { "$gte": 0 } })),
        validation_level: ValidationLevel::Moderate,
        validation_action: ValidationAction::Warn,
        ..CollectionOptions::default()
    };
    let renamed = Namespace::new("db", "d");
    {
        let docs = open(config()).unwrap();
        docs.create_collection_with(&ns(), options.clone())
            .wait()
            .unwrap();
        make_index(&docs, index(&[("n", 1)]));
        docs.rename_collection(&ns(), &renamed, false).wait().unwrap();
    }
    let docs = open(config()).unwrap();
    assert_eq!(docs.collection_options(&renamed).wait().unwrap(), options);
    let change = CollectionChange {
        validation_action: Some(ValidationAction::Error),
        ..CollectionChange::default()
    };
    docs.modify_collection(&renamed, change).wait().unwrap();
    let done = docs.insert(&renamed, inserts([doc! { "_id": 1 }]), Deadline::NEVER);
    refused(&done.wait().unwrap().errors, 1);
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        Just(Bson::Null),
        any::<bool>().prop_map(Bson::Boolean),
        (-3..4).prop_map(Bson::Int32),
        (-3..4).prop_map(|n| Bson::Double(f64::from(n) / 2.0)),
        "[a-c]{0,3}".prop_map(Bson::String),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

fn schema() -> impl Strategy<Value = Document> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["number", "string", "boolean", "object", "array", "null"])
            .prop_map(|name| doc! { "type": name }),
        (-3..4).prop_map(|n| doc! { "minimum": n }),
        (-3..4).prop_map(|n| doc! { "maximum": n, "exclusiveMaximum": true }),
        (1..3).prop_map(|n| doc! { "multipleOf": n }),
        (0..3).prop_map(|n| doc! { "maxLength": n }),
        (0..3).prop_map(|n| doc! { "minItems": n }),
        (0..3).prop_map(|n| doc! { "maxProperties": n }),
        Just(doc! { "uniqueItems": true }),
        Just(doc! { "required": ["a"] }),
        Just(doc! { "pattern": "a" }),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let some = prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            inner.clone().prop_map(|s| doc! { "properties": { "a": s } }),
            inner
                .clone()
                .prop_map(|s| doc! { "properties": { "a": {} }, "additionalProperties": s }),
            inner.clone().prop_map(|s| doc! { "items": s }),
            inner
                .clone()
                .prop_map(|s| doc! { "items": [{}], "additionalItems": s }),
            inner.prop_map(|s| doc! { "not": s }),
            some.clone().prop_map(|s| doc! { "allOf": s }),
            some.clone().prop_map(|s| doc! { "anyOf": s }),
            some.prop_map(|s| doc! { "oneOf": s }),
        ]
    })
}

/// A plain reading of the keywords that [`schema`] makes.
fn meets(schema: &Document, v: &Bson) -> bool {
    let number = v.as_f64().or(v.as_i32().map(f64::from));
    let of = |s: &Bson, v: &Bson| meets(s.as_document().unwrap(), v);
    let list = |s: &Bson| s.as_array().unwrap().clone();
    schema.iter().all(|(name, s)| match name.as_str() {
        "type" => match s.as_str().unwrap() {
            "number" => number.is_some(),
            "string" => v.as_str().is_some(),
            "boolean" => v.as_bool().is_some(),
            "object" => v.as_document().is_some(),
            "array" => v.as_array().is_some(),
            _ => *v == Bson::Null,
        },
        "minimum" => number.is_none_or(|n| n >= f64::from(s.as_i32().unwrap())),
        "maximum" => number.is_none_or(|n| n < f64::from(s.as_i32().unwrap())),
        "multipleOf" => number.is_none_or(|n| n % f64::from(s.as_i32().unwrap()) == 0.0),
        "maxLength" => v
            .as_str()
            .is_none_or(|text| text.len() as i32 <= s.as_i32().unwrap()),
        "minItems" => v
            .as_array()
            .is_none_or(|all| all.len() as i32 >= s.as_i32().unwrap()),
        "maxProperties" => v
            .as_document()
            .is_none_or(|doc| doc.len() as i32 <= s.as_i32().unwrap()),
        "uniqueItems" => v.as_array().is_none_or(|all| {
            let same = |a: &Bson, b: &Bson| {
                crate::value::compare(
                    bson::RawBson::try_from(a.clone()).unwrap().as_raw_bson_ref(),
                    bson::RawBson::try_from(b.clone()).unwrap().as_raw_bson_ref(),
                )
                .is_eq()
            };
            !(0..all.len()).any(|i| (0..i).any(|j| same(&all[i], &all[j])))
        }),
        "required" => v.as_document().is_none_or(|doc| doc.contains_key("a")),
        "pattern" => v.as_str().is_none_or(|text| text.contains('a')),
        "properties" => v
            .as_document()
            .and_then(|doc| doc.get("a"))
            .is_none_or(|v| of(&s.as_document().unwrap()["a"], v)),
        "additionalProperties" => v
            .as_document()
            .is_none_or(|doc| doc.iter().filter(|(name, _)| *name != "a").all(|(_, v)| of(s, v))),
        "items" => v.as_array().is_none_or(|all| match s {
            Bson::Document(s) => all.iter().all(|v| meets(s, v)),
            _ => true,
        }),
        "additionalItems" => v
            .as_array()
            .is_none_or(|all| all.iter().skip(1).all(|v| of(s, v))),
        "not" => !of(s, v),
        "allOf" => list(s).iter().all(|s| of(s, v)),
        "anyOf" => list(s).iter().any(|s| of(s, v)),
        "oneOf" => list(s).iter().filter(|s| of(s, v)).count() == 1,
        _ => true,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A schema means what a plain reading of it does, and whatever it refuses it has reasons for.
    #[test]
    fn schemas_mean_what_they_say(schema in schema(), v in value()) {
        let document = raw(doc! { "v": v.clone() });
        let parsed = crate::query::Filter::parse(&raw(doc! { "$jsonSchema": { "properties": { "v": schema.clone() } } })).unwrap();
        prop_assert_eq!(parsed.matches(&document), meets(&schema, &v));
        let crate::query::Filter::Schema(parsed) = parsed else { panic!("a schema is expected") };
        prop_assert_eq!(parsed.failures(&document).is_empty(), meets(&schema, &v));
    }
}
