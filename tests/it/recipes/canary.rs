//! One actor is routed elsewhere.

use super::{Recipe, Running, secret};
use crate::harness::Upstream;

fn start(recipe: Recipe, app: &Upstream, canary: &Upstream) -> Running {
    recipe.behind(8081, canary.address()).start_before(app)
}

#[test]
fn one_actor_gets_the_new_version_and_nobody_else_can() {
    let (app, canary) = (Upstream::start(), Upstream::start());
    let running = start(Recipe::named("canary"), &app, &canary);
    assert_eq!(running.get("/x").bearer(secret("ALICE_TOKEN")).send().seen().all("x-actor-id"), ["alice"]);
    assert_eq!((app.calls(), canary.calls()), (0, 1));

    let forged = [("x-actor-id", "alice"), ("x-actor", r#"{"id":"alice"}"#)];
    assert_eq!(running.get("/x").bearer(secret("BOB_TOKEN")).headers(&forged).send().status, 200);
    assert_eq!(running.get("/public").headers(&forged).send().status, 200);
    assert_eq!(running.get("/x").headers(&forged).send().status, 401);
    assert_eq!((app.calls(), canary.calls()), (2, 1));
}

#[test]
fn a_policy_of_the_second_route_alone_is_never_checked_as_the_recipe_warns() {
    let (app, canary) = (Upstream::start(), Upstream::start());
    let policy = "route: { cluster: canary }
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings: { context_extensions: { policy: nobody } }";
    let recipe = Recipe::named("canary").envoy("route: { cluster: canary }", policy);
    let running = start(recipe, &app, &canary);
    assert_eq!(running.get("/x").bearer(secret("ALICE_TOKEN")).send().status, 200);
    assert_eq!(canary.calls(), 1);
}

#[test]
fn the_readme_shows_what_happens() {
    let (app, canary) = (Upstream::start(), Upstream::start());
    start(Recipe::named("canary"), &app, &canary).play();
    assert_eq!((app.calls(), canary.calls()), (1, 1));
}
