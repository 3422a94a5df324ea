//! What was acknowledged survives a kill, and a store that is away, frozen or out of reach harms no Check.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::harness::http1::Answer;
use crate::harness::issuer::{self, Issuer, ROOT, made};
use crate::harness::load::Load;
use crate::harness::postgres::Postgres;
use crate::harness::relay::Relay;
use crate::harness::{grpc, wait_until};

/// How long the store is away, as the specification's promise has it.
const OUTAGE: Duration = Duration::from_secs(30);

// ---- kill -9 in the middle of writes.

/// What is killed.
#[derive(Clone, Copy)]
enum Victim<'p> {
    Server,
    Postgres(&'p Postgres),
}

/// A kill after so many answers.
struct Kill<'p> {
    victim: Victim<'p>,
    answers: usize,
}

/// So many kills, of one victim after the other.
fn kills<'p>(number: usize, victims: &[Victim<'p>]) -> Vec<Kill<'p>> {
    let answers = |round: usize| 20 + round * 37 % 70;
    (0..number)
        .map(|round| Kill { victim: victims[round % victims.len()], answers: answers(round) })
        .collect()
}

#[test]
fn what_sqlite_acknowledged_survives_a_kill() {
    survive_on_sqlite(4);
}

#[test]
fn what_postgresql_acknowledged_survives_a_kill() {
    let server = Postgres::start();
    let victims = [Victim::Server, Victim::Postgres(&server)];
    survive(&server.url(&server.database()), &kills(6, &victims), || {});
}

#[test]
#[ignore = "takes minutes, as many kills as KILLS says: make kill-store"]
fn what_was_acknowledged_survives_a_thousand_kills() {
    let number: usize = std::env::var("KILLS").map_or(1000, |kills| kills.parse().unwrap());
    let server = Postgres::start();
    let victims = [Victim::Server, Victim::Postgres(&server)];
    survive(&server.url(&server.database()), &kills(number.div_ceil(2), &victims), || {});
    survive_on_sqlite(number / 2);
}

fn survive_on_sqlite(number: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    survive(&format!("sqlite:{}", file.display()), &kills(number, &[Victim::Server]), || {
        // As the crash left it: a copy, so that whoever starts next finds it so, too.
        let copy = tempfile::tempdir().unwrap();
        for name in ["keys.db", "keys.db-wal"] {
            fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
        }
        assert_eq!(integrity(&copy.path().join("keys.db")), "ok");
    });
    assert_eq!(integrity(&file), "ok");
}

#[test]
fn after_a_clean_stop_sqlite_is_one_file_that_holds_the_last_acknowledged_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let mut token = String::new();
    for round in 0..2 {
        let mut issuer = Issuer::start(&format!("sqlite:{}", file.display()));
        for number in 0..20 {
            (_, token) = issuer.create(&format!("key-{round}-{number}"));
        }
        assert!(folder.path().join("keys.db-wal").metadata().unwrap().len() > 0, "nothing is to be closed");
        issuer.server.terminate();
        assert!(issuer.server.wait().success(), "{}", issuer.server.log().text());
        let beside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(beside.collect::<Vec<_>>(), ["keys.db"]);
    }
    // Whoever backs it up copies one file.
    let copy = tempfile::tempdir().unwrap();
    fs::copy(&file, copy.path().join("copy.db")).unwrap();
    let copy = copy.path().join("copy.db");
    assert_eq!(integrity(&copy), "ok");
    let issuer = Issuer::start(&format!("sqlite:{}", copy.display()));
    assert_eq!(issuer.list().len(), 40);
    assert_eq!(issuer.checks().verdict(&token), "", "the last one that was acknowledged");
}

fn integrity(file: &Path) -> String {
    grpc::block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut connection = options.connect().await.unwrap();
        let keys: i64 =
            sqlx::query_scalar("SELECT count(*) FROM api_keys").fetch_one(&mut connection).await.unwrap();
        assert!(keys > 0);
        let result = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        result
    })
}

/// What a client knows of a key of its own.
struct Entry {
    name: String,
    /// `None` while nobody has answered that it was made.
    id: Option<i64>,
    /// The tokens that are to work.
    works: Vec<String>,
    /// The tokens that are dead.
    dead: Vec<String>,
    /// Something was asked for, and no answer came.
    unanswered: bool,
}

