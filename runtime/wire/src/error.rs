//! What a command can fail with, as drivers see it: MongoDB's numbers and names, a message, labels.

use bson::{RawArrayBuf, RawDocumentBuf, raw::cstr};
use cloudlet_base::Fault;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $fault:ident;)*) => {
        /// Codes that the protocol gives beside those of the database.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$doc])* $name),* }

        impl Code {
            const ALL: &'static [Code] = &[$(Code::$name),*];

            pub(crate) const fn number(self) -> i32 {
                match self { $(Code::$name => $number),* }
            }

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name)),* }
            }

            const fn fault(self) -> Fault {
                match self { $(Code::$name => Fault::$fault),* }
            }
        }
    };
}

codes! {
    /// An argument with a value it can't have.
    BadValue = 2, Invalid;
    HostUnreachable = 6, Upstream;
    HostNotFound = 7, Upstream;
    FailedToParse = 9, Invalid;
    UserNotFound = 11, NotFound;
    /// The caller may not do this.
    Unauthorized = 13, Denied;
    TypeMismatch = 14, Invalid;
    InvalidLength = 16, Limit;
    AuthenticationFailed = 18, Unauthenticated;
    IllegalOperation = 20, Invalid;
    InvalidBSON = 22, Invalid;
    NamespaceNotFound = 26, NotFound;
    IndexNotFound = 27, NotFound;
    RoleNotFound = 31, NotFound;
    CursorNotFound = 43, NotFound;
    NamespaceExists = 48, Conflict;
    MaxTimeMSExpired = 50, Deadline;
    CommandNotFound = 59, Invalid;
    WriteConcernFailed = 64, Upstream;
    CannotCreateIndex = 67, Invalid;
    InvalidOptions = 72, Invalid;
    InvalidNamespace = 73, Invalid;
    UnknownReplWriteConcern = 79, Invalid;
    NetworkTimeout = 89, Upstream;
    ShutdownInProgress = 91, Busy;
    UnsatisfiableWriteConcern = 100, Invalid;
    CommandNotSupported = 115, Invalid;
    /// The number of a transaction was used already.
    ConflictingOperationInProgress = 117, Conflict;
    NetworkInterfaceExceededTimeLimit = 202, Upstream;
    InvalidIndexSpecificationOption = 197, Invalid;
    IncompleteTransactionHistory = 217, Conflict;
    TransactionTooOld = 225, Conflict;
    CursorKilled = 237, Conflict;
    NotImplemented = 238, Invalid;
    /// The state that a snapshot read asks for is gone.
    SnapshotTooOld = 239, NotFound;
    NoSuchTransaction = 251, NotFound;
    TransactionCommitted = 256, Conflict;
    TooManyLogicalSessions = 261, Limit;
    ExceededTimeLimit = 262, Deadline;
    OperationNotSupportedInTransaction = 263, Invalid;
    APIVersionError = 322, Invalid;
    MechanismUnavailable = 334, Invalid;
    UnsupportedOpQueryCommand = 352, Invalid;
    TooManyRequests = 462, Busy;
    SearchNotEnabled = 31082, Invalid;
    SocketException = 9001, Upstream;
    NotWritablePrimary = 10107, Upstream;
    InterruptedAtShutdown = 11600, Upstream;
    InterruptedDueToReplStateChange = 11602, Upstream;
    CursorInUse = 12051, Conflict;
    NotPrimaryNoSecondaryOk = 13435, Upstream;
    NotPrimaryOrSecondary = 13436, Upstream;
    PrimarySteppedDown = 189, Upstream;
    ReadConcernMajorityNotAvailableYet = 134, Upstream;
    StaleShardVersion = 63, Upstream;
    Interrupted = 11601, Upstream;
    WriteConflict = 112, Conflict;
    Location40324 = 40324, Invalid;
    Location40415 = 40415, Invalid;
    /// Change streams, where there are none.
    Location40573 = 40573, Invalid;
    /// `$changeStream` after another stage.
    Location40602 = 40602, Invalid;
    /// A change stream that is told two places to begin at.
    Location40674 = 40674, Invalid;
    Location50865 = 50865, Invalid;
    /// A cursor of a transaction, asked for more by another or by none.
    Location50741 = 50741, Conflict;
    Location51003 = 51003, Conflict;
    Location51024 = 51024, Invalid;
}

/// Codes after which a driver may send a retryable write again.
const RETRYABLE_WRITE_CODES: [i32; 13] = [
    6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
];

/// The label that tells a driver so.
pub(crate) const RETRYABLE_WRITE_ERROR: &str = "RetryableWriteError";

/// Codes after which a driver may open a change stream again where it stood.
const RESUMABLE_CHANGE_STREAM_CODES: [i32; 17] = [
    6, 7, 43, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10107, 11600, 11602, 13435, 13436,
];

/// Codes after which it can't be, wherever it is sent.
const LOST_CHANGE_STREAM_CODES: [i32; 2] = [280, 286];

