//! Dotted paths and how they reach values in documents, fanning out through arrays of documents.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawArray, RawBsonRef, RawDocument};

use crate::value::{compare, elements, field};
use crate::{Code, Error, Result};

/// Most parts of a path: more than the deepest document has levels.
const PARTS_MAX: usize = 200;

/// A parsed dotted path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    text: Arc<str>,
    parts: Arc<[Part]>,
}

/// One step of a path: a field's name, which is also an array position when it is a plain number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) name: Box<str>,
    pub(crate) index: Option<usize>,
}

impl Path {
    /// Parses a path; an error when it has a NUL or too many parts.
    pub(crate) fn parse(text: &str) -> Result<Path> {
        if text.contains('\0') {
            return Err(Error::new(
                Code::BadValue,
                format!("field path {text:?} has a NUL byte"),
            ));
        }
        let parts: Arc<[Part]> = text.split('.').take(PARTS_MAX + 1).map(Part::new).collect();
        if parts.len() > PARTS_MAX {
            return Err(Error::new(
                Code::Overflow,
                format!("field path has more than {PARTS_MAX} parts"),
            ));
        }
        Ok(Path {
            text: text.into(),
            parts,
        })
    }

    /// The path as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Part {
    fn new(name: &str) -> Part {
        let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|b| b.is_ascii_digit()));
        Part {
            name: name.into(),
            index: if plain { name.parse().ok() } else { None },
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// One value reached by a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaf<'d> {
    /// The value; `None` where the path ends before its last part.
    pub(crate) value: Option<RawBsonRef<'d>>,
    /// Position in the outermost array that the path went through without naming the position.
    pub(crate) array_index: Option<usize>,
    /// This is the array at the end of the path, whose elements (if asked for) came before.
    pub(crate) whole_array: bool,
}

/// Called for the values that a path reaches, until it breaks.
pub(crate) type Visitor<'v, 'd> = dyn FnMut(Leaf<'d>) -> ControlFlow<()> + 'v;

/// Calls `f` for each value that a query's predicate on `path` is tried on: with `each_element`, the elements of an
/// array at the end of the path and then the array; without, the array only.
pub(crate) fn visit<'d>(
    doc: &'d RawDocument,
    path: &Path,
    each_element: bool,
    f: &mut Visitor<'_, 'd>,
) -> ControlFlow<()> {
    visit_document(doc, path.parts(), each_element, None, f)
}

fn visit_document<'d>(
    mut doc: &'d RawDocument,
    mut parts: &[Part],
    each_element: bool,
    array_index: Option<usize>,
    f: &mut Visitor<'_, 'd>,
) -> ControlFlow<()> {
    while let Some((part, rest)) = parts.split_first() {
        match field(doc, &part.name) {
            Some(RawBsonRef::Array(array)) => return visit_array(array, rest, each_element, array_index, f),
            Some(RawBsonRef::Document(inner)) if !rest.is_empty() => (doc, parts) = (inner, rest),
            value => {
                let value = value.filter(|_| rest.is_empty());
                return f(Leaf {
                    value,
                    array_index,
                    whole_array: false,
                });
            }
        }
    }
    ControlFlow::Continue(())
}

fn visit_array<'d>(
    array: &'d RawArray,
    parts: &[Part],
    each_element: bool,
    array_index: Option<usize>,
    f: &mut Visitor<'_, 'd>,
) -> ControlFlow<()> {
    let Some((part, rest)) = parts.split_first() else {
        if each_element {
            for (i, element) in elements(array).enumerate() {
                f(Leaf {
                    value: Some(element),
                    array_index: array_index.or(Some(i)),
                    whole_array: false,
                })?;
            }
        }
        return f(Leaf {
            value: Some(RawBsonRef::Array(array)),
            array_index,
            whole_array: true,
        });
    };
    for (i, element) in elements(array).enumerate() {
        if let RawBsonRef::Document(inner) = element {
            visit_document(inner, parts, each_element, array_index.or(Some(i)), f)?;
        }
        if part.index != Some(i) {
            continue;
        }
        match element {
            _ if rest.is_empty() => {
                f(Leaf {
                    value: Some(element),
                    array_index,
                    whole_array: false,
                })?;
            }
            RawBsonRef::Document(inner) => visit_document(inner, rest, each_element, array_index, f)?,
            RawBsonRef::Array(inner) => visit_array(inner, rest, each_element, array_index, f)?,
            _ => {}
        }
    }
    ControlFlow::Continue(())
}

/// What an index holds for one path of a document.
#[derive(Debug, Default)]
pub(crate) struct IndexValues<'d> {
    /// The distinct values in key order, never empty. A missing field is null, an empty array is undefined; a
    /// non-empty array is its elements and never itself, so an index can't answer for equality with an array.
    pub(crate) values: Vec<RawBsonRef<'d>>,
    /// The path goes through or ends at an array.
    pub(crate) multikey: bool,
    /// The path reaches nothing in the document (sparse indexes leave it out).
    pub(crate) missing: bool,
}

