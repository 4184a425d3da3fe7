//! Single values of the manifest as pure functions from text: durations, sizes, origins, routes, rules. Each
//! error is a pair of what is wrong and what to write.

use std::time::Duration;

use bson::RawDocumentBuf;
use cloudlet_data::retain_matching;
use cloudlet_data::rules::Rule;
use cloudlet_data::{PLATFORM_PREFIX, is_platform_collection};
use cloudlet_host::OutboundRule;
use http::Method;

use crate::apps::registry::{InvokeRule, StorageAccess};
use crate::front::rate::Rate;
use crate::triggers::changes::Operation;
use crate::triggers::timers::Missed;

/// What is wrong, and what to write instead.
pub(super) type Wrong = (String, String);

fn wrong(message: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    (message.into(), remedy.into())
}

/// `200ms`, `3s`, `5m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit_ms = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = text[..digits].parse::<u64>().ok();
    match number
        .zip(unit_ms)
        .and_then(|(number, unit)| number.checked_mul(unit))
    {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(wrong(
            format!("invalid duration {text:?}"),
            "write a whole number above 0 and a unit, e.g. \"200ms\", \"3s\", \"5m\"",
        )),
    }
}

/// `512KiB`, `64MiB`, `1GiB`, `100B`.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit: Option<u64> = match &text[digits..] {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let number = text[..digits].parse::<u64>().ok();
    match number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
    {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(wrong(
            format!("invalid size {text:?}"),
            "write a whole number above 0 and a unit, e.g. \"512KiB\", \"64MiB\"",
        )),
    }
}

/// `20/s`, `100/m burst 10`.
pub(crate) fn rate(text: &str) -> Result<Rate, Wrong> {
    Rate::parse(text).ok_or_else(|| {
        wrong(
            format!("invalid rate {text:?}"),
            "write requests in a second, minute or hour, e.g. \"20/s\", \"100/m\", \"20/s burst 40\"",
        )
    })
}

/// `https://host[:port]`, where the host may begin with `*.`.
pub(super) fn outbound(text: &str) -> Result<OutboundRule, Wrong> {
    const EXAMPLE: &str =
        "write scheme://host[:port], e.g. \"https://api.example.com\" or \"https://*.example.com\"";
    let no = |why: &str| Err(wrong(format!("invalid origin {text:?}: {why}"), EXAMPLE));
    let (https, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) => return no("the scheme is neither http nor https"),
        None => return no("it has no scheme"),
    };
    if rest.contains(['/', '?', '#', '@']) {
        return no("only scheme, host and port may be given");
    }
    let (host, port) = match rest.rsplit_once(':') {
        // `[::1]` ends in a bracket; its colons are not a port's.
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) if port != 0 => (host, port),
            _ => return no("the port is not a number from 1 to 65535"),
        },
        _ => (rest, if https { 443 } else { 80 }),
    };
    let host = host.to_ascii_lowercase();
    if !is_outbound_host(&host) {
        return no("the host is not a name, an address, or \"*.\" and a name");
    }
    Ok(OutboundRule { https, host, port })
}

fn is_outbound_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, wildcard) = match host.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (host, false),
    };
    // A name that ends in a number is an address to most readers, in one of the many ways to write one.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    match numeric {
        true => !wildcard && name.parse::<std::net::Ipv4Addr>().is_ok(),
        false => is_host_name(name),
    }
}

/// A DNS name or an IPv4 address, lower case.
pub(super) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// A path and whether everything under it belongs to the route.
pub(super) fn route(text: &str) -> Result<(String, bool), Wrong> {
    let no = |why: &str, remedy: &str| Err(wrong(format!("invalid route {text:?}: {why}"), remedy));
    let (path, prefix) = match text.strip_suffix("...") {
        Some(path) => (path, true),
        None => (text, false),
    };
    if !path.starts_with('/') {
        return no(
            "it does not begin with \"/\"",
            "write a path, e.g. \"/hello\" or \"/api/...\"",
        );
    }
    if prefix && !path.ends_with('/') {
        return no(
            "\"...\" stands for whole path segments",
            "write \"/\" before \"...\"",
        );
    }
    if path.contains("...") || path.contains('*') {
        return no(
            "a wildcard is possible at the end only",
            "write it as \"/api/...\"",
        );
    }
    if path.contains(['?', '#', '\\', ' ']) || path.bytes().any(|b| b < 0x21 || b == 0x7f) {
        return no(
            "it has characters that no path has",
            "write the path alone, percent-encoded",
        );
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return no(
            "it is not a normal path",
            "remove empty, \".\" and \"..\" segments",
        );
    }
    Ok((path.to_owned(), prefix))
}

