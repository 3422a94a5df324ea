//! `keys audit`: who changed what, and who tried to.

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::super::admin_api::{Query, ServerArgs};
use super::super::table::TablePrinter;
use super::super::times::{parse_instant, timestamp};
use super::super::{CliError, escape_controls, print, print_note};
use super::KeysError;

/// The path of the audit in the admin API.
const AUDIT: &str = "/api/auth/audit";

/// The most rows of one call.
const MAX_PAGE: u64 = 1000;

#[derive(Debug, Args)]
pub(in crate::cli) struct AuditArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only entries since this time: a day such as 2026-11-30, a time, or how long ago, such as 7d
    #[arg(long, value_name = "WHEN", value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Only entries until this time
    #[arg(long, value_name = "WHEN", value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// Only actions of the actor with this id
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only changes of the key with this name or id, also of expired and revoked keys with this name
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only changes of the service account with this name or id
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only this action, as the column ACTION writes it, such as `API key revoked`
    #[arg(long)]
    action: Option<String>,
    /// The largest number of rows
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// A row of the API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuditRow {
    #[serde(deserialize_with = "timestamp")]
    at: Option<Timestamp>,
    action: String,
    by: Option<String>,
    credential_kind: Option<String>,
    address: Option<String>,
    key_id: Option<i64>,
    key_name: Option<String>,
    account_id: Option<i64>,
    account_name: Option<String>,
    user: Option<String>,
    source: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    status: Option<u16>,
    reason: Option<String>,
    count: Option<u64>,
}

impl AuditArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let api = self.server.open().map_err(KeysError::from)?;
        let page_size = self.limit.min(MAX_PAGE);
        let mut printer = TablePrinter::new(["TIME", "ACTION", "BY", "FROM", "ABOUT", "WHAT"]);
        let (mut shown, mut total) = (0, 0);
        // Rows that are written meanwhile move those of the next page: what was shown has no smaller id.
        let mut last_id = i64::MAX;
        for page in 1_u64.. {
            let query = Query::new()
                .with("from", self.from)
                .with("to", self.to)
                .with("actor", self.actor.as_ref())
                .with("key", self.key.as_ref())
                .with("account", self.account.as_ref())
                .with("action", self.action.as_ref())
                .with("perpage", Some(page_size))
                .with("page", Some(page));
            let response = api.get(&query.of(AUDIT)).map_err(KeysError::from)?;
            total = response.total().unwrap_or(total);
            let rows: Vec<Value> = response.parse().map_err(KeysError::from)?;
            let is_last = u64::try_from(rows.len()).is_ok_and(|rows| rows < page_size);
            for row in rows {
                let id = row["id"].as_i64().ok_or_else(|| KeysError::from(response.unexpected()))?;
                if id >= last_id {
                    continue;
                }
                if shown == self.limit {
                    break;
                }
                last_id = id;
                shown += 1;
                if api.wants_json() {
                    print(&format!("{row}\n"))?;
                    continue;
                }
                let row: AuditRow =
                    serde_json::from_value(row).map_err(|_| KeysError::from(response.unexpected()))?;
                printer.add(row.cells())?;
            }
            if is_last || shown == self.limit {
                break;
            }
        }
        if api.wants_json() {
            return Ok(());
        }
        printer.finish("Nothing is recorded.")?;
        if total > shown {
            print_note(&format!("{shown} of {total}: --limit shows more"));
        }
        Ok(())
    }
}

impl AuditRow {
    fn cells(&self) -> [String; 6] {
        let cells = [
            self.at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default(),
            self.action.clone(),
            self.by.clone().unwrap_or_default(),
            [&self.address, &self.credential_kind]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
            self.about(),
            self.what(),
        ];
        cells.map(|cell| escape_controls(&cell))
    }

