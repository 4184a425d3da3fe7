//! BSON to expressions. Whatever has only constants in it becomes one; if computing it fails, the failure is that
//! of the evaluation, for the branch may never be taken.

use std::sync::Arc;

use bson::raw::CString;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::convert::Convert;
use super::{
    Arguments, Binding, Env, Expr, Named, Operator, Otherwise, Scope, accumulate, arithmetic, arrays,
    compare, convert, dates, location, objects, strings,
};
use crate::value::{elements, fields, raw_fields};
use crate::{Code, Error, Result};

/// Largest constant that folding an operator makes; a list of constants is no larger than its text.
const FOLDED_BYTES_MAX: usize = 1024;

/// Operators that MongoDB has and this engine has not.
const NOT_SUPPORTED: [&str; 13] = [
    "$function",
    "$accumulator",
    "$meta",
    "$median",
    "$percentile",
    "$toHashedIndexKey",
    "$createObjectId",
    "$encStrStartsWith",
    "$encStrEndsWith",
    "$encStrContains",
    "$encStrNormalizedEq",
    "$similarityCosine",
    "$tsSecondOfMinute",
];

/// Operators that compare strings by their bytes, whatever the collation, and are refused with one.
const BY_BYTES: [&str; 9] = [
    "$min",
    "$max",
    "$minN",
    "$maxN",
    "$setDifference",
    "$setEquals",
    "$setIntersection",
    "$setIsSubset",
    "$setUnion",
];

impl Expr {
    /// Parses an expression; its document has been checked to be well-formed and not too deep.
    ///
    /// # Errors
    /// `InvalidPipelineOperator` for unknown operators; otherwise MongoDB's numbered code of the problem.
    pub(crate) fn parse(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
        match v {
            RawBsonRef::String(text) if text.starts_with('$') => path(text, scope),
            RawBsonRef::Document(doc) => object(doc, scope),
            RawBsonRef::Array(array) => {
                let parts: Vec<Expr> = elements(array)
                    .map(|v| Expr::parse(v, scope))
                    .collect::<Result<_>>()?;
                let constant = parts
                    .iter()
                    .all(|part| matches!(part, Expr::Constant(_) | Expr::Missing));
                Ok(folded(Expr::Array(parts), constant, scope))
            }
            v => Ok(Expr::Constant(v.into())),
        }
    }

    /// Parses the operator `name` with its argument.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_operator(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
        match name {
            "$literal" | "$const" => Ok(Expr::Constant(v.into())),
            "$expr" => Expr::parse(v, scope),
            "$and" => all(v, scope).map(Expr::And),
            "$or" => all(v, scope).map(Expr::Or),
            "$ifNull" => {
                let parts = all(v, scope)?;
                if parts.len() < 2 {
                    let message = format!("$ifNull needs at least two arguments, had: {}", parts.len());
                    return Err(location(1_257_300, message));
                }
                Ok(Expr::IfNull(parts))
            }
            "$cond" => cond(v, scope),
            "$switch" => switch(v, scope),
            "$let" => let_in(v, scope),
            "$map" => map(v, scope),
            "$filter" => filter(v, scope),
            "$reduce" => reduce(v, scope),
            "$sortArray" => {
                scope.needs_simple_collation(name)?;
                sort_array(v, scope)
            }
            "$rand" => Ok(Expr::Random),
            name => {
                if BY_BYTES.contains(&name) {
                    scope.needs_simple_collation(name)?;
                }
                if let Some(convert) = Convert::parse(name, v, scope)? {
                    let constant = convert.is_constant();
                    return Ok(folded(Expr::Convert(Box::new(convert)), constant, scope));
                }
                call(name, v, scope)
            }
        }
    }

    /// The value, if it is the same for every document.
    pub(crate) fn constant(&self) -> Option<&RawBson> {
        match self {
            Expr::Constant(v) => Some(v),
            _ => None,
        }
    }

    /// The path, if this is a field of the document.
    pub(crate) fn field_path(&self) -> Option<&[Box<str>]> {
        match self {
            Expr::Field(base, path) if matches!(**base, Expr::Root) => Some(path),
            _ => None,
        }
    }

    /// The operator and its arguments, if it is one of those that evaluate all their arguments.
    pub(crate) fn as_call(&self) -> Option<(&'static str, &[Expr])> {
        match self {
            Expr::Call(operator, arguments) => Some((operator.name, arguments)),
            _ => None,
        }
    }
}

