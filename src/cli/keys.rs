//! `keys`: API keys, through the admin API of a running server; `migrate` and `backup`, on the store itself.

mod audit;
mod backup;
mod batches;
mod bulk;
mod candidates;
mod change;
mod create;
mod error;
mod find;
mod key;
mod list;
mod migrate;
mod reference;
mod transfer;

use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

pub(in crate::cli) use self::create::taken_name_advice;
pub use self::error::KeysError;
pub(in crate::cli) use self::key::short_denial;
use super::admin_api::{Body, KEYS, Life, Response, ServerArgs};
use super::times::{time_and_distance, timestamp};
use super::token_output::TokenOutput;
use super::{AdminApi, CliError, escape_controls};
use crate::secret::Secret;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// List the keys; a key of a service account or a person is shown as OWNER/NAME
    List(list::ListKeysArgs),
    /// Show keys with all their details: also the owner, whose rights a key has, and who created it
    Show(change::ShowKeysArgs),
    /// Create a key and print its token once, alone, to standard output
    Create(create::CreateKeyArgs),
    /// Change the role, name, description, policies, actor or expiry of keys
    #[command(visible_alias = "update")]
    Edit(change::EditKeysArgs),
    /// Disable keys: they are denied until they are enabled
    Disable(change::NamedKeysArgs),
    /// Enable disabled keys
    Enable(change::NamedKeysArgs),
    /// Replace the tokens of keys and print the new tokens once, alone, to standard output
    Rotate(change::RotateKeysArgs),
    /// Revoke keys, by name or by criteria: they are denied at once, which cannot be undone, and stay in the list of
    /// expired and revoked keys
    Revoke(bulk::RevokeKeysArgs),
    /// Delete keys: they are denied at once and removed from the list
    Delete(change::NamedKeysArgs),
    /// Read a token from standard input or the terminal and show the key that it belongs to
    Find(find::FindKeyArgs),
    /// Import keys from a file with one JSON object on each line, as `export` writes it
    Import(transfer::ImportKeysArgs),
    /// Export every live key with the digest of its token, one JSON object on each line
    Export(transfer::ExportKeysArgs),
    /// Show changes and denied attempts, the newest first
    Audit(audit::AuditArgs),
    /// Accept the store as it is after its history was rewritten, for example by the restore of a backup
    AcceptHistory(AcceptHistoryArgs),
    /// Migrate the schema of the store, for servers whose database role may not
    Migrate(migrate::MigrateArgs),
    /// Copy a SQLite store, also while a server uses it
    Backup(backup::BackupArgs),
}

#[derive(Debug, Args)]
pub(super) struct AcceptHistoryArgs {
    #[command(flatten)]
    server: ServerArgs,
}

impl KeysCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Create(create) => create.run(),
            Self::Edit(edit) => edit.run(),
            Self::Disable(keys) => keys.set_disabled(true),
            Self::Enable(keys) => keys.set_disabled(false),
            Self::Rotate(rotate) => rotate.run(),
            Self::Revoke(revoke) => revoke.run(),
            Self::Delete(keys) => keys.delete(),
            Self::Find(find) => find.run(),
            Self::Import(import) => import.run(),
            Self::Export(export) => export.run(),
            Self::Audit(audit) => audit.run(),
            Self::AcceptHistory(accept) => accept.run(),
            Self::Migrate(migrate) => migrate.run(),
            Self::Backup(backup) => backup.run(),
        }
    }
}

impl AcceptHistoryArgs {
    fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        let path = format!("{KEYS}/accept-history");
        let response = api.call(Method::POST, &path, Body::Json(&json!({}))).map_err(KeysError::from)?;
        change::print_message(&api, &response)
    }
}

/// The path of a key, and of what is below it.
fn key_path(id: i64, below: &str) -> String {
    format!("{KEYS}/{id}{below}")
}

/// The response to the creation or the rotation of a key.
#[derive(Deserialize)]
struct IssuedKey {
    id: i64,
    name: String,
    key: String,
    /// Of a rotated key: until when its old token works.  A server of an older version leaves it out.
    #[serde(default, rename = "oldSecretUntil", deserialize_with = "timestamp")]
    old_secret_until: Option<Timestamp>,
}

/// What was done to a key whose token is shown.
#[derive(Debug, Clone, Copy)]
enum Issue {
    /// It was created, with this life.
    Created(Life),
    /// Its token was replaced by another one; the old one works on if that was asked for.
    Rotated { with_overlap: bool },
}

/// Writes the token alone to the output, so that it can be piped, and the rest to standard error: what was done, and
/// until when the key, or its old token, works.
fn print_issued(
    api: &AdminApi,
    response: &Response,
    issue: Issue,
    output: &mut TokenOutput,
) -> Result<(), CliError> {
    let IssuedKey { id, name, key, old_secret_until } = response.parse().map_err(KeysError::from)?;
    let done = match issue {
        Issue::Created(_) => "created",
        Issue::Rotated { .. } => "rotated",
    };
    let (name, key) = (escape_controls(&name), Secret::new(key));
    let lost = || {
        format!(
            "Key {id}, {name}, is {done}, but its token was not delivered: `keys rotate {id}` replaces it."
        )
    };
    if api.wants_json() {
        return output.write(&response.to_line(), lost);
    }
    let (until, what) = match (issue, old_secret_until) {
        (Issue::Created(life), _) => (life.sentence(), "The token"),
        (Issue::Rotated { .. }, Some(at)) => {
            let at = time_and_distance(Timestamp::now(), at);
            (format!("Its old token works until {at}."), "The new token")
        }
        (Issue::Rotated { with_overlap: false }, None) => {
            ("Its old token is denied from now on.".to_owned(), "The new token")
        }
        (Issue::Rotated { with_overlap: true }, None) => {
            (format!("`keys show {id}` says how long its old token works."), "The new token")
        }
    };
    let about = format!("Key {id}, {name}, is {done}.  {until}  {what}");
    output.write_with_note(&about, &format!("{}\n", key.expose()), lost)
}
