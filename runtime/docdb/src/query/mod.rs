//! Filters: MongoDB's query language as a type, and what it means for one document.
//!
//! [`parse`] makes the types from documents, [`matches`] gives them their meaning, [`regex`] carries MongoDB's
//! regular expressions over to the engine used here, [`schema`] is `$jsonSchema`.

mod matches;
mod parse;
mod regex;
mod schema;

use std::sync::Arc;

use bson::spec::ElementType;
use bson::{RawBson, RawDocument};

use crate::check::check_well_formed;
use crate::collation::{Collation, holds_text};
use crate::expression::{Expr, Runtime, Scope};
use crate::geo::{Geo, Near};
use crate::path::Path;
use crate::{Code, Error, Result};

pub(crate) use self::parse::{ARGUMENT_DEPTH_MAX, is_value_operators};
pub(crate) use self::regex::Regex;
pub(crate) use self::schema::Schema;

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
    /// `$expr`: the expression is true of the document. What it implies is a filter that all such documents match,
    /// for the planner.
    Expr {
        expr: Arc<Expr>,
        runtime: Arc<Runtime>,
        implied: Box<Filter>,
    },
    /// `$jsonSchema`.
    Schema(Arc<Schema>),
    /// Everything.
    AlwaysTrue,
    /// Nothing.
    AlwaysFalse,
}

impl Filter {
    /// Adds the names of the document's own fields that it looks at; false if these can't be told.
    pub(crate) fn fields<'f>(&'f self, names: &mut Vec<&'f str>) -> bool {
        match self {
            Filter::And(parts) | Filter::Or(parts) | Filter::Nor(parts) => {
                parts.iter().all(|part| part.fields(names))
            }
            Filter::Field { path, .. } => {
                names.push(&path.parts()[0].name);
                true
            }
            Filter::Expr { .. } | Filter::Schema(_) => false,
            Filter::AlwaysTrue | Filter::AlwaysFalse => true,
        }
    }
}

/// A predicate on the values reached by a path.
#[derive(Debug, Clone)]
pub(crate) enum Predicate {
    /// Equal by value and class; null also matches a missing field.
    Eq(RawBson),
    /// Less, within the value's class (MaxKey: than everything else).
    Lt(RawBson),
    /// Less or equal, within the value's class.
    Lte(RawBson),
    /// Greater, within the value's class (MinKey: than everything else).
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
    /// The value's type is one of these.
    Type(Vec<ElementType>),
    /// A regular expression on strings (and equality with the regex value itself).
    Regex(Regex),
    /// An array with an element, itself a document or array, that the filter matches.
    ElemMatchDocument(Box<Filter>),
    /// An array with one element that meets all the predicates.
    ElemMatchValue(Vec<Predicate>),
    /// An array of so many elements.
    Size(u64),
    /// A number whose whole part leaves the remainder.
    Mod { divisor: i64, remainder: i64 },
    /// A whole number or binary data with such bits.
    Bits { test: BitTest, positions: Vec<u32> },
    /// A place that meets what is asked of it.
    Geo(Arc<Geo>),
    /// All of these, each possibly by another element of an array: several operators on one field, or `$all`.
    AllOf(Vec<Predicate>),
    /// Nothing matches: `$all: []`.
    Never,
    /// A comparison with what is or holds strings (`Eq` to `In`) under a collation. Indexes of that collation serve it.
    Collated {
        test: Box<Predicate>,
        collation: Arc<Collation>,
    },
}

/// What is asked of the bits of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitTest {
    AllSet,
    AnySet,
    AllClear,
    AnyClear,
}

/// Parses a filter whose strings compare as the scope's collation says.
fn parse_collated(doc: &RawDocument, scope: &Scope) -> Result<Filter> {
    let mut filter = parse::filter(doc, Some(scope))?;
    if let Some(collation) = scope.runtime().collation() {
        filter.collate(collation);
    }
    Ok(filter)
}

