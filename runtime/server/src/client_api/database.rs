//! `/v1/database/instances/(default)/databases/(default)/...`: documents of an app's collections under its rules.
//! Queries and data are extended JSON; updates with operators are updates, data without are a replacement (the
//! gateway's protocol has no field that tells `set` and `update` apart, the SDK writes operators for the latter).

use std::sync::Arc;

use bson::{Bson, Document, RawBson, RawDocumentBuf};
use cloudlet_base::{Fault, Principal, Timestamp};
use cloudlet_data::{Delete, DeleteOne, Find, Insert, Namespace, Session, Update, UpdateOne, WriteError};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::apps::registry::ActiveApp;
use crate::client_api::ejson::{self, EjsonError, Json};
use crate::client_api::query_value;
use crate::front::body::{Body, RequestBody};
use crate::front::pipeline::Cx;
use crate::front::respond::{self, Failure};

/// Documents in a reply when the client does not say, and at most.
const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// Documents in one insert.
const INSERT_MAX: usize = 1000;

/// Bytes of JSON in one reply.
const REPLY_BYTES_MAX: usize = 32 << 20;

/// What a path below `/v1/database/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `.../collections/X/documents`
    Documents(String),
    /// `.../collections/X/documents/ID`; `remove` and `aggregations` when posted to.
    Document(String, String),
    /// `.../collections`
    Collections,
    /// `.../transactions` and below, `.../commands`
    Unsupported(&'static str),
}

impl Target {
    /// Parses what follows `/v1/database/`, percent-decoded.
    pub(crate) fn parse(rest: &str) -> Option<Self> {
        let rest = rest.strip_prefix("instances/(default)/databases/(default)/")?;
        let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
        match (head, tail) {
            ("collections", "") => Some(Target::Collections),
            ("transactions", _) => Some(Target::Unsupported("transactions")),
            ("commands", "") => Some(Target::Unsupported("commands")),
            ("collections", tail) => {
                let (collection, tail) = tail.split_once('/')?;
                match tail.strip_prefix("documents")? {
                    "" => Some(Target::Documents(collection.to_owned())),
                    id => match id.strip_prefix('/')? {
                        "" => None,
                        id => Some(Target::Document(collection.to_owned(), id.to_owned())),
                    },
                }
            }
            _ => None,
        }
    }
}

impl From<EjsonError> for Failure {
    fn from(error: EjsonError) -> Self {
        Failure::new(Fault::Invalid, error.to_string())
    }
}

/// Everything that one operation needs.
struct Op<'a> {
    cx: &'a Cx,
    session: Session,
    now: Timestamp,
}

/// Answers a request below `/v1/database/`.
pub(super) async fn serve(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    target: Target,
    principal: Principal,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    if query_value(parts, "transactionId").is_some() {
        return Err(unsupported("transactions"));
    }
    let bound = principal.bound_by_rules();
    let op = Op {
        cx,
        session: app.data.session(principal),
        now: cx.node().clock.now(),
    };
    match (&parts.method, target) {
        (&Method::GET, Target::Documents(name)) if query_value(parts, "count").as_deref() == Some("true") => {
            op.count(&name, parts).await
        }
        (&Method::GET, Target::Documents(name)) => op.find(&name, parts).await,
        (&Method::GET, Target::Document(name, id)) => op.find_one(&name, &id, parts).await,
        (&Method::POST, Target::Documents(name)) => op.insert(&name, &read(body).await?).await,
        (&Method::PATCH, Target::Documents(name)) => op.update(&name, &read(body).await?).await,
        (&Method::POST, Target::Document(name, verb)) if verb == "remove" => {
            op.remove(&name, &read(body).await?).await
        }
        (&Method::POST, Target::Document(_, verb)) if verb == "aggregations" => {
            Err(unsupported("aggregations"))
        }
        (&Method::POST, Target::Collections) if bound => {
            Err(Failure::new(Fault::Denied, "clients may not make collections")
                .code("DATABASE_PERMISSION_DENIED"))
        }
        (&Method::POST, Target::Collections) => {
            let body = read(body).await?;
            let name = body
                .field("collectionName")
                .and_then(Json::text)
                .unwrap_or_default();
            let namespace = Namespace::new(app.id.as_str(), name);
            app.data.documents.create_collection(&namespace).await?;
            Ok(respond::json(StatusCode::OK, &json!({})))
        }
        (_, Target::Unsupported(what)) => Err(unsupported(what)),
        (_, Target::Documents(_)) => Err(Failure::method_not_allowed("GET, POST, PATCH")),
        (_, Target::Document(..)) => Err(Failure::method_not_allowed("GET, POST")),
        (_, Target::Collections) => Err(Failure::method_not_allowed("POST")),
    }
}

