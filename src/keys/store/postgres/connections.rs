//! Connections to PostgreSQL: few of them, each for one transaction at a time.
//!
//! Every statement is in an explicit transaction and has no name, and settings are those of the transaction
//! alone: so PgBouncer can give each transaction another connection to the server.
//!
//! sqlx's own pool is not used: it knows one host, and what a cancelled operation leaves behind goes back into it.
//! Here a transaction that does not commit is rolled back, or its connection is thrown away.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{ConnectOptions, Connection, FromRow, Postgres, Row, SqlSafeStr};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::super::error::HostFailure;
use super::super::url::postgres::{SessionAttributes, Target, host_name};
use super::super::{StoreError, StoreFailure};

/// How long an operation waits for a connection that is free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection may take for what costs the server nothing: to begin, to roll back, to close.
pub const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was not used for this long is closed, within twice this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client that vanishes while it holds the lock of all changes (its host lost, its process stopped) loses the lock.
/// A wait for a lock ends when the caller's does, so that no queue grows behind it.
///
/// The isolation level is explicit, because a database may have another default.  After the lock, the transaction must
/// see what others committed before it.
const BEGIN_WRITING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
     SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '5s'";
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '5s'";

/// A statement without a name: PgBouncer may give the next transaction a connection that does not know it, or knows
/// another one of this name.
pub fn unnamed<'q>(sql: impl SqlSafeStr) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// The same, with rows.
pub fn unnamed_as<'q, T>(sql: impl SqlSafeStr) -> QueryAs<'q, Postgres, T, PgArguments>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql).persistent(false)
}

/// The same, with one value a row.
pub fn unnamed_scalar<'q, T>(sql: impl SqlSafeStr) -> QueryScalar<'q, Postgres, T, PgArguments>
where
    (T,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}

/// How long to wait before a URL that leads nowhere is tried again.
const PROPOSAL_INTERVAL: Duration = Duration::from_secs(2);

/// The database, as every connection of a process reaches it.
pub struct Database {
    target: watch::Sender<Arc<Target>>,
    /// How many connections were lost.
    lost: watch::Sender<u64>,
    proposal: Mutex<Proposal>,
}

/// A URL that is taken over once a connection was made by it: a wrong password must not take away what works.
#[derive(Default)]
struct Proposal {
    proposed: Option<Arc<Proposed>>,
    /// A task tries it.
    is_tried: bool,
}

struct Proposed {
    target: Arc<Target>,
    /// The URL without user info.
    store: String,
}

impl Database {
    pub fn new(target: Target) -> Self {
        Self {
            target: watch::Sender::new(Arc::new(target)),
            lost: watch::Sender::new(0),
            proposal: Mutex::default(),
        }
    }

    /// Proposes a target for further connections, in the place of one that was proposed before.  `store` is its URL
    /// without user info.
    pub fn propose(&self, target: Target, store: String) {
        self.proposal().proposed = Some(Arc::new(Proposed { target: Arc::new(target), store }));
    }

    fn proposal(&self) -> MutexGuard<'_, Proposal> {
        self.proposal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries what was proposed, in a task of the caller's runtime, until a connection is made by it.
    pub fn try_proposal(self: &Arc<Self>) {
        let mut proposal = self.proposal();
        if proposal.proposed.is_some() && !std::mem::replace(&mut proposal.is_tried, true) {
            tokio::spawn(try_until_it_works(Arc::downgrade(self)));
        }
    }

    /// What is to be tried; `None` ends the task that tries it.
    fn proposed(&self) -> Option<Arc<Proposed>> {
        let mut proposal = self.proposal();
        proposal.is_tried = proposal.proposed.is_some();
        proposal.proposed.clone()
    }

    /// From now on connections are made by what was proposed, unless something else was proposed meanwhile.  Those that
    /// are idle are closed, the others when they are free.
    fn take_over(&self, proposed: &Arc<Proposed>) -> bool {
        let mut proposal = self.proposal();
        let is_the_newest = proposal.proposed.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, proposed));
        if is_the_newest {
            proposal.proposed = None;
            self.target.send_replace(Arc::clone(&proposed.target));
        }
        is_the_newest
    }

    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.borrow())
    }

    /// Tells when the target is replaced.
    pub fn replaced(&self) -> watch::Receiver<Arc<Target>> {
        self.target.subscribe()
    }

    /// Tells when a connection is lost.
    pub fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    fn count_loss(&self) {
        self.lost.send_modify(|lost| *lost = lost.wrapping_add(1));
    }
}

