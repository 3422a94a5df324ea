//! `import datasette`, held against a real Datasette with the same file.

use std::path::Path;
use std::process::Command;

use crate::harness::datasette::Datasette;
use crate::harness::server::{BINARY, Ran, run};
use crate::harness::{Envoy, Request, Server, Shape, Upstream};

const ALICE: &str = "alice-token-0123456789";
const ROOT: &str = "root-token-01234567890";

/// What is open to whom, on every level.
const METADATA: &str = r#"{
    "title": "A story",
    "databases": {
        "fixtures": {
            "allow": true,
            "tables": {
                "secret": {"allow": {"id": ["alice", "bob"]}},
                "a b/c": {"allow": {"role": "staff"}},
                "with.dot": {"allow": false},
                "plain": {"description": "no allow block"}
            },
            "queries": {
                "count": "select count(*) from plain",
                "for_root": {"sql": "select 1", "allow": {"id": "root"}},
                "add": {"sql": "insert into plain (name) values ('x')", "write": true, "allow": {"id": "alice"}}
            }
        },
        "private": {
            "allow": {"id": "root"},
            "tables": {"shared": {"allow": true}}
        },
        "analysed": {
            "allow": {"id": "*"},
            "allow_sql": {"id": "root"},
            "queries": {"harmless": {"sql": "select 2"}}
        },
        "unsaid": {"description": "no allow block at all"},
        "_memory": {"allow": {"unauthenticated": true}}
    },
    "plugins": {
        "datasette-auth-tokens": {
            "tokens": [
                {"token": {"$env": "ALICE_TOKEN"}, "actor": {"id": "alice", "role": "staff"}},
                {"token": "root-token-01234567890", "actor": {"id": "root"}}
            ],
            "param": "_auth_token"
        }
    }
}
"#;

const DATABASES: &str = "
import sqlite3
for name, tables in {
    'fixtures': ['plain', 'secret', 'a b/c', 'with.dot'],
    'private': ['shared', 'hidden'],
    'analysed': ['plain'],
    'unsaid': ['plain'],
    'unnamed': ['plain'],
}.items():
    with sqlite3.connect(name + '.db') as db:
        for table in tables:
            db.execute(f'create table [{table}] (id integer primary key, name text)')
            db.execute(f'insert into [{table}] (name) values (\"one\")')
";

const ENVIRONMENT: [(&str, &str); 1] = [("ALICE_TOKEN", ALICE)];

fn databases(folder: &Path) -> Vec<&'static str> {
    let mut python = Command::new("python3");
    python.args(["-c", DATABASES]).current_dir(folder);
    let ran = run(python, "");
    assert!(ran.status.success(), "{ran:?}");
    // An immutable database can be downloaded.
    vec!["-i", "fixtures.db", "private.db", "analysed.db", "unsaid.db", "unnamed.db"]
}

fn import(file: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(["import", "datasette"]).arg(file).args(more);
    run(command, "")
}

/// Imports a document that stands in a file of its own.
fn import_text(text: &str) -> Ran {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("datasette.yaml");
    std::fs::write(&file, text).unwrap();
    import(&file, &[])
}

/// The status of a GET as nobody, as alice, as root.
fn statuses(address: std::net::SocketAddr, path: &str) -> [u16; 3] {
    let get = || Request::new(address, "GET", path);
    [get(), get().bearer(ALICE), get().bearer(ROOT)].map(|request| request.send().status)
}

