//! The principals of people of directories and providers under the current rules.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::actor::Actor;
use crate::config::LdapSettings;
use crate::credential::{Kind, Principal};
use crate::directory::Entry;
use crate::distinguished_name::DistinguishedName;
use crate::keys::sessions::{CachedPrincipal, Session};
use crate::keys::{Role, StoredPerson, scoped_binding};
use crate::person::{Claims, Person, PersonId, PersonSource};
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;

/// The longest id of a person, in characters.
const MAX_ID: usize = 190;
/// The maximum size of the claims of a person, as JSON, in bytes.
const MAX_CLAIMS_BYTES: usize = 64 * 1024;

/// Beginnings of the ids of keys and of service accounts, which no person may have.
const RESERVED_IDS: [&str; 2] = ["key:", "sa:"];

/// Why a person of the directory or a provider is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonRejection {
    /// No entry of `roles` fits.
    NoRole,
    /// The provider gives no id: the claim is missing or empty.
    NoId,
    /// The provider's id is neither a text nor a whole number.
    NotOneId,
    /// The provider has not verified the email, which `allowed_domains` needs.
    EmailNotVerified,
    /// The domain of the email is not in `allowed_domains`.
    OtherDomain,
    /// The id begins like that of a key or a service account.
    ReservedId,
    /// A token or a user of the configuration has the id.
    ConfiguredId,
    /// The id is longer than 190 characters, or has a character that cannot be printed.
    IllegalId,
    /// The actor is not valid.
    IllegalActor,
    /// The claims are longer than 64 KiB as JSON.
    TooLarge,
}

impl PersonRejection {
    /// The word for the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRole => "no_role",
            Self::NoId => "no_id",
            Self::NotOneId => "several_ids",
            Self::EmailNotVerified => "email_not_verified",
            Self::OtherDomain => "other_domain",
            Self::ReservedId => "reserved_id",
            Self::ConfiguredId => "configured_id",
            Self::IllegalId => "illegal_id",
            Self::IllegalActor => "illegal_actor",
            Self::TooLarge => "too_large",
        }
    }
}

/// The directory's entry of the person of a session; `None` when it cannot be read.
pub(super) fn claims(session: &Session) -> Option<Entry> {
    entry_of(session.claims.as_ref()?)
}

/// The directory's entry in these claims; `None` when they are not an entry.
pub(super) fn entry_of(claims: &Map<String, Value>) -> Option<Entry> {
    Entry::deserialize(claims).ok()
}

/// The principal of a session by its claims, made once under each snapshot; `None` when it is over.
pub(super) fn principal_of_session(
    session: &Session,
    settings: &LdapSettings,
    snapshot: &Snapshot,
) -> Option<Arc<Principal>> {
    cached_principal(session, settings.binding, snapshot, || {
        principal_of(&claims(session)?, settings, snapshot, Kind::Session).ok()
    })
}

/// The principal that `make` builds for a session, once under each snapshot; `None` when the session has another
/// binding.
pub(super) fn cached_principal(
    session: &Session,
    binding: [u8; 32],
    snapshot: &Snapshot,
    make: impl FnOnce() -> Option<Principal>,
) -> Option<Arc<Principal>> {
    if let Some(cached) = session.principal.load().as_ref()
        && cached.snapshot_version == snapshot.version
    {
        return Some(Arc::clone(&cached.principal));
    }
    if session.binding != scoped_binding(&TokenDigest::from_bytes(binding), session.scope) {
        return None;
    }
    let principal = Arc::new(make()?);
    let cached = CachedPrincipal { snapshot_version: snapshot.version, principal: Arc::clone(&principal) };
    session.principal.store(Some(Arc::new(cached)));
    Some(principal)
}

/// The record of a person for other processes; `None` for a principal that is not a person, or that is restricted to
/// policies.  A record cannot hold a restriction, and without a record the person is not valid in other processes.
pub fn record_of(principal: &Principal, now: Timestamp) -> Option<StoredPerson> {
    let person = principal.person.as_ref().filter(|_| principal.policies.is_none())?;
    let role = principal.actor.member("role").and_then(Value::as_str).and_then(Role::parse);
    Some(StoredPerson {
        person: person.id.clone(),
        actor: principal.actor.members().clone(),
        role,
        binding: person.binding,
        claims: person.claims.as_ref().map(|claims| claims.members.clone()),
        seen_at: now,
        ended_at: None,
    })
}

