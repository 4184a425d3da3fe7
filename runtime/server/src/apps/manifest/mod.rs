//! The app manifest: text in, a typed [`Manifest`] out, or every problem at once.
//!
//! `raw` is the document as written, `structure` checks it against the schema made of `raw`, `values` parses
//! single values, `resolve` turns the whole into a manifest (`triggers` its triggers), `problems` collects what is wrong. Nothing here reads
//! a file: the command line and the admin API both bring the text.

mod problems;
mod raw;
mod resolve;
mod structure;
mod triggers;
mod values;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cloudlet_base::AppId;
use cloudlet_data::IndexSpec;
use cloudlet_data::rules::Rule;
use cloudlet_host::{FunctionLimits, Grants, OutboundRule};
use http::Method;
use serde::Deserialize;

pub(crate) use problems::{Problem, nearest};
pub(crate) use values::duration;

use super::registry::{InvokeRule, StorageRule};
use crate::front::rate::Rates;
use crate::triggers::changes::ChangeTrigger;
use crate::triggers::timers::Timer;
use problems::Report;

/// The manifest's file name.
pub(crate) const FILE: &str = "cloudlet.toml";

/// Largest manifest, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;

/// An app as its author describes it, resolved: everything parsed, every name checked.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) app: AppId,
    /// Host names of its own, lower case.
    pub(crate) domains: Vec<String>,
    /// Invocations at once, when it says.
    pub(crate) concurrency: Option<usize>,
    /// Requests of clients to functions and the client API.
    pub(crate) rates: Rates,
    /// Values, with those of the chosen environment in place.
    pub(crate) vars: BTreeMap<String, String>,
    /// Secrets that must have a value.
    pub(crate) secrets: Vec<String>,
    /// Functions by name, in order.
    pub(crate) functions: BTreeMap<String, Function>,
    pub(crate) routes: Vec<Route>,
    pub(crate) timers: Vec<Timer>,
    /// Database and storage triggers.
    pub(crate) changes: Vec<ChangeTrigger>,
    pub(crate) collections: BTreeMap<String, Collection>,
    /// Rules of path prefixes, longest first.
    pub(crate) storage: Vec<StorageRule>,
    /// Cache-Control of path prefixes, longest first.
    pub(crate) cache_control: Vec<(String, String)>,
    pub(crate) anonymous_login: bool,
    pub(crate) password_signup: bool,
    pub(crate) hosting: Option<Hosting>,
}

/// A function.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// The component's file, relative to the manifest.
    pub(crate) source: String,
    pub(crate) build: Option<Build>,
    pub(crate) grants: Grants,
    /// Names of granted vars.
    pub(crate) vars: Vec<String>,
    /// Names of granted secrets.
    pub(crate) secrets: Vec<String>,
    pub(crate) outbound: Vec<OutboundRule>,
    pub(crate) limits: FunctionLimits,
    /// Requests of clients to it.
    pub(crate) rates: Rates,
    pub(crate) invoke: InvokeRule,
}

/// How a component is built.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    /// For the shell.
    pub(crate) command: String,
    /// Relative to the manifest; empty is the manifest's directory.
    pub(crate) dir: String,
    /// Patterns of files, relative to the manifest.
    pub(crate) watch: Vec<String>,
}

/// An HTTP trigger.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) prefix: bool,
    /// Empty is all.
    pub(crate) methods: Vec<Method>,
    pub(crate) function: String,
}

/// A collection's rule and indexes.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) rule: Rule,
    pub(crate) indexes: Vec<IndexSpec>,
}

/// A hosted site.
#[derive(Debug, Clone)]
pub(crate) struct Hosting {
    /// Relative to the manifest.
    pub(crate) dir: String,
    pub(crate) spa: bool,
}

/// Whether `name` can be a secret's.
///
/// # Errors
/// What is wrong, and what to write.
pub(crate) fn check_secret_name(name: &str) -> Result<(), (String, String)> {
    values::name("secret", name)
}

/// The JSON Schema of the manifest.
pub(crate) fn schema() -> &'static serde_json::Value {
    static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| {
        let mut schema = schemars::schema_for!(raw::RawManifest).to_value();
        without_null(&mut schema);
        schema
    });
    &SCHEMA
}

/// Takes out what serde means by an optional value and TOML does not have: null and defaults of null.
fn without_null(value: &mut serde_json::Value) {
    use serde_json::Value;
    let not_null = |value: &Value| !(value == "null" || value["type"] == "null");
    if let Value::Object(object) = value {
        object.retain(|key, value| !(key == "default" && value.is_null()));
        if let Some(Value::Array(kinds)) = object.get_mut("type") {
            kinds.retain(not_null);
            if let [only] = kinds.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        let left = object
            .get_mut("anyOf")
            .and_then(Value::as_array_mut)
            .and_then(|choices| {
                choices.retain(not_null);
                (choices.len() == 1).then(|| choices.remove(0))
            });
        if let Some(Value::Object(left)) = left {
            object.remove("anyOf");
            object.extend(left);
        }
        object.values_mut().for_each(without_null);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(without_null);
    }
}

/// Parses a manifest. `file` is what problems call it; `env` is the environment chosen, if any.
///
/// # Errors
/// Every problem found, in the order of the text.
pub(crate) fn parse(file: &str, text: &str, env: Option<&str>) -> Result<Manifest, Vec<Problem>> {
    let mut report = Report::new(file, text);
    if text.len() > TEXT_BYTES_MAX {
        let message = format!(
            "the manifest has {} bytes, over the limit of {TEXT_BYTES_MAX}",
            text.len()
        );
        report.add(0..0, message, "move what is data into files or collections");
        return Err(report.into_problems());
    }
    let (mut document, errors) = toml::de::DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        report.add(
            span,
            error.message().replace('\n', ", "),
            "write it as TOML has it",
        );
    }
    structure::check(&mut document, schema(), &mut report);
    let raw = match raw::RawManifest::deserialize(toml::Deserializer::from(document)) {
        Ok(raw) => raw,
        // Structure has cut out what can't be read, so this is what it does not know of, e.g. a number out of range.
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            report.add(span, error.message(), "write it as the schema has it");
            return Err(report.into_problems());
        }
    };
    let manifest = resolve::resolve(&raw, env, &mut report);
    let problems = report.into_problems();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests;
