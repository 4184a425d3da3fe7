//! Reads one document of the collection `items` by its `_id`, the number in `?id=`, and answers it as JSON.

use cloudlet::db::{self, Document, doc};
use cloudlet::http::Request;
use cloudlet::{Error, Json, Result};

/// The handler.
#[cloudlet::http]
fn main(request: Request<()>) -> Result<Json<Document>> {
    let query = request.uri().query().unwrap_or_default();
    let id: i32 = match query.strip_prefix("id=") {
        Some(id) => id
            .parse()
            .map_err(|_| Error::invalid(format!("id must be a number, not {id:?}")))?,
        None => 1,
    };
    let found = db::collection::<Document>("items")
        .find_one(doc! { "_id": id })
        .run()?;
    found
        .map(Json)
        .ok_or_else(|| Error::not_found(format!("no item {id}; insert some first")))
}
