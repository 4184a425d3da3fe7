//! A small router in koa's manner, for functions with several routes; and [`Calls`], tcb-router's `$url` for calls.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Body, Error, IntoResponse, Result};

type Handler = Box<dyn Fn(&mut Context) -> Response<Body>>;
type Middleware = Box<dyn Fn(&mut Context, Next<'_>) -> Response<Body>>;

/// Routes and middleware.
///
/// ```
/// use cloudlet::http::Request;
/// use cloudlet::{Body, IntoResponse, Json, Result, Router};
///
/// fn app() -> Router {
///     let mut app = Router::new();
///     app.wrap(|ctx, next| {
///         let mut response = next.run(ctx);
///         response.headers_mut().insert("x-powered-by", "cloudlet".parse().unwrap());
///         response
///     });
///     app.get("/rooms/:room", |ctx| Json(ctx.param("room").to_owned()));
///     app.post("/rooms", |ctx| -> Result<Json<String>> {
///         let room: String = ctx.json()?;
///         Ok(Json(room))
///     });
///     app
/// }
///
/// #[cloudlet::http]
/// fn rooms(request: Request<Body>) -> impl IntoResponse {
///     app().handle(request)
/// }
/// # let request = Request::get("/rooms/a%20b?x=1").body(Body::empty()).unwrap();
/// # let response = app().handle(request);
/// # assert_eq!(response.headers()["x-powered-by"], "cloudlet");
/// # assert_eq!(response.into_body().text().unwrap(), "\"a b\"");
/// # let request = Request::delete("/rooms").body(Body::empty()).unwrap();
/// # assert_eq!(app().handle(request).headers()["allow"], "POST");
/// ```
///
/// A pattern's segments are literal, `:name` for any one segment, or `*name` at the end for all that is left. The
/// first route that matches path and method is taken. A path without a route is 404, one without the method 405; `HEAD` is
/// answered by the `GET` route.
///
/// The trigger decides what reaches the function: `route = "/api/..."` passes the whole path, prefix included.
#[derive(Default)]
pub struct Router {
    middleware: Vec<Middleware>,
    routes: Vec<Route>,
}

struct Route {
    method: Option<Method>,
    pattern: String,
    handler: Handler,
}

impl Router {
    /// No routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds middleware: it gets every request, matched or not, in the order of adding, and passes it on with
    /// `next.run(ctx)`, or answers itself.
    pub fn wrap<R: IntoResponse>(
        &mut self,
        middleware: impl Fn(&mut Context, Next<'_>) -> R + 'static,
    ) -> &mut Self {
        self.middleware
            .push(Box::new(move |ctx, next| middleware(ctx, next).into_response()));
        self
    }

    /// Adds a route for one method, or for all with `None`.
    pub fn route<R: IntoResponse>(
        &mut self,
        method: Option<Method>,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.routes.push(Route {
            method,
            pattern: pattern.into(),
            handler: Box::new(move |ctx| handler(ctx).into_response()),
        });
        self
    }

    /// Adds a route for `GET` and `HEAD`.
    pub fn get<R: IntoResponse>(
        &mut self,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.route(Some(Method::GET), pattern, handler)
    }

    /// Adds a route for `POST`.
    pub fn post<R: IntoResponse>(
        &mut self,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.route(Some(Method::POST), pattern, handler)
    }

    /// Adds a route for `PUT`.
    pub fn put<R: IntoResponse>(
        &mut self,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.route(Some(Method::PUT), pattern, handler)
    }

    /// Adds a route for `PATCH`.
    pub fn patch<R: IntoResponse>(
        &mut self,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.route(Some(Method::PATCH), pattern, handler)
    }

    /// Adds a route for `DELETE`.
    pub fn delete<R: IntoResponse>(
        &mut self,
        pattern: impl Into<String>,
        handler: impl Fn(&mut Context) -> R + 'static,
    ) -> &mut Self {
        self.route(Some(Method::DELETE), pattern, handler)
    }

    /// Answers a request.
    pub fn handle(&self, request: Request<Body>) -> Response<Body> {
        let mut ctx = Context {
            request,
            params: BTreeMap::new(),
        };
        let next = Next {
            middleware: &self.middleware,
            router: self,
        };
        next.run(&mut ctx)
    }

    fn dispatch(&self, ctx: &mut Context) -> Response<Body> {
        let path = ctx.request.uri().path().to_owned();
        let mut allowed: Vec<&Method> = Vec::new();
        for route in &self.routes {
            let Some(params) = matched(&route.pattern, &path) else {
                continue;
            };
            let method = ctx.request.method();
            match &route.method {
                Some(only) if only != method && !(only == Method::GET && method == Method::HEAD) => {
                    if !allowed.contains(&only) {
                        allowed.push(only);
                    }
                }
                _ => {
                    ctx.params = params;
                    return (route.handler)(ctx);
                }
            }
        }
        if allowed.is_empty() {
            return Error::not_found(format!("no route for {path}")).into_response();
        }
        let names = allowed
            .iter()
            .map(|method| method.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
        if let Ok(names) = HeaderValue::try_from(names) {
            response.headers_mut().insert(ALLOW, names);
        }
        response
    }
}

/// The parameters of a path that the pattern matches. Parameters are percent-decoded.
fn matched(pattern: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut params = BTreeMap::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let mut segments = pattern.split('/').peekable();
    while let Some(segment) = segments.next() {
        if let Some(name) = segment.strip_prefix('*') {
            params.insert(name.to_owned(), decoded(rest).into_owned());
            return Some(params);
        }
        let (head, tail) = match rest.split_once('/') {
            Some((head, tail)) => (head, Some(tail)),
            None => (rest, None),
        };
        match segment.strip_prefix(':') {
            Some(_) if head.is_empty() => return None,
            Some(name) => {
                params.insert(name.to_owned(), decoded(head).into_owned());
            }
            None if decoded(head) != segment => return None,
            None => {}
        }
        match (tail, segments.peek()) {
            (Some(tail), Some(_)) => rest = tail,
            (None, None) => return Some(params),
            _ => return None,
        }
    }
    None
}

/// Percent-decoded text. What does not decode to UTF-8 stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.push(high << 4 | low);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// What is left of the way of a request through the middleware.
pub struct Next<'a> {
    middleware: &'a [Middleware],
    router: &'a Router,
}

impl Next<'_> {
    /// Goes on and returns the response; errors of handlers are responses already.
    pub fn run(self, ctx: &mut Context) -> Response<Body> {
        match self.middleware {
            [first, middleware @ ..] => first(
                ctx,
                Next {
                    middleware,
                    router: self.router,
                },
            ),
            [] => self.router.dispatch(ctx),
        }
    }
}

/// A request on its way through a [`Router`]. Middleware hands things on in `ctx.request.extensions_mut()`.
#[derive(Debug)]
pub struct Context {
    /// The request. Its body can be read once.
    pub request: Request<Body>,
    params: BTreeMap<String, String>,
}

impl Context {
    /// A parameter of the route's pattern, percent-decoded.
    ///
    /// # Panics
    /// When the pattern has no such parameter, which is a mistake in the function.
    #[track_caller]
    pub fn param(&self, name: &str) -> &str {
        match self.params.get(name) {
            Some(value) => value,
            None => panic!("the route has no parameter {name:?}"),
        }
    }

    /// The first value of a query parameter, percent-decoded, with `+` as a space.
    pub fn query(&self, name: &str) -> Option<String> {
        query(self.request.uri().query().unwrap_or_default(), name)
    }

    /// The body, which is then gone.
    pub fn take_body(&mut self) -> Body {
        std::mem::take(self.request.body_mut())
    }

    /// The body, parsed as JSON.
    ///
    /// # Errors
    /// As [`Body::json`].
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.take_body().json()
    }
}

