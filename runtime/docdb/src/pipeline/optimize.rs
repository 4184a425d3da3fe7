//! What can be done before the first document is read: filters, sorts and limits move towards the collection, where
//! an index may serve them; sorts learn how many documents are wanted of them.

use super::{Pipeline, Source, Stage};
use crate::query::Filter;

/// Moves stages into the pipeline's query as far as the result stays the same.
pub(super) fn optimize(pipeline: &mut Pipeline) {
    fuse(&mut pipeline.stages);
    if !matches!(pipeline.source, Source::Collection) {
        return;
    }
    let query = &mut pipeline.query;
    let mut stages = std::mem::take(&mut pipeline.stages).into_iter().peekable();
    let mut filters = Vec::new();
    while let Some(Stage::Match(_)) = stages.peek() {
        if let Some(Stage::Match(filter)) = stages.next() {
            filters.push(filter);
        }
    }
    query.filter = match filters.len() {
        0 => Filter::AlwaysTrue,
        1 => filters.remove(0),
        _ => Filter::And(filters),
    };
    if let Some(Stage::Sort { .. }) = stages.peek()
        && let Some(Stage::Sort { by, limit }) = stages.next()
    {
        query.sort = Some(by);
        query.limit = limit;
    }
    // A skip after a limit would come too early in the query.
    if query.limit.is_none()
        && let Some(Stage::Skip(_)) = stages.peek()
        && let Some(Stage::Skip(skip)) = stages.next()
    {
        query.skip = skip;
    }
    while let Some(Stage::Limit(_)) = stages.peek() {
        if let Some(Stage::Limit(limit)) = stages.next() {
            query.limit = Some(query.limit.map_or(limit, |old| old.min(limit)));
        }
    }
    pipeline.stages = stages.collect();
}

/// Moves filters forward and tells sorts their limit.
pub(super) fn fuse(stages: &mut Vec<Stage>) {
    for at in 1..stages.len() {
        let mut at = at;
        while at > 0 && can_pass(&stages[at - 1], &stages[at]) {
            stages.swap(at - 1, at);
            at -= 1;
        }
    }
    let mut at = 0;
    while at + 1 < stages.len() {
        if let (Stage::Sort { limit, .. }, Stage::Limit(next)) = stages_pair(stages, at) {
            *limit = Some(limit.map_or(*next, |old| old.min(*next)));
            stages.remove(at + 1);
        } else {
            at += 1;
        }
    }
}

fn stages_pair(stages: &mut [Stage], at: usize) -> (&mut Stage, &mut Stage) {
    let (head, tail) = stages.split_at_mut(at + 1);
    (&mut head[at], &mut tail[0])
}

/// Whether a filter may come before the stage that it follows: the documents it looks at are the same before.
fn can_pass(before: &Stage, stage: &Stage) -> bool {
    let Stage::Match(filter) = stage else {
        return false;
    };
    match before {
        Stage::Sort { limit: None, .. } => true,
        Stage::Project(projection) => {
            let mut names = Vec::new();
            filter.fields(&mut names) && names.iter().all(|name| projection.leaves(name))
        }
        _ => false,
    }
}
