//! The page of the API keys in a real browser: every step as a reader takes it, with mouse or keyboard.

mod failures;
mod fields;
mod files;
mod keyboard;
mod keys;
mod looks;
mod names;
mod people;
mod walkthroughs;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::{Request, Server, grpc, sqlite};

const PASSWORD: &str = "correct-horse-battery-staple";
const ROOT: &str = "root-token-0123456789";

/// Ada is an Admin, Ed an Editor who manages keys, Vic a Viewer who may have keys of his own, and Nil nobody.
const CONFIG: &str = "
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
users:
- {username: admin, password: correct-horse-battery-staple, actor: {id: admin, name: Ada, role: Admin}}
- {username: ed, password: correct-horse-battery-staple, actor: {id: ed, role: Editor, team: ops}}
- {username: vic, password: correct-horse-battery-staple, actor: {id: vic, name: Vic, role: Viewer}}
- {username: nil, password: correct-horse-battery-staple, actor: {id: nil, team: none}}
policies: {reports: {allow: {role: [Viewer, Editor, Admin]}}, wiki: {allow: {role: Admin}}}
keys: {store: 'sqlite:keys.db', actor_members: [team, groups]}
admin: {listen: '127.0.0.1:0', allow: {role: [Editor, Admin]}, self_service: {role: Viewer}}
";

const DAY: i64 = 86_400;

/// A server with its page, and a browser that has not yet been there.
struct Page {
    browser: Browser,
    admin: SocketAddr,
    server: Server,
}

impl Page {
    fn start() -> Self {
        Self::start_with(CONFIG)
    }

    fn start_with(config: &str) -> Self {
        let server = Server::with(config).start();
        let admin = server.admin();
        Self { browser: Browser::start(), admin, server }
    }

    /// The same, logged in, with the list in sight.
    fn logged_in() -> Self {
        let page = Self::start();
        page.enter("admin");
        page
    }

    fn url(&self) -> String {
        format!("http://{}/", self.admin)
    }

    /// Comes to the page as this user.
    #[track_caller]
    fn enter(&self, user: &str) {
        self.browser.go(&self.url());
        self.log_in(user);
        self.browser.see("#keys-view");
    }

    #[track_caller]
    fn log_in(&self, user: &str) {
        self.browser.fill("#login-user", user);
        self.browser.fill("#login-password", PASSWORD);
        self.browser.click("#login-form .primary");
    }

    /// Goes to a view as a link does, past whatever the window shows.
    fn show(&self, address: &str) {
        self.browser.script("location.hash = arguments[0]", json!([address]));
    }

