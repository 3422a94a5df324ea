//! A small file system that can be filled and emptied.
//!
//! Where the kernel lets us, it is a tmpfs in a mount namespace of its own: nothing of it is seen outside, and it goes
//! with its last process.  In a container that forbids both, the size of files is limited instead (RLIMIT_FSIZE): then
//! a write fails with EFBIG where a full disk fails with ENOSPC.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// How the space is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A tmpfs in a mount namespace; only root may make one.
    Mount,
    /// The same in a user namespace, which makes us root there.
    UserMount,
    /// A limit on the size of files, of the processes that [`SmallDisk::launcher`] starts.
    FileSize,
}

/// A folder with little space, for the processes that its launcher starts.
pub struct SmallDisk {
    way: Way,
    folder: TempDir,
    /// Holds the namespace.
    holder: Option<Child>,
}

/// Remembers its number, so that a limit can follow, and takes an error for a signal; the limit may stand already.
const LIMITED: &str = r#"echo $$ >> "$0/processes"; trap '' XFSZ
if [ -e "$0/full" ]; then ulimit -S -f 0; fi
exec "$@""#;

impl SmallDisk {
    /// One with so many bytes, by the first way that works here.
    pub fn with(bytes: u64) -> Self {
        let mut reasons = Vec::new();
        for way in [Way::Mount, Way::UserMount, Way::FileSize] {
            match Self::by(way, bytes) {
                Ok(disk) => {
                    eprintln!("a small disk by {way:?}; not by {reasons:?}");
                    return disk;
                }
                Err(reason) => reasons.push((way, reason)),
            }
        }
        panic!(
            "no small file system can be made: {reasons:?}; the tests need root, user namespaces, or prlimit (util-linux)"
        );
    }

    /// One by this way, or the reason why not.
    pub fn by(way: Way, bytes: u64) -> Result<Self, String> {
        let folder = TempDir::new().expect("a fresh folder");
        let mut disk = Self { way, folder, holder: None };
        fs::create_dir(disk.path()).expect("a folder in a fresh one");
        let mut command = Command::new("unshare");
        match way {
            Way::Mount => command.arg("--mount"),
            Way::UserMount => command.args(["--user", "--map-root-user", "--mount"]),
            Way::FileSize => {
                let prlimit = Command::new("prlimit").arg("--version").output();
                return prlimit.map(|_| disk).map_err(|error| format!("prlimit: {error}"));
            }
        };
        // It ends when our end of the pipe closes, however we end.
        let script = r#"mount -t tmpfs -o "size=$1" tmpfs "$0" && echo mounted && read -r _"#;
        command.args(["sh", "-c", script]).arg(disk.path()).arg(bytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let (mut told, mut complaint) = (String::new(), String::new());
        let stdout = holder.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut told).expect("a pipe of ours");
        if told.trim() != "mounted" {
            holder.stderr.take().expect("stderr is piped").read_to_string(&mut complaint).expect("text");
            let _ = holder.wait();
            return Err(complaint.trim().to_owned());
        }
        disk.holder = Some(holder);
        Ok(disk)
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Where the space is little, as the launcher's processes see it.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A file there, as this test's own process reaches it.  Not for SQLite, which follows the way to another file.
    pub fn outside(&self, name: &str) -> PathBuf {
        match &self.holder {
            Some(holder) => {
                let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
                root.join(self.path().strip_prefix("/").expect("an absolute path")).join(name)
            }
            None => self.path().join(name),
        }
    }

    /// The words before a program that sees the small file system: see [`super::Setup::behind`].
    pub fn launcher(&self) -> Vec<OsString> {
        let words: Vec<String> = match (&self.holder, self.way) {
            (None, _) => {
                let folder = self.folder.path().display().to_string();
                vec!["sh".into(), "-c".into(), LIMITED.into(), folder]
            }
            (Some(holder), way) => {
                let mut words = vec!["nsenter".to_owned(), "--target".to_owned(), holder.id().to_string()];
                if way == Way::UserMount {
                    words.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
                }
                words.extend(["--mount".to_owned(), "--".to_owned()]);
                words
            }
        };
        words.into_iter().map(OsString::from).collect()
    }

    /// A program that sees it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let launcher = self.launcher();
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).arg(program.as_ref());
        command
    }

    /// Not a byte more can be written.
    pub fn fill(&self) {
        if self.way == Way::FileSize {
            fs::write(self.folder.path().join("full"), "").expect("a file beside");
            self.limit(|_| "0".to_owned());
            return;
        }
        let mut filler = fs::File::create(self.outside("filler")).expect("a file there");
        let error = loop {
            if let Err(error) = filler.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// There is space again.
    pub fn empty(&self) {
        if self.way == Way::FileSize {
            fs::remove_file(self.folder.path().join("full")).expect("it is full");
            // The soft limit becomes what the hard one is.
            self.limit(|process| {
                let asked = ["--fsize", "--output=HARD", "--noheadings", "--raw", "--pid", process];
                let output = Command::new("prlimit").args(asked).output().expect("prlimit");
                String::from_utf8(output.stdout).expect("a number or a word").trim().to_owned()
            });
            return;
        }
        fs::remove_file(self.outside("filler")).expect("it is full");
    }

    fn limit(&self, soft: impl Fn(&str) -> String) {
        let processes = fs::read_to_string(self.folder.path().join("processes")).unwrap_or_default();
        for process in processes.lines().filter(|process| Path::new("/proc").join(process).exists()) {
            let limit = format!("--fsize={}:", soft(process));
            let status = Command::new("prlimit").args(["--pid", process, &limit]).status();
            // It may have ended just now.
            let gone = !Path::new("/proc").join(process).exists();
            assert!(status.expect("prlimit").success() || gone, "{limit} of {process}");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}