fn unsupported(what: &str) -> Failure {
    Failure::unsupported(format!(
        "the database does not offer {what} to clients yet; a function can use the database"
    ))
}

async fn read(body: RequestBody) -> Result<Json, Failure> {
    let body = Json::parse(&body.collect().await?)?;
    if body.field("transactionId").is_some() {
        return Err(unsupported("transactions"));
    }
    Ok(body)
}

impl Op<'_> {
    async fn find(&self, name: &str, parts: &Parts) -> Result<Response<Body>, Failure> {
        let number = |field: &str, default: u64| match query_value(parts, field) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Failure::new(Fault::Invalid, format!("{field} {text:?} is not a whole number"))),
        };
        let limit = match number("limit", LIMIT_DEFAULT)? {
            0 => LIMIT_DEFAULT,
            limit => limit.min(LIMIT_MAX),
        };
        let skip = number("offset", 0)?;
        let find = Find {
            filter: self.filter(query_text(parts, "query")?.as_ref(), true)?,
            sort: query_text(parts, "order")?
                .as_ref()
                .map(sort)
                .transpose()?
                .flatten(),
            projection: self.projection(parts)?,
            skip,
            limit: Some(limit),
            batch: u32::try_from(limit).ok(),
            ..Find::default()
        };
        let mut out = String::from(r#"{"list":["#);
        let mut first = true;
        let mut page = self.session.find(name, find, self.cx.deadline.clone()).await?;
        loop {
            for document in &page.documents {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                ejson::write_document(&mut out, document)?;
            }
            if out.len() > REPLY_BYTES_MAX {
                let message = format!(
                    "the reply is larger than the limit of {REPLY_BYTES_MAX} bytes; ask for fewer documents"
                );
                return Err(Failure::new(Fault::Limit, message).code("DATABASE_REQUEST_FAILED"));
            }
            match page.cursor {
                None => break,
                Some(cursor) => {
                    page = self
                        .session
                        .next_page(cursor, None, self.cx.deadline.clone())
                        .await?;
                }
            }
        }
        out.push_str(&format!(r#"],"offset":{skip},"limit":{limit}}}"#));
        Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, out))
    }

    async fn find_one(&self, name: &str, id: &str, parts: &Parts) -> Result<Response<Body>, Failure> {
        let mut filter = Document::new();
        filter.insert("_id", id);
        widen_id(&mut filter);
        let find = Find {
            filter: ejson::raw(&filter)?,
            projection: self.projection(parts)?,
            limit: Some(1),
            ..Find::default()
        };
        let page = self.session.find(name, find, self.cx.deadline.clone()).await?;
        let Some(document) = page.documents.first() else {
            return Err(
                Failure::new(Fault::NotFound, format!("no document {id:?} in {name:?}"))
                    .code("DATABASE_DOCUMENT_NOT_EXIST"),
            );
        };
        let mut out = String::new();
        ejson::write_document(&mut out, document)?;
        Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, out))
    }

    async fn count(&self, name: &str, parts: &Parts) -> Result<Response<Body>, Failure> {
        let filter = self.filter(query_text(parts, "query")?.as_ref(), true)?;
        let total = self.session.count(name, filter, self.cx.deadline.clone()).await?;
        Ok(respond::json(StatusCode::OK, &json!({ "total": total })))
    }

    async fn insert(&self, name: &str, body: &Json) -> Result<Response<Body>, Failure> {
        let items = match body.field("data") {
            Some(Json::List(items)) => items.as_slice(),
            Some(item @ Json::Object(_)) => std::slice::from_ref(item),
            _ => {
                return Err(Failure::new(
                    Fault::Invalid,
                    "data must be a document or a list of documents",
                ));
            }
        };
        if items.is_empty() || items.len() > INSERT_MAX {
            let message = format!(
                "{} documents in one insert; expected 1 to {INSERT_MAX}",
                items.len()
            );
            return Err(Failure::new(Fault::Invalid, message));
        }
        let mut ids = Vec::with_capacity(items.len());
        let mut documents = Vec::with_capacity(items.len());
        for item in items {
            let document = self.with_id(item.to_document(self.now)?);
            ids.push(document.get("_id").cloned().unwrap_or(Bson::Null));
            documents.push(ejson::raw(&document)?);
        }
        let insert = Insert {
            documents,
            ordered: true,
            ..Insert::default()
        };
        let inserted = self
            .session
            .insert(name, insert, self.cx.deadline.clone())
            .await?;
        first_error(inserted.errors)?;
        let ids = ids.iter().map(id_text).collect::<Result<Vec<_>, _>>()?;
        let out = format!(r#"{{"insertedIds":[{}]}}"#, ids.join(","));
        Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, out))
    }

    async fn update(&self, name: &str, body: &Json) -> Result<Response<Body>, Failure> {
        let flag = |field: &str| body.field(field).is_some_and(Json::is_true);
        let Some(data) = body.field("data") else {
            return Err(Failure::new(
                Fault::Invalid,
                "data must be a document or update operators",
            ));
        };
        let statement = UpdateOne {
            filter: self.filter(body.field("query"), !flag("upsert"))?,
            update: ejson::raw(&data.to_document(self.now)?)?,
            multi: flag("multi"),
            upsert: flag("upsert"),
            ..UpdateOne::default()
        };
        let update = Update {
            statements: vec![statement],
            ordered: true,
            ..Update::default()
        };
        let updated = self
            .session
            .update(name, update, self.cx.deadline.clone())
            .await?;
        first_error(updated.errors)?;
        let upserted = match updated.upserted.first() {
            None => "null".to_owned(),
            Some((_, id)) => id_text(&Bson::try_from(id.clone()).map_err(EjsonError::from)?)?,
        };
        // CloudBase says upsert_id here and upserted_id on the older protocol; the SDK reads the latter everywhere.
        let out = format!(
            r#"{{"matched":{},"updated":{},"upsert_id":{upserted},"upserted_id":{upserted}}}"#,
            updated.matched, updated.modified
        );
        Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, out))
    }

    async fn remove(&self, name: &str, body: &Json) -> Result<Response<Body>, Failure> {
        let statement = DeleteOne {
            filter: self.filter(body.field("query"), true)?,
            multi: body.field("multi").is_some_and(Json::is_true),
            ..DeleteOne::default()
        };
        let delete = Delete {
            statements: vec![statement],
            ordered: true,
        };
        let deleted = self
            .session
            .delete(name, delete, self.cx.deadline.clone())
            .await?;
        first_error(deleted.errors)?;
        Ok(respond::json(
            StatusCode::OK,
            &json!({ "deleted": deleted.deleted }),
        ))
    }

    /// A query as a filter; the session narrows it by the rules and puts the caller's id in the place of `{openid}`.
    fn filter(&self, query: Option<&Json>, widen: bool) -> Result<RawDocumentBuf, Failure> {
        let mut filter = match query {
            None | Some(Json::Null) => Document::new(),
            Some(query) => query.to_document(self.now)?,
        };
        if widen {
            widen_id(&mut filter);
        }
        Ok(ejson::raw(&filter)?)
    }

    fn projection(&self, parts: &Parts) -> Result<Option<RawDocumentBuf>, Failure> {
        let Some(projection) = query_text(parts, "projection")? else {
            return Ok(None);
        };
        let document = projection.to_document(self.now)?;
        Ok(if document.is_empty() {
            None
        } else {
            Some(ejson::raw(&document)?)
        })
    }

    /// The document with an `_id`: CloudBase's ids are texts, by which clients name documents.
    fn with_id(&self, document: Document) -> Document {
        if document.contains_key("_id") {
            return document;
        }
        let id = cloudlet_base::RequestId::generate(&*self.cx.node().entropy).to_string();
        let mut whole = Document::new();
        whole.insert("_id", id);
        whole.extend(document);
        whole
    }
}

