//! The engine as its callers see it: commands through `Docs` over memory, over redb, and over stores that fail.

mod aggregate;
mod background;
mod capped;
mod check;
mod collated;
mod collation;
mod commands;
mod covered;
mod crash;
mod feed;
mod files;
mod geo;
mod geo_plane;
mod indexes;
mod lanes;
mod log;
mod model;
mod plans;
mod spill;
mod stores;
mod time_series;
mod validation;
mod views;

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};
use cloudlet_base::{Deadline, ManualClock, SeededEntropy, SystemClock};
use prometheus::Registry;

use crate::kv::Kv;
use crate::*;

pub(crate) fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).unwrap()
}

pub(crate) fn ns() -> Namespace {
    Namespace::new("db", "c")
}

pub(crate) fn memory() -> Docs {
    open(Config::default()).unwrap()
}

pub(crate) fn open(config: Config) -> Result<Docs> {
    Docs::open(
        config,
        Arc::new(SystemClock::new()),
        Arc::new(SeededEntropy::new(1)),
        &Registry::new(),
    )
}

/// In memory, with these bounds.
pub(crate) fn limited(limits: Limits) -> Docs {
    open(Config {
        limits,
        ..Config::default()
    })
    .unwrap()
}

/// In memory, with these bounds, by this clock.
pub(crate) fn clocked(limits: Limits, clock: &Arc<ManualClock>) -> Docs {
    let config = Config {
        readers: 1,
        limits,
        ..Config::default()
    };
    Docs::open(
        config,
        clock.clone(),
        Arc::new(SeededEntropy::new(1)),
        &Registry::new(),
    )
    .unwrap()
}

pub(crate) fn open_on(kv: Box<dyn Kv>) -> Result<Docs> {
    let config = Config {
        readers: 1,
        ..Config::default()
    };
    Docs::open_on(
        kv,
        config,
        Arc::new(SystemClock::new()),
        Arc::new(SeededEntropy::new(1)),
        &Registry::new(),
    )
}

pub(crate) fn inserts(documents: impl IntoIterator<Item = Document>) -> Insert {
    Insert {
        documents: documents.into_iter().map(raw).collect(),
        ordered: true,
        ..Insert::default()
    }
}

pub(crate) fn insert(docs: &Docs, documents: impl IntoIterator<Item = Document>) -> Inserted {
    docs.insert(&ns(), inserts(documents), Deadline::NEVER)
        .wait()
        .unwrap()
}

pub(crate) fn query(filter: Document) -> Find {
    Find {
        filter: raw(filter),
        ..Find::default()
    }
}

/// All pages of a query.
pub(crate) fn all(docs: &Docs, find: Find) -> Result<Vec<Document>> {
    let batch = find.batch;
    rest(docs, docs.find(&ns(), find, Deadline::NEVER).wait()?, batch)
}

/// A page's documents, and those of all pages after it.
pub(crate) fn rest(docs: &Docs, mut page: Page, batch: Option<u32>) -> Result<Vec<Document>> {
    let mut found = std::mem::take(&mut page.documents);
    while let Some(cursor) = page.cursor {
        page = docs.next_page(cursor, batch, Deadline::NEVER).wait()?;
        found.append(&mut page.documents);
    }
    Ok(found
        .iter()
        .map(|document| Document::try_from(document.as_ref()).unwrap())
        .collect())
}

/// The `_id`s that a query gives, in order.
pub(crate) fn ids(docs: &Docs, find: Find) -> Vec<i32> {
    all(docs, find)
        .unwrap()
        .iter()
        .map(|document| document.get_i32("_id").unwrap())
        .collect()
}

pub(crate) fn index(keys: &[(&str, i32)]) -> IndexSpec {
    let keys: Vec<(Arc<str>, i32)> = keys
        .iter()
        .map(|(path, direction)| (Arc::from(*path), *direction))
        .collect();
    IndexSpec {
        name: default_index_name(&keys),
        keys,
        unique: false,
        sparse: false,
        ..IndexSpec::default()
    }
}

pub(crate) fn make_index(docs: &Docs, spec: IndexSpec) {
    assert_eq!(docs.create_indexes(&ns(), vec![spec]).wait().unwrap(), 1);
}

pub(crate) fn update_one(filter: Document, update: Document) -> UpdateOne {
    UpdateOne {
        filter: raw(filter),
        update: raw(update),
        multi: false,
        upsert: false,
        ..UpdateOne::default()
    }
}

pub(crate) fn updates(statements: Vec<UpdateOne>) -> Update {
    Update {
        statements,
        ordered: true,
        ..Update::default()
    }
}

pub(crate) fn deletes(filter: Document, multi: bool) -> Delete {
    Delete {
        statements: vec![DeleteOne {
            filter: raw(filter),
            multi,
            ..DeleteOne::default()
        }],
        ordered: true,
    }
}

/// The winning plan's innermost scan and the statistics.
pub(crate) fn explained(docs: &Docs, find: Find) -> (Vec<String>, Document, Document) {
    let explained = docs.explain(&ns(), find, Deadline::NEVER).wait().unwrap();
    let explained = Document::try_from(explained.as_ref()).unwrap();
    let mut stage = explained
        .get_document("queryPlanner")
        .unwrap()
        .get_document("winningPlan")
        .unwrap()
        .clone();
    let mut names = vec![stage.get_str("stage").unwrap().to_owned()];
    while let Ok(input) = stage.get_document("inputStage") {
        stage = input.clone();
        names.push(stage.get_str("stage").unwrap().to_owned());
    }
    (
        names,
        stage,
        explained.get_document("executionStats").unwrap().clone(),
    )
}

#[test]
fn an_empty_database_answers() {
    let docs = memory();
    assert_eq!(all(&docs, query(doc! {})).unwrap(), Vec::<Document>::new());
    assert_eq!(docs.list_databases().wait().unwrap(), Vec::<Arc<str>>::new());
    assert_eq!(docs.verify(Deadline::NEVER).wait().unwrap(), Verified::default());
}
