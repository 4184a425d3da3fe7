//! What `db import` and `db export` share: kinds of files, the names in a dump's directory, the state that a broken
//! run leaves for the next one.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::context::write_private;

/// Ending of a collection's documents in a dump.
pub(super) const BSON_ENDING: &str = ".bson";
/// Ending of its metadata.
pub(super) const METADATA_ENDING: &str = ".metadata.json";
/// Ending of both when they are compressed.
pub(super) const GZIP_ENDING: &str = ".gz";

/// Longest name of a collection in a file's name, written out. A file's name has 255 bytes, and endings come behind it.
const NAME_BYTES_MAX: usize = 200;
/// What stands before the digest of a longer one.
const CUT: &str = "%24";
/// How much of the digest that is.
const DIGEST_BYTES: usize = 20;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FileFormat {
    /// A document of extended JSON a line
    Jsonl,
    /// An array of extended JSON
    Json,
    /// BSON, as mongodump writes it
    Bson,
    /// A document a line, as CloudBase exports and imports
    Cloudbase,
}

impl FileFormat {
    /// What a file's name says, and whether it says that the file is compressed.
    pub(super) fn of_name(path: &Path) -> (Option<Self>, bool) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_suffix(GZIP_ENDING);
        let ending = plain
            .unwrap_or(&name)
            .rsplit_once('.')
            .map_or("", |(_, ending)| ending);
        let format = match ending {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "json" => Some(Self::Json),
            "bson" => Some(Self::Bson),
            _ => None,
        };
        (format, plain.is_some())
    }
}

/// A collection's name as part of a file's: what a path may not have is percent-encoded, as mongodump does. Of one that is
/// too long the end is a digest, and the metadata has the name.
pub(super) fn file_name_of(collection: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'=')
        .remove(b':')
        .remove(b'@');
    let mut name = utf8_percent_encode(collection, KEPT).to_string();
    if name.len() > NAME_BYTES_MAX {
        let digest: [u8; 32] = Sha256::digest(collection).into();
        let digest = BASE64_URL_SAFE_NO_PAD.encode(&digest[..DIGEST_BYTES]);
        // A name that is cut says so with a `$`, which no collection's has.
        name.truncate(NAME_BYTES_MAX - CUT.len() - digest.len());
        // No half of what stands for a byte.
        if let Some(half) = name.rfind('%').filter(|at| at + CUT.len() > name.len()) {
            name.truncate(half);
        }
        name = format!("{name}{CUT}{digest}");
    }
    name
}

/// The collection that a file's name, without its ending, stands for.
///
/// # Errors
/// When it is not UTF-8.
pub(super) fn collection_of(name: &str) -> anyhow::Result<String> {
    let decoded = percent_encoding::percent_decode_str(name).decode_utf8();
    Ok(decoded
        .with_context(|| format!("the name {name:?} of a file is no collection's"))?
        .into_owned())
}

/// What a broken run left; none when there is no such file.
///
/// # Errors
/// When it can't be read, or is not what these commands write.
pub(super) fn load_state<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| {
            format!(
                "{} is not what a broken run leaves; remove it to begin anew",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

/// Keeps the state for the next run, whole or not at all.
///
/// # Errors
/// When it can't be written.
pub(super) fn save_state(path: &Path, state: &impl Serialize) -> anyhow::Result<()> {
    write_private(path, &serde_json::to_vec(state)?)
}

/// Removes the state; it may be gone already.
///
/// # Errors
/// When it can't be removed.
pub(super) fn remove_state(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Tells of progress: a bar on a terminal, a line now and then where nobody looks.
pub(super) struct Progress {
    bar: indicatif::ProgressBar,
    what: String,
    length: Option<u64>,
    told: u64,
}

/// Documents between two lines of progress when the length is not known.
const DOCUMENTS_PER_LINE: u64 = 100_000;
/// Lines of progress over a known length.
const LINES: u64 = 10;

impl Progress {
    /// Of `length` bytes or documents, where that is known.
    pub(super) fn new(what: String, length: Option<u64>, is_bytes: bool) -> Self {
        let bar = match is_bytes {
            true => super::out::byte_bar(length.unwrap_or(0), ""),
            false => super::out::bar(length.unwrap_or(0), ""),
        };
        bar.set_message(what.clone());
        Self {
            bar,
            what,
            length: length.filter(|length| *length > 0),
            told: 0,
        }
    }

    /// It has come to `position`, with so many documents.
    pub(super) fn at(&mut self, position: u64, documents: u64) {
        self.bar.set_position(position);
        if !self.bar.is_hidden() {
            return;
        }
        let step = match self.length {
            Some(length) => position.saturating_mul(LINES) / length,
            None => documents / DOCUMENTS_PER_LINE,
        };
        if step > self.told && self.length != Some(position) {
            self.told = step;
            match self.length {
                Some(length) => eprintln!(
                    "{}: {documents} documents, {} %",
                    self.what,
                    position.saturating_mul(100) / length
                ),
                None => eprintln!("{}: {documents} documents", self.what),
            }
        }
    }

    /// A line that stays, above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_collections_come_back_from_those_of_files() {
        for (collection, file) in [
            ("notes", "notes"),
            ("a.b-c_d", "a.b-c_d"),
            ("a/b c", "a%2Fb%20c"),
            ("100%", "100%25"),
            ("\u{e9}", "%C3%A9"),
        ] {
            assert_eq!(file_name_of(collection), file);
            assert_eq!(collection_of(file).unwrap(), collection);
        }
        let long = |end: &str| file_name_of(&format!("{}{end}", "\u{e9}".repeat(100)));
        assert!(long("").len() <= NAME_BYTES_MAX && long("") != long("a"));
        assert!(collection_of(&long("")).unwrap().starts_with("\u{e9}\u{e9}"));
        assert!(collection_of("%FF").is_err());
    }

    #[test]
    fn endings_tell_the_format() {
        let of = |name: &str| FileFormat::of_name(Path::new(name));
        assert_eq!(of("a/b.bson"), (Some(FileFormat::Bson), false));
        assert_eq!(of("b.bson.gz"), (Some(FileFormat::Bson), true));
        assert_eq!(of("b.ndjson"), (Some(FileFormat::Jsonl), false));
        assert_eq!(of("b.json"), (Some(FileFormat::Json), false));
        assert_eq!(of("bson"), (None, false));
    }
}
