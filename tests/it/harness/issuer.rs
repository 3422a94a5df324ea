//! A server that issues keys, and whoever manages them with a token of its configuration.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::grpc::Checks;
use super::http1::Answer;
pub use super::http1::Request;
use super::server::Server;

/// The token that manages keys.
pub const ROOT: &str = "root-token-0123456789";

/// A server with an admin listener.
pub struct Issuer {
    pub server: Server,
    pub admin: SocketAddr,
}

/// The configuration of a server that keeps keys there.
pub fn config(store: &str) -> String {
    format!(
        "keys: {{store: \"{store}\"}}
admin: {{listen: \"127.0.0.1:0\"}}
tokens:
- {{token: {ROOT}, name: root, actor: {{id: root, role: Admin}}}}
default: {{allow: {{role: [Viewer, Editor, Admin]}}}}
"
    )
}

impl Issuer {
    /// One that keeps its keys there; it serves once it read them.
    pub fn start(store: &str) -> Self {
        Self::of(Server::with(&config(store)).start())
    }

    pub fn of(server: Server) -> Self {
        let admin = server.admin();
        Self { server, admin }
    }

    /// A connection on which Checks are asked.
    pub fn checks(&self) -> Checks {
        Checks::of(&self.server)
    }

    /// A new key: its id and its token.
    #[track_caller]
    pub fn create(&self, name: &str) -> (i64, String) {
        made(&create(self.admin, name).send())
    }

    #[track_caller]
    pub fn revoke(&self, id: i64) {
        let answer = revoke(self.admin, id).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Every key, dead or alive.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let answer = get(self.admin, "/api/auth/keys?includeExpired=true").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().as_array().expect("a list").clone()
    }
}

pub fn get(admin: SocketAddr, path: &str) -> Request {
    Request::new(admin, "GET", path).bearer(ROOT)
}

pub fn create(admin: SocketAddr, name: &str) -> Request {
    post(admin, "/api/auth/keys", &json!({"name": name, "role": "Viewer"}))
}

pub fn rotate(admin: SocketAddr, id: i64, overlap_seconds: i64) -> Request {
    post(admin, &format!("/api/auth/keys/{id}/rotate"), &json!({"overlapSeconds": overlap_seconds}))
}

pub fn revoke(admin: SocketAddr, id: i64) -> Request {
    post(admin, &format!("/api/auth/keys/{id}/revoke"), &json!({}))
}

fn post(admin: SocketAddr, path: &str, body: &Value) -> Request {
    let request = Request::new(admin, "POST", path).bearer(ROOT);
    request.header("content-type", "application/json").body(body.to_string().into_bytes())
}

/// The id and the token of a key that was made or rotated.
#[track_caller]
pub fn made(answer: &Answer) -> (i64, String) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    (body["id"].as_i64().expect("an id"), body["key"].as_str().expect("a token").to_owned())
}
