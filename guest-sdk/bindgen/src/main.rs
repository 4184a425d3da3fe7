//! Writes `guest-sdk/src/bindings/*.rs` from `wit/`. Run it after every change there:
//! `cargo run --manifest-path guest-sdk/bindgen/Cargo.toml`; with `--check` it only tells whether they differ.
//!
//! The bindings are committed because the macro that makes them costs every guest workspace a minute of compiling
//! parsers that it has no other use for.

use std::path::Path;

use anyhow::{Context, Result, bail};
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::{Opts, WithOption};

/// What the export worlds take from `bindings/imports.rs` instead of binding it again.
const SHARED: &[(&str, &str)] = &[
    (
        "cloudlet:database/documents@0.1.0",
        "cloudlet::database::documents",
    ),
    ("cloudlet:storage/objects@0.1.0", "cloudlet::storage::objects"),
    ("cloudlet:auth/identity@0.1.0", "cloudlet::auth::identity"),
    ("cloudlet:function/types@0.1.0", "cloudlet::function::types"),
    ("cloudlet:function/invoke@0.1.0", "cloudlet::function::invoke"),
    ("wasi:config/store@0.2.0-rc.1", "wasi::config::store"),
    ("wasi:logging/logging@0.1.0-draft", "wasi::logging::logging"),
    ("wasi:http/types@0.2.12", "wasi::http::types"),
    (
        "wasi:http/outgoing-handler@0.2.12",
        "wasi::http::outgoing_handler",
    ),
    ("wasi:io/error@0.2.12", "wasi::io::error"),
    ("wasi:io/poll@0.2.12", "wasi::io::poll"),
    ("wasi:io/streams@0.2.12", "wasi::io::streams"),
    (
        "wasi:clocks/monotonic-clock@0.2.12",
        "wasi::clocks::monotonic_clock",
    ),
];

fn main() -> Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other:?}; the only one is --check"),
    };
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let worlds = [
        ("imports", None),
        ("http-function", Some("http")),
        ("call-function", Some("call")),
    ];
    for (world, export) in worlds {
        let text = generate(&sdk.join("../wit"), world, export).with_context(|| format!("world {world}"))?;
        let path = sdk.join(format!("src/bindings/{}.rs", world.replace('-', "_")));
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        if old == text {
            println!("{} is up to date", path.display());
        } else if check {
            bail!("{} differs from wit/; run this without --check", path.display());
        } else {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("{} written", path.display());
        }
    }
    Ok(())
}

/// The bindings of one world. `export` names the attribute whose export macro the world carries.
fn generate(wit: &Path, world: &str, export: Option<&str>) -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).context("read wit/")?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut options = Opts {
        generate_all: true,
        format: true,
        ..Opts::default()
    };
    if let Some(attribute) = export {
        options.pub_export_macro = true;
        options.export_macro_name = Some(format!("__export_{attribute}_bindings"));
        options.default_bindings_module = Some(format!("cloudlet::__private::{attribute}_function"));
        options.with = SHARED
            .iter()
            .map(|(interface, path)| {
                (
                    interface.to_string(),
                    WithOption::Path(format!("crate::bindings::imports::{path}")),
                )
            })
            .collect();
    }
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, bytes) = files.iter().next().context("nothing was generated")?;
    Ok(String::from_utf8(bytes.to_vec())?)
}
