//! Documents in bulk over HTTP, for `db import` and `db export`: a batch of them is written, or the page after an
//! `_id` read, in one request. Nothing is held between two requests: neither a transaction nor a cursor.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bson::raw::cstr;
use bson::{DateTime, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use cloudlet_data::formats::{DocumentReader, Encoding, parse_document};
use cloudlet_data::{
    Documents, Find, Insert, Namespace, Page, Session, Update, UpdateOne, WriteError, compare_values,
    pipeline_update,
};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::{Request, invalid, ok};
use crate::front::body::Body;
use crate::front::respond::{self, Failure};

/// Largest batch to import.
const IMPORT_BYTES_MAX: u64 = 48 << 20;
/// Most documents in one batch to import.
const IMPORT_DOCUMENTS_MAX: usize = 10_000;
/// Documents of a batch whose failures are told one by one; of the others the number is told.
const ERRORS_TOLD_MAX: usize = 1000;
/// Largest request for a page: it has a filter.
const EXPORT_BYTES_MAX: u64 = 1 << 20;
/// Most documents in one page; the engine's limit of bytes holds as well.
const EXPORT_DOCUMENTS_MAX: u32 = 2000;

/// Where the next page begins, of collections that have an order of their own.
pub(crate) const PLACE: &str = "cloudlet-place";

/// Media type of BSON documents one after the other.
const BSON: HeaderValue = HeaderValue::from_static("application/bson");

/// What becomes of a document whose `_id` is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is an error.
    Insert,
    /// It is replaced.
    Upsert,
    /// It gets the fields of the new one.
    Merge,
}

/// `POST .../import?mode=&ordered=&again=&bypass=`: a batch of BSON documents, or of JSON ones by its content type.
pub(super) async fn import(
    request: Request<'_>,
    session: &Session,
    collection: &str,
    order: &Order,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let mode = match request.query("mode")?.as_deref() {
        None | Some("insert") => Mode::Insert,
        Some("upsert") => Mode::Upsert,
        Some("merge") => Mode::Merge,
        Some(other) => {
            return Err(invalid(format!(
                "unknown mode {other:?}; known: insert, upsert, merge"
            )));
        }
    };
    let ordered = request.query("ordered")?.as_deref() == Some("1");
    let again = request.query("again")?.as_deref() == Some("1");
    let bypass_validation = request.query("bypass")?.as_deref() == Some("1");
    if let (Order::Times(_), Mode::Upsert | Mode::Merge) = (order, mode) {
        return Err(invalid(format!(
            "collection {collection:?} is a time series, whose documents may share an _id; import to it with the mode insert"
        )));
    }
    let content_type = request.parts.headers.get(CONTENT_TYPE);
    let json = content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    let mut body = request.body;
    body.limit(IMPORT_BYTES_MAX);
    let bytes = body.collect().await?;
    let mut batch = read_batch(&bytes, if json { Encoding::Json } else { Encoding::Bson })?;
    drop(bytes);
    let mut already = 0;
    if again && mode == Mode::Insert {
        let before = batch.len();
        if let Order::Times(time_field) = order {
            let mut there =
                same_measurements(session, collection, time_field, &batch, deadline.clone()).await?;
            batch.retain(|(_, document)| match there.get_mut(&id_first(document)) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                _ => true,
            });
        } else {
            let there = same_ids(session, collection, &batch, deadline.clone()).await?;
            batch.retain(|(_, document)| {
                let stored = id_key(document).and_then(|id| there.get(&id));
                !stored.is_some_and(|stored| is_same(stored, document))
            });
        }
        already = before - batch.len();
    }
    let places: Vec<usize> = batch.iter().map(|(place, _)| *place).collect();
    let documents = batch.into_iter().map(|(_, document)| document);
    let (mut inserted, mut matched, mut modified) = (0, 0, 0);
    let errors = if places.is_empty() {
        Vec::new()
    } else if mode == Mode::Insert {
        let insert = Insert {
            documents: documents.collect(),
            ordered,
            bypass_validation,
        };
        let done = session.insert(collection, insert, deadline).await?;
        inserted = done.ids.len();
        done.errors
    } else {
        let statements = documents.map(|document| statement(&document, mode));
        let update = Update {
            statements: statements.collect::<Result<_, _>>()?,
            ordered,
            bypass_validation,
        };
        let done = session.update(collection, update, deadline).await?;
        (inserted, matched, modified) = (done.upserted.len(), done.matched, done.modified);
        done.errors
    };
    // What stopped the node is no mistake of a document's.
    if let Some(place) = errors.iter().position(|error| !is_the_documents(error)) {
        let mut errors = errors;
        return Err(errors.swap_remove(place).error.into());
    }
    let told: Vec<Value> = errors
        .iter()
        .take(ERRORS_TOLD_MAX)
        .map(|failed| {
            json!({
                "index": places.get(failed.index),
                "code": failed.error.code().number(),
                "message": failed.error.to_string(),
            })
        })
        .collect();
    Ok(ok(&json!({
        "inserted": inserted,
        "matched": matched,
        "modified": modified,
        "already": already,
        "failed": errors.len(),
        "errors": told,
    })))
}

