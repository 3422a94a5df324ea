//! Translates files of Grafana's: `ldap.toml` into the section `ldap`, and the `auth.*` sections of its ini file into the
//! section `oauth`; and makes the service accounts and API keys of its database file again.
//!
//! A translation never grants more than Grafana does, unless a note says so.  Settings without a counterpart are noted,
//! and no secret is printed.

pub mod database;
mod directory;
mod ini;
pub mod plan;
mod providers;
mod role_path;
mod text;
pub mod transfer;

use std::io;

use super::Imported;
use crate::cli::AdminApiError;
use crate::file_problem::Unreadable;

/// Why a file has no translation.
#[derive(Debug, thiserror::Error)]
pub enum GrafanaError {
    /// It cannot be read.
    #[error("it cannot be read: {}", Unreadable(.0))]
    Unreadable(#[from] io::Error),
    /// It is not TOML.
    #[error("line {line}, column {column} is not TOML: {problem}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In characters from 1.
        column: usize,
        /// In the parser's words, which quote nothing.
        problem: String,
    },
    /// It is not an ini file.
    #[error("line {line} is not valid in an ini file: {problem}")]
    Ini {
        /// From 1.
        line: usize,
        /// It quotes nothing.
        problem: &'static str,
    },
    /// There are no servers, and no sections of an ini file.
    #[error(
        "it has no [[servers]] and no sections such as [auth.generic_oauth]; expected Grafana's ldap.toml or its ini file"
    )]
    NoServers,
    /// No section about a provider can be translated.
    #[error("no person could log in with the result: {0}")]
    NoProviders(String),
    /// A setting has no translation.
    #[error("{key}: {problem}")]
    Setting {
        /// Its path, such as `servers[0].host`.
        key: String,
        /// Why not.
        problem: String,
    },
    /// It is a database that cannot be read.
    #[error("it cannot be read as a database: {0}")]
    Database(#[from] sqlx::Error),
    /// It is a database of another program.
    #[error("it is a database without Grafana's tables `api_key` and `user`")]
    NotGrafanas,
    /// Several organisations have keys.
    #[error(
        "the organizations {0} have keys, and one server takes the keys of one organization: choose it with \
         --org ID"
    )]
    Organisations(String),
    /// There is no such organisation.
    #[error("it has no organization {0}")]
    NoOrganisation(i64),
    /// A file of a configuration, and arguments about a database.
    #[error(
        "it is not a SQLite file; --org, --dry-run and the arguments about a server are for Grafana's database file only"
    )]
    NoDatabase,
    /// The file of the new tokens is not named.
    #[error(
        "it is a database: give --output FILE for the new tokens, or --dry-run to see what would be created"
    )]
    NoOutput,
    /// A new token cannot be written.
    #[error("a new token cannot be written into the file: {0}\nthe key was created: rotate or delete it")]
    Tokens(#[source] io::Error),
    /// The server does not answer.
    #[error("{0}")]
    Api(#[source] Box<AdminApiError>),
    /// The server did not take everything; each thing has been reported.
    #[error("{0} of its accounts and keys were not created")]
    NotAll(usize),
    /// Our own reader rejects the result.
    #[error("the result is not a valid configuration: {0}")]
    Invalid(String),
}

/// Translates the text of a file; its sections show its kind.
///
/// # Errors
/// [`GrafanaError`]: the file is not of this kind, or a part without translation would grant more rights or let no one
/// in.
pub fn import(text: &str) -> Result<Imported, GrafanaError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_ini(text) { providers::import(text) } else { directory::import(text) }
}

fn is_ini(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let is_section = |line: &str| line == "[server]" || line == "[auth]" || line.starts_with("[auth.");
    !lines.clone().any(|line| line.starts_with("[[")) && lines.any(is_section)
}
