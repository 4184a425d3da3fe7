//! Collections and index definitions: their rows in the store, the copy in memory that operations read, and the
//! rules for names. `specification` has the rules for indexes; filling and keeping them is `index`'s business.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};
use cloudlet_base::Entropy;

use crate::collation::{self, Collation};
use crate::index::Index;
use crate::kv::{Direction, KvRead, KvWrite, Range, get_vec};
use crate::limits::Limits;
use crate::ops::{
    BucketSpan, Capped, CollectionInfo, CollectionOptions, Granularity, TimeSeries, ValidationAction,
    ValidationLevel, View,
};
use crate::specification;
use crate::validation::Validator;
use crate::value::elements;
use crate::{Code, Error, Grid, IndexKind, IndexSpec, Namespace, Result, time_series, view};

/// The newest format this program reads and the one it writes. It reads the versions before
/// too, whose catalog rows only lack what later ones brought; `runtime/docs/docdb-format.md` tells the versions apart.
const FORMAT_VERSION: u32 = 6;
const FORMAT_VERSION_MIN: u32 = 1;
/// The version since which a store has a row to make UUIDs of.
const UUID_VERSION: u32 = 4;

const META: u8 = 0;
const CATALOG: u8 = 1;
const DOCUMENTS: u8 = 2;
const ENTRIES: u8 = 3;
const ORDER: u8 = 5;

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
    /// Its bounds, if it is capped.
    pub(crate) capped: Option<Capped>,
    /// The name of its index on `_id`, if it is told that it is stored in it.
    pub(crate) clustered: Option<Arc<str>>,
    /// How it orders strings, if not by their bytes, in `_id`s and for whoever does not say.
    pub(crate) collation: Option<Arc<Collation>>,
    /// What it is a series of, if its documents are stored by their time and not by their `_id`.
    pub(crate) time_series: Option<TimeSeries>,
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
            images: self.images,
            capped: self.capped,
            clustered: self.clustered.clone(),
            collation: self.collation_document(),
            time_series: self.time_series.clone(),
        }
    }

    /// Its collation with all options; none for the simple one.
    pub(crate) fn collation_document(&self) -> Option<RawDocumentBuf> {
        let collation = self.collation.as_ref();
        collation.map(|collation| collation.document().to_owned())
    }

    /// What the key of the document with this `_id` has after what all begin with.
    pub(crate) fn id_bytes(&self, id: RawBsonRef<'_>) -> Vec<u8> {
        let mut key = Vec::with_capacity(16);
        collation::encode(&mut key, id, false, self.collation.as_ref());
        key
    }

    /// Takes other options, which were checked.
    pub(crate) fn set_options(&mut self, options: CollectionOptions) {
        let validator = options.validator.filter(|validator| !validator.is_empty());
        self.collation = options.collation.as_deref().and_then(parse_collation);
        self.validator = validator.map(|validator| Validator::new(validator, self.collation.as_ref()));
        self.validation_level = options.validation_level;
        self.validation_action = options.validation_action;
        self.images = options.images;
        self.capped = options.capped;
        self.clustered = options.clustered;
        self.time_series = options.time_series;
    }

    /// Whether a name is that of the index on `_id`. A time series has none.
    pub(crate) fn is_id_index(&self, name: &str) -> bool {
        self.time_series.is_none() && name == self.clustered.as_deref().unwrap_or(ID_INDEX)
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

/// What the keys of all rows begin with that tell the order of a capped collection.
pub(crate) fn order_prefix(collection_id: u32) -> Vec<u8> {
    id_key(ORDER, collection_id)
}

/// Rows that belong to numbered things, for who looks at all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kinds {
    Documents,
    Entries,
    Order,
}

impl Kinds {
    /// The keys of all these rows, the upper end excluded.
    pub(crate) fn range(self) -> (Vec<u8>, Vec<u8>) {
        let kind = match self {
            Self::Documents => DOCUMENTS,
            Self::Entries => ENTRIES,
            Self::Order => ORDER,
        };
        (vec![kind], vec![kind + 1])
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Entries => "index entries",
            Self::Order => "rows of the order of a capped collection",
        }
    }

    /// The keys that no row has.
    pub(crate) fn beyond() -> (Vec<u8>, Vec<u8>) {
        (vec![ORDER + 1], vec![0xff; 8])
    }
}

