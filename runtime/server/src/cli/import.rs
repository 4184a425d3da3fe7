//! `db import`: documents of a file, of standard input, or of the files that mongodump wrote, in batches. A batch is
//! acknowledged when the node has it on its disk; then the place after it goes into `FILE.import-state`, from where
//! the next run goes on. Documents without `_id` get theirs here, made of a number that is kept with the place, so
//! that a batch that is sent again has the same ones.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;
use cloudlet_base::{AppId, Clock as _, Entropy as _, OsEntropy, SystemClock};
use cloudlet_data::Creation;
use cloudlet_data::formats::{DocumentReader, Encoding, JsonStyle, Metadata, Place, print_document};
use flate2::read::MultiGzDecoder;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{ApiError, Client, encoded};
use super::context::{Context, beside};
use super::dump::{
    BSON_ENDING, FileFormat, GZIP_ENDING, METADATA_ENDING, Progress, collection_of, load_state, remove_state,
    save_state,
};
use super::export::{described, patiently};
use super::{NoMatch, Told};

/// A batch is sent when it has this many bytes; a larger document is a batch of its own.
const BATCH_BYTES: usize = 4 << 20;
/// Documents in a batch at most.
const BATCH_DOCUMENTS_MAX: usize = 2000;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Refused documents that are told one by one; of the others the number is told.
const ERRORS_SHOWN_MAX: u64 = 20;
/// Largest file of metadata: a collection has 64 indexes at most.
const METADATA_BYTES_MAX: u64 = 4 << 20;
/// Name of what a dump has beside the databases, without metadata: the changes that were made meanwhile.
const OPLOG: &str = "oplog";
/// How a file begins that gzip made.
const GZIP_MAGIC: &[u8] = &[0x1F, 0x8B];

/// What becomes of a document whose `_id` is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// It is refused
    Insert,
    /// It is replaced
    Upsert,
    /// It gets the fields of the new one
    Merge,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Insert => "insert",
            Mode::Upsert => "upsert",
            Mode::Merge => "merge",
        }
    }
}

/// Arguments of `db import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file of documents, - for standard input, or a directory that mongodump wrote
    source: PathBuf,
    /// The collection [default: as the file is named]; of a directory the only one to import
    collection: Option<String>,
    /// What the file has [default: by its name]
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// What becomes of a document whose _id is there
    #[arg(long, value_enum, default_value = "insert")]
    mode: Mode,
    /// Remove the collection's documents first; its options and indexes stay, or are those of the dump
    #[arg(long)]
    drop: bool,
    /// Make a dump's collections without their options: validators, collations, bounds
    #[arg(long)]
    no_options: bool,
    /// Take documents that the collection's validator refuses
    #[arg(long)]
    bypass_validation: bool,
    /// Stop at the first document that is refused instead of going on with the others
    #[arg(long)]
    stop_on_error: bool,
    /// Begin anew instead of where a broken run stopped
    #[arg(long)]
    restart: bool,
    /// Go on where a broken run stopped although the file has changed: it was mended after that place
    #[arg(long, conflicts_with = "restart")]
    mended: bool,
    /// Where to keep how far it has come [default: the file's name and .import-state]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

/// A source as it was when its import began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Source {
    bytes: u64,
    modified_ns: u128,
    encoding: String,
}

/// Where the documents go and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Target {
    node: String,
    app: String,
    collection: String,
    mode: Mode,
    drop: bool,
}

/// What became of the documents.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Counts {
    inserted: u64,
    matched: u64,
    modified: u64,
    already: u64,
    failed: u64,
}

/// How far an import has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    source: Option<Source>,
    target: Target,
    place: Place,
    counts: Counts,
    /// Of what the `_id`s are made that documents lack: hexadecimal, 12 bytes.
    seed: String,
    /// Whether all of it is imported, and the state stays for the other collections of a dump only.
    done: bool,
}

/// One file to import into one collection.
struct Job {
    /// None is standard input.
    path: Option<PathBuf>,
    collection: String,
    encoding: Encoding,
    /// Where the state is kept; none for standard input.
    checkpoint: Option<PathBuf>,
    metadata: Option<Metadata>,
}

