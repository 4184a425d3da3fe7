//! Update documents to updates.

use bson::raw::cstr;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::array::{Pull, Push, PushSort};
use super::operators::{BitOperation, Operator};
use super::path::{UpdatePath, conflict};
use super::{ArrayFilter, Change, Operators};
use crate::query::{Filter, is_value_operators};
use crate::sort::SortSpec;
use crate::value::{as_whole, elements, field, fields, is_number, shown, type_name};
use crate::{Code, Error, Result};

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadValue, message)
}

fn unparsable(message: impl Into<String>) -> Error {
    Error::new(Code::FailedToParse, message)
}

/// Parses a document of operators.
pub(super) fn operators(doc: &RawDocument, array_filters: &[RawDocumentBuf]) -> Result<Operators> {
    let array_filters = array_filters
        .iter()
        .map(|doc| array_filter(doc))
        .collect::<Result<Vec<_>>>()?;
    for (i, filter) in array_filters.iter().enumerate() {
        if array_filters[..i]
            .iter()
            .any(|earlier| earlier.name == filter.name)
        {
            let name = filter.name.as_str();
            return Err(unparsable(format!(
                "found multiple array filters with the same name '{name}'"
            )));
        }
    }
    let mut used = vec![false; array_filters.len()];
    let mut filter_place = |name: &str| {
        let place = array_filters
            .iter()
            .position(|filter| filter.name.as_str() == name)?;
        used[place] = true;
        Some(place)
    };
    let mut changes = Vec::new();
    for (name, argument) in fields(doc) {
        let parse = operator_parser(name)?;
        let RawBsonRef::Document(argument) = argument else {
            let message = format!(
                "modifiers operate on fields but {name} was given a {}",
                type_name(argument)
            );
            return Err(unparsable(message));
        };
        for (path, argument) in fields(argument) {
            let path = UpdatePath::parse(path, &mut filter_place)?;
            let operator = parse(&path, argument)?;
            changes.push(Change { path, operator });
        }
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        let name = array_filters[unused].name.as_str();
        return Err(unparsable(format!(
            "the array filter for identifier '{name}' was not used in the update"
        )));
    }
    changes.sort_by(|a, b| a.path.compare(&b.path));
    check_conflicts(&changes)?;
    Ok(Operators {
        changes,
        array_filters,
        collation: None,
    })
}

/// Refuses two paths of which one is or leads to the other; the target of a rename is a path too.
fn check_conflicts(changes: &[Change]) -> Result<()> {
    let mut paths: Vec<&UpdatePath> = Vec::with_capacity(changes.len());
    for change in changes {
        paths.push(&change.path);
        if let Operator::Rename(target) = &change.operator {
            paths.push(target);
        }
    }
    paths.sort_by(|a, b| a.compare(b));
    match paths.windows(2).find(|pair| pair[0].conflicts(pair[1])) {
        Some(pair) => Err(conflict(&pair[1].text, &pair[0].text)),
        None => Ok(()),
    }
}

fn array_filter(doc: &RawDocument) -> Result<ArrayFilter> {
    let filter = Filter::parse(doc)?;
    let mut names = Vec::new();
    collect_names(&filter, &mut names);
    let name = names
        .first()
        .cloned()
        .ok_or_else(|| unparsable("an array filter has to name its elements"))?;
    if let Some(other) = names.iter().find(|other| **other != name) {
        let message = format!("an array filter has to have one name, found both '{name}' and '{other}'");
        return Err(unparsable(message));
    }
    let plain =
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !plain {
        let message = format!(
            "array filter name '{name}' has to begin with a lower case letter and be made of letters and digits"
        );
        return Err(bad(message));
    }
    let name = name
        .try_into()
        .map_err(|_| bad("an array filter's name has a NUL byte"))?;
    Ok(ArrayFilter { name, filter })
}

fn collect_names(filter: &Filter, names: &mut Vec<String>) {
    match filter {
        Filter::And(parts) | Filter::Or(parts) | Filter::Nor(parts) => {
            parts.iter().for_each(|part| collect_names(part, names));
        }
        Filter::Field { path, .. } => names.push(path.parts()[0].name.to_string()),
        Filter::Expr { .. } | Filter::Schema(_) | Filter::AlwaysTrue | Filter::AlwaysFalse => {}
    }
}

