//! The page of the API keys in a real browser: every step as a reader takes it, with mouse or keyboard.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::browser::{Browser, CONTROL, DOWN, ENTER, ESCAPE, SHIFT, SPACE, TAB};
use crate::harness::pki::{Ca, Pair};
use crate::harness::{Request, Server, grpc, sqlite};

const PASSWORD: &str = "correct-horse-battery-staple";
const ROOT: &str = "root-token-0123456789";

const CONFIG: &str = "
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
users:
- {username: admin, password: correct-horse-battery-staple, actor: {id: admin, name: Ada, role: Admin}}
- {username: vic, password: correct-horse-battery-staple, actor: {id: vic, role: Viewer}}
keys: {store: 'sqlite:keys.db'}
admin: {listen: '127.0.0.1:0'}
";

/// A server with its page, and a browser that has not yet been there.
struct Page {
    browser: Browser,
    admin: SocketAddr,
    server: Server,
}

impl Page {
    fn start() -> Self {
        let server = Server::with(CONFIG).start();
        let admin = server.admin();
        Self { browser: Browser::start(), admin, server }
    }

    /// The same, logged in, with the list in sight.
    fn logged_in() -> Self {
        let page = Self::start();
        page.browser.go(&page.url());
        page.log_in("admin");
        page.browser.see("#add");
        page
    }

    fn url(&self) -> String {
        format!("http://{}/", self.admin)
    }

    fn log_in(&self, user: &str) {
        self.browser.fill("#login-user", user);
        self.browser.fill("#login-password", PASSWORD);
        self.browser.click("#login-form .primary");
    }

