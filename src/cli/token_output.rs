//! Where a new token is written: standard output, or a new file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, escape_controls, print_note};
use crate::file_problem::Unwritable;

/// The argument that says where a new token is written.
#[derive(Debug, Args)]
pub(super) struct TokenOutputArgs {
    /// Write the token to this new file (mode 0600) instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why a token is not written to a file.
#[derive(Debug, thiserror::Error)]
pub enum TokenOutputError {
    /// The file is there already.
    #[error("{} exists already: nothing was created or changed; give --output another file", .0.display())]
    Exists(PathBuf),
    /// The file cannot be created.
    #[error("cannot create {}: {}; nothing was created or changed", path.display(), Unwritable(.source))]
    Create {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Where new tokens are written.  A file without a token is removed at the end.
pub(super) enum TokenOutput {
    Stdout,
    File { path: PathBuf, file: File, has_token: bool },
}

impl TokenOutputArgs {
    /// Creates the file.  A command does this before it changes anything.
    ///
    /// # Errors
    /// [`TokenOutputError`].
    pub(super) fn open(self) -> Result<TokenOutput, TokenOutputError> {
        let Some(path) = self.output else { return Ok(TokenOutput::Stdout) };
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(TokenOutput::File { path, file, has_token: false }),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(TokenOutputError::Exists(path))
            }
            Err(source) => Err(TokenOutputError::Create { path, source }),
        }
    }
}

impl TokenOutput {
    /// Writes a token.  It is shown only once: if it cannot be written, it is lost, and `lost` says so.
    ///
    /// # Errors
    /// [`CliError::TokenLost`].
    pub(super) fn write(&mut self, text: &str, lost: impl FnOnce() -> String) -> Result<(), CliError> {
        let written = match self {
            Self::Stdout => io::stdout().write_all(text.as_bytes()),
            Self::File { file, has_token, .. } => {
                let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
                *has_token |= written.is_ok();
                written
            }
        };
        written.map_err(|source| CliError::TokenLost { place: self.to_string(), lost: lost(), source })
    }

    /// Writes a token, and a note about it to standard error.  `about` ends with the subject of the next sentence, such as
    /// "The token".
    ///
    /// # Errors
    /// [`CliError::TokenLost`].
    pub(super) fn write_with_note(
        &mut self,
        about: &str,
        token: &str,
        lost: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        match self {
            // Before the token: at a terminal the token is below the note.
            Self::Stdout => {
                print_note(&format!("{about} is shown only once:"));
                self.write(token, lost)
            }
            Self::File { .. } => {
                self.write(token, lost)?;
                print_note(&format!("{about} is in {self}."));
                Ok(())
            }
        }
    }
}

impl fmt::Display for TokenOutput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => formatter.write_str("standard output"),
            Self::File { path, .. } => formatter.write_str(&escape_controls(&path.display().to_string())),
        }
    }
}

impl Drop for TokenOutput {
    fn drop(&mut self) {
        if let Self::File { path, has_token: false, .. } = self {
            // Where it cannot be removed, it stays as an empty file.
            let _ = fs::remove_file(path);
        }
    }
}
