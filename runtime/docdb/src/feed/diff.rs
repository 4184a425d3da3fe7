//! What an update changed, found by comparing the document before and after: paths that have new values, paths that
//! are gone, arrays that got shorter. MongoDB's `updateDescription`.
//!
//! A part that changed is told field by field where an operator named something inside of it, and else unless telling
//! it as a whole takes fewer bytes; but never where the parts could not be put together again: the order of the fields differs, or a name has a dot. Only of the document itself the
//! order is not told, for there is no whole to tell but a replacement.

use std::collections::HashMap;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::append;
use crate::update::Update;
use crate::value::{elements, fields};

/// Bytes that a value costs beside its name and content, about.
const VALUE_BYTES: usize = 7;

/// The stored form: `{u: {path: value, ..}, r: [path, ..], t: [{field, newSize}, ..], d: {path: [part, ..]}}`, empty
/// parts left out. The last are the paths that could be read in two ways, taken apart.
pub(super) fn describe(before: &RawDocument, after: &RawDocument, update: &Update) -> RawDocumentBuf {
    let mut diff = Diff::of(update);
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
    let apart = diff.taken_apart(before, after);
    if !apart.is_empty() {
        out.append(cstr!("d"), apart);
    }
    out
}

/// MongoDB's form of a stored description.
pub(super) fn shown(stored: &RawDocument, expanded: bool) -> RawDocumentBuf {
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
    if expanded {
        let paths = part("d").and_then(|part| part.as_document());
        let paths = paths.map(RawDocument::to_owned).unwrap_or_default();
        out.append(cstr!("disambiguatedPaths"), paths);
    }
    out
}

struct Diff<'d> {
    update: &'d Update,
    updated: Vec<(String, RawBsonRef<'d>)>,
    removed: Vec<String>,
    truncated: Vec<(String, i32)>,
    /// Paths that begin with a name that has a dot, and that name's length.
    dotted: Vec<(String, usize)>,
    /// What it takes to tell this, without the paths that lead here.
    bytes: usize,
}

impl<'d> Diff<'d> {
    fn of(update: &'d Update) -> Self {
        Self {
            update,
            updated: Vec::new(),
            removed: Vec::new(),
            truncated: Vec::new(),
            dotted: Vec::new(),
            bytes: 0,
        }
    }

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
                if top && name.contains('.') {
                    self.dotted.push((name.to_owned(), name.len()));
                }
                continue;
            };
            let moved = place < expected;
            if (moved || added) && !top {
                return false;
            }
            kept[place] = true;
            expected = expected.max(place + 1);
            let told = (self.updated.len(), self.removed.len(), self.truncated.len());
            if moved {
                self.set(join(path, name), name, value);
            } else if !same(old[place].1, value) {
                if !top && !is_plain(name) {
                    return false;
                }
                self.value(join(path, name), name, old[place].1, value);
            }
            if top && name.contains('.') {
                let updated = self.updated.iter().skip(told.0).map(|(path, _)| path);
                let removed = self.removed.iter().skip(told.1);
                let truncated = self.truncated.iter().skip(told.2).map(|(path, _)| path);
                let paths = updated.chain(removed).chain(truncated);
                self.dotted.extend(paths.map(|path| (path.clone(), name.len())));
            }
        }
        for ((name, _), _) in old.iter().zip(&kept).filter(|(_, kept)| !**kept) {
            if !top && !is_plain(name) {
                return false;
            }
            self.bytes += name.len() + VALUE_BYTES;
            self.removed.push(join(path, name));
            if top && name.contains('.') {
                self.dotted.push(((*name).to_owned(), name.len()));
            }
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

    /// A value that changed: by its parts, if that is shorter or the update named one of them.
    fn value(&mut self, path: String, name: &str, before: RawBsonRef<'d>, after: RawBsonRef<'d>) {
        let mut inner = Diff::of(self.update);
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
        let whole_is_shorter = || inner.bytes > whole && !self.update.reaches_below(&path);
        if !told || whole_is_shorter() {
            self.set(path, name, after);
            return;
        }
        self.bytes += inner.bytes + name.len() + VALUE_BYTES;
        self.updated.append(&mut inner.updated);
        self.removed.append(&mut inner.removed);
        self.truncated.append(&mut inner.truncated);
    }

    /// The parts of the paths that could be read in two ways: names that look like an element's place, and names with
    /// dots.
    fn taken_apart(&self, before: &RawDocument, after: &RawDocument) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        let updated = self.updated.iter().map(|(path, _)| (path, after));
        let removed = self.removed.iter().map(|path| (path, before));
        let truncated = self.truncated.iter().map(|(path, _)| (path, after));
        for (path, document) in updated.chain(removed).chain(truncated) {
            let dotted = self.dotted.iter().find(|(dotted, _)| dotted == path);
            let numeric = path.split('.').any(is_place);
            if dotted.is_none() && !numeric {
                continue;
            }
            let first = dotted.map_or_else(|| path.find('.').unwrap_or(path.len()), |(_, length)| *length);
            let (parts, ambiguous) = parts_of(path, first, document);
            if ambiguous || dotted.is_some() {
                append(&mut out, path, RawBsonRef::Array(&parts));
            }
        }
        out
    }

    fn set(&mut self, path: String, name: &str, value: RawBsonRef<'d>) {
        self.bytes += name.len() + VALUE_BYTES + content_bytes(value);
        self.updated.push((path, value));
    }
}

