//! Starting, serving, leaving.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use serde_json::Value;

use crate::harness::postgres::Postgres;
use crate::harness::{MAX_WAIT, Server, Stack, grpc};
use crate::soak::status_of;

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n";

/// What the log says of a server that answers and has not read its store.
const NOT_READY: &str = "the server answers but is not ready";

/// Codes of google.rpc.Code.
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

const SERVICES: [&str; 2] = ["", "envoy.service.auth.v3.Authorization"];

fn passes(server: &Server) -> bool {
    let bearer = format!("Bearer {ALICE}");
    let request = grpc::request("GET", "h", "/", &[("authorization", &bearer)]);
    grpc::code(&grpc::check(server, request)) == 0
}

#[test]
fn a_ready_server_says_so_by_grpc_health_and_probes() {
    let server = Server::with(CONFIG).start();
    for service in SERVICES {
        assert_eq!(grpc::health(&server, service).unwrap(), "SERVING", "{service:?}");
    }
    let unknown = grpc::health(&server, "no.such.Service").unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    assert_eq!(server.probe("/live").status, 200);
    assert_eq!(server.probe("/ready").status, 200);
    for path in ["/", "/metricsx", "/admin", "/ready/x"] {
        assert_eq!(server.probe(path).status, 404, "{path}");
    }
}

#[test]
fn no_huge_page_holds_the_memory_of_a_server() {
    let server = Server::with(CONFIG).start();
    assert!(passes(&server));
    assert_eq!(status_of(server.process(), "THP_enabled"), 0);
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.process())).unwrap();
    let line = maps.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    let huge: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    // Where the kernel takes huge pages for everything, it may have taken one before our first line ran.
    assert!(huge <= 2048, "{huge} kB");
}

#[test]
fn metrics_count_decisions_by_outcome_reason_and_policy() {
    let stack = Stack::start(&format!(
        "{CONFIG}policies: {{closed: {{allow: false}}}}\nroutes: [{{path: /closed, policy: closed}}]\ndefault: {{}}\n"
    ));
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/?x=label-injection-5318008").send().status, 401);
    assert_eq!(stack.get("/closed").bearer(ALICE).send().status, 403);
    let metrics = stack.server.metrics();
    let counted = |wanted: &[&str]| {
        let lines = metrics.lines().filter(|line| !line.starts_with('#') && line.contains("decisions"));
        let fits = lines.filter(|line| wanted.iter().all(|part| line.contains(part)));
        let values = fits.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>()
    };
    assert_eq!(counted(&["allowed", "\"default\""]), 2.0, "{metrics}");
    assert_eq!(counted(&["denied", "\"default\""]), 1.0, "{metrics}");
    assert_eq!(counted(&["denied", "\"closed\""]), 1.0, "{metrics}");
    assert!(metrics.contains("_bucket{") && metrics.contains("le=\"+Inf\""), "{metrics}");
    assert!(metrics.contains(env!("CARGO_PKG_VERSION")), "build info: {metrics}");
    for sent in ["5318008", "app.example", "alice", "/closed"] {
        assert!(!metrics.contains(sent), "a label from what a client sent: {sent}\n{metrics}");
    }
}

