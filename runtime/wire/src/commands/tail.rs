//! Tailable cursors that await data: a `find` that stays at the end of a capped collection, and the getMores that wait
//! there as those of change streams do.

use bson::RawDocumentBuf;
use cloudlet_data::{Cursor, Namespace, Page};

use super::{changes, reply};
use crate::call::Call;
use crate::cursors::Rest;
use crate::error::{Code, CommandError, Result};
use crate::roles::Need;

/// Replies with the first page of such a find, which waits for nothing.
pub(crate) fn first_page(call: &Call<'_>, ns: &Namespace, page: Page) -> Result<RawDocumentBuf> {
    if call.transaction.is_some() {
        return Err(CommandError::new(
            Code::OperationNotSupportedInTransaction,
            "a cursor in a transaction can't await data",
        ));
    }
    let id = match page.cursor {
        Some(cursor) => reply::keep(call, ns, Rest::Tail(cursor), false)?,
        None => 0,
    };
    Ok(reply::first_batch(id, &ns.to_string(), &page.documents, None))
}

/// The next documents, waited for as long as the command says. The command makes room for another while it waits.
///
/// # Errors
/// The cursor's; `Unauthorized` when the caller may not read any more; that something else ended the waiting.
///
/// # Cancel safety
/// Dropping the future loses the cursor's place: it is to be forgotten.
pub(crate) async fn next(
    call: &mut Call<'_>,
    id: i64,
    cursor: Cursor,
    batch: Option<u32>,
    killed: tokio::sync::oneshot::Receiver<()>,
) -> Result<Page> {
    call.require(Need::Read, &call.db)?;
    let (wait, deadline) = changes::waiting(call);
    let page = call.shared.documents.tail(cursor, batch, wait, deadline);
    changes::unless_ended(call, id, killed, page).await
}
