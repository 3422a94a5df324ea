//! A value that is fetched when it is needed, and cached for a while.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};

use super::error::ProviderError;

/// A request that is on its way.
type Fetch<T> = Pin<Box<dyn Future<Output = Result<Arc<T>, ProviderError>> + Send>>;

/// The value, if it was fetched.  Callers that need it while it is being fetched wait for that one request.
pub(super) struct Cached<T>(Mutex<State<T>>);

struct State<T> {
    /// With the time at which the request began.
    value: Option<(Duration, Arc<T>)>,
    /// It ends when no caller waits for it.
    in_flight: Option<WeakShared<Fetch<T>>>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(State { value: None, in_flight: None }))
    }
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// The value, fetched less than `max_age` before `now`.  `now` is the elapsed time of a clock.
    ///
    /// # Errors
    /// Those of the request.  They are not kept.
    pub(super) async fn get<F>(
        &self,
        now: Duration,
        max_age: Duration,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>> + Send + 'static,
    {
        let fetched = match self.fresh_or_in_flight(now, max_age, fetch) {
            Ok(value) => return Ok(value),
            Err(in_flight) => in_flight.await?,
        };
        let mut state = self.lock();
        if state.value.as_ref().is_none_or(|(then, _)| *then <= now) {
            state.value = Some((now, Arc::clone(&fetched)));
        }
        Ok(fetched)
    }

    fn fresh_or_in_flight<F>(
        &self,
        now: Duration,
        max_age: Duration,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, Shared<Fetch<T>>>
    where
        F: Future<Output = Result<T, ProviderError>> + Send + 'static,
    {
        let mut state = self.lock();
        if let Some((then, value)) = &state.value
            && now.saturating_sub(*then) < max_age
        {
            return Ok(Arc::clone(value));
        }
        let in_flight = state.in_flight.as_ref().and_then(WeakShared::upgrade);
        // A failed request is over, although a caller may still be about to receive its result.
        if let Some(in_flight) = in_flight.filter(|shared| shared.peek().is_none()) {
            return Err(in_flight);
        }
        let fetch: Fetch<T> = Box::pin(fetch().map(|fetched| fetched.map(Arc::new)));
        let shared = fetch.shared();
        state.in_flight = shared.downgrade();
        Err(shared)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{join_all, pending};
    use tokio::sync::oneshot;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failure() -> ProviderError {
        ProviderError::NoIdToken
    }

    #[tokio::test]
    async fn a_value_is_fetched_once_and_again_when_it_is_old() {
        let kept = Cached::default();
        let fetches = Arc::new(AtomicUsize::new(0));
        let get = async |second| {
            let fetches = Arc::clone(&fetches);
            let fetch = || async move { Ok(fetches.fetch_add(1, Ordering::SeqCst)) };
            *kept.get(at(second), HOUR, fetch).await.unwrap()
        };
        let mut values = Vec::new();
        for second in [10, 11, 3609, 3610, 3611, 7209, 7210] {
            values.push(get(second).await);
        }
        assert_eq!(values, [0, 0, 0, 1, 1, 1, 2]);
    }

    #[tokio::test]
    async fn all_callers_wait_for_one_request_and_share_its_failure() {
        let kept = Arc::new(Cached::<u8>::default());
        let started = Arc::new(AtomicUsize::new(0));
        for outcome in [Err(failure()), Ok(7)] {
            let (tell, told) = oneshot::channel();
            let told = Arc::new(Mutex::new(Some(told)));
            let waiters: Vec<_> = (0..5)
                .map(|_| {
                    let (kept, started, told) = (Arc::clone(&kept), Arc::clone(&started), Arc::clone(&told));
                    tokio::spawn(async move {
                        let fetch = || {
                            started.fetch_add(1, Ordering::SeqCst);
                            let told = told.lock().unwrap().take().unwrap();
                            async move { told.await.unwrap() }
                        };
                        kept.get(at(1), HOUR, fetch).await
                    })
                })
                .collect();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            tell.send(outcome.clone()).unwrap();
            for got in join_all(waiters).await {
                let got = got.unwrap().map(|value| *value).map_err(|error| error.to_string());
                assert_eq!(got, outcome.clone().map_err(|error| error.to_string()));
            }
        }
        // The failure was not kept.
        assert_eq!(started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_abandoned_request_does_not_affect_later_ones() {
        let kept = Cached::<u8>::default();
        {
            let abandoned = kept.get(at(1), HOUR, pending);
            assert!(abandoned.now_or_never().is_none());
        }
        assert_eq!(*kept.get(at(1), HOUR, || async { Ok(1) }).await.unwrap(), 1);
    }
}
