//! A queue of documents with its end on disk: the rest of a result.

use std::collections::VecDeque;

use bson::RawDocumentBuf;

use super::{Reader, SpillFile, length, length_of};
use crate::expression::Runtime;
use crate::pipeline::check_held;
use crate::{Code, Error, Result};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// What a document takes before its bytes.
const LENGTH_BYTES: usize = 4;

/// Documents, first in, first out. Memory takes up to a bound of them, the rest goes to disk.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    memory: VecDeque<RawDocumentBuf>,
    bytes: usize,
    disk: Option<OnDisk>,
}

#[derive(Debug)]
struct OnDisk {
    file: SpillFile,
    /// Not yet written.
    tail: Vec<u8>,
    reader: Reader,
    read: u64,
}

impl Spool {
    /// Documents that memory holds, and whether there are more.
    pub(crate) fn in_memory(&self) -> (usize, bool) {
        (self.memory.len(), self.disk.is_some())
    }

    /// Bytes of the documents that memory holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// # Errors
    /// When memory is full and the command may not use the disk, and those of the disk.
    pub(crate) fn push(
        &mut self,
        document: RawDocumentBuf,
        runtime: &Runtime,
        bytes_max: usize,
    ) -> Result<()> {
        let bytes = document.as_bytes().len();
        if self.disk.is_none() {
            if self.bytes + bytes <= bytes_max {
                self.bytes += bytes;
                self.memory.push_back(document);
                return Ok(());
            }
            let Some(disk) = runtime.disk() else {
                return check_held(self.bytes + bytes, "the rest of the result", bytes_max);
            };
            self.disk = Some(OnDisk {
                file: disk.file()?,
                tail: Vec::new(),
                reader: Reader::new(0),
                read: 0,
            });
        }
        let Some(disk) = &mut self.disk else {
            return Err(Error::new(Code::InternalError, "there is no spool"));
        };
        disk.tail.extend_from_slice(&length(bytes)?);
        disk.tail.extend_from_slice(document.as_bytes());
        if disk.tail.len() >= WRITE_BYTES {
            disk.flush()?;
        }
        Ok(())
    }

    /// The first document, taken out.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn pop(&mut self) -> Result<Option<RawDocumentBuf>> {
        if let Some(document) = self.memory.pop_front() {
            self.bytes -= document.as_bytes().len();
            return Ok(Some(document));
        }
        let Some(disk) = &mut self.disk else {
            return Ok(None);
        };
        let document = disk.next()?;
        if disk.tail.is_empty() && disk.read == disk.file.bytes {
            self.disk = None;
        }
        Ok(document)
    }

    /// Puts back what was taken out.
    pub(crate) fn put_back(&mut self, document: RawDocumentBuf) {
        self.bytes += document.as_bytes().len();
        self.memory.push_front(document);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.disk.is_none()
    }
}

impl OnDisk {
    fn flush(&mut self) -> Result<()> {
        self.file.append(&self.tail)?;
        self.tail.clear();
        self.reader.end = self.file.bytes;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<RawDocumentBuf>> {
        if !self.tail.is_empty() {
            self.flush()?;
        }
        if self.read == self.file.bytes {
            return Ok(None);
        }
        let len = length_of(self.reader.get(&self.file, self.read, LENGTH_BYTES)?);
        let from = self.read + LENGTH_BYTES as u64;
        let document = document(self.reader.get(&self.file, from, len)?)?;
        self.read = from + len as u64;
        Ok(Some(document))
    }
}

/// A document that was spilled.
///
/// # Errors
/// `InternalError` when the disk gave back something else.
pub(super) fn document(bytes: &[u8]) -> Result<RawDocumentBuf> {
    RawDocumentBuf::from_bytes(bytes.to_vec()).map_err(|error| {
        Error::new(
            Code::InternalError,
            format!("a spilled document is damaged: {error}"),
        )
    })
}
