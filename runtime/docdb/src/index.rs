//! Secondary indexes: which keys a document has in an index, what changes when a document does, and the check of
//! unique keys before anything is written. `runtime/docs/docdb-format.md` has the entries byte by byte.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::{Collection, append, entry_prefix};
use crate::collation::{self, Collation};
use crate::geo::Grid;
use crate::kv::{Direction, KvRead, KvWrite, Range, successor};
use crate::path::{IndexValues, Path, index_values};
use crate::query::Filter;
use crate::{Code, Error, IndexKind, IndexSpec, Namespace, Result, show};
use crate::{forms, geo};

/// Rows that one step of filling or clearing handles, so that neither holds a whole collection in memory.
const CHUNK_ROWS: usize = 1000;
/// Bytes of documents after which a step of filling ends.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Keys of one document in an index of places: its cells, by the values of the other fields.
const SPHERE_KEYS_MAX: usize = 16_384;

/// A secondary index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) id: u32,
    pub(crate) spec: IndexSpec,
    /// Bit i: some document had an array along the path of field i.
    pub(crate) multikey: u32,
    pub(crate) fields: Vec<IndexField>,
    /// How the entries have strings, if not by their bytes.
    pub(crate) collation: Option<Arc<Collation>>,
    /// Only documents that it matches have entries.
    pub(crate) partial: Option<Filter>,
    /// Not all documents have their entries yet: writes keep it up, and no plan uses it.
    pub(crate) building: bool,
    /// Its entries tell of their values what their keys do not; those of an index that an earlier version made do not.
    pub(crate) typed: bool,
}

/// One field of an index.
#[derive(Debug, Clone)]
pub(crate) struct IndexField {
    pub(crate) path: Path,
    pub(crate) descending: bool,
    /// What the entries have of the values.
    pub(crate) entered: Entered,
    /// The path without its first 1, 2, ... parts: for what remains below an array.
    tails: Vec<Path>,
}

/// What an entry has of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Value,
    Hash,
    /// A cell that covers some of the places there.
    Cell,
}

/// The keys of one document in one index.
#[derive(Debug, Default)]
pub(crate) struct DocumentKeys {
    /// Whole entry keys but for the `_id` of non-unique indexes.
    pub(crate) keys: BTreeSet<Vec<u8>>,
    /// Fields whose paths met an array.
    pub(crate) multikey: u32,
    /// What the one key there is leaves open; empty when that is not told.
    pub(crate) forms: Vec<u8>,
}

/// The parts of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'e> {
    /// The document's key in the index.
    pub(crate) key: &'e [u8],
    /// keycode(_id).
    pub(crate) id: &'e [u8],
    /// What the key leaves open of the values; empty when that is not told.
    pub(crate) forms: &'e [u8],
}

impl Index {
    /// The index described by `spec`, whose paths must be field paths.
    ///
    /// # Errors
    /// When a path or the partial filter can't be parsed.
    pub(crate) fn new(id: u32, spec: IndexSpec, multikey: u32) -> Result<Self> {
        let entered = |at: usize| match spec.kind {
            IndexKind::Ordered => Entered::Value,
            IndexKind::Hashed => Entered::Hash,
            IndexKind::Sphere { places } if places.checked_shr(at as u32).unwrap_or(0) & 1 == 1 => {
                Entered::Cell
            }
            IndexKind::Plane(_) if at == 0 => Entered::Cell,
            IndexKind::Sphere { .. } | IndexKind::Plane(_) => Entered::Value,
        };
        let fields = spec
            .keys
            .iter()
            .enumerate()
            .map(|(at, (path, direction))| IndexField::parse(path, *direction < 0, entered(at)));
        let fields = fields.collect::<Result<Vec<_>>>()?;
        let collation = match &spec.collation {
            Some(collation) => Collation::parse(collation)?,
            None => None,
        };
        let mut partial = spec.partial_filter.as_deref().map(Filter::parse).transpose()?;
        if let (Some(partial), Some(collation)) = (&mut partial, &collation) {
            partial.collate(collation);
        }
        Ok(Self {
            id,
            // The keys of an index with a collation do not tell strings.
            typed: spec.kind == IndexKind::Ordered && collation.is_none() && forms::names(&fields).is_some(),
            spec,
            multikey,
            fields,
            collation,
            partial,
            building: false,
        })
    }

