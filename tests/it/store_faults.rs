//! What other modules stand on when they test the faults of a store: that a standby, PgBouncer, a full disk and the
//! others really are what they are taken for.

use std::thread;

use crate::harness::issuer::{self, Issuer, config};
use crate::harness::pgbouncer::{PgBouncer, Pooling};
use crate::harness::postgres::{Postgres, Rights, Role, Session, try_psql};
use crate::harness::server::Server;
use crate::harness::small_disk::{SmallDisk, Way};
use crate::harness::{sqlite, stored_keys, wait_until};

// ---- PostgreSQL.

#[test]
fn a_standby_shows_what_the_primary_commits_and_takes_no_write() {
    let primary = Postgres::start();
    let database = primary.database();
    let standby = primary.standby();
    let count = || standby.psql(&database, "SELECT count(*) FROM rows");
    primary.psql(&database, "CREATE TABLE rows (n INT); INSERT INTO rows VALUES (1)");
    standby.catch_up_with(&primary);
    assert_eq!(count(), "1");
    let refused = try_psql(&standby.url(&database), "INSERT INTO rows VALUES (2)").unwrap_err();
    assert!(refused.contains("read-only transaction"), "{refused}");
    assert!(standby.is_standby() && !primary.is_standby());

    standby.pause_replay();
    primary.psql(&database, "INSERT INTO rows VALUES (2)");
    assert_eq!(count(), "1");
    standby.resume_replay();
    standby.catch_up_with(&primary);
    assert_eq!(count(), "2");
}

#[test]
fn a_fail_over_loses_what_the_standby_had_not_received() {
    let primary = Postgres::start();
    let database = primary.database();
    let standby = primary.standby();
    let bouncer = PgBouncer::start(&primary, Pooling::Transaction);
    let rows = "SELECT string_agg(n::TEXT, ' ' ORDER BY n) FROM rows";
    primary.psql(&database, "CREATE TABLE rows (n INT); INSERT INTO rows VALUES (1)");
    standby.catch_up_with(&primary);
    standby.stop_receiving();
    primary.psql(&database, "INSERT INTO rows VALUES (2)");
    standby.receive_from(&primary);
    standby.catch_up_with(&primary);
    standby.stop_receiving();
    primary.psql(&database, "INSERT INTO rows VALUES (3)");
    assert_eq!(try_psql(&bouncer.url(&database), rows).unwrap(), "1 2 3");

    primary.kill();
    assert!(try_psql(&primary.url(&database), "SELECT 1").is_err());
    standby.promote();
    assert!(!standby.is_standby());
    standby.psql(&database, "INSERT INTO rows VALUES (4)");
    bouncer.lead_to(&standby);
    assert_eq!(try_psql(&bouncer.url(&database), rows).unwrap(), "1 2 4");
    // The lost commit was one.
    primary.resume();
    assert_eq!(primary.psql(&database, rows), "1 2 3");
}

#[test]
fn pgbouncer_lends_a_connection_for_a_transaction_or_for_a_session() {
    let server = Postgres::shared();
    let database = server.database();
    let bouncer = PgBouncer::start_with(&server, Pooling::Transaction, 1);
    let url = bouncer.url(&database);
    let (mut first, mut second) = (Session::open(&url), Session::open(&url));
    assert_eq!(first.backend(), second.backend());
    first.run("BEGIN");
    second.send("SELECT 'served'");
    wait_until("the second waits", || bouncer.pool(&database, "cl_waiting") == 1);
    assert!(!second.has_answered());
    first.run("COMMIT");
    assert_eq!(second.answer(), "served");

    let bouncer = PgBouncer::start_with(&server, Pooling::Session, 1);
    let url = bouncer.url(&database);
    let (mut first, mut second) = (Session::open(&url), Session::open(&url));
    let backend = first.backend();
    second.send("SELECT pg_backend_pid()");
    wait_until("the second waits", || bouncer.pool(&database, "cl_waiting") == 1);
    assert!(!second.has_answered());
    drop(first);
    assert_eq!(second.answer(), backend.to_string());
}

