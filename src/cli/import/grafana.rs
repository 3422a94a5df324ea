//! Translates files of Grafana's: `ldap.toml` into the section `ldap`, and the `auth.*` sections of its ini file into the
//! section `oauth`.
//!
//! Nobody gets more by a translation than Grafana gives, but where a note says so.  What has no counterpart is noted, and no
//! secret is printed.

mod directory;
mod ini;
mod providers;
mod role_path;
mod text;

use std::io;

use super::Imported;

/// Why a file has no translation.
#[derive(Debug, thiserror::Error)]
pub enum GrafanaError {
    /// It cannot be read.
    #[error("{0}")]
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
    /// It is no ini file.
    #[error("line {line} is not one of an ini file: {problem}")]
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
    #[error("nobody could log in: {0}")]
    NoProviders(String),
    /// A setting has no translation.
    #[error("{key}: {problem}")]
    Setting {
        /// Its path, such as `servers[0].host`.
        key: String,
        /// Why not.
        problem: String,
    },
    /// Our own reader rejects the result.
    #[error("what comes out is no valid configuration: {0}")]
    Invalid(String),
}

/// Translates the text of a file, whose kind its sections tell.
///
/// # Errors
/// [`GrafanaError`]: it is no such file, or a part without translation would let somebody do more, or nobody in.
pub fn import(text: &str) -> Result<Imported, GrafanaError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_ini(text) { providers::import(text) } else { directory::import(text) }
}

fn is_ini(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let is_section = |line: &str| line == "[server]" || line == "[auth]" || line.starts_with("[auth.");
    !lines.clone().any(|line| line.starts_with("[[")) && lines.any(is_section)
}
