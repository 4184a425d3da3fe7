//! Documents over HTTP, as an admin: `POST /v1/apps/APP/documents/COLLECTION/VERB` with extended JSON (relaxed or
//! canonical) in and relaxed extended JSON out; canonical with `?format=canonical`.

use bson::{Bson, RawDocumentBuf};
use cloudlet_base::{AppId, Fault};
use cloudlet_data::{
    Delete, DeleteOne, Find, Insert, Namespace, Page, Session, Update, UpdateOne, WriteError,
};
use http::{Method, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Request, functions, invalid, json, not_found, ok, transfer};
use crate::front::body::Body;
use crate::front::respond::Failure;

/// Largest command: one document of MongoDB's 16 MiB, written out.
const COMMAND_BYTES_MAX: u64 = 48 << 20;
/// Documents in one answer, unless fewer are asked for.
const FOUND_MAX: u64 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindCommand {
    #[serde(default)]
    filter: Map<String, Value>,
    #[serde(default)]
    sort: Option<Map<String, Value>>,
    #[serde(default)]
    projection: Option<Map<String, Value>>,
    #[serde(default)]
    skip: u64,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InsertCommand {
    documents: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateCommand {
    filter: Map<String, Value>,
    update: Map<String, Value>,
    #[serde(default)]
    multi: bool,
    #[serde(default)]
    upsert: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteCommand {
    filter: Map<String, Value>,
    #[serde(default)]
    multi: bool,
}

/// How values are written out.
#[derive(Clone, Copy)]
enum Format {
    Relaxed,
    Canonical,
}

impl Format {
    fn write(self, value: Bson) -> Value {
        match self {
            Format::Relaxed => value.into_relaxed_extjson(),
            Format::Canonical => value.into_canonical_extjson(),
        }
    }
}

/// Runs one command.
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    collection: &str,
    verb: &str,
) -> Result<Response<Body>, Failure> {
    request.only(&Method::POST)?;
    let session = functions::running(&request, app)?
        .data
        .session(request.principal.clone());
    let format = match request.query("format")?.as_deref() {
        None | Some("relaxed") => Format::Relaxed,
        Some("canonical") => Format::Canonical,
        Some(other) => {
            return Err(invalid(format!(
                "unknown format {other:?}; known: relaxed, canonical"
            )));
        }
    };
    if matches!(verb, "import" | "export") {
        let documents = functions::running(&request, app)?.data.documents.clone();
        let order = transfer::order_of(&*documents, &Namespace::new(app.as_str(), collection)).await;
        return match verb {
            "import" => transfer::import(request, &session, collection, &order).await,
            _ => transfer::export(request, &session, collection, &order).await,
        };
    }
    match verb {
        "find" => find(request, &session, collection, format).await,
        "count" => count(request, &session, collection).await,
        "insert" => insert(request, &session, collection, format).await,
        "update" => update(request, &session, collection, format).await,
        "delete" => delete(request, &session, collection).await,
        _ => Err(not_found(format!(
            "unknown command {verb:?}; known: find, count, insert, update, delete, import, export"
        ))),
    }
}

async fn find(
    request: Request<'_>,
    session: &Session,
    collection: &str,
    format: Format,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let command: FindCommand = json(request.body, COMMAND_BYTES_MAX).await?;
    let limit = command.limit.filter(|limit| *limit > 0).unwrap_or(FOUND_MAX);
    if limit > FOUND_MAX {
        let message =
            format!("limit is {limit}, over the most of {FOUND_MAX}; page with skip or a filter on _id");
        return Err(Failure::new(Fault::Limit, message));
    }
    let find = Find {
        filter: raw(command.filter)?,
        sort: command.sort.map(raw).transpose()?,
        projection: command.projection.map(raw).transpose()?,
        skip: command.skip,
        // One more than asked for tells whether there are more.
        limit: Some(limit + 1),
        ..Find::default()
    };
    let mut page = session.find(collection, find, deadline.clone()).await?;
    let mut documents = Vec::new();
    loop {
        let Page {
            documents: some,
            cursor,
        } = page;
        documents.extend(some);
        let Some(cursor) = cursor else { break };
        page = session.next_page(cursor, None, deadline.clone()).await?;
    }
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = documents.len() > wanted;
    documents.truncate(wanted);
    let documents = documents.iter().map(|document| written(document, format));
    let documents = documents.collect::<Result<Vec<_>, _>>()?;
    Ok(ok(&json!({ "documents": documents, "more": more })))
}

async fn count(request: Request<'_>, session: &Session, collection: &str) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let command: FindCommand = json(request.body, COMMAND_BYTES_MAX).await?;
    let count = session.count(collection, raw(command.filter)?, deadline).await?;
    Ok(ok(&json!({ "count": count })))
}

async fn insert(
    request: Request<'_>,
    session: &Session,
    collection: &str,
    format: Format,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let command: InsertCommand = json(request.body, COMMAND_BYTES_MAX).await?;
    if command.documents.is_empty() {
        return Err(invalid("there are no documents to insert"));
    }
    let documents = command.documents.into_iter().map(raw).collect::<Result<_, _>>()?;
    let insert = Insert {
        documents,
        ordered: true,
        ..Insert::default()
    };
    let inserted = session.insert(collection, insert, deadline).await?;
    let count = inserted.ids.len();
    failed(inserted.errors, count, "inserted")?;
    let ids = inserted.ids.into_iter().map(|(_, id)| {
        let id = Bson::try_from(id).map_err(unreadable)?;
        Ok(format.write(id))
    });
    let ids = ids.collect::<Result<Vec<_>, Failure>>()?;
    Ok(ok(&json!({ "inserted": count, "ids": ids })))
}

async fn update(
    request: Request<'_>,
    session: &Session,
    collection: &str,
    format: Format,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let command: UpdateCommand = json(request.body, COMMAND_BYTES_MAX).await?;
    let update = Update {
        statements: vec![UpdateOne {
            filter: raw(command.filter)?,
            update: raw(command.update)?,
            multi: command.multi,
            upsert: command.upsert,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    let updated = session.update(collection, update, deadline).await?;
    failed(
        updated.errors,
        usize::try_from(updated.modified).unwrap_or(usize::MAX),
        "modified",
    )?;
    let upserted = updated.upserted.into_iter().next();
    let upserted = upserted
        .map(|(_, id)| Bson::try_from(id).map(|id| format.write(id)).map_err(unreadable))
        .transpose()?;
    Ok(ok(
        &json!({ "matched": updated.matched, "modified": updated.modified, "upserted": upserted }),
    ))
}

async fn delete(
    request: Request<'_>,
    session: &Session,
    collection: &str,
) -> Result<Response<Body>, Failure> {
    let deadline = request.cx.deadline.clone();
    let command: DeleteCommand = json(request.body, COMMAND_BYTES_MAX).await?;
    let delete = Delete {
        statements: vec![DeleteOne {
            filter: raw(command.filter)?,
            multi: command.multi,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    let deleted = session.delete(collection, delete, deadline).await?;
    failed(
        deleted.errors,
        usize::try_from(deleted.deleted).unwrap_or(usize::MAX),
        "deleted",
    )?;
    Ok(ok(&json!({ "deleted": deleted.deleted })))
}

/// The first failure of a write, with what was done before it.
fn failed(errors: Vec<WriteError>, done: usize, what: &str) -> Result<(), Failure> {
    let Some(first) = errors.into_iter().next() else {
        return Ok(());
    };
    let message = format!(
        "document {}: {} ({done} {what} before it)",
        first.index, first.error
    );
    if first.error.kind() == Fault::Internal {
        return Err(first.error.into());
    }
    Err(Failure::new(first.error.kind(), message).code("DATABASE_REQUEST_FAILED"))
}

/// Extended JSON to BSON, keeping the order of fields.
fn raw(map: Map<String, Value>) -> Result<RawDocumentBuf, Failure> {
    let bad = |error: &dyn std::fmt::Display| invalid(format!("not extended JSON: {error}"));
    match Bson::try_from(Value::Object(map)).map_err(|error| bad(&error))? {
        Bson::Document(document) => RawDocumentBuf::try_from(&document).map_err(|error| bad(&error)),
        other => Err(invalid(format!("a document was expected, not {other}"))),
    }
}

fn written(document: &RawDocumentBuf, format: Format) -> Result<Value, Failure> {
    let document = bson::Document::try_from(document.as_ref()).map_err(unreadable)?;
    Ok(format.write(Bson::Document(document)))
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    tracing::error!(error = %error, "the database gave a document that is none");
    Failure::new(Fault::Internal, "the database gave a document that can't be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_json_keeps_types_and_order() {
        let text = r#"{"z":1,"a":{"$oid":"507f1f77bcf86cd799439011"},"d":{"$date":"2024-01-01T00:00:00Z"},"n":{"$numberLong":"5"},"f":1.5}"#;
        let document = raw(serde_json::from_str(text).unwrap()).unwrap();
        let keys: Vec<String> = document
            .iter()
            .map(|field| field.unwrap().0.to_string())
            .collect();
        assert_eq!(keys, ["z", "a", "d", "n", "f"]);
        let back = written(&document, Format::Relaxed).unwrap();
        assert_eq!(back["a"]["$oid"], "507f1f77bcf86cd799439011");
        assert_eq!(back["n"], 5);
        let back = written(&document, Format::Canonical).unwrap();
        assert_eq!(back["n"]["$numberLong"], "5");
        assert!(raw(serde_json::from_str(r#"{"a":{"$oid":"x"}}"#).unwrap()).is_err());
        assert!(raw(serde_json::from_str(r#"{"$oid":"507f1f77bcf86cd799439011"}"#).unwrap()).is_err());
    }
}
