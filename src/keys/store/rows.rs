//! Rows of the tables, as both databases give them, and the records that they stand for.
//!
//! A row's struct is the list of its columns: [`statements`](super::statements) selects what is here.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use zeroize::Zeroizing;

use super::value::{Value as Parameter, values};
use super::{EndedSessions, ListPage, ListPosition, ListedAccount, NewKey, SECRET_BYTES, StoreFailure};
use crate::keys::audit::{AuditRow, NewAuditRow};
use crate::keys::name::folded;
use crate::keys::store::history::{Continuity, HistoryRow};
use crate::keys::store::list::LIST_PAGE;
use crate::keys::store::source::{
    AccountPage, ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, PersonPage, Revision, SessionPage,
};
use crate::keys::{
    Account, CreateAccount, Key, KeyOwner, Role, SessionScope, StoredKey, StoredPerson, StoredSession,
};
use crate::person::{PersonId, PersonSource};
use crate::priority::yielding;
use crate::token::TokenDigest;

/// A column of a table.
pub(super) struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a column holds, as far as the two databases store or write it differently.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A number or a text.
    Plain,
    /// JSON; read as its text.
    Json,
    /// 32 bytes; read as hexadecimal.
    Digest,
    /// An instant; read and written as whole seconds since 1970.
    Time,
}

/// Defines a row: a struct with a field for each column, in the order in which the columns are selected.
///
/// `Deserialize` reads the same columns from a JSON array.  sqlx's `derive(FromRow)` would do half of this, and
/// would compile the whole client twice: once for its macros.
macro_rules! row {
    ($(#[$doc:meta])* $row:ident { $($column:ident: $type:ty = $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        pub(super) struct $row {
            $(pub $column: $type,)*
        }

        impl $row {
            /// The columns, in the order of the fields.
            pub(super) const COLUMNS: &'static [Column] =
                &[$(Column { name: stringify!($column), kind: Kind::$kind },)*];
        }

        impl<'r, R: Row> FromRow<'r, R> for $row
        where
            &'static str: ColumnIndex<R>,
            i64: Decode<'r, R::Database> + Type<R::Database>,
            String: Decode<'r, R::Database> + Type<R::Database>,
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($column: row.try_get(stringify!($column))?,)* })
            }
        }
    };
}

row! {
    /// A row of `api_keys`.  Digests are hexadecimal, times are seconds since 1970.
    KeyRow {
        id: i64 = Plain,
        name: String = Plain,
        description: Option<String> = Plain,
        account_id: Option<i64> = Plain,
        owner_source: Option<String> = Plain,
        owner_subject: Option<String> = Plain,
        role: String = Plain,
        actor: String = Json,
        policies: Option<String> = Json,
        digest: String = Digest,
        previous_digest: Option<String> = Digest,
        previous_until: Option<i64> = Time,
        created_at: i64 = Time,
        created_by: String = Plain,
        imported_at: Option<i64> = Time,
        expires_at: Option<i64> = Time,
        last_used_at: Option<i64> = Time,
        uses: i64 = Plain,
        last_address: Option<String> = Plain,
        disabled_at: Option<i64> = Time,
        revoked_at: Option<i64> = Time,
        revoked_by: Option<String> = Plain,
    }
}

row! {
    /// A row of `api_accounts`.
    AccountRow {
        id: i64 = Plain,
        name: String = Plain,
        description: Option<String> = Plain,
        role: String = Plain,
        actor: String = Json,
        policies: Option<String> = Json,
        created_at: i64 = Time,
        created_by: String = Plain,
        disabled_at: Option<i64> = Time,
    }
}

row! {
    /// A row of `api_audit`.
    AuditRowColumns {
        id: i64 = Plain,
        at: i64 = Time,
        action: String = Plain,
        actor_id: Option<String> = Plain,
        credential: Option<String> = Plain,
        address: Option<String> = Plain,
        key_id: Option<i64> = Plain,
        key_name: Option<String> = Plain,
        account_id: Option<i64> = Plain,
        account_name: Option<String> = Plain,
        user_name: Option<String> = Plain,
        source: Option<String> = Plain,
        before: Option<String> = Json,
        after: Option<String> = Json,
        status: Option<i64> = Plain,
        reason: Option<String> = Plain,
        count: Option<i64> = Plain,
    }
}

