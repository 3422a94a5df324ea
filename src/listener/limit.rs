//! How many connections a listener has open at a time.
//!
//! One more is closed at once: a client that is refused asks elsewhere or again, one that waits in the backlog
//! only loses time.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::complaints::Complaints;
use super::{Listener, Stream};
use crate::shutdown::Closing;

/// Descriptors that other things than the connections of ext_authz may need: those of the other listeners,
/// the key store's, and the files that are read and watched.
const RESERVED_DESCRIPTORS: usize = 512;
/// However few descriptors there are, so many connections are tried.
const FEWEST: usize = 16;

/// A listener that has no more than so many connections open.
#[derive(Debug)]
pub struct Limited {
    listener: Listener,
    name: &'static str,
    most: usize,
    places: Arc<Semaphore>,
    refused: Counter,
    complaints: Complaints,
}

/// A connection's place among those that may be open; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Limited {
    /// The listener of this name with this many connections at most; those beyond are counted.
    pub fn new(listener: Listener, name: &'static str, most: usize, refused: Counter) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { listener, name, most, places, refused, complaints: Complaints::new() }
    }

    /// The next connection that has a place.
    pub async fn accept(&self) -> (Stream, Place) {
        loop {
            let stream = self.listener.accept().await;
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(permit) => return (stream, Place { _permit: permit }),
                Err(_) => self.refuse(stream),
            }
        }
    }

    /// Has every connection served, each in a task of its own that keeps its place, until it is time to close;
    /// then stops listening, and waits for those that are open.
    pub async fn serve<F>(self, mut closing: Closing, connection: impl Fn(Stream, Closing) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            let (stream, place) = tokio::select! {
                accepted = self.accept() => accepted,
                () = closing.begun() => break,
                Some(_) = connections.join_next() => continue,
            };
            let served = connection(stream, closing.clone());
            connections.spawn(async move {
                served.await;
                drop(place);
            });
        }
        drop(self);
        while connections.join_next().await.is_some() {}
    }

    fn refuse(&self, stream: Stream) {
        drop(stream);
        self.refused.inc();
        if let Some(unsaid) = self.complaints.may_speak() {
            let (listener, most) = (self.name, self.most);
            tracing::warn!(listener, most, unsaid, "a connection was refused: as many as may be are open");
        }
    }
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

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_is_gone() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address).await.unwrap();
        let bound = listener.address(&address);
        let refused = Counter::default();
        let limited = Limited::new(listener, "test", 1, refused.clone());
        let connect = || super::super::connect(&bound);
        let _first = connect().await.unwrap();
        let (_, place) = limited.accept().await;
        let (_second, _third) = (connect().await.unwrap(), connect().await.unwrap());
        // It refuses both, and then has nobody to wait for.
        while refused.get() < 2 {
            tokio::select! {
                _ = limited.accept() => panic!("accepted beyond the limit"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(place);
        let _fourth = connect().await.unwrap();
        limited.accept().await;
        assert_eq!(refused.get(), 2);
    }
}
