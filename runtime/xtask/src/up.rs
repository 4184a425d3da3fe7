//! `cargo xtask up`: from a clean clone to a running node with the example deployed.
//!
//! All that this knows of the `cloudlet` command line is in this file. The node is started once to deploy, stopped, and
//! then started for good by replacing this process: so Ctrl-C and every other signal reach the node itself, nothing
//! outlives it, and what a person sees at the first start is what they see at the tenth: a node that finds its apps in
//! its data directory.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{remove_tree, repo_root, target_dir};
use crate::fixtures;
use crate::guest::{GuestToolchain, guest_toolchain};
use crate::process;

/// The example apps, below examples/, in the order of their deploys: the hotel calls the recognition service.
const APPS: [&str; 2] = ["vision", "hotel"];
/// The address that the hotel's manifest names for the recognition service.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// What to try, in one shell and from the project's root, with `{origin}` for the hotel's address.
const TRY: [&str; 3] = [
    r#"TOKEN=$(curl -s -X POST -d '{}' {origin}/auth/v1/signin/anonymously | sed 's/.*"access_token":"\([^"]*\)".*/\1/')"#,
    r#"curl -s --data-binary @examples/hotel/photos/li.jpg -H "authorization: Bearer $TOKEN" '{origin}/api/checkin?guest=Li%20Lei'"#,
    r#"curl -s -g -H "authorization: Bearer $TOKEN" '{origin}/v1/database/instances/(default)/databases/(default)/collections/stays/documents?limit=10'"#,
];
/// How long a node may take to listen, the announcement to find it, and a node to stop.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);

/// Runs the command; returns only when something fails.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    let options = Options::parse(rest)?;
    let demo = Demo {
        dir: repo_root().join(".cache/demo"),
        cloudlet: target_dir().join("debug/cloudlet"),
        options,
    };

    println!("[1/5] guest toolchain");
    let guest = guest_toolchain()?;
    println!("[2/5] build the node (the first time takes minutes)");
    let mut build = process::host_cargo();
    process::run(build.args(["build", "--package", "cloudlet-server"])).context("build the node")?;
    println!("[3/5] build the examples");
    fixtures::build_examples(&guest)?;
    println!("[4/5] deploy them to a node in {}", demo.dir.display());
    demo.deploy(&guest)?;
    println!("[5/5] start the node");
    demo.serve()
}

/// Waits until a node listens at the address given, then tells what to try. [`Demo::serve`] leaves this behind.
pub(crate) fn announce(rest: &[String]) -> Result<()> {
    let [address] = rest else {
        bail!("__announce takes one address")
    };
    let address: SocketAddr = address
        .parse()
        .with_context(|| format!("read the address \"{address}\""))?;
    let started = Instant::now();
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        ensure!(started.elapsed() < START_MAX, "no node listens at {address}");
        thread::sleep(Duration::from_millis(50));
    }
    let origin = format!("http://hotel.localhost:{}", address.port());
    let mut text = format!("\nThe hotel is open at {origin} - log in, check in, list your stays:\n\n");
    for line in TRY {
        text.push_str(&format!("  {}\n", line.replace("{origin}", &origin)));
    }
    if address != DEFAULT_LISTEN {
        text.push_str(&format!(
            "\nThe check-in looks for the recognition service at {DEFAULT_LISTEN}: change `vision_url` and `outbound` \
             in examples/hotel/cloudlet.toml.\n"
        ));
    }
    println!("{text}\nCtrl-C stops the node; `cargo xtask up` starts it again with all its data.");
    Ok(())
}

struct Options {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    fresh: bool,
}

impl Options {
    fn parse(rest: &[String]) -> Result<Options> {
        let mut options = Options {
            listen: DEFAULT_LISTEN,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            fresh: false,
        };
        let mut rest = rest.iter();
        while let Some(flag) = rest.next() {
            let mut address = || -> Result<SocketAddr> {
                let value = rest
                    .next()
                    .with_context(|| format!("{flag} wants an address such as 127.0.0.1:8080"))?;
                value
                    .parse()
                    .with_context(|| format!("{flag} \"{value}\" is no address such as 127.0.0.1:8080"))
            };
            match flag.as_str() {
                "--listen" => options.listen = address()?,
                "--admin-listen" => options.admin_listen = address()?,
                "--fresh" => options.fresh = true,
                unknown => {
                    bail!("unknown argument \"{unknown}\"; known are --listen, --admin-listen and --fresh")
                }
            }
        }
        Ok(options)
    }
}

/// The demo node: its files and where it listens.
struct Demo {
    dir: PathBuf,
    cloudlet: PathBuf,
    options: Options,
}