/// An account, and how many live keys it has.
pub(super) struct ListedAccountRow {
    account: AccountRow,
    live_keys: i64,
}

impl<'r, R: Row> FromRow<'r, R> for ListedAccountRow
where
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self { account: AccountRow::from_row(row)?, live_keys: row.try_get("live_keys")? })
    }
}

row! {
    /// A row of `api_sessions`.
    SessionRow {
        digest: String = Digest,
        source: String = Plain,
        user_name: String = Plain,
        scope: String = Plain,
        parent: Option<String> = Digest,
        password_digest: String = Digest,
        claims: Option<String> = Json,
        checked_at: i64 = Time,
        created_at: i64 = Time,
        last_used_at: i64 = Time,
    }
}

row! {
    /// A row of `api_people`.
    PersonRow {
        id: i64 = Plain,
        source: String = Plain,
        subject: String = Plain,
        actor: String = Json,
        role: Option<String> = Plain,
        binding: String = Digest,
        claims: Option<String> = Json,
        seen_at: i64 = Time,
        ended_at: Option<i64> = Time,
    }
}

row! {
    /// A row of `api_changes`: a key, a session, a person or an account that was created, changed or deleted.
    ChangeRow {
        revision: i64 = Plain,
        seq: i64 = Plain,
        key_id: Option<i64> = Plain,
        session: Option<String> = Digest,
        person_id: Option<i64> = Plain,
        account_id: Option<i64> = Plain,
    }
}

row! {
    /// What `api_revision` says, seen from a revision; the statement names the columns.
    LookRow {
        identity: String = Plain,
        value: i64 = Plain,
        mark: i64 = Plain,
        pruned: i64 = Plain,
        pruned_mark: i64 = Plain,
        accepted: i64 = Plain,
        oldest_reader: i64 = Plain,
        is_copy: i64 = Plain,
        age_ms: Option<i64> = Plain,
        logged_mark: Option<i64> = Plain,
    }
}

impl LookRow {
    /// Which revision the store has, seen from the cursor whose revision the statement was given.
    pub fn into_look(self, since: Option<&Cursor>) -> Look {
        let age = self.age_ms.map(|age| Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        let (accepted, oldest_reader) = (self.accepted, self.oldest_reader);
        let row = HistoryRow {
            cursor: Cursor {
                store: self.identity.into_boxed_str(),
                revision: Revision(self.value),
                mark: self.mark,
            },
            pruned: (self.pruned, self.pruned_mark),
            logged_mark: self.logged_mark,
            is_copy: self.is_copy != 0,
        };
        let continuity = since.map_or(Continuity::Continues, |since| row.continuity(since));
        Look { cursor: row.cursor, continuity, accepted, age, oldest_reader }
    }
}

/// The secret of a row.
///
/// # Errors
/// It is not as long as the schema says.
pub(super) fn secret(value: Vec<u8>) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreFailure> {
    let value = Zeroizing::new(value);
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    if value.len() != secret.len() {
        return Err(StoreFailure::UnreadableRow);
    }
    secret.copy_from_slice(&value);
    Ok(secret)
}

/// A row holds a value that the schema does not allow.
pub(super) struct UnreadableRow;

impl TryFrom<KeyRow> for StoredKey {
    type Error = UnreadableRow;

