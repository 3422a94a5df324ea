//! The plan for the accounts and keys of Grafana's database: those that are created, and those that are left out.

use std::collections::BTreeMap;

use super::GrafanaError;
use super::database::{GrafanaAccount, GrafanaKey, GrafanaKeys};
use crate::cli::grant_args::ROLES;

/// The creations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The accounts, each with its tokens.
    pub accounts: Vec<PlannedAccount>,
    /// The keys that belong to no account, each with its role.
    pub keys: Vec<(PlannedKey, String)>,
    /// The parts that are left out, with the reason; one line each.
    pub notes: Vec<String>,
}

/// An account to make.
#[derive(Debug, PartialEq, Eq)]
pub struct PlannedAccount {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Whether it is made disabled.
    pub is_disabled: bool,
    /// Its tokens.
    pub tokens: Vec<PlannedKey>,
}

/// A key to make.
#[derive(Debug, PartialEq, Eq)]
pub struct PlannedKey {
    /// Its name.
    pub name: String,
    /// Its life in seconds; `None`: it never expires.
    pub seconds_to_live: Option<i64>,
}

impl Plan {
    /// The plan for the keys of this organisation, or of the only one that has keys, at this second since 1970.
    ///
    /// # Errors
    /// Several organisations have keys, but this server has only one.
    pub fn new(grafana: &GrafanaKeys, org: Option<i64>, now: i64) -> Result<Self, GrafanaError> {
        let org = organisation(grafana, org)?;
        let mut plan = Self::default();
        // The places of the accounts, by Grafana's ids; of those that are left out none.
        let mut places = BTreeMap::new();
        for account in grafana.accounts.iter().filter(|account| Some(account.org_id) == org) {
            places.insert(account.id, plan.add_account(account));
        }
        for key in grafana.keys.iter().filter(|key| Some(key.org_id) == org) {
            plan.add_key(key, &places, now);
        }
        Ok(plan)
    }

    /// Grafana's role `None` has no counterpart here.
    fn add_account(&mut self, account: &GrafanaAccount) -> Option<usize> {
        let role = account.role.as_deref().unwrap_or("None");
        if !ROLES.contains(&role) {
            let note = format!(
                "the service account {:?}: left out with its tokens, because its role is {role:?}",
                account.name
            );
            self.notes.push(note);
            return None;
        }
        self.accounts.push(PlannedAccount {
            name: account.name.clone(),
            role: role.to_owned(),
            is_disabled: account.is_disabled,
            tokens: Vec::new(),
        });
        Some(self.accounts.len() - 1)
    }

    fn add_key(&mut self, key: &GrafanaKey, places: &BTreeMap<i64, Option<usize>>, now: i64) {
        let place = key.service_account_id.map(|id| places.get(&id));
        let problem = match (place, key.expires) {
            _ if key.is_revoked => Some("it is revoked".to_owned()),
            (_, Some(expires)) if expires <= now => Some("it has expired".to_owned()),
            // The note about its account says so.
            (Some(Some(None)), _) => return,
            (Some(None), _) => Some("its service account is not there".to_owned()),
            (None, _) if !ROLES.contains(&key.role.as_str()) => Some(format!("its role is {:?}", key.role)),
            (Some(Some(Some(_))) | None, _) => None,
        };
        if let Some(problem) = problem {
            self.notes.push(format!("the key {:?}: left out, because {problem}", key.name));
            return;
        }
        let planned =
            PlannedKey { name: key.name.clone(), seconds_to_live: key.expires.map(|expires| expires - now) };
        match place.flatten().copied().flatten().and_then(|place| self.accounts.get_mut(place)) {
            Some(account) => account.tokens.push(planned),
            None => self.keys.push((planned, key.role.clone())),
        }
    }
}