    /// Whether plans may use it.
    pub(crate) fn is_visible(&self) -> bool {
        !self.spec.hidden && !self.building
    }

    /// Whether it has places by their cells, and no documents without a place.
    pub(crate) fn is_of_places(&self) -> bool {
        matches!(self.spec.kind, IndexKind::Sphere { .. } | IndexKind::Plane(_))
    }

    /// The grid that its cells are of, if they are those of a plane.
    pub(crate) fn grid(&self) -> Option<Grid> {
        match self.spec.kind {
            IndexKind::Plane(grid) => Some(grid),
            _ => None,
        }
    }

    /// The document's keys.
    ///
    /// # Errors
    /// `CannotIndexParallelArrays` when two independent arrays would be in one key; 16755 for what is no place, and for
    /// too many keys, in a 2dsphere index; 13026, 13027 for what is no pair or not in the grid of a 2d index.
    pub(crate) fn keys(&self, document: &RawDocument) -> Result<DocumentKeys> {
        let mut keys = DocumentKeys::default();
        keys.multikey = self.tuples(document, &mut |tuple| {
            let mut key = entry_prefix(self.id);
            for (field, value) in self.fields.iter().zip(tuple) {
                collation::encode(&mut key, *value, field.descending, self.collation.as_ref());
            }
            keys.keys.insert(key);
        })?;
        if self.typed && keys.multikey == 0 && keys.keys.len() == 1 {
            keys.forms = forms::of(document, &self.fields);
        }
        Ok(keys)
    }

    /// Shows `visit` each combination of values that the document has a key for. Returns the multikey fields.
    fn tuples<'d>(&self, document: &'d RawDocument, visit: &mut dyn FnMut(&[RawBsonRef<'d>])) -> Result<u32> {
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| !partial.matches(document))
        {
            return Ok(0);
        }
        let values: Vec<IndexValues<'d>> = self
            .fields
            .iter()
            .map(|field| field.values(document, self.collation.as_ref(), self.grid().as_ref()))
            .collect::<Result<_>>()?;
        if self.is_of_places() {
            return self.tuples_of_places(document, values, visit);
        }
        if self.spec.sparse && values.iter().all(|values| values.missing) {
            return Ok(0);
        }
        let multikey = values
            .iter()
            .enumerate()
            .fold(0, |bits, (i, values)| bits | u32::from(values.multikey) << i);
        if multikey.count_ones() < 2 {
            product(&values, visit);
            return Ok(multikey);
        }
        match self.shared_array(document, multikey)? {
            Some((depth, array)) => self.tuples_by_element(&values, multikey, depth, array, visit)?,
            None => product(&values, visit),
        }
        Ok(multikey)
    }

