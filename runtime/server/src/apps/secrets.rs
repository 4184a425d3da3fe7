//! Apps' secrets: encrypted at rest, readable by functions alone.
//!
//! A secret is a document of `/node` `secrets`: `{_id: "APP/NAME", app, name, nonce, sealed, updated}`. `sealed` is
//! AES-256-GCM under the key in `secrets.key` of the data directory, with the `_id` as associated data, so that a
//! value can't be moved to another name. The key file is made at the first use, for its owner's eyes only; without
//! it the values are lost.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bson::rawdoc;
use cloudlet_base::{AppId, Deadline, Entropy, Fault, Timestamp};
use cloudlet_data::{Delete, DeleteOne, Documents, Find, Namespace, Update, UpdateOne};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::records;

/// Largest secret.
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Secrets of one app.
const SECRETS_MAX: usize = 200;
/// The key's file in the data directory.
const KEY_FILE: &str = "secrets.key";

/// Why secrets can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// A name or value that can't be one.
    #[error("{0}")]
    Invalid(String),
    /// The key file can't be used.
    #[error("can't use the secrets' key {path:?}: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value does not open with the key.
    #[error("secret {0:?} does not open with this node's key; put it again")]
    Sealed(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
}

impl SecretError {
    /// The platform's kind of failure.
    pub(crate) fn kind(&self) -> Fault {
        match self {
            SecretError::Invalid(_) => Fault::Invalid,
            SecretError::Key { .. } | SecretError::Sealed(_) => Fault::Internal,
            SecretError::Database(error) => error.kind(),
        }
    }
}

/// What may be known of a secret.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretInfo {
    pub(crate) name: String,
    /// Milliseconds since the epoch.
    pub(crate) updated: i64,
}

/// The key that seals secrets.
pub(crate) struct SecretKey(LessSafeKey);

impl SecretKey {
    /// Reads the key of `data_dir`; makes one when there is none.
    ///
    /// # Errors
    /// When the file can't be read or made, or is not a key.
    pub(crate) fn open(data_dir: &Path, entropy: &dyn Entropy) -> Result<Self, SecretError> {
        let path = data_dir.join(KEY_FILE);
        let fail = |reason: String| SecretError::Key {
            path: path.clone(),
            reason,
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = vec![0; 32];
                entropy.fill(&mut bytes);
                write_private(&path, &bytes).map_err(|error| fail(error.to_string()))?;
                bytes
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| fail(format!("it has {} bytes instead of 32", bytes.len())))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn seal(&self, id: &str, value: &str, entropy: &dyn Entropy) -> ([u8; NONCE_LEN], Vec<u8>) {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = value.as_bytes().to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(unique, Aad::from(id.as_bytes()), &mut sealed)
            .expect("a value under VALUE_BYTES_MAX is within what AES-GCM takes");
        (nonce, sealed)
    }

    fn unseal(&self, id: &str, nonce: &[u8], sealed: &[u8]) -> Option<String> {
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let plain = self
            .0
            .open_in_place(nonce, Aad::from(id.as_bytes()), &mut bytes)
            .ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

/// Writes a file that only its owner reads, whole and durable or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let partial = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn namespace() -> Namespace {
    Namespace::new("/node", "secrets")
}

fn binary(bytes: Vec<u8>) -> bson::Binary {
    bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes,
    }
}

/// Stores a secret, in the place of an older value.
pub(crate) async fn put(
    documents: &dyn Documents,
    key: &SecretKey,
    entropy: &dyn Entropy,
    (app, name): (&AppId, &str),
    value: &str,
    now: Timestamp,
) -> Result<(), SecretError> {
    if let Err((message, remedy)) = super::manifest::check_secret_name(name) {
        return Err(SecretError::Invalid(format!("{message}; {remedy}")));
    }
    if value.is_empty() || value.len() > VALUE_BYTES_MAX {
        let size = value.len();
        return Err(SecretError::Invalid(format!(
            "the secret has {size} bytes; 1 to {VALUE_BYTES_MAX} are allowed"
        )));
    }
    let names = list(documents, app).await?;
    if names.len() >= SECRETS_MAX && !names.iter().any(|secret| secret.name == name) {
        return Err(SecretError::Invalid(format!(
            "the app has {SECRETS_MAX} secrets, the limit; delete one first"
        )));
    }
    let id = format!("{app}/{name}");
    let (nonce, sealed) = key.seal(&id, value, entropy);
    let update = Update {
        statements: vec![UpdateOne {
            filter: rawdoc! { "_id": id.as_str() },
            update: rawdoc! { "$set": {
                "app": app.as_str(),
                "name": name,
                "nonce": binary(nonce.to_vec()),
                "sealed": binary(sealed),
                "updated": bson::DateTime::from_millis(now.millis()),
            } },
            multi: false,
            upsert: true,
            ..UpdateOne::default()
        }],
        ordered: true,
        ..Update::default()
    };
    let updated = documents.update(&namespace(), update, Deadline::NEVER).await?;
    match updated.errors.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(()),
    }
}

