//! Browsers without a credential are sent to the log-in page, by a real Envoy: only browsers, only from hosts that get the
//! cookie, only to pages of ours.

use serde_json::{Value, json};

use crate::harness::http1::Request;
use crate::harness::server::run;
use crate::harness::upstream::Upstream;
use crate::harness::{Answer, Encoding, Server, Shape, Stack, grpc, http2};
use crate::people::log_in;
use crate::users::settle;

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
users: [{username: rob, password: a-long-password, actor: {id: rob, role: Admin}}]
keys: {store: \"sqlite:keys.db\"}
admin:
  listen: \"127.0.0.1:0\"
  public_url: https://keys.example.com
  login_redirect: true
  login_hosts: [in.example.com, \"in.example.com:8443\"]
session: {domain: example.com}
credentials: [session, bearer, basic, {query: _auth_token}]
routes:
- {path_prefix: /open, allow: true}
- {path_prefix: /trial, allow: {role: Nobody}, enforce: false}
- {path_prefix: /nobody, allow: false}
default: {}
";

const NAVIGATE: (&str, &str) = ("sec-fetch-mode", "navigate");
const LOG_IN: &str = "https://keys.example.com/login";

/// Where a request to this host is sent, if it is sent anywhere; else the status.
fn sent_to(request: Request, host: &str) -> Result<String, u16> {
    location(&request.host(host).send())
}

#[track_caller]
fn location(answer: &Answer) -> Result<String, u16> {
    let locations = answer.all("location");
    if answer.status != 302 {
        assert!(locations.is_empty(), "{answer:?}");
        return Err(answer.status);
    }
    let [location] = locations[..] else { panic!("{answer:?}") };
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert!(answer.body.is_empty() && answer.all("www-authenticate").is_empty(), "{answer:?}");
    Ok(location.to_owned())
}

/// The page with a return address, both as they stand in `location`.
fn with_return_to(page: &str, return_to: &str) -> String {
    let encoded: String = return_to
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("{page}?return_to={encoded}")
}

#[test]
fn a_browser_that_navigates_is_sent_to_the_log_in_page_and_a_script_is_not() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let sent = |request: Request| sent_to(request, "app.example.com");
        let back = |path: &str| with_return_to(LOG_IN, &format!("https://app.example.com{path}"));
        let accept = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
        let get = |path: &str, headers: &[(&str, &str)]| stack.get(path).headers(headers);
        assert_eq!(sent(get("/reports/7?a=1", &[NAVIGATE])), Ok(back("/reports/7?a=1")), "{encoding:?}");
        assert_eq!(sent(get("/", &[accept])), Ok(back("/")), "{encoding:?}");
        assert_eq!(sent(get("/nobody", &[NAVIGATE])), Ok(back("/nobody")), "{encoding:?}");
        for (method, headers) in [
            ("GET", vec![]),
            ("GET", vec![("accept", "*/*")]),
            ("GET", vec![("accept", "application/json, text/html;q=0.9")]),
            ("GET", vec![("sec-fetch-mode", "cors"), accept]),
            ("GET", vec![("sec-fetch-mode", "no-cors")]),
            ("GET", vec![("sec-fetch-mode", "websocket")]),
            ("GET", vec![NAVIGATE, ("sec-fetch-mode", "cors")]),
            ("POST", vec![NAVIGATE, ("content-length", "0")]),
            ("PUT", vec![NAVIGATE, ("content-length", "0")]),
            ("HEAD", vec![NAVIGATE]),
            ("OPTIONS", vec![NAVIGATE]),
        ] {
            let request = stack.request(method, "/").headers(&headers);
            assert_eq!(sent(request), Err(401), "{encoding:?} {method} {headers:?}");
        }
        // Whoever has a credential is told about that one.
        let unknown = get("/", &[NAVIGATE]).bearer("nobody-token-0123456789");
        assert_eq!(sent(unknown), Err(401));
        let malformed = get("/?_auth_token=a&_auth_token=b", &[NAVIGATE]);
        assert_eq!(sent(malformed), Err(400));
        assert_eq!(sent(get("/nobody", &[NAVIGATE]).bearer(ALICE)), Err(403));
        assert_eq!(stack.upstream.calls(), 0);
        // What needs none passes, and so does what is not enforced.
        assert_eq!(sent(get("/open", &[NAVIGATE])), Err(200));
        assert_eq!(sent(get("/trial", &[NAVIGATE])), Err(200));
        assert_eq!(stack.upstream.calls(), 2);
    }
}

