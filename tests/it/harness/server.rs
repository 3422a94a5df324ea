//! Our own binary, started the way an operator starts it.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::http1::{Answer, Request};
use super::log::Log;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_envoy-auth-tokens");

/// Where the server hears Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// An abstract socket of Linux, named without its `@`.
    Abstract(String),
}

impl ListenAddress {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(name) => match name.strip_prefix('@') {
                Some(name) => Self::Abstract(name.to_owned()),
                None => Self::Unix(PathBuf::from(name)),
            },
            None => Self::Tcp(text.parse().unwrap_or_else(|_| panic!("no address: {text:?}"))),
        }
    }
}

/// A server that is about to start: a folder with a configuration, an environment, arguments.
pub struct Setup {
    folder: TempDir,
    config: String,
    listen: Option<String>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    log_format: &'static str,
    log_level: &'static str,
    socket: Option<OwnedFd>,
    launcher: Vec<OsString>,
}

impl Setup {
    /// Logs no more than an operator's server does: for tests that last.
    pub fn quiet(mut self) -> Self {
        self.log_level = "info";
        self
    }

    /// Logs at this level.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// This listening socket is handed over as systemd does it (sd_listen_fds(3)): descriptor 3, and a count.
    pub fn inherit(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.socket = Some(socket.into());
        self
    }

    /// These words stand before the binary, as `nsenter` and its options do; the last program among them must become
    /// the binary, not start it.
    pub fn behind(mut self, launcher: Vec<OsString>) -> Self {
        self.launcher = launcher;
        self
    }

    /// Logs for people instead of JSON.
    pub fn text_log(mut self) -> Self {
        self.log_format = "text";
        self
    }

    /// This `ext_authz.listen` instead of a free port.
    pub fn listen(mut self, listen: impl Into<String>) -> Self {
        self.listen = Some(listen.into());
        self
    }

    /// The configuration speaks for its own listeners, or for the default ones.
    pub fn own_listeners(mut self) -> Self {
        self.listen = None;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file beside the configuration.
    pub fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).expect("a file in a fresh folder");
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the configuration and says where it is.
    pub fn write(&self) -> PathBuf {
        let path = self.folder.path().join("config.yaml");
        let listeners = match &self.listen {
            Some(listen) => {
                format!("ext_authz: {{listen: \"{listen}\"}}\nprobes: {{listen: \"127.0.0.1:0\"}}\n")
            }
            None => String::new(),
        };
        std::fs::write(&path, format!("{listeners}{}", self.config)).expect("a file in a fresh folder");
        path
    }

    /// Any command of the binary with this setup's environment and configuration.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.binary();
        command.env_remove("ENVOY_AUTH_TOKENS_CONFIG");
        command.env("ENVOY_AUTH_TOKENS_CONFIG", self.write());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        run(self.command(arguments), "")
    }

    fn binary(&self) -> Command {
        let mut words = self.launcher.iter().map(OsString::as_os_str).chain([OsStr::new(BINARY)]);
        let mut command = Command::new(words.next().expect("the binary at least"));
        command.args(words);
        command
    }

    fn spawn(&self) -> (Child, Log) {
        let config = self.write();
        let mut command = if self.socket.is_some() { Command::new("sh") } else { self.binary() };
        let stdin = match &self.socket {
            Some(socket) => {
                // The socket arrives as standard input, and moves on to where systemd puts it.
                let hand_over = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
                command.args(["-c", hand_over, BINARY]);
                Stdio::from(socket.try_clone().expect("a descriptor to spare"))
            }
            None => Stdio::null(),
        };
        command.arg("serve").arg("--config").arg(config);
        command.args(["--log-format", self.log_format, "--log-level", self.log_level]);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let log = Log::of("the server", &mut child);
        (child, log)
    }

    /// Starts it, and waits for nothing: it is not known yet where it listens.
    pub fn begin(self) -> Server {
        let (child, log) = self.spawn();
        Server::unheard(child, log, self.folder)
    }

    /// Starts it and waits until it says that it serves.
    pub fn start(self) -> Server {
        let server = self.start_listening();
        server.wait_until_it_serves();
        server
    }

    /// Starts it and waits until it says where it listens.
    pub fn start_listening(self) -> Server {
        let (child, log) = self.spawn();
        self.heard(child, log)
    }

    /// Starts it as this script of a shell does, whose last line is the server's.
    pub fn start_by(self, script: &str) -> Server {
        self.write();
        let (exports, serve) = script.trim().rsplit_once('\n').expect("the server's line is the last one");
        let folder = Path::new(BINARY).parent().expect("a folder").display();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        // `exec`: the process is the server, and dies with the test.
        command.args(["-euc", &format!("{exports}\nexec {serve}")]);
        command.env("PATH", format!("{folder}:{path}")).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let log = Log::of("the server of a script", &mut child);
        let server = self.heard(child, log);
        server.wait_until_it_serves();
        server
    }

    fn heard(self, child: Child, log: Log) -> Server {
        let mut server = Server::unheard(child, log, self.folder).heard();
        server.environment = self.environment;
        server
    }

    /// Starts it although it cannot: gives back how it ended.
    pub fn start_in_vain(self) -> Ran {
        let (child, log) = self.spawn();
        let mut server = Server::unheard(child, log, self.folder);
        let status = server.wait();
        Ran { status, stdout: String::new(), stderr: server.log.text() }
    }
}

