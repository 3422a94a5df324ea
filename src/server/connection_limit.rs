//! The limit of open connections of a listener, and the choice of the connection that is closed for a new one.
//!
//! A new connection is always accepted.  If there are too many, the listener closes the one that has been without a
//! complete request for the longest time: first connections that never sent the head of a request, then idle ones.  A
//! connection with a request in progress is never closed.  If all have one, the new connection is closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::process::{Resource, getrlimit};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::activity::{ConnectionActivity, ListenerActivity};
use super::log_throttle::LogThrottle;
use super::{Listener, Stream};

/// Descriptors for everything except the connections of ext_authz: the other listeners, the key store, and the files
/// that are read and watched.
const RESERVED_DESCRIPTORS: usize = 512;
/// The minimum number of connections, with any limit of descriptors.
const MIN_CONNECTIONS: usize = 16;
/// The memory limit has space for one connection of ext_authz for each part of this size.  An idle connection takes a
/// quarter of this, or half with TLS.
const BYTES_PER_CONNECTION: u64 = 128 * 1024;
/// How long an idle connection may take to close gracefully: over HTTP/2 it sends GOAWAY.
const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often this time is extended because a request arrived meanwhile.
const MAX_GRACEFUL_CLOSE_EXTENSIONS: u32 = 10;
/// Connections that may be closing gracefully at a time, in addition to the open ones.
const MAX_CLOSING: usize = 64;

/// A listener with a limit of open connections.
#[derive(Debug)]
pub struct LimitedListener {
    listener: Listener,
    name: &'static str,
    max_connections: usize,
    closed: Counter,
    log_throttle: LogThrottle,
}

/// A connection, seen from the task that serves it.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// What happens on the connection.
    pub activity: Arc<ConnectionActivity>,
    /// Resolves when the connection must end, once nothing is in flight on it.
    ///
    /// No `CancellationToken`: it is polled whenever the connection is, and a token would take two locks each time.
    pub close: oneshot::Receiver<()>,
}

/// A connection, seen from the listener.
struct OpenConnection {
    activity: Arc<ConnectionActivity>,
    /// Dropped, it tells the connection to close.
    _close: oneshot::Sender<()>,
    task: AbortHandle,
}

impl LimitedListener {
    /// The listener of this name with at most `max_connections`.  Connections that are closed for the limit are
    /// counted.
    pub fn new(listener: Listener, name: &'static str, max_connections: usize, closed: Counter) -> Self {
        Self { listener, name, max_connections, closed, log_throttle: LogThrottle::new() }
    }

    /// Serves every connection in a separate task until the shutdown.  Then it stops listening, tells all connections
    /// to close, and waits for them.
    pub async fn serve<F>(
        self,
        shutdown: CancellationToken,
        serve_connection: impl Fn(Stream, ConnectionSlot) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener_activity = Arc::new(ListenerActivity::new());
        let mut tasks = JoinSet::new();
        let mut open: HashMap<Id, OpenConnection> = HashMap::new();
        loop {
            let stream = tokio::select! {
                stream = self.listener.accept() => stream,
                () = shutdown.cancelled() => break,
                Some(ended) = tasks.join_next_with_id() => {
                    open.remove(&task_id(ended));
                    continue;
                }
            };
            while let Some(ended) = tasks.try_join_next_with_id() {
                open.remove(&task_id(ended));
            }
            if open.len() >= self.max_connections {
                self.closed.inc();
                let closing = tasks.len() - open.len();
                let was_evicted = evict_connection(&mut open, listener_activity.now(), closing < MAX_CLOSING);
                self.log_limit_reached(was_evicted);
                if !was_evicted {
                    continue;
                }
            }
            let (sender, close) = oneshot::channel();
            let activity = Arc::new(ConnectionActivity::new(Arc::clone(&listener_activity)));
            let slot = ConnectionSlot { activity: Arc::clone(&activity), close };
            let task = tasks.spawn(serve_connection(stream, slot));
            open.insert(task.id(), OpenConnection { activity, _close: sender, task });
        }
        drop(self);
        open.clear();
        while tasks.join_next().await.is_some() {}
    }

    fn log_limit_reached(&self, was_evicted: bool) {
        if let Some(suppressed) = self.log_throttle.next_line() {
            let (listener, max_connections) = (self.name, self.max_connections);
            let which = if was_evicted {
                "the connection that waited longest without a request is closed"
            } else {
                "all connections have requests, and the new connection is closed"
            };
            tracing::warn!(
                listener,
                max_connections,
                suppressed,
                "the limit of open connections is reached: {which}"
            );
        }
    }
}

fn task_id<T>(ended: Result<(Id, T), tokio::task::JoinError>) -> Id {
    match ended {
        Ok((id, _)) => id,
        Err(error) => error.id(),
    }
}

