//! PostgreSQL as operators run it: roles of few rights, standbys, PgBouncer, several hosts, a password that changes.

use std::path::Path;
use std::process::Command;
use std::thread;

use envoy_auth_tokens::keys::store::SCHEMA;

use crate::harness::issuer::{self, Issuer, config};
use crate::harness::pgbouncer::{PgBouncer, Pooling};
use crate::harness::postgres::{PASSWORD, Postgres, Rights, Role, Session};
use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::wait_until;
use crate::keys_lost_changes::make_schema_2;

/// What the log says once of a store that passes no notifications on.
const POLLED: &str = "the key store passes no notifications on";

/// The configuration of a server that only reads this store.
pub(crate) fn read_only(store: &str) -> String {
    config(store).replacen("\"}", "\", read_only: true}", 1)
}

fn lines(issuer: &Issuer, what: &str) -> usize {
    issuer.server.log().lines().iter().filter(|line| line.contains(what)).count()
}

/// `keys migrate` of the store of this URL.
pub(crate) fn migrate(url: &str) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(["keys", "migrate", "--store-file", "-"]);
    run(command, url)
}

fn rename_into(folder: &Path, name: &str, text: &str) {
    let new = folder.join("being-written");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

/// The lock that whoever changes the schema of this database holds.
fn lock_of_migrations(database: &str) -> i64 {
    0x3d32_ad9e * i64::from(crc32fast::hash(database.as_bytes()))
}

// ---- Roles.

/// A role that may read and write the rows of a database, whose schema is brought up to date.
fn migrated_role(server: &Postgres, database: &str) -> Role {
    assert_eq!(migrate(&server.url(database)).code(), Some(0));
    server.role(database, Rights::Rows)
}

/// A server whose store has the URL in the file `store.url`.
fn with_url_in_file(url: &str) -> Issuer {
    let text = config("URL").replace("\"URL\"", "{$file: store.url}");
    Issuer::of(Server::with(&text).file("store.url", url).start())
}

#[test]
fn a_password_that_changes_is_taken_over_by_a_reload() {
    let server = Postgres::shared();
    let database = server.database();
    let mut role = migrated_role(&server, &database);
    let url = |role: &_| server.url_as(role, server.address(), &database);
    let issuer = with_url_in_file(&url(&role));
    let (id, token) = issuer.create("before");

    let old = role.password.clone();
    server.set_password(&mut role, "hunter2-anew");
    rename_into(issuer.server.folder(), "store.url", &url(&role));
    issuer.server.log().wait_for("the new password", |line| line.contains("was taken over").then_some(()));
    assert!(server.terminate_connections(&database) > 0);
    let mut made = None;
    wait_until("keys are made again", || {
        let answer = issuer::create(issuer.admin, "after").send();
        made = (answer.status == 200).then(|| issuer::made(&answer));
        made.is_some()
    });
    let mut checks = issuer.checks();
    assert_eq!(checks.verdict(&made.unwrap().1), "");
    issuer.revoke(id);
    assert_eq!(checks.verdict(&token), "401 Revoked API key");
    let log = issuer.server.log().text();
    assert!(
        !log.contains("needs a restart") && !log.contains(&old) && !log.contains("hunter2-anew"),
        "{log}"
    );

    // Another database is another matter.
    rename_into(issuer.server.folder(), "store.url", &server.url(&server.database()));
    issuer.server.log().wait_for("the warning", |line| {
        (line.contains("keys.store changed") && line.contains("needs a restart")).then_some(())
    });
    issuer.create("still there");
}

#[test]
fn a_url_by_which_no_connection_can_be_made_is_not_taken_over_before_it_works() {
    let server = Postgres::shared();
    let database = server.database();
    let mut role = migrated_role(&server, &database);
    let url = |role: &_| server.url_as(role, server.address(), &database);
    let issuer = with_url_in_file(&url(&role));

    // The file comes first, and the role has another password still.
    let mut later = role.clone();
    later.password = "hunter2-too-early".to_owned();
    rename_into(issuer.server.folder(), "store.url", &url(&later));
    let told = issuer.server.log().wait_for("the password is wrong", |line| {
        line.contains("is not taken over, because no connection can be made by it").then(|| line.to_owned())
    });
    assert!(told.contains("password authentication failed"), "{told}");
    assert_eq!(lines(&issuer, "was taken over"), 0);
    // What is made anew is made by the URL before.
    assert!(server.terminate_connections(&database) > 0);
    wait_until("keys are made still", || {
        issuer::create(issuer.admin, "by the URL before").send().status == 200
    });

    server.set_password(&mut role, &later.password);
    issuer.server.log().wait_for("the new password", |line| line.contains("was taken over").then_some(()));
    server.terminate_connections(&database);
    wait_until("keys are made", || issuer::create(issuer.admin, "by the new one").send().status == 200);
    let log = issuer.server.log().text();
    assert!(!log.contains("hunter2-too-early"), "{log}");
    assert_eq!(lines(&issuer, "is not taken over"), 1, "a reason is said once: {log}");
}

#[test]
fn a_role_that_may_only_select_is_told_what_it_lacks_and_of_read_only() {
    let server = Postgres::shared();
    let database = server.database();
    let role = server.role(&database, Rights::Select);
    let url = server.url_as(&role, server.address(), &database);
    let before = migrate(&url);
    assert_eq!(before.code(), Some(1), "{before:?}");
    for part in ["`--store-file FILE` reads its URL", "set `keys.read_only: true`, too"] {
        assert!(before.stderr.contains(part), "{before:?}");
    }
    assert_eq!(migrate(&server.url(&database)).code(), Some(0));

    let setup = Server::with(&config(&url));
    let connected = setup.run(["check", "--connect"]);
    assert_eq!(connected.code(), Some(1), "{connected:?}");
    for part in ["INSERT ON api_audit", "DELETE, INSERT, UPDATE ON api_keys", "or set `keys.read_only: true`"]
    {
        assert!(connected.stdout.contains(part), "{connected:?}");
    }
    assert!(!connected.stdout.contains("UPDATE ON api_audit"), "nobody needs it: {connected:?}");
    let issuer = Issuer::of(setup.start());
    let log = issuer.server.log();
    let told = log.wait_for("what it lacks", |line| {
        line.contains("lacks rights of a server that writes").then(|| line.to_owned())
    });
    assert!(told.contains("UPDATE ON api_revision") && told.contains("`keys.read_only: true`"), "{told}");
    assert_eq!(issuer::create(issuer.admin, "in vain").send().status, 503);
    log.wait_for("each denial names the way out", |line| {
        (line.contains("permission denied") && line.contains("set `keys.read_only: true`")).then_some(())
    });

    let only_read = Server::with(&read_only(&url)).run(["check", "--connect"]);
    assert_eq!(only_read.code(), Some(0), "{only_read:?}");
    let rows = server.role(&database, Rights::Rows);
    let writes = Server::with(&config(&server.url_as(&rows, server.address(), &database)));
    let connected = writes.run(["check", "--connect"]);
    assert_eq!(connected.code(), Some(0), "{connected:?}");
    let writer = Issuer::of(writes.start());
    writer.create("mine");
    assert_eq!(lines(&writer, "lacks rights"), 0);
}

#[test]
fn migrate_says_from_which_schema_to_which() {
    let server = Postgres::shared();
    let database = server.database();
    make_schema_2(&server, &database);
    let ran = migrate(&server.url(&database));
    assert_eq!(
        ran.stdout,
        format!(
            "The schema of postgres://{}/{database} was brought from number 2 to number {SCHEMA}.\n",
            server.address()
        )
    );
}

#[test]
fn a_role_with_rows_alone_serves_once_another_has_migrated() {
    let server = Postgres::shared();
    let database = server.database();
    let role = server.role(&database, Rights::Rows);
    let url = server.url_as(&role, server.address(), &database);
    let ran = Server::with(&config(&url)).start_in_vain();
    assert!(ran.stderr.contains("run `envoy-auth-tokens keys migrate`"), "{}", ran.stderr);
    let refused = migrate(&url);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the role in its URL may not change it"), "{refused:?}");

    for outcome in ["was made: it is number {}.", "is number {} already: nothing was to do."] {
        let ran = migrate(&server.url(&database));
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        let outcome = outcome.replace("{}", &SCHEMA.to_string());
        assert_eq!(
            ran.stdout,
            format!("The schema of postgres://{}/{database} {outcome}\n", server.address())
        );
        assert!(ran.stderr.contains("audit") && !ran.stderr.contains(PASSWORD), "{ran:?}");
    }
    let issuer = Issuer::start(&url);
    let (id, token) = issuer.create("mine");
    let mut checks = issuer.checks();
    assert_eq!(checks.verdict(&token), "");
    let used = "SELECT count(last_used_at) FROM api_keys";
    wait_until("the use is written", || server.psql(&database, used) == "1");
    let answer = issuer::rotate(issuer.admin, id, 0).send();
    let (_, rotated) = issuer::made(&answer);
    assert_eq!(checks.verdict(&rotated), "");
    issuer.revoke(id);
    assert_eq!(checks.verdict(&rotated), "401 Revoked API key");
}

#[test]
fn a_role_that_may_only_select_reads_and_writes_nothing() {
    let server = Postgres::shared();
    let database = server.database();
    let writer = Issuer::start(&server.url(&database));
    let (id, token) = writer.create("made elsewhere");
    let role = server.role(&database, Rights::Select);
    let url = server.url_as(&role, server.address(), &database);
    let reader = Issuer::of(Server::with(&read_only(&url)).start());
    let mut checks = reader.checks();
    wait_until("the key arrives", || checks.verdict(&token).is_empty());
    assert_ne!(issuer::create(reader.admin, "here").send().status, 200);
    assert_ne!(issuer::revoke(reader.admin, id).send().status, 200);
    assert_eq!(reader.list().len(), 1);
    writer.revoke(id);
    wait_until("the revocation arrives", || checks.verdict(&token) == "401 Revoked API key");
    let log = reader.server.log().text();
    assert!(!log.contains("permission denied") && !log.contains("42501"), "{log}");
    // Notifications need no right.
    assert_eq!(lines(&reader, POLLED), 0);
}

#[test]
fn a_role_of_few_connections_is_enough() {
    let server = Postgres::shared();
    let database = server.database();
    let role = migrated_role(&server, &database);
    // Seven, and those that PostgreSQL has not yet ended.
    server.limit_connections(&role, 10);
    let issuer = Issuer::start(&server.url_as(&role, server.address(), &database));
    // One is read by, one listens, and one may be left of a moment in which reading and writing met.
    wait_until("it is at rest", || (2..=3).contains(&server.backends(&database).len()));
    let mut most = 0;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|client| {
                let issuer = &issuer;
                scope.spawn(move || {
                    for number in 0..10 {
                        issuer.create(&format!("key-{client}-{number}"));
                    }
                })
            })
            .collect();
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            most = most.max(server.backends(&database).len());
        }
    });
    assert!((2..=10).contains(&most), "{most}");
    assert_eq!(issuer.list().len(), 120);
    let log = issuer.server.log().text();
    assert!(!log.contains("53300"), "{log}");
}

