//! Renders the parts of an Envoy configuration.  Everything about Envoy's own settings is here.
//!
//! The text is a template and not serialised, because its comments matter as much as its values.
//! `deploy/envoy.yaml` is its output for `deploy/config.yaml`; a test compares the two.

use std::path::Path;

use super::endpoint::Endpoint;
use super::settings::EnvoySettings;
use super::yaml::quoted;
use crate::answer::TOKEN_EXPIRES;
use crate::policy::{Override, OverrideKind};

/// Headers that decisions read in addition to the credentials, each group with the reason.
const DECISION_HEADERS: [(&str, &[&str]); 5] = [
    (
        "For logs and traces.",
        &[
            "x-request-id",
            "traceparent",
            "tracestate",
            "b3",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-sampled",
            "x-b3-flags",
        ],
    ),
    ("For denials in the form that gRPC clients expect.", &["content-type"]),
    (
        "Requests whose header names an actor header are denied.  Envoy removes the header except on upgrades.",
        &["connection"],
    ),
    (
        "For the rules about cross-site requests, browsers that navigate, and CORS preflights.",
        &["upgrade", "origin", "sec-fetch-site", "sec-fetch-mode", "accept", "access-control-request-method"],
    ),
    ("The target of COPY and MOVE.", &["destination"]),
];

/// Headers by which a request names another path, host or method: those of [`Override::ALL`] whose positions `filter`
/// takes.  `destination` is not among them: WebDAV needs it, and a decision reads it.
fn override_headers(filter: impl Fn(usize) -> bool) -> Vec<&'static str> {
    let all = Override::ALL.iter().enumerate();
    let headers = all.filter(|(position, one)| {
        one.is_header() && one.kind != OverrideKind::Destination && filter(*position)
    });
    headers.map(|(_, one)| one.name).collect()
}

/// How many names one expression matches: Envoy rejects a program of more than 100 steps (`re2.max_program_size`).
const NAMES_PER_EXPRESSION: usize = 4;

/// Quoted expressions that match these names and every name that an application might fold onto one of them.
fn folded_expressions(names: &[&str]) -> Vec<String> {
    let fold = |name: &&str| name.replace('-', "[^a-z0-9]");
    let chunks = names.chunks(NAMES_PER_EXPRESSION);
    chunks.map(|names| quoted(&names.iter().map(fold).collect::<Vec<_>>().join("|"))).collect()
}

/// The header that Envoy sets when it lets a request pass without a Check.  Clients must not send it.
const FAILURE_MODE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// The entry of `http_filters`.
pub fn filter(settings: &EnvoySettings) -> String {
    let mut text = FILTER.to_owned();
    text.push_str("    allowed_headers:\n      patterns:\n");
    let credentials = settings.credentials.iter().map(String::as_str);
    add_patterns(&mut text, "Where a request may carry a credential.", credentials);
    for (reason, names) in DECISION_HEADERS {
        let new = names
            .iter()
            .copied()
            .filter(|name| !settings.credentials.iter().any(|credential| credential == name));
        add_patterns(&mut text, reason, new);
    }
    text.push_str(
        "      # Headers that ask the upstream for another path, host or method, in every spelling.\n",
    );
    for expression in folded_expressions(&override_headers(|_| true)) {
        text.push_str(&format!("      - {{ safe_regex: {{ regex: {expression} }} }}\n"));
    }
    let changed = settings.actor_headers.iter().chain(&settings.emptied);
    let changed: Vec<_> = changed.map(|name| regex::escape(name).replace(r"\-", "-")).collect();
    let expression = quoted(&changed.join("|"));
    text.push_str(&format!(
        "    # The server may change only these headers: those of the actor, and the credentials.
    decoder_header_mutation_rules:
      disallow_all: true
      disallow_is_error: true
      allow_expression: {{ regex: {expression} }}
"
    ));
    text.push_str(GRPC_SERVICE);
    text
}

fn add_patterns<'n>(text: &mut String, reason: &str, names: impl Iterator<Item = &'n str>) {
    let patterns: String = names.map(|name| format!("      - {{ exact: {} }}\n", scalar(name))).collect();
    if !patterns.is_empty() {
        text.push_str(&format!("      # {reason}\n{patterns}"));
    }
}

