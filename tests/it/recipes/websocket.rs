//! A WebSocket that only known callers may open.

use std::io::{Read, Write};

use super::{Recipe, Running, secret};
use crate::harness::Upstream;
use crate::harness::http1::Request;
use crate::users::settle;

fn open(running: &Running, target: &str) -> Request {
    running.get(target).header("connection", "Upgrade").header("upgrade", "websocket")
}

#[test]
fn a_token_opens_it_from_the_header_and_from_the_query() {
    let upstream = Upstream::start();
    let running = Recipe::named("websocket").start_before(&upstream);
    let token = secret("ALICE_TOKEN");
    let in_query = format!("/live?_auth_token={token}&room=7");
    for request in [open(&running, "/live").bearer(token), open(&running, &in_query)] {
        let (answer, mut stream) = request.header("origin", "https://elsewhere.example").keep();
        assert_eq!(answer.status, 101, "{answer:?}");
        stream.get_mut().write_all(b"hello").unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello");
    }
    let calls = upstream.calls();
    assert_eq!(open(&running, "/live").send().verdict(), (401, "unauthorized".into()));
    let wrong = open(&running, "/live?_auth_token=wrong-token-0123456789").send();
    assert_eq!(wrong.verdict(), (401, "invalid_token".into()));
    assert_eq!(upstream.calls(), calls);
    // The application never sees the token.
    assert_eq!(running.get(&in_query).send().seen().path, "/live?room=7");
    // Other paths open none.
    assert_ne!(open(&running, "/elsewhere").bearer(token).send().status, 101);
}

#[test]
fn another_sites_page_cannot_use_what_the_browser_sends_by_itself() {
    let upstream = Upstream::start();
    let running = Recipe::named("websocket").start_before(&upstream);
    let by_password = |origin: &str| {
        let request = open(&running, "/live").basic("admin", secret("ADMIN_PASSWORD"));
        request.header("origin", origin).send()
    };
    settle(|| running.get("/").basic("admin", secret("ADMIN_PASSWORD")).send());
    assert_eq!(by_password("http://app.example").status, 101);
    assert_eq!(by_password("https://evil.example").status, 403);
}

#[test]
fn it_does_not_outlive_its_time() {
    let upstream = Upstream::start();
    let recipe = Recipe::named("websocket").envoy("max_stream_duration: 3600s", "max_stream_duration: 0.5s");
    let running = recipe.start_before(&upstream);
    let (answer, mut stream) = open(&running, "/live").bearer(secret("ALICE_TOKEN")).keep();
    assert_eq!(answer.status, 101);
    // Nobody sends anything: it is Envoy that ends it.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("Envoy closes the connection");
    assert_eq!(rest, b"");
    assert_eq!(running.envoy.counter("http.ingress.downstream_rq_max_duration_reached"), 1);
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("websocket").start_before(&upstream).play();
}
