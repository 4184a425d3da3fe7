//! Calling other functions of the app.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::bindings::imports::cloudlet::function::invoke;

/// Calls another function of the app with a JSON payload and waits for its JSON reply. It sees this function as its
/// caller, and this invocation's deadline holds for it. Needs `grants = { functions = ["notify"] }`.
///
/// ```no_run
/// # fn main() -> cloudlet::Result<()> {
/// use serde_json::{Value, json};
///
/// let reply: Value = cloudlet::call("notify", &json!({ "room": 12 }))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What the function returned; [`Error::Denied`] without the grant; [`Error::Busy`] and [`Error::Deadline`];
/// [`Error::Failed`] when it failed or its reply is not a `U`.
pub fn call<T, U>(function: &str, payload: &T) -> Result<U, Error>
where
    T: Serialize + ?Sized,
    U: DeserializeOwned,
{
    let reply = call_raw(function, &serde_json::to_vec(payload)?)?;
    let text = if reply.is_empty() {
        b"null".as_slice()
    } else {
        &reply
    };
    serde_json::from_slice(text)
        .map_err(|error| Error::Failed(format!("the reply of function {function:?}: {error}")))
}

/// As [`call()`], with bytes that need not be JSON.
///
/// # Errors
/// As [`call()`], but for the reply's form.
pub fn call_raw(function: &str, payload: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(invoke::call(function, payload)?)
}
