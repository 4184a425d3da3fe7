//! What the database notes of its log, in a table of its own beside the keyspace.

use ::redb::{Database, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use super::failure::{Failure, damaged, storage_failed, table_failed, transaction_failed};
use super::log::LogId;

/// What is known of the log, out of the keyspace's sight.
const LOG_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cloudlet-log");
/// Its only row: id (16 bytes), sequence (8, little-endian), 1 when the log is in use.
const LOG_KEY: &[u8] = b"log";
const NOTED_BYTES: usize = 25;

/// What the database notes of its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) id: Option<LogId>,
    /// The sequence of the newest commit that is in the table.
    pub(super) sequence: u64,
    /// Whether there may be later ones in the log: it was not closed since.
    pub(super) in_use: bool,
}

impl Noted {
    /// What the last commit of redb's noted.
    ///
    /// # Errors
    /// When it can't be read, or is something else.
    pub(super) fn read(database: &Database) -> Result<Self, Failure> {
        let reading = database.begin_read().map_err(transaction_failed)?;
        let table = match reading.open_table(LOG_TABLE) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Self::default()),
            Err(error) => return Err(table_failed(error)),
        };
        let Some(row) = table.get(LOG_KEY).map_err(storage_failed)? else {
            return Ok(Self::default());
        };
        let row: &[u8; NOTED_BYTES] = row
            .value()
            .try_into()
            .map_err(|_| Failure::Medium(damaged("what it notes of its log is of an unknown form")))?;
        let [id @ .., _, _, _, _, _, _, _, _, in_use] = row;
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&row[16..24]);
        Ok(Self {
            id: Some(*id),
            sequence: u64::from_le_bytes(sequence),
            in_use: *in_use != 0,
        })
    }

    /// Notes it in a transaction of redb's; without an id there is nothing to note.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn write(&self, transaction: &WriteTransaction) -> Result<(), Failure> {
        let Some(id) = self.id else {
            return Ok(());
        };
        let mut row = Vec::with_capacity(NOTED_BYTES);
        row.extend_from_slice(&id);
        row.extend_from_slice(&self.sequence.to_le_bytes());
        row.push(u8::from(self.in_use));
        let mut table = transaction.open_table(LOG_TABLE).map_err(table_failed)?;
        table.insert(LOG_KEY, row.as_slice()).map_err(storage_failed)?;
        Ok(())
    }
}
