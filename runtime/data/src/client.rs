//! A client's statements made safe: pure functions that swap the owner placeholder, join a rule's filter to the
//! client's, keep `_openid` out of the client's hands and stamp it. They look at BSON only; which rule applies to
//! whom is [`Session`](crate::Session)'s business, their only caller.
//!
//! Everything walks raw elements, one by one, so that a document that names `_openid` twice is seen to name it.

use bson::{RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::rules::{OWNER_FIELD, OWNER_PLACEHOLDER};
use crate::session::AccessError;
use crate::{Code, Error, UpdateOne};

/// What [`pipeline_update`](crate::pipeline_update) calls an update's stages.
const PIPELINE_OPERATOR: &str = "$pipeline";

/// Deepest filter that is searched for the placeholder: MongoDB's nesting limit.
const DEPTH_MAX: usize = 100;

/// `filter` with every string that is exactly `{openid}` swapped for the caller's owner id.
pub(crate) fn swap_owner(filter: RawDocumentBuf, owner: &str) -> Result<RawDocumentBuf, AccessError> {
    let needle = OWNER_PLACEHOLDER.as_bytes();
    if !filter
        .as_bytes()
        .windows(needle.len())
        .any(|window| window == needle)
    {
        return Ok(filter);
    }
    swap_document(&filter, owner, 0)
}

fn swap_document(document: &RawDocument, owner: &str, depth: usize) -> Result<RawDocumentBuf, AccessError> {
    let mut out = RawDocumentBuf::new();
    for element in document.iter() {
        let (key, value) = element.map_err(malformed)?;
        out.append(key, swap_value(value, owner, depth)?);
    }
    Ok(out)
}

fn swap_array(array: &RawArray, owner: &str, depth: usize) -> Result<RawArrayBuf, AccessError> {
    let mut out = RawArrayBuf::new();
    for value in array {
        out.push(swap_value(value.map_err(malformed)?, owner, depth)?);
    }
    Ok(out)
}

fn swap_value(value: RawBsonRef<'_>, owner: &str, depth: usize) -> Result<RawBson, AccessError> {
    if depth >= DEPTH_MAX {
        let message = format!("a filter may be nested {DEPTH_MAX} levels deep at most");
        return Err(Error::new(Code::Overflow, message).into());
    }
    Ok(match value {
        RawBsonRef::String(text) if text == OWNER_PLACEHOLDER => RawBson::String(owner.to_owned()),
        RawBsonRef::Document(document) => RawBson::Document(swap_document(document, owner, depth + 1)?),
        RawBsonRef::Array(array) => RawBson::Array(swap_array(array, owner, depth + 1)?),
        other => other.into(),
    })
}

/// What matches both `rule` and `filter`. The rule comes first, so that an engine that stops at the first
/// mismatch never evaluates the client's expressions on a foreign document.
pub(crate) fn both(rule: RawDocumentBuf, filter: &RawDocument) -> Result<RawDocumentBuf, AccessError> {
    for element in filter {
        let (key, _) = element.map_err(malformed)?;
        if rule.get(key).map_err(malformed)?.is_some() {
            return Ok(rawdoc! { "$and": [rule, filter.to_owned()] });
        }
    }
    let mut out = rule;
    for element in filter {
        let (key, value) = element.map_err(malformed)?;
        out.append(key, value);
    }
    Ok(out)
}

/// A client's document with its owner written on it.
pub(crate) fn stamp_insert(document: &RawDocument, owner: &str) -> Result<RawDocumentBuf, AccessError> {
    for element in document {
        let (key, _) = element.map_err(malformed)?;
        refuse_owner_path(key.as_str())?;
    }
    let mut out = document.to_owned();
    out.append(bson::raw::cstr!("_openid"), owner);
    Ok(out)
}

/// Stages that look at the documents they are given and at nothing else.
const OWN_STAGES: [&str; 20] = [
    "$addFields",
    "$bucket",
    "$bucketAuto",
    "$count",
    "$facet",
    "$geoNear",
    "$group",
    "$limit",
    "$match",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$set",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unset",
    "$unwind",
];

/// Checks that a client's pipeline stays with the documents of its collection.
pub(crate) fn check_stages(pipeline: &[RawDocumentBuf]) -> Result<(), AccessError> {
    pipeline.iter().try_for_each(|stage| check_stage(stage, 0))
}

fn check_stage(stage: &RawDocument, depth: usize) -> Result<(), AccessError> {
    if depth >= DEPTH_MAX {
        let message = format!("a pipeline may be nested {DEPTH_MAX} levels deep at most");
        return Err(Error::new(Code::Overflow, message).into());
    }
    for element in stage {
        let (name, argument) = element.map_err(malformed)?;
        if !OWN_STAGES.contains(&name.as_str()) {
            return Err(AccessError::Denied(format!(
                "the stage {:?} is not open to clients",
                name.as_str()
            )));
        }
        let (true, RawBsonRef::Document(facets)) = (name == "$facet", argument) else {
            continue;
        };
        for element in facets {
            let (_, RawBsonRef::Array(stages)) = element.map_err(malformed)? else {
                continue;
            };
            for inner in stages {
                if let RawBsonRef::Document(inner) = inner.map_err(malformed)? {
                    check_stage(inner, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// Puts the filter of a client's rule before its pipeline, so that no expression of the client's is evaluated on a
/// document it may not see. A pipeline that begins with `$geoNear` has to, and takes it into that stage's query.
pub(crate) fn begin_with_rule(
    pipeline: &mut Vec<RawDocumentBuf>,
    rule: RawDocumentBuf,
) -> Result<(), AccessError> {
    const GEO_NEAR: &bson::raw::CStr = bson::raw::cstr!("$geoNear");
    const QUERY: &bson::raw::CStr = bson::raw::cstr!("query");
    let first = pipeline.first();
    let options = first.and_then(|first| first.get(GEO_NEAR.as_str()).transpose());
    let options = match options.transpose().map_err(malformed)? {
        Some(RawBsonRef::Document(options)) => options,
        // What is no stage is refused as such, before it sees any document.
        _ => {
            pipeline.insert(0, bson::rawdoc! { "$match": rule });
            return Ok(());
        }
    };
    let mut all = RawArrayBuf::new();
    all.push(rule);
    let mut narrowed = RawDocumentBuf::new();
    for element in options {
        let (name, value) = element.map_err(malformed)?;
        if name == QUERY.as_str() {
            all.push(value);
        } else {
            narrowed.append(name, value);
        }
    }
    narrowed.append(QUERY, bson::rawdoc! { "$and": all });
    let mut stage = RawDocumentBuf::new();
    for element in first.map(|first| first.iter()).into_iter().flatten() {
        let (name, value) = element.map_err(malformed)?;
        if name == GEO_NEAR.as_str() {
            stage.append(name, narrowed.clone());
        } else {
            stage.append(name, value);
        }
    }
    pipeline[0] = stage;
    Ok(())
}

/// Checks that a pipeline's result stays in the app's database: `$out` and `$merge` can name any.
pub(crate) fn check_targets(pipeline: &[RawDocumentBuf], database: &str) -> Result<(), AccessError> {
    for stage in pipeline {
        for element in stage {
            let (name, argument) = element.map_err(malformed)?;
            let target = match (name.as_str(), argument) {
                ("$out", RawBsonRef::Document(target)) => Some(target),
                ("$merge", RawBsonRef::Document(merge)) => match merge.get("into").map_err(malformed)? {
                    Some(RawBsonRef::Document(target)) => Some(target),
                    _ => None,
                },
                _ => None,
            };
            for element in target.into_iter().flatten() {
                let (option, value) = element.map_err(malformed)?;
                if option == "db" && value != RawBsonRef::String(database) {
                    return Err(AccessError::Denied(format!(
                        "{} may write to the app's own database {database:?} only",
                        name.as_str()
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Checks that a client's update leaves `_openid` alone.
pub(crate) fn check_update(update: &RawDocument) -> Result<(), AccessError> {
    for element in update {
        let (operator, argument) = element.map_err(malformed)?;
        if operator == PIPELINE_OPERATOR {
            return Err(AccessError::Denied(
                "an update with a pipeline is not open to clients".to_owned(),
            ));
        }
        if !operator.as_str().starts_with('$') {
            refuse_owner_path(operator.as_str())?;
            continue;
        }
        let RawBsonRef::Document(paths) = argument else {
            continue;
        };
        for element in paths {
            let (path, value) = element.map_err(malformed)?;
            refuse_owner_path(path.as_str())?;
            if let (true, RawBsonRef::String(target)) = (operator == "$rename", value) {
                refuse_owner_path(target)?;
            }
        }
    }
    Ok(())
}

/// Whether an update is operators rather than a replacement document; its first field tells, as in MongoDB.
pub(crate) fn is_operators(update: &RawDocument) -> Result<bool, AccessError> {
    match update.iter().next() {
        Some(element) => Ok(element.map_err(malformed)?.0.as_str().starts_with('$')),
        None => Ok(false),
    }
}

/// A checked update that writes the owner where it makes or replaces a document: into a replacement, and for
/// operators into `$setOnInsert` when the statement may insert.
pub(crate) fn stamp_update(
    update: &RawDocument,
    upsert: bool,
    owner: &str,
) -> Result<RawDocumentBuf, AccessError> {
    let mut out = RawDocumentBuf::new();
    if !is_operators(update)? {
        out = update.to_owned();
        out.append(bson::raw::cstr!("_openid"), owner);
        return Ok(out);
    }
    let mut stamped = !upsert;
    for element in update {
        let (operator, argument) = element.map_err(malformed)?;
        match argument {
            RawBsonRef::Document(fields) if !stamped && operator == "$setOnInsert" => {
                let mut fields = fields.to_owned();
                fields.append(bson::raw::cstr!("_openid"), owner);
                out.append(operator, fields);
                stamped = true;
            }
            argument => out.append(operator, argument),
        }
    }
    if !stamped {
        out.append(bson::raw::cstr!("$setOnInsert"), rawdoc! { "_openid": owner });
    }
    Ok(out)
}

/// An upsert makes a document from the equalities of its filter, so a client's may not name another owner there.
/// The caller's own id at the top is left out: the rule's filter says it already.
pub(crate) fn check_upsert_filter(filter: &RawDocument, owner: &str) -> Result<RawDocumentBuf, AccessError> {
    let mut out = RawDocumentBuf::new();
    for element in filter {
        let (key, value) = element.map_err(malformed)?;
        if key == OWNER_FIELD && value == RawBsonRef::String(owner) {
            continue;
        }
        refuse_owner_path(key.as_str())?;
        if let (true, RawBsonRef::Array(branches)) = (key.as_str().starts_with('$'), value) {
            refuse_owner_in_branches(branches, 0)?;
        }
        out.append(key, value);
    }
    Ok(out)
}

fn refuse_owner_in_branches(branches: &RawArray, depth: usize) -> Result<(), AccessError> {
    if depth >= DEPTH_MAX {
        let message = format!("a filter may be nested {DEPTH_MAX} levels deep at most");
        return Err(Error::new(Code::Overflow, message).into());
    }
    for branch in branches {
        let RawBsonRef::Document(branch) = branch.map_err(malformed)? else {
            continue;
        };
        for element in branch {
            let (key, value) = element.map_err(malformed)?;
            refuse_owner_path(key.as_str())?;
            if let (true, RawBsonRef::Array(inner)) = (key.as_str().starts_with('$'), value) {
                refuse_owner_in_branches(inner, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Adds a filter on `owner` and the owner's stamp to an upsert or update statement that was found in order.
pub(crate) fn guard_update(
    statement: UpdateOne,
    narrow: RawDocumentBuf,
    owner: &str,
) -> Result<UpdateOne, AccessError> {
    check_update(&statement.update)?;
    let mut filter = swap_owner(statement.filter, owner)?;
    if statement.upsert {
        filter = check_upsert_filter(&filter, owner)?;
    }
    let update = stamp_update(&statement.update, statement.upsert, owner)?;
    Ok(UpdateOne {
        filter: both(narrow, &filter)?,
        update,
        ..statement
    })
}

fn refuse_owner_path(path: &str) -> Result<(), AccessError> {
    let head = path.split('.').next().unwrap_or(path);
    if head == OWNER_FIELD {
        return Err(AccessError::Denied(format!(
            "{path:?} may not be written by a client; the platform sets \"_openid\" to the caller"
        )));
    }
    Ok(())
}

fn malformed(error: bson::error::Error) -> AccessError {
    Error::new(Code::BadValue, format!("malformed BSON: {error}")).into()
}

/// A database error as a client may see it: one about a duplicate key tells which fields collided, nothing of
/// the document that is there (it may be somebody else's).
pub(crate) fn redact(error: Error) -> Error {
    if error.code() != Code::DuplicateKey {
        return error;
    }
    let fields: Vec<String> = error
        .duplicate()
        .map(|(pattern, _)| {
            pattern
                .iter()
                .flatten()
                .map(|(key, _)| key.as_str().to_owned())
                .collect()
        })
        .unwrap_or_default();
    let fields = if fields.is_empty() {
        "key".to_owned()
    } else {
        fields.join(", ")
    };
    Error::new(
        Code::DuplicateKey,
        format!("a document with the same {fields} exists already"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied<T: std::fmt::Debug>(result: Result<T, AccessError>) {
        match result {
            Err(AccessError::Denied(message)) => assert!(message.contains("_openid"), "{message}"),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn placeholder_is_swapped_wherever_it_is_a_whole_value() {
        let check =
            |from: RawDocumentBuf, to: RawDocumentBuf| assert_eq!(swap_owner(from, "me").unwrap(), to);
        check(rawdoc! { "_openid": "{openid}" }, rawdoc! { "_openid": "me" });
        check(
            rawdoc! { "$or": [{ "a": { "$in": ["x", "{openid}"] } }, { "b.c": "{openid}" }] },
            rawdoc! { "$or": [{ "a": { "$in": ["x", "me"] } }, { "b.c": "me" }] },
        );
        check(
            rawdoc! { "a": "x{openid}", "{openid}": 1 },
            rawdoc! { "a": "x{openid}", "{openid}": 1 },
        );
        check(rawdoc! { "a": 1 }, rawdoc! { "a": 1 });
    }

    #[test]
    fn filters_are_joined_without_losing_either() {
        let check = |filter, joined: RawDocumentBuf| {
            let filter: RawDocumentBuf = filter;
            assert_eq!(both(rawdoc! { "_openid": "me" }, &filter).unwrap(), joined);
        };
        check(rawdoc! {}, rawdoc! { "_openid": "me" });
        check(rawdoc! { "a": 1 }, rawdoc! { "_openid": "me", "a": 1 });
        check(
            rawdoc! { "_openid": "you" },
            rawdoc! { "$and": [{ "_openid": "me" }, { "_openid": "you" }] },
        );
    }

    #[test]
    fn owner_is_refused_in_every_update_that_writes_it() {
        for update in [
            rawdoc! { "$set": { "_openid": "you" } },
            rawdoc! { "$set": { "a": 1, "_openid.x": "you" } },
            rawdoc! { "$unset": { "_openid": "" } },
            rawdoc! { "$rename": { "_openid": "a" } },
            rawdoc! { "$rename": { "a": "_openid" } },
            rawdoc! { "$setOnInsert": { "_openid": "me" } },
            rawdoc! { "$push": { "_openid": "me" } },
            rawdoc! { "$later": { "_openid": "me" } },
            rawdoc! { "_openid": "me", "a": 1 },
            rawdoc! { "a": 1, "_openid": "you" },
        ] {
            denied(check_update(&update));
        }
        for update in [
            rawdoc! {},
            rawdoc! { "a": { "_openid": "you" } },
            rawdoc! { "$set": { "a._openid": 1, "_openid2": 1 } },
            rawdoc! { "$set": 1 },
        ] {
            check_update(&update).unwrap();
        }
    }

    #[test]
    fn owner_named_twice_in_raw_bytes_is_seen() {
        let mut update = rawdoc! { "$set": { "a": 1 } };
        update.append(bson::raw::cstr!("$set"), rawdoc! { "_openid": "you" });
        denied(check_update(&update));
        denied(stamp_insert(&rawdoc! { "a": 1, "_openid": "me" }, "me"));
        denied(stamp_insert(&rawdoc! { "_openid.x": "me" }, "me"));
    }

    #[test]
    fn owner_is_stamped_where_a_document_is_made() {
        let check = |update: RawDocumentBuf, upsert, stamped: RawDocumentBuf| {
            assert_eq!(stamp_update(&update, upsert, "me").unwrap(), stamped);
        };
        check(rawdoc! { "a": 1 }, false, rawdoc! { "a": 1, "_openid": "me" });
        check(rawdoc! {}, true, rawdoc! { "_openid": "me" });
        check(
            rawdoc! { "$set": { "a": 1 } },
            false,
            rawdoc! { "$set": { "a": 1 } },
        );
        check(
            rawdoc! { "$set": { "a": 1 } },
            true,
            rawdoc! { "$set": { "a": 1 }, "$setOnInsert": { "_openid": "me" } },
        );
        check(
            rawdoc! { "$setOnInsert": { "b": 1 } },
            true,
            rawdoc! { "$setOnInsert": { "b": 1, "_openid": "me" } },
        );
    }

    #[test]
    fn upsert_filters_name_no_other_owner() {
        let own = check_upsert_filter(&rawdoc! { "_openid": "me", "a": 1 }, "me").unwrap();
        assert_eq!(own, rawdoc! { "a": 1 });
        for filter in [
            rawdoc! { "_openid": "you" },
            rawdoc! { "_openid": { "$eq": "me" } },
            rawdoc! { "_openid.x": 1 },
            rawdoc! { "$and": [{ "a": 1 }, { "_openid": "you" }] },
            rawdoc! { "$and": [{ "$or": [{ "_openid": "you" }] }] },
        ] {
            denied(check_upsert_filter(&filter, "me"));
        }
    }

    #[test]
    fn duplicate_key_errors_tell_the_fields_only() {
        let error = Error::duplicate_key(
            "dup { _id: 7 } held by you",
            rawdoc! { "_id": 1 },
            rawdoc! { "_id": 7 },
        );
        let seen = redact(error);
        assert_eq!(seen.to_string(), "a document with the same _id exists already");
        assert!(seen.duplicate().is_none());
    }
}
