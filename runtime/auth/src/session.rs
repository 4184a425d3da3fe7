//! Sessions and their refresh tokens. A session is a document in `APP/system`.sessions:
//!
//! ```text
//! { _id: SID, uid: STRING, login: STRING, family: bin, current: bin, previous?: bin, rotated: date, created: date,
//!   expires: date }
//! ```
//!
//! A refresh token is `cr_SID_FAMILY_SECRET`. FAMILY (128 random bits) stays through the session's life, SECRET (256
//! bits) is good for one use; only their SHA-256 are stored. So a token with the right family and a secret that is
//! not current is a genuine old one: somebody has used a copy, and the session ends. Without the family part a
//! guess at a SID could end a stranger's session.
//!
//! The next SECRET is an HMAC of the present one under a key of the node, not a fresh draw. So the same token
//! presented again within [`REPLAY_GRACE`] gets the same answer, from hashes alone: SDKs refresh from several tabs
//! at once, and a reply may be lost on the way. A thief gains nothing by it that the theft had not given: the two
//! then hold the same token, and the second to use it after the grace ends the session.
//!
//! A session that was ended leaves its SID in `/node`.revoked until its last access token has expired.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use cloudlet_base::{AppId, Deadline, Entropy, LoginType, Timestamp};
use cloudlet_data::{
    Delete, DeleteOne, Documents, Find, IndexSpec, Insert, Namespace, Update, UpdateOne, Write,
};
use ring::digest::{SHA256, digest};
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::Error;
use crate::text::{base32, random};

/// How long after its use a refresh token still gives the same new one.
pub(crate) const REPLAY_GRACE: Duration = Duration::from_secs(10);

const PREFIX: &str = "cr_";

/// A stored session.
pub(crate) struct Session {
    pub(crate) sid: Arc<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) login: LoginType,
    family: [u8; 32],
    current: [u8; 32],
    previous: Option<[u8; 32]>,
    rotated: Timestamp,
    created: Timestamp,
    pub(crate) expires: Timestamp,
}

/// What a presented refresh token is to its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// The one good token.
    Current,
    /// The one before, within the grace.
    JustUsed,
    /// A genuine token whose time is past: a copy is about.
    Reused,
    /// Not a token of this session.
    Foreign,
}

/// A refresh token taken apart; not yet known to be good.
pub(crate) struct RefreshToken<'a> {
    pub(crate) sid: &'a str,
    family: &'a str,
    secret: &'a str,
}

impl<'a> RefreshToken<'a> {
    /// `None` when the text has not the form of one.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.split('_');
        let token = Self {
            sid: parts.next()?,
            family: parts.next()?,
            secret: parts.next()?,
        };
        let is_formed = parts.next().is_none()
            && [(token.sid, 26), (token.family, 26), (token.secret, 52)]
                .iter()
                .all(|(part, len)| part.len() == *len);
        is_formed.then_some(token)
    }

    /// The token that follows this one.
    pub(crate) fn next(&self, key: &hmac::Key) -> String {
        format!("{PREFIX}{}_{}_{}", self.sid, self.family, self.next_secret(key))
    }

    fn next_secret(&self, key: &hmac::Key) -> String {
        let mut context = hmac::Context::with_key(key);
        context.update(self.sid.as_bytes());
        context.update(self.secret.as_bytes());
        base32(context.sign().as_ref())
    }
}

impl Session {
    /// A new session and its first refresh token.
    pub(crate) fn start(
        uid: Arc<str>,
        login: LoginType,
        now: Timestamp,
        ttl: Duration,
        entropy: &dyn Entropy,
    ) -> (Self, String) {
        let (sid, family, secret) = (
            random::<16>(entropy),
            random::<16>(entropy),
            random::<32>(entropy),
        );
        let session = Self {
            sid: sid.as_str().into(),
            uid,
            login,
            family: hash(&family),
            current: hash(&secret),
            previous: None,
            rotated: now,
            created: now,
            expires: now.plus(ttl),
        };
        (session, format!("{PREFIX}{sid}_{family}_{secret}"))
    }

    /// Judges a token that names this session.
    pub(crate) fn judge(&self, token: &RefreshToken<'_>, now: Timestamp) -> Presented {
        if !same(&hash(token.family), &self.family) {
            return Presented::Foreign;
        }
        let secret = hash(token.secret);
        if same(&secret, &self.current) {
            return Presented::Current;
        }
        let is_previous = self.previous.is_some_and(|previous| same(&secret, &previous));
        if is_previous && now < self.rotated.plus(REPLAY_GRACE) {
            return Presented::JustUsed;
        }
        Presented::Reused
    }

