//! A key in the index, and the principal that it stands for.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::KeyLookup;
use super::accounts::AccountSlot;
use crate::actor::Actor;
use crate::credential::{Kind, PolicyNames, Principal, has_expired};
use crate::keys::usage::LastUse;
use crate::keys::{KeyOwner, Role, Status, StoredKey, WhyDenied};
use crate::person::PersonId;
use crate::token::TokenDigest;

/// The validity of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When its key was created; `None` if that is not known.
    pub created_at: Option<Timestamp>,
    /// When it expires; `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// A key in the index: small, because there may be a million.
///
/// Its principal is made at the first use, and kept.
pub(super) struct IndexEntry {
    pub id: i64,
    pub name: Box<str>,
    role: Option<Role>,
    pub is_revoked: bool,
    is_disabled: bool,
    pub expires_at: Option<Timestamp>,
    /// In seconds since 1970.
    created_at: i64,
    pub digest: TokenDigest,
    optional: Option<Box<OptionalFields>>,
    pub last_use: Arc<LastUse>,
    owner: Owner,
}

/// The owner of the key, with the last principal that was made for it.
enum Owner {
    None(OnceLock<Arc<Principal>>),
    Account(Arc<AccountSlot>, ArcSwapOption<Principal>),
    Person(Box<PersonId>, ArcSwapOption<Principal>),
}

/// The fields that most keys do not have.
#[derive(PartialEq)]
struct OptionalFields {
    actor: Map<String, Value>,
    policies: Option<PolicyNames>,
    previous: Option<(TokenDigest, Timestamp)>,
}

impl IndexEntry {
    /// The entry of a stored key; `account` is the slot of its account.
    pub fn new(stored: StoredKey, account: Option<Arc<AccountSlot>>, last_use: Arc<LastUse>) -> Self {
        let StoredKey { key, digest, previous } = stored;
        let policies = key.policies.map(|names| names.into_iter().map(Arc::from).collect());
        let optional = OptionalFields { actor: key.actor, policies, previous };
        let is_empty =
            optional.actor.is_empty() && optional.policies.is_none() && optional.previous.is_none();
        let owner = match (key.owner, account) {
            (KeyOwner::Person(person), _) => Owner::Person(Box::new(person), ArcSwapOption::empty()),
            (KeyOwner::Account(_), Some(account)) => Owner::Account(account, ArcSwapOption::empty()),
            (KeyOwner::Account(_), None) | (KeyOwner::None, _) => Owner::None(OnceLock::new()),
        };
        Self {
            id: key.id,
            name: key.name.into_boxed_str(),
            role: key.role,
            is_revoked: key.revoked_at.is_some(),
            is_disabled: key.disabled_at.is_some(),
            expires_at: key.expires_at,
            created_at: key.created_at.as_second(),
            digest,
            optional: (!is_empty).then(|| Box::new(optional)),
            last_use,
            owner,
        }
    }

    fn previous(&self) -> Option<(TokenDigest, Timestamp)> {
        self.optional.as_ref().and_then(|optional| optional.previous)
    }

    fn policies(&self) -> Option<&PolicyNames> {
        self.optional.as_ref().and_then(|optional| optional.policies.as_ref())
    }

    /// The digests of its current and its previous secret.
    pub fn digests(&self) -> impl Iterator<Item = TokenDigest> {
        [Some(self.digest), self.previous().map(|(digest, _)| digest)].into_iter().flatten()
    }

