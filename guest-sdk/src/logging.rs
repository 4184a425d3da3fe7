//! The `log` crate's records, sent to the node's log.
//!
//! `log::info!` and its sisters work in every handler; nothing has to be set up. Levels below the node's are dropped
//! by the node. Standard output and error reach the log as well, line by line.
//!
//! What is given by name goes to the log as fields, which `cloudlet logs --json` and the admin API tell apart:
//!
//! ```
//! # let (room, nights) = (101, 2);
//! log::info!(room, nights; "checked in");
//! ```

/// Makes the node's log the target of the `log` crate. The entry points call it.
#[cfg(feature = "log")]
pub(crate) fn install() {
    struct NodeLog;

    impl log::Log for NodeLog {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            use crate::bindings::imports::wasi::logging::logging::{self as wit, Level};
            let level = match record.level() {
                log::Level::Error => Level::Error,
                log::Level::Warn => Level::Warn,
                log::Level::Info => Level::Info,
                log::Level::Debug => Level::Debug,
                log::Level::Trace => Level::Trace,
            };
            if let Some(message) = structured(record) {
                return wit::log(level, record.target(), &message);
            }
            match record.args().as_str() {
                Some(message) => wit::log(level, record.target(), message),
                None => wit::log(level, record.target(), &record.args().to_string()),
            }
        }

        fn flush(&self) {}
    }

    // It fails when the function has installed a logger of its own, which then stays, or on the next request of an
    // instance that is used again.
    if log::set_logger(&NodeLog).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

/// The message of a record with fields: a JSON object, which the node takes apart.
#[cfg(feature = "log")]
fn structured(record: &log::Record<'_>) -> Option<String> {
    use serde_json::{Map, Value};

    struct Fields(Map<String, Value>);

    impl<'k> log::kv::VisitSource<'k> for Fields {
        fn visit_pair(
            &mut self,
            key: log::kv::Key<'k>,
            value: log::kv::Value<'k>,
        ) -> Result<(), log::kv::Error> {
            let field = (value.to_bool().map(Value::from))
                .or_else(|| value.to_i64().map(Value::from))
                .or_else(|| value.to_u64().map(Value::from))
                .or_else(|| value.to_f64().map(Value::from))
                .unwrap_or_else(|| Value::from(value.to_string()));
            self.0.insert(key.as_str().to_owned(), field);
            Ok(())
        }
    }

    if record.key_values().count() == 0 {
        return None;
    }
    let mut fields = Fields(Map::new());
    // It fails only when the visitor does.
    let _ = record.key_values().visit(&mut fields);
    fields
        .0
        .insert("message".to_owned(), record.args().to_string().into());
    Some(Value::Object(fields.0).to_string())
}

/// Without the feature `log` nothing is installed.
#[cfg(not(feature = "log"))]
pub(crate) fn install() {}

#[cfg(all(test, feature = "log"))]
mod tests {
    use super::structured;

    #[test]
    fn what_is_given_by_name_becomes_fields() {
        let fields: &[(&str, log::kv::Value<'_>)] = &[
            ("room", 101.into()),
            ("paid", true.into()),
            ("price", 1.5.into()),
            ("guest", "Ada \"A\"".into()),
        ];
        let told = |fields: &[(&str, log::kv::Value<'_>)]| {
            structured(
                &log::Record::builder()
                    .args(format_args!("checked in"))
                    .key_values(&fields)
                    .build(),
            )
        };
        let message: serde_json::Value =
            serde_json::from_str(&told(fields).expect("there are fields")).expect("it is JSON");
        let expected = serde_json::json!({
            "message": "checked in", "room": 101, "paid": true, "price": 1.5, "guest": "Ada \"A\"",
        });
        assert_eq!(message, expected);
        assert_eq!(told(&[]), None);
    }
}
