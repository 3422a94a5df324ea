//! Traces, with receivers that speak OTLP, one of them a collector that is not ours, and a real Envoy that
//! traces as well.

use std::net::{SocketAddr, TcpListener};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use serde_json::json;

use crate::harness::collector::{Collector, Sent};
use crate::harness::envoy::Tracer;
use crate::harness::rotel::{Printed, Rotel};
use crate::harness::server::Setup;
use crate::harness::tools::EnvoyRelease;
use crate::harness::{MAX_WAIT, Server, Shape, Stack, grpc, http2};
use crate::users::settle;

const TOKEN: &str = "alice-token-0123456789";
const BEARER: (&str, &str) = ("authorization", "Bearer alice-token-0123456789");
const CONFIG: &str = "
tokens: [{token: alice-token-0123456789, name: alices, actor: {id: alice}}]
policies: {reports: {allow: {id: alice}}, nobody: {allow: false}}
routes: [{path: /reports, policy: reports}, {path: /closed, policy: nobody}]
default: {}
";
const NAME: &str = "envoy.service.auth.v3.Authorization/Check";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A server that sends its spans to this endpoint, and soon.
fn tracing_to(endpoint: &str) -> Setup {
    let setup = Server::with(CONFIG).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    setup.env("OTEL_BSP_SCHEDULE_DELAY", "20").arg("--drain=0s")
}

