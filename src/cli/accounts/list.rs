//! `accounts list` and `accounts show`

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::super::admin_api::{Body, Query, ServerArgs};
use super::super::table::TablePrinter;
use super::super::{CliError, print};
use super::account::{HEADINGS, ListedAccount};
use super::reference::{Reference, for_each_account, resolve};
use super::{AccountsError, account_path, token};

#[derive(Debug, Args)]
pub(in crate::cli) struct ListAccountsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only accounts whose name contains this text
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Only disabled accounts
    #[arg(long)]
    disabled: bool,
    /// Only accounts that have an expired token
    #[arg(long)]
    expired_tokens: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowAccountsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The names or ids of the accounts; a number is always an id
    #[arg(value_name = "ACCOUNT", required = true)]
    accounts: Vec<Reference>,
}

impl ListAccountsArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        let query = Query::new()
            .with("query", self.query)
            .with("disabled", self.disabled.then_some(true))
            .with("expiredTokens", self.expired_tokens.then_some(true));
        if api.wants_json() {
            let path = query.of(&format!("{}/search", super::ACCOUNTS));
            let response = api.start_call(Method::GET, &path, Body::Empty).map_err(AccountsError::from)?;
            return response.copy_to_stdout();
        }
        let mut printer = TablePrinter::new(HEADINGS);
        for_each_account(&api, &query, |account| printer.add(account.row()))?;
        printer.finish("No service accounts.")
    }
}

impl ShowAccountsArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        let now = Timestamp::now();
        let resolved = resolve(&self.accounts, |account| account.account(&api))?;
        for (index, (_, id)) in resolved.into_iter().enumerate() {
            let response = api.get(&account_path(id, "")).map_err(AccountsError::from)?;
            let tokens = api.get(&account_path(id, "/tokens")).map_err(AccountsError::from)?;
            if api.wants_json() {
                // The members of the account, and its tokens in addition.
                let mut shown: Value = response.parse().map_err(AccountsError::from)?;
                shown["tokenList"] = tokens.parse().map_err(AccountsError::from)?;
                print(&format!("{shown}\n"))?;
                continue;
            }
            let account: ListedAccount = response.parse().map_err(AccountsError::from)?;
            let gap = if index == 0 { "" } else { "\n" };
            print(&format!("{gap}{}\n", account.details(now)))?;
            token::print_table(&tokens)?;
        }
        Ok(())
    }
}
