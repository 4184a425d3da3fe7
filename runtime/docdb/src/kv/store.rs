//! The open files of a [`RedbKv`](super::RedbKv): the newest committed state, the log and the table. A commit is a
//! record in the log and rows in memory. When a half of the log is full, its rows are frozen and records go into the
//! other half; a checkpoint brings the frozen rows into the table by one durable commit of redb's, beside the commits
//! that come meanwhile. Who needs a half whose checkpoint is not done makes or awaits it.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ::redb::{Builder, Database, ReadableDatabase, TableError, WriteTransaction};

use super::WriteBody;
use super::delta::Delta;
use super::failure::{
    Failure, closed, commit_failed, damaged, storage_failed, table_failed, transaction_failed,
};
use super::file::{Counted, Opener, Part};
use super::log::{Contents, Log, LogId, Record, Run, record_bytes};
use super::noted::Noted;
use super::overlay::Changes;
use super::redb::RedbOptions;
use super::rows::{Changed, Rows};
use super::view::{Committed, Outcome, Straight, TABLE, View, WriteView, apply, begin, judge};
use crate::{Code, Error, Result};

/// The part of the cache that holds single rows rather than pages: one in so many.
const ROWS_SHARE: usize = 4;

/// Bytes of memory for each byte of half a log that rows may take until a checkpoint: small rows take more there.
const DELTA_BYTES_PER_LOG_BYTE: u64 = 2;

/// The open files. What refers to the database is dropped before it.
pub(super) struct Store {
    newest: RwLock<Newest>,
    /// Rows of the newest committed state.
    rows: Arc<Rows>,
    /// Held by whoever writes.
    writing: Mutex<Writing>,
    /// Held by whoever has a write transaction of redb's, until what it committed is published; taken after `writing` by
    /// those that take both. What redb knows of the log.
    table: Mutex<Noted>,
    database: Database,
}

/// The newest committed state.
struct Newest {
    /// Opened by the first read after each checkpoint. Reads share it until the next commit, for a transaction of
    /// redb's costs a short read more than the rest of it does. It keeps the pages of one checkpoint from being reused
    /// by the next, no more, since nothing newer is in the table while it is here.
    committed: Option<Arc<Committed>>,
    /// What a checkpoint is to bring into the table.
    frozen: Option<Frozen>,
    /// What was committed since.
    delta: Arc<Delta>,
    sequence: u64,
}

/// What half of the log has.
#[derive(Clone)]
struct Frozen {
    delta: Arc<Delta>,
    /// That of its newest commit.
    sequence: u64,
}

/// What writing takes.
struct Writing {
    /// The log, once something was written.
    log: Option<Log>,
    /// That of the log, if there ever was one.
    id: Option<LogId>,
    /// The length of the log that is there from before, if it can be used again.
    reusable_bytes: Option<u64>,
    /// Whether the log was taken into use since the files were opened.
    begun: bool,
    /// What a write or fsync left is not known: nothing may follow it before the files were opened again, also not by
    /// another thread that comes before that.
    uncertain: bool,
}

/// A log as it was found, and what it has that the table has not.
struct Found {
    writing: Writing,
    /// What the two halves have, the older first.
    deltas: [Delta; 2],
    runs: Vec<Run>,
}

impl Store {
    /// Opens the files. Commits up to `acknowledged` are on disk for certain.
    ///
    /// # Errors
    /// When they can't be read, are damaged, or don't belong together.
    pub(super) fn open(open: &Opener, options: &RedbOptions, acknowledged: u64) -> Result<Self, Failure> {
        let backend = open_part(open, Part::Database, options)?;
        let backend = backend.ok_or_else(|| Failure::Medium(damaged("it is not there")))?;
        let database = Builder::new()
            .set_cache_size(options.cache_bytes - options.cache_bytes / ROWS_SHARE)
            .create_with_backend(backend)?;
        make_table(&database)?;
        let mut noted = Noted::read(&database)?;
        let Found {
            writing,
            deltas: [older, newer],
            runs,
        } = Writing::open(open, options, noted, acknowledged)?;
        let sequence = runs.last().map_or(noted.sequence, |run| run.sequence);
        let (mut frozen, mut delta) = (None, newer);
        if let [run, _] = &runs[..] {
            frozen = Some(Frozen {
                delta: Arc::new(older),
                sequence: run.sequence,
            });
        } else if writing.log.is_some() {
            delta = older;
        } else if !older.is_empty() {
            // A log of an older version is not gone on with: its commits go into the table, and it out of use.
            noted = Noted {
                sequence,
                in_use: false,
                ..noted
            };
            let transaction = begin(&database)?;
            bring(&transaction, [&older])?;
            noted.write(&transaction)?;
            transaction.commit().map_err(commit_failed)?;
        }
        Ok(Self {
            newest: RwLock::new(Newest {
                committed: None,
                frozen,
                delta: Arc::new(delta),
                sequence,
            }),
            rows: Arc::new(Rows::new(options.cache_bytes / ROWS_SHARE)),
            writing: Mutex::new(writing),
            table: Mutex::new(noted),
            database,
        })
    }

