//! A Debian that is booted for a test, with a real systemd: nothing of it stays when the test ends.
//!
//! It is a handful of Linux' namespaces: its processes, mounts, network and cgroups are its own.  Whoever is
//! outside reaches its Unix sockets through [`Machine::path`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::log::Log;
use super::server::{Ran, run};
use super::{MAX_WAIT, tools, wait_until};

/// A running machine; it ends with this value, and so does everything in it.
pub struct Machine {
    /// `unshare`, with which the machine's first process dies, and with that one all others.
    outside: Child,
    /// The first process, by its number outside.
    init: String,
    cgroup: PathBuf,
    /// Where its root is mounted, inside alone.
    _folder: TempDir,
}

impl Machine {
    /// Boots one, and waits until everything that starts with it has started.
    pub fn boot() -> Self {
        assert!(is_root(), "a machine of one's own needs root: run these tests as root");
        let folder = TempDir::new().expect("a fresh folder");
        let cgroup = fresh_cgroup();
        let mut command = Command::new("setpriv");
        // A test program that is killed takes the machine with it, too.
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--ipc", "--uts", "--net"]);
        command.args(["--fork", "--kill-child", "sh", "-euc", include_str!("machine.sh"), "machine"]);
        command.arg(tools::debian_root()).arg(folder.path()).arg(&cgroup);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut outside = command.spawn().expect("util-linux' setpriv and unshare");
        let log = Log::of("the machine", &mut outside);
        // From here on it ends with this value, even when a wait fails.
        let mut machine = Self { outside, init: String::new(), cgroup, _folder: folder };
        machine.init = log.wait_for("saying that its root is there", |line| {
            line.strip_prefix("machine=").map(str::to_owned)
        });
        wait_until("a booted systemd", || {
            let state = machine.command(&["systemctl", "is-system-running"]).output();
            let state = state.expect("nsenter starts").stdout;
            ["running\n", "degraded\n"].contains(&&*String::from_utf8_lossy(&state))
        });
        machine
    }

    /// A command as root, in the machine.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--root", "--wd"]);
        command.args(["--target", &self.init]).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a script to its end, however it ends.
    pub fn try_run(&self, script: &str) -> Ran {
        run(self.command(&["sh", "-euc", script]), "")
    }

    /// Runs a script that has to end well, and gives back what it printed.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let ran = self.try_run(script);
        assert_eq!(ran.code(), Some(0), "{script}\n{}{}\n{}", ran.stdout, ran.stderr, self.journal());
        ran.stdout
    }

    /// One of its files, for whoever is outside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Puts a file of ours there.
    #[track_caller]
    pub fn copy(&self, from: &Path, to: &str) {
        std::fs::copy(from, self.path(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// What was logged.
    pub fn journal(&self) -> String {
        self.try_run("journalctl --no-pager --output=short-unix").stdout
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        // The kernel has removed the last process a moment later.
        let deadline = Instant::now() + MAX_WAIT;
        while let Err(error) = remove_cgroups(&self.cgroup) {
            if Instant::now() > deadline {
                // A second panic would hide the first one.
                assert!(std::thread::panicking(), "{}: {error}", self.cgroup.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}

/// A cgroup that nobody else uses.
fn fresh_cgroup() -> PathBuf {
    static MACHINES: AtomicUsize = AtomicUsize::new(0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("Linux");
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|mount| mount.get(2) == Some(&"cgroup2"));
    let mount = mount.expect("a systemd needs a mounted cgroup2")[1].to_owned();
    let name =
        format!("envoy-auth-tokens-{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::SeqCst));
    let cgroup = Path::new(&mount).join(name);
    std::fs::create_dir(&cgroup).unwrap_or_else(|error| {
        panic!("{}: {error}: a systemd needs a cgroup2 that may be written to", cgroup.display())
    });
    cgroup
}

/// The innermost first, as rmdir wants it.
fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroups(&path)?;
        }
    }
    std::fs::remove_dir(cgroup)
}
