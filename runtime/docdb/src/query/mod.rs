//! Filters: MongoDB's query language as a type, and what it means for one document.
#![expect(unused_variables, dead_code, reason = "being built")]

use bson::{RawBson, RawDocument};

use crate::Result;
use crate::path::Path;

/// A parsed filter.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    /// All of them; never empty.
    And(Vec<Filter>),
    /// Any of them; never empty.
    Or(Vec<Filter>),
    /// None of them; never empty.
    Nor(Vec<Filter>),
    /// A predicate on the values that a path reaches.
    Field { path: Path, predicate: Predicate },
    /// Everything.
    AlwaysTrue,
    /// Nothing.
    AlwaysFalse,
}

/// A predicate on the values reached by a path.
#[derive(Debug, Clone)]
pub(crate) enum Predicate {
    /// Equal by value and class; null also matches a missing field.
    Eq(RawBson),
    /// Less, within the value's class.
    Lt(RawBson),
    /// Less or equal, within the value's class.
    Lte(RawBson),
    /// Greater, within the value's class.
    Gt(RawBson),
    /// Greater or equal, within the value's class.
    Gte(RawBson),
    /// Equal to one of the values (in order, without duplicates) or matched by one of the expressions.
    In {
        values: Vec<RawBson>,
        regexes: Vec<Regex>,
    },
    /// Not matched, as a whole.
    Not(Box<Predicate>),
    /// There is a value (or with `false`, none).
    Exists(bool),
    /// A regular expression on strings (and equality with the regex value itself).
    Regex(Regex),
    /// An array with an element, itself a document or array, that the filter matches.
    ElemMatchDocument(Box<Filter>),
    /// An array with one element that meets all the predicates.
    ElemMatchValue(Vec<Predicate>),
    /// An array of so many elements.
    Size(u64),
    /// All of these, each possibly by another element of an array: several operators on one field, or `$all`.
    AllOf(Vec<Predicate>),
    /// Nothing matches: `$all: []`, `$in: []`.
    Never,
}

/// A compiled regular expression.
#[derive(Debug, Clone)]
pub(crate) struct Regex {}

impl Regex {
    /// The text that all matching strings start with, when the pattern is case-sensitive and begins `^literal`.
    pub(crate) fn literal_prefix(&self) -> Option<&str> {
        todo!()
    }
}

impl Filter {
    /// Parses a filter document.
    pub(crate) fn parse(doc: &RawDocument) -> Result<Filter> {
        todo!()
    }

    /// Whether the document matches.
    pub(crate) fn matches(&self, doc: &RawDocument) -> bool {
        todo!()
    }

    /// For the positional `$`: where in the outermost array the filter matched, if it matched through an array.
    pub(crate) fn array_position(&self, doc: &RawDocument) -> Option<usize> {
        todo!()
    }

    /// The fields that the filter fixes to a value, by equality and `$and` only: what an upsert starts from.
    pub(crate) fn equality_fields(&self) -> Vec<(Path, RawBson)> {
        todo!()
    }
}
