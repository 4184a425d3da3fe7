//! Collections and their indexes over HTTP: `/v1/apps/APP/collections[/COLLECTION[/indexes]]`. Index specifications
//! are MongoDB's, in extended JSON.

use bson::{RawBsonRef, RawDocumentBuf};
use cloudlet_base::AppId;
use cloudlet_data::formats::{JsonStyle, parse_document, print_document};
use cloudlet_data::{Code, Documents, Error, IndexSpec, Namespace};
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::{Request, functions, invalid, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::{self, Failure};

/// Largest list of indexes: each of them has a filter at most.
const INDEXES_BYTES_MAX: u64 = 1 << 20;

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
            let names = documents.list_collections(app.as_str()).await?;
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            Ok(ok(&json!({ "collections": names })))
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
        Method::PUT => match documents.create_collection(ns).await {
            Ok(()) => Ok(ok(&json!({ "created": true }))),
            Err(error) if error.code() == Code::NamespaceExists => Ok(ok(&json!({ "created": false }))),
            Err(error) => Err(error.into()),
        },
        Method::DELETE => {
            let dropped = documents.drop_collection(ns).await?;
            Ok(ok(&json!({ "dropped": dropped })))
        }
        _ => Err(Failure::method_not_allowed("PUT, DELETE")),
    }
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
