//! One connection: messages in, replies out, one command at a time, until the peer goes, a message is malformed, or
//! the node stops.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};
use cloudlet_base::CancelFlag;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::call::{self, Outcome};
use crate::error::{Code, CommandError};
use crate::frame::{self, Encoded, FrameError, HEADER_BYTES, Header, ReplyForm, Request};
use crate::metrics::{Limit, Raised};
use crate::scram::Exchange;
use crate::shared::{BUFFER_UNIT, Shared, Wire};
use crate::throttle::Key;
use crate::users::User;

/// Bytes of a reply's document from which on it is not copied to its header to be sent with it.
const APART_BYTES_MIN: usize = 4096;
/// Bytes of the read buffer of a connection.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Most bytes of a new connection's first message: handshakes are small, and the peer is nobody yet.
const STRANGER_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What is known of a peer.
pub(crate) struct Conn {
    /// Its number, which drivers show in their logs.
    pub(crate) id: i32,
    /// Its address.
    pub(crate) peer: String,
    /// The application's name from the handshake.
    pub(crate) app_name: Option<String>,
    /// Who it is.
    pub(crate) login: Option<Login>,
    /// A login under way.
    pub(crate) exchange: Option<PendingLogin>,
    /// Logins begun, which number the conversations.
    pub(crate) conversations: i32,
    /// Told when the peer goes away while its command is at work.
    pub(crate) gone: Arc<Notify>,
    /// True when the node stops.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// A user that has logged in.
pub(crate) struct Login {
    /// `db.user`.
    pub(crate) name: Arc<str>,
    pub(crate) user: User,
    /// Which state of the users it was read from.
    pub(crate) generation: u64,
}

/// A login between two messages.
pub(crate) struct PendingLogin {
    pub(crate) conversation: i32,
    pub(crate) exchange: Exchange,
    /// What its failure is counted for.
    pub(crate) keys: [Key; 2],
    /// The user, if there is one; found already, so that nothing differs in the second step.
    pub(crate) user: Option<User>,
    /// The state of the users that it was read from.
    pub(crate) generation: u64,
    /// The proof was right; the client still owes an empty message.
    pub(crate) proven: bool,
    /// The client does not want to send that.
    pub(crate) skip_empty: bool,
}

/// Why a connection ends.
enum End {
    /// The peer closed it, or it broke, or it was too slow.
    Gone,
    /// A malformed message.
    Malformed(FrameError),
    /// The node stops.
    Stopped,
}

impl Wire {
    /// Serves one connection until it ends. `peer` is its address, for logs and `whatsmyuri`; `stopped` becomes true
    /// when the node stops: a command at work is finished and answered, then the connection ends.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. A write that was handed to the database is carried out.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        peer: String,
        stopped: watch::Receiver<bool>,
    ) {
        let shared = &*self.shared;
        shared.metrics.connections_total.inc();
        let _open = Raised::by(&shared.metrics.connections, 1);
        let permit = shared.connection_permits.clone().try_acquire_owned().ok();
        let mut connection = Connection {
            shared,
            stream: BufReader::with_capacity(READ_BUFFER_BYTES, stream),
            stopped: stopped.clone(),
            replies: 0,
            conn: Conn {
                id: shared.next_connection_id(),
                peer,
                app_name: None,
                login: None,
                exchange: None,
                conversations: 0,
                gone: Arc::default(),
                stopped,
            },
        };
        let end = match permit {
            Some(_) => connection.run().await,
            None => connection.refuse().await,
        };
        match end {
            Ok(()) | Err(End::Gone | End::Stopped) => {}
            Err(End::Malformed(error)) => {
                shared.metrics.malformed.inc();
                tracing::debug!(peer = connection.conn.peer, %error, "mongo connection closed");
            }
        }
        let _ = connection.stream.shutdown().await;
    }
}

/// A connection with its stream.
struct Connection<'s, S> {
    shared: &'s Shared,
    stream: BufReader<S>,
    stopped: watch::Receiver<bool>,
    conn: Conn,
    /// Replies sent, which number them.
    replies: i32,
}

fn is_get_more(body: &RawDocument) -> bool {
    let first = body.iter().next().and_then(Result::ok);
    first.is_some_and(|(name, _)| name == "getMore")
}

/// Whether the reply to a getMore has documents and says that there are more. An empty page is the last that is sent
/// unasked: its cursor waits for what is not there yet.
fn is_live(reply: &RawDocument) -> bool {
    reply.get_document("cursor").is_ok_and(|cursor| {
        let more = cursor.get_i64("id").is_ok_and(|id| id != 0);
        more && cursor.get_array("nextBatch").is_ok_and(|batch| !batch.is_empty())
    })
}

