//! Entry points for fuzzing, and what must hold for any input: no panic, and each law checked by assertions.

use bson::RawDocument;

use crate::Limits;
use crate::frame::{self, HEADER_BYTES, Header, ReplyForm};
use crate::scram::{ClientFirst, Credential, Exchange, Mechanism, nonce_bytes};

/// A fuzz target's body.
pub type FuzzTarget = fn(&[u8]);

/// All of them by name; inputs to begin with are in `runtime/fuzz/seeds/NAME`.
pub const FUZZ_TARGETS: &[(&str, FuzzTarget)] = &[("frame", fuzz_frame), ("scram", fuzz_scram)];

/// A message: what parses holds no more than came (compressed data aside), and its body answers as a reply that
/// parses again.
pub fn fuzz_frame(data: &[u8]) {
    let bytes_max = Limits::default().message_bytes_max;
    let Some((head, payload)) = data.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let Ok(header) = Header::parse(head, bytes_max) else {
        return;
    };
    if header.length != data.len() {
        return;
    }
    let Ok(request) = frame::parse(&header, payload, bytes_max) else {
        return;
    };
    let documents = request.sequences.iter().flat_map(|s| &s.documents);
    let held: usize = documents.map(|d| d.as_bytes().len()).sum();
    assert!(held <= bytes_max, "documents of {held} bytes in one message");
    if matches!(request.reply, ReplyForm::Msg(None)) {
        assert!(held < data.len(), "documents of {held} bytes in {}", data.len());
    }
    let reply = frame::encode_reply(&request.body, request.reply, 7, request.id);
    let Some(reply) = reply else {
        assert_eq!(request.reply, ReplyForm::Silent);
        return;
    };
    let Some((head, payload)) = reply.split_first_chunk::<HEADER_BYTES>() else {
        panic!("a reply without a header")
    };
    // The name of the database that a command in OP_QUERY gets, and the header, are all that is added.
    let Ok(header) = Header::parse(head, bytes_max + 1024) else {
        panic!("a reply with a header that is none")
    };
    assert_eq!(header.length, reply.len());
    if let ReplyForm::Msg(compressor) = request.reply {
        let again = frame::parse(&header, payload, bytes_max + 1024).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again.body, request.body);
        assert_eq!(again.reply, ReplyForm::Msg(compressor));
    } else {
        let document = payload.get(20..).and_then(|p| RawDocument::from_bytes(p).ok());
        assert_eq!(document, Some(&*request.body));
    }
}

/// A login: the client's first message, a zero byte, its final message. Nobody gets in whose credential fits no password.
pub fn fuzz_scram(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (first, last) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some(first) = ClientFirst::parse(first) else {
        return;
    };
    for mechanism in Mechanism::ALL {
        let nobody = Credential::of_nobody(mechanism, &[3; 32], &first.user);
        let (exchange, _) = Exchange::begin(mechanism, &first, nobody, &[0; nonce_bytes()]);
        assert_eq!(exchange.finish(last), None, "somebody got in");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cloudlet_base::{Entropy as _, SeededEntropy};

    use super::*;

    /// Changed inputs for each seed.
    const CHANGED_PER_SEED: usize = 1000;
    /// Changes to one input, at most.
    const CHANGES_MAX: usize = 4;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../fuzz/seeds", name]
            .iter()
            .collect();
        let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{dir:?}: {error}"))
            .map(|file| file.unwrap().path())
            .collect();
        // The order of a directory differs from machine to machine.
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    struct Changer(SeededEntropy);

    impl Changer {
        fn below(&mut self, bound: usize) -> usize {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            usize::try_from(u64::from_le_bytes(bytes) % bound.max(1) as u64).unwrap()
        }

        /// Bytes that are others, gone, or more. Every other time the first four still say how long the message is, or
        /// nothing behind the header would ever be looked at.
        fn change(&mut self, seed: &[u8]) -> Vec<u8> {
            let mut input = seed.to_vec();
            for _ in 0..=self.below(CHANGES_MAX) {
                let at = self.below(input.len());
                let end = (at + self.below(9)).min(input.len());
                match self.below(4) {
                    0 if at < input.len() => input[at] ^= 1 << self.below(8),
                    1 if at < input.len() => input[at] = [0, 1, 0x2C, 0x7F, 0x80, 0xFF][self.below(6)],
                    2 => drop(input.drain(at..end)),
                    _ => {
                        let again = input[at..end].to_vec();
                        drop(input.splice(at..at, again));
                    }
                }
            }
            let length = u32::try_from(input.len()).unwrap().to_le_bytes();
            if seed.first_chunk() == Some(&u32::try_from(seed.len()).unwrap().to_le_bytes())
                && input.len() >= length.len()
                && self.below(2) == 0
            {
                input[..length.len()].copy_from_slice(&length);
            }
            input
        }
    }

    fn replay(name: &str) {
        let (_, target) = FUZZ_TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        let mut changer = Changer(SeededEntropy::new(1));
        for seed in &seeds(name) {
            target(seed);
            for _ in 0..CHANGED_PER_SEED {
                let input = changer.change(seed);
                let survived = std::panic::catch_unwind(|| target(&input));
                assert!(survived.is_ok(), "{name} fails with {input:02x?}");
            }
        }
    }

    #[test]
    fn frame_survives_its_seeds_and_changes_of_them() {
        replay("frame");
    }

    #[test]
    fn scram_survives_its_seeds_and_changes_of_them() {
        replay("scram");
    }
}
