//! Identifiers as types. Each is made only by parsing or from raw random bytes, so that a value of the type
//! is known to be well formed everywhere inside.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Entropy;

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    what: &'static str,
    seen: String,
    expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid {} {:?}; expected {}",
            self.what, self.seen, self.expected
        )
    }
}

impl std::error::Error for InvalidId {}

/// The name of an app (a tenant): 1 to [`AppId::LEN_MAX`] bytes of `a-z`, `0-9` and `-`, beginning with a
/// letter and not ending with `-`, so that it can be a host name label and a database name. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(Arc<str>);

impl AppId {
    /// Longest app name, in bytes.
    pub const LEN_MAX: usize = 40;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maps by app are looked up with a host's label as it is; the hash of an `AppId` is that of its text.
impl std::borrow::Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        let ok = (1..=Self::LEN_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes[bytes.len() - 1] != b'-'
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if ok {
            return Ok(Self(text.into()));
        }
        Err(InvalidId {
            what: "app name",
            seen: text.chars().take(80).collect(),
            expected: "1 to 40 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
        })
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a deployment within its app: 1 for the first, one more each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId(pub u64);

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The SHA-256 of some content; its name in the content-addressed stores. Displays as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Wraps a digest that the caller has computed.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ContentHash {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        decode_hex::<32>(text).map(Self).ok_or_else(|| InvalidId {
            what: "content hash",
            seen: text.chars().take(80).collect(),
            expected: "64 lower-case hex digits",
        })
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of one request, 128 random bits; displays as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A fresh id.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(u128::from_be_bytes(bytes))
    }

    /// Wraps bits that the caller drew from a good source.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits, as [`RequestId::from_bits`] takes them.
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// The 32 ASCII hex digits, without allocating.
    pub fn to_hex(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (i, byte) in self.0.to_be_bytes().iter().enumerate() {
            out[2 * i] = HEX[usize::from(byte >> 4)];
            out[2 * i + 1] = HEX[usize::from(byte & 15)];
        }
        out
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        decode_hex::<16>(text)
            .map(|b| Self(u128::from_be_bytes(b)))
            .ok_or_else(|| InvalidId {
                what: "request id",
                seen: text.chars().take(80).collect(),
                expected: "32 lower-case hex digits",
            })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0.to_be_bytes())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (i, slot) in out.iter_mut().enumerate() {
        *slot = nibble(bytes[2 * i])? << 4 | nibble(bytes[2 * i + 1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_are_host_labels() {
        for good in ["a", "hotel", "my-app2", "a1", &"a".repeat(40)] {
            assert_eq!(good.parse::<AppId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Hotel",
            "1a",
            "-a",
            "a-",
            "a.b",
            "a_b",
            "a b",
            "é",
            &"a".repeat(41),
        ] {
            assert!(bad.parse::<AppId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hashes_and_request_ids_round_trip() {
        let hash = ContentHash::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(hash.to_string().parse::<ContentHash>().unwrap(), hash);
        let id = RequestId::from_bits(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.to_hex(), *b"0123456789abcdef0011223344556677");
        assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
        for bad in [
            "",
            "0",
            "0123456789ABCDEF0011223344556677",
            "0123456789abcdef001122334455667g",
        ] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?}");
        }
    }
}
