//! `$geoNear`: the collection's documents in the order of their distance, each with that distance in a field. The query
//! has the order; the stage, which looks at one document at a time, writes the fields.

use std::sync::OnceLock;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::{check_made, with_path};
use crate::catalog::Collection;
use crate::expression::{Scope, field_path, location};
use crate::geo::{self, Near};
use crate::index::{Entered, Index};
use crate::path::Path;
use crate::query::Filter;
use crate::value::{fields, is_number, is_true, shown, type_name};
use crate::{Code, Error, Result};

/// What the stage asks, and where it puts the answers.
#[derive(Debug)]
pub(crate) struct GeoNear {
    pub(crate) near: Near,
    /// The field with the places, as far as it was named.
    key: Option<Path>,
    /// That field, once the collection was looked at.
    found: OnceLock<Path>,
    distance: Box<[Box<str>]>,
    factor: f64,
    place: Option<Box<[Box<str>]>>,
}

fn mistyped(option: &str, wanted: &str, v: RawBsonRef<'_>) -> Error {
    let message = format!(
        "$geoNear requires that '{option}' is {wanted}, found {}",
        type_name(v)
    );
    Error::new(Code::TypeMismatch, message)
}

impl GeoNear {
    /// The stage, and which documents it is about.
    ///
    /// # Errors
    /// When the argument is malformed.
    pub(super) fn parse(v: RawBsonRef<'_>, scope: &Scope) -> Result<(GeoNear, Filter)> {
        let options = v.as_document().ok_or_else(|| {
            let message = format!(
                "the $geoNear specification must be an object, found {}",
                type_name(v)
            );
            Error::new(Code::TypeMismatch, message)
        })?;
        let (mut at, mut distance, mut place, mut key) = (None, None, None, None);
        let (mut from, mut to, mut factor) = (None, None, 1.0);
        let mut spherical = false;
        let mut filter = Filter::AlwaysTrue;
        for (option, v) in fields(options) {
            let text = || v.as_str().ok_or_else(|| mistyped(option, "a string", v));
            let number = || {
                let number = Some(v).filter(|v| is_number(*v));
                number.ok_or_else(|| mistyped(option, "a number", v))
            };
            match option {
                "near" => at = Some(v),
                "distanceField" => distance = Some(field_path(text()?)?),
                "includeLocs" => place = Some(field_path(text()?)?),
                "key" if text()?.is_empty() => {
                    return Err(Error::new(
                        Code::BadValue,
                        "$geoNear 'key' can't be an empty string",
                    ));
                }
                "key" => key = Some(Path::parse(text()?)?),
                "minDistance" => from = Some(geo::length(option, number()?)?),
                "maxDistance" => to = Some(geo::length(option, number()?)?),
                "distanceMultiplier" => factor = geo::length(option, number()?)?,
                "spherical" => spherical = is_true(v),
                "query" => {
                    let query = v.as_document().ok_or_else(|| mistyped(option, "an object", v))?;
                    filter = Filter::parse_in(query, scope)?;
                }
                // It has meant nothing since MongoDB 2.6.
                "uniqueDocs" => {}
                option => {
                    let message = format!(
                        "BSON field '$geoNear.{option}' is an unknown field, with {}",
                        shown(v)
                    );
                    return Err(location(40_415, message));
                }
            }
        }
        let at = at.ok_or_else(|| location(5_860_400, "$geoNear requires a 'near' argument"))?;
        if !matches!(at, RawBsonRef::Array(_) | RawBsonRef::Document(_)) {
            return Err(location(
                5_860_402,
                format!(
                    "$geoNear requires near argument to be an object or an array, found {}",
                    type_name(at)
                ),
            ));
        }
        let distance = distance
            .ok_or_else(|| location(16_605, "$geoNear requires a 'distanceField' option as a String"))?;
        let stage = GeoNear {
            near: Near::of_stage(at, spherical, from, to)?,
            key,
            found: OnceLock::new(),
            distance,
            factor,
            place,
        };
        Ok((stage, filter))
    }

    /// The field with the places: the one that was named, or the only one that an index has which can serve it.
    ///
    /// # Errors
    /// `IndexNotFound` when that can't be told.
    pub(crate) fn path(&self, collection: &Collection) -> Result<Path> {
        let path = match &self.key {
            Some(key) => key.clone(),
            None => only_place(collection, &self.near)?,
        };
        Ok(self.found.get_or_init(|| path).clone())
    }

    /// The document with its distance, and with the place that is so near.
    pub(super) fn apply_to(&self, doc: &RawDocument) -> Result<Option<RawDocumentBuf>> {
        let nearest = self.found.get().and_then(|path| self.near.nearest(doc, path));
        let Some((angle, place)) = nearest else {
            return Ok(None);
        };
        let away = self.near.in_unit(angle) * self.factor;
        let mut made = with_path(doc, &self.distance, Some(RawBsonRef::Double(away)))?;
        if let Some(path) = &self.place {
            made = with_path(&made, path, Some(place))?;
        }
        check_made(&made).map(|()| Some(made))
    }
}

fn only_place(collection: &Collection, near: &Near) -> Result<Path> {
    let none = |message: &str| Err(Error::new(Code::IndexNotFound, message));
    let can_serve = |index: &Index| match index.grid() {
        Some(_) => near.is_of_pair(),
        None => near.is_on_sphere(),
    };
    let visible = || collection.indexes.iter().filter(|index| index.is_visible());
    // Where none can, the planner says so.
    let any = visible().any(|index| index.is_of_places() && can_serve(index));
    let indexes = visible().filter(|index| !any || can_serve(index));
    let places = indexes.flat_map(|index| &index.fields);
    let mut places = places
        .filter(|field| field.entered == Entered::Cell)
        .map(|field| &field.path);
    let Some(first) = places.next() else {
        return none("$geoNear requires a 2d or 2dsphere index, but none were found");
    };
    if places.next().is_some() {
        return none("There is more than one 2dsphere or 2d index; unsure which to use for $geoNear");
    }
    Ok(first.clone())
}
