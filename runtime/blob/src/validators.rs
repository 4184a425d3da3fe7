//! Entity tags, byte ranges, conditional requests: RFC 9110 sections 8.8, 13 and 14 as pure functions over header
//! values. The front and the client API gather the headers, call [`Conditions::evaluate`] and turn the
//! [`Outcome`] into a status; nothing here reads a clock or a body.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use cloudlet_base::{ContentHash, Timestamp};

/// `Cache-Control` of content whose URL changes with it (hashed site assets): kept for a year, never asked again.
pub const CACHE_IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// `Cache-Control` of what may be kept but is to be revalidated by its tag each time (pages, objects by default).
pub const CACHE_REVALIDATE: &str = "no-cache";

/// `Cache-Control` of what only its owner's own browser may keep.
pub const CACHE_PRIVATE: &str = "private, no-cache";

/// `Cache-Control` of what anybody may keep for a time.
pub fn cache_max_age(age: Duration) -> String {
    format!("public, max-age={}", age.as_secs())
}

/// The strong entity tag of content: its SHA-256 in hex, in quotes.
pub fn etag(hash: ContentHash) -> String {
    format!("\"{hash}\"")
}

/// The `Last-Modified` text of a moment; whole seconds.
pub fn last_modified(modified: Timestamp) -> String {
    let seconds = u64::try_from(modified.seconds())
        .unwrap_or(0)
        .min(LAST_HTTP_SECOND);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The last second of the year 9999, the last that an HTTP date can say.
const LAST_HTTP_SECOND: u64 = 253_402_300_799;

/// What kind of request is made conditional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET: the only one that ranges apply to.
    Get,
    /// HEAD.
    Head,
    /// Anything that changes the object.
    Write,
}

/// What is there now.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The strong tag, quoted, as from [`etag`].
    pub etag: &'a str,
    /// When it was stored.
    pub modified: Timestamp,
    /// Size in bytes.
    pub size: u64,
}

/// The conditional and range headers of a request, as sent; several lines of one header joined by `, `. The
/// caller leaves out what is not valid text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a str>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
    /// `Range`.
    pub range: Option<&'a str>,
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole object (200), or go on with the write.
    Full,
    /// 304: the client's copy is good.
    NotModified,
    /// 412: the object is not what the client thinks.
    PreconditionFailed,
    /// 206 with these bytes; not empty, within the size.
    Partial(Range<u64>),
    /// 416 with `Content-Range: bytes */SIZE`.
    Unsatisfiable,
}