fn id_key(kind: u8, id: u32) -> Vec<u8> {
    // Room for most keys, so that appending to it does not allocate again.
    let mut key = Vec::with_capacity(48);
    key.push(kind);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// All collections of the store, and its views.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    collections: BTreeMap<Namespace, Arc<Collection>>,
    views: BTreeMap<Namespace, Arc<View>>,
    next_id: u32,
    /// What the UUIDs of the store's collections are made of.
    seed: Uuid,
}

/// The bytes of a UUID.
type Uuid = [u8; 16];

impl Catalog {
    /// Makes the meta rows of a new store, and raises the version of an older one, so that no older program misreads
    /// what this one will write.
    ///
    /// # Errors
    /// When the store has rows of something else.
    pub(crate) fn prepare(kv: &mut dyn KvWrite, entropy: &dyn Entropy) -> Result<()> {
        let mut seed = Uuid::default();
        entropy.fill(&mut seed);
        if get_vec(kv, &meta_key("format"))?.is_some() {
            let version = read_u32(kv, "format")?;
            if (FORMAT_VERSION_MIN..FORMAT_VERSION).contains(&version) {
                if version < UUID_VERSION {
                    kv.put(&meta_key("uuid"), &seed)?;
                }
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
        kv.put(&meta_key("uuid"), &seed)?;
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
            views: BTreeMap::new(),
            next_id: read_u32(kv, "next")?,
            seed: Uuid::default(),
        };
        if version >= UUID_VERSION {
            let seed = get_vec(kv, &meta_key("uuid"))?.and_then(|value| Uuid::try_from(value).ok());
            catalog.seed = seed.ok_or_else(|| damaged("the meta row \"uuid\" is missing or damaged"))?;
        }
        let mut outcome = Ok(());
        kv.scan(
            Range::half_open(&[CATALOG], &[CATALOG + 1]),
            Direction::Forward,
            &mut |key, value| match parse_row(key, value) {
                Ok((ns, row)) => {
                    match row {
                        Row::Collection(collection) => {
                            catalog.collections.insert(ns, Arc::new(collection));
                        }
                        Row::View(view) => {
                            catalog.views.insert(ns, Arc::new(view));
                        }
                    }
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

    /// The collection of that number, if it is there.
    pub(crate) fn numbered(&self, id: u32) -> Option<&Arc<Collection>> {
        self.collections.values().find(|collection| collection.id == id)
    }

    /// The view, if there is one of that name.
    pub(crate) fn view(&self, ns: &Namespace) -> Option<&Arc<View>> {
        self.views.get(ns)
    }

    /// The collection.
    ///
    /// # Errors
    /// `NamespaceNotFound`, and `CommandNotSupportedOnView` for a view.
    pub(crate) fn only_collection(&self, ns: &Namespace) -> Result<&Arc<Collection>> {
        self.check_no_view(ns)?;
        self.collection(ns)
            .ok_or_else(|| Error::new(Code::NamespaceNotFound, format!("ns does not exist: {ns}")))
    }

    /// # Errors
    /// `CommandNotSupportedOnView` for a view.
    pub(crate) fn check_no_view(&self, ns: &Namespace) -> Result<()> {
        match self.view(ns) {
            Some(_) => Err(view::not_a_collection(ns)),
            None => Ok(()),
        }
    }

    /// The collation of commands on a collection or view that name none; none for the simple one.
    pub(crate) fn collation(&self, ns: &Namespace) -> Option<Arc<Collation>> {
        match self.collection(ns) {
            Some(collection) => collection.collation.clone(),
            None => parse_collation(self.view(ns)?.collation.as_deref()?),
        }
    }

    /// The UUID of a collection, or of one that there was: a random (version 4) UUID but for the number in its end.
    pub(crate) fn uuid(&self, collection_id: u32) -> Uuid {
        let mut uuid = self.seed;
        uuid[12..].copy_from_slice(&collection_id.to_be_bytes());
        uuid[6] = (uuid[6] & 0x0f) | 0x40;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        uuid
    }

    /// Collections and views of a database, in the order of their names.
    pub(crate) fn describe(&self, database: &str) -> Vec<CollectionInfo> {
        let collections = self.collections(database).map(|(ns, collection)| CollectionInfo {
            name: ns.collection.clone(),
            options: collection.options(),
            uuid: Some(self.uuid(collection.id)),
            view: None,
        });
        let views = self.views(database).map(|(ns, view)| CollectionInfo {
            name: ns.collection.clone(),
            options: CollectionOptions::default(),
            uuid: None,
            view: Some(View::clone(view)),
        });
        let mut all: Vec<CollectionInfo> = collections.chain(views).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Views of a database, in the order of their names.
    pub(crate) fn views<'c>(
        &'c self,
        database: &'c str,
    ) -> impl Iterator<Item = (&'c Namespace, &'c Arc<View>)> {
        let from = Namespace::new(database, "");
        self.views
            .range(from..)
            .take_while(move |(ns, _)| &*ns.database == database)
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

    /// Names of all databases that have a collection or a view, in order.
    pub(crate) fn databases(&self) -> Vec<Arc<str>> {
        let all = self.collections.keys().chain(self.views.keys());
        let mut names: Vec<Arc<str>> = all.map(|ns| ns.database.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Makes a collection with options that were checked.
    ///
    /// # Errors
    /// When the name is not allowed, is taken, or the database has too many collections.
    pub(crate) fn create(
        self: &mut Arc<Self>,
        kv: &mut dyn KvWrite,
        ns: &Namespace,
        options: CollectionOptions,
        limits: &Limits,
    ) -> Result<Arc<Collection>> {
        self.check_name(ns, limits)?;
        let id = self.allocate_id(kv)?;
        let mut collection = Collection {
            id,
            images: false,
            indexes: Vec::new(),
            validator: None,
            validation_level: ValidationLevel::default(),
            validation_action: ValidationAction::default(),
            capped: None,
            clustered: None,
            collation: None,
            time_series: None,
        };
        collection.set_options(options);
        if let Some(spec) = collection.time_series.as_ref().and_then(TimeSeries::first_index) {
            let id = self.allocate_id(kv)?;
            collection
                .indexes
                .push(time_series::empty_index(id, spec, &collection)?);
        }
        self.save(kv, ns, collection)
    }

    /// Makes a view that was checked.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub(crate) fn create_view(
        self: &mut Arc<Self>,
        kv: &mut dyn KvWrite,
        ns: &Namespace,
        view: View,
        limits: &Limits,
    ) -> Result<()> {
        self.check_name(ns, limits)?;
        self.save_view(kv, ns, view)
    }

    /// Writes a view's row and puts it in the place of the one with that name.
    pub(crate) fn save_view(
        self: &mut Arc<Self>,
        kv: &mut dyn KvWrite,
        ns: &Namespace,
        view: View,
    ) -> Result<()> {
        kv.put(&row_key(ns), view.to_document().as_bytes())?;
        Arc::make_mut(self).views.insert(ns.clone(), Arc::new(view));
        Ok(())
    }

    /// Removes a view. Returns whether there was one.
    pub(crate) fn remove_view(self: &mut Arc<Self>, kv: &mut dyn KvWrite, ns: &Namespace) -> Result<bool> {
        if self.view(ns).is_none() {
            return Ok(false);
        }
        kv.delete(&row_key(ns))?;
        Arc::make_mut(self).views.remove(ns);
        Ok(true)
    }

    /// Checks that a collection or view may be made under a name.
    fn check_name(&self, ns: &Namespace, limits: &Limits) -> Result<()> {
        check_namespace(ns)?;
        if self.collection(ns).is_some() || self.view(ns).is_some() {
            return Err(Error::new(
                Code::NamespaceExists,
                format!("collection {ns} already exists"),
            ));
        }
        self.check_room(ns, limits)
    }

    /// Checks that the database may have one collection more. Views count.
    ///
    /// # Errors
    /// `CannotCreateCollection` that names the limit.
    pub(crate) fn check_room(&self, ns: &Namespace, limits: &Limits) -> Result<()> {
        let count = self.collections(&ns.database).count() + self.views(&ns.database).count();
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
        if collection.capped.is_some() {
            Self::discard(kv, &order_prefix(collection.id))?;
        }
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
        if index.typed {
            row.append(bson::raw::cstr!("typed"), true);
        }
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
        if let IndexKind::Plane(Grid { min, max, bits }) = index.spec.kind {
            row.append(bson::raw::cstr!("min"), min);
            row.append(bson::raw::cstr!("max"), max);
            row.append(bson::raw::cstr!("bits"), i64::from(bits));
        }
        if let Some(background) = index.spec.background {
            row.append(bson::raw::cstr!("background"), background);
        }
        if let Some(collation) = &index.spec.collation {
            row.append(bson::raw::cstr!("collation"), collation.as_ref());
            row.append(bson::raw::cstr!("collationTables"), collation::TABLES);
        }
        indexes.push(row);
    }
    let mut row = RawDocumentBuf::new();
    row.append(bson::raw::cstr!("id"), i64::from(collection.id));
    row.append(bson::raw::cstr!("indexes"), indexes);
    if collection.images {
        row.append(bson::raw::cstr!("images"), true);
    }
    if let Some(capped) = &collection.capped {
        let mut bounds = RawDocumentBuf::new();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        bounds.append(bson::raw::cstr!("size"), number(capped.size));
        if let Some(max) = capped.max {
            bounds.append(bson::raw::cstr!("max"), number(max));
        }
        row.append(bson::raw::cstr!("capped"), bounds);
    }
    if let Some(name) = &collection.clustered {
        row.append(bson::raw::cstr!("clustered"), &**name);
    }
    if let Some(collation) = &collection.collation {
        row.append(bson::raw::cstr!("collation"), collation.document().to_owned());
        row.append(bson::raw::cstr!("collationTables"), collation::TABLES);
    }
    if let Some(series) = &collection.time_series {
        row.append(bson::raw::cstr!("timeSeries"), series_row(series));
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

fn series_row(series: &TimeSeries) -> RawDocumentBuf {
    let mut row = RawDocumentBuf::new();
    row.append(bson::raw::cstr!("timeField"), &*series.time_field);
    if let Some(meta) = &series.meta_field {
        row.append(bson::raw::cstr!("metaField"), &**meta);
    }
    match series.span {
        BucketSpan::Granularity(granularity) => {
            row.append(bson::raw::cstr!("granularity"), granularity.name());
        }
        BucketSpan::Seconds(seconds) => row.append(bson::raw::cstr!("spanSeconds"), i64::from(seconds)),
    }
    if let Some(seconds) = series.expire_after_seconds {
        row.append(bson::raw::cstr!("expireAfterSeconds"), seconds);
    }
    row
}

fn parse_series(row: &RawDocument) -> Option<TimeSeries> {
    Some(TimeSeries {
        time_field: row.get_str("timeField").ok()?.into(),
        meta_field: match row.get("metaField").ok()? {
            Some(meta) => Some(meta.as_str()?.into()),
            None => None,
        },
        span: match row.get("spanSeconds").ok()? {
            Some(seconds) => BucketSpan::Seconds(u32::try_from(seconds.as_i64()?).ok()?),
            None => BucketSpan::Granularity(Granularity::from_name(row.get_str("granularity").ok()?)?),
        },
        expire_after_seconds: match row.get("expireAfterSeconds").ok()? {
            Some(seconds) => Some(seconds.as_i64()?),
            None => None,
        },
    })
}

/// Appends a field whose name is not a constant. Names come from parsed BSON or checked paths, which have no NUL.
pub(crate) fn append(document: &mut RawDocumentBuf, name: &str, value: RawBsonRef<'_>) {
    if let Ok(name) = <&bson::raw::CStr>::try_from(name) {
        document.append(name, value);
    }
}

/// What a row is of.
enum Row {
    Collection(Collection),
    View(View),
}

fn parse_row(key: &[u8], value: &[u8]) -> Result<(Namespace, Row)> {
    let names = key.get(1..).and_then(|names| std::str::from_utf8(names).ok());
    let (database, collection) = names
        .and_then(|names| names.split_once('\0'))
        .ok_or_else(|| damaged("a catalog row has a damaged key"))?;
    let ns = Namespace::new(database, collection);
    let document = RawDocument::from_bytes(value).ok();
    if let Some(document) = document {
        check_tables(&ns, document)?;
    }
    let row = document.and_then(|row| {
        if row.get("viewOn").ok()?.is_some() {
            return parse_view(row).map(Row::View);
        }
        parse_collection(row).map(Row::Collection)
    });
    row.map(|row| (ns.clone(), row))
        .ok_or_else(|| damaged(&format!("the catalog row of {ns} is damaged")))
}

/// Checks that the keys of a collection are those that this program's collations make.
///
/// # Errors
/// `UnsupportedFormat` that says the way out.
fn check_tables(ns: &Namespace, row: &RawDocument) -> Result<()> {
    let named = |row: &RawDocument| row.get_str("collationTables").ok().map(str::to_owned);
    let indexes = row.get_array("indexes").ok().into_iter().flat_map(elements);
    let of_indexes = indexes.filter_map(|index| named(index.as_document()?));
    let other = named(row)
        .into_iter()
        .chain(of_indexes)
        .find(|tables| tables != collation::TABLES);
    let Some(other) = other else {
        return Ok(());
    };
    let message = format!(
        "collection {ns} is ordered by version {other:?} of the collations, and this program has {:?}; dump it with the program that wrote it (mongodump keeps its collation), drop it there, and restore it with this one; an index alone is dropped there and made again here",
        collation::TABLES
    );
    Err(Error::new(Code::UnsupportedFormat, message))
}

/// A collation that was checked when it came; none for the simple one.
fn parse_collation(document: &RawDocument) -> Option<Arc<Collation>> {
    Collation::parse(document).ok().flatten()
}

fn parse_view(row: &RawDocument) -> Option<View> {
    let stages = elements(row.get_array("pipeline").ok()?);
    Some(View {
        on: row.get_str("viewOn").ok()?.into(),
        pipeline: stages
            .map(|stage| stage.as_document().map(RawDocument::to_owned))
            .collect::<Option<_>>()?,
        collation: match row.get("collation").ok()? {
            Some(collation) => Some(collation.as_document()?.to_owned()),
            None => None,
        },
    })
}

fn parse_collection(row: &RawDocument) -> Option<Collection> {
    let id = u32::try_from(row.get_i64("id").ok()?).ok()?;
    let indexes = row.get_array("indexes").ok()?;
    let indexes = indexes
        .into_iter()
        .map(|index| parse_index(index.ok()?.as_document()?).map(Arc::new));
    let collation = match row.get("collation").ok()? {
        Some(collation) => Some(parse_collation(collation.as_document()?)?),
        None => None,
    };
    // Fields of version 3 are there only when they say something.
    let validator = match row.get("validator").ok()? {
        Some(validator) => {
            let validator = validator.as_document()?.to_owned();
            Some(Validator::new(validator, collation.as_ref()))
        }
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
    // Fields of version 4, likewise.
    let capped = match row.get("capped").ok()? {
        Some(bounds) => {
            let bounds = bounds.as_document()?;
            let max = match bounds.get("max").ok()? {
                Some(max) => Some(u64::try_from(max.as_i64()?).ok()?),
                None => None,
            };
            Some(Capped {
                size: u64::try_from(bounds.get_i64("size").ok()?).ok()?,
                max,
            })
        }
        None => None,
    };
    let clustered = match row.get("clustered").ok()? {
        Some(name) => Some(Arc::from(name.as_str()?)),
        None => None,
    };
    // Of version 6.
    let time_series = match row.get("timeSeries").ok()? {
        Some(series) => Some(parse_series(series.as_document()?)?),
        None => None,
    };
    Some(Collection {
        id,
        capped,
        clustered,
        collation,
        time_series,
        // Absent from rows that were written before there was a change log.
        images: row.get_bool("images").unwrap_or(false),
        indexes: indexes.collect::<Option<_>>()?,
        validator,
        validation_level,
        validation_action,
    })
}

fn parse_index(row: &RawDocument) -> Option<Index> {
    let (keys, mut kind) = specification::parse_keys(row.get_document("key").ok()?).ok()?;
    if let IndexKind::Plane(grid) = &mut kind {
        *grid = Grid {
            min: row.get_f64("min").ok()?,
            max: row.get_f64("max").ok()?,
            bits: u32::try_from(row.get_i64("bits").ok()?).ok()?,
        };
    }
    // Fields of version 2 are there only when they say something.
    let partial = row.get("partialFilterExpression").ok()?;
    let expiry = row.get("expireAfterSeconds").ok()?;
    let spec = IndexSpec {
        name: row.get_str("name").ok()?.into(),
        keys,
        kind,
        unique: row.get_bool("unique").ok()?,
        sparse: row.get_bool("sparse").ok()?,
        clustered: false,
        hidden: row.get("hidden").ok()?.is_some_and(crate::value::is_true),
        partial_filter: match partial {
            Some(filter) => Some(filter.as_document()?.to_owned()),
            None => None,
        },
        expire_after_seconds: match expiry {
            Some(seconds) => Some(seconds.as_i64()?),
            None => None,
        },
        background: match row.get("background").ok()? {
            Some(background) => Some(background.as_bool()?),
            None => None,
        },
        collation: match row.get("collation").ok()? {
            Some(collation) => Some(collation.as_document()?.to_owned()),
            None => None,
        },
    };
    let id = u32::try_from(row.get_i64("id").ok()?).ok()?;
    let multikey = u32::try_from(row.get_i64("multikey").ok()?).ok()?;
    let mut index = Index::new(id, spec, multikey).ok()?;
    index.building = row.get("building").ok()?.is_some_and(crate::value::is_true);
    // Of version 5.
    index.typed = row.get("typed").ok()?.is_some_and(crate::value::is_true);
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