#[test]
fn a_redirect_is_a_denial_to_envoy_and_stands_in_the_log_without_its_address() {
    // An error would let the request pass.
    let shape = Shape::plain().filter(json!({ "failure_mode_allow": true }));
    let stack = Stack::shaped(Server::with(CONFIG), shape);
    let request = stack.get("/secret-path?q=secret-query").headers(&[NAVIGATE, ("x-request-id", "sent")]);
    let sent = sent_to(request, "app.example.com");
    assert_eq!(sent, Ok(with_return_to(LOG_IN, "https://app.example.com/secret-path?q=secret-query")));
    assert_eq!((stack.upstream.calls(), stack.envoy.stat("denied"), stack.envoy.stat("error")), (0, 1, 0));
    let accessed = stack.envoy.accessed("/secret-path");
    assert_eq!((&accessed["status"], &accessed["details"]), (&json!(302), &json!("ext_authz_denied")));
    assert_eq!(
        (&accessed["ext_authz"]["reason"], &accessed["ext_authz"]["policy"]),
        (&json!("no_credential"), &json!("default"))
    );
    let line = stack.server.decision("sent");
    let told = ["decision", "reason", "policy", "redirected"].map(|name| &line[name]);
    assert_eq!(told, [&json!("denied"), &json!("no_credential"), &json!("default"), &json!(true)]);
    let request = stack.get("/").header("x-request-id", "told").host("app.example.com");
    assert_eq!(request.send().status, 401);
    assert_eq!(stack.server.decision("told")["redirected"], Value::Null);
    assert!(!stack.server.log().text().contains("secret-query"), "{}", stack.server.log().text());
    let metrics = stack.server.metrics();
    let counted =
        r#"envoy_auth_tokens_decisions_total{outcome="denied",reason="no_credential",policy="default"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_grpc_client_is_never_redirected() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let request = http::Request::get("http://app.example.com/x.Y/Z").header("te", "trailers");
            let request = request.header("content-type", content_type).header(NAVIGATE.0, NAVIGATE.1);
            let answer = http2::send(stack.address(), request.body(()).unwrap(), None).unwrap();
            assert_eq!(answer.grpc_status(), Some("16"), "{answer:?}");
            assert!(!answer.headers.contains_key("location"), "{answer:?}");
        }
        assert_eq!(stack.upstream.calls(), 0);
    }
}

#[test]
fn only_hosts_that_get_the_cookie_are_redirected_and_only_to_pages_of_ours() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let get = || stack.get("/x").headers(&[NAVIGATE]);
        let own = |page: &str, back: &str| Ok(with_return_to(page, &format!("https://{back}/x")));
        for (host, expected) in [
            ("keys.example.com", own(LOG_IN, "keys.example.com")),
            ("example.com", own(LOG_IN, "example.com")),
            ("A.B.Example.com", own(LOG_IN, "a.b.example.com")),
            ("app.example.com:8443", own(LOG_IN, "app.example.com:8443")),
            ("app.example.com:443", own(LOG_IN, "app.example.com")),
            ("app.example.com.", own(LOG_IN, "app.example.com")),
            ("in.example.com", own("https://in.example.com/login", "in.example.com")),
            ("x.in.example.com", own(LOG_IN, "x.in.example.com")),
            ("in.example.com:8444", own(LOG_IN, "in.example.com:8444")),
            ("In.example.com:8443", own("https://in.example.com:8443/login", "in.example.com:8443")),
        ] {
            assert_eq!(sent_to(get(), host), expected, "{encoding:?} {host}");
        }
        for host in [
            "evil.example",
            "evilexample.com",
            "example.com.evil.example",
            "keys.example.com.evil.example",
            "other.example",
            "keys.example.com@evil.example",
            "keys.example.com:443@evil.example",
            "evil.example#.example.com",
            "evil.example/.example.com",
            "evil.example?.example.com",
            "evil.example\\.example.com",
            "evil.example%2f.example.com",
            "evil.example,keys.example.com",
            "127.0.0.1",
            "[::1]",
            "localhost",
        ] {
            // Envoy itself denies some of them with 400.
            let status = sent_to(get(), host).expect_err(host);
            assert!([400, 401].contains(&status), "{encoding:?} {host}: {status}");
        }
        // What names another host beside the request's own has no say.
        let claims = [
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "1234"),
            ("forwarded", "host=evil.example;proto=http"),
            ("origin", "https://evil.example"),
            ("referer", "https://evil.example/"),
        ];
        let sent = sent_to(get().headers(&claims), "app.example.com");
        assert_eq!(sent, own(LOG_IN, "app.example.com"), "{encoding:?}");
        let another = sent_to(get().header("x-original-url", "https://evil.example/"), "app.example.com");
        assert_eq!(another, Err(400), "{encoding:?}");
        // A target in absolute form goes before `Host` (RFC 9112 section 3.2.2).
        let absolute = stack.get("http://evil.example/x").headers(&[NAVIGATE]);
        assert_eq!(sent_to(absolute, "app.example.com"), Err(401), "{encoding:?}");
        // HTTP/2 has `:authority`.
        for (authority, expected) in
            [("app.example.com", 302), ("evil.example", 401), ("evilexample.com", 401)]
        {
            let request = http::Request::get(format!("http://{authority}/x")).header(NAVIGATE.0, NAVIGATE.1);
            let answer = http2::send(stack.address(), request.body(()).unwrap(), None).unwrap();
            assert_eq!(answer.status, expected, "{encoding:?} {authority}");
        }
        assert_eq!(stack.upstream.calls(), 0);
    }
}

