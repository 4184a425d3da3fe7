//! One command from its document to its reply: name, database, what any command may carry, who may send it, fail
//! points, retried writes, and the reply's frame. What the command does is in `commands`.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, Timestamp, raw::cstr, rawdoc};
use cloudlet_base::{CancelFlag, Deadline};
use cloudlet_data::{Namespace, Statements, Transaction};
use tokio::sync::SemaphorePermit;

use crate::args;
use crate::commands;
use crate::conn::{Conn, Login};
use crate::error::{Code, CommandError, RETRYABLE_WRITE_ERROR, Result, is_retryable_write};
use crate::failpoint::{Strike, WriteStrike};
use crate::frame::{ReplyForm, Request, Sequence};
use crate::logical_time;
use crate::metrics::{Limit, Raised};
use crate::operations::{Operation, Running};
use crate::profile;
use crate::roles::Need;
use crate::sessions::{SessionId, Turn, Writes};
use crate::shared::Shared;
use crate::transactions::{self, Part};
use crate::verb::Verb;

/// Longest name of a database, bytes.
const DATABASE_BYTES_MAX: usize = 63;

/// What becomes of a request.
pub(crate) enum Outcome {
    /// Send this.
    Reply(RawDocumentBuf),
    /// Close the connection.
    Close,
}

/// A command at work.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Shared,
    /// What its statements are for: the database, or a transaction on it.
    pub(crate) statements: Arc<dyn Statements>,
    pub(crate) conn: &'a mut Conn,
    /// The command's name as it was sent.
    pub(crate) name: String,
    /// Its database.
    pub(crate) db: Arc<str>,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) deadline: Deadline,
    /// What it says of its time; of a getMore that waits, of the waiting.
    pub(crate) max_time: Option<Duration>,
    /// Set when the peer goes away.
    pub(crate) cancel: CancelFlag,
    /// What is listed of it, and told when it is to end.
    pub(crate) operation: Arc<Operation>,
    /// Its place among the commands at work.
    pub(crate) permit: Option<SemaphorePermit<'a>>,
    /// The session, if it runs in one.
    pub(crate) session: Option<SessionId>,
    /// The number of the transaction that it is part of.
    pub(crate) transaction: Option<i64>,
    /// That transaction, while it is open.
    pub(crate) open: Option<Arc<dyn Transaction>>,
    /// The time of the snapshot that it reads.
    pub(crate) snapshot_time: Option<Timestamp>,
    body: RawDocumentBuf,
}

/// What any command may carry, as far as it means something here.
#[derive(Default)]
struct Generic {
    db: Option<Arc<str>>,
    lsid: Option<RawDocumentBuf>,
    number: Option<i64>,
    max_time: Option<Duration>,
    autocommit: Option<bool>,
    start_transaction: bool,
    /// A read concern was given.
    read_concern: bool,
    /// A snapshot is to be read: that of a time, if one is given.
    snapshot: Option<Option<Timestamp>>,
    /// A write concern was given.
    write_concern: bool,
    /// Why the write concern can't be met; the write happens all the same.
    concern: Option<(Code, String)>,
}