    /// Makes a key behind the page's back.
    fn issue(&self, name: &str, role: &str, seconds_to_live: Option<u64>) -> Value {
        let body = json!({ "name": name, "role": role, "secondsToLive": seconds_to_live });
        let request = Request::new(self.admin, "POST", "/api/auth/keys").bearer(ROOT);
        let request = request.header("content-type", "application/json").header("connection", "close");
        let answer = request.body(body.to_string().into_bytes()).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn keys(&self) -> Vec<Value> {
        let request = Request::new(self.admin, "GET", "/api/auth/keys?includeExpired=true").bearer(ROOT);
        let answer = request.header("connection", "close").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().as_array().expect("a list").clone()
    }

    /// What a Check with this key says: the name of the actor who passes, or the denial's message.
    fn check(&self, key: &str) -> Result<String, String> {
        let bearer = format!("Bearer {key}");
        let request = grpc::request("GET", "app.example", "/", &[("authorization", &bearer)]);
        let answer = grpc::check(&self.server, request);
        if grpc::code(&answer) != 0 {
            let body: Value = serde_json::from_str(&grpc::refused(&answer).1).expect("JSON");
            return Err(body["message"].as_str().expect("a message").to_owned());
        }
        let headers = grpc::pass(&answer).headers.iter().filter_map(|option| option.header.as_ref());
        let mut names = headers.filter(|header| header.key == "x-actor-name");
        Ok(names.next().expect("a name").value.clone())
    }

    /// Fills in the form of a new key and sends it.
    fn add(&self, name: &str, role: &str, ttl: &str) {
        let browser = &self.browser;
        browser.click("#add");
        browser.fill("#add-name", name);
        browser.script(
            "const role = document.getElementById('add-role'); role.value = arguments[0]",
            json!([role]),
        );
        browser.fill("#add-ttl", ttl);
        browser.click("#add-form .primary");
    }

    /// The key in the dialog that shows it, which is then closed.
    fn take_key(&self) -> String {
        self.browser.see("#created-key");
        let key = self.browser.text("#created-key");
        self.browser.click("#created-done");
        self.browser.miss("#created-dialog");
        key
    }

    /// What the page and the browser complained of.  That we were not logged in at first is no complaint,
    /// and neither are the denials that a test asks for.
    fn problems(&self) -> Vec<String> {
        let mut lines = self.browser.console();
        lines.retain(|line| !line.contains("the server responded with a status of 4"));
        lines
    }
}

/// How the button of this kind in the row of a key is found.
fn act(page: &Page, name: &str, act: &str) -> String {
    let id = page.browser.wait(
        &format!("a row of {name}"),
        "return [...document.querySelectorAll('#rows tr')]
            .find((row) => row.querySelector('.name').textContent === arguments[0])?.dataset.id",
        json!([name]),
    );
    format!("#rows tr[data-id='{}'] [data-act='{act}']", id.as_str().expect("an id"))
}

#[test]
fn a_key_is_added_copied_used_rotated_revoked_and_deleted() {
    let page = Page::start();
    let browser = &page.browser;
    browser.devtools(
        "Browser.grantPermissions",
        json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] }),
    );
    let clipboard = || {
        let text = browser.script("return (window.kept ?? navigator.clipboard).readText()", json!([]));
        text.as_str().expect("text").to_owned()
    };

    // A wrong password is denied where it was written, and nothing is shown.
    browser.go(&page.url());
    browser.see("#login-user");
    browser.screenshot("login");
    browser.fill("#login-user", "admin");
    browser.fill("#login-password", "wrong");
    browser.click("#login-form .primary");
    browser.read("#login .alert", "Invalid username or password");
    browser.see_focus("login-password");
    browser.miss("#keys");
    browser.screenshot("login-denied");

    page.log_in("admin");
    browser.read("#who", "Ada");
    browser.read("#nothing", "There are no keys yet");
    browser.screenshot("empty");

    // Add: the time that it leads to is told before it is sent.
    browser.click("#add");
    browser.fill("#add-name", "deploys");
    browser.fill("#add-ttl", "3d");
    browser.read("#add-ttl-hint", "in 3 days");
    browser.screenshot("add");
    browser.click("#add-form .primary");
    browser.read("#created-title", "Created deploys");
    browser.screenshot("created");
    let key = browser.text("#created-key");
    browser.click("#copy-key");
    browser.read("#copied", "Key copied.");
    assert_eq!(clipboard(), key);

    // Where a browser gives no clipboard, which is everywhere but on this machine and under https, the old way.
    browser.script(
        "window.kept = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', {value: undefined})",
        json!([]),
    );
    // The line is what it says: it runs as it stands.
    browser.click("#copy-curl");
    browser.read("#copied", "Command copied.");
    let line = clipboard();
    assert_eq!(line, browser.text("#created-curl"));
    let ran = Command::new("sh").arg("-c").arg(format!("{line} --silent --show-error")).output().expect("sh");
    let actor: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{line}: {ran:?}"));
    assert_eq!(actor["name"], "deploys", "{actor}");

    // Shown once: when the dialog is gone, nothing of the key is on the page.
    browser.click("#created-done");
    browser.miss("#created-dialog");
    // A dialog's close event comes in a task of its own, after the dialog has gone from the screen.
    browser.wait(
        "losing the key",
        "return !document.documentElement.outerHTML.includes(arguments[0])
            && ![...document.querySelectorAll('input, textarea')].some((field) => field.value.includes(arguments[0]))",
        json!([key]),
    );
    browser.read("#rows", "in 3 days");

    // Used through Check, and seen to be used.
    assert_eq!(page.check(&key), Ok("deploys".to_owned()));
    browser.wait(
        "a last use",
        "document.getElementById('refresh').click();
         return document.querySelector('#rows [data-label=\"Last used\"] time') !== null",
        json!([]),
    );

    // Rotate: a time that is too long is denied in place, an hour is not.
    browser.click(&act(&page, "deploys", "Rotate"));
    browser.fill("#rotate-overlap", "8d");
    browser.press(&[ENTER]);
    browser.read("#rotate-overlap-error", "Seven days at most.");
    browser.fill("#rotate-overlap", "1h");
    browser.read("#rotate-overlap-hint", "The old secret works until");
    browser.screenshot("rotate");
    browser.press(&[ENTER]);
    browser.read("#created-title", "New secret for deploys");
    let second = page.take_key();
    assert_ne!(second, key);
    for works in [&key, &second] {
        assert_eq!(page.check(works), Ok("deploys".to_owned()));
    }
    // And again, at once: both older ones are dead.
    browser.click(&act(&page, "deploys", "Rotate"));
    browser.read("#rotate-overlap-hint", "The old secret stops at once.");
    browser.press(&[ENTER]);
    let third = page.take_key();
    assert!(page.check(&key).is_err() && page.check(&second).is_err());
    assert_eq!(page.check(&third), Ok("deploys".to_owned()));

    // Revoke.
    browser.click(&act(&page, "deploys", "Revoke"));
    browser.read("#confirm-title", "Revoke deploys?");
    browser.screenshot("revoke");
    browser.click("#confirm-form [data-close]");
    browser.miss("#confirm-dialog");
    assert_eq!(page.check(&third), Ok("deploys".to_owned()));
    browser.click(&act(&page, "deploys", "Revoke"));
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys is revoked.");
    browser.miss("#rows tr");
    assert_eq!(page.check(&third), Err("Revoked API key".to_owned()));

    // Among the dead it can still be seen, and deleted.
    browser.click("#show-expired");
    browser.read("#rows tr.dead", "Revoked");
    browser.click(&act(&page, "deploys", "Delete"));
    browser.read("#confirm-title", "Delete deploys?");
    browser.click("#confirm-yes");
    browser.read("#toast", "deploys is deleted.");
    browser.miss("#rows tr");
    assert_eq!(page.keys(), Vec::<Value>::new());

    // Log out: also for whoever reloads or goes back.
    browser.click("#logout");
    browser.see("#login-user");
    browser.go(&page.url());
    browser.see("#login-user");
    browser.miss("#keys");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn over_https_the_session_is_this_hosts_alone_and_never_leaves_it_in_the_clear() {
    let Pair { cert, key } = Ca::new("the CA").issue(&["localhost", "127.0.0.1"]);
    let tls = "admin: {listen: '127.0.0.1:0', tls: {cert: admin.crt, key: admin.key}}";
    let config = CONFIG.replace("admin: {listen: '127.0.0.1:0'}", tls) + "credentials: [bearer, session]\n";
    let server = Server::with(&config).file("admin.crt", &cert).file("admin.key", &key).start();
    let admin = server.admin();
    let page = Page { browser: Browser::start_trusting_every_certificate(), admin, server };
    let (browser, url) = (&page.browser, page.url().replace("http:", "https:"));
    browser.go(&url);
    page.log_in("admin");
    browser.read("#who", "Ada");
    let cookies = browser.cookies();
    let cookie = |name: &str| {
        let named = cookies.iter().find(|cookie| cookie["name"] == name);
        named.unwrap_or_else(|| panic!("no {name}: {cookies:?}"))
    };
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    for (name, same_site) in [("__Host-eat_session", "Strict"), ("__Host-eat_app", "Lax")] {
        let attributes =
            ["secure", "httpOnly", "sameSite", "path"].map(|attribute| cookie(name)[attribute].clone());
        assert_eq!(attributes, [json!(true), json!(true), json!(same_site), json!("/")], "{name}");
    }
    assert_eq!(browser.script("return document.cookie", json!([])), json!(""));

    // A key is made, works, and is in the list, also of who comes back.
    page.add("over-https", "Viewer", "1d");
    let made = page.take_key();
    assert_eq!(page.check(&made), Ok("over-https".to_owned()));
    browser.go(&url);
    browser.read("#rows", "over-https");

    // The application's session counts in Checks, until its user logs out.
    let session = format!("__Host-eat_app={}", cookie("__Host-eat_app")["value"].as_str().unwrap());
    let passes = || {
        let request = grpc::request("GET", "app.example", "/", &[("cookie", &session)]);
        grpc::code(&grpc::check(&page.server, request)) == 0
    };
    assert!(passes());
    browser.click("#logout");
    browser.see("#login-user");
    assert_eq!(browser.cookies(), Vec::<Value>::new());
    assert!(!passes());
    browser.go(&url);
    browser.see("#login-user");
    browser.miss("#keys");
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn a_time_to_live_that_is_none_is_refused_in_place_without_a_request() {
    let page = Page::logged_in();
    let browser = &page.browser;
    browser.click("#add");
    browser.fill("#add-name", "timely");
    browser.requests();
    for wrong in
        ["1", "d", "0d", "-1d", "+1d", "1.5d", "1e3s", "1 d", "1d12h", "1D", "1w ago", "\u{661}d", "tomorrow"]
    {
        browser.fill("#add-ttl", wrong);
        browser.press(&[ENTER]);
        browser.read("#add-ttl-error", "Write one whole number and one of s m h d w M y");
        browser.see_focus("add-ttl");
        let invalid = "return document.getElementById('add-ttl').getAttribute('aria-invalid')";
        assert_eq!(browser.script(invalid, json!([])), json!("true"), "{wrong}");
    }
    browser.screenshot("ttl-denied");
    browser.fill("#add-ttl", "99999999999y");
    browser.press(&[ENTER]);
    browser.read("#add-ttl-error", "That is too long.");
    assert_eq!(browser.requests(), [], "nothing was asked of the server");

    // What is right takes the complaint away and says where it leads.
    for (right, leads) in [
        ("45s", "in 45 seconds"),
        ("30m", "in 30 minutes"),
        ("12h", "in 12 hours"),
        ("1d", "in 1 day"),
        ("2w", "in 14 days"),
        ("3M", "in 3 months"),
        ("2y", "in 2 years"),
        (" 7d ", "in 7 days"),
    ] {
        browser.fill("#add-ttl", right);
        browser.read("#add-ttl-hint", leads);
        browser.miss("#add-ttl-error");
    }
    browser.fill("#add-ttl", "");
    browser.read("#add-ttl-hint", "No expiration date");

    // The syntax is explained, to the mouse and to the keyboard.
    browser.miss("#add-ttl-tip");
    browser.hover("#add-form .help");
    browser.read("#add-ttl-tip", "12h");
    browser.screenshot("ttl-help");
    browser.hover("#add-title");
    browser.miss("#add-ttl-tip");
    browser.script("document.querySelector('#add-form .help').focus()", json!([]));
    browser.see("#add-ttl-tip");

    // A name in use is denied by the server, and told at the name.
    page.issue("taken", "Viewer", None);
    browser.fill("#add-name", "taken");
    browser.press(&[ENTER]);
    browser.read("#add-name-error", "API key name already exists");
    browser.see_focus("add-name");
    browser.fill("#add-name", "  ");
    browser.press(&[ENTER]);
    browser.read("#add-name-error", "Give the key a name.");
    for (wrong, message) in [
        ("x".repeat(191), "A name is 1 to 190 printable characters."),
        (
            "bell\u{7}".to_owned(),
            "A name is 1 to 190 printable characters of one script without blanks at the ends.",
        ),
    ] {
        browser.fill("#add-name", &wrong);
        browser.press(&[ENTER]);
        browser.read("#add-name-error", message);
    }
    assert_eq!(page.keys().len(), 1);
}

/// The look of the element that has the focus: something that is not there without it.
const VISIBLE_FOCUS: &str = "const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

#[test]
fn the_keyboard_alone_is_enough() {
    let page = Page::start();
    let browser = &page.browser;
    browser.go(&page.url());
    browser.see("#login-user");
    let tab_to = |label: &str| {
        for _ in 0..30 {
            if browser.focused().contains(label) {
                let visible = browser.script(VISIBLE_FOCUS, json!([]));
                assert_eq!(visible, json!(true), "the focus on {label} cannot be seen");
                return;
            }
            browser.press(&[TAB]);
        }
        panic!("no way to {label}: the focus is on {}", browser.focused());
    };

    // Where a page begins, the focus is.
    browser.see_focus("login-user");
    browser.type_text("admin");
    tab_to("login-password");
    browser.type_text(PASSWORD);
    browser.press(&[ENTER]);
    browser.see("#add");
    browser.see_focus("search");

    tab_to("add");
    browser.press(&[ENTER]);
    browser.see_focus("add-name");
    browser.type_text("by-hand");
    tab_to("add-role");
    browser.press(&[DOWN]);
    tab_to("add-ttl");
    browser.type_text("30m");
    browser.screenshot("keyboard");
    browser.press(&[ENTER]);

    // A key that was not copied is not lost by a slip of the finger.
    browser.see("#created-key");
    browser.see_focus("copy-key");
    browser.press(&[ESCAPE, ESCAPE, ESCAPE]);
    browser.read("#copied", "Press Done");
    browser.press_with(SHIFT, TAB);
    browser.see_focus("created-key");
    browser.press_with(CONTROL, "c");
    tab_to("created-done");
    browser.press(&[SPACE]);
    browser.miss("#created-dialog");
    browser.see_focus("add");
    let keys = page.keys();
    assert_eq!((&keys[0]["name"], &keys[0]["role"]), (&json!("by-hand"), &json!("Editor")));

    // Escape leaves a dialog, and the focus goes back to where it came from.
    tab_to("Revoke");
    browser.press(&[ENTER]);
    browser.see("#confirm-dialog");
    // The harmless answer comes first.
    browser.see_focus("Cancel");
    browser.press(&[ESCAPE]);
    browser.miss("#confirm-dialog");
    browser.see_focus("Revoke");

    // The Tab key stays inside a dialog.
    browser.press(&[ENTER]);
    for _ in 0..6 {
        browser.press(&[TAB]);
        let outside = "return document.hasFocus() && document.activeElement !== document.body
            && !document.querySelector('dialog[open]').contains(document.activeElement)";
        assert_eq!(browser.script(outside, json!([])), json!(false));
    }
    tab_to("confirm-yes");
    browser.press(&[SPACE]);
    browser.read("#toast", "by-hand is revoked.");
    browser.miss("#rows tr");
    // The row is gone, the focus is not lost.
    browser.see_focus("add");

    browser.press_with(SHIFT, TAB);
    browser.see_focus("refresh");
    browser.press_with(SHIFT, TAB);
    browser.see_focus("show-expired");
    browser.press(&[SPACE]);
    tab_to("Delete");
    browser.press(&[ENTER]);
    browser.see("#confirm-dialog");
    tab_to("confirm-yes");
    browser.press(&[ENTER]);
    browser.read("#toast", "by-hand is deleted.");
    assert_eq!(page.keys(), Vec::<Value>::new());

    for _ in 0..10 {
        if browser.focused() == "logout" {
            break;
        }
        browser.press_with(SHIFT, TAB);
    }
    browser.see_focus("logout");
    browser.press(&[ENTER]);
    browser.see("#login-user");
    assert_eq!(page.problems(), Vec::<String>::new());
}

/// Elements that reach out of the window, and what scrolls sideways.
const TOO_WIDE: &str = "
    const window_ = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll('body *')]
        .filter((element) => element.checkVisibility({visibilityProperty: true}))
        .filter((element) => !element.closest('.unseen, thead'))
        .filter((element) => {
            const box = element.getBoundingClientRect();
            return box.width > 0 && (box.right > window_ + 0.5 || box.left < -0.5)
                || (element.matches('dialog, main, .card') && element.scrollWidth > element.clientWidth);
        })
        .map((element) => element.tagName + '#' + element.id + '.' + element.className);
    if (document.scrollingElement.scrollWidth > window_) wide.push('the page');
    return wide";

