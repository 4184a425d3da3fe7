//! What the host's tests share: a host in a temporary directory, apps made of fixtures, a recording log.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test, also outside of its functions")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cloudlet_base::{
    Clock, ContentHash, Deadline, DeploymentId, OsEntropy, Principal, RequestId, SeededEntropy, SystemClock,
};
use cloudlet_blob::{BlobConfig, BlobStore};
use cloudlet_data::testing::MemoryDocuments;
use cloudlet_data::{AppData, Documents, Embedded};
use cloudlet_docdb::{Config, Docs};
use cloudlet_host::{
    AppSpec, Call, CallReply, FunctionLimits, FunctionSpec, Grants, Host, HostConfig, Invocation,
    InvokeError, LoadError, LoadedApp, LogLine, LogSink, LogStream, ResponseBody, Services, TraceContext,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prometheus::Registry;
use tempfile::TempDir;

/// The bytes of a fixture, built by xtask before the tests.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/guests/wasm32-wasip2/release")
        .join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; build the guests first: cargo xtask fixtures",
            path.display()
        )
    })
}

/// Keeps every line.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<LogLine>>);

impl LogSink for Recorder {
    fn line(&self, line: LogLine) {
        self.0.lock().unwrap().push(line);
    }
}

impl Recorder {
    pub(crate) fn texts(&self, stream: LogStream) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines
            .iter()
            .filter(|line| line.stream == stream)
            .map(|line| line.text.clone())
            .collect()
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.0.lock().unwrap().clone()
    }
}

/// A host and what it writes to.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) logs: Arc<Recorder>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) dir: Arc<TempDir>,
}

impl Node {
    pub(crate) fn start() -> Node {
        Node::start_in(Arc::new(TempDir::new().unwrap()))
    }

    pub(crate) fn start_in(dir: Arc<TempDir>) -> Node {
        Node::with_documents(dir, MemoryDocuments::new())
    }

    /// With an embedded database in memory.
    pub(crate) fn with_database() -> Node {
        let docs = Docs::open(
            Config::default(),
            Arc::new(SystemClock::new()),
            Arc::new(OsEntropy),
            &Registry::new(),
        )
        .unwrap();
        let documents: Arc<dyn Documents> = Arc::new(Embedded::new(docs));
        Node::with_documents(Arc::new(TempDir::new().unwrap()), documents)
    }

    pub(crate) fn with_documents(dir: Arc<TempDir>, documents: Arc<dyn Documents>) -> Node {
        Node::configured(dir, documents, 20, false)
    }

    /// With a pool of this size.
    pub(crate) fn with_instances(
        dir: Arc<TempDir>,
        documents: Arc<dyn Documents>,
        instances_max: u32,
    ) -> Node {
        Node::configured(dir, documents, instances_max, false)
    }

    /// One that logs the end of every invocation.
    pub(crate) fn telling_every_end() -> Node {
        Node::configured(
            Arc::new(TempDir::new().unwrap()),
            MemoryDocuments::new(),
            20,
            true,
        )
    }

