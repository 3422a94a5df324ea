//! `deploy/envoy.yaml`, the hardened configuration, with a real Envoy.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use envoy_auth_tokens::policy::Override;

use crate::harness::envoy::{self, Envoy};
use crate::harness::http1::Request;
use crate::harness::server::ListenAddress;
use crate::harness::{Server, Upstream, tools};

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice, role: Viewer}}
- {token: root-token-01234567890, actor: {id: root, role: Admin}}
users: [{username: rob, password: a-long-password}]
credentials: [bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: auth_token}]
policies: {admin: {allow: {role: Admin}}}
routes:
- {path_prefix: /read, methods: [GET], allow: true}
- {path_prefix: /secret, allow: {role: Admin}}
default: {}
";

/// The file as it stands.
fn hardened() -> String {
    std::fs::read_to_string(tools::root().join("deploy/envoy.yaml")).expect("deploy/envoy.yaml")
}

/// Replaces what must be there.
#[track_caller]
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "deploy/envoy.yaml says {from:?} once");
    text.replace(from, to)
}

struct Hardened {
    envoy: Envoy,
    server: Server,
    upstream: Upstream,
}

impl Hardened {
    /// The file with other ports and an admin listener; nothing else is changed.
    fn start(text: &str, server: Server) -> Self {
        let upstream = Upstream::start();
        let text = replace(text, "port_value: 10000", "port_value: 0");
        let text = replace(&text, "port_value: 8080", &format!("port_value: {}", upstream.address().port()));
        let text = match server.listen_address() {
            ListenAddress::Tcp(address) => {
                replace(&text, "port_value: 9191", &format!("port_value: {}", address.port()))
            }
            ListenAddress::Unix(_) | ListenAddress::Abstract(_) => text,
        };
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let envoy = Envoy::configured(&format!("{admin}{text}"));
        Self { envoy, server, upstream }
    }

    fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.envoy.address(), method, target).host("app.example")
    }

    /// After any test but that of a dead server.
    fn assert_no_fault(&self) {
        self.envoy.assert_no_fault_of(&self.server);
    }
}

fn start() -> Hardened {
    Hardened::start(&hardened(), Server::with(CONFIG).start())
}

#[test]
fn envoy_accepts_the_file() {
    let file = tools::root().join("deploy/envoy.yaml");
    envoy::validate(&file).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_token_passes_through_every_place_and_no_client_says_who_it_is() {
    let stack = start();
    let places = [
        stack.get("/x").bearer(ALICE),
        stack.get("/x").basic("api_key", ALICE),
        stack.get("/x").header("x-api-key", ALICE),
        stack.get("/x").header("cookie", format!("a=1; auth_token={ALICE}")),
        stack.get(&format!("/x?_auth_token={ALICE}")),
    ];
    for request in places {
        let spoofed = [("x-actor-id", "root"), ("x-actor-name", "Root"), ("x.actor.role", "Admin")];
        let request = request.headers(&spoofed).header("x-envoy-auth-failure-mode-allowed", "true");
        let seen = request.send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("x-actor-role"), ["Viewer"]);
        assert_eq!(seen.path, "/x");
        for gone in ["x-actor-name", "x.actor.role", "authorization", "x-api-key"] {
            assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
        }
        assert!(seen.all("x-envoy-auth-failure-mode-allowed").is_empty());
        assert!(!format!("{seen:?}").contains(ALICE), "{seen:?}");
    }
    assert_eq!(stack.get("/x").send().verdict(), (401, "unauthorized".into()));
    assert_eq!(
        stack.get("/x").bearer("nobody-token-012345678").send().verdict(),
        (401, "invalid_token".into())
    );
    assert_eq!(stack.get("/secret").bearer(ALICE).send().verdict(), (403, "insufficient_scope".into()));
    stack.assert_no_fault();
}

