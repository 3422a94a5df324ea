//! Servers whose PostgreSQL loses changes under them, by a dump that is restored or by a fail-over: what one of them knows
//! as revoked stays denied, and it says so.

use std::fmt::Write as _;

use envoy_auth_tokens::keys::store::SCHEMA;
use serde_json::Value;
use sha2::{Digest as _, Sha384};
use tempfile::NamedTempFile;

use crate::harness::issuer::{self, Issuer, ROOT};
use crate::harness::load::Load;
use crate::harness::pgbouncer::{PgBouncer, Pooling};
use crate::harness::postgres::{Postgres, Rights};
use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::{stored_keys, wait_until};
use crate::keys_postgres::{migrate, read_only};

const REVOKED: &str = "401 Revoked API key";

impl Issuer {
    /// The fields of the first line of the log with this message, now or soon.
    #[track_caller]
    fn line(&self, message: &str) -> Value {
        self.server.log().wait_for(message, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["message"].as_str()?.contains(message).then_some(line)
        })
    }

    /// A sample of the metrics of keys.
    fn metric(&self, name: &str) -> i64 {
        let (metrics, name) = (self.server.metrics(), format!("envoy_auth_tokens_keys_{name} "));
        let sample = metrics.lines().find_map(|line| line.strip_prefix(&name));
        sample.unwrap_or_else(|| panic!("{name}\n{metrics}")).parse().expect("a whole number")
    }

    /// Waits until it has read the store, which stands at this revision.
    fn has_read(&self, revision: i64) {
        wait_until("the store is read", || self.metric("store_revision") == revision);
    }

    /// Accepts the history of the store by the command line.
    fn accept_history(&self) -> Ran {
        let mut command = std::process::Command::new(BINARY);
        command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{}", self.admin));
        command.args(["keys", "accept-history", "--token-file", "-"]);
        run(command, ROOT)
    }

    /// It has said that the store lost changes, of which one was the revocation of the key of this name.
    fn has_told_of_the_loss(&self, known: i64, revision: i64, name: &str) {
        let line = self.line("the history of the key store was rewritten");
        assert_eq!((&line["level"], &line["known_revision"]), (&"ERROR".into(), &known.into()), "{line}");
        assert_eq!(line["revision"], revision, "{line}");
        let line = self.line("keys or sessions that were dead are live again");
        assert_eq!((&line["level"], &line["denied_digests"]), (&"ERROR".into(), &1.into()), "{line}");
        // By the id it is revoked again, whatever else has the name.
        let keys = line["keys"].as_str().expect("a text");
        let id = keys.strip_prefix(&format!("{name} (id ")).and_then(|rest| rest.strip_suffix(')'));
        assert!(id.is_some_and(|id| id.parse::<i64>().is_ok()), "{line}");
        assert!(line["message"].as_str().is_some_and(|text| text.contains("First revoke again")), "{line}");
        // The list does not call it live either.
        let keys = self.list();
        let key = keys.iter().find(|key| key["name"] == name).expect("the key");
        assert_eq!(key["denied"], "held_back", "{key}");
        assert_eq!((self.metric("history_rewrites_total"), self.metric("denied_by_history")), (1, 1));
    }
}

fn revision(server: &Postgres, database: &str) -> i64 {
    server.psql(database, "SELECT value FROM api_revision").parse().expect("a number")
}

fn schema(server: &Postgres, database: &str) -> i64 {
    server.psql(database, "SELECT max(version) FROM api_migrations").parse().expect("a number")
}

// ---- A dump of an older version.

/// Makes of an empty database what versions made that knew two migrations.
pub(crate) fn make_schema_2(server: &Postgres, database: &str) {
    let mut sql = "CREATE TABLE api_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
                   installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, \
                   checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL);\n"
        .to_owned();
    for (version, migration) in [
        (1, include_str!("../../src/keys/store/postgres_0001.sql")),
        (2, include_str!("../../src/keys/store/postgres_0002.sql")),
    ] {
        let checksum: String = Sha384::digest(migration).iter().map(|byte| format!("{byte:02x}")).collect();
        let row = format!("({version}, 'of an older version', true, '\\x{checksum}', 0)");
        let columns = "version, description, success, checksum, execution_time";
        writeln!(sql, "{migration};\nINSERT INTO api_migrations ({columns}) VALUES {row};").unwrap();
    }
    server.psql(database, &sql);
}

/// The dump of a database of theirs, with two keys.
fn dump_of_schema_2(server: &Postgres, database: &str) -> NamedTempFile {
    make_schema_2(server, database);
    server.insert_keys(database, 2);
    server.archive(database)
}

/// The id of the second of its keys.
fn second(issuer: &Issuer) -> i64 {
    let keys = issuer.list();
    let key = keys.iter().find(|key| key["name"] == "stored key 2").expect("the second key");
    key["id"].as_i64().expect("a number")
}

#[test]
fn a_dump_of_an_older_version_that_is_restored_under_a_server_is_brought_up_to_date() {
    let server = Postgres::shared();
    let database = server.database();
    let dump = dump_of_schema_2(&server, &database);
    let issuer = Issuer::start(&server.url(&database));
    assert_eq!(schema(&server, &database), SCHEMA);
    let (kept, revoked) = (stored_keys::token(1), stored_keys::token(2));
    issuer.revoke(second(&issuer));
    let (_, later) = issuer.create("later");
    let known = revision(&server, &database);
    issuer.has_read(known);
    let load = Load::on(&issuer.server, &[(&kept, ""), (&revoked, REVOKED)]);

    server.restore_archive(&database, &dump);
    issuer.server.log().wait_for("saying what is wrong", |line| {
        line.contains("its schema is that of an older version").then_some(())
    });
    let line = issuer.line("schema was brought up to date");
    assert_eq!((&line["before"], &line["schema"]), (&2.into(), &SCHEMA.into()), "{line}");
    let restored = revision(&server, &database);
    assert!(restored < known, "{restored} {known}");
    issuer.has_told_of_the_loss(known, restored, "stored key 2");
    load.go_on_for(50);
    load.end();
    let mut checks = issuer.checks();
    assert_eq!(checks.verdict(&later), "401 Invalid API key");
    let (_, after) = issuer.create("after");
    assert_eq!(checks.verdict(&after), "");

    let ran = issuer.accept_history();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    wait_until("the store's word counts", || checks.verdict(&revoked).is_empty());
    assert_eq!((issuer.metric("history_rewrites_total"), issuer.metric("denied_by_history")), (1, 0));
}

