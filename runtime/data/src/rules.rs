//! Permission rules: who may read or write what. Rules bind clients only.

/// The rule of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rule {
    /// All read, the creator writes.
    ReadOnly,
    /// The creator reads and writes.
    Private,
    /// All read, admins write.
    AdminWrite,
    /// Admins only: the rule of every collection that has none.
    #[default]
    AdminOnly,
}
