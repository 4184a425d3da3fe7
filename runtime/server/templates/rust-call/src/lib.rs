//! A function that clients call by name: `app.callFunction({ name: "greet", data: { name: "Li" } })`.

use cloudlet::auth::{self, Principal};
use cloudlet::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the client sends.
#[derive(Deserialize)]
struct Request {
    name: String,
}

/// What it gets back.
#[derive(Serialize)]
struct Greeting {
    text: String,
    uid: Option<String>,
}

#[cloudlet::call]
fn greet(request: Request) -> Result<Greeting> {
    if request.name.is_empty() {
        return Err(Error::invalid("name must not be empty"));
    }
    let uid = match auth::caller() {
        Principal::User(user) => Some(user.uid),
        _ => None,
    };
    log::info!("greeting");
    Ok(Greeting { text: format!("Hello, {}!", request.name), uid })
}
