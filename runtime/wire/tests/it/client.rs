//! A client of a few lines over an in-memory stream, for what no driver would send.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use cloudlet_base::{OsEntropy, SystemClock};
use cloudlet_data::Documents;
use cloudlet_wire::{Parts, Settings, Wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;

/// A listener's state over an empty database in memory.
pub(crate) async fn wire(settings: Settings) -> Wire {
    wire_counted(settings, prometheus::Registry::new()).await
}

pub(crate) async fn wire_counted(settings: Settings, registry: prometheus::Registry) -> Wire {
    wire_over(cloudlet_data::testing::embedded(), settings, registry).await
}

/// A listener's state over a database.
pub(crate) async fn wire_over(
    documents: Arc<dyn Documents>,
    settings: Settings,
    registry: prometheus::Registry,
) -> Wire {
    let parts = Parts {
        documents,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(OsEntropy),
        registry,
    };
    Wire::open(parts, settings).await.unwrap()
}

/// Settings without a login.
pub(crate) fn open_to_all() -> Settings {
    Settings {
        authentication: false,
        ..Settings::default()
    }
}

pub(crate) struct Client {
    pub(crate) stream: DuplexStream,
    pub(crate) stop: watch::Sender<bool>,
    requests: i32,
    /// What the next reply is to, if not to the last request.
    expected: Option<i32>,
}

impl Client {
    /// Connects, in memory.
    pub(crate) fn connect(wire: &Wire) -> Self {
        let (stream, other) = tokio::io::duplex(64 * 1024);
        let (stop, stopped) = watch::channel(false);
        let wire = wire.clone();
        tokio::spawn(async move { wire.serve(other, "memory:1".to_owned(), stopped).await });
        Self {
            stream,
            stop,
            requests: 0,
            expected: None,
        }
    }

    /// Sends a command and gives its reply.
    pub(crate) async fn run(&mut self, command: Document) -> Document {
        self.send(0, &command, &[]).await;
        self.reply().await.expect("a reply")
    }

    /// Sends a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: Document) -> impl Future<Output = Document> + '_ {
        let at = std::panic::Location::caller();
        async move {
            let reply = self.run(command).await;
            assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{at}: {reply}");
            reply
        }
    }

    /// Sends a command that must fail; gives its code.
    pub(crate) async fn code(&mut self, command: Document) -> i32 {
        let reply = self.run(command).await;
        assert_eq!(reply.get_f64("ok").ok(), Some(0.0), "{reply}");
        reply.get_i32("code").unwrap()
    }

    /// Sends an OP_MSG with flags and document sequences.
    pub(crate) async fn send(&mut self, flags: u32, command: &Document, sequences: &[(&str, Vec<Document>)]) {
        let mut payload = flags.to_le_bytes().to_vec();
        payload.push(0);
        payload.extend(bytes(command));
        for (name, documents) in sequences {
            let mut section = name.as_bytes().to_vec();
            section.push(0);
            documents
                .iter()
                .for_each(|document| section.extend(bytes(document)));
            payload.push(1);
            payload.extend((section.len() as i32 + 4).to_le_bytes());
            payload.extend(section);
        }
        self.send_raw(2013, &payload).await;
    }

    /// Sends any message.
    pub(crate) async fn send_raw(&mut self, opcode: i32, payload: &[u8]) {
        self.requests += 1;
        let mut message = Vec::new();
        for word in [payload.len() as i32 + 16, self.requests, 0, opcode] {
            message.extend(word.to_le_bytes());
        }
        message.extend(payload);
        // The other side may have closed already; the test finds out when it reads.
        let _ = self.stream.write_all(&message).await;
    }

    /// The next reply; none when the connection was closed.
    pub(crate) async fn reply(&mut self) -> Option<Document> {
        let read = tokio::time::timeout(Duration::from_secs(20), self.read());
        read.await.expect("a reply or an end within 20 s")
    }

    /// The next of several replies, each to the one before, and whether another one follows.
    pub(crate) async fn reply_of_many(&mut self) -> (Document, bool) {
        let read = tokio::time::timeout(Duration::from_secs(20), self.read_flagged());
        let (reply, flags, number) = read.await.expect("a reply within 20 s").expect("a reply");
        let more = flags & 2 != 0;
        // What comes next is to this one, and no request of ours has its number.
        self.expected = more.then_some(number);
        (reply, more)
    }

    async fn read(&mut self) -> Option<Document> {
        Some(self.read_flagged().await?.0)
    }

    async fn read_flagged(&mut self) -> Option<(Document, u32, i32)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).await.ok()?;
        let word = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let expected = self.expected.take().unwrap_or(self.requests);
        assert_eq!(word(8), expected, "the reply is to the last request");
        let number = word(4);
        let mut payload = vec![0; word(0) as usize - 16];
        self.stream.read_exact(&mut payload).await.ok()?;
        let (flags, body) = match word(12) {
            2013 => (
                u32::from_le_bytes(payload[..4].try_into().unwrap()),
                &payload[5..],
            ),
            1 => (0, &payload[20..]),
            other => panic!("opcode {other}"),
        };
        let raw = RawDocumentBuf::from_bytes(body.to_vec()).unwrap();
        Some((Document::try_from(raw).unwrap(), flags, number))
    }
}

pub(crate) fn bytes(document: &Document) -> Vec<u8> {
    RawDocumentBuf::try_from(document).unwrap().into_bytes()
}

/// An insert of these.
pub(crate) fn insert(documents: Vec<Document>) -> Document {
    doc! { "insert": "c", "documents": documents, "$db": "db" }
}
