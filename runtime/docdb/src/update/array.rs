//! Operators on arrays.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocumentBuf};

use crate::collation::{Collation, compare};
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::value::{as_object, elements};

/// `$push` with its modifiers.
#[derive(Debug, Clone, Default)]
pub(super) struct Push {
    pub(super) values: Vec<RawBson>,
    /// Where to insert, from the end when negative; at the end when absent.
    pub(super) position: Option<i64>,
    pub(super) sort: Option<PushSort>,
    /// How many to keep: the first ones, or the last ones when negative.
    pub(super) slice: Option<i64>,
}

/// How `$push` sorts the array.
#[derive(Debug, Clone)]
pub(super) enum PushSort {
    Ascending,
    Descending,
    /// By fields of the elements.
    Fields(SortSpec),
}

/// Which elements `$pull` removes.
#[derive(Debug, Clone)]
pub(super) enum Pull {
    /// Those equal to the value.
    Equal(RawBson),
    /// Documents that the filter matches.
    Documents(Filter),
    /// Elements that match as the field "".
    Values(Filter),
}

impl Push {
    /// Makes the sort one under a collation.
    pub(super) fn collate(&mut self, collation: &Arc<Collation>) {
        if let Some(PushSort::Fields(sort)) = &mut self.sort {
            *sort = sort.clone().collated(Some(collation));
        }
    }

    pub(super) fn apply(&self, array: &RawArray, by: Option<&Arc<Collation>>) -> RawArrayBuf {
        let mut all: Vec<RawBsonRef<'_>> = elements(array).collect();
        let at = match self.position {
            None => all.len(),
            Some(from_end) if from_end < 0 => all
                .len()
                .saturating_sub(usize::try_from(from_end.unsigned_abs()).unwrap_or(usize::MAX)),
            Some(at) => usize::try_from(at).unwrap_or(usize::MAX).min(all.len()),
        };
        all.splice(at..at, self.values.iter().map(RawBson::as_raw_bson_ref));
        match &self.sort {
            None => {}
            Some(PushSort::Ascending) => all.sort_by(|a, b| compare(*a, *b, by)),
            Some(PushSort::Descending) => all.sort_by(|a, b| compare(*b, *a, by)),
            Some(PushSort::Fields(sort)) => {
                let none = RawDocumentBuf::new();
                all.sort_by(|a, b| {
                    let object = |v| as_object(v).unwrap_or(&none);
                    sort.compare(object(*a), object(*b))
                });
            }
        }
        match self.slice.map(|slice| {
            (
                slice < 0,
                usize::try_from(slice.unsigned_abs()).unwrap_or(usize::MAX),
            )
        }) {
            None => {}
            Some((false, count)) => all.truncate(count),
            Some((true, count)) => drop(all.drain(..all.len().saturating_sub(count))),
        }
        all.into_iter().collect()
    }
}

impl Pull {
    /// Makes the conditions ones under a collation.
    pub(super) fn collate(&mut self, collation: &Arc<Collation>) {
        match self {
            Pull::Equal(_) => {}
            Pull::Documents(filter) | Pull::Values(filter) => filter.collate(collation),
        }
    }

    pub(super) fn apply(&self, array: &RawArray, by: Option<&Arc<Collation>>) -> RawArrayBuf {
        elements(array)
            .filter(|element| !self.removes(*element, by))
            .collect()
    }

    fn removes(&self, v: RawBsonRef<'_>, by: Option<&Arc<Collation>>) -> bool {
        match self {
            Pull::Equal(wanted) => compare(v, wanted.as_raw_bson_ref(), by).is_eq(),
            Pull::Documents(filter) => v.as_document().is_some_and(|doc| filter.matches(doc)),
            Pull::Values(filter) => {
                let mut doc = RawDocumentBuf::new();
                doc.append(cstr!(""), v);
                filter.matches(&doc)
            }
        }
    }
}

/// Adds the values that are not there yet, each once.
pub(super) fn add_to_set(array: &RawArray, values: &[RawBson], by: Option<&Arc<Collation>>) -> RawArrayBuf {
    let mut all: Vec<RawBsonRef<'_>> = elements(array).collect();
    for value in values {
        let value = value.as_raw_bson_ref();
        if !all.iter().any(|seen| compare(*seen, value, by).is_eq()) {
            all.push(value);
        }
    }
    all.into_iter().collect()
}

pub(super) fn pull_all(array: &RawArray, values: &[RawBson], by: Option<&Arc<Collation>>) -> RawArrayBuf {
    let wanted = |v: RawBsonRef<'_>| {
        values
            .iter()
            .any(|value| compare(v, value.as_raw_bson_ref(), by).is_eq())
    };
    elements(array).filter(|element| !wanted(*element)).collect()
}

pub(super) fn pop(array: &RawArray, first: bool) -> RawArrayBuf {
    let count = elements(array).count();
    elements(array)
        .skip(usize::from(first))
        .take(count.saturating_sub(1))
        .collect()
}
