//! The Checks whose message has not arrived: when there are too many, the one that has waited longest is evicted.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// The Checks that wait for their message, oldest first.
#[derive(Debug)]
pub struct IncompleteQueue {
    capacity: usize,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next_number: u64,
    /// Dropped, each evicts its Check.
    evictors: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A slot in the queue, which is free again when it is dropped.
#[derive(Debug)]
pub struct QueueSlot<'q> {
    queue: &'q IncompleteQueue,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl IncompleteQueue {
    /// A queue of `capacity` Checks.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, slots: Mutex::default() }
    }

    /// Adds a Check, and evicts the oldest one where there are too many.
    pub fn push(&self) -> QueueSlot<'_> {
        let (sender, evicted) = oneshot::channel();
        let mut slots = self.slots();
        let number = slots.next_number;
        slots.next_number += 1;
        slots.evictors.insert(number, sender);
        let oldest = if slots.evictors.len() > self.capacity { slots.evictors.pop_first() } else { None };
        drop(slots);
        // Wakes a task: not under the lock.
        drop(oldest);
        QueueSlot { queue: self, number, evicted }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSlot<'_> {
    /// Ready when a later Check has evicted this one.
    pub fn poll_evicted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent.
        Pin::new(&mut self.evicted).poll(context).map(drop)
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let evictor = self.queue.slots().evictors.remove(&self.number);
        drop(evictor);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_evicted(slot: &mut QueueSlot<'_>) -> bool {
        slot.poll_evicted(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_check_that_has_waited_longest_is_evicted() {
        let queue = IncompleteQueue::new(2);
        let mut slots: Vec<_> = (0..2).map(|_| queue.push()).collect();
        assert!(!slots.iter_mut().any(is_evicted));
        // A slot that is dropped is free.
        drop(slots.remove(0));
        slots.push(queue.push());
        assert!(!slots.iter_mut().any(is_evicted));
        slots.push(queue.push());
        let evicted: Vec<_> = slots.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false]);
        drop(slots);
        assert!(queue.slots().evictors.is_empty());
    }
}
