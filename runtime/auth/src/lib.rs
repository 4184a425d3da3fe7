//! Users, sessions, tokens, principals and admin keys. Users and sessions are documents in `APP/system`; admin
//! keys and signing keys in `/node`. Knows nothing of HTTP: the client API maps its errors.

#![forbid(unsafe_code)]

mod service;

pub use service::{AdminKey, Auth, AuthConfig, Error, NewUser, Tokens, UserInfo};
