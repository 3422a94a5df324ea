//! Checks that go on and on while something else happens, and how each was answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::MAX_WAIT;
use super::grpc::{self, CheckResponse};
use super::server::{ListenAddress, Server};

/// How many connections ask at the same time.
const CONNECTIONS: usize = 4;
/// How long each pauses between two Checks.
const PAUSE: Duration = Duration::from_millis(5);

/// A steady load.  Ending it fails the test if one Check was answered otherwise than it should be.
pub struct Load {
    shared: Arc<Shared>,
    asking: Option<JoinHandle<()>>,
}

struct Shared {
    listen_address: ListenAddress,
    /// Tokens, and what a Check is to say of each.
    questions: Vec<(String, String)>,
    stopping: AtomicBool,
    answered: AtomicUsize,
    times: Mutex<Vec<Duration>>,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Asks about these tokens, each with what [`grpc::verdict`] must be, until it is ended.
    pub fn on(server: &Server, questions: &[(&str, &str)]) -> Self {
        let questions = questions.iter().map(|(token, verdict)| ((*token).to_owned(), (*verdict).to_owned()));
        let shared = Arc::new(Shared {
            listen_address: server.listen_address().clone(),
            questions: questions.collect(),
            stopping: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            times: Mutex::default(),
            wrong: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let asking = std::thread::spawn(move || {
            grpc::block_on(async {
                let connections = (0..CONNECTIONS).map(|_| theirs.ask());
                futures_util::future::join_all(connections).await;
            });
        });
        Self { shared, asking: Some(asking) }
    }

    /// Waits until so many more Checks were answered.
    pub fn go_on_for(&self, checks: usize) {
        let until = self.shared.answered.load(Ordering::SeqCst) + checks;
        let deadline = Instant::now() + MAX_WAIT;
        while self.shared.answered.load(Ordering::SeqCst) < until {
            assert!(Instant::now() < deadline, "the Checks stand still: {:?}", self.shared.wrong.lock());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many were answered since this was last asked, and how fast.
    pub fn so_far(&self) -> String {
        let mut times = std::mem::take(&mut *self.shared.times.lock().unwrap());
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        format!("{} Checks, p50 {:.1?}, p99 {:.1?}", times.len(), at(50), at(99))
    }

    /// Ends it.
    #[track_caller]
    pub fn end(mut self) {
        self.stop();
        let wrong = self.shared.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} Checks went wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    }

    fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(asking) = self.asking.take() {
            asking.join().expect("the thread that sends does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    async fn ask(&self) {
        let mut client = match grpc::channel(&self.listen_address).await {
            Ok(channel) => grpc::client(channel),
            Err(error) => return self.wrong.lock().unwrap().push(error.to_string()),
        };
        for (token, expected) in self.questions.iter().cycle() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let start = Instant::now();
            let answer = client.check(grpc::bearer(token)).await;
            let took = start.elapsed();
            let verdict =
                answer.map(tonic::Response::into_inner).map(|answer: CheckResponse| grpc::verdict(&answer));
            match verdict {
                Ok(verdict) if verdict == *expected => self.times.lock().unwrap().push(took),
                other => self.wrong.lock().unwrap().push(format!("{other:?} instead of {expected:?}")),
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
