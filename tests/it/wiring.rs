//! Neighbours that are wired to the listener of Checks in a way that cannot work: nobody passes by accident, and the
//! operator is told what to change.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use serde_json::json;

use crate::harness::frames::{self, Connection, frame};
use crate::harness::{MAX_WAIT, Server, Shape, Stack, grpc};

const CONFIG: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The status, content type and body of a call over HTTP/2, and the `grpc-status` of its trailers.
fn call(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[&'static [u8]],
) -> (u16, String, String) {
    grpc::block_on(async {
        let stream = tokio::net::TcpStream::connect(server.tcp()).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(format!("http://h{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut client = client.ready().await.unwrap();
        let (answer, mut sender) = client.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
        for (index, piece) in body.iter().enumerate() {
            sender.send_data(Bytes::from_static(piece), index + 1 == body.len()).unwrap();
        }
        let mut answer = tokio::time::timeout(MAX_WAIT, answer).await.expect("an answer").unwrap();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let mut text = Vec::new();
        while let Some(data) = answer.body_mut().data().await {
            text.extend_from_slice(&data.unwrap());
        }
        (answer.status().as_u16(), content_type, String::from_utf8_lossy(&text).into_owned())
    })
}

#[test]
fn a_client_that_speaks_no_grpc_gets_no_200_and_a_sentence() {
    let grpc: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
    let proto: &[(&str, &str)] = &[("content-type", "application/grpc+proto"), ("te", "trailers")];
    let one: &[&'static [u8]] = &[b"\0\0\0\0\0"];
    let cases: &[(&str, &str, &[(&str, &str)], &[&'static [u8]], u16)] = &[
        // Neither a path of ours nor gRPC; with and without a trailing slash; what tonic would answer with 200.
        ("GET", "/", &[], &[], 404),
        ("GET", "/any", &[], &[], 404),
        ("POST", "/any", grpc, one, 404),
        ("POST", "/envoy.service.auth.v3.Authorization/", grpc, one, 404),
        ("POST", "/envoy.service.auth.v3.Authorization/Check/", grpc, one, 404),
        ("POST", "/envoy.service.auth.v3.Authorization/check", grpc, one, 404),
        ("POST", "/envoy.service.auth.v2.Authorization/Check", grpc, one, 404),
        ("POST", "/grpc.health.v1.Health/Nothing", grpc, one, 404),
        ("POST", "/grpc.health.v1.Health/", grpc, one, 404),
        // Another method.
        ("GET", CHECK, grpc, &[], 405),
        ("HEAD", CHECK, grpc, &[], 405),
        ("PUT", CHECK, grpc, one, 405),
        ("GET", HEALTH, grpc, &[], 405),
        ("GET", HEALTH, &[], &[], 405),
        // No gRPC.
        ("POST", CHECK, &[], one, 415),
        ("POST", CHECK, &[("te", "trailers")], one, 415),
        ("POST", CHECK, &[("content-type", "application/grpc")], one, 415),
        ("POST", CHECK, &[("content-type", "application/grpcx"), ("te", "trailers")], one, 415),
        ("POST", CHECK, &[("content-type", "application/grpc-web"), ("te", "trailers")], one, 415),
        ("POST", CHECK, &[("content-type", "application/json"), ("te", "trailers")], one, 415),
        ("POST", HEALTH, &[], one, 415),
        ("POST", HEALTH, &[("content-type", "application/grpc")], one, 415),
        // gRPC without a message.
        ("POST", CHECK, grpc, &[], 400),
        ("POST", CHECK, grpc, &[b""], 400),
        ("POST", HEALTH, grpc, &[], 400),
        ("POST", HEALTH, grpc, &[b""], 400),
        ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc, &[], 400),
        ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc, one, 400),
        // Misframed and compressed messages.
        ("POST", CHECK, grpc, &[b"\0\0\0\0\x05a"], 400),
        ("POST", CHECK, grpc, &[b"\x01\0\0\0\0"], 400),
        ("POST", CHECK, grpc, &[b"hello, world"], 400),
        ("POST", HEALTH, grpc, &[b"\x01\0\0\0\0"], 400),
        // gRPC.
        ("POST", CHECK, grpc, one, 200),
        ("POST", CHECK, proto, one, 200),
        ("POST", HEALTH, grpc, one, 200),
    ];
    let server = Server::with(CONFIG).start();
    for (method, path, headers, body, expected) in cases {
        let (status, content_type, text) = call(&server, method, path, headers, body);
        assert_eq!(status, *expected, "{method} {path} {headers:?} {body:?}: {content_type} {text}");
        let is_sentence = content_type.starts_with("text/plain") && text.ends_with(".\n");
        let is_grpc = content_type.starts_with("application/grpc");
        assert!(is_grpc || is_sentence || *method == "HEAD", "{method} {path}: {content_type} {text:?}");
    }
    let metrics = server.metrics();
    for kind in ["not_grpc", "v2_api"] {
        let counted = format!("envoy_auth_tokens_wrong_wiring_total{{kind=\"{kind}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(counted.as_str()));
        assert_ne!(line.expect("it is counted"), "0", "{kind}");
    }
    server.log().wait_for("the advice", |line| {
        (line.contains("wrong wiring") && line.contains("grpc_service") && line.contains("\"peer\""))
            .then_some(())
    });
}

#[test]
fn bodies_of_wrong_calls_are_read_on_and_no_stream_is_reset() {
    let server = Server::with(CONFIG).start();
    let mut connection = Connection::to(server.tcp());
    let plain = [(":method", "POST"), ("content-type", "application/json")];
    // What replaces the usual headers of a Check, and the first bytes.
    let cases: &[(&[(&str, &str)], &[u8])] = &[
        (&[(":path", "/any")], &[0; 5]),
        (&[(":path", "/envoy.service.auth.v2.Authorization/Check")], &[0; 5]),
        (&[(":method", "PUT")], &[0; 5]),
        (&plain, &[0; 5]),
        (&[("te", "")], &[0; 5]),
        (&[], b"hello"),
        (&[], b"\x01\0\0\0\x01"),
        (&[], b"\0\x7f\0\0\0"),
        (&[(":path", HEALTH), (":method", "PUT")], &[0; 5]),
        (&[(":path", HEALTH), ("content-type", "text/plain")], &[0; 5]),
        (&[(":path", HEALTH)], b"\x01\0\0\0\x01"),
        (&[(":path", HEALTH)], b"\0\0\x01\0\0"),
    ];
    for (number, (headers, first)) in (0..).zip(cases) {
        let stream = number * 2 + 1;
        let head = frame(frames::HEADERS, frames::END_HEADERS, stream, &frames::instead(headers));
        assert!(connection.send(&[head, frame(frames::DATA, frames::NONE, stream, first)].concat()));
        let mut resets = 0;
        let mut read_until = |connection: &mut Connection, what: &dyn Fn(&frames::Frame) -> bool| {
            loop {
                let frame = connection.read().expect("the connection lives");
                assert_ne!(frame.kind, frames::GOAWAY, "{headers:?}");
                resets += u32::from(frame.kind == frames::RST_STREAM);
                if what(&frame) {
                    return;
                }
            }
        };
        let ends = |frame: &frames::Frame| {
            matches!(frame.kind, frames::DATA | frames::HEADERS) && frame.flags & frames::END_STREAM != 0
        };
        read_until(&mut connection, &|frame| frame.stream == stream && ends(frame));
        // The window is given back as the bytes are read.
        for _ in 0..3 {
            assert!(connection.send(&frame(frames::DATA, frames::NONE, stream, &[7; 1024])));
        }
        assert!(connection.send(&frame(frames::DATA, frames::END_STREAM, stream, &[])));
        assert!(connection.send(&frame(frames::PING, frames::NONE, 0, &[1; 8])));
        read_until(&mut connection, &|frame| frame.kind == frames::PING);
        assert_eq!(resets, 0, "{headers:?} {}", first.escape_ascii());
    }
    let path = [(":path", HEALTH)];
    let health = frame(frames::HEADERS, frames::END_HEADERS, 101, &frames::instead(&path));
    assert!(connection.send(&[health, frame(frames::DATA, frames::END_STREAM, 101, &[0; 5])].concat()));
    assert_eq!(connection.read_until(frames::DATA).expect("an answer").stream, 101);
}

#[test]
fn an_envoy_that_asks_over_http_lets_nobody_pass() {
    for prefix in ["", "/any", HEALTH, CHECK, "/envoy.service.auth.v3.Authorization"] {
        for fail_open in [false, true] {
            let shape = Shape::plain().filter(json!({
                "grpc_service": null,
                "failure_mode_allow": fail_open,
                "http_service": {
                    "server_uri": { "uri": "http://ext-authz.local", "cluster": "ext_authz", "timeout": "10s" },
                    "path_prefix": prefix,
                    "authorization_request": { "allowed_headers": { "patterns": [
                        { "exact": "content-type", "ignore_case": true },
                        { "exact": "te", "ignore_case": true },
                        { "exact": "authorization", "ignore_case": true },
                    ] } },
                },
            }));
            let stack = Stack::shaped(Server::with(CONFIG), shape).expecting_errors();
            for path in ["/", "/grpc.health.v1.Health/Check", CHECK, "/Check", "/Watch"] {
                let request = || {
                    let forged = stack.post(path).header("x-actor-id", "root").header("te", "trailers");
                    forged.header("content-type", "application/grpc").body(b"\0\0\0\0\0".to_vec())
                };
                // To a gRPC client Envoy's denial has status 200: what the upstream got is what counts.
                request().send();
                assert_eq!(stack.upstream.calls(), 0, "{prefix}{path} {fail_open}");
                assert_ne!(stack.get(path).header("x-actor-id", "root").send().status, 200, "{prefix}{path}");
                assert_eq!(stack.upstream.calls(), 0, "{prefix}{path} {fail_open}");
            }
        }
    }
}

#[test]
fn other_protocols_are_named_and_counted() {
    let server = Server::with(CONFIG).start();
    let cases: &[(&[u8], &str, &str)] = &[
        (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", "http1", "http2_protocol_options"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaa", "tls", "ext_authz.tls"),
        (&[0; 24], "not_http2", "something else"),
    ];
    for (bytes, kind, advice) in cases {
        let mut stream = TcpStream::connect(server.tcp()).unwrap();
        stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
        stream.write_all(bytes).unwrap();
        // It is closed or reset.
        let _ = stream.read_to_end(&mut Vec::new());
        server.log().wait_for(kind, |line| {
            let is_logged = line.contains(&format!("\"kind\":\"{kind}\"")) && line.contains(advice);
            is_logged.then_some(())
        });
        let counted = format!("envoy_auth_tokens_wrong_wiring_total{{kind=\"{kind}\"}} 1");
        assert!(server.metrics().contains(&counted), "{kind}");
    }
}

#[test]
fn an_authority_that_http_2_forbids_is_named_and_counted() {
    let server = Server::with(CONFIG).quiet().start();
    let mut connection = Connection::to(server.tcp());
    let authorities = ["a|b", "outbound|9000||ext-authz.example", "a b", "a<b>", "[::1"];
    // Others of the library's problems are not about authorities.
    let others = [(":path", "/a b"), (":scheme", "a|b"), (":method", "")];
    let all = authorities.map(|authority| (":authority", authority)).into_iter().chain(others);
    for (number, header) in (0..).zip(all) {
        let stream = number * 2 + 1;
        let headers = frames::instead(&[header]);
        assert!(connection.send(&frame(frames::HEADERS, frames::END_HEADERS, stream, &headers)));
        let reset = connection.read_until(frames::RST_STREAM).expect("the library says no");
        assert_eq!(reset.stream, stream, "{header:?}");
    }
    let counted = "envoy_auth_tokens_wrong_wiring_total{kind=\"authority\"} 5\n";
    assert!(server.metrics().contains(counted), "{}", server.metrics());
    server.log().wait_for("the advice", |line| {
        (line.contains("\"kind\":\"authority\"") && line.contains("envoy_grpc")).then_some(())
    });
}
