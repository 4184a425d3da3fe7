//! Collections of measurements: MongoDB's time series. Each document has a date in one field, by which the collection is
//! stored: its row is under that date and a number that tells it from the others of the same moment, and not under its
//! `_id`, which need not be the only one. What may be changed of measurements is what MongoDB lets be changed.
//! MongoDB's buckets are its way to store them and are not here; what is said of buckets is kept and shown.

use std::ops::ControlFlow;
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::catalog::{Collection, document_prefix};
use crate::index::Index;
use crate::kv::{Direction, KvRead, KvWrite, Range, successor};
use crate::query::{ARGUMENT_DEPTH_MAX, Filter};
use crate::update::Update;
use crate::value::{as_whole, field, fields, raw_fields, shown};
use crate::{
    BucketSpan, Code, CollectionOptions, Error, Granularity, IndexKind, IndexSpec, Namespace, Result,
    TimeSeries, default_index_name, keycode,
};

/// Bytes of the number behind the date.
const NUMBER_BYTES: usize = 4;
/// Longest span of a bucket: MongoDB's year.
const SPAN_SECONDS_MAX: i64 = 31_536_000;
/// Longest life of a measurement, in seconds: 2^31 - 1, as with TTL indexes.
const EXPIRE_SECONDS_MAX: i64 = i32::MAX as i64;

impl Granularity {
    const ALL: [Granularity; 3] = [Self::Seconds, Self::Minutes, Self::Hours];

    /// MongoDB's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
        }
    }

    /// The granularity of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|granularity| granularity.name() == name)
    }

    /// What MongoDB's buckets span, in seconds.
    fn span(self) -> u32 {
        match self {
            Self::Seconds => 3_600,
            Self::Minutes => 86_400,
            Self::Hours => 2_592_000,
        }
    }

    /// What MongoDB rounds the beginning of a bucket down to, in seconds.
    fn rounding(self) -> u32 {
        match self {
            Self::Seconds => 60,
            Self::Minutes => 3_600,
            Self::Hours => 86_400,
        }
    }
}

impl BucketSpan {
    fn seconds(self) -> u32 {
        match self {
            Self::Granularity(granularity) => granularity.span(),
            Self::Seconds(seconds) => seconds,
        }
    }

    /// Parses the `timeseries` of MongoDB's `collMod`: `{granularity}` or `{bucketMaxSpanSeconds, bucketRoundingSeconds}`.
    ///
    /// # Errors
    /// As [`TimeSeries::parse`], and `InvalidOptions` when nothing is said.
    pub fn parse(document: &RawDocument) -> Result<Self> {
        let mut parts = SpanParts::default();
        for (option, value) in fields(document) {
            if !parts.take("collMod", option, value)? {
                return Err(unknown("collMod", option));
            }
        }
        if parts.granularity.is_none() && parts.span.is_none() && parts.rounding.is_none() {
            return Err(invalid(
                "'timeseries' of collMod needs 'granularity' or both of 'bucketMaxSpanSeconds' and 'bucketRoundingSeconds'",
            ));
        }
        parts.finish()
    }
}

/// What is said of buckets.
#[derive(Default)]
struct SpanParts {
    granularity: Option<Granularity>,
    span: Option<u32>,
    rounding: Option<u32>,
}

