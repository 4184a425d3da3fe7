//! What a deploy would change: two deployments as lists of facts, compared. A fact is a name and a text, so that
//! everything that a manifest says is compared alike, and the order in which it says it is not. Pure; called by the
//! admin API.

use std::collections::BTreeMap;

use cloudlet_base::{AppId, DeploymentId, Principal};
use cloudlet_data::rules::Rule;
use serde::{Deserialize, Serialize};

use super::deploy::{self, DeployError, DeployRequest, Plan};
use super::load::Parts;
use super::manifest::{Function, Manifest};
use super::records;
use super::registry::{InvokeRule, StorageAccess};
use crate::front::rate::Rates;
use crate::node::Node;
use crate::triggers::changes::ChangeTrigger;
use crate::triggers::timers::Timer;

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// A function, by its component's hash.
    Function,
    /// What a function may use.
    Grant,
    /// What a function, or the app, may use up.
    Limit,
    /// Who may call a function from a client.
    Invoke,
    /// An HTTP trigger: method and path to function.
    Route,
    /// A timer.
    Timer,
    /// A database or storage trigger.
    Trigger,
    /// A value that functions may be granted.
    Var,
    /// A secret that must be there.
    Secret,
    /// A rule of a collection or a prefix of objects.
    Rule,
    /// An index; indexes are made and never removed by a deploy.
    Index,
    /// Cache-Control of a prefix of objects.
    Cache,
    /// A login that is offered.
    Login,
    /// A host name.
    Domain,
    /// A setting of the hosted site.
    Hosting,
    /// A site file, by its hash and media type.
    File,
    /// The manifest's text where nothing that it says is different, or the environment chosen.
    Manifest,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) what: What,
    pub(crate) name: String,
    /// As it is; `None` when it would be added.
    pub(crate) before: Option<String>,
    /// As it would be; `None` when it would be removed.
    pub(crate) after: Option<String>,
}

/// What would change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Diff {
    pub(crate) app: String,
    /// The deployment that was compared with; `None` when there is none.
    pub(crate) against: Option<i64>,
    /// The revision of the app's traffic, for a deploy that wants to be based on it.
    pub(crate) revision: i64,
    pub(crate) changes: Vec<Change>,
}

type Facts = BTreeMap<(What, String), String>;

/// Compares what would be deployed with a recorded deployment: `against`, or the active one.
///
/// # Errors
/// When the manifest has problems, or there is no such deployment.
pub(crate) async fn diff(
    node: &Node,
    app: &AppId,
    against: Option<i64>,
    request: DeployRequest,
    by: &Principal,
) -> Result<Diff, DeployError> {
    let record = records::app(&*node.documents, app).await?;
    let against = against.or(record.as_ref().map(|record| record.active));
    let wanted = deploy::record(node, app, &Plan::default(), request, by);
    let parts = Parts::parse(app, &wanted)?;
    let mut after = facts(&parts, wanted.env.as_deref());
    let mut before = Facts::new();
    if let Some(number) = against {
        let id = DeploymentId(number.unsigned_abs());
        let recorded = records::deployment(&*node.documents, app, id).await?;
        let recorded = recorded
            .ok_or_else(|| DeployError::NotFound(format!("app {:?} has no deployment {id}", app.as_str())))?;
        before = facts(&Parts::parse(app, &recorded)?, recorded.env.as_deref());
        if before == after && recorded.hash != wanted.hash {
            let text = (What::Manifest, "comments or order".to_owned());
            before.insert(text.clone(), recorded.hash);
            after.insert(text, wanted.hash);
        }
    }
    Ok(Diff {
        app: app.to_string(),
        against,
        revision: record.map_or(0, |record| record.revision),
        changes: changes(before, after),
    })
}

/// The differences, by what they are about and name.
fn changes(mut before: Facts, after: Facts) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((what, name), after) in after {
        let key = (what, name);
        let before = before.remove(&key);
        if before.as_ref() != Some(&after) {
            changes.push(Change {
                what,
                name: key.1,
                before,
                after: Some(after),
            });
        }
    }
    changes.extend(before.into_iter().map(|((what, name), before)| Change {
        what,
        name,
        before: Some(before),
        after: None,
    }));
    changes.sort_by(|a, b| (a.what, &a.name).cmp(&(b.what, &b.name)));
    changes
}

fn facts(parts: &Parts, env: Option<&str>) -> Facts {
    let mut facts = Facts::new();
    let mut add = |what, name: &str, text: String| {
        facts.insert((what, name.to_owned()), text);
    };
    for (name, hash) in &parts.components {
        add(What::Function, name, hash.to_string());
    }
    for (path, file) in &parts.site.files {
        add(What::File, path, format!("{} {}", file.hash, file.content_type));
    }
    if let Some(env) = env {
        add(What::Manifest, "env", env.to_owned());
    }
    of_manifest(&parts.manifest, &mut add);
    facts
}

