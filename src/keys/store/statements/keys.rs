//! The statements about keys, and the conditions and orders of their lists.

use jiff::Timestamp;

use super::super::list::{AccountRef, KeyFilter, KeyOrder, LIST_PAGE, MAX_BULK, OwnerKind, SortKey};
use super::super::rows::{KeyRow, Kind, NEW_KEY_COLUMNS};
use super::super::value::Value;
use super::{Dialect, NAMED};
use crate::keys::name::folded;
use crate::keys::store::source::MAX_PAGE;

/// The form in which the names of keys are compared.
const FOLDED: &str = "coalesce(folded_name, lower(name))";

/// Since when a key is unused.  One that was imported could not be used here before that, however old it is.
const UNUSED_SINCE: &str = "coalesce(last_used_at, imported_at, created_at)";

/// Those of keys.  Where rows are locked, it is in the order of ids, as everywhere.
pub struct KeyStatements {
    dialect: Dialect,
    columns: String,
    /// The next keys with an id above `$1`.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite gives them as JSON"))]
    pub page: String,
    /// Lets the first `$3` keys expire at `$1` that are live then and were last used, or else imported or created, at
    /// `$2` or before, and gives their rows.
    pub expire_idle: String,
    /// The next keys with an id above `$1` that are live at `$2`.
    pub export: String,
    /// The key of id `$1`.
    pub by_id: String,
    /// The same, locked.
    pub lock: String,
    /// The keys of which the digest `$1` is one: of their secret, or of the one before.
    pub by_digest: String,
    /// A row where the digest `$1` is known.
    pub knows_digest: &'static str,
    /// The keys that entries of the change log name.
    pub changed: String,
    /// Inserts the values of `NEW_KEY_COLUMNS` and gives the key's row.
    pub insert: String,
    /// A row where a key other than `$6`, with the folded name `$1`, of the account `$3`, or of the person `$5` in the
    /// source `$4`, or without an owner, is live at `$2`.
    pub name_taken: String,
    /// The number of keys of the person `$3` in the source `$2` that are live at `$1`.
    pub count_of_person: String,
    /// Writes what can be changed of the key of id `$1`: name `$2`, folded `$3`, description `$4`, role `$5`, actor `$6`,
    /// policies `$7`, expiry `$8`, that of the secret before `$9`, since when it is disabled `$10`.
    pub update: String,
    /// Makes `$3` the digest of the key of id `$1`, which expires at `$4`; the one before works until `$2`.
    pub rotate: String,
    /// Revokes the keys of the ids in the JSON array `$1`, which are not revoked, at `$2` by `$3`.
    pub revoke: String,
}

