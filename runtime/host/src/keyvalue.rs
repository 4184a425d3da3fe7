//! Key-value stores on the app's own database, whichever interface asks: a store is a collection, a pair a document.
//!
//! The store LABEL is the collection `cloudlet.keyvalue.LABEL`. Names with that beginning are the platform's: no grant, rule
//! or client reaches them (`cloudlet_data::is_platform_collection`), while operators see, dump and restore them as any
//! other. A document is `{_id: KEY, value: BINARY, version: LONG}`, or with `number: LONG` in the place of `value` for what
//! was counted last, which reads as decimal text. `version` is another one after every write, so that a
//! compare-and-swap is not fooled by a value that is the same again.

use std::collections::HashMap;
use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr, rawdoc};
use cloudlet_base::{Deadline, Fault};
use cloudlet_data::{
    AccessError, Code, Delete, DeleteOne, Find, FindAndModify, Insert, PLATFORM_PREFIX, Session, Update,
    UpdateOne,
};

use crate::imports::held::Held;
use crate::imports::{Failure, first_error};
use crate::run::Run;

/// Longest key.
const KEY_BYTES_MAX: usize = 1024;
/// Largest value.
const VALUE_BYTES_MAX: usize = 8 << 20;
/// Most keys in one page of a listing.
pub(crate) const PAGE_KEYS_MAX: usize = 1000;
/// Most keys in a listing that has no pages.
const LIST_KEYS_MAX: usize = 10_000;
/// Most pairs in one batch.
const BATCH_MAX: usize = 1000;
/// Bytes of all the values that one batch returns.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// How often a conditional change is tried again when others were faster.
const TRIES_MAX: u32 = 20;

/// A guest's handle of a store.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Store {
    collection: Arc<str>,
    session: Arc<Session>,
    deadline: Deadline,
    /// How many keys were listed, and the last of them: where a cursor that is a number goes on without counting.
    listed: Option<(u64, String)>,
}

/// The state of a key when a guest looked.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Cas {
    store: Store,
    key: String,
    seen: Option<RawDocumentBuf>,
    _held: Held,
}

/// A page of keys in their order, and whether more follow.
pub(crate) struct Keys {
    pub(crate) keys: Vec<String>,
    pub(crate) more: bool,
}

impl Store {
    /// The store with this label, if the function is granted it. What it is not granted is told in its log, for the
    /// interfaces have no words for it.
    pub(crate) fn open(run: &Run, label: &str) -> Option<Self> {
        let spec = &run.function.spec;
        if !spec.grants.keyvalue.iter().any(|granted| granted == label) {
            run.platform(
                crate::LogLevel::Warn,
                format!(
                    "key-value store {label:?} is not granted to function {:?}; add it to grants.keyvalue",
                    spec.name
                ),
            );
            return None;
        }
        Some(Self {
            collection: format!("{PLATFORM_PREFIX}keyvalue.{label}").into(),
            session: Arc::new(run.app.services.data.session(run.as_function())),
            deadline: run.deadline.clone(),
            listed: None,
        })
    }

    fn again(&self) -> Self {
        Self {
            collection: Arc::clone(&self.collection),
            session: Arc::clone(&self.session),
            deadline: self.deadline.clone(),
            listed: None,
        }
    }

