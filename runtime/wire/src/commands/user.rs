//! Users: createUser, updateUser, dropUser and their kin.

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, raw::cstr, rawdoc};

use crate::args::{self, Args};
use crate::call::Call;
use crate::error::{Code, CommandError, Result};
use crate::roles::{Grant, Need};
use crate::scram::Mechanism;
use crate::users::{self, User, not_found, parse_roles};

/// What createUser and updateUser say.
#[derive(Default)]
struct Changes {
    password: Option<String>,
    mechanisms: Option<Vec<Mechanism>>,
    grants: Option<Vec<Grant>>,
    custom_data: Option<RawDocumentBuf>,
}

impl Changes {
    fn parse(call: &Call<'_>, command: &str, body: &bson::RawDocument) -> Result<Self> {
        let mut changes = Self::default();
        let mut args = Args::new(command, body);
        while let Some((name, value)) = args.next()? {
            match name {
                "pwd" => {
                    let password = args::text("pwd", value)?;
                    if password.is_empty() {
                        return Err(CommandError::new(Code::BadValue, "Password cannot be empty"));
                    }
                    changes.password = Some(password.to_owned());
                }
                "roles" => changes.grants = Some(parse_roles(args::array("roles", value)?, &call.db)?),
                "customData" => changes.custom_data = args::maybe_document("customData", value)?,
                "mechanisms" => changes.mechanisms = Some(mechanisms(value)?),
                "digestPassword" => {
                    if !args::flag("digestPassword", value)? {
                        return Err(args.unsupported("digestPassword: false"));
                    }
                }
                "authenticationRestrictions" => {
                    if !args::array(name, value)?.is_empty() {
                        return Err(args.unsupported(name));
                    }
                }
                name => return Err(args.unknown(name)),
            }
        }
        Ok(changes)
    }
}

fn mechanisms(value: RawBsonRef<'_>) -> Result<Vec<Mechanism>> {
    let mut found = Vec::new();
    for name in args::array("mechanisms", value)? {
        let name = args::text("mechanisms", name?)?;
        let mechanism = Mechanism::from_name(name)
            .ok_or_else(|| CommandError::new(Code::BadValue, format!("Unknown auth mechanism '{name}'")))?;
        if !found.contains(&mechanism) {
            found.push(mechanism);
        }
    }
    if found.is_empty() {
        return Err(CommandError::new(
            Code::BadValue,
            "mechanisms field must not be empty",
        ));
    }
    Ok(found)
}

/// The user whom the command's first field names.
fn name_of(call: &Call<'_>, body: &bson::RawDocument) -> Result<String> {
    match body.iter().next().transpose()? {
        Some((_, value)) => Ok(args::text(&call.name, value)?.to_owned()),
        None => Err(args::missing(&call.name, &call.name)),
    }
}

/// Nobody gives what they could not take: who manages the users of one database grants no role on another.
fn may_grant(call: &Call<'_>, grants: &[Grant]) -> Result<()> {
    grants
        .iter()
        .try_for_each(|grant| call.require(Need::Users, &grant.db))
}

/// `createUser`.
pub(crate) async fn create(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let name = name_of(call, &body)?;
    let changes = Changes::parse(call, "createUser", &body)?;
    let password = changes.password.ok_or_else(|| {
        CommandError::new(
            Code::BadValue,
            "Must provide a 'pwd' field for all user documents, except those with '$external' as the user's source db",
        )
    })?;
    let grants = changes
        .grants
        .ok_or_else(|| args::missing("createUser", "roles"))?;
    may_grant(call, &grants)?;
    let shared = call.shared;
    let mechanisms = changes.mechanisms.unwrap_or_else(|| Mechanism::ALL.to_vec());
    let credentials = users::derive(shared.entropy.as_ref(), &name, &password, mechanisms).await?;
    let mut id = [0; 16];
    shared.entropy.fill(&mut id);
    let user = User {
        db: call.db.to_string(),
        name,
        id,
        credentials,
        grants,
        custom_data: changes.custom_data,
    };
    shared.users.create(&user).await?;
    Ok(RawDocumentBuf::new())
}

async fn find(call: &Call<'_>, name: &str) -> Result<User> {
    let user = call.shared.users.get(&call.db, name).await?;
    user.ok_or_else(|| not_found(&call.db, name))
}

