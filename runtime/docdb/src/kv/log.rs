//! The log beside the database file: what each commit changed, one record a commit, appended with one write and one
//! fsync. It has one length from its making to its end, so that an fsync has no metadata to write. It is written in two
//! halves by turns: while a checkpoint of `store.rs`, which alone calls this, brings one half's commits into the table,
//! records go into the other. Bytes are in `runtime/docs/docdb-format.md`.

use std::fmt;
use std::ops::Range;

use ::redb::StorageBackend as _;

use super::failure::{Failure, damaged};
use super::file::Counted;
use super::overlay::Changes;
use crate::{Code, Error, Result};

/// Where records begin.
const RECORDS_AT: u64 = 4096;
/// The first bytes of a log.
const MAGIC: [u8; 16] = *b"cloudlet log\0\0\0\0";
/// The version of the format that is written, and the newest that is read. In version 1 a log was one part.
const VERSION: u32 = 2;
/// What the place between the halves is a multiple of: a whole sector is of one half.
const HALF_ALIGNMENT: u64 = 4096;
/// Bytes of the header that are used: magic, version, four zeroes, id, checksum.
const HEADER_BYTES: usize = 48;
/// Bytes of a record before its rows: sequence, length, mark, checksum.
const RECORD_HEADER_BYTES: usize = 24;
/// Bytes of a row before its key: lengths of key and value.
const ROW_HEADER_BYTES: usize = 8;
/// A value's length when there is none: the key is removed.
const REMOVED: u32 = u32::MAX;
/// What a record's length is a multiple of.
const ALIGNMENT: usize = 8;
/// The least length of a log: a header and some records.
const LOG_BYTES_MIN: u64 = 16 * 1024;

/// What tells the log of one database from that of another: random bytes.
pub(super) type LogId = [u8; 16];

/// An open log.
pub(super) struct Log {
    file: Counted,
    id: LogId,
    len: u64,
    /// The half that is written, 0 or 1.
    half: usize,
    /// Where the next record goes.
    at: u64,
    /// The sequence of the newest record, or of the newest that a checkpoint made superfluous.
    sequence: u64,
    /// The bytes of the record being written; kept for the next.
    buffer: Vec<u8>,
}

/// A commit that was found in the log.
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) changes: Changes,
}

/// A log as it was found.
pub(super) struct Contents {
    pub(super) id: LogId,
    version: u32,
    bytes: Vec<u8>,
}

/// Records that follow one another in one half of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// 0 or 1.
    half: usize,
    /// Where the last of them ends.
    end: usize,
    /// The sequence of the last of them.
    pub(super) sequence: u64,
}

