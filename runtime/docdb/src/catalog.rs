//! Collections and index definitions: their rows in the store, the copy in memory that operations read, and the
//! rules for names. `specification` has the rules for indexes; filling and keeping them is `index`'s business.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::index::Index;
use crate::kv::{Direction, KvRead, KvWrite, Range, get_vec};
use crate::limits::Limits;
use crate::ops::{CollectionOptions, ValidationAction, ValidationLevel};
use crate::specification;
use crate::validation::Validator;
use crate::{Code, Error, IndexSpec, Namespace, Result};

/// The newest format this program reads and the one it writes. It reads the versions before
/// too, whose catalog rows only lack what later ones brought; `runtime/docs/docdb-format.md` tells the versions apart.
const FORMAT_VERSION: u32 = 4;
const FORMAT_VERSION_MIN: u32 = 1;

const META: u8 = 0;
const CATALOG: u8 = 1;
const DOCUMENTS: u8 = 2;
const ENTRIES: u8 = 3;

/// The name of the index that every collection has.
pub(crate) const ID_INDEX: &str = "_id_";

/// Longest names, in bytes.
const DATABASE_BYTES_MAX: usize = 63;
const COLLECTION_BYTES_MAX: usize = 200;

/// A collection: its number and its secondary indexes.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) id: u32,
    /// Whether the change log gets documents as they were before and after each update and delete.
    pub(crate) images: bool,
    pub(crate) indexes: Vec<Arc<Index>>,
    /// What documents have to match, when it is asked, and what becomes of those that do not.
    pub(crate) validator: Option<Arc<Validator>>,
    pub(crate) validation_level: ValidationLevel,
    pub(crate) validation_action: ValidationAction,
}

impl Collection {
    /// What the keys of all its documents begin with.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        document_prefix(self.id)
    }

    /// The options as they were given.
    pub(crate) fn options(&self) -> CollectionOptions {
        CollectionOptions {
            validator: self
                .validator
                .as_ref()
                .map(|validator| validator.document().to_owned()),
            validation_level: self.validation_level,
            validation_action: self.validation_action,
        }
    }

    /// Takes other options, which were checked.
    pub(crate) fn set_options(&mut self, options: CollectionOptions) {
        let validator = options.validator.filter(|validator| !validator.is_empty());
        self.validator = validator.map(Validator::new);
        self.validation_level = options.validation_level;
        self.validation_action = options.validation_action;
    }

    /// The secondary index of that name.
    pub(crate) fn index(&self, name: &str) -> Option<&Arc<Index>> {
        self.indexes.iter().find(|index| &*index.spec.name == name)
    }
}

/// What the keys of all documents of a collection begin with.
pub(crate) fn document_prefix(collection_id: u32) -> Vec<u8> {
    id_key(DOCUMENTS, collection_id)
}

/// What the keys of all entries of an index begin with.
pub(crate) fn entry_prefix(index_id: u32) -> Vec<u8> {
    id_key(ENTRIES, index_id)
}

/// Rows that belong to numbered things, for who looks at all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kinds {
    Documents,
    Entries,
}

impl Kinds {
    /// The keys of all these rows, the upper end excluded.
    pub(crate) fn range(self) -> (Vec<u8>, Vec<u8>) {
        let kind = match self {
            Self::Documents => DOCUMENTS,
            Self::Entries => ENTRIES,
        };
        (vec![kind], vec![kind + 1])
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Entries => "index entries",
        }
    }

    /// The keys that no row has: those after the change log's.
    pub(crate) fn beyond() -> (Vec<u8>, Vec<u8>) {
        (vec![ENTRIES + 2], vec![0xff; 8])
    }
}

fn id_key(kind: u8, id: u32) -> Vec<u8> {
    // Room for most keys, so that appending to it does not allocate again.
    let mut key = Vec::with_capacity(48);
    key.push(kind);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// All collections of the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    collections: BTreeMap<Namespace, Arc<Collection>>,
    next_id: u32,
}

