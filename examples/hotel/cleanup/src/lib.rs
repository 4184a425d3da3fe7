//! Removes stays older than `days` days with their photos. For admins, for the app's timer and its other functions.

use std::time::Duration;

use cloudlet::auth::{self, Principal};
use cloudlet::db::{self, Bson, DateTime, doc};
use cloudlet::{Error, Result, storage};
use serde::{Deserialize, Serialize};

/// Most stays removed by one call, so that it ends in time.
const STAYS_MAX: usize = 1000;

/// What to remove. A timer's event says nothing about it.
#[derive(Deserialize)]
struct Request {
    /// Stays older than so many days; 30 when absent.
    #[serde(default = "a_month")]
    days: u32,
}

fn a_month() -> u32 {
    30
}

/// What was removed.
#[derive(Serialize)]
struct Removed {
    /// Stays.
    stays: u64,
    /// Photos.
    photos: u64,
    /// Whether there are more, for another call.
    more: bool,
}

/// What we need of a stay.
#[derive(Deserialize)]
struct Stay {
    #[serde(rename = "_id")]
    id: Bson,
    photo: Option<String>,
}

/// The entry point. The photo goes before its stay: a call that ends half-way is made good by the next.
#[cloudlet::call]
fn cleanup(request: Option<Request>) -> Result<Removed> {
    if !matches!(auth::caller(), Principal::Admin(_) | Principal::Function(_)) {
        return Err(Error::denied("only for admins and functions"));
    }
    let days = request.map_or_else(a_month, |request| request.days);
    let age_ms =
        i64::try_from(Duration::from_secs(u64::from(days) * 86_400).as_millis()).map_err(Error::invalid)?;
    let before = DateTime::from_millis(DateTime::now().timestamp_millis() - age_ms);

    let stays = db::collection::<Stay>("stays");
    let old = stays
        .find(doc! { "createdAt": { "$lt": before } })
        .sort(doc! { "createdAt": 1 })
        .projection(doc! { "photo": 1 })
        .limit(STAYS_MAX as i64)
        .run()?
        .collect::<Result<Vec<_>, _>>()?;
    let mut photos = 0;
    for path in old.iter().filter_map(|stay| stay.photo.as_deref()) {
        photos += u64::from(storage::delete(path)?);
    }
    let more = old.len() == STAYS_MAX;
    let ids: Vec<Bson> = old.into_iter().map(|stay| stay.id).collect();
    let mut removed = 0;
    if !ids.is_empty() {
        removed = stays
            .delete_many(doc! { "_id": { "$in": ids } })
            .run()?
            .deleted_count;
    }
    log::info!("removed {removed} stays older than {days} days with {photos} photos");
    Ok(Removed {
        stays: removed,
        photos,
        more,
    })
}
