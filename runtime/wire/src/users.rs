//! Who may log in: users as documents of the platform, with credentials that hold no password. A user belongs to a
//! database, its authentication source, and has roles on any.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{
    Binary, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc, spec::BinarySubtype,
};
use cloudlet_base::{Deadline, Entropy};
use cloudlet_data::{Delete, DeleteOne, Documents, Find, Insert, Namespace, Update, UpdateOne};

use crate::error::{Code, CommandError, Result};
use crate::roles::{Grant, Need};
use crate::scram::{Credential, Mechanism};

/// Most users of the node, so that listing them is one page.
const USERS_MAX: usize = 10_000;
/// Longest name of a user, bytes.
const NAME_BYTES_MAX: usize = 1024;

/// A user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct User {
    pub(crate) db: String,
    pub(crate) name: String,
    /// A UUID that a user of the same name made later does not have.
    pub(crate) id: [u8; 16],
    pub(crate) credentials: Vec<(Mechanism, Credential)>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) custom_data: Option<RawDocumentBuf>,
}

impl User {
    /// Whether one of the roles allows something on a database.
    pub(crate) fn allows(&self, need: Need, db: &str) -> bool {
        self.grants.iter().any(|grant| grant.allows(need, db))
    }

    /// Whether one of the roles allows something on every database.
    pub(crate) fn allows_everywhere(&self, need: Need) -> bool {
        self.grants.iter().any(|grant| grant.allows_everywhere(need))
    }

    /// The name with its database, unique on the node.
    pub(crate) fn full_name(&self) -> String {
        full_name(&self.db, &self.name)
    }

    /// The user as `usersInfo` shows it: without credentials.
    pub(crate) fn shown(&self) -> RawDocumentBuf {
        let mut shown = rawdoc! {
            "_id": self.full_name(),
            "userId": uuid(self.id),
            "user": &*self.name,
            "db": &*self.db,
        };
        if let Some(data) = &self.custom_data {
            shown.append(cstr!("customData"), data);
        }
        shown.append(cstr!("roles"), self.shown_roles());
        let mut mechanisms = RawArrayBuf::new();
        self.credentials
            .iter()
            .for_each(|(mechanism, _)| mechanisms.push(mechanism.name()));
        shown.append(cstr!("mechanisms"), mechanisms);
        shown
    }

    /// `[{role, db}]`.
    pub(crate) fn shown_roles(&self) -> RawArrayBuf {
        let mut roles = RawArrayBuf::new();
        for grant in &self.grants {
            roles.push(rawdoc! { "role": grant.role.name(), "db": &*grant.db });
        }
        roles
    }

    fn stored(&self) -> RawDocumentBuf {
        let mut credentials = RawDocumentBuf::new();
        for (mechanism, credential) in &self.credentials {
            let name = match mechanism {
                Mechanism::Sha1 => cstr!("SCRAM-SHA-1"),
                Mechanism::Sha256 => cstr!("SCRAM-SHA-256"),
            };
            let iterations = i64::from(credential.iterations);
            let stored = rawdoc! {
                "iterations": iterations,
                "salt": binary(&credential.salt),
                "storedKey": binary(&credential.stored_key),
                "serverKey": binary(&credential.server_key),
            };
            credentials.append(name, stored);
        }
        let mut stored = rawdoc! {
            "_id": self.full_name(),
            "userId": uuid(self.id),
            "user": &*self.name,
            "db": &*self.db,
            "credentials": credentials,
        };
        stored.append(cstr!("roles"), self.shown_roles());
        if let Some(data) = &self.custom_data {
            stored.append(cstr!("customData"), data);
        }
        stored
    }

    fn parse(stored: &RawDocument) -> Option<Self> {
        let bytes = |of: &RawDocument, name: &str| Some(of.get_binary(name).ok()?.bytes.to_vec());
        let mut credentials = Vec::new();
        for field in stored.get_document("credentials").ok()?.iter() {
            let (name, value) = field.ok()?;
            let value = value.as_document()?;
            let credential = Credential {
                iterations: u32::try_from(value.get_i64("iterations").ok()?).ok()?,
                salt: bytes(value, "salt")?,
                stored_key: bytes(value, "storedKey")?,
                server_key: bytes(value, "serverKey")?,
            };
            credentials.push((Mechanism::from_name(name.as_str())?, credential));
        }
        let mut grants = Vec::new();
        for role in stored.get_array("roles").ok()? {
            let role = role.ok()?.as_document()?;
            grants.push(Grant::parse(
                role.get_str("role").ok()?,
                role.get_str("db").ok()?,
            )?);
        }
        Some(Self {
            db: stored.get_str("db").ok()?.to_owned(),
            name: stored.get_str("user").ok()?.to_owned(),
            id: bytes(stored, "userId")?.try_into().ok()?,
            credentials,
            grants,
            custom_data: stored.get_document("customData").ok().map(ToOwned::to_owned),
        })
    }
}