/// `updateUser`: by who manages the database's users, or, for a password and custom data, by the user.
pub(crate) async fn update(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let name = name_of(call, &body)?;
    let changes = Changes::parse(call, "updateUser", &body)?;
    let own = call
        .conn
        .login
        .as_ref()
        .is_some_and(|login| login.user.name == name && login.user.db == *call.db);
    if !own || changes.grants.is_some() {
        call.require(Need::Users, &call.db)?;
    }
    let mut user = find(call, &name).await?;
    if let Some(grants) = changes.grants {
        may_grant(call, &grants)?;
        user.grants = grants;
    }
    if let Some(password) = changes.password {
        let kept = || user.credentials.iter().map(|(mechanism, _)| *mechanism).collect();
        let mechanisms = changes.mechanisms.unwrap_or_else(kept);
        user.credentials = users::derive(call.shared.entropy.as_ref(), &name, &password, mechanisms).await?;
    } else if let Some(mechanisms) = changes.mechanisms {
        let had = user.credentials.len();
        user.credentials
            .retain(|(mechanism, _)| mechanisms.contains(mechanism));
        if user.credentials.len() != mechanisms.len() || had < mechanisms.len() {
            return Err(CommandError::new(
                Code::BadValue,
                "mechanisms field must be a subset of previously set mechanisms",
            ));
        }
    }
    if changes.custom_data.is_some() {
        user.custom_data = changes.custom_data;
    }
    call.shared.users.replace(&user).await?;
    Ok(RawDocumentBuf::new())
}

/// `dropUser`.
pub(crate) async fn drop_user(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let name = name_of(call, &body)?;
    if call.shared.users.remove(&call.db, Some(&name)).await? == 0 {
        return Err(not_found(&call.db, &name));
    }
    Ok(RawDocumentBuf::new())
}

/// `dropAllUsersFromDatabase`.
pub(crate) async fn drop_all(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let n = call.shared.users.remove(&call.db, None).await?;
    Ok(rawdoc! { "n": i32::try_from(n).unwrap_or(i32::MAX) })
}

/// `grantRolesToUser` and `revokeRolesFromUser`.
pub(crate) async fn change_roles(call: &mut Call<'_>, grant: bool) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let name = name_of(call, &body)?;
    let roles = body
        .get("roles")?
        .ok_or_else(|| args::missing(&call.name, "roles"))?;
    let roles = parse_roles(args::array("roles", roles)?, &call.db)?;
    may_grant(call, &roles)?;
    let mut user = find(call, &name).await?;
    user.grants.retain(|had| !roles.contains(had));
    if grant {
        user.grants.extend(roles);
    }
    call.shared.users.replace(&user).await?;
    Ok(RawDocumentBuf::new())
}

/// `usersInfo`.
pub(crate) async fn info(call: &mut Call<'_>) -> Result<RawDocumentBuf> {
    let body = call.take_body();
    let Some((_, which)) = body.iter().next().transpose()? else {
        return Err(args::missing("usersInfo", "usersInfo"));
    };
    let mut found = Vec::new();
    match which {
        RawBsonRef::Array(list) => {
            for one in list {
                found.extend(named(call, one?).await?);
            }
        }
        RawBsonRef::Document(which) if which.get("forAllDBs")?.is_some() => {
            call.require(Need::Users, "admin")?;
            found = call.shared.users.list(None).await?;
        }
        one @ (RawBsonRef::String(_) | RawBsonRef::Document(_)) => found.extend(named(call, one).await?),
        _ => {
            call.require(Need::Users, &call.db)?;
            found = call.shared.users.list(Some(&call.db)).await?;
        }
    }
    let privileges = body
        .get("showPrivileges")?
        .map_or(Ok(false), |flag| args::flag("showPrivileges", flag))?;
    let mut shown = RawArrayBuf::new();
    for user in &found {
        let mut row = user.shown();
        if privileges {
            row.append(cstr!("inheritedRoles"), user.shown_roles());
        }
        shown.push(row);
    }
    Ok(rawdoc! { "users": shown })
}

/// The user of a name or `{user, db}`; one may always ask for oneself.
async fn named(call: &Call<'_>, one: RawBsonRef<'_>) -> Result<Option<User>> {
    let (db, name) = match one {
        RawBsonRef::String(name) => (call.db.to_string(), name.to_owned()),
        one => {
            let one = args::document("usersInfo", one)?;
            let part = |name: &str| {
                one.get_str(name).map(ToOwned::to_owned).map_err(|_| {
                    CommandError::new(Code::BadValue, "a user is a name or {user: NAME, db: DATABASE}")
                })
            };
            (part("db")?, part("user")?)
        }
    };
    let own = call
        .conn
        .login
        .as_ref()
        .is_some_and(|login| login.user.name == name && login.user.db == db);
    if !own {
        call.require(Need::Users, &db)?;
    }
    call.shared.users.get(&db, &name).await
}
