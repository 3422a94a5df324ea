//! Real applications, which read requests in their own ways, behind a real Envoy: what an administrator's page shows comes
//! to nobody else, however it is asked for.
//!
//! Each request of a table reaches that page when the application is asked directly, so that it is an attack at all.
//! Then it goes through the hardened Envoy that the command `envoy` prints, and through a plain one with
//! `failure_mode_allow: true`, as nobody and as a Viewer.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::http1::Request;
use crate::harness::log::Log;
use crate::harness::{Server, Shape, Stack, Upstream, tools};
use crate::recipes::Radicale;

const ALICE: &str = "alice-token-0123456789";
const ROOT: &str = "root-token-01234567890";

const TOKENS: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice, role: Viewer}}
- {token: root-token-01234567890, actor: {id: root, role: Admin}}
";

/// What the applications say to administrators.
const SECRET: &str = "for administrators only";

/// One request of a table.
#[derive(Debug, Clone)]
struct Attack<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

const GET: Attack<'static> = Attack { method: "GET", path: "/", host: "app.example", headers: &[] };

impl Attack<'_> {
    fn to(&self, address: SocketAddr) -> Request {
        let request = Request::new(address, self.method, self.path).host(self.host).headers(self.headers);
        // What a proxy adds, and WSGI servers need.
        let request = request.header("x-forwarded-for", "192.0.2.1").header("connection", "close");
        if self.method == "GET" { request } else { request.body(Vec::new()) }
    }

    /// Asks the application itself.
    #[track_caller]
    fn hits(&self, application: SocketAddr) {
        let answer = self.to(application).send();
        assert!(answer.text().contains(SECRET), "no attack: {self:?} {answer:?}");
    }

    /// Asks as nobody and as a Viewer.
    #[track_caller]
    fn fails(&self, stack: &Stack) {
        for request in [self.to(stack.address()), self.to(stack.address()).bearer(ALICE)] {
            let answer = request.send();
            assert!(!answer.text().contains(SECRET), "{self:?} got {answer:?} {}", answer.text());
        }
    }
}

/// The hardened Envoy, and a plain one that lets errors pass.
fn both(config: &str, application: SocketAddr) -> [Stack; 2] {
    let plain = Shape::plain().filter(json!({ "failure_mode_allow": true }));
    [
        Stack::printed(config, Upstream::at(application)),
        Stack::before(Server::with(config), plain, Upstream::at(application)),
    ]
}

