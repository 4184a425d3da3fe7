//! Collections as they are made and changed: `create` and `collMod`, with the options that the two share.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr};
use cloudlet_data::{
    BucketSpan, CollectionChange, Creation, IndexChange, IndexSpec, Namespace, ValidationAction,
    ValidationLevel, View, parse_images,
};

use super::query;
use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// `create`.
pub(crate) async fn create(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut options = RawDocumentBuf::new();
    let mut args = Args::new("create", &body);
    while let Some((name, value)) = args.next_raw()? {
        options.append(name, value);
    }
    let made = match (&call.open, Creation::parse(&options)?) {
        (Some(_), Creation::View(_)) => {
            return Err(CommandError::new(
                Code::OperationNotSupportedInTransaction,
                format!("Cannot create a view in a multi-document transaction: {ns}"),
            ));
        }
        (None, Creation::View(view)) => call.shared.documents.create_view(&ns, view).await,
        (Some(transaction), Creation::Collection(options)) => {
            transaction.create_collection(&ns, options).await
        }
        (None, Creation::Collection(options)) => {
            call.shared.documents.create_collection_with(&ns, options).await
        }
    };
    match made {
        Ok(()) => Ok(RawDocumentBuf::new()),
        Err(error) if error.code() == cloudlet_data::Code::NamespaceExists => Err(CommandError::new(
            Code::NamespaceExists,
            format!("Collection {ns} already exists."),
        )),
        Err(error) => Err(error.into()),
    }
}

/// `convertToCapped`.
pub(crate) async fn convert_to_capped(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut size = None;
    let mut args = Args::new("convertToCapped", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "size" => size = Some(args::integer("convertToCapped.size", value)?),
            name => return Err(args.unknown(name)),
        }
    }
    let size = size.ok_or_else(|| args::missing("convertToCapped", "size"))?;
    let change = CollectionChange {
        // What is no size is told as one that is too small.
        convert_to_capped: Some(u64::try_from(size).unwrap_or(0)),
        ..CollectionChange::default()
    };
    let changed = call.shared.documents.modify_collection(&ns, change).await;
    changed.map_err(not_there)?;
    Ok(RawDocumentBuf::new())
}

/// `collMod`: of an index, of the collection, or of both; the collection first, so that a validator that is none
/// leaves the index as it is.
pub(crate) async fn modify(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut change = CollectionChange::default();
    let (mut index, mut on, mut pipeline) = (None, None, None);
    let mut args = Args::new("collMod", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "index" => index = Some(IndexArgs::parse(args::document("collMod.index", value)?)?),
            "validator" => change.validator = Some(args::document("collMod.validator", value)?.to_owned()),
            "validationLevel" => change.validation_level = Some(ValidationLevel::parse("collMod", value)?),
            "validationAction" => change.validation_action = Some(ValidationAction::parse("collMod", value)?),
            "changeStreamPreAndPostImages" => change.images = Some(parse_images("collMod", value)?),
            "dryRun" => {
                if args::flag("collMod.dryRun", value)? {
                    return Err(args.unsupported(name));
                }
            }
            "viewOn" => on = Some(args::text("collMod.viewOn", value)?.into()),
            "pipeline" => pipeline = Some(args::documents("collMod.pipeline", value)?),
            "cappedSize" => change.capped_size = Some(args::count("collMod.cappedSize", value)?),
            "cappedMax" => {
                // What is no number of documents is no limit.
                let max = args::integer("collMod.cappedMax", value)?;
                change.capped_max = Some(u64::try_from(max).unwrap_or(0));
            }
            "timeseries" => {
                let series = args::document("collMod.timeseries", value)?;
                change.span = Some(BucketSpan::parse(series)?);
            }
            "expireAfterSeconds" => {
                change.expire_after_seconds = Some(match value {
                    RawBsonRef::String("off") => None,
                    value => Some(args::integer("collMod.expireAfterSeconds", value)?),
                });
            }
            "recordPreImages" => return Err(args.unsupported(name)),
            name => return Err(args.unknown(name)),
        }
    }
    match (on, pipeline) {
        (None, None) => {}
        (Some(on), Some(pipeline)) => {
            if index.is_some() || change != CollectionChange::default() {
                return Err(invalid("a view takes 'viewOn' and 'pipeline' only"));
            }
            let view = View {
                on,
                pipeline,
                ..View::default()
            };
            call.shared
                .documents
                .modify_view(&ns, view)
                .await
                .map_err(not_there)?;
            return Ok(RawDocumentBuf::new());
        }
        _ => {
            return Err(invalid(
                "Must specify both 'viewOn' and 'pipeline' when modifying a view",
            ));
        }
    }
    let named = match &index {
        Some(index) => Some(index.find(call, &ns).await?),
        None => None,
    };
    let documents = &call.shared.documents;
    // A command that names nothing at all is an event of its own all the same, as in MongoDB.
    if named.is_none() || change != CollectionChange::default() {
        documents
            .modify_collection(&ns, change)
            .await
            .map_err(not_there)?;
    }
    let mut reply = RawDocumentBuf::new();
    if let (Some(index), Some(named)) = (index, named) {
        let (before, after) = documents.modify_index(&ns, &named, index.change).await?;
        append_change(&mut reply, &before, &after);
    }
    Ok(reply)
}