/// An extended JSON value in the query string.
fn query_text(parts: &Parts, name: &str) -> Result<Option<Json>, Failure> {
    match query_value(parts, name) {
        None => Ok(None),
        Some(text) => match Json::parse(text.as_bytes()) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Failure::new(Fault::Invalid, format!("{name}: {error}"))),
        },
    }
}

/// `[{field, direction}]` as a sort specification.
fn sort(order: &Json) -> Result<Option<RawDocumentBuf>, Failure> {
    let malformed = || {
        Failure::new(
            Fault::Invalid,
            "order must be a list of {field, direction: \"asc\" or \"desc\"}",
        )
    };
    let Json::List(items) = order else {
        return Err(malformed());
    };
    let mut sort = Document::new();
    for item in items {
        let field = item.field("field").and_then(Json::text).ok_or_else(malformed)?;
        let direction = match item.field("direction") {
            Some(Json::Text(text)) if text.eq_ignore_ascii_case("asc") => 1,
            Some(Json::Text(text)) if text.eq_ignore_ascii_case("desc") => -1,
            Some(Json::Int(1)) => 1,
            Some(Json::Int(-1)) => -1,
            _ => return Err(malformed()),
        };
        sort.insert(field, direction);
    }
    Ok(if sort.is_empty() {
        None
    } else {
        Some(ejson::raw(&sort)?)
    })
}

