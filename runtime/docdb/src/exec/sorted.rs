//! Sorting in memory, within a bound, what no index gives in order.

use std::ops::ControlFlow;

use bson::RawDocumentBuf;

use super::Query;
use super::scan::{Meter, scan};
use crate::engine::Engine;
use crate::kv::KvRead;
use crate::plan::Plan;
use crate::sort::SortSpec;
use crate::{Code, Error, Result};

/// How many more documents than are wanted pile up before the rest is thrown away.
const SLACK: usize = 1024;

/// The matching documents in order, `skip` and `limit` applied.
///
/// # Errors
/// When more bytes than `sort_bytes_max` would have to be held, and those of the scan.
pub(crate) fn sorted_documents(
    engine: &Engine,
    kv: &dyn KvRead,
    plan: &Plan,
    query: &Query,
    sort: &SortSpec,
    meter: &mut Meter<'_>,
) -> Result<Vec<RawDocumentBuf>> {
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let wanted = query
        .limit
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(skip));
    let max = engine.limits.sort_bytes_max;
    let mut rows: Vec<(Vec<u8>, RawDocumentBuf)> = Vec::new();
    let mut bytes = 0;
    scan(kv, plan, &query.filter, None, meter, &mut |_, document| {
        let key = sort.sort_key(document);
        bytes += key.len() + document.as_bytes().len();
        rows.push((key, document.to_owned()));
        // With a limit only the first ones are kept: looked for when many have piled up, in number or in bytes.
        if let Some(wanted) = wanted
            && (rows.len() > wanted.saturating_mul(2).saturating_add(SLACK)
                || (bytes > max && rows.len() > wanted))
        {
            order(&mut rows);
            rows.truncate(wanted);
            bytes = rows
                .iter()
                .map(|(key, document)| key.len() + document.as_bytes().len())
                .sum();
        }
        if bytes > max {
            let message = format!(
                "Sort exceeded memory limit: it took {bytes} bytes, and sort_bytes_max is {max}; nothing is spilled to disk, with or without allowDiskUse: an index on the sort's fields or a smaller limit would help"
            );
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    order(&mut rows);
    let wanted = wanted.unwrap_or(usize::MAX);
    Ok(rows
        .into_iter()
        .take(wanted)
        .skip(skip)
        .map(|(_, document)| document)
        .collect())
}

/// Documents of equal keys stay in the order they were found in.
fn order(rows: &mut [(Vec<u8>, RawDocumentBuf)]) {
    rows.sort_by(|a, b| a.0.cmp(&b.0));
}
