//! MongoDB's built-in roles, and what each allows where.

/// What a command asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: the commands of the handshake.
    Nothing,
    /// To be logged in.
    Login,
    /// To read the database.
    Read,
    /// To change its documents, collections and indexes.
    Write,
    /// To look after it: statistics, validation, dropping it whole.
    Admin,
    /// To manage its users.
    Users,
    /// To see how the node does.
    Monitor,
    /// To change how the node does.
    Cluster,
}

/// A role granted on a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) role: Role,
    pub(crate) db: String,
}

macro_rules! roles {
    ($($name:ident = $text:literal, $admin_only:literal;)*) => {
        /// A built-in role.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Role { $($name),* }

        impl Role {
            const ALL: &'static [Role] = &[$(Role::$name),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Role::$name => $text),* }
            }

            /// Whether it can only be granted on `admin`.
            fn admin_only(self) -> bool {
                match self { $(Role::$name => $admin_only),* }
            }
        }
    };
}

roles! {
    Read = "read", false;
    ReadWrite = "readWrite", false;
    DbAdmin = "dbAdmin", false;
    UserAdmin = "userAdmin", false;
    DbOwner = "dbOwner", false;
    ReadAny = "readAnyDatabase", true;
    ReadWriteAny = "readWriteAnyDatabase", true;
    DbAdminAny = "dbAdminAnyDatabase", true;
    UserAdminAny = "userAdminAnyDatabase", true;
    ClusterMonitor = "clusterMonitor", true;
    ClusterAdmin = "clusterAdmin", true;
    Backup = "backup", true;
    Restore = "restore", true;
    Root = "root", true;
}

impl Grant {
    /// The grant of a role by name on a database; `None` when there is no such role there.
    pub(crate) fn parse(role: &str, db: &str) -> Option<Self> {
        let role = Role::ALL.iter().copied().find(|known| known.name() == role)?;
        (!role.admin_only() || db == "admin").then(|| Self {
            role,
            db: db.to_owned(),
        })
    }

    /// Whether it allows something on every database.
    pub(crate) fn allows_everywhere(&self, need: Need) -> bool {
        self.role.admin_only() && self.allows(need, &self.db)
    }

    /// Whether it allows something on a database.
    pub(crate) fn allows(&self, need: Need, db: &str) -> bool {
        let here = self.db == db;
        match self.role {
            Role::Root => true,
            Role::Read => here && need == Need::Read,
            Role::ReadWrite => here && matches!(need, Need::Read | Need::Write),
            Role::DbAdmin => here && need == Need::Admin,
            Role::UserAdmin => here && need == Need::Users,
            Role::DbOwner => here && matches!(need, Need::Read | Need::Write | Need::Admin | Need::Users),
            Role::ReadAny => need == Need::Read,
            Role::ReadWriteAny => matches!(need, Need::Read | Need::Write),
            Role::DbAdminAny => need == Need::Admin,
            Role::UserAdminAny => need == Need::Users,
            Role::ClusterMonitor => need == Need::Monitor,
            Role::ClusterAdmin => matches!(need, Need::Monitor | Need::Cluster | Need::Admin),
            Role::Backup => matches!(need, Need::Read | Need::Monitor),
            Role::Restore => matches!(need, Need::Write | Need::Admin | Need::Users),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_hold_where_they_were_given() {
        let check = |role: &str, db: &str, need: Need, on: &str, expected: bool| {
            let grant = Grant::parse(role, db).unwrap();
            assert_eq!(grant.allows(need, on), expected, "{role}@{db} {need:?} on {on}");
        };
        check("read", "a", Need::Read, "a", true);
        check("read", "a", Need::Read, "b", false);
        check("read", "a", Need::Write, "a", false);
        check("readWrite", "a", Need::Write, "a", true);
        check("readWrite", "a", Need::Users, "a", false);
        check("readWrite", "admin", Need::Write, "a", false);
        check("dbAdmin", "a", Need::Read, "a", false);
        check("dbOwner", "a", Need::Users, "a", true);
        check("readAnyDatabase", "admin", Need::Read, "b", true);
        check("readAnyDatabase", "admin", Need::Write, "b", false);
        check("clusterMonitor", "admin", Need::Cluster, "admin", false);
        check("root", "admin", Need::Cluster, "b", true);
        assert_eq!(Grant::parse("root", "a"), None);
        assert_eq!(Grant::parse("king", "admin"), None);
    }
}
