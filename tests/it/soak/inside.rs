//! The same life with the module inside Envoy: `make soak MINUTES=60 FORM=module`.
//!
//! One Envoy with four workers lives through all of it, so that memory which it loses shows.  A server beside it writes
//! the key store, which the module reads; both reload the same file.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    ALICE, EVEN, Expected, KEY_EVERY, PASSWORD, RELOAD_EVERY, SAMPLE_EVERY, Sample, Tally, bearer, config,
    create_key, every, judge_memory, manage, memory,
};
use crate::harness::http1::{self, Connection};
use crate::harness::{Envoy, Server, Shape, Upstream, wait_until};

const WORKERS: usize = 4;
const KEPT_CONNECTIONS: usize = 4;
/// Between two requests of one client on a connection that it keeps, and of one with a connection for each.
const KEPT_PAUSE: Duration = Duration::from_millis(4);
const NEW_PAUSE: Duration = Duration::from_millis(10);
/// Between two clients that leave while their password is verified.
const LEAVER_EVERY: Duration = Duration::from_millis(500);
/// How often a key that was revoked is tried once more after its end.
const TRIES_OF_THE_DEAD: usize = 5;

#[test]
fn nothing_goes_wrong_inside_envoy() {
    live_for("20 seconds", Duration::from_secs(20), Duration::from_secs(4));
}

#[test]
#[ignore = "takes minutes, as many as SOAK_MINUTES says: make soak FORM=module"]
fn nothing_goes_wrong_inside_envoy_however_long_it_lasts() {
    let minutes: u64 = std::env::var("SOAK_MINUTES").map_or(2, |minutes| minutes.parse().unwrap());
    live_for(&format!("{minutes} minutes"), Duration::from_secs(60 * minutes), RELOAD_EVERY);
}

fn live_for(name: &str, life: Duration, reload_every: Duration) {
    let world = World::begin();
    world.live(life, reload_every);
    println!("soak: {name}, the module inside Envoy, {WORKERS} workers");
    world.judge();
}

/// An Envoy with the module, a server that issues keys, an application, and all who keep them busy.
struct World {
    envoy: Envoy,
    /// Where the module serves its metrics.
    probes: SocketAddr,
    server: Server,
    upstream: Upstream,
    config_file: PathBuf,
    store: PathBuf,
    admin: SocketAddr,
    /// A key that nobody revokes.
    lasting: Value,
    stop: AtomicBool,
    tally: Tally,
    reloads: AtomicU64,
    revoked: AtomicU64,
    /// Requests that came while a password was being verified for longer than a request waits.
    verifying: AtomicU64,
    left: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    server_samples: Mutex<Vec<Sample>>,
    _folder: TempDir,
}

