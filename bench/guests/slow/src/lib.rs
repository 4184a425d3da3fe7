//! Waits for an origin that takes its time, as a function does that asks a slow service.

use cloudlet::http::Request;
use cloudlet::{Body, Error, Result};

/// The handler.
#[cloudlet::http]
fn main() -> Result<Body> {
    let origin = cloudlet::var("ORIGIN")?;
    let request = Request::get(origin).body(Body::empty()).map_err(Error::invalid)?;
    Ok(cloudlet::fetch(request)?.into_body())
}