impl Call<'_> {
    /// The command's document; once.
    pub(crate) fn take_body(&mut self) -> RawDocumentBuf {
        std::mem::take(&mut self.body)
    }

    /// A collection of the command's database.
    ///
    /// # Errors
    /// `InvalidNamespace` for an empty name.
    pub(crate) fn namespace(&self, collection: &str) -> Result<Namespace> {
        if collection.is_empty() {
            let message = format!("Invalid namespace specified '{}.'", self.db);
            return Err(CommandError::new(Code::InvalidNamespace, message));
        }
        Ok(Namespace::new(self.db.clone(), collection))
    }

    /// The collection that the command's first field names.
    pub(crate) fn target(&self, body: &bson::RawDocument) -> Result<Namespace> {
        self.namespace(&args::collection(&self.name, body)?)
    }

    /// What a fail point does to it, a numbered write.
    fn write_strike(&self) -> Option<WriteStrike> {
        if !self.shared.settings.test_commands {
            return None;
        }
        let named = |name: &&str| matches!(*name, "documents" | "updates" | "deletes" | "ops");
        let sent = self.sequences.iter().find(|sequence| named(&&*sequence.name));
        let inline = || {
            let fields = self.body.iter().flatten();
            let mut arrays = fields.filter(|(name, _)| named(&name.as_str()));
            arrays.find_map(|(_, value)| Some(value.as_array()?.into_iter().count()))
        };
        let statements = sent.map(|sequence| sequence.documents.len()).or_else(inline);
        self.shared.fail_point.strike_write(statements.unwrap_or(1))
    }

    /// Who sends it, as cursors and sessions remember; none when authentication is off.
    pub(crate) fn user(&self) -> Option<Arc<str>> {
        self.conn.login.as_ref().map(|login| login.name.clone())
    }

    /// Whether the caller may do something on a database.
    pub(crate) fn may(&self, need: Need, db: &str) -> bool {
        !self.shared.settings.authentication
            || self
                .conn
                .login
                .as_ref()
                .is_some_and(|login| login.user.allows(need, db))
    }

    /// # Errors
    /// `Unauthorized` when the caller may not.
    pub(crate) fn require(&self, need: Need, db: &str) -> Result<()> {
        if self.may(need, db) {
            return Ok(());
        }
        let message = format!("not authorized on {db} to execute command {}", self.name);
        Err(CommandError::new(Code::Unauthorized, message))
    }

    /// # Errors
    /// `Unauthorized` when the caller may not do it on every database.
    pub(crate) fn require_everywhere(&self, need: Need) -> Result<()> {
        let login = self.conn.login.as_ref();
        let may = login.is_some_and(|login| login.user.allows_everywhere(need));
        if may || !self.shared.settings.authentication {
            return Ok(());
        }
        let message = format!("not authorized on all databases to execute command {}", self.name);
        Err(CommandError::new(Code::Unauthorized, message))
    }
}

/// Carries out a request.
pub(crate) async fn answer(
    shared: &Shared,
    conn: &mut Conn,
    request: Request,
    cancel: CancelFlag,
) -> Outcome {
    shared.sweep();
    let began = shared.now();
    let name = first_name(&request);
    let verb = Verb::from_name(&name);
    let mut listed = None;
    let outcome = carry_out(shared, conn, request, name, verb, (cancel, &mut listed)).await;
    // Whatever its work made of being told to stop.
    let operation = listed.map(|running| running.operation.clone());
    let outcome = match &operation {
        Some(operation) if operation.is_killed() => outcome.map_err(|_| interrupted()),
        _ => outcome,
    };
    let (reply, ok) = match outcome {
        Ok(Done::Reply(mut reply)) => {
            reply.append(cstr!("ok"), 1.0);
            (Some(reply), true)
        }
        Ok(Done::Close) => (None, false),
        Err(error) => {
            tracing::debug!(
                code = error.code(),
                kind = error.kind().label(),
                command = verb.map_or("unknown", Verb::name),
                "mongo command failed"
            );
            (Some(error.reply()), false)
        }
    };
    let outcome = match reply {
        Some(mut reply) => {
            let time = shared.operation_time(verb.is_some_and(Verb::is_write)).await;
            reply.append(cstr!("operationTime"), time);
            reply.append(cstr!("$clusterTime"), logical_time::gossip(time));
            Outcome::Reply(reply)
        }
        None => Outcome::Close,
    };
    let label = verb.map_or("unknown", Verb::name);
    shared.metrics.command(label, ok);
    let took = shared.now().saturating_sub(began);
    if let (Some(operation), Outcome::Reply(reply)) = (&operation, &outcome)
        && verb.is_some_and(Verb::is_profiled)
    {
        profile::note(shared, operation, reply, took).await;
    }
    shared.metrics.command_seconds.observe(took.as_secs_f64());
    outcome
}

/// The error of a command that `killOp` ended.
pub(crate) fn interrupted() -> CommandError {
    CommandError::new(Code::Interrupted, "operation was interrupted")
}

/// What a command came to.
enum Done {
    /// A reply that still lacks its `ok`.
    Reply(RawDocumentBuf),
    /// No reply: the connection is to be closed.
    Close,
}

