//! `new`: a new app in a new directory, from a template.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cloudlet_base::AppId;

use super::context::Global;
use super::templates::{TEMPLATES, Template, WASI_RELEASE, WASI_RELEASE_OF_TEMPLATES, WIT};
use crate::apps::manifest::nearest;

/// Arguments of `new`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the app, and of its directory
    name: String,
    /// What to start from; a list is printed when it is not known
    #[arg(long, default_value = TEMPLATES[0].name, value_name = "T")]
    template: String,
    /// How the new app depends on the SDK, as in Cargo.toml
    #[arg(long, value_name = "SPEC")]
    sdk: Option<String>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let app: AppId = args.name.parse()?;
    let Some(template) = TEMPLATES.iter().find(|template| template.name == args.template) else {
        let near = nearest(&args.template, TEMPLATES.iter().map(|template| template.name));
        let near = near
            .map(|near| format!(" did you mean {near:?}?"))
            .unwrap_or_default();
        let list: Vec<String> = TEMPLATES
            .iter()
            .map(|template| format!("\n  {}: {}", template.name, template.about))
            .collect();
        bail!(
            "there is no template {:?};{near} there are:{}",
            args.template,
            list.concat()
        );
    };
    let dir = global.dir.join(app.as_str());
    if dir.exists() {
        bail!("{} is there already; choose another name", dir.display());
    }
    let sdk = args.sdk.unwrap_or_else(default_sdk);
    write(&dir, template, app.as_str(), &sdk)?;
    match global.json {
        true => println!("{}", serde_json::json!({ "app": app.as_str(), "dir": dir })),
        false => println!(
            "{} is ready; go on with:\n  cd {}\n  cloudlet dev",
            app.as_str(),
            dir.display()
        ),
    }
    Ok(())
}

/// The SDK of the checkout that this binary was built from, if it is still there; else the published one.
fn default_sdk() -> String {
    let checkout = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk"));
    match checkout.canonicalize() {
        Ok(path) if path.join("Cargo.toml").is_file() => {
            format!("{{ path = {:?} }}", path.display().to_string())
        }
        _ => format!("{:?}", env!("CARGO_PKG_VERSION")),
    }
}

fn write(dir: &Path, template: &Template, name: &str, sdk: &str) -> anyhow::Result<()> {
    let wit = if template.wit { WIT } else { &[] };
    for (path, text) in template.files.iter().chain(wit) {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        }
        let text = match path.extension().is_some_and(|kind| kind == "wit") {
            true => text.replace(WASI_RELEASE, WASI_RELEASE_OF_TEMPLATES),
            false => text.replace("{{name}}", name).replace("{{sdk}}", sdk),
        };
        std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::manifest;

    #[test]
    fn every_template_has_a_good_manifest_and_no_placeholder_left() {
        for template in TEMPLATES {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), template, "my-app", "\"1\"").unwrap();
            let text = std::fs::read_to_string(dir.path().join(manifest::FILE)).unwrap();
            let manifest = manifest::parse(manifest::FILE, &text, None)
                .unwrap_or_else(|problems| panic!("{}: {problems:?}", template.name));
            assert_eq!(manifest.app.as_str(), "my-app");
            for (path, _) in template.files {
                let text = std::fs::read_to_string(dir.path().join(path)).unwrap();
                assert!(!text.contains("{{name}}") && !text.contains("{{sdk}}"), "{path}");
            }
            let http = dir.path().join("wit/deps/http/package.wit");
            assert_eq!(http.exists(), template.wit);
            if template.wit {
                let (http, world) = (
                    std::fs::read_to_string(http).unwrap(),
                    std::fs::read_to_string(dir.path().join("wit/world.wit")).unwrap(),
                );
                assert!(http.contains("package wasi:http@0.2.10;") && !http.contains(WASI_RELEASE));
                assert!(world.contains("wasi:http/proxy@0.2.10"), "{world}");
            }
        }
    }
}
