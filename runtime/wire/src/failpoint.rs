//! `configureFailPoint`: failures on order, for drivers' tests. Only there when the listener was opened with the
//! test switch.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::args;
use crate::error::{Code, CommandError, Result, is_retryable_write, name_of};
use crate::transactions;
use crate::verb::Verb;

/// Longest time that a fail point may hold a command.
const BLOCK_MAX: Duration = Duration::from_secs(60);

/// When it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    AlwaysOn,
    Times(u64),
    Skip(u64),
}

/// What `failCommand` does to the commands it strikes.
#[derive(Debug, Clone, Default)]
struct FailCommand {
    commands: Vec<String>,
    app_name: Option<String>,
    namespace: Option<String>,
    strike: Strike,
}

/// What happens to one command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strike {
    /// Wait first.
    pub(crate) block: Option<Duration>,
    /// Close the connection without a reply.
    pub(crate) close: bool,
    /// Fail with this.
    pub(crate) error_code: Option<i32>,
    /// Fail a numbered write with this before it is carried out.
    before_commit: Option<i32>,
    /// Labels of the failure; none given means those that the server would give.
    pub(crate) error_labels: Option<Vec<String>>,
    /// Carry the command out, and tell that its write concern failed.
    pub(crate) write_concern_error: Option<RawDocumentBuf>,
}

/// The fail points there are.
pub(crate) struct FailPoint {
    /// `failCommand`.
    command: Mutex<(Mode, FailCommand)>,
    /// `failGetMoreAfterCursorCheckout`: what a getMore fails with that has its cursor already.
    get_more: Mutex<(Mode, FailCommand)>,
    /// `onPrimaryTransactionalWrite`: what a numbered write fails with before or after it is carried out.
    write: Mutex<(Mode, FailCommand)>,
    /// `maxTimeAlwaysTimeOut`: the time of each command that has one is over at once.
    max_time: Mutex<(Mode, FailCommand)>,
}

/// What happens to a numbered write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteStrike {
    /// It is not carried out; and is answered with this code, or the connection closes.
    Before(Option<i32>),
    /// It is carried out, and the connection closes.
    After,
}

impl Default for FailPoint {
    fn default() -> Self {
        Self {
            command: Mutex::new((Mode::Off, FailCommand::default())),
            get_more: Mutex::new((Mode::Off, FailCommand::default())),
            write: Mutex::new((Mode::Off, FailCommand::default())),
            max_time: Mutex::new((Mode::Off, FailCommand::default())),
        }
    }
}

impl Mode {
    /// Counts a command that it is about; true when it strikes.
    fn strikes(&mut self) -> bool {
        match self {
            Mode::Off => return false,
            Mode::AlwaysOn => {}
            Mode::Times(left) => {
                *left -= 1;
                if *left == 0 {
                    *self = Mode::Off;
                }
            }
            Mode::Skip(left) if *left > 0 => {
                *left -= 1;
                return false;
            }
            Mode::Skip(_) => {}
        }
        true
    }
}

impl FailPoint {
    /// Sets one from `{configureFailPoint: "failCommand", mode, data}`.
    ///
    /// # Errors
    /// When it can't be understood; nothing changes then.
    pub(crate) fn configure(&self, body: &RawDocument) -> Result<()> {
        let mut mode = Mode::Off;
        let mut data = FailCommand::default();
        let mut point = &self.command;
        for field in body {
            let (name, value) = field?;
            match name.as_str() {
                "configureFailPoint" => {
                    let name = args::text("configureFailPoint", value)?;
                    point = match name {
                        "failCommand" => &self.command,
                        "failGetMoreAfterCursorCheckout" => &self.get_more,
                        "onPrimaryTransactionalWrite" => &self.write,
                        "maxTimeAlwaysTimeOut" => &self.max_time,
                        name => {
                            let message = format!("failpoint {name} is not known");
                            return Err(CommandError::new(Code::CommandNotSupported, message));
                        }
                    };
                }
                "mode" => mode = parse_mode(value)?,
                "data" => data = parse_data(args::document("data", value)?)?,
                _ => {}
            }
        }
        if std::ptr::eq(point, &self.write) {
            // This one closes unless told otherwise.
            let told = body
                .get_document("data")
                .ok()
                .and_then(|data| data.get("closeConnection").ok()?);
            data.strike.close |= told.is_none();
        }
        *point.lock().unwrap_or_else(PoisonError::into_inner) = (mode, data);
        Ok(())
    }