    fn try_from(row: KeyRow) -> Result<Self, UnreadableRow> {
        let previous = match (row.previous_digest, row.previous_until) {
            (Some(digest), Some(until)) => Some((read_digest(&digest)?, instant(until)?)),
            _ => None,
        };
        let owner = match (row.account_id, row.owner_source, row.owner_subject) {
            (None, None, None) => KeyOwner::None,
            (Some(id), None, None) => KeyOwner::Account(id),
            (None, Some(source), Some(subject)) => KeyOwner::Person(person_id(&source, subject)?),
            _ => return Err(UnreadableRow),
        };
        let stored_role = Role::parse(&row.role).ok_or(UnreadableRow)?;
        let role = match &owner {
            KeyOwner::None => Some(stored_role),
            KeyOwner::Account(_) => None,
            // The lower one of this and the person's counts.
            KeyOwner::Person(_) => Some(stored_role).filter(|role| *role != UNCAPPED),
        };
        Ok(Self {
            key: Key {
                id: row.id,
                name: row.name,
                description: row.description,
                owner,
                role,
                actor: members(&row.actor)?,
                policies: row.policies.as_deref().map(json).transpose()?,
                created_at: instant(row.created_at)?,
                created_by: row.created_by,
                imported_at: row.imported_at.map(instant).transpose()?,
                expires_at: row.expires_at.map(instant).transpose()?,
                previous_until: previous.map(|(_, until)| until),
                last_used_at: row.last_used_at.map(instant).transpose()?,
                uses: row.uses.unsigned_abs(),
                last_address: row.last_address,
                disabled_at: row.disabled_at.map(instant).transpose()?,
                revoked_at: row.revoked_at.map(instant).transpose()?,
                revoked_by: row.revoked_by,
            },
            digest: read_digest(&row.digest)?,
            previous,
        })
    }
}

/// The role that is in the row of a person's key that has the person's role.
const UNCAPPED: Role = Role::Admin;

/// The role that is in the row of a key.  An account's is not read.
pub(super) fn stored_role(owner: &KeyOwner, role: Option<Role>) -> &'static str {
    let without = match owner {
        KeyOwner::None | KeyOwner::Account(_) => Role::Viewer,
        KeyOwner::Person(_) => UNCAPPED,
    };
    role.unwrap_or(without).as_str()
}

impl TryFrom<AccountRow> for Account {
    type Error = UnreadableRow;

    fn try_from(row: AccountRow) -> Result<Self, UnreadableRow> {
        Ok(Self {
            id: row.id,
            name: row.name,
            description: row.description,
            role: Role::parse(&row.role).ok_or(UnreadableRow)?,
            actor: members(&row.actor)?,
            policies: row.policies.as_deref().map(json).transpose()?,
            created_at: instant(row.created_at)?,
            created_by: row.created_by,
            disabled_at: row.disabled_at.map(instant).transpose()?,
        })
    }
}

impl TryFrom<AuditRowColumns> for AuditRow {
    type Error = UnreadableRow;

    fn try_from(row: AuditRowColumns) -> Result<Self, UnreadableRow> {
        let status = row.status.map(|status| u16::try_from(status).map_err(|_| UnreadableRow));
        Ok(Self {
            id: row.id,
            row: NewAuditRow {
                at: instant(row.at)?,
                action: row.action,
                by: row.actor_id,
                credential: row.credential,
                address: row.address,
                key_id: row.key_id,
                key_name: row.key_name,
                account_id: row.account_id,
                account_name: row.account_name,
                user: row.user_name,
                source: row.source,
                before: row.before.as_deref().map(json).transpose()?,
                after: row.after.as_deref().map(json).transpose()?,
                status: status.transpose()?,
                reason: row.reason,
                count: row.count,
            },
        })
    }
}

/// The members of an actor: most keys have none of their own, and there may be very many keys.
fn members(text: &str) -> Result<Map<String, Value>, UnreadableRow> {
    if text == "{}" { Ok(Map::new()) } else { json(text) }
}

impl TryFrom<SessionRow> for StoredSession {
    type Error = UnreadableRow;

    fn try_from(row: SessionRow) -> Result<Self, UnreadableRow> {
        Ok(Self {
            digest: read_digest(&row.digest)?,
            person: person_id(&row.source, row.user_name)?,
            scope: SessionScope::parse(&row.scope).ok_or(UnreadableRow)?,
            parent: row.parent.as_deref().map(read_digest).transpose()?,
            binding: read_digest(&row.password_digest)?,
            claims: row.claims.as_deref().map(json).transpose()?,
            checked_at: instant(row.checked_at)?,
            created_at: instant(row.created_at)?,
            last_used_at: instant(row.last_used_at)?,
        })
    }
}