/// The users of the node.
pub(crate) struct Users {
    documents: Arc<dyn Documents>,
    ns: Namespace,
    /// Counts changes, so that connections know when to look again.
    generation: AtomicU64,
    /// What the credentials of users that do not exist are made from.
    secret: [u8; 32],
}

impl Users {
    /// Opens the users' collection, making the node's secret at the first start.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn open(documents: Arc<dyn Documents>, entropy: &dyn Entropy) -> Result<Self> {
        let keys = Namespace::new("/node", "keys");
        let find = || Find {
            filter: rawdoc! { "_id": "mongo users" },
            ..Find::default()
        };
        let mut page = documents.find(&keys, find(), Deadline::NEVER).await?;
        if page.documents.is_empty() {
            let mut fresh = [0; 32];
            entropy.fill(&mut fresh);
            let insert = Insert {
                documents: vec![rawdoc! { "_id": "mongo users", "key": binary(&fresh) }],
                ordered: true,
                ..Insert::default()
            };
            // Another may have been faster; the key that is stored counts.
            documents.insert(&keys, insert, Deadline::NEVER).await?;
            page = documents.find(&keys, find(), Deadline::NEVER).await?;
        }
        let secret = page
            .documents
            .first()
            .and_then(|document| <[u8; 32]>::try_from(document.get_binary("key").ok()?.bytes).ok())
            .ok_or_else(|| CommandError::new(Code::BadValue, "the node's key \"mongo users\" is damaged"))?;
        Ok(Self {
            documents,
            ns: Namespace::new("/node", "mongo_users"),
            generation: AtomicU64::new(1),
            secret,
        })
    }

    /// Which state of the users this is; changes with every change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A user, if there is one.
    pub(crate) async fn get(&self, db: &str, name: &str) -> Result<Option<User>> {
        let users = self.find(rawdoc! { "_id": full_name(db, name) }).await?;
        Ok(users.into_iter().next())
    }

    /// The users of a database, or all.
    pub(crate) async fn list(&self, db: Option<&str>) -> Result<Vec<User>> {
        let filter = db.map_or_else(RawDocumentBuf::new, |db| rawdoc! { "db": db });
        self.find(filter).await
    }

    async fn find(&self, filter: RawDocumentBuf) -> Result<Vec<User>> {
        let find = Find {
            filter,
            batch: u32::try_from(USERS_MAX).ok(),
            ..Find::default()
        };
        let page = self.documents.find(&self.ns, find, Deadline::NEVER).await?;
        page.documents
            .iter()
            .map(|stored| {
                User::parse(stored)
                    .ok_or_else(|| CommandError::new(Code::BadValue, "the document of a user is damaged"))
            })
            .collect()
    }

    /// What a login of that name is checked against; of nobody when there is no such user or mechanism.
    pub(crate) fn credential(
        &self,
        user: Option<&User>,
        db: &str,
        name: &str,
        mechanism: Mechanism,
    ) -> Credential {
        let nobody = Credential::of_nobody(mechanism, &self.secret, &full_name(db, name));
        let known = user
            .and_then(|user| user.credentials.iter().find(|(known, _)| *known == mechanism))
            .map(|(_, credential)| credential.clone());
        known.unwrap_or(nobody)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// When there is one of that name, or too many, or the name is not allowed.
    pub(crate) async fn create(&self, user: &User) -> Result<()> {
        check_name(&user.name)?;
        let count = self
            .documents
            .count(&self.ns, Find::default(), Deadline::NEVER)
            .await?;
        if usize::try_from(count).unwrap_or(usize::MAX) >= USERS_MAX {
            let message = format!("there are {count} users, and at most {USERS_MAX} may be");
            return Err(CommandError::new(Code::InvalidLength, message));
        }
        let insert = Insert {
            documents: vec![user.stored()],
            ordered: true,
            ..Insert::default()
        };
        let mut done = self.documents.insert(&self.ns, insert, Deadline::NEVER).await?;
        self.changed();
        match done.errors.pop() {
            None => Ok(()),
            Some(failed) if failed.error.code() == cloudlet_data::Code::DuplicateKey => {
                let message = format!("User \"{}@{}\" already exists", user.name, user.db);
                Err(CommandError::new(Code::Location51003, message))
            }
            Some(failed) => Err(failed.error.into()),
        }
    }

    /// Replaces a user.
    ///
    /// # Errors
    /// `UserNotFound` when there is none of that name.
    pub(crate) async fn replace(&self, user: &User) -> Result<()> {
        let update = Update {
            statements: vec![UpdateOne {
                filter: rawdoc! { "_id": user.full_name() },
                update: user.stored(),
                multi: false,
                upsert: false,
                ..UpdateOne::default()
            }],
            ordered: true,
            ..Update::default()
        };
        let mut done = self.documents.update(&self.ns, update, Deadline::NEVER).await?;
        self.changed();
        match done.errors.pop() {
            Some(failed) => Err(failed.error.into()),
            None if done.matched == 0 => Err(not_found(&user.db, &user.name)),
            None => Ok(()),
        }
    }

    /// Removes a user, or all of a database; returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn remove(&self, db: &str, name: Option<&str>) -> Result<u64> {
        let filter = match name {
            Some(name) => rawdoc! { "_id": full_name(db, name) },
            None => rawdoc! { "db": db },
        };
        let delete = Delete {
            statements: vec![DeleteOne {
                filter,
                multi: true,
                ..DeleteOne::default()
            }],
            ordered: true,
        };
        let done = self.documents.delete(&self.ns, delete, Deadline::NEVER).await?;
        self.changed();
        Ok(done.deleted)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// The error for a user that is not there.
pub(crate) fn not_found(db: &str, name: &str) -> CommandError {
    CommandError::new(Code::UserNotFound, format!("User '{name}@{db}' not found"))
}

/// Derives the credentials of a password, off the threads that serve connections.
///
/// # Errors
/// When the password is not allowed.
pub(crate) async fn derive(
    entropy: &dyn Entropy,
    name: &str,
    password: &str,
    mechanisms: Vec<Mechanism>,
) -> Result<Vec<(Mechanism, Credential)>> {
    let salts: Vec<(Mechanism, Vec<u8>)> = mechanisms
        .into_iter()
        .map(|mechanism| {
            let mut salt = vec![0; mechanism.salt_bytes()];
            entropy.fill(&mut salt);
            (mechanism, salt)
        })
        .collect();
    let (name, password) = (name.to_owned(), password.to_owned());
    let derived = tokio::task::spawn_blocking(move || {
        salts
            .into_iter()
            .map(|(mechanism, salt)| Ok((mechanism, Credential::derive(mechanism, &name, &password, salt)?)))
            .collect::<Result<Vec<_>, &'static str>>()
    });
    match derived.await {
        Ok(Ok(credentials)) => Ok(credentials),
        Ok(Err(why)) => Err(CommandError::new(Code::BadValue, why)),
        Err(_) => Err(CommandError::new(
            Code::ShutdownInProgress,
            "the node is being shut down",
        )),
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        let message = format!("a user's name has 1 to {NAME_BYTES_MAX} bytes and no NUL");
        return Err(CommandError::new(Code::BadValue, message));
    }
    Ok(())
}

fn full_name(db: &str, name: &str) -> String {
    format!("{db}.{name}")
}

fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

pub(crate) fn uuid(bytes: [u8; 16]) -> Binary {
    Binary {
        subtype: BinarySubtype::Uuid,
        bytes: bytes.to_vec(),
    }
}

/// Reads `roles: ["read", {role: "read", db: "other"}]`.
///
/// # Errors
/// `RoleNotFound` for a role that there is not.
pub(crate) fn parse_roles(roles: &bson::RawArray, db: &str) -> Result<Vec<Grant>> {
    let mut grants = Vec::new();
    for role in roles {
        let (name, on) = match role? {
            RawBsonRef::String(name) => (name, db),
            RawBsonRef::Document(role) => {
                let part = |name: &str| {
                    role.get_str(name).map_err(|_| {
                        CommandError::new(Code::BadValue, "a role is a name or {role: NAME, db: DATABASE}")
                    })
                };
                (part("role")?, part("db")?)
            }
            _ => {
                return Err(CommandError::new(
                    Code::BadValue,
                    "a role is a name or {role: NAME, db: DATABASE}",
                ));
            }
        };
        let grant = Grant::parse(name, on).ok_or_else(|| {
            CommandError::new(Code::RoleNotFound, format!("Could not find role: {name}@{on}"))
        })?;
        if !grants.contains(&grant) {
            grants.push(grant);
        }
    }
    Ok(grants)
}
