//! `db export`: a collection to a file or to standard output, or collections to a directory for mongorestore. Pages
//! are read in the order of `_id`, each a request of its own, so that nothing on the node waits for a slow disk here.
//!
//! A file grows as `FILE.part` and gets its name when it is whole. Beside it `FILE.part.state` tells what of it is
//! good, by its digest, and the `_id` after which to go on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use cloudlet_base::AppId;
use cloudlet_data::compare_values;
use cloudlet_data::formats::{
    DocumentReader, DocumentWriter, Encoding, JsonStyle, Metadata, Shape, parse_document, print_value,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::NoMatch;
use super::api::{ApiError, Client, encoded};
use super::context::{Context, beside};
use super::db::object;
use super::dump::{
    BSON_ENDING, FileFormat, GZIP_ENDING, METADATA_ENDING, Progress, file_name_of, load_state, remove_state,
    save_state,
};

/// What is gathered before it is written.
const CHUNK_BYTES: usize = 1 << 20;
/// The state of a dump, in its directory.
const DUMP_STATE: &str = ".cloudlet-export";

/// Arguments of `db export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The collection; with --dump all of them unless one is named
    #[arg(required_unless_present = "dump")]
    collection: Option<String>,
    /// The file, or - for standard output
    #[arg(default_value = "-", conflicts_with = "dump")]
    file: PathBuf,
    /// Write a directory as mongodump does: DIR/APP/COLLECTION.bson and its metadata
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// What to write [default: by the file's name, else jsonl]
    #[arg(long, value_enum, conflicts_with = "dump")]
    format: Option<FileFormat>,
    /// Write every type out (canonical extended JSON)
    #[arg(long, conflicts_with = "dump")]
    canonical: bool,
    /// Compress with gzip; so does a name that ends in .gz
    #[arg(long)]
    gzip: bool,
    /// Which documents
    #[arg(long, value_name = "FILTER", conflicts_with = "dump")]
    filter: Option<String>,
    /// Replace what is there, and forget what a broken run left
    #[arg(long)]
    force: bool,
}

/// What is exported; a broken run is continued by the same one only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    node: String,
    app: String,
    /// None for a whole database.
    collection: Option<String>,
    format: String,
    filter: Option<String>,
    gzip: bool,
}

/// How far a file has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    plan: Plan,
    documents: u64,
    bytes: u64,
    /// SHA-256 of these bytes.
    digest: String,
    /// `{"_id": ..}` of the last document, in canonical extended JSON.
    after: Option<String>,
    /// Where the next page begins, of a collection with an order of its own.
    #[serde(default)]
    place: Option<String>,
    /// Whether there is no next page.
    #[serde(default)]
    ended: bool,
}

/// How far a dump has come.
#[derive(Debug, Serialize, Deserialize)]
struct DumpState {
    plan: Plan,
    done: Vec<String>,
}

/// What was written.
struct Exported {
    documents: u64,
    /// Documents that an earlier run had written.
    resumed: u64,
}

/// One collection's export.
struct Job<'j> {
    client: &'j Client,
    app: &'j AppId,
    collection: &'j str,
    plan: Plan,
    shape: Shape,
    force: bool,
    /// Whether it is capped or a time series: its documents come in its own order.
    natural: bool,
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let (there, views) = collections(&client, &app).await?;
    if let Some(collection) = &args.collection
        && !there.contains(collection)
        && !(args.dump.is_some() && views.contains(collection))
    {
        return Err(NoMatch(format!("app {app} has no collection {collection:?}")).into());
    }
    match (&args.dump, &args.collection) {
        (Some(dir), _) => dump(context, &client, &app, dir, &args, &there, &views).await,
        (None, Some(collection)) => one(context, &client, &app, collection, &args).await,
        (None, None) => bail!("which collection? name it, or export all with --dump DIR"),
    }
}

