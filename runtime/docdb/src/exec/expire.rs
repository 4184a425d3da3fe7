//! Documents that are over their time: MongoDB's TTL indexes, and time series whose documents expire. With an index a document expires when the date in the index's field,
//! of an array the earliest one, is further back than the index allows; anything but a date never does. Nothing here
//! runs by itself: a timer of the server calls it with the time.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bson::{DateTime, RawBson};
use cloudlet_base::Timestamp;

use super::write::remove_one;
use crate::bounds::dates_until;
use crate::catalog::{Catalog, Collection, entry_prefix};
use crate::index::Index;
use crate::kv::{Direction, KvRead, Range};
use crate::lanes::Tx;
use crate::{Expired, Namespace, Result, time_series};

/// Most documents that one turn of the writer removes.
const BATCH_MAX: usize = 1000;

/// Whether some document is over its time.
pub(crate) fn is_due(kv: &dyn KvRead, catalog: &Catalog, now: Timestamp) -> Result<bool> {
    for (_, collection) in time_series(catalog) {
        if !expired_measurements(kv, collection, now, 1)?.is_empty() {
            return Ok(true);
        }
    }
    for (_, _, index) in ttl_indexes(catalog) {
        if !expired(kv, &index, now, 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes up to `budget` documents that are over their time.
pub(crate) fn expire(tx: &mut Tx<'_>, now: Timestamp, budget: usize) -> Result<Expired> {
    let mut budget = budget.min(BATCH_MAX);
    let mut done = Expired::default();
    let series: Vec<_> = time_series(&tx.catalog)
        .map(|(ns, collection)| (ns.clone(), collection.clone()))
        .collect();
    for (ns, collection) in series {
        for place in expired_measurements(&*tx.kv, &collection, now, budget)? {
            budget -= 1;
            if remove_one(tx, &ns, &collection, &place)? {
                done.deleted += 1;
            }
        }
    }
    let indexes: Vec<_> = ttl_indexes(&tx.catalog)
        .map(|(ns, collection, index)| (ns.clone(), collection.clone(), index))
        .collect();
    done.more = budget == 0;
    for (ns, collection, index) in indexes {
        if budget == 0 {
            break;
        }
        let ids = expired(&*tx.kv, &index, now, budget)?;
        for id in &ids {
            if remove_one(tx, &ns, &collection, id)? {
                done.deleted += 1;
            }
        }
        budget = budget.saturating_sub(ids.len());
        done.more = budget == 0;
    }
    tx.engine.metrics.expired.inc_by(done.deleted);
    Ok(done)
}

/// The time series whose documents expire.
fn time_series(catalog: &Catalog) -> impl Iterator<Item = (&Namespace, &Arc<Collection>)> {
    catalog.all().filter(|(_, collection)| {
        let series = collection.time_series.as_ref();
        series.is_some_and(|series| series.expire_after_seconds.is_some())
    })
}

/// The date up to which documents that may live so long are over their time.
fn last_expired(now: Timestamp, seconds: i64) -> DateTime {
    DateTime::from_millis(now.millis().saturating_sub(seconds.saturating_mul(1000)))
}

/// The places of up to `most` measurements that are over their time.
fn expired_measurements(
    kv: &dyn KvRead,
    collection: &Collection,
    now: Timestamp,
    most: usize,
) -> Result<Vec<Vec<u8>>> {
    let series = collection.time_series.as_ref();
    match series.and_then(|series| series.expire_after_seconds) {
        Some(seconds) => time_series::until(kv, collection.id, last_expired(now, seconds), most),
        None => Ok(Vec::new()),
    }
}

fn ttl_indexes(catalog: &Catalog) -> impl Iterator<Item = (&Namespace, &Arc<Collection>, Arc<Index>)> {
    catalog.all().flat_map(|(ns, collection)| {
        let indexes = collection.indexes.iter();
        indexes
            .filter(|index| index.spec.expire_after_seconds.is_some())
            .map(move |index| (ns, collection, index.clone()))
    })
}

/// The `_id` keys of up to `most` documents that are over their time, each once.
fn expired(kv: &dyn KvRead, index: &Index, now: Timestamp, most: usize) -> Result<BTreeSet<Vec<u8>>> {
    let (Some(seconds), Some(field)) = (index.spec.expire_after_seconds, index.fields.first()) else {
        return Ok(BTreeSet::new());
    };
    let last = RawBson::DateTime(last_expired(now, seconds));
    let Some((from, to)) = dates_until(&last, field.descending) else {
        return Ok(BTreeSet::new());
    };
    let prefix = entry_prefix(index.id);
    let (from, to) = (
        [prefix.as_slice(), &from].concat(),
        [prefix.as_slice(), &to].concat(),
    );
    // A document with several dates has several entries.
    let mut ids: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut outcome = Ok(());
    if most == 0 {
        return Ok(ids);
    }
    kv.scan(
        Range::half_open(&from, &to),
        Direction::Forward,
        &mut |key, value| {
            match index.entry(key, value) {
                Ok(entry) => drop(ids.insert(entry.id.to_vec())),
                Err(error) => outcome = Err(error),
            }
            if ids.len() < most && outcome.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    outcome.map(|()| ids)
}
