//! `keys create`

use clap::{ArgGroup, Args};
use http::Method;
use serde_json::json;

use super::super::CliError;
use super::super::admin_api::{Body, Life, ServerArgs};
use super::super::grant_args::{GrantArgs, role_parser};
use super::super::times::parse_life;
use super::{KEYS, KeysError, print_issued};

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
}

impl CreateKeyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
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
        if let Some(account) = self.account {
            body["account"] = json!(account);
        }
        if self.mine {
            body["owner"] = json!("me");
        }
        let response = api.call(Method::POST, KEYS, Body::Json(&body)).map_err(KeysError::from)?;
        print_issued(&api, &response, "created", Some(life))
    }
}