#[track_caller]
fn hold(stacks: &[Stack], application: SocketAddr, attacks: &[Attack<'_>]) {
    for attack in attacks {
        attack.hits(application);
        for stack in stacks {
            attack.fails(stack);
        }
    }
}

/// A process that says where it listens; it dies with this value.
struct Application {
    child: Child,
    address: SocketAddr,
    _log: Log,
}

impl Application {
    fn start(who: &'static str, mut command: Command, said: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{who} does not start: {error}"));
        let log = Log::of(who, &mut child);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut application = Self { child, address: nowhere, _log: log.clone() };
        application.address = log.wait_for("saying where it listens", |line| {
            let (_, address) = line.split_once(said)?;
            address.split(' ').next()?.parse().ok()
        });
        application
    }

    fn express() -> Self {
        let mut command = Command::new("node");
        command.arg(folder().join("router.mjs")).arg(tools::express());
        Self::start("Express", command, "listening on ")
    }

    fn gunicorn() -> Self {
        let mut command = tools::gunicorn();
        command.args(["--bind", "127.0.0.1:0", "--no-control-socket", "paths:application"]);
        command.arg("--chdir").arg(folder()).env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start("gunicorn", command, "Listening at: http://")
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // gunicorn ends its workers when it is asked to end.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn folder() -> std::path::PathBuf {
    tools::root().join("tests/it/applications")
}

/// What B1 of Radicale and gunicorn are asked with.
const PREFIXES: &str = "
routes:
- {path_prefix: /public, allow: true}
- {path_prefix: /admin, allow: {role: Admin}}
- {host: admin.example, allow: {role: Admin}}
default: {}
";

const EVENT: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//example//EN\r\nBEGIN:VEVENT\r\nUID:NAME\r\n\
    DTSTAMP:20260101T000000Z\r\nDTSTART:20260401T160000Z\r\nSUMMARY:TEXT\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

fn event(name: &str, text: &str) -> String {
    EVENT.replace("NAME", name).replace("TEXT", text)
}

/// Calendars that everybody may read and write who gets there: who gets there is ours to say.
fn open_radicale(test: u8) -> Radicale {
    let file = "[server]\nhosts = 127.0.0.1:5232\n[auth]\ntype = none\n[rights]\ntype = from_file\n\
        file = rights\n[storage]\nfilesystem_folder = /var/lib/radicale/collections\n";
    Radicale::configured(test, file, |storage| {
        let rights = "[all]\nuser: .*\ncollection: .*\npermissions: RrWw\n";
        std::fs::write(storage.parent().unwrap().join("rights"), rights).unwrap();
        for folder in ["admin/secret", "public/plans", "alice/plans"] {
            let folder = storage.join("collection-root").join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(".Radicale.props"), r#"{"tag": "VCALENDAR"}"#).unwrap();
        }
        let put = |path: &str, text: String| {
            std::fs::write(storage.join("collection-root").join(path), text).unwrap();
        };
        put("admin/secret/e.ics", event("e", SECRET));
        put("public/plans/p.ics", event("p", "for everybody"));
        put("alice/plans/a.ics", event("a", "for alice"));
    })
}

#[test]
fn no_header_names_another_folder_of_radicale() {
    let radicale = open_radicale(3);
    let stacks = both(&format!("{TOKENS}{PREFIXES}"), radicale.address());
    let attacks = [
        ("/public/admin/secret/e.ics", "X-Script-Name", "/public"),
        ("/public/admin/secret/e.ics", "x-script-name", "/public/"),
        ("/public/admin/secret/e.ics", "X-SCRIPT-NAME", "/public"),
        ("/public/plans/admin/secret/e.ics", "X-Script-Name", "/public/plans"),
        ("/public//admin/secret/e.ics", "X-Script-Name", "/public"),
        ("/public/admin/secret/", "X-Script-Name", "/public"),
    ];
    for (path, name, value) in attacks {
        hold(&stacks, radicale.address(), &[Attack { path, headers: &[(name, value)], ..GET }]);
    }
    // One line too many, and spellings that another server would take for this name.
    for headers in [
        &[("X-Script-Name", ""), ("X-Script-Name", "/public")][..],
        &[("X-Script-Name", "/public"), ("X-Script-Name", "/public")],
        &[("X_Script_Name", "/public")],
        &[("X.Script.Name", "/public")],
        &[("SCRIPT_NAME", "/public")],
        &[("Script-Name", "/public")],
        &[("X-Forwarded-Prefix", "/public")],
        &[("X-Original-URL", "/admin/secret/e.ics")],
    ] {
        for stack in &stacks {
            Attack { path: "/public/admin/secret/e.ics", headers, ..GET }.fails(stack);
        }
    }
    for stack in &stacks {
        let root = stack.get("/admin/secret/e.ics").bearer(ROOT).send();
        assert!(root.text().contains(SECRET), "an Admin reads it: {root:?}");
        let everybody = stack.get("/public/plans/p.ics").send();
        assert!(everybody.text().contains("for everybody"), "{everybody:?}");
    }
}

#[test]
fn nothing_moves_into_an_admins_folder_or_out_of_it() {
    let radicale = open_radicale(0);
    let stacks = both(&format!("{TOKENS}{PREFIXES}"), radicale.address());
    let stored = |path: &str| radicale.collections().join(path).exists();
    let moving = |stack: &Stack, from: &str, to: &str, headers: &[(&str, &str)]| {
        let request = stack.request("MOVE", from).header("destination", to).headers(headers);
        request.bearer(ALICE).header("x-forwarded-for", "192.0.2.1").send().status
    };
    let targets = [
        "/admin/secret/new.ics",
        "http://app.example/admin/secret/new.ics",
        "http://app.example:80/admin/secret/new.ics",
        "https://app.example/admin/secret/new.ics",
        "//app.example/admin/secret/new.ics",
        "/%61dmin/secret/new.ics",
        "/public/../admin/secret/new.ics",
        "/public/%2e%2e/admin/secret/new.ics",
        "//admin/secret/new.ics",
        "/admin//secret/new.ics",
        "/admin/secret/new.ics?x",
        "/admin/secret/new.ics#x",
        "/admin%2fsecret/new.ics",
        "admin/secret/new.ics",
        "/public/plans/../../admin/secret/new.ics",
        " /admin/secret/new.ics",
        "/admin/secret/new.ics, /alice/plans/new.ics",
        "http://admin.example/alice/plans/new.ics",
        "",
    ];
    let headers: [&[(&str, &str)]; 4] = [
        &[],
        &[("destination", "/alice/plans/b.ics")],
        &[("X-Script-Name", "/alice")],
        &[("X-HTTP-Method-Override", "GET")],
    ];
    for stack in &stacks {
        for (target, headers) in
            targets.iter().flat_map(|target| headers.iter().map(move |headers| (*target, *headers)))
        {
            let status = moving(stack, "/alice/plans/a.ics", target, headers);
            assert!(matches!(status, 307 | 400 | 403), "{target:?} {headers:?}: {status}");
            assert!(!stored("admin/secret/new.ics"), "{target:?} {headers:?}");
            assert!(stored("alice/plans/a.ics"), "{target:?} {headers:?}");
        }
        for source in ["/admin/secret/e.ics", "/%61dmin/secret/e.ics", "/public/../admin/secret/e.ics"] {
            let status = moving(stack, source, "/alice/plans/stolen.ics", &[]);
            assert!(matches!(status, 400 | 403), "{source}: {status}");
            assert!(stored("admin/secret/e.ics") && !stored("alice/plans/stolen.ics"), "{source}");
        }
        // Among her own, and for whoever may.
        let there = moving(stack, "/alice/plans/a.ics", "/alice/plans/b.ics", &[]);
        let back = moving(stack, "/alice/plans/b.ics", "/alice/plans/a.ics", &[]);
        assert_eq!((there, back), (201, 201));
    }
    // It is an attack where nobody decides: the application itself would do it.
    let direct = Request::new(radicale.address(), "MOVE", "/alice/plans/a.ics").header("connection", "close");
    assert_eq!(direct.header("destination", "/admin/secret/new.ics").send().status, 201);
    assert!(stored("admin/secret/new.ics"));
}

#[test]
fn no_header_names_another_path_of_gunicorns_application() {
    let gunicorn = Application::gunicorn();
    let stacks = both(&format!("{TOKENS}{PREFIXES}"), gunicorn.address);
    fn attack<'a>(path: &'a str, headers: &'a [(&'a str, &'a str)]) -> Attack<'a> {
        Attack { path, headers, ..GET }
    }
    let attacks = [
        attack("/public/admin/x", &[("SCRIPT_NAME", "/public")]),
        attack("/public/admin", &[("script_name", "/public")]),
        attack("/public/plans/admin/x?y", &[("Script_Name", "/public/plans")]),
        attack("/public/admin/x", &[("SCRIPT_NAME", "/public"), ("X-Script-Name", "/")]),
        attack("/public/admin/x", &[("SCRIPT_NAME", ""), ("SCRIPT_NAME", "/public")]),
    ];
    hold(&stacks, gunicorn.address, &attacks);
    for name in ["PATH_INFO", "path.info", "script-name", "Script.Name", "X-Forwarded-Uri", "X-Original-URI"]
    {
        for stack in &stacks {
            attack("/public/admin/x", &[(name, "/admin")]).fails(stack);
        }
    }
    for stack in &stacks {
        assert!(stack.get("/admin/x").bearer(ROOT).send().text().contains(SECRET), "an Admin reads it");
        assert!(stack.get("/public/x").send().text().contains("for everybody"));
    }
}

/// Both Envoys before Express, under rules that close one page and open all others.
fn express_behind(rules: &str, application: &Application) -> [Stack; 2] {
    both(&format!("{TOKENS}{rules}"), application.address)
}

#[test]
fn no_spelling_of_a_path_opens_an_admins_page_of_express() {
    let express = Application::express();
    let strict =
        "routes: [{path: /admin, allow: {role: Admin}}]\ndefault: {allow: true}\npaths: {case: ignore}\n";
    let lenient = "routes: [{path: /admin, allow: {role: Admin}}]\ndefault: {allow: true}\n\
        paths: {case: ignore, permit: [parameters, empty_segment, encoded_slash, encoded_delimiter]}\n";
    let stacks: Vec<Stack> =
        [strict, lenient].iter().flat_map(|rules| express_behind(rules, &express)).collect();
    let paths = [
        "/admin",
        "/admin/",
        "/Admin",
        "/ADMIN/",
        "/aDmIn/?x",
        "/admin?x=1",
        "/admin%3fx",
        "/admin%23x",
        "/admin%3Fx/y",
        "/ADMIN%23",
        "/admin;x=1",
        "/admin/;x",
        "/admin;",
        "/;x/admin",
        "/admin%3bx",
        "//admin",
        "///ADMIN//",
        "/%2fadmin",
        "/%2Fadmin%2f",
        "/%5cadmin",
        "/\\admin",
        "/admin\\",
        "/%61dmin",
        "/%41DMIN",
        "/./admin",
        "/x/../admin",
        "/%2e/admin",
        "/x/%2e%2e/admin",
        "/x%2f..%2fadmin",
        "/admin/.",
        "/admin/x/..",
        "/admin/%2e",
        "/x/..;y/admin",
        "/;%2fadmin",
        "/%2f;x/admin",
        "//;/ADMIN;x/",
    ];
    let attacks: Vec<_> = paths.iter().map(|path| Attack { path, ..GET }).collect();
    hold(&stacks, express.address, &attacks);
    for method in ["POST", "PUT", "OPTIONS", "PATCH"] {
        hold(&stacks, express.address, &[Attack { method, path: "/Admin/", ..GET }]);
    }
    for stack in &stacks {
        for path in ["/admin", "/admin/", "/ADMIN"] {
            assert_eq!(stack.get(path).bearer(ROOT).send().text(), SECRET, "{path}");
        }
        assert_eq!(stack.get("/other").bearer(ALICE).send().text(), "GET for everybody");
    }
}

#[test]
fn no_spelling_of_a_host_opens_an_admins_site_of_express() {
    let express = Application::express();
    let rules = "routes: [{host: admin.example, allow: {role: Admin}}]\ndefault: {allow: true}\n";
    let stacks = express_behind(rules, &express);
    let hosts = [
        "admin.example",
        "ADMIN.example",
        "admin.example.",
        "admin.example..",
        "%61dmin.example",
        "%61dmin.example.",
        "admin%2eexample",
        "admin.example:",
        "admin.example:80",
        "admin.example.:8080",
        "Admin.Example:",
    ];
    for host in hosts {
        hold(&stacks, express.address, &[Attack { host, ..GET }]);
    }
    // Some of these Express or Node itself does not take for that host; another application might.
    for host in [
        "admin.example;x",
        "admin.example,x",
        "x,admin.example",
        "x@admin.example",
        "admin.example\\x",
        "admin.example/x",
        "admin.example?x",
        "admin.example#x",
        "adm\u{ad}in.example",
        "\u{ff41}dmin.example",
    ] {
        for stack in &stacks {
            Attack { host, ..GET }.fails(stack);
        }
    }
    let headers: [&[(&str, &str)]; 5] = [
        &[("X-Forwarded-Host", "admin.example")],
        &[("X-Forwarded-Host", "%61dmin.example")],
        &[("X-Forwarded-Host", "admin.example, app.example")],
        &[("x-forwarded-host", "admin.example:80")],
        &[("X-Forwarded-Host", "ADMIN.example")],
    ];
    for headers in headers {
        hold(&stacks, express.address, &[Attack { headers, ..GET }]);
    }
    for (name, value) in [
        ("Forwarded", "host=admin.example"),
        ("X-Host", "admin.example"),
        ("X-Original-Host", "admin.example"),
        ("X_Forwarded_Host", "admin.example"),
    ] {
        for stack in &stacks {
            Attack { headers: &[(name, value)], ..GET }.fails(stack);
        }
    }
    for stack in &stacks {
        assert_eq!(stack.get("/").host("admin.example").bearer(ROOT).send().text(), SECRET);
        assert_eq!(stack.get("/").host("app.example:").bearer(ALICE).send().text(), "GET for everybody");
    }
}

#[test]
fn no_header_or_parameter_names_another_method_for_express() {
    let express = Application::express();
    let rules =
        "routes: [{path: /things, methods: [DELETE], allow: {role: Admin}}]\ndefault: {allow: true}\n";
    let stacks = express_behind(rules, &express);
    let post = |path, headers| Attack { method: "POST", path, headers, ..GET };
    let attacks = [
        post("/things?_method=DELETE", &[]),
        post("/things?_method=delete", &[]),
        post("/things?a=1&_method=DELETE", &[]),
        post("/things?%5fmethod=DELETE", &[]),
        post("/things/?_method=DELETE", &[]),
        post("/things", &[("X-HTTP-Method-Override", "DELETE")]),
        post("/things/", &[("x-http-method-override", "delete")]),
        Attack { method: "DELETE", path: "/things", ..GET },
        Attack { method: "DELETE", path: "/things/", ..GET },
    ];
    hold(&stacks, express.address, &attacks);
    for stack in &stacks {
        assert_eq!(stack.request("DELETE", "/things").bearer(ROOT).body(Vec::new()).send().text(), SECRET);
        assert_eq!(stack.post("/things").bearer(ALICE).body(Vec::new()).send().text(), "POST for everybody");
    }
}

#[test]
fn no_header_or_parameter_makes_a_move_of_a_post() {
    const TARGET: (&str, &str) = ("Destination", "/admin/x");
    let express = Application::express();
    let rules = "routes: [{path_prefix: /admin, allow: {role: Admin}}]\ndefault: {allow: true}\n";
    let stacks = express_behind(rules, &express);
    let post = |path, headers| Attack { method: "POST", path, headers, ..GET };
    let attacks = [
        Attack { method: "MOVE", path: "/files", headers: &[TARGET], ..GET },
        post("/files?_method=MOVE", &[TARGET]),
        post("/files/?a&%5fmethod=move", &[TARGET]),
        post("/files", &[TARGET, ("X-HTTP-Method-Override", "MOVE")]),
        post("/files", &[("x-http-method-override", "move"), TARGET]),
    ];
    hold(&stacks, express.address, &attacks);
    for stack in &stacks {
        let own =
            |method| stack.request(method, "/files").header("destination", "/public/x").body(Vec::new());
        assert_eq!(own("MOVE").send().text(), "moved");
        assert_eq!(own("POST").send().text(), "POST for everybody");
    }
}

/// Texts made of these parts, always the same ones.
fn made_of<'a>(parts: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    // A linear congruential generator (Knuth's MMIX).
    let mut state: u64 = 12;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    std::iter::repeat_with(move || (0..=next(6)).map(|_| parts[next(parts.len())]).collect())
}

