//! Permission rules: who may read or write what. Rules bind clients only; functions and admin keys never come here.
//!
//! A [`Rule`] answers two questions: may this caller make this document ([`Rule::create`]), and which existing
//! documents may this caller read, update or delete ([`Rule::on`]: all, none, or those that match a filter). The
//! presets answer from their name alone; rule expressions will answer the same two questions, so that
//! [`Session`](crate::Session), the only caller, stays as it is.

use std::fmt;
use std::str::FromStr;

use bson::{RawDocument, RawDocumentBuf, rawdoc};

/// The field that names a document's creator; only the platform writes it.
pub const OWNER_FIELD: &str = "_openid";

/// The string that a client writes in a query for its own owner id.
pub const OWNER_PLACEHOLDER: &str = "{openid}";

/// The rule of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rule {
    /// All read, also callers who are not logged in; the creator writes.
    ReadOnly,
    /// The creator reads and writes.
    Private,
    /// All read, also callers who are not logged in; admins write.
    AdminWrite,
    /// Admins only: the rule of every collection that has none.
    #[default]
    AdminOnly,
}

/// What a client wants to do with documents that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Find or count them.
    Read,
    /// Change or replace them.
    Update,
    /// Remove them.
    Delete,
}

/// Which of the existing documents a client may act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// All of them.
    Allow,
    /// None: the operation is refused.
    Deny,
    /// Those that match this filter, which is to be ANDed to the caller's.
    Narrow(RawDocumentBuf),
}

impl Rule {
    /// Which documents the client whose owner id is `owner` may do `action` on. `owner` is `None` for a caller
    /// who is not logged in to this app.
    pub fn on(&self, action: Action, owner: Option<&str>) -> Verdict {
        match (self, action) {
            (Rule::ReadOnly | Rule::AdminWrite, Action::Read) => Verdict::Allow,
            (Rule::ReadOnly, Action::Update | Action::Delete) | (Rule::Private, _) => match owner {
                Some(owner) => Verdict::Narrow(rawdoc! { "_openid": owner }),
                None => Verdict::Deny,
            },
            (Rule::AdminWrite, Action::Update | Action::Delete) | (Rule::AdminOnly, _) => Verdict::Deny,
        }
    }

    /// Whether that client may create `document` (as the client sent it, before the owner is stamped on it).
    pub fn create(&self, owner: Option<&str>, document: &RawDocument) -> bool {
        let _ = document; // the presets don't look at it; expressions over `request.data` will
        match self {
            Rule::ReadOnly | Rule::Private => owner.is_some(),
            Rule::AdminWrite | Rule::AdminOnly => false,
        }
    }

    /// The preset's name in a manifest.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Rule::ReadOnly => "READONLY",
            Rule::Private => "PRIVATE",
            Rule::AdminWrite => "ADMINWRITE",
            Rule::AdminOnly => "ADMINONLY",
        }
    }
}

/// A text that is not the name of a preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown rule {0:?}; expected READONLY, PRIVATE, ADMINWRITE or ADMINONLY")]
pub struct UnknownRule(String);

impl FromStr for Rule {
    type Err = UnknownRule;

    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        [Rule::ReadOnly, Rule::Private, Rule::AdminWrite, Rule::AdminOnly]
            .into_iter()
            .find(|rule| rule.as_str() == text)
            .ok_or_else(|| UnknownRule(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_presets() {
        for name in ["READONLY", "PRIVATE", "ADMINWRITE", "ADMINONLY"] {
            assert_eq!(name.parse::<Rule>().unwrap().as_str(), name);
        }
        for bad in ["", "private", "CUSTOM", " PRIVATE"] {
            assert!(
                bad.parse::<Rule>()
                    .unwrap_err()
                    .to_string()
                    .contains("READONLY, PRIVATE"),
                "{bad:?}"
            );
        }
        assert_eq!(Rule::default(), Rule::AdminOnly);
    }

    #[test]
    fn presets_answer_as_cloudbase_does() {
        use Action::{Delete, Read, Update};
        let mine = || Verdict::Narrow(rawdoc! { "_openid": "me" });
        let check = |rule: Rule, user: [Verdict; 3], public: [Verdict; 3], create: bool| {
            for (action, (user, public)) in [Read, Update, Delete]
                .into_iter()
                .zip(user.into_iter().zip(public))
            {
                assert_eq!(rule.on(action, Some("me")), user, "{rule} {action:?} user");
                assert_eq!(rule.on(action, None), public, "{rule} {action:?} public");
            }
            assert_eq!(rule.create(Some("me"), &rawdoc! {}), create, "{rule} create");
            assert!(!rule.create(None, &rawdoc! {}), "{rule} create by nobody");
        };
        use Verdict::{Allow, Deny};
        check(Rule::ReadOnly, [Allow, mine(), mine()], [Allow, Deny, Deny], true);
        check(Rule::Private, [mine(), mine(), mine()], [Deny, Deny, Deny], true);
        check(Rule::AdminWrite, [Allow, Deny, Deny], [Allow, Deny, Deny], false);
        check(Rule::AdminOnly, [Deny, Deny, Deny], [Deny, Deny, Deny], false);
    }
}