impl Catalog {
    /// Makes the meta rows of a new store, and raises the version of an older one, so that no older program misreads
    /// what this one will write.
    ///
    /// # Errors
    /// When the store has rows of something else.
    pub(crate) fn prepare(kv: &mut dyn KvWrite) -> Result<()> {
        if get_vec(kv, &meta_key("format"))?.is_some() {
            let version = read_u32(kv, "format")?;
            if (FORMAT_VERSION_MIN..FORMAT_VERSION).contains(&version) {
                kv.put(&meta_key("format"), &FORMAT_VERSION.to_be_bytes())?;
            }
            return Self::remove_unfinished(kv);
        }
        let mut empty = true;
        kv.scan(
            Range::half_open(&[], &[0xff; 8]),
            Direction::Forward,
            &mut |_, _| {
                empty = false;
                ControlFlow::Break(())
            },
        )?;
        if !empty {
            return Err(Error::new(
                Code::UnsupportedFormat,
                "the store has rows but no format version; it is damaged",
            ));
        }
        kv.put(&meta_key("format"), &FORMAT_VERSION.to_be_bytes())?;
        kv.put(&meta_key("next"), &1_u32.to_be_bytes())
    }

    /// Removes indexes whose making was cut short: nobody was told that they are there.
    fn remove_unfinished(kv: &mut dyn KvWrite) -> Result<()> {
        let catalog = Self::load(kv)?;
        for (ns, collection) in catalog.all() {
            if !collection.indexes.iter().any(|index| index.building) {
                continue;
            }
            let mut after = Collection::clone(collection);
            after.indexes.retain(|index| !index.building);
            kv.put(&row_key(ns), row_value(&after).as_bytes())?;
            for index in collection.indexes.iter().filter(|index| index.building) {
                Self::discard(kv, &entry_prefix(index.id))?;
            }
        }
        Ok(())
    }

    /// Notes that all rows whose keys begin with `prefix` are to be removed later.
    pub(crate) fn discard(kv: &mut dyn KvWrite, prefix: &[u8]) -> Result<()> {
        kv.put(&discard_key(prefix), &[])
    }

