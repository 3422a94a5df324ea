//! HTTP Basic: users of the configuration and their passwords.

use serde_json::json;

use crate::harness::http1::basic;
use crate::harness::server::Server;
use crate::harness::{Answer, Encoding, Stack, grpc, in_each_form, wait_until};

const PASSWORD: &str = "correct horse: battery";

const CONFIG: &str = r#"
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
users:
- {username: admin, password: "correct horse: battery", actor: {id: the-admin, role: Admin}}
- {username: plain, password: another-password}
- {username: "Zoë", password: "pässwörd-0123"}
- username: hashed
  password_hash: "$2y$04$HHHHHHHHHHHHHHHHHHHHHO"
"#;

/// Asks until the password has been verified in the background.
///
/// An unfinished verification is 503 and goes on; the answer says `Retry-After: 1`, and asking again is
/// what a client does.
pub fn settle(ask: impl Fn() -> Answer) -> Answer {
    for _ in 0..1000 {
        let answer = ask();
        if answer.status != 503 {
            return answer;
        }
        assert_eq!(answer.all("retry-after"), ["1"]);
        assert_eq!(answer.json()["error"], "unavailable");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the password is never verified");
}

fn config() -> String {
    // bcrypt of "hashed-password", cost 4, as `htpasswd -B` would write it.
    let hash = bcrypt::hash("hashed-password", 4).expect("bcrypt");
    CONFIG.replace("$2y$04$HHHHHHHHHHHHHHHHHHHHHO", &hash)
}

#[test]
fn a_user_with_the_right_password_passes_as_their_actor() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(&config(), encoding);
        for (user, password, id, role) in [
            ("admin", PASSWORD, "the-admin", Some("Admin")),
            ("plain", "another-password", "plain", None),
            ("Zoë", "pässwörd-0123", "Zo%C3%AB", None),
            ("hashed", "hashed-password", "hashed", None),
        ] {
            let answer = settle(|| stack.get("/").basic(user, password).send());
            let seen = answer.seen();
            assert_eq!(seen.all("x-actor-id"), [id], "{encoding:?} {user}");
            assert_eq!(seen.all("x-actor-role"), Vec::from_iter(role), "{encoding:?} {user}");
            assert!(seen.all("authorization").is_empty(), "{encoding:?} {user}");
            // The second time it is remembered.
            assert_eq!(stack.get("/").basic(user, password).send().status, 200, "{encoding:?} {user}");
        }
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_the_same_answer() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(&config(), encoding);
        let wrong = [
            ("admin", "wrong"),
            ("admin", ""),
            ("admin", "correct horse"),
            ("Admin", PASSWORD),
            ("nobody", PASSWORD),
            ("", PASSWORD),
            ("plain", PASSWORD),
        ];
        let mut answers = Vec::new();
        for (user, password) in wrong {
            let answer = settle(|| stack.get("/").basic(user, password).send());
            assert_eq!(answer.status, 401, "{encoding:?} {user}");
            let challenges: Vec<_> = answer.all("www-authenticate").into_iter().map(str::to_owned).collect();
            answers.push((answer.text(), challenges));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers[0].0.contains("Invalid username or password"));
        assert_eq!(stack.upstream.calls(), 0);
    }
}

#[test]
fn a_wrong_password_of_a_cheap_hash_takes_as_long_as_the_dearest_one() {
    in_each_form(|| {
        // The dear hash takes longer than a Check waits, the cheap one a hundredth of that.
        let hash = bcrypt::hash("cheap-password", 4).expect("bcrypt");
        let config =
            slow().replace("users: [", &format!("users: [{{username: cheap, password_hash: '{hash}'}}, "));
        let stack = Stack::start(&config);
        for user in ["cheap", "nobody", "slow", "cheap", "nobody"] {
            let ask = || stack.get("/").basic(user, "wrong").send();
            let first = ask();
            assert_eq!(first.status, 503, "{user} {}", first.text());
            assert_eq!(settle(ask).verdict(), (401, "invalid_token".into()), "{user}");
        }
        assert_eq!(settle(|| stack.get("/").basic("cheap", "cheap-password").send()).status, 200);
    });
}

#[test]
fn a_users_password_is_no_bearer_token_and_a_token_no_users_password() {
    in_each_form(|| {
        let stack = Stack::start(&config());
        assert_eq!(stack.get("/").bearer("another-password").send().status, 401);
        let answer = settle(|| stack.get("/").basic("plain", "alice-token-0123456789").send());
        assert_eq!(answer.status, 401);
        assert_eq!(stack.get("/").basic("api_key", "another-password").send().status, 401);
    });
}

