//! A real Radicale, which believes `X-Remote-User`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::{Recipe, Running, read, secret};
use crate::harness::http1::{Answer, Request};
use crate::harness::log::Log;
use crate::harness::tools;
use crate::users::settle;

/// A running Radicale; it dies with this value.
pub struct Radicale {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Radicale {
    /// With the recipe's own file.
    fn start(test: u8) -> Self {
        Self::configured(test, &read(&super::folder().join("radicale/radicale.ini")), |_| {})
    }

    /// With this file, after `fill` has filled the folder of its collections.
    pub fn configured(test: u8, text: &str, fill: impl FnOnce(&Path)) -> Self {
        let folder = TempDir::new().unwrap();
        // It takes no port 0, so it keeps its port and gets a loopback address of its own: by the number of
        // this process, which has 22 bits, and of the test.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let address = SocketAddr::from(([127, high | test << 6, middle, low], 5232));
        let storage = folder.path().join("collections");
        fill(&storage);
        let text = replace(text, "127.0.0.1:5232", &address.to_string());
        let text = replace(&text, "/var/lib/radicale/collections", storage.to_str().unwrap());
        let file = folder.path().join("radicale.ini");
        std::fs::write(&file, text).unwrap();
        let mut command = tools::radicale();
        command.arg("--config").arg(&file).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let log = Log::of("Radicale", &mut child);
        let radicale = Self { child, address, folder };
        log.wait_for("saying that it is ready", |line| line.contains("server ready").then_some(()));
        radicale
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its collections are.
    pub fn collections(&self) -> PathBuf {
        self.folder.path().join("collections/collection-root")
    }
}

impl Drop for Radicale {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "radicale.ini says {from:?} once");
    text.replace(from, to)
}

fn start(radicale: &Radicale) -> Running {
    Recipe::named("radicale").behind(5232, radicale.address).start()
}

const EVENT: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//example//EN\r\nBEGIN:VEVENT\r\nUID:tea\r\n\
    DTSTAMP:20260101T000000Z\r\nDTSTART:20260401T160000Z\r\nSUMMARY:Tea\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

#[test]
fn everybody_has_their_own_calendar_and_nobody_forges_a_name() {
    let radicale = Radicale::start(1);
    // With underscores let through, so that the early removal has something to do.
    let underscores = "headers_with_underscores_action: REJECT_REQUEST";
    let recipe = Recipe::named("radicale").envoy(underscores, "headers_with_underscores_action: ALLOW");
    let running = recipe.behind(5232, radicale.address).start();
    let alice = |method: &str, path: &str, body: &str| {
        let ask = || {
            let request = running.request(method, path).basic("alice", secret("ALICE_PASSWORD"));
            request.header("content-type", "text/calendar").body(body.as_bytes().to_vec()).send()
        };
        settle(ask)
    };
    assert_eq!(alice("MKCALENDAR", "/alice/plans/", "").status, 201);
    assert_eq!(alice("PUT", "/alice/plans/tea.ics", EVENT).status, 201);
    let read = alice("GET", "/alice/plans/tea.ics", "");
    assert!(read.status == 200 && read.text().contains("SUMMARY:Tea"), "{read:?}");

    // Bob's phone, whose calendar program knows user names and passwords alone.
    let bob = |path: &str, forged: &[(&str, &str)]| -> Answer {
        running.get(path).basic("api_key", secret("BOB_TOKEN")).headers(forged).send()
    };
    let forged: [&[(&str, &str)]; 5] = [
        &[],
        &[("X-Remote-User", "alice")],
        &[("X_Remote_User", "alice")],
        &[("x-remote_user", "alice"), ("X-REMOTE-USER", "alice")],
        &[("X-Script-Name", "/alice/plans"), ("x.remote.user", "alice")],
    ];
    for headers in forged {
        assert_eq!(bob("/alice/plans/tea.ics", headers).status, 403, "{headers:?}");
        let nobody = running.get("/alice/plans/tea.ics").headers(headers).send();
        assert_eq!(nobody.verdict(), (401, "unauthorized".into()), "{headers:?}");
    }
    let made = running.request("MKCALENDAR", "/bob/plans/").basic("api_key", secret("BOB_TOKEN"));
    assert_eq!(made.header("X_Remote_User", "alice").send().status, 201, "bob's own");
    // This is what the recipe keeps clients from: whoever reaches Radicale itself is whom they say.
    let direct = Request::new(radicale.address, "GET", "/alice/plans/tea.ics");
    assert_eq!(direct.header("X_Remote_User", "alice").header("connection", "close").send().status, 200);
}

#[test]
fn the_readme_shows_what_happens() {
    let radicale = Radicale::start(2);
    start(&radicale).play();
}