/// Removes a secret. Returns whether there was one.
pub(crate) async fn delete(documents: &dyn Documents, app: &AppId, name: &str) -> Result<bool, SecretError> {
    let delete = Delete {
        statements: vec![DeleteOne {
            filter: rawdoc! { "_id": format!("{app}/{name}") },
            multi: false,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    let deleted = documents.delete(&namespace(), delete, Deadline::NEVER).await?;
    match deleted.errors.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(deleted.deleted > 0),
    }
}

/// The names of the app's secrets.
pub(crate) async fn list(documents: &dyn Documents, app: &AppId) -> Result<Vec<SecretInfo>, SecretError> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str() },
        sort: Some(rawdoc! { "_id": 1 }),
        projection: Some(rawdoc! { "name": 1, "updated": 1 }),
        ..Find::default()
    };
    let found = records::find_all(documents, &namespace(), find).await?;
    let info = |document: &bson::RawDocumentBuf| {
        Some(SecretInfo {
            name: document.get_str("name").ok()?.to_owned(),
            updated: document.get_datetime("updated").ok()?.timestamp_millis(),
        })
    };
    Ok(found.iter().filter_map(info).collect())
}

/// The values of the app's secrets, for its functions.
pub(crate) async fn values(
    documents: &dyn Documents,
    key: &SecretKey,
    app: &AppId,
) -> Result<BTreeMap<String, String>, SecretError> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str() },
        ..Find::default()
    };
    let mut values = BTreeMap::new();
    for document in records::find_all(documents, &namespace(), find).await? {
        let name = document.get_str("name").unwrap_or_default().to_owned();
        let parts = document
            .get_binary("nonce")
            .ok()
            .zip(document.get_binary("sealed").ok());
        let value =
            parts.and_then(|(nonce, sealed)| key.unseal(&format!("{app}/{name}"), nonce.bytes, sealed.bytes));
        match value {
            Some(value) => values.insert(name, value),
            None => return Err(SecretError::Sealed(name)),
        };
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use cloudlet_base::SeededEntropy;

    use super::*;

    #[test]
    fn the_key_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(1);
        let first = SecretKey::open(dir.path(), &entropy).unwrap();
        let again = SecretKey::open(dir.path(), &entropy).unwrap();
        let (nonce, sealed) = first.seal("a/K", "hush", &entropy);
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        assert_eq!(again.unseal("a/K", &nonce, &sealed).as_deref(), Some("hush"));
        assert_eq!(again.unseal("b/K", &nonce, &sealed), None);
        let mode = std::fs::metadata(dir.path().join(KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(KEY_FILE), "short").unwrap();
        assert!(SecretKey::open(dir.path(), &entropy).is_err());
    }
}
