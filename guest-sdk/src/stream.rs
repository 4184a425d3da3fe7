//! `wasi:io` streams as [`std::io::Read`] and [`std::io::Write`]. They block the instance, which has nothing else
//! to do; the node goes on with others.

use std::io::{self, Read, Write};

use crate::bindings::imports::wasi::io::streams::{InputStream, OutputStream, StreamError};

/// Most bytes asked of the host at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// An input stream.
#[derive(Debug)]
pub(crate) struct Reader(InputStream);

impl Reader {
    pub(crate) fn new(stream: InputStream) -> Self {
        Self(stream)
    }

    /// The next bytes as the host hands them over, at most `bytes_max`; empty at the end.
    pub(crate) fn chunk(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        loop {
            match self.0.blocking_read(bytes_max.min(READ_BYTES_MAX) as u64) {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(chunk),
                Err(StreamError::Closed) => return Ok(Vec::new()),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(io::Error::other(error.to_debug_string()));
                }
            }
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let chunk = self.chunk(buffer.len())?;
        buffer[..chunk.len()].copy_from_slice(&chunk);
        Ok(chunk.len())
    }
}

/// An output stream.
#[derive(Debug)]
pub(crate) struct Writer(OutputStream);

impl Writer {
    pub(crate) fn new(stream: OutputStream) -> Self {
        Self(stream)
    }

    /// Writes everything if the stream takes it at once; otherwise nothing, and says so.
    pub(crate) fn write_if_ready(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if (self.0.check_write().map_err(failure)? as usize) < bytes.len() {
            return Ok(false);
        }
        self.0.write(bytes).map_err(failure)?;
        Ok(true)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let permit = self.0.check_write().map_err(failure)? as usize;
            if permit > 0 {
                let taken = bytes.len().min(permit);
                self.0.write(&bytes[..taken]).map_err(failure)?;
                return Ok(taken);
            }
            self.0.subscribe().block();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.blocking_flush().map_err(failure)
    }
}

fn failure(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::Error::new(io::ErrorKind::BrokenPipe, "the other side closed the stream"),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}
