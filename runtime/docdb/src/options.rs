//! What a collection or view is made with: the options of MongoDB's `create`, as `listCollections` shows them and dumps
//! keep them, as text to types and back. The listener's commands and the admin API read them with this; whether they go
//! together is checked where the collection is made.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::check::check_well_formed;
use crate::query::ARGUMENT_DEPTH_MAX;
use crate::value::{as_whole, elements, fields, is_number, is_true, type_name};
use crate::{
    Capped, Code, CollectionOptions, Error, Result, TimeSeries, ValidationAction, ValidationLevel, View,
};

/// What a name is made to stand for.
#[derive(Debug, Clone, PartialEq)]
pub enum Creation {
    /// A collection with its options.
    Collection(CollectionOptions),
    /// A view.
    View(View),
}

/// Options that ask for the ordinary, or for what nothing can be said about here.
const ORDINARY: &[&str] = &[
    "autoIndexId",
    "idIndex",
    "flags",
    "storageEngine",
    "indexOptionDefaults",
    "recordIdsReplicated",
];

impl Creation {
    /// Parses the options of MongoDB's `create`. The arguments that any command has are none of them.
    ///
    /// # Errors
    /// `TypeMismatch`, `BadValue`, `InvalidOptions` for options that don't go together, `CommandNotSupported` for
    /// those that only MongoDB has, 40415 for unknown ones, and those of a time series.
    pub fn parse(options: &RawDocument) -> Result<Self> {
        check_well_formed(options, ARGUMENT_DEPTH_MAX)?;
        let mut made = CollectionOptions::default();
        let (mut on, mut pipeline, mut expires) = (None, None, None);
        let (mut capped, mut size, mut max) = (false, None, None);
        for (name, value) in fields(options) {
            match name {
                name if ORDINARY.contains(&name) => {}
                "capped" => capped = flag("create.capped", value)?,
                "size" => size = Some(integer("create.size", value)?),
                "max" => max = Some(integer("create.max", value)?),
                "clusteredIndex" => made.clustered = clustered(value)?,
                "temp" if !flag("create.temp", value)? => {}
                "collation" => made.collation = collation(value)?,
                "validator" => made.validator = Some(document("create.validator", value)?.to_owned()),
                "validationLevel" => made.validation_level = ValidationLevel::parse("create", value)?,
                "validationAction" => made.validation_action = ValidationAction::parse("create", value)?,
                "changeStreamPreAndPostImages" => made.images = parse_images("create", value)?,
                "viewOn" => on = Some(Arc::from(text("create.viewOn", value)?)),
                "pipeline" => pipeline = Some(documents("create.pipeline", value)?),
                "timeseries" => {
                    let series = document("create.timeseries", value)?;
                    made.time_series = Some(TimeSeries::parse(series)?);
                }
                "expireAfterSeconds" => expires = Some(integer("create.expireAfterSeconds", value)?),
                "temp" | "encryptedFields" => return Err(unsupported(name)),
                name => return Err(unknown("create", name)),
            }
        }
        expire(&mut made, expires)?;
        made.capped = bounds(capped, size, max)?;
        // An empty one is none.
        made.validator = made.validator.filter(|validator| !validator.is_empty());
        let view = match (on, pipeline) {
            (None, None) => return Ok(Self::Collection(made)),
            (Some(on), pipeline) => View {
                on,
                pipeline: pipeline.unwrap_or_default(),
                collation: made.collation.take(),
            },
            (None, Some(_)) => return Err(invalid("'pipeline' cannot be specified without 'viewOn'")),
        };
        if made != CollectionOptions::default() {
            return Err(invalid(
                "a view takes no options of a collection: it has the documents of what it is of",
            ));
        }
        Ok(Self::View(view))
    }

    /// The options as [`parse`](Self::parse) takes them and `listCollections` shows them.
    pub fn to_document(&self) -> RawDocumentBuf {
        match self {
            Self::Collection(options) => options.to_document(),
            Self::View(view) => view.to_document(),
        }
    }

