//! Why a command of `keys` fails.

use std::path::PathBuf;

use super::super::{AdminApiError, Input, InputError};
use super::batches::{FailedBatch, LineProblem};
use super::candidates::Candidates;
use crate::file_problem::Unreadable;
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
    /// No key has the id.
    #[error(
        "there is no key with the id {0}: digits alone are an id, and `keys list` shows it, with --expired those of \
         dead keys too"
    )]
    NoSuchId(i64),
    /// No key has the id, but keys have it as their name.
    #[error(
        "there is no key with the id {name}: a name of digits alone is read as an id. Use the id of \
         the key:{candidates}"
    )]
    NameIsNoId {
        /// The name, which looks like an id.
        name: i64,
        /// The keys of this name.
        candidates: Candidates,
    },
    /// Of several keys that are named one is not found.
    #[error("{0}\nNo key was changed, because one name or id was not found.")]
    NothingDone(#[source] Box<KeysError>),
    /// The state of the key does not let it.
    #[error("{source}: {advice}")]
    OfState {
        /// The message of the API.
        source: Box<AdminApiError>,
        /// What to do.
        advice: String,
    },
    /// `revoke`: a dry run of what is named.
    #[error("--dry-run is for criteria such as --created-by: `keys show` shows keys that are named")]
    DryRunOfNames,
    /// Several keys have the name.
    #[error("several keys have the name {name:?}. Use the id of the key:{candidates}")]
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
    #[error("--name is for one key: two keys of one owner cannot have the same name")]
    NameForSeveral,
    /// Standard input should be two things at once.
    #[error("standard input cannot be both the credential and {0}")]
    StdinTwice(&'static str),
    /// `find`: what was read is no token.
    #[error("that cannot be a token: {0}")]
    NotAToken(#[from] crate::token::TokenError),
    /// `import`: the file cannot be read.
    #[error("cannot read the keys from {file}: {}", Unreadable(.source))]
    ImportFile {
        /// The file.
        file: Input,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// `import`: a line cannot be sent.
    #[error("{file}, line {line} {problem}\nNo key is imported.")]
    ImportLine {
        /// The file.
        file: Input,
        /// From 1.
        line: usize,
        /// The problem.
        problem: LineProblem,
    },
    /// `import`: a request fails.
    #[error("{0}")]
    ImportBatch(Box<FailedBatch>),
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