/// Paths that are always the platform's.
const RESERVED: [&str; 5] = [
    "/v1/functions/",
    "/v1/database/",
    "/v1/storages/",
    "/auth/v1/",
    "/_cloudlet/",
];

/// Paths whose POST with `?env=` is the platform's.
const RESERVED_POST: [&str; 2] = ["/web", "/admin"];

/// Why a route can't be had, when it lies in what the platform answers itself. A prefix route around a reserved
/// path is fine: the platform's paths are looked up first.
pub(super) fn reserved(path: &str, prefix: bool, methods: &[Method]) -> Option<Wrong> {
    let inside = RESERVED
        .iter()
        .find(|reserved| path.starts_with(**reserved) || path == reserved.trim_end_matches('/'));
    if let Some(reserved) = inside {
        return Some(wrong(
            format!("route {path:?} overlaps {reserved:?}, which the platform answers"),
            "choose another path, e.g. one under \"/api/\"",
        ));
    }
    let posts = methods.is_empty() || methods.contains(&Method::POST);
    (!prefix && posts && RESERVED_POST.contains(&path)).then(|| {
        wrong(
            format!("route {path:?} overlaps the platform's POST {path}?env="),
            "choose another path, or name methods without POST",
        )
    })
}

/// An HTTP method.
pub(super) fn method(text: &str) -> Result<Method, Wrong> {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    KNOWN
        .into_iter()
        .find(|known| known.as_str() == text)
        .ok_or_else(|| {
            wrong(
                format!("unknown method {text:?}"),
                "write GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS in capitals",
            )
        })
}

/// A preset of the four.
pub(super) fn preset(text: &str) -> Result<Rule, Wrong> {
    match text {
        "READONLY" => Ok(Rule::ReadOnly),
        "PRIVATE" => Ok(Rule::Private),
        "ADMINWRITE" => Ok(Rule::AdminWrite),
        "ADMINONLY" => Ok(Rule::AdminOnly),
        _ => Err(wrong(
            format!("unknown preset {text:?}"),
            "write READONLY, PRIVATE, ADMINWRITE or ADMINONLY",
        )),
    }
}

/// What becomes of missed ticks.
pub(super) fn missed(text: &str) -> Result<Missed, Wrong> {
    match text {
        "skip" => Ok(Missed::Skip),
        "once" => Ok(Missed::Once),
        _ => Err(wrong(
            format!("missed is {text:?}"),
            "write \"skip\", or \"once\" to make up for the last tick that was missed",
        )),
    }
}

/// What may happen to a document.
pub(super) fn operation(text: &str) -> Result<Operation, Wrong> {
    let found = Operation::ALL.into_iter().find(|known| known.as_str() == text);
    found.ok_or_else(|| {
        wrong(
            format!("on has {text:?}"),
            "write \"insert\", \"update\", \"replace\" and \"delete\", or leave on out for all of them",
        )
    })
}

/// What an index does with a field: a direction, or the name of a kind.
pub(super) fn index_key(field: &str, to: &toml::Value) -> Result<bson::Bson, Wrong> {
    match to {
        toml::Value::Integer(1) => Ok(bson::Bson::Int32(1)),
        toml::Value::Integer(-1) => Ok(bson::Bson::Int32(-1)),
        toml::Value::String(kind) if INDEX_KINDS.contains(&kind.as_str()) => Ok(kind.as_str().into()),
        other => Err(wrong(
            format!("direction {other} of {field:?}"),
            "write 1 or -1, or \"2dsphere\", \"2d\" or \"hashed\"",
        )),
    }
}

/// Kinds of indexes that are not in the order of their values.
const INDEX_KINDS: [&str; 3] = ["2dsphere", "2d", "hashed"];

/// A document that is written as extended JSON in TOML.
pub(super) fn extended(table: &toml::Table) -> Result<bson::Document, Wrong> {
    let refused = |error: &dyn std::fmt::Display| {
        wrong(
            format!("no extended JSON: {error}"),
            "write a table of MongoDB's extended JSON, e.g. { n = { \"$gt\" = 5 } }",
        )
    };
    let json = extended_json(&toml::Value::Table(table.clone()))?;
    match bson::Bson::try_from(json).map_err(|error| refused(&error))? {
        bson::Bson::Document(document) => Ok(document),
        other => Err(refused(&other)),
    }
}

/// An index, by MongoDB's specification of it.
pub(super) fn index(document: &bson::Document) -> Result<cloudlet_data::IndexSpec, Wrong> {
    let refused = |error: &dyn std::fmt::Display| {
        wrong(
            format!("no index can be made of this: {error}"),
            "see docs/manifest.md for what an index may be",
        )
    };
    let document = RawDocumentBuf::try_from(document).map_err(|error| refused(&error))?;
    cloudlet_data::IndexSpec::parse(&document).map_err(|error| refused(&error))
}

