//! The application behind Envoy: it answers with what reached it.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::http1;

/// A small HTTP/1.1 server.  It lives as long as the test program.
pub struct Upstream {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start() -> Self {
        Self::saying("")
    }

    /// One whose answers have these further header lines, each with its end.
    pub fn saying(lines: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || converse(stream, &counter, lines));
            }
        });
        Self { address, calls }
    }

    /// Somebody else's server, at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, calls: Arc::default() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests reached it.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// What the upstream saw of a request.
#[derive(Debug)]
pub struct Seen {
    pub method: String,
    /// The request target, query included.
    pub path: String,
    /// Header lines in order; bytes outside printable ASCII stand as `\xNN`.
    pub headers: Vec<(String, String)>,
    /// How many bytes of body came.
    pub body_bytes: u64,
}

impl Seen {
    pub fn of(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let line = |line: &Value| (text(&line[0]), text(&line[1]));
        Self {
            method: text(&value["method"]),
            path: text(&value["path"]),
            headers: value["headers"].as_array().expect("a list").iter().map(line).collect(),
            body_bytes: value["body_bytes"].as_u64().expect("a number"),
        }
    }

    /// Every value of a header, one for each line.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }
}

fn converse(stream: TcpStream, calls: &AtomicUsize, further_lines: &str) {
    let Ok(mut answers) = stream.try_clone() else {
        return;
    };
    let mut requests = BufReader::new(stream);
    while let Some(head) = http1::read_head(&mut requests) {
        calls.fetch_add(1, Ordering::SeqCst);
        let mut words = head.first.splitn(3, |&byte| byte == b' ');
        let method = escaped(words.next().unwrap_or_default());
        let path = escaped(words.next().unwrap_or_default());
        if head.first_value("upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket")) {
            echo(requests, answers);
            return;
        }
        let Some(body) = http1::read_body(&mut requests, &head, false) else {
            return;
        };
        let lines = head.lines.iter().map(|(name, value)| json!([escaped(name), escaped(value)]));
        let seen = json!({
            "method": method,
            "path": path,
            "headers": lines.collect::<Vec<_>>(),
            "body_bytes": body.len(),
        });
        let seen = seen.to_string();
        let length = seen.len();
        let body = if method == "HEAD" { "" } else { &seen };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{further_lines}\r\n{body}"
        );
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Accepts the upgrade and sends every byte back.
fn echo(mut from: impl Read, mut to: TcpStream) {
    let accepted = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    if to.write_all(accepted.as_bytes()).is_err() {
        return;
    }
    let mut bytes = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}