/// A running server; it dies with this value.
pub struct Server {
    child: Child,
    /// Whether it comes with others, who go when it goes.
    leads_a_group: bool,
    log: Log,
    ext_authz: ListenAddress,
    probes: SocketAddr,
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Server {
    /// A server with this configuration, less its listeners, which get free ports.
    pub fn with(config: &str) -> Setup {
        Setup {
            folder: TempDir::new().expect("a fresh folder"),
            config: config.to_owned(),
            listen: Some("127.0.0.1:0".to_owned()),
            environment: Vec::new(),
            arguments: Vec::new(),
            log_format: "json",
            log_level: "trace",
            socket: None,
            launcher: Vec::new(),
        }
    }

    /// The server that this command starts, as that of a container; the folder is kept for as long.
    pub fn by(mut command: Command, folder: TempDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Killed as one: what changes its user does not die with who started it.
        command.process_group(0);
        let mut child = command.spawn().expect("the command starts");
        let log = Log::of("the server", &mut child);
        let mut server = Self::unheard(child, log, folder);
        server.leads_a_group = true;
        let server = server.heard();
        server.wait_until_it_serves();
        server
    }

    /// Learns where it listens.
    fn heard(mut self) -> Self {
        self.ext_authz = ListenAddress::parse(&self.listening("ext_authz"));
        let probes = self.listening("probes");
        self.probes = probes.parse().unwrap_or_else(|_| panic!("no address: {probes:?}"));
        self
    }

    /// From here on the process dies with this value, even when a wait fails.
    fn unheard(child: Child, log: Log, folder: TempDir) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            child,
            leads_a_group: false,
            log,
            ext_authz: ListenAddress::Tcp(nowhere),
            probes: nowhere,
            folder,
            environment: Vec::new(),
        }
    }

    pub fn wait_until_it_serves(&self) {
        self.log.wait_for("saying that it serves", |line| {
            let json = fields(line).is_some_and(|fields| fields["message"] == "serving");
            (json || line.ends_with(": serving")).then_some(())
        });
    }

    fn listening(&self, listener: &str) -> String {
        self.log.wait_for(&format!("saying where {listener} listens"), |line| {
            if let Some(fields) = fields(line) {
                let this = fields["message"] == "listening" && fields["listener"] == listener;
                return this.then(|| fields["address"].as_str().map(str::to_owned)).flatten();
            }
            let (_, address) = line.split_once(&format!("listener=\"{listener}\" address="))?;
            Some(address.trim_matches('"').to_owned())
        })
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where its configuration is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration's file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Its environment, beside ours: the module inside Envoy needs the same.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where Envoy asks.
    pub fn listen_address(&self) -> &ListenAddress {
        &self.ext_authz
    }

    /// The same, when it is a TCP address.
    pub fn tcp(&self) -> SocketAddr {
        match &self.ext_authz {
            ListenAddress::Tcp(address) => *address,
            other => panic!("the server listens at {other:?}"),
        }
    }

    pub fn probes(&self) -> SocketAddr {
        self.probes
    }

    /// Where keys are managed; the configuration says that it wants such a listener, best on port 0.
    pub fn admin(&self) -> SocketAddr {
        let address = self.listening("admin");
        address.parse().unwrap_or_else(|_| panic!("no address: {address:?}"))
    }

    /// Asks the probes listener.
    pub fn probe(&self, path: &str) -> Answer {
        Request::new(self.probes, "GET", path).header("connection", "close").send()
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> String {
        let answer = self.probe("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    }

    /// The decision lines so far, each with its fields.
    pub fn decisions(&self) -> Vec<Value> {
        decisions(&self.log)
    }

    /// The decision line of the request with this `x-request-id`.
    pub fn decision(&self, request_id: &str) -> Value {
        decision(&self.log, request_id)
    }

    /// Sends SIGTERM and returns at once.
    pub fn terminate(&self) {
        signal("-TERM", self.child.id());
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        signal("-INT", self.child.id());
    }

    /// Sends SIGHUP and returns at once.
    pub fn hang_up(&self) {
        signal("-HUP", self.child.id());
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.log.wait_for_the_end();
        self.child.wait().expect("a child of ours")
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        // Once it has been waited for, its number may be another's.
        if self.leads_a_group && matches!(self.child.try_wait(), Ok(None)) {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.log.print_the_end();
        }
    }
}

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a command to its end with this on its standard input.
pub fn run(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A command that does not read its input may close it first.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("a child of ours");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the binary prints UTF-8");
    Ran { status, stdout: text(stdout), stderr: text(stderr) }
}

/// Sends a signal to a process that this test started.
pub fn signal(signal: &str, process: u32) {
    let sent = Command::new("kill").arg(signal).arg(process.to_string()).status();
    assert!(sent.expect("`kill` starts").success(), "no process {process} to signal");
}

/// A log line's fields: under `fields` or beside the line's own members.
fn fields(line: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    match line.get("fields") {
        Some(fields) => Some(fields.clone()),
        None => line.is_object().then_some(line),
    }
}

/// The decision lines of a log so far, each with its fields.
pub fn decisions(log: &Log) -> Vec<Value> {
    let lines = log.lines();
    let fields = lines.iter().filter_map(|line| fields(line));
    fields.filter(|fields| fields.get("decision").is_some()).collect()
}

/// The decision line of the request with this `x-request-id`.
pub fn decision(log: &Log, request_id: &str) -> Value {
    decision_where(log, "request_id", request_id)
}

/// The first decision line in which this field has this value.
pub fn decision_where(log: &Log, field: &str, value: &str) -> Value {
    log.wait_for(&format!("a decision line whose {field} is {value}"), |line| {
        let fields = fields(line)?;
        fields.get("decision")?;
        (fields.get(field)?.as_str()? == value).then_some(fields)
    })
}
