//! A document while it is updated: opened along the paths that are written, raw bytes everywhere else.

use std::borrow::Cow;

use bson::raw::CStr;
use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::value::{elements, raw_fields};

/// A value of the document.
#[derive(Debug)]
pub(super) enum Node<'d> {
    /// As it was.
    Raw(RawBsonRef<'d>),
    /// Written.
    Owned(RawBson),
    /// A document that something inside of is written.
    Document(Vec<(Cow<'d, CStr>, Node<'d>)>),
    /// An array that something inside of is written.
    Array(Vec<Node<'d>>),
}

impl<'d> Node<'d> {
    /// Makes a document's or array's parts accessible.
    pub(super) fn open(&mut self) {
        let opened = match &*self {
            Node::Raw(RawBsonRef::Document(doc)) => Node::Document(
                raw_fields(doc)
                    .map(|(name, v)| (Cow::Borrowed(name), Node::Raw(v)))
                    .collect(),
            ),
            Node::Raw(RawBsonRef::Array(array)) => Node::Array(elements(array).map(Node::Raw).collect()),
            Node::Owned(RawBson::Document(doc)) => Node::Document(
                raw_fields(doc)
                    .map(|(name, v)| (Cow::Owned(name.to_owned()), Node::Owned(v.into())))
                    .collect(),
            ),
            Node::Owned(RawBson::Array(array)) => {
                Node::Array(elements(array).map(|v| Node::Owned(v.into())).collect())
            }
            _ => return,
        };
        *self = opened;
    }

    /// The value, put together again if it was opened.
    pub(super) fn value(&mut self) -> RawBsonRef<'_> {
        if let Node::Document(_) | Node::Array(_) = self {
            *self = Node::Owned(self.build());
        }
        match self {
            Node::Raw(v) => *v,
            Node::Owned(v) => v.as_raw_bson_ref(),
            Node::Document(_) | Node::Array(_) => RawBsonRef::Undefined,
        }
    }

    fn build(&self) -> RawBson {
        match self {
            Node::Raw(v) => (*v).into(),
            Node::Owned(v) => v.clone(),
            Node::Document(fields) => RawBson::Document(build_document(fields)),
            Node::Array(nodes) => {
                let mut out = RawArrayBuf::new();
                for node in nodes {
                    match node {
                        Node::Raw(v) => out.push(*v),
                        Node::Owned(v) => out.push(v.as_raw_bson_ref()),
                        node => out.push(node.build().as_raw_bson_ref()),
                    }
                }
                RawBson::Array(out)
            }
        }
    }
}

/// The fields of a document, opened.
pub(super) fn open(doc: &RawDocument) -> Node<'_> {
    let mut node = Node::Raw(RawBsonRef::Document(doc));
    node.open();
    node
}

/// The document that an opened one has become.
pub(super) fn close(node: &Node<'_>) -> RawDocumentBuf {
    match node {
        Node::Document(fields) => build_document(fields),
        node => match node.build() {
            RawBson::Document(doc) => doc,
            _ => RawDocumentBuf::new(),
        },
    }
}

fn build_document(fields: &[(Cow<'_, CStr>, Node<'_>)]) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for (name, node) in fields {
        match node {
            Node::Raw(v) => out.append(&**name, *v),
            Node::Owned(v) => out.append(&**name, v.as_raw_bson_ref()),
            node => out.append(&**name, node.build().as_raw_bson_ref()),
        }
    }
    out
}
