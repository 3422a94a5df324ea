//! Where a request may carry a token, and what becomes of each way of carrying one.
//!
//! Every table runs through an Envoy that joins header lines and one that hands them over raw:
//! the same request must give the same decision.

use serde_json::json;

use crate::harness::http1::basic;
use crate::harness::{Encoding, Server, Shape, Stack, http2, in_each_form};

const ALICE: &str = "alice-token-0123456789";
const BOB: &str = "bob-token-0123456789ab";
const LATE: &str = "late-token-0123456789a";
const UNKNOWN: &str = "nobody-token-012345678";
/// What `token new` printed once: nobody knows it either.
const ISSUED: &str = "eat_31JVrK1ZKsjUNba0Dh7nPrjogPo1JUUe3OfU3d";

const TOKENS: &str = "
tokens:
- {name: alice, token: alice-token-0123456789, actor: {id: alice, role: Viewer}}
- {name: bob, token: bob-token-0123456789ab, actor: {id: bob, role: Editor}}
- {name: late, token: late-token-0123456789a, actor: {id: late}, expires: '2020-01-01T00:00:00Z'}
";

fn default_places() -> String {
    TOKENS.to_owned()
}

fn every_place() -> String {
    let places = "[bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: auth_token}]";
    format!("{TOKENS}\ncredentials: {places}\n")
}

fn each_encoding(config: &str, test: impl Fn(&Stack, Encoding)) {
    for encoding in Encoding::ALL {
        test(&Stack::encoded(config, encoding), encoding);
    }
}

#[test]
fn a_bearer_token_passes_as_its_actor_and_goes_no_further() {
    each_encoding(&default_places(), |stack, _| {
        let seen = stack.get("/x").bearer(ALICE).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("x-actor-role"), ["Viewer"]);
        assert_eq!(seen.all("x-actor"), [r#"{"id":"alice","role":"Viewer"}"#]);
        assert!(seen.all("x-actor-name").is_empty());
        assert!(seen.all("authorization").is_empty());
        assert_eq!(stack.upstream.calls(), 1);
    });
}

#[test]
fn a_token_given_as_its_sha256_is_the_same_token() {
    in_each_form(|| {
        // printf hashed-token-01234567 | sha256sum
        let hash = crate::commands::sha256_of("hashed-token-01234567");
        let stack = Stack::start(&format!("tokens: [{{sha256: {hash}, actor: {{id: hashed}}}}]\n"));
        let seen = stack.get("/").bearer("hashed-token-01234567").send().seen();
        assert_eq!(seen.all("x-actor-id"), ["hashed"]);
        assert_eq!(stack.get("/").bearer(&hash).send().verdict(), (401, "invalid_token".into()));
    });
}

#[test]
fn the_scheme_is_read_in_any_case_and_with_any_number_of_blanks() {
    each_encoding(&default_places(), |stack, _| {
        for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer    "] {
            let answer = stack.get("/").header("authorization", format!("{scheme}{ALICE}")).send();
            assert_eq!(answer.seen().all("x-actor-id"), ["alice"], "{scheme:?}");
        }
        let encoded = basic("api_key", ALICE);
        for scheme in ["basic ", "BASIC ", "Basic   "] {
            let value = encoded.replace("Basic ", scheme);
            let answer = stack.get("/").header("authorization", value).send();
            assert_eq!(answer.seen().all("x-actor-id"), ["alice"], "{scheme:?}");
        }
    });
}

#[test]
fn a_token_may_be_the_basic_password_of_the_user_api_key() {
    each_encoding(&default_places(), |stack, _| {
        let seen = stack.get("/").basic("api_key", ALICE).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert!(seen.all("authorization").is_empty());
        let answer = stack.get("/").basic("api_key", UNKNOWN).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()));
        assert_eq!(answer.json()["message"], "Invalid API key");
    });
}