    /// The keys of an index of places: a document without a place has none, and any array may be combined with any cells.
    fn tuples_of_places<'d>(
        &self,
        document: &'d RawDocument,
        mut values: Vec<IndexValues<'d>>,
        visit: &mut dyn FnMut(&[RawBsonRef<'d>]),
    ) -> Result<u32> {
        let places = self.fields.iter().zip(&values);
        let mut places = places.filter(|(field, _)| field.entered == Entered::Cell);
        if places.all(|(_, values)| values.missing) {
            return Ok(0);
        }
        let mut count = 1_usize;
        let mut multikey = 0;
        for (at, values) in values.iter_mut().enumerate() {
            multikey |= u32::from(values.multikey) << at;
            if values.values.is_empty() {
                values.values.push(RawBsonRef::Null);
            }
            count = count.saturating_mul(values.values.len());
        }
        if count > SPHERE_KEYS_MAX {
            let shown = document.get("_id").ok().flatten().map(show::value);
            let message = format!(
                "Can't extract geo keys: the document with _id {} has {count} keys in index {:?}, and at most {SPHERE_KEYS_MAX} are allowed",
                shown.unwrap_or_default(),
                self.spec.name
            );
            return Err(Error::new(Code::Location(16_755), message));
        }
        product(&values, visit);
        Ok(multikey)
    }

    /// The array that all the multikey paths lead through first, and how many parts lead to it. `None` when a
    /// path names a position in it, or it is empty, so that combining all values is right or harmless.
    fn shared_array<'d>(
        &self,
        document: &'d RawDocument,
        multikey: u32,
    ) -> Result<Option<(usize, &'d bson::RawArray)>> {
        let mut shared: Option<(usize, &'d bson::RawArray, &IndexField)> = None;
        for (_, field) in self
            .fields
            .iter()
            .enumerate()
            .filter(|(i, _)| multikey >> i & 1 == 1)
        {
            let Some((depth, array)) = first_array(document, &field.path) else {
                return Ok(None);
            };
            let parts = field.path.parts();
            if parts.get(depth).is_some_and(|part| part.index.is_some()) || array.is_empty() {
                return Ok(None);
            }
            match shared {
                None => shared = Some((depth, array, field)),
                Some((first_depth, _, first))
                    if first_depth == depth && first.path.parts()[..depth] == parts[..depth] => {}
                Some((_, _, first)) => {
                    let message = format!(
                        "cannot index parallel arrays [{}] [{}]",
                        first.path.as_str(),
                        field.path.as_str()
                    );
                    return Err(Error::new(Code::CannotIndexParallelArrays, message));
                }
            }
        }
        Ok(shared.map(|(depth, array, _)| (depth, array)))
    }

    /// Combines the values of the fields below one array element by element.
    fn tuples_by_element<'d>(
        &self,
        whole: &[IndexValues<'d>],
        multikey: u32,
        depth: usize,
        array: &'d bson::RawArray,
        visit: &mut dyn FnMut(&[RawBsonRef<'d>]),
    ) -> Result<()> {
        for element in array.into_iter().flatten() {
            let mut wide: Option<&IndexField> = None;
            let mut values = Vec::with_capacity(whole.len());
            for (i, (field, whole)) in self.fields.iter().zip(whole).enumerate() {
                let below = if multikey >> i & 1 == 0 {
                    IndexValues {
                        values: whole.values.clone(),
                        multikey: false,
                        missing: whole.missing,
                    }
                } else {
                    field.below(depth, element)
                };
                if below.multikey {
                    if let Some(first) = wide {
                        let message = format!(
                            "cannot index parallel arrays [{}] [{}]",
                            first.path.as_str(),
                            field.path.as_str()
                        );
                        return Err(Error::new(Code::CannotIndexParallelArrays, message));
                    }
                    wide = Some(field);
                }
                values.push(below);
            }
            product(&values, visit);
        }
        Ok(())
    }

    /// The row of an entry.
    pub(crate) fn row(&self, entry: Entry<'_>) -> (Vec<u8>, Vec<u8>) {
        let Entry { key, id, forms } = entry;
        let id_bytes = u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes();
        match (self.spec.unique, self.typed) {
            (true, true) => (key.to_vec(), [&id_bytes, id, forms].concat()),
            (true, false) => (key.to_vec(), id.to_vec()),
            (false, true) => ([key, id].concat(), [&id_bytes, forms].concat()),
            (false, false) => ([key, id].concat(), id_bytes.to_vec()),
        }
    }

    /// The entry in a row.
    ///
    /// # Errors
    /// When the entry is damaged.
    pub(crate) fn entry<'e>(&self, key: &'e [u8], value: &'e [u8]) -> Result<Entry<'e>> {
        let parts = || {
            if self.spec.unique && !self.typed {
                let (id, forms) = (value, &[][..]);
                return Some(Entry { key, id, forms });
            }
            let (id_bytes, rest) = value.split_first_chunk()?;
            let id_bytes = usize::try_from(u32::from_be_bytes(*id_bytes)).ok()?;
            if self.spec.unique {
                let (id, forms) = rest.split_at_checked(id_bytes)?;
                return Some(Entry { key, id, forms });
            }
            let (key, id) = key.split_at_checked(key.len().checked_sub(id_bytes)?)?;
            (self.typed || rest.is_empty()).then_some(Entry { key, id, forms: rest })
        };
        parts().ok_or_else(|| {
            let message = format!("index {:?} has a damaged entry", self.spec.name);
            Error::new(Code::InternalError, message)
        })
    }

    /// The duplicate key error for the document's key `key`.
    fn duplicate(&self, ns: &Namespace, key: &[u8], document: &RawDocument) -> Error {
        let mut value = RawDocumentBuf::new();
        // The outcome was known to be good when the key was made.
        let _ = self.tuples(document, &mut |tuple| {
            let mut candidate = entry_prefix(self.id);
            for (field, value) in self.fields.iter().zip(tuple) {
                collation::encode(&mut candidate, *value, field.descending, self.collation.as_ref());
            }
            if candidate == key && value.is_empty() {
                for (field, part) in self.fields.iter().zip(tuple) {
                    append(&mut value, field.path.as_str(), *part);
                }
            }
        });
        duplicate_key(ns, &self.spec.name, self.spec.key_pattern(), value)
    }
}

impl IndexField {
    fn parse(path: &str, descending: bool, entered: Entered) -> Result<Self> {
        let path = Path::parse(path)?;
        let parts: Vec<&str> = path.parts().iter().map(|part| &*part.name).collect();
        let tails = (1..parts.len())
            .map(|from| Path::parse(&parts[from..].join(".")))
            .collect::<Result<_>>()?;
        Ok(Self {
            path,
            descending,
            entered,
            tails,
        })
    }

    /// The values under which the index has the document.
    fn values<'d>(
        &self,
        document: &'d RawDocument,
        collation: Option<&Arc<Collation>>,
        grid: Option<&Grid>,
    ) -> Result<IndexValues<'d>> {
        if self.entered == Entered::Cell {
            let found = match grid {
                Some(grid) => geo::index_points(document, &self.path, grid)?,
                None => geo::index_cells(document, &self.path)?,
            };
            return Ok(IndexValues {
                missing: found.cells.is_empty(),
                multikey: found.wide,
                values: found.cells.into_iter().map(geo::cell_value).collect(),
            });
        }
        let mut found = index_values(document, &self.path);
        if self.entered == Entered::Value {
            return Ok(found);
        }
        if found.multikey {
            let message = format!(
                "hashed indexes do not currently support array values, found one at {:?}",
                self.path.as_str()
            );
            return Err(Error::new(Code::Location(16_766), message));
        }
        for value in &mut found.values {
            let mut key = Vec::new();
            collation::encode(&mut key, *value, false, collation);
            *value = RawBsonRef::Int64(hash(&key));
        }
        Ok(found)
    }

    /// What remains of the path below `path`, when that leads to an array on the way and no part of the rest may name
    /// a position in one.
    pub(crate) fn tail_below(&self, path: &Path) -> Option<&Path> {
        let (parts, above) = (self.path.parts(), path.parts());
        let rest = parts.strip_prefix(above)?;
        if above.is_empty() || rest.iter().any(|part| part.index.is_some()) {
            return None;
        }
        self.tails.get(above.len() - 1)
    }

    /// The field's values below one element of the array that its first `depth` parts lead to.
    fn below<'d>(&self, depth: usize, element: RawBsonRef<'d>) -> IndexValues<'d> {
        let Some(tail) = self.tails.get(depth - 1) else {
            return IndexValues {
                values: vec![element],
                multikey: false,
                missing: false,
            };
        };
        match element {
            RawBsonRef::Document(document) => index_values(document, tail),
            _ => IndexValues {
                values: vec![RawBsonRef::Null],
                multikey: false,
                missing: true,
            },
        }
    }
}