/// Carries a command out. `listed` gets its place among the commands at work.
async fn carry_out<'s>(
    shared: &'s Shared,
    conn: &mut Conn,
    request: Request,
    name: String,
    verb: Option<Verb>,
    (cancel, listed): (CancelFlag, &mut Option<Running<'s>>),
) -> Result<Done> {
    let legacy = request.reply == ReplyForm::Legacy;
    let Some(verb) = verb else {
        // A first field that can't be read has no name to look up.
        request.body.iter().next().transpose()?;
        if shared.settings.authentication && conn.login.is_none() {
            return Err(needs_login(&name));
        }
        return Err(CommandError::new(
            Code::CommandNotFound,
            format!("no such command: '{name}'"),
        ));
    };
    if legacy && verb != Verb::Hello {
        return Err(CommandError::new(
            Code::UnsupportedOpQueryCommand,
            format!("Unsupported OP_QUERY command: {name}. The client driver may require an upgrade."),
        ));
    }
    let generic = Generic::parse(&request.body)?;
    let db = generic
        .db
        .clone()
        .ok_or_else(|| CommandError::new(Code::FailedToParse, "OP_MSG requests require a $db argument"))?;
    check_database(&db)?;
    authorise(shared, conn, verb, &name, &db).await?;
    let permit = shared.command_permits.try_acquire().map_err(|_| {
        shared.metrics.refused(Limit::Commands);
        let max = shared.limits.commands_max;
        CommandError::new(
            Code::TooManyRequests,
            format!("{max} commands are at work, and commands_max is {max}"),
        )
    })?;
    let _running = Raised::by(&shared.metrics.commands_running, 1);
    let running = shared
        .operations
        .begin(shared, conn, (verb, &db), &request, cancel.clone());
    let operation = listed.insert(running).operation.clone();

    let user = conn.login.as_ref().map(|login| login.name.clone());
    let session = match &generic.lsid {
        Some(lsid) if verb.need() != Need::Nothing => Some(SessionId::parse(lsid, user)?),
        _ => None,
    };
    let writes = session
        .as_ref()
        .map(|session| {
            shared
                .sessions
                .touch(session, shared.now(), &shared.limits, &shared.metrics)
        })
        .transpose()?;
    let part = generic.part(verb, &name, &db, session.is_some())?;
    let reads = matches!(
        verb,
        Verb::Find | Verb::Aggregate | Verb::Distinct | Verb::GetMore
    );
    if generic.snapshot.is_some() && part.is_none() && !reads {
        return Err(CommandError::new(
            Code::InvalidOptions,
            format!("{name} does not take read concern level snapshot"),
        ));
    }
    let number = generic.number.filter(|_| verb.is_retryable());
    let collection = request
        .body
        .iter()
        .next()
        .and_then(|field| field.ok()?.1.as_str());
    let ns = format!("{db}.{}", collection.unwrap_or_default());
    let strike = if shared.settings.test_commands {
        shared.fail_point.strike(&name, &ns, conn.app_name.as_deref())
    } else {
        None
    };
    if let Some(strike) = &strike {
        if let Some(time) = strike.block {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = operation.ended() => return Err(interrupted()),
            }
        }
        if strike.close {
            // A router that loses a statement's connection ends its transaction.
            if let (Some(part), Some(writes), false) = (&part, &writes, ends_transaction(verb)) {
                writes.lock().await.lose(part.number);
            }
            return Ok(Done::Close);
        }
        let in_transaction = part.map(|_| verb);
        if let Some(error) = strike.error(generic.is_numbered_write(verb), in_transaction) {
            return Err(error);
        }
    }
    if shared.settings.test_commands
        && generic.max_time.is_some()
        && let Some(error) = shared.fail_point.strike_max_time()
    {
        return Err(error);
    }
    let budget = generic.max_time.map_or(shared.limits.command_time_max, |time| {
        time.min(shared.limits.command_time_max)
    });
    let mut call = Call {
        shared,
        statements: shared.documents.clone(),
        conn,
        name,
        db,
        sequences: request.sequences,
        deadline: Deadline::after(shared.clock.as_ref(), budget).with_cancel(cancel.clone()),
        max_time: generic.max_time,
        cancel,
        operation,
        permit: Some(permit),
        session,
        transaction: None,
        open: None,
        snapshot_time: None,
        body: request.body,
    };
    if let (Some(part), Some(writes)) = (part, &writes) {
        // One statement at a time; a repeated commit waits for the first to end.
        let mut writes = writes.lock().await;
        let outcome = transactions::run(verb, part, &mut call, &mut writes).await;
        let mut reply = outcome.map_err(|mut error| {
            if ends_transaction(verb) && error.is_retryable_write() {
                error.label(RETRYABLE_WRITE_ERROR);
            }
            error
        })?;
        add_concern(verb, &generic, strike.as_ref(), &mut reply);
        return Ok(Done::Reply(reply));
    }
    match (number, writes) {
        (Some(number), Some(writes)) => {
            // One numbered write of a session at a time: a retry waits for the first try to end.
            let mut writes = writes.lock().await;
            let mut lose = false;
            let outcome = match writes.begin(number)? {
                Turn::Done(reply) => Ok(reply),
                Turn::New => {
                    match call.write_strike() {
                        Some(WriteStrike::Before(None)) => return Ok(Done::Close),
                        Some(WriteStrike::Before(Some(code))) => {
                            return Err(CommandError::ordered(code, "failing a write as ordered"));
                        }
                        Some(WriteStrike::After) => lose = true,
                        None => {}
                    }
                    commands::run(verb, &mut call).await
                }
            };
            let mut reply = outcome.map_err(|mut error| {
                if error.is_retryable_write() {
                    error.label(RETRYABLE_WRITE_ERROR);
                }
                error
            })?;
            if let Some(session) = &call.session {
                shared
                    .sessions
                    .remember(session, &mut writes, &reply, &shared.limits);
            }
            if lose {
                return Ok(Done::Close);
            }
            add_concern(verb, &generic, strike.as_ref(), &mut reply);
            Ok(Done::Reply(reply))
        }
        (_, writes) => {
            if let Some(wanted) = generic.snapshot {
                read_snapshot(&mut call, verb, wanted, writes).await?;
            }
            let outcome = commands::run(verb, &mut call).await;
            let mut reply = outcome.map_err(|error| {
                // The transaction that holds the snapshot is nothing that the caller knows of.
                let gone = error.code() == Code::NoSuchTransaction.number();
                if gone && call.snapshot_time.is_some() {
                    return transactions::too_old();
                }
                error
            })?;
            add_concern(verb, &generic, strike.as_ref(), &mut reply);
            Ok(Done::Reply(reply))
        }
    }
}

