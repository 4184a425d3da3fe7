//! Index specifications: MongoDB's documents for them, the rules for what may be combined, and whether one is there
//! already. What an index holds is `index`'s business.

use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::{Collection, ID_INDEX, append};
use crate::collation::Collation;
use crate::limits::Limits;
use crate::query::{Filter, Predicate};
use crate::value::{as_whole, fields, is_number, is_true, shown};
use crate::{Code, Error, Grid, IndexKind, IndexSpec, Result};

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Fields in one index: MongoDB's 32.
const FIELDS_MAX: usize = 32;
/// Longest life of documents, in seconds: MongoDB's.
const EXPIRE_SECONDS_MAX: i64 = i32::MAX as i64;

/// MongoDB's number for the rules of 2dsphere indexes as they are since 3.2.
const SPHERE_VERSION: i32 = 3;

/// Field paths with their directions.
type Keys = Vec<(Arc<str>, i32)>;

impl IndexSpec {
    /// Parses one of the documents of MongoDB's `createIndexes`: `{key: {a: 1}, name: "a_1", unique: true}`. Without
    /// a name it gets MongoDB's. Options that change nothing here (`v`, `ns`) are passed over.
    ///
    /// # Errors
    /// `CannotCreateIndex`, `InvalidIndexSpecificationOption` for an unknown option, `TypeMismatch`.
    pub fn parse(document: &RawDocument) -> Result<IndexSpec> {
        crate::check::check_well_formed(document, crate::query::ARGUMENT_DEPTH_MAX)?;
        let mut spec = IndexSpec::default();
        let (mut named, mut grid) = (None, Grid::default());
        for (option, value) in fields(document) {
            let mistyped = |wanted: &str| {
                let message = format!("the field '{option}' must be {wanted}, found {}", shown(value));
                Error::new(Code::TypeMismatch, message)
            };
            let flag = || match value {
                RawBsonRef::Boolean(_) => Ok(is_true(value)),
                value if is_number(value) => Ok(is_true(value)),
                _ => Err(mistyped("a bool")),
            };
            match option {
                "key" => {
                    let keys = value.as_document().ok_or_else(|| mistyped("an object"))?;
                    (spec.keys, spec.kind) = parse_keys(keys)?;
                }
                "name" => named = Some(value.as_str().ok_or_else(|| mistyped("a string"))?),
                "unique" => spec.unique = flag()?,
                "sparse" => spec.sparse = flag()?,
                "hidden" => spec.hidden = flag()?,
                "partialFilterExpression" => {
                    let filter = value.as_document().ok_or_else(|| mistyped("an object"))?;
                    spec.partial_filter = Some(filter.to_owned());
                }
                "expireAfterSeconds" => {
                    let seconds = match value {
                        RawBsonRef::Double(seconds) => as_whole(RawBsonRef::Double(seconds.trunc())),
                        value if is_number(value) => as_whole(value),
                        _ => return Err(mistyped("a number")),
                    };
                    // What is no whole number at all is out of range like any other that is.
                    spec.expire_after_seconds = Some(seconds.unwrap_or(-1));
                }
                "collation" => {
                    let collation = value.as_document().ok_or_else(|| mistyped("an object"))?;
                    Collation::parse(collation)?;
                    spec.collation = Some(collation.to_owned()).filter(|collation| !collation.is_empty());
                }
                "2dsphereIndexVersion" => {
                    if as_whole(value) != Some(i64::from(SPHERE_VERSION)) {
                        return Err(Error::new(
                            Code::CannotCreateIndex,
                            format!(
                                "unsupported geo index version {{ 2dsphereIndexVersion : {} }}, only {SPHERE_VERSION} is supported",
                                shown(value)
                            ),
                        ));
                    }
                }
                // Of other indexes than 2d ones they mean nothing, as in MongoDB.
                "min" | "max" | "bits" => {
                    let number = crate::geo::number(value).ok_or_else(|| mistyped("a number"))?;
                    match option {
                        "min" => grid.min = number,
                        "max" => grid.max = number,
                        _ if (1.0..=32.0).contains(&number) => grid.bits = number as u32,
                        _ => {
                            let message = format!(
                                "bits for hash must be > 0 and <= 32, but {number} bits were specified"
                            );
                            return Err(Error::new(Code::InvalidOptions, message));
                        }
                    }
                }
                // `dropDups` means nothing since MongoDB 3.0, which passes it over, too.
                "background" => spec.background = Some(flag()?),
                "v" | "ns" | "dropDups" | "hashVersion" => {}
                option => {
                    let message = format!("the field '{option}' is not valid for an index specification");
                    return Err(Error::new(Code::InvalidIndexSpecificationOption, message));
                }
            }
        }
        if let IndexKind::Plane(of_index) = &mut spec.kind {
            *of_index = grid;
        }
        spec.name = match named {
            Some(name) => name.into(),
            None => default_name(&spec.key_pattern()),
        };
        check(&spec).map(|()| spec)
    }

