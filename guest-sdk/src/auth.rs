//! Who calls. The platform establishes it; a client can't lie about it.
//!
//! ```no_run
//! # fn main() -> cloudlet::Result<()> {
//! let user = cloudlet::auth::user()?; // 401 for whoever is not logged in
//! log::info!("{} logged in by {:?}", user.uid, user.login);
//! # Ok(())
//! # }
//! ```

use crate::Error;
use crate::bindings::imports::cloudlet::auth::identity as wit;

/// How a user logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginType {
    /// Nobody in particular, but the same nobody from request to request.
    Anonymous,
    /// Username and password.
    Username,
    /// A mini program's login code.
    Wechat,
    /// E-mail address or phone number with a code.
    Email,
    /// A ticket signed by the app's own server.
    Custom,
}

/// A logged-in user of this app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's id within the app.
    pub uid: String,
    /// The mini program's id of the user, for users who came through one.
    pub openid: Option<String>,
    /// How the user logged in.
    pub login: LoginType,
}

impl User {
    /// What the platform writes into `_openid` of this user's documents and records as owner of this user's files:
    /// the openid, or the uid on the web.
    pub fn owner_id(&self) -> &str {
        self.openid.as_deref().unwrap_or(&self.uid)
    }
}

/// Who is behind this invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// No credentials were given.
    Public,
    /// A logged-in user.
    User(User),
    /// Another function of this app; its name.
    Function(String),
    /// The holder of an admin key; the key's public id.
    Admin(String),
}

/// Who is behind this invocation.
pub fn caller() -> Principal {
    match wit::caller() {
        wit::Principal::Public => Principal::Public,
        wit::Principal::User(user) => Principal::User(User {
            uid: user.uid,
            openid: user.openid,
            login: match user.login {
                wit::LoginType::Anonymous => LoginType::Anonymous,
                wit::LoginType::Username => LoginType::Username,
                wit::LoginType::Wechat => LoginType::Wechat,
                wit::LoginType::Email => LoginType::Email,
                wit::LoginType::Custom => LoginType::Custom,
            },
        }),
        wit::Principal::Function(name) => Principal::Function(name),
        wit::Principal::Admin(key) => Principal::Admin(key),
    }
}

/// The logged-in user behind this invocation.
///
/// # Errors
/// [`Error::Unauthenticated`] when no credentials were given; [`Error::Denied`] for a function or an admin, who are no
/// users.
pub fn user() -> Result<User, Error> {
    match caller() {
        Principal::User(user) => Ok(user),
        Principal::Public => Err(Error::Unauthenticated("log in first".to_owned())),
        Principal::Function(_) | Principal::Admin(_) => Err(Error::denied("only for users of the app")),
    }
}

/// The request id, as in the `x-request-id` response header and in the logs.
pub fn request_id() -> String {
    wit::request_id()
}

/// The name of the app that this function belongs to.
pub fn app() -> String {
    wit::app()
}
