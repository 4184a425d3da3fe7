//! `dev`: the whole stack on this machine. A node runs in a thread of its own with its data under `.cloudlet/dev`;
//! the app is built, deployed through the admin API like any other, and again whenever a file changes. A build or
//! deploy that fails leaves the version before it running.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cloudlet_base::{Clock as _, SystemClock, Timestamp};
use http::Method;
use tokio::sync::oneshot;

use super::api::{Client, encoded};
use super::bundle::Bundle;
use super::context::{Context, DEV_DIR, DevNode, announce_dev};
use super::stale::Stale;
use super::watch::{Watch, is_ignored};
use super::{build, deploy, logs};
use crate::apps::manifest::{self, Manifest};
use crate::config::{LogInvocations, NodeConfig};
use crate::front::{self, Front};
use crate::node::Node;

/// The label of the key that `dev` makes for itself.
const KEY_LABEL: &str = "dev";
/// Secrets for development, `NAME=VALUE` a line.
pub(super) const SECRETS_FILE: &str = ".dev.secrets";
/// Bytes of history that the change log keeps.
const CHANGE_LOG_BYTES: u64 = 64 << 20;
/// How long to wait before asking for the logs again, of an app that is not deployed yet above all.
const LOGS_RETRY: Duration = Duration::from_millis(200);

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directories of the apps [default: the one of -C]; the node's data go into the first
    #[arg(value_name = "DIR")]
    app_dirs: Vec<PathBuf>,
    /// Address of the app
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the admin API
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    admin_listen: SocketAddr,
    /// Deploy as this environment has it
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

/// Runs until Ctrl-C.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let dirs = match args.app_dirs.is_empty() {
        true => vec![context.dir.clone()],
        false => args.app_dirs,
    };
    if let Some(dir) = dirs.iter().find(|dir| !dir.join(manifest::FILE).is_file()) {
        bail!(
            "there is no {} in {}; start an app with: cloudlet new NAME",
            manifest::FILE,
            dir.display()
        );
    }
    let began = SystemClock::new().now();
    let node = DevThread::start(&dirs[0], args.listen, args.admin_listen).await?;
    let Ready { public, admin, key } = &node.ready;
    println!("listening public {public}");
    println!("listening admin {admin}");
    let mut announced = Vec::new();
    let mut sessions = Vec::new();
    for dir in dirs {
        announced.push(announce_dev(
            &dir,
            &DevNode {
                node: admin.clone(),
                key: key.clone(),
            },
        )?);
        let session = Session {
            client: Arc::new(Client::new(admin, key)?),
            public: public.clone(),
            dir: dir
                .canonicalize()
                .with_context(|| format!("can't read {}", dir.display()))?,
            env: args.env.clone(),
            json: context.json,
            began,
            following: None,
        };
        sessions.push(session.work());
    }
    let ended = tokio::select! {
        ended = futures_util::future::try_join_all(sessions) => ended.map(drop),
        stopped = front::shutdown_signal() => stopped,
    };
    for file in announced {
        // It names a node that is about to go.
        let _ = std::fs::remove_file(&file);
    }
    node.stop().await?;
    ended
}

/// What the node's thread tells when it listens.
struct Ready {
    public: String,
    admin: String,
    key: String,
}

