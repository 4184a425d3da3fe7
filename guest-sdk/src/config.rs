//! Vars and secrets, as the manifest grants them.

use crate::Error;
use crate::bindings::imports::wasi::config::store;

fn get(name: &str) -> Result<Option<String>, Error> {
    store::get(name).map_err(|error| match error {
        store::Error::Upstream(text) | store::Error::Io(text) => Error::Failed(text),
    })
}

/// A var of the manifest's `[vars]` that is in this function's `grants = { vars = [..] }`.
///
/// ```no_run
/// # fn main() -> cloudlet::Result<()> {
/// let region = cloudlet::var("region")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Failed`] when it has no value or is not granted.
pub fn var(name: &str) -> Result<String, Error> {
    get(name)?.ok_or_else(|| {
        Error::Failed(format!(
            "no var {name:?}; give it a value in [vars] and add it to the function's grants = {{ vars = [..] }}"
        ))
    })
}

/// As [`var`], with `default` for one that has no value or is not granted.
pub fn var_or(name: &str, default: &str) -> String {
    get(name).ok().flatten().unwrap_or_else(|| default.to_owned())
}

/// A secret that is in this function's `grants = { secrets = [..] }`. Keep it out of logs and responses.
///
/// # Errors
/// [`Error::Failed`] when it has no value or is not granted.
pub fn secret(name: &str) -> Result<String, Error> {
    get(name)?.ok_or_else(|| {
        Error::Failed(format!(
            "no secret {name:?}; set it with `cloudlet secret put {name}` and add it to the function's \
             grants = {{ secrets = [..] }}"
        ))
    })
}
