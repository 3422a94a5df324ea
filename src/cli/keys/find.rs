//! `keys find`: whose is a token that leaked?

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::super::admin_api::{Body, ServerArgs, read_secret_or_ask};
use super::super::{CliError, print, print_note};
use super::key::ListedKey;
use super::{KEYS, KeysError};
use crate::token::PlainToken;

#[derive(Debug, Args)]
pub(in crate::cli) struct FindKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// The response: the key, and which of its secrets the token is.
#[derive(Deserialize)]
struct FoundKey {
    key: ListedKey,
    secret: FoundSecret,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FoundSecret {
    Current,
    Replaced,
}

impl FindKeyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.server.takes_stdin() {
            return Err(KeysError::StdinTwice("the token to find").into());
        }
        let api = self.server.open().map_err(KeysError::from)?;
        let secret = read_secret_or_ask("token", "Token to find: ").map_err(KeysError::from)?;
        let token = PlainToken::new(secret.expose().as_bytes()).map_err(KeysError::from)?;
        // Only the digest leaves this process.
        let body = json!({ "sha256": token.digest().to_hex() });
        let found = api.call(Method::POST, &format!("{KEYS}/find"), Body::Json(&body));
        let response = match found {
            Ok(response) => response,
            Err(error) => {
                if error.is_not_found() {
                    print_note(if token.has_issued_format() {
                        "note: the store has no key with this token, live or dead"
                    } else {
                        "note: this is not the format of issued tokens, or its checksum is wrong: `token check` shows which"
                    });
                    print_note(
                        "note: a token of the configuration is no key: `envoy-auth-tokens explain --path / --token-file FILE` \
                         names it",
                    );
                }
                return Err(KeysError::from(error).into());
            }
        };
        if api.wants_json() {
            return print(&response.to_line());
        }
        let FoundKey { key, secret } = response.parse().map_err(KeysError::from)?;
        let secret = match secret {
            FoundSecret::Current => "current",
            FoundSecret::Replaced => "replaced by a rotation",
        };
        print(&format!("{}{:<14} {secret}\n", key.details(Timestamp::now()), "Token:"))
    }
}
