//! The ordered store in memory: a `BTreeMap` that readers share by reference count. For tests, and for databases
//! that need not outlive the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::overlay::{Changes, Overlay, scan_map};
use super::{Direction, GetVisitor, Kv, KvRead, KvSnapshot, Range, ReadBody, ScanVisitor, WriteBody};
use crate::Result;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// An ordered store in memory.
#[derive(Debug, Default)]
pub struct MemKv {
    rows: RwLock<Arc<Rows>>,
    /// Held by the writer from its first read to its commit.
    writer: Mutex<()>,
}

impl MemKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> Arc<Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn commit(&self, changes: Changes) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        // Copies the map only if a reader still holds the old one.
        let rows = Arc::make_mut(&mut *rows);
        for (key, change) in changes {
            match change {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
}

struct Snapshot(Arc<Rows>);

impl KvRead for Snapshot {
    fn get(&self, key: &[u8], visit: &mut GetVisitor<'_>) -> Result<bool> {
        Ok(self.0.get(key).map(|value| visit(value)).is_some())
    }

    fn scan(&self, range: Range<'_>, direction: Direction, visit: &mut ScanVisitor<'_>) -> Result<()> {
        scan_map(&self.0, range, direction, &mut |key, value| visit(key, value));
        Ok(())
    }
}

impl Kv for MemKv {
    fn read(&self, body: &mut ReadBody<'_>) -> Result<()> {
        body(&Snapshot(self.rows()))
    }

    fn snapshot(&self) -> Result<Box<KvSnapshot>> {
        Ok(Box::new(Snapshot(self.rows())))
    }

    fn write(&self, body: &mut WriteBody<'_>) -> Result<()> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let base = Snapshot(self.rows());
        let mut overlay = Overlay::new(&base);
        body(&mut overlay)?;
        let changes = overlay.into_changes();
        drop(base);
        if !changes.is_empty() {
            self.commit(changes);
        }
        Ok(())
    }
}
