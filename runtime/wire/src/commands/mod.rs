//! What each command does. Each is a function from a [`Call`] to its reply, without the `ok` that all replies end
//! with.

mod aggregate;
mod bulk;
mod catalog;
mod changes;
mod collection;
mod diagnostics;
mod explain;
mod handshake;
mod indexes;
mod login;
mod profile;
mod query;
mod reply;
mod search;
mod session;
mod stats;
mod tail;
mod user;
mod write;

use bson::RawDocumentBuf;

use crate::call::Call;
use crate::error::{Code, CommandError, Result};
use crate::verb::Verb;

/// Carries out a command whose caller may send it.
///
/// # Errors
/// The command's own, as drivers see them.
pub(crate) async fn run(verb: Verb, call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    match verb {
        Verb::Hello => handshake::hello(call).await,
        Verb::Ping => Ok(RawDocumentBuf::new()),
        Verb::BuildInfo => Ok(diagnostics::build_info()),
        Verb::SaslStart => login::start(call).await,
        Verb::SaslContinue => login::go_on(call).await,
        Verb::Authenticate => Err(login::authenticate(call)),
        Verb::Logout => Ok(login::logout(call)),
        Verb::ConnectionStatus => diagnostics::connection_status(call),
        Verb::WhatsMyUri => Ok(diagnostics::whats_my_uri(call)),
        Verb::Find => query::find(call).await,
        Verb::GetMore => query::get_more(call).await,
        Verb::KillCursors => query::kill_cursors(call),
        Verb::Count => query::count(call).await,
        Verb::Distinct => query::distinct(call).await,
        Verb::Aggregate => aggregate::aggregate(call).await,
        Verb::Explain => explain::explain(call).await,
        Verb::Insert => write::insert(call).await,
        Verb::Update => write::update(call).await,
        Verb::Delete => write::delete(call).await,
        Verb::FindAndModify => write::find_and_modify(call).await,
        Verb::BulkWrite => bulk::bulk_write(call).await,
        Verb::Create => collection::create(call).await,
        Verb::CollMod => collection::modify(call).await,
        Verb::ConvertToCapped => collection::convert_to_capped(call).await,
        Verb::Drop => catalog::drop_collection(call).await,
        Verb::DropDatabase => catalog::drop_database(call).await,
        Verb::RenameCollection => catalog::rename(call).await,
        Verb::ListCollections => catalog::list_collections(call).await,
        Verb::ListDatabases => catalog::list_databases(call).await,
        Verb::CreateIndexes => indexes::create(call).await,
        Verb::ListIndexes => indexes::list(call).await,
        Verb::DropIndexes => indexes::drop_indexes(call).await,
        Verb::SearchIndexes => search::refused(),
        Verb::DbStats => stats::db_stats(call).await,
        Verb::CollStats => stats::coll_stats(call).await,
        Verb::Validate => stats::validate(call).await,
        Verb::StartSession => Ok(session::start(call)),
        Verb::RefreshSessions => session::refresh(call),
        Verb::EndSessions | Verb::KillSessions => session::end(call),
        Verb::KillAllSessions | Verb::KillAllSessionsByPattern => Ok(session::end_all(call)),
        Verb::CommitTransaction | Verb::AbortTransaction => Err(CommandError::new(
            Code::NoSuchTransaction,
            "no transaction is named: the command comes with lsid, txnNumber and autocommit: false",
        )),
        Verb::CreateUser => user::create(call).await,
        Verb::UpdateUser => user::update(call).await,
        Verb::DropUser => user::drop_user(call).await,
        Verb::DropAllUsers => user::drop_all(call).await,
        Verb::GrantRoles => user::change_roles(call, true).await,
        Verb::RevokeRoles => user::change_roles(call, false).await,
        Verb::UsersInfo => user::info(call).await,
        Verb::GetParameter => diagnostics::get_parameter(call),
        Verb::SetParameter => diagnostics::set_parameter(call),
        Verb::GetCmdLineOpts => Ok(diagnostics::command_line(call)),
        Verb::ServerStatus => Ok(diagnostics::server_status(call)),
        Verb::HostInfo => Ok(diagnostics::host_info(call)),
        Verb::GetLog => diagnostics::get_log(call),
        Verb::Top => Ok(diagnostics::top()),
        Verb::CurrentOp => diagnostics::current_op(call),
        Verb::KillOp => diagnostics::kill_op(call),
        Verb::Profile => profile::profile(call).await,
        Verb::CheckMetadata => catalog::check_metadata(call).await,
        Verb::Fsync => stats::fsync(call),
        Verb::ConfigureFailPoint => {
            if !call.shared.settings.test_commands {
                return Err(CommandError::new(
                    Code::CommandNotFound,
                    "no such command: 'configureFailPoint'",
                ));
            }
            let body = call.take_body();
            call.shared.fail_point.configure(&body)?;
            Ok(RawDocumentBuf::new())
        }
    }
}