const FILTER: &str = r#"- name: envoy.filters.http.ext_authz
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
    transport_api_version: V3
    stat_prefix: token
    # Without an answer of the server no request passes.  The status is 503 and not Envoy's 403, which a client
    # would read as an answer about its token.
    failure_mode_allow: false
    status_on_error: { code: ServiceUnavailable }
    # An answer with illegal headers is an error (500).  Otherwise the request would continue without some of
    # them.
    validate_mutations: true
    # Header lines as they arrive: repeated headers stay separate, bytes that are not UTF-8 stay unchanged.
    encode_raw_headers: true
    # A header that the server sets must not select another route, with other rules, after the decision.
    clear_route_cache: false
    # Denials do not count as 4xx of the application.
    charge_cluster_response_stats: false
    # The server receives only the headers that decisions read.  Without one of these lines a rule does not work.
"#;

const GRPC_SERVICE: &str = "    grpc_service:
      timeout: 1s
      # The name that gRPC calls carry.  Without it Envoy sends the cluster's name, and a name with `|` or
      # `/` is no legal authority: every request would fail.
      envoy_grpc: { cluster_name: ext_authz, authority: ext-authz.local }
      # For a restart of the server: Envoy tries again.  max_interval is also the limit of each attempt.
      retry_policy:
        retry_on: unavailable,connect-failure,refused-stream,reset
        num_retries: 12
        retry_back_off: { base_interval: 0.025s, max_interval: 0.25s }
";

/// Members of the HTTP connection manager.
pub fn manager(settings: &EnvoySettings) -> String {
    let host_port = if settings.redirects { KEPT_HOST_PORT } else { STRIPPED_HOST_PORT };
    let mut text = [MANAGER, host_port, MANAGER_TIMEOUTS].concat();
    if settings.credentials.iter().any(|name| name.contains('_')) {
        text.push_str(
            "  # A header with an underscore carries a credential, so such names are allowed.  Names that fold onto an
  # actor header (`x_actor_id`) are removed below.
  headers_with_underscores_action: ALLOW
",
        );
    } else {
        text.push_str(
            "  # Applications behind CGI or WSGI would read `x_actor_id` as `x-actor-id`.
  headers_with_underscores_action: REJECT_REQUEST
",
        );
    }
    text.push_str(
        "\
# Removed from every request before routing, so that no client can set actor headers, even where ext_authz is
# disabled.  The rule after the names removes names that an application might fold onto one of them (`x.actor.id`).
early_header_mutation_extensions:
- name: strip
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
    mutations:
",
    );
    for name in &settings.actor_headers {
        text.push_str(&format!("    - remove: {}\n", scalar(name)));
    }
    // A name without a `-` has no other spelling.
    let several_words = settings.actor_headers.iter().map(String::as_str).filter(|name| name.contains('-'));
    for expression in folded_expressions(&several_words.collect::<Vec<_>>()) {
        text.push_str(&remove_on_match(&expression));
    }
    text.push_str("    # Envoy sets it when it got no answer from ext_authz.  Clients must not send it.\n");
    text.push_str(&format!("    - remove: {FAILURE_MODE_ALLOWED}\n"));
    text.push_str(
        "    # Headers that ask the application for another path, host or method than that of the request, and spellings of
    # the line above.  If a proxy before Envoy sets one of them, list it in overrides.permit.
",
    );
    let permitted = settings.permitted_overrides;
    let removed = override_headers(|position| !permitted.contains(position));
    for expression in folded_expressions(&[removed, vec![FAILURE_MODE_ALLOWED]].concat()) {
        text.push_str(&remove_on_match(&expression));
    }
    text.push_str(ACCESS_LOG);
    text
}

fn remove_on_match(expression: &str) -> String {
    format!("    - remove_on_match: {{ key_matcher: {{ safe_regex: {{ regex: {expression} }} }} }}\n")
}

const STRIPPED_HOST_PORT: &str = "\
# Host rules and the application receive `app.example`, not `app.example:10000`.
strip_matching_host_port: true
";