// ---- Standbys and several hosts.

#[test]
fn a_standby_is_read_and_polled() {
    let primary = Postgres::start();
    let database = primary.database();
    let writer = Issuer::start(&primary.url(&database));
    let standby = primary.standby();
    let reader = Issuer::of(Server::with(&read_only(&standby.url(&database))).start());
    let mut checks = reader.checks();
    let (id, token) = writer.create("made elsewhere");
    wait_until("the key arrives", || checks.verdict(&token).is_empty());
    writer.revoke(id);
    wait_until("the revocation arrives", || checks.verdict(&token) == "401 Revoked API key");
    assert_ne!(issuer::create(reader.admin, "here").send().status, 200);
    wait_until("that it is polled is told", || lines(&reader, POLLED) == 1);
    assert_eq!(lines(&reader, "25006"), 0, "{}", reader.server.log().text());
}

#[test]
fn of_several_hosts_the_one_that_can_be_written_is_used() {
    let primary = Postgres::start();
    let database = primary.database();
    let issuer = Issuer::start(&primary.url(&database));
    let standby = primary.standby();
    let both = format!("{},{}", standby.address(), primary.address());
    let over_both = Issuer::start(&primary.url_at(&both, &database));
    let (_, before) = over_both.create("before");
    let mut checks = over_both.checks();
    assert_eq!(checks.verdict(&before), "");
    standby.catch_up_with(&primary);
    drop(issuer);

    primary.kill();
    standby.promote();
    let mut made = None;
    wait_until("the other host is written", || {
        let answer = issuer::create(over_both.admin, "after").send();
        made = (answer.status == 200).then(|| issuer::made(&answer).1);
        made.is_some()
    });
    assert_eq!(checks.verdict(&made.unwrap()), "");
    assert_eq!(checks.verdict(&before), "");
    assert_eq!(standby.psql(&database, "SELECT count(*) FROM api_keys"), "2");

    // None is left: each is named, and no password.
    standby.kill();
    let answer = issuer::create(over_both.admin, "nowhere").send();
    assert_eq!(answer.status, 503);
    let log = over_both.server.log();
    let (one, other) = (standby.address().to_string(), primary.address().to_string());
    log.wait_for("both hosts", |line| (line.contains(&one) && line.contains(&other)).then_some(()));
    assert!(!log.text().contains(PASSWORD), "{}", log.text());
}

