//! `accounts create`

use clap::Args;
use http::Method;
use serde_json::json;

use super::super::admin_api::{Body, ServerArgs};
use super::super::grant_args::{GrantArgs, role_parser};
use super::super::{CliError, escape_controls, print};
use super::account::ListedAccount;
use super::{ACCOUNTS, AccountsError};

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateAccountArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The name of the account
    name: String,
    /// The role of the account and of its tokens
    #[arg(long, value_parser = role_parser(), default_value = "Viewer")]
    role: String,
    #[command(flatten)]
    grants: GrantArgs,
    /// Create the account disabled
    #[arg(long)]
    disabled: bool,
}

impl CreateAccountArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut body = json!({ "name": self.name, "role": self.role, "isDisabled": self.disabled });
        self.grants.write_into(&mut body);
        let api = self.server.open().map_err(AccountsError::from)?;
        let response = api.call(Method::POST, ACCOUNTS, Body::Json(&body)).map_err(AccountsError::from)?;
        if api.wants_json() {
            return print(&response.to_line());
        }
        let account: ListedAccount = response.parse().map_err(AccountsError::from)?;
        print(&format!("Service account {}, {}, is created.\n", account.id, escape_controls(&account.name)))
    }
}
