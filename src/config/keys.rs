//! The section `keys`: the store of issued keys, and the limits of keys.

use std::time::Duration;

use super::plain;
use super::raw::{Node, Value};
use super::reader::{Fields, Reader};
use super::schema;
use super::{KeyStore, Unavailable, one_of};
use crate::keys::KeySettings;
use crate::keys::store::{StoreUrl, UrlError};

/// The content of the section.
pub struct KeysSection {
    /// `keys.store` and `keys.read_only`; `None` when the URL is not valid.
    pub store: Option<KeyStore>,
    /// The settings of every key.
    pub settings: KeySettings,
    /// `keys.unavailable`.
    pub unavailable: Unavailable,
}

/// The members that keys' actors have, and that `actor_members` cannot replace.
const OWN_MEMBERS: [&str; 5] = ["id", "name", "role", "key", "key_id"];

/// The store is read once a second: a shorter staleness would deny valid keys all the time.
const MIN_STALENESS: Duration = Duration::from_secs(1);
/// A shorter staleness is a warning: one slow read of the store would deny valid keys.
const RECOMMENDED_STALENESS: Duration = Duration::from_secs(5);

/// Without `keys.forget_after` a dead key is deleted after this long.
const DEFAULT_FORGET_AFTER: Duration = Duration::from_secs(90 * 24 * 3600);

