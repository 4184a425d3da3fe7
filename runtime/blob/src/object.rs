//! An object as its metadata document says: the fields, and the document's shape.
//!
//! ```text
//! { _id: PATH, blob: 32 hex digits, size: int64, hash: 64 hex digits, type: STRING, owner?: STRING, modified: date }
//! ```

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::{ContentHash, Timestamp};

use crate::Error;

/// What is known of an object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Path within the app's bucket, e.g. `photos/a.jpg`; no leading slash.
    pub path: Arc<str>,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content; the strong ETag is its hex in quotes.
    pub hash: ContentHash,
    /// Media type.
    pub content_type: Arc<str>,
    /// Owner id (openid or uid) of the user who stored it; `None` for functions and admins.
    pub owner: Option<Arc<str>>,
    /// When it was stored.
    pub modified: Timestamp,
    /// Name of the blob with the bytes, used once and never again.
    pub(crate) blob: Arc<str>,
}

impl ObjectInfo {
    pub(crate) fn to_document(&self) -> RawDocumentBuf {
        let mut document = rawdoc! {
            "_id": &*self.path,
            "blob": &*self.blob,
            "size": i64::try_from(self.size).unwrap_or(i64::MAX),
            "hash": self.hash.to_string(),
            "type": &*self.content_type,
            "modified": bson::DateTime::from_millis(self.modified.millis()),
        };
        if let Some(owner) = &self.owner {
            document.append(bson::raw::cstr!("owner"), &**owner);
        }
        document
    }

    pub(crate) fn from_document(document: &RawDocument) -> Result<Self, Error> {
        Self::parse(document).ok_or_else(|| {
            let path = document.get_str("_id").unwrap_or("?");
            Error::Backend(format!("the metadata of object {path:?} are corrupt"))
        })
    }

    fn parse(document: &RawDocument) -> Option<Self> {
        Some(Self {
            path: document.get_str("_id").ok()?.into(),
            blob: document.get_str("blob").ok()?.into(),
            size: u64::try_from(document.get_i64("size").ok()?).ok()?,
            hash: document.get_str("hash").ok()?.parse().ok()?,
            content_type: document.get_str("type").ok()?.into(),
            owner: document.get_str("owner").ok().map(Into::into),
            modified: Timestamp(document.get_datetime("modified").ok()?.timestamp_millis()),
        })
    }
}
