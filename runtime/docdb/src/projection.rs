//! Projections: which parts of a matching document are returned.

use std::sync::Arc;

use bson::{RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::check::check_well_formed;
use crate::expression::{Env, Expr, Runtime, Scope, location};
use crate::path::Path;
use crate::query::{ARGUMENT_DEPTH_MAX, Filter, Predicate};
use crate::value::{as_whole, elements, fields, is_number, is_true, raw_fields, shown};
use crate::{Code, Error, Result};

/// A parsed projection.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    root: Node,
    /// Fields that are not named are left out.
    inclusive: bool,
    /// What becomes of `_id` when it has no node.
    keep_id: bool,
    /// The path that ends in the positional `$`, if any.
    positional: bool,
    /// For the expressions, if there are any.
    runtime: Option<Arc<Runtime>>,
}

/// What is done with a field.
#[derive(Debug, Clone)]
enum Step {
    Keep,
    Drop,
    /// Only some elements of an array.
    Slice {
        skip: i64,
        limit: Option<i64>,
    },
    /// Only the first element of an array that meets the predicate.
    ElemMatch(Predicate),
    /// The fields inside of it.
    Inside(Node),
    /// The value of an expression.
    Compute(Expr),
}

/// Named fields of a document.
#[derive(Debug, Clone, Default)]
struct Node {
    children: Vec<Child>,
    /// Whether there are expressions in it, which make fields that were not there.
    computes: bool,
}

#[derive(Debug, Clone)]
struct Child {
    name: Box<str>,
    step: Step,
    /// On the path of the positional `$`.
    positional: bool,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadValue, message)
}

