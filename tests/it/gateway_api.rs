//! `deploy/gateway-api`: the filter of GEP-1494 against both channels' schemas, and what it promises, with a real Envoy.

use serde_json::json;

use crate::harness::manifests::{self, BOT, CI, Resource};
use crate::harness::{Encoding, Shape, Stack};

const FOLDER: &str = "deploy/gateway-api";

fn resources() -> Vec<Resource> {
    manifests::resources(FOLDER, &["http-route.yaml"])
}

/// The filter's type is all that the standard channel has against the file: its fields are in the types of both.
const STANDARD_CHANNEL: &str = "http-route.yaml#1 spec.rules.0.filters.0.type: \
    must be equal to one of the allowed values (RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, \
    RequestRedirect, URLRewrite, ExtensionRef, CORS)";

#[test]
fn the_resources_are_valid_in_the_experimental_channel_and_say_that_the_standard_one_refuses_them() {
    manifests::assert_all_files(FOLDER, &["config.yaml", "http-route.yaml"]);
    assert_eq!(manifests::wrong(&resources()), [STANDARD_CHANNEL]);
}

#[test]
fn no_unknown_field_and_no_wrong_type_escapes_the_schemas() {
    // With a type that both channels know, every other complaint is about what was spoiled.
    let mut resources = resources();
    let filter = resources[0].document.pointer_mut("/spec/rules/0/filters/0").unwrap();
    filter["type"] = json!("CORS");
    assert!(manifests::wrong(&resources).is_empty());
    manifests::assert_the_schemas_bite(&resources);
}

#[test]
fn the_configuration_is_strictly_good() {
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    manifests::assert_strictly_good(&manifests::deployed(&config));
}

/// The protocol, our address, and every header: what the GEP promises where no list is given.
fn stack(encoding: Encoding) -> Stack {
    let filter = &resources()[0].document["spec"]["rules"][0]["filters"][0]["externalAuth"];
    assert_eq!((&filter["protocol"], &filter["grpc"]), (&json!("GRPC"), &json!({})));
    let config = manifests::text(&format!("{FOLDER}/config.yaml"));
    let setup = manifests::deployed(&config).listen("127.0.0.1:0");
    Stack::shaped(setup, Shape::plain().encoding(encoding))
}

#[test]
fn an_envoy_that_sets_nothing_but_the_address_is_enough() {
    for encoding in Encoding::ALL {
        let stack = stack(encoding);
        let forged = [("x-actor-id", "root"), ("X_Actor_Role", "Admin"), ("x.actor.name", "Root")];
        let seen = stack.get("/orders").headers(&forged).bearer(BOT).send().seen();
        assert_eq!(seen.all("x-actor"), [r#"{"id":"my-bot","role":"Viewer"}"#]);
        assert_eq!((seen.all("x-actor-id"), seen.all("x-actor-role")), (vec!["my-bot"], vec!["Viewer"]));
        assert!(!format!("{seen:?}").contains(BOT), "{seen:?}");
        assert!(seen.headers.iter().all(|(name, _)| !name.contains('_') && !name.contains("actor.")));

        assert_eq!(stack.get("/orders").send().verdict(), (401, "unauthorized".into()));
        assert_eq!(stack.get("/admin/x").bearer(BOT).send().verdict(), (403, "insufficient_scope".into()));
        assert_eq!(stack.get("/admin/x").bearer(CI).send().status, 200);
        let seen = stack.get("/public").headers(&forged).send().seen();
        assert!(seen.headers.iter().all(|(name, _)| !name.contains("actor")), "{seen:?}");
    }
}

#[test]
fn when_we_are_gone_nobody_passes() {
    let mut stack = stack(Encoding::Joined).expecting_errors();
    stack.server.kill();
    assert_eq!(stack.get("/orders").bearer(BOT).send().status, 403);
    assert_eq!(stack.upstream.calls(), 0);
}