    fn to_document(&self) -> RawDocumentBuf {
        let date = |at: Timestamp| bson::DateTime::from_millis(at.millis());
        let mut document = rawdoc! {
            "_id": &*self.sid,
            "uid": &*self.uid,
            "login": self.login.as_str(),
            "family": binary(&self.family),
            "current": binary(&self.current),
            "rotated": date(self.rotated),
            "created": date(self.created),
            "expires": date(self.expires),
        };
        if let Some(previous) = &self.previous {
            document.append(bson::raw::cstr!("previous"), binary(previous));
        }
        document
    }

    fn parse(document: &RawDocument) -> Option<Self> {
        let bytes = |key| <[u8; 32]>::try_from(document.get_binary(key).ok()?.bytes).ok();
        let date = |key| {
            document
                .get_datetime(key)
                .ok()
                .map(|date| Timestamp(date.timestamp_millis()))
        };
        Some(Self {
            sid: document.get_str("_id").ok()?.into(),
            uid: document.get_str("uid").ok()?.into(),
            login: LoginType::parse(document.get_str("login").ok()?)?,
            family: bytes("family")?,
            current: bytes("current")?,
            previous: bytes("previous"),
            rotated: date("rotated")?,
            created: date("created")?,
            expires: date("expires")?,
        })
    }
}

