//! Collections as they are made and changed: `create` and `collMod`, with the options that the two share.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr};
use cloudlet_data::{
    BucketSpan, Capped, CollectionChange, CollectionOptions, IndexChange, IndexSpec, Namespace, TimeSeries,
    ValidationAction, ValidationLevel, View,
};

use super::query;
use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};

/// `create`.
pub(crate) async fn create(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let ns = call.target(&body)?;
    let mut options = CollectionOptions::default();
    let (mut on, mut pipeline, mut collation) = (None, None, None);
    let (mut capped, mut size, mut max) = (false, None, None);
    let mut expires = None;
    let mut args = Args::new("create", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            // Options that ask for the ordinary.
            "autoIndexId"
            | "idIndex"
            | "flags"
            | "storageEngine"
            | "indexOptionDefaults"
            | "recordIdsReplicated" => {}
            "capped" => capped = args::flag("create.capped", value)?,
            "size" => size = Some(args::integer("create.size", value)?),
            "max" => max = Some(args::integer("create.max", value)?),
            "clusteredIndex" => options.clustered = clustered(value)?,
            "temp" => {
                if args::flag(name, value)? {
                    return Err(args.unsupported(name));
                }
            }
            "collation" => collation = args::collated(value)?,
            "validator" => options.validator = Some(args::document("create.validator", value)?.to_owned()),
            "validationLevel" => options.validation_level = level("create", value)?,
            "validationAction" => options.validation_action = action("create", value)?,
            "changeStreamPreAndPostImages" => options.images = images("create", value)?,
            "viewOn" => on = Some(args::text("create.viewOn", value)?.into()),
            "pipeline" => pipeline = Some(args::documents("create.pipeline", value)?),
            "timeseries" => {
                let series = args::document("create.timeseries", value)?;
                options.time_series = Some(TimeSeries::parse(series)?);
            }
            "expireAfterSeconds" => expires = Some(args::integer("create.expireAfterSeconds", value)?),
            "encryptedFields" => return Err(args.unsupported(name)),
            name => return Err(args.unknown(name)),
        }
    }
    match (&mut options.time_series, expires) {
        (_, None) => {}
        (Some(series), expires) => series.expire_after_seconds = expires,
        // MongoDB lets documents of a clustered collection expire by a date in `_id`.
        (None, Some(_)) if options.clustered.is_some() => {
            return Err(Args::new("create", &body).unsupported("expireAfterSeconds"));
        }
        (None, Some(_)) => {
            return Err(invalid(
                "'expireAfterSeconds' is only supported on time-series collections or when the 'clusteredIndex' option is specified",
            ));
        }
    }
    options.capped = bounds(capped, size, max)?;
    // An empty one is none.
    options.validator = options.validator.filter(|validator| !validator.is_empty());
    let view = match (on, pipeline) {
        (None, None) => None,
        (Some(on), pipeline) => Some(View {
            on,
            pipeline: pipeline.unwrap_or_default(),
            collation: collation.take(),
        }),
        (None, Some(_)) => return Err(invalid("'pipeline' cannot be specified without 'viewOn'")),
    };
    options.collation = collation;
    let made = match (&call.open, view) {
        (_, Some(_)) if options != CollectionOptions::default() => {
            return Err(invalid(
                "a view takes no options of a collection: it has the documents of what it is of",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(CommandError::new(
                Code::OperationNotSupportedInTransaction,
                format!("Cannot create a view in a multi-document transaction: {ns}"),
            ));
        }
        (None, Some(view)) => call.shared.documents.create_view(&ns, view).await,
        (Some(transaction), None) => transaction.create_collection(&ns, options).await,
        (None, None) => call.shared.documents.create_collection_with(&ns, options).await,
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
            "validationLevel" => change.validation_level = Some(level("collMod", value)?),
            "validationAction" => change.validation_action = Some(action("collMod", value)?),
            "changeStreamPreAndPostImages" => change.images = Some(images("collMod", value)?),
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

/// `capped`, `size` and `max`.
fn bounds(capped: bool, size: Option<i64>, max: Option<i64>) -> Result<Option<Capped>> {
    match (capped, size) {
        (false, None) if max.is_none() => Ok(None),
        (false, _) => Err(invalid(
            "the 'capped' field needs to be true when either the 'size' or 'max' fields are present",
        )),
        (true, None) => Err(invalid("the 'size' field is required when 'capped' is true")),
        (true, Some(size)) => Ok(Some(Capped {
            // What is no size is told as one that is too small.
            size: u64::try_from(size).unwrap_or(0),
            max: max.and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0),
        })),
    }
}

/// `{key: {_id: 1}, unique: true, name, v}`: the name, `_id_` when there is none. `true` is an old way to write it.
fn clustered(value: RawBsonRef<'_>) -> Result<Option<Arc<str>>> {
    let refuse = |message: String| Err(CommandError::new(Code::BadValue, message));
    if let RawBsonRef::Boolean(flag) = value {
        return Ok(flag.then(|| "_id_".into()));
    }
    let (mut name, mut key, mut unique) = ("_id_", false, false);
    for field in args::document("create.clusteredIndex", value)? {
        let (option, value) = field?;
        match option.as_str() {
            "name" => name = args::text("create.clusteredIndex.name", value)?,
            "key" => {
                let keys = args::document("create.clusteredIndex.key", value)?;
                key = query::same_keys(&bson::rawdoc! { "_id": 1 }, keys);
            }
            "unique" => unique = args::flag("create.clusteredIndex.unique", value)?,
            "v" if args::integer("create.clusteredIndex.v", value)? == 2 => {}
            "v" => return refuse("the clustered index has the version 2".to_owned()),
            option => {
                return Err(CommandError::new(
                    Code::Location40415,
                    format!("BSON field 'create.clusteredIndex.{option}' is an unknown field."),
                ));
            }
        }
    }
    if !key || !unique {
        return refuse("the clustered index has the key {_id: 1} and is unique".to_owned());
    }
    Ok(Some(name.into()))
}

fn level(command: &str, value: RawBsonRef<'_>) -> Result<ValidationLevel> {
    let name = format!("{command}.validationLevel");
    let text = args::text(&name, value)?;
    ValidationLevel::from_name(text).ok_or_else(|| not_one_of(&name, text))
}

fn action(command: &str, value: RawBsonRef<'_>) -> Result<ValidationAction> {
    let name = format!("{command}.validationAction");
    let text = args::text(&name, value)?;
    ValidationAction::from_name(text).ok_or_else(|| not_one_of(&name, text))
}

fn not_one_of(name: &str, value: &str) -> CommandError {
    CommandError::new(
        Code::BadValue,
        format!("Enumeration value '{value}' for field '{name}' is not a valid value."),
    )
}

/// `{enabled: bool}`.
fn images(command: &str, value: RawBsonRef<'_>) -> Result<bool> {
    let name = format!("{command}.changeStreamPreAndPostImages");
    let mut enabled = None;
    for field in args::document(&name, value)? {
        let (option, value) = field?;
        if option != "enabled" {
            return Err(CommandError::new(
                Code::Location40415,
                format!("BSON field '{name}.{option}' is an unknown field."),
            ));
        }
        enabled = Some(args::flag(&format!("{name}.enabled"), value)?);
    }
    enabled.ok_or_else(|| args::missing(&name, "enabled"))
}
