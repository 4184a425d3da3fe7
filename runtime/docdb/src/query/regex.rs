//! Regular expressions of queries: MongoDB's dialect is PCRE's; here it is carried over to the `regex` crate, which
//! runs in linear time and has no lookaround and no backreferences.

use std::fmt;

use bson::raw::CString;
use bson::{RawBsonRef, RawRegexRef};
use regex::RegexBuilder;

use crate::{Code, Error, Result};

/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 32 * 1024;
/// Largest compiled pattern, bytes.
const COMPILED_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of groups.
const NESTING_MAX: u32 = 100;

/// A compiled regular expression.
#[derive(Clone)]
pub(crate) struct Regex {
    pattern: CString,
    options: CString,
    compiled: regex::Regex,
    prefix: Option<Box<str>>,
}

impl Regex {
    /// Compiles a pattern with options out of `i m x s u`.
    pub(crate) fn new(pattern: &str, options: &str) -> Result<Regex> {
        if pattern.len() > PATTERN_BYTES_MAX {
            let message = format!(
                "regular expression of {} bytes, at most {PATTERN_BYTES_MAX} are allowed",
                pattern.len()
            );
            return Err(Error::new(Code::BadValue, message));
        }
        if let Some(flag) = options.chars().find(|flag| !"imxsu".contains(*flag)) {
            return Err(Error::new(
                Code::BadValue,
                format!("invalid flag in regex options: {flag}"),
            ));
        }
        let has = |flag| options.contains(flag);
        let compiled = RegexBuilder::new(&translate(pattern, has('m'), has('x'), has('u'))?)
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .ignore_whitespace(has('x'))
            .size_limit(COMPILED_BYTES_MAX)
            .nest_limit(NESTING_MAX)
            .build()
            .map_err(|e| refused(pattern, &e.to_string()))?;
        let prefix = if has('i') || has('m') || has('x') {
            None
        } else {
            literal_prefix(pattern)
        };
        let c_string =
            |text: &str| CString::try_from(text).map_err(|_| refused(pattern, "it has a NUL byte"));
        Ok(Regex {
            pattern: c_string(pattern)?,
            options: c_string(options)?,
            compiled,
            prefix,
        })
    }

    /// The text that all matching strings start with, when the pattern is case-sensitive and begins `^literal`.
    /// Besides strings the expression matches only [`as_value`](Self::as_value).
    pub(crate) fn literal_prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// The compiled expression, for its matches and groups.
    pub(crate) fn compiled(&self) -> &regex::Regex {
        &self.compiled
    }

    pub(crate) fn matches_text(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// Whether the value is a string that matches, or this very expression.
    pub(crate) fn matches(&self, v: RawBsonRef<'_>) -> bool {
        match v {
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => self.matches_text(text),
            RawBsonRef::RegularExpression(r) => {
                *r.pattern == *self.pattern && same_flags(r.options.as_str(), self.options.as_str())
            }
            _ => false,
        }
    }

    /// The expression as a value: what it also matches by equality, so that an index has to be searched for it too.
    pub(crate) fn as_value(&self) -> RawBsonRef<'_> {
        RawBsonRef::RegularExpression(RawRegexRef {
            pattern: &self.pattern,
            options: &self.options,
        })
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}", self.pattern, self.options)
    }
}

/// The expression of a BSON regex value; nothing of other values.
pub(super) fn from_value(v: RawBsonRef<'_>) -> Option<Result<Regex>> {
    match v {
        RawBsonRef::RegularExpression(r) => Some(Regex::new(r.pattern.as_str(), r.options.as_str())),
        _ => None,
    }
}

fn same_flags(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.chars().all(|flag| b.contains(flag))
}

fn refused(pattern: &str, why: &str) -> Error {
    // The parser draws the pattern with a marker over several lines; its last line says what is wrong.
    let why = why.lines().last().unwrap_or(why).trim_start_matches("error: ");
    let message = format!(
        "regular expression {pattern:?} is invalid or unsupported (lookaround and backreferences are not supported): {why}"
    );
    Error::new(Code::BadValue, message)
}