#[test]
fn pgbouncer_is_as_strict_as_debians_and_can_be_frozen_and_killed() {
    let server = Postgres::shared();
    let database = server.database();
    let bouncer = PgBouncer::start(&server, Pooling::Transaction);
    let url = bouncer.url(&database);
    let refused = |url: &str| try_psql(url, "SELECT 1").unwrap_err();
    let complaint = refused(&format!("{url}?options=-c%20extra_float_digits%3D2"));
    assert!(complaint.contains("unsupported startup parameter"), "{complaint}");
    let mut role = server.role(&database, Rights::Login);
    let as_role = |role: &Role| server.url_as(role, bouncer.address(), &database);
    refused(&as_role(&role));
    bouncer.admit(&role);
    assert_eq!(try_psql(&as_role(&role), "SELECT current_user").unwrap(), role.name);
    role.password += "-of-somebody-else";
    refused(&as_role(&role));

    let mut session = Session::open(&url);
    session.run("SELECT 1");
    bouncer.freeze();
    session.send("SELECT 'thawed'");
    assert_eq!(server.psql(&database, "SELECT 'past it'"), "past it");
    assert!(!session.has_answered());
    bouncer.thaw();
    assert_eq!(session.answer(), "thawed");
    bouncer.kill();
    refused(&url);
    bouncer.resume();
    assert_eq!(try_psql(&url, "SELECT 'again'").unwrap(), "again");
}

#[test]
fn a_role_may_do_what_its_rights_say_and_no_more() {
    let server = Postgres::shared();
    let database = server.database();
    server.psql(&database, "CREATE TABLE old (n BIGSERIAL)");
    for (rights, reads, writes) in
        [(Rights::Login, false, false), (Rights::Select, true, false), (Rights::Rows, true, true)]
    {
        let role = server.role(&database, rights);
        let new = format!("new_{}", role.name);
        server.psql(&database, &format!("CREATE TABLE {new} (n BIGSERIAL)"));
        let url = server.url_as(&role, server.address(), &database);
        for table in ["old", &new] {
            let may = |sql: String| match try_psql(&url, &sql) {
                Ok(_) => true,
                Err(error) if error.contains("permission denied") || error.contains("must be owner") => false,
                Err(error) => panic!("{sql}: {error}"),
            };
            assert_eq!(may(format!("SELECT * FROM {table}")), reads, "{rights:?} {table}");
            assert_eq!(may(format!("INSERT INTO {table} DEFAULT VALUES")), writes, "{rights:?} {table}");
            assert_eq!(may(format!("UPDATE {table} SET n = 1 WHERE n = 2")), writes, "{rights:?} {table}");
            assert_eq!(may(format!("DELETE FROM {table} WHERE n = 2")), writes, "{rights:?} {table}");
            assert!(!may(format!("ALTER TABLE {table} ADD COLUMN m INT")), "{rights:?} {table}");
            assert!(!may("CREATE TABLE mine (n INT)".to_owned()), "{rights:?}");
            assert!(may("SELECT pg_advisory_lock(1)".to_owned()), "{rights:?}");
        }
    }
}

#[test]
fn passwords_change_connections_end_and_their_number_is_limited() {
    let server = Postgres::start_with(&["max_connections=6", "superuser_reserved_connections=3"]);
    let database = server.database();
    let mut role = server.role(&database, Rights::Login);
    let url = server.url_as(&role, server.address(), &database);
    let refusal = || try_psql(&url, "SELECT 1").unwrap_err();
    let open = || {
        let mut session = Session::open(&url);
        session.run("SELECT 1");
        session
    };
    let sessions = [open(), open(), open()];
    assert!(refusal().contains("connection slots"), "{}", refusal());
    assert_eq!(server.terminate_connections(&database), 3);
    drop(sessions);
    let _one = open();
    server.limit_connections(&role, 1);
    assert!(refusal().contains("too many connections for role"), "{}", refusal());
    server.limit_connections(&role, -1);
    assert_eq!(try_psql(&url, "SELECT 1").unwrap(), "1");
    server.set_password(&mut role, "another");
    assert!(refusal().contains("password authentication failed"), "{}", refusal());
    assert_eq!(try_psql(&server.url_as(&role, server.address(), &database), "SELECT 1").unwrap(), "1");
}