const KEPT_HOST_PORT: &str = "\
# The port stays in the host, so that a browser returns to it after log-in.  Host rules ignore the port.
strip_matching_host_port: false
";

const MANAGER: &str = "\
# The client is the peer of the connection; x-forwarded-for and x-envoy-* of clients are ignored.
# Behind another trusted proxy set xff_num_trusted_hops as well.
use_remote_address: true
# Rules and application receive the same path.  The server denies ambiguous paths; these lines normalize paths
# first, so that harmless ones are not denied.
normalize_path: true
merge_slashes: true
path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT
";

const MANAGER_TIMEOUTS: &str = "\
# Limits for slow requests.  Long polls and streams need a longer idle timeout.
stream_idle_timeout: 300s
request_headers_timeout: 10s
common_http_protocol_options:
  idle_timeout: 900s
  max_headers_count: 100
";

const ACCESS_LOG: &str = r#"access_log:
- name: envoy.access_loggers.stdout
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
    log_format:
      json_format:
        time: "%START_TIME%"
        method: "%REQ(:METHOD)%"
        # Without its query, which may hold a token.
        path: "%PATH(NQ)%"
        status: "%RESPONSE_CODE%"
        # UAEX: ext_authz denied the request, or got no answer.  `details` shows which.
        flags: "%RESPONSE_FLAGS%"
        details: "%RESPONSE_CODE_DETAILS%"
        request_id: "%REQ(X-REQUEST-ID)%"
        # The actor, the credential (never its secret) and the policy; for a denial its reason.
        actor: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:actor)%"
        credential: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:credential)%"
        policy: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:policy)%"
        reason: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%"
"#;

/// The entry of `clusters` by which Envoy reaches us.
pub fn cluster(settings: &EnvoySettings) -> String {
    let mut text = cluster_head("ext_authz", &settings.server, "0.25s");
    text.push_str(CLUSTER);
    text.push_str(&endpoints("ext_authz", &settings.server));
    if let Some(tls) = &settings.tls {
        text.push_str(&indent(2, &tls.transport_socket()));
    }
    text
}

fn cluster_head(name: &str, endpoint: &Endpoint, timeout: &str) -> String {
    let kind = if endpoint.is_name() { "STRICT_DNS" } else { "STATIC" };
    format!("- name: {name}\n  type: {kind}\n  connect_timeout: {timeout}\n")
}

const CLUSTER: &str = r#"  # With the default of 3 parallel retries a restart under load would cause denials.
  circuit_breakers:
    thresholds:
    - { max_connections: 64, max_pending_requests: 8192, max_requests: 8192, max_retries: 1024 }
  # The listener opens after the first health check.  Until the server reports SERVING, requests get
  # status_on_error.  Envoy also notices a server that is stopping.
  health_checks:
  - timeout: 1s
    interval: 2s
    no_traffic_interval: 2s
    unhealthy_threshold: 2
    healthy_threshold: 1
    grpc_health_check: { service_name: envoy.service.auth.v3.Authorization, authority: ext-authz.local }
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config:
        # gRPC needs HTTP/2; the keepalive detects dead connections.
        http2_protocol_options:
          max_concurrent_streams: 1024
          connection_keepalive: { interval: 30s, timeout: 5s, connection_idle_interval: 15s }
"#;

fn endpoints(name: &str, endpoint: &Endpoint) -> String {
    format!(
        "  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
      - endpoint: {{ address: {} }}
",
        address(endpoint)
    )
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Socket { host, port } => {
            format!("{{ socket_address: {{ address: {}, port_value: {port} }} }}", quoted(host))
        }
        Endpoint::Pipe(path) => format!("{{ pipe: {{ path: {} }} }}", quoted(path)),
    }
}

/// Where the packages put the module.
pub const MODULE: &str = "/usr/lib/envoy-auth-tokens/libenvoy_auth_tokens.so";

