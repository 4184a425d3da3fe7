//! What `new` can start from: the files under runtime/server/templates, in the binary.

/// A template: its name, what it is, its files.
pub(super) struct Template {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// The templates; the first is the default.
pub(super) const TEMPLATES: &[Template] = &[
    Template {
        name: "rust-http",
        about: "a function in Rust that answers HTTP requests",
        files: &[
            (".gitignore", include_str!("../../templates/rust-http/.gitignore")),
            ("Cargo.toml", include_str!("../../templates/rust-http/Cargo.toml")),
            ("README.md", include_str!("../../templates/rust-http/README.md")),
            (
                "cloudlet.toml",
                include_str!("../../templates/rust-http/cloudlet.toml"),
            ),
            ("src/lib.rs", include_str!("../../templates/rust-http/src/lib.rs")),
        ],
    },
    Template {
        name: "rust-call",
        about: "a function in Rust that clients and other functions call",
        files: &[
            (".gitignore", include_str!("../../templates/rust-call/.gitignore")),
            ("Cargo.toml", include_str!("../../templates/rust-call/Cargo.toml")),
            ("README.md", include_str!("../../templates/rust-call/README.md")),
            (
                "cloudlet.toml",
                include_str!("../../templates/rust-call/cloudlet.toml"),
            ),
            ("src/lib.rs", include_str!("../../templates/rust-call/src/lib.rs")),
        ],
    },
    Template {
        name: "static",
        about: "a site without functions",
        files: &[
            ("README.md", include_str!("../../templates/static/README.md")),
            (
                "cloudlet.toml",
                include_str!("../../templates/static/cloudlet.toml"),
            ),
            (
                "site/index.html",
                include_str!("../../templates/static/site/index.html"),
            ),
        ],
    },
];