/// Parses the argument of an operator on a path.
type Parser = fn(&UpdatePath, RawBsonRef<'_>) -> Result<Operator>;

fn operator_parser(name: &str) -> Result<Parser> {
    Ok(match name {
        "$set" => |_, v| Ok(Operator::Set(v.into())),
        "$setOnInsert" => |_, v| Ok(Operator::SetOnInsert(v.into())),
        "$unset" => |_, _| Ok(Operator::Unset),
        "$inc" => |path, v| Ok(Operator::Inc(number("increment", path, v)?)),
        "$mul" => |path, v| Ok(Operator::Mul(number("multiply", path, v)?)),
        "$min" => |_, v| Ok(Operator::Min(v.into())),
        "$max" => |_, v| Ok(Operator::Max(v.into())),
        "$currentDate" => current_date,
        "$rename" => rename,
        "$push" => push,
        "$addToSet" => add_to_set,
        "$pull" => pull,
        "$pullAll" => pull_all,
        "$pop" => pop,
        "$bit" => bit,
        name => {
            let message = format!("unknown modifier: {name}; expected a valid update modifier such as $set");
            return Err(unparsable(message));
        }
    })
}

fn number(what: &str, path: &UpdatePath, v: RawBsonRef<'_>) -> Result<RawBson> {
    if is_number(v) {
        return Ok(v.into());
    }
    let message = format!(
        "cannot {what} with non-numeric argument: {{{}: {}}}",
        path.text,
        shown(v)
    );
    Err(Error::new(Code::TypeMismatch, message))
}

fn current_date(path: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let kind = match v {
        RawBsonRef::Boolean(_) => Some("date"),
        RawBsonRef::Document(doc) if fields(doc).count() == 1 => {
            field(doc, "$type").and_then(RawBsonRef::as_str)
        }
        _ => None,
    };
    match kind {
        Some("date") => Ok(Operator::CurrentDate { timestamp: false }),
        Some("timestamp") => Ok(Operator::CurrentDate { timestamp: true }),
        _ => {
            let message = format!(
                "$currentDate of '{}' takes true or {{$type: \"date\" or \"timestamp\"}}, found {}",
                path.text,
                shown(v)
            );
            Err(bad(message))
        }
    }
}

fn rename(path: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let RawBsonRef::String(target) = v else {
        return Err(bad(format!(
            "the 'to' field for $rename must be a string: {}: {}",
            path.text,
            shown(v)
        )));
    };
    let target = UpdatePath::parse(target, &mut |_| None)?;
    if target.text == path.text {
        return Err(bad(format!(
            "the source and target field for $rename must differ: {}",
            path.text
        )));
    }
    if !path.is_plain() || !target.is_plain() {
        let message = format!(
            "$rename takes no positional paths: '{}' to '{}'",
            path.text, target.text
        );
        return Err(bad(message));
    }
    Ok(Operator::Rename(target))
}

/// The array of an `$each`, when the argument has one.
fn each<'a>(operator: &str, doc: &'a RawDocument) -> Result<Option<Vec<RawBsonRef<'a>>>> {
    match field(doc, "$each") {
        None => match fields(doc).next() {
            Some((name, _)) if name.starts_with('$') && !matches!(name, "$ref" | "$id" | "$db") => {
                let message =
                    format!("the dollar ($) prefixed field '{name}' in {operator} is not valid for storage");
                Err(Error::new(Code::DollarPrefixedFieldName, message))
            }
            _ => Ok(None),
        },
        Some(RawBsonRef::Array(array)) => Ok(Some(elements(array).collect())),
        Some(v) => {
            let message = format!(
                "the argument to $each in {operator} must be an array but is of type {}",
                type_name(v)
            );
            Err(if operator == "$push" {
                bad(message)
            } else {
                Error::new(Code::TypeMismatch, message)
            })
        }
    }
}

