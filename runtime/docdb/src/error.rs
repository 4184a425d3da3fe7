//! What can go wrong in the database, with MongoDB's codes and names.

use cloudlet_base::Fault;

/// A database error: a kind for the platform, MongoDB's code and name for drivers, a message for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    /// `{keyPattern, keyValue}` of a duplicate key error.
    duplicate: Option<Box<(bson::RawDocumentBuf, bson::RawDocumentBuf)>>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $fault:ident;)*) => {
        /// MongoDB's error codes, as far as the engine gives them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name),* }

        impl Code {
            /// The number that drivers see.
            pub const fn number(self) -> i32 {
                match self { $(Code::$name => $number),* }
            }

            /// The name that drivers see as `codeName`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name)),* }
            }

            /// The platform's kind of failure.
            pub const fn fault(self) -> Fault {
                match self { $(Code::$name => Fault::$fault),* }
            }
        }
    };
}

codes! {
    /// A bug of ours, or corrupt data.
    InternalError = 1, Internal;
    /// A malformed filter, update, option or operator argument.
    BadValue = 2, Invalid;
    /// A command or specification that can't be parsed.
    FailedToParse = 9, Invalid;
    /// The file is not a store, is damaged, or is of a newer format.
    UnsupportedFormat = 12, Internal;
    /// An operator applied to a value of a type it does not take.
    TypeMismatch = 14, Invalid;
    /// Too deeply nested.
    Overflow = 15, Limit;
    /// A batch with too many documents or statements.
    InvalidLength = 16, Limit;
    /// An operation that makes no sense on what it is given.
    IllegalOperation = 20, Invalid;
    /// Bytes that are not BSON.
    InvalidBSON = 22, Invalid;
    /// The collection does not exist.
    NamespaceNotFound = 26, NotFound;
    /// The index does not exist.
    IndexNotFound = 27, NotFound;
    /// An update path leads through a value that has no fields.
    PathNotViable = 28, Invalid;
    /// Two parts of an update write the same path.
    ConflictingUpdateOperators = 40, Invalid;
    /// The collection exists already.
    NamespaceExists = 48, Conflict;
    /// The deadline passed.
    MaxTimeMSExpired = 50, Deadline;
    /// A `$`-prefixed field where none may be.
    DollarPrefixedFieldName = 52, Invalid;
    /// An `_id` of a type that can't be one.
    InvalidIdField = 53, Invalid;
    /// A filter that gives an upsert two values for one field.
    NotSingleValueField = 54, Invalid;
    /// An update path with an empty part.
    EmptyFieldName = 56, Invalid;
    /// An update would change `_id`.
    ImmutableField = 66, Invalid;
    /// An index can't be made as asked.
    CannotCreateIndex = 67, Invalid;
    /// An index with other keys has that name.
    IndexKeySpecsConflict = 86, Conflict;
    /// An index with other options has those keys.
    IndexOptionsConflict = 85, Conflict;
    /// Options that can't be combined.
    InvalidOptions = 72, Invalid;
    /// A name that is not allowed.
    InvalidNamespace = 73, Invalid;
    /// The operation exists in MongoDB, not here.
    CommandNotSupported = 115, Invalid;
    /// Two arrays in one compound key.
    CannotIndexParallelArrays = 171, Invalid;
    /// A document over 16 MiB or nested deeper than 100.
    BSONObjectTooLarge = 10334, Limit;
    /// A unique index has the key already.
    DuplicateKey = 11000, Conflict;
    /// A scan, sort or result over its limit.
    QueryExceededMemoryLimitNoDiskUseAllowed = 292, Limit;
    /// The node is busy: a queue is full.
    TooManyRequests = 462, Busy;
    /// The disk is full or failing; nothing was written.
    OutOfDiskSpace = 14031, Internal;
    /// Another node or process has the store open.
    DBPathInUse = 98, Conflict;
    /// A collection can't be made: the database has too many.
    CannotCreateCollection = 1005, Limit;
    /// The collection or index that a cursor reads is gone.
    QueryPlanKilled = 175, Conflict;
    /// The store is being shut down.
    ShutdownInProgress = 91, Busy;
}

impl Error {
    /// An error with MongoDB's code and a message: lower case, no full stop, offending value quoted.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            duplicate: None,
        }
    }

    /// A duplicate key with what drivers want to know of it.
    pub fn duplicate_key(
        message: impl Into<String>,
        pattern: bson::RawDocumentBuf,
        value: bson::RawDocumentBuf,
    ) -> Self {
        Self {
            code: Code::DuplicateKey,
            message: message.into(),
            duplicate: Some(Box::new((pattern, value))),
        }
    }

    /// MongoDB's code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        self.code.fault()
    }

    /// `keyPattern` and `keyValue` of a duplicate key error.
    pub fn duplicate(&self) -> Option<(&bson::RawDocument, &bson::RawDocument)> {
        self.duplicate.as_deref().map(|(p, v)| (p.as_ref(), v.as_ref()))
    }
}

/// The result of a database operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
