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

/// Docker's own Compose, of which `config` needs no daemon.
pub fn docker_compose() -> &'static Path {
    static DOCKER_COMPOSE: LazyLock<PathBuf> = LazyLock::new(|| fetch("docker-compose"));
    &DOCKER_COMPOSE
}

/// A linter of Dockerfiles.
pub fn hadolint() -> &'static Path {
    static HADOLINT: LazyLock<PathBuf> = LazyLock::new(|| fetch("hadolint"));
    &HADOLINT
}

/// What builds images without a daemon.
pub fn buildah() -> &'static Path {
    static BUILDAH: LazyLock<PathBuf> = LazyLock::new(|| fetch("buildah"));
    &BUILDAH
}

/// The file of Mozilla's CAs, in PEM.
pub fn mozillas_cas() -> PathBuf {
    fetch("certifi").join("certifi/cacert.pem")
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
