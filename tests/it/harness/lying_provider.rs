//! A provider that does what no honest one does: what it answers at each of its paths, and what it signs, is the test's
//! own.  It answers log-ins with the code [`CODE`], and counts and keeps what it was asked.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::MAX_WAIT;
use super::http1::{read_body, read_head};
use super::pki::Pair;

pub const DOCUMENT: &str = "/.well-known/openid-configuration";
pub const KEYS: &str = "/jwks";
pub const TOKEN: &str = "/token";
pub const USERINFO: &str = "/userinfo";
pub const API: &str = "/api";

/// Secrets, none of which may stand in an error.
pub const CODE: &str = "code-that-nobody-may-see";
pub const ACCESS_TOKEN: &str = "access-token-that-nobody-may-see";

/// What is answered at a path.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status 200 and this JSON.
    Json(Value),
    /// Another status and this JSON.
    Status(u16, Value),
    /// Status 200, this media type and these bytes.
    Body(&'static str, Vec<u8>),
    /// A redirect to this address.
    Redirect(String),
    /// These bytes, as they are, and then the end of the connection.
    Bytes(Vec<u8>),
    /// The connection ends at once.
    Nothing,
    /// Nothing, for ever.
    Silence,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A running provider; it ends with this value.
pub struct LyingProvider {
    address: SocketAddr,
    is_https: bool,
    shared: Arc<Shared>,
}

struct Shared {
    replies: Mutex<HashMap<String, Reply>>,
    asked: Mutex<Vec<Asked>>,
    /// Connections on which nothing is ever said.
    silent: Mutex<Vec<TcpStream>>,
    tls: Option<Arc<ServerConfig>>,
    ended: AtomicBool,
}

impl LyingProvider {
    /// One that answers status 404 everywhere but at its document.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// The same by https, with this certificate.
    pub fn start_certified(pair: &Pair) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Self::with(Some(Arc::new(config.unwrap())))
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            replies: Mutex::default(),
            asked: Mutex::default(),
            silent: Mutex::default(),
            tls,
            ended: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                let theirs = Arc::clone(&theirs);
                thread::spawn(move || theirs.serve(client));
            }
        });
        let provider = Self { address, is_https: shared.tls.is_some(), shared };
        provider.reply(DOCUMENT, Reply::Json(provider.document()));
        provider
    }

    /// What `issuer` says.
    pub fn issuer(&self) -> String {
        self.url("")
    }

    /// The address of one of its paths.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        // Its certificate is for a name.
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    /// An honest document.
    pub fn document(&self) -> Value {
        json!({
            "issuer": self.issuer(),
            "authorization_endpoint": self.url("/authorize"),
            "token_endpoint": self.url(TOKEN),
            "jwks_uri": self.url(KEYS),
            "userinfo_endpoint": self.url(USERINFO),
            "code_challenge_methods_supported": ["S256"],
        })
    }

    /// From now on this is the answer at this path.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.shared.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// The token endpoint gives this ID token, and [`ACCESS_TOKEN`].
    pub fn give(&self, id_token: &str) {
        let answer = json!({"id_token": id_token, "access_token": ACCESS_TOKEN, "token_type": "Bearer"});
        self.reply(TOKEN, Reply::Json(answer));
    }

    /// What it was asked at this path.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.path == path).cloned().collect()
    }
}

impl Drop for LyingProvider {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes whoever waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(MAX_WAIT));
        let kept = stream.try_clone().expect("another handle of a socket");
        match &self.tls {
            None => self.answer(stream, kept),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("a good configuration");
                self.answer(StreamOwned::new(connection, stream), kept);
            }
        }
    }

    fn answer(&self, stream: impl Read + Write, kept: TcpStream) {
        let mut stream = BufReader::new(stream);
        let Some(head) = read_head(&mut stream) else {
            return;
        };
        let body = read_body(&mut stream, &head, false).unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let first = text(&head.first);
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let headers = head.lines.iter().map(|(name, value)| (text(name), text(value))).collect();
        self.asked.lock().unwrap().push(Asked {
            method: method.to_owned(),
            path: path.clone(),
            headers,
            body: text(&body),
        });
        let reply = self.replies.lock().unwrap().get(&path).cloned();
        let json = |status: u16, body: &Value| whole(status, "application/json", body.to_string().as_bytes());
        let bytes = match reply.unwrap_or(Reply::Status(404, json!({}))) {
            Reply::Json(body) => json(200, &body),
            Reply::Status(status, body) => json(status, &body),
            Reply::Body(media_type, body) => whole(200, media_type, &body),
            Reply::Redirect(location) => {
                format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
                    .into_bytes()
            }
            Reply::Bytes(bytes) => bytes,
            Reply::Nothing => return,
            Reply::Silence => {
                self.silent.lock().unwrap().push(kept);
                return;
            }
        };
        // Whoever hung up early has what they wanted.
        let _ = stream.get_mut().write_all(&bytes);
        let _ = stream.get_mut().flush();
    }
}

fn whole(status: u16, media_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A key by which ID tokens are signed.
pub struct SigningKey {
    key: PrivateKey,
    /// The public key, without `kid`.
    public: Value,
}

enum PrivateKey {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    pub fn rs256() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // `RSAPublicKey` (RFC 8017, appendix A.1.1): 9 bytes before 256 of the modulus.
        let modulus = encoded(&pair.public_key().as_ref()[9..265]);
        Self { key: PrivateKey::Rsa(pair), public: json!({"kty": "RSA", "n": modulus, "e": "AQAB"}) }
    }

    pub fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let public = json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)});
        Self { key: PrivateKey::P256(pair), public }
    }

    pub fn eddsa() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref())});
        Self { key: PrivateKey::Ed25519(pair), public }
    }

    /// The public key as a set of keys has it.
    pub fn public(&self, kid: &str) -> Value {
        let mut public = self.public.clone();
        public["kid"] = json!(kid);
        public
    }

    /// The public key without an id.
    pub fn anonymous(&self) -> Value {
        self.public.clone()
    }

    /// The bytes of the public key, for whoever takes them for a secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        let text = ["n", "x"].iter().find_map(|member| self.public[*member].as_str()).expect("a public key");
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// The value of `alg` of its tokens.
    pub fn algorithm(&self) -> &'static str {
        match &self.key {
            PrivateKey::Rsa(_) => "RS256",
            PrivateKey::P256(_) => "ES256",
            PrivateKey::Ed25519(_) => "EdDSA",
        }
    }

    /// A token of these claims.
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        self.sign_with(&json!({"alg": self.algorithm(), "kid": kid}), claims)
    }

    /// A token with this header, signed as always, whatever the header says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = match &self.key {
            PrivateKey::Rsa(pair) => rsa(pair, &RSA_PKCS1_SHA256, &message),
            PrivateKey::P256(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            PrivateKey::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(&signature))
    }

    /// The same of an RSA key by another algorithm of RSA.
    pub fn sign_by(&self, algorithm: &'static dyn RsaEncoding, header: &Value, claims: &Value) -> String {
        let PrivateKey::Rsa(pair) = &self.key else {
            panic!("no RSA key");
        };
        let message = message(header, claims);
        format!("{message}.{}", encoded(&rsa(pair, algorithm, &message)))
    }
}

/// A token that a secret authenticates by HS256.
pub fn authenticated(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encoded(tag.as_ref()))
}

/// A token without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.", message(header, claims))
}

fn rsa(pair: &RsaKeyPair, algorithm: &'static dyn RsaEncoding, message: &str) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(algorithm, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    signature
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()))
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