/// A view of a dump.
struct ViewJob {
    name: String,
    metadata: Metadata,
}

/// What came of one file.
struct Imported {
    collection: String,
    documents: u64,
    resumed: u64,
    counts: Counts,
    indexes: u64,
    index_errors: Vec<String>,
}

impl Imported {
    /// What comes of a view.
    fn nothing(collection: String) -> Self {
        Self {
            collection,
            documents: 0,
            resumed: 0,
            counts: Counts::default(),
            indexes: 0,
            index_errors: Vec::new(),
        }
    }
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let is_dump = args.source.is_dir();
    let (jobs, views) = match is_dump {
        true => of_dump(&args, &app)?,
        false => (vec![of_file(&args)?], Vec::new()),
    };
    if jobs.is_empty() && views.is_empty() {
        return Err(NoMatch(format!("{} has no collection to import", args.source.display())).into());
    }
    let mut imported = Vec::new();
    for job in &jobs {
        let import = Import {
            context,
            client: &client,
            app: &app,
            args: &args,
            job,
        };
        imported.push(import.run().await?);
    }
    for ViewJob { name, metadata } in views {
        let path = format!("/v1/apps/{app}/collections/{}", encoded(&name));
        if args.drop {
            client.value(Method::DELETE, &path, None).await?;
        }
        make(&client, &path, &name, &metadata, &args).await?;
        imported.push(Imported::nothing(name));
    }
    for job in &jobs {
        if let Some(checkpoint) = &job.checkpoint {
            remove_state(checkpoint)?;
        }
    }
    tell(context, &imported, is_dump)
}

fn of_file(args: &Args) -> anyhow::Result<Job> {
    let from_stdin = args.source.as_os_str() == "-";
    let (by_name, _) = FileFormat::of_name(&args.source);
    let encoding = match args.format.or(by_name) {
        Some(FileFormat::Bson) => Encoding::Bson,
        Some(FileFormat::Jsonl | FileFormat::Json | FileFormat::Cloudbase) => Encoding::Json,
        None if from_stdin => Encoding::Json,
        None => bail!(
            "what has {}? name the format with --format jsonl, json, bson or cloudbase",
            args.source.display()
        ),
    };
    let collection = match &args.collection {
        Some(collection) => collection.clone(),
        None if from_stdin => bail!("into which collection? name it: cloudlet db import - COLLECTION"),
        None => {
            let name = args.source.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(GZIP_ENDING).unwrap_or(&name);
            collection_of(name.rsplit_once('.').map_or(name, |(name, _)| name))?
        }
    };
    let checkpoint = match (&args.checkpoint, from_stdin) {
        (Some(_), true) => bail!("standard input can't be read again, so there is no --checkpoint for it"),
        (Some(path), false) => Some(path.clone()),
        (None, true) => None,
        (None, false) => Some(beside(&args.source, ".import-state")),
    };
    Ok(Job {
        path: (!from_stdin).then(|| args.source.clone()),
        collection,
        encoding,
        checkpoint,
        metadata: None,
    })
}

