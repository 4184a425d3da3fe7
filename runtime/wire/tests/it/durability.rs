//! Acknowledged means on disk: the process is killed, and everything that was answered is there again.

use bson::{Document, RawDocumentBuf, doc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::bytes;
use crate::harness::Mongod;

async fn command(stream: &mut TcpStream, command: Document) -> Document {
    let body = bytes(&command);
    let mut message = Vec::new();
    for word in [body.len() as i32 + 21, 1, 0, 2013, 0] {
        message.extend(word.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    stream.write_all(&message).await.unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut reply = vec![0; i32::from_le_bytes(length) as usize - 4];
    stream.read_exact(&mut reply).await.unwrap();
    Document::try_from(RawDocumentBuf::from_bytes(reply[17..].to_vec()).unwrap()).unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::TempDir::new().unwrap();
    let args = ["--dir", dir.path().to_str().unwrap()];
    let server = Mongod::start(&args);
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    for n in 0..20 {
        let insert = doc! { "insert": "c", "documents": [{ "_id": n }], "$db": "db" };
        let reply = command(&mut stream, insert).await;
        assert_eq!(reply.get_i32("n").unwrap(), 1);
    }
    // Dropping kills it, without a word.
    drop(server);
    let server = Mongod::start(&args);
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let reply = command(&mut stream, doc! { "count": "c", "$db": "db" }).await;
    assert_eq!(reply.get_i32("n").unwrap(), 20);
    drop(stream);
    server.stop();
}
