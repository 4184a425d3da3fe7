//! From a specification to a loaded app: which imports are offered, which of them are granted, and linking. All
//! problems of an app are told at once, by the imports' names.

use std::collections::HashMap;
use std::sync::Arc;

use cloudlet_base::ContentHash;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::admit::{Gate, Gates};
use crate::app::{AppSpec, Function, FunctionSpec, Grants, LoadedApp, Services};
use crate::bindings::CallFunctionPre;
use crate::error::LoadError;
use crate::host::{Running, Shared};
use crate::imports;
use crate::instance::State;
use crate::outbound::OutboundPool;

/// Most imports of one component; a real one has some forty.
const IMPORTS_MAX: usize = 500;
/// Most exports of one component.
const EXPORTS_MAX: usize = 500;

/// Bytes of a page of linear memory.
const WASM_PAGE_BYTES: u64 = 64 * 1024;

/// The interfaces of WASI 0.2 that are offered; any patch release of them will do. Sockets and files are there so
/// that programs built on a whole standard library link; there is nothing behind them.
const WASI_0_2: [(&str, &[&str]); 7] = [
    ("io", &["error", "poll", "streams"]),
    (
        "cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("random", &["random", "insecure", "insecure-seed"]),
    ("filesystem", &["types", "preopens"]),
    (
        "sockets",
        &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
    ("http", &["types", "outgoing-handler"]),
];

/// Interfaces that are offered under exactly this name.
const EXACT: [&str; 17] = [
    "wasi:logging/logging@0.1.0-draft",
    "cloudlet:auth/identity@0.1.0",
    "cloudlet:database/documents@0.1.0",
    "cloudlet:storage/objects@0.1.0",
    "cloudlet:function/types@0.1.0",
    "cloudlet:function/invoke@0.1.0",
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "wasi:blobstore/types@0.2.0-draft",
    "wasi:blobstore/container@0.2.0-draft",
    "wasi:blobstore/blobstore@0.2.0-draft",
    "fermyon:spin/key-value@2.0.0",
    "fermyon:spin/variables@2.0.0",
];

/// A linker with everything that is offered. Grants are checked by name before it is used.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<State>, LoadError> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
        .and_then(|()| imports::add_to_linker(&mut linker))
        .map_err(|error| LoadError::Internal(format!("define the host's functions: {error:#}")))?;
    Ok(linker)
}

/// Loads and links all functions of an app.
pub(crate) fn load(
    shared: &Arc<Shared>,
    spec: AppSpec,
    services: Services,
) -> Result<Arc<LoadedApp>, Vec<LoadError>> {
    let AppSpec {
        app,
        deployment,
        concurrency,
        functions: specs,
    } = spec;
    let app_gate = Gate {
        permits: shared.app_permits(&app),
        limit: concurrency.min(shared.config.app_instances_max),
    };
    let mut functions = HashMap::new();
    let mut problems = Vec::new();
    for spec in specs {
        let component = match component(shared, spec.component) {
            Ok(component) => component,
            Err(error) => {
                problems.push(error);
                continue;
            }
        };
        let found = check(shared, &spec, &component.0);
        if !found.is_empty() {
            problems.extend(found);
            continue;
        }
        match link(shared, spec, component, app_gate.clone()) {
            Ok(function) => {
                functions.insert(Arc::clone(&function.spec.name), Arc::new(function));
            }
            Err(error) => problems.push(error),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Arc::new(LoadedApp {
        shared: Arc::clone(shared),
        app,
        deployment,
        services,
        functions,
    }))
}

/// The component: what another function runs already, or its artifact.
fn component(shared: &Shared, hash: ContentHash) -> Result<Arc<Running>, LoadError> {
    if let Some(running) = shared.components.running(hash) {
        return Ok(running);
    }
    let component = shared.artifacts.load(&shared.engine, hash)?;
    Ok(shared.components.run(hash, component))
}

/// Every reason not to run the component as this function.
fn check(shared: &Shared, spec: &FunctionSpec, component: &Component) -> Vec<LoadError> {
    let function = || spec.name.to_string();
    let ty = component.component_type();
    let mut problems = Vec::new();
    let counts = [
        ("imports", ty.imports(&shared.engine).len(), IMPORTS_MAX),
        ("exports", ty.exports(&shared.engine).len(), EXPORTS_MAX),
    ];
    for (what, count, limit) in counts {
        if count > limit {
            problems.push(LoadError::Mismatch {
                function: function(),
                message: format!("it has {count} {what}, over the limit of {limit}"),
            });
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    for (import, _) in ty.imports(&shared.engine) {
        if !offered(import) {
            problems.push(LoadError::UnknownImport {
                function: function(),
                import: import.to_owned(),
            });
        } else if let Some(remedy) = missing_grant(import, &spec.grants) {
            problems.push(LoadError::NotGranted {
                function: function(),
                import: import.to_owned(),
                remedy: remedy.to_owned(),
            });
        }
    }
    let limit = spec.limits.memory_bytes_max.min(shared.config.memory_bytes_max) as u64;
    let needed = component
        .resources_required()
        .and_then(|needs| needs.max_initial_memory_size)
        .map_or(0, |pages| pages.saturating_mul(WASM_PAGE_BYTES));
    if needed > limit {
        problems.push(LoadError::TooMuchMemory {
            function: function(),
            needed,
            limit,
        });
    }
    problems
}

fn link(
    shared: &Shared,
    spec: FunctionSpec,
    running: Arc<Running>,
    app: Gate,
) -> Result<Function, LoadError> {
    let component = &running.0;
    let mismatch = |error: wasmtime::Error| LoadError::Mismatch {
        function: spec.name.to_string(),
        message: format!("{error:#}"),
    };
    let pre = shared.linker.instantiate_pre(component).map_err(mismatch)?;
    let exports = |name: &str| component.get_export_index(None, name).is_some();
    let http = exports("wasi:http/incoming-handler@0.2.0")
        .then(|| ProxyPre::new(pre.clone()))
        .transpose()
        .map_err(mismatch)?;
    let call = exports("cloudlet:function/handler@0.1.0")
        .then(|| CallFunctionPre::new(pre))
        .transpose()
        .map_err(mismatch)?;
    if http.is_none() && call.is_none() {
        return Err(LoadError::NoHandler(spec.name.to_string()));
    }
    Ok(Function {
        gates: Gates {
            function: Gate::new(spec.limits.concurrency),
            app,
            node: shared.node.clone(),
        },
        outbound: OutboundPool::default(),
        http,
        call,
        spec,
        _component: running,
    })
}

/// Whether there is something behind this import, granted or not.
pub(crate) fn offered(import: &str) -> bool {
    EXACT.contains(&import)
        || imports::config::NAMES.contains(&import)
        || parse_wasi_0_2(import).is_some_and(|(package, interface)| {
            WASI_0_2
                .iter()
                .any(|(name, interfaces)| *name == package && interfaces.contains(&interface))
        })
}

/// `wasi:PACKAGE/INTERFACE@0.2.PATCH` to package and interface.
fn parse_wasi_0_2(import: &str) -> Option<(&str, &str)> {
    let (name, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    let patch = version.strip_prefix("0.2.")?;
    patch.parse::<u32>().ok()?;
    name.split_once('/')
}

/// What the manifest lacks for this import, if it lacks anything.
pub(crate) fn missing_grant(import: &str, grants: &Grants) -> Option<&'static str> {
    if import.starts_with("cloudlet:database/") && grants.database.is_empty() {
        return Some(r#"grants = { database = ["COLLECTION"] }"#);
    }
    let on_objects = ["cloudlet:storage/", "wasi:blobstore/"];
    if on_objects.iter().any(|package| import.starts_with(package)) && grants.storage.is_empty() {
        return Some(r#"grants = { storage = ["PREFIX/"] }"#);
    }
    let on_pairs = ["wasi:keyvalue/", "fermyon:spin/key-value@"];
    if on_pairs.iter().any(|package| import.starts_with(package)) && grants.keyvalue.is_empty() {
        return Some(r#"grants = { keyvalue = ["default"] }"#);
    }
    if import.starts_with("cloudlet:function/invoke@") && grants.functions.is_empty() {
        return Some(r#"grants = { functions = ["FUNCTION"] }"#);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_any_patch_of_wasi_0_2_and_exact_prereleases() {
        for good in [
            "wasi:http/types@0.2.0",
            "wasi:http/outgoing-handler@0.2.12",
            "wasi:cli/stdout@0.2.99",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:config/store@0.2.0-draft-2024-09-27",
            "wasi:keyvalue/atomics@0.2.0-draft",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "fermyon:spin/variables@2.0.0",
            "cloudlet:database/documents@0.1.0",
        ] {
            assert!(offered(good), "{good}");
        }
        for bad in [
            "wasi:http/types",
            "wasi:http/types@0.3.0",
            "wasi:http/types@0.2.0-draft",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:gpu/compute@0.2.0",
            "wasi:config/runtime@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft3",
            "fermyon:spin/key-value@2.0.1",
            "fermyon:spin/sqlite@2.0.0",
            "cloudlet:database/documents@0.2.0",
            "env",
        ] {
            assert!(!offered(bad), "{bad}");
        }
    }

    #[test]
    fn a_grant_of_anything_opens_the_interface() {
        let mut grants = Grants::default();
        let import = "cloudlet:database/documents@0.1.0";
        assert!(missing_grant(import, &grants).unwrap().contains("database"));
        grants.database.push("rooms".into());
        assert_eq!(missing_grant(import, &grants), None);
        assert_eq!(missing_grant("cloudlet:function/types@0.1.0", &grants), None);
    }
}
