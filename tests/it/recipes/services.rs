//! Each of Envoy's routes says which policy governs it and what its service is told.

use super::{Recipe, Running, secret};
use crate::harness::Upstream;
use crate::harness::upstream::Seen;

/// What a service saw of the actor: its headers that speak of one.
fn actor_headers(seen: &Seen) -> Vec<&str> {
    let names = seen.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.contains("actor")).collect()
}

fn start(app: &Upstream, reports: &Upstream) -> Running {
    Recipe::named("services").behind(8081, reports.address()).start_before(app)
}

#[test]
fn the_route_names_the_policy() {
    let (app, reports) = (Upstream::start(), Upstream::start());
    let running = start(&app, &reports);
    let ask = |path: &str, token: &str| {
        let request = running.get(path);
        let request = if token.is_empty() { request } else { request.bearer(secret(token)) };
        request.send().status
    };
    for (path, expected) in [
        ("/healthz", [200, 200, 200, 200]),
        ("/admin/x", [401, 403, 403, 200]),
        ("/reports/x", [401, 200, 200, 200]),
        ("/fonts/x", [200, 200, 200, 200]),
        ("/x", [401, 403, 200, 200]),
    ] {
        let found = ["", "BOT_TOKEN", "ALICE_TOKEN", "ADMIN_TOKEN"].map(|token| ask(path, token));
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(reports.calls(), 3);
    // Ways around a route's policy.
    for path in ["/fonts/../admin/x", "//admin", "/fonts/%2e%2e/admin", "/healthz/../admin"] {
        assert_eq!(ask(path, "ALICE_TOKEN"), 403, "{path}");
    }
    assert_eq!(ask("/fonts/..%2fadmin", "ALICE_TOKEN"), 307, "to the path that it means");
}

#[test]
fn each_service_gets_the_headers_that_it_needs() {
    let (app, reports) = (Upstream::start(), Upstream::start());
    let running = start(&app, &reports);
    let forged = [("x-actor", "{}"), ("x-actor-id", "root"), ("x.actor.role", "Admin")];
    let seen = |path: &str| {
        let request = running.get(path).bearer(secret("ALICE_TOKEN"));
        request.headers(&forged).send().seen()
    };
    let alice = r#"{"id":"alice","name":"Alice Liddell","role":"Viewer"}"#;
    let by_json = seen("/reports/x");
    assert_eq!((actor_headers(&by_json), by_json.all("x-actor")), (vec!["x-actor"], vec![alice]));
    let whole = seen("/x");
    assert_eq!(actor_headers(&whole).len(), 4, "{whole:?}");
    assert_eq!(whole.all("x-actor-name"), ["Alice Liddell"]);
    for path in ["/fonts/x", "/healthz"] {
        assert!(actor_headers(&seen(path)).is_empty(), "{path}");
    }
}

#[test]
fn a_policy_that_nobody_knows_lets_nobody_pass() {
    let (app, reports) = (Upstream::start(), Upstream::start());
    let recipe = Recipe::named("services").behind(8081, reports.address());
    let running = recipe.envoy("{ policy: public }", "{ policy: pubilc }").start_before(&app);
    assert_eq!(running.get("/fonts/x").bearer(secret("ADMIN_TOKEN")).send().status, 403);
}

#[test]
fn the_readme_shows_what_happens() {
    let (app, reports) = (Upstream::start(), Upstream::start());
    start(&app, &reports).play();
}
