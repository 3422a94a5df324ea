//! Notifications of changes, on a connection of their own.
//!
//! They are believed once one that we sent ourselves came back.  Behind a pooler that gives each transaction another
//! connection to the server none does, and a standby has none: then the store is polled alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, Postgres, Row};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::super::url::postgres::Target;
use super::super::{StoreError, StoreFailure};
use super::connections::{self, Database};

/// The channel that the triggers notify of changes.
const CHANNEL: &str = "envoy_auth_tokens";
/// How long a connection that listens may take to be made.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a notification of our own may take to come back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is compared which processes serve two connections: of a pooler that is in use, one comparison in four
/// shows nothing at worst.
const COMPARISONS: u32 = 10;
/// How long a connection with a process of its own may take to name it.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that listens may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// The notifications of a database.
pub struct Notifications {
    database: Arc<Database>,
    state: Mutex<State>,
    /// The log says that there are none.
    is_logged: AtomicBool,
}

enum State {
    NotListening,
    Listening(PgListener, watch::Receiver<Arc<Target>>),
    /// Notifications do not come back.  A connection that is lost may lead elsewhere when it is made again.
    Unavailable(watch::Receiver<u64>),
}

impl Notifications {
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, state: Mutex::new(State::NotListening), is_logged: AtomicBool::new(false) }
    }

    /// Waits for the next notification.  An error means that some may have been lost.  Where there are none it waits
    /// until a connection was lost, and then tries again.
    pub async fn next(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        loop {
            match &mut *state {
                State::NotListening => {
                    let (lost, mut replaced) = (self.database.lost(), self.database.replaced());
                    let target = Arc::clone(&replaced.borrow_and_update());
                    if let Some(listener) = self.listen(&target).await? {
                        *state = State::Listening(listener, replaced);
                        // Changes before this moment came without a notification.
                        return Ok(());
                    }
                    if !self.is_logged.swap(true, Ordering::Relaxed) {
                        tracing::info!(
                            "the key store passes no notifications on (a standby, or a pooler of transactions before \
                             it): changes are found by polling alone"
                        );
                    }
                    *state = State::Unavailable(lost);
                }
                State::Unavailable(lost) => {
                    // The database lives as long as this value does.
                    let _ = lost.changed().await;
                    *state = State::NotListening;
                }
                State::Listening(listener, replaced) => {
                    let received = tokio::select! {
                        received = receive(listener, self.database.target().idle_interval) => received,
                        _ = replaced.changed() => {
                            *state = State::NotListening;
                            continue;
                        }
                    };
                    if received.is_err() {
                        *state = State::NotListening;
                    }
                    return received;
                }
            }
        }
    }

    /// Stops to listen.
    pub async fn close(&self) {
        *self.state.lock().await = State::NotListening;
    }

    /// Listens; `None` when notifications do not come back.
    async fn listen(&self, target: &Target) -> Result<Option<PgListener>, StoreError> {
        let (mut other, host) = connections::connect(target).await?;
        let listening = timeout(LISTEN_TIMEOUT, listen_at(host, &mut other)).await;
        connections::close(other).await;
        Ok(listening.map_err(|_| StoreFailure::ConnectTimeout)?.map_err(StoreFailure::from)?)
    }
}

/// Waits for a notification, and asks for a sign of life whenever none came for this long.
async fn receive(listener: &mut PgListener, idle_interval: Duration) -> Result<(), StoreError> {
    loop {
        match timeout(idle_interval, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                // Ten notifications at once are one reason to read.
                while listener.next_buffered().is_some() {}
                return Ok(());
            }
            Ok(Ok(None)) => return Err(StoreError(StoreFailure::NotificationsLost)),
            Ok(Err(error)) => return Err(error.into()),
            // A ping finds a peer that vanished.
            Err(_) => {
                let answer = timeout(PING_TIMEOUT, listener.execute(sqlx::raw_sql("SELECT 1"))).await;
                if !matches!(answer, Ok(Ok(_))) {
                    return Err(StoreError(StoreFailure::NotificationsDead));
                }
            }
        }
    }
}

async fn listen_at(
    host: &PgConnectOptions,
    other: &mut PgConnection,
) -> Result<Option<PgListener>, sqlx::Error> {
    // A new pool each time: the previous listener may never return a connection whose peer vanished.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LISTEN_TIMEOUT);
    let pool = pool.connect_lazy_with(host.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    let is_standby = listener.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()")).await?.try_get(0)?;
    if is_standby || is_pooled_by_transaction(&mut listener, other).await? {
        return Ok(None);
    }
    // A separate channel, to which nothing is sent afterwards.
    let echo = format!("{CHANNEL}_{:016x}", getrandom::u64().map_err(std::io::Error::from)?);
    let sql = format!("LISTEN {CHANNEL}; LISTEN {echo}; SELECT pg_backend_pid()");
    let row = listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let own: i32 = row.try_get(0)?;
    let sql = format!("SELECT pg_notify('{echo}', '')");
    other.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let came_back = async {
        while let Some(notification) = listener.try_recv().await? {
            if notification.channel() == echo {
                return Ok(true);
            }
        }
        Ok::<bool, sqlx::Error>(false)
    };
    if timeout(ECHO_TIMEOUT, came_back).await.unwrap_or(Ok(false))? {
        return Ok(Some(listener));
    }
    // The process that listens now may serve other clients next, which do not expect notifications.  One message of the
    // simple protocol is one transaction, and so of one process.
    let row = other.fetch_one(sqlx::raw_sql("UNLISTEN *; SELECT pg_backend_pid()")).await?;
    if row.try_get::<i32, _>(0)? != own {
        let sql = format!("SELECT pg_terminate_backend({own})");
        other.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    }
    Ok(None)
}

/// Whether a pooler lends out processes of the server for one transaction each.  It would hand our notifications to the
/// next client that has the process, and a client that does not listen takes them for an error.
///
/// While another connection holds a transaction, a connection with a process of its own goes on with that process.
/// One without gets the same again only if other clients take it and return it just in time, each time again.
async fn is_pooled_by_transaction(
    listener: &mut PgListener,
    other: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    let own = backend(&mut *listener).await?;
    for _ in 0..COMPARISONS {
        let sql = sqlx::raw_sql("BEGIN; SELECT pg_backend_pid()");
        let held: i32 = other.fetch_one(sql).await?.try_get(0)?;
        // Where the pooler has no further process, there is no answer while the transaction is open.
        let is_same = held != own
            && match timeout(PROCESS_TIMEOUT, backend(&mut *listener)).await {
                Ok(process) => process? == own,
                Err(_) => false,
            };
        other.execute(sqlx::raw_sql("COMMIT")).await?;
        if !is_same {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process of the server that serves a connection at this moment.
async fn backend<'c>(connection: impl Executor<'c, Database = Postgres>) -> Result<i32, sqlx::Error> {
    connection.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?.try_get(0)
}
