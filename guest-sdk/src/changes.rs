//! What triggers on changes tell the functions that they call.

use serde::Deserialize;

/// A change that a `[[trigger.database]]` is about: MongoDB's change event. It may come twice, with the same
/// [`id`](Self::id): a function that was cut off is called again. Changes of one document come one after another, in their
/// order; those of several may come at once.
///
/// `T` is what the collection's documents are, [`Document`](crate::db::Document) for any.
///
/// ```
/// use cloudlet::db::Bson;
/// use cloudlet::{DatabaseEvent, Operation, Result};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Stay { room: i32 }
///
/// #[cloudlet::call]
/// fn changed(event: DatabaseEvent<Stay>) -> Result<()> {
///     match (event.operation, &event.full_document) {
///         (Operation::Insert, Some(stay)) => log::info!("room {} is taken", stay.room),
///         (Operation::Delete, _) => log::info!("stay {} is over", event.document_key),
///         _ => {}
///     }
///     Ok(())
/// }
/// # let event = r#"{"_id":{"_data":"01AB"},"trigger":"stays","operationType":"insert","clusterTime":{"$timestamp":
/// #   {"t":1,"i":2}},"wallTime":{"$date":"2026-11-23T20:00:00Z"},"fullDocument":{"_id":{"$oid":"65f000000000000000000001"},
/// #   "room":312},"ns":{"db":"hotel","coll":"stays"},"documentKey":{"_id":{"$oid":"65f000000000000000000001"}}}"#;
/// # let event: DatabaseEvent<Stay> = cloudlet::serde_json::from_str(event).unwrap();
/// # assert_eq!((event.id.as_str(), event.collection.as_str()), ("01AB", "stays"));
/// # assert_eq!((event.operation, event.full_document.unwrap().room), (Operation::Insert, 312));
/// # assert!(matches!(event.document_key.get("_id"), Some(Bson::ObjectId(_))));
/// # assert_eq!(event.wall_time.timestamp_millis(), 1_795_464_000_000);
/// ```
#[cfg(feature = "db")]
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseEvent<T = crate::db::Document> {
    /// The same for every attempt at the same change, and later in text order for later changes.
    pub id: String,
    /// The trigger's name.
    pub trigger: String,
    /// What happened.
    pub operation: Operation,
    /// The collection.
    pub collection: String,
    /// `{_id}` of the document.
    pub document_key: crate::db::Document,
    /// The document as it was right after; none of a delete, and none if it is in [`omitted`](Self::omitted).
    pub full_document: Option<T>,
    /// The document as it was right before an update, replacement or delete. A trigger for inserts alone has none.
    pub full_document_before_change: Option<T>,
    /// What an update did.
    pub update_description: Option<UpdateDescription>,
    /// When.
    pub wall_time: crate::db::DateTime,
    /// Parts that are left out because they are large, by their names in MongoDB's event: `fullDocument`,
    /// `fullDocumentBeforeChange`, `updateDescription`.
    pub omitted: Vec<String>,
}

/// What an update did to a document.
#[cfg(feature = "db")]
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateDescription {
    /// Fields that have a new value, by their paths.
    #[serde(default)]
    pub updated_fields: crate::db::Document,
    /// Paths of fields that are gone.
    #[serde(default)]
    pub removed_fields: Vec<String>,
}

/// What happened to a document.
#[cfg(feature = "db")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It was inserted.
    Insert,
    /// It was changed by operators or a pipeline.
    Update,
    /// Another one took its place.
    Replace,
    /// It was removed.
    Delete,
}

#[cfg(feature = "db")]
impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for DatabaseEvent<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        #[derive(Deserialize)]
        struct Token {
            #[serde(rename = "_data")]
            data: String,
        }
        #[derive(Deserialize)]
        struct Namespace {
            coll: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event<T> {
            #[serde(rename = "_id")]
            id: Token,
            trigger: String,
            operation_type: Operation,
            ns: Namespace,
            document_key: crate::db::Document,
            full_document: Option<T>,
            full_document_before_change: Option<T>,
            update_description: Option<UpdateDescription>,
            wall_time: crate::db::DateTime,
            #[serde(default)]
            omitted: Vec<String>,
        }
        // Extended JSON: its types are BSON's, as documents of queries have them.
        let event = serde_json::Value::deserialize(deserializer)?;
        let event = crate::db::Bson::try_from(event).map_err(D::Error::custom)?;
        let bytes = match &event {
            crate::db::Bson::Document(event) => bson::serialize_to_vec(event).map_err(D::Error::custom)?,
            _ => return Err(D::Error::custom("a change event is a document")),
        };
        let event: Event<T> = bson::deserialize_from_slice(&bytes).map_err(D::Error::custom)?;
        Ok(Self {
            id: event.id.data,
            trigger: event.trigger,
            operation: event.operation_type,
            collection: event.ns.coll,
            document_key: event.document_key,
            full_document: event.full_document,
            full_document_before_change: event.full_document_before_change,
            update_description: event.update_description,
            wall_time: event.wall_time,
            omitted: event.omitted,
        })
    }
}

/// A change of an object that a `[[trigger.storage]]` is about. It may come twice, with the same [`id`](Self::id). Changes
/// at one path come one after another, in their order.
///
/// ```
/// use cloudlet::{ObjectChange, Result, StorageEvent};
///
/// #[cloudlet::call]
/// fn changed(event: StorageEvent) -> Result<()> {
///     match event.change {
///         ObjectChange::Created => log::info!("{} has {} bytes", event.path, event.size),
///         ObjectChange::Deleted => log::info!("{} is gone", event.path),
///     }
///     Ok(())
/// }
/// # let event = r#"{"id":"01AB","trigger":"photos","type":"created","path":"photos/a.jpg","fileId":
/// #   "cloud://hotel.files/photos/a.jpg","size":3,"contentType":"image/jpeg","etag":"\"11\"","owner":null,
/// #   "replaced":true,"time":"2026-11-23T20:00:00Z"}"#;
/// # let event: StorageEvent = cloudlet::serde_json::from_str(event).unwrap();
/// # assert_eq!((event.change, event.size, event.replaced), (ObjectChange::Created, 3, true));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageEvent {
    /// The same for every attempt at the same change, and later in text order for later changes.
    pub id: String,
    /// The trigger's name.
    pub trigger: String,
    /// What happened.
    #[serde(rename = "type")]
    pub change: ObjectChange,
    /// The object's path in the app's bucket.
    pub path: String,
    /// `cloud://APP.BUCKET/PATH`
    pub file_id: String,
    /// Bytes; of a deleted object those that it had, as with what follows.
    pub size: u64,
    /// Media type.
    pub content_type: String,
    /// The strong entity tag, in quotes.
    pub etag: String,
    /// Owner id of the user who stored it; `None` for functions and admins.
    pub owner: Option<String>,
    /// Whether it took the place of another object.
    pub replaced: bool,
    /// When, in UTC: `2026-11-23T20:00:00Z`.
    pub time: String,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectChange {
    /// It was stored, maybe in the place of another.
    Created,
    /// It was removed.
    Deleted,
}
