//! An app's data as one principal may see them.

use std::collections::HashMap;
use std::sync::Arc;

use bson::RawDocumentBuf;
use cloudlet_base::{AppId, Deadline, Fault, Principal};

use crate::rules::Rule;
use crate::{Cursor, Delete, Deleted, Documents, Error, Find, Insert, Inserted, Page, Update, Updated};

/// Why an operation under rules failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The rule refuses it.
    #[error("{0}")]
    Denied(String),
    /// The database refused or failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl AccessError {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            AccessError::Denied(_) => Fault::Denied,
            AccessError::Database(error) => error.kind(),
        }
    }
}

/// One app's data and rules. Cheap to clone.
#[derive(Clone)]
pub struct AppData {
    /// The app.
    pub app: AppId,
    /// The database.
    pub documents: Arc<dyn Documents>,
    /// The rule of each collection; a collection that is not here is [`Rule::AdminOnly`].
    pub rules: Arc<HashMap<String, Rule>>,
}

impl AppData {
    /// The data as `principal` may see them. Functions and admins are not bound by rules.
    pub fn session(&self, principal: Principal) -> Session {
        Session {
            data: self.clone(),
            principal,
        }
    }
}

/// An app's data as one principal may see them: every operation is checked against the collection's rule, queries
/// are narrowed by it, and `_openid` is stamped on what a user creates.
pub struct Session {
    data: AppData,
    principal: Principal,
}

#[expect(unused_variables, reason = "being built")]
impl Session {
    /// Who asks.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// A query; foreign documents are left out.
    pub async fn find(&self, collection: &str, find: Find, deadline: Deadline) -> Result<Page, AccessError> {
        let _ = &self.data;
        todo!()
    }

    /// The next page of a query of this session.
    pub async fn next_page(
        &self,
        cursor: Cursor,
        batch: Option<u32>,
        deadline: Deadline,
    ) -> Result<Page, AccessError> {
        todo!()
    }

    /// Counts the documents that the principal may read.
    pub async fn count(
        &self,
        collection: &str,
        filter: RawDocumentBuf,
        deadline: Deadline,
    ) -> Result<u64, AccessError> {
        todo!()
    }

    /// Inserts; a user's documents get `_openid`, and one that brings its own is refused.
    pub async fn insert(
        &self,
        collection: &str,
        insert: Insert,
        deadline: Deadline,
    ) -> Result<Inserted, AccessError> {
        todo!()
    }

    /// Updates; foreign documents do not match, and `_openid` can't be changed by a user.
    pub async fn update(
        &self,
        collection: &str,
        update: Update,
        deadline: Deadline,
    ) -> Result<Updated, AccessError> {
        todo!()
    }

    /// Deletes; foreign documents do not match.
    pub async fn delete(
        &self,
        collection: &str,
        delete: Delete,
        deadline: Deadline,
    ) -> Result<Deleted, AccessError> {
        todo!()
    }
}
