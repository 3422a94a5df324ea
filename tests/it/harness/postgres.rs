//! A real PostgreSQL, for this test run alone.
//!
//! It listens on a loopback port, where a password is asked, and on a socket in its own folder, where none is:
//! that is the administrator's way in.  The server refuses to run as root; then another user runs it.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::MAX_WAIT;
use super::server::signal;

/// The password of the user `keys`, which must never show anywhere.
pub const PASSWORD: &str = "hunter2-of-the-store";

/// A server that dies with the test.
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    /// Who runs the server, when that is not us.
    user: Option<&'static str>,
    port: u16,
    guardian: Mutex<Option<Child>>,
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
        let programs = programs();
        let folder = TempDir::new().expect("a folder for PostgreSQL");
        let user = fs::metadata(folder.path()).expect("the folder").uid().eq(&0).then(unprivileged);
        let server = Self { programs, folder, user, port: free_port(), guardian: Mutex::new(None) };

        let password = server.folder.path().join("password");
        fs::write(&password, PASSWORD).expect("the password's file");
        if let Some(user) = user {
            // A group may not exist under the user's name; the colon means the user's own.
            run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(server.folder.path()));
        }
        let mut initdb = server.command("initdb");
        initdb.args([
            "--username=keys",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
        ]);
        initdb.args(["--locale=C", "--no-sync"]).arg("--pwfile").arg(&password);
        run(initdb.arg("--pgdata").arg(server.data()));
        server.resume();
        server
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
        if let Some(mut guardian) = guardian {
            // Its end of the pipe closes with this, and that is the sign.
            drop(guardian.stdin.take());
            guardian.wait().expect("the server's guardian");
        }
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
        let mut command = self.command("sh");
        // Whoever holds the other end of the pipe may be killed: then the server goes, frozen or not.
        let guardian = r#""$@" & server=$!; read -r _; kill -QUIT $server; kill -CONT $server; wait $server"#;
        command.args(["-c", guardian, "guardian"]);
        command.arg(self.programs.join("postgres")).arg("-D").arg(self.data());
        let port = format!("port={}", self.port);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        let listen = format!("listen_addresses={listen}");
        let settings = ["fsync=off", &listen, "max_connections=200", &port, &sockets];
        // What a test that failed wants to know of the server: see `Drop`.
        let telling = ["log_min_duration_statement=500", "log_lock_waits=on", "log_line_prefix=%m [%p] %d: "];
        let settings = settings.into_iter().chain(telling);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("the server's log");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        *self.guardian.lock().expect("nobody panicked here") = Some(command.spawn().expect("PostgreSQL"));

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

    fn server(&self) -> u32 {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server's file");
        file.lines().next().and_then(|line| line.parse().ok()).expect("the server's process")
    }

    /// What a backup holds: pg_dump's text of a database.
    pub fn dump(&self, database: &str) -> String {
        let mut command = Command::new(self.programs.join("pg_dump"));
        command.env("PGHOST", self.folder.path()).env("PGPORT", self.port.to_string());
        let output = run(command.args(["-U", "keys", "-d", database]));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A file in the server's folder, for the server alone to read.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file in the server's folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        if let Some(user) = self.user {
            run(Command::new("chown").arg(format!("{user}:")).arg(&path));
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

    fn psql_command(&self, database: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.env("PGHOST", self.folder.path()).env("PGPORT", self.port.to_string());
        command.args(["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "keys", "-d", database]);
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

fn children(of: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &of.to_string()]).output().expect("`ps`");
    let listed = String::from_utf8(output.stdout).expect("numbers");
    listed.split_whitespace().map(|process| process.parse().expect("a number")).collect()
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

fn programs() -> PathBuf {
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

/// Whoever may run the server when we are root.
fn unprivileged() -> &'static str {
    let known = |user: &&str| {
        let asked = Command::new("id").arg("-u").arg(user).output();
        asked.is_ok_and(|output| output.status.success())
    };
    ["postgres", "nobody"].into_iter().find(known).expect(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it",
    )
}

pub(super) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

fn run(command: &mut Command) -> Output {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().unwrap_or_else(|error| panic!("{program} did not start: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} failed: {complaint}");
    output
}