fn folded(expr: Expr, constant: bool, scope: &Scope) -> Expr {
    if !constant {
        return expr;
    }
    let empty = RawDocumentBuf::new();
    let is_list = matches!(expr, Expr::Array(_) | Expr::Object(_));
    let value = match expr.eval(&mut Env::new(&empty, scope.runtime())) {
        // A short text can make a large value; it is made when it is needed and not kept.
        Ok(value) if value.size() > FOLDED_BYTES_MAX && !is_list => return expr,
        Ok(value) => value.into_raw(),
        Err(_) => return expr,
    };
    value.map_or(Expr::Missing, Expr::Constant)
}

fn is_constant(expr: &Expr) -> bool {
    matches!(expr, Expr::Constant(_) | Expr::Missing)
}

/// `$field.path` or `$$variable.path`.
fn path(text: &str, scope: &Scope) -> Result<Expr> {
    let Some(variable) = text.strip_prefix("$$") else {
        let rest = &text[1..];
        if rest.is_empty() {
            return Err(location(16_872, "'$' by itself is not a valid FieldPath"));
        }
        let base = variable_named("CURRENT", scope)?;
        return Ok(field_of(base, field_path(rest)?, scope));
    };
    let (name, rest) = match variable.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (variable, None),
    };
    if name.is_empty() {
        return Err(Error::new(
            Code::FailedToParse,
            "empty variable names are not allowed",
        ));
    }
    let base = variable_named(name, scope)?;
    match rest {
        None => Ok(base),
        Some(rest) => Ok(field_of(base, field_path(rest)?, scope)),
    }
}

fn field_of(base: Expr, path: Box<[Box<str>]>, scope: &Scope) -> Expr {
    let constant = is_constant(&base);
    folded(Expr::Field(Box::new(base), path), constant, scope)
}

/// The parts of a field path.
///
/// # Errors
/// For an empty part, or one that begins with `$` or has a NUL.
pub(crate) fn field_path(text: &str) -> Result<Box<[Box<str>]>> {
    /// More than the deepest document has levels.
    const PARTS_MAX: usize = 200;
    if text.is_empty() {
        return Err(location(
            40_352,
            "FieldPath cannot be constructed with empty string",
        ));
    }
    if text.ends_with('.') {
        return Err(location(40_353, "FieldPath must not end with a '.'."));
    }
    let parts: Box<[Box<str>]> = text.split('.').take(PARTS_MAX + 1).map(Box::from).collect();
    if parts.len() > PARTS_MAX {
        return Err(Error::new(
            Code::Overflow,
            format!("FieldPath has more than {PARTS_MAX} parts"),
        ));
    }
    for part in &parts {
        if part.is_empty() {
            return Err(location(
                15_998,
                "FieldPath field names may not be empty strings.",
            ));
        }
        if part.starts_with('$') {
            let message = format!("FieldPath field names may not start with '$', found {part:?}");
            return Err(location(16_410, message));
        }
        if part.contains('\0') {
            return Err(location(16_411, "FieldPath field names may not contain '\\0'."));
        }
    }
    Ok(parts)
}

fn variable_named(name: &str, scope: &Scope) -> Result<Expr> {
    let bound = scope.variables.iter().rev().find(|(bound, _)| **bound == *name);
    if let Some((_, binding)) = bound {
        return Ok(match binding {
            Binding::Slot(slot) => Expr::Variable(*slot),
            Binding::Constant(value) => Expr::Constant(value.clone()),
            Binding::Missing => Expr::Missing,
            Binding::Later => Expr::Unbound,
        });
    }
    match name {
        "ROOT" | "CURRENT" => Ok(Expr::Root),
        "REMOVE" => Ok(Expr::Missing),
        "NOW" => Ok(Expr::Constant(RawBson::DateTime(scope.runtime.now))),
        name => Err(location(17_276, format!("Use of undefined variable: {name}"))),
    }
}

/// Checks the name of a variable that a user makes: a small letter, then letters, digits and `_`.
pub(super) fn check_variable(name: &str) -> Result<()> {
    let mut chars = name.chars();
    let fine = match chars.next() {
        None => false,
        Some(first) => {
            (first.is_ascii_lowercase() || !first.is_ascii())
                && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii())
        }
    };
    if fine || name == "CURRENT" {
        return Ok(());
    }
    let message = format!("{name:?} is not a valid user variable name");
    Err(Error::new(Code::FailedToParse, message))
}

