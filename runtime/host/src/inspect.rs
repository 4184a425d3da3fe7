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
    /// It has the names of its functions, for backtraces.
    pub names: bool,
    /// It has DWARF, from which backtraces have files and lines.
    pub debug_info: bool,
}

/// One import of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedImport {
    /// Its name, such as `wasi:http/types@0.2.0`.
    pub name: String,
    /// Whether this platform has it.
    pub offered: bool,
    /// What the manifest must grant for it, when it must: an example of its line.
    pub grant: Option<&'static str>,
}

/// Reads what a component imports and exports.
///
/// # Errors
/// `NotAComponent` when the bytes are none.
pub fn inspect(component: &[u8]) -> Result<Inspected, LoadError> {
    check_is_component(component)?;
    let broken = |error: wasmparser::Error| LoadError::NotAComponent(error.to_string());
    let mut inspected = Inspected::default();
    // Modules and components inside of it are read too: their names and DWARF count, their imports are its own affair.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import.map_err(broken)?.name.name;
                    inspected.imports.push(InspectedImport {
                        offered: link::offered(name),
                        grant: link::missing_grant(name, &Grants::default()),
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
            Payload::CustomSection(section) if depth > 0 => {
                inspected.names |= section.name() == "name";
                inspected.debug_info |= section.name() == ".debug_line";
            }
            _ => {}
        }
    }
    let exports = |start: &str| inspected.exports.iter().any(|name| name.starts_with(start));
    inspected.serves_http = exports("wasi:http/incoming-handler@0.2.");
    inspected.serves_calls = exports("cloudlet:function/handler@0.1.");
    Ok(inspected)
}
