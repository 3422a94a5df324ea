//! Limits the bytes of an HTTP/2 connection before the HTTP/2 library reads them: the bytes at a time, and the bytes of
//! incomplete header blocks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::log_throttle::LogThrottle;

/// Bytes that are read before the streams of the connection run.  Bytes that the streams have not read are held in
/// memory.
const READ_QUOTA: usize = 64 * 1024;
/// How long a header block may take to arrive.
const HEADER_BLOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The memory that one byte of an incomplete header block is counted as.  In HPACK one byte can stand for a whole
/// header, for which the HTTP/2 library keeps about 100 bytes.
const MEMORY_PER_BYTE: usize = 100;
/// The maximum that an incomplete block is counted as: a header list has a limit as well.
const MAX_BLOCK_BYTES: usize = 2 * 1024 * 1024;

/// The types of frames that hold header blocks, and the flag of the last one (RFC 9113 sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const FRAME_HEAD: usize = 9;

/// The budget for bytes of incomplete header blocks, over all connections.  A connection that exceeds it is closed and
/// counted.
#[derive(Debug)]
pub struct HeaderBlockBudget {
    bytes: Arc<Semaphore>,
    closed: Counter,
    log_throttle: LogThrottle,
}

impl HeaderBlockBudget {
    /// A budget of this many bytes, and the counter of connections that are closed for it.
    pub fn new(bytes: usize, closed: Counter) -> Self {
        let bytes = Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Self { bytes, closed, log_throttle: LogThrottle::new() }
    }

    fn close_with(&self, error: OverBudget) -> io::Error {
        self.closed.inc();
        if let Some(suppressed) = self.log_throttle.next_line() {
            tracing::warn!(listener = "ext_authz", suppressed, "a connection was closed: {error}");
        }
        io::Error::other(error)
    }
}