impl TryFrom<PersonRow> for StoredPerson {
    type Error = UnreadableRow;

    fn try_from(row: PersonRow) -> Result<Self, UnreadableRow> {
        let role = row.role.as_deref().map(|role| Role::parse(role).ok_or(UnreadableRow));
        Ok(Self {
            person: person_id(&row.source, row.subject)?,
            actor: json(&row.actor)?,
            role: role.transpose()?,
            binding: read_digest(&row.binding)?,
            claims: row.claims.as_deref().map(json).transpose()?,
            seen_at: instant(row.seen_at)?,
            ended_at: row.ended_at.map(instant).transpose()?,
        })
    }
}

/// A newer version may know more sources.
fn person_id(source: &str, subject: String) -> Result<PersonId, UnreadableRow> {
    let source = PersonSource::parse(source).ok_or(UnreadableRow)?;
    Ok(PersonId { source, subject: subject.into_boxed_str() })
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, UnreadableRow> {
    serde_json::from_str(text).map_err(|_| UnreadableRow)
}

fn read_digest(hex: &str) -> Result<TokenDigest, UnreadableRow> {
    TokenDigest::from_hex(hex).ok_or(UnreadableRow)
}

fn instant(second: i64) -> Result<Timestamp, UnreadableRow> {
    Timestamp::from_second(second).map_err(|_| UnreadableRow)
}

/// The key of a row.
///
/// The checks of the schema leave little that could be wrong with a row.  An unreadable row counts as absent: it does
/// not authenticate, and other keys are not affected.
pub(super) fn key(row: KeyRow) -> Option<StoredKey> {
    let id = row.id;
    let key = StoredKey::try_from(row).ok();
    if key.is_none() {
        tracing::error!(key_id = id, "the key store has a row that cannot be read: this key is denied");
    }
    key
}

/// The account of a row.  An unreadable account counts as absent: none of its keys authenticates.
pub(super) fn account(row: AccountRow) -> Option<Account> {
    let id = row.id;
    let account = Account::try_from(row).ok();
    if account.is_none() {
        tracing::error!(
            account_id = id,
            "the key store has a row that cannot be read: the keys of this account are denied"
        );
    }
    account
}

/// A page of all accounts.
pub(super) fn account_page(rows: Vec<AccountRow>) -> AccountPage {
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() >= MAX_PAGE);
    AccountPage { accounts: rows.into_iter().filter_map(account).collect(), next }
}

/// Accounts as they are listed.
pub(super) fn listed_accounts(rows: Vec<ListedAccountRow>) -> Vec<ListedAccount> {
    let listed = rows.into_iter().filter_map(|row| {
        Some(ListedAccount { account: account(row.account)?, live_keys: row.live_keys.unsigned_abs() })
    });
    listed.collect()
}

/// The rows of the audit.  One that is unreadable is left out.
pub(super) fn audit_rows(rows: Vec<AuditRowColumns>) -> Vec<AuditRow> {
    rows.into_iter().filter_map(|row| AuditRow::try_from(row).ok()).collect()
}

/// New rows of the audit as the statement takes them.  `folded_name` is that of an account whose name is not given again.
pub(super) fn new_audit_rows(rows: &[NewAuditRow], folded_name: Option<&str>) -> String {
    let objects: Vec<Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "at": row.at.as_second(),
                "action": row.action,
                "actor_id": row.by,
                "credential": row.credential,
                "address": row.address,
                "key_id": row.key_id,
                "key_name": row.key_name,
                "account_id": row.account_id,
                "account_name": row.account_name,
                "user_name": row.user,
                "source": row.source,
                "before": row.before,
                "after": row.after,
                "status": row.status,
                "reason": row.reason,
                "count": row.count,
                "folded_name": folded_name,
            })
        })
        .collect();
    Value::Array(objects).to_string()
}

/// The keys of rows.
pub(super) fn keys(rows: Vec<KeyRow>) -> Vec<Key> {
    rows.into_iter().filter_map(key).map(|stored| stored.key).collect()
}

