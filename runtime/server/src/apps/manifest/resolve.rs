//! From the document as written to the [`Manifest`]: values are parsed, names are looked up, and what contradicts
//! itself or is not offered yet is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use bson::{Document, doc};
use cloudlet_base::AppId;
use cloudlet_data::IndexSpec;
use cloudlet_data::rules::Rule;
use cloudlet_host::{FunctionLimits, Grants};

use super::problems::{Report, did_you_mean};
use super::raw::*;
use super::values::{self, Wrong};
use super::{Build, Collection, Function, Hosting, Manifest, Route};
use crate::apps::registry::{InvokeRule, StorageAccess, StorageRule};
use crate::front::rate::Rates;

/// The format's version.
const VERSION: i64 = 1;
/// Functions of one app.
const FUNCTIONS_MAX: usize = 500;
/// Longest time that a function may be given.
const TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// Most memory that a function may be given; the node may allow less.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Most invocations at once; the node may allow fewer.
const CONCURRENCY_MAX: i64 = 100_000;
/// Largest body that a function may be allowed.
const BODY_BYTES_MAX: u64 = 1 << 30;
/// Most HTTP requests that one invocation may be allowed.
const OUTBOUND_REQUESTS_MAX: i64 = 10_000;
/// Most log lines of one invocation.
const LOG_LINES_MAX: i64 = 100_000;
/// Deepest calls from function to function: each level holds an instance and a frame of the node's own stack.
const CALL_DEPTH_MAX: i64 = 16;
/// Fields of one index.
const INDEX_KEYS_MAX: usize = 32;

/// Resolves the whole. `None` when the app's name is missing; any other problem is only in the report.
pub(super) fn resolve(raw: &RawManifest, env: Option<&str>, report: &mut Report<'_>) -> Option<Manifest> {
    let RawManifest {
        manifest_version,
        app,
        limits,
        vars: _,
        secrets,
        function,
        trigger,
        database,
        storage,
        auth,
        hosting,
        env: _,
    } = raw;
    let mut resolver = Resolver { report };
    if let Some(version) = manifest_version
        && *version.value() != VERSION
    {
        let message = format!("manifest_version is {}", version.value());
        let remedy = format!("write {VERSION}, the only one there is");
        resolver.report.add(version.span(), message, remedy);
    }
    let id = app.as_ref().and_then(|app| resolver.app_name(app));
    let domains = app.as_ref().map(|app| resolver.domains(app)).unwrap_or_default();
    let RawAppLimits { concurrency, rate } = limits;
    let concurrency = resolver.number("concurrency", concurrency.as_ref(), CONCURRENCY_MAX);
    let rates = resolver.rates(rate);
    let vars = resolver.vars(raw, env);
    let secrets = resolver.names("secret", &secrets.required);
    let names = Names {
        functions: function.keys().map(|name| name.get_ref().as_str()).collect(),
        vars: vars.keys().map(String::as_str).collect(),
        secrets: secrets.iter().map(String::as_str).collect(),
    };
    let functions = resolver.functions(function, &names);
    let routes = resolver.routes(trigger, &names);
    let (timers, changes) = resolver.triggers(trigger, &names, &functions);
    let collections = resolver.collections(database);
    let (rules, cache_control) = resolver.storage(storage);
    resolver.auth(auth);
    let hosting = hosting.as_ref().and_then(|hosting| {
        let RawHosting { dir, spa } = hosting;
        Some(Hosting {
            dir: resolver.path(dir.as_ref()?),
            spa: *spa,
        })
    });
    Some(Manifest {
        app: id?,
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
        storage: rules,
        cache_control,
        anonymous_login: auth.anonymous,
        password_signup: auth.password,
        hosting,
    })
}

/// The names that other parts refer to.
pub(super) struct Names<'m> {
    pub(super) functions: Vec<&'m str>,
    vars: Vec<&'m str>,
    secrets: Vec<&'m str>,
}

pub(super) struct Resolver<'r, 't> {
    pub(super) report: &'r mut Report<'t>,
}

