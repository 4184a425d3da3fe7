//! Sorting within a bound of memory: sorted runs go to disk and are merged.
//!
//! Memory is filled, sorted, and written as a run; at the end the runs are read side by side. When there are more of
//! them than can be read at once, as many as can be become one run of the next level, in a file of its own, so each row
//! is written once a level and the files of the level below are gone. A run is rows, one after the other: the length of
//! the key (4 bytes, little endian), that of the document, the key, the document.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bson::RawDocumentBuf;

use super::spool::document;
use super::{HEAD_BYTES, READ_BYTES, Reader, SpillFile, length, length_of};
use crate::expression::Runtime;
use crate::{Code, Error, Result};

/// How many more rows than are wanted pile up before the rest is thrown away.
const SLACK: usize = 1024;
/// Most runs that are read at once: each has a buffer.
const WIDTH_MAX: usize = 128;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// Rows between two looks at the clock.
const ROWS_PER_CHECK: usize = 1024;

/// What a sort may hold, and how it is called where it is told that that is too little.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) bytes_max: usize,
    /// The name of `bytes_max`.
    pub(crate) limit: &'static str,
    /// What holds it.
    pub(crate) holder: &'static str,
}

impl Bounds {
    /// That memory does not take it, and that the disk is not there for it.
    pub(crate) fn exceeded(&self, bytes: usize) -> Error {
        let Bounds {
            bytes_max,
            limit,
            holder,
        } = self;
        let message = format!(
            "{holder} exceeded memory limit: it took {bytes} bytes, and {limit} is {bytes_max}; it is not allowed to spill to disk (allowDiskUse: true, where the server has a place for it); an index on its fields, a smaller limit, or an earlier $match or $project would help too"
        );
        Error::new(Code::QueryExceededMemoryLimitNoDiskUseAllowed, message)
    }
}

/// A row: what it is sorted by, and what it is.
pub(crate) type Row = (Vec<u8>, RawDocumentBuf);

/// Rows to be sorted. Those of equal keys stay in the order in which they came.
#[derive(Debug)]
pub(crate) struct Sorter {
    bounds: Bounds,
    /// How many of the first are wanted.
    wanted: Option<usize>,
    rows: Vec<Row>,
    bytes: usize,
    /// Rows that came.
    count: usize,
    longest_key: usize,
    /// Runs, the oldest in the highest level.
    levels: Vec<Level>,
    used_disk: bool,
}

impl Sorter {
    pub(crate) fn new(bounds: Bounds, wanted: Option<usize>) -> Self {
        Self {
            bounds,
            wanted,
            rows: Vec::new(),
            bytes: 0,
            count: 0,
            longest_key: 0,
            levels: Vec::new(),
            used_disk: false,
        }
    }

    /// Rows that came.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether there was more than memory takes.
    pub(crate) fn used_disk(&self) -> bool {
        self.used_disk
    }

    /// # Errors
    /// When memory is full and the command may not use the disk, and those of the disk.
    pub(crate) fn push(&mut self, key: Vec<u8>, document: RawDocumentBuf, runtime: &Runtime) -> Result<()> {
        self.count += 1;
        self.bytes += size(&key, &document);
        self.rows.push((key, document));
        let max = self.bounds.bytes_max;
        // With a limit only the first ones are kept: looked for when many have piled up, in number or in bytes.
        if let Some(wanted) = self.wanted
            && (self.rows.len() > wanted.saturating_mul(2).saturating_add(SLACK)
                || (self.bytes > max && self.rows.len() > wanted))
        {
            order(&mut self.rows);
            self.rows.truncate(wanted);
            self.bytes = self.rows.iter().map(|(key, document)| size(key, document)).sum();
        }
        if self.bytes > max {
            self.spill(runtime)
        } else {
            Ok(())
        }
    }

    /// The rows in order; the sorter is empty afterwards.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn finish(&mut self, runtime: &Runtime) -> Result<Sorted> {
        let wanted = self.wanted.unwrap_or(usize::MAX);
        if self.levels.is_empty() {
            let mut rows = std::mem::take(&mut self.rows);
            self.bytes = 0;
            order(&mut rows);
            rows.truncate(wanted);
            return Ok(Sorted {
                next: None,
                rows: Rows::Memory(rows.into_iter()),
                left: wanted,
            });
        }
        if !self.rows.is_empty() {
            self.spill(runtime)?;
        }
        let levels = std::mem::take(&mut self.levels);
        Ok(Sorted {
            next: None,
            rows: Rows::Merge(Box::new(Merge::new(levels.into_iter().rev().collect())?)),
            left: wanted,
        })
    }

    /// Writes what memory holds as a run.
    fn spill(&mut self, runtime: &Runtime) -> Result<()> {
        let Some(disk) = runtime.disk() else {
            return Err(self.bounds.exceeded(self.bytes));
        };
        self.used_disk = true;
        order(&mut self.rows);
        if self.levels.is_empty() {
            self.levels.push(Level::new(disk.file()?));
        }
        let mut writer = Writer::new(&mut self.levels[0]);
        for (row, (key, document)) in self.rows.drain(..).enumerate() {
            if row.is_multiple_of(ROWS_PER_CHECK) {
                runtime.check()?;
            }
            self.longest_key = self.longest_key.max(key.len());
            writer.write(&key, document.as_bytes())?;
        }
        writer.end()?;
        self.bytes = 0;
        // No more runs of a level than memory takes the buffers and keys of.
        let width = self.bounds.bytes_max / (READ_BYTES + self.longest_key);
        let width = width.clamp(2, WIDTH_MAX);
        let mut level = 0;
        while self.levels[level].ends.len() >= width {
            if level + 1 == self.levels.len() {
                self.levels.push(Level::new(disk.file()?));
            }
            let merged = std::mem::replace(&mut self.levels[level], Level::new(disk.file()?));
            let mut merge = Merge::new(vec![merged])?;
            let mut writer = Writer::new(&mut self.levels[level + 1]);
            let mut rows = 0_usize;
            let wanted = self.wanted.unwrap_or(usize::MAX);
            while rows < wanted
                && let Some((key, document)) = merge.next()?
            {
                if rows.is_multiple_of(ROWS_PER_CHECK) {
                    runtime.check()?;
                }
                rows += 1;
                writer.write(&key, document.as_bytes())?;
            }
            writer.end()?;
            level += 1;
        }
        Ok(())
    }
}

