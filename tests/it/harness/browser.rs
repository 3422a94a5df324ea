//! A real Chromium without a screen, driven through WebDriver (<https://www.w3.org/TR/webdriver2/>).
//!
//! The client is a screenful of HTTP and JSON on the connections that the other tests use; an element is
//! named by its CSS selector each time, because a page that draws itself anew has no lasting elements.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::MAX_WAIT;
use super::http1::{Answer, Request};
use super::log::Log;
use super::tools;

/// Keys that are no characters, as WebDriver writes them.
pub const BACKSPACE: &str = "\u{e003}";
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SHIFT: &str = "\u{e008}";
pub const CONTROL: &str = "\u{e009}";
pub const ESCAPE: &str = "\u{e00c}";
pub const SPACE: &str = " ";
pub const DOWN: &str = "\u{e015}";

/// What makes Chromium a quiet guest: no sandbox, since tests may run as root, and no calls home.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--lang=en-US",
];

/// A browser is heavy: one at a time is fast enough, and leaves the machine to the other tests.
static ONE: Mutex<()> = Mutex::new(());

/// Chromium and its driver, installed where that was needed and possible.
static PROGRAMS: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    let script = tools::root().join("tests/tools/fetch.py");
    let run = Command::new("python3").arg(script).arg("chromium").output();
    let run = run.unwrap_or_else(|error| panic!("the tests need python3, which did not start: {error}"));
    assert!(run.status.success(), "Chromium is missing: {}", String::from_utf8_lossy(&run.stderr));
    let output = String::from_utf8(run.stdout).expect("paths are UTF-8");
    let path = |name: &str| {
        let path = output.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        PathBuf::from(path.unwrap_or_else(|| panic!("fetch.py did not say where {name} is: {output:?}")))
    };
    (path("chromium"), path("chromedriver"))
});

/// A running browser with one window; it dies with this value.
pub struct Browser {
    _driver: Driver,
    log: Log,
    address: SocketAddr,
    session: Option<String>,
    _profile: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Browser {
    /// A browser with a fresh profile, an English reader and a window of a laptop's size.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, for pages of servers whose certificates no authority of the browser's has signed.
    pub fn start_trusting_every_certificate() -> Self {
        Self::start_with(&["--ignore-certificate-errors"])
    }

    /// The same, in which these hosts are at an address, whatever the port: `https://HOST` needs none.
    pub fn start_with_hosts(hosts: &[&str], address: SocketAddr) -> Self {
        let rules: Vec<_> = hosts.iter().map(|host| format!("MAP {host}:443 {address}")).collect();
        let rules = format!("--host-resolver-rules={}", rules.join(","));
        Self::start_with(&["--ignore-certificate-errors", &rules])
    }

    /// The same, in which this host is at an address, whatever the port.
    pub fn start_with_name(host: &str, address: &str) -> Self {
        Self::start_with(&[&format!("--host-resolver-rules=MAP {host} {address}")])
    }

    fn start_with(more_flags: &[&str]) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (chromium, chromedriver) = &*PROGRAMS;
        let profile = TempDir::new().expect("a fresh folder");
        // chromedriver lets ::1 give it a free port, and ends if another process has that port on 127.0.0.1.
        let started = (0..10).find_map(|_| start_driver(chromedriver, &profile));
        let (_driver, log, address) =
            started.expect("one port of ten that is free on both loopback addresses");
        let mut browser = Self { _driver, log, address, session: None, _profile: profile, _one: one };
        let flags = FLAGS.iter().chain(more_flags).map(|flag| (*flag).to_owned());
        let folder = format!("--user-data-dir={}", browser._profile.path().join("profile").display());
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": flags.chain([folder]).collect::<Vec<_>>() },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.ask("POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        assert!(browser.session.is_some(), "no session: {session}");
        browser.set_size(1280, 800);
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_to(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path}: {}\n{}", answer.text(), self.log.text());
        answer.json()["value"].take()
    }

    fn try_to(&self, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::new(self.address, method, path).header("connection", "close");
        // chromedriver answers nobody who calls it by another name.
        let request = request.host(self.address.to_string());
        match method {
            "POST" => {
                let request = request.header("content-type", "application/json; charset=utf-8");
                request.body(body.to_string().into_bytes()).send()
            }
            _ => request.send(),
        }
    }

