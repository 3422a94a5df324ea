//! A busy life in little time: `make soak MINUTES=60`.
//!
//! A steady load, straight and through Envoy, while the configuration is reloaded every ten seconds, a key is
//! issued and revoked every second, and Envoy is killed and started anew now and then.  Nothing may be decided
//! wrongly, no Check may fail, and memory stays where it is.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::harness::http1::{self, Request};
use crate::harness::{Encoding, Envoy, PATIENCE, Server, Shape, Upstream, grpc};

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

/// The configuration of a generation.  Alice's actor and the policy that admits her change together:
/// a request that saw a part of two generations would be refused.
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
        let channel = runtime.block_on(grpc::channel(server.door())).unwrap();
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
    stream.set_read_timeout(Some(PATIENCE))?;
    let request =
        format!("GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Does something again and again until it is time to stop.
fn every(pause: Duration, stop: &AtomicBool, mut work: impl FnMut()) {
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

/// A figure of `/proc/PID/status`, in KiB or as a number.
fn status_of(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn median(samples: &[u64]) -> u64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

#[test]
#[ignore = "takes minutes, as many as SOAK_MINUTES says: make soak"]
fn nothing_goes_wrong_however_long_it_lasts() {
    let minutes: u64 = std::env::var("SOAK_MINUTES").map_or(2, |minutes| minutes.parse().unwrap());
    let life = Duration::from_secs(60 * minutes);
    let folder = tempfile::TempDir::new().unwrap();
    let store = folder.path().join("keys.db");
    let setup = Server::with(&config(0, &store)).own_listeners().quiet().arg("--log-decisions=none");
    let config_file = setup.write();
    let server = setup.start();
    let admin = server.admin();
    let upstream = Upstream::start();
    let shape = || Shape::plain().encoding(Encoding::Raw);
    let envoy = Mutex::new(Envoy::start(&shape(), &server, &upstream));
    // Raised before an Envoy dies and after the next one lives: a request that saw two numbers has an excuse.
    let envoys = AtomicU64::new(0);
    let address = Mutex::new(envoy.lock().unwrap().address());

    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    let (reloads, revoked) = (AtomicU64::new(0), AtomicU64::new(0));
    let samples = Mutex::new(Vec::new());
    let basic = http1::basic("admin", PASSWORD);
    let create = |name: String| -> Value {
        let body = json!({"name": name, "role": "Viewer"}).to_string().into_bytes();
        let request = Request::new(admin, "POST", "/api/auth/keys").header("authorization", &basic);
        let answer = request.header("content-type", "application/json").body(body).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let lasting = format!("Bearer {}", create("lasting".to_owned())["key"].as_str().unwrap());
    let alice = format!("Bearer {ALICE}");

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Straight::to(&server);
                let questions = [
                    ("a configured token", Some(alice.as_str()), Expected::Passes),
                    ("an API key", Some(lasting.as_str()), Expected::Passes),
                    ("a remembered password", Some(basic.as_str()), Expected::Passes),
                    ("an unknown token", Some("Bearer nobody-token-0123456789"), Expected::IsRefused),
                    ("nothing", None, Expected::IsRefused),
                ];
                let mut turns = questions.iter().cycle();
                every(STRAIGHT_PAUSE, &stop, || {
                    let (what, authorization, expected) = turns.next().unwrap();
                    let begun = Instant::now();
                    let found = client.ask(*authorization);
                    tally.took(begun.elapsed());
                    tally.note(what, *expected, found);
                });
            });
            scope.spawn(|| {
                let mut turns =
                    [(ALICE, Expected::Passes), ("nobody-token", Expected::IsRefused)].iter().cycle();
                every(ENVOY_PAUSE, &stop, || {
                    let (token, expected) = turns.next().unwrap();
                    let before = envoys.load(Ordering::SeqCst);
                    let to = *address.lock().unwrap();
                    let found = through_envoy(to, token);
                    if found.is_err() && (before % 2 == 1 || envoys.load(Ordering::SeqCst) != before) {
                        tally.died_with_envoy.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    let code = match found {
                        Ok(200) => Ok(0),
                        Ok(401) => Ok(16),
                        Ok(status) => Err(format!("HTTP {status}")),
                        Err(error) => Err(error.to_string()),
                    };
                    tally.note("through Envoy", *expected, code);
                });
            });
        }
        scope.spawn(|| {
            let mut client = Straight::to(&server);
            let even = format!("Bearer {EVEN}");
            every(RELOAD_EVERY, &stop, || {
                let generation = reloads.fetch_add(1, Ordering::SeqCst) + 1;
                let next = config_file.with_extension("next");
                std::fs::write(&next, config(generation, &store)).unwrap();
                std::fs::rename(&next, &config_file).unwrap();
                let expected = if generation.is_multiple_of(2) { 0 } else { 16 };
                let deadline = Instant::now() + PATIENCE;
                while client.ask(Some(&even)) != Ok(expected) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let expected = if expected == 0 { Expected::Passes } else { Expected::IsRefused };
                for _ in 0..20 {
                    tally.note("a reloaded token", expected, client.ask(Some(&even)));
                }
            });
        });
        scope.spawn(|| {
            let mut client = Straight::to(&server);
            every(KEY_EVERY, &stop, || {
                let key = create(format!("key-{}", revoked.load(Ordering::SeqCst)));
                let token = format!("Bearer {}", key["key"].as_str().unwrap());
                tally.note("a new key", Expected::Passes, client.ask(Some(&token)));
                let path = format!("/api/auth/keys/{}", key["id"]);
                let revoke =
                    Request::new(admin, "POST", &format!("{path}/revoke")).header("authorization", &basic);
                assert_eq!(revoke.send().status, 200);
                tally.note("a revoked key", Expected::IsRefused, client.ask(Some(&token)));
                let delete = Request::new(admin, "DELETE", &path).header("authorization", &basic);
                assert_eq!(delete.send().status, 200);
                tally.note("a deleted key", Expected::IsRefused, client.ask(Some(&token)));
                revoked.fetch_add(1, Ordering::SeqCst);
            });
        });
        scope.spawn(|| {
            every(NEW_ENVOY_EVERY, &stop, || {
                let mut envoy = envoy.lock().unwrap();
                envoys.fetch_add(1, Ordering::SeqCst);
                // The old one dies in the middle of what it does.
                *envoy = Envoy::start(&shape(), &server, &upstream);
                *address.lock().unwrap() = envoy.address();
                envoys.fetch_add(1, Ordering::SeqCst);
            });
        });
        scope.spawn(|| {
            every(SAMPLE_EVERY, &stop, || {
                let descriptors =
                    std::fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap().count();
                let memory = status_of(server.process(), "VmRSS");
                samples.lock().unwrap().push((
                    memory,
                    descriptors as u64,
                    status_of(server.process(), "Threads"),
                ));
            });
        });
        std::thread::sleep(life);
        stop.store(true, Ordering::SeqCst);
    });

    let samples = samples.into_inner().unwrap();
    let memory: Vec<_> = samples.iter().map(|(memory, ..)| *memory).collect();
    let quarter = memory.len() / 4;
    let (early, late) = (median(&memory[quarter..2 * quarter]), median(&memory[3 * quarter..]));
    let wrong = std::mem::take(&mut *tally.wrong.lock().unwrap());
    let reloads = reloads.into_inner();
    let metrics = server.metrics();
    let reloaded = metrics.lines().find(|line| line.contains("reload") && line.contains("success\""));
    println!("soak: {minutes} minutes");
    for (what, count) in tally.right.lock().unwrap().iter() {
        println!("soak: {count:>9} right answers about {what}");
    }
    println!("soak: {:>9} wrong decisions or failed Checks", wrong.len());
    println!("soak: {reloads:>9} reloads ({})", reloaded.unwrap_or("no metric of them"));
    println!("soak: {:>9} keys issued, revoked and deleted", revoked.into_inner());
    println!(
        "soak: {:>9} new Envoys; requests that died with theirs: {}",
        envoys.into_inner() / 2,
        tally.died_with_envoy.load(Ordering::Relaxed)
    );
    println!("soak: straight Checks: p50 below {} µs, p99 below {} µs", tally.below(0.5), tally.below(0.99));
    println!(
        "soak: resident memory {early} KiB in the second quarter, {late} KiB in the last; descriptors {:?}, threads {:?}",
        samples.last().map(|sample| sample.1),
        samples.last().map(|sample| sample.2)
    );
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", server.log().text());
    assert!(
        reloaded.is_some_and(|line| line.ends_with(&format!(" {reloads}"))),
        "{reloads} reloads: {reloaded:?}"
    );
    assert!(late <= early + early / 10 + 8 * 1024, "memory grows: {memory:?}");
    let (first, last) = (samples[quarter].1, samples[samples.len() - 1].1);
    assert!(last <= first + 20, "descriptors grow from {first} to {last}");
}
