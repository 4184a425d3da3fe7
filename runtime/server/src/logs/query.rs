//! Reading an app's log: which entries somebody wants, and pages of them out of the segments, from the newest back or
//! from a cursor on. Blocking; the callers bring threads.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cloudlet_base::{AppId, RequestId, Timestamp};
use cloudlet_host::{LogDetail, LogLevel, LogLine, LogStream};

use super::Entry;
use super::record::{Header, Record, Records};
use super::segments;

/// Bytes of text in one page; a page is shorter than asked for when it has as many.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// What an entry counts besides its text.
const ENTRY_BYTES: usize = 128;

/// Which lines somebody wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFilter {
    /// Of this function alone.
    pub(crate) function: Option<String>,
    /// Of this severity or above.
    pub(crate) level: Option<LogLevel>,
    /// About invocations that ended so.
    pub(crate) status: Option<StatusFilter>,
    /// Of this request alone.
    pub(crate) request: Option<RequestId>,
    /// Written at this time or later.
    pub(crate) since: Option<Timestamp>,
    /// Written before this time.
    pub(crate) until: Option<Timestamp>,
    /// With this text in them, in any case of ASCII letters.
    pub(crate) text: Option<String>,
}

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusFilter {
    /// It failed, or answered with a status of 500 or above.
    Error,
    /// It did not.
    Ok,
    /// It answered with a status in this range, the last one included.
    Range(u16, u16),
}

/// What a filter looks at.
struct Seen<'a> {
    at: Timestamp,
    function: &'a str,
    request: RequestId,
    level: LogLevel,
    stream: LogStream,
    text: &'a str,
}

impl LogFilter {
    /// Whether a line is wanted.
    pub(super) fn admits(&self, line: &LogLine) -> bool {
        let seen = Seen {
            at: line.at,
            function: &line.function,
            request: line.request,
            level: line.level,
            stream: line.stream,
            text: &line.text,
        };
        self.admits_seen(&seen, || line.detail.clone())
    }

    /// The same of a record, of which nothing is copied when it is not.
    fn admits_record(&self, record: &Record<'_>) -> bool {
        let seen = Seen {
            at: record.at,
            function: record.function,
            request: record.request,
            level: record.level,
            stream: record.stream,
            text: &record.text,
        };
        self.admits_seen(&seen, || record.detail())
    }

    fn admits_seen(&self, line: &Seen<'_>, detail: impl FnOnce() -> LogDetail) -> bool {
        self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at < until)
            && self.level.is_none_or(|level| line.level >= level)
            && self.request.is_none_or(|request| line.request == request)
            && self
                .function
                .as_deref()
                .is_none_or(|function| function == line.function)
            && self.text.as_deref().is_none_or(|text| contains(line.text, text))
            && self.status.is_none_or(|status| {
                line.stream == LogStream::Platform && status.admits(line.level, &detail())
            })
    }
}

impl StatusFilter {
    fn admits(self, level: LogLevel, detail: &LogDetail) -> bool {
        let end = match detail {
            LogDetail::End(end) => Some(end),
            _ => None,
        };
        let status = end.and_then(|end| end.status);
        let gave_error = status.is_some_and(|status| status >= 500);
        match self {
            // Also what the platform says of a trigger that failed.
            StatusFilter::Error => level >= LogLevel::Error || gave_error,
            StatusFilter::Ok => end.is_some_and(|end| end.outcome == "ok") && !gave_error,
            StatusFilter::Range(from, to) => status.is_some_and(|status| (from..=to).contains(&status)),
        }
    }
}

fn contains(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    wanted.is_empty()
        || text
            .windows(wanted.len())
            .any(|window| window.eq_ignore_ascii_case(wanted))
}

/// Some entries of an app, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: VecDeque<Arc<Entry>>,
    /// There are more in the direction that was read.
    pub(crate) more: bool,
    /// Entries up to this number were looked at (of a page that goes on from a cursor).
    pub(crate) seen_to: u64,
    bytes: usize,
}

impl Page {
    fn has_room(&self, limit: usize) -> bool {
        self.entries.len() < limit && self.bytes < PAGE_BYTES_MAX
    }

    fn count(&mut self, entry: &Entry) {
        self.bytes += entry.line.text.len() + ENTRY_BYTES;
    }
}

