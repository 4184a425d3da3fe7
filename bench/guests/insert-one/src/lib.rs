//! Inserts one document of about 300 bytes into the collection `inserted` and answers its id.

use cloudlet::db::{self, DateTime, Document, doc};
use cloudlet::http::StatusCode;
use cloudlet::{Error, Result};

/// What makes a document about 300 bytes long.
const TEXT: &str = "Checked in at the front desk; two nights, breakfast included, a quiet room towards the garden if \
                    there is one, and a call at half past six in the morning on the second day, please. Thank you.";

/// The handler. It does not look at the request.
#[cloudlet::http]
fn main() -> Result<(StatusCode, String)> {
    let now = DateTime::now();
    let stay = doc! { "guest": "Li Lei", "room": 12, "nights": 2, "note": TEXT, "createdAt": now };
    let inserted = db::collection::<Document>("inserted")
        .insert_one(stay)
        .run()?
        .inserted_id;
    let id = inserted
        .as_object_id()
        .ok_or_else(|| Error::failed("the id is no ObjectId"))?;
    Ok((StatusCode::CREATED, id.to_hex()))
}