impl World {
    fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("keys.db");
        let setup = Server::with(&config(0, &store)).own_listeners().quiet().arg("--log-decisions=none");
        let config_file = setup.write();
        let server = setup.start();
        let admin = server.admin();
        let lasting = create_key(admin, "lasting");
        let upstream = Upstream::start();
        // Without an access log, which this process would keep.
        let shape = Shape::plain().module(json!({ "probes": "127.0.0.1:0" })).workers(WORKERS);
        let envoy = Envoy::start(&shape.manager(json!({ "access_log": [] })), &server, &upstream);
        let probes = envoy.log().wait_for("where the module's probes are", |line| {
            let (_, address) = line.split_once("listening listener=\"probes\" address=")?;
            address.split_whitespace().next()?.parse().ok()
        });
        let world = Self {
            envoy,
            probes,
            server,
            upstream,
            config_file,
            store,
            admin,
            lasting,
            stop: AtomicBool::new(false),
            tally: Tally::default(),
            reloads: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            verifying: AtomicU64::new(0),
            left: AtomicU64::new(0),
            samples: Mutex::default(),
            server_samples: Mutex::default(),
            _folder: folder,
        };
        let token = bearer(&world.lasting);
        wait_until("the module knows the key", || world.ask(Some(&token)) == Ok(0));
        world
    }

    /// Everybody does what they do, for so long.
    fn live(&self, life: Duration, reload_every: Duration) {
        std::thread::scope(|scope| {
            for _ in 0..KEPT_CONNECTIONS {
                scope.spawn(|| self.ask_on_a_kept_connection());
            }
            for _ in 0..2 {
                scope.spawn(|| self.ask_on_new_connections());
            }
            scope.spawn(|| self.leave_early());
            scope.spawn(|| self.reload(reload_every));
            scope.spawn(|| self.issue_and_revoke_keys());
            scope.spawn(|| self.take_samples());
            std::thread::sleep(life);
            self.stop.store(true, Ordering::SeqCst);
        });
    }

    /// One request with this `Authorization` on a connection of its own.
    fn ask(&self, authorization: Option<&str>) -> Result<i32, String> {
        let request = http1::Request::new(self.envoy.address(), "GET", "/x").header("connection", "close");
        let request = match authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        verdict(request.try_send().ok_or("no answer")?.status)
    }

    /// A client with every kind of credential in turn, with and without a body.
    fn ask_on_a_kept_connection(&self) {
        let mut connection = Connection::to(self.envoy.address());
        let (alice, lasting) = (format!("Bearer {ALICE}"), bearer(&self.lasting));
        let basic = http1::basic("admin", PASSWORD);
        let questions = [
            ("a configured token", Some(alice.as_str()), Expected::Passes),
            ("an API key", Some(lasting.as_str()), Expected::Passes),
            ("a password", Some(basic.as_str()), Expected::Passes),
            ("an unknown token", Some("Bearer nobody-token-0123456789"), Expected::IsRefused),
            ("nothing", None, Expected::IsRefused),
        ];
        let bodies = [("GET", "", ""), ("POST", "content-length: 5\r\n", "hello")];
        let turns = bodies.iter().flat_map(|body| questions.iter().map(move |question| (body, question)));
        let mut turns = turns.cycle();
        every(&self.stop, KEPT_PAUSE, || {
            let ((method, header, body), (what, authorization, expected)) = turns.next().unwrap();
            let credential =
                authorization.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
            let bytes =
                format!("{method} /x HTTP/1.1\r\nhost: app.example\r\n{credential}{header}\r\n{body}");
            let answer = connection.exchange(bytes.as_bytes(), false);
            if answer.all("connection").contains(&"close") {
                // Envoy does so where it denied a request before its body came.
                connection = Connection::to(self.envoy.address());
            }
            if *what == "a password" && answer.status == 503 {
                self.verifying.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.tally.note(what, *expected, verdict(answer.status));
        });
    }

    fn ask_on_new_connections(&self) {
        let alice = format!("Bearer {ALICE}");
        let questions = [(alice.as_str(), Expected::Passes), ("Bearer nobody-token", Expected::IsRefused)];
        let mut turns = questions.iter().cycle();
        every(&self.stop, NEW_PAUSE, || {
            let (token, expected) = turns.next().unwrap();
            self.tally.note("a connection of its own", *expected, self.ask(Some(*token)));
        });
    }

    /// A client that is gone before its password is verified.
    fn leave_early(&self) {
        every(&self.stop, LEAVER_EVERY, || {
            let number = self.left.fetch_add(1, Ordering::Relaxed);
            let wrong = http1::basic("nobody", &format!("a-wrong-password-{number}"));
            let head = format!(
                "POST / HTTP/1.1\r\nhost: app.example\r\nauthorization: {wrong}\r\ncontent-length: 9\r\n\r\nab"
            );
            let mut connection = TcpStream::connect(self.envoy.address()).unwrap();
            connection.write_all(head.as_bytes()).unwrap();
        });
    }

    /// An operator who changes the configuration, and looks whether it is in force.
    fn reload(&self, pause: Duration) {
        let even = format!("Bearer {EVEN}");
        every(&self.stop, pause, || {
            let generation = self.reloads.fetch_add(1, Ordering::SeqCst) + 1;
            let next = self.config_file.with_extension("next");
            std::fs::write(&next, config(generation, &self.store)).unwrap();
            std::fs::rename(&next, &self.config_file).unwrap();
            let (code, expected) = match generation.is_multiple_of(2) {
                true => (0, Expected::Passes),
                false => (16, Expected::IsRefused),
            };
            wait_until("the new configuration is in force", || self.ask(Some(&even)) == Ok(code));
            for _ in 0..20 {
                self.tally.note("a reloaded token", expected, self.ask(Some(&even)));
            }
        });
    }

    /// An administrator who gives a key and takes it back at the server: each counts inside Envoy soon after, and for ever.
    fn issue_and_revoke_keys(&self) {
        every(&self.stop, KEY_EVERY, || {
            let key = create_key(self.admin, &format!("key-{}", self.revoked.load(Ordering::SeqCst)));
            let token = bearer(&key);
            let path = format!("/api/auth/keys/{}", key["id"]);
            wait_until("a new key counts", || self.ask(Some(&token)) == Ok(0));
            self.tally.note("a new key", Expected::Passes, self.ask(Some(&token)));
            assert_eq!(manage(self.admin, "POST", &format!("{path}/revoke")).send().status, 200);
            wait_until("a revoked key is dead", || self.ask(Some(&token)) == Ok(16));
            for _ in 0..TRIES_OF_THE_DEAD {
                self.tally.note("a revoked key", Expected::IsRefused, self.ask(Some(&token)));
            }
            assert_eq!(manage(self.admin, "DELETE", &path).send().status, 200);
            self.tally.note("a deleted key", Expected::IsRefused, self.ask(Some(&token)));
            self.revoked.fetch_add(1, Ordering::SeqCst);
        });
    }

    fn take_samples(&self) {
        every(&self.stop, SAMPLE_EVERY, || {
            self.samples.lock().unwrap().push(Sample::of(self.envoy.process()));
            self.server_samples.lock().unwrap().push(Sample::of(self.server.process()));
        });
    }

    /// Says how it went, and fails if anything did.
    fn judge(self) {
        let reloads = self.reloads.load(Ordering::SeqCst);
        self.tally.tell();
        println!("soak: {reloads:>9} reloads");
        println!("soak: {:>9} keys issued, revoked and deleted", self.revoked.load(Ordering::SeqCst));
        println!(
            "soak: {:>9} requests whose password was still being verified",
            self.verifying.load(Ordering::Relaxed)
        );
        println!("soak: {:>9} clients left early", self.left.load(Ordering::Relaxed));
        println!("soak: {:>9} requests reached the application", self.upstream.calls());
        let (samples, server_samples) =
            (self.samples.into_inner().unwrap(), self.server_samples.into_inner().unwrap());
        for (who, samples) in [("Envoy", &samples), ("the server", &server_samples)] {
            let (early, late) = memory(samples);
            let last = samples.last().unwrap();
            println!(
                "soak: {who}: resident memory {early} KiB in the second quarter, {late} KiB in the last; \
                 descriptors {}, threads {}",
                last.descriptors, last.threads
            );
        }
        self.tally.assert_nothing_went_wrong(&self.envoy.log().text());
        let metrics =
            http1::Request::new(self.probes, "GET", "/metrics").header("connection", "close").send();
        let metrics = metrics.text();
        let counted = metrics.lines().find(|line| line.contains("reload") && line.contains("success\""));
        assert!(
            counted.is_some_and(|line| line.ends_with(&format!(" {reloads}"))),
            "{reloads} reloads: {counted:?}"
        );
        let threads = (samples[samples.len() / 4].threads, samples[samples.len() - 1].threads);
        assert!(threads.1 <= threads.0 + 4, "threads grow: {threads:?}");
        judge_memory(&samples);
        judge_memory(&server_samples);
    }
}

/// What a status says, as the code of a Check.
fn verdict(status: u16) -> Result<i32, String> {
    match status {
        200 => Ok(0),
        401 => Ok(16),
        status => Err(format!("HTTP {status}")),
    }
}
