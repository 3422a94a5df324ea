//! The Checks whose message has not arrived: when there are too many, the one that has waited longest gives way.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Those that wait, in the order in which they began to.
#[derive(Debug)]
pub struct IncompleteQueue {
    most: usize,
    waiting: Mutex<Queued>,
}

#[derive(Debug, Default)]
struct Queued {
    next: u64,
    /// Dropped, each ends its wait.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place in the line; left when it is dropped.
#[derive(Debug)]
pub struct QueueSlot<'l> {
    line: &'l IncompleteQueue,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl IncompleteQueue {
    /// A line of no more than so many.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    /// Joins at the end.
    pub fn join(&self) -> QueueSlot<'_> {
        let (sender, lost) = oneshot::channel();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.insert(number, sender);
        let first = if waiting.places.len() > self.most { waiting.places.pop_first() } else { None };
        drop(waiting);
        drop(first);
        QueueSlot { line: self, number, lost }
    }

    fn waiting(&self) -> MutexGuard<'_, Queued> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSlot<'_> {
    /// Waits until the place is lost to somebody who came later.
    pub fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent.
        Pin::new(&mut self.lost).poll(context).map(drop)
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let place = self.line.waiting().places.remove(&self.number);
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_lost(place: &mut QueueSlot<'_>) -> bool {
        place.poll_lost(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_has_waited_longest_gives_way() {
        let line = IncompleteQueue::new(2);
        let mut places: Vec<_> = (0..2).map(|_| line.join()).collect();
        assert!(!places.iter_mut().any(is_lost));
        // One that leaves makes room.
        drop(places.remove(0));
        places.push(line.join());
        assert!(!places.iter_mut().any(is_lost));
        places.push(line.join());
        let lost: Vec<_> = places.iter_mut().map(is_lost).collect();
        assert_eq!(lost, [true, false, false]);
        drop(places);
        assert!(line.waiting().places.is_empty());
    }
}
