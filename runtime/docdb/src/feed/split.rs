//! Events that are too large for one document, told in fragments: MongoDB's `$changeStreamSplitLargeEvent`. A fragment
//! has some of the event's fields, whole, and a resume token of its own.

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::token::Token;
use super::watch::EVENT_BYTES_EXTRA;
use crate::pipeline::Stage;
use crate::value::raw_fields;
use crate::{Code, Error, Result};

const STAGE: &str = "$changeStreamSplitLargeEvent";
/// More than what a fragment has beside the event's fields: its `_id` and `splitEvent`.
const HEAD_BYTES: usize = 256;

/// The stages before the one that splits, and whether that is there.
///
/// # Errors
/// When it is not the last, or has arguments.
pub(super) fn stage_of(stages: &[RawDocumentBuf]) -> Result<(&[RawDocumentBuf], bool)> {
    let name = |stage: &RawDocument| {
        stage
            .iter()
            .next()
            .and_then(Result::ok)
            .map(|(name, _)| name.as_str() == STAGE)
    };
    let Some(place) = stages.iter().position(|stage| name(stage) == Some(true)) else {
        return Ok((stages, false));
    };
    let (before, from) = stages.split_at(place);
    let [last] = from else {
        let message = format!("{STAGE} must be the last stage in the pipeline");
        return Err(Error::new(Code::Location(7_182_802), message));
    };
    match Stage::split(RawBsonRef::Document(last))? {
        (_, RawBsonRef::Document(argument)) if argument.is_empty() => Ok((before, true)),
        _ => {
            let message = format!("{STAGE} spec should be an empty object");
            Err(Error::new(Code::Location(7_182_800), message))
        }
    }
}

/// An event as it is told: as it is, or in fragments, those left out that were given already. Each with its token.
///
/// # Errors
/// `BSONObjectTooLarge` for a field that is too large by itself, `ChangeStreamFatalError` when fragments were given of
/// an event that has none or fewer now.
pub(super) fn parts_of(
    event: Option<RawDocumentBuf>,
    token: Token,
    given: u32,
    document_bytes_max: usize,
) -> Result<Vec<(RawDocumentBuf, Token)>> {
    let max = document_bytes_max + EVENT_BYTES_EXTRA;
    let fragments = match event {
        Some(event) if event.as_bytes().len() > max => split(&event, token, max)?,
        Some(event) if given == 0 => return Ok(vec![(event, token)]),
        None if given == 0 => return Ok(Vec::new()),
        _ => Vec::new(),
    };
    let given = usize::try_from(given).unwrap_or(usize::MAX);
    if given > fragments.len() {
        return Err(Error::new(
            Code::ChangeStreamFatalError,
            "the event of the resume token is not split as it was",
        ));
    }
    Ok(fragments.into_iter().skip(given).collect())
}

fn split(event: &RawDocument, token: Token, max: usize) -> Result<Vec<(RawDocumentBuf, Token)>> {
    let mut groups: Vec<RawDocumentBuf> = Vec::new();
    for (name, value) in raw_fields(event).filter(|(name, _)| name.as_str() != "_id") {
        let mut alone = RawDocumentBuf::new();
        alone.append(name, value);
        let bytes = alone.as_bytes().len() + HEAD_BYTES;
        if bytes > max {
            let message = format!(
                "the field {:?} of a change event has {bytes} bytes by itself, and {max} are allowed",
                name.as_str()
            );
            return Err(Error::new(Code::BSONObjectTooLarge, message));
        }
        match groups.last_mut() {
            Some(group) if group.as_bytes().len() + bytes <= max => group.append(name, value),
            _ => groups.push(alone),
        }
    }
    let of = i32::try_from(groups.len()).unwrap_or(i32::MAX);
    let fragments = groups.into_iter().zip(0_u32..).map(|(group, place)| {
        let token = Token {
            fragment: Some(place),
            ..token
        };
        let mut number = RawDocumentBuf::new();
        number.append(cstr!("fragment"), i32::try_from(place + 1).unwrap_or(i32::MAX));
        number.append(cstr!("of"), of);
        let mut fragment = RawDocumentBuf::new();
        fragment.append(cstr!("_id"), token.to_document());
        fragment.append(cstr!("splitEvent"), number);
        for (name, value) in raw_fields(&group) {
            fragment.append(name, value);
        }
        (fragment, token)
    });
    Ok(fragments.collect())
}