#[test]
fn each_way_of_not_showing_a_good_token_has_its_own_answer() {
    let long = format!("Bearer {}", "x".repeat(8 * 1024));
    let cases: &[(&[u8], u16, &str, &str)] = &[
        (b"", 401, "unauthorized", "Unauthorized"),
        (b"Bearer", 401, "invalid_token", "Malformed credential"),
        (b"Bearer two words", 401, "invalid_token", "Malformed credential"),
        (b"Bearer semi;colon-0123456789", 401, "invalid_token", "Malformed credential"),
        (long.as_bytes(), 401, "invalid_token", "Malformed credential"),
        (b"Bearer nobody-token-012345678", 401, "invalid_token", "Invalid API key"),
        (b"Bearer Alice-token-0123456789", 401, "invalid_token", "Invalid API key"),
        (b"Bearer alice-token-012345678", 401, "invalid_token", "Invalid API key"),
        (b"Bearer late-token-0123456789a", 401, "invalid_token", "Expired API key"),
        (b"Basic", 401, "invalid_token", "Invalid Basic Auth Header"),
        (b"Basic dXNlcg==", 401, "invalid_token", "Invalid Basic Auth Header"),
        (b"Basic %%%%", 401, "invalid_token", "Invalid Basic Auth Header"),
        (b"Basic //79Ov8=", 401, "invalid_token", "Invalid Basic Auth Header"),
        (b"Basic dXNlcjpwYXNz", 401, "invalid_token", "Invalid username or password"),
        (b"alice-token-0123456789", 401, "unauthorized", "Unauthorized"),
        (b"Negotiate YWJj", 401, "unauthorized", "Unauthorized"),
        (b"Digest username=\"a\"", 401, "unauthorized", "Unauthorized"),
        (b"BearerX alice-token-0123456789", 401, "unauthorized", "Unauthorized"),
    ];
    each_encoding(&default_places(), |stack, encoding| {
        let none = stack.get("/").send();
        assert_eq!(none.verdict(), (401, "unauthorized".into()), "{encoding:?}: no header at all");
        for (value, status, error, message) in cases {
            let shown = &value[..value.len().min(40)];
            let answer = stack.get("/").header("authorization", value).send();
            let shown = format!("{encoding:?}: {}", shown.escape_ascii());
            assert_eq!(answer.verdict(), (*status, (*error).into()), "{shown}");
            assert_eq!(answer.json()["message"], *message, "{shown}");
        }
        assert_eq!(stack.upstream.calls(), 0);
    });
}

#[test]
fn bytes_that_are_not_utf8_in_a_credential_are_a_refusal_even_where_envoy_fails_open() {
    for encoding in Encoding::ALL {
        let shape = Shape::plain().encoding(encoding).filter(json!({ "failure_mode_allow": true }));
        let stack = Stack::shaped(Server::with(&every_place()), shape);
        for name in ["authorization", "x-api-key", "cookie"] {
            let value: &[u8] = match name {
                "authorization" => b"Bearer alice-token-\xff0123456789",
                "x-api-key" => b"alice-token-\xff0123456789",
                _ => b"auth_token=alice-token-\xff0123456789",
            };
            let answer = stack.get("/").header(name, value).send();
            assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?} {name}");
        }
        assert_eq!(stack.upstream.calls(), 0);
    }
}

#[test]
fn bytes_that_are_not_utf8_elsewhere_change_nothing() {
    each_encoding(&default_places(), |stack, _| {
        let request = stack.get("/").header("x-city", b"Z\xfcrich").header("referer", b"\xc3\x28");
        let seen = request.bearer(ALICE).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("x-city"), ["Z\\xfcrich"]);
    });
}

#[test]
fn two_authorization_headers_are_malformed_whichever_of_them_is_good() {
    let good = format!("Bearer {ALICE}");
    let other = format!("Bearer {BOB}");
    let bad = format!("Bearer {UNKNOWN}");
    each_encoding(&default_places(), |stack, encoding| {
        for pair in [[&good, &bad], [&bad, &good], [&good, &good], [&good, &other]] {
            let lines = pair.map(|value| ("Authorization", value.as_bytes()));
            let answer = stack.get("/").headers(&lines).send();
            assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} {pair:?}");
        }
        let answer = stack.get("/").header("authorization", format!("{good},{bad}")).send();
        assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} joined by hand");
        let answer = stack.get("/").header("authorization", &good).header("authorization", basic("a", "b"));
        assert_eq!(answer.send().status, 400, "{encoding:?} two schemes");
        for pair in [["Negotiate YWJj", good.as_str()], [good.as_str(), "Negotiate YWJj"]] {
            let answer = stack.get("/").headers(&pair.map(|value| ("authorization", value))).send();
            assert!(matches!(answer.status, 400 | 401), "{encoding:?} {pair:?}: {}", answer.status);
        }
        assert_eq!(stack.upstream.calls(), 0);
    });
}