    /// Checks the checksums of all pages. False when the records of which pages are in use were wrong, and are put
    /// right.
    ///
    /// # Errors
    /// When a page is damaged, or can't be read.
    pub(super) fn check_pages(&mut self) -> Result<bool, Failure> {
        let newest = self.newest.get_mut().unwrap_or_else(PoisonError::into_inner);
        newest.committed = None;
        Ok(self.database.check_integrity()?)
    }

    /// The sequence of the newest commit that was acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.writing().log.as_ref().map_or(0, Log::sequence)
    }

    /// The newest committed state.
    fn newest(&self) -> Result<Arc<Committed>, Failure> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &newest.committed {
            return Ok(committed.clone());
        }
        drop(newest);
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = &newest.committed {
            return Ok(committed.clone());
        }
        // The table may have what is frozen already, which then says the same.
        let transaction = self.database.begin_read().map_err(transaction_failed)?;
        let committed = Arc::new(Committed {
            table: Arc::new(transaction.open_table(TABLE).map_err(table_failed)?),
            frozen: newest.frozen.as_ref().map(|frozen| frozen.delta.clone()),
            delta: newest.delta.clone(),
            sequence: newest.sequence,
            state: self.rows.state(),
        });
        newest.committed = Some(committed.clone());
        Ok(committed)
    }

    /// A view of it for one reader.
    ///
    /// # Errors
    /// When the table can't be opened.
    pub(super) fn view(&self) -> Result<View, Failure> {
        Ok(View {
            committed: self.newest()?,
            rows: self.rows.clone(),
            failed: Cell::new(false),
        })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Noted> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` in a transaction and commits it.
    ///
    /// # Errors
    /// The body's, or the medium's.
    pub(super) fn write(
        &self,
        open: &Opener,
        options: &RedbOptions,
        body: &mut WriteBody<'_>,
    ) -> Result<(), Failure> {
        let mut writing = self.writing();
        if writing.uncertain {
            return Err(Failure::Medium(closed()));
        }
        let view = self.view()?;
        let straight = Straight::new(&self.table);
        let record_bytes_max = writing.record_bytes_max(options);
        let mut tx = WriteView::new(&view, &self.database, &straight, record_bytes_max);
        let result = body(&mut tx);
        judge(tx.failed(), result)?;
        match tx.finish() {
            Outcome::Nothing => Ok(()),
            Outcome::Held(changes, changed) => {
                self.begin(&mut writing, open, options)?;
                let bytes = changes
                    .iter()
                    .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
                let record_bytes = record_bytes(changes.len(), bytes.sum());
                let delta_bytes_max = record_bytes_max.saturating_mul(DELTA_BYTES_PER_LOG_BYTE);
                let delta_is_full = view.committed.delta.bytes() as u64 > delta_bytes_max;
                if delta_is_full || !writing.log()?.has_room(record_bytes) {
                    self.freeze(&mut writing, options)?;
                }
                writing.uncertain = true;
                let sequence = writing.log()?.append(&changes)?;
                writing.uncertain = false;
                self.publish(sequence, changes, &changed)
            }
            Outcome::Straight(changed) => {
                let begun = straight.into_inner();
                let (transaction, mut noted) = begun.ok_or_else(|| Failure::Medium(closed()))?;
                let in_use = writing.log.is_some();
                noted.id = Some(*writing.id.get_or_insert(options.log_id));
                self.commit(&mut writing, transaction, &mut noted, in_use, &changed)
            }
        }
    }

    /// Takes the log into use: makes it where there is none, and notes that there may be commits in it that the database
    /// has not. Of a log that is in use since before, too: if an fsync had failed, the last commit of redb's may be what
    /// is read and not what is on the disk, and records would be written over that it needs.
    fn begin(&self, writing: &mut Writing, open: &Opener, options: &RedbOptions) -> Result<(), Failure> {
        if writing.begun {
            return Ok(());
        }
        let mut noted = self.table();
        let id = *writing.id.get_or_insert(options.log_id);
        let log = match writing.log.take() {
            Some(log) => log,
            None => {
                let file = open_part(open, Part::NewLog, options)?;
                let file = file.ok_or_else(|| Failure::Medium(closed()))?;
                let sequence = noted.sequence;
                match writing.reusable_bytes.take() {
                    Some(len) if len == Log::len_of(options.log_bytes) => Log::take(file, id, len, sequence)?,
                    _ => Log::make(file, id, options.log_bytes, sequence)?,
                }
            }
        };
        let now = Noted {
            id: Some(id),
            sequence: noted.sequence,
            in_use: true,
        };
        let transaction = begin(&self.database)?;
        now.write(&transaction)?;
        writing.uncertain = true;
        transaction.commit().map_err(commit_failed)?;
        writing.uncertain = false;
        *noted = now;
        writing.log = Some(log);
        writing.begun = true;
        Ok(())
    }

    /// Shows readers what the commit of `sequence` changed, which is on disk.
    fn publish(&self, sequence: u64, changes: Changes, changed: &Changed) -> Result<(), Failure> {
        // Nobody sees it before there is a state of its sequence.
        self.newest()?.delta.add(sequence, changes);
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        self.rows.advance(changed);
        newest.sequence = sequence;
        // A checkpoint may have taken it away meanwhile: the next read opens it.
        if let Some(before) = newest.committed.take() {
            newest.committed = Some(Arc::new(Committed {
                table: before.table.clone(),
                frozen: before.frozen.clone(),
                delta: before.delta.clone(),
                sequence,
                state: self.rows.state(),
            }));
        }
        Ok(())
    }

    /// Makes room: what was committed is frozen for a checkpoint, and the log goes on in its other half. If the
    /// checkpoint of that is not done, it waits for it, or makes it.
    fn freeze(&self, writing: &mut Writing, options: &RedbOptions) -> Result<(), Failure> {
        if self.is_due() {
            options.waits.inc();
            self.checkpoint()?;
        }
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let delta = std::mem::take(&mut newest.delta);
        if let Some(before) = newest.committed.take() {
            newest.committed = Some(Arc::new(Committed {
                table: before.table.clone(),
                frozen: Some(delta.clone()),
                delta: newest.delta.clone(),
                sequence: before.sequence,
                state: before.state,
            }));
        }
        newest.frozen = Some(Frozen {
            delta,
            sequence: newest.sequence,
        });
        drop(newest);
        writing.log()?.switch();
        Ok(())
    }

    /// Whether something is frozen.
    pub(super) fn is_due(&self) -> bool {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        newest.frozen.is_some()
    }

    /// Brings what is frozen into the table, durably. If that fails, its half of the log has it still, and commits may
    /// go on in the other.
    ///
    /// # Errors
    /// The medium's.
    pub(super) fn checkpoint(&self) -> Result<(), Failure> {
        let mut noted = self.table();
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        let frozen = newest.frozen.clone();
        drop(newest);
        let Some(frozen) = frozen else {
            return Ok(());
        };
        let transaction = begin(&self.database)?;
        bring(&transaction, [&*frozen.delta])?;
        let now = Noted {
            sequence: frozen.sequence,
            ..*noted
        };
        now.write(&transaction)?;
        transaction.commit().map_err(commit_failed)?;
        *noted = now;
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        newest.frozen = None;
        let before = newest.committed.take();
        drop(newest);
        // The transaction may end here: not under the lock.
        drop(before);
        Ok(())
    }

    /// Commits a transaction that has everything that the log has, and changed rows beyond that or none.
    fn commit(
        &self,
        writing: &mut Writing,
        transaction: WriteTransaction,
        noted: &mut Noted,
        in_use: bool,
        changed: &Changed,
    ) -> Result<(), Failure> {
        let now = Noted {
            id: noted.id,
            sequence: writing.log.as_ref().map_or(noted.sequence, Log::sequence),
            in_use,
        };
        now.write(&transaction)?;
        writing.uncertain = true;
        transaction.commit().map_err(commit_failed)?;
        writing.uncertain = false;
        *noted = now;
        if let Some(log) = &mut writing.log {
            log.start_over();
        }
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if !changed.is_empty() {
            self.rows.advance(changed);
        }
        let before = newest.committed.take();
        newest.frozen = None;
        newest.delta = Arc::default();
        drop(newest);
        // The transaction may end here: not under the lock.
        drop(before);
        Ok(())
    }

    /// Brings everything into the table and the log out of use, so that the database is whole without it.
    ///
    /// # Errors
    /// The medium's; the next start reads the log.
    pub(super) fn close(&self) -> Result<(), Failure> {
        let mut writing = self.writing();
        if writing.log.is_none() || writing.uncertain {
            return Ok(());
        }
        let mut noted = self.table();
        let committed = self.newest()?;
        let transaction = begin(&self.database)?;
        bring(
            &transaction,
            committed
                .frozen
                .iter()
                .chain([&committed.delta])
                .map(|delta| &**delta),
        )?;
        self.commit(&mut writing, transaction, &mut noted, false, &Changed::default())
    }
}

impl Writing {
    /// Opens the log, if there is one, and reads what redb has not.
    /// Commits up to `acknowledged` need not be made durable once more, which a full disk might refuse.
    fn open(open: &Opener, options: &RedbOptions, noted: Noted, acknowledged: u64) -> Result<Found, Failure> {
        let mut found = Found {
            writing: Self {
                log: None,
                id: noted.id,
                reusable_bytes: None,
                begun: false,
                uncertain: false,
            },
            deltas: Default::default(),
            runs: Vec::new(),
        };
        let refused = |what: &str| Err(Failure::Medium(damaged(what)));
        let file = open_part(open, Part::Log, options)?;
        let contents = match &file {
            Some(file) => Contents::read(file)?,
            None => None,
        };
        let (Some(file), Some(contents)) = (file, contents) else {
            if noted.in_use {
                return refused(
                    "it was not closed, and its log is not beside it, which has the newest commits; put both files \
                     where they were together",
                );
            }
            return Ok(found);
        };
        if noted.in_use {
            if noted.id != Some(contents.id) {
                return refused("the log beside it is that of another database");
            }
            let Found { deltas, .. } = &found;
            found.runs = contents.replay(noted.sequence, &mut |run, Record { sequence, changes }| {
                deltas[run].add(sequence, changes);
                Ok(())
            })?;
            if contents.is_older() {
                found.writing.reusable_bytes = Some(contents.len());
                return Ok(found);
            }
            let sequence = found.runs.last().map_or(noted.sequence, |run| run.sequence);
            let log = Log::resume(file, &contents, &found.runs, sequence, sequence <= acknowledged)?;
            found.writing.log = Some(log);
            return Ok(found);
        }
        // Closed in order, or older than logs. What another log has must not be lost by writing over it.
        let after = if noted.id == Some(contents.id) {
            noted.sequence
        } else {
            0
        };
        if contents.has_newer(after) {
            return refused(
                "the log beside it has commits that it does not know: one of the two is a copy of another time, or \
                 of another database. If the log is not needed, move it away",
            );
        }
        if noted.id == Some(contents.id) {
            found.writing.reusable_bytes = Some(contents.len());
        }
        Ok(found)
    }

    fn log(&mut self) -> Result<&mut Log, Failure> {
        self.log.as_mut().ok_or_else(|| Failure::Medium(closed()))
    }

    /// Bytes of the largest record. The first write of a database goes to redb straight: by it the engine raises the
    /// version of the format, which has to keep out programs that know of no log before there is anything in one.
    fn record_bytes_max(&self, options: &RedbOptions) -> u64 {
        match (&self.log, self.id) {
            (Some(log), _) => log.record_bytes_max(),
            (None, Some(_)) => Log::record_bytes_max_of(options.log_bytes),
            (None, None) => 0,
        }
    }
}

/// Brings rows into the table, those of later deltas over those of earlier ones.
fn bring<'d>(
    transaction: &WriteTransaction,
    deltas: impl IntoIterator<Item = &'d Delta>,
) -> Result<(), Failure> {
    let mut table = transaction.open_table(TABLE).map_err(table_failed)?;
    deltas.into_iter().try_for_each(|delta| apply(delta, &mut table))
}

/// Opens a file and has its fsyncs counted.
fn open_part(open: &Opener, part: Part, options: &RedbOptions) -> Result<Option<Counted>, Failure> {
    Ok(open(part)?.map(|inner| Counted {
        inner,
        fsyncs: options.fsyncs.clone(),
    }))
}

/// Makes the table in a new database: reads refuse one that is not there.
fn make_table(database: &Database) -> Result<(), Failure> {
    let reading = database.begin_read().map_err(transaction_failed)?;
    match reading.open_table(TABLE) {
        Ok(_) => return Ok(()),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(table_failed(error)),
    }
    if reading.list_tables().map_err(storage_failed)?.next().is_some() {
        return Err(Failure::Medium(Error::new(
            Code::UnsupportedFormat,
            "this is a redb database of some other program; give cloudlet a file of its own",
        )));
    }
    let transaction = begin(database)?;
    transaction.open_table(TABLE).map(drop).map_err(table_failed)?;
    transaction.commit().map_err(commit_failed)
}