/// Visible text whose colour is too near to its background's (WCAG 2.2, 1.4.3).
const TOO_FAINT: &str = "
    const parse = (color) => {
        const [r, g, b, a = 1] = color.match(/[0-9.]+/g).map(Number);
        return {r, g, b, a};
    };
    const light = ({r, g, b}) => {
        const [x, y, z] = [r, g, b].map((value) => value / 255)
            .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.a === 1) return color;
        }
        return {r: 255, g: 255, b: 255};
    };
    return [...document.querySelectorAll('body *')]
        .filter((element) => element.checkVisibility({visibilityProperty: true}))
        .filter((element) => element.matches('input, textarea, select')
            || [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .map((element) => {
            const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element];
        })
        .filter(([ratio]) => ratio < 4.5)
        .map(([ratio, element]) => ratio.toFixed(2) + ' ' + element.tagName + '.' + element.className
            + ' ' + element.textContent.slice(0, 30))";

/// Shows every part of the page in turn.
fn visit(page: &Page, name: &str, mut at: impl FnMut(&str)) {
    let browser = &page.browser;
    browser.go(&page.url());
    browser.see("#login-user");
    browser.click("#login-form .primary");
    browser.read("#login .alert", "Enter your user name.");
    at(&format!("{name}-login"));
    page.log_in("admin");
    browser.see("#rows tr");
    at(&format!("{name}-keys"));
    browser.click("#show-expired");
    browser.see("#rows tr.dead");
    at(&format!("{name}-keys-and-dead-ones"));
    browser.click("#add");
    browser.fill("#add-ttl", "soon");
    browser.press(&[ENTER]);
    browser.see("#add-ttl-error");
    at(&format!("{name}-add-denied"));
    browser.hover("#add-form .help");
    browser.see("#add-ttl-tip");
    at(&format!("{name}-add-help"));
    browser.hover("#add-title");
    browser.fill("#add-name", name);
    browser.fill("#add-ttl", "90d");
    at(&format!("{name}-add"));
    browser.press(&[ENTER]);
    browser.see("#created-key");
    at(&format!("{name}-created"));
    browser.click("#created-done");
    browser.click(&act(page, name, "Rotate"));
    at(&format!("{name}-rotate"));
    browser.press(&[ESCAPE]);
    browser.click(&act(page, name, "Delete"));
    at(&format!("{name}-delete"));
    browser.click("#confirm-yes");
    browser.read("#toast", "is deleted");
    at(&format!("{name}-toast"));
    browser.click("#logout");
    browser.see("#login-user");
}

/// Keys of every kind: living and dead, short and as long as names may be.
fn issue_many(page: &Page) {
    let week = 7 * 86_400;
    for (name, role, life) in [
        ("billing-export", "Viewer", Some(90 * 86_400)),
        ("ci deploys", "Editor", Some(3 * 86_400)),
        ("grafana dashboards", "Viewer", None),
        ("מפתח לבדיקה", "Viewer", Some(week)),
        ("night watch 🌙", "Admin", None),
        (&"a-long-name-without-any-blank-".repeat(6), "Editor", Some(365 * 86_400)),
        ("soon gone", "Viewer", Some(1)),
        ("taken back", "Editor", None),
    ] {
        let issued = page.issue(name, role, life);
        if name == "taken back" {
            let path = format!("/api/auth/keys/{}/revoke", issued["id"]);
            let request = Request::new(page.admin, "POST", &path).bearer(ROOT).body(Vec::new());
            assert_eq!(request.header("connection", "close").send().status, 200);
        }
    }
    assert_eq!(page.keys().len(), 8);
}

#[test]
fn it_fits_a_phone_a_laptop_day_and_night() {
    let page = Page::start();
    issue_many(&page);
    for (width, height) in [(360, 740), (1280, 800)] {
        for scheme in ["light", "dark"] {
            page.browser.set_size(width, height);
            page.browser.set_color_scheme(scheme);
            visit(&page, &format!("{width}-{scheme}"), |place| {
                page.browser.screenshot(place);
                assert_eq!(page.browser.script(TOO_WIDE, json!([])), json!([]), "{place}");
                assert_eq!(page.browser.script(TOO_FAINT, json!([])), json!([]), "{place}");
            });
            let ground = "return getComputedStyle(document.documentElement).backgroundColor";
            let ground = page.browser.script(ground, json!([]));
            let first = ground.as_str().and_then(|color| {
                color.split(|char: char| !char.is_ascii_digit()).find_map(|number| number.parse::<u8>().ok())
            });
            assert_eq!(first.expect("a colour") < 128, scheme == "dark", "{ground}");
        }
    }
    assert_eq!(page.problems(), Vec::<String>::new());
}

#[test]
fn names_are_text_whatever_they_look_like_and_no_other_host_is_contacted() {
    let page = Page::logged_in();
    let browser = &page.browser;
    page.issue("decoy", "Viewer", None);
    let names = [
        "<img src=x onerror=\"window.ran = 1\">",
        "<script>window.ran = 1</script>",
        "\"><svg onload=window.ran=1>",
        "'; DROP TABLE keys; --",
        "{{constructor.constructor('window.ran = 1')()}}",
        // Of one script, as names are: angle brackets belong to none.
        "שלום <&> עולם",
        "🔑🏳️‍🌈",
        "&lt;not an entity&gt; &amp;",
    ];
    for name in names {
        page.add(name, "Viewer", "1d");
        browser.read("#created-title", name);
        page.take_key();
        // Every dialog and message that shows a name.
        browser.click(&act(&page, name, "Rotate"));
        browser.read("#rotate-title", name);
        browser.click("#rotate-form [data-close]");
        browser.fill("#search", name);
        browser.read("#count", "1 of");
        browser.fill("#search", &format!("{name}!"));
        browser.read("#nothing", name);
        browser.fill("#search", "");
        browser.press(&[ENTER]);
    }
    let shown = browser.script(
        "return [...document.querySelectorAll('#rows .name')].map((name) => name.textContent).sort()",
        json!([]),
    );
    let mut sorted: Vec<&str> = [&["decoy"], &names[..]].concat();
    sorted.sort_by_key(|name| name.encode_utf16().collect::<Vec<_>>());
    assert_eq!(shown, json!(sorted));
    let directions = browser.script(
        "return [...document.querySelectorAll('#rows .name')]
            .filter((name) => getComputedStyle(name).direction === 'rtl').length",
        json!([]),
    );
    assert_eq!(directions, json!(1), "the Hebrew name reads from right to left");
    browser.screenshot("names");

    let name = names[0];
    browser.click(&act(&page, name, "Revoke"));
    browser.read("#confirm-title", name);
    browser.click("#confirm-yes");
    browser.read("#toast", name);
    assert_eq!(browser.script("return window.ran === undefined", json!([])), json!(true));

    // Not one request went elsewhere, and the policy would not have let it.
    let own = page.url();
    let requests = browser.requests();
    assert!(requests.len() > 10, "{requests:?}");
    for (method, url) in &requests {
        assert!(url.starts_with(&own) || url.starts_with("data:"), "{method} {url}");
        assert!(!url.contains("eat_"), "a key in an address: {url}");
    }
    assert_eq!(page.problems(), Vec::<String>::new());
    let tried = browser.script(
        "const violations = [];
         document.addEventListener('securitypolicyviolation', (event) => violations.push(event.effectiveDirective));
         try { await fetch('http://127.0.0.1:9/'); } catch {}
         const image = new Image();
         image.src = 'http://127.0.0.1:9/i.png';
         const style = document.createElement('style');
         style.textContent = 'body { display: none }';
         document.body.append(style);
         try { document.body.innerHTML = '<b>markup</b>'; } catch { violations.push('innerHTML'); }
         await new Promise((resolve) => setTimeout(resolve, 200));
         return [...new Set(violations)].sort()",
        json!([]),
    );
    let tried: Vec<&str> = tried.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for stopped in ["connect-src", "img-src", "style-src-elem", "innerHTML"] {
        assert!(tried.contains(&stopped), "{stopped} is not stopped: {tried:?}");
    }
}

#[test]
fn times_are_the_readers_own_and_dead_keys_show_on_request() {
    let page = Page::start();
    issue_many(&page);
    let browser = &page.browser;
    browser.set_time_zone("Asia/Kolkata");
    browser.go(&page.url());
    page.log_in("admin");
    browser.see("#rows tr");
    browser.read("#zone", "Times are Asia/Calcutta");

    let keys = page.keys();
    let ci = keys.iter().find(|key| key["name"] == "ci deploys").expect("a key");
    let local = browser.script(
        "return new Date(arguments[0]).toLocaleString('en-US',
            {timeZone: 'Asia/Kolkata', dateStyle: 'medium', timeStyle: 'short'})",
        json!([ci["expiration"]]),
    );
    let cell = |name: &str, label: &str| {
        let text = browser.script(
            "return [...document.querySelectorAll('#rows tr')]
                .find((row) => row.querySelector('.name').textContent === arguments[0])
                ?.querySelector(`[data-label=\"${arguments[1]}\"]`).innerText",
            json!([name, label]),
        );
        text.as_str().unwrap_or_else(|| panic!("no {label} of {name}")).to_owned()
    };
    assert_eq!(cell("ci deploys", "Expires"), format!("{} in 3 days", local.as_str().unwrap()));
    assert_eq!(cell("grafana dashboards", "Expires"), "No expiration date");
    assert_eq!(cell("grafana dashboards", "Last used"), "Never");
    assert_eq!(cell("ci deploys", "Role"), "Editor");

    // A key that expires while somebody looks is gone with the next look.
    browser.wait(
        "losing the key whose time is over",
        "document.getElementById('refresh').click();
         return !document.getElementById('rows').innerText.includes('soon gone')",
        json!([]),
    );
    browser.read("#count", "6 keys");
    browser.click("#show-expired");
    browser.read("#count", "8 keys");
    for (name, state) in [("soon gone", "Expired"), ("taken back", "Revoked")] {
        let row = browser.script(
            "return [...document.querySelectorAll('#rows tr.dead')]
                .find((row) => row.querySelector('.name').textContent === arguments[0])?.innerText",
            json!([name]),
        );
        assert!(row.as_str().is_some_and(|row| row.contains(state)), "{name}: {row}");
    }
    browser.fill("#search", "DEPLOYS");
    browser.read("#count", "1 of 8 keys");
    browser.fill("#search", "no such thing");
    browser.read("#nothing", "No key has no such thing in its name.");
}

