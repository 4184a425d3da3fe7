//! Search indexes: a service beside MongoDB, not a part of the server. A server without it says so, and drivers look for
//! its name in what it says.

use bson::RawDocumentBuf;

use crate::error::{Code, CommandError, Result};

/// `createSearchIndexes`, `updateSearchIndex`, `dropSearchIndex`, and the stage `$listSearchIndexes`.
pub(crate) fn refused() -> Result<RawDocumentBuf> {
    Err(not_enabled())
}

/// The error of everything about search indexes.
pub(crate) fn not_enabled() -> CommandError {
    CommandError::new(
        Code::SearchNotEnabled,
        "search indexes are not supported here: they are a service of MongoDB Atlas",
    )
}
