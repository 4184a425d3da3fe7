//! The façade.

use std::sync::Arc;
use std::time::Duration;

use cloudlet_base::{AppId, Clock, Entropy, Fault, LoginType, Principal, Timestamp};
use cloudlet_data::Documents;

/// Why an identity operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong username or password; which of the two is not told.
    #[error("wrong username or password")]
    WrongPassword,
    /// A token that is malformed, forged, of another app or revoked.
    #[error("invalid token: {0}")]
    InvalidToken(&'static str),
    /// A token whose time is over.
    #[error("the token has expired")]
    ExpiredToken,
    /// A username, password or other value that can't be used.
    #[error("{0}")]
    Invalid(String),
    /// The username is taken.
    #[error("the username {0:?} is taken")]
    UsernameTaken(String),
    /// The app does not offer this way to log in.
    #[error("this app does not offer {0} login")]
    LoginDisabled(&'static str),
    /// Too many logins are being checked at once, or too many failed.
    #[error("too many login attempts; try again in {retry_after_s} s")]
    Busy {
        /// Seconds to wait.
        retry_after_s: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cloudlet_data::Error),
    /// A bug or a broken key store.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The platform's kind of failure.
    pub fn kind(&self) -> Fault {
        match self {
            Error::WrongPassword | Error::InvalidToken(_) | Error::ExpiredToken => Fault::Unauthenticated,
            Error::Invalid(_) => Fault::Invalid,
            Error::UsernameTaken(_) => Fault::Conflict,
            Error::LoginDisabled(_) => Fault::Denied,
            Error::Busy { .. } => Fault::Busy,
            Error::Database(error) => error.kind(),
            Error::Internal(_) => Fault::Internal,
        }
    }
}

/// Lifetimes and costs.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// How long an access token is good.
    pub access_ttl: Duration,
    /// How long a refresh token is good after its last use.
    pub refresh_ttl: Duration,
    /// Password hashes computed at once, at most; further logins are told to wait.
    pub password_permits: usize,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            access_ttl: Duration::from_secs(2 * 3600),
            refresh_ttl: Duration::from_secs(30 * 24 * 3600),
            password_permits: 4,
        }
    }
}

/// What a login gives.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The signed access token (JWT).
    pub access_token: String,
    /// The refresh token, good for one use.
    pub refresh_token: String,
    /// Seconds until the access token expires.
    pub expires_in_s: u64,
    /// The user.
    pub uid: Arc<str>,
    /// How the user logged in.
    pub login: LoginType,
}

/// A user to register.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// 1 to 64 bytes, compared exactly.
    pub username: String,
    /// 8 to 256 bytes.
    pub password: String,
    /// Display name.
    pub name: Option<String>,
}

/// What `me` tells.
#[derive(Debug, Clone)]
pub struct UserInfo {
    /// The user's id.
    pub uid: Arc<str>,
    /// The mini program's id of the user.
    pub openid: Option<Arc<str>>,
    /// The username, when there is one.
    pub username: Option<String>,
    /// Display name.
    pub name: Option<String>,
    /// How the user first came.
    pub login: LoginType,
    /// When the user was made.
    pub created: Timestamp,
}

/// An admin key as listed; the secret part is only ever shown once.
#[derive(Debug, Clone)]
pub struct AdminKey {
    /// Public id, the part of the key before the secret.
    pub key_id: Arc<str>,
    /// What it is for.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
}

/// The identity service of a node. Cheap to clone.
#[derive(Clone)]
pub struct Auth;

#[expect(unused_variables, reason = "being built")]
impl Auth {
    /// Opens the service: makes the node's token signing key at the first start, loads it later.
    ///
    /// # Errors
    /// When the database fails or holds a key that can't be used.
    pub async fn open(
        documents: Arc<dyn Documents>,
        config: AuthConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Logs in a new anonymous user. `device` ties later anonymous logins of the same device to the same user.
    pub async fn sign_in_anonymously(&self, app: &AppId, device: Option<&str>) -> Result<Tokens, Error> {
        todo!()
    }

    /// Logs in by username and password.
    pub async fn sign_in_with_password(
        &self,
        app: &AppId,
        username: &str,
        password: &str,
    ) -> Result<Tokens, Error> {
        todo!()
    }

    /// Registers a user.
    pub async fn sign_up(&self, app: &AppId, user: NewUser) -> Result<UserInfo, Error> {
        todo!()
    }

    /// Exchanges a refresh token for new tokens. A token used twice ends its whole session (reuse detection).
    pub async fn refresh(&self, app: &AppId, refresh_token: &str) -> Result<Tokens, Error> {
        todo!()
    }

    /// Ends the session that the access or refresh token belongs to.
    pub async fn revoke(&self, app: &AppId, token: &str) -> Result<(), Error> {
        todo!()
    }

    /// The user's record.
    pub async fn user(&self, app: &AppId, uid: &str) -> Result<UserInfo, Error> {
        todo!()
    }

    /// The principal of an access token of `app`: a signature check and a look at the revoked sessions, no I/O.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] or [`Error::ExpiredToken`].
    pub fn verify_access(&self, app: &AppId, token: &str) -> Result<Principal, Error> {
        todo!()
    }

    /// Makes an admin key and returns its text, `ck_ID_SECRET`, which is not kept: only a hash is.
    pub async fn create_admin_key(&self, label: &str) -> Result<String, Error> {
        todo!()
    }

    /// The principal of an admin key. No I/O: the hashes are held in memory.
    ///
    /// # Errors
    /// [`Error::InvalidToken`].
    pub fn verify_admin_key(&self, key: &str) -> Result<Principal, Error> {
        todo!()
    }

    /// The admin keys, without their secrets.
    pub fn admin_keys(&self) -> Vec<AdminKey> {
        todo!()
    }

    /// Removes an admin key. Returns whether there was one.
    pub async fn delete_admin_key(&self, key_id: &str) -> Result<bool, Error> {
        todo!()
    }

    /// The public keys that verify access tokens, as a JWKS document.
    pub fn jwks(&self) -> String {
        todo!()
    }
}
