//! Bodies of the fuzz targets of files, and what must hold for any input.

use std::io::{BufReader, Cursor};

use super::{
    DocumentReader, DocumentWriter, Encoding, JsonStyle, Place, Shape, parse_document, print_document,
};

/// A fuzz target's body.
pub type FuzzTarget = fn(&[u8]);

/// All of them by name; inputs to begin with are in `runtime/fuzz/seeds/NAME`.
pub const FUZZ_TARGETS: &[(&str, FuzzTarget)] = &[("import_bson", import_bson), ("import_json", import_json)];

/// How many bytes a reader sees at once.
const BUFFER_BYTES: usize = 13;

/// Any bytes as JSON: what is read comes back from what is written of it, and reading goes on at every place.
pub fn import_json(data: &[u8]) {
    read(data, Encoding::Json, |document| {
        let mut text = Vec::new();
        print_document(document, JsonStyle::Canonical, &mut text).expect("what was read can be written");
        let again = parse_document(&text).expect("what was written can be read");
        assert_eq!(again.as_ref(), document);
    });
}

/// Any bytes as BSON: what is read is written with the same bytes, and as text in every style.
pub fn import_bson(data: &[u8]) {
    let mut written = Vec::new();
    let mut writer = DocumentWriter::new(Shape::Bson, 0);
    let place = read(data, Encoding::Bson, |document| {
        writer
            .write(document, &mut written)
            .expect("memory takes everything");
        for style in [JsonStyle::Canonical, JsonStyle::Relaxed, JsonStyle::CloudBase] {
            let mut text = Vec::new();
            print_document(document, style, &mut text).expect("what was read can be written");
            // Names like those of typed values are read as these, or refused.
            let _ = parse_document(&text);
        }
    });
    assert!(data.starts_with(&written));
    assert_eq!(place.bytes, written.len() as u64);
}

/// Reads to the end or to the first mistake; gives the place where that was.
fn read(data: &[u8], encoding: Encoding, mut each: impl FnMut(&bson::RawDocument)) -> Place {
    let mut reader = DocumentReader::new(BufReader::with_capacity(BUFFER_BYTES, data), encoding);
    loop {
        let place = reader.place();
        let next = reader.read();
        let mut resumed = Cursor::new(data);
        resumed.set_position(place.bytes);
        let again = DocumentReader::resume(resumed, encoding, place).read();
        match (next, again) {
            (Ok(Some(stored)), Ok(Some(again))) => {
                assert_eq!(stored, again, "reading went on elsewhere");
                assert!(reader.place().bytes > place.bytes);
                each(&stored.document);
            }
            (Ok(None), Ok(None)) => return place,
            (Err(error), Err(again)) => {
                assert_eq!(error.to_string(), again.to_string());
                assert_eq!(reader.place(), place, "a mistake moved the place");
                return place;
            }
            (next, again) => panic!("read {next:?}, and resumed {again:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use cloudlet_docdb::testing::replay::replay;

    use super::*;

    #[test]
    fn targets_survive_their_seeds_and_changes_of_them() {
        for (name, target) in FUZZ_TARGETS {
            replay(name, *target, |dice, seed| {
                (0..dice.changes()).fold(seed.to_vec(), |input, _| {
                    dice.change_bytes(input, b"\0\x01{}[]\",:\\$0\x7F\xFF")
                })
            });
        }
    }
}
