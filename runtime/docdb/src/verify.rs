//! The check that indexes and documents agree, both ways, that no row is without an owner, and that the change log is
//! whole, over the whole store. [`check_file`] runs it on a file that no node has open and goes on after what it
//! finds; `Docs::verify` runs it on an open store and stops at the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use bson::RawBsonRef;
use bson::oid::ObjectId;

use crate::capped;
use crate::catalog::{Catalog, Collection, Kinds, document_prefix, entry_prefix, order_prefix};
use crate::check::check_well_formed;
use crate::index::{Entry, Index, stored};
use crate::kv::{Direction, Kv as _, KvRead, LOG_BYTES, Range, RedbKv, RedbOptions, get_vec, successor};
use crate::value::field;
use crate::{Code, Error, Limits, Namespace, Result, feed, keycode, show, time_series};

/// Rows between two looks at the clock, or two reports of progress.
const ROWS_PER_TICK: u64 = 256;
/// Bytes of a key that is no value's which are shown.
const KEY_BYTES_SHOWN_MAX: usize = 32;

/// What a check looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The format's version of the file.
    pub format: u32,
    /// Collections in the catalog.
    pub collections: u64,
    /// Documents, each with its entries.
    pub documents: u64,
    /// Index entries, each with its document.
    pub entries: u64,
    /// Events of the change log.
    pub events: u64,
}

