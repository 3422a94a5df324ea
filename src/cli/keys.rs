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
use serde::Deserialize;
use serde_json::json;

pub use self::error::KeysError;
use super::admin_api::{Body, KEYS, Life, Response, ServerArgs};
use super::{AdminApi, CliError, escape_controls, print_note, print_token};
use crate::secret::Secret;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Show the keys, as OWNER/NAME where a service account or a person owns one and it stands for them
    List(list::ListKeysArgs),
    /// Show all that is known of keys: the owner, for whom a key stands, and who made it, for whom it does not
    Show(change::ShowKeysArgs),
    /// Make a key: its token alone goes to standard output, this once
    Create(create::CreateKeyArgs),
    /// Change what keys may do, their names, descriptions or expiry
    #[command(visible_alias = "update")]
    Edit(change::EditKeysArgs),
    /// Let keys count no more, until they are enabled
    Disable(change::NamedKeysArgs),
    /// Let disabled keys count again
    Enable(change::NamedKeysArgs),
    /// Give keys new tokens, which alone go to standard output, this once
    Rotate(change::RotateKeysArgs),
    /// End keys for good, and keep them in the list of expired and revoked ones: those named, or all that fit
    Revoke(bulk::RevokeKeysArgs),
    /// End keys for good, and forget them
    Delete(change::NamedKeysArgs),
    /// Read a token from standard input, or at a terminal, and say whose it is
    Find(find::FindKeyArgs),
    /// Take keys in that are written a JSON object a line, as `export` does
    Import(transfer::ImportKeysArgs),
    /// Write every live key, with the digest of its token, a JSON object a line
    Export(transfer::ExportKeysArgs),
    /// Show who changed what, and who tried to: the newest first
    Audit(audit::AuditArgs),
    /// Let what the store says count again after its history was rewritten, as by the restore of a backup
    AcceptHistory(AcceptHistoryArgs),
    /// Bring the schema of the store up to date, for a server whose role may not
    Migrate(migrate::MigrateArgs),
    /// Copy the store of a SQLite file, which a server may have open
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
        change::print_message(&api, &response, None)
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
}

/// Prints the token alone to standard output, so that it can be piped, and the rest to standard error: what was done, and
/// until when the key works where that is known.
fn print_issued(api: &AdminApi, response: &Response, done: &str, life: Option<Life>) -> Result<(), CliError> {
    let IssuedKey { id, name, key } = response.parse().map_err(KeysError::from)?;
    let (name, key) = (escape_controls(&name), Secret::new(key));
    let lost = || {
        format!(
            "Key {id}, {name}, is {done}, and nobody has its token: `keys rotate {id}` gives it another one."
        )
    };
    if api.wants_json() {
        return print_token(&response.to_line(), lost);
    }
    let life = life.map(|life| format!("{}  ", life.sentence())).unwrap_or_default();
    print_note(&format!("Key {id}, {name}, is {done}.  {life}Its token is shown this once:"));
    print_token(&format!("{}\n", key.expose()), lost)
}