#[test]
fn a_backend_stands_still_and_an_open_transaction_holds_its_locks() {
    let server = Postgres::shared();
    let database = server.database();
    server.psql(&database, "CREATE TABLE rows (n INT); INSERT INTO rows VALUES (1)");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let (mut holder, mut other) = (server.session(&database), server.session(&database));
    for lock in ["UPDATE rows SET n = n + 1", "SELECT pg_advisory_xact_lock(7)"] {
        holder.run(&format!("BEGIN; {lock}"));
        other.send(lock);
        wait_until("the other waits", || server.psql(&database, waiting) == "1");
        assert!(!other.has_answered());
        holder.run("ROLLBACK");
        other.answer();
    }
    assert_eq!(server.psql(&database, "SELECT n FROM rows"), "2");

    let backend = other.backend();
    server.freeze_backend(backend);
    other.send("UPDATE rows SET n = 9");
    assert_eq!(holder.run("SELECT n FROM rows"), "2");
    assert!(!other.has_answered());
    server.thaw_backend(backend);
    other.answer();
    assert_eq!(holder.run("SELECT n FROM rows"), "9");
}

#[test]
fn our_connections_to_postgresql_are_found_and_ended() {
    let server = Postgres::shared();
    let database = server.database();
    let issuer = Issuer::start(&server.url(&database));
    let (_, token) = issuer.create("before");
    let before = server.backends(&database);
    assert!(!before.is_empty());
    assert!(server.terminate_connections(&database) >= before.len());
    assert_eq!(issuer.checks().verdict(&token), "");
    wait_until("it writes again", || issuer::create(issuer.admin, "after").send().status == 200);
    assert!(server.backends(&database).iter().all(|process| !before.contains(process)));
}

#[test]
fn a_dump_brings_back_what_was_there_when_it_was_made() {
    let server = Postgres::shared();
    let database = server.database();
    let issuer = Issuer::start(&server.url(&database));
    let (id, _) = issuer.create("key");
    let reader = server.role(&database, Rights::Select);
    let url = server.url_as(&reader, server.address(), &database);
    let live = || try_psql(&url, "SELECT count(*) FROM api_keys WHERE revoked_at IS NULL").unwrap();
    let dump = server.dump(&database);
    for restore in [Postgres::restore, Postgres::restore_in_place] {
        server.psql(&database, &format!("UPDATE api_keys SET revoked_at = now() WHERE id = {id}"));
        assert_eq!(live(), "0");
        restore(&server, &database, &dump);
        assert_eq!(live(), "1");
    }
}

// ---- SQLite.

#[test]
fn a_sqlite_file_is_copied_while_it_is_in_use_then_replaced_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let issuer = Issuer::start(&format!("sqlite:{}", file.display()));
    issuer.create("first");
    let (vacuumed, backed_up) = (folder.path().join("vacuumed.db"), folder.path().join("backed up.db"));
    sqlite::vacuum_into(&file, &vacuumed);
    issuer.create("second");
    sqlite::online_backup(&file, &backed_up);
    let count = |file: &_| sqlite::sql(file, "SELECT count(*) FROM api_keys");
    assert_eq!([count(&vacuumed), count(&backed_up), count(&file)], ["1", "2", "2"]);
    assert_eq!(sqlite::sql(&vacuumed, "PRAGMA integrity_check"), "ok");
    assert_eq!(sqlite::sql(&backed_up, "PRAGMA integrity_check"), "ok");

    drop(issuer);
    // The crash left a `-wal`, which would be taken for the other file's.
    assert_eq!(count(&file), "2");
    sqlite::remove(&file);
    assert!(!file.exists());
    std::fs::write(&file, "").unwrap();
    sqlite::replace(&file, &vacuumed);
    assert_eq!(count(&file), "1");
}

