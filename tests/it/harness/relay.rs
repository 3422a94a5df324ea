//! A relay between two processes that can fall silent, as a network does that loses its way: nothing is
//! closed, and nothing arrives any more.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A relay; it ends with this value.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    ended: AtomicBool,
    /// New connections are silent from their beginning.
    silent: AtomicBool,
    /// What makes the relay fall silent once a client has said it.
    sign: Mutex<Option<&'static [u8]>>,
    lines: Mutex<Vec<Line>>,
}

/// One connection: both its ends, which stay open whatever the other side does.
struct Line {
    ends: [TcpStream; 2],
    silent: Arc<AtomicBool>,
}

impl Relay {
    /// A relay that leads there.
    pub fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            to,
            ended: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            sign: Mutex::default(),
            lines: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                theirs.carry(client);
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing arrives, on no connection.
    pub fn fall_silent(&self) {
        self.shared.fall_silent();
    }

    /// Falls silent once a client has said this, which itself arrives.
    pub fn fall_silent_after(&self, sign: &'static [u8]) {
        *self.shared.sign.lock().unwrap() = Some(sign);
    }

    pub fn is_silent(&self) -> bool {
        self.shared.silent.load(Ordering::SeqCst)
    }

    /// New connections are carried again.  Those from before stay silent for ever.
    pub fn carry_new_ones(&self) {
        self.shared.silent.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes whoever waits for a connection.
        let _ = TcpStream::connect(self.address);
        for line in self.shared.lines.lock().unwrap().iter() {
            for end in &line.ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
        for line in self.lines.lock().unwrap().iter() {
            line.silent.store(true, Ordering::SeqCst);
        }
    }

    fn carry(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.to) else {
            return;
        };
        let end = |stream: &TcpStream| stream.try_clone().expect("another handle of a socket");
        let ends = [end(&client), end(&server)];
        let mut lines = self.lines.lock().unwrap();
        // Under the lock, so that no line is missed by whoever falls silent now.
        let silent = Arc::new(AtomicBool::new(self.silent.load(Ordering::SeqCst)));
        lines.push(Line { ends, silent: Arc::clone(&silent) });
        drop(lines);
        let (up, down) = ((end(&client), end(&server)), (server, client));
        for ((from, to), client_speaks) in [(up, true), (down, false)] {
            let (shared, silent) = (Arc::clone(self), Arc::clone(&silent));
            thread::spawn(move || shared.pump(from, to, &silent, client_speaks));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool, client_speaks: bool) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if silent.load(Ordering::SeqCst) {
                continue;
            }
            let said = &bytes[..read];
            if client_speaks && self.is_the_sign(said) {
                self.fall_silent();
            }
            if to.write_all(said).is_err() {
                return;
            }
        }
        // An end that nobody hears of either.
        if !silent.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    fn is_the_sign(&self, said: &[u8]) -> bool {
        let mut sign = self.sign.lock().unwrap();
        let said_it = sign.is_some_and(|sign| said.windows(sign.len()).any(|part| part == sign));
        if said_it {
            *sign = None;
        }
        said_it
    }
}
