//! The façade.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bson::rawdoc;
use cloudlet_base::{AppId, Clock, Deadline, Entropy, LoginType, Principal, Timestamp};
use cloudlet_data::Documents;
use ring::hmac;

use crate::Error;
use crate::attempts::Attempts;
use crate::keys::{self, AdminKey, AdminKeys};
use crate::password::Passwords;
use crate::session::{self, Presented, RefreshToken, Session};
use crate::text::random;
use crate::token::Signer;
use crate::users::{self, NewUser, Record, UserInfo};

/// How long a look at the database may take.
const LOOKUP_BUDGET: Duration = Duration::from_secs(10);

/// Revoked sessions held before the first look for expired ones.
const REVOKED_PURGE_MIN: usize = 1024;

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
#[derive(Clone)]
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

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("uid", &self.uid)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// The identity service of a node. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
}

struct Inner {
    documents: Arc<dyn Documents>,
    config: AuthConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    signer: Signer,
    refresh_key: hmac::Key,
    admin_keys: AdminKeys,
    passwords: Passwords,
    attempts: Attempts,
    revoked: RwLock<Revoked>,
    /// Apps whose indexes have been made since the start.
    prepared: Mutex<HashSet<AppId>>,
}

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
        let now = clock.now();
        let signer = Signer::new(keys::signing_key(&*documents, &*entropy, now).await?);
        let refresh_key = keys::refresh_key(&*documents, &*entropy, now).await?;
        let admin_keys = AdminKeys::load(&*documents).await?;
        let revoked = Revoked::new(session::load_revoked(&*documents, now).await?);
        let passwords = Passwords::new(config.password_permits);
        let inner = Inner {
            documents,
            config,
            clock,
            entropy,
            signer,
            refresh_key,
            admin_keys,
            passwords,
            attempts: Attempts::default(),
            revoked: RwLock::new(revoked),
            prepared: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Logs in a new anonymous user. `device` ties later anonymous logins of the same device to the same user; it
    /// is as good as a password then, so only 16 to 256 bytes count, and anything else ties nothing.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn sign_in_anonymously(&self, app: &AppId, device: Option<&str>) -> Result<Tokens, Error> {
        self.prepare(app).await?;
        let device = device.and_then(|device| users::device_key(app, device));
        if let Some(known) = self.user_of_device(app, device.as_deref()).await? {
            return self.log_in(app, &known, LoginType::Anonymous).await;
        }
        let record = Record {
            info: self.new_info(LoginType::Anonymous, None, None),
            password: None,
            device: device.clone(),
        };
        if users::insert(&*self.inner.documents, app, &record).await? {
            return self.log_in(app, &record.info, LoginType::Anonymous).await;
        }
        // The same device was logging in twice at once; the other one made the user.
        let known = self.user_of_device(app, device.as_deref()).await?;
        let known = known.ok_or_else(|| Error::Internal("a user that was just made is not there".into()))?;
        self.log_in(app, &known, LoginType::Anonymous).await
    }

    /// Logs in by username and password.
    ///
    /// # Errors
    /// [`Error::WrongPassword`]; [`Error::Busy`] after several failures or when too many log in at once;
    /// [`Error::Database`].
    pub async fn sign_in_with_password(
        &self,
        app: &AppId,
        username: &str,
        password: &str,
    ) -> Result<Tokens, Error> {
        let inner = &*self.inner;
        if !users::is_username(username) || password.len() > *crate::password::PASSWORD_BYTES.end() {
            return Err(Error::WrongPassword);
        }
        inner.attempts.check(app, username, inner.clock.monotonic())?;
        self.prepare(app).await?;
        let deadline = self.lookup_deadline();
        let record = users::find(&*inner.documents, app, rawdoc! { "username": username }, deadline).await?;
        let stored = record.as_ref().and_then(|record| record.password.clone());
        let is_right = inner.passwords.verify(password, stored).await?;
        match record {
            Some(record) if is_right => {
                inner.attempts.succeeded(app, username);
                self.log_in(app, &record.info, LoginType::Username).await
            }
            _ => {
                inner.attempts.failed(app, username, inner.clock.monotonic());
                Err(Error::WrongPassword)
            }
        }
    }

    /// Registers a user.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::UsernameTaken`], [`Error::Busy`], [`Error::Database`].
    pub async fn sign_up(&self, app: &AppId, user: NewUser) -> Result<UserInfo, Error> {
        user.check()?;
        self.prepare(app).await?;
        let password = self
            .inner
            .passwords
            .hash(&user.password, &*self.inner.entropy)
            .await?;
        let info = self.new_info(LoginType::Username, Some(user.username.clone()), user.name);
        let record = Record {
            info,
            password: Some(password),
            device: None,
        };
        if users::insert(&*self.inner.documents, app, &record).await? {
            return Ok(record.info);
        }
        Err(Error::UsernameTaken(user.username))
    }

    /// Exchanges a refresh token for new tokens. A token used twice ends its whole session (reuse detection),
    /// except within ten seconds of its first use, when it gives the same new refresh token again.
    ///
    /// # Errors
    /// [`Error::InvalidToken`], [`Error::ExpiredToken`], [`Error::Database`].
    pub async fn refresh(&self, app: &AppId, refresh_token: &str) -> Result<Tokens, Error> {
        let inner = &*self.inner;
        let token =
            RefreshToken::parse(refresh_token).ok_or(Error::InvalidToken("it is not a refresh token"))?;
        let session = self.open_session(app, &token).await?;
        let deadline = self.lookup_deadline();
        let Some(user) =
            users::find(&*inner.documents, app, rawdoc! { "_id": &*session.uid }, deadline).await?
        else {
            self.end_session(app, &session.sid).await?;
            return Err(Error::InvalidToken("its user is gone"));
        };
        self.tokens(
            app,
            &user.info,
            session.login,
            &session.sid,
            token.next(&inner.refresh_key),
        )
    }

    /// Ends the session that the access or refresh token belongs to. An access token that has expired will do.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] when it is neither; [`Error::Database`].
    pub async fn revoke(&self, app: &AppId, token: &str) -> Result<(), Error> {
        let inner = &*self.inner;
        let Some(refresh) = RefreshToken::parse(token) else {
            let verified = inner.signer.verify(app, token)?;
            return self.end_session(app, &verified.sid).await;
        };
        match session::find(&*inner.documents, app, refresh.sid, self.lookup_deadline()).await? {
            Some(session) if session.judge(&refresh, inner.clock.now()) != Presented::Foreign => {
                self.end_session(app, &session.sid).await
            }
            _ => Err(Error::InvalidToken("its session is over or was never there")),
        }
    }

    /// The user's record.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] when there is no such user (any more); [`Error::Database`].
    pub async fn user(&self, app: &AppId, uid: &str) -> Result<UserInfo, Error> {
        let found = users::find(
            &*self.inner.documents,
            app,
            rawdoc! { "_id": uid },
            self.lookup_deadline(),
        )
        .await?;
        Ok(found.ok_or(Error::InvalidToken("its user is gone"))?.info)
    }

    /// The principal of an access token of `app`: a signature check and a look at the revoked sessions, no I/O.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] or [`Error::ExpiredToken`].
    pub fn verify_access(&self, app: &AppId, token: &str) -> Result<Principal, Error> {
        let verified = self.inner.signer.verify(app, token)?;
        if self.inner.clock.now().seconds() >= verified.exp {
            return Err(Error::ExpiredToken);
        }
        if self
            .inner
            .revoked
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .has(&verified.sid)
        {
            return Err(Error::InvalidToken("its session is over"));
        }
        Ok(Principal::User(verified.user.clone()))
    }

    /// Removes the sessions of `app` whose refresh token has expired. Returns how many. For a timer.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn sweep(&self, app: &AppId) -> Result<u64, Error> {
        session::sweep(&*self.inner.documents, app, self.inner.clock.now()).await
    }

    /// Makes an admin key and returns its text, `ck_ID_SECRET`, which is not kept: only a hash is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unfit label or too many keys; [`Error::Database`].
    pub async fn create_admin_key(&self, label: &str) -> Result<String, Error> {
        let inner = &*self.inner;
        inner
            .admin_keys
            .create(&*inner.documents, &*inner.entropy, label, inner.clock.now())
            .await
    }

    /// The principal of an admin key. No I/O: the hashes are held in memory.
    ///
    /// # Errors
    /// [`Error::InvalidToken`].
    pub fn verify_admin_key(&self, key: &str) -> Result<Principal, Error> {
        self.inner.admin_keys.verify(key)
    }

    /// The admin keys, without their secrets, oldest first.
    pub fn admin_keys(&self) -> Vec<AdminKey> {
        self.inner.admin_keys.list()
    }

    /// Removes an admin key. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn delete_admin_key(&self, key_id: &str) -> Result<bool, Error> {
        self.inner.admin_keys.delete(&*self.inner.documents, key_id).await
    }

    /// The public keys that verify access tokens, as a JWKS document.
    pub fn jwks(&self) -> String {
        self.inner.signer.jwks()
    }

    /// Starts a session.
    async fn log_in(&self, app: &AppId, info: &UserInfo, login: LoginType) -> Result<Tokens, Error> {
        let inner = &*self.inner;
        let (session, refresh_token) = Session::start(
            info.uid.clone(),
            login,
            inner.clock.now(),
            inner.config.refresh_ttl,
            &*inner.entropy,
        );
        session::insert(&*inner.documents, app, &session).await?;
        self.tokens(app, info, login, &session.sid, refresh_token)
    }

    fn tokens(
        &self,
        app: &AppId,
        info: &UserInfo,
        login: LoginType,
        sid: &str,
        refresh_token: String,
    ) -> Result<Tokens, Error> {
        let inner = &*self.inner;
        let expires_in_s = inner.config.access_ttl.as_secs();
        let user = info.principal(app, login);
        let access_token = inner.signer.sign(&user, sid, inner.clock.now(), expires_in_s)?;
        Ok(Tokens {
            access_token,
            refresh_token,
            expires_in_s,
            uid: user.uid,
            login,
        })
    }

    /// The session of a refresh token, after the token after it was put in its place.
    async fn open_session(&self, app: &AppId, token: &RefreshToken<'_>) -> Result<Session, Error> {
        let inner = &*self.inner;
        // The second round is for a request that lost the race for the current token: it is the previous one now.
        for _ in 0..2 {
            let now = inner.clock.now();
            let found = session::find(&*inner.documents, app, token.sid, self.lookup_deadline()).await?;
            let session = found.ok_or(Error::InvalidToken("its session is over or was never there"))?;
            let presented = session.judge(token, now);
            if presented == Presented::Foreign {
                return Err(Error::InvalidToken("its session is over or was never there"));
            }
            if session.expires <= now {
                return Err(Error::ExpiredToken);
            }
            match presented {
                Presented::JustUsed => return Ok(session),
                Presented::Current => {
                    let ttl = inner.config.refresh_ttl;
                    if session::rotate(&*inner.documents, app, token, &inner.refresh_key, now, ttl).await? {
                        return Ok(session);
                    }
                }
                Presented::Reused | Presented::Foreign => {
                    tracing::warn!(%app, uid = %session.uid, "refresh token used twice; session ended");
                    self.end_session(app, &session.sid).await?;
                    return Err(Error::InvalidToken("it was used before; the session is over"));
                }
            }
        }
        Err(Error::InvalidToken("it is being used by another request"))
    }

    async fn end_session(&self, app: &AppId, sid: &str) -> Result<(), Error> {
        let now = self.inner.clock.now();
        // One second more: expiry is in whole seconds.
        let until = now
            .plus(self.inner.config.access_ttl)
            .plus(Duration::from_secs(1));
        session::end(&*self.inner.documents, app, sid, until).await?;
        self.inner
            .revoked
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .add(sid.into(), until, now);
        Ok(())
    }

    async fn user_of_device(&self, app: &AppId, device: Option<&str>) -> Result<Option<UserInfo>, Error> {
        let Some(device) = device else { return Ok(None) };
        let filter = rawdoc! { "device": device };
        let found = users::find(&*self.inner.documents, app, filter, self.lookup_deadline()).await?;
        Ok(found.map(|record| record.info))
    }

    /// A new user's record. The uid begins with a letter: a CloudBase SDK takes an id of digits for a number.
    fn new_info(&self, login: LoginType, username: Option<String>, name: Option<String>) -> UserInfo {
        let uid = format!("u{}", random::<16>(&*self.inner.entropy)).into();
        UserInfo {
            uid,
            openid: None,
            username,
            name,
            login,
            created: self.inner.clock.now(),
        }
    }

    /// Makes the app's indexes, once in the service's life.
    async fn prepare(&self, app: &AppId) -> Result<(), Error> {
        let inner = &*self.inner;
        if inner
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(app)
        {
            return Ok(());
        }
        users::prepare(&*inner.documents, app).await?;
        session::prepare(&*inner.documents, app).await?;
        inner
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(app.clone());
        Ok(())
    }

    fn lookup_deadline(&self) -> Deadline {
        Deadline::after(&*self.inner.clock, LOOKUP_BUDGET)
    }
}

/// Ended sessions whose access tokens have not all expired, with the time when they will have.
struct Revoked {
    until_by_sid: HashMap<Arc<str>, Timestamp>,
    purge_at: usize,
}

impl Revoked {
    fn new(sessions: Vec<(Arc<str>, Timestamp)>) -> Self {
        let until_by_sid: HashMap<_, _> = sessions.into_iter().collect();
        let purge_at = 2 * until_by_sid.len() + REVOKED_PURGE_MIN;
        Self {
            until_by_sid,
            purge_at,
        }
    }

    fn has(&self, sid: &str) -> bool {
        self.until_by_sid.contains_key(sid)
    }

    fn add(&mut self, sid: Arc<str>, until: Timestamp, now: Timestamp) {
        self.until_by_sid.insert(sid, until);
        if self.until_by_sid.len() >= self.purge_at {
            self.until_by_sid.retain(|_, until| *until > now);
            self.purge_at = 2 * self.until_by_sid.len() + REVOKED_PURGE_MIN;
        }
    }
}

#[cfg(test)]
mod tests;
