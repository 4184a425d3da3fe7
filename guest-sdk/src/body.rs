//! Bodies of requests and responses, in memory or streaming, incoming or outgoing: one type.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};

use serde::de::DeserializeOwned;

use crate::bindings::imports::wasi::http::types as wasi;
use crate::stream::Reader;
use crate::{Error, Json};

/// The body of a request or a response.
///
/// An incoming body is not fetched before it is read, through [`Read`] or the methods. An outgoing body is made of
/// bytes, or of anything that implements [`Read`] and is then streamed:
///
/// ```
/// use cloudlet::Body;
///
/// let small = Body::from("hello");
/// let streamed = Body::from_reader(std::io::repeat(b'x'));
/// # assert_eq!(small.text().unwrap(), "hello");
/// # drop(streamed);
/// ```
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Bytes {
        bytes: Cow<'static, [u8]>,
        read: usize,
    },
    Reader(Box<dyn Read>),
    Incoming(Box<Incoming>),
}

impl Body {
    /// Largest body that [`bytes`](Self::bytes), [`text`](Self::text) and [`json`](Self::json) read: 16 MiB.
    pub const BYTES_MAX: usize = 16 << 20;

    /// No bytes.
    pub const fn empty() -> Self {
        Body(Kind::Empty)
    }

    /// A body that is streamed as it is read. An error of the reader aborts the message, so that the other side
    /// never takes a part for the whole.
    pub fn from_reader(reader: impl Read + 'static) -> Self {
        Body(Kind::Reader(Box::new(reader)))
    }

    pub(crate) fn incoming(message: Message) -> Self {
        Body(Kind::Incoming(Box::new(Incoming {
            state: State::Unopened(message),
        })))
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] over [`BYTES_MAX`](Self::BYTES_MAX); [`Error::Failed`] when the other side went away.
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        self.bytes_limited(Self::BYTES_MAX)
    }

    /// The whole body, when it has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), with the limit given.
    pub fn bytes_limited(self, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let too_large = || Error::TooLarge(format!("the body is larger than the limit of {bytes_max} bytes"));
        let bytes = match self.0 {
            Kind::Empty => Vec::new(),
            Kind::Bytes { bytes, read: 0 } => bytes.into_owned(),
            Kind::Bytes { bytes, read } => bytes[read..].to_vec(),
            Kind::Reader(reader) => {
                let mut bytes = Vec::new();
                reader.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
                bytes
            }
            Kind::Incoming(mut incoming) => {
                let mut bytes = Vec::new();
                loop {
                    let chunk = incoming.reader()?.chunk(usize::MAX)?;
                    if chunk.is_empty() {
                        break;
                    }
                    if bytes.len() + chunk.len() > bytes_max {
                        return Err(too_large());
                    }
                    if bytes.is_empty() {
                        bytes = chunk;
                    } else {
                        bytes.extend_from_slice(&chunk);
                    }
                }
                bytes
            }
        };
        if bytes.len() > bytes_max {
            Err(too_large())
        } else {
            Ok(bytes)
        }
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`Error::Invalid`] when it is not UTF-8.
    pub fn text(self) -> Result<String, Error> {
        String::from_utf8(self.bytes()?).map_err(|_| Error::invalid("the body is not UTF-8"))
    }

    /// The whole body, parsed as JSON.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`Error::Invalid`] when it does not parse.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes()?).map_err(|error| Error::invalid(format!("the body: {error}")))
    }

    /// The content, when it is all in memory.
    pub(crate) fn in_memory(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Empty => Some(&[]),
            Kind::Bytes { bytes, read } => Some(&bytes[*read..]),
            Kind::Reader(_) | Kind::Incoming(_) => None,
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Empty => Ok(0),
            Kind::Bytes { bytes, read } => {
                let taken = (&bytes[*read..]).read(buffer)?;
                *read += taken;
                Ok(taken)
            }
            Kind::Reader(reader) => reader.read(buffer),
            Kind::Incoming(incoming) => incoming.reader()?.read(buffer),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.in_memory() {
            Some(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl From<Cow<'static, [u8]>> for Body {
    fn from(bytes: Cow<'static, [u8]>) -> Self {
        Body(Kind::Bytes { bytes, read: 0 })
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Cow::<[u8]>::Owned(bytes).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Cow::Borrowed(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        text.as_bytes().into()
    }
}

impl From<()> for Body {
    fn from((): ()) -> Self {
        Body::empty()
    }
}

/// The message that an incoming body belongs to.
#[derive(Debug)]
pub(crate) enum Message {
    Request(wasi::IncomingRequest),
    Response(wasi::IncomingResponse),
}

/// A body on its way in. Nothing is asked of the host before the first read.
struct Incoming {
    state: State,
}

enum State {
    Unopened(Message),
    /// The stream goes before its body, and the body before its message: fields drop in this order.
    Open {
        reader: Reader,
        _body: wasi::IncomingBody,
        _message: Message,
    },
    Broken,
}

impl Incoming {
    fn reader(&mut self) -> io::Result<&mut Reader> {
        if matches!(self.state, State::Unopened(_)) {
            self.state = match std::mem::replace(&mut self.state, State::Broken) {
                State::Unopened(message) => open(message)?,
                other => other,
            };
        }
        match &mut self.state {
            State::Open { reader, .. } => Ok(reader),
            _ => Err(io::Error::other("the body failed earlier")),
        }
    }
}

/// Asks the host for the body of a message.
fn open(message: Message) -> io::Result<State> {
    let body = match &message {
        Message::Request(request) => request.consume(),
        Message::Response(response) => response.consume(),
    };
    let taken = |()| io::Error::other("the body was taken already");
    let body = body.map_err(taken)?;
    let reader = Reader::new(body.stream().map_err(taken)?);
    Ok(State::Open {
        reader,
        _body: body,
        _message: message,
    })
}

/// What a handler may ask a request's body to be: the `B` of its `http::Request<B>`.
pub trait FromBody: Sized {
    /// Reads the body.
    ///
    /// # Errors
    /// What [`Body`]'s methods say; the caller is answered with it and the handler does not run.
    fn from_body(body: Body) -> Result<Self, Error>;
}

impl FromBody for Body {
    fn from_body(body: Body) -> Result<Self, Error> {
        Ok(body)
    }
}

impl FromBody for Vec<u8> {
    fn from_body(body: Body) -> Result<Self, Error> {
        body.bytes()
    }
}

impl FromBody for String {
    fn from_body(body: Body) -> Result<Self, Error> {
        body.text()
    }
}

impl FromBody for () {
    fn from_body(_: Body) -> Result<Self, Error> {
        Ok(())
    }
}

impl<T: DeserializeOwned> FromBody for Json<T> {
    fn from_body(body: Body) -> Result<Self, Error> {
        body.json().map(Json)
    }
}