/// Without `keys.default_seconds_to_live` people are proposed 90 days.
const DEFAULT_SECONDS_TO_LIVE: i64 = 90 * 24 * 3600;
/// Without `keys.person_max_idle` the keys of people of a directory or a provider work for this long after they were seen.
const DEFAULT_PERSON_MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A length of time after which something happens to keys, or a word for none.
struct Age {
    /// The word.
    none: &'static str,
    /// Durations for messages.
    examples: [&'static str; 2],
    /// The shortest one.
    min: Duration,
    /// The error about a shorter one.
    too_short: &'static str,
}

const FORGET_AFTER: Age = Age {
    none: "never",
    examples: ["90d", "12h"],
    min: Duration::from_secs(3600),
    too_short: "keys are deleted once an hour: write at least 1h, or `never`",
};

const MAX_IDLE: Age = Age {
    none: "never",
    examples: ["90d", "12h"],
    min: Duration::from_secs(24 * 3600),
    too_short: "a key that a job uses once a day would expire between two uses: write at least 1d, or `never`",
};

const PERSON_MAX_IDLE: Age = Age {
    none: "",
    examples: ["30d", "12w"],
    min: Duration::from_secs(24 * 3600),
    too_short: "people who log in once a day would lose their keys between two log-ins: write at least 1d",
};

const TELL_EXPIRY: Age = Age {
    none: "off",
    examples: ["14d", "12h"],
    min: Duration::from_secs(60),
    too_short: "an operator cannot renew a key within a minute: write at least 1m, or `off`",
};

/// Reads the section; `None` when it is not there.
pub fn read<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> Option<KeysSection> {
    let what = "a mapping such as {store: \"sqlite:/var/lib/envoy-auth-tokens/keys.db\"}";
    let node = section?;
    let fields = reader.fields(node, what, &schema::KEYS).unwrap_or_else(|| Reader::no_fields(node));
    let has_store = fields.get("store").is_some() || !matches!(node.value, Value::Map(_));
    if !has_store {
        reader.error(
            fields.at,
            "keys need a `store`: sqlite:/path/to/keys.db or postgres://user@host/database",
        );
    }
    let url = fields.get("store").and_then(|node| read_store(reader, node));
    let mut section = KeysSection {
        store: url.map(|url| KeyStore { url, read_only: false }),
        settings: KeySettings {
            max_seconds_to_live: read_count(
                reader,
                fields,
                "max_seconds_to_live",
                "the longest life in seconds",
            ),
            prefix: read_prefix(reader, fields.get("prefix")),
            quota: u64::try_from(read_count(reader, fields, "max", "the most keys that may be stored")).ok(),
            actor_members: read_members(reader, fields.get("actor_members")),
            max_staleness: fields.get("max_staleness").and_then(|node| read_staleness(reader, node)),
            ready_without_store: fields
                .get("ready_without_store")
                .and_then(|node| read_ready_without_store(reader, node)),
            forget_after: match fields.get("forget_after") {
                Some(node) => read_age(reader, node, &FORGET_AFTER),
                None => Some(DEFAULT_FORGET_AFTER),
            },
            max_idle: fields.get("max_idle").and_then(|node| read_age(reader, node, &MAX_IDLE)),
            default_seconds_to_live: DEFAULT_SECONDS_TO_LIVE,
            person_max_idle: match fields.get("person_max_idle") {
                Some(node) => {
                    read_duration(reader, node, &PERSON_MAX_IDLE).unwrap_or(DEFAULT_PERSON_MAX_IDLE)
                }
                None => DEFAULT_PERSON_MAX_IDLE,
            },
            tell_expiry: fields.get("tell_expiry").and_then(|node| read_age(reader, node, &TELL_EXPIRY)),
        },
        unavailable: read_unavailable(reader, fields.get("unavailable")),
    };
    let settings = &mut section.settings;
    settings.default_seconds_to_live =
        read_default_life(reader, fields.get("default_seconds_to_live"), settings.max_seconds_to_live);
    let read_only = fields.get("read_only").and_then(|node| reader.boolean(node)).unwrap_or_default();
    if let (true, Some(max_idle)) = (read_only, fields.get("max_idle"))
        && section.settings.max_idle.is_some()
    {
        reader.error(
            &max_idle.at,
            "with `read_only` this server writes no use of keys, so it cannot let keys expire: set `max_idle` at \
             the server that writes the store",
        );
    }
    if let Some(store) = &mut section.store {
        store.read_only = read_only;
    }
    Some(section)
}

fn read_store<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<StoreUrl> {
    let what = "text: sqlite:/path/to/keys.db or postgres://user@host/database";
    let text = reader.text(node, what)?;
    if plain::rejects_reference(reader, node, text) {
        return None;
    }
    match StoreUrl::parse(text.as_str()) {
        Ok(StoreUrl::Sqlite(path)) => {
            let path = reader.folder.join(path);
            reader.warn_of_folder(&node.at, &path);
            Some(StoreUrl::Sqlite(path))
        }
        #[cfg(feature = "postgres")]
        Ok(store @ StoreUrl::Postgres(_)) => {
            if store.crosses_network_unverified() {
                reader.warn(
                    &node.at,
                    "the connection to the store crosses a network, and its certificate is not verified: an \
                     attacker on the network can read and create keys; add sslmode=verify-full, with sslrootcert for a private \
                     CA",
                );
            }
            Some(store)
        }
        Err(UrlError::Parameter(name)) => {
            // The name may be a part of a password with a question mark in it.
            let name = reader.quote_name(&name);
            reader.error(&node.at, format!("the postgres:// URL has a parameter that is unknown: {name}"));
            None
        }
        Err(error) => {
            reader.error(&node.at, error.to_string());
            None
        }
    }
}

/// A whole number from -1 up; by default -1, which means no limit.
fn read_count<'t>(reader: &mut Reader<'t>, fields: Fields<'t>, key: &str, meaning: &str) -> i64 {
    let Some(node) = fields.get(key) else {
        return -1;
    };
    match &node.value {
        Value::Number(number) if number.as_i64().is_some_and(|number| number >= -1) => {
            number.as_i64().unwrap_or(-1)
        }
        Value::Number(_) => {
            reader.error(
                &node.at,
                format!("expected {meaning}: a whole number, 0 for none, or -1 for no limit"),
            );
            -1
        }
        Value::Null
        | Value::Bool(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Unresolved { .. } => {
            reader.expected(node, "a whole number such as 86400, or -1 for no limit");
            -1
        }
    }
}

fn read_prefix<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Box<str> {
    let text = node.and_then(|node| Some((node, reader.text(node, "text such as eat")?)));
    let Some((node, text)) = text else {
        return "eat".into();
    };
    let prefix = text.as_str();
    if !(1..=32).contains(&prefix.len()) || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        reader.error(&node.at, "a prefix is 1 to 32 letters and digits");
    }
    prefix.into()
}

fn read_members<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Box<[Box<str>]> {
    let what = "a list of names such as [team, groups]";
    let list = node.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let mut members: Vec<Box<str>> = Vec::with_capacity(list.len());
    for node in list {
        let Some(text) = reader.text(node, "text: the name of a member") else {
            continue;
        };
        let folded = text.as_str().to_lowercase();
        if text.as_str().is_empty() {
            reader.error(&node.at, "a member's name has at least one character");
        } else if let Some(own) = OWN_MEMBERS.into_iter().find(|own| *own == folded) {
            reader.error(
                &node.at,
                format!("the server sets `{own}` in actors of keys, and it cannot be replaced"),
            );
        } else if members.iter().any(|earlier| earlier.to_lowercase() == folded) {
            reader.error(&node.at, "this member is in the list already, or one that differs only in case");
        }
        members.push(text.as_str().into());
    }
    members.into()
}

