//! A real Envoy, of the shape that a test needs.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::MAX_WAIT;
use super::http1::{Answer, Request};
use super::log::Log;
use super::server::{ListenAddress, Server, signal};
use super::tools;
use super::upstream::Upstream;

const FILTER: &str = "envoy.filters.http.ext_authz";
const FILTER_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const PER_ROUTE_TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";

/// How Envoy hands us a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `encode_raw_headers: false`, Envoy's default: a map, repeated lines joined, bad bytes replaced.
    Joined,
    /// `encode_raw_headers: true`: every line with its bytes.
    Raw,
    /// Not at all: the module decides in Envoy's own process.
    Inside,
}

impl Encoding {
    /// The same request must give the same decision in all.
    pub const ALL: [Self; 3] = [Self::Joined, Self::Raw, Self::Inside];
    /// Those of ext_authz: what a server has just opened or ended is known to it at once, and to the module within a second.
    pub const EXT_AUTHZ: [Self; 2] = [Self::Joined, Self::Raw];
}

/// What is particular about an Envoy.
pub struct Shape {
    filter: Value,
    manager: Value,
    routes: Value,
    cluster: String,
    authority: Option<String>,
    /// How it speaks to us, when that is not in plain text.
    tls: Option<Value>,
    tcp_filter: bool,
    grpc_upstream: bool,
    collector: Option<Value>,
    /// The module instead of ext_authz, and what its `filter_config` says beside `config`.
    module: Option<Value>,
    /// Envoy's own program.
    program: Program,
}

/// Who writes Envoy's spans, and in which headers it names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracer {
    /// OTLP, and `traceparent`.
    OpenTelemetry,
    /// Zipkin, and `x-b3-…`.  Where it sends its spans, nobody takes them.
    Zipkin,
}

impl Shape {
    /// The filter's defaults, but for time-outs that suit a busy machine; nothing is stripped or normalised
    /// before us.
    pub fn plain() -> Self {
        Self {
            filter: json!({}),
            manager: json!({}),
            routes: json!([{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }]),
            cluster: "ext_authz".to_owned(),
            authority: None,
            tls: None,
            tcp_filter: false,
            grpc_upstream: false,
            collector: None,
            module: None,
            program: Program::default(),
        }
    }

    /// The module inside Envoy instead of ext_authz.  Decisions are logged as the server logs them.
    pub fn inside(self) -> Self {
        self.module(json!({ "log_decisions": "all", "log": "json" }))
    }

    /// Whether the module decides.
    pub fn is_inside(&self) -> bool {
        self.module.is_some()
    }

    /// The same, with these members of `filter_config` beside `config`.
    pub fn module(mut self, settings: Value) -> Self {
        self.module = Some(settings);
        self
    }

    /// This release of Envoy instead of the newest one that we know.
    pub fn release(mut self, release: tools::EnvoyRelease) -> Self {
        self.program.release = release;
        self
    }

