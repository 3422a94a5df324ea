//! Transactions, as both databases have them: so that each operation is written once ([`super::operations`]).

use async_trait::async_trait;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Database as SqlDatabase, Encode, FromRow, Type};

use super::statements::Statements;
use super::value::Value;
use super::{Committed, FollowerStore, Gate, GateGuard, StoreError, StoreUrl, UrlError};
use crate::priority::yielding;

/// Something to which values are bound.
pub(super) trait Bind<'q, DB: SqlDatabase>: Sized {
    /// Binds the next value.
    fn bind_next<V: Encode<'q, DB> + Type<DB> + Send + 'q>(self, value: V) -> Self;

    /// Binds them all.
    fn bind_all(self, values: &[Value]) -> Self
    where
        Option<i64>: Encode<'q, DB> + Type<DB>,
        Option<String>: Encode<'q, DB> + Type<DB>,
        Option<Vec<u8>>: Encode<'q, DB> + Type<DB>,
    {
        values.iter().fold(self, |query, value| match value {
            Value::Integer(value) => query.bind_next(*value),
            Value::Text(value) => query.bind_next(value.clone()),
            Value::Bytes(value) => query.bind_next(value.clone()),
        })
    }
}

impl<'q, DB: SqlDatabase> Bind<'q, DB> for sqlx::query::Query<'q, DB, DB::Arguments> {
    fn bind_next<V: Encode<'q, DB> + Type<DB> + Send + 'q>(self, value: V) -> Self {
        self.bind(value)
    }
}

/// A row that each database gives.
#[cfg(feature = "postgres")]
pub(super) trait StoreRow:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}
#[cfg(feature = "postgres")]
impl<R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> StoreRow for R {}

/// A row that the database gives.
#[cfg(not(feature = "postgres"))]
pub(super) trait StoreRow: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
#[cfg(not(feature = "postgres"))]
impl<R: for<'r> FromRow<'r, SqliteRow> + Send + Unpin> StoreRow for R {}

/// The rows that a database gave.
pub(super) enum Rows {
    /// Those of SQLite.
    Sqlite(Vec<SqliteRow>),
    /// Those of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Vec<PgRow>),
}

/// A transaction as a database has it.  Dropped, it is taken back.
#[async_trait]
pub(super) trait DatabaseTransaction: Send {
    /// The statements of the database.
    fn sql(&self) -> &'static Statements;

    /// The rows that a statement gives.
    async fn fetch(&mut self, sql: &str, values: &[Value]) -> Result<Rows, StoreError>;

    /// Runs a statement, and gives the number of rows that it changed or found.
    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError>;

    /// See [`StoreTransaction::lock`].
    async fn lock(&mut self, gate: &Gate) -> Result<(), StoreError>;

    /// The gate, where [`DatabaseTransaction::lock`] has entered it.
    fn take_guard(&mut self) -> Option<GateGuard>;

    /// Commits.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// A transaction of either database, so that each operation is compiled once.
pub(super) struct StoreTransaction(Box<dyn DatabaseTransaction>);

impl StoreTransaction {
    /// One of a database.
    pub fn new(transaction: impl DatabaseTransaction + 'static) -> Self {
        Self(Box::new(transaction))
    }

    /// The statements of the database.
    pub fn sql(&self) -> &'static Statements {
        self.0.sql()
    }

    /// The rows that a statement gives.
    pub async fn rows<R: StoreRow>(&mut self, sql: &str, values: &[Value]) -> Result<Vec<R>, StoreError> {
        let rows: Result<Vec<R>, sqlx::Error> = match self.0.fetch(sql, values).await? {
            Rows::Sqlite(rows) => yielding(&rows).map(R::from_row).collect(),
            #[cfg(feature = "postgres")]
            Rows::Postgres(rows) => yielding(&rows).map(R::from_row).collect(),
        };
        Ok(rows?)
    }

    /// Runs a statement, and gives the number of rows that it changed or found.
    pub async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.0.execute(sql, values).await
    }

    /// The first row that a statement gives.
    pub async fn row<R: StoreRow>(&mut self, sql: &str, values: &[Value]) -> Result<Option<R>, StoreError> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// The number that a statement gives.
    pub async fn number(&mut self, sql: &str, values: &[Value]) -> Result<i64, StoreError> {
        Ok(self.row::<(i64,)>(sql, values).await?.map_or(0, |(number,)| number))
    }

    /// Whether a statement gives a row.
    pub async fn exists(&mut self, sql: &str, values: &[Value]) -> Result<bool, StoreError> {
        Ok(self.row::<(i64,)>(sql, values).await?.is_some())
    }

    /// Takes the lock that every change takes at its COMMIT, at once, and the gate before it: what the transaction
    /// reads from now on no other transaction changes before it ends.  Rows that exist are locked before it, never
    /// after: two transactions that each hold what the other waits for would end in an error.
    pub async fn lock(&mut self, gate: &Gate) -> Result<(), StoreError> {
        self.0.lock(gate).await
    }

    /// Commits under the gate.
    pub async fn commit<V>(
        mut self,
        gate: &Gate,
        value: V,
        is_change: bool,
    ) -> Result<Committed<V>, StoreError> {
        let guard = match self.0.take_guard() {
            Some(guard) => guard,
            None => gate.enter().await,
        };
        self.0.finish().await?;
        Ok(Committed { value, is_change, guard })
    }

    /// Ends a transaction that changed nothing that the index shows.
    pub async fn end(self) -> Result<(), StoreError> {
        self.0.finish().await
    }
}

/// A database whose operations are those of [`super::operations`].
pub(super) trait Database: Send + Sync + 'static {
    /// Begins a transaction that sees one state of the store and changes nothing.
    fn begin_reading(&self) -> impl Future<Output = Result<StoreTransaction, StoreError>> + Send;

    /// Begins a transaction that changes the store.
    fn begin_writing(&self) -> impl Future<Output = Result<StoreTransaction, StoreError>> + Send;

    /// See [`super::Store::for_follower`].
    fn follower_store(&self) -> FollowerStore;

    /// See [`super::Store::take_over`].
    fn replace_url(&self, url: &StoreUrl) -> Result<(), UrlError>;

    /// See [`super::Store::close`].
    fn close_connections(&self) -> impl Future<Output = ()> + Send;
}
