//! `$jsonSchema`: MongoDB's JSON Schema (draft 4 with `bsonType`) as a type, whether a document meets it, and what it
//! does not meet, in the shape of `errInfo.details` of a failed validation.
//!
//! A keyword speaks of values of its own kind only: `minimum` says nothing about a string. Annotations (`title`,
//! `description`) are checked and shown. How deep a schema can nest is bounded by how deep a filter can.

use std::cmp::Ordering;
use std::collections::HashSet;

use bson::raw::cstr;
use bson::spec::ElementType;
use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::Regex;
use super::parse::add_type;
use crate::catalog::append;
use crate::expression::Number;
use crate::validation::VALUE_BYTES_MAX;
use crate::value::{as_whole, compare, elements, field, fields, is_nan, is_number, raw_fields, type_name};
use crate::{Code, Error, Result};

/// Bytes of one list of failures, beyond which the rest is left out.
const FAILURES_BYTES_MAX: usize = 256 * 1024;

/// Keywords of JSON Schema that MongoDB knows and refuses.
const REFUSED: [&str; 6] = ["$ref", "$schema", "default", "definitions", "format", "id"];

/// A schema for one value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    title: Option<Box<str>>,
    description: Option<Box<str>>,
    rules: Vec<Rule>,
}

/// A keyword and what was given for it.
#[derive(Debug, Clone)]
struct Rule {
    name: &'static str,
    given: RawBson,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Types(Vec<ElementType>),
    Enum(Vec<RawBson>),
    Minimum {
        exclusive: bool,
    },
    Maximum {
        exclusive: bool,
    },
    MultipleOf(Number),
    Length(Bound),
    Pattern(Regex),
    Items(Box<Schema>),
    /// The first elements by place.
    Tuple(Vec<Schema>),
    /// The elements after the tuple's; `None` refuses them.
    AdditionalItems {
        after: usize,
        schema: Option<Box<Schema>>,
    },
    ItemCount(Bound),
    UniqueItems,
    Required(Vec<Box<str>>),
    Properties(Vec<(Box<str>, Schema)>),
    PatternProperties(Vec<(Regex, Schema)>),
    AdditionalProperties(Box<Additional>),
    PropertyCount(Bound),
    Dependencies(Vec<(Box<str>, Dependency)>),
    AllOf(Vec<Schema>),
    AnyOf(Vec<Schema>),
    OneOf(Vec<Schema>),
    Not(Box<Schema>),
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(u64),
    AtMost(u64),
}

impl Bound {
    fn admits(self, count: usize) -> bool {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        match self {
            Bound::AtLeast(least) => count >= least,
            Bound::AtMost(most) => count <= most,
        }
    }
}

/// Which properties are additional, and what they must be; without a schema there may be none.
#[derive(Debug, Clone)]
struct Additional {
    named: HashSet<Box<str>>,
    patterns: Vec<Regex>,
    schema: Option<Schema>,
}

impl Additional {
    fn covers(&self, name: &str) -> bool {
        !self.named.contains(name) && !self.patterns.iter().any(|pattern| pattern.matches_text(name))
    }
}

/// What a document with a property needs besides.
#[derive(Debug, Clone)]
enum Dependency {
    Properties(Vec<Box<str>>),
    Schema(Schema),
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(Code::FailedToParse, message)
}

fn mismatch(name: &str, expected: &str, v: RawBsonRef<'_>) -> Error {
    Error::new(
        Code::TypeMismatch,
        format!(
            "$jsonSchema keyword '{name}' must be {expected}, but found {}",
            type_name(v)
        ),
    )
}

fn document<'v>(name: &str, v: RawBsonRef<'v>) -> Result<&'v RawDocument> {
    v.as_document().ok_or_else(|| mismatch(name, "an object", v))
}

fn text<'v>(name: &str, v: RawBsonRef<'v>) -> Result<&'v str> {
    v.as_str().ok_or_else(|| mismatch(name, "a string", v))
}

fn flag(name: &str, v: RawBsonRef<'_>) -> Result<bool> {
    v.as_bool().ok_or_else(|| mismatch(name, "a boolean", v))
}

fn count(name: &str, v: RawBsonRef<'_>) -> Result<u64> {
    if !is_number(v) {
        return Err(mismatch(name, "a number", v));
    }
    let whole = as_whole(v).and_then(|whole| u64::try_from(whole).ok());
    whole.ok_or_else(|| {
        refuse(format!(
            "$jsonSchema keyword '{name}' must be a whole number that is not negative"
        ))
    })
}