fn push(_: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let doc = v.as_document();
    let Some(values) = doc.map(|doc| each("$push", doc)).transpose()?.flatten() else {
        return Ok(Operator::Push(Push {
            values: vec![v.into()],
            ..Push::default()
        }));
    };
    let mut push = Push {
        values: values.into_iter().map(Into::into).collect(),
        ..Push::default()
    };
    for (name, v) in doc.into_iter().flat_map(fields) {
        let whole = || {
            let number = as_whole(v).filter(|_| is_number(v));
            number.ok_or_else(|| {
                bad(format!(
                    "the value for {name} must be an integer, found {}",
                    shown(v)
                ))
            })
        };
        match name {
            "$each" => {}
            "$slice" => push.slice = Some(whole()?),
            "$position" => push.position = Some(whole()?),
            "$sort" => push.sort = Some(push_sort(v)?),
            name => return Err(bad(format!("unrecognized clause in $push: {name}"))),
        }
    }
    Ok(Operator::Push(push))
}

fn push_sort(v: RawBsonRef<'_>) -> Result<PushSort> {
    match v {
        RawBsonRef::Document(doc) if doc.is_empty() => {
            Err(bad("$sort in $push needs a field or a direction"))
        }
        RawBsonRef::Document(doc) => Ok(PushSort::Fields(SortSpec::parse(doc)?)),
        v => match as_whole(v).filter(|_| is_number(v)) {
            Some(1) => Ok(PushSort::Ascending),
            Some(-1) => Ok(PushSort::Descending),
            _ => Err(bad(format!(
                "$sort in $push must be 1, -1 or an object, found {}",
                shown(v)
            ))),
        },
    }
}

fn add_to_set(_: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let Some(doc) = v.as_document() else {
        return Ok(Operator::AddToSet(vec![v.into()]));
    };
    let Some(values) = each("$addToSet", doc)? else {
        return Ok(Operator::AddToSet(vec![v.into()]));
    };
    if let Some((name, _)) = fields(doc).find(|(name, _)| *name != "$each") {
        return Err(bad(format!(
            "found unexpected field {name} after $each in $addToSet"
        )));
    }
    Ok(Operator::AddToSet(values.into_iter().map(Into::into).collect()))
}

fn pull(_: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let as_field = |v: RawBsonRef<'_>| {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!(""), v);
        Filter::parse(&doc)
    };
    Ok(Operator::Pull(match v {
        RawBsonRef::Document(doc) if !is_value_operators(doc) => Pull::Documents(Filter::parse(doc)?),
        RawBsonRef::Document(_) | RawBsonRef::RegularExpression(_) => Pull::Values(as_field(v)?),
        v => Pull::Equal(v.into()),
    }))
}

fn pull_all(_: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    match v {
        RawBsonRef::Array(array) => Ok(Operator::PullAll(elements(array).map(Into::into).collect())),
        v => Err(bad(format!(
            "$pullAll requires an array argument but was given a {}",
            type_name(v)
        ))),
    }
}

fn pop(_: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    match as_whole(v).filter(|_| is_number(v)) {
        Some(1) => Ok(Operator::Pop { first: false }),
        Some(-1) => Ok(Operator::Pop { first: true }),
        _ => Err(unparsable(format!("$pop expects 1 or -1, found: {}", shown(v)))),
    }
}

fn bit(path: &UpdatePath, v: RawBsonRef<'_>) -> Result<Operator> {
    let doc = v.as_document().filter(|doc| !doc.is_empty()).ok_or_else(|| {
        bad(format!(
            "$bit of '{}' takes an object of and, or, xor; found {}",
            path.text,
            shown(v)
        ))
    })?;
    let mut operations = Vec::new();
    for (name, v) in fields(doc) {
        let operation = match name {
            "and" => BitOperation::And,
            "or" => BitOperation::Or,
            "xor" => BitOperation::Xor,
            name => {
                return Err(bad(format!(
                    "$bit only supports 'and', 'or', and 'xor', found '{name}'"
                )));
            }
        };
        if !matches!(v, RawBsonRef::Int32(_) | RawBsonRef::Int64(_)) {
            return Err(bad(format!("$bit takes an integer, found {}", shown(v))));
        }
        operations.push((operation, v.into()));
    }
    Ok(Operator::Bit(operations))
}
