//! `import datasette`, held against a real Datasette with the same file.

use std::path::Path;
use std::process::Command;

use crate::harness::datasette::Datasette;
use crate::harness::server::{BINARY, Ran, run};
use crate::harness::tools::DatasetteRelease;
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
        "suppressed": {"description": "no allow block at all"},
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
    'suppressed': ['plain'],
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
    vec!["-i", "fixtures.db", "private.db", "analysed.db", "suppressed.db", "unnamed.db"]
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
        // The file does not tell whether a database can change, and those cannot be downloaded.
        ("/fixtures.db", NONE),
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
        ("/fixtures/SECRET/1.json", [false, true, false]),
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
        // SQL could be run on it, for which 1.0 asks whether one may see the database.
        ("/private/shared", [false, false, true]),
        ("/private/shared/1.json", [false, false, true]),
        // A route sees no query, so that whoever may not run SQL sees no page that could run some.
        ("/analysed", [false, false, true]),
        ("/analysed?sql=select+1", [false, false, true]),
        ("/analysed/plain?_where=1", [false, false, true]),
        ("/analysed/harmless.json", [false, true, true]),
        ("/_memory?sql=select+1", [true, false, false]),
        ("/:memory:", [true, false, false]),
        ("/suppressed/plain", NONE),
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
    for part in ["suppressed", "allow_sql", "SHA-256", "Datasette should keep its file"] {
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
            "databases: {db: {allow: true, permissions: {view-table: 5, view-database: maybe}}}",
            "view-table: an allow",
        ),
        ("databases: {db: {allow: true, permissions: []}}", "databases.db.permissions"),
        ("databases: {db: {allow: true, permission: {view-table: {id: a}}}}", "databases.db.permission"),
        ("databases: {_internal: {allow: true}, db: {}}", "databases._internal: closed"),
        (
            "allow: {id: a}\ndatabases: {db: {permissions: {view-database: {id: b}, view-table: {id: b}}}}",
            "0.65 and 1.0 decide differently",
        ),
        (
            "databases: {db: {allow: false, queries: {q: {sql: x, is_trusted: false, write: true}}}}",
            "not trusted",
        ),
        ("databases: {db: {allow: true, tables: {'a%41': {allow: {id: a}}}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, allow_everything: {id: a}}}", "databases.db.allow_everything"),
        ("databases: {db: {allow: true, tables: {t: []}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, tables: [t]}}", "databases.db: closed"),
        ("databases: {db: {allow: {id: a}, tables: {'%41': {}, A: {allow: true}}}}", "databases.db: closed"),
        ("databases: {db: {allow: true, allow_sql: false}}", "databases.db: allow_sql"),
        ("databases: {db: {allow: true}}\nsettings: {default_allow_sql: false}", "databases.db: allow_sql"),
        ("databases: {db: {allow: {id: a}, allow_sql: {role: b}}}", "no single allow block"),
        ("databases: {'-': {allow: true}, db: {}}", "databases.-: closed: Datasette has pages"),
        (
            "databases: {db: {allow: false, tables: {'-': {allow: true}}}}",
            "databases.db.tables.-: closed: 1.0 has pages",
        ),
        ("databases: {'2020': {allow: true}}", "closed: databases that the file does not name"),
        ("databases: {db: {}}\npermissions: {debug-menu: true}", "permissions.debug-menu"),
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
    assert!(ran.stdout.contains("/-/insert', methods: [POST], allow: true"), "{ran:?}");
    assert!(!ran.stdout.contains("/-/drop"), "{ran:?}");
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

/// Who asks: nobody, and the tokens of [`TOKENS`].
const ACTORS: [Option<&str>; 4] = [None, Some(ALICE), Some(ROOT), Some(BOT)];
const BOT: &str = "bot-token-012345678901";

const TOKENS: &str = r#""plugins": {"datasette-auth-tokens": {"tokens": [
    {"token": "alice-token-0123456789", "actor": {"id": "alice", "role": "staff"}},
    {"token": "root-token-01234567890", "actor": {"id": "root"}},
    {"token": "bot-token-012345678901", "actor": {"id": "bot", "tags": ["a", "b"]}}
]}}"#;