#[test]
fn an_imported_file_lets_through_what_datasette_does_and_nothing_else() {
    let datasette = Datasette::showing(METADATA, databases, &ENVIRONMENT);
    let imported = import(&datasette.metadata(), &[]);
    assert_eq!(imported.code(), Some(0), "{imported:?}");
    assert!(!format!("{imported:?}").contains(ROOT), "{imported:?}");
    let server = Server::with(&imported.stdout).env("ALICE_TOKEN", ALICE);
    assert_eq!(
        server.run(["check"]).code(),
        Some(0),
        "{}\n{}",
        imported.stdout,
        server.run(["check"]).stderr
    );
    let server = server.start();
    // An upstream that forbids nothing: whatever it answers we let through.
    let upstream = Upstream::start();
    let ours = Envoy::start(&Shape::plain(), &server, &upstream);

    const ALL: [bool; 3] = [true, true, true];
    const NONE: [bool; 3] = [false, false, false];
    // The path, and whom we let through: nobody, alice, root.
    let cases: &[(&str, [bool; 3])] = &[
        ("/fixtures", ALL),
        ("/fixtures.json", ALL),
        ("/fixtures.db", ALL),
        ("/fixtures?sql=select+1", ALL),
        ("/fixtures/plain", ALL),
        ("/fixtures/plain.json?_shape=array", ALL),
        ("/fixtures/plain/1", ALL),
        ("/fixtures/plain/1.json", ALL),
        ("/fixtures/count.csv", ALL),
        ("/fixtures/secret", [false, true, false]),
        ("/fixtures/secret.json", [false, true, false]),
        ("/fixtures/secret.csv", [false, true, false]),
        ("/fixtures/secret/1", [false, true, false]),
        ("/fixtures/secret/1.json", [false, true, false]),
        ("/fixtures/a+b~2Fc", [false, true, false]),
        ("/fixtures/a+b~2Fc/1.json", [false, true, false]),
        ("/fixtures/with~2Edot", NONE),
        ("/fixtures/with~2Edot.json", NONE),
        ("/fixtures/with~2Edot/1", NONE),
        ("/fixtures/with.dot/1", NONE),
        ("/fixtures/for_root", [false, false, true]),
        ("/fixtures/for_root.json", [false, false, true]),
        // Other spellings of the same names, and none of them at all.
        ("/fixtures/s~65cret", NONE),
        ("/fixtures/s~65cret/1", NONE),
        ("/fixtures/secre~74.json", NONE),
        ("/f~69xtures/secret", NONE),
        ("/fixtures/a~20b~2Fc", NONE),
        ("/fixtures/a+b~2fc", NONE),
        ("/fixtures/with~2edot", NONE),
        ("/fixtures//secret", NONE),
        ("/fixtures/x/../secret", [false, false, false]),
        ("/fixtures/secret/", NONE),
        ("/private", [false, false, true]),
        ("/private/hidden", [false, false, true]),
        ("/private/hidden.json", [false, false, true]),
        ("/private/shared", ALL),
        ("/private/shared/1.json", ALL),
        // A route sees no query, so that whoever may not run SQL sees no page that could run some.
        ("/analysed", [false, false, true]),
        ("/analysed?sql=select+1", [false, false, true]),
        ("/analysed/plain?_where=1", [false, false, true]),
        ("/analysed/harmless.json", [false, true, true]),
        ("/_memory?sql=select+1", [true, false, false]),
        ("/:memory:", [true, false, false]),
        ("/unsaid/plain", NONE),
        ("/unnamed/plain", NONE),
        ("/", NONE),
        ("/-/static/app.css", ALL),
    ];
    for &(path, expected) in cases {
        let passed = statuses(ours.address(), path).map(|status| status == 200);
        assert_eq!(passed, expected, "{path}\n{}", imported.stdout);
        let theirs = statuses(datasette.address(), path);
        for (passed, status) in passed.into_iter().zip(theirs) {
            assert!(!passed || status != 403, "{path}: Datasette says {theirs:?}");
        }
        // A pass everywhere is one that Datasette grants, too: the table is not right by forbidding all.
        if expected == ALL {
            assert!(theirs.iter().all(|status| [200, 301, 302].contains(status)), "{path}: {theirs:?}");
        }
    }
    // Writing: only queries can be posted to.
    let post =
        |path: &str, token: &str| Request::new(ours.address(), "POST", path).bearer(token).body(Vec::new());
    assert_eq!(post("/fixtures/add", ALICE).send().status, 200);
    assert_eq!(post("/fixtures/add", ROOT).send().status, 403);
    assert_eq!(post("/fixtures/plain", ALICE).send().status, 403);
    assert_eq!(
        Request::new(ours.address(), "GET", &format!("/fixtures/secret?_auth_token={ALICE}")).send().status,
        200
    );
    for part in ["unsaid", "allow_sql", "SHA-256", "Datasette should keep its file"] {
        assert!(imported.stderr.contains(part), "{part}: {}", imported.stderr);
    }

    // In front of that very Datasette both say the same, because it is shown the token.
    let both = Envoy::start(&Shape::plain(), &server, &Upstream::at(datasette.address()));
    assert_eq!(statuses(both.address(), "/fixtures/secret.json"), [401, 200, 403]);
    assert_eq!(statuses(both.address(), "/fixtures/for_root.json"), [401, 403, 200]);
}

#[test]
fn datasette_may_go_on_guarding_sql() {
    let datasette = Datasette::showing(METADATA, databases, &ENVIRONMENT);
    let imported = import(&datasette.metadata(), &["--datasette-guards-sql"]);
    assert_eq!(imported.code(), Some(0), "{imported:?}");
    let server = Server::with(&imported.stdout).env("ALICE_TOKEN", ALICE).start();
    let both = Envoy::start(&Shape::plain(), &server, &Upstream::at(datasette.address()));
    assert_eq!(statuses(both.address(), "/analysed/plain.json"), [401, 200, 200]);
    assert_eq!(statuses(both.address(), "/analysed.json?sql=select+1"), [401, 403, 200]);
}