    /// The document of MongoDB's `listIndexes` for it.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("v"), 2);
        document.append(cstr!("key"), self.key_pattern());
        document.append(cstr!("name"), &*self.name);
        // MongoDB does not say of the index on `_id` that it is unique.
        if self.unique && (&*self.name != ID_INDEX || self.clustered) {
            document.append(cstr!("unique"), true);
        }
        if self.clustered {
            document.append(cstr!("clustered"), true);
        }
        if let Some(background) = self.background {
            document.append(cstr!("background"), background);
        }
        if self.sparse {
            document.append(cstr!("sparse"), true);
        }
        if self.hidden {
            document.append(cstr!("hidden"), true);
        }
        if let Some(filter) = &self.partial_filter {
            document.append(cstr!("partialFilterExpression"), filter.as_ref());
        }
        if let Some(seconds) = self.expire_after_seconds {
            match i32::try_from(seconds) {
                Ok(seconds) => document.append(cstr!("expireAfterSeconds"), seconds),
                Err(_) => document.append(cstr!("expireAfterSeconds"), seconds),
            }
        }
        if let IndexKind::Sphere { .. } = self.kind {
            document.append(cstr!("2dsphereIndexVersion"), SPHERE_VERSION);
        }
        if let IndexKind::Plane(grid) = self.kind {
            let usual = Grid::default();
            if grid.min != usual.min || grid.max != usual.max {
                document.append(cstr!("min"), grid.min);
                document.append(cstr!("max"), grid.max);
            }
            if grid.bits != usual.bits {
                document.append(cstr!("bits"), i32::try_from(grid.bits).unwrap_or(i32::MAX));
            }
        }
        if let Some(collation) = &self.collation {
            document.append(cstr!("collation"), collation.as_ref());
        }
        document
    }

    /// `{a: 1, b: -1}`, `{a: "hashed"}` or `{a: 1, b: "2dsphere"}`.
    pub fn key_pattern(&self) -> RawDocumentBuf {
        let mut pattern = RawDocumentBuf::new();
        for (at, (path, direction)) in self.keys.iter().enumerate() {
            let value = match self.kind {
                IndexKind::Hashed => RawBsonRef::String("hashed"),
                IndexKind::Sphere { places } if places >> at & 1 == 1 => RawBsonRef::String("2dsphere"),
                IndexKind::Plane(_) if at == 0 => RawBsonRef::String("2d"),
                IndexKind::Ordered | IndexKind::Sphere { .. } | IndexKind::Plane(_) => {
                    RawBsonRef::Int32(*direction)
                }
            };
            append(&mut pattern, path, value);
        }
        pattern
    }

    /// Whether it would have the same entries under the same rules: MongoDB's identity of an index but for its name.
    fn is_same_index(&self, other: &IndexSpec) -> bool {
        self.keys == other.keys
            && self.kind == other.kind
            && self.unique == other.unique
            && self.sparse == other.sparse
            && self.partial_filter == other.partial_filter
            && self.collation == other.collation
    }
}

