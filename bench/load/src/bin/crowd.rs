//! Many at once on one node: functions that are deployed and rarely asked, and requests that wait for somebody else.
//!
//! What is measured and why is in `bench/README.md`.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cloudlet_bench_load::client;
use cloudlet_bench_process::{Node, Scratch, pin_self};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Functions of one app, at most: its limit.
const APP_FUNCTIONS_MAX: usize = 500;
/// How long the origin of waiting requests takes.
const ORIGIN_TIME: Duration = Duration::from_secs(5);
/// Connections that are opened at once.
const OPENING: usize = 64;

struct Options {
    cloudlet: PathBuf,
    /// Directory of the benchmarks' built components.
    guests: PathBuf,
    functions: usize,
    waiting: usize,
    rounds: usize,
    duration: Duration,
    server_cpus: String,
    generator_cpu: usize,
    only: Option<String>,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    pin_self(options.generator_cpu)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("functions") {
        println!("{}", runtime.block_on(functions(&options))?);
    }
    if wanted("waiting") {
        println!("{}", runtime.block_on(waiting(&options))?);
    }
    Ok(())
}

/// Deploys distinct functions, starts the node anew, asks each once, and loads one beside them and alone.
async fn functions(options: &Options) -> Result<String> {
    let dir = Scratch::new(&std::env::temp_dir(), "crowd")?;
    let hello =
        std::fs::read(options.guests.join("bench_hello.wasm")).context("read the component of hello")?;
    let mut apps = Vec::new();
    let mut names = Vec::new();
    for first in (0..options.functions).step_by(APP_FUNCTIONS_MAX) {
        let count = APP_FUNCTIONS_MAX.min(options.functions - first);
        let app = format!("crowd{}", apps.len());
        apps.push(write_app(dir.path(), &app, first..first + count, &hello)?);
        names.extend((first..first + count).map(|n| (app.clone(), n)));
    }
    let alone = write_app(dir.path(), "alone", 0..1, &hello)?;

    let data = |name: &str| -> Result<PathBuf> {
        let data = dir.path().join(name);
        std::fs::create_dir_all(&data)?;
        Ok(data)
    };
    let (crowd_data, alone_data) = (data("crowd-node")?, data("alone-node")?);
    let serve = |data: &Path, app: &Path, key: Option<String>| {
        Node::serve(&options.cloudlet, &options.server_cpus, data, app, key, &[])
    };
    let began = Instant::now();
    let node = serve(&crowd_data, &apps[0], None)?;
    for app in &apps {
        node.run_in(app, &["deploy"], "")?;
    }
    let deployed = began.elapsed();
    let key = node.key().to_owned();
    drop(node);

    let began = Instant::now();
    let crowd = serve(&crowd_data, &apps[0], Some(key))?;
    ready(crowd.public, &client::request("GET", "nobody.localhost", "/")).await?;
    let started = began.elapsed();
    let lone = serve(&alone_data, &alone, None)?;
    lone.run(&["deploy"], "")?;
    let idle = crowd.running.resident_bytes()?;

    let mut stream = connect(crowd.public).await?;
    let (mut first, mut second) = (histogram()?, histogram()?);
    for histogram in [&mut first, &mut second] {
        for (app, n) in &names {
            let request = client::request("GET", &format!("{app}.localhost"), &format!("/f{n}"));
            let (status, time) = client::ask(&mut stream, &request).await?;
            ensure!(status == 200, "function {n} answered {status}");
            histogram.saturating_record(time.as_nanos() as u64);
        }
    }
    let asked = crowd.running.resident_bytes()?;
    let request = client::request("GET", "alone.localhost", "/f0");
    let mut stream = connect(lone.public).await?;
    for _ in 0..names.len() {
        client::ask(&mut stream, &request).await?;
    }
    let base = lone.running.resident_bytes()?;

    let hot = [
        (&crowd, client::request("GET", "crowd0.localhost", "/f0")),
        (&lone, request),
    ];
    let mut ratios = Vec::new();
    for round in 0..=options.rounds {
        let mut figures = Vec::new();
        for (node, request) in &hot {
            let cpu = node.running.cpu_seconds()?;
            let outcome = client::load(node.public, request, 32, options.duration).await?;
            ensure!(outcome.errors == 0, "{} requests failed", outcome.errors);
            let cpu = node.running.cpu_seconds()? - cpu;
            figures.push((
                outcome.requests as f64 / outcome.elapsed.as_secs_f64(),
                cpu / outcome.requests as f64,
                outcome.latency.value_at_quantile(0.99) as f64,
            ));
        }
        // The first warms both up.
        if round > 0 {
            let (beside, alone) = (figures[0], figures[1]);
            ratios.push([beside.0 / alone.0, beside.1 / alone.1, beside.2 / alone.2]);
        }
    }
    let median = |at: usize| {
        let mut values: Vec<f64> = ratios.iter().map(|ratio| ratio[at]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };

    let ms = |histogram: &Histogram<u64>, q| histogram.value_at_quantile(q) as f64 / 1e6;
    let each = |bytes: u64| bytes.saturating_sub(base) as f64 / names.len() as f64 / 1024.0;
    let mut table = String::from("| distinct functions on one node | |\n|---|---|\n");
    let mut row = |name: &str, value: String| writeln!(table, "| {name} | {value} |");
    row("functions", names.len().to_string())?;
    row("deployed in", format!("{:.1} s", deployed.as_secs_f64()))?;
    row(
        "the node starts with them in",
        format!("{:.2} s", started.as_secs_f64()),
    )?;
    row(
        "first request to each: p50, p99, most",
        format!(
            "{:.3}, {:.3}, {:.3} ms",
            ms(&first, 0.5),
            ms(&first, 0.99),
            ms(&first, 1.0)
        ),
    )?;
    row(
        "second request: p50, p99, most",
        format!(
            "{:.3}, {:.3}, {:.3} ms",
            ms(&second, 0.5),
            ms(&second, 0.99),
            ms(&second, 1.0)
        ),
    )?;
    row("resident for each, never asked", format!("{:.0} KiB", each(idle)))?;
    row("resident for each, asked", format!("{:.0} KiB", each(asked)))?;
    row(
        "a hot one beside them, to one alone: requests/s, CPU, p99",
        format!("{:.2}x, {:.2}x, {:.2}x", median(0), median(1), median(2)),
    )?;
    Ok(table)
}

/// An app of the functions with these numbers, each with a component of its own.
fn write_app(dir: &Path, app: &str, numbers: std::ops::Range<usize>, hello: &[u8]) -> Result<PathBuf> {
    let dir = dir.join(app);
    std::fs::create_dir_all(&dir)?;
    let mut manifest = format!("manifest_version = 1\n\n[app]\nname = \"{app}\"\n");
    for n in numbers {
        // A custom section at its end makes it another component, with other compiled code and a mapping of its own.
        let mut component = hello.to_vec();
        let name = b"number";
        let content = u32::try_from(n)?.to_le_bytes();
        component.push(0);
        component.push((1 + name.len() + content.len()) as u8);
        component.push(name.len() as u8);
        component.extend_from_slice(name);
        component.extend_from_slice(&content);
        std::fs::write(dir.join(format!("f{n}.wasm")), component)?;
        write!(
            manifest,
            "\n[function.f{n}]\nsource = \"f{n}.wasm\"\nlimits = {{ concurrency = 1000 }}\n\n[[trigger.http]]\nroute = \"/f{n}\"\nfunction = \"f{n}\"\n"
        )?;
    }
    std::fs::write(dir.join("cloudlet.toml"), manifest)?;
    Ok(dir)
}

/// Holds as many requests as told to, each waiting for an origin that takes its time.
async fn waiting(options: &Options) -> Result<String> {
    let dir = Scratch::new(&std::env::temp_dir(), "waiting")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = listener.local_addr()?;
    // On a thread of its own, so that a burst of clients does not keep it from accepting.
    let listener = listener.into_std()?;
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(answer_slowly(TcpListener::from_std(listener)?))
    });
    let app = dir.path().join("slow");
    std::fs::create_dir_all(&app)?;
    std::fs::copy(options.guests.join("bench_slow.wasm"), app.join("slow.wasm"))
        .context("read the component that waits")?;
    let count = options.waiting;
    std::fs::write(
        app.join("cloudlet.toml"),
        format!(
            "manifest_version = 1\n\n[app]\nname = \"slow\"\n\n[vars]\nORIGIN = \"http://{origin}/\"\n\n\
             [function.slow]\nsource = \"slow.wasm\"\noutbound = [\"http://{origin}\"]\n\
             grants = {{ vars = [\"ORIGIN\"] }}\nlimits = {{ concurrency = {count}, timeout = \"120s\" }}\n\n\
             [[trigger.http]]\nroute = \"/\"\nfunction = \"slow\"\n"
        ),
    )?;
    let instances = count.to_string();
    let node = Node::start(
        &options.cloudlet,
        &options.server_cpus,
        dir.path(),
        &app,
        &[
            "--functions-instances-max",
            &instances,
            "--limits-connections-max",
            &(count + 100).to_string(),
            "--limits-request-timeout",
            "120s",
        ],
    )?;
    let request = client::request("GET", "slow.localhost", "/");
    let mut warm = connect(node.public).await?;
    let (status, alone) = client::ask(&mut warm, &request).await?;
    ensure!(status == 200, "the function answered {status}");
    let base = node.running.resident_bytes()?;
    let cpu = node.running.cpu_seconds()?;

    let began = Instant::now();
    let (answered, watching) = watch::channel(());
    let peak = async {
        let mut peak = 0;
        while watching.has_changed().is_ok() {
            peak = peak.max(node.running.resident_bytes()?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(peak)
    };
    let asking = async {
        let _answered = answered;
        let set = tokio::task::LocalSet::new();
        let opening = std::sync::Arc::new(tokio::sync::Semaphore::new(OPENING));
        let asked: Vec<_> = (0..count)
            .map(|_| {
                let (request, opening, address) = (request.clone(), opening.clone(), node.public);
                set.spawn_local(async move {
                    let permit = opening.acquire_owned().await?;
                    let mut stream = connect(address).await?;
                    drop(permit);
                    client::ask(&mut stream, &request).await
                })
            })
            .collect();
        let mut latency = histogram()?;
        let mut failed = 0_usize;
        set.run_until(async {
            for one in asked {
                match one.await.context("a request's task failed")? {
                    Ok((200, time)) => latency.saturating_record(time.as_nanos() as u64),
                    _ => failed += 1,
                }
            }
            anyhow::Ok(())
        })
        .await?;
        anyhow::Ok((latency, failed))
    };
    let (peak, asked) = tokio::join!(peak, asking);
    let (peak, (latency, failed)) = (peak?, asked?);
    let elapsed = began.elapsed();
    let cpu = node.running.cpu_seconds()? - cpu;

    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut table = String::from("| requests that wait 5 s for an origin | |\n|---|---|\n");
    let mut row = |name: &str, value: String| writeln!(table, "| {name} | {value} |");
    row("requests, all at once", count.to_string())?;
    row("failed", failed.to_string())?;
    row("one alone took", format!("{:.2} s", alone.as_secs_f64()))?;
    row(
        "p50, p99, most",
        format!(
            "{:.2}, {:.2}, {:.2} s",
            latency.value_at_quantile(0.5) as f64 / 1e9,
            latency.value_at_quantile(0.99) as f64 / 1e9,
            latency.max() as f64 / 1e9
        ),
    )?;
    row("all answered after", format!("{:.2} s", elapsed.as_secs_f64()))?;
    row("CPU for each", format!("{:.0} us", cpu * 1e6 / count as f64))?;
    row("resident before", format!("{:.0} MiB", mib(base)))?;
    row("resident at most", format!("{:.0} MiB", mib(peak)))?;
    row(
        "for each that waits",
        format!(
            "{:.0} KiB",
            peak.saturating_sub(base) as f64 / count as f64 / 1024.0
        ),
    )?;
    Ok(table)
}

/// Answers every request after [`ORIGIN_TIME`].
async fn answer_slowly(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            // A request is small and comes as one.
            while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {
                tokio::time::sleep(ORIGIN_TIME).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ndone\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Waits until a request is answered, with whatever status.
async fn ready(address: SocketAddr, request: &str) -> Result<()> {
    let mut stream = connect(address).await?;
    client::ask(&mut stream, request).await.map(drop)
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000_000, 3)?)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        cloudlet: "target/release/cloudlet".into(),
        guests: "bench/guests/target/wasm32-wasip2/release".into(),
        functions: 1000,
        // Each takes two of the node's open files, and two of the generator's; often 20,000 are allowed.
        waiting: 9900,
        rounds: 5,
        duration: Duration::from_secs(2),
        server_cpus: "1".into(),
        generator_cpu: 0,
        only: None,
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        let number = |text: String| text.parse().with_context(|| format!("{flag} takes a number"));
        match flag.as_str() {
            "--cloudlet" => options.cloudlet = value()?.into(),
            "--guests" => options.guests = value()?.into(),
            "--functions" => options.functions = number(value()?)?,
            "--waiting" => options.waiting = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--generator-cpu" => options.generator_cpu = number(value()?)?,
            "--server-cpus" => options.server_cpus = value()?,
            "--only" => options.only = Some(value()?),
            "--seconds" => {
                let seconds = value()?.parse().context("--seconds takes a number")?;
                options.duration = Duration::from_secs_f64(seconds);
            }
            other => bail!("unknown option {other:?}; see bench/README.md"),
        }
    }
    Ok(options)
}