#[test]
fn five_wrong_passwords_lock_a_name_but_not_a_remembered_user() {
    in_each_form(|| {
        let stack = Stack::start(&config());
        // Remembered before the guesses begin.
        let right = || stack.get("/").basic("admin", PASSWORD).send();
        assert_eq!(settle(right).status, 200);
        // `plain` has never logged in.
        for user in ["admin", "plain"] {
            for guess in 0..6 {
                let answer = settle(|| stack.get("/").basic(user, &format!("guess-{guess}")).send());
                assert_eq!(answer.json()["message"], "Invalid username or password");
            }
        }
        assert_eq!(right().status, 200, "a remembered pair always passes");
        let locked = settle(|| stack.get("/").basic("plain", "another-password").send());
        assert_eq!(locked.status, 401, "the right password, too late");
        assert_eq!(locked.json()["message"], "Invalid username or password", "the answer does not change");
        assert_eq!(settle(|| stack.get("/").basic("hashed", "hashed-password").send()).status, 200);
        // An operator can see it.
        stack.deciding_log().wait_for("a decision with the reason", |line| {
            (line.contains("user_locked") && line.contains("denied")).then_some(())
        });
        stack.deciding_log().wait_for("a line about the lock", |line| {
            (line.contains("lock") && line.contains("plain")).then_some(())
        });
    });
}

#[test]
fn guesses_at_a_name_that_does_not_exist_lock_nobody() {
    in_each_form(|| {
        let stack = Stack::start(&config());
        for guess in 0..8 {
            let answer = settle(|| stack.get("/").basic("nobody", &format!("guess-{guess}")).send());
            assert_eq!(answer.status, 401);
        }
        assert_eq!(settle(|| stack.get("/").basic("plain", "another-password").send()).status, 200);
    });
}

#[test]
fn users_mean_nothing_where_basic_is_off() {
    in_each_form(|| {
        let stack = Stack::start(&format!("{}credentials: [bearer]\n", config()));
        let answer = stack.get("/").basic("admin", PASSWORD).send();
        assert_eq!(answer.verdict(), (401, "unauthorized".into()));
        assert_eq!(answer.all("www-authenticate"), [r#"Bearer realm="api""#]);
    });
}

#[test]
fn a_password_that_takes_too_long_is_answered_at_once_and_remembered_later() {
    in_each_form(|| {
        let stack = Stack::start(&slow());
        let login = || stack.get("/").basic("slow", "slow-password").send();
        let first = login();
        assert_eq!(first.status, 503, "{}", first.text());
        assert_eq!(first.json(), json!({ "error": "unavailable", "message": "Keys are unavailable" }));
        assert_eq!(first.all("retry-after"), ["1"]);
        assert_eq!(first.all("cache-control"), ["no-store"]);
        assert!(first.all("www-authenticate").is_empty());
        assert_eq!(settle(login).seen().all("x-actor-id"), ["slow"]);
        // Remembered: no verification stands between the request and its answer any more.
        for _ in 0..20 {
            assert_eq!(login().status, 200);
        }
    });
}

#[test]
fn a_hash_that_needs_more_memory_than_there_is_is_never_verified() {
    // 64 MiB, of which a quarter is for hashes.
    let argon2 =
        "$argon2id$v=19$m=17000,t=1,p=1$c29tZXNhbHQxMjM0$yJKRhPYqj+FOMIqkMSLjSRyrGNcBSvFLJVyuRDsvx6Q";
    let hash = bcrypt::hash("hashed-password", 4).expect("bcrypt");
    let config = format!(
        "tokens: [{{token: alice-token-0123456789, actor: {{id: alice}}}}]
users:
- {{username: large, password_hash: '{argon2}'}}
- {{username: hashed, password_hash: '{hash}'}}
"
    );
    let server = Server::with(&config).arg("--memory-limit=64MiB").start();
    server.log().wait_for("a line that names the user", |line| {
        (line.contains("\"users\":\"large\"") && line.contains("raise the memory limit")).then_some(())
    });
    let ask = |authorization: &str| {
        let headers = [("authorization", authorization)];
        let answer = grpc::check(&server, grpc::request("GET", "app.example", "/", &headers));
        if grpc::code(&answer) == 0 { 200 } else { grpc::refused(&answer).0 }
    };
    let settled = |user: &str, password: &str| {
        let mut status = 503;
        wait_until("the password is verified", || {
            status = ask(&basic(user, password));
            status != 503
        });
        status
    };
    for _ in 0..3 {
        assert_eq!(ask(&basic("large", "a-password")), 503);
    }
    assert_eq!(settled("hashed", "hashed-password"), 200);
    assert_eq!(settled("hashed", "wrong"), 401);
    assert_eq!(settled("nobody", "wrong"), 401);
    assert_eq!(ask("Bearer alice-token-0123456789"), 200);
}

#[test]
fn a_flood_of_passwords_harms_nobody_else() {
    in_each_form(|| {
        let stack = Stack::start(&slow());
        std::thread::scope(|scope| {
            for client in 0..40 {
                let stack = &stack;
                scope.spawn(move || {
                    let guess = format!("guess-{client}");
                    let status = stack.get("/").basic("slow", &guess).send().status;
                    assert!(matches!(status, 401 | 503), "{status}");
                    let token = stack.get("/").bearer("alice-token-0123456789").send();
                    assert_eq!(token.status, 200);
                });
            }
        });
        assert_eq!(stack.upstream.calls(), 40);
    });
}

/// A user whose password takes far longer to verify than a Check may wait.
fn slow() -> String {
    let hash = bcrypt::hash("slow-password", 13).expect("bcrypt");
    format!(
        "tokens: [{{token: alice-token-0123456789, actor: {{id: alice}}}}]
users: [{{username: slow, password_hash: '{hash}'}}]
"
    )
}
