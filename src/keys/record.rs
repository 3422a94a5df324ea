//! The records: a key, its owner and status, a service account, a session, a person.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::credential::has_expired;
use crate::person::PersonId;
use crate::token::TokenDigest;

/// The role of a key, as in Grafana.  Nobody manages a key above their own role.
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

/// Whose a key is: it decides the actor.  One of a person or an account is nobody else's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyOwner {
    /// Nobody's: the key is an actor of its own, as Grafana's API keys are.
    None,
    /// The service account of this id.
    Account(i64),
    /// A person: a configured user, or one of a directory or a provider.
    Person(PersonId),
}

impl KeyOwner {
    /// The account's id, where it is one's.
    pub fn account(&self) -> Option<i64> {
        match self {
            Self::Account(id) => Some(*id),
            Self::None | Self::Person(_) => None,
        }
    }

    /// The person, where it is one's.
    pub fn person(&self) -> Option<&PersonId> {
        match self {
            Self::Person(person) => Some(person),
            Self::None | Self::Account(_) => None,
        }
    }
}

/// A key as it is shown: all but its secret.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Never reused, even when the key is deleted.
    pub id: i64,
    /// Unique among the live keys of the same owner.
    pub name: String,
    /// What it is for, in its maker's words.
    pub description: Option<String>,
    /// Whose it is.
    pub owner: KeyOwner,
    /// Its role.  `None` for an account's key, whose role is the account's, and for a person's key that has the role
    /// which the person has.
    pub role: Option<Role>,
    /// Members of the actor beyond those that every key's has.  Empty where it is an account's or a person's.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.  An account's key has the account's.
    pub policies: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// When it was imported, where it was made elsewhere.
    pub imported_at: Option<Timestamp>,
    /// From this instant on it is expired; `None` is never.
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
    /// What it is for.
    pub description: Option<String>,
    /// Whose it is.
    pub owner: KeyOwner,
    /// Its role; what `None` means says [`Key::role`].  Nobody's key has one.
    pub role: Option<Role>,
    /// When it expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Members of its actor beyond those of every key.
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
    /// What it is for.
    pub description: Option<String>,
    /// Its role.
    pub role: Role,
    /// Members of the actor beyond those that every account's has.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// When it was disabled: none of its keys authenticates.
    pub disabled_at: Option<Timestamp>,
}

/// A request to create a service account.
#[derive(Debug, Clone)]
pub struct CreateAccount {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its role.
    pub role: Role,
    /// Members of its actor beyond those of every account.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// Whether it is disabled from the beginning.
    pub is_disabled: bool,
}

/// Why somebody may not give a key: it can do what they cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExceedsGrant {
    /// A role above their own.
    #[error("the key's role is above your own")]
    Role,
    /// A member of its actor with a value that their own actor has not.
    #[error(
        "the key's actor has a member with a value that your own actor does not have; an Admin may set it"
    )]
    Member,
    /// An allow block names this key, by its name or id.
    #[error("an allow block of the configuration names this key; an Admin may give it")]
    Name,
    /// It is a person's, and the caller is neither that person nor an Admin.
    #[error("the key is another person's; its owner or an Admin may do that")]
    Owner,
    /// It is nobody's or an account's, and the caller may only have keys of their own.
    #[error("you may make and change keys of your own alone")]
    OwnAlone,
    /// A key would live longer than the key that makes it.
    #[error("a key makes no key that lives longer than itself")]
    Life,
}

/// What a key or an account can do: what somebody gives who creates, changes, enables or rotates it.
#[derive(Debug, Clone, Copy)]
pub struct Power<'k> {
    /// Whose the key is.  For an account itself it is the account's.
    pub owner: &'k KeyOwner,
    /// The key's id; `None` for one that does not exist yet, and for an account itself.
    pub key_id: Option<i64>,
    /// The key's name; `None` for an account itself.
    pub key_name: Option<&'k str>,
    /// The account's name, where it is one's.
    pub account_name: Option<&'k str>,
    /// The role; `None` for that of the person whose it is.
    pub role: Option<Role>,
    /// The members that are added to the actor.
    pub actor: &'k Map<String, Value>,
    /// When the key expires; `None` is never, and for an account itself.
    pub expires_at: Option<Timestamp>,
}

impl<'k> Power<'k> {
    /// That of an account, with which each of its keys acts.
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

    /// That of a key, and of the account whose it is.
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

/// Checks, in the transaction that makes a change, whether the caller may give what a key or account can do then.
pub type GrantCheck<'c> = dyn Fn(&Power<'_>) -> Result<(), ExceedsGrant> + Send + Sync + 'c;

/// Who makes a change, for the record; and which keys exist for them.
#[derive(Debug, Clone)]
pub struct Author {
    /// The id of their actor.
    pub id: String,
    /// The kind of their credential, such as `session`.
    pub credential: &'static str,
    /// Their address.
    pub address: String,
    /// The only person whose keys exist for them; `None`: all keys do.
    pub sees_only: Option<PersonId>,
}

impl Author {
    /// Whether a key of this owner exists for them.
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
    /// The service account whose it is is disabled.
    AccountDisabled,
    /// The service account whose it is is gone.
    AccountGone,
    /// The person whose it is is gone, or ended.
    OwnerGone,
    /// It was revoked, deleted or replaced before the store was restored, and this process remembers that.
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
    /// Everything but its secret.
    pub key: Key,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// The digest of the secret before the last rotation, and when that secret expires.
    pub previous: Option<(TokenDigest, Timestamp)>,
}

/// What a session is good for.  A log-in may open one of each, with secrets of their own.
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

/// A session as it is stored: a person who logged in.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// The digest of the cookie's value, which is its secret.
    pub digest: TokenDigest,
    /// Who logged in.
    pub person: PersonId,
    /// What it is good for.
    pub scope: SessionScope,
    /// The session of [`SessionScope::Admin`] that the same log-in opened; `None` for that one itself, and where it
    /// opened none.
    pub parent: Option<TokenDigest>,
    /// The digest of whatever must stay the same for the session to live, such as the hash of the password that opened
    /// it.
    pub binding: TokenDigest,
    /// What the person's source said of them when it was asked last; `None` where it says nothing.
    pub claims: Option<Map<String, Value>>,
    /// When it was asked last.
    pub checked_at: Timestamp,
    /// When it was opened ([`SESSION_TTL`](super::sessions::SESSION_TTL)).
    pub created_at: Timestamp,
    /// When it was last used, to a minute ([`SESSION_IDLE_TIMEOUT`](super::sessions::SESSION_IDLE_TIMEOUT)).
    pub last_used_at: Timestamp,
}

/// A person as the process that decides people recorded them, for those that decide none.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPerson {
    /// Who it is.
    pub person: PersonId,
    /// The actor.
    pub actor: Map<String, Value>,
    /// The role; `None` for none.
    pub role: Option<Role>,
    /// The digest of whatever must stay the same for this record to hold.
    pub binding: TokenDigest,
    /// What the person's source said of them when it was asked last; `None` for a configured user, and once they have ended.
    pub claims: Option<Map<String, Value>>,
    /// When the person was last seen, to a minute.
    pub seen_at: Timestamp,
    /// When the person ended: left, was disabled, or had no role any more.  `None` while they have not.
    pub ended_at: Option<Timestamp>,
}

impl StoredPerson {
    /// Whether the two differ in nothing but when the person was seen.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.person == other.person
            && self.actor == other.actor
            && self.role == other.role
            && self.binding == other.binding
            && self.claims == other.claims
            && self.ended_at == other.ended_at
    }
}
