//! Commands about keys that are named: `show`, `edit`, `disable`, `enable`, `rotate`, `revoke`, `delete`.

use clap::{ArgGroup, Args};
use http::Method;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::admin_api::{Body, Response, ServerArgs};
use super::super::grant_args::{GrantChangeArgs, role_parser};
use super::super::times::{parse_life, parse_seconds};
use super::super::token_output::TokenOutputArgs;
use super::super::{AdminApi, CliError, escape_controls, print, print_note};
use super::key::ListedKey;
use super::list::print_details;
use super::reference::KeyReference;
use super::{Issue, KeysError, key_path, print_issued};

/// The keys that a command is about.
#[derive(Debug, Args)]
pub(super) struct KeysArg {
    /// The keys: NAME, OWNER/NAME or id, as `list` shows them, in any letter case; a number is always an id
    #[arg(id = "keys", value_name = "KEY", required = true)]
    keys: Vec<KeyReference>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    keys: KeysArg,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(in crate::cli) struct EditKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    keys: KeysArg,
    /// A new name
    #[arg(long, group = "change")]
    name: Option<String>,
    /// The role of the key
    #[arg(long, value_parser = role_parser(), group = "change")]
    role: Option<String>,
    #[command(flatten)]
    grants: GrantChangeArgs,
    /// How long the key is valid from now on: one whole number and one unit of s m h d w M y, such as 12h
    #[arg(long, value_name = "TIME", value_parser = parse_life, allow_hyphen_values = true, group = "change")]
    ttl: Option<i64>,
    /// The key never expires
    #[arg(long, conflicts_with = "ttl", group = "change")]
    no_expiry: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NamedKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    keys: KeysArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    keys: KeysArg,
    /// How long the old token stays valid, such as 1h, at most 7 days [default: it is denied at once]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, allow_hyphen_values = true)]
    overlap: Option<i64>,
    #[command(flatten)]
    output: TokenOutputArgs,
}

impl ShowKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        let mut shown = Vec::new();
        for (_, key) in resolve(&api, &self.keys.keys)? {
            let response = api.get(&key_path(key.id, "")).map_err(KeysError::from)?;
            if api.wants_json() {
                print(&response.to_line())?;
            } else {
                shown.push(response.parse::<ListedKey>().map_err(KeysError::from)?);
            }
        }
        // Nothing was collected where the answers are printed as they are.
        print_details(&shown)
    }
}

impl EditKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.name.is_some() && self.keys.keys.len() > 1 {
            return Err(KeysError::NameForSeveral.into());
        }
        let api = self.server.open().map_err(KeysError::from)?;
        let mut body = Map::new();
        if let Some(name) = self.name {
            body.insert("name".to_owned(), json!(name));
        }
        if let Some(role) = self.role {
            body.insert("role".to_owned(), json!(role));
        }
        self.grants.write_into(&mut body);
        if let Some(seconds) = self.ttl {
            body.insert("secondsToLive".to_owned(), json!(seconds));
        }
        if self.no_expiry {
            body.insert("secondsToLive".to_owned(), Value::Null);
        }
        patch(&api, &self.keys.keys, &Value::Object(body), "changed")
    }
}

impl NamedKeysArgs {
    pub(super) fn set_disabled(self, is_disabled: bool) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        let done = if is_disabled { "disabled" } else { "enabled" };
        patch(&api, &self.keys.keys, &json!({ "disabled": is_disabled }), done)
    }

    pub(super) fn delete(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        for_each(&api, &self.keys.keys, |_, key| {
            let response =
                api.call(Method::DELETE, &key_path(key.id, ""), Body::Empty).map_err(KeysError::from)?;
            print_done(&api, &response, key, "is deleted")
        })
    }
}

impl RotateKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        // Several keys: one line for each, as on standard output.
        let mut output = self.output.open()?;
        let api = self.server.open().map_err(KeysError::from)?;
        let body = self.overlap.map_or_else(|| json!({}), |seconds| json!({ "overlapSeconds": seconds }));
        let mut rotated = Vec::new();
        let with_overlap = self.overlap.is_some();
        let done = for_each(&api, &self.keys.keys, |key, found| {
            let response = api
                .call(Method::POST, &key_path(found.id, "/rotate"), Body::Json(&body))
                .map_err(KeysError::from)?;
            print_issued(&api, &response, Issue::Rotated { with_overlap }, &mut output)?;
            rotated.push(format!("{key} (id {})", found.id));
            Ok(())
        });
        // There are fewer lines of tokens than keys, so the lines can no longer be assigned to the keys.
        if done.is_err() && !rotated.is_empty() {
            print_note(&format!(
                "note: {output} has the new tokens of these keys, in this order: {}",
                rotated.join(", ")
            ));
        }
        done
    }
}