/// The hash of a value's ascending key bytes that a hashed index has in its stead: FNV-1a of 64 bits. It is part of
/// the file's format.
pub(crate) fn hash(key: &[u8]) -> i64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    i64::from_be_bytes(hash.to_be_bytes())
}

/// The E11000 error in MongoDB's words.
pub(crate) fn duplicate_key(
    ns: &Namespace,
    index: &str,
    pattern: RawDocumentBuf,
    value: RawDocumentBuf,
) -> Error {
    let message = format!(
        "E11000 duplicate key error collection: {ns} index: {index} dup key: {}",
        show::document(&value)
    );
    Error::duplicate_key(message, pattern, value)
}

fn product<'d>(values: &[IndexValues<'d>], visit: &mut dyn FnMut(&[RawBsonRef<'d>])) {
    fn extend<'d>(
        values: &[IndexValues<'d>],
        tuple: &mut Vec<RawBsonRef<'d>>,
        visit: &mut dyn FnMut(&[RawBsonRef<'d>]),
    ) {
        let Some((first, rest)) = values.split_first() else {
            return visit(tuple);
        };
        for value in &first.values {
            tuple.push(*value);
            extend(rest, tuple, visit);
            tuple.pop();
        }
    }
    extend(values, &mut Vec::with_capacity(values.len()), visit);
}

/// The first array on a path, and how many parts lead to it.
fn first_array<'d>(document: &'d RawDocument, path: &Path) -> Option<(usize, &'d bson::RawArray)> {
    let mut at = document;
    for (place, part) in path.parts().iter().enumerate() {
        match at.get(&*part.name).ok()?? {
            RawBsonRef::Document(below) => at = below,
            RawBsonRef::Array(array) => return Some((place + 1, array)),
            _ => return None,
        }
    }
    None
}

/// What a change of one document means for one index.
struct IndexChange<'c> {
    index: &'c Index,
    remove: Vec<Vec<u8>>,
    /// Also those that are there and tell other forms.
    add: Vec<Vec<u8>>,
    multikey: u32,
    forms: Vec<u8>,
}

/// The changes of all indexes that a change of one document needs, checked and not yet made.
pub(crate) struct Maintenance<'c> {
    changes: Vec<IndexChange<'c>>,
    id: Vec<u8>,
}

