//! Why a command of `keys` fails.

use std::path::PathBuf;

use super::super::{AdminApiError, InputError};
use super::candidates::Candidates;
use crate::keys::store::{BackupError, OpenError, UrlError};

/// Why a command of `keys` failed.  No text holds a token, a password or a part of a private key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A call of the admin API fails.
    #[error("{0}")]
    Api(#[from] AdminApiError),
    /// A secret, or a file of keys, cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// No key has the name.
    #[error("there is no key {0:?}: `keys list` shows the names, with --expired those of dead keys too")]
    NoSuchKey(String),
    /// Several keys have the name.
    #[error("{name:?} may be one of several keys: say which by its id{candidates}")]
    AmbiguousName {
        /// The name.
        name: String,
        /// The keys.
        candidates: Candidates,
    },
    /// Of several keys some failed; each has been reported.
    #[error("{failed} of {all} failed")]
    SomeFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// `edit`: a name is for one key.
    #[error("--name is for one key alone: two of one owner cannot have the same")]
    NameForSeveral,
    /// Standard input should be two things at once.
    #[error("standard input cannot be both the credential and {0}")]
    StdinTwice(&'static str),
    /// `find`: what was read is no token.
    #[error("that cannot be a token: {0}")]
    NotAToken(#[from] crate::token::TokenError),
    /// `import`: a line is no JSON object.
    #[error("line {line} is not a JSON object: {source}")]
    ImportLine {
        /// From 1.
        line: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// `import`: a line is longer than a request may be.
    #[error("line {0} is longer than a request may be")]
    ImportLineTooLong(usize),
    /// `import`: the file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ImportFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// `import`: a request fails.
    #[error("lines {first} to {last} are not imported: {source}\n{imported} keys of the lines before are")]
    ImportBatch {
        /// The first of its lines, from 1.
        first: usize,
        /// The last of its lines.
        last: usize,
        /// How many keys were imported by the requests before.
        imported: u64,
        /// Why it fails.
        source: Box<AdminApiError>,
    },
    /// `migrate`: the text is not the URL of a store.
    #[error("--store-file: {0}")]
    StoreUrl(#[source] UrlError),
    /// `migrate`: the store cannot be opened or brought up to date.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// `migrate` and `backup`: the configuration names no store.
    #[error("the configuration {} has no section `keys`, and so no store", .0.display())]
    NoStore(PathBuf),
    /// The store to copy is a PostgreSQL database.
    #[error("the key store is a PostgreSQL database: copy it with pg_dump")]
    BackupOfPostgres,
    /// No backup was made.
    #[error("{0}")]
    Backup(#[from] BackupError),
}
