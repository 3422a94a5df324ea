//! The records: a key, its owner and status, a service account, a session, a person.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::credential::has_expired;
use crate::person::PersonId;
use crate::token::TokenDigest;

/// The role of a key, as in Grafana.  A caller cannot manage a key with a role above the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and writes.
    Editor,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's name, as the API and actors show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "Viewer",
            Self::Editor => "Editor",
            Self::Admin => "Admin",
        }
    }

    /// The role of this name, in this case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// The owner of a key, which decides the actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyOwner {
    /// No owner: the key is a separate actor, as Grafana's API keys are.
    None,
    /// The service account of this id.
    Account(i64),
    /// A person: a configured user, or one of a directory or a provider.
    Person(PersonId),
}

impl KeyOwner {
    /// The id of the service account, if it is the owner.
    pub fn account(&self) -> Option<i64> {
        match self {
            Self::Account(id) => Some(*id),
            Self::None | Self::Person(_) => None,
        }
    }

    /// The person, if it is the owner.
    pub fn person(&self) -> Option<&PersonId> {
        match self {
            Self::Person(person) => Some(person),
            Self::None | Self::Account(_) => None,
        }
    }
}

/// A key without its secret.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Never reused, even when the key is deleted.
    pub id: i64,
    /// Unique among the live keys of the same owner.
    pub name: String,
    /// Its purpose, as its creator wrote it.
    pub description: Option<String>,
    /// Its owner.
    pub owner: KeyOwner,
    /// Its role.  `None` for a key of an account, which has the role of the account, and for a key of a person that has
    /// the role of the person.
    pub role: Option<Role>,
    /// Further members of the actor.  Empty for a key of an account or a person.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor is valid; `None`: no restriction.  A key of an account has those of the
    /// account.
    pub policies: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// When it was imported, if it was created elsewhere.
    pub imported_at: Option<Timestamp>,
    /// From this instant on it is expired; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Until when the secret before the last rotation works.
    pub previous_until: Option<Timestamp>,
    /// When it was last used, to a minute.
    pub last_used_at: Option<Timestamp>,
    /// How often it was used, as far as that was written.
    pub uses: u64,
    /// The address from which it was last used.
    pub last_address: Option<String>,
    /// When it was disabled; it may be enabled again.
    pub disabled_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The id of the actor who revoked it.
    pub revoked_by: Option<String>,
}

/// A request to create a key.
#[derive(Debug, Clone)]
pub struct CreateKey {
    /// Its name.
    pub name: String,
    /// Its purpose.
    pub description: Option<String>,
    /// Its owner.
    pub owner: KeyOwner,
    /// Its role; for `None` see [`Key::role`].  A key without an owner has a role.
    pub role: Option<Role>,
    /// When it expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Further members of its actor.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
}

/// A service account: one actor with any number of keys.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Never reused, even when the account is deleted.
    pub id: i64,
    /// Unique among accounts.
    pub name: String,
    /// Its purpose.
    pub description: Option<String>,
    /// Its role.
    pub role: Role,
    /// Further members of the actor.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// When it was disabled.  None of its keys authenticates then.
    pub disabled_at: Option<Timestamp>,
}

/// A request to create a service account.
#[derive(Debug, Clone)]
pub struct CreateAccount {
    /// Its name.
    pub name: String,
    /// Its purpose.
    pub description: Option<String>,
    /// Its role.
    pub role: Role,
    /// Further members of its actor.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// Whether it is disabled from the beginning.
    pub is_disabled: bool,
}

/// Why a caller may not grant a key: its rights exceed those of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExceedsGrant {
    /// Its role is above the caller's role.
    #[error("the key's role is above your own")]
    Role,
    /// A member of its actor has a value that the caller's actor does not have.
    #[error(
        "the key's actor has a member with a value that your own actor does not have; an Admin may set it"
    )]
    Member,
    /// An allow block names this key, by its name or id.
    #[error("an allow block of the configuration names this key; an Admin may give it")]
    Name,
    /// Its owner is a person, and the caller is neither that person nor an Admin.
    #[error("the key is another person's; its owner or an Admin may do that")]
    Owner,
    /// It has no owner or belongs to an account, and the caller may only have their own keys.
    #[error("you may make and change keys of your own alone")]
    OwnAlone,
    /// It would live longer than the key that creates it.
    #[error("a key makes no key that lives longer than itself")]
    Life,
}

/// The privileges of a key or an account, which a caller grants who creates, changes, enables or rotates it.
#[derive(Debug, Clone, Copy)]
pub struct Privileges<'k> {
    /// The owner of the key.  For an account it is the account itself.
    pub owner: &'k KeyOwner,
    /// The key's id; `None` for one that does not exist yet, and for an account itself.
    pub key_id: Option<i64>,
    /// The key's name; `None` for an account itself.
    pub key_name: Option<&'k str>,
    /// The name of the account, if it is the owner.
    pub account_name: Option<&'k str>,
    /// The role; `None` for the role of the person who owns it.
    pub role: Option<Role>,
    /// The members that are added to the actor.
    pub actor: &'k Map<String, Value>,
    /// When the key expires; `None`: never, and for an account itself.
    pub expires_at: Option<Timestamp>,
}

