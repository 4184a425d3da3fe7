//! Sorting what no index gives in order: in memory within a bound, past it on disk, if the query may.

use std::ops::ControlFlow;

use super::Query;
use super::scan::{Meter, scan};
use crate::Result;
use crate::engine::Engine;
use crate::kv::KvRead;
use crate::plan::Plan;
use crate::sort::SortSpec;
use crate::spill::{Bounds, Sorted, Sorter};

/// The matching documents in order, `skip` and `limit` applied.
///
/// # Errors
/// When more bytes than `sort_bytes_max` would have to be held and the query may not spill them, those of the disk, and
/// those of the scan.
pub(crate) fn sorted_documents(
    engine: &Engine,
    kv: &dyn KvRead,
    plan: &Plan,
    query: &Query,
    sort: &SortSpec,
    meter: &mut Meter<'_>,
) -> Result<Sorted> {
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let wanted = query
        .limit
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(skip));
    let bounds = Bounds {
        bytes_max: engine.limits.sort_bytes_max,
        limit: "sort_bytes_max",
        holder: "Sort",
    };
    let mut sorter = Sorter::new(bounds, wanted);
    scan(kv, plan, &query.filter, None, meter, &mut |_, document| {
        sorter.push(sort.sort_key(document), document.to_owned(), &query.runtime)?;
        Ok(ControlFlow::Continue(()))
    })?;
    meter.used_disk |= sorter.used_disk();
    let mut sorted = sorter.finish(&query.runtime)?;
    sorted.skip(skip)?;
    Ok(sorted)
}
