//! The service over a model database, with the time in the test's hand.

use cloudlet_base::{ManualClock, OsEntropy};
use cloudlet_data::testing::{MemoryDocuments, embedded};
use cloudlet_data::{Find, Namespace};

use super::*;

const DEVICE: &str = "a-device-id-of-32-random-letters";

struct Bench {
    auth: Auth,
    documents: Arc<dyn Documents>,
    clock: Arc<ManualClock>,
}

impl Bench {
    async fn new(documents: Arc<dyn Documents>) -> Self {
        let clock = Arc::new(ManualClock::at_millis(1_700_000_000_000));
        let auth = open(&documents, &clock).await;
        Self {
            auth,
            documents,
            clock,
        }
    }

    /// One over the model, one over the engine.
    async fn both() -> [Self; 2] {
        [
            Self::new(MemoryDocuments::new()).await,
            Self::new(embedded()).await,
        ]
    }

    /// The service as after a restart of the node.
    async fn reopen(&mut self) {
        self.auth = open(&self.documents, &self.clock).await;
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Everything stored in a collection, as text.
    async fn dump(&self, database: &str, collection: &str) -> String {
        let ns = Namespace::new(database, collection);
        format!(
            "{:?}",
            self.documents
                .find(&ns, Find::default(), Deadline::NEVER)
                .await
                .unwrap()
                .documents
        )
    }
}

async fn open(documents: &Arc<dyn Documents>, clock: &Arc<ManualClock>) -> Auth {
    Auth::open(
        documents.clone(),
        AuthConfig::default(),
        clock.clone(),
        Arc::new(OsEntropy),
    )
    .await
    .unwrap()
}

fn hotel() -> AppId {
    "hotel".parse().unwrap()
}

fn other() -> AppId {
    "other".parse().unwrap()
}

fn li() -> NewUser {
    NewUser {
        username: "li".into(),
        password: "correct horse".into(),
        name: Some("Li Lei".into()),
    }
}

fn invalid<T: fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::InvalidToken(_))), "{result:?}");
}

#[tokio::test]
async fn anonymous_users_come_back_by_device() {
    for mut t in Bench::both().await {
        let first = t.auth.sign_in_anonymously(&hotel(), Some(DEVICE)).await.unwrap();
        let again = t.auth.sign_in_anonymously(&hotel(), Some(DEVICE)).await.unwrap();
        assert_eq!(first.uid, again.uid);
        assert_ne!(first.refresh_token, again.refresh_token);
        for (app, device) in [(hotel(), None), (hotel(), Some("short")), (other(), Some(DEVICE))] {
            assert_ne!(
                t.auth.sign_in_anonymously(&app, device).await.unwrap().uid,
                first.uid
            );
        }
        assert!(
            first.uid.len() >= 24 && first.uid.starts_with('u'),
            "{}",
            first.uid
        );
        assert!(!t.dump("hotel/system", "users").await.contains(DEVICE));
        t.reopen().await;
        assert_eq!(
            t.auth
                .sign_in_anonymously(&hotel(), Some(DEVICE))
                .await
                .unwrap()
                .uid,
            first.uid
        );
        let user = t.auth.user(&hotel(), &first.uid).await.unwrap();
        assert_eq!((user.login, user.username), (LoginType::Anonymous, None));
        assert_eq!(first.expires_in_s, 7200);
    }
}

#[tokio::test]
async fn access_tokens_name_the_user_and_are_good_for_one_app_and_a_time() {
    for mut t in Bench::both().await {
        let tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let Principal::User(user) = t.auth.verify_access(&hotel(), &tokens.access_token).unwrap() else {
            panic!()
        };
        assert_eq!(
            (&user.uid, user.login, &user.app),
            (&tokens.uid, LoginType::Anonymous, &hotel())
        );
        invalid(t.auth.verify_access(&other(), &tokens.access_token));
        invalid(t.auth.verify_access(&hotel(), &tokens.refresh_token));
        let foreign = Bench::new(MemoryDocuments::new())
            .await
            .auth
            .sign_in_anonymously(&hotel(), None)
            .await
            .unwrap();
        invalid(t.auth.verify_access(&hotel(), &foreign.access_token));
        t.reopen().await;
        t.pass(7199);
        assert!(t.auth.verify_access(&hotel(), &tokens.access_token).is_ok());
        t.pass(1);
        assert!(matches!(
            t.auth.verify_access(&hotel(), &tokens.access_token),
            Err(Error::ExpiredToken)
        ));
    }
}

