//! A line of the decision log, decided again.
//!
//! The line holds no secret: a token made for this one occasion stands for the credential that it names.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::super::{ExplainError, read_secret};
#[cfg(feature = "ldap")]
use super::directory::principal_by_id;
use super::request::RequestInput;
use crate::attributes::Encoding;
use crate::credential::{CredentialLocation, CredentialLocations, Kind, Principal};
use crate::deny_reason::DenyReason;
use crate::keys::Keys;
use crate::person::PersonSource;
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::telemetry::decision_log::{MAX_VALUE, POLICY_BY_ENVOY};
use crate::token::{self, PlainToken};

/// The header that carries the stand-in.  No client can know what it holds.
pub(super) const STAND_IN: &str = "x-envoy-auth-tokens-stand-in";

/// The content of the line.
pub(super) struct LoggedDecision {
    decision: String,
    reason: String,
    policy: Option<String>,
    policy_by_envoy: bool,
    redirected: bool,
    credential: Option<LoggedCredential>,
    method: String,
    host: String,
    path: String,
}

/// The credential that the line names.
struct LoggedCredential {
    kind: String,
    name: String,
    id: Option<i64>,
    /// Where the person behind it comes from.
    source: Option<PersonSource>,
}

/// The logged decision, compared with the current one.
#[derive(Debug, Serialize)]
pub(super) struct LoggedComparison {
    /// `allowed` or `denied`.
    pub decision: String,
    /// The reason of the line.
    pub reason: String,
    /// The policy of the line.
    pub policy: Option<String>,
    /// Whether the same is decided now; `null` when the line does not hold what decided.
    pub agrees: Option<bool>,
    /// The same as a sentence.
    pub says: String,
}