/// Rewrites what PCRE reads differently: ASCII classes, `$` before a final newline, brackets and braces that stand
/// for themselves, `\Q..\E`. What has no counterpart is refused here or by the parser.
fn translate(pattern: &str, multi_line: bool, verbose: bool, unicode: bool) -> Result<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut quantified = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let was_quantified = std::mem::replace(&mut quantified, false);
        match c {
            '\\' => {
                rest = translate_escape(after, unicode, &mut out);
                continue;
            }
            '[' => {
                rest = translate_class(after, unicode, &mut out);
                continue;
            }
            '$' if !multi_line && (after.is_empty() || after.starts_with([')', '|'])) => {
                out.push_str(r"(?:\n?\z)")
            }
            '{' if !is_repetition(after) => out.push_str(r"\{"),
            '+' if was_quantified => {
                return Err(refused(pattern, "possessive quantifiers are not supported"));
            }
            '*' | '+' | '?' | '}' => {
                quantified = !was_quantified || c == '}';
                out.push(c);
            }
            '#' if verbose => {
                let end = after.find('\n').unwrap_or(after.len());
                rest = &after[end..];
                continue;
            }
            c => out.push(c),
        }
        rest = after;
    }
    Ok(out)
}

fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else {
        return false;
    };
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// Writes an escape outside of a class, without its backslash in `after`; returns what follows it.
fn translate_escape<'p>(after: &'p str, unicode: bool, out: &mut String) -> &'p str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[c.len_utf8()..];
    match c {
        'd' | 'w' | 's' if !unicode => {
            out.push('[');
            out.push_str(ascii_class(c));
            out.push(']');
        }
        'D' | 'W' | 'S' if !unicode => {
            out.push_str("[^");
            out.push_str(ascii_class(c.to_ascii_lowercase()));
            out.push(']');
        }
        'b' if !unicode => out.push_str(r"(?-u:\b)"),
        'Z' => out.push_str(r"(?:\n?\z)"),
        '<' | '>' => out.push(c),
        'Q' => {
            let (literal, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(literal));
            return rest;
        }
        'E' => {}
        c => out.extend(['\\', c]),
    }
    rest
}

/// Writes a character class, without its opening bracket in `after`; returns what follows it.
fn translate_class<'p>(after: &'p str, unicode: bool, out: &mut String) -> &'p str {
    out.push('[');
    let mut rest = after;
    if let Some(inner) = rest.strip_prefix('^') {
        out.push('^');
        rest = inner;
    }
    if let Some(inner) = rest.strip_prefix(']') {
        out.push_str(r"\]");
        rest = inner;
    }
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            ']' => {
                out.push(']');
                return rest;
            }
            '[' if rest.starts_with(':') && rest[1..].contains(":]") => {
                let end = rest[1..].find(":]").unwrap_or(0) + 3;
                out.push('[');
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            '[' | '&' | '~' => out.extend(['\\', c]),
            '\\' => {
                let Some(escaped) = rest.chars().next() else { break };
                rest = &rest[escaped.len_utf8()..];
                match escaped {
                    'd' | 'w' | 's' if !unicode => out.push_str(ascii_class(escaped)),
                    'D' | 'W' | 'S' if !unicode => {
                        out.push_str("[^");
                        out.push_str(ascii_class(escaped.to_ascii_lowercase()));
                        out.push(']');
                    }
                    'b' => out.push_str(r"\x08"),
                    '<' | '>' => out.push(escaped),
                    escaped => out.extend(['\\', escaped]),
                }
                let is_class = matches!(escaped, 'd' | 'w' | 's' | 'D' | 'W' | 'S');
                if let Some(after_dash) = rest.strip_prefix('-').filter(|_| is_class) {
                    out.push_str(r"\-");
                    rest = after_dash;
                }
            }
            c => out.push(c),
        }
    }
    // Not closed: the parser says so.
    rest
}

