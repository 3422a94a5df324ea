//! A SQLite store whose disk is full, and one whose file is removed, replaced, copied or brought back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::documents::{self, Block};
use crate::harness::issuer::{self, Issuer, config};
use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::small_disk::SmallDisk;
use crate::harness::{sqlite, wait_until};

/// A folder with a store in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("keys.db")
    }

    fn start(&self) -> Issuer {
        Issuer::start(&self.store())
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    /// The names of what is in it.
    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn create(issuer: &Issuer, name: &str) -> u16 {
    issuer::create(issuer.admin, name).send().status
}

/// How often the store failed where this was done: `read` or `write`.
fn store_errors(issuer: &Issuer, operation: &str) -> u64 {
    let metrics = issuer.server.metrics();
    let sample = format!("envoy_auth_tokens_keys_store_errors_total{{operation=\"{operation}\"}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&sample));
    found.unwrap_or_else(|| panic!("no count of errors in\n{metrics}")).parse().unwrap()
}

/// The names of the keys in a file that nobody has open.
fn names_of_keys(file: &Path) -> BTreeSet<String> {
    assert_eq!(sqlite::sql(file, "PRAGMA integrity_check"), "ok", "{}", file.display());
    sqlite::sql(file, "SELECT name FROM api_keys").lines().map(str::to_owned).collect()
}

fn said(issuer: &Issuer, text: &str) {
    issuer.server.log().wait_for(text, |line| line.contains(text).then_some(()));
}

/// Writes keys from several threads while something happens, and returns those that were acknowledged.
fn write_meanwhile(issuers: &[&Issuer], happens: impl FnOnce(BTreeSet<String>)) -> BTreeSet<String> {
    let (ended, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    thread::scope(|scope| {
        for (client, issuer) in issuers.iter().cycle().take(4).enumerate() {
            let (ended, acknowledged) = (&ended, &acknowledged);
            scope.spawn(move || {
                for number in 0.. {
                    let name = format!("meanwhile-{client}-{number}");
                    match create(issuer, &name) {
                        200 => drop(acknowledged.lock().unwrap().insert(name)),
                        status => assert_eq!(status, 503),
                    }
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        let so_far = || acknowledged.lock().unwrap().len();
        wait_until("keys are made", || so_far() >= 20);
        happens(acknowledged.lock().unwrap().clone());
        let before = so_far();
        wait_until("keys are made again", || so_far() >= before + 20);
        ended.store(true, Ordering::SeqCst);
    });
    acknowledged.into_inner().unwrap()
}

// ---- A full disk.

#[test]
fn on_a_full_disk_changes_fail_and_work_again_as_soon_as_there_is_space() {
    let disk = SmallDisk::with(2 << 20);
    let store = format!("sqlite:{}", disk.path().join("keys.db").display());
    let issuer = Issuer::of(Server::with(&config(&store)).behind(disk.launcher()).start());
    let (id, token) = issuer.create("before");
    let (rotated, _) = issuer.create("rotated");
    let mut checks = issuer.checks();
    for round in 0..3 {
        disk.fill();
        let acknowledged =
            (0..10_000).find(|number| create(&issuer, &format!("full-{round}-{number}")) == 503);
        assert!(acknowledged.is_some(), "the disk is never full");
        let errors = store_errors(&issuer, "write");
        for _ in 0..3 {
            let answers = [
                issuer::create(issuer.admin, "meanwhile"),
                issuer::rotate(issuer.admin, rotated, 0),
                issuer::revoke(issuer.admin, id),
            ];
            for answer in answers.map(issuer::Request::send) {
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert_eq!(answer.json()["message"], "Keys are unavailable");
            }
        }
        assert!(store_errors(&issuer, "write") >= errors + 9);
        // The disk is full for whoever writes, and for nobody who reads.
        assert_eq!(checks.verdict(&token), "");
        assert!(issuer.list().iter().any(|key| key["name"] == "before"));
        assert_eq!(issuer.server.probe("/ready").status, 200);

        disk.empty();
        assert_eq!(create(&issuer, &format!("after-{round}")), 200, "no restart, and not a moment later");
        let answer = issuer::rotate(issuer.admin, rotated, 600).send();
        assert_eq!(checks.verdict(&issuer::made(&answer).1), "");
    }
    issuer.revoke(id);
    assert_eq!(checks.verdict(&token), "401 Revoked API key");
    let log = issuer.server.log().text();
    assert!(log.contains("the disk is full: free space") || log.contains("disk I/O error"), "{log}");
    assert!(!log.contains("a row cannot be read"), "{log}");
}

// ---- A file that is removed.

#[test]
fn a_removed_file_takes_no_change_and_one_that_appears_is_opened() {
    let folder = Folder::new();
    let file = folder.file();
    let mut issuer = folder.start();
    let (_, token) = issuer.create("kept");
    let backup = folder.path("backup.db");
    sqlite::vacuum_into(&file, &backup);
    let (id, later) = issuer.create("later");
    let mut checks = issuer.checks();

    sqlite::remove(&file);
    // Before anybody noticed by himself.
    assert_eq!(create(&issuer, "lost"), 503);
    assert_eq!(issuer::revoke(issuer.admin, id).send().status, 503);
    said(&issuer, "its file was removed");
    wait_until("errors are counted", || store_errors(&issuer, "read") > 4);
    for token in [&token, &later] {
        assert_eq!(checks.verdict(token), "", "known keys go on from memory");
    }
    assert_eq!(create(&issuer, "lost"), 503);
    assert_eq!(folder.names(), BTreeSet::from(["backup.db".to_owned()]), "it is not made anew");

    // What is still being copied is not taken for a store.
    fs::write(&file, "").unwrap();
    said(&issuer, "the file is incomplete");
    let whole = fs::read(&backup).unwrap();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let errors = store_errors(&issuer, "read");
    wait_until("it was tried", || store_errors(&issuer, "read") > errors + 1);
    assert_eq!(create(&issuer, "lost"), 503);
    fs::remove_file(&file).unwrap();
    fs::write(
        &file,
        "this is no database, but it is as long as the header of one is, and then some more of it "
            .repeat(60),
    )
    .unwrap();
    wait_until("it was tried", || store_errors(&issuer, "read") > errors + 4);
    assert_eq!(create(&issuer, "lost"), 503);

    sqlite::replace(&file, &backup);
    wait_until("it writes again", || create(&issuer, "after") == 200);
    assert_eq!(checks.verdict(&token), "");
    issuer.server.terminate();
    assert!(issuer.server.wait().success());
    assert_eq!(names_of_keys(&file), BTreeSet::from(["after".to_owned(), "kept".to_owned()]));
}

#[test]
fn a_file_that_is_moved_away_is_whole_and_comes_back_as_it_was() {
    let folder = Folder::new();
    let issuer = folder.start();
    let (_, token) = issuer.create("kept");
    assert!(fs::metadata(folder.path("keys.db-wal")).unwrap().len() > 0, "nothing is to be moved");
    fs::rename(folder.file(), folder.path("away.db")).unwrap();
    said(&issuer, "its file was removed");
    wait_until("nothing of it is left", || folder.names() == BTreeSet::from(["away.db".to_owned()]));
    assert_eq!(names_of_keys(&folder.path("away.db")), BTreeSet::from(["kept".to_owned()]));
    assert_eq!(create(&issuer, "lost"), 503);

    fs::rename(folder.path("away.db"), folder.file()).unwrap();
    wait_until("it writes again", || create(&issuer, "after") == 200);
    assert_eq!(issuer.checks().verdict(&token), "");
}

// ---- A file that is replaced.

#[test]
fn a_file_that_takes_anothers_place_is_read_and_no_acknowledged_key_is_lost() {
    let folder = Folder::new();
    let file = folder.file();
    let mut issuers = [folder.start(), folder.start()];
    let (_, token) = issuers[0].create("kept");
    let backup = folder.path("backup.db");
    sqlite::vacuum_into(&file, &backup);
    let (_, later) = issuers[1].create("later");

    let both = [&issuers[0], &issuers[1]];
    let acknowledged = write_meanwhile(&both, |_| {
        // The former file keeps a name, so that it can be looked into.
        fs::hard_link(&file, folder.path("former.db")).unwrap();
        sqlite::replace(&file, &backup);
        for issuer in both {
            said(issuer, "the key store's new file is open");
        }
    });
    for issuer in both {
        let mut checks = issuer.checks();
        assert_eq!(checks.verdict(&token), "");
        wait_until("what the new file does not know is unknown", || !checks.verdict(&later).is_empty());
    }
    // What one of them writes, the other reads: they have the same file open.
    let (_, shared) = issuers[0].create("shared");
    let mut checks = issuers[1].checks();
    wait_until("the other knows it", || checks.verdict(&shared).is_empty());

    for issuer in &mut issuers {
        issuer.server.terminate();
        assert!(issuer.server.wait().success());
    }
    let expected = ["backup.db", "former.db", "keys.db"].map(str::to_owned);
    assert_eq!(folder.names(), BTreeSet::from(expected), "nothing is left of either -wal");
    let (former, new) = (names_of_keys(&folder.path("former.db")), names_of_keys(&file));
    assert!(former.contains("later") && !new.contains("later"), "the files were mixed");
    let lost: Vec<_> =
        acknowledged.iter().filter(|&name| !former.contains(name) && !new.contains(name)).collect();
    assert!(lost.is_empty(), "acknowledged and in neither file: {lost:?}");
    assert!(acknowledged.iter().any(|name| former.contains(name)));
    assert!(acknowledged.iter().any(|name| new.contains(name)));
}

#[test]
fn a_file_that_is_replaced_just_before_the_end_keeps_nothing_of_the_former_one() {
    let folder = Folder::new();
    let file = folder.file();
    let mut issuer = folder.start();
    issuer.create("kept");
    let backup = folder.path("backup.db");
    sqlite::vacuum_into(&file, &backup);
    issuer.create("later");
    sqlite::replace(&file, &backup);
    issuer.server.terminate();
    assert!(issuer.server.wait().success());
    assert_eq!(folder.names(), BTreeSet::from(["backup.db".to_owned(), "keys.db".to_owned()]));
    assert_eq!(names_of_keys(&file), BTreeSet::from(["kept".to_owned()]));
}

// ---- Backup and restore.

/// Runs `keys backup` with the configuration of this store.
fn back_up(store: &str, to: &Path) -> Ran {
    Server::with(&config(store)).run([Path::new("keys"), Path::new("backup"), to])
}

#[test]
fn a_backup_under_writes_has_every_key_that_was_acknowledged_before() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let issuer = folder.start();
    let (_, token) = issuer.create("kept");
    let backup = folder.path("backup.db");
    let before = Mutex::new(BTreeSet::new());
    write_meanwhile(&[&issuer], |so_far| {
        *before.lock().unwrap() = so_far;
        let ran = back_up(&folder.store(), &backup);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("{}: ", backup.display())), "{ran:?}");
        assert!(ran.stdout.contains(" keys, as of revision "), "{ran:?}");
    });
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!folder.names().iter().any(|name| name.contains("unfinished")), "{:?}", folder.names());
    let held = names_of_keys(&backup);
    let missing: Vec<_> = before.lock().unwrap().difference(&held).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");

    fs::copy(&backup, elsewhere.file()).unwrap();
    let restored = elsewhere.start();
    assert_eq!(restored.checks().verdict(&token), "");
    assert_eq!(restored.list().len(), held.len());
    assert_eq!(create(&restored, "another"), 200);
}

#[test]
fn a_backup_that_cannot_be_made_says_why_and_writes_over_nothing() {
    let folder = Folder::new();
    let (store, to) = (folder.store(), folder.path("backup.db"));
    let fails = |store: &str, to: &Path, reason: &str| {
        let before = folder.names();
        let ran = back_up(store, to);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(reason), "{reason}: {ran:?}");
        assert_eq!(folder.names(), before);
    };
    fails(&store, &to, "there is no key store at");
    folder.start().create("kept");
    fs::write(&to, "something else").unwrap();
    fails(&store, &to, "exists already: a backup does not overwrite a file");
    assert_eq!(fs::read(&to).unwrap(), b"something else");
    fails(&store, &folder.path("no such folder/backup.db"), "does not exist");
    let postgres = "postgres://user@127.0.0.1:1/keys?sslmode=disable";
    fails(postgres, &folder.path("new.db"), "copy it with pg_dump");
    let without =
        Server::with("users: [{username: a, password: correct-horse-battery-staple, actor: {id: a}}]").run([
            Path::new("keys"),
            Path::new("backup"),
            &to,
        ]);
    assert!(without.stderr.contains("no section `keys`"), "{without:?}");

    let disk = SmallDisk::with(2 << 20);
    let mut command = disk.command(BINARY);
    let setup = Server::with(&config(&store));
    command.env("ENVOY_AUTH_TOKENS_CONFIG", setup.write());
    command.args(["keys", "backup"]).arg(disk.path().join("backup.db"));
    disk.fill();
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let path = disk.path().join("backup.db").display().to_string();
    assert!(ran.stderr.contains(&format!("error: the backup {path} cannot be written: ")), "{ran:?}");
    assert!(!disk.outside("backup.db").exists());
}

#[test]
fn a_wal_that_a_killed_server_left_is_not_applied_to_the_file_in_its_place() {
    let folder = Folder::new();
    let (file, wal, backup) = (folder.file(), folder.path("keys.db-wal"), folder.path("backup.db"));
    let mut issuer = folder.start();
    let (_, token) = issuer.create("kept");
    assert_eq!(back_up(&folder.store(), &backup).code(), Some(0));
    let (_, later) = issuer.create("later");
    issuer.server.kill();
    assert!(fs::metadata(&wal).unwrap().len() > 0);
    let aside = folder.path("aside");
    fs::create_dir(&aside).unwrap();
    for name in ["keys.db", "keys.db-wal"] {
        fs::copy(folder.path(name), aside.join(name)).unwrap();
    }

    // Written over the file in place, and renamed into it.
    let over = |file: &Path, by: &Path| assert!(fs::copy(by, file).unwrap() > 0);
    for put in [over, sqlite::replace] {
        put(&file, &backup);
        let ran = Server::with(&config(&folder.store())).start_in_vain();
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("keys.db-wal may contain changes of another file"), "{said}");
        let ran = back_up(&folder.store(), &folder.path("another.db"));
        assert!(ran.stderr.contains("may contain changes of another file"), "{ran:?}");
        assert_eq!(fs::read(&wal).unwrap(), fs::read(aside.join("keys.db-wal")).unwrap(), "it is kept");
    }
    fs::remove_file(&wal).unwrap();
    let _ = fs::remove_file(folder.path("keys.db-shm"));
    let issuer = folder.start();
    let mut checks = issuer.checks();
    assert_eq!(
        (checks.verdict(&token), checks.verdict(&later)),
        (String::new(), "401 Invalid API key".to_owned())
    );

    // Both of them, copied by an operator, are whole once SQLite has joined them.
    let copied = aside.join("keys.db");
    let store = format!("sqlite:{}", copied.display());
    let ran = Server::with(&config(&store)).start_in_vain();
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("PRAGMA wal_checkpoint"), "{ran:?}");
    sqlite::sql(&copied, "PRAGMA wal_checkpoint(TRUNCATE)");
    let issuer = Issuer::start(&store);
    assert_eq!(issuer.checks().verdict(&later), "");
}