#[test]
fn what_cannot_be_expressed_is_closed_and_reported() {
    let plugin = "plugins: {datasette-auth-tokens: [{token: {$env: T}, actor: {id: a}}]}\n";
    let cases = [
        ("databases: {db: {allow: maybe}}", "databases.db.allow"),
        ("databases: {db: {allow: {id: {$env: ID}}}}", "databases.db.allow"),
        (
            "databases: {db: {allow: true, permissions: {view-table: {id: a}}}}",
            "databases.db.permissions.view-table",
        ),
        ("databases: {db: {allow: true, permissions: []}}", "databases.db.permissions"),
        ("databases: {db: {allow: true, tables: {'a%41': {allow: {id: a}}}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, allow_everything: {id: a}}}", "databases.db.allow_everything"),
        ("databases: {db: {allow: true, tables: {t: []}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, tables: [t]}}", "databases.db: closed"),
        ("databases: {db: {allow: {id: a}, tables: {'%41': {}, A: {allow: true}}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, allow_sql: false}}", "databases.db: allow_sql"),
        ("databases: {db: {allow: true}}\nsettings: {default_allow_sql: false}", "databases.db: allow_sql"),
        ("databases: {db: {allow: {id: a}, allow_sql: {role: b}}}", "no single allow block"),
        ("databases: {db: {}}\npermissions: {execute-sql: true}", "permissions.execute-sql"),
    ];
    for (text, reported) in cases {
        let ran = import_text(&format!("{plugin}{text}\n"));
        assert_eq!(ran.code(), Some(0), "{text}: {ran:?}");
        assert!(ran.stderr.contains(reported), "{text}: {}", ran.stderr);
        let open = ran.stdout.lines().filter(|line| line.contains("/db") && !line.contains("allow: false"));
        assert_eq!(open.collect::<Vec<_>>(), [""; 0], "{text}: {}", ran.stdout);
    }
    let ran = import_text(&format!(
        "{plugin}databases: {{db: {{allow: true, permissions: {{insert-row: true}}}}}}\n"
    ));
    assert!(ran.stderr.contains("insert-row") && ran.stdout.contains("'/db"), "{ran:?}");
}

#[test]
fn tokens_keep_their_references_and_lose_their_plain_text() {
    let ran = import_text(
        "plugins:
  datasette-auth-tokens:
  - {token: {$env: A}, actor: {id: a, team: {$env: TEAM}}}
  - {token: {$file: secrets/b}, actor: {id: b}}
  - {token: hunter2-7Xq9ZvKw3Lm5, actor: {id: c}}
  - {token: {$env: A}, actor: {id: again}}
  - {token: 'hunter2, with a comma', actor: {id: d}}
  - {token: {$env: E}, actor: {id: 'key:e'}}
  - {token: {$env: F}, actor: {id: f, _r: {a: [vi]}}}
  - {token: {$env: G}}
  datasette-other: {}
",
    );
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let digest = crate::commands::sha256_of("hunter2-7Xq9ZvKw3Lm5");
    for part in [
        r#"token: {"$env":"A"}"#,
        r#"token: {"$file":"secrets/b"}"#,
        &format!("sha256: \"{digest}\""),
        r#""team":{"$env":"TEAM"}"#,
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert_eq!(ran.stdout.matches("actor:").count(), 3, "{}", ran.stdout);
    for part in [
        "tokens[1]: the path",
        "tokens[2]: the plain",
        "tokens[3]",
        "tokens[4]",
        "tokens[5]",
        "tokens[6]",
        "tokens[7]",
        "datasette-other",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
}

#[test]
fn what_is_no_datasette_configuration_is_refused_and_nothing_is_overwritten() {
    for text in [
        "[]",
        "a: b: c",
        "databases: []\nplugins: {datasette-auth-tokens: []}",
        "title: nobody could pass",
        "plugins: {datasette-auth-tokens: 5}",
        "plugins: {datasette-auth-tokens: []}\nplugins: {}",
        "settings: {base_url: /prefix/}\nplugins: {datasette-auth-tokens: [{token: {$env: T}, actor: {id: a}}]}",
    ] {
        let ran = import_text(text);
        assert_eq!(ran.code(), Some(1), "{text}: {ran:?}");
        assert!(ran.stderr.contains("datasette.yaml") && ran.stdout.is_empty(), "{text}: {ran:?}");
    }
    let folder = tempfile::TempDir::new().unwrap();
    let (file, output) = (folder.path().join("metadata.json"), folder.path().join("config.yaml"));
    std::fs::write(&file, METADATA).unwrap();
    let to_output = || import(&file, &["--output", output.to_str().unwrap()]);
    assert_eq!(to_output().code(), Some(0), "{:?}", to_output());
    let written = std::fs::read_to_string(&output).unwrap();
    assert_eq!(written, import(&file, &[]).stdout);
    let again = to_output();
    assert_eq!(again.code(), Some(1));
    assert!(again.stderr.contains("config.yaml"), "{again:?}");
}
