//! How many connections a listener has open at a time, and which one makes room for the next.
//!
//! Whoever comes is let in.  What is closed for that is the connection that has waited longest without a request that
//! arrived whole: first those that never sent the head of one, then those that idle.  One whose request is being
//! answered is never closed; if all are, whoever comes next is.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::log_throttle::LogThrottle;
use super::{Listener, Stream};
use crate::shutdown::Closing;

/// Descriptors that other things than the connections of ext_authz may need: those of the other listeners,
/// the key store's, and the files that are read and watched.
const RESERVED_DESCRIPTORS: usize = 512;
/// However few descriptors there are, so many connections are tried.
const FEWEST: usize = 16;
/// One connection of ext_authz for so much of the memory limit: an idle one takes a quarter of this, twice as much with
/// TLS.
const MEMORY_SHARE: u64 = 128 * 1024;
/// How long a client may take none of its answer before the answer keeps its connection open no longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection that makes room may take to say so: an idle one of HTTP/2 sends GOAWAY.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// How often it gets as long again because a request arrived on it meanwhile.
const MAX_LEAVE_TURNS: u32 = 10;
/// Requests that a connection may have open however many others have.
const MIN_REQUESTS: u32 = 8;
/// Connections that may be leaving at a time, beyond those that may be open.
const MAX_LEAVING: usize = 64;

/// A listener that has no more than so many connections open.
#[derive(Debug)]
pub struct LimitedListener {
    listener: Listener,
    name: &'static str,
    most: usize,
    closed: Counter,
    log_throttle: LogThrottle,
}

/// A connection's place among those that may be open.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// What happens on the connection.
    pub activity: Arc<ConnectionActivity>,
    /// Ends when the connection shall end, once nothing is in flight on it.
    pub leave: oneshot::Receiver<()>,
}

/// What happens on a connection, as far as it matters to whoever needs room.
#[derive(Debug)]
pub struct ConnectionActivity {
    all: Arc<ListenerActivity>,
    /// Whether the head of a request has ever arrived.
    has_begun: AtomicBool,
    /// When it last was of use, in microseconds: accepted, answered, or read from after it was slow.
    since: AtomicU64,
    /// Requests whose head has arrived and whose answer has not been taken.
    requests: AtomicU32,
    /// Requests that have arrived and are being answered.
    answering: AtomicU32,
    /// Answers that the client has not taken yet.
    taking: AtomicU32,
}

/// What happens on all connections of a listener.
#[derive(Debug)]
struct ListenerActivity {
    begun: Instant,
    /// Requests whose head has arrived and whose answer has not been taken.
    requests: AtomicU32,
}

impl ListenerActivity {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl ConnectionActivity {
    fn new(all: Arc<ListenerActivity>) -> Self {
        let since = AtomicU64::new(all.now());
        let [requests, answering, taking] = [0; 3].map(AtomicU32::new);
        Self { all, has_begun: AtomicBool::new(false), since, requests, answering, taking }
    }

    /// That of a connection with no others beside it.
    pub fn alone() -> Arc<Self> {
        let all = ListenerActivity { begun: Instant::now(), requests: AtomicU32::new(0) };
        Arc::new(Self::new(Arc::new(all)))
    }

    /// The client takes none of the bytes that wait for it.
    pub fn stalls(&self) {
        self.taking.fetch_add(1, Ordering::Relaxed);
    }

    /// After a stall the client has taken some.
    pub fn goes_on(&self) {
        self.taking.fetch_sub(1, Ordering::Relaxed);
        self.since.store(self.all.now(), Ordering::Relaxed);
    }

    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    /// Its rank among those that may be closed, the lowest first; `None` while it may not be.
    fn rank(&self, now: u64) -> Option<(bool, u64)> {
        let since = self.since.load(Ordering::Relaxed);
        let is_read = self.taking.load(Ordering::Relaxed) > 0
            && Duration::from_micros(now.saturating_sub(since)) < ANSWER_PATIENCE;
        let may_be_closed = !self.is_answering() && !is_read;
        may_be_closed.then(|| (self.has_begun.load(Ordering::Relaxed), since))
    }
}

/// A request from its head to the end of its answer.
#[derive(Debug)]
pub struct RequestGuard {
    activity: Arc<ConnectionActivity>,
    stage: AtomicU8,
}

const ARRIVING: u8 = 0;
const ANSWERING: u8 = 1;
const TAKING: u8 = 2;

impl RequestGuard {
    /// The head of a request has arrived.
    pub fn begin(activity: Arc<ConnectionActivity>) -> Self {
        if !activity.has_begun.load(Ordering::Relaxed) {
            activity.has_begun.store(true, Ordering::Relaxed);
        }
        activity.all.requests.fetch_add(1, Ordering::Relaxed);
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self { activity, stage: AtomicU8::new(ARRIVING) }
    }

    /// Whether more requests are open on the listener than this, and more on this connection than each may have even
    /// then: whoever has few is not denied because another has many.
    pub fn crowds(&self, most: u32) -> bool {
        let activity = &self.activity;
        activity.all.requests.load(Ordering::Relaxed) > most
            && activity.requests.load(Ordering::Relaxed) > MIN_REQUESTS
    }