    /// A call of the API behind the page's back.
    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = Request::new(self.admin, method, path).bearer(ROOT).header("connection", "close");
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string().into_bytes()).send();
        assert!(matches!(answer.status, 200 | 201), "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// Makes a key behind the page's back.
    #[track_caller]
    fn issue(&self, name: &str, role: &str, seconds_to_live: Option<i64>) -> Value {
        self.create(json!({ "name": name, "role": role, "secondsToLive": seconds_to_live }))
    }

    #[track_caller]
    fn create(&self, key: Value) -> Value {
        self.call("POST", "/api/auth/keys", &key)
    }

    #[track_caller]
    fn keys(&self) -> Vec<Value> {
        let request = Request::new(self.admin, "GET", "/api/auth/keys?includeExpired=true").bearer(ROOT);
        let answer = request.header("connection", "close").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().as_array().expect("a list").clone()
    }

    /// The only key of this name.
    #[track_caller]
    fn key(&self, name: &str) -> Value {
        let keys = self.keys();
        let key = keys.iter().find(|key| key["name"] == name);
        key.unwrap_or_else(|| panic!("no {name}: {keys:?}")).clone()
    }

    /// Runs SQL in the store, whose times are seconds.
    fn sql(&self, sql: &str) {
        sqlite::sql(&self.server.folder().join("keys.db"), sql);
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

    /// Chooses an option as a reader does.
    #[track_caller]
    fn choose(&self, selector: &str, value: &str) {
        self.browser.see(selector);
        let chosen = self.browser.script(
            "const select = document.querySelector(arguments[0]);
             select.value = arguments[1];
             for (const name of ['input', 'change']) select.dispatchEvent(new Event(name, { bubbles: true }));
             return select.value",
            json!([selector, value]),
        );
        assert_eq!(chosen, json!(value), "{selector} does not offer {value}");
    }

    /// What a list offers to choose from.
    fn options(&self, selector: &str) -> Vec<String> {
        let options = self.browser.script(
            "return [...document.querySelector(arguments[0]).options]
                .filter((option) => !option.hidden).map((option) => option.text)",
            json!([selector]),
        );
        options
            .as_array()
            .expect("a list")
            .iter()
            .map(|text| text.as_str().expect("text").to_owned())
            .collect()
    }

    /// Fills in the form of a new key and sends it.
    #[track_caller]
    fn add(&self, name: &str, role: &str, life: &str) {
        let browser = &self.browser;
        browser.click("#add");
        browser.fill("#key-name", name);
        self.choose("#key-role", role);
        self.choose("#key-life", "custom");
        browser.fill("#key-ttl", life);
        browser.click("#key-form [data-yes]");
    }

    /// The key in the dialog that shows it, which is then closed.
    #[track_caller]
    fn take_key(&self) -> String {
        self.browser.see("#created-key");
        let key = self.browser.text("#created-key");
        self.browser.click("#created-done");
        self.browser.miss("#created-dialog");
        key
    }

    /// How the row of a key or an account is found, by its name.
    #[track_caller]
    fn row(&self, name: &str) -> String {
        let id = self.browser.wait(
            &format!("a row of {name}"),
            "return [...document.querySelectorAll('.list tbody tr')].filter((row) => row.checkVisibility())
                .find((row) => row.querySelector('th .name')?.textContent === arguments[0])?.dataset.id",
            json!([name]),
        );
        format!("section:not([hidden]) tr[data-id='{}']", id.as_str().expect("an id"))
    }

    /// Chooses from the menu of a row.
    #[track_caller]
    fn act(&self, name: &str, label: &str) {
        self.browser.click(&format!("{} .dots", self.row(name)));
        self.pick(label);
    }

    /// Clicks on an entry of the menu.
    #[track_caller]
    fn pick(&self, label: &str) {
        self.mark("#menu button", label);
        self.browser.click("[data-marked]");
    }

    /// Clicks on a button, or a link, of this text.
    #[track_caller]
    fn press(&self, within: &str, label: &str) {
        self.mark(&format!("{within} :is(button, a)"), label);
        self.browser.click("[data-marked]");
    }

    #[track_caller]
    fn mark(&self, selector: &str, label: &str) {
        self.browser.wait(
            &format!("{label:?} among {selector}"),
            "document.querySelector('[data-marked]')?.removeAttribute('data-marked');
             const found = [...document.querySelectorAll(arguments[0])].filter((element) => element.checkVisibility())
                 .find((element) => element.textContent.trim() === arguments[1]);
             found?.setAttribute('data-marked', '');
             return found !== undefined",
            json!([selector, label]),
        );
    }

    /// The names in the table, from the top.
    fn names(&self) -> Vec<String> {
        let names = self.browser.script(
            "return [...document.querySelectorAll('section:not([hidden]) .list tbody th .name')].map((name) => name.textContent)",
            json!([]),
        );
        names.as_array().expect("a list").iter().map(|name| name.as_str().expect("text").to_owned()).collect()
    }

    /// Waits until the table shows these names, from the top.
    #[track_caller]
    fn see_names(&self, names: &[&str]) {
        self.browser.wait(
            &format!("the rows {names:?}"),
            "const names = [...document.querySelectorAll('section:not([hidden]) .list tbody th .name')]
                .map((name) => name.textContent);
             return JSON.stringify(names) === JSON.stringify(arguments[0])",
            json!([names]),
        );
    }

    /// What a cell of a key's row says.
    #[track_caller]
    fn cell(&self, name: &str, label: &str) -> String {
        let row = self.row(name);
        let text = self.browser.script(
            "return document.querySelector(`${arguments[0]} [data-cell=\"${arguments[1]}\"] .two`).innerText",
            json!([row, label]),
        );
        text.as_str().unwrap_or_else(|| panic!("no {label} of {name}")).replace('\n', " ")
    }

    /// What a list of facts says of a term.
    #[track_caller]
    fn fact(&self, list: &str, term: &str) -> String {
        let text = self.browser.wait(
            &format!("{term} in {list}"),
            "return [...document.querySelectorAll(`${arguments[0]} dt`)]
                .find((each) => each.textContent === arguments[1])?.nextElementSibling.innerText",
            json!([list, term]),
        );
        text.as_str().expect("text").to_owned()
    }

    /// What the page and the browser complained of.  That we were not logged in at first is no complaint,
    /// and neither are the denials that a test asks for.
    fn problems(&self) -> Vec<String> {
        let mut lines = self.browser.console();
        lines.retain(|line| !line.contains("the server responded with a status of 4"));
        lines
    }

    /// Nothing that a reader could not use: axe-core finds nothing, and nothing reaches out of the window.
    #[track_caller]
    fn is_well(&self, place: &str) {
        self.browser.screenshot(place);
        assert_eq!(self.browser.accessibility_problems(), Vec::<String>::new(), "{place}");
        assert_eq!(self.browser.script(TOO_WIDE, json!([])), json!([]), "{place}");
    }
}

/// Elements that reach out of the window, and what scrolls sideways.
const TOO_WIDE: &str = "
    const window_ = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll('body *')]
        .filter((element) => element.checkVisibility({visibilityProperty: true}))
        // A table that a reader scrolls within its own box, and what is read out alone.
        .filter((element) => !element.closest('.unseen, .scroll > *, .skip'))
        .filter((element) => {
            const box = element.getBoundingClientRect();
            return box.width > 0 && (box.right > window_ + 0.5 || box.left < -0.5)
                || (element.matches('dialog, main, .card, td, th') && element.scrollWidth > element.clientWidth + 1);
        })
        .map((element) => element.tagName + '#' + element.id + '.' + element.className);
    if (document.scrollingElement.scrollWidth > window_) wide.push('the page');
    return wide";