/// The organisation of the created keys; `None` if there are no keys.
fn organisation(grafana: &GrafanaKeys, org: Option<i64>) -> Result<Option<i64>, GrafanaError> {
    let with_keys = |id: i64| {
        grafana.keys.iter().any(|key| key.org_id == id)
            || grafana.accounts.iter().any(|account| account.org_id == id)
    };
    if let Some(org) = org {
        let is_there = with_keys(org) || grafana.organisations.iter().any(|one| one.id == org);
        return if is_there { Ok(Some(org)) } else { Err(GrafanaError::NoOrganisation(org)) };
    }
    let mut ids: Vec<i64> = grafana.keys.iter().map(|key| key.org_id).collect();
    ids.extend(grafana.accounts.iter().map(|account| account.org_id));
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        ids => {
            let name = |id: &i64| {
                let name = grafana.organisations.iter().find(|one| one.id == *id);
                name.map_or_else(|| id.to_string(), |one| format!("{id} ({:?})", one.name))
            };
            Err(GrafanaError::Organisations(ids.iter().map(name).collect::<Vec<_>>().join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::Organisation;
    use super::*;

    fn key(name: &str, account: Option<i64>) -> GrafanaKey {
        GrafanaKey {
            org_id: 1,
            name: name.to_owned(),
            role: "Viewer".to_owned(),
            expires: None,
            service_account_id: account,
            is_revoked: false,
        }
    }

    fn account(id: i64, name: &str, role: Option<&str>) -> GrafanaAccount {
        let role = role.map(str::to_owned);
        GrafanaAccount { id, org_id: 1, name: name.to_owned(), role, is_disabled: false }
    }

    /// How many accounts and keys are made.
    fn count(plan: &Plan) -> (usize, usize) {
        let tokens: usize = plan.accounts.iter().map(|account| account.tokens.len()).sum();
        (plan.accounts.len(), tokens + plan.keys.len())
    }

    #[test]
    fn dead_keys_and_what_has_no_role_here_are_left_out() {
        let grafana = GrafanaKeys {
            accounts: vec![account(2, "robots", Some("Editor")), account(3, "limited", Some("None"))],
            keys: vec![
                key("plain", None),
                key("of robots", Some(2)),
                key("of limited", Some(3)),
                key("of nobody", Some(99)),
                GrafanaKey { expires: Some(1_060), ..key("for a minute", None) },
                GrafanaKey { expires: Some(1_000), ..key("expired", None) },
                GrafanaKey { is_revoked: true, ..key("revoked", Some(2)) },
                GrafanaKey { role: "None".to_owned(), ..key("no role", None) },
            ],
            organisations: Vec::new(),
        };
        let plan = Plan::new(&grafana, None, 1_000).expect("a plan");
        let of = |name: &str, seconds| PlannedKey { name: name.to_owned(), seconds_to_live: seconds };
        assert_eq!(count(&plan), (1, 3));
        assert_eq!(plan.accounts[0].tokens, [of("of robots", None)]);
        let viewer = || "Viewer".to_owned();
        assert_eq!(plan.keys, [(of("plain", None), viewer()), (of("for a minute", Some(60)), viewer())]);
        assert_eq!(
            plan.notes,
            [
                "the service account \"limited\": left out with its tokens, because its role is \"None\"",
                "the key \"of nobody\": left out, because its service account is not there",
                "the key \"expired\": left out, because it has expired",
                "the key \"revoked\": left out, because it is revoked",
                "the key \"no role\": left out, because its role is \"None\"",
            ]
        );
    }

    #[test]
    fn one_organisation_is_taken() {
        let mut grafana = GrafanaKeys {
            accounts: Vec::new(),
            keys: vec![key("a", None), GrafanaKey { org_id: 2, ..key("b", None) }],
            organisations: vec![
                Organisation { id: 1, name: "Main Org.".to_owned() },
                Organisation { id: 2, name: "Other".to_owned() },
            ],
        };
        let error = Plan::new(&grafana, None, 0).expect_err("two").to_string();
        assert!(error.contains("1 (\"Main Org.\"), 2 (\"Other\")") && error.contains("--org"), "{error}");
        assert_eq!(Plan::new(&grafana, Some(2), 0).expect("a plan").keys[0].0.name, "b");
        assert!(Plan::new(&grafana, Some(3), 0).is_err());
        grafana.keys.pop();
        assert_eq!(count(&Plan::new(&grafana, None, 0).expect("a plan")), (0, 1));
        grafana.keys.clear();
        assert_eq!(Plan::new(&grafana, None, 0).expect("a plan"), Plan::default());
    }
}