fn hash(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    out
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

fn binary(bytes: &[u8]) -> bson::Binary {
    bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

fn sessions(app: &AppId) -> Namespace {
    Namespace::new(format!("{app}/system"), "sessions")
}

fn revoked() -> Namespace {
    Namespace::new("/node", "revoked")
}

/// Makes the index that expired sessions are found by.
pub(crate) async fn prepare(documents: &dyn Documents, app: &AppId) -> Result<(), Error> {
    let by_expiry = IndexSpec {
        name: "expires_1".into(),
        keys: vec![("expires".into(), 1)],
        unique: false,
        sparse: false,
        ..IndexSpec::default()
    };
    documents.create_indexes(&sessions(app), vec![by_expiry]).await?;
    Ok(())
}

pub(crate) async fn insert(documents: &dyn Documents, app: &AppId, session: &Session) -> Result<(), Error> {
    let insert = Insert {
        documents: vec![session.to_document()],
        ordered: true,
        ..Insert::default()
    };
    let inserted = documents.insert(&sessions(app), insert, Deadline::NEVER).await?;
    inserted
        .errors
        .into_iter()
        .next()
        .map_or(Ok(()), |failed| Err(failed.error.into()))
}

pub(crate) async fn find(
    documents: &dyn Documents,
    app: &AppId,
    sid: &str,
    deadline: Deadline,
) -> Result<Option<Session>, Error> {
    let find = Find {
        filter: rawdoc! { "_id": sid },
        limit: Some(1),
        ..Find::default()
    };
    let page = documents.find(&sessions(app), find, deadline).await?;
    let Some(document) = page.documents.first() else {
        return Ok(None);
    };
    Session::parse(document)
        .map(Some)
        .ok_or_else(|| Error::corrupt("a session"))
}

/// Puts the token after `token` in its place. False when another request was first.
pub(crate) async fn rotate(
    documents: &dyn Documents,
    app: &AppId,
    token: &RefreshToken<'_>,
    key: &hmac::Key,
    now: Timestamp,
    ttl: Duration,
) -> Result<bool, Error> {
    let used = hash(token.secret);
    let statement = UpdateOne {
        filter: rawdoc! { "_id": token.sid, "current": binary(&used) },
        update: rawdoc! { "$set": {
            "current": binary(&hash(&token.next_secret(key))),
            "previous": binary(&used),
            "rotated": bson::DateTime::from_millis(now.millis()),
            "expires": bson::DateTime::from_millis(now.plus(ttl).millis()),
        } },
        multi: false,
        upsert: false,
        ..UpdateOne::default()
    };
    let update = Update {
        statements: vec![statement],
        ordered: true,
        ..Update::default()
    };
    let updated = documents.update(&sessions(app), update, Deadline::NEVER).await?;
    match updated.errors.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(updated.matched == 1),
    }
}

/// Removes the session and notes that its access tokens are void until `until`, in one step.
pub(crate) async fn end(
    documents: &dyn Documents,
    app: &AppId,
    sid: &str,
    until: Timestamp,
) -> Result<(), Error> {
    let removal = Delete {
        statements: vec![DeleteOne {
            filter: rawdoc! { "_id": sid },
            multi: false,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    let until = bson::DateTime::from_millis(until.millis());
    let note = UpdateOne {
        filter: rawdoc! { "_id": sid },
        update: rawdoc! { "$set": { "app": app.as_str(), "until": until } },
        multi: false,
        upsert: true,
        ..UpdateOne::default()
    };
    let note = Update {
        statements: vec![note],
        ordered: true,
        ..Update::default()
    };
    let writes = vec![
        Write::Delete(sessions(app), removal),
        Write::Update(revoked(), note),
    ];
    documents.transact(writes, Deadline::NEVER).await?;
    Ok(())
}

/// Removes the sessions of `app` that expired before `now`. Returns how many.
pub(crate) async fn sweep(documents: &dyn Documents, app: &AppId, now: Timestamp) -> Result<u64, Error> {
    let filter = rawdoc! { "expires": { "$lt": bson::DateTime::from_millis(now.millis()) } };
    let expired = Delete {
        statements: vec![DeleteOne {
            filter,
            multi: true,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    Ok(documents
        .delete(&sessions(app), expired, Deadline::NEVER)
        .await?
        .deleted)
}

/// The ended sessions whose access tokens may still be about; forgets the others.
pub(crate) async fn load_revoked(
    documents: &dyn Documents,
    now: Timestamp,
) -> Result<Vec<(Arc<str>, Timestamp)>, Error> {
    let filter = rawdoc! { "until": { "$lt": bson::DateTime::from_millis(now.millis()) } };
    let over = Delete {
        statements: vec![DeleteOne {
            filter,
            multi: true,
            ..DeleteOne::default()
        }],
        ordered: true,
    };
    documents.delete(&revoked(), over, Deadline::NEVER).await?;
    let mut out = Vec::new();
    let mut page = documents
        .find(&revoked(), Find::default(), Deadline::NEVER)
        .await?;
    loop {
        for document in &page.documents {
            match (document.get_str("_id"), document.get_datetime("until")) {
                (Ok(sid), Ok(until)) => out.push((sid.into(), Timestamp(until.timestamp_millis()))),
                _ => return Err(Error::corrupt("a revoked session")),
            }
        }
        let Some(cursor) = page.cursor else { return Ok(out) };
        page = documents.next_page(cursor, None, Deadline::NEVER).await?;
    }
}

#[cfg(test)]
mod tests {
    use cloudlet_base::SeededEntropy;

    use super::*;

    fn start() -> (Session, String) {
        let hour = Duration::from_secs(3600);
        Session::start(
            "u".into(),
            LoginType::Anonymous,
            Timestamp(0),
            hour,
            &SeededEntropy::new(1),
        )
    }

    #[test]
    fn tokens_are_judged_by_family_then_secret() {
        let (mut session, text) = start();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let token = RefreshToken::parse(&text).unwrap();
        assert_eq!(&*session.sid, token.sid);
        assert_eq!(session.judge(&token, Timestamp(0)), Presented::Current);
        let next_text = token.next(&key);
        let next = RefreshToken::parse(&next_text).unwrap();
        assert_eq!(next_text, token.next(&key));
        session.previous = Some(session.current);
        session.current = hash(next.secret);
        assert_eq!(session.judge(&next, Timestamp(0)), Presented::Current);
        assert_eq!(session.judge(&token, Timestamp(9_999)), Presented::JustUsed);
        assert_eq!(session.judge(&token, Timestamp(10_000)), Presented::Reused);
        let stranger = text.replace(token.family, &"a".repeat(26));
        assert_eq!(
            session.judge(&RefreshToken::parse(&stranger).unwrap(), Timestamp(0)),
            Presented::Foreign
        );
    }

    #[test]
    fn only_hashes_are_stored() {
        let (session, text) = start();
        let token = RefreshToken::parse(&text).unwrap();
        let stored = format!("{:?}", session.to_document());
        assert!(!stored.contains(token.secret) && !stored.contains(token.family));
        assert_eq!(
            Session::parse(&session.to_document()).unwrap().to_document(),
            session.to_document()
        );
    }

    #[test]
    fn odd_texts_are_no_tokens() {
        let (_, text) = start();
        for odd in [
            "",
            "cr_",
            "cr_a_b_c",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}_x"),
            &format!("{text}x"),
        ] {
            assert!(RefreshToken::parse(odd).is_none(), "{odd:?}");
        }
    }
}