fn ascii_class(class: char) -> &'static str {
    match class {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        _ => r"\t-\r\x20",
    }
}

/// The literal text after `^` up to the first character that is not plain.
fn literal_prefix(pattern: &str) -> Option<Box<str>> {
    let text = pattern
        .strip_prefix('^')
        .or_else(|| pattern.strip_prefix(r"\A"))?;
    if text.contains('|') || text.contains(r"\Q") {
        return None;
    }
    let mut prefix = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => match chars.next() {
                Some(c) if c.is_ascii_punctuation() => c,
                _ => break,
            },
            '^' | '$' | '.' | '[' | '(' | ')' | '?' | '*' | '+' | '{' => break,
            c => c,
        };
        if matches!(chars.peek(), Some('?' | '*' | '+' | '{')) {
            break;
        }
        prefix.push(literal);
    }
    (!prefix.is_empty()).then(|| prefix.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, options: &str, text: &str, expected: bool) {
        assert_eq!(
            Regex::new(pattern, options).unwrap().matches_text(text),
            expected,
            "/{pattern}/{options} {text:?}"
        );
    }

    #[test]
    fn reads_patterns_as_pcre_does() {
        check("b", "", "abc", true);
        check("^b", "", "abc", false);
        check("^B", "im", "a\nbc", true);
        check("a$", "", "a\n", true);
        check("a$", "", "a\nb", false);
        check("(a$|b)", "", "a\n", true);
        check("a$", "m", "a\nb", true);
        check("a.b", "", "a\nb", false);
        check("a.b", "s", "a\nb", true);
        check("a b # c", "x", "ab", true);
        check(r"^\d$", "", "٣", false);
        check(r"^\d$", "u", "٣", true);
        check(r"^\w+$", "", "é", false);
        check(r"^[\w-]+$", "", "a-b", true);
        check(r"^[\w-z]$", "", "{", false);
        check(r"^[^\s]$", "", " ", false);
        check(r"[[]", "", "[", true);
        check(r"[a&&b]", "", "&", true);
        check(r"^[]a]$", "", "]", true);
        check(r"^[[:alpha:]]+$", "", "abc", true);
        check(r"a{,2}", "", "a{,2}", true);
        check(r"^a{2}$", "", "aa", true);
        check(r"^\Qa.b\E+$", "", "a.bbb", true);
        check(r"\<a\>", "", "<a>", true);
        check(r"a\/b", "", "a/b", true);
        check("É", "i", "é", true);
        check("日.語", "", "日本語", true);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for pattern in ["(?=a)", "(?<!a)b", r"(a)\1", "(", "a++", "(?>a)", "[a"] {
            assert_eq!(
                Regex::new(pattern, "").unwrap_err().code(),
                Code::BadValue,
                "{pattern}"
            );
        }
        assert!(Regex::new("a", "g").is_err());
        assert!(Regex::new("(a{1000}){1000}", "").is_err());
    }

    #[test]
    fn tells_the_literal_prefix() {
        let prefix = |pattern, options| {
            Regex::new(pattern, options)
                .unwrap()
                .literal_prefix()
                .map(str::to_owned)
        };
        assert_eq!(prefix("^abc", "").as_deref(), Some("abc"));
        assert_eq!(prefix(r"^a\.b.*", "").as_deref(), Some("a.b"));
        assert_eq!(prefix("^ab*", "").as_deref(), Some("a"));
        assert_eq!(prefix("^ab{0}", "").as_deref(), Some("a"));
        assert_eq!(prefix("^日本", "").as_deref(), Some("日本"));
        assert_eq!(prefix("^ab|c", ""), None);
        assert_eq!(prefix("^ab", "i"), None);
        assert_eq!(prefix("^ab", "m"), None);
        assert_eq!(prefix("ab", ""), None);
        assert_eq!(prefix("^", ""), None);
    }
}
