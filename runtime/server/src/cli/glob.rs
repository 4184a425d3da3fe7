//! Patterns of paths: `*` and `?` within a segment, `**` for any number of segments.

/// Whether `path`, relative and with `/`, fits `pattern`.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    segments(&pattern, &path)
}

fn segments(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|skipped| segments(rest, &path[skipped..])),
        Some((first, rest)) => path.split_first().is_some_and(|(name, others)| {
            segment(first.as_bytes(), name.as_bytes()) && segments(rest, others)
        }),
    }
}

fn segment(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| segment(rest, &name[skipped..])),
        Some((b'?', rest)) => name
            .split_first()
            .is_some_and(|(_, others)| segment(rest, others)),
        Some((byte, rest)) => name
            .split_first()
            .is_some_and(|(first, others)| first == byte && segment(rest, others)),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_by_segment() {
        for (pattern, path) in [
            ("src/**/*.rs", "src/lib.rs"),
            ("src/**/*.rs", "src/a/b/lib.rs"),
            ("./src/**", "src/a"),
            ("**/*.wit", "wit/a.wit"),
            ("Cargo.toml", "Cargo.toml"),
            ("a?.txt", "ab.txt"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("src/*.rs", "src/a/lib.rs"),
            ("src/**/*.rs", "tests/lib.rs"),
            ("*.rs", "lib.rs.bak"),
            ("src", "src/a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
