//! Walking the paths of an update through a document.

use std::borrow::Cow;
use std::sync::Arc;

use bson::raw::{CStr, CString};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::operators::{Operator, Outcome};
use super::path::{Step, UpdatePath, conflict};
use super::tree::{Node, close, open};
use super::{ArrayFilter, Change, Now, Operators};
use crate::collation::Collation;
use crate::query::Filter;
use crate::value::shown;
use crate::{Code, Error, Result};

/// Most nulls that setting an element beyond an array's end may add: MongoDB's limit.
const PADDING_MAX: usize = 1_500_000;

/// The document that the operators make of `doc`.
pub(super) fn apply(
    operators: &Operators,
    doc: &RawDocument,
    filter: &Filter,
    now: Now,
    is_upsert_insert: bool,
) -> Result<RawDocumentBuf> {
    let mut walk = Walk {
        array_filters: &operators.array_filters,
        collation: operators.collation.as_ref(),
        now,
        matched: None,
        text: "",
        at: Vec::new(),
        // Plain paths were compared when they were parsed.
        written: operators
            .changes
            .iter()
            .any(|change| !change.path.is_plain())
            .then(Vec::new),
    };
    if operators
        .changes
        .iter()
        .any(|change| change.path.steps.contains(&Step::Matched))
    {
        walk.matched = filter.array_position(doc);
        if walk.matched.is_none() {
            let message = "the positional operator did not find the match needed from the query";
            return Err(Error::new(Code::BadValue, message));
        }
    }
    let mut root = open(doc);
    for Change { path, operator } in &operators.changes {
        walk.text = &path.text;
        match operator {
            Operator::SetOnInsert(_) if !is_upsert_insert => {}
            Operator::Rename(target) => walk.rename(&mut root, path, target)?,
            operator => walk.descend(&mut root, &path.steps, operator)?,
        }
    }
    walk.check_conflicts()?;
    Ok(close(&root))
}

struct Walk<'u> {
    array_filters: &'u [ArrayFilter],
    collation: Option<&'u Arc<Collation>>,
    now: Now,
    /// What `$` stands for.
    matched: Option<usize>,
    /// The path being walked, for messages.
    text: &'u str,
    /// Names of the steps taken.
    at: Vec<String>,
    /// Places written, kept when positional steps may lead to the same place twice.
    written: Option<Vec<Vec<String>>>,
}

impl<'u> Walk<'u> {
    /// Applies the operator at the end of `steps`, at least one, below `node`.
    fn descend(&mut self, node: &mut Node<'_>, steps: &[Step], operator: &Operator) -> Result<()> {
        let Some((step, rest)) = steps.split_first() else {
            return Ok(());
        };
        node.open();
        match step {
            Step::Every => self.each(node, rest, operator, None),
            Step::Filtered { filter, .. } => {
                self.each(node, rest, operator, Some(&self.array_filters[*filter]))
            }
            Step::Field { name, index } => self.one(node, name, *index, rest, operator),
            Step::Matched => {
                let index = self.matched.unwrap_or(0);
                self.one(node, &index.to_string(), Some(index), rest, operator)
            }
        }
    }

    fn one(
        &mut self,
        node: &mut Node<'_>,
        name: &str,
        index: Option<usize>,
        rest: &[Step],
        operator: &Operator,
    ) -> Result<()> {
        match (&mut *node, index) {
            (Node::Document(fields), _) => {
                let place = fields.iter().position(|(field, _)| field.as_str() == name);
                self.at.push(name.to_owned());
                match place {
                    Some(place) => {
                        if self.child(&mut fields[place].1, rest, operator)? {
                            fields.remove(place);
                        }
                    }
                    None => {
                        if let Some(value) = self.created(rest, operator)? {
                            fields.push((Cow::Owned(c_string(name)?), Node::Owned(value)));
                        }
                    }
                }
            }
            (Node::Array(elements), Some(index)) => {
                self.at.push(name.to_owned());
                if let Some(element) = elements.get_mut(index) {
                    if self.child(element, rest, operator)? {
                        *element = Node::Owned(RawBson::Null);
                    }
                } else if let Some(value) = self.created(rest, operator)? {
                    if index - elements.len() > PADDING_MAX {
                        let message = format!("can't add element {index} to an array of {}", elements.len());
                        return Err(Error::new(Code::BadValue, message));
                    }
                    elements.resize_with(index, || Node::Owned(RawBson::Null));
                    elements.push(Node::Owned(value));
                }
            }
            (node, _) if operator.creates() => {
                let value = shown(node.value());
                let element = self.at.last().map_or("", String::as_str);
                let message = format!("cannot create field '{name}' in element {{{element}: {value}}}");
                return Err(Error::new(Code::PathNotViable, message));
            }
            _ => return Ok(()),
        }
        self.at.pop();
        Ok(())
    }