/// The index on `_id` that a collection has, as one shows it; a time series has none.
pub(crate) fn of_id_of(collection: &Collection) -> Option<IndexSpec> {
    if collection.time_series.is_some() {
        return None;
    }
    let mut spec = match &collection.clustered {
        None => of_id(),
        Some(name) => IndexSpec {
            name: name.clone(),
            clustered: true,
            ..of_id()
        },
    };
    spec.collation = collection.collation_document();
    Some(spec)
}

/// The index that every collection has.
pub(crate) fn of_id() -> IndexSpec {
    IndexSpec {
        name: ID_INDEX.into(),
        keys: vec![("_id".into(), 1)],
        unique: true,
        ..IndexSpec::default()
    }
}

/// MongoDB's name for an index that was given none.
fn default_name(pattern: &RawDocument) -> Arc<str> {
    let parts = fields(pattern).map(|(path, value)| match value {
        RawBsonRef::String(kind) => format!("{path}_{kind}"),
        value => format!("{path}_{}", shown(value)),
    });
    parts.collect::<Vec<_>>().join("_").into()
}

/// The fields and the kind of a key pattern.
///
/// # Errors
/// `CannotCreateIndex` for what is no direction and no kind that there is.
pub(crate) fn parse_keys(pattern: &RawDocument) -> Result<(Keys, IndexKind)> {
    let refuse = |why: String| Err(Error::new(Code::CannotCreateIndex, why));
    let mut keys: Keys = Vec::new();
    let mut hashed = false;
    let mut places = 0_u32;
    let mut plane = false;
    for (path, value) in fields(pattern) {
        let direction = match value {
            RawBsonRef::String("hashed") => {
                hashed = true;
                1
            }
            // More fields than there are bits are refused like all that are too many.
            RawBsonRef::String("2dsphere") => {
                places |= 1_u32.checked_shl(keys.len() as u32).unwrap_or(1);
                1
            }
            RawBsonRef::String("2d") if plane => {
                return Err(Error::new(Code::Location(16_800), "can't have 2 geo fields"));
            }
            RawBsonRef::String("2d") if !keys.is_empty() => {
                return Err(Error::new(Code::Location(16_801), "2d has to be first in index"));
            }
            RawBsonRef::String("2d") => {
                plane = true;
                1
            }
            RawBsonRef::String(other) => return refuse(format!("Unknown index plugin '{other}'")),
            value if is_number(value) => {
                let zero = crate::value::compare(value, RawBsonRef::Int32(0));
                if zero.is_eq() || crate::value::is_nan(value) {
                    return refuse(format!(
                        "Values in the index key pattern cannot be 0, found {} for {path:?}",
                        shown(value)
                    ));
                }
                if zero.is_lt() { -1 } else { 1 }
            }
            value => {
                return refuse(format!(
                    "Values in v:2 index key pattern must be numbers or strings, found {} for {path:?}",
                    shown(value)
                ));
            }
        };
        keys.push((Arc::from(path), direction));
    }
    if hashed && keys.len() > 1 {
        return refuse(
            "a hashed index has one field only; compound hashed indexes are not supported".to_owned(),
        );
    }
    if plane && (hashed || places != 0) {
        return refuse("a 2d index has no other kinds of fields than ordered ones".to_owned());
    }
    let kind = match (hashed, places) {
        _ if plane => IndexKind::Plane(Grid::default()),
        (true, _) => IndexKind::Hashed,
        (false, 0) => IndexKind::Ordered,
        (false, places) => IndexKind::Sphere { places },
    };
    Ok((keys, kind))
}

/// The index that must be made, with the collation that it gets: `None` when it is there already.
///
/// # Errors
/// When the specification is malformed or clashes with an index of the collection.
pub(crate) fn check_index(
    collection: &Collection,
    spec: &IndexSpec,
    limits: &Limits,
) -> Result<Option<IndexSpec>> {
    check(spec)?;
    if let Some(series) = &collection.time_series {
        crate::time_series::check_index(series, spec)?;
    }
    let mut spec = spec.clone();
    spec.collation = match &spec.collation {
        None => collection.collation_document(),
        Some(own) => Collation::parse(own)?.map(|collation| collation.document().to_owned()),
    };
    if matches!(spec.kind, IndexKind::Plane(_)) && spec.collation.is_some() {
        return Err(Error::new(
            Code::CannotCreateIndex,
            "an index of the kind \"2d\" has no collation; name {locale: \"simple\"} for it",
        ));
    }
    check_against(collection, &spec, limits).map(|new| new.then_some(spec))
}