/// Tries what was proposed until a connection is made by it, and takes it over.
async fn try_until_it_works(database: Weak<Database>) {
    // What the log says already: of which proposal, and why it does not work.
    let mut logged: Option<(Arc<Proposed>, String)> = None;
    loop {
        let Some(database) = database.upgrade() else { return };
        let Some(proposed) = database.proposed() else { return };
        let store = &*proposed.store;
        match connect(&proposed.target).await {
            Ok((connection, _)) => {
                close(connection).await;
                if database.take_over(&proposed) {
                    tracing::info!(
                        store,
                        "the URL of the key store was taken over: connections are made by it from now on"
                    );
                }
            }
            Err(failure) => {
                drop(database);
                let reason = failure.to_string();
                let is_logged = logged
                    .as_ref()
                    .is_some_and(|(of, logged)| Arc::ptr_eq(of, &proposed) && *logged == reason);
                if !is_logged {
                    tracing::error!(
                        store,
                        reason,
                        "the new URL of the key store is not taken over, because no connection can be made by it: connections \
                         are made by the URL before. Correct `keys.store`, or the role in the database; it is tried again \
                         by itself"
                    );
                    logged = Some((proposed, reason));
                }
                sleep(PROPOSAL_INTERVAL).await;
            }
        }
    }
}

/// Connects to the first host that answers and is as it is wanted.
pub async fn connect(target: &Target) -> Result<(PgConnection, &PgConnectOptions), StoreFailure> {
    let mut failures = Vec::new();
    for &wanted in target.session.in_order() {
        failures.clear();
        for host in &target.hosts {
            let failure = match timeout(target.connect_timeout, connect_to(host, wanted)).await {
                Ok(Ok(Some(connection))) => return Ok((connection, host)),
                Ok(Ok(None)) => StoreFailure::SessionAttributes(wanted.as_str()),
                Ok(Err(error)) => error.into(),
                Err(_) => StoreFailure::ConnectTimeout,
            };
            failures.push(HostFailure { host: host_name(host), failure });
        }
    }
    Err(match failures.len() {
        1 => failures.remove(0).failure,
        _ => StoreFailure::Hosts(failures),
    })
}

/// `None` when the host answers and is not as it is wanted.
async fn connect_to(
    host: &PgConnectOptions,
    wanted: SessionAttributes,
) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = host.connect().await?;
    if wanted == SessionAttributes::Any {
        return Ok(Some(connection));
    }
    // One message of the simple protocol is a transaction of its own.
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = sqlx::Executor::fetch_one(&mut connection, sqlx::raw_sql(sql)).await?;
    if wanted.is_met(row.try_get(0)?, row.try_get(1)?) {
        return Ok(Some(connection));
    }
    close(connection).await;
    Ok(None)
}

/// Closes a connection, or drops it where the server does not take the farewell.
pub async fn close(connection: PgConnection) {
    let _ = timeout(PING_TIMEOUT, connection.close()).await;
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It sees one state of the database, and changes nothing.
    Read,
    /// Each statement sees what others have committed before.
    Write,
}

/// Some connections to a database, made when they are needed.  They belong to the runtime that uses them.
pub struct Connections(Arc<Pool>);

struct Pool {
    database: Arc<Database>,
    permits: Arc<Semaphore>,
    max: u32,
    idle: Mutex<IdleConnections>,
}

#[derive(Default)]
struct IdleConnections {
    /// The one that was used last is at the end, and is used first.
    connections: Vec<IdleConnection>,
    /// A task waits to close them.
    is_watched: bool,
}

struct IdleConnection {
    connection: PgConnection,
    target: Arc<Target>,
    since: Instant,
}

impl Connections {
    /// At most `max` connections, none of which is made yet.
    pub fn new(database: Arc<Database>, max: u32) -> Self {
        let permits = Arc::new(Semaphore::new(max as usize));
        Self(Arc::new(Pool { database, permits, max, idle: Mutex::default() }))
    }