    /// MongoDB's name of what it is: `collection`, `timeseries` or `view`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Collection(options) if options.time_series.is_some() => "timeseries",
            Self::Collection(_) => "collection",
            Self::View(_) => "view",
        }
    }
}

impl CollectionOptions {
    /// The options as `create` takes them and `listCollections` shows them: those that are not the ordinary ones.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        let number = |n: u64| match i32::try_from(n) {
            Ok(n) => RawBsonRef::Int32(n),
            Err(_) => RawBsonRef::Int64(i64::try_from(n).unwrap_or(i64::MAX)),
        };
        if let Some(capped) = &self.capped {
            document.append(cstr!("capped"), true);
            document.append(cstr!("size"), number(capped.size));
            if let Some(max) = capped.max {
                document.append(cstr!("max"), number(max));
            }
        }
        if let Some(name) = &self.clustered {
            let index = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": &**name, "unique": true };
            document.append(cstr!("clusteredIndex"), index);
        }
        if let Some(validator) = &self.validator {
            document.append(cstr!("validator"), validator.as_ref());
        }
        // A validator without them has the ordinary ones, and says so, as in MongoDB.
        if self.validator.is_some() || self.validation_level != ValidationLevel::default() {
            document.append(cstr!("validationLevel"), self.validation_level.name());
        }
        if self.validator.is_some() || self.validation_action != ValidationAction::default() {
            document.append(cstr!("validationAction"), self.validation_action.name());
        }
        if self.images {
            document.append(cstr!("changeStreamPreAndPostImages"), rawdoc! { "enabled": true });
        }
        if let Some(collation) = &self.collation {
            document.append(cstr!("collation"), collation.as_ref());
        }
        crate::time_series::append_options(self.time_series.as_ref(), &mut document);
        document
    }
}

impl ValidationLevel {
    /// MongoDB's name.
    pub fn name(self) -> &'static str {
        match self {
            ValidationLevel::Off => "off",
            ValidationLevel::Moderate => "moderate",
            ValidationLevel::Strict => "strict",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Moderate, Self::Strict]
            .into_iter()
            .find(|level| level.name() == name)
    }

    /// The `validationLevel` of a command.
    ///
    /// # Errors
    /// `TypeMismatch`, `BadValue` for one that there is not.
    pub fn parse(command: &str, value: RawBsonRef<'_>) -> Result<Self> {
        let name = format!("{command}.validationLevel");
        let level = text(&name, value)?;
        Self::from_name(level).ok_or_else(|| not_one_of(&name, level))
    }
}

impl ValidationAction {
    /// MongoDB's name.
    pub fn name(self) -> &'static str {
        match self {
            ValidationAction::Warn => "warn",
            ValidationAction::Error => "error",
        }
    }

    /// The action of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Warn, Self::Error]
            .into_iter()
            .find(|action| action.name() == name)
    }

    /// The `validationAction` of a command.
    ///
    /// # Errors
    /// `TypeMismatch`, `BadValue` for one that there is not.
    pub fn parse(command: &str, value: RawBsonRef<'_>) -> Result<Self> {
        let name = format!("{command}.validationAction");
        let action = text(&name, value)?;
        Self::from_name(action).ok_or_else(|| not_one_of(&name, action))
    }
}

/// The `changeStreamPreAndPostImages` of a command, `{enabled: bool}`.
///
/// # Errors
/// `TypeMismatch`, `FailedToParse` when it says nothing, 40415 for unknown fields.
pub fn parse_images(command: &str, value: RawBsonRef<'_>) -> Result<bool> {
    let name = format!("{command}.changeStreamPreAndPostImages");
    let mut enabled = None;
    for (option, value) in fields(document(&name, value)?) {
        if option != "enabled" {
            return Err(unknown(&name, option));
        }
        enabled = Some(flag(&format!("{name}.enabled"), value)?);
    }
    enabled.ok_or_else(|| {
        let message = format!("BSON field '{name}.enabled' is missing but a required field");
        Error::new(Code::FailedToParse, message)
    })
}