    /// So many workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.program.workers = workers;
        self
    }

    /// Every request is traced, and the spans are sent to a collector.
    pub fn tracer(mut self, tracer: Tracer, collector: SocketAddr) -> Self {
        let provider = match tracer {
            Tracer::OpenTelemetry => json!({
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "grpc_service": { "timeout": "5s", "envoy_grpc": { "cluster_name": "collector" } },
                    "service_name": "envoy",
                },
            }),
            Tracer::Zipkin => json!({
                "name": "envoy.tracers.zipkin",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
                    "collector_cluster": "collector",
                    "collector_endpoint": "/api/v2/spans",
                    "collector_endpoint_version": "HTTP_JSON",
                    "trace_id_128bit": true,
                },
            }),
        };
        let mut cluster = cluster("collector", &ListenAddress::Tcp(collector));
        cluster["typed_extension_protocol_options"] = http2();
        self.collector = Some(cluster);
        self.manager(json!({ "tracing": { "provider": provider } }))
    }

    pub fn encoding(self, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Inside => self.inside(),
            Encoding::Joined | Encoding::Raw => {
                self.filter(json!({ "encode_raw_headers": encoding == Encoding::Raw }))
            }
        }
    }

    /// Members of the ext_authz filter.
    pub fn filter(mut self, members: Value) -> Self {
        merge(&mut self.filter, members);
        self
    }

    /// Members of the HTTP connection manager.
    pub fn manager(mut self, members: Value) -> Self {
        merge(&mut self.manager, members);
        self
    }

    /// The routes of the only virtual host.
    pub fn routes(mut self, routes: Value) -> Self {
        self.routes = routes;
        self
    }

    /// Everything goes to the upstream under the policy of this name, as `context_extensions` say.
    pub fn policy(self, name: &str) -> Self {
        let route = json!({
            "match": { "prefix": "/" },
            "route": { "cluster": "app" },
            "typed_per_filter_config": { FILTER: per_route_policy(name) },
        });
        self.routes(json!([route]))
    }

    /// The name of the cluster by which Envoy reaches us, and the `:authority` if any is set.
    pub fn cluster(mut self, name: &str, authority: Option<&str>) -> Self {
        self.cluster = name.to_owned();
        self.authority = authority.map(str::to_owned);
        self
    }

    /// It speaks TLS to us: this is its `common_tls_context`.
    pub fn tls(mut self, context: Value) -> Self {
        self.tls = Some(context);
        self
    }

    /// The network filter before a TCP proxy instead of the HTTP filter.
    pub fn tcp_filter(mut self) -> Self {
        self.tcp_filter = true;
        self
    }

    /// The upstream is our server's own gRPC health service: a real gRPC application.
    pub fn grpc_upstream(mut self) -> Self {
        self.grpc_upstream = true;
        self
    }

    fn grpc_service(&self) -> Value {
        let mut envoy_grpc = json!({ "cluster_name": self.cluster });
        if let Some(authority) = &self.authority {
            envoy_grpc["authority"] = json!(authority);
        }
        json!({ "timeout": "10s", "envoy_grpc": envoy_grpc })
    }

    fn network_filters(&self, server: &Server) -> Value {
        if self.tcp_filter {
            return json!([
                {
                    "name": "envoy.filters.network.ext_authz",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
                        "stat_prefix": "ext_authz",
                        "transport_api_version": "V3",
                        "grpc_service": self.grpc_service(),
                    },
                },
                {
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "tcp",
                        "cluster": "app",
                    },
                },
            ]);
        }
        let mut filter = json!({
            "@type": FILTER_TYPE,
            "transport_api_version": "V3",
            "grpc_service": self.grpc_service(),
        });
        merge(&mut filter, self.filter.clone());
        let mut routes = self.routes.clone();
        if let Some(settings) = &self.module {
            let mut settings = settings.clone();
            settings["config"] = json!(server.config_path());
            filter = module_filter(&settings);
            translate_per_route(&mut routes, self.program.release);
        }
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "ingress",
            "access_log": [access_log()],
            "route_config": {
                "virtual_hosts": [{ "name": "app", "domains": ["*"], "routes": routes }],
            },
            "http_filters": [
                { "name": FILTER, "typed_config": filter },
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                },
            ],
        });
        merge(&mut manager, self.manager.clone());
        json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }])
    }

    /// Its configuration.
    pub fn config(&self, server: &Server, upstream: &Upstream) -> Value {
        let mut app = cluster("app", &ListenAddress::Tcp(upstream.address()));
        if self.grpc_upstream {
            app = cluster("app", server.listen_address());
            app["typed_extension_protocol_options"] = http2();
        }
        let mut ext_authz = cluster(&self.cluster, server.listen_address());
        ext_authz["typed_extension_protocol_options"] = http2();
        if let Some(context) = &self.tls {
            ext_authz["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "ext-authz.local",
                    "common_tls_context": context,
                },
            });
        }
        let mut clusters = vec![app, ext_authz];
        clusters.extend(self.collector.clone());
        json!({
            "admin": { "address": socket("127.0.0.1", 0) },
            // A span is sent when it ends, not when several have.
            "layered_runtime": { "layers": [{
                "name": "tests",
                "static_layer": { "tracing.opentelemetry.min_flush_spans": 1 },
            }] },
            "static_resources": {
                "listeners": [{
                    "name": "ingress",
                    "address": socket("127.0.0.1", 0),
                    "per_connection_buffer_limit_bytes": 16 * 1024 * 1024,
                    "filter_chains": [{ "filters": self.network_filters(server) }],
                }],
                "clusters": clusters,
            },
        })
    }
}