    /// What happens to a command, counting it.
    pub(crate) fn strike(&self, command: &str, ns: &str, app_name: Option<&str>) -> Option<Strike> {
        let mut state = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        let (mode, data) = &mut *state;
        if !data.commands.iter().any(|named| named == command)
            || data
                .app_name
                .as_deref()
                .is_some_and(|named| Some(named) != app_name)
            || data.namespace.as_deref().is_some_and(|named| named != ns)
        {
            return None;
        }
        mode.strikes().then(|| data.strike.clone())
    }

    /// What happens to a numbered write of so many statements, each of which is counted until it strikes. A write that
    /// it strikes after some statements is carried out as a whole.
    pub(crate) fn strike_write(&self, statements: usize) -> Option<WriteStrike> {
        let mut state = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let (mode, data) = &mut *state;
        if !(0..statements.max(1)).any(|_| mode.strikes()) {
            return None;
        }
        Some(match data.strike.before_commit {
            Some(code) => WriteStrike::Before((!data.strike.close).then_some(code)),
            None => WriteStrike::After,
        })
    }

    /// The failure of a command that has a `maxTimeMS`, if one was ordered.
    pub(crate) fn strike_max_time(&self) -> Option<CommandError> {
        let mut state = self.max_time.lock().unwrap_or_else(PoisonError::into_inner);
        let message = "operation exceeded time limit (as ordered)";
        state
            .0
            .strikes()
            .then(|| CommandError::new(Code::MaxTimeMSExpired, message))
    }

    /// The failure of a getMore that has its cursor, if one was ordered.
    pub(crate) fn strike_get_more(&self) -> Option<CommandError> {
        let mut state = self.get_more.lock().unwrap_or_else(PoisonError::into_inner);
        let (mode, data) = &mut *state;
        mode.strikes().then(|| data.strike.error(false, None))?
    }
}

impl Strike {
    /// The failure that was ordered, if one was, of a write that may be sent again or of a transaction's command.
    pub(crate) fn error(&self, retryable_write: bool, in_transaction: Option<Verb>) -> Option<CommandError> {
        let code = self.error_code?;
        let mut error = CommandError::ordered(code, "Failing command via 'failCommand' failpoint");
        match &self.error_labels {
            Some(labels) => labels.iter().for_each(|label| error.label(label)),
            None if retryable_write && is_retryable_write(code) => {
                error.label(crate::error::RETRYABLE_WRITE_ERROR)
            }
            None if in_transaction.is_some_and(|verb| transactions::is_transient(code, verb)) => {
                error.label(transactions::TRANSIENT);
            }
            None => {}
        }
        Some(error)
    }

    /// The `writeConcernError` that was ordered, with its name filled in.
    pub(crate) fn write_concern_error(&self) -> Option<(RawDocumentBuf, i32)> {
        let ordered = self.write_concern_error.as_ref()?;
        let code = ordered.get("code").ok().flatten();
        let code = code.and_then(|code| args::integer("code", code).ok());
        let code = code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0);
        let mut shown = RawDocumentBuf::new();
        let mut named = false;
        for (name, value) in ordered.iter().flatten() {
            named |= name.as_str() == "codeName";
            if name.as_str() != "errorLabels" {
                shown.append(name, value);
            }
        }
        if !named {
            shown.append(bson::raw::cstr!("codeName"), &*name_of(code));
        }
        Some((shown, code))
    }

    /// Labels that the ordered `writeConcernError` brings along.
    pub(crate) fn write_concern_labels(&self) -> Option<Vec<String>> {
        let labels = self.write_concern_error.as_ref()?.get_array("errorLabels").ok()?;
        texts("errorLabels", labels).ok()
    }
}

