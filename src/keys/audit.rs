//! The audit in the store: a row for each change, log-in and log-out, and for denied attempts of known callers.
//!
//! A change's row is written in the transaction that makes it.  A row never holds a secret.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Account, Author, Changed, Key, KeyOwner};
use crate::person::PersonId;

/// How long a row is kept, in days.
pub const RETENTION_DAYS: i64 = 400;
/// The maximum number of rows; the oldest are deleted first.
pub const MAX_ROWS: u64 = 1_000_000;

/// An action that was done or denied, with the text of the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub &'static str);

impl Action {
    /// All of them, in the order of the documents.
    pub const ALL: [Self; 14] = [
        Self::KEY_CREATED,
        Self::KEY_IMPORTED,
        Self::KEY_CHANGED,
        Self::KEY_ROTATED,
        Self::KEY_REVOKED,
        Self::KEY_DELETED,
        Self::KEY_IDLE,
        Self::ACCOUNT_CREATED,
        Self::ACCOUNT_CHANGED,
        Self::ACCOUNT_DELETED,
        Self::LOGGED_IN,
        Self::LOGGED_OUT,
        Self::SESSIONS_ENDED,
        Self::HISTORY_ACCEPTED,
    ];

    /// A key was created.
    pub const KEY_CREATED: Self = Self("API key created");
    /// A key was imported.
    pub const KEY_IMPORTED: Self = Self("API key imported");
    /// A key was changed.
    pub const KEY_CHANGED: Self = Self("API key changed");
    /// A key's secret was replaced.
    pub const KEY_ROTATED: Self = Self("API key rotated");
    /// A key was revoked.
    pub const KEY_REVOKED: Self = Self("API key revoked");
    /// A key was deleted.
    pub const KEY_DELETED: Self = Self("API key deleted");
    /// A key expired because it was not used.
    pub const KEY_IDLE: Self = Self("API key expired because it was not used");
    /// A service account was created.
    pub const ACCOUNT_CREATED: Self = Self("service account created");
    /// A service account was changed.
    pub const ACCOUNT_CHANGED: Self = Self("service account changed");
    /// A service account was deleted, and its keys with it.
    pub const ACCOUNT_DELETED: Self = Self("service account deleted");
    /// A person logged in.
    pub const LOGGED_IN: Self = Self("logged in");
    /// A person logged out.
    pub const LOGGED_OUT: Self = Self("logged out");
    /// The sessions of a person were ended.
    pub const SESSIONS_ENDED: Self = Self("sessions ended");
    /// An operator accepted a rewritten history of the store.
    pub const HISTORY_ACCEPTED: Self = Self("history of the key store accepted");
}

/// A row to be written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewAuditRow {
    /// The time, to a second.
    pub at: Timestamp,
    /// An [`Action`], or the message of a denial.
    pub action: String,
    /// The id of the author.
    pub by: Option<String>,
    /// The kind of their credential.
    pub credential: Option<String>,
    /// Their address.
    pub address: Option<String>,
    /// The key.
    pub key_id: Option<i64>,
    /// Its name at that time.
    pub key_name: Option<String>,
    /// The service account.
    pub account_id: Option<i64>,
    /// Its name at that time.
    pub account_name: Option<String>,
    /// The person who logged in or out, or who owns the sessions or the key.
    pub user: Option<String>,
    /// The source of that person.
    pub source: Option<String>,
    /// The state before.
    pub before: Option<Value>,
    /// The state after.
    pub after: Option<Value>,
    /// The status of the answer, where it was denied.
    pub status: Option<u16>,
    /// The reason of the denial, one word.
    pub reason: Option<String>,
    /// Of a denial: how many the row represents; `None`: one.  Of a deleted account: its keys.  Of ended sessions: log-ins.
    pub count: Option<i64>,
}

/// A row as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Its number; it increases with each row.
    pub id: i64,
    /// The other columns.
    pub row: NewAuditRow,
}