/// The filter by which Envoy loads the module.
pub fn module_filter(settings: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": module_config(),
        "filter_name": "envoy_auth_tokens",
        "filter_config": text(settings),
    })
}

/// The module's per-route configuration.  For it Envoy 1.38 knows no files, and looks for a name in a folder that its
/// environment names.
pub fn per_route_module(release: tools::EnvoyRelease, settings: &Value) -> Value {
    let mut module = module_config();
    match release {
        tools::EnvoyRelease::V1_38 => {
            module["name"] = json!("envoy_auth_tokens");
            module.as_object_mut().expect("an object").remove("module");
        }
        tools::EnvoyRelease::V1_39 | tools::EnvoyRelease::V1_40 => {}
    }
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
        "dynamic_module_config": module,
        "filter_name": "envoy_auth_tokens",
        "filter_config": text(settings),
    })
}

/// How Envoy loads the module.
fn module_config() -> Value {
    json!({
        "module": { "local": { "filename": tools::module() } },
        "do_not_close": true,
        "metrics_namespace": "envoy_auth_tokens",
    })
}

fn text(settings: &Value) -> Value {
    json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": settings.to_string() })
}

/// Says to the module what routes say to ext_authz.
fn translate_per_route(value: &mut Value, release: tools::EnvoyRelease) {
    match value {
        Value::Object(members) => {
            let policy = members
                .get(FILTER)
                .and_then(|filter| filter["check_settings"]["context_extensions"]["policy"].as_str())
                .map(str::to_owned);
            let is_disabled = members.get(FILTER).is_some_and(|filter| filter["disabled"] == true);
            if let Some(policy) = policy {
                let settings = per_route_module(release, &json!({ "policy": policy }));
                members.insert(FILTER.to_owned(), settings);
            } else if is_disabled {
                let disabled = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
                members.insert(FILTER.to_owned(), disabled);
            } else {
                members.values_mut().for_each(|member| translate_per_route(member, release));
            }
        }
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| translate_per_route(element, release));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `typed_per_filter_config` that names a policy.
pub fn per_route_policy(name: &str) -> Value {
    json!({
        "@type": PER_ROUTE_TYPE,
        "check_settings": { "context_extensions": { "policy": name } },
    })
}

/// `typed_per_filter_config` that leaves us out.
pub fn per_route_disabled() -> Value {
    json!({ "@type": PER_ROUTE_TYPE, "disabled": true })
}

/// The access log that an operator would write who wants to know who did what.
fn access_log() -> Value {
    json!({
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": { "json_format": {
                "access": "log",
                "path": "%PATH(NQ)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "request_id": "%REQ(X-REQUEST-ID)%",
                "ext_authz": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
            } },
        },
    })
}

fn socket(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn cluster(name: &str, listen_address: &ListenAddress) -> Value {
    let address = match listen_address {
        ListenAddress::Tcp(address) => socket(&address.ip().to_string(), address.port()),
        ListenAddress::Unix(path) => json!({ "pipe": { "path": path } }),
        ListenAddress::Abstract(name) => json!({ "pipe": { "path": format!("@{name}") } }),
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

fn http2() -> Value {
    json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    })
}

/// Puts `members` into `into`, objects member by member.
fn merge(into: &mut Value, members: Value) {
    match (into, members) {
        (Value::Object(into), Value::Object(members)) => {
            for (name, value) in members {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value,
    }
}

/// The configuration with waits of a second or less made long.  A machine that is busy with other tests may stand
/// still for so long, and Envoy would deny by chance; who is gone denies a connection at once.
fn patient(config: &str) -> Cow<'_, str> {
    static SHORT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(\b(?:connect_)?timeout"?: ?"?)(?:0\.25|1)s\b"#).expect("a regular expression")
    });
    SHORT.replace_all(config, "${1}30s")
}

