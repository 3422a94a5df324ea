//! The errors of the commands.
//!
//! [`CliError`] is what every command returns.  Commands with failures of their own have an error type beside
//! them, which it wraps.  A `Display` text includes that of the cause; `source` gives the cause itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

use super::envoy::EnvoyError;
use super::health::HealthError;
use super::import::ImportError;
use super::keys::KeysError;
use crate::app::ServeError;
use crate::config::{Errors, MAX_FILE_BYTES};
use crate::password::PasswordError;
use crate::telemetry::audit_log::AuditLogError;
use crate::token::TokenError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is not valid, or cannot be read.
    #[error("{0}")]
    Configuration(#[from] Errors),
    /// `check --strict`: the configuration is valid, but has warnings.
    #[error("--strict: the warnings above are errors")]
    Warnings,
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// Files cannot be written into a directory.
    #[error("cannot write into {}: {source}", path.display())]
    WriteInto {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A manual page cannot be rendered.
    #[error("{0}")]
    Render(#[source] io::Error),
    /// A secret cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The runtime of a command cannot be started.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// The worker threads of the server cannot be started.
    #[error("cannot start {workers} threads: {source}")]
    Workers {
        /// How many there should be.
        workers: usize,
        /// What the operating system says.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The audit log cannot be written.
    #[error("{0}")]
    AuditLog(#[from] AuditLogError),
    /// The server cannot start, or has stopped by itself.
    #[error("{0}")]
    Serve(#[from] ServeError),
    /// The operating system has no randomness to give.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[source] getrandom::Error),
    /// `token new --prefix`: this is not a prefix.
    #[error("a prefix is 1 to 32 letters and digits")]
    TokenPrefix,
    /// A text is not a token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// A password cannot be hashed.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// `health` fails.
    #[error("{0}")]
    Health(#[from] HealthError),
    /// `envoy` fails.
    #[error("{0}")]
    Envoy(#[from] EnvoyError),
    /// `import` fails.
    #[error("{0}")]
    Import(#[from] ImportError),
    /// `keys` fails.
    #[error("{0}")]
    Keys(#[from] KeysError),
    /// `explain` fails.
    #[error("{0}")]
    Explain(String),
}

impl CliError {
    /// The text for standard error, without a line ending.
    ///
    /// Diagnostics of a configuration begin with their own severity.
    pub fn report(&self) -> String {
        match self {
            Self::Configuration(_)
            | Self::Import(ImportError::Unreadable(_) | ImportError::Template(_))
            | Self::Explain(_) => self.to_string(),
            other => format!("error: {other}"),
        }
    }
}

impl From<CliError> for String {
    fn from(error: CliError) -> Self {
        error.report()
    }
}

impl From<InputError> for String {
    fn from(error: InputError) -> Self {
        CliError::from(error).report()
    }
}

/// A secret cannot be read from a file or from standard input.  No text holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The operating system gives no bytes.
    #[error("cannot read the {what} from {from}: {source}")]
    Unreadable {
        /// The kind of secret: `token`, `password`.
        what: &'static str,
        /// Where it is read from.
        from: Input,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is too large.
    #[error("the {what} from {from} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The kind of secret.
        what: &'static str,
        /// Where it is read from.
        from: Input,
    },
    /// It is not UTF-8.
    #[error("the {what} from {from} is not UTF-8")]
    NotUtf8 {
        /// The kind of secret.
        what: &'static str,
        /// Where it is read from.
        from: Input,
        /// Where the text breaks off.
        source: Utf8Error,
    },
    /// There is nothing in its line.
    #[error("the {what} from {from} is empty")]
    Empty {
        /// The kind of secret.
        what: &'static str,
        /// Where it is read from.
        from: Input,
    },
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, written as `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// What an argument names: `-` is standard input.
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
