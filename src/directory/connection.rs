//! One connection to a server, and one operation on it at a time.
//!
//! What a server sends is read by our own code ([`super::ber`]): a client library's would be the first to touch what
//! somebody on the way sends before the TLS handshake.  ldap3's parser calls itself for each level of nesting, so that one
//! message of some megabytes ends the process by a stack overflow, its reading knows no limit, it panics at messages of
//! another shape than it expects, and on StartTLS it forgets what came too early instead of giving up.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::ber;
use super::error::{Outcome, Problem, is_end, is_no_tls};
use super::message::{self, FoundEntry, Response, Search};
use super::tls::Client;

/// The most bytes of one answer.  A thousand groups of a long name are a quarter of it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The most bytes of the answer to StartTLS.
const MAX_START_TLS_BYTES: usize = 4096;
/// With this byte begins what a server of TLS answers to what is none (RFC 8446, section 5.1).
const TLS_ALERT: u8 = 21;
/// How many bytes are asked for at a time.
const READ_BYTES: usize = 4096;

/// Something that carries bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection.  One on which an operation failed, or was given up, must not be used again.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What was read and belongs to no message yet.
    buffer: BytesMut,
    /// The id of the latest request.
    id: u32,
    /// The version of TLS and its cipher suite, for people.
    pub(super) encryption: Option<String>,
}

/// What a search found.
pub(super) struct Found {
    /// At most as many entries as the search asked for.
    pub(super) entries: Vec<FoundEntry>,
    /// Whether there are more entries than the search asked for, or than the server gives.
    pub(super) has_more: bool,
    /// How it ended; a size limit that was reached is no failure.
    pub(super) outcome: Outcome,
}

impl Connection {
    /// A connection over a Unix socket.
    pub(super) async fn over_socket(path: &Path) -> Result<Self, Problem> {
        let stream = UnixStream::connect(path).await.map_err(Problem::Unreachable)?;
        Ok(Self::new(stream, 0, None))
    }

    /// A connection in plain text, which leaves this machine on no account.
    pub(super) async fn plain(addresses: &[SocketAddr], deadline: Instant) -> Result<Self, Problem> {
        let own: Vec<_> = addresses.iter().filter(|address| address.ip().is_loopback()).copied().collect();
        if own.is_empty() {
            return Err(Problem::PlainText);
        }
        Ok(Self::new(connect(&own, deadline).await?, 0, None))
    }

    /// A connection that begins with TLS.
    pub(super) async fn tls(
        addresses: &[SocketAddr],
        host: &str,
        tls: &Client,
        deadline: Instant,
    ) -> Result<Self, Problem> {
        match Self::encrypted(connect(addresses, deadline).await?, host, tls, 0).await {
            Err(Problem::Tls(error)) if is_no_tls(&error) => Err(Problem::PlainPort(error)),
            done => done,
        }
    }

    /// A connection that goes on with TLS before anything else is sent (RFC 4511, section 4.14).
    pub(super) async fn start_tls(
        addresses: &[SocketAddr],
        host: &str,
        tls: &Client,
        deadline: Instant,
    ) -> Result<Self, Problem> {
        const ID: u32 = 1;
        let mut stream = connect(addresses, deadline).await?;
        stream.write_all(&message::start_tls(ID)).await.map_err(Problem::Lost)?;
        let mut buffer = BytesMut::new();
        let answer = match read_message(&mut stream, &mut buffer, MAX_START_TLS_BYTES).await {
            Err(Problem::Lost(error)) if buffer.is_empty() && is_end(&error) => {
                return Err(Problem::TlsPort(error));
            }
            Err(Problem::Malformed) if buffer.first() == Some(&TLS_ALERT) => {
                return Err(Problem::TlsPort(io::Error::other("sent an alert of TLS instead of an answer")));
            }
            answer => answer?,
        };
        match Response::read(&answer, ID) {
            Ok(Response::Extended(outcome)) if outcome.is_success() => {}
            Ok(Response::Extended(outcome) | Response::Disconnection(outcome)) => {
                return Err(Problem::StartTls(outcome));
            }
            Ok(Response::Bind(_) | Response::Entry(_) | Response::Reference | Response::SearchDone(_))
            | Err(ber::Malformed) => return Err(Problem::Malformed),
        }
        // TLS answers nothing before we begin it: whatever is here nobody vouches for.  What arrives later goes into
        // the handshake, which it fails.
        if !buffer.is_empty() {
            return Err(Problem::EarlyBytes);
        }
        Self::encrypted(stream, host, tls, ID).await
    }

