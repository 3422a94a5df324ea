//! A connection of psql's that stays open from one statement to the next.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::programs;
use crate::harness::log::Log;

/// An open connection; what its transaction holds is let go when this value goes.
pub struct Session {
    child: Child,
    input: ChildStdin,
    log: Log,
    /// How many statements were sent.
    sent: usize,
    /// How many lines were read.
    read: usize,
}

impl Session {
    pub fn open(url: &str) -> Self {
        let mut command = Command::new("sh");
        // One stream for answers and errors, so that they come in their order.
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(programs().join("psql"));
        command.args(["--no-psqlrc", "-qAt", "-d", url]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql");
        let input = child.stdin.take().expect("stdin is piped");
        let log = Log::of("psql", &mut child);
        Self { child, input, log, sent: 0, read: 0 }
    }

    /// Runs this, and gives back what psql printed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> String {
        self.send(sql);
        let answer = self.answer();
        assert!(!answer.contains("ERROR:"), "{sql}: {answer}");
        answer
    }

    /// Asks for this, and waits for nothing: it may wait for a lock.
    pub fn send(&mut self, sql: &str) {
        self.sent += 1;
        writeln!(self.input, "{sql}\n;\n\\echo {}", self.mark()).expect("psql runs");
    }

    /// What psql prints until it has run what was sent last; an error, too, is an answer.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let mark = self.mark();
        self.log.wait_for("the answer of psql", |line| (line == mark).then_some(()));
        let lines = self.log.lines();
        let end = lines.iter().position(|line| *line == mark).expect("the mark was read");
        let answer = lines[self.read..end].join("\n");
        self.read = end + 1;
        answer
    }

    /// Whether what was sent last was answered.
    pub fn has_answered(&self) -> bool {
        let mark = self.mark();
        self.log.lines().contains(&mark)
    }

    /// The process of PostgreSQL's that serves this connection.
    pub fn backend(&mut self) -> u32 {
        self.run("SELECT pg_backend_pid()").parse().expect("a process")
    }

    fn mark(&self) -> String {
        format!("answered {}", self.sent)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
