//! An application whose people log in under its own host name, with a real browser; the page stands under another.

use serde_json::{Value, json};

use super::{Recipe, Running, secret};
use crate::harness::Upstream;
use crate::harness::browser::Browser;
use crate::harness::http1::Request;
use crate::harness::oidc_provider::OidcProvider;
use crate::harness::pki::Ca;

/// A recipe behind TLS, and a browser that finds its hosts.
pub(super) struct Site {
    pub browser: Browser,
    _upstream: Upstream,
    pub running: Running,
}

impl Site {
    /// The recipe with these hosts.
    pub fn of(recipe: Recipe, hosts: &[&str]) -> Self {
        let upstream = Upstream::start();
        let pair = Ca::new("the recipe").issue(hosts);
        let context = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": { "tls_certificates": [{
                    "certificate_chain": { "inline_string": pair.cert },
                    "private_key": { "inline_string": pair.key },
                }] },
            },
        });
        let tls = format!("    filter_chains:\n    - transport_socket: {context}\n      filters:");
        let recipe = recipe.envoy("    filter_chains:\n    - filters:", &tls);
        let running = recipe.start_before(&upstream);
        let browser = Browser::start_with_hosts(hosts, running.envoy.address());
        Self { browser, _upstream: upstream, running }
    }

    /// Where the browser is, once it is somewhere whose address begins so.
    #[track_caller]
    pub fn arrive(&self, address: &str) -> String {
        let script = "return location.href.startsWith(arguments[0]) && document.readyState === 'complete' && location.href";
        let here = self.browser.wait(&format!("arriving at {address}"), script, json!([address]));
        here.as_str().expect("an address").to_owned()
    }

    /// The same for the whole address.
    #[track_caller]
    pub fn arrive_exactly(&self, address: &str) {
        let script = "return location.href === arguments[0] && document.readyState === 'complete'";
        self.browser.wait(&format!("arriving at {address}"), script, json!([address]));
    }

    /// What the application shows of a request: its method, path and headers.
    #[track_caller]
    pub fn application(&self) -> Value {
        let text = self.browser.wait(
            "the application's answer",
            "return document.body.innerText.startsWith('{') && document.body.innerText",
            json!([]),
        );
        serde_json::from_str(text.as_str().expect("a text")).expect("the upstream shows JSON")
    }

    pub fn log_in(&self, user: &str, password: &str) {
        self.browser.fill("#login-user", user);
        self.browser.fill("#login-password", password);
        self.browser.click("#login-form .primary");
    }

    /// The value of a cookie that the browser would send to the page that it shows.
    pub fn cookie(&self, name: &str) -> Option<Value> {
        self.browser.cookies().into_iter().find(|cookie| cookie["name"] == name)
    }

    /// A header as the application saw it.
    pub fn header(seen: &Value, name: &str) -> Vec<String> {
        let headers = seen["headers"].as_array().expect("a list of headers").iter();
        let named = headers.filter(|header| header[0] == name);
        named.map(|header| header[1].as_str().expect("a text").to_owned()).collect()
    }
}

#[test]
fn people_log_in_on_the_way_to_the_application_and_out_again() {
    let site = Site::of(Recipe::named("log-in"), &["app.example.com", "keys.example.com"]);
    let browser = &site.browser;
    browser.go("https://app.example.com/reports?year=2026&x=%2F");
    let here = site.arrive("https://app.example.com/login?return_to=");
    assert!(here.contains("https%3A%2F%2Fapp.example.com%2Freports"), "{here}");
    browser.read("#destination", "app.example.com");
    browser.screenshot("log-in");
    site.log_in("alice", "a wrong one");
    browser.read("#error", "Invalid username or password");
    site.log_in("alice", secret("ALICE_PASSWORD"));
    site.arrive("https://app.example.com/reports?year=2026&x=%2F");
    let seen = site.application();
    assert_eq!(Site::header(&seen, "x-actor-id"), ["alice"]);
    assert_eq!(Site::header(&seen, "cookie"), [""; 0]);
    // The application's session alone, for this host alone.
    let cookie = site.cookie("__Host-eat_app").expect("the session");
    assert_eq!(
        (&cookie["secure"], &cookie["httpOnly"], &cookie["sameSite"]),
        (&json!(true), &json!(true), &json!("Lax"))
    );
    assert_eq!(site.cookie("__Host-eat_session"), None);
    // Who comes back to the log-in page is told so, and not sent to and fro.
    browser.go("https://app.example.com/login?return_to=https://app.example.com/");
    browser.read("#logged-in", "You are logged in as alice.");
    browser.go("https://app.example.com/logout");
    browser.click("#logout");
    browser.see("#logged-out");
    browser.go("https://app.example.com/reports");
    site.arrive("https://app.example.com/login?return_to=");
}

/// A provider that sends browsers back to this host, and the recipe with it.
pub(super) fn with_provider(name: &'static str, host: &str) -> (OidcProvider, Recipe) {
    let provider = OidcProvider::start(
        json!([{
            "client_id": "recipe",
            "client_secret": CLIENT_SECRET,
            "redirect_uris": [format!("https://{host}/login/corporate/callback")],
        }]),
        json!({
            "carol": {"name": "Carol", "email": "carol@example.com", "groups": ["staff"]},
            "eve": {"name": "Eve", "groups": []},
        }),
    );
    let section = format!(
        "oauth:
- name: corporate
  label: Example Corp.
  issuer: {}
  client_id: recipe
  client_secret: {CLIENT_SECRET}
  scopes: [openid, profile, email, groups]
  roles: [{{claim: groups, value: staff, role: Viewer}}]
tokens:
",
        provider.issuer()
    );
    (provider, Recipe::named(name).config("tokens:\n", &section))
}