impl Resolver<'_, '_> {
    /// The value, or a note in the report.
    pub(super) fn take<T>(&mut self, span: Range<usize>, result: Result<T, Wrong>) -> Option<T> {
        result
            .map_err(|(message, remedy)| self.report.add(span, message, remedy))
            .ok()
    }

    /// The text parsed; the default when it is absent or wrong.
    pub(super) fn parsed<T>(
        &mut self,
        text: Option<&Text>,
        parse: fn(&str) -> Result<T, Wrong>,
        default: T,
    ) -> T {
        text.and_then(|text| self.take(text.span(), parse(text.value())))
            .unwrap_or(default)
    }

    fn later(&mut self, span: Range<usize>, what: &str) {
        self.report.add(
            span,
            format!("{what} is not offered yet"),
            "remove it until this node's release notes name it",
        );
    }

    fn app_name(&mut self, app: &RawApp) -> Option<AppId> {
        let RawApp { name, domains: _ } = app;
        let name = name.as_ref()?;
        let parsed = name.value().parse::<AppId>().map_err(|error| {
            let text = error.to_string();
            let (message, remedy) = text.split_once("; ").unwrap_or((&text, "choose another name"));
            (message.to_owned(), remedy.to_owned())
        });
        self.take(name.span(), parsed)
    }

    fn domains(&mut self, app: &RawApp) -> Vec<String> {
        let mut domains = Vec::new();
        for domain in &app.domains {
            let name = domain.value().to_lowercase();
            if values::is_host_name(&name) && !domains.contains(&name) {
                domains.push(name);
            } else {
                self.report.add(
                    domain.span(),
                    format!("invalid or repeated domain {:?}", domain.value()),
                    "write a host name without scheme, port or path, e.g. \"hotel.example.com\"",
                );
            }
        }
        domains
    }

    fn vars(&mut self, raw: &RawManifest, env: Option<&str>) -> BTreeMap<String, String> {
        let mut vars = BTreeMap::new();
        let mut set = |this: &mut Self, from: &Named<Text>| {
            for (name, value) in from {
                this.take(name.span(), values::name("var", name.get_ref()));
                vars.insert(name.get_ref().clone(), value.value().clone());
            }
        };
        set(self, &raw.vars);
        for (name, RawEnv { vars }) in &raw.env {
            if Some(name.get_ref().as_str()) == env {
                set(self, vars);
            }
        }
        if let Some(chosen) = env.filter(|chosen| !raw.env.contains_key(*chosen)) {
            let known = raw.env.keys().map(|name| name.get_ref().as_str());
            let remedy = did_you_mean(chosen, known, &format!("add [env.{chosen}.vars]"));
            self.report
                .add(0..0, format!("there is no environment {chosen:?}"), remedy);
        }
        vars
    }

    fn names(&mut self, what: &str, texts: &[Text]) -> Vec<String> {
        let mut names = Vec::new();
        for text in texts {
            let ok = self.take(text.span(), values::name(what, text.value())).is_some();
            if ok && !names.contains(text.value()) {
                names.push(text.value().clone());
            }
        }
        names
    }

    /// Texts that must each name one of `known`.
    pub(super) fn known(&mut self, what: &str, texts: &[Text], known: &[&str], remedy: &str) -> Vec<String> {
        for text in texts {
            let name = text.value().as_str();
            if !known.contains(&name) {
                let remedy = did_you_mean(name, known.iter().copied(), remedy);
                self.report
                    .add(text.span(), format!("there is no {what} {name:?}"), remedy);
            }
        }
        texts.iter().map(|text| text.value().clone()).collect()
    }

    fn path(&mut self, path: &Text) -> String {
        let text = path.value();
        if text.is_empty() || text.starts_with('/') || text.contains('\0') {
            self.report.add(
                path.span(),
                format!("invalid path {text:?}"),
                "write it relative to the manifest",
            );
        }
        text.clone()
    }

    fn functions(&mut self, raw: &Named<RawFunction>, names: &Names<'_>) -> BTreeMap<String, Function> {
        let mut functions = BTreeMap::new();
        for (index, (name, function)) in raw.iter().enumerate() {
            if index == FUNCTIONS_MAX {
                let message = format!("more than {FUNCTIONS_MAX} functions in one app");
                self.report.add(name.span(), message, "split the app");
            }
            self.take(name.span(), values::name("function", name.get_ref()));
            functions.insert(name.get_ref().clone(), self.function(function, names));
        }
        functions
    }

