//! The servers of a directory: their order, and the connections to each.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Connection;
use super::error::{DirectoryError, Problem, ServerError};
use super::tls::Client;
use crate::clock::Clock;
use crate::config::{Bind, LdapServer, LdapSettings};

/// The most connections of each kind to one server.
const MAX_CONNECTIONS: usize = 4;
/// How long a connection may stay open without a question.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server that failed is asked last.
const FAILED_FOR: Duration = Duration::from_secs(30);

/// The servers of one section `ldap`.  After a reload the new section has its own connections.
pub(super) struct Servers {
    pub(super) settings: Arc<LdapSettings>,
    servers: Box<[Arc<Server>]>,
    clock: Clock,
}

/// One server.
pub(super) struct Server {
    settings: Arc<LdapSettings>,
    address: LdapServer,
    /// For people.
    pub(super) url: String,
    /// Connections for searches: bound as the reader, or anonymous.
    readers: Pool,
    /// Connections for the binds of people.
    binds: Pool,
    tls: Arc<OnceLock<Client>>,
    /// When it failed, by [`Clock::elapsed`]; `None` after it answered.
    failed_at: Mutex<Option<Duration>>,
}

/// The connections of one kind.
struct Pool {
    permits: Arc<Semaphore>,
    /// The most recently used one is last.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection that one question uses exclusively.  It is closed unless it is given back.
pub(super) struct Lease<'p> {
    pub(super) connection: Connection,
    /// Whether it answered questions before: the server may have closed it since.
    pub(super) is_reused: bool,
    pool: &'p Pool,
    _permit: OwnedSemaphorePermit,
}

impl Lease<'_> {
    /// Keeps the connection open for the next question.  Every answer on it was read.
    pub(super) fn give_back(self) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.pool.lock().push(idle);
    }
}

impl Pool {
    fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), idle: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more connection may be in use.
    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Problem> {
        match timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(Problem::Busy(MAX_CONNECTIONS)),
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(Idle { mut connection, since }) = idle.pop() {
            if since.elapsed() < IDLE_TIMEOUT && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    fn close_idle(&self) {
        self.lock().retain(|idle| idle.since.elapsed() < IDLE_TIMEOUT);
    }
}

impl Servers {
    /// The servers of these settings.  Questions open connections.  A task closes idle connections; it ends with the
    /// last question and the last owner.
    pub(super) fn new(settings: Arc<LdapSettings>, clock: Clock) -> Arc<Self> {
        let tls = Arc::new(OnceLock::new());
        let server = |address: &LdapServer| {
            Arc::new(Server {
                settings: Arc::clone(&settings),
                address: address.clone(),
                url: address.to_string(),
                readers: Pool::new(),
                binds: Pool::new(),
                tls: Arc::clone(&tls),
                failed_at: Mutex::default(),
            })
        };
        let servers = settings.servers.iter().map(server).collect();
        let servers = Arc::new(Self { settings, servers, clock });
        let weak = Arc::downgrade(&servers);
        tokio::spawn(async move {
            loop {
                sleep(IDLE_TIMEOUT / 3).await;
                let Some(servers) = weak.upgrade() else { return };
                for server in &servers.servers {
                    server.readers.close_idle();
                    server.binds.close_idle();
                }
            }
        });
        servers
    }

    /// All servers, as the configuration has them.
    pub(super) fn all(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Asks one server after the other, until one answers.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        let now = self.clock.elapsed();
        let has_failed = |server: &&Arc<Server>| {
            server.failed_at().is_some_and(|failed| now.saturating_sub(failed) < FAILED_FOR)
        };
        let (last, first): (Vec<_>, Vec<_>) = self.servers.iter().partition(has_failed);
        let order: Vec<_> = first.into_iter().chain(last).collect();
        Attempts { servers: self, order: order.into_iter(), failures: Vec::new() }
    }
}

/// The servers that a question goes to, one after the other.
pub(super) struct Attempts<'s> {
    servers: &'s Servers,
    order: std::vec::IntoIter<&'s Arc<Server>>,
    failures: Vec<ServerError>,
}