impl KeyStatements {
    pub fn new(dialect: Dialect) -> Self {
        let columns = dialect.select(KeyRow::COLUMNS);
        let key = &columns;
        let time = |number| dialect.parameter(Kind::Time, number);
        let is_idle = format!("{} AND {UNUSED_SINCE} <= {}", dialect.is_live(1), time(2));
        let expire = {
            let now = time(1);
            // A replaced secret never works longer than its key.
            format!(
                "UPDATE api_keys SET expires_at = {now}, \
                 previous_until = CASE WHEN previous_until > {now} THEN {now} ELSE previous_until END"
            )
        };
        let values = dialect.parameters(KeyRow::COLUMNS, &NEW_KEY_COLUMNS);
        let new = NEW_KEY_COLUMNS.join(", ");
        Self {
            dialect,
            page: format!("SELECT {key} FROM api_keys WHERE id > $1 ORDER BY id LIMIT {MAX_PAGE}"),
            expire_idle: match dialect {
                Dialect::Sqlite => format!(
                    "{expire} WHERE id IN (SELECT id FROM api_keys WHERE {is_idle} ORDER BY id LIMIT $3) \
                     RETURNING {key}"
                ),
                // Another process may do the same at this moment: each lets other keys expire.
                Dialect::Postgres => format!(
                    "WITH idle AS ( \
                         SELECT id AS idle_id FROM api_keys WHERE {is_idle} \
                         ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED \
                     ) {expire} FROM idle WHERE id = idle_id RETURNING {key}"
                ),
            },
            export: format!(
                "SELECT {key} FROM api_keys WHERE id > $1 AND {} ORDER BY id LIMIT {LIST_PAGE}",
                dialect.is_live(2)
            ),
            by_id: format!("SELECT {key} FROM api_keys WHERE id = $1"),
            lock: format!("SELECT {key} FROM api_keys WHERE id = $1{}", dialect.for_update()),
            by_digest: format!(
                "SELECT {key} FROM api_keys WHERE digest = $1 OR previous_digest = $1 ORDER BY id"
            ),
            knows_digest: "SELECT CAST(1 AS BIGINT) FROM api_keys WHERE digest = $1 OR previous_digest = $1 \
                           UNION ALL SELECT CAST(1 AS BIGINT) FROM api_sessions WHERE digest = $1 LIMIT 1",
            changed: format!("SELECT {key} FROM api_keys WHERE id IN (SELECT key_id {NAMED})"),
            insert: format!("INSERT INTO api_keys ({new}) VALUES ({values}) RETURNING {key}"),
            name_taken: format!(
                "SELECT CAST(1 AS BIGINT) FROM api_keys WHERE {FOLDED} = $1 AND {} \
                 AND coalesce(account_id, 0) = coalesce(CAST($3 AS BIGINT), 0) \
                 AND coalesce(owner_source, '') = coalesce(CAST($4 AS TEXT), '') \
                 AND coalesce(owner_subject, '') = coalesce(CAST($5 AS TEXT), '') \
                 AND id <> coalesce(CAST($6 AS BIGINT), 0) LIMIT 1",
                dialect.is_live(2)
            ),
            count_of_person: format!(
                "SELECT count(*) FROM api_keys WHERE owner_source = $2 AND owner_subject = $3 AND {}",
                dialect.is_live(1)
            ),
            update: format!(
                "UPDATE api_keys SET name = $2, folded_name = $3, description = $4, role = $5, actor = {}, \
                 policies = {}, expires_at = {}, previous_until = {}, disabled_at = {} WHERE id = $1",
                dialect.parameter(Kind::Json, 6),
                dialect.parameter(Kind::Json, 7),
                time(8),
                time(9),
                time(10)
            ),
            rotate: format!(
                "UPDATE api_keys SET previous_digest = digest, previous_until = {}, digest = $3, expires_at = {} \
                 WHERE id = $1",
                time(2),
                time(4)
            ),
            revoke: format!(
                "UPDATE api_keys SET revoked_at = {}, revoked_by = $3, previous_digest = NULL, previous_until = NULL \
                 WHERE id IN ({}) AND revoked_at IS NULL",
                time(2),
                dialect.ids(1)
            ),
            columns,
        }
    }

    /// The keys of the ids in the JSON array `$1`, in the order of ids.
    pub fn by_ids(&self) -> String {
        format!("SELECT {} FROM api_keys WHERE id IN ({}) ORDER BY id", self.columns, self.dialect.ids(1))
    }

    /// The next keys after that of name and id, by the bytes of names and then by id.
    pub fn list_after(&self, filter: &KeyFilter, name: &str, id: i64) -> (String, Vec<Value>) {
        let mut wanted = Conditions::of(self.dialect, filter);
        let (after_name, after_id) = (wanted.parameter(name), wanted.parameter(id));
        let by_name = self.dialect.by_bytes("name");
        wanted.add(format!("({by_name}, id) > ({after_name}, {after_id})"));
        let sql = format!(
            "SELECT {} FROM api_keys WHERE {} ORDER BY {by_name}, id LIMIT {LIST_PAGE}",
            self.columns,
            wanted.sql()
        );
        (sql, wanted.values)
    }

    /// So many keys after the first ones in this order.
    pub fn list_page(
        &self,
        filter: &KeyFilter,
        order: KeyOrder,
        offset: i64,
        limit: u32,
    ) -> (String, Vec<Value>) {
        let mut wanted = Conditions::of(self.dialect, filter);
        let (limit, offset) = (wanted.parameter(limit), wanted.parameter(offset));
        let sql = format!(
            "SELECT {} FROM api_keys WHERE {} ORDER BY {} LIMIT {limit} OFFSET {offset}",
            self.columns,
            wanted.sql(),
            self.order(order)
        );
        (sql, wanted.values)
    }

    /// The number of such keys.
    pub fn count(&self, filter: &KeyFilter) -> (String, Vec<Value>) {
        let wanted = Conditions::of(self.dialect, filter);
        (format!("SELECT count(*) FROM api_keys WHERE {}", wanted.sql()), wanted.values)
    }

    /// Such keys that are neither revoked nor expired at this instant, at most one more than one call revokes, in the
    /// order of ids and locked.
    pub fn lock_for_revocation(&self, filter: &KeyFilter, now: Timestamp) -> (String, Vec<Value>) {
        let filter = KeyFilter { live_at: Some(now), ..filter.clone() };
        let wanted = Conditions::of(self.dialect, &filter);
        let sql = format!(
            "SELECT {} FROM api_keys WHERE {} ORDER BY id LIMIT {}{}",
            self.columns,
            wanted.sql(),
            MAX_BULK + 1,
            self.dialect.for_update()
        );
        (sql, wanted.values)
    }

