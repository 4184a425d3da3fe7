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
    let Some(reply) = reply.map(frame::Encoded::whole) else {
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
    use cloudlet_docdb::testing::replay::{Dice, replay};

    use super::*;

    /// Bytes that are others, gone, or more. Every other time the first four still say how long the message is, or
    /// nothing behind the header would ever be looked at.
    fn change(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
        let mut input = seed.to_vec();
        for _ in 0..dice.changes() {
            input = dice.change_bytes(input, &[0, 1, 0x2C, 0x7F, 0x80, 0xFF]);
        }
        let length = u32::try_from(input.len()).unwrap().to_le_bytes();
        if seed.first_chunk() == Some(&u32::try_from(seed.len()).unwrap().to_le_bytes())
            && input.len() >= length.len()
            && dice.below(2) == 0
        {
            input[..length.len()].copy_from_slice(&length);
        }
        input
    }

    #[test]
    fn targets_survive_their_seeds_and_changes_of_them() {
        for (name, target) in FUZZ_TARGETS {
            replay(name, *target, change);
        }
    }
}