/// The collections of an app, and its views.
async fn collections(client: &Client, app: &AppId) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let answer = client.get(&format!("/v1/apps/{app}/collections")).await?;
    let names = |kind: &str| {
        let names = answer[kind].as_array().map(Vec::as_slice);
        let names = names.unwrap_or_default().iter().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    Ok((names("collections"), names("views")))
}

async fn one(
    context: &Context,
    client: &Client,
    app: &AppId,
    collection: &str,
    args: &Args,
) -> anyhow::Result<()> {
    let (by_name, gz_name) = FileFormat::of_name(&args.file);
    let format = args.format.or(by_name).unwrap_or(FileFormat::Jsonl);
    let style = match (args.canonical, format) {
        (true, FileFormat::Jsonl | FileFormat::Json) => JsonStyle::Canonical,
        (true, FileFormat::Bson | FileFormat::Cloudbase) => {
            bail!("--canonical has a meaning for the formats jsonl and json only")
        }
        (false, FileFormat::Cloudbase) => JsonStyle::CloudBase,
        (false, _) => JsonStyle::Relaxed,
    };
    let shape = match format {
        FileFormat::Jsonl | FileFormat::Cloudbase => Shape::Lines(style),
        FileFormat::Json => Shape::Array(style),
        FileFormat::Bson => Shape::Bson,
    };
    if let Some(filter) = &args.filter {
        object("filter", filter)?;
    }
    let gzip = args.gzip || gz_name;
    let job = Job {
        client,
        app,
        collection,
        plan: Plan {
            node: context.node()?,
            app: app.to_string(),
            collection: Some(collection.to_owned()),
            format: format!("{shape:?}"),
            filter: args.filter.clone(),
            gzip,
        },
        shape,
        force: args.force,
        natural: has_own_order(&described(client, app, collection).await?),
    };
    let to_stdout = args.file.as_os_str() == "-";
    let exported = match to_stdout {
        true => job.to_stdout().await?,
        false => job.to_file(&args.file).await?,
    };
    let file = args.file.display();
    if !to_stdout {
        tell(
            context,
            &[(collection.to_owned(), exported.documents, exported.resumed)],
            &file.to_string(),
        );
    }
    match exported.documents {
        0 => Err(NoMatch(format!(
            "no document of {collection:?} matches; what was written has none"
        ))
        .into()),
        _ => Ok(()),
    }
}

/// Tells what was written, with the number of each collection's documents.
fn tell(context: &Context, exported: &[(String, u64, u64)], to: &str) {
    if context.json {
        let collections: Vec<Value> = exported
            .iter()
            .map(|(collection, documents, resumed)| {
                json!({ "collection": collection, "documents": documents, "resumedAfter": resumed })
            })
            .collect();
        println!("{}", json!({ "file": to, "collections": collections }));
        return;
    }
    for (collection, documents, resumed) in exported {
        match resumed {
            0 => println!("{collection}: {documents} documents exported to {to}"),
            resumed => println!(
                "{collection}: {documents} documents exported to {to}, going on after the {resumed} that were there"
            ),
        }
    }
}