    /// What the keys of some rows begin with that are to be removed.
    pub(crate) fn discarded(kv: &dyn KvRead) -> Result<Option<Vec<u8>>> {
        let from = discard_key(&[]);
        let to = discard_key(&[0xff]);
        let mut found = None;
        kv.scan(Range::half_open(&from, &to), Direction::Forward, &mut |key, _| {
            found = key.get(from.len()..).map(<[u8]>::to_vec);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Notes that the rows whose keys began with `prefix` are removed.
    pub(crate) fn forget(kv: &mut dyn KvWrite, prefix: &[u8]) -> Result<()> {
        kv.delete(&discard_key(prefix))
    }

    /// Whether all rows whose keys begin with `prefix` are to be removed.
    pub(crate) fn is_discarded(kv: &dyn KvRead, prefix: &[u8]) -> Result<bool> {
        kv.get(&discard_key(prefix), &mut |_| {})
    }

    /// Reads the catalog.
    ///
    /// # Errors
    /// When the store's format is newer than this program, or its rows make no sense.
    pub(crate) fn load(kv: &dyn KvRead) -> Result<Self> {
        match Self::load_any(kv)? {
            (FORMAT_VERSION, catalog) => Ok(catalog),
            (version, _) => Err(unreadable(version)),
        }
    }

    /// Reads the catalog of a store of this format or an older one, and which one it is.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_any(kv: &dyn KvRead) -> Result<(u32, Self)> {
        let version = read_u32(kv, "format")?;
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(unreadable(version));
        }
        let mut catalog = Self {
            collections: BTreeMap::new(),
            next_id: read_u32(kv, "next")?,
        };
        let mut outcome = Ok(());
        kv.scan(
            Range::half_open(&[CATALOG], &[CATALOG + 1]),
            Direction::Forward,
            &mut |key, value| match parse_row(key, value) {
                Ok((ns, collection)) => {
                    catalog.collections.insert(ns, Arc::new(collection));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    outcome = Err(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        outcome.map(|()| (version, catalog))
    }

    /// The number that the next collection or index gets.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// The collection, if it is there.
    pub(crate) fn collection(&self, ns: &Namespace) -> Option<&Arc<Collection>> {
        self.collections.get(ns)
    }

    /// Collections of a database, in the order of their names.
    pub(crate) fn collections<'c>(
        &'c self,
        database: &'c str,
    ) -> impl Iterator<Item = (&'c Namespace, &'c Arc<Collection>)> {
        let from = Namespace::new(database, "");
        self.collections
            .range(from..)
            .take_while(move |(ns, _)| &*ns.database == database)
    }

    /// All collections.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Namespace, &Arc<Collection>)> {
        self.collections.iter()
    }

    /// Names of all databases that have a collection, in order.
    pub(crate) fn databases(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.collections.keys().map(|ns| ns.database.clone()).collect();
        names.dedup();
        names
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// When the name is not allowed, is taken, or the database has too many collections.
    pub(crate) fn create(
        self: &mut Arc<Self>,
        kv: &mut dyn KvWrite,
        ns: &Namespace,
        limits: &Limits,
    ) -> Result<Arc<Collection>> {
        check_namespace(ns)?;
        if self.collection(ns).is_some() {
            return Err(Error::new(
                Code::NamespaceExists,
                format!("collection {ns} already exists"),
            ));
        }
        self.check_room(ns, limits)?;
        let id = self.allocate_id(kv)?;
        let collection = Collection {
            id,
            images: false,
            indexes: Vec::new(),
            validator: None,
            validation_level: ValidationLevel::default(),
            validation_action: ValidationAction::default(),
        };
        self.save(kv, ns, collection)
    }

    /// Checks that the database may have one collection more.
    ///
    /// # Errors
    /// `CannotCreateCollection` that names the limit.
    pub(crate) fn check_room(&self, ns: &Namespace, limits: &Limits) -> Result<()> {
        let count = self.collections(&ns.database).count();
        if count >= limits.collections_max {
            let message = format!(
                "database {:?} has {count} collections, and collections_max is {}",
                ns.database, limits.collections_max
            );
            return Err(Error::new(Code::CannotCreateCollection, message));
        }
        Ok(())
    }

    /// Writes a collection's row and puts it in the place of the one with that name.
    pub(crate) fn save(
        self: &mut Arc<Self>,
        kv: &mut dyn KvWrite,
        ns: &Namespace,
        collection: Collection,
    ) -> Result<Arc<Collection>> {
        kv.put(&row_key(ns), row_value(&collection).as_bytes())?;
        let collection = Arc::new(collection);
        Arc::make_mut(self)
            .collections
            .insert(ns.clone(), collection.clone());
        Ok(collection)
    }

    /// Removes a collection's row, and notes that its documents and entries are to be removed later. Returns whether
    /// there was one.
    pub(crate) fn remove(self: &mut Arc<Self>, kv: &mut dyn KvWrite, ns: &Namespace) -> Result<bool> {
        let Some(collection) = self.collection(ns).cloned() else {
            return Ok(false);
        };
        Self::discard(kv, &collection.prefix())?;
        for index in &collection.indexes {
            Self::discard(kv, &entry_prefix(index.id))?;
        }
        self.take_name(kv, ns)?;
        Ok(true)
    }

    /// Removes a collection's row alone: its documents and entries stay, for another row.
    pub(crate) fn take_name(self: &mut Arc<Self>, kv: &mut dyn KvWrite, ns: &Namespace) -> Result<()> {
        kv.delete(&row_key(ns))?;
        Arc::make_mut(self).collections.remove(ns);
        Ok(())
    }

    /// An id that was never given out.
    pub(crate) fn allocate_id(self: &mut Arc<Self>, kv: &mut dyn KvWrite) -> Result<u32> {
        let id = self.next_id;
        let next = id
            .checked_add(1)
            .ok_or_else(|| Error::new(Code::InternalError, "all 2^32 ids are used up"))?;
        kv.put(&meta_key("next"), &next.to_be_bytes())?;
        Arc::make_mut(self).next_id = next;
        Ok(id)
    }
}

/// Checks a collection's name.
///
/// # Errors
/// `InvalidNamespace` that says what is wrong.
pub(crate) fn check_namespace(ns: &Namespace) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::new(
            Code::InvalidNamespace,
            format!("invalid namespace \"{ns}\": {why}"),
        ))
    };
    let (database, collection) = (&*ns.database, &*ns.collection);
    if database.is_empty() || database.len() > DATABASE_BYTES_MAX {
        return refuse(format!("a database name has 1 to {DATABASE_BYTES_MAX} bytes"));
    }
    if database.contains(['\0', '$', '.']) {
        return refuse("a database name has no NUL, '$' or '.'".to_owned());
    }
    if collection.is_empty() || collection.len() > COLLECTION_BYTES_MAX {
        return refuse(format!("a collection name has 1 to {COLLECTION_BYTES_MAX} bytes"));
    }
    if collection.contains(['\0', '$']) || collection.starts_with('.') || collection.ends_with('.') {
        return refuse("a collection name has no NUL or '$' and no '.' at its ends".to_owned());
    }
    Ok(())
}

fn meta_key(name: &str) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(name.as_bytes());
    key
}

