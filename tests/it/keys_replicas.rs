//! Two replicas on one PostgreSQL, under load: a revocation on one is a revocation on the other.

use std::time::{Duration, Instant};

use crate::harness::MAX_WAIT;
use crate::harness::issuer::{Issuer, ROOT};
use crate::harness::load::Load;
use crate::harness::postgres::Postgres;
use crate::harness::wait_until;

const REVOCATIONS: usize = 100;

#[test]
fn what_one_replica_revokes_the_other_refuses() {
    let postgres = Postgres::shared();
    let store = postgres.url(&postgres.database());
    let (here, there) = (Issuer::start(&store), Issuer::start(&store));
    let keys: Vec<_> = (0..REVOCATIONS).map(|number| here.create(&format!("key-{number}"))).collect();
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
        "{REVOCATIONS} revocations reached the other replica, median {median:.1?}, worst {worst:.1?}; \
         its load meanwhile: {}",
        load.so_far()
    );
    load.end();
}