/// `{$operator: argument}` or an object of expressions.
fn object(doc: &RawDocument, scope: &Scope) -> Result<Expr> {
    let mut parts: Vec<(CString, Expr)> = Vec::new();
    let count = fields(doc).count();
    for (name, value) in raw_fields(doc) {
        let text = name.as_str();
        if text.starts_with('$') {
            if count == 1 {
                return Expr::parse_operator(text, value, scope);
            }
            if parts.is_empty() {
                let message = format!(
                    "an object representing an expression must have exactly one field: {}",
                    crate::show::document(doc)
                );
                return Err(location(15_983, message));
            }
            let message = format!("FieldPath field names may not start with '$', found {text:?}");
            return Err(location(16_410, message));
        }
        if text.contains('.') {
            let message = format!("FieldPath field names may not contain '.', found {text:?}");
            return Err(location(16_412, message));
        }
        if parts.iter().any(|(seen, _)| seen.as_str() == text) {
            let message = format!("duplicate field name specified in object literal: {text:?}");
            return Err(location(16_406, message));
        }
        parts.push((name.to_owned(), Expr::parse(value, scope)?));
    }
    let constant = parts.iter().all(|(_, part)| is_constant(part));
    Ok(folded(Expr::Object(parts), constant, scope))
}

/// The arguments of an operator: an array's elements, or what is no array.
fn all(v: RawBsonRef<'_>, scope: &Scope) -> Result<Vec<Expr>> {
    match v {
        RawBsonRef::Array(array) => elements(array).map(|v| Expr::parse(v, scope)).collect(),
        v => Ok(vec![Expr::parse(v, scope)?]),
    }
}

/// The operator of that name.
fn operator(name: &str) -> Option<&'static Operator> {
    [
        compare::OPERATORS,
        arithmetic::OPERATORS,
        strings::OPERATORS,
        arrays::OPERATORS,
        objects::OPERATORS,
        dates::OPERATORS,
        convert::OPERATORS,
        accumulate::OPERATORS,
    ]
    .into_iter()
    .flatten()
    .find(|operator| operator.name == name)
}

fn call(name: &str, v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let Some(operator) = operator(name) else {
        if NOT_SUPPORTED.contains(&name) {
            let message = format!("expression {name} is not supported");
            return Err(Error::new(Code::CommandNotSupported, message));
        }
        let message = format!("Unrecognized expression '{name}'");
        return Err(Error::new(Code::InvalidPipelineOperator, message));
    };
    let arguments = match &operator.arguments {
        Arguments::Named(unknown, names) => named(operator.name, *unknown, names, v, scope)?,
        Arguments::Exactly(count) => {
            let arguments = all(v, scope)?;
            if arguments.len() != *count {
                let message = format!(
                    "Expression {name} takes exactly {count} arguments. {} were passed in.",
                    arguments.len()
                );
                return Err(location(16_020, message));
            }
            arguments
        }
        Arguments::Between(least, most) => {
            let arguments = all(v, scope)?;
            if !(*least..=*most).contains(&arguments.len()) {
                let message = format!(
                    "Expression {name} takes at least {least} arguments, and at most {most}, but {} were passed in.",
                    arguments.len()
                );
                return Err(location(28_667, message));
            }
            arguments
        }
        Arguments::AtLeast(least) => {
            let arguments = all(v, scope)?;
            if arguments.len() < *least {
                let message = format!(
                    "Expression {name} takes at least {least} arguments. {} were passed in.",
                    arguments.len()
                );
                return Err(location(28_666, message));
            }
            arguments
        }
    };
    let constant = arguments.iter().all(is_constant);
    Ok(folded(Expr::Call(operator, arguments), constant, scope))
}

fn named(
    operator: &str,
    unknown: i32,
    names: &'static [Named],
    v: RawBsonRef<'_>,
    scope: &Scope,
) -> Result<Vec<Expr>> {
    let doc = match v {
        RawBsonRef::Document(doc) if !is_single_value(operator, doc) => doc,
        v => return short_form(operator, names, v, scope),
    };
    for (name, _) in fields(doc) {
        if !names.iter().any(|known| known.name == name) {
            return Err(location(
                unknown,
                format!("unrecognized argument to {operator}: {name:?}"),
            ));
        }
    }
    names
        .iter()
        .map(|known| match crate::value::field(doc, known.name) {
            Some(v) => Expr::parse(v, scope),
            None => otherwise(operator, known),
        })
        .collect()
}