fn discard_key(prefix: &[u8]) -> Vec<u8> {
    let mut key = meta_key("discard");
    key.extend_from_slice(prefix);
    key
}

fn read_u32(kv: &dyn KvRead, name: &str) -> Result<u32> {
    let value = get_vec(kv, &meta_key(name))?;
    let bytes = value.and_then(|value| <[u8; 4]>::try_from(value).ok());
    bytes
        .map(u32::from_be_bytes)
        .ok_or_else(|| damaged(&format!("the meta row {name:?} is missing or damaged")))
}

fn row_key(ns: &Namespace) -> Vec<u8> {
    let mut key = vec![CATALOG];
    key.extend_from_slice(ns.database.as_bytes());
    key.push(0);
    key.extend_from_slice(ns.collection.as_bytes());
    key
}

fn row_value(collection: &Collection) -> RawDocumentBuf {
    let mut indexes = RawArrayBuf::new();
    for index in &collection.indexes {
        let mut row = RawDocumentBuf::new();
        row.append(bson::raw::cstr!("id"), i64::from(index.id));
        row.append(bson::raw::cstr!("name"), &*index.spec.name);
        row.append(bson::raw::cstr!("key"), index.spec.key_pattern());
        row.append(bson::raw::cstr!("unique"), index.spec.unique);
        row.append(bson::raw::cstr!("sparse"), index.spec.sparse);
        row.append(bson::raw::cstr!("multikey"), i64::from(index.multikey));
        if index.building {
            row.append(bson::raw::cstr!("building"), true);
        }
        if index.spec.hidden {
            row.append(bson::raw::cstr!("hidden"), true);
        }
        if let Some(filter) = &index.spec.partial_filter {
            row.append(bson::raw::cstr!("partialFilterExpression"), filter.as_ref());
        }
        if let Some(seconds) = index.spec.expire_after_seconds {
            row.append(bson::raw::cstr!("expireAfterSeconds"), seconds);
        }
        indexes.push(row);
    }
    let mut row = RawDocumentBuf::new();
    row.append(bson::raw::cstr!("id"), i64::from(collection.id));
    row.append(bson::raw::cstr!("indexes"), indexes);
    if collection.images {
        row.append(bson::raw::cstr!("images"), true);
    }
    if let Some(validator) = &collection.validator {
        row.append(bson::raw::cstr!("validator"), validator.document());
    }
    if collection.validation_level != ValidationLevel::default() {
        row.append(
            bson::raw::cstr!("validationLevel"),
            collection.validation_level.name(),
        );
    }
    if collection.validation_action != ValidationAction::default() {
        row.append(
            bson::raw::cstr!("validationAction"),
            collection.validation_action.name(),
        );
    }
    row
}