#[test]
fn a_transaction_of_sqlite_holds_up_all_other_writers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let issuer = Issuer::start(&format!("sqlite:{}", file.display()));
    issuer.create("first");
    let count = || sqlite::sql(&file, "SELECT count(*) FROM api_keys WHERE revoked_by = 'other'");
    thread::scope(|scope| {
        let transaction = sqlite::Transaction::begin(&file, "UPDATE api_keys SET name = 'never'");
        let other = scope.spawn(|| sqlite::sql(&file, "UPDATE api_keys SET revoked_by = 'other'"));
        assert_eq!(count(), "0");
        assert!(!other.is_finished());
        drop(transaction);
        other.join().unwrap();
    });
    assert_eq!(count(), "1");
    assert_eq!(sqlite::sql(&file, "SELECT name FROM api_keys"), "first");
}

#[test]
fn a_small_disk_is_full_and_then_has_space_again() {
    let mut worked = Vec::new();
    for way in [Way::Mount, Way::UserMount, Way::FileSize] {
        match SmallDisk::by(way, 4 << 20) {
            Ok(disk) => {
                fill_and_empty(&disk);
                worked.push(way);
            }
            Err(reason) => eprintln!("no small disk by {way:?}: {reason}"),
        }
    }
    assert!(worked.contains(&Way::FileSize), "prlimit of util-linux is missing");
    assert_eq!(SmallDisk::with(1 << 20).way(), worked[0]);
}

fn fill_and_empty(disk: &SmallDisk) {
    let store = format!("sqlite:{}", disk.path().join("keys.db").display());
    let start = || Issuer::of(Server::with(&config(&store)).behind(disk.launcher()).start());
    let issuer = start();
    let mut tokens = vec![issuer.create("before").1];
    assert!(disk.outside("keys.db").exists());
    disk.fill();
    let refused = (0..10_000).find_map(|number| {
        let answer = issuer::create(issuer.admin, &format!("meanwhile-{number}")).send();
        if answer.status == 200 {
            tokens.push(issuer::made(&answer).1);
        }
        (answer.status != 200).then_some(answer.status)
    });
    assert_eq!(refused, Some(503), "{:?}: {} keys and no end", disk.way(), tokens.len());
    // Whatever the disk does, what is known counts.
    let mut checks = issuer.checks();
    assert!(tokens.iter().all(|token| checks.verdict(token).is_empty()));
    drop(issuer);

    let command =
        disk.command("sh").args(["-c", "echo text > \"$0\""]).arg(disk.path().join("file")).output();
    assert!(!command.unwrap().status.success(), "{:?}", disk.way());
    disk.empty();
    let issuer = start();
    issuer.create("after");
    let mut checks = issuer.checks();
    assert!(tokens.iter().all(|token| checks.verdict(token).is_empty()), "{:?}", disk.way());
}

// ---- Both.

#[test]
fn many_keys_come_at_once_and_each_token_passes() {
    const KEYS: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let server = Postgres::shared();
    let database = server.database();
    let stores = [format!("sqlite:{}", file.display()), server.url(&database)];
    let issuers = stores.map(|store| Issuer::start(&store));
    thread::scope(|scope| {
        scope.spawn(|| sqlite::insert_keys(&file, KEYS));
        scope.spawn(|| server.insert_keys(&database, KEYS));
    });
    for issuer in issuers {
        let mut checks = issuer.checks();
        for number in [1, KEYS / 2, KEYS] {
            let token = stored_keys::token(number);
            wait_until("a key arrives", || checks.verdict(&token).is_empty());
        }
        assert_eq!(checks.verdict(&stored_keys::token(KEYS + 1)), "401 Invalid API key");
    }
}
