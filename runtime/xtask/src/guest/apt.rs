//! What Debian's package tools print and read: sources lists, package policies, dependency lines. Pure text in, values
//! out; running the tools is [`super::debian`]'s.

/// A place that packages come from, as the user's own apt sources name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Where the archive is.
    pub(super) uri: String,
    /// What it is trusted by and fetched with (`Signed-By` and its like), as deb822 fields; a value may have several
    /// lines.
    pub(super) fields: Vec<(String, String)>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// Fields that decide whether an archive is trusted; a list of our own for the same archive takes them over.
const TRUST_FIELDS: [&str; 3] = ["signed-by", "trusted", "check-valid-until"];

impl Source {
    /// Whether this is the main archive of the release `codename` (not its updates or security fixes).
    pub(super) fn is_main_archive_of(&self, codename: &str) -> bool {
        self.suites
            .iter()
            .any(|suite| suite == codename || suite == "stable")
            && self.components.iter().any(|component| component == "main")
    }

    /// A deb822 stanza for the release `suite` from the same archive.
    pub(super) fn stanza(&self, suite: &str) -> String {
        let mut stanza = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
            self.uri
        );
        for (name, value) in &self.fields {
            stanza.push_str(&format!("{name}: {value}\n"));
        }
        stanza
    }
}

/// The sources of a `*.list` file: `deb [option=value ...] URI SUITE COMPONENT...`, one a line.
pub(super) fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let fields = options
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
        .filter(|(name, _)| TRUST_FIELDS.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| (name.to_owned(), value.replace(',', " ")))
        .collect();
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        fields,
    })
}

/// The sources of a deb822 `*.sources` file: stanzas of `Field: value`, lines that start with white space going on
/// with the value. A stanza with several URIs counts as its first.
pub(super) fn parse_sources(text: &str) -> Vec<Source> {
    let mut stanzas: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines() {
        let fields = stanzas.last_mut().expect("there is always a last stanza");
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with('#') {
            continue;
        } else if line.starts_with(char::is_whitespace) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    stanzas
        .iter()
        .filter_map(|fields| stanza_source(fields))
        .collect()
}

fn stanza_source(fields: &[(String, String)]) -> Option<Source> {
    let words = |wanted: &str| -> Vec<String> {
        let value = fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str());
        value
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let off = words("Enabled")
        .first()
        .is_some_and(|value| matches!(value.as_str(), "no" | "false" | "0"));
    if off || !words("Types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let trust = |(name, _): &&(String, String)| TRUST_FIELDS.contains(&name.to_ascii_lowercase().as_str());
    Some(Source {
        uri: words("URIs").first()?.clone(),
        suites: words("Suites"),
        components: words("Components"),
        fields: fields.iter().filter(trust).cloned().collect(),
    })
}

/// The version that `apt-cache policy PACKAGE` says would be installed, if there is any.
pub(super) fn parse_candidate(policy: &str) -> Option<&str> {
    let candidate = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (candidate != "(none)").then_some(candidate)
}

/// The shared libraries' packages in a `Depends` line: the first of alternatives, without versions, and without the
/// packages of the compiler itself or virtual ones.
pub(super) fn parse_libraries(depends: &str) -> Vec<String> {
    let mut names: Vec<String> = depends
        .split(',')
        .filter_map(|dependency| dependency.split('|').next()?.split(['(', ':']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("lib") && !name.starts_with("libstd-rust") && name != "libc-dev")
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The LLVM release that a list of library packages holds: 22 of `libllvm22`.
pub(super) fn llvm_release(libraries: &[String]) -> Option<u32> {
    libraries.iter().find_map(|name| {
        let digits: String = name
            .strip_prefix("libllvm")?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    })
}

/// Major and minor of a compiler's package version: (1, 96) of `1.96.0+dfsg1-1~deb12u2`.
pub(super) fn rust_release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_keep_their_archive_and_trust() {
        let sources = parse_list(
            "# deb http://old.example bookworm main\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian bookworm main contrib # ours\n\
             deb http://security.example/debian-security bookworm-security main\n",
        );
        assert_eq!(sources.len(), 2);
        assert!(sources[0].is_main_archive_of("bookworm"));
        assert!(!sources[1].is_main_archive_of("bookworm"));
        assert_eq!(
            sources[0].stanza("trixie"),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n\
             signed-by: /usr/share/keyrings/a.gpg\n"
        );
    }

    #[test]
    fn deb822_sources_keep_their_archive_and_trust() {
        let sources = parse_sources(
            "Types: deb deb-src\n# a remark\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By:\n -----BEGIN-----\n .\n abc\n\nTypes: deb\nURIs: http://off.example\n\
             Suites: bookworm\nComponents: main\nEnabled: no\n\n\nTypes: deb-src\nURIs: x\nSuites: bookworm\n",
        );
        assert_eq!(sources.len(), 1, "{sources:?}");
        assert!(sources[0].is_main_archive_of("bookworm"));
        assert!(
            sources[0]
                .stanza("trixie")
                .ends_with("Signed-By: \n -----BEGIN-----\n .\n abc\n")
        );
    }

    #[test]
    fn other_vendors_archives_are_not_debians() {
        let sources =
            parse_sources("Types: deb\nURIs: http://node.example\nSuites: nodistro\nComponents: main\n");
        assert!(!sources[0].is_main_archive_of("bookworm"));
        assert!(
            !parse_list("deb http://cloud.example/apt sdk-bookworm main")[0].is_main_archive_of("bookworm")
        );
        assert!(parse_list("debian http://x y z").is_empty());
    }

    #[test]
    fn a_policy_without_candidate_offers_nothing() {
        let policy =
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(parse_candidate(policy), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(parse_candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn libraries_are_the_shared_ones_only() {
        let depends = "libc6 (>= 2.34), libgit2-1.5 (>= 1.5.0), rustc-web (= 1), gcc | clang, libc-dev, \
                       libstd-rust-web-dev (= 1), libllvm22 (>= 1:22.1.8), libgcc-s1:any | x";
        let libraries = parse_libraries(depends);
        assert_eq!(libraries, ["libc6", "libgcc-s1", "libgit2-1.5", "libllvm22"]);
        assert_eq!(llvm_release(&libraries), Some(22));
        assert_eq!(llvm_release(&["libc6".to_owned()]), None);
        assert_eq!(rust_release("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(rust_release("none"), None);
    }
}