async fn dump(
    context: &Context,
    client: &Client,
    app: &AppId,
    dir: &Path,
    args: &Args,
    there: &[String],
    views: &[String],
) -> anyhow::Result<()> {
    let dir = dir.join(app.as_str());
    let state_path = dir.join(DUMP_STATE);
    let plan = |collection: Option<&str>| -> anyhow::Result<Plan> {
        Ok(Plan {
            node: context.node()?,
            app: app.to_string(),
            collection: collection.map(str::to_owned),
            format: "dump".to_owned(),
            filter: None,
            gzip: args.gzip,
        })
    };
    let whole = plan(args.collection.as_deref())?;
    let mut state = match load_state::<DumpState>(&state_path)? {
        Some(state) if state.plan == whole && !args.force => state,
        Some(_) if !args.force => bail!(
            "{} has what another export left; go on with that one, or begin anew with --force",
            dir.display()
        ),
        None if !args.force && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) => {
            bail!(
                "{} is there already; replace what is in it with --force",
                dir.display()
            )
        }
        _ => DumpState {
            plan: whole,
            done: Vec::new(),
        },
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
    save_state(&state_path, &state)?;
    let mut exported = Vec::new();
    for collection in there.iter().chain(views) {
        let wanted = args.collection.as_ref().is_none_or(|wanted| wanted == collection);
        if !wanted || state.done.contains(collection) {
            continue;
        }
        let gz = if args.gzip { GZIP_ENDING } else { "" };
        let name = file_name_of(collection);
        let metadata = described(client, app, collection).await?;
        let job = Job {
            client,
            app,
            collection,
            plan: plan(Some(collection))?,
            shape: Shape::Bson,
            force: args.force,
            natural: has_own_order(&metadata),
        };
        let done = match metadata.is_view() {
            true => Exported {
                documents: 0,
                resumed: 0,
            },
            false => {
                let file = dir.join(format!("{name}{BSON_ENDING}{gz}"));
                // A broken run of this very dump had written it, and not said so any more.
                remove_state(&file)?;
                job.to_file(&file).await?
            }
        };
        let path = dir.join(format!("{name}{METADATA_ENDING}{gz}"));
        write_whole(&path, &metadata.to_text()?, args.gzip)
            .with_context(|| format!("can't write {}", path.display()))?;
        state.done.push(collection.clone());
        save_state(&state_path, &state)?;
        exported.push((collection.clone(), done.documents, done.resumed));
    }
    remove_state(&state_path)?;
    tell(context, &exported, &dir.display().to_string());
    match there.is_empty() && views.is_empty() {
        true => Err(NoMatch(format!("app {app} has no collections")).into()),
        false => Ok(()),
    }
}

/// What the node says of a collection, as it stands in a dump.
///
/// # Errors
/// Those of the request.
pub(super) async fn described(client: &Client, app: &AppId, collection: &str) -> anyhow::Result<Metadata> {
    let path = format!("/v1/apps/{app}/collections/{}", encoded(collection));
    let answer = client.bytes(Method::GET, &path, None).await?;
    Metadata::parse(&answer)
        .map_err(|error| anyhow::anyhow!("the node's answer about {collection:?}: {error}"))
}

/// Whether documents come in the collection's own order rather than in that of `_id`.
fn has_own_order(metadata: &Metadata) -> bool {
    let has = |option: &str| matches!(metadata.options.get(option), Ok(Some(_)));
    has("timeseries") || has("capped")
}

