//! `POST /api/auth/keys/import`: keys whose secrets were made elsewhere, by their digests.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::yield_now;
use utoipa::ToSchema;

use super::create::unknown_account;
use super::find::read_digest;
use super::rules::{
    check_actor, check_headers, check_name, check_policies, policies_schema, read_description, read_name,
    read_role, role_schema,
};
use crate::actor::Actor;
use crate::admin::audit::{ChangeAttempt, actor_id};
use crate::admin::auth::{Manager, Writable};
use crate::admin::body::{Json, JsonLines, Members, RequestBody};
use crate::admin::error::{ApiError, InvalidKind};
use crate::admin::query::parse_time;
use crate::admin::responses::{BodyErrors, CallerErrors, ConflictErrors, PermissionErrors};
use crate::admin::{Admin, with_store_timeout};
use crate::keys::audit::Action;
use crate::keys::edit::EditProblem;
use crate::keys::store::{ChangeError, ImportError, NewKey};
use crate::keys::{Account, CreateKey, KeyOwner, KeySettings, Privileges, Role};
use crate::person::{PersonId, PersonSource};
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;

/// How many lines are looked at before other work on the thread gets its turn.
const LINES_AT_ONCE: usize = 25;
/// The longest id of an actor who made a key.
const MAX_CREATED_BY: usize = 500;

/// A key as a line of an import and an export.
#[derive(Debug, ToSchema)]
#[schema(as = KeyLine, rename_all = "camelCase")]
pub(in crate::admin) struct KeyLine {
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// The SHA-256 of the token in hexadecimal digits.
    #[schema(value_type = String, min_length = 64, max_length = 64)]
    sha256: TokenDigest,
    /// Required for a key without an owner; not allowed for the key of a service account.
    #[schema(required = false, schema_with = role_schema)]
    role: Option<Role>,
    #[schema(max_length = 500)]
    description: Option<String>,
    /// The name of the service account that owns the key.
    account: Option<String>,
    /// The person who owns the key.
    owner: Option<String>,
    /// Where that person comes from: config, ldap, or a provider's name.
    #[schema(value_type = Option<String>)]
    owner_source: Option<PersonSource>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expiration: Option<Timestamp>,
    #[schema(value_type = Option<Object>)]
    actor: Option<Map<String, Value>>,
    #[schema(schema_with = policies_schema)]
    policies: Option<Vec<String>>,
    #[schema(value_type = Option<bool>)]
    disabled: bool,
    /// When it was made; by default now.
    #[schema(value_type = Option<String>, format = DateTime)]
    created: Option<Timestamp>,
    /// The id of the actor who created it; by default the caller's.
    #[schema(max_length = 500)]
    created_by: Option<String>,
}

impl RequestBody for KeyLine {
    const MEMBERS: &'static [&'static str] = &[
        "name",
        "sha256",
        "role",
        "description",
        "account",
        "owner",
        "ownerSource",
        "expiration",
        "actor",
        "policies",
        "disabled",
        "created",
        "createdBy",
    ];
    // A misspelt `expiration` would make a key that never expires.
    const IS_STRICT: bool = true;

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let time = |members: &mut Members, field| {
            members.string(field)?.map(|text| parse_time(&text, field)).transpose()
        };
        let source = |members: &mut Members| {
            let invalid = || {
                let problem = "expected config, ldap, or the name of a provider";
                ApiError::invalid(InvalidKind::Source, "ownerSource", problem)
            };
            let text = members.string("ownerSource")?;
            text.map(|text| PersonSource::parse(&text).ok_or_else(invalid)).transpose()
        };
        let created_by = members.string("createdBy")?;
        let is_id = |text: &str| {
            let length = text.chars().count();
            (1..=MAX_CREATED_BY).contains(&length) && !text.contains(char::is_control)
        };
        if !created_by.as_deref().is_none_or(is_id) {
            let problem = format!("expected 1 to {MAX_CREATED_BY} printable characters");
            return Err(ApiError::invalid(InvalidKind::Owner, "createdBy", problem));
        }
        Ok(Self {
            name: read_name(members)?,
            sha256: read_digest(members)?,
            role: read_role(members, "role")?,
            description: read_description(members, "description")?,
            account: members.string("account")?,
            owner: members.string("owner")?,
            owner_source: source(members)?,
            expiration: time(members, "expiration")?,
            actor: members.object("actor")?,
            policies: members.strings("policies")?,
            disabled: members.boolean("disabled")?.unwrap_or(false),
            created: time(members, "created")?,
            created_by,
        })
    }
}

