//! The metrics as others read them.

use std::process::Command;

use crate::harness::server::run;
use crate::harness::{Answer, Request, Server, grpc, tools};

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
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&openmetrics), samples(&text));
    for family in ["decisions_total counter", "build_info gauge", "keys_store_errors_total counter"] {
        assert!(text.text().contains(&format!("# TYPE envoy_auth_tokens_{family}\n")), "{}", text.text());
    }
    let odd = r#"{outcome="shadowed",reason="not_admitted",policy="odd \"name\" \\ é"} 1"#;
    assert!(text.text().contains(odd), "{}", text.text());
}

#[test]
fn what_happens_on_every_check_is_there_before_the_first() {
    let metrics = Server::with(CONFIG).start().metrics();
    for kind in ["token", "user", "key", "session"] {
        let sample = format!("envoy_auth_tokens_credentials_total{{kind=\"{kind}\"}} 0");
        assert!(metrics.contains(&sample), "{sample}\n{metrics}");
    }
}

#[test]
fn the_memory_limit_is_told_as_it_is_given_or_found() {
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
