//! Commands about accounts that are named: `edit`, `disable`, `enable`, `delete`.

use clap::{ArgGroup, Args};
use http::Method;
use serde_json::{Map, Value, json};

use super::super::admin_api::{Body, ServerArgs};
use super::super::grant_args::{GrantChangeArgs, role_parser};
use super::super::{AdminApi, CliError, print, print_note};
use super::reference::{Reference, resolve};
use super::{AccountsError, account_path};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(in crate::cli) struct EditAccountsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The names or ids of the accounts; a number is always an id
    #[arg(value_name = "ACCOUNT", required = true)]
    accounts: Vec<Reference>,
    /// A new name
    #[arg(long, group = "change")]
    name: Option<String>,
    /// The role of the accounts and of their tokens
    #[arg(long, value_parser = role_parser(), group = "change")]
    role: Option<String>,
    #[command(flatten)]
    grants: GrantChangeArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NamedAccountsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The names or ids of the accounts; a number is always an id
    #[arg(value_name = "ACCOUNT", required = true)]
    accounts: Vec<Reference>,
}

impl EditAccountsArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.name.is_some() && self.accounts.len() > 1 {
            return Err(AccountsError::NameForSeveral.into());
        }
        let api = self.server.open().map_err(AccountsError::from)?;
        let mut body = Map::new();
        if let Some(name) = self.name {
            body.insert("name".to_owned(), json!(name));
        }
        if let Some(role) = self.role {
            body.insert("role".to_owned(), json!(role));
        }
        self.grants.write_into(&mut body);
        patch(&api, &self.accounts, &Value::Object(body), "changed")
    }
}

impl NamedAccountsArgs {
    pub(super) fn set_disabled(self, is_disabled: bool) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        let done = if is_disabled { "disabled" } else { "enabled" };
        patch(&api, &self.accounts, &json!({ "isDisabled": is_disabled }), done)
    }

    pub(super) fn delete(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        for_each(&api, &self.accounts, |account, id| {
            let response =
                api.call(Method::DELETE, &account_path(id, ""), Body::Empty).map_err(AccountsError::from)?;
            if api.wants_json() {
                return print(&response.to_line());
            }
            let message = response.message().map_err(AccountsError::from)?;
            print(&format!("{account}: {message}\n"))
        })
    }
}

fn patch(api: &AdminApi, accounts: &[Reference], body: &Value, done: &str) -> Result<(), CliError> {
    for_each(api, accounts, |account, id| {
        let response =
            api.call(Method::PATCH, &account_path(id, ""), Body::Json(body)).map_err(AccountsError::from)?;
        if api.wants_json() {
            return print(&response.to_line());
        }
        print(&format!("Service account {account} is {done}.\n"))
    })
}

/// Does something with each account.  All names and ids are looked up first, so that a mistyped one stops all; then what
/// fails for one account is reported, and the others' turn comes all the same.
fn for_each(
    api: &AdminApi,
    accounts: &[Reference],
    mut act: impl FnMut(&Reference, i64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let resolved = resolve(accounts, |account| account.account(api))?;
    if let [(account, id)] = resolved.as_slice() {
        return act(account, *id);
    }
    let mut failed = 0;
    for (account, id) in &resolved {
        match act(account, *id) {
            Ok(()) => {}
            Err(CliError::Accounts(error)) => {
                print_note(&format!("error: {account}: {error}"));
                failed += 1;
            }
            Err(other) => return Err(other),
        }
    }
    if failed == 0 { Ok(()) } else { Err(AccountsError::SomeFailed { failed, all: resolved.len() }.into()) }
}
