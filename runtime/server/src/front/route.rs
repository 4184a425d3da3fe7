//! What answers a request: the app by host, then by path the platform's reserved paths, the app's HTTP triggers
//! (longest route wins), its hosted site. Pure look-ups in one snapshot of the registry; refuses hosts and paths that
//! two readers could read differently.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use cloudlet_base::Fault;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use serde::Serialize;

use crate::apps::registry::{ActiveApp, HttpRoute, RunningApp, Snapshot};
use crate::client_api::{Api, Dialect};
use crate::config::Cors;
use crate::front::body::Body;
use crate::front::respond::{self, Failure};
use crate::metrics::{self, Kind};
use crate::node::Node;

/// What answers a request.
pub(crate) enum Route {
    /// A file of the app's site.
    Site { app: Arc<ActiveApp> },
    /// The function of `app.routes[route]`.
    Function { app: Arc<ActiveApp>, route: usize },
    /// The client API.
    Client { app: Arc<ActiveApp>, api: Api },
    /// `POST /web` and `POST /admin` with `?env=`: the protocols before the gateway's.
    Legacy,
    /// The admin API.
    Admin,
    /// Health and readiness.
    Probe(Probe),
    /// Metrics.
    Metrics,
}

/// A question about the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Is the process alive?
    Health,
    /// Does it serve?
    Ready,
}

impl Route {
    /// The `kind` label of its metrics.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Route::Site { .. } => Kind::Site,
            Route::Function { .. } => Kind::Function,
            Route::Client { api, .. } => api.kind(),
            Route::Legacy => Kind::Database,
            Route::Admin => Kind::Admin,
            Route::Probe(_) | Route::Metrics => Kind::System,
        }
    }

    /// Whether it is about a stored object, which all deployments of an app share.
    pub(crate) fn is_object(&self) -> bool {
        matches!(
            self,
            Route::Client {
                api: Api::Object(_) | Api::Upload(_),
                ..
            }
        )
    }

    /// The app whose rates bind it, and the function when it is for one. Site files and the platform's own pages are bound
    /// by none: they cost little, and a page needs many of them at once.
    pub(crate) fn rated(&self) -> Option<(&ActiveApp, &str)> {
        match self {
            Route::Function { app, route } => Some((app, &app.routes[*route].function)),
            Route::Client {
                app,
                api: Api::Function(name),
            } => Some((app, name)),
            Route::Client {
                api: Api::KeySet | Api::Unknown,
                ..
            } => None,
            Route::Client { app, .. } => Some((app, "")),
            Route::Site { .. } | Route::Legacy | Route::Admin | Route::Probe(_) | Route::Metrics => None,
        }
    }

    /// Whether the platform speaks for it to browsers of other origins.
    pub(crate) fn cors(&self, config: &Cors) -> bool {
        match self {
            Route::Client { .. } | Route::Legacy => true,
            Route::Function { .. } => config.triggers,
            Route::Site { .. } | Route::Admin | Route::Probe(_) | Route::Metrics => false,
        }
    }

    /// The form in which it tells failures.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Route::Client { api, .. } => api.dialect(),
            Route::Legacy => Dialect::Legacy,
            _ => Dialect::Gateway,
        }
    }
}

impl Probe {
    /// The node listens only after everything is loaded and stops listening before anything is torn down, so an
    /// answer at all is both answers.
    pub(crate) fn answer(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Wire {
            status: &'static str,
        }
        let status = match self {
            Probe::Health => "ok",
            Probe::Ready => "ready",
        };
        respond::json(StatusCode::OK, &Wire { status })
    }
}

/// The page that Prometheus reads.
pub(crate) fn metrics(node: &Node) -> Response<Body> {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    respond::bytes(StatusCode::OK, content_type, metrics::render(&node.prometheus))
}

/// Routes a request of the admin listener.
pub(crate) fn admin(parts: &Parts) -> Result<Route, Failure> {
    check_admin_path(parts.uri.path())?;
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    match parts.uri.path() {
        "/healthz" if reads => Ok(Route::Probe(Probe::Health)),
        "/readyz" if reads => Ok(Route::Probe(Probe::Ready)),
        "/metrics" if reads => Ok(Route::Metrics),
        "/healthz" | "/readyz" | "/metrics" => Err(Failure::method_not_allowed("GET, HEAD")),
        _ => Ok(Route::Admin),
    }
}

/// What a request of the public listener is for, before a deployment of the app is chosen.
pub(crate) struct Target {
    pub(crate) app: Arc<RunningApp>,
    /// The part of the client API, when its path is reserved.
    api: Option<Api>,
}

