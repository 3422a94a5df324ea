//! oidc-provider: a provider of OpenID Connect, certified by the OpenID Foundation, for one test alone.
//!
//! Its page asks for a name and has the buttons "Log in" (`answer=log-in`) and "Deny" (`answer=deny`).  Whoever has one of
//! the names that the test gave logs in; there are no passwords.  It wants PKCE of every client, and signs by RS256 unless
//! a client's `id_token_signed_response_alg` says ES256, EdDSA or PS256.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use super::log::Log;
use super::tools;
use super::visitor::Visitor;

/// A running provider; it dies with this value.
pub struct OidcProvider {
    folder: TempDir,
    address: SocketAddr,
    settings: Value,
    child: Mutex<Option<Child>>,
}

impl OidcProvider {
    /// One with these clients (`[{"client_id", "client_secret", "redirect_uris", …}]`, the metadata of OpenID Connect
    /// Dynamic Client Registration) and these people (`{"ann": {"email": …, "groups": […]}}`: the claims of each, which
    /// userinfo tells).  A claim that no standard scope tells has a scope of its own name.
    pub fn start(clients: Value, people: Value) -> Self {
        Self::with(json!({"port": 0, "clients": clients, "people": people, "claims_in_id_token": false}))
    }

    /// The same; the ID token tells the claims, too.
    pub fn start_with_claims_in_id_token(clients: Value, people: Value) -> Self {
        Self::with(json!({"port": 0, "clients": clients, "people": people, "claims_in_id_token": true}))
    }

    fn with(settings: Value) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = TempDir::new().expect("a fresh folder");
        let mut provider = Self { folder, address: nowhere, settings, child: Mutex::default() };
        provider.address = provider.resume();
        provider.settings["port"] = json!(provider.address.port());
        provider
    }

    /// What `issuer` says.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, as a machine that is gone.
    pub fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it after [`stop`](Self::stop), at the same address.  It has forgotten all codes, and has other keys.
    pub fn resume(&self) -> SocketAddr {
        let file = self.folder.path().join("settings.json");
        fs::write(&file, self.settings.to_string()).expect("a file in a fresh folder");
        let mut command = Command::new("node");
        command.arg(tools::root().join("tests/it/applications/provider.mjs"));
        command.arg(tools::oidc_provider()).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("node does not start: {error}"));
        let log = Log::of("oidc-provider", &mut child);
        *self.child() = Some(child);
        log.wait_for("saying where it listens", |line| line.strip_prefix("listening on ")?.parse().ok())
    }

    /// Opens the address at which a log-in begins, and logs in there as this person: the address, at the client, to which
    /// that leads.
    #[track_caller]
    pub fn log_in(&self, authorization_url: &str, name: &str) -> Url {
        Visitor::fill_in(self.address, authorization_url, &[("name", name), ("answer", "log-in")])
    }

    /// The same for somebody who denies it.
    #[track_caller]
    pub fn deny(&self, authorization_url: &str) -> Url {
        Visitor::fill_in(self.address, authorization_url, &[("answer", "deny")])
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.stop();
    }
}