#[test]
fn a_scheme_of_others_carries_no_credential_and_ends_the_search() {
    let aws =
        "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu/s3/aws4_request, SignedHeaders=host, Signature=ab";
    each_encoding(&every_place(), |stack, encoding| {
        for foreign in [aws, "Negotiate YWJj", "a-bare-word"] {
            let request = || stack.get("/").header("authorization", foreign);
            assert_eq!(request().send().verdict(), (401, "unauthorized".into()), "{encoding:?} {foreign}");
            let also = request().header("x-api-key", ALICE).send();
            assert_eq!(also.verdict(), (401, "unauthorized".into()), "{encoding:?} {foreign} and a key");
        }
    });
}

#[test]
fn an_authorization_header_that_no_location_reads_is_forwarded() {
    let config = format!("{TOKENS}\ncredentials: [{{header: x-api-key}}]\n");
    each_encoding(&config, |stack, _| {
        let request = stack.get("/").header("authorization", "Bearer for-the-upstream");
        let seen = request.header("x-api-key", ALICE).send().seen();
        assert_eq!(seen.all("authorization"), ["Bearer for-the-upstream"]);
        assert!(seen.all("x-api-key").is_empty());
        assert_eq!(stack.get("/").bearer(ALICE).send().verdict(), (401, "unauthorized".into()));
    });
}

#[test]
fn locations_that_are_not_configured_carry_nothing() {
    each_encoding(&default_places(), |stack, _| {
        let answer = stack.get(&format!("/?_auth_token={ALICE}")).header("x-api-key", ALICE);
        let answer = answer.header("cookie", format!("auth_token={ALICE}")).send();
        assert_eq!(answer.verdict(), (401, "unauthorized".into()));
        let seen = stack.get("/").bearer(ALICE).header("x-api-key", "mine").send().seen();
        assert_eq!(seen.all("x-api-key"), ["mine"]);
    });
}

#[test]
fn a_header_of_its_own_may_carry_the_token_once() {
    each_encoding(&every_place(), |stack, encoding| {
        let seen = stack.get("/").header("X-API-Key", ALICE).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert!(seen.all("x-api-key").is_empty());
        for pair in [[ALICE, UNKNOWN], [UNKNOWN, ALICE], [ALICE, ALICE], [ALICE, BOB]] {
            let answer = stack.get("/").headers(&pair.map(|value| ("x-api-key", value))).send();
            assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} {pair:?}");
        }
        let answer = stack.get("/").header("x-api-key", UNKNOWN).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()));
        assert_eq!(stack.get("/").header("x-api-key", "").send().verdict(), (401, "unauthorized".into()));
        let long = "k".repeat(8 * 1024);
        assert_eq!(stack.get("/").header("x-api-key", long).send().verdict(), (401, "invalid_token".into()));
    });
}

#[test]
fn the_first_location_that_carries_anything_decides_alone() {
    each_encoding(&every_place(), |stack, encoding| {
        // Precedence, and every place is emptied.
        let request = stack.get(&format!("/?_auth_token={BOB}")).bearer(ALICE);
        let request = request.header("x-api-key", BOB).header("cookie", format!("auth_token={BOB}"));
        let seen = request.send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.path, "/");
        for name in ["authorization", "x-api-key", "cookie"] {
            assert!(seen.all(name).is_empty(), "{encoding:?} {name}");
        }
        // A wrong one never falls through to a right one.
        let late = format!("Bearer {LATE}");
        let unknown = format!("Bearer {UNKNOWN}");
        for wrong in [late.as_str(), unknown.as_str(), "Bearer", "Basic dXNlcg=="] {
            let answer = stack.get("/").header("authorization", wrong).header("x-api-key", ALICE).send();
            assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?} {wrong}");
        }
        let answer = stack.get(&format!("/?_auth_token={ALICE}")).header("x-api-key", UNKNOWN).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()));
        // An empty one carries nothing.
        let request = stack.get("/").header("authorization", "").header("x-api-key", BOB);
        assert_eq!(request.send().seen().all("x-actor-id"), ["bob"]);
    });
}

