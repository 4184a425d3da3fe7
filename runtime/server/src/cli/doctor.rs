//! `doctor`: looks for what is wrong with this machine's setup, and says what to do about it.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::Told;
use super::build::{GUEST_TARGET, GUEST_TOOLCHAIN, Toolchain, toolchain};
use super::context::Context;
use crate::apps::manifest;

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// Whether it is as it should be; `None` is a hint that stops nothing.
    good: Option<bool>,
    told: String,
}

/// Runs the command.
pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let mut findings = vec![rust(&context.dir).await, kernel(), memory()];
    if context.dir.join(manifest::FILE).exists() {
        findings.push(app(context));
    }
    findings.extend(node(context).await);
    let failed = findings
        .iter()
        .filter(|finding| finding.good == Some(false))
        .count();
    if context.json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "what": finding.what, "good": finding.good, "message": finding.told }))
            .collect();
        println!("{}", json!({ "findings": list, "failed": failed }));
    } else {
        for Finding { what, good, told } in &findings {
            let mark = match good {
                Some(true) => "ok  ",
                Some(false) => "FAIL",
                None => "hint",
            };
            println!("{mark} {what}: {told}");
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Told.into()),
    }
}

async fn rust(dir: &Path) -> Finding {
    let what = "toolchain";
    let version = Command::new("rustc")
        .arg("--version")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await;
    let Ok(version) = version else {
        return Finding {
            what,
            good: None,
            told: "there is no Rust here; needed only to build functions in Rust, see https://rustup.rs"
                .to_owned(),
        };
    };
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    match toolchain(dir).await {
        Ok(Toolchain::Active) => Finding {
            what,
            good: Some(true),
            told: format!("{version}, builds for {GUEST_TARGET}"),
        },
        Ok(Toolchain::Linked) => Finding {
            what,
            good: Some(true),
            told: format!("{version}; functions are built with the toolchain {GUEST_TOOLCHAIN}"),
        },
        Err(error) => Finding {
            what,
            good: Some(false),
            told: format!("{version}; {error}"),
        },
    }
}

/// Resetting instances is cheaper with `PAGEMAP_SCAN`, which came with Linux 6.7.
fn kernel() -> Finding {
    let what = "kernel";
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 7) => Finding {
            what,
            good: Some(true),
            told: format!("Linux {release} has PAGEMAP_SCAN"),
        },
        (Some(_), Some(_)) => Finding {
            what,
            good: None,
            told: format!("Linux {release} lacks PAGEMAP_SCAN; from 6.7 on, instances are recycled faster"),
        },
        _ => Finding {
            what,
            good: None,
            told: "not a Linux that tells its version; the node is made for Linux".to_owned(),
        },
    }
}

/// The pool of instances reserves address space, which strict overcommit refuses.
fn memory() -> Finding {
    let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    match mode.trim() {
        "2" => Finding {
            what: "memory",
            good: None,
            told:
                "vm.overcommit_memory is 2; if the node can't reserve its pool, lower functions.instances_max"
                    .to_owned(),
        },
        _ => Finding {
            what: "memory",
            good: Some(true),
            told: "address space can be reserved".to_owned(),
        },
    }
}

fn app(context: &Context) -> Finding {
    let path = context.dir.join(manifest::FILE);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    match manifest::parse(manifest::FILE, &text, None) {
        Ok(manifest) => Finding {
            what: "manifest",
            good: Some(true),
            told: format!(
                "app {}, {} function(s)",
                manifest.app.as_str(),
                manifest.functions.len()
            ),
        },
        Err(problems) => Finding {
            what: "manifest",
            good: Some(false),
            told: format!("{} problem(s); see them with: cloudlet validate", problems.len()),
        },
    }
}

async fn node(context: &Context) -> Vec<Finding> {
    let what = "node";
    let fail = |error: anyhow::Error| Finding {
        what,
        good: Some(false),
        told: format!("{error:#}"),
    };
    let client = match context.client() {
        Ok(client) => client,
        Err(error) => return vec![fail(error)],
    };
    match client.get("/v1/whoami").await {
        Err(error) => vec![fail(error)],
        Ok(answer) => {
            let text = |name: &str| answer[name].as_str().unwrap_or("?").to_owned();
            let (key, version) = (text("key"), text("version"));
            let mut findings = vec![Finding {
                what,
                good: Some(true),
                told: format!(
                    "{} answers, version {version}; the key {key} is good",
                    client.node()
                ),
            }];
            let own = env!("CARGO_PKG_VERSION");
            if version != own {
                findings.push(Finding {
                    what: "version",
                    good: None,
                    told: format!(
                        "this command is {own}, the node {version}; use the same if something is odd"
                    ),
                });
            }
            findings
        }
    }
}