fn list<'v>(name: &str, v: RawBsonRef<'v>) -> Result<Vec<RawBsonRef<'v>>> {
    let array = v.as_array().ok_or_else(|| mismatch(name, "an array", v))?;
    let all: Vec<_> = elements(array).collect();
    if all.is_empty() {
        return Err(refuse(format!(
            "$jsonSchema keyword '{name}' cannot be an empty array"
        )));
    }
    Ok(all)
}

/// One name of a type or several.
fn type_names(name: &str, v: RawBsonRef<'_>, alias: fn(&str) -> Result<&str>) -> Result<Vec<ElementType>> {
    let given = match v {
        RawBsonRef::String(_) => vec![v],
        v => list(name, v)?,
    };
    let mut types = Vec::new();
    for one in given {
        add_type(&mut types, RawBsonRef::String(alias(text(name, one)?)?))?;
    }
    Ok(types)
}

/// A type's name as it stands.
fn bson_type(name: &str) -> Result<&str> {
    Ok(name)
}

/// MongoDB's name for a type of JSON.
fn json_type(name: &str) -> Result<&str> {
    match name {
        "boolean" => Ok("bool"),
        "array" | "null" | "number" | "object" | "string" => Ok(name),
        "integer" => Err(refuse("$jsonSchema type 'integer' is not currently supported")),
        _ => Err(Error::new(
            Code::BadValue,
            format!("unknown type name alias: {name}"),
        )),
    }
}

/// Names of properties, each once.
fn names(name: &str, v: RawBsonRef<'_>) -> Result<Vec<Box<str>>> {
    let mut seen = HashSet::new();
    let mut names: Vec<Box<str>> = Vec::new();
    for element in list(name, v)? {
        let property = text(name, element)?;
        if !seen.insert(property) {
            return Err(refuse(format!(
                "$jsonSchema keyword '{name}' array cannot contain duplicate values"
            )));
        }
        names.push(property.into());
    }
    Ok(names)
}

fn schemas(name: &str, v: RawBsonRef<'_>) -> Result<Vec<Schema>> {
    list(name, v)?
        .into_iter()
        .map(|v| Schema::parse(document(name, v)?))
        .collect()
}

/// A boolean or a schema: `true` asks for nothing, `false` (`None`) admits nothing.
fn schema_or_flag(name: &str, v: RawBsonRef<'_>) -> Result<Option<Schema>> {
    match v {
        RawBsonRef::Boolean(true) => Ok(Some(Schema::default())),
        RawBsonRef::Boolean(false) => Ok(None),
        RawBsonRef::Document(doc) => Schema::parse(doc).map(Some),
        v => Err(mismatch(name, "an object or a boolean", v)),
    }
}

fn named_schemas(name: &str, v: RawBsonRef<'_>) -> Result<Vec<(Box<str>, Schema)>> {
    fields(document(name, v)?)
        .map(|(property, v)| Ok((property.into(), Schema::parse(document(property, v)?)?)))
        .collect()
}

fn patterns(v: RawBsonRef<'_>) -> Result<Vec<(Regex, Schema)>> {
    fields(document("patternProperties", v)?)
        .map(|(pattern, v)| Ok((Regex::new(pattern, "")?, Schema::parse(document(pattern, v)?)?)))
        .collect()
}

fn dependencies(v: RawBsonRef<'_>) -> Result<Vec<(Box<str>, Dependency)>> {
    fields(document("dependencies", v)?)
        .map(|(property, v)| {
            let needs = match v {
                RawBsonRef::Document(doc) => Dependency::Schema(Schema::parse(doc)?),
                v => Dependency::Properties(names("dependencies", v)?),
            };
            Ok((property.into(), needs))
        })
        .collect()
}

