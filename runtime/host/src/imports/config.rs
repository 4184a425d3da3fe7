//! `wasi:config/store`: the vars and secrets that the manifest grants.

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use super::View;
use crate::bindings::wasi::config::store;
use crate::instance::State;

/// The names under which the same interface is in use.
pub(crate) const NAMES: [&str; 3] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/store@0.2.0-draft",
];

/// Defines the interface under its names.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut instance = linker.instance(name)?;
        instance.func_wrap("get", |mut cx: StoreContextMut<'_, State>, (key,): (String,)| {
            Ok((store::Host::get(&mut cx.data_mut().view(), key)?,))
        })?;
        instance.func_wrap("get-all", |mut cx: StoreContextMut<'_, State>, (): ()| {
            Ok((store::Host::get_all(&mut cx.data_mut().view())?,))
        })?;
    }
    Ok(())
}

impl store::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        Ok(Ok(self.config_value(&key).map(str::to_owned)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        let spec = &self.run.function.spec;
        // A secret shadows a var of its name, as in `get`.
        let vars = spec
            .vars
            .iter()
            .filter(|(key, _)| !spec.secrets.contains_key(*key));
        let all = vars.chain(&spec.secrets);
        Ok(Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl View<'_> {
    /// The secret, or else the var, of this name.
    pub(super) fn config_value(&self, key: &str) -> Option<&str> {
        let spec = &self.run.function.spec;
        let value = spec.secrets.get(key).or_else(|| spec.vars.get(key));
        value.map(String::as_str)
    }
}
