//! Power failures at any moment: what was acknowledged is there afterwards, nothing is there by half, and indexes
//! agree with documents, and the change log has an event for each change that is there and none for one that is not.
//! One seed gives the operations, the moment of the crash and which sectors survive it.

use std::collections::BTreeMap;

use cloudlet_base::SeededEntropy;

use super::feed::history;
use super::stores::on_disk;
use super::*;
use crate::kv::testing::Disk;

/// What a document may be: absent, or with this `v`.
type State = Option<i32>;

/// What is known of each document: its state for certain, or one of several after unanswered operations.
#[derive(Default)]
struct Known {
    states: BTreeMap<i32, Vec<State>>,
    /// The states that the change log must tell of each document, in order.
    told: BTreeMap<i32, Vec<State>>,
    /// And the last one that it may tell: of an unanswered operation.
    maybe: BTreeMap<i32, State>,
}

impl Known {
    fn of(&self, id: i32) -> Vec<State> {
        self.states.get(&id).cloned().unwrap_or_else(|| vec![None])
    }

    fn certain(&self, id: i32) -> Option<State> {
        match self.of(id)[..] {
            [state] => Some(state),
            _ => None,
        }
    }

    fn answered(&mut self, id: i32, state: State, acknowledged: bool) {
        // What changes nothing has no event.
        if self.certain(id) != Some(state) {
            if acknowledged {
                self.told.entry(id).or_default().push(state);
            } else {
                self.maybe.insert(id, state);
            }
        }
        let mut states = if acknowledged { Vec::new() } else { self.of(id) };
        states.push(state);
        self.states.insert(id, states);
    }
}

fn other() -> Namespace {
    Namespace::new("db", "d")
}

/// A write that brings a document with its twin in another collection into `state`.
fn write(docs: &Docs, id: i32, before: State, state: State) -> Reply<Vec<Written>> {
    let both = |write: &dyn Fn(Namespace) -> Write| vec![write(ns()), write(other())];
    let document =
        |v: i32| doc! { "_id": id, "u": id, "v": v, "tags": [v % 5, id % 7, "x".repeat((v % 900) as usize)] };
    let writes = match (before, state) {
        (None, Some(v)) => both(&|ns| Write::Insert(ns, inserts([document(v)]))),
        (_, Some(v)) => {
            both(&|ns| Write::Update(ns, updates(vec![update_one(doc! { "_id": id }, document(v))])))
        }
        (_, None) => both(&|ns| Write::Delete(ns, deletes(doc! { "_id": id }, false))),
    };
    docs.transact(writes, Deadline::NEVER)
}

/// Looks at the store after a crash and compares it with what is known.
fn check(docs: &Docs, known: &mut Known) -> Result<(), String> {
    let verified = docs
        .verify(Deadline::NEVER)
        .wait()
        .map_err(|error| error.to_string())?;
    let read = |ns: &Namespace| {
        let found = docs
            .find(
                ns,
                Find {
                    batch: Some(u32::MAX),
                    ..Find::default()
                },
                Deadline::NEVER,
            )
            .wait();
        let found = found.map_err(|error| error.to_string())?.documents;
        let states = found
            .iter()
            .map(|document| (document.get_i32("_id").unwrap(), document.get_i32("v").unwrap()));
        Ok::<_, String>(states.collect::<BTreeMap<i32, i32>>())
    };
    let (here, twins) = (read(&ns())?, read(&other())?);
    if here != twins {
        return Err("a transaction is there by half".to_owned());
    }
    if verified.documents != (here.len() * 2) as u64 {
        return Err(format!("{verified:?} and {} documents", here.len()));
    }
    for id in known.states.keys().copied().collect::<Vec<_>>() {
        let state = here.get(&id).copied();
        if !known.of(id).contains(&state) {
            return Err(format!(
                "document {id} is {state:?} and should be one of {:?}",
                known.of(id)
            ));
        }
        known.states.insert(id, vec![state]);
    }
    if let Some(stranger) = here.keys().find(|id| !known.states.contains_key(id)) {
        return Err(format!("document {stranger} was never written"));
    }
    check_log(docs, known, &here)
}

