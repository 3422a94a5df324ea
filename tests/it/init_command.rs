//! `init`: what it writes runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::server::{BINARY, Ran, Server, run};
use crate::harness::{Envoy, Request, Upstream, sqlite};

fn init(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.arg("init").arg(folder).args(arguments);
    run(command, "")
}

#[test]
fn its_token_passes_the_envoy_that_it_configures_and_manages_keys() {
    let folder = tempfile::TempDir::new().unwrap();
    let project = folder.path().join("new/project");
    let upstream = Upstream::start();
    let ran = init(&project, &["--listen", "127.0.0.1:0", "--upstream", &upstream.address().to_string()]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let token = ran.stdout.trim_end();
    assert!(token.starts_with("eat_") && !token.contains(char::is_whitespace), "{ran:?}");
    let (config, envoy) = (project.join("config.yaml"), project.join("envoy.yaml"));
    let texts = [&config, &envoy].map(|path| std::fs::read_to_string(path).unwrap());
    assert!(!format!("{texts:?}{}", ran.stderr).contains(token), "{ran:?}");
    for path in [&config, &envoy] {
        assert!(ran.stderr.contains(path.to_str().unwrap()), "{ran:?}");
    }

    // As it is, but with ports that are free here.
    let mut check = Command::new(BINARY);
    check.args(["check", "--strict", "--config"]).arg(&config);
    let checked = run(check, "");
    assert_eq!(checked.code(), Some(0), "{checked:?}");
    let server = Server::with(&texts[0].replace("127.0.0.1:9192", "127.0.0.1:0")).start();
    let (ours, theirs) = ("port_value: 9191", format!("port_value: {}", server.tcp().port()));
    assert_eq!(texts[1].matches(ours).count(), 1, "{}", texts[1]);
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    let envoy = Envoy::configured(&format!("{admin}{}", texts[1].replace(ours, &theirs)));
    let get = || Request::new(envoy.address(), "GET", "/").host("app.example");
    assert_eq!(get().send().status, 401);
    assert_eq!(get().bearer(token).send().seen().all("x-actor-id"), ["first"]);
    let mut keys = Command::new(BINARY);
    keys.args(["keys", "create", "a", "--role", "Viewer", "--token-file", "-"]);
    keys.args(["--url", &format!("http://{}", server.admin())]);
    let created = run(keys, token);
    assert_eq!(created.code(), Some(0), "{created:?}");
    assert_eq!(get().bearer(created.stdout.trim_end()).send().seen().all("x-actor-role"), ["Viewer"]);
    assert_eq!(sqlite::sql(&server.folder().join("keys.db"), "SELECT count(*) FROM api_keys"), "1");
    envoy.assert_no_fault_of(&server);
}

#[test]
fn the_curl_that_it_shows_reaches_the_listener() {
    for (listen, curl) in [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/\n"),
        ("unix:/run/x.sock", "--unix-socket /run/x.sock http://localhost/\n"),
        ("unix:@x", "--abstract-unix-socket x http://localhost/\n"),
    ] {
        let folder = tempfile::TempDir::new().unwrap();
        let ran = init(folder.path(), &["--listen", listen]);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        let expected = format!("curl -H 'Authorization: Bearer TOKEN' {curl}");
        assert!(ran.stderr.contains(&expected), "{ran:?}");
    }
}

#[test]
fn its_token_is_written_to_a_new_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let (project, token) = (folder.path().join("project"), folder.path().join("first.token"));
    let arguments = ["--output", token.to_str().unwrap()];
    let ran = init(&project, &arguments);
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    let text = std::fs::read_to_string(&token).unwrap();
    assert!(text.starts_with("eat_") && text.lines().count() == 1 && !ran.stderr.contains(text.trim_end()));
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    // A second run changes nothing, in the same folder and in another one.
    for again in [project, folder.path().join("other")] {
        let ran = init(&again, &arguments);
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.contains("exists already"), "{ran:?}");
        assert_eq!(std::fs::read_to_string(&token).unwrap(), text);
    }
    assert!(!folder.path().join("other/config.yaml").exists());
}

#[test]
fn it_overwrites_nothing() {
    for present in ["config.yaml", "envoy.yaml"] {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join(present), "mine").unwrap();
        let ran = init(folder.path(), &[]);
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.contains(present) && ran.stderr.contains("exists already"), "{ran:?}");
        let entries: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join(present)).unwrap(), "mine");
    }
    let folder = tempfile::TempDir::new().unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("envoy.yaml")).unwrap();
    let ran = init(folder.path(), &[]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(!folder.path().join("config.yaml").exists());
}
