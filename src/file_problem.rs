//! What the operating system says of a file that cannot be used, with what to do about it.
//!
//! The text continues after the path: an error names the file first.

use std::fmt;
use std::io::{Error, ErrorKind};

/// Why a file cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct Unreadable<'e>(pub &'e Error);

/// Why a file cannot be written, or not be made.
#[derive(Debug, Clone, Copy)]
pub struct Unwritable<'e>(pub &'e Error);

impl fmt::Display for Unreadable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.kind() {
            ErrorKind::NotFound => "; correct the path, or put the file there",
            ErrorKind::PermissionDenied => {
                "; let the user who runs this program read the file and enter the folders above it"
            }
            kind => of_path(kind),
        };
        write!(formatter, "{}{advice}", self.0)
    }
}

impl fmt::Display for Unwritable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.0.kind() {
            ErrorKind::NotFound => "; make the folder first, or correct the path",
            ErrorKind::PermissionDenied => {
                "; let the user who runs this program write the file and into its folder, or name another file"
            }
            ErrorKind::ReadOnlyFilesystem => "; name a file in a place that can be written",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free space there, or name another file",
            kind => of_path(kind),
        };
        write!(formatter, "{}{advice}", self.0)
    }
}

/// What to do about a path that leads to no file; empty where the error says no such thing.
fn of_path(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::IsADirectory => "; name a file in it",
        ErrorKind::NotADirectory => "; correct the path: a part of it that should be a folder is a file",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_comes_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        let read = |name: &str| Unreadable(&std::fs::read_to_string(at(name)).unwrap_err()).to_string();
        let write = |name: &str| Unwritable(&std::fs::write(at(name), "").unwrap_err()).to_string();
        for (text, expected) in [
            (read("none"), "No such file or directory (os error 2); correct the path, or put the file there"),
            (read("."), "Is a directory (os error 21); name a file in it"),
            (read("file/x"), "Not a directory (os error 20); correct the path: a part of it that should be"),
            (write("none/x"), "No such file or directory (os error 2); make the folder first, or correct"),
            (write("."), "Is a directory (os error 21); name a file in it"),
        ] {
            assert!(text.starts_with(expected), "{text}");
        }
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert_ne!(Unreadable(&denied).to_string(), Unwritable(&denied).to_string());
        assert!(Unreadable(&denied).to_string().contains("let the user who runs this program read"));
        // What has no advice stands as it is.
        assert_eq!(Unreadable(&Error::other("it is a pipe")).to_string(), "it is a pipe");
    }
}
