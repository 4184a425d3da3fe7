//! `$group` and `$bucketAuto`.

use std::collections::HashMap;

use bson::raw::{CString, cstr};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::{check_held, check_made};
use crate::expression::{Accumulation, Accumulator, Env, Expr, Runtime, Scope, location};
use crate::value::{as_whole, compare, field, fields, raw_fields, type_name};
use crate::{Code, Error, Result, keycode};

/// What an entry of the table of groups takes beside its key and values, about.
const GROUP_BYTES: usize = 128;

/// `$group`.
#[derive(Debug)]
pub(crate) struct Group {
    id: Expr,
    fields: Vec<(CString, Accumulation)>,
}

impl Group {
    pub(super) fn parse(v: RawBsonRef<'_>, scope: &Scope) -> Result<Group> {
        let RawBsonRef::Document(doc) = v else {
            return Err(location(
                15_947,
                "a group's fields must be specified in an object",
            ));
        };
        let mut id = None;
        let mut accumulations = Vec::new();
        for (name, v) in raw_fields(doc) {
            if name.as_str() == "_id" {
                if id.replace(Expr::parse(v, scope)?).is_some() {
                    return Err(location(15_948, "a group's _id may only be specified once"));
                }
                continue;
            }
            accumulations.push((name.to_owned(), accumulation(name.as_str(), v, scope)?));
        }
        let id = id.ok_or_else(|| location(15_955, "a group specification must include an _id"))?;
        Ok(Group {
            id,
            fields: accumulations,
        })
    }

    pub(super) fn start(&self) -> Groups<'_> {
        Groups {
            group: self,
            places: HashMap::new(),
            rows: Vec::new(),
            bytes: 0,
        }
    }
}

/// `{$sum: ..}` for the field `name`.
pub(super) fn accumulation(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Accumulation> {
    if name.contains('.') {
        return Err(location(
            40_235,
            format!("The field name '{name}' cannot contain '.'"),
        ));
    }
    if name.starts_with('$') {
        return Err(location(
            40_236,
            format!("The field name '{name}' cannot be an operator name"),
        ));
    }
    let RawBsonRef::Document(doc) = v else {
        return Err(location(
            40_234,
            format!("The field '{name}' must be an accumulator object"),
        ));
    };
    let mut all = fields(doc);
    let (Some((operator, argument)), None) = (all.next(), all.next()) else {
        return Err(location(
            40_238,
            format!("The field '{name}' must specify one accumulator"),
        ));
    };
    if !operator.starts_with('$') {
        return Err(location(
            40_234,
            format!("The field '{name}' must be an accumulator object"),
        ));
    }
    Accumulation::parse(operator, argument, scope)?
        .ok_or_else(|| location(15_952, format!("unknown group operator '{operator}'")))
}

/// The groups so far, in the order in which they came up.
pub(super) struct Groups<'g> {
    group: &'g Group,
    places: HashMap<Vec<u8>, usize>,
    rows: Vec<(RawBson, Vec<Accumulator>)>,
    bytes: usize,
}

impl Groups<'_> {
    pub(super) fn add(&mut self, doc: &RawDocument, runtime: &Runtime, bytes_max: usize) -> Result<()> {
        let id = self.group.id.eval(&mut Env::new(doc, runtime))?;
        let mut key = Vec::new();
        // A missing id is the group of null.
        match runtime.collation() {
            None => keycode::encode(&mut key, id.or_null(), false),
            Some(collation) => keycode::encode_text(&mut key, id.or_null(), false, collation.as_ref()),
        }
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => {
                self.bytes += key.len() * 2 + GROUP_BYTES * (1 + self.group.fields.len());
                let start = self.group.fields.iter().map(|(_, field)| field.start());
                self.rows
                    .push((id.into_raw().unwrap_or(RawBson::Null), start.collect()));
                self.places.insert(key, self.rows.len() - 1);
                self.rows.len() - 1
            }
        };
        for ((_, field), state) in self.group.fields.iter().zip(&mut self.rows[place].1) {
            self.bytes += field.feed(state, doc, runtime)?;
        }
        check_held(self.bytes, "$group", bytes_max)
    }

    pub(super) fn into_documents(self) -> impl Iterator<Item = Result<RawDocumentBuf>> {
        let names: Vec<CString> = self.group.fields.iter().map(|(name, _)| name.clone()).collect();
        self.rows.into_iter().map(move |(id, states)| {
            let mut out = RawDocumentBuf::new();
            out.append(cstr!("_id"), id);
            for (name, state) in names.iter().zip(states) {
                out.append(name, state.result());
            }
            check_made(&out).map(|()| out)
        })
    }
}

