//! What files have, as tables; and the laws that hold for all documents.

use std::io::{BufReader, Cursor};

use bson::oid::ObjectId;
use bson::raw::{CString, cstr};
use bson::spec::BinarySubtype;
use bson::{
    Binary, DateTime, Decimal128, RawArrayBuf, RawBson, RawDocumentBuf, RawJavaScriptCodeWithScope, Regex,
    Timestamp, rawdoc,
};
use proptest::prelude::*;

use super::*;

fn print(document: &bson::RawDocument, style: JsonStyle) -> String {
    let mut text = Vec::new();
    print_document(document, style, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn read_all(bytes: &[u8], encoding: Encoding) -> Result<Vec<Stored>, ReadError> {
    // A small buffer, so that documents lie across its ends.
    let mut reader = DocumentReader::new(BufReader::with_capacity(7, bytes), encoding);
    let mut all = Vec::new();
    while let Some(stored) = reader.read()? {
        all.push(stored);
    }
    assert_eq!(reader.place().documents, all.len() as u64);
    assert!(reader.place().bytes <= bytes.len() as u64);
    Ok(all)
}

/// A document with one element of raw bytes.
fn element(kind: u8, payload: &[u8]) -> RawDocumentBuf {
    let length = i32::try_from(4 + 3 + payload.len() + 1).unwrap();
    let bytes = [&length.to_le_bytes()[..], &[kind, b'v', 0], payload, &[0]].concat();
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

/// Every BSON type, with its canonical text and, where that is another, the relaxed one.
fn types() -> Vec<(RawDocumentBuf, &'static str, Option<&'static str>)> {
    let id = ObjectId::parse_str("507f1f77bcf86cd799439011").unwrap();
    let binary = |subtype: BinarySubtype| Binary {
        subtype,
        bytes: vec![1, 2, 255],
    };
    let date = |millis| rawdoc! { "v": DateTime::from_millis(millis) };
    let pointer = [&3_i32.to_le_bytes()[..], b"ab\0", &id.bytes()].concat();
    vec![
        (
            rawdoc! { "v": 1.5 },
            r#"{"v":{"$numberDouble":"1.5"}}"#,
            Some(r#"{"v":1.5}"#),
        ),
        (
            rawdoc! { "v": 5.0 },
            r#"{"v":{"$numberDouble":"5.0"}}"#,
            Some(r#"{"v":5.0}"#),
        ),
        (
            rawdoc! { "v": -0.0 },
            r#"{"v":{"$numberDouble":"-0.0"}}"#,
            Some(r#"{"v":-0.0}"#),
        ),
        (
            rawdoc! { "v": 1e300 },
            r#"{"v":{"$numberDouble":"1e300"}}"#,
            Some(r#"{"v":1e300}"#),
        ),
        (
            rawdoc! { "v": f64::INFINITY },
            r#"{"v":{"$numberDouble":"Infinity"}}"#,
            None,
        ),
        (
            rawdoc! { "v": f64::NEG_INFINITY },
            r#"{"v":{"$numberDouble":"-Infinity"}}"#,
            None,
        ),
        (
            rawdoc! { "v": f64::NAN },
            r#"{"v":{"$numberDouble":"NaN"}}"#,
            None,
        ),
        (
            rawdoc! { "v": "a\"\\\n\u{1}é😀\0" },
            "{\"v\":\"a\\\"\\\\\\n\\u0001é😀\\u0000\"}",
            None,
        ),
        (
            rawdoc! { "v": { "b": true, "": null } },
            r#"{"v":{"b":true,"":null}}"#,
            None,
        ),
        (rawdoc! { "v": ["x", [], {}] }, r#"{"v":["x",[],{}]}"#, None),
        (
            rawdoc! { "v": binary(BinarySubtype::Generic) },
            r#"{"v":{"$binary":{"base64":"AQL/","subType":"00"}}}"#,
            None,
        ),
        (
            rawdoc! { "v": binary(BinarySubtype::BinaryOld) },
            r#"{"v":{"$binary":{"base64":"AQL/","subType":"02"}}}"#,
            None,
        ),
        (
            rawdoc! { "v": binary(BinarySubtype::UserDefined(0x80)) },
            r#"{"v":{"$binary":{"base64":"AQL/","subType":"80"}}}"#,
            None,
        ),
        (element(0x06, &[]), r#"{"v":{"$undefined":true}}"#, None),
        (
            rawdoc! { "v": id },
            r#"{"v":{"$oid":"507f1f77bcf86cd799439011"}}"#,
            None,
        ),
        (
            date(1_535_650_250_882),
            r#"{"v":{"$date":{"$numberLong":"1535650250882"}}}"#,
            Some(r#"{"v":{"$date":"2018-08-30T17:30:50.882Z"}}"#),
        ),
        (
            date(0),
            r#"{"v":{"$date":{"$numberLong":"0"}}}"#,
            Some(r#"{"v":{"$date":"1970-01-01T00:00:00Z"}}"#),
        ),
        (date(-1), r#"{"v":{"$date":{"$numberLong":"-1"}}}"#, None),
        (
            date(i64::MIN),
            r#"{"v":{"$date":{"$numberLong":"-9223372036854775808"}}}"#,
            None,
        ),
        (
            date(i64::MAX),
            r#"{"v":{"$date":{"$numberLong":"9223372036854775807"}}}"#,
            None,
        ),
        (rawdoc! { "v": null }, r#"{"v":null}"#, None),
        (
            rawdoc! { "v": Regex { pattern: cstr!("^a/b").to_owned(), options: cstr!("ix").to_owned() } },
            r#"{"v":{"$regularExpression":{"pattern":"^a/b","options":"ix"}}}"#,
            None,
        ),
        (
            element(0x0C, &pointer),
            r#"{"v":{"$dbPointer":{"$ref":"ab","$id":{"$oid":"507f1f77bcf86cd799439011"}}}}"#,
            None,
        ),
        (
            rawdoc! { "v": RawBson::JavaScriptCode("f()".to_owned()) },
            r#"{"v":{"$code":"f()"}}"#,
            None,
        ),
        (
            rawdoc! { "v": RawJavaScriptCodeWithScope { code: "g()".to_owned(), scope: rawdoc! { "x": "y" } } },
            r#"{"v":{"$code":"g()","$scope":{"x":"y"}}}"#,
            None,
        ),
        (
            rawdoc! { "v": RawBson::Symbol("s".to_owned()) },
            r#"{"v":{"$symbol":"s"}}"#,
            None,
        ),
        (
            rawdoc! { "v": 7 },
            r#"{"v":{"$numberInt":"7"}}"#,
            Some(r#"{"v":7}"#),
        ),
        (
            rawdoc! { "v": Timestamp { time: 4_294_967_295, increment: 2 } },
            r#"{"v":{"$timestamp":{"t":4294967295,"i":2}}}"#,
            None,
        ),
        (
            rawdoc! { "v": i64::MAX },
            r#"{"v":{"$numberLong":"9223372036854775807"}}"#,
            Some(r#"{"v":9223372036854775807}"#),
        ),
        (
            rawdoc! { "v": "1.50E+10".parse::<Decimal128>().unwrap() },
            r#"{"v":{"$numberDecimal":"1.50E+10"}}"#,
            None,
        ),
        (rawdoc! { "v": RawBson::MinKey }, r#"{"v":{"$minKey":1}}"#, None),
        (rawdoc! { "v": RawBson::MaxKey }, r#"{"v":{"$maxKey":1}}"#, None),
    ]
}

#[test]
fn every_type_has_its_text_and_comes_back_from_it() {
    for (document, canonical, relaxed) in types() {
        assert_eq!(print(&document, JsonStyle::Canonical), canonical);
        assert_eq!(
            parse_document(canonical.as_bytes()).unwrap(),
            document,
            "{canonical}"
        );
        let relaxed = relaxed.unwrap_or(canonical);
        assert_eq!(print(&document, JsonStyle::Relaxed), relaxed);
        assert_eq!(parse_document(relaxed.as_bytes()).unwrap(), document, "{relaxed}");
        let text = print(&document, JsonStyle::CloudBase);
        assert_eq!(parse_document(text.as_bytes()).unwrap(), document, "{text}");
    }
    let date = |millis| {
        print(
            &rawdoc! { "v": DateTime::from_millis(millis) },
            JsonStyle::CloudBase,
        )
    };
    assert_eq!(date(0), r#"{"v":{"$date":"1970-01-01T00:00:00.000Z"}}"#);
    assert_eq!(date(-1), r#"{"v":{"$date":"1969-12-31T23:59:59.999Z"}}"#);
}

#[test]
fn older_and_other_forms_are_read() {
    let binary = rawdoc! { "v": Binary { subtype: BinarySubtype::Md5, bytes: vec![1, 2, 255] } };
    let regex = rawdoc! { "v": Regex { pattern: cstr!("a").to_owned(), options: cstr!("i").to_owned() } };
    let date = |millis| rawdoc! { "v": DateTime::from_millis(millis) };
    let code = RawJavaScriptCodeWithScope {
        code: "f".to_owned(),
        scope: rawdoc! { "a": 1 },
    };
    let uuid: bson::Uuid = "c8edabc3-f738-4ca3-b68d-ab92a91478a3".parse().unwrap();
    let cases = [
        (r#"{"v":{"$binary":"AQL/","$type":"05"}}"#, binary.clone()),
        (r#"{"v":{"$type":5,"$binary":"AQL/"}}"#, binary),
        (r#"{"v":{"$regex":"a","$options":"i"}}"#, regex),
        (r#"{"v":{"$date":1535650250882}}"#, date(1_535_650_250_882)),
        (r#"{"v":{"$date":-5}}"#, date(-5)),
        (
            r#"{"v":{"$date":"2018-08-31T01:30:50.882+08:00"}}"#,
            date(1_535_650_250_882),
        ),
        (
            r#"{"v":{"$date":"2018-08-31T01:30:50.882+0800"}}"#,
            date(1_535_650_250_882),
        ),
        (r#"{"v":{"$scope":{"a":1},"$code":"f"}}"#, rawdoc! { "v": code }),
        (
            r#"{"v":{"$uuid":"c8edabc3-f738-4ca3-b68d-ab92a91478a3"}}"#,
            rawdoc! { "v": Binary::from_uuid(uuid) },
        ),
        (r#"{"v":{"$numberLong":5}}"#, rawdoc! { "v": 5_i64 }),
        (r#"{"v":2147483648}"#, rawdoc! { "v": 2_147_483_648_i64 }),
        (
            r#"{"v":9223372036854775808}"#,
            rawdoc! { "v": 9_223_372_036_854_775_808.0 },
        ),
        (r#"{"v":1E2,"w":-0}"#, rawdoc! { "v": 100.0, "w": 0 }),
        (" {\n\"v\" : [ 1 , 2 ] }\r\n", rawdoc! { "v": [1, 2] }),
        (
            r#"{"v":"\u00e9\ud83d\ude00\/\b\f"}"#,
            rawdoc! { "v": "é😀/\u{8}\u{c}" },
        ),
        // Objects with names like operators' that are no typed values.
        (
            r#"{"v":{"$ref":"c","$id":1},"w":{"$regex":"a"},"x":{"$set":{"a":1}}}"#,
            rawdoc! { "v": { "$ref": "c", "$id": 1 }, "w": { "$regex": "a" }, "x": { "$set": { "a": 1 } } },
        ),
        (r#"{"$a":1}"#, rawdoc! { "$a": 1 }),
    ];
    for (text, document) in cases {
        assert_eq!(parse_document(text.as_bytes()).unwrap(), document, "{text}");
    }
}

#[test]
fn what_is_no_document_is_told_with_its_place() {
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse_document(deep(99).as_bytes()).is_ok());
    for (text, at, what) in [
        ("", 0, "ends"),
        ("[1]", 0, "an object"),
        ("{\"a\":1", 6, "ends"),
        ("{\"a\":1}x", 7, "found 'x'"),
        ("{\"a\":1,}", 7, "a name"),
        ("{a:1}", 1, "a name"),
        ("{\"a\" 1}", 5, "\":\""),
        ("{\"a\":01}", 5, "begins with a zero"),
        ("{\"a\":-}", 6, "a digit"),
        ("{\"a\":1.}", 7, "a digit"),
        ("{\"a\":1e999}", 5, "larger than any double"),
        ("{\"a\":nul}", 5, "a value"),
        ("{\"a\":'b'}", 5, "a value"),
        ("{\"a\":\"b}", 8, "does not end"),
        ("{\"a\":\"b\nc\"}", 7, "control character"),
        ("{\"a\":\"\\x\"}", 7, "unknown escape"),
        ("{\"a\":\"\\ud800\"}", 12, "surrogate"),
        ("{\"a\":\"\\u12g4\"}", 8, "hexadecimal"),
        ("{\"a\\u0000\":1}", 1, "U+0000"),
        ("{\"a\":1,\"a\":2}", 0, "twice"),
        ("{\"x\":{\"$oid\":\"5\"}}", 5, "$oid"),
        ("{\"x\":{\"$oid\":5}}", 5, "$oid"),
        ("{\"x\":{\"$numberInt\":\"2147483648\"}}", 5, "$numberInt"),
        ("{\"x\":{\"$numberDouble\":\"inf\"}}", 5, "$numberDouble"),
        ("{\"x\":{\"$date\":\"yesterday\"}}", 5, "$date"),
        (
            "{\"x\":{\"$binary\":{\"base64\":\"?\",\"subType\":\"00\"}}}",
            5,
            "$binary",
        ),
        ("{\"x\":{\"$timestamp\":{\"t\":-1,\"i\":0}}}", 5, "$timestamp"),
        ("{\"x\":{\"$minKey\":2}}", 5, "$minKey"),
        ("{\"$oid\":\"507f1f77bcf86cd799439011\"}", 0, "single typed value"),
        (deep(100).as_str(), 0, "nested deeper"),
        (deep(1000).as_str(), 107, "nested deeper"),
    ] {
        let error = parse_document(text.as_bytes()).unwrap_err();
        assert!(error.what.contains(what), "{text:?}: {error:?}");
        assert_eq!(error.at, at, "{text:?}: {error:?}");
    }
    let error = parse_document(b"{\"a\":\"x\xFFy\"}").unwrap_err();
    assert_eq!((error.at, error.what.as_str()), (7, "a string is not UTF-8"));
}

#[test]
fn lines_arrays_and_anything_between_are_read() {
    let one_two = [rawdoc! { "a": 1 }, rawdoc! { "a": "}{\\\"]" }];
    let second = r#"{"a":"}{\\\"]"}"#;
    for (text, lines) in [
        (format!("{{\"a\":1}}\n{second}\n"), [1, 2]),
        (format!("{{\"a\":1}}{second}"), [1, 1]),
        (format!("\u{FEFF}\n\n{{\n\"a\":\n1}}\r\n\r\n {second}"), [3, 7]),
        (format!("[{{\"a\":1}},{second}]"), [1, 1]),
        (format!(" [\n{{\"a\":1}}\n,\n{second}\n]\n\n"), [2, 4]),
    ] {
        let read = read_all(text.as_bytes(), Encoding::Json).unwrap();
        let documents: Vec<_> = read.iter().map(|stored| stored.document.clone()).collect();
        assert_eq!(documents, one_two, "{text:?}");
        let seen: Vec<_> = read.iter().map(|stored| stored.line.unwrap()).collect();
        assert_eq!(seen, lines, "{text:?}");
        assert_eq!(text.as_bytes()[usize::try_from(read[1].byte).unwrap()], b'{');
    }
    for text in ["", " \n", "[]", " [ ] \n"] {
        assert!(read_all(text.as_bytes(), Encoding::Json).unwrap().is_empty());
    }
}

#[test]
fn a_mistake_in_json_has_its_line() {
    for (text, line, what) in [
        ("{\"a\":1}\n{\"a\":2", 2, "ends"),
        ("{\"a\":1}\n\n{\"a\":\n2,}\n", 4, "a name"),
        ("{\"a\":1}\n[{\"a\":2}]", 2, "expected a document"),
        ("x", 1, "a document or an array"),
        ("[{\"a\":1}\n{\"a\":2}]", 2, "\",\" or \"]\""),
        ("[{\"a\":1},\n]", 2, "after \",\""),
        ("[{\"a\":1}\n", 2, "inside of the array"),
        ("[]\n{}", 2, "nothing after the array"),
        ("{\"a\":1}\n{\"a\":]}\n", 2, "a value"),
        ("{\"a\":1\n{\"a\":2}\n", 2, "\",\" or \"}\""),
    ] {
        match read_all(text.as_bytes(), Encoding::Json).unwrap_err() {
            ReadError::Malformed {
                line: seen,
                what: told,
                ..
            } => {
                assert_eq!(seen, Some(line), "{text:?}: {told}");
                assert!(told.contains(what), "{text:?}: {told}");
            }
            ReadError::Io(error) => panic!("{error}"),
        }
    }
    assert!(
        read_all(b"{\"a\":1}\n{\"a\":2", Encoding::Json)
            .unwrap_err()
            .to_string()
            .starts_with("line 2: ")
    );
}

#[test]
fn a_mistake_in_bson_has_its_byte() {
    let good = rawdoc! { "a": 1 };
    let with = |bytes: &[u8]| [good.as_bytes(), bytes].concat();
    let mut not_utf8 = rawdoc! { "a": "xyz" }.into_bytes();
    let at = not_utf8.iter().position(|byte| *byte == b'y').unwrap();
    not_utf8[at] = 0xFF;
    let mut deep = rawdoc! {};
    for _ in 0..100 {
        deep = rawdoc! { "a": deep };
    }
    let mut unterminated = good.as_bytes().to_vec();
    *unterminated.last_mut().unwrap() = 1;
    for (bytes, what) in [
        (with(&[1, 2]), "2 bytes are left"),
        (with(&[5, 0, 0, 0]), "4 of its 5 bytes"),
        (with(&good.as_bytes()[..9]), "9 of its 12 bytes"),
        (with(&[4, 0, 0, 0]), "says that it has 4 bytes"),
        (with(&[0xFF; 40]), "says that it has -1 bytes"),
        (with(&[1, 0, 0, 1]), "says that it has 16777217 bytes"),
        (with(&[0, 0, 0, 1]), "4 of its 16777216 bytes"),
        (with(&not_utf8), "UTF-8"),
        (with(deep.as_bytes()), "nested deeper"),
        (with(&unterminated), ""),
    ] {
        match read_all(&bytes, Encoding::Bson).unwrap_err() {
            ReadError::Malformed {
                line,
                byte,
                what: told,
            } => {
                assert_eq!((line, byte), (None, 12), "{told}");
                assert!(told.contains(what), "{what}: {told}");
            }
            ReadError::Io(error) => panic!("{error}"),
        }
    }
}

#[test]
fn reading_goes_on_at_every_place() {
    let documents: Vec<_> = (0..5).map(|n| rawdoc! { "n": n, "s": "[{" }).collect();
    for shape in [
        Shape::Bson,
        Shape::Lines(JsonStyle::Relaxed),
        Shape::Array(JsonStyle::Canonical),
    ] {
        let bytes = written(&documents, shape);
        let encoding = encoding(shape);
        let mut reader = DocumentReader::new(Cursor::new(&bytes), encoding);
        for rest in (0..=documents.len()).rev() {
            let place = reader.place();
            let text = serde_like(place);
            let from = usize::try_from(text.bytes).unwrap();
            let mut again = DocumentReader::resume(&bytes[from..], encoding, text);
            let mut count = 0;
            while let Some(stored) = again.read().unwrap() {
                assert_eq!(stored.document, documents[documents.len() - rest + count]);
                count += 1;
            }
            assert_eq!(count, rest, "{shape:?}");
            reader.read().unwrap();
        }
    }
}

/// A place as it comes out of where it was kept.
fn serde_like(place: Place) -> Place {
    bson::deserialize_from_slice(&bson::serialize_to_vec(&place).unwrap()).unwrap()
}

fn encoding(shape: Shape) -> Encoding {
    match shape {
        Shape::Bson => Encoding::Bson,
        Shape::Lines(_) | Shape::Array(_) => Encoding::Json,
    }
}

fn written(documents: &[RawDocumentBuf], shape: Shape) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = DocumentWriter::new(shape, 0);
    for (nth, document) in documents.iter().enumerate() {
        // As if each had been written by a run of its own.
        writer = DocumentWriter::new(shape, writer.documents());
        assert_eq!(writer.documents(), nth as u64);
        writer.write(document, &mut bytes).unwrap();
    }
    writer.finish(&mut bytes).unwrap();
    bytes
}

#[test]
fn metadata_come_back() {
    let dumped = br#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},{"v":2,"key":{"a":1,"b":-1.0},"name":"ab","unique":true}],"uuid":"0f","collectionName":"c/d","type":"collection","options":{"capped":true}}"#;
    let metadata = Metadata::parse(dumped).unwrap();
    assert_eq!(metadata.collection.as_deref(), Some("c/d"));
    assert_eq!(metadata.indexes.len(), 2);
    assert_eq!(metadata.options, rawdoc! { "capped": true });
    assert_eq!(Metadata::parse(&metadata.to_text().unwrap()).unwrap(), metadata);
    assert!(
        Metadata::parse(br#"{"options":{},"indexes":[],"type":"view"}"#)
            .unwrap()
            .is_view()
    );
    assert!(Metadata::parse(br#"{"indexes":[1]}"#).is_err());
    assert!(Metadata::parse(br#"{"indexes":{}}"#).is_err());
    assert!(Metadata::parse(b"{").is_err());
}

/// Any value; of doubles no NaN, of which there are many.
fn any_value() -> impl Strategy<Value = RawBson> {
    let text = "[ -~\u{e9}\u{4e2d}\u{1F600}\\PC]{0,6}";
    let leaf = prop_oneof![
        Just(RawBson::Null),
        Just(RawBson::Undefined),
        Just(RawBson::MinKey),
        Just(RawBson::MaxKey),
        any::<bool>().prop_map(RawBson::Boolean),
        any::<i32>().prop_map(RawBson::Int32),
        any::<i64>().prop_map(RawBson::Int64),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |number| !number.is_nan())
            .prop_map(RawBson::Double),
        text.prop_map(RawBson::String),
        text.prop_map(RawBson::Symbol),
        text.prop_map(RawBson::JavaScriptCode),
        any::<i64>().prop_map(|millis| RawBson::DateTime(DateTime::from_millis(millis))),
        (0..253_402_300_799_999_i64).prop_map(|millis| RawBson::DateTime(DateTime::from_millis(millis))),
        any::<[u8; 12]>().prop_map(|bytes| RawBson::ObjectId(ObjectId::from_bytes(bytes))),
        any::<(u32, u32)>().prop_map(|(time, increment)| RawBson::Timestamp(Timestamp { time, increment })),
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(subtype, bytes)| {
            RawBson::Binary(Binary {
                subtype: subtype.into(),
                bytes,
            })
        }),
        ("[a-z(.*\"]{0,5}", "[imsx]{0,2}").prop_map(|(pattern, options)| {
            RawBson::RegularExpression(Regex {
                pattern: CString::try_from(pattern).unwrap(),
                options: CString::try_from(options).unwrap(),
            })
        }),
        (any::<i64>(), -20..20_i32).prop_map(|(digits, exponent)| {
            RawBson::Decimal128(format!("{digits}E{exponent}").parse().unwrap())
        }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            any_fields(inner.clone()).prop_map(RawBson::Document),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| {
                let mut array = RawArrayBuf::new();
                values.into_iter().for_each(|value| array.push(value));
                RawBson::Array(array)
            }),
            any_fields(inner).prop_map(|scope| {
                RawBson::JavaScriptCodeWithScope(RawJavaScriptCodeWithScope {
                    code: "f".to_owned(),
                    scope,
                })
            }),
        ]
    })
}

/// Fields with names of their own; those of typed values would be read as these.
fn any_fields(values: impl Strategy<Value = RawBson>) -> impl Strategy<Value = RawDocumentBuf> {
    proptest::collection::btree_map("\\$?[a-z. \u{e9}\"]{0,4}x", values, 0..4).prop_map(|fields| {
        let mut document = RawDocumentBuf::new();
        for (name, value) in fields {
            document.append(CString::try_from(name).unwrap(), value);
        }
        document
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(documents in proptest::collection::vec(any_fields(any_value()), 0..5)) {
        for shape in [Shape::Bson, Shape::Lines(JsonStyle::Canonical), Shape::Array(JsonStyle::Canonical)] {
            let read = read_all(&written(&documents, shape), encoding(shape)).unwrap();
            let read: Vec<_> = read.into_iter().map(|stored| stored.document).collect();
            prop_assert_eq!(&read, &documents);
        }
        // Relaxed text loses the types of numbers alone: written again it is the same.
        for style in [JsonStyle::Relaxed, JsonStyle::CloudBase] {
            let bytes = written(&documents, Shape::Lines(style));
            let read = read_all(&bytes, Encoding::Json).unwrap();
            let read: Vec<_> = read.into_iter().map(|stored| stored.document).collect();
            prop_assert_eq!(read.len(), documents.len());
            for (read, document) in read.iter().zip(&documents) {
                prop_assert!(crate::compare_values(
                    bson::RawBsonRef::Document(read),
                    bson::RawBsonRef::Document(document),
                ).is_eq());
            }
            prop_assert_eq!(written(&read, Shape::Lines(style)), bytes);
        }
    }
}