fn of_manifest(manifest: &Manifest, add: &mut impl FnMut(What, &str, String)) {
    // All fields, so that a new one can't be forgotten.
    let Manifest {
        app: _,
        domains,
        concurrency,
        rates,
        vars,
        secrets,
        functions,
        routes,
        timers,
        changes,
        collections,
        storage,
        cache_control,
        anonymous_login,
        password_signup,
        hosting,
    } = manifest;
    for domain in domains {
        add(What::Domain, domain, "served".to_owned());
    }
    if let Some(concurrency) = concurrency {
        add(What::Limit, "concurrency", concurrency.to_string());
    }
    of_rates("", rates, add);
    for (name, value) in vars {
        add(What::Var, name, value.clone());
    }
    for name in secrets {
        add(What::Secret, name, "required".to_owned());
    }
    for (name, function) in functions {
        of_function(name, function, add);
    }
    for route in routes {
        let path = format!("{}{}", route.path, if route.prefix { "..." } else { "" });
        if route.methods.is_empty() {
            add(What::Route, &format!("* {path}"), route.function.clone());
        }
        for method in &route.methods {
            add(What::Route, &format!("{method} {path}"), route.function.clone());
        }
    }
    for timer in timers {
        let Timer {
            name,
            schedule,
            function,
            message,
            missed,
            retries,
            // The function's own.
            timeout: _,
        } = timer;
        let text = format!(
            "{function} at {}, missed: {}, retries: {retries}, message: {message:?}",
            schedule.text(),
            missed.as_str()
        );
        add(What::Timer, name, text);
    }
    for trigger in changes {
        let ChangeTrigger {
            name,
            source,
            function,
            retries,
            // The function's own.
            timeout: _,
        } = trigger;
        let text = format!("{function} on {}, retries: {retries}", source.watches());
        add(What::Trigger, &format!("{} {name}", source.kind().as_str()), text);
    }
    for (name, collection) in collections {
        let rule = match collection.rule {
            Rule::ReadOnly => "READONLY",
            Rule::Private => "PRIVATE",
            Rule::AdminWrite => "ADMINWRITE",
            Rule::AdminOnly => "ADMINONLY",
        };
        add(What::Rule, &format!("collection {name}"), rule.to_owned());
        for index in &collection.indexes {
            let keys = index
                .keys
                .iter()
                .map(|(path, direction)| format!("{path}: {direction}"));
            let keys = keys.collect::<Vec<_>>().join(", ");
            let unique = if index.unique { " unique" } else { "" };
            // The rest in the form that can't leave out a field.
            let name = format!("{name} {}", index.name);
            add(
                What::Index,
                &name,
                format!("{{{keys}}}{unique}{}", options(index)),
            );
        }
    }
    for rule in storage {
        let access = |access| match access {
            StorageAccess::Anyone => "anyone",
            StorageAccess::LoggedIn => "logged-in users",
            StorageAccess::Owner => "owner",
            StorageAccess::Nobody => "nobody",
        };
        let text = format!("read: {}, write: {}", access(rule.read), access(rule.write));
        add(What::Rule, &format!("objects {}", rule.prefix), text);
    }
    for (prefix, value) in cache_control {
        add(What::Cache, prefix, value.clone());
    }
    for (name, offered) in [
        ("anonymous", anonymous_login),
        ("password signup", password_signup),
    ] {
        if *offered {
            add(What::Login, name, "offered".to_owned());
        }
    }
    if let Some(hosting) = hosting {
        add(What::Hosting, "spa", hosting.spa.to_string());
    }
}

/// What of an index is not as by default.
fn options(index: &cloudlet_data::IndexSpec) -> String {
    let cloudlet_data::IndexSpec {
        name: _,
        keys: _,
        unique: _,
        kind,
        sparse,
        hidden,
        partial_filter,
        expire_after_seconds,
        clustered: _,
        background: _,
        collation,
    } = index;
    let mut text = String::new();
    if *kind != Default::default() {
        text += &format!(" {kind:?}");
    }
    if *sparse {
        text += " sparse";
    }
    if *hidden {
        text += " hidden";
    }
    if let Some(filter) = partial_filter {
        text += &format!(" where {filter:?}");
    }
    if let Some(collation) = collation {
        text += &format!(" in the order of {collation:?}");
    }
    if let Some(seconds) = expire_after_seconds {
        text += &format!(" expires after {seconds} s");
    }
    text
}