fn otherwise(operator: &str, argument: &Named) -> Result<Expr> {
    Ok(match argument.otherwise {
        Otherwise::Required(number) => {
            let message = format!("missing '{}' parameter to {operator}", argument.name);
            return Err(location(number, message));
        }
        Otherwise::Null => Expr::Constant(RawBson::Null),
        Otherwise::Text(text) => Expr::Constant(RawBson::String(text.to_owned())),
        Otherwise::Flag(flag) => Expr::Constant(RawBson::Boolean(flag)),
        Otherwise::Int(number) => Expr::Constant(RawBson::Int32(number)),
        Otherwise::Absent => Expr::Missing,
    })
}

/// Operators with named arguments of which one may be given alone: `$year: "$d"`, `$getField: "a"`.
const SHORT_FORMS: [&str; 14] = [
    "$year",
    "$month",
    "$dayOfMonth",
    "$dayOfWeek",
    "$dayOfYear",
    "$hour",
    "$minute",
    "$second",
    "$millisecond",
    "$week",
    "$isoWeek",
    "$isoWeekYear",
    "$isoDayOfWeek",
    "$getField",
];

/// Whether the document is an expression that is the only argument.
fn is_single_value(operator: &str, doc: &RawDocument) -> bool {
    SHORT_FORMS.contains(&operator) && fields(doc).next().is_some_and(|(name, _)| name.starts_with('$'))
}

fn short_form(
    operator: &str,
    names: &'static [Named],
    v: RawBsonRef<'_>,
    scope: &Scope,
) -> Result<Vec<Expr>> {
    if !SHORT_FORMS.contains(&operator) {
        let message = format!(
            "{operator} only supports an object as its argument, found {}",
            crate::value::type_name(v)
        );
        return Err(Error::new(Code::FailedToParse, message));
    }
    let mut given = all(v, scope)?;
    if given.len() != 1 {
        let message = format!(
            "{operator} accepts exactly one argument if given an array, but was given {}",
            given.len()
        );
        return Err(location(40_536, message));
    }
    let mut out = vec![given.remove(0)];
    for name in &names[1..] {
        out.push(match name.otherwise {
            // `$getField: "a"` is of the document.
            Otherwise::Required(_) => Expr::Root,
            _ => otherwise(operator, name)?,
        });
    }
    Ok(out)
}

/// The fields of a special form's argument, by the order of `names`.
fn form<'v, const N: usize>(
    operator: &str,
    v: RawBsonRef<'v>,
    not_object: i32,
    unknown: i32,
    names: [&str; N],
) -> Result<[Option<RawBsonRef<'v>>; N]> {
    let RawBsonRef::Document(doc) = v else {
        let message = format!("{operator} only supports an object as its argument");
        return Err(location(not_object, message));
    };
    let mut out = [None; N];
    for (name, value) in fields(doc) {
        let Some(place) = names.iter().position(|known| *known == name) else {
            return Err(location(
                unknown,
                format!("unrecognized parameter to {operator}: {name}"),
            ));
        };
        out[place] = Some(value);
    }
    Ok(out)
}

fn needed<'v>(v: Option<RawBsonRef<'v>>, number: i32, operator: &str, name: &str) -> Result<RawBsonRef<'v>> {
    v.ok_or_else(|| location(number, format!("missing '{name}' parameter to {operator}")))
}

fn boxed(v: RawBsonRef<'_>, scope: &Scope) -> Result<Box<Expr>> {
    Expr::parse(v, scope).map(Box::new)
}

fn cond(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let (condition, then, otherwise) = match v {
        RawBsonRef::Document(_) => {
            let [condition, then, otherwise] = form("$cond", v, 17_083, 17_083, ["if", "then", "else"])?;
            (
                Expr::parse(needed(condition, 17_080, "$cond", "if")?, scope)?,
                Expr::parse(needed(then, 17_081, "$cond", "then")?, scope)?,
                Expr::parse(needed(otherwise, 17_082, "$cond", "else")?, scope)?,
            )
        }
        v => {
            let parts = all(v, scope)?;
            let count = parts.len();
            let Ok([condition, then, otherwise]) = <[Expr; 3]>::try_from(parts) else {
                let message = format!("Expression $cond takes exactly 3 arguments. {count} were passed in.");
                return Err(location(16_020, message));
            };
            (condition, then, otherwise)
        }
    };
    Ok(Expr::Switch {
        branches: vec![(condition, then)],
        otherwise: Some(Box::new(otherwise)),
    })
}