/// Adds to a reply what there is to say of the write concern.
fn add_concern(verb: Verb, generic: &Generic, strike: Option<&Strike>, reply: &mut RawDocumentBuf) {
    if let Some((ordered, code)) = strike.and_then(Strike::write_concern_error) {
        reply.append(cstr!("writeConcernError"), ordered);
        let own = || {
            let retryable = generic.is_numbered_write(verb) && is_retryable_write(code);
            retryable.then(|| vec![RETRYABLE_WRITE_ERROR.to_owned()])
        };
        let labels = strike
            .and_then(|strike| {
                strike
                    .write_concern_labels()
                    .or_else(|| strike.error_labels.clone())
            })
            .or_else(own);
        if let Some(labels) = labels {
            let mut shown = RawArrayBuf::new();
            labels.iter().for_each(|label| shown.push(&**label));
            reply.append(cstr!("errorLabels"), shown);
        }
    } else if let Some((code, why)) = generic.concern.as_ref().filter(|_| verb.is_write()) {
        let error = rawdoc! { "code": code.number(), "codeName": code.name(), "errmsg": &**why };
        reply.append(cstr!("writeConcernError"), error);
    }
}

fn first_name(request: &Request) -> String {
    let first = request.body.iter().next().and_then(Result::ok);
    first.map_or_else(String::new, |(name, _)| name.as_str().to_owned())
}

fn needs_login(name: &str) -> CommandError {
    CommandError::new(
        Code::Unauthorized,
        format!("Command {name} requires authentication"),
    )
}

