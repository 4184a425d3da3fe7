//! The bytes of a log segment: a header and records, described in `runtime/docs/logs-format.md`. Pure functions; the
//! files are in segments.rs.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use cloudlet_base::{AppId, DeploymentId, RequestId, Timestamp};
use cloudlet_host::{InvocationEnd, LogDetail, LogLevel, LogLine, LogStream};

use super::Entry;

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 32;
/// The first bytes of every segment; the last of them is the version of the format.
const MAGIC: [u8; 8] = *b"CLDTLOG\x01";
/// Bytes before a record's payload: its length and checksum.
const FRAME_BYTES: usize = 8;
/// Longest payload; a longer one is damage.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// No entry of the segment has a smaller number.
    pub(super) first_seq: u64,
    /// Time of its first entry.
    pub(super) first_at: Timestamp,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_at.millis().to_le_bytes());
        let sum = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no header of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..HEADER_BYTES)?;
        if rest[..8] != MAGIC || rest[24..28] != crc32fast::hash(&rest[..24]).to_le_bytes() {
            return None;
        }
        rest = &rest[8..];
        Some(Self {
            first_seq: u64::from_le_bytes(take(&mut rest)?),
            first_at: Timestamp(i64::from_le_bytes(take(&mut rest)?)),
        })
    }
}

/// Appends the record of an entry. The app is not in it: the directory names it.
pub(super) fn encode(entry: &Entry, into: &mut Vec<u8>) {
    let begin = into.len();
    into.extend_from_slice(&[0; FRAME_BYTES]);
    let line = &entry.line;
    into.extend_from_slice(&entry.seq.to_le_bytes());
    into.extend_from_slice(&line.at.millis().to_le_bytes());
    into.extend_from_slice(&line.request.to_bits().to_le_bytes());
    into.extend_from_slice(&line.deployment.0.to_le_bytes());
    into.push(level_code(line.level));
    into.push(stream_code(line.stream));
    short_text(&line.function, into);
    let (kind, detail) = encode_detail(&line.detail);
    into.push(kind);
    into.extend_from_slice(&u16::try_from(detail.len()).unwrap_or(0).to_le_bytes());
    into.extend_from_slice(&detail);
    let text = &line.text[..line.text.floor_char_boundary(PAYLOAD_BYTES_MAX / 2)];
    into.extend_from_slice(text.as_bytes());
    let payload = begin + FRAME_BYTES;
    let length = u32::try_from(into.len() - payload).expect("a payload is under PAYLOAD_BYTES_MAX");
    let sum = crc32fast::hash(&into[payload..]);
    into[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    into[begin + 4..payload].copy_from_slice(&sum.to_le_bytes());
}

/// The records of a segment, one after the other, until the end or the first that is not whole.
pub(super) struct Records<'b> {
    rest: &'b [u8],
}

impl<'b> Records<'b> {
    /// The records behind the header.
    pub(super) fn new(segment: &'b [u8]) -> Self {
        Self {
            rest: segment.get(HEADER_BYTES..).unwrap_or_default(),
        }
    }

    /// Bytes that no record was found in: those of one that is torn or damaged and all behind it.
    pub(super) fn rest_bytes(&self) -> usize {
        self.rest.len()
    }
}

impl<'b> Iterator for Records<'b> {
    type Item = Record<'b>;

    fn next(&mut self) -> Option<Record<'b>> {
        let mut rest = self.rest;
        let length = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let sum = u32::from_le_bytes(take(&mut rest)?);
        let payload = rest.get(..length).filter(|_| length <= PAYLOAD_BYTES_MAX)?;
        if crc32fast::hash(payload) != sum {
            return None;
        }
        let record = Record::parse(payload)?;
        self.rest = &rest[length..];
        Some(record)
    }
}

/// One record, in the segment's bytes.
#[derive(Debug)]
pub(super) struct Record<'b> {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) request: RequestId,
    deployment: DeploymentId,
    pub(super) level: LogLevel,
    pub(super) stream: LogStream,
    pub(super) function: &'b str,
    detail_kind: u8,
    detail: &'b [u8],
    pub(super) text: Cow<'b, str>,
}

impl<'b> Record<'b> {
    fn parse(mut payload: &'b [u8]) -> Option<Self> {
        let rest = &mut payload;
        Some(Self {
            seq: u64::from_le_bytes(take(rest)?),
            at: Timestamp(i64::from_le_bytes(take(rest)?)),
            request: RequestId::from_bits(u128::from_le_bytes(take(rest)?)),
            deployment: DeploymentId(u64::from_le_bytes(take(rest)?)),
            level: level_of(take::<1>(rest)?[0])?,
            stream: stream_of(take::<1>(rest)?[0])?,
            function: read_short_text(rest)?,
            detail_kind: take::<1>(rest)?[0],
            detail: {
                let length = usize::from(u16::from_le_bytes(take(rest)?));
                split(rest, length)?
            },
            text: String::from_utf8_lossy(rest),
        })
    }

    pub(super) fn detail(&self) -> LogDetail {
        decode_detail(self.detail_kind, self.detail).unwrap_or_default()
    }

    /// The entry, as it was when it was written.
    pub(super) fn to_entry(&self, app: &AppId) -> Arc<Entry> {
        Arc::new(Entry {
            seq: self.seq,
            line: LogLine {
                at: self.at,
                app: app.clone(),
                function: self.function.into(),
                deployment: self.deployment,
                request: self.request,
                level: self.level,
                stream: self.stream,
                text: self.text.clone().into_owned(),
                detail: self.detail(),
            },
        })
    }
}

