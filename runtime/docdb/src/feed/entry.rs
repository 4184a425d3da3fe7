//! One event as it is in the log, and the events of an operation that is not committed yet.

use std::collections::BTreeSet;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::{diff, is_logged};
use crate::catalog::Collection;
use crate::specification;
use crate::update::Update;
use crate::value::{field, raw_fields};
use crate::{IndexSpec, Limits, Namespace, View};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert = 1,
    Update = 2,
    Replace = 3,
    Delete = 4,
    Drop = 5,
    Rename = 6,
    DropDatabase = 7,
    Create = 8,
    CreateIndexes = 9,
    DropIndexes = 10,
    Modify = 11,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Insert,
        Kind::Update,
        Kind::Replace,
        Kind::Delete,
        Kind::Drop,
        Kind::Rename,
        Kind::DropDatabase,
        Kind::Create,
        Kind::CreateIndexes,
        Kind::DropIndexes,
        Kind::Modify,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// MongoDB's `operationType`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Insert => "insert",
            Kind::Update => "update",
            Kind::Replace => "replace",
            Kind::Delete => "delete",
            Kind::Drop => "drop",
            Kind::Rename => "rename",
            Kind::DropDatabase => "dropDatabase",
            Kind::Create => "create",
            Kind::CreateIndexes => "createIndexes",
            Kind::DropIndexes => "dropIndexes",
            Kind::Modify => "modify",
        }
    }

    /// Whether only streams that ask for expanded events are told of it.
    pub(crate) fn is_expanded(self) -> bool {
        matches!(
            self,
            Kind::Create | Kind::CreateIndexes | Kind::DropIndexes | Kind::Modify
        )
    }
}

/// Which parts follow an entry's names, in this order.
const KEY: u8 = 1;
const DOCUMENT: u8 = 2;
const DESCRIPTION: u8 = 4;
const BEFORE: u8 = 8;
const TO: u8 = 16;

/// An event of the log. Its bytes are borrowed from the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'l> {
    pub(crate) sequence: u64,
    /// Unique, and ordered as the sequence is.
    pub(crate) time: Timestamp,
    /// Milliseconds, of the commit.
    pub(crate) wall: i64,
    pub(crate) kind: Kind,
    /// 0 for the drop of a database.
    pub(crate) collection_id: u32,
    pub(crate) database: &'l str,
    pub(crate) collection: &'l str,
    /// `{_id}`, when there is no document to take it from.
    pub(crate) key: Option<&'l RawDocument>,
    /// As it became; of an update only if the collection keeps images.
    pub(crate) document: Option<&'l RawDocument>,
    /// What an update changed, in its stored form; of a command on a collection or its indexes, what it did.
    pub(crate) description: Option<&'l RawDocument>,
    /// As it was, if the collection keeps images.
    pub(crate) before: Option<&'l RawDocument>,
    /// What a collection was renamed to.
    pub(crate) to: Option<(&'l str, &'l str)>,
}

/// Where and when the entries of a block are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) time: Timestamp,
    pub(super) wall: i64,
}

impl<'l> Entry<'l> {
    /// Reads an entry, its length not included; `None` when it is damaged.
    pub(super) fn parse(bytes: &'l [u8], place: Place) -> Option<Self> {
        let mut rest = bytes;
        let kind = Kind::from_byte(*take(&mut rest, 1)?.first()?)?;
        let collection_id = u32::from_be_bytes(take(&mut rest, 4)?.try_into().ok()?);
        let database = name(&mut rest)?;
        let collection = name(&mut rest)?;
        let parts = *take(&mut rest, 1)?.first()?;
        let mut part = |bit: u8| -> Option<Option<&'l RawDocument>> {
            if parts & bit == 0 {
                return Some(None);
            }
            let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
            let bytes = take(&mut rest, usize::try_from(length).ok()?)?;
            RawDocument::from_bytes(bytes).ok().map(Some)
        };
        let (key, document) = (part(KEY)?, part(DOCUMENT)?);
        let (description, before) = (part(DESCRIPTION)?, part(BEFORE)?);
        let to = if parts & TO == 0 {
            None
        } else {
            Some((name(&mut rest)?, name(&mut rest)?))
        };
        let whole = rest.is_empty() && parts < TO << 1;
        whole.then_some(Entry {
            sequence: place.sequence,
            time: place.time,
            wall: place.wall,
            kind,
            collection_id,
            database,
            collection,
            key,
            document,
            description,
            before,
            to,
        })
    }
}

