//! An app's data as one principal may see them.

use std::collections::HashMap;
use std::sync::Arc;

use bson::RawDocumentBuf;
use cloudlet_base::{AppId, Deadline, Fault, Principal};

use crate::client;
use crate::documents::is_platform_collection;
use crate::rules::{Action, Rule, Verdict};
use crate::{
    Aggregate, Cursor, Delete, DeleteOne, Deleted, Documents, Error, Find, FindAndModify, Insert, Inserted,
    Modified, Namespace, Page, Update, UpdateOne, Updated, WriteError,
};

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
    /// The data as `principal` may see them. Functions of this app and admins are not bound by rules; a user or a
    /// function of another app counts as [`Principal::Public`].
    pub fn session(&self, principal: Principal) -> Session {
        let standing = match &principal {
            Principal::Admin { .. } => Standing::Unbound,
            Principal::Function { app, .. } if *app == self.app => Standing::Unbound,
            Principal::User(user) if user.app == self.app => Standing::Owner(user.owner_id().into()),
            Principal::Function { .. } | Principal::User(_) | Principal::Public => Standing::Stranger,
        };
        Session {
            data: self.clone(),
            principal,
            standing,
        }
    }
}

/// What the principal is to this app.
enum Standing {
    /// Rules do not bind it.
    Unbound,
    /// A user of this app, with the owner id.
    Owner(Arc<str>),
    /// Anybody else.
    Stranger,
}

/// An app's data as one principal may see them: every operation is checked against the collection's rule, queries
/// are narrowed by it, and `_openid` is stamped on what a user creates.
///
/// A client's statement never reads, changes or removes a document that the rule keeps from it: such a document
/// does not match. What a client can learn of a foreign document is that its `_id` (or another unique key) is
/// taken, by trying to create the same; the error tells nothing else.
///
/// A document belongs to the user in its `_openid`, which is a string unless a function or an admin stored
/// something else there; with an array, MongoDB's matching makes it belong to everybody in it.
pub struct Session {
    data: AppData,
    principal: Principal,
    standing: Standing,
}

impl Session {
    /// Who asks.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// A query; foreign documents are left out. In a client's filter the string `{openid}` stands for its own
    /// owner id, here and in every other operation.
    ///
    /// # Errors
    /// [`AccessError::Denied`] when the rule lets this caller read nothing; otherwise the database's.
    pub async fn find(
        &self,
        collection: &str,
        mut find: Find,
        deadline: Deadline,
    ) -> Result<Page, AccessError> {
        find.filter = self.narrowed(collection, Action::Read, find.filter)?;
        Ok(self
            .data
            .documents
            .find(&self.namespace(collection), find, deadline)
            .await?)
    }