    /// The value, if there is such a key.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let found = self.document(key).await?;
        found.map(|document| value_of(&document)).transpose()
    }

    /// Whether there is such a key.
    pub(crate) async fn exists(&self, key: &str) -> Result<bool, Failure> {
        check_key(key)?;
        let find = Find {
            filter: rawdoc! { "_id": key },
            projection: Some(rawdoc! { "_id": 1 }),
            limit: Some(1),
            ..Find::default()
        };
        Ok(!self.find(find, 1).await?.is_empty())
    }

    /// Sets the values, those of a key that comes twice in their order. Not one change.
    pub(crate) async fn set(
        &self,
        pairs: Vec<(String, Vec<u8>)>,
        versions: &Versions<'_>,
    ) -> Result<(), Failure> {
        check_batch(pairs.len())?;
        let statement = |(key, value): (String, Vec<u8>)| {
            check_key(&key)?;
            Ok(UpdateOne {
                filter: rawdoc! { "_id": key },
                update: pair(value, versions.next())?,
                upsert: true,
                ..UpdateOne::default()
            })
        };
        let update = Update {
            statements: pairs.into_iter().map(statement).collect::<Result<_, Failure>>()?,
            ordered: true,
            ..Update::default()
        };
        let done = self
            .session
            .update(&self.collection, update, self.deadline.clone());
        first_error(done.await?.errors)
    }

    /// Removes the pairs that are there.
    pub(crate) async fn delete(&self, keys: Vec<String>) -> Result<(), Failure> {
        let statement = DeleteOne {
            filter: any_of(&keys)?,
            multi: true,
            ..DeleteOne::default()
        };
        let delete = Delete {
            statements: vec![statement],
            ordered: true,
        };
        let done = self
            .session
            .delete(&self.collection, delete, self.deadline.clone());
        first_error(done.await?.errors)
    }

    /// The values in the order of the keys.
    pub(crate) async fn get_many(
        &self,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
        let find = Find {
            filter: any_of(&keys)?,
            ..Find::default()
        };
        let mut values = HashMap::with_capacity(keys.len());
        for document in self.find(find, BATCH_MAX).await? {
            if let Ok(key) = document.get_str("_id") {
                values.insert(key.to_owned(), value_of(&document)?);
            }
        }
        let mut bytes = 0;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(value) = values.get(&key) else {
                found.push(None);
                continue;
            };
            bytes += value.len();
            check_batch_bytes(bytes)?;
            found.push(Some((key, value.clone())));
        }
        Ok(found)
    }

    /// A page of the keys after `after`.
    pub(crate) async fn keys_after(&self, after: Option<&str>) -> Result<Keys, Failure> {
        self.keys(after, 0, PAGE_KEYS_MAX).await
    }

    /// A page of the keys after the first `count`: after the same key as when this handle gave that number, else by
    /// counting. With it the number that the next page begins after.
    pub(crate) async fn keys_from(&mut self, count: u64) -> Result<(Keys, u64), Failure> {
        let page = match &self.listed {
            Some((listed, last)) if *listed == count => self.keys_after(Some(last)).await?,
            _ => self.keys(None, count, PAGE_KEYS_MAX).await?,
        };
        let next = count.saturating_add(page.keys.len() as u64);
        self.listed = page.keys.last().map(|last| (next, last.clone()));
        Ok((page, next))
    }

    /// All keys, of a store that does not have too many.
    pub(crate) async fn all_keys(&self) -> Result<Vec<String>, Failure> {
        let all = self.keys(None, 0, LIST_KEYS_MAX).await?;
        match all.more {
            false => Ok(all.keys),
            true => Err(Failure::limit(format!(
                "the store has more than {LIST_KEYS_MAX} keys, the limit for all of them at once; use list-keys of \
                 wasi:keyvalue, which has pages"
            ))),
        }
    }

    async fn keys(&self, after: Option<&str>, skip: u64, count: usize) -> Result<Keys, Failure> {
        // A bound that is a string leaves out what has no string for a key, which only other programs can have put there.
        let bounds = match after {
            Some(after) => {
                check_key(after)?;
                rawdoc! { "$gt": after }
            }
            None => rawdoc! { "$gte": "" },
        };
        let find = Find {
            filter: rawdoc! { "_id": bounds },
            sort: Some(rawdoc! { "_id": 1 }),
            projection: Some(rawdoc! { "_id": 1 }),
            skip,
            limit: Some(count as u64 + 1),
            ..Find::default()
        };
        let found = self.find(find, count + 1).await?;
        let keys = found.iter().filter_map(|document| document.get_str("_id").ok());
        Ok(Keys {
            keys: keys.take(count).map(str::to_owned).collect(),
            more: found.len() > count,
        })
    }

    /// Adds to the number of a key and returns the sum.
    ///
    /// A number that was counted before is one atomic statement; what was set as text is first made a number, by a
    /// change that only happens when the text is still the same.
    pub(crate) async fn increment(
        &self,
        key: &str,
        delta: i64,
        versions: &Versions<'_>,
    ) -> Result<i64, Failure> {
        check_key(key)?;
        for _ in 0..TRIES_MAX {
            let modify = FindAndModify {
                filter: rawdoc! { "_id": key, "value": { "$exists": false } },
                update: Some(rawdoc! { "$inc": { "number": delta }, "$set": { "version": versions.next() } }),
                upsert: true,
                return_new: true,
                ..FindAndModify::default()
            };
            let counted = self
                .session
                .find_and_modify(&self.collection, modify, self.deadline.clone())
                .await;
            match counted {
                Ok(counted) => return number_of(key, counted.document.as_deref()),
                // There is a document, but with a value.
                Err(error) if is_duplicate(&error) => {}
                Err(error) => return Err(error.into()),
            }
            let Some(seen) = self.document(key).await? else {
                continue;
            };
            if seen.get("value").ok().flatten().is_none() {
                continue;
            }
            let sum = add(key, &value_of(&seen)?, delta)?;
            let counter = rawdoc! { "number": sum, "version": versions.next() };
            if self.replace(key, &seen, counter).await? {
                return Ok(sum);
            }
        }
        Err(Failure::new(
            Fault::Busy,
            format!("others changed key {key:?} {TRIES_MAX} times meanwhile, the limit; try again"),
        ))
    }

    /// Replaces the document of a key if it is still the one that was seen. Returns whether it was.
    async fn replace(&self, key: &str, seen: &RawDocument, new: RawDocumentBuf) -> Result<bool, Failure> {
        let mut filter = rawdoc! { "_id": key };
        for (name, value) in [
            (cstr!("value"), seen.get("value")),
            (cstr!("number"), seen.get("number")),
            (cstr!("version"), seen.get("version")),
        ] {
            match value.ok().flatten() {
                Some(value) => filter.append(name, rawdoc! { "$eq": value }),
                None => filter.append(name, rawdoc! { "$exists": false }),
            }
        }
        let update = Update {
            statements: vec![UpdateOne {
                filter,
                update: new,
                ..UpdateOne::default()
            }],
            ordered: true,
            ..Update::default()
        };
        let done = self
            .session
            .update(&self.collection, update, self.deadline.clone());
        let done = done.await?;
        first_error(done.errors)?;
        Ok(done.matched == 1)
    }

    async fn document(&self, key: &str) -> Result<Option<RawDocumentBuf>, Failure> {
        check_key(key)?;
        let find = Find {
            filter: rawdoc! { "_id": key },
            limit: Some(1),
            ..Find::default()
        };
        Ok(self.find(find, 1).await?.pop())
    }

    /// All that is found, of `count` documents at most.
    async fn find(&self, find: Find, count: usize) -> Result<Vec<RawDocumentBuf>, Failure> {
        let batch = u32::try_from(count).ok();
        let find = Find { batch, ..find };
        let mut page = self
            .session
            .find(&self.collection, find, self.deadline.clone())
            .await?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        loop {
            bytes += page
                .documents
                .iter()
                .map(|document| document.as_bytes().len())
                .sum::<usize>();
            check_batch_bytes(bytes)?;
            found.append(&mut page.documents);
            let Some(rest) = page.cursor else {
                return Ok(found);
            };
            page = self.session.next_page(rest, batch, self.deadline.clone()).await?;
        }
    }
}

