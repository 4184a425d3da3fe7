//! Checks a guest in: recognizes the photo, keeps it, and writes the stay that only this guest can read.
//!
//! `POST /api/checkin?guest=NAME` with a JPEG as the body and the guest's access token.

use cloudlet::db::bson::Uuid;
use cloudlet::db::{self, DateTime, Document, doc};
use cloudlet::http::{Request, StatusCode};
use cloudlet::{Body, Context, Error, Json, Result, Router, auth, storage};
use serde::{Deserialize, Serialize};

/// Largest photo.
const PHOTO_BYTES_MAX: usize = 1 << 20;
/// Longest name of a guest, in characters.
const GUEST_CHARS_MAX: usize = 100;

/// What the front desk's page gets back.
#[derive(Serialize)]
struct Checkin {
    /// The stay's `_id`.
    id: String,
    /// The room.
    room: i32,
    /// File id of the photo.
    photo: String,
    /// What the photo shows.
    label: String,
}

/// What the recognition service answers, as far as we use it.
#[derive(Deserialize)]
struct Recognition {
    label: String,
    confidence: f64,
}

/// The entry point.
#[cloudlet::http]
fn main(request: Request<Body>) -> cloudlet::http::Response<Body> {
    let mut app = Router::new();
    app.post("/api/checkin", checkin);
    app.handle(request)
}

fn checkin(ctx: &mut Context) -> Result<(StatusCode, Json<Checkin>)> {
    let user = auth::user()?;
    let guest = ctx.query("guest").unwrap_or_else(|| "a guest".to_owned());
    if guest.is_empty() || guest.chars().count() > GUEST_CHARS_MAX {
        return Err(Error::invalid(format!(
            "guest must have 1 to {GUEST_CHARS_MAX} characters"
        )));
    }
    let photo = ctx.take_body().bytes_limited(PHOTO_BYTES_MAX)?;
    if !photo.starts_with(&[0xff, 0xd8, 0xff]) {
        return Err(Error::invalid("the photo must be a JPEG"));
    }

    // Recognize first: when the service is down nothing is left behind.
    let recognition = recognize(&photo)?;
    let name = Uuid::new();
    let path = format!("photos/{}/{name}.jpg", user.uid);
    storage::put(&path, &photo)
        .content_type("image/jpeg")
        .owner(user.owner_id())
        .run()?;
    let file_id = storage::file_id(&path);
    let room = room(&name);
    let stay = doc! {
        "_openid": user.owner_id(),
        "guest": &guest,
        "room": room,
        "photo": &path,
        "fileID": &file_id,
        "label": &recognition.label,
        "confidence": recognition.confidence,
        "createdAt": DateTime::now(),
    };
    let inserted = match db::collection::<Document>("stays").insert_one(stay).run() {
        Ok(inserted) => inserted,
        Err(error) => {
            if let Err(left) = storage::delete(&path) {
                log::warn!("the photo {path} of a failed check-in stays behind: {left}");
            }
            return Err(error.into());
        }
    };
    let id = inserted
        .inserted_id
        .as_object_id()
        .ok_or("the id is no ObjectId")?
        .to_hex();
    log::info!("checked in, room {room}");
    let checkin = Checkin {
        id,
        room,
        photo: file_id,
        label: recognition.label,
    };
    Ok((StatusCode::CREATED, Json(checkin)))
}

/// Asks the recognition service.
fn recognize(photo: &[u8]) -> Result<Recognition> {
    let url = cloudlet::var_or("vision_url", "http://vision.localhost:8080/recognize");
    let request = Request::post(url)
        .header("content-type", "image/jpeg")
        .body(photo.to_vec())?;
    let response = cloudlet::fetch(request)?;
    match response.status() {
        StatusCode::OK => response
            .into_body()
            .json()
            .map_err(|error| Error::failed(format!("recognition: {error}"))),
        StatusCode::BAD_REQUEST => Err(Error::invalid("the recognition service can't read the photo")),
        status => Err(Error::failed(format!(
            "the recognition service answered {status}"
        ))),
    }
}

/// A room on one of eight floors. There is always room in a cloud.
fn room(name: &Uuid) -> i32 {
    let bytes = name.bytes();
    (i32::from(bytes[0]) % 8 + 1) * 100 + i32::from(bytes[1]) % 20 + 1
}
