//! The log in the store: blocks of events under the sequence number of their first, written at the end of a commit,
//! trimmed at the front. Nothing of it is held in memory; what the next number is, and how much there is of the log,
//! stands in its first and last block, so a commit whose outcome is not known leaves nothing to set right.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use bson::Timestamp;

use super::entry::{Entry, Pending, Place};
use crate::check::check_well_formed;
use crate::kv::{Direction, KvRead, KvWrite, Range};
use crate::{Code, Error, Limits, Namespace, Result};

/// The first byte of a block's key.
const LOG: u8 = 4;
const KEY_BYTES: usize = 9;
/// The version of a block's layout.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 29;
/// A block is closed before it would be longer, unless it is one event: a little under a power of two, which is what
/// the store gives a long value.
const BLOCK_BYTES_MAX: usize = 32 * 1024 - 256;
/// Blocks that a commit trims at most, beside twice those that it writes: trimming is spread over commits, and
/// still faster than the log grows.
const TRIM_BLOCKS_MAX: usize = 16;

/// The head of a block.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The number of its first event, and that event's time.
    first: u64,
    time: Timestamp,
    wall: i64,
    /// Bytes of all blocks that were ever written before it.
    bytes_before: u64,
    count: u32,
    /// Its own bytes, key and value.
    bytes: u64,
}

impl Block {
    fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let (kind, first) = key.split_first()?;
        let number = |at: usize| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_be_bytes(value.get(at..at + 8)?.try_into().ok()?));
        let block = Block {
            first: u64::from_be_bytes(first.try_into().ok()?),
            time: Timestamp {
                time: number(1)?,
                increment: number(5)?,
            },
            wall: i64::from_be_bytes(value.get(9..17)?.try_into().ok()?),
            bytes_before: long(17)?,
            count: number(25)?,
            bytes: u64::try_from(key.len() + value.len()).ok()?,
        };
        let known = *kind == LOG && *value.first()? == VERSION && block.count > 0 && block.first > 0;
        let no_overflow = block.first.checked_add(u64::from(block.count)).is_some()
            && block.time.increment.checked_add(block.count).is_some();
        (known && no_overflow).then_some(block)
    }

    fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The place of an event of the block.
    fn place(&self, sequence: u64) -> Place {
        // An event's offset is below the block's count, with which the increment does not overflow.
        let offset = u32::try_from(sequence - self.first).unwrap_or_default();
        Place {
            sequence,
            time: Timestamp {
                time: self.time.time,
                increment: self.time.increment.saturating_add(offset),
            },
            wall: self.wall,
        }
    }

    fn last_time(&self) -> Timestamp {
        self.place(self.next() - 1).time
    }
}

fn key(sequence: u64) -> [u8; KEY_BYTES] {
    let mut key = [LOG; KEY_BYTES];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

fn damaged(what: &str) -> Error {
    Error::new(Code::InternalError, format!("the change log is damaged: {what}"))
}

/// The block with the greatest number up to `sequence`.
fn block_at(kv: &(impl KvRead + ?Sized), sequence: u64) -> Result<Option<Block>> {
    let (from, to) = (key(0), key(sequence));
    let range = Range {
        from: Bound::Included(&from),
        to: Bound::Included(&to),
    };
    first_block(kv, range, Direction::Backward)
}

fn first_block(kv: &(impl KvRead + ?Sized), range: Range<'_>, direction: Direction) -> Result<Option<Block>> {
    let mut found = None;
    kv.scan(range, direction, &mut |key, value| {
        found = Some(Block::parse(key, value));
        ControlFlow::Break(())
    })?;
    match found {
        Some(None) => Err(damaged("a block's head makes no sense")),
        Some(block) => Ok(block),
        None => Ok(None),
    }
}

/// The first and the last block.
fn ends(kv: &(impl KvRead + ?Sized)) -> Result<Option<(Block, Block)>> {
    let Some(newest) = block_at(kv, u64::MAX)? else {
        return Ok(None);
    };
    let (from, to) = (key(0), key(newest.first));
    let range = Range {
        from: Bound::Included(&from),
        to: Bound::Included(&to),
    };
    let oldest = first_block(kv, range, Direction::Forward)?;
    Ok(Some((oldest.unwrap_or(newest), newest)))
}

/// What part of the history is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The number of the oldest event; the next one's, if there is none.
    pub(super) first: u64,
    pub(super) first_time: Timestamp,
    /// The number of the newest event, 0 before the first, and its time.
    pub(crate) last: u64,
    pub(crate) last_time: Timestamp,
    /// Bytes of the log.
    pub(crate) bytes: u64,
}

