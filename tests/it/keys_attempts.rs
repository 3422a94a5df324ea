//! What attempts to log in need of the store, in both stores: each scenario runs on SQLite and on a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use envoy_auth_tokens::keys::StoreErrors;
use envoy_auth_tokens::keys::store::SCHEMA;
use envoy_auth_tokens::token::TokenDigest;
use futures_util::future::join_all;

use crate::keys_history::Backup;
use crate::keys_people::make_schema;
use crate::keys_store::{Database, Replica, Time, on_both_stores, soon};

const MINUTE: i64 = 60;

fn state(number: usize) -> TokenDigest {
    TokenDigest::of(format!("state {number}").as_bytes())
}

async fn key(replica: &Replica) -> [u8; 32] {
    *replica.keys.sealing_key().await.unwrap().expose()
}

/// Two that have the store open, and have read it.
async fn two(db: &Database, time: &Time) -> [Replica; 2] {
    [db.open(time).await, db.open(time).await]
}

on_both_stores! {
    the_key_is_made_once_and_is_the_same_everywhere
    a_restored_store_gives_every_replica_the_same_key_again
    a_key_that_vanished_without_a_trace_is_made_anew_within_a_minute
    of_many_who_use_a_state_at_once_one_does
    used_states_are_forgotten_after_twenty_minutes
    neither_is_a_change_that_others_follow
    a_store_that_fails_says_so
    a_store_of_schema_4_goes_on_with_its_programs
}

async fn the_key_is_made_once_and_is_the_same_everywhere(db: Database) {
    let time = Time::new();
    let replicas = two(&db, &time).await;
    let asked = (0..40).map(|number| {
        let keys = Arc::clone(&replicas[number % 2].keys);
        tokio::spawn(async move { *keys.sealing_key().await.unwrap().expose() })
    });
    let asked = join_all(asked.collect::<Vec<_>>()).await;
    let keys: Vec<[u8; 32]> = asked.into_iter().map(Result::unwrap).collect();
    assert!(keys.iter().all(|key| *key == keys[0] && *key != [0; 32]));
    assert_eq!(db.number("SELECT count(*) FROM api_secrets").await, 1);
    // It stays, whoever starts and whatever time it is.
    time.pass(400 * 86_400);
    for replica in [&replicas[0], &replicas[1], &db.open(&time).await] {
        assert_eq!(key(replica).await, keys[0]);
        assert_eq!(replica.keys.store_errors(), StoreErrors::default());
    }
    let other = if matches!(db, Database::Sqlite(_)) { Database::sqlite() } else { Database::postgres() };
    assert_ne!(key(&other.open(&time).await).await, keys[0], "each store has its own");
}

async fn a_restored_store_gives_every_replica_the_same_key_again(db: Database) {
    let time = Time::new();
    let replicas = two(&db, &time).await;
    let backup = Backup::of(&db);
    let before = key(&replicas[0]).await;
    assert_eq!(key(&replicas[1]).await, before);
    replicas[0].create("later").await;
    let revision = async || db.number("SELECT value FROM api_revision").await;
    let newest = revision().await;
    for replica in &replicas {
        soon("read", async || replica.keys.revision().is_some_and(|known| known.0 == newest)).await;
    }
    backup.restore();
    for replica in &replicas {
        soon("noticed", async || replica.keys.history_rewrites() == 1).await;
    }
    let after = key(&replicas[0]).await;
    assert_ne!(after, before, "the backup had none");
    assert_eq!(key(&replicas[1]).await, after);
    assert_eq!(key(&db.open(&time).await).await, after);
}

async fn a_key_that_vanished_without_a_trace_is_made_anew_within_a_minute(db: Database) {
    let time = Time::new();
    let replicas = two(&db, &time).await;
    let before = key(&replicas[0]).await;
    time.pass(30);
    assert_eq!(key(&replicas[1]).await, before);
    db.sql("DELETE FROM api_secrets").await;
    time.pass(MINUTE - 31);
    assert_eq!((key(&replicas[0]).await, key(&replicas[1]).await), (before, before));
    time.pass(1);
    let after = key(&replicas[0]).await;
    assert_ne!(after, before);
    time.pass(30);
    assert_eq!((key(&replicas[0]).await, key(&replicas[1]).await), (after, after));
}

async fn of_many_who_use_a_state_at_once_one_does(db: Database) {
    let time = Time::new();
    let replicas = two(&db, &time).await;
    for number in 0..10 {
        let using = (0..8).map(|replica| {
            let keys = Arc::clone(&replicas[replica % 2].keys);
            tokio::spawn(async move { keys.use_state(&state(number)).await.unwrap() })
        });
        let using = join_all(using.collect::<Vec<_>>()).await;
        assert_eq!(using.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 1);
    }
    for replica in [&replicas[0], &replicas[1], &db.open(&time).await] {
        assert!(!replica.keys.use_state(&state(7)).await.unwrap());
        assert_eq!(replica.keys.store_errors(), StoreErrors::default());
    }
    assert!(replicas[1].keys.use_state(&state(10)).await.unwrap());
    assert_eq!(db.number("SELECT count(*) FROM api_used_states").await, 11);
}