/// A message's payload with the room it takes up.
struct Received<'s> {
    header: Header,
    payload: Vec<u8>,
    _permit: Option<tokio::sync::SemaphorePermit<'s>>,
    _gauge: Raised,
}

impl<'s, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'s, S> {
    async fn run(&mut self) -> Result<(), End> {
        let handshake = self.shared.limits.handshake_timeout;
        let mut received = match timeout(handshake, self.receive(STRANGER_MESSAGE_BYTES_MAX)).await {
            Ok(received) => received?,
            Err(_) => return Err(End::Gone),
        };
        loop {
            if let Some(received) = received
                && !self.answer(received).await?
            {
                return Ok(());
            }
            // Who has not logged in where that is needed has no business sending much.
            let stranger = self.shared.settings.authentication && self.conn.login.is_none();
            let bytes_max = if stranger {
                STRANGER_MESSAGE_BYTES_MAX
            } else {
                self.shared.limits.message_bytes_max
            };
            received = self.receive(bytes_max).await?;
        }
    }

    /// Tells a connection too many why it can't stay.
    async fn refuse(&mut self) -> Result<(), End> {
        self.shared.metrics.refused(Limit::Connections);
        let handshake = self.shared.limits.handshake_timeout;
        let received = match timeout(handshake, self.receive(STRANGER_MESSAGE_BYTES_MAX)).await {
            Ok(received) => received?,
            Err(_) => return Err(End::Gone),
        };
        let Some(received) = received else { return Ok(()) };
        let max = self.shared.limits.connections_max;
        let error = CommandError::new(
            Code::TooManyRequests,
            format!("there are {max} connections, and connections_max is {max}"),
        );
        let request = frame::parse(&received.header, &received.payload, STRANGER_MESSAGE_BYTES_MAX);
        let form = request.map_or(ReplyForm::Msg(None), |request| request.reply);
        self.send(&error.reply(), form, received.header.request_id).await
    }

