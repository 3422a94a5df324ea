//! The files of a configuration, and whether their contents have changed since.

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

/// The files of a configuration, each with the digest of the bytes that were read.  So a change between the reading and
/// the first call of [`Files::have_changed`] is found, too.
///
/// Pipes and devices cannot be read twice, and are not recorded.
#[derive(Default, Clone)]
pub struct Files(BTreeMap<Reading, Option<ContentDigest>>);

/// A path, and the limit of bytes to read.
type Reading = (PathBuf, usize);

/// SHA-256 of the content; `None`: the file could not be read.
type ContentDigest = [u8; 32];

/// The metadata that changes with every write to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    file: (u64, u64),
    length: u64,
    changed: [(i64, i64); 2],
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = [modified, (metadata.ctime(), metadata.ctime_nsec())];
        Self { file: (metadata.dev(), metadata.ino()), length: metadata.len(), changed }
    }
}

/// The digest of no content, for a file that changed between two readings.
const CHANGED_WHILE_READ: Option<ContentDigest> = Some([0; 32]);

impl Files {
    /// The paths, in alphabetical order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(|(path, _)| path.as_path())
    }

    /// Whether one of them has other bytes than those that were read, was removed, or was created.
    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|((path, limit), digest)| digest_of(path, *limit) != *digest)
    }

    /// The metadata of each: while it stays the same, no file is being written.
    pub fn stamps(&self) -> Vec<Option<FileStamp>> {
        self.paths()
            .map(|path| std::fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata)))
            .collect()
    }

    /// Records the bytes that were read from a file, or that it could not be read.
    pub(super) fn record(&mut self, path: &Path, limit: usize, bytes: Option<&[u8]>) {
        if std::fs::metadata(path).is_ok_and(|metadata| !can_be_read_twice(&metadata)) {
            return;
        }
        let digest = bytes.map(|bytes| ContentDigest::from(Sha256::digest(bytes)));
        let recorded = self.0.entry((path.to_owned(), limit)).or_insert(digest);
        // It changed between two readings, so it must be read again in any case.
        if *recorded != digest {
            *recorded = CHANGED_WHILE_READ;
        }
    }

    /// Records a file by its present content, unless it is recorded already.
    pub(super) fn record_now(&mut self, path: &Path) {
        if !self.paths().any(|recorded| recorded == path) {
            self.0.insert((path.to_owned(), usize::MAX), digest_of(path, usize::MAX));
        }
    }
}

fn can_be_read_twice(metadata: &Metadata) -> bool {
    metadata.is_file() || metadata.is_dir()
}

fn digest_of(path: &Path, limit: usize) -> Option<ContentDigest> {
    // Opening a pipe would wait for a writer.
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

/// How pipes and devices are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeHandling {
    /// They are read like files, for the shell's `<(…)`.
    Read,
    /// They cannot be read: opening one may block forever, since its writer has gone.
    Rejected,
}

/// An environment that records the files that are read.
pub(super) struct RecordingEnvironment<'e> {
    pub(super) environment: &'e dyn Environment,
    pub(super) pipes: PipeHandling,
    pub(super) files: RefCell<Files>,
}

impl Environment for RecordingEnvironment<'_> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.variable(name)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let is_pipe = || std::fs::metadata(path).is_ok_and(|metadata| !can_be_read_twice(&metadata));
        if self.pipes == PipeHandling::Rejected && is_pipe() {
            // Like a file that cannot be read: a file in its place is a change.
            self.files.borrow_mut().0.insert((path.to_owned(), limit), None);
            let why = "it is a pipe or a device, which a reload cannot read";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let bytes = self.environment.read(path, limit);
        self.files.borrow_mut().record(path, limit, bytes.as_deref().ok());
        bytes
    }

    fn folder_problem(&self, file: &Path) -> Option<FolderProblem> {
        self.environment.folder_problem(file)
    }

    fn is_world_writable(&self, path: &Path) -> bool {
        self.environment.is_world_writable(path)
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
            let recording = RecordingEnvironment {
                environment: &ProcessEnvironment,
                pipes: PipeHandling::Read,
                files: RefCell::default(),
            };
            let _ = recording.read(&path, 8);
            recording.files.into_inner()
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
        let recording = RecordingEnvironment {
            environment: &ProcessEnvironment,
            pipes: PipeHandling::Read,
            files: RefCell::default(),
        };
        for text in ["one", "two"] {
            std::fs::write(&path, text).unwrap();
            recording.read(&path, 8).unwrap();
        }
        assert!(recording.files.borrow().have_changed());
    }

    #[test]
    fn the_same_file_may_be_read_up_to_different_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "12345678 and more").unwrap();
        let recording = RecordingEnvironment {
            environment: &ProcessEnvironment,
            pipes: PipeHandling::Read,
            files: RefCell::default(),
        };
        for limit in [8, 100] {
            recording.read(&path, limit).unwrap();
        }
        assert!(!recording.files.borrow().have_changed());
    }

    #[test]
    fn what_cannot_be_read_twice_is_left_out() {
        let mut files = Files::default();
        files.record(Path::new("/dev/null"), 8, Some(b""));
        assert_eq!(files.paths().count(), 0);
        assert!(!files.have_changed());
    }
}