/// Several rounds: clients make, rotate and revoke keys at once until the server, or its PostgreSQL, is killed after so
/// many answers; started again, it must know all that it had acknowledged.
fn survive(store: &str, kills: &[Kill<'_>], after_each_kill: impl Fn()) {
    let mut book: Vec<Entry> = Vec::new();
    let (mut acknowledged, mut lost) = (0, 0);
    let mut issuer = Issuer::start(store);
    for (round, kill) in kills.iter().enumerate() {
        let answered = AtomicUsize::new(0);
        let (admin, answered) = (issuer.admin, &answered);
        let written = thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|client| scope.spawn(move || write(admin, &format!("{round}-{client}"), answered)))
                .collect();
            // Not by the clock: in the middle of what the other clients are doing.
            while answered.load(Ordering::SeqCst) < kill.answers {
                assert!(!clients.iter().all(thread::ScopedJoinHandle::is_finished), "all clients failed");
                thread::yield_now();
            }
            match kill.victim {
                Victim::Server => issuer.server.kill(),
                Victim::Postgres(postgres) => postgres.kill(),
            }
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged += answered.load(Ordering::SeqCst);
        lost += written.iter().filter(|entry| entry.unanswered).count();
        let first = book.len();
        book.extend(written);
        after_each_kill();
        match kill.victim {
            Victim::Server => issuer = Issuer::start(store),
            Victim::Postgres(postgres) => {
                postgres.resume();
                wait_until("the server reads it again", || {
                    issuer::get(issuer.admin, "/api/auth/keys?perpage=1&page=1").send().status == 200
                });
            }
        }
        check_book(&issuer, &mut book, first);
    }
    check_book(&Issuer::start(store), &mut book, 0);
    assert!(lost > 0, "no kill hit a request that was under way");
    let (kills, keys) = (kills.len(), book.len());
    eprintln!("killed {kills} times: {keys} keys, {acknowledged} acknowledged writes kept, {lost} in flight");
}

/// Makes keys and changes them, until nobody answers.
fn write(admin: SocketAddr, who: &str, answered: &AtomicUsize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for number in 0.. {
        let name = format!("{who}-{number}");
        entries.push(Entry { name, id: None, works: Vec::new(), dead: Vec::new(), unanswered: true });
        let entry: &mut Entry = entries.last_mut().unwrap();
        if write_one(admin, entry, number, answered).is_none() {
            break;
        }
    }
    entries
}

fn write_one(admin: SocketAddr, entry: &mut Entry, number: usize, answered: &AtomicUsize) -> Option<()> {
    let answer = acknowledged(issuer::create(admin, &entry.name))?;
    answered.fetch_add(1, Ordering::SeqCst);
    let (id, token) = made(&answer);
    entry.id = Some(id);
    entry.works.push(token);
    // Every other key is rotated, half of them with both secrets working for a while.
    if number % 2 == 1 {
        // A day: the last look is long after the first rotation.
        let overlap = if number % 4 == 1 { 86_400 } else { 0 };
        let answer = acknowledged(issuer::rotate(admin, id, overlap))?;
        answered.fetch_add(1, Ordering::SeqCst);
        let (same, token) = made(&answer);
        assert_eq!(same, id);
        if overlap == 0 {
            entry.dead.append(&mut entry.works);
        }
        entry.works.push(token);
    }
    if !number.is_multiple_of(3) {
        acknowledged(issuer::revoke(admin, id))?;
        answered.fetch_add(1, Ordering::SeqCst);
        entry.dead.append(&mut entry.works);
    }
    entry.unanswered = false;
    Some(())
}

/// The answer that it was done; `None` when the server, or its store, was gone.
fn acknowledged(request: issuer::Request) -> Option<Answer> {
    let answer = request.try_send()?;
    assert!([200, 503].contains(&answer.status), "{}", answer.text());
    (answer.status == 200).then_some(answer)
}

/// The server knows exactly what it acknowledged, but for what it was asked for and never answered:
/// that happened or did not, and there is no half of it.  Checks are made of the keys from `first` on.
fn check_book(issuer: &Issuer, book: &mut [Entry], first: usize) {
    let mut checks = issuer.checks();
    let mut listed: BTreeMap<i64, Value> =
        issuer.list().into_iter().map(|key| (key["id"].as_i64().unwrap(), key)).collect();
    for (number, entry) in book.iter_mut().enumerate() {
        let found = match entry.id {
            Some(id) => listed.remove(&id),
            None => {
                let id = listed.iter().find(|(_, key)| key["name"] == *entry.name).map(|(id, _)| *id);
                id.and_then(|id| listed.remove(&id))
            }
        };
        let Some(found) = found else {
            assert!(entry.id.is_none(), "key {} was acknowledged and is gone", entry.name);
            continue;
        };
        assert_whole(&found, &entry.name);
        if entry.unanswered {
            // Whatever became of it: it is a key, and can be revoked.
            let id = found["id"].as_i64().unwrap();
            issuer.revoke(id);
            entry.id = Some(id);
            entry.dead.append(&mut entry.works);
            entry.unanswered = false;
        } else {
            let revoked = entry.works.is_empty();
            assert_eq!(found["isRevoked"] == true, revoked, "{found}");
        }
        if number < first {
            continue;
        }
        for token in &entry.works {
            assert_eq!(checks.verdict(token), "", "key {} was acknowledged", entry.name);
        }
        for token in &entry.dead {
            let verdict = checks.verdict(token);
            assert!(verdict.starts_with("401 "), "a dead secret of {}: {verdict:?}", entry.name);
        }
    }
    assert!(listed.is_empty(), "keys that nobody asked for: {listed:?}");
}

