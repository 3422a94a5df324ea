//! The shares of the memory limit for everything that a client can make grow.

use super::codec::frame;

/// Streams that one Envoy worker may have open at a time, where memory allows; it opens another connection beyond that.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// The same, with any amount of memory.
const MIN_CONCURRENT_STREAMS: u32 = 128;
/// The HTTP/2 library keeps the memory of as many streams as a connection has ever had open.  One stream for each part
/// of this size leaves enough for 64 such connections.
const BYTES_PER_STREAM: u64 = 512 * 1024;
/// Bytes that may arrive for one stream, and for one connection, before they are read, where memory allows.  The share
/// of one connection limits its unread bytes.
const MAX_WINDOW: u32 = 1024 * 1024;
/// The same, with any amount of memory: the initial window of every HTTP/2 connection.
const MIN_WINDOW: u32 = 64 * 1024 - 1;
/// Bytes of incomplete messages, over all connections, where memory allows: as much as sixteen messages of the default
/// size, or four of the largest.
const MAX_INCOMPLETE_BYTES: usize = 256 * 1024 * 1024;
/// The maximum memory of an open Check, including its stream and its task.
const BYTES_PER_OPEN_CHECK: u64 = 16 * 1024;
/// Checks that may be open with any amount of memory: as many as one Envoy worker sends at a time.
const MIN_OPEN_CHECKS: u32 = MAX_CONCURRENT_STREAMS;
/// Calls of health and reflection that may be open, over all connections, where memory allows.
const MAX_TONIC_CALLS: usize = 1024;
/// The same, with any amount of memory.
const MIN_TONIC_CALLS: usize = 128;
/// One such call for each part of this size leaves enough for answers of reflection that the client does not read.
const BYTES_PER_TONIC_CALL: u64 = 512 * 1024;

/// The limits over all connections, as shares of the memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShares {
    /// Bytes of messages that arrive in pieces: a quarter, and at least one of the largest.
    pub message_bytes: usize,
    /// Bytes of incomplete header blocks: an eighth.
    pub header_block_bytes: usize,
    /// Open Checks: a quarter.  Half of them may lack their message.
    pub open_checks: u32,
    /// Calls of health and reflection.
    pub tonic_calls: usize,
    /// Open streams of one connection.
    pub streams: u32,
    /// Unread bytes of one connection: an eighth, if 128 connections fill theirs.
    pub window: u32,
}

impl MemoryShares {
    /// The shares of a memory limit in bytes, for messages of up to `max_request_bytes`.
    pub fn new(memory_limit: u64, max_request_bytes: usize) -> Self {
        let share = |part: u64| usize::try_from(memory_limit / part).unwrap_or(usize::MAX);
        let largest_message = max_request_bytes.saturating_add(frame::PREFIX);
        let wanted = MAX_INCOMPLETE_BYTES.max(largest_message.saturating_mul(4));
        let open_checks = u32::try_from(memory_limit / 4 / BYTES_PER_OPEN_CHECK).unwrap_or(u32::MAX);
        let streams = u32::try_from(memory_limit / BYTES_PER_STREAM).unwrap_or(u32::MAX);
        let window = u32::try_from(memory_limit / 1024).unwrap_or(u32::MAX);
        Self {
            message_bytes: wanted.min(share(4)).max(largest_message),
            header_block_bytes: share(8),
            open_checks: open_checks.max(MIN_OPEN_CHECKS),
            tonic_calls: share(BYTES_PER_TONIC_CALL).clamp(MIN_TONIC_CALLS, MAX_TONIC_CALLS),
            streams: streams.clamp(MIN_CONCURRENT_STREAMS, MAX_CONCURRENT_STREAMS),
            window: window.clamp(MIN_WINDOW, MAX_WINDOW),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_the_memory_limit() {
        const MIB: u64 = 1024 * 1024;
        let default = 16 * 1024 * 1024;
        for limit in [32 * MIB, 64 * MIB, 128 * MIB, 256 * MIB, 1024 * MIB, u64::MAX] {
            let shares = MemoryShares::new(limit, default);
            assert!(shares.message_bytes >= default + frame::PREFIX, "{limit}");
            assert!(shares.message_bytes as u64 <= (limit / 4).max(default as u64 + 5), "{limit}");
            assert!(shares.header_block_bytes as u64 <= limit / 8, "{limit}");
            assert!(shares.open_checks >= 1024, "{limit}");
            assert!((65_535..=1024 * 1024).contains(&shares.window), "{limit}");
        }
        let of_sidecar = MemoryShares {
            message_bytes: 32 << 20,
            header_block_bytes: 16 << 20,
            open_checks: 2048,
            tonic_calls: 256,
            streams: 256,
            window: 128 << 10,
        };
        assert_eq!(MemoryShares::new(128 * MIB, default), of_sidecar);
        assert_eq!(MemoryShares::new(64 << 30, default).message_bytes, 256 << 20);
        assert_eq!(MemoryShares::new(64 << 30, 256 << 20).message_bytes, (256 << 20) * 4 + 20);
    }
}
