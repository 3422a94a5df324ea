//! People log in at providers: the beginning, the callback, the sessions, with real providers.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::harness::http1::{Answer, Request};
use crate::harness::oidc_provider::OidcProvider;
use crate::harness::oidc_provider_mock::OidcProviderMock;
use crate::harness::server::Server;
use crate::harness::{Shape, Stack, wait_until};
use crate::keys_at_rest::assert_no_secret;
use crate::people::{actor, audited, who};

const SECRET: &str = "a-client-secret-of-forty-two-characters-00";
/// Where the first provider sends browsers back to.
const CALLBACK: &str = "http://localhost/login/idp/callback";

fn people() -> Value {
    json!({
        "ann": {"name": "Ann Example", "email": "ann@example.com", "email_verified": true, "groups": ["admins", "staff"]},
        "bob": {"name": "Bob", "email": "bob@example.com", "email_verified": true, "groups": ["staff"]},
        "eve": {"name": "Eve", "email": "eve@example.org", "email_verified": false, "groups": []},
        "sa:x": {"name": "No person", "groups": ["staff"]},
        "root": {"name": "As a token", "groups": ["staff"]},
    })
}

fn provider() -> OidcProvider {
    let client = |id: &str, callback: &str| json!({"client_id": id, "client_secret": SECRET, "redirect_uris": [callback]});
    let other = "http://localhost/login/other/callback";
    let app = "http://app.localhost/login/idp/callback";
    let mut first = client("eat", CALLBACK);
    first["redirect_uris"] = json!([CALLBACK, app]);
    OidcProvider::start(json!([first, client("other", other)]), people())
}

/// The section `oauth` with this provider, twice.
fn oauth(provider: &OidcProvider) -> String {
    let entry = |name: &str, client: &str| {
        format!(
            "- name: {name}
  issuer: {}
  client_id: {client}
  client_secret: {{$env: OAUTH_SECRET}}
  scopes: [openid, profile, email, groups]
  roles:
  - {{claim: groups, value: admins, role: Admin}}
  - {{claim: groups, value: staff, role: Viewer}}
",
            provider.issuer()
        )
    };
    format!("oauth:\n{}{}", entry("idp", "eat"), entry("other", "other"))
}

