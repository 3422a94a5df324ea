//! `make demo`, which is the first thing that somebody who clones the repository types.

use std::process::Command;

use crate::harness::server::{BINARY, run};
use crate::harness::tools;

#[test]
fn the_demo_runs_to_its_end() {
    let mut command = Command::new("make");
    command.current_dir(tools::root()).args(["demo", "ONCE=1"]);
    // The binary under test is built already, and another port may be free.
    command.arg(format!("BINARY={BINARY}")).arg("PORT=0");
    // A make above this one must not lend its settings.
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL").env_remove("BOT_TOKEN");
    let ran = run(command, "");
    assert!(ran.status.success(), "{}\n{}", ran.stdout, ran.stderr);
    for expected in [
        "curl",
        "Authorization: Bearer $BOT_TOKEN",
        "x-actor",
        r#"{"bot_id":"my-bot"}"#,
        "401",
        "unauthorized",
        "invalid_token",
    ] {
        assert!(ran.stdout.contains(expected), "no {expected:?}:\n{}\n{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn the_application_of_the_demo_says_so_when_its_port_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new("python3");
    let port = taken.local_addr().unwrap().port().to_string();
    command.current_dir(tools::root()).args(["deploy/demo/upstream.py", &port]);
    let ran = run(command, "");
    assert_eq!((ran.code(), ran.stdout.as_str(), ran.stderr.lines().count()), (Some(1), "", 1), "{ran:?}");
    assert!(ran.stderr.contains(&format!("127.0.0.1:{port}: Address already in use")), "{ran:?}");
}

#[test]
fn the_demo_says_so_when_its_port_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = Command::new("make");
    command.current_dir(tools::root()).args(["demo", "ONCE=1"]);
    command.arg(format!("BINARY={BINARY}")).arg(format!("PORT={port}"));
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL");
    let ran = run(command, "");
    assert!(!ran.status.success(), "{}", ran.stdout);
    let output = format!("{}{}", ran.stdout, ran.stderr);
    assert!(output.contains(&port.to_string()) && output.contains("in use"), "{output}");
}