/// How many keys were imported.
#[derive(Serialize, ToSchema)]
#[schema(as = Imported)]
pub(in crate::admin) struct ImportedKeys {
    created: usize,
}

/// Import keys
///
/// For an Admin: keys whose tokens were made elsewhere, one a line, as GET /api/auth/keys/export writes them. All of them or
/// none; members of other names are errors here. Service accounts must exist. keys.max_seconds_to_live holds, counted from now.
#[utoipa::path(
    post,
    path = "/api/auth/keys/import",
    operation_id = "importKeys",
    tag = "keys",
    request_body(content = KeyLine, content_type = "application/x-ndjson"),
    responses(
        (status = OK, description = "They are imported", body = ImportedKeys),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(in crate::admin) async fn import(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    JsonLines(lines): JsonLines<KeyLine>,
) -> Result<Json<ImportedKeys>, ApiError> {
    manager.check_role(Role::Admin)?;
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    let accounts = admin.accounts_of_lines(&lines).await?;
    let importer =
        Importer { manager: &manager, snapshot: &snapshot, settings, accounts, now: admin.clock.now() };
    let mut new = Vec::with_capacity(lines.len());
    for (index, line) in lines.into_iter().enumerate() {
        let key = importer.key(line);
        new.push(key.map_err(|error| ApiError::Line { number: index + 1, error: Box::new(error) })?);
        if index % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
            yield_now().await;
        }
    }
    let author = manager.author(&attempt);
    let imported = with_store_timeout(admin.keys.import(settings, &new, &author)).await?;
    let imported = imported.map_err(|failure| match failure {
        // It was deleted a moment ago.
        ImportError { index: Some(index), error: ChangeError::AccountNotFound } => {
            ApiError::Line { number: index + 1, error: Box::new(unknown_account()) }
        }
        failure => failure.into(),
    })?;
    for key in &imported {
        attempt.log_change(Action::KEY_IMPORTED, manager.principal(), None, Some(key));
    }
    Ok(Json(ImportedKeys { created: imported.len() }))
}

impl Admin {
    /// The service accounts that the lines name, each once.
    async fn accounts_of_lines(
        self: &Arc<Self>,
        lines: &[KeyLine],
    ) -> Result<HashMap<String, Account>, ApiError> {
        let mut accounts = HashMap::new();
        for (index, line) in lines.iter().enumerate() {
            let Some(name) = line.account.as_ref().filter(|name| !accounts.contains_key(*name)) else {
                continue;
            };
            let found = with_store_timeout(self.keys.account_named(name)).await??;
            let account = found
                .ok_or_else(|| ApiError::Line { number: index + 1, error: Box::new(unknown_account()) })?;
            accounts.insert(name.clone(), account);
        }
        Ok(accounts)
    }
}

/// What lines are held against.
struct Importer<'i> {
    manager: &'i Manager,
    snapshot: &'i Snapshot,
    settings: &'i KeySettings,
    accounts: HashMap<String, Account>,
    now: Timestamp,
}