/// The labels that tell a driver so.
const RESUMABLE_CHANGE_STREAM_ERROR: &str = "ResumableChangeStreamError";
const LOST_CHANGE_STREAM_ERROR: &str = "NonResumableChangeStreamError";

/// Why a command failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CommandError {
    code: i32,
    name: String,
    fault: Fault,
    message: String,
    labels: Vec<String>,
    /// `keyPattern` and `keyValue` of a duplicate key.
    duplicate: Option<Box<(RawDocumentBuf, RawDocumentBuf)>>,
    /// `errInfo` of a failed validation.
    info: Option<Box<RawDocumentBuf>>,
}

/// The outcome of a part of a command.
pub(crate) type Result<T, E = CommandError> = std::result::Result<T, E>;

impl CommandError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            name: code.name().to_owned(),
            fault: code.fault(),
            message: message.into(),
            labels: Vec::new(),
            duplicate: None,
            info: None,
        }
    }

    /// An error that a fail point orders.
    pub(crate) fn ordered(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            name: name_of(code),
            fault: Fault::Upstream,
            message: message.into(),
            labels: Vec::new(),
            duplicate: None,
            info: None,
        }
    }

    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    pub(crate) fn kind(&self) -> Fault {
        self.fault
    }

    /// Adds a label, once.
    pub(crate) fn label(&mut self, label: &str) {
        if !self.labels.iter().any(|known| known == label) {
            self.labels.push(label.to_owned());
        }
    }

    /// As the failure of a change stream: labelled when the stream may be opened again where it stood, and when it
    /// can't be.
    pub(crate) fn of_change_stream(mut self) -> Self {
        if RESUMABLE_CHANGE_STREAM_CODES.contains(&self.code) {
            self.label(RESUMABLE_CHANGE_STREAM_ERROR);
        } else if LOST_CHANGE_STREAM_CODES.contains(&self.code) {
            self.label(LOST_CHANGE_STREAM_ERROR);
        }
        self
    }

    /// Whether a driver may try a retryable write again after it.
    pub(crate) fn is_retryable_write(&self) -> bool {
        is_retryable_write(self.code)
    }

    /// The whole reply.
    pub(crate) fn reply(&self) -> RawDocumentBuf {
        let mut reply = RawDocumentBuf::new();
        reply.append(cstr!("ok"), 0.0);
        reply.append(cstr!("errmsg"), &*self.message);
        self.append_code(&mut reply);
        reply.append(cstr!("codeName"), &*self.name);
        self.append_info(&mut reply);
        if !self.labels.is_empty() {
            let mut labels = RawArrayBuf::new();
            self.labels.iter().for_each(|label| labels.push(&**label));
            reply.append(cstr!("errorLabels"), labels);
        }
        reply
    }

    /// An element of `writeErrors`.
    pub(crate) fn write_error(&self, index: usize) -> RawDocumentBuf {
        let mut error = RawDocumentBuf::new();
        error.append(cstr!("index"), i32::try_from(index).unwrap_or(i32::MAX));
        self.append_code(&mut error);
        error.append(cstr!("errmsg"), &*self.message);
        self.append_info(&mut error);
        error
    }

    fn append_info(&self, to: &mut RawDocumentBuf) {
        if let Some(info) = self.info.as_deref() {
            to.append(cstr!("errInfo"), info.as_ref());
        }
    }

    /// Appends code and message, as a row of a bulk write's results has them.
    pub(crate) fn append_to(&self, row: &mut RawDocumentBuf) {
        self.append_code(row);
        row.append(cstr!("errmsg"), &*self.message);
        self.append_info(row);
    }

    fn append_code(&self, to: &mut RawDocumentBuf) {
        to.append(cstr!("code"), self.code);
        if let Some((pattern, value)) = self.duplicate.as_deref() {
            to.append(cstr!("keyPattern"), pattern.as_ref());
            to.append(cstr!("keyValue"), value.as_ref());
        }
    }
}

impl From<cloudlet_data::Error> for CommandError {
    fn from(error: cloudlet_data::Error) -> Self {
        Self {
            code: error.code().number(),
            name: error.code().name().to_owned(),
            fault: error.kind(),
            message: error.to_string(),
            labels: Vec::new(),
            duplicate: error
                .duplicate()
                .map(|(pattern, value)| Box::new((pattern.to_owned(), value.to_owned()))),
            info: error.info().map(|info| Box::new(info.to_owned())),
        }
    }
}

/// A document inside a command is damaged deeper than its frame shows.
impl From<bson::error::Error> for CommandError {
    fn from(error: bson::error::Error) -> Self {
        Self::new(Code::InvalidBSON, format!("malformed BSON: {error}"))
    }
}

/// The name of a code, as far as it is known here.
pub(crate) fn name_of(code: i32) -> String {
    let known = Code::ALL.iter().find(|known| known.number() == code);
    known.map_or_else(|| format!("Location{code}"), |known| known.name().to_owned())
}

/// Whether a driver may try a retryable write again after this code.
pub(crate) fn is_retryable_write(code: i32) -> bool {
    RETRYABLE_WRITE_CODES.contains(&code)
}
