//! Writing: insert, update, delete, findAndModify.

use std::borrow::Cow;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_data::{
    Delete, DeleteOne, FindAndModify, Insert, Namespace, Update, UpdateOne, pipeline_update,
};

use super::{query, reply};
use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// Most documents or statements in one command.
const BATCH_MAX: usize = 100_000;
/// Most bytes of a command's `let` over all its statements, each of which gets its own.
const VARIABLES_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) fn check_batch(count: usize) -> Result<()> {
    if (1..=BATCH_MAX).contains(&count) {
        return Ok(());
    }
    Err(CommandError::new(
        Code::InvalidLength,
        format!("Write batch sizes must be between 1 and {BATCH_MAX}. Got {count} operations."),
    ))
}

/// `insert`.
pub(crate) async fn insert(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let (mut documents, mut ordered, mut bypass) = (None, true, false);
    let mut args = Args::new("insert", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "documents" => documents = Some(value),
            "ordered" => ordered = args::flag("insert.ordered", value)?,
            "bypassDocumentValidation" => bypass = args::flag(name, value)?,
            "bypassEmptyTsReplacement" => {
                args::flag(name, value)?;
            }
            name => return Err(args.unknown(name)),
        }
    }
    let documents = args::batch("insert", "documents", documents, &mut call.sequences)?;
    check_batch(documents.len())?;
    let insert = Insert {
        documents,
        ordered,
        bypass_validation: bypass,
    };
    let deadline = call.deadline.clone();
    let done = call.statements.insert(&ns, insert, deadline).await?;
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("n"), reply::number(count(done.ids.len())));
    reply::append_write_errors(&mut reply, done.errors);
    Ok(reply)
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// `update`.
pub(crate) async fn update(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let (mut updates, mut ordered, mut variables) = (None, true, Variables::default());
    let mut bypass = false;
    let mut args = Args::new("update", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "updates" => updates = Some(value),
            "ordered" => ordered = args::flag("update.ordered", value)?,
            "let" => variables = Variables::parse(value)?,
            "bypassDocumentValidation" => bypass = args::flag(name, value)?,
            "bypassEmptyTsReplacement" => {
                args::flag(name, value)?;
            }
            name => return Err(args.unknown(name)),
        }
    }
    let updates = args::batch("update", "updates", updates, &mut call.sequences)?;
    check_batch(updates.len())?;
    variables.check_room(updates.len())?;
    let mut statements = Vec::with_capacity(updates.len());
    for update in &updates {
        statements.push(update_statement(call, &ns, update, &variables).await?);
    }
    let update = Update {
        statements,
        ordered,
        bypass_validation: bypass,
    };
    let deadline = call.deadline.clone();
    let done = call.statements.update(&ns, update, deadline).await?;
    let mut reply = RawDocumentBuf::new();
    let n = done.matched + count(done.upserted.len());
    reply.append(cstr!("n"), reply::number(n));
    if !done.upserted.is_empty() {
        let mut upserted = RawArrayBuf::new();
        for (index, id) in done.upserted {
            let mut row = RawDocumentBuf::new();
            row.append(cstr!("index"), i32::try_from(index).unwrap_or(i32::MAX));
            row.append(cstr!("_id"), id);
            upserted.push(row);
        }
        reply.append(cstr!("upserted"), upserted);
    }
    reply.append(cstr!("nModified"), reply::number(done.modified));
    reply::append_write_errors(&mut reply, done.errors);
    Ok(reply)
}

/// An update statement as far as it was read.
#[derive(Default)]
pub(super) struct UpdateParts {
    filter: Option<RawDocumentBuf>,
    change: Option<RawDocumentBuf>,
    pipeline: bool,
    pub(super) multi: bool,
    pub(super) upsert: bool,
    pub(super) array_filters: Vec<RawDocumentBuf>,
    /// Which of several documents, when one is changed.
    pub(super) sort: Option<RawDocumentBuf>,
    pub(super) collation: Option<RawDocumentBuf>,
}

impl UpdateParts {
    pub(super) fn filter(&mut self, name: &str, value: RawBsonRef<'_>) -> Result<()> {
        self.filter = Some(args::document(name, value)?.to_owned());
        Ok(())
    }

    pub(super) fn change(&mut self, name: &str, value: RawBsonRef<'_>) -> Result<()> {
        self.change = Some(change_of(name, value)?);
        self.pipeline = matches!(value, RawBsonRef::Array(_));
        Ok(())
    }

