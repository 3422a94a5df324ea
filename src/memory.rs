//! The memory limit of the process.
//!
//! Budgets are shares of it.  It is read once: the limit of a container does not change while it runs, except by an
//! in-place resize, which needs a restart of this process.

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// The files in which Linux describes the process (proc_pid_cgroup(5), proc_pid_mountinfo(5), proc_meminfo(5)).
const PROC: &str = "/proc";

static LIMIT: OnceLock<u64> = OnceLock::new();

/// The memory limit in bytes: the lowest of those of the process' cgroup and the ones above it, or else the
/// machine's memory.
pub fn limit() -> u64 {
    *LIMIT.get_or_init(|| read(Path::new(PROC), Path::new("/")))
}

/// Sets the limit from the operator's option.  Later calls of this and of [`limit`] change nothing.
pub fn set_limit(bytes: u64) {
    // An earlier call has fixed the limit: it stays as it is.
    let _ = LIMIT.set(bytes);
}

/// The limit by these files of `proc`, with the mount points that they name below `root`.
fn read(proc: &Path, root: &Path) -> u64 {
    let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    let (cgroups, mounts) = (text("self/cgroup"), text("self/mountinfo"));
    let of_cgroups = mounts.lines().filter_map(Hierarchy::of_mount).flat_map(|hierarchy| {
        let group = cgroups.lines().find_map(|line| hierarchy.group(line));
        hierarchy.limits(root, group.unwrap_or_default())
    });
    of_cgroups.chain(machine(&text("meminfo"))).filter(|&bytes| bytes > 0).min().unwrap_or(u64::MAX)
}

/// The machine's memory.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A mounted hierarchy of cgroups that limits memory.
struct Hierarchy<'m> {
    is_v2: bool,
    /// The group that the mount point shows.
    root: &'m str,
    mount_point: &'m str,
}

impl<'m> Hierarchy<'m> {
    /// By a line of `mountinfo`: `ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS … - TYPE SOURCE SUPER_OPTIONS`.
    fn of_mount(line: &'m str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point) = (mount.next()?, mount.next()?);
        let mut system = system.split(' ');
        let is_v2 = match system.next()? {
            "cgroup2" => true,
            "cgroup" => system.nth(1)?.split(',').any(|option| option == "memory").then_some(false)?,
            _ => return None,
        };
        Some(Self { is_v2, root, mount_point })
    }

    /// The process' group, if this line of `/proc/self/cgroup` names it: `ID:CONTROLLERS:GROUP`.
    fn group<'c>(&self, line: &'c str) -> Option<&'c str> {
        let (id, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let is_it = if self.is_v2 {
            id == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|controller| controller == "memory")
        };
        is_it.then_some(group)
    }

    /// The limits of this group and of those above it, as far as they are mounted.
    fn limits(&self, root: &Path, group: &str) -> Vec<u64> {
        let file = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let top = root.join(unescaped(self.mount_point).trim_start_matches('/'));
        // A container may see its own group as the root of the mount; what is mounted then is that group.
        let below = Path::new(group).strip_prefix(unescaped(self.root)).unwrap_or(Path::new(""));
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let own = if is_plain { top.join(below) } else { top.clone() };
        let groups = own.ancestors().take_while(|group| group.starts_with(&top)).map(Path::to_path_buf);
        groups.filter_map(|group: PathBuf| bytes_in(&group.join(file))).collect()
    }
}

/// The number in a file; `None` where there is none, as in `max`.
fn bytes_in(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A path of `mountinfo`, which writes blanks and backslashes as octal numbers.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (written, read)| path.replace(written, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "33 32 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory";
    const V1_CPU: &str = "34 32 0:30 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct";
    const MACHINE: u64 = 1024 * 1024 * 1024;

    fn limit_of(cgroup: &str, mounts: &[&str], files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", cgroup);
        write("proc/self/mountinfo", &mounts.join("\n"));
        write("proc/meminfo", "MemTotal:        1048576 kB\nMemFree:  1 kB\n");
        for (name, text) in files {
            write(name, text);
        }
        read(&root.path().join("proc"), root.path())
    }

    #[test]
    fn the_lowest_limit_of_the_group_and_those_above_it_counts() {
        let docker = V1.replace(" / ", " /docker/abc ");
        let odd = V2.replace("/sys/fs/cgroup", "/sys/fs/my\\040cgroup");
        let cases: &[(&str, &[&str], &[(&str, &str)], u64)] = &[
            // v2: the own group's, one above, none at all.
            ("0::/a/b\n", &[V2], &[("sys/fs/cgroup/a/b/memory.max", "134217728\n")], 134_217_728),
            (
                "0::/a/b\n",
                &[V2],
                &[("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "4096\n")],
                4096,
            ),
            (
                "0::/a\n",
                &[V2],
                &[("sys/fs/cgroup/a/memory.max", "8192\n"), ("sys/fs/cgroup/memory.max", "4096\n")],
                4096,
            ),
            ("0::/a\n", &[V2], &[("sys/fs/cgroup/a/memory.max", "max\n")], MACHINE),
            ("0::/\n", &[V2], &[("sys/fs/cgroup/memory.max", "4096\n")], 4096),
            ("0::/a\n", &[odd.as_str()], &[("sys/fs/my cgroup/a/memory.max", "4096\n")], 4096),
            // More than the machine has.
            ("0::/a\n", &[V2], &[("sys/fs/cgroup/a/memory.max", "99999999999999\n")], MACHINE),
            // A group that is not mounted here, and one outside the namespace.
            ("0::/../other\n", &[V2], &[("sys/fs/cgroup/memory.max", "4096\n")], 4096),
            ("0::/gone\n", &[V2], &[], MACHINE),
            // v1.
            (
                "4:memory:/a\n0::/\n",
                &[V1_CPU, V1],
                &[("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n")],
                4096,
            ),
            (
                "4:memory:/a\n",
                &[V1],
                &[("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")],
                MACHINE,
            ),
            (
                "4:cpu,memory:/docker/abc\n",
                &[docker.as_str()],
                &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n")],
                4096,
            ),
            // Both: the memory controller is in one of them.
            (
                "4:memory:/a\n0::/b\n",
                &[V1, "35 32 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"],
                &[("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n")],
                4096,
            ),
            // Nothing that can be read.
            ("", &[], &[], MACHINE),
            ("nonsense\n", &["nonsense", "1 - cgroup2"], &[], MACHINE),
        ];
        for (cgroup, mounts, files, expected) in cases {
            assert_eq!(limit_of(cgroup, mounts, files), *expected, "{cgroup:?} {mounts:?} {files:?}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        let here = read(Path::new(PROC), Path::new("/"));
        assert!((16 * 1024 * 1024..u64::MAX).contains(&here), "{here}");
        assert_eq!(read(Path::new("/nonexistent"), Path::new("/nonexistent")), u64::MAX);
    }
}
