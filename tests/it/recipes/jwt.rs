//! People with JWTs beside programs with our tokens.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Recipe, Running, secret};
use crate::harness::Upstream;
use crate::harness::http1::read_head;
use crate::harness::pki::{Ca, Pair};

/// The identity provider's key.
const KEY: &[u8] = b"the identity provider's own key!";

/// An identity provider that shows its key over TLS.  It lives as long as the test program.
fn identity_provider(pair: &Pair) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let keys =
        json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "1", "k": URL_SAFE_NO_PAD.encode(KEY) }] });
    let keys = keys.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{keys}",
        keys.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, stream));
            if read_head(&mut stream).is_some() {
                let _ = stream.get_mut().write_all(answer.as_bytes());
                stream.get_mut().conn.send_close_notify();
                let _ = stream.get_mut().flush();
            }
        }
    });
    address
}

/// A JWT with these claims beside the ones that the recipe wants.
fn jwt(claims: Value, key: &[u8]) -> String {
    let mut all = json!({
        "iss": "https://idp.example.com",
        "aud": "app.example.com",
        "sub": "carol",
        // In the year 2100.
        "exp": 4_102_444_800_u64,
    });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "kid": "1" })), part(&all));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn start(upstream: &Upstream) -> (Running, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().unwrap();
    let ca = Ca::new("the identity provider's CA");
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, ca.pem()).unwrap();
    let idp = identity_provider(&ca.issue(&["idp.example.com"]));
    let recipe = Recipe::named("jwt")
        .envoy(
            "{ address: idp.example.com, port_value: 443 }",
            &format!("{{ address: 127.0.0.1, port_value: {} }}", idp.port()),
        )
        .envoy("/etc/ssl/certs/ca-certificates.crt", file.to_str().unwrap());
    let running = recipe.start_before(upstream);
    (running, folder)
}

#[test]
fn a_good_jwt_or_a_good_token_passes_and_nothing_else_does() {
    let upstream = Upstream::start();
    let (running, _folder) = start(&upstream);
    let carol = jwt(json!({}), KEY);
    let forged = [("x-actor-id", "root"), ("x-jwt-subject", "root"), ("x.jwt.subject", "root")];
    let seen = running.get("/app/x").bearer(&carol).headers(&forged).send().seen();
    assert_eq!(seen.all("x-jwt-subject"), ["carol"]);
    assert!(seen.all("x-actor-id").is_empty() && seen.all("authorization").is_empty(), "{seen:?}");
    assert!(seen.all("x.jwt.subject").is_empty(), "{seen:?}");
    assert_eq!(running.envoy.stat("ok") + running.envoy.stat("denied"), 0, "nobody asked us");

    let seen = running.get("/app/x").bearer(secret("BOT_TOKEN")).headers(&forged).send().seen();
    assert_eq!(seen.all("x-actor-id"), ["my-bot"]);
    assert!(seen.all("x-jwt-subject").is_empty(), "{seen:?}");

    let calls = upstream.calls();
    for (what, token) in [
        ("another key", jwt(json!({}), b"a key of somebody's own, no IdP's")),
        ("expired", jwt(json!({ "exp": 1 }), KEY)),
        ("another issuer", jwt(json!({ "iss": "https://evil.example" }), KEY)),
        ("another audience", jwt(json!({ "aud": "other.example.com" }), KEY)),
        ("without an end", jwt(json!({ "exp": Value::Null }), KEY)),
        ("an unknown token", "wrong-token-0123456789".to_owned()),
    ] {
        let answer = running.get("/app/x").bearer(&token).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{what}");
    }
    assert_eq!(running.get("/app/x").send().verdict(), (401, "unauthorized".into()));
    assert_eq!(upstream.calls(), calls);
}

#[test]
fn what_people_may_do_is_said_by_envoy() {
    let upstream = Upstream::start();
    let (running, _folder) = start(&upstream);
    let carol = jwt(json!({}), KEY);
    assert_eq!(running.get("/elsewhere").bearer(&carol).send().text(), "RBAC: access denied");
    assert_eq!(running.get("/app/../elsewhere").bearer(&carol).send().status, 403);
    assert_eq!(running.get("/elsewhere").bearer(secret("BOT_TOKEN")).send().status, 200);
}

#[test]
fn the_readme_shows_what_happens() {
    let upstream = Upstream::start();
    start(&upstream).0.play();
}
