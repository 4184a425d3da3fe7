//! What may be an object's path: a name for people and URLs. It never becomes a file name: blobs have names of
//! their own, so this is about what clients may see, not about what a file system bears.

use crate::Error;

/// Longest path, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 1024;

/// Checks a whole path: relative, no empty, `.` or `..` segment, no control character, no backslash.
pub(crate) fn check(path: &str) -> Result<(), Error> {
    let refuse = |reason| Err(invalid(path, reason));
    if path.is_empty() {
        return refuse("it is empty");
    }
    check_prefix(path)?;
    for segment in path.split('/') {
        match segment {
            "" => return refuse("it has an empty segment; no slash may stand at the beginning or the end"),
            "." | ".." => return refuse("it has a \".\" or \"..\" segment"),
            _ => {}
        }
    }
    Ok(())
}

/// Checks the beginning of a path, as listings take it.
pub(crate) fn check_prefix(path: &str) -> Result<(), Error> {
    if path.len() > PATH_BYTES_MAX {
        return Err(invalid(path, "it is longer than 1024 bytes"));
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Err(invalid(path, "it has a control character or a backslash"));
    }
    Ok(())
}

/// The first text after all that begin with `prefix`, in byte order; `None` when there is none.
pub(crate) fn after_prefix(prefix: &str) -> Option<String> {
    let mut bound = prefix.to_owned();
    while let Some(last) = bound.pop() {
        // Scalar values order as their UTF-8 does; the step over the surrogates is the only gap.
        let next = if last == '\u{d7ff}' {
            Some('\u{e000}')
        } else {
            char::from_u32(u32::from(last) + 1)
        };
        if let Some(next) = next {
            bound.push(next);
            return Some(bound);
        }
    }
    None
}

fn invalid(path: &str, reason: &'static str) -> Error {
    Error::InvalidPath {
        path: path.chars().take(80).collect(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in [
            "a",
            "a/b.jpg",
            "照片/a b.png",
            ".hidden",
            "a..b",
            "...",
            "a#1?x=%2e",
            &"a".repeat(1024),
        ] {
            assert!(check(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\\b",
            "a\0",
            "a\nb",
            "a\u{7f}",
            "a\u{85}",
            &"a".repeat(1025),
        ] {
            assert!(matches!(check(bad), Err(Error::InvalidPath { .. })), "{bad:?}");
        }
        assert!(check_prefix("").is_ok() && check_prefix("a/").is_ok());
    }

    #[test]
    fn the_bound_after_a_prefix_is_tight() {
        let check = |prefix: &str, bound: Option<&str>| assert_eq!(after_prefix(prefix).as_deref(), bound);
        check("a/", Some("a0"));
        check("", None);
        check("a\u{10ffff}", Some("b"));
        check("\u{10ffff}", None);
        check("\u{d7ff}", Some("\u{e000}"));
        assert!("a/\u{10ffff}\u{10ffff}" < after_prefix("a/").unwrap().as_str());
    }
}