#[test]
fn the_address_to_come_back_to_has_no_credential_and_is_left_out_when_it_is_long() {
    // Without routes no path is read, and none is ambiguous.
    let (before, routes) = CONFIG.split_once("routes:").unwrap();
    let config = format!("{before}{}", routes.lines().last().unwrap());
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(&config, encoding);
        let sent = |path: &str| sent_to(stack.get(path).headers(&[NAVIGATE]), "app.example.com");
        let back = |path: &str| Ok(with_return_to(LOG_IN, &format!("https://app.example.com{path}")));
        for (path, kept) in [
            ("/?_auth_token=", "/"),
            ("/?a=1&_auth_token=&b=2", "/?a=1&b=2"),
            ("/?%5Fauth%5ftoken=&a=%26_auth_token%3D1", "/?a=%26_auth_token%3D1"),
            ("//evil.example/%2e%2e?x=//evil.example", "//evil.example/%2e%2e?x=//evil.example"),
            ("/a?return_to=https://evil.example", "/a?return_to=https://evil.example"),
        ] {
            assert_eq!(sent(path), back(kept), "{encoding:?} {path}");
        }
        let longest = format!("/{}", "a".repeat(2048 - "https://app.example.com/".len()));
        assert_eq!(sent(&longest), back(&longest), "{encoding:?}");
        assert_eq!(sent(&format!("{longest}a")), Ok(LOG_IN.to_owned()), "{encoding:?}");
        // The log-in page itself, where nobody has left us out.
        for path in ["/login", "/login?return_to=x", "/login/corporate/callback"] {
            let request = stack.get(path).headers(&[NAVIGATE]);
            assert_eq!(sent_to(request, "keys.example.com"), Err(401), "{encoding:?} {path}");
        }
        // A scheme of others before the session would keep any from being read; here the session comes first.
        let negotiate = stack.get("/").headers(&[NAVIGATE, ("authorization", "Negotiate abc")]);
        assert_eq!(sent_to(negotiate, "app.example.com"), back("/"), "{encoding:?}");
    }
    let config = CONFIG.replace("[session, bearer,", "[bearer, session,");
    let stack = Stack::start(&config);
    let negotiate = stack.get("/").headers(&[NAVIGATE, ("authorization", "Negotiate abc")]);
    assert_eq!(sent_to(negotiate, "app.example.com"), Err(401));
}

