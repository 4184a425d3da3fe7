//! A session's multi-document transaction: which statements go on in it, how it ends, what a repeated commit is
//! answered, and the snapshot that reads outside of one may share. What is not here: isolation and atomicity, which
//! are the engine's; called by `call` with the session's lock held, so statements of a session never overlap.

use std::sync::Arc;

use bson::{RawDocumentBuf, Timestamp, raw::cstr, rawdoc};
use cloudlet_base::Fault;
use cloudlet_data::{Documents, Statements, Transaction};

use crate::call::Call;
use crate::commands;
use crate::error::{Code, CommandError, Result};
use crate::sessions::Writes;
use crate::shared::Topology;
use crate::verb::Verb;

/// Tells a driver that the whole transaction may be run again.
pub(crate) const TRANSIENT: &str = "TransientTransactionError";
/// Tells a driver that the commit alone may be sent again.
const UNKNOWN_COMMIT: &str = "UnknownTransactionCommitResult";

/// Codes after which nothing of the transaction stands, and the next try may go through.
const TRANSIENT_CODES: [i32; 6] = [24, 112, 246, 251, 267, 462];

/// A command's place in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The transaction's number in its session.
    pub(crate) number: i64,
    /// It is the first.
    pub(crate) starts: bool,
}

/// How the transaction of a session's newest number stands.
#[derive(Default)]
pub(crate) enum Standing {
    /// The number is not a transaction's.
    #[default]
    None,
    Open(Arc<dyn Transaction>),
    Committed,
    /// The commit was sent and its outcome is not known; every further one is told so.
    Unknown(CommandError),
    Aborted,
}

/// The state that snapshot reads of a session see.
pub(crate) struct Snapshot {
    pub(crate) time: Timestamp,
    pub(crate) of: Arc<dyn Transaction>,
}

fn no_such(message: String) -> CommandError {
    let mut error = CommandError::new(Code::NoSuchTransaction, message);
    error.label(TRANSIENT);
    error
}

impl Writes {
    /// Begins a transaction; one that is open under an older number ends without effect.
    ///
    /// # Errors
    /// `TransactionTooOld` for an old number, `ConflictingOperationInProgress` for one that was used; the engine's.
    fn start(&mut self, number: i64, documents: &dyn Documents) -> Result<Arc<dyn Transaction>> {
        self.check_age(number)?;
        if self.newest == Some(number) {
            return Err(CommandError::new(
                Code::ConflictingOperationInProgress,
                format!(
                    "cannot start a transaction at given transaction number {number}: it was used already"
                ),
            ));
        }
        self.advance(number);
        self.standing = Standing::Aborted;
        let transaction = documents.start_transaction()?;
        self.standing = Standing::Open(transaction.clone());
        Ok(transaction)
    }

    /// The open transaction of that number.
    ///
    /// # Errors
    /// `TransactionTooOld`, `TransactionCommitted`, `NoSuchTransaction`.
    fn go_on(&mut self, number: i64) -> Result<Arc<dyn Transaction>> {
        self.check_number(number)?;
        match &self.standing {
            Standing::Open(transaction) if transaction.is_open() => Ok(transaction.clone()),
            Standing::Committed | Standing::Unknown(_) => Err(committed(number)),
            // Its time is over, or a statement of it failed.
            Standing::Open(_) | Standing::Aborted | Standing::None => {
                self.standing = Standing::Aborted;
                Err(no_such(format!("transaction {number} has been aborted")))
            }
        }
    }

    /// Commits, or tells again that it was done.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on); `WriteConflict` when another operation was faster; the store's, after which the
    /// outcome is not known.
    ///
    /// # Cancel safety
    /// When dropped, the outcome is not known, and later commits are told so.
    async fn commit(&mut self, number: i64) -> Result<()> {
        self.check_number(number)?;
        let transaction = match &self.standing {
            Standing::Open(transaction) => transaction.clone(),
            Standing::Committed => return Ok(()),
            Standing::Unknown(error) => return Err(error.clone()),
            Standing::Aborted | Standing::None => {
                return Err(no_such(format!("transaction {number} has been aborted")));
            }
        };
        self.standing = Standing::Unknown(CommandError::new(
            Code::Interrupted,
            "the commit was interrupted, and its outcome is not known",
        ));
        match transaction.commit().await {
            Ok(()) => {
                self.standing = Standing::Committed;
                Ok(())
            }
            Err(error) => {
                let mut error = CommandError::from(error);
                if matches!(error.kind(), Fault::Internal | Fault::Deadline) {
                    error.label(UNKNOWN_COMMIT);
                    self.standing = Standing::Unknown(error.clone());
                } else {
                    self.standing = Standing::Aborted;
                    if TRANSIENT_CODES.contains(&error.code()) {
                        error.label(TRANSIENT);
                    }
                }
                Err(error)
            }
        }
    }