#[test]
fn the_url_says_which_host_it_wants() {
    let primary = Postgres::start();
    let database = primary.database();
    drop(Issuer::start(&primary.url(&database)));
    let standby = primary.standby();
    let both = primary.url_at(format!("{},{}", primary.address(), standby.address()), &database);
    let clients = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'envoy-auth-tokens'";
    for (wanted, host) in [("standby", &standby), ("prefer-standby", &standby), ("primary", &primary)] {
        let url = format!("{both}?target_session_attrs={wanted}");
        let reader = Server::with(&read_only(&url)).start();
        assert_ne!(host.psql(&database, clients), "0", "{wanted}");
        drop(reader);
        wait_until("it is gone", || host.psql(&database, clients) == "0");
    }
}

// ---- PgBouncer.

fn behind_pgbouncer(pooling: Pooling) {
    let server = Postgres::shared();
    let database = server.database();
    let bouncer = PgBouncer::start(&server, pooling);
    let (here, there) = (Issuer::start(&bouncer.url(&database)), Issuer::start(&bouncer.url(&database)));
    let mut checks = there.checks();
    for number in 0..10 {
        let (id, token) = here.create(&format!("key-{number}"));
        wait_until("the key arrives", || checks.verdict(&token).is_empty());
        let (_, rotated) = issuer::made(&issuer::rotate(here.admin, id, 0).send());
        wait_until("the new secret arrives", || checks.verdict(&rotated).is_empty());
        here.revoke(id);
        wait_until("the revocation arrives", || checks.verdict(&rotated) == "401 Revoked API key");
    }
    assert_eq!(there.list().len(), 10);
    let polled = usize::from(pooling == Pooling::Transaction);
    for issuer in [&here, &there] {
        wait_until("notifications are tried", || lines(issuer, POLLED) == polled);
        let log = issuer.server.log().text();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let told: Vec<_> =
            lines.map(|line| format!("{} {} {}", line["message"], line["reason"], line["error"])).collect();
        for code in ["42P05", "26000", "08P01", "cannot be read"] {
            assert!(!told.iter().any(|told| told.contains(code)), "{code}: {log}");
        }
    }
}

