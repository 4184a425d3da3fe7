//! `/auth/v1/`: logins, refresh, the user's record, revocation. Bodies are JSON sent as text/plain; failures are
//! `{error,error_code,error_description}` with gRPC's numbers, by which the SDK decides what to do next.

use std::borrow::Cow;
use std::sync::Arc;

use cloudlet_auth::{NewUser, Tokens};
use cloudlet_base::{Fault, LoginType, Principal, RequestId};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::apps::registry::ActiveApp;
use crate::front::body::{Body, RequestBody};
use crate::front::pipeline::{self, Cx};
use crate::front::respond::{self, Failure};

/// A device id longer than this is no device id.
const DEVICE_ID_LEN_MAX: usize = 128;

/// Where the authorization header is the caller's token.
pub(super) fn takes_principal(rest: &str) -> bool {
    rest.starts_with("user/")
}

/// What the known requests hold; fields of other kinds of login tell that it is one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    username: Option<String>,
    password: Option<String>,
    name: Option<String>,
    nickname: Option<String>,
    grant_type: Option<String>,
    refresh_token: Option<String>,
    token: Option<String>,
    verification_token: Option<String>,
    verification_code: Option<String>,
    provider_token: Option<String>,
}

/// Answers a request below `/auth/v1/`.
pub(super) async fn serve(
    cx: &Cx,
    app: &Arc<ActiveApp>,
    rest: &str,
    principal: Principal,
    parts: &Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    let auth = &cx.node().auth;
    match (&parts.method, rest) {
        (&Method::POST, "signin/anonymously") => {
            if !app.anonymous_login {
                return Err(cloudlet_auth::Error::LoginDisabled("anonymous").into());
            }
            let tokens = auth.sign_in_anonymously(&app.id, device(parts)).await?;
            Ok(credentials(&tokens))
        }
        (&Method::POST, "signin") => {
            let wire = read(body).await?;
            let (username, password) = username_and_password(wire)?;
            Ok(credentials(
                &auth.sign_in_with_password(&app.id, &username, &password).await?,
            ))
        }
        (&Method::POST, "signup") => {
            let mut wire = read(body).await?;
            if !app.password_signup {
                return Err(cloudlet_auth::Error::LoginDisabled("username and password sign-up").into());
            }
            let name = wire.name.take().or_else(|| wire.nickname.take());
            let (username, password) = username_and_password(wire)?;
            let user = NewUser {
                username: username.clone(),
                password: password.clone(),
                name,
            };
            auth.sign_up(&app.id, user).await?;
            // Signing up logs in, as the SDK expects.
            Ok(credentials(
                &auth.sign_in_with_password(&app.id, &username, &password).await?,
            ))
        }
        (&Method::POST, "token") => {
            let wire = read(body).await?;
            match wire.grant_type.as_deref() {
                Some("refresh_token") => {
                    let token = wire.refresh_token.unwrap_or_default();
                    Ok(credentials(
                        &auth.refresh(&app.id, &token).await.map_err(grant_failure)?,
                    ))
                }
                other => Err(unsupported(&format!(
                    "the grant type {:?}",
                    other.unwrap_or_default()
                ))),
            }
        }
        (&Method::GET, "user/me") => me(cx, app, &principal).await,
        (&Method::POST, "revoke") => {
            let token = read(body).await?.token.unwrap_or_default();
            auth.revoke(&app.id, &token).await?;
            Ok(respond::json(StatusCode::OK, &json!({})))
        }
        (&Method::POST, "user/signout") => {
            let token = pipeline::token(&parts.headers)?.unwrap_or_default();
            auth.revoke(&app.id, token).await?;
            Ok(respond::json(StatusCode::OK, &json!({})))
        }
        (&Method::GET, ".well-known/jwks.json") => Ok(respond::bytes(
            StatusCode::OK,
            respond::APPLICATION_JSON,
            auth.jwks(),
        )),
        (_, "signin/anonymously" | "signin" | "signup" | "token" | "revoke" | "user/signout") => {
            Err(Failure::method_not_allowed("POST"))
        }
        (method, rest) => Err(unsupported(&format!("{method} /auth/v1/{rest}"))),
    }
}

async fn me(cx: &Cx, app: &ActiveApp, principal: &Principal) -> Result<Response<Body>, Failure> {
    let Some(user) = principal.user() else {
        return Err(Failure::new(Fault::Unauthenticated, "log in first"));
    };
    let info = cx.node().auth.user(&app.id, &user.uid).await?;
    let anonymous = info.login == LoginType::Anonymous;
    let created = rfc3339(info.created.millis());
    Ok(respond::json(
        StatusCode::OK,
        &json!({
            "sub": &*info.uid,
            "uid": &*info.uid,
            "openid": info.openid.as_deref(),
            "name": info.name.as_deref().unwrap_or(if anonymous { "anonymous" } else { "" }),
            "username": info.username.as_deref().unwrap_or(""),
            "login_type": user.login.as_str(),
            "groups": [{ "id": scope(user.login) }],
            "created_from": "cloudlet",
            "created_at": created,
        }),
    ))
}