#[test]
fn a_token_in_the_query_is_taken_out_of_it() {
    each_encoding(&every_place(), |stack, encoding| {
        let cases = [
            (format!("/p?_auth_token={ALICE}&b=%20x"), "/p?b=%20x"),
            (format!("/p?_auth_token={ALICE}"), "/p"),
            (format!("/p?b=1&_auth%5Ftoken={ALICE}"), "/p?b=1"),
            (format!("/p?%5fauth_token={}", ALICE.replace('a', "%61")), "/p"),
        ];
        for (sent, arrives) in cases {
            let seen = stack.get(&sent).send().seen();
            assert_eq!(seen.path, arrives, "{encoding:?} {sent}");
            assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?} {sent}");
        }
    });
}

#[test]
fn a_query_without_a_token_stays_byte_for_byte() {
    each_encoding(&every_place(), |stack, _| {
        let target = "/p?z=1&&flag&a=%20+%2B&A=2&=x&_AUTH_TOKEN=y&auth_token=z&?";
        assert_eq!(stack.get(target).bearer(ALICE).send().seen().path, target);
    });
}

#[test]
fn a_query_that_names_the_token_twice_is_malformed() {
    each_encoding(&every_place(), |stack, encoding| {
        for query in [
            format!("_auth_token={ALICE}&_auth_token={ALICE}"),
            format!("_auth_token={ALICE}&_auth%5Ftoken={BOB}"),
            format!("%5Fauth_token={UNKNOWN}&a=1&_auth_token={ALICE}"),
        ] {
            let answer = stack.get(&format!("/?{query}")).send();
            assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} {query}");
        }
        let answer = stack.get("/?_auth_token=two+words").send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "`+` is a blank");
        let answer = stack.get("/?_auth_token=%ff%fe").send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()));
        assert_eq!(stack.get("/?_auth_token=").send().verdict(), (401, "unauthorized".into()));
        assert_eq!(stack.get("/?_auth_token").send().verdict(), (401, "unauthorized".into()));
    });
}

#[test]
fn a_token_in_a_cookie_is_cut_out_and_the_rest_stays_byte_for_byte() {
    let cases = [
        ("auth_token=T; a=1; b=2", Some("a=1; b=2")),
        ("a=1; auth_token=T; b=2", Some("a=1; b=2")),
        ("a=1; b=2; auth_token=T", Some("a=1; b=2")),
        ("a=1;b=\"q q\";  c==x; auth_token=T", Some("a=1;b=\"q q\";  c==x")),
        ("a; Auth_Token=x; auth_token=T", Some("a; Auth_Token=x")),
        ("auth_token=T", None),
    ];
    each_encoding(&every_place(), |stack, encoding| {
        for (sent, rest) in cases {
            let request = stack.get("/").header("cookie", sent.replace("=T", &format!("={ALICE}")));
            let seen = request.send().seen();
            assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?} {sent}");
            assert_eq!(seen.all("cookie"), Vec::from_iter(rest), "{encoding:?} {sent}");
        }
        let seen = stack.get("/").bearer(ALICE).header("cookie", "a=1;b=2").send().seen();
        assert_eq!(seen.all("cookie"), ["a=1;b=2"], "{encoding:?}: no token, no change");
    });
}

#[test]
fn a_cookie_beside_bytes_that_are_not_utf8_takes_the_whole_header_along() {
    let stack = Stack::encoded(&every_place(), Encoding::Raw);
    let mut value = b"a=\xff; auth_token=".to_vec();
    value.extend_from_slice(ALICE.as_bytes());
    let seen = stack.get("/").header("cookie", value).send().seen();
    assert_eq!(seen.all("x-actor-id"), ["alice"]);
    assert!(seen.all("cookie").is_empty());
}

