//! `explain --user NAME --connect`: who somebody of the directory is, without a password.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use serde_json::{Value, json};

use super::super::ExplainError;
use super::directory::find;
use super::explanation::KeyPosition;
use super::steps::key_position;
use super::text::RowWriter;
use crate::config::{Bind, Positions};
use crate::credential::Kind;
use crate::directory::{Lookup, NobodyReason};
use crate::identity::people::{NotAPerson, fitting_role, principal_of};
use crate::person::{PersonSource, normalized_name};
use crate::snapshot::Snapshot;

/// Who a name stands for.  As JSON its members are a promise: scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedPerson {
    /// The configuration's file.
    configuration: String,
    /// The name as it was given.
    user: String,
    /// The name as it is compared; `null` for one that nobody has.
    name: Option<String>,
    /// `config` or `ldap`: whose password is verified.
    source: Option<&'static str>,
    /// The name of the entry.
    entry: Option<String>,
    /// The value of `members.id`.
    id: Option<String>,
    /// The names of the groups.
    groups: Vec<String>,
    /// The role, and the entry of `roles` that gives it.
    role: Option<PersonRole>,
    /// The actor.
    actor: Option<Value>,
    /// Why it is nobody.
    nobody: Option<Nobody>,
}

#[derive(Debug, Serialize)]
struct PersonRole {
    role: String,
    at: Option<KeyPosition>,
}

#[derive(Debug, Serialize)]
struct Nobody {
    /// The word of the audit log.
    reason: &'static str,
    says: &'static str,
}

impl ExplainedPerson {
    /// Looks somebody up.
    ///
    /// # Errors
    /// There is no directory, or it does not answer.
    pub(super) async fn look_up(
        user: &str,
        snapshot: &Snapshot,
        positions: &Positions,
        configuration: String,
    ) -> Result<Self, ExplainError> {
        let mut person = Self {
            configuration,
            user: user.to_owned(),
            name: normalized_name(user),
            source: None,
            entry: None,
            id: None,
            groups: Vec::new(),
            role: None,
            actor: None,
            nobody: None,
        };
        if let Some(configured) = snapshot.users.get(user) {
            person.source = Some(PersonSource::Config.as_str());
            person.actor = Some(json!(configured.principal.actor.members()));
            return Ok(person);
        }
        if person.name.as_ref().is_some_and(|name| snapshot.users.has_normalized(name)) {
            person.nobody = Some(Nobody {
                reason: "configured_name",
                says: "a user of the configuration has this name in another spelling, and the directory is not asked about it",
            });
            return Ok(person);
        }
        let Some(settings) = &snapshot.ldap else {
            return Err("error: --connect: the configuration has no section `ldap`, and no such user".into());
        };
        person.source = Some(PersonSource::Ldap.as_str());
        match find(settings, user).await? {
            Lookup::Nobody(reason) => {
                let says = why_nobody(reason, &settings.bind);
                person.nobody = Some(Nobody { reason: reason.as_str(), says });
            }
            Lookup::Found(entry) => {
                let role = fitting_role(&entry.groups, settings);
                person.role = role.and_then(|index| {
                    let role = settings.roles.get(index)?.role.as_str().to_owned();
                    Some(PersonRole {
                        role,
                        at: Some(key_position(positions, format!("ldap.roles[{index}]"))),
                    })
                });
                match principal_of(&entry, settings, snapshot, Kind::User) {
                    Ok(principal) => person.actor = Some(json!(principal.actor.members())),
                    Err(reason) => {
                        person.nobody = Some(Nobody { reason: reason.as_str(), says: why_no_person(reason) });
                    }
                }
                person.entry = Some(entry.dn);
                person.id = Some(entry.subject);
                person.groups = entry.groups;
            }
        }
        Ok(person)
    }

    /// Whether nobody can log in by the name.
    pub(super) fn is_nobody(&self) -> bool {
        self.nobody.is_some()
    }
}

fn why_nobody(reason: NobodyReason, bind: &Bind) -> &'static str {
    match reason {
        NobodyReason::InvalidName => "no person has such a name",
        NobodyReason::UnusablePassword => "the password is empty or contains a NUL",
        NobodyReason::Unknown => match bind {
            Bind::Reader { .. } => "`search_filter` finds no entry, or none that `bind_dn` may see",
            Bind::Anonymous => {
                "`search_filter` finds no entry, or none that may be seen without a bind (there is no `bind_dn`)"
            }
            Bind::Direct { .. } => {
                "`search_filter` finds no entry, or none that the person who bound may see"
            }
        },
        NobodyReason::SeveralEntries => "`search_filter` finds more than one entry",
        NobodyReason::Unreadable => "the person may not read their own entry",
        NobodyReason::OtherEntry => "`search_filter` finds another entry than the one that was bound",
        NobodyReason::Alias => "the entry is an alias for another one",
        NobodyReason::Referral => "the server refers to another one",
        NobodyReason::Disabled => "the entry says that it is disabled, or has expired",
        NobodyReason::NoId => "`members.id` has no value, or none that is a text",
        NobodyReason::SeveralIds => "`members.id` has more than one value",
        NobodyReason::InvalidEntry => "the name of the entry is not a distinguished name",
        NobodyReason::TooManyGroups => {
            "the person has more than 1,000 groups, or the server does not list all of them"
        }
    }
}

fn why_no_person(reason: NotAPerson) -> &'static str {
    match reason {
        NotAPerson::NoRole => "no entry of `roles` matches",
        NotAPerson::ReservedId => {
            "the id begins with `key:` or `sa:`, which are reserved for keys and service \
             accounts"
        }
        NotAPerson::ConfiguredId => "a token or a user of the configuration has the id",
        NotAPerson::IllegalId => {
            "the id is longer than 190 characters, or contains one that cannot be printed"
        }
        NotAPerson::IllegalActor => "the members do not make a valid actor",
        NotAPerson::NoId => "the provider gives no id",
        NotAPerson::NotOneId => "the provider's id is neither a text nor a whole number",
        NotAPerson::EmailNotVerified => {
            "the provider has not verified the email, which `allowed_domains` requires"
        }
        NotAPerson::OtherDomain => "the domain of the email is not in `allowed_domains`",
        NotAPerson::TooLarge => "name, groups and members together are longer than 64 KiB",
    }
}

impl Display for ExplainedPerson {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut lines = RowWriter { formatter, file: &self.configuration };
        lines.line("user", &self.user, None)?;
        for (title, value) in [
            ("name", self.name.as_deref()),
            ("source", self.source),
            ("entry", self.entry.as_deref()),
            ("id", self.id.as_deref()),
        ] {
            if let Some(value) = value {
                lines.line(title, value, None)?;
            }
        }
        self.groups.iter().try_for_each(|group| lines.line("group", group, None))?;
        if let Some(PersonRole { role, at }) = &self.role {
            lines.line("role", role, at.as_ref())?;
        }
        lines.value("actor", self.actor.as_ref())?;
        match &self.nobody {
            Some(Nobody { reason, says }) => lines.line("nobody", &format!("{reason}: {says}"), None),
            None => Ok(()),
        }
    }
}
