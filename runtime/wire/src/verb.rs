//! The commands there are: their names and what each needs of its caller.

use crate::roles::Need;

macro_rules! verbs {
    ($($name:ident = $text:literal $(| $alias:literal)*, $need:ident;)*) => {
        /// A command.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Verb { $($name),* }

        impl Verb {
            /// The command of that name. Names are case-sensitive, as in MongoDB.
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text $(| $alias)* => Some(Verb::$name),)*
                    _ => None,
                }
            }

            /// Its name, the first of several; the label in metrics.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Verb::$name => $text),* }
            }

            /// What it needs on the database that it is sent to.
            pub(crate) const fn need(self) -> Need {
                match self { $(Verb::$name => Need::$need),* }
            }
        }
    };
}

verbs! {
    Hello = "hello" | "isMaster" | "ismaster", Nothing;
    Ping = "ping", Nothing;
    BuildInfo = "buildInfo" | "buildinfo", Nothing;
    SaslStart = "saslStart", Nothing;
    SaslContinue = "saslContinue", Nothing;
    Authenticate = "authenticate", Nothing;
    Logout = "logout", Nothing;
    ConnectionStatus = "connectionStatus", Nothing;
    WhatsMyUri = "whatsmyuri", Nothing;
    EndSessions = "endSessions", Nothing;
    Find = "find", Read;
    GetMore = "getMore", Login;
    KillCursors = "killCursors", Login;
    Count = "count", Read;
    Distinct = "distinct", Read;
    Aggregate = "aggregate", Read;
    Explain = "explain", Read;
    Insert = "insert", Write;
    Update = "update", Write;
    Delete = "delete", Write;
    FindAndModify = "findAndModify" | "findandmodify", Write;
    BulkWrite = "bulkWrite", Login;
    Create = "create", Write;
    CollMod = "collMod", Write;
    ConvertToCapped = "convertToCapped", Write;
    Drop = "drop", Write;
    DropDatabase = "dropDatabase", Admin;
    RenameCollection = "renameCollection", Login;
    ListCollections = "listCollections", Read;
    ListDatabases = "listDatabases", Login;
    CreateIndexes = "createIndexes", Write;
    ListIndexes = "listIndexes", Read;
    DropIndexes = "dropIndexes" | "deleteIndexes", Write;
    SearchIndexes = "createSearchIndexes" | "updateSearchIndex" | "dropSearchIndex", Write;
    DbStats = "dbStats" | "dbstats", Read;
    CollStats = "collStats" | "collstats", Read;
    Validate = "validate", Admin;
    Profile = "profile", Admin;
    CheckMetadata = "checkMetadataConsistency", Admin;
    StartSession = "startSession", Login;
    RefreshSessions = "refreshSessions", Login;
    KillSessions = "killSessions", Login;
    KillAllSessions = "killAllSessions", Cluster;
    KillAllSessionsByPattern = "killAllSessionsByPattern", Cluster;
    CommitTransaction = "commitTransaction", Login;
    AbortTransaction = "abortTransaction", Login;
    CreateUser = "createUser", Users;
    UpdateUser = "updateUser", Login;
    DropUser = "dropUser", Users;
    DropAllUsers = "dropAllUsersFromDatabase", Users;
    GrantRoles = "grantRolesToUser", Users;
    RevokeRoles = "revokeRolesFromUser", Users;
    UsersInfo = "usersInfo", Login;
    GetParameter = "getParameter", Monitor;
    SetParameter = "setParameter", Cluster;
    GetCmdLineOpts = "getCmdLineOpts", Monitor;
    ServerStatus = "serverStatus", Monitor;
    HostInfo = "hostInfo", Monitor;
    GetLog = "getLog", Monitor;
    Top = "top", Monitor;
    CurrentOp = "currentOp", Login;
    KillOp = "killOp", Login;
    Fsync = "fsync", Cluster;
    ConfigureFailPoint = "configureFailPoint", Cluster;
}

impl Verb {
    /// Whether the write concern means something to it.
    pub(crate) fn is_write(self) -> bool {
        self.is_retryable()
            || matches!(
                self,
                Verb::Create
                    | Verb::CollMod
                    | Verb::ConvertToCapped
                    | Verb::Drop
                    | Verb::DropDatabase
                    | Verb::RenameCollection
                    | Verb::CreateIndexes
                    | Verb::DropIndexes
                    | Verb::CreateUser
                    | Verb::UpdateUser
                    | Verb::DropUser
                    | Verb::CommitTransaction
                    | Verb::AbortTransaction
            )
    }

    /// Whether the profiler writes it down: not what connections are kept up with.
    pub(crate) fn is_profiled(self) -> bool {
        self.need() != Need::Nothing && self != Verb::Profile
    }

    /// Whether it may be sent again under its number.
    pub(crate) fn is_retryable(self) -> bool {
        matches!(
            self,
            Verb::Insert | Verb::Update | Verb::Delete | Verb::FindAndModify | Verb::BulkWrite
        )
    }
}
