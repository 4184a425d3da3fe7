//! `wasi:config/store`: the vars and secrets that the manifest grants.

use super::View;
use crate::bindings::wasi::config::store;

impl store::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        let spec = &self.run.function.spec;
        let value = spec.secrets.get(&key).or_else(|| spec.vars.get(&key));
        Ok(Ok(value.cloned()))
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
