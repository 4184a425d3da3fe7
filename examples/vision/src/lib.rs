//! A stand-in for an image recognition service: takes a JPEG, answers what it shows.

mod jpeg;

use cloudlet::http::Request;
use cloudlet::{Error, Json, Result};
use serde::Serialize;

/// What the picture shows.
#[derive(Debug, Serialize)]
struct Recognition {
    /// Always `face`: hotels photograph guests.
    label: &'static str,
    /// Width in pixels.
    width: u16,
    /// Height in pixels.
    height: u16,
    /// Colour components: 1 is grey, 3 is colour.
    components: u8,
    /// Between 0.5 and 1, computed from the bytes.
    confidence: f64,
    /// Size of the file.
    bytes: usize,
}

/// Recognizes the JPEG in the body.
#[cloudlet::http]
fn main(request: Request<Vec<u8>>) -> Result<Json<Recognition>> {
    let photo = request.into_body();
    let frame = jpeg::frame(&photo).map_err(Error::invalid)?;
    Ok(Json(Recognition {
        label: "face",
        width: frame.width,
        height: frame.height,
        components: frame.components,
        confidence: confidence(&photo),
        bytes: photo.len(),
    }))
}

/// A figure from the bytes (FNV-1a), with two digits.
fn confidence(photo: &[u8]) -> f64 {
    let hash = photo.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    0.5 + (hash % 50) as f64 / 100.0
}