/// `$bucketAuto`: groups of neighbours, of about the same size.
#[derive(Debug)]
pub(crate) struct BucketAuto {
    by: Expr,
    buckets: usize,
    fields: Vec<(CString, Accumulation)>,
}

impl BucketAuto {
    pub(super) fn parse(v: RawBsonRef<'_>, scope: &Scope) -> Result<BucketAuto> {
        let RawBsonRef::Document(doc) = v else {
            return Err(location(40_240, "the argument to $bucketAuto must be an object"));
        };
        for (option, _) in fields(doc) {
            if option == "granularity" {
                let message = "the 'granularity' of $bucketAuto is not supported";
                return Err(Error::new(Code::CommandNotSupported, message));
            }
            if !matches!(option, "groupBy" | "buckets" | "output") {
                return Err(location(
                    40_245,
                    format!("unrecognized option to $bucketAuto: {option}"),
                ));
            }
        }
        let (Some(by), Some(buckets)) = (field(doc, "groupBy"), field(doc, "buckets")) else {
            return Err(location(
                40_246,
                "$bucketAuto requires 'groupBy' and 'buckets' to be specified",
            ));
        };
        let buckets = as_whole(buckets).filter(|_| crate::value::is_number(buckets));
        let buckets = buckets
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count > 0);
        let buckets = buckets
            .ok_or_else(|| location(40_243, "the $bucketAuto 'buckets' field must be greater than 0"))?;
        let mut accumulations = Vec::new();
        match field(doc, "output") {
            None => {
                let count = bson::rawdoc! { "$sum": 1 };
                let count = accumulation("count", RawBsonRef::Document(&count), scope)?;
                accumulations.push((cstr!("count").to_owned(), count));
            }
            Some(RawBsonRef::Document(output)) => {
                for (name, v) in raw_fields(output) {
                    accumulations.push((name.to_owned(), accumulation(name.as_str(), v, scope)?));
                }
            }
            Some(v) => {
                let message = format!(
                    "the $bucketAuto 'output' field must be an object, found {}",
                    type_name(v)
                );
                return Err(location(40_244, message));
            }
        }
        Ok(BucketAuto {
            by: Expr::parse(by, scope)?,
            buckets,
            fields: accumulations,
        })
    }

    /// The value that a document is sorted by.
    pub(super) fn value_of(&self, doc: &RawDocument, runtime: &Runtime) -> Result<RawBson> {
        let value = self.by.eval(&mut Env::new(doc, runtime))?;
        Ok(value.into_raw().unwrap_or(RawBson::Null))
    }

    /// The buckets of all documents.
    pub(super) fn divide(
        &self,
        mut rows: Vec<(RawBson, RawDocumentBuf)>,
        runtime: &Runtime,
    ) -> Result<Vec<RawDocumentBuf>> {
        rows.sort_by(|a, b| compare(a.0.as_raw_bson_ref(), b.0.as_raw_bson_ref()));
        let same = |a: &RawBson, b: &RawBson| compare(a.as_raw_bson_ref(), b.as_raw_bson_ref()).is_eq();
        let size = ((rows.len() as f64 / self.buckets as f64).round() as usize).max(1);
        let mut out = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            // The last one takes what is left; equal values are never apart.
            let mut end = if out.len() + 1 == self.buckets {
                rows.len()
            } else {
                (start + size).min(rows.len())
            };
            while end < rows.len() && same(&rows[end - 1].0, &rows[end].0) {
                end += 1;
            }
            let mut states: Vec<Accumulator> = self.fields.iter().map(|(_, field)| field.start()).collect();
            for (_, doc) in &rows[start..end] {
                for ((_, field), state) in self.fields.iter().zip(&mut states) {
                    field.feed(state, doc, runtime)?;
                }
            }
            let mut bounds = RawDocumentBuf::new();
            bounds.append(cstr!("min"), rows[start].0.as_raw_bson_ref());
            let max = rows
                .get(end)
                .or(rows.last())
                .map_or(RawBsonRef::Null, |(v, _)| v.as_raw_bson_ref());
            bounds.append(cstr!("max"), max);
            let mut bucket = RawDocumentBuf::new();
            bucket.append(cstr!("_id"), bounds);
            for ((name, _), state) in self.fields.iter().zip(states) {
                bucket.append(name, state.result());
            }
            check_made(&bucket)?;
            out.push(bucket);
            start = end;
        }
        Ok(out)
    }
}
