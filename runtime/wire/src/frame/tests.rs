//! Frames as tables: what is taken, what is answered, what ends the connection.

use bson::rawdoc;

use super::*;

const MAX: usize = 1 << 20;

fn framed(opcode: i32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        length: HEADER_BYTES + payload.len(),
        request_id: 7,
        response_to: 0,
        opcode,
    };
    let mut out = Vec::new();
    header.write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn msg(flags: u32, sections: &[&[u8]]) -> Vec<u8> {
    let mut payload = flags.to_le_bytes().to_vec();
    payload.extend(sections.concat());
    payload
}

fn body() -> Vec<u8> {
    let mut section = vec![0];
    section.extend_from_slice(rawdoc! { "ping": 1, "$db": "admin" }.as_bytes());
    section
}

fn sequence(name: &str, documents: &[&[u8]]) -> Vec<u8> {
    let mut inner = name.as_bytes().to_vec();
    inner.push(0);
    inner.extend(documents.concat());
    let mut section = vec![1];
    section.extend_from_slice(&(inner.len() as i32 + 4).to_le_bytes());
    section.extend(inner);
    section
}

fn read(bytes: &[u8]) -> Result<Request, FrameError> {
    let header = Header::parse(bytes[..HEADER_BYTES].try_into().unwrap(), MAX)?;
    assert_eq!(header.length, bytes.len());
    parse(&header, &bytes[HEADER_BYTES..], MAX)
}

#[track_caller]
fn taken(opcode: i32, payload: &[u8]) -> Request {
    let request = read(&framed(opcode, payload)).unwrap();
    assert_eq!(request.id, 7);
    assert_eq!(request.body.get_str("$db").unwrap(), "admin");
    request
}