    /// The rest of it has arrived.
    pub fn arrived(&self) {
        if self.stage.load(Ordering::Relaxed) == ARRIVING {
            self.stage.store(ANSWERING, Ordering::Relaxed);
            self.activity.answering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There is an answer, which the client now takes.
    pub fn answered(&self) {
        let activity = &self.activity;
        activity.taking.fetch_add(1, Ordering::Relaxed);
        if self.stage.load(Ordering::Relaxed) == ANSWERING {
            activity.answering.fetch_sub(1, Ordering::Relaxed);
        }
        self.stage.store(TAKING, Ordering::Relaxed);
        activity.since.store(activity.all.now(), Ordering::Relaxed);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        match *self.stage.get_mut() {
            ANSWERING => {
                self.activity.answering.fetch_sub(1, Ordering::Relaxed);
            }
            TAKING => {
                self.activity.taking.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
        self.activity.all.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, with which its request ends.
#[derive(Debug)]
pub struct Answer<B, T> {
    body: B,
    _turn: T,
}

impl<B, T> Answer<B, T> {
    /// This body, which ends this turn.
    pub fn new(body: B, guard: T) -> Self {
        Self { body, _turn: guard }
    }
}

impl<B: Body + Unpin, T: Unpin> Body for Answer<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that is open, seen from the listener.
struct Open {
    activity: Arc<ConnectionActivity>,
    /// Dropped, it asks the connection to leave.
    _leave: oneshot::Sender<()>,
    task: AbortHandle,
}

impl LimitedListener {
    /// The listener of this name with this many connections at most; those closed for want of room are counted.
    pub fn new(listener: Listener, name: &'static str, most: usize, closed: Counter) -> Self {
        Self { listener, name, most, closed, log_throttle: LogThrottle::new() }
    }

    /// Has every connection served, each in a task of its own, until it is time to close; then stops listening, asks
    /// all to leave, and waits for them.
    pub async fn serve<F>(self, mut closing: Closing, connection: impl Fn(Stream, ConnectionSlot) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let all = Arc::new(ListenerActivity { begun: Instant::now(), requests: AtomicU32::new(0) });
        let mut tasks = JoinSet::new();
        let mut open: HashMap<Id, Open> = HashMap::new();
        loop {
            let stream = tokio::select! {
                stream = self.listener.accept() => stream,
                () = closing.begun() => break,
                Some(ended) = tasks.join_next_with_id() => {
                    open.remove(&id_of(ended));
                    continue;
                }
            };
            while let Some(ended) = tasks.try_join_next_with_id() {
                open.remove(&id_of(ended));
            }
            if open.len() >= self.most {
                self.closed.inc();
                let leaving = tasks.len() - open.len();
                let made_room = make_room(&mut open, all.now(), leaving < MAX_LEAVING);
                self.complain(made_room);
                if !made_room {
                    continue;
                }
            }
            let (sender, leave) = oneshot::channel();
            let activity = Arc::new(ConnectionActivity::new(Arc::clone(&all)));
            let task =
                tasks.spawn(connection(stream, ConnectionSlot { activity: Arc::clone(&activity), leave }));
            open.insert(task.id(), Open { activity, _leave: sender, task });
        }
        drop(self);
        open.clear();
        while tasks.join_next().await.is_some() {}
    }

    fn complain(&self, made_room: bool) {
        if let Some(suppressed) = self.log_throttle.next_line() {
            let (listener, most) = (self.name, self.most);
            let which = if made_room {
                "the one that waited longest without a request makes room"
            } else {
                "all are being answered, and the new one is closed"
            };
            tracing::warn!(listener, most, suppressed, "as many connections as may be are open: {which}");
        }
    }
}

fn id_of<T>(ended: Result<(Id, T), tokio::task::JoinError>) -> Id {
    match ended {
        Ok((id, _)) => id,
        Err(error) => error.id(),
    }
}

/// Closes the connection that has waited longest; false when there is none that may be closed.  One that idles is told
/// before, if it may.
fn make_room(open: &mut HashMap<Id, Open>, now: u64, may_leave: bool) -> bool {
    let ranked = open.iter().filter_map(|(id, open)| Some((open.activity.rank(now)?, *id)));
    let longest = ranked.min_by_key(|(rank, _)| *rank);
    let Some(((has_begun, _), found)) = longest.and_then(|(rank, id)| Some((rank, open.remove(&id)?))) else {
        return false;
    };
    let Open { activity, _leave: leave, task } = found;
    drop(leave);
    if has_begun && may_leave {
        tokio::spawn(async move {
            for _ in 0..MAX_LEAVE_TURNS {
                tokio::time::sleep(LEAVE_TIME).await;
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

/// How many of these connections the process may have open by its limit of open files (`RLIMIT_NOFILE`).
/// Says so when they are fewer than the configuration wants.
pub fn within_descriptors(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(descriptors) = open_files(&limits) else {
        return wanted;
    };
    let possible = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(FEWEST);
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

/// How many of these connections the process may have open by its memory limit.
pub fn within_memory(wanted: usize, limit: u64) -> usize {
    let possible = usize::try_from(limit / MEMORY_SHARE).unwrap_or(usize::MAX).max(FEWEST);
    if possible < wanted {
        tracing::info!(
            max_connections = wanted,
            connections = possible,
            memory_limit = limit,
            "the memory limit allows fewer connections than ext_authz.max_connections"
        );
    }
    possible.min(wanted)
}

/// The soft limit in `/proc/PID/limits` (proc_pid_limits(5)); `None` when there is none.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read_as_linux_writes_it() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024  ", "unlimited")), None);
        assert_eq!(open_files(""), None);
        assert!(open_files(&std::fs::read_to_string("/proc/self/limits").unwrap()).is_some());
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
            (4096, 0, FEWEST),
        ];
        for (wanted, limit, expected) in cases {
            assert_eq!(within_memory(wanted, limit), expected, "{wanted} {limit}");
        }
    }

    fn activity() -> Arc<ConnectionActivity> {
        ConnectionActivity::alone()
    }

    #[tokio::test]
    async fn the_longest_without_a_request_makes_room_and_one_being_answered_never() {
        const LATER: u64 = 10_000_000;
        let mut tasks = JoinSet::new();
        let mut open = HashMap::new();
        let mut ids = Vec::new();
        let connections: Vec<_> = (0..6).map(|_| activity()).collect();
        for (index, activity) in (0..).zip(&connections) {
            activity.since.store(index, Ordering::Relaxed);
            let (sender, leave) = oneshot::channel();
            let task = tasks.spawn(async move { drop(leave.await) });
            ids.push(task.id());
            open.insert(task.id(), Open { activity: Arc::clone(activity), _leave: sender, task });
        }
        // 0 idles, 1 is being answered, 2 has a request that has not arrived, 3 an answer that nobody takes;
        // 4 and 5 have never sent a head.
        drop(RequestGuard::begin(Arc::clone(&connections[0])));
        let answering = RequestGuard::begin(Arc::clone(&connections[1]));
        answering.arrived();
        let _arriving = RequestGuard::begin(Arc::clone(&connections[2]));
        let taken = RequestGuard::begin(Arc::clone(&connections[3]));
        taken.arrived();
        taken.answered();
        connections[3].since.store(3, Ordering::Relaxed);
        let mut made_room = Vec::new();
        while make_room(&mut open, LATER, true) {
            let gone = ids.iter().position(|id| !open.contains_key(id) && !made_room.contains(id));
            made_room.push(ids[gone.expect("one is gone")]);
        }
        assert_eq!(made_room, [4, 5, 0, 2, 3].map(|index| ids[index]));
        // Its answer is being taken, then has been.
        answering.answered();
        assert!(!make_room(&mut open, connections[1].since.load(Ordering::Relaxed), true));
        drop(answering);
        assert!(make_room(&mut open, LATER, true));
        assert!(!make_room(&mut open, LATER, true), "there is none");
    }

    #[test]
    fn who_has_few_requests_open_is_never_too_much() {
        let many = activity();
        let few = Arc::new(ConnectionActivity::new(Arc::clone(&many.all)));
        let held: Vec<_> = (0..100).map(|_| RequestGuard::begin(Arc::clone(&many))).collect();
        let own: Vec<_> = (0..MIN_REQUESTS).map(|_| RequestGuard::begin(Arc::clone(&few))).collect();
        assert!(held[0].crowds(107) && !held[0].crowds(108));
        assert!(own.iter().all(|guard| !guard.crowds(0)));
        let one_more = RequestGuard::begin(Arc::clone(&few));
        assert!(one_more.crowds(108) && !one_more.crowds(109));
        drop(held);
        assert!(!one_more.crowds(9) && one_more.crowds(8));
    }

    #[test]
    fn a_client_that_takes_its_answer_slowly_is_known_by_what_it_takes() {
        let activity = activity();
        drop(RequestGuard::begin(Arc::clone(&activity)));
        activity.since.store(0, Ordering::Relaxed);
        let patience = u64::try_from(ANSWER_PATIENCE.as_micros()).unwrap();
        assert_eq!(activity.rank(1), Some((true, 0)));
        activity.stalls();
        assert_eq!(activity.rank(patience - 1), None);
        assert_eq!(activity.rank(patience), Some((true, 0)));
        activity.goes_on();
        assert!(activity.rank(patience).is_some(), "nothing waits to be taken");
    }

    #[tokio::test]
    async fn whoever_comes_is_let_in_and_the_count_is_kept() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address).await.unwrap();
        let bound = listener.address(&address);
        let closed = Counter::default();
        let limited = LimitedListener::new(listener, "test", 2, closed.clone());
        let (shutdown, closing) = crate::shutdown::Shutdown::new();
        let served = tokio::spawn(limited.serve(closing, |stream, place| async move {
            drop(place.leave.await);
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
            use tokio::io::AsyncReadExt;
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "the first ones make room");
        }
        shutdown.close();
        served.await.unwrap();
        assert_eq!(closed.get(), 3);
    }
}