/// The first value of `name` in a query string.
fn query(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |text: &str| decoded(&text.replace('+', " ")).into_owned();
        (plain(key) == name).then(|| plain(value))
    })
}

/// Routes calls by the `$url` of their JSON payload, as tcb-router does.
///
/// ```
/// use cloudlet::{Calls, Result};
/// use serde_json::{Value, json};
///
/// #[cloudlet::call]
/// fn rooms(payload: Value) -> Result<Value> {
///     let mut calls = Calls::new();
///     calls.on("rooms/free", |_: Value| Ok(json!([12, 14])));
///     calls.on("rooms/book", |booking: Booking| Ok(json!({ "room": booking.room })));
///     calls.handle(payload)
/// }
///
/// struct Booking {
///     room: i32,
/// }
/// # impl<'de> serde::Deserialize<'de> for Booking {
/// #     fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
/// #         Ok(Booking { room: Value::deserialize(d)?["room"].as_i64().unwrap() as i32 })
/// #     }
/// # }
/// # assert_eq!(rooms(json!({ "$url": "rooms/book", "room": 14 })).unwrap(), json!({ "room": 14 }));
/// # assert!(matches!(rooms(json!({ "$url": "rooms/sell" })), Err(cloudlet::Error::NotFound(_))));
/// # assert!(matches!(rooms(json!([])), Err(cloudlet::Error::Invalid(_))));
/// ```
#[derive(Default)]
pub struct Calls {
    routes: BTreeMap<String, Box<dyn Fn(Value) -> Result<Value>>>,
}

