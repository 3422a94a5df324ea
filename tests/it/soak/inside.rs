//! The same life with the module inside Envoy: `make soak MINUTES=60 FORM=module`.
//!
//! One Envoy with four workers lives through all of it, so that memory which it loses shows.  A server beside it writes
//! the key store, which the module reads; both reload the same file.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{
    ALICE, Base, Expected, KEY_EVERY, RELOAD_EVERY, SAMPLE_EVERY, Sample, bearer, code_of, create_key, every,
    judge_memory, judge_reloads, manage, reloaded, tell_memory,
};
use crate::harness::http1::{self, Connection};
use crate::harness::{Envoy, Shape, wait_until};

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

/// An Envoy with the module, beside what both forms need, and all who keep them busy.
struct World {
    base: Base,
    envoy: Envoy,
    /// Where the module serves its metrics.
    probes: SocketAddr,
    /// Requests that came while a password was being verified for longer than a request waits.
    verifying: AtomicU64,
    left: AtomicU64,
    /// Of Envoy.
    samples: Mutex<Vec<Sample>>,
}

impl World {
    fn begin() -> Self {
        let base = Base::begin();
        // Without an access log, which this process would keep.
        let shape = Shape::plain().module(json!({ "probes": "127.0.0.1:0" })).workers(WORKERS);
        let shape = shape.manager(json!({ "access_log": [] }));
        let envoy = Envoy::start(&shape, &base.server, &base.upstream);
        let probes = envoy.log().wait_for("where the module's probes are", |line| {
            let (_, address) = line.split_once("listening listener=\"probes\" address=")?;
            address.split_whitespace().next()?.parse().ok()
        });
        let world = Self {
            base,
            envoy,
            probes,
            verifying: AtomicU64::new(0),
            left: AtomicU64::new(0),
            samples: Mutex::default(),
        };
        let token = bearer(&world.base.lasting);
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
            scope.spawn(|| self.base.reload(reload_every, |authorization| self.ask(authorization)));
            scope.spawn(|| self.issue_and_revoke_keys());
            scope.spawn(|| self.take_samples());
            std::thread::sleep(life);
            self.base.stop.store(true, Ordering::SeqCst);
        });
    }

    /// One request with this `Authorization` on a connection of its own.
    fn ask(&self, authorization: Option<&str>) -> Result<i32, String> {
        let request = http1::Request::new(self.envoy.address(), "GET", "/x").header("connection", "close");
        let request = match authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        code_of(request.try_send().ok_or("no answer")?.status)
    }

    /// A client with every kind of credential in turn, with and without a body.
    fn ask_on_a_kept_connection(&self) {
        let mut connection = Connection::to(self.envoy.address());
        let questions = self.base.questions();
        let bodies = [("GET", "", ""), ("POST", "content-length: 5\r\n", "hello")];
        let turns = bodies.iter().flat_map(|body| questions.iter().map(move |question| (body, question)));
        let mut turns = turns.cycle();
        every(&self.base.stop, KEPT_PAUSE, || {
            let ((method, header, body), (what, authorization, expected)) = turns.next().unwrap();
            let credential =
                authorization.as_ref().map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
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
            self.base.tally.note(what, *expected, code_of(answer.status));
        });
    }

    fn ask_on_new_connections(&self) {
        let alice = format!("Bearer {ALICE}");
        let questions = [(alice.as_str(), Expected::Passes), ("Bearer nobody-token", Expected::IsRefused)];
        let mut turns = questions.iter().cycle();
        every(&self.base.stop, NEW_PAUSE, || {
            let (token, expected) = turns.next().unwrap();
            self.base.tally.note("a connection of its own", *expected, self.ask(Some(*token)));
        });
    }

    /// A client that is gone before its password is verified.
    fn leave_early(&self) {
        every(&self.base.stop, LEAVER_EVERY, || {
            let number = self.left.fetch_add(1, Ordering::Relaxed);
            let wrong = http1::basic("nobody", &format!("a-wrong-password-{number}"));
            let head = format!(
                "POST / HTTP/1.1\r\nhost: app.example\r\nauthorization: {wrong}\r\ncontent-length: 9\r\n\r\nab"
            );
            let mut connection = TcpStream::connect(self.envoy.address()).unwrap();
            connection.write_all(head.as_bytes()).unwrap();
        });
    }

    /// An administrator who gives a key and takes it back at the server: each counts inside Envoy soon after, and for ever.
    fn issue_and_revoke_keys(&self) {
        every(&self.base.stop, KEY_EVERY, || {
            let key =
                create_key(self.base.admin, &format!("key-{}", self.base.revoked.load(Ordering::SeqCst)));
            let token = bearer(&key);
            let path = format!("/api/auth/keys/{}", key["id"]);
            wait_until("a new key counts", || self.ask(Some(&token)) == Ok(0));
            self.base.tally.note("a new key", Expected::Passes, self.ask(Some(&token)));
            assert_eq!(manage(self.base.admin, "POST", &format!("{path}/revoke")).send().status, 200);
            wait_until("a revoked key is dead", || self.ask(Some(&token)) == Ok(16));
            for _ in 0..TRIES_OF_THE_DEAD {
                self.base.tally.note("a revoked key", Expected::IsRefused, self.ask(Some(&token)));
            }
            assert_eq!(manage(self.base.admin, "DELETE", &path).send().status, 200);
            self.base.tally.note("a deleted key", Expected::IsRefused, self.ask(Some(&token)));
            self.base.revoked.fetch_add(1, Ordering::SeqCst);
        });
    }

    fn take_samples(&self) {
        every(&self.base.stop, SAMPLE_EVERY, || {
            self.samples.lock().unwrap().push(Sample::of(self.envoy.process()));
            self.base.samples.lock().unwrap().push(Sample::of(self.base.server.process()));
        });
    }

    /// Says how it went, and fails if anything did.
    fn judge(self) {
        let reloads = self.base.reloads.load(Ordering::SeqCst);
        self.base.tally.tell();
        println!("soak: {reloads:>9} reloads");
        println!("soak: {:>9} keys issued, revoked and deleted", self.base.revoked.load(Ordering::SeqCst));
        println!(
            "soak: {:>9} requests whose password was still being verified",
            self.verifying.load(Ordering::Relaxed)
        );
        println!("soak: {:>9} clients left early", self.left.load(Ordering::Relaxed));
        println!("soak: {:>9} requests reached the application", self.base.upstream.calls());
        let (samples, server_samples) =
            (self.samples.into_inner().unwrap(), self.base.samples.into_inner().unwrap());
        tell_memory("Envoy", &samples);
        tell_memory("the server", &server_samples);
        self.base.tally.assert_nothing_went_wrong(&self.envoy.log().text());
        let metrics =
            http1::Request::new(self.probes, "GET", "/metrics").header("connection", "close").send();
        judge_reloads(reloads, reloaded(&metrics.text()).as_deref());
        let threads = (samples[samples.len() / 4].threads, samples[samples.len() - 1].threads);
        assert!(threads.1 <= threads.0 + 4, "threads grow: {threads:?}");
        judge_memory(&samples);
        judge_memory(&server_samples);
    }
}
