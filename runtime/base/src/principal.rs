//! Who calls. The principal is established once, at the edge, and travels with the request to the function
//! and to the data layer.

use std::sync::Arc;

use crate::AppId;

/// How a user logged in; the names are CloudBase's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginType {
    /// Nobody in particular, but the same nobody from request to request.
    Anonymous,
    /// Username and password.
    Username,
    /// A mini program's `wx.login` code.
    Wechat,
    /// E-mail address or phone number with a code.
    Email,
    /// A ticket signed by the app's own server.
    Custom,
}

impl LoginType {
    /// The name that rules, tokens and functions see.
    pub const fn as_str(self) -> &'static str {
        match self {
            LoginType::Anonymous => "ANONYMOUS",
            LoginType::Username => "USERNAME",
            LoginType::Wechat => "WECHAT_PUBLIC",
            LoginType::Email => "EMAIL",
            LoginType::Custom => "CUSTOM",
        }
    }

    /// The type named by [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Anonymous,
            Self::Username,
            Self::Wechat,
            Self::Email,
            Self::Custom,
        ]
        .into_iter()
        .find(|t| t.as_str() == text)
    }
}

/// A logged-in user of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The app that the user belongs to; a user of one app is nobody in another.
    pub app: AppId,
    /// The user's id within the app.
    pub uid: Arc<str>,
    /// The mini program's id of the user, for users who came through one.
    pub openid: Option<Arc<str>>,
    /// How the user logged in.
    pub login: LoginType,
}

impl User {
    /// The value stamped into `_openid` of what this user creates: the openid, or the uid on the web.
    pub fn owner_id(&self) -> &str {
        self.openid.as_deref().unwrap_or(&self.uid)
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// No credentials were given.
    Public,
    /// A logged-in user, bound by the app's rules.
    User(Arc<User>),
    /// A function of an app, acting with that app's rights.
    Function {
        /// The app.
        app: AppId,
        /// The function's name.
        function: Arc<str>,
    },
    /// The holder of an admin key.
    Admin {
        /// The key's public id, for the audit log.
        key_id: Arc<str>,
    },
}

impl Principal {
    /// The user, when it is one.
    pub fn user(&self) -> Option<&User> {
        match self {
            Principal::User(user) => Some(user),
            _ => None,
        }
    }

    /// Whether rules bind this caller. They bind clients only: functions and admin keys pass.
    pub fn bound_by_rules(&self) -> bool {
        matches!(self, Principal::Public | Principal::User(_))
    }
}
