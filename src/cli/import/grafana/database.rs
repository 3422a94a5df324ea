//! Reads the service accounts and API keys of Grafana's database file.
//!
//! The tables are those of Grafana's own migrations: `api_key`, `user` with `is_service_account`, `org_user` with the role of
//! an account, `org`.  Columns that came later are missing in files of older versions: `expires` (6.0), `service_account_id`
//! (8.0), `is_revoked` (9.4).  Of its secrets, which are hashes, nothing is read.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, FromRow, Row, SqliteConnection};

use super::GrafanaError;

/// The beginning of every SQLite file.
const HEADER: &[u8] = b"SQLite format 3\0";

/// The service accounts and keys of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct GrafanaKeys {
    /// The service accounts, by their ids.
    pub accounts: Vec<GrafanaAccount>,
    /// The keys, by their ids.
    pub keys: Vec<GrafanaKey>,
    /// The organisations.
    pub organisations: Vec<Organisation>,
}

/// A service account: a row of `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrafanaAccount {
    /// Its id, to which its tokens refer.
    pub id: i64,
    /// The organisation that it belongs to.
    pub org_id: i64,
    /// Its name, else its login.
    pub name: String,
    /// Its role in its organisation; `None` where `org_user` has no row.
    pub role: Option<String>,
    /// Whether it is disabled.
    pub is_disabled: bool,
}

/// A key, or a token of a service account: a row of `api_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrafanaKey {
    /// The organisation that it belongs to.
    pub org_id: i64,
    /// Its name.
    pub name: String,
    /// Its own role, which a token's is not: that is its account's.
    pub role: String,
    /// When it expires, in seconds since 1970.
    pub expires: Option<i64>,
    /// The account of a token.
    pub service_account_id: Option<i64>,
    /// Whether it is revoked.
    pub is_revoked: bool,
}

/// A row of `org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
}

impl FromRow<'_, SqliteRow> for GrafanaAccount {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            is_disabled: row.try_get("is_disabled")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for GrafanaKey {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            org_id: row.try_get("org_id")?,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            expires: row.try_get("expires")?,
            service_account_id: row.try_get("service_account_id")?,
            is_revoked: row.try_get("is_revoked")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Organisation {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self { id: row.try_get("id")?, name: row.try_get("name")? })
    }
}

/// Whether these are the first bytes of a SQLite file.
pub fn is_database(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADER)
}

/// Reads a file, which is opened read-only.
///
/// # Errors
/// It cannot be read, or is not Grafana's.
pub async fn read(path: &Path) -> Result<GrafanaKeys, GrafanaError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    let mut connection = options.connect().await?;
    // One view of all tables, even if Grafana writes meanwhile.
    sqlx::query("BEGIN").execute(&mut connection).await?;
    let keys = read_tables(&mut connection).await;
    drop(connection);
    keys
}

async fn read_tables(connection: &mut SqliteConnection) -> Result<GrafanaKeys, GrafanaError> {
    let api_key = columns(connection, "api_key").await?;
    let user = columns(connection, "user").await?;
    if !["org_id", "name", "role"].iter().all(|column| api_key.contains(*column)) || !user.contains("login") {
        return Err(GrafanaError::NotGrafanas);
    }
    let column = |name: &'static str| if api_key.contains(name) { name } else { "NULL" };
    let sql = format!(
        "SELECT org_id, name, role, {} AS expires, nullif({}, 0) AS service_account_id, \
         coalesce({}, 0) <> 0 AS is_revoked FROM api_key ORDER BY id",
        column("expires"),
        column("service_account_id"),
        column("is_revoked"),
    );
    let keys = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
    let accounts = if user.contains("is_service_account") {
        let sql = "SELECT u.id, u.org_id, coalesce(nullif(u.name, ''), u.login) AS name, o.role, \
                   coalesce(u.is_disabled, 0) <> 0 AS is_disabled FROM \"user\" AS u \
                   LEFT JOIN org_user AS o ON o.user_id = u.id AND o.org_id = u.org_id \
                   WHERE u.is_service_account <> 0 ORDER BY u.id";
        sqlx::query_as(sql).fetch_all(&mut *connection).await?
    } else {
        Vec::new()
    };
    let organisations = sqlx::query_as("SELECT id, name FROM org ORDER BY id").fetch_all(connection).await?;
    Ok(GrafanaKeys { accounts, keys, organisations })
}

/// The names of a table's columns; none where there is no such table.
async fn columns(
    connection: &mut SqliteConnection,
    table: &'static str,
) -> Result<BTreeSet<String>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
        .bind(table)
        .fetch_all(connection)
        .await?;
    Ok(names.into_iter().collect())
}
