//! The app's files.
//!
//! ```no_run
//! use std::io::Write;
//! use cloudlet::storage;
//!
//! # fn main() -> cloudlet::Result<()> {
//! let photo = std::fs::read("never in a guest").unwrap_or_default();
//! let stored = storage::put("photos/1.jpg", &photo).content_type("image/jpeg").run()?;
//! assert_eq!(stored.size, photo.len() as u64);
//!
//! let mut upload = storage::put_stream("photos/2.jpg").owner("some-uid").start()?;
//! upload.write_all(&photo)?;
//! upload.finish()?;
//!
//! let first_kib = storage::open_range("photos/2.jpg", 0, Some(1024))?;
//! let copied = std::io::copy(&mut { first_kib }, &mut std::io::sink())?;
//! # let _ = copied;
//! for object in storage::list("photos/") {
//!     log::info!("{}", object?.path);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A path is relative, UTF-8, at most 1024 bytes, without empty, `.` or `..` segments. The function needs a prefix of
//! it in its grants: `grants = { storage = ["photos/"] }`. It acts as its app: rules bind clients, so record the
//! [owner](Put::owner) of what a client is to read back.

use std::fmt;
use std::io::{self, Read, Write};

use crate::bindings::imports::cloudlet::storage::objects as wit;
use crate::stream::{Reader, Writer};

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The path is not granted to this function.
    Denied(String),
    /// The path or an option is malformed.
    Invalid(String),
    /// No object at the path.
    NotFound,
    /// The object, or a result, would be larger than allowed.
    Limit(String),
    /// Too much is going on; try again later.
    Busy(String),
    /// The invocation's time is over.
    Deadline,
    /// The node or its backend failed.
    Internal(String),
    /// The stream of an upload broke.
    Stream(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied(text)
            | Error::Invalid(text)
            | Error::Limit(text)
            | Error::Busy(text)
            | Error::Internal(text)
            | Error::Stream(text) => f.write_str(text),
            Error::NotFound => f.write_str("no such object"),
            Error::Deadline => f.write_str("the time allowed is over"),
        }
    }
}

impl std::error::Error for Error {}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::Denied(text) => Error::Denied(text),
            wit::Error::Invalid(text) => Error::Invalid(text),
            wit::Error::NotFound => Error::NotFound,
            wit::Error::Limit(text) => Error::Limit(text),
            wit::Error::Busy(text) => Error::Busy(text),
            wit::Error::Deadline => Error::Deadline,
            wit::Error::Internal(text) => Error::Internal(text),
        }
    }
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Denied(_) => crate::Error::Denied(text),
            Error::Invalid(_) => crate::Error::Invalid(text),
            Error::NotFound => crate::Error::NotFound(text),
            Error::Limit(_) => crate::Error::TooLarge(text),
            Error::Busy(_) => crate::Error::Busy(text),
            Error::Deadline => crate::Error::Deadline,
            Error::Internal(_) | Error::Stream(_) => crate::Error::Failed(text),
        }
    }
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its path.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Strong entity tag with its quotes.
    pub etag: String,
    /// Media type.
    pub content_type: String,
    /// Owner id of the user who stored it; none for functions and admins.
    pub owner: Option<String>,
    /// When it was stored, milliseconds since 1970-01-01T00:00:00Z.
    pub modified_ms: i64,
}

impl From<wit::ObjectInfo> for ObjectInfo {
    fn from(info: wit::ObjectInfo) -> Self {
        let wit::ObjectInfo {
            path,
            size,
            etag,
            content_type,
            owner,
            modified_ms,
        } = info;
        Self {
            path,
            size,
            etag,
            content_type,
            owner,
            modified_ms,
        }
    }
}

/// Stores a whole object from memory, replacing an older one.
pub fn put<'a>(path: &'a str, content: &'a [u8]) -> Put<'a> {
    Put {
        path,
        content,
        options: no_options(),
    }
}

fn no_options() -> wit::PutOptions {
    wit::PutOptions {
        content_type: String::new(),
        owner: None,
    }
}

/// See [`put`].
#[must_use = "nothing is stored before `run`"]
#[derive(Debug)]
pub struct Put<'a> {
    path: &'a str,
    content: &'a [u8],
    options: wit::PutOptions,
}