/// Closes the connection that comes first by its rank; false when none may be closed.  An idle one is closed gracefully
/// where that is allowed.
fn evict_connection(open: &mut HashMap<Id, OpenConnection>, now: u64, may_be_graceful: bool) -> bool {
    let ranked =
        open.iter().filter_map(|(id, connection)| Some((connection.activity.eviction_rank(now)?, *id)));
    let first = ranked.min_by_key(|(rank, _)| *rank);
    let Some(((had_request, _), evicted)) = first.and_then(|(rank, id)| Some((rank, open.remove(&id)?)))
    else {
        return false;
    };
    let OpenConnection { activity, _close: close, task } = evicted;
    drop(close);
    if had_request && may_be_graceful {
        tokio::spawn(async move {
            for _ in 0..MAX_GRACEFUL_CLOSE_EXTENSIONS {
                tokio::time::sleep(GRACEFUL_CLOSE_TIMEOUT).await;
                if !activity.is_answering() {
                    break;
                }
            }
            task.abort();
        });
    } else {
        task.abort();
    }
    true
}

/// How many of the wanted connections the process may have open by its limit of open files (`RLIMIT_NOFILE`).
/// A warning says so when they are fewer.
pub fn within_descriptors(wanted: usize) -> usize {
    let Some(descriptors) = open_files_limit() else {
        return wanted;
    };
    let possible = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(MIN_CONNECTIONS);
    if possible < wanted {
        tracing::warn!(
            max_connections = wanted,
            connections = possible,
            open_files = descriptors,
            "the limit of open files (ulimit -n, LimitNOFILE=) allows fewer connections than ext_authz.max_connections"
        );
    }
    possible.min(wanted)
}

/// How many of the wanted connections the process may have open by its memory limit, in bytes.
pub fn within_memory(wanted: usize, memory_limit: u64) -> usize {
    let possible =
        usize::try_from(memory_limit / BYTES_PER_CONNECTION).unwrap_or(usize::MAX).max(MIN_CONNECTIONS);
    if possible < wanted {
        tracing::info!(
            max_connections = wanted,
            connections = possible,
            memory_limit,
            "the memory limit allows fewer connections than ext_authz.max_connections"
        );
    }
    possible.min(wanted)
}

/// The soft limit of open files; `None` when there is none.
fn open_files_limit() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::activity::InFlightRequest;
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_one_that_linux_writes_down() {
        // proc_pid_limits(5)
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let soft = line.split_whitespace().next().unwrap().parse().ok();
        assert_eq!(open_files_limit(), soft);
    }

    #[test]
    fn connections_fit_the_memory_limit() {
        const MIB: u64 = 1024 * 1024;
        let cases = [
            (4096, u64::MAX, 4096),
            (4096, 512 * MIB, 4096),
            (4096, 256 * MIB, 2048),
            (4096, 128 * MIB, 1024),
            (100, 128 * MIB, 100),
            (4096, 0, MIN_CONNECTIONS),
        ];
        for (wanted, limit, expected) in cases {
            assert_eq!(within_memory(wanted, limit), expected, "{wanted} {limit}");
        }
    }

    #[tokio::test]
    async fn the_connection_longest_without_a_request_is_evicted_and_one_being_answered_never() {
        const LATER: u64 = 10_000_000;
        let mut tasks = JoinSet::new();
        let mut open = HashMap::new();
        let mut ids = Vec::new();
        let connections: Vec<_> = (0..6).map(|_| ConnectionActivity::detached()).collect();
        for (index, activity) in (0..).zip(&connections) {
            activity.set_last_used(index);
            let (sender, close) = oneshot::channel();
            let task = tasks.spawn(async move { drop(close.await) });
            ids.push(task.id());
            open.insert(task.id(), OpenConnection { activity: Arc::clone(activity), _close: sender, task });
        }
        // 0 idles, 1 is being answered, 2 has a request that has not arrived, 3 a response that nobody takes;
        // 4 and 5 have never sent a head.
        drop(InFlightRequest::new(Arc::clone(&connections[0])));
        let answering = InFlightRequest::new(Arc::clone(&connections[1]));
        answering.mark_received();
        let _receiving = InFlightRequest::new(Arc::clone(&connections[2]));
        let sending = InFlightRequest::new(Arc::clone(&connections[3]));
        sending.mark_received();
        sending.mark_answered();
        connections[3].set_last_used(3);
        let mut evicted = Vec::new();
        while evict_connection(&mut open, LATER, true) {
            let gone = ids.iter().position(|id| !open.contains_key(id) && !evicted.contains(id));
            evicted.push(ids[gone.expect("one is gone")]);
        }
        assert_eq!(evicted, [4, 5, 0, 2, 3].map(|index| ids[index]));
        // Its response is being taken, then has been.
        answering.mark_answered();
        assert!(!evict_connection(&mut open, connections[1].last_used(), true));
        drop(answering);
        assert!(evict_connection(&mut open, LATER, true));
        assert!(!evict_connection(&mut open, LATER, true), "there is none");
    }

    #[tokio::test]
    async fn every_new_connection_is_accepted_and_the_limit_is_kept() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address).await.unwrap();
        let bound = listener.address(&address);
        let closed = Counter::default();
        let limited = LimitedListener::new(listener, "test", 2, closed.clone());
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(limited.serve(shutdown.clone(), |stream, slot| async move {
            drop(slot.close.await);
            drop(stream);
        }));
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(super::super::connect(&bound).await.unwrap());
        }
        while closed.get() < 3 {
            tokio::task::yield_now().await;
        }
        for client in clients.iter_mut().take(3) {
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "the first ones are closed");
        }
        shutdown.cancel();
        served.await.unwrap();
        assert_eq!(closed.get(), 3);
    }
}