#[test]
fn the_lines_about_backup_and_restore_run() {
    let folder = Folder::new();
    let mut issuer = folder.start();
    let (_, token) = issuer.create("kept");
    let (id, revoked) = issuer.create("revoked");
    let blocks = documents::document("docs/backup.md").blocks_below("Backup and restore");
    let parts: Vec<_> = blocks.iter().map(Block::parts).collect();
    let [("sh", back_up), ("sh", restore), ("sh", restore_stopped)] = parts[..] else {
        panic!("{blocks:#?}")
    };
    let setup = Server::with(&config(&folder.store()));
    let terminal = |script: &str| {
        let script =
            script.replace("/var/lib/envoy-auth-tokens/", &format!("{}/", folder.0.path().display()));
        let script = script.replace("/var/backups/", &format!("{}/backup-", folder.0.path().display()));
        let mut command = Command::new("sh");
        let path = format!("{}:/usr/bin:/bin", Path::new(BINARY).parent().unwrap().display());
        command.args(["-euc", &script]).env("PATH", path).env("ENVOY_AUTH_TOKENS_CONFIG", setup.write());
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(0), "{ran:?}");
    };
    terminal(back_up);
    // The follower knows of neither before the file is another one.
    issuer.revoke(id);
    let (_, later) = issuer.create("later");
    terminal(restore);
    let mut checks = issuer.checks();
    wait_until("the backup is read", || checks.verdict(&later) == "401 Invalid API key");
    let verdict = checks.verdict(&revoked);
    assert!(verdict.starts_with("401 "), "what was revoked since the backup stays so: {verdict:?}");
    assert!(issuer.list().iter().any(|key| key["name"] == "revoked" && key["isRevoked"] != true));
    assert_eq!(checks.verdict(&token), "");
    let (_, later) = issuer.create("later");
    issuer.server.kill();
    terminal(restore_stopped);
    let issuer = folder.start();
    let mut checks = issuer.checks();
    assert_eq!(
        (checks.verdict(&token), checks.verdict(&later)),
        (String::new(), "401 Invalid API key".to_owned())
    );
}
