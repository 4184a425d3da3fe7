//! A tiny model of a document database for tests: a vector a collection, no planner, no durability. It knows
//! equality, comparison, `$in`, `$exists` and the logical operators in filters, a handful of update operators, sort
//! by one field, unique indexes; every result is one page. What it does not know it refuses loudly.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, RawBson, RawDocumentBuf, Timestamp, oid::ObjectId};
use cloudlet_base::Deadline;

use crate::{
    Aggregate, BoxFuture, ChangeCursor, Changes, Code, CollectionChange, CollectionInfo, CollectionOptions,
    Cursor, Delete, Deleted, Documents, Error, Find, FindAndModify, IndexChange, IndexSpec, Insert, Inserted,
    Modified, Namespace, Page, Statements, Transaction, Update, UpdateOne, Updated, View, Watch, WatchScope,
    Write, WriteError, Written,
};

/// The real engine, in memory.
pub fn embedded() -> Arc<dyn Documents> {
    let clock = Arc::new(cloudlet_base::SystemClock::new());
    let config = cloudlet_docdb::Config {
        cache_bytes: 4 << 20,
        readers: 1,
        ..cloudlet_docdb::Config::default()
    };
    let docs = cloudlet_docdb::Docs::open(
        config,
        clock,
        Arc::new(cloudlet_base::OsEntropy),
        &prometheus::Registry::new(),
    );
    Arc::new(crate::Embedded::new(docs.expect("a database in memory opens")))
}

type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Default)]
struct Collection {
    documents: Vec<Document>,
    indexes: Vec<IndexSpec>,
}

type State = BTreeMap<Namespace, Collection>;

/// The model. Its data live as long as it does; hand the same one to a second service to "reopen".
#[derive(Default)]
pub struct MemoryDocuments {
    state: Mutex<State>,
    writes_fail: AtomicBool,
}

impl MemoryDocuments {
    /// An empty database.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes every write fail, as on a full disk, until told otherwise.
    pub fn set_writes_fail(&self, fail: bool) {
        self.writes_fail.store(fail, Atomic::SeqCst);
    }

