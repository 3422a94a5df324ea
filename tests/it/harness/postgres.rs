//! A real PostgreSQL, for this test run alone.
//!
//! It listens on a loopback port, where a password is asked, and on a socket in its own folder, where none is:
//! that is the administrator's way in.  The server refuses to run as root; then another user runs it.

mod role;
mod session;
mod standby;

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

pub use self::role::{Rights, Role};
pub use self::session::Session;
use super::MAX_WAIT;
use super::guardian::{Guardian, children, kill_all};
use super::ports::free_port;
use super::server::signal;
use super::stored_keys;

/// The password of the user `keys`, which must never show anywhere.
pub const PASSWORD: &str = "hunter2-of-the-store";

/// A server that dies with the test.
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    /// Who runs the server, when that is not us.
    user: Option<&'static str>,
    port: u16,
    /// What it is started with beyond the harness' own, each as `name=value`.
    settings: Vec<String>,
    guardian: Mutex<Option<Guardian>>,
}

impl Postgres {
    /// The server that tests share, each with a database of its own.  The last one to leave stops it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start());
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server of one's own, to be stopped and started.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with these settings, each as `name=value`; `max_connections=5` is one.
    pub fn start_with(settings: &[&str]) -> Self {
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self::prepare(&settings);
        let mut initdb = server.command("initdb");
        initdb.args([
            "--username=keys",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
        ]);
        initdb.args(["--locale=C", "--no-sync"]).arg("--pwfile").arg(server.folder.path().join("password"));
        run(initdb.arg("--pgdata").arg(server.data()));
        server.resume();
        server
    }

    /// A folder and a port for a server, which its user can write to.
    fn prepare(settings: &[String]) -> Self {
        let folder = TempDir::new().expect("a folder for PostgreSQL");
        let user = fs::metadata(folder.path()).expect("the folder").uid().eq(&0).then(unprivileged);
        fs::write(folder.path().join("password"), PASSWORD).expect("the password's file");
        if let Some(user) = user {
            own(user, folder.path());
        }
        let settings = settings.to_vec();
        Self { programs: programs(), folder, user, port: free_port(), settings, guardian: Mutex::new(None) }
    }