impl Projection {
    /// Parses a projection without expressions; for tests.
    ///
    /// # Errors
    /// `BadValue` for mixed inclusion and exclusion, colliding or bad paths, bad operator arguments;
    /// `CommandNotSupported` for expressions.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn parse(doc: &RawDocument) -> Result<Projection> {
        Self::parse_as(doc, None, Mode::Find)
    }

    /// Parses the projection of a query: `{a: 1, "b.c": 1, _id: 0}`, the operators `$slice`, `$elemMatch` and
    /// positional `$`, and expressions.
    ///
    /// # Errors
    /// `BadValue` for mixed inclusion and exclusion, colliding or bad paths, bad operator arguments; those of
    /// expressions.
    pub(crate) fn parse_in(doc: &RawDocument, scope: &Scope) -> Result<Projection> {
        Self::parse_as(doc, Some(scope), Mode::Find)
    }

    /// Parses what `$project` takes.
    ///
    /// # Errors
    /// MongoDB's numbered codes of what is wrong.
    pub(crate) fn parse_project(doc: &RawDocument, scope: &Scope) -> Result<Projection> {
        if doc.is_empty() {
            return Err(location(
                51_272,
                "projection specification must have at least one field",
            ));
        }
        Self::parse_as(doc, Some(scope), Mode::Project)
    }

    /// Parses what `$addFields` takes.
    ///
    /// # Errors
    /// As [`parse_project`](Self::parse_project).
    pub(crate) fn parse_add_fields(doc: &RawDocument, scope: &Scope) -> Result<Projection> {
        Self::parse_as(doc, Some(scope), Mode::AddFields)
    }

    fn parse_as(doc: &RawDocument, scope: Option<&Scope>, mode: Mode) -> Result<Projection> {
        check_well_formed(doc, ARGUMENT_DEPTH_MAX)?;
        let mut parser = Parser {
            root: Node::default(),
            includes: None,
            excludes: None,
            id: None,
            positional: false,
            scope,
            mode,
        };
        parser.fields("", doc)?;
        if mode == Mode::AddFields {
            return Ok(Projection {
                root: parser.root,
                inclusive: false,
                keep_id: true,
                positional: false,
                runtime: scope.map(|scope| scope.runtime().clone()),
            });
        }
        let inclusive = match (parser.includes, parser.excludes) {
            (Some(name), Some(other)) => {
                let message =
                    format!("cannot both include \"{name}\" and exclude \"{other}\" in a projection");
                return Err(match mode {
                    Mode::Find => bad(message),
                    _ => location(31_254, message),
                });
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => parser.id == Some(true),
        };
        let keep_id = parser.id.unwrap_or(true);
        Ok(Projection {
            root: parser.root,
            inclusive,
            keep_id,
            positional: parser.positional,
            runtime: scope.map(|scope| scope.runtime().clone()),
        })
    }

    /// Whether a document keeps its field `name`, as it is, and under that name only.
    pub(crate) fn leaves(&self, name: &str) -> bool {
        match self.root.child(name) {
            Some(child) => matches!(child.step, Step::Keep) && !child.positional,
            None if name == "_id" => self.keep_id,
            None => !self.inclusive,
        }
    }

    /// The names of the document's own fields that the result is made of; none if it may be any.
    pub(crate) fn needs(&self) -> Option<Vec<&str>> {
        if !self.inclusive || self.positional || self.root.computes {
            return None;
        }
        let mut names = Vec::new();
        for child in &self.root.children {
            match &child.step {
                Step::Compute(_) => return None,
                Step::Inside(node) if node.computes => return None,
                Step::Drop => {}
                _ => names.push(&*child.name),
            }
        }
        if self.keep_id && !names.contains(&"_id") {
            names.push("_id");
        }
        Some(names)
    }

    /// The projected document; `filter` is the query's, for the positional operator.
    ///
    /// # Errors
    /// `BadValue` when the positional operator finds no element that the filter matched.
    pub(crate) fn apply(&self, doc: &RawDocument, filter: &Filter) -> Result<RawDocumentBuf> {
        let position = if self.positional {
            let position = filter.array_position(doc);
            Some(position.ok_or_else(|| {
                bad("positional operator '.$' couldn't find a matching element in the array")
            })?)
        } else {
            None
        };
        self.document(&self.root, doc, position, Some(doc), doc)
    }

    /// What becomes of the fields of `doc`; `top` is the document itself when `doc` is not inside of it, and `root`
    /// is what expressions are evaluated on.
    fn document(
        &self,
        node: &Node,
        doc: &RawDocument,
        position: Option<usize>,
        top: Option<&RawDocument>,
        root: &RawDocument,
    ) -> Result<RawDocumentBuf> {
        let mut out = RawDocumentBuf::new();
        // The expressions that found their field, and stand in its place.
        let mut in_place = vec![false; if node.computes { node.children.len() } else { 0 }];
        for (name, value) in raw_fields(doc) {
            let found = node
                .children
                .iter()
                .position(|child| *child.name == *name.as_str());
            let Some(place) = found else {
                let keep = if top.is_some() && name == "_id" {
                    self.keep_id
                } else {
                    !self.inclusive
                };
                if keep {
                    out.append(name, value);
                }
                continue;
            };
            let child = &node.children[place];
            let computed = matches!(child.step, Step::Compute(_));
            if computed && (in_place[place] || (self.inclusive && name != "_id")) {
                continue;
            }
            if let Some(value) = self.field(child, value, position, root)? {
                out.append(name, value.as_ref());
            }
            if let Some(done) = in_place.get_mut(place) {
                *done = true;
            }
        }
        for (child, _) in node.children.iter().zip(&in_place).filter(|(_, done)| !**done) {
            let value = match &child.step {
                Step::Compute(_) => self.field(child, RawBsonRef::Null, None, root)?,
                Step::Inside(inner) if inner.computes => {
                    let empty = RawDocumentBuf::new();
                    Some(Projected::Document(
                        self.document(inner, &empty, None, None, root)?,
                    ))
                }
                _ => None,
            };
            if let Some(value) = value {
                crate::catalog::append(&mut out, &child.name, value.as_ref());
            }
        }
        Ok(out)
    }

    /// What becomes of a named field.
    fn field<'d>(
        &self,
        child: &Child,
        v: RawBsonRef<'d>,
        position: Option<usize>,
        root: &RawDocument,
    ) -> Result<Option<Projected<'d>>> {
        let position = position.filter(|_| child.positional);
        if let (Some(position), RawBsonRef::Array(array)) = (position, v) {
            let element = elements(array).nth(position).ok_or_else(|| {
                bad("positional operator '.$' element mismatch: the matched element is in another array")
            })?;
            let mut one = RawArrayBuf::new();
            one.push(element);
            return match &child.step {
                Step::Inside(node) => Ok(Some(Projected::Array(self.array(node, &one, root)?))),
                _ => Ok(Some(Projected::Array(one))),
            };
        }
        Ok(match &child.step {
            Step::Keep => Some(Projected::Whole(v)),
            Step::Drop => None,
            Step::Slice { skip, limit } => Some(match v {
                RawBsonRef::Array(array) => Projected::Array(slice(array, *skip, *limit)),
                v => Projected::Whole(v),
            }),
            Step::ElemMatch(predicate) => {
                let found = v
                    .as_array()
                    .and_then(|array| elements(array).find(|v| meets(predicate, *v)));
                found.map(|element| {
                    let mut one = RawArrayBuf::new();
                    one.push(element);
                    Projected::Array(one)
                })
            }
            Step::Inside(node) => match v {
                RawBsonRef::Document(inner) => Some(Projected::Document(
                    self.document(node, inner, position, None, root)?,
                )),
                RawBsonRef::Array(inner) => Some(Projected::Array(self.array(node, inner, root)?)),
                // An expression inside of what has no inside makes a document of it.
                _ if node.computes => {
                    let empty = RawDocumentBuf::new();
                    Some(Projected::Document(
                        self.document(node, &empty, None, None, root)?,
                    ))
                }
                v if !self.inclusive => Some(Projected::Whole(v)),
                _ => None,
            },
            Step::Compute(expr) => match &self.runtime {
                None => None,
                Some(runtime) => {
                    let value = expr.eval(&mut Env::new(root, runtime))?;
                    value.into_raw().map(Projected::Value)
                }
            },
        })
    }

    fn array(&self, node: &Node, array: &RawArray, root: &RawDocument) -> Result<RawArrayBuf> {
        let mut out = RawArrayBuf::new();
        for element in elements(array) {
            match element {
                RawBsonRef::Document(inner) => out.push(self.document(node, inner, None, None, root)?),
                RawBsonRef::Array(inner) => out.push(self.array(node, inner, root)?),
                _ if node.computes => {
                    let empty = RawDocumentBuf::new();
                    out.push(self.document(node, &empty, None, None, root)?);
                }
                v if !self.inclusive => out.push(v),
                _ => {}
            }
        }
        Ok(out)
    }
}