/// Where a half of a log of `len` bytes begins and ends.
fn half_of(len: u64, half: usize) -> Range<u64> {
    let middle = RECORDS_AT + (len - RECORDS_AT) / 2 / HALF_ALIGNMENT * HALF_ALIGNMENT;
    match half {
        0 => RECORDS_AT..middle,
        _ => middle..len,
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("len", &self.len)
            .field("at", &self.at)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// The length of a log for which `bytes` are wanted.
    pub(super) fn len_of(bytes: u64) -> u64 {
        bytes.max(LOG_BYTES_MIN)
    }

    /// Makes the file a log of `len` bytes without records.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn make(file: Counted, id: LogId, len: u64, sequence: u64) -> Result<Self, Failure> {
        let len = Self::len_of(len);
        file.set_len(len)?;
        // Zeroes that are written, not left out: later writes then need no space and change no metadata. The header
        // comes last, so that a log with a header is a whole one.
        let zeroes = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            let most = usize::try_from(len - at).map_or(zeroes.len(), |rest| rest.min(zeroes.len()));
            file.write(at, &zeroes[..most])?;
            at += most as u64;
        }
        file.sync_data()?;
        Self::take(file, id, len, sequence)
    }

    /// Takes a file of `len` bytes as a log whose records, if it has any, a checkpoint has made superfluous. Its header is
    /// written also when it is there: what was read may be what the system could not get to the disk.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn take(file: Counted, id: LogId, len: u64, sequence: u64) -> Result<Self, Failure> {
        file.write(0, &header(id, VERSION))?;
        file.sync_data()?;
        Ok(Self::at_start(file, id, len, sequence))
    }

    fn at_start(file: Counted, id: LogId, len: u64, sequence: u64) -> Self {
        Self {
            file,
            id,
            len,
            half: 0,
            at: RECORDS_AT,
            sequence,
            buffer: Vec::new(),
        }
    }

    /// The log that had `contents`, to go on after the last of `runs`, the records newer than the last checkpoint; with
    /// none, at its beginning. What was read may have been on its way to the disk only, or may never get there, if an
    /// fsync had failed: it is written again, unless all of it is known to be `durable`.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn resume(
        file: Counted,
        contents: &Contents,
        runs: &[Run],
        sequence: u64,
        durable: bool,
    ) -> Result<Self, Failure> {
        let len = contents.bytes.len() as u64;
        for run in runs.iter().filter(|_| !durable) {
            let start = half_of(len, run.half).start;
            if let Some(records) = contents.bytes.get(start as usize..run.end) {
                file.write(start, records)?;
            }
        }
        if !durable && !runs.is_empty() {
            file.sync_data()?;
        }
        let mut log = Self::at_start(file, contents.id, len, sequence);
        if let Some(run) = runs.last() {
            (log.half, log.at) = (run.half, run.end as u64);
        }
        Ok(log)
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether a record of `bytes` can be appended to the half that is written.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.at.saturating_add(bytes) <= half_of(self.len, self.half).end
    }

    /// Bytes of the largest record that it takes.
    pub(super) fn record_bytes_max(&self) -> u64 {
        Self::record_bytes_max_of(self.len)
    }

    /// Bytes of the largest record that a log takes for which `bytes` are wanted: those of a half, so that a record
    /// never costs more than one checkpoint.
    pub(super) fn record_bytes_max_of(bytes: u64) -> u64 {
        let half = half_of(Self::len_of(bytes), 0);
        half.end - half.start
    }

    /// Appends what a commit changed. It is on disk when this returns; when it fails, it may be there or not, and the
    /// log must be opened again before it takes more.
    ///
    /// # Errors
    /// The file's.
    pub(super) fn append(&mut self, changes: &Changes) -> Result<u64, Failure> {
        let sequence = self.sequence + 1;
        self.buffer.clear();
        encode(&mut self.buffer, self.id, sequence, changes)?;
        self.file.write(self.at, &self.buffer)?;
        self.file.sync_data()?;
        self.at += self.buffer.len() as u64;
        self.sequence = sequence;
        Ok(sequence)
    }

    /// Starts the half over that is written: the table has all the records, durably.
    pub(super) fn start_over(&mut self) {
        self.at = half_of(self.len, self.half).start;
    }

    /// Goes on in the other half, whose records the table has, durably.
    pub(super) fn switch(&mut self) {
        self.half ^= 1;
        self.start_over();
    }
}

/// Bytes of the record of a commit that changed rows of `bytes` bytes, `rows` of them.
pub(super) fn record_bytes(rows: usize, bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + rows * ROW_HEADER_BYTES + bytes).next_multiple_of(ALIGNMENT) as u64
}

/// The header of a log.
pub(super) fn header(id: LogId, version: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&version.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&id);
    let checksum = checksum(0, &header);
    header.extend_from_slice(&checksum.to_le_bytes());
    header
}

