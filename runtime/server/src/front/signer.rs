//! Keyed signatures under upload and download URLs: HMAC-SHA256 over a purpose and its parts, each part preceded by
//! its length so that no two lists of parts read the same. Who is given which signature is client_api/storages.rs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

/// What a signature is for; one never passes for another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Reading one object.
    Download,
    /// Storing one object.
    Upload,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Purpose::Download => "download",
            Purpose::Upload => "upload",
        }
    }
}

/// Signs and checks with the node's key.
pub(crate) struct Signer(hmac::Key);

impl Signer {
    /// A signer with this key.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The signature of `parts`, URL-safe.
    pub(crate) fn sign(&self, purpose: Purpose, parts: &[&str]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, &message(purpose, parts)))
    }

    /// Whether `signature` is that of `parts`; takes the same time wherever they differ.
    pub(crate) fn verify(&self, purpose: Purpose, parts: &[&str], signature: &str) -> bool {
        URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|tag| hmac::verify(&self.0, &message(purpose, parts), &tag).is_ok())
    }
}

fn message(purpose: Purpose, parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    for part in std::iter::once(&purpose.label()).chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_parts_only() {
        let signer = Signer::new(&[1; 32]);
        let tag = signer.sign(Purpose::Download, &["app", "a/b", "17"]);
        assert!(signer.verify(Purpose::Download, &["app", "a/b", "17"], &tag));
        assert!(!signer.verify(Purpose::Upload, &["app", "a/b", "17"], &tag));
        assert!(!signer.verify(Purpose::Download, &["app", "a/b1", "7"], &tag));
        assert!(!signer.verify(Purpose::Download, &["app", "a/b", "17"], "nonsense"));
        assert!(!Signer::new(&[2; 32]).verify(Purpose::Download, &["app", "a/b", "17"], &tag));
    }
}