fn of_function(name: &str, function: &Function, add: &mut impl FnMut(What, &str, String)) {
    let Function {
        // Where the component came from and how it was built is no part of a deployment; its hash is.
        source: _,
        build: _,
        grants,
        vars,
        secrets,
        outbound,
        limits,
        rates,
        invoke,
    } = function;
    let granted = [
        ("database", &grants.database),
        ("storage", &grants.storage),
        ("keyvalue", &grants.keyvalue),
        ("functions", &grants.functions),
        ("vars", vars),
        ("secrets", secrets),
    ];
    for (kind, names) in granted {
        for granted in names {
            add(
                What::Grant,
                &format!("{name} {kind} {granted:?}"),
                "granted".to_owned(),
            );
        }
    }
    for rule in outbound {
        let scheme = if rule.https { "https" } else { "http" };
        let origin = format!("{scheme}://{}:{}", rule.host, rule.port);
        add(
            What::Grant,
            &format!("{name} outbound {origin:?}"),
            "granted".to_owned(),
        );
    }
    let cloudlet_host::FunctionLimits {
        memory_bytes_max,
        timeout,
        cpu,
        concurrency,
        queue,
        request_bytes_max,
        response_bytes_max,
        outbound_requests_max,
        outbound_bytes_max,
        log_lines_max,
        call_depth_max,
    } = limits;
    let texts = [
        ("memory", format!("{memory_bytes_max} B")),
        ("timeout", format!("{timeout:?}")),
        ("cpu", format!("{cpu:?}")),
        ("concurrency", concurrency.to_string()),
        ("queue", format!("{queue:?}")),
        ("request", format!("{request_bytes_max} B")),
        ("response", format!("{response_bytes_max} B")),
        ("outbound requests", outbound_requests_max.to_string()),
        ("outbound bytes", format!("{outbound_bytes_max} B")),
        ("log lines", log_lines_max.to_string()),
        ("call depth", call_depth_max.to_string()),
    ];
    for (limit, text) in texts {
        add(What::Limit, &format!("{name} {limit}"), text);
    }
    of_rates(&format!("{name} "), rates, add);
    let invoke = match invoke {
        InvokeRule::Anyone => "true",
        InvokeRule::LoggedIn => "auth != null",
        InvokeRule::Nobody => "false",
    };
    add(What::Invoke, name, invoke.to_owned());
}

