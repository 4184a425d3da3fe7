//! The files of one app's log: `logs/APP/NUMBER.log` in the data directory, NUMBER being that of the first entry in
//! 16 hex digits. Entries are appended to the last one; when it is full another begins, and what is over the bounds
//! goes by whole files, the oldest first. One thread writes (writer.rs); anybody reads (query.rs). Nothing is
//! synced: a log line is no acknowledged data, and after a power failure the newest may be missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloudlet_base::Timestamp;

use super::Entry;
use super::record::{self, HEADER_BYTES, Header, Records};

/// One file.
#[derive(Debug, Clone, Copy)]
struct Segment {
    header: Header,
    bytes: u64,
}

/// An app's files, as their writer knows them.
#[derive(Debug)]
pub(super) struct AppFiles {
    dir: PathBuf,
    segment_bytes: u64,
    /// The oldest first.
    segments: Vec<Segment>,
    /// Whether the last segment may be appended to. No handle is kept: there may be thousands of apps.
    open: bool,
    /// Time of the newest entry.
    newest_at: Timestamp,
}

/// What was found when an app's files were opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Number of the newest entry; 0 when there is none.
    pub(super) last_seq: u64,
    /// Bytes of records at the end that were not whole, and are cut off.
    pub(super) torn_bytes: u64,
}

impl AppFiles {
    /// The files in `dir`, which need not be there. Reads the last one; what a kill has left half written at its end is
    /// cut off.
    ///
    /// # Errors
    /// When they can't be read.
    pub(super) fn open(dir: PathBuf, segment_bytes: u64) -> io::Result<(Self, Found)> {
        let mut files = Self {
            segments: Vec::new(),
            open: false,
            newest_at: Timestamp(i64::MIN),
            segment_bytes,
            dir,
        };
        let mut found = Found::default();
        let all = list(&files.dir)?;
        for seq in all.iter().copied() {
            let path = path(&files.dir, seq);
            let bytes = fs::metadata(&path)?.len();
            match read_header(&path)? {
                Some(header) if header.first_seq == seq => files.segments.push(Segment { header, bytes }),
                // A kill between making it and writing its header; or another version's, which nothing here reads.
                _ if bytes < HEADER_BYTES as u64 => fs::remove_file(&path)?,
                _ => tracing::warn!(?path, "not a log segment of this version; it is left alone"),
            }
        }
        if let Some(last) = files.segments.last_mut() {
            let path = path(&files.dir, last.header.first_seq);
            let bytes = fs::read(&path)?;
            let mut records = Records::new(&bytes);
            found.last_seq = last.header.first_seq;
            files.newest_at = last.header.first_at;
            for record in records.by_ref() {
                found.last_seq = record.seq;
                files.newest_at = record.at;
            }
            found.torn_bytes = records.rest_bytes() as u64;
            last.bytes = bytes.len() as u64 - found.torn_bytes;
            if found.torn_bytes > 0 {
                OpenOptions::new().append(true).open(&path)?.set_len(last.bytes)?;
            }
            files.open = true;
        }
        // Behind one that is left alone nothing is appended to an older one: the files stay in the order of their numbers.
        if let Some(left_alone) = all.last().copied().filter(|seq| *seq > found.last_seq) {
            let path = path(&files.dir, left_alone);
            if path.try_exists()? {
                found.last_seq = left_alone;
                files.open = false;
            }
        }
        Ok((files, found))
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Appends entries, beginning other segments as they fill.
    ///
    /// # Errors
    /// When they can't be written; what was not is lost, and the next entries go to another segment.
    pub(super) fn append<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> io::Result<()> {
        let mut buffer = Vec::new();
        for entry in entries {
            let full = self
                .segments
                .last()
                .is_none_or(|last| last.bytes + buffer.len() as u64 >= self.segment_bytes);
            if full || !self.open {
                self.write(&mut buffer)?;
                self.begin(entry)?;
            }
            record::encode(entry, &mut buffer);
            self.newest_at = entry.line.at;
        }
        self.write(&mut buffer)
    }

    fn write(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Some(last) = self.segments.last_mut().filter(|_| !buffer.is_empty()) else {
            return Ok(());
        };
        // Until it is whole: what follows a part would not be found, so it goes to another segment.
        self.open = false;
        let path = path(&self.dir, last.header.first_seq);
        let mut file = OpenOptions::new().append(true).open(&path)?;
        if let Err(error) = file.write_all(buffer) {
            if file.set_len(last.bytes).is_ok() {
                self.open = true;
            } else if last.bytes == HEADER_BYTES as u64 {
                // A disk that takes headers alone would be filled with them.
                let _ = fs::remove_file(&path);
                self.segments.pop();
            } else {
                last.bytes = file.metadata().map_or(last.bytes, |seen| seen.len());
            }
            return Err(error);
        }
        self.open = true;
        last.bytes += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    /// Begins the segment of which `entry` is the first.
    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let header = Header {
            first_seq: entry.seq,
            first_at: entry.line.at,
        };
        let path = path(&self.dir, entry.seq);
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(true).open(&path)?;
        if let Err(error) = file.write_all(&header.encode()) {
            // Only a header that is whole makes it a segment.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.segments.push(Segment {
            header,
            bytes: HEADER_BYTES as u64,
        });
        self.open = true;
        Ok(())
    }

