//! `password`

use std::path::Path;

use clap::Args;

use super::{CliError, print, read_secret};
use crate::password::PasswordHash;

/// Prints a `password_hash` for the configuration.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {}

impl PasswordArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let password = read_secret("password", Path::new("-"))?;
        let hash = PasswordHash::of(&password)?;
        print(&format!("{}\n", hash.as_str()))
    }
}
