//! Password hashes: argon2id with 19 MiB, two passes, one lane (OWASP's first choice), kept as PHC strings, so that
//! the cost can be raised later without losing anybody. Computed on blocking threads, a bounded number at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use cloudlet_base::Entropy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// Memory of one hash, KiB. Tests use less: they check what is done with hashes, not how hard they are.
const MEMORY_KIB: u32 = if cfg!(test) { 64 } else { 19 * 1024 };

/// Passes over the memory.
const PASSES: u32 = 2;

/// Lanes.
const LANES: u32 = 1;

/// Callers that may wait for each permit; beyond, they are told to come again. At some 30 ms a hash nobody waits
/// much longer than half a second.
const WAITING_PER_PERMIT: usize = 16;

/// Shortest and longest password, bytes.
pub(crate) const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=256;

/// What an unknown user's password is checked against, so that the answer takes as long: a hash of the real cost
/// that no password is known for. Its salt and output are arbitrary.
fn decoy() -> String {
    const SALT: &str = "c29tZSBhcmJpdHJhcnkgc2FsdA";
    const OUTPUT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${SALT}${OUTPUT}")
}

/// The hashing service. Its bounds are its own: password work never takes more than its permits.
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Passwords {
    pub(crate) fn new(permits: usize) -> Self {
        let permits = permits.max(1);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            waiting: AtomicUsize::new(0),
            waiting_max: permits.saturating_mul(WAITING_PER_PERMIT),
        }
    }

    /// A new hash of `password`.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub(crate) async fn hash(&self, password: &str, entropy: &dyn Entropy) -> Result<String, Error> {
        let permit = self.permit().await?;
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let password = password.to_owned();
        blocking(permit, move || {
            let hash: PasswordHash = argon2()?
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map_err(|error| Error::Internal(format!("cannot hash a password: {error}")))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one of `stored`; takes as long when nothing is stored, and is false then.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already; [`Error::Internal`] when the stored hash is corrupt.
    pub(crate) async fn verify(&self, password: &str, stored: Option<String>) -> Result<bool, Error> {
        let permit = self.permit().await?;
        let password = password.to_owned();
        blocking(permit, move || {
            let is_known = stored.is_some();
            let text = stored.unwrap_or_else(decoy);
            let hash = PasswordHash::new(&text).map_err(|_| Error::corrupt("a password hash"))?;
            Ok(argon2()?.verify_password(password.as_bytes(), &hash).is_ok() && is_known)
        })
        .await
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let _place = Place::take(self)?;
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| Error::Internal("password hashing has stopped".into()))
    }
}

/// A place in the queue, given back also when the caller goes away.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(passwords: &'a Passwords) -> Result<Self, Error> {
        let place = Self(&passwords.waiting);
        if passwords.waiting.fetch_add(1, Ordering::Relaxed) >= passwords.waiting_max {
            return Err(Error::Busy { retry_after_s: 1 });
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work` on a blocking thread. The permit goes with it: a caller that goes away frees nothing early.
async fn blocking<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(move || {
        let out = work();
        drop(permit);
        out
    });
    task.await
        .map_err(|_| Error::Internal("password hashing was interrupted".into()))?
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| Error::Internal(format!("argon2 parameters: {error}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use cloudlet_base::OsEntropy;

    use super::*;

    #[tokio::test]
    async fn hashes_verify_and_are_salted() {
        let passwords = Passwords::new(2);
        let first = passwords.hash("correct horse", &OsEntropy).await.unwrap();
        let second = passwords.hash("correct horse", &OsEntropy).await.unwrap();
        assert!(
            first.starts_with("$argon2id$v=19$m=") && first != second,
            "{first}"
        );
        assert!(
            passwords
                .verify("correct horse", Some(first.clone()))
                .await
                .unwrap()
        );
        assert!(!passwords.verify("correct hors", Some(first)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert!(
            passwords
                .verify("x", Some("$argon2id$broken".into()))
                .await
                .is_err()
        );
    }

    #[test]
    fn the_decoy_parses_and_costs_the_same() {
        let text = decoy();
        let decoy = PasswordHash::new(&text).unwrap();
        let hash: PasswordHash = argon2().unwrap().hash_password_with_salt(b"x", &[7; 16]).unwrap();
        assert_eq!(decoy.params, hash.params);
        assert_eq!(decoy.hash.unwrap().len(), hash.hash.unwrap().len());
    }

    #[tokio::test]
    async fn a_crowd_is_told_to_come_again() {
        let passwords = Passwords::new(1);
        let _busy = passwords.permits.clone().acquire_owned().await.unwrap();
        let mut waiting: Vec<_> = (0..16).map(|_| Box::pin(passwords.verify("x", None))).collect();
        for future in &mut waiting {
            assert!(futures_poll(future.as_mut()).is_pending());
        }
        assert!(matches!(
            passwords.verify("x", None).await,
            Err(Error::Busy { retry_after_s: 1 })
        ));
        waiting.pop();
        assert!(futures_poll(Box::pin(passwords.verify("x", None)).as_mut()).is_pending());
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
