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
    /// Show the service accounts
    List(list::ListAccountsArgs),
    /// Show all that is known of accounts, and their tokens
    Show(list::ShowAccountsArgs),
    /// Make an account
    Create(create::CreateAccountArgs),
    /// Change what accounts may do, their names or descriptions: it holds for all their tokens at once
    #[command(visible_alias = "update")]
    Edit(change::EditAccountsArgs),
    /// Let no token of accounts count, until they are enabled
    Disable(change::NamedAccountsArgs),
    /// Let the tokens of disabled accounts count again
    Enable(change::NamedAccountsArgs),
    /// Delete accounts, with all their tokens
    Delete(change::NamedAccountsArgs),
    /// Show the tokens of an account
    Tokens(token::ListTokensArgs),
    /// Make a token for an account, which alone goes to standard output, this once
    CreateToken(token::CreateTokenArgs),
    /// End tokens of an account for good
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
