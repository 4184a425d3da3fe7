//! Which deployment answers a request of an app whose requests are split, and what the response has to say for it.
//!
//! A visitor is a user (by owner id), the holder of an admin key or, without a good token, the browser that keeps the
//! cookie [`COOKIE`]. A user's visitor number goes into the cookie, too, so that the pages of a browser, which are
//! asked for without a token, come from the deployment that its calls go to. The whole request is of the deployment
//! chosen: site files, functions, rules. Called by pipeline.rs; `apps/split.rs` has the choice itself.

use std::sync::Arc;

use cloudlet_base::{AppId, Principal};
use http::header::{CACHE_CONTROL, COOKIE as COOKIE_HEADER, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::apps::registry::{ActiveApp, RunningApp};
use crate::node::Node;

/// The cookie that names a visitor: 16 hex digits. It says nothing of who that is.
const COOKIE: &str = "cloudlet_visitor";
/// How long a browser keeps it, in seconds: 30 days.
const COOKIE_AGE_S: u32 = 30 * 24 * 3600;
/// Cookies of a request that are looked at.
const COOKIES_MAX: usize = 100;

/// What was chosen for a request.
pub(crate) struct Version {
    pub(crate) app: Arc<ActiveApp>,
    /// What there is to do when the app's requests are split.
    pub(crate) split: Option<Assigned>,
}

/// A visitor's place in a split.
pub(crate) struct Assigned {
    visitor: u64,
    /// Whether the browser's cookie says otherwise, or nothing.
    tell: bool,
    /// Whether it is not the active deployment.
    pub(crate) candidate: bool,
    pub(crate) app: Arc<ActiveApp>,
}

/// Chooses. `principal` is who a good token says is asking.
pub(crate) fn choose(
    node: &Node,
    running: &RunningApp,
    principal: Option<&Principal>,
    headers: &HeaderMap,
) -> Version {
    let Some(split) = &running.split else {
        return Version {
            app: running.active.clone(),
            split: None,
        };
    };
    let cookie = cookie(headers);
    let known = principal.and_then(|principal| known(&running.active.id, principal));
    let visitor = known.or(cookie).unwrap_or_else(|| {
        let mut bytes = [0; 8];
        node.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    let candidate = split.candidate(visitor);
    let app = candidate.unwrap_or(&running.active).clone();
    let assigned = Assigned {
        visitor,
        tell: cookie != Some(visitor),
        candidate: candidate.is_some(),
        app: app.clone(),
    };
    Version {
        app,
        split: Some(assigned),
    }
}

/// The visitor that a principal is, on every device.
fn known(app: &AppId, principal: &Principal) -> Option<u64> {
    let (kind, id) = match principal {
        Principal::User(user) => ("user", user.owner_id()),
        Principal::Admin { key_id } => ("key", &**key_id),
        Principal::Public | Principal::Function { .. } => return None,
    };
    let mut digest = Sha256::new();
    for part in [app.as_str(), kind, id] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    Some(u64::from_le_bytes(std::array::from_fn(|at| digest[at])))
}

/// The visitor that a browser's cookie names.
fn cookie(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(COOKIE_HEADER).iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).take(COOKIES_MAX);
    let value = pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)?;
    let hex = value.len() == 16 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| u64::from_str_radix(value, 16).ok()).flatten()
}

impl Assigned {
    /// Keeps the response from those for whom another deployment answers, and tells the browser who it is.
    pub(crate) fn mark(&self, headers: &mut HeaderMap, secure: bool) {
        headers.append(VARY, HeaderValue::from_static("cookie, authorization"));
        if let Some(private) = private(headers) {
            headers.insert(CACHE_CONTROL, private);
        }
        if self.tell {
            let secure = if secure { "; Secure" } else { "" };
            let cookie = format!(
                "{COOKIE}={:016x}; Path=/; Max-Age={COOKIE_AGE_S}; HttpOnly; SameSite=Lax{secure}",
                self.visitor
            );
            // Digits and constants are always a header value.
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                headers.append(SET_COOKIE, cookie);
            }
        }
    }
}

/// Cache-Control as it has to be that no shared cache keeps the response; `None` when it is so already.
fn private(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let text = lines
        .filter_map(|line| line.to_str().ok())
        .collect::<Vec<_>>()
        .join(", ");
    let directives = || {
        text.split(',')
            .map(str::trim)
            .filter(|directive| !directive.is_empty())
    };
    let is = |directive: &str, name: &str| directive.eq_ignore_ascii_case(name);
    if directives().any(|directive| is(directive, "private") || is(directive, "no-store")) {
        return None;
    }
    let shared = |directive: &&str| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        ["public", "s-maxage", "proxy-revalidate"]
            .iter()
            .any(|shared| is(name, shared))
    };
    let kept = directives().filter(|directive| !shared(directive));
    let text = std::iter::once("private")
        .chain(kept)
        .collect::<Vec<_>>()
        .join(", ");
    Some(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("private")))
}

#[cfg(test)]
mod tests {
    use cloudlet_base::{LoginType, User};

    use super::*;

    fn headers(name: http::HeaderName, lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_static(line));
        }
        headers
    }

    #[test]
    fn a_cookie_is_found_and_nothing_else_taken_for_it() {
        let check = |lines: &[&'static str], expected| {
            assert_eq!(cookie(&headers(COOKIE_HEADER, lines)), expected, "{lines:?}");
        };
        check(&[], None);
        check(&["cloudlet_visitor=00000000000000ff"], Some(255));
        check(&["a=b; cloudlet_visitor=00000000000000ff; c"], Some(255));
        check(&["a=b", "cloudlet_visitor=00000000000000ff"], Some(255));
        for wrong in [
            "cloudlet_visitor=",
            "cloudlet_visitor=ff",
            "cloudlet_visitor=00000000000000FF",
            "cloudlet_visitor=+0000000000000ff",
            "cloudlet_visitor=00000000000000ff0",
            "xcloudlet_visitor=00000000000000ff",
        ] {
            check(&[wrong], None);
        }
    }

    #[test]
    fn no_shared_cache_keeps_an_answer() {
        let check = |lines: &[&'static str], expected: Option<&str>| {
            let found = private(&headers(CACHE_CONTROL, lines));
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected,
                "{lines:?}"
            );
        };
        check(&[], Some("private"));
        check(&["no-cache"], Some("private, no-cache"));
        check(&["public, max-age=60"], Some("private, max-age=60"));
        check(&["Public", "S-Maxage=5, max-age=60"], Some("private, max-age=60"));
        check(&["private, max-age=60"], None);
        check(&["no-store"], None);
    }

    #[test]
    fn a_user_is_one_visitor_by_openid_then_uid() {
        let app: AppId = "web".parse().unwrap();
        let user = |uid: &str, openid: Option<&str>| {
            let user = User {
                app: app.clone(),
                uid: uid.into(),
                openid: openid.map(Into::into),
                login: LoginType::Username,
            };
            known(&app, &Principal::User(Arc::new(user)))
        };
        assert_eq!(user("u", None), user("u", None));
        assert_ne!(user("u", None), user("v", None));
        assert_eq!(user("u", Some("o")), user("v", Some("o")));
        assert_eq!(known(&app, &Principal::Public), None);
        let key = Principal::Admin { key_id: "u".into() };
        assert_ne!(known(&app, &key), user("u", None));
    }
}
