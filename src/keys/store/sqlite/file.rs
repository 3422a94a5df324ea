//! The file of a SQLite store, and its sidecar files `-wal` and `-shm`, in the file system.
//!
//! SQLite relates a `-wal` to a file only by its path: a program that opens a file applies the `-wal` next to it.  So a
//! file that replaces another one must not find the `-wal` of the other.

use std::ffi::OsString;
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access};

/// The first 16 bytes of a SQLite file.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The length of a SQLite file's header, in bytes.
pub const HEADER_BYTES: usize = 100;

/// One file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    /// The number of a removed file is given to a new one.
    born: Option<SystemTime>,
}

impl FileId {
    /// The file at this path; `None` when there is none.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the device, whose number may be another one after the machine started again.
        let born =
            self.born.and_then(|born| born.duration_since(UNIX_EPOCH).ok()).map_or(0, |born| born.as_nanos());
        write!(formatter, "{} {born}", self.inode)
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

/// Whether this process may read the file: SQLite does not say why it cannot open one.
///
/// # Errors
/// It may not.
pub fn check_readable(path: &Path) -> io::Result<()> {
    Ok(access(path, Access::READ_OK)?)
}

/// The path of a sidecar file of SQLite, such as `-wal`.
pub fn sidecar_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a file of this length with this header is a whole SQLite file, and not one that is still being copied.
pub fn is_whole(header: &[u8; HEADER_BYTES], length: u64) -> bool {
    let number = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u64::from(u32::from_be_bytes(bytes))
    };
    let page_size = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        size => size,
    };
    // The number of pages counts where it was written with the last change.
    let pages = if number(24) == number(92) { number(28) } else { 1 };
    header.starts_with(MAGIC) && length >= page_size * pages.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_still_being_copied_is_not_whole() {
        let mut header = [0; HEADER_BYTES];
        assert!(!is_whole(&header, 0));
        header[..16].copy_from_slice(MAGIC);
        header[16..18].copy_from_slice(&4096_u16.to_be_bytes());
        header[28..32].copy_from_slice(&3_u32.to_be_bytes());
        assert!(!is_whole(&header, 3 * 4096 - 1));
        assert!(is_whole(&header, 3 * 4096));
        // An old program wrote it last, and left the number of pages as it was.
        header[24..28].copy_from_slice(&7_u32.to_be_bytes());
        assert!(is_whole(&header, 4096));
        header[16..18].copy_from_slice(&1_u16.to_be_bytes());
        assert!(!is_whole(&header, 4096));
        assert!(is_whole(&header, 65_536));
    }

    #[test]
    fn a_file_keeps_its_identity_under_another_name_and_a_copy_has_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert_eq!(FileId::of(&path("a")).unwrap(), None);
        std::fs::write(path("a"), "").unwrap();
        let id = FileId::of(&path("a")).unwrap();
        std::fs::copy(path("a"), path("b")).unwrap();
        assert_ne!(FileId::of(&path("b")).unwrap(), id);
        std::fs::rename(path("a"), path("c")).unwrap();
        assert_eq!(FileId::of(&path("c")).unwrap(), id);
        assert_eq!(sidecar_path(&path("c"), "-wal"), path("c-wal"));
    }
}