#[tokio::test]
async fn passwords_log_in_and_names_are_unique_within_an_app() {
    for mut t in Bench::both().await {
        let made = t.auth.sign_up(&hotel(), li()).await.unwrap();
        assert_eq!(
            (made.username.as_deref(), made.name.as_deref()),
            (Some("li"), Some("Li Lei"))
        );
        assert!(matches!(
            t.auth.sign_up(&hotel(), li()).await,
            Err(Error::UsernameTaken(_))
        ));
        assert_ne!(t.auth.sign_up(&other(), li()).await.unwrap().uid, made.uid);
        t.reopen().await;
        let tokens = t
            .auth
            .sign_in_with_password(&hotel(), "li", "correct horse")
            .await
            .unwrap();
        assert_eq!((&tokens.uid, tokens.login), (&made.uid, LoginType::Username));
        for (username, password) in [
            ("li", "correct hors"),
            ("lu", "correct horse"),
            ("", ""),
            ("LI", "correct horse"),
        ] {
            let refused = t.auth.sign_in_with_password(&hotel(), username, password).await;
            assert!(matches!(refused, Err(Error::WrongPassword)), "{username}");
        }
        let anonymous = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let refused = t.auth.sign_in_with_password(&hotel(), &anonymous.uid, "").await;
        assert!(matches!(refused, Err(Error::WrongPassword)));
        assert!(!t.dump("hotel/system", "users").await.contains("correct horse"));
    }
}

#[tokio::test]
async fn guessing_is_slowed_down_for_known_and_unknown_names_alike() {
    for t in Bench::both().await {
        t.auth.sign_up(&hotel(), li()).await.unwrap();
        for name in ["li", "nobody"] {
            for _ in 0..6 {
                let refused = t.auth.sign_in_with_password(&hotel(), name, "guess guess").await;
                assert!(matches!(refused, Err(Error::WrongPassword)));
            }
            let refused = t
                .auth
                .sign_in_with_password(&hotel(), name, "correct horse")
                .await;
            assert!(
                matches!(refused, Err(Error::Busy { retry_after_s: 1..=2 })),
                "{refused:?}"
            );
        }
        t.pass(2);
        assert!(
            t.auth
                .sign_in_with_password(&hotel(), "li", "correct horse")
                .await
                .is_ok()
        );
    }
}

#[tokio::test]
async fn refresh_tokens_rotate() {
    for mut t in Bench::both().await {
        let mut tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        for _ in 0..3 {
            t.pass(3600);
            let next = t.auth.refresh(&hotel(), &tokens.refresh_token).await.unwrap();
            assert_ne!(next.refresh_token, tokens.refresh_token);
            assert_eq!((&next.uid, next.login), (&tokens.uid, tokens.login));
            assert!(t.auth.verify_access(&hotel(), &next.access_token).is_ok());
            tokens = next;
            t.reopen().await;
        }
        let secret = tokens.refresh_token.rsplit('_').next().unwrap();
        assert!(!t.dump("hotel/system", "sessions").await.contains(secret));
        invalid(t.auth.refresh(&other(), &tokens.refresh_token).await);
        invalid(t.auth.refresh(&hotel(), &tokens.access_token).await);
        t.pass(30 * 24 * 3600);
        assert!(matches!(
            t.auth.refresh(&hotel(), &tokens.refresh_token).await,
            Err(Error::ExpiredToken)
        ));
        t.pass(1);
        assert_eq!(t.auth.sweep(&hotel()).await.unwrap(), 1);
        invalid(t.auth.refresh(&hotel(), &tokens.refresh_token).await);
    }
}

#[tokio::test]
async fn the_same_refresh_within_the_grace_gives_the_same_token() {
    for t in Bench::both().await {
        let tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let (hotel, old) = (hotel(), &tokens.refresh_token);
        let (a, b) = futures_join(t.auth.refresh(&hotel, old), t.auth.refresh(&hotel, old)).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.refresh_token, b.refresh_token);
        t.pass(9);
        assert_eq!(
            t.auth.refresh(&hotel, old).await.unwrap().refresh_token,
            a.refresh_token
        );
        assert!(t.auth.refresh(&hotel, &a.refresh_token).await.is_ok());
    }
}

async fn futures_join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}

#[tokio::test]
async fn a_refresh_token_used_twice_ends_the_session() {
    for mut t in Bench::both().await {
        let stolen = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let bystander = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let fresh = t.auth.refresh(&hotel(), &stolen.refresh_token).await.unwrap();
        t.pass(11);
        invalid(t.auth.refresh(&hotel(), &stolen.refresh_token).await);
        for _ in 0..2 {
            invalid(t.auth.refresh(&hotel(), &fresh.refresh_token).await);
            invalid(t.auth.verify_access(&hotel(), &fresh.access_token));
            invalid(t.auth.verify_access(&hotel(), &stolen.access_token));
            assert!(t.auth.verify_access(&hotel(), &bystander.access_token).is_ok());
            t.reopen().await;
        }
    }
}

