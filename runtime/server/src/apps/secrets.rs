//! Apps' secrets: encrypted at rest, readable by functions alone.
//!
//! A secret is a document of `/node` `secrets`: `{_id: "APP/NAME", app, name, nonce, sealed, updated}`. `sealed` is
//! AES-256-GCM under the key in `secrets.key` of the data directory (or the setting `secrets.key_file`), with the `_id`
//! as associated data, so that a value can't be moved to another name. The key file is made at the first use, for its
//! owner's eyes only; without it the values are lost.
//!
//! The file has 32 bytes for each key. The first seals; others are there only while the key is changed, and open what
//! is not sealed anew yet: wherever a change is interrupted, the file opens every value.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bson::rawdoc;
use cloudlet_base::{AppId, Deadline, Entropy, Fault, Timestamp};
use cloudlet_data::{Delete, DeleteOne, Documents, Find, Namespace, Update, UpdateOne};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio::sync::Mutex;

use super::records;

/// Largest secret.
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Values that one write seals anew when the key is changed.
const RESEALED_PER_WRITE: usize = 50;
/// Secrets of one app.
const SECRETS_MAX: usize = 200;
/// The key's file in the data directory, unless another is named.
pub(crate) const KEY_FILE: &str = "secrets.key";
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Keys in the file; more than two are there when changes of the key fail again and again.
const KEYS_MAX: usize = 8;

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

/// The keys that seal and open secrets.
pub(crate) struct SecretKeys {
    path: PathBuf,
    keys: RwLock<Arc<Keys>>,
    /// Held from sealing a value to storing it, and while the key is changed: nothing is stored under a key that goes.
    sealing: Mutex<()>,
}

/// What the file has.
struct Keys {
    bytes: Vec<u8>,
    /// One at least. The first one seals.
    parsed: Vec<LessSafeKey>,
}

impl SecretKeys {
    /// Reads the key file; makes one when there is none.
    ///
    /// # Errors
    /// When the file can't be read or made, or is not a key.
    pub(crate) fn open(path: &Path, entropy: &dyn Entropy) -> Result<Self, SecretError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = new_key(entropy);
                write_private(path, &bytes).map_err(|error| unusable(path, error.to_string()))?;
                bytes
            }
            Err(error) => return Err(unusable(path, error.to_string())),
        };
        Ok(Self {
            path: path.to_path_buf(),
            keys: RwLock::new(Arc::new(Keys::parse(path, bytes)?)),
            sealing: Mutex::new(()),
        })
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other keys into the file, then into use.
    fn replace(&self, bytes: Vec<u8>) -> Result<(), SecretError> {
        let keys = Keys::parse(&self.path, bytes)?;
        write_private(&self.path, &keys.bytes).map_err(|error| unusable(&self.path, error.to_string()))?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }
}

fn new_key(entropy: &dyn Entropy) -> Vec<u8> {
    let mut bytes = vec![0; KEY_BYTES];
    entropy.fill(&mut bytes);
    bytes
}

fn unusable(path: &Path, reason: String) -> SecretError {
    SecretError::Key {
        path: path.to_path_buf(),
        reason,
    }
}

impl Keys {
    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, SecretError> {
        let size = bytes.len();
        if size == 0 || !size.is_multiple_of(KEY_BYTES) || size > KEYS_MAX * KEY_BYTES {
            let reason =
                format!("it has {size} bytes instead of {KEY_BYTES} for each of 1 to {KEYS_MAX} keys");
            return Err(unusable(path, reason));
        }
        let parsed = bytes.chunks(KEY_BYTES).map(|key| {
            let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
            LessSafeKey::new(key)
        });
        Ok(Self {
            parsed: parsed.collect(),
            bytes,
        })
    }

    fn seal(&self, id: &str, value: &str, entropy: &dyn Entropy) -> ([u8; NONCE_LEN], Vec<u8>) {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = value.as_bytes().to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.parsed[0]
            .seal_in_place_append_tag(unique, Aad::from(id.as_bytes()), &mut sealed)
            .expect("a value under VALUE_BYTES_MAX is within what AES-GCM takes");
        (nonce, sealed)
    }

    fn unseal(&self, id: &str, nonce: &[u8], sealed: &[u8]) -> Option<String> {
        self.parsed.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut bytes = sealed.to_vec();
            let plain = key
                .open_in_place(nonce, Aad::from(id.as_bytes()), &mut bytes)
                .ok()?;
            String::from_utf8(plain.to_vec()).ok()
        })
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
    keys: &SecretKeys,
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
    let _sealing = keys.sealing.lock().await;
    let (nonce, sealed) = keys.keys().seal(&id, value, entropy);
    let statement = UpdateOne {
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
    };
    write(documents, vec![statement]).await
}

async fn write(documents: &dyn Documents, statements: Vec<UpdateOne>) -> Result<(), SecretError> {
    let update = Update {
        statements,
        ordered: true,
        ..Update::default()
    };
    let updated = documents.update(&namespace(), update, Deadline::NEVER).await?;
    match updated.errors.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(()),
    }
}

