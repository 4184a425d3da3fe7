//! What drivers, shells and tools ask about the server itself.

use bson::{DateTime, RawArrayBuf, RawBson, RawBsonRef, RawDocumentBuf, raw::cstr, rawdoc};

use super::handshake::WIRE_VERSION_MAX;
use crate::args;
use crate::call::Call;
use crate::cursors::as_gauge;
use crate::error::{Code, CommandError, Result};
use crate::roles::Need;
use crate::scram::Mechanism;
use crate::shared::Topology;

/// The version of MongoDB whose commands these are; drivers choose by it what to send.
pub(crate) const VERSION: &str = "8.1.0";

/// `buildInfo`.
pub(crate) fn build_info() -> RawDocumentBuf {
    rawdoc! {
        "version": VERSION,
        "gitVersion": "cloudlet",
        "cloudlet": { "version": env!("CARGO_PKG_VERSION") },
        "modules": [],
        "versionArray": [8, 1, 0, 0],
        "javascriptEngine": "none",
        "openssl": { "running": "none" },
        "bits": 64,
        "debug": false,
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "storageEngines": ["cloudlet"],
    }
}

/// `connectionStatus`.
pub(crate) fn connection_status(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let (mut users, mut roles) = (RawArrayBuf::new(), RawArrayBuf::new());
    if let Some(login) = &call.conn.login {
        users.push(rawdoc! { "user": &*login.user.name, "db": &*login.user.db });
        roles = login.user.shown_roles();
    }
    let mut info = rawdoc! { "authenticatedUsers": users, "authenticatedUserRoles": roles };
    if let Some(show) = body.get("showPrivileges")?
        && args::flag("showPrivileges", show)?
    {
        info.append(cstr!("authenticatedUserPrivileges"), RawArrayBuf::new());
    }
    Ok(rawdoc! { "authInfo": info })
}

/// `whatsmyuri`.
pub(crate) fn whats_my_uri(call: &Call<'_>) -> RawDocumentBuf {
    rawdoc! { "you": &*call.conn.peer }
}

/// The parameters there are, with their values.
fn parameters(call: &Call<'_>) -> RawDocumentBuf {
    let mut mechanisms = RawArrayBuf::new();
    for mechanism in Mechanism::ALL {
        mechanisms.push(mechanism.name());
    }
    let limits = &call.shared.limits;
    let minutes = i32::try_from(limits.session_idle.as_secs() / 60).unwrap_or(i32::MAX);
    let idle = i64::try_from(limits.cursor_idle.as_millis()).unwrap_or(i64::MAX);
    let mut all = rawdoc! {
        "featureCompatibilityVersion": { "version": "8.1" },
        "authenticationMechanisms": mechanisms,
        "enableTestCommands": call.shared.settings.test_commands,
        "requireApiVersion": false,
        "localLogicalSessionTimeoutMinutes": minutes,
        "cursorTimeoutMillis": idle,
        "quiet": false,
        "logLevel": 0,
    };
    let sessions = i64::try_from(limits.sessions_max).unwrap_or(i64::MAX);
    all.append(cstr!("maxSessions"), sessions);
    all
}

/// `getParameter`.
pub(crate) fn get_parameter(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let all = parameters(call);
    match body.iter().next().transpose()? {
        Some((_, RawBsonRef::String("*"))) => return Ok(all),
        Some((_, RawBsonRef::Document(what))) if what.get_bool("allParameters").unwrap_or(false) => {
            return Ok(all);
        }
        _ => {}
    }
    let mut reply = RawDocumentBuf::new();
    let mut args = args::Args::new("getParameter", &body);
    while let Some((name, _)) = args.next()? {
        if let Some(value) = all.get(name)?
            && let Ok(name) = bson::raw::CString::try_from(name)
        {
            reply.append(name, value);
        }
    }
    if reply.is_empty() {
        return Err(CommandError::new(Code::InvalidOptions, "no option found to get"));
    }
    Ok(reply)
}

/// `setParameter`: the few that change nothing that matters are taken at their present value only.
pub(crate) fn set_parameter(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let all = parameters(call);
    let mut args = args::Args::new("setParameter", &body);
    let mut was: Option<RawBson> = None;
    while let Some((name, value)) = args.next()? {
        let Some(now) = all.get(name)? else {
            let message =
                format!("attempted to set unrecognized parameter [{name}], use help:true to see options");
            return Err(CommandError::new(Code::InvalidOptions, message));
        };
        if !matches!(name, "quiet" | "logLevel") && now != value {
            let message = format!("parameter \"{name}\" is set by the node's configuration");
            return Err(CommandError::new(Code::IllegalOperation, message));
        }
        was = Some(now.into());
    }
    let was = was.ok_or_else(|| {
        CommandError::new(
            Code::InvalidOptions,
            "no option found to set, use help:true to see options",
        )
    })?;
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("was"), was);
    Ok(reply)
}

/// `getCmdLineOpts`.
pub(crate) fn command_line(call: &Call<'_>) -> RawDocumentBuf {
    let authorization = if call.shared.settings.authentication {
        "enabled"
    } else {
        "disabled"
    };
    rawdoc! {
        "argv": ["cloudlet"],
        "parsed": { "security": { "authorization": authorization }, "net": { "ipv6": false } },
    }
}

