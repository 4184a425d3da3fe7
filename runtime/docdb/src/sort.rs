//! Sort specifications and the keys that documents sort by.

use std::cmp::Ordering;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocument};

use crate::check::check_well_formed;
use crate::collation::Collation;
use crate::path::{Path, index_values};
use crate::query::ARGUMENT_DEPTH_MAX;
use crate::value::{compare, fields, is_number, place, shown};
use crate::{Code, Error, Result, keycode};

/// Most fields of a sort specification: MongoDB's 32.
const KEYS_MAX: usize = 32;

/// A parsed sort specification: up to 32 paths with directions.
#[derive(Debug, Clone)]
pub(crate) struct SortSpec {
    keys: Vec<(Path, i32)>,
    collation: Option<Arc<Collation>>,
}

impl SortSpec {
    /// Parses `{a: 1, "b.c": -1}`.
    ///
    /// # Errors
    /// `BadValue` for directions other than 1 and -1, bad paths, repeated paths and too many.
    pub(crate) fn parse(doc: &RawDocument) -> Result<SortSpec> {
        let bad = |message: String| Err(Error::new(Code::BadValue, message));
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        let mut keys: Vec<(Path, i32)> = Vec::new();
        for (name, value) in fields(doc) {
            if let RawBsonRef::Document(_) = value {
                let message = format!("sorting \"{name}\" by an expression is not supported");
                return Err(Error::new(Code::CommandNotSupported, message));
            }
            if name
                .split('.')
                .any(|part| part.is_empty() || part.starts_with('$'))
            {
                return bad(format!("sort key \"{name}\" is not a field path"));
            }
            let direction = [1, -1]
                .into_iter()
                .find(|d| is_number(value) && place(value) == place(RawBsonRef::Int32(*d)));
            let Some(direction) = direction else {
                return bad(format!(
                    "sort direction of \"{name}\" must be 1 or -1, found {}",
                    shown(value)
                ));
            };
            let path = Path::parse(name)?;
            if keys.iter().any(|(seen, _)| *seen == path) {
                return bad(format!("sort key \"{name}\" is there twice"));
            }
            keys.push((path, direction));
        }
        if keys.len() > KEYS_MAX {
            return bad(format!(
                "sort has {} keys, at most {KEYS_MAX} are allowed",
                keys.len()
            ));
        }
        Ok(SortSpec {
            keys,
            collation: None,
        })
    }

    /// This sort with strings in the order of a collation.
    pub(crate) fn collated(mut self, collation: Option<&Arc<Collation>>) -> SortSpec {
        self.collation = collation.cloned();
        self
    }

    /// How it orders strings, if not by their bytes.
    pub(crate) fn collation(&self) -> Option<&Arc<Collation>> {
        self.collation.as_ref()
    }

    /// The paths with their directions, 1 or -1.
    pub(crate) fn keys(&self) -> &[(Path, i32)] {
        &self.keys
    }

    /// Key bytes whose order is the sort order: of an array the smallest element counts ascending, the largest
    /// descending; an empty array is undefined and comes before null, a missing field is null.
    pub(crate) fn sort_key(&self, doc: &RawDocument) -> Vec<u8> {
        let mut key = Vec::with_capacity(16 * self.keys.len());
        if let Some(collation) = &self.collation {
            for (path, direction) in &self.keys {
                let value = collated_representative(doc, path, *direction, collation);
                keycode::encode_text(&mut key, value, *direction < 0, collation.as_ref());
            }
            return key;
        }
        for (path, direction) in &self.keys {
            keycode::encode(&mut key, representative(doc, path, *direction), *direction < 0);
        }
        key
    }

    /// The order of two documents by this specification, same as that of their keys.
    pub(crate) fn compare(&self, a: &RawDocument, b: &RawDocument) -> Ordering {
        for (path, direction) in &self.keys {
            let order = match &self.collation {
                None => compare(
                    representative(a, path, *direction),
                    representative(b, path, *direction),
                ),
                Some(collation) => collation.compare(
                    collated_representative(a, path, *direction, collation),
                    collated_representative(b, path, *direction, collation),
                ),
            };
            if order.is_ne() {
                return if *direction < 0 { order.reverse() } else { order };
            }
        }
        Ordering::Equal
    }
}

/// The value that stands for the document at a path.
fn representative<'d>(doc: &'d RawDocument, path: &Path, direction: i32) -> RawBsonRef<'d> {
    let values = index_values(doc, path).values;
    let value = if direction < 0 {
        values.last()
    } else {
        values.first()
    };
    value.copied().unwrap_or(RawBsonRef::Null)
}

/// The value that stands for the document at a path under a collation.
fn collated_representative<'d>(
    doc: &'d RawDocument,
    path: &Path,
    direction: i32,
    collation: &Collation,
) -> RawBsonRef<'d> {
    let values = index_values(doc, path).values;
    let value = if direction < 0 {
        values.into_iter().max_by(|a, b| collation.compare(*a, *b))
    } else {
        values.into_iter().min_by(|a, b| collation.compare(*a, *b))
    };
    value.unwrap_or(RawBsonRef::Null)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, RawDocumentBuf, doc};

    use super::*;

    fn raw(doc: Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc).unwrap()
    }

    #[track_caller]
    fn check(sort: Document, ascending: Vec<Document>) {
        let sort = SortSpec::parse(&raw(sort)).unwrap();
        let docs: Vec<_> = ascending.into_iter().map(raw).collect();
        for (i, a) in docs.iter().enumerate() {
            for (j, b) in docs.iter().enumerate() {
                assert_eq!(sort.compare(a, b), i.cmp(&j), "{i} {j}");
                assert_eq!(
                    sort.sort_key(a).cmp(&sort.sort_key(b)),
                    i.cmp(&j),
                    "{i} {j} by key"
                );
            }
        }
    }

    #[test]
    fn sorts_arrays_by_their_extremes() {
        check(
            doc! { "a": 1 },
            vec![
                doc! { "a": [] },
                doc! {},
                doc! { "a": [9, 0] },
                doc! { "a": 1 },
                doc! { "a": "x" },
            ],
        );
        check(
            doc! { "a": -1 },
            vec![
                doc! { "a": [9, 0] },
                doc! { "a": 1 },
                doc! { "a": Bson::Null },
                doc! { "a": [] },
            ],
        );
        check(
            doc! { "a.b": 1 },
            vec![doc! { "a": [{ "b": 5 }, { "b": 1 }] }, doc! { "a": { "b": 2 } }],
        );
        check(
            doc! { "a": 1, "b": -1 },
            vec![
                doc! { "a": "", "b": 1 },
                doc! { "a": "", "b": 0 },
                doc! { "a": "a", "b": 7 },
                doc! { "a": "a\0" },
            ],
        );
    }

    #[test]
    fn refuses_what_is_no_sort() {
        for sort in [
            doc! { "a": 0 },
            doc! { "a": "x" },
            doc! { "": 1 },
            doc! { "a..b": 1 },
            doc! { "$a": 1 },
        ] {
            assert_eq!(SortSpec::parse(&raw(sort)).unwrap_err().code(), Code::BadValue);
        }
        assert!(SortSpec::parse(&raw(doc! { "a": 1.0, "b": -1_i64 })).is_ok());
    }
}
