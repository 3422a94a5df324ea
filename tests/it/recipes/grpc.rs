//! A gRPC service behind Envoy: our own health service, which is as good as any.

use std::net::SocketAddr;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Recipe, Running, blocks, secret, section};
use crate::harness::server::ListenAddress;
use crate::harness::{Server, grpc, http2};

/// A gRPC service that is not the server whom Envoy asks.
fn service() -> Server {
    Server::with("tokens: [{token: a-token-0123456789, actor: {id: a}}]\n").start()
}

fn start(service: &Server) -> Running {
    Recipe::named("grpc").behind(50051, service.tcp()).start()
}

/// Calls the service as a gRPC client does; of `Watch` the first message counts.
fn call(to: SocketAddr, method: &str, token: &str) -> Result<String, tonic::Status> {
    grpc::block_on(async {
        let channel = grpc::channel(&ListenAddress::Tcp(to)).await.expect("a connection");
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if !token.is_empty() {
            let bearer = format!("Bearer {token}").parse().expect("a header's value");
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = HealthClient::new(channel);
        let answer = match method {
            "Check" => client.check(request).await?.into_inner(),
            "Watch" => client.watch(request).await?.into_inner().message().await?.expect("a first message"),
            other => panic!("{other}?"),
        };
        Ok(answer.status().as_str_name().to_owned())
    })
}

#[test]
fn methods_are_paths_and_denials_are_grpcs_own() {
    let service = service();
    let running = start(&service);
    let call = |method: &str, token: &str| match call(running.envoy.address(), method, token) {
        Ok(answer) => answer,
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    let (alice, admin) = (secret("ALICE_TOKEN"), secret("ADMIN_TOKEN"));
    for (method, token, expected) in [
        ("Check", "", "Unauthenticated: Unauthorized"),
        ("Check", "wrong-token-0123456789", "Unauthenticated: Invalid API key"),
        ("Check", alice, "SERVING"),
        ("Watch", alice, "PermissionDenied: Permission denied"),
        ("Watch", admin, "SERVING"),
    ] {
        assert_eq!(call(method, token), expected, "{method} {token:?}");
    }
    // What is no gRPC has no route.
    assert_eq!(running.get("/grpc.health.v1.Health/Check").bearer(alice).send().status, 404);
}

#[test]
fn a_stream_does_not_outlive_its_time() {
    let service = service();
    let recipe = Recipe::named("grpc").envoy("max_stream_duration: 3600s", "max_stream_duration: 0.5s");
    let running = recipe.behind(50051, service.tcp()).start();
    let ended = grpc::block_on(async {
        let channel =
            grpc::channel(&ListenAddress::Tcp(running.envoy.address())).await.expect("a connection");
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        let bearer = format!("Bearer {}", secret("ADMIN_TOKEN")).parse().expect("a header's value");
        request.metadata_mut().insert("authorization", bearer);
        let mut stream = HealthClient::new(channel).watch(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    });
    assert!(ended.is_err(), "Envoy ends it, and not the service");
    assert_eq!(running.envoy.counter("http.ingress.downstream_rq_max_duration_reached"), 1, "{ended:?}");
}

#[test]
fn the_readme_says_what_a_client_gets() {
    let service = service();
    let running = start(&service);
    let lines = blocks(section("grpc"), "text")[0].lines();
    let mut rows = 0;
    for line in lines {
        let (who, expected) = line.split_once("  ").unwrap_or_else(|| panic!("{line:?}"));
        let (method, who) = who.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let token = if who == "anonymous" { "" } else { secret(&format!("{}_TOKEN", who.to_uppercase())) };
        let answer = match call(running.envoy.address(), method, token) {
            Ok(answer) => answer,
            Err(status) => format!("{}: {}", status.code() as i32, status.message()),
        };
        assert_eq!(answer, expected.trim(), "{line}");
        rows += 1;
    }
    assert_eq!(rows, 4);
}

/// The trailers of a call with these, by the time they reach the service.
fn handed_on(running: &Running, upstream: &http2::Trailers, trailers: &[(&str, &str)]) -> Vec<String> {
    let address = running.envoy.address();
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request =
        request.header("authorization", format!("Bearer {}", secret("ALICE_TOKEN"))).body(()).unwrap();
    assert_eq!(http2::send_with_trailers(address, request, trailers), 200);
    upstream.next()
}

#[test]
fn a_trailer_gives_nobody_another_name() {
    let upstream = http2::Trailers::start();
    let running = Recipe::named("grpc").behind(50051, upstream.address()).start();
    let forged = [
        ("x-actor", "{}"),
        ("x-actor-id", "root"),
        ("x-actor-id", "again"),
        ("x-actor-name", "Root"),
        ("x-actor-role", "Admin"),
        ("x.actor.id", "root"),
        ("x~actor~role", "Admin"),
    ];
    for trailer in forged {
        let seen = handed_on(&running, &upstream, &[trailer, ("x-checksum", "1")]);
        assert_eq!(seen, ["x-checksum: 1"], "{trailer:?}");
    }
    assert_eq!(handed_on(&running, &upstream, &forged), [""; 0]);
    // Without the filter they arrive, so that this shows something.
    let recipe = Recipe::named("grpc").envoy("request_trailers_mutations", "response_trailers_mutations");
    let running = recipe.behind(50051, upstream.address()).start();
    assert_eq!(handed_on(&running, &upstream, &[("x-actor-id", "root")]), ["x-actor-id: root"]);
}
