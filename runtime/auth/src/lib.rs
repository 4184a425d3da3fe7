//! Users, sessions, tokens, principals and admin keys. Users and sessions are documents in `APP/system`; admin
//! keys and signing keys in `/node`. Knows nothing of HTTP: the client API maps its errors.
//!
//! - [`Auth`]: the façade; logging in, refreshing, revoking.
//! - `token`: access tokens, signed and verified.  `keys`: the node's own keys and the admin keys.
//! - `session`: sessions and their refresh tokens.  `users`: user records.
//! - `password`: hashes off the async threads.  `attempts`: waiting after failed logins.
//! - `text`: random identifiers as text.

#![forbid(unsafe_code)]

mod attempts;
mod error;
mod keys;
mod password;
mod service;
mod session;
mod text;
mod token;
mod users;

pub use error::Error;
pub use keys::AdminKey;
pub use service::{Auth, AuthConfig, Tokens};
pub use users::{NewUser, UserInfo};
