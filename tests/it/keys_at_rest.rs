//! Whoever reads the store, its backup, its log or ours finds no secret: not a key's token, not a password,
//! not a session's cookie.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::http1::{Answer, Request};
use crate::harness::issuer::{self, Issuer, ROOT, config, made};
use crate::harness::postgres::{self, Postgres};
use crate::harness::server::Server;
use crate::harness::wait_until;

const PASSWORD: &str = "Kpassword-right-8Lz3xKrF4gU6";
const WRONG_PASSWORD: &str = "Kpassword-wrong-4Cm1uWsI6hQ0";
const WRONG_TOKEN: &str = "Kunknown-wrong-1Pw9aEuV7oC3";
/// A name, which is no secret: wherever it is not found, nobody searched.
const PLANTED: &str = "planted-name-5Tq8";

/// What happened in a test: the secrets that were used, and what the server said to those who used them wrongly.
struct Deeds {
    secrets: Vec<String>,
    denials: String,
}

fn start(store: &str) -> Issuer {
    let hash = bcrypt::hash(PASSWORD, 4).expect("bcrypt");
    let users = format!(
        "credentials: [bearer, basic, session]\n\
         users:\n- {{username: ann, password_hash: '{hash}', actor: {{id: ann, role: Admin}}}}\n"
    );
    Issuer::of(Server::with(&(config(store) + &users)).start())
}

/// Keys are made, used, rotated and revoked; people log in, rightly and wrongly, use their session and leave.
fn be_busy(issuer: &Issuer) -> Deeds {
    let admin = issuer.admin;
    let ask = |path: &str| Request::new(admin, "GET", path);
    let mut denials = Vec::new();
    let mut secrets = [PASSWORD, WRONG_PASSWORD, WRONG_TOKEN, ROOT].map(str::to_owned).to_vec();
    let mut checks = issuer.checks();
    for number in 0..20 {
        let (id, first) = issuer.create(&format!("{PLANTED}-{number}"));
        let (_, second) = made(&issuer::rotate(admin, id, 600).send());
        for token in [&first, &second] {
            assert_eq!(checks.verdict(token), "");
            assert_eq!(ask("/api/auth/actor").basic("api_key", token).send().status, 200);
        }
        if number % 2 == 0 {
            issuer.revoke(id);
            denials.push(ask("/api/auth/actor").bearer(&second).send());
            checks.verdict(&first);
        }
        secrets.extend([first, second]);
    }
    denials.push(issuer::create(admin, &format!("{PLANTED}-1")).send());
    denials.push(ask("/api/auth/keys").bearer(WRONG_TOKEN).send());
    checks.verdict(WRONG_TOKEN);

    let log_in = |password: &str| {
        let body = json!({"user": "ann", "password": password}).to_string();
        let request = Request::new(admin, "POST", "/login").header("content-type", "application/json");
        request.body(body.into_bytes()).send()
    };
    for number in 0..4 {
        let mut answer = log_in(PASSWORD);
        // On a busy machine a password may take longer than a request has.
        wait_until("a login", || {
            let is_in = answer.status == 200;
            if !is_in {
                answer = log_in(PASSWORD);
            }
            is_in
        });
        let [cookie, application] = [0, 1]
            .map(|index| answer.all("set-cookie")[index].split(';').next().expect("a cookie").to_owned());
        for cookie in [&cookie, &application] {
            let (_, value) = cookie.split_once('=').expect("a name and a value");
            assert!(value.len() > 32);
            secrets.push(value.to_owned());
        }
        assert_eq!(ask("/api/auth/actor").header("cookie", &cookie).send().status, 200);
        if number % 2 == 0 {
            let out = Request::new(admin, "POST", "/logout").header("cookie", &cookie).send();
            assert_eq!(out.status, 200, "{}", out.text());
            denials.push(ask("/api/auth/actor").header("cookie", &cookie).send());
        }
    }
    assert_eq!(crate::users::settle(|| ask("/api/auth/actor").basic("ann", PASSWORD).send()).status, 200);
    denials.push(crate::users::settle(|| ask("/api/auth/actor").basic("ann", WRONG_PASSWORD).send()));
    denials.push(log_in(WRONG_PASSWORD));
    let described = |answer: &Answer| format!("{answer:?}\n{}\n", answer.text());
    assert!(denials.iter().all(|answer| answer.status >= 400), "{denials:?}");
    let denials = denials.iter().map(described).collect();
    Deeds { secrets, denials }
}