    /// The statement; `required` are the names of its filter and its change.
    ///
    /// # Errors
    /// When one of these is not there.
    pub(super) fn statement(self, of: &str, required: [&str; 2], variables: &Variables) -> Result<UpdateOne> {
        Ok(UpdateOne {
            filter: self.filter.ok_or_else(|| args::missing(of, required[0]))?,
            update: self.change.ok_or_else(|| args::missing(of, required[1]))?,
            multi: self.multi,
            upsert: self.upsert,
            array_filters: self.array_filters,
            sort: self.sort,
            variables: variables.copy(),
            collation: self.collation,
        })
    }
}

async fn update_statement(
    call: &Call<'_>,
    ns: &Namespace,
    update: &RawDocument,
    variables: &Variables,
) -> Result<UpdateOne> {
    let mut parts = UpdateParts::default();
    let mut constants = None;
    for field in update {
        let (name, value) = field?;
        match name.as_str() {
            "q" => parts.filter("update.updates.q", value)?,
            "u" => parts.change("update.updates.u", value)?,
            "multi" => parts.multi = args::flag("update.updates.multi", value)?,
            "upsert" => parts.upsert = args::flag("update.updates.upsert", value)?,
            "arrayFilters" => parts.array_filters = args::documents("update.updates.arrayFilters", value)?,
            "hint" => query::check_hint(call, ns, value).await?,
            "collation" => parts.collation = args::collated(value)?,
            "sort" => parts.sort = args::maybe_document("update.updates.sort", value)?,
            "c" => constants = Some(args::document("update.updates.c", value)?),
            "upsertSupplied" | "sampleId" => {}
            name => return Err(unknown("update.updates", name)),
        }
    }
    let variables = &variables.and(constants, &parts)?;
    parts.statement("update.updates", ["q", "u"], variables)
}

/// An update's operators, replacement or pipeline.
fn change_of(name: &str, value: RawBsonRef<'_>) -> Result<RawDocumentBuf> {
    match value {
        RawBsonRef::Array(_) => Ok(pipeline_update(&args::documents(name, value)?)),
        value => Ok(args::document(name, value)?.to_owned()),
    }
}

/// The `let` of a command; none without variables.
#[derive(Clone, Default)]
pub(super) struct Variables(Option<RawDocumentBuf>);

impl Variables {
    pub(super) fn parse(value: RawBsonRef<'_>) -> Result<Self> {
        let variables = args::maybe_document("let", value)?;
        Ok(Self(variables.filter(|variables| !variables.is_empty())))
    }

    /// Checks that they may be copied into so many statements.
    pub(super) fn check_room(&self, statements: usize) -> Result<()> {
        let bytes = self.0.as_ref().map_or(0, |variables| variables.as_bytes().len());
        let all = bytes.saturating_mul(statements);
        if all <= VARIABLES_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "'let' of {bytes} bytes with {statements} statements makes {all} bytes, and {VARIABLES_BYTES_MAX} are allowed"
        );
        Err(CommandError::new(Code::InvalidLength, message))
    }

    /// These and the constants of one update, which hide those of the same name.
    ///
    /// # Errors
    /// When the update is not a pipeline, and so has no use for constants.
    pub(super) fn and<'v>(
        &'v self,
        constants: Option<&RawDocument>,
        parts: &UpdateParts,
    ) -> Result<Cow<'v, Self>> {
        let Some(constants) = constants else {
            return Ok(Cow::Borrowed(self));
        };
        if !parts.pipeline {
            return Err(CommandError::new(
                Code::FailedToParse,
                "Constant values may only be specified for pipeline updates",
            ));
        }
        let mut all = constants.to_owned();
        for field in self.0.iter().flatten() {
            let (name, value) = field?;
            if constants.get(name)?.is_none() {
                all.append(name, value);
            }
        }
        Ok(Cow::Owned(Self(Some(all))))
    }

    /// Those of one statement.
    pub(super) fn copy(&self) -> Option<RawDocumentBuf> {
        self.0.clone()
    }
}

pub(super) fn unknown(of: &str, name: &str) -> CommandError {
    CommandError::new(
        Code::Location40415,
        format!("BSON field '{of}.{name}' is an unknown field."),
    )
}

