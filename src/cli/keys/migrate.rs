//! `keys migrate`: brings the schema of the store up to date, for a server whose role may not.

use std::path::PathBuf;

use clap::Args;
use tracing::level_filters::LevelFilter;

use super::super::{CliError, ConfigFile, print, read_secret};
use super::KeysError;
use crate::config::KeyStore;
use crate::keys::Keys;
use crate::keys::store::{SCHEMA, SchemaChange, StoreUrl};
use crate::telemetry::audit_log;
use crate::telemetry::logging::{self, LogFormat};

#[derive(Debug, Args)]
pub(in crate::cli) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Migrate the store whose URL is in this file (`-`: standard input) instead of that of the configuration
    #[arg(long, value_name = "FILE")]
    store_file: Option<PathBuf>,
    /// Write the audit line to this file, as JSON, instead of standard error
    #[arg(long, value_name = "PATH")]
    audit_log: Option<PathBuf>,
}

impl MigrateArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let url = self.url()?;
        let logging = logging::init(LogFormat::Text, LevelFilter::WARN, self.audit_log.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let migrated = runtime.map_err(CliError::Runtime)?.block_on(Keys::migrate(&url));
        let (store, reason) = (url.to_string(), migrated.as_ref().err().map(ToString::to_string));
        match &migrated {
            Ok(SchemaChange { from, to }) => {
                tracing::info!(
                    target: audit_log::TARGET,
                    action = "migrate",
                    store,
                    before = from,
                    schema = to,
                    "audit: migrated"
                );
            }
            Err(_) => {
                tracing::info!(target: audit_log::TARGET, action = "migrate", store, reason, "audit: not migrated");
            }
        }
        logging.audit_log().close();
        let change = migrated.map_err(KeysError::from)?;
        print(&format!("{}\n", outcome(&url, change)))
    }

    fn url(&self) -> Result<StoreUrl, CliError> {
        let Some(path) = &self.store_file else {
            let keys = self
                .config
                .load()?
                .startup
                .keys
                .ok_or_else(|| KeysError::NoStore(self.config.path.clone()))?;
            let KeyStore { url, read_only: _ } = keys;
            return Ok(url);
        };
        let text = read_secret("URL", path)?;
        Ok(StoreUrl::parse(text.expose()).map_err(KeysError::StoreUrl)?)
    }
}

/// The change of the schema, as a sentence.
fn outcome(url: &StoreUrl, SchemaChange { from, to }: SchemaChange) -> String {
    match from {
        0 => format!("The schema of {url} was made: it is number {to}."),
        _ if from < to => format!("The schema of {url} was brought from number {from} to number {to}."),
        _ if from > SCHEMA => format!(
            "The schema of {url} is number {from}, newer than number {SCHEMA}, which this version makes: nothing was \
             to do."
        ),
        _ => format!("The schema of {url} is number {to} already: nothing was to do."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_says_what_was_done() {
        let url = StoreUrl::parse("sqlite:/k.db").expect("a URL");
        let outcome = |from, to| outcome(&url, SchemaChange { from, to });
        for (from, to, expected) in [
            (0, SCHEMA, "was made: it is number"),
            (2, SCHEMA, "was brought from number 2 to number"),
            (SCHEMA, SCHEMA, "already: nothing was to do."),
            (SCHEMA + 1, SCHEMA + 1, "which this version makes: nothing was to do."),
        ] {
            let text = outcome(from, to);
            assert!(text.contains(expected), "{text}");
        }
    }
}
