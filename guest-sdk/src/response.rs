//! What a handler may return.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::{Body, Error};

/// Anything that is an HTTP response.
///
/// ```
/// use cloudlet::{IntoResponse, Json};
/// use cloudlet::http::StatusCode;
///
/// let response = (StatusCode::CREATED, Json(["room", "12"])).into_response();
/// # assert_eq!(response.status(), 201);
/// # assert_eq!(response.into_body().text().unwrap(), r#"["room","12"]"#);
/// ```
pub trait IntoResponse {
    /// The response.
    fn into_response(self) -> Response<Body>;
}

/// A value as JSON: in what a handler returns, and as the body it takes (`http::Request<Json<T>>`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

fn typed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl<B: Into<Body>> IntoResponse for Response<B> {
    fn into_response(self) -> Response<Body> {
        self.map(Into::into)
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response<Body> {
        Response::new(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response<Body> {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self;
        response
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response<Body> {
        typed("text/plain; charset=utf-8", self.into())
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response<Body> {
        typed("text/plain; charset=utf-8", self.into())
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response<Body> {
        typed("application/octet-stream", self.into())
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response<Body> {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => typed("application/json", bytes.into()),
            Err(error) => Error::from(error).into_response(),
        }
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response<Body> {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response<Body> {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// `{"code": .., "message": ..}` with the status of the variant. What made the function fail is for its log
/// (standard error), not for its caller.
impl IntoResponse for Error {
    fn into_response(self) -> Response<Body> {
        let message = match &self {
            Error::Failed(cause) => {
                eprintln!("the function failed: {cause}");
                "the function failed"
            }
            other => other.message(),
        };
        let body = serde_json::json!({ "code": self.code(), "message": message });
        let mut response = typed("application/json", body.to_string().into());
        *response.status_mut() = self.status();
        response
    }
}