fn assert_whole(key: &Value, name: &str) {
    assert_eq!((&key["name"], &key["role"]), (&Value::from(name), &Value::from("Viewer")), "{key}");
    let created: jiff::Timestamp = key["created"].as_str().unwrap().parse().unwrap();
    assert!(created.as_second() > 1_700_000_000, "{key}");
}

// ---- A store that is away.

/// A server whose PostgreSQL will fail it, and keys that must not notice.
struct Trial {
    issuer: Issuer,
    tokens: Vec<String>,
    /// A key that psql revokes while the server cannot see it.
    doomed: (i64, String),
}

impl Trial {
    fn start(store: &str) -> Self {
        let issuer = Issuer::start(store);
        let tokens = ["a", "b", "c"].map(|name| issuer.create(name).1).to_vec();
        let dead = issuer.create("dead");
        issuer.revoke(dead.0);
        let doomed = issuer.create("doomed");
        let tokens = tokens.into_iter().chain([dead.1]).collect();
        Self { issuer, tokens, doomed }
    }

    fn load(&self) -> Load {
        let [a, b, c, dead] = &self.tokens[..] else { unreachable!() };
        let questions = [
            (a.as_str(), ""),
            (b, ""),
            (c, ""),
            (ROOT, ""),
            (dead, "401 Revoked API key"),
            ("eat_unknown", "401 Invalid API key"),
        ];
        Load::on(&self.issuer.server, &questions)
    }

    /// While the store cannot answer: 503 to whoever manages keys, and all else goes on.
    #[track_caller]
    fn assert_only_managing_fails(&self) {
        let admin = self.issuer.admin;
        let start = Instant::now();
        let answers = thread::scope(|scope| {
            let responses = [
                issuer::create(admin, "meanwhile"),
                issuer::rotate(admin, self.doomed.0, 0),
                issuer::revoke(admin, self.doomed.0),
                issuer::get(admin, "/api/auth/keys"),
                issuer::get(admin, &format!("/api/auth/keys/{}", self.doomed.0)),
            ];
            let responses = responses.map(|request| scope.spawn(move || (request.send(), start.elapsed())));
            responses.map(|answer| answer.join().unwrap())
        });
        for (answer, took) in &answers {
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.json()["message"], "Keys are unavailable", "after {took:?}");
        }
        let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
        eprintln!("503 from the admin API within {slowest:.1?}");
        assert_eq!(self.issuer.server.probe("/ready").status, 200);
        let mut checks = self.issuer.checks();
        assert_eq!(checks.verdict(&self.doomed.1), "");
    }

    fn metric(&self, name: &str) -> f64 {
        let metrics = self.issuer.server.metrics();
        let line = metrics.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.strip_prefix("_total").unwrap_or(rest).strip_prefix(' ')
        });
        line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().unwrap()
    }

    fn read_errors(&self) -> f64 {
        self.metric("envoy_auth_tokens_keys_store_errors_total{operation=\"read\"}")
    }

    fn lag(&self) -> f64 {
        self.metric("envoy_auth_tokens_keys_store_lag_seconds")
    }

    /// The store is back: keys are made again, and what psql did meanwhile counts.
    fn assert_all_is_back(&self) {
        let start = Instant::now();
        let mut checks = self.issuer.checks();
        wait_until("the revocation arrives", || checks.verdict(&self.doomed.1) == "401 Revoked API key");
        let arrived = start.elapsed();
        wait_until("keys can be made again", || {
            issuer::create(self.issuer.admin, "after").send().status != 503
        });
        let writable = start.elapsed();
        eprintln!(
            "the revocation made meanwhile arrived after {arrived:.1?}, writes again after {writable:.1?}"
        );
        wait_until("the lag is gone", || self.lag() < 2.0);
        let (_, token) = self.issuer.create("afterwards");
        assert_eq!(checks.verdict(&token), "");
    }
}

