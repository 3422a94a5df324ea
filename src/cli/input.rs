//! Secrets from files and standard input.  Arguments hold none: every process can see them.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

use crate::config::MAX_FILE_BYTES;
use crate::file_problem::Unreadable;
use crate::secret::Secret;

/// Reads a secret from a file, or from standard input for `-`, without one trailing line ending.
///
/// # Errors
/// [`InputError`]: it cannot be read, or is empty, too large, or not UTF-8.
pub(super) fn read_secret(what: &'static str, path: &Path) -> Result<Secret, InputError> {
    let from = Input::from_argument(path);
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    // One byte above the limit tells a secret that is too long from one that just fits.
    let limit = MAX_FILE_BYTES as u64 + 1;
    let read = match &from {
        Input::Stdin => std::io::stdin().take(limit).read_to_end(&mut bytes),
        Input::File(path) => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        }
    };
    match read {
        Err(source) => return Err(InputError::Unreadable { what, from, source }),
        Ok(_) if bytes.len() > MAX_FILE_BYTES => return Err(InputError::TooLarge { what, from }),
        Ok(_) => {}
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(source) => return Err(InputError::NotUtf8 { what, from, source }),
    };
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(InputError::Empty { what, from });
    }
    Ok(Secret::new(line.to_owned()))
}

/// A secret cannot be read from a file or from standard input.  No text holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The operating system gives no bytes.
    #[error("cannot read the {what} from {from}: {}", Unreadable(.source))]
    Unreadable {
        /// The kind of secret: `token`, `password`.
        what: &'static str,
        /// Its source.
        from: Input,
        /// The error of the operating system.
        source: io::Error,
    },
    /// It is too large.
    #[error("the {what} from {from} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The kind of secret.
        what: &'static str,
        /// Its source.
        from: Input,
    },
    /// It is not UTF-8.
    #[error("the {what} from {from} is not UTF-8")]
    NotUtf8 {
        /// The kind of secret.
        what: &'static str,
        /// Its source.
        from: Input,
        /// Where the text breaks off.
        source: Utf8Error,
    },
    /// There is nothing in its line.
    #[error("the {what} from {from} is empty")]
    Empty {
        /// The kind of secret.
        what: &'static str,
        /// Its source.
        from: Input,
    },
}

/// The source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, written as `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// The source in an argument: `-` is standard input.
    pub fn from_argument(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path.to_owned()) }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => formatter.write_str("standard input"),
            Self::File(path) => write!(formatter, "{}", path.display()),
        }
    }
}