/// # Errors
/// The store's, and that the log is damaged.
pub(crate) fn bounds(kv: &dyn KvRead) -> Result<Bounds> {
    let zero = Timestamp {
        time: 0,
        increment: 0,
    };
    Ok(match ends(kv)? {
        None => Bounds {
            first: 1,
            first_time: zero,
            last: 0,
            last_time: zero,
            bytes: 0,
        },
        Some((oldest, newest)) => Bounds {
            first: oldest.first,
            first_time: oldest.time,
            last: newest.next() - 1,
            last_time: newest.last_time(),
            bytes: log_bytes(&oldest, &newest),
        },
    })
}

fn log_bytes(oldest: &Block, newest: &Block) -> u64 {
    (newest.bytes_before + newest.bytes).saturating_sub(oldest.bytes_before)
}

/// A moment before the first event, if that comes now.
pub(crate) fn time_before(now: cloudlet_base::Timestamp) -> Timestamp {
    Timestamp {
        time: seconds(now),
        increment: 0,
    }
}

fn seconds(now: cloudlet_base::Timestamp) -> u32 {
    u32::try_from(now.seconds().max(0)).unwrap_or(u32::MAX)
}

/// The time of an event that is there.
pub(super) fn time_of(kv: &dyn KvRead, sequence: u64) -> Result<Option<Timestamp>> {
    let block = block_at(kv, sequence)?.filter(|block| sequence < block.next());
    Ok(block.map(|block| block.place(sequence).time))
}

