//! The first word of a connection: what the listener says it is and can do.

use bson::{DateTime, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};

use super::login;
use crate::args;
use crate::call::Call;
use crate::compress::Compressor;
use crate::error::{Code, CommandError, Result};
use crate::scram::Mechanism;
use crate::shared::Topology;

/// Largest document, bytes.
const DOCUMENT_BYTES_MAX: i32 = 16 * 1024 * 1024;
/// Most documents in a batch.
const BATCH_MAX: i32 = 100_000;
/// The newest wire version spoken: that of MongoDB 8.1, which has `bulkWrite` and tells what kind of thing was made.
pub(crate) const WIRE_VERSION_MAX: i32 = 26;
/// Most bytes of what a client tells about itself.
const METADATA_BYTES_MAX: usize = 512;

/// `hello` and its older names.
pub(crate) async fn hello(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    if let Some(RawBsonRef::Document(client)) = body.get("client")? {
        if client.as_bytes().len() > METADATA_BYTES_MAX {
            return Err(CommandError::new(
                Code::BadValue,
                format!("the client's metadata document is larger than {METADATA_BYTES_MAX} bytes"),
            ));
        }
        remember_client(call, client);
    }
    let mut reply = RawDocumentBuf::new();
    reply.append(cstr!("helloOk"), true);
    reply.append(cstr!("isWritablePrimary"), true);
    reply.append(cstr!("ismaster"), true);
    let now = DateTime::from_millis(call.shared.clock.now().millis());
    match &call.shared.settings.topology {
        Topology::Router => reply.append(cstr!("msg"), "isdbgrid"),
        Topology::ReplicaSet { name, address } => {
            let mut hosts = RawArrayBuf::new();
            hosts.push(&**address);
            reply.append(cstr!("setName"), &**name);
            reply.append(cstr!("setVersion"), 1);
            reply.append(cstr!("secondary"), false);
            reply.append(cstr!("hosts"), hosts);
            reply.append(cstr!("primary"), &**address);
            reply.append(cstr!("me"), &**address);
            reply.append(cstr!("lastWrite"), rawdoc! { "lastWriteDate": now });
        }
    }
    let limits = &call.shared.limits;
    reply.append(cstr!("maxBsonObjectSize"), DOCUMENT_BYTES_MAX);
    let bytes_max = i32::try_from(limits.message_bytes_max).unwrap_or(i32::MAX);
    reply.append(cstr!("maxMessageSizeBytes"), bytes_max);
    reply.append(cstr!("maxWriteBatchSize"), BATCH_MAX);
    reply.append(cstr!("localTime"), now);
    let minutes = i32::try_from(limits.session_idle.as_secs() / 60).unwrap_or(i32::MAX);
    reply.append(cstr!("logicalSessionTimeoutMinutes"), minutes);
    reply.append(cstr!("connectionId"), call.conn.id);
    reply.append(cstr!("minWireVersion"), 0);
    reply.append(cstr!("maxWireVersion"), WIRE_VERSION_MAX);
    reply.append(cstr!("readOnly"), false);
    if let Some(wanted) = body.get("compression")? {
        reply.append(cstr!("compression"), agree(args::array("compression", wanted)?)?);
    }
    if let Some(who) = body.get("saslSupportedMechs")? {
        let mechanisms = mechanisms_of(call, args::text("saslSupportedMechs", who)?).await?;
        reply.append(cstr!("saslSupportedMechs"), mechanisms);
    }
    if let Some(RawBsonRef::Document(start)) = body.get("speculativeAuthenticate")?
        && let Some(begun) = login::speculate(call, start).await
    {
        reply.append(cstr!("speculativeAuthenticate"), begun);
    }
    Ok(reply)
}

fn remember_client(call: &mut Call<'_>, client: &RawDocument) {
    let name = client.get_document("application").ok();
    let name = name.and_then(|application| application.get_str("name").ok());
    call.conn.app_name = name.map(ToOwned::to_owned);
}

/// Those of the wanted compressors that are spoken here, in the order wanted.
fn agree(wanted: &bson::RawArray) -> Result<RawArrayBuf> {
    let mut agreed = RawArrayBuf::new();
    for name in wanted {
        let name = args::text("compression", name?)?;
        if Compressor::OFFERED.iter().any(|offered| offered.name() == name) {
            agreed.push(name);
        }
    }
    Ok(agreed)
}

/// The mechanisms of a user; all of them for one that does not exist, so that asking tells nothing.
async fn mechanisms_of(call: &Call<'_>, who: &str) -> Result<RawArrayBuf> {
    let (db, name) = who.split_once('.').ok_or_else(|| {
        CommandError::new(Code::BadValue, "saslSupportedMechs names a user as DATABASE.NAME")
    })?;
    let mut shown = RawArrayBuf::new();
    match call.shared.users.get(db, name).await? {
        Some(user) => user
            .credentials
            .iter()
            .for_each(|(mechanism, _)| shown.push(mechanism.name())),
        None => Mechanism::ALL
            .iter()
            .for_each(|mechanism| shown.push(mechanism.name())),
    }
    Ok(shown)
}
