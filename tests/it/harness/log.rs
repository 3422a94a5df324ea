//! Everything a process printed, line by line, and a way to wait for a line.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use super::MAX_WAIT;

/// What a child process printed to stdout and stderr.
#[derive(Clone)]
pub struct Log {
    who: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    lines: Vec<String>,
    /// How many of the two streams are still open.
    open: usize,
}

impl Log {
    /// Keeps every line that this child prints from now on.
    pub fn of(who: &'static str, child: &mut Child) -> Self {
        let state = Mutex::new(State { lines: Vec::new(), open: 2 });
        let log = Self { who, shared: Arc::new(Shared { state, grown: Condvar::new() }) };
        log.follow(child.stdout.take().expect("stdout is piped"));
        log.follow(child.stderr.take().expect("stderr is piped"));
        log
    }

    fn follow(&self, stream: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                shared.state.lock().unwrap().lines.push(text);
                shared.grown.notify_all();
                line.clear();
            }
            shared.state.lock().unwrap().open -= 1;
            shared.grown.notify_all();
        });
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().lines.clone()
    }

    /// Every line so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Shows what was printed last, beside what a test that failed says of itself.
    pub fn print_the_end(&self) {
        let lines = self.lines();
        let last = &lines[lines.len().saturating_sub(100)..];
        println!("{} printed {} lines, at last:\n{}", self.who, lines.len(), last.join("\n"));
    }

    /// The first line in which `find` finds something, now or soon.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + MAX_WAIT;
        let mut state = self.shared.state.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(found) = state.lines[seen..].iter().find_map(|line| find(line)) {
                return found;
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                let why = if state.open == 0 { "ended" } else { "ran on" };
                let printed = state.lines.join("\n");
                drop(state);
                panic!("{} {why} without {what}. It printed:\n{printed}", self.who);
            }
            state = self.shared.grown.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until the process has closed both streams, so that nothing it printed is missed.
    pub fn wait_for_the_end(&self) {
        let deadline = Instant::now() + MAX_WAIT;
        let mut state = self.shared.state.lock().unwrap();
        while state.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let printed = state.lines.join("\n");
                drop(state);
                panic!("{} ran on. It printed:\n{printed}", self.who);
            }
            state = self.shared.grown.wait_timeout(state, left).unwrap().0;
        }
    }
}
