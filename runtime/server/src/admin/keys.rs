//! Admin keys and users over HTTP.

use cloudlet_auth::NewUser;
use cloudlet_base::{AppId, Principal};
use http::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Request, functions, json, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::Failure;

/// Largest body here.
const BYTES_MAX: u64 = 16 << 10;

/// `GET /v1/whoami`
pub(super) fn whoami(request: Request<'_>) -> Result<Response<Body>, Failure> {
    request.only(&Method::GET)?;
    let key_id = match &request.principal {
        Principal::Admin { key_id } => key_id.to_string(),
        _ => String::new(),
    };
    Ok(ok(
        &json!({ "key": key_id, "version": env!("CARGO_PKG_VERSION") }),
    ))
}

/// `GET` and `POST /v1/keys`, `DELETE /v1/keys/ID`
pub(super) async fn serve(request: Request<'_>, rest: &[&str]) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        label: String,
    }
    let auth = request.cx.node().auth.clone();
    match (rest, &request.parts.method) {
        ([], &Method::GET) => {
            let keys: Vec<_> = auth
                .admin_keys()
                .iter()
                .map(
                    |key| json!({ "key": &*key.key_id, "label": key.label, "created": key.created.millis() }),
                )
                .collect();
            Ok(ok(&json!({ "keys": keys })))
        }
        ([], &Method::POST) => {
            let New { label } = json(request.body, BYTES_MAX).await?;
            let secret = auth.create_admin_key(&label).await?;
            Ok(ok(&json!({ "label": label, "secret": secret })))
        }
        ([id], &Method::DELETE) => match auth.delete_admin_key(id).await? {
            true => Ok(ok(&json!({ "deleted": 1 }))),
            false => Err(not_found(format!(
                "there is no admin key {id:?}; list them with: cloudlet auth key list"
            ))),
        },
        ([], _) => Err(Failure::method_not_allowed("GET, POST")),
        _ => Err(Failure::method_not_allowed("DELETE")),
    }
}

/// `POST /v1/apps/APP/users`
pub(super) async fn create_user(request: Request<'_>, app: &AppId) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        username: String,
        password: String,
        #[serde(default)]
        name: Option<String>,
    }
    request.only(&Method::POST)?;
    functions::running(&request, app)?;
    let auth = request.cx.node().auth.clone();
    let New {
        username,
        password,
        name,
    } = json(request.body, BYTES_MAX).await?;
    let user = auth
        .sign_up(
            app,
            NewUser {
                username,
                password,
                name,
            },
        )
        .await?;
    Ok(ok(&json!({
        "uid": &*user.uid,
        "username": user.username,
        "name": user.name,
        "created": user.created.millis(),
    })))
}