impl<'c> Maintenance<'c> {
    /// Works out what a document's change from `old` to `new` needs, and checks unique keys. Writes nothing.
    ///
    /// # Errors
    /// `DuplicateKey`, `CannotIndexParallelArrays`.
    pub(crate) fn check(
        kv: &dyn KvRead,
        ns: &Namespace,
        collection: &'c Collection,
        id: &[u8],
        old: Option<&RawDocument>,
        new: Option<&RawDocument>,
    ) -> Result<Self> {
        let mut changes = Vec::with_capacity(collection.indexes.len());
        for index in &collection.indexes {
            let before = old.map(|old| index.keys(old)).transpose()?.unwrap_or_default();
            let mut after = new.map(|new| index.keys(new)).transpose()?.unwrap_or_default();
            let mut remove = before.keys;
            let mut told_anew = Vec::new();
            if !remove.is_empty() {
                // What is in both stays as it is, unless 1 became 1.0.
                remove.retain(|key| {
                    let both = after.keys.remove(key);
                    if both && before.forms != after.forms {
                        told_anew.push(key.clone());
                    }
                    !both
                });
            }
            let (remove, mut add) = (Vec::from_iter(remove), Vec::from_iter(after.keys));
            if index.spec.unique {
                for key in &add {
                    check_unique(kv, ns, index, key, id, new)?;
                }
            }
            add.append(&mut told_anew);
            changes.push(IndexChange {
                index,
                remove,
                add,
                multikey: after.multikey,
                forms: after.forms,
            });
        }
        Ok(Self {
            changes,
            id: id.to_vec(),
        })
    }

