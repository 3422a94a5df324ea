//! Envoy's own local rate limit counts by the actor that our metadata names.

use bytes::Bytes;

use super::{Recipe, Running, secret};
use crate::harness::http1::Answer;
use crate::harness::{Upstream, http2};

/// The limits of the recipe.
const STANDARD: usize = 20;
const GOLD: usize = 50;
const ANONYMOUS: usize = 10;
const REST: usize = 5;

fn ask(running: &Running, token: &str, target: &str) -> Answer {
    running.get(target).bearer(secret(token)).send()
}

/// Asks until one is denied; gives back how many were not.
fn passed(ask: impl Fn() -> Answer) -> usize {
    for count in 0..=GOLD {
        let answer = ask();
        if answer.status != 200 {
            assert_eq!(answer.status, 429, "{answer:?}");
            return count;
        }
    }
    panic!("nobody stops at {GOLD}");
}

fn remaining(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{answer:?}");
    let [remaining] = answer.all("x-ratelimit-remaining")[..] else { panic!("{answer:?}") };
    remaining
}

#[test]
fn each_actor_has_a_bucket_of_its_own() {
    let upstream = Upstream::start();
    let running = Recipe::named("rate-limit").start_before(&upstream);
    let first = ask(&running, "BOB_TOKEN", "/");
    assert_eq!((first.all("x-ratelimit-limit"), remaining(&first)), (vec!["20"], "19"));
    assert_eq!(passed(|| ask(&running, "BOB_TOKEN", "/x")), STANDARD - 1);
    let limited = ask(&running, "BOB_TOKEN", "/");
    assert_eq!((limited.status, limited.all("x-ratelimit-remaining")), (429, vec!["0"]));
    assert_eq!(limited.all("x-ratelimit-reset").len(), 1, "{limited:?}");

    // Nobody else notices, of either tier, and neither do the anonymous.
    assert_eq!(remaining(&ask(&running, "BOT_TOKEN", "/")), "19");
    assert_eq!(passed(|| ask(&running, "ALICE_TOKEN", "/")), GOLD);
    assert_eq!(passed(|| running.get("/public").send()), ANONYMOUS);
    assert_eq!(passed(|| ask(&running, "BOT_TOKEN", "/")), STANDARD - 1);
    assert_eq!(upstream.calls(), 2 * STANDARD + GOLD + ANONYMOUS, "what was limited went no further");
    let limited = running.envoy.counter("per_actor.http_local_rate_limit.rate_limited");
    assert_eq!(limited, 5);
}

#[test]
fn who_is_refused_or_anonymous_takes_nothing_from_an_actor() {
    let upstream = Upstream::start();
    let running = Recipe::named("rate-limit").start_before(&upstream);
    for _ in 0..STANDARD {
        let forged = running.get("/").header("x-actor-id", "bob").header("x-actor", r#"{"id":"bob"}"#);
        assert_eq!(forged.send().status, 401);
        assert_eq!(running.get("/").bearer("wrong-token-0123456789").send().status, 401);
    }
    let forged = || {
        let request = running.get("/public").header("x-actor", r#"{"id":"bob"}"#);
        request.header("x-actor-id", "bob").header("x-forwarded-for", "10.9.8.7").send()
    };
    assert_eq!(passed(forged), ANONYMOUS);
    assert_eq!(remaining(&ask(&running, "BOB_TOKEN", "/")), "19");
}

#[test]
fn clients_without_a_bucket_of_their_own_share_a_small_one() {
    let upstream = Upstream::start();
    let recipe = Recipe::named("rate-limit")
        .config("actor: {id: my-bot}", "actor: {bot_id: my-bot}")
        .config("actor: {id: bob}", "actor: {id: 7}")
        .config("tier: gold", "tier: platinum");
    let running = recipe.start_before(&upstream);
    assert_eq!(remaining(&ask(&running, "BOT_TOKEN", "/")), "4");
    assert_eq!(remaining(&ask(&running, "BOB_TOKEN", "/")), "3");
    assert_eq!(passed(|| ask(&running, "ALICE_TOKEN", "/")), REST - 2);
    for token in ["BOT_TOKEN", "BOB_TOKEN"] {
        assert_eq!(ask(&running, token, "/").status, 429);
    }
}

#[test]
fn too_few_buckets_forget_which_is_why_the_recipe_has_many() {
    let upstream = Upstream::start();
    let few =
        Recipe::named("rate-limit").envoy("max_dynamic_descriptors: 10000", "max_dynamic_descriptors: 1");
    let running = few.start_before(&upstream);
    assert_eq!(passed(|| ask(&running, "BOB_TOKEN", "/")), STANDARD);
    assert_eq!(ask(&running, "BOT_TOKEN", "/").status, 200);
    assert_eq!(remaining(&ask(&running, "BOB_TOKEN", "/")), "19", "a full one again");
}

#[test]
fn a_grpc_client_gets_a_status_when_its_share_is_used_up() {
    let upstream = Upstream::start();
    let running = Recipe::named("rate-limit").start_before(&upstream);
    assert_eq!(passed(|| ask(&running, "BOB_TOKEN", "/")), STANDARD);
    let request = http::Request::post("http://app.example/package.Service/Method");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("authorization", format!("Bearer {}", secret("BOB_TOKEN")));
    let body = Some(Bytes::from_static(&[0; 5]));
    let answer = http2::send(running.envoy.address(), request.body(()).unwrap(), body).unwrap();
    assert_eq!(answer.grpc_status(), Some("8"), "{answer:?}");
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("rate-limit").start_before(&upstream).play();
}
