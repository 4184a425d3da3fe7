//! `wasi:keyvalue`, in both drafts that are in use: the same stores, with different cursors and numbers; the second one
//! has compare-and-swap as well.

use wasmtime::component::Resource;

use super::{Failure, View};
use crate::bindings::standards::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use crate::keyvalue::{Cas, Keys, Store, Versions};
use cloudlet_base::Fault;

/// The label of the store that a component gets which names none.
const DEFAULT: &str = "default";

/// What the drafts have in common; the methods that differ are given.
macro_rules! draft {
    ($draft:ident, { $($list_keys:tt)* }) => {
        impl $draft::store::Host for View<'_> {
            async fn open(&mut self, identifier: String) -> Result<Resource<Store>, Failure> {
                self.open_bucket(&identifier)
            }

            fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<$draft::store::Error> {
                use $draft::store::Error;
                match failure {
                    Failure::Told { kind: Fault::Denied, .. } => Ok(Error::AccessDenied),
                    Failure::Told { message, .. } => Ok(Error::Other(message)),
                    Failure::Trap(error) => Err(error),
                }
            }
        }

        impl $draft::store::HostBucket for View<'_> {
            async fn get(&mut self, this: Resource<Store>, key: String) -> Result<Option<Vec<u8>>, Failure> {
                self.table.get(&this)?.get(&key).await
            }

            async fn set(&mut self, this: Resource<Store>, key: String, value: Vec<u8>) -> Result<(), Failure> {
                let versions = self.versions();
                self.table.get(&this)?.set(vec![(key, value)], &versions).await
            }

            async fn delete(&mut self, this: Resource<Store>, key: String) -> Result<(), Failure> {
                self.table.get(&this)?.delete(vec![key]).await
            }

            async fn exists(&mut self, this: Resource<Store>, key: String) -> Result<bool, Failure> {
                self.table.get(&this)?.exists(&key).await
            }

            $($list_keys)*

            async fn drop(&mut self, this: Resource<Store>) -> wasmtime::Result<()> {
                self.table.delete(this)?;
                Ok(())
            }
        }

        impl $draft::batch::Host for View<'_> {
            async fn get_many(
                &mut self,
                this: Resource<Store>,
                keys: Vec<String>,
            ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
                self.table.get(&this)?.get_many(keys).await
            }

            async fn set_many(
                &mut self,
                this: Resource<Store>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> Result<(), Failure> {
                let versions = self.versions();
                self.table.get(&this)?.set(pairs, &versions).await
            }

            async fn delete_many(&mut self, this: Resource<Store>, keys: Vec<String>) -> Result<(), Failure> {
                self.table.get(&this)?.delete(keys).await
            }
        }
    };
}

draft!(draft, {
    async fn list_keys(
        &mut self,
        this: Resource<Store>,
        cursor: Option<u64>,
    ) -> Result<draft::store::KeyResponse, Failure> {
        let store = self.table.get_mut(&this)?;
        let (Keys { keys, more }, next) = store.keys_from(cursor.unwrap_or(0)).await?;
        Ok(draft::store::KeyResponse {
            keys,
            cursor: more.then_some(next),
        })
    }
});

draft!(draft2, {
    async fn list_keys(
        &mut self,
        this: Resource<Store>,
        cursor: Option<String>,
    ) -> Result<draft2::store::KeyResponse, Failure> {
        let store = self.table.get(&this)?;
        let Keys { keys, more } = store.keys_after(cursor.as_deref()).await?;
        let cursor = keys.last().filter(|_| more).cloned();
        Ok(draft2::store::KeyResponse { keys, cursor })
    }
});

impl draft::atomics::Host for View<'_> {
    async fn increment(&mut self, this: Resource<Store>, key: String, delta: u64) -> Result<u64, Failure> {
        let by = i64::try_from(delta).map_err(|_| Failure::limit(format!("{delta} is more than 63 bits")))?;
        let versions = self.versions();
        let sum = self.table.get(&this)?.increment(&key, by, &versions).await?;
        u64::try_from(sum).map_err(|_| {
            Failure::invalid(format!(
                "key {key:?} is now {sum}, which this draft has no number for; use wasi:keyvalue@0.2.0-draft2"
            ))
        })
    }
}

impl draft2::atomics::Host for View<'_> {
    async fn increment(&mut self, this: Resource<Store>, key: String, delta: i64) -> Result<i64, Failure> {
        let versions = self.versions();
        self.table.get(&this)?.increment(&key, delta, &versions).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::atomics::CasError>> {
        use draft2::atomics::CasError;
        let swapped = match self.table.delete(cas) {
            Ok(cas) => cas.swap(self.run, value).await,
            Err(error) => Err(error.into()),
        };
        let failure = match swapped {
            Ok(None) => return Ok(Ok(())),
            Ok(Some(now)) => match self.table.push(now) {
                Ok(now) => return Ok(Err(CasError::CasFailed(now))),
                Err(error) => error.into(),
            },
            Err(failure) => failure,
        };
        let error = draft2::store::Host::convert_error(self, failure)?;
        Ok(Err(CasError::StoreError(error)))
    }
}

impl draft2::atomics::HostCas for View<'_> {
    async fn new(&mut self, this: Resource<Store>, key: String) -> Result<Resource<Cas>, Failure> {
        let cas = Cas::new(self.run, self.table.get(&this)?, key).await?;
        Ok(self.table.push(cas)?)
    }

    async fn current(&mut self, this: Resource<Cas>) -> Result<Option<Vec<u8>>, Failure> {
        self.table.get(&this)?.current()
    }

    async fn drop(&mut self, this: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl<'a> View<'a> {
    /// Opens a store by its label; the empty one is the default's, as `wasmtime serve` has it.
    fn open_bucket(&mut self, identifier: &str) -> Result<Resource<Store>, Failure> {
        let label = match identifier {
            "" => DEFAULT,
            label => label,
        };
        let store = Store::open(self.run, label).ok_or_else(|| Failure::denied("not granted"))?;
        Ok(self.table.push(store)?)
    }

    pub(super) fn versions(&self) -> Versions<'a> {
        Versions(&*self.run.app.shared.entropy)
    }
}
