//! From a recorded deployment to an app that can be activated: components are compiled off the async threads and
//! linked against their grants, secrets are opened, and everything a request needs is put in one place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cloudlet_base::{AppId, ContentHash, DeploymentId};
use cloudlet_data::AppData;
use cloudlet_host::{AppSpec, FunctionSpec, Host, LoadError, LoadedApp, Services};

use super::deploy::DeployError;
use super::manifest::{self, Manifest};
use super::records::{self, ComponentEntry, Deployment, SiteEntry};
use super::registry::{ActiveApp, BUCKET, HttpRoute, Site, SiteFile, Tally};
use super::secrets::{self, SecretKeys};
use crate::front::rate::Rates;
use crate::node::Node;

/// A deployment whose parts are parsed and agree with each other.
pub(super) struct Parts {
    pub(super) app: AppId,
    pub(super) number: DeploymentId,
    pub(super) manifest: Manifest,
    pub(super) components: BTreeMap<String, ContentHash>,
    pub(super) site: Site,
}

impl Parts {
    /// Parses a record.
    ///
    /// # Errors
    /// The manifest's problems, and everything else that does not fit together.
    pub(super) fn parse(app: &AppId, record: &Deployment) -> Result<Self, DeployError> {
        let manifest = manifest::parse(manifest::FILE, &record.manifest, record.env.as_deref())
            .map_err(DeployError::Manifest)?;
        let mut problems = Vec::new();
        if manifest.app != *app {
            problems.push(format!(
                "the manifest is of app {:?}, not of {app:?}; deploy it to its own app",
                manifest.app.as_str()
            ));
        }
        let components = components(&manifest, &record.components, &mut problems);
        let site = site(&manifest, &record.site, &mut problems);
        if !problems.is_empty() {
            return Err(DeployError::Refused(problems));
        }
        Ok(Self {
            app: app.clone(),
            number: DeploymentId(record.number.unsigned_abs()),
            manifest,
            components,
            site,
        })
    }

    /// Every content hash that the deployment needs.
    pub(super) fn hashes(&self) -> BTreeSet<ContentHash> {
        let files = self.site.files.values().map(|file| file.hash);
        self.components.values().copied().chain(files).collect()
    }

    fn data(&self, node: &Node) -> AppData {
        let rules = self.manifest.collections.iter();
        AppData {
            app: self.app.clone(),
            documents: node.documents.clone(),
            rules: Arc::new(
                rules
                    .map(|(name, collection)| (name.clone(), collection.rule.clone()))
                    .collect(),
            ),
        }
    }