/// The collections of a directory, the database's own or the one above it, and its views.
fn of_dump(args: &Args, app: &AppId) -> anyhow::Result<(Vec<Job>, Vec<ViewJob>)> {
    if args.format.is_some_and(|format| format != FileFormat::Bson) {
        bail!("a directory is imported as mongodump wrote it; --format is for files");
    }
    if args.checkpoint.is_some() {
        bail!("the states of a directory's files are kept beside these; --checkpoint is for a single file");
    }
    let dir = database_dir(&args.source, app)?;
    let wanted = |collection: &str| args.collection.as_ref().is_none_or(|wanted| wanted == collection);
    let (mut jobs, mut views) = (Vec::new(), Vec::new());
    for (name, path) in entries(&dir)? {
        let plain = name.strip_suffix(GZIP_ENDING).unwrap_or(&name);
        if let Some(stem) = plain.strip_suffix(METADATA_ENDING) {
            let metadata = read_metadata(&path)?;
            let name = match &metadata.collection {
                Some(name) => name.clone(),
                None => collection_of(stem)?,
            };
            if metadata.is_view() && wanted(&name) {
                views.push(ViewJob { name, metadata });
            }
            continue;
        }
        let Some(stem) = plain.strip_suffix(BSON_ENDING) else {
            continue;
        };
        let gz = &name[plain.len()..];
        let metadata_path = dir.join(format!("{stem}{METADATA_ENDING}{gz}"));
        let metadata = match metadata_path.exists() {
            true => Some(read_metadata(&metadata_path)?),
            false => None,
        };
        let named = metadata.as_ref().and_then(|metadata| metadata.collection.clone());
        let collection = match named {
            Some(collection) => collection,
            None => collection_of(stem)?,
        };
        if !wanted(&collection) {
            continue;
        }
        if collection.starts_with("system.") || metadata.as_ref().is_some_and(Metadata::is_view) {
            eprintln!(
                "{collection} is left out: it has a view's documents, or is one of the server's own collections"
            );
            continue;
        }
        jobs.push(Job {
            checkpoint: Some(beside(&path, ".import-state")),
            path: Some(path),
            collection,
            encoding: Encoding::Bson,
            metadata,
        });
    }
    Ok((jobs, views))
}

fn entries(dir: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let unreadable = || format!("can't read {}", dir.display());
    let mut entries = Vec::new();
    for entry in dir.read_dir().with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn database_dir(dir: &Path, app: &AppId) -> anyhow::Result<PathBuf> {
    let there = entries(dir)?;
    let has_metadata = |stem: &str| {
        let metadata = format!("{stem}{METADATA_ENDING}");
        there.iter().any(|(name, _)| name.starts_with(&metadata))
    };
    let is_documents = |(name, _): &(String, PathBuf)| {
        let name = name.strip_suffix(GZIP_ENDING).unwrap_or(name);
        if name.ends_with(METADATA_ENDING) {
            return true;
        }
        let stem = name.strip_suffix(BSON_ENDING);
        stem.is_some_and(|stem| stem != OPLOG || has_metadata(stem))
    };
    if there.iter().any(is_documents) {
        return Ok(dir.to_owned());
    }
    let mut databases: Vec<PathBuf> = there
        .into_iter()
        .map(|(_, path)| path)
        .filter(|path| path.is_dir())
        .collect();
    if databases.len() > 1 {
        databases.retain(|path| path.file_name().is_some_and(|name| name == app.as_str()));
    }
    match databases.pop() {
        Some(database) if databases.is_empty() => Ok(database),
        _ => bail!(
            "{} has neither documents as mongodump writes them nor a directory of app {app}; name the directory of one database",
            dir.display()
        ),
    }
}

fn read_metadata(path: &Path) -> anyhow::Result<Metadata> {
    let unreadable = || format!("can't read {}", path.display());
    let mut bytes = Vec::new();
    open(path)
        .with_context(unreadable)?
        .take(METADATA_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(unreadable)?;
    Metadata::parse(&bytes)
        .map_err(|what| anyhow::anyhow!("{} is no metadata of mongodump's: {what}", path.display()))
}

fn is_compressed(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    File::open(path)?.take(2).read_to_end(&mut magic)?;
    Ok(magic == GZIP_MAGIC)
}

/// A file's bytes, uncompressed.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    Ok(match is_compressed(path)? {
        true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file))),
        false => Box::new(file),
    })
}

/// The same from a place on.
fn open_at(path: &Path, bytes: u64) -> io::Result<Box<dyn BufRead>> {
    if is_compressed(path)? {
        let mut source = open(path)?;
        io::copy(&mut source.by_ref().take(bytes), &mut io::sink())?;
        return Ok(source);
    }
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(bytes))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

/// One file's import.
struct Import<'i> {
    context: &'i Context,
    client: &'i Client,
    app: &'i AppId,
    args: &'i Args,
    job: &'i Job,
}

