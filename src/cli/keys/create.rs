//! `keys create`

use clap::{ArgGroup, Args};
use http::Method;
use serde_json::json;

use super::super::admin_api::{AdminApiError, Body, Life, ServerArgs};
use super::super::grant_args::{GrantArgs, role_parser};
use super::super::times::parse_life;
use super::super::token_output::TokenOutputArgs;
use super::super::{CliError, in_shell};
use super::{Issue, KEYS, KeysError, print_issued};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true).multiple(true))]
pub(in crate::cli) struct CreateKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The name of the key
    name: String,
    /// The role of the key
    #[arg(long, value_parser = role_parser(), group = "whose")]
    role: Option<String>,
    /// How long the key is valid: one whole number and one unit of s m h d w M y, such as 12h [default: the server's
    /// `keys.default_seconds_to_live`]
    #[arg(long, value_name = "TIME", value_parser = parse_life, allow_hyphen_values = true)]
    ttl: Option<i64>,
    /// The key never expires
    #[arg(long, conflicts_with = "ttl")]
    no_expiry: bool,
    #[command(flatten)]
    grants: GrantArgs,
    /// Create the key for the service account with this name or id; it has the role, policies and members of the account
    #[arg(long, value_name = "ACCOUNT", conflicts_with_all = ["role", "policies", "actor"], group = "whose")]
    account: Option<String>,
    /// Create a key of your own: it stands for you, with at most your role
    #[arg(long, conflicts_with = "account", group = "whose")]
    mine: bool,
    #[command(flatten)]
    output: TokenOutputArgs,
}

impl CreateKeyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut output = self.output.open()?;
        let api = self.server.open().map_err(KeysError::from)?;
        let life = Life::new(&api, self.ttl, self.no_expiry).map_err(KeysError::from)?;
        let mut body = json!({ "name": self.name });
        if let Some(role) = self.role {
            body["role"] = json!(role);
        }
        if let Some(seconds) = life.seconds() {
            body["secondsToLive"] = json!(seconds);
        }
        self.grants.write_into(&mut body);
        let account = self.account;
        if let Some(account) = &account {
            body["account"] = json!(account);
        }
        if self.mine {
            body["owner"] = json!("me");
        }
        let response = api.call(Method::POST, KEYS, Body::Json(&body));
        let response = response.map_err(|error| name_taken(error, &self.name, account.as_deref()))?;
        print_issued(&api, &response, Issue::Created(life), &mut output)
    }
}

/// The error, with what to do where a live key of the same owner has the name.
fn name_taken(error: AdminApiError, name: &str, account: Option<&str>) -> KeysError {
    if error.answer().is_none_or(|answer| answer.message != "API key name already exists") {
        return error.into();
    }
    // An account that is given by its id is no part of a key's name.
    let account = account.filter(|account| !account.bytes().all(|byte| byte.is_ascii_digit()));
    let reference = account.map_or_else(|| name.to_owned(), |account| format!("{account}/{name}"));
    KeysError::OfState { source: Box::new(error), advice: taken_name_advice(&reference) }
}

/// What to do where a live key, which commands name like this, has the name that a new one should have.
pub(in crate::cli) fn taken_name_advice(reference: &str) -> String {
    let reference = in_shell(reference);
    format!(
        "`keys rotate {reference}` gives that key a new token, `keys revoke {reference}` ends it and frees the name"
    )
}