    async fn encrypted(stream: TcpStream, host: &str, tls: &Client, id: u32) -> Result<Self, Problem> {
        let stream = tls.handshake(host, stream).await?;
        let session = stream.get_ref().1;
        let version = session.protocol_version().and_then(|version| version.as_str());
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let encryption = format!("{}, {}", version.unwrap_or("TLS"), suite.unwrap_or("?"));
        Ok(Self::new(stream, id, Some(encryption)))
    }

    fn new(stream: impl Stream + 'static, id: u32, encryption: Option<String>) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::new(), id, encryption }
    }

    /// Whether the server still holds its end of an idle connection, and has said nothing that nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).now_or_never().is_none()
    }

    /// A simple bind: what the server says to it.  The password must not be empty, or it is an anonymous bind, which
    /// succeeds.
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<Outcome, Problem> {
        let mut budget = MAX_ANSWER_BYTES;
        self.send(|id| message::bind(id, dn, password)).await?;
        match self.receive(&mut budget).await? {
            Response::Bind(outcome) => Ok(outcome),
            Response::Entry(_) | Response::Reference | Response::SearchDone(_) | Response::Extended(_) => {
                Err(Problem::Malformed)
            }
            Response::Disconnection(outcome) => Err(Problem::Disconnection(outcome)),
        }
    }

    /// A search.  References to other servers are not followed.
    pub(super) async fn search(&mut self, search: &Search<'_>) -> Result<Found, Problem> {
        let mut budget = MAX_ANSWER_BYTES;
        self.send(|id| message::search(id, search)).await?;
        let (mut entries, mut has_more) = (Vec::new(), false);
        loop {
            match self.receive(&mut budget).await? {
                // The server may take no notice of the limit.
                Response::Entry(_) if entries.len() >= search.size_limit as usize => has_more = true,
                Response::Entry(entry) => entries.push(entry),
                Response::Reference => {}
                Response::SearchDone(outcome) => {
                    has_more |= outcome.code == Outcome::SIZE_LIMIT_EXCEEDED;
                    return Ok(Found { entries, has_more, outcome });
                }
                Response::Bind(_) | Response::Extended(_) => return Err(Problem::Malformed),
                Response::Disconnection(outcome) => return Err(Problem::Disconnection(outcome)),
            }
        }
    }

    async fn send(&mut self, request: impl FnOnce(u32) -> Zeroizing<Vec<u8>>) -> Result<(), Problem> {
        self.id += 1;
        let request = request(self.id);
        self.stream.write_all(&request).await.map_err(Problem::Lost)?;
        self.stream.flush().await.map_err(Problem::Lost)
    }

    /// The next message of the answer.
    async fn receive(&mut self, budget: &mut usize) -> Result<Response, Problem> {
        let message = read_message(&mut *self.stream, &mut self.buffer, *budget).await?;
        *budget -= message.len();
        Response::read(&message, self.id).map_err(|ber::Malformed| Problem::Malformed)
    }
}

/// Connects to the first address that can be reached.  Each may take its share of the time that is left.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Problem> {
    let mut problem = io::Error::from(io::ErrorKind::NotFound);
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are small and wait for their answers.
                stream.set_nodelay(true).map_err(Problem::Unreachable)?;
                return Ok(stream);
            }
            Ok(Err(error)) => problem = error,
            Err(_) => problem = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Problem::Unreachable(problem))
}

/// Reads until a message is whole, and leaves what follows in the buffer.
async fn read_message<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<BytesMut, Problem> {
    loop {
        // Else a length is awaited that something else than LDAP does not mean.
        if buffer.first().is_some_and(|&tag| tag != ber::SEQUENCE) {
            return Err(Problem::Malformed);
        }
        let length = ber::length_of(buffer).map_err(|ber::Malformed| Problem::Malformed)?;
        match length.map(|length| length.whole) {
            Some(whole) if whole > limit => return Err(Problem::TooLong),
            Some(whole) if whole <= buffer.len() => return Ok(buffer.split_to(whole)),
            Some(_) | None => {}
        }
        buffer.reserve(READ_BYTES);
        if stream.read_buf(buffer).await.map_err(Problem::Lost)? == 0 {
            return Err(Problem::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
