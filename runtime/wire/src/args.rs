//! The arguments of a command: walking them, skipping what any command may carry, and turning values into types
//! with the errors that drivers know.

use std::sync::Arc;

use bson::raw::CStr;
use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::error::{Code, CommandError, Result};
use crate::frame::Sequence;

/// Arguments that any command may carry. Those with a meaning here are read by `call`, the others have none.
const GENERIC: &[&str] = &[
    "$db",
    "$readPreference",
    "$queryOptions",
    "$clusterTime",
    "$audit",
    "$client",
    "$configServerState",
    "$configTime",
    "$topologyTime",
    "$gleStats",
    "$oplogQueryData",
    "$replData",
    "$tenant",
    "lsid",
    "txnNumber",
    "stmtId",
    "stmtIds",
    "autocommit",
    "startTransaction",
    "startOrContinueTransaction",
    "coordinator",
    "maxTimeMS",
    "maxTimeMSOpOnly",
    "comment",
    "readConcern",
    "writeConcern",
    "readPreference",
    "apiVersion",
    "apiStrict",
    "apiDeprecationErrors",
    "mayBypassWriteBlocking",
    "allowImplicitCollectionCreation",
    "databaseVersion",
    "shardVersion",
    "rawData",
    "serialization_context",
    "expectPrefix",
    "clientOperationKey",
    "requestGossipRoutingCache",
    "help",
];

/// Walks the arguments of a command that it alone has, in order.
pub(crate) struct Args<'c> {
    command: &'c str,
    fields: <&'c RawDocument as IntoIterator>::IntoIter,
}

impl<'c> Args<'c> {
    /// The arguments after the command's own name.
    pub(crate) fn new(command: &'c str, body: &'c RawDocument) -> Self {
        let mut fields = body.iter();
        fields.next();
        Self { command, fields }
    }

    /// The next argument.
    ///
    /// # Errors
    /// When the document is damaged there.
    pub(crate) fn next(&mut self) -> Result<Option<(&'c str, RawBsonRef<'c>)>> {
        let field = self.next_raw()?;
        Ok(field.map(|(name, value)| (name.as_str(), value)))
    }

    /// The next argument, with its name in the form that documents are built from.
    ///
    /// # Errors
    /// When the document is damaged there.
    pub(crate) fn next_raw(&mut self) -> Result<Option<(&'c CStr, RawBsonRef<'c>)>> {
        for field in self.fields.by_ref() {
            let (name, value) = field?;
            if !GENERIC.contains(&name.as_str()) {
                return Ok(Some((name, value)));
            }
        }
        Ok(None)
    }

    /// The error for an argument that the command does not have.
    pub(crate) fn unknown(&self, name: &str) -> CommandError {
        CommandError::new(
            Code::Location40415,
            format!("BSON field '{}.{name}' is an unknown field.", self.command),
        )
    }

    /// The error for an argument that MongoDB's command has and this one does not.
    pub(crate) fn unsupported(&self, name: &str) -> CommandError {
        CommandError::new(
            Code::CommandNotSupported,
            format!("'{}' with '{name}' is not supported", self.command),
        )
    }
}

/// The names of types as drivers print them.
pub(crate) fn type_name(value: RawBsonRef<'_>) -> &'static str {
    use bson::spec::ElementType as T;
    match value.element_type() {
        T::Double => "double",
        T::String => "string",
        T::EmbeddedDocument => "object",
        T::Array => "array",
        T::Binary => "binData",
        T::Undefined => "undefined",
        T::ObjectId => "objectId",
        T::Boolean => "bool",
        T::DateTime => "date",
        T::Null => "null",
        T::RegularExpression => "regex",
        T::DbPointer => "dbPointer",
        T::JavaScriptCode => "javascript",
        T::Symbol => "symbol",
        T::JavaScriptCodeWithScope => "javascriptWithScope",
        T::Int32 => "int",
        T::Timestamp => "timestamp",
        T::Int64 => "long",
        T::Decimal128 => "decimal",
        T::MinKey => "minKey",
        T::MaxKey => "maxKey",
    }
}

fn mismatch(name: &str, value: RawBsonRef<'_>, expected: &str) -> CommandError {
    CommandError::new(
        Code::TypeMismatch,
        format!(
            "BSON field '{name}' is the wrong type '{}', expected type '{expected}'",
            type_name(value)
        ),
    )
}

/// A document.
pub(crate) fn document<'v>(name: &str, value: RawBsonRef<'v>) -> Result<&'v RawDocument> {
    value.as_document().ok_or_else(|| mismatch(name, value, "object"))
}