impl Put<'_> {
    /// The media type; guessed from the path otherwise.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = content_type.into();
        self
    }

    /// The user whom the object belongs to, by [owner id](crate::auth::User::owner_id), so that the app's rules let
    /// that user read it.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.options.owner = Some(owner.into());
        self
    }

    /// Stores it. Durable and visible when it returns.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotFound`].
    pub fn run(self) -> Result<ObjectInfo, Error> {
        Ok(wit::put(self.path, self.content, &self.options)?.into())
    }
}

/// Stores an object that is written piece by piece, replacing an older one when it is finished.
pub fn put_stream(path: &str) -> PutStream<'_> {
    PutStream {
        path,
        options: no_options(),
    }
}

/// See [`put_stream`].
#[must_use = "nothing is stored before `start`"]
#[derive(Debug)]
pub struct PutStream<'a> {
    path: &'a str,
    options: wit::PutOptions,
}

impl PutStream<'_> {
    /// The media type; guessed from the path otherwise.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.options.content_type = content_type.into();
        self
    }

    /// The user whom the object belongs to, as [`Put::owner`].
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.options.owner = Some(owner.into());
        self
    }

    /// Begins the upload.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotFound`].
    pub fn start(self) -> Result<Upload, Error> {
        let upload = wit::start_upload(self.path, &self.options)?;
        let body = Writer::new(upload.body()?);
        Ok(Upload { body, upload })
    }
}

/// An upload in progress, to be written to. Nothing is visible before [`finish`](Self::finish); dropping it discards
/// what was written.
#[derive(Debug)]
pub struct Upload {
    /// Before `upload`, whose child it is: fields drop in this order.
    body: Writer,
    upload: wit::Upload,
}

impl Upload {
    /// Makes the object visible, in one step. Durable when it returns.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotFound`].
    pub fn finish(self) -> Result<ObjectInfo, Error> {
        let Upload { mut body, upload } = self;
        body.flush().map_err(|error| Error::Stream(error.to_string()))?;
        drop(body);
        Ok(wit::Upload::finish(upload)?.into())
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.body.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.body.flush()
    }
}

/// A whole object in memory.
///
/// # Errors
/// [`Error::Limit`] when it is larger than 16 MiB: use [`open`] then.
pub fn get(path: &str) -> Result<Vec<u8>, Error> {
    Ok(wit::get(path)?)
}

/// Streams an object.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn open(path: &str) -> Result<Object, Error> {
    open_range(path, 0, None)
}

/// Streams `length` bytes of an object (all that follow, when none) from `offset`.
///
/// # Errors
/// As [`open`].
pub fn open_range(path: &str, offset: u64, length: Option<u64>) -> Result<Object, Error> {
    Ok(Object(Reader::new(wit::open(path, offset, length)?)))
}

/// The content of an object as it is read. Also a body: `Body::from_reader(storage::open(path)?)`.
#[derive(Debug)]
pub struct Object(Reader);

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// What is known of an object.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn head(path: &str) -> Result<ObjectInfo, Error> {
    Ok(wit::head(path)?.into())
}

/// Removes an object; whether there was one.
///
/// # Errors
/// Any [`Error`] but [`Error::NotFound`].
pub fn delete(path: &str) -> Result<bool, Error> {
    Ok(wit::delete(path)?)
}

/// The file id of a path, `cloud://APP.BUCKET/PATH`, as client SDKs know it.
pub fn file_id(path: &str) -> String {
    wit::file_id(path)
}

/// Objects whose path begins with `prefix`, in path order, fetched 1000 at a time. After an error there are no more.
pub fn list(prefix: impl Into<String>) -> List {
    List {
        prefix: prefix.into(),
        after: None,
        page: Vec::new().into_iter(),
        done: false,
    }
}

/// See [`list`].
#[derive(Debug)]
pub struct List {
    prefix: String,
    after: Option<String>,
    page: std::vec::IntoIter<wit::ObjectInfo>,
    done: bool,
}

impl List {
    /// Objects asked of the node at once.
    const PAGE_OBJECTS: u32 = 1000;

    /// Only objects after this path.
    #[must_use]
    pub fn after(mut self, path: impl Into<String>) -> Self {
        self.after = Some(path.into());
        self
    }
}

impl Iterator for List {
    type Item = Result<ObjectInfo, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(info) = self.page.next() {
                return Some(Ok(info.into()));
            }
            if self.done {
                return None;
            }
            match wit::list(&self.prefix, self.after.as_deref(), Self::PAGE_OBJECTS) {
                Ok(page) => {
                    self.done = page.len() < Self::PAGE_OBJECTS as usize;
                    self.after = page.last().map(|info| info.path.clone());
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error.into()));
                }
            }
        }
    }
}