    /// The key, account or person that it was done to.
    fn about(&self) -> String {
        let named = |kind: &str, name: &Option<String>, id: Option<i64>| {
            (name.is_some() || id.is_some()).then(|| {
                let id = id.map(|id| id.to_string());
                let words = [Some(kind), id.as_deref(), name.as_deref()];
                words.into_iter().flatten().collect::<Vec<_>>().join(" ")
            })
        };
        let user = self.user.as_ref().map(|user| {
            let source = self.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
            format!("{user}{source}")
        });
        let parts = [
            named("key", &self.key_name, self.key_id),
            named("account", &self.account_name, self.account_id),
            user,
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// What the row counts.
    fn counted(&self) -> Option<String> {
        match (self.action.as_str(), self.count?) {
            ("service account deleted", keys) => Some(format!("{} deleted with it", plural(keys, "key"))),
            ("sessions ended", log_ins) => Some(plural(log_ins, "log-in")),
            (_, 1) => None,
            (_, times) => Some(format!("{times} times")),
        }
    }

    /// What changed, or why it was denied, and how often.
    fn what(&self) -> String {
        let changes = changes(self.before.as_ref(), self.after.as_ref());
        let status = self.status.map(|status| status.to_string());
        let denial = match (&self.reason, status) {
            (Some(reason), Some(status)) => Some(format!("{reason} ({status})")),
            (Some(reason), None) => Some(reason.clone()),
            (None, status) => status,
        };
        [denial, changes, self.counted()].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// "1 key", "2 keys".
fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {one}s") }
}

/// The members that differ, each with its value before and after.
fn changes(before: Option<&Value>, after: Option<&Value>) -> Option<String> {
    let members = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, after) = (members(before), members(after));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let changed = names.filter_map(|name| match (before.get(name), after.get(name)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("{name}: {} → {}", plain(old), plain(new))),
        // What was made or ended has all its members on one side.
        (Some(old), None) if after.is_empty() => Some(format!("{name}: {}", plain(old))),
        (Some(old), None) => Some(format!("{name}: {} → none", plain(old))),
        (None, Some(new)) if before.is_empty() => Some(format!("{name}: {}", plain(new))),
        (None, Some(new)) => Some(format!("{name}: none → {}", plain(new))),
        (None, None) => None,
    });
    let changed: Vec<_> = changed.collect();
    (!changed.is_empty()).then(|| changed.join(", "))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &str) -> String {
        let row: AuditRow = serde_json::from_str(row).expect("a row");
        row.cells().join("|")
    }

    #[test]
    fn a_row_tells_who_did_what_to_whom_and_what_it_changed() {
        assert_eq!(
            cells(
                r#"{"id": 7, "at": "2026-11-30T12:00:01.5Z", "action": "API key changed", "by": "root",
                    "credentialKind": "token", "address": "10.0.0.1", "keyId": 3, "keyName": "ci",
                    "before": {"role": "Viewer", "name": "ci", "policies": ["a"]},
                    "after": {"role": "Editor", "name": "ci", "description": "b"}}"#
            ),
            "2026-11-30 12:00:01 UTC|API key changed|root|10.0.0.1 token|key 3 ci|\
             role: Viewer → Editor, policies: [\"a\"] → none, description: none → b"
        );
        assert_eq!(
            cells(
                r#"{"id": 8, "at": "2026-11-30T12:00:01Z", "action": "API key not created", "by": "eve",
                    "status": 403, "reason": "Permission denied", "count": 10}"#
            ),
            "2026-11-30 12:00:01 UTC|API key not created|eve|||Permission denied (403); 10 times"
        );
        for (count, expected) in [(0, "0 keys deleted"), (1, "1 key deleted"), (2, "2 keys deleted")] {
            let row = format!(
                r#"{{"id": 9, "at": "2026-11-30T12:00:01Z", "action": "service account deleted", "by": "root",
                    "accountId": 2, "accountName": "robots", "before": {{"role": "Viewer"}}, "count": {count}}}"#
            );
            let expected = format!(
                "2026-11-30 12:00:01 UTC|service account deleted|root||account 2 robots|role: Viewer; {expected} with it"
            );
            assert_eq!(cells(&row), expected);
        }
        let ended = r#"{"id": 9, "at": "2026-11-30T12:00:01Z", "action": "sessions ended", "user": "ann", "count": 2}"#;
        assert_eq!(cells(ended), "2026-11-30 12:00:01 UTC|sessions ended|||ann|2 log-ins");
        assert_eq!(
            cells(
                r#"{"id": 9, "at": "2026-11-30T12:00:01Z", "action": "sessions ended", "user": "ann\u001b",
                    "source": "ldap", "accountId": 2, "accountName": "robots", "after": {"role": "Admin"}}"#
            ),
            "2026-11-30 12:00:01 UTC|sessions ended|||account 2 robots, ann\\u{1b} (ldap)|role: Admin"
        );
    }
}