#[test]
fn a_script_meets_no_dialog_for_passwords() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let [bearer, basic] = [r#"Bearer realm="api""#, r#"Basic realm="api""#];
        let challenges = |request: Request| {
            let answer = request.send();
            assert_eq!((answer.status, answer.all("content-type")), (401, vec!["application/json"]));
            answer.all("www-authenticate").into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(challenges(stack.get("/")), [bearer, basic], "{encoding:?}");
        assert_eq!(challenges(stack.get("/").headers(&[NAVIGATE])), [bearer, basic], "{encoding:?}");
        for mode in ["cors", "no-cors", "same-origin", "websocket"] {
            let script = stack.get("/").header("sec-fetch-mode", mode);
            assert_eq!(challenges(script), [bearer], "{encoding:?} {mode}");
        }
        let wrong =
            || stack.post("/").basic("rob", "wrong").header("sec-fetch-mode", "cors").body(Vec::new());
        let answer = settle(|| wrong().send());
        assert_eq!(answer.json()["message"], "Invalid username or password");
        assert_eq!(answer.all("www-authenticate"), [r#"Bearer realm="api", error="invalid_token""#]);
    }
}

/// The application's session of a log-in: the value of its cookie.
fn session(server: &Server) -> String {
    let answer = log_in(server.admin(), "rob", "a-long-password");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let set = answer.all("set-cookie");
    let mut cookies = set.iter().filter_map(|cookie| cookie.strip_prefix("__Secure-eat_app="));
    let value = cookies.next().unwrap_or_else(|| panic!("no cookie for a domain: {answer:?}"));
    value.split(';').next().unwrap().to_owned()
}

#[test]
fn a_session_of_the_domain_counts_and_a_tossed_or_dead_cookie_does_not() {
    for encoding in Encoding::EXT_AUTHZ {
        let stack = Stack::encoded(CONFIG, encoding);
        let live = format!("__Secure-eat_app={}", session(&stack.server));
        // In the form of ours, and of no session; and one of no form at all.
        let dead = "__Secure-eat_app=eat_0123456789ABCDEFGHIJKLMNOPQRSTUVbWNrGg";
        let get = |cookie: String| {
            stack.get("/").headers(&[NAVIGATE]).host("app.example.com").header("cookie", cookie).send()
        };
        for cookie in [
            live.clone(),
            format!("{dead}; {live}"),
            format!("{live}; {dead}; __Secure-eat_app=x"),
            format!("__Secure-eat_app=; a=1; {live}; {live}"),
        ] {
            let answer = get(cookie.clone());
            assert_eq!(answer.seen().all("x-actor-id"), ["rob"], "{encoding:?} {cookie}");
        }
        let back = Ok(with_return_to(LOG_IN, "https://app.example.com/"));
        for cookie in [dead.to_owned(), format!("{dead}; __Secure-eat_app=x"), "__Secure-eat_app=".to_owned()]
        {
            assert_eq!(location(&get(cookie.clone())), back, "{encoding:?} {cookie}");
        }
        // Of two that live nobody knows which one is meant; and those of other names are none of a domain's.
        let other = session(&stack.server);
        let value = live.split_once('=').unwrap().1;
        for cookie in [
            format!("{live}; __Secure-eat_app={other}"),
            format!("eat_app={value}"),
            format!("__Host-eat_app={value}"),
            format!("__secure-eat_app={value}"),
        ] {
            assert_eq!(location(&get(cookie.clone())), back, "{encoding:?} {cookie}");
        }
    }
}

#[test]
fn no_cookie_of_ours_reaches_the_upstream() {
    for encoding in Encoding::EXT_AUTHZ {
        let stack = Stack::encoded(CONFIG, encoding);
        let live = session(&stack.server);
        let cookie = format!(
            "a=1; eat_session=s; __Host-eat_session=s; eat_app=s; __Host-eat_app=s; __Secure-eat_app={live}; \
             eat_login_0a1b2c3d=s; __Host-eat_login_0a1b2c3d=s; eat_log=2; b=3"
        );
        let passed = stack.get("/").host("app.example.com").header("cookie", &cookie).send();
        assert_eq!(passed.seen().all("cookie"), ["a=1; eat_log=2; b=3"], "{encoding:?}");
        // By a token too, and as the anonymous.
        let passed = stack.get("/open").header("cookie", "__Host-eat_login_1=s; c=1").send();
        assert_eq!(passed.seen().all("cookie"), ["c=1"], "{encoding:?}");
        let config = format!("{CONFIG}forward_credentials: true\n");
        let forwarding = Stack::encoded(&config, encoding);
        let cookie = cookie.replace(&live, &session(&forwarding.server));
        let passed = forwarding.get("/").bearer(ALICE).header("cookie", cookie).send();
        assert_eq!(passed.seen().all("cookie"), ["a=1; eat_log=2; b=3"], "{encoding:?}");
    }
}

#[test]
fn another_host_cannot_use_a_session_to_change_anything() {
    let site = "sec-fetch-site";
    let shape = |encoding| {
        let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
        Shape::plain().encoding(encoding).manager(upgrades)
    };
    for encoding in Encoding::EXT_AUTHZ {
        let stack = Stack::shaped(Server::with(CONFIG), shape(encoding));
        let cookie = format!("__Secure-eat_app={}", session(&stack.server));
        for (method, headers, status) in [
            ("POST", vec![(site, "same-origin")], 200),
            ("POST", vec![(site, "none")], 200),
            ("POST", vec![(site, "cross-site")], 403),
            // Lax lets it through, and the domain's cookie goes to every host of the site.
            ("POST", vec![(site, "same-site")], 403),
            ("POST", vec![(site, "same-site"), ("origin", "https://app.example.com")], 403),
            ("POST", vec![("origin", "https://app.example.com")], 200),
            ("POST", vec![("origin", "https://sibling.example.com")], 403),
            ("POST", vec![("origin", "https://example.com")], 403),
            ("POST", vec![("origin", "https://app.example.com.evil.example")], 403),
            ("POST", vec![("origin", "null")], 403),
            ("DELETE", vec![(site, "same-site")], 403),
            ("PUT", vec![(site, "cross-site")], 403),
            ("GET", vec![(site, "cross-site"), NAVIGATE], 200),
            ("GET", vec![(site, "same-site")], 200),
        ] {
            let request = stack.request(method, "/").host("app.example.com").headers(&headers);
            let request = request.header("cookie", &cookie);
            let request = if method == "GET" { request } else { request.body(Vec::new()) };
            assert_eq!(request.send().status, status, "{encoding:?} {method} {headers:?}");
        }
        let upgrade = |origin: &str| {
            let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("origin", origin)];
            let request = stack.get("/").host("app.example.com").headers(&headers);
            request.header("cookie", &cookie).send().status
        };
        assert_eq!(upgrade("https://sibling.example.com"), 403, "{encoding:?}");
        assert_eq!(upgrade("https://app.example.com"), 101, "{encoding:?}");
    }
}

#[test]
fn the_envoy_that_is_printed_lets_browsers_come_back_to_their_port() {
    let stack = Stack::printed(CONFIG, Upstream::start());
    let get = |path: &str| stack.get(path).headers(&[NAVIGATE]);
    let sent = sent_to(get("/x?a=1"), "app.example.com:10000");
    assert_eq!(sent, Ok(with_return_to(LOG_IN, "https://app.example.com:10000/x?a=1")));
    let sent = sent_to(get("/x"), "in.example.com:8443");
    let page = "https://in.example.com:8443/login";
    assert_eq!(sent, Ok(with_return_to(page, "https://in.example.com:8443/x")));
    assert_eq!(sent_to(stack.get("/").header("accept", "text/html"), "evil.example"), Err(401));
    let script = stack.get("/").host("app.example.com").header("sec-fetch-mode", "cors").send();
    assert_eq!(script.all("www-authenticate"), [r#"Bearer realm="api""#]);
    let cookie = format!("a=1; __Secure-eat_app={}; eat_login_1=s", session(&stack.server));
    let passed = get("/").host("app.example.com").header("cookie", cookie).send();
    let seen = passed.seen();
    assert_eq!((seen.all("x-actor-id"), seen.all("cookie")), (vec!["rob"], vec!["a=1"]));

    let printed = |config: &str| Server::with(config).run(["envoy", "--address", "127.0.0.1:9191"]).stdout;
    assert!(printed(CONFIG).contains("strip_matching_host_port: false"));
    let without = printed(&CONFIG.replace("login_redirect: true", "login_redirect: false"));
    assert!(without.contains("strip_matching_host_port: true"), "{without}");
}

#[test]
fn a_process_without_an_admin_listener_sends_browsers_to_the_server_that_has_it() {
    let config = |session: &str| {
        format!("keys: {{store: \"sqlite:keys.db\"}}\ncredentials: [bearer, session]\nsession: {session}\n")
    };
    let server =
        Server::with(&config("{log_in_url: https://keys.example.com/at/login, domain: example.com}"));
    let server = server.start();
    let sent = |server: &Server, host: &str| {
        let answer = grpc::check(server, grpc::request("GET", host, "/x", &[NAVIGATE]));
        let denied = grpc::refusal(&answer);
        let headers = denied.headers.iter().filter_map(|option| option.header.as_ref());
        let location = headers.into_iter().find(|header| header.key == "location");
        location.map(|header| header.value.clone())
    };
    let page = "https://keys.example.com/at/login";
    let back = |host: &str| Some(with_return_to(page, &format!("https://{host}/x")));
    assert_eq!(sent(&server, "app.example.com"), back("app.example.com"));
    assert_eq!(sent(&server, "keys.example.com"), back("keys.example.com"));
    assert_eq!(sent(&server, "evilexample.com"), None);
    // Without the domain the log-in page's own host alone.
    let server = Server::with(&config("{log_in_url: https://keys.example.com/at/login}")).start();
    assert_eq!(sent(&server, "app.example.com"), None);
    assert_eq!(sent(&server, "keys.example.com"), back("keys.example.com"));
}

#[test]
fn explain_shows_the_redirect_or_why_there_is_none() {
    let setup = Server::with(CONFIG);
    let explain = |arguments: &[&str], input: &str| {
        let ran = run(setup.command(["explain"].iter().chain(arguments)), input);
        assert_eq!(ran.code(), Some(0), "{arguments:?} {ran:?}");
        ran.stdout
    };
    let json = |arguments: &[&str], input: &str| -> Value {
        let printed = explain(&[&["--json"], arguments].concat(), input);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    };
    let request = ["--host", "app.example.com", "--path", "/x?a=1"];
    let navigate = [&request[..], &["--header", "sec-fetch-mode: navigate"]].concat();
    let told = json(&navigate, "");
    let location = with_return_to(LOG_IN, "https://app.example.com/x?a=1");
    assert_eq!((&told["decision"], &told["reason"]), (&json!("denied"), &json!("no_credential")));
    assert_eq!((&told["answer"]["status"], &told["answer"]["body"]), (&json!(302), &json!("")));
    assert_eq!(told["answer"]["code"], 16);
    let headers = json!(["cache-control: no-store", format!("location: {location}")]);
    assert_eq!(told["answer"]["headers"], headers);
    assert_eq!(told["redirect"]["says"], "a browser that navigates: it is sent to the log-in page");
    assert_eq!(told["redirect"]["at"]["key"], "admin.login_redirect");
    assert!(told["redirect"]["at"]["line"].is_u64(), "{told}");
    let text = explain(&navigate, "");
    for line in [
        "redirect     a browser that navigates",
        "status       302",
        &format!("header       location: {location}"),
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }

    let none = json(&request, "");
    assert_eq!(none["answer"]["status"], 401);
    let says = none["redirect"]["says"].as_str().unwrap();
    assert!(says.starts_with("not sent to the log-in page: this is not a GET by which a browser"), "{says}");
    let elsewhere = ["--host", "evil.example", "--path", "/", "--header", "sec-fetch-mode: navigate"];
    let says = json(&elsewhere, "")["redirect"]["says"].to_string();
    assert!(says.contains("the request's host is neither"), "{says}");
    assert_eq!(json(&["--path", "/open"], "")["redirect"], Value::Null);
    assert_eq!(json(&["--path", "/", "--token-file", "-"], ALICE)["redirect"], Value::Null);

    // A line of the log says enough, in both forms.
    for text in [false, true] {
        let server = if text { Server::with(CONFIG).text_log() } else { Server::with(CONFIG) }.start();
        grpc::check(&server, grpc::request("GET", "app.example.com", "/x", &[NAVIGATE]));
        let line = server
            .log()
            .wait_for("the decision", |line| line.contains("no_credential").then(|| line.to_owned()));
        let told = json(&["--log-line", "-"], &line);
        assert_eq!(
            (&told["logged"]["agrees"], &told["answer"]["status"]),
            (&json!(true), &json!(302)),
            "{line}"
        );
    }
}
