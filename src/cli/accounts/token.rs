//! `accounts tokens`, `create-token` and `delete-token`

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::super::admin_api::{AdminApiError, Body, Life, Response, ServerArgs};
use super::super::keys::taken_name_advice;
use super::super::table::TablePrinter;
use super::super::times::parse_life;
use super::super::token_output::TokenOutputArgs;
use super::super::{CliError, escape_controls, print, print_note};
use super::account::{ListedToken, TOKEN_HEADINGS};
use super::reference::{Reference, resolve};
use super::{AccountsError, account_path};
use crate::secret::Secret;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListTokensArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The name or id of the account; a number is always an id
    account: Reference,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateTokenArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The name or id of the account; a number is always an id
    account: Reference,
    /// The name of the token
    name: String,
    /// How long the token is valid: one whole number and one unit of s m h d w M y, such as 12h [default: the server's
    /// `keys.default_seconds_to_live`]
    #[arg(long, value_name = "TIME", value_parser = parse_life, allow_hyphen_values = true)]
    ttl: Option<i64>,
    /// The token never expires
    #[arg(long, conflicts_with = "ttl")]
    no_expiry: bool,
    /// The purpose of the token, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    output: TokenOutputArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteTokensArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The name or id of the account; a number is always an id
    account: Reference,
    /// The names or ids of the tokens
    #[arg(value_name = "TOKEN", required = true)]
    tokens: Vec<Reference>,
}

/// The response to the creation of a token.
#[derive(Deserialize)]
struct IssuedToken {
    id: i64,
    name: String,
    key: String,
}

impl ListTokensArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        let id = self.account.account(&api)?;
        let response = api.get(&account_path(id, "/tokens")).map_err(AccountsError::from)?;
        if api.wants_json() { print(&response.to_line()) } else { print_table(&response) }
    }
}

impl CreateTokenArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut output = self.output.open()?;
        let api = self.server.open().map_err(AccountsError::from)?;
        let id = self.account.account(&api)?;
        let life = Life::new(&api, self.ttl, self.no_expiry).map_err(AccountsError::from)?;
        let mut body = json!({ "name": self.name });
        if let Some(seconds) = life.seconds() {
            body["secondsToLive"] = json!(seconds);
        }
        if let Some(description) = self.description {
            body["description"] = json!(description);
        }
        let response = api.call(Method::POST, &account_path(id, "/tokens"), Body::Json(&body));
        let response = response.map_err(|error| name_taken(error, &self.account, &self.name))?;
        let IssuedToken { id, name, key } = response.parse().map_err(AccountsError::from)?;
        let key = Secret::new(key);
        let token = format!("Token {id}, {}, of {}", escape_controls(&name), self.account);
        let lost = || format!("{token} is created, but was not delivered: `keys rotate {id}` replaces it.");
        if api.wants_json() {
            return output.write(&response.to_line(), lost);
        }
        let about = format!("{token} is created.  {}  The token", life.sentence());
        output.write_with_note(&about, &format!("{}\n", key.expose()), lost)
    }
}

impl DeleteTokensArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(AccountsError::from)?;
        let account = self.account.account(&api)?;
        let ids = resolve(&self.tokens, |token| token.token(&api, account))?;
        let mut failed = 0;
        for (token, id) in &ids {
            match api.call(Method::DELETE, &account_path(account, &format!("/tokens/{id}")), Body::Empty) {
                Ok(response) if api.wants_json() => print(&response.to_line())?,
                Ok(response) => {
                    let message = response.message().map_err(AccountsError::from)?;
                    print(&format!("{token}: {message}\n"))?;
                }
                Err(error) if ids.len() == 1 => return Err(AccountsError::from(error).into()),
                Err(error) => {
                    print_note(&format!("error: {token}: {error}"));
                    failed += 1;
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(AccountsError::SomeFailed { failed, all: ids.len() }.into()) }
    }
}

/// The error, with what to do where a live token of the account has the name.
fn name_taken(error: AdminApiError, account: &Reference, name: &str) -> AccountsError {
    const MESSAGE: &str = "service account token with given name already exists in the organization";
    if error.answer().is_none_or(|answer| answer.message != MESSAGE) {
        return error.into();
    }
    let reference = match account {
        Reference::Name(account) => format!("{account}/{name}"),
        // An id is no part of a key's name.
        Reference::Id(_) => name.to_owned(),
    };
    AccountsError::NameTaken { source: Box::new(error), advice: taken_name_advice(&reference) }
}

/// Prints the tokens that a response lists.
pub(super) fn print_table(response: &Response) -> Result<(), CliError> {
    let tokens: Vec<ListedToken> = response.parse().map_err(AccountsError::from)?;
    let now = Timestamp::now();
    let mut printer = TablePrinter::new(TOKEN_HEADINGS);
    tokens.iter().try_for_each(|token| printer.add(token.row(now)))?;
    printer.finish("No tokens.")
}
