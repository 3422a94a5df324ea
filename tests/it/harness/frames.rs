//! HTTP/2 frames by hand (RFC 9113 section 4.1): for clients that no library would be.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::MAX_WAIT;

/// The types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Their flags.
pub const NONE: u8 = 0;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The error of a stream too many.
pub const REFUSED_STREAM: u32 = 7;

/// A frame as it was read.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The header block of a Check: literals without indexing (RFC 7541 section 6.2.2), besides these headers.
pub fn check_headers(more: &[(&str, &str)]) -> Vec<u8> {
    let path = [(":path", "/envoy.service.auth.v3.Authorization/Check")];
    headers(&[&path, more].concat())
}

/// The header block of a gRPC call: its path first, and then other headers.
pub fn headers(more: &[(&str, &str)]) -> Vec<u8> {
    let (path, more) = more.split_first().expect("a path");
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        *path,
        (":authority", "h"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    usual.iter().chain(more).flat_map(|(name, value)| literal(name, value)).collect()
}

/// The header block of a Check with these headers instead of, or besides, its usual ones; an empty value leaves one out.
pub fn instead(headers: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/envoy.service.auth.v3.Authorization/Check"),
        (":authority", "h"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let kept = usual.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name));
    let (pseudo, others): (Vec<_>, Vec<_>) = kept.chain(headers).partition(|(name, _)| name.starts_with(':'));
    let all = pseudo.into_iter().chain(others).filter(|(_, value)| !value.is_empty());
    all.flat_map(|(name, value)| literal(name, value)).collect()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let length =
        |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
    let (name_length, value_length) = (length(name), length(value));
    [&[0, name_length], name.as_bytes(), &[value_length], value.as_bytes()].concat()
}

/// A connection that has been greeted.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects, and says that these settings are its own.
    pub fn with_settings(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(to).expect("a connection");
        stream.set_read_timeout(Some(MAX_WAIT)).expect("a read timeout");
        stream.set_write_timeout(Some(MAX_WAIT)).expect("a write timeout");
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a greeting");
        stream.write_all(&frame(SETTINGS, NONE, 0, &settings)).expect("settings");
        Self { stream }
    }

    pub fn to(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    /// Sends bytes; false when the other side has closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(error) => panic!("neither taken nor denied: {error}"),
        }
    }

    /// The next frame; `None` when the other side has closed.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        if !self.fill(&mut head) {
            return None;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        let stream = u32::from_be_bytes(head[5..].try_into().expect("four bytes"));
        self.fill(&mut payload).then_some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this type; `None` when the other side closes before it.
    pub fn read_until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads what there is until the other side has closed.
    pub fn wait_for_the_end(&mut self) {
        while self.read().is_some() {}
    }

    fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read_exact(buffer) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                false
            }
            Err(error) => panic!("neither a frame nor an end: {error}"),
        }
    }

    /// Another handle to the same connection, to read on while this one writes.
    pub fn again(&self) -> Self {
        Self { stream: self.stream.try_clone().expect("a descriptor") }
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }
}