impl Calls {
    /// No routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route; the handler gets the whole payload.
    pub fn on<T: DeserializeOwned>(
        &mut self,
        url: impl Into<String>,
        handler: impl Fn(T) -> Result<Value> + 'static,
    ) -> &mut Self {
        let handler = move |payload| {
            handler(
                serde_json::from_value(payload)
                    .map_err(|error| Error::invalid(format!("the payload: {error}")))?,
            )
        };
        self.routes.insert(url.into(), Box::new(handler));
        self
    }

    /// Answers a call.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a `$url`, [`Error::NotFound`] for one that is not routed, and the handler's own.
    pub fn handle(&self, payload: Value) -> Result<Value> {
        let url = payload
            .get("$url")
            .and_then(Value::as_str)
            .ok_or_else(|| Error::invalid("the payload names no route in \"$url\""))?;
        let handler = self
            .routes
            .get(url)
            .ok_or_else(|| Error::not_found(format!("no route {url:?} in \"$url\"")))?;
        handler(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: Option<&[(&str, &str)]>) {
        let expected = expected.map(|pairs| {
            pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        });
        assert_eq!(matched(pattern, path), expected, "{pattern} on {path}");
    }

    #[test]
    fn patterns_match_whole_paths() {
        check("/", "/", Some(&[]));
        check("/a", "/a", Some(&[]));
        check("/a", "/a/", None);
        check("/a", "/ab", None);
        check("/a", "/", None);
        check("/a/b", "/a/b", Some(&[]));
        check("/a/b", "/a", None);
        check("/:x", "/1", Some(&[("x", "1")]));
        check("/:x", "/", None);
        check("/:x/b/:y", "/1/b/2%2F3", Some(&[("x", "1"), ("y", "2/3")]));
        check("/files/*path", "/files/a/b.txt", Some(&[("path", "a/b.txt")]));
        check("/files/*path", "/files/", Some(&[("path", "")]));
        check("/files/*path", "/files", None);
    }

    #[test]
    fn queries_are_decoded_and_bad_escapes_kept() {
        assert_eq!(query("a=1&b=x%20y+z", "b").as_deref(), Some("x y z"));
        assert_eq!(query("a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(query("flag", "flag").as_deref(), Some(""));
        assert_eq!(query("a=%zz%2", "a").as_deref(), Some("%zz%2"));
        assert_eq!(query("", "a"), None);
    }
}
