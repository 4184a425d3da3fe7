//! Every bound, met: the error names the limit, and what was within it goes on.

use std::time::Duration;

use bson::doc;
use cloudlet_wire::{Limits, Settings, Wire};

use crate::client::{Client, insert, open_to_all, wire};

fn limited(limits: Limits) -> Settings {
    Settings {
        limits,
        ..open_to_all()
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let wire = wire(limited(limits)).await;
    let mut first = Client::connect(&wire);
    first.ok(doc! { "ping": 1, "$db": "db" }).await;
    let mut second = Client::connect(&wire);
    let reply = second.run(doc! { "ping": 1, "$db": "db" }).await;
    assert!(reply.get_str("errmsg").unwrap().contains("connections_max"));
    assert_eq!(second.reply().await, None);
    first.ok(doc! { "ping": 1, "$db": "db" }).await;
}

#[tokio::test]
async fn cursors_and_sessions_are_bounded() {
    let limits = Limits {
        cursors_max: 1,
        sessions_max: 0,
        ..Limits::default()
    };
    let mut client = Client::connect(&wire(limited(limits)).await);
    client.ok(insert(vec![doc! {}, doc! {}, doc! {}])).await;
    let find = doc! { "find": "c", "batchSize": 1, "$db": "db" };
    client.ok(find.clone()).await;
    let reply = client.run(find).await;
    assert!(
        reply.get_str("errmsg").unwrap().contains("cursors_max"),
        "{reply}"
    );
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![1; 16],
    };
    let reply = client
        .run(doc! { "count": "c", "lsid": { "id": id }, "$db": "db" })
        .await;
    assert!(
        reply.get_str("errmsg").unwrap().contains("sessions_max"),
        "{reply}"
    );
}

#[tokio::test]
async fn messages_are_bounded_each_and_together() {
    let limits = Limits {
        message_bytes_max: 100_000,
        buffered_bytes_max: 30_000,
        ..Limits::default()
    };
    let wire = wire(limited(limits)).await;
    let mut client = Client::connect(&wire);
    let reply = client
        .run(insert(vec![doc! { "text": "x".repeat(40_000) }]))
        .await;
    assert!(
        reply.get_str("errmsg").unwrap().contains("buffered_bytes_max"),
        "{reply}"
    );
    client.ok(insert(vec![doc! { "text": "x".repeat(20_000) }])).await;
    // What is longer than any message ends the connection before it is read.
    client
        .send(0, &insert(vec![doc! { "text": "x".repeat(200_000) }]), &[])
        .await;
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn strangers_send_little_and_soon() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let wire = wire(Settings {
        limits,
        ..Settings::default()
    })
    .await;
    let mut silent = Client::connect(&wire);
    assert_eq!(silent.reply().await, None);
    let mut long = Client::connect(&wire);
    long.send(0, &doc! { "ping": "x".repeat(70_000), "$db": "db" }, &[])
        .await;
    assert_eq!(long.reply().await, None);
}

#[tokio::test]
async fn time_is_bounded() {
    let limits = Limits {
        command_time_max: Duration::ZERO,
        ..Limits::default()
    };
    let mut client = Client::connect(&wire(limited(limits)).await);
    assert_eq!(client.code(insert(vec![doc! {}])).await, 50);
}

/// Tries to log in with a wrong proof; gives the code of the refusal.
async fn guess(wire: &Wire, user: &str) -> i32 {
    let mut client = Client::connect(wire);
    let payload = |text: &str| bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    };
    let first = payload(&format!("n,,n={user},r=abcdefgh"));
    let begun = client
        .ok(doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": first, "$db": "app" })
        .await;
    let id = begun.get_i32("conversationId").unwrap();
    let proof = payload("c=biws,r=abcdefgh,p=AAAA");
    client
        .code(doc! { "saslContinue": 1, "conversationId": id, "payload": proof, "$db": "app" })
        .await
}

#[tokio::test]
async fn who_guesses_passwords_is_not_listened_to_any_more() {
    let limits = Limits {
        login_failures_free: 2,
        login_delay_first: Duration::from_secs(3600),
        login_delay_max: Duration::from_secs(3600),
        ..Limits::default()
    };
    let wire = wire(Settings {
        limits,
        ..Settings::default()
    })
    .await;
    wire.set_user("app", "ann", "right", &["read"]).await.unwrap();
    for user in ["ann", "nobody"] {
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(guess(&wire, user).await);
        }
        assert_eq!(codes, [18, 18, 18, 462], "{user}");
    }
}