#[test]
fn a_dump_of_an_older_version_is_named_by_servers_that_may_not_migrate_and_that_go_on() {
    let server = Postgres::shared();
    let database = server.database();
    let role = server.role(&database, Rights::Rows);
    let dump = dump_of_schema_2(&server, &database);
    assert_eq!(migrate(&server.url(&database)).code(), Some(0));
    let url = server.url_as(&role, server.address(), &database);
    let writer = Issuer::start(&url);
    let reader = Issuer::of(Server::with(&read_only(&url)).start());
    let (kept, revoked) = (stored_keys::token(1), stored_keys::token(2));
    writer.revoke(second(&writer));
    let known = revision(&server, &database);
    let both = [&writer, &reader];
    both.iter().for_each(|issuer| issuer.has_read(known));
    let questions = [(&*kept, ""), (&*revoked, REVOKED)];
    let loads = both.map(|issuer| Load::on(&issuer.server, &questions));

    server.restore_archive(&database, &dump);
    let numbers = format!("schema is number 2, and this version needs number {SCHEMA}");
    let told = |line: &str| {
        (line.contains(&numbers) && line.contains("run `envoy-auth-tokens keys migrate`")).then_some(())
    };
    for issuer in both {
        issuer.server.log().wait_for("what to do", told);
        assert_eq!(issuer.server.probe("/ready").status, 200);
        assert_eq!(issuer.metric("history_rewrites_total"), 0);
    }
    assert_eq!(issuer::create(writer.admin, "meanwhile").send().status, 503);
    loads.iter().for_each(|load| load.go_on_for(50));
    assert_eq!(schema(&server, &database), 2);

    assert_eq!(migrate(&server.url(&database)).code(), Some(0));
    let restored = revision(&server, &database);
    for issuer in both {
        issuer.has_told_of_the_loss(known, restored, "stored key 2");
        issuer.line("the key store is back");
    }
    wait_until("keys are made again", || issuer::create(writer.admin, "after").send().status == 200);
    for load in loads {
        load.go_on_for(50);
        load.end();
    }
}

// ---- A fail-over that loses commits.

/// Two servers on a primary with a hot standby, and a revocation that the standby has not received when the primary is
/// lost.  `lead` brings the servers to the standby, which was promoted.
fn fail_over(primary: &Postgres, standby: &Postgres, database: &str, url: &str, lead: impl FnOnce()) {
    let (here, there) = (Issuer::start(url), Issuer::start(url));
    let both = [&here, &there];
    let (_, kept) = here.create("kept");
    let (id, revoked) = here.create("revoked");
    standby.catch_up_with(primary);
    standby.stop_receiving();
    here.revoke(id);
    let known = revision(primary, database);
    both.iter().for_each(|issuer| issuer.has_read(known));
    let loads = both.map(|issuer| Load::on(&issuer.server, &[(&*kept, ""), (&*revoked, REVOKED)]));

    primary.kill();
    standby.promote();
    lead();
    let live = "SELECT count(*) FROM api_keys WHERE name = 'revoked' AND revoked_at IS NULL";
    assert_eq!(standby.psql(database, live), "1", "the revocation is lost");
    let promoted = revision(standby, database);
    for issuer in both {
        issuer.has_told_of_the_loss(known, promoted, "revoked");
    }
    for load in loads {
        load.go_on_for(50);
        load.end();
    }

    wait_until("the history is accepted", || here.accept_history().code() == Some(0));
    for issuer in both {
        let mut checks = issuer.checks();
        wait_until("the store's word counts", || checks.verdict(&revoked).is_empty());
        assert_eq!(checks.verdict(&kept), "");
        assert_eq!((issuer.metric("history_rewrites_total"), issuer.metric("denied_by_history")), (1, 0));
    }
    // What is revoked now is revoked there, too.
    here.revoke(id);
    let mut checks = there.checks();
    wait_until("the revocation arrives", || checks.verdict(&revoked) == REVOKED);
}

#[test]
fn a_fail_over_between_the_hosts_of_the_url_brings_no_revoked_key_back() {
    let primary = Postgres::start();
    let database = primary.database();
    let standby = primary.standby();
    let hosts = format!("{},{}", primary.address(), standby.address());
    let url = format!("{}?target_session_attrs=read-write", primary.url_at(hosts, &database));
    fail_over(&primary, &standby, &database, &url, || ());
}

#[test]
fn a_fail_over_behind_pgbouncer_brings_no_revoked_key_back_though_the_new_primary_went_on() {
    let primary = Postgres::start();
    let database = primary.database();
    let standby = primary.standby();
    let bouncer = PgBouncer::start(&primary, Pooling::Transaction);
    fail_over(&primary, &standby, &database, &bouncer.url(&database), || {
        // The servers find a revision that is as new as theirs, and newer.
        let other = Issuer::start(&standby.url(&database));
        for name in ["first", "second", "third"] {
            other.create(name);
        }
        drop(other);
        bouncer.lead_to(&standby);
    });
}
