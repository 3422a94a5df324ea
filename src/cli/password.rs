//! `password`

use std::io::{self, IsTerminal};

use clap::Args;

use super::admin_api::read_secret_or_ask;
use super::{CliError, print};
use crate::password::PasswordHash;

/// Prints a `password_hash` for the configuration.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {}

impl PasswordArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let password = read_secret_or_ask("password", "Password: ")?;
        // The input is not shown, and its hash does not reveal a typo.
        if io::stdin().is_terminal() && read_secret_or_ask("password", "Once more: ")? != password {
            return Err(CliError::PasswordsDiffer);
        }
        let hash = PasswordHash::of(&password)?;
        print(&format!("{}\n", hash.as_str()))
    }
}
