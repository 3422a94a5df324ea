//! oidc-provider-mock: a second provider of OpenID Connect, on Authlib, for one test alone.
//!
//! Its page asks for a `sub` and has the buttons "Authorize" and "Deny" (`action=deny`).  Whoever has no claims yet logs in
//! all the same.  It knows no PKCE, which it passes over, tells its people's claims in the ID token and by userinfo, and
//! does not say `state` when somebody denies.

use std::net::SocketAddr;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use url::Url;

use super::http1::Request;
use super::log::Log;
use super::tools;
use super::visitor::Visitor;

/// A running provider; it dies with this value.
pub struct OidcProviderMock {
    child: Child,
    address: SocketAddr,
}

/// A client that it knows.
pub struct RegisteredClient {
    pub client_id: String,
    pub client_secret: String,
}

impl OidcProviderMock {
    /// One with these people: a list of their claims, with `sub`.
    pub fn start(people: &[Value]) -> Self {
        let mut command = tools::python_with("oidc-provider-mock");
        command.args(["-m", "oidc_provider_mock", "--port", "0", "--require-registration", "true"]);
        for claims in people {
            command.arg("--user-claims").arg(claims.to_string());
        }
        command.env("PYTHONUNBUFFERED", "1").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let log = Log::of("oidc-provider-mock", &mut child);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut provider = Self { child, address: nowhere };
        provider.address = log.wait_for("saying where it runs", |line| {
            let (_, address) = line.split_once("running on http://")?;
            address.split(' ').next()?.parse().ok()
        });
        provider
    }

    /// What `issuer` says.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a client known that has these redirect URIs.
    pub fn register(&self, redirect_uris: &[&str]) -> RegisteredClient {
        let body = json!({"redirect_uris": redirect_uris}).to_string().into_bytes();
        let request = Request::new(self.address, "POST", "/oauth2/clients");
        let answer = request.header("content-type", "application/json").body(body).send();
        assert_eq!(answer.status, 201, "{}", answer.text());
        let client = answer.json();
        let text = |member: &str| client[member].as_str().expect("a text").to_owned();
        RegisteredClient { client_id: text("client_id"), client_secret: text("client_secret") }
    }

    /// Opens the address at which a log-in begins, and logs in there as this person: the address, at the client, to which
    /// that leads.
    #[track_caller]
    pub fn log_in(&self, authorization_url: &str, sub: &str) -> Url {
        Visitor::fill_in(self.address, authorization_url, &[("sub", sub)])
    }

    /// The same for somebody who denies it.
    #[track_caller]
    pub fn deny(&self, authorization_url: &str) -> Url {
        Visitor::fill_in(self.address, authorization_url, &[("action", "deny")])
    }
}

impl Drop for OidcProviderMock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