#[track_caller]
fn ends(opcode: i32, payload: &[u8], why: &str) {
    match read(&framed(opcode, payload)) {
        Err(FrameError::Malformed(what)) => assert_eq!(what, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn takes_messages() {
    let plain = taken(OP_MSG, &msg(0, &[&body()]));
    assert_eq!(plain.reply, ReplyForm::Msg(None));
    let silent = taken(OP_MSG, &msg(MORE_TO_COME, &[&body()]));
    assert_eq!(silent.reply, ReplyForm::Silent);
    // exhaustAllowed and other optional bits change nothing.
    taken(OP_MSG, &msg(0xffff_0000, &[&body()]));
    let one = rawdoc! { "_id": 1 };
    let rows = sequence("documents", &[one.as_bytes(), one.as_bytes()]);
    for sections in [
        [body(), rows.clone(), sequence("more", &[])],
        [rows, sequence("more", &[]), body()],
    ] {
        let request = taken(OP_MSG, &msg(0, &[&sections[0], &sections[1], &sections[2]]));
        assert_eq!(request.sequences.len(), 2);
        assert_eq!(request.sequences[0].name, "documents");
        assert_eq!(request.sequences[0].documents, [one.clone(), one.clone()]);
    }
}

#[test]
fn checks_the_checksum() {
    let mut payload = msg(CHECKSUM_PRESENT, &[&body()]);
    payload.extend_from_slice(&[0; 4]);
    ends(OP_MSG, &payload, "the checksum is wrong");
    let mut bytes = framed(OP_MSG, &payload);
    let end = bytes.len() - 4;
    let sum = crc32c(&[&bytes[..end]]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    assert!(read(&bytes).is_ok());
    bytes[end - 2] ^= 1;
    assert!(read(&bytes).is_err());
}

#[test]
fn takes_compressed_messages_and_answers_in_kind() {
    for compressor in Compressor::OFFERED {
        let inner = msg(0, &[&body()]);
        let pack = |opcode: i32, size: usize| {
            let mut payload = opcode.to_le_bytes().to_vec();
            payload.extend_from_slice(&(size as i32).to_le_bytes());
            payload.push(compressor.id());
            payload.extend(compressor.compress(&inner).unwrap());
            payload
        };
        let request = taken(OP_COMPRESSED, &pack(OP_MSG, inner.len()));
        assert_eq!(request.reply, ReplyForm::Msg(Some(compressor)));
        ends(
            OP_COMPRESSED,
            &pack(OP_MSG, inner.len() + 1),
            "compressed data are damaged",
        );
        ends(
            OP_COMPRESSED,
            &pack(OP_MSG, MAX),
            "uncompressed size out of bounds",
        );
        ends(
            OP_COMPRESSED,
            &pack(OP_COMPRESSED, inner.len()),
            "only OP_MSG may be compressed",
        );
        let reply = rawdoc! { "ok": 1.0, "$db": "admin" };
        let bytes = encode_reply(&reply, request.reply, 9, 7).unwrap().whole();
        let back = read(&bytes).unwrap();
        assert_eq!((back.id, back.body), (9, reply));
    }
}

#[test]
fn takes_the_first_word_of_old_drivers() {
    let mut payload = 4_i32.to_le_bytes().to_vec();
    payload.extend_from_slice(b"admin.$cmd\0");
    payload.extend_from_slice(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let plain = [&payload, rawdoc! { "isMaster": 1 }.as_bytes()].concat();
    let request = taken(OP_QUERY, &plain);
    assert_eq!(request.reply, ReplyForm::Legacy);
    let wrapped = rawdoc! { "$query": { "ismaster": 1 }, "$readPreference": { "mode": "primary" } };
    let request = taken(OP_QUERY, &[&payload, wrapped.as_bytes()].concat());
    assert!(request.body.get_i32("ismaster").is_ok());
    let other = [&[0; 4][..], b"admin.users\0", &[0; 8], rawdoc! {}.as_bytes()].concat();
    ends(OP_QUERY, &other, "OP_QUERY carries commands only");
    let ok = rawdoc! { "ok": 1 };
    let bytes = encode_reply(&ok, ReplyForm::Legacy, 1, 2).unwrap().whole();
    assert_eq!(bytes.len(), 16 + 20 + rawdoc! { "ok": 1 }.as_bytes().len());
    assert_eq!(bytes[12..20], [1, 0, 0, 0, 8, 0, 0, 0]);
}

#[test]
fn malformed_frames_end_the_connection() {
    let long = "a part is longer than the message";
    ends(2001, &[], "unknown opcode");
    ends(OP_MSG, &[], long);
    ends(OP_MSG, &msg(0, &[]), "no body");
    ends(OP_MSG, &msg(0, &[&body(), &body()]), "two bodies");
    ends(OP_MSG, &msg(4, &[&body()]), "an unknown flag that must be known");
    ends(OP_MSG, &msg(1, &[]), "no room for the checksum");
    ends(OP_MSG, &msg(0, &[&[2], &body()]), "unknown kind of section");
    ends(OP_MSG, &msg(0, &[&body()[..9]]), long);
    ends(OP_MSG, &msg(0, &[&[0, 3, 0, 0, 0]]), long);
    ends(
        OP_MSG,
        &msg(0, &[&[0, 0xff, 0xff, 0xff, 0xff]]),
        "a negative length",
    );
    ends(
        OP_MSG,
        &msg(0, &[&[1, 6, 0, 0, 0, b'a', b'b'], &body()]),
        "a name without an end",
    );
    let twice = sequence("a", &[]);
    ends(
        OP_MSG,
        &msg(0, &[&body(), &twice, &twice]),
        "two sequences of one name",
    );
    let many: Vec<Vec<u8>> = (0..20).map(|i| sequence(&i.to_string(), &[])).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    ends(OP_MSG, &msg(0, &many), "too many sections");
    for length in [-1, 0, 15, MAX as i32 + 1, i32::MAX, i32::MIN] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        assert!(Header::parse(&header, MAX).is_err(), "{length}");
    }
}

#[test]
fn malformed_documents_are_answered() {
    // A document that is as long as it says, and does not end with a zero.
    let bad = [0, 6, 0, 0, 0, 1, 1];
    for (flags, expected) in [(0, false), (MORE_TO_COME, true)] {
        match read(&framed(OP_MSG, &msg(flags, &[&bad]))) {
            Err(FrameError::Document { silent, .. }) => assert_eq!(silent, expected),
            other => panic!("{other:?}"),
        }
    }
    let rows = sequence("documents", &[&bad[1..]]);
    assert!(matches!(
        read(&framed(OP_MSG, &msg(0, &[&body(), &rows]))),
        Err(FrameError::Document { .. })
    ));
}

proptest::proptest! {
    /// Whatever comes, parsing ends, and what it gives is no larger than what it got.
    #[test]
    fn any_bytes_are_parsed_or_refused(
        opcode in proptest::sample::select(vec![OP_MSG, OP_QUERY, OP_COMPRESSED, 0]),
        flags in proptest::sample::select(vec![0, 1, 2, 0x1_0000, 4]),
        mut payload in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        cut in 0_usize..80,
        kept in 0_usize..80,
    ) {
        // A valid message with a part of it overwritten gets further in than noise does.
        let valid = msg(flags, &[&body(), &sequence("documents", &[rawdoc! { "a": 1 }.as_bytes()])]);
        let at = cut.min(valid.len());
        let mut bytes = valid[..at].to_vec();
        bytes.append(&mut payload);
        bytes.extend_from_slice(&valid[at.max(valid.len().saturating_sub(kept))..]);
        if let Ok(request) = read(&framed(opcode, &bytes)) {
            let documents = request.sequences.iter().flat_map(|sequence| &sequence.documents);
            let size: usize = documents.map(|document| document.as_bytes().len()).sum();
            proptest::prop_assert!(size <= bytes.len());
        }
    }
}
