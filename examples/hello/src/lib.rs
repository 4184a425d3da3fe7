//! The smallest function: it greets.

use cloudlet::http::Request;

/// Greets whoever `?name=` says.
#[cloudlet::http]
fn main(request: Request<()>) -> String {
    let name = request
        .uri()
        .query()
        .and_then(|query| query.strip_prefix("name="))
        .unwrap_or("world");
    format!("Hello, {name}!\n")
}
