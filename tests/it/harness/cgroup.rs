//! A cgroup with a memory limit, on machines where a test may make one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup (v2) of its own; it goes with this value, once its processes are gone.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One with this memory limit; `None`, with the reason on standard error, where it cannot be made.
    pub fn with_memory(name: &str, bytes: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let made = || -> std::io::Result<Self> {
            let controllers = std::fs::read_to_string(root.join("cgroup.subtree_control"))?;
            if !controllers.split_whitespace().any(|controller| controller == "memory") {
                return Err(std::io::Error::other("the memory controller is not on"));
            }
            let folder = root.join(format!("envoy-auth-tokens-{name}-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let group = Self(folder);
            std::fs::write(group.0.join("memory.max"), bytes.to_string())?;
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

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets it go when its last process has been reaped.
        let _ = std::fs::remove_dir(&self.0);
    }
}