impl Target {
    /// Whether the authorization header is a caller's bearer token here.
    pub(crate) fn takes_principal(&self) -> bool {
        self.api.as_ref().is_none_or(Api::takes_principal)
    }
}

/// The app that a request of the public listener is for.
pub(crate) fn target(node: &Node, parts: &Parts) -> Result<Target, Failure> {
    let host = host(parts)?;
    let path = parts.uri.path();
    check_path(path)?;
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Failure::method_not_allowed(ANY_METHOD));
    }
    let snapshot = node.apps.snapshot();
    Ok(Target {
        app: app(&snapshot, &node.config.domains, &host)?.clone(),
        api: Api::parse(path)?,
    })
}

/// Routes a request of the public listener, as `app`, one deployment of the target's, has it.
pub(crate) fn public(
    node: &Node,
    target: Target,
    app: Arc<ActiveApp>,
    parts: &Parts,
) -> Result<Route, Failure> {
    if let Some(api) = target.api {
        return Ok(Route::Client { app, api });
    }
    if is_legacy(parts) {
        return Ok(Route::Legacy);
    }
    let path = parts.uri.path();
    match trigger(&app.routes, path, &parts.method, node.config.cors.triggers)? {
        Some(route) => Ok(Route::Function { app, route }),
        None => Ok(Route::Site { app }),
    }
}

const ANY_METHOD: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

fn is_legacy(parts: &Parts) -> bool {
    parts.method == Method::POST
        && matches!(parts.uri.path(), "/web" | "/admin")
        && parts
            .uri
            .query()
            .is_some_and(|q| q.split('&').any(|pair| pair.starts_with("env=")))
}

/// The app that a host names: a custom domain, `APP.DOMAIN`, or the only one there is.
fn app<'a>(snapshot: &'a Snapshot, domains: &[String], host: &str) -> Result<&'a Arc<RunningApp>, Failure> {
    if let Some(app) = snapshot.domains.get(host).and_then(|id| snapshot.apps.get(id)) {
        return Ok(app);
    }
    let named = domains
        .iter()
        .find_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'))
        .and_then(|name| snapshot.apps.get(name));
    if let Some(app) = named {
        return Ok(app);
    }
    let mut apps = snapshot.apps.values();
    let message = match (apps.next(), apps.next()) {
        (Some(only), None) => return Ok(only),
        (None, _) => "no app is deployed on this node yet; `cloudlet deploy` deploys one".to_owned(),
        _ => format!("no app is served at host {host:?}"),
    };
    Err(Failure::new(Fault::NotFound, message).code("INVALIID_ENV"))
}

/// The host that a request is for: lower-case, without port and final dot; empty when HTTP/1.0 names none.
fn host(parts: &Parts) -> Result<Cow<'_, str>, Failure> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(bad_host("more than one host header"));
    }
    let line = line
        .map(|value| {
            value
                .to_str()
                .map_err(|_| bad_host("the host header is not text"))
        })
        .transpose()?;
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let text = match (target, line) {
        (Some(target), Some(line)) if !target.eq_ignore_ascii_case(line) => {
            return Err(bad_host(
                "the host header and the request target name different hosts",
            ));
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) if parts.version <= Version::HTTP_10 => "",
        (None, None) => return Err(bad_host("the host header is missing")),
    };
    host_name(text).ok_or_else(|| bad_host("the host is malformed"))
}

fn bad_host(what: &'static str) -> Failure {
    Failure::new(Fault::Invalid, what).code("INVALID_HOST")
}

/// `name[:port]` or `[v6][:port]` as a lower-case name.
fn host_name(text: &str) -> Option<Cow<'_, str>> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (
                &text[..address.len() + 2],
                port.strip_prefix(':').or(port.is_empty().then_some("0"))?,
            )
        }
        None => text.split_once(':').unwrap_or((text, "0")),
    };
    let port_ok = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    let name = name.strip_suffix('.').unwrap_or(name);
    let name_ok = name.starts_with('[')
        || (name.len() <= 253
            && !name.starts_with('.')
            && !name.contains("..")
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')));
    if !port_ok || !name_ok {
        return None;
    }
    Some(match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    })
}

/// As [`check_path`], but the name of a collection may have slashes and backslashes, encoded: the admin API takes a path
/// apart before it decodes the parts.
fn check_admin_path(path: &str) -> Result<(), Failure> {
    let mut segments: Vec<&str> = path.split('/').collect();
    let ["", "v1", "apps", _, "collections" | "documents", name, ..] = segments.as_mut_slice() else {
        return check_path(path);
    };
    if !name.contains('%') {
        return check_path(path);
    }
    let mut plain = name.to_owned();
    for slash in ["%2f", "%2F", "%5c", "%5C"] {
        plain = plain.replace(slash, "_");
    }
    *name = &plain;
    check_path(&segments.join("/"))
}

