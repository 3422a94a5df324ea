//! How long the audit in the store is kept.

use envoy_auth_tokens::keys::store::ForgottenRows;

use crate::harness::issuer::Issuer;
use crate::harness::postgres::{Postgres, Rights};
use crate::harness::wait_until;
use crate::keys_postgres::migrate;
use crate::keys_store::{Database, Time, on_both_stores, soon};

on_both_stores! {
    rows_of_the_audit_go_after_400_days_and_beyond_the_newest_million
}

/// Inserts a row of this number and this age.
async fn insert(db: &Database, id: i64, days: i64) {
    let (overriding, at) = match db {
        Database::Sqlite(_) => ("", format!("unixepoch() - {days} * 86400")),
        Database::Postgres { .. } => ("OVERRIDING SYSTEM VALUE", format!("now() - interval '{days} days'")),
    };
    db.sql(&format!("INSERT INTO api_audit (id, at, action) {overriding} VALUES ({id}, {at}, 'done')")).await;
}

async fn rows_of_the_audit_go_after_400_days_and_beyond_the_newest_million(db: Database) {
    let store = db.store().await;
    let upkeep = store.for_follower().upkeep.unwrap();
    assert_eq!(upkeep.forget_audit(10).await.unwrap(), ForgottenRows::default());
    for (id, days) in [(1, 401), (2, 399), (3, 0), (4, 401), (5, 399), (1_000_003, 0)] {
        insert(&db, id, days).await;
    }
    // The oldest first, so many at a time.
    assert_eq!(upkeep.forget_audit(2).await.unwrap(), ForgottenRows { old: 1, excess: 1 });
    assert_eq!(upkeep.forget_audit(2).await.unwrap(), ForgottenRows { old: 1, excess: 1 });
    assert_eq!(upkeep.forget_audit(2).await.unwrap(), ForgottenRows::default());
    assert_eq!(db.number("SELECT sum(id) FROM api_audit").await, 1_000_008);
    drop(upkeep);
    store.close().await;

    // A process does it by itself, and counts what goes before its time.
    for (id, days) in [(1, 401), (2, 0), (3, 0)] {
        insert(&db, id, days).await;
    }
    let replica = db.open(&Time::new()).await;
    soon("deleted", async || db.number("SELECT count(*) FROM api_audit").await == 2).await;
    soon("counted", async || replica.keys.excess_audit_rows() == 2).await;
}

#[test]
fn a_role_that_may_not_forget_the_audit_is_told_once() {
    let server = Postgres::shared();
    let database = server.database();
    let role = server.role(&database, Rights::Rows);
    assert_eq!(migrate(&server.url(&database)).code(), Some(0));
    server
        .psql(&database, &format!("REVOKE EXECUTE ON FUNCTION api_forget_audit(BIGINT) FROM {}", role.name));
    let issuer = Issuer::start(&server.url_as(&role, server.address(), &database));
    wait_until("it is told", || {
        issuer.server.log().text().contains("old rows of the audit stay in the store")
    });
    let (id, token) = issuer.create("mine");
    assert_eq!(issuer.checks().verdict(&token), "");
    issuer.revoke(id);
    assert!(issuer.server.metrics().contains("keys_store_errors_total{operation=\"write\"} 0"));
}