/// Whether an index must be made whose collation is settled.
fn check_against(collection: &Collection, spec: &IndexSpec, limits: &Limits) -> Result<bool> {
    let is_id = matches!(spec.keys.as_slice(), [(path, 1)] if &**path == "_id")
        && spec.kind == IndexKind::Ordered
        && collection.time_series.is_none();
    if is_id && spec.collation != collection.collation_document() {
        return Err(Error::new(
            Code::BadValue,
            "The _id index must have the same collation as the collection",
        ));
    }
    let is_named_so = &*spec.name == ID_INDEX && collection.time_series.is_none();
    if is_id || is_named_so || collection.is_id_index(&spec.name) {
        let plain = spec.partial_filter.is_none() && spec.expire_after_seconds.is_none() && !spec.hidden;
        if is_id && !spec.sparse && plain {
            return Ok(false);
        }
        return Err(Error::new(
            Code::CannotCreateIndex,
            "the name _id_ and the key {_id: 1} belong to the index that is always there, which takes no options",
        ));
    }
    for index in &collection.indexes {
        let there = &index.spec;
        let same = there.is_same_index(spec);
        if there.name == spec.name {
            if !same {
                let message = format!(
                    "An existing index has the same name as the requested index. When index names are not specified, they are auto generated and can cause conflicts. Requested index: {}, existing index: {}",
                    crate::show::document(&spec.to_document()),
                    crate::show::document(&there.to_document())
                );
                return Err(Error::new(Code::IndexKeySpecsConflict, message));
            }
            if there.expire_after_seconds == spec.expire_after_seconds && there.hidden == spec.hidden {
                return Ok(false);
            }
            let message = format!(
                "Index with name: {} already exists with different options",
                spec.name
            );
            return Err(Error::new(Code::IndexOptionsConflict, message));
        }
        if same {
            let message = format!("Index already exists with a different name: {}", there.name);
            return Err(Error::new(Code::IndexOptionsConflict, message));
        }
    }
    // The index on _id counts, as in MongoDB, also where there is none.
    if collection.indexes.len() + 1 >= limits.indexes_max {
        let message = format!(
            "too many indexes: {} with _id_, and indexes_max is {}",
            collection.indexes.len() + 1,
            limits.indexes_max
        );
        return Err(Error::new(Code::CannotCreateIndex, message));
    }
    Ok(true)
}

/// # Errors
/// `CannotCreateIndex` for what no index may be called.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') || name == "*" {
        let message = format!("invalid index name {name:?}: 1 to {NAME_BYTES_MAX} bytes, not \"*\"");
        return Err(Error::new(Code::CannotCreateIndex, message));
    }
    Ok(())
}

