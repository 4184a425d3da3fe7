//! `COLLECTION.metadata.json` of a dump: what a collection is beside its documents.

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, raw::cstr};

use super::{JsonStyle, parse_document, print_document};

/// A collection as its dump describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// The collection's name, where the file says it; older dumps have it in the file's name only.
    pub collection: Option<String>,
    /// What it was made with, e.g. `capped`.
    pub options: RawDocumentBuf,
    /// Its indexes as `listIndexes` gives them, that on `_id` among them.
    pub indexes: Vec<RawDocumentBuf>,
    /// Its UUID in hexadecimal, where there is one.
    pub uuid: Option<String>,
    /// `collection`, `timeseries` or `view`; empty where the file does not say it.
    pub kind: String,
}

impl Metadata {
    /// Whether it is a view, which has no documents of its own.
    pub fn is_view(&self) -> bool {
        self.kind == "view"
    }

    /// Parses the file's text.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let document = parse_document(text).map_err(|error| error.to_string())?;
        let mut metadata = Self::default();
        for field in &document {
            let (name, value) = field.map_err(|error| error.to_string())?;
            match (name.as_str(), value) {
                ("collectionName", RawBsonRef::String(name)) => metadata.collection = Some(name.to_owned()),
                ("type", RawBsonRef::String(kind)) => kind.clone_into(&mut metadata.kind),
                ("uuid", RawBsonRef::String(uuid)) => metadata.uuid = Some(uuid.to_owned()),
                ("options", RawBsonRef::Document(options)) => metadata.options = options.to_owned(),
                ("indexes", RawBsonRef::Array(indexes)) => {
                    for index in indexes {
                        match index.map_err(|error| error.to_string())? {
                            RawBsonRef::Document(index) => metadata.indexes.push(index.to_owned()),
                            _ => return Err("one of the indexes is no object".to_owned()),
                        }
                    }
                }
                ("collectionName" | "type" | "options" | "indexes", _) => {
                    return Err(format!("\"{}\" has a value of another type", name.as_str()));
                }
                _ => {}
            }
        }
        Ok(metadata)
    }

    /// The file's text.
    ///
    /// # Errors
    /// When a document in it is malformed.
    pub fn to_text(&self) -> std::io::Result<Vec<u8>> {
        let mut indexes = RawArrayBuf::new();
        for index in &self.indexes {
            indexes.push(index.as_ref());
        }
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("options"), self.options.as_ref());
        document.append(cstr!("indexes"), indexes);
        if let Some(uuid) = &self.uuid {
            document.append(cstr!("uuid"), uuid.as_str());
        }
        if let Some(name) = &self.collection {
            document.append(cstr!("collectionName"), name.as_str());
        }
        let kind = match self.kind.as_str() {
            "" => "collection",
            kind => kind,
        };
        document.append(cstr!("type"), kind);
        let mut text = Vec::new();
        print_document(&document, JsonStyle::Canonical, &mut text)?;
        Ok(text)
    }
}