/// A document, or none for null.
pub(crate) fn maybe_document(name: &str, value: RawBsonRef<'_>) -> Result<Option<RawDocumentBuf>> {
    match value {
        RawBsonRef::Null => Ok(None),
        value => document(name, value).map(|document| Some(document.to_owned())),
    }
}

/// An array.
pub(crate) fn array<'v>(name: &str, value: RawBsonRef<'v>) -> Result<&'v RawArray> {
    value.as_array().ok_or_else(|| mismatch(name, value, "array"))
}

/// An array of documents.
pub(crate) fn documents(name: &str, value: RawBsonRef<'_>) -> Result<Vec<RawDocumentBuf>> {
    let mut all = Vec::new();
    for (place, element) in array(name, value)?.into_iter().enumerate() {
        all.push(document(&format!("{name}.{place}"), element?)?.to_owned());
    }
    Ok(all)
}

/// Text.
pub(crate) fn text<'v>(name: &str, value: RawBsonRef<'v>) -> Result<&'v str> {
    value.as_str().ok_or_else(|| mismatch(name, value, "string"))
}

/// A truth value; numbers count, as in MongoDB.
pub(crate) fn flag(name: &str, value: RawBsonRef<'_>) -> Result<bool> {
    match value {
        RawBsonRef::Boolean(flag) => Ok(flag),
        RawBsonRef::Null => Ok(false),
        value => number(value)
            .map(|n| n != 0.0)
            .ok_or_else(|| mismatch(name, value, "bool")),
    }
}

fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(n) => Some(f64::from(n)),
        RawBsonRef::Int64(n) => Some(n as f64),
        RawBsonRef::Double(n) => Some(n),
        _ => None,
    }
}

/// A whole number of any numeric type.
pub(crate) fn integer(name: &str, value: RawBsonRef<'_>) -> Result<i64> {
    match value {
        RawBsonRef::Int32(n) => Ok(i64::from(n)),
        RawBsonRef::Int64(n) => Ok(n),
        // Whole doubles in this range are exact.
        RawBsonRef::Double(n) if n.fract() == 0.0 && n.abs() < 9.0e15 => Ok(n as i64),
        RawBsonRef::Double(_) => Err(CommandError::new(
            Code::BadValue,
            format!("BSON field '{name}' must be a whole number"),
        )),
        value => Err(mismatch(name, value, "number")),
    }
}

/// A whole number that is not negative.
pub(crate) fn count(name: &str, value: RawBsonRef<'_>) -> Result<u64> {
    let number = integer(name, value)?;
    u64::try_from(number).map_err(|_| {
        CommandError::new(
            Code::Location51024,
            format!("BSON field '{name}' value must be >= 0, actual value '{number}'"),
        )
    })
}

/// The documents of an argument that comes in the body or as a sequence.
pub(crate) fn batch(
    command: &str,
    name: &str,
    value: Option<RawBsonRef<'_>>,
    sequences: &mut Vec<Sequence>,
) -> Result<Vec<RawDocumentBuf>> {
    let place = sequences.iter().position(|sequence| sequence.name == name);
    match (value, place) {
        (Some(_), Some(_)) => Err(CommandError::new(
            Code::FailedToParse,
            format!("'{command}.{name}' is there twice: in the body and as a sequence"),
        )),
        (None, Some(place)) => Ok(sequences.swap_remove(place).documents),
        (Some(value), None) => documents(&format!("{command}.{name}"), value),
        (None, None) => Err(missing(command, name)),
    }
}

/// The error for an argument that must be there.
pub(crate) fn missing(command: &str, name: &str) -> CommandError {
    CommandError::new(
        Code::FailedToParse,
        format!("BSON field '{command}.{name}' is missing but a required field"),
    )
}

/// The collation for the strings that a command compares, which may be the simple one; none where it does not say.
/// Whether it is one the engine knows.
pub(crate) fn collated(value: RawBsonRef<'_>) -> Result<Option<RawDocumentBuf>> {
    Ok(maybe_document("collation", value)?.filter(|collation| !collation.is_empty()))
}

/// The collection that a command's first field names.
pub(crate) fn collection(command: &str, body: &RawDocument) -> Result<Arc<str>> {
    let Some(field) = body.iter().next() else {
        return Err(missing(command, command));
    };
    let (_, value) = field?;
    match value {
        RawBsonRef::String(name) => Ok(name.into()),
        value => Err(CommandError::new(
            Code::InvalidNamespace,
            format!("collection name has invalid type {}", type_name(value)),
        )),
    }
}
