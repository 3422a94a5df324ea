//! Transactions, as both databases have them: so that each operation is written once ([`super::operations`]).

#[cfg(feature = "postgres")]
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Database as SqlDatabase, Encode, FromRow, Type};

use super::statements::Statements;
use super::value::Value;
use super::{Committed, FollowerStore, Gate, StoreError, StoreUrl, UrlError};

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

impl<'q, DB: SqlDatabase, R> Bind<'q, DB> for sqlx::query::QueryAs<'q, DB, R, DB::Arguments> {
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

/// A transaction.  Dropped, it is taken back.
pub(super) trait StoreTransaction: Send + Sized {
    /// The statements of the database.
    fn sql(&self) -> &'static Statements;

    /// The rows that a statement gives.
    fn rows<R: StoreRow>(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<Vec<R>, StoreError>> + Send;

    /// Runs a statement, and gives the number of rows that it changed or found.
    fn execute(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Takes the lock that every change takes at its COMMIT, at once, and the gate before it: what the transaction reads
    /// from now on nobody else changes before it ends.  Rows that exist are locked before it, never after: two
    /// transactions that each hold what the other waits for would end in an error.
    fn lock(&mut self, gate: &Gate) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Commits under the gate.
    fn commit<V: Send>(
        self,
        gate: &Gate,
        value: V,
        is_change: bool,
    ) -> impl Future<Output = Result<Committed<V>, StoreError>> + Send;

    /// Ends a transaction that changed nothing that the index shows.
    fn end(self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The first row that a statement gives.
    fn row<R: StoreRow>(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<Option<R>, StoreError>> + Send {
        async move { Ok(self.rows(sql, values).await?.into_iter().next()) }
    }

    /// The number that a statement gives.
    fn number(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<i64, StoreError>> + Send {
        async move { Ok(self.row::<(i64,)>(sql, values).await?.map_or(0, |(number,)| number)) }
    }

    /// Whether a statement gives a row.
    fn exists(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        async move { Ok(self.row::<(i64,)>(sql, values).await?.is_some()) }
    }
}

/// A database whose operations are those of [`super::operations`].
pub(super) trait Database: Send + Sync + 'static {
    /// Its transactions.
    type Transaction: StoreTransaction;

    /// Begins a transaction that sees one state of the store and changes nothing.
    fn begin_reading(&self) -> impl Future<Output = Result<Self::Transaction, StoreError>> + Send;

    /// Begins a transaction that changes the store.
    fn begin_writing(&self) -> impl Future<Output = Result<Self::Transaction, StoreError>> + Send;

    /// See [`super::Store::for_follower`].
    fn follower_store(&self) -> FollowerStore;

    /// See [`super::Store::take_over`].
    fn replace_url(&self, url: &StoreUrl) -> Result<(), UrlError>;

    /// See [`super::Store::close`].
    fn close_connections(&self) -> impl Future<Output = ()> + Send;
}
