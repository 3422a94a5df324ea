//! A key as the admin API tells it, and how it is shown to people.

use std::fmt::Write;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::escape_controls;
use super::super::times::{absolute_time, relative_time, time_and_distance, timestamp};

/// A key of the API.  An older server leaves out unknown members.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedKey {
    /// Never given to another key.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Absent for an account's key, whose role is the account's, and a person's that has the person's.
    role: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    expiration: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    last_used_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    created: Option<Timestamp>,
    #[serde(default)]
    is_revoked: bool,
    #[serde(default)]
    is_disabled: bool,
    description: Option<String>,
    account: Option<String>,
    account_id: Option<i64>,
    owner: Option<String>,
    owner_source: Option<String>,
    policies: Option<Vec<String>>,
    actor: Option<Map<String, Value>>,
    created_by: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    revoked_at: Option<Timestamp>,
    revoked_by: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    disabled_at: Option<Timestamp>,
    /// Why requests with it are denied although it is live.
    denied: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    old_secret_until: Option<Timestamp>,
    uses: Option<u64>,
    last_address: Option<String>,
}

/// The headings of a table of keys.
pub const HEADINGS: [&str; 7] = ["ID", "NAME", "ROLE", "STATUS", "EXPIRES", "LAST USED", "CREATED"];

impl ListedKey {
    /// The name by which a command can be told this key: with its account's name, or its owner's.
    pub fn reference(&self) -> String {
        match self.account.as_ref().or(self.owner.as_ref()) {
            Some(whose) => format!("{whose}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether it is neither revoked nor expired; a disabled key is live.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.is_revoked && self.expiration.is_none_or(|expiration| now < expiration)
    }

    /// Why it can never be valid again; `None` where it is live.
    pub fn why_dead(&self, now: Timestamp) -> Option<&'static str> {
        match (self.is_revoked, self.is_live(now)) {
            (true, _) => Some("it was revoked, which cannot be undone"),
            (false, false) => Some("it has expired and cannot be renewed"),
            (false, true) => None,
        }
    }

    /// For a revoked key: who revoked it, and when.
    pub fn earlier_revocation(&self, now: Timestamp) -> Option<String> {
        let when = self.revoked_at.map(|at| format!(", {}", relative_time(now, at))).unwrap_or_default();
        let by = self.revoked_by.as_ref().map(|by| format!(" by {}", escape_controls(by)));
        self.is_revoked.then(|| format!("was revoked before{}{when}", by.unwrap_or_default()))
    }

    /// Its owner as text for people.
    pub fn whose(&self) -> String {
        match (&self.account, &self.owner) {
            (Some(account), _) => format!("of the account {}", escape_controls(account)),
            (None, Some(owner)) => format!("of {}", escape_controls(owner)),
            (None, None) => "no owner".to_owned(),
        }
    }

    /// Its owner, with the id of the account or the source of the person.
    fn owner(&self) -> String {
        match (&self.account, &self.owner) {
            (Some(account), _) => {
                let id = self.account_id.map(|id| format!(" (id {id})")).unwrap_or_default();
                format!("the service account {account}{id}")
            }
            (None, Some(owner)) => {
                let source = self.owner_source.as_ref().map(|source| format!(" ({source})"));
                format!("the person {owner}{}", source.unwrap_or_default())
            }
            (None, None) => "none".to_owned(),
        }
    }

    fn status(&self, now: Timestamp) -> &'static str {
        match self.expiration {
            _ if self.is_revoked => "revoked",
            Some(expiration) if now >= expiration => "expired",
            Some(_) | None if self.is_disabled => "disabled",
            Some(_) | None if self.denied.is_some() => "denied",
            Some(_) | None => "live",
        }
    }

    /// Its status, and why requests with it are denied although it is live, in few words.
    fn short_status(&self, now: Timestamp) -> String {
        match (self.status(now), &self.denied) {
            (status @ "denied", Some(word)) => format!("{status}: {}", short_denial(word)),
            (status, Some(_) | None) => status.to_owned(),
        }
    }

    fn role(&self) -> String {
        match (&self.role, &self.account, &self.owner) {
            (Some(role), _, _) => escape_controls(role),
            (None, Some(_), _) => "account's".to_owned(),
            (None, None, Some(_)) => "owner's".to_owned(),
            (None, None, None) => String::new(),
        }
    }

    fn expires(&self, now: Timestamp) -> String {
        self.expiration.map_or_else(|| "No expiration date".to_owned(), |at| time_and_distance(now, at))
    }

