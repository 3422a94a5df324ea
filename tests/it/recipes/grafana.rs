//! Grafana's `auth.proxy`.  The upstream plays Grafana: it shows what Grafana would read.

use std::collections::BTreeMap;

use super::{Recipe, Running, folder, read, secret};
use crate::harness::Upstream;
use crate::users::settle;

fn start(grafana: &Upstream) -> Running {
    Recipe::named("grafana").behind(3000, grafana.address()).start()
}

/// `section.key` of `grafana.ini`.
fn settings() -> BTreeMap<String, String> {
    let text = read(&folder().join("grafana/grafana.ini"));
    let mut section = String::new();
    let mut settings = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(';')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => name.clone_into(&mut section),
            None => {
                let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line:?}"));
                let double = settings.insert(format!("{section}.{key}"), value.to_owned());
                assert_eq!(double, None, "{line}");
            }
        }
    }
    settings
}

/// The headers that Grafana is told to read, by what it takes from them.
fn headers() -> BTreeMap<String, String> {
    let settings = settings();
    let pairs = settings["auth.proxy.headers"].split(' ').map(|pair| pair.split_once(':').expect("a pair"));
    let mut headers: BTreeMap<_, _> = pairs.map(|(what, name)| (what.to_owned(), name.to_owned())).collect();
    headers.insert("Login".to_owned(), settings["auth.proxy.header_name"].clone());
    headers
}

#[test]
fn grafana_reads_the_headers_that_we_set_from_envoy_alone() {
    let settings = settings();
    for (key, value) in [
        ("auth.proxy.enabled", "true"),
        ("auth.proxy.enable_login_token", "false"),
        ("auth.proxy.headers_encoded", "false"),
        ("auth.basic.enabled", "false"),
    ] {
        assert_eq!(settings.get(key).map(String::as_str), Some(value), "{key}");
    }
    // Envoy reaches Grafana where it listens, from the address that it believes.
    let recipe = Recipe::named("grafana");
    let address = format!(
        "{{ address: {}, port_value: {} }}",
        settings["server.http_addr"], settings["server.http_port"]
    );
    assert!(recipe.envoy.contains(&address), "{address}");
    assert_eq!(settings["auth.proxy.whitelist"], settings["server.http_addr"], "both are on one machine");

    let grafana = Upstream::start();
    let running = start(&grafana);
    let seen = running.get("/api/dashboards/home").bearer(secret("ALICE_TOKEN")).send().seen();
    let read: BTreeMap<_, _> =
        headers().into_iter().map(|(what, name)| (what, seen.all(&name).join("\n"))).collect();
    let expected =
        [("Email", "alice@example.com"), ("Login", "alice"), ("Name", "Alice Liddell"), ("Role", "Editor")];
    assert_eq!(read, expected.map(|(what, value)| (what.to_owned(), value.to_owned())).into());
    assert!(seen.all("authorization").is_empty(), "Grafana would take it for a key of its own: {seen:?}");
}

#[test]
fn nobody_forges_a_login() {
    let grafana = Upstream::start();
    let running = start(&grafana);
    let names: Vec<String> = headers().into_values().collect();
    let forge = |request: crate::harness::Request| {
        let request = names.iter().fold(request, |request, name| request.header(name, "Admin"));
        request.header("X.WebAuth.User", "admin").header("x-webauth~role", "Admin")
    };
    // The bot has neither name nor address, and gets none from its own request.
    let seen = forge(running.get("/")).bearer(secret("BOT_TOKEN")).send().seen();
    let headers: Vec<_> = seen.headers.iter().filter(|(name, _)| name.contains("webauth")).collect();
    assert_eq!(seen.all("x-webauth-user"), ["my-bot"]);
    assert_eq!(seen.all("x-webauth-role"), ["Viewer"]);
    assert_eq!(headers.len(), 2, "{headers:?}");
    // Nobody is asked about the probe, and yet nobody logs in by it.
    let seen = forge(running.get("/api/health")).send().seen();
    assert!(!seen.headers.iter().any(|(name, _)| name.contains("webauth")), "{seen:?}");

    let calls = grafana.calls();
    assert_eq!(forge(running.get("/")).send().status, 401);
    assert_eq!(forge(running.get("/")).bearer("wrong-token-0123456789").send().status, 401);
    assert_eq!(running.get("/").header("X_WEBAUTH_USER", "admin").send().status, 400);
    assert_eq!(running.get("/api/health").header("X_WEBAUTH_USER", "admin").send().status, 400);
    assert_eq!(grafana.calls(), calls, "a denied request does not reach Grafana");
}

#[test]
fn browsers_log_in_with_a_password_and_have_their_websocket() {
    let grafana = Upstream::start();
    let running = start(&grafana);
    let admin = || running.get("/").basic("admin", secret("ADMIN_PASSWORD")).send();
    let answer = settle(admin);
    assert_eq!(answer.seen().all("x-webauth-role"), ["Admin"]);
    let challenges = running.get("/").send();
    assert!(challenges.all("www-authenticate").iter().any(|line| line.starts_with("Basic ")), "a log-in box");
    let live = |origin: &str| {
        let request =
            running.get("/api/live/ws").header("connection", "upgrade").header("upgrade", "websocket");
        let request = request.basic("admin", secret("ADMIN_PASSWORD")).header("origin", origin);
        request.keep().0.status
    };
    assert_eq!(live("http://app.example"), 101);
    assert_eq!(live("https://evil.example"), 403);
}

#[test]
fn the_readme_shows_what_happens() {
    start(&Upstream::start()).play();
}
