//! gRPC's framing of a message: a flag, a length, the message (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use std::fmt;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The length of the prefix, the flag and the length of the message, in bytes.
pub const PREFIX: usize = 5;

/// Why the message of a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body broke off or failed.
    #[error("the request body could not be read")]
    Unreadable,
    /// The body is empty.
    #[error("the request has no message")]
    Empty,
    /// Fewer bytes than the prefix says, or more than one message.
    #[error("the request body is not exactly one message")]
    Misframed,
    /// The compressed flag is set, and the server announces no compression.
    #[error("compressed messages are not supported")]
    Compressed,
    /// It did not arrive in time.
    #[error("the request body did not arrive in time")]
    TimedOut,
    /// Longer than `ext_authz.max_request_bytes`.
    #[error("the message is longer than max_request_bytes")]
    TooLong,
    /// The messages that arrive at the same time are too many, or too long together.
    #[error("too many messages are arriving at once")]
    OverBudget,
}

/// The number of bytes of messages in pieces that may be held over all connections, from the first piece until the
/// answer.  A message returns its part when it is dropped: after the answer, an error, a timeout or an eviction.
#[derive(Debug)]
pub struct Budget(Semaphore);

impl Budget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)))
    }
}

/// A message, and its part of the budget until it is answered.
pub struct FramedMessage<'b> {
    /// The message without its prefix.
    pub bytes: Bytes,
    /// Its part of the budget.
    pub held: Option<SemaphorePermit<'b>>,
}

/// Its bytes hold credentials.
impl fmt::Debug for FramedMessage<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FramedMessage({} bytes)", self.bytes.len())
    }
}

/// Reads the one message of a request's body, at most `limit` bytes of it.
///
/// A message that arrives in one piece, as nearly all do, is not copied and takes no budget.  Other pieces are copied,
/// so that they do not hold the larger buffer that they arrived in.
///
/// # Errors
/// [`FrameError`].
pub async fn read<'b, B>(
    body: &mut B,
    limit: usize,
    budget: &'b Budget,
) -> Result<FramedMessage<'b>, FrameError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = Bytes::new();
    let mut pieces = MessageBuffer::new(budget);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| FrameError::Unreadable)?.into_data() else {
            continue;
        };
        if pieces.bytes.is_empty() && body.is_end_stream() {
            whole = data;
            break;
        }
        pieces.add(&data)?;
        pieces.announced = check_prefix(&pieces.bytes, limit)?;
    }
    let held = pieces.held;
    if !pieces.bytes.is_empty() {
        whole = pieces.bytes.into();
    }
    if whole.is_empty() {
        return Err(FrameError::Empty);
    }
    let length = check_prefix(&whole, limit)?.ok_or(FrameError::Misframed)?;
    whole.advance(PREFIX);
    if whole.len() != length {
        return Err(FrameError::Misframed);
    }
    Ok(FramedMessage { bytes: whole, held })
}

/// The pieces of a message as they arrive, in one buffer whose whole capacity is taken from the budget.
struct MessageBuffer<'b> {
    budget: &'b Budget,
    bytes: Vec<u8>,
    /// The length that the prefix announces.
    announced: Option<usize>,
    held: Option<SemaphorePermit<'b>>,
}

impl<'b> MessageBuffer<'b> {
    fn new(budget: &'b Budget) -> Self {
        Self { budget, bytes: Vec::new(), announced: None, held: None }
    }

    fn add(&mut self, data: &[u8]) -> Result<(), FrameError> {
        let needed = self.bytes.len() + data.len();
        let held = self.held.as_ref().map_or(0, SemaphorePermit::num_permits);
        if needed > held {
            // It grows by doubling, at most to the announced length.
            let capacity = needed.max(held * 2);
            let capacity =
                self.announced.map_or(capacity, |length| capacity.min(needed.max(PREFIX + length)));
            let more = u32::try_from(capacity - held).map_err(|_| FrameError::TooLong)?;
            let more = self.budget.0.try_acquire_many(more).map_err(|_| FrameError::OverBudget)?;
            match &mut self.held {
                Some(held) => held.merge(more),
                None => self.held = Some(more),
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Reads the rest of a body, and drops it.
pub async fn discard<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(Ok(_)) = body.frame().await {}
}

/// The first bytes of a body; `None` where it has none.
pub async fn first_data<B>(body: &mut B) -> Option<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) if !data.is_empty() => return Some(data),
            Ok(_) => {}
            // Trailers: they are the last frame.
            Err(_) => return None,
        }
    }
    None
}

