//! `keys create`

use clap::Args;
use http::Method;
use serde_json::json;

use super::super::CliError;
use super::super::admin_api::{Body, ServerArgs};
use super::super::grant_args::{GrantArgs, role_parser};
use super::super::times::parse_seconds;
use super::{KEYS, KeysError, print_issued};

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The key's name
    name: String,
    /// What it may do at most
    #[arg(long, value_parser = role_parser(), required_unless_present_any = ["account", "mine"])]
    role: Option<String>,
    /// How long it works: one whole number and one of s m h d w M y, such as 12h; for ever when not given
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    ttl: Option<i64>,
    #[command(flatten)]
    grants: GrantArgs,
    /// Make it for this service account, by its name or id: its role, policies and members are the account's
    #[arg(long, value_name = "ACCOUNT", conflicts_with_all = ["role", "policies", "actor"])]
    account: Option<String>,
    /// Make it yours: it stands for you, with at most your role
    #[arg(long, conflicts_with = "account")]
    mine: bool,
}

impl CreateKeyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut body = json!({ "name": self.name });
        if let Some(role) = self.role {
            body["role"] = json!(role);
        }
        if let Some(seconds) = self.ttl {
            body["secondsToLive"] = json!(seconds);
        }
        self.grants.write_into(&mut body);
        if let Some(account) = self.account {
            body["account"] = json!(account);
        }
        if self.mine {
            body["owner"] = json!("me");
        }
        let api = self.server.open().map_err(KeysError::from)?;
        let response = api.call(Method::POST, KEYS, Body::Json(&body)).map_err(KeysError::from)?;
        print_issued(&api, &response, "created")
    }
}