/// Changes the node's key: a new one is made, every value of every app is sealed with it, and the one before goes.
/// Functions notice nothing. Returns how many values there are. Where it fails or the node dies the file has the old
/// key too, and doing it again makes it whole.
///
/// # Errors
/// When the key file can't be written, a value does not open, or the database fails.
pub(crate) async fn rotate(
    documents: &dyn Documents,
    keys: &SecretKeys,
    entropy: &dyn Entropy,
) -> Result<usize, SecretError> {
    let _sealing = keys.sealing.lock().await;
    let new = new_key(entropy);
    keys.replace([new.as_slice(), &keys.keys().bytes].concat())?;
    let both = keys.keys();
    let mut statements = Vec::new();
    for document in records::find_all(documents, &namespace(), Find::default()).await? {
        let id = document.get_str("_id").unwrap_or_default();
        let value = opened(&both, id, &document).ok_or_else(|| SecretError::Sealed(id.to_owned()))?;
        let (nonce, sealed) = both.seal(id, &value, entropy);
        statements.push(UpdateOne {
            filter: rawdoc! { "_id": id },
            update: rawdoc! { "$set": { "nonce": binary(nonce.to_vec()), "sealed": binary(sealed) } },
            multi: false,
            ..UpdateOne::default()
        });
    }
    let count = statements.len();
    let mut statements = statements.into_iter();
    loop {
        let part: Vec<UpdateOne> = statements.by_ref().take(RESEALED_PER_WRITE).collect();
        if part.is_empty() {
            break;
        }
        write(documents, part).await?;
    }
    keys.replace(new)?;
    Ok(count)
}

fn opened(keys: &Keys, id: &str, document: &bson::RawDocumentBuf) -> Option<String> {
    let (nonce, sealed) = (
        document.get_binary("nonce").ok()?,
        document.get_binary("sealed").ok()?,
    );
    keys.unseal(id, nonce.bytes, sealed.bytes)
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
    keys: &SecretKeys,
    app: &AppId,
) -> Result<BTreeMap<String, String>, SecretError> {
    let find = Find {
        filter: rawdoc! { "app": app.as_str() },
        ..Find::default()
    };
    let (keys, mut values) = (keys.keys(), BTreeMap::new());
    for document in records::find_all(documents, &namespace(), find).await? {
        let name = document.get_str("name").unwrap_or_default().to_owned();
        match opened(&keys, &format!("{app}/{name}"), &document) {
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
        let path = dir.path().join(KEY_FILE);
        let open = || SecretKeys::open(&path, &entropy);
        let (first, again) = (open().unwrap().keys(), open().unwrap().keys());
        let (nonce, sealed) = first.seal("a/K", "hush", &entropy);
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        assert_eq!(again.unseal("a/K", &nonce, &sealed).as_deref(), Some("hush"));
        assert_eq!(again.unseal("b/K", &nonce, &sealed), None);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for bad in [0, 5, 33, 32 * 9] {
            std::fs::write(&path, vec![1; bad]).unwrap();
            assert!(open().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn wherever_a_change_of_the_key_ends_the_file_opens_every_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let entropy = SeededEntropy::new(1);
        let documents: Arc<dyn Documents> = cloudlet_data::testing::MemoryDocuments::new();
        let keys = SecretKeys::open(&path, &entropy).unwrap();
        let app: AppId = "a".parse().unwrap();
        for name in ["ONE", "TWO"] {
            put(&*documents, &keys, &entropy, (&app, name), name, Timestamp(1))
                .await
                .unwrap();
        }
        let old = std::fs::read(&path).unwrap();
        assert_eq!(rotate(&*documents, &keys, &entropy).await.unwrap(), 2);
        let new = std::fs::read(&path).unwrap();
        assert!(new.len() == KEY_BYTES && new != old);
        let read = |keys: SecretKeys| {
            let (documents, app) = (documents.clone(), app.clone());
            async move { values(&*documents, &keys, &app).await }
        };
        assert_eq!(
            read(SecretKeys::open(&path, &entropy).unwrap())
                .await
                .unwrap()
                .len(),
            2
        );
        // As a kill after the first and before the last step leaves it: one value is sealed with the old key.
        std::fs::write(&path, &old).unwrap();
        let with_old = SecretKeys::open(&path, &entropy).unwrap();
        put(
            &*documents,
            &with_old,
            &entropy,
            (&app, "ONE"),
            "ONE",
            Timestamp(1),
        )
        .await
        .unwrap();
        assert!(matches!(read(with_old).await, Err(SecretError::Sealed(_))));
        std::fs::write(&path, [new, old].concat()).unwrap();
        let both = SecretKeys::open(&path, &entropy).unwrap();
        assert_eq!(rotate(&*documents, &both, &entropy).await.unwrap(), 2);
        let values = read(SecretKeys::open(&path, &entropy).unwrap()).await.unwrap();
        assert_eq!(values["ONE"], "ONE");
        // A value that does not open leaves the old key in the file.
        std::fs::write(&path, [9; 32]).unwrap();
        let wrong = SecretKeys::open(&path, &entropy).unwrap();
        assert!(rotate(&*documents, &wrong, &entropy).await.is_err());
        assert!(std::fs::read(&path).unwrap().ends_with(&[9; 32]));
    }
}
