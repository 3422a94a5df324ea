//! A client that does not read what we write is not waited for without end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connection_limit::ConnectionActivity;

/// How long a connection may take none of the bytes that wait for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection whose writing fails when the other side reads nothing for 20 seconds.
/// Without it, an HTTP library that has to say goodbye would wait for ever to do so.
pub struct WriteTimeout<S> {
    stream: S,
    patience: Duration,
    activity: Arc<ConnectionActivity>,
    /// Runs while something waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// The same connection, with an end to waiting; whether it waits is told here.
    pub fn new(stream: S, activity: Arc<ConnectionActivity>) -> Self {
        Self { stream, patience: WRITE_TIMEOUT, activity, stalled: None }
    }

    /// What comes of a write: bytes that are taken end the waiting, and waiting has an end.
    fn judge<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if self.stalled.take().is_some() {
                self.activity.goes_on();
            }
            return wrote;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            self.activity.stalls();
            Box::pin(sleep(self.patience))
        });
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
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
        self.judge(context, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }

    /// As [`super::Stream`] has it, and for its reason.
    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn only_a_side_that_takes_nothing_is_given_up() {
        let (ours, mut theirs) = duplex(8);
        let mut ours = WriteTimeout {
            patience: Duration::from_millis(1),
            ..WriteTimeout::new(ours, ConnectionActivity::alone())
        };
        ours.write_all(&[0; 8]).await.unwrap();
        assert!(ours.stalled.is_none(), "nothing waits");
        // Somebody reads in between: waiting begins anew each time.
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut ours).poll_write(&mut context, &[0]).is_pending());
        assert!(ours.stalled.is_some());
        theirs.read_u8().await.unwrap();
        assert!(Pin::new(&mut ours).poll_write(&mut context, &[0]).is_ready());
        assert!(ours.stalled.is_none(), "a byte was taken");
        let error = ours.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
