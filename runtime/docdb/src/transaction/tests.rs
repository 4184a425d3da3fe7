//! Transactions: isolation, conflicts, ends; and against a model that runs them one after another.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use cloudlet_base::{Deadline, ManualClock};

use crate::tests::{clocked, inserts, limited, memory, ns, raw};
use crate::*;

fn find_all(page: Page) -> Vec<Document> {
    page.documents
        .iter()
        .map(|document| Document::try_from(document.as_ref()).unwrap())
        .collect()
}

fn all() -> Find {
    Find {
        sort: Some(raw(doc! { "_id": 1 })),
        ..Find::default()
    }
}

fn set(id: i32, change: Document) -> Update {
    Update {
        statements: vec![UpdateOne {
            filter: raw(doc! { "_id": id }),
            update: raw(change),
            multi: false,
            upsert: false,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    }
}

fn docs_in(docs: &Docs) -> Vec<Document> {
    find_all(docs.find(&ns(), all(), Deadline::NEVER).wait().unwrap())
}

fn seeded() -> Docs {
    let docs = memory();
    let rows = [doc! { "_id": 1, "n": 10 }, doc! { "_id": 2, "n": 20 }];
    docs.insert(&ns(), inserts(rows), Deadline::NEVER).wait().unwrap();
    docs
}

const NEVER: Deadline = Deadline::NEVER;

#[test]
fn nothing_is_seen_before_the_commit_and_all_after() {
    let docs = seeded();
    let one = docs.start_transaction().unwrap();
    one.insert(&ns(), inserts([doc! { "_id": 3, "n": 30 }]), NEVER)
        .wait()
        .unwrap();
    one.update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait()
        .unwrap();
    let gone = Delete {
        statements: vec![DeleteOne {
            filter: raw(doc! { "_id": 2 }),
            multi: false,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    assert_eq!(one.delete(&ns(), gone, NEVER).wait().unwrap().deleted, 1);
    // It sees its own changes; others do not.
    let own = find_all(one.find(&ns(), all(), NEVER).wait().unwrap());
    assert_eq!(own, [doc! { "_id": 1, "n": 11 }, doc! { "_id": 3, "n": 30 }]);
    assert_eq!(one.count(&ns(), all(), NEVER).wait().unwrap(), 2);
    assert_eq!(
        docs_in(&docs),
        [doc! { "_id": 1, "n": 10 }, doc! { "_id": 2, "n": 20 }]
    );
    one.commit().wait().unwrap();
    assert_eq!(docs_in(&docs), own);
    assert_eq!(one.commit().wait().unwrap_err().code(), Code::NoSuchTransaction);
    docs.verify(NEVER).wait().unwrap();
}

#[test]
fn it_reads_the_state_in_which_it_began() {
    let docs = seeded();
    let one = docs.start_transaction().unwrap();
    docs.update(&ns(), set(1, doc! { "$set": { "n": 99 } }), NEVER)
        .wait()
        .unwrap();
    docs.insert(&ns(), inserts([doc! { "_id": 9 }]), NEVER)
        .wait()
        .unwrap();
    let seen = find_all(one.find(&ns(), all(), NEVER).wait().unwrap());
    assert_eq!(seen, [doc! { "_id": 1, "n": 10 }, doc! { "_id": 2, "n": 20 }]);
    // Pages go on in the same state.
    let first = Find {
        batch: Some(1),
        ..all()
    };
    let page = one.find(&ns(), first, NEVER).wait().unwrap();
    let rest = one.next_page(page.cursor.unwrap(), None, NEVER).wait().unwrap();
    assert_eq!(find_all(rest), [doc! { "_id": 2, "n": 20 }]);
}

#[test]
fn a_row_that_another_changed_is_a_conflict() {
    let docs = seeded();
    // Changed outside before the statement.
    let late = docs.start_transaction().unwrap();
    docs.update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait()
        .unwrap();
    let refused = late
        .update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait();
    assert_eq!(refused.unwrap_err().code(), Code::WriteConflict);
    assert!(!late.is_open());

    // Claimed by another transaction.
    let (one, two) = (
        docs.start_transaction().unwrap(),
        docs.start_transaction().unwrap(),
    );
    one.update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait()
        .unwrap();
    let refused = two
        .update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait();
    assert_eq!(refused.unwrap_err().code(), Code::WriteConflict);
    one.commit().wait().unwrap();
    // The claim is free again.
    let three = docs.start_transaction().unwrap();
    three
        .update(&ns(), set(1, doc! { "$inc": { "n": 1 } }), NEVER)
        .wait()
        .unwrap();

    // Changed outside after the statement: found at the commit, which changes nothing.
    three
        .update(&ns(), set(2, doc! { "$set": { "n": 0 } }), NEVER)
        .wait()
        .unwrap();
    docs.update(&ns(), set(1, doc! { "$set": { "n": -1 } }), NEVER)
        .wait()
        .unwrap();
    assert_eq!(three.commit().wait().unwrap_err().code(), Code::WriteConflict);
    assert_eq!(
        docs_in(&docs),
        [doc! { "_id": 1, "n": -1 }, doc! { "_id": 2, "n": 20 }]
    );

    // Different documents do not conflict.
    let (one, two) = (
        docs.start_transaction().unwrap(),
        docs.start_transaction().unwrap(),
    );
    one.update(&ns(), set(1, doc! { "$set": { "n": 1 } }), NEVER)
        .wait()
        .unwrap();
    two.update(&ns(), set(2, doc! { "$set": { "n": 2 } }), NEVER)
        .wait()
        .unwrap();
    one.commit().wait().unwrap();
    two.commit().wait().unwrap();
    docs.verify(NEVER).wait().unwrap();
}

#[test]
fn unique_keys_hold_across_transactions() {
    let docs = seeded();
    let unique = IndexSpec {
        name: "n_1".into(),
        keys: vec![("n".into(), 1)],
        unique: true,
        sparse: false,
        ..IndexSpec::default()
    };
    docs.create_indexes(&ns(), vec![unique]).wait().unwrap();
    let one = docs.start_transaction().unwrap();
    one.insert(&ns(), inserts([doc! { "_id": 3, "n": 5 }]), NEVER)
        .wait()
        .unwrap();
    docs.insert(&ns(), inserts([doc! { "_id": 4, "n": 5 }]), NEVER)
        .wait()
        .unwrap();
    assert_eq!(one.commit().wait().unwrap_err().code(), Code::WriteConflict);

    // A duplicate inside ends the transaction, and says what it was.
    let two = docs.start_transaction().unwrap();
    let done = two
        .insert(&ns(), inserts([doc! { "_id": 6, "n": 5 }]), NEVER)
        .wait()
        .unwrap();
    assert_eq!(done.errors[0].error.code(), Code::DuplicateKey);
    assert_eq!(two.commit().wait().unwrap_err().code(), Code::NoSuchTransaction);
    assert_eq!(docs_in(&docs).len(), 3);
    docs.verify(NEVER).wait().unwrap();
}

#[test]
fn collections_are_made_and_lost_with_it() {
    let docs = seeded();
    let other = Namespace::new("db", "other");
    let one = docs.start_transaction().unwrap();
    one.insert(&other, inserts([doc! { "_id": 1 }]), NEVER)
        .wait()
        .unwrap();
    drop(one);
    assert_eq!(docs.list_collections("db").wait().unwrap().len(), 1);

    let two = docs.start_transaction().unwrap();
    two.insert(&other, inserts([doc! { "_id": 1 }]), NEVER)
        .wait()
        .unwrap();
    two.commit().wait().unwrap();
    assert_eq!(docs.list_collections("db").wait().unwrap().len(), 2);

    // An index or a drop that came in between is a conflict: the rows would not fit the catalog.
    let three = docs.start_transaction().unwrap();
    three
        .update(&ns(), set(1, doc! { "$set": { "n": 7 } }), NEVER)
        .wait()
        .unwrap();
    let index = IndexSpec {
        name: "n_1".into(),
        keys: vec![("n".into(), 1)],
        unique: false,
        sparse: false,
        ..IndexSpec::default()
    };
    docs.create_indexes(&ns(), vec![index]).wait().unwrap();
    assert_eq!(three.commit().wait().unwrap_err().code(), Code::WriteConflict);
    docs.verify(NEVER).wait().unwrap();
}

#[test]
fn one_that_is_over_its_time_or_its_bytes_holds_nothing() {
    let clock = Arc::new(ManualClock::at_millis(1_000_000));
    let limits = Limits {
        transaction_bytes_max: 1000,
        transactions_max: 1,
        ..Limits::default()
    };
    let docs = clocked(limits, &clock);
    docs.insert(&ns(), inserts([doc! { "_id": 1, "n": 1 }]), NEVER)
        .wait()
        .unwrap();

    let one = docs.start_transaction().unwrap();
    one.update(&ns(), set(1, doc! { "$set": { "n": 2 } }), NEVER)
        .wait()
        .unwrap();
    assert_eq!(
        docs.start_transaction().err().unwrap().code(),
        Code::TooManyRequests
    );
    clock.advance(Duration::from_secs(61));
    assert_eq!(one.commit().wait().unwrap_err().code(), Code::NoSuchTransaction);

    let two = docs.start_transaction().unwrap();
    let big = doc! { "$set": { "n": "x".repeat(1000) } };
    let refused = two.update(&ns(), set(1, big), NEVER).wait();
    assert_eq!(refused.unwrap_err().code(), Code::TransactionTooLarge);
    assert!(!two.is_open());

    // The claim of the first and of the second are free.
    let three = docs.start_transaction().unwrap();
    three
        .update(&ns(), set(1, doc! { "$set": { "n": 3 } }), NEVER)
        .wait()
        .unwrap();
    three.commit().wait().unwrap();
    assert_eq!(docs_in(&docs), [doc! { "_id": 1, "n": 3 }]);
}

#[test]
fn an_abandoned_one_is_ended_by_the_sweeper() {
    let limits = Limits {
        transaction_lifetime: Duration::from_millis(20),
        transactions_max: 1,
        ..Limits::default()
    };
    let docs = limited(limits);
    let held = docs.start_transaction().unwrap();
    held.insert(&ns(), inserts([doc! { "_id": 1 }]), NEVER)
        .wait()
        .unwrap();
    // Nobody touches it; its place becomes free.
    let next = loop {
        if let Ok(next) = docs.start_transaction() {
            break next;
        }
        std::thread::yield_now();
    };
    drop(next);
    assert!(!held.is_open());
}

#[test]
fn money_is_neither_made_nor_lost() {
    const ACCOUNTS: i32 = 8;
    let docs = memory();
    let accounts = (0..ACCOUNTS).map(|id| doc! { "_id": id, "n": 100 });
    docs.insert(&ns(), inserts(accounts), NEVER).wait().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|seed: i32| {
            let docs = docs.clone();
            std::thread::spawn(move || {
                let mut done = 0;
                let mut step = seed;
                while done < 50 {
                    step = step.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let (from, to) = ((step >> 16) & 7, (step >> 20) & 7);
                    let transfer = docs.start_transaction().unwrap();
                    let run = || {
                        transfer
                            .update(&ns(), set(from, doc! { "$inc": { "n": -1 } }), NEVER)
                            .wait()?;
                        transfer
                            .update(&ns(), set(to, doc! { "$inc": { "n": 1 } }), NEVER)
                            .wait()?;
                        transfer.commit().wait()
                    };
                    match run() {
                        Ok(()) => done += 1,
                        Err(error) => assert_eq!(error.code(), Code::WriteConflict),
                    }
                    // Whoever looks sees the sum.
                    let sum: i32 = docs_in(&docs).iter().map(|d| d.get_i32("n").unwrap()).sum();
                    assert_eq!(sum, ACCOUNTS * 100);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    docs.verify(NEVER).wait().unwrap();
}