/// A field's value in the result: as it was, or made anew.
enum Projected<'d> {
    Whole(RawBsonRef<'d>),
    Document(RawDocumentBuf),
    Array(RawArrayBuf),
    Value(RawBson),
}

impl Projected<'_> {
    fn as_ref(&self) -> RawBsonRef<'_> {
        match self {
            Projected::Whole(v) => *v,
            Projected::Document(doc) => RawBsonRef::Document(doc),
            Projected::Array(array) => RawBsonRef::Array(array),
            Projected::Value(value) => value.as_raw_bson_ref(),
        }
    }
}

/// Whether an array element meets an `$elemMatch`, whose predicate is parsed as on an array.
fn meets(predicate: &Predicate, element: RawBsonRef<'_>) -> bool {
    let mut one = RawArrayBuf::new();
    one.push(element);
    predicate.matches_value(RawBsonRef::Array(&one))
}

fn slice(array: &RawArray, skip: i64, limit: Option<i64>) -> RawArrayBuf {
    let len = elements(array).count() as i64;
    let (start, count) = match limit {
        None if skip < 0 => ((len.saturating_add(skip)).max(0), len),
        None => (0, skip),
        Some(limit) if skip < 0 => ((len.saturating_add(skip)).max(0), limit),
        Some(limit) => (skip, limit),
    };
    let mut out = RawArrayBuf::new();
    for element in elements(array).skip(start as usize).take(count as usize) {
        out.push(element);
    }
    out
}

impl Node {
    fn child(&self, name: &str) -> Option<&Child> {
        self.children.iter().find(|child| *child.name == *name)
    }