#[test]
fn cookie_lines_are_one_location_over_http_1_and_http_2() {
    each_encoding(&every_place(), |stack, encoding| {
        let token = format!("auth_token={ALICE}");
        let lines = [("cookie", "a=1"), ("cookie", token.as_str()), ("cookie", "b=2")];
        let seen = stack.get("/").headers(&lines).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?}");
        let rest = seen.all("cookie").join("; ");
        assert!(!rest.contains("auth_token"), "{encoding:?} {rest}");
        assert!(rest.contains("a=1") && rest.contains("b=2"), "{encoding:?} {rest}");

        let request = http::Request::get("http://app.example/h2");
        let request = request.header("cookie", "a=1").header("cookie", &token).header("cookie", "b=2");
        let answer = http2::send(stack.address(), request.body(()).unwrap(), None).unwrap();
        assert_eq!(answer.status, 200, "{encoding:?}");
        let seen = crate::harness::upstream::Seen::of(&serde_json::from_slice(&answer.body).unwrap());
        assert_eq!(seen.all("cookie"), ["a=1; b=2"], "{encoding:?}");

        let twice = [("cookie", token.as_str()), ("cookie", token.as_str())];
        let answer = stack.get("/").headers(&twice).send();
        assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?}");
        let answer = stack.get("/").header("cookie", format!("{token}; auth_token=x")).send();
        assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?}");
        let answer = stack.get("/").header("cookie", format!("auth_token={UNKNOWN}")).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?}");
        let answer = stack.get("/").header("cookie", "auth_token=; a=1").send();
        assert_eq!(answer.verdict(), (401, "unauthorized".into()), "{encoding:?}");
    });
}

#[test]
fn our_own_session_cookie_is_always_cut() {
    each_encoding(&default_places(), |stack, _| {
        let cookie = "eat_session=abc; a=1; __Host-eat_session=def";
        let seen = stack.get("/").bearer(ALICE).header("cookie", cookie).send().seen();
        assert_eq!(seen.all("cookie"), ["a=1"]);
    });
}

#[test]
fn forwarded_credentials_arrive_as_they_were_sent() {
    let config = format!("{}\nforward_credentials: true\n", every_place());
    each_encoding(&config, |stack, _| {
        let cookie = format!("a=1; auth_token={BOB}");
        let target = format!("/?_auth_token={BOB}&b=1");
        let request = stack.get(&target).bearer(ALICE).header("x-api-key", BOB);
        let seen = request.header("cookie", &cookie).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("authorization"), [format!("Bearer {ALICE}")]);
        assert_eq!(seen.all("x-api-key"), [BOB]);
        assert_eq!(seen.all("cookie"), [cookie]);
        assert_eq!(seen.path, target);
    });
}