/// Whether a failure is about one document, so that others may go on.
fn is_the_documents(failed: &WriteError) -> bool {
    use cloudlet_base::Fault::{Conflict, Invalid, Limit, NotFound};
    matches!(failed.error.kind(), Conflict | Invalid | Limit | NotFound)
}

/// The documents of a batch with their places in it.
fn read_batch(bytes: &[u8], encoding: Encoding) -> Result<Vec<(usize, RawDocumentBuf)>, Failure> {
    let mut reader = DocumentReader::new(bytes, encoding);
    let mut batch = Vec::new();
    while let Some(stored) = reader.read().map_err(invalid)? {
        if batch.len() == IMPORT_DOCUMENTS_MAX {
            return Err(Failure::new(
                cloudlet_base::Fault::Limit,
                format!("a batch has {IMPORT_DOCUMENTS_MAX} documents at most"),
            ));
        }
        batch.push((batch.len(), stored.document));
    }
    match batch.is_empty() {
        true => Err(invalid("there are no documents to import")),
        false => Ok(batch),
    }
}

/// The stored documents that have the `_id` of one of the batch, by [`id_key`].
async fn same_ids(
    session: &Session,
    collection: &str,
    batch: &[(usize, RawDocumentBuf)],
    deadline: cloudlet_base::Deadline,
) -> Result<HashMap<Vec<u8>, RawDocumentBuf>, Failure> {
    let mut ids = RawArrayBuf::new();
    for id in batch.iter().filter_map(|(_, document)| id_of(document)) {
        // A regular expression would be matched against strings, and is no `_id` anyway.
        if !matches!(id, RawBsonRef::RegularExpression(_)) {
            ids.push(id);
        }
    }
    let find = Find {
        filter: rawdoc! { "_id": { "$in": ids } },
        ..Find::default()
    };
    let mut there = HashMap::new();
    let mut page = session.find(collection, find, deadline.clone()).await?;
    loop {
        let documents = page.documents.into_iter();
        there.extend(documents.filter_map(|document| Some((id_key(&document)?, document))));
        let Some(cursor) = page.cursor else {
            return Ok(there);
        };
        page = session.next_page(cursor, None, deadline.clone()).await?;
    }
}

fn id_of(document: &RawDocument) -> Option<RawBsonRef<'_>> {
    document.get("_id").ok().flatten()
}

/// The bytes of an `_id`.
fn id_key(document: &RawDocument) -> Option<Vec<u8>> {
    let mut key = RawDocumentBuf::new();
    key.append(cstr!("_id"), id_of(document)?);
    Some(key.into_bytes())
}