/// Files of which both Datasettes read every part that they know.
const FILES: [(&str, &str); 5] = [
    (
        "allow blocks of databases and tables",
        r#""databases": {
            "data": {"allow": {"id": "root"}, "tables": {"docs": {"allow": true}, "labels": {"allow": {"id": "alice"}}}},
            "other": {"allow": true, "tables": {"Docs": {"allow": {"id": "alice"}}, "DOCS": {"allow": {"role": "staff"}},
                "labels": {"allow": null}, "docs_view": {"allow": false}, "-": {"allow": {"id": "root"}}},
                "queries": {"q": {"sql": "select 1", "allow": {"id": "bot"}}, "labels": {"sql": "select 2", "allow": false},
                    "add": {"sql": "insert into labels (name) values ('x')", "write": true, "allow": {"id": "alice"}},
                    "untrusted": {"sql": "select 3", "is_trusted": false}}}
        }"#,
    ),
    (
        "the instance and allow_sql",
        r#""allow": {"id": ["root", "alice"]}, "allow_sql": {"id": "alice"}, "databases": {
            "data": {"allow_sql": {"id": "root"}, "queries": {"q": "select 1"}},
            "other": {"allow": {"role": "staff"}, "tables": {"docs": {"allow": {}}, "labels": {"allow": {"unauthenticated": true}}},
                "queries": {"q": {"sql": "select 1", "allow": {"tags": "b"}}}}
        }"#,
    ),
    (
        "permissions at every level",
        r#""permissions": {"view-instance": {"id": "alice"}, "insert-row": {"id": "bot"}, "debug-menu": true}, "databases": {
            "data": {"permissions": {"view-database": {"id": "root"}, "view-table": {"id": ["root", "alice"]},
                    "execute-sql": {"id": ["root", "bot"]}, "view-query": {"id": ["root", "bot"]}, "create-table": {"id": "alice"},
                    "view-database-download": {"id": "root"}},
                "tables": {"docs": {"permissions": {"view-table": {"id": "bot"}, "execute-sql": {"id": "bot"}, "view-database": {"id": "bot"}, "insert-row": false, "update-row": {"id": "alice"},
                    "delete-row": {"id": "alice"}, "drop-table": {"id": "alice"}, "alter-table": {"id": "alice"}}}},
                "queries": {"q": {"sql": "select 1", "permissions": {"view-query": {"id": "alice"}}}}},
            "other": {"allow": true, "permissions": {"view-table": {"id": "root"}, "update-row": {"id": "bot"}},
                "tables": {"labels": {"allow": {"id": "alice"}, "permissions": {"view-table": {"id": ["alice", "bot"]}}}}}
        }"#,
    ),
    (
        "an instance that is closed, and what is open in it",
        r#""allow": false, "databases": {
            "data": {"permissions": {"view-table": {"id": "alice"}}, "tables": {"docs": {"allow": {"id": "alice"}}}},
            "other": {"allow": {"id": "bot"}, "queries": {"q": {"sql": "select 1", "allow": true,
                "permissions": {"view-query": {"id": "bot"}}}}}
        }"#,
    ),
    (
        "SQL that is off by default",
        r#""allow_sql": {"id": "root"}, "settings": {"default_allow_sql": false}, "databases": {
            "data": {"allow": true, "queries": {"q": {"sql": "select 1"}}},
            "other": {"allow": true, "allow_sql": {"id": "alice"}}
        }"#,
    ),
];

const TABLES: &str = "
import sqlite3
for name in ('data', 'other'):
    with sqlite3.connect(name + '.db') as db:
        db.execute('create table labels (id integer primary key, name text)')
        db.execute('create table docs (id integer primary key, name text, label references labels)')
        db.execute('create table [-] (id integer primary key, name text)')
        db.execute('create view docs_view as select * from docs')
        for table in ('labels', 'docs', '-'):
            for row in range(9):
                db.execute(f'insert into [{table}] (name) values (?)', (str(row),))
        db.execute('create index by_name on docs (name)')
        db.execute('analyze')
";

fn tables(folder: &Path) -> Vec<&'static str> {
    let mut python = Command::new("python3");
    python.args(["-c", TABLES]).current_dir(folder);
    let ran = run(python, "");
    assert!(ran.status.success(), "{ran:?}");
    vec!["data.db", "other.db"]
}