impl<'s> Attempts<'s> {
    /// The next server; the error when all have failed.
    pub(super) fn next(&mut self) -> Result<&'s Arc<Server>, DirectoryError> {
        self.order.next().ok_or_else(|| DirectoryError::Servers(std::mem::take(&mut self.failures)))
    }

    /// The server did not answer.  It is asked last for a while, unless the problem may concern only one name.
    pub(super) fn failed(&mut self, server: &Server, problem: Problem) {
        tracing::debug!(server = server.url, %problem, "a server of the directory did not answer");
        // Connections that are all in use say nothing about the server.
        if problem.is_outage() && !matches!(problem, Problem::Busy(_)) {
            *server.lock_failed_at() = Some(self.servers.clock.elapsed());
        }
        self.failures.push(ServerError { server: server.url.clone(), problem });
    }

    /// The server answered.
    pub(super) fn answered(&self, server: &Server) {
        *server.lock_failed_at() = None;
    }
}

impl Server {
    fn lock_failed_at(&self) -> std::sync::MutexGuard<'_, Option<Duration>> {
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_at(&self) -> Option<Duration> {
        *self.lock_failed_at()
    }

    /// A connection for searches: bound as `bind_dn`, or anonymous without `bind_dn`.
    pub(super) async fn reader(&self, deadline: Instant) -> Result<Lease<'_>, Problem> {
        let permit = self.readers.permit(deadline).await?;
        match self.readers.take_idle() {
            Some(connection) => {
                Ok(Lease { connection, is_reused: true, pool: &self.readers, _permit: permit })
            }
            None => self.open_reader(permit, deadline).await,
        }
    }

    /// The same over a new connection.
    pub(super) async fn fresh_reader(&self, deadline: Instant) -> Result<Lease<'_>, Problem> {
        self.open_reader(self.readers.permit(deadline).await?, deadline).await
    }

    async fn open_reader(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Result<Lease<'_>, Problem> {
        let mut lease = self.open(&self.readers, permit, deadline).await?;
        match &self.settings.bind {
            Bind::Reader { dn, password } => {
                let outcome = lease.connection.bind(dn, password.expose()).await?;
                if !outcome.is_success() {
                    return Err(Problem::Reader(outcome));
                }
            }
            Bind::Anonymous | Bind::Direct { .. } => {}
        }
        Ok(lease)
    }

    /// A connection for the bind of a person.  The previous person may still be bound on it.
    pub(super) async fn bind_connection(&self, deadline: Instant) -> Result<Lease<'_>, Problem> {
        let permit = self.binds.permit(deadline).await?;
        match self.binds.take_idle() {
            Some(connection) => Ok(Lease { connection, is_reused: true, pool: &self.binds, _permit: permit }),
            None => self.open(&self.binds, permit, deadline).await,
        }
    }

    async fn open<'p>(
        &self,
        pool: &'p Pool,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Result<Lease<'p>, Problem> {
        let (connection, permit) = match &self.address {
            LdapServer::Socket(path) => (Connection::over_socket(path).await?, permit),
            LdapServer::Plain { host, port } => {
                let (addresses, permit) = resolve(host, *port, permit).await?;
                let connection = if self.settings.start_tls {
                    Connection::start_tls(&addresses, host, self.tls()?, deadline).await?
                } else {
                    Connection::plain(&addresses, deadline).await?
                };
                (connection, permit)
            }
            LdapServer::Tls { host, port } => {
                let (addresses, permit) = resolve(host, *port, permit).await?;
                (Connection::tls(&addresses, host, self.tls()?, deadline).await?, permit)
            }
        };
        Ok(Lease { connection, is_reused: false, pool, _permit: permit })
    }

    fn tls(&self) -> Result<&Client, Problem> {
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let client = Client::new(&self.settings.ca)?;
        Ok(self.tls.get_or_init(|| client))
    }
}

/// The addresses of a host.
async fn resolve(
    host: &str,
    port: u16,
    permit: OwnedSemaphorePermit,
) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), Problem> {
    let host = host.to_owned();
    // getaddrinfo cannot be cancelled.  The permit is held until it ends, even if the question ended, so that there are
    // never more such calls than connections.
    let lookup = async move { (lookup_host((host.as_str(), port)).await.map(Iterator::collect), permit) };
    let (found, permit) =
        tokio::spawn(lookup).await.map_err(|error| Problem::Unresolvable(io::Error::other(error)))?;
    Ok((found.map_err(Problem::Unresolvable)?, permit))
}
