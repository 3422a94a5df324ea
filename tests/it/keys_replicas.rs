//! Two replicas, under load: a revocation on one is a revocation on the other.

use std::time::{Duration, Instant};

use crate::harness::MAX_WAIT;
use crate::harness::issuer::{Issuer, ROOT, config};
use crate::harness::load::Load;
use crate::harness::pgbouncer::{PgBouncer, Pooling};
use crate::harness::postgres::Postgres;
use crate::harness::server::Server;
use crate::harness::wait_until;

/// Where notifications arrive.
const REVOCATIONS: usize = 100;
/// Where changes are found twice a second.
const POLLED_REVOCATIONS: usize = 30;

#[test]
fn what_one_replica_revokes_the_other_refuses() {
    let postgres = Postgres::shared();
    let store = postgres.url(&postgres.database());
    revoke("on one PostgreSQL", &Issuer::start(&store), &Issuer::start(&store), REVOCATIONS);
}

#[test]
fn what_one_replica_revokes_another_behind_pgbouncer_refuses() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let bouncer = PgBouncer::start(&postgres, Pooling::Transaction);
    let store = bouncer.url(&database);
    revoke("behind PgBouncer", &Issuer::start(&store), &Issuer::start(&store), POLLED_REVOCATIONS);
}

#[test]
fn what_one_replica_revokes_another_on_a_standby_refuses() {
    let primary = Postgres::start();
    let database = primary.database();
    let here = Issuer::start(&primary.url(&database));
    let standby = primary.standby();
    let read_only = config(&standby.url(&database)).replacen("\"}", "\", read_only: true}", 1);
    let there = Issuer::of(Server::with(&read_only).start());
    revoke("on a standby", &here, &there, POLLED_REVOCATIONS);
}

/// Revokes so many keys here, and waits until each is dead there.
fn revoke(place: &str, here: &Issuer, there: &Issuer, revocations: usize) {
    let keys: Vec<_> = (0..revocations).map(|number| here.create(&format!("key-{number}"))).collect();
    let (_, kept) = here.create("kept");
    let mut checks = there.checks();
    for token in keys.iter().map(|(_, token)| token).chain([&kept]) {
        wait_until("the other knows the key", || checks.verdict(token).is_empty());
    }

    let load = Load::on(&there.server, &[(&kept, ""), (ROOT, ""), ("eat_unknown", "401 Invalid API key")]);
    let mut times: Vec<Duration> = Vec::new();
    for (id, token) in &keys {
        here.revoke(*id);
        let acknowledged = Instant::now();
        loop {
            match checks.verdict(token).as_str() {
                "" => assert!(acknowledged.elapsed() < MAX_WAIT, "key {id} was revoked and still passes"),
                "401 Revoked API key" => break,
                other => panic!("{other}"),
            }
        }
        times.push(acknowledged.elapsed());
    }
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{revocations} revocations reached the other replica {place}, median {median:.1?}, worst {worst:.1?}; \
         its load meanwhile: {}",
        load.so_far()
    );
    load.end();
}
