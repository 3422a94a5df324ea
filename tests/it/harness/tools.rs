//! The programs that are not ours, fetched once by `tests/tools/fetch.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The real Envoy.
pub fn envoy() -> &'static Path {
    static ENVOY: LazyLock<PathBuf> = LazyLock::new(|| fetch("envoy"));
    &ENVOY
}

/// A command that starts the real Datasette, with its plugin that we descend from.
pub fn datasette() -> Command {
    static PATHS: LazyLock<String> = LazyLock::new(|| {
        ["datasette", "datasette-auth-tokens"].map(|name| fetch(name).display().to_string()).join(":")
    });
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &*PATHS).args(["-m", "datasette"]);
    command
}

/// Prometheus' checker of rules; its server stands beside it.
pub fn promtool() -> &'static Path {
    static PROMTOOL: LazyLock<PathBuf> = LazyLock::new(|| fetch("promtool"));
    &PROMTOOL
}

/// The published schemas of meshes' and gateways' resources; `tests/tools/crds.mjs` reads them.
pub fn mesh_schemas() -> &'static Path {
    static SCHEMAS: LazyLock<PathBuf> = LazyLock::new(|| fetch("mesh-schemas"));
    &SCHEMAS
}

fn fetch(name: &str) -> PathBuf {
    let script = root().join("tests/tools/fetch.py");
    let run = Command::new("python3").arg(script).arg(name).output();
    let run = run.unwrap_or_else(|error| panic!("the tests need python3, which did not start: {error}"));
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{name} is missing: {complaint}");
    let told = String::from_utf8(run.stdout).expect("paths are UTF-8");
    let path = told.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    PathBuf::from(path.unwrap_or_else(|| panic!("fetch.py did not say where {name} is: {told:?}")))
}