/// The newest entries with numbers below `before` that `filter` admits, at most `limit`. `unwritten` are those that
/// are not in the files yet; what the files have of them is not looked at.
///
/// # Errors
/// When the files can't be read.
pub(super) fn newest(source: &Source<'_>, filter: &LogFilter, before: u64, limit: usize) -> io::Result<Page> {
    let mut page = Page::default();
    for entry in source.unwritten.iter().rev() {
        if entry.seq < before && filter.admits(&entry.line) {
            if !page.has_room(limit) {
                page.more = true;
                return Ok(page);
            }
            page.count(entry);
            page.entries.push_front(Arc::clone(entry));
        }
    }
    let written_before = before.min(source.unwritten_from);
    for first_seq in segments::list(source.dir)?.into_iter().rev() {
        if first_seq >= written_before {
            continue;
        }
        let Some((header, bytes)) = read(source.dir, first_seq)? else {
            continue;
        };
        if filter.until.is_some_and(|until| header.first_at >= until) {
            continue;
        }
        let mut found = VecDeque::new();
        let room = limit - page.entries.len();
        for record in Records::new(&bytes) {
            if record.seq < written_before && filter.admits_record(&record) {
                if found.len() == room {
                    found.pop_front();
                    page.more = true;
                }
                found.push_back(record.to_entry(source.app));
            }
        }
        for entry in found.into_iter().rev() {
            if !page.has_room(limit) {
                page.more = true;
                return Ok(page);
            }
            page.count(&entry);
            page.entries.push_front(entry);
        }
        // Entries of older segments are older than this one's first.
        if page.more || filter.since.is_some_and(|since| header.first_at < since) {
            break;
        }
    }
    Ok(page)
}

/// The oldest entries with numbers above `after` that `filter` admits, at most `limit`.
///
/// # Errors
/// When the files can't be read.
pub(super) fn onward(source: &Source<'_>, filter: &LogFilter, after: u64, limit: usize) -> io::Result<Page> {
    let mut page = Page {
        seen_to: after,
        ..Page::default()
    };
    let all = segments::list(source.dir)?;
    // The last segment that begins at or before what is wanted has it, or nothing of it.
    let begin = all
        .partition_point(|first| *first <= after.saturating_add(1))
        .saturating_sub(1);
    for first_seq in all.into_iter().skip(begin) {
        let Some((_, bytes)) = read(source.dir, first_seq)? else {
            continue;
        };
        for record in Records::new(&bytes) {
            if record.seq >= source.unwritten_from {
                break;
            }
            if record.seq > after && filter.admits_record(&record) {
                if !page.has_room(limit) {
                    page.more = true;
                    return Ok(page);
                }
                let entry = record.to_entry(source.app);
                page.count(&entry);
                page.entries.push_back(entry);
            }
            page.seen_to = page.seen_to.max(record.seq);
        }
    }
    for entry in source.unwritten {
        if entry.seq > after && filter.admits(&entry.line) {
            if !page.has_room(limit) {
                page.more = true;
                return Ok(page);
            }
            page.count(entry);
            page.entries.push_back(Arc::clone(entry));
        }
        page.seen_to = page.seen_to.max(entry.seq);
    }
    Ok(page)
}

/// Where an app's entries are.
pub(super) struct Source<'s> {
    pub(super) app: &'s AppId,
    pub(super) dir: &'s Path,
    /// Those that are not written yet, the oldest first.
    pub(super) unwritten: &'s [Arc<Entry>],
    /// The number from which on the files don't count.
    pub(super) unwritten_from: u64,
}