/// `delete`.
pub(crate) async fn delete(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let (mut deletes, mut ordered, mut variables) = (None, true, Variables::default());
    let mut args = Args::new("delete", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "deletes" => deletes = Some(value),
            "ordered" => ordered = args::flag("delete.ordered", value)?,
            "let" => variables = Variables::parse(value)?,
            name => return Err(args.unknown(name)),
        }
    }
    let deletes = args::batch("delete", "deletes", deletes, &mut call.sequences)?;
    check_batch(deletes.len())?;
    variables.check_room(deletes.len())?;
    let mut statements = Vec::with_capacity(deletes.len());
    for delete in &deletes {
        statements.push(delete_statement(call, &ns, delete, &variables).await?);
    }
    let delete = Delete { statements, ordered };
    let deadline = call.deadline.clone();
    let done = call.statements.delete(&ns, delete, deadline).await?;
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("n"), reply::number(done.deleted));
    reply::append_write_errors(&mut reply, done.errors);
    Ok(reply)
}

async fn delete_statement(
    call: &Call<'_>,
    ns: &Namespace,
    delete: &RawDocument,
    variables: &Variables,
) -> Result<DeleteOne> {
    let (mut filter, mut multi, mut collation) = (None, None, None);
    for field in delete {
        let (name, value) = field?;
        match name.as_str() {
            "q" => filter = Some(args::document("delete.deletes.q", value)?.to_owned()),
            "limit" => {
                multi = Some(match args::integer("delete.deletes.limit", value)? {
                    0 => true,
                    1 => false,
                    limit => {
                        let message =
                            format!("The limit field in delete objects must be 0 or 1. Got {limit}");
                        return Err(CommandError::new(Code::FailedToParse, message));
                    }
                });
            }
            "hint" => query::check_hint(call, ns, value).await?,
            "collation" => collation = args::collated(value)?,
            "sampleId" => {}
            name => return Err(unknown("delete.deletes", name)),
        }
    }
    Ok(DeleteOne {
        filter: filter.ok_or_else(|| args::missing("delete.deletes", "q"))?,
        variables: variables.copy(),
        collation,
        multi: multi.ok_or_else(|| args::missing("delete.deletes", "limit"))?,
    })
}

/// `findAndModify`.
pub(crate) async fn find_and_modify(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut modify = FindAndModify::default();
    let (mut remove, mut variables) = (false, Variables::default());
    let mut args = Args::new("findAndModify", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "query" => modify.filter = args::maybe_document("query", value)?.unwrap_or_default(),
            "sort" => modify.sort = args::maybe_document("sort", value)?,
            "remove" => remove = args::flag("remove", value)?,
            "update" => modify.update = Some(change_of("findAndModify.update", value)?),
            "new" => modify.return_new = args::flag("new", value)?,
            "fields" => modify.projection = args::maybe_document("fields", value)?,
            "upsert" => modify.upsert = args::flag("upsert", value)?,
            "arrayFilters" => modify.array_filters = args::documents("arrayFilters", value)?,
            "hint" => query::check_hint(call, &ns, value).await?,
            "collation" => modify.collation = args::collated(value)?,
            "let" => variables = Variables::parse(value)?,
            "bypassDocumentValidation" => modify.bypass_validation = args::flag(name, value)?,
            "bypassEmptyTsReplacement" => {
                args::flag(name, value)?;
            }
            "sampleId" => {}
            name => return Err(args.unknown(name)),
        }
    }
    modify.variables = variables.copy();
    let refuse = |message: &str| Err(CommandError::new(Code::FailedToParse, message));
    match (remove, &modify.update) {
        (true, Some(_)) => return refuse("Cannot specify both an update and remove=true"),
        (false, None) => return refuse("Either an update or remove=true must be specified"),
        (true, None) if modify.upsert => {
            return refuse("Cannot specify both upsert=true and remove=true");
        }
        (true, None) if modify.return_new => {
            return refuse(
                "Cannot specify both new=true and remove=true; 'remove' always returns the deleted document",
            );
        }
        _ => {}
    }
    let deadline = call.deadline.clone();
    let done = call.statements.find_and_modify(&ns, modify, deadline).await?;
    let mut last = RawDocumentBuf::new();
    let n = i32::from(done.matched || done.upserted.is_some());
    last.append(cstr!("n"), n);
    if !remove {
        last.append(cstr!("updatedExisting"), done.matched);
    }
    if let Some(id) = done.upserted {
        last.append(cstr!("upserted"), id);
    }
    let mut reply = rawdoc! { "lastErrorObject": last };
    match done.document {
        Some(document) => reply.append(cstr!("value"), document),
        None => reply.append(cstr!("value"), RawBsonRef::Null),
    }
    Ok(reply)
}