    /// Puts a step at the end of a path; `false` when something is there or on the way.
    fn insert(&mut self, parts: &[&str], step: Step, positional: bool) -> bool {
        let Some((name, rest)) = parts.split_first() else {
            return false;
        };
        self.computes |= matches!(step, Step::Compute(_));
        let place = self.children.iter().position(|child| *child.name == **name);
        match (place, rest.is_empty()) {
            (Some(_), true) => false,
            (None, true) => {
                self.children.push(Child {
                    name: (*name).into(),
                    step,
                    positional,
                });
                true
            }
            (Some(place), false) => {
                let child = &mut self.children[place];
                child.positional |= positional;
                match &mut child.step {
                    Step::Inside(node) => node.insert(rest, step, positional),
                    _ => false,
                }
            }
            (None, false) => {
                let mut node = Node::default();
                let inserted = node.insert(rest, step, positional);
                self.children.push(Child {
                    name: (*name).into(),
                    step: Step::Inside(node),
                    positional,
                });
                inserted
            }
        }
    }
}

/// What has been seen of a projection.
struct Parser<'s> {
    root: Node,
    /// A field that is included, a field that is excluded; `_id` apart.
    includes: Option<String>,
    excludes: Option<String>,
    id: Option<bool>,
    positional: bool,
    /// For expressions; without it they are refused.
    scope: Option<&'s Scope>,
    mode: Mode,
}

/// Whose projection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A query's, with the operators that only those have.
    Find,
    /// That of `$project`.
    Project,
    /// That of `$addFields`, where nothing is a flag.
    AddFields,
}

impl Parser<'_> {
    fn fields(&mut self, prefix: &str, doc: &RawDocument) -> Result<()> {
        for (name, value) in fields(doc) {
            let path = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                RawBsonRef::Document(inner) => self.document(path, inner)?,
                v if self.mode != Mode::AddFields && (is_number(v) || v.as_bool().is_some()) => {
                    self.flag(path, is_true(v))?
                }
                v => self.compute(path, v)?,
            }
        }
        Ok(())
    }

    /// A field that is the value of an expression.
    fn compute(&mut self, path: String, v: RawBsonRef<'_>) -> Result<()> {
        let Some(scope) = self.scope else {
            let message = format!("projecting \"{path}\" as the value {} is not supported", shown(v));
            return Err(Error::new(Code::CommandNotSupported, message));
        };
        let expr = Expr::parse(v, scope)?;
        self.insert(&path, Step::Compute(expr), false)?;
        // `_id` may be computed beside fields that are left out, as it may be named beside them.
        if path != "_id" {
            self.includes = Some(path);
        } else if self.excludes.is_none() && self.includes.is_none() {
            self.id = Some(true);
        }
        Ok(())
    }

    fn flag(&mut self, path: String, included: bool) -> Result<()> {
        if path == "_id" {
            self.id = Some(included);
            return if self.root.child("_id").is_none() {
                Ok(())
            } else {
                Err(collision(&path))
            };
        }
        let (target, positional) = match path.strip_suffix(".$") {
            Some(target) => (target, true),
            None => (path.as_str(), false),
        };
        if positional && (!included || std::mem::replace(&mut self.positional, true)) {
            return Err(bad(
                "a projection may have one positional operator '.$', and only to include",
            ));
        }
        self.insert(target, if included { Step::Keep } else { Step::Drop }, positional)?;
        *(if included {
            &mut self.includes
        } else {
            &mut self.excludes
        }) = Some(path);
        Ok(())
    }

    fn document(&mut self, path: String, doc: &RawDocument) -> Result<()> {
        let mut inner = fields(doc);
        match (inner.next(), inner.next()) {
            (None, _) if self.mode == Mode::AddFields => self.compute(path, RawBsonRef::Document(doc)),
            (None, _) => Err(bad(format!(
                "an empty object is not a valid value of \"{path}\" in a projection"
            ))),
            (Some((name, _)), _) if !name.starts_with('$') => self.fields(&path, doc),
            (Some(_), Some(_)) => Err(bad(format!(
                "more than one operator on \"{path}\" in a projection"
            ))),
            (Some(("$slice", v)), None) if self.mode == Mode::Find => match slice_argument(v) {
                Ok(step) => self.insert(&path, step, false),
                // `$slice` is an expression too.
                Err(error) if self.scope.is_none() || v.as_array().is_none() => Err(error),
                Err(error) => self.compute(path, RawBsonRef::Document(doc)).map_err(|_| error),
            },
            (Some(("$elemMatch", v)), None) if self.mode == Mode::Find => {
                if path.contains('.') {
                    return Err(bad(format!(
                        "cannot use $elemMatch projection on the nested field \"{path}\""
                    )));
                }
                if v.as_document().is_none() {
                    return Err(bad(format!("$elemMatch of \"{path}\" needs an object")));
                }
                let mut predicate = Predicate::parse_on(&path, doc)?;
                if let Some(collation) = self.scope.and_then(|scope| scope.runtime().collation()) {
                    predicate.collate(collation);
                }
                self.insert(&path, Step::ElemMatch(predicate), false)?;
                self.includes = Some(path);
                Ok(())
            }
            (Some((name, _)), None) if self.scope.is_none() || name == "$meta" => {
                let message = format!("{name} in a projection is not supported");
                Err(Error::new(Code::CommandNotSupported, message))
            }
            (Some(_), None) => self.compute(path, RawBsonRef::Document(doc)),
        }
    }

    fn insert(&mut self, path: &str, step: Step, positional: bool) -> Result<()> {
        // The limit on path length and the refusal of NUL are those of all paths.
        Path::parse(path)?;
        let parts: Vec<&str> = path.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad(format!("projection path \"{path}\" has an empty part")));
        }
        if parts.iter().any(|part| part.starts_with('$')) {
            return Err(bad(format!(
                "projection path \"{path}\" must not have a part that starts with '$'"
            )));
        }
        let id_is_flagged = parts[0] == "_id" && self.id.is_some();
        if id_is_flagged || !self.root.insert(&parts, step, positional) {
            return Err(collision(path));
        }
        Ok(())
    }
}

