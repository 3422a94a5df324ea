//! `keys backup`, which reads the store itself and needs no server.

use std::path::PathBuf;

use clap::Args;

use super::super::{CliError, ConfigFile, print};
use super::KeysError;
use crate::config::Config;
use crate::keys::store::{StoreUrl, back_up};

#[derive(Debug, Args)]
pub(in super::super) struct BackupArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The file to write, which must not exist
    #[arg(value_name = "DEST")]
    to: PathBuf,
}

impl BackupArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = Config::load(&self.config.path)?;
        let store = match config.startup.keys.map(|keys| keys.url) {
            Some(StoreUrl::Sqlite(path)) => path,
            #[cfg(feature = "postgres")]
            Some(StoreUrl::Postgres(_)) => return Err(KeysError::BackupOfPostgres.into()),
            None => return Err(KeysError::NoStore(self.config.path).into()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let backup = runtime.map_err(CliError::Runtime)?.block_on(back_up(&store, &self.to));
        let backup = backup.map_err(KeysError::Backup)?;
        let keys = if backup.keys == 1 { "key" } else { "keys" };
        print(&format!("{}: {} {keys}, as of revision {}\n", self.to.display(), backup.keys, backup.revision))
    }
}
