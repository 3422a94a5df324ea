//! A busy life in little time: `make soak MINUTES=60`.
//!
//! A steady load, straight and through Envoy, while the configuration is reloaded every ten seconds, a key is
//! issued and revoked every second, and Envoy is killed and started anew now and then.  Nothing may be decided
//! wrongly, no Check may fail, and memory stays where it is.

mod inside;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::harness::http1::{self, Request};
use crate::harness::{Encoding, Envoy, MAX_WAIT, Server, Shape, Upstream, grpc, wait_until};

const ALICE: &str = "alice-token-0123456789";
/// A token of every other configuration.
const EVEN: &str = "even-token-01234567890";
const PASSWORD: &str = "a-long-password";

const RELOAD_EVERY: Duration = Duration::from_secs(10);
const KEY_EVERY: Duration = Duration::from_secs(1);
const NEW_ENVOY_EVERY: Duration = Duration::from_secs(45);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Between two Checks of one straight client, and between two requests of one client of Envoy's.
const STRAIGHT_PAUSE: Duration = Duration::from_millis(4);
const ENVOY_PAUSE: Duration = Duration::from_millis(10);

#[test]
#[ignore = "takes minutes, as many as SOAK_MINUTES says: make soak"]
fn nothing_goes_wrong_however_long_it_lasts() {
    let minutes: u64 = std::env::var("SOAK_MINUTES").map_or(2, |minutes| minutes.parse().unwrap());
    let world = World::begin();
    world.live(Duration::from_secs(60 * minutes));
    let life = world.end();
    println!("soak: {minutes} minutes");
    life.tell();
    life.judge();
}

/// What a life needs in both forms: a server that reloads its file and issues keys, an application, and how it goes.
struct Base {
    upstream: Upstream,
    server: Server,
    admin: SocketAddr,
    config_file: PathBuf,
    store: PathBuf,
    /// A key that nobody revokes.
    lasting: Value,
    stop: AtomicBool,
    tally: Tally,
    reloads: AtomicU64,
    revoked: AtomicU64,
    /// Of the server.
    samples: Mutex<Vec<Sample>>,
    _folder: TempDir,
}

impl Base {
    fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("keys.db");
        let setup = Server::with(&config(0, &store)).own_listeners().quiet().arg("--log-decisions=none");
        let config_file = setup.write();
        let server = setup.start();
        let admin = server.admin();
        Self {
            upstream: Upstream::start(),
            server,
            admin,
            config_file,
            store,
            lasting: create_key(admin, "lasting"),
            stop: AtomicBool::new(false),
            tally: Tally::default(),
            reloads: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            samples: Mutex::default(),
            _folder: folder,
        }
    }

    /// Every kind of credential: what it is, the `Authorization`, and how it is answered.
    fn questions(&self) -> [(&'static str, Option<String>, Expected); 5] {
        [
            ("a configured token", Some(format!("Bearer {ALICE}")), Expected::Passes),
            ("an API key", Some(bearer(&self.lasting)), Expected::Passes),
            ("a password", Some(http1::basic("admin", PASSWORD)), Expected::Passes),
            ("an unknown token", Some("Bearer nobody-token-0123456789".to_owned()), Expected::IsRefused),
            ("nothing", None, Expected::IsRefused),
        ]
    }

    /// An operator who changes the configuration, and looks whether it is in force.
    fn reload(&self, pause: Duration, mut ask: impl FnMut(Option<&str>) -> Result<i32, String>) {
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
            wait_until("the new configuration is in force", || ask(Some(&even)) == Ok(code));
            for _ in 0..20 {
                self.tally.note("a reloaded token", expected, ask(Some(&even)));
            }
        });
    }
}

/// A server, an Envoy before it and an application behind that, and all who keep them busy.
struct World {
    base: Base,
    envoy: Mutex<Envoy>,
    /// Where the present Envoy listens.
    address: Mutex<SocketAddr>,
    /// Raised before an Envoy dies and after the next one lives: a request that saw two numbers has an excuse.
    envoys: AtomicU64,
}

impl World {
    fn begin() -> Self {
        let base = Base::begin();
        let envoy = start_envoy(&base.server, &base.upstream);
        Self {
            base,
            address: Mutex::new(envoy.address()),
            envoy: Mutex::new(envoy),
            envoys: AtomicU64::new(0),
        }
    }