/// A connection of HTTP/2 whose incoming bytes are limited.
pub struct HeaderBlockLimiter<S> {
    stream: S,
    /// Bytes read since the streams last ran.
    read: usize,
    frames: FrameScanner,
    budget: Arc<HeaderBlockBudget>,
    /// Runs while a header block is incomplete.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl<S> HeaderBlockLimiter<S> {
    /// Limits a connection whose first `preface` bytes are no frames.
    pub fn new(stream: S, preface: usize, budget: Arc<HeaderBlockBudget>) -> Self {
        let frames = FrameScanner { skip: preface, ..FrameScanner::default() };
        Self { stream, read: 0, frames, budget, timeout: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderBlockLimiter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read >= READ_QUOTA {
            // The tasks that the arrived bytes woke run first.
            this.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_pending() {
            this.read = 0;
            let Some(timeout) = &mut this.timeout else {
                return Poll::Pending;
            };
            ready!(timeout.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let new = buffer.filled().get(before..).unwrap_or_default();
        this.read += new.len();
        this.frames.scan(new, &this.budget).map_err(|error| this.budget.close_with(error))?;
        match (this.frames.block > 0, &this.timeout) {
            (true, None) => this.timeout = Some(Box::pin(sleep(HEADER_BLOCK_TIMEOUT))),
            (false, Some(_)) => this.timeout = None,
            (true, Some(_)) | (false, None) => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderBlockLimiter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Incomplete header blocks take more than their budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("incomplete header blocks use more memory than their common limit")]
pub struct OverBudget;

/// Finds the header blocks among the frames that arrive.
#[derive(Debug, Default)]
struct FrameScanner {
    /// The number of bytes before the next frame head.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// How many bytes of a frame's head have arrived.
    seen: usize,
    /// Bytes of the header block that is incomplete; 0 where none is.
    block: usize,
    /// Their part of the budget.
    held: Option<OwnedSemaphorePermit>,
}

impl FrameScanner {
    fn scan(&mut self, mut bytes: &[u8], budget: &HeaderBlockBudget) -> Result<(), OverBudget> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = (FRAME_HEAD - self.seen).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            self.head[self.seen..self.seen + wanted].copy_from_slice(head);
            self.seen += wanted;
            bytes = rest;
            if self.seen < FRAME_HEAD {
                return Ok(());
            }
            self.seen = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind == HEADERS || kind == CONTINUATION {
                if flags & END_HEADERS == 0 {
                    // An empty frame is one, too.
                    self.block += self.skip + FRAME_HEAD;
                    self.reserve(budget)?;
                } else if self.block > 0 {
                    self.block = 0;
                    self.held = None;
                }
            }
        }
    }

    fn reserve(&mut self, budget: &HeaderBlockBudget) -> Result<(), OverBudget> {
        let wanted = self.block.saturating_mul(MEMORY_PER_BYTE).min(MAX_BLOCK_BYTES);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(wanted.saturating_sub(held)).map_err(|_| OverBudget)?;
        if more == 0 {
            return Ok(());
        }
        let more = Arc::clone(&budget.bytes).try_acquire_many_owned(more).map_err(|_| OverBudget)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        let mut bytes = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD + length, 0xff);
        bytes
    }

    #[test]
    fn incomplete_header_blocks_are_held_however_they_arrive() {
        const DATA: u8 = 0;
        const COUNTED: usize = MEMORY_PER_BYTE;
        let cases: &[(&[Vec<u8>], usize)] = &[
            (&[frame(HEADERS, END_HEADERS, 100)], 0),
            (&[frame(HEADERS, 0, 100)], 109 * COUNTED),
            (&[frame(HEADERS, 0, 100), frame(CONTINUATION, 0, 50)], 168 * COUNTED),
            (&[frame(HEADERS, 0, 100), frame(CONTINUATION, END_HEADERS, 50)], 0),
            (&[frame(HEADERS, 0, 0), frame(CONTINUATION, 0, 0)], 18 * COUNTED),
            (&[frame(DATA, 0, 16_384), frame(HEADERS, 0x20, 10)], 19 * COUNTED),
            (&[frame(DATA, END_HEADERS, 9), frame(HEADERS, END_HEADERS | 1, 1), frame(6, 0, 8)], 0),
            (&[frame(HEADERS, 0, 16_384), frame(CONTINUATION, 0, 16_384)], MAX_BLOCK_BYTES),
        ];
        for (sent, expected) in cases {
            for size in [1, 2, 7, 9, 10, 100_000] {
                let budget = HeaderBlockBudget::new(MAX_BLOCK_BYTES, Counter::default());
                let mut frames = FrameScanner { skip: 24, ..FrameScanner::default() };
                let bytes = [&[0; 24][..], &sent.concat()].concat();
                for piece in bytes.chunks(size) {
                    frames.scan(piece, &budget).unwrap();
                }
                assert_eq!(
                    MAX_BLOCK_BYTES - budget.bytes.available_permits(),
                    *expected,
                    "{expected} {size}"
                );
                drop(frames);
                assert_eq!(budget.bytes.available_permits(), MAX_BLOCK_BYTES);
            }
        }
        let budget = HeaderBlockBudget::new(10_000, Counter::default());
        let (mut first, mut second) = (FrameScanner::default(), FrameScanner::default());
        assert_eq!(first.scan(&frame(HEADERS, 0, 50), &budget), Ok(()));
        assert_eq!(second.scan(&frame(HEADERS, 0, 50), &budget), Err(OverBudget));
        assert_eq!(second.scan(&frame(HEADERS, END_HEADERS, 50), &budget), Ok(()), "complete ones are free");
    }

    #[tokio::test]
    async fn the_streams_have_their_turn_after_each_quota_of_bytes() {
        let (ours, mut theirs) = duplex(4 * READ_QUOTA);
        let mut sent = frame(0, 0, 2 * READ_QUOTA);
        sent.extend(frame(0, 0, 100));
        theirs.write_all(&sent).await.unwrap();
        let mut ours =
            HeaderBlockLimiter::new(ours, 0, Arc::new(HeaderBlockBudget::new(0, Counter::default())));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut bytes = vec![0; READ_QUOTA];
        let mut poll = |expected: bool| {
            let mut buffer = ReadBuf::new(&mut bytes);
            assert_eq!(Pin::new(&mut ours).poll_read(&mut context, &mut buffer).is_ready(), expected);
        };
        poll(true);
        poll(false);
        poll(true);
        poll(false);
        poll(true);
        drop(theirs);
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 0);
    }
}