#[test]
fn the_health_probe_needs_no_check_and_yet_no_actor_header_gets_in() {
    let stack = start();
    let spoofed =
        [("x-actor", "{}"), ("X-Actor-Id", "root"), ("x.actor.id", "root"), ("x~actor~role", "Admin")];
    let request = stack.get("/healthz").headers(&spoofed);
    let seen = request.header("x-envoy-auth-failure-mode-allowed", "true").send().seen();
    let left: Vec<_> = seen.headers.iter().filter(|(name, _)| name.contains("actor")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(seen.all("x-envoy-auth-failure-mode-allowed").is_empty());
    assert!(stack.server.decisions().is_empty());
}

#[test]
fn underscores_in_names_are_refused_by_envoy_itself() {
    let stack = start();
    let answer = stack.get("/healthz").header("x_actor_id", "root").send();
    assert_eq!(answer.status, 400);
    assert_eq!(stack.upstream.calls(), 0);
}

#[test]
fn paths_are_normalised_before_they_are_judged() {
    let stack = start();
    // The way out of the unprotected route leads to a protected one.
    for path in [
        "/healthz/../secret",
        "//secret",
        "/healthz/%2e%2e/secret",
        "/read/./../secret",
        "/read/..;/secret",
        "/read/..;x=1/secret",
    ] {
        assert_eq!(stack.get(path).bearer(ALICE).send().status, 403, "{path}");
        assert_eq!(stack.get(path).send().status, 401, "{path}");
    }
    for path in ["/healthz%2F..%2Fsecret", "/read%2fx", "/read%5Cx"] {
        let answer = stack.get(path).bearer(ALICE).send();
        assert_eq!(answer.status, 307, "{path}");
    }
    assert_eq!(stack.get("/read/%2e%2e;/secret").send().status, 400);
    assert_eq!(stack.get("/read;x").send().status, 400);
    assert_eq!(stack.get("/read//x").send().seen().path, "/read/x");
    stack.assert_no_fault();
}

#[test]
fn every_rule_sees_the_header_it_reads() {
    let config = format!("{CONFIG}allow_cors_preflight: true\n");
    let stack = Hardened::start(&hardened(), Server::with(&config).start());
    // What names another path, host or method is taken away before anybody reads it, in every spelling.
    for known in Override::ALL.iter().filter(|known| known.is_header() && known.name != "destination") {
        for name in [known.name.to_owned(), known.name.replace('-', "."), known.name.to_uppercase()] {
            let seen = stack.get("/read").header(&name, "/secret").send().seen();
            assert!(seen.all(&name.to_lowercase()).is_empty(), "{name}");
        }
    }
    let claim = "x.envoy.auth.failure.mode.allowed";
    assert!(stack.get("/read").header(claim, "true").send().seen().all(claim).is_empty());
    // Where it is left in, because a proxy before Envoy sets it, the rule sees it in every spelling.
    let is_early = |line: &str| line.contains("remove_on_match") && !line.contains("actor");
    let config = hardened();
    let kept: Vec<_> = config.lines().filter(|line| !is_early(line)).collect();
    assert!(kept.len() + 4 <= config.lines().count(), "what is removed early stands there");
    let lenient = Hardened::start(&kept.join("\n"), Server::with(CONFIG).start());
    for name in ["x-script-name", "X.Script.Name", "x-original-url", "x.http.method.override"] {
        assert_eq!(lenient.get("/read").header(name, "/secret").send().status, 400, "{name}");
    }
    let cookie = format!("auth_token={ALICE}");
    let post = || stack.request("POST", "/x").header("cookie", &cookie).body(Vec::new());
    assert_eq!(post().send().status, 200);
    assert_eq!(post().header("sec-fetch-site", "cross-site").send().status, 403);
    assert_eq!(post().header("origin", "https://evil.example").send().status, 403);
    let preflight = stack.request("OPTIONS", "/x").header("origin", "https://spa.example");
    assert_eq!(preflight.header("access-control-request-method", "PUT").send().status, 200);
    assert_eq!(stack.request("OPTIONS", "/x").header("origin", "https://spa.example").send().status, 401);
    stack.assert_no_fault();
}

#[test]
fn the_access_log_says_who_and_why_not() {
    let stack = start();
    stack.get("/by-alice?_auth_token=x").bearer(ALICE).send();
    let line = |path: &str| {
        stack.envoy.log().wait_for(path, |line| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            (entry["path"] == path).then_some(entry)
        })
    };
    let entry = line("/by-alice");
    assert_eq!(entry["actor"], json!({ "id": "alice", "role": "Viewer" }));
    assert_eq!(entry["credential"]["kind"], "token");
    assert_eq!(entry["policy"], "default");
    assert_eq!((&entry["flags"], &entry["details"]), (&json!("-"), &json!("via_upstream")));
    stack.get("/by-nobody").send();
    let entry = line("/by-nobody");
    assert!(entry["reason"].is_string() && entry["actor"].is_null(), "{entry}");
    assert_eq!((&entry["flags"], &entry["details"]), (&json!("UAEX"), &json!("ext_authz_denied")));
}