#[test]
fn sigterm_lets_the_others_finish_before_the_server_leaves() {
    let mut server = Server::with(CONFIG).arg("--drain=5s").start();
    assert!(passes(&server));
    server.terminate();
    // As soon as the signal has arrived every probe says so, and Checks are answered.
    let deadline = Instant::now() + MAX_WAIT;
    while server.probe("/ready").status != 503 {
        assert!(Instant::now() < deadline, "{}", server.log().text());
    }
    assert_eq!(server.probe("/live").status, 200);
    for service in SERVICES {
        assert_eq!(grpc::health(&server, service).unwrap(), "NOT_SERVING", "{service:?}");
    }
    assert!(passes(&server));
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn envoys_idle_connection_does_not_keep_the_server_from_leaving() {
    let mut stack = Stack::shaped(Server::with(CONFIG).arg("--drain=0s"), crate::harness::Shape::plain());
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    stack.server.terminate();
    assert_eq!(stack.server.wait().code(), Some(0));
}

#[test]
fn sigint_ends_it_too() {
    let mut server = Server::with(CONFIG).arg("--drain=0s").start();
    server.interrupt();
    assert_eq!(server.wait().code(), Some(0));
}

/// A configuration whose keys are in the PostgreSQL of this port.
fn with_store_at(port: u16) -> String {
    format!("{CONFIG}keys: {{store: 'postgres://keys:keys@127.0.0.1:{port}/keys'}}\n")
}

#[test]
fn sigterm_is_heard_while_the_store_is_not_reached_yet() {
    // It accepts connections and says nothing: a PostgreSQL that hangs.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = Server::with(&with_store_at(silent.local_addr().unwrap().port())).begin();
    let _connection = silent.accept().unwrap();
    server.terminate();
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{status} {}", server.log().text());
    assert!(!server.log().text().contains("listening"), "{}", server.log().text());
}

#[test]
fn sigterm_is_heard_while_the_first_reading_of_the_store_is_waited_for() {
    // Nobody listens there: every attempt fails at once.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Server::with(&with_store_at(port)).arg("--drain=1h").begin();
    server.log().wait_for("the outage", |line| line.contains("the key store cannot be read").then_some(()));
    server.terminate();
    let status = server.wait();
    let log = server.log().text();
    assert_eq!(status.code(), Some(0), "{status} {log}");
    assert!(log.contains("stopped") && !log.contains(NOT_READY), "{log}");
}

/// A text that an issued key may have.
fn may_be_a_key() -> String {
    envoy_auth_tokens::token::generate("eat").unwrap().expose().to_owned()
}

/// The gRPC code of the answer to this token.
fn code(server: &Server, token: &str) -> i32 {
    let bearer = format!("Bearer {token}");
    grpc::code(&grpc::check(server, grpc::request("GET", "h", "/", &[("authorization", &bearer)])))
}

/// It answers as far as it can without the store, and others are told to ask elsewhere.
#[track_caller]
fn assert_answers_and_is_not_ready(server: &Server) {
    assert!(passes(server));
    assert_eq!(code(server, &may_be_a_key()), UNAVAILABLE);
    assert_eq!((server.probe("/live").status, server.probe("/ready").status), (200, 503));
    for service in SERVICES {
        assert_eq!(grpc::health(server, service).unwrap(), "NOT_SERVING", "{service:?}");
    }
}

#[track_caller]
fn assert_ready(server: &Server) {
    server.wait_until_it_serves();
    assert_eq!(server.probe("/ready").status, 200);
    for service in SERVICES {
        assert_eq!(grpc::health(server, service).unwrap(), "SERVING", "{service:?}");
    }
}

#[test]
fn nobody_is_answered_before_the_store_was_read_or_waited_for() {
    // Nobody listens there, so that a key would be answered with 503.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::with(&with_store_at(port)).start_listening();
    assert!(passes(&server));
    let is = |what: &'static str| move |line: &String| line.contains(what);
    server.log().wait_for("the decision", |line| line.contains("allowed").then_some(()));
    let lines = server.log().lines();
    let (waited, answered) = (lines.iter().position(is(NOT_READY)), lines.iter().position(is("allowed")));
    assert!(waited.is_some() && waited < answered, "{}", server.log().text());
}

#[test]
fn a_server_is_not_ready_before_it_has_read_the_store_once_and_ready_from_then_on() {
    let store = Postgres::start();
    let database = store.database();
    store.stop();
    let config = format!("{CONFIG}keys: {{store: '{}'}}\n", store.url(&database));
    let mut server = Server::with(&config).arg("--drain=0s").start_listening();
    assert_answers_and_is_not_ready(&server);

    store.resume();
    assert_ready(&server);
    assert_eq!(code(&server, &may_be_a_key()), UNAUTHENTICATED);
    store.stop();
    server
        .log()
        .wait_for("the outage", |line| line.contains("the server uses the keys in memory").then_some(()));
    assert_ready(&server);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_server_that_may_be_ready_without_its_store_is_so_after_that_time() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listeners = "ext_authz: {listen: '127.0.0.1:0'}\nprobes: {listen: '127.0.0.1:0'}\n";
    let config = |ready: &str| {
        format!("{listeners}{}", with_store_at(port).replace("/keys'}", &format!("/keys'{ready}}}")))
    };
    // It is not over when the test is, and a reload is heard by who waits.
    let server = Server::with(&config(", ready_without_store: 1h"))
        .own_listeners()
        .arg("--drain=0s")
        .start_listening();
    assert_answers_and_is_not_ready(&server);
    std::fs::write(server.folder().join("config.yaml"), config(", ready_without_store: 1s")).unwrap();
    assert_ready(&server);
    server.log().wait_for("why", |line| {
        line.contains("the time of keys.ready_without_store has passed").then_some(())
    });
    assert!(passes(&server));
    assert_eq!(code(&server, &may_be_a_key()), UNAVAILABLE);
}

#[test]
fn a_port_in_use_is_said_and_nothing_serves() {
    let first = Server::with(CONFIG).start();
    let ran = Server::with(CONFIG).listen(first.tcp().to_string()).start_in_vain();
    assert_ne!(ran.code(), Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains(&first.tcp().to_string()), "{}", ran.stderr);
    assert!(ran.stderr.contains("is listening there"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("\"serving\""), "{}", ran.stderr);
    assert!(passes(&first));
    // The other listener too.
    let config =
        format!("ext_authz: {{listen: '127.0.0.1:0'}}\nprobes: {{listen: '{}'}}\n{CONFIG}", first.probes());
    let ran = Server::with(&config).own_listeners().start_in_vain();
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains(&first.probes().to_string()), "{}", ran.stderr);
    assert!(!ran.stderr.contains("\"serving\""), "{}", ran.stderr);
}

#[test]
fn a_bad_configuration_never_serves_and_says_everything_at_once() {
    let config = "
tokens:
- {token: {$env: NOT_SET_ANYWHERE}, actor: {id: alice}}
- {token: super-secret-0123456789, actor: 7}
nonsense: true
routes: [{path: /x, policy: unknown-policy}]
";
    let ran = Server::with(config).start_in_vain();
    assert!(ran.code().is_some_and(|code| code != 0), "{}", ran.stderr);
    for found in ["NOT_SET_ANYWHERE", "nonsense", "unknown-policy", "actor", "default", "config.yaml"] {
        assert!(ran.stderr.contains(found), "nothing about {found}:\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("super-secret"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("listening"), "{}", ran.stderr);
}

#[test]
fn a_configuration_that_is_not_there_is_said() {
    let mut command = std::process::Command::new(crate::harness::server::BINARY);
    command.args(["serve", "--config", "/nowhere/at/all.yaml"]);
    let ran = crate::harness::server::run(command, "");
    assert!(ran.code().is_some_and(|code| code != 0), "{ran:?}");
    assert!(ran.stderr.contains("/nowhere/at/all.yaml"), "{ran:?}");
}

#[test]
fn the_unix_socket_is_for_owner_and_group() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ext_authz.sock");
    let listen = format!("unix:{}", path.display());
    let mut server = Server::with(CONFIG).listen(&listen).arg("--drain=0s").start();
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert!(passes(&server));
    assert_eq!(grpc::health(&server, SERVICES[1]).unwrap(), "SERVING");
    // A second server leaves the living one alone.
    let ran = Server::with(CONFIG).listen(&listen).start_in_vain();
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains("is listening there"), "{}", ran.stderr);
    assert!(ran.stderr.contains("ext_authz.sock"), "{}", ran.stderr);
    assert!(passes(&server));
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_stale_socket_is_replaced_and_any_other_file_is_left_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ext_authz.sock");
    let listen = format!("unix:{}", path.display());
    // A server that crashed: its socket stays, and nobody listens.
    let mut crashed = Server::with(CONFIG).listen(&listen).start();
    crashed.kill();
    assert!(path.exists());
    let server = Server::with(CONFIG).listen(&listen).start();
    assert!(passes(&server));
    drop(server);

    let file = folder.path().join("precious");
    std::fs::write(&file, "text").unwrap();
    let ran = Server::with(CONFIG).listen(format!("unix:{}", file.display())).start_in_vain();
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains("precious"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");

    // Somebody else's living socket.
    let other = folder.path().join("other.sock");
    let _listener = UnixListener::bind(&other).unwrap();
    let ran = Server::with(CONFIG).listen(format!("unix:{}", other.display())).start_in_vain();
    assert_ne!(ran.code(), Some(0));
    assert!(other.exists());
}

#[test]
fn an_abstract_socket_leaves_no_file() {
    let name = format!("envoy-auth-tokens-lifecycle-{}", std::process::id());
    let server = Server::with(CONFIG).listen(format!("unix:@{name}")).start();
    assert!(passes(&server));
    let ran = Server::with(CONFIG).listen(format!("unix:@{name}")).start_in_vain();
    assert_ne!(ran.code(), Some(0));
    assert!(ran.stderr.contains("is listening there") && ran.stderr.contains(&name), "{}", ran.stderr);
}

#[test]
fn the_operator_chooses_which_decisions_are_logged() {
    for (choice, kept) in [("all", vec!["allowed", "denied"]), ("denied", vec!["denied"]), ("none", vec![])] {
        let setup = Server::with(CONFIG).arg("--log-decisions").arg(choice).arg("--drain=0s");
        let mut stack = Stack::shaped(setup, crate::harness::Shape::plain());
        assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
        assert_eq!(stack.get("/").send().status, 401);
        let metrics = stack.server.metrics();
        assert!(metrics.contains("denied"), "metrics count what is not logged: {metrics}");
        stack.server.terminate();
        stack.server.wait();
        let logged: Vec<Value> = stack.server.decisions();
        let logged: Vec<_> = logged.iter().filter_map(|line| line["decision"].as_str()).collect();
        assert_eq!(logged, kept, "--log-decisions {choice}");
    }
}

#[test]
fn secrets_come_from_the_environment_and_from_files() {
    let config = "
tokens:
- {token: {$env: BOT_TOKEN}, actor: {id: {$env: BOT_NAME}}}
- {token: {$file: secrets/token}, actor: {id: filed}}
users: [{username: admin, password: {$file: secrets/password}}]
";
    let setup = Server::with(config).env("BOT_TOKEN", "bot-token-01234567890").env("BOT_NAME", "bot");
    std::fs::create_dir(setup.folder().join("secrets")).unwrap();
    let setup =
        setup.file("secrets/token", "file-token-0123456789\n").file("secrets/password", "pass word \r\n");
    let stack = Stack::shaped(setup, crate::harness::Shape::plain());
    let id = |token: &str| stack.get("/").bearer(token).send().seen().all("x-actor-id").join("");
    assert_eq!(id("bot-token-01234567890"), "bot");
    assert_eq!(id("file-token-0123456789"), "filed");
    let login = || stack.get("/").basic("admin", "pass word ").send();
    assert_eq!(crate::users::settle(login).status, 200, "less one line ending");
}

/// The services that reflection names.
fn reflected(server: &Server) -> Result<Vec<String>, tonic::Status> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    grpc::block_on(async {
        let channel = grpc::channel(server.listen_address()).await.expect("a connection");
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = futures_util::stream::iter([request]);
        let answers = ServerReflectionClient::new(channel).server_reflection_info(requests).await?;
        let answer = answers.into_inner().message().await?.and_then(|answer| answer.message_response);
        match answer {
            Some(MessageResponse::ListServicesResponse(services)) => {
                Ok(services.service.into_iter().map(|service| service.name).collect())
            }
            other => panic!("no list of services: {other:?}"),
        }
    })
}

#[test]
fn reflection_is_there_when_it_is_enabled() {
    let server = Server::with(CONFIG).arg("--reflection").start();
    let services = reflected(&server).unwrap();
    assert!(services.iter().any(|name| name == "envoy.service.auth.v3.Authorization"), "{services:?}");
    let server = Server::with(CONFIG).start();
    assert_eq!(reflected(&server).unwrap_err().code(), tonic::Code::Unimplemented);
}
