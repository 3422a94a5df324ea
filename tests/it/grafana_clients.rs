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

#[test]
fn bgrafana_api_manages_service_accounts() {
    play("bgrafana-api");
}

/// As the role `cloudalchemy.grafana` does for the names of its documents, of which one is a user's, too.
#[test]
fn ansible_makes_the_keys_of_a_play_once() {
    let server = Server::with(CONFIG).start();
    let admin = server.admin();
    wait_until("the store was read", || Request::new(admin, "GET", "/api/health").send().status == 200);
    let folder = tempfile::tempdir().unwrap();
    let play = || {
        let mut command = tools::python_with("ansible-core");
        command.args(["-m", "ansible.cli.playbook", "--inventory", "localhost,", "--connection", "local"]);
        for (name, value) in [
            ("grafana_url", format!("http://{admin}")),
            ("grafana_user", "admin".to_owned()),
            ("grafana_password", "correct-horse-battery".to_owned()),
            ("folder", folder.path().join("keys").display().to_string()),
        ] {
            command.args(["--extra-vars", &format!("{name}={value}")]);
        }
        command.arg(tools::root().join("tests/it/grafana_clients/api_keys.yml"));
        command.env("ANSIBLE_HOME", folder.path().join("ansible")).env("ANSIBLE_NOCOLOR", "1");
        command.env("LC_ALL", "C.UTF-8");
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(0), "{}\n{}\n{}", ran.stdout, ran.stderr, server.log().text());
        let recap =
            ran.stdout.lines().find(|line| line.starts_with("localhost")).expect("a recap").to_owned();
        recap.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let keys = || {
        let listed =
            Request::new(admin, "GET", "/api/auth/keys").bearer("root-token-01234567890").send().json();
        let key = |key: &serde_json::Value| (key["id"].clone(), key["name"].clone(), key["role"].clone());
        listed.as_array().unwrap().iter().map(key).collect::<Vec<_>>()
    };
    let counts = |recap: &[String], count: &str| recap.iter().any(|word| word == count);
    let first = play();
    assert!(counts(&first, "changed=2") && counts(&first, "failed=0"), "{first:?}");
    let made = keys();
    assert_eq!(made.iter().map(|(_, name, _)| name).collect::<Vec<_>>(), ["admin", "editor", "viewer"]);
    for (name, role) in [("admin", "Admin"), ("viewer", "Viewer"), ("editor", "Editor")] {
        let token = std::fs::read_to_string(folder.path().join(format!("keys/{name}.key"))).unwrap();
        let actor = Request::new(admin, "GET", "/api/auth/actor").bearer(&token).send().json();
        assert_eq!((&actor["name"], &actor["role"]), (&name.into(), &role.into()), "{actor}");
    }
    let second = play();
    assert!(counts(&second, "changed=0") && counts(&second, "failed=0"), "{second:?}");
    assert_eq!(keys(), made);
}