    /// A new and empty database, by its name.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The URL of a database, password included.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.address(), database)
    }

    /// The same by way of somebody who leads here.
    pub fn url_at(&self, address: impl Display, database: &str) -> String {
        format!("postgres://keys:{PASSWORD}@{address}/{database}")
    }

    /// What psql prints, one row a line.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let output = run(self.psql_command(database).args(["-c", sql]));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// The server is gone, as after a crash.
    pub fn stop(&self) {
        let guardian = self.guardian.lock().expect("nobody panicked here").take();
        if let Some(guardian) = guardian {
            guardian.end();
        }
    }

    /// `kill -9` of the server and of all that it started.
    pub fn kill(&self) {
        let server = self.server();
        // So that it starts no other meanwhile.
        signal("-STOP", server);
        let mut processes = children(server);
        processes.push(server);
        kill_all(&processes);
        self.stop();
    }

    /// The server is there (again), with the same data at the same address.
    pub fn resume(&self) {
        self.resume_at("127.0.0.1");
    }

    /// The server is there again for psql alone: nobody else reaches it.
    pub fn resume_apart(&self) {
        self.resume_at("");
    }

    fn resume_at(&self, listen: &str) {
        let port = format!("port={}", self.port);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        let listen = format!("listen_addresses={listen}");
        let settings = ["fsync=off", &listen, "max_connections=200", &port, &sockets];
        // What a test that failed wants to know of the server: see `Drop`.
        let telling = ["log_min_duration_statement=500", "log_lock_waits=on", "log_line_prefix=%m [%p] %d: "];
        let settings = settings.into_iter().chain(telling).chain(self.settings.iter().map(String::as_str));
        let mut arguments = vec!["-D".to_owned(), self.data().display().to_string()];
        for setting in settings {
            arguments.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("the server's log");
        let mut shell = self.command("sh");
        shell.stdout(Stdio::null()).stderr(log);
        let guardian = Guardian::start(shell, "QUIT", &self.programs.join("postgres"), arguments);
        *self.guardian.lock().expect("nobody panicked here") = Some(guardian);

        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let tried = self.psql_command("postgres").args(["-c", "SELECT 1"]).output().expect("psql");
            if tried.status.success() {
                return;
            }
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server and all that it started stand still and say nothing; what reaches them is kept.
    pub fn freeze(&self) {
        // First the one that starts the others.
        let server = self.server();
        signal("-STOP", server);
        for process in children(server) {
            signal("-STOP", process);
        }
    }

    /// They go on as if nothing had been.
    pub fn thaw(&self) {
        let server = self.server();
        for process in children(server).into_iter().chain([server]) {
            signal("-CONT", process);
        }
    }

    /// One of the processes that serve connections stands still; see [`Self::backends`].
    pub fn freeze_backend(&self, process: u32) {
        signal("-STOP", process);
    }

    /// It goes on.
    pub fn thaw_backend(&self, process: u32) {
        signal("-CONT", process);
    }

    /// The processes that serve our program's connections to a database.
    pub fn backends(&self, database: &str) -> Vec<u32> {
        let sql = "SELECT pid FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'envoy-auth-tokens'";
        self.psql(database, sql).lines().map(|process| process.parse().expect("a process")).collect()
    }

    /// `pg_terminate_backend` of every connection to a database but its own; gives back how many there were.
    pub fn terminate_connections(&self, database: &str) -> usize {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        self.psql(database, sql).parse().expect("a number")
    }

    /// A connection of the administrator's that stays open.
    pub fn session(&self, database: &str) -> Session {
        Session::open(&self.administrator_url(database))
    }

    /// Inserts so many live keys, whose tokens are those of [`stored_keys::token`].
    pub fn insert_keys(&self, database: &str, keys: usize) {
        let mut command = self.psql_command(database);
        command.args(["-v", &format!("keys={keys}"), "-f"]).arg(stored_keys::statement("postgres"));
        run(&mut command);
    }

    fn server(&self) -> u32 {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server's file");
        file.lines().next().and_then(|line| line.parse().ok()).expect("the server's process")
    }

    /// What a backup holds: pg_dump's text of a database.
    pub fn dump(&self, database: &str) -> String {
        let output = run(self.client_command("pg_dump").args(["-d", database]));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The same as pg_dump's archive, in a file.
    pub fn archive(&self, database: &str) -> NamedTempFile {
        let file = NamedTempFile::new().expect("a file of our own");
        let mut command = self.client_command("pg_dump");
        command.args(["--format=custom", "-d", database, "--file"]).arg(file.path());
        run(&mut command);
        file
    }

    /// Puts an archive back as docs/backup.md tells operators: in one transaction that ends no connection.  Objects that it
    /// does not know stay.
    pub fn restore_archive(&self, database: &str, archive: &NamedTempFile) {
        let mut command = self.client_command("pg_restore");
        command.args(["--clean", "--if-exists", "--single-transaction", "-d", database]).arg(archive.path());
        run(&mut command);
    }

    /// Replaces a database by what its dump holds, as an operator does: it is dropped, whoever is connected, made
    /// anew and filled.
    pub fn restore(&self, database: &str, dump: &str) {
        self.psql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
        self.psql("postgres", &format!("CREATE DATABASE {database}"));
        self.load(database, dump);
    }

    /// The same in one transaction that ends no connection, as `pg_restore --clean --single-transaction` does.
    pub fn restore_in_place(&self, database: &str, dump: &str) {
        let anew =
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC;";
        self.load(database, &format!("{anew}\n{dump}"));
    }

    fn load(&self, database: &str, sql: &str) {
        let file = NamedTempFile::new_in(self.folder.path()).expect("a file in the server's folder");
        fs::write(file.path(), sql).expect("a file of ours");
        run(self.psql_command(database).args(["--single-transaction", "-f"]).arg(file.path()));
    }

    /// A file in the server's folder, for the server alone to read.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file in the server's folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        if let Some(user) = self.user {
            own(user, &path);
        }
        path
    }

    /// Where another listener than this server's may lead to it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where all is kept.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the server printed.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The administrator's way in, which asks for no password.
    fn administrator_url(&self, database: &str) -> String {
        format!("postgres://keys@/{database}?host={}&port={}", self.folder.path().display(), self.port)
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut command = self.client_command("psql");
        command.args(["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command
    }

    /// A client of this server's, as its administrator.
    fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("PGHOST", self.folder.path()).env("PGPORT", self.port.to_string()).env("PGUSER", "keys");
        command
    }

    /// A command under the server's user, with PostgreSQL's programs first.
    fn command(&self, program: &str) -> Command {
        let installed = self.programs.join(program);
        let program = if installed.exists() { installed } else { PathBuf::from(program) };
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
        };
        // Our own folder may be closed to that user.
        command.current_dir(self.folder.path());
        command
    }
}

/// What psql prints when it comes by this URL, one row a line, or its complaint.
pub fn try_psql(url: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new(programs().join("psql"));
    command.args(["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    let output = command.output().expect("psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            println!("PostgreSQL printed at last:\n{}", lines[lines.len().saturating_sub(50)..].join("\n"));
        }
    }
}

pub(super) fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    for folder in folders {
        let version = folder.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(version.map(|version| (version, folder.path().join("bin"))));
    }
    found.sort();
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let installed = found.into_iter().rev().map(|(_, folder)| folder);
    let complete =
        |folder: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists());
    installed.chain(std::env::split_paths(&in_path)).find(complete).expect(
        "the tests need a PostgreSQL server (initdb, postgres and psql, in /usr/lib/postgresql/*/bin or in PATH): \
         install it (Debian and Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server)",
    )
}

/// Gives a file, or a folder with all that is in it, to a user.
pub(super) fn own(user: &str, path: &Path) {
    // A group may not exist under the user's name; the colon means the user's own.
    run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(path));
}

/// Whoever may run the server when we are root.
pub(super) fn unprivileged() -> &'static str {
    let known = |user: &&str| {
        let found = Command::new("id").arg("-u").arg(user).output();
        found.is_ok_and(|output| output.status.success())
    };
    ["postgres", "nobody"].into_iter().find(known).expect(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it",
    )
}

fn run(command: &mut Command) -> Output {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().unwrap_or_else(|error| panic!("{program} did not start: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} failed: {complaint}");
    output
}