impl Importer<'_> {
    /// The key of a line.
    ///
    /// # Errors
    /// 400, 403 and 409.
    fn key(&self, line: KeyLine) -> Result<NewKey, ApiError> {
        let account = line.account.as_ref().and_then(|name| self.accounts.get(name));
        let owner = self.owner(&line, account)?;
        let invalid = |kind, field, problem: &str| Err(ApiError::invalid(kind, field, problem));
        let not_of_key = |problem: EditProblem, field| {
            Err(ApiError::invalid(InvalidKind::NotOfKey, field, problem.to_string()))
        };
        let KeyLine { name, sha256, role, description, expiration, actor, policies, created, .. } = line;
        let given = [("role", role.is_some()), ("policies", policies.is_some()), ("actor", actor.is_some())];
        match &owner {
            KeyOwner::None if role.is_none() => {
                return invalid(InvalidKind::MissingMember, "role", "is missing");
            }
            KeyOwner::None => {}
            KeyOwner::Account(_) => {
                if let Some((member, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
                    return not_of_key(EditProblem::OfAccount(member), member);
                }
            }
            KeyOwner::Person(_) if actor.is_some() => {
                return not_of_key(EditProblem::OfPerson("actor"), "actor");
            }
            KeyOwner::Person(_) => {}
        }
        let actor = actor.unwrap_or_default();
        check_actor(&actor, self.settings)?;
        check_policies(policies.as_deref().unwrap_or_default(), self.snapshot)?;
        check_name(&name, self.manager, self.snapshot)?;
        if owner == KeyOwner::None {
            let whole = Actor::of_key(&name, role.map_or("", Role::as_str), i64::MAX, &actor);
            check_headers(&whole, if actor.is_empty() { "name" } else { "actor" }, self.snapshot)?;
        }
        if self.snapshot.tokens.get(&sha256).is_some() {
            let problem = "a token of the configuration has this digest";
            return invalid(InvalidKind::KnownDigest, "sha256", problem);
        }
        self.check_life(expiration)?;
        if created.is_some_and(|created| created > self.now) {
            return invalid(InvalidKind::Time, "created", "is after now");
        }
        let privileges = Privileges {
            owner: &owner,
            key_id: None,
            key_name: Some(&name),
            account_name: account.map(|account| &*account.name),
            role: account.map_or(role, |account| Some(account.role)),
            actor: account.map_or(&actor, |account| &account.actor),
            expires_at: expiration,
        };
        self.manager.check_grant(&privileges, self.snapshot)?;
        let request = CreateKey { name, description, owner, role, expires_at: expiration, actor, policies };
        Ok(NewKey {
            request,
            digest: sha256,
            created_at: created.unwrap_or(self.now),
            created_by: line
                .created_by
                .unwrap_or_else(|| actor_id(self.manager.principal()))
                .replace('\0', ""),
            disabled_at: line.disabled.then_some(self.now),
            imported_at: Some(self.now),
        })
    }

    fn owner(&self, line: &KeyLine, account: Option<&Account>) -> Result<KeyOwner, ApiError> {
        let invalid = |field, problem: &str| Err(ApiError::invalid(InvalidKind::Owner, field, problem));
        match (account, &line.owner, &line.owner_source) {
            (None, None, None) => Ok(KeyOwner::None),
            (Some(account), None, None) => Ok(KeyOwner::Account(account.id)),
            (None, Some(subject), Some(source)) => {
                if subject.is_empty() || subject.contains('\0') {
                    return invalid("owner", "expected the name or id of a person");
                }
                // It identifies the caller, as for the caller's own keys.
                self.manager.owner()?;
                Ok(KeyOwner::Person(PersonId { source: source.clone(), subject: subject.as_str().into() }))
            }
            (None, Some(_), None) => invalid("ownerSource", "is missing: a person has a name and a source"),
            (None, None, Some(_)) => invalid("owner", "is missing: a person has a name and a source"),
            (Some(_), _, _) => invalid("owner", "a key is a service account's or a person's, not both"),
        }
    }

    fn check_life(&self, expiration: Option<Timestamp>) -> Result<(), ApiError> {
        let max = self.settings.max_seconds_to_live;
        let invalid = |kind| {
            let problem = format!("expected one at most {max} seconds from now (keys.max_seconds_to_live)");
            Err(ApiError::invalid(kind, "expiration", problem))
        };
        match expiration {
            _ if max < 0 => Ok(()),
            None => invalid(InvalidKind::LifeNotSet),
            Some(at) if at.as_second().saturating_sub(self.now.as_second()) > max => {
                invalid(InvalidKind::LifeTooLong)
            }
            Some(_) => Ok(()),
        }
    }
}