impl Conditions<'_> {
    /// Judges a request on what is there (`None`: nothing) in the order of RFC 9110 section 13.2.2.
    pub fn evaluate(&self, method: Method, current: Option<Current<'_>>) -> Outcome {
        let etag = current.map(|current| current.etag);
        if let Some(wanted) = self.if_match {
            if !tag_list_has(wanted, etag, Comparison::Strong) {
                return Outcome::PreconditionFailed;
            }
        } else if let (Some(limit), Some(current)) = (self.if_unmodified_since.and_then(parse_date), current)
            && current.modified.seconds() > limit
        {
            return Outcome::PreconditionFailed;
        }
        let reads = matches!(method, Method::Get | Method::Head);
        if let Some(known) = self.if_none_match {
            if tag_list_has(known, etag, Comparison::Weak) {
                return if reads {
                    Outcome::NotModified
                } else {
                    Outcome::PreconditionFailed
                };
            }
        } else if let (true, Some(since), Some(current)) =
            (reads, self.if_modified_since.and_then(parse_date), current)
            && current.modified.seconds() <= since
        {
            return Outcome::NotModified;
        }
        match (method, self.range, current) {
            (Method::Get, Some(range), Some(current)) if self.range_applies(current.etag) => {
                parse_range(range, current.size)
            }
            _ => Outcome::Full,
        }
    }

    /// `If-Range` holds only for a strong tag. A date never does: two versions may be stored within its second,
    /// and every answer of ours carries a tag that a client can use instead.
    fn range_applies(&self, etag: &str) -> bool {
        match self.if_range {
            None => true,
            Some(validator) => validator.trim() == etag,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether the list (`*`, or tags between commas) has the current tag. Ours are strong, so a weak one in the list
/// equals it only under weak comparison. What is not a tag is passed over.
fn tag_list_has(list: &str, current: Option<&str>, comparison: Comparison) -> bool {
    let Some(current) = current else { return false };
    if list.trim() == "*" {
        return true;
    }
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let Some(end) = tag.strip_prefix('"').and_then(|inner| inner.find('"')) else {
            // Not a tag: go on behind the next comma.
            match rest.find(',') {
                Some(comma) => rest = &rest[comma..],
                None => return false,
            }
            continue;
        };
        let (opaque, behind) = tag.split_at(end + 2);
        if opaque == current && !(weak && comparison == Comparison::Strong) {
            return true;
        }
        rest = behind;
    }
}

/// Seconds since the epoch of an HTTP date; a text that is none is as if the header were not there.
fn parse_date(text: &str) -> Option<i64> {
    let moment = httpdate::parse_http_date(text.trim()).ok()?;
    let since = moment.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// One byte range. Other units, malformed texts and several ranges are answered in full, as the RFC allows.
fn parse_range(text: &str, size: u64) -> Outcome {
    let Some((unit, spec)) = text.split_once('=') else {
        return Outcome::Full;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Outcome::Full;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Outcome::Full;
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (parse_position(first), parse_position(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return Outcome::Full,
    };
    if range.is_empty() {
        Outcome::Unsatisfiable
    } else {
        Outcome::Partial(range)
    }
}

/// Digits only; a number too large for 64 bits is the largest, which is beyond every object.
fn parse_position(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"abc\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn current(size: u64) -> Option<Current<'static>> {
        Some(Current {
            etag: TAG,
            modified: Timestamp(784_111_777_900),
            size,
        })
    }

    #[test]
    fn texts() {
        let hash = ContentHash::from_bytes([0xab; 32]);
        assert_eq!(etag(hash), format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(last_modified(Timestamp(784_111_777_900)), DATE);
        assert_eq!(last_modified(Timestamp(-5)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(last_modified(Timestamp(i64::MAX)).contains("9999"));
        assert_eq!(cache_max_age(Duration::from_secs(3600)), "public, max-age=3600");
    }

    #[test]
    fn ranges() {
        let check = |range: &str, size: u64, expected: Outcome| {
            let conditions = Conditions {
                range: Some(range),
                ..Conditions::default()
            };
            assert_eq!(
                conditions.evaluate(Method::Get, current(size)),
                expected,
                "{range} of {size}"
            );
            assert_eq!(
                conditions.evaluate(Method::Head, current(size)),
                Outcome::Full,
                "HEAD {range}"
            );
        };
        let part = |first, end| Outcome::Partial(first..end);
        check("bytes=0-0", 10, part(0, 1));
        check("bytes=0-9", 10, part(0, 10));
        check("bytes=0-99", 10, part(0, 10));
        check("bytes=9-", 10, part(9, 10));
        check("bytes=-3", 10, part(7, 10));
        check("bytes=-99", 10, part(0, 10));
        check("Bytes = 2-3", 10, part(2, 4));
        check("bytes=10-", 10, Outcome::Unsatisfiable);
        check("bytes=10-20", 10, Outcome::Unsatisfiable);
        check("bytes=-0", 10, Outcome::Unsatisfiable);
        check("bytes=0-", 0, Outcome::Unsatisfiable);
        check("bytes=-5", 0, Outcome::Unsatisfiable);
        check("bytes=99999999999999999999999-", 10, Outcome::Unsatisfiable);
        check("bytes=5-99999999999999999999999", 10, part(5, 10));
        for odd in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=1",
            "items=0-1",
            "bytes=+1-2",
        ] {
            check(odd, 10, Outcome::Full);
        }
        check("bytes=0-1,4-5", 10, Outcome::Full);
    }

    #[test]
    fn tags_and_dates() {
        use Method::{Get, Head, Write};
        use Outcome::{Full, NotModified, PreconditionFailed};
        let none = Conditions::default();
        let check = |conditions: Conditions<'_>, method, expected| {
            assert_eq!(
                conditions.evaluate(method, current(10)),
                expected,
                "{conditions:?} {method:?}"
            );
        };
        for (list, hit) in [
            (TAG, true),
            ("*", true),
            ("\"x\", \"abc\"", true),
            ("\"x,y\",\"abc\"", true),
            ("garbage, \"abc\"", true),
            ("\"x\"", false),
            ("abc", false),
            ("\"abc", false),
            ("", false),
        ] {
            let conditions = Conditions {
                if_none_match: Some(list),
                ..none
            };
            check(conditions, Get, if hit { NotModified } else { Full });
            check(conditions, Head, if hit { NotModified } else { Full });
            check(conditions, Write, if hit { PreconditionFailed } else { Full });
            let conditions = Conditions {
                if_match: Some(list),
                ..none
            };
            check(conditions, Get, if hit { Full } else { PreconditionFailed });
        }
        // Weak comparison for If-None-Match, strong for If-Match.
        check(
            Conditions {
                if_none_match: Some("W/\"abc\""),
                ..none
            },
            Get,
            NotModified,
        );
        check(
            Conditions {
                if_match: Some("W/\"abc\""),
                ..none
            },
            Get,
            PreconditionFailed,
        );
        check(
            Conditions {
                if_match: Some("W/\"abc\", \"abc\""),
                ..none
            },
            Get,
            Full,
        );
        for (date, since, unmodified) in [
            (BEFORE, Full, PreconditionFailed),
            (DATE, NotModified, Full),
            (AFTER, NotModified, Full),
            ("yesterday", Full, Full),
        ] {
            check(
                Conditions {
                    if_modified_since: Some(date),
                    ..none
                },
                Get,
                since,
            );
            check(
                Conditions {
                    if_modified_since: Some(date),
                    ..none
                },
                Write,
                Full,
            );
            check(
                Conditions {
                    if_unmodified_since: Some(date),
                    ..none
                },
                Get,
                unmodified,
            );
        }
        // Tags outrank dates.
        check(
            Conditions {
                if_none_match: Some("\"x\""),
                if_modified_since: Some(AFTER),
                ..none
            },
            Get,
            Full,
        );
        check(
            Conditions {
                if_match: Some(TAG),
                if_unmodified_since: Some(BEFORE),
                ..none
            },
            Get,
            Full,
        );
    }

    #[test]
    fn nothing_there() {
        let check = |conditions: Conditions<'_>, expected| {
            assert_eq!(
                conditions.evaluate(Method::Write, None),
                expected,
                "{conditions:?}"
            );
        };
        check(
            Conditions {
                if_match: Some("*"),
                ..Default::default()
            },
            Outcome::PreconditionFailed,
        );
        check(
            Conditions {
                if_none_match: Some("*"),
                ..Default::default()
            },
            Outcome::Full,
        );
    }

    #[test]
    fn if_range_needs_the_same_strong_tag() {
        let check = |if_range, expected| {
            let conditions = Conditions {
                range: Some("bytes=0-1"),
                if_range: Some(if_range),
                ..Default::default()
            };
            assert_eq!(
                conditions.evaluate(Method::Get, current(10)),
                expected,
                "{if_range}"
            );
        };
        check(TAG, Outcome::Partial(0..2));
        check("W/\"abc\"", Outcome::Full);
        check("\"x\"", Outcome::Full);
        check(DATE, Outcome::Full);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ranges_are_within_the_size(text in "(bytes)?=?[0-9]{0,22}-?[0-9]{0,22},?.{0,5}", size in 0..200_u64) {
            if let Outcome::Partial(range) = parse_range(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn odd_lists_end(list in "[\"W/,a *]{0,20}") {
            tag_list_has(&list, Some("\"a\""), Comparison::Weak);
        }
    }
}