    /// Reads a message. None when it was refused for want of room, and that was answered.
    async fn receive(&mut self, bytes_max: usize) -> Result<Option<Received<'s>>, End> {
        let mut head = [0; HEADER_BYTES];
        // The wait for a message may be long; once it has begun it must come.
        let first = tokio::select! {
            biased;
            read = self.stream.read(&mut head[..1]) => read,
            _ = self.stopped.wait_for(|stop| *stop) => return Err(End::Stopped),
        };
        if first.map_err(|_| End::Gone)? == 0 {
            return Err(End::Gone);
        }
        let transfer = self.shared.limits.transfer_timeout;
        match timeout(transfer, self.receive_rest(head, bytes_max)).await {
            Ok(received) => received,
            Err(_) => Err(End::Gone),
        }
    }

    async fn receive_rest(
        &mut self,
        mut head: [u8; HEADER_BYTES],
        bytes_max: usize,
    ) -> Result<Option<Received<'s>>, End> {
        let gone = |_| End::Gone;
        self.stream.read_exact(&mut head[1..]).await.map_err(gone)?;
        let header = Header::parse(&head, bytes_max).map_err(End::Malformed)?;
        let length = header.length - HEADER_BYTES;
        let wanted = u64::try_from(length).unwrap_or(u64::MAX);
        self.shared
            .metrics
            .received_bytes
            .inc_by(wanted.saturating_add(16));
        // Small messages ride along: the many connections are bounded themselves.
        let permit = if length <= READ_BUFFER_BYTES {
            None
        } else {
            let units = u32::try_from(length.div_ceil(BUFFER_UNIT)).unwrap_or(u32::MAX);
            match self.shared.buffer_permits.try_acquire_many(units) {
                Ok(permit) => Some(permit),
                Err(_) => {
                    self.discard(length).await?;
                    self.shared.metrics.refused(Limit::BufferedBytes);
                    let max = self.shared.limits.buffered_bytes_max;
                    let error = CommandError::new(
                        Code::TooManyRequests,
                        format!("no room for a message of {length} bytes: buffered_bytes_max is {max}"),
                    );
                    self.send(&error.reply(), ReplyForm::Msg(None), header.request_id)
                        .await?;
                    return Ok(None);
                }
            }
        };
        let gauge = Raised::by(&self.shared.metrics.buffered_bytes, length);
        // Grows with the bytes that come, not with the length that was claimed.
        let mut payload = Vec::with_capacity(length.min(READ_BUFFER_BYTES));
        let read = (&mut self.stream).take(wanted).read_to_end(&mut payload).await;
        if read.map_err(gone)? != length {
            return Err(End::Gone);
        }
        Ok(Some(Received {
            header,
            payload,
            _permit: permit,
            _gauge: gauge,
        }))
    }

    async fn discard(&mut self, mut length: usize) -> Result<(), End> {
        while length > 0 {
            let buffered = self.stream.fill_buf().await.map_err(|_| End::Gone)?.len();
            if buffered == 0 {
                return Err(End::Gone);
            }
            let taken = buffered.min(length);
            self.stream.consume(taken);
            length -= taken;
        }
        Ok(())
    }

    /// Carries out a message and answers it. False when the connection is to end.
    async fn answer(&mut self, received: Received<'s>) -> Result<bool, End> {
        let id = received.header.request_id;
        let max = self.shared.limits.message_bytes_max;
        let request = match frame::parse(&received.header, &received.payload, max) {
            Ok(request) => request,
            Err(FrameError::Document { what, silent }) => {
                let error = CommandError::new(Code::InvalidBSON, format!("malformed BSON: {what}"));
                let form = if silent {
                    ReplyForm::Silent
                } else {
                    ReplyForm::Msg(None)
                };
                self.send(&error.reply(), form, id).await?;
                return Ok(true);
            }
            Err(error) => return Err(End::Malformed(error)),
        };
        let (id, form) = (request.id, request.reply);
        // Only a getMore without sequences can be answered again and again.
        let again = (request.exhaust && is_get_more(&request.body)).then(|| request.body.clone());
        match (self.carry_out(request).await, again) {
            (Outcome::Close, _) => Ok(false),
            (Outcome::Reply(reply), None) => {
                self.send(&reply, form, id).await?;
                Ok(true)
            }
            (Outcome::Reply(reply), Some(body)) => self.exhaust(reply, form, id, body).await,
        }
    }

    /// Sends the replies to a getMore one after another until its cursor is at its end, as if each had been asked for
    /// by the one before. False when the connection is to end.
    async fn exhaust(
        &mut self,
        mut reply: RawDocumentBuf,
        form: ReplyForm,
        mut id: i32,
        body: RawDocumentBuf,
    ) -> Result<bool, End> {
        while is_live(&reply) {
            let more = match form {
                ReplyForm::Msg(compressor) => ReplyForm::More(compressor),
                form => form,
            };
            self.send(&reply, more, id).await?;
            id = self.replies;
            if *self.stopped.borrow() {
                return Err(End::Stopped);
            }
            let request = Request {
                id,
                reply: form,
                exhaust: true,
                body: body.clone(),
                sequences: Vec::new(),
            };
            reply = match self.carry_out(request).await {
                Outcome::Close => return Ok(false),
                Outcome::Reply(reply) => reply,
            };
        }
        self.send(&reply, form, id).await?;
        Ok(true)
    }

    /// Runs the command, telling it to stop when the peer goes away meanwhile.
    async fn carry_out(&mut self, request: Request) -> Outcome {
        let cancel = CancelFlag::default();
        let gone = self.conn.gone.clone();
        let work = call::answer(self.shared, &mut self.conn, request, cancel.clone());
        tokio::pin!(work);
        let mut watching = true;
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                seen = self.stream.fill_buf(), if watching => {
                    // More bytes are the next command, and tell nothing of whether the peer is still there.
                    watching = false;
                    if seen.map_or(true, <[u8]>::is_empty) {
                        cancel.cancel();
                        gone.notify_one();
                    }
                }
            }
        }
    }

    async fn send(&mut self, reply: &RawDocumentBuf, form: ReplyForm, response_to: i32) -> Result<(), End> {
        self.replies = self.replies.wrapping_add(1);
        let Some(encoded) = frame::encode_reply(reply, form, self.replies, response_to) else {
            return Ok(());
        };
        let bytes = encoded.len();
        let sent = timeout(self.shared.limits.transfer_timeout, async {
            write_encoded(&mut self.stream, encoded).await?;
            self.stream.flush().await
        });
        match sent.await {
            Ok(Ok(())) => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                self.shared.metrics.sent_bytes.inc_by(bytes);
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

/// Writes a reply: a large one's head and document from where they are, if the stream takes several pieces at once.
async fn write_encoded<S: AsyncWrite + Unpin>(stream: &mut S, encoded: Encoded<'_>) -> io::Result<()> {
    if encoded.document.len() < APART_BYTES_MIN || !stream.is_write_vectored() {
        return stream.write_all(&encoded.whole()).await;
    }
    let mut pieces = [IoSlice::new(&encoded.head), IoSlice::new(encoded.document)];
    let mut rest = &mut pieces[..];
    while !rest.is_empty() {
        let written = stream.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}
