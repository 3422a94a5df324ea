//! A program that ends with the test, also when the test itself is killed.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::wait_until;

/// Waits beside the program until its input ends, as it does with whoever holds the other end; then ends the
/// program, frozen or not.
const SCRIPT: &str = r#"ending=$1; shift; "$@" & program=$!; read -r _
kill -$ending $program; kill -CONT $program; wait $program"#;

/// A shell that ends the program which it started.
pub struct Guardian(Child);

impl Guardian {
    /// Starts the program.  `shell` runs `sh` as the program's user; `ending` is the signal that ends the program.
    pub fn start<S: AsRef<OsStr>>(
        mut shell: Command,
        ending: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        shell.args(["-c", SCRIPT, "guardian", ending]).arg(program).args(arguments).stdin(Stdio::piped());
        Self(shell.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }

    /// The shell's process.
    pub fn process(&self) -> u32 {
        self.0.id()
    }

    /// Ends the program, and waits until it is gone.
    pub fn end(mut self) {
        // Our end of the pipe closes with this, and that is the sign.
        drop(self.0.stdin.take());
        self.0.wait().expect("a guardian");
    }
}

/// The processes that this one started and that still run.
pub fn children(of: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &of.to_string()]).output().expect("`ps`");
    let listed = String::from_utf8(output.stdout).expect("numbers");
    listed.split_whitespace().map(|process| process.parse().expect("a number")).collect()
}

/// `kill -9` of these processes, some of which may have ended by themselves; waits until none runs.
pub fn kill_all(processes: &[u32]) {
    let numbers = processes.iter().map(ToString::to_string);
    let _ = Command::new("kill").arg("-KILL").args(numbers).stderr(Stdio::null()).status();
    wait_until("killed processes are gone", || !processes.iter().any(|process| is_running(*process)));
}

fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    // A zombie holds nothing any more.
    state.is_some_and(|state| state != 'Z')
}