/// Checks that the caller may send the command, with the user as it is now.
async fn authorise(shared: &Shared, conn: &mut Conn, verb: Verb, name: &str, db: &str) -> Result<()> {
    if !shared.settings.authentication || verb.need() == Need::Nothing {
        return Ok(());
    }
    let generation = shared.users.generation();
    if let Some(login) = conn.login.as_ref().filter(|login| login.generation != generation) {
        let now = shared.users.get(&login.user.db, &login.user.name).await?;
        // A user that was dropped and made again is another one.
        conn.login = now.filter(|now| now.id == login.user.id).map(|user| Login {
            name: login.name.clone(),
            user,
            generation,
        });
    }
    let Some(login) = &conn.login else {
        return Err(needs_login(name));
    };
    if verb.need() == Need::Login || login.user.allows(verb.need(), db) {
        return Ok(());
    }
    let message = format!("not authorized on {db} to execute command {name}");
    Err(CommandError::new(Code::Unauthorized, message))
}

/// Checks a database's name. One with a `/` is the platform's, and no driver can name it.
pub(crate) fn check_database(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > DATABASE_BYTES_MAX
        || name.contains(['/', '\\', '.', ' ', '"', '$', '\0']);
    if bad {
        return Err(CommandError::new(
            Code::InvalidNamespace,
            format!("Invalid database name: '{name}'"),
        ));
    }
    Ok(())
}

impl Generic {
    fn parse(body: &bson::RawDocument) -> Result<Self> {
        let mut generic = Self::default();
        for field in body {
            let (name, value) = field?;
            match name.as_str() {
                "$db" => generic.db = Some(args::text("$db", value)?.into()),
                "lsid" => generic.lsid = args::maybe_document("lsid", value)?,
                "txnNumber" => generic.number = Some(args::integer("txnNumber", value)?),
                "autocommit" => generic.autocommit = Some(args::flag("autocommit", value)?),
                "startTransaction" => generic.start_transaction = args::flag("startTransaction", value)?,
                "maxTimeMS" => generic.max_time = max_time(value)?,
                "writeConcern" => {
                    generic.write_concern = true;
                    generic.concern = concern(value)?;
                }
                "readConcern" => {
                    let concern = args::document("readConcern", value)?;
                    generic.read_concern = !concern.is_empty();
                    generic.snapshot = parse_read_concern(concern)?;
                }
                "apiVersion" => check_api_version(args::text("apiVersion", value)?)?,
                _ => {}
            }
        }
        Ok(generic)
    }

    /// The command's place in a transaction, if it is part of one.
    ///
    /// # Errors
    /// `InvalidOptions` when its arguments contradict each other, `OperationNotSupportedInTransaction` when it can't
    /// be part of one.
    fn part(&self, verb: Verb, name: &str, db: &str, session: bool) -> Result<Option<Part>> {
        let invalid = |message: &str| Err(CommandError::new(Code::InvalidOptions, message));
        let not_in_transaction = |message: String| {
            Err(CommandError::new(
                Code::OperationNotSupportedInTransaction,
                message,
            ))
        };
        match self.autocommit {
            None if self.start_transaction => {
                return invalid("'startTransaction' field requires 'autocommit' field to also be specified");
            }
            None => return Ok(None),
            Some(true) => return invalid("Specifying autocommit=true is not allowed."),
            Some(false) => {}
        }
        let Some(number) = self.number else {
            return invalid("'autocommit' field requires a transaction number to also be specified");
        };
        if number < 0 {
            return invalid("Transaction number cannot be negative");
        }
        if !session {
            return invalid("Transaction number requires a session ID to also be specified");
        }
        if !transactions::may_join(verb) {
            return not_in_transaction(format!("Cannot run '{name}' in a multi-document transaction."));
        }
        if ends_transaction(verb) {
            if self.start_transaction {
                return invalid("a transaction can't be started by the command that ends it");
            }
        } else if matches!(db, "admin" | "config" | "local") && !is_of_bulk_write(verb) {
            return not_in_transaction(format!(
                "Cannot run command against the '{db}' database in a transaction."
            ));
        } else if self.write_concern {
            return invalid("writeConcern is not allowed within a multi-statement transaction");
        } else if self.read_concern && !self.start_transaction {
            return invalid("Only the first command in a transaction may specify a readConcern");
        }
        Ok(Some(Part {
            number,
            starts: self.start_transaction,
        }))
    }

