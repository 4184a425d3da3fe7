//! The two stores under measurement, with the same documents in both: `{_id, room, guest, note}`, an index on `room`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{RawDocumentBuf, rawdoc};
use cloudlet_base::{Deadline, OsEntropy, SystemClock};
use cloudlet_docdb::{Config, Docs, Find, IndexSpec, Insert, Limits, Namespace};
use rusqlite::{Connection, params};

/// Documents that one value of `room` has.
pub(crate) const ROOM: i64 = 50;
/// Bytes of page cache of either store.
const CACHE_BYTES: usize = 256 << 20;
/// Most inserts that the grouping SQLite writer puts into one commit.
const GROUP_MAX: usize = 512;
/// How long a SQLite connection waits for another's commit.
const BUSY: Duration = Duration::from_secs(60);

/// A document of about `bytes` bytes.
pub(crate) fn document(id: i64, room: i64, bytes: usize) -> RawDocumentBuf {
    let note = "x".repeat(bytes.saturating_sub(80));
    rawdoc! { "_id": id, "room": room, "guest": format!("guest-{id}"), "note": note }
}

/// What one thread does with a store.
pub(crate) trait Session: Send {
    /// The document with this `_id`.
    fn read(&mut self, id: i64) -> Result<RawDocumentBuf>;
    /// All documents of a room.
    fn room(&mut self, room: i64) -> Result<Vec<RawDocumentBuf>>;
    /// Inserts a document; it is on disk when this returns.
    fn insert(&mut self, id: i64, room: i64, document: RawDocumentBuf) -> Result<()>;
}

/// A store that threads open sessions of.
pub(crate) trait Store {
    fn name(&self) -> &'static str;
    fn session(&self) -> Result<Box<dyn Session>>;
    /// Inserts many documents, not one commit each.
    fn load(&self, documents: Vec<(i64, i64, RawDocumentBuf)>) -> Result<()>;
}

/// The document engine.
#[derive(Clone)]
pub(crate) struct Engine {
    docs: Docs,
    ns: Namespace,
}

impl Engine {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let config = Config {
            path: Some(dir.join("docs.redb")),
            cache_bytes: CACHE_BYTES,
            // As a node has it unless told otherwise: no change log.
            limits: Limits {
                feed_bytes_max: 0,
                ..Limits::default()
            },
            ..Config::default()
        };
        let docs = Docs::open(
            config,
            Arc::new(SystemClock::new()),
            Arc::new(OsEntropy),
            &prometheus::Registry::new(),
        )?;
        let ns = Namespace::new("bench", "stays");
        let index = IndexSpec::parse(&rawdoc! { "key": { "room": 1 }, "name": "room_1" })?;
        docs.create_indexes(&ns, vec![index]).wait()?;
        Ok(Self { docs, ns })
    }
}

impl Store for Engine {
    fn name(&self) -> &'static str {
        "cloudlet"
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.clone()))
    }

    fn load(&self, documents: Vec<(i64, i64, RawDocumentBuf)>) -> Result<()> {
        let documents = documents.into_iter().map(|(_, _, document)| document).collect();
        let insert = Insert {
            documents,
            ordered: true,
            bypass_validation: false,
        };
        let done = self.docs.insert(&self.ns, insert, Deadline::NEVER).wait()?;
        ensure!(done.errors.is_empty(), "an insert failed");
        Ok(())
    }
}

impl Session for Engine {
    fn read(&mut self, id: i64) -> Result<RawDocumentBuf> {
        let find = Find {
            filter: rawdoc! { "_id": id },
            limit: Some(1),
            ..Find::default()
        };
        let page = self.docs.find(&self.ns, find, Deadline::NEVER).wait()?;
        page.documents.into_iter().next().context("the document is there")
    }

    fn room(&mut self, room: i64) -> Result<Vec<RawDocumentBuf>> {
        let find = Find {
            filter: rawdoc! { "room": room },
            ..Find::default()
        };
        let page = self.docs.find(&self.ns, find, Deadline::NEVER).wait()?;
        ensure!(page.cursor.is_none(), "a room fits into a page");
        Ok(page.documents)
    }