fn collision(path: &str) -> Error {
    bad(format!("path collision at {path} in a projection"))
}

fn slice_argument(v: RawBsonRef<'_>) -> Result<Step> {
    let whole = |v: RawBsonRef<'_>| {
        let number = match v {
            RawBsonRef::Double(d) => Some(d as i64),
            v => as_whole(v),
        };
        number.ok_or_else(|| bad(format!("$slice takes whole numbers, found {}", shown(v))))
    };
    let RawBsonRef::Array(array) = v else {
        return Ok(Step::Slice {
            skip: whole(v)?,
            limit: None,
        });
    };
    let numbers: Vec<_> = elements(array).collect();
    let [skip, limit] = numbers[..] else {
        return Err(bad("$slice array has to have two elements"));
    };
    let (skip, limit) = (whole(skip)?, whole(limit)?);
    if limit <= 0 {
        return Err(bad(format!("$slice limit must be positive, found {limit}")));
    }
    Ok(Step::Slice {
        skip,
        limit: Some(limit),
    })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn raw(doc: Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc).unwrap()
    }

    fn project(projection: Document, filter: Document, doc: Document) -> Result<Document> {
        let filter = Filter::parse(&raw(filter))?;
        let projected = Projection::parse(&raw(projection))?.apply(&raw(doc), &filter)?;
        Ok(Document::try_from(&*projected).unwrap())
    }

    #[track_caller]
    fn check(projection: Document, doc: Document, expected: Document) {
        assert_eq!(project(projection, doc! {}, doc).unwrap(), expected);
    }

    #[track_caller]
    fn refused(projection: Document) {
        assert!(Projection::parse(&raw(projection)).is_err());
    }

    #[test]
    fn includes_and_excludes() {
        let doc = || doc! { "_id": 1, "a": { "b": 2, "c": 3 }, "d": [{ "b": 4, "c": 5 }, 6, [{ "b": 7 }]] };
        check(doc! {}, doc(), doc());
        check(doc! { "a": 1 }, doc(), doc! { "_id": 1, "a": { "b": 2, "c": 3 } });
        check(
            doc! { "a": 0 },
            doc(),
            doc! { "_id": 1, "d": [{ "b": 4, "c": 5 }, 6, [{ "b": 7 }]] },
        );
        check(doc! { "_id": 0, "a.b": true }, doc(), doc! { "a": { "b": 2 } });
        check(
            doc! { "_id": 0, "a": { "b": 1 } },
            doc(),
            doc! { "a": { "b": 2 } },
        );
        check(doc! { "_id": 1 }, doc(), doc! { "_id": 1 });
        check(doc! { "_id": 0 }, doc! { "_id": 1, "x": 2 }, doc! { "x": 2 });
        check(doc! { "_id": 0, "x": 1 }, doc(), doc! {});
        check(
            doc! { "_id": 1, "a": 0 },
            doc! { "_id": 1, "a": 1, "b": 1 },
            doc! { "_id": 1, "b": 1 },
        );
        check(
            doc! { "d.b": 1 },
            doc(),
            doc! { "_id": 1, "d": [{ "b": 4 }, [{ "b": 7 }]] },
        );
        check(
            doc! { "d.b": 0, "a": 0 },
            doc(),
            doc! { "_id": 1, "d": [{ "c": 5 }, 6, [{}]] },
        );
        check(doc! { "a.x": 1 }, doc(), doc! { "_id": 1, "a": {} });
        check(
            doc! { "_id.x": 1 },
            doc! { "_id": { "x": 1, "y": 2 }, "a": 1 },
            doc! { "_id": { "x": 1 } },
        );
    }

    #[test]
    fn slices() {
        let doc = || doc! { "a": [1, 2, 3, 4], "b": 5 };
        check(doc! { "a": { "$slice": 2 } }, doc(), doc! { "a": [1, 2], "b": 5 });
        check(doc! { "a": { "$slice": -1 } }, doc(), doc! { "a": [4], "b": 5 });
        check(
            doc! { "a": { "$slice": [1, 2] } },
            doc(),
            doc! { "a": [2, 3], "b": 5 },
        );
        check(
            doc! { "a": { "$slice": [-3, 2] } },
            doc(),
            doc! { "a": [2, 3], "b": 5 },
        );
        check(
            doc! { "a": { "$slice": [-9, 1] } },
            doc(),
            doc! { "a": [1], "b": 5 },
        );
        check(doc! { "a": { "$slice": 1 }, "x": 1 }, doc(), doc! { "a": [1] });
        check(doc! { "a": { "$slice": 1 }, "b": 0 }, doc(), doc! { "a": [1] });
        check(doc! { "b": { "$slice": 1 } }, doc(), doc());
        refused(doc! { "a": { "$slice": [1, 0] } });
        refused(doc! { "a": { "$slice": "x" } });
    }

    #[test]
    fn picks_elements() {
        let doc = || doc! { "a": [{ "x": 1 }, { "x": 2, "y": 3 }], "b": 5 };
        let pick = doc! { "a": { "$elemMatch": { "x": { "$gt": 1 } } } };
        check(pick, doc(), doc! { "a": [{ "x": 2, "y": 3 }] });
        check(doc! { "a": { "$elemMatch": { "x": 9 } } }, doc(), doc! {});
        check(
            doc! { "a": { "$elemMatch": { "$gt": 1 } } },
            doc! { "a": [1, 2, 3] },
            doc! { "a": [2] },
        );
        let found = project(doc! { "a.$": 1 }, doc! { "a.x": 2 }, doc()).unwrap();
        assert_eq!(found, doc! { "a": [{ "x": 2, "y": 3 }] });
        let found = project(doc! { "a.y.$": 1 }, doc! { "a.x": 2 }, doc()).unwrap();
        assert_eq!(found, doc! { "a": [{ "y": 3 }] });
        assert!(project(doc! { "a.$": 1 }, doc! { "b": 5 }, doc()).is_err());
        refused(doc! { "a.b": { "$elemMatch": { "x": 9 } } });
        refused(doc! { "a.$": 1, "b.$": 1 });
        refused(doc! { "a.$": 0 });
    }

    #[test]
    fn refuses_what_is_no_projection() {
        refused(doc! { "a": 1, "b": 0 });
        refused(doc! { "a": 1, "a.b": 1 });
        refused(doc! { "a.b": 1, "a": 1 });
        refused(doc! { "a": "x" });
        refused(doc! { "a": {} });
        refused(doc! { "a..b": 1 });
        refused(doc! { "$a": 1 });
        refused(doc! { "a.$.b": 1 });
        refused(doc! { "a": { "$meta": "textScore" } });
    }
}
