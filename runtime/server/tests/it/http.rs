//! A small blocking HTTP/1.1 client: one connection, used again as long as the server keeps it; with raw reading and
//! writing for the tests that break rules.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for anything; only a hanging test sees it. Compiling an interpreter takes minutes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// Any stream.
pub(crate) trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    host: String,
    pending: Vec<u8>,
}

/// A response, read whole.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Response {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `code` of an error in the general form.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    /// A TCP connection.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, &address.to_string())
    }

    /// A connection over any stream.
    pub(crate) fn over(stream: impl Stream + 'static, host: &str) -> Self {
        Self {
            stream: Box::new(stream),
            host: host.to_owned(),
            pending: Vec::new(),
        }
    }

    /// Says another host from now on.
    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// A GET.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    /// A request with a body of known length, and its response.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut head = self.head(method, path, headers);
        if !body.is_empty() || !matches!(method, "GET" | "HEAD") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        match self.stream.write_all(&bytes) {
            // The answer may come, and the connection end, before all was sent; the answer can be read all the same.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            written => written.unwrap(),
        }
        self.response(method == "HEAD")
    }

    /// The head of a request without its last empty line.
    pub(crate) fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Writes bytes as one chunk; an empty one ends the body.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk);
    }

    /// Reads more; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).unwrap();
            }
            assert!(
                self.fill().unwrap(),
                "the connection ended within a head: {:?}",
                self.pending
            );
        }
    }

    fn exactly(&mut self, size: usize) -> Vec<u8> {
        while self.pending.len() < size {
            assert!(
                self.fill().unwrap(),
                "the connection ended {} bytes early",
                size - self.pending.len()
            );
        }
        self.pending.drain(..size).collect()
    }

    /// Reads a response's head.
    pub(crate) fn response_head(&mut self) -> Response {
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Response {
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    pub(crate) fn response_chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(self.line().trim(), 16).unwrap();
        let data = self.exactly(size);
        assert_eq!(self.line(), "");
        (size > 0).then_some(data)
    }

    /// Reads a whole response.
    pub(crate) fn response(&mut self, to_head: bool) -> Response {
        let mut response = self.response_head();
        if to_head || response.status == 304 || response.status == 204 {
            return response;
        }
        if let Some(size) = response.header("content-length") {
            let size = size.parse().unwrap();
            response.body = self.exactly(size);
        } else if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.response_chunk() {
                response.body.extend_from_slice(&chunk);
            }
        } else {
            self.rest(&mut response.body);
        }
        response
    }

    /// What a server of HTTP/2 answers on a stream first: `headers`, `reset`, or about the connection `goaway`, `closed`.
    pub(crate) fn http2_answer(mut self, stream: u32) -> String {
        loop {
            while self.pending.len() < 9 {
                match self.fill() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return "closed".to_owned(),
                }
            }
            let head = self.exactly(9);
            let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.exactly(size);
            match head[3] {
                1 if of == stream => return "headers".to_owned(),
                3 if of == stream => return "reset".to_owned(),
                7 => return "goaway".to_owned(),
                _ => {}
            }
        }
    }

    /// Everything until the server closes the connection.
    pub(crate) fn rest(&mut self, into: &mut Vec<u8>) {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("waiting for the end of the connection: {error}"),
            }
        }
        into.append(&mut self.pending);
    }

    /// Waits until the server closes the connection; the bytes that came before.
    pub(crate) fn closed(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.rest(&mut bytes);
        bytes
    }
}