#[test]
fn no_statement_has_a_name() {
    // The name of one would be known, or taken, on whichever connection PgBouncer lends next.
    for source in [
        include_str!("../../src/keys/store/postgres.rs"),
        include_str!("../../src/keys/store/postgres/notifications.rs"),
        include_str!("../../src/keys/store/postgres/schema.rs"),
    ] {
        assert!(!source.contains("sqlx::query"), "use `unnamed`, `unnamed_as` or `unnamed_scalar`");
    }
}

#[test]
fn pgbouncer_may_lend_connections_for_a_session() {
    behind_pgbouncer(Pooling::Session);
}

#[test]
fn pgbouncer_may_lend_connections_for_a_transaction() {
    behind_pgbouncer(Pooling::Transaction);
}

// ---- Locks of others.

#[test]
fn an_open_transaction_on_one_key_holds_up_no_other() {
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    let (here, there) = (Issuer::start(&url), Issuer::start(&url));
    let (held, _) = here.create("held");
    let (id, token) = here.create("other");
    let mut checks = there.checks();
    wait_until("the key arrives", || checks.verdict(&token).is_empty());
    let mut session: Session = server.session(&database);
    session.run(&format!("BEGIN; UPDATE api_keys SET name = 'renamed' WHERE id = {held}"));

    here.revoke(id);
    wait_until("the revocation arrives", || checks.verdict(&token) == "401 Revoked API key");
    let (_, token) = here.create("new");
    wait_until("the new key arrives", || checks.verdict(&token).is_empty());
    session.run("COMMIT");
    let renamed = || there.list().iter().any(|key| key["name"] == "renamed");
    wait_until("the change by hand arrives", renamed);
    here.revoke(held);
}

