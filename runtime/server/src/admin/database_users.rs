//! Who may log in at the MongoDB listener, and what they may do with the app's database.

use cloudlet_base::AppId;
use http::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Request, functions, invalid, json, not_found, ok};
use crate::front::body::Body;
use crate::front::respond::Failure;

/// Largest body here.
const BYTES_MAX: u64 = 16 << 10;

/// `GET /v1/apps/APP/database-users`, `PUT` and `DELETE /v1/apps/APP/database-users/NAME`
pub(super) async fn serve(
    request: Request<'_>,
    app: &AppId,
    rest: &[&str],
) -> Result<Response<Body>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct User {
        password: String,
        #[serde(default = "default_roles")]
        roles: Vec<String>,
    }
    functions::running(&request, app)?;
    let wire = request.cx.node().wire.clone();
    match (rest, &request.parts.method) {
        ([], &Method::GET) => {
            let users = wire.users(app.as_str()).await.map_err(Failure::internal)?;
            let users: Vec<_> = users
                .iter()
                .map(|(name, roles)| json!({ "name": name, "roles": roles }))
                .collect();
            Ok(ok(&json!({ "users": users })))
        }
        ([name], &Method::PUT) => {
            let User { password, roles } = json(request.body, BYTES_MAX).await?;
            let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
            wire.set_user(app.as_str(), name, &password, &roles)
                .await
                .map_err(invalid)?;
            Ok(ok(&json!({ "name": name, "roles": roles })))
        }
        ([name], &Method::DELETE) => {
            let removed = wire.remove_user(app.as_str(), name).await;
            match removed.map_err(Failure::internal)? {
                true => Ok(ok(&json!({ "deleted": 1 }))),
                false => Err(not_found(format!(
                    "app {app} has no database user {name:?}; list them with: cloudlet db user list"
                ))),
            }
        }
        ([], _) => Err(Failure::method_not_allowed("GET")),
        _ => Err(Failure::method_not_allowed("PUT, DELETE")),
    }
}

fn default_roles() -> Vec<String> {
    vec!["readWrite".to_owned()]
}