fn revoke_behind_our_back(server: &Postgres, database: &str, id: i64) {
    server.psql(
        database,
        &format!("UPDATE api_keys SET revoked_at = now(), revoked_by = 'psql' WHERE id = {id}"),
    );
}

#[test]
fn thirty_seconds_without_postgresql_fail_no_check() {
    let server = Postgres::start();
    let database = server.database();
    let trial = Trial::start(&server.url(&database));
    let load = trial.load();
    load.go_on_for(1000);
    let before = load.so_far();

    server.stop();
    let outage = Instant::now();
    wait_until("the outage is noticed", || trial.read_errors() > 0.0);
    trial.assert_only_managing_fails();
    while outage.elapsed() < OUTAGE {
        assert_eq!(trial.issuer.server.probe("/ready").status, 200);
        load.go_on_for(100);
        thread::sleep(Duration::from_millis(500));
    }
    assert!(trial.lag() > 20.0, "{}", trial.lag());
    trial.assert_only_managing_fails();
    let during = load.so_far();

    // psql gets in before our server does.
    server.resume_apart();
    revoke_behind_our_back(&server, &database, trial.doomed.0);
    server.stop();
    server.resume();
    trial.assert_all_is_back();
    load.go_on_for(1000);
    eprintln!("PostgreSQL away for {OUTAGE:?}: before {before}; during {during}; after {}", load.so_far());
    load.end();
}

#[test]
fn a_postgresql_that_hangs_holds_up_no_check() {
    let server = Postgres::start();
    let database = server.database();
    let trial = Trial::start(&server.url(&database));
    let load = trial.load();
    load.go_on_for(500);
    let before = load.so_far();

    server.freeze();
    trial.assert_only_managing_fails();
    load.go_on_for(500);
    wait_until("the hang is noticed", || trial.read_errors() > 0.0);
    wait_until("the lag grows", || trial.lag() > 3.0);
    trial.assert_only_managing_fails();
    let during = load.so_far();

    server.thaw();
    revoke_behind_our_back(&server, &database, trial.doomed.0);
    trial.assert_all_is_back();
    load.go_on_for(500);
    eprintln!("PostgreSQL frozen: before {before}; during {during}; after {}", load.so_far());
    load.end();
}

#[test]
fn connections_that_went_silent_are_replaced() {
    let server = Postgres::shared();
    let database = server.database();
    let relay = Relay::to(server.address());
    let trial = Trial::start(&server.url_at(relay.address(), &database));
    let listening = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        server.psql(&database, sql)
    };
    wait_until("the server listens", || listening() == "1");
    let load = trial.load();
    load.go_on_for(200);
    let before = load.so_far();

    // As when a firewall forgets: nobody closes anything, and the old connections never speak again.
    relay.fall_silent();
    revoke_behind_our_back(&server, &database, trial.doomed.0);
    trial.assert_only_managing_fails();
    let during = load.so_far();

    relay.carry_new_ones();
    trial.assert_all_is_back();
    wait_until("the server listens anew", || listening() == "2");
    load.go_on_for(200);
    eprintln!("connections silent: before {before}; during {during}; after {}", load.so_far());
    load.end();
}

#[test]
fn who_vanishes_in_the_middle_of_a_write_holds_up_nobody() {
    let server = Postgres::shared();
    let database = server.database();
    let relay = Relay::to(server.address());
    let vanishing = Issuer::start(&server.url_at(relay.address(), &database));
    let other = Issuer::start(&server.url(&database));
    // By then the lock of all changes is taken.
    relay.fall_silent_after(b"SELECT CAST(1 AS BIGINT) FROM api_keys");
    let holders = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database \
                   WHERE datname = current_database() AND relation = 'api_revision'::regclass \
                   AND mode = 'RowShareLock'";
    thread::scope(|scope| {
        let responses = scope.spawn(|| issuer::create(vanishing.admin, "half").send().status);
        wait_until("the line is cut", || relay.is_silent());
        // The other replica writes that it is there, for a moment and past whoever holds the lock.
        wait_until("it holds the lock alone", || server.psql(&database, holders) == "1");
        assert_eq!(responses.join().unwrap(), 503);
    });

    let start = Instant::now();
    let mut tries = 0;
    wait_until("another replica can write", || {
        tries += 1;
        issuer::create(other.admin, &format!("whole-{tries}")).send().status == 200
    });
    eprintln!("the lock of a vanished replica was free again after {:.1?}", start.elapsed());
    assert!(other.list().iter().all(|key| key["name"] != "half"));
}
