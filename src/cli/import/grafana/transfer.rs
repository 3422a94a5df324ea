//! Makes the accounts and keys of Grafana's database again, with new secrets, through the admin API.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::GrafanaError;
use super::plan::{Plan, PlannedKey};
use crate::cli::admin_api::{ACCOUNTS, ApiAnswer, Body, KEYS};
use crate::cli::{AdminApi, AdminApiError, print_note};

/// How much was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Accounts.
    pub accounts: usize,
    /// Keys, tokens of accounts among them.
    pub keys: usize,
    /// Accounts and keys that the server did not take; each was reported.
    pub failed: usize,
}

/// The file that the new tokens are written to, a JSON object a line.
pub struct TokenFile {
    file: File,
    is_empty: bool,
}

impl TokenFile {
    /// Creates the file, which must not exist, and which only its owner may read.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn create(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map(|file| Self { file, is_empty: true })
    }

    /// Whether nothing was written, not even a part of a token.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Writes one token before the next is created: a token is shown only once.
    fn add(&mut self, account: Option<&str>, key: &IssuedKey) -> io::Result<()> {
        let mut line = json!({});
        if let Some(account) = account {
            line["account"] = json!(account);
        }
        line["name"] = json!(key.name);
        line["id"] = json!(key.id);
        line["token"] = json!(key.key);
        let text = Zeroizing::new(format!("{line}\n"));
        self.is_empty = false;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}

/// The response to the creation of a key or a token.
#[derive(Deserialize)]
struct IssuedKey {
    id: i64,
    name: String,
    key: String,
}

/// The response to the creation of an account.
#[derive(Deserialize)]
struct CreatedAccount {
    id: i64,
}

/// Carries the plan out.  Rejections by the server are reported, and the rest is still created; without an answer from
/// the server nothing more is tried.
///
/// # Errors
/// The server does not answer, or a token cannot be written.
pub fn transfer(api: &AdminApi, plan: &Plan, tokens: &mut TokenFile) -> Result<Transferred, GrafanaError> {
    let mut done = Transferred::default();
    for account in &plan.accounts {
        let body = json!({ "name": account.name, "role": account.role, "isDisabled": account.is_disabled });
        let created = call::<CreatedAccount>(api, ACCOUNTS, &body)?;
        let id = match created {
            Ok(CreatedAccount { id }) => id,
            Err(error) => {
                let lost = account.tokens.len();
                print_note(&format!(
                    "error: the service account {:?} and its {lost} tokens were not created: {}",
                    account.name,
                    reason(&error)
                ));
                done.failed += 1 + lost;
                continue;
            }
        };
        done.accounts += 1;
        for token in &account.tokens {
            let body = key_body(token);
            let path = format!("{ACCOUNTS}/{id}/tokens");
            make(api, &path, &body, Some(&account.name), tokens, &mut done)?;
        }
    }
    for (key, role) in &plan.keys {
        let mut body = key_body(key);
        body["role"] = json!(role);
        make(api, KEYS, &body, None, tokens, &mut done)?;
    }
    Ok(done)
}

fn key_body(key: &PlannedKey) -> Value {
    let mut body = json!({ "name": key.name });
    if let Some(seconds) = key.seconds_to_live {
        body["secondsToLive"] = json!(seconds);
    }
    body
}

/// Makes one key and writes its token.
fn make(
    api: &AdminApi,
    path: &str,
    body: &Value,
    account: Option<&str>,
    tokens: &mut TokenFile,
    done: &mut Transferred,
) -> Result<(), GrafanaError> {
    match call::<IssuedKey>(api, path, body)? {
        Ok(key) => {
            tokens.add(account, &key).map_err(GrafanaError::Tokens)?;
            done.keys += 1;
        }
        Err(error) => {
            let whose = account.map(|account| format!(" of {account:?}")).unwrap_or_default();
            print_note(&format!(
                "error: the key {}{whose} was not created: {}",
                body["name"],
                reason(&error)
            ));
            done.failed += 1;
        }
    }
    Ok(())
}

/// The error of a creation, without the names of arguments, which this command does not have.
fn reason(error: &AdminApiError) -> String {
    error.answer().map_or_else(|| error.to_string(), ApiAnswer::in_words_of_the_api)
}

/// Makes a call.  The inner error is the API's message about one item.
fn call<T: for<'de> Deserialize<'de>>(
    api: &AdminApi,
    path: &str,
    body: &Value,
) -> Result<Result<T, AdminApiError>, GrafanaError> {
    let response = api.call(Method::POST, path, Body::Json(body));
    match response.and_then(|response| response.parse()) {
        Ok(made) => Ok(Ok(made)),
        Err(error) if error.is_about_the_request() => Ok(Err(error)),
        Err(error) => Err(GrafanaError::Api(Box::new(error))),
    }
}