/// Every path of the table below a database, and how it is asked for.
fn requests() -> Vec<(&'static str, String)> {
    let mut requests: Vec<(&str, String)> = [
        "/",
        "/.json",
        "/-/actor.json",
        "/-/versions.json",
        "/-/config.json",
        "/-/permissions",
        "/-/databases.json",
        "/-/schema.json",
        "/_memory",
        "/_memory/-/query.json?sql=select+1",
        "/_internal",
        "/:memory:",
    ]
    .map(|path| ("GET", path.to_owned()))
    .into();
    let pages = [
        "",
        ".json",
        ".db",
        "?sql=select+1",
        ".json?sql=select+1",
        "/-/query?sql=select+1",
        "/-/query.json?sql=select+1",
        "/-/queries.json",
        "/-/schema.json",
        "/-/execute-write",
        "/q",
        "/q.json",
        "/q.csv",
        "/add",
        "/untrusted.json",
        "/-",
        "/-/1",
        "/-/query",
        "/sqlite_stat1.json",
        "/SQLite_Stat1/1",
        "/sqlite_master.json",
    ];
    let of_table = [
        "",
        ".json",
        ".csv?_stream=1",
        ".json?_shape=array",
        ".json?_labels=on&_facet=label",
        ".json?_where=1",
        ".json?_where=(select+count(*)+from+docs)",
        "?_sort=id&_where=1",
        "/1",
        "/1.json",
        "/1.json?_labels=on",
        "/-/autocomplete?q=1",
        "/-/schema.json",
    ];
    let writes = ["/-/create", "/-/execute-write", "/-/queries/store", "/q", "/add", "/untrusted"];
    let table_writes =
        ["/-/insert", "/-/upsert", "/-/alter", "/-/set-column-type", "/-/count", "/3/-/update"];
    for database in ["/data", "/other"] {
        requests.extend(pages.iter().map(|page| ("GET", format!("{database}{page}"))));
        requests.extend(writes.iter().map(|path| ("POST", format!("{database}{path}"))));
        for table in ["docs", "DOCS", "labels", "Labels", "docs_view"] {
            requests.extend(of_table.iter().map(|page| ("GET", format!("{database}/{table}{page}"))));
            requests.extend(table_writes.iter().map(|path| ("POST", format!("{database}/{table}{path}"))));
        }
        // Without `confirm` no table is dropped.
        requests.push(("POST", format!("{database}/docs/-/drop")));
        requests.push(("POST", format!("{database}/docs/9/-/delete")));
    }
    for path in ["/Data", "/Data/docs.json", "/data/d~6Fcs.json", "/other/d~6Fcs/1", "/d~61ta/docs"] {
        requests.push(("GET", path.to_owned()));
    }
    requests
}

fn ask(address: std::net::SocketAddr, (method, path): &(&str, String), token: Option<&str>) -> u16 {
    let mut request = Request::new(address, method, path);
    if let Some(token) = token {
        request = request.bearer(token);
    }
    if *method == "POST" {
        let body =
            r#"{"rows": [], "row": {"name": "x"}, "update": {"name": "x"}, "table": "made", "columns": []}"#;
        request = request.header("content-type", "application/json").body(body.into());
    }
    request.send().status
}

/// Where either Datasette denies somebody something, so do we: of each of [`FILES`], for all paths and actors.
#[test]
fn nothing_is_open_that_either_datasette_denies() {
    let (upstream, requests) = (Upstream::start(), requests());
    let open: usize = std::thread::scope(|scope| {
        let of_each = FILES.map(|(what, file)| {
            let file = format!("{{{TOKENS}, {file}}}");
            let (upstream, requests) = (&upstream, &requests);
            scope.spawn(move || compare(what, &file, upstream, requests))
        });
        of_each.into_iter().map(|file| file.join().expect("a comparison that holds")).sum()
    });
    // It is not right by closing everything.
    assert!(open > 500, "{open}");
}

