//! What a timer tells the function that it calls.

use serde::Deserialize;

/// A tick of a `[[trigger.timer]]`. A tick may come twice: a function that was cut off is called again for the same one.
///
/// ```
/// use cloudlet::{Result, TimerEvent};
///
/// #[cloudlet::call]
/// fn report(tick: TimerEvent) -> Result<()> {
///     log::info!("{} of {}: {}", tick.trigger_name, tick.time, tick.message);
///     Ok(())
/// }
/// # let event = r#"{"Type":"Timer","TriggerName":"nightly","Time":"2026-11-23T20:00:00Z","Message":"sum up"}"#;
/// # let event: TimerEvent = cloudlet::serde_json::from_str(event).unwrap();
/// # assert_eq!((event.trigger_name.as_str(), event.message.as_str()), ("nightly", "sum up"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TimerEvent {
    /// The timer's name.
    pub trigger_name: String,
    /// When it ticked, in UTC: `2026-11-23T20:00:00Z`. The same for every attempt at the same tick.
    pub time: String,
    /// The `message` of the manifest.
    pub message: String,
}
