//! Capped collections: the order in which their documents came, how much there is of them, and which one has to go.
//! The documents themselves are stored as any others are; `exec::write` keeps these rows up beside them.

use std::ops::ControlFlow;

use crate::catalog::order_prefix;
use crate::kv::{Direction, KvRead, KvWrite, Range, get_vec, successor};
use crate::{Capped, Code, Error, Result};

/// Largest size: MongoDB's 1 PiB.
pub(crate) const SIZE_MAX: u64 = 1 << 50;

/// What of a collection's rows comes after its prefix.
const STATE: u8 = 0;
const PLACES: u8 = 1;
const NUMBERS: u8 = 2;

/// How much there is of a capped collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The number that the next document gets.
    pub(crate) next: u64,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

fn key(collection_id: u32, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = order_prefix(collection_id);
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// The keys of the rows that have the documents' `_id`s in the order in which they came, the upper end excluded.
pub(crate) fn places(collection_id: u32) -> (Vec<u8>, Vec<u8>) {
    let from = key(collection_id, PLACES, &[]);
    let to = successor(&from).unwrap_or_default();
    (from, to)
}

fn damaged() -> Error {
    Error::new(Code::InternalError, "the order of a capped collection is damaged")
}

/// # Errors
/// The store's, and that the row is damaged.
pub(crate) fn state(kv: &(impl KvRead + ?Sized), collection_id: u32) -> Result<State> {
    let Some(row) = get_vec(kv, &key(collection_id, STATE, &[]))? else {
        return Ok(State::default());
    };
    let number = |at: usize| Some(u64::from_be_bytes(row.get(at..at + 8)?.try_into().ok()?));
    match (row.len(), number(0), number(8), number(16)) {
        (24, Some(next), Some(documents), Some(bytes)) => Ok(State {
            next,
            documents,
            bytes,
        }),
        _ => Err(damaged()),
    }
}

fn save(kv: &mut dyn KvWrite, collection_id: u32, state: State) -> Result<()> {
    let mut row = state.next.to_be_bytes().to_vec();
    row.extend_from_slice(&state.documents.to_be_bytes());
    row.extend_from_slice(&state.bytes.to_be_bytes());
    kv.put(&key(collection_id, STATE, &[]), &row)
}

/// A document was inserted.
///
/// # Errors
/// The store's.
pub(crate) fn inserted(kv: &mut dyn KvWrite, collection_id: u32, id: &[u8], bytes: usize) -> Result<()> {
    let mut state = state(&*kv, collection_id)?;
    let number = state.next.to_be_bytes();
    kv.put(&key(collection_id, PLACES, &number), id)?;
    kv.put(&key(collection_id, NUMBERS, id), &number)?;
    state.next = state.next.checked_add(1).ok_or_else(damaged)?;
    state.documents += 1;
    state.bytes += bytes as u64;
    save(kv, collection_id, state)
}

/// A document became longer or shorter; it keeps its place.
///
/// # Errors
/// The store's.
pub(crate) fn resized(kv: &mut dyn KvWrite, collection_id: u32, old: usize, new: usize) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let mut state = state(&*kv, collection_id)?;
    state.bytes = (state.bytes + new as u64)
        .checked_sub(old as u64)
        .ok_or_else(damaged)?;
    save(kv, collection_id, state)
}

/// A document was removed.
///
/// # Errors
/// The store's.
pub(crate) fn removed(kv: &mut dyn KvWrite, collection_id: u32, id: &[u8], bytes: usize) -> Result<()> {
    let mut state = state(&*kv, collection_id)?;
    let number = get_vec(&*kv, &key(collection_id, NUMBERS, id))?.ok_or_else(damaged)?;
    kv.delete(&key(collection_id, PLACES, &number))?;
    kv.delete(&key(collection_id, NUMBERS, id))?;
    state.documents = state.documents.checked_sub(1).ok_or_else(damaged)?;
    state.bytes = state.bytes.checked_sub(bytes as u64).ok_or_else(damaged)?;
    save(kv, collection_id, state)
}

/// The `_id` key of the document that came first, if there is more than there may be.
///
/// # Errors
/// The store's.
pub(crate) fn superfluous(
    kv: &(impl KvRead + ?Sized),
    collection_id: u32,
    capped: &Capped,
) -> Result<Option<Vec<u8>>> {
    let state = state(kv, collection_id)?;
    let over = state.bytes > capped.size || capped.max.is_some_and(|max| state.documents > max);
    if !over || state.documents <= 1 {
        return Ok(None);
    }
    end(kv, collection_id, Direction::Forward).map(|row| row.map(|(_, id)| id))
}

/// The key of the row of the document that came last.
///
/// # Errors
/// The store's.
pub(crate) fn last(kv: &(impl KvRead + ?Sized), collection_id: u32) -> Result<Option<Vec<u8>>> {
    end(kv, collection_id, Direction::Backward).map(|row| row.map(|(key, _)| key))
}

fn end(
    kv: &(impl KvRead + ?Sized),
    collection_id: u32,
    direction: Direction,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (from, to) = places(collection_id);
    let mut found = None;
    kv.scan(Range::half_open(&from, &to), direction, &mut |key, id| {
        found = Some((key.to_vec(), id.to_vec()));
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Whether the two rows of a document say the same.
///
/// # Errors
/// The store's.
pub(crate) fn agrees(kv: &dyn KvRead, collection_id: u32, place: &[u8], id: &[u8]) -> Result<bool> {
    let number = place.get(place.len().saturating_sub(8)..).unwrap_or_default();
    Ok(get_vec(kv, &key(collection_id, NUMBERS, id))?.as_deref() == Some(number))
}