/// A filter of rows: all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditFilter {
    /// At this instant or later.
    pub from: Option<Timestamp>,
    /// Before this instant.
    pub to: Option<Timestamp>,
    /// Of the actor of this id.
    pub by: Option<String>,
    /// Of the key of this id.
    pub key_id: Option<i64>,
    /// Of keys that had this name.
    pub key_name: Option<String>,
    /// Of the service account of this id.
    pub account_id: Option<i64>,
    /// Of service accounts that had this name.
    pub account_name: Option<String>,
    /// With this action.
    pub action: Option<String>,
}

/// A page of rows, the newest first, and the number of all that match.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditPage {
    /// The rows.
    pub rows: Vec<AuditRow>,
    /// The number of all.
    pub total: u64,
}

impl NewAuditRow {
    /// A row about an action of an author.
    pub fn of(author: &Author, action: Action, at: Timestamp) -> Self {
        Self {
            at,
            action: action.0.to_owned(),
            by: Some(author.id.clone()),
            credential: Some(author.credential.to_owned()),
            address: Some(author.address.clone()),
            ..Self::default()
        }
    }

    /// The same about a key; `account` is its owner, if it has one.
    #[must_use]
    pub fn key(mut self, changed: &Changed<&Key>, account: Option<&Account>) -> Self {
        if let Some(key) = changed.after.or(changed.before) {
            self.key_id = Some(key.id);
            self.key_name = Some(key.name.clone());
            self.account_id = key.owner.account();
            self.account_name = account.map(|account| account.name.clone());
            if let KeyOwner::Person(person) = &key.owner {
                self = self.person(person);
            }
        }
        self.before = changed.before.map(key_state);
        self.after = changed.after.map(key_state);
        self
    }

    /// The same about a service account.
    #[must_use]
    pub fn account(mut self, changed: &Changed<&Account>) -> Self {
        if let Some(account) = changed.after.or(changed.before) {
            self.account_id = Some(account.id);
            self.account_name = Some(account.name.clone());
        }
        self.before = changed.before.map(account_state);
        self.after = changed.after.map(account_state);
        self
    }

    /// The same about a person.
    #[must_use]
    pub fn person(mut self, person: &PersonId) -> Self {
        self.user = Some(person.subject.to_string());
        self.source = Some(person.source.as_str().to_owned());
        self
    }

    /// The same with a number of what it is about.
    #[must_use]
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(i64::try_from(count).unwrap_or(i64::MAX));
        self
    }
}

/// The rights and the expiry of a key, as JSON.
pub fn key_state(key: &Key) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| Value::String(at.to_string()));
    let members = [
        ("role", key.role.map(|role| json!(role.as_str()))),
        ("description", key.description.as_ref().map(|description| json!(description))),
        ("actor", (!key.actor.is_empty()).then(|| Value::Object(key.actor.clone()))),
        ("policies", key.policies.as_ref().map(|policies| json!(policies))),
        ("expires", time(key.expires_at)),
        ("old_secret_until", time(key.previous_until)),
        ("disabled", time(key.disabled_at)),
        ("revoked", time(key.revoked_at)),
    ];
    state(&key.name, members)
}

/// The rights of a service account, as JSON.
pub fn account_state(account: &Account) -> Value {
    let members = [
        ("role", Some(json!(account.role.as_str()))),
        ("description", account.description.as_ref().map(|description| json!(description))),
        ("actor", (!account.actor.is_empty()).then(|| Value::Object(account.actor.clone()))),
        ("policies", account.policies.as_ref().map(|policies| json!(policies))),
        ("disabled", account.disabled_at.map(|at| json!(at.to_string()))),
    ];
    state(&account.name, members)
}

fn state<const N: usize>(name: &str, members: [(&str, Option<Value>); N]) -> Value {
    let mut state = Map::from_iter([("name".to_owned(), json!(name))]);
    state.extend(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(state)
}