impl Schema {
    /// Parses a schema; the document is well-formed and not too deep.
    ///
    /// # Errors
    /// `FailedToParse` for an unknown keyword or one that can't be as it is, `TypeMismatch`, `BadValue`.
    pub(super) fn parse(doc: &RawDocument) -> Result<Schema> {
        let mut schema = Schema::default();
        if field(doc, "type").is_some() && field(doc, "bsonType").is_some() {
            return Err(refuse(
                "Cannot specify both $jsonSchema keywords 'type' and 'bsonType'",
            ));
        }
        for (limit, of) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
            if let Some(v) = field(doc, limit) {
                flag(limit, v)?;
                if field(doc, of).is_none() {
                    return Err(refuse(format!(
                        "$jsonSchema keyword '{of}' must be a present if {limit} is present"
                    )));
                }
            }
        }
        for (name, v) in fields(doc) {
            match name {
                "title" => schema.title = Some(text(name, v)?.into()),
                "description" => schema.description = Some(text(name, v)?.into()),
                name => schema.rules.extend(rule(doc, name, v)?),
            }
        }
        Ok(schema)
    }

    /// Whether the document meets the schema.
    pub(super) fn accepts(&self, doc: &RawDocument) -> bool {
        self.meets(RawBsonRef::Document(doc))
    }

    fn meets(&self, v: RawBsonRef<'_>) -> bool {
        self.rules.iter().all(|rule| rule.meets(v))
    }

    /// What of the schema a document does not meet: MongoDB's `schemaRulesNotSatisfied`.
    pub(crate) fn failures(&self, doc: &RawDocument) -> RawArrayBuf {
        self.unmet(RawBsonRef::Document(doc))
    }

    fn unmet(&self, v: RawBsonRef<'_>) -> RawArrayBuf {
        let mut unmet = RawArrayBuf::new();
        for rule in self.rules.iter().filter(|rule| !rule.meets(v)) {
            if is_enough(&unmet) {
                break;
            }
            unmet.push(rule.failure(v));
        }
        unmet
    }

    /// What people are told of the schema.
    pub(crate) fn annotate(&self, to: &mut RawDocumentBuf) {
        if let Some(title) = &self.title {
            to.append(cstr!("title"), &**title);
        }
        if let Some(description) = &self.description {
            to.append(cstr!("description"), &**description);
        }
    }
}

/// One keyword of a schema; none for those that only change others, or ask for nothing.
fn rule(doc: &RawDocument, name: &str, v: RawBsonRef<'_>) -> Result<Option<Rule>> {
    let exclusive = |name: &str| field(doc, name).and_then(|v| v.as_bool()).unwrap_or(false);
    let number = |v: RawBsonRef<'_>, name: &str| {
        if is_number(v) {
            Ok(())
        } else {
            Err(mismatch(name, "a number", v))
        }
    };
    let (name, kind) = match name {
        "type" => ("type", Kind::Types(type_names(name, v, json_type)?)),
        "bsonType" => ("bsonType", Kind::Types(type_names(name, v, bson_type)?)),
        "enum" => {
            let mut values: Vec<RawBson> = list(name, v)?.into_iter().map(RawBson::from).collect();
            values.sort_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()));
            let count = values.len();
            values.dedup_by(|a, b| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()).is_eq());
            if values.len() < count {
                return Err(refuse(
                    "$jsonSchema keyword 'enum' array cannot contain duplicate values",
                ));
            }
            ("enum", Kind::Enum(values))
        }
        "minimum" => {
            number(v, name)?;
            let exclusive = exclusive("exclusiveMinimum");
            ("minimum", Kind::Minimum { exclusive })
        }
        "maximum" => {
            number(v, name)?;
            let exclusive = exclusive("exclusiveMaximum");
            ("maximum", Kind::Maximum { exclusive })
        }
        "exclusiveMinimum" | "exclusiveMaximum" => return Ok(None),
        "multipleOf" => {
            number(v, name)?;
            let divisor = Number::of(v).filter(|divisor| divisor.is_positive());
            let divisor = divisor
                .ok_or_else(|| refuse("$jsonSchema keyword 'multipleOf' must have a positive value"))?;
            ("multipleOf", Kind::MultipleOf(divisor))
        }
        "minLength" => ("minLength", Kind::Length(Bound::AtLeast(count(name, v)?))),
        "maxLength" => ("maxLength", Kind::Length(Bound::AtMost(count(name, v)?))),
        "pattern" => ("pattern", Kind::Pattern(Regex::new(text(name, v)?, "")?)),
        "items" => match v {
            RawBsonRef::Array(array) => {
                let all = elements(array).map(|v| Schema::parse(document(name, v)?));
                ("items", Kind::Tuple(all.collect::<Result<_>>()?))
            }
            v => ("items", Kind::Items(Box::new(Schema::parse(document(name, v)?)?))),
        },
        "additionalItems" => {
            let schema = schema_or_flag(name, v)?.map(Box::new);
            // It says something only after a tuple.
            let Some(RawBsonRef::Array(tuple)) = field(doc, "items") else {
                return Ok(None);
            };
            let after = elements(tuple).count();
            ("additionalItems", Kind::AdditionalItems { after, schema })
        }
        "minItems" => ("minItems", Kind::ItemCount(Bound::AtLeast(count(name, v)?))),
        "maxItems" => ("maxItems", Kind::ItemCount(Bound::AtMost(count(name, v)?))),
        "uniqueItems" if flag(name, v)? => ("uniqueItems", Kind::UniqueItems),
        "uniqueItems" => return Ok(None),
        "required" => ("required", Kind::Required(names(name, v)?)),
        "properties" => ("properties", Kind::Properties(named_schemas(name, v)?)),
        "patternProperties" => ("patternProperties", Kind::PatternProperties(patterns(v)?)),
        "additionalProperties" => {
            let named = match field(doc, "properties") {
                Some(v) => fields(document("properties", v)?)
                    .map(|(name, _)| name.into())
                    .collect(),
                None => HashSet::new(),
            };
            let patterns = match field(doc, "patternProperties") {
                Some(v) => patterns(v)?.into_iter().map(|(pattern, _)| pattern).collect(),
                None => Vec::new(),
            };
            let additional = Additional {
                named,
                patterns,
                schema: schema_or_flag(name, v)?,
            };
            (
                "additionalProperties",
                Kind::AdditionalProperties(Box::new(additional)),
            )
        }
        "minProperties" => (
            "minProperties",
            Kind::PropertyCount(Bound::AtLeast(count(name, v)?)),
        ),
        "maxProperties" => (
            "maxProperties",
            Kind::PropertyCount(Bound::AtMost(count(name, v)?)),
        ),
        "dependencies" => ("dependencies", Kind::Dependencies(dependencies(v)?)),
        "allOf" => ("allOf", Kind::AllOf(schemas(name, v)?)),
        "anyOf" => ("anyOf", Kind::AnyOf(schemas(name, v)?)),
        "oneOf" => ("oneOf", Kind::OneOf(schemas(name, v)?)),
        "not" => ("not", Kind::Not(Box::new(Schema::parse(document(name, v)?)?))),
        name if REFUSED.contains(&name) => {
            return Err(refuse(format!(
                "$jsonSchema keyword '{name}' is not currently supported"
            )));
        }
        name => return Err(refuse(format!("Unknown $jsonSchema keyword: {name}"))),
    };
    Ok(Some(Rule {
        name,
        given: v.into(),
        kind,
    }))
}