fn read_staleness<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Duration> {
    let text = reader.text(node, "`off` or a duration such as 5m")?;
    if text.as_str() == "off" {
        return None;
    }
    match humantime::parse_duration(text.as_str()) {
        Ok(duration) if duration >= MIN_STALENESS => {
            if duration < RECOMMENDED_STALENESS {
                reader.warn(
                    &node.at,
                    "the store is read once a second: with less than 5s one slow read denies valid keys",
                );
            }
            Some(duration)
        }
        Ok(_) => {
            reader.error(&node.at, "the store is read once a second: write at least 1s, or `off`");
            None
        }
        Err(_) => {
            reader.error(&node.at, "expected `off` or a duration such as 30s, 5m or 1h, found other text");
            None
        }
    }
}

fn read_ready_without_store<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Duration> {
    let text = reader.text(node, "`never` or a duration such as 10s")?;
    if text.as_str() == "never" {
        return None;
    }
    let duration = humantime::parse_duration(text.as_str()).ok();
    if duration.is_none() {
        reader.error(&node.at, "expected `never` or a duration such as 0s, 10s or 1m, found other text");
    }
    duration
}

/// `None` for the word for none, and for an invalid value.
fn read_age<'t>(reader: &mut Reader<'t>, node: &'t Node, age: &Age) -> Option<Duration> {
    let [example, other] = age.examples;
    let text = reader.text(node, &format!("`{}` or a duration such as {example}", age.none))?;
    if text.as_str() == age.none {
        return None;
    }
    let expected = format!("`{}` or a duration such as {example} or {other}", age.none);
    parse_duration(reader, node, text.as_str(), age, &expected)
}

/// A duration without a word for none; `None` for an invalid value.
fn read_duration<'t>(reader: &mut Reader<'t>, node: &'t Node, age: &Age) -> Option<Duration> {
    let [example, other] = age.examples;
    let text = reader.text(node, &format!("a duration such as {example}"))?;
    let expected = format!("a duration such as {example} or {other}");
    parse_duration(reader, node, text.as_str(), age, &expected)
}

fn parse_duration<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    text: &str,
    age: &Age,
    expected: &str,
) -> Option<Duration> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= age.min => Some(duration),
        Ok(_) => {
            reader.error(&node.at, age.too_short);
            None
        }
        Err(_) => {
            reader.error(&node.at, format!("expected {expected}, found other text"));
            None
        }
    }
}

/// The life that is proposed for a key, in seconds.  It is never longer than the longest one.
fn read_default_life<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>, max: i64) -> i64 {
    let Some(node) = node else {
        return if max > 0 { DEFAULT_SECONDS_TO_LIVE.min(max) } else { DEFAULT_SECONDS_TO_LIVE };
    };
    let life = match &node.value {
        Value::Number(number) => number.as_i64().filter(|life| *life >= 0),
        Value::Null
        | Value::Bool(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Unresolved { .. } => {
            reader
                .expected(node, "a whole number of seconds such as 7776000, or 0 for keys that never expire");
            return DEFAULT_SECONDS_TO_LIVE;
        }
    };
    let Some(life) = life else {
        reader.error(
            &node.at,
            "expected the proposed life of a key in seconds: a whole number, or 0 for keys that never expire",
        );
        return DEFAULT_SECONDS_TO_LIVE;
    };
    if max > 0 && (life == 0 || life > max) {
        reader.error(&node.at, format!("`max_seconds_to_live` is {max}: expected 1 to {max}"));
    }
    life
}

fn read_unavailable<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Unavailable {
    let word = node.and_then(|node| Some((node, reader.text(node, "`deny` or `error`")?)));
    match word.map(|(node, text)| (node, text.as_str())) {
        None | Some((_, "deny")) => Unavailable::Deny,
        Some((_, "error")) => Unavailable::Error,
        Some((node, other)) => {
            reader.error(&node.at, format!("expected {}", one_of(other, &["deny", "error"])));
            Unavailable::Deny
        }
    }
}
