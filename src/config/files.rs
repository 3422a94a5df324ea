//! Which files a load has read, and whether they still say the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::secrets::Environment;
use crate::folder::FolderProblem;

/// The files that a load asked for, each with the digest of what it read: a change that comes between the
/// reading and the first look at [`Files::have_changed`] is one, too.
///
/// Whatever else a file is by then (a pipe, a device) cannot be read twice and is left out.
#[derive(Default, Clone)]
pub struct Files(BTreeMap<Reading, Option<ContentDigest>>);

/// A path, and how many bytes of the file were asked for.
type Reading = (PathBuf, usize);

/// `None` in its place is that the file could not be read.
type ContentDigest = [u8; 32];

/// Which file it is, how long it is, and when it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    length: u64,
    changed: [(i64, i64); 2],
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = [modified, (metadata.ctime(), metadata.ctime_nsec())];
        Self { file: (metadata.dev(), metadata.ino()), length: metadata.len(), changed }
    }
}

/// No content's: it was another one each time.
const UNSTEADY: Option<ContentDigest> = Some([0; 32]);

impl Files {
    /// Their paths as they were asked for, in alphabetical order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(|(path, _)| path.as_path())
    }

    /// Whether one of them has other bytes than those that were read, has gone, or has come.
    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|((path, limit), digest)| digest_of(path, *limit) != *digest)
    }

    /// What the file system says of each: as long as it says the same, nobody writes to one.
    pub fn stamps(&self) -> Vec<Option<Stamp>> {
        self.paths().map(|path| std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))).collect()
    }

    /// These bytes were read of a file, or it could not be read.
    pub(super) fn note(&mut self, path: &Path, limit: usize, bytes: Option<&[u8]>) {
        if std::fs::metadata(path).is_ok_and(|metadata| !is_steady(&metadata)) {
            return;
        }
        let digest = bytes.map(|bytes| ContentDigest::from(Sha256::digest(bytes)));
        let noted = self.0.entry((path.to_owned(), limit)).or_insert(digest);
        // It was read twice and changed in between: whatever it says now, it is to be read again.
        if *noted != digest {
            *noted = UNSTEADY;
        }
    }

    /// A file that somebody else has read by now.
    pub(super) fn note_now(&mut self, path: &Path) {
        if !self.paths().any(|noted| noted == path) {
            self.0.insert((path.to_owned(), usize::MAX), digest_of(path, usize::MAX));
        }
    }
}

fn is_steady(metadata: &Metadata) -> bool {
    metadata.is_file() || metadata.is_dir()
}

fn digest_of(path: &Path, limit: usize) -> Option<ContentDigest> {
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?.take(u64::try_from(limit).unwrap_or(u64::MAX));
    let mut hash = Sha256::new();
    let mut buffer = Zeroizing::new([0; 16 * 1024]);
    loop {
        match file.read(buffer.as_mut_slice()) {
            Ok(0) => return Some(hash.finalize().into()),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.paths()).finish()
    }
}

/// What becomes of a path that leads to no file: to a pipe, a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipes {
    /// They are read like files, as the shell's `<(…)` wants it.
    Read,
    /// They are not: opening one may wait for ever, and whoever wrote the first time has gone.
    Rejected,
}

/// An environment whose files are noted as they are read.
pub(super) struct Noting<'e> {
    pub(super) environment: &'e dyn Environment,
    pub(super) pipes: Pipes,
    pub(super) files: RefCell<Files>,
}

impl Environment for Noting<'_> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.variable(name)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let is_pipe = || std::fs::metadata(path).is_ok_and(|metadata| !is_steady(&metadata));
        if self.pipes == Pipes::Rejected && is_pipe() {
            // Like a file that cannot be read: the one that comes in its place is a change.
            self.files.borrow_mut().0.insert((path.to_owned(), limit), None);
            let why = "it is a pipe or a device, and no reload reads one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let bytes = self.environment.read(path, limit);
        self.files.borrow_mut().note(path, limit, bytes.as_deref().ok());
        bytes
    }

    fn folder_problem(&self, file: &Path) -> Option<FolderProblem> {
        self.environment.folder_problem(file)
    }

    fn is_open_to_everybody(&self, path: &Path) -> bool {
        self.environment.is_open_to_everybody(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::secrets::ProcessEnvironment;
    use super::*;

    #[test]
    fn a_change_is_one_of_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = || {
            let noting =
                Noting { environment: &ProcessEnvironment, pipes: Pipes::Read, files: RefCell::default() };
            let _ = noting.read(&path, 8);
            noting.files.into_inner()
        };
        let missing = read();
        assert!(!missing.have_changed());
        std::fs::write(&path, "one").unwrap();
        assert!(missing.have_changed(), "it has come");

        let one = read();
        std::fs::write(&path, "one").unwrap();
        assert!(!one.have_changed(), "the same bytes again");
        std::fs::write(&path, "two").unwrap();
        assert!(one.have_changed(), "other bytes");
        std::fs::remove_file(&path).unwrap();
        assert!(one.have_changed(), "it has gone");

        std::fs::write(&path, "12345678 and more").unwrap();
        let cut = read();
        assert!(!cut.have_changed());
        std::fs::write(&path, "12345678 and else").unwrap();
        assert!(!cut.have_changed(), "beyond what was read");
    }

    #[test]
    fn a_file_that_changes_between_two_readings_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let noting =
            Noting { environment: &ProcessEnvironment, pipes: Pipes::Read, files: RefCell::default() };
        for text in ["one", "two"] {
            std::fs::write(&path, text).unwrap();
            noting.read(&path, 8).unwrap();
        }
        assert!(noting.files.borrow().have_changed());
    }

    #[test]
    fn the_same_file_may_be_read_up_to_different_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "12345678 and more").unwrap();
        let noting =
            Noting { environment: &ProcessEnvironment, pipes: Pipes::Read, files: RefCell::default() };
        for limit in [8, 100] {
            noting.read(&path, limit).unwrap();
        }
        assert!(!noting.files.borrow().have_changed());
    }

    #[test]
    fn what_cannot_be_read_twice_is_left_out() {
        let mut files = Files::default();
        files.note(Path::new("/dev/null"), 8, Some(b""));
        assert_eq!(files.paths().count(), 0);
        assert!(!files.have_changed());
    }
}
