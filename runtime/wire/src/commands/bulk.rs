//! `bulkWrite`: inserts, updates and deletes of several collections in one command, as MongoDB 8.0 has it. Operations
//! that follow each other and are alike go to the database together. What a statement may say is `write`'s business.

use std::collections::HashSet;

use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{Delete, DeleteOne, Insert, Namespace, Update, UpdateOne};

use super::write::{self, Variables, check_batch};
use super::{query, reply};
use crate::args::{self, Args};
use crate::call::{Call, check_database};
use crate::error::{Code, CommandError, Result};
use crate::roles::Need;

/// The collection that the cursor over the results names.
const RESULTS: &str = "$cmd.bulkWrite";

/// One operation, its collection by its place in `nsInfo`.
enum Op {
    Insert(usize, RawDocumentBuf),
    Update(usize, UpdateOne),
    Delete(usize, DeleteOne),
}

impl Op {
    fn ns(&self) -> usize {
        match self {
            Op::Insert(ns, _) | Op::Update(ns, _) | Op::Delete(ns, _) => *ns,
        }
    }

    /// Whether it may go to the database together with another one.
    fn goes_with(&self, other: &Op) -> bool {
        self.ns() == other.ns() && std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Some operations that are alike.
enum Run {
    Insert(Vec<RawDocumentBuf>),
    Update(Vec<UpdateOne>),
    Delete(Vec<DeleteOne>),
}

impl Run {
    fn of(op: Op) -> Self {
        match op {
            Op::Insert(_, document) => Run::Insert(vec![document]),
            Op::Update(_, statement) => Run::Update(vec![statement]),
            Op::Delete(_, statement) => Run::Delete(vec![statement]),
        }
    }

    /// Adds an operation of its kind.
    fn push(&mut self, op: Op) {
        match (self, op) {
            (Run::Insert(run), Op::Insert(_, document)) => run.push(document),
            (Run::Update(run), Op::Update(_, statement)) => run.push(statement),
            (Run::Delete(run), Op::Delete(_, statement)) => run.push(statement),
            // Only what goes together is added.
            (Run::Insert(_) | Run::Update(_) | Run::Delete(_), _) => {}
        }
    }

    fn len(&self) -> usize {
        match self {
            Run::Insert(run) => run.len(),
            Run::Update(run) => run.len(),
            Run::Delete(run) => run.len(),
        }
    }
}

/// What became of one operation.
#[derive(Default)]
struct Outcome {
    n: u64,
    modified: Option<u64>,
    upserted: Option<RawBson>,
    error: Option<CommandError>,
}

/// What the command says of all operations, beside the operations.
struct Options {
    ordered: bool,
    errors_only: bool,
    bypass_validation: bool,
    batch: Option<usize>,
    variables: Variables,
}

/// The sums of the reply, and the rows of its cursor.
#[derive(Default)]
struct Done {
    errors: u64,
    inserted: u64,
    matched: u64,
    modified: u64,
    upserted: u64,
    deleted: u64,
    rows: Vec<RawDocumentBuf>,
}

impl Done {
    /// Counts the outcomes of a run whose first operation is the one at `first`.
    fn add(&mut self, first: usize, run: Vec<Outcome>, kind: &Kind, errors_only: bool) {
        for (at, outcome) in run.into_iter().enumerate() {
            let upserted = u64::from(outcome.upserted.is_some());
            match kind {
                Kind::Insert => self.inserted += outcome.n,
                Kind::Update => {
                    self.matched += outcome.n - upserted;
                    self.modified += outcome.modified.unwrap_or(0);
                    self.upserted += upserted;
                }
                Kind::Delete => self.deleted += outcome.n,
            }
            self.errors += u64::from(outcome.error.is_some());
            if outcome.error.is_some() || !errors_only {
                self.rows.push(row(first + at, outcome));
            }
        }
    }
}

/// The kind of a run.
enum Kind {
    Insert,
    Update,
    Delete,
}

/// `{ok, idx, n, nModified, upserted: {_id}}`, or `{ok, idx, code, errmsg, n}`.
fn row(index: usize, outcome: Outcome) -> RawDocumentBuf {
    let mut row = match &outcome.error {
        None => rawdoc! { "ok": 1.0 },
        Some(_) => rawdoc! { "ok": 0.0 },
    };
    row.append(cstr!("idx"), i32::try_from(index).unwrap_or(i32::MAX));
    if let Some(error) = outcome.error {
        error.append_to(&mut row);
    }
    row.append(cstr!("n"), reply::number(outcome.n));
    if let Some(modified) = outcome.modified {
        row.append(cstr!("nModified"), reply::number(modified));
    }
    if let Some(id) = outcome.upserted {
        row.append(cstr!("upserted"), rawdoc! { "_id": id });
    }
    row
}

/// `bulkWrite`.
pub(crate) async fn bulk_write(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    if &*call.db != "admin" {
        return Err(CommandError::new(
            Code::Unauthorized,
            "bulkWrite may only be run against the admin database.",
        ));
    }
    let body = call.take_body();
    let (options, ops, namespaces) = parse(call, &body).await?;
    let done = carry_out(call, &options, ops, &namespaces).await?;
    let results = Namespace::new(call.db.clone(), RESULTS);
    let all = usize::MAX;
    let mut reply = reply::list(call, &results, done.rows, Some(options.batch.unwrap_or(all)))?;
    reply.append(cstr!("nErrors"), reply::number(done.errors));
    reply.append(cstr!("nInserted"), reply::number(done.inserted));
    reply.append(cstr!("nMatched"), reply::number(done.matched));
    reply.append(cstr!("nModified"), reply::number(done.modified));
    reply.append(cstr!("nUpserted"), reply::number(done.upserted));
    reply.append(cstr!("nDeleted"), reply::number(done.deleted));
    Ok(reply)
}

async fn parse(call: &mut Call<'_>, body: &RawDocument) -> Result<(Options, Vec<Op>, Vec<Namespace>)> {
    let mut options = Options {
        ordered: true,
        errors_only: false,
        bypass_validation: false,
        batch: None,
        variables: Variables::default(),
    };
    let (mut ops, mut infos) = (None, None);
    let mut args = Args::new("bulkWrite", body);
    while let Some((name, value)) = args.next()? {
        match name {
            "ops" => ops = Some(value),
            "nsInfo" => infos = Some(value),
            "ordered" => options.ordered = args::flag("bulkWrite.ordered", value)?,
            "errorsOnly" => options.errors_only = args::flag("bulkWrite.errorsOnly", value)?,
            "bypassDocumentValidation" => options.bypass_validation = args::flag(name, value)?,
            "bypassEmptyTsReplacement" => {
                args::flag(name, value)?;
            }
            "let" => options.variables = Variables::parse(value)?,
            "cursor" => {
                if let Some(size) = args::document("bulkWrite.cursor", value)?.get("batchSize")? {
                    let size = query::batch_size(size)?;
                    options.batch = Some(usize::try_from(size).unwrap_or(usize::MAX));
                }
            }
            name => return Err(args.unknown(name)),
        }
    }
    let infos = args::batch("bulkWrite", "nsInfo", infos, &mut call.sequences)?;
    let ops = args::batch("bulkWrite", "ops", ops, &mut call.sequences)?;
    check_batch(ops.len())?;
    check_batch(infos.len())?;
    let mut namespaces = Vec::with_capacity(infos.len());
    for info in &infos {
        namespaces.push(namespace_of(call, info)?);
    }
    options.variables.check_room(ops.len())?;
    let mut hints = Hints::default();
    let mut parsed = Vec::with_capacity(ops.len());
    for op in &ops {
        parsed.push(operation(call, op, &namespaces, &options, &mut hints).await?);
    }
    Ok((options, parsed, namespaces))
}

/// A collection of `nsInfo`, which the caller may write to.
fn namespace_of(call: &Call<'_>, info: &RawDocument) -> Result<Namespace> {
    let mut ns = None;
    for field in info {
        let (name, value) = field?;
        match name.as_str() {
            "ns" => ns = Some(args::text("bulkWrite.nsInfo.ns", value)?),
            "collectionUUID" | "encryptionInformation" => {
                let message = format!("bulkWrite with nsInfo.{name} is not supported");
                return Err(CommandError::new(Code::CommandNotSupported, message));
            }
            name => return Err(write::unknown("bulkWrite.nsInfo", name)),
        }
    }
    let ns = ns.ok_or_else(|| args::missing("bulkWrite.nsInfo", "ns"))?;
    let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
    if collection.is_empty() {
        let message = format!("Invalid namespace specified for bulkWrite: '{ns}'");
        return Err(CommandError::new(Code::InvalidNamespace, message));
    }
    check_database(db)?;
    call.require(Need::Write, db)?;
    if call.transaction.is_some() && matches!(db, "admin" | "config" | "local") {
        return Err(CommandError::new(
            Code::OperationNotSupportedInTransaction,
            format!("Cannot run command against the '{db}' database in a transaction."),
        ));
    }
    Ok(Namespace::new(db, collection))
}

/// Hints that were found to name an index: thousands of operations may have the same.
#[derive(Default)]
struct Hints(HashSet<(usize, Vec<u8>)>);

impl Hints {
    async fn check(
        &mut self,
        call: &Call<'_>,
        at: usize,
        ns: &Namespace,
        hint: RawBsonRef<'_>,
    ) -> Result<()> {
        let key = (at, rawdoc! { "": RawBson::from(hint) }.into_bytes());
        if self.0.contains(&key) {
            return Ok(());
        }
        query::check_hint(call, ns, hint).await?;
        self.0.insert(key);
        Ok(())
    }
}

async fn operation(
    call: &Call<'_>,
    op: &RawDocument,
    namespaces: &[Namespace],
    options: &Options,
    hints: &mut Hints,
) -> Result<Op> {
    let mut fields = op.iter();
    let Some((kind, at)) = fields.next().transpose()? else {
        return Err(CommandError::new(
            Code::FailedToParse,
            "BulkWrite ops entry is empty",
        ));
    };
    let kind = kind.as_str();
    if !matches!(kind, "insert" | "update" | "delete") {
        return Err(CommandError::new(
            Code::FailedToParse,
            format!("Unrecognized write operation in bulkWrite: '{kind}'"),
        ));
    }
    let index = args::integer(kind, at)?;
    let at = usize::try_from(index).ok().filter(|at| *at < namespaces.len());
    let at = at.ok_or_else(|| {
        let message = format!(
            "BulkWrite ops entry has an invalid nsInfo index: {index}, and there are {}",
            namespaces.len()
        );
        CommandError::new(Code::BadValue, message)
    })?;
    let ns = &namespaces[at];
    match kind {
        "insert" => {
            let mut document = None;
            for field in fields {
                let (name, value) = field?;
                match name.as_str() {
                    "document" => {
                        document = Some(args::document("bulkWrite.ops.document", value)?.to_owned())
                    }
                    name => return Err(write::unknown("bulkWrite.ops", name)),
                }
            }
            let document = document.ok_or_else(|| args::missing("bulkWrite.ops", "document"))?;
            Ok(Op::Insert(at, document))
        }
        "update" => Ok(Op::Update(at, update_of(call, op, at, ns, options, hints).await?)),
        _ => Ok(Op::Delete(at, delete_of(call, op, at, ns, options, hints).await?)),
    }
}

async fn update_of(
    call: &Call<'_>,
    op: &RawDocument,
    at: usize,
    ns: &Namespace,
    options: &Options,
    hints: &mut Hints,
) -> Result<UpdateOne> {
    let mut parts = write::UpdateParts::default();
    let mut constants = None;
    for field in op.iter().skip(1) {
        let (name, value) = field?;
        match name.as_str() {
            "filter" => parts.filter("bulkWrite.ops.filter", value)?,
            "updateMods" => parts.change("bulkWrite.ops.updateMods", value)?,
            "multi" => parts.multi = args::flag("bulkWrite.ops.multi", value)?,
            "upsert" => parts.upsert = args::flag("bulkWrite.ops.upsert", value)?,
            "arrayFilters" => parts.array_filters = args::documents("bulkWrite.ops.arrayFilters", value)?,
            "hint" => hints.check(call, at, ns, value).await?,
            "collation" => parts.collation = args::collated(value)?,
            "sort" => parts.sort = args::maybe_document("bulkWrite.ops.sort", value)?,
            "constants" => constants = Some(args::document("bulkWrite.ops.constants", value)?),
            "upsertSupplied" | "sampleId" => {}
            name => return Err(write::unknown("bulkWrite.ops", name)),
        }
    }
    let variables = &options.variables.and(constants, &parts)?;
    parts.statement("bulkWrite.ops", ["filter", "updateMods"], variables)
}

async fn delete_of(
    call: &Call<'_>,
    op: &RawDocument,
    at: usize,
    ns: &Namespace,
    options: &Options,
    hints: &mut Hints,
) -> Result<DeleteOne> {
    let (mut filter, mut multi, mut collation) = (None, false, None);
    for field in op.iter().skip(1) {
        let (name, value) = field?;
        match name.as_str() {
            "filter" => filter = Some(args::document("bulkWrite.ops.filter", value)?.to_owned()),
            "multi" => multi = args::flag("bulkWrite.ops.multi", value)?,
            "hint" => hints.check(call, at, ns, value).await?,
            "collation" => collation = args::collated(value)?,
            "sampleId" => {}
            name => return Err(write::unknown("bulkWrite.ops", name)),
        }
    }
    Ok(DeleteOne {
        filter: filter.ok_or_else(|| args::missing("bulkWrite.ops", "filter"))?,
        multi,
        variables: options.variables.copy(),
        collation,
    })
}

/// Carries the operations out in order, up to the first that fails if that is asked for.
///
/// # Errors
/// The database's, when no operation was carried out: later ones are told as outcomes, so that the reply says, and a
/// retry is told, what was.
async fn carry_out(
    call: &Call<'_>,
    options: &Options,
    ops: Vec<Op>,
    namespaces: &[Namespace],
) -> Result<Done> {
    let mut done = Done::default();
    let mut ops = ops.into_iter().peekable();
    let mut first = 0;
    while let Some(op) = ops.next() {
        let ns = &namespaces[op.ns()];
        let mut run = None;
        let mut next = Some(op);
        while let Some(op) = next.take() {
            next = ops.next_if(|other| op.goes_with(other));
            match &mut run {
                None => run = Some(Run::of(op)),
                Some(run) => run.push(op),
            }
        }
        let Some(run) = run else { break };
        let (kind, count) = (kind_of(&run), run.len());
        let outcomes = match apply(call, options, ns, run).await {
            Ok(outcomes) => outcomes,
            Err(error) if first == 0 || call.transaction.is_some() => return Err(error),
            Err(error) => {
                let failures = if options.ordered { 1 } else { count };
                let failed = || Outcome {
                    error: Some(error.clone()),
                    ..Outcome::default()
                };
                std::iter::repeat_with(failed).take(failures).collect()
            }
        };
        done.add(first, outcomes, &kind, options.errors_only);
        first += count;
        // In a transaction nothing can follow a failure: it has ended.
        if done.errors > 0 && (options.ordered || call.transaction.is_some()) {
            break;
        }
    }
    Ok(done)
}

fn kind_of(run: &Run) -> Kind {
    match run {
        Run::Insert(_) => Kind::Insert,
        Run::Update(_) => Kind::Update,
        Run::Delete(_) => Kind::Delete,
    }
}

/// Carries out operations that are alike; gives an outcome for each that was come to.
async fn apply(call: &Call<'_>, options: &Options, ns: &Namespace, run: Run) -> Result<Vec<Outcome>> {
    let deadline = call.deadline.clone();
    let (ordered, bypass_validation) = (options.ordered, options.bypass_validation);
    let mut outcomes = Vec::with_capacity(run.len());
    let errors = match run {
        Run::Insert(documents) => {
            let insert = Insert {
                documents,
                ordered,
                bypass_validation,
            };
            let done = call.statements.insert(ns, insert, deadline).await?;
            let come_to = done.ids.len() + done.errors.len();
            outcomes.resize_with(come_to, Outcome::default);
            for (at, _) in done.ids {
                if let Some(outcome) = outcomes.get_mut(at) {
                    outcome.n = 1;
                }
            }
            done.errors
        }
        Run::Update(statements) => {
            let update = Update {
                statements,
                ordered,
                bypass_validation,
            };
            let done = call.statements.update(ns, update, deadline).await?;
            outcomes.extend(done.each.into_iter().map(|(matched, modified)| Outcome {
                n: matched,
                modified: Some(modified),
                ..Outcome::default()
            }));
            for (at, id) in done.upserted {
                if let Some(outcome) = outcomes.get_mut(at) {
                    outcome.n += 1;
                    outcome.upserted = Some(id);
                }
            }
            done.errors
        }
        Run::Delete(statements) => {
            let delete = Delete { statements, ordered };
            let done = call.statements.delete(ns, delete, deadline).await?;
            outcomes.extend(done.each.into_iter().map(|n| Outcome {
                n,
                ..Outcome::default()
            }));
            done.errors
        }
    };
    for failed in errors {
        if let Some(outcome) = outcomes.get_mut(failed.index) {
            outcome.error = Some(failed.error.into());
        }
    }
    Ok(outcomes)
}