/// A configuration of ours that tries as often as the wait for an answer allows, however long a new server takes to
/// start here: on a machine of its own it is there before the twelfth time.
#[track_caller]
pub fn persistent(config: &str) -> String {
    let times = "num_retries: 12";
    assert_eq!(config.matches(times).count(), 1, "{config}");
    config.replace(times, "num_retries: 500")
}

/// Which Envoy runs, and how.
#[derive(Debug, Clone)]
pub struct Program {
    pub release: tools::EnvoyRelease,
    pub workers: usize,
    /// Its environment, beside ours.
    pub environment: Vec<(String, String)>,
    /// Its place in a hot restart, if there is to be one.
    pub hot_restart: Option<HotRestart>,
}

/// The place of an Envoy in a hot restart.
#[derive(Debug, Clone)]
pub enum HotRestart {
    /// It writes the number by which the next one finds it into this file.
    First { base_id: PathBuf },
    /// It takes over from the one that wrote the file, and ends it soon.
    Next { base_id: PathBuf },
}

impl HotRestart {
    fn arguments(&self) -> Vec<String> {
        let times = ["--drain-time-s", "1", "--parent-shutdown-time-s", "2"].map(str::to_owned);
        let place = match self {
            Self::First { base_id } => vec![
                "--use-dynamic-base-id".to_owned(),
                "--base-id-path".to_owned(),
                base_id.display().to_string(),
            ],
            Self::Next { base_id } => {
                let number = std::fs::read_to_string(base_id).expect("what the first Envoy wrote");
                ["--restart-epoch", "1", "--base-id", number.trim()].map(str::to_owned).to_vec()
            }
        };
        [place, times.to_vec()].concat()
    }
}

impl Default for Program {
    fn default() -> Self {
        Self { release: tools::EnvoyRelease::V1_40, workers: 1, environment: Vec::new(), hot_restart: None }
    }
}

/// A running Envoy; it dies with this value.
pub struct Envoy {
    child: Child,
    log: Log,
    admin: SocketAddr,
    listener: SocketAddr,
    _folder: TempDir,
}

