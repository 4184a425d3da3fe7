//! Which engine settings make a fresh instance per invocation cheapest, on one thread and on two.
//!
//! `cargo run --release -p cloudlet-host --example engine -- target/guests/wasm32-wasip2/release/hello.wasm`
//!
//! Drives wasmtime directly, beside the host's own code, so that candidates can be compared in one run. The winner
//! and its numbers stand in `src/engine.rs`. Set RUST_BACKTRACE=0.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

struct Candidate {
    name: &'static str,
    pagemap: bool,
    keep: usize,
    signals: bool,
    guard: u64,
}

const CANDIDATES: [Candidate; 6] = [
    Candidate {
        name: "pool, defaults",
        pagemap: false,
        keep: 0,
        signals: true,
        guard: 32 << 20,
    },
    Candidate {
        name: "pagemap keep 1M",
        pagemap: true,
        keep: 1 << 20,
        signals: true,
        guard: 32 << 20,
    },
    Candidate {
        name: "pagemap keep 4M",
        pagemap: true,
        keep: 4 << 20,
        signals: true,
        guard: 32 << 20,
    },
    Candidate {
        name: "pagemap keep 64M",
        pagemap: true,
        keep: 64 << 20,
        signals: true,
        guard: 32 << 20,
    },
    Candidate {
        name: "pagemap keep 4M, no signals",
        pagemap: true,
        keep: 4 << 20,
        signals: false,
        guard: 0,
    },
    Candidate {
        name: "no pagemap, keep 64K, no signals",
        pagemap: false,
        keep: 64 << 10,
        signals: false,
        guard: 0,
    },
];

impl Candidate {
    fn engine(&self) -> Engine {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(200)
            .total_core_instances(800)
            .total_memories(200)
            .total_tables(800)
            .total_stacks(200)
            .max_memory_size(256 << 20)
            .linear_memory_keep_resident(self.keep)
            .table_keep_resident(160 << 10)
            .pagemap_scan(if self.pagemap { Enabled::Yes } else { Enabled::No });
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .epoch_interruption(true)
            .concurrency_support(false)
            .signals_based_traps(self.signals)
            .memory_guard_size(self.guard);
        Engine::new(&config).unwrap()
    }
}

struct Hooks;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _: http::Request<wasmtime_wasi_http::WasiBody>,
        _: Option<wasmtime_wasi_http::RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        http::Response<wasmtime_wasi_http::WasiBody>,
                        Box<dyn Future<Output = Result<(), Error>> + Send>,
                    ),
                    Error,
                >,
            > + Send,
    > {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

struct State {
    table: ResourceTable,
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
    hooks: Hooks,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| WasiCtx::builder().build()),
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}

async fn once(pre: &ProxyPre<State>) -> [Duration; 3] {
    let start = Instant::now();
    let state = State {
        table: ResourceTable::new(),
        wasi: None,
        http: WasiHttpCtx::new(),
        hooks: Hooks,
    };
    let mut store = Store::new(pre.engine(), state);
    store.set_epoch_deadline(u64::MAX / 2);
    let request = http::Request::get("http://localhost/")
        .body(Empty::<Bytes>::new().map_err(Error::from))
        .unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(Scheme::Http, request)
        .unwrap();
    let out = store.data_mut().http().new_response_outparam(sender).unwrap();
    let proxy = pre.instantiate_async(&mut store).await.unwrap();
    let instantiated = Instant::now();
    proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut store, request, out)
        .await
        .unwrap();
    let called = Instant::now();
    drop(store);
    let dropped = Instant::now();
    drop(receiver);
    [instantiated - start, called - instantiated, dropped - called]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn percentile(sorted: &[Duration], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p) as usize].as_secs_f64() * 1e6
}

fn per_second(pre: &ProxyPre<State>, threads: usize, time: Duration) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (pre, stop, count) = (pre.clone(), Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                block_on(async {
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        once(&pre).await;
                        done += 1;
                    }
                    count.fetch_add(done, Ordering::Relaxed);
                });
            })
        })
        .collect();
    let start = Instant::now();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let path = std::env::args()
        .nth(1)
        .expect("the path of a wasi:http component");
    let bytes = std::fs::read(path).unwrap();
    println!(
        "{:34} {:>6} {:>6} {:>6} {:>7} {:>7} | {:>8} {:>8} {:>5}",
        "candidate", "inst", "call", "drop", "p50 us", "p99", "1 thr/s", "2 thr/s", "x"
    );
    for candidate in CANDIDATES {
        let engine = candidate.engine();
        let component = Component::new(&engine, &bytes).unwrap();
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        let pre = ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        let mut times: Vec<[Duration; 3]> = Vec::new();
        block_on(async {
            for i in 0..22_000 {
                let time = once(&pre).await;
                if i >= 2_000 {
                    times.push(time);
                }
            }
        });
        let column = |f: &dyn Fn(&[Duration; 3]) -> Duration| {
            let mut sorted: Vec<Duration> = times.iter().map(f).collect();
            sorted.sort();
            sorted
        };
        let total = column(&|t| t.iter().sum());
        let one = per_second(&pre, 1, Duration::from_secs(2));
        let two = per_second(&pre, 2, Duration::from_secs(2));
        println!(
            "{:34} {:6.1} {:6.1} {:6.1} {:7.1} {:7.1} | {:8.0} {:8.0} {:5.2}",
            candidate.name,
            percentile(&column(&|t| t[0]), 0.5),
            percentile(&column(&|t| t[1]), 0.5),
            percentile(&column(&|t| t[2]), 0.5),
            percentile(&total, 0.5),
            percentile(&total, 0.99),
            one,
            two,
            two / one
        );
    }
}