    /// Whether an index learns of its first array; then the catalog's row changes too.
    pub(crate) fn new_multikey(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.multikey & !change.index.multikey != 0)
    }

    /// The collection with the indexes' multikey bits as this change needs them.
    pub(crate) fn collection_after(&self, collection: &Collection) -> Collection {
        let mut after = collection.clone();
        for (index, change) in after.indexes.iter_mut().zip(&self.changes) {
            if change.multikey & !index.multikey != 0 {
                Arc::make_mut(index).multikey |= change.multikey;
            }
        }
        after
    }

    /// Writes the entries.
    pub(crate) fn write(&self, kv: &mut dyn KvWrite) -> Result<()> {
        for change in &self.changes {
            let (id, forms) = (self.id.as_slice(), change.forms.as_slice());
            for key in &change.remove {
                kv.delete(&change.index.row(Entry { key, id, forms }).0)?;
            }
            for key in &change.add {
                let (key, value) = change.index.row(Entry { key, id, forms });
                kv.put(&key, &value)?;
            }
        }
        Ok(())
    }
}

fn check_unique(
    kv: &dyn KvRead,
    ns: &Namespace,
    index: &Index,
    key: &[u8],
    id: &[u8],
    document: Option<&RawDocument>,
) -> Result<()> {
    let mut taken = Ok(false);
    kv.get(key, &mut |value| {
        taken = index.entry(key, value).map(|owner| owner.id != id)
    })?;
    let taken = taken?;
    match document {
        Some(document) if taken => Err(index.duplicate(ns, key, document)),
        _ => Ok(()),
    }
}

/// What a step of filling did.
pub(crate) struct Filled {
    /// The store key where to go on; `None` at the end.
    pub(crate) next: Option<Vec<u8>>,
    /// By index: the fields that met an array.
    pub(crate) multikey: Vec<u32>,
}

/// Makes the entries of new indexes for some of the documents that are there, those from the store key `from` on. An
/// entry may be there already, made by a write that came first.
///
/// # Errors
/// `DuplicateKey`, `CannotIndexParallelArrays` and others for a document that has no place in an index.
pub(crate) fn fill(
    kv: &mut dyn KvWrite,
    ns: &Namespace,
    collection: &Collection,
    indexes: &[&Arc<Index>],
    from: &[u8],
) -> Result<Filled> {
    let prefix = collection.prefix();
    let end = successor(&prefix).unwrap_or_default();
    let mut documents: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    let mut full = false;
    kv.scan(
        Range::half_open(from, &end),
        Direction::Forward,
        &mut |key, value| {
            bytes += value.len();
            documents.push((key.to_vec(), value.to_vec()));
            full = documents.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES;
            if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    let mut multikey = vec![0; indexes.len()];
    for (key, value) in &documents {
        let id = &key[prefix.len()..];
        let document = stored(value)?;
        for (index, multikey) in indexes.iter().zip(&mut multikey) {
            let keys = index.keys(document)?;
            *multikey |= keys.multikey;
            for key in &keys.keys {
                if index.spec.unique {
                    check_unique(kv, ns, index, key, id, Some(document))?;
                }
                let forms = &keys.forms;
                let (key, value) = index.row(Entry { key, id, forms });
                kv.put(&key, &value)?;
            }
        }
    }
    // The least key after the last one.
    let next = documents.last().filter(|_| full);
    Ok(Filled {
        next: next.map(|(last, _)| [last.as_slice(), &[0]].concat()),
        multikey,
    })
}

/// Removes some of the rows whose keys begin with `prefix`; true when that was the last of them.
pub(crate) fn clear(kv: &mut dyn KvWrite, prefix: &[u8]) -> Result<bool> {
    let end = successor(prefix).unwrap_or_default();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    kv.scan(
        Range::half_open(prefix, &end),
        Direction::Forward,
        &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < CHUNK_ROWS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    for key in &keys {
        kv.delete(key)?;
    }
    Ok(keys.len() < CHUNK_ROWS)
}

/// A document as it is stored.
///
/// # Errors
/// When the row is damaged.
pub(crate) fn stored(bytes: &[u8]) -> Result<&RawDocument> {
    RawDocument::from_bytes(bytes).map_err(|error| {
        Error::new(
            Code::InternalError,
            format!("a stored document is damaged: {error}"),
        )
    })
}
