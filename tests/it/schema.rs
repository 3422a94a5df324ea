//! `schema`, and the copy of it beside the annotated example.

use std::process::Command;

use crate::harness::server::{BINARY, run};
use crate::harness::tools;

#[test]
fn the_committed_schema_is_what_the_command_prints() {
    let mut command = Command::new(BINARY);
    command.arg("schema");
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let path = tools::root().join("deploy/config.schema.json");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &ran.stdout).unwrap();
    }
    let committed = std::fs::read_to_string(&path).expect("deploy/config.schema.json");
    assert!(ran.stdout == committed, "write it anew: envoy-auth-tokens schema > deploy/config.schema.json");
    // The example names it for editors, by a path that starts at its own folder.
    let example = std::fs::read_to_string(tools::root().join("deploy/config.yaml")).unwrap();
    assert!(example.starts_with("# yaml-language-server: $schema=config.schema.json\n"), "{example:.80}");
}