/// Whether a stored document is the one that was sent: the engine puts `_id` first, and changes nothing else.
fn is_same(stored: &RawDocument, sent: &RawDocument) -> bool {
    id_of(sent).is_some() && id_first(stored) == id_first(sent)
}

/// What puts a document in the place of the one with its `_id`, or its fields into it.
fn statement(document: &RawDocument, mode: Mode) -> Result<UpdateOne, Failure> {
    let Some(id) = id_of(document) else {
        return Err(invalid(
            "a document has no _id; replacing and merging need one, inserting makes one",
        ));
    };
    // As a constant in a pipeline a document may have fields with any names.
    let mut literal = RawDocumentBuf::new();
    literal.append(cstr!("$literal"), document);
    let replace = match mode {
        Mode::Insert | Mode::Upsert => literal,
        Mode::Merge => {
            let mut merged = RawArrayBuf::new();
            merged.push("$$ROOT");
            merged.push(literal);
            rawdoc! { "$mergeObjects": merged }
        }
    };
    let mut same = RawDocumentBuf::new();
    same.append(cstr!("$eq"), id);
    Ok(UpdateOne {
        filter: rawdoc! { "_id": same },
        update: pipeline_update(&[rawdoc! { "$replaceWith": replace }]),
        multi: false,
        upsert: true,
        ..UpdateOne::default()
    })
}

/// How a collection's documents are told apart and put in order, by which both ways go on after a break.
pub(super) enum Order {
    /// By their `_id`s, with the name of the index on these.
    Ids(Arc<str>),
    /// As they came, by their place; no two have the same `_id`.
    Arrival,
    /// By the date in this field, by their place: they may share an `_id`.
    Times(Arc<str>),
}

/// The order of a collection; what is not there will be in that of `_id`, and anything else is told by who comes next.
pub(super) async fn order_of(documents: &dyn Documents, ns: &Namespace) -> Order {
    let options = documents.collection_options(ns).await.unwrap_or_default();
    match options.time_series {
        Some(series) => Order::Times(series.time_field),
        None if options.capped.is_some() => Order::Arrival,
        None => Order::Ids(options.clustered.unwrap_or_else(|| "_id_".into())),
    }
}

/// How often each document of a batch is in a time series, by its bytes. Only as many as the batch has are counted, and
/// the series is read between the batch's first and last moment.
async fn same_measurements(
    session: &Session,
    collection: &str,
    time_field: &str,
    batch: &[(usize, RawDocumentBuf)],
    deadline: cloudlet_base::Deadline,
) -> Result<HashMap<Vec<u8>, usize>, Failure> {
    let mut there: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut span: Option<(i64, i64)> = None;
    for (_, document) in batch {
        let Ok(Some(RawBsonRef::DateTime(time))) = document.get(time_field) else {
            continue;
        };
        let time = time.timestamp_millis();
        let (first, last) = span.unwrap_or((time, time));
        span = Some((first.min(time), last.max(time)));
        there.insert(id_first(document), 0);
    }
    let Some((first, last)) = span else {
        return Ok(there);
    };
    let mut filter = Document::new();
    let (first, last) = (DateTime::from_millis(first), DateTime::from_millis(last));
    filter.insert(time_field, doc! { "$gte": first, "$lte": last });
    let find = Find {
        filter: RawDocumentBuf::try_from(&filter).map_err(invalid)?,
        ..Find::default()
    };
    let mut page = session.find(collection, find, deadline.clone()).await?;
    loop {
        for document in &page.documents {
            if let Some(count) = there.get_mut(document.as_bytes()) {
                *count += 1;
            }
        }
        let Some(cursor) = page.cursor else {
            return Ok(there);
        };
        page = session.next_page(cursor, None, deadline.clone()).await?;
    }
}