fn config(oauth: &str) -> String {
    format!(
        "keys: {{store: \"sqlite:keys.db\"}}
admin: {{listen: \"127.0.0.1:0\", public_url: \"http://localhost\", login_hosts: [app.localhost], login_redirect: true}}
credentials: [bearer, session]
tokens:
- {{token: root-token-0123456789, actor: {{id: root, role: Admin}}}}
{oauth}default: {{allow: {{role: [Admin, Viewer]}}}}
"
    )
}

fn setup(config: &str) -> crate::harness::server::Setup {
    Server::with(config).env("OAUTH_SECRET", SECRET).arg("--drain=0s")
}

fn start(provider: &OidcProvider) -> Server {
    setup(&config(&oauth(provider))).start()
}

fn get(admin: SocketAddr, path: &str) -> Request {
    Request::new(admin, "GET", path).host("localhost")
}

/// Name and value of each cookie that an answer sets, without those that it clears.
fn cookies(answer: &Answer) -> Vec<String> {
    let set = answer.all("set-cookie").into_iter().filter(|cookie| !cookie.contains("; Max-Age=0;"));
    set.map(|cookie| cookie.split(';').next().unwrap().to_owned()).collect()
}

/// A log-in that has begun: where the browser is sent, and its cookie.
struct Begun {
    url: String,
    cookie: String,
}

#[track_caller]
fn begin(admin: SocketAddr, path: &str) -> Begun {
    begun(&get(admin, path).send())
}

#[track_caller]
fn begun(answer: &Answer) -> Begun {
    assert_eq!(answer.status, 303, "{}", answer.text());
    let [cookie] = &cookies(answer)[..] else { panic!("{answer:?}") };
    let set = answer.all("set-cookie");
    let ours = set.iter().find(|set| set.starts_with(cookie.as_str())).unwrap();
    assert!(cookie.starts_with("eat_login_"), "{cookie}");
    assert!(ours.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"), "{ours}");
    Begun { url: answer.all("location")[0].to_owned(), cookie: cookie.clone() }
}

/// The path and query of the callback.
fn target(url: &Url) -> String {
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

fn call_back(admin: SocketAddr, url: &Url, cookie: &str) -> Answer {
    get(admin, &target(url)).header("cookie", cookie).send()
}

/// Logs somebody in.
#[track_caller]
fn log_in(admin: SocketAddr, provider: &OidcProvider, name: &str) -> Answer {
    let begun = begin(admin, "/login/idp");
    call_back(admin, &provider.log_in(&begun.url, name), &begun.cookie)
}

#[track_caller]
fn sessions(answer: &Answer) -> [String; 2] {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let [admin, application] = &cookies(answer)[..] else { panic!("{answer:?}") };
    assert!(admin.starts_with("eat_session=") && application.starts_with("eat_app="), "{answer:?}");
    [admin.clone(), application.clone()]
}

/// Holds that a log-in does not go on: a page in words, a line of the audit log, and no session.
#[track_caller]
fn assert_denied(server: &Server, answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{reason}: {}", answer.text());
    assert!(answer.text().starts_with("<!doctype html>"), "{}", answer.text());
    assert_eq!(cookies(answer), [""; 0], "{reason}");
    audited(server, &json!({"message": "log-in denied", "reason": reason}));
}

#[test]
fn a_person_of_a_provider_logs_in_manages_keys_passes_envoy_and_logs_out() {
    let provider = provider();
    let stack = Stack::shaped(setup(&config(&oauth(&provider))), Shape::plain()).expecting_errors();
    let admin = stack.server.admin();
    let options = get(admin, "/login/options").send().json();
    assert_eq!(
        options["providers"],
        json!([{"name": "idp", "label": "idp"}, {"name": "other", "label": "other"}])
    );
    assert_eq!(options["passwords"], json!(false));

    let answer = log_in(admin, &provider, "ann");
    let [session, application] = sessions(&answer);
    assert!(answer.text().contains("http-equiv=\"refresh\" content=\"0;url=../../\""), "{}", answer.text());
    assert_eq!(answer.all("cross-origin-opener-policy"), ["same-origin"]);
    let line = audited(&stack.server, &json!({"message": "logged in", "user": "ann"}));
    assert_eq!((&line["source"], &line["address"]), (&json!("idp"), &json!("127.0.0.1")));
    let told = actor(admin, &session).json();
    assert_eq!(
        (&told["id"], &told["role"], &told["name"]),
        (&json!("idp:ann"), &json!("Admin"), &json!("Ann Example"))
    );
    assert_eq!(told["groups"], json!(["admins", "staff"]));
    assert_eq!(actor(admin, &application).status, 401);
    let seen = stack.get("/").header("cookie", &application).send();
    assert_eq!(seen.seen().all("x-actor-id"), ["idp:ann"]);
    assert_eq!(stack.get("/").header("cookie", &session).send().status, 401);
    assert!(stack.server.metrics().contains("credentials_total{kind=\"session\",source=\"idp\"} 1"));

    // Whoever logs in over a session ends it: nobody could log out of it any more.
    let begun = begin(admin, "/login/idp");
    let back = provider.log_in(&begun.url, "ann");
    let [former, former_application] = [session, application];
    let both = format!("{}; {former}; {former_application}", begun.cookie);
    let [session, application] = sessions(&call_back(admin, &back, &both));
    assert_eq!((actor(admin, &former).status, actor(admin, &session).status), (401, 200));
    assert_eq!(stack.get("/").header("cookie", &former_application).send().status, 401);

    let [viewer, _] = sessions(&log_in(admin, &provider, "bob"));
    assert_eq!(actor(admin, &viewer).json()["role"], "Viewer");
    let options = get(admin, "/login/options").header("cookie", &session).send().json();
    assert_eq!(options["loggedIn"], "Ann Example");

    let out = Request::new(admin, "POST", "/logout").header("cookie", &session).send();
    assert_eq!(out.json(), json!({"message": "Logged out"}));
    assert_eq!(actor(admin, &session).status, 401);
    assert_eq!(stack.get("/").header("cookie", &application).send().status, 401);
    assert_eq!(actor(admin, &viewer).status, 200);
    let ended = Request::new(admin, "DELETE", "/api/auth/sessions?user=bob&source=idp");
    assert_eq!(ended.bearer("root-token-0123456789").send().json(), json!({"ended": 1}));
    assert_eq!(actor(admin, &viewer).status, 401);
}

#[test]
fn the_second_provider_logs_somebody_in_too() {
    let mock =
        OidcProviderMock::start(&[json!({"sub": "ann", "email": "ann@example.com", "email_verified": true})]);
    let client = mock.register(&[CALLBACK]);
    let section = format!(
        "oauth:
- name: idp
  issuer: {}
  client_id: {}
  client_secret: {{$env: OAUTH_SECRET}}
  roles: [{{claim: email, value: ann@example.com, role: Admin}}]
  logout_url: https://id.example.com/logout
",
        mock.issuer(),
        client.client_id
    );
    let server = Server::with(&config(&section)).env("OAUTH_SECRET", &client.client_secret).start();
    let admin = server.admin();
    let begun = begin(admin, "/login/idp");
    let [session, application] = sessions(&call_back(admin, &mock.log_in(&begun.url, "ann"), &begun.cookie));
    assert_eq!(actor(admin, &session).json()["id"], "idp:ann");
    assert_eq!(who(&server, &[("cookie", &application)]), "idp:ann Admin");
    let out = Request::new(admin, "POST", "/logout").header("cookie", &application).send();
    assert_eq!(out.json()["redirect"], "https://id.example.com/logout");
}

#[test]
fn a_callback_counts_once_in_the_browser_where_it_began() {
    let provider = provider();
    let server = start(&provider);
    let admin = server.admin();
    let begun = begin(admin, "/login/idp");
    let back = provider.log_in(&begun.url, "ann");
    let state = back.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let without_state = Url::parse(&back.as_str().replace(&format!("state={state}"), "x=1")).unwrap();
    let wrong_state =
        Url::parse(&back.as_str().replace(&state, &format!("{}xyz", &state[..state.len() - 3]))).unwrap();
    let elsewhere = begin(admin, "/login/idp");
    for (what, url, cookie) in [
        ("no state", &without_state, &begun.cookie),
        ("another state", &wrong_state, &begun.cookie),
        ("no cookie", &back, &String::new()),
        ("the cookie of another attempt", &back, &elsewhere.cookie),
        ("a cookie that nobody sealed", &back, &format!("eat_login_{}=AAAA", &state[..8])),
    ] {
        eprintln!("{what}");
        assert_denied(&server, &call_back(admin, url, cookie), 400, "unknown_attempt");
    }
    // Of two providers each takes its own answer alone.
    let other = Url::parse(&back.as_str().replace("/login/idp/", "/login/other/")).unwrap();
    assert_denied(&server, &call_back(admin, &other, &begun.cookie), 400, "other_attempt");
    // Under the host of an application it is another attempt.
    let request = Request::new(admin, "GET", &target(&back)).host("app.localhost");
    assert_denied(&server, &request.header("cookie", &begun.cookie).send(), 400, "other_attempt");
    // Two tabs: each has its own cookie, and a sibling host may have set another of the name.
    let both = format!("{}; eat_login_{}=AAAA; {}", elsewhere.cookie, &state[..8], begun.cookie);
    let answer = call_back(admin, &back, &both);
    sessions(&answer);
    let cleared =
        format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax", begun.cookie.split('=').next().unwrap());
    assert!(answer.all("set-cookie").contains(&cleared.as_str()), "{answer:?}");
    assert_denied(&server, &call_back(admin, &back, &begun.cookie), 400, "used_attempt");
    let back = provider.log_in(&elsewhere.url, "bob");
    sessions(&call_back(admin, &back, &elsewhere.cookie));
}

#[test]
fn who_is_denied_reads_why_and_no_error_is_a_fault_of_the_server() {
    let provider = provider();
    let server = start(&provider);
    let admin = server.admin();
    for (name, reason, words) in [
        ("eve", "no_role", "nothing of what it says gives you access"),
        ("sa:x", "reserved_id", "cannot be used here"),
    ] {
        let answer = log_in(admin, &provider, name);
        assert_denied(&server, &answer, 403, reason);
        assert!(answer.text().contains(words), "{}", answer.text());
        let line = audited(&server, &json!({"message": "log-in denied", "reason": reason}));
        assert_eq!((&line["source"], &line["user"]), (&json!("idp"), &json!(name)), "{line}");
        server.log().wait_for("the names of the claims", |line| {
            (line.contains("may not log in") && line.contains("groups") && !line.contains("eve@example.org"))
                .then_some(())
        });
    }
    let begun = begin(admin, "/login/idp");
    let answer = call_back(admin, &provider.deny(&begun.url), &begun.cookie);
    assert_denied(&server, &answer, 403, "provider_denied");
    // An answer that names an error in a provider's own words, or markup, or nothing.
    for (query, status, reason) in [
        ("error=server_error", 503, "provider_unavailable"),
        ("error=%3Cscript%3Ealert(1)%3C/script%3E&error_description=%3Cscript%3E", 403, "provider_denied"),
        ("", 400, "no_code"),
        ("code=", 400, "no_code"),
        ("code=made-up", 403, "code_refused"),
    ] {
        let begun = begin(admin, "/login/idp");
        let state = Url::parse(&begun.url).unwrap();
        let state = state.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        let iss = provider.issuer();
        let url = Url::parse(&format!("{CALLBACK}?{query}&state={state}&iss={iss}")).unwrap();
        let answer = call_back(admin, &url, &begun.cookie);
        assert_denied(&server, &answer, status, reason);
        assert!(!answer.text().contains("<script"), "{}", answer.text());
    }
    for path in ["/login/nobody", "/login/NOBODY/callback?code=x&state=y", "/login/%00", "/login/a.b"] {
        let answer = get(admin, path).send();
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains("There is no such way to log in."), "{path}: {}", answer.text());
    }
    let head = Request::new(admin, "HEAD", "/login/nobody").host("localhost").send();
    assert_eq!(head.status, 404);
    // What somebody's page loads begins no log-in.
    for mode in ["no-cors", "cors", "same-origin"] {
        let answer = get(admin, "/login/idp").header("sec-fetch-mode", mode).send();
        assert_denied(&server, &answer, 403, "not_navigated");
    }
    let navigated = get(admin, "/login/idp").header("sec-fetch-mode", "navigate").send();
    assert_eq!(navigated.status, 303);
    assert!(!server.log().text().contains("panicked"));
}

#[test]
fn a_provider_that_is_gone_is_503_at_each_step_and_people_who_are_logged_in_stay() {
    let provider = provider();
    let server = start(&provider);
    let admin = server.admin();
    provider.stop();
    assert_eq!(get(admin, "/login/idp").send().status, 503);
    provider.resume();
    let [session, application] = sessions(&log_in(admin, &provider, "ann"));
    let begun = begin(admin, "/login/idp");
    let back = provider.log_in(&begun.url, "bob");
    provider.stop();
    let answer = call_back(admin, &back, &begun.cookie);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("does not answer as it should"), "{}", answer.text());
    assert_eq!(answer.all("retry-after"), ["1"]);
    assert_eq!(actor(admin, &session).status, 200);
    assert_eq!(who(&server, &[("cookie", &application)]), "idp:ann Admin");
    assert_eq!(who(&server, &[]), "401");
}

#[test]
fn nobody_passes_an_envoy_that_lets_failures_pass_while_the_provider_is_gone() {
    let provider = provider();
    let shape = Shape::plain().filter(json!({"failure_mode_allow": true}));
    let stack = Stack::shaped(setup(&config(&oauth(&provider))), shape).expecting_errors();
    let admin = stack.server.admin();
    let [_, application] = sessions(&log_in(admin, &provider, "ann"));
    let [_, ended] = sessions(&log_in(admin, &provider, "bob"));
    assert_eq!(Request::new(admin, "POST", "/logout").header("cookie", &ended).send().status, 200);
    provider.stop();
    for cookie in ["", "eat_app=made-up", &ended] {
        assert_eq!(stack.get("/").header("cookie", cookie).send().status, 401, "{cookie}");
    }
    assert_eq!(stack.get("/").header("cookie", &application).send().seen().all("x-actor-id"), ["idp:ann"]);
    assert_eq!(stack.envoy.stat("failure_mode_allowed"), 0);
}

#[test]
fn under_a_log_in_host_there_is_log_in_alone_and_the_session_of_the_application_alone() {
    let provider = provider();
    let config = config(&oauth(&provider)).replace(
        "tokens:",
        "users: [{username: gus, password: gus-password-01, actor: {id: gus, role: Viewer}}]\ntokens:",
    );
    let server = setup(&config).start();
    let admin = server.admin();
    let ask = |method: &str, path: &str| Request::new(admin, method, path).host("app.localhost");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/page.js"),
        ("GET", "/page.css"),
        ("GET", "/openapi.json"),
        ("GET", "/api/health"),
        ("GET", "/api/auth/keys"),
        ("POST", "/api/auth/keys"),
        ("GET", "/api/auth/actor"),
        ("DELETE", "/api/auth/sessions"),
        ("GET", "/loginx"),
        ("GET", "/logout/x"),
        ("GET", "/Login"),
    ] {
        let answer = ask(method, path).bearer("root-token-0123456789").send();
        assert_eq!(answer.status, 421, "{method} {path}: {}", answer.text());
    }
    for path in ["/login", "/login/page.css", "/login/page.js", "/login/options", "/logout"] {
        assert_eq!(ask("GET", path).send().status, 200, "{path}");
    }
    let options = ask("GET", "/login/options").send().json();
    assert_eq!((&options["isApplication"], &options["passwords"]), (&json!(true), &json!(true)));
    let body =
        json!({"user": "gus", "password": "gus-password-01", "return_to": "http://app.localhost:8080/x?y=1"});
    let post = |body: &Value| {
        ask("POST", "/login")
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .send()
    };
    let answer = post(&body);
    assert_eq!(answer.json()["redirect"], "http://app.localhost:8080/x?y=1");
    let [application] = &cookies(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!(who(&server, &[("cookie", application)]), "gus Viewer");
    assert_eq!(actor(admin, application).status, 401);
    let options = ask("GET", "/login/options").header("cookie", application).send().json();
    assert_eq!(options["loggedIn"], "gus");

    let begun = begun(&ask("GET", "/login/idp?return_to=http%3A%2F%2Fapp.localhost%2Freports").send());
    let back = provider.log_in(&begun.url, "ann");
    assert_eq!(back.host_str(), Some("app.localhost"));
    let answer = ask("GET", &target(&back)).header("cookie", &begun.cookie).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("0;url=http://app.localhost/reports"), "{}", answer.text());
    let [application] = &cookies(&answer)[..] else { panic!("{answer:?}") };
    assert_eq!(who(&server, &[("cookie", application)]), "idp:ann Admin");
    let out = ask("POST", "/logout").header("cookie", application).send();
    assert_eq!(out.status, 200);
    assert_eq!(who(&server, &[("cookie", application)]), "401");
    // Another site posts no log-in here, and no log-out.
    let foreign = ask("POST", "/logout").header("sec-fetch-site", "cross-site").send();
    assert_eq!(foreign.status, 403);
}

#[test]
fn everything_is_also_below_the_path_of_the_public_url() {
    let provider = OidcProvider::start(
        json!([{"client_id": "eat", "client_secret": SECRET,
                "redirect_uris": ["http://localhost/ops/keys/login/idp/callback"]}]),
        people(),
    );
    let section = oauth(&provider);
    let (section, _) = section.split_once("- name: other").unwrap();
    let config = config(section).replace("http://localhost\"", "http://localhost/ops/keys/\"");
    let server = setup(&config).start();
    let admin = server.admin();
    for path in ["/", "/page.js", "/login", "/login/options", "/api/health", "/openapi.json"] {
        assert_eq!(get(admin, path).send().status, 200, "{path}");
        assert_eq!(get(admin, &format!("/ops/keys{path}")).send().status, 200, "/ops/keys{path}");
    }
    let answer = get(admin, "/ops/keys").send();
    assert_eq!((answer.status, answer.all("location")), (308, vec!["/ops/keys/"]));
    for path in ["/ops", "/ops/", "/ops/keysx", "/ops/keys/ops/keys/login", "/ops/keys//login"] {
        assert_eq!(get(admin, path).send().status, 404, "{path}");
    }
    let begun = begin(admin, "/ops/keys/login/idp");
    let back = provider.log_in(&begun.url, "ann");
    let [session, _] = sessions(&call_back(admin, &back, &begun.cookie));
    assert_eq!(actor(admin, &session).json()["id"], "idp:ann");
    let document = get(admin, "/openapi.json").send().json();
    assert_eq!(document["servers"][0]["url"], "http://localhost/ops/keys");
    let make =
        Request::new(admin, "POST", "/ops/keys/api/auth/keys").host("localhost").header("cookie", &session);
    let body = json!({"name": "below", "role": "Viewer"}).to_string().into_bytes();
    assert_eq!(
        make.header("content-type", "application/json")
            .header("origin", "http://localhost")
            .body(body)
            .send()
            .status,
        200
    );
    audited(&server, &json!({"message": "API key created", "key.name": "below"}));
}

#[test]
fn a_role_that_is_taken_away_and_a_provider_that_leaves_end_sessions_at_the_next_use() {
    let provider = provider();
    let text = config(&oauth(&provider));
    let server = setup(&text).start();
    let admin = server.admin();
    let write = |text: &str| std::fs::write(server.folder().join("config.yaml"), text).unwrap();
    let is = |cookie: &str, expected: &str| {
        wait_until(&format!("{expected} at Check"), || who(&server, &[("cookie", cookie)]) == expected);
    };
    let [session, application] = sessions(&log_in(admin, &provider, "ann"));
    is(&application, "idp:ann Admin");
    write(&text.replace("value: admins, role: Admin", "value: admins, role: Viewer"));
    is(&application, "idp:ann Viewer");
    assert_eq!(actor(admin, &session).json()["role"], "Viewer");
    write(&text.replace("value: admins", "value: nobody").replace("value: staff", "value: nobody"));
    is(&application, "401");
    assert_eq!(actor(admin, &session).status, 401);
    let log_in_again = || {
        write(&text);
        let sha256 = hex::encode(Sha256::digest(&text));
        wait_until("the first rules are in force again", || server.metrics().contains(&sha256));
        sessions(&log_in(admin, &provider, "ann"))
    };
    let [_, application] = log_in_again();
    is(&application, "idp:ann Admin");
    // Another client: the same subject may be somebody else.
    write(&text.replace("client_id: eat", "client_id: somebody-else"));
    is(&application, "401");
    let [_, application] = log_in_again();
    let (_, rest) = text.split_once("- name: other").unwrap();
    write(&format!("{}oauth:\n- name: other{rest}", text.split("oauth:").next().unwrap()));
    is(&application, "401");
}

#[test]
fn a_browser_keeps_five_attempts_and_ten_begin_in_a_second() {
    let provider = provider();
    let server = start(&provider);
    let admin = server.admin();
    let mut jar = Vec::new();
    for number in 0..7 {
        // At most ten a second: these are no flood.
        let answer =
            crate::users::settle(|| get(admin, "/login/idp").header("cookie", jar.join("; ")).send());
        let set = answer.all("set-cookie");
        for cleared in set.iter().filter(|cookie| cookie.contains("; Max-Age=0;")) {
            let name = cleared.split('=').next().unwrap();
            jar.retain(|cookie: &String| !cookie.starts_with(name));
        }
        jar.extend(cookies(&answer));
        assert_eq!(jar.len(), (number + 1).min(5), "{jar:?}");
    }
    let answers: Vec<_> = (0..40).map(|_| get(admin, "/login/idp").send().status).collect();
    assert!(answers.contains(&503), "{answers:?}");
    assert!(answers.iter().all(|status| [303, 503].contains(status)), "{answers:?}");
    audited(&server, &json!({"message": "log-in denied", "reason": "too_many_log_ins"}));
}

#[test]
fn no_secret_of_a_log_in_is_kept_or_told() {
    let provider = provider();
    let mut server = setup(&config(&oauth(&provider))).log_level("trace").start();
    let admin = server.admin();
    let folder = tempfile::tempdir().unwrap();
    let begun = begin(admin, "/login/idp");
    let back = provider.log_in(&begun.url, "ann");
    let secret_of = |url: &Url, name: &str| {
        url.query_pairs()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
            .expect("it is there")
    };
    let answer = call_back(admin, &back, &begun.cookie);
    let value = |cookie: &String| cookie.split_once('=').unwrap().1.to_owned();
    let [session, application] = sessions(&answer);
    let denied = log_in(admin, &provider, "eve");
    let begun_url = Url::parse(&begun.url).unwrap();
    let secrets = [
        SECRET.to_owned(),
        secret_of(&back, "code"),
        secret_of(&begun_url, "state"),
        secret_of(&begun_url, "nonce"),
        value(&begun.cookie),
        value(&session),
        value(&application),
    ];
    std::fs::write(folder.path().join("metrics"), server.metrics()).unwrap();
    std::fs::write(folder.path().join("pages"), format!("{}{}", answer.text(), denied.text())).unwrap();
    std::fs::write(folder.path().join("options"), get(admin, "/login/options").send().text()).unwrap();
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    std::fs::write(folder.path().join("log"), server.log().text()).unwrap();
    for entry in std::fs::read_dir(server.folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_str().unwrap().starts_with("keys.db") {
            std::fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
        }
    }
    assert_no_secret(folder.path(), &secrets);
}

#[test]
fn check_says_what_each_provider_answered() {
    let provider = provider();
    let gone = oauth(&provider).replacen(&provider.issuer(), "http://127.0.0.1:1", 1);
    let setup = setup(&config(&gone));
    assert_eq!(setup.run(["check"]).code(), Some(0), "nothing is tried");
    let ran = setup.run(["check", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    let line = |name: &str| {
        let lines = ran.stdout.lines();
        lines
            .clone()
            .find(|line| line.starts_with(&format!("oauth: {name}: ")))
            .unwrap_or_else(|| panic!("{ran:?}"))
    };
    assert!(line("idp").contains("error: ") && line("idp").contains("127.0.0.1:1"), "{ran:?}");
    assert_eq!(line("other"), "oauth: other: answers, with 3 keys for ID tokens");
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(SECRET));
}