/// A page of the list.  The next one begins after the last row, readable or not.
pub(super) fn list_page(rows: Vec<KeyRow>) -> ListPage {
    let last = rows.last().filter(|_| rows.len() >= LIST_PAGE);
    let next = last.map(|row| ListPosition { name: row.name.clone(), id: row.id });
    ListPage { keys: keys(rows), next }
}

/// The sessions of rows.  One that is unreadable counts as absent.
pub(super) fn sessions(rows: Vec<SessionRow>) -> Vec<StoredSession> {
    rows.into_iter().filter_map(|row| row.try_into().ok()).collect()
}

/// A page of all sessions.
pub(super) fn session_page(rows: Vec<SessionRow>) -> SessionPage {
    let is_last = rows.len() < MAX_PAGE;
    // A digest is 32 bytes by the schema: the page after one that is not would be the same page again.
    let next = rows.last().and_then(|row| TokenDigest::from_hex(&row.digest)).filter(|_| !is_last);
    SessionPage { sessions: sessions(rows), next }
}

/// The person of a row, with its id.  One that is unreadable counts as absent.
pub(super) fn person(row: PersonRow) -> Option<(i64, StoredPerson)> {
    Some((row.id, row.try_into().ok()?))
}

/// A page of all people.
pub(super) fn person_page(rows: Vec<PersonRow>) -> PersonPage {
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() >= MAX_PAGE);
    PersonPage { people: rows.into_iter().filter_map(person).collect(), next }
}

/// A page of all keys.
pub(super) fn key_page(rows: Vec<KeyRow>) -> KeyPage {
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() >= MAX_PAGE);
    KeyPage { keys: yielding(rows).filter_map(key).collect(), next }
}

/// A page of all keys from JSON: an array of rows, each an array of its columns.
pub(super) fn key_page_of_json(page: &str) -> Result<KeyPage, StoreFailure> {
    let rows: Vec<KeyRow> = serde_json::from_str(page).map_err(|_| StoreFailure::UnreadableRow)?;
    Ok(key_page(rows))
}

/// A page of the change log, and what is left of the keys, sessions, people and accounts that it names.
#[derive(Default)]
pub(super) struct ChangedRows {
    /// The entries.
    pub log: Vec<ChangeRow>,
    /// The keys that still exist.
    pub keys: Vec<KeyRow>,
    /// The sessions that still exist.
    pub sessions: Vec<SessionRow>,
    /// The people that still exist.
    pub people: Vec<PersonRow>,
    /// The accounts that still exist.
    pub accounts: Vec<AccountRow>,
}

impl ChangedRows {
    /// The changes.  What the log names and has no readable row is deleted.
    pub fn into_page(self, pruned: i64) -> ChangePage {
        let next = last_entry(&self.log).filter(|_| self.log.len() >= MAX_PAGE);
        let keys: Vec<StoredKey> = self.keys.into_iter().filter_map(key).collect();
        let sessions = sessions(self.sessions);
        let people: Vec<(i64, StoredPerson)> = self.people.into_iter().filter_map(person).collect();
        let accounts: Vec<Account> = self.accounts.into_iter().filter_map(account).collect();
        let existing_accounts: HashSet<i64> = accounts.iter().map(|account| account.id).collect();
        let existing_keys: HashSet<i64> = keys.iter().map(|stored| stored.key.id).collect();
        let existing_sessions: HashSet<TokenDigest> = sessions.iter().map(|stored| stored.digest).collect();
        let existing_people: HashSet<i64> = people.iter().map(|(id, _)| *id).collect();
        let (mut deleted_keys, mut deleted_sessions) = (Vec::new(), Vec::new());
        let (mut deleted_people, mut deleted_accounts) = (Vec::new(), Vec::new());
        for ChangeRow { key_id, session, person_id, account_id, .. } in self.log {
            deleted_keys.extend(key_id.filter(|id| !existing_keys.contains(id)));
            let session = session.and_then(|hex| TokenDigest::from_hex(&hex));
            deleted_sessions.extend(session.filter(|digest| !existing_sessions.contains(digest)));
            deleted_people.extend(person_id.filter(|id| !existing_people.contains(id)));
            deleted_accounts.extend(account_id.filter(|id| !existing_accounts.contains(id)));
        }
        ChangePage {
            keys,
            deleted_keys,
            sessions,
            deleted_sessions,
            people,
            deleted_people,
            accounts,
            deleted_accounts,
            next,
            pruned: Revision(pruned),
        }
    }
}