/// The length that the prefix announces, once the prefix has arrived.  A message that is too long is an error at once.
fn check_prefix(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(([flag, length @ ..], rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    match flag {
        0 => {}
        1 => return Err(FrameError::Compressed),
        _ => return Err(FrameError::Misframed),
    }
    if length > limit {
        return Err(FrameError::TooLong);
    }
    if rest.len() > length {
        return Err(FrameError::Misframed);
    }
    Ok(Some(length))
}

/// A buffer for a message of this length, its prefix written.
pub fn begin(length: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    buffer
}

/// The framed message.
pub fn finish(buffer: BytesMut) -> Bytes {
    debug_assert_eq!(
        check_prefix(&buffer, usize::MAX).ok().flatten(),
        buffer.len().checked_sub(PREFIX),
        "the announced length is the length"
    );
    buffer.freeze()
}

/// The message in a framed answer.
pub fn message(framed: &[u8]) -> &[u8] {
    framed.get(PREFIX..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// A body of these pieces.
    struct Sent(VecDeque<Bytes>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn body(pieces: &[&[u8]]) -> Sent {
        Sent(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect())
    }

    async fn read_pieces(pieces: &[&[u8]]) -> Result<Bytes, FrameError> {
        read(&mut body(pieces), 4, &Budget::new(100)).await.map(|message| message.bytes)
    }

    #[tokio::test]
    async fn pieces_take_budget_until_they_are_answered_and_whole_messages_take_none() {
        // The buffer is larger than the message: eight bytes for seven.
        let budget = Budget::new(14);
        let (whole, pieces): (&[&[u8]], &[&[u8]]) = (&[b"\0\0\0\0\x02ab"], &[b"\0\0\0\0", b"\x02a", b"b"]);
        let first = read(&mut body(pieces), 4, &budget).await.unwrap();
        assert_eq!(budget.0.available_permits(), 6);
        assert_eq!(read(&mut body(pieces), 4, &budget).await.unwrap_err(), FrameError::OverBudget);
        assert_eq!(budget.0.available_permits(), 6, "a rejected message holds nothing");
        assert_eq!(read(&mut body(whole), 4, &budget).await.unwrap().bytes, "ab");
        drop(first);
        assert_eq!(budget.0.available_permits(), 14);
        assert_eq!(read(&mut body(pieces), 4, &budget).await.unwrap().bytes, "ab");
    }

    #[tokio::test]
    async fn a_long_message_takes_no_more_budget_than_it_announces() {
        const LENGTH: usize = 100_000;
        let mut sent = vec![0; PREFIX + LENGTH];
        sent[1..PREFIX].copy_from_slice(&u32::try_from(LENGTH).unwrap().to_be_bytes());
        for size in [1000, 16_384, 99_999] {
            let budget = Budget::new(PREFIX + LENGTH);
            let pieces: Vec<&[u8]> = sent.chunks(size).collect();
            let message = read(&mut body(&pieces), LENGTH, &budget).await.unwrap();
            assert_eq!((message.bytes.len(), budget.0.available_permits()), (LENGTH, 0), "{size}");
        }
    }

    #[tokio::test]
    async fn a_message_in_any_number_of_pieces() {
        let cases: &[(&[&[u8]], Result<&[u8], FrameError>)] = &[
            (&[b"\0\0\0\0\x02ab"], Ok(b"ab")),
            (&[b"\0\0\0\0\0"], Ok(b"")),
            (&[b"\0\0\0\0\x04", b"ab", b"", b"cd"], Ok(b"abcd")),
            (&[b"\0", b"\0\0", b"\0\x01", b"a"], Ok(b"a")),
            (&[b"", b"\0\0\0\0\x01a"], Ok(b"a")),
            (&[], Err(FrameError::Empty)),
            (&[b""], Err(FrameError::Empty)),
            (&[b"\0\0\0\0"], Err(FrameError::Misframed)),
            (&[b"\0\0\0\0\x02a"], Err(FrameError::Misframed)),
            (&[b"\0\0\0\0\x01ab"], Err(FrameError::Misframed)),
            (&[b"\0\0\0\0\x01a", b"\0\0\0\0\x01a"], Err(FrameError::Misframed)),
            (&[b"\x02\0\0\0\x01a"], Err(FrameError::Misframed)),
            (&[b"\x01\0\0\0\x01a"], Err(FrameError::Compressed)),
            (&[b"\0\0\0\0\x05abcde"], Err(FrameError::TooLong)),
            (&[b"\0\xff\xff\xff\xff"], Err(FrameError::TooLong)),
        ];
        for (pieces, expected) in cases {
            let found = read_pieces(pieces).await;
            assert_eq!(found.as_deref(), expected.as_ref().map(|bytes| *bytes), "{pieces:?}");
        }
    }
}
