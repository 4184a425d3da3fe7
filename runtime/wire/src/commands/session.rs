//! startSession, refreshSessions, endSessions, killSessions, killAllSessions.

use bson::{RawDocumentBuf, rawdoc};

use crate::args;
use crate::call::Call;
use crate::error::Result;
use crate::sessions::SessionId;
use crate::users::uuid;

/// `startSession`.
pub(crate) fn start(call: &mut Call<'_>) -> RawDocumentBuf {
    let mut id = [0; 16];
    call.shared.entropy.fill(&mut id);
    // Version 4, variant 1, as random UUIDs are.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let minutes = call.shared.limits.session_idle.as_secs() / 60;
    rawdoc! {
        "id": { "id": uuid(id) },
        "timeoutMinutes": i32::try_from(minutes).unwrap_or(i32::MAX),
    }
}

fn ids(call: &mut Call<'_>) -> Result<Vec<SessionId>> {
    let body = call.take_body();
    let user = call.user();
    let Some((_, list)) = body.iter().next().transpose()? else {
        return Ok(Vec::new());
    };
    args::documents(&call.name, list)?
        .iter()
        .map(|id| SessionId::parse(id, user.clone()))
        .collect()
}

/// `refreshSessions`.
pub(crate) fn refresh(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    for id in ids(call)? {
        let shared = call.shared;
        shared
            .sessions
            .touch(&id, shared.now(), &shared.limits, &shared.metrics)?;
    }
    Ok(RawDocumentBuf::new())
}

/// `endSessions` and `killSessions`.
pub(crate) fn end(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let ids = ids(call)?;
    let which = |id: &SessionId| ids.contains(id);
    call.shared.cursors.kill_of_sessions(which, &call.shared.metrics);
    call.shared.sessions.end(which, &call.shared.metrics);
    Ok(RawDocumentBuf::new())
}

/// `killAllSessions`, of whoever they are.
pub(crate) fn end_all(call: &mut Call<'_>) -> RawDocumentBuf {
    call.shared
        .cursors
        .kill_of_sessions(|_| true, &call.shared.metrics);
    call.shared.sessions.end(|_| true, &call.shared.metrics);
    RawDocumentBuf::new()
}