    /// Its row of a table.
    pub fn row(&self, now: Timestamp) -> [String; 7] {
        [
            self.id.to_string(),
            escape_controls(&self.reference()),
            self.role(),
            escape_controls(&self.short_status(now)),
            self.expires(now),
            self.last_used_at.map_or_else(|| "never".to_owned(), |used| relative_time(now, used)),
            self.created.map(absolute_time).unwrap_or_default(),
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
        let time = |at: Option<Timestamp>| at.map(|at| time_and_distance(now, at));
        let by = |by: &Option<String>| by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        line("ID", Some(self.id.to_string()));
        line("Name", Some(self.name.clone()));
        line("Description", self.description.clone());
        line("Owner", Some(self.owner()));
        line("Role", Some(self.role()));
        line("Policies", self.policies.as_ref().map(|policies| policies.join(", ")));
        let actor = self.actor.clone().map(|actor| Value::Object(actor).to_string());
        line("Actor", actor);
        line("Status", Some(self.status(now).to_owned()));
        line("Denied", self.denied.as_deref().map(|word| why_denied(word).to_owned()));
        line("Expires", Some(self.expires(now)));
        line("Created", time(self.created));
        line("Made by", self.created_by.clone());
        line("Revoked", time(self.revoked_at).map(|at| format!("{at}{}", by(&self.revoked_by))));
        line("Disabled", time(self.disabled_at));
        line(
            "Old token",
            self.old_secret_until.map(|at| format!("works until {}", time_and_distance(now, at))),
        );
        let from = self.last_address.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        line(
            "Last used",
            Some(time(self.last_used_at).map_or_else(|| "never".to_owned(), |at| format!("{at}{from}"))),
        );
        line("Uses", self.uses.map(|uses| uses.to_string()));
        text
    }
}

/// Why requests with a live key are denied, in few words for a table; a word that only newer servers know as it is.
pub(in crate::cli) fn short_denial(word: &str) -> &str {
    match word {
        "account_disabled" => "account disabled",
        "account_gone" => "account gone",
        "owner_gone" => "owner gone or disabled",
        "held_back" => "revoked before a restore",
        word => word,
    }
}

/// Why requests with a live key are denied, in a sentence; a word that only newer servers know as it is.
fn why_denied(word: &str) -> &str {
    match word {
        "account_disabled" => "its service account is disabled",
        "account_gone" => "its service account is gone",
        "owner_gone" => "its owner is gone, disabled, or was not seen for too long",
        "held_back" => {
            "it was revoked, deleted or rotated before the key store was restored: revoke it again, and then see \
             `keys accept-history`"
        }
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<ListedKey> {
        serde_json::from_str(
            r#"[
                {"id": 1, "name": "ci deploys", "role": "Editor", "created": "2025-12-01T00:00:00Z",
                 "expiration": "2026-01-04T00:00:00Z", "lastUsedAt": "2025-12-31T23:58:00Z"},
                {"id": 12, "name": "for ever", "created": "2025-12-01T00:00:00Z", "account": "robots", "accountId": 3,
                 "isDisabled": true, "disabledAt": "2025-12-31T00:00:00Z"},
                {"id": 3, "name": "gone", "role": "Admin", "created": "2025-12-01T00:00:00Z", "isRevoked": true,
                 "revokedAt": "2025-12-31T00:00:00Z", "revokedBy": "root", "owner": "ann", "ownerSource": "ldap"}
            ]"#,
        )
        .expect("keys")
    }

    #[test]
    fn a_row_names_the_account_or_the_owner() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let rows: Vec<_> = keys().iter().map(|key| key.row(now).join("|")).collect();
        assert_eq!(
            rows,
            [
                "1|ci deploys|Editor|live|2026-01-04 00:00 UTC (in 3 days)|2 minutes ago|2025-12-01 00:00 UTC",
                "12|robots/for ever|account's|disabled|No expiration date|never|2025-12-01 00:00 UTC",
                "3|ann/gone|Admin|revoked|No expiration date|never|2025-12-01 00:00 UTC",
            ]
        );
    }

    #[test]
    fn all_that_is_known_of_a_key_is_shown_and_nothing_else() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut keys = keys();
        assert_eq!(
            keys[1].details(now),
            "\
ID:            12
Name:          for ever
Owner:         the service account robots (id 3)
Role:          account's
Status:        disabled
Expires:       No expiration date
Created:       2025-12-01 00:00 UTC (1 month ago)
Disabled:      2025-12-31 00:00 UTC (1 day ago)
Last used:     never
"
        );
        for (word, expected) in [
            ("account_disabled", "denied: account disabled"),
            ("owner_gone", "denied: owner gone or disabled"),
            ("held_back", "denied: revoked before a restore"),
            ("of_the_future", "denied: of_the_future"),
        ] {
            keys[0].denied = Some(word.to_owned());
            assert_eq!(keys[0].row(now)[3], expected);
        }
        for (word, expected) in
            [("account_disabled", "its service account is disabled"), ("of_the_future", "of_the_future")]
        {
            keys[0].denied = Some(word.to_owned());
            let details = keys[0].details(now);
            assert!(details.contains("Owner:         none\n"), "{details}");
            assert!(
                details.contains(&format!("Status:        denied\nDenied:        {expected}\n")),
                "{details}"
            );
        }
        keys[2].created_by = Some("root".to_owned());
        keys[2].actor = Some(Map::from_iter([("team".to_owned(), Value::from("a\u{1b}"))]));
        keys[2].policies = Some(vec!["read".to_owned(), "write".to_owned()]);
        let details = keys[2].details(now);
        for part in [
            "Owner:         the person ann (ldap)\n",
            "Created:       2025-12-01 00:00 UTC (1 month ago)\nMade by:       root\n",
            "Policies:      read, write\n",
            "Actor:         {\"team\":\"a\\u001b\"}\n",
            "Revoked:       2025-12-31 00:00 UTC (1 day ago) by root\n",
        ] {
            assert!(details.contains(part), "{part}: {details}");
        }
    }
}