/// The entry of `http_filters` for the module inside Envoy.
pub fn module(config: &str, module: &str) -> String {
    let settings = serde_json::json!({ "config": config }).to_string();
    format!(
        r#"- name: envoy_auth_tokens
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter
    dynamic_module_config:
      module: {{ local: {{ filename: {} }} }}
      # The threads of the module continue when a listener is removed.
      do_not_close: true
      metrics_namespace: envoy_auth_tokens
    filter_name: envoy_auth_tokens
    # The file must be in /etc/envoy-auth-tokens, or in the folder that Envoy's variable ENVOY_AUTH_TOKENS_FOLDER names.
    filter_config:
      "@type": type.googleapis.com/google.protobuf.StringValue
      value: {}
"#,
        quoted(module),
        single_quoted(&settings)
    )
}

/// A text in single quotes, as YAML reads them.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A whole configuration that runs.
pub fn bootstrap(settings: &EnvoySettings, config: &Path) -> String {
    whole(settings, config, &filter(settings), ROUTES, &cluster(settings))
}

/// A whole configuration that runs with the module inside.
pub fn bootstrap_inside(settings: &EnvoySettings, config: &Path, path: &str, file: &str) -> String {
    let routes = ROUTES_INSIDE.replace("filename: MODULE", &format!("filename: {}", quoted(file)));
    whole(settings, config, &module(path, file), &routes, "")
}

fn whole(settings: &EnvoySettings, config: &Path, filter: &str, routes: &str, cluster: &str) -> String {
    let listener = address(&settings.listener);
    let (manager, filter) = (indent(10, &manager(settings)), indent(10, filter));
    let application = cluster_head("app", &settings.upstream, "1s") + &endpoints("app", &settings.upstream);
    let clusters = indent(2, &(application + cluster));
    let config = config.display().to_string();
    let config = config.escape_debug();
    let own_headers = if settings.tells_expiry {
        format!(
            "            # The server sets this header; one that the application sends is removed.
            response_headers_to_remove: [{TOKEN_EXPIRES}]
"
        )
    } else {
        String::new()
    };
    format!(
        r#"# Envoy in front of one application, for {config}.
# Print it again after a change of `ext_authz`, `credentials`, `forward_credentials`, `keys` or `actor_headers`.
static_resources:
  listeners:
  - name: ingress
    # There is no TLS here: add a transport_socket to the filter chain before clients connect over a network.
    address: {listener}
    # The limit of what Envoy buffers for one slow client.
    per_connection_buffer_limit_bytes: 32768
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          codec_type: AUTO
{manager}{routes}{own_headers}          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
{clusters}"#
    )
}

const ROUTES: &str = r#"          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes:
              # The safest way to choose a policy is Envoy's route, which clients cannot change.  Next to
              # `route` write
              #   typed_per_filter_config:
              #     envoy.filters.http.ext_authz:
              #       "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
              #       check_settings: { context_extensions: { policy: NAME } }
              - match: { prefix: / }
                route: { cluster: app }
"#;

const ROUTES_INSIDE: &str = r#"          route_config:
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes:
              # The safest way to choose a policy is Envoy's route, which clients cannot change.  Next to
              # `route` write (Envoy 1.38 knows no files here: `name: envoy_auth_tokens` instead of `module`, and
              # ENVOY_DYNAMIC_MODULES_SEARCH_PATH in its environment, which names the module's folder)
              #   typed_per_filter_config:
              #     envoy_auth_tokens:
              #       "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute
              #       dynamic_module_config:
              #         module: { local: { filename: MODULE } }
              #         do_not_close: true
              #         metrics_namespace: envoy_auth_tokens
              #       filter_name: envoy_auth_tokens
              #       filter_config:
              #         "@type": type.googleapis.com/google.protobuf.StringValue
              #         value: '{"policy": "NAME"}'
              - match: { prefix: / }
                route: { cluster: app }
"#;

fn indent(blanks: usize, text: &str) -> String {
    text.lines().map(|line| format!("{:blanks$}{line}\n", "")).collect()
}

/// A header's name as YAML, in quotes where it could be read as anything but text.
fn scalar(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let words = [
        "accept",
        "authorization",
        "connection",
        "cookie",
        "destination",
        "origin",
        "traceparent",
        "tracestate",
        "upgrade",
    ];
    let is_text =
        words.contains(&name) || (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.contains('-'));
    if is_text && name.bytes().all(is_plain) { name.to_owned() } else { quoted(name) }
}