fn check(spec: &IndexSpec) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::CannotCreateIndex, why));
    let name = &spec.name;
    check_name(name)?;
    if spec.keys.is_empty() || spec.keys.len() > FIELDS_MAX {
        return refuse(format!(
            "index {name:?} has {} fields; 1 to {FIELDS_MAX} are allowed",
            spec.keys.len()
        ));
    }
    for (place, (path, direction)) in spec.keys.iter().enumerate() {
        if path.contains('\0')
            || path
                .split('.')
                .any(|part| part.is_empty() || part.starts_with('$'))
        {
            return refuse(format!(
                "index {name:?} has the path {path:?}, which is not a field path"
            ));
        }
        if !matches!(direction, 1 | -1) {
            return refuse(format!(
                "index {name:?} has the direction {direction} for {path:?}; 1 or -1 is allowed"
            ));
        }
        if spec.keys[..place].iter().any(|(other, _)| other == path) {
            return refuse(format!("index {name:?} has the field {path:?} twice"));
        }
    }
    if spec.kind == IndexKind::Hashed {
        if spec.unique {
            return Err(Error::new(
                Code::Location(16_764),
                "Currently hashed indexes cannot guarantee uniqueness. Use a regular index.",
            ));
        }
        // A hashed field has no direction, and the catalog's row keeps none.
        if spec.keys.len() > 1 || spec.keys.iter().any(|(_, direction)| *direction != 1) {
            return refuse("a hashed index has one field only, in the direction 1".to_owned());
        }
    }
    if let IndexKind::Sphere { places } = spec.kind {
        if spec.unique {
            return refuse(
                "a 2dsphere index can't be unique: it has places by the cells that they are in".to_owned(),
            );
        }
        let beyond = places.checked_shr(spec.keys.len() as u32).unwrap_or(0);
        let turned = spec
            .keys
            .iter()
            .enumerate()
            .any(|(at, (_, direction))| places >> at & 1 == 1 && *direction != 1);
        if places == 0 || beyond != 0 || turned {
            return refuse(format!(
                "index {name:?} has no field for a place, or one in the direction -1"
            ));
        }
    }
    if let IndexKind::Plane(grid) = spec.kind {
        if spec.unique {
            return refuse(
                "a 2d index can't be unique: it has places by the cells that they are in".to_owned(),
            );
        }
        if spec.keys.first().is_some_and(|(_, direction)| *direction != 1) {
            return refuse(format!("index {name:?} has a place in the direction -1"));
        }
        let extent = grid.max - grid.min;
        if !extent.is_finite() || extent <= 0.0 || !(1..=32).contains(&grid.bits) {
            return Err(Error::new(
                Code::InvalidOptions,
                format!(
                    "region for hash must be valid and have positive area, but [{}, {}] was specified",
                    grid.min, grid.max
                ),
            ));
        }
    }
    if let Some(seconds) = spec.expire_after_seconds {
        check_expiry(spec, seconds)?;
    }
    if let Some(filter) = &spec.partial_filter {
        if spec.sparse {
            return refuse("cannot mix \"partialFilterExpression\" and \"sparse\" options".to_owned());
        }
        check_partial(&Filter::parse(filter).map_err(|error| {
            Error::new(
                Code::CannotCreateIndex,
                format!("Failed to parse partialFilterExpression: {error}"),
            )
        })?)?;
    }
    Ok(())
}

/// Whether documents of an index like `spec` may expire after so many seconds.
///
/// # Errors
/// `CannotCreateIndex`.
pub(crate) fn check_expiry(spec: &IndexSpec, seconds: i64) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::CannotCreateIndex, why));
    if !(0..=EXPIRE_SECONDS_MAX).contains(&seconds) {
        return refuse(format!(
            "TTL index 'expireAfterSeconds' option must be within an acceptable range, 0 to {EXPIRE_SECONDS_MAX}, found {seconds}"
        ));
    }
    if spec.keys.len() > 1 || spec.kind != IndexKind::Ordered {
        return refuse(
            "TTL indexes are single-field indexes, compound indexes do not support TTL".to_owned(),
        );
    }
    Ok(())
}

/// MongoDB's operators of partial filters: those of which the planner can tell that a query implies them.
fn check_partial(filter: &Filter) -> Result<()> {
    fn allowed(predicate: &Predicate) -> bool {
        match predicate {
            Predicate::Eq(_)
            | Predicate::Lt(_)
            | Predicate::Lte(_)
            | Predicate::Gt(_)
            | Predicate::Gte(_)
            | Predicate::Exists(true)
            | Predicate::Type(_) => true,
            Predicate::In { regexes, .. } => regexes.is_empty(),
            Predicate::AllOf(parts) => parts.iter().all(allowed),
            _ => false,
        }
    }
    match filter {
        Filter::And(parts) | Filter::Or(parts) => parts.iter().try_for_each(check_partial),
        Filter::Field { predicate, .. } if allowed(predicate) => Ok(()),
        Filter::AlwaysTrue => Ok(()),
        _ => Err(Error::new(
            Code::CannotCreateIndex,
            "Expression not supported in partial index: only equality, $exists: true, $gt, $gte, $lt, $lte, $in, $type, $and and $or are",
        )),
    }
}
