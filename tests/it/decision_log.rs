//! The line that every decision leaves: its fields, its two forms, and which of them are written.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::Value;

use crate::harness::server::{BINARY, ListenAddress, signal};
use crate::harness::{MAX_WAIT, Server, Setup, Shape, Stack, grpc};

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens: [{name: alices, token: alice-token-0123456789, actor: {id: alice}}]
policies: {\"Zoë's \\\"own\\\"\": {}}
default: {}
";

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The decision lines of a server that has ended, after these Checks.
fn lines(setup: Setup, checks: &[&[(&str, &str)]]) -> Vec<String> {
    let mut server = setup.arg("--drain=0s").start();
    for headers in checks {
        grpc::check(&server, grpc::request("GET", "h", "/x?secret", headers));
    }
    server.terminate();
    server.wait();
    let lines = server.log().lines();
    lines.into_iter().filter(|line| line.contains("decision")).collect()
}

#[test]
fn a_line_has_its_fields_in_their_order_in_both_forms() {
    let bearer = format!("Bearer {ALICE}");
    let headers =
        [("authorization", bearer.as_str()), ("x-request-id", "one\"two"), ("traceparent", TRACEPARENT)];
    let json = lines(Server::with(CONFIG), &[&headers]);
    let line: Value = serde_json::from_str(&json[0]).unwrap();
    let names: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "timestamp",
        "level",
        "message",
        "decision",
        "reason",
        "policy",
        "credential.kind",
        "credential.name",
        "method",
        "host",
        "path",
        "request_id",
        "trace_id",
        "duration_us",
        "target",
    ];
    assert_eq!(names, expected, "{line}");
    let text = ["level", "target", "decision", "reason", "policy", "credential.kind", "credential.name"];
    let text = text.map(|name| line[name].as_str().unwrap());
    assert_eq!(text, ["INFO", "decision", "allowed", "admitted", "default", "token", "alices"]);
    assert_eq!(line["request_id"], r#"one\"two"#);
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let written: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(written.duration_until(jiff::Timestamp::now()).as_secs().abs() < 3600, "{line}");
    // The other lines of the log have the same frame, so that one parser reads them all.
    let server = Server::with(CONFIG).start();
    let other: Value = serde_json::from_str(&server.log().lines()[0]).unwrap();
    for name in ["timestamp", "level", "message", "target"] {
        assert_eq!(other[name].as_str().is_some(), line[name].as_str().is_some(), "{other}");
    }
    let stamp = |line: &Value| line["timestamp"].as_str().unwrap().len();
    assert_eq!(stamp(&other), stamp(&line), "{other} {line}");

    let text = lines(Server::with(CONFIG).text_log(), &[&headers]);
    let (stamp, rest) = text[0].split_once(' ').unwrap();
    stamp.parse::<jiff::Timestamp>().unwrap();
    let (rest, duration) = rest.split_once("duration_us=").unwrap();
    duration.parse::<u64>().unwrap();
    assert_eq!(
        rest,
        " INFO decision: allowed decision=\"allowed\" reason=\"admitted\" policy=\"default\" \
         credential.kind=\"token\" credential.name=\"alices\" method=\"GET\" host=\"h\" path=\"/x\" \
         request_id=\"one\\\\\\\"two\" trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\" "
    );
}

#[test]
fn a_policys_name_cannot_break_the_line_either() {
    let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().policy("Zoë's \"own\""));
    assert_eq!(stack.get("/").header("x-request-id", "odd-policy").send().status, 401);
    assert_eq!(stack.server.decision("odd-policy")["policy"], "Zoë's \"own\"");
}

#[test]
fn one_of_n_allowed_decisions_is_logged_and_says_for_how_many_it_stands() {
    let bearer = format!("Bearer {ALICE}");
    let allowed: &[(&str, &str)] = &[("authorization", &bearer)];
    let mut checks = vec![allowed; 12];
    checks.extend([&[][..]; 3]);
    let lines = lines(Server::with(CONFIG).arg("--log-sample=4"), &checks);
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |word: &str| -> Vec<_> {
        let lines = lines.iter().filter(|line| line["decision"] == word);
        lines.map(|line| line["sample"].as_u64()).collect()
    };
    assert_eq!(of("allowed"), [Some(4); 3]);
    assert_eq!(of("denied"), [None; 3], "denials are all logged");
}

#[test]
fn a_sample_of_zero_is_rejected() {
    let ran = Server::with(CONFIG).arg("--log-sample=0").start_in_vain();
    assert_eq!(ran.code(), Some(2), "{ran:?}");
}

#[test]
fn decisions_are_logged_at_info() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("a.sock");
    let listeners = "ext_authz: {listen: \"unix:a.sock\"}\nprobes: {listen: \"127.0.0.1:0\"}\n";
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, format!("{listeners}{CONFIG}")).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--drain=0s", "--log-level=warn", "--config"]).arg(&config);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // It says nothing of when it serves, so it is asked.
    let listen_address = ListenAddress::Unix(socket);
    let deadline = Instant::now() + MAX_WAIT;
    let answer = loop {
        let checked = grpc::block_on(async {
            let channel = grpc::channel(&listen_address).await.ok()?;
            let answer = AuthorizationClient::new(channel).check(grpc::request("GET", "h", "/", &[])).await;
            answer.ok()
        });
        if let Some(answer) = checked {
            break answer.into_inner();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it never serves: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(grpc::code(&answer), 16);
    signal("-TERM", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
