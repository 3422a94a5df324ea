//! The image: built as an operator builds it, looked into, and run in its own root before a real Envoy.

mod container;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::collector::Collector;
use crate::harness::http1::Request;
use crate::harness::log::Log;
use crate::harness::pki::Ca;
use crate::harness::{Envoy, Upstream, grpc, tools, wait_until};

use self::container::{Container, Image, Run};

const BOT: &str = "this-is-the-secret-token";
const ADMIN: &str = "correct-horse-battery-staple";
const BINARY: &str = "/usr/bin/envoy-auth-tokens";
const CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Everything but `ext_authz`.
const CONFIG: &str = "
probes: {listen: \"127.0.0.1:0\"}
admin: {listen: \"127.0.0.1:0\"}
keys: {store: \"sqlite:/var/lib/envoy-auth-tokens/keys.db\"}
tokens: [{token: {$env: BOT_TOKEN}, actor: {bot_id: my-bot}}]
users: [{username: admin, password: {$file: /run/secrets/admin-password}, actor: {id: admin, role: Admin}}]
";

/// A container of this configuration, with its secrets as one gets them.
fn run(config: &str) -> Run {
    Image::shared().run(config).env("BOT_TOKEN", BOT).secret("admin-password", ADMIN)
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_image_holds_what_it_needs_and_nothing_else() {
    let image = Image::shared();
    // No shell, no library, nobody's but root's to write, nothing with more rights than its caller.
    let expected = [
        "drwxr-xr-x 0:0 /etc",
        "drwxr-xr-x 0:0 /etc/ssl",
        "drwxr-xr-x 0:0 /etc/ssl/certs",
        "-rw-r--r-- 0:0 /etc/ssl/certs/ca-certificates.crt",
        "drwxr-xr-x 0:0 /run",
        "drwxr-xr-x 65532:65532 /run/envoy-auth-tokens",
        "drwxr-xr-x 0:0 /usr",
        "drwxr-xr-x 0:0 /usr/bin",
        "-rwxr-xr-x 0:0 /usr/bin/envoy-auth-tokens",
        "drwxr-xr-x 0:0 /var",
        "drwxr-xr-x 0:0 /var/lib",
        "drwx------ 65532:65532 /var/lib/envoy-auth-tokens",
    ];
    assert_eq!(image.files, expected);

    let read = |path: &str| std::fs::read(image.root.join(path.trim_start_matches('/'))).unwrap();
    let binary = read(BINARY);
    assert!(binary == std::fs::read(super::binary()).unwrap(), "another binary than that of `make dist`");
    let cas = read(CAS);
    assert!(cas == std::fs::read(tools::mozillas_cas()).unwrap(), "other CAs than Mozilla's");
    let size = binary.len() + cas.len();
    println!(
        "the image: {size} bytes, {} of them the binary; compressed {}",
        binary.len(),
        image.compressed()
    );
    assert!(size <= 20_000_000, "{size} bytes");
}

/// A registry of images on loopback.
struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(tools::registry());
        let mut child =
            command.arg("serve").arg(&config).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Log::of("the registry", &mut child);
        let address = log.wait_for("where the registry listens", |line| {
            let (_, after) = line.split_once("listening on ")?;
            Some(after.split(['"', ' ', ',']).next()?.to_owned())
        });
        Self { child, address, _folder: folder }
    }

    /// What it says of an image.
    fn manifest(&self, name: &str, tag: &str) -> Value {
        let kinds = "application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        let answer =
            Request::new(self.address.parse().unwrap(), "GET", &format!("/v2/{name}/manifests/{tag}"))
                .header("accept", kinds)
                .send();
        assert_eq!(answer.status, 200, "{name}:{tag}: {}", answer.text());
        answer.json()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn a_release_pushes_the_image_of_both_architectures_and_the_chart() {
    let (image, registry) = (Image::shared(), Registry::start());
    let output = tempfile::tempdir().unwrap();
    let to = format!("{}/Team", registry.address);
    for part in ["chart-package", "push-image", "push-chart"] {
        let ran = image.release(part, &to, output.path());
        assert_eq!(ran.code(), Some(0), "{part}: {}{}", ran.stdout, ran.stderr);
    }
    // A registry's names are in lower case.  The machine of the other architecture has pushed its own.
    let version = env!("CARGO_PKG_VERSION");
    for architecture in ["amd64", "arm64"] {
        let name = format!("{}/team/envoy-auth-tokens:{version}-{architecture}", registry.address);
        image.push(&name, architecture);
    }
    // The second time replaces the first.
    for _ in 0..2 {
        let ran = image.release("join-images", &to, output.path());
        assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
    }
    let joined = registry.manifest("team/envoy-auth-tokens", version);
    let platforms = joined["manifests"].as_array().unwrap_or_else(|| panic!("{joined:#}"));
    let platforms: Vec<_> = platforms.iter().map(|one| one["platform"]["architecture"].clone()).collect();
    assert_eq!(platforms, ["amd64", "arm64"], "{joined:#}");
    let chart = registry.manifest("team/charts/envoy-auth-tokens", version);
    assert_eq!(chart["config"]["mediaType"], "application/vnd.cncf.helm.config.v1+json", "{chart:#}");
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_image_says_how_it_is_run() {
    let config = &Image::shared().config;
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!([BINARY]));
    assert_eq!(config["Cmd"], json!(["serve"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", BINARY, "health"]));
    // A volume nobody named would keep keys that nobody finds again.
    assert_eq!(config["Volumes"], json!({}));
    let ports: BTreeMap<String, Value> = serde_json::from_value(config["ExposedPorts"].clone()).unwrap();
    assert_eq!(ports.into_keys().collect::<Vec<_>>(), ["9191/tcp", "9192/tcp", "9193/tcp"]);

    let labels: BTreeMap<String, String> = serde_json::from_value(config["Labels"].clone()).unwrap();
    let of = |name: &str| labels.get(&format!("org.opencontainers.image.{name}")).map(String::as_str);
    assert_eq!(of("title"), Some(env!("CARGO_PKG_NAME")));
    assert_eq!(of("version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(of("licenses"), Some(env!("CARGO_PKG_LICENSE")));
    assert_eq!(of("description"), Some(env!("CARGO_PKG_DESCRIPTION")));
    let revision =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(tools::root()).output().unwrap();
    assert_eq!(of("revision"), Some(String::from_utf8(revision.stdout).unwrap().trim()));
}

/// An Envoy before this container, configured by what the image's own `envoy` prints.
fn envoy(container: &Container, address: &str, upstream: &Upstream) -> Envoy {
    let upstream = upstream.address().to_string();
    let wanted = ["envoy", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--address", address];
    let printed = container.exec(&[&[BINARY], &wanted[..]].concat());
    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }";
    Envoy::configured(&format!("{admin}\n{}", printed.stdout))
}

/// The image's HEALTHCHECK, as a container's engine asks it.
fn health(container: &Container) -> Option<i32> {
    let test: Vec<String> =
        serde_json::from_value(Image::shared().config["Healthcheck"]["Test"].clone()).unwrap();
    let test: Vec<&str> = test.iter().map(String::as_str).collect();
    assert_eq!(test[0], "CMD", "there is no shell");
    container.exec(&test[1..]).code()
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn it_answers_envoy_over_tcp_and_over_a_socket_from_a_root_that_nobody_can_write() {
    let upstream = Upstream::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let mut container = run(&format!("ext_authz: {{listen: \"{listen}\"}}\n{CONFIG}")).start();
    container.assert_confined();
    let gate = envoy(&container, &listen, &upstream);
    let get = |gate: &Envoy, path: &str| Request::new(gate.address(), "GET", path);
    assert_eq!(health(&container), Some(0));
    let seen = get(&gate, "/").bearer(BOT).send().seen();
    assert_eq!(seen.all("x-actor"), [r#"{"bot_id":"my-bot"}"#]);
    assert_eq!(get(&gate, "/").send().verdict(), (401, "unauthorized".to_owned()));
    // A password: argon2id has what it needs without a /dev.
    let basic = || get(&gate, "/").basic("admin", ADMIN).send();
    assert_eq!(crate::users::settle(basic).seen().all("x-actor-id"), ["admin"]);
    assert_eq!(crate::users::settle(|| get(&gate, "/").basic("admin", "wrong").send()).status, 401);

    // A key, which SQLite keeps in the volume.
    let key = Request::new(container.server.admin(), "POST", "/api/auth/keys").basic("admin", ADMIN);
    let key = key.header("content-type", "application/json").header("connection", "close");
    let key = key.body(br#"{"name": "mykey", "role": "Viewer"}"#.to_vec()).send();
    assert_eq!(key.status, 200, "{}", key.text());
    let key = key.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(get(&gate, "/").bearer(&key).send().seen().all("x-actor-id"), ["key:mykey"]);

    // SIGTERM reaches the first process, which drains: ill for whoever asks, and yet there for Envoy.
    container.terminate();
    container.server.log().wait_for("a line about the drain", |line| line.contains("draining").then_some(()));
    assert_eq!(health(&container), Some(1));
    assert_eq!(get(&gate, "/").bearer(BOT).send().status, 200);
    assert_eq!(container.server.wait().code(), Some(0));
    assert_eq!(gate.stat("error"), 0, "{}", container.server.log().text());
    let store = container.data().join("keys.db");
    assert_eq!(std::fs::metadata(&store).unwrap().uid(), 65532);

    // Another container with the same volumes, and a socket that Envoy sees in the shared one.
    let socket = "unix:/run/envoy-auth-tokens/ext_authz.sock";
    let next =
        run(&format!("ext_authz: {{listen: \"{socket}\"}}\n{CONFIG}")).with_volumes_of(container).start();
    let shared = next.sockets().join("ext_authz.sock");
    let gate = envoy(&next, &format!("unix:{}", shared.display()), &upstream);
    assert_eq!(health(&next), Some(0));
    assert_eq!(get(&gate, "/").bearer(&key).send().seen().all("x-actor-id"), ["key:mykey"]);
    assert_eq!(get(&gate, "/").send().status, 401);
    let meta = std::fs::metadata(&shared).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (65532, 65532, 0o660));
    assert_eq!(gate.stat("error"), 0, "{}", next.server.log().text());
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn a_healthcheck_fails_where_nobody_serves_and_a_start_without_a_secret_says_so() {
    let config = format!("ext_authz: {{listen: \"unix:/run/envoy-auth-tokens/ext_authz.sock\"}}\n{CONFIG}");
    let ran = run(&config).finish(&["health"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot connect to unix:/run/envoy-auth-tokens/ext_authz.sock"), "{ran:?}");

    let ran = Image::shared().run(&config).env("BOT_TOKEN", BOT).finish(&["serve"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("/run/secrets/admin-password"), "{ran:?}");
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn a_collector_is_trusted_by_the_cas_that_are_mounted_and_not_by_those_of_the_image() {
    let ca = Ca::new("ours");
    let pair = ca.issue(&["collector.test"]);
    let collector = Collector::with_tls(&pair.cert, &pair.key);
    let config = format!("ext_authz: {{listen: \"127.0.0.1:0\"}}\n{CONFIG}");
    let endpoint = format!("https://collector.test:{}", collector.address().port());
    let traced = || {
        let run = run(&config).file("/etc/hosts", "127.0.0.1 collector.test\n");
        run.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "20")
    };
    let check = |container: &Container, path| {
        let bearer = format!("Bearer {BOT}");
        grpc::check(&container.server, grpc::request("GET", "h", path, &[("authorization", &bearer)]));
    };

    let stranger = traced().start();
    wait_until("spans that no collector took", || {
        check(&stranger, "/stranger");
        let metrics = stranger.server.metrics();
        let dropped =
            metrics.lines().find_map(|line| line.strip_prefix("envoy_auth_tokens_dropped_spans_total "));
        dropped.expect("a counter of spans").parse::<u64>().unwrap() > 0
    });
    drop(stranger);

    let trusting = traced().file(CAS, &ca.pem()).start();
    check(&trusting, "/trusted");
    collector.with_attribute("url.path", "/trusted");
    assert!(collector.spans().iter().all(|span| span.attributes["url.path"] != "/stranger"));
}

/// Answers for `keys.svc.cluster.test` with 127.0.0.1, and that there is no other name.
const NAMESERVER: &str = r#"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(0, 12) + 5
    name, kind = query[12:end - 4].lower(), query[end - 4:end - 2]
    known = name == b"\4keys\3svc\7cluster\4test\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if known and kind == b"\0\1" else b""
    head = query[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0" * 4
    server.sendto(head + query[12:end] + answer, client)
"#;

/// The nameserver in a container's network.
struct Nameserver(Child);

impl Nameserver {
    fn start(container: &Container) -> Self {
        let mut command = container.in_its_network("python3");
        command.args(["-c", NAMESERVER]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let log = Log::of("the nameserver", &mut child);
        let nameserver = Self(child);
        log.wait_for("being ready", |line| (line == "ready").then_some(()));
        nameserver
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn names_are_looked_up_in_hosts_and_by_dns_as_in_a_cluster() {
    let config = CONFIG.replace(
        "admin: {listen: \"127.0.0.1:0\"}",
        "admin: {listen: \"127.0.0.1:9192\", hosts: [keys.svc.cluster.test, keys.svc, keys, in-hosts]}",
    );
    let resolver = "nameserver 127.0.0.1\nsearch svc.cluster.test cluster.test\n";
    let run = run(&config).file("/etc/hosts", "127.0.0.1 in-hosts\n").file("/etc/resolv.conf", resolver);
    let container = run.in_a_network_of_its_own().start();
    let _nameserver = Nameserver::start(&container);
    let list = |host: &str| {
        let url = format!("http://{host}:9192");
        let login = ["--user", "admin", "--password-file", "/run/secrets/admin-password"];
        container.exec(&[&[BINARY, "keys", "list", "--url", &url], &login[..]].concat())
    };
    for host in ["keys.svc.cluster.test", "keys.svc", "keys", "in-hosts"] {
        let ran = list(host);
        assert_eq!(ran.code(), Some(0), "{host}: {ran:?}");
    }
    let ran = list("nobody");
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("nobody:9192"), "{ran:?}");
}