impl Demo {
    /// Starts the node, deploys the examples and stops it again.
    fn deploy(&self, guest: &GuestToolchain) -> Result<()> {
        if self.options.fresh {
            remove_tree(&self.dir)?;
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let mut node = Node::start(self.serve_command())?;
        let key = self.admin_key(&mut node)?;
        for app in APPS {
            let dir = repo_root().join("examples").join(app);
            if !dir.join("cloudlet.toml").is_file() {
                println!("      no examples/{app}: left out");
                continue;
            }
            println!("      examples/{app}");
            let mut command = process::clean(&self.cloudlet);
            command
                .arg("deploy")
                .arg("-C")
                .arg(&dir)
                .args(["--node", &node.admin_url, "--key", &key]);
            command.envs(guest.env());
            if process::run(command.stdin(Stdio::null())).is_err() {
                bail!(
                    "deploy examples/{app} failed (its reason is above); `cargo xtask up --fresh` begins with an empty node"
                );
            }
        }
        node.stop()
    }

    /// The node's first admin key: printed at its first start, kept from then on in a file that only the user reads.
    fn admin_key(&self, node: &mut Node) -> Result<String> {
        let file = self.dir.join("admin-key");
        if let Some(key) = node.first_key()? {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let written = options
                .open(&file)
                .and_then(|mut file| file.write_all(key.as_bytes()));
            written.with_context(|| format!("keep the admin key in {}", file.display()))?;
            return Ok(key);
        }
        fs::read_to_string(&file)
            .map(|key| key.trim().to_owned())
            .with_context(|| {
                format!(
                    "no admin key in {}; `cargo xtask up --fresh` begins with an empty node",
                    file.display()
                )
            })
    }

    /// Becomes the node.
    fn serve(&self) -> Result<()> {
        let announcer = env::current_exe().context("find this program")?;
        // The shell ends at once, so the announcer is nobody's child when this process has become the node.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "\"$0\" \"$@\" &"])
            .arg(announcer)
            .arg("__announce")
            .arg(self.options.listen.to_string());
        process::run(shell.stdin(Stdio::null())).context("start the announcement")?;
        let error = self.serve_command().exec();
        Err(error).with_context(|| format!("start {}", self.cloudlet.display()))
    }

    fn serve_command(&self) -> Command {
        let mut command = process::clean(&self.cloudlet);
        command.arg("serve").arg("--data-dir").arg(self.dir.join("data"));
        // For the triggers of the examples.
        command.args(["--database-change-log-bytes", "64MiB"]);
        command.arg("--listen").arg(self.options.listen.to_string());
        command
            .arg("--admin-listen")
            .arg(self.options.admin_listen.to_string());
        command
    }
}

/// A running node. Dropping it stops it without grace.
struct Node {
    child: Child,
    lines: Receiver<String>,
    admin_url: String,
    key: Option<String>,
}

impl Node {
    /// Starts a node and waits until it listens.
    fn start(mut command: Command) -> Result<Node> {
        let program = command.get_program().to_os_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the node {}", program.display()))?;
        let stdout = child.stdout.take().expect("standard output was piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Read to the end even when nobody listens any more: a full pipe would stop the node.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut node = Node {
            child,
            lines,
            admin_url: String::new(),
            key: None,
        };
        let started = Instant::now();
        let mut public = false;
        while !public || node.admin_url.is_empty() {
            match node.next_line(START_MAX.saturating_sub(started.elapsed()))? {
                Some(Told::Public) => public = true,
                Some(Told::Other) => {}
                None => bail!(
                    "the node does not say that it listens within {} s",
                    START_MAX.as_secs()
                ),
            }
        }
        Ok(node)
    }

    /// The key that the node printed, if this is its first start.
    fn first_key(&mut self) -> Result<Option<String>> {
        // The line may follow the listening ones; after a moment of silence it was not a first start.
        while self.key.is_none() && self.next_line(Duration::from_millis(500))?.is_some() {}
        Ok(self.key.clone())
    }

    /// Takes in one line of the node's output; `None` when the time is over.
    fn next_line(&mut self, wait: Duration) -> Result<Option<Told>> {
        let line = match self.lines.recv_timeout(wait) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("wait for the node")?;
                bail!("the node ended at once ({status}); its reason is above");
            }
        };
        if let Some(key) = line.strip_prefix("admin key:") {
            self.key = Some(key.trim().to_owned());
        } else if let Some(url) = line.strip_prefix("listening admin ") {
            self.admin_url = url.trim().to_owned();
        } else if line.starts_with("listening public ") {
            return Ok(Some(Told::Public));
        } else {
            println!("      node: {line}");
        }
        Ok(Some(Told::Other))
    }

    /// Asks the node to stop and waits for it.
    fn stop(mut self) -> Result<()> {
        // The shell's own `kill`: the program of that name is not part of a minimal system.
        process::run(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]))
            .context("stop the node")?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the node")? {
                ensure!(status.success(), "the node did not stop well ({status})");
                return Ok(());
            }
            ensure!(
                asked.elapsed() < STOP_MAX,
                "the node did not stop within {} s",
                STOP_MAX.as_secs()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Best effort: it has ended already unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a line of the node told, besides what is kept in [`Node`].
enum Told {
    Public,
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options> {
        Options::parse(
            &arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn options_have_defaults_and_mistakes_are_named() {
        assert_eq!(parse(&[]).unwrap().listen.port(), 8080);
        let options = parse(&["--admin-listen", "127.0.0.1:9", "--fresh"]).unwrap();
        assert_eq!((options.admin_listen.port(), options.fresh), (9, true));
        for (arguments, named) in [
            (&["--listen"][..], "--listen"),
            (&["--listen", "x"], "\"x\""),
            (&["-z"], "\"-z\""),
        ] {
            let error = format!("{:#}", parse(arguments).err().unwrap());
            assert!(error.contains(named), "{error}");
        }
    }

    fn node(script: &str) -> Result<Node> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Node::start(command)
    }

    #[test]
    fn a_first_start_gives_its_key_and_a_later_one_none() {
        let listening = "echo listening public http://h:1; echo listening admin http://h:2;";
        let mut first = node(&format!(
            "trap 'exit 0' TERM; {listening} echo admin key: ck_1; sleep 9 & wait"
        ))
        .unwrap();
        assert_eq!(first.first_key().unwrap().as_deref(), Some("ck_1"));
        assert_eq!(first.admin_url, "http://h:2");
        first.stop().unwrap();
        let mut later = node(&format!("{listening} exec sleep 9")).unwrap();
        assert_eq!(later.first_key().unwrap(), None);
    }

    #[test]
    fn a_node_that_ends_at_once_is_told() {
        let error = node("echo port taken; exit 3").err().unwrap().to_string();
        assert!(error.contains("ended at once"), "{error}");
    }
}
