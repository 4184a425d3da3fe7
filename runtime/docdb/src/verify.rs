//! The check that an index and its documents agree, both ways, and that the change log is whole, over the whole store.

use std::ops::ControlFlow;

use crate::catalog::{Catalog, Collection, document_prefix, entry_prefix};
use crate::exec::scan::Meter;
use crate::index::{Index, stored};
use crate::kv::{Direction, KvRead, Range, get_vec, successor};
use crate::{Code, Error, Namespace, Result, feed, keycode};

/// What a check looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Collections in the catalog.
    pub collections: u64,
    /// Documents, each with its entries.
    pub documents: u64,
    /// Index entries, each with its document.
    pub entries: u64,
    /// Events of the change log.
    pub events: u64,
}

/// # Errors
/// `InternalError` that names the first row which is wrong.
pub(crate) fn verify(
    kv: &dyn KvRead,
    catalog: &Catalog,
    depth_max: usize,
    meter: &Meter<'_>,
) -> Result<Verified> {
    let mut seen = Verified::default();
    for (ns, collection) in catalog.all() {
        seen.collections += 1;
        documents(kv, ns, collection, meter, &mut seen)?;
        for index in &collection.indexes {
            entries(kv, ns, collection, index, meter, &mut seen)?;
        }
    }
    seen.events = feed::verify(kv, depth_max, meter)?;
    Ok(seen)
}

/// Each document is under the key of its `_id` and has its entries.
fn documents(
    kv: &dyn KvRead,
    ns: &Namespace,
    collection: &Collection,
    meter: &Meter<'_>,
    seen: &mut Verified,
) -> Result<()> {
    let prefix = collection.prefix();
    each_row(kv, &prefix, meter, &mut |key, value| {
        seen.documents += 1;
        let document = stored(value)?;
        let id = &key[prefix.len()..];
        let mut expected = Vec::new();
        if let Some(value) = document.get("_id").ok().flatten() {
            keycode::encode(&mut expected, value, false);
        }
        if expected != id {
            return Err(wrong(ns, "a document is not under the key of its _id"));
        }
        // One that is being built has not come by all documents yet.
        for index in collection.indexes.iter().filter(|index| !index.building) {
            let keys = index.keys(document)?;
            if keys.multikey & !index.multikey != 0 {
                return Err(wrong(
                    ns,
                    &format!("index {:?} does not know that it is multikey", index.spec.name),
                ));
            }
            for entry in &keys.keys {
                let (key, value) = index.entry(entry, id);
                if get_vec(kv, &key)? != Some(value) {
                    return Err(wrong(
                        ns,
                        &format!("a document has no entry in index {:?}", index.spec.name),
                    ));
                }
            }
        }
        Ok(())
    })
}

/// Each entry is one of its document's.
fn entries(
    kv: &dyn KvRead,
    ns: &Namespace,
    collection: &Collection,
    index: &Index,
    meter: &Meter<'_>,
    seen: &mut Verified,
) -> Result<()> {
    each_row(kv, &entry_prefix(index.id), meter, &mut |key, value| {
        seen.entries += 1;
        let (entry, id) = index.split_entry(key, value)?;
        check_shape(ns, index, entry)?;
        let mut document_key = document_prefix(collection.id);
        document_key.extend_from_slice(id);
        let document = get_vec(kv, &document_key)?;
        let document = document.ok_or_else(|| {
            wrong(
                ns,
                &format!("index {:?} has an entry without a document", index.spec.name),
            )
        })?;
        if !index.keys(stored(&document)?)?.keys.contains(entry) {
            return Err(wrong(
                ns,
                &format!(
                    "index {:?} has an entry that is not its document's",
                    index.spec.name
                ),
            ));
        }
        Ok(())
    })
}

/// An entry's key is one key of each field after the index's id, and nothing more.
fn check_shape(ns: &Namespace, index: &Index, entry: &[u8]) -> Result<()> {
    let mut rest = entry.get(entry_prefix(index.id).len()..).unwrap_or_default();
    for field in &index.fields {
        rest = keycode::field_len(rest, field.descending)
            .and_then(|bytes| rest.get(bytes..))
            .ok_or_else(|| {
                wrong(
                    ns,
                    &format!("index {:?} has an entry that is no key", index.spec.name),
                )
            })?;
    }
    if !rest.is_empty() {
        return Err(wrong(
            ns,
            &format!("index {:?} has an entry with bytes too many", index.spec.name),
        ));
    }
    Ok(())
}

/// Looks at one row.
type RowCheck<'c> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'c;

fn each_row(kv: &dyn KvRead, prefix: &[u8], meter: &Meter<'_>, visit: &mut RowCheck<'_>) -> Result<()> {
    let end = successor(prefix).unwrap_or_default();
    let mut outcome = Ok(());
    let mut rows = 0_u64;
    kv.scan(
        Range::half_open(prefix, &end),
        Direction::Forward,
        &mut |key, value| {
            rows += 1;
            if rows.is_multiple_of(256) {
                outcome = meter.check_deadline();
            }
            if outcome.is_ok() {
                outcome = visit(key, value);
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

fn wrong(ns: &Namespace, what: &str) -> Error {
    Error::new(
        Code::InternalError,
        format!("the store is inconsistent: {what}, in collection {ns}"),
    )
}
