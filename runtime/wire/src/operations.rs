//! The commands at work: what `currentOp` lists, and `killOp` ends. There are no more of them than connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{DateTime, RawArrayBuf, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use cloudlet_base::CancelFlag;
use tokio::sync::Notify;

use crate::conn::Conn;
use crate::error::{Code, CommandError};
use crate::frame::Request;
use crate::shared::Shared;
use crate::verb::Verb;

/// Most bytes of a command that is listed whole; of a longer one its name and target are.
const SHOWN_BYTES_MAX: usize = 1024;

/// The commands at work.
#[derive(Default)]
pub(crate) struct Operations {
    last: AtomicI32,
    running: Mutex<BTreeMap<i32, Arc<Operation>>>,
}

/// A command at work.
pub(crate) struct Operation {
    id: i32,
    op: &'static str,
    ns: String,
    command: RawDocumentBuf,
    conn: i32,
    client: String,
    app_name: Option<String>,
    /// `db.user`; none when authentication is off, and before a login.
    user: Option<(Arc<str>, String, String)>,
    began: Duration,
    began_at: DateTime,
    cancel: CancelFlag,
    killed: AtomicBool,
    /// Told when it is killed, for what waits without looking at the flag.
    told: Notify,
}

/// A command's place in the list, which it leaves when this is dropped.
pub(crate) struct Running<'o> {
    all: &'o Operations,
    pub(crate) operation: Arc<Operation>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.all.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.operation.id);
    }
}

impl Operations {
    /// Lists a command that begins. `cancel` is what its work looks at.
    pub(crate) fn begin<'o>(
        &'o self,
        shared: &Shared,
        conn: &Conn,
        (verb, db): (Verb, &str),
        request: &Request,
        cancel: CancelFlag,
    ) -> Running<'o> {
        let first = request.body.iter().next().and_then(Result::ok);
        let collection = match first {
            _ if verb == Verb::GetMore => request.body.get_str("collection").ok(),
            Some((_, target)) => target.as_str(),
            None => None,
        };
        let operation = Arc::new(Operation {
            id: self.last.fetch_add(1, Ordering::Relaxed) & i32::MAX,
            op: match verb {
                Verb::Find => "query",
                Verb::GetMore => "getmore",
                Verb::Insert => "insert",
                Verb::Update => "update",
                Verb::Delete => "remove",
                _ => "command",
            },
            ns: format!("{db}.{}", collection.unwrap_or("$cmd")),
            command: shown(verb, &request.body),
            conn: conn.id,
            client: conn.peer.clone(),
            app_name: conn.app_name.clone(),
            user: conn.login.as_ref().map(|login| {
                let user = &login.user;
                (login.name.clone(), user.name.clone(), user.db.clone())
            }),
            began: shared.now(),
            began_at: DateTime::from_millis(shared.clock.now().millis()),
            cancel,
            killed: AtomicBool::new(false),
            told: Notify::new(),
        });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(operation.id, operation.clone());
        Running { all: self, operation }
    }

    /// Those of everybody, or of one user.
    pub(crate) fn list(&self, now: Duration, which: impl Fn(Option<&str>) -> bool) -> Vec<RawDocumentBuf> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = running.values().filter(|operation| which(operation.owner()));
        wanted.map(|operation| operation.to_document(now)).collect()
    }

    /// Ends the operation of that number, if there is one that may be ended. It is told as soon as it looks.
    ///
    /// # Errors
    /// `Unauthorized` when it may not.
    pub(crate) fn kill(&self, id: i32, may: impl Fn(Option<&str>) -> bool) -> Result<(), CommandError> {
        let operation = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(&id).cloned()
        };
        let may = may(operation.as_ref().and_then(|operation| operation.owner()));
        if !may {
            return Err(CommandError::new(Code::Unauthorized, "Unauthorized"));
        }
        if let Some(operation) = operation {
            operation.killed.store(true, Ordering::Relaxed);
            operation.cancel.cancel();
            operation.told.notify_one();
        }
        Ok(())
    }
}

impl Operation {
    /// The name of the user whose it is.
    fn owner(&self) -> Option<&str> {
        self.user.as_ref().map(|(name, _, _)| &**name)
    }

    /// Resolves when it is killed. For one waiter at a time.
    pub(crate) async fn ended(&self) {
        while !self.is_killed() {
            self.told.notified().await;
        }
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// The database and the collection that it is about, the latter `$cmd` if it is about none.
    pub(crate) fn namespace(&self) -> (&str, &str) {
        self.ns.split_once('.').unwrap_or((&self.ns, ""))
    }

    /// What the profiler tells of it.
    pub(crate) fn profiled(&self, took: Duration) -> RawDocumentBuf {
        let mut row = rawdoc! {
            "op": self.op,
            "ns": &*self.ns,
            "command": self.command.clone(),
            "millis": i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
            "ts": self.began_at,
            "client": &*self.client,
        };
        if let Some(app_name) = &self.app_name {
            row.append(cstr!("appName"), &**app_name);
        }
        let mut users = RawArrayBuf::new();
        if let Some((_, name, db)) = &self.user {
            row.append(cstr!("user"), format!("{name}@{db}"));
            users.push(rawdoc! { "user": &**name, "db": &**db });
        }
        row.append(cstr!("allUsers"), users);
        row
    }

    fn to_document(&self, now: Duration) -> RawDocumentBuf {
        let ran = now.saturating_sub(self.began);
        let began_at = self.began_at.try_to_rfc3339_string().unwrap_or_default();
        let mut row = rawdoc! {
            "type": "op",
            "desc": format!("conn{}", self.conn),
            "connectionId": self.conn,
            "client": &*self.client,
        };
        if let Some(app_name) = &self.app_name {
            row.append(cstr!("appName"), &**app_name);
        }
        row.append(cstr!("active"), true);
        row.append(cstr!("currentOpTime"), began_at);
        if let Some((_, name, db)) = &self.user {
            let mut users = RawArrayBuf::new();
            users.push(rawdoc! { "user": &**name, "db": &**db });
            row.append(cstr!("effectiveUsers"), users);
        }
        row.append(cstr!("opid"), self.id);
        row.append(
            cstr!("secs_running"),
            i64::try_from(ran.as_secs()).unwrap_or(i64::MAX),
        );
        let micros = i64::try_from(ran.as_micros()).unwrap_or(i64::MAX);
        row.append(cstr!("microsecs_running"), micros);
        row.append(cstr!("op"), self.op);
        row.append(cstr!("ns"), &*self.ns);
        row.append(cstr!("command"), self.command.as_ref());
        if self.is_killed() {
            row.append(cstr!("killPending"), true);
        }
        row
    }
}

/// A command as it is listed: without what is secret, and no longer than may be.
fn shown(verb: Verb, body: &RawDocument) -> RawDocumentBuf {
    let secret = matches!(
        verb,
        Verb::Hello
            | Verb::SaslStart
            | Verb::SaslContinue
            | Verb::Authenticate
            | Verb::CreateUser
            | Verb::UpdateUser
    );
    if !secret && body.as_bytes().len() <= SHOWN_BYTES_MAX {
        return body.to_owned();
    }
    let mut shown = RawDocumentBuf::new();
    if let Some(Ok((name, value))) = body.iter().next() {
        // A name that is no name of a thing may be of any length.
        match value.as_str().filter(|text| text.len() <= SHOWN_BYTES_MAX) {
            Some(text) => shown.append(name, text),
            None => shown.append(name, 1),
        }
    }
    if !secret {
        shown.append(cstr!("$truncated"), true);
    }
    shown
}
