//! A cgroup with a memory limit, on machines where a test may make one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup of its own; it goes with this value, once its processes are gone.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One with this memory limit; `None`, with the reason on standard error, where it cannot be made.
    pub fn with_memory(name: &str, bytes: u64) -> Option<Self> {
        let made = || -> io::Result<Self> {
            let (parent, limit) = hierarchy()?;
            let folder = parent.join(format!("envoy-auth-tokens-{name}-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let group = Self(folder);
            std::fs::write(group.0.join(limit), bytes.to_string())?;
            Ok(group)
        };
        made().inspect_err(|error| eprintln!("no cgroup with a memory limit can be made here: {error}")).ok()
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0).arg(program);
        command
    }
}

/// Where groups with a memory limit are made, and the file that holds the limit: of version 1 where the memory
/// controller is mounted so, else of version 2.
fn hierarchy() -> io::Result<(PathBuf, &'static str)> {
    let version_1 = Path::new("/sys/fs/cgroup/memory");
    if version_1.join("memory.limit_in_bytes").exists() {
        return Ok((version_1.to_owned(), "memory.limit_in_bytes"));
    }
    let version_2 = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_to_string(version_2.join("cgroup.subtree_control"))?;
    if !controllers.split_whitespace().any(|controller| controller == "memory") {
        return Err(io::Error::other("the memory controller is not on"));
    }
    Ok((version_2.to_owned(), "memory.max"))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets it go when its last process has been reaped.
        let _ = std::fs::remove_dir(&self.0);
    }
}
