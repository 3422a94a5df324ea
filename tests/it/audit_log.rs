//! The audit log: whole, whatever the log's level is and whoever reads it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http1::{Answer, Request};
use crate::harness::server::{BINARY, Server, Setup};
use crate::harness::{sqlite, wait_until};

const ROOT: &str = "root-token-0123456789";

fn config(admin: &str) -> String {
    format!(
        "keys: {{store: 'sqlite:keys.db'}}\nadmin: {{listen: '127.0.0.1:0'{admin}}}\n\
         tokens: [{{token: {ROOT}, actor: {{id: root, role: Admin}}}}]\n\
         users: [{{username: ann, password_hash: '{}', actor: {{id: ann, role: Admin}}}}]\n",
        bcrypt::hash("right", 4).expect("bcrypt")
    )
}

fn send(request: Request, body: &Value) -> Answer {
    request.bearer(ROOT).header("content-type", "application/json").body(body.to_string().into_bytes()).send()
}

fn create(admin: SocketAddr, name: &str) -> Answer {
    send(Request::new(admin, "POST", "/api/auth/keys"), &json!({"name": name, "role": "Viewer"}))
}

fn audit_lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "audit").collect()
}

#[test]
fn no_level_of_the_log_silences_it() {
    for level in ["error", "off"] {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("admin.sock");
        let config = config("").replace("127.0.0.1:0", &format!("unix:{}", socket.display()));
        let server = Server::with(&config).log_level(level).arg("--log-decisions=none").begin();
        wait_until("the admin listener", || UnixStream::connect(&socket).is_ok());
        let mut stream = UnixStream::connect(&socket).unwrap();
        let body = r#"{"name":"a","role":"Viewer"}"#;
        let head = format!(
            "POST /api/auth/keys HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ROOT}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{level} {answer}");
        let line = server.log().wait_for("the audit line", |line| audit_lines(line).pop());
        assert_eq!(
            (&line["message"], &line["address"]),
            (&json!("API key created"), &json!("unix")),
            "{level}"
        );
    }
}

