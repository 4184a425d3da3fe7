//! One document of extended JSON to BSON: version 2, canonical or relaxed, and the forms of version 1 that are still
//! found in files (`$binary` beside `$type`, `$regex` beside `$options`, dates as numbers). Plain JSON is relaxed
//! extended JSON.
//!
//! BSON is written while the text is read. An object whose first name begins with `$` is written like any other and,
//! when it turns out to be a typed value, put back as what it means.

use base64::Engine as _;
use bson::{DateTime, Decimal128, RawBsonRef, RawDocument, RawDocumentBuf, oid::ObjectId};

use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX};

/// Levels that typed values have inside of the deepest document that may be stored.
const TYPED_DEPTH: usize = 3;

/// Names of which each alone makes an object a typed value, or an error.
const TYPED: [&str; 17] = [
    "$binary",
    "$code",
    "$date",
    "$dbPointer",
    "$maxKey",
    "$minKey",
    "$numberDecimal",
    "$numberDouble",
    "$numberInt",
    "$numberLong",
    "$oid",
    "$regularExpression",
    "$scope",
    "$symbol",
    "$timestamp",
    "$undefined",
    "$uuid",
];

/// Why a text is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct JsonError {
    /// How many bytes of the text are before the mistake.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

/// Parses a text that is one JSON object.
///
/// # Errors
/// When it is not JSON, has a typed value that is none, an object with one name twice, or is larger or deeper than
/// a document may be.
pub fn parse_document(text: &[u8]) -> Result<RawDocumentBuf, JsonError> {
    let mut parser = Parser {
        text,
        at: 0,
        out: Vec::with_capacity(text.len()),
    };
    parser.space();
    if parser.peek() != Some(b'{') {
        return Err(parser.unexpected("an object"));
    }
    let kind = parser.value(0)?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.unexpected("the end of the document"));
    }
    if kind != DOCUMENT {
        return Err(JsonError {
            at: 0,
            what: "a document was expected, this is a single typed value".to_owned(),
        });
    }
    if parser.out.len() > DOCUMENT_BYTES_MAX {
        return Err(JsonError {
            at: 0,
            what: format!(
                "document too large: {} bytes of BSON, at most {DOCUMENT_BYTES_MAX} are allowed",
                parser.out.len()
            ),
        });
    }
    let document = RawDocumentBuf::from_bytes(parser.out);
    let document = document.map_err(|error| JsonError {
        at: 0,
        what: error.to_string(),
    })?;
    match crate::check_well_formed(&document, DEPTH_MAX) {
        Ok(()) => Ok(document),
        Err(error) => Err(JsonError {
            at: 0,
            what: error.to_string(),
        }),
    }
}

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BINARY: u8 = 0x05;
const UNDEFINED: u8 = 0x06;
const OBJECT_ID: u8 = 0x07;
const BOOLEAN: u8 = 0x08;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0A;
const REGEX: u8 = 0x0B;
const DB_POINTER: u8 = 0x0C;
const CODE: u8 = 0x0D;
const SYMBOL: u8 = 0x0E;
const CODE_WITH_SCOPE: u8 = 0x0F;
const INT32: u8 = 0x10;
const TIMESTAMP: u8 = 0x11;
const INT64: u8 = 0x12;
const DECIMAL: u8 = 0x13;
const MAX_KEY: u8 = 0x7F;
const MIN_KEY: u8 = 0xFF;

/// The BSON type of what was written.
type Kind = u8;

