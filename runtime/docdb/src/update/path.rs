//! Paths of updates: dotted paths with positional steps, and when two of them conflict.

use std::cmp::Ordering;

use crate::path::Path;
use crate::{Code, Error, Result};

/// A parsed update path.
#[derive(Debug, Clone)]
pub(super) struct UpdatePath {
    pub(super) text: Box<str>,
    pub(super) steps: Vec<Step>,
}

/// One step of an update path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A field, or an array position when it is a number.
    Field { name: Box<str>, index: Option<usize> },
    /// `$`: the array position that the query matched.
    Matched,
    /// `$[]`: every element.
    Every,
    /// `$[name]`: the elements that the array filter of that name matches; its place in the list of filters.
    Filtered { name: Box<str>, filter: usize },
}

impl UpdatePath {
    /// The name of the document's own field that it begins with.
    pub(super) fn first(&self) -> &str {
        match self.steps.first() {
            Some(Step::Field { name, .. }) => name,
            _ => &self.text,
        }
    }

    /// Whether it may lead on from the dotted path.
    pub(super) fn is_below(&self, path: &str) -> bool {
        let mut steps = self.steps.iter();
        let leads = path.split('.').all(|part| match steps.next() {
            Some(Step::Field { name, .. }) => **name == *part,
            Some(Step::Matched | Step::Every | Step::Filtered { .. }) => {
                part.bytes().all(|digit| digit.is_ascii_digit())
            }
            None => false,
        });
        leads && steps.next().is_some()
    }

    /// Parses a path; `filter_place` finds an array filter by its name.
    pub(super) fn parse(
        text: &str,
        filter_place: &mut dyn FnMut(&str) -> Option<usize>,
    ) -> Result<UpdatePath> {
        // The limit on path length and the refusal of NUL are those of all paths.
        let plain = Path::parse(text)?;
        let mut steps = Vec::with_capacity(plain.parts().len());
        for (i, part) in plain.parts().iter().enumerate() {
            steps.push(match &*part.name {
                "" if text.is_empty() => {
                    return Err(Error::new(
                        Code::EmptyFieldName,
                        "an empty update path is not valid",
                    ));
                }
                "" => {
                    let message = format!(
                        "the update path '{text}' contains an empty field name, which is not allowed"
                    );
                    return Err(Error::new(Code::EmptyFieldName, message));
                }
                "$" | "$[]" if i == 0 => {
                    let message =
                        format!("cannot have a positional element in the first position in path '{text}'");
                    return Err(Error::new(Code::BadValue, message));
                }
                "$" if steps.contains(&Step::Matched) => {
                    let message = format!("too many positional (i.e. '$') elements found in path '{text}'");
                    return Err(Error::new(Code::BadValue, message));
                }
                "$" => Step::Matched,
                "$[]" => Step::Every,
                name if name.starts_with("$[") && name.ends_with(']') && i > 0 => {
                    let name = &name[2..name.len() - 1];
                    let filter = filter_place(name).ok_or_else(|| {
                        let message =
                            format!("no array filter found for identifier '{name}' in path '{text}'");
                        Error::new(Code::BadValue, message)
                    })?;
                    Step::Filtered {
                        name: name.into(),
                        filter,
                    }
                }
                name if name.starts_with('$') => {
                    let message = format!(
                        "the dollar ($) prefixed field '{name}' in '{text}' is not valid for storage"
                    );
                    return Err(Error::new(Code::DollarPrefixedFieldName, message));
                }
                _ => Step::Field {
                    name: part.name.clone(),
                    index: part.index,
                },
            });
        }
        Ok(UpdatePath {
            text: text.into(),
            steps,
        })
    }

    /// Whether it names fields and positions only.
    pub(super) fn is_plain(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Field { .. }))
    }

    /// The order in which new fields are added: numbers by value, other names as text.
    pub(super) fn compare(&self, other: &UpdatePath) -> Ordering {
        self.steps
            .iter()
            .map(Step::order)
            .cmp(other.steps.iter().map(Step::order))
    }

    /// Whether one path is the other or leads to it.
    pub(super) fn conflicts(&self, other: &UpdatePath) -> bool {
        self.steps.iter().zip(&other.steps).all(|(a, b)| a == b)
    }
}

impl Step {
    fn order(&self) -> (u8, usize, &str) {
        match self {
            Step::Field {
                index: Some(index),
                name,
            } => (0, *index, name),
            Step::Field { index: None, name } => (1, 0, name),
            Step::Matched => (2, 0, ""),
            Step::Every => (3, 0, ""),
            Step::Filtered { name, .. } => (4, 0, name),
        }
    }
}

/// The error of two parts of an update that write the same place.
pub(super) fn conflict(path: &str, at: &str) -> Error {
    let message = format!("updating the path '{path}' would create a conflict at '{at}'");
    Error::new(Code::ConflictingUpdateOperators, message)
}