#[test]
fn a_file_of_its_own_holds_every_line_and_the_log_holds_none() {
    let setup = Server::with(&config(", trusted_proxies: [127.0.0.0/8]"));
    let path = setup.folder().join("audit.log");
    let server = setup.arg("--audit-log").arg(path.to_str().unwrap()).text_log().start();
    let admin = server.admin();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let forwarded =
        Request::new(admin, "POST", "/api/auth/keys").header("x-forwarded-for", "1.1.1.1, 203.0.113.9");
    let body = json!({"name": "a", "role": "Editor", "secondsToLive": 3600, "policies": null});
    let id = send(forwarded, &body).json()["id"].as_i64().unwrap();
    let at = |action: &str| Request::new(admin, "POST", &format!("/api/auth/keys/{id}/{action}"));
    assert_eq!(send(at("revoke"), &json!({})).status, 200);
    // The answer came after the line was written.
    let lines = audit_lines(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(lines.len(), 2, "{lines:?}");
    let state = |line: &Value, member: &str| -> Value {
        line.get(member).map_or(Value::Null, |text| serde_json::from_str(text.as_str().unwrap()).unwrap())
    };
    let (before, after) = (state(&lines[0], "before"), state(&lines[0], "after"));
    assert_eq!((&before, &after["role"], &after["name"]), (&Value::Null, &json!("Editor"), &json!("a")));
    assert_eq!(after["expires"], lines[0]["key.expires"]);
    assert_eq!((&lines[0]["address"], &lines[1]["address"]), (&json!("203.0.113.9"), &json!("127.0.0.1")));
    let (before, after) = (state(&lines[1], "before"), state(&lines[1], "after"));
    assert_eq!((before.get("revoked"), after["revoked"].is_string()), (None, true), "{before} {after}");

    // A log-in that a stranger tries again and again is one line.
    for _ in 0..20 {
        let log_in = Request::new(admin, "POST", "/login").header("content-type", "application/json");
        let body = json!({"user": "nobody", "password": "guess"}).to_string().into_bytes();
        assert_eq!(log_in.body(body).send().status, 401);
    }
    assert_eq!(audit_lines(&std::fs::read_to_string(&path).unwrap()).len(), 3);

    // Moved away, it is begun anew; and SIGHUP does so, too.
    let old = path.with_file_name("audit.log.1");
    std::fs::rename(&path, &old).unwrap();
    assert_eq!(create(admin, "b").status, 200);
    assert_eq!(audit_lines(&std::fs::read_to_string(&path).unwrap()).len(), 1);
    std::fs::rename(&path, &old).unwrap();
    server.hang_up();
    wait_until("the file after SIGHUP", || path.exists());
    assert!(!server.log().text().contains("API key"), "{}", server.log().text());

    // What was merged is told at the end.
    server.terminate();
    let written = || audit_lines(&std::fs::read_to_string(&path).unwrap());
    wait_until("the merged line", || !written().is_empty());
    assert_eq!((&written()[0]["message"], &written()[0]["count"]), (&json!("log-in denied"), &json!(19)));
}

#[test]
fn a_file_that_cannot_be_had_is_an_error_at_the_start() {
    for (path, expected) in [
        (
            "/nonexistent/audit.log",
            "cannot open the audit log /nonexistent/audit.log: No such file or directory",
        ),
        ("/dev/null", "the audit log /dev/null is not a regular file"),
    ] {
        let ran = Server::with(&config("")).text_log().arg("--audit-log").arg(path).start_in_vain();
        assert_eq!(ran.code(), Some(1));
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
}

fn sample(metrics: &str, name: &str) -> u64 {
    let begins = format!("envoy_auth_tokens_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&begins));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// A server whose standard error is a pipe that this test reads, as far as it wants.
struct Piped {
    server: Child,
    lines: BufReader<PipeReader>,
    writer: Option<PipeWriter>,
    admin: SocketAddr,
    probes: SocketAddr,
    _setup: Setup,
}

impl Piped {
    fn start() -> Self {
        let setup = Server::with(&config(""));
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = setup.command(["serve", "--log-format", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer.try_clone().unwrap());
        let server = command.spawn().unwrap();
        drop(command);
        let mut lines = BufReader::new(reader);
        let mut addresses = std::collections::HashMap::new();
        loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended");
            let line: Value = serde_json::from_str(&line).unwrap();
            if let (Some(listener), Some(address)) = (line["listener"].as_str(), line["address"].as_str()) {
                addresses.insert(listener.to_owned(), address.parse().unwrap());
            }
            if line["message"] == "serving" {
                break;
            }
        }
        let (admin, probes) = (addresses["admin"], addresses["probes"]);
        Self { server, lines, writer: Some(writer), admin, probes, _setup: setup }
    }

    fn metric(&self, name: &str) -> u64 {
        let request = Request::new(self.probes, "GET", "/metrics").header("connection", "close");
        sample(&request.send().text(), name)
    }

    /// Fills the pipe, so that nothing more fits into it.
    fn fill(&self) {
        let descriptor = self.writer.as_ref().unwrap().as_raw_fd();
        // Opened anew, since waiting or not belongs to what was opened, and the server's is to wait.
        let mut options = File::options();
        options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let mut pipe = options.open(format!("/proc/self/fd/{descriptor}")).unwrap();
        for size in [4096, 1] {
            let filler = vec![b'\n'; size];
            loop {
                match pipe.write(&filler) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_pipe_that_nobody_reads_keeps_its_lines_and_they_come_when_it_is_read() {
    let mut piped = Piped::start();
    piped.fill();
    for name in ["a", "b"] {
        assert_eq!(create(piped.admin, name).status, 200);
    }
    assert_eq!(piped.metric("audit_lines_waiting"), 2);
    let mut names = Vec::new();
    while names.len() < 2 {
        let mut line = String::new();
        assert!(piped.lines.read_line(&mut line).unwrap() > 0, "the server ended");
        names.extend(audit_lines(&line).into_iter().map(|line| line["key.name"].clone()));
    }
    assert_eq!(names, ["a", "b"]);
    wait_until("no line that waits", || piped.metric("audit_lines_waiting") == 0);
}

#[test]
fn a_pipe_whose_reader_has_gone_counts_what_is_lost_and_what_waits() {
    let mut piped = Piped::start();
    let (reader, _) = std::io::pipe().unwrap();
    drop(std::mem::replace(&mut piped.lines, BufReader::new(reader)));
    piped.writer = None;
    assert_eq!(create(piped.admin, "a").status, 200);
    assert_eq!(piped.metric("audit_lines_waiting"), 1);
    // That the audit log cannot be written cannot be told either, and is counted.
    wait_until("a lost line of the log", || piped.metric("dropped_log_lines_total") > 0);
    assert_eq!(create(piped.admin, "b").status, 200);
    assert_eq!(piped.metric("audit_lines_waiting"), 2);
}

#[test]
fn on_a_full_disk_its_lines_wait_until_there_is_room() {
    let setup = Server::with(&config(""));
    let disk = setup.folder().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=64k audit \"$1\"; path=$1; shift; exec \"$@\" --audit-log \"$path/audit.log\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-euc", script, "sh"]);
    command.arg(&disk).arg(BINARY).args(["serve", "--log-format", "json", "--config"]).arg(setup.write());
    let server = Server::by(command, TempDir::new().unwrap());
    let admin = server.admin();
    // The disk is mounted for the server alone, and seen through it.
    let seen = Path::new("/proc")
        .join(server.process().to_string())
        .join("root")
        .join(disk.strip_prefix("/").unwrap());
    let filler = seen.join("filler");
    let mut file = File::create(&filler).unwrap();
    let full = std::iter::repeat_with(|| file.write(&[b'x'; 512])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    // A page may have some room left: lines come until it has none.
    let written = || audit_lines(&std::fs::read_to_string(seen.join("audit.log")).unwrap()).len();
    let mut made = 0;
    let waiting = || sample(&server.metrics(), "audit_lines_waiting");
    while waiting() == 0 {
        assert_eq!(create(admin, &format!("key-{made}")).status, 200);
        made += 1;
        assert!(made < 100, "the disk is not full");
    }
    server.log().wait_for("saying so", |line| line.contains("the audit log cannot be written").then_some(()));
    assert!(written() < made);
    // Its room comes back when nobody has it open any more.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    wait_until("every line", || written() == made);
    assert_eq!(waiting(), 0);
    server.log().wait_for("saying so", |line| line.contains("the audit log is written again").then_some(()));
}

#[test]
fn denials_stand_in_the_store_too_and_as_few_as_they_may_be() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("keys.db");
    let config = config("").replace("sqlite:keys.db", &format!("sqlite:{}", store.display()));
    let server = Server::with(&config).start();
    let admin = server.admin();
    let denied = |name: &str| {
        let body = json!({"name": name, "role": "Nobody"});
        assert_eq!(send(Request::new(admin, "POST", "/api/auth/keys"), &body).status, 400);
    };
    let guess = |user: &str| {
        let log_in = Request::new(admin, "POST", "/login").header("content-type", "application/json");
        let body = json!({"user": user, "password": "a-secret-guess"}).to_string().into_bytes();
        assert_eq!(log_in.body(body).send().status, 401);
    };
    (0..25).for_each(|turn| denied(&format!("key-{turn}")));
    (0..4).for_each(|_| guess("a-secret-typed-into-the-wrong-field"));
    (0..3).for_each(|_| guess("ann"));
    let rows = || {
        let select = "SELECT action, coalesce(actor_id, '-'), coalesce(user_name, '-'), status, reason, \
                      coalesce(count, 1) FROM api_audit WHERE status IS NOT NULL ORDER BY id";
        let rows = sqlite::sql(&store, select);
        rows.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until("ten rows of one caller, and one of each name", || rows().len() == 12);
    let invalid = "API key not created|root|-|400|invalid_role";
    assert_eq!(rows()[..10], vec![format!("{invalid}|1"); 10]);
    assert_eq!(rows()[10], "log-in denied|-|-|401|wrong_password|1");
    assert_eq!(rows()[11], "log-in denied|-|ann|401|wrong_password|1");
    // What was held back is told at the end.
    server.terminate();
    wait_until("the rest", || rows().len() == 15);
    let mut rest = rows().split_off(12);
    rest.sort_unstable();
    assert_eq!(
        rest,
        [
            format!("{invalid}|15"),
            "log-in denied|-|-|401|wrong_password|3".to_owned(),
            "log-in denied|-|ann|401|wrong_password|2".to_owned(),
        ]
    );
    assert!(!sqlite::sql(&store, "SELECT * FROM api_audit").contains("a-secret"));
}

#[test]
fn denials_that_the_store_does_not_take_are_counted() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("keys.db");
    let config = config("").replace("sqlite:keys.db", &format!("sqlite:{}", store.display()));
    let server = Server::with(&config).start();
    let lost = || sample(&server.metrics(), "audit_denials_not_stored_total");
    assert_eq!(lost(), 0);
    sqlite::sql(&store, "ALTER TABLE api_audit RENAME TO audit_elsewhere");
    let body = json!({"name": "a", "role": "Nobody"});
    assert_eq!(send(Request::new(server.admin(), "POST", "/api/auth/keys"), &body).status, 400);
    wait_until("it is counted", || lost() == 1);
    server.log().wait_for("its line", |line| line.contains("API key not created").then_some(()));
}
