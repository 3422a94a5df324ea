//! Changes of keys and service accounts.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Account, Key, KeyOwner, Role, Status};

/// A change of a key: `None` leaves a member as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EditKey {
    /// Another name.
    pub name: Option<String>,
    /// Another description, or none.
    pub description: Option<Option<String>>,
    /// Another role; `Some(None)`, which is only for a person's key, is the role of the person.
    pub role: Option<Option<Role>>,
    /// Other policies, or no restriction.
    pub policies: Option<Option<Vec<String>>>,
    /// Other members of the actor.
    pub actor: Option<Map<String, Value>>,
    /// Another expiry, or never.
    pub expires_at: Option<Option<Timestamp>>,
    /// Whether it is disabled.
    pub is_disabled: Option<bool>,
}

/// Why a key or account cannot be changed in this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EditProblem {
    /// It is expired or revoked.
    #[error("API key is revoked or expired")]
    Dead,
    /// A member that an account's key takes from the account.
    #[error("{0}: the key is a service account's, which decides this for all of its keys")]
    OfAccount(&'static str),
    /// A member that a person's key takes from the person.
    #[error("{0}: the key is owned by a person and has the actor of that person")]
    OfPerson(&'static str),
    /// A key without an owner needs a role.
    #[error("role: expected Viewer, Editor or Admin")]
    NoRole,
}

impl EditKey {
    /// Whether nothing but the description changes.
    fn is_description_alone(&self) -> bool {
        let Self { name, description: _, role, policies, actor, expires_at, is_disabled } = self;
        name.is_none()
            && role.is_none()
            && policies.is_none()
            && actor.is_none()
            && expires_at.is_none()
            && is_disabled.is_none()
    }

    /// The key after the change.
    ///
    /// # Errors
    /// [`EditProblem`].
    pub fn apply(&self, key: &Key, now: Timestamp) -> Result<Key, EditProblem> {
        match key.status(now) {
            Status::Live | Status::Disabled => {}
            Status::Expired | Status::Revoked if self.is_description_alone() => {}
            Status::Expired | Status::Revoked => return Err(EditProblem::Dead),
        }
        match &key.owner {
            KeyOwner::None if self.role == Some(None) => return Err(EditProblem::NoRole),
            KeyOwner::None => {}
            KeyOwner::Account(_) => {
                let given = [
                    ("role", self.role.is_some()),
                    ("policies", self.policies.is_some()),
                    ("actor", self.actor.is_some()),
                ];
                if let Some((member, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
                    return Err(EditProblem::OfAccount(member));
                }
            }
            KeyOwner::Person(_) if self.actor.as_ref().is_some_and(|actor| !actor.is_empty()) => {
                return Err(EditProblem::OfPerson("actor"));
            }
            KeyOwner::Person(_) => {}
        }
        let mut after = key.clone();
        set(&mut after.name, self.name.as_ref());
        set(&mut after.description, self.description.as_ref());
        set(&mut after.role, self.role.as_ref());
        set(&mut after.policies, self.policies.as_ref());
        set(&mut after.actor, self.actor.as_ref());
        set(&mut after.expires_at, self.expires_at.as_ref());
        after.previous_until = match (after.previous_until, after.expires_at) {
            // A replaced secret never works longer than its key.
            (Some(until), Some(expires_at)) => Some(until.min(expires_at)),
            (until, _) => until,
        };
        after.disabled_at = disabled_at(self.is_disabled, key.disabled_at, now);
        Ok(after)
    }
}

/// A change of a service account: `None` leaves a member as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EditAccount {
    /// Another name.
    pub name: Option<String>,
    /// Another description, or none.
    pub description: Option<Option<String>>,
    /// Another role.
    pub role: Option<Role>,
    /// Other policies, or no restriction.
    pub policies: Option<Option<Vec<String>>>,
    /// Other members of the actor.
    pub actor: Option<Map<String, Value>>,
    /// Whether it is disabled.
    pub is_disabled: Option<bool>,
}

impl EditAccount {
    /// The account after the change.
    pub fn apply(&self, account: &Account, now: Timestamp) -> Account {
        let mut after = account.clone();
        set(&mut after.name, self.name.as_ref());
        set(&mut after.description, self.description.as_ref());
        set(&mut after.role, self.role.as_ref());
        set(&mut after.policies, self.policies.as_ref());
        set(&mut after.actor, self.actor.as_ref());
        after.disabled_at = disabled_at(self.is_disabled, account.disabled_at, now);
        after
    }
}

fn set<T: Clone>(member: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        member.clone_from(value);
    }
}

/// The time of disabling; a second disabling keeps the first time.
fn disabled_at(is_disabled: Option<bool>, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    match is_disabled {
        None => before,
        Some(true) => before.or(Some(super::whole_second(now))),
        Some(false) => None,
    }
}

/// The state before and after a change.  One of the two is `None` for a creation or a deletion.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed<T> {
    /// Before the change.
    pub before: Option<T>,
    /// After it.
    pub after: Option<T>,
}

impl<T> Changed<T> {
    /// A creation.
    pub fn created(after: T) -> Self {
        Self { before: None, after: Some(after) }
    }

    /// A change.
    pub fn edited(before: T, after: T) -> Self {
        Self { before: Some(before), after: Some(after) }
    }

    /// A deletion.
    pub fn deleted(before: T) -> Self {
        Self { before: Some(before), after: None }
    }
}