    /// A command of this session.
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let session = self.session.as_deref().expect("a session");
        self.ask(method, &format!("/session/{session}{path}"), body)
    }

    /// A command of the browser's own protocol (<https://chromedevtools.github.io/devtools-protocol/>).
    pub fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({ "cmd": method, "params": parameters }))
    }

    /// The size of the window's inside.
    pub fn set_size(&self, width: u32, height: u32) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// The same of a window whose reader has zoomed in: so many pixels of the screen are one of the page's.
    pub fn set_zoomed_size(&self, width: u32, height: u32, zoom: u32) {
        let (width, height) = (width / zoom, height / zoom);
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": zoom, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the reader has asked their system for: `light` or `dark`.
    pub fn set_color_scheme(&self, scheme: &str) {
        self.set_preferences(&[("prefers-color-scheme", scheme)]);
    }

    /// What the reader has asked their system for, as media features and their values.
    pub fn set_preferences(&self, preferences: &[(&str, &str)]) {
        let features = preferences.iter().map(|(name, value)| json!({ "name": name, "value": value }));
        let features: Vec<Value> = features.collect();
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What axe-core complains of in what the window shows: rule, element and reason.
    pub fn accessibility_problems(&self) -> Vec<String> {
        static AXE: LazyLock<String> =
            LazyLock::new(|| std::fs::read_to_string(tools::axe_core()).expect("axe-core was fetched"));
        if self.script("return window.axe === undefined", json!([])) == json!(true) {
            self.devtools("Runtime.evaluate", json!({ "expression": *AXE }));
        }
        let found = self.script(
            // Forced colours are the reader's own; what axe-core reads of them are the page's, which nobody sees.
            "const isForced = matchMedia('(forced-colors: active)').matches;
             const rules = { 'color-contrast': { enabled: !isForced } };
             const { violations, passes } = await axe.run(document, { resultTypes: ['violations'], rules });
             if (passes.length < 5) throw new Error('axe-core looked at next to nothing');
             return violations.flatMap(({ id, nodes }) =>
                 nodes.map((node) => `${id}: ${node.target}: ${node.failureSummary}`))",
            json!([]),
        );
        let found = found.as_array().expect("a list").iter();
        found.map(|problem| problem.as_str().expect("text").to_owned()).collect()
    }

    /// Where the reader lives.
    pub fn set_time_zone(&self, zone: &str) {
        self.devtools("Emulation.setTimezoneOverride", json!({ "timezoneId": zone }));
    }

    /// Every cookie that the browser would send to the page that it shows, those that no script sees as well.
    pub fn cookies(&self) -> Vec<Value> {
        let cookies = self.command("GET", "/cookie", &Value::Null);
        cookies.as_array().expect("a list of cookies").clone()
    }

    pub fn go(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a function's body in the page; the arguments are `arguments[0]` and so on, a promise is awaited.
    pub fn script(&self, body: &str, arguments: Value) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": body, "args": arguments }))
    }

    /// Asks until the page has an answer that is neither null nor false.
    #[track_caller]
    pub fn wait(&self, what: &str, body: &str, arguments: Value) -> Value {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let value = self.script(body, arguments.clone());
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if Instant::now() >= deadline {
                self.screenshot("failure");
                let page = self.script("return document.body.innerText.slice(0, 2000)", json!([]));
                let console = self.console();
                panic!("the page stays without {what}. It shows:\n{page}\nand its console: {console:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an element is there and can be seen.
    #[track_caller]
    pub fn see(&self, selector: &str) {
        self.wait(
            selector,
            "return document.querySelector(arguments[0])?.checkVisibility({visibilityProperty: true}) ?? false",
            json!([selector]),
        );
    }

    /// Waits until no such element can be seen.
    #[track_caller]
    pub fn miss(&self, selector: &str) {
        self.wait(
            &format!("losing {selector}"),
            "return ![...document.querySelectorAll(arguments[0])]
                .some((element) => element.checkVisibility({visibilityProperty: true}))",
            json!([selector]),
        );
    }

    /// Waits until the visible text of an element holds this.
    #[track_caller]
    pub fn read(&self, selector: &str, text: &str) {
        self.wait(
            &format!("{text:?} in {selector}"),
            "const element = document.querySelector(arguments[0]);
             return (element?.checkVisibility() ?? false) && element.innerText.includes(arguments[1])",
            json!([selector, text]),
        );
    }

    /// An element's text, or a field's value.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.script(
            "const element = document.querySelector(arguments[0]); return element.value ?? element.innerText",
            json!([selector]),
        );
        text.as_str().expect("text").to_owned()
    }

    fn element(&self, selector: &str) -> String {
        let using = json!({ "using": "css selector", "value": selector });
        let element = self.command("POST", "/element", &using);
        let id = element.as_object().and_then(|members| members.values().next()).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("no element {selector}: {element}")).to_owned()
    }

    /// Waits for an element and clicks on it as a mouse does: what lies under another element is not clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let session = self.session.as_deref().expect("a session");
        loop {
            self.see(selector);
            let element = self.element(selector);
            let path = format!("/session/{session}/element/{element}/click");
            let answer = self.try_to("POST", &path, &json!({}));
            if answer.status == 200 {
                return;
            }
            // The page may draw itself anew between the two: then the new element is meant.
            let error = answer.json()["value"]["error"].take();
            assert_eq!(error, "stale element reference", "{selector}: {}", answer.text());
        }
    }

    /// Moves the mouse over an element.
    pub fn hover(&self, selector: &str) {
        let element = json!({ "element-6066-11e4-a52e-4f735466cecf": self.element(selector) });
        let over = json!({ "type": "pointerMove", "duration": 0, "origin": element, "x": 0, "y": 0 });
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": [over] });
        self.command("POST", "/actions", &json!({ "actions": [mouse] }));
    }

    /// Writes into a field in place of what stands there, as a paste does: any character can be written.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        self.see(selector);
        let select = "const field = document.querySelector(arguments[0]); field.focus(); field.select()";
        self.script(select, json!([selector]));
        if text.is_empty() {
            self.press(&[BACKSPACE]);
        } else {
            self.devtools("Input.insertText", json!({ "text": text }));
        }
    }

    /// Presses keys one after the other, wherever the focus is.
    pub fn press(&self, keys: &[&str]) {
        let up_and_down = |key: &str| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        };
        self.strike(keys.iter().flat_map(|key| up_and_down(key)).collect());
    }

    /// Presses a key while another is held down.
    pub fn press_with(&self, held: &str, key: &str) {
        self.strike(vec![
            json!({ "type": "keyDown", "value": held }),
            json!({ "type": "keyDown", "value": key }),
            json!({ "type": "keyUp", "value": key }),
            json!({ "type": "keyUp", "value": held }),
        ]);
    }

    /// Types a text, wherever the focus is.
    pub fn type_text(&self, text: &str) {
        let characters: Vec<String> = text.chars().map(String::from).collect();
        self.press(&characters.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn strike(&self, actions: Vec<Value>) {
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.command("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// The id of the element that has the focus, or what it says when it has no id.  Between two elements it is the page
    /// itself, which says what all of them say.
    pub fn focused(&self) -> String {
        let focused = self.script(
            "const element = document.activeElement;
             return element === document.body ? '' : element.id || element.innerText || element.tagName",
            json!([]),
        );
        focused.as_str().expect("text").to_owned()
    }

    /// Waits until the element with this id, or one that says this, has the focus.
    #[track_caller]
    pub fn see_focus(&self, label: &str) {
        self.wait(
            &format!("the focus on {label}"),
            "const element = document.activeElement;
             return element !== document.body && (element.id === arguments[0] || element.innerText.includes(arguments[0]))",
            json!([label]),
        );
    }

    /// Keeps what the window shows in `target/screenshots`.
    pub fn screenshot(&self, name: &str) {
        let png = self.command("GET", "/screenshot", &Value::Null);
        let png = STANDARD.decode(png.as_str().expect("base64")).expect("base64");
        let folder: PathBuf = tools::root().join("target/screenshots");
        std::fs::create_dir_all(&folder).expect("a folder in target");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("a file in target");
    }

    /// What the console printed since it was last asked: problems of the page, and of the browser about it.
    pub fn console(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().expect("a list of entries");
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// Every request that the page has made since this was last asked: its method and its address.
    pub fn requests(&self) -> Vec<(String, String)> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "performance" }));
        let entries = entries.as_array().expect("a list of entries").iter();
        let events = entries.filter_map(|entry| entry["message"].as_str());
        let events = events.map(|event| serde_json::from_str::<Value>(event).expect("JSON"));
        let sent = events.filter(|event| event["message"]["method"] == "Network.requestWillBeSent");
        // The browser's own first page is no business of ours.
        let own = |event: &Value| {
            event["message"]["params"]["documentURL"].as_str().is_some_and(|url| url.starts_with("chrome"))
        };
        let sent = sent.filter(|event| !own(event));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        sent.map(|event| {
            let request = &event["message"]["params"]["request"];
            (text(&request["method"]), text(&request["url"]))
        })
        .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser too, which is no child of ours.
        if let Some(session) = self.session.take() {
            let gone = || self.try_to("DELETE", &format!("/session/{session}"), &Value::Null);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(gone));
        }
    }
}

/// A chromedriver; it dies with this value.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The driver and where it listens; none if the port that it chose was taken.
fn start_driver(chromedriver: &Path, profile: &TempDir) -> Option<(Driver, Log, SocketAddr)> {
    let mut command = Command::new(chromedriver);
    command.arg("--port=0").env("LANGUAGE", "en_US").env("HOME", profile.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut driver = Driver(command.spawn().expect("chromedriver starts"));
    let log = Log::of("chromedriver", &mut driver.0);
    let port = log.wait_for("saying on which port it listens", |line| {
        if line.contains("port not available") {
            return Some(None);
        }
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok().map(Some)
    });
    Some((driver, log, SocketAddr::from(([127, 0, 0, 1], port?))))
}