/// Refuses paths that some reader behind us could resolve to another: dot segments, encoded or not, encoded slashes
/// and backslashes, NUL, broken escapes.
fn check_path(path: &str) -> Result<(), Failure> {
    let refuse = |what| Err(Failure::new(Fault::Invalid, what).code("INVALID_PATH"));
    if !path.starts_with('/') {
        return refuse("the path does not begin with a slash");
    }
    let bytes = path.as_bytes();
    let plain = bytes.iter().all(|b| !matches!(b, b'%' | b'\\' | 0..=0x20 | 0x7f)) && !path.contains("/.");
    if plain {
        return Ok(());
    }
    let mut segment = Vec::new();
    let mut at = 0;
    loop {
        let byte = match bytes.get(at) {
            Some(b'%') => {
                let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return refuse("the path has a broken escape");
                };
                at += 3;
                match (high * 16 + low) as u8 {
                    b'/' | b'\\' | 0 => return refuse("the path has an encoded slash, backslash or NUL"),
                    byte => byte,
                }
            }
            Some(b'\\' | 0..=0x1f | 0x7f) => return refuse("the path has a backslash or control character"),
            Some(byte) => {
                at += 1;
                *byte
            }
            None => b'/',
        };
        if byte != b'/' {
            segment.push(byte);
            continue;
        }
        if matches!(segment.as_slice(), b"." | b"..") {
            return refuse("the path has a dot segment");
        }
        segment.clear();
        if at >= bytes.len() {
            return Ok(());
        }
    }
}

/// The trigger for a path: `routes` come longest first. Among those of the winning length the method decides.
fn trigger(
    routes: &[HttpRoute],
    path: &str,
    method: &Method,
    preflights: bool,
) -> Result<Option<usize>, Failure> {
    let matches = |route: &HttpRoute| {
        if !route.prefix {
            return path == route.path;
        }
        path.starts_with(&route.path) || route.path.strip_suffix('/') == Some(path)
    };
    let mut won: Option<&HttpRoute> = None;
    let mut allowed: Vec<&Method> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        if won.is_some_and(|won| won.path != route.path || won.prefix != route.prefix) {
            break;
        }
        if !matches(route) {
            continue;
        }
        won = Some(route);
        let takes = |method: &Method| route.methods.is_empty() || route.methods.contains(method);
        if takes(method)
            || (method == Method::HEAD && takes(&Method::GET))
            || (preflights && method == Method::OPTIONS)
        {
            return Ok(Some(index));
        }
        allowed.extend(&route.methods);
    }
    match won {
        None => Ok(None),
        Some(_) => {
            let names: Vec<&str> = allowed.iter().map(|m| m.as_str()).collect();
            Err(Failure::method_not_allowed(&names.join(", ")))
        }
    }
}

