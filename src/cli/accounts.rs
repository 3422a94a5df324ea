//! `accounts`: service accounts and their tokens, through the admin API of a running server.

mod account;
mod change;
mod create;
mod error;
mod list;
mod reference;
mod token;

use clap::Subcommand;

pub use self::error::AccountsError;
use super::CliError;
use super::admin_api::ACCOUNTS;

#[derive(Debug, Subcommand)]
pub(super) enum AccountsCommand {
    /// List the service accounts
    List(list::ListAccountsArgs),
    /// Show accounts with all their details and tokens
    Show(list::ShowAccountsArgs),
    /// Create an account
    Create(create::CreateAccountArgs),
    /// Change the role, name, description, policies or actor of accounts; the change applies to all their tokens at once
    #[command(visible_alias = "update")]
    Edit(change::EditAccountsArgs),
    /// Disable accounts: all their tokens are denied until the accounts are enabled
    Disable(change::NamedAccountsArgs),
    /// Enable disabled accounts: their tokens are valid again
    Enable(change::NamedAccountsArgs),
    /// Delete accounts, with all their tokens
    Delete(change::NamedAccountsArgs),
    /// List the tokens of an account
    Tokens(token::ListTokensArgs),
    /// Create a token for an account and print it once, alone, to standard output
    CreateToken(token::CreateTokenArgs),
    /// Delete tokens of an account: they are denied at once, and this cannot be undone
    DeleteToken(token::DeleteTokensArgs),
}

impl AccountsCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Create(create) => create.run(),
            Self::Edit(edit) => edit.run(),
            Self::Disable(accounts) => accounts.set_disabled(true),
            Self::Enable(accounts) => accounts.set_disabled(false),
            Self::Delete(accounts) => accounts.delete(),
            Self::Tokens(tokens) => tokens.run(),
            Self::CreateToken(create) => create.run(),
            Self::DeleteToken(delete) => delete.run(),
        }
    }
}

/// The path of an account, and of what is below it.
fn account_path(id: i64, below: &str) -> String {
    format!("{ACCOUNTS}/{id}{below}")
}