    fn configured(
        dir: Arc<TempDir>,
        documents: Arc<dyn Documents>,
        instances_max: u32,
        log_every_invocation: bool,
    ) -> Node {
        let config = HostConfig {
            instances_max,
            log_every_invocation,
            ..HostConfig::new(dir.path().join("artifacts"))
        };
        let (logs, registry) = (Arc::new(Recorder::default()), Registry::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let host = Host::new(
            config,
            Arc::clone(&clock),
            Arc::new(SeededEntropy::new(1)),
            Arc::clone(&logs) as Arc<dyn LogSink>,
            &registry,
        )
        .unwrap();
        Node {
            host,
            logs,
            registry,
            clock,
            documents,
            dir,
        }
    }

    pub(crate) fn services(&self) -> Services {
        let app: cloudlet_base::AppId = "shop".parse().unwrap();
        let registry = Registry::new();
        Services {
            data: AppData {
                app,
                documents: Arc::clone(&self.documents),
                rules: Arc::new(HashMap::new()),
            },
            blobs: BlobStore::open(
                BlobStore::local_backend(&self.dir.path().join("objects")).unwrap(),
                Arc::clone(&self.documents),
                BlobConfig::default(),
                Arc::clone(&self.clock),
                Arc::new(OsEntropy),
                &registry,
            ),
            bucket: "shop-bucket".into(),
        }
    }

    pub(crate) fn try_load(&self, functions: Vec<FunctionSpec>) -> Result<Arc<LoadedApp>, Vec<LoadError>> {
        let spec = AppSpec {
            app: "shop".parse().unwrap(),
            deployment: DeploymentId(7),
            concurrency: 1000,
            functions,
        };
        self.host.load(spec, self.services())
    }

    /// One function made of a fixture, changed by `change`.
    pub(crate) fn function(
        &self,
        fixture_name: &str,
        change: impl FnOnce(&mut FunctionSpec),
    ) -> FunctionSpec {
        let component = self.host.compile(&fixture(fixture_name)).unwrap();
        let mut spec = function_spec(fixture_name, component);
        change(&mut spec);
        spec
    }

    /// An app with one function.
    pub(crate) fn app(&self, fixture_name: &str, change: impl FnOnce(&mut FunctionSpec)) -> App {
        self.app_of(vec![self.function(fixture_name, change)])
    }

    pub(crate) fn app_of(&self, functions: Vec<FunctionSpec>) -> App {
        let function = functions[0].name.to_string();
        let app = self.try_load(functions).unwrap();
        App {
            app,
            function,
            clock: Arc::clone(&self.clock),
        }
    }

    /// The value of a metric with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family
            .get_metric()
            .iter()
            .filter(|metric| {
                labels.iter().all(|(name, value)| {
                    metric
                        .get_label()
                        .iter()
                        .any(|label| label.name() == *name && label.value() == *value)
                })
            })
            .map(|metric| {
                metric.get_counter().get_value()
                    + metric.get_gauge().get_value()
                    + metric.get_histogram().get_sample_count() as f64
            })
            .sum()
    }
}

pub(crate) fn function_spec(name: &str, component: ContentHash) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        component,
        grants: Grants {
            functions: vec!["*".into()],
            database: vec!["*".into()],
            storage: vec!["*".into()],
            keyvalue: vec!["default".into(), "other".into()],
        },
        limits: FunctionLimits {
            timeout: Duration::from_secs(20),
            ..FunctionLimits::default()
        },
        vars: BTreeMap::new(),
        secrets: BTreeMap::new(),
        outbound: Vec::new(),
    }
}

/// A loaded app and its first function.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) app: Arc<LoadedApp>,
    pub(crate) function: String,
    pub(crate) clock: Arc<dyn Clock>,
}

impl App {
    pub(crate) fn invocation(&self) -> Invocation {
        Invocation {
            request: RequestId::from_bits(0xabc),
            principal: Principal::Public,
            deadline: Deadline::NEVER,
            depth: 0,
            trace: TraceContext::default(),
        }
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, InvokeError> {
        self.app.http(&self.function, request, self.invocation()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), InvokeError> {
        let request = Request::get(path)
            .header("host", "shop.test")
            .body(Full::default())
            .unwrap();
        let (head, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok((head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap()))
    }

    /// The body of a response that must be there.
    pub(crate) async fn text(&self, path: &str) -> String {
        self.get(path).await.unwrap().1
    }

    pub(crate) async fn call(&self, payload: &str) -> Result<CallReply, InvokeError> {
        self.call_as(payload, self.invocation()).await
    }

    pub(crate) async fn call_as(
        &self,
        payload: &str,
        invocation: Invocation,
    ) -> Result<CallReply, InvokeError> {
        let call = Call {
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        self.app.call(&self.function, call, invocation).await
    }
}

/// The text of a reply that must be a good one.
pub(crate) fn ok(reply: Result<CallReply, InvokeError>) -> String {
    match reply.unwrap() {
        CallReply::Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The text of the failure that a call must end in.
pub(crate) async fn failure(app: &App, payload: &str) -> String {
    match app.call(payload).await.unwrap() {
        CallReply::Failed(text) => text,
        other => panic!("{payload}: {other:?}"),
    }
}
