//! Access tokens: JWTs signed with Ed25519. One algorithm, one header: the header's text must be ours byte for byte,
//! so there is nothing in it for a forger to choose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloudlet_base::{AppId, LoginType, Timestamp, User};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::text::TOKEN_BYTES_MAX;

/// Who issues and accepts our tokens.
const ISSUER: &str = "cloudlet";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    /// The user's uid.
    pub(crate) sub: String,
    /// The app that the user belongs to; the token is good for no other.
    pub(crate) app: String,
    /// The session, by which the token is revoked.
    pub(crate) sid: String,
    /// A [`LoginType`]'s name.
    pub(crate) login: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) openid: Option<String>,
    /// Seconds since the epoch.
    pub(crate) iat: i64,
    /// Seconds since the epoch; the token is good before this second.
    pub(crate) exp: i64,
}

/// A token that was found good, but for its time and its session.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) user: Arc<User>,
    pub(crate) sid: Arc<str>,
    pub(crate) exp: i64,
}

/// Signs and verifies with the node's key.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    kid: String,
    /// The header's base64 and the dot behind it.
    header: String,
    recent: Recent,
}

impl Signer {
    pub(crate) fn new(pair: Ed25519KeyPair) -> Self {
        let kid = URL_SAFE_NO_PAD.encode(&digest(&SHA256, pair.public_key().as_ref()).as_ref()[..9]);
        let header = format!(r#"{{"alg":"EdDSA","typ":"JWT","kid":"{kid}"}}"#);
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(header));
        Self {
            pair,
            kid,
            header,
            recent: Recent::default(),
        }
    }

    /// A token for `user` in session `sid`, good from `now` for `ttl_s` seconds.
    pub(crate) fn sign(&self, user: &User, sid: &str, now: Timestamp, ttl_s: u64) -> Result<String, Error> {
        let iat = now.seconds();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user.uid.to_string(),
            app: user.app.to_string(),
            sid: sid.to_owned(),
            login: user.login.as_str().to_owned(),
            openid: user.openid.as_deref().map(str::to_owned),
            iat,
            exp: iat.saturating_add(i64::try_from(ttl_s).unwrap_or(i64::MAX)),
        };
        let payload =
            serde_json::to_vec(&claims).map_err(|error| Error::Internal(format!("claims: {error}")))?;
        let mut token = self.header.clone();
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Checks the signature, the form and the app; the caller checks time and session. A token seen lately is
    /// looked up instead of checked again.
    ///
    /// # Errors
    /// [`Error::InvalidToken`].
    pub(crate) fn verify(&self, app: &AppId, token: &str) -> Result<Arc<Verified>, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::InvalidToken("it is too long"));
        }
        let key = Recent::key(token);
        let verified = match self.recent.get(&key) {
            Some(verified) => verified,
            None => {
                let verified = Arc::new(self.verify_signature(token)?);
                self.recent.insert(key, verified.clone());
                verified
            }
        };
        if verified.user.app != *app {
            return Err(Error::InvalidToken("it is another app's"));
        }
        Ok(verified)
    }

    fn verify_signature(&self, token: &str) -> Result<Verified, Error> {
        const MALFORMED: Error = Error::InvalidToken("it is not an access token of this node");
        let rest = token.strip_prefix(&self.header).ok_or(MALFORMED)?;
        let (payload, signature) = rest.split_once('.').ok_or(MALFORMED)?;
        let signed = &token[..self.header.len() + payload.len()];
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| MALFORMED)?;
        UnparsedPublicKey::new(&ED25519, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Error::InvalidToken("its signature is wrong"))?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| MALFORMED)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| MALFORMED)?;
        if claims.iss != ISSUER {
            return Err(MALFORMED);
        }
        let user = User {
            app: claims.app.parse().map_err(|_| MALFORMED)?,
            uid: claims.sub.into(),
            openid: claims.openid.map(Into::into),
            login: LoginType::parse(&claims.login).ok_or(MALFORMED)?,
        };
        Ok(Verified {
            user: Arc::new(user),
            sid: claims.sid.into(),
            exp: claims.exp,
        })
    }

    /// The public key as a JWKS document (RFC 7517, RFC 8037).
    pub(crate) fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"{}","x":"{x}"}}]}}"#,
            self.kid
        )
    }
}

/// Tokens verified lately, by their SHA-256, so that the signature (some 50 microseconds) is checked once and the
/// tokens themselves are not held. Two generations: when the young one is full it becomes the old one, and what is
/// found in the old one is young again; so it is bounded and needs no clock.
#[derive(Default)]
struct Recent {
    shards: [Mutex<Generations>; Recent::SHARDS],
}

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<Verified>>,
    old: HashMap<[u8; 32], Arc<Verified>>,
}