struct Parser<'t> {
    text: &'t [u8],
    at: usize,
    out: Vec<u8>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, what: impl Into<String>) -> JsonError {
        JsonError {
            at: self.at,
            what: what.into(),
        }
    }

    fn unexpected(&self, wanted: &str) -> JsonError {
        match self.peek() {
            None => self.error(format!("the text ends where {wanted} was expected")),
            Some(byte) => self.error(format!(
                "found {:?} where {wanted} was expected",
                char::from(byte)
            )),
        }
    }

    fn take(&mut self, byte: u8, wanted: &str) -> Result<(), JsonError> {
        self.space();
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.unexpected(wanted)),
        }
    }

    /// Writes the payload of the next value; `depth` objects and arrays are around it.
    fn value(&mut self, depth: usize) -> Result<Kind, JsonError> {
        self.space();
        if self.out.len() > DOCUMENT_BYTES_MAX * 2 {
            return Err(self.error(format!(
                "document too large: at most {DOCUMENT_BYTES_MAX} bytes of BSON are allowed"
            )));
        }
        match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX + TYPED_DEPTH => {
                Err(self.error(format!("document nested deeper than {DEPTH_MAX} levels")))
            }
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let text = self.string()?;
                push_string(&mut self.out, &text);
                Ok(STRING)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", &[1], BOOLEAN),
            Some(b'f') => self.word("false", &[0], BOOLEAN),
            Some(b'n') => self.word("null", &[], NULL),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn word(&mut self, word: &str, payload: &[u8], kind: Kind) -> Result<Kind, JsonError> {
        match self.text[self.at..].starts_with(word.as_bytes()) {
            true => {
                self.at += word.len();
                self.out.extend_from_slice(payload);
                Ok(kind)
            }
            false => Err(self.unexpected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Kind, JsonError> {
        let (start, begins) = (self.out.len(), self.at);
        self.at += 1;
        self.out.extend_from_slice(&[0; 4]);
        let mut count = 0_usize;
        let mut typed = false;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.space();
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a name in double quotes"));
                }
                let name_at = self.at;
                let name = self.string()?;
                if name.contains('\0') {
                    self.at = name_at;
                    return Err(self.error("a name has the character U+0000, which no field may have"));
                }
                typed |= count == 0 && name.starts_with('$');
                count += 1;
                self.take(b':', "\":\"")?;
                self.element(name.as_bytes(), depth)?;
                self.space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("\",\" or \"}\"")),
                }
            }
        }
        self.close(start);
        let mistake = |what| JsonError { at: begins, what };
        let object =
            RawDocument::from_bytes(&self.out[start..]).map_err(|error| mistake(error.to_string()))?;
        if count > 1 {
            check_names(object).map_err(mistake)?;
        }
        if typed && let Some((kind, payload)) = typed_value(object).map_err(mistake)? {
            self.out.truncate(start);
            self.out.extend_from_slice(&payload);
            return Ok(kind);
        }
        Ok(DOCUMENT)
    }

    fn array(&mut self, depth: usize) -> Result<Kind, JsonError> {
        let start = self.out.len();
        self.at += 1;
        self.out.extend_from_slice(&[0; 4]);
        let mut index = 0_u32;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                self.element(index.to_string().as_bytes(), depth)?;
                index += 1;
                self.space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("\",\" or \"]\"")),
                }
            }
        }
        self.close(start);
        Ok(ARRAY)
    }

    fn element(&mut self, name: &[u8], depth: usize) -> Result<(), JsonError> {
        let kind_at = self.out.len();
        self.out.push(0);
        self.out.extend_from_slice(name);
        self.out.push(0);
        self.out[kind_at] = self.value(depth + 1)?;
        Ok(())
    }

    /// Ends the document that began at `start`.
    fn close(&mut self, start: usize) {
        self.out.push(0);
        let length = i32::try_from(self.out.len() - start).unwrap_or(i32::MAX);
        self.out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn number(&mut self) -> Result<Kind, JsonError> {
        let begins = self.at;
        let digits = |parser: &mut Self| {
            let from = parser.at;
            while matches!(parser.peek(), Some(b'0'..=b'9')) {
                parser.at += 1;
            }
            parser.at - from
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        match digits(self) {
            0 => return Err(self.unexpected("a digit")),
            1 => {}
            _ if leading_zero => {
                self.at = begins;
                return Err(self.error("a number begins with a zero"));
            }
            _ => {}
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if digits(self) == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if digits(self) == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        let text = str::from_utf8(&self.text[begins..self.at]).unwrap_or_default();
        if whole && let Ok(number) = text.parse::<i64>() {
            return Ok(match i32::try_from(number) {
                Ok(number) => {
                    self.out.extend_from_slice(&number.to_le_bytes());
                    INT32
                }
                Err(_) => {
                    self.out.extend_from_slice(&number.to_le_bytes());
                    INT64
                }
            });
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.out.extend_from_slice(&number.to_le_bytes());
                Ok(DOUBLE)
            }
            _ => {
                self.at = begins;
                Err(self.error("the number is larger than any double"))
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let from = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            match str::from_utf8(&self.text[from..self.at]) {
                Ok(run) => text.push_str(run),
                Err(error) => {
                    self.at = from + error.valid_up_to();
                    return Err(self.error("a string is not UTF-8"));
                }
            }
            match self.peek() {
                None => return Err(self.error("a string does not end")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                Some(_) => return Err(self.error("a string has a control character that is not escaped")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex4()?;
                let code = match first {
                    0xD800..0xDC00 if self.text[self.at..].starts_with(b"\\u") => {
                        self.at += 2;
                        let second = self.hex4()?;
                        match second {
                            0xDC00..0xE000 => 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                            _ => first,
                        }
                    }
                    code => code,
                };
                return char::from_u32(code).ok_or_else(|| self.error("a surrogate without its other half"));
            }
            _ => return Err(self.error("unknown escape in a string")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.error("four hexadecimal digits were expected after \\u"))?;
        self.at += 4;
        Ok(code)
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Refuses a name that is there twice: one of the values would be lost on the way.
fn check_names(object: &RawDocument) -> Result<(), String> {
    let mut names: Vec<&str> = object.iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the name {:?} is there twice", pair[0])),
        None => Ok(()),
    }
}

/// What an object whose first name begins with `$` stands for; none when it is an object of its own.
fn typed_value(object: &RawDocument) -> Result<Option<(Kind, Vec<u8>)>, String> {
    use RawBsonRef::{Binary, Boolean, Document, Double, Int32, Int64, String as Text};
    let members: Vec<(&str, RawBsonRef<'_>)> = object
        .iter()
        .take(3)
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let number = |value: RawBsonRef<'_>| match value {
        Int32(number) => Some(i64::from(number)),
        Int64(number) => Some(number),
        _ => None,
    };
    let string = |text: &str| {
        let mut payload = Vec::with_capacity(text.len() + 5);
        push_string(&mut payload, text);
        payload
    };
    let regex = |pattern: &str, options: &str| match pattern.contains('\0') || options.contains('\0') {
        true => Err("a regular expression has the character U+0000".to_owned()),
        false => Ok((
            REGEX,
            [pattern.as_bytes(), &[0], options.as_bytes(), &[0]].concat(),
        )),
    };
    let parsed = match members.as_slice() {
        [("$oid", Text(hex))] => ObjectId::parse_str(hex)
            .ok()
            .map(|id| (OBJECT_ID, id.bytes().to_vec())),
        [("$symbol", Text(text))] => Some((SYMBOL, string(text))),
        [("$numberInt", Text(text))] => text
            .parse::<i32>()
            .ok()
            .map(|number| (INT32, number.to_le_bytes().to_vec())),
        [("$numberLong", Text(text))] => text
            .parse::<i64>()
            .ok()
            .map(|number| (INT64, number.to_le_bytes().to_vec())),
        [("$numberLong", value)] => number(*value).map(|number| (INT64, number.to_le_bytes().to_vec())),
        [("$numberDouble", Text(text))] => {
            parse_double(text).map(|number| (DOUBLE, number.to_le_bytes().to_vec()))
        }
        [("$numberDecimal", Text(text))] => text
            .parse::<Decimal128>()
            .ok()
            .map(|number| (DECIMAL, number.bytes().to_vec())),
        [("$binary", Document(fields))] => match (fields.get("base64"), fields.get("subType")) {
            (Ok(Some(Text(base64))), Ok(Some(Text(subtype)))) if fields.iter().count() == 2 => {
                binary(base64, u8::from_str_radix(subtype, 16).ok())
            }
            _ => None,
        },
        [("$binary", Text(base64)), ("$type", subtype)] | [("$type", subtype), ("$binary", Text(base64))] => {
            let subtype = match subtype {
                Text(hex) => u8::from_str_radix(hex, 16).ok(),
                other => number(*other).and_then(|number| u8::try_from(number).ok()),
            };
            binary(base64, subtype)
        }
        [("$uuid", Text(text))] => uuid(text),
        [("$code", Text(code))] => Some((CODE, string(code))),
        [("$code", Text(code)), ("$scope", Document(scope))]
        | [("$scope", Document(scope)), ("$code", Text(code))] => {
            let code = string(code);
            let length = i32::try_from(4 + code.len() + scope.as_bytes().len()).unwrap_or(i32::MAX);
            Some((
                CODE_WITH_SCOPE,
                [&length.to_le_bytes(), code.as_slice(), scope.as_bytes()].concat(),
            ))
        }
        [("$timestamp", Document(fields))] => {
            let part = |name| {
                let value = fields.get(name).ok().flatten();
                value.and_then(number).and_then(|part| u32::try_from(part).ok())
            };
            match (part("t"), part("i")) {
                (Some(time), Some(increment)) if fields.iter().count() == 2 => {
                    Some((TIMESTAMP, [increment.to_le_bytes(), time.to_le_bytes()].concat()))
                }
                _ => None,
            }
        }
        [("$regularExpression", Document(fields))] => match (fields.get("pattern"), fields.get("options")) {
            (Ok(Some(Text(pattern))), Ok(Some(Text(options)))) if fields.iter().count() == 2 => {
                Some(regex(pattern, options)?)
            }
            _ => None,
        },
        [("$regex", Text(pattern)), ("$options", Text(options))]
        | [("$options", Text(options)), ("$regex", Text(pattern))] => Some(regex(pattern, options)?),
        [("$dbPointer", Document(fields))] => match (fields.get("$ref"), fields.get("$id")) {
            (Ok(Some(Text(collection))), Ok(Some(RawBsonRef::ObjectId(id))))
                if fields.iter().count() == 2 =>
            {
                Some((DB_POINTER, [string(collection).as_slice(), &id.bytes()].concat()))
            }
            _ => None,
        },
        [("$date", Text(text))] => parse_date(text).map(|millis| (DATE, millis.to_le_bytes().to_vec())),
        [("$date", value)] => number(*value).map(|millis| (DATE, millis.to_le_bytes().to_vec())),
        [("$minKey", Int32(1))] => Some((MIN_KEY, Vec::new())),
        [("$maxKey", Int32(1))] => Some((MAX_KEY, Vec::new())),
        [("$undefined", Boolean(true))] => Some((UNDEFINED, Vec::new())),
        _ => None,
    };
    match (parsed, members.first()) {
        (Some(typed), _) => Ok(Some(typed)),
        (None, Some((name, _))) if TYPED.contains(name) => {
            let known = match members[0].1 {
                Text(text) if text.len() <= 40 => format!("{text:?}"),
                Double(number) => number.to_string(),
                Int32(number) => number.to_string(),
                Binary(_) => "binary data".to_owned(),
                _ => "this".to_owned(),
            };
            Err(format!("{known} is no value for {name:?} of extended JSON"))
        }
        (None, _) => Ok(None),
    }
}

/// Rust reads more names of numbers than extended JSON has.
fn parse_double(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        text if text.bytes().any(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// Milliseconds since 1970 of an ISO date, also with an offset without a colon, as older exports have it.
fn parse_date(text: &str) -> Option<i64> {
    if let Ok(date) = DateTime::parse_rfc3339_str(text) {
        return Some(date.timestamp_millis());
    }
    let (head, minutes) = text.split_at_checked(text.len().checked_sub(2)?)?;
    let hours = head.len().checked_sub(3)?;
    if !matches!(head.as_bytes().get(hours), Some(b'+' | b'-')) {
        return None;
    }
    let date = DateTime::parse_rfc3339_str(format!("{head}:{minutes}")).ok()?;
    Some(date.timestamp_millis())
}

fn binary(base64: &str, subtype: Option<u8>) -> Option<(Kind, Vec<u8>)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    let subtype = subtype?;
    let length = i32::try_from(bytes.len()).ok()?;
    let mut payload = Vec::with_capacity(bytes.len() + 9);
    // The old subtype has the length once more, inside.
    if subtype == 2 {
        payload.extend_from_slice(&(length.checked_add(4)?).to_le_bytes());
        payload.push(subtype);
    }
    payload.extend_from_slice(&length.to_le_bytes());
    if subtype != 2 {
        payload.push(subtype);
    }
    payload.extend_from_slice(&bytes);
    Some((BINARY, payload))
}

fn uuid(text: &str) -> Option<(Kind, Vec<u8>)> {
    let uuid = bson::Uuid::parse_str(text).ok()?;
    let mut payload = vec![16, 0, 0, 0, 4];
    payload.extend_from_slice(&uuid.bytes());
    Some((BINARY, payload))
}