    fn order(&self, KeyOrder { by, is_descending }: KeyOrder) -> String {
        let name = self.dialect.by_bytes("name");
        let terms: &[&str] = match by {
            SortKey::Name => &[&name],
            SortKey::Created => &["created_at"],
            SortKey::Expiration => &["expires_at IS NULL", "expires_at"],
            SortKey::LastUsed => &["last_used_at IS NOT NULL", "last_used_at"],
            SortKey::Role => {
                &["CASE coalesce((SELECT a.role FROM api_accounts a WHERE a.id = account_id), role) \
                 WHEN 'Viewer' THEN 1 WHEN 'Editor' THEN 2 ELSE 3 END"]
            }
        };
        let direction = if is_descending { " DESC" } else { "" };
        let terms = terms.iter().chain(&["id"]).map(|term| format!("{term}{direction}"));
        terms.collect::<Vec<_>>().join(", ")
    }
}

/// Conditions of a list with the values of their parameters.
struct Conditions {
    all: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn of(dialect: Dialect, filter: &KeyFilter) -> Self {
        let mut wanted = Self { all: Vec::new(), values: Vec::new() };
        let KeyFilter {
            live_at,
            query,
            name_pattern,
            role,
            kind,
            account,
            owner,
            person,
            created_by,
            created_since,
            expires_by,
            unused_since,
        } = filter;
        if let Some(now) = live_at {
            wanted.parameter(*now);
            wanted.add(dialect.is_live(wanted.values.len()));
        }
        let text = query.as_ref().map(|query| format!("%{}%", escaped(&folded(query))));
        let pattern = name_pattern.as_ref().map(|pattern| escaped(&folded(pattern)).replace('*', "%"));
        for pattern in [text, pattern].into_iter().flatten() {
            let pattern = wanted.parameter(pattern);
            wanted.add(format!("{FOLDED} LIKE {pattern} ESCAPE '!'"));
        }
        if let Some(role) = role {
            let role = wanted.parameter(role.as_str());
            // A person's key with the highest role has the one that the person has, which is not known here.
            wanted.add(format!(
                "coalesce((SELECT a.role FROM api_accounts a WHERE a.id = account_id), role) = {role} \
                 AND NOT (owner_source IS NOT NULL AND role = 'Admin')"
            ));
        }
        match kind {
            None => {}
            Some(OwnerKind::None) => {
                wanted.add("account_id IS NULL AND owner_source IS NULL".to_owned());
            }
            Some(OwnerKind::Account) => wanted.add("account_id IS NOT NULL".to_owned()),
            Some(OwnerKind::Person) => wanted.add("owner_source IS NOT NULL".to_owned()),
        }
        match account {
            None => {}
            Some(AccountRef::Id(id)) => {
                let id = wanted.parameter(*id);
                wanted.add(format!("account_id = {id}"));
            }
            Some(AccountRef::Name(name)) => {
                let name = wanted.parameter(folded(name));
                wanted.add(format!(
                    "account_id = (SELECT a.id FROM api_accounts a WHERE a.folded_name = {name})"
                ));
            }
        }
        if let Some(owner) = owner {
            let owner = wanted.parameter(owner.as_str());
            wanted.add(format!("owner_subject = {owner}"));
        }
        if let Some(person) = person {
            let subject = wanted.parameter(&*person.subject);
            let source = wanted.parameter(person.source.as_str());
            wanted.add(format!("owner_subject = {subject} AND owner_source = {source}"));
        }
        if let Some(created_by) = created_by {
            let created_by = wanted.parameter(created_by.as_str());
            wanted.add(format!("created_by = {created_by}"));
        }
        if let Some(since) = created_since {
            let since = wanted.time(dialect, *since);
            wanted.add(format!("created_at >= {since}"));
        }
        if let Some(until) = expires_by {
            let until = wanted.time(dialect, *until);
            wanted.add(format!("expires_at <= {until}"));
        }
        if let Some(since) = unused_since {
            let since = wanted.time(dialect, *since);
            wanted.add(format!("{UNUSED_SINCE} <= {since}"));
        }
        wanted
    }

    fn add(&mut self, condition: String) {
        self.all.push(condition);
    }

    /// A parameter with this value.
    fn parameter(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn time(&mut self, dialect: Dialect, at: Timestamp) -> String {
        self.values.push(at.into());
        dialect.parameter(Kind::Time, self.values.len())
    }

    fn sql(&self) -> String {
        if self.all.is_empty() { "1 = 1".to_owned() } else { format!("({})", self.all.join(") AND (")) }
    }
}

/// A text in which nothing stands for other texts, for LIKE with the escape `!`.
pub(super) fn escaped(text: &str) -> String {
    text.replace('!', "!!").replace('%', "!%").replace('_', "!_")
}
