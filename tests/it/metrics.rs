//! The metrics as others read them.

use std::process::Command;

use crate::harness::server::run;
use crate::harness::{Answer, Request, Server, grpc, tools, wait_until};

const CONFIG: &str = "
tokens: [{token: a-token-0123456789, actor: {id: a}, expires: '2100-01-01T00:00:00Z'}]
policies: {\"odd \\\"name\\\" \\\\ é\": {allow: {id: nobody}, enforce: false}}
routes: [{path: /odd, policy: \"odd \\\"name\\\" \\\\ é\"}]
default: {}
";

fn asked_once() -> Server {
    let server = Server::with(CONFIG).start();
    for (path, token) in [("/", "a-token-0123456789"), ("/", "another"), ("/odd", "a-token-0123456789")] {
        let bearer = format!("Bearer {token}");
        grpc::check(&server, grpc::request("GET", "h", path, &[("authorization", &bearer)]));
    }
    server
}

fn metrics(server: &Server, accept: &str) -> Answer {
    let request = Request::new(server.probes(), "GET", "/metrics").header("connection", "close");
    request.header("accept", accept).send()
}

#[test]
fn promtool_finds_no_fault() {
    let server = asked_once();
    let mut command = Command::new(tools::promtool());
    command.args(["check", "metrics"]);
    let ran = run(command, &server.metrics());
    assert_eq!((ran.code(), ran.stderr.as_str(), ran.stdout.as_str()), (Some(0), "", ""));

    // It does find what is wrong.
    let mut command = Command::new(tools::promtool());
    command.args(["check", "metrics"]);
    let ran = run(command, "# TYPE things counter\nthings 1\n");
    assert_ne!(ran.code(), Some(0), "{ran:?}");
}

#[test]
fn each_reader_gets_the_format_it_asks_for_with_the_same_samples() {
    let server = asked_once();
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let openmetrics = metrics(&server, prometheus);
    let text = metrics(&server, "*/*");
    let kind = |answer: &Answer| answer.all("content-type").join("");
    assert_eq!(kind(&openmetrics), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(kind(&text), "text/plain; version=0.0.4; charset=utf-8");
    assert!(openmetrics.text().ends_with("# EOF\n"));
    let samples = |answer: &Answer| -> Vec<String> {
        let text = answer.text();
        // The process lives on between the two.
        let counts = |line: &&str| !line.starts_with('#') && !line.starts_with("process_");
        text.lines().filter(counts).map(str::to_owned).collect()
    };
    assert_eq!(samples(&openmetrics), samples(&text));
    for family in ["decisions_total counter", "build_info gauge", "config_reload_total counter"] {
        assert!(text.text().contains(&format!("# TYPE envoy_auth_tokens_{family}\n")), "{}", text.text());
    }
    let odd = r#"{outcome="shadowed",reason="not_admitted",policy="odd \"name\" \\ é"} 1"#;
    assert!(text.text().contains(odd), "{}", text.text());
}

#[test]
fn what_happens_on_every_check_is_there_before_the_first() {
    let metrics = Server::with(CONFIG).start().metrics();
    for (kind, source) in [
        ("token", "config"),
        ("key", "keys"),
        ("user", "config"),
        ("user", "ldap"),
        ("session", "config"),
        ("session", "ldap"),
    ] {
        let sample = format!("envoy_auth_tokens_credentials_total{{kind=\"{kind}\",source=\"{source}\"}} 0");
        assert!(metrics.contains(&sample), "{sample}\n{metrics}");
    }
}

#[test]
fn without_a_key_store_there_are_no_metrics_of_one() {
    let metrics = Server::with(CONFIG).start().metrics();
    assert!(!metrics.contains("_keys_") && !metrics.contains("NaN"), "{metrics}");
}

#[test]
fn the_next_expiry_of_issued_keys_and_the_revision_of_their_store_are_shown() {
    const PASSWORD: &str = "correct horse battery staple";
    let server = Server::with(&format!(
        "keys: {{store: \"sqlite:keys.db\"}}\nadmin: {{listen: 127.0.0.1:0}}\ncredentials: [bearer]\n\
         users: [{{username: admin, password: \"{PASSWORD}\", actor: {{id: admin, role: Admin}}}}]\n"
    ));
    let server = server.start();
    let told = |name: &str| value(&server.metrics(), &format!("envoy_auth_tokens_keys_{name}"));
    for operation in ["read", "write"] {
        assert_eq!(told(&format!("store_errors_total{{operation=\"{operation}\"}}")), 0.0);
    }
    let next = || told("next_expiry_timestamp_seconds") as i64;
    let ask = |method: &str, path: &str, body: &str| {
        let request = Request::new(server.admin(), method, path).basic("admin", PASSWORD);
        let request = request.header("content-type", "application/json").header("connection", "close");
        let answer = request.body(body.as_bytes().to_vec()).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert_eq!(next(), 0);
    ask("POST", "/api/auth/keys", r#"{"name": "endless", "role": "Viewer"}"#);
    assert_eq!(next(), 0);
    let now = jiff::Timestamp::now().as_second();
    ask("POST", "/api/auth/keys", r#"{"name": "later", "role": "Viewer", "secondsToLive": 7200}"#);
    let id = ask("POST", "/api/auth/keys", r#"{"name": "soon", "role": "Viewer", "secondsToLive": 3600}"#);
    assert!((now + 3600..now + 3660).contains(&next()), "{}", next());
    ask("DELETE", &format!("/api/auth/keys/{}", id["id"]), "");
    assert!((now + 7200..now + 7260).contains(&next()), "{}", next());

    // Four changes of keys in a fresh store, which has lost none, and the record of the user.
    wait_until("its own changes are read", || told("store_revision") == 5.0);
    assert_eq!((told("held"), told("history_rewrites_total"), told("denied_by_history")), (2.0, 0.0, 0.0));
}

/// The value of the sample with this name and these labels.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}\n{metrics}")).parse().expect("a number")
}

#[test]
fn the_process_is_shown_as_client_libraries_show_it() {
    let server = Server::with(CONFIG).start();
    let metrics = server.metrics();
    let now = jiff::Timestamp::now().as_second() as f64;
    let started = value(&metrics, "process_start_time_seconds");
    assert!((now - 600.0..now + 10.0).contains(&started), "{started} {now}");
    assert!(value(&metrics, "process_resident_memory_bytes") > 1e6);
    let (size, most) = ("process_virtual_memory_bytes", "process_virtual_memory_max_bytes");
    assert!(value(&metrics, size) < value(&metrics, most));
    let open = value(&metrics, "process_open_fds");
    assert!(open > 5.0 && open < value(&metrics, "process_max_fds"), "{open}");
    assert!(value(&metrics, "process_cpu_seconds_total") < 600.0);
    for family in ["process_cpu_seconds_total counter", "process_open_fds gauge"] {
        assert!(metrics.contains(&format!("# TYPE {family}\n")), "{metrics}");
    }
}

#[test]
fn the_configuration_in_force_is_shown_by_its_digest() {
    use sha2::{Digest, Sha256};
    let server = Server::with(CONFIG).start();
    let digest = |bytes: &[u8]| {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("envoy_auth_tokens_config_info{{sha256=\"{digest}\"}} 1")
    };
    let file = server.folder().join("config.yaml");
    let before = std::fs::read(&file).unwrap();
    assert!(server.metrics().contains(&digest(&before)), "{}", server.metrics());

    // What is denied is not in force, and what is taken over is.
    std::fs::write(&file, [&before[..], b"nonsense: true\n"].concat()).unwrap();
    server.log().wait_for("the reload that failed", |line| line.contains("not reloaded").then_some(()));
    assert!(server.metrics().contains(&digest(&before)), "{}", server.metrics());
    let after = [&before[..], b"realm: other\n"].concat();
    std::fs::write(&file, &after).unwrap();
    server.log().wait_for("the reload", |line| line.contains("the configuration was reloaded").then_some(()));
    let metrics = server.metrics();
    assert!(metrics.contains(&digest(&after)) && !metrics.contains(&digest(&before)), "{metrics}");
}

#[test]
fn the_memory_limit_is_shown_as_it_is_given_or_found() {
    let limit = |server: &Server| -> u64 {
        let metrics = server.metrics();
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("envoy_auth_tokens_memory_limit_bytes "));
        line.expect("a sample").parse().expect("a number")
    };
    assert!(limit(&Server::with(CONFIG).start()) >= 32 * 1024 * 1024);
    assert_eq!(limit(&Server::with(CONFIG).arg("--memory-limit=128MiB").start()), 128 * 1024 * 1024);
    for bad in ["1MiB", "0", "-1", "128M", "much"] {
        let ran = Server::with(CONFIG).arg(&format!("--memory-limit={bad}")).start_in_vain();
        assert!(ran.stderr.contains("32MiB or more"), "{bad}: {}", ran.stderr);
    }
}