/// Every form in which a secret could have been written down.
pub(crate) fn forms(secrets: &[String]) -> Vec<String> {
    let hex = |text: &str| {
        let digits: Vec<String> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        digits.concat()
    };
    let each = secrets.iter().flat_map(|secret| {
        let reversed: String = secret.chars().rev().collect();
        let mut forms = vec![secret.clone(), secret[4..].to_owned(), reversed];
        forms.extend([hex(secret), hex(secret).to_uppercase(), STANDARD.encode(secret)]);
        forms.extend(["api_key", "ann", "root"].map(|user| STANDARD.encode(format!("{user}:{secret}"))));
        // The padding and the digit before it depend on what follows.
        forms.iter().map(|form| form.trim_end_matches('=').to_owned()).collect::<Vec<_>>()
    });
    each.collect()
}

/// The files below a folder that hold one of these texts.
pub(crate) fn holding(folder: &Path, texts: &[String]) -> Vec<PathBuf> {
    let patterns = tempfile::NamedTempFile::new().unwrap();
    fs::write(&patterns, texts.join("\n")).unwrap();
    let mut grep = Command::new("grep");
    grep.env("LC_ALL", "C").args(["-r", "-a", "-l", "-F", "-f"]).arg(patterns.path()).arg(folder);
    let output = grep.output().expect("`grep` starts");
    // 0 is found and 1 is not found; a file that could not be read is neither.
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 1)));
    String::from_utf8(output.stdout).expect("paths are UTF-8").lines().map(PathBuf::from).collect()
}

#[track_caller]
pub(crate) fn assert_no_secret(folder: &Path, secrets: &[String]) {
    let found = holding(folder, &forms(secrets));
    assert!(found.is_empty(), "secrets are in {found:?}");
}

/// Writes down what the server told, and ends it.
fn tell(issuer: &mut Issuer, deeds: &Deeds, folder: &Path) {
    let metrics = issuer.server.metrics();
    assert!(metrics.contains("envoy_auth_tokens_keys_store_lag_seconds"), "{metrics}");
    fs::write(folder.join("metrics"), metrics).unwrap();
    fs::write(folder.join("denials"), &deeds.denials).unwrap();
    issuer.server.terminate();
    assert_eq!(issuer.server.wait().code(), Some(0));
    fs::write(folder.join("our-log"), issuer.server.log().text()).unwrap();
}

#[test]
fn sqlite_its_logs_and_its_metrics_hold_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    let planted = [PLANTED.to_owned()];
    let mut issuer = start(&format!("sqlite:{}/keys.db", store.display()));
    let deeds = be_busy(&issuer);
    // While it runs, most is in the log of writes; afterwards all is in the file.
    for file in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        assert!(store.join(file).exists(), "{file}");
    }
    assert_eq!(holding(&store, &planted), [store.join("keys.db-wal")]);
    assert_no_secret(&store, &deeds.secrets);
    tell(&mut issuer, &deeds, folder.path());
    let mut found = holding(folder.path(), &planted);
    found.sort();
    assert_eq!(found, [folder.path().join("our-log"), store.join("keys.db")]);
    assert_no_secret(folder.path(), &deeds.secrets);
    // The search finds a secret where one is.
    fs::write(folder.path().join("leak"), format!("a leak: {}", deeds.secrets.last().unwrap())).unwrap();
    assert_eq!(holding(folder.path(), &forms(&deeds.secrets)), [folder.path().join("leak")]);
}

#[test]
fn postgresql_its_backup_and_its_logs_hold_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let database = postgres.database();
    // Even when it writes down every statement with its values.
    postgres.psql("postgres", &format!("ALTER DATABASE {database} SET log_statement = 'all'"));
    let mut issuer = start(&postgres.url(&database));
    let deeds = be_busy(&issuer);
    tell(&mut issuer, &deeds, folder.path());
    fs::write(folder.path().join("dump"), postgres.dump(&database)).unwrap();
    fs::copy(postgres.log(), folder.path().join("its-log")).unwrap();
    postgres.psql("postgres", "CHECKPOINT");
    postgres.stop();

    let planted = [PLANTED.to_owned()];
    let mut found = holding(folder.path(), &planted);
    found.sort();
    let expected = ["dump", "its-log", "our-log"].map(|name| folder.path().join(name));
    assert_eq!(found, expected);
    for part in ["base", "pg_wal"] {
        let part = postgres.data().join(part);
        assert!(!holding(&part, &planted).is_empty(), "{}", part.display());
    }
    let mut secrets = deeds.secrets;
    secrets.push(postgres::PASSWORD.to_owned());
    assert_no_secret(folder.path(), &secrets);
    assert_no_secret(&postgres.data(), &secrets);
}