/// The parts of a path, whose first is so long, as they are in a document: names, and places in arrays. True when a
/// name looks like a place.
fn parts_of(path: &str, first: usize, document: &RawDocument) -> (RawArrayBuf, bool) {
    let (head, rest) = path.split_at_checked(first).unwrap_or((path, ""));
    let rest = rest.strip_prefix('.');
    let mut parts = RawArrayBuf::new();
    parts.push(head);
    let mut ambiguous = is_place(head);
    let mut inside = crate::value::field(document, head);
    for part in rest.into_iter().flat_map(|rest| rest.split('.')) {
        inside = match (inside, part.parse::<usize>()) {
            (Some(RawBsonRef::Array(array)), Ok(place)) => {
                parts.push(i32::try_from(place).unwrap_or(i32::MAX));
                elements(array).nth(place)
            }
            (inside, _) => {
                parts.push(part);
                ambiguous |= is_place(part);
                inside
                    .and_then(|inside| inside.as_document())
                    .and_then(|document| crate::value::field(document, part))
            }
        };
    }
    (parts, ambiguous)
}

/// Whether a part of a path can be an element's place in an array.
fn is_place(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit())
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

    /// An update that names nothing.
    fn whole() -> Update {
        Update::Replace(RawDocumentBuf::new())
    }

    #[test]
    fn tells_the_parts_that_an_operator_names() {
        let check = |before: Document, update: Document, updated: Document, apart: Document| {
            let update = Update::parse(&raw(update), &[]).unwrap();
            let now = crate::update::Now {
                date: bson::DateTime::from_millis(0),
                timestamp: bson::Timestamp {
                    time: 0,
                    increment: 0,
                },
            };
            let before = raw(before);
            let after = update.apply(&before, &crate::query::Filter::AlwaysTrue, now, false);
            let told = shown(&describe(&before, &after.unwrap().unwrap(), &update), true);
            let told = Document::try_from(told.as_ref()).unwrap();
            assert_eq!(told.get_document("updatedFields").unwrap(), &updated);
            assert_eq!(told.get_document("disambiguatedPaths").unwrap(), &apart);
        };
        check(
            doc! { "a": { "1": 1 } },
            doc! { "$set": { "a.1": 2 } },
            doc! { "a.1": 2 },
            doc! { "a.1": ["a", "1"] },
        );
        check(
            doc! { "a": [{ "1": 1 }] },
            doc! { "$set": { "a.0.1": 2 } },
            doc! { "a.0.1": 2 },
            doc! { "a.0.1": ["a", 0, "1"] },
        );
        check(
            doc! { "a": [1, 2] },
            doc! { "$inc": { "a.$[]": 1 } },
            doc! { "a.0": 2, "a.1": 3 },
            doc! {},
        );
        check(
            doc! { "a": { "bbbbbbbbbb": { "c": 1 } } },
            doc! { "$set": { "a": { "x": 1 } } },
            doc! { "a": { "x": 1 } },
            doc! {},
        );
    }

    #[track_caller]
    fn check(
        before: Document,
        after: Document,
        updated: Document,
        removed: &[&str],
        truncated: &[(&str, i32)],
    ) {
        let told = shown(&describe(&raw(before), &raw(after), &whole()), false);
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
        let told = describe(&raw(nan()), &raw(nan()), &whole());
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
    fn takes_paths_apart_that_could_be_read_in_two_ways() {
        let check = |before: Document, after: Document, apart: Document| {
            let told = shown(&describe(&raw(before), &raw(after), &whole()), true);
            let told = Document::try_from(told.as_ref()).unwrap();
            assert_eq!(told.get_document("disambiguatedPaths").unwrap(), &apart);
        };
        let long = || "x".repeat(50);
        check(
            doc! { "a": { "1": 1, "l": long() } },
            doc! { "a": { "1": 2, "l": long() } },
            doc! { "a.1": ["a", "1"] },
        );
        check(
            doc! { "a": [{ "1": 1, "l": long() }] },
            doc! { "a": [{ "l": long() }] },
            doc! { "a.0.1": ["a", 0, "1"] },
        );
        check(doc! { "a": [1, 2] }, doc! { "a": [1, 3] }, doc! {});
        check(doc! { "a.b": 1 }, doc! { "a.b": 2 }, doc! { "a.b": ["a.b"] });
        check(
            doc! { "a.b": { "c": 1, "l": long() }, "a": 1 },
            doc! { "a.b": { "c": 2, "l": long() }, "a": 1 },
            doc! { "a.b.c": ["a.b", "c"] },
        );
        check(doc! { "a": 1 }, doc! { "b": 1 }, doc! {});
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
