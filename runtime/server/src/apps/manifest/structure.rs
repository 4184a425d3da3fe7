//! The manifest's structure: unknown keys, missing keys and wrong types, checked against the same schema that
//! editors use. What is wrong is told and cut out, so that the rest can still be read and checked.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problems::{Report, did_you_mean};

/// Checks `root` against `schema` and cuts out what does not fit.
pub(super) fn check(root: &mut Spanned<DeTable<'_>>, schema: &Value, report: &mut Report<'_>) {
    let mut walk = Walk { schema, report };
    // The document itself has no place of its own: what is missing there is missing at its beginning.
    walk.table(root.get_mut(), schema, "", 0..0);
}

struct Walk<'w, 't> {
    /// The whole schema, for references.
    schema: &'w Value,
    report: &'w mut Report<'t>,
}

impl<'w> Walk<'w, '_> {
    /// Checks one value; `false` when it must go.
    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, schema: &'w Value, path: &str) -> bool {
        let span = value.span();
        let found = kind(value.get_ref());
        let mut offered = Vec::new();
        self.alternatives(schema, &mut offered);
        let fits = |kind: &str| kind == found || kind == "any" || (kind, found) == ("number", "integer");
        let Some((_, fitting)) = offered.iter().find(|(kind, _)| fits(kind)) else {
            let mut expected: Vec<&str> = offered.iter().map(|(kind, _)| words(kind)).collect();
            expected.dedup();
            let message = format!("{path:?} is {}", words(found));
            self.report
                .add(span, message, format!("write {}", expected.join(" or ")));
            return false;
        };
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, fitting, path, span),
            DeValue::Array(array) => self.array(array, fitting, path),
            _ => {}
        }
        true
    }

    fn table(&mut self, table: &mut DeTable<'_>, schema: &'w Value, path: &str, span: Range<usize>) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        for name in required(schema) {
            if !table.contains_key(name) {
                let whole = join(path, name);
                let remedy = match properties.and_then(|p| p.get(name)).and_then(description) {
                    Some(text) => format!("add it: {}", text.trim_end_matches('.')),
                    None => "add it".to_owned(),
                };
                self.report
                    .add(span.clone(), format!("{whole:?} is missing"), remedy);
            }
        }
        let mut cut = Vec::new();
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let whole = join(path, name);
            let schema = properties.and_then(|properties| properties.get(name));
            let keep = match (schema, others) {
                (Some(schema), _) => self.value(value, schema, &whole),
                (None, None | Some(Value::Bool(true))) => true,
                (None, Some(Value::Bool(false))) => {
                    let known = properties.into_iter().flatten().map(|(known, _)| known.as_str());
                    let remedy = did_you_mean(name, known, "remove it");
                    let place = match path {
                        "" => "at the top level".to_owned(),
                        _ => format!("in {path:?}"),
                    };
                    self.report
                        .add(key.span(), format!("unknown key {name:?} {place}"), remedy);
                    false
                }
                (None, Some(schema)) => self.value(value, schema, &whole),
            };
            if !keep {
                cut.push(name.to_owned());
            }
        }
        for name in cut {
            table.remove(name.as_str());
        }
    }

    fn array(&mut self, array: &mut DeArray<'_>, schema: &'w Value, path: &str) {
        let Some(items) = schema.get("items") else { return };
        let mut kept = DeArray::new();
        for (index, item) in array.iter().enumerate() {
            let mut item = item.clone();
            if self.value(&mut item, items, &format!("{path}[{index}]")) {
                kept.push(item);
            }
        }
        *array = kept;
    }

    /// The types that `schema` accepts, each with the part of the schema that says more.
    fn alternatives(&self, schema: &'w Value, into: &mut Vec<(&'w str, &'w Value)>) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            if let Some(target) = name.strip_prefix('#').and_then(|path| self.schema.pointer(path)) {
                self.alternatives(target, into);
            }
            return;
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            choices.iter().for_each(|choice| self.alternatives(choice, into));
            return;
        }
        match schema.get("type") {
            Some(Value::String(kind)) => into.push((kind, schema)),
            Some(Value::Array(kinds)) => {
                into.extend(kinds.iter().filter_map(|k| Some((k.as_str()?, schema))))
            }
            _ => into.push(("any", schema)),
        }
        into.retain(|(kind, _)| *kind != "null");
    }
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str)
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

/// The schema's word for a TOML value.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "datetime",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

/// An author's words for it.
fn words(kind: &str) -> &'static str {
    match kind {
        "string" => "a text in quotes",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" => "a list in [ ]",
        "object" => "a table",
        _ => "a value",
    }
}
