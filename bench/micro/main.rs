//! What an invocation costs inside one process, through the host's own code: loading a compiled component; making an
//! instance; the whole of an invocation (admission, store, instance, call, response, drop), on one thread and on two.
//!
//! `cargo xtask bench micro [FIXTURE] [PATH]`: `hello` and `/` unless said otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product"
)]

#[path = "../../runtime/host/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Full};
use support::{App, Node};

/// The node's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const WARM_UP: usize = 2_000;
const INVOCATIONS: usize = 10_000;
const LOADS: usize = 200;
const THREADS_TIME: Duration = Duration::from_secs(2);

async fn once(app: &App, path: &str) {
    let request = Request::get(path)
        .header("host", "shop.test")
        .header("accept", "*/*")
        .body(Full::default())
        .unwrap();
    let response = app.send(request).await.unwrap();
    response.into_body().collect().await.unwrap();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

fn per_second(app: &App, path: &str, threads: usize) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (app, path) = (app.clone(), path.to_owned());
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                block_on(async {
                    while !stop.load(Ordering::Relaxed) {
                        once(&app, &path).await;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        })
        .collect();
    let start = Instant::now();
    std::thread::sleep(THREADS_TIME);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Seconds and number of instances made so far, as the host itself counts them.
fn instantiated(node: &Node) -> (f64, f64) {
    let families = node.registry.gather();
    let phases = families
        .iter()
        .find(|family| family.name() == "cloudlet_host_phase_seconds")
        .unwrap();
    let phase = phases
        .get_metric()
        .iter()
        .find(|metric| {
            metric
                .get_label()
                .iter()
                .any(|label| label.value() == "instantiate")
        })
        .unwrap();
    let histogram = phase.get_histogram();
    (histogram.get_sample_sum(), histogram.get_sample_count() as f64)
}

/// The values at these parts of the whole, in microseconds.
fn quantiles(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort();
    [0.5, 0.99, 0.999].map(|part| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6)
}

fn timed(count: usize, mut run: impl FnMut()) -> Vec<Duration> {
    (0..count)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect()
}

/// The middle one of the rounds' figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let fixture = args.next().unwrap_or_else(|| "hello".to_owned());
    let path = args.next().unwrap_or_else(|| "/".to_owned());
    let node = Node::start();
    let spec = node.function(&fixture, |_| {});
    let app = node.app_of(vec![spec.clone()]);
    block_on(async {
        for _ in 0..WARM_UP {
            once(&app, &path).await;
        }
    });

    let (mut load, mut instance, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let (mut one, mut scaling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        load.push(quantiles(timed(LOADS, || {
            drop(node.try_load(vec![spec.clone()]).unwrap());
        })));
        let before = instantiated(&node);
        let times = block_on(async {
            let mut times = Vec::with_capacity(INVOCATIONS);
            for _ in 0..INVOCATIONS {
                let start = Instant::now();
                once(&app, &path).await;
                times.push(start.elapsed());
            }
            times
        });
        let after = instantiated(&node);
        whole.push(quantiles(times));
        instance.push((after.0 - before.0) / (after.1 - before.1) * 1e6);
        let (single, double) = (per_second(&app, &path, 1), per_second(&app, &path, 2));
        one.push(single);
        scaling.push(double / single);
    }

    let at = |rounds: &[[f64; 3]], which: usize| median(rounds.iter().map(|round| round[which]).collect());
    println!("component: {fixture} {path}; medians of {ROUNDS} rounds\n");
    println!("| step | p50 us | p99 us | p99.9 us |");
    println!("|---|---:|---:|---:|");
    for (name, rounds) in [
        ("load a compiled component and link it", &load),
        ("instantiate, call, respond, drop", &whole),
    ] {
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} |",
            at(rounds, 0),
            at(rounds, 1),
            at(rounds, 2)
        );
    }
    println!("\ninstantiate alone: mean {:.1} us", median(instance));
    println!(
        "invocations: {:.0}/s on one thread, {:.2} times that on two",
        median(one),
        median(scaling)
    );
}
