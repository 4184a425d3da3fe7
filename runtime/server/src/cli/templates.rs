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
        name: "js",
        about: "a function in JavaScript that answers HTTP requests",
        files: &[
            (".gitignore", include_str!("../../templates/js/.gitignore")),
            ("README.md", include_str!("../../templates/js/README.md")),
            ("cloudlet.toml", include_str!("../../templates/js/cloudlet.toml")),
            ("package.json", include_str!("../../templates/js/package.json")),
            ("src/api.js", include_str!("../../templates/js/src/api.js")),
            ("wit/world.wit", include_str!("../../templates/wit/world.wit")),
            ("wit/deps/io/io.wit", include_str!("../../templates/wit/io.wit")),
            (
                "wit/deps/clocks/clocks.wit",
                include_str!("../../templates/wit/clocks.wit"),
            ),
            (
                "wit/deps/http/http.wit",
                include_str!("../../templates/wit/http.wit"),
            ),
        ],
    },
    Template {
        name: "python",
        about: "a function in Python that answers HTTP requests",
        files: &[
            (".gitignore", include_str!("../../templates/python/.gitignore")),
            ("README.md", include_str!("../../templates/python/README.md")),
            ("app.py", include_str!("../../templates/python/app.py")),
            ("build.sh", include_str!("../../templates/python/build.sh")),
            (
                "cloudlet.toml",
                include_str!("../../templates/python/cloudlet.toml"),
            ),
            (
                "requirements.txt",
                include_str!("../../templates/python/requirements.txt"),
            ),
            ("wit/world.wit", include_str!("../../templates/wit/world.wit")),
            ("wit/deps/io/io.wit", include_str!("../../templates/wit/io.wit")),
            (
                "wit/deps/clocks/clocks.wit",
                include_str!("../../templates/wit/clocks.wit"),
            ),
            (
                "wit/deps/http/http.wit",
                include_str!("../../templates/wit/http.wit"),
            ),
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