/// `serverStatus`.
pub(crate) fn server_status(call: &Call<'_>) -> RawDocumentBuf {
    let shared = call.shared;
    let uptime = shared.now().saturating_sub(shared.started);
    let open = shared.metrics.connections.get();
    let most = as_gauge(shared.limits.connections_max);
    let process = match shared.settings.topology {
        Topology::Router => "mongos",
        Topology::ReplicaSet { .. } => "mongod",
    };
    let millis = i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX);
    rawdoc! {
        "host": "cloudlet",
        "version": VERSION,
        "process": process,
        "pid": i64::from(std::process::id()),
        "uptime": uptime.as_secs_f64(),
        "uptimeMillis": millis,
        "localTime": DateTime::from_millis(shared.clock.now().millis()),
        "connections": {
            "current": i32::try_from(open).unwrap_or(i32::MAX),
            "available": i32::try_from(most.saturating_sub(open)).unwrap_or(i32::MAX),
            "totalCreated": i64::try_from(shared.metrics.connections_total.get()).unwrap_or(i64::MAX),
        },
        "logicalSessionRecordCache": {
            "activeSessionsCount": i32::try_from(shared.sessions.count()).unwrap_or(i32::MAX),
        },
        "metrics": { "cursor": { "open": { "total": as_gauge(shared.cursors.count()) } } },
        "storageEngine": { "name": "cloudlet", "supportsCommittedReads": true, "persistent": true, "readOnly": false },
        "maxWireVersion": WIRE_VERSION_MAX,
    }
}

/// `hostInfo`.
pub(crate) fn host_info(call: &Call<'_>) -> RawDocumentBuf {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    rawdoc! {
        "system": {
            "currentTime": DateTime::from_millis(call.shared.clock.now().millis()),
            "hostname": "cloudlet",
            "cpuAddrSize": 64,
            "numCores": i32::try_from(cores).unwrap_or(i32::MAX),
            "cpuArch": std::env::consts::ARCH,
        },
        "os": { "type": std::env::consts::OS, "name": std::env::consts::OS, "version": "" },
        "extra": {},
    }
}

/// `getLog`: logs are the node's; here there are none.
pub(crate) fn get_log(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    match body.get("getLog")? {
        Some(RawBsonRef::String("*")) => Ok(rawdoc! { "names": ["global", "startupWarnings"] }),
        Some(RawBsonRef::String("global" | "startupWarnings")) => {
            Ok(rawdoc! { "totalLinesWritten": 0, "log": [] })
        }
        Some(RawBsonRef::String(name)) => Err(CommandError::new(
            Code::IllegalOperation,
            format!("No log named '{name}'"),
        )),
        _ => Err(CommandError::new(
            Code::TypeMismatch,
            "Argument to getLog must be of type String",
        )),
    }
}

/// `top`: time by collection is not kept.
pub(crate) fn top() -> RawDocumentBuf {
    rawdoc! { "totals": { "note": "all times in microseconds" } }
}

/// `currentOp`: the commands at work, those that the other fields match as a filter.
pub(crate) fn current_op(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let mut own = false;
    let mut filter = RawDocumentBuf::new();
    let mut args = args::Args::new("currentOp", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "$ownOps" => own = args::flag(name, value)?,
            "$all" | "$truncateOps" => {
                args::flag(name, value)?;
            }
            name => {
                // A name that was read has no NUL.
                if let Ok(name) = <&bson::raw::CStr>::try_from(name) {
                    filter.append(name, value);
                }
            }
        }
    }
    let mut all = operations(call, !own)?;
    cloudlet_data::retain_matching(&filter, &mut all)?;
    let mut told = RawArrayBuf::new();
    all.into_iter().for_each(|operation| told.push(operation));
    Ok(rawdoc! { "inprog": told })
}

/// The commands at work, of everybody or of the caller only.
///
/// # Errors
/// `Unauthorized` when the caller may not see those of others.
pub(super) fn operations(call: &Call<'_>, of_everybody: bool) -> Result<Vec<RawDocumentBuf>> {
    if of_everybody {
        call.require(Need::Monitor, "admin")?;
    }
    let user = call.user();
    let which = |owner: Option<&str>| of_everybody || owner == user.as_deref();
    Ok(call.shared.operations.list(call.shared.now(), which))
}

/// `killOp`: ends a command at work, as soon as it looks. Anybody may end their own.
pub(crate) fn kill_op(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    if &*call.db != "admin" {
        return Err(CommandError::new(
            Code::Unauthorized,
            "killOp may only be run against the admin database.",
        ));
    }
    let mut id = None;
    let mut args = args::Args::new("killOp", &body);
    while let Some((name, value)) = args.next()? {
        match name {
            "op" => id = Some(args::integer("killOp.op", value)?),
            name => return Err(args.unknown(name)),
        }
    }
    let id = id.ok_or_else(|| args::missing("killOp", "op"))?;
    let id = i32::try_from(id).map_err(|_| {
        CommandError::new(
            Code::BadValue,
            format!("invalid op : {id}. Op ID cannot be represented with 32 bits"),
        )
    })?;
    let user = call.user();
    let all = call.may(Need::Cluster, "admin");
    let may = |owner: Option<&str>| all || (owner.is_some() && owner == user.as_deref());
    call.shared.operations.kill(id, may)?;
    Ok(rawdoc! { "info": "attempting to kill op" })
}
