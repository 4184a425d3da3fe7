//! The node's own keys and the admin keys, in the database `/node`.
//!
//! ```text
//! keys:       { _id: "signing", pkcs8: bin, created: date }       Ed25519, PKCS #8 version 1 (RFC 8410)
//!             { _id: "refresh", key: bin, created: date }         HMAC key of refresh tokens, 32 bytes
//! admin_keys: { _id: KEY_ID, hash: bin, label: STRING, created: date }
//! ```
//!
//! The two private keys lie in the store as they are: whoever reads the node's data directory can sign tokens.
//! Encrypting them at rest comes with the node's secrets. Admin keys are kept as SHA-256 of 256 random bits, which
//! needs no slow hash.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::{Deadline, Entropy, Principal, Timestamp};
use cloudlet_data::{Code, Delete, DeleteOne, Documents, Find, Insert, Namespace};
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::signature::Ed25519KeyPair;
use subtle::ConstantTimeEq;

use crate::Error;
use crate::text::{TOKEN_BYTES_MAX, random};

/// What stands before the 32 bytes of the seed in an Ed25519 key's PKCS #8 form.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

/// Admin keys of one node, at most.
const ADMIN_KEYS_MAX: usize = 1000;

/// Longest label, bytes.
const LABEL_BYTES_MAX: usize = 200;

const ADMIN_PREFIX: &str = "ck_";

/// The node's signing key, made at the first call.
pub(crate) async fn signing_key(
    documents: &dyn Documents,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<Ed25519KeyPair, Error> {
    let mut fresh = PKCS8_PREFIX.to_vec();
    fresh.extend_from_slice(&random_bytes(entropy));
    let pkcs8 = load_or_make(documents, "signing", "pkcs8", fresh, now).await?;
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|_| Error::corrupt("the token signing key"))
}