    fn each(
        &mut self,
        node: &mut Node<'_>,
        rest: &[Step],
        operator: &Operator,
        filter: Option<&'u ArrayFilter>,
    ) -> Result<()> {
        let Node::Array(elements) = node else {
            let message = format!(
                "cannot apply array updates to non-array element {}: {}",
                self.at.join("."),
                shown(node.value())
            );
            return Err(Error::new(Code::BadValue, message));
        };
        for (i, element) in elements.iter_mut().enumerate() {
            if filter.is_some_and(|filter| !filter.matches(element.value())) {
                continue;
            }
            self.at.push(i.to_string());
            if self.child(element, rest, operator)? {
                *element = Node::Owned(RawBson::Null);
            }
            self.at.pop();
        }
        Ok(())
    }

    /// Goes on below a value that is there; true when it has to be removed.
    fn child(&mut self, node: &mut Node<'_>, rest: &[Step], operator: &Operator) -> Result<bool> {
        if !rest.is_empty() {
            self.descend(node, rest, operator)?;
            return Ok(false);
        }
        self.note_written();
        match operator.apply(node.value(), self.text, self.now, self.collation)? {
            Outcome::Keep => Ok(false),
            Outcome::Remove => Ok(true),
            Outcome::Replace(value) => {
                *node = Node::Owned(value);
                Ok(false)
            }
        }
    }

    /// The value to put where there is none, with the documents on the rest of the path around it.
    fn created(&mut self, rest: &[Step], operator: &Operator) -> Result<Option<RawBson>> {
        if let Some(Step::Every | Step::Filtered { .. }) = rest.first() {
            let message = format!(
                "the path '{}' must exist in the document in order to apply array updates",
                self.at.join(".")
            );
            return Err(Error::new(Code::BadValue, message));
        }
        let Some((step, below)) = rest.split_first() else {
            self.note_written();
            return operator.initial(self.now, self.collation);
        };
        let name = match step {
            Step::Field { name, .. } => name.to_string(),
            _ => self.matched.unwrap_or(0).to_string(),
        };
        self.at.push(name.clone());
        let inner = self.created(below, operator)?;
        self.at.pop();
        inner
            .map(|inner| {
                let mut doc = RawDocumentBuf::new();
                doc.append(c_string(&name)?, inner.as_raw_bson_ref());
                Ok(RawBson::Document(doc))
            })
            .transpose()
    }

    /// Takes the value at `source` away and puts it at `target`; neither may lead through arrays.
    fn rename(&mut self, root: &mut Node<'_>, source: &'u UpdatePath, target: &UpdatePath) -> Result<()> {
        let Some(value) = take(root, source)? else {
            return Ok(());
        };
        let mut node = &mut *root;
        for step in &target.steps {
            node.open();
            match (node, step) {
                (Node::Document(fields), Step::Field { name, .. }) => {
                    match fields.iter_mut().find(|(field, _)| field.as_str() == &**name) {
                        Some((_, inner)) => node = inner,
                        None => break,
                    }
                }
                (Node::Array(_), _) => {
                    let message = format!(
                        "the destination field cannot be an array element, '{}'",
                        target.text
                    );
                    return Err(Error::new(Code::BadValue, message));
                }
                _ => break,
            }
        }
        self.text = &source.text;
        self.descend(root, &target.steps, &Operator::Set(value))
    }

    fn note_written(&mut self) {
        if let Some(written) = &mut self.written {
            written.push(self.at.clone());
        }
    }

    fn check_conflicts(&mut self) -> Result<()> {
        let Some(written) = &mut self.written else {
            return Ok(());
        };
        written.sort();
        match written.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
            Some(pair) => Err(conflict(&pair[1].join("."), &pair[0].join("."))),
            None => Ok(()),
        }
    }
}

impl ArrayFilter {
    fn matches(&self, element: RawBsonRef<'_>) -> bool {
        let mut doc = RawDocumentBuf::new();
        doc.append(&self.name, element);
        self.filter.matches(&doc)
    }
}

/// Removes and returns the value at a path through documents.
fn take(node: &mut Node<'_>, path: &UpdatePath) -> Result<Option<RawBson>> {
    let mut node = node;
    for (i, step) in path.steps.iter().enumerate() {
        node.open();
        let (fields, name) = match (node, step) {
            (Node::Document(fields), Step::Field { name, .. }) => (fields, name),
            (Node::Array(_), _) => {
                let message = format!("the source field cannot be an array element, '{}'", path.text);
                return Err(Error::new(Code::BadValue, message));
            }
            _ => return Ok(None),
        };
        let Some(place) = fields.iter().position(|(field, _)| field.as_str() == &**name) else {
            return Ok(None);
        };
        if i + 1 == path.steps.len() {
            let (_, mut taken) = fields.remove(place);
            return Ok(Some(taken.value().into()));
        }
        node = &mut fields[place].1;
    }
    Ok(None)
}

/// A name for a document; paths have no NUL, so it can't fail for them.
fn c_string(name: &str) -> Result<CString> {
    let name: Result<&CStr, _> = name.try_into();
    name.map(CStr::to_owned)
        .map_err(|_| Error::new(Code::BadValue, "a field name has a NUL byte"))
}