#[test]
fn no_spelling_that_anybody_can_make_opens_an_admins_page() {
    let parts = [
        "/",
        "/",
        "/admin",
        "/admin",
        "admin",
        "ADMIN",
        "%61dmin",
        "aDm%69n",
        ";",
        ";x",
        "%3b",
        "//",
        "%2f",
        "%5c",
        "\\",
        "/.",
        "/..",
        "%2e",
        "..",
        "?",
        "%3f",
        "%23",
        "%252f",
        "x",
        "%20",
        "+",
        "~",
        "%c5%bf",
        "%e2%84%aa",
        "=",
        ",",
        "'",
    ];
    let express = Application::express();
    let permit = "permit: [parameters, empty_segment, encoded_slash, encoded_delimiter]";
    let rules = format!(
        "routes: [{{path_prefix: /admin, allow: {{role: Admin}}}}]\ndefault: {{allow: true}}\n\
        paths: {{case: ignore, {permit}}}\n"
    );
    let stacks = express_behind(&rules, &express);
    let paths = made_of(&parts).map(|path| format!("/{}", path.trim_start_matches('/')));
    let mut attacks = 0;
    for path in paths.take(2500) {
        let attack = Attack { path: &path, ..GET };
        if attack.to(express.address).send().text().contains(SECRET) {
            stacks.iter().for_each(|stack| attack.fails(stack));
            attacks += 1;
        }
    }
    assert!(attacks > 100, "{attacks} of them reach the page where nobody decides");
}