impl Recent {
    const SHARDS: usize = 16;
    /// Tokens in one generation of one shard: some 32,000 in all.
    const GENERATION_MAX: usize = 1024;

    fn key(token: &str) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        key
    }

    fn get(&self, key: &[u8; 32]) -> Option<Arc<Verified>> {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = shard.young.get(key) {
            return Some(verified.clone());
        }
        let verified = shard.old.remove(key)?;
        shard.insert(*key, verified.clone());
        Some(verified)
    }

    fn insert(&self, key: [u8; 32], verified: Arc<Verified>) {
        self.shard(&key)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, verified);
    }

    fn shard(&self, key: &[u8; 32]) -> &Mutex<Generations> {
        &self.shards[usize::from(key[0]) % Self::SHARDS]
    }
}

impl Generations {
    fn insert(&mut self, key: [u8; 32], verified: Arc<Verified>) {
        if self.young.len() >= Recent::GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        let seed = [seed; 32];
        Signer::new(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap())
    }

    fn app() -> AppId {
        "hotel".parse().unwrap()
    }

    fn user() -> User {
        User {
            app: app(),
            uid: "u1".into(),
            openid: Some("o1".into()),
            login: LoginType::Wechat,
        }
    }

    fn refused(result: Result<Arc<Verified>, Error>) {
        assert!(matches!(result, Err(Error::InvalidToken(_))), "{result:?}");
    }

    #[test]
    fn tokens_round_trip_and_are_looked_up_the_second_time() {
        let signer = signer(1);
        let token = signer.sign(&user(), "s1", Timestamp(5_999), 60).unwrap();
        let verified = signer.verify(&app(), &token).unwrap();
        assert_eq!(
            (&*verified.user, &*verified.sid, verified.exp),
            (&user(), "s1", 65)
        );
        assert!(Arc::ptr_eq(&verified, &signer.verify(&app(), &token).unwrap()));
        refused(signer.verify(&"other".parse().unwrap(), &token));
    }

    #[test]
    fn forged_and_tampered_tokens_are_refused() {
        let signer = signer(1);
        let token = signer.sign(&user(), "s1", Timestamp(0), 60).unwrap();
        refused(signer.verify(
            &app(),
            &self::signer(2).sign(&user(), "s1", Timestamp(0), 60).unwrap(),
        ));
        let parts: Vec<&str> = token.split('.').collect();
        let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let other = URL_SAFE_NO_PAD.encode(payload.replace("u1", "u2"));
        refused(signer.verify(&app(), &format!("{}.{other}.{}", parts[0], parts[2])));
        for header in [
            r#"{"alg":"none","typ":"JWT"}"#,
            r#"{"alg":"HS256","typ":"JWT"}"#,
            "{}",
        ] {
            let header = URL_SAFE_NO_PAD.encode(header);
            refused(signer.verify(&app(), &format!("{header}.{}.", parts[1])));
            refused(signer.verify(&app(), &format!("{header}.{}.{}", parts[1], parts[2])));
        }
        for odd in [
            "",
            ".",
            "..",
            "a.b.c",
            parts[0],
            &format!("{}.{}", parts[0], parts[1]),
            &"a".repeat(5000),
        ] {
            refused(signer.verify(&app(), odd));
        }
        // Every single flipped bit of the token is noticed.
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1;
            refused(signer.verify(&app(), &String::from_utf8(bytes).unwrap()));
        }
    }

    #[test]
    fn the_key_set_has_the_public_key() {
        let jwks: serde_json::Value = serde_json::from_str(&signer(1).jwks()).unwrap();
        let key = &jwks["keys"][0];
        assert_eq!(
            (key["kty"].as_str(), key["crv"].as_str(), key["alg"].as_str()),
            (Some("OKP"), Some("Ed25519"), Some("EdDSA"))
        );
        let x = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
        assert_eq!(x, signer(1).pair.public_key().as_ref());
        assert!(key.get("d").is_none());
    }

    #[test]
    fn memory_of_recent_tokens_is_bounded() {
        let recent = Recent::default();
        let verified = Arc::new(Verified {
            user: Arc::new(user()),
            sid: "s".into(),
            exp: 0,
        });
        for n in 0..100_000_u32 {
            recent.insert(Recent::key(&n.to_string()), verified.clone());
        }
        let held: usize = recent
            .shards
            .iter()
            .map(|s| s.lock().map(|s| s.young.len() + s.old.len()).unwrap())
            .sum();
        assert!(held <= 2 * Recent::SHARDS * Recent::GENERATION_MAX);
        assert!(recent.get(&Recent::key("99999")).is_some() && recent.get(&Recent::key("0")).is_none());
    }
}