/// The node in its thread.
struct DevThread {
    ready: Ready,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl DevThread {
    async fn start(dir: &Path, listen: SocketAddr, admin_listen: SocketAddr) -> anyhow::Result<Self> {
        let data_dir = dir.join(DEV_DIR);
        std::fs::create_dir_all(&data_dir).with_context(|| format!("can't make {}", data_dir.display()))?;
        let data_dir = data_dir.canonicalize()?;
        ignore_in_git(&data_dir);
        let mut config = NodeConfig::ephemeral(&data_dir)?;
        config.listen = listen;
        config.admin_listen = admin_listen;
        config.log.level = "warn".to_owned();
        config.log.invocations = LogInvocations::All;
        // For triggers on changes, and change streams.
        config.database.change_log_bytes = CHANGE_LOG_BYTES;
        let (ready, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("dev-node".to_owned())
            .spawn(move || {
                // Nobody waits for the end when `dev` itself failed.
                let _ = end.send(run_node(config, ready, stopped));
            })?;
        match told.await {
            Ok(ready) => Ok(Self { ready, stop, ended }),
            Err(_) => {
                ended.await.context("the node's thread ended")??;
                bail!("the node ended before it listened")
            }
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        let Self {
            ready: _,
            stop,
            ended,
        } = self;
        drop(stop);
        ended.await.context("the node's thread failed")?
    }
}

fn run_node(
    config: NodeConfig,
    ready: oneshot::Sender<Ready>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    crate::telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let node = Node::open(config).await?;
        crate::apps::deploy::load_active(&node)
            .await
            .context("load the active deployments")?;
        for old in node.auth.admin_keys().iter().filter(|key| key.label == KEY_LABEL) {
            node.auth.delete_admin_key(&old.key_id).await?;
        }
        let key = node.auth.create_admin_key(KEY_LABEL).await?;
        let logs = Arc::clone(&node.logs);
        let front = Front::start(node).await?;
        let told = ready.send(Ready {
            public: front.public_url(),
            admin: front.admin_url(),
            key,
        });
        if told.is_ok() {
            // Dropping the sender is the sign, too.
            let _ = stopped.await;
        }
        logs.close();
        front.drain().await;
        logs.flush();
        Ok(())
    })
}

/// Keeps the development data out of version control.
fn ignore_in_git(data_dir: &Path) {
    if let Some(parent) = data_dir.parent() {
        let path = parent.join(".gitignore");
        if !path.exists() {
            // A convenience; the data are as good without it.
            let _ = std::fs::write(path, "*\n");
        }
    }
}

/// Build, deploy, wait for a change, again.
struct Session {
    client: Arc<Client>,
    public: String,
    /// Without links, as the watch tells paths.
    dir: PathBuf,
    env: Option<String>,
    json: bool,
    /// When `dev` was started: earlier lines were shown by an earlier one.
    began: Timestamp,
    /// The app whose lines are shown.
    following: Option<(String, AbortOnDrop)>,
}

/// A task that ends when this goes.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    async fn work(mut self) -> anyhow::Result<()> {
        let mut watch = Watch::new(&self.dir)?;
        let mut stale = Stale::all();
        loop {
            let manifest = self.manifest();
            if let Some((text, manifest)) = &manifest
                && let Err(error) = self.turn(text, manifest, &mut stale).await
            {
                eprintln!("error: {error:#}");
                eprintln!("what ran before goes on running; waiting for a change");
            }
            let sources: Vec<PathBuf> = manifest.iter().flat_map(|(_, m)| sources(&self.dir, m)).collect();
            let site = manifest
                .iter()
                .filter_map(|(_, m)| Some(self.dir.join(&m.hosting.as_ref()?.dir)));
            let site: Vec<PathBuf> = site.collect();
            watch.look_again(&sources, &site)?;
            loop {
                let batch = watch.batch().await;
                let due = match &manifest {
                    Some((_, manifest)) => stale.note(&self.dir, manifest, &batch),
                    // Nothing is known of the app, so anything may matter.
                    None => batch.iter().any(|path| !is_ignored(path)),
                };
                if due {
                    break;
                }
                watch.look_again(&sources, &site)?;
            }
        }
    }

    /// The manifest; its problems are printed.
    fn manifest(&self) -> Option<(String, Manifest)> {
        let path = self.dir.join(manifest::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("error: can't read {}: {error}", path.display());
                return None;
            }
        };
        match manifest::parse(manifest::FILE, &text, self.env.as_deref()) {
            Ok(manifest) => Some((text, manifest)),
            Err(problems) => {
                problems.iter().for_each(|problem| eprintln!("{problem}"));
                eprintln!(
                    "error: the manifest has {} problem(s); waiting for a change",
                    problems.len()
                );
                None
            }
        }
    }

    /// Builds what is stale and deploys; what fails to build stays stale.
    async fn turn(&mut self, text: &str, manifest: &Manifest, stale: &mut Stale) -> anyhow::Result<()> {
        let app = manifest.app.as_str();
        let first = self.following.as_ref().is_none_or(|(known, _)| known != app);
        if first {
            // Before the build: a deployment of an earlier `dev` answers meanwhile.
            let following = follow(self.client.clone(), app.to_owned(), self.began, self.json);
            self.following = Some((app.to_owned(), AbortOnDrop(tokio::spawn(following))));
        }
        build::build(&self.dir, manifest, stale.functions(manifest)).await?;
        let bundle = Bundle::read(&self.dir, text.to_owned(), manifest, self.env.as_deref())?;
        self.put_secrets(app).await?;
        let outcome = deploy::send(&self.client, app, &bundle).await?;
        let port = self.public.rsplit_once(':').map_or("80", |(_, port)| port);
        println!(
            "{app}: deployment {}{} at http://{app}.localhost:{port} and {}",
            outcome.deployment,
            if outcome.unchanged { ", unchanged," } else { "" },
            self.public
        );
        Ok(())
    }

    async fn put_secrets(&self, app: &str) -> anyhow::Result<()> {
        let Ok(text) = std::fs::read_to_string(self.dir.join(SECRETS_FILE)) else {
            return Ok(());
        };
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for (number, line) in lines.enumerate() {
            let Some((name, value)) = line.split_once('=') else {
                bail!("{SECRETS_FILE}: entry {} is not NAME=VALUE", number + 1);
            };
            let path = format!("/v1/apps/{app}/secrets/{}", encoded(name.trim()));
            let value = value.trim().to_owned();
            self.client.value(Method::PUT, &path, Some(value.into())).await?;
        }
        Ok(())
    }
}

/// The files of the components.
fn sources(dir: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let functions = manifest.functions.values();
    functions.map(|function| dir.join(&function.source)).collect()
}

/// Prints what functions say, until the task is dropped.
async fn follow(client: Arc<Client>, app: String, since: Timestamp, json: bool) {
    let args = logs::Args {
        follow: true,
        since: Some(since.millis().to_string()),
        ..logs::Args::default()
    };
    let mut reader = logs::Reader::new(args, json);
    loop {
        // The node may be busy or the line may break; the next attempt goes on after the last line.
        let _ = reader.read(&client, &app).await;
        tokio::time::sleep(LOGS_RETRY).await;
    }
}
