//! User records, in `APP/system`.users:
//!
//! ```text
//! { _id: UID, login: STRING, created: date, username?: STRING, password?: PHC STRING, name?: STRING,
//!   openid?: STRING, device?: 64 hex digits }
//! ```
//!
//! `username` and `device` are unique. `device` is a hash: the device id itself logs its holder in.

use std::fmt;
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, ContentHash, Deadline, LoginType, Timestamp, User};
use cloudlet_data::{Code, Documents, Find, IndexSpec, Insert, Namespace};
use ring::digest::{SHA256, digest};

use crate::Error;
use crate::password::PASSWORD_BYTES;

/// Lengths of a username, bytes.
const USERNAME_BYTES: std::ops::RangeInclusive<usize> = 1..=64;

/// Longest display name, bytes.
const NAME_BYTES_MAX: usize = 256;

/// Lengths of a device id that ties logins together, bytes. It is as good as a password, so a short one, which
/// could be guessed, ties nothing.
const DEVICE_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// A user to register.
#[derive(Clone, Default)]
pub struct NewUser {
    /// 1 to 64 bytes, compared exactly.
    pub username: String,
    /// 8 to 256 bytes.
    pub password: String,
    /// Display name.
    pub name: Option<String>,
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("username", &self.username)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl NewUser {
    /// # Errors
    /// [`Error::Invalid`] naming what is wrong.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !is_username(&self.username) {
            return Err(Error::Invalid(
                "a username has 1 to 64 bytes and no control characters or spaces at its ends".into(),
            ));
        }
        if !PASSWORD_BYTES.contains(&self.password.len()) {
            let (seen, min, max) = (self.password.len(), PASSWORD_BYTES.start(), PASSWORD_BYTES.end());
            return Err(Error::Invalid(format!(
                "the password has {seen} bytes; it must have {min} to {max}"
            )));
        }
        if self.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Error::Invalid(format!(
                "a display name has at most {NAME_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }
}

/// Whether this can be anybody's username.
pub(crate) fn is_username(text: &str) -> bool {
    USERNAME_BYTES.contains(&text.len()) && !text.chars().any(char::is_control) && text.trim() == text
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

impl UserInfo {
    /// The user as a principal, logged in by `login`.
    pub(crate) fn principal(&self, app: &AppId, login: LoginType) -> User {
        User {
            app: app.clone(),
            uid: self.uid.clone(),
            openid: self.openid.clone(),
            login,
        }
    }
}

/// A record with what only this room sees.
pub(crate) struct Record {
    pub(crate) info: UserInfo,
    pub(crate) password: Option<String>,
    pub(crate) device: Option<String>,
}

impl Record {
    fn to_document(&self) -> RawDocumentBuf {
        let info = &self.info;
        let mut document = rawdoc! {
            "_id": &*info.uid,
            "login": info.login.as_str(),
            "created": bson::DateTime::from_millis(info.created.millis()),
        };
        for (key, value) in [
            (bson::raw::cstr!("username"), info.username.as_deref()),
            (bson::raw::cstr!("password"), self.password.as_deref()),
            (bson::raw::cstr!("name"), info.name.as_deref()),
            (bson::raw::cstr!("openid"), info.openid.as_deref()),
            (bson::raw::cstr!("device"), self.device.as_deref()),
        ] {
            if let Some(value) = value {
                document.append(key, value);
            }
        }
        document
    }

    fn parse(document: &RawDocument) -> Option<Self> {
        let text = |key| document.get_str(key).ok().map(str::to_owned);
        let info = UserInfo {
            uid: document.get_str("_id").ok()?.into(),
            openid: text("openid").map(Into::into),
            username: text("username"),
            name: text("name"),
            login: LoginType::parse(document.get_str("login").ok()?)?,
            created: Timestamp(document.get_datetime("created").ok()?.timestamp_millis()),
        };
        Some(Self {
            info,
            password: text("password"),
            device: text("device"),
        })
    }
}

/// What a device id is stored as; `None` when it is too short or too long to tie anything.
pub(crate) fn device_key(app: &AppId, device: &str) -> Option<String> {
    if !DEVICE_BYTES.contains(&device.len()) {
        return None;
    }
    let mut hashed = [0; 32];
    hashed.copy_from_slice(digest(&SHA256, format!("{app}\0{device}").as_bytes()).as_ref());
    Some(ContentHash::from_bytes(hashed).to_string())
}

fn users(app: &AppId) -> Namespace {
    Namespace::new(format!("{app}/system"), "users")
}

/// Makes the indexes that keep usernames and devices unique.
pub(crate) async fn prepare(documents: &dyn Documents, app: &AppId) -> Result<(), Error> {
    let unique = |field: &str| IndexSpec {
        name: format!("{field}_1").into(),
        keys: vec![(field.into(), 1)],
        unique: true,
        sparse: true,
        ..IndexSpec::default()
    };
    documents
        .create_indexes(&users(app), vec![unique("username"), unique("device")])
        .await?;
    Ok(())
}

/// The one user that matches.
pub(crate) async fn find(
    documents: &dyn Documents,
    app: &AppId,
    filter: RawDocumentBuf,
    deadline: Deadline,
) -> Result<Option<Record>, Error> {
    let find = Find {
        filter,
        limit: Some(1),
        ..Find::default()
    };
    let page = documents.find(&users(app), find, deadline).await?;
    let Some(document) = page.documents.first() else {
        return Ok(None);
    };
    Record::parse(document)
        .map(Some)
        .ok_or_else(|| Error::corrupt("a user"))
}

/// Inserts a user. Returns false when a unique field is taken.
pub(crate) async fn insert(documents: &dyn Documents, app: &AppId, record: &Record) -> Result<bool, Error> {
    let insert = Insert {
        documents: vec![record.to_document()],
        ordered: true,
        ..Insert::default()
    };
    let error = match documents.insert(&users(app), insert, Deadline::NEVER).await {
        Ok(inserted) => inserted.errors.into_iter().next().map(|failed| failed.error),
        Err(error) => Some(error),
    };
    match error {
        None => Ok(true),
        Some(error) if error.code() == Code::DuplicateKey => Ok(false),
        Some(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames() {
        for good in ["a", "li.lei", "李雷", "a b", &"a".repeat(64)] {
            assert!(is_username(good), "{good:?}");
        }
        for bad in ["", " a", "a ", "a\n", "a\0b", &"a".repeat(65)] {
            assert!(!is_username(bad), "{bad:?}");
        }
    }

    #[test]
    fn new_users_are_checked_and_their_password_is_not_printed() {
        let user = |username: &str, password: &str| NewUser {
            username: username.into(),
            password: password.into(),
            name: None,
        };
        assert!(user("a", "12345678").check().is_ok());
        for bad in [
            user("", "12345678"),
            user("a", "1234567"),
            user("a", &"x".repeat(257)),
        ] {
            assert!(matches!(bad.check(), Err(Error::Invalid(_))), "{bad:?}");
        }
        assert!(!format!("{:?}", user("a", "secret-secret")).contains("secret-secret"));
    }

    #[test]
    fn records_round_trip() {
        let record = Record {
            info: UserInfo {
                uid: "u1".into(),
                openid: Some("o".into()),
                username: Some("n".into()),
                name: None,
                login: LoginType::Username,
                created: Timestamp(5),
            },
            password: Some("$argon2id".into()),
            device: None,
        };
        let document = record.to_document();
        assert_eq!(Record::parse(&document).unwrap().to_document(), document);
        assert!(Record::parse(&rawdoc! { "_id": 1 }).is_none());
    }

    #[test]
    fn short_device_ids_tie_nothing() {
        let app: AppId = "a".parse().unwrap();
        assert!(device_key(&app, "short").is_none());
        let key = device_key(&app, "0123456789abcdef").unwrap();
        assert_eq!(key.len(), 64);
        assert_ne!(Some(key), device_key(&"b".parse().unwrap(), "0123456789abcdef"));
    }
}