/// Compares the change log with what is known and with the documents that are there.
fn check_log(docs: &Docs, known: &mut Known, here: &BTreeMap<i32, i32>) -> Result<(), String> {
    let events = history(docs, WatchScope::Deployment).map_err(|error| error.to_string())?;
    let mut told: BTreeMap<i32, Vec<State>> = BTreeMap::new();
    for pair in events.chunks(2) {
        let [one, twin] = pair else {
            return Err("the log has a transaction by half".to_owned());
        };
        for part in ["operationType", "documentKey", "fullDocument"] {
            if one.get(part) != twin.get(part) {
                return Err(format!("the log mixes transactions: {one} and {twin}"));
            }
        }
        let id = one.get_document("documentKey").unwrap().get_i32("_id").unwrap();
        let document = one.get_document("fullDocument").ok();
        let state = document.map(|document| document.get_i32("v").unwrap());
        told.entry(id).or_default().push(state);
    }
    for (id, state) in std::mem::take(&mut known.maybe) {
        let certain = known.told.entry(id).or_default();
        if told.get(&id).is_some_and(|told| told.len() > certain.len()) {
            certain.push(state);
        }
    }
    known.told.retain(|_, states| !states.is_empty());
    if told != known.told {
        return Err(format!("the log tells {told:?} and should tell {:?}", known.told));
    }
    let last = told
        .iter()
        .filter_map(|(id, states)| Some((*id, (*states.last()?)?)));
    if last.collect::<BTreeMap<i32, i32>>() != *here {
        return Err("the log ends with other documents than are there".to_owned());
    }
    Ok(())
}

/// Runs one history of several crashes.
fn simulate(seed: u64, lying: bool) -> Result<(), String> {
    let disk = Disk::new(seed);
    let chance = SeededEntropy::new(seed ^ 0xc0ffee);
    let mut known = Known::default();
    let next = |below: u64| chance.next_u64() % below;
    {
        let docs = open_on(on_disk(&disk).unwrap()).unwrap();
        for ns in [ns(), other()] {
            let specs = vec![
                IndexSpec {
                    unique: true,
                    ..index(&[("u", 1)])
                },
                index(&[("tags", -1), ("v", 1)]),
            ];
            docs.create_indexes(&ns, specs).wait().unwrap();
        }
    }
    if lying {
        disk.lie();
    }
    for _ in 0..4 {
        let docs = on_disk(&disk)
            .and_then(open_on)
            .map_err(|error| format!("open: {error}"))?;
        check(&docs, &mut known)?;
        disk.crash_after(next(120) as u32);
        for round in 0.. {
            // Now and then an fsync fails, of the log or the database file.
            if !lying && next(12) == 0 {
                disk.fail_sync_after(next(4) as u32);
            }
            // Operations on different documents, so that each answer says what one document is.
            let mut replies = Vec::new();
            let first = next(40) as i32;
            for id in first..=first + next(6) as i32 {
                let Some(before) = known.certain(id) else { continue };
                let state = (next(4) > 0).then(|| next(1000) as i32);
                replies.push((id, state, write(&docs, id, before, state)));
            }
            for (id, state, reply) in replies {
                let acknowledged = reply.wait().is_ok();
                known.answered(id, state, acknowledged);
            }
            if !disk.is_crash_pending() || round > 60 {
                break;
            }
        }
        // In some histories the power fails once more, between operations.
        if next(3) == 0 {
            disk.crash();
        }
    }
    let docs = on_disk(&disk)
        .and_then(open_on)
        .map_err(|error| format!("open: {error}"))?;
    check(&docs, &mut known)
}

#[test]
fn acknowledged_writes_survive_power_failures_whole() {
    for seed in 0..60 {
        if let Err(what) = simulate(seed, false) {
            panic!("SEED={seed}: {what}");
        }
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    // The proof that the check above has teeth. A store may be damaged so much that redb panics.
    let fooled =
        |seed: &u64| std::panic::catch_unwind(|| simulate(*seed, true)).is_ok_and(|outcome| outcome.is_ok());
    assert!((0..8).filter(fooled).count() <= 2);
}