fn take<'l>(rest: &mut &'l [u8], count: usize) -> Option<&'l [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn name<'l>(rest: &mut &'l [u8]) -> Option<&'l str> {
    let length = *take(rest, 1)?.first()?;
    std::str::from_utf8(take(rest, usize::from(length))?).ok()
}

/// The events of an operation, in order, each after its length; they get their numbers at the commit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    pub(super) bytes: Vec<u8>,
    /// The collections that they are about; a database that was dropped is there with an empty collection.
    pub(super) touched: BTreeSet<Namespace>,
    /// Capped collections that were written to: who tails one is told, log or not.
    tailed: BTreeSet<Namespace>,
    off: bool,
}

/// The parts of an event beside its names.
#[derive(Default)]
struct Parts<'p> {
    key: Option<&'p RawDocument>,
    document: Option<&'p RawDocument>,
    description: Option<&'p RawDocument>,
    before: Option<&'p RawDocument>,
    to: Option<&'p Namespace>,
}

impl Pending {
    /// None yet; none ever, if the limits leave the log no room.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            off: limits.feed_bytes_max == 0,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds those of another operation after these.
    pub(crate) fn extend(&mut self, other: &Pending) {
        self.bytes.extend_from_slice(&other.bytes);
        self.touched.extend(other.touched.iter().cloned());
        self.tailed.extend(other.tailed.iter().cloned());
    }

    /// A capped collection was written to, or is gone.
    pub(crate) fn tailed(&mut self, ns: &Namespace) {
        if !self.tailed.contains(ns) {
            self.tailed.insert(ns.clone());
        }
    }

    /// The capped collections that were written to.
    pub(crate) fn take_tailed(&mut self) -> BTreeSet<Namespace> {
        std::mem::take(&mut self.tailed)
    }

    pub(crate) fn inserted(&mut self, ns: &Namespace, collection: &Collection, document: &RawDocument) {
        if self.skips_documents(ns, collection) {
            return;
        }
        let parts = Parts {
            document: Some(document),
            ..Parts::default()
        };
        self.write(Kind::Insert, ns, collection.id, &parts);
    }

    /// An update by operators or a pipeline.
    pub(crate) fn updated(
        &mut self,
        ns: &Namespace,
        collection: &Collection,
        old: &RawDocument,
        new: &RawDocument,
        update: &Update,
    ) {
        if self.skips_documents(ns, collection) {
            return;
        }
        let description = diff::describe(old, new, update);
        let parts = Parts {
            key: Some(&key_of(new)),
            document: collection.images.then_some(new),
            description: Some(&description),
            before: collection.images.then_some(old),
            to: None,
        };
        self.write(Kind::Update, ns, collection.id, &parts);
    }

    /// An update by a whole document.
    pub(crate) fn replaced(
        &mut self,
        ns: &Namespace,
        collection: &Collection,
        old: &RawDocument,
        new: &RawDocument,
    ) {
        if self.skips_documents(ns, collection) {
            return;
        }
        let parts = Parts {
            document: Some(new),
            before: collection.images.then_some(old),
            ..Parts::default()
        };
        self.write(Kind::Replace, ns, collection.id, &parts);
    }

    pub(crate) fn deleted(&mut self, ns: &Namespace, collection: &Collection, old: &RawDocument) {
        if self.skips_documents(ns, collection) {
            return;
        }
        let parts = Parts {
            key: Some(&key_of(old)),
            before: collection.images.then_some(old),
            ..Parts::default()
        };
        self.write(Kind::Delete, ns, collection.id, &parts);
    }

    /// A collection was made.
    pub(crate) fn created(&mut self, ns: &Namespace, collection: &Collection) {
        let mut description = RawDocumentBuf::new();
        if collection.time_series.is_none() {
            description.append(cstr!("idIndex"), specification::of_id().to_document());
        }
        for (name, value) in raw_fields(&collection.options().to_document()) {
            description.append(name, value);
        }
        self.described(Kind::Create, ns, collection, &description);
    }

    /// A view was made.
    pub(crate) fn view_created(&mut self, ns: &Namespace, view: &View) {
        let description = view.to_document();
        let parts = Parts {
            description: Some(&description),
            ..Parts::default()
        };
        self.push(Kind::Create, ns, 0, &parts);
    }

    /// A view was changed.
    pub(crate) fn view_modified(&mut self, ns: &Namespace, view: &View) {
        let description = view.to_document();
        let parts = Parts {
            description: Some(&description),
            ..Parts::default()
        };
        self.push(Kind::Modify, ns, 0, &parts);
    }