#[test]
fn an_unknown_token_may_pass_as_anonymous_with_the_token_untouched() {
    let config = format!(
        "{}\nunknown_credentials: anonymous\nroutes: [{{path_prefix: /open, allow: true}}]\ndefault: {{}}\n",
        every_place()
    );
    each_encoding(&config, |stack, encoding| {
        let seen = stack.get("/open").bearer(UNKNOWN).header("x-actor-id", "root").send().seen();
        assert_eq!(seen.all("authorization"), [format!("Bearer {UNKNOWN}")]);
        assert!(seen.all("x-actor-id").is_empty() && seen.all("x-actor").is_empty());
        let target = format!("/open?b=1&_auth_token={UNKNOWN}");
        assert_eq!(stack.get(&target).send().seen().path, target);
        let cookie = format!("auth_token={UNKNOWN}; a=1");
        let seen = stack.get("/open").header("cookie", &cookie).send().seen();
        assert_eq!(seen.all("cookie"), [cookie]);
        // Anonymous is not enough here.
        assert_eq!(stack.get("/closed").bearer(UNKNOWN).send().status, 401, "{encoding:?}");
        // The same token as a Basic password; a user's wrong password is none.
        let seen = stack.get("/open").basic("api_key", UNKNOWN).send().seen();
        assert_eq!(seen.all("authorization"), [basic("api_key", UNKNOWN)]);
        assert_eq!(stack.get("/open").basic("nobody", UNKNOWN).send().status, 401, "{encoding:?}");
        // Only the place that carries it is left alone.
        let seen = stack.get("/open").bearer(UNKNOWN).header("x-api-key", ALICE).send().seen();
        assert_eq!(seen.all("authorization"), [format!("Bearer {UNKNOWN}")]);
        assert!(seen.all("x-api-key").is_empty() && seen.all("x-actor-id").is_empty(), "{encoding:?}");
        // What is known to be dead, what only we issue, and what is no token, stay denied.
        let answer = stack.get("/open").bearer(ISSUED).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?}");
        let answer = stack.get("/open").bearer(LATE).send();
        assert_eq!(answer.json()["message"], "Expired API key");
        assert_eq!(answer.status, 401);
        assert_eq!(stack.get("/open").header("authorization", "Bearer").send().status, 401);
        let twice = [("x-api-key", UNKNOWN), ("x-api-key", UNKNOWN)];
        assert_eq!(stack.get("/open").headers(&twice).send().status, 400);
        // A known one is what it always is.
        assert_eq!(stack.get("/open").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"]);
    });
}

#[test]
fn a_bad_credential_is_refused_even_where_everybody_may_pass() {
    let config = format!("{TOKENS}\nroutes: [{{path_prefix: /open, allow: true}}]\ndefault: {{}}\n");
    each_encoding(&config, |stack, _| {
        assert!(stack.get("/open").send().seen().all("x-actor").is_empty());
        assert_eq!(stack.get("/open").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"]);
        assert_eq!(stack.get("/open").bearer(UNKNOWN).send().verdict(), (401, "invalid_token".into()));
        assert_eq!(stack.get("/open").header("authorization", "Bearer").send().status, 401);
    });
}

#[test]
fn the_server_needs_no_header_but_the_credential() {
    // The module sees every header: nobody sends it any.
    for encoding in [Encoding::Joined, Encoding::Raw] {
        let only = |name: &str| {
            let allowed = json!({ "allowed_headers": { "patterns": [{ "exact": name }] } });
            Stack::shaped(Server::with(&routed()), Shape::plain().encoding(encoding).filter(allowed))
        };
        let stack = only("authorization");
        assert_eq!(stack.get("/mine").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"]);
        assert_eq!(stack.post("/mine").bearer(ALICE).send().status, 403);
        assert_eq!(stack.get("/mine").send().verdict(), (401, "unauthorized".into()));
        // Envoy was told to keep the credential to itself: nobody gets in, nothing breaks.
        let blind = only("x-nothing");
        assert_eq!(blind.get("/mine").bearer(ALICE).send().verdict(), (401, "unauthorized".into()));
    }
}

fn routed() -> String {
    let routes = "[{path_prefix: /mine, host: app.example, methods: [GET], allow: {id: alice}}]";
    format!("{TOKENS}\nroutes: {routes}\ndefault: {{allow: false}}\n")
}

#[test]
fn an_empty_value_beside_another_is_a_second_one_all_the_same() {
    each_encoding(&every_place(), |stack, encoding| {
        for pair in [["", ALICE], [ALICE, ""]] {
            let answer = stack.get("/").headers(&pair.map(|value| ("x-api-key", value))).send();
            assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} {pair:?}");
        }
        // Envoy's codec joins the lines of `authorization` itself, and forgets an empty one.
        let pair = [("authorization", ""), ("authorization", &format!("Bearer {ALICE}"))];
        assert_eq!(stack.get("/").headers(&pair).send().seen().all("x-actor-id"), ["alice"]);
        let cookie = format!("auth_token=; auth_token={ALICE}");
        assert_eq!(stack.get("/").header("cookie", cookie).send().status, 400, "{encoding:?}");
        let target = format!("/?_auth_token=&_auth_token={ALICE}");
        assert_eq!(stack.get(&target).send().status, 400, "{encoding:?}");
    });
}