impl<'k> Privileges<'k> {
    /// The privileges of an account, which each of its keys has.
    pub fn of_account(account: &'k Account, owner: &'k KeyOwner) -> Self {
        Self {
            owner,
            key_id: None,
            key_name: None,
            account_name: Some(&account.name),
            role: Some(account.role),
            actor: &account.actor,
            expires_at: None,
        }
    }

    /// The privileges of a key, and of its account.
    pub fn of_key(key: &'k Key, account: Option<&'k Account>) -> Self {
        Self {
            owner: &key.owner,
            key_id: Some(key.id),
            key_name: Some(&key.name),
            account_name: account.map(|account| &*account.name),
            role: account.map_or(key.role, |account| Some(account.role)),
            actor: account.map_or(&key.actor, |account| &account.actor),
            expires_at: key.expires_at,
        }
    }
}

/// Checks, in the transaction of a change, whether the caller may grant the resulting privileges.
pub type GrantCheck<'c> = dyn Fn(&Privileges<'_>) -> Result<(), ExceedsGrant> + Send + Sync + 'c;

/// The author of a change, for the audit, and the keys that are visible to the author.
#[derive(Debug, Clone)]
pub struct Author {
    /// The id of the actor.
    pub id: String,
    /// The kind of the credential, such as `session`.
    pub credential: &'static str,
    /// The address.
    pub address: String,
    /// The only person whose keys are visible; `None`: all keys are.
    pub sees_only: Option<PersonId>,
}

impl Author {
    /// Whether a key of this owner is visible.
    pub fn sees(&self, owner: &KeyOwner) -> bool {
        self.sees_only.as_ref().is_none_or(|person| owner.person() == Some(person))
    }
}

/// The status of a key at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It authenticates.
    Live,
    /// It expired.
    Expired,
    /// It was revoked, expired or not.
    Revoked,
    /// It is disabled, and neither expired nor revoked.
    Disabled,
}

/// Why a Check denies a key that is neither revoked nor expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyDenied {
    /// It is disabled.
    Disabled,
    /// Its service account is disabled.
    AccountDisabled,
    /// Its service account is gone.
    AccountGone,
    /// Its owner is gone, or has ended.
    OwnerGone,
    /// It was revoked, deleted or replaced before the store was restored, and this process knows that.
    HeldBack,
}

impl WhyDenied {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::AccountDisabled => "account_disabled",
            Self::AccountGone => "account_gone",
            Self::OwnerGone => "owner_gone",
            Self::HeldBack => "held_back",
        }
    }
}

impl Key {
    /// The key's status at this instant.
    pub fn status(&self, now: Timestamp) -> Status {
        if self.revoked_at.is_some() {
            Status::Revoked
        } else if has_expired(self.expires_at, now) {
            Status::Expired
        } else if self.disabled_at.is_some() {
            Status::Disabled
        } else {
            Status::Live
        }
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    /// Everything except its secret.
    pub key: Key,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// The digest of the secret before the last rotation, and when that secret expires.
    pub previous: Option<(TokenDigest, Timestamp)>,
}

/// The scope of a session.  A log-in may open one session of each scope, with separate secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SessionScope {
    /// The admin listener.
    Admin,
    /// The application: Checks.
    Application,
}

impl SessionScope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Admin, Self::Application];

    /// The scope's word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Application => "application",
        }
    }

    /// The scope of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// A stored session of a logged-in person.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// The digest of the cookie's value, which is its secret.
    pub digest: TokenDigest,
    /// The person.
    pub person: PersonId,
    /// Its scope.
    pub scope: SessionScope,
    /// The session of [`SessionScope::Admin`] that the same log-in opened; `None` for that session itself, and if there
    /// is none.
    pub parent: Option<TokenDigest>,
    /// The digest of the data that must stay the same for the session to live, such as the hash of the password that
    /// opened it.
    pub binding: TokenDigest,
    /// The last claims of the person; `None` if there are none.
    pub claims: Option<Map<String, Value>>,
    /// When the source was last asked.
    pub checked_at: Timestamp,
    /// When it was opened ([`SESSION_TTL`](super::sessions::SESSION_TTL)).
    pub created_at: Timestamp,
    /// When it was last used, to a minute ([`SESSION_IDLE_TIMEOUT`](super::sessions::SESSION_IDLE_TIMEOUT)).
    pub last_used_at: Timestamp,
}

/// The record of a person, from a process that decides about people for those that do not.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPerson {
    /// Who it is.
    pub person: PersonId,
    /// The actor.
    pub actor: Map<String, Value>,
    /// The role; `None` for none.
    pub role: Option<Role>,
    /// The digest of the data that must stay the same for this record to be valid.
    pub binding: TokenDigest,
    /// The last claims of the person; `None` for a configured user, and for an ended person.
    pub claims: Option<Map<String, Value>>,
    /// When the person was last seen, to a minute.
    pub seen_at: Timestamp,
    /// When the person ended: left, was disabled, or no longer had a role.  `None` if not.
    pub ended_at: Option<Timestamp>,
}

impl StoredPerson {
    /// Whether the two differ only in the time when the person was seen.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.person == other.person
            && self.actor == other.actor
            && self.role == other.role
            && self.binding == other.binding
            && self.claims == other.claims
            && self.ended_at == other.ended_at
    }
}
