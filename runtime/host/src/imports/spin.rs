//! `fermyon:spin` 2.0.0, as far as it is about stores and values: key-value and variables.

use cloudlet_base::Fault;
use wasmtime::component::Resource;

use super::{Failure, View};
use crate::bindings::standards::fermyon::spin::{key_value, variables};
use crate::keyvalue::Store;

impl key_value::Host for View<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<key_value::Error> {
        use key_value::Error;
        match failure {
            Failure::Told {
                kind: Fault::Denied, ..
            } => Ok(Error::AccessDenied),
            Failure::Told { message, .. } => Ok(Error::Other(message)),
            Failure::Trap(error) => Err(error),
        }
    }
}

impl key_value::HostStore for View<'_> {
    async fn open(&mut self, label: String) -> Result<Resource<Store>, Failure> {
        let store = Store::open(self.run, &label).ok_or_else(|| Failure::denied("not granted"))?;
        Ok(self.table.push(store)?)
    }

    async fn get(&mut self, this: Resource<Store>, key: String) -> Result<Option<Vec<u8>>, Failure> {
        self.table.get(&this)?.get(&key).await
    }

    async fn set(&mut self, this: Resource<Store>, key: String, value: Vec<u8>) -> Result<(), Failure> {
        let versions = self.versions();
        self.table.get(&this)?.set(vec![(key, value)], &versions).await
    }

    async fn delete(&mut self, this: Resource<Store>, key: String) -> Result<(), Failure> {
        self.table.get(&this)?.delete(vec![key]).await
    }

    async fn exists(&mut self, this: Resource<Store>, key: String) -> Result<bool, Failure> {
        self.table.get(&this)?.exists(&key).await
    }

    async fn get_keys(&mut self, this: Resource<Store>) -> Result<Vec<String>, Failure> {
        self.table.get(&this)?.all_keys().await
    }

    async fn drop(&mut self, this: Resource<Store>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl variables::Host for View<'_> {
    /// Spin's names are of lower case. One that the manifest does not have so is looked for in upper case.
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<String, variables::Error>> {
        if !is_name(&name) {
            return Ok(Err(variables::Error::InvalidName(format!(
                "{name:?} is not lower-case letters, digits and '_', beginning with a letter"
            ))));
        }
        let value = self.config_value(&name);
        let value = value.or_else(|| self.config_value(&name.to_ascii_uppercase()));
        Ok(value.map(str::to_owned).ok_or_else(|| {
            variables::Error::Undefined(format!(
                "function {:?} is granted neither a var nor a secret {name:?}, in lower or upper case; add it to grants.vars \
                 or grants.secrets",
                self.run.function.spec.name
            ))
        }))
    }
}

/// Whether this can be a variable's name.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn variables_have_names_of_lower_case() {
        for good in ["a", "api_key", "a1", "a__b_"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "_a", "1a", "a-b", "a.b", "é"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