/// Asks Check with this gRPC metadata.
fn check(server: &Server, metadata: &[(&'static str, &str)], request: CheckRequest) -> CheckResponse {
    let answer = grpc::block_on(async {
        let channel = grpc::channel(server.listen_address()).await.expect("a connection");
        let mut request = tonic::Request::new(request);
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
        }
        AuthorizationClient::new(channel).check(request).await
    });
    answer.expect("an answer").into_inner()
}

/// The span of a Check of this path.
fn ours(collector: &Collector, path: &str) -> Sent {
    let span = collector.with_attribute("url.path", path);
    assert_eq!((span.service(), span.name.as_str()), ("envoy-auth-tokens", NAME));
    span
}

#[test]
fn a_check_is_a_span_below_envoys_own() {
    let collector = Collector::start();
    let shape = Shape::plain().tracer(Tracer::OpenTelemetry, collector.address());
    let stack = Stack::shaped(tracing_to(&collector.endpoint()), shape);
    assert_eq!(stack.get("/reports?secret=in-the-query").bearer(TOKEN).send().status, 200);

    let ours = ours(&collector, "/reports");
    let asking = collector.wait_for("Envoy's span of the Check", |span| span.id == ours.parent);
    assert_eq!((asking.service(), &asking.trace), ("envoy", &ours.trace));
    assert_eq!(asking.span.kind(), SpanKind::Client, "{asking:#?}");
    assert!(asking.name.contains("Authorization.Check"), "{asking:#?}");
    let ingress = collector.wait_for("Envoy's span of the request", |span| span.id == asking.parent);
    assert_eq!((ingress.trace, ingress.parent.as_str()), (ours.trace.clone(), ""));

    assert_eq!(
        ours.attributes,
        json!({
            "rpc.system.name": "grpc",
            "rpc.method": NAME,
            "rpc.response.status_code": "OK",
            "http.request.method": "GET",
            "url.domain": "app.example",
            "url.path": "/reports",
            "envoy_auth_tokens.decision": "allowed",
            "envoy_auth_tokens.reason": "admitted",
            "envoy_auth_tokens.policy": "reports",
            "envoy_auth_tokens.credential.kind": "token",
            "envoy_auth_tokens.credential.name": "alices",
        })
    );
    assert_eq!(ours.span.kind(), SpanKind::Server);
    assert_eq!(ours.span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    assert!(ours.span.start_time_unix_nano >= asking.span.start_time_unix_nano);
    assert!(ours.span.end_time_unix_nano <= asking.span.end_time_unix_nano);
    assert!(ours.span.end_time_unix_nano > ours.span.start_time_unix_nano);
    assert_eq!(ours.resource["service.version"], env!("CARGO_PKG_VERSION"));
    let everything = format!("{ours:?}");
    assert!(!everything.contains(TOKEN) && !everything.contains("in-the-query"), "{everything}");
}

#[test]
fn the_module_has_a_span_below_envoys_own() {
    for release in [EnvoyRelease::V1_38, EnvoyRelease::V1_39, EnvoyRelease::V1_40] {
        let collector = Collector::start();
        let shape = Shape::plain().tracer(Tracer::OpenTelemetry, collector.address()).inside();
        let users = format!("{CONFIG}users: [{{username: carol, password: correct horse battery}}]\n");
        let stack = Stack::shaped(Server::with(&users), shape.release(release)).expecting_errors();
        let unsampled = format!("00-{TRACE}-{SPAN}-00");
        let answer = stack.get("/unsampled").bearer(TOKEN).header("traceparent", unsampled).send();
        assert_eq!(answer.status, 200);
        assert_eq!(stack.get("/reports?secret=in-the-query").bearer(TOKEN).send().status, 200);
        assert_eq!(stack.get("/closed").bearer(TOKEN).send().status, 403);
        assert_eq!(settle(|| stack.get("/").basic("carol", "wrong").send()).status, 401);

        let ours = |reason: &str| collector.with_attribute("envoy_auth_tokens.reason", reason);
        let span = ours("admitted");
        assert_eq!((span.service(), span.name.as_str()), ("envoy", "envoy_auth_tokens.decide"));
        let ingress = collector.wait_for("Envoy's span of the request", |other| other.id == span.parent);
        assert_eq!((ingress.trace.as_str(), ingress.parent.as_str()), (span.trace.as_str(), ""));
        assert_eq!(
            span.attributes,
            json!({
                "envoy_auth_tokens.decision": "allowed",
                "envoy_auth_tokens.reason": "admitted",
                "envoy_auth_tokens.policy": "reports",
                "envoy_auth_tokens.credential.kind": "token",
                "envoy_auth_tokens.credential.name": "alices",
            })
        );
        assert!(span.span.start_time_unix_nano >= ingress.span.start_time_unix_nano);
        assert!(span.span.end_time_unix_nano <= ingress.span.end_time_unix_nano);
        let denied = collector.with_attribute("envoy_auth_tokens.policy", "nobody");
        assert_eq!(denied.attributes["envoy_auth_tokens.decision"], "denied");
        // The span of a request that waited for its password.
        assert_eq!(ours("wrong_password").attributes["envoy_auth_tokens.decision"], "denied");
        let everything = format!("{:?}", collector.spans());
        assert!(!everything.contains(TOKEN) && !everything.contains("/unsampled"), "{everything}");
    }
}

#[test]
fn a_collector_of_somebody_elses_takes_our_spans_and_envoys() {
    let rotel = Rotel::start();
    let shape = Shape::plain().tracer(Tracer::OpenTelemetry, rotel.address());
    let stack = Stack::shaped(tracing_to(&format!("http://{}", rotel.address())), shape);
    assert_eq!(stack.get("/reports?secret=in-the-query").bearer(TOKEN).send().status, 200);

    let path = "url.path: Str(/reports)";
    let admitted = "envoy_auth_tokens.reason: Str(admitted)";
    let has = |span: &Printed, line: &str| span.attributes.iter().any(|attribute| attribute == line);
    let ours = rotel.wait_for("our span", |span| span.name == NAME && has(span, path) && has(span, admitted));
    assert_eq!((ours.service.as_str(), ours.kind.as_str()), ("envoy-auth-tokens", "SPAN_KIND_SERVER"));
    let asking = rotel.wait_for("Envoy's span of the Check", |span| span.id == ours.parent);
    assert_eq!((asking.service.as_str(), &asking.trace), ("envoy", &ours.trace));
}

#[test]
fn a_trace_that_the_client_began_goes_on() {
    let collector = Collector::start();
    let shape = Shape::plain().tracer(Tracer::OpenTelemetry, collector.address());
    let stack = Stack::shaped(tracing_to(&collector.endpoint()), shape);
    let begun = format!("00-{TRACE}-{SPAN}-01");
    let answer = stack.get("/reports").bearer(TOKEN).header("traceparent", begun).send();
    assert_eq!(answer.status, 200);
    let ours = ours(&collector, "/reports");
    assert_eq!(ours.trace, TRACE);
    assert_ne!(ours.parent, SPAN, "Envoy's spans are between the client's and ours");
    assert!(answer.seen().all("traceparent")[0].contains(TRACE));
}

#[test]
fn envoys_zipkin_tracer_is_joined_by_its_b3_headers() {
    let collector = Collector::start();
    let shape = Shape::plain().tracer(Tracer::Zipkin, collector.address());
    let stack = Stack::shaped(tracing_to(&collector.endpoint()), shape);
    let answer = stack.get("/reports").bearer(TOKEN).send();
    let seen = answer.seen();
    assert!(seen.all("traceparent").is_empty(), "{seen:?}");
    let ours = ours(&collector, "/reports");
    assert_eq!(seen.all("x-b3-traceid"), [ours.trace]);
    assert_eq!(ours.parent.len(), 16);
    assert_ne!(seen.all("x-b3-spanid"), [ours.parent.as_str()], "the parent is the span of the Check");
}

#[test]
fn the_parent_is_named_by_the_metadata_else_by_the_request() {
    let collector = Collector::start();
    let server = tracing_to(&collector.endpoint()).start();
    let other = "11111111111111111111111111111111";
    let w3c = format!("00-{TRACE}-{SPAN}-01");
    let of_request = format!("00-{other}-2222222222222222-01");
    let single = format!("{TRACE}-{SPAN}-1");
    let cases: [(&str, &[(&'static str, &str)], &[(&str, &str)], (&str, &str)); 7] = [
        ("/w3c", &[("traceparent", &w3c)], &[("traceparent", &of_request)], (TRACE, SPAN)),
        ("/b3", &[("b3", &single)], &[("traceparent", &of_request)], (TRACE, SPAN)),
        (
            "/x-b3",
            &[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")],
            &[],
            (TRACE, SPAN),
        ),
        ("/of-request", &[], &[("traceparent", &of_request)], (other, "2222222222222222")),
        ("/b3-of-request", &[], &[("b3", &single)], (TRACE, SPAN)),
        ("/x-b3-of-request", &[], &[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], (TRACE, SPAN)),
        (
            "/broken",
            &[("traceparent", "00-42-42-01")],
            &[("traceparent", &of_request)],
            (other, "2222222222222222"),
        ),
    ];
    for (path, metadata, headers, (trace, parent)) in cases {
        let headers = [headers, &[BEARER]].concat();
        check(&server, metadata, grpc::request("GET", "h", path, &headers));
        let span = ours(&collector, path);
        assert_eq!((span.trace.as_str(), span.parent.as_str()), (trace, parent), "{path}");
    }
    check(&server, &[], grpc::request("GET", "h", "/root", &[BEARER]));
    let root = ours(&collector, "/root");
    assert_eq!((root.trace.len(), root.parent.as_str()), (32, ""), "a trace begins here");
}

#[test]
fn a_parent_that_is_not_sampled_has_no_span_below_it() {
    let collector = Collector::start();
    let server = tracing_to(&collector.endpoint()).start();
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let denied: [&[(&'static str, &str)]; 3] =
        [&[("traceparent", &unsampled)], &[("b3", "0")], &[("x-b3-sampled", "0")]];
    for metadata in denied {
        check(&server, metadata, grpc::request("GET", "h", "/unsampled", &[BEARER]));
    }
    check(&server, &[], grpc::request("GET", "h", "/sampled", &[BEARER]));
    // Spans leave in the order in which they ended.
    ours(&collector, "/sampled");
    assert_eq!(collector.spans().len(), 1, "{:#?}", collector.spans());
}

#[test]
fn the_environment_says_who_sends_and_how_much() {
    let collector = Collector::start();
    let server = tracing_to(&collector.endpoint())
        .env("OTEL_SERVICE_NAME", "gateway-tokens")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=ours")
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .start();
    check(&server, &[], grpc::request("GET", "h", "/new", &[BEARER]));
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    check(&server, &[("traceparent", &sampled)], grpc::request("GET", "h", "/below", &[BEARER]));
    let span = collector.with_attribute("url.path", "/below");
    assert_eq!(collector.spans().len(), 1, "a trace that begins here is not sampled");
    assert_eq!(span.service(), "gateway-tokens");
    assert_eq!(span.resource["deployment.environment.name"], "test");
    assert_eq!(span.resource["service.version"], "ours");
    assert_eq!(span.metadata.get("x-tenant").unwrap(), "blue");
}

#[test]
fn a_refusal_is_an_answer_and_only_our_own_fault_is_an_error() {
    let collector = Collector::start();
    // Its verification takes longer than the deadline below.
    let slow = bcrypt::hash("slow-password", 13).expect("bcrypt");
    let setup = Server::with(&format!("{CONFIG}users: [{{username: slow, password_hash: '{slow}'}}]\n"));
    let setup = setup.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let server = setup.env("OTEL_BSP_SCHEDULE_DELAY", "20").start();

    check(&server, &[], grpc::request("BREW", "h:80", "/closed", &[BEARER]));
    let refused = ours(&collector, "/closed");
    assert_eq!(refused.span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    assert_eq!(refused.attributes["envoy_auth_tokens.decision"], "denied");
    assert_eq!(refused.attributes["envoy_auth_tokens.reason"], "not_admitted");
    assert_eq!(refused.attributes["envoy_auth_tokens.policy"], "nobody");
    assert_eq!(refused.attributes["http.request.method"], "_OTHER");
    assert_eq!(refused.attributes["http.request.method_original"], "BREW");
    assert_eq!(refused.attributes["url.domain"], "h");
    assert!(refused.attributes.get("error.type").is_none());

    let basic = ("authorization", "Basic c2xvdzpndWVzcw==");
    let message = grpc::request("GET", "h", "/reports", &[basic]).encode_to_vec();
    assert_eq!(send(&server, &[&[0], &u32::to_be_bytes(message.len() as u32)[..], &message].concat()), "0");
    let unavailable = collector.with_attribute("envoy_auth_tokens.reason", "password_unverified");
    assert_eq!(unavailable.span.status.clone().unwrap_or_default().code(), StatusCode::Error);
    assert_eq!(unavailable.attributes["error.type"], "password_unverified");

    assert_eq!(send(&server, &[1, 0, 0, 0, 0]), "12");
    let unreadable = collector.with_attribute("error.type", "unreadable_check");
    assert_eq!(unreadable.span.status.clone().unwrap_or_default().code(), StatusCode::Error);
}

/// Sends a Check of these bytes that has to be answered soon, and gives back its gRPC status.
fn send(server: &Server, framed: &[u8]) -> String {
    let request = http::Request::post(format!("http://h/{NAME}"));
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "100m");
    let request = request.body(()).unwrap();
    let answer = http2::send(server.tcp(), request, Some(framed.to_vec().into())).unwrap();
    answer.grpc_status().expect("a status").to_owned()
}

#[test]
fn the_last_spans_are_sent_before_the_process_ends() {
    let collector = Collector::start();
    let setup = Server::with(CONFIG).env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let mut server = setup.env("OTEL_BSP_SCHEDULE_DELAY", "3600000").arg("--drain=0s").start();
    check(&server, &[], grpc::request("GET", "h", "/last", &[BEARER]));
    assert!(collector.spans().is_empty(), "it is not time yet");
    server.terminate();
    assert!(server.wait().success(), "{}", server.log().text());
    ours(&collector, "/last");
}

#[test]
fn nothing_is_sent_where_the_environment_wants_nothing() {
    let collector = Collector::start();
    for (name, value, warning) in [
        ("OTEL_SDK_DISABLED", "true", ""),
        ("OTEL_TRACES_EXPORTER", "none", ""),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "only grpc is supported"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://no host", "invalid endpoint"),
    ] {
        let mut server = tracing_to(&collector.endpoint()).env(name, value).start();
        check(&server, &[], grpc::request("GET", "h", "/reports", &[BEARER]));
        server.terminate();
        assert!(server.wait().success(), "{name}={value}");
        let warned = server.log().text().contains("no traces are sent");
        assert_eq!(warned, !warning.is_empty(), "{name}={value}: {}", server.log().text());
        assert!(server.log().text().contains(warning), "{name}={value}: {}", server.log().text());
    }
    assert!(collector.spans().is_empty(), "{:#?}", collector.spans());
}

/// The counter of spans that no collector took.
fn dropped(server: &Server) -> u64 {
    let metrics = server.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("envoy_auth_tokens_dropped_spans_total "));
    line.unwrap_or_else(|| panic!("no such metric: {metrics}")).parse().expect("a number")
}

/// Checks that pass, until this holds.
fn check_until(server: &Server, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + MAX_WAIT;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{}\n{}", server.metrics(), server.log().text());
        let answer = check(server, &[], grpc::request("GET", "h", "/reports", &[BEARER]));
        assert_eq!(grpc::code(&answer), 0);
    }
}

#[test]
fn a_collector_that_is_away_stops_nobody_and_is_logged_once() {
    let nowhere = {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listener.local_addr().unwrap()
    };
    let mut server = tracing_to(&format!("http://{nowhere}")).start();
    check_until(&server, || dropped(&server) > 0);
    let first = dropped(&server);
    check_until(&server, || dropped(&server) > first);
    server.terminate();
    assert!(server.wait().success());
    let log = server.log().text();
    assert_eq!(log.matches("spans dropped: the collector cannot be reached").count(), 1, "{log}");
}

#[test]
fn a_collector_that_never_answers_fills_a_queue_that_has_an_end() {
    // Connections are accepted by the operating system, and nobody reads them.
    let silent = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let setup = tracing_to(&endpoint).env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
    let mut server = setup.env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000").start();
    // Of these at most 8 are being sent and 8 are waiting: no export has failed, and spans are dropped.
    check_until(&server, || dropped(&server) > 8);
    server.terminate();
    assert!(server.wait().success(), "the end is not put off for ever");
    assert!(server.log().text().contains("the last spans may be lost"));
}

#[test]
fn a_collector_is_trusted_by_the_certificate_that_the_environment_names() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.pem();
    let collector = Collector::with_tls(&certificate, &issued.signing_key.serialize_pem());
    let endpoint = format!("https://localhost:{}", collector.address().port());
    let setup = tracing_to(&endpoint).file("ca.pem", &certificate);
    let ca = setup.folder().join("ca.pem");
    let server = setup.env("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()).start();
    check(&server, &[], grpc::request("GET", "h", "/reports", &[BEARER]));
    ours(&collector, "/reports");

    let stranger = tracing_to(&endpoint).start();
    check_until(&stranger, || dropped(&stranger) > 0);
    assert_eq!(collector.spans().len(), 1, "the system's certificates do not vouch for it");
}

#[test]
fn a_long_tracestate_is_a_denial_and_never_an_error_that_passes() {
    let collector = Collector::start();
    for (kilobytes, length) in [(96, 16_000), (96, 70_000), (960, 900_000)] {
        let shape = Shape::plain()
            .tracer(Tracer::OpenTelemetry, collector.address())
            .filter(json!({ "failure_mode_allow": true }))
            .manager(json!({ "max_request_headers_kb": kilobytes }));
        let stack = Stack::shaped(Server::with(CONFIG), shape);
        let tracestate = format!("a={}", "x".repeat(length));
        for _ in 0..3 {
            let request = stack.get("/").header("x-actor-id", "root").header("tracestate", &tracestate);
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            assert_eq!(request.header("traceparent", parent).send().status, 401, "{length}");
            assert_eq!(stack.get("/").send().status, 401, "others are answered as before");
        }
        assert_eq!(stack.upstream.calls(), 0);
    }
}
