//! Envoy's own RBAC filter decides by our metadata.

use super::{Recipe, Running, secret};
use crate::harness::Upstream;

fn ask(running: &Running, token: &str, method: &str, target: &str) -> (u16, String) {
    let answer = running.request(method, target).bearer(secret(token)).send();
    let text = if answer.status == 200 { String::new() } else { answer.text() };
    (answer.status, text)
}

const BY_RBAC: &str = "RBAC: access denied";

#[test]
fn who_may_change_admin_is_said_by_role_group_and_network() {
    let upstream = Upstream::start();
    let running = Recipe::named("rbac").start_before(&upstream);
    for (token, method, target) in [
        ("ALICE_TOKEN", "GET", "/admin/x"),
        ("ALICE_TOKEN", "DELETE", "/x"),
        ("BOB_TOKEN", "DELETE", "/admin/x"),
        ("ADMIN_TOKEN", "DELETE", "/admin/x?y"),
    ] {
        assert_eq!(ask(&running, token, method, target).0, 200, "{token} {method} {target}");
    }
    let calls = upstream.calls();
    for (method, target) in [
        ("DELETE", "/admin"),
        ("DELETE", "/admin/x"),
        ("POST", "/admin/x?role=Admin"),
        ("DELETE", "/x/../admin/x"),
        ("DELETE", "/%61dmin/x"),
        ("DELETE", "/Admin/x"),
        ("DELETE", "/admin;x=1"),
        ("PATCH", "/admin/"),
    ] {
        let request = running.request(method, target).bearer(secret("ALICE_TOKEN"));
        let answer = request.header("x-actor-role", "Admin").send();
        assert_eq!((answer.status, answer.text()), (403, BY_RBAC.into()), "{method} {target}");
    }
    // What asks the application for another method is taken away before anybody reads it.
    for name in ["x-http-method-override", "X-HTTP-Method", "x-method-override"] {
        let request = running.get("/admin/x").bearer(secret("ALICE_TOKEN")).header(name, "DELETE");
        assert!(request.send().seen().all(&name.to_lowercase()).is_empty(), "{name}");
    }
    // Denied by us, which RBAC never hears of.
    assert_eq!(running.request("DELETE", "/admin/x").send().verdict(), (401, "unauthorized".into()));
    assert_eq!(upstream.calls(), calls + 3);
    assert_eq!(running.envoy.counter("http.ingress.rbac.denied"), 8);
    assert_eq!(running.envoy.counter("http.ingress.rbac.policy.admin_changes.allowed"), 2);
}

#[test]
fn an_admin_from_elsewhere_changes_nothing() {
    let upstream = Upstream::start();
    let recipe = Recipe::named("rbac").envoy("address_prefix: 127.0.0.0", "address_prefix: 192.0.2.0");
    let running = recipe.start_before(&upstream);
    assert_eq!(ask(&running, "ADMIN_TOKEN", "GET", "/admin").0, 200);
    let request = running.request("DELETE", "/admin/x").bearer(secret("ADMIN_TOKEN"));
    assert_eq!(request.header("x-forwarded-for", "10.0.0.1").send().text(), BY_RBAC);
}

#[test]
fn a_log_tells_its_denials_from_ours() {
    let upstream = Upstream::start();
    let log = "codec_type: AUTO
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format:
                json_format:
                  access: log
                  path: \"%PATH(NQ)%\"
                  details: \"%RESPONSE_CODE_DETAILS%\"";
    let running = Recipe::named("rbac").envoy("codec_type: AUTO", log).start_before(&upstream);
    assert_eq!(running.request("DELETE", "/admin/1").send().status, 401);
    assert_eq!(ask(&running, "ALICE_TOKEN", "DELETE", "/admin/2").0, 403);
    assert_eq!(running.envoy.accessed("/admin/1")["details"], "ext_authz_denied");
    let details = running.envoy.accessed("/admin/2")["details"].to_string();
    assert!(details.contains("rbac_access_denied_"), "{details}");
}

#[test]
fn a_rule_to_try_out_refuses_nobody_and_counts() {
    let upstream = Upstream::start();
    let running = Recipe::named("rbac").start_before(&upstream);
    assert_eq!(ask(&running, "ALICE_TOKEN", "GET", "/reports/7").0, 200);
    assert_eq!(ask(&running, "ALICE_TOKEN", "GET", "/x").0, 200);
    assert_eq!(running.envoy.counter("http.ingress.rbac.keys_only.shadow_denied"), 1);
    assert_eq!(running.envoy.counter("http.ingress.rbac.keys_only.shadow_allowed"), 1);
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("rbac").start_before(&upstream).play();
}