/// Clients see ObjectIds as texts (ejson.rs), so a text that could be one asks for both.
fn widen_id(filter: &mut Document) {
    fn both(text: &str) -> Option<[Bson; 2]> {
        let id = bson::oid::ObjectId::parse_str(text).ok()?;
        Some([Bson::String(text.to_owned()), Bson::ObjectId(id)])
    }
    let wider = match filter.get("_id") {
        Some(Bson::String(text)) => both(text).map(Vec::from),
        Some(Bson::Document(operator)) if operator.len() == 1 => {
            match (operator.get("$eq"), operator.get("$in")) {
                (Some(Bson::String(text)), _) => both(text).map(Vec::from),
                (_, Some(Bson::Array(items))) => Some(
                    items
                        .iter()
                        .flat_map(|item| {
                            let ids = item.as_str().and_then(both).map(Vec::from);
                            ids.unwrap_or_else(|| vec![item.clone()])
                        })
                        .collect(),
                ),
                _ => None,
            }
        }
        _ => None,
    };
    if let Some(ids) = wider {
        let mut operator = Document::new();
        operator.insert("$in", ids);
        filter.insert("_id", operator);
    }
}

fn first_error(errors: Vec<WriteError>) -> Result<(), Failure> {
    match errors.into_iter().next() {
        None => Ok(()),
        Some(failed) => Err(failed.error.into()),
    }
}

/// An `_id` in a reply.
fn id_text(id: &Bson) -> Result<String, EjsonError> {
    let mut out = String::new();
    match id {
        Bson::ObjectId(id) => ejson::write_value(&mut out, bson::raw::RawBsonRef::String(&id.to_hex()))?,
        other => {
            let raw = RawBson::try_from(other.clone())?;
            ejson::write_value(&mut out, raw.as_raw_bson_ref())?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn paths_name_targets() {
        let base = "instances/(default)/databases/(default)/";
        let check = |rest: &str, expected: Option<Target>| {
            assert_eq!(Target::parse(&format!("{base}{rest}")), expected)
        };
        check("collections", Some(Target::Collections));
        check("collections/x/documents", Some(Target::Documents("x".into())));
        check(
            "collections/x/documents/d1",
            Some(Target::Document("x".into(), "d1".into())),
        );
        check("collections/x/documents/", None);
        check("collections/x/documentsx", None);
        check("collections/x", None);
        check("transactions/t/commit", Some(Target::Unsupported("transactions")));
        check("nonsense", None);
        assert_eq!(
            Target::parse("instances/other/databases/(default)/collections"),
            None
        );
    }

    #[test]
    fn orders_are_sorts() {
        let parse = |text: &str| sort(&Json::parse(text.as_bytes()).unwrap());
        let document = parse(r#"[{"field":"b","direction":"desc"},{"field":"a","direction":"asc"}]"#)
            .unwrap()
            .unwrap();
        assert_eq!(Document::try_from(document).unwrap(), doc! {"b": -1, "a": 1});
        assert!(parse("[]").unwrap().is_none());
        assert!(parse(r#"[{"field":"b","direction":"up"}]"#).is_err());
        assert!(parse("{}").is_err());
    }

    #[test]
    fn ids_that_could_be_object_ids_ask_for_both() {
        let hex = "0123456789abcdef01234567";
        let id = bson::oid::ObjectId::parse_str(hex).unwrap();
        let check = |mut filter: Document, expected: Document| {
            widen_id(&mut filter);
            assert_eq!(filter, expected);
        };
        check(doc! {"_id": "d1"}, doc! {"_id": "d1"});
        check(doc! {"_id": hex}, doc! {"_id": {"$in": [hex, id]}});
        check(doc! {"_id": {"$eq": hex}}, doc! {"_id": {"$in": [hex, id]}});
        check(
            doc! {"_id": {"$in": ["x", hex]}},
            doc! {"_id": {"$in": ["x", hex, id]}},
        );
    }
}