impl Filter {
    /// Parses a filter document.
    ///
    /// # Errors
    /// `BadValue` or `FailedToParse` for what is no filter, `InvalidBSON` and `Overflow` for malformed or too
    /// deeply nested documents, `CommandNotSupported` for operators that MongoDB has and this engine has not.
    pub(crate) fn parse(doc: &RawDocument) -> Result<Filter> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        parse::filter(doc, None)?.without_near()
    }

    /// Parses a filter that may have `$expr`, whose variables and surroundings `scope` tells.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and those of expressions.
    pub(crate) fn parse_in(doc: &RawDocument, scope: &Scope) -> Result<Filter> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        parse_collated(doc, scope)?.without_near()
    }

    /// Parses the filter of a query on a collection, which may ask for documents in the order of their distance.
    ///
    /// # Errors
    /// As [`parse_in`](Self::parse_in), and `BadValue` for a `$near` that is not one of the conditions that all have
    /// to be met, and for a second one.
    pub(crate) fn parse_query(doc: &RawDocument, scope: &Scope) -> Result<Filter> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        let filter = parse_collated(doc, scope)?;
        let all = filter.count_near();
        let mut top = Vec::new();
        filter.collect_near(&mut top);
        if all > top.len() {
            return Err(Error::new(Code::BadValue, "geo $near must be top-level expr"));
        }
        if all > 1 {
            return Err(Error::new(Code::BadValue, "Too many geoNear expressions"));
        }
        Ok(filter)
    }

    /// # Errors
    /// When there is a `$near`: what a filter like this is used for has no order.
    fn without_near(self) -> Result<Filter> {
        if self.count_near() > 0 {
            return Err(unordered());
        }
        Ok(self)
    }

    /// The `$near` of a query and the path that it is about.
    pub(crate) fn near(&self) -> Option<(&Path, &Near)> {
        let mut found = Vec::new();
        self.collect_near(&mut found);
        found.pop()
    }

    fn collect_near<'f>(&'f self, found: &mut Vec<(&'f Path, &'f Near)>) {
        fn of<'f>(path: &'f Path, predicate: &'f Predicate, found: &mut Vec<(&'f Path, &'f Near)>) {
            match predicate {
                Predicate::Geo(geo) => found.extend(geo.as_near().map(|near| (path, near))),
                Predicate::AllOf(parts) => parts.iter().for_each(|part| of(path, part, found)),
                _ => {}
            }
        }
        match self {
            Filter::And(parts) => parts.iter().for_each(|part| part.collect_near(found)),
            Filter::Field { path, predicate } => of(path, predicate, found),
            _ => {}
        }
    }

    /// How many `$near` there are anywhere in it.
    fn count_near(&self) -> usize {
        match self {
            Filter::And(parts) | Filter::Or(parts) | Filter::Nor(parts) => {
                parts.iter().map(Filter::count_near).sum()
            }
            Filter::Field { predicate, .. } => predicate.count_near(),
            Filter::Expr { .. } | Filter::Schema(_) | Filter::AlwaysTrue | Filter::AlwaysFalse => 0,
        }
    }

    /// Whether the document matches a filter that was parsed without `$expr`, and so can't fail.
    pub(crate) fn matches(&self, doc: &RawDocument) -> bool {
        self.accepts(doc).unwrap_or(false)
    }

    /// Whether the document matches.
    ///
    /// # Errors
    /// Those of an expression in `$expr`.
    pub(crate) fn accepts(&self, doc: &RawDocument) -> Result<bool> {
        self.matches_at(doc, &mut None)
    }

    /// Whether there is an `$expr` anywhere in it.
    pub(crate) fn has_expr(&self) -> bool {
        match self {
            Filter::And(parts) | Filter::Or(parts) | Filter::Nor(parts) => parts.iter().any(Filter::has_expr),
            Filter::Expr { .. } => true,
            Filter::Field { .. } | Filter::Schema(_) | Filter::AlwaysTrue | Filter::AlwaysFalse => false,
        }
    }

    /// For the positional `$`: where in the outermost array the filter matched, if it matched through an array.
    /// Conditions under `$or`, `$nor` and `$not` give no position.
    pub(crate) fn array_position(&self, doc: &RawDocument) -> Option<usize> {
        let mut position = None;
        if self.matches_at(doc, &mut position).unwrap_or(false) {
            position
        } else {
            None
        }
    }

    /// The fields that the filter fixes to a value, by equality and `$and` only: what an upsert starts from.
    pub(crate) fn equality_fields(&self) -> Vec<(Path, RawBson)> {
        let mut fields = Vec::new();
        self.collect_equalities(&mut fields);
        fields
    }

    /// Makes every comparison with a string one under the collation. Regular expressions are not concerned.
    pub(crate) fn collate(&mut self, collation: &Arc<Collation>) {
        match self {
            Filter::And(parts) | Filter::Or(parts) | Filter::Nor(parts) => {
                parts.iter_mut().for_each(|part| part.collate(collation));
            }
            Filter::Field { predicate, .. } => predicate.collate(collation),
            Filter::Expr { implied, .. } => implied.collate(collation),
            Filter::Schema(_) | Filter::AlwaysTrue | Filter::AlwaysFalse => {}
        }
    }

    fn collect_equalities(&self, fields: &mut Vec<(Path, RawBson)>) {
        match self {
            Filter::And(parts) => parts.iter().for_each(|part| part.collect_equalities(fields)),
            Filter::Or(parts) if parts.len() == 1 => parts[0].collect_equalities(fields),
            Filter::Field { path, predicate } => predicate.collect_equalities(path, fields),
            _ => {}
        }
    }
}