impl Envoy {
    /// An Envoy of this shape between clients and this upstream, asking this server.
    pub fn start(shape: &Shape, server: &Server, upstream: &Upstream) -> Self {
        let mut program = shape.program.clone();
        program.environment.extend(server.environment().iter().cloned());
        let folder = server.folder().display().to_string();
        program.environment.push(("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), folder));
        Self::running(&shape.config(server, upstream).to_string(), &program)
    }

    /// An Envoy with this configuration, whose ports are 0, and which waits longer than it says.
    pub fn configured(config: &str) -> Self {
        Self::running(config, &Program::default())
    }

    /// The same by this program.
    pub fn running(config: &str, program: &Program) -> Self {
        let folder = TempDir::new().expect("a fresh folder");
        let path = folder.path().join("envoy.yaml");
        std::fs::write(&path, patient(config).as_bytes()).expect("a file in a fresh folder");
        let mut command = Command::new(tools::envoy_release(program.release));
        command.arg("--config-path").arg(&path);
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        if program.release == tools::EnvoyRelease::V1_38 {
            command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", tools::module_folder());
        }
        command.args(["--concurrency", &program.workers.to_string(), "--file-flush-interval-msec", "20"]);
        match &program.hot_restart {
            Some(place) => command.args(place.arguments()),
            None => command.arg("--disable-hot-restart"),
        };
        command.args(["--log-level", "warning", "--component-log-level", "admin:info,dynamic_modules:info"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("Envoy starts");
        let log = Log::of("Envoy", &mut child);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on the process dies with this value, even when a wait fails.
        let mut envoy = Self { child, log, admin: nowhere, listener: nowhere, _folder: folder };
        envoy.admin = envoy.log.wait_for("saying where its admin listens", |line| {
            line.split_once("admin address: ").and_then(|(_, address)| address.trim().parse().ok())
        });
        envoy.wait_until_ready();
        envoy.listener = envoy.find_listener();
        envoy
    }

    /// Asks Envoy's admin listener until it says LIVE: it has no other way of telling.
    fn wait_until_ready(&self) {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let answer = self.ask("GET", "/ready");
            if answer.status == 200 {
                return;
            }
            let state = answer.text();
            assert!(Instant::now() < deadline, "Envoy stays {state:?}:\n{}", self.log.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where this listener listens, if it is there.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let listeners = self.ask("GET", "/listeners?format=json").json();
        let statuses = listeners["listener_statuses"].as_array()?;
        let listener = statuses.iter().find(|status| status["name"] == name)?;
        let port = listener["local_address"]["socket_address"]["port_value"].as_u64()?;
        Some(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?)))
    }

    fn find_listener(&self) -> SocketAddr {
        let listeners = self.ask("GET", "/listeners?format=json").json();
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = address["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or_else(|| panic!("Envoy has no listener: {listeners}"));
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn ask(&self, method: &str, target: &str) -> Answer {
        Request::new(self.admin, method, target).header("connection", "close").send()
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.listener
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed, its access log included.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A counter of the ext_authz filter: `ok`, `denied`, `error`, `invalid` and others.
    pub fn stat(&self, counter: &str) -> u64 {
        let answer = self.ask("GET", "/stats?format=json&filter=ext_authz").json();
        let stats = answer["stats"].as_array().expect("a list of counters");
        let name = format!(".{counter}");
        let ours = stats.iter().filter(|stat| {
            let stat = stat["name"].as_str().unwrap_or_default();
            // The filter's own counters, not their copies under each upstream cluster.
            !stat.starts_with("cluster.") && stat.contains("ext_authz.") && stat.ends_with(&name)
        });
        ours.filter_map(|stat| stat["value"].as_u64()).sum()
    }

    /// Holds that ext_authz counted no error and no invalid answer of this server's, and let nobody pass for one.
    #[track_caller]
    pub fn assert_no_fault_of(&self, server: &Server) {
        for counter in ["error", "invalid", "failure_mode_allowed"] {
            let count = self.stat(counter);
            assert_eq!(count, 0, "Envoy counted ext_authz.{counter}; our log:\n{}", server.log().text());
        }
    }

    /// What Prometheus reads of it.
    pub fn prometheus(&self) -> String {
        self.ask("GET", "/stats/prometheus").text()
    }

    /// A counter of any filter, by its whole name.
    pub fn counter(&self, name: &str) -> u64 {
        let answer = self.ask("GET", "/stats?format=json").json();
        let stats = answer["stats"].as_array().expect("a list of counters");
        let stat = stats.iter().find(|stat| stat["name"] == name);
        stat.and_then(|stat| stat["value"].as_u64()).unwrap_or_else(|| panic!("Envoy counts no {name}"))
    }

    /// The access log's entry for this path without its query.
    pub fn accessed(&self, path: &str) -> Value {
        self.log.wait_for(&format!("an access log line for {path}"), |line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            (entry["access"] == "log" && entry["path"] == path).then_some(entry)
        })
    }

    /// Waits until it has ended by itself, as it does once the next one of a hot restart has taken over.
    pub fn wait(&mut self) {
        self.log.wait_for_the_end();
        let _ = self.child.wait();
    }

    /// Ends it in good order, so that everything it had to print is printed.
    pub fn stop(&mut self) {
        signal("-TERM", self.child.id());
        self.log.wait_for_the_end();
        let _ = self.child.wait();
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Envoy itself says of a configuration file.
pub fn validate(config: &Path) -> Result<(), String> {
    let mut command = Command::new(tools::envoy());
    command.args(["--mode", "validate", "--log-level", "warning", "--config-path"]).arg(config);
    let run = command.output().expect("Envoy starts");
    let output = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if run.status.success() { Ok(()) } else { Err(output) }
}
