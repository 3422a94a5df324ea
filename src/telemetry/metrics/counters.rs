//! Counters that are looked up in advance: a Check does not search a table of labels.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::DecisionLabels;
use crate::credential::{Kind, Principal};
use crate::decision::Outcome;
use crate::person::PersonSource;
use crate::policy::{Policies, Policy};

/// The allowed requests under each policy of one snapshot.
#[derive(Debug)]
pub(super) struct AllowedCounters {
    /// By the policy's address, which is its own for as long as the snapshot lives.
    by_policy: HashMap<usize, Counter, RandomState>,
}

impl AllowedCounters {
    /// The counters of these policies.
    pub(super) fn new(policies: &Policies, decisions: &Family<DecisionLabels, Counter>) -> Self {
        let counter = |policy: &Arc<Policy>| {
            let labels = DecisionLabels::new(Outcome::Allowed, Arc::clone(policy.name()));
            (address(policy), decisions.get_or_create_owned(&labels))
        };
        Self { by_policy: policies.iter().map(counter).collect() }
    }

    /// The counter of one of these policies.
    pub(super) fn of(&self, policy: &Arc<Policy>) -> &Counter {
        self.by_policy.get(&address(policy)).expect("every policy of the snapshot has its counter")
    }
}

fn address(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy).addr()
}

/// Credentials recognised, a counter for each kind and source.
#[derive(Debug)]
pub(super) struct CredentialCounters {
    token: Counter,
    key: Counter,
    user: PersonCounters,
    session: PersonCounters,
    family: Family<CredentialLabels, Counter>,
}

/// A counter for each source of people.  Those of providers are only in the table.
#[derive(Debug)]
struct PersonCounters {
    config: Counter,
    ldap: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    kind: &'static str,
    source: String,
}

impl CredentialLabels {
    fn new(kind: Kind, source: &str) -> Self {
        Self { kind: kind.as_str(), source: source.to_owned() }
    }
}

impl CredentialCounters {
    /// The counters, shown by this registry.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let family = Family::<CredentialLabels, Counter>::default();
        let counter =
            |kind: Kind, source: &str| family.get_or_create_owned(&CredentialLabels::new(kind, source));
        let of_people = |kind| PersonCounters {
            config: counter(kind, PersonSource::Config.as_str()),
            ldap: counter(kind, PersonSource::Ldap.as_str()),
        };
        let credentials = Self {
            token: counter(Kind::Token, "config"),
            key: counter(Kind::Key, "keys"),
            user: of_people(Kind::User),
            session: of_people(Kind::Session),
            family: family.clone(),
        };
        registry.register("credentials", "Credentials recognised, by kind and source", family);
        credentials
    }

    /// Counts a credential.
    pub(super) fn count(&self, principal: &Principal) {
        let people = match principal.kind {
            Kind::Token => {
                self.token.inc();
                return;
            }
            Kind::Key => {
                self.key.inc();
                return;
            }
            Kind::User => &self.user,
            Kind::Session => &self.session,
        };
        match principal.source() {
            Some(PersonSource::Config) | None => people.config.inc(),
            Some(PersonSource::Ldap) => people.ldap.inc(),
            Some(PersonSource::Provider(name)) => {
                self.family.get_or_create(&CredentialLabels::new(principal.kind, name.as_str())).inc()
            }
        };
    }
}