/// The parts of a change event that a filter may ask about.
const EVENT_PARTS: [&str; 8] = [
    "fullDocument",
    "fullDocumentBeforeChange",
    "updateDescription",
    "documentKey",
    "operationType",
    "ns",
    "clusterTime",
    "wallTime",
];

/// A filter for change events, written as extended JSON in TOML.
pub(super) fn event_filter(table: &toml::Table) -> Result<RawDocumentBuf, Wrong> {
    for (path, value) in table.iter().filter(|(path, _)| !path.starts_with('$')) {
        let part = path.split('.').next().unwrap_or_default();
        if !EVENT_PARTS.contains(&part) {
            return Err(wrong(
                format!("the filter asks about {path:?}, which no change event has"),
                format!("write \"fullDocument.{path}\" for a field of the document"),
            ));
        }
        // TOML makes tables of dots outside quotes, and a table would have to be the whole value.
        let inner = value.as_table().and_then(|table| table.keys().next());
        if let Some(inner) = inner.filter(|inner| !inner.starts_with('$')) {
            return Err(wrong(
                format!("the filter has a table under {path:?}"),
                format!(
                    "write the whole path in quotes, \"{path}.{inner}\" = ..., or an operator, {{ \"$eq\" = ... }}"
                ),
            ));
        }
    }
    let json = extended_json(&toml::Value::Table(table.clone()))?;
    let refused = |error: &dyn std::fmt::Display| {
        wrong(
            format!("the filter is none: {error}"),
            "write a MongoDB filter in extended JSON, e.g. { \"fullDocument.status\" = \"open\" }",
        )
    };
    let filter = match bson::Bson::try_from(json).map_err(|error| refused(&error))? {
        bson::Bson::Document(filter) => filter,
        _ => return Err(refused(&"it is a single value")),
    };
    let filter = RawDocumentBuf::try_from(&filter).map_err(|error| refused(&error))?;
    // An expression needs the engine's surroundings: the node looks at it before it takes the deployment.
    let fields = filter.iter().filter_map(Result::ok);
    let mut without_expression = RawDocumentBuf::new();
    for (name, value) in fields.filter(|(name, _)| name.as_str() != "$expr") {
        without_expression.append(name, value);
    }
    retain_matching(&without_expression, &mut Vec::new()).map_err(|error| refused(&error))?;
    Ok(filter)
}

fn extended_json(value: &toml::Value) -> Result<serde_json::Value, Wrong> {
    Ok(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(date) => {
            return Err(wrong(
                format!("the filter has the date {date}"),
                format!("write {{ \"$date\" = \"{date}\" }}, as extended JSON has it"),
            ));
        }
        toml::Value::Array(values) => {
            let values: Result<Vec<_>, _> = values.iter().map(extended_json).collect();
            values?.into()
        }
        toml::Value::Table(table) => {
            let pairs = table
                .iter()
                .map(|(key, value)| Ok((key.clone(), extended_json(value)?)));
            serde_json::Value::Object(pairs.collect::<Result<_, Wrong>>()?)
        }
    })
}

/// Who may call a function.
pub(super) fn invoke(text: &str) -> Result<InvokeRule, Wrong> {
    match squeeze(text).as_str() {
        "true" => Ok(InvokeRule::Anyone),
        "auth!=null" => Ok(InvokeRule::LoggedIn),
        "false" => Ok(InvokeRule::Nobody),
        _ => Err(wrong(
            format!("rule {text:?} is not offered for calls"),
            "write \"true\", \"false\" or \"auth != null\"",
        )),
    }
}

/// One side of a storage rule.
pub(super) fn storage_access(text: &str) -> Result<StorageAccess, Wrong> {
    match squeeze(text).as_str() {
        "true" => Ok(StorageAccess::Anyone),
        "auth!=null" => Ok(StorageAccess::LoggedIn),
        "false" => Ok(StorageAccess::Nobody),
        "auth!=null&&resource.openid==auth.openid"
        | "auth!=null&&auth.openid==resource.openid"
        | "resource.openid==auth.openid"
        | "auth.openid==resource.openid" => Ok(StorageAccess::Owner),
        _ => Err(wrong(
            format!("rule {text:?} is not offered for objects"),
            "write \"true\", \"false\", \"auth != null\" or \"auth != null && resource.openid == auth.openid\"",
        )),
    }
}

fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// A prefix of object paths: empty for all, or segments that end in a slash or in the middle of a name.
pub(super) fn object_prefix(text: &str) -> Result<(), Wrong> {
    if text.starts_with('/') || text.contains("//") || text.split('/').any(|s| s == "." || s == "..") {
        return Err(wrong(
            format!("invalid path prefix {text:?}"),
            "write it without a leading slash, e.g. \"photos/\"; \"\" is everything",
        ));
    }
    Ok(())
}

/// A name of a function, a var, a secret or a key-value store.
pub(super) fn name(what: &str, text: &str) -> Result<(), Wrong> {
    let ok = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || (b == b'.' && what == "var"))
        && !text.starts_with('-');
    match ok {
        true => Ok(()),
        false => Err(wrong(
            format!("invalid {what} name {text:?}"),
            "write 1 to 64 letters, digits, '_' and '-', not beginning with '-'",
        )),
    }
}

/// A collection's name, as MongoDB has it.
pub(super) fn collection_name(text: &str) -> Result<(), Wrong> {
    let ok = (1..=200).contains(&text.len())
        && !text.contains(['$', '\0'])
        && !text.starts_with('.')
        && !text.ends_with('.')
        && !text.starts_with("system.");
    if is_platform_collection(text) {
        return Err(wrong(
            format!("collection {text:?} is the platform's, as all that begin with {PLATFORM_PREFIX:?}"),
            "name another collection; key-value stores are granted by grants.keyvalue",
        ));
    }
    match ok {
        true => Ok(()),
        false => Err(wrong(
            format!("invalid collection name {text:?}"),
            "write 1 to 200 bytes without '$', no dot at either end, not beginning with \"system.\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in [
            "",
            "3",
            "s",
            "-1s",
            "0s",
            "1.5s",
            "3 s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1B"), Ok(1));
        for bad in ["", "64", "64MB", "0MiB", "MiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let rule = |https, host: &str, port| {
            Ok(OutboundRule {
                https,
                host: host.into(),
                port,
            })
        };
        assert_eq!(
            outbound("https://Vision.example.com"),
            rule(true, "vision.example.com", 443)
        );
        assert_eq!(outbound("http://localhost:9000"), rule(false, "localhost", 9000));
        assert_eq!(
            outbound("https://*.example.com"),
            rule(true, "*.example.com", 443)
        );
        assert_eq!(outbound("http://127.0.0.1"), rule(false, "127.0.0.1", 80));
        assert_eq!(outbound("http://[::1]:81"), rule(false, "[::1]", 81));
        assert_eq!(outbound("http://[::1]"), rule(false, "[::1]", 80));
        for bad in [
            "example.com",
            "ftp://example.com",
            "https://",
            "https://a/b",
            "https://u@a",
            "https://a:0",
            "https://a:x",
            "https://*",
            "https://a.*.com",
            "https://[::x]",
            "http://2130706433",
            "http://127.1",
            "http://0177.0.0.1",
            "http://0x7f.0.0.1",
            "http://a.0x7f",
            "http://*.0.0.1",
            "http://127.0.0.1.",
            "https://a b",
        ] {
            assert!(outbound(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn routes_are_paths_with_a_wildcard_at_the_end_only() {
        assert_eq!(route("/hello"), Ok(("/hello".into(), false)));
        assert_eq!(route("/api/..."), Ok(("/api/".into(), true)));
        assert_eq!(route("/..."), Ok(("/".into(), true)));
        for bad in [
            "", "hello", "/api...", "/a/.../b", "/a/*", "/a?b", "/a//b", "/a/../b", "/a b", "...",
        ] {
            assert!(route(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_paths_are_refused_and_wider_prefixes_are_not() {
        for (path, prefix) in [
            ("/v1/functions/", true),
            ("/v1/functions", false),
            ("/v1/database/x", false),
            ("/auth/v1/signin", false),
            ("/_cloudlet/", true),
            ("/web", false),
        ] {
            assert!(reserved(path, prefix, &[]).is_some(), "{path}");
        }
        for (path, prefix) in [
            ("/", true),
            ("/v1/", true),
            ("/v1/things", false),
            ("/website", false),
        ] {
            assert!(reserved(path, prefix, &[]).is_none(), "{path}");
        }
        assert!(reserved("/admin", false, &[Method::GET]).is_none());
        assert!(reserved("/admin", false, &[Method::POST]).is_some());
    }

    #[test]
    fn rules_do_not_depend_on_spaces() {
        assert_eq!(invoke("auth!=null"), Ok(InvokeRule::LoggedIn));
        assert_eq!(
            storage_access(" auth != null && resource.openid == auth.openid"),
            Ok(StorageAccess::Owner)
        );
        assert!(invoke("auth.uid == 'x'").is_err());
        assert!(storage_access("maybe").is_err());
    }
}