fn encode(record: &mut Vec<u8>, id: LogId, sequence: u64, changes: &Changes) -> Result<(), Failure> {
    let length = |bytes: usize| {
        let too_long = || Failure::Body(Error::new(Code::BadValue, "a row is too long for the log"));
        u32::try_from(bytes)
            .ok()
            .filter(|len| *len != REMOVED)
            .ok_or_else(too_long)
    };
    record.extend_from_slice(&sequence.to_le_bytes());
    record.extend_from_slice(&[0; RECORD_HEADER_BYTES - 8]);
    for (key, value) in changes {
        record.extend_from_slice(&length(key.len())?.to_le_bytes());
        let value_len = match value {
            Some(value) => length(value.len())?,
            None => REMOVED,
        };
        record.extend_from_slice(&value_len.to_le_bytes());
        record.extend_from_slice(key);
        record.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let rows = length(record.len() - RECORD_HEADER_BYTES)?;
    record[8..12].copy_from_slice(&rows.to_le_bytes());
    let mark = mark(id, record);
    record[12..16].copy_from_slice(&mark);
    record.resize(record.len().next_multiple_of(ALIGNMENT), 0);
    let checksum = record_checksum(id, record);
    record[16..24].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

impl Contents {
    /// Reads a log; nothing when the file has none, as one whose making was cut off has not.
    ///
    /// # Errors
    /// When it is something else, of a newer version, or can't be read.
    pub(super) fn read(file: &Counted) -> Result<Option<Self>, Failure> {
        let len = usize::try_from(file.len()?).map_err(|_| refused("it is too long to be a log"))?;
        let mut header = [0; HEADER_BYTES];
        let known = len.min(HEADER_BYTES);
        file.read(0, &mut header[..known])?;
        if header == [0; HEADER_BYTES] {
            return Ok(None);
        }
        if header[..16] != MAGIC {
            return Err(refused("the file beside it is no log of cloudlet"));
        }
        let version = u32::from_le_bytes(array(&header, 16));
        if !(1..=VERSION).contains(&version) {
            return Err(refused(&format!(
                "its log is of version {version}, and this program knows versions up to {VERSION}"
            )));
        }
        if checksum(0, &header[..40]) != u64::from_le_bytes(array(&header, 40))
            || (len as u64) < LOG_BYTES_MIN
        {
            return Err(refused("the beginning of its log is damaged"));
        }
        let mut bytes = vec![0; len];
        file.read(0, &mut bytes)?;
        let id = array(&header, 24);
        Ok(Some(Self { id, version, bytes }))
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it is of an older version, which is read and not gone on with.
    pub(super) fn is_older(&self) -> bool {
        self.version < VERSION
    }

    /// Shows `take` the records that follow the one of sequence `after`, in order, with the number of the run that each
    /// is of; the runs are returned, at most one of each half. The last record that was begun may be there in part:
    /// nobody was told that it is durable. One that others follow was durable.
    ///
    /// # Errors
    /// When records are missing or damaged that were durable, or what `take` says.
    pub(super) fn replay(
        &self,
        after: u64,
        take: &mut dyn FnMut(usize, Record) -> Result<(), Failure>,
    ) -> Result<Vec<Run>, Failure> {
        let len = self.bytes.len() as u64;
        let halves: Vec<Range<u64>> = match self.version {
            1 => [(RECORDS_AT, len)].map(|(from, to)| from..to).into(),
            _ => [0, 1].map(|half| half_of(len, half)).into(),
        };
        let mut runs: Vec<Run> = Vec::new();
        let mut sequence = after;
        while runs.len() < halves.len() {
            let follows = |at: u64| {
                let record = self.record(at as usize);
                record.is_some_and(|(found, ..)| found == sequence + 1)
            };
            let next = halves.iter().enumerate().find(|(half, bounds)| {
                let unread = runs.iter().all(|run| run.half != *half);
                unread && follows(bounds.start)
            });
            let Some((half, bounds)) = next else { break };
            let mut at = bounds.start as usize;
            while (at as u64) < bounds.end
                && let Some((found, rows, next)) = self.record(at)
                && found == sequence + 1
            {
                let changes = decode(rows)
                    .ok_or_else(|| refused(&format!("the record {found} of its log is not well formed")))?;
                let record = Record {
                    sequence: found,
                    changes,
                };
                take(runs.len(), record)?;
                (at, sequence) = (next, found);
            }
            runs.push(Run {
                half,
                end: at,
                sequence,
            });
        }
        // What is left of earlier rounds is older. A newer record was appended when all before it were durable.
        if let Some(newer) = self.newer(sequence) {
            return Err(refused(&format!(
                "its log has the record {newer} and not the record {}: commits that were acknowledged are missing. \
                 The log is damaged, or the database file is a copy of another time than the log",
                sequence + 1
            )));
        }
        Ok(runs)
    }

    /// Whether there are records newer than the one of sequence `after`.
    pub(super) fn has_newer(&self, after: u64) -> bool {
        self.newer(after).is_some()
    }

    fn newer(&self, after: u64) -> Option<u64> {
        (RECORDS_AT as usize..self.bytes.len())
            .step_by(ALIGNMENT)
            .find_map(|at| {
                let sequence = u64::from_le_bytes(self.bytes.get(at..at + 8)?.try_into().ok()?);
                if sequence <= after {
                    return None;
                }
                self.record(at).map(|_| sequence)
            })
    }

    /// The sequence and rows of the record at `at`, if there is a whole one, and where the next one would be.
    fn record(&self, at: usize) -> Option<(u64, &[u8], usize)> {
        let record = self.bytes.get(at..)?;
        let header: &[u8; RECORD_HEADER_BYTES] = record.first_chunk()?;
        let sequence = u64::from_le_bytes(array(header, 0));
        if sequence == 0 || mark(self.id, header) != array(header, 12) {
            return None;
        }
        let rows = usize::try_from(u32::from_le_bytes(array(header, 8))).ok()?;
        let end = RECORD_HEADER_BYTES
            .checked_add(rows)?
            .checked_next_multiple_of(ALIGNMENT)?;
        let record = record.get(..end)?;
        if record_checksum(self.id, record) != u64::from_le_bytes(array(header, 16)) {
            return None;
        }
        let rows = &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + rows];
        Some((sequence, rows, at + end))
    }
}

/// The rows of a record; nothing when they are not well formed.
fn decode(mut rows: &[u8]) -> Option<Changes> {
    let mut changes = Changes::new();
    while !rows.is_empty() {
        let (lengths, rest) = rows.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let value_len = u32::from_le_bytes(array(lengths, 4));
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(array(lengths, 0)) as usize)?;
        let (value, rest) = if value_len == REMOVED {
            (None, rest)
        } else {
            let (value, rest) = rest.split_at_checked(value_len as usize)?;
            (Some(value.to_vec()), rest)
        };
        changes.insert(key.to_vec(), value);
        rows = rest;
    }
    Some(changes)
}

fn refused(what: &str) -> Failure {
    Failure::Medium(damaged(what))
}

/// `N` bytes of `bytes` at `at`, which are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// What a record has after its sequence and length, so that it costs no walk over its rows to see that bytes are none.
fn mark(id: LogId, record: &[u8]) -> [u8; 4] {
    array(&checksum(seed(id), &record[..12]).to_le_bytes(), 0)
}

/// The checksum of a whole record, that of its own field left out.
fn record_checksum(id: LogId, record: &[u8]) -> u64 {
    let header = checksum(seed(id), &record[..16]);
    checksum(header, &record[RECORD_HEADER_BYTES..])
}

/// What all checksums of a log begin with: its id, which nobody knows who writes documents, so that none can have bytes
/// in it that pass for a record.
fn seed(id: LogId) -> u64 {
    let [low, high] = [array(&id, 0), array(&id, 8)].map(u64::from_le_bytes);
    mix(mix(low) ^ high)
}

/// Four lanes of multiply and rotate over words of eight bytes, as xxHash64 has them, folded at the end.
fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let mut lanes = [seed, !seed, seed ^ PRIME, !seed ^ PRIME];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = round(*lane, *word);
        }
    }
    let (words, tail) = rest.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let folded = lanes.iter().fold(bytes.len() as u64, |sum, lane| mix(sum ^ lane));
    words
        .iter()
        .chain([&last])
        .fold(folded, |sum, word| mix(round(sum, *word)))
}