#[tokio::test]
async fn a_guess_at_a_session_does_not_end_it() {
    for t in Bench::both().await {
        let tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        let sid = tokens.refresh_token.split('_').nth(1).unwrap();
        let guess = format!("cr_{sid}_{}_{}", "a".repeat(26), "a".repeat(52));
        invalid(t.auth.refresh(&hotel(), &guess).await);
        invalid(t.auth.revoke(&hotel(), &guess).await);
        assert!(t.auth.refresh(&hotel(), &tokens.refresh_token).await.is_ok());
    }
}

#[tokio::test]
async fn revocation_holds_at_once_and_over_a_restart() {
    for mut t in Bench::both().await {
        for by_access in [true, false] {
            let tokens = t.auth.sign_in_anonymously(&hotel(), Some(DEVICE)).await.unwrap();
            let token = if by_access {
                &tokens.access_token
            } else {
                &tokens.refresh_token
            };
            invalid(t.auth.revoke(&other(), token).await);
            assert!(t.auth.verify_access(&hotel(), &tokens.access_token).is_ok());
            t.auth.revoke(&hotel(), token).await.unwrap();
            for _ in 0..2 {
                invalid(t.auth.verify_access(&hotel(), &tokens.access_token));
                invalid(t.auth.refresh(&hotel(), &tokens.refresh_token).await);
                t.reopen().await;
            }
        }
        t.pass(7202);
        t.reopen().await;
        assert_eq!(t.dump("/node", "revoked").await, "[]");
    }
}

#[tokio::test]
async fn an_expired_access_token_still_logs_out() {
    for t in Bench::both().await {
        let tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
        t.pass(8000);
        t.auth.revoke(&hotel(), &tokens.access_token).await.unwrap();
        invalid(t.auth.refresh(&hotel(), &tokens.refresh_token).await);
    }
}

#[tokio::test]
async fn admin_keys_are_shown_once_and_hold_over_a_restart() {
    for mut t in Bench::both().await {
        let key = t.auth.create_admin_key("laptop").await.unwrap();
        t.pass(1);
        let second = t.auth.create_admin_key("ci").await.unwrap();
        let parts: Vec<&str> = key.split('_').collect();
        assert!(parts.len() == 3 && parts[0] == "ck", "{key}");
        for _ in 0..2 {
            assert_eq!(
                t.auth.verify_admin_key(&key).unwrap(),
                Principal::Admin {
                    key_id: parts[1].into()
                }
            );
            let listed: Vec<_> = t.auth.admin_keys().into_iter().map(|key| key.label).collect();
            assert_eq!(listed, ["laptop", "ci"]);
            t.reopen().await;
        }
        let other_secret = format!("ck_{}_{}", parts[1], second.rsplit('_').next().unwrap());
        for bad in [
            "",
            "ck_",
            "ck__",
            "ck_x_y",
            &other_secret,
            &key[..key.len() - 1],
            &format!("{key}x"),
            &"a".repeat(9999),
        ] {
            invalid(t.auth.verify_admin_key(bad));
        }
        assert!(!t.dump("/node", "admin_keys").await.contains(parts[2]));
        assert!(t.auth.delete_admin_key(parts[1]).await.unwrap());
        assert!(!t.auth.delete_admin_key(parts[1]).await.unwrap());
        invalid(t.auth.verify_admin_key(&key));
        assert!(t.auth.verify_admin_key(&second).is_ok());
        assert!(matches!(
            t.auth.create_admin_key("a\nb").await,
            Err(Error::Invalid(_))
        ));
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing() {
    let model = MemoryDocuments::new();
    let t = Bench::new(model.clone()).await;
    let tokens = t.auth.sign_in_anonymously(&hotel(), None).await.unwrap();
    model.set_writes_fail(true);
    assert!(matches!(
        t.auth.refresh(&hotel(), &tokens.refresh_token).await,
        Err(Error::Database(_))
    ));
    assert!(matches!(
        t.auth.revoke(&hotel(), &tokens.access_token).await,
        Err(Error::Database(_))
    ));
    assert!(t.auth.verify_access(&hotel(), &tokens.access_token).is_ok());
    model.set_writes_fail(false);
    assert!(t.auth.refresh(&hotel(), &tokens.refresh_token).await.is_ok());
}

#[tokio::test]
async fn the_signing_key_is_kept() {
    for mut t in Bench::both().await {
        let jwks = t.auth.jwks();
        t.reopen().await;
        assert_eq!(t.auth.jwks(), jwks);
    }
}