#[test]
fn the_commented_policy_route_works_when_it_is_uncommented() {
    let uncommented: String = hardened()
        .lines()
        .map(|line| match line.strip_prefix("              # ") {
            Some(rest) if rest.starts_with("- match") || rest.starts_with("  ") => {
                format!("              {rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(uncommented, hardened());
    let stack = Hardened::start(&uncommented, Server::with(CONFIG).start());
    assert_eq!(stack.get("/admin/x").bearer(ALICE).send().status, 403);
    assert_eq!(stack.get("/admin").bearer("root-token-01234567890").send().status, 200);
    assert_eq!(stack.get("/admins").bearer(ALICE).send().status, 200);
    stack.assert_no_fault();
}

#[test]
fn the_unix_socket_of_the_comment_works() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("ext_authz.sock");
    let server = Server::with(CONFIG).listen(format!("unix:{}", socket.display())).start();
    let tcp = "- endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9191 } } }";
    let pipe = "- endpoint: { address: { pipe: { path: /run/envoy-auth-tokens/ext_authz.sock } } }";
    let text = hardened();
    assert!(text.contains(&format!("#   {pipe}")));
    let pipe = pipe.replace("/run/envoy-auth-tokens/ext_authz.sock", socket.to_str().unwrap());
    let stack = Hardened::start(&replace(&text, tcp, &pipe), server);
    assert_eq!(stack.get("/x").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/x").send().status, 401);
    stack.assert_no_fault();
}

#[test]
fn when_the_server_is_gone_nobody_passes_and_the_client_may_retry() {
    let mut stack = start();
    assert_eq!(stack.get("/x").bearer(ALICE).send().status, 200);
    stack.server.kill();
    assert_eq!(stack.get("/x").bearer(ALICE).send().status, 503);
    assert_eq!(stack.get("/healthz").send().status, 200);
    assert_eq!(stack.upstream.calls(), 2);
}

#[test]
fn clients_do_not_notice_a_restart() {
    let folder = tempfile::TempDir::new().unwrap();
    let listen = format!("unix:{}", folder.path().join("ext_authz.sock").display());
    let server = || Server::with(CONFIG).listen(&listen).arg("--drain=0s").start();
    let tcp = "{ socket_address: { address: 127.0.0.1, port_value: 9191 } }";
    let pipe = format!("{{ pipe: {{ path: {} }} }}", listen.trim_start_matches("unix:"));
    let config = envoy::persistent(&replace(&hardened(), tcp, &pipe));
    let mut stack = Hardened::start(&config, server());
    let address = stack.envoy.address();
    let stop = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let clients = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut answers = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let request = Request::new(address, "GET", "/x").bearer(ALICE);
                    answers.push(request.send().status);
                }
                answers
            })
        });
        for _ in 0..2 {
            stack.server.terminate();
            assert_eq!(stack.server.wait().code(), Some(0));
            stack.server = server();
            // The new one has the work before the next round, or the end.
            stack.server.log().wait_for("a decision", |line| line.contains("allowed").then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
        clients.map(|client| client.join().unwrap()).concat()
    });
    let others: Vec<_> = answers.iter().filter(|status| **status != 200).collect();
    assert!(others.is_empty(), "{} of {}: {others:?}", others.len(), answers.len());
}

#[test]
fn the_two_deployed_files_fit_each_other() {
    let config =
        std::fs::read_to_string(tools::root().join("deploy/config.yaml")).expect("deploy/config.yaml");
    // Envoy asks where the server listens by default; for the test it listens elsewhere.
    let config = replace(&config, "listen: 127.0.0.1:9191", "listen: 127.0.0.1:0");
    let config = replace(&config, "listen: 127.0.0.1:9193", "listen: 127.0.0.1:0");
    let config = replace(&config, "listen: 127.0.0.1:9192", "listen: 127.0.0.1:0");
    let config = replace(&config, "sqlite:/var/lib/envoy-auth-tokens/keys.db", "sqlite:keys.db");
    let setup = Server::with(&config).own_listeners();
    std::fs::create_dir(setup.folder().join("secrets")).unwrap();
    let setup = setup.file("secrets/ci-token", "ci-token-0123456789abc\n");
    let setup = setup
        .env("BOT_TOKEN", "bot-token-01234567890")
        .env("ADMIN_PASSWORD", "a-long-password")
        .env("LDAP_PASSWORD", "another-password")
        .env("OAUTH_SECRET", "a-client-secret");
    let stack = Hardened::start(&hardened(), setup.start());
    let bot = || stack.get("/_memory/show_version.json");
    let seen = bot().bearer("bot-token-01234567890").send().seen();
    assert_eq!(seen.all("x-actor"), [r#"{"bot_id":"my-bot"}"#]);
    assert_eq!(bot().send().status, 401);
    assert_eq!(bot().bearer("ci-token-0123456789abc").send().status, 403);
    assert_eq!(stack.get("/public/x").send().status, 200);
    assert_eq!(stack.get("/account").header("x-api-key", "ci-token-0123456789abc").send().status, 200);
    // The administrator's password is for the admin listener: strangers are not to try it here.
    let admin = || stack.get("/reports/2026.csv").basic("admin", "a-long-password").send();
    assert_eq!(admin().status, 401);
    stack.assert_no_fault();
}
