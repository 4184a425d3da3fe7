//! What a component says of itself, read from its bytes: nothing is compiled and no engine is needed.

use wasmparser::{Parser, Payload};

use crate::app::Grants;
use crate::artifact::check_is_component;
use crate::error::LoadError;
use crate::link;

/// What a component is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// What it imports, in its order.
    pub imports: Vec<InspectedImport>,
    /// The names of what it exports, in its order.
    pub exports: Vec<String>,
    /// It answers HTTP requests.
    pub serves_http: bool,
    /// It has a handler for calls. Without one, calls reach the HTTP handler as `POST /`.
    pub serves_calls: bool,
    /// Its largest module has the names of its functions, for backtraces.
    pub names: bool,
    /// The same has DWARF, from which backtraces have files and lines.
    pub debug_info: bool,
}

/// One import of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedImport {
    /// Its name, such as `wasi:http/types@0.2.0`.
    pub name: String,
    /// Whether this platform has it.
    pub offered: bool,
    /// What the manifest must grant for it, when it must: an example of its line. A deploy without it is refused.
    pub grant: Option<&'static str>,
    /// What opens it: an example of the manifest's line. A deploy without it succeeds, and whatever the function asks of the
    /// import is refused.
    pub opened_by: Option<&'static str>,
}

/// What opens an import that may also be there closed.
fn opened_by(import: &str) -> Option<&'static str> {
    let open = [
        ("wasi:http/outgoing-handler@", r#"outbound = ["https://HOST"]"#),
        (
            "wasi:config/",
            r#"grants = { vars = ["NAME"], secrets = ["NAME"] }"#,
        ),
        (
            "fermyon:spin/variables@",
            r#"grants = { vars = ["NAME"], secrets = ["NAME"] }"#,
        ),
    ];
    let found = open.into_iter().find(|(start, _)| import.starts_with(start));
    found.map(|(_, line)| line)
}

/// What a core module inside of a component has beside its code.
struct Module {
    bytes: usize,
    names: bool,
    debug_info: bool,
}

impl Module {
    fn of(bytes: usize) -> Self {
        Self {
            bytes,
            names: false,
            debug_info: false,
        }
    }
}

/// Reads what a component imports and exports.
///
/// # Errors
/// `NotAComponent` when the bytes are none.
pub fn inspect(component: &[u8]) -> Result<Inspected, LoadError> {
    check_is_component(component)?;
    let broken = |error: wasmparser::Error| LoadError::NotAComponent(error.to_string());
    let mut inspected = Inspected::default();
    let mut modules: Vec<Module> = Vec::new();
    let (mut depth, mut in_module) = (0_usize, false);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { unchecked_range, .. } => {
                modules.push(Module::of(unchecked_range.len()));
                in_module = true;
            }
            // What is in a component inside of it is that one's own affair.
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if in_module => in_module = false,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import.map_err(broken)?.name.name;
                    inspected.imports.push(InspectedImport {
                        offered: link::offered(name),
                        grant: link::missing_grant(name, &Grants::default()),
                        opened_by: opened_by(name),
                        name: name.to_owned(),
                    });
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    inspected
                        .exports
                        .push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if in_module => {
                if let Some(module) = modules.last_mut() {
                    module.names |= section.name() == "name";
                    module.debug_info |= section.name() == ".debug_line";
                }
            }
            _ => {}
        }
    }
    // The others are glue that the tools put beside what somebody wrote; it has names when that is stripped, too.
    if let Some(module) = modules.into_iter().max_by_key(|module| module.bytes) {
        (inspected.names, inspected.debug_info) = (module.names, module.debug_info);
    }
    let exports = |start: &str| inspected.exports.iter().any(|name| name.starts_with(start));
    inspected.serves_http = exports("wasi:http/incoming-handler@0.2.");
    inspected.serves_calls = exports("cloudlet:function/handler@0.1.");
    Ok(inspected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(text: &str) -> Inspected {
        inspect(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn imports_are_told_with_what_they_need() {
        let found = inspected(
            r#"(component
                (import "wasi:gpu/compute@0.2.0" (instance))
                (import "wasi:clocks/wall-clock@0.2.7" (instance))
                (import "wasi:http/outgoing-handler@0.2.0" (instance))
                (import "cloudlet:database/documents@0.1.0" (instance))
                (import "wasi:keyvalue/store@0.2.0-draft" (instance))
                (component (import "inside" (func)))
            )"#,
        );
        let told: Vec<_> = (found.imports.iter())
            .map(|import| {
                let short = import.name.split(['/', '@']).nth(1).unwrap();
                (
                    short,
                    import.offered,
                    import.grant.is_some(),
                    import.opened_by.is_some(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("compute", false, false, false),
                ("wall-clock", true, false, false),
                ("outgoing-handler", true, false, true),
                ("documents", true, true, false),
                ("store", true, true, false),
            ]
        );
        assert!(found.imports[3].grant.unwrap().contains("database"));
        assert!(!found.serves_http && !found.serves_calls && found.exports.is_empty());
    }

    #[test]
    fn handlers_are_known_by_their_exports() {
        let of = |export: &str| {
            let found = inspected(&format!(
                "(component (instance $i) (export \"{export}\" (instance $i)))"
            ));
            assert_eq!(found.exports, [export]);
            (found.serves_http, found.serves_calls)
        };
        assert_eq!(of("wasi:http/incoming-handler@0.2.0"), (true, false));
        assert_eq!(of("wasi:http/incoming-handler@0.2.12"), (true, false));
        assert_eq!(of("cloudlet:function/handler@0.1.0"), (false, true));
        assert_eq!(of("wasi:cli/run@0.2.0"), (false, false));
        assert_eq!(of("wasi:http/incoming-handler@0.3.0"), (false, false));
    }

    #[test]
    fn names_and_debug_info_are_those_of_the_largest_module() {
        let of = |inside: &str| {
            let found = inspected(&format!("(component {inside})"));
            (found.names, found.debug_info)
        };
        assert_eq!(of(""), (false, false));
        assert_eq!(of("(core module (func))"), (false, false));
        assert_eq!(of("(core module (func $f))"), (true, false));
        let lines = r#"(core module (@custom ".debug_line" "that is long enough to be the largest"))"#;
        assert_eq!(of(lines), (false, true));
        assert_eq!(
            of(&format!("(component {lines}) (core module (func $f))")),
            (false, true)
        );
    }

    #[test]
    fn what_is_no_component_is_refused() {
        let whole = wat::parse_str("(component (core module (func $f)))").unwrap();
        let check = |bytes: &[u8], expected: &str| {
            let error = inspect(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "does not begin with");
        check(&wat::parse_str("(module)").unwrap(), "core module");
        check(&[&whole[..8], b"garbage"].concat(), "not a WebAssembly component");
        for end in 9..whole.len() {
            // At the end of a section it is whole, only shorter; it never panics.
            if let Err(error) = inspect(&whole[..end]) {
                assert!(matches!(error, LoadError::NotAComponent(_)), "{error}");
            }
        }
    }
}