    /// Ends the transaction without effect.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    fn abort(&mut self, number: i64) -> Result<()> {
        self.go_on(number)?;
        self.abort_open();
        Ok(())
    }

    /// Ends the transaction of that number without effect, if it is open.
    pub(crate) fn lose(&mut self, number: i64) {
        if self.newest == Some(number) {
            self.abort_open();
        }
    }

    /// Ends the open transaction without effect, if there is one.
    pub(crate) fn abort_open(&mut self) {
        if let Standing::Open(transaction) = &self.standing {
            transaction.abort();
            self.standing = Standing::Aborted;
        }
    }

    fn check_number(&self, number: i64) -> Result<()> {
        self.check_age(number)?;
        if self.newest == Some(number) {
            return Ok(());
        }
        let newest = self.newest.unwrap_or(-1);
        Err(no_such(format!(
            "given transaction number {number} does not match any in-progress transactions. The active transaction number is {newest}"
        )))
    }

    /// The state for snapshot reads: a new one, or that of an earlier read.
    ///
    /// # Errors
    /// `SnapshotTooOld` when there is no such state any more; the engine's.
    pub(crate) fn snapshot(
        &mut self,
        documents: &dyn Documents,
        wanted: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Timestamp, Arc<dyn Statements>)> {
        if let Some(wanted) = wanted {
            return match &self.snapshot {
                Some(snapshot) if snapshot.time == wanted && snapshot.of.is_open() => {
                    Ok((wanted, snapshot.of.clone()))
                }
                _ => {
                    // It holds nothing any more that anybody can read.
                    self.snapshot = None;
                    Err(too_old())
                }
            };
        }
        let of = documents.start_transaction()?;
        self.snapshot = Some(Snapshot {
            time: now,
            of: of.clone(),
        });
        Ok((now, of))
    }
}

/// The error of a read whose snapshot is gone.
pub(crate) fn too_old() -> CommandError {
    CommandError::new(
        Code::SnapshotTooOld,
        "the snapshot is not there any more: it was left for another, a read of it failed, or its time was over",
    )
}

fn committed(number: i64) -> CommandError {
    CommandError::new(
        Code::TransactionCommitted,
        format!("transaction {number} has been committed"),
    )
}

/// Carries out a command of a transaction.
///
/// # Errors
/// The command's own, after which the transaction has ended; those of the transaction.
pub(crate) async fn run(
    verb: Verb,
    part: Part,
    call: &mut Call<'_>,
    writes: &mut Writes,
) -> Result<RawDocumentBuf> {
    let number = part.number;
    let outcome = match verb {
        Verb::CommitTransaction => writes.commit(number).await.map(|()| RawDocumentBuf::new()),
        Verb::AbortTransaction => writes.abort(number).map(|()| RawDocumentBuf::new()),
        verb => {
            let transaction = if part.starts {
                writes.start(number, call.shared.documents.as_ref())
            } else {
                writes.go_on(number)
            };
            match transaction {
                Ok(transaction) => {
                    call.open = Some(transaction.clone());
                    call.statements = transaction;
                    call.transaction = Some(number);
                    let outcome = commands::run(verb, call).await;
                    let mut outcome = outcome.inspect_err(|_| writes.abort_open());
                    if let (Ok(reply), Topology::Router) = (&mut outcome, &call.shared.settings.topology) {
                        // Drivers expect it of a router, and send it along with the commit. There is one place to
                        // recover from, so it says nothing.
                        reply.append(cstr!("recoveryToken"), rawdoc! { "recoveryShardId": "node" });
                    }
                    outcome
                }
                Err(error) => Err(error),
            }
            .map_err(|mut error| {
                if is_transient(error.code(), verb) {
                    error.label(TRANSIENT);
                }
                error
            })
        }
    };
    if writes.newest == Some(number) && !matches!(writes.standing, Standing::Open(_)) {
        let of = |owner: &crate::cursors::Owner| {
            owner.transaction == Some(number) && owner.session == call.session
        };
        call.shared.cursors.kill_of(of, &call.shared.metrics);
    }
    outcome
}

/// Whether the whole transaction may be run again after a command of it failed so. What a lost server says of a
/// commit tells nothing of its outcome: then only the commit may be sent again.
pub(crate) fn is_transient(code: i32, verb: Verb) -> bool {
    let ends = matches!(verb, Verb::CommitTransaction | Verb::AbortTransaction);
    TRANSIENT_CODES.contains(&code) || (!ends && crate::error::is_retryable_write(code))
}

/// Whether a command may be part of a transaction.
pub(crate) fn may_join(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Find
            | Verb::GetMore
            | Verb::KillCursors
            | Verb::Distinct
            | Verb::Aggregate
            | Verb::Insert
            | Verb::Update
            | Verb::Delete
            | Verb::FindAndModify
            | Verb::BulkWrite
            | Verb::Create
            | Verb::CreateIndexes
            | Verb::CommitTransaction
            | Verb::AbortTransaction
    )
}