const PRIME: u64 = 0x9e37_79b1_85eb_ca87;

fn round(lane: u64, word: [u8; 8]) -> u64 {
    (lane ^ u64::from_le_bytes(word))
        .wrapping_mul(PRIME)
        .rotate_left(31)
}

/// Spreads each bit over all (MurmurHash3's finalizer).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = *b"a log for a test";

    fn record(sequence: u64) -> Vec<u8> {
        let changes = Changes::from([(b"k".to_vec(), Some(b"vv".to_vec())), (b"key".to_vec(), None)]);
        let mut record = Vec::new();
        assert!(encode(&mut record, ID, sequence, &changes).is_ok());
        assert_eq!(record.len() as u64, record_bytes(2, 6));
        record
    }

    fn contents(records: &[Vec<u8>]) -> Contents {
        let mut bytes = vec![0; RECORDS_AT as usize];
        bytes.extend(records.concat());
        bytes.resize(LOG_BYTES_MIN as usize, 0);
        Contents {
            id: ID,
            version: VERSION,
            bytes,
        }
    }

    /// A log with records in both halves.
    fn halves(first: &[Vec<u8>], second: &[Vec<u8>]) -> Contents {
        let mut contents = contents(first);
        let at = half_of(LOG_BYTES_MIN, 1).start as usize;
        let second = second.concat();
        contents.bytes[at..at + second.len()].copy_from_slice(&second);
        contents
    }

    /// The newest sequence and how many were replayed, or why not.
    fn replay(contents: &Contents, after: u64) -> Result<(u64, usize), String> {
        let mut taken = 0;
        let runs = contents.replay(after, &mut |_, record| {
            assert_eq!(record.changes.len(), 2);
            taken += 1;
            Ok(())
        });
        let runs = runs.map_err(|failure| failure.into_error().to_string())?;
        Ok((runs.last().map_or(after, |run| run.sequence), taken))
    }

    /// The bytes were made by another program from what `docdb-format.md` says.
    #[test]
    fn bytes_are_as_documented() {
        assert_eq!(checksum(0, &[]), 0x6ba1_c302_9a9c_b8fd);
        let bytes: Vec<u8> = (0..77).collect();
        assert_eq!(checksum(1, &bytes), 0x65fb_0bfd_9369_00f2);
        let expected = [
            0x07, 0, 0, 0, 0, 0, 0, 0, 0x16, 0, 0, 0, 0xef, 0x06, 0xcd, 0xb3, 0xec, 0x11, 0xd1, 0xb2, 0xd9,
            0x21, 0x24, 0x3c, 1, 0, 0, 0, 2, 0, 0, 0, b'k', b'v', b'v', 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
            b'k', b'e', b'y', 0, 0,
        ];
        assert_eq!(record(7), expected);
        let sum = checksum(0, b"cloudlet log\0\0\0\0\x01\0\0\0\0\0\0\0a log for a test");
        assert_eq!(sum, 0x21a1_cb37_e086_0b3e);
    }

    #[test]
    fn replay_goes_on_from_the_checkpoint() {
        let whole = contents(&[record(5), record(6), record(7)]);
        assert_eq!(replay(&whole, 4), Ok((7, 3)));
        // All of them are in the table: the log would start over.
        assert_eq!(replay(&whole, 7), Ok((7, 0)));
        assert_eq!(replay(&whole, 9), Ok((9, 0)));
        // What is behind the newest record is older.
        assert_eq!(
            replay(&contents(&[record(8), record(6), record(7)]), 7),
            Ok((8, 1))
        );
        assert_eq!(replay(&contents(&[]), 3), Ok((3, 0)));
    }

    #[test]
    fn replay_takes_the_halves_in_the_order_of_their_records() {
        let runs = |contents: &Contents, after| {
            let runs = contents.replay(after, &mut |_, _| Ok(()));
            let runs = runs.map_err(|failure| failure.into_error().to_string())?;
            Ok::<_, String>(
                runs.iter()
                    .map(|run| (run.half, run.sequence))
                    .collect::<Vec<_>>(),
            )
        };
        let forth = halves(&[record(5), record(6)], &[record(7)]);
        assert_eq!(runs(&forth, 4), Ok(vec![(0, 6), (1, 7)]));
        // A checkpoint had those of the first half, and the second goes on.
        assert_eq!(runs(&forth, 6), Ok(vec![(1, 7)]));
        let back = halves(&[record(8), record(9), record(6)], &[record(7)]);
        assert_eq!(runs(&back, 6), Ok(vec![(1, 7), (0, 9)]));
        assert_eq!(runs(&back, 9), Ok(vec![]));
        // One that was begun in the other half and is not whole.
        let mut torn = record(10);
        torn[30] ^= 1;
        assert_eq!(
            runs(&halves(&[record(8), record(9)], &[torn]), 7),
            Ok(vec![(0, 9)])
        );
        let missing = halves(&[record(5)], &[record(7)]);
        assert!(runs(&missing, 4).unwrap_err().contains("not the record 6"));
        // Version 1 had one part: what is in the middle follows what is before it, or nothing.
        let mut older = contents(&(5..205).map(record).collect::<Vec<_>>());
        older.version = 1;
        assert_eq!(runs(&older, 4), Ok(vec![(0, 204)]));
    }

    #[test]
    fn halves_are_whole_sectors() {
        for len in [LOG_BYTES_MIN, LOG_BYTES_MIN + 1, 32 << 10, 12 << 20] {
            let [first, second] = [0, 1].map(|half| half_of(len, half));
            assert_eq!(
                (first.start, first.end, second.end),
                (RECORDS_AT, second.start, len)
            );
            assert_eq!(second.start % HALF_ALIGNMENT, 0);
            assert!(first.end - first.start <= second.end - second.start);
            assert_eq!(Log::record_bytes_max_of(len), first.end - first.start);
        }
    }

    #[test]
    fn a_gap_is_refused() {
        for records in [
            vec![record(6)],
            vec![record(5), record(7)],
            vec![record(3), record(4), record(6)],
        ] {
            let told = replay(&contents(&records), 4).unwrap_err();
            assert!(
                told.contains("commits that were acknowledged are missing"),
                "{told}"
            );
        }
        assert!(contents(&[record(3), record(9)]).has_newer(8));
        assert!(!contents(&[record(3), record(9)]).has_newer(9));
    }

    #[test]
    fn the_id_is_in_every_checksum() {
        let mut of_another = contents(&[record(5)]);
        of_another.id[3] ^= 1;
        assert_eq!(replay(&of_another, 4), Ok((4, 0)));
        assert!(!of_another.has_newer(0));
    }
}