    fn read<T>(&self, body: impl FnOnce(&State) -> T) -> T {
        body(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `body` on a copy that becomes the state when it succeeds.
    fn write<T>(&self, body: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        if self.writes_fail.load(Atomic::SeqCst) {
            return Err(Error::new(Code::OutOfDiskSpace, "the disk is full"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        let out = body(&mut next)?;
        *state = next;
        Ok(out)
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadValue, message)
}

fn decode(raw: &bson::RawDocument) -> Result<Document> {
    Document::try_from(raw).map_err(|error| bad(error.to_string()))
}

fn encode(document: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(document).map_err(|error| bad(error.to_string()))
}

fn raw_value(value: &Bson) -> Result<RawBson> {
    RawBson::try_from(value.clone()).map_err(|error| bad(error.to_string()))
}

fn rank(value: &Bson) -> u8 {
    match value {
        Bson::Null => 1,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => 2,
        Bson::String(_) => 3,
        Bson::Document(_) => 4,
        Bson::Array(_) => 5,
        Bson::Binary(_) => 6,
        Bson::ObjectId(_) => 7,
        Bson::Boolean(_) => 8,
        Bson::DateTime(_) => 9,
        _ => 10,
    }
}

fn number(value: &Bson) -> f64 {
    match value {
        Bson::Int32(n) => f64::from(*n),
        Bson::Int64(n) => *n as f64,
        Bson::Double(n) => *n,
        _ => f64::NAN,
    }
}

fn compare(a: &Bson, b: &Bson) -> Ordering {
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        (Bson::ObjectId(a), Bson::ObjectId(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.cmp(b),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        _ if rank(a) == 2 => number(a).total_cmp(&number(b)),
        _ if a == b => Ordering::Equal,
        _ => format!("{a}").cmp(&format!("{b}")),
    })
}

fn lookup<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
    match (document.get(head)?, rest) {
        (value, None) => Some(value),
        (Bson::Document(inner), Some(rest)) => lookup(inner, rest),
        _ => None,
    }
}

fn matches(document: &Document, filter: &Document) -> Result<bool> {
    for (key, want) in filter {
        let branches = || -> Result<Vec<bool>> {
            let Bson::Array(list) = want else {
                return Err(bad(format!("{key} needs an array")));
            };
            list.iter()
                .map(|branch| {
                    branch
                        .as_document()
                        .ok_or_else(|| bad("not a filter"))
                        .and_then(|f| matches(document, f))
                })
                .collect()
        };
        let ok = match key.as_str() {
            "$and" => branches()?.iter().all(|m| *m),
            "$or" => branches()?.iter().any(|m| *m),
            "$nor" => !branches()?.iter().any(|m| *m),
            operator if operator.starts_with('$') => return Err(bad(format!("unknown operator {operator}"))),
            path => matches_value(lookup(document, path), want)?,
        };
        if !ok {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equals(have: Option<&Bson>, want: &Bson) -> bool {
    match have {
        None => *want == Bson::Null,
        Some(Bson::Array(items)) => {
            have == Some(want) || items.iter().any(|item| compare(item, want).is_eq())
        }
        Some(have) => compare(have, want).is_eq(),
    }
}

fn matches_value(have: Option<&Bson>, want: &Bson) -> Result<bool> {
    let operators = match want {
        Bson::Document(operators) if operators.keys().next().is_some_and(|k| k.starts_with('$')) => operators,
        want => return Ok(equals(have, want)),
    };
    let ordered = |want: &Bson, test: fn(Ordering) -> bool| {
        have.is_some_and(|have| rank(have) == rank(want) && test(compare(have, want)))
    };
    for (operator, want) in operators {
        let ok = match operator.as_str() {
            "$eq" => equals(have, want),
            "$ne" => !equals(have, want),
            "$gt" => ordered(want, Ordering::is_gt),
            "$gte" => ordered(want, Ordering::is_ge),
            "$lt" => ordered(want, Ordering::is_lt),
            "$lte" => ordered(want, Ordering::is_le),
            "$in" => want
                .as_array()
                .is_some_and(|list| list.iter().any(|want| equals(have, want))),
            "$exists" => have.is_some() == want.as_bool().unwrap_or(true),
            other => return Err(bad(format!("unknown operator {other}"))),
        };
        if !ok {
            return Ok(false);
        }
    }
    Ok(true)
}

fn assign(document: &mut Document, path: &str, value: Bson) -> Result<()> {
    match path.split_once('.') {
        None => drop(document.insert(path, value)),
        Some((head, rest)) => {
            if !document.contains_key(head) {
                document.insert(head, Document::new());
            }
            let inner = document
                .get_document_mut(head)
                .map_err(|_| bad("path leads through a value"))?;
            assign(inner, rest, value)?;
        }
    }
    Ok(())
}

/// Applies an update; `inserting` is for `$setOnInsert`.
fn apply(document: &mut Document, update: &Document, inserting: bool) -> Result<()> {
    if !update.keys().next().is_some_and(|key| key.starts_with('$')) {
        let id = document.get("_id").cloned();
        *document = id.map(|id| ("_id".to_owned(), id)).into_iter().collect();
        document.extend(update.clone());
        return Ok(());
    }
    for (operator, argument) in update {
        let fields = argument
            .as_document()
            .ok_or_else(|| bad(format!("{operator} needs a document")))?;
        for (path, value) in fields {
            match operator.as_str() {
                "$set" => assign(document, path, value.clone())?,
                "$setOnInsert" if inserting => assign(document, path, value.clone())?,
                "$setOnInsert" => {}
                "$unset" => drop(document.remove(path)),
                "$inc" => {
                    let sum = number(lookup(document, path).unwrap_or(&Bson::Int32(0))) + number(value);
                    assign(document, path, Bson::Int64(sum as i64))?;
                }
                "$push" => {
                    let mut list = lookup(document, path)
                        .and_then(Bson::as_array)
                        .cloned()
                        .unwrap_or_default();
                    list.push(value.clone());
                    assign(document, path, list.into())?;
                }
                "$rename" => {
                    if let Some(moved) = document.remove(path) {
                        assign(document, value.as_str().unwrap_or_default(), moved)?;
                    }
                }
                other => return Err(bad(format!("unknown update operator {other}"))),
            }
        }
    }
    Ok(())
}

impl Collection {
    fn check_unique(&self, candidate: &Document, except: Option<usize>) -> Result<()> {
        let id = IndexSpec {
            name: "_id_".into(),
            keys: vec![("_id".into(), 1)],
            unique: true,
            sparse: false,
            ..IndexSpec::default()
        };
        for index in self.indexes.iter().chain([&id]).filter(|index| index.unique) {
            let key = |d: &Document| -> Vec<Option<Bson>> {
                index
                    .keys
                    .iter()
                    .map(|(path, _)| lookup(d, path).cloned())
                    .collect()
            };
            let wanted = key(candidate);
            if index.sparse && wanted.iter().all(Option::is_none) {
                continue;
            }
            if self
                .documents
                .iter()
                .enumerate()
                .any(|(at, d)| Some(at) != except && key(d) == wanted)
            {
                let pattern: Document = index
                    .keys
                    .iter()
                    .map(|(p, d)| (p.to_string(), Bson::from(*d)))
                    .collect();
                let value: Document = index
                    .keys
                    .iter()
                    .zip(wanted)
                    .map(|((p, _), v)| (p.to_string(), v.into()))
                    .collect();
                let message = format!(
                    "E11000 duplicate key error index: {} dup key: {value}",
                    index.name
                );
                return Err(Error::duplicate_key(message, encode(&pattern)?, encode(&value)?));
            }
        }
        Ok(())
    }

    fn insert_one(&mut self, mut document: Document) -> Result<Bson> {
        if !document.contains_key("_id") {
            let fields = std::mem::take(&mut document);
            document.insert("_id", ObjectId::new());
            document.extend(fields);
        }
        self.check_unique(&document, None)?;
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        self.documents.push(document);
        Ok(id)
    }

    fn insert(&mut self, insert: &Insert) -> Result<Inserted> {
        let mut out = Inserted::default();
        for (index, document) in insert.documents.iter().enumerate() {
            match self.insert_one(decode(document)?) {
                Ok(id) => out.ids.push((index, raw_value(&id)?)),
                Err(error) => {
                    out.errors.push(WriteError { index, error });
                    if insert.ordered {
                        break;
                    }
                }
            }
        }
        Ok(out)
    }

    fn matching(&self, filter: &bson::RawDocument, sort: Option<&bson::RawDocument>) -> Result<Vec<usize>> {
        let filter = decode(filter)?;
        let mut places = Vec::new();
        for (at, document) in self.documents.iter().enumerate() {
            if matches(document, &filter)? {
                places.push(at);
            }
        }
        if let Some(sort) = sort {
            let order: Vec<(String, Bson)> = decode(sort)?.into_iter().collect();
            for (path, direction) in order.iter().rev() {
                let key = |at: usize| lookup(&self.documents[at], path).cloned().unwrap_or(Bson::Null);
                places.sort_by(|a, b| {
                    let order = compare(&key(*a), &key(*b));
                    if number(direction) < 0.0 {
                        order.reverse()
                    } else {
                        order
                    }
                });
            }
        }
        Ok(places)
    }

    fn upsert(&mut self, statement: &UpdateOne) -> Result<Bson> {
        let mut document = Document::new();
        for (key, value) in decode(&statement.filter)? {
            let is_operator = matches!(&value, Bson::Document(d) if d.keys().any(|k| k.starts_with('$')));
            if !key.starts_with('$') && !is_operator {
                assign(&mut document, &key, value)?;
            }
        }
        apply(&mut document, &decode(&statement.update)?, true)?;
        self.insert_one(document)
    }

    fn update_one(&mut self, index: usize, statement: &UpdateOne, out: &mut Updated) -> Result<()> {
        let mut places = self.matching(&statement.filter, None)?;
        if !statement.multi {
            places.truncate(1);
        }
        if places.is_empty() && statement.upsert {
            let id = self.upsert(statement)?;
            out.upserted.push((index, raw_value(&id)?));
        }
        let update = decode(&statement.update)?;
        for at in places {
            let mut next = self.documents[at].clone();
            apply(&mut next, &update, false)?;
            if next.get("_id") != self.documents[at].get("_id") {
                return Err(Error::new(Code::ImmutableField, "_id can't be changed"));
            }
            self.check_unique(&next, Some(at))?;
            out.matched += 1;
            out.modified += u64::from(next != self.documents[at]);
            self.documents[at] = next;
        }
        Ok(())
    }

    fn update(&mut self, update: &Update) -> Result<Updated> {
        let mut out = Updated::default();
        for (index, statement) in update.statements.iter().enumerate() {
            let before = (out.matched, out.modified);
            let outcome = self.update_one(index, statement, &mut out);
            out.each.push((out.matched - before.0, out.modified - before.1));
            if let Err(error) = outcome {
                out.errors.push(WriteError { index, error });
                if update.ordered {
                    break;
                }
            }
        }
        Ok(out)
    }

    fn delete(&mut self, delete: &Delete) -> Result<Deleted> {
        let mut out = Deleted::default();
        for statement in &delete.statements {
            let mut places = self.matching(&statement.filter, None)?;
            if !statement.multi {
                places.truncate(1);
            }
            out.each.push(places.len() as u64);
            for at in places.into_iter().rev() {
                self.documents.remove(at);
                out.deleted += 1;
            }
        }
        Ok(out)
    }

    fn modify(&mut self, modify: FindAndModify) -> Result<Modified> {
        let places = self.matching(&modify.filter, modify.sort.as_deref())?;
        let mut out = Modified {
            matched: !places.is_empty(),
            ..Modified::default()
        };
        let Some(update) = modify.update else {
            if let Some(at) = places.first() {
                out.document = Some(encode(&self.documents.remove(*at))?);
            }
            return Ok(out);
        };
        match places.first() {
            Some(&at) => {
                let mut next = self.documents[at].clone();
                apply(&mut next, &decode(&update)?, false)?;
                self.check_unique(&next, Some(at))?;
                let before = std::mem::replace(&mut self.documents[at], next);
                out.document = Some(encode(if modify.return_new {
                    &self.documents[at]
                } else {
                    &before
                })?);
            }
            None if modify.upsert => {
                let filter = modify.filter;
                let statement = UpdateOne {
                    filter,
                    update,
                    multi: false,
                    upsert: true,
                    ..UpdateOne::default()
                };
                out.upserted = Some(raw_value(&self.upsert(&statement)?)?);
                if let (true, Some(document)) = (modify.return_new, self.documents.last()) {
                    out.document = Some(encode(document)?);
                }
            }
            None => {}
        }
        Ok(out)
    }
}

fn done<'a, T: Send + 'a>(result: Result<T>) -> BoxFuture<'a, Result<T>> {
    Box::pin(std::future::ready(result))
}

fn unsupported<'a, T: Send + 'a>(what: &str) -> BoxFuture<'a, Result<T>> {
    done(Err(Error::new(
        Code::CommandNotSupported,
        format!("the test model has no {what}"),
    )))
}

fn first_error<T>(errors: Vec<WriteError>, ok: T) -> Result<T> {
    errors
        .into_iter()
        .next()
        .map_or(Ok(ok), |failed| Err(failed.error))
}

impl Statements for MemoryDocuments {
    fn find<'a>(&'a self, ns: &'a Namespace, find: Find, _: Deadline) -> BoxFuture<'a, Result<Page>> {
        done(self.read(|state| {
            let mut documents = Vec::new();
            if let Some(collection) = state.get(ns) {
                let places = collection.matching(&find.filter, find.sort.as_deref())?;
                let limit = find.limit.map_or(usize::MAX, |limit| limit as usize);
                for at in places.into_iter().skip(find.skip as usize).take(limit) {
                    documents.push(encode(&collection.documents[at])?);
                }
            }
            Ok(Page {
                documents,
                cursor: None,
            })
        }))
    }

    fn next_page(&self, _: Cursor, _: Option<u32>, _: Deadline) -> BoxFuture<'_, Result<Page>> {
        unsupported("cursors")
    }

    fn count<'a>(&'a self, ns: &'a Namespace, find: Find, _: Deadline) -> BoxFuture<'a, Result<u64>> {
        done(self.read(|state| match state.get(ns) {
            Some(collection) => Ok(collection.matching(&find.filter, None)?.len() as u64),
            None => Ok(0),
        }))
    }

    fn distinct<'a>(
        &'a self,
        _: &'a Namespace,
        _: &'a str,
        _: Find,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Vec<RawBson>>> {
        unsupported("distinct")
    }

    fn aggregate<'a>(&'a self, _: &'a Namespace, _: Aggregate, _: Deadline) -> BoxFuture<'a, Result<Page>> {
        unsupported("aggregate")
    }

    fn insert<'a>(
        &'a self,
        ns: &'a Namespace,
        insert: Insert,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Inserted>> {
        done(self.write(|state| state.entry(ns.clone()).or_default().insert(&insert)))
    }

    fn update<'a>(
        &'a self,
        ns: &'a Namespace,
        update: Update,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Updated>> {
        done(self.write(|state| state.entry(ns.clone()).or_default().update(&update)))
    }

    fn delete<'a>(
        &'a self,
        ns: &'a Namespace,
        delete: Delete,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Deleted>> {
        done(self.write(|state| state.entry(ns.clone()).or_default().delete(&delete)))
    }

    fn find_and_modify<'a>(
        &'a self,
        ns: &'a Namespace,
        modify: FindAndModify,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Modified>> {
        done(self.write(|state| state.entry(ns.clone()).or_default().modify(modify)))
    }
}

impl Documents for MemoryDocuments {
    fn start_transaction(&self) -> Result<Arc<dyn Transaction>> {
        Err(Error::new(
            Code::IllegalOperation,
            "the model has no transactions",
        ))
    }

    fn watch(&self, _: WatchScope, _: Watch) -> BoxFuture<'_, Result<ChangeCursor>> {
        unsupported("change streams")
    }

    fn next_changes(
        &self,
        _: ChangeCursor,
        _: Option<u32>,
        _: Duration,
        _: Deadline,
    ) -> BoxFuture<'_, Result<Changes>> {
        unsupported("change streams")
    }

    fn tail(&self, _: Cursor, _: Option<u32>, _: Duration, _: Deadline) -> BoxFuture<'_, Result<Page>> {
        unsupported("tail")
    }

    fn operation_time(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn keep_images<'a>(&'a self, _: &'a Namespace, _: bool) -> BoxFuture<'a, Result<()>> {
        unsupported("change streams")
    }

    fn transact(&self, writes: Vec<Write>, _: Deadline) -> BoxFuture<'_, Result<Vec<Written>>> {
        done(self.write(|state| {
            let mut out = Vec::new();
            for write in writes {
                out.push(match write {
                    Write::Insert(ns, insert) => {
                        let mut done = state.entry(ns).or_default().insert(&insert)?;
                        Written::Inserted(first_error(std::mem::take(&mut done.errors), done)?)
                    }
                    Write::Update(ns, update) => {
                        let mut done = state.entry(ns).or_default().update(&update)?;
                        Written::Updated(first_error(std::mem::take(&mut done.errors), done)?)
                    }
                    Write::Delete(ns, delete) => {
                        Written::Deleted(state.entry(ns).or_default().delete(&delete)?)
                    }
                });
            }
            Ok(out)
        }))
    }

    fn create_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<()>> {
        done(self.write(|state| {
            state.entry(ns.clone()).or_default();
            Ok(())
        }))
    }

    fn create_collection_with<'a>(
        &'a self,
        _: &'a Namespace,
        _: CollectionOptions,
    ) -> BoxFuture<'a, Result<()>> {
        unsupported("create_collection_with")
    }

    fn modify_collection<'a>(&'a self, _: &'a Namespace, _: CollectionChange) -> BoxFuture<'a, Result<()>> {
        unsupported("modify_collection")
    }

    fn create_view<'a>(&'a self, _: &'a Namespace, _: View) -> BoxFuture<'a, Result<()>> {
        unsupported("create_view")
    }

    fn modify_view<'a>(&'a self, _: &'a Namespace, _: View) -> BoxFuture<'a, Result<()>> {
        unsupported("modify_view")
    }

    fn collection_options<'a>(&'a self, _: &'a Namespace) -> BoxFuture<'a, Result<CollectionOptions>> {
        unsupported("collection_options")
    }

    fn describe_collections<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<CollectionInfo>>> {
        unsupported("describe_collections")
    }

    fn drop_collection<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<bool>> {
        done(self.write(|state| Ok(state.remove(ns).is_some())))
    }

    fn list_collections<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>>> {
        done(self.read(|state| {
            Ok(state
                .keys()
                .filter(|ns| &*ns.database == database)
                .map(|ns| ns.collection.clone())
                .collect())
        }))
    }

    fn list_databases(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>>> {
        done(self.read(|state| {
            let mut names: Vec<Arc<str>> = state.keys().map(|ns| ns.database.clone()).collect();
            names.dedup();
            Ok(names)
        }))
    }

    fn drop_database<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<()>> {
        done(self.write(|state| {
            state.retain(|ns, _| &*ns.database != database);
            Ok(())
        }))
    }

    fn rename_collection<'a>(
        &'a self,
        from: &'a Namespace,
        to: &'a Namespace,
        drop_target: bool,
    ) -> BoxFuture<'a, Result<()>> {
        done(self.write(|state| {
            if state.contains_key(to) && !drop_target {
                return Err(Error::new(Code::NamespaceExists, "target namespace exists"));
            }
            let collection = state.remove(from).ok_or_else(|| {
                Error::new(
                    Code::NamespaceNotFound,
                    format!("source collection {from} does not exist"),
                )
            })?;
            state.insert(to.clone(), collection);
            Ok(())
        }))
    }

    fn create_indexes<'a>(
        &'a self,
        ns: &'a Namespace,
        indexes: Vec<IndexSpec>,
    ) -> BoxFuture<'a, Result<usize>> {
        done(self.write(|state| {
            let collection = state.entry(ns.clone()).or_default();
            let before = collection.indexes.len();
            for index in indexes {
                if !collection.indexes.iter().any(|have| have.name == index.name) {
                    collection.indexes.push(index);
                }
            }
            Ok(collection.indexes.len() - before)
        }))
    }

    fn modify_index<'a>(
        &'a self,
        _: &'a Namespace,
        _: &'a str,
        _: IndexChange,
    ) -> BoxFuture<'a, Result<(IndexSpec, IndexSpec)>> {
        unsupported("modify_index")
    }

    fn drop_index<'a>(&'a self, _: &'a Namespace, _: &'a str) -> BoxFuture<'a, Result<()>> {
        unsupported("drop_index")
    }

    fn list_indexes<'a>(&'a self, ns: &'a Namespace) -> BoxFuture<'a, Result<Vec<IndexSpec>>> {
        done(Ok(self.read(|state| {
            state.get(ns).map(|c| c.indexes.clone()).unwrap_or_default()
        })))
    }

    fn explain<'a>(
        &'a self,
        _: &'a Namespace,
        _: Find,
        _: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf>> {
        unsupported("explain")
    }

    fn explain_aggregate<'a>(
        &'a self,
        _: &'a Namespace,
        _: Aggregate,
        _: Deadline,
    ) -> BoxFuture<'a, Result<RawDocumentBuf>> {
        unsupported("explain_aggregate")
    }
}