/// Rows of equal keys stay in the order in which they came.
fn order(rows: &mut [Row]) {
    rows.sort_by(|a, b| a.0.cmp(&b.0));
}

fn size(key: &[u8], document: &RawDocumentBuf) -> usize {
    key.len() + document.as_bytes().len()
}

/// Rows in order.
#[derive(Debug)]
pub(crate) struct Sorted {
    next: Option<Row>,
    rows: Rows,
    left: usize,
}

#[derive(Debug)]
enum Rows {
    Memory(std::vec::IntoIter<Row>),
    Merge(Box<Merge>),
}

impl Sorted {
    /// The next row, taken out.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        if self.next.is_some() {
            return Ok(self.next.take());
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match &mut self.rows {
            Rows::Memory(rows) => Ok(rows.next()),
            Rows::Merge(merge) => merge.next(),
        }
    }

    /// Passes over rows.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn skip(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            if self.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Puts back the row that was taken out last.
    pub(crate) fn put_back(&mut self, row: Row) {
        self.next = Some(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        let end = match &self.rows {
            Rows::Memory(rows) => rows.as_slice().is_empty(),
            Rows::Merge(merge) => merge.heads.is_empty(),
        };
        self.next.is_none() && (self.left == 0 || end)
    }

    /// Whether no file has to be read for the rest.
    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.rows, Rows::Memory(_))
    }
}

/// A file of runs.
#[derive(Debug)]
struct Level {
    file: SpillFile,
    /// Where each run ends, and the next begins.
    ends: Vec<u64>,
}

impl Level {
    fn new(file: SpillFile) -> Self {
        Self {
            file,
            ends: Vec::new(),
        }
    }
}

/// Writes a run.
struct Writer<'l> {
    level: &'l mut Level,
    buffer: Vec<u8>,
}

impl<'l> Writer<'l> {
    fn new(level: &'l mut Level) -> Self {
        Self {
            level,
            buffer: Vec::new(),
        }
    }

    fn write(&mut self, key: &[u8], document: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(&length(key.len())?);
        self.buffer.extend_from_slice(&length(document.len())?);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(document);
        if self.buffer.len() >= WRITE_BYTES {
            self.level.file.append(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.level.file.append(&self.buffer)?;
        self.level.ends.push(self.level.file.bytes);
        Ok(())
    }
}

/// Runs read side by side.
#[derive(Debug)]
struct Merge {
    levels: Vec<Level>,
    /// In the order in which they were written.
    runs: Vec<Run>,
    /// The first key of each run that has rows left.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

#[derive(Debug)]
struct Run {
    level: usize,
    reader: Reader,
    /// Where the row after the head begins.
    next: u64,
    /// Where the head's document is.
    document: (u64, usize),
}

impl Merge {
    /// Of levels from the highest to the lowest.
    fn new(levels: Vec<Level>) -> Result<Merge> {
        let mut merge = Merge {
            runs: Vec::new(),
            heads: BinaryHeap::new(),
            levels,
        };
        for (number, level) in merge.levels.iter().enumerate() {
            let mut begin = 0;
            for &end in &level.ends {
                merge.runs.push(Run {
                    level: number,
                    reader: Reader::new(end),
                    next: begin,
                    document: (begin, 0),
                });
                begin = end;
            }
        }
        for run in 0..merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    /// Makes the run's next row its head. Its document stays on disk.
    fn advance(&mut self, number: usize) -> Result<()> {
        let run = &mut self.runs[number];
        if run.next >= run.reader.end {
            run.reader.buffer = Vec::new();
            return Ok(());
        }
        let file = &self.levels[run.level].file;
        let head = run.reader.get(file, run.next, HEAD_BYTES)?;
        let (key_bytes, document_bytes) = (length_of(head), length_of(&head[4..]));
        let at = run.next + HEAD_BYTES as u64;
        let key = run.reader.get(file, at, key_bytes)?.to_vec();
        let at = at + key_bytes as u64;
        run.document = (at, document_bytes);
        run.next = at + document_bytes as u64;
        self.heads.push(Reverse((key, number)));
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Row>> {
        let Some(Reverse((key, number))) = self.heads.pop() else {
            return Ok(None);
        };
        let run = &mut self.runs[number];
        let (at, len) = run.document;
        let document = document(run.reader.get(&self.levels[run.level].file, at, len)?)?;
        self.advance(number)?;
        Ok(Some((key, document)))
    }
}
