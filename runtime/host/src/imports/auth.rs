//! `cloudlet:auth/identity`: who calls.

use cloudlet_base::{LoginType, Principal};

use super::View;
use crate::bindings::cloudlet::auth::identity;

impl identity::Host for View<'_> {
    fn caller(&mut self) -> wasmtime::Result<identity::Principal> {
        Ok(match &self.run.invocation.principal {
            Principal::Public => identity::Principal::Public,
            Principal::User(user) => identity::Principal::User(identity::User {
                uid: user.uid.to_string(),
                openid: user.openid.as_deref().map(str::to_owned),
                login: match user.login {
                    LoginType::Anonymous => identity::LoginType::Anonymous,
                    LoginType::Username => identity::LoginType::Username,
                    LoginType::Wechat => identity::LoginType::Wechat,
                    LoginType::Email => identity::LoginType::Email,
                    LoginType::Custom => identity::LoginType::Custom,
                },
            }),
            Principal::Function { function, .. } => identity::Principal::Function(function.to_string()),
            Principal::Admin { key_id } => identity::Principal::Admin(key_id.to_string()),
        })
    }

    fn request_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.run.invocation.request.to_string())
    }

    fn app(&mut self) -> wasmtime::Result<String> {
        Ok(self.run.app.app.to_string())
    }
}
