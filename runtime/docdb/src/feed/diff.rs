//! What an update changed, found by comparing the document before and after: paths that have new values, paths that
//! are gone, arrays that got shorter. MongoDB's `updateDescription`.
//!
//! A part that changed is told field by field, unless telling it as a whole takes fewer bytes, or the parts could
//! not be put together again: the order of the fields differs, or a name has a dot. Only of the document itself the
//! order is not told, for there is no whole to tell but a replacement.

use std::collections::HashMap;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::append;
use crate::value::{elements, fields};

/// Bytes that a value costs beside its name and content, about.
const VALUE_BYTES: usize = 7;

/// The stored form: `{u: {path: value, ..}, r: [path, ..], t: [{field, newSize}, ..]}`, empty parts left out.
pub(super) fn describe(before: &RawDocument, after: &RawDocument) -> RawDocumentBuf {
    let mut diff = Diff::default();
    diff.documents("", before, after, true);
    let mut out = RawDocumentBuf::new();
    if !diff.updated.is_empty() {
        let mut updated = RawDocumentBuf::new();
        for (path, value) in &diff.updated {
            append(&mut updated, path, *value);
        }
        out.append(cstr!("u"), updated);
    }
    if !diff.removed.is_empty() {
        let mut removed = RawArrayBuf::new();
        for path in &diff.removed {
            removed.push(path.as_str());
        }
        out.append(cstr!("r"), removed);
    }
    if !diff.truncated.is_empty() {
        let mut truncated = RawArrayBuf::new();
        for (path, size) in &diff.truncated {
            let mut one = RawDocumentBuf::new();
            one.append(cstr!("field"), path.as_str());
            one.append(cstr!("newSize"), *size);
            truncated.push(one);
        }
        out.append(cstr!("t"), truncated);
    }
    out
}

/// MongoDB's form of a stored description.
pub(super) fn shown(stored: &RawDocument) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    let part = |name: &str| crate::value::field(stored, name);
    match part("u").and_then(|part| part.as_document()) {
        Some(updated) => out.append(cstr!("updatedFields"), updated.to_owned()),
        None => out.append(cstr!("updatedFields"), RawDocumentBuf::new()),
    }
    for (name, short) in [(cstr!("removedFields"), "r"), (cstr!("truncatedArrays"), "t")] {
        match part(short).and_then(|part| part.as_array()) {
            Some(list) => out.append(name, list.to_owned()),
            None => out.append(name, RawArrayBuf::new()),
        }
    }
    out
}

#[derive(Default)]
struct Diff<'d> {
    updated: Vec<(String, RawBsonRef<'d>)>,
    removed: Vec<String>,
    truncated: Vec<(String, i32)>,
    /// What it takes to tell this, without the paths that lead here.
    bytes: usize,
}

