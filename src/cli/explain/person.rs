//! `explain --user NAME --connect`: a person of the directory, without a password.

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
use crate::directory::{Lookup, RejectionReason};
use crate::identity::people::{PersonRejection, fitting_role, principal_of};
use crate::person::{PersonSource, normalized_name};
use crate::snapshot::Snapshot;

/// The person behind a name.  The JSON members are stable: scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedPerson {
    /// The configuration's file.
    configuration: String,
    /// The name as it was given.
    user: String,
    /// The name as it is compared; `null` for a name that no person can have.
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
    /// Why it is rejected.
    rejected: Option<Rejection>,
}

#[derive(Debug, Serialize)]
struct PersonRole {
    role: String,
    at: Option<KeyPosition>,
}

#[derive(Debug, Serialize)]
struct Rejection {
    /// The word of the audit log.
    reason: &'static str,
    says: &'static str,
}

impl ExplainedPerson {
    /// Looks a person up.
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
            rejected: None,
        };
        if let Some(configured) = snapshot.users.get(user) {
            person.source = Some(PersonSource::Config.as_str());
            person.actor = Some(json!(configured.principal.actor.members()));
            return Ok(person);
        }
        if person.name.as_ref().is_some_and(|name| snapshot.users.has_normalized(name)) {
            person.rejected = Some(Rejection {
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
            Lookup::Rejected(reason) => {
                let says = rejection_text(reason, &settings.bind);
                person.rejected = Some(Rejection { reason: reason.as_str(), says });
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
                        person.rejected =
                            Some(Rejection { reason: reason.as_str(), says: person_rejection_text(reason) });
                    }
                }
                person.entry = Some(entry.dn);
                person.id = Some(entry.subject);
                person.groups = entry.groups;
            }
        }
        Ok(person)
    }

    /// Whether log-in with the name is rejected.
    pub(super) fn is_rejected(&self) -> bool {
        self.rejected.is_some()
    }
}

fn rejection_text(reason: RejectionReason, bind: &Bind) -> &'static str {
    match reason {
        RejectionReason::InvalidName => "no person has such a name",
        RejectionReason::UnusablePassword => "the password is empty or contains a NUL",
        RejectionReason::Unknown => match bind {
            Bind::Reader { .. } => "`search_filter` finds no entry, or none that `bind_dn` may see",
            Bind::Anonymous => {
                "`search_filter` finds no entry, or none that may be seen without a bind (there is no `bind_dn`)"
            }
            Bind::Direct { .. } => {
                "`search_filter` finds no entry, or none that the person who bound may see"
            }
        },
        RejectionReason::SeveralEntries => "`search_filter` finds more than one entry",
        RejectionReason::Unreadable => "the person may not read their own entry",
        RejectionReason::OtherEntry => "`search_filter` finds another entry than the one that was bound",
        RejectionReason::Alias => "the entry is an alias for another one",
        RejectionReason::Referral => "the server refers to another one",
        RejectionReason::Disabled => "the entry says that it is disabled, or has expired",
        RejectionReason::NoId => "`members.id` has no value, or none that is a text",
        RejectionReason::SeveralIds => "`members.id` has more than one value",
        RejectionReason::InvalidEntry => "the name of the entry is not a distinguished name",
        RejectionReason::TooManyGroups => {
            "the person has more than 1,000 groups, or the server does not list all of them"
        }
    }
}

fn person_rejection_text(reason: PersonRejection) -> &'static str {
    match reason {
        PersonRejection::NoRole => "no entry of `roles` matches",
        PersonRejection::ReservedId => {
            "the id begins with `key:` or `sa:`, which are reserved for keys and service \
             accounts"
        }
        PersonRejection::ConfiguredId => "a token or a user of the configuration has the id",
        PersonRejection::IllegalId => {
            "the id is longer than 190 characters, or contains one that cannot be printed"
        }
        PersonRejection::IllegalActor => "the members do not make a valid actor",
        PersonRejection::NoId => "the provider gives no id",
        PersonRejection::NotOneId => "the provider's id is neither a text nor a whole number",
        PersonRejection::EmailNotVerified => {
            "the provider has not verified the email, which `allowed_domains` requires"
        }
        PersonRejection::OtherDomain => "the domain of the email is not in `allowed_domains`",
        PersonRejection::TooLarge => "name, groups and members together are longer than 64 KiB",
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
        match &self.rejected {
            Some(Rejection { reason, says }) => lines.line("rejected", &format!("{reason}: {says}"), None),
            None => Ok(()),
        }
    }
}