/// `expireAfterSeconds`, which a time series has.
fn expire(options: &mut CollectionOptions, expires: Option<i64>) -> Result<()> {
    match (&mut options.time_series, expires) {
        (_, None) => {}
        (Some(series), expires) => series.expire_after_seconds = expires,
        // MongoDB lets documents of a clustered collection expire by a date in `_id`.
        (None, Some(_)) if options.clustered.is_some() => return Err(unsupported("expireAfterSeconds")),
        (None, Some(_)) => {
            return Err(invalid(
                "'expireAfterSeconds' is only supported on time-series collections or when the 'clusteredIndex' option is specified",
            ));
        }
    }
    Ok(())
}

/// `capped`, `size` and `max`.
fn bounds(capped: bool, size: Option<i64>, max: Option<i64>) -> Result<Option<Capped>> {
    match (capped, size) {
        (false, None) if max.is_none() => Ok(None),
        (false, _) => Err(invalid(
            "the 'capped' field needs to be true when either the 'size' or 'max' fields are present",
        )),
        (true, None) => Err(invalid("the 'size' field is required when 'capped' is true")),
        (true, Some(size)) => Ok(Some(Capped {
            // What is no size is told as one that is too small.
            size: u64::try_from(size).unwrap_or(0),
            max: max.and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0),
        })),
    }
}

/// `{key: {_id: 1}, unique: true, name, v}`: the name, `_id_` when there is none. `true` is an old way to write it.
fn clustered(value: RawBsonRef<'_>) -> Result<Option<Arc<str>>> {
    let refuse = |message: &str| Err(Error::new(Code::BadValue, message));
    if let RawBsonRef::Boolean(flag) = value {
        return Ok(flag.then(|| "_id_".into()));
    }
    let (mut name, mut key, mut unique) = ("_id_", false, false);
    for (option, value) in fields(document("create.clusteredIndex", value)?) {
        match option {
            "name" => name = text("create.clusteredIndex.name", value)?,
            "key" => {
                let mut keys = fields(document("create.clusteredIndex.key", value)?);
                let first = keys.next();
                key = first.is_some_and(|(path, to)| path == "_id" && as_whole(to) == Some(1));
                key &= keys.next().is_none();
            }
            "unique" => unique = flag("create.clusteredIndex.unique", value)?,
            "v" if integer("create.clusteredIndex.v", value)? == 2 => {}
            "v" => return refuse("the clustered index has the version 2"),
            option => return Err(unknown("create.clusteredIndex", option)),
        }
    }
    if !key || !unique {
        return refuse("the clustered index has the key {_id: 1} and is unique");
    }
    Ok(Some(name.into()))
}

/// A collation; whether it is one that is known is looked at where it is used.
fn collation(value: RawBsonRef<'_>) -> Result<Option<RawDocumentBuf>> {
    match value {
        RawBsonRef::Null => Ok(None),
        value => {
            let collation = document("create.collation", value)?;
            Ok((!collation.is_empty()).then(|| collation.to_owned()))
        }
    }
}

fn document<'v>(name: &str, value: RawBsonRef<'v>) -> Result<&'v RawDocument> {
    value.as_document().ok_or_else(|| mismatch(name, value, "object"))
}

fn documents(name: &str, value: RawBsonRef<'_>) -> Result<Vec<RawDocumentBuf>> {
    let array = value.as_array().ok_or_else(|| mismatch(name, value, "array"))?;
    let each = elements(array).enumerate();
    each.map(|(place, element)| document(&format!("{name}.{place}"), element).map(ToOwned::to_owned))
        .collect()
}

fn text<'v>(name: &str, value: RawBsonRef<'v>) -> Result<&'v str> {
    value.as_str().ok_or_else(|| mismatch(name, value, "string"))
}

/// A truth value; numbers count, as in MongoDB.
fn flag(name: &str, value: RawBsonRef<'_>) -> Result<bool> {
    match value {
        RawBsonRef::Boolean(_) | RawBsonRef::Null => Ok(is_true(value)),
        value if is_number(value) => Ok(is_true(value)),
        value => Err(mismatch(name, value, "bool")),
    }
}

