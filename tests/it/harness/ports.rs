//! Ports for servers that must be told theirs.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A free port that no client's end of a connection takes, before a server starts or while it restarts: those are
/// 32,768 and above.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Runs of the tests beside each other begin at other ports.
    let start = std::process::id().wrapping_mul(97);
    loop {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let port = 16_000 + u16::try_from(offset).expect("less than 16,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
