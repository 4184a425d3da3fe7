//! What `new` can start from: the files under runtime/server/templates, in the binary.

/// A template: its name, what it is, its files.
pub(super) struct Template {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Paths and texts. In the latter `{{name}}` stands for the app's name, `{{sdk}}` for the SDK.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Its compiler reads WIT: the files of [`WIT`] go along.
    pub(super) wit: bool,
}

/// A template's files by their paths.
macro_rules! files {
    ($template:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/", $template, "/", $path)))),+]
    };
}

/// WASI's packages as the node has them.
macro_rules! wasi {
    ($($package:literal),+ $(,)?) => {
        &[
            ("wit/world.wit", include_str!("../../templates/wit/world.wit")),
            $((
                concat!("wit/deps/", $package, "/package.wit"),
                include_str!(concat!("../../../../wit/deps/wasi-", $package, "-0.2.12/package.wit")),
            )),+
        ]
    };
}

/// The world of a function that answers HTTP requests, and the packages that it is made of.
pub(super) const WIT: &[(&str, &str)] =
    wasi!["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];

/// The release of WASI's packages in the repository.
pub(super) const WASI_RELEASE: &str = "0.2.12";
/// The release that templates name: what componentize-js brings itself is of this one, and does not go together with a
/// later one. In text the two are the same.
pub(super) const WASI_RELEASE_OF_TEMPLATES: &str = "0.2.10";

/// The templates; the first is the default.
pub(super) const TEMPLATES: &[Template] = &[
    Template {
        name: "rust-http",
        about: "a function in Rust that answers HTTP requests",
        files: files!["rust-http": ".gitignore", "Cargo.toml", "README.md", "cloudlet.toml", "src/lib.rs"],
        wit: false,
    },
    Template {
        name: "rust-call",
        about: "a function in Rust that clients and other functions call",
        files: files!["rust-call": ".gitignore", "Cargo.toml", "README.md", "cloudlet.toml", "src/lib.rs"],
        wit: false,
    },
    Template {
        name: "js",
        about: "a function in JavaScript that answers HTTP requests",
        files: files![
            "js": ".gitignore", "README.md", "build.sh", "cloudlet.toml", "package.json", "src/api.js",
        ],
        wit: true,
    },
    Template {
        name: "python",
        about: "a function in Python that answers HTTP requests",
        files: files![
            "python": ".gitignore", "README.md", "app.py", "build.sh", "cloudlet.toml", "requirements.txt",
        ],
        wit: true,
    },
    Template {
        name: "static",
        about: "a site without functions",
        files: files!["static": ".gitignore", "README.md", "cloudlet.toml", "site/index.html"],
        wit: false,
    },
];