fn of_rates(of: &str, rates: &Rates, add: &mut impl FnMut(What, &str, String)) {
    let Rates { total, user, address } = rates;
    for (by, rate) in [("total", total), ("user", user), ("address", address)] {
        if let Some(rate) = rate {
            add(What::Limit, &format!("{of}rate {by}"), rate.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::records::{ComponentEntry, Deployment, SiteEntry};

    const HASH: [&str; 3] = ["11", "22", "33"];

    fn hash(at: usize) -> String {
        HASH[at].repeat(32)
    }

    /// An app of these functions and files (name and which hash), with more of a manifest.
    fn app(functions: &[(&str, usize)], files: &[(&str, usize)], more: &str) -> Facts {
        let mut manifest = "manifest_version = 1\n[app]\nname = \"web\"\n[hosting]\ndir = \"d\"\n".to_owned();
        manifest += more;
        for (name, _) in functions
            .iter()
            .filter(|(name, _)| !more.contains(&format!("[function.{name}]")))
        {
            manifest += &format!("\n[function.{name}]\nsource = \"f.wasm\"\n");
        }
        let deployment = Deployment {
            id: "web/1".to_owned(),
            app: "web".to_owned(),
            number: 1,
            manifest,
            env: None,
            components: functions
                .iter()
                .map(|(function, at)| ComponentEntry {
                    function: (*function).to_owned(),
                    hash: hash(*at),
                })
                .collect(),
            site: files
                .iter()
                .map(|(path, at)| SiteEntry {
                    path: (*path).to_owned(),
                    hash: hash(*at),
                    size: 1,
                    content_type: "text/html".to_owned(),
                })
                .collect(),
            created: bson::DateTime::from_millis(0),
            hash: String::new(),
            by: String::new(),
            staged: false,
            pinned: false,
        };
        let parts = match Parts::parse(&"web".parse().unwrap(), &deployment) {
            Ok(parts) => parts,
            Err(error) => panic!("{:?}", error.problems()),
        };
        facts(&parts, None)
    }

    /// Differences as `+what name`, `-what name`, `~what name before -> after`.
    fn check(before: Facts, after: Facts, expected: &[&str]) {
        let lines: Vec<String> = changes(before, after)
            .into_iter()
            .map(|change| {
                let what = format!("{:?} {}", change.what, change.name);
                match (change.before, change.after) {
                    (None, Some(_)) => format!("+{what}"),
                    (Some(_), None) => format!("-{what}"),
                    (Some(before), Some(after)) if before.len() < 60 => {
                        format!("~{what} {before} -> {after}")
                    }
                    _ => format!("~{what}"),
                }
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn equal_apps_differ_in_nothing() {
        let one = || app(&[("f", 0)], &[("/a", 1)], "");
        check(one(), one(), &[]);
        let routes = |first: &str, second: &str| {
            let route = |path| format!("[[trigger.http]]\nroute = {path:?}\nfunction = \"f\"\n");
            app(&[("f", 0)], &[], &(route(first) + &route(second)))
        };
        check(routes("/a", "/b"), routes("/b", "/a"), &[]);
    }

    #[test]
    fn functions_and_files_are_compared_by_content() {
        check(
            app(&[("f", 0), ("g", 0)], &[("/a", 0), ("/b", 1)], ""),
            app(&[("f", 1), ("g", 0)], &[("/b", 2), ("/c", 0)], ""),
            &["~Function f", "-File /a", "~File /b", "+File /c"],
        );
    }

    #[test]
    fn everything_of_a_function_comes_and_goes_with_it() {
        let lines = changes(app(&[("f", 0)], &[], ""), app(&[("f", 0), ("g", 0)], &[], ""));
        assert!(
            lines
                .iter()
                .all(|change| change.before.is_none() && change.name.starts_with('g'))
        );
        assert!(lines.iter().any(|change| change.what == What::Function));
    }

    #[test]
    fn every_part_of_the_manifest_counts() {
        let f = |lines: &str| {
            let section = format!("[function.f]\nsource = \"f.wasm\"\n{lines}\n");
            app(&[("f", 0)], &[], &section)
        };
        let web = |more: &str| app(&[("f", 0)], &[], more);
        check(
            f("grants = { database = [\"a\", \"b\"] }"),
            f("grants = { database = [\"b\"], storage = [\"p/\"], keyvalue = [\"default\"] }"),
            &[
                "-Grant f database \"a\"",
                "+Grant f keyvalue \"default\"",
                "+Grant f storage \"p/\"",
            ],
        );
        check(
            f("outbound = [\"https://a.example.com\"]"),
            f("outbound = [\"https://a.example.com:444\"]"),
            &[
                "-Grant f outbound \"https://a.example.com:443\"",
                "+Grant f outbound \"https://a.example.com:444\"",
            ],
        );
        check(
            f("limits = { timeout = \"3s\" }"),
            f("limits = { timeout = \"4s\" }"),
            &["~Limit f timeout 3s -> 4s"],
        );
        check(f(""), f("invoke = \"true\""), &["~Invoke f auth != null -> true"]);
        check(
            web("[[trigger.http]]\nroute = \"/a\"\nmethods = [\"GET\"]\nfunction = \"f\"\n"),
            web("[[trigger.http]]\nroute = \"/a/...\"\nfunction = \"f\"\n"),
            &["+Route * /a/...", "-Route GET /a"],
        );
        check(
            web("[vars]\na = \"1\"\nb = \"1\"\n"),
            web("[vars]\na = \"2\"\n"),
            &["~Var a 1 -> 2", "-Var b"],
        );
        check(
            web("[[trigger.database]]\ncollection = \"a\"\nfunction = \"f\"\n"),
            web("[[trigger.database]]\ncollection = \"a\"\non = [\"insert\"]\nfunction = \"f\"\n"),
            &[
                "~Trigger database f f on insert, update, replace, delete of a, retries: 3 -> f on insert of a, retries: 3",
            ],
        );
        check(
            web(""),
            web("[[trigger.storage]]\nprefix = \"p/\"\nfunction = \"f\"\n"),
            &["+Trigger storage f"],
        );
        check(web(""), web("[secrets]\nrequired = [\"K\"]\n"), &["+Secret K"]);
        check(
            web("[database.collection.a]\nrules = \"PRIVATE\"\nindexes = [{ keys = { x = 1 } }]\n"),
            web(
                "[database.collection.a]\nrules = \"READONLY\"\nindexes = [{ keys = { x = 1 }, unique = true }]\n",
            ),
            &[
                "~Rule collection a PRIVATE -> READONLY",
                "~Index a x_1 {x: 1} -> {x: 1} unique",
            ],
        );
        check(
            web("[storage]\nrules = { \"p/\" = { read = \"true\", write = \"false\" } }\n"),
            web("[storage]\ncache = { \"p/\" = \"no-store\" }\n"),
            &["-Rule objects p/", "+Cache p/"],
        );
        check(web(""), web("[auth]\nanonymous = true\n"), &["+Login anonymous"]);
    }
}
