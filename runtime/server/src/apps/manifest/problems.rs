//! Problems of a manifest: each with its place and a remedy, collected so that all are told at once.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// The file, as the author named it.
    pub(crate) file: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            remedy,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}; {remedy}")
    }
}

/// Collects the problems of one text.
pub(super) struct Report<'t> {
    file: &'t str,
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Report<'t> {
    /// No problems yet.
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            problems: Vec::new(),
        }
    }

    /// Notes a problem at `span`.
    pub(super) fn add(&mut self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        let mut at = span.start.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// What was noted, in the order of the text.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems
            .sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        self.problems
    }
}

/// The candidate nearest to `seen`, when it is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'c>(seen: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    /// Longer names are not compared: nobody mistypes them into each other.
    const COMPARED_CHARS_MAX: usize = 64;
    let seen = seen.to_lowercase();
    if seen.chars().count() > COMPARED_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&seen, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The remedy for a name that is not one of `known`.
pub(super) fn did_you_mean<'c>(
    seen: &str,
    known: impl IntoIterator<Item = &'c str> + Clone,
    nothing: &str,
) -> String {
    if let Some(near) = nearest(seen, known.clone()) {
        return format!("did you mean {near:?}?");
    }
    let names: Vec<String> = known.into_iter().map(|name| format!("{name:?}")).collect();
    match names.is_empty() {
        true => nothing.to_owned(),
        false => format!("known here: {}", names.join(", ")),
    }
}

/// Levenshtein's distance, with a swap of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["grants", "outbound", "limits", "invoke"];
        assert_eq!(nearest("grant", known), Some("grants"));
        assert_eq!(nearest("outbuond", known), Some("outbound"));
        assert_eq!(nearest("LIMITS", known), Some("limits"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn places_are_counted_from_one() {
        let mut report = Report::new("f", "ab\ncdé x\n");
        report.add(0..1, "a", "");
        report.add(8..9, "b", "");
        report.add(7_000..7_001, "c", "");
        let places: Vec<_> = report
            .into_problems()
            .iter()
            .map(|p| (p.line, p.column))
            .collect();
        assert_eq!(places, [(1, 1), (2, 5), (3, 1)]);
    }
}