    /// Whether the two differ only in their last use.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same_owner = match (&self.owner, &other.owner) {
            (Owner::None(_), Owner::None(_)) => true,
            (Owner::Account(one, _), Owner::Account(other, _)) => Arc::ptr_eq(one, other),
            (Owner::Person(one, _), Owner::Person(other, _)) => one == other,
            (Owner::None(_) | Owner::Account(..) | Owner::Person(..), _) => false,
        };
        is_same_owner
            && self.name == other.name
            && self.role == other.role
            && self.is_revoked == other.is_revoked
            && self.is_disabled == other.is_disabled
            && self.expires_at == other.expires_at
            && self.digest == other.digest
            && self.optional == other.optional
    }

    /// The person who owns it, unless it is revoked.
    pub fn owner(&self) -> Option<&PersonId> {
        self.person().filter(|_| !self.is_revoked)
    }

    /// The person who owns it.
    pub fn person(&self) -> Option<&PersonId> {
        match &self.owner {
            Owner::Person(person, _) => Some(person),
            Owner::None(_) | Owner::Account(..) => None,
        }
    }

    /// Whether it is not revoked, and neither it nor its account is disabled.
    pub fn is_usable(&self) -> bool {
        !self.is_revoked && self.why_denied().is_none()
    }

    /// Why it is not valid although it is neither revoked nor expired, as far as its own state and that of its account
    /// say.
    pub fn why_denied(&self) -> Option<WhyDenied> {
        if self.is_disabled {
            return Some(WhyDenied::Disabled);
        }
        match &self.owner {
            Owner::None(_) | Owner::Person(..) => None,
            Owner::Account(slot, _) => match slot.load().as_ref() {
                None => Some(WhyDenied::AccountGone),
                Some(account) => account.is_disabled.then_some(WhyDenied::AccountDisabled),
            },
        }
    }

    /// When the key was created, and when this digest of it expires.
    pub fn lifetime(&self, digest: &TokenDigest) -> Lifetime {
        let replaced_until =
            self.previous().filter(|(previous, _)| previous == digest).map(|(_, until)| until);
        let expires_at = match (self.expires_at, replaced_until) {
            (Some(expires_at), Some(until)) => Some(expires_at.min(until)),
            (expires_at, until) => expires_at.or(until),
        };
        Lifetime { created_at: Timestamp::from_second(self.created_at).ok(), expires_at }
    }

    /// The current state of this digest of the key; `None` when the key does not have it.
    pub fn status(&self, digest: &TokenDigest, now: Timestamp) -> Option<Status> {
        let until = match self.previous() {
            _ if self.digest == *digest => None,
            Some((previous, until)) if previous == *digest => Some(until),
            // A writer replaced the entry under this digest in the meantime.
            _ => return None,
        };
        Some(if self.is_revoked {
            Status::Revoked
        } else if has_expired(self.expires_at, now) || has_expired(until, now) {
            Status::Expired
        } else if self.why_denied().is_some() {
            Status::Disabled
        } else {
            Status::Live
        })
    }

    /// The same, with the principal of a live key.
    pub fn find(self: &Arc<Self>, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        match self.status(digest, now) {
            None => KeyLookup::Unknown,
            Some(Status::Revoked) => KeyLookup::Revoked,
            Some(Status::Expired) => KeyLookup::Expired,
            Some(Status::Disabled) => KeyLookup::Disabled,
            Some(Status::Live) => match &self.owner {
                Owner::None(made) => KeyLookup::Live(Arc::clone(made.get_or_init(|| self.own_principal()))),
                Owner::Account(slot, made) => self.account_principal(slot, made),
                Owner::Person(..) => KeyLookup::OfPerson(PersonKey(Arc::clone(self))),
            },
        }
    }

    fn own_principal(&self) -> Arc<Principal> {
        let none = Map::new();
        let own = self.optional.as_ref().map_or(&none, |optional| &optional.actor);
        let role = self.role.map(Role::as_str).unwrap_or_default();
        let actor = Actor::of_key(&self.name, role, self.id, own);
        let policies = self.policies().cloned();
        Arc::new(self.principal(actor, policies))
    }

    /// The principal of the current account.
    fn account_principal(&self, slot: &AccountSlot, made: &ArcSwapOption<Principal>) -> KeyLookup {
        let account = slot.load();
        let Some(account) = account.as_ref().filter(|account| !account.is_disabled) else {
            return KeyLookup::Disabled;
        };
        if let Some(principal) = made.load_full().filter(|made| made.account_version == account.version) {
            return KeyLookup::Live(principal);
        }
        let role = account.role.as_str();
        let actor = Actor::of_account_key(&account.name, role, &self.name, self.id, &account.actor);
        let mut principal = self.principal(actor, account.policies.clone());
        principal.account_version = account.version;
        principal.account = Some(Arc::clone(&account.name));
        let principal = Arc::new(principal);
        made.store(Some(Arc::clone(&principal)));
        KeyLookup::Live(principal)
    }

    fn principal(&self, actor: Actor, policies: Option<PolicyNames>) -> Principal {
        let mut principal = Principal::new(Kind::Key, Arc::from(&*self.name), actor);
        principal.id = Some(self.id);
        principal.policies = policies;
        principal.expires_at = self.expires_at;
        principal
    }
}

/// A live key of a person.
pub struct PersonKey(Arc<IndexEntry>);

impl std::fmt::Debug for PersonKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PersonKey({})", self.0.id)
    }
}

impl PersonKey {
    /// The person.  It is never `None`: this key is neither without an owner nor an account's.
    pub fn person(&self) -> Option<&PersonId> {
        self.0.person()
    }

    /// The principal of the key for this principal of its owner: the owner's actor with the lower of the two roles, and
    /// the policies that both have.  It is made again when the owner's principal changes.
    ///
    /// `None` where the actor cannot be made.
    pub fn principal(&self, person: &Arc<Principal>) -> Option<Arc<Principal>> {
        let Owner::Person(_, made) = &self.0.owner else {
            return None;
        };
        let of_same =
            |made: &Arc<Principal>| made.owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, person));
        if let Some(principal) = made.load_full().filter(of_same) {
            return Some(principal);
        }
        let actor = person.actor.of_own_key(self.0.role.map(Role::as_str), &self.0.name, self.0.id)?;
        let policies = match (self.0.policies(), &person.policies) {
            (Some(own), Some(theirs)) => {
                Some(own.iter().filter(|name| theirs.contains(name)).cloned().collect())
            }
            (own, theirs) => own.or(theirs.as_ref()).cloned(),
        };
        let mut principal = self.0.principal(actor, policies);
        principal.owner = Some(Arc::clone(person));
        let principal = Arc::new(principal);
        made.store(Some(Arc::clone(&principal)));
        Some(principal)
    }
}