impl Cas {
    /// The state of a key now.
    pub(crate) async fn new(run: &Arc<Run>, store: &Store, key: String) -> Result<Self, Failure> {
        let seen = store.document(&key).await?;
        let bytes = seen.as_ref().map_or(0, |seen| seen.as_bytes().len());
        Ok(Self {
            _held: Held::take(run, bytes as u64)?,
            seen,
            store: store.again(),
            key,
        })
    }

    /// The value in that state.
    pub(crate) fn current(&self) -> Result<Option<Vec<u8>>, Failure> {
        self.seen.as_deref().map(value_of).transpose()
    }

    /// Sets the value if the key is still in that state; else gives the state that it is in.
    pub(crate) async fn swap(self, run: &Arc<Run>, value: Vec<u8>) -> Result<Option<Self>, Failure> {
        let store = &self.store;
        let mut new = pair(value, Versions(&*run.app.shared.entropy).next())?;
        let swapped = match &self.seen {
            Some(seen) => store.replace(&self.key, seen, new).await?,
            None => {
                new.append(cstr!("_id"), self.key.as_str());
                let insert = Insert {
                    documents: vec![new],
                    ordered: true,
                    ..Insert::default()
                };
                let done = store
                    .session
                    .insert(&store.collection, insert, store.deadline.clone());
                let failed = done.await?.errors.into_iter().next();
                match failed {
                    None => true,
                    Some(failed) if failed.error.code() == Code::DuplicateKey => false,
                    Some(failed) => return Err(failed.error.into()),
                }
            }
        };
        match swapped {
            true => Ok(None),
            false => Self::new(run, &self.store, self.key.clone()).await.map(Some),
        }
    }
}

/// Where versions come from: no two are the same, but by a chance of 2^-63.
pub(crate) struct Versions<'a>(pub(crate) &'a dyn cloudlet_base::Entropy);

impl Versions<'_> {
    fn next(&self) -> i64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        i64::from_le_bytes(bytes) & i64::MAX
    }
}

fn is_duplicate(error: &AccessError) -> bool {
    matches!(error, AccessError::Database(error) if error.code() == Code::DuplicateKey)
}