/// A moment as `2026-01-31T12:00:00.000Z`; empty when it is beyond what BSON's dates can say.
fn rfc3339(millis: i64) -> String {
    bson::DateTime::from_millis(millis)
        .try_to_rfc3339_string()
        .unwrap_or_default()
}

async fn read(body: RequestBody) -> Result<Wire, Failure> {
    let bytes = body.collect().await?;
    if bytes.is_empty() {
        return Ok(Wire::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            Fault::Invalid,
            format!("the body is not the JSON expected here: {error}"),
        )
    })
}

fn username_and_password(wire: Wire) -> Result<(String, String), Failure> {
    if wire.verification_token.is_some() || wire.verification_code.is_some() || wire.provider_token.is_some()
    {
        return Err(unsupported("a login by code or provider"));
    }
    match (wire.username, wire.password) {
        (Some(username), Some(password)) => Ok((username, password)),
        _ => Err(Failure::new(
            Fault::Invalid,
            "username and password are both needed",
        )),
    }
}

fn device(parts: &Parts) -> Option<&str> {
    let device = parts.headers.get("x-device-id")?.to_str().ok()?;
    (1..=DEVICE_ID_LEN_MAX).contains(&device.len()).then_some(device)
}

const fn scope(login: LoginType) -> &'static str {
    match login {
        LoginType::Anonymous => "anonymous",
        LoginType::Username | LoginType::Wechat | LoginType::Email | LoginType::Custom => "user",
    }
}

fn credentials(tokens: &Tokens) -> Response<Body> {
    #[derive(Serialize)]
    struct Credentials<'a> {
        token_type: &'static str,
        access_token: &'a str,
        refresh_token: &'a str,
        expires_in: u64,
        sub: &'a str,
        scope: &'static str,
    }
    let mut response = respond::json(
        StatusCode::OK,
        &Credentials {
            token_type: "Bearer",
            access_token: &tokens.access_token,
            refresh_token: &tokens.refresh_token,
            expires_in: tokens.expires_in_s,
            sub: &tokens.uid,
            scope: scope(tokens.login),
        },
    );
    response.headers_mut().insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    response
}

/// A refresh token that is of no use: the SDK drops its session on this code alone.
fn grant_failure(error: cloudlet_auth::Error) -> Failure {
    let dead = matches!(error.kind(), Fault::Unauthenticated | Fault::NotFound);
    let failure = Failure::from(error);
    if dead {
        failure.code(INVALID_GRANT).status(StatusCode::BAD_REQUEST)
    } else {
        failure
    }
}

const INVALID_GRANT: &str = "INVALID_REFRESH_TOKEN";

fn unsupported(what: &str) -> Failure {
    Failure::unsupported(format!(
        "{what} is not offered by this node; offered are anonymous login and username and password"
    ))
}

/// A failure as the auth protocol tells it.
pub(super) fn failed(failure: Failure, id: RequestId) -> Response<Body> {
    #[derive(Serialize)]
    struct Wire<'a> {
        error: &'static str,
        error_code: u32,
        error_description: &'a Cow<'static, str>,
        #[serde(rename = "requestId")]
        request_id: String,
    }
    let (error, error_code) = name_and_number(&failure);
    let wire = Wire {
        error,
        error_code,
        error_description: &failure.message,
        request_id: id.to_string(),
    };
    let response = respond::json(failure.http_status(), &wire);
    failure.with_hints(response)
}

/// The protocol's name and gRPC's number for a failure.
fn name_and_number(failure: &Failure) -> (&'static str, u32) {
    if failure.code == INVALID_GRANT {
        return ("invalid_grant", 16);
    }
    if failure.code == "OPERATION_UNSUPPORTED" {
        return ("unimplemented", 12);
    }
    match failure.fault {
        Fault::Invalid => ("invalid_argument", 3),
        // "Wrong username or password" and tokens alike; the SDK tells them apart by the request.
        Fault::Unauthenticated if failure.message.contains("password") => {
            ("invalid_username_or_password", 16)
        }
        Fault::Unauthenticated => ("unauthenticated", 16),
        Fault::Denied => ("permission_denied", 7),
        Fault::NotFound => ("not_found", 5),
        Fault::Conflict => ("already_exists", 6),
        Fault::Limit => ("invalid_argument", 3),
        Fault::Busy => ("resource_exhausted", 8),
        Fault::Deadline => ("deadline_exceeded", 4),
        Fault::Upstream => ("unavailable", 14),
        Fault::Guest | Fault::Internal => ("internal", 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_names_and_numbers() {
        let check = |failure: Failure, name: &str| assert_eq!(name_and_number(&failure).0, name);
        check(
            cloudlet_auth::Error::WrongPassword.into(),
            "invalid_username_or_password",
        );
        check(cloudlet_auth::Error::ExpiredToken.into(), "unauthenticated");
        check(
            grant_failure(cloudlet_auth::Error::InvalidToken("used twice")),
            "invalid_grant",
        );
        check(
            cloudlet_auth::Error::LoginDisabled("anonymous").into(),
            "permission_denied",
        );
        check(
            cloudlet_auth::Error::UsernameTaken("bob".into()).into(),
            "already_exists",
        );
        check(unsupported("x"), "unimplemented");
    }

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }
}
