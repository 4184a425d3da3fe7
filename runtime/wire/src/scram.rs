//! SCRAM-SHA-256 and SCRAM-SHA-1 (RFC 5802, RFC 7677), the server's side. Stored are keys from which the password
//! can't be had back; an unknown user takes the same steps as a known one and fails at the same place.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest as _;
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq as _;

/// How often a password is hashed.
const ITERATIONS: u32 = 15_000;
/// Bytes of a fresh server nonce before it is written as text.
const NONCE_BYTES: usize = 24;
/// Longest message of a client, so that a login holds no more memory than this.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Sha1,
    Sha256,
}

impl Mechanism {
    pub(crate) const ALL: [Mechanism; 2] = [Mechanism::Sha1, Mechanism::Sha256];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mechanism::Sha1 => "SCRAM-SHA-1",
            Mechanism::Sha256 => "SCRAM-SHA-256",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    fn hmac_algorithm(self) -> hmac::Algorithm {
        match self {
            Mechanism::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Mechanism::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn hash(self, data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Mechanism::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Mechanism::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, data).as_ref().to_vec()
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac_algorithm(), key), data)
            .as_ref()
            .to_vec()
    }

    fn salted(self, password: &[u8], salt: &[u8], iterations: std::num::NonZeroU32) -> Vec<u8> {
        let (algorithm, bytes) = match self {
            Mechanism::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN),
            Mechanism::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
        };
        let mut out = vec![0; bytes];
        pbkdf2::derive(algorithm, iterations, salt, password, &mut out);
        out
    }

    /// Bytes of a salt: the hash's less the four that the first block of PBKDF2 appends.
    pub(crate) fn salt_bytes(self) -> usize {
        match self {
            Mechanism::Sha1 => digest::SHA1_OUTPUT_LEN - 4,
            Mechanism::Sha256 => digest::SHA256_OUTPUT_LEN - 4,
        }
    }
}

/// What is stored of a password for one mechanism.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Vec<u8>,
    pub(crate) server_key: Vec<u8>,
}

impl Credential {
    /// Derives what is stored. Takes milliseconds on purpose: not on a thread that serves connections.
    ///
    /// # Errors
    /// When the password has characters that SASLprep forbids.
    pub(crate) fn derive(
        mechanism: Mechanism,
        user: &str,
        password: &str,
        salt: Vec<u8>,
    ) -> Result<Self, &'static str> {
        let iterations = std::num::NonZeroU32::new(ITERATIONS).unwrap_or(std::num::NonZeroU32::MIN);
        let prepared = match mechanism {
            Mechanism::Sha1 => hex(&md5::Md5::digest(format!("{user}:mongo:{password}"))),
            Mechanism::Sha256 => stringprep::saslprep(password)
                .map_err(|_| "the password has characters that a password must not have")?
                .into_owned(),
        };
        let salted = mechanism.salted(prepared.as_bytes(), &salt, iterations);
        let client_key = mechanism.hmac(&salted, b"Client Key");
        Ok(Self {
            iterations: ITERATIONS,
            salt,
            stored_key: mechanism.hash(&client_key),
            server_key: mechanism.hmac(&salted, b"Server Key"),
        })
    }

    /// A credential that no password fits, always the same for a user so that its salt gives nothing away.
    pub(crate) fn of_nobody(mechanism: Mechanism, secret: &[u8; 32], who: &str) -> Self {
        let part =
            |what: &str| mechanism.hmac(secret, format!("{what} {} {who}", mechanism.name()).as_bytes());
        let mut salt = part("salt");
        salt.truncate(mechanism.salt_bytes());
        Self {
            iterations: ITERATIONS,
            salt,
            stored_key: part("stored"),
            server_key: part("server"),
        }
    }
}

/// A client's first message, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    pub(crate) user: String,
    nonce: String,
    /// The message without its channel binding header.
    bare: String,
    /// That header, which the final message repeats.
    header: String,
}

impl ClientFirst {
    /// Parses `n,,n=user,r=nonce`.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?;
        // No channel binding: "n" is without, "y" would have liked one. An authorization id has no use here.
        let (binding, rest) = text.split_once(',')?;
        let (authorization, bare) = rest.split_once(',')?;
        if !matches!(binding, "n" | "y") || !authorization.is_empty() {
            return None;
        }
        let (user, nonce) = bare.split_once(',')?;
        let nonce = nonce.strip_prefix("r=")?.split(',').next()?;
        let user = user.strip_prefix("n=")?;
        if nonce.is_empty() || user.is_empty() {
            return None;
        }
        Some(Self {
            user: user.replace("=2C", ",").replace("=3D", "="),
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
            header: format!("{binding},{authorization},"),
        })
    }
}

/// A login between its first and its final message.
#[derive(Debug)]
pub(crate) struct Exchange {
    mechanism: Mechanism,
    credential: Credential,
    nonce: String,
    header: String,
    /// Client's first message and the server's, as both sides sign them.
    transcript: String,
}

impl Exchange {
    /// Begins; the second value is the reply to the client's first message.
    pub(crate) fn begin(
        mechanism: Mechanism,
        first: &ClientFirst,
        credential: Credential,
        random: &[u8; NONCE_BYTES],
    ) -> (Self, String) {
        let nonce = format!("{}{}", first.nonce, BASE64.encode(random));
        let reply = format!(
            "r={nonce},s={},i={}",
            BASE64.encode(&credential.salt),
            credential.iterations
        );
        let exchange = Self {
            mechanism,
            credential,
            nonce,
            header: first.header.clone(),
            transcript: format!("{},{reply}", first.bare),
        };
        (exchange, reply)
    }

