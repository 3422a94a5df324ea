//! What the commands of docs/kubernetes.md leave in a cluster: each is run, and what it would send there is printed instead.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use tempfile::TempDir;

use super::manifests::Manifests;
use crate::harness::server::run;
use crate::harness::tools;

const KUBECTL: &str = r#"#!/bin/sh
set -eu
namespace=default
if [ "$1" = -n ]; then namespace=$2; shift 2; fi
echo ---
case "$1 $2" in
create\ *) "$REAL_KUBECTL" --namespace "$namespace" "$@" --dry-run=client --output yaml ;;
"apply -k") "$REAL_KUBECTL" kustomize "$3" ;;
"apply -f") cat "$3" ;;
label\ *) ;;
exec\ *) echo "$*" ;;
*) echo "the test knows no kubectl $*" >&2; exit 1 ;;
esac
"#;

const HELM: &str = r#"#!/bin/sh
set -eu
[ "$1" = install ] && shift
exec "$REAL_HELM" template "$@"
"#;

/// What a script did.
pub struct Cluster {
    pub objects: Manifests,
    /// Where it ran, in which `deploy` is the project's.
    pub folder: TempDir,
}

/// Runs a script of docs/kubernetes.md.
pub fn after(script: &str) -> Cluster {
    let folder = TempDir::new().unwrap();
    symlink(tools::root().join("deploy"), folder.path().join("deploy")).unwrap();
    for (name, text) in [("kubectl", KUBECTL), ("helm", HELM)] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(folder.path());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.path().display()));
    command.env("REAL_KUBECTL", tools::kubectl()).env("REAL_HELM", tools::helm());
    let ran = run(command, "");
    assert!(ran.status.success(), "{ran:?}");
    Cluster { objects: Manifests::parse(&ran.stdout), folder }
}