impl LoggedDecision {
    pub(super) fn read(path: &Path) -> Result<Self, ExplainError> {
        let text = read_secret("line of the decision log", path)?;
        let not_one = || {
            "error: this is not a line of the decision log: expected one line that `serve` wrote, text or JSON, \
             with decision, reason, method, host and path"
                .to_owned()
        };
        let text = text.expose().trim();
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) => fields_of_text(text).ok_or_else(not_one)?,
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let sent = |name: &str| text(name).map(unescape).ok_or_else(not_one);
        let name = text("credential.name").map(unescape).transpose()?;
        let credential = text("credential.kind").zip(name).map(|(kind, name)| LoggedCredential {
            kind: kind.to_owned(),
            name,
            id: value.get("credential.id").and_then(Value::as_i64),
            source: text("credential.source").and_then(PersonSource::parse),
        });
        Ok(Self {
            decision: text("decision").ok_or_else(not_one)?.to_owned(),
            reason: text("reason").ok_or_else(not_one)?.to_owned(),
            policy: text("policy").map(str::to_owned),
            policy_by_envoy: text("policy_source") == Some(POLICY_BY_ENVOY),
            redirected: value.get("redirected").and_then(Value::as_bool) == Some(true),
            credential,
            method: sent("method")??,
            host: sent("host")??,
            path: sent("path")??,
        })
    }

    /// The request as far as the line holds it.
    pub(super) fn request(&self) -> Result<RequestInput, ExplainError> {
        let mut input = RequestInput {
            method: self.method.clone(),
            host: self.host.clone(),
            path: Secret::new(self.path.clone()),
            headers: Vec::new(),
            encoding: Encoding::Lines,
            policy: None,
            misspelled_policy: None,
        };
        if self.policy_by_envoy {
            let policy = self.policy.clone().ok_or(
                "error: Envoy named a policy that did not exist, and the line does not have its name: the error \
                 that was logged with the line has it",
            )?;
            input.policy = Some(policy);
        }
        // Nothing passes without a policy but a preflight, whose headers the line does not hold.
        if self.decision == "allowed" && self.policy.is_none() {
            input.add("origin", "null");
            input.add("access-control-request-method", "GET");
        }
        // Only a browser that navigates is sent to the log-in page.
        if self.redirected {
            input.add("sec-fetch-mode", "navigate");
        }
        Ok(input)
    }

    /// The data that the line does not contain.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "the line has no header, no query and no secret: it does not show the location of the credential, \
             whether the request was cross-site or had a method override, and which parts would be removed from the \
             request"
                .to_owned(),
        ];
        let is_cut = |value: &String| value.ends_with("...") && value.len() >= MAX_VALUE - 6;
        if [&self.method, &self.host, &self.path].into_iter().any(is_cut) {
            notes.push(format!("a value of the line was cut at {MAX_VALUE} bytes; what followed is unknown"));
        }
        notes
    }

    /// Adds a stand-in for the credential that the line names.  `connect`: the directory may be asked.
    pub(super) async fn add_credential(
        &self,
        input: &mut RequestInput,
        snapshot: &mut Snapshot,
        keys: Option<&Keys>,
        connect: bool,
    ) -> Result<(), ExplainError> {
        if self.credential.is_none() && self.reason != DenyReason::UnknownToken.as_str() {
            return Ok(());
        }
        let secret = token::generate("eat")
            .map_err(|error| format!("error: the operating system gives no randomness: {error}"))?;
        let digest = PlainToken::new(secret.expose().as_bytes()).expect("it was made as a token").digest();
        if let Some(LoggedCredential { kind, name, id, source }) = &self.credential {
            let principal = if *source == Some(PersonSource::Ldap) {
                let kind = if kind == Kind::Session.as_str() { Kind::Session } else { Kind::User };
                lend_person(name, kind, snapshot, connect).await?
            } else if kind == Kind::Token.as_str() {
                snapshot
                    .tokens
                    .iter()
                    .map(|(_, principal)| principal)
                    .find(|principal| *principal.name == **name)
                    .cloned()
            } else if kind == Kind::User.as_str() {
                snapshot.users.get(name).map(|user| user.principal.clone())
            } else if kind == Kind::Session.as_str() {
                snapshot.users.get(name).map(|user| user.in_session.clone())
            } else {
                lend_key(name, *id, digest, keys).await?;
                None
            };
            if let Some(principal) = principal {
                snapshot.tokens.add(digest, principal);
            }
        }
        // It comes before all other locations, and these are empty: what is input of them stays as it is.
        let location = CredentialLocation::Header { name: STAND_IN.into() };
        let order = std::iter::once(location).chain(snapshot.locations.order().iter().cloned());
        snapshot.locations = CredentialLocations::new(order.collect());
        input.add(STAND_IN, secret.expose());
        Ok(())
    }

    /// The credential of the line, if it is unknown now, as far as the line has it.
    pub(super) fn unknown_credential(&self) -> String {
        match &self.credential {
            None => "an unknown token: the line has no other information about it".to_owned(),
            Some(LoggedCredential { kind, name, .. }) => {
                format!(
                    "a credential that is unknown now: the line names the {kind} `{}`",
                    name.escape_debug()
                )
            }
        }
    }

    /// Compares the line with what is decided now.
    pub(super) fn compare(&self, decision: &str, reason: &str, policy: Option<&str>) -> LoggedComparison {
        let (was, is) = (
            outcome(&self.decision, &self.reason, self.policy.as_deref()),
            outcome(decision, reason, policy),
        );
        let deny_reason = DenyReason::ALL.into_iter().find(|deny_reason| deny_reason.as_str() == self.reason);
        let is_logged_whole = deny_reason.is_none_or(|deny_reason| deny_reason.details().is_logged_whole);
        let agrees = is_logged_whole.then_some(was == is);
        let says = match agrees {
            Some(true) => format!("logged: {was}; now the same"),
            Some(false) => format!(
                "logged: {was}; now: {is} (the configuration or the key store has changed since then, a \
                 credential has expired, or the request had headers that the line does not have)"
            ),
            None => format!(
                "logged: {was}; the line does not have its cause, and this explanation is about a request \
                 without it: {is}"
            ),
        };
        LoggedComparison {
            decision: self.decision.clone(),
            reason: self.reason.clone(),
            policy: self.policy.clone(),
            agrees,
            says,
        }
    }
}

/// A person of the directory, in the current state.
#[cfg(feature = "ldap")]
async fn lend_person(
    id: &str,
    kind: Kind,
    snapshot: &Snapshot,
    connect: bool,
) -> Result<Option<Arc<Principal>>, ExplainError> {
    match &snapshot.ldap {
        Some(_) if !connect => Err(format!(
            "error: the credential of the line is that of `{}` of the directory: add --connect to ask the \
             directory",
            id.escape_debug()
        )
        .into()),
        Some(settings) => Ok(principal_by_id(id, kind, settings, snapshot).await?.map(Arc::new)),
        // It left the configuration.
        None => Ok(None),
    }
}

/// Without directories there is no such person.
#[cfg(not(feature = "ldap"))]
async fn lend_person(
    _id: &str,
    _kind: Kind,
    _snapshot: &Snapshot,
    _connect: bool,
) -> Result<Option<Arc<Principal>>, ExplainError> {
    Ok(None)
}

