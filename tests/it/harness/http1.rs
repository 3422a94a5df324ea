//! HTTP/1.1 by hand: what is sent is exactly what the test says, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::MAX_WAIT;
use super::upstream::Seen;

/// A request that is being written.
#[must_use = "a request is sent by `send`"]
pub struct Request {
    to: SocketAddr,
    method: String,
    target: Vec<u8>,
    lines: Vec<u8>,
    host: Option<Vec<u8>>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(to: SocketAddr, method: &str, target: &str) -> Self {
        Self {
            to,
            method: method.to_owned(),
            target: target.as_bytes().to_vec(),
            lines: Vec::new(),
            host: Some(to.to_string().into_bytes()),
            body: Vec::new(),
        }
    }

    /// One more header line.  Names are sent as written, repeated ones as lines of their own.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        self.lines.extend_from_slice(value.as_ref());
        self.lines.extend_from_slice(b"\r\n");
        self
    }

    /// Several header lines.
    pub fn headers<V: AsRef<[u8]>>(self, lines: &[(&str, V)]) -> Self {
        lines.iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    /// `Authorization: Bearer TOKEN`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// `Authorization: Basic …` for this user name and password.
    pub fn basic(self, user: &str, password: &str) -> Self {
        self.header("authorization", basic(user, password))
    }

    pub fn host(mut self, host: impl AsRef<[u8]>) -> Self {
        self.host = Some(host.as_ref().to_vec());
        self
    }

    /// A body with its `content-length`.
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self = self.header("content-length", body.len().to_string());
        self.body = body;
        self
    }

    /// The bytes as they go out.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} ", self.method).into_bytes();
        bytes.extend_from_slice(&self.target);
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(host) = &self.host {
            bytes.extend_from_slice(b"host: ");
            bytes.extend_from_slice(host);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(&self.lines);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it over a connection of its own.
    pub fn send(self) -> Answer {
        self.keep().0
    }

    /// Sends it to somebody who may die before the answer is whole: then there is none.
    pub fn try_send(self) -> Option<Answer> {
        let stream = TcpStream::connect(self.to).ok()?;
        stream.set_read_timeout(Some(MAX_WAIT)).expect("a time limit");
        let mut connection = Connection { stream: BufReader::new(stream) };
        connection.stream.get_mut().write_all(&self.bytes()).ok()?;
        let head = read_head(&mut connection.stream)?;
        let body = read_body(&mut connection.stream, &head, true)?;
        Some(Answer::of(&head, body))
    }

    /// Sends it and keeps the connection, which an upgrade has made the caller's own.
    pub fn keep(self) -> (Answer, BufReader<TcpStream>) {
        let mut connection = Connection::to(self.to);
        let answer = connection.exchange(&self.bytes(), self.method == "HEAD");
        (answer, connection.stream)
    }
}

/// The value of `Authorization` for this user name and password.
pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// One connection, for several requests in turn.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address);
        let stream = stream.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        stream.set_read_timeout(Some(MAX_WAIT)).expect("a time limit");
        Self { stream: BufReader::new(stream) }
    }

    /// Sends these bytes and reads one answer.
    pub fn exchange(&mut self, bytes: &[u8], answer_has_no_body: bool) -> Answer {
        // Whoever denies a request early may close before it has read all: the answer counts.
        let sent = self.stream.get_mut().write_all(bytes);
        loop {
            let Some(head) = read_head(&mut self.stream) else {
                panic!("no answer came (sending: {sent:?})");
            };
            let status = head.status();
            if status == 100 {
                continue;
            }
            let no_body = answer_has_no_body || matches!(status, 101 | 204 | 304);
            let body = if no_body { Vec::new() } else { self.body(&head) };
            return Answer::of(&head, body);
        }
    }

    fn body(&mut self, head: &Head) -> Vec<u8> {
        read_body(&mut self.stream, head, true).expect("a whole body")
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn of(head: &Head, body: Vec<u8>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = head.lines.iter().map(|(name, value)| (text(name), text(value)));
        Self { status: head.status(), headers: headers.collect(), body }
    }

    /// Every value of a header, one for each line.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// What the upstream saw; a failure if the request never got there.
    #[track_caller]
    pub fn seen(&self) -> Seen {
        assert_eq!(self.status, 200, "the request was to reach the upstream: {self:?} {}", self.text());
        Seen::of(&self.json())
    }

    /// The `error` member of a denial's body.
    #[track_caller]
    pub fn error(&self) -> String {
        let body = self.json();
        body["error"].as_str().unwrap_or_else(|| panic!("no error in {body}")).to_owned()
    }

    /// Status and `error`, which is what most tables compare.
    #[track_caller]
    pub fn verdict(&self) -> (u16, String) {
        let error = if self.status == 200 { String::new() } else { self.error() };
        (self.status, error)
    }
}

/// The first line and the header lines of a message.
pub struct Head {
    pub first: Vec<u8>,
    pub lines: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Head {
    /// The status code in an answer's first line.
    fn status(&self) -> u16 {
        let words = String::from_utf8_lossy(&self.first).into_owned();
        let status = words.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.unwrap_or_else(|| panic!("no status line: {words:?}"))
    }

    pub fn first_value(&self, name: &str) -> Option<&[u8]> {
        let line = self.lines.iter().find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
        line.map(|(_, value)| value.as_slice())
    }
}

/// Reads a message's head; `None` when the connection ended before one came.
pub fn read_head(from: &mut impl BufRead) -> Option<Head> {
    let first = read_line(from)?;
    let mut lines = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Some(Head { first, lines });
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let value = line[colon + 1..].trim_ascii().to_vec();
        lines.push((line[..colon].to_vec(), value));
    }
}

/// Reads a message's body by its head.  Without a length an answer runs to the connection's end
/// and a request has none.
pub fn read_body(from: &mut impl BufRead, head: &Head, answer: bool) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if head.first_value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        loop {
            let size = String::from_utf8(read_line(from)?).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            let read = from.by_ref().take(size).read_to_end(&mut body).ok()?;
            if read as u64 != size || !read_line(from)?.is_empty() {
                return None;
            }
            if size == 0 {
                return Some(body);
            }
        }
    }
    match head.first_value("content-length") {
        Some(length) => {
            let length: u64 = std::str::from_utf8(length).ok()?.parse().ok()?;
            let read = from.by_ref().take(length).read_to_end(&mut body).ok()?;
            (read as u64 == length).then_some(body)
        }
        None if answer => from.read_to_end(&mut body).ok().map(|_| body),
        None => Some(body),
    }
}

fn read_line(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).ok()?;
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
