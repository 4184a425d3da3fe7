//! Changing documents: insert, update, delete, findAndModify, on the writer's thread inside a transaction. Each
//! document is checked whole (keys, uniqueness, limits) before any of its rows is written, so that a failed one
//! leaves nothing behind and the statements around it stand.

use std::ops::ControlFlow;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::Deadline;

use super::scan::{Meter, scan};
use super::{parse_filter, scope_of, sorted_documents};
use crate::catalog::{Collection, append, document_prefix};
use crate::check::{check_well_formed, validate_document, validate_well_formed};
use crate::collation::Collation;
use crate::engine::Engine;
use crate::expression::{Runtime, Scope};
use crate::index::{Maintenance, duplicate_key, stored};
use crate::kv::get_vec;
use crate::lanes::Tx;
use crate::pipeline::Surroundings;
use crate::plan;
use crate::projection::Projection;
use crate::query::Filter;
use crate::sort::SortSpec;
use crate::update::{Now, Update};
use crate::value::{ensure_id_first, field};
use crate::{
    Code, CollectionChange, CollectionOptions, Deleted, Error, FindAndModify, IndexChange, IndexSpec,
    Inserted, Limits, Modified, Namespace, Result, Shown, Updated, ValidationAction, ValidationLevel, View,
    WriteError,
};
use crate::{capped, time_series};

/// A document that is fit to be inserted, or why it is not.
pub(crate) type Prepared = Result<RawDocumentBuf>;

/// A parsed update statement.
pub(crate) struct UpdateStatement {
    pub(crate) filter: Filter,
    /// Which of several documents, when one is changed.
    pub(crate) sort: Option<SortSpec>,
    pub(crate) update: Update,
    pub(crate) multi: bool,
    pub(crate) upsert: bool,
}

/// A parsed delete statement.
pub(crate) struct DeleteStatement {
    pub(crate) filter: Filter,
    pub(crate) multi: bool,
}

/// A parsed findAndModify.
pub(crate) struct ModifyStatement {
    filter: Filter,
    sort: Option<SortSpec>,
    update: Option<Update>,
    projection: Option<Projection>,
    upsert: bool,
    return_new: bool,
    bypass_validation: bool,
}

impl ModifyStatement {
    /// # Errors
    /// When a part is malformed, or the parts do not go together.
    pub(crate) fn parse(modify: &FindAndModify, limits: &Limits, scope: &Scope) -> Result<Self> {
        if modify.update.is_none() && (modify.upsert || modify.return_new) {
            return Err(Error::new(
                Code::FailedToParse,
                "a removal takes neither upsert nor the new document",
            ));
        }
        let scope = scope_of(
            scope,
            modify.variables.as_deref(),
            modify.collation.as_deref(),
            limits,
        )?;
        let filter = parse_filter(&modify.filter, limits, &scope)?;
        let update = modify
            .update
            .as_deref()
            .map(|update| parse_update(update, &modify.array_filters, limits, &scope));
        Ok(Self {
            filter,
            sort: super::parse_sort(modify.sort.as_deref(), limits, &scope)?,
            update: update.transpose()?,
            projection: super::parse_projection(modify.projection.as_deref(), limits, &scope)?,
            upsert: modify.upsert,
            return_new: modify.return_new,
            bypass_validation: modify.bypass_validation,
        })
    }
}

/// # Errors
/// When the update is malformed.
pub(crate) fn parse_update(
    update: &RawDocument,
    array_filters: &[RawDocumentBuf],
    limits: &Limits,
    scope: &Scope,
) -> Result<Update> {
    check_well_formed(update, limits.depth_max)?;
    array_filters
        .iter()
        .try_for_each(|filter| check_well_formed(filter, limits.depth_max))?;
    Update::parse_in(update, array_filters, scope)
}

/// Gives a document its `_id` and checks that it may be stored. Done before the writer's turn.
pub(crate) fn prepare(document: &RawDocument, fresh: ObjectId, limits: &Limits) -> Prepared {
    check_well_formed(document, limits.depth_max)?;
    let document = ensure_id_first(document, fresh);
    // An `_id` that was given to it is no deeper than the document it came from.
    validate_well_formed(&document, limits)?;
    Ok(document)
}