    /// Time of the newest entry of the oldest file, unless the app has none.
    pub(super) fn oldest_ends_at(&self) -> Option<Timestamp> {
        let next = self.segments.get(1).map(|next| next.header.first_at);
        self.segments.first().map(|_| next.unwrap_or(self.newest_at))
    }

    /// Removes the oldest file. Returns its bytes.
    ///
    /// # Errors
    /// When it can't be removed; it counts as gone, for otherwise it would be tried for ever.
    pub(super) fn remove_oldest(&mut self) -> io::Result<u64> {
        if self.segments.is_empty() {
            return Ok(0);
        }
        let oldest = self.segments.remove(0);
        if self.segments.is_empty() {
            self.open = false;
        }
        match fs::remove_file(path(&self.dir, oldest.header.first_seq)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(oldest.bytes),
        }
    }

    /// Ends the last file when its first entry is older than `age`, so that a quiet app's files come of age too.
    pub(super) fn end_older_than(&mut self, age: Duration, now: Timestamp) {
        let old = |segment: &Segment| segment.header.first_at.plus(age) < now;
        if self.segments.last().is_some_and(old) {
            self.open = false;
        }
    }
}

/// The numbers of the segments in `dir`, the oldest first; none when it is not there.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // What is named otherwise is not ours.
        numbers.extend(number.filter(|number| digits == Some(&format!("{number:016x}"))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The file of a segment.
pub(super) fn path(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("{first_seq:016x}.log"))
}

/// A segment's header; `None` when it has none of this version.
pub(super) fn read_header(path: &Path) -> io::Result<Option<Header>> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    File::open(path)?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut bytes)?;
    Ok(Header::decode(&bytes))
}

#[cfg(test)]
mod tests {
    use cloudlet_host::LogLevel;

    use super::*;
    use crate::logs::testing::{app, line};

    fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            line: line(seq as i64 * 10, "f", LogLevel::Info, &format!("line {seq}")),
        }
    }

    fn write(files: &mut AppFiles, numbers: std::ops::Range<u64>) {
        let entries: Vec<Entry> = numbers.map(entry).collect();
        files.append(entries.iter()).unwrap();
    }

    /// What all files hold.
    fn read(dir: &Path) -> Vec<u64> {
        let mut all = Vec::new();
        for seq in list(dir).unwrap() {
            let bytes = fs::read(path(dir, seq)).unwrap();
            all.extend(Records::new(&bytes).map(|record| record.to_entry(&app()).seq));
        }
        all
    }

    #[test]
    fn segments_fill_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, found) = AppFiles::open(dir.path().join("a"), 400).unwrap();
        assert_eq!(found, Found::default());
        write(&mut files, 1..21);
        assert!(files.segments.len() > 3, "{files:?}");
        assert_eq!(read(&files.dir), (1..21).collect::<Vec<_>>());
        assert_eq!(files.oldest_ends_at().unwrap(), files.segments[1].header.first_at);
        let (before, second) = (files.bytes(), files.segments[1].header.first_seq);
        let removed = files.remove_oldest().unwrap();
        assert!(removed > 0 && files.bytes() == before - removed);
        assert_eq!(read(&files.dir)[0], second);
        while files.bytes() > 0 {
            files.remove_oldest().unwrap();
        }
        assert_eq!(files.oldest_ends_at(), None);
        write(&mut files, 21..22);
        assert_eq!(read(&files.dir), [21]);
    }

    #[test]
    fn a_torn_end_is_cut_off_and_what_follows_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = AppFiles::open(dir.path().join("a"), 1 << 20).unwrap();
        write(&mut files, 1..4);
        let last = path(&files.dir, 1);
        let bytes = fs::read(&last).unwrap();
        for cut in [1, 7, 30] {
            fs::write(&last, &bytes[..bytes.len() - cut]).unwrap();
            let (mut files, found) = AppFiles::open(files.dir.clone(), 1 << 20).unwrap();
            assert!(found.last_seq == 2 && found.torn_bytes > 0, "{found:?}");
            assert_eq!(files.newest_at, Timestamp(20));
            write(&mut files, 9..10);
            assert_eq!(read(&files.dir), [1, 2, 9]);
        }
        // A kill right after a segment was made.
        fs::write(path(&files.dir, 99), "CLDT").unwrap();
        let (_, found) = AppFiles::open(files.dir.clone(), 1 << 20).unwrap();
        assert_eq!(found.last_seq, 9);
        assert!(!path(&files.dir, 99).exists());
    }

    #[test]
    fn after_a_failed_write_another_segment_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = AppFiles::open(dir.path().join("a"), 1 << 20).unwrap();
        write(&mut files, 1..3);
        // The segment is gone from under it.
        let (first, kept) = (path(&files.dir, 1), path(&files.dir, 0));
        fs::rename(&first, &kept).unwrap();
        assert!(files.append([entry(3)].iter()).is_err());
        fs::rename(&kept, &first).unwrap();
        write(&mut files, 3..5);
        assert_eq!(files.segments.len(), 2);
        assert_eq!(read(&files.dir), [1, 2, 3, 4]);
        // A disk that takes the header and no more is not filled with headers.
        let (mut files, _) = AppFiles::open(dir.path().join("c"), 1 << 20).unwrap();
        files.begin(&entry(1)).unwrap();
        let full = path(&files.dir, 1);
        fs::remove_file(&full).unwrap();
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        assert!(files.append([entry(1)].iter()).is_err());
        assert!(files.segments.is_empty() && !full.is_symlink());
        write(&mut files, 2..3);
        assert_eq!(read(&files.dir), [2]);
        // Where a directory should be there is a file.
        let (mut files, _) = AppFiles::open(dir.path().join("b"), 1 << 20).unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        assert!(files.append([entry(1)].iter()).is_err());
        assert_eq!(files.bytes(), 0);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = AppFiles::open(dir.path().join("a"), 1 << 20).unwrap();
        write(&mut files, 1..3);
        let others = [
            "7.log",
            "+000000000000008.log",
            "x.log",
            "00000000000000AB.log",
            "notes",
        ];
        for name in others {
            fs::write(
                files.dir.join(name),
                "something that is longer than a header of a segment",
            )
            .unwrap();
        }
        let (_, found) = AppFiles::open(files.dir.clone(), 1 << 20).unwrap();
        assert_eq!((found.last_seq, found.torn_bytes), (2, 0));
        // Another version's segment: what comes is behind it, where who goes on from its number finds it.
        let later = path(&files.dir, 50);
        fs::write(&later, [b"CLDTLOG\x09".as_slice(), &[0; 100]].concat()).unwrap();
        let (mut files, found) = AppFiles::open(files.dir.clone(), 1 << 20).unwrap();
        assert_eq!((found.last_seq, found.torn_bytes), (50, 0));
        write(&mut files, 51..53);
        assert_eq!(list(&files.dir).unwrap(), [1, 50, 51]);
        assert_eq!(read(&files.dir)[..2], [1, 2]);
        assert!(later.exists() && others.iter().all(|name| files.dir.join(name).exists()));
    }

    #[test]
    fn a_segment_ends_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = AppFiles::open(dir.path().join("a"), 1 << 20).unwrap();
        write(&mut files, 1..3);
        files.end_older_than(Duration::from_millis(100), Timestamp(100));
        write(&mut files, 3..4);
        assert_eq!(files.segments.len(), 1);
        files.end_older_than(Duration::from_millis(100), Timestamp(111));
        write(&mut files, 4..5);
        assert_eq!(files.segments.len(), 2);
    }
}
