//! Envoy's hot restart: a second Envoy takes the listeners of the first one, and each has an instance of the module.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::ALICE;
use crate::harness::envoy::{HotRestart, Program};
use crate::harness::issuer::{Issuer, ROOT};
use crate::harness::{Envoy, Shape, Upstream, free_port, http1, wait_until};

/// Raised when it goes, also where the test fails: whoever waits for it then ends.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hot_restart_decides_every_request_and_hands_the_probes_over() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(&format!("sqlite:{}", folder.path().join("keys.db").display()));
    let (id, key) = issuer.create("kept");
    let (_, other) = issuer.create("other");
    let upstream = Upstream::start();
    let probes = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let shape = Shape::plain().module(json!({ "probes": probes.to_string() }));
    let mut config = shape.config(&issuer.server, &upstream);
    // The second Envoy finds a listener of the first one by its address.
    let listener = &mut config["static_resources"]["listeners"][0];
    listener["address"]["socket_address"]["port_value"] = json!(free_port());
    let config = config.to_string();
    let start = |hot_restart| {
        let folder = issuer.server.folder().display().to_string();
        let environment = vec![("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), folder)];
        Envoy::running(
            &config,
            &Program { environment, hot_restart: Some(hot_restart), ..Program::default() },
        )
    };
    let base_id = folder.path().join("base-id");
    let mut first = start(HotRestart::First { base_id: base_id.clone() });
    let address = first.address();
    let status = |token: &str| {
        let request = http1::Request::new(address, "GET", "/").host("app.example").bearer(token);
        request.header("connection", "close").send().status
    };
    wait_until("the first knows the keys", || status(&key) == 200 && status(&other) == 200);
    let is_ready = || {
        let request = http1::Request::new(probes, "GET", "/ready").header("connection", "close");
        request.try_send().is_some_and(|answer| answer.status == 200)
    };
    wait_until("the first one's probes", is_ready);

    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let second = std::thread::scope(|scope| {
        let _at_the_end = Raised(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for (token, expected) in
                        [(ROOT, 200), (key.as_str(), 200), (ALICE, 401), (other.as_str(), 200)]
                    {
                        assert_eq!(status(token), expected, "{token}");
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let second = start(HotRestart::Next { base_id });
        second.log().wait_for("a warning", |line| line.contains("cannot listen for probes").then_some(()));
        first.wait();
        let before = asked.load(Ordering::Relaxed);
        wait_until("the second decides alone", || asked.load(Ordering::Relaxed) > before + 100);
        second
    });
    assert_eq!(second.address(), address);
    wait_until("the second one's probes", is_ready);
    // Its instance follows the store.
    issuer.revoke(id);
    wait_until("the key is dead", || status(&key) == 401);
    assert_eq!(status(&other), 200);
}