/// Documents that are sent together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The place before each, and the line or byte that it is told by.
    places: Vec<(Place, String)>,
    /// The place after the last one.
    end: Place,
}

impl Import<'_> {
    async fn run(&self) -> anyhow::Result<Imported> {
        // A batch may be on the node without the state that was left saying so.
        let (mut state, again) = match self.kept()? {
            Some(state) => (state, true),
            None => (self.begin().await?, false),
        };
        let resumed = state.place.documents;
        // Before the documents, so that they are held to what the dump says of them.
        let (indexes, index_errors) = self.indexes().await?;
        if !state.done {
            self.documents(&mut state, again).await?;
            state.done = true;
            self.keep(&state)?;
        }
        Ok(Imported {
            collection: self.job.collection.clone(),
            documents: state.place.documents,
            resumed,
            counts: state.counts,
            indexes,
            index_errors,
        })
    }

    fn name(&self) -> String {
        match &self.job.path {
            Some(path) => path.display().to_string(),
            None => "standard input".to_owned(),
        }
    }

    fn source(&self) -> anyhow::Result<Option<Source>> {
        let Some(path) = &self.job.path else {
            return Ok(None);
        };
        let unreadable = || format!("can't read {}", path.display());
        let metadata = std::fs::metadata(path).with_context(unreadable)?;
        if !metadata.is_file() {
            bail!("{} is not a file", path.display());
        }
        let modified = metadata.modified().with_context(unreadable)?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Some(Source {
            bytes: metadata.len(),
            modified_ns: since.as_nanos(),
            encoding: format!("{:?}", self.job.encoding),
        }))
    }

    fn target(&self) -> anyhow::Result<Target> {
        Ok(Target {
            node: self.context.node()?,
            app: self.app.to_string(),
            collection: self.job.collection.clone(),
            mode: self.args.mode,
            drop: self.args.drop,
        })
    }

    /// What a broken run left, when it is of this source and this target.
    fn kept(&self) -> anyhow::Result<Option<State>> {
        let Some(checkpoint) = self.job.checkpoint.as_ref().filter(|_| !self.args.restart) else {
            return Ok(None);
        };
        let Some(mut state) = load_state::<State>(checkpoint)? else {
            return Ok(None);
        };
        let stopped = state.place.documents;
        let differs = |what: &str| {
            format!(
                "{} tells of an import that stopped after {stopped} documents, but {what}; go on with --mended when only what comes after them was changed, or begin anew with --restart",
                checkpoint.display()
            )
        };
        let source = self.source()?;
        if state.source != source && !self.args.mended {
            bail!("{}", differs(&format!("{} has changed since", self.name())));
        }
        state.source = source;
        if state.target != self.target()? {
            bail!(
                "{}",
                differs("it went to another node, app or collection, or in another mode")
            );
        }
        Ok(Some(state))
    }

    async fn begin(&self) -> anyhow::Result<State> {
        let source = self.source()?;
        let target = self.target()?;
        let path = format!(
            "/v1/apps/{}/collections/{}",
            self.app,
            encoded(&self.job.collection)
        );
        let mut metadata = self.job.metadata.clone();
        if self.args.drop {
            let there = described(self.client, self.app, &self.job.collection).await;
            let there = match there {
                Ok(there) if there.is_view() => {
                    bail!("{:?} is a view, and takes no documents", self.job.collection)
                }
                Ok(there) => Some(there),
                Err(error) if is_not_found(&error) => None,
                Err(error) => return Err(error),
            };
            self.client.value(Method::DELETE, &path, None).await?;
            if metadata.is_none() {
                metadata = there;
            }
        }
        if let Some(metadata) = &metadata {
            // Also a collection without documents is one.
            make(self.client, &path, &self.job.collection, metadata, self.args).await?;
            if self.job.metadata.is_none() {
                let (_, errors) = self.indexes_of(metadata).await?;
                if let Some(error) = errors.first() {
                    bail!("{error}");
                }
            }
        }
        let seconds = u32::try_from(SystemClock::new().now().seconds()).unwrap_or(u32::MAX);
        let mut seed = [0; 12];
        OsEntropy.fill(&mut seed);
        seed[..4].copy_from_slice(&seconds.to_be_bytes());
        let state = State {
            source,
            target,
            place: Place::default(),
            counts: Counts::default(),
            seed: ObjectId::from_bytes(seed).to_hex(),
            done: false,
        };
        self.keep(&state)?;
        Ok(state)
    }

    fn keep(&self, state: &State) -> anyhow::Result<()> {
        match &self.job.checkpoint {
            Some(path) => save_state(path, state).context(
                "without a checkpoint a broken import can't go on; name another place with --checkpoint",
            ),
            None => Ok(()),
        }
    }

    /// Imports the documents from the state's place on.
    async fn documents(&self, state: &mut State, mut again: bool) -> anyhow::Result<()> {
        let unreadable = || format!("can't read {}", self.name());
        let source: Box<dyn BufRead> = match &self.job.path {
            Some(path) => open_at(path, state.place.bytes).with_context(unreadable)?,
            None => Box::new(io::stdin().lock()),
        };
        let compressed = match &self.job.path {
            Some(path) => is_compressed(path).with_context(unreadable)?,
            None => false,
        };
        let length = state.source.as_ref().map(|source| source.bytes);
        let length = length.filter(|_| !compressed);
        let mut progress = Progress::new(format!("importing {}", self.job.collection), length, true);
        let seed: ObjectId = state
            .seed
            .parse()
            .context("the checkpoint is damaged; begin anew with --restart")?;
        let mut reader = DocumentReader::resume(source, self.job.encoding, state.place);
        loop {
            let (batch, failure) = read_batch(&mut reader, seed);
            let is_last = batch.bytes.len() < BATCH_BYTES && batch.places.len() < BATCH_DOCUMENTS_MAX;
            if !batch.places.is_empty() {
                self.send(batch, state, again, &progress).await?;
                again = false;
                progress.at(state.place.bytes, state.place.documents);
            }
            if let Some(failure) = failure {
                bail!(
                    "{}: {failure}; the {} documents before it are imported. {}",
                    self.name(),
                    state.place.documents - state.counts.failed,
                    match self.job.checkpoint {
                        Some(_) =>
                            "Mend it there, leave what is before as it is, and run the command again with --mended to go on",
                        None => "Mend it and import the rest",
                    }
                );
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Sends a batch, and keeps the place after it.
    async fn send(
        &self,
        batch: Batch,
        state: &mut State,
        again: bool,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let path = format!(
            "/v1/apps/{}/documents/{}/import?mode={}&ordered={}&again={}&bypass={}",
            self.app,
            encoded(&self.job.collection),
            self.args.mode.name(),
            u8::from(self.args.stop_on_error),
            u8::from(again),
            u8::from(self.args.bypass_validation)
        );
        let bytes = Bytes::from(batch.bytes);
        let answer = patiently(async || {
            self.client
                .post_bytes(&path, "application/bson", bytes.clone())
                .await
        });
        let answer = answer.await.with_context(|| {
            format!(
                "the import stopped after {} documents{}",
                state.place.documents,
                match self.job.checkpoint {
                    Some(_) => "; run the command again to go on there",
                    None => "",
                }
            )
        })?;
        let answer: Value = serde_json::from_slice(&answer).context("the node's answer is not JSON")?;
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        let errors = answer["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let failed_at = |error: &Value| {
            let index = error["index"]
                .as_u64()
                .and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| batch.places.get(index))
        };
        state.counts.inserted += number("inserted");
        state.counts.matched += number("matched");
        state.counts.modified += number("modified");
        state.counts.already += number("already");
        if let (true, Some(error)) = (self.args.stop_on_error, errors.first()) {
            let (place, at) = failed_at(error).context("the node told of a document that it was not sent")?;
            state.place = *place;
            self.keep(state)?;
            bail!(
                "{}: {at}: {}; the {} documents before it are imported. {}",
                self.name(),
                error["message"].as_str().unwrap_or_default(),
                state.place.documents,
                match self.job.checkpoint {
                    Some(_) =>
                        "Remove what stands against it and run the command again, or without --stop-on-error to go on with the others",
                    None => "Import the rest again with --mode upsert, or without --stop-on-error",
                }
            );
        }
        let shown_before = state.counts.failed;
        state.counts.failed += number("failed");
        for (nth, error) in errors.iter().enumerate() {
            if shown_before + nth as u64 >= ERRORS_SHOWN_MAX {
                break;
            }
            let at = failed_at(error).map_or("", |(_, at)| at);
            progress.say(&format!(
                "{}: {at}: {}",
                self.name(),
                error["message"].as_str().unwrap_or_default()
            ));
        }
        if shown_before < ERRORS_SHOWN_MAX && state.counts.failed > ERRORS_SHOWN_MAX {
            progress.say("more documents are refused; only their number will be told");
        }
        state.place = batch.end;
        self.keep(state)
    }

    /// Makes the indexes of a dump; gives how many, and why others could not be made.
    async fn indexes(&self) -> anyhow::Result<(u64, Vec<String>)> {
        match &self.job.metadata {
            Some(metadata) => self.indexes_of(metadata).await,
            None => Ok((0, Vec::new())),
        }
    }

    async fn indexes_of(&self, metadata: &Metadata) -> anyhow::Result<(u64, Vec<String>)> {
        let path = format!(
            "/v1/apps/{}/collections/{}/indexes",
            self.app,
            encoded(&self.job.collection)
        );
        let (mut made, mut errors) = (0, Vec::new());
        for index in &metadata.indexes {
            let name = index.get_str("name").unwrap_or_default();
            if name == "_id_" || index.get_bool("clustered").is_ok_and(|clustered| clustered) {
                continue;
            }
            let mut index = index.clone();
            if has(&metadata.options, "collation") && !has(&index, "collation") {
                // Without one it would get its collection's.
                index.append(cstr!("collation"), rawdoc! { "locale": "simple" });
            }
            let mut body = b"{\"indexes\":[".to_vec();
            print_document(&index, JsonStyle::Canonical, &mut body)?;
            body.extend_from_slice(b"]}");
            match self
                .client
                .value(Method::POST, &path, Some(Bytes::from(body)))
                .await
            {
                Ok(answer) => made += answer["made"].as_u64().unwrap_or_default(),
                Err(error) if error.is::<ApiError>() => {
                    errors.push(format!(
                        "{}: index {name:?} is not made: {error:#}",
                        self.job.collection
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((made, errors))
    }
}

fn has(document: &RawDocument, field: &str) -> bool {
    matches!(document.get(field), Ok(Some(_)))
}

/// Makes a collection or view as its metadata say, and tells when there is another one.
async fn make(
    client: &Client,
    path: &str,
    name: &str,
    metadata: &Metadata,
    args: &Args,
) -> anyhow::Result<()> {
    let options = match args.no_options && !metadata.is_view() {
        true => RawDocumentBuf::new(),
        false => metadata.options.clone(),
    };
    let mut body = b"{\"options\":".to_vec();
    print_document(&options, JsonStyle::Canonical, &mut body)?;
    body.push(b'}');
    let answer = client.value(Method::PUT, path, Some(Bytes::from(body))).await;
    let answer = answer.with_context(|| {
        format!("{name:?} can't be made with the options of the dump; --no-options makes it without them")
    })?;
    if answer["created"] == true || args.no_options {
        return Ok(());
    }
    let there = client.bytes(Method::GET, path, None).await?;
    let there = Metadata::parse(&there).map_err(|error| anyhow::anyhow!("the node's answer: {error}"))?;
    if Creation::parse(&there.options)? != Creation::parse(&options)? {
        eprintln!(
            "{name}: it is there with other options than the dump's, and keeps them; --drop removes it first"
        );
    }
    Ok(())
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ApiError>()
        .is_some_and(|api| api.status == http::StatusCode::NOT_FOUND)
}

/// Reads a batch; a failure comes after the documents that were before it.
fn read_batch(
    reader: &mut DocumentReader<Box<dyn BufRead>>,
    seed: ObjectId,
) -> (Batch, Option<cloudlet_data::formats::ReadError>) {
    let mut batch = Batch {
        end: reader.place(),
        ..Batch::default()
    };
    while batch.bytes.len() < BATCH_BYTES && batch.places.len() < BATCH_DOCUMENTS_MAX {
        let before = reader.place();
        match reader.read() {
            Ok(None) => break,
            Err(failure) => return (batch, Some(failure)),
            Ok(Some(stored)) => {
                let at = match stored.line {
                    Some(line) => format!("line {line}"),
                    None => format!("byte {}", stored.byte),
                };
                match stored.document.get("_id") {
                    Ok(None) => {
                        let id = made_id(seed, before.documents);
                        batch
                            .bytes
                            .extend_from_slice(with_id(&stored.document, id).as_bytes());
                    }
                    _ => batch.bytes.extend_from_slice(stored.document.as_bytes()),
                }
                batch.places.push((before, at));
                batch.end = reader.place();
            }
        }
    }
    (batch, None)
}

/// The `_id` of the document with this number.
fn made_id(seed: ObjectId, number: u64) -> ObjectId {
    let mut bytes = seed.bytes();
    if let Some(tail) = bytes.last_chunk_mut::<8>() {
        *tail = u64::from_be_bytes(*tail).wrapping_add(number).to_be_bytes();
    }
    ObjectId::from_bytes(bytes)
}

fn with_id(document: &RawDocument, id: ObjectId) -> RawDocumentBuf {
    let mut with = RawDocumentBuf::new();
    with.append(cstr!("_id"), id);
    for (name, value) in document.iter().flatten() {
        with.append(name, value);
    }
    with
}

/// Tells what became of everything. Not all of it being imported is a failure.
fn tell(context: &Context, imported: &[Imported], is_dump: bool) -> anyhow::Result<()> {
    if context.json {
        let collections: Vec<Value> = imported
            .iter()
            .map(|done| {
                let counts = &done.counts;
                json!({
                    "collection": done.collection,
                    "documents": done.documents,
                    "resumedAfter": done.resumed,
                    "inserted": counts.inserted,
                    "matched": counts.matched,
                    "modified": counts.modified,
                    "already": counts.already,
                    "failed": counts.failed,
                    "indexes": done.indexes,
                    "indexErrors": done.index_errors,
                })
            })
            .collect();
        println!("{}", json!({ "collections": collections }));
    } else {
        for done in imported {
            let mut parts = vec![format!("{} inserted", done.counts.inserted)];
            for (count, what) in [
                (done.counts.matched, "matched"),
                (done.counts.modified, "modified"),
                (done.counts.already, "there already"),
                (done.counts.failed, "refused"),
                (done.indexes, "indexes made"),
            ] {
                if count > 0 {
                    parts.push(format!("{count} {what}"));
                }
            }
            println!(
                "{}: {} documents: {}",
                done.collection,
                done.documents,
                parts.join(", ")
            );
        }
    }
    for error in imported.iter().flat_map(|done| &done.index_errors) {
        eprintln!("{error}");
    }
    let failed: u64 = imported.iter().map(|done| done.counts.failed).sum();
    let index_errors: usize = imported.iter().map(|done| done.index_errors.len()).sum();
    let documents: u64 = imported.iter().map(|done| done.documents).sum();
    match (failed, index_errors) {
        (0, 0) if documents == 0 && !is_dump => {
            Err(NoMatch("there was no document to import".to_owned()).into())
        }
        (0, 0) => Ok(()),
        (0, _) => Err(Told.into()),
        (failed, _) => bail!(
            "{failed} documents were refused; what is there already can be replaced with --mode upsert, or changed with --mode merge"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_the_same_for_the_same_document_and_never_meet() {
        let seed = ObjectId::from_bytes([0xFF; 12]);
        assert_eq!(made_id(seed, 5), made_id(seed, 5));
        assert_ne!(made_id(seed, 0), made_id(seed, 1 << 24));
        assert_eq!(
            made_id(seed, 1).bytes(),
            [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