    /// The next page of a query of this session; the cursor carries the query as it was narrowed.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_page(
        &self,
        cursor: Cursor,
        batch: Option<u32>,
        deadline: Deadline,
    ) -> Result<Page, AccessError> {
        Ok(self.data.documents.next_page(cursor, batch, deadline).await?)
    }

    /// Runs an aggregation over the documents that the principal may read. A client's stages may not read or write
    /// any other collection.
    ///
    /// # Errors
    /// [`AccessError::Denied`] when the rule lets this caller read nothing, when a client uses a stage that reaches
    /// beyond the collection, and when anybody's `$out` or `$merge` names another database; otherwise the database's.
    pub async fn aggregate(
        &self,
        collection: &str,
        mut aggregate: Aggregate,
        deadline: Deadline,
    ) -> Result<Page, AccessError> {
        client::check_targets(&aggregate.pipeline, self.data.app.as_str())?;
        if self.is_bound() {
            client::check_stages(&aggregate.pipeline)?;
            if let Some(owner) = self.owner() {
                let swapped = aggregate
                    .pipeline
                    .into_iter()
                    .map(|stage| client::swap_owner(stage, owner));
                aggregate.pipeline = swapped.collect::<Result<_, _>>()?;
            }
            let rule = self.narrowed(collection, Action::Read, RawDocumentBuf::new())?;
            client::begin_with_rule(&mut aggregate.pipeline, rule)?;
        }
        Ok(self
            .data
            .documents
            .aggregate(&self.namespace(collection), aggregate, deadline)
            .await?)
    }

    /// Counts the documents that the principal may read.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn count(
        &self,
        collection: &str,
        filter: RawDocumentBuf,
        deadline: Deadline,
    ) -> Result<u64, AccessError> {
        let find = Find {
            filter: self.narrowed(collection, Action::Read, filter)?,
            ..Find::default()
        };
        Ok(self
            .data
            .documents
            .count(&self.namespace(collection), find, deadline)
            .await?)
    }

    /// Inserts; a user's documents get `_openid`, and one that brings its own is refused, before anything is
    /// written.
    ///
    /// # Errors
    /// [`AccessError::Denied`] when the rule or a document's `_openid` forbids it; otherwise the database's.
    pub async fn insert(
        &self,
        collection: &str,
        mut insert: Insert,
        deadline: Deadline,
    ) -> Result<Inserted, AccessError> {
        if self.is_bound() {
            for document in &mut insert.documents {
                let owner = self.creator(collection, document)?;
                *document = client::stamp_insert(document, owner)?;
            }
        }
        let mut inserted = self
            .data
            .documents
            .insert(&self.namespace(collection), insert, deadline)
            .await
            .map_err(|error| self.visible(error))?;
        self.redact_all(&mut inserted.errors);
        Ok(inserted)
    }

    /// Updates; foreign documents do not match, and `_openid` can't be changed by a user: a replacement keeps it.
    ///
    /// # Errors
    /// [`AccessError::Denied`] when the rule forbids it or a statement writes `_openid`, before anything is
    /// written; otherwise the database's.
    pub async fn update(
        &self,
        collection: &str,
        mut update: Update,
        deadline: Deadline,
    ) -> Result<Updated, AccessError> {
        if self.is_bound() {
            let guarded = update.statements.into_iter().map(|s| self.guarded(collection, s));
            update.statements = guarded.collect::<Result<_, _>>()?;
        }
        let mut updated = self
            .data
            .documents
            .update(&self.namespace(collection), update, deadline)
            .await
            .map_err(|error| self.visible(error))?;
        self.redact_all(&mut updated.errors);
        Ok(updated)
    }

    /// Deletes; foreign documents do not match.
    ///
    /// # Errors
    /// [`AccessError::Denied`] when the rule forbids it; otherwise the database's.
    pub async fn delete(
        &self,
        collection: &str,
        mut delete: Delete,
        deadline: Deadline,
    ) -> Result<Deleted, AccessError> {
        let narrowed = delete.statements.into_iter().map(|statement| {
            Ok::<_, AccessError>(DeleteOne {
                filter: self.narrowed(collection, Action::Delete, statement.filter)?,
                ..statement
            })
        });
        delete.statements = narrowed.collect::<Result<_, _>>()?;
        Ok(self
            .data
            .documents
            .delete(&self.namespace(collection), delete, deadline)
            .await?)
    }

    /// Changes at most one document and returns it, under the same rules as [`update`](Self::update) or
    /// [`delete`](Self::delete) and [`find`](Self::find).
    ///
    /// # Errors
    /// As those.
    pub async fn find_and_modify(
        &self,
        collection: &str,
        mut modify: FindAndModify,
        deadline: Deadline,
    ) -> Result<Modified, AccessError> {
        if self.is_bound() {
            modify.filter = self.narrowed(collection, Action::Read, modify.filter)?;
            match modify.update {
                Some(update) => {
                    let statement = UpdateOne {
                        filter: modify.filter,
                        update,
                        multi: false,
                        upsert: modify.upsert,
                        ..UpdateOne::default()
                    };
                    let guarded = self.guarded(collection, statement)?;
                    modify.filter = guarded.filter;
                    modify.update = Some(guarded.update);
                }
                None => modify.filter = self.narrowed(collection, Action::Delete, modify.filter)?,
            }
        }
        let namespace = self.namespace(collection);
        let modified = self
            .data
            .documents
            .find_and_modify(&namespace, modify, deadline)
            .await;
        modified.map_err(|error| self.visible(error))
    }

    fn namespace(&self, collection: &str) -> Namespace {
        Namespace::new(self.data.app.as_str(), collection)
    }

    fn is_bound(&self) -> bool {
        !matches!(self.standing, Standing::Unbound)
    }

    fn owner(&self) -> Option<&str> {
        match &self.standing {
            Standing::Owner(owner) => Some(owner),
            Standing::Unbound | Standing::Stranger => None,
        }
    }

    fn rule(&self, collection: &str) -> &Rule {
        const CLOSED: &Rule = &Rule::AdminOnly;
        if is_platform_collection(collection) {
            return CLOSED;
        }
        self.data.rules.get(collection).unwrap_or(CLOSED)
    }

    /// The filter of what matches and may be acted on.
    fn narrowed(
        &self,
        collection: &str,
        action: Action,
        filter: RawDocumentBuf,
    ) -> Result<RawDocumentBuf, AccessError> {
        if !self.is_bound() {
            return Ok(filter);
        }
        let filter = match self.owner() {
            Some(owner) => client::swap_owner(filter, owner)?,
            None => filter,
        };
        match self.rule(collection).on(action, self.owner()) {
            Verdict::Allow => Ok(filter),
            Verdict::Deny => Err(self.denied(collection, action)),
            Verdict::Narrow(rule) => client::both(rule, &filter),
        }
    }

    /// A client's update statement under the rule.
    fn guarded(&self, collection: &str, statement: UpdateOne) -> Result<UpdateOne, AccessError> {
        let rule = self.rule(collection);
        match (rule.on(Action::Update, self.owner()), self.owner()) {
            (Verdict::Narrow(narrow), Some(owner)) => {
                if statement.upsert {
                    self.creator(collection, &statement.update)?;
                }
                client::guard_update(statement, narrow, owner)
            }
            // No preset lets a client update documents that are not its own. A rule expression that does will
            // have to say how a replacement keeps the stored owner; until then it is closed.
            (Verdict::Narrow(_) | Verdict::Allow | Verdict::Deny, _) => {
                Err(self.denied(collection, Action::Update))
            }
        }
    }

    /// The owner id to stamp on `document`, which the caller may create.
    fn creator(&self, collection: &str, document: &bson::RawDocument) -> Result<&str, AccessError> {
        let rule = self.rule(collection);
        match self.owner() {
            Some(owner) if rule.create(Some(owner), document) => Ok(owner),
            _ => Err(self.refusal(collection, "create documents in")),
        }
    }

    fn denied(&self, collection: &str, action: Action) -> AccessError {
        self.refusal(
            collection,
            match action {
                Action::Read => "read",
                Action::Update => "update",
                Action::Delete => "delete from",
            },
        )
    }

    fn refusal(&self, collection: &str, verb: &str) -> AccessError {
        let rule = self.rule(collection);
        let hint = match (rule, self.owner()) {
            (Rule::ReadOnly | Rule::Private, None) => "; log in first",
            _ => "",
        };
        AccessError::Denied(format!(
            "rule {rule} does not let this caller {verb} collection {collection:?}{hint}"
        ))
    }

    /// An error as this principal may see it.
    fn visible(&self, error: Error) -> AccessError {
        if self.is_bound() {
            client::redact(error).into()
        } else {
            error.into()
        }
    }

    fn redact_all(&self, errors: &mut [WriteError]) {
        if self.is_bound() {
            for failed in errors {
                failed.error = client::redact(failed.error.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
