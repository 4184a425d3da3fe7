//! Making indexes: the specifications enter the catalog as indexes under construction, which all writes keep up and no
//! plan uses; then the documents that were there are entered, some in each turn of the writer; then they are ready. A
//! small collection is through in the first turn. A key that can't be entered undoes all of it.

use std::sync::Arc;

use crate::catalog::{Catalog, Collection, entry_prefix};
use crate::index::{self, Index};
use crate::lanes::Tx;
use crate::specification::check_index;
use crate::{Code, Error, IndexSpec, Namespace, Result};

/// Indexes under construction that one command asked for.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    ns: Namespace,
    collection: u32,
    /// Those that it began.
    indexes: Vec<u32>,
    /// Those that it found under construction and has to wait for.
    awaited: Vec<u32>,
    /// The store key from which on documents have to be entered; `None` when all are.
    from: Option<Vec<u8>>,
}

/// How far a build is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// All are ready; so many were made.
    Made(usize),
    /// There is more to do.
    On(Build),
    /// Another build has to end first.
    Waiting,
}

/// Begins to make indexes, and the collection when it is not there.
pub(crate) fn begin(tx: &mut Tx<'_>, ns: &Namespace, specs: &[IndexSpec]) -> Result<Progress> {
    let mut build = Build {
        ns: ns.clone(),
        collection: 0,
        indexes: Vec::new(),
        awaited: Vec::new(),
        from: None,
    };
    for spec in specs {
        let collection = super::write::collection_to_write(tx, ns)?;
        build.collection = collection.id;
        let Some(spec) = check_index(&collection, spec, &tx.engine.limits)? else {
            let there = collection.index(&spec.name).filter(|index| index.building);
            build.awaited.extend(there.map(|index| index.id));
            continue;
        };
        let id = tx.catalog.allocate_id(tx.kv)?;
        let mut index = Index::new(id, spec, 0)?;
        index.building = true;
        let mut collection = Collection::clone(&collection);
        collection.indexes.push(Arc::new(index));
        build.from = Some(collection.prefix());
        tx.catalog.save(tx.kv, ns, collection)?;
        build.indexes.push(id);
    }
    // The same index may have been asked for twice.
    build.awaited.retain(|id| !build.indexes.contains(id));
    if build.indexes.is_empty() && build.awaited.is_empty() {
        return Ok(Progress::Made(0));
    }
    match step(tx, &build)? {
        Progress::Waiting => Ok(Progress::On(build)),
        progress => Ok(progress),
    }
}

/// Enters some documents; after the last the indexes are ready.
///
/// # Errors
/// `DuplicateKey` and others for a document that can't be entered, `IndexBuildAborted` when the collection or an index
/// was dropped.
pub(crate) fn step(tx: &mut Tx<'_>, build: &Build) -> Result<Progress> {
    let collection = tx.catalog.collection(&build.ns).cloned();
    let collection = collection
        .filter(|collection| collection.id == build.collection)
        .ok_or_else(|| aborted(build))?;
    let there = |id: &u32| collection.indexes.iter().find(|index| index.id == *id);
    let Some(from) = &build.from else {
        for id in &build.awaited {
            if there(id).ok_or_else(|| aborted(build))?.building {
                return Ok(Progress::Waiting);
            }
        }
        return Ok(Progress::Made(build.indexes.len()));
    };
    let indexes: Option<Vec<&Arc<Index>>> = build.indexes.iter().map(there).collect();
    let indexes = indexes.ok_or_else(|| aborted(build))?;
    let filled = index::fill(tx.kv, &build.ns, &collection, &indexes, from)?;
    let ready = filled.next.is_none();
    let mut after = Collection::clone(&collection);
    let mut changed = ready;
    for index in &mut after.indexes {
        let Some(at) = build.indexes.iter().position(|id| *id == index.id) else {
            continue;
        };
        let multikey = filled.multikey.get(at).copied().unwrap_or_default();
        if ready || multikey & !index.multikey != 0 {
            let index = Arc::make_mut(index);
            index.multikey |= multikey;
            index.building = !ready;
            changed = true;
        }
    }
    if changed {
        let collection = tx.catalog.save(tx.kv, &build.ns, after)?;
        if ready {
            let made = collection.indexes.iter();
            let made = made.filter(|index| build.indexes.contains(&index.id));
            tx.feed
                .indexes_created(&build.ns, &collection, made.map(|index| &index.spec));
        }
    }
    if ready && build.awaited.is_empty() {
        return Ok(Progress::Made(build.indexes.len()));
    }
    Ok(Progress::On(Build {
        from: filled.next,
        ..build.clone()
    }))
}

/// Removes what a build that failed has made.
pub(crate) fn undo(tx: &mut Tx<'_>, build: &Build) -> Result<()> {
    let collection = tx.catalog.collection(&build.ns).cloned();
    let Some(collection) = collection.filter(|collection| collection.id == build.collection) else {
        return Ok(());
    };
    let mut after = Collection::clone(&collection);
    // Those that are gone were discarded by who dropped them.
    after.indexes.retain(|index| !build.indexes.contains(&index.id));
    for index in collection
        .indexes
        .iter()
        .filter(|index| build.indexes.contains(&index.id))
    {
        Catalog::discard(tx.kv, &entry_prefix(index.id))?;
    }
    tx.catalog.save(tx.kv, &build.ns, after).map(drop)
}

fn aborted(build: &Build) -> Error {
    let message = format!(
        "the index build on {} was aborted: the collection or the index was dropped",
        build.ns
    );
    Error::new(Code::IndexBuildAborted, message)
}