/// Inserts documents, making the collection when it is not there.
pub(crate) fn insert(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    documents: &[Prepared],
    ordered: bool,
    deadline: &Deadline,
) -> Result<Inserted> {
    let mut done = Inserted::default();
    let meter = Meter::new(tx.engine, deadline);
    if documents.iter().any(Result::is_ok) {
        collection_to_write(tx, ns)?;
    }
    for (index, document) in documents.iter().enumerate() {
        if index.is_multiple_of(256) {
            meter.check_deadline()?;
        }
        match document
            .as_ref()
            .map_err(Error::clone)
            .and_then(|document| insert_one(tx, ns, document))
        {
            Ok(id) => done.ids.push((index, id)),
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                done.errors.push(WriteError { index, error });
                if ordered {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// Applies update statements in order.
pub(crate) fn update(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    statements: &[Result<UpdateStatement>],
    ordered: bool,
    deadline: &Deadline,
) -> Result<Updated> {
    tx.catalog.check_no_view(ns)?;
    let mut done = Updated::default();
    for (index, statement) in statements.iter().enumerate() {
        let statement = statement.as_ref().map_err(Error::clone);
        let before = (done.matched, done.modified);
        let outcome =
            statement.and_then(|statement| update_one(tx, ns, index, statement, &mut done, deadline));
        done.each
            .push((done.matched - before.0, done.modified - before.1));
        match outcome {
            Ok(()) => {}
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                done.errors.push(WriteError { index, error });
                if ordered {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// Applies delete statements in order.
pub(crate) fn delete(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    statements: &[Result<DeleteStatement>],
    ordered: bool,
    deadline: &Deadline,
) -> Result<Deleted> {
    tx.catalog.check_no_view(ns)?;
    let mut done = Deleted::default();
    for (index, statement) in statements.iter().enumerate() {
        let before = done.deleted;
        let outcome = statement.as_ref().map_err(Error::clone).and_then(|statement| {
            let ids = matching(tx, ns, &statement.filter, statement.multi, deadline)?;
            for id in ids {
                let Some(collection) = tx.catalog.collection(ns).cloned() else {
                    break;
                };
                remove_one(tx, ns, &collection, &id)?;
                done.deleted += 1;
            }
            Ok(())
        });
        done.each.push(done.deleted - before);
        match outcome {
            Ok(()) => {}
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                done.errors.push(WriteError { index, error });
                if ordered {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// Changes or removes at most one document.
pub(crate) fn find_and_modify(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    statement: &ModifyStatement,
    deadline: &Deadline,
) -> Result<Modified> {
    tx.catalog.check_no_view(ns)?;
    if let (Some(collection), Some(_)) = (tx.catalog.collection(ns), &statement.update) {
        time_series::refuse(collection, ns, "findAndModify with an update")?;
    }
    tx.bypass_validation = statement.bypass_validation;
    let project = |document: &RawDocument| match &statement.projection {
        None => Ok(document.to_owned()),
        Some(projection) => projection.apply(document, &statement.filter),
    };
    let Some((id, old)) = first_matching(tx, ns, &statement.filter, statement.sort.as_ref(), deadline)?
    else {
        let (Some(update), true) = (&statement.update, statement.upsert) else {
            return Ok(Modified::default());
        };
        let new = update.upsert_document(&statement.filter, now(tx.engine), fresh_id(tx.engine))?;
        validate_document(&new, &tx.engine.limits)?;
        collection_to_write(tx, ns)?;
        let upserted = Some(insert_one(tx, ns, &new)?);
        let document = statement.return_new.then(|| project(&new)).transpose()?;
        return Ok(Modified {
            document,
            matched: false,
            upserted,
        });
    };
    let Some(collection) = tx.catalog.collection(ns).cloned() else {
        return Ok(Modified::default());
    };
    let new = match &statement.update {
        None => {
            remove_one(tx, ns, &collection, &id)?;
            None
        }
        Some(update) => {
            let new = update.apply(&old, &statement.filter, now(tx.engine), false)?;
            if let Some(new) = &new {
                replace_one(tx, ns, &collection, &id, [&old, new], update)?;
            }
            new
        }
    };
    let shown = if statement.return_new {
        new.as_ref().unwrap_or(&old)
    } else {
        &old
    };
    Ok(Modified {
        document: Some(project(shown)?),
        matched: true,
        upserted: None,
    })
}

/// The collection, made when it is not there.
pub(crate) fn collection_to_write(tx: &mut Tx<'_>, ns: &Namespace) -> Result<Arc<Collection>> {
    match tx.catalog.collection(ns) {
        Some(collection) => Ok(collection.clone()),
        None if tx.catalog.view(ns).is_some() => Err(crate::view::not_a_collection(ns)),
        None => create_collection(tx, ns, &CollectionOptions::default()),
    }
}

/// Makes a collection; an error when it exists.
pub(crate) fn create_collection(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    options: &CollectionOptions,
) -> Result<Arc<Collection>> {
    crate::validation::check(ns, options, &tx.engine.scope(&Deadline::NEVER))?;
    if options.time_series.is_some() && tx.in_transaction {
        let message =
            format!("Cannot create the time-series collection {ns} in a multi-document transaction");
        return Err(Error::new(Code::OperationNotSupportedInTransaction, message));
    }
    let collection = tx.catalog.create(tx.kv, ns, options.clone(), &tx.engine.limits)?;
    tx.feed.created(ns, &collection);
    Ok(collection)
}

/// Makes a view; an error when there is something of that name.
pub(crate) fn create_view(tx: &mut Tx<'_>, ns: &Namespace, view: &View) -> Result<()> {
    let view = &settled(view)?;
    check_view(tx, ns, view)?;
    tx.catalog
        .create_view(tx.kv, ns, view.clone(), &tx.engine.limits)?;
    tx.feed.view_created(ns, view);
    Ok(())
}

/// Changes what a view is made of.
pub(crate) fn modify_view(tx: &mut Tx<'_>, ns: &Namespace, view: &View) -> Result<()> {
    if tx.catalog.view(ns).is_none() {
        return Err(match tx.catalog.collection(ns) {
            Some(_) => Error::new(Code::InvalidOptions, format!("{ns} is not a view")),
            None => Error::new(Code::NamespaceNotFound, format!("ns does not exist: {ns}")),
        });
    }
    // A view keeps its collation.
    let view = &View {
        collation: tx.catalog.view(ns).and_then(|view| view.collation.clone()),
        ..view.clone()
    };
    check_view(tx, ns, view)?;
    tx.catalog.save_view(tx.kv, ns, view.clone())?;
    tx.feed.view_modified(ns, view);
    Ok(())
}

/// The view with all options of its collation.
fn settled(view: &View) -> Result<View> {
    let collation = match &view.collation {
        Some(collation) => Collation::parse(collation)?.map(|collation| collation.document().to_owned()),
        None => None,
    };
    Ok(View {
        collation,
        ..view.clone()
    })
}

fn check_view(tx: &Tx<'_>, ns: &Namespace, view: &View) -> Result<()> {
    let scope = tx.engine.scope(&Deadline::NEVER);
    let scope = super::scope_of(&scope, None, view.collation.as_deref(), &tx.engine.limits)?;
    let around = Surroundings::new(&tx.engine.limits, scope);
    crate::view::check(&tx.catalog, ns, view, &around)
}

/// Changes what can be changed of an index. Returns it as it was and as it is.
pub(crate) fn modify_index(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    name: &str,
    change: &IndexChange,
) -> Result<(IndexSpec, IndexSpec)> {
    let mut collection = Collection::clone(tx.catalog.only_collection(ns)?);
    if collection.is_id_index(name) {
        return Err(Error::new(
            Code::BadValue,
            "can't hide _id index or make it expire documents",
        ));
    }
    let mut indexes = collection.indexes.iter_mut();
    let index = indexes.find(|index| &*index.spec.name == name);
    let index = index.ok_or_else(|| {
        let message = format!("cannot find index {name:?} for ns {ns}");
        Error::new(Code::IndexNotFound, message)
    })?;
    let index = Arc::make_mut(index);
    let before = index.spec.clone();
    if let Some(seconds) = change.expire_after_seconds {
        crate::specification::check_expiry(&before, seconds)
            .map_err(|error| Error::new(Code::InvalidOptions, error.to_string()))?;
        index.spec.expire_after_seconds = Some(seconds);
    }
    if let Some(hidden) = change.hidden {
        index.spec.hidden = hidden;
    }
    let after = index.spec.clone();
    if before != after {
        let collection = tx.catalog.save(tx.kv, ns, collection)?;
        let description = rawdoc! { "index": after.to_document() };
        tx.feed.modified(ns, &collection, &description);
    }
    Ok((before, after))
}

/// A fresh ObjectId.
pub(crate) fn fresh_id(engine: &Engine) -> ObjectId {
    engine.ids.next(engine.clock.as_ref())
}

/// The moment of an update.
fn now(engine: &Engine) -> Now {
    let now = engine.clock.now();
    let time = u32::try_from(now.seconds().max(0)).unwrap_or(u32::MAX);
    Now {
        date: bson::DateTime::from_millis(now.millis()),
        timestamp: bson::Timestamp {
            time,
            increment: engine.ids.increment(),
        },
    }
}

/// Failures after which the operation's earlier statements must not stand either: they say nothing about the
/// statement, but that the operation can't be carried out.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::InternalError | Code::OutOfDiskSpace | Code::MaxTimeMSExpired
    )
}

/// The `_id` of a document that is to be inserted, and what its store key gets after the collection's prefix.
fn new_place<'d>(
    tx: &Tx<'_>,
    collection: &Collection,
    document: &'d RawDocument,
) -> Result<(RawBsonRef<'d>, Vec<u8>)> {
    match &collection.time_series {
        None => id_key(collection, document),
        Some(series) => {
            let id = field(document, "_id").unwrap_or(RawBsonRef::Null);
            Ok((id, time_series::place(&*tx.kv, collection, series, document)?))
        }
    }
}

fn id_key<'d>(collection: &Collection, document: &'d RawDocument) -> Result<(RawBsonRef<'d>, Vec<u8>)> {
    let id = document.get("_id").ok().flatten();
    let id = id.ok_or_else(|| Error::new(Code::InvalidIdField, "the document has no _id"))?;
    Ok((id, collection.id_bytes(id)))
}

fn insert_one(tx: &mut Tx<'_>, ns: &Namespace, document: &RawDocument) -> Result<RawBson> {
    let collection = collection_to_write(tx, ns)?;
    check_kind(tx, ns, &collection)?;
    let bytes = document.as_bytes().len();
    if collection.capped.is_some_and(|capped| bytes as u64 > capped.size) {
        return Err(Error::new(
            Code::BadValue,
            "object to insert exceeds cappedMaxSize",
        ));
    }
    validate(tx, ns, &collection, None, document)?;
    let (id, id_bytes) = new_place(tx, &collection, document)?;
    let mut key = document_prefix(collection.id);
    key.extend_from_slice(&id_bytes);
    if tx.kv.get(&key, &mut |_| {})? {
        let mut pattern = RawDocumentBuf::new();
        pattern.append(bson::raw::cstr!("_id"), 1);
        let mut value = RawDocumentBuf::new();
        append(&mut value, "_id", id);
        return Err(duplicate_key(ns, "_id_", pattern, value));
    }
    let maintenance = Maintenance::check(&*tx.kv, ns, &collection, &id_bytes, None, Some(document))?;
    store(tx, ns, &collection, &maintenance)?;
    tx.kv.put(&key, document.as_bytes())?;
    tx.feed.inserted(ns, &collection, document);
    if let Some(bounds) = &collection.capped {
        capped::inserted(tx.kv, collection.id, &id_bytes, bytes)?;
        while let Some(oldest) = capped::superfluous(&*tx.kv, collection.id, bounds)? {
            // An index may have become multikey by this very document.
            let collection = collection_to_write(tx, ns)?;
            remove_one(tx, ns, &collection, &oldest)?;
        }
    }
    Ok(RawBson::from(id))
}

/// Before a write to a collection: one that is capped or a time series has no place for the writes of transactions, whose
/// order is not known before the commit. Those who tail it hear of the write.
fn check_kind(tx: &mut Tx<'_>, ns: &Namespace, collection: &Collection) -> Result<()> {
    if collection.time_series.is_some() && tx.in_transaction {
        let message =
            format!("Cannot write to the time-series collection {ns} in a multi-document transaction");
        return Err(Error::new(Code::OperationNotSupportedInTransaction, message));
    }
    if collection.capped.is_none() {
        return Ok(());
    }
    if tx.in_transaction {
        let message = format!(
            "Collection '{ns}' is a capped collection. Writes in transactions are not allowed on capped collections."
        );
        return Err(Error::new(Code::OperationNotSupportedInTransaction, message));
    }
    tx.feed.tailed(ns);
    Ok(())
}

/// Asks the collection's validator whether the document may be stored.
fn validate(
    tx: &Tx<'_>,
    ns: &Namespace,
    collection: &Collection,
    old: Option<&RawDocument>,
    new: &RawDocument,
) -> Result<()> {
    let Some(validator) = collection.validator.as_ref().filter(|_| !tx.bypass_validation) else {
        return Ok(());
    };
    let level = collection.validation_level;
    if level == ValidationLevel::Off {
        return Ok(());
    }
    let scope = || {
        let scope = tx.engine.scope(&Deadline::NEVER);
        scope.collated(collection.collation.clone())
    };
    if validator.accepts(new, scope)? {
        return Ok(());
    }
    if let (ValidationLevel::Moderate, Some(old)) = (level, old)
        && !validator.accepts(old, scope)?
    {
        return Ok(());
    }
    match collection.validation_action {
        ValidationAction::Error => Err(validator.failure(new, &scope())),
        ValidationAction::Warn => {
            tracing::warn!(collection = %ns, "a document that the validator does not match was stored");
            Ok(())
        }
    }
}

/// Changes what can be changed of a collection.
pub(crate) fn modify_collection(tx: &mut Tx<'_>, ns: &Namespace, change: &CollectionChange) -> Result<()> {
    if let Some(size) = change.convert_to_capped {
        return super::convert::convert_to_capped(tx, ns, size);
    }
    let mut collection = Collection::clone(tx.catalog.only_collection(ns)?);
    let mut options = collection.options();
    if let Some(validator) = &change.validator {
        options.validator = Some(validator.clone());
    }
    options.validation_level = change.validation_level.unwrap_or(options.validation_level);
    options.validation_action = change.validation_action.unwrap_or(options.validation_action);
    options.images = change.images.unwrap_or(options.images);
    modify_series(&mut options, ns, change)?;
    if change.capped_size.is_some() || change.capped_max.is_some() {
        let Some(capped) = &mut options.capped else {
            return Err(Error::new(
                Code::InvalidOptions,
                format!("{ns} is not a capped collection"),
            ));
        };
        capped.size = change.capped_size.unwrap_or(capped.size);
        if let Some(max) = change.capped_max {
            capped.max = Some(max).filter(|max| *max > 0);
        }
    }
    crate::validation::check(ns, &options, &tx.engine.scope(&Deadline::NEVER))?;
    let changed = options != collection.options();
    collection.set_options(options);
    let collection = if changed {
        tx.catalog.save(tx.kv, ns, collection)?
    } else {
        Arc::new(collection)
    };
    // Also of a change that changes nothing, as in MongoDB.
    let mut description = RawDocumentBuf::new();
    if let Some(validator) = &change.validator {
        description.append(cstr!("validator"), validator.clone());
    }
    if let Some(level) = change.validation_level {
        description.append(cstr!("validationLevel"), level.name());
    }
    if let Some(action) = change.validation_action {
        description.append(cstr!("validationAction"), action.name());
    }
    for (name, bound) in [
        (cstr!("cappedSize"), change.capped_size),
        (cstr!("cappedMax"), change.capped_max),
    ] {
        if let Some(bound) = bound {
            description.append(name, i64::try_from(bound).unwrap_or(i64::MAX));
        }
    }
    if let (true, Some(series)) = (change.span.is_some(), &collection.time_series) {
        description.append(cstr!("timeseries"), series.span_document());
    }
    if let Some(Some(seconds)) = change.expire_after_seconds {
        description.append(cstr!("expireAfterSeconds"), seconds);
    }
    if let Some(images) = change.images {
        description.append(
            cstr!("changeStreamPreAndPostImages"),
            rawdoc! { "enabled": images },
        );
    }
    tx.feed.modified(ns, &collection, &description);
    Ok(())
}

/// Changes what can be changed of a time series.
fn modify_series(options: &mut CollectionOptions, ns: &Namespace, change: &CollectionChange) -> Result<()> {
    if change.span.is_none() && change.expire_after_seconds.is_none() {
        return Ok(());
    }
    let Some(series) = &mut options.time_series else {
        return Err(Error::new(
            Code::InvalidOptions,
            format!("{ns} is not a time-series collection"),
        ));
    };
    if let Some(span) = change.span {
        series.widen(span)?;
    }
    if let Some(seconds) = change.expire_after_seconds {
        series.expire_after_seconds = seconds;
    }
    Ok(())
}

fn replace_one(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    collection: &Arc<Collection>,
    id: &[u8],
    [old, new]: [&RawDocument; 2],
    update: &Update,
) -> Result<()> {
    validate_document(new, &tx.engine.limits)?;
    check_kind(tx, ns, collection)?;
    validate(tx, ns, collection, Some(old), new)?;
    let maintenance = Maintenance::check(&*tx.kv, ns, collection, id, Some(old), Some(new))?;
    store(tx, ns, collection, &maintenance)?;
    let mut key = document_prefix(collection.id);
    key.extend_from_slice(id);
    tx.kv.put(&key, new.as_bytes())?;
    if collection.capped.is_some() {
        capped::resized(tx.kv, collection.id, old.as_bytes().len(), new.as_bytes().len())?;
    }
    if update.is_replacement() {
        tx.feed.replaced(ns, collection, old, new);
    } else {
        tx.feed.updated(ns, collection, old, new, update);
    }
    Ok(())
}

/// Removes the document whose `_id` has this key; false when there is none.
pub(super) fn remove_one(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    collection: &Arc<Collection>,
    id: &[u8],
) -> Result<bool> {
    let mut key = document_prefix(collection.id);
    key.extend_from_slice(id);
    let Some(old) = get_vec(&*tx.kv, &key)? else {
        return Ok(false);
    };
    check_kind(tx, ns, collection)?;
    let maintenance = Maintenance::check(&*tx.kv, ns, collection, id, Some(stored(&old)?), None)?;
    store(tx, ns, collection, &maintenance)?;
    tx.kv.delete(&key)?;
    if collection.capped.is_some() {
        capped::removed(tx.kv, collection.id, id, old.len())?;
    }
    tx.feed.deleted(ns, collection, stored(&old)?);
    Ok(true)
}

/// Writes index entries, and the catalog's row when an index meets its first array.
fn store(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    collection: &Arc<Collection>,
    maintenance: &Maintenance<'_>,
) -> Result<()> {
    if maintenance.new_multikey() {
        tx.catalog
            .save(tx.kv, ns, maintenance.collection_after(collection))?;
    }
    maintenance.write(tx.kv)
}

fn update_one(
    tx: &mut Tx<'_>,
    ns: &Namespace,
    index: usize,
    statement: &UpdateStatement,
    done: &mut Updated,
    deadline: &Deadline,
) -> Result<()> {
    if let Some(series) = tx.catalog.collection(ns).and_then(|it| it.time_series.as_ref()) {
        let UpdateStatement {
            filter,
            update,
            multi,
            upsert,
            ..
        } = statement;
        time_series::check_update(series, filter, update, (*multi, *upsert))?;
    }
    let ids = match &statement.sort {
        Some(sort) => first_matching(tx, ns, &statement.filter, Some(sort), deadline)?
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        None => matching(tx, ns, &statement.filter, statement.multi, deadline)?,
    };
    if ids.is_empty() && statement.upsert {
        let new = statement
            .update
            .upsert_document(&statement.filter, now(tx.engine), fresh_id(tx.engine))?;
        validate_document(&new, &tx.engine.limits)?;
        collection_to_write(tx, ns)?;
        done.upserted.push((index, insert_one(tx, ns, &new)?));
        return Ok(());
    }
    for id in ids {
        // Looked up anew each time: an index may have become multikey by the one before.
        let Some(collection) = tx.catalog.collection(ns).cloned() else {
            break;
        };
        let mut key = document_prefix(collection.id);
        key.extend_from_slice(&id);
        let Some(old) = get_vec(&*tx.kv, &key)? else {
            continue;
        };
        let old = stored(&old)?;
        let new = statement
            .update
            .apply(old, &statement.filter, now(tx.engine), false)?;
        if let Some(new) = &new {
            replace_one(tx, ns, &collection, &id, [old, new], &statement.update)?;
            done.modified += 1;
        }
        done.matched += 1;
    }
    Ok(())
}

/// The `_id` keys of the documents that match: all of them before the first is changed, so that no change makes a
/// document match again.
fn matching(
    tx: &Tx<'_>,
    ns: &Namespace,
    filter: &Filter,
    multi: bool,
    deadline: &Deadline,
) -> Result<Vec<Vec<u8>>> {
    let Some(collection) = tx.catalog.collection(ns) else {
        return Ok(Vec::new());
    };
    let plan = plan::choose(collection, filter, None, None)?;
    let mut meter = Meter::new(tx.engine, deadline);
    let mut ids = Vec::new();
    let mut bytes = 0;
    let max = tx.engine.limits.sort_bytes_max;
    scan(&*tx.kv, &plan, filter, None, &mut meter, &mut |row, _| {
        let id = row.id.to_vec();
        bytes += id.len() + size_of::<Vec<u8>>();
        if bytes > max {
            let message = format!(
                "the ids of the matching documents take over {bytes} bytes, and sort_bytes_max is {max}"
            );
            return Err(Error::new(
                Code::QueryExceededMemoryLimitNoDiskUseAllowed,
                message,
            ));
        }
        ids.push(id);
        Ok(if multi {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(ids)
}

/// The first matching document in the order of `sort`, with its `_id` key.
fn first_matching(
    tx: &Tx<'_>,
    ns: &Namespace,
    filter: &Filter,
    sort: Option<&SortSpec>,
    deadline: &Deadline,
) -> Result<Option<(Vec<u8>, RawDocumentBuf)>> {
    let Some(collection) = tx.catalog.collection(ns) else {
        return Ok(None);
    };
    let plan = plan::choose(collection, filter, sort, None)?;
    let mut meter = Meter::new(tx.engine, deadline);
    let mut found = None;
    let mut place = None;
    match sort {
        Some(sort) if !plan.sorted => {
            let query = super::Query {
                filter: filter.clone(),
                sort: None,
                projection: None,
                skip: 0,
                limit: Some(1),
                hint: None,
                runtime: Runtime::new(tx.engine, deadline, None),
                window: plan::Window::default(),
                after: None,
                tailable: false,
                shown: Shown::Documents,
                near: None,
            };
            let mut documents = sorted_documents(tx.engine, &*tx.kv, &plan, &query, sort, &mut meter)?;
            found = documents.next()?.map(|(_, document)| document);
        }
        _ => scan(&*tx.kv, &plan, filter, None, &mut meter, &mut |row, document| {
            found = Some(document.to_owned());
            place = Some(row.id.to_vec());
            Ok(ControlFlow::Break(()))
        })?,
    }
    let Some(document) = found else {
        return Ok(None);
    };
    let place = match (place, &collection.time_series) {
        (Some(place), _) => place,
        (None, Some(series)) => time_series::place_of(&*tx.kv, collection, series, &document)?,
        (None, None) => id_key(collection, &document)?.1,
    };
    Ok(Some((place, document)))
}