/// A pair without its key.
fn pair(value: Vec<u8>, version: i64) -> Result<RawDocumentBuf, Failure> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::limit(format!(
            "a value of {} bytes, over the limit of {VALUE_BYTES_MAX}",
            value.len()
        )));
    }
    let value = bson::Binary {
        subtype: BinarySubtype::Generic,
        bytes: value,
    };
    Ok(rawdoc! { "value": value, "version": version })
}

fn check_key(key: &str) -> Result<(), Failure> {
    match key.len() {
        0..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Failure::limit(format!(
            "a key of {bytes} bytes, over the limit of {KEY_BYTES_MAX}"
        ))),
    }
}

fn check_batch(count: usize) -> Result<(), Failure> {
    match count {
        0..=BATCH_MAX => Ok(()),
        _ => Err(Failure::limit(format!(
            "a batch of {count} keys, over the limit of {BATCH_MAX}"
        ))),
    }
}

fn check_batch_bytes(bytes: usize) -> Result<(), Failure> {
    match bytes {
        0..=BATCH_BYTES_MAX => Ok(()),
        _ => Err(Failure::limit(format!(
            "the answer has more than {BATCH_BYTES_MAX} bytes, the limit; ask for fewer keys"
        ))),
    }
}

/// The filter of several keys.
fn any_of(keys: &[String]) -> Result<RawDocumentBuf, Failure> {
    check_batch(keys.len())?;
    let mut all = RawArrayBuf::new();
    for key in keys {
        check_key(key)?;
        all.push(key.as_str());
    }
    Ok(rawdoc! { "_id": { "$in": all } })
}

/// What a document has as the value of its key.
fn value_of(document: &RawDocument) -> Result<Vec<u8>, Failure> {
    let (value, number) = (document.get("value"), document.get("number"));
    match (value.ok().flatten(), number.ok().flatten()) {
        (Some(RawBsonRef::Binary(binary)), _) => Ok(binary.bytes.to_vec()),
        (None, Some(RawBsonRef::Int64(number))) => Ok(number.to_string().into_bytes()),
        _ => Err(Failure::new(
            Fault::Internal,
            format!(
                "the document of key {:?} has neither a binary value nor a long number; another program wrote it",
                document.get("_id").ok().flatten()
            ),
        )),
    }
}

fn number_of(key: &str, document: Option<&RawDocument>) -> Result<i64, Failure> {
    let number = document.and_then(|document| document.get("number").ok().flatten());
    match number {
        Some(RawBsonRef::Int64(number)) => Ok(number),
        _ => Err(not_a_number(key)),
    }
}

/// Adds to decimal text.
fn add(key: &str, text: &[u8], delta: i64) -> Result<i64, Failure> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    let number = number.ok_or_else(|| not_a_number(key))?;
    number.checked_add(delta).ok_or_else(|| {
        Failure::limit(format!(
            "{number} and {delta} of key {key:?} are more than 64 bits"
        ))
    })
}

fn not_a_number(key: &str) -> Failure {
    Failure::invalid(format!(
        "the value of key {key:?} is no decimal number of 64 bits"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_as_decimal_text_can_be_counted_on() {
        assert_eq!(add("k", b"41", 1).unwrap(), 42);
        assert_eq!(add("k", b"-1", -1).unwrap(), -2);
        for bad in [&b""[..], b" 1", b"1.0", b"\xff", b"9223372036854775808"] {
            let text = format!("{:?}", add("k", bad, 1).unwrap_err());
            assert!(text.contains("no decimal number"), "{bad:?}: {text}");
        }
        let text = format!("{:?}", add("k", b"9223372036854775807", 1).unwrap_err());
        assert!(text.contains("64 bits"), "{text}");
    }

    #[test]
    fn a_document_that_others_wrote_is_told() {
        let good = rawdoc! { "_id": "k", "number": 7_i64 };
        assert_eq!(value_of(&good).unwrap(), b"7");
        for bad in [rawdoc! { "_id": "k" }, rawdoc! { "_id": "k", "value": "text" }] {
            let text = format!("{:?}", value_of(&bad).unwrap_err());
            assert!(text.contains("another program"), "{text}");
        }
    }

    #[test]
    fn keys_values_and_batches_have_limits() {
        assert!(check_key(&"k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(check_key(&"k".repeat(KEY_BYTES_MAX + 1)).is_err());
        assert!(pair(vec![0; VALUE_BYTES_MAX], 1).is_ok());
        assert!(pair(vec![0; VALUE_BYTES_MAX + 1], 1).is_err());
        assert!(any_of(&vec![String::new(); BATCH_MAX]).is_ok());
        assert!(any_of(&vec![String::new(); BATCH_MAX + 1]).is_err());
    }
}