async fn lend_key(
    name: &str,
    id: Option<i64>,
    digest: token::TokenDigest,
    keys: Option<&Keys>,
) -> Result<(), ExplainError> {
    let (Some(keys), Some(id)) = (keys, id) else {
        return Err(format!(
            "error: the line's credential is the API key `{}`, which is not in the configuration: add --keys to \
             look it up in the key store, where nothing is changed",
            name.escape_debug()
        )
        .into());
    };
    let key = keys.get(id).await.map_err(|error| format!("error: {error}"))?;
    if let Some(key) = key {
        keys.override_digest(key, digest);
    }
    Ok(())
}

fn outcome(decision: &str, reason: &str, policy: Option<&str>) -> String {
    match policy {
        Some(policy) => format!("{decision} {reason} under {policy}"),
        None => format!("{decision} {reason}"),
    }
}

/// The fields of a line of `--log-format text`: `… INFO decision: MESSAGE name="text" name=number`, behind whatever
/// collects logs has put before it.
fn fields_of_text(line: &str) -> Option<Value> {
    let (_, line) = line.split_once(" INFO decision: ")?;
    let (_message, mut rest) = line.split_once(' ')?;
    let mut fields = Map::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let (text, after) = quoted_text(quoted)?;
                (Value::String(text), after)
            }
            None => {
                let end = value.find(' ').unwrap_or(value.len());
                let read = match &value[..end] {
                    "true" => Value::from(true),
                    number => Value::from(number.parse::<i64>().ok()?),
                };
                (read, &value[end..])
            }
        };
        fields.insert(name.to_owned(), value);
        rest = match after.strip_prefix(' ') {
            Some(after) => after,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(Value::Object(fields))
}

/// A text as `Debug` writes it, behind its first quote; and what follows the last.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return Some((text, rest.as_str())),
            '\\' => text.push(match rest.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (digits, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    rest = after.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                itself @ ('\\' | '"' | '\'') => itself,
                _ => return None,
            }),
            character => text.push(character),
        }
    }
}

/// The value before it was made fit for a line: the other way round of [`u8::escape_ascii`].
fn unescape(shown: &str) -> Result<String, ExplainError> {
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown.bytes();
    let broken = || "error: a value of the line has an escape that is none";
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let escaped = match rest.next().ok_or_else(broken)? {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'x' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low).ok_or_else(broken)?;
                u8::try_from(value).map_err(|_| broken())?
            }
            itself @ (b'\\' | b'"' | b'\'') => itself,
            _ => return Err(broken().into()),
        };
        bytes.push(escaped);
    }
    Ok(String::from_utf8(bytes).map_err(|_| "error: a value of the line is not UTF-8")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_redirect_is_that_of_a_browser() {
        let fields =
            fields_of_text("x  INFO decision: denied reason=\"no_credential\" redirected=true n=1").unwrap();
        assert_eq!(fields, serde_json::json!({"reason": "no_credential", "redirected": true, "n": 1}));
    }

    #[test]
    fn the_fields_of_a_line_of_text() {
        let values = ["plain", "a \"b\" \\x41 c=d", "Zoë\u{202e}\n\t\r\0'", ""];
        for value in values {
            let line = format!("2026-11-21T23:04:05Z  INFO decision: allowed a={value:?} n=-12 b={value:?}");
            for before in ["", "Nov 29 10:00:00 host envoy-auth-tokens[1]: "] {
                let fields = fields_of_text(&format!("{before}{line}")).unwrap();
                assert_eq!(fields, serde_json::json!({"a": value, "n": -12, "b": value}), "{line}");
            }
        }
        for broken in [
            "",
            "2026 INFO other: allowed a=1",
            "x  INFO decision: allowed",
            "x  INFO decision: allowed a",
            "x  INFO decision: allowed a=\"b",
            "x  INFO decision: allowed a=\"b\"c=1",
            "x  INFO decision: allowed a=b",
            "x  INFO decision: allowed a=\"\\q\"",
            "x  INFO decision: allowed a=\"\\u{zz}\"",
            "x  INFO decision: allowed a=\"\\u{110000}\"",
        ] {
            assert_eq!(fields_of_text(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_value_is_what_it_was_before_it_was_logged() {
        for value in ["/a", "/a\r\n\t\u{1b}[31m\"'\\x41", "/caf\u{e9}", ""] {
            assert_eq!(unescape(&value.as_bytes().escape_ascii().to_string()).unwrap(), value);
        }
        for broken in ["\\", "\\q", "\\x", "\\x1", "\\xzz", "\\xff"] {
            assert!(unescape(broken).is_err(), "{broken}");
        }
    }
}
