//! MongoDB's `convertToCapped`: an ordinary collection becomes a capped one, in one commit. Its documents stay where they
//! are, and get their places in the natural order that they had; its indexes go.

use std::ops::ControlFlow;

use bson::RawDocumentBuf;
use bson::raw::cstr;
use cloudlet_base::Deadline;

use super::write::remove_one;
use crate::capped;
use crate::catalog::{Catalog, Collection, entry_prefix};
use crate::kv::{Direction, Range, successor};
use crate::lanes::Tx;
use crate::{Capped, Code, Error, Namespace, Result};

/// Most documents of a collection that is made capped, for it is done in one commit.
const DOCUMENTS_MAX: usize = 100_000;

/// Makes a collection capped at so many bytes; the first documents go if there are more.
///
/// # Errors
/// `NamespaceNotFound`, `CommandNotSupportedOnView`, `BadValue` for a size that is none, `IllegalOperation` for a
/// collection of too many documents and while an index is built.
pub(crate) fn convert_to_capped(tx: &mut Tx<'_>, ns: &Namespace, size: u64) -> Result<()> {
    let before = tx.catalog.only_collection(ns)?.clone();
    crate::time_series::refuse(&before, ns, "convertToCapped")?;
    let mut options = before.options();
    options.capped = Some(Capped { size, max: None });
    crate::validation::check(ns, &options, &tx.engine.scope(&Deadline::NEVER))?;
    if let Some(index) = before.indexes.iter().find(|index| index.building) {
        let message = format!(
            "{ns} can't be converted while its index {:?} is built",
            index.spec.name
        );
        return Err(Error::new(Code::IllegalOperation, message));
    }
    let mut after = Collection::clone(&before);
    after.set_options(options);
    for index in after.indexes.drain(..) {
        Catalog::discard(tx.kv, &entry_prefix(index.id))?;
    }
    let collection = tx.catalog.save(tx.kv, ns, after)?;
    if before.capped.is_none() {
        for (id, bytes) in places(tx, ns, &collection)? {
            capped::inserted(tx.kv, collection.id, &id, bytes)?;
        }
    }
    let bounds = Capped { size, max: None };
    while let Some(oldest) = capped::superfluous(&*tx.kv, collection.id, &bounds)? {
        remove_one(tx, ns, &collection, &oldest)?;
    }
    let mut description = RawDocumentBuf::new();
    description.append(cstr!("cappedSize"), i64::try_from(size).unwrap_or(i64::MAX));
    tx.feed.modified(ns, &collection, &description);
    Ok(())
}

/// The keys of the documents' `_id`s in their order, and how long the documents are.
fn places(tx: &Tx<'_>, ns: &Namespace, collection: &Collection) -> Result<Vec<(Vec<u8>, usize)>> {
    let prefix = collection.prefix();
    let end = successor(&prefix).unwrap_or_default();
    let mut found = Vec::new();
    tx.kv.scan(
        Range::half_open(&prefix, &end),
        Direction::Forward,
        &mut |key, document| {
            found.push((
                key.get(prefix.len()..).unwrap_or_default().to_vec(),
                document.len(),
            ));
            if found.len() > DOCUMENTS_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    if found.len() > DOCUMENTS_MAX {
        let message = format!(
            "{ns} has more than {DOCUMENTS_MAX} documents, the most that a collection may have that is made capped"
        );
        return Err(Error::new(Code::IllegalOperation, message));
    }
    Ok(found)
}
