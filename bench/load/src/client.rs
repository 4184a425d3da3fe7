//! The generator: keep-alive HTTP/1.1 connections, each sending its next request when the last is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one round saw.
pub struct Outcome {
    /// Answers of any kind.
    pub requests: u64,
    /// Answers that were not 2xx.
    pub errors: u64,
    /// Of their bodies.
    pub bytes: u64,
    /// How long the round took.
    pub elapsed: Duration,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    fn empty() -> Result<Self> {
        Ok(Self {
            requests: 0,
            errors: 0,
            bytes: 0,
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3)?,
        })
    }
}

/// A request without a body, as it goes over the wire.
pub fn request(method: &str, host: &str, path: &str) -> String {
    let length = if method == "GET" {
        ""
    } else {
        "content-length: 0\r\n"
    };
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n")
}

/// Loads `address` over `connections` connections for `duration`, with the same request over and over.
///
/// # Errors
/// When a connection fails or breaks, or an answer can't be read.
pub async fn load(
    address: SocketAddr,
    request: &str,
    connections: usize,
    duration: Duration,
) -> Result<Outcome> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let until = start + duration;
    let set = tokio::task::LocalSet::new();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let request = request.to_owned();
            set.spawn_local(async move { one_connection(stream, request.as_bytes(), until).await })
        })
        .collect();
    let mut outcome = Outcome::empty()?;
    set.run_until(async {
        for task in tasks {
            let part = task.await.context("a connection's task failed")??;
            outcome.requests += part.requests;
            outcome.errors += part.errors;
            outcome.bytes += part.bytes;
            outcome.latency.add(&part.latency)?;
        }
        anyhow::Ok(())
    })
    .await?;
    outcome.elapsed = start.elapsed();
    Ok(outcome)
}

async fn one_connection(mut stream: TcpStream, request: &[u8], until: Instant) -> Result<Outcome> {
    let mut outcome = Outcome::empty()?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let sent = Instant::now();
        if sent >= until {
            return Ok(outcome);
        }
        stream.write_all(request).await?;
        let (status, bytes) = read_response(&mut stream, &mut buffer).await?;
        outcome
            .latency
            .saturating_record(sent.elapsed().as_nanos() as u64);
        outcome.requests += 1;
        outcome.bytes += bytes;
        if !(200..300).contains(&status) {
            outcome.errors += 1;
        }
    }
}

/// Longer waits are counted as this long.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

/// Sends one request and waits for the answer. Returns its status and how long it took.
///
/// # Errors
/// When the connection breaks, or the answer can't be read.
pub async fn ask(stream: &mut TcpStream, request: &str) -> Result<(u16, Duration)> {
    let mut buffer = vec![0; 16 * 1024];
    let sent = Instant::now();
    stream.write_all(request.as_bytes()).await?;
    let (status, _) = read_response(stream, &mut buffer).await?;
    Ok((status, sent.elapsed()))
}

/// Reads one response and throws its body away. Returns the status and the body's length.
async fn read_response(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(u16, u64)> {
    let mut have = 0;
    let (head_end, status, framing) = loop {
        let read = stream.read(&mut buffer[have..]).await?;
        if read == 0 {
            bail!("the server closed the connection after {have} bytes of a response");
        }
        have += read;
        if let Some(end) = find(&buffer[..have], b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).context("the response head is not text")?;
            break (end + 4, parse_status(head)?, parse_framing(head));
        }
        if have == buffer.len() {
            bail!("the response head is larger than {have} bytes");
        }
    };
    match framing {
        Framing::Length(length) => {
            let mut left = length.saturating_sub((have - head_end) as u64);
            while left > 0 {
                let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = stream.read(&mut buffer[..want]).await?;
                if read == 0 {
                    bail!("the server closed the connection within a body");
                }
                left -= read as u64;
            }
            Ok((status, length))
        }
        Framing::Chunked => {
            let mut body = (have - head_end) as u64;
            buffer.copy_within(head_end..have, 0);
            let mut tail = have - head_end;
            // The last chunk of every response here is small, so its end marker is in the last bytes read.
            while find(&buffer[..tail], b"0\r\n\r\n").is_none() {
                let keep = tail.min(5);
                buffer.copy_within(tail - keep..tail, 0);
                let read = stream.read(&mut buffer[keep..]).await?;
                if read == 0 {
                    bail!("the server closed the connection within a chunked body");
                }
                body += read as u64;
                tail = keep + read;
            }
            Ok((status, body))
        }
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

fn parse_status(head: &str) -> Result<u16> {
    head.get(9..12)
        .and_then(|s| s.parse().ok())
        .with_context(|| format!("no status in {:?}", head.lines().next()))
}

fn parse_framing(head: &str) -> Framing {
    for line in head.lines().skip(1) {
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                return Framing::Length(value.trim().parse().unwrap_or(0));
            }
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Framing::Chunked;
            }
        }
    }
    Framing::Length(0)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