#[test]
fn whoever_holds_the_lock_of_migrations_holds_up_no_server_and_is_named() {
    let server = Postgres::shared();
    let database = server.database();
    let role = server.role(&database, Rights::Login);
    let mut session = Session::open(&server.url_as(&role, server.address(), &database));
    session.run(&format!("BEGIN; SELECT pg_advisory_lock({})", lock_of_migrations(&database)));
    let process = session.backend();
    let ran = migrate(&server.url(&database));
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let told = format!("process {process} of the role {} holds the lock", role.name);
    assert!(ran.stderr.contains(&told), "{ran:?}");
    drop(session);
    wait_until("the lock is free", || migrate(&server.url(&database)).code() == Some(0));

    let mut session = Session::open(&server.url_as(&role, server.address(), &database));
    session.run(&format!("BEGIN; SELECT pg_advisory_lock({})", lock_of_migrations(&database)));
    let issuer = Issuer::start(&server.url(&database));
    let (_, token) = issuer.create("mine");
    assert_eq!(issuer.checks().verdict(&token), "");
}

#[test]
fn a_server_whose_schema_is_to_be_changed_waits_for_the_lock_and_names_who_holds_it() {
    let server = Postgres::shared();
    let database = server.database();
    make_schema_2(&server, &database);
    let mut session = server.session(&database);
    session.run(&format!("SELECT pg_advisory_lock({})", lock_of_migrations(&database)));
    let told = format!("process {} of the role keys holds the lock", session.backend());
    let issuer = Issuer::of(Server::with(&config(&server.url(&database))).start_listening());
    // It waits for half a minute, longer than a reading of the store may take.
    issuer.server.log().wait_for(&told, |line| line.contains(&told).then_some(()));
    assert_eq!(issuer.server.probe("/ready").status, 503);
    drop(session);
    wait_until("it is ready", || issuer.server.probe("/ready").status == 200);
    issuer.create("mine");
}