async fn used_states_are_forgotten_after_twenty_minutes(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let keys = &replica.keys;
    let stored = async || db.number("SELECT count(*) FROM api_used_states").await;
    let interval = Duration::from_secs(600);
    assert!(keys.use_state(&state(0)).await.unwrap());
    time.pass(1);
    assert!(keys.use_state(&state(1)).await.unwrap());
    time.pass(20 * MINUTE - 2);
    follower.now += interval;
    follower.tick().await;
    assert_eq!(stored().await, 2);
    // To the second, looked at once in ten minutes.
    time.pass(1);
    follower.now += interval - Duration::from_secs(2);
    follower.tick().await;
    assert_eq!(stored().await, 2);
    follower.tick().await;
    assert_eq!(stored().await, 1);
    assert!(!keys.use_state(&state(1)).await.unwrap());
    assert!(keys.use_state(&state(0)).await.unwrap());
    // A flood goes a thousand at a time, and what is young stays.
    let old = match db {
        Database::Sqlite(_) => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
             INSERT INTO api_used_states (digest, used_at) SELECT randomblob(32), i FROM n"
        }
        Database::Postgres { .. } => {
            "INSERT INTO api_used_states (digest, used_at) \
             SELECT sha256(i::text::bytea), to_timestamp(i) FROM generate_series(1, 2500) AS i"
        }
    };
    db.sql(old).await;
    follower.now += interval;
    // The one of the beginning is over as well.
    time.pass(1);
    for left in [1502, 502, 1] {
        follower.tick().await;
        assert_eq!(stored().await, left);
    }
    assert!(!keys.use_state(&state(0)).await.unwrap());
    assert_eq!(keys.store_errors(), StoreErrors::default());
}

async fn neither_is_a_change_that_others_follow(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let log = "SELECT value + (SELECT count(*) FROM api_changes) FROM api_revision";
    let before = db.number(log).await;
    replica.keys.sealing_key().await.unwrap();
    replica.keys.use_state(&state(0)).await.unwrap();
    time.pass(20 * MINUTE);
    follower.now += Duration::from_secs(600);
    follower.tick().await;
    assert_eq!(db.number("SELECT count(*) FROM api_used_states").await, 0);
    assert_eq!(db.number(log).await, before);
    // A process that counted them as changes would miss some now.
    follower.tick().await;
    assert_eq!((replica.keys.history_rewrites(), replica.keys.store_errors()), (0, StoreErrors::default()));
}

async fn a_store_that_fails_says_so(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    for table in ["api_secrets", "api_used_states"] {
        db.sql(&format!("ALTER TABLE {table} RENAME TO {table}_elsewhere")).await;
    }
    replica.keys.sealing_key().await.unwrap_err();
    replica.keys.use_state(&state(0)).await.unwrap_err();
    assert_eq!(replica.keys.store_errors().write, 2);
    for table in ["api_secrets", "api_used_states"] {
        db.sql(&format!("ALTER TABLE {table}_elsewhere RENAME TO {table}")).await;
    }
    let works = async || replica.keys.sealing_key().await.is_ok();
    soon("it works again", works).await;
    assert!(replica.keys.use_state(&state(0)).await.unwrap());
}

async fn a_store_of_schema_4_goes_on_with_its_programs(db: Database) {
    let time = Time::new();
    make_schema(&db, 4).await;
    let tables = |of: &str| match db {
        Database::Sqlite(_) => format!("SELECT count(*) FROM pragma_table_info('{of}')"),
        Database::Postgres { .. } => {
            format!("SELECT count(*) FROM information_schema.columns WHERE table_name = '{of}'")
        }
    };
    let known = ["api_keys", "api_sessions", "api_people", "api_changes", "api_revision", "api_migrations"];
    let mut before = Vec::new();
    for table in known {
        before.push(db.number(&tables(table)).await);
    }
    let replica = db.open(&time).await;
    replica.keys.sealing_key().await.unwrap();
    // What its programs read and write is still there.
    for (table, before) in known.into_iter().zip(before) {
        assert!(db.number(&tables(table)).await >= before, "{table}");
    }
    assert_eq!(db.number("SELECT max(version) FROM api_migrations").await, SCHEMA);
    assert_eq!(db.number("SELECT oldest_reader FROM api_revision").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_an_older_dump_lacks_are_made_without_a_restart() {
    let time = Time::new();
    let db = Database::postgres();
    let replicas = two(&db, &time).await;
    let before = key(&replicas[0]).await;
    // As when a dump of schema 4 was restored that has the very same history.
    db.sql(
        "DROP TABLE api_secrets, api_used_states, api_audit; \
         ALTER TABLE api_keys DROP COLUMN description, DROP COLUMN folded_name, DROP COLUMN account_id CASCADE, \
         DROP COLUMN owner_source CASCADE, DROP COLUMN owner_subject CASCADE, DROP COLUMN disabled_at CASCADE, \
         DROP COLUMN uses, DROP COLUMN last_address, DROP COLUMN imported_at; \
         DROP INDEX api_keys_by_previous_digest; DROP TABLE api_accounts; \
         ALTER TABLE api_changes DROP COLUMN account_id; \
         ALTER TABLE api_people DROP COLUMN claims CASCADE; \
         DELETE FROM api_migrations WHERE version >= 5",
    )
    .await;
    replicas[0].keys.use_state(&state(0)).await.unwrap_err();
    let works = async || replicas[0].keys.use_state(&state(0)).await.is_ok();
    soon("the tables are made", works).await;
    time.pass(MINUTE);
    let after = key(&replicas[0]).await;
    assert_ne!(after, before);
    assert_eq!(key(&replicas[1]).await, after);
}