/// Whatever host and path are taken, nobody behind could read them differently; and of the routes of an app the longest
/// wins.
#[cfg(test)]
pub(crate) fn fuzz(parts: &Parts) {
    if let Ok(host) = host(parts) {
        let odd =
            |c: char| c.is_ascii_uppercase() || c.is_whitespace() || matches!(c, '/' | '@' | '\\' | '%');
        assert!(!host.contains(odd), "{host:?}");
    }
    let path = parts.uri.path();
    if check_path(path).is_err() {
        return;
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    assert!(!decoded.contains(&0) && !decoded.contains(&b'\\'), "{path:?}");
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    assert_eq!(slashes(&decoded), slashes(path.as_bytes()), "{path:?}");
    for segment in decoded.split(|byte| *byte == b'/') {
        assert!(!matches!(segment, b"." | b".."), "{path:?}");
    }
    // Longest first, as the registry has them.
    let routes = [
        ("/api/rooms/", true),
        ("/hello", false),
        ("/api/", true),
        ("/", true),
    ];
    let routes = routes.map(|(path, prefix)| HttpRoute {
        path: path.to_owned(),
        prefix,
        methods: Vec::new(),
        function: "f".into(),
    });
    let won = trigger(&routes, path, &parts.method, false);
    let under = |prefix: &str| format!("{path}/").starts_with(prefix);
    let expected = match path {
        _ if under("/api/rooms/") => 0,
        "/hello" => 1,
        _ if under("/api/") => 2,
        _ => 3,
    };
    assert_eq!(won.ok().flatten(), Some(expected), "{path:?}");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn hosts_are_names_without_port_and_case() {
        let ok =
            |text: &str, expected: &str| assert_eq!(host_name(text).as_deref(), Some(expected), "{text}");
        ok("hotel.localhost:8080", "hotel.localhost");
        ok("Hotel.Example.COM.", "hotel.example.com");
        ok("[::1]:80", "[::1]");
        ok("[::1]", "[::1]");
        ok("127.0.0.1", "127.0.0.1");
        ok("", "");
        for bad in [
            "a b", "a/b", "a@b", "a:80:81", "a:x", "[::1", "[x]", ".a", "a..b", "a:123456", "é",
        ] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }

    fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
        build(Request::builder()).body(()).unwrap().into_parts().0
    }

    #[test]
    fn contradicting_hosts_are_refused() {
        let fails = |parts: Parts| host(&parts).unwrap_err().message;
        assert!(fails(parts(|r| r.uri("/"))).contains("missing"));
        assert!(fails(parts(|r| r.uri("/").header(HOST, "a").header(HOST, "a"))).contains("more than one"));
        assert!(fails(parts(|r| r.uri("http://b/").header(HOST, "a"))).contains("different"));
        let same = parts(|r| r.uri("http://A:1/").header(HOST, "a:1"));
        assert_eq!(host(&same).unwrap(), "a");
        let old = parts(|r| r.uri("/").version(Version::HTTP_10));
        assert_eq!(host(&old).unwrap(), "");
    }

    #[test]
    fn path_tricks_are_refused() {
        for good in [
            "/",
            "/a",
            "/a/b.c",
            "/a//b",
            "/.well-known/x",
            "/a%20b",
            "/...",
            "/a..b",
            "/%E4%BD%A0",
            "/a/.b",
        ] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "/..",
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/.",
            "/%2e%2e/a",
            "/a/%2E./b",
            "/.%2e",
            "/a%2fb",
            "/a%5cb",
            "/a%00",
            "/a\\b",
            "/%",
            "/%2",
            "/%zz",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
            assert!(check_admin_path(bad).is_err(), "{bad}");
        }
        for (path, allowed) in [
            ("/v1/apps/web/collections/a%2Fb", true),
            ("/v1/apps/web/collections/%2f/indexes", true),
            ("/v1/apps/web/documents/a%5cb%2F..%2Fc/find", true),
            ("/v1/apps/web/documents/a%00b/find", false),
            ("/v1/apps/web/documents/%2e%2e/find", false),
            ("/v1/apps/web/documents/a/fi%2Fnd", false),
            ("/v1/apps/web/documents/a%2", false),
            ("/v1/apps/web%2Fcollections/a", false),
            ("/v1/apps/web/objects/a%2Fb", false),
            ("/v2/apps/web/collections/a%2Fb", false),
        ] {
            assert_eq!(check_admin_path(path).is_ok(), allowed, "{path}");
            assert!(!path.contains("%2F") || check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_longest_route_wins_and_decides_the_method() {
        let route = |path: &str, prefix, methods: &[Method]| HttpRoute {
            path: path.into(),
            prefix,
            methods: methods.to_vec(),
            function: "f".into(),
        };
        let routes = [
            route("/api/rooms/", true, &[Method::GET]),
            route("/api/rooms/", true, &[Method::POST]),
            route("/hello", false, &[]),
            route("/api/", true, &[]),
        ];
        let find =
            |method: Method, path: &str| trigger(&routes, path, &method, false).map_err(|f| f.http_status());
        assert_eq!(find(Method::GET, "/api/rooms/1"), Ok(Some(0)));
        assert_eq!(find(Method::HEAD, "/api/rooms/1"), Ok(Some(0)));
        assert_eq!(find(Method::POST, "/api/rooms/1"), Ok(Some(1)));
        assert_eq!(
            find(Method::DELETE, "/api/rooms/1"),
            Err(StatusCode::METHOD_NOT_ALLOWED)
        );
        assert_eq!(find(Method::GET, "/api/rooms"), Ok(Some(0)));
        assert_eq!(find(Method::GET, "/api"), Ok(Some(3)));
        assert_eq!(find(Method::DELETE, "/api/x"), Ok(Some(3)));
        assert_eq!(find(Method::GET, "/hello"), Ok(Some(2)));
        assert_eq!(find(Method::GET, "/hello/x"), Ok(None));
        assert_eq!(find(Method::GET, "/apix"), Ok(None));
    }
}