/// Where the last of these entries stands.
pub(super) fn last_entry(log: &[ChangeRow]) -> Option<LogPosition> {
    log.last().map(|row| LogPosition { revision: Revision(row.revision), entry: row.seq })
}

/// The columns of `api_keys` for which a new key has a value, in the order of [`new_key_values`].
/// The others have a default.
pub(super) const NEW_KEY_COLUMNS: [&str; 15] = [
    "name",
    "folded_name",
    "description",
    "account_id",
    "role",
    "actor",
    "policies",
    "digest",
    "created_at",
    "created_by",
    "expires_at",
    "owner_source",
    "owner_subject",
    "disabled_at",
    "imported_at",
];

/// The values of [`NEW_KEY_COLUMNS`].
pub(super) fn new_key_values(new: &NewKey) -> [Parameter; 15] {
    let NewKey { request, digest, created_at, created_by, disabled_at, imported_at } = new;
    let person = request.owner.person();
    values![
        request.name.as_str(),
        folded(&request.name),
        request.description.as_deref(),
        request.owner.account(),
        stored_role(&request.owner, request.role),
        object_text(&request.actor),
        policies_text(request.policies.as_deref()),
        digest,
        *created_at,
        created_by.as_str(),
        request.expires_at,
        person.map(|person| person.source.as_str()),
        person.map(|person| &*person.subject),
        *disabled_at,
        *imported_at,
    ]
}

/// What is written of a key that was changed, for the statement `update`.
pub(super) fn changed_key_values(key: &Key) -> [Parameter; 10] {
    values![
        key.id,
        key.name.as_str(),
        folded(&key.name),
        key.description.as_deref(),
        stored_role(&key.owner, key.role),
        object_text(&key.actor),
        policies_text(key.policies.as_deref()),
        key.expires_at,
        key.previous_until,
        key.disabled_at,
    ]
}

/// The columns of `api_accounts` of a new account, in the order of [`new_account_values`].
pub(super) const ACCOUNT_COLUMNS: [&str; 9] = [
    "name",
    "folded_name",
    "description",
    "role",
    "actor",
    "policies",
    "created_at",
    "created_by",
    "disabled_at",
];

/// The values of [`ACCOUNT_COLUMNS`].
pub(super) fn new_account_values(new: &CreateAccount, created_by: &str, now: Timestamp) -> [Parameter; 9] {
    values![
        new.name.as_str(),
        folded(&new.name),
        new.description.as_deref(),
        new.role.as_str(),
        object_text(&new.actor),
        policies_text(new.policies.as_deref()),
        now,
        created_by,
        new.is_disabled.then_some(now),
    ]
}

/// What is written of an account that was changed, for the statement `update`.
pub(super) fn changed_account_values(account: &Account) -> [Parameter; 8] {
    values![
        account.id,
        account.name.as_str(),
        folded(&account.name),
        account.description.as_deref(),
        account.role.as_str(),
        object_text(&account.actor),
        policies_text(account.policies.as_deref()),
        account.disabled_at,
    ]
}

fn policies_text(policies: Option<&[String]>) -> Option<String> {
    policies.map(|names| serde_json::to_string(names).expect("a list of strings serializes"))
}

/// Ids as a JSON array.
pub(super) fn ids_text(ids: &[i64]) -> String {
    serde_json::to_string(ids).expect("a list of numbers serializes")
}

/// The columns of `api_sessions` of a new session, in the order of [`session_values`].
pub(super) const NEW_SESSION_COLUMNS: [&str; 10] = [
    "digest",
    "source",
    "user_name",
    "scope",
    "parent",
    "password_digest",
    "claims",
    "checked_at",
    "created_at",
    "last_used_at",
];

