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
    /// `errInfo` of a failed validation.
    info: Option<Box<bson::RawDocumentBuf>>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $fault:ident;)*) => {
        /// MongoDB's error codes, as far as the engine gives them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// One of the numbered errors of expressions and pipeline stages, which have no name but their number.
            Location(i32),
        }

        impl Code {
            /// The number that drivers see.
            pub const fn number(self) -> i32 {
                match self { $(Code::$name => $number,)* Code::Location(number) => number }
            }

            /// The name that drivers see as `codeName`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* Code::Location(number) => location_name(number) }
            }

            /// The platform's kind of failure.
            pub const fn fault(self) -> Fault {
                match self { $(Code::$name => Fault::$fault,)* Code::Location(_) => Fault::Invalid }
            }
        }
    };
}

/// Names of the numbered codes: drivers see `Location16554`, and a name has to be there before the program runs.
macro_rules! locations {
    ($($number:literal)*) => {
        const fn location_name(number: i32) -> &'static str {
            match number { $($number => concat!("Location", $number),)* _ => "Location" }
        }
    };
}

locations! {
    13026 13027 13113 15947 15948 15952 15955 15958 15959 15969 15973 15975 15976 15981 15983 15998
    16006 16007 16020 16034 16035 16406 16410 16411 16412 16605 16610 16611 16612 16702 16755 16764 16766 16800 16801 16872
    16874 16875 16876 16877 16878 16879 16880 16882 16883 16990 17040 17041 17042 17043
    17044 17046 17047 17048 17049 17053 17080 17081 17082 17083 17124 17152 17276 18533 18534
    18535 18536 18537 18628 19782 28646 28647 28648 28650 28651 28656 28657 28664 28666
    28667 28680 28689 28690 28691 28714 28724 28725 28726 28727 28728 28729 28745 28746
    28747 28748 28749 28756 28757 28758 28759 28761 28762 28763 28764 28765 28766 28803
    28808 28809 28810 28811 28812 28818 28822 31002 31022 31023 31024 31034 31119 31254
    31393 32767 32768 34435 34443 34445 34447 34449 34450 34451 34452 34453 34454 34455
    34461 34462 34463 34464 34465 34466 34467 34468 34471 34473 36524 40060 40061 40062
    40063 40064 40065 40066 40067 40068 40075 40076 40077 40078 40079 40080 40081 40085
    40086 40087 40090 40091 40092 40093 40094 40096 40097 40101 40104 40105 40147 40149
    40156 40157 40158 40160 40168 40169 40170 40185 40191 40192 40193 40194 40195 40196
    40197 40198 40200 40201 40202 40228 40229 40230 40231 40234 40235 40236 40237 40238
    40240 40243 40244 40245 40246 40272 40323 40324 40352 40353 40386 40390 40392 40393
    40394 40395 40397 40398 40400 40414 40415 40485 40489 40515 40516 40517 40518 40520
    40521 40522 40523 40525 40535 40536 40539 40541 40542 40600 40601 40602 40684 50694
    50695 50699 50700 50752 50989 51024 51047 51080 51081 51082 51083 51104 51105 51106 51107
    51111 51132 51178 51186 51272 51276 51744 51745 51746 51747 51748 51749 51750 327391
    327392 800000 1257300 2942500 2942501 2942502 2942503 2942504 3041701 3041702 3041703 4161101 4161102 4161103
    4161105 4161109 4940400 5107200 5107201 5166302 5166303 5166304 5166305 5166401 5166402 5166405 5439008 5439009
    5439010 5439013 5439016 5439017 5626500 5654602 5687301 5787900 5787901 5787902 5787906 5787907 5787908 5788005 5788200
    5858203 5860400 5860402
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
    /// A document that has to be there is not.
    NoMatchingDocument = 47, NotFound;
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
    /// The document is gone at which a cursor on a capped collection stood.
    CappedPositionLost = 136, NotFound;
    /// A view that would be made of itself.
    GraphContainsCycle = 5, Invalid;
    /// Views on views on views, too deep.
    ViewDepthLimitExceeded = 165, Limit;
    /// What only a collection can take.
    CommandNotSupportedOnView = 166, Invalid;
    /// An option, or a stage, that makes no sense of a view.
    OptionNotSupportedOnView = 167, Invalid;
    /// A document that its collection's validator refuses.
    DocumentValidationFailure = 121, Invalid;
    /// A name that is no expression or accumulator.
    InvalidPipelineOperator = 168, Invalid;
    /// Two arrays in one compound key.
    CannotIndexParallelArrays = 171, Invalid;
    /// An index specification with an option that there is not.
    InvalidIndexSpecificationOption = 197, Invalid;
    /// What an index was being made for is gone.
    IndexBuildAborted = 276, Conflict;
    /// No index can serve a query that needs one, or the one it names can't.
    NoQueryExecutionPlans = 291, Invalid;
    /// An operator where it may not be, such as `$expr` inside of `$elemMatch`.
    QueryFeatureNotAllowed = 224, Invalid;
    /// Pipelines in pipelines in pipelines, too deep.
    MaxSubPipelineDepthExceeded = 232, Limit;
    /// A value that can't be converted to the type asked for.
    ConversionFailure = 241, Invalid;
    /// A document over 16 MiB or nested deeper than 100.
    BSONObjectTooLarge = 10334, Limit;
    /// A unique index has the key already.
    DuplicateKey = 11000, Conflict;
    /// A scan, sort or result over its limit.
    QueryExceededMemoryLimitNoDiskUseAllowed = 292, Limit;
    /// The node is busy: a queue is full.
    TooManyRequests = 462, Busy;
    /// Another operation changed the same document: the transaction may be run again.
    WriteConflict = 112, Conflict;
    /// The transaction has ended, or never began.
    NoSuchTransaction = 251, NotFound;
    /// A statement that may not be part of a transaction.
    OperationNotSupportedInTransaction = 263, Invalid;
    /// A resume token that is none, or of another database.
    InvalidResumeToken = 260, Invalid;
    /// A change stream that can't go on and can't be resumed as it is.
    ChangeStreamFatalError = 280, Invalid;
    /// The change log was trimmed past the place where a stream would go on.
    ChangeStreamHistoryLost = 286, NotFound;
    /// A transaction changed more than it may.
    TransactionTooLarge = 257, Limit;
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
            info: None,
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
            info: None,
        }
    }

    /// An error with what drivers show as `errInfo`.
    pub(crate) fn with_info(code: Code, message: impl Into<String>, info: bson::RawDocumentBuf) -> Self {
        Self {
            info: Some(Box::new(info)),
            ..Self::new(code, message)
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

    /// `errInfo` of a failed validation: `{failingDocumentId, details}`.
    pub fn info(&self) -> Option<&bson::RawDocument> {
        self.info.as_deref().map(AsRef::as_ref)
    }

    /// `keyPattern` and `keyValue` of a duplicate key error.
    pub fn duplicate(&self) -> Option<(&bson::RawDocument, &bson::RawDocument)> {
        self.duplicate.as_deref().map(|(p, v)| (p.as_ref(), v.as_ref()))
    }
}

/// The result of a database operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