/// The error for a `$near` in a filter that is used for what has no order.
fn unordered() -> Error {
    Error::new(
        Code::Location(5_626_500),
        "$geoNear, $near, and $nearSphere are not allowed in this context, as these operators require sorting geospatial data. If you do not need sort, consider using $geoWithin instead",
    )
}

/// Those of `documents` that a filter matches; for callers that filter what is in no collection.
///
/// # Errors
/// As for a filter of a query.
pub fn retain_matching(filter: &RawDocument, documents: &mut Vec<bson::RawDocumentBuf>) -> Result<()> {
    let filter = Filter::parse(filter)?;
    documents.retain(|document| filter.matches(document));
    Ok(())
}

impl Predicate {
    /// Parses the operators of one field, `{$gt: 1, $lt: 5}`; the document has been checked.
    pub(crate) fn parse_on(name: &str, doc: &RawDocument) -> Result<Predicate> {
        let predicate = parse::operators(name, doc)?;
        if predicate.count_near() > 0 {
            return Err(unordered());
        }
        Ok(predicate)
    }

    fn count_near(&self) -> usize {
        match self {
            Predicate::Geo(geo) => usize::from(geo.as_near().is_some()),
            Predicate::Not(inner) => inner.count_near(),
            Predicate::AllOf(parts) | Predicate::ElemMatchValue(parts) => {
                parts.iter().map(Predicate::count_near).sum()
            }
            Predicate::ElemMatchDocument(filter) => filter.count_near(),
            _ => 0,
        }
    }

    /// Makes every comparison with a string one under the collation.
    pub(crate) fn collate(&mut self, collation: &Arc<Collation>) {
        let text = |value: &RawBson| holds_text(value.as_raw_bson_ref());
        let concerned = match self {
            Predicate::Eq(value)
            | Predicate::Lt(value)
            | Predicate::Lte(value)
            | Predicate::Gt(value)
            | Predicate::Gte(value) => text(value),
            Predicate::In { values, .. } => {
                let concerned = values.iter().any(text);
                if concerned {
                    values.sort_by(|a, b| collation.compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()));
                }
                concerned
            }
            Predicate::Not(inner) => {
                inner.collate(collation);
                false
            }
            Predicate::AllOf(parts) | Predicate::ElemMatchValue(parts) => {
                parts.iter_mut().for_each(|part| part.collate(collation));
                false
            }
            Predicate::ElemMatchDocument(filter) => {
                filter.collate(collation);
                false
            }
            Predicate::Exists(_)
            | Predicate::Type(_)
            | Predicate::Regex(_)
            | Predicate::Size(_)
            | Predicate::Mod { .. }
            | Predicate::Bits { .. }
            | Predicate::Geo(_)
            | Predicate::Never
            | Predicate::Collated { .. } => false,
        };
        if concerned {
            let test = Box::new(std::mem::replace(self, Predicate::Never));
            *self = Predicate::Collated {
                test,
                collation: collation.clone(),
            };
        }
    }

    fn collect_equalities(&self, path: &Path, fields: &mut Vec<(Path, RawBson)>) {
        match self {
            Predicate::Eq(value) => fields.push((path.clone(), value.clone())),
            Predicate::Collated { test, .. } => test.collect_equalities(path, fields),
            Predicate::AllOf(parts) => parts
                .iter()
                .for_each(|part| part.collect_equalities(path, fields)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
