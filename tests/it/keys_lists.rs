//! Lists of very many keys, and keys that leave the store in time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::cgroup::Cgroup;
use crate::harness::issuer::{Issuer, ROOT, config, get};
use crate::harness::server::{self, Server};
use crate::harness::{MAX_WAIT, Request, sqlite};

/// A folder with a new store that has so many keys, and the store's file.
pub fn store_with(keys: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    drop(Server::with(&config(&url(&file))).start());
    sqlite::insert_keys(&file, keys);
    (folder, file)
}

pub fn url(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

/// The most memory that the process has had, in bytes.
pub fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_hundred_and_fifty_thousand_keys_are_listed_within_128_mebibytes() {
    const KEYS: usize = 150_000;
    const MEMORY: u64 = 128 * 1024 * 1024;
    let (_folder, file) = store_with(KEYS);
    let setup = Server::with(&config(&url(&file))).quiet();
    let group = Cgroup::with_memory("list", MEMORY);
    let server = match &group {
        Some(group) => {
            let folder = tempfile::tempdir().unwrap();
            let config = folder.path().join("config.yaml");
            std::fs::copy(setup.write(), &config).unwrap();
            let mut command = group.command(server::BINARY);
            command.arg("serve").arg("--config").arg(config);
            command.args(["--log-format=json", "--log-decisions=none"]);
            Server::by(command, folder)
        }
        None => setup.arg("--memory-limit=128MiB").start(),
    };
    let issuer = Issuer::of(server);
    let before = peak(&issuer.server);
    std::thread::scope(|scope| {
        let list = || {
            let answer = get(issuer.admin, "/api/auth/keys").send();
            assert_eq!(answer.status, 200);
            let keys: Vec<Value> = serde_json::from_slice(&answer.body).expect("a whole list");
            assert_eq!(keys.len(), KEYS);
            assert!(keys.is_sorted_by_key(|key| key["name"].as_str().unwrap().to_owned()));
        };
        let lists: Vec<_> = (0..3).map(|_| scope.spawn(list)).collect();
        lists.into_iter().for_each(|list| list.join().unwrap());
    });
    let page = get(issuer.admin, "/api/auth/keys?perpage=1000&page=150").send();
    assert_eq!(page.json().as_array().unwrap().len(), 1000);
    assert_eq!(page.all("x-total-count"), [KEYS.to_string()]);
    let most = peak(&issuer.server);
    eprintln!("memory: {} MiB, after the lists {} MiB", before >> 20, most >> 20);
    // Keys and text of the three lists as a whole are several times that.
    assert!(most - before < 48 * 1024 * 1024, "the lists took {} bytes", most - before);
}

#[test]
fn a_list_that_breaks_off_is_no_whole_answer() {
    let (_folder, file) = store_with(60_000);
    // More than what the sockets between us hold.
    sqlite::sql(
        &file,
        "UPDATE api_keys SET name = printf('%05d', id) || substr(hex(randomblob(90)), 1, 180)",
    );
    let issuer = Issuer::start(&url(&file));
    let mut stream = TcpStream::connect(issuer.admin).unwrap();
    stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
    let request = format!(
        "GET /api/auth/keys HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ROOT}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 1024];
    stream.read_exact(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("transfer-encoding: chunked"), "{head}");
    // The next page cannot be read.
    sqlite::sql(&file, "ALTER TABLE api_keys RENAME TO keys_elsewhere");
    let mut rest = Vec::new();
    // A connection that is reset is no whole answer either.
    let _ = stream.read_to_end(&mut rest);
    let end = String::from_utf8_lossy(&rest[rest.len().saturating_sub(16)..]).into_owned();
    assert!(!end.ends_with("0\r\n\r\n") && !end.contains(']'), "{end:?}");
    sqlite::sql(&file, "ALTER TABLE keys_elsewhere RENAME TO api_keys");
    assert_eq!(issuer.list().len(), 60_000);
}

#[test]
fn a_list_of_a_store_that_fails_at_once_is_denied() {
    let (_folder, file) = store_with(10);
    let issuer = Issuer::start(&url(&file));
    sqlite::sql(&file, "ALTER TABLE api_keys RENAME TO keys_elsewhere");
    for path in ["/api/auth/keys", "/api/auth/keys?perpage=10"] {
        let answer = get(issuer.admin, path).send();
        assert_eq!(
            (answer.status, answer.json()),
            (503, json!({"message": "Keys are unavailable"})),
            "{path}"
        );
    }
}

#[test]
fn dead_keys_leave_the_store_and_the_audit_log_says_how_many() {
    let (_folder, file) = store_with(6);
    let set = |column: &str, id: i64, hours: i64| {
        let sql = format!("UPDATE api_keys SET {column} = unixepoch() - 3600 * {hours} WHERE id = {id}");
        sqlite::sql(&file, &sql);
    };
    for id in 1..=6 {
        set("created_at", id, 100);
    }
    set("expires_at", 1, 30);
    set("expires_at", 2, 30);
    set("revoked_at", 3, 25);
    set("revoked_at", 4, 23);
    let config = config(&url(&file)).replace("keys: {", "keys: {forget_after: 1d, ");
    let server = Server::with(&config).start();
    let line = server.log().wait_for("the audit line", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "dead API keys deleted").then_some(line)
    });
    assert_eq!(line["target"], "audit");
    assert_eq!(
        (&line["expired"], &line["revoked"], &line["forget_after"]),
        (&json!(2), &json!(1), &json!("1d"))
    );
    let told =
        |line: &str| line.contains("expired and revoked keys were deleted from the store").then_some(());
    server.log().wait_for("saying so in the log", told);
    let issuer = Issuer::of(server);
    let ids: Vec<i64> = issuer.list().iter().map(|key| key["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [4, 5, 6]);
}

#[test]
fn a_store_that_is_only_read_is_listed_and_not_changed() {
    let (_folder, file) = store_with(3);
    // Who writes it: a reader needs its -shm.
    let writer = Issuer::start(&url(&file));
    let config = config(&url(&file)).replace("keys: {", "keys: {read_only: true, ");
    let reader = Issuer::of(Server::with(&config).start());
    assert_eq!(reader.list().len(), 3);
    let id = reader.list()[0]["id"].as_i64().unwrap();
    let message = json!({"message": "The key store is read only here"});
    let path = |act: &str| format!("/api/auth/keys/{id}{act}");
    for (method, path, body) in [
        ("POST", "/api/auth/keys".to_owned(), json!({"name": "new", "role": "Viewer"})),
        ("POST", path("/revoke"), json!({})),
        ("POST", path("/rotate"), json!({})),
        ("DELETE", path(""), json!({})),
        ("POST", "/api/auth/keys/accept-history".to_owned(), json!({})),
        ("POST", "/login".to_owned(), json!({"user": "ann", "password": "any"})),
    ] {
        let request = Request::new(reader.admin, method, &path).bearer(ROOT);
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string().into_bytes()).send();
        assert_eq!((answer.status, answer.json()), (403, message.clone()), "{method} {path}");
    }
    let stranger = Request::new(reader.admin, "DELETE", &path("")).send();
    assert_eq!(stranger.status, 401, "who may not even ask is told nothing of it");
    let cookie = "eat_session=session_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let answer = Request::new(reader.admin, "POST", "/logout").header("cookie", cookie).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.all("set-cookie")[0].starts_with("eat_session=; "), "{answer:?}");
    assert_eq!(writer.list().len(), 3);
}