fn write_whole(path: &Path, bytes: &[u8], gzip: bool) -> io::Result<()> {
    let partial = beside(path, ".part");
    let mut file = File::create(&partial)?;
    if gzip {
        let mut encoder = GzEncoder::new(&mut file, Compression::default());
        encoder.write_all(bytes)?;
        encoder.finish()?;
    } else {
        file.write_all(bytes)?;
    }
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

impl Job<'_> {
    async fn to_stdout(&self) -> anyhow::Result<Exported> {
        let mut writer = DocumentWriter::new(self.shape, 0);
        let mut stdout = io::stdout().lock();
        let mut state = self.fresh();
        while let Some(page) = self.page(&mut state).await? {
            state.after = self.write_page(&page, &mut writer, &mut stdout)?;
            stdout.flush()?;
        }
        let documents = writer.documents();
        self.write_end(writer, &mut stdout)?;
        stdout.flush()?;
        Ok(Exported {
            documents,
            resumed: 0,
        })
    }

    async fn to_file(&self, path: &Path) -> anyhow::Result<Exported> {
        if !self.force && path.exists() {
            bail!("{} is there already; replace it with --force", path.display());
        }
        let partial = beside(path, ".part");
        let state_path = beside(&partial, ".state");
        let unwritable = || format!("can't write {}", partial.display());
        let (mut part, mut state) = self.begin(&partial, &state_path)?;
        let resumed = state.documents;
        let mut writer = DocumentWriter::new(self.shape, resumed);
        let total = self.count().await?;
        let mut progress = Progress::new(format!("exporting {}", self.collection), Some(total), false);
        while let Some(page) = self.page(&mut state).await? {
            state.after = self
                .write_page(&page, &mut writer, &mut part)
                .with_context(unwritable)?;
            part.file.sync_data().with_context(unwritable)?;
            (state.documents, state.bytes, state.digest) = (writer.documents(), part.bytes, part.digest());
            save_state(&state_path, &state)?;
            progress.at(state.documents, state.documents);
        }
        let documents = writer.documents();
        self.write_end(writer, &mut part).with_context(unwritable)?;
        part.file.sync_all().with_context(unwritable)?;
        std::fs::rename(&partial, path).with_context(|| format!("can't write {}", path.display()))?;
        remove_state(&state_path)?;
        Ok(Exported { documents, resumed })
    }

    /// How far an export has come that has not begun.
    fn fresh(&self) -> State {
        State {
            plan: self.plan.clone(),
            documents: 0,
            bytes: 0,
            digest: String::new(),
            after: None,
            place: None,
            ended: false,
        }
    }

    /// The partial file and how far it has come: a new one, or one of which every byte was checked.
    fn begin(&self, partial: &Path, state_path: &Path) -> anyhow::Result<(Part, State)> {
        let fresh = self.fresh();
        let state = match self.force {
            true => None,
            false => load_state::<State>(state_path)?,
        };
        let unreadable = || format!("can't read {}", partial.display());
        let (file, state) = match state {
            None if !self.force && partial.exists() => bail!(
                "{} is there, and nothing tells what of it is good; begin anew with --force",
                partial.display()
            ),
            Some(state) if state.plan != self.plan => bail!(
                "{} was left by another export (another node, collection, filter or format); begin anew with --force",
                partial.display()
            ),
            Some(state) if partial.exists() => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(partial)
                    .with_context(unreadable)?;
                (file, state)
            }
            _ => {
                let file =
                    File::create(partial).with_context(|| format!("can't write {}", partial.display()))?;
                (file, fresh)
            }
        };
        let mut part = Part {
            file,
            bytes: 0,
            hasher: Sha256::new(),
        };
        let read = io::copy(
            &mut (&mut part.file).take(state.bytes),
            &mut Hashing(&mut part.hasher),
        );
        let read = read.with_context(unreadable)?;
        if read != state.bytes || (read > 0 && part.digest() != state.digest) {
            bail!(
                "{} is not what the broken run wrote; begin anew with --force",
                partial.display()
            );
        }
        part.bytes = read;
        part.file.set_len(read).with_context(unreadable)?;
        part.file
            .seek(io::SeekFrom::Start(read))
            .with_context(unreadable)?;
        Ok((part, state))
    }

    async fn count(&self) -> anyhow::Result<u64> {
        let filter = self.plan.filter.as_deref().unwrap_or("{}");
        let path = format!(
            "/v1/apps/{}/documents/{}/count",
            self.app,
            encoded(self.collection)
        );
        let body = Bytes::from(format!("{{\"filter\":{filter}}}"));
        let answer = self.client.value(Method::POST, &path, Some(body)).await?;
        Ok(answer["count"].as_u64().unwrap_or_default())
    }

    /// The documents after those that the state tells of, which learns where the next page begins; none at the end.
    async fn page(&self, state: &mut State) -> anyhow::Result<Option<Bytes>> {
        if state.ended {
            return Ok(None);
        }
        let filter = self.plan.filter.as_deref().unwrap_or("{}");
        let after = match (&state.after, &state.place) {
            (_, Some(place)) => format!(",\"place\":\"{place}\""),
            (Some(after), None) => format!(",\"after\":{after}"),
            (None, None) => String::new(),
        };
        let path = format!(
            "/v1/apps/{}/documents/{}/export",
            self.app,
            encoded(self.collection)
        );
        let body = format!("{{\"filter\":{filter}{after}}}");
        let page = patiently(async || {
            let body = Bytes::from(body.clone());
            self.client.post_for_page(&path, body).await
        });
        let page = page.await.with_context(|| {
            format!(
                "collection {:?} was not exported to its end; run the command again",
                self.collection
            )
        })?;
        let (page, place) = page;
        state.ended = self.natural && place.is_none();
        state.place = place;
        Ok(Some(page).filter(|page| !page.is_empty()))
    }

    /// Writes a page's documents and gives the last one's `{"_id": ..}`. When the file is compressed a page is a
    /// member of its own, so that a run can go on after each.
    fn write_page(
        &self,
        page: &[u8],
        writer: &mut DocumentWriter,
        out: &mut impl Write,
    ) -> anyhow::Result<Option<String>> {
        let last = match self.plan.gzip {
            false => write_documents(page, writer, out)?,
            true => {
                let mut encoder = GzEncoder::new(out, Compression::default());
                let last = write_documents(page, writer, &mut encoder)?;
                encoder.finish()?;
                last
            }
        };
        match self.natural {
            true => Ok(None),
            false => after(&last).map(Some),
        }
    }

    fn write_end(&self, writer: DocumentWriter, out: &mut impl Write) -> io::Result<()> {
        if !self.plan.gzip {
            return writer.finish(out);
        }
        let mut encoder = GzEncoder::new(out, Compression::default());
        writer.finish(&mut encoder)?;
        encoder.finish().map(drop)
    }
}