/// A document's bytes as the engine stores it: its `_id` first.
fn id_first(document: &RawDocument) -> Vec<u8> {
    let mut stored = RawDocumentBuf::new();
    if let Some(id) = id_of(document) {
        stored.append(cstr!("_id"), id);
    }
    for (name, value) in document.iter().flatten().filter(|(name, _)| *name != "_id") {
        stored.append(name, value);
    }
    stored.into_bytes()
}

/// `POST .../export` `{filter?, after?: {_id}, place?}`: the next documents in the order of `_id`, as BSON; no byte at
/// the end. Those of capped collections and time series come in their own order, and go on after the `place` that the
/// answer before had in its header; the answer without one is the last.
pub(super) async fn export(
    request: Request<'_>,
    session: &Session,
    collection: &str,
    order: &Order,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let mut body = request.body;
    body.limit(EXPORT_BYTES_MAX);
    let bytes = body.collect().await?;
    let command: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    let command = parse_document(command).map_err(|error| invalid(format!("not extended JSON: {error}")))?;
    let (mut filter, mut after, mut place) = (RawDocumentBuf::new(), None, None);
    for field in &command {
        match field.map_err(invalid)? {
            (name, RawBsonRef::Document(document)) if name == "filter" => filter = document.to_owned(),
            (name, RawBsonRef::Document(document)) if name == "after" => after = Some(document.to_owned()),
            (name, RawBsonRef::String(text)) if name == "place" => {
                let bytes = BASE64_STANDARD.decode(text);
                place = Some(bytes.map_err(|_| invalid("the place is not one that an answer told"))?);
            }
            (name, _) => {
                return Err(invalid(format!(
                    "unknown field {:?}, or its value has another type; known: filter, after, place",
                    name.as_str()
                )));
            }
        }
    }
    let Order::Ids(index) = order else {
        if after.is_some() {
            return Err(invalid(format!(
                "collection {collection:?} is capped or a time series: its export goes on after a place, not after an _id"
            )));
        }
        let find = Find {
            filter,
            hint: Some("$natural".into()),
            after: place,
            batch: Some(EXPORT_DOCUMENTS_MAX),
            ..Find::default()
        };
        return by_place(session.find(collection, find, deadline).await?);
    };
    let find = Find {
        filter,
        sort: Some(rawdoc! { "_id": 1 }),
        // From a key of the index on, because comparisons in a filter see values of one type only.
        hint: after.is_some().then(|| index.clone()),
        min: after.clone(),
        batch: Some(EXPORT_DOCUMENTS_MAX),
        ..Find::default()
    };
    let after = after.as_ref().and_then(|after| id_of(after));
    let mut page = session.find(collection, find, deadline.clone()).await?;
    loop {
        let Page { documents, cursor } = page;
        let mut written = Vec::new();
        for document in &documents {
            let is_after = |after| id_of(document).is_some_and(|id| compare_values(id, after).is_eq());
            if !after.is_some_and(is_after) {
                written.extend_from_slice(document.as_bytes());
            }
        }
        match cursor {
            // The page had nothing but the document that is known already.
            Some(cursor) if written.is_empty() => {
                page = session
                    .next_page(cursor, Some(EXPORT_DOCUMENTS_MAX), deadline.clone())
                    .await?;
            }
            _ => return Ok(respond::bytes(StatusCode::OK, BSON, written)),
        }
    }
}

/// A page in the natural order, and the place after it.
fn by_place(page: Page) -> Result<Response<Body>, Failure> {
    let mut written = Vec::new();
    for document in &page.documents {
        written.extend_from_slice(document.as_bytes());
    }
    let mut response = respond::bytes(StatusCode::OK, BSON, written);
    if let Some(cursor) = page.cursor {
        let place = cursor
            .place()
            .ok_or_else(|| Failure::internal("a scan in the natural order has no place"))?;
        let place = HeaderValue::try_from(BASE64_STANDARD.encode(place)).map_err(Failure::internal)?;
        response.headers_mut().insert(PLACE, place);
    }
    Ok(response)
}