/// The number of the first event at `time` or later; that of the next one, if there is none.
pub(super) fn first_at(kv: &dyn KvRead, bounds: &Bounds, time: Timestamp) -> Result<u64> {
    let (mut low, mut high) = (bounds.first, bounds.last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let there = time_of(kv, middle)?.ok_or_else(|| damaged("events are missing"))?;
        if there >= time {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

/// What a commit did to the log.
#[derive(Debug)]
pub(crate) struct Appended {
    /// The newest event, and its time.
    pub(crate) last: u64,
    pub(crate) last_time: Timestamp,
    pub(crate) events: u64,
    pub(crate) trimmed: u64,
    /// Bytes of the log after it.
    pub(crate) bytes: u64,
    pub(crate) touched: BTreeSet<Namespace>,
}

/// Writes events at the end of the log, and trims its front where it is over its limits.
///
/// # Errors
/// The store's, and that the log is damaged.
pub(crate) fn append(
    kv: &mut dyn KvWrite,
    pending: &Pending,
    now: cloudlet_base::Timestamp,
    limits: &Limits,
) -> Result<Appended> {
    let ends = ends(&*kv)?;
    let mut next = ends.map_or(1, |(_, newest)| newest.next());
    let begin = next;
    let mut bytes_before = ends.map_or(0, |(_, newest)| newest.bytes_before + newest.bytes);
    let mut time = ends.map_or(
        Timestamp {
            time: 0,
            increment: 0,
        },
        |(_, newest)| newest.last_time(),
    );
    let mut blocks = 0;
    let mut value = Vec::with_capacity(pending.bytes.len().min(BLOCK_BYTES_MAX) + HEADER_BYTES);
    let mut entries = pending.entries().peekable();
    while entries.peek().is_some() {
        value.clear();
        value.resize(HEADER_BYTES, 0);
        let mut count = 0_u32;
        while let Some(entry) =
            entries.next_if(|entry| count == 0 || value.len() + entry.len() <= BLOCK_BYTES_MAX)
        {
            value.extend_from_slice(entry);
            count += 1;
        }
        time = time_after(time, now, count);
        value[0] = VERSION;
        value[1..5].copy_from_slice(&time.time.to_be_bytes());
        value[5..9].copy_from_slice(&time.increment.to_be_bytes());
        value[9..17].copy_from_slice(&now.millis().to_be_bytes());
        value[17..25].copy_from_slice(&bytes_before.to_be_bytes());
        value[25..29].copy_from_slice(&count.to_be_bytes());
        kv.put(&key(next), &value)?;
        next += u64::from(count);
        time.increment += count - 1;
        bytes_before += (KEY_BYTES + value.len()) as u64;
        blocks += 1;
    }
    let oldest = ends.map(|(oldest, _)| oldest);
    let trimmed = match oldest {
        Some(oldest) => trim(kv, &oldest, next, bytes_before, blocks, now, limits)?,
        None => (0, 0),
    };
    Ok(Appended {
        last: next - 1,
        last_time: time,
        events: next - begin,
        trimmed: trimmed.0,
        bytes: bytes_before - oldest.map_or(0, |oldest| oldest.bytes_before) - trimmed.1,
        touched: pending.touched.clone(),
    })
}

/// The time of the first of `count` events after `last`: the clock's if that is later, and never the same twice.
fn time_after(last: Timestamp, now: cloudlet_base::Timestamp, count: u32) -> Timestamp {
    let now = Timestamp {
        time: seconds(now),
        increment: 1,
    };
    if now > last && now.time > last.time {
        return now;
    }
    match last.increment.checked_add(1) {
        Some(increment) if increment.checked_add(count).is_some() => Timestamp {
            time: last.time,
            increment,
        },
        // A clock that went far back, and four thousand million events since.
        _ => Timestamp {
            time: last.time.saturating_add(1),
            increment: 1,
        },
    }
}

/// Removes blocks from the front while the log is over one of its limits. Gives the events and bytes removed.
fn trim(
    kv: &mut dyn KvWrite,
    oldest: &Block,
    next: u64,
    bytes_end: u64,
    written: usize,
    now: cloudlet_base::Timestamp,
    limits: &Limits,
) -> Result<(u64, u64)> {
    let age_max = i64::try_from(limits.feed_age_max.as_millis()).unwrap_or(i64::MAX);
    let over = |block: &Block| {
        bytes_end - block.bytes_before > limits.feed_bytes_max
            || next - block.first > limits.feed_events_max
            || now.millis().saturating_sub(block.wall) > age_max
    };
    if !over(oldest) {
        return Ok((0, 0));
    }
    let mut gone = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    let (from, to) = (key(0), key(next));
    let mut broken = false;
    kv.scan(
        Range::half_open(&from, &to),
        Direction::Forward,
        &mut |key, value| {
            let Some(block) = Block::parse(key, value) else {
                broken = true;
                return ControlFlow::Break(());
            };
            // The newest block stays whatever it weighs: the next number is read from it.
            if !over(&block) || block.next() >= next || gone.len() >= TRIM_BLOCKS_MAX + 2 * written {
                return ControlFlow::Break(());
            }
            events += u64::from(block.count);
            bytes += block.bytes;
            gone.push(key.to_vec());
            ControlFlow::Continue(())
        },
    )?;
    if broken {
        return Err(damaged("a block's head makes no sense"));
    }
    gone.iter().try_for_each(|key| kv.delete(key))?;
    Ok((events, bytes))
}

/// Sees the events of a scan in order, and says whether to go on.
pub(super) type Visitor<'v> = dyn FnMut(&Entry<'_>) -> Result<ControlFlow<()>> + 'v;

/// Shows `visit` the events after the one numbered `after`, until it breaks.
///
/// # Errors
/// The store's, the visitor's, and that the log is damaged.
pub(super) fn scan(kv: &dyn KvRead, after: u64, visit: &mut Visitor<'_>) -> Result<()> {
    let start = block_at(kv, after.saturating_add(1))?.map_or(0, |block| block.first);
    let (from, to) = (key(start), [LOG + 1]);
    let mut outcome = Ok(());
    kv.scan(
        Range::half_open(&from, &to),
        Direction::Forward,
        &mut |key, value| match block_events(key, value, after, visit) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    outcome
}

/// Shows `visit` the events of one block that come after `after`.
fn block_events(key: &[u8], value: &[u8], after: u64, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>> {
    let block = Block::parse(key, value).ok_or_else(|| damaged("a block's head makes no sense"))?;
    let mut rest = value.get(HEADER_BYTES..).unwrap_or_default();
    for sequence in block.first..block.next() {
        let entry = rest
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_be_bytes(*length) as usize));
        let (entry, after_it) = entry.ok_or_else(|| damaged("a block is cut short"))?;
        rest = after_it;
        if sequence <= after {
            continue;
        }
        let entry = Entry::parse(entry, block.place(sequence));
        let entry = entry.ok_or_else(|| damaged(&format!("event {sequence} makes no sense")))?;
        if visit(&entry)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    if !rest.is_empty() {
        return Err(damaged("a block has bytes too many"));
    }
    Ok(ControlFlow::Continue(()))
}

/// Checks that numbers, times and sizes run on from block to block, and that every event can be read. Gives how many
/// events there are, and tells `tick` so before each block.
///
/// # Errors
/// `InternalError` that says what is wrong; those of `tick`.
pub(crate) fn verify(
    kv: &dyn KvRead,
    depth_max: usize,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let mut before: Option<Block> = None;
    let mut events = 0;
    let mut outcome = Ok(());
    let mut check = |key: &[u8], value: &[u8]| -> Result<()> {
        tick(events)?;
        let block = Block::parse(key, value).ok_or_else(|| damaged("a block's head makes no sense"))?;
        if let Some(before) = before.replace(block) {
            let follows = block.first == before.next()
                && block.bytes_before == before.bytes_before + before.bytes
                && block.time > before.last_time();
            if !follows {
                return Err(damaged(&format!(
                    "block {} does not follow the one before",
                    block.first
                )));
            }
        }
        block_events(key, value, 0, &mut |entry| {
            events += 1;
            let documents = [entry.key, entry.document, entry.description, entry.before];
            for document in documents.into_iter().flatten() {
                // An event's description may be a little deeper than the documents.
                check_well_formed(document, depth_max + 2).map_err(|error| damaged(&error.to_string()))?;
            }
            Ok(ControlFlow::Continue(()))
        })
        .map(drop)
    };
    kv.scan(
        Range::half_open(&key(0), &[LOG + 1]),
        Direction::Forward,
        &mut |key, value| {
            outcome = check(key, value);
            if outcome.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    outcome.map(|()| events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u32, increment: u32) -> Timestamp {
        Timestamp { time, increment }
    }

    #[test]
    fn times_only_go_forward() {
        let now = cloudlet_base::Timestamp(5_000);
        assert_eq!(time_after(at(0, 0), now, 1), at(5, 1));
        assert_eq!(time_after(at(4, 9), now, 1), at(5, 1));
        assert_eq!(time_after(at(5, 1), now, 1), at(5, 2));
        assert_eq!(time_after(at(7, 3), now, 2), at(7, 4), "the clock went back");
        assert_eq!(time_after(at(5, u32::MAX - 1), now, 2), at(6, 1));
        assert_eq!(time_after(at(0, 0), cloudlet_base::Timestamp(0), 1), at(0, 1));
    }
}