impl SpanParts {
    /// Takes an option, if it is one of them.
    fn take(&mut self, command: &str, option: &str, value: RawBsonRef<'_>) -> Result<bool> {
        let seconds = || {
            let name = format!("{command}.timeseries.{option}");
            let seconds = as_whole(value).ok_or_else(|| mistyped(&name, "a number", value))?;
            if !(1..=SPAN_SECONDS_MAX).contains(&seconds) {
                let message = format!(
                    "BSON field '{name}' value must be 1 to {SPAN_SECONDS_MAX}, actual value '{seconds}'"
                );
                return Err(Error::new(Code::Location(51_024), message));
            }
            Ok(u32::try_from(seconds).ok())
        };
        match option {
            "granularity" => {
                let name = format!("{command}.timeseries.granularity");
                let text = value.as_str().ok_or_else(|| mistyped(&name, "a string", value))?;
                let granularity = Granularity::from_name(text).ok_or_else(|| {
                    let message =
                        format!("Enumeration value '{text}' for field '{name}' is not a valid value.");
                    Error::new(Code::BadValue, message)
                })?;
                self.granularity = Some(granularity);
            }
            "bucketMaxSpanSeconds" => self.span = seconds()?,
            "bucketRoundingSeconds" => self.rounding = seconds()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self) -> Result<BucketSpan> {
        let Some(granularity) = self.granularity else {
            return match (self.span, self.rounding) {
                (None, None) => Ok(BucketSpan::default()),
                (Some(span), Some(rounding)) if span == rounding => Ok(BucketSpan::Seconds(span)),
                // As `listCollections` shows a granularity that was not named.
                (Some(span), None) if span == Granularity::Seconds.span() => Ok(BucketSpan::default()),
                _ => Err(invalid(
                    "Timeseries 'bucketMaxSpanSeconds' and 'bucketRoundingSeconds' need to be set both and be equal, when no 'granularity' is",
                )),
            };
        };
        if self.span.is_some_and(|span| span != granularity.span()) {
            return Err(invalid(&format!(
                "Timeseries 'bucketMaxSpanSeconds' can be set to a value other than the default of {} for the granularity '{}' only without 'granularity'",
                granularity.span(),
                granularity.name()
            )));
        }
        if self
            .rounding
            .is_some_and(|rounding| rounding != granularity.rounding())
        {
            return Err(invalid(&format!(
                "Timeseries 'bucketRoundingSeconds' can be set to a value other than the default of {} for the granularity '{}' only without 'granularity'",
                granularity.rounding(),
                granularity.name()
            )));
        }
        Ok(BucketSpan::Granularity(granularity))
    }
}

impl TimeSeries {
    /// Parses the `timeseries` of MongoDB's `create`: `{timeField: "t", metaField: "m", granularity: "minutes"}`.
    /// `expireAfterSeconds` stands beside it there, and is none here.
    ///
    /// # Errors
    /// `InvalidOptions` for fields and spans that can't be, `TypeMismatch`, `BadValue`, and the numbered ones of a missing
    /// or unknown field.
    pub fn parse(document: &RawDocument) -> Result<TimeSeries> {
        crate::check::check_well_formed(document, ARGUMENT_DEPTH_MAX)?;
        let (mut time, mut meta) = (None, None);
        let mut parts = SpanParts::default();
        for (option, value) in fields(document) {
            let name = || {
                let text = value.as_str().map(Arc::from);
                text.ok_or_else(|| mistyped(&format!("create.timeseries.{option}"), "a string", value))
            };
            match option {
                "timeField" => time = Some(name()?),
                "metaField" => meta = Some(name()?),
                option if parts.take("create", option, value)? => {}
                option => return Err(unknown("create", option)),
            }
        }
        let time_field = time.ok_or_else(|| {
            let message = "BSON field 'create.timeseries.timeField' is missing but a required field";
            Error::new(Code::Location(40_414), message)
        })?;
        let series = TimeSeries {
            time_field,
            meta_field: meta,
            span: parts.finish()?,
            expire_after_seconds: None,
        };
        series.check().map(|()| series)
    }

    /// # Errors
    /// `InvalidOptions` for fields that can't be those of a time series, and for a life that can't be.
    fn check(&self) -> Result<()> {
        let named = [
            ("timeField", Some(&self.time_field)),
            ("metaField", self.meta_field.as_ref()),
        ];
        for (option, name) in named {
            let Some(name) = name else { continue };
            if name.is_empty() || name.contains(['.', '\0']) || name.starts_with('$') {
                return Err(invalid(&format!(
                    "'{option}' must be the name of a field, without dots, NUL or '$' before it; found {name:?}"
                )));
            }
            if **name == *"_id" {
                return Err(invalid(&format!("'{option}' cannot be \"_id\"")));
            }
        }
        if self.meta_field.as_ref() == Some(&self.time_field) {
            return Err(invalid("'metaField' cannot be the same as 'timeField'"));
        }
        if let Some(seconds) = self.expire_after_seconds
            && !(0..=EXPIRE_SECONDS_MAX).contains(&seconds)
        {
            return Err(invalid(&format!(
                "'expireAfterSeconds' must be 0 to {EXPIRE_SECONDS_MAX}, found {seconds}"
            )));
        }
        Ok(())
    }

    /// Adds what `create` takes and `listCollections` shows.
    fn append_to(&self, options: &mut RawDocumentBuf) {
        let mut series = RawDocumentBuf::new();
        series.append(cstr!("timeField"), &*self.time_field);
        if let Some(meta) = &self.meta_field {
            series.append(cstr!("metaField"), &**meta);
        }
        for (name, value) in raw_fields(&self.span_document()) {
            series.append(name, value);
        }
        options.append(cstr!("timeseries"), series);
        if let Some(seconds) = self.expire_after_seconds {
            options.append(cstr!("expireAfterSeconds"), seconds);
        }
    }

    /// What is shown of its buckets.
    pub(crate) fn span_document(&self) -> RawDocumentBuf {
        let seconds = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let mut document = RawDocumentBuf::new();
        if let BucketSpan::Granularity(granularity) = self.span {
            document.append(cstr!("granularity"), granularity.name());
        }
        document.append(cstr!("bucketMaxSpanSeconds"), seconds(self.span.seconds()));
        if let BucketSpan::Seconds(span) = self.span {
            document.append(cstr!("bucketRoundingSeconds"), seconds(span));
        }
        document
    }