/// How many requests we let through, each of which Datasette does not deny.
fn compare(what: &str, file: &str, upstream: &Upstream, requests: &[(&str, String)]) -> usize {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("datasette.json");
    std::fs::write(&path, file).unwrap();
    let [before_1, since_1] = [DatasetteRelease::Before1, DatasetteRelease::Since1]
        .map(|release| (release, Datasette::of(release, file, tables, &[])));
    let options: &[(&[&str], &[&(DatasetteRelease, Datasette)])] = &[
        (&[], &[&before_1, &since_1]),
        (&["--datasette-version", "0.65"], &[&before_1]),
        (&["--datasette-version", "1.0"], &[&since_1]),
    ];
    let mut open = 0;
    // One of the files differs most between the versions.
    let is_different = what.starts_with("permissions");
    for (option, releases) in &options[..if is_different { 3 } else { 1 }] {
        let imported = import(&path, option);
        assert_eq!(imported.code(), Some(0), "{what}: {imported:?}");
        let server = Server::with(&imported.stdout).start();
        let ours = Envoy::start(&Shape::plain(), &server, upstream);
        for (request, actor) in requests.iter().flat_map(|request| ACTORS.map(|actor| (request, actor))) {
            if ask(ours.address(), request, actor) != 200 {
                continue;
            }
            open += 1;
            for (release, theirs) in *releases {
                let status = ask(theirs.address(), request, actor);
                let config = &imported.stdout;
                assert_ne!(status, 403, "{what}: {request:?} {actor:?} {release:?} {option:?}\n{config}");
            }
        }
    }
    open
}

/// What 1.0 has: whom we let through of nobody, alice, root and the bot.
#[test]
fn what_1_0_has_is_carried_over() {
    const ALL: [bool; 4] = [true; 4];
    const NONE: [bool; 4] = [false; 4];
    const ALICE_ALONE: [bool; 4] = [false, true, false, false];
    const ROOT_ALONE: [bool; 4] = [false, false, true, false];
    const BOT_ALONE: [bool; 4] = [false, false, false, true];
    let (_, file) = FILES[2];
    let upstream = Upstream::start();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("datasette.json");
    std::fs::write(&path, format!("{{{TOKENS}, {file}}}")).unwrap();
    let imported = import(&path, &["--datasette-version", "1.0"]);
    let server = Server::with(&imported.stdout).start();
    let ours = Envoy::start(&Shape::plain(), &server, &upstream);
    for (method, path, expected) in [
        ("GET", "/", ALICE_ALONE),
        ("GET", "/-/actor.json", ALL),
        ("GET", "/data", ROOT_ALONE),
        ("GET", "/data.db", NONE),
        // view-table lets alice pass, too, but execute-sql does not.
        ("GET", "/data/labels.json", ROOT_ALONE),
        ("GET", "/data/q.json", ALICE_ALONE),
        ("GET", "/data/-/query.json?sql=select+1", ROOT_ALONE),
        ("GET", "/other/-/query?sql=select+1", ALL),
        ("GET", "/other/-/queries", NONE),
        ("GET", "/other/docs", ROOT_ALONE),
        ("GET", "/other/docs/-/autocomplete?q=1", ROOT_ALONE),
        // Of one level all must pass.
        ("GET", "/other/labels", ALICE_ALONE),
        ("POST", "/data/-/create", ALICE_ALONE),
        ("POST", "/other/-/create", NONE),
        ("POST", "/data/docs/-/insert", NONE),
        ("POST", "/data/labels/-/insert", BOT_ALONE),
        ("POST", "/data/labels/-/upsert", NONE),
        ("POST", "/other/labels/-/upsert", BOT_ALONE),
        ("POST", "/data/docs/1/-/update", ALICE_ALONE),
        ("POST", "/other/labels/1/-/update", BOT_ALONE),
        ("POST", "/other/labels/1/-/delete", NONE),
        ("POST", "/data/docs/1/-/delete", ALICE_ALONE),
        ("POST", "/data/docs/-/alter", ALICE_ALONE),
        ("POST", "/data/DOCS/-/drop", ALICE_ALONE),
        ("POST", "/data/docs/-/set-column-type", NONE),
        ("POST", "/data/q", NONE),
    ] {
        let request = (method, path.to_owned());
        let passed = ACTORS.map(|actor| ask(ours.address(), &request, actor) == 200);
        assert_eq!(passed, expected, "{method} {path}\n{}", imported.stdout);
    }
    assert!(imported.stderr.contains("the write API"), "{}", imported.stderr);
}