fn encode_detail(detail: &LogDetail) -> (u8, Vec<u8>) {
    match detail {
        LogDetail::None => (0, Vec::new()),
        LogDetail::Context(text) => (1, text.as_bytes().to_vec()),
        LogDetail::End(end) => {
            let mut bytes = Vec::with_capacity(64);
            short_text(&end.outcome, &mut bytes);
            short_text(&end.trigger, &mut bytes);
            bytes.extend_from_slice(&end.status.unwrap_or(0).to_le_bytes());
            for number in [micros(end.duration), micros(end.cpu), end.memory_bytes] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            (2, bytes)
        }
        LogDetail::LeftOut(count) => (3, count.to_le_bytes().to_vec()),
    }
}

/// `None` for one that a later version wrote.
fn decode_detail(kind: u8, mut bytes: &[u8]) -> Option<LogDetail> {
    let rest = &mut bytes;
    match kind {
        1 => Some(LogDetail::Context(String::from_utf8_lossy(rest).into())),
        2 => Some(LogDetail::End(Box::new(InvocationEnd {
            outcome: read_short_text(rest)?.to_owned().into(),
            trigger: read_short_text(rest)?.to_owned().into(),
            status: Some(u16::from_le_bytes(take(rest)?)).filter(|status| *status != 0),
            duration: Duration::from_micros(u64::from_le_bytes(take(rest)?)),
            cpu: Duration::from_micros(u64::from_le_bytes(take(rest)?)),
            memory_bytes: u64::from_le_bytes(take(rest)?),
        }))),
        3 => Some(LogDetail::LeftOut(u64::from_le_bytes(take(rest)?))),
        _ => None,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Its length in one byte, then the text, cut at 255 bytes.
fn short_text(text: &str, into: &mut Vec<u8>) {
    let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
    into.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    into.extend_from_slice(text.as_bytes());
}

fn read_short_text<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let length = usize::from(take::<1>(rest)?[0]);
    std::str::from_utf8(split(rest, length)?).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    split(rest, N)?.try_into().ok()
}

fn split<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

const LEVELS: [LogLevel; 5] = [
    LogLevel::Trace,
    LogLevel::Debug,
    LogLevel::Info,
    LogLevel::Warn,
    LogLevel::Error,
];

fn level_code(level: LogLevel) -> u8 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warn => 3,
        LogLevel::Error => 4,
    }
}

fn level_of(code: u8) -> Option<LogLevel> {
    LEVELS.get(usize::from(code)).copied()
}

fn stream_code(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Logging => 2,
        LogStream::Platform => 3,
    }
}

fn stream_of(code: u8) -> Option<LogStream> {
    match code {
        0 => Some(LogStream::Stdout),
        1 => Some(LogStream::Stderr),
        2 => Some(LogStream::Logging),
        3 => Some(LogStream::Platform),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::logs::testing;

    fn segment(entries: &[Entry]) -> Vec<u8> {
        let header = Header {
            first_seq: 1,
            first_at: Timestamp(5),
        };
        let mut bytes = header.encode().to_vec();
        entries.iter().for_each(|entry| encode(entry, &mut bytes));
        bytes
    }

    fn entries() -> Vec<Entry> {
        let end = InvocationEnd {
            outcome: "trap".into(),
            trigger: "http".into(),
            status: Some(502),
            duration: Duration::from_micros(1234),
            cpu: Duration::from_micros(99),
            memory_bytes: 1 << 20,
        };
        let details = [
            LogDetail::None,
            LogDetail::Context("shop".into()),
            LogDetail::End(Box::new(end)),
            LogDetail::LeftOut(7),
        ];
        let entry = |(seq, detail)| {
            let mut line = testing::line(5, "checkin", LogLevel::Warn, "text\nof two lines");
            line.request = RequestId::from_bits(u128::MAX - 3);
            line.stream = LogStream::Platform;
            line.detail = detail;
            Entry { seq, line }
        };
        (1..).zip(details).map(entry).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let (entries, app) = (entries(), testing::app());
        let bytes = segment(&entries);
        let read: Vec<_> = Records::new(&bytes).map(|record| record.to_entry(&app)).collect();
        assert_eq!(format!("{read:?}"), format!("{entries:?}"));
        let header = Header::decode(&bytes).unwrap();
        assert_eq!((header.first_seq, header.first_at), (1, Timestamp(5)));
    }

    #[test]
    fn a_detail_of_a_later_version_is_none_and_the_text_is_kept() {
        let mut bytes = Vec::new();
        encode(&entries()[3], &mut bytes);
        let kind = bytes.len() - "text\nof two lines".len() - 8 - 3;
        assert_eq!(bytes[kind], 3);
        bytes[kind] = 200;
        let record = Record::parse(&bytes[FRAME_BYTES..]).unwrap();
        assert_eq!(
            (record.detail(), &*record.text),
            (LogDetail::None, "text\nof two lines")
        );
    }

    #[test]
    fn a_torn_or_damaged_record_ends_the_segment() {
        let bytes = segment(&entries());
        let whole = |bytes: &[u8]| {
            let mut records = Records::new(bytes);
            (records.by_ref().count(), records.rest_bytes())
        };
        assert_eq!(whole(&bytes), (4, 0));
        for cut in 1..40 {
            let (count, rest) = whole(&bytes[..bytes.len() - cut]);
            assert!(count == 3 && rest > 0, "{cut}: {count}");
        }
        let mut damaged = bytes.clone();
        let middle = bytes.len() / 2;
        damaged[middle] ^= 1;
        assert!(whole(&damaged).0 < 4);
        for at in 0..28 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::decode(&bytes);
            Records::new(&bytes).for_each(|record| drop(record.detail()));
            drop(Record::parse(&bytes));
        }
    }
}
