//! One connection to a server, and one operation on it at a time.
//!
//! The messages of a server are read by our own code ([`super::ber`]), because an attacker on the network can send
//! bytes before the TLS handshake.  The parser of ldap3 recurses for each level of nesting, so that one message of some
//! megabytes ends the process by a stack overflow.  It also reads without a limit, panics at messages of an unexpected
//! shape, and on StartTLS drops early bytes instead of failing.

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

/// The maximum number of bytes of one answer.  A thousand groups with long names need a quarter of it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The most bytes of the answer to StartTLS.
const MAX_START_TLS_BYTES: usize = 4096;
/// The first byte of a TLS alert, with which a TLS server answers a message that is not TLS (RFC 8446, section 5.1).
const TLS_ALERT: u8 = 21;
/// The number of bytes of one read.
const READ_BYTES: usize = 4096;

/// A stream that reads and writes bytes.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection.  One on which an operation failed, or was given up, must not be used again.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// The bytes that were read and are not a whole message yet.
    buffer: BytesMut,
    /// The id of the latest request.
    id: u32,
    /// The version of TLS and its cipher suite, for people.
    pub(super) encryption: Option<String>,
}

/// The result of a search.
pub(super) struct Found {
    /// At most as many entries as the search asked for.
    pub(super) entries: Vec<FoundEntry>,
    /// Whether there are more entries than the search asked for, or than the server returns.
    pub(super) has_more: bool,
    /// The result code; reaching a size limit is not a failure.
    pub(super) outcome: Outcome,
}

impl Connection {
    /// A connection over a Unix socket.
    pub(super) async fn over_socket(path: &Path) -> Result<Self, Problem> {
        let stream = UnixStream::connect(path).await.map_err(Problem::Unreachable)?;
        Ok(Self::new(stream, 0, None))
    }

    /// A connection in plain text, allowed only to this machine.
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

    /// A connection that continues with TLS before anything else is sent (RFC 4511, section 4.14).
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
        // A server sends nothing before the handshake starts, so these bytes cannot be trusted.  Bytes that arrive
        // later become part of the handshake and make it fail.
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

    /// Whether an idle connection is still open, and the server has sent no unsolicited message.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).now_or_never().is_none()
    }

    /// A simple bind, and its result.  The password must not be empty: that would be an anonymous bind, which succeeds.
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
                // The server may ignore the limit.
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

/// Connects to the first address that can be reached.  Each attempt may use its share of the remaining time.
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

/// Reads until a message is complete, and leaves the following bytes in the buffer.
async fn read_message<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<BytesMut, Problem> {
    loop {
        // Otherwise bytes of another protocol would be read as a length, and the client would wait for them.
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