/// The principal of an entry under the current rules.
///
/// # Errors
/// The reason why it is rejected.
pub fn principal_of(
    entry: &Entry,
    settings: &LdapSettings,
    snapshot: &Snapshot,
    kind: Kind,
) -> Result<Principal, PersonRejection> {
    let members = entry.members.iter().map(|(member, value)| (member.as_str(), value));
    let parts = PersonParts {
        source: PersonSource::Ldap,
        subject: &entry.subject,
        binding: settings.binding,
        plain_ids: settings.plain_ids,
        role: role(&entry.groups, settings),
        members: &mut members.into_iter(),
        claims_bytes: serde_json::to_vec(entry).map_or(0, |claims| claims.len()),
    };
    parts.into_principal(snapshot, kind)
}

/// The data of a person, before the checks that apply to people of every source.
pub(super) struct PersonParts<'s> {
    pub(super) source: PersonSource,
    pub(super) subject: &'s str,
    pub(super) binding: [u8; 32],
    pub(super) plain_ids: bool,
    pub(super) role: Option<Role>,
    pub(super) members: &'s mut dyn Iterator<Item = (&'s str, &'s Value)>,
    pub(super) claims_bytes: usize,
}

impl PersonParts<'_> {
    pub(super) fn into_principal(
        self,
        snapshot: &Snapshot,
        kind: Kind,
    ) -> Result<Principal, PersonRejection> {
        let Self { source, subject, .. } = self;
        if RESERVED_IDS.iter().any(|reserved| subject.starts_with(reserved)) {
            return Err(PersonRejection::ReservedId);
        }
        // The limits of the store, and of an index of PostgreSQL.
        if subject.chars().count() > MAX_ID || subject.chars().any(char::is_control) {
            return Err(PersonRejection::IllegalId);
        }
        let role = self.role.ok_or(PersonRejection::NoRole)?;
        if self.plain_ids && snapshot.begins_as_of_a_source(subject) {
            return Err(PersonRejection::ReservedId);
        }
        let id = if self.plain_ids { subject.to_owned() } else { format!("{}:{subject}", source.as_str()) };
        if snapshot.has_actor_id(&id) {
            return Err(PersonRejection::ConfiguredId);
        }
        let mut members = Map::from_iter([("id".to_owned(), Value::String(id))]);
        for (member, value) in self.members {
            members.entry(member).or_insert_with(|| value.clone());
        }
        members.insert("role".to_owned(), Value::String(role.as_str().to_owned()));
        let actor = Actor::configured(members).map_err(|_| PersonRejection::IllegalActor)?;
        if self.claims_bytes > MAX_CLAIMS_BYTES {
            return Err(PersonRejection::TooLarge);
        }
        let mut principal = Principal::new(kind, subject.into(), actor);
        principal.person = Some(Arc::new(Person {
            id: PersonId { source, subject: subject.into() },
            binding: TokenDigest::from_bytes(self.binding),
            claims: None,
        }));
        Ok(principal)
    }
}

/// The principal of a user with this entry at `asked_at`, with the data for a session.
pub(super) fn user_of(
    entry: &Entry,
    asked_at: Timestamp,
    settings: &LdapSettings,
    snapshot: &Snapshot,
) -> Result<Principal, PersonRejection> {
    let mut principal = principal_of(entry, settings, snapshot, Kind::User)?;
    // An entry is an object.
    if let (Some(person), Ok(Value::Object(members))) = (&principal.person, serde_json::to_value(entry)) {
        let claims = Some(Claims { members, checked_at: asked_at });
        principal.person = Some(Arc::new(Person { claims, ..(**person).clone() }));
    }
    Ok(principal)
}

/// The position of the first entry of `ldap.roles` that matches.
pub fn fitting_role(groups: &[String], settings: &LdapSettings) -> Option<usize> {
    let groups: Vec<DistinguishedName> = groups.iter().filter_map(|group| group.parse().ok()).collect();
    let fits = |group: &Option<DistinguishedName>| group.as_ref().is_none_or(|group| groups.contains(group));
    settings.roles.iter().position(|entry| fits(&entry.group))
}

fn role(groups: &[String], settings: &LdapSettings) -> Option<Role> {
    settings.roles.get(fitting_role(groups, settings)?).map(|entry| entry.role)
}