const CLIENT_SECRET: &str = "a-client-secret-of-forty-two-characters-00";

/// The way of a browser from the application through the provider and back, and out again.
pub(super) fn log_in_at_the_provider(site: &Site, log_in_host: &str) {
    let browser = &site.browser;
    let answer = |name: &str, button: &str| {
        browser.see("input[name=name]");
        browser.fill("input[name=name]", name);
        browser.click(&format!("button[value={button}]"));
    };
    let page = format!("https://{log_in_host}/login");
    browser.go("https://app.example.com/reports?year=2026");
    site.arrive(&format!("{page}?return_to="));
    browser.read("#providers", "Log in with Example Corp.");
    browser.screenshot("log-in-provider");
    browser.click("#providers a");
    answer("carol", "log-in");
    site.arrive("https://app.example.com/reports?year=2026");
    let seen = site.application();
    assert_eq!(Site::header(&seen, "x-actor-id"), ["corporate:carol"]);
    assert_eq!(Site::header(&seen, "x-actor-role"), ["Viewer"]);
    assert_eq!(Site::header(&seen, "cookie"), [""; 0]);
    let left =
        browser.cookies().into_iter().filter(|cookie| cookie["name"].to_string().contains("eat_login"));
    assert_eq!(left.count(), 0, "the attempt is over");
    browser.go(&format!("https://{log_in_host}/logout"));
    browser.click("#logout-page #logout");
    browser.see("#logged-out");
    browser.go("https://app.example.com/reports");
    site.arrive(&format!("{page}?return_to="));
    // Denied, and somebody without a role: a page in words, and a way back.
    browser.devtools("Network.clearBrowserCookies", json!({}));
    for (name, button, words) in [
        ("carol", "deny", "Example Corp. did not let you in"),
        ("eve", "log-in", "nothing of what it says gives you access here"),
    ] {
        browser.go(&format!("{page}?return_to=https%3A%2F%2Fapp.example.com%2F"));
        browser.click("#providers a");
        answer(name, button);
        browser.read("main", words);
        browser.screenshot("log-in-failed");
        assert_eq!(site.cookie("__Host-eat_app").or(site.cookie("__Secure-eat_app")), None);
        browser.click("main a");
        browser.see("#providers");
    }
}

#[test]
fn people_of_a_provider_log_in_on_the_way_to_the_application() {
    let (_provider, recipe) = with_provider("log-in", "app.example.com");
    let site = Site::of(recipe, &["app.example.com", "keys.example.com"]);
    log_in_at_the_provider(&site, "app.example.com");
    // The page has the button, too.
    site.browser.go("https://keys.example.com/");
    site.browser.read("#login-providers", "Log in with Example Corp.");
}

#[test]
fn a_script_of_the_application_reaches_nothing_that_manages_keys() {
    let site = Site::of(Recipe::named("log-in"), &["app.example.com", "keys.example.com"]);
    let browser = &site.browser;
    // An administrator of keys who is logged in at both.
    browser.go("https://keys.example.com/");
    site.log_in("admin", secret("ADMIN_PASSWORD"));
    browser.see("#logout");
    browser.go("https://app.example.com/");
    site.arrive("https://app.example.com/login");
    site.log_in("admin", secret("ADMIN_PASSWORD"));
    site.arrive_exactly("https://app.example.com/");
    let fetch = "const [url, init] = arguments; \
                 try { const answer = await fetch(url, init); return [answer.type, answer.status, (await answer.text()).slice(0, 2000)]; } \
                 catch (error) { return ['failed']; }";
    let ask = |url: &str, init: Value| browser.script(fetch, json!([url, init]));
    // Under its own host the application answers itself, and the admin listener log-in alone.
    for path in ["/api/auth/keys", "/login/../api/auth/keys", "/login/%2e%2e/api/auth/keys", "/page.js"] {
        let answer = ask(path, json!({}));
        assert!(answer[2].as_str().is_some_and(|text| text.contains("x-actor-id")), "{path}: {answer}");
    }
    assert_eq!(ask("/login/options", json!({}))[1], 200);
    // Another host's answers are not for it, whether or not it sends cookies, and what changes is denied.
    for init in [
        json!({}),
        json!({"credentials": "include"}),
        json!({"method": "POST", "credentials": "include", "headers": {"content-type": "application/json"}, "body": "{}"}),
    ] {
        assert_eq!(ask("https://keys.example.com/api/auth/keys", init.clone()), json!(["failed"]), "{init}");
    }
    let body = json!({"name": "stolen", "role": "Admin"}).to_string();
    let blind = json!({"method": "POST", "mode": "no-cors", "credentials": "include", "body": body});
    assert_eq!(ask("https://keys.example.com/api/auth/keys", blind)[0], "opaque");
    browser.go("https://keys.example.com/");
    browser.read("#nothing", "no key");
    // A stolen session of the application manages no key, in whatever cookie it is sent.
    browser.go("https://app.example.com/");
    let stolen =
        site.cookie("__Host-eat_app").expect("the session")["value"].as_str().expect("a text").to_owned();
    for name in ["__Host-eat_app", "__Host-eat_session", "__Secure-eat_app", "eat_session", "eat_app"] {
        let request = Request::new(site.running.server.admin(), "GET", "/api/auth/keys");
        let answer = request.header("cookie", format!("{name}={stolen}")).send();
        assert_eq!(answer.status, 401, "{name}");
    }
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    Recipe::named("log-in").start_before(&upstream).play();
}