/// Revokes the keys that are named.
pub(super) fn revoke(api: &AdminApi, keys: &[KeyReference]) -> Result<(), CliError> {
    for_each(api, keys, |_, key| {
        let path = key_path(key.id, "/revoke");
        let response = api.call(Method::POST, &path, Body::Json(&json!({}))).map_err(KeysError::from)?;
        let done = key.earlier_revocation(Timestamp::now());
        print_done(api, &response, key, done.as_deref().unwrap_or("is revoked"))
    })
}

/// Prints what was done to a key, or the response as it is.
fn print_done(api: &AdminApi, response: &Response, key: &ListedKey, done: &str) -> Result<(), CliError> {
    if api.wants_json() {
        return print(&response.to_line());
    }
    print(&format!("Key {}, {}, {done}.\n", key.id, escape_controls(&key.reference())))
}

fn patch(api: &AdminApi, keys: &[KeyReference], body: &Value, done: &str) -> Result<(), CliError> {
    for_each(api, keys, |_, key| {
        let response =
            api.call(Method::PATCH, &key_path(key.id, ""), Body::Json(body)).map_err(KeysError::from)?;
        if api.wants_json() {
            return print(&response.to_line());
        }
        let key: ListedKey = response.parse().map_err(KeysError::from)?;
        print(&format!("Key {}, {}, is {done}.\n", key.id, escape_controls(&key.reference())))
    })
}

/// Prints the message of a response.
pub(super) fn print_message(api: &AdminApi, response: &Response) -> Result<(), CliError> {
    if api.wants_json() {
        return print(&response.to_line());
    }
    let message = response.message().map_err(KeysError::from)?;
    print(&format!("{message}\n"))
}

/// The keys that are meant, each once.
fn resolve<'k>(
    api: &AdminApi,
    keys: &'k [KeyReference],
) -> Result<Vec<(&'k KeyReference, ListedKey)>, KeysError> {
    let mut resolved: Vec<(&KeyReference, ListedKey)> = Vec::with_capacity(keys.len());
    for key in keys {
        let found = key.key(api)?;
        if resolved.iter().all(|(_, other)| other.id != found.id) {
            resolved.push((key, found));
        }
    }
    Ok(resolved)
}

/// Does something with each key.  All names and ids are looked up first, so that a mistyped one stops all; then what fails
/// for one key is reported, and the others' turn comes all the same.
fn for_each(
    api: &AdminApi,
    keys: &[KeyReference],
    mut act: impl FnMut(&KeyReference, &ListedKey) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let resolved = resolve(api, keys).map_err(|error| match keys {
        [] | [_] => error,
        [..] => KeysError::NothingDone(Box::new(error)),
    })?;
    if let [(key, found)] = resolved.as_slice() {
        return act(key, found).map_err(|error| explained(error, found));
    }
    let mut failed = 0;
    for (index, (key, found)) in resolved.iter().enumerate() {
        match act(key, found).map_err(|error| explained(error, found)) {
            Ok(()) => {}
            Err(CliError::Keys(error)) => {
                print_note(&format!("error: {key}: {error}"));
                failed += 1;
            }
            Err(other) => {
                let rest: Vec<_> = resolved[index + 1..].iter().map(|(key, _)| key.to_string()).collect();
                if !rest.is_empty() {
                    print_note(&format!("note: not attempted: {}", rest.join(", ")));
                }
                return Err(other);
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(KeysError::SomeFailed { failed, all: resolved.len() }.into()) }
}

/// The error, with what to do where the state of the key is its cause.
fn explained(error: CliError, key: &ListedKey) -> CliError {
    let source = match error {
        CliError::Keys(KeysError::Api(source)) => source,
        other => return other,
    };
    let advice = match source.answer().map(|answer| answer.message.as_str()) {
        Some("API key is disabled") => Some(format!("`keys enable {}` enables it", key.id)),
        Some("API key is revoked or expired") => key
            .why_dead(Timestamp::now())
            .map(|problem| format!("{problem}; `keys create` creates another key")),
        Some(_) | None => None,
    };
    match advice {
        Some(advice) => KeysError::OfState { source: Box::new(source), advice }.into(),
        None => KeysError::Api(source).into(),
    }
}
