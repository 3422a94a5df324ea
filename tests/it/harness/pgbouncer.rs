//! A real PgBouncer in front of a PostgreSQL of the tests.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::guardian::{Guardian, children, kill_all};
use super::ports::free_port;
use super::postgres::{self, PASSWORD, Postgres, Role, try_psql};
use super::server::signal;
use super::{tools, wait_until};

/// How long a client keeps a connection to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Session,
    Transaction,
}

/// A PgBouncer that dies with the test.  It has the settings that Debian ships: above all, it refuses a client that
/// asks for `extra_float_digits` or another parameter that it does not know.
pub struct PgBouncer {
    folder: TempDir,
    /// Who runs it, when that is not us.
    user: Option<&'static str>,
    port: u16,
    pooling: Pooling,
    /// How many connections to PostgreSQL each role has in each database.
    pool: usize,
    /// The PostgreSQL behind it, and who may come.
    state: Mutex<(SocketAddr, Vec<Role>)>,
    guardian: Mutex<Option<Guardian>>,
}

impl PgBouncer {
    /// One in front of this server, where the user `keys` may come.
    pub fn start(server: &Postgres, pooling: Pooling) -> Self {
        Self::start_with(server, pooling, 20)
    }

    /// The same with at most so many connections to PostgreSQL for each role in each database.
    pub fn start_with(server: &Postgres, pooling: Pooling, pool: usize) -> Self {
        let keys = Role { name: "keys".to_owned(), password: PASSWORD.to_owned() };
        let folder = TempDir::new().expect("a folder for PgBouncer");
        let user = fs::metadata(folder.path()).expect("the folder").uid().eq(&0).then(postgres::unprivileged);
        let bouncer = Self {
            folder,
            user,
            port: free_port(),
            pooling,
            pool,
            state: Mutex::new((server.address(), vec![keys])),
            guardian: Mutex::new(None),
        };
        bouncer.write();
        bouncer.resume();
        bouncer
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The URL of a database by this way, for the user `keys`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://keys:{PASSWORD}@{}/{database}", self.address())
    }

    /// This role may come, too, with the password that it has now.
    pub fn admit(&self, role: &Role) {
        let mut state = self.state.lock().expect("nobody panicked here");
        state.1.retain(|known| known.name != role.name);
        state.1.push(role.clone());
        drop(state);
        self.write();
        self.console("RELOAD");
    }

    /// New connections lead to that server, and old ones end, as when an operator moves PgBouncer after a fail-over.
    pub fn lead_to(&self, server: &Postgres) {
        self.state.lock().expect("nobody panicked here").0 = server.address();
        self.write();
        self.console("RELOAD");
        self.console("RECONNECT");
    }

    /// A command of its console: `PAUSE`, `RESUME`, `KILL db`, `SHOW POOLS`; what psql prints of the answer.
    #[track_caller]
    pub fn console(&self, command: &str) -> String {
        try_psql(&self.url("pgbouncer"), command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// A column of `SHOW POOLS` of the user `keys` in a database: `cl_active`, `cl_waiting`, `sv_idle` and others.
    #[track_caller]
    pub fn pool(&self, database: &str, column: &str) -> usize {
        let mut command = Command::new(postgres::programs().join("psql"));
        command.args(["--no-psqlrc", "-q", "--csv", "-d", &self.url("pgbouncer"), "-c", "SHOW POOLS"]);
        let output = command.output().expect("psql");
        let table = String::from_utf8(output.stdout).expect("UTF-8");
        let mut rows = table.lines().map(|row| row.split(',').collect::<Vec<_>>());
        let names = rows.next().expect("PgBouncer answers");
        let place = names.iter().position(|name| *name == column).expect("a column of SHOW POOLS");
        let row = rows.find(|row| row[..2] == [database, "keys"]);
        row.map_or(0, |row| row[place].parse().expect("a number"))
    }

    /// It is gone, as after `kill -9`.
    pub fn kill(&self) {
        kill_all(&[self.process()]);
        self.end();
    }

    /// It is there again, at the same address.
    pub fn resume(&self) {
        let mut program = vec![self.folder.path().join("pgbouncer.ini").into_os_string()];
        if let Some(user) = self.user {
            // It refuses to run as root, and changes its user itself: its program may be where only root reads.
            program.splice(0..0, ["-u".into(), user.into()]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("PgBouncer's log");
        let mut shell = Command::new("sh");
        shell.stdout(Stdio::null()).stderr(log);
        let guardian = Guardian::start(shell, "KILL", tools::pgbouncer(), program);
        *self.guardian.lock().expect("nobody panicked here") = Some(guardian);
        wait_until("PgBouncer answers", || try_psql(&self.url("pgbouncer"), "SHOW VERSION").is_ok());
    }

    /// It stands still; what reaches it is kept.
    pub fn freeze(&self) {
        signal("-STOP", self.process());
    }

    /// It goes on.
    pub fn thaw(&self) {
        signal("-CONT", self.process());
    }

    fn end(&self) {
        let guardian = self.guardian.lock().expect("nobody panicked here").take();
        if let Some(guardian) = guardian {
            guardian.end();
        }
    }

    fn process(&self) -> u32 {
        let guardian = self.guardian.lock().expect("nobody panicked here");
        let processes = children(guardian.as_ref().expect("PgBouncer runs").process());
        processes.first().copied().expect("PgBouncer runs")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn write(&self) {
        let state = self.state.lock().expect("nobody panicked here");
        let pooling = match self.pooling {
            Pooling::Session => "session",
            Pooling::Transaction => "transaction",
        };
        let users = self.folder.path().join("userlist.txt");
        let config = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\nadmin_users = keys\n\
             pool_mode = {pooling}\ndefault_pool_size = {}\nmax_client_conn = 1000\nserver_login_retry = 1\n",
            state.0.ip(),
            state.0.port(),
            self.port,
            users.display(),
            self.pool
        );
        let mut list = String::new();
        for role in &state.1 {
            writeln!(list, "\"{}\" \"{}\"", role.name, role.password).expect("a string grows");
        }
        fs::write(self.folder.path().join("pgbouncer.ini"), config).expect("a file of ours");
        fs::write(&users, list).expect("a file of ours");
        if let Some(user) = self.user {
            postgres::own(user, self.folder.path());
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            println!("PgBouncer printed at last:\n{}", lines[lines.len().saturating_sub(50)..].join("\n"));
        }
    }
}