    /// Checks the client's final message; the reply proves to the client that we know the user too.
    pub(crate) fn finish(&self, payload: &[u8]) -> Option<String> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let header = BASE64.decode(parts.next()?.strip_prefix("c=")?).ok()?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        if header != self.header.as_bytes() || nonce != self.nonce {
            return None;
        }
        let signed = format!("{},{without_proof}", self.transcript);
        let proof = BASE64.decode(proof).ok()?;
        let signature = self
            .mechanism
            .hmac(&self.credential.stored_key, signed.as_bytes());
        if proof.len() != signature.len() {
            return None;
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let fits: bool = self
            .mechanism
            .hash(&client_key)
            .ct_eq(&self.credential.stored_key)
            .into();
        let proof = self
            .mechanism
            .hmac(&self.credential.server_key, signed.as_bytes());
        fits.then(|| format!("v={}", BASE64.encode(proof)))
    }
}

/// Bytes of randomness that [`Exchange::begin`] takes.
pub(crate) const fn nonce_bytes() -> usize {
    NONCE_BYTES
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's side, for the tests.
    fn client_final(
        mechanism: Mechanism,
        user: &str,
        password: &str,
        first_bare: &str,
        server_first: &str,
    ) -> (String, String) {
        let mut parts = server_first.split(',');
        let nonce = parts.next().unwrap();
        let salt = BASE64
            .decode(parts.next().unwrap().strip_prefix("s=").unwrap())
            .unwrap();
        let iterations: u32 = parts.next().unwrap().strip_prefix("i=").unwrap().parse().unwrap();
        let prepared = match mechanism {
            Mechanism::Sha1 => hex(&md5::Md5::digest(format!("{user}:mongo:{password}"))),
            Mechanism::Sha256 => password.to_owned(),
        };
        let salted = mechanism.salted(prepared.as_bytes(), &salt, iterations.try_into().unwrap());
        let client_key = mechanism.hmac(&salted, b"Client Key");
        let without_proof = format!("c=biws,{nonce}");
        let signed = format!("{first_bare},{server_first},{without_proof}");
        let signature = mechanism.hmac(&mechanism.hash(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server = mechanism.hmac(&mechanism.hmac(&salted, b"Server Key"), signed.as_bytes());
        (
            format!("{without_proof},p={}", BASE64.encode(proof)),
            format!("v={}", BASE64.encode(server)),
        )
    }

    #[test]
    fn only_the_right_password_gets_in() {
        for mechanism in Mechanism::ALL {
            let credential = Credential::derive(mechanism, "ann", "pencil", vec![7; mechanism.salt_bytes()]);
            let credential = credential.unwrap();
            let first = ClientFirst::parse(b"n,,n=ann,r=abc").unwrap();
            let (exchange, reply) = Exchange::begin(mechanism, &first, credential, &[1; NONCE_BYTES]);
            let (good, proof) = client_final(mechanism, "ann", "pencil", "n=ann,r=abc", &reply);
            assert_eq!(exchange.finish(good.as_bytes()), Some(proof));
            let (bad, _) = client_final(mechanism, "ann", "pencils", "n=ann,r=abc", &reply);
            assert_eq!(exchange.finish(bad.as_bytes()), None);
            for broken in [
                "",
                "p=",
                &good.replace("c=biws", "c=eSws"),
                &good.replace("r=abc", "r=abd"),
                &good[..good.len() - 4],
            ] {
                assert_eq!(exchange.finish(broken.as_bytes()), None, "{broken}");
            }
            let nobody = Credential::of_nobody(mechanism, &[3; 32], "db.bob");
            assert_eq!(nobody.salt.len(), mechanism.salt_bytes());
            let (exchange, reply) = Exchange::begin(mechanism, &first, nobody, &[1; NONCE_BYTES]);
            let (any, _) = client_final(mechanism, "ann", "pencil", "n=ann,r=abc", &reply);
            assert_eq!(exchange.finish(any.as_bytes()), None);
        }
    }

    #[test]
    fn derives_the_keys_of_the_rfc() {
        // RFC 7677, section 3: user "user", password "pencil", 4096 rounds.
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let salted = Mechanism::Sha256.salted(b"pencil", &salt, 4096.try_into().unwrap());
        let stored = Mechanism::Sha256.hash(&Mechanism::Sha256.hmac(&salted, b"Client Key"));
        let exchange = Exchange {
            mechanism: Mechanism::Sha256,
            credential: Credential {
                iterations: 4096,
                salt,
                stored_key: stored,
                server_key: Mechanism::Sha256.hmac(&salted, b"Server Key"),
            },
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
            header: "n,,".to_owned(),
            transcript: "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                         r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
                .to_owned(),
        };
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            exchange.finish(last.as_bytes()).as_deref(),
            Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
    }

    #[test]
    fn takes_first_messages_apart() {
        let names = |text: &str| ClientFirst::parse(text.as_bytes()).map(|first| first.user);
        assert_eq!(names("n,,n=a=2Cb=3Dc,r=x"), Some("a,b=c".to_owned()));
        assert_eq!(names("y,,n=a,r=x,ext=1"), Some("a".to_owned()));
        for bad in [
            "",
            "n",
            "n,,",
            "n,,n=,r=x",
            "n,,n=a,r=",
            "p=tls,,n=a,r=x",
            "n,a=b,n=a,r=x",
            "n,,r=x,n=a",
        ] {
            assert_eq!(names(bad), None, "{bad}");
        }
        assert_eq!(names(&format!("n,,n={},r=x", "a".repeat(5000))), None);
    }
}