#[test]
fn a_long_list_is_shown_in_part_until_all_is_requested() {
    let page = Page::start();
    for number in 0..303 {
        page.issue(&format!("key {number:03}"), "Viewer", None);
    }
    let browser = &page.browser;
    browser.go(&page.url());
    page.log_in("admin");
    browser.read("#count", "303 keys");
    let rows = || browser.script("return document.querySelectorAll('#rows tr').length", json!([]));
    assert_eq!(rows(), json!(300));
    // The search looks at all of them.
    browser.fill("#search", "key 302");
    browser.read("#count", "1 of 303 keys");
    browser.fill("#search", "");
    browser.read("#show-all", "Show all 303 keys");
    browser.click("#show-all");
    assert_eq!(rows(), json!(303));
    browser.see_focus("key 300");
    browser.miss("#show-all");
}

#[test]
fn ten_thousand_keys_are_read_page_by_page() {
    let page = Page::start();
    sqlite::insert_keys(&page.server.folder().join("keys.db"), 10_000);
    let browser = &page.browser;
    browser.go(&page.url());
    page.log_in("admin");
    browser.read("#count", "10000 keys");
    browser.read("#show-all", "Show all 10000 keys");
    browser.fill("#search", "stored key 9999");
    browser.read("#count", "1 of 10000 keys");
}

