//! Collections and their indexes over HTTP: `/v1/apps/APP/collections[/COLLECTION[/indexes]]`. Index specifications
//! are MongoDB's, in extended JSON.

use bson::{RawBsonRef, RawDocumentBuf};
use cloudlet_base::AppId;
use cloudlet_data::formats::{JsonStyle, Metadata, parse_document, print_document};
use cloudlet_data::{Code, Creation, Documents, Error, IndexSpec, Namespace};
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::{Request, functions, invalid, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::{self, Failure};

/// Largest list of indexes: each of them has a filter at most.
const INDEXES_BYTES_MAX: u64 = 1 << 20;

/// Largest options of a collection: a validator or a view's pipeline is in them, written out.
const OPTIONS_BYTES_MAX: u64 = 2 << 20;

/// Answers for the collections of an app.
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    let documents = functions::running(&request, app)?.data.documents.clone();
    match rest {
        [] => {
            request.only(&Method::GET)?;
            let all = documents.describe_collections(app.as_str()).await?;
            let names = |is_view: bool| -> Vec<&str> {
                let of_kind = all.iter().filter(|one| one.view.is_some() == is_view);
                of_kind.map(|one| &*one.name).collect()
            };
            Ok(ok(&json!({ "collections": names(false), "views": names(true) })))
        }
        [collection] => one(request, &*documents, &Namespace::new(app.as_str(), *collection)).await,
        [collection, "indexes"] => {
            indexes(request, &*documents, &Namespace::new(app.as_str(), *collection)).await
        }
        _ => Err(not_found("there is only indexes under a collection")),
    }
}

async fn one(
    request: Request<'_>,
    documents: &dyn Documents,
    ns: &Namespace,
) -> Result<Response<Body>, Failure> {
    match request.parts.method {
        Method::GET => describe(documents, ns).await,
        Method::PUT => {
            let mut body = request.body;
            body.limit(OPTIONS_BYTES_MAX);
            let made = match creation(&body.collect().await?)? {
                Creation::Collection(options) => documents.create_collection_with(ns, options).await,
                Creation::View(view) => documents.create_view(ns, view).await,
            };
            match made {
                Ok(()) => Ok(ok(&json!({ "created": true }))),
                Err(error) if error.code() == Code::NamespaceExists => Ok(ok(&json!({ "created": false }))),
                Err(error) => Err(error.into()),
            }
        }
        Method::DELETE => {
            let dropped = documents.drop_collection(ns).await?;
            Ok(ok(&json!({ "dropped": dropped })))
        }
        _ => Err(Failure::method_not_allowed("GET, PUT, DELETE")),
    }
}

/// A collection as mongodump describes it beside its documents.
async fn describe(documents: &dyn Documents, ns: &Namespace) -> Result<Response<Body>, Failure> {
    let all = documents.describe_collections(&ns.database).await?;
    let found = all.into_iter().find(|one| one.name == ns.collection);
    let found = found.ok_or_else(|| {
        not_found(format!(
            "app {} has no collection {:?}",
            ns.database, ns.collection
        ))
    })?;
    let indexes = match found.view {
        Some(_) => Vec::new(),
        None => documents.list_indexes(ns).await?,
    };
    let uuid = found
        .uuid
        .map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect());
    let creation = match found.view {
        Some(view) => Creation::View(view),
        None => Creation::Collection(found.options),
    };
    let metadata = Metadata {
        collection: Some(found.name.to_string()),
        options: creation.to_document(),
        indexes: indexes.iter().map(IndexSpec::to_document).collect(),
        uuid,
        kind: creation.kind().to_owned(),
    };
    let text = metadata.to_text().map_err(Failure::internal)?;
    Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, text))
}

/// What `{"options": {..}}` asks for; a body without bytes for a collection without options.
fn creation(body: &[u8]) -> Result<Creation, Failure> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let body = parse_document(body).map_err(|error| invalid(format!("not extended JSON: {error}")))?;
    let mut options = RawDocumentBuf::new();
    for field in &body {
        match field.map_err(invalid)? {
            (name, RawBsonRef::Document(document)) if name == "options" => options = document.to_owned(),
            _ => return Err(invalid("the body has to be {\"options\": {..}}")),
        }
    }
    Ok(Creation::parse(&options)?)
}

async fn indexes(
    request: Request<'_>,
    documents: &dyn Documents,
    ns: &Namespace,
) -> Result<Response<Body>, Failure> {
    match request.parts.method {
        Method::GET => {
            let indexes = documents.list_indexes(ns).await?;
            let mut text = b"{\"indexes\":[".to_vec();
            for (place, index) in indexes.iter().enumerate() {
                if place > 0 {
                    text.push(b',');
                }
                print_document(&index.to_document(), JsonStyle::Canonical, &mut text)
                    .map_err(Failure::internal)?;
            }
            text.extend_from_slice(b"]}");
            Ok(respond::bytes(StatusCode::OK, respond::APPLICATION_JSON, text))
        }
        Method::POST => {
            let mut body = request.body;
            body.limit(INDEXES_BYTES_MAX);
            let specs = specs(&body.collect().await?)?;
            let made = documents.create_indexes(ns, specs).await?;
            Ok(ok(&json!({ "made": made })))
        }
        _ => Err(Failure::method_not_allowed("GET, POST")),
    }
}

/// The specifications of `{"indexes": [..]}`.
fn specs(body: &[u8]) -> Result<Vec<IndexSpec>, Failure> {
    let body = parse_document(body).map_err(|error| invalid(format!("not extended JSON: {error}")))?;
    let list = only_list(&body, "indexes")?;
    let specs = list.iter().map(|index| IndexSpec::parse(index));
    Ok(specs.collect::<Result<Vec<_>, Error>>()?)
}

/// The documents of the only field.
fn only_list(body: &RawDocumentBuf, wanted: &str) -> Result<Vec<RawDocumentBuf>, Failure> {
    let expected = || {
        invalid(format!(
            "the body has to be {{\"{wanted}\": [..]}}, a list of objects"
        ))
    };
    let mut list = None;
    for field in body {
        match field.map_err(invalid)? {
            (name, RawBsonRef::Array(array)) if name == wanted => {
                let documents = array.into_iter().map(|value| match value {
                    Ok(RawBsonRef::Document(document)) => Ok(document.to_owned()),
                    Ok(_) | Err(_) => Err(expected()),
                });
                list = Some(documents.collect::<Result<Vec<_>, _>>()?);
            }
            _ => return Err(expected()),
        }
    }
    list.ok_or_else(expected)
}