    /// Everybody does what they do, for so long.
    fn live(&self, life: Duration) {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| self.ask_straight());
                scope.spawn(|| self.ask_through_envoy());
            }
            scope.spawn(|| {
                let mut client = Straight::to(&self.base.server);
                self.base.reload(RELOAD_EVERY, |authorization| client.ask(authorization));
            });
            scope.spawn(|| self.issue_and_revoke_keys());
            scope.spawn(|| self.replace_envoy());
            scope.spawn(|| self.take_samples());
            std::thread::sleep(life);
            self.base.stop.store(true, Ordering::SeqCst);
        });
    }

    /// A client that asks Check itself, with every kind of credential in turn.
    fn ask_straight(&self) {
        let mut client = Straight::to(&self.base.server);
        let questions = self.base.questions();
        let mut turns = questions.iter().cycle();
        every(&self.base.stop, STRAIGHT_PAUSE, || {
            let (what, authorization, expected) = turns.next().unwrap();
            let begun = Instant::now();
            let found = client.ask(authorization.as_deref());
            self.base.tally.took(begun.elapsed());
            self.base.tally.note(what, *expected, found);
        });
    }

    /// A client of the application, who may meet an Envoy that is just dying.
    fn ask_through_envoy(&self) {
        let mut turns = [(ALICE, Expected::Passes), ("nobody-token", Expected::IsRefused)].iter().cycle();
        every(&self.base.stop, ENVOY_PAUSE, || {
            let (token, expected) = turns.next().unwrap();
            let before = self.envoys.load(Ordering::SeqCst);
            let to = *self.address.lock().unwrap();
            let found = through_envoy(to, token);
            if found.is_err() && (before % 2 == 1 || self.envoys.load(Ordering::SeqCst) != before) {
                self.base.tally.died_with_envoy.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let code = found.map_err(|error| error.to_string()).and_then(code_of);
            self.base.tally.note("through Envoy", *expected, code);
        });
    }

    /// An administrator who gives a key and takes it back: each counts at once.
    fn issue_and_revoke_keys(&self) {
        let mut client = Straight::to(&self.base.server);
        every(&self.base.stop, KEY_EVERY, || {
            let key =
                create_key(self.base.admin, &format!("key-{}", self.base.revoked.load(Ordering::SeqCst)));
            let token = bearer(&key);
            let mut note = |what, expected| self.base.tally.note(what, expected, client.ask(Some(&token)));
            let path = format!("/api/auth/keys/{}", key["id"]);
            note("a new key", Expected::Passes);
            assert_eq!(manage(self.base.admin, "POST", &format!("{path}/revoke")).send().status, 200);
            note("a revoked key", Expected::IsRefused);
            assert_eq!(manage(self.base.admin, "DELETE", &path).send().status, 200);
            note("a deleted key", Expected::IsRefused);
            self.base.revoked.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// Kills an Envoy in the middle of what it does, once the next one is there.
    fn replace_envoy(&self) {
        every(&self.base.stop, NEW_ENVOY_EVERY, || {
            let mut envoy = self.envoy.lock().unwrap();
            self.envoys.fetch_add(1, Ordering::SeqCst);
            *envoy = start_envoy(&self.base.server, &self.base.upstream);
            *self.address.lock().unwrap() = envoy.address();
            self.envoys.fetch_add(1, Ordering::SeqCst);
        });
    }

    fn take_samples(&self) {
        every(&self.base.stop, SAMPLE_EVERY, || {
            self.base.samples.lock().unwrap().push(Sample::of(self.base.server.process()));
        });
    }

    /// What is left of it: figures.
    fn end(self) -> Life {
        Life {
            log: self.base.server.log().text(),
            reloaded: reloaded(&self.base.server.metrics()),
            reloads: self.base.reloads.into_inner(),
            revoked: self.base.revoked.into_inner(),
            new_envoys: self.envoys.into_inner() / 2,
            tally: self.base.tally,
            samples: self.base.samples.into_inner().unwrap(),
        }
    }
}

/// Does something again and again until it is time to stop.
fn every(stop: &AtomicBool, pause: Duration, mut work: impl FnMut()) {
    let mut next = Instant::now() + pause;
    while !stop.load(Ordering::SeqCst) {
        let now = Instant::now();
        if now < next {
            std::thread::sleep((next - now).min(Duration::from_millis(100)));
            continue;
        }
        next = now + pause;
        work();
    }
}

/// A life that is over.
struct Life {
    tally: Tally,
    /// What the server counted, as its metrics have it.
    reloaded: Option<String>,
    reloads: u64,
    revoked: u64,
    new_envoys: u64,
    samples: Vec<Sample>,
    log: String,
}

impl Life {
    fn tell(&self) {
        let Self { tally, reloads, revoked, new_envoys, .. } = self;
        tally.tell();
        let counted = self.reloaded.as_deref().unwrap_or("no metric of them");
        println!("soak: {reloads:>9} reloads ({counted})");
        println!("soak: {revoked:>9} keys issued, revoked and deleted");
        let died = tally.died_with_envoy.load(Ordering::Relaxed);
        println!("soak: {new_envoys:>9} new Envoys; requests that died with theirs: {died}");
        let (half, most) = (tally.below(0.5), tally.below(0.99));
        println!("soak: straight Checks: p50 below {half} µs, p99 below {most} µs");
        tell_memory("the server", &self.samples);
    }

    fn judge(&self) {
        self.tally.assert_nothing_went_wrong(&self.log);
        judge_reloads(self.reloads, self.reloaded.as_deref());
        judge_memory(&self.samples);
    }
}

/// What a status of HTTP says, as the code of a Check.
fn code_of(status: u16) -> Result<i32, String> {
    match status {
        200 => Ok(0),
        401 => Ok(16),
        status => Err(format!("HTTP {status}")),
    }
}

/// The line of the metrics that counts the reloads that succeeded.
fn reloaded(metrics: &str) -> Option<String> {
    let line = metrics.lines().find(|line| line.contains("reload") && line.contains("success\""));
    line.map(str::to_owned)
}

/// Holds that so many reloads succeeded, by the line of the metrics that counts them.
fn judge_reloads(reloads: u64, counted: Option<&str>) {
    let all = format!(" {reloads}");
    assert!(counted.is_some_and(|line| line.ends_with(&all)), "{reloads} reloads: {counted:?}");
}

fn tell_memory(process: &str, samples: &[Sample]) {
    let (early, late) = memory(samples);
    let last = samples.last().unwrap();
    println!(
        "soak: {process}: resident memory {early} KiB in the second quarter, {late} KiB in the last; \
         descriptors {}, threads {}",
        last.descriptors, last.threads
    );
}

/// Holds that neither memory nor descriptors grow.
fn judge_memory(samples: &[Sample]) {
    let (early, late) = memory(samples);
    assert!(late <= early + early / 10 + 8 * 1024, "memory grows: {samples:?}");
    let (first, last) = (samples[samples.len() / 4].descriptors, samples[samples.len() - 1].descriptors);
    assert!(last <= first + 20, "descriptors grow from {first} to {last}");
}

/// The median in the second quarter, when everything has warmed up, and in the last one, in KiB.
fn memory(samples: &[Sample]) -> (u64, u64) {
    let memory: Vec<_> = samples.iter().map(|sample| sample.memory).collect();
    let quarter = memory.len() / 4;
    (median(&memory[quarter..2 * quarter]), median(&memory[3 * quarter..]))
}

/// What a process takes at one moment.
#[derive(Debug)]
struct Sample {
    /// In KiB.
    memory: u64,
    descriptors: u64,
    threads: u64,
}

impl Sample {
    fn of(process: u32) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
        Self {
            memory: status_of(process, "VmRSS"),
            descriptors: descriptors as u64,
            threads: status_of(process, "Threads"),
        }
    }
}

/// A figure of `/proc/PID/status`, in KiB or as a number.
pub(crate) fn status_of(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn median(samples: &[u64]) -> u64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// The configuration of a generation.  Alice's actor and the policy that admits her change together:
/// a request that saw a part of two generations would be denied.
fn config(generation: u64, store: &Path) -> String {
    let others = (0..1000).map(|number| {
        format!("- {{token: other-token-{number:010}-{generation}, actor: {{id: other-{number}}}}}\n")
    });
    let even = format!("- {{token: {EVEN}, actor: {{id: even, generation: {generation}}}}}\n");
    format!(
        "ext_authz: {{listen: \"127.0.0.1:0\"}}
probes: {{listen: \"127.0.0.1:0\"}}
admin: {{listen: \"127.0.0.1:0\"}}
keys: {{store: \"sqlite:{store}\", actor_members: [generation]}}
users: [{{username: admin, password: {PASSWORD}, actor: {{id: admin, role: Admin, generation: {generation}}}}}]
policies: {{now: {{allow: {{generation: {generation}, role: [Viewer]}}}}}}
routes: [{{path_prefix: /, policy: now}}]
default: {{allow: false}}
tokens:
- {{token: {ALICE}, actor: {{id: alice, generation: {generation}}}}}
{even}{others}",
        store = store.display(),
        even = if generation.is_multiple_of(2) { even } else { String::new() },
        others = others.collect::<String>(),
    )
}

/// What a Check is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Passes,
    IsRefused,
}

/// How it went so far.
#[derive(Default)]
struct Tally {
    /// Checks that were answered as expected, by what was asked.
    right: Mutex<BTreeMap<&'static str, u64>>,
    /// What went wrong, told in full: there must be nothing.
    wrong: Mutex<Vec<String>>,
    /// Microseconds of a straight Check, in powers of two.
    latency: [AtomicU64; 32],
    /// Requests that died with the Envoy that had them.
    died_with_envoy: AtomicU64,
}

impl Tally {
    fn note(&self, what: &'static str, expected: Expected, found: Result<i32, String>) {
        let as_expected = match (&found, expected) {
            (Ok(0), Expected::Passes) => true,
            (Ok(code), Expected::IsRefused) => *code != 0,
            (Ok(_), Expected::Passes) | (Err(_), _) => false,
        };
        if as_expected {
            *self.right.lock().unwrap().entry(what).or_default() += 1;
        } else {
            self.wrong.lock().unwrap().push(format!("{what}: expected {expected:?}, found {found:?}"));
        }
    }

    fn tell(&self) {
        for (what, count) in self.right.lock().unwrap().iter() {
            println!("soak: {count:>9} right answers about {what}");
        }
        println!("soak: {:>9} wrong decisions or failed Checks", self.wrong.lock().unwrap().len());
    }

    /// `log` is shown beside what went wrong.
    fn assert_nothing_went_wrong(&self, log: &str) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}\n{log}");
    }

    fn took(&self, elapsed: Duration) {
        let bucket = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1).ilog2().min(31);
        self.latency[bucket as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The power of two, in microseconds, below which this share of the straight Checks stayed.
    fn below(&self, share: f64) -> u64 {
        let counts = self.latency.each_ref().map(|count| count.load(Ordering::Relaxed));
        let wanted = counts.iter().sum::<u64>() as f64 * share;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return 2 << bucket;
            }
        }
        u64::MAX
    }
}

/// A client on a connection that it keeps.
struct Straight {
    runtime: tokio::runtime::Runtime,
    client: AuthorizationClient<Channel>,
}

impl Straight {
    fn to(server: &Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(grpc::channel(server.listen_address())).unwrap();
        Self { runtime, client: AuthorizationClient::new(channel) }
    }

    fn ask(&mut self, authorization: Option<&str>) -> Result<i32, String> {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let request: CheckRequest = grpc::request("GET", "app.example", "/", &headers);
        let answer = self.runtime.block_on(self.client.check(request));
        answer.map(|answer| grpc::code(answer.get_ref())).map_err(|status| status.to_string())
    }
}

/// One request with a connection of its own; an error is that Envoy is gone.
fn through_envoy(address: SocketAddr, token: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(MAX_WAIT))?;
    let request =
        format!("GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn start_envoy(server: &Server, upstream: &Upstream) -> Envoy {
    Envoy::start(&Shape::plain().encoding(Encoding::Raw), server, upstream)
}

/// A request of the administrator.
fn manage(admin: SocketAddr, method: &str, path: &str) -> Request {
    Request::new(admin, method, path).header("authorization", http1::basic("admin", PASSWORD))
}

fn create_key(admin: SocketAddr, name: &str) -> Value {
    let body = json!({"name": name, "role": "Viewer"}).to_string().into_bytes();
    let request = manage(admin, "POST", "/api/auth/keys").header("content-type", "application/json");
    let answer = request.body(body).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What a request with this key carries.
fn bearer(key: &Value) -> String {
    format!("Bearer {}", key["key"].as_str().unwrap())
}
