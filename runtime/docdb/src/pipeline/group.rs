//! `$group` and `$bucketAuto`.

use std::borrow::Cow;
use std::collections::HashMap;

use bson::raw::{CString, cstr};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::run::DOCUMENTS_PER_CHECK;
use super::{check_held, check_made};
use crate::expression::{Accumulation, Accumulator, Env, Expr, Runtime, Scope, location};
use crate::spill::{Bounds, Sorted, Sorter};
use crate::value::{as_whole, field, fields, raw_fields, type_name};
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

    pub(super) fn start(&self, bytes_max: usize) -> Groups<'_> {
        Groups {
            group: self,
            bytes_max,
            places: HashMap::new(),
            rows: Vec::new(),
            bytes: 0,
            spilled: None,
            closed: false,
        }
    }

    /// A group about to begin.
    fn states(&self) -> Vec<Accumulator> {
        self.fields.iter().map(|(_, field)| field.start()).collect()
    }

    /// Feeds a document to its group. Returns how many bytes more are held, about.
    fn feed(&self, states: &mut [Accumulator], doc: &RawDocument, runtime: &Runtime) -> Result<usize> {
        let mut bytes = 0;
        for ((_, field), state) in self.fields.iter().zip(states) {
            bytes += field.feed(state, doc, runtime)?;
        }
        Ok(bytes)
    }

    fn document(&self, id: RawBson, states: Vec<Accumulator>) -> Result<RawDocumentBuf> {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), id);
        for ((name, _), state) in self.fields.iter().zip(states) {
            out.append(name, state.result());
        }
        check_made(&out).map(|()| out)
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

/// The groups so far, in the order in which they came up. When they are more than memory may hold, the documents of
/// further groups go to disk, sorted by group; when those in memory go on growing, so do their further documents. Each
/// group's documents are fed in the order in which they came, those from disk after those that came before them.
pub(super) struct Groups<'g> {
    group: &'g Group,
    bytes_max: usize,
    places: HashMap<Vec<u8>, usize>,
    rows: Vec<(RawBson, Vec<Accumulator>)>,
    bytes: usize,
    /// Documents of groups that are not in memory.
    spilled: Option<Sorter>,
    /// Whether those of groups in memory go there too.
    closed: bool,
}

impl<'g> Groups<'g> {
    /// # Errors
    /// Those of the expressions, and when memory is full and the command may not use the disk.
    pub(super) fn add(&mut self, doc: Cow<'_, RawDocument>, runtime: &Runtime) -> Result<()> {
        let id = self.group.id.eval(&mut Env::new(&doc, runtime))?;
        let mut key = Vec::new();
        // A missing id is the group of null.
        match runtime.collation() {
            None => keycode::encode(&mut key, id.or_null(), false),
            Some(collation) => keycode::encode_text(&mut key, id.or_null(), false, collation.as_ref()),
        }
        let place = match self.places.get(&key) {
            Some(place) if !self.closed => *place,
            None if self.spilled.is_none() => {
                self.bytes += key.len() * 2 + GROUP_BYTES * (1 + self.group.fields.len());
                let id = id.into_raw().unwrap_or(RawBson::Null);
                self.rows.push((id, self.group.states()));
                self.places.insert(key, self.rows.len() - 1);
                self.rows.len() - 1
            }
            _ => {
                drop(id);
                let Some(sorter) = &mut self.spilled else {
                    return Err(Error::new(Code::InternalError, "a group is nowhere"));
                };
                return sorter.push(key, doc.into_owned(), runtime);
            }
        };
        self.bytes += self.group.feed(&mut self.rows[place].1, &doc, runtime)?;
        if self.bytes > self.bytes_max {
            if runtime.disk().is_none() {
                return check_held(self.bytes, "$group", self.bytes_max);
            }
            // Beside the groups in memory: a quarter of what they have, for them and for the documents of others.
            let more = self.bytes_max / 4;
            let bounds = Bounds {
                bytes_max: more,
                limit: "aggregate_bytes_max",
                holder: "$group",
            };
            self.spilled.get_or_insert_with(|| Sorter::new(bounds, None));
            self.closed = self.bytes > self.bytes_max + more;
        }
        Ok(())
    }

    /// Whether there were more than memory may hold.
    pub(super) fn used_disk(&self) -> bool {
        self.spilled.as_ref().is_some_and(Sorter::used_disk)
    }

    /// All groups; there are none afterwards.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn finish(&mut self, runtime: &Runtime) -> Result<Grouped<'g>> {
        let spilled = self.spilled.as_mut();
        let rows = std::mem::take(&mut self.rows).into_iter();
        Ok(Grouped {
            group: self.group,
            bytes_max: self.bytes_max,
            places: std::mem::take(&mut self.places),
            rest: spilled.map(|sorter| sorter.finish(runtime)).transpose()?,
            rows: rows.map(Some).collect::<Vec<_>>(),
            next: 0,
        })
    }
}