fn switch(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [branches, otherwise] = form("$switch", v, 40_060, 40_067, ["branches", "default"])?;
    let mut parsed = Vec::new();
    match branches {
        None => {}
        Some(RawBsonRef::Array(branches)) => {
            for branch in elements(branches) {
                let [case, then] = form("$switch branch", branch, 40_062, 40_063, ["case", "then"])?;
                let case = needed(case, 40_064, "$switch branch", "case")?;
                let then = needed(then, 40_065, "$switch branch", "then")?;
                parsed.push((Expr::parse(case, scope)?, Expr::parse(then, scope)?));
            }
        }
        Some(_) => return Err(location(40_061, "$switch expected an array for 'branches'")),
    }
    if parsed.is_empty() {
        return Err(location(40_068, "$switch requires at least one branch"));
    }
    Ok(Expr::Switch {
        branches: parsed,
        otherwise: otherwise.map(|v| boxed(v, scope)).transpose()?,
    })
}

fn let_in(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [vars, body] = form("$let", v, 16_874, 16_875, ["vars", "in"])?;
    let vars = needed(vars, 16_876, "$let", "vars")?;
    let body = needed(body, 16_877, "$let", "in")?;
    let RawBsonRef::Document(vars) = vars else {
        return Err(location(
            16_878,
            "invalid parameter: expected an object (vars) in $let",
        ));
    };
    let mut inner = scope.clone();
    let mut variables = Vec::new();
    // Variables don't see each other.
    let mut outer = scope.clone();
    outer.slots += fields(vars).count();
    for (name, value) in fields(vars) {
        let slot;
        (inner, slot) = inner.with_slot(name)?;
        variables.push((slot, Expr::parse(value, &outer)?));
    }
    Ok(Expr::Let {
        variables,
        body: boxed(body, &inner)?,
    })
}

fn variable_name(v: Option<RawBsonRef<'_>>) -> Result<Arc<str>> {
    match v {
        None => Ok("this".into()),
        Some(RawBsonRef::String(name)) => Ok(name.into()),
        Some(_) => Err(Error::new(
            Code::TypeMismatch,
            "'as' must be the name of a variable, a string",
        )),
    }
}

fn map(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [input, name, body] = form("$map", v, 16_878, 16_879, ["input", "as", "in"])?;
    let input = boxed(needed(input, 16_880, "$map", "input")?, scope)?;
    let (inner, slot) = scope.with_slot(&variable_name(name)?)?;
    let body = boxed(needed(body, 16_882, "$map", "in")?, &inner)?;
    Ok(Expr::Map { input, slot, body })
}

fn filter(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [input, name, condition, limit] =
        form("$filter", v, 28_646, 28_647, ["input", "as", "cond", "limit"])?;
    let input = boxed(needed(input, 28_648, "$filter", "input")?, scope)?;
    let (inner, slot) = scope.with_slot(&variable_name(name)?)?;
    let condition = boxed(needed(condition, 28_650, "$filter", "cond")?, &inner)?;
    let limit = limit.map(|v| boxed(v, scope)).transpose()?;
    Ok(Expr::Filter {
        input,
        slot,
        condition,
        limit,
    })
}

fn reduce(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [input, initial, body] = form("$reduce", v, 40_075, 40_076, ["input", "initialValue", "in"])?;
    let input = boxed(needed(input, 40_077, "$reduce", "input")?, scope)?;
    let initial = boxed(needed(initial, 40_078, "$reduce", "initialValue")?, scope)?;
    let (inner, value) = scope.with_slot("value")?;
    let (inner, this) = inner.with_slot("this")?;
    let body = boxed(needed(body, 40_079, "$reduce", "in")?, &inner)?;
    Ok(Expr::Reduce {
        input,
        initial,
        value,
        this,
        body,
    })
}

fn sort_array(v: RawBsonRef<'_>, scope: &Scope) -> Result<Expr> {
    let [input, order] = form("$sortArray", v, 2_942_500, 2_942_501, ["input", "sortBy"])?;
    let input = boxed(needed(input, 2_942_502, "$sortArray", "input")?, scope)?;
    let order = arrays::Order::parse(needed(order, 2_942_503, "$sortArray", "sortBy")?)?;
    let constant = is_constant(&input);
    Ok(folded(Expr::SortArray { input, order }, constant, scope))
}
