//! Questions in progress: callers with the same question wait for the same answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use super::lock;

/// The questions in progress, by their key.  Clones share the state.
pub(super) struct InFlight<K, A>(Arc<Mutex<HashMap<K, PendingAnswer<A>>>>);

/// The answer to a question, which may be pending.
pub(super) struct PendingAnswer<A>(watch::Receiver<Option<A>>);

/// The result of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitResult<A> {
    /// The answer.
    Answered(A),
    /// The question is still in progress.
    Pending,
    /// The question panicked.
    Failed,
}

impl<K, A> InFlight<K, A>
where
    K: Hash + Eq + Clone + Send + 'static,
    A: Clone + Send + Sync + 'static,
{
    /// No question is in progress.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// The number of questions in progress.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// The answer to a question in progress.
    pub fn get(&self, key: &K) -> Option<PendingAnswer<A>> {
        lock(&self.0).get(key).cloned()
    }

    /// Starts a question in a separate task, which outlives its callers.  The question is in progress until the task
    /// ends in any way.  It must store its result before that.
    pub fn begin(&self, key: K, question: impl Future<Output = A> + Send + 'static) -> PendingAnswer<A> {
        let (sender, receiver) = watch::channel(None);
        let answer = PendingAnswer(receiver);
        lock(&self.0).insert(key.clone(), answer.clone());
        let end = End { key, questions: self.clone() };
        tokio::spawn(async move {
            let end = end;
            let answer = question.await;
            drop(end);
            // There may be no caller left.
            let _ = sender.send(Some(answer));
        });
        answer
    }
}

impl<K, A> Clone for InFlight<K, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A> Clone for PendingAnswer<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Clone> PendingAnswer<A> {
    /// Waits for the answer until this instant.
    pub async fn until(mut self, end: Instant) -> WaitResult<A> {
        match tokio::time::timeout_at(end.into(), self.0.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().map_or(WaitResult::Pending, WaitResult::Answered),
            Ok(Err(_)) => WaitResult::Failed,
            Err(_) => WaitResult::Pending,
        }
    }
}

/// Removes a question from those in progress when it ends, also by a panic.
struct End<K: Hash + Eq, A> {
    key: K,
    questions: InFlight<K, A>,
}

impl<K: Hash + Eq, A> Drop for End<K, A> {
    fn drop(&mut self) {
        lock(&self.questions.0).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn callers_with_the_same_question_wait_for_one_answer() {
        let questions = InFlight::<&str, u32>::new();
        assert!(questions.get(&"ann").is_none());
        let (answer, answered) = oneshot::channel();
        let first = questions.begin("ann", async { answered.await.unwrap() });
        let second = questions.get(&"ann").unwrap();
        assert!(questions.get(&"bob").is_none());
        assert_eq!(first.clone().until(Instant::now()).await, WaitResult::Pending);
        answer.send(7).unwrap();
        assert_eq!(first.until(soon()).await, WaitResult::Answered(7));
        assert_eq!(second.until(soon()).await, WaitResult::Answered(7));
        assert_eq!(questions.len(), 0);
    }

    #[tokio::test]
    async fn a_question_that_panics_is_over() {
        let questions = InFlight::<&str, u32>::new();
        let answer = questions.begin("ann", async { panic!("a panic of the test's") });
        assert_eq!(answer.until(soon()).await, WaitResult::Failed);
        assert_eq!(questions.len(), 0);
        assert_eq!(questions.begin("ann", async { 7 }).until(soon()).await, WaitResult::Answered(7));
    }
}
