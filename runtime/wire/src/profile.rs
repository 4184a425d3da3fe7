//! The profiler: which databases `profile` was told to watch, and the documents about commands that it leaves in their
//! `system.profile`. It is off until it is told otherwise, costs one load of an atomic then, and is off again after a
//! restart, as in MongoDB.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, raw::cstr};
use cloudlet_base::Deadline;
use cloudlet_data::{Capped, CollectionOptions, Insert, Namespace};

use crate::error::{Code, CommandError, Result};
use crate::operations::Operation;
use crate::shared::Shared;

/// The collection of a database that has what was watched.
pub(crate) const COLLECTION: &str = "system.profile";
/// Its size: MongoDB's megabyte.
const SIZE_BYTES: u64 = 1024 * 1024;
/// Most databases that are watched at a time.
const DATABASES_MAX: usize = 1000;
/// Longest time that a command waits for its document to be written.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

/// Which commands are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Off,
    /// Those that take long.
    Slow,
    All,
}

impl Level {
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 => Some(Self::Slow),
            2 => Some(Self::All),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Off => 0,
            Self::Slow => 1,
            Self::All => 2,
        }
    }
}

/// What the profiler does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Thresholds {
    /// What takes this many milliseconds is slow. Of a negative number everything is.
    pub(crate) slow_ms: i64,
    /// The part of the slow commands that is written down, 0 to 1.
    pub(crate) sample_rate: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            slow_ms: 100,
            sample_rate: 1.0,
        }
    }
}

/// What all databases' profilers are told.
#[derive(Default)]
pub(crate) struct Profiler {
    /// Whether any database is watched.
    on: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    thresholds: Thresholds,
    /// Of the databases that are watched.
    levels: BTreeMap<Arc<str>, Level>,
}

impl Profiler {
    fn told<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = look(&mut told);
        self.on.store(!told.levels.is_empty(), Ordering::Relaxed);
        answer
    }

    /// A database's level, and what is slow.
    pub(crate) fn of(&self, db: &str) -> (Level, Thresholds) {
        self.told(|told| {
            let level = told.levels.get(db).copied();
            (level.unwrap_or(Level::Off), told.thresholds)
        })
    }

    /// What is slow, for all databases.
    pub(crate) fn set_thresholds(&self, thresholds: Thresholds) {
        self.told(|told| told.thresholds = thresholds);
    }

    /// # Errors
    /// `TooManyRequests` when too many are watched.
    pub(crate) fn set_level(&self, db: &Arc<str>, level: Level) -> Result<()> {
        self.told(|told| {
            if level == Level::Off {
                told.levels.remove(db);
                return Ok(());
            }
            let count = told.levels.len();
            if count >= DATABASES_MAX && !told.levels.contains_key(db) {
                let message = format!("{count} databases are profiled, and at most {DATABASES_MAX} can be");
                return Err(CommandError::new(Code::TooManyRequests, message));
            }
            told.levels.insert(db.clone(), level);
            Ok(())
        })
    }

    /// Whether a command that took so long is written down.
    fn wants(&self, db: &str, took: Duration, chance: impl FnOnce() -> f64) -> bool {
        if !self.on.load(Ordering::Relaxed) {
            return false;
        }
        let (level, thresholds) = self.of(db);
        let millis = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        match level {
            Level::Off => false,
            Level::All => true,
            Level::Slow => millis >= thresholds.slow_ms && chance() < thresholds.sample_rate,
        }
    }
}

/// Makes a database's collection for what is watched, if it has none.
///
/// # Errors
/// The database's.
pub(crate) async fn make_collection(shared: &Shared, db: &Arc<str>) -> Result<()> {
    let options = CollectionOptions {
        capped: Some(Capped {
            size: SIZE_BYTES,
            max: None,
        }),
        ..CollectionOptions::default()
    };
    let ns = Namespace::new(db.clone(), COLLECTION);
    match shared.documents.create_collection_with(&ns, options).await {
        Err(error) if error.code() != cloudlet_data::Code::NamespaceExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a command down that is done, if its database's profiler wants it. What can't be written is left out.
pub(crate) async fn note(shared: &Shared, operation: &Operation, reply: &RawDocument, took: Duration) {
    let (db, collection) = operation.namespace();
    let chance = || {
        let mut bytes = [0; 4];
        shared.entropy.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    };
    if !shared.profiler.wants(db, took, chance) || collection == COLLECTION {
        return;
    }
    let mut document = operation.profiled(took);
    append_outcome(&mut document, reply);
    let insert = Insert {
        documents: vec![document],
        ordered: true,
        bypass_validation: true,
    };
    let deadline = Deadline::after(shared.clock.as_ref(), WRITE_TIME_MAX);
    let ns = Namespace::new(db, COLLECTION);
    if let Err(error) = shared.documents.insert(&ns, insert, deadline).await {
        tracing::debug!(code = error.code().number(), "a command was not profiled");
    }
}

/// What a reply tells of its command.
fn append_outcome(document: &mut RawDocumentBuf, reply: &RawDocument) {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    if let Ok(cursor) = reply.get_document("cursor") {
        let batch = cursor
            .get_array("firstBatch")
            .or_else(|_| cursor.get_array("nextBatch"));
        if let Ok(batch) = batch {
            document.append(cstr!("nreturned"), count(batch.into_iter().count()));
        }
        if let Ok(id) = cursor.get_i64("id")
            && id != 0
        {
            document.append(cstr!("cursorid"), id);
        }
    }
    if let Ok(message) = reply.get_str("errmsg") {
        document.append(cstr!("errMsg"), message);
        document.append(cstr!("errName"), reply.get_str("codeName").unwrap_or_default());
        document.append(cstr!("errCode"), reply.get_i32("code").unwrap_or_default());
    }
    document.append(cstr!("responseLength"), count(reply.as_bytes().len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_goes_by_level_and_time() {
        let profiler = Profiler::default();
        let wants = |db: &str, millis: u64| profiler.wants(db, Duration::from_millis(millis), || 0.5);
        assert!(!wants("a", 1_000));
        profiler.set_level(&"a".into(), Level::Slow).unwrap();
        profiler.set_level(&"b".into(), Level::All).unwrap();
        assert!(wants("a", 100) && !wants("a", 99) && !wants("c", 100));
        assert!(wants("b", 0));
        let rarely = Thresholds {
            slow_ms: 10,
            sample_rate: 0.4,
        };
        profiler.set_thresholds(rarely);
        assert!(!wants("a", 100) && wants("b", 0));
        profiler.set_level(&"b".into(), Level::Off).unwrap();
        assert!(!wants("b", 1_000));
        profiler.set_level(&"a".into(), Level::Off).unwrap();
        assert!(!profiler.on.load(Ordering::Relaxed));
    }
}