impl Rule {
    fn meets(&self, v: RawBsonRef<'_>) -> bool {
        let ordered = |wanted: fn(Ordering) -> bool| {
            let bound = self.given.as_raw_bson_ref();
            !is_number(v) || (is_nan(v) == is_nan(bound) && wanted(compare(v, bound)))
        };
        match &self.kind {
            Kind::Types(types) => types.contains(&v.element_type()),
            Kind::Enum(values) => values
                .binary_search_by(|wanted| compare(wanted.as_raw_bson_ref(), v))
                .is_ok(),
            Kind::Minimum { exclusive: false } => ordered(Ordering::is_ge),
            Kind::Minimum { exclusive: true } => ordered(Ordering::is_gt),
            Kind::Maximum { exclusive: false } => ordered(Ordering::is_le),
            Kind::Maximum { exclusive: true } => ordered(Ordering::is_lt),
            Kind::MultipleOf(divisor) => {
                Number::of(v).is_none_or(|number| number.remainder(*divisor).is_zero())
            }
            Kind::Length(bound) => v.as_str().is_none_or(|text| bound.admits(text.chars().count())),
            Kind::Pattern(pattern) => v.as_str().is_none_or(|text| pattern.matches_text(text)),
            Kind::Items(_)
            | Kind::Tuple(_)
            | Kind::AdditionalItems { .. }
            | Kind::ItemCount(_)
            | Kind::UniqueItems => match v {
                RawBsonRef::Array(array) => self.meets_items(&elements(array).collect::<Vec<_>>()),
                _ => true,
            },
            Kind::Required(_)
            | Kind::Properties(_)
            | Kind::PatternProperties(_)
            | Kind::AdditionalProperties(_)
            | Kind::PropertyCount(_)
            | Kind::Dependencies(_) => match v {
                RawBsonRef::Document(doc) => self.meets_properties(doc),
                _ => true,
            },
            Kind::AllOf(all) => all.iter().all(|schema| schema.meets(v)),
            Kind::AnyOf(any) => any.iter().any(|schema| schema.meets(v)),
            Kind::OneOf(one) => one.iter().filter(|schema| schema.meets(v)).count() == 1,
            Kind::Not(schema) => !schema.meets(v),
        }
    }

