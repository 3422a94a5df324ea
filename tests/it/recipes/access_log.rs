//! An access log with actors in it, and a second one with denials alone.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Recipe, Running, blocks, secret, section};
use crate::harness::Upstream;

/// The entries of this path once Envoy has ended: one in the log of everything, and for what belongs there
/// one more in the log of denials.
fn entries(running: &Running, path: &str) -> Vec<Value> {
    let lines = running.envoy.log().lines();
    let entries = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["path"] == path).collect()
}

#[test]
fn it_says_who_and_why_not_and_denials_have_a_log_of_their_own() {
    let upstream = Upstream::start();
    let mut running = Recipe::named("access-log").start_before(&upstream);
    let shown: Value = serde_json::from_str(blocks(section("access-log"), "json")[0]).unwrap();
    let traceparent = shown["traceparent"].as_str().unwrap();
    let trace = traceparent.split('-').nth(1).unwrap();
    let by_alice = running.get("/reports/by-alice?_auth_token=s3cret").bearer(secret("ALICE_TOKEN"));
    assert_eq!(by_alice.header("traceparent", traceparent).send().status, 200);
    assert_eq!(running.get("/admin").bearer(secret("ALICE_TOKEN")).send().status, 403);
    assert_eq!(running.get("/reports/by-nobody").send().status, 401);
    running
        .server
        .log()
        .wait_for("the last decision", |line| line.contains("/reports/by-nobody").then_some(()));
    running.server.kill();
    running.errors_expected = true;
    assert_eq!(running.get("/reports/unasked").bearer(secret("ALICE_TOKEN")).send().status, 503);
    running.envoy.stop();

    let [entry] = &entries(&running, "/reports/by-alice")[..] else {
        panic!("{}", running.envoy.log().text())
    };
    // As the README shows it, but for what is another each time.
    let names = |entry: &Value| -> BTreeSet<String> { entry.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(entry), names(&shown));
    for field in names(entry) {
        if !["time", "milliseconds", "request_id"].contains(&field.as_str()) {
            assert_eq!(entry[&field], shown[&field], "{field}");
        }
    }
    // The server's own line of this request is found by what the entry says.
    let request_id = entry["request_id"].as_str().unwrap();
    let lines = running.server.log().lines();
    let line = lines.iter().find(|line| line.contains(request_id)).expect("a decision line");
    assert!(line.contains(trace), "{line}");

    for (path, status, reason, details) in [
        ("/admin", 403, json!("not_admitted"), "ext_authz_denied"),
        ("/reports/by-nobody", 401, json!("no_credential"), "ext_authz_denied"),
        ("/reports/unasked", 503, Value::Null, "ext_authz_error"),
    ] {
        let [entry, again] = &entries(&running, path)[..] else {
            panic!("{path} in both logs:\n{}", running.envoy.log().text())
        };
        assert_eq!(entry, again);
        assert_eq!((&entry["status"], &entry["reason"]), (&json!(status), &reason), "{entry}");
        assert_eq!((&entry["details"], &entry["actor"]), (&json!(details), &Value::Null), "{entry}");
        assert_eq!(entry["flags"], "UAEX", "{entry}");
    }
    let log = running.envoy.log().text();
    assert!(!log.contains(secret("ALICE_TOKEN")) && !log.contains("s3cret"), "{log}");
}

#[test]
fn what_a_rule_on_trial_would_refuse_stands_there_too() {
    let upstream = Upstream::start();
    let recipe = Recipe::named("access-log");
    let mut running = recipe
        .config("allow: {role: Admin}}", "allow: {role: Admin}, enforce: false}")
        .start_before(&upstream);
    assert_eq!(running.get("/admin/1").bearer(secret("ALICE_TOKEN")).send().status, 200);
    assert_eq!(running.get("/admin/2").bearer(secret("ADMIN_TOKEN")).send().status, 200);
    running.envoy.stop();
    running.errors_expected = true;
    let [entry, again] = &entries(&running, "/admin/1")[..] else { panic!("in both logs") };
    assert_eq!(entry, again);
    let fields = ["shadow_reason", "shadow_actor", "actor", "status"].map(|field| entry[field].clone());
    assert_eq!(fields, [json!("not_admitted"), json!("alice"), Value::Null, json!(200)]);
    assert_eq!(entries(&running, "/admin/2").len(), 1, "in one log");
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("access-log").start_before(&upstream).play();
}