/// A segment; `None` when it was removed meanwhile or is another version's.
fn read(dir: &Path, first_seq: u64) -> io::Result<Option<(Header, Vec<u8>)>> {
    match fs::read(segments::path(dir, first_seq)) {
        Ok(bytes) => Ok(Header::decode(&bytes).map(|header| (header, bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use cloudlet_host::InvocationEnd;

    use super::*;
    use crate::logs::segments::AppFiles;
    use crate::logs::testing::{app, line};

    fn end(level: LogLevel, outcome: &'static str, status: Option<u16>) -> LogLine {
        let mut line = line(1, "f", level, "end");
        line.stream = LogStream::Platform;
        line.detail = LogDetail::End(Box::new(InvocationEnd {
            outcome: outcome.into(),
            trigger: "http".into(),
            status,
            duration: std::time::Duration::ZERO,
            cpu: std::time::Duration::ZERO,
            memory_bytes: 0,
        }));
        line
    }

    #[test]
    fn filters_choose() {
        let seen = line(10, "f", LogLevel::Info, "Paid by Ada");
        let all = LogFilter::default;
        let some = [
            (all(), true),
            (
                LogFilter {
                    function: Some("f".into()),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    function: Some("g".into()),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    level: Some(LogLevel::Info),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    level: Some(LogLevel::Warn),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    since: Some(Timestamp(10)),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    since: Some(Timestamp(11)),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    until: Some(Timestamp(11)),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    until: Some(Timestamp(10)),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    request: Some(RequestId::from_bits(1)),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    request: Some(RequestId::from_bits(2)),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    text: Some("by ada".into()),
                    ..all()
                },
                true,
            ),
            (
                LogFilter {
                    text: Some("bob".into()),
                    ..all()
                },
                false,
            ),
            (
                LogFilter {
                    status: Some(StatusFilter::Error),
                    ..all()
                },
                false,
            ),
        ];
        for (filter, expected) in some {
            assert_eq!(filter.admits(&seen), expected, "{filter:?}");
        }
    }

    #[test]
    fn statuses_are_of_the_lines_about_an_end() {
        let ends = [
            (end(LogLevel::Error, "trap", None), [true, false, false]),
            (end(LogLevel::Warn, "ok", Some(500)), [true, false, true]),
            (end(LogLevel::Info, "ok", Some(404)), [false, true, false]),
            (end(LogLevel::Info, "ok", None), [false, true, false]),
        ];
        for (line, expected) in ends {
            let filters = [
                StatusFilter::Error,
                StatusFilter::Ok,
                StatusFilter::Range(500, 599),
            ];
            let admitted = filters.map(|status| {
                LogFilter {
                    status: Some(status),
                    ..LogFilter::default()
                }
                .admits(&line)
            });
            assert_eq!(admitted, expected, "{line:?}");
        }
    }

    /// A hundred entries in many segments, the last ten of them not written.
    fn with_source(check: impl Fn(&Source<'_>)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = AppFiles::open(dir.path().join("a"), 500).unwrap();
        let entries: Vec<Arc<Entry>> = (1..=100)
            .map(|seq| {
                let function = if seq % 2 == 0 { "even" } else { "odd" };
                let line = line(seq as i64, function, LogLevel::Info, &seq.to_string());
                Arc::new(Entry { seq, line })
            })
            .collect();
        // Two more are in the files already than the writer has told of.
        files.append(entries[..92].iter().map(AsRef::as_ref)).unwrap();
        let app = app();
        check(&Source {
            app: &app,
            dir: &dir.path().join("a"),
            unwritten: &entries[90..],
            unwritten_from: 91,
        });
    }

    fn numbers(page: &Page) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn pages_back_from_the_newest_meet_without_a_gap() {
        with_source(|source| {
            let (mut all, mut before) = (Vec::new(), u64::MAX);
            loop {
                let page = newest(source, &LogFilter::default(), before, 7).unwrap();
                let found = numbers(&page);
                before = found[0];
                all.splice(0..0, found);
                if !page.more {
                    break;
                }
            }
            assert_eq!(all, (1..=100).collect::<Vec<_>>());
            let even = LogFilter {
                function: Some("even".into()),
                since: Some(Timestamp(81)),
                until: Some(Timestamp(95)),
                ..LogFilter::default()
            };
            let page = newest(source, &even, u64::MAX, 100).unwrap();
            assert_eq!(
                (numbers(&page), page.more),
                (vec![82, 84, 86, 88, 90, 92, 94], false)
            );
        });
    }

    #[test]
    fn pages_onward_from_a_cursor_meet_without_a_gap() {
        with_source(|source| {
            let (mut all, mut after) = (Vec::new(), 0);
            loop {
                let page = onward(source, &LogFilter::default(), after, 7).unwrap();
                all.extend(numbers(&page));
                after = page.seen_to;
                if !page.more {
                    break;
                }
            }
            assert_eq!(all, (1..=100).collect::<Vec<_>>());
            let none = LogFilter {
                function: Some("none".into()),
                ..LogFilter::default()
            };
            let page = onward(source, &none, 50, 7).unwrap();
            assert_eq!((page.entries.len(), page.seen_to, page.more), (0, 100, false));
            for (after, first) in [(0, Some(1)), (37, Some(38)), (99, Some(100)), (100, None)] {
                let page = onward(source, &LogFilter::default(), after, 1).unwrap();
                assert_eq!(numbers(&page).first().copied(), first);
            }
        });
    }
}