    /// Begins a transaction, on a connection that is free or on a new one.
    pub async fn begin(&self, access: Access) -> Result<Transaction, StoreError> {
        let permit = timeout(ACQUIRE_TIMEOUT, Arc::clone(&self.0.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| StoreFailure::ConnectTimeout)?.map_err(|_| StoreFailure::Closed)?;
        let target = self.0.database.target();
        while let Some(idle) = self.0.take_idle() {
            if !Arc::ptr_eq(&idle.target, &target) || idle.since.elapsed() > IDLE_TIMEOUT {
                close(idle.connection).await;
                continue;
            }
            // That the connection is alive shows here.
            match begin_on(idle.connection, access, PING_TIMEOUT).await {
                Ok(connection) => return Ok(self.transaction(connection, target, permit)),
                Err(_) => {
                    // The cause probably ended the others as well: they are not tried one by one.
                    self.0.forget_idle();
                    self.0.database.count_loss();
                }
            }
        }
        let (connection, _) = connect(&target).await?;
        // A pooler may let it wait for a connection to the server.
        let connection = begin_on(connection, access, ACQUIRE_TIMEOUT).await?;
        Ok(self.transaction(connection, target, permit))
    }

    fn transaction(
        &self,
        connection: PgConnection,
        target: Arc<Target>,
        permit: OwnedSemaphorePermit,
    ) -> Transaction {
        Transaction(Some(OpenTransaction { connection, target, permit, pool: Arc::clone(&self.0) }))
    }

    /// Closes every connection as soon as it is free.  Afterwards none can be had.
    pub async fn close(&self) {
        let all = self.0.permits.acquire_many(self.0.max).await;
        self.0.permits.close();
        drop(all);
        while let Some(idle) = self.0.take_idle() {
            close(idle.connection).await;
        }
    }
}

async fn begin_on(
    mut connection: PgConnection,
    access: Access,
    limit: Duration,
) -> Result<PgConnection, StoreFailure> {
    let sql = match access {
        Access::Read => BEGIN_READING,
        Access::Write => BEGIN_WRITING,
    };
    let started = timeout(limit, sqlx::raw_sql(sql).execute(&mut connection)).await;
    started.map_err(|_| StoreFailure::ConnectTimeout)??;
    Ok(connection)
}

impl Pool {
    fn take_idle(&self) -> Option<IdleConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).connections.pop()
    }

    fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).connections.clear();
    }

    /// Keeps a connection for the next transaction.
    fn put_back(self: &Arc<Self>, connection: PgConnection, target: Arc<Target>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.push(IdleConnection { connection, target, since: Instant::now() });
        if std::mem::replace(&mut idle.is_watched, true) {
            return;
        }
        drop(idle);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(IDLE_TIMEOUT).await;
                let Some(pool) = pool.upgrade() else { return };
                let (old, is_last) = pool.take_old();
                for idle in old {
                    close(idle.connection).await;
                }
                if is_last {
                    return;
                }
            }
        });
    }

    /// The connections that were idle for too long, and whether no other is left to wait for.
    fn take_old(&self) -> (Vec<IdleConnection>, bool) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.database.target();
        let is_old =
            |one: &IdleConnection| one.since.elapsed() >= IDLE_TIMEOUT || !Arc::ptr_eq(&one.target, &target);
        let (old, kept) = std::mem::take(&mut idle.connections).into_iter().partition(is_old);
        idle.connections = kept;
        idle.is_watched = !idle.connections.is_empty();
        (old, !idle.is_watched)
    }
}

/// A transaction.  It is rolled back unless it commits.
pub struct Transaction(Option<OpenTransaction>);

struct OpenTransaction {
    connection: PgConnection,
    target: Arc<Target>,
    /// The right to a connection, given back with it.
    permit: OwnedSemaphorePermit,
    pool: Arc<Pool>,
}

const IS_OPEN: &str = "a transaction ends with its value";

impl Transaction {
    /// Commits.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        let OpenTransaction { connection, target, permit, pool } = self.0.take().expect(IS_OPEN);
        pool.put_back(connection, target);
        drop(permit);
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0.as_ref().expect(IS_OPEN).connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0.as_mut().expect(IS_OPEN).connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Without a runtime the connection is dropped, and the server rolls back.
        let (Some(open), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            let OpenTransaction { mut connection, target, permit, pool } = open;
            let rolled_back = sqlx::raw_sql("ROLLBACK").execute(&mut connection);
            match timeout(PING_TIMEOUT, rolled_back).await {
                Ok(Ok(_)) => pool.put_back(connection, target),
                Ok(Err(_)) | Err(_) => pool.database.count_loss(),
            }
            drop(permit);
        });
    }
}