impl<'d> Diff<'d> {
    /// Compares documents. False when the difference can't be told by parts; never at the top.
    fn documents(&mut self, path: &str, before: &'d RawDocument, after: &'d RawDocument, top: bool) -> bool {
        let old: Vec<(&str, RawBsonRef<'d>)> = fields(before).collect();
        let mut kept = vec![false; old.len()];
        let mut places: Option<HashMap<&str, usize>> = None;
        // Where the next field was, if the order is the same.
        let mut expected = 0;
        let mut added = false;
        for (name, value) in fields(after) {
            let place = if old.get(expected).is_some_and(|(old, _)| *old == name) {
                Some(expected)
            } else {
                let places = places.get_or_insert_with(|| {
                    old.iter()
                        .enumerate()
                        .map(|(place, (name, _))| (*name, place))
                        .collect()
                });
                places.get(name).copied()
            };
            let Some(place) = place else {
                added = true;
                if !top && !is_plain(name) {
                    return false;
                }
                self.set(join(path, name), name, value);
                continue;
            };
            let moved = place < expected;
            if (moved || added) && !top {
                return false;
            }
            kept[place] = true;
            expected = expected.max(place + 1);
            if moved {
                self.set(join(path, name), name, value);
            } else if !same(old[place].1, value) {
                if !top && !is_plain(name) {
                    return false;
                }
                self.value(join(path, name), name, old[place].1, value);
            }
        }
        for ((name, _), _) in old.iter().zip(&kept).filter(|(_, kept)| !**kept) {
            if !top && !is_plain(name) {
                return false;
            }
            self.bytes += name.len() + VALUE_BYTES;
            self.removed.push(join(path, name));
        }
        true
    }

    fn arrays(&mut self, path: &str, before: &'d bson::RawArray, after: &'d bson::RawArray) {
        let mut old = elements(before);
        let mut size = 0;
        for (place, value) in elements(after).enumerate() {
            size = place + 1;
            let name = place.to_string();
            match old.next() {
                Some(old) if same(old, value) => {}
                Some(old) => self.value(join(path, &name), &name, old, value),
                None => self.set(join(path, &name), &name, value),
            }
        }
        if old.next().is_some() {
            self.bytes += VALUE_BYTES;
            self.truncated
                .push((path.to_owned(), i32::try_from(size).unwrap_or(i32::MAX)));
        }
    }

    /// A value that changed: by its parts, if that is shorter.
    fn value(&mut self, path: String, name: &str, before: RawBsonRef<'d>, after: RawBsonRef<'d>) {
        let mut inner = Diff::default();
        let (told, whole) = match (before, after) {
            (RawBsonRef::Document(before), RawBsonRef::Document(after)) => (
                inner.documents(&path, before, after, false),
                after.as_bytes().len(),
            ),
            (RawBsonRef::Array(before), RawBsonRef::Array(after)) => {
                inner.arrays(&path, before, after);
                (true, after.as_bytes().len())
            }
            _ => (false, 0),
        };
        if !told || inner.bytes > whole {
            self.set(path, name, after);
            return;
        }
        self.bytes += inner.bytes + name.len() + VALUE_BYTES;
        self.updated.append(&mut inner.updated);
        self.removed.append(&mut inner.removed);
        self.truncated.append(&mut inner.truncated);
    }

    fn set(&mut self, path: String, name: &str, value: RawBsonRef<'d>) {
        self.bytes += name.len() + VALUE_BYTES + content_bytes(value);
        self.updated.push((path, value));
    }
}

/// Whether a name inside of a path is read as what it is.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('.')
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Whether the bytes are the same: a number of another type is another value here.
fn same(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> bool {
    match (a, b) {
        (RawBsonRef::Double(a), RawBsonRef::Double(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

fn content_bytes(value: RawBsonRef<'_>) -> usize {
    match value {
        RawBsonRef::Document(value) => value.as_bytes().len(),
        RawBsonRef::Array(value) => value.as_bytes().len(),
        RawBsonRef::String(value) => value.len() + 5,
        RawBsonRef::Binary(value) => value.bytes.len() + 5,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;
    use crate::tests::raw;

    #[track_caller]
    fn check(
        before: Document,
        after: Document,
        updated: Document,
        removed: &[&str],
        truncated: &[(&str, i32)],
    ) {
        let told = shown(&describe(&raw(before), &raw(after)));
        let truncated: Vec<Document> = truncated
            .iter()
            .map(|(field, size)| doc! { "field": *field, "newSize": *size })
            .collect();
        assert_eq!(
            Document::try_from(told.as_ref()).unwrap(),
            doc! { "updatedFields": updated, "removedFields": removed, "truncatedArrays": truncated }
        );
    }

    #[test]
    fn tells_fields() {
        let one = || doc! { "_id": 1, "a": 1, "b": 2 };
        check(one(), one(), doc! {}, &[], &[]);
        check(
            one(),
            doc! { "_id": 1, "a": 5, "b": 2 },
            doc! { "a": 5 },
            &[],
            &[],
        );
        check(
            one(),
            doc! { "_id": 1, "a": 1.0, "b": 2 },
            doc! { "a": 1.0 },
            &[],
            &[],
        );
        check(one(), doc! { "_id": 1, "b": 2 }, doc! {}, &["a"], &[]);
        check(
            one(),
            doc! { "_id": 1, "a": 1, "b": 2, "c": 3 },
            doc! { "c": 3 },
            &[],
            &[],
        );
        check(
            one(),
            doc! { "_id": 1, "a": 1, "c": 2 },
            doc! { "c": 2 },
            &["b"],
            &[],
        );
        check(
            one(),
            doc! { "_id": 1, "a": { "x": 1 }, "b": 2 },
            doc! { "a": { "x": 1 } },
            &[],
            &[],
        );
        check(
            one(),
            doc! { "_id": 1, "b": 2, "a": 1 },
            doc! { "a": 1 },
            &[],
            &[],
        );
        let nan = || doc! { "_id": 1, "a": f64::NAN };
        let told = describe(&raw(nan()), &raw(nan()));
        assert!(told.is_empty(), "NaN is itself");
    }

    #[test]
    fn tells_parts_of_documents_by_their_paths() {
        let nested = |inner: Document| doc! { "_id": 1, "a": { "b": inner, "long": "x".repeat(50) } };
        check(
            nested(doc! { "x": 1, "y": 2 }),
            nested(doc! { "x": 1, "y": 3 }),
            doc! { "a.b.y": 3 },
            &[],
            &[],
        );
        check(
            nested(doc! { "x": 1, "y": 2, "z": 3 }),
            nested(doc! { "x": 1, "z": 3 }),
            doc! {},
            &["a.b.y"],
            &[],
        );
        check(
            nested(doc! { "x": 1 }),
            nested(doc! { "x": 1, "y": 2 }),
            doc! { "a.b.y": 2 },
            &[],
            &[],
        );
        // What parts would not tell is told whole: another order, names with dots.
        check(
            nested(doc! { "x": 1, "y": 2 }),
            nested(doc! { "y": 2, "x": 1 }),
            doc! { "a.b": { "y": 2, "x": 1 } },
            &[],
            &[],
        );
        check(
            nested(doc! { "x": 1 }),
            nested(doc! { "y": 2, "x": 1 }),
            doc! { "a.b": { "y": 2, "x": 1 } },
            &[],
            &[],
        );
        check(
            nested(doc! { "x.y": 1 }),
            nested(doc! { "x.y": 2 }),
            doc! { "a.b": { "x.y": 2 } },
            &[],
            &[],
        );
        check(
            nested(doc! { "": 1, "y": 2 }),
            nested(doc! { "y": 2 }),
            doc! { "a.b": { "y": 2 } },
            &[],
            &[],
        );
        // And what is shorter whole.
        let (old, new) = (doc! { "aaaaaaaaaa": 1, "bbbbbbbbbbb": 2 }, doc! { "c": 1 });
        check(nested(old), nested(new), doc! { "a.b": { "c": 1 } }, &[], &[]);
    }

    #[test]
    fn tells_elements_of_arrays() {
        let list = |items: &[i32]| doc! { "_id": 1, "a": items.to_vec() };
        check(list(&[1, 2, 3]), list(&[1, 5, 3]), doc! { "a.1": 5 }, &[], &[]);
        check(list(&[1, 2, 3]), list(&[1, 2, 3, 4]), doc! { "a.3": 4 }, &[], &[]);
        check(list(&[1, 2, 3]), list(&[1]), doc! {}, &[], &[("a", 1)]);
        check(
            list(&[1, 2, 3, 4, 5]),
            list(&[9, 2, 3, 4]),
            doc! { "a.0": 9 },
            &[],
            &[("a", 4)],
        );
        check(list(&[1, 2, 3]), list(&[2, 3]), doc! { "a": [2, 3] }, &[], &[]);
        check(list(&[1, 2]), list(&[]), doc! { "a": [] }, &[], &[]);
        check(list(&[]), list(&[1]), doc! { "a": [1] }, &[], &[]);
        let rows = |q: i32| doc! { "_id": 1, "rows": [{ "n": "one", "q": 1 }, { "n": "two", "q": q }] };
        check(rows(2), rows(3), doc! { "rows.1.q": 3 }, &[], &[]);
        let lists = |inner: Vec<i32>| doc! { "_id": 1, "a": [[1, 2, 3, 4, 5], inner] };
        check(
            lists(vec![1, 2, 3]),
            lists(vec![1, 2]),
            doc! {},
            &[],
            &[("a.1", 2)],
        );
        check(
            doc! { "_id": 1, "a": [1] },
            doc! { "_id": 1, "a": { "0": 1 } },
            doc! { "a": { "0": 1 } },
            &[],
            &[],
        );
    }
}