    fn function(&mut self, raw: &RawFunction, names: &Names<'_>) -> Function {
        let RawFunction {
            source,
            build,
            grants,
            outbound,
            limits,
            reuse,
            invoke,
        } = raw;
        let RawReuse { max_requests } = reuse;
        if let Some(requests) = max_requests.as_ref().filter(|requests| *requests.value() != 1) {
            self.report.add(
                requests.span(),
                format!(
                    "reuse.max_requests is {}, and reuse is not offered yet",
                    requests.value()
                ),
                "write 1, a fresh instance for every request",
            );
        }
        let build = build.as_ref().and_then(|build| {
            let RawBuild { command, dir, watch } = build;
            Some(Build {
                command: command.as_ref()?.value().clone(),
                dir: dir.as_ref().map(|dir| self.path(dir)).unwrap_or_default(),
                watch: watch.iter().map(|pattern| self.path(pattern)).collect(),
            })
        });
        let RawGrants {
            database,
            storage,
            keyvalue,
            functions,
            vars,
            secrets,
        } = grants;
        for collection in database.iter().filter(|collection| collection.value() != "*") {
            self.take(collection.span(), values::collection_name(collection.value()));
        }
        for prefix in storage {
            self.take(prefix.span(), values::object_prefix(prefix.value()));
        }
        for label in keyvalue {
            self.take(label.span(), values::name("key-value store", label.value()));
        }
        Function {
            source: source
                .as_ref()
                .map(|source| self.path(source))
                .unwrap_or_default(),
            build,
            grants: Grants {
                database: database.iter().map(|text| text.value().clone()).collect(),
                storage: storage.iter().map(|text| text.value().clone()).collect(),
                keyvalue: keyvalue.iter().map(|text| text.value().clone()).collect(),
                functions: self.known("function", functions, &names.functions, "add [function.NAME]"),
            },
            vars: self.known("var", vars, &names.vars, "add it to [vars]"),
            secrets: self.known("secret", secrets, &names.secrets, "add it to secrets.required"),
            outbound: outbound
                .iter()
                .filter_map(|origin| self.take(origin.span(), values::outbound(origin.value())))
                .collect(),
            limits: self.limits(limits),
            rates: self.rates(&limits.rate),
            invoke: self.parsed(invoke.as_ref(), values::invoke, InvokeRule::LoggedIn),
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> FunctionLimits {
        let RawLimits {
            memory,
            cpu,
            timeout,
            concurrency,
            request_body,
            response_body,
            queue,
            outbound_requests,
            outbound_bytes,
            log_lines,
            call_depth,
            rate: _,
        } = raw;
        let default = FunctionLimits::default();
        let memory = self.size(memory.as_ref(), default.memory_bytes_max as u64, MEMORY_BYTES_MAX);
        let concurrency = self.number("concurrency", concurrency.as_ref(), CONCURRENCY_MAX);
        let requests = self.number(
            "outbound_requests",
            outbound_requests.as_ref(),
            OUTBOUND_REQUESTS_MAX,
        );
        let lines = self.number("log_lines", log_lines.as_ref(), LOG_LINES_MAX);
        let depth = self.number("call_depth", call_depth.as_ref(), CALL_DEPTH_MAX);
        FunctionLimits {
            memory_bytes_max: usize::try_from(memory).unwrap_or(usize::MAX),
            timeout: self.time(timeout.as_ref(), default.timeout),
            cpu: self.time(cpu.as_ref(), default.cpu),
            concurrency: concurrency.unwrap_or(default.concurrency),
            queue: self.time(queue.as_ref(), default.queue),
            request_bytes_max: self.size(request_body.as_ref(), default.request_bytes_max, BODY_BYTES_MAX),
            response_bytes_max: self.size(response_body.as_ref(), default.response_bytes_max, BODY_BYTES_MAX),
            outbound_requests_max: requests.unwrap_or(default.outbound_requests_max),
            outbound_bytes_max: self.size(
                outbound_bytes.as_ref(),
                default.outbound_bytes_max,
                BODY_BYTES_MAX,
            ),
            log_lines_max: lines.unwrap_or(default.log_lines_max),
            call_depth_max: depth.unwrap_or(default.call_depth_max),
        }
    }

    fn rates(&mut self, raw: &RawRates) -> Rates {
        let RawRates { total, user, address } = raw;
        let mut rate =
            |text: &Option<Text>| self.parsed(text.as_ref(), |text| values::rate(text).map(Some), None);
        Rates {
            total: rate(total),
            user: rate(user),
            address: rate(address),
        }
    }

    /// A whole number from 1 to `most`; `None` when it is absent or wrong.
    fn number<T: TryFrom<i64>>(&mut self, name: &str, number: Option<&At<i64>>, most: i64) -> Option<T> {
        let number = number?;
        let value = Some(*number.value()).filter(|value| (1..=most).contains(value));
        if value.is_none() {
            let message = format!("{name} is {}", number.value());
            self.report
                .add(number.span(), message, format!("write 1 to {most}"));
        }
        T::try_from(value?).ok()
    }

    fn size(&mut self, text: Option<&Text>, default: u64, most: u64) -> u64 {
        let size = self.parsed(text, values::size, default);
        if let Some(text) = text.filter(|_| size > most) {
            let message = format!("{:?} is over the limit of {} MiB", text.value(), most >> 20);
            self.report.add(text.span(), message, "write less");
        }
        size
    }

    fn time(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        let time = self.parsed(text, values::duration, default);
        if let Some(text) = text.filter(|_| time > TIMEOUT_MAX) {
            let message = format!(
                "{:?} is over the limit of {} s",
                text.value(),
                TIMEOUT_MAX.as_secs()
            );
            self.report.add(text.span(), message, "write less");
        }
        time
    }

    fn routes(&mut self, raw: &RawTriggers, names: &Names<'_>) -> Vec<Route> {
        let RawTriggers {
            http,
            timer: _,
            database: _,
            storage: _,
        } = raw;
        let mut routes: Vec<Route> = Vec::new();
        for trigger in http {
            let RawHttpTrigger {
                route,
                methods,
                function,
            } = trigger.value();
            if let Some(function) = function {
                self.known(
                    "function",
                    std::slice::from_ref(function),
                    &names.functions,
                    "add [function.NAME]",
                );
            }
            let methods: Vec<_> = methods
                .iter()
                .filter_map(|method| self.take(method.span(), values::method(method.value())))
                .collect();
            let Some(text) = route else { continue };
            let Some((path, prefix)) = self.take(text.span(), values::route(text.value())) else {
                continue;
            };
            if let Some((message, remedy)) = values::reserved(&path, prefix, &methods) {
                self.report.add(text.span(), message, remedy);
            }
            let clash = routes.iter().any(|other| {
                let all = other.methods.is_empty() || methods.is_empty();
                other.path == path
                    && other.prefix == prefix
                    && (all || methods.iter().any(|method| other.methods.contains(method)))
            });
            if clash {
                let message = format!("route {:?} is there already for the same method", text.value());
                self.report.add(
                    text.span(),
                    message,
                    "remove one of the two, or give them different methods",
                );
            }
            routes.push(Route {
                path,
                prefix,
                methods,
                function: function.as_ref().map(|f| f.value().clone()).unwrap_or_default(),
            });
        }
        routes
    }

    fn collections(&mut self, raw: &RawDatabase) -> BTreeMap<String, Collection> {
        let RawDatabase { collection } = raw;
        let mut collections = BTreeMap::new();
        for (name, RawCollection { rules, indexes }) in collection {
            self.take(name.span(), values::collection_name(name.get_ref()));
            let rule = match rules.as_ref().map(|rules| (rules, rules.value())) {
                None => Rule::AdminOnly,
                Some((at, toml::Value::String(preset))) => {
                    self.take(at.span(), values::preset(preset)).unwrap_or_default()
                }
                Some((at, _)) => {
                    self.report.add(
                        at.span(),
                        "rules made of expressions are not offered yet for collections",
                        "write READONLY, PRIVATE, ADMINWRITE or ADMINONLY",
                    );
                    Rule::AdminOnly
                }
            };
            let mut taken = BTreeSet::new();
            let indexes = indexes
                .iter()
                .filter_map(|index| self.index(index, &mut taken))
                .collect();
            collections.insert(name.get_ref().clone(), Collection { rule, indexes });
        }
        collections
    }

    fn index(&mut self, at: &At<RawIndex>, taken: &mut BTreeSet<String>) -> Option<IndexSpec> {
        let RawIndex {
            keys,
            name,
            unique,
            sparse,
            partial_filter,
            expire_after_seconds,
            collation,
            bits,
            min,
            max,
        } = at.value();
        if keys.is_empty() || keys.len() > INDEX_KEYS_MAX {
            let message = format!("an index has {} fields", keys.len());
            self.report.add(
                at.span(),
                message,
                format!("write 1 to {INDEX_KEYS_MAX} fields in keys"),
            );
            return None;
        }
        // The order of the fields matters, and a table has lost it: the places have not.
        let mut fields: Vec<_> = keys.iter().collect();
        fields.sort_by_key(|(field, _)| field.span().start);
        let mut pattern = Document::new();
        for (field, to) in fields {
            let to = self.take(to.span(), values::index_key(field.get_ref(), to.value()))?;
            pattern.insert(field.get_ref().as_str(), to);
        }
        let mut document = doc! { "key": pattern };
        if let Some(name) = name {
            document.insert("name", name.value());
        }
        for (option, flag) in [("unique", *unique), ("sparse", *sparse)] {
            if flag {
                document.insert(option, true);
            }
        }
        for (option, table) in [
            ("partialFilterExpression", partial_filter),
            ("collation", collation),
        ] {
            if let Some(table) = table {
                document.insert(option, self.take(table.span(), values::extended(table.value()))?);
            }
        }
        for (option, number) in [("expireAfterSeconds", expire_after_seconds), ("bits", bits)] {
            if let Some(number) = number {
                document.insert(option, *number.value());
            }
        }
        for (option, number) in [("min", min), ("max", max)] {
            if let Some(number) = number {
                document.insert(option, *number.value());
            }
        }
        let spec = self.take(at.span(), values::index(&document))?;
        if !taken.insert(spec.name.to_string()) {
            let message = format!("two indexes of the collection are called {:?}", spec.name);
            self.report.add(at.span(), message, "remove one, or name them");
        }
        Some(spec)
    }

    fn storage(&mut self, raw: &RawStorage) -> (Vec<StorageRule>, Vec<(String, String)>) {
        let RawStorage { rules, cache } = raw;
        let mut parsed = Vec::new();
        for (prefix, RawStorageRule { read, write }) in rules {
            self.take(prefix.span(), values::object_prefix(prefix.get_ref()));
            parsed.push(StorageRule {
                prefix: prefix.get_ref().clone(),
                read: self.parsed(read.as_ref(), values::storage_access, StorageAccess::Nobody),
                write: self.parsed(write.as_ref(), values::storage_access, StorageAccess::Nobody),
            });
        }
        let mut cached = Vec::new();
        for (prefix, text) in cache {
            self.take(prefix.span(), values::object_prefix(prefix.get_ref()));
            if http::HeaderValue::from_str(text.value()).is_err() {
                let message = format!("{:?} can't be a Cache-Control header", text.value());
                self.report
                    .add(text.span(), message, "write e.g. \"public, max-age=3600\"");
            }
            cached.push((prefix.get_ref().clone(), text.value().clone()));
        }
        parsed.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        cached.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        (parsed, cached)
    }

    fn auth(&mut self, raw: &RawAuth) {
        let RawAuth {
            anonymous: _,
            password: _,
            wechat,
            oidc,
        } = raw;
        for (name, later) in [("wechat", wechat), ("oidc", oidc)] {
            if let Some(later) = later {
                self.later(later.span(), &format!("[auth.{name}]"));
            }
        }
    }
}
