//! Clients of Grafana's API as they come from PyPI, against the admin listener.
//!
//! Each has a script that uses it as its own documents do and asserts what it gets.

use crate::harness::http1::Request;
use crate::harness::server::run;
use crate::harness::{Server, tools, wait_until};

const CONFIG: &str = "
admin: {listen: \"127.0.0.1:0\", org_name: Ours}
keys: {store: \"sqlite:keys.db\"}
tokens: [{name: root, token: root-token-01234567890, actor: {id: root, role: Admin}}]
users: [{username: admin, password: correct-horse-battery, actor: {id: admin, role: Admin}}]
";

/// Runs the script of this package.
fn play(package: &str) {
    let server = Server::with(CONFIG).start();
    let admin = server.admin();
    wait_until("the store was read", || Request::new(admin, "GET", "/api/health").send().status == 200);
    let script = format!("tests/it/grafana_clients/with_{}.py", package.replace('-', "_"));
    let mut command = tools::python_with(package);
    command.arg(tools::root().join(script)).arg(format!("http://{admin}"));
    command.args(["root-token-01234567890", "admin", "correct-horse-battery", env!("CARGO_PKG_VERSION")]);
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{package}: {}\n{}\n{}", ran.stdout, ran.stderr, server.log().text());
}

#[test]
fn grafana_client_connects_and_manages_keys() {
    play("grafana-client");
}

#[test]
fn grafana_api_manages_keys() {
    play("grafana-api");
}

#[test]
fn grafana_backup_passes_its_checks_of_health_and_keys() {
    play("grafana-backup");
}

#[test]
fn hukudo_is_healthy_and_provisions_keys() {
    play("hukudo");
}
