//! What an invocation costs through the host's own code: admission, store, instance, call, drop, response.
//!
//! `cargo run --release -p cloudlet-host --example invoke [FIXTURE] [PATH]`, after `cargo xtask fixtures`.
//! Set RUST_BACKTRACE=0.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a part of the product"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Full};
use support::{App, Node};

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

fn per_second(app: &App, path: &str, threads: usize, time: Duration) -> f64 {
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
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let fixture = args.next().unwrap_or_else(|| "hello".to_owned());
    let path = args.next().unwrap_or_else(|| "/".to_owned());
    let node = Node::start();
    let app = node.app(&fixture, |_| {});
    let mut times: Vec<Duration> = block_on(async {
        for _ in 0..2_000 {
            once(&app, &path).await;
        }
        let mut times = Vec::new();
        for _ in 0..20_000 {
            let start = Instant::now();
            once(&app, &path).await;
            times.push(start.elapsed());
        }
        times
    });
    times.sort();
    let at = |p: f64| times[((times.len() - 1) as f64 * p) as usize].as_secs_f64() * 1e6;
    println!(
        "{fixture} {path}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us",
        at(0.5),
        at(0.99),
        at(0.999)
    );
    let one = per_second(&app, &path, 1, Duration::from_secs(3));
    let two = per_second(&app, &path, 2, Duration::from_secs(3));
    println!("one thread {one:.0}/s, two threads {two:.0}/s, {:.2}x", two / one);
}