/// The values under which an index on `path` has the document: a superset of the values, other than whole arrays,
/// that predicates see.
pub(crate) fn index_values<'d>(doc: &'d RawDocument, path: &Path) -> IndexValues<'d> {
    let mut found = IndexValues {
        values: Vec::new(),
        multikey: has_array(doc, path),
        missing: true,
    };
    let _ = visit(doc, path, true, &mut |leaf| {
        found.missing &= leaf.value.is_none();
        let element_at_named_position = found.multikey && leaf.array_index.is_none() && !leaf.whole_array;
        match leaf.value {
            None => found.values.push(RawBsonRef::Null),
            Some(RawBsonRef::Array(array))
                if array.is_empty() && (leaf.whole_array || element_at_named_position) =>
            {
                found.values.push(RawBsonRef::Undefined);
            }
            Some(RawBsonRef::Array(_)) if leaf.whole_array => {}
            Some(RawBsonRef::Array(array)) if element_at_named_position => {
                found.values.extend(elements(array))
            }
            Some(value) => found.values.push(value),
        }
        ControlFlow::Continue(())
    });
    if found.values.is_empty() {
        found.values.push(RawBsonRef::Null);
    }
    if found.values.len() > 1 {
        found.values.sort_by(|a, b| compare(*a, *b));
        found.values.dedup_by(|a, b| compare(*a, *b).is_eq());
    }
    found
}

/// Whether the path meets an array.
fn has_array(mut doc: &RawDocument, path: &Path) -> bool {
    for part in path.parts() {
        match field(doc, &part.name) {
            Some(RawBsonRef::Array(_)) => return true,
            Some(RawBsonRef::Document(inner)) => doc = inner,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, RawDocumentBuf, doc};

    use super::*;

    fn show(values: impl IntoIterator<Item = Bson>) -> String {
        values
            .into_iter()
            .map(|v| v.to_string().replace(' ', ""))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[track_caller]
    fn leaves(doc: Document, path: &str, expected: &str) {
        let doc = RawDocumentBuf::try_from(&doc).unwrap();
        let mut shown = Vec::new();
        let _ = visit(&doc, &Path::parse(path).unwrap(), true, &mut |leaf| {
            let value = leaf
                .value
                .map_or("missing".to_owned(), |v| show([Bson::try_from(v).unwrap()]));
            shown.push(leaf.array_index.map_or(value.clone(), |i| format!("{value}@{i}")));
            ControlFlow::Continue(())
        });
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn paths_fan_out_through_arrays_of_documents() {
        leaves(doc! { "a": 1 }, "a", "1");
        leaves(doc! { "a": { "b": 1 } }, "a.b", "1");
        leaves(doc! { "a": 1 }, "b", "missing");
        leaves(doc! { "a": 1 }, "a.b", "missing");
        leaves(doc! { "a": [1, 2] }, "a", "1@0 2@1 [1,2]");
        leaves(doc! { "a": [] }, "a", "[]");
        leaves(doc! { "a": [] }, "a.b", "");
        leaves(doc! { "a": [1, [{ "b": 2 }]] }, "a.b", "");
        leaves(
            doc! { "a": [{ "b": 1 }, {}, { "b": [2, 3] }] },
            "a.b",
            "1@0 missing@1 2@2 3@2 [2,3]@2",
        );
        leaves(doc! { "a": [5, [2, 4]] }, "a.1", "[2,4]");
        leaves(doc! { "a": [5, { "1": 4 }] }, "a.1", r#"4@1 {"1":4}"#);
        leaves(doc! { "a": [[{ "b": 1 }]] }, "a.0.b", "1@0");
        leaves(doc! { "a": { "0": 7 } }, "a.0", "7");
        leaves(doc! { "a": [7] }, "a.00", "");
    }

    #[track_caller]
    fn indexed(doc: Document, path: &str, expected: &str, multikey: bool) {
        let doc = RawDocumentBuf::try_from(&doc).unwrap();
        let found = index_values(&doc, &Path::parse(path).unwrap());
        assert_eq!(
            show(found.values.iter().map(|v| Bson::try_from(*v).unwrap())),
            expected
        );
        assert_eq!(found.multikey, multikey);
        assert_eq!(
            found.missing,
            expected == "null" && !doc.iter().any(|f| f.unwrap().1 == RawBsonRef::Null)
        );
    }

    #[test]
    fn indexes_hold_distinct_elements() {
        indexed(doc! { "a": 1 }, "a", "1", false);
        indexed(doc! { "a": Bson::Null }, "a", "null", false);
        indexed(doc! {}, "a", "null", false);
        indexed(doc! { "a": [3, 1, 3, 1.0] }, "a", "1 3", true);
        indexed(doc! { "a": [] }, "a", "undefined", true);
        indexed(doc! { "a": [[1, 2], []] }, "a", "[] [1,2]", true);
        indexed(doc! { "a": [[1, 2]] }, "a.0", "1 2", true);
        indexed(
            doc! { "a": [{ "b": 2 }, { "b": 1 }, {}] },
            "a.b",
            "null 1 2",
            true,
        );
        indexed(doc! { "a": [1] }, "a.b", "null", true);
    }
}