fn integer(name: &str, value: RawBsonRef<'_>) -> Result<i64> {
    if !is_number(value) {
        return Err(mismatch(name, value, "number"));
    }
    as_whole(value).ok_or_else(|| {
        let message = format!("BSON field '{name}' must be a whole number");
        Error::new(Code::BadValue, message)
    })
}

fn mismatch(name: &str, value: RawBsonRef<'_>, expected: &str) -> Error {
    let message = format!(
        "BSON field '{name}' is the wrong type '{}', expected type '{expected}'",
        type_name(value)
    );
    Error::new(Code::TypeMismatch, message)
}

fn not_one_of(name: &str, value: &str) -> Error {
    let message = format!("Enumeration value '{value}' for field '{name}' is not a valid value.");
    Error::new(Code::BadValue, message)
}

fn invalid(message: &str) -> Error {
    Error::new(Code::InvalidOptions, message)
}

fn unsupported(option: &str) -> Error {
    let message = format!("'create' with '{option}' is not supported");
    Error::new(Code::CommandNotSupported, message)
}

fn unknown(command: &str, option: &str) -> Error {
    let message = format!("BSON field '{command}.{option}' is an unknown field.");
    Error::new(Code::Location(40_415), message)
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn parse(options: Document) -> Result<Creation> {
        Creation::parse(&RawDocumentBuf::try_from(&options).unwrap())
    }

    #[test]
    fn options_come_back_as_they_were() {
        for (options, kind) in [
            (doc! {}, "collection"),
            (doc! { "capped": true, "size": 4096, "max": 7 }, "collection"),
            (
                doc! { "clusteredIndex": { "v": 2, "key": { "_id": 1 }, "name": "c", "unique": true } },
                "collection",
            ),
            (
                doc! { "validator": { "a": { "$gt": 1 } }, "validationLevel": "moderate", "validationAction": "warn" },
                "collection",
            ),
            (
                doc! { "changeStreamPreAndPostImages": { "enabled": true }, "collation": { "locale": "de" } },
                "collection",
            ),
            (
                doc! { "timeseries": { "timeField": "t", "metaField": "m", "granularity": "hours",
                "bucketMaxSpanSeconds": 2_592_000 }, "expireAfterSeconds": 60_i64 },
                "timeseries",
            ),
            (
                doc! { "viewOn": "c", "pipeline": [{ "$match": { "a": 1 } }], "collation": { "locale": "de" } },
                "view",
            ),
        ] {
            let made = parse(options.clone()).unwrap();
            assert_eq!(made.kind(), kind);
            let shown = Document::try_from(made.to_document()).unwrap();
            assert_eq!(shown, options);
        }
        let ordinary = doc! { "flags": 1, "idIndex": {}, "temp": false, "validator": {}, "capped": false };
        assert_eq!(
            parse(ordinary).unwrap(),
            Creation::Collection(CollectionOptions::default())
        );
    }

    #[test]
    fn what_no_collection_can_be_is_refused() {
        for (options, code) in [
            (doc! { "capped": true }, 72),
            (doc! { "size": 1 }, 72),
            (doc! { "capped": "yes" }, 14),
            (doc! { "size": 1.5, "capped": true }, 2),
            (doc! { "pipeline": [] }, 72),
            (doc! { "viewOn": "c", "validator": { "a": 1 } }, 72),
            (doc! { "viewOn": "c", "pipeline": [1] }, 14),
            (doc! { "validationLevel": "most" }, 2),
            (doc! { "changeStreamPreAndPostImages": {} }, 9),
            (doc! { "changeStreamPreAndPostImages": { "on": true } }, 40_415),
            (
                doc! { "clusteredIndex": { "key": { "a": 1 }, "unique": true } },
                2,
            ),
            (doc! { "expireAfterSeconds": 1 }, 72),
            (doc! { "clusteredIndex": true, "expireAfterSeconds": 1 }, 115),
            (doc! { "temp": true }, 115),
            (doc! { "encryptedFields": {} }, 115),
            (doc! { "colour": "red" }, 40_415),
        ] {
            let refused = parse(options.clone()).unwrap_err();
            assert_eq!(refused.code().number(), code, "{options} {refused}");
        }
    }
}