/// The values of [`NEW_SESSION_COLUMNS`].
pub(super) fn session_values(session: &StoredSession) -> [Parameter; 10] {
    values![
        &session.digest,
        session.person.source.as_str(),
        &*session.person.subject,
        session.scope.as_str(),
        session.parent.map(|parent| parent.as_bytes().to_vec()),
        &session.binding,
        session.claims.as_ref().map(object_text),
        session.checked_at,
        session.created_at,
        session.last_used_at,
    ]
}

/// The columns of `api_people` of a person, in the order of [`person_values`].
pub(super) const PERSON_COLUMNS: [&str; 8] =
    ["source", "subject", "actor", "role", "binding", "claims", "seen_at", "ended_at"];

/// The values of [`PERSON_COLUMNS`].
pub(super) fn person_values(stored: &StoredPerson) -> [Parameter; 8] {
    values![
        stored.person.source.as_str(),
        &*stored.person.subject,
        object_text(&stored.actor),
        stored.role.map(Role::as_str),
        &stored.binding,
        stored.claims.as_ref().map(object_text),
        stored.seen_at,
        stored.ended_at,
    ]
}

/// The text of a JSON object.
pub(super) fn object_text(object: &Map<String, Value>) -> String {
    serde_json::to_string(object).expect("a JSON object serializes")
}

/// A deleted session: its digest, that of its log-in, and whether it was live.
pub(super) type DeletedSession = (Vec<u8>, Vec<u8>, bool);

/// The sessions of deleted rows, and the number of log-ins of which one was live.
pub(super) fn ended_sessions(rows: &[DeletedSession]) -> EndedSessions {
    let live: HashSet<&[u8]> =
        rows.iter().filter(|(_, _, is_live)| *is_live).map(|(_, log_in, _)| log_in.as_slice()).collect();
    EndedSessions { digests: digests(rows.iter().map(|(digest, ..)| digest)), log_ins: live.len() }
}

/// The digests of these columns, each of 32 bytes.
pub(super) fn digests<'c>(columns: impl IntoIterator<Item = &'c Vec<u8>>) -> Vec<TokenDigest> {
    let bytes = columns.into_iter().filter_map(|column| column.as_slice().try_into().ok());
    bytes.map(TokenDigest::from_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_a_word_that_only_newer_versions_know_counts_as_absent() {
        let session = |source: &str, scope: &str| SessionRow {
            digest: "00".repeat(32),
            source: source.to_owned(),
            user_name: "ann".to_owned(),
            scope: scope.to_owned(),
            parent: None,
            password_digest: "01".repeat(32),
            claims: None,
            checked_at: 0,
            created_at: 0,
            last_used_at: 0,
        };
        let readable = |row| sessions(vec![row]).len() == 1;
        assert!(readable(session("config", "admin")) && readable(session("ldap", "application")));
        assert!(!readable(session("Corporate", "admin")) && !readable(session("config", "everything")));
        let person = |source: &str, role: &str| PersonRow {
            id: 1,
            source: source.to_owned(),
            subject: "ann".to_owned(),
            actor: "{}".to_owned(),
            role: Some(role.to_owned()),
            binding: "01".repeat(32),
            claims: None,
            seen_at: 0,
            ended_at: None,
        };
        let readable = |row| super::person(row).is_some();
        assert!(readable(person("ldap", "Viewer")));
        assert!(!readable(person("Corporate", "Viewer")) && !readable(person("ldap", "Owner")));
    }

    #[test]
    fn log_ins_are_counted_once_and_only_live_ones() {
        let row = |digest: u8, log_in: u8, is_live| (vec![digest; 32], vec![log_in; 32], is_live);
        let ended = ended_sessions(&[row(1, 1, false), row(2, 1, true), row(3, 3, true), row(4, 4, false)]);
        assert_eq!((ended.digests.len(), ended.log_ins), (4, 2));
        assert_eq!(ended_sessions(&[]), EndedSessions::default());
    }
}
