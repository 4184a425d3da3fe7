//! The part of WASI that has something behind it: stdout and stderr go to the logs. No arguments, no environment,
//! no files, no sockets, no names; clocks and random numbers are the system's.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, async_trait};

use crate::logs::LogStream;
use crate::run::Run;

/// Random bytes that one call may ask for.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Bytes of output taken in one go.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The context of one invocation.
pub(crate) fn context(run: &Arc<Run>) -> WasiCtx {
    let output = |stream| Output {
        run: Arc::clone(run),
        stream,
    };
    WasiCtx::builder()
        .stdout(output(LogStream::Stdout))
        .stderr(output(LogStream::Stderr))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .build()
}

/// A guest's standard output or standard error.
#[derive(Clone)]
struct Output {
    run: Arc<Run>,
    stream: LogStream,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this, which is not offered.
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.run.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}
