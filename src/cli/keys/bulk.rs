//! `keys revoke`: keys that are named, or all that fit.

use clap::{ArgGroup, Args};
use http::Method;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::admin_api::{Body, ServerArgs};
use super::super::times::{parse_instant, parse_seconds};
use super::super::{AdminApi, CliError, print, print_note};
use super::change;
use super::key::ListedKey;
use super::list::print_table;
use super::reference::KeyReference;
use super::{KEYS, KeysError};

/// Above the criteria in the command's help.
const CRITERIA_HEADING: &str = "Instead of names: all keys that fit all of these";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true))]
#[command(group = ArgGroup::new("criteria").multiple(true).conflicts_with("keys"))]
pub(in crate::cli) struct RevokeKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The keys: NAME, OWNER/NAME or id, as `list` shows them, in any letter case; a number is always an id
    #[arg(id = "keys", value_name = "KEY", group = "which")]
    keys: Vec<KeyReference>,
    #[command(flatten)]
    criteria: Criteria,
    /// Show which keys would be revoked, and revoke none
    #[arg(long, help_heading = CRITERIA_HEADING)]
    dry_run: bool,
}

/// Which keys are revoked together: those that all of it fits.
#[derive(Debug, Args)]
struct Criteria {
    /// Keys that the actor with this id created, of any owner
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "ACTOR", groups = ["which", "criteria"])]
    created_by: Option<String>,
    /// Keys created since this time: a day such as 2026-11-30, a time, or how long ago, such as 7d
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "WHEN", value_parser = parse_instant, groups = ["which", "criteria"])]
    created_since: Option<Timestamp>,
    /// Keys that the service account with this name or id owns
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "ACCOUNT", groups = ["which", "criteria"])]
    account: Option<String>,
    /// Keys that this person owns: a user name, or the id at a directory or a provider
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "NAME", groups = ["which", "criteria"])]
    owner: Option<String>,
    /// Keys that were not used for this time, such as 90d; uses at a read-only server do not count
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "TIME", value_parser = parse_seconds, allow_hyphen_values = true, groups = ["which", "criteria"])]
    unused_for: Option<i64>,
    /// Keys whose name matches this pattern, such as `ci-*`
    #[arg(long, help_heading = CRITERIA_HEADING, value_name = "PATTERN", groups = ["which", "criteria"])]
    name_pattern: Option<String>,
}

impl RevokeKeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.dry_run && !self.keys.is_empty() {
            return Err(KeysError::DryRunOfNames.into());
        }
        let api = self.server.open().map_err(KeysError::from)?;
        if self.keys.is_empty() {
            self.criteria.revoke(&api, self.dry_run)
        } else {
            change::revoke(&api, &self.keys)
        }
    }
}

impl Criteria {
    fn revoke(self, api: &AdminApi, dry_run: bool) -> Result<(), CliError> {
        let body = self.body(dry_run);
        let path = format!("{KEYS}/revoke");
        let response = api.call(Method::POST, &path, Body::Json(&body)).map_err(KeysError::from)?;
        if api.wants_json() {
            return print(&response.to_line());
        }
        let keys: Vec<ListedKey> = response.parse().map_err(KeysError::from)?;
        print_table(&keys)?;
        let count = if keys.len() == 1 { "1 key".to_owned() } else { format!("{} keys", keys.len()) };
        print_note(&if dry_run {
            format!("{count} would be revoked.")
        } else if keys.len() == 1 {
            format!("{count} is revoked.")
        } else {
            format!("{count} are revoked.")
        });
        Ok(())
    }

    fn body(self, dry_run: bool) -> Value {
        let Self { created_by, created_since, account, owner, unused_for, name_pattern } = self;
        let members = [
            ("createdBy", created_by.map(Value::from)),
            ("createdSince", created_since.map(|at| Value::from(at.to_string()))),
            ("account", account.map(Value::from)),
            ("owner", owner.map(Value::from)),
            ("unusedForSeconds", unused_for.map(Value::from)),
            ("namePattern", name_pattern.map(Value::from)),
            // The API's own default is a dry run: the one who calls says so.
            ("dryRun", Some(json!(dry_run))),
        ];
        let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(members.collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_no_criterion() {
        let none = || Criteria {
            created_by: None,
            created_since: None,
            account: None,
            owner: None,
            unused_for: None,
            name_pattern: None,
        };
        let one = Criteria { unused_for: Some(7), ..none() };
        assert_eq!(one.body(true), json!({"unusedForSeconds": 7, "dryRun": true}));
        let at = "2026-11-30T00:00:00Z".parse().expect("a time");
        let more = Criteria { created_by: Some("root".to_owned()), created_since: Some(at), ..none() };
        assert_eq!(
            more.body(false),
            json!({"createdBy": "root", "createdSince": "2026-11-30T00:00:00Z", "dryRun": false})
        );
    }
}
