//! `profile`.

use bson::{RawBsonRef, RawDocumentBuf, rawdoc};

use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};
use crate::profile::{self, Level};

/// `profile`: tells what was set, and sets it unless it is asked only (a level of -1).
pub(crate) async fn profile(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let (was, mut thresholds) = call.shared.profiler.of(&call.db);
    let reply = rawdoc! {
        "was": was.number(),
        "slowms": i32::try_from(thresholds.slow_ms).unwrap_or(i32::MAX),
        "sampleRate": thresholds.sample_rate,
    };
    let level = match body.iter().next().transpose()? {
        Some((_, value)) => args::integer("profile", value)?,
        None => -1,
    };
    let mut args = Args::new("profile", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "slowms" => thresholds.slow_ms = args::integer("profile.slowms", value)?,
            "sampleRate" => thresholds.sample_rate = sample_rate(value)?,
            "filter" => return Err(args.unsupported(name)),
            name => return Err(args.unknown(name)),
        }
    }
    call.shared.profiler.set_thresholds(thresholds);
    // Any other level asks only, as in MongoDB.
    let Some(level) = Level::from_number(level) else {
        return Ok(reply);
    };
    if level != Level::Off {
        profile::make_collection(call.shared, &call.db).await?;
    }
    call.shared.profiler.set_level(&call.db, level)?;
    Ok(reply)
}

fn sample_rate(value: RawBsonRef<'_>) -> Result<f64> {
    let rate = match value {
        RawBsonRef::Double(rate) => rate,
        value => args::integer("profile.sampleRate", value)? as f64,
    };
    if (0.0..=1.0).contains(&rate) {
        return Ok(rate);
    }
    Err(CommandError::new(
        Code::BadValue,
        format!("'sampleRate' must be between 0.0 and 1.0 inclusive, found {rate}"),
    ))
}