    fn spec(&self, values: &BTreeMap<String, String>) -> AppSpec {
        let pick = |names: &[String], from: &BTreeMap<String, String>| {
            let pairs = names.iter().filter_map(|name| from.get_key_value(name));
            pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let function = |(name, hash): (&String, &ContentHash)| {
            let function = &self.manifest.functions[name];
            FunctionSpec {
                name: name.as_str().into(),
                component: *hash,
                grants: function.grants.clone(),
                limits: function.limits.clone(),
                vars: pick(&function.vars, &self.manifest.vars),
                secrets: pick(&function.secrets, values),
                outbound: function.outbound.clone(),
            }
        };
        AppSpec {
            app: self.app.clone(),
            deployment: self.number,
            concurrency: self.manifest.concurrency.unwrap_or(usize::MAX),
            functions: self.components.iter().map(function).collect(),
        }
    }
}

fn components(
    manifest: &Manifest,
    entries: &[ComponentEntry],
    problems: &mut Vec<String>,
) -> BTreeMap<String, ContentHash> {
    let mut components = BTreeMap::new();
    for ComponentEntry { function, hash } in entries {
        if !manifest.functions.contains_key(function) {
            problems.push(format!(
                "component for function {function:?}, which the manifest does not have"
            ));
            continue;
        }
        match hash.parse() {
            Ok(hash) => {
                components.insert(function.clone(), hash);
            }
            Err(error) => problems.push(format!("function {function:?}: {error}")),
        }
    }
    for name in manifest.functions.keys() {
        if !entries.iter().any(|entry| entry.function == *name) {
            problems.push(format!("function {name:?} has no component"));
        }
    }
    components
}

fn site(manifest: &Manifest, entries: &[SiteEntry], problems: &mut Vec<String>) -> Site {
    let mut files = HashMap::with_capacity(entries.len());
    if manifest.hosting.is_none() && !entries.is_empty() {
        problems.push("site files were given, and the manifest has no [hosting]".to_owned());
    }
    for SiteEntry {
        path,
        hash,
        size,
        content_type,
    } in entries
    {
        let normal = path.len() > 1
            && path.starts_with('/')
            && !path.contains("//")
            && !path.split('/').any(|segment| segment == "." || segment == "..");
        let parsed = (
            hash.parse(),
            u64::try_from(*size),
            http::HeaderValue::from_str(content_type),
        );
        match parsed {
            (Ok(hash), Ok(size), Ok(_)) if normal => {
                let file = SiteFile {
                    hash,
                    size,
                    content_type: content_type.as_str().into(),
                };
                files.insert(path.clone(), file);
            }
            _ => problems.push(format!(
                "site file {path:?} has an unusable path, hash, size or media type"
            )),
        }
    }
    Site {
        files,
        spa: manifest.hosting.as_ref().is_some_and(|hosting| hosting.spa),
    }
}

/// Links the functions, compiling first what is not compiled on this node, and gives an app to activate.
///
/// # Errors
/// Every missing secret, every component that is none, every import that is not granted.
pub(super) async fn load(node: &Node, parts: &Parts) -> Result<ActiveApp, DeployError> {
    let key = secret_key(node).await?;
    let values = secrets::values(&*node.documents, key, &parts.app).await?;
    let missing = parts
        .manifest
        .secrets
        .iter()
        .filter(|name| !values.contains_key(*name));
    let mut problems: Vec<String> = missing
        .map(|name| format!("secret {name:?} has no value; run: cloudlet secret put {name}"))
        .collect();
    problems.extend(over_node_limits(node, &parts.manifest));
    if !problems.is_empty() {
        return Err(DeployError::Refused(problems));
    }
    let data = parts.data(node);
    let services = Services {
        data: data.clone(),
        blobs: node.blobs.clone(),
        bucket: BUCKET.into(),
    };
    let functions = link(node, parts.spec(&values), services).await?;
    let problems = unanswered(&parts.manifest, &functions);
    if !problems.is_empty() {
        return Err(DeployError::Refused(problems));
    }
    Ok(active(node, parts, functions, data))
}

/// The key of the node's secrets.
pub(super) async fn secret_key(node: &Node) -> Result<&SecretKeys, DeployError> {
    let open = || async { SecretKeys::open(&node.config.secret_key_file, &*node.entropy) };
    Ok(node.apps.secret_key.get_or_try_init(open).await?)
}

fn over_node_limits(node: &Node, manifest: &Manifest) -> Vec<String> {
    let most = node.config.functions.memory_bytes_max;
    let over = manifest
        .functions
        .iter()
        .filter(|(_, function)| function.limits.memory_bytes_max > most);
    over.map(|(name, function)| {
        format!(
            "function {name:?} wants {} MiB of memory, and this node gives {} MiB at most; lower limits.memory",
            function.limits.memory_bytes_max >> 20,
            most >> 20
        )
    })
    .collect()
}

/// HTTP triggers whose function does not answer HTTP.
fn unanswered(manifest: &Manifest, functions: &LoadedApp) -> Vec<String> {
    let silent: BTreeSet<&str> = manifest
        .routes
        .iter()
        .map(|route| route.function.as_str())
        .filter(|function| !functions.serves_http(function))
        .collect();
    silent
        .iter()
        .map(|function| {
            format!(
                "function {function:?} has an HTTP trigger and does not export wasi:http/incoming-handler; \
                 remove the trigger, or export the handler"
            )
        })
        .collect()
}

async fn link(node: &Node, spec: AppSpec, services: Services) -> Result<Arc<LoadedApp>, DeployError> {
    // Twice: once to learn what is not compiled here, once with everything compiled.
    for compiled in [false, true] {
        let (host, spec_, services) = (node.host.clone(), spec.clone(), services.clone());
        let errors = match off_thread(move || host.load(spec_, services)).await? {
            Ok(app) => return Ok(app),
            Err(errors) => errors,
        };
        let missing: BTreeSet<ContentHash> = errors
            .iter()
            .filter_map(|error| match error {
                LoadError::NotCompiled(hash) => Some(*hash),
                _ => None,
            })
            .collect();
        if missing.is_empty() || compiled {
            let problems = errors.iter().map(LoadError::to_string).collect();
            return Err(DeployError::Refused(problems));
        }
        compile(node, &spec, missing).await?;
    }
    Err(DeployError::Internal(
        "a component was compiled and can't be found".to_owned(),
    ))
}

async fn compile(node: &Node, spec: &AppSpec, missing: BTreeSet<ContentHash>) -> Result<(), DeployError> {
    let mut problems = Vec::new();
    for hash in missing {
        let bytes = node.blobs.get_content(hash).await?;
        let permit = node.apps.compiling.acquire().await;
        let host: Host = node.host.clone();
        let result = off_thread(move || host.compile(&bytes)).await?;
        drop(permit);
        if let Err(error) = result {
            let functions = spec
                .functions
                .iter()
                .filter(|function| function.component == hash);
            problems.extend(functions.map(|function| format!("function {:?}: {error}", function.name)));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(DeployError::Refused(problems)),
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DeployError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| DeployError::Internal(format!("the work on a component ended early: {error}")))
}

fn active(node: &Node, parts: &Parts, functions: Arc<LoadedApp>, data: AppData) -> ActiveApp {
    let manifest = &parts.manifest;
    let mut routes: Vec<HttpRoute> = manifest
        .routes
        .iter()
        .map(|route| HttpRoute {
            path: route.path.clone(),
            prefix: route.prefix,
            methods: route.methods.clone(),
            function: route.function.as_str().into(),
        })
        .collect();
    // An exact route goes before a prefix of the same length: it says more.
    routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), route.prefix));
    let invoke = manifest.functions.iter();
    ActiveApp {
        id: parts.app.clone(),
        deployment: parts.number,
        domains: manifest.domains.clone(),
        rates: manifest.rates.within(node.config.rates.bounds),
        function_rates: manifest
            .functions
            .iter()
            .filter(|(_, function)| function.rates != Rates::default())
            .map(|(name, function)| (name.clone(), function.rates))
            .collect(),
        tally: Tally::default(),
        routes,
        timers: manifest.timers.clone(),
        changes: manifest.changes.clone(),
        site: Site {
            files: parts.site.files.clone(),
            spa: parts.site.spa,
        },
        functions,
        data,
        invoke: invoke
            .map(|(name, function)| (name.clone(), function.invoke))
            .collect(),
        storage: manifest.storage.clone(),
        cache_control: manifest.cache_control.clone(),
        anonymous_login: manifest.anonymous_login,
        password_signup: manifest.password_signup,
    }
}

/// Reads a recorded deployment.
pub(super) async fn recorded(node: &Node, app: &AppId, number: i64) -> Result<Parts, DeployError> {
    let id = DeploymentId(number.unsigned_abs());
    let record = records::deployment(&*node.documents, app, id).await?;
    let record = record
        .ok_or_else(|| DeployError::NotFound(format!("app {:?} has no deployment {id}", app.as_str())))?;
    Parts::parse(app, &record)
}
