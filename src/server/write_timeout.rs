//! Closes the connection of a client that does not read its responses.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::ConnectionActivity;

/// How long a client may leave waiting bytes unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection whose writes fail when the client reads nothing for [`WRITE_TIMEOUT`].
/// Without it, an HTTP library that closes gracefully would wait forever to write its last bytes.
pub struct WriteTimeout<S> {
    stream: S,
    timeout: Duration,
    activity: Arc<ConnectionActivity>,
    /// Runs while bytes wait to be written.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// The same connection with a timeout.  The activity records whether a write is blocked.
    pub fn new(stream: S, activity: Arc<ConnectionActivity>) -> Self {
        Self { stream, timeout: WRITE_TIMEOUT, activity, blocked: None }
    }

    /// Starts the timeout when a write is blocked, stops it when bytes were written, and fails when it has passed.
    fn check<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if self.blocked.take().is_some() {
                self.activity.write_resumed();
            }
            return wrote;
        }
        let blocked = self.blocked.get_or_insert_with(|| {
            self.activity.write_blocked();
            Box::pin(sleep(self.timeout))
        });
        blocked.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check(context, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.check(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check(context, shut)
    }

    /// As in [`super::Stream`], for the same reason.
    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn only_a_client_that_takes_nothing_times_out() {
        let (ours, mut theirs) = duplex(8);
        let mut ours = WriteTimeout {
            timeout: Duration::from_millis(1),
            ..WriteTimeout::new(ours, ConnectionActivity::detached())
        };
        ours.write_all(&[0; 8]).await.unwrap();
        assert!(ours.blocked.is_none(), "nothing waits");
        // The client reads in between: the timeout starts again each time.
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut ours).poll_write(&mut context, &[0]).is_pending());
        assert!(ours.blocked.is_some());
        theirs.read_u8().await.unwrap();
        assert!(Pin::new(&mut ours).poll_write(&mut context, &[0]).is_ready());
        assert!(ours.blocked.is_none(), "a byte was taken");
        let error = ours.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
