//! Translates the tokens of the plugin datasette-auth-tokens.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::{Config, Environment, Source};
use crate::token::{PlainToken, TokenDigest};

/// Translates the plugin's list of tokens, and notes those that it leaves out.
pub fn translate(tokens: &[Value], notes: &mut Vec<String>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let mut entries = Vec::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        match entry(token) {
            Ok(TranslatedToken { entry, secret, note }) => {
                if !seen.insert(secret.to_string()) {
                    notes.push(format!("tokens[{index}]: left out, because an earlier token is the same"));
                    continue;
                }
                notes.extend(note.map(|note| format!("tokens[{index}]: {note}")));
                entries.push(entry);
            }
            Err(why) => notes.push(format!("tokens[{index}]: left out: {why}")),
        }
    }
    entries
}

struct TranslatedToken {
    entry: Value,
    /// The value that distinguishes the entry from others: its digest or its reference.
    secret: Value,
    note: Option<&'static str>,
}

fn entry(token: &Value) -> Result<TranslatedToken, String> {
    let actor = token.get("actor").filter(|actor| actor.is_object());
    let actor = actor.ok_or("it has no actor, or the actor is not a mapping")?;
    if actor.get("_r").is_some() {
        return Err(
            "the member `_r` of its actor restricts it in Datasette, which is not enforced here".into()
        );
    }
    let written = token.get("token").ok_or("it has no token")?;
    let (key, secret, note) = match written {
        Value::String(plain) => {
            let digest = PlainToken::new(plain.as_bytes()).map_err(|error| error.to_string())?.digest();
            let note = "the plain token of the file is replaced by its SHA-256";
            ("sha256", Value::from(digest.to_hex()), Some(note))
        }
        reference if is_reference(reference) => ("token", reference.clone(), None),
        _ => return Err("its token is neither a text nor {$env: NAME} or {$file: PATH}".into()),
    };
    let note = match note {
        None if written
            .get("$file")
            .and_then(Value::as_str)
            .is_some_and(|path| Path::new(path).is_relative()) =>
        {
            Some(
                "the path of its $file starts at the new configuration's folder, no longer where Datasette runs",
            )
        }
        note => note,
    };
    let entry = json!({key: secret, "actor": actor});
    // Our own reader decides what a valid entry is.
    check(&json!({"tokens": [entry]}).to_string())?;
    Ok(TranslatedToken { entry, secret, note })
}

fn is_reference(value: &Value) -> bool {
    let members = value.as_object().filter(|members| members.len() == 1);
    members.is_some_and(|members| {
        members.iter().all(|(key, name)| (key == "$env" || key == "$file") && name.is_string())
    })
}

/// Checks a configuration with our own reader, whatever its references lead to.
///
/// # Errors
/// The messages of its diagnostics.
pub fn check(config: &str) -> Result<(), String> {
    let source =
        Source { file: Path::new("config.yaml"), environment: &StubEnvironment, now: Timestamp::UNIX_EPOCH };
    match Config::parse(config, &source) {
        Ok(_) => Ok(()),
        Err(errors) => {
            let messages: Vec<_> = errors.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
            Err(messages.join("; "))
        }
    }
}

/// An environment in which every variable and every file exists, each with a value of its own.
struct StubEnvironment;

impl Environment for StubEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        Some(TokenDigest::of(name.as_bytes()).to_hex().into())
    }

    fn read(&self, path: &Path, _limit: usize) -> io::Result<Vec<u8>> {
        Ok(TokenDigest::of(path.as_os_str().as_encoded_bytes()).to_hex().into_bytes())
    }
}
