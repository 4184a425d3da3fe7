//! Answers a text. It imports `wasi:http` and what std brings, and nothing of cloudlet's, so that it runs under other
//! hosts as well, to be compared with.

/// The handler. It does not look at the request.
#[cloudlet::http]
fn main() -> &'static str {
    "Hello, world!\n"
}