    /// The keywords that speak of an array.
    fn meets_items(&self, items: &[RawBsonRef<'_>]) -> bool {
        match &self.kind {
            Kind::Items(schema) => items.iter().all(|item| schema.meets(*item)),
            Kind::Tuple(tuple) => tuple.iter().zip(items).all(|(schema, item)| schema.meets(*item)),
            Kind::AdditionalItems { after, schema } => items
                .iter()
                .skip(*after)
                .all(|item| schema.as_ref().is_some_and(|schema| schema.meets(*item))),
            Kind::ItemCount(bound) => bound.admits(items.len()),
            Kind::UniqueItems => first_duplicate(items).is_none(),
            _ => true,
        }
    }

    /// The keywords that speak of a document.
    fn meets_properties(&self, doc: &RawDocument) -> bool {
        match &self.kind {
            Kind::Required(names) => names.iter().all(|name| field(doc, name).is_some()),
            Kind::Properties(all) => all
                .iter()
                .all(|(name, schema)| field(doc, name).is_none_or(|v| schema.meets(v))),
            Kind::PatternProperties(all) => fields(doc).all(|(name, v)| {
                all.iter()
                    .all(|(pattern, schema)| !pattern.matches_text(name) || schema.meets(v))
            }),
            Kind::AdditionalProperties(additional) => fields(doc)
                .filter(|(name, _)| additional.covers(name))
                .all(|(_, v)| additional.schema.as_ref().is_some_and(|schema| schema.meets(v))),
            Kind::PropertyCount(bound) => bound.admits(raw_fields(doc).count()),
            Kind::Dependencies(all) => all
                .iter()
                .filter(|(name, _)| field(doc, name).is_some())
                .all(|(_, needs)| needs.is_met(doc)),
            _ => true,
        }
    }

    /// Why the value, which does not meet the rule, does not.
    fn failure(&self, v: RawBsonRef<'_>) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("operatorName"), self.name);
        match (&self.kind, v) {
            (Kind::Properties(all), RawBsonRef::Document(doc)) => {
                let mut unmet = RawArrayBuf::new();
                for (name, schema) in all {
                    if let Some(v) = field(doc, name).filter(|v| !schema.meets(*v)) {
                        unmet.push(property(name, schema, v));
                    }
                }
                out.append(cstr!("propertiesNotSatisfied"), unmet);
            }
            (Kind::PatternProperties(all), RawBsonRef::Document(doc)) => {
                let mut unmet = RawArrayBuf::new();
                for (name, v) in fields(doc) {
                    if is_enough(&unmet) {
                        break;
                    }
                    for (pattern, schema) in all {
                        if pattern.matches_text(name) && !schema.meets(v) {
                            let mut one = property(name, schema, v);
                            one.append(cstr!("regexMatched"), pattern.compiled().as_str());
                            unmet.push(one);
                        }
                    }
                }
                out.append(cstr!("details"), unmet);
            }
            (Kind::Required(names), RawBsonRef::Document(doc)) => {
                self.specify(&mut out);
                let mut missing = RawArrayBuf::new();
                for name in names.iter().filter(|name| field(doc, name).is_none()) {
                    missing.push(&**name);
                }
                out.append(cstr!("missingProperties"), missing);
            }
            (Kind::AdditionalProperties(additional), RawBsonRef::Document(doc)) => {
                self.specify(&mut out);
                let mut unmet = RawArrayBuf::new();
                for (name, v) in fields(doc).filter(|(name, _)| additional.covers(name)) {
                    if is_enough(&unmet) {
                        break;
                    }
                    match &additional.schema {
                        None => unmet.push(name),
                        Some(schema) if !schema.meets(v) => unmet.push(property(name, schema, v)),
                        Some(_) => {}
                    }
                }
                out.append(cstr!("additionalProperties"), unmet);
            }
            (Kind::Dependencies(all), RawBsonRef::Document(doc)) => {
                self.specify(&mut out);
                let mut unmet = RawArrayBuf::new();
                for (name, needs) in all {
                    if field(doc, name).is_some() && !needs.is_met(doc) {
                        unmet.push(&**name);
                    }
                }
                out.append(cstr!("failingDependencies"), unmet);
            }
            (Kind::AllOf(all) | Kind::AnyOf(all) | Kind::OneOf(all), v) => subschemas(&mut out, all, v),
            (Kind::Not(_), _) => {
                self.specify(&mut out);
                out.append(cstr!("reason"), "child expression matched");
            }
            (kind, v) => {
                self.specify(&mut out);
                out.append(cstr!("reason"), reason(kind));
                if let (Kind::Items(schema), RawBsonRef::Array(items)) = (kind, v) {
                    let unmet = elements(items).enumerate().find(|(_, item)| !schema.meets(*item));
                    if let Some((index, item)) = unmet {
                        out.append(cstr!("itemIndex"), i32::try_from(index).unwrap_or(i32::MAX));
                        out.append(cstr!("details"), schema.unmet(item));
                    }
                } else {
                    let mut shown = RawArrayBuf::new();
                    shown.push(v);
                    // Large values are known to who sent them.
                    if shown.as_bytes().len() <= VALUE_BYTES_MAX {
                        out.append(cstr!("consideredValue"), v);
                    }
                    if matches!(kind, Kind::Types(_)) {
                        out.append(cstr!("consideredType"), type_name(v));
                    }
                }
            }
        }
        out
    }

    fn specify(&self, to: &mut RawDocumentBuf) {
        let mut given = RawDocumentBuf::new();
        append(&mut given, self.name, self.given.as_raw_bson_ref());
        to.append(cstr!("specifiedAs"), given);
    }
}

impl Dependency {
    fn is_met(&self, doc: &RawDocument) -> bool {
        match self {
            Dependency::Properties(names) => names.iter().all(|name| field(doc, name).is_some()),
            Dependency::Schema(schema) => schema.accepts(doc),
        }
    }
}

/// Whether a list of failures is so long that nothing more is told.
fn is_enough(failures: &RawArrayBuf) -> bool {
    failures.as_bytes().len() > FAILURES_BYTES_MAX
}

fn property(name: &str, schema: &Schema, v: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("propertyName"), name);
    schema.annotate(&mut out);
    out.append(cstr!("details"), schema.unmet(v));
    out
}

