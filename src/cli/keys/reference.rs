//! References to a key: `NAME`, `ACCOUNT/NAME` or an id.

use std::fmt;

use jiff::Timestamp;

use super::super::admin_api::{self, Query};
use super::super::{AdminApi, escape_controls, print_note};
use super::candidates::Candidates;
use super::key::ListedKey;
use super::{KEYS, KeysError, key_path};
use crate::keys::name::{folded, is_same};

/// A key as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyReference {
    /// Digits alone are always an id.
    Id(i64),
    /// A name, maybe behind its account's or its owner's.
    Name(String),
}

impl From<String> for KeyReference {
    fn from(text: String) -> Self {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(id) if is_number => Self::Id(id),
            Ok(_) | Err(_) => Self::Name(text),
        }
    }
}

impl fmt::Display for KeyReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Name(name) => formatter.write_str(&escape_controls(name)),
        }
    }
}

impl KeyReference {
    /// The key.  A live one goes before dead ones of the same name.
    ///
    /// # Errors
    /// No key has the name or the id, or several have the name.
    pub fn key(&self, api: &AdminApi) -> Result<ListedKey, KeysError> {
        let now = Timestamp::now();
        match self {
            Self::Name(name) => {
                let key = choose(name, keys_called(api, name)?, now)?;
                if let Some(note) = spelling_note(name, &key) {
                    print_note(&note);
                }
                Ok(key)
            }
            Self::Id(id) => match api.get(&key_path(*id, "")) {
                Ok(response) => Ok(response.parse()?),
                Err(error) if error.is_not_found() => {
                    Err(no_such_id(*id, &keys_called(api, &id.to_string())?, now))
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// The keys, dead ones too, that this text names.
fn keys_called(api: &AdminApi, name: &str) -> Result<Vec<ListedKey>, KeysError> {
    // The server looks for a part of the name; what stands before the last slash may be an account.
    let part = name.rsplit_once('/').map_or(name, |(_, part)| part);
    let query = Query::new().with("query", Some(part)).with("includeExpired", Some(true));
    Ok(called(api.get(&query.of(KEYS))?.parse()?, name))
}

/// Those of the keys that this text names.  Names are compared as the server compares them: without case.
fn called(mut keys: Vec<ListedKey>, name: &str) -> Vec<ListedKey> {
    let name = folded(name);
    keys.retain(|key| is_same(&name, &key.name) || is_same(&name, &key.reference()));
    keys
}

/// A note that the name of a key was written differently; `None` if the letters are the same.
fn spelling_note(name: &str, key: &ListedKey) -> Option<String> {
    let reference = key.reference();
    (key.name != name && reference != name).then(|| admin_api::spelling_note("key", name, &reference, key.id))
}

/// The error about an id that no key has; these keys have it as their name.
fn no_such_id(id: i64, called: &[ListedKey], now: Timestamp) -> KeysError {
    if called.is_empty() {
        KeysError::NoSuchId(id)
    } else {
        KeysError::NameIsNoId { name: id, candidates: Candidates::new(called, now) }
    }
}

fn choose(name: &str, mut keys: Vec<ListedKey>, now: Timestamp) -> Result<ListedKey, KeysError> {
    if keys.iter().any(|key| key.is_live(now)) {
        keys.retain(|key| key.is_live(now));
    }
    match keys.as_slice() {
        [] => Err(KeysError::NoSuchKey(name.to_owned())),
        [key] => Ok(key.clone()),
        _ => Err(KeysError::AmbiguousName { name: name.to_owned(), candidates: Candidates::new(&keys, now) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_alone_are_an_id() {
        let of = |text: &str| KeyReference::from(text.to_owned());
        assert_eq!(of("12"), KeyReference::Id(12));
        for name in ["", "ci", "12a", "+12", "-12", "robots/12", "99999999999999999999"] {
            assert_eq!(of(name), KeyReference::Name(name.to_owned()));
        }
    }

    #[test]
    fn a_name_that_fits_several_lists_them_and_the_live_one_goes_first() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let keys = || -> Vec<ListedKey> {
            serde_json::from_str(
                r#"[
                    {"id": 1, "name": "ci", "role": "Viewer"},
                    {"id": 2, "name": "ci", "account": "robots"},
                    {"id": 3, "name": "ci", "account": "robots", "isRevoked": true},
                    {"id": 4, "name": "ci", "owner": "ann", "isDisabled": true},
                    {"id": 5, "name": "ci2", "role": "Viewer"},
                    {"id": 6, "name": "a/b", "role": "Viewer"},
                    {"id": 7, "name": "b", "account": "a", "expiration": "2025-01-01T00:00:00Z"},
                    {"id": 8, "name": "old", "role": "Viewer", "isRevoked": true},
                    {"id": 9, "name": "old", "role": "Viewer", "isRevoked": true}
                ]"#,
            )
            .expect("keys")
        };
        let found = |name: &str| choose(name, called(keys(), name), now);
        for (name, id) in [("robots/ci", 2), ("ann/ci", 4), ("ci2", 5), ("a/b", 6), ("b", 7)] {
            let key = found(name).expect(name);
            assert_eq!((key.id, spelling_note(name, &key)), (id, None), "{name}");
        }
        let key = found("Robots/CI").expect("the case of letters does not count");
        let note = "note: Robots/CI is the key robots/ci, with the id 2".to_owned();
        assert_eq!((key.id, spelling_note("Robots/CI", &key)), (2, Some(note)));
        let error = found("ci").expect_err("three").to_string();
        assert_eq!(
            error,
            "several keys have the name \"ci\". Use the id of the key:\n  1  ci, no owner, live\n  \
             2  robots/ci, of the account robots, live\n  4  ann/ci, of ann, live"
        );
        let error = found("old").expect_err("two").to_string();
        assert!(error.contains("8  old") && error.contains("9  old"), "{error}");
        let error = found("nobody").expect_err("none").to_string();
        assert!(error.starts_with("there is no key \"nobody\""), "{error}");
        let error = no_such_id(9, &[], now).to_string();
        assert!(error.starts_with("there is no key with the id 9: digits alone are an id"), "{error}");
        let error = no_such_id(9, &called(keys(), "a/b"), now).to_string();
        assert!(error.ends_with(":\n  6  a/b, no owner, live\n  7  a/b, of the account a, dead"), "{error}");
    }
}
