//! Random identifiers and secrets as text: base32 (RFC 4648, lower case, no padding), which has no character that a
//! shell, a URL or a double click trips over, and no `_`, which separates the parts of our tokens.

use cloudlet_base::Entropy;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Longest token text that is looked at.
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;

/// `bytes` in base32.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            out.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        out.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
    }
    out
}

/// `N` random bytes in base32: 26 characters for 16, 52 for 32.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    base32(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_the_rfcs() {
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }
}