    /// Indexes were made that were not there.
    pub(crate) fn indexes_created<'i>(
        &mut self,
        ns: &Namespace,
        collection: &Collection,
        made: impl IntoIterator<Item = &'i IndexSpec>,
    ) {
        let mut indexes = RawArrayBuf::new();
        made.into_iter()
            .for_each(|index| indexes.push(index.to_document()));
        if !indexes.is_empty() {
            self.described(
                Kind::CreateIndexes,
                ns,
                collection,
                &rawdoc! { "indexes": indexes },
            );
        }
    }

    pub(crate) fn index_dropped(&mut self, ns: &Namespace, collection: &Collection, index: &IndexSpec) {
        let description = rawdoc! { "indexes": [index.to_document()] };
        self.described(Kind::DropIndexes, ns, collection, &description);
    }

    /// An index or an option of the collection was changed: `description` has MongoDB's form.
    pub(crate) fn modified(&mut self, ns: &Namespace, collection: &Collection, description: &RawDocument) {
        self.described(Kind::Modify, ns, collection, description);
    }

    fn described(&mut self, kind: Kind, ns: &Namespace, collection: &Collection, description: &RawDocument) {
        let parts = Parts {
            description: Some(description),
            ..Parts::default()
        };
        self.push(kind, ns, collection.id, &parts);
    }

    pub(crate) fn dropped(&mut self, ns: &Namespace, collection: &Collection) {
        self.push(Kind::Drop, ns, collection.id, &Parts::default());
    }

    /// `dropped` is the UUID of the collection that had the new name.
    pub(crate) fn renamed(
        &mut self,
        from: &Namespace,
        collection: &Collection,
        to: &Namespace,
        dropped: Option<[u8; 16]>,
    ) {
        let description = dropped.map(|uuid| rawdoc! { "dropTarget": binary(uuid) });
        let parts = Parts {
            description: description.as_deref(),
            to: Some(to),
            ..Parts::default()
        };
        self.push(Kind::Rename, from, collection.id, &parts);
    }

    pub(crate) fn database_dropped(&mut self, database: &str) {
        self.push(
            Kind::DropDatabase,
            &Namespace::new(database, ""),
            0,
            &Parts::default(),
        );
    }

    fn skips(&self, ns: &Namespace) -> bool {
        self.off || !is_logged(&ns.database)
    }

    /// Of the platform's own collections those are in the log that were told to keep images; measurements never are, as
    /// MongoDB has no change streams of them.
    fn skips_documents(&self, ns: &Namespace, collection: &Collection) -> bool {
        self.off || collection.time_series.is_some() || !(is_logged(&ns.database) || collection.images)
    }

    fn push(&mut self, kind: Kind, ns: &Namespace, collection_id: u32, parts: &Parts<'_>) {
        if !self.skips(ns) {
            self.write(kind, ns, collection_id, parts);
        }
    }

    fn write(&mut self, kind: Kind, ns: &Namespace, collection_id: u32, parts: &Parts<'_>) {
        for ns in [Some(ns), parts.to].into_iter().flatten() {
            if !self.touched.contains(ns) {
                self.touched.insert(ns.clone());
            }
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(&collection_id.to_be_bytes());
        self.push_names(ns);
        let documents = [
            (KEY, parts.key),
            (DOCUMENT, parts.document),
            (DESCRIPTION, parts.description),
            (BEFORE, parts.before),
        ];
        let to = parts.to.map_or(0, |_| TO);
        let bits = documents.iter().filter(|(_, part)| part.is_some());
        self.bytes.push(bits.fold(to, |bits, (bit, _)| bits | bit));
        for part in documents.iter().filter_map(|(_, part)| *part) {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        if let Some(to) = parts.to {
            self.push_names(to);
        }
        // Documents have 16 MiB at most, so an entry's length fits.
        let length = u32::try_from(self.bytes.len() - start - 4).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn push_names(&mut self, ns: &Namespace) {
        for name in [&ns.database, &ns.collection] {
            // The catalog allows no name over 200 bytes.
            self.bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            self.bytes.extend_from_slice(name.as_bytes());
        }
    }

    /// The entries, lengths included.
    pub(super) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
            take(&mut rest, usize::try_from(length).ok()? + 4)
        })
    }
}

/// A UUID as a value.
pub(super) fn binary(uuid: [u8; 16]) -> bson::Binary {
    bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: uuid.to_vec(),
    }
}

/// `{_id}` of a document.
pub(super) fn key_of(document: &RawDocument) -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    if let Some(id) = field(document, "_id") {
        key.append(cstr!("_id"), id);
    }
    key
}