    /// Takes another span.
    ///
    /// # Errors
    /// `InvalidOptions` for one that is shorter, as in MongoDB.
    pub(crate) fn widen(&mut self, span: BucketSpan) -> Result<()> {
        if span.seconds() < self.span.seconds() {
            return Err(invalid(&match (self.span, span) {
                (BucketSpan::Granularity(_), BucketSpan::Granularity(_)) => "Invalid transition for timeseries.granularity. Can only transition from 'seconds' to 'minutes' or 'minutes' to 'hours'.".to_owned(),
                (old, new) => format!(
                    "the span of a time series can only grow: it is {} seconds, and {} are asked for",
                    old.seconds(),
                    new.seconds()
                ),
            }));
        }
        self.span = span;
        Ok(())
    }

    /// The index that a new one with a `metaField` gets: MongoDB's on that and the time.
    pub(crate) fn first_index(&self) -> Option<IndexSpec> {
        let meta = self.meta_field.clone()?;
        let keys = vec![(meta, 1), (self.time_field.clone(), 1)];
        Some(IndexSpec {
            name: default_index_name(&keys),
            keys,
            ..IndexSpec::default()
        })
    }
}

/// Adds the options of a time series to those of its collection.
pub(crate) fn append_options(series: Option<&TimeSeries>, options: &mut RawDocumentBuf) {
    if let Some(series) = series {
        series.append_to(options);
    }
}

/// Checks the options of a collection that is made as a time series or is one.
///
/// # Errors
/// `InvalidOptions` for others that it can't have.
pub(crate) fn check_options(ns: &Namespace, options: &CollectionOptions) -> Result<()> {
    let Some(series) = &options.time_series else {
        return Ok(());
    };
    series.check()?;
    let others = [
        ("capped", options.capped.is_some()),
        ("clusteredIndex", options.clustered.is_some()),
        ("validator", options.validator.is_some()),
        ("validationLevel", options.validation_level != Default::default()),
        (
            "validationAction",
            options.validation_action != Default::default(),
        ),
        ("changeStreamPreAndPostImages", options.images),
    ];
    match others.iter().find(|(_, there)| *there) {
        Some((other, _)) => Err(invalid(&format!(
            "{ns}: 'timeseries' is not allowed with '{other}'"
        ))),
        None => Ok(()),
    }
}

/// Checks an index that is asked for.
///
/// # Errors
/// `InvalidOptions` for what MongoDB has no time series have.
pub(crate) fn check_index(series: &TimeSeries, spec: &IndexSpec) -> Result<()> {
    if spec.unique {
        return Err(invalid(
            "Unique indexes are not supported on time-series collections",
        ));
    }
    if matches!(spec.kind, IndexKind::Plane(_)) {
        return Err(invalid("2d indexes are not supported on time-series collections"));
    }
    let of_time = matches!(spec.keys.as_slice(), [(path, _)] if *path == series.time_field);
    if spec.expire_after_seconds.is_some() && !(of_time && spec.partial_filter.is_some()) {
        return Err(invalid(
            "a TTL index of a time-series collection is on its timeField and has a partialFilterExpression; for all of it there is the collection's own 'expireAfterSeconds'",
        ));
    }
    Ok(())
}

/// What the keys of all documents of a moment have after the collection's prefix.
fn moment(series: &TimeSeries, document: &RawDocument) -> Result<Vec<u8>> {
    let time = field(document, &series.time_field);
    let Some(time @ RawBsonRef::DateTime(_)) = time else {
        let message = format!(
            "'{}' must be present and contain a valid BSON UTC datetime value",
            series.time_field
        );
        return Err(Error::new(Code::BadValue, message));
    };
    let mut key = Vec::with_capacity(16);
    keycode::encode(&mut key, time, false);
    Ok(key)
}

/// A new place for a document: what its key has after the collection's prefix.
///
/// # Errors
/// `BadValue` for a document without a time; the store's.
pub(crate) fn place(
    kv: &dyn KvWrite,
    collection: &Collection,
    series: &TimeSeries,
    document: &RawDocument,
) -> Result<Vec<u8>> {
    let mut place = moment(series, document)?;
    let from = [collection.prefix(), place.clone()].concat();
    let to = successor(&from).unwrap_or_default();
    let mut last = None;
    kv.scan(
        Range::half_open(&from, &to),
        Direction::Backward,
        &mut |key, _| {
            last = key.last_chunk::<NUMBER_BYTES>().copied();
            ControlFlow::Break(())
        },
    )?;
    let number = match last {
        None => 0,
        Some(last) => u32::from_be_bytes(last).checked_add(1).ok_or_else(|| {
            Error::new(
                Code::BadValue,
                "a time series has room for 2^32 documents of one millisecond",
            )
        })?,
    };
    place.extend_from_slice(&number.to_be_bytes());
    Ok(place)
}

/// The place of a document that was read: of two that are the same, the first.
///
/// # Errors
/// The store's, and when it is not there.
pub(crate) fn place_of(
    kv: &dyn KvRead,
    collection: &Collection,
    series: &TimeSeries,
    document: &RawDocument,
) -> Result<Vec<u8>> {
    let prefix = collection.prefix();
    let from = [prefix.clone(), moment(series, document)?].concat();
    let to = successor(&from).unwrap_or_default();
    let mut found = None;
    kv.scan(
        Range::half_open(&from, &to),
        Direction::Forward,
        &mut |key, value| {
            if value == document.as_bytes() {
                found = key.get(prefix.len()..).map(<[u8]>::to_vec);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    )?;
    found.ok_or_else(|| Error::new(Code::InternalError, "a document of a time series has no place"))
}

/// Whether a document may be at a place.
pub(crate) fn is_place_of(series: &TimeSeries, document: &RawDocument, place: &[u8]) -> bool {
    let moment = moment(series, document).ok();
    moment.is_some_and(|moment| place.starts_with(&moment) && place.len() == moment.len() + NUMBER_BYTES)
}

/// The places of up to `most` documents that are not later than `last`.
pub(crate) fn until(
    kv: &dyn KvRead,
    collection_id: u32,
    last: bson::DateTime,
    most: usize,
) -> Result<Vec<Vec<u8>>> {
    let prefix = document_prefix(collection_id);
    let mut key = prefix.clone();
    keycode::encode(&mut key, RawBsonRef::DateTime(last), false);
    let to = successor(&key).unwrap_or_default();
    let mut places = Vec::new();
    if most == 0 {
        return Ok(places);
    }
    kv.scan(
        Range::half_open(&prefix, &to),
        Direction::Forward,
        &mut |key, _| {
            places.extend(key.get(prefix.len()..).map(<[u8]>::to_vec));
            if places.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    Ok(places)
}

/// Checks an update of measurements: MongoDB has all that match changed, by operators, told apart and changed by their
/// `metaField` only.
///
/// # Errors
/// `InvalidOptions`.
pub(crate) fn check_update(
    series: &TimeSeries,
    filter: &Filter,
    update: &Update,
    (multi, upsert): (bool, bool),
) -> Result<()> {
    let Some(meta) = &series.meta_field else {
        return Err(invalid(
            "Cannot perform an update on a time-series collection that has no metaField",
        ));
    };
    if !multi {
        return Err(invalid(
            "Cannot perform a non-multi update on a time-series collection",
        ));
    }
    if upsert {
        return Err(invalid("Cannot perform an upsert on a time-series collection"));
    }
    let Some(changed) = update.fields() else {
        return Err(invalid(
            "Cannot perform an update on a time-series collection by a replacement document or a pipeline",
        ));
    };
    if let Some(other) = changed.iter().find(|changed| **changed != &**meta) {
        return Err(invalid(&format!(
            "Cannot perform an update on a time-series collection that modifies {other:?}, which is not the metaField {meta:?}"
        )));
    }
    let mut asked = Vec::new();
    let told = filter.fields(&mut asked);
    if !told || asked.iter().any(|asked| *asked != &**meta) {
        return Err(invalid(&format!(
            "Cannot perform an update on a time-series collection that queries on a field other than the metaField {meta:?}"
        )));
    }
    Ok(())
}

/// Checks that what only collections of single documents can take is not asked of a time series.
///
/// # Errors
/// `InvalidOptions` that says what it was.
pub(crate) fn refuse(collection: &Collection, ns: &Namespace, what: &str) -> Result<()> {
    match collection.time_series {
        Some(_) => Err(invalid(&format!(
            "{what} is not supported on the time-series collection {ns}"
        ))),
        None => Ok(()),
    }
}

/// The index of a number and a specification, for a collection that has no documents yet.
pub(crate) fn empty_index(id: u32, mut spec: IndexSpec, collection: &Collection) -> Result<Arc<Index>> {
    spec.collation = collection.collation_document();
    Index::new(id, spec, 0).map(Arc::new)
}

fn invalid(message: &str) -> Error {
    Error::new(Code::InvalidOptions, message)
}

fn unknown(command: &str, option: &str) -> Error {
    let message = format!("BSON field '{command}.timeseries.{option}' is an unknown field.");
    Error::new(Code::Location(40_415), message)
}

fn mistyped(name: &str, wanted: &str, value: RawBsonRef<'_>) -> Error {
    let message = format!("BSON field '{name}' must be {wanted}, found {}", shown(value));
    Error::new(Code::TypeMismatch, message)
}