/// Kinds of files that people have, and the word that helps with each.
#[test]
fn every_kind_of_file_gets_a_useful_word() {
    let token = "{token: {$env: T}, actor: {id: root}}";
    let plugin = format!("plugins: {{datasette-auth-tokens: {{tokens: [{token}]}}}}");
    let with = |more: &str| format!("{plugin}\n{more}\n");
    let cases: &[(&str, String, i32, &str)] = &[
        ("nothing", String::new(), 1, "it is empty; expected"),
        ("a list", "- title: x\n".into(), 1, "it is a list; expected"),
        (
            "metadata alone, with columns that are called like permissions",
            "title: Trees\ndatabases: {trees: {tables: {street: {columns: {allowed: x, permissions: y}}}}}\n".into(),
            1,
            "no token and no allow block",
        ),
        ("settings.json", r#"{"default_page_size": 10, "default_allow_sql": false}"#.into(), 1, "settings.json"),
        (
            "settings in the file, and a prefix",
            with("settings: {default_page_size: 10, base_url: /prefix/}"),
            1,
            "settings.base_url",
        ),
        (
            "tokens in a database",
            "plugins: {datasette-auth-tokens: {manage_tokens: true, param: _auth_token}}\n\
             permissions: {auth-tokens-create: {id: \"*\"}}\n"
                .into(),
            1,
            "its tokens are in a database",
        ),
        (
            "people log in by another plugin",
            "allow: {gh_login: octo}\nplugins: {datasette-auth-github: {client_id: {$env: ID}, client_secret: {$file: x}}}\n"
                .into(),
            0,
            "people who log in by datasette-auth-github: add `tokens`, `users` or `keys`",
        ),
        ("an instance without names of databases", with("allow: {id: root}"), 0, "name each, as in `databases:"),
        ("the list of tokens as a reference", "plugins: {datasette-auth-tokens: {tokens: {$env: T}}}\n".into(), 1, "write it out"),
        ("tokens as a mapping", "plugins: {datasette-auth-tokens: {tokens: {secret: {id: a}}}}\n".into(), 1, "write it out"),
        ("all plugins as a reference", "plugins: {$env: PLUGINS}\n".into(), 1, "plugins: it is a reference ($env)"),
        ("a reference in an allow block", with("databases: {d: {allow: {id: {$env: ID}}}}"), 0, "databases.d.allow: Datasette follows no"),
        (
            "JSON with comments",
            "{\n  // who may\n  \"allow\": {\"id\": \"root\"}, \"title\": \"x\"\n}\n".into(),
            1,
            "take the comments out",
        ),
        ("a template", "title: {{ title }}\n".into(), 1, "the file looks like a template"),
        ("merge keys", with("x: &x {allow: {id: root}}\ndatabases: {d: {<<: *x}}"), 1, "write the entries out"),
        ("a key twice", with("title: a\ntitle: b"), 1, "is here twice"),
        ("a bare number as a name", with("databases: {2020: {allow: true}}"), 1, "Datasette reads this bare key as a number"),
        ("what another YAML takes for true", with("databases: {d: {allow: {id: yes}}}"), 1, "Datasette reads this bare value as true or false"),
        ("a tab", with("databases:\n\td: {}"), 1, "a tab where"),
        ("two documents", with("---\ntitle: x"), 1, "a second document"),
        ("a tag", with("title: !env TITLE"), 1, "tags (`!name`) are not supported"),
        ("allow: null", with("allow: null\ndatabases: {d: {allow: , tables: {t: {allow: ~}}}}"), 0, "databases.d: closed but for"),
        ("allow: a name", with("databases: {d: {allow: root}}"), 0, "databases.d.allow: an allow block is"),
        ("queries and templates", with("extra_css_urls: [/x.css]\ndatabases: {d: {queries: {q: select 1}}}"), 0, "databases.d: closed but for"),
        ("permissions of plugins", with("permissions: {datasette-write: {id: root}}\nallow: true"), 0, "permissions.datasette-write: left out"),
        ("an old name", with("databases: {\":memory:\": {allow: {id: root}}}"), 0, "`_memory`"),
        (
            "tables at the top",
            with("tables: {t: {allow: {id: root}}}\ndatabases: {d: {allow: true}}"),
            1,
            "move it into `databases`",
        ),
        ("Datasette's own secrets", with("databases: {_internal: {allow: true}}"), 0, "databases._internal: closed"),
    ];
    for (what, text, code, word) in cases {
        let ran = import_text(text);
        assert_eq!(ran.code(), Some(*code), "{what}: {ran:?}");
        assert!(ran.stderr.contains(word), "{what}: {word}: {}", ran.stderr);
    }
    // A byte order mark and Windows' line endings are none of the differences.
    for text in
        [format!("\u{feff}{}", with("allow: {id: root}")), with("allow: {id: root}").replace('\n', "\r\n")]
    {
        let ran = import_text(&text);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(ran.stdout.contains(r#"allow: {"id":"root"}"#), "{ran:?}");
    }
}