#[test]
fn an_ended_session_and_an_actor_without_permission_get_a_message() {
    let page = Page::logged_in();
    let browser = &page.browser;
    browser.devtools("Network.clearBrowserCookies", json!({}));
    browser.click("#add");
    browser.fill("#add-name", "too late");
    browser.press(&[ENTER]);
    browser.read("#login .alert", "Your session is over.");
    browser.miss("#keys");
    browser.miss("#add-dialog");
    assert_eq!(page.keys(), Vec::<Value>::new());

    // A Viewer may log in and see that keys are not theirs to manage.
    page.log_in("vic");
    browser.read("#list-error", "Permission denied");
    browser.screenshot("not-admitted");
    browser.click("#logout");
    browser.see("#login-user");

    // A server that is gone is said to be gone.
    let Page { browser, server, .. } = page;
    drop(server);
    browser.fill("#login-user", "admin");
    browser.fill("#login-password", PASSWORD);
    browser.click("#login-form .primary");
    browser.read("#login .alert", "The server does not answer.");
}

#[test]
fn the_parts_of_the_page_need_no_credential_and_say_what_they_are() {
    let page = Page::start();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = Request::new(page.admin, "GET", path).header("connection", "close").send();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.all("content-type"), [content_type], "{path}");
        assert_eq!(answer.all("cache-control"), ["no-store"], "{path}");
        assert_eq!(answer.all("x-content-type-options"), ["nosniff"], "{path}");
        let policy = answer.all("content-security-policy").join(", ");
        for part in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
    // A challenge by Basic would make the browser ask for a password before the page can.
    page.browser.go(&page.url());
    page.browser.see("#login-user");
    let challenge = page
        .browser
        .script("return (await fetch('api/auth/actor')).headers.get('www-authenticate') ?? ''", json!([]));
    assert!(!challenge.as_str().expect("text").to_lowercase().contains("basic"), "{challenge}");
}
