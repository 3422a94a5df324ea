//! The Check service is a tonic service: in tonic's own server it answers as it does behind our listener.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use envoy_auth_tokens::authorizer::Authorizer;
use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Config, ProcessEnvironment, Source};
use envoy_auth_tokens::ext_authz::CheckService;
use envoy_auth_tokens::identity::Sources;
use envoy_auth_tokens::snapshot::{Snapshot, SnapshotStore};
use envoy_auth_tokens::telemetry::Telemetry;
use envoy_auth_tokens::telemetry::decision_log::DecisionLog;
use tonic::transport::server::TcpIncoming;

use crate::harness::grpc::{self, CheckRequest, CheckResponse};
use crate::harness::server::ListenAddress;
use crate::harness::{MAX_WAIT, Server, http2};

const CONFIG: &str = "ext_authz: {listen: '127.0.0.1:0', max_request_bytes: 64KiB}
probes: {listen: '127.0.0.1:0'}
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
actor_headers: {x-actor-id: id}
routes: [{path_prefix: /root, allow: {id: root}}]
default: {}
";
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const ALICE: &str = "Bearer alice-token-0123456789";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

fn service() -> CheckService {
    let now = "2026-11-21T00:00:00Z".parse().unwrap();
    let source = Source { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now };
    let config = Config::parse(CONFIG, &source).unwrap_or_else(|errors| panic!("{errors}"));
    let sources = Sources::without_keys(Clock::from_fn(move || now)).unwrap();
    let authorizer =
        Arc::new(Authorizer::new(SnapshotStore::new(Snapshot::build(&config, None).unwrap()), sources));
    CheckService::new(authorizer, Arc::new(Telemetry::new(DecisionLog::silent(), None)), MAX_REQUEST_BYTES)
}

/// Mounts the service in tonic's server, beside its health service.  It lives as long as the runtime.
fn serve_with_tonic(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    let _inside = runtime.enter();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().add_service(service()).add_service(health);
    runtime.spawn(server.serve_with_incoming(incoming));
    address
}

/// The answers to these requests, on one connection.
fn checks(server: SocketAddr, requests: &[CheckRequest]) -> Vec<CheckResponse> {
    grpc::block_on(async {
        let mut client =
            grpc::client(grpc::channel(&ListenAddress::Tcp(server)).await.expect("a connection"));
        let mut answers = Vec::new();
        for request in requests {
            let answer = tokio::time::timeout(MAX_WAIT, client.check(request.clone())).await;
            answers.push(answer.expect("an answer").expect("no gRPC error").into_inner());
        }
        answers
    })
}

#[test]
fn tonics_server_and_ours_give_the_same_answers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tonic = serve_with_tonic(&runtime);
    let server = Server::with(CONFIG).own_listeners().start();
    let long = "x".repeat(2 * MAX_REQUEST_BYTES);
    let get = |path, headers: &[(&str, &str)]| grpc::request("GET", "app.example", path, headers);
    let cases = [
        ("allowed", get("/", &[("authorization", ALICE)]), 200),
        ("denied", get("/root", &[("authorization", ALICE)]), 403),
        ("a bad token", get("/", &[("authorization", "Bearer other-token-0123456789")]), 401),
        ("no token", get("/", &[]), 401),
        ("oversized", get("/", &[("authorization", ALICE), ("x-long", &long)]), 413),
        ("after an oversized one", get("/", &[("authorization", ALICE)]), 200),
    ];
    let requests = cases.clone().map(|(_, request, _)| request);
    let (ours, theirs) = (checks(server.tcp(), &requests), checks(tonic, &requests));
    for ((name, _, expected), (ours, theirs)) in cases.iter().zip(ours.iter().zip(&theirs)) {
        let status = if grpc::code(ours) == 0 { 200 } else { grpc::refused(ours).0 };
        assert_eq!(status, *expected, "{name}");
        assert_eq!(ours, theirs, "{name}");
    }
    let actor = &grpc::pass(&theirs[0]).headers[0].header;
    assert_eq!(actor.as_ref().map(|header| header.key.as_str()), Some("x-actor-id"));
}

#[test]
fn tonics_server_and_ours_reject_what_is_no_check_alike_and_never_with_200() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tonic = serve_with_tonic(&runtime);
    let server = Server::with(CONFIG).own_listeners().start();
    const OTHER: &str = "/envoy.service.auth.v3.Authorization/Other";
    let (grpc, json) = ("application/grpc", "application/json");
    let message: &[u8] = b"\0\0\0\0\0";
    let cases: [(&str, &str, &str, Option<&[u8]>, u16); 7] = [
        ("GET", CHECK, grpc, None, 405),
        ("PUT", CHECK, grpc, Some(message), 405),
        ("POST", CHECK, json, Some(b"{}"), 415),
        ("POST", CHECK, "application/grpc-web", Some(message), 415),
        ("POST", CHECK, grpc, None, 400),
        ("POST", CHECK, grpc, Some(b"\x01\0\0\0\0"), 400),
        ("POST", OTHER, grpc, Some(message), 404),
    ];
    for (method, path, content_type, body, expected) in cases {
        let [ours, theirs] = [server.tcp(), tonic].map(|address| {
            let request = http::Request::builder().method(method).uri(format!("http://{address}{path}"));
            let request = request.header("content-type", content_type).header("te", "trailers");
            http2::send(address, request.body(()).unwrap(), body.map(Bytes::copy_from_slice)).unwrap()
        });
        let name = format!("{method} {path} {content_type}");
        assert_eq!(ours.status, expected, "{name}");
        assert_eq!(theirs.status, expected, "{name}");
        assert_eq!(ours.body, theirs.body, "{name}");
        assert_eq!(ours.grpc_status(), theirs.grpc_status(), "{name}");
        assert_eq!(ours.headers["content-type"], theirs.headers["content-type"], "{name}");
    }
    let health = http::Request::post(format!("http://{tonic}/grpc.health.v1.Health/Check"));
    let health = health.header("content-type", "application/grpc").header("te", "trailers");
    let answer = http2::send(tonic, health.body(()).unwrap(), Some(Bytes::from_static(message))).unwrap();
    assert_eq!(answer.grpc_status(), Some("0"), "other services stand beside it");
}
