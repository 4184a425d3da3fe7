//! The host itself: engine, artifacts and what every app shares.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use cloudlet_base::{AppId, Clock, ContentHash, Entropy};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::admit::{Gate, Permits};
use crate::app::{AppSpec, LoadedApp, Services};
use crate::artifact::{ArtifactCache, Collected, check_is_component, content_hash};
use crate::engine::{self, Ticker};
use crate::error::LoadError;
use crate::instance::State;
use crate::line::Line;
use crate::link;
use crate::logs::LogSink;
use crate::metrics::Metrics;
use crate::outbound::Origins;
use crate::turns::Computing;

/// How to run functions.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Directory of compiled artifacts; made when it is not there.
    pub artifact_dir: PathBuf,
    /// Instances that may be alive at once on the node: the pool's size.
    pub instances_max: u32,
    /// Instances that one app may have of them; a manifest may only lower it.
    pub app_instances_max: usize,
    /// Invocations that may wait for one at once, where their function's limits let them wait. An app may have a quarter
    /// of these places.
    pub queue_max: usize,
    /// Largest linear memory that any function may be given.
    pub memory_bytes_max: usize,
    /// Components compiled at once.
    pub compile_permits: usize,
    /// Largest component accepted.
    pub component_bytes_max: usize,
    /// Whether the end of every invocation gets a line in its app's log, or only that of a failed one.
    pub log_every_invocation: bool,
}

impl HostConfig {
    /// The defaults, with artifacts under `artifact_dir`.
    pub fn new(artifact_dir: PathBuf) -> Self {
        Self {
            artifact_dir,
            instances_max: 1000,
            app_instances_max: usize::MAX,
            queue_max: 1000,
            memory_bytes_max: 256 << 20,
            compile_permits: 1,
            component_bytes_max: 64 << 20,
            log_every_invocation: false,
        }
    }
}

/// The host of a node's functions. Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

/// What every app of the node shares.
pub(crate) struct Shared {
    pub(crate) config: HostConfig,
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) artifacts: ArtifactCache,
    pub(crate) components: Components,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) node: Gate,
    pub(crate) line: Arc<Line>,
    apps: Mutex<HashMap<AppId, Weak<Permits>>>,
    pub(crate) origins: Origins,
    pub(crate) computing: Computing,
    compiling: Compiling,
    _ticker: Ticker,
}

impl Host {
    /// Starts the engine and its epoch ticker.
    ///
    /// # Errors
    /// When the machine can't give the address space or the artifact directory can't be used.
    pub fn new(
        config: HostConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        logs: Arc<dyn LogSink>,
        registry: &prometheus::Registry,
    ) -> Result<Self, LoadError> {
        let engine = engine::engine(&config)?;
        let artifacts = ArtifactCache::open(config.artifact_dir.clone(), &engine)?;
        let node = Gate::new(config.instances_max as usize);
        let line = Line::new(config.queue_max);
        let computing = Computing::default();
        Ok(Self(Arc::new(Shared {
            linker: link::linker(&engine)?,
            metrics: Metrics::register(registry, &engine, &node.permits, &line)?,
            compiling: Compiling::new(config.compile_permits),
            origins: Origins::new(),
            _ticker: Ticker::start(&engine, computing.clone())?,
            computing,
            artifacts,
            components: Components::default(),
            node,
            line,
            apps: Mutex::default(),
            clock,
            entropy,
            logs,
            engine,
            config,
        })))
    }

    /// Compiles a component into the artifact cache, if it is not there. Blocking: call it off the async threads.
    ///
    /// # Errors
    /// `TooLarge` and `NotAComponent` by the component, `Internal` when the cache can't be written.
    pub fn compile(&self, component: &[u8]) -> Result<ContentHash, LoadError> {
        let shared = &*self.0;
        let limit = shared.config.component_bytes_max;
        if component.len() > limit {
            return Err(LoadError::TooLarge {
                size: component.len(),
                limit,
            });
        }
        check_is_component(component)?;
        let hash = content_hash(component);
        if shared.artifacts.contains(hash) {
            return Ok(hash);
        }
        let _permit = shared.compiling.wait();
        // Another caller may have compiled it while this one waited.
        if shared.artifacts.contains(hash) {
            return Ok(hash);
        }
        let begin = shared.clock.monotonic();
        let compiled = shared
            .engine
            .precompile_component(component)
            .map_err(|error| LoadError::NotAComponent(format!("{error:#}")))?;
        let took = shared.clock.monotonic().saturating_sub(begin);
        shared.metrics.compiled(took);
        tracing::debug!(component = %hash, bytes = component.len(), ?took, "compiled a component");
        shared.artifacts.store(hash, &compiled)?;
        Ok(hash)
    }

    /// Removes compiled components that are not in `keep` or of another engine, unless they are younger than `age`.
    /// What runs goes on. Blocking.
    ///
    /// # Errors
    /// `Internal` when the directory of artifacts can't be read or changed; some may be gone then.
    pub fn collect(&self, keep: &HashSet<ContentHash>, age: Duration) -> Result<Collected, LoadError> {
        let now = self.0.clock.now();
        let collected = self.0.artifacts.collect(keep, age, now);
        collected.map_err(|error| LoadError::Internal(format!("collect artifacts: {error}")))
    }

    /// Loads and links an app's functions; reports every problem at once. Blocking.
    ///
    /// # Errors
    /// One for each import that is unknown or not granted, each missing handler and artifact.
    pub fn load(&self, spec: AppSpec, services: Services) -> Result<Arc<LoadedApp>, Vec<LoadError>> {
        link::load(&self.0, spec, services)
    }
}

impl Shared {
    /// The permits that all deployments of an app share.
    pub(crate) fn app_permits(&self, app: &AppId) -> Arc<Permits> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = apps.get(app).and_then(Weak::upgrade) {
            return permits;
        }
        let permits = Arc::default();
        apps.retain(|_, permits| permits.strong_count() > 0);
        apps.insert(app.clone(), Arc::downgrade(&permits));
        permits
    }
}

/// A component in memory, as long as a function of any app runs it.
pub(crate) struct Running(pub(crate) Component);

/// The components that functions run: another deployment with the same component shares it, which saves reading and
/// checking its artifact.
#[derive(Default)]
pub(crate) struct Components(Mutex<HashMap<ContentHash, Weak<Running>>>);

impl Components {
    pub(crate) fn running(&self, component: ContentHash) -> Option<Arc<Running>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&component).and_then(Weak::upgrade)
    }

    pub(crate) fn run(&self, hash: ContentHash, component: Component) -> Arc<Running> {
        let running = Arc::new(Running(component));
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, running| running.strong_count() > 0);
        held.insert(hash, Arc::downgrade(&running));
        running
    }
}

/// How many components may be compiled at once; the others wait.
struct Compiling {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Compiling {
    fn new(permits: usize) -> Self {
        Self {
            free: Mutex::new(permits.max(1)),
            given_back: Condvar::new(),
        }
    }

    fn wait(&self) -> CompilePermit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .given_back
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        CompilePermit(self)
    }
}

struct CompilePermit<'a>(&'a Compiling);

impl Drop for CompilePermit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}