/// Appends a field whose name is not a constant. Names come from parsed BSON or checked paths, which have no NUL.
pub(crate) fn append(document: &mut RawDocumentBuf, name: &str, value: RawBsonRef<'_>) {
    if let Ok(name) = <&bson::raw::CStr>::try_from(name) {
        document.append(name, value);
    }
}

fn parse_row(key: &[u8], value: &[u8]) -> Result<(Namespace, Collection)> {
    let names = key.get(1..).and_then(|names| std::str::from_utf8(names).ok());
    let (database, collection) = names
        .and_then(|names| names.split_once('\0'))
        .ok_or_else(|| damaged("a catalog row has a damaged key"))?;
    let ns = Namespace::new(database, collection);
    match parse_collection(value) {
        Some(collection) => Ok((ns, collection)),
        None => Err(damaged(&format!("the catalog row of {ns} is damaged"))),
    }
}

fn parse_collection(value: &[u8]) -> Option<Collection> {
    let row = RawDocument::from_bytes(value).ok()?;
    let id = u32::try_from(row.get_i64("id").ok()?).ok()?;
    let indexes = row.get_array("indexes").ok()?;
    let indexes = indexes
        .into_iter()
        .map(|index| parse_index(index.ok()?.as_document()?).map(Arc::new));
    // Fields of version 3 are there only when they say something.
    let validator = match row.get("validator").ok()? {
        Some(validator) => Some(Validator::new(validator.as_document()?.to_owned())),
        None => None,
    };
    let validation_level = match row.get("validationLevel").ok()? {
        Some(level) => ValidationLevel::from_name(level.as_str()?)?,
        None => ValidationLevel::default(),
    };
    let validation_action = match row.get("validationAction").ok()? {
        Some(action) => ValidationAction::from_name(action.as_str()?)?,
        None => ValidationAction::default(),
    };
    Some(Collection {
        id,
        // Absent from rows that were written before there was a change log.
        images: row.get_bool("images").unwrap_or(false),
        indexes: indexes.collect::<Option<_>>()?,
        validator,
        validation_level,
        validation_action,
    })
}

fn parse_index(row: &RawDocument) -> Option<Index> {
    let (keys, kind) = specification::parse_keys(row.get_document("key").ok()?).ok()?;
    // Fields of version 2 are there only when they say something.
    let partial = row.get("partialFilterExpression").ok()?;
    let expiry = row.get("expireAfterSeconds").ok()?;
    let spec = IndexSpec {
        name: row.get_str("name").ok()?.into(),
        keys,
        kind,
        unique: row.get_bool("unique").ok()?,
        sparse: row.get_bool("sparse").ok()?,
        hidden: row.get("hidden").ok()?.is_some_and(crate::value::is_true),
        partial_filter: match partial {
            Some(filter) => Some(filter.as_document()?.to_owned()),
            None => None,
        },
        expire_after_seconds: match expiry {
            Some(seconds) => Some(seconds.as_i64()?),
            None => None,
        },
    };
    let id = u32::try_from(row.get_i64("id").ok()?).ok()?;
    let multikey = u32::try_from(row.get_i64("multikey").ok()?).ok()?;
    let mut index = Index::new(id, spec, multikey).ok()?;
    index.building = row.get("building").ok()?.is_some_and(crate::value::is_true);
    Some(index)
}

fn unreadable(version: u32) -> Error {
    let message = format!(
        "the store has format version {version}, and this program reads version {FORMAT_VERSION}; use a newer program"
    );
    Error::new(Code::UnsupportedFormat, message)
}

fn damaged(what: &str) -> Error {
    Error::new(Code::UnsupportedFormat, format!("the store is damaged: {what}"))
}