fn parse_mode(value: RawBsonRef<'_>) -> Result<Mode> {
    let unknown = || {
        CommandError::new(
            Code::BadValue,
            "mode is \"off\", \"alwaysOn\", {times: n} or {skip: n}",
        )
    };
    match value {
        RawBsonRef::String("off") => Ok(Mode::Off),
        RawBsonRef::String("alwaysOn") => Ok(Mode::AlwaysOn),
        RawBsonRef::Document(mode) => {
            if let Some(times) = mode.get("times")? {
                return Ok(match args::count("mode.times", times)? {
                    0 => Mode::Off,
                    times => Mode::Times(times),
                });
            }
            match mode.get("skip")? {
                Some(skip) => Ok(Mode::Skip(args::count("mode.skip", skip)?)),
                None => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

fn parse_data(data: &RawDocument) -> Result<FailCommand> {
    let mut fail = FailCommand::default();
    let (mut block, mut block_time) = (false, Duration::ZERO);
    for field in data {
        let (name, value) = field?;
        match name.as_str() {
            "failCommands" => fail.commands = texts("failCommands", args::array("failCommands", value)?)?,
            "appName" => fail.app_name = Some(args::text("appName", value)?.to_owned()),
            "namespace" => fail.namespace = Some(args::text("namespace", value)?.to_owned()),
            "closeConnection" => fail.strike.close = args::flag("closeConnection", value)?,
            "errorCode" => {
                let code = args::integer("errorCode", value)?;
                fail.strike.error_code = i32::try_from(code).ok();
            }
            "failBeforeCommitExceptionCode" => {
                let code = args::integer("failBeforeCommitExceptionCode", value)?;
                fail.strike.before_commit = i32::try_from(code).ok();
            }
            "errorLabels" => {
                fail.strike.error_labels = Some(texts("errorLabels", args::array("errorLabels", value)?)?);
            }
            "writeConcernError" => {
                fail.strike.write_concern_error = args::maybe_document("writeConcernError", value)?;
            }
            "blockConnection" => block = args::flag("blockConnection", value)?,
            "blockTimeMS" => {
                block_time = Duration::from_millis(args::count("blockTimeMS", value)?).min(BLOCK_MAX);
            }
            _ => {}
        }
    }
    fail.strike.block = block.then_some(block_time);
    Ok(fail)
}

fn texts(name: &str, array: &RawArray) -> Result<Vec<String>> {
    array
        .into_iter()
        .map(|element| Ok(args::text(name, element?)?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn strikes_writes_before_or_after() {
        let point = FailPoint::default();
        let set = |mode: bson::RawBson, data: RawDocumentBuf| {
            let order =
                rawdoc! { "configureFailPoint": "onPrimaryTransactionalWrite", "mode": mode, "data": data };
            point.configure(&order).unwrap();
        };
        assert_eq!(point.strike_write(1), None);
        set(rawdoc! { "times": 1 }.into(), rawdoc! {});
        assert_eq!(point.strike_write(5), Some(WriteStrike::After));
        assert_eq!(point.strike_write(1), None);
        set(
            rawdoc! { "skip": 2 }.into(),
            rawdoc! { "failBeforeCommitExceptionCode": 1, "closeConnection": false },
        );
        assert_eq!(point.strike_write(2), None);
        assert_eq!(point.strike_write(1), Some(WriteStrike::Before(Some(1))));
        set("alwaysOn".into(), rawdoc! { "failBeforeCommitExceptionCode": 1 });
        assert_eq!(point.strike_write(1), Some(WriteStrike::Before(None)));
        assert!(point.strike("insert", "db.c", None).is_none());
    }

    #[test]
    fn strikes_as_often_as_told() {
        let point = FailPoint::default();
        let struck = |command: &str, app: Option<&str>| point.strike(command, "db.c", app).is_some();
        assert!(!struck("find", None));
        let order = rawdoc! {
            "configureFailPoint": "failCommand",
            "mode": { "times": 2 },
            "data": { "failCommands": ["find", "insert"], "errorCode": 11600, "appName": "x" },
        };
        point.configure(&order).unwrap();
        assert!(!struck("update", Some("x")) && !struck("find", None));
        assert!(struck("find", Some("x")) && struck("insert", Some("x")));
        assert!(!struck("find", Some("x")));
        for bad in [
            rawdoc! { "configureFailPoint": "other", "mode": "off" },
            rawdoc! { "configureFailPoint": "failCommand", "mode": "sometimes" },
            rawdoc! { "configureFailPoint": "failCommand", "mode": { "times": -1 } },
        ] {
            assert!(point.configure(&bad).is_err());
        }
    }
}