/// Writes a page; gives its last document.
fn write_documents(
    page: &[u8],
    writer: &mut DocumentWriter,
    out: &mut impl Write,
) -> anyhow::Result<RawDocumentBuf> {
    let mut reader = DocumentReader::new(page, Encoding::Bson);
    let mut chunk = Vec::new();
    let mut last = None;
    while let Some(stored) = reader.read().context("the node's answer")? {
        writer.write(&stored.document, &mut chunk)?;
        if chunk.len() >= CHUNK_BYTES {
            out.write_all(&chunk)?;
            chunk.clear();
        }
        last = Some(stored.document);
    }
    out.write_all(&chunk)?;
    last.context("the node's answer has no documents")
}

/// `{"_id": ..}` of a document, after which the next page comes.
fn after(last: &RawDocument) -> anyhow::Result<String> {
    let id = last
        .get("_id")?
        .context("the node's answer has a document without _id")?;
    let mut after = b"{\"_id\":".to_vec();
    print_value(id, JsonStyle::Canonical, &mut after)?;
    after.push(b'}');
    // An `_id` with names like those of typed values could mean something else as text.
    match parse_document(&after) {
        Ok(again)
            if again
                .get("_id")?
                .is_some_and(|again| compare_values(again, id).is_eq()) =>
        {
            Ok(String::from_utf8(after)?)
        }
        _ => bail!("the _id {id:?} has no text in extended JSON, so that the export can't go on after it"),
    }
}

/// Times that a busy node is asked again.
const BUSY_RETRIES_MAX: u32 = 5;
/// How long to wait before the first of them; the others wait longer each.
const BUSY_WAIT: std::time::Duration = std::time::Duration::from_millis(300);

/// Asks again when the node is busy, some times.
///
/// # Errors
/// Those of the request.
pub(super) async fn patiently<T>(mut ask: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut retries = 0;
    loop {
        match ask().await {
            Err(error) if retries < BUSY_RETRIES_MAX && is_busy(&error) => {
                retries += 1;
                tokio::time::sleep(BUSY_WAIT * retries).await;
            }
            answer => return answer,
        }
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ApiError>()
        .is_some_and(|api| api.status == http::StatusCode::SERVICE_UNAVAILABLE)
}

/// A partial file and the digest of what is in it.
struct Part {
    file: File,
    bytes: u64,
    hasher: Sha256,
}

impl Part {
    fn digest(&self) -> String {
        let digest = self.hasher.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Takes bytes into a digest.
struct Hashing<'h>(&'h mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