/// Groups to be handed on: those with documents on disk first, by their ids, then the others, as they came up.
pub(super) struct Grouped<'g> {
    group: &'g Group,
    bytes_max: usize,
    places: HashMap<Vec<u8>, usize>,
    /// Emptied as they are handed on.
    rows: Vec<Option<(RawBson, Vec<Accumulator>)>>,
    /// The first of them that may be there.
    next: usize,
    rest: Option<Sorted>,
}

impl Grouped<'_> {
    /// The next group's document.
    ///
    /// # Errors
    /// Those of the expressions and of the disk, a group that alone is more than memory may hold, and a document that
    /// is too large.
    pub(super) fn next(&mut self, runtime: &Runtime) -> Result<Option<RawDocumentBuf>> {
        if let Some(rest) = &mut self.rest {
            if let Some((key, doc)) = rest.next()? {
                return self.on_disk(&key, doc, runtime).map(Some);
            }
            self.rest = None;
        }
        while let Some(row) = self.rows.get_mut(self.next) {
            self.next += 1;
            if let Some((id, states)) = row.take() {
                return self.group.document(id, states).map(Some);
            }
        }
        Ok(None)
    }

    /// The document of the group that begins, on disk, with `doc`.
    fn on_disk(&mut self, key: &[u8], doc: RawDocumentBuf, runtime: &Runtime) -> Result<RawDocumentBuf> {
        let place = self.places.get(key);
        let (id, mut states) = match place.and_then(|place| self.rows[*place].take()) {
            Some(row) => row,
            None => {
                let id = self.group.id.eval(&mut Env::new(&doc, runtime))?;
                (id.into_raw().unwrap_or(RawBson::Null), self.group.states())
            }
        };
        let mut bytes = self.group.feed(&mut states, &doc, runtime)?;
        let mut documents = 1_u64;
        while let Some(rest) = &mut self.rest
            && let Some(row) = rest.next()?
        {
            if row.0 != key {
                rest.put_back(row);
                break;
            }
            bytes += self.group.feed(&mut states, &row.1, runtime)?;
            check_held(bytes, "one group of $group", self.bytes_max)?;
            documents += 1;
            if documents.is_multiple_of(DOCUMENTS_PER_CHECK) {
                runtime.check()?;
            }
        }
        self.group.document(id, states)
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

    fn value_of(&self, doc: &RawDocument, runtime: &Runtime) -> Result<RawBson> {
        let value = self.by.eval(&mut Env::new(doc, runtime))?;
        Ok(value.into_raw().unwrap_or(RawBson::Null))
    }

    /// What a document is sorted by.
    ///
    /// # Errors
    /// Those of the expression.
    pub(super) fn key_of(&self, doc: &RawDocument, runtime: &Runtime) -> Result<Vec<u8>> {
        let mut key = Vec::new();
        keycode::encode(&mut key, self.value_of(doc, runtime)?.as_raw_bson_ref(), false);
        Ok(key)
    }

    /// The buckets of all documents, which are `count`.
    ///
    /// # Errors
    /// Those of the expressions and of the disk, and a bucket that is too large.
    pub(super) fn divide(
        &self,
        mut rows: Sorted,
        count: usize,
        runtime: &Runtime,
    ) -> Result<Vec<RawDocumentBuf>> {
        let size = ((count as f64 / self.buckets as f64).round() as usize).max(1);
        let mut out = Vec::new();
        while let Some((mut last_key, first)) = rows.next()? {
            let min = self.value_of(&first, runtime)?;
            let mut states: Vec<Accumulator> = self.fields.iter().map(|(_, field)| field.start()).collect();
            let mut feed = |doc: &RawDocument| -> Result<()> {
                for ((_, field), state) in self.fields.iter().zip(&mut states) {
                    field.feed(state, doc, runtime)?;
                }
                Ok(())
            };
            feed(&first)?;
            // The last one takes what is left; equal values are never apart.
            let all = out.len() + 1 == self.buckets;
            let (mut fed, mut last) = (1_usize, first);
            let mut after = None;
            while let Some((key, doc)) = rows.next()? {
                if !all && fed >= size && key != last_key {
                    after = Some(self.value_of(&doc, runtime)?);
                    rows.put_back((key, doc));
                    break;
                }
                feed(&doc)?;
                fed += 1;
                if (fed as u64).is_multiple_of(DOCUMENTS_PER_CHECK) {
                    runtime.check()?;
                }
                (last_key, last) = (key, doc);
            }
            let max = match after {
                Some(after) => after,
                None => self.value_of(&last, runtime)?,
            };
            let mut bounds = RawDocumentBuf::new();
            bounds.append(cstr!("min"), min);
            bounds.append(cstr!("max"), max);
            let mut bucket = RawDocumentBuf::new();
            bucket.append(cstr!("_id"), bounds);
            for ((name, _), state) in self.fields.iter().zip(states) {
                bucket.append(name, state.result());
            }
            check_made(&bucket)?;
            out.push(bucket);
        }
        Ok(out)
    }
}