/// The key that refresh tokens are derived with, made at the first call.
pub(crate) async fn refresh_key(
    documents: &dyn Documents,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<hmac::Key, Error> {
    let key = load_or_make(documents, "refresh", "key", random_bytes(entropy).to_vec(), now).await?;
    if key.len() != 32 {
        return Err(Error::corrupt("the refresh token key"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

async fn load_or_make(
    documents: &dyn Documents,
    id: &str,
    field: &str,
    fresh: Vec<u8>,
    now: Timestamp,
) -> Result<Vec<u8>, Error> {
    let ns = Namespace::new("/node", "keys");
    if let Some(key) = load(documents, &ns, id, field).await? {
        return Ok(key);
    }
    let mut document = rawdoc! { "_id": id, "created": bson::DateTime::from_millis(now.millis()) };
    let key =
        bson::raw::CString::try_from(field).map_err(|_| Error::Internal("a field name has a NUL".into()))?;
    document.append(key, binary(&fresh));
    insert(documents, &ns, document).await?;
    // What is stored counts, should somebody else have been first.
    load(documents, &ns, id, field)
        .await?
        .ok_or_else(|| Error::corrupt("a key of the node"))
}

async fn load(
    documents: &dyn Documents,
    ns: &Namespace,
    id: &str,
    field: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let find = Find {
        filter: rawdoc! { "_id": id },
        limit: Some(1),
        ..Find::default()
    };
    let page = documents.find(ns, find, Deadline::NEVER).await?;
    let Some(document) = page.documents.first() else {
        return Ok(None);
    };
    let key = document
        .get_binary(field)
        .map_err(|_| Error::corrupt("a key of the node"))?;
    Ok(Some(key.bytes.to_vec()))
}

/// Inserts; a document that is there already is left as it is.
async fn insert(documents: &dyn Documents, ns: &Namespace, document: RawDocumentBuf) -> Result<(), Error> {
    let insert = Insert {
        documents: vec![document],
        ordered: true,
        ..Insert::default()
    };
    let error = match documents.insert(ns, insert, Deadline::NEVER).await {
        Ok(inserted) => inserted.errors.into_iter().next().map(|failed| failed.error),
        Err(error) => Some(error),
    };
    match error {
        Some(error) if error.code() != Code::DuplicateKey => Err(error.into()),
        _ => Ok(()),
    }
}

fn random_bytes(entropy: &dyn Entropy) -> [u8; 32] {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    bytes
}

fn binary(bytes: &[u8]) -> bson::Binary {
    bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

/// An admin key as listed; the secret part is only ever shown once.
#[derive(Debug, Clone)]
pub struct AdminKey {
    /// Public id, the part of the key before the secret.
    pub key_id: Arc<str>,
    /// What it is for.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
}

struct Stored {
    key: AdminKey,
    hash: [u8; 32],
}

/// The admin keys, in memory as in the store.
pub(crate) struct AdminKeys {
    by_id: RwLock<HashMap<Arc<str>, Stored>>,
}

impl AdminKeys {
    pub(crate) async fn load(documents: &dyn Documents) -> Result<Self, Error> {
        let mut by_id = HashMap::new();
        let mut page = documents
            .find(&admin_keys(), Find::default(), Deadline::NEVER)
            .await?;
        loop {
            for document in &page.documents {
                let stored = Stored::parse(document).ok_or_else(|| Error::corrupt("an admin key"))?;
                by_id.insert(stored.key.key_id.clone(), stored);
            }
            let Some(cursor) = page.cursor else { break };
            page = documents.next_page(cursor, None, Deadline::NEVER).await?;
        }
        Ok(Self {
            by_id: RwLock::new(by_id),
        })
    }

    /// Makes a key and returns its text.
    pub(crate) async fn create(
        &self,
        documents: &dyn Documents,
        entropy: &dyn Entropy,
        label: &str,
        now: Timestamp,
    ) -> Result<String, Error> {
        if label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            return Err(Error::Invalid(format!(
                "a key's label has at most {LABEL_BYTES_MAX} bytes and no control characters"
            )));
        }
        if self.read(HashMap::len) >= ADMIN_KEYS_MAX {
            return Err(Error::Invalid(format!(
                "there are {ADMIN_KEYS_MAX} admin keys already; delete some"
            )));
        }
        let (key_id, secret): (Arc<str>, _) = (random::<8>(entropy).into(), random::<32>(entropy));
        let key = AdminKey {
            key_id: key_id.clone(),
            label: label.to_owned(),
            created: now,
        };
        let stored = Stored {
            key,
            hash: hash(&secret),
        };
        insert(documents, &admin_keys(), stored.to_document()).await?;
        self.by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key_id.clone(), stored);
        Ok(format!("{ADMIN_PREFIX}{key_id}_{secret}"))
    }

    pub(crate) fn verify(&self, text: &str) -> Result<Principal, Error> {
        const REFUSED: Error = Error::InvalidToken("it is no admin key of this node");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(REFUSED);
        }
        let rest = text.strip_prefix(ADMIN_PREFIX).ok_or(REFUSED)?;
        let (key_id, secret) = rest.split_once('_').ok_or(REFUSED)?;
        let presented = hash(secret);
        self.read(|by_id| {
            let stored = by_id.get(key_id);
            // An unknown id is compared with something, too: the id is no secret, but need not be confirmed.
            let expected = stored.map_or([0; 32], |stored| stored.hash);
            let is_same: bool = presented.ct_eq(&expected).into();
            match stored {
                Some(stored) if is_same => Ok(Principal::Admin {
                    key_id: stored.key.key_id.clone(),
                }),
                _ => Err(REFUSED),
            }
        })
    }

    /// The keys, oldest first.
    pub(crate) fn list(&self) -> Vec<AdminKey> {
        let mut keys: Vec<AdminKey> =
            self.read(|by_id| by_id.values().map(|stored| stored.key.clone()).collect());
        keys.sort_by(|a, b| (a.created, &a.key_id).cmp(&(b.created, &b.key_id)));
        keys
    }

    pub(crate) async fn delete(&self, documents: &dyn Documents, key_id: &str) -> Result<bool, Error> {
        let statement = DeleteOne {
            filter: rawdoc! { "_id": key_id },
            multi: false,
            ..DeleteOne::default()
        };
        let delete = Delete {
            statements: vec![statement],
            ordered: true,
        };
        let deleted = documents
            .delete(&admin_keys(), delete, Deadline::NEVER)
            .await?
            .deleted;
        let held = self
            .by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key_id);
        Ok(deleted > 0 || held.is_some())
    }

    fn read<T>(&self, body: impl FnOnce(&HashMap<Arc<str>, Stored>) -> T) -> T {
        body(&self.by_id.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Stored {
    fn to_document(&self) -> RawDocumentBuf {
        rawdoc! {
            "_id": &*self.key.key_id,
            "hash": binary(&self.hash),
            "label": self.key.label.as_str(),
            "created": bson::DateTime::from_millis(self.key.created.millis()),
        }
    }

    fn parse(document: &RawDocument) -> Option<Self> {
        let key = AdminKey {
            key_id: document.get_str("_id").ok()?.into(),
            label: document.get_str("label").ok()?.to_owned(),
            created: Timestamp(document.get_datetime("created").ok()?.timestamp_millis()),
        };
        Some(Self {
            key,
            hash: document.get_binary("hash").ok()?.bytes.try_into().ok()?,
        })
    }
}

fn admin_keys() -> Namespace {
    Namespace::new("/node", "admin_keys")
}

fn hash(secret: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    out
}
