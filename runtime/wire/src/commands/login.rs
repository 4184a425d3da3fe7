//! Logging in and out: the steps of a SASL conversation.

use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc, spec::BinarySubtype};

use crate::args;
use crate::call::Call;
use crate::conn::{Login, PendingLogin};
use crate::error::{Code, CommandError, Result};
use crate::metrics::Limit;
use crate::scram::{ClientFirst, Exchange, Mechanism, nonce_bytes};
use crate::throttle::{self, TooMany};

/// The one answer to whatever is wrong with a login.
fn failed(call: &mut Call<'_>) -> CommandError {
    call.conn.exchange = None;
    call.shared.metrics.authentication(false);
    CommandError::new(Code::AuthenticationFailed, "Authentication failed.")
}

/// `saslStart`.
pub(crate) async fn start(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let db = call.db.to_string();
    begin(call, &body, &db).await
}

/// `authenticate`, the older login, by a certificate: none is taken here.
pub(crate) fn authenticate(call: &mut Call<'_>) -> CommandError {
    let body = call.take_body();
    let mechanism = body.get_str("mechanism").unwrap_or_default();
    let message = format!("Received authentication for mechanism {mechanism} which is not enabled");
    CommandError::new(Code::MechanismUnavailable, message)
}

/// The `saslStart` that a handshake brings along. Its failure is no failure of the handshake.
pub(crate) async fn speculate(call: &mut Call<'_>, start: &RawDocument) -> Option<RawDocumentBuf> {
    let db = start.get_str("db").unwrap_or("admin").to_owned();
    begin(call, start, &db).await.ok()
}

async fn begin(call: &mut Call<'_>, start: &RawDocument, db: &str) -> Result<RawDocumentBuf> {
    let mechanism = start
        .get("mechanism")?
        .and_then(RawBsonRef::as_str)
        .unwrap_or_default();
    let Some(mechanism) = Mechanism::from_name(mechanism) else {
        let message = format!("mechanism \"{mechanism}\" is not offered; SCRAM-SHA-256 and SCRAM-SHA-1 are");
        return Err(CommandError::new(Code::BadValue, message));
    };
    let skip_empty = match start.get("options")? {
        Some(RawBsonRef::Document(options)) => options.get_bool("skipEmptyExchange").unwrap_or(false),
        _ => false,
    };
    let Some(first) = payload(start)?.as_deref().and_then(ClientFirst::parse) else {
        return Err(failed(call));
    };
    let shared = call.shared;
    let generation = shared.users.generation();
    let user = shared.users.get(db, &first.user).await?;
    let credential = shared.users.credential(user.as_ref(), db, &first.user, mechanism);
    let mut random = [0; nonce_bytes()];
    shared.entropy.fill(&mut random);
    let (exchange, reply) = Exchange::begin(mechanism, &first, credential, &random);
    call.conn.conversations = call.conn.conversations.wrapping_add(1);
    let conversation = call.conn.conversations;
    call.conn.exchange = Some(PendingLogin {
        conversation,
        exchange,
        keys: throttle::Key::of(&call.conn.peer, db, &first.user),
        user,
        generation,
        proven: false,
        skip_empty,
    });
    Ok(step(conversation, false, reply.as_bytes()))
}

/// `saslContinue`.
pub(crate) async fn go_on(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let conversation = match body.get("conversationId")? {
        Some(id) => args::integer("conversationId", id)?,
        None => return Err(args::missing("saslContinue", "conversationId")),
    };
    let Some(mut pending) = call.conn.exchange.take() else {
        return Err(CommandError::new(
            Code::IllegalOperation,
            "no SASL session is under way",
        ));
    };
    if i64::from(pending.conversation) != conversation {
        return Err(failed(call));
    }
    if pending.proven {
        log_in(call, pending);
        return Ok(step(call.conn.conversations, true, b""));
    }
    slow_down(call, &pending.keys).await?;
    let proof = payload(&body)?
        .as_deref()
        .and_then(|payload| pending.exchange.finish(payload));
    let shared = call.shared;
    let (Some(proof), true) = (proof, pending.user.is_some()) else {
        shared
            .throttle
            .failed(&pending.keys, shared.now(), &shared.limits);
        return Err(failed(call));
    };
    shared.throttle.succeeded(&pending.keys);
    let conversation = pending.conversation;
    let done = pending.skip_empty;
    if done {
        log_in(call, pending);
    } else {
        pending.proven = true;
        call.conn.exchange = Some(pending);
    }
    Ok(step(conversation, done, proof.as_bytes()))
}

/// Waits as long as the failures before it make a login wait. Who waits holds no place among the commands at work.
///
/// # Errors
/// `TooManyRequests` when that is too long, and the login is not looked at.
async fn slow_down(call: &mut Call<'_>, keys: &[throttle::Key; 2]) -> Result<()> {
    let shared = call.shared;
    match shared.throttle.admit(keys, shared.now(), &shared.limits) {
        Ok(wait) if wait.is_zero() => Ok(()),
        Ok(wait) => {
            shared.metrics.logins_delayed.inc();
            call.permit = None;
            let gone = call.conn.gone.clone();
            let mut stopped = call.conn.stopped.clone();
            tokio::select! {
                () = tokio::time::sleep(wait) => Ok(()),
                () = gone.notified() => Err(CommandError::new(Code::Interrupted, "the client went away")),
                _ = stopped.wait_for(|stop| *stop) => Err(CommandError::new(
                    Code::InterruptedAtShutdown,
                    "the node is being stopped",
                )),
            }
        }
        Err(TooMany) => {
            shared.metrics.refused(Limit::LoginWait);
            call.conn.exchange = None;
            let max = shared.limits.login_wait_max;
            Err(CommandError::new(
                Code::TooManyRequests,
                format!(
                    "too many logins have failed: the next one would have to wait longer than {max:?}, and login_wait_max is that"
                ),
            ))
        }
    }
}

fn log_in(call: &mut Call<'_>, pending: PendingLogin) {
    call.shared.metrics.authentication(true);
    call.conn.login = pending.user.map(|user| Login {
        name: user.full_name().into(),
        user,
        generation: pending.generation,
    });
}

/// `logout`.
pub(crate) fn logout(call: &mut Call<'_>) -> RawDocumentBuf {
    call.conn.login = None;
    call.conn.exchange = None;
    RawDocumentBuf::new()
}

fn payload(body: &RawDocument) -> Result<Option<Vec<u8>>> {
    Ok(match body.get("payload")? {
        Some(RawBsonRef::Binary(binary)) => Some(binary.bytes.to_vec()),
        Some(RawBsonRef::String(text)) => Some(text.as_bytes().to_vec()),
        _ => None,
    })
}

fn step(conversation: i32, done: bool, payload: &[u8]) -> RawDocumentBuf {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: payload.to_vec(),
    };
    rawdoc! { "conversationId": conversation, "done": done, "payload": payload }
}
