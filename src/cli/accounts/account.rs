//! A service account and its tokens as the admin API tells them, and how they are shown to people.

use std::fmt::Write;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::escape_controls;
use super::super::keys::short_denial;
use super::super::times::{absolute_time, relative_time, time_and_distance, timestamp};

/// A service account.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedAccount {
    /// Never given to another account.
    pub id: i64,
    /// Its name.
    pub name: String,
    role: Option<String>,
    #[serde(default)]
    is_disabled: bool,
    tokens: Option<u64>,
    description: Option<String>,
    policies: Option<Vec<String>>,
    actor: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "timestamp")]
    created_at: Option<Timestamp>,
    created_by: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    disabled_at: Option<Timestamp>,
}

/// The headings of a table of accounts.
pub const HEADINGS: [&str; 7] = ["ID", "NAME", "ROLE", "STATUS", "TOKENS", "CREATED", "DESCRIPTION"];

impl ListedAccount {
    fn status(&self) -> &'static str {
        if self.is_disabled { "disabled" } else { "live" }
    }

    /// Its row of a table.
    pub fn row(&self) -> [String; 7] {
        [
            self.id.to_string(),
            escape_controls(&self.name),
            escape_controls(self.role.as_deref().unwrap_or_default()),
            self.status().to_owned(),
            self.tokens.unwrap_or_default().to_string(),
            self.created_at.map(absolute_time).unwrap_or_default(),
            escape_controls(self.description.as_deref().unwrap_or_default()),
        ]
    }

    /// All of it, a line each.
    pub fn details(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // A String takes every text.
                let _ = writeln!(text, "{:<14} {}", format!("{name}:"), escape_controls(&value));
            }
        };
        line("ID", Some(self.id.to_string()));
        line("Name", Some(self.name.clone()));
        line("Description", self.description.clone());
        line("Role", self.role.clone());
        line("Policies", self.policies.as_ref().map(|policies| policies.join(", ")));
        line("Actor", self.actor.clone().map(|actor| Value::Object(actor).to_string()));
        line("Status", Some(self.status().to_owned()));
        let by = self.created_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        line("Created", self.created_at.map(|at| format!("{}{by}", time_and_distance(now, at))));
        line("Disabled", self.disabled_at.map(|at| time_and_distance(now, at)));
        text
    }
}

/// A token of a service account.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedToken {
    /// The key's id.
    pub id: i64,
    /// Its name.
    pub name: String,
    #[serde(default, deserialize_with = "timestamp")]
    created: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    last_used_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    expiration: Option<Timestamp>,
    #[serde(default)]
    has_expired: bool,
    #[serde(default)]
    is_revoked: bool,
    #[serde(default)]
    is_disabled: bool,
    /// Why requests with it are denied although it is live.
    denied: Option<String>,
    description: Option<String>,
}

/// The headings of a table of tokens.
pub const TOKEN_HEADINGS: [&str; 7] =
    ["ID", "NAME", "STATUS", "EXPIRES", "LAST USED", "CREATED", "DESCRIPTION"];

impl ListedToken {
    /// Whether it is neither revoked nor expired.
    pub fn is_live(&self) -> bool {
        !self.is_revoked && !self.has_expired
    }

    /// Its row of a table.
    pub fn row(&self, now: Timestamp) -> [String; 7] {
        let status = match (self.is_revoked, self.has_expired, &self.denied) {
            (true, _, _) => "revoked".to_owned(),
            (false, true, _) => "expired".to_owned(),
            (false, false, _) if self.is_disabled => "disabled".to_owned(),
            (false, false, Some(word)) => format!("denied: {}", escape_controls(short_denial(word))),
            (false, false, None) => "live".to_owned(),
        };
        [
            self.id.to_string(),
            escape_controls(&self.name),
            status,
            self.expiration.map_or_else(|| "No expiration date".to_owned(), |at| time_and_distance(now, at)),
            self.last_used_at.map_or_else(|| "never".to_owned(), |used| relative_time(now, used)),
            self.created.map(absolute_time).unwrap_or_default(),
            escape_controls(self.description.as_deref().unwrap_or_default()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_and_a_token_are_shown_as_the_api_tells_them() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let account: ListedAccount = serde_json::from_str(
            r#"{"id": 3, "name": "robots", "login": "sa-1-robots", "orgId": 1, "isDisabled": true, "role": "Editor",
                "tokens": 2, "avatarUrl": "", "description": "of the factory", "policies": ["read"],
                "actor": {"team": "a"}, "createdAt": "2025-12-31T00:00:00Z", "createdBy": "root"}"#,
        )
        .expect("an account");
        assert_eq!(account.row().join("|"), "3|robots|Editor|disabled|2|2025-12-31 00:00 UTC|of the factory");
        assert_eq!(
            account.details(now),
            "\
ID:            3
Name:          robots
Description:   of the factory
Role:          Editor
Policies:      read
Actor:         {\"team\":\"a\"}
Status:        disabled
Created:       2025-12-31 00:00 UTC (1 day ago) by root
"
        );
        let token: ListedToken = serde_json::from_str(
            r#"{"id": 7, "name": "ci", "created": "2025-12-31T00:00:00Z", "expiration": "2025-12-31T12:00:00Z",
                "secondsUntilExpiration": 0, "hasExpired": true, "isRevoked": false, "lastUsedAt": null, "description": "deploys"}"#,
        )
        .expect("a token");
        assert_eq!(
            token.row(now).join("|"),
            "7|ci|expired|2025-12-31 12:00 UTC (12 hours ago)|never|2025-12-31 00:00 UTC|deploys"
        );
        let denied: ListedToken =
            serde_json::from_str(r#"{"id": 8, "name": "cd", "denied": "account_disabled"}"#)
                .expect("a token");
        assert_eq!(denied.row(now)[2], "denied: account disabled");
    }
}