fn subschemas(out: &mut RawDocumentBuf, all: &[Schema], v: RawBsonRef<'_>) {
    let (mut unmet, mut met) = (RawArrayBuf::new(), RawArrayBuf::new());
    for (index, schema) in all.iter().enumerate() {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        if schema.meets(v) {
            met.push(index);
            continue;
        }
        if is_enough(&unmet) {
            break;
        }
        let mut one = RawDocumentBuf::new();
        one.append(cstr!("index"), index);
        schema.annotate(&mut one);
        one.append(cstr!("details"), schema.unmet(v));
        unmet.push(one);
    }
    if unmet.is_empty() || (!met.is_empty() && matches!(out.get_str("operatorName"), Ok("oneOf"))) {
        out.append(cstr!("reason"), "more than one subschema matched");
        out.append(cstr!("matchingSchemaIndexes"), met);
    } else {
        out.append(cstr!("schemasNotSatisfied"), unmet);
    }
}

fn reason(kind: &Kind) -> &'static str {
    match kind {
        Kind::Types(_) => "type did not match",
        Kind::Enum(_) => "value was not found in enum",
        Kind::Minimum { .. } | Kind::Maximum { .. } => "comparison failed",
        Kind::MultipleOf(_) => "considered value is not a multiple of the specified value",
        Kind::Length(_) => "specified string length was not satisfied",
        Kind::Pattern(_) => "regular expression did not match",
        Kind::Items(_) | Kind::Tuple(_) => "At least one item did not match the sub-schema",
        Kind::AdditionalItems { .. } => "found additional items",
        Kind::ItemCount(_) => "array did not match specified length",
        Kind::UniqueItems => "found a duplicate item",
        Kind::PropertyCount(_) => "specified number of properties was not satisfied",
        _ => "the value did not match",
    }
}

/// An item that is there twice.
fn first_duplicate<'v>(items: &[RawBsonRef<'v>]) -> Option<RawBsonRef<'v>> {
    let mut sorted = items.to_vec();
    sorted.sort_by(|a, b| compare(*a, *b));
    sorted
        .windows(2)
        .find(|pair| compare(pair[0], pair[1]).is_eq())
        .map(|pair| pair[0])
}
