//! Scratch files in a directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Scratch, ScratchFile};

/// What the names of the files end with, as long as they have one.
const EXTENSION: &str = "spill";

/// Files in a directory. Each loses its name when it is made, so that nothing is left after a crash.
#[derive(Debug)]
pub struct DirScratch {
    dir: PathBuf,
    made: AtomicU64,
}

impl DirScratch {
    /// Makes the directory if it is not there, for this user alone, and removes what a process left in it that died
    /// between making a file and taking its name away.
    ///
    /// # Errors
    /// When the directory can't be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt as _;
            builder.mode(0o700);
        }
        builder.create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(Self {
            dir,
            made: AtomicU64::new(0),
        })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Scratch for DirScratch {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}.{EXTENSION}", std::process::id());
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(&path)?;
        fs::remove_file(&path)?;
        Ok(Box::new(Nameless(file)))
    }
}

#[derive(Debug)]
struct Nameless(File);

impl ScratchFile for Nameless {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        self.0.read_exact_at(into, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_behind_and_removes_what_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data/spill");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("7-0.spill"), "stale").unwrap();
        fs::write(dir.join("kept.txt"), "not ours").unwrap();
        let scratch = DirScratch::open(&dir).unwrap();
        let mut file = scratch.file().unwrap();
        let mut other = scratch.file().unwrap();
        file.write_at(0, b"abc").unwrap();
        other.write_at(0, b"xyz").unwrap();
        file.write_at(3, b"def").unwrap();
        let mut read = [0; 4];
        file.read_at(1, &mut read).unwrap();
        assert_eq!(&read, b"bcde");
        assert_eq!(
            file.read_at(4, &mut read).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let names: Vec<_> = fs::read_dir(scratch.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["kept.txt"]);
    }
}