/// What changed of an index: the old values, where there were some, and the new ones.
fn append_change(reply: &mut RawDocumentBuf, before: &IndexSpec, after: &IndexSpec) {
    if before.expire_after_seconds != after.expire_after_seconds {
        if let Some(seconds) = before.expire_after_seconds {
            reply.append(cstr!("expireAfterSeconds_old"), seconds);
        }
        if let Some(seconds) = after.expire_after_seconds {
            reply.append(cstr!("expireAfterSeconds_new"), seconds);
        }
    }
    if before.hidden != after.hidden {
        reply.append(cstr!("hidden_old"), before.hidden);
        reply.append(cstr!("hidden_new"), after.hidden);
    }
}

/// Which index, and what is to become of it.
struct IndexArgs {
    which: Which,
    change: IndexChange,
}

enum Which {
    Name(Arc<str>),
    Keys(RawDocumentBuf),
}

impl IndexArgs {
    fn parse(argument: &RawDocument) -> Result<Self> {
        let refuse = |message: &str| Err(CommandError::new(Code::InvalidOptions, message));
        let (mut name, mut keys) = (None, None);
        let mut change = IndexChange::default();
        for field in argument {
            let (option, value) = field?;
            match option.as_str() {
                "name" => name = Some(args::text("collMod.index.name", value)?.into()),
                "keyPattern" => {
                    keys = Some(args::document("collMod.index.keyPattern", value)?.to_owned());
                }
                "expireAfterSeconds" => {
                    change.expire_after_seconds =
                        Some(args::integer("collMod.index.expireAfterSeconds", value)?);
                }
                "hidden" => change.hidden = Some(args::flag("collMod.index.hidden", value)?),
                option @ ("unique" | "prepareUnique" | "forceNonUnique") => {
                    return Err(CommandError::new(
                        Code::CommandNotSupported,
                        format!("'collMod' with 'index.{option}' is not supported"),
                    ));
                }
                option => {
                    return Err(CommandError::new(
                        Code::Location40415,
                        format!("BSON field 'collMod.index.{option}' is an unknown field."),
                    ));
                }
            }
        }
        let which = match (name, keys) {
            (Some(name), None) => Which::Name(name),
            (None, Some(keys)) => Which::Keys(keys),
            (Some(_), Some(_)) => return refuse("Cannot specify both key pattern and name."),
            (None, None) => return refuse("Must specify either index name or key pattern."),
        };
        if change == IndexChange::default() {
            return refuse("no expireAfterSeconds or hidden field");
        }
        Ok(Self { which, change })
    }

    /// The name of the index.
    async fn find(&self, call: &Call<'_>, ns: &Namespace) -> Result<Arc<str>> {
        let there = call.shared.documents.list_indexes(ns).await.map_err(not_there)?;
        let (found, shown) = match &self.which {
            Which::Name(name) => (there.iter().find(|index| index.name == *name), name.to_string()),
            Which::Keys(keys) => {
                let same = |index: &&IndexSpec| query::same_keys(&index.key_pattern(), keys);
                (there.iter().find(same), format!("{keys:?}"))
            }
        };
        let found = found.map(|index| index.name.clone());
        found.ok_or_else(|| {
            CommandError::new(
                Code::IndexNotFound,
                format!("cannot find index {shown} for ns {ns}"),
            )
        })
    }
}

fn invalid(message: &str) -> CommandError {
    CommandError::new(Code::InvalidOptions, message)
}

fn not_there(error: cloudlet_data::Error) -> CommandError {
    if error.code() == cloudlet_data::Code::NamespaceNotFound {
        return CommandError::new(Code::NamespaceNotFound, "ns does not exist");
    }
    error.into()
}