    fn insert(&mut self, _: i64, _: i64, document: RawDocumentBuf) -> Result<()> {
        self.load(vec![(0, 0, document)])
    }
}

/// SQLite: write-ahead log, `synchronous=FULL`, a row for each document with the indexed field beside it.
pub(crate) struct Sqlite {
    path: PathBuf,
    group: Option<Group>,
}

/// A thread that commits the inserts of all sessions together.
struct Group {
    work: Sender<Work>,
    _thread: JoinHandle<Result<()>>,
}

struct Work {
    id: i64,
    room: i64,
    document: RawDocumentBuf,
    done: std::sync::mpsc::SyncSender<()>,
}

const INSERT: &str = "INSERT INTO stays (id, room, document) VALUES (?1, ?2, ?3)";

impl Sqlite {
    /// Each session writes through a connection of its own.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("sqlite.db");
        connect(&path)?.execute_batch(
            "CREATE TABLE IF NOT EXISTS stays (id INTEGER PRIMARY KEY, room INTEGER NOT NULL, document BLOB NOT NULL);
             CREATE INDEX IF NOT EXISTS stays_room ON stays (room);",
        )?;
        Ok(Self { path, group: None })
    }

    /// The same file, its writers grouped as the document engine groups them.
    pub(crate) fn grouped(&self) -> Result<Self> {
        let (work, inbox) = channel();
        let connection = connect(&self.path)?;
        let thread = std::thread::spawn(move || commit_groups(connection, &inbox));
        Ok(Self {
            path: self.path.clone(),
            group: Some(Group {
                work,
                _thread: thread,
            }),
        })
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Negative: KiB.
    connection.pragma_update(None, "cache_size", -((CACHE_BYTES >> 10) as i64))?;
    Ok(connection)
}

fn commit_groups(connection: Connection, inbox: &Receiver<Work>) -> Result<()> {
    while let Ok(first) = inbox.recv() {
        let mut group = vec![first];
        group.extend(inbox.try_iter().take(GROUP_MAX - 1));
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for work in &group {
            connection.prepare_cached(INSERT)?.execute(params![
                work.id,
                work.room,
                work.document.as_bytes()
            ])?;
        }
        connection.execute_batch("COMMIT")?;
        for work in group {
            // A session that went away does not wait.
            let _ = work.done.send(());
        }
    }
    Ok(())
}

impl Store for Sqlite {
    fn name(&self) -> &'static str {
        match self.group {
            None => "SQLite",
            Some(_) => "SQLite, writers grouped",
        }
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(SqliteSession {
            connection: connect(&self.path)?,
            group: self.group.as_ref().map(|group| group.work.clone()),
        }))
    }

    fn load(&self, documents: Vec<(i64, i64, RawDocumentBuf)>) -> Result<()> {
        let mut connection = connect(&self.path)?;
        let transaction = connection.transaction()?;
        for (id, room, document) in documents {
            transaction
                .prepare_cached(INSERT)?
                .execute(params![id, room, document.as_bytes()])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

struct SqliteSession {
    connection: Connection,
    group: Option<Sender<Work>>,
}

impl Session for SqliteSession {
    fn read(&mut self, id: i64) -> Result<RawDocumentBuf> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT document FROM stays WHERE id = ?1")?;
        let bytes: Vec<u8> = statement.query_row([id], |row| row.get(0))?;
        Ok(RawDocumentBuf::from_bytes(bytes)?)
    }

    fn room(&mut self, room: i64) -> Result<Vec<RawDocumentBuf>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT document FROM stays WHERE room = ?1")?;
        let rows = statement.query_map([room], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|bytes| Ok(RawDocumentBuf::from_bytes(bytes?)?))
            .collect()
    }

    fn insert(&mut self, id: i64, room: i64, document: RawDocumentBuf) -> Result<()> {
        match &self.group {
            None => {
                self.connection
                    .prepare_cached(INSERT)?
                    .execute(params![id, room, document.as_bytes()])?;
            }
            Some(group) => {
                let (done, wait) = sync_channel(1);
                let work = Work {
                    id,
                    room,
                    document,
                    done,
                };
                group.send(work).ok().context("the writer is there")?;
                wait.recv().context("the writer answers")?;
            }
        }
        Ok(())
    }
}