/// One thing that is wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The collection, where one is known.
    pub namespace: Option<Namespace>,
    /// The index, if it is about one.
    pub index: Option<String>,
    /// The document's `_id` in the shell's notation, where there is one.
    pub id: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ns) = &self.namespace {
            write!(f, "collection {ns}: ")?;
        }
        if let Some(index) = &self.index {
            write!(f, "index {index:?}: ")?;
        }
        if let Some(id) = &self.id {
            write!(f, "_id {id}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Takes a finding; an error ends the check.
pub(crate) type Found<'f> = dyn FnMut(Finding) -> Result<()> + 'f;
/// Called now and then with what was looked at so far; an error ends the check.
pub(crate) type Tick<'t> = dyn FnMut(&Verified) -> Result<()> + 't;

/// Checks the database file at `path`, which must be there and open nowhere else: the pages' checksums, then every
/// row. `found` is told of each thing that is wrong, `progress` now and then of what was looked at. Memory is
/// `cache_bytes` of pages and the catalog, whatever the file's size.
///
/// The file's content stays as it is. A file that was not closed in order is first brought to its last commit, as the
/// next start of a node would do.
///
/// # Errors
/// When the file is not there, is open in another process, is none of cloudlet's, is of a newer format, or is damaged
/// so that its rows can't be read.
pub fn check_file(
    path: &Path,
    cache_bytes: usize,
    found: &mut dyn FnMut(Finding),
    progress: &mut dyn FnMut(&Verified),
) -> Result<Verified> {
    let uncounted = || {
        prometheus::IntCounter::new("uncounted", "not shown")
            .map_err(|error| Error::new(Code::InternalError, error.to_string()))
    };
    let options = RedbOptions {
        cache_bytes,
        // Nothing is written but what closes the file in order: no log is made.
        log_bytes: LOG_BYTES,
        log_id: [0; 16],
        fsyncs: uncounted()?,
        waits: uncounted()?,
    };
    let store = RedbKv::open_existing(path, options)?;
    if !store.check_pages()? {
        found(Finding {
            namespace: None,
            index: None,
            id: None,
            what: "the file's own records of its pages were wrong, and are put right".to_owned(),
        });
    }
    let mut seen = Verified::default();
    store.read(&mut |kv| {
        let (format, catalog) = Catalog::load_any(kv)?;
        let mut report = |finding| {
            found(finding);
            Ok(())
        };
        let mut tick = |seen: &Verified| {
            progress(seen);
            Ok(())
        };
        seen = verify(kv, &catalog, Limits::default().depth_max, &mut report, &mut tick)?;
        seen.format = format;
        Ok(())
    })?;
    Ok(seen)
}

/// # Errors
/// Those of `found`, of `tick` and of the store.
pub(crate) fn verify(
    kv: &dyn KvRead,
    catalog: &Catalog,
    depth_max: usize,
    found: &mut Found<'_>,
    tick: &mut Tick<'_>,
) -> Result<Verified> {
    let mut check = Check {
        kv,
        depth_max,
        seen: Verified::default(),
        rows: 0,
        found,
        tick,
    };
    check.owners(catalog)?;
    for (ns, collection) in catalog.all() {
        check.seen.collections += 1;
        check.documents(ns, collection)?;
        for index in &collection.indexes {
            check.entries(ns, collection, index)?;
        }
        if collection.capped.is_some() {
            check.order(ns, collection)?;
        }
    }
    check.log()?;
    Ok(check.seen)
}

/// An error that tells of a finding, for those who stop at the first.
pub(crate) fn inconsistent(finding: &Finding) -> Error {
    Error::new(
        Code::InternalError,
        format!("the store is inconsistent: {finding}"),
    )
}

struct Check<'c> {
    kv: &'c dyn KvRead,
    depth_max: usize,
    seen: Verified,
    rows: u64,
    found: &'c mut Found<'c>,
    tick: &'c mut Tick<'c>,
}

/// Looks at one row.
type RowCheck<'r, 'c> = dyn FnMut(&mut Check<'c>, &[u8], &[u8]) -> Result<()> + 'r;

impl<'c> Check<'c> {
    fn find(&mut self, ns: &Namespace, index: Option<&Index>, id: Option<String>, what: &str) -> Result<()> {
        (self.found)(Finding {
            namespace: Some(ns.clone()),
            index: index.map(|index| index.spec.name.to_string()),
            id,
            what: what.to_owned(),
        })
    }

    fn find_at_large(&mut self, what: String) -> Result<()> {
        (self.found)(Finding {
            namespace: None,
            index: None,
            id: None,
            what,
        })
    }

    /// Ids are given out once, and each row belongs to a collection or index of the catalog, or is to be removed.
    fn owners(&mut self, catalog: &Catalog) -> Result<()> {
        let mut owned: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut numbers: BTreeSet<u32> = BTreeSet::new();
        for (ns, collection) in catalog.all() {
            let indexes = collection.indexes.iter().map(|index| {
                let name = format!("index {:?} of {ns}", index.spec.name);
                (index.id, entry_prefix(index.id), name)
            });
            let own = (collection.id, collection.prefix(), format!("collection {ns}"));
            for (id, prefix, name) in std::iter::once(own).chain(indexes) {
                if !numbers.insert(id) {
                    self.find_at_large(format!("{name} has the number {id}, which another one has too"))?;
                }
                if id >= catalog.next_id() {
                    self.find_at_large(format!("{name} has the number {id}, which was not given out yet"))?;
                }
                owned.insert(prefix, name);
            }
        }
        for (ns, collection) in catalog
            .all()
            .filter(|(_, collection)| collection.capped.is_some())
        {
            owned.insert(order_prefix(collection.id), format!("order of {ns}"));
        }
        for kinds in [Kinds::Documents, Kinds::Entries, Kinds::Order] {
            let range = kinds.range();
            let mut from = range.0;
            while let Some(prefix) = self.first_owner(&from, &range.1)? {
                if !owned.contains_key(&prefix) && !Catalog::is_discarded(self.kv, &prefix)? {
                    let number = prefix.get(1..).map(hex).unwrap_or_default();
                    self.find_at_large(format!(
                        "there are {} of number {number}, which the catalog does not have",
                        kinds.name()
                    ))?;
                }
                match successor(&prefix) {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        let (from, to) = Kinds::beyond();
        if self.first_owner(&from, &to)?.is_some() {
            self.find_at_large("there are rows of an unknown kind".to_owned())?;
        }
        Ok(())
    }

    /// Kind and number of the first row from `from` on.
    fn first_owner(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut owner = None;
        self.kv
            .scan(Range::half_open(from, to), Direction::Forward, &mut |key, _| {
                owner = Some(key.get(..5).unwrap_or(key).to_vec());
                ControlFlow::Break(())
            })?;
        Ok(owner)
    }

    /// Each document can be read, is under the key of its `_id` and has its entries.
    fn documents(&mut self, ns: &Namespace, collection: &Collection) -> Result<()> {
        let prefix = collection.prefix();
        self.each_row(&prefix, &mut |check, key, value| {
            check.seen.documents += 1;
            let id = &key[prefix.len()..];
            let document = match readable(value, check.depth_max) {
                Ok(document) => document,
                Err(what) => return check.find(ns, None, Some(shown(id)), &what),
            };
            let own_id = field(document, "_id");
            let name = own_id.map(show::value);
            if let Some(series) = &collection.time_series {
                if !time_series::is_place_of(series, document, id) {
                    let what = format!(
                        "the measurement is not under the key of its time, but under {}",
                        shown(id)
                    );
                    return check.find(ns, None, name, &what);
                }
            } else if own_id.map(|id| collection.id_bytes(id)).unwrap_or_default() != id {
                let what = format!(
                    "the document is not under the key of its _id, but under that of {}",
                    shown(id)
                );
                return check.find(ns, None, name, &what);
            }
            // One that is being built has not come by all documents yet.
            for index in collection.indexes.iter().filter(|index| !index.building) {
                let keys = match index.keys(document) {
                    Ok(keys) => keys,
                    Err(error) => {
                        let what = format!("the document has no place in the index: {error}");
                        check.find(ns, Some(index), name.clone(), &what)?;
                        continue;
                    }
                };
                if keys.multikey & !index.multikey != 0 {
                    let what = "the index does not know that it is multikey, as this document makes it";
                    check.find(ns, Some(index), name.clone(), what)?;
                }
                for key in &keys.keys {
                    let forms = &keys.forms;
                    let (key, value) = index.row(Entry { key, id, forms });
                    match get_vec(check.kv, &key)? {
                        Some(there) if there == value => {}
                        Some(other)
                            if index.spec.unique
                                && index.entry(&key, &other).is_ok_and(|other| other.id != id) =>
                        {
                            let other = index.entry(&key, &other)?;
                            let what = format!(
                                "the unique key of the document is entered for _id {}",
                                shown(other.id)
                            );
                            check.find(ns, Some(index), name.clone(), &what)?;
                        }
                        Some(_) => {
                            check.find(ns, Some(index), name.clone(), "the document's entry is damaged")?;
                        }
                        None => check.find(ns, Some(index), name.clone(), "the document has no entry")?,
                    }
                }
            }
            Ok(())
        })
    }

    /// Each entry is one of its document's.
    fn entries(&mut self, ns: &Namespace, collection: &Collection, index: &Index) -> Result<()> {
        self.each_row(&entry_prefix(index.id), &mut |check, key, value| {
            check.seen.entries += 1;
            let Ok(Entry { key: entry, id, .. }) = index.entry(key, value) else {
                return check.find(ns, Some(index), None, "an entry is damaged");
            };
            if let Some(what) = wrong_shape(index, entry) {
                return check.find(ns, Some(index), Some(shown(id)), what);
            }
            let mut document_key = document_prefix(collection.id);
            document_key.extend_from_slice(id);
            let Some(document) = get_vec(check.kv, &document_key)? else {
                return check.find(ns, Some(index), Some(shown(id)), "an entry has no document");
            };
            // What can't be read, or has no keys, was found with the documents.
            let Ok(document) = readable(&document, check.depth_max) else {
                return Ok(());
            };
            match index.keys(document) {
                Ok(keys) if !keys.keys.contains(entry) => {
                    let name = field(document, "_id").map_or_else(|| shown(id), show::value);
                    check.find(ns, Some(index), Some(name), "an entry is not its document's")
                }
                _ => Ok(()),
            }
        })
    }

    /// Of a capped collection each document has its place, and the bounds are counted right.
    fn order(&mut self, ns: &Namespace, collection: &Collection) -> Result<()> {
        let (mut documents, mut bytes) = (0_u64, 0_u64);
        self.each_row(&collection.prefix(), &mut |_, _, value| {
            documents += 1;
            bytes += value.len() as u64;
            Ok(())
        })?;
        let state = match capped::state(self.kv, collection.id) {
            Ok(state) => state,
            Err(error) if error.code() == Code::InternalError => {
                return self.find(ns, None, None, &error.to_string());
            }
            Err(error) => return Err(error),
        };
        if (state.documents, state.bytes) != (documents, bytes) {
            let what = format!(
                "the collection has {documents} documents of {bytes} bytes, and is counted as {} of {}",
                state.documents, state.bytes
            );
            self.find(ns, None, None, &what)?;
        }
        let mut places = 0;
        let (prefix, _) = capped::places(collection.id);
        self.each_row(&prefix, &mut |check, place, id| {
            places += 1;
            let mut document = document_prefix(collection.id);
            document.extend_from_slice(id);
            if get_vec(check.kv, &document)?.is_none() {
                return check.find(ns, None, Some(shown(id)), "a place in the order has no document");
            }
            if !capped::agrees(check.kv, collection.id, place, id)? {
                return check.find(
                    ns,
                    None,
                    Some(shown(id)),
                    "the document has another place in the order",
                );
            }
            Ok(())
        })?;
        if places != documents {
            let what = format!("the order has {places} places, and the collection {documents} documents");
            self.find(ns, None, None, &what)?;
        }
        Ok(())
    }

    /// The change log can be read from end to end.
    fn log(&mut self) -> Result<()> {
        let seen = self.seen;
        // A look at the clock is no damage, and a damaged log is no reason to end.
        let mut stopped = None;
        let outcome = feed::verify(self.kv, self.depth_max, &mut |events| {
            let outcome = (self.tick)(&Verified { events, ..seen });
            stopped = outcome.as_ref().err().cloned();
            outcome
        });
        match (stopped, outcome) {
            (Some(error), _) => Err(error),
            (None, Ok(events)) => {
                self.seen.events = events;
                Ok(())
            }
            (None, Err(error)) if error.code() == Code::InternalError => {
                self.find_at_large(error.to_string())
            }
            (None, Err(error)) => Err(error),
        }
    }

    fn each_row(&mut self, prefix: &[u8], visit: &mut RowCheck<'_, 'c>) -> Result<()> {
        let end = successor(prefix).unwrap_or_default();
        let mut outcome = Ok(());
        let kv = self.kv;
        kv.scan(
            Range::half_open(prefix, &end),
            Direction::Forward,
            &mut |key, value| {
                self.rows += 1;
                if self.rows.is_multiple_of(ROWS_PER_TICK) {
                    outcome = (self.tick)(&self.seen);
                }
                if outcome.is_ok() {
                    outcome = visit(self, key, value);
                }
                if outcome.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        outcome
    }
}

/// A stored document that can be read to its end, or what is wrong with it.
fn readable(bytes: &[u8], depth_max: usize) -> Result<&bson::RawDocument, String> {
    let document = stored(bytes).map_err(|error| error.to_string())?;
    match check_well_formed(document, depth_max) {
        Ok(()) => Ok(document),
        Err(error) => Err(format!("the stored document is damaged: {error}")),
    }
}

/// What is wrong with an entry's key, which is one key of each field after the index's id, and nothing more.
fn wrong_shape(index: &Index, entry: &[u8]) -> Option<&'static str> {
    let mut rest = entry.get(entry_prefix(index.id).len()..).unwrap_or_default();
    for field in &index.fields {
        let after = keycode::field_len(rest, field.descending).and_then(|bytes| rest.get(bytes..));
        match after {
            Some(after) => rest = after,
            None => return Some("an entry's key is none"),
        }
    }
    (!rest.is_empty()).then_some("an entry's key has bytes too many")
}

/// A document's key as people know it: exactly for ids of the common types, else as bytes.
fn shown(key: &[u8]) -> String {
    let text = |bytes: &[u8]| {
        let mut text = Vec::with_capacity(bytes.len());
        let mut bytes = bytes.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                // Escaped NUL and 01.
                1 => text.push(bytes.next()?.checked_sub(1)?),
                byte => text.push(*byte),
            }
        }
        String::from_utf8(text).ok()
    };
    let number = |bytes: [u8; 8]| {
        let bits = u64::from_be_bytes(bytes);
        let negative = bits >> 63 == 0;
        let number = f64::from_bits(if negative { !bits } else { bits ^ 1 << 63 });
        let whole = number.fract() == 0.0 && number.abs() < 9e15;
        if whole {
            format!("{number:.0}")
        } else {
            format!("{number:?}")
        }
    };
    let value = match key {
        [70, id @ ..] => <[u8; 12]>::try_from(id)
            .ok()
            .map(|id| show::value(RawBsonRef::ObjectId(ObjectId::from_bytes(id)))),
        [30, bytes @ .., 0] => text(bytes).map(|text| show::value(RawBsonRef::String(&text))),
        // The last byte says that the double before it is the whole number; inverted for negative ones.
        [20, bytes @ .., 0 | 0xFF] => bytes.try_into().ok().map(number),
        _ => None,
    };
    value.unwrap_or_else(|| format!("with key {}", hex(key)))
}

fn hex(bytes: &[u8]) -> String {
    let shown = bytes.get(..KEY_BYTES_SHOWN_MAX).unwrap_or(bytes);
    let mut text: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use bson::Bson;

    use super::*;
    use crate::tests::raw;

    #[test]
    fn ids_are_shown_as_people_know_them() {
        for (id, expected) in [
            (Bson::Int32(7), "7"),
            (Bson::Int64(-12), "-12"),
            (Bson::Double(0.5), "0.5"),
            (Bson::Double(-0.5), "-0.5"),
            (Bson::Int32(0), "0"),
            (Bson::String("a\0\u{1}ö".into()), "\"a\\0\\u{1}ö\""),
            (
                Bson::ObjectId(ObjectId::from_bytes([0xab; 12])),
                "ObjectId('abababababababababababab')",
            ),
            (Bson::Boolean(true), "with key 5001"),
        ] {
            let document = raw(bson::doc! { "_id": id });
            let mut key = Vec::new();
            keycode::encode(&mut key, field(&document, "_id").unwrap(), false);
            assert_eq!(shown(&key), expected);
        }
        assert_eq!(hex(&[1; 33]).len(), 67);
    }
}