    /// Whether a driver may send the command again under its number.
    fn is_numbered_write(&self, verb: Verb) -> bool {
        self.number.is_some() && (self.autocommit.is_none() || ends_transaction(verb))
    }
}

/// Whether the command is `bulkWrite`, which is sent to `admin` whatever it writes to, or for the cursor over its
/// results.
fn is_of_bulk_write(verb: Verb) -> bool {
    matches!(verb, Verb::BulkWrite | Verb::GetMore | Verb::KillCursors)
}

fn ends_transaction(verb: Verb) -> bool {
    matches!(verb, Verb::CommitTransaction | Verb::AbortTransaction)
}

/// Lets a read see one state, the same for all snapshot reads of its session.
async fn read_snapshot(
    call: &mut Call<'_>,
    verb: Verb,
    wanted: Option<Timestamp>,
    writes: Option<Arc<tokio::sync::Mutex<Writes>>>,
) -> Result<()> {
    if verb == Verb::GetMore {
        // Its cursor has the state with it.
        return Ok(());
    }
    let shared = call.shared;
    // Before the state is taken: what is committed meanwhile may be seen, but nothing from before is missing.
    let now = shared.operation_time(false).await;
    let documents = shared.documents.as_ref();
    let (time, state) = match writes {
        Some(writes) => writes.lock().await.snapshot(documents, wanted, now)?,
        // Without a session nobody can come back to it.
        None => Writes::default().snapshot(documents, wanted, now)?,
    };
    call.snapshot_time = Some(time);
    call.statements = state;
    Ok(())
}

fn max_time(value: RawBsonRef<'_>) -> Result<Option<Duration>> {
    let millis = args::integer("maxTimeMS", value)?;
    match u64::try_from(millis) {
        Ok(0) => Ok(None),
        Ok(millis) if millis <= i32::MAX as u64 => Ok(Some(Duration::from_millis(millis))),
        _ => Err(CommandError::new(
            Code::BadValue,
            format!("{millis} value for maxTimeMS is out of range [0, {}]", i32::MAX),
        )),
    }
}

fn check_api_version(version: &str) -> Result<()> {
    if version == "1" {
        return Ok(());
    }
    Err(CommandError::new(
        Code::APIVersionError,
        "API version must be \"1\"",
    ))
}

/// Every level but one is met by reading what was committed last. For a snapshot: the time of an earlier one.
fn parse_read_concern(concern: &bson::RawDocument) -> Result<Option<Option<Timestamp>>> {
    let level = match concern.get("level")? {
        None => return Ok(None),
        Some(level) => args::text("readConcern.level", level)?,
    };
    match level {
        "local" | "available" | "majority" | "linearizable" => Ok(None),
        "snapshot" => match concern.get("atClusterTime")? {
            None => Ok(Some(None)),
            Some(RawBsonRef::Timestamp(time)) => Ok(Some(Some(time))),
            Some(_) => Err(CommandError::new(
                Code::TypeMismatch,
                "readConcern.atClusterTime is a timestamp",
            )),
        },
        other => Err(CommandError::new(
            Code::FailedToParse,
            format!("'{other}' is not a read concern level"),
        )),
    }
}

/// What of a write concern can't be met by a node that is alone. Every write is durable when it is answered, so
/// `j` and majorities are met always.
fn concern(value: RawBsonRef<'_>) -> Result<Option<(Code, String)>> {
    let concern = args::document("writeConcern", value)?;
    Ok(match concern.get("w")? {
        None | Some(RawBsonRef::String("majority")) => None,
        Some(RawBsonRef::String(other)) => Some((
            Code::UnknownReplWriteConcern,
            format!("No write concern mode named '{other}' found in replica set configuration"),
        )),
        Some(RawBsonRef::Document(_)) => Some((
            Code::UnknownReplWriteConcern,
            "write concerns by tags are not supported".to_owned(),
        )),
        Some(number) => match args::integer("w", number)? {
            0 | 1 => None,
            2..=50 => Some((
                Code::UnsatisfiableWriteConcern,
                "Not enough data-bearing nodes".to_owned(),
            )),
            _ => {
                return Err(CommandError::new(
                    Code::FailedToParse,
                    "w has to be a non-negative number and not greater than 50",
                ));
            }
        },
    })
}
