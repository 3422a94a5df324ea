//! TLS and mTLS: on ext_authz with a real Envoy, on admin with a real curl and our own commands.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use envoy_auth_tokens::config::{Config, Listen};
use envoy_auth_tokens::server::Listener;
use envoy_auth_tokens::server::tls::Acceptors;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::harness::envoy::{self, Envoy};
use crate::harness::pki::{Ca, Pair};
use crate::harness::server::{BINARY, Ran, Setup, run};
use crate::harness::{MAX_WAIT, Server, Shape, Stack, Upstream, grpc, tools, wait_until};

const ALICE: &str = "alice-token-0123456789";
const ENVOY: &str = "spiffe://example.org/envoy";
const HOST: &str = "ext-authz.local";

const MUTUAL: &str = "
ext_authz:
  listen: 127.0.0.1:0
  tls: {cert: server.crt, key: server.key, client_ca: ca.crt, client_names: ['spiffe://example.org/envoy', envoy.example]}
probes: {listen: '127.0.0.1:0'}
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
";

/// A server with a certificate of this authority for [`HOST`], which asks for certificates of the same.
fn mutual(ca: &Ca) -> Setup {
    configured(MUTUAL, ca)
}

fn configured(config: &str, ca: &Ca) -> Setup {
    let Pair { cert, key } = ca.issue(&[HOST, "127.0.0.1"]);
    let setup = Server::with(config).own_listeners();
    setup.file("server.crt", &cert).file("server.key", &key).file("ca.crt", &ca.pem())
}

/// Envoy's `common_tls_context`: it trusts this authority and shows this certificate.
fn context(ca: &Ca, shows: Option<&Pair>) -> Value {
    let mut context = json!({
        "validation_context": {
            "trusted_ca": { "inline_string": ca.pem() },
            "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": HOST } }],
        },
    });
    if let Some(Pair { cert, key }) = shows {
        context["tls_certificates"] = json!([{
            "certificate_chain": { "inline_string": cert },
            "private_key": { "inline_string": key },
        }]);
    }
    context
}

#[test]
fn envoy_and_we_show_each_other_certificates() {
    let ca = Ca::new("the CA");
    for name in [ENVOY, "envoy.example"] {
        let shows = ca.issue(&["another.example", name]);
        let setup = mutual(&ca);
        let key = std::fs::read_to_string(setup.folder().join("server.key")).unwrap();
        let stack = Stack::shaped(setup, Shape::plain().tls(context(&ca, Some(&shows))));
        assert_eq!(stack.get("/").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"], "{name}");
        assert_eq!(stack.get("/").send().status, 401);
        let metrics = stack.server.metrics();
        let line =
            metrics.lines().find(|line| line.contains("certificate_expiry_timestamp_seconds{")).unwrap();
        assert!(line.contains("listener=\"ext_authz\""), "{line}");
        let expiry: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(expiry > 4_000_000_000.0, "{line}");
        let secret = key.lines().nth(1).unwrap();
        assert!(!stack.server.log().text().contains(secret));
    }
}

#[test]
fn an_envoy_that_is_not_the_one_we_know_gets_no_answer_and_nobody_passes() {
    let (ca, other) = (Ca::new("the CA"), Ca::new("another CA"));
    let stranger = ca.issue(&["spiffe://example.org/envoys", "ENVOY.example", "x.envoy.example"]);
    // Not a host's name, whatever it says.
    let nameless = ca.issue(&[]);
    for (shows, why) in [
        (None, "the client presents no certificate"),
        (Some(other.issue(&[ENVOY])), "not signed by a CA of `client_ca`"),
        (Some(stranger), "it has spiffe://example.org/envoys, ENVOY.example, x.envoy.example"),
        (Some(nameless), "one of `client_names`; it has none"),
    ] {
        let shape = Shape::plain().tls(context(&ca, shows.as_ref()));
        let stack = Stack::shaped(mutual(&ca), shape).expecting_errors();
        let answer = stack.get("/").bearer(ALICE).send();
        assert_eq!(answer.status, 403, "{why}: Envoy's own answer to an error");
        assert_eq!(stack.upstream.calls(), 0);
        assert!(stack.envoy.stat("error") >= 1, "{why}");
        stack.server.log().wait_for(why, |line| line.contains(why).then_some(()));
    }
    // And Envoy asks nobody but a server of the right name.
    let shape = Shape::plain().tls(context(&other, Some(&ca.issue(&[ENVOY]))));
    let stack = Stack::shaped(mutual(&ca), shape).expecting_errors();
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 403);
    assert_eq!(stack.upstream.calls(), 0);
}

/// Connects and makes a handshake, which in TLS 1.3 succeeds for a client before its certificate is looked at.
async fn handshake(
    to: SocketAddr,
    client: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let stream = tokio::net::TcpStream::connect(to).await?;
    TlsConnector::from(client).connect(ServerName::try_from(HOST).unwrap(), stream).await
}

/// Asks whether Alice may pass; `Err` is that no answer came.
fn check(to: SocketAddr, client: &Arc<ClientConfig>) -> Result<bool, String> {
    CheckConnection::connect(to, client)?.check()
}

/// A client on a connection that it keeps.
struct CheckConnection {
    runtime: tokio::runtime::Runtime,
    client: AuthorizationClient<Channel>,
}

impl CheckConnection {
    fn connect(to: SocketAddr, client: &Arc<ClientConfig>) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Arc::clone(client);
        let mut connected = false;
        // Whoever loses this connection gets no other one in its place.
        let connect = tower::service_fn(move |_| {
            let again = std::mem::replace(&mut connected, true);
            let client = Arc::clone(&client);
            async move {
                if again {
                    return Err(ErrorKind::NotConnected.into());
                }
                handshake(to, client).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://ext-authz.local").timeout(MAX_WAIT);
        let channel = runtime.block_on(endpoint.connect_with_connector(connect));
        let channel = channel.map_err(|error| format!("{error:?}"))?;
        Ok(Self { runtime, client: AuthorizationClient::new(channel) })
    }

    fn check(&mut self) -> Result<bool, String> {
        let bearer = format!("Bearer {ALICE}");
        let request = grpc::request("GET", "h", "/", &[("authorization", &bearer)]);
        let answer = self.runtime.block_on(self.client.check(request));
        answer.map(|answer| grpc::code(&answer.into_inner()) == 0).map_err(|error| format!("{error:?}"))
    }
}

#[test]
fn a_client_need_not_name_its_protocol_and_must_not_name_another() {
    let ca = Ca::new("the CA");
    let server = mutual(&ca).start();
    let shows = ca.issue(&[ENVOY]);
    for (alpn, answered) in
        [(&["h2"][..], true), (&["http/1.1", "h2"], true), (&[], true), (&["http/1.1"], false)]
    {
        let answer = check(server.tcp(), &ca.client(Some(&shows), alpn));
        assert_eq!(answer.is_ok_and(|passes| passes), answered, "{alpn:?}");
    }
    assert!(check(server.tcp(), &ca.client(None, &["h2"])).is_err());
    // Nobody asks a client for anything where there is no `client_ca`.
    let open = MUTUAL
        .replace(", client_ca: ca.crt, client_names: ['spiffe://example.org/envoy', envoy.example]", "");
    let server = configured(&open, &ca).start();
    assert_eq!(check(server.tcp(), &ca.client(None, &["h2"])), Ok(true));
}

/// Reads until the connection is closed or reset.
#[track_caller]
fn is_closed(stream: &mut TcpStream, max_wait: Duration) -> Vec<u8> {
    stream.set_read_timeout(Some(max_wait)).unwrap();
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => heard,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => heard,
        Err(error) => panic!("the connection is open: {error}"),
    }
}

#[test]
fn who_speaks_no_tls_or_nothing_is_not_waited_for_by_anybody() {
    let ca = Ca::new("the CA");
    let mut server = mutual(&ca).arg("--drain=0s").start();
    let client = ca.client(Some(&ca.issue(&[ENVOY])), &["h2"]);
    let mut silent = TcpStream::connect(server.tcp()).unwrap();
    let mut slow = TcpStream::connect(server.tcp()).unwrap();
    // The first half of a handshake's first record.
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",
        &[0; 100],
        &[0xff; 20_000],
    ] {
        let mut stream = TcpStream::connect(server.tcp()).unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        let heard = is_closed(&mut stream, MAX_WAIT);
        assert!(!heard.windows(4).any(|window| window == b"HTTP"), "{}", heard.escape_ascii());
        assert_eq!(check(server.tcp(), &client), Ok(true));
    }
    server
        .log()
        .wait_for("that it does not speak TLS", |line| line.contains("does not speak TLS").then_some(()));
    is_closed(&mut slow, MAX_WAIT);
    is_closed(&mut silent, MAX_WAIT);
    assert_eq!(check(server.tcp(), &client), Ok(true));
    // The log is not filled by whoever tries again and again.
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.tcp()).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        is_closed(&mut stream, MAX_WAIT);
    }
    let lines = server.log().lines();
    let problems = lines.iter().filter(|line| line.contains("TLS handshake failed")).count();
    assert!((1..50).contains(&problems), "{problems}");

    let mut silent = TcpStream::connect(server.tcp()).unwrap();
    assert_eq!(check(server.tcp(), &client), Ok(true));
    server.terminate();
    is_closed(&mut silent, MAX_WAIT);
    assert!(server.wait().success());
}

#[test]
fn tls_on_a_plain_port_is_no_answer() {
    let ca = Ca::new("the CA");
    let server = Server::with("tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n").start();
    assert!(check(server.tcp(), &ca.client(None, &["h2"])).is_err());
    let bearer = format!("Bearer {ALICE}");
    let request = grpc::request("GET", "h", "/", &[("authorization", &bearer)]);
    assert_eq!(grpc::code(&grpc::check(&server, request)), 0);
    // Nor does an Envoy let anybody pass that was told of TLS while we were not.
    let shape = Shape::plain().tls(context(&ca, None));
    let setup = Server::with("tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n");
    let stack = Stack::shaped(setup, shape).expecting_errors();
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 403);
    assert_eq!(stack.upstream.calls(), 0);
}

/// Writes the files of [`MUTUAL`] and reads them as a reload does.
fn load(folder: &Path, server: &Pair, clients: &Ca) -> Config {
    let files = [("config.yaml", MUTUAL), ("server.crt", &server.cert), ("server.key", &server.key)];
    for (name, text) in files.into_iter().chain([("ca.crt", clients.pem().as_str())]) {
        std::fs::write(folder.join(name), text).unwrap();
    }
    Config::load(&folder.join("config.yaml")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn shown(stream: &TlsStream<tokio::net::TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_and_another_client_ca_count_from_the_next_connection_on() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (first.issue(&[HOST]), first.issue(&[HOST]));

    let acceptors = Acceptors::new(&load(folder.path(), &old, &first).tls);
    let listen: Listen = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&listen).await.unwrap();
    let Listen::Tcp(address) = listener.address(&listen) else { panic!("a TCP address was given") };
    let acceptor = Arc::clone(acceptors.ext_authz.as_ref().unwrap());
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await;
            let acceptor = Arc::clone(&acceptor);
            // An echo.
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).await.is_ok() {
                    stream.write_all(&byte).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    let echo = async |stream: &mut TlsStream<tokio::net::TcpStream>| -> std::io::Result<u8> {
        stream.write_all(b"e").await?;
        stream.flush().await?;
        tokio::time::timeout(MAX_WAIT, stream.read_u8()).await.expect("an echo, or the end")
    };

    // One client for all its connections, so that it could resume a session.
    let known_to_first = first.client(Some(&first.issue(&[ENVOY])), &["h2"]);
    let known_to_second = first.client(Some(&second.issue(&[ENVOY])), &["h2"]);
    let mut open = handshake(address, Arc::clone(&known_to_first)).await.unwrap();
    assert_eq!(shown(&open), der(&old));
    assert_eq!(echo(&mut open).await.unwrap(), b'e');

    acceptors.replace(&load(folder.path(), &new, &second).tls);
    let mut after = handshake(address, Arc::clone(&known_to_second)).await.unwrap();
    assert_eq!(shown(&after), der(&new));
    assert_eq!(echo(&mut after).await.unwrap(), b'e');
    assert_eq!(echo(&mut open).await.unwrap(), b'e', "what was open lives on");
    let refused = match handshake(address, known_to_first).await {
        Ok(mut stream) => echo(&mut stream).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "the CA that signed this client counts no more");
    // A configuration without TLS leaves the listener what it has.
    acceptors.replace(&envoy_auth_tokens::config::Tls::default());
    let again = handshake(address, known_to_second).await.unwrap();
    assert_eq!(shown(&again), der(&new));
}

/// The file of a certificate that another one is to replace, by a rename as careful programs do.
fn replace(server: &Server, name: &str, text: &str) {
    let new = server.folder().join("being-written");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, server.folder().join(name)).unwrap();
}

/// A sample of `/metrics`.
fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.metrics();
    let name = format!("envoy_auth_tokens_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}in {metrics}"))
}

/// Does something that must lead to another reload with this result.
#[track_caller]
fn reloaded(server: &Server, result: &str, change: impl FnOnce()) {
    let count = || metric(server, &format!("config_reload_total{{result=\"{result}\"}}"));
    let before = count();
    change();
    wait_until(&format!("a reload with {result}"), || count() > before);
}

/// The certificate that a new connection is shown.
fn presented(server: &Server, client: &Arc<ClientConfig>) -> Vec<u8> {
    grpc::block_on(async { shown(&handshake(server.tcp(), Arc::clone(client)).await.unwrap()) })
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap().to_vec()
}

/// When the certificate on ext_authz expires, by the metric: the beginning of this year.
fn assert_expires(server: &Server, year: i16) {
    let expires_at = metric(server, "certificate_expiry_timestamp_seconds{listener=\"ext_authz\"}");
    let expected = jiff::civil::date(year, 1, 1).to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    assert_eq!(expires_at, expected.timestamp().as_second() as f64, "{year}");
}

#[test]
fn a_new_certificate_is_served_after_a_reload() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let (old, new) = (first.issue_until(&[HOST], 2101), first.issue_until(&[HOST], 2102));
    let setup = Server::with(MUTUAL).own_listeners();
    let setup = setup.file("server.crt", &old.cert).file("server.key", &old.key);
    let server = setup.file("ca.crt", &first.pem()).start();
    let known_to_first = first.client(Some(&first.issue(&[ENVOY])), &["h2"]);
    let known_to_second = first.client(Some(&second.issue(&[ENVOY])), &["h2"]);
    let mut open = CheckConnection::connect(server.tcp(), &known_to_first).unwrap();
    assert_eq!(open.check(), Ok(true));
    assert_eq!(presented(&server, &known_to_first), der(&old));
    assert_expires(&server, 2101);

    // The certificate has come and its key has not: what was served is served.
    reloaded(&server, "failure", || replace(&server, "server.crt", &new.cert));
    assert_eq!(metric(&server, "config_last_reload_successful"), 0.0);
    let complaint = |line: &str| line.contains("was not reloaded").then(|| line.to_owned());
    let line = server.log().wait_for("a reload that was denied", complaint);
    assert!(line.contains("ext_authz.tls.key") && line.contains("does not fit the certificate"), "{line}");
    assert_eq!(presented(&server, &known_to_first), der(&old));
    assert_expires(&server, 2101);
    // Then its key.
    reloaded(&server, "success", || replace(&server, "server.key", &new.key));
    assert_eq!(presented(&server, &known_to_first), der(&new));
    assert_eq!(metric(&server, "config_last_reload_successful"), 1.0);
    assert_expires(&server, 2102);
    assert_eq!(check(server.tcp(), &known_to_first), Ok(true));
    assert_eq!(open.check(), Ok(true), "what was open lives on");

    // Another CA of the clients.
    assert!(check(server.tcp(), &known_to_second).is_err());
    reloaded(&server, "success", || replace(&server, "ca.crt", &second.pem()));
    assert_eq!(check(server.tcp(), &known_to_second), Ok(true));
    let refused = check(server.tcp(), &known_to_first);
    assert!(refused.is_err(), "the CA that signed this client counts no more: {refused:?}");
    assert_eq!(open.check(), Ok(true), "what was open lives on");
    assert_eq!(presented(&server, &known_to_second), der(&new));
    for secret in [&old.key, &new.key].map(|key| key.lines().nth(1).unwrap()) {
        assert!(!server.log().text().contains(secret));
    }
}

#[test]
fn a_dead_certificate_never_replaces_one_that_is_valid() {
    let ca = Ca::new("the CA");
    let (live, dead, next) =
        (ca.issue_until(&[HOST], 2101), ca.issue_until(&[HOST], 2001), ca.issue_until(&[HOST], 2102));
    let setup = Server::with(MUTUAL).own_listeners();
    let setup = setup.file("server.crt", &live.cert).file("server.key", &live.key);
    let server = setup.file("ca.crt", &ca.pem()).start();
    let client = ca.client(Some(&ca.issue(&[ENVOY])), &["h2"]);
    // First the key, which does not fit: the pair is there when the certificate is.
    reloaded(&server, "failure", || replace(&server, "server.key", &dead.key));
    reloaded(&server, "failure", || replace(&server, "server.crt", &dead.cert));
    let complaint = |line: &str| line.contains("the certificate expired at 2001").then(|| line.to_owned());
    let line = server.log().wait_for("what is wrong with the certificate", complaint);
    assert!(line.contains("ext_authz.tls.cert") && line.contains("valid until 2101"), "{line}");
    // Nor is it taken over by force.
    reloaded(&server, "failure", || server.hang_up());
    assert_eq!(presented(&server, &client), der(&live));
    assert_expires(&server, 2101);
    reloaded(&server, "failure", || replace(&server, "server.key", &next.key));
    reloaded(&server, "success", || replace(&server, "server.crt", &next.cert));
    assert_eq!(presented(&server, &client), der(&next));
}

#[test]
fn certificates_of_a_kubernetes_secret_are_swapped_together() {
    let ca = Ca::new("the CA");
    let config = MUTUAL.replace("server.crt", "tls/tls.crt").replace("server.key", "tls/tls.key");
    let setup = Server::with(&config).own_listeners().file("ca.crt", &ca.pem());
    let volume = setup.folder().join("tls");
    let fill = |number: u8, pair: &Pair| {
        let folder = volume.join(format!("..{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &pair.cert).unwrap();
        std::fs::write(folder.join("tls.key"), &pair.key).unwrap();
        symlink(format!("..{number}"), volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    let pairs = [2101, 2102, 2103].map(|year| ca.issue_until(&[HOST], year));
    fill(0, &pairs[0]);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), volume.join(name)).unwrap();
    }
    let server = setup.start();
    let client = ca.client(Some(&ca.issue(&[ENVOY])), &["h2"]);
    let mut open = CheckConnection::connect(server.tcp(), &client).unwrap();
    assert_expires(&server, 2101);
    for (number, year) in [(1, 2102), (2, 2103)] {
        let pair = &pairs[usize::from(number)];
        reloaded(&server, "success", || fill(number, pair));
        std::fs::remove_dir_all(volume.join(format!("..{}", number - 1))).unwrap();
        assert_eq!(presented(&server, &client), der(pair));
        assert_expires(&server, year);
    }
    assert_eq!((open.check(), check(server.tcp(), &client)), (Ok(true), Ok(true)));
    // Nobody ever saw the certificate of one folder with the key of another.
    assert_eq!(metric(&server, "config_reload_total{result=\"failure\"}"), 0.0);
}

#[test]
fn the_probes_show_health_to_clients_without_a_certificate() {
    let ca = Ca::new("the CA");
    let setup = mutual(&ca);
    let down = setup.run(["health"]);
    assert_eq!(down.code(), Some(1), "{down:?}");
    let socket = setup.folder().join("probes.sock");
    let config = MUTUAL.replace("'127.0.0.1:0'}", &format!("'unix:{}'}}", socket.display()));
    let config = config.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:1");
    // A probe that says so, and one that does not.
    for (answer, code) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let _ = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let probes = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).unwrap();
        });
        std::fs::write(setup.folder().join("config.yaml"), &config).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("health").arg("--config").arg(setup.folder().join("config.yaml"));
        let ran = run(command, "");
        assert_eq!(ran.code(), Some(code), "{ran:?}");
        probes.join().unwrap();
    }
}

const ADMIN: &str = "
tokens: [{token: alice-token-0123456789, actor: {id: alice, role: Admin}}]
users: [{username: admin, password: correct-horse-battery, actor: {id: admin, role: Admin}}]
keys: {store: 'sqlite:keys.db'}
ext_authz: {listen: '127.0.0.1:0'}
probes: {listen: '127.0.0.1:0'}
admin: {listen: '127.0.0.1:0', tls: {cert: server.crt, key: server.key}}
";

fn curl(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--include", "--max-time", "60", "--cacert"])
        .arg(folder.join("ca.crt"));
    command.args(arguments);
    run(command, "")
}

#[test]
fn keys_are_managed_over_https_by_curl() {
    let ca = Ca::new("the CA");
    let setup = configured(ADMIN, &ca);
    let folder = setup.folder().to_owned();
    let server = setup.start();
    let url = format!("https://{}", server.admin());
    let page = curl(&folder, &[&url]);
    assert!(page.stdout.starts_with("HTTP/1.1 200"), "{page:?}");

    let login = format!("{url}/login");
    let body = r#"{"user": "admin", "password": "correct-horse-battery"}"#;
    let json = ["-H", "content-type: application/json", "-d", body];
    let came_from = |origin: &str| {
        let origin = format!("origin: {origin}");
        curl(&folder, &[&json[..], &["-H", &origin, &login]].concat())
    };
    let own = came_from(&url);
    assert!(own.stdout.starts_with("HTTP/1.1 200"), "{own:?}");
    let cookie = own.stdout.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.starts_with("__Host-eat_session="), "{cookie}");
    for attribute in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    // The same host, and yet not our page: somebody on the network could have written it.
    let insecure = came_from(&url.replace("https", "http"));
    assert!(insecure.stdout.starts_with("HTTP/1.1 403"), "{insecure:?}");

    let keys = format!("{url}/api/auth/keys");
    let session = format!("cookie: {}", cookie.split(';').next().unwrap());
    let listed = curl(&folder, &["-H", &session, &keys]);
    assert!(listed.stdout.starts_with("HTTP/1.1 200") && listed.stdout.ends_with("[]"), "{listed:?}");
    // The cookie's plain name is nobody's session here.
    let listed = curl(&folder, &["-H", &session.replace("__Host-", ""), &keys]);
    assert!(listed.stdout.starts_with("HTTP/1.1 401"), "{listed:?}");
    let untrusting = run(
        {
            let mut command = Command::new("curl");
            command.args(["--silent", "--max-time", "60", &url]);
            command
        },
        "",
    );
    assert_eq!(untrusting.code(), Some(60), "{untrusting:?}");
    assert!(server.metrics().contains("certificate_expiry_timestamp_seconds{listener=\"admin\"}"));
}

/// Logs the administrator in by a real curl: the `cookie` header of the session.
#[track_caller]
fn log_in(folder: &Path, url: &str) -> String {
    let body = r#"{"user": "admin", "password": "correct-horse-battery"}"#;
    let ran = curl(folder, &["-H", "content-type: application/json", "-d", body, &format!("{url}/login")]);
    // The last one is that of Checks, where they take sessions.
    let cookie = ran.stdout.lines().rev().find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.unwrap_or_else(|| panic!("nobody is logged in: {ran:?}"));
    cookie.split(';').next().unwrap().to_owned()
}

#[test]
fn sessions_count_while_the_admin_listener_waits_for_the_restart_that_gives_or_takes_its_tls() {
    let ca = Ca::new("the CA");
    let sessions = format!("credentials: [bearer, basic, session]{ADMIN}");
    let secure = sessions.replace("admin: {listen", "admin: {public_url: 'https://keys.example', listen");
    let tls = ", tls: {cert: server.crt, key: server.key}";
    for (before, after, scheme, name, renamed) in [
        (sessions.replace(tls, ""), sessions.clone(), "http", "eat_app=", None),
        (sessions.clone(), sessions.replace(tls, ""), "https", "__Host-eat_app=", None),
        // Only the listener waits: what its section says beside it counts at once, on both sides.
        (sessions.replace(tls, ""), secure, "http", "eat_app=", Some("__Host-eat_app=")),
    ] {
        let setup = configured(&before, &ca);
        let folder = setup.folder().to_owned();
        let server = setup.start();
        let url = format!("{scheme}://{}", server.admin());
        let passes = |cookie: &str| {
            let request = grpc::request("GET", "app.example", "/", &[("cookie", cookie)]);
            grpc::code(&grpc::check(&server, request)) == 0
        };
        let old = log_in(&folder, &url);
        assert!(old.starts_with(name) && passes(&old), "{before}");
        reloaded(&server, "success", || std::fs::write(folder.join("config.yaml"), &after).unwrap());
        let warning = |line: &str| line.contains("admin.tls changed: this needs a restart").then_some(());
        server.log().wait_for("what needs a restart", warning);
        let new = log_in(&folder, &url);
        assert!(new.starts_with(renamed.unwrap_or(name)) && passes(&new), "{new} {after}");
        assert_eq!(passes(&old), renamed.is_none(), "{after}");
    }
}

fn keys(url: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.env("ENVOY_AUTH_TOKENS_ADMIN_URL", url).env_remove("SSL_CERT_FILE");
    command.arg("keys").args(arguments).args(["--token-file", "-"]);
    run(command, ALICE)
}

#[test]
fn our_own_commands_speak_https_and_show_a_certificate_where_one_is_required() {
    let ca = Ca::new("the CA");
    let mutual = ADMIN.replace("server.key}", "server.key, client_ca: ca.crt}");
    for (config, asks) in [(ADMIN, false), (mutual.as_str(), true)] {
        let mine = ca.issue(&["me.example"]);
        let setup = configured(config, &ca).file("me.crt", &mine.cert).file("me.key", &mine.key);
        let path = |name: &str| setup.folder().join(name).to_str().unwrap().to_owned();
        let (ca_file, cert, key) = (path("ca.crt"), path("me.crt"), path("me.key"));
        let server = setup.start();
        let url = format!("https://{}", server.admin());
        let trusting = ["list", "--ca-file", &ca_file];
        let showing = [&trusting[..], &["--cert-file", &cert, "--key-file", &key]].concat();
        let ran = keys(&url, &showing);
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(0), "No keys.\n"), "{ran:?}");
        assert_eq!(ran.stderr, "");
        let ran = keys(&url, &trusting);
        assert_eq!(ran.code() == Some(0), !asks, "{ran:?}");

        let stranger = keys(&url, &["list"]);
        assert_eq!(stranger.code(), Some(1), "{stranger:?}");
        assert!(stranger.stderr.contains("--ca-file"), "{stranger:?}");
        let elsewhere = keys(&url.replace("127.0.0.1", "localhost"), &showing);
        assert_eq!(elsewhere.code(), Some(1), "the certificate is for another name: {elsewhere:?}");
        assert!(elsewhere.stderr.contains("error: TLS with https://localhost:"), "{elsewhere:?}");
        let plain = keys(&url.replace("https", "http"), &["list"]);
        assert_eq!(plain.code(), Some(1), "{plain:?}");
        assert!(plain.stderr.contains("that of the admin listener"), "{plain:?}");
        assert!(plain.stderr.contains("if it has TLS, the URL begins with https://"), "{plain:?}");
        let missing = [&trusting[..], &["--cert-file", &cert, "--key-file", "/nowhere/me.key"]].concat();
        let missing = keys(&url, &missing);
        let text = "error: cannot read the private key in /nowhere/me.key: No such file or directory";
        assert!(missing.code() == Some(1) && missing.stderr.starts_with(text), "{missing:?}");
        let swapped = [&trusting[..], &["--cert-file", &cert, "--key-file", &ca_file]].concat();
        let swapped = keys(&url, &swapped);
        assert!(swapped.stderr.contains("has no private key in PEM"), "{swapped:?}");
        let down = keys("https://127.0.0.1:1", &trusting);
        assert!(down.stderr.contains("cannot connect to https://127.0.0.1:1"), "{down:?}");
        // And to a port without TLS.
        let plain = keys(&format!("https://{}", server.probes()), &trusting);
        assert!(
            plain.stderr.contains("if the listener has no TLS, the URL begins with http://"),
            "{plain:?}"
        );
    }
}

#[test]
fn the_mtls_of_the_deployed_envoy_works_when_it_is_uncommented() {
    let ca = Ca::new("the CA");
    let shows = ca.issue(&[ENVOY]);
    let setup = mutual(&ca).file("client.crt", &shows.cert).file("client.key", &shows.key);
    let folder = setup.folder().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(tools::root().join("deploy/envoy.yaml")).unwrap();
    let (before, comment) = text.split_once("    # transport_socket:\n").expect("the commented socket");
    let comment = format!("    # transport_socket:\n{comment}").replace("    # ", "    ");
    let text = format!("{before}{comment}").replace("/etc/envoy", &folder);
    let path = setup.folder().join("envoy.yaml");
    std::fs::write(&path, &text).unwrap();
    envoy::validate(&path).unwrap_or_else(|message| panic!("{message}"));

    let server = setup.start();
    let upstream = Upstream::start();
    let text = text.replace("port_value: 10000", "port_value: 0");
    let text = text.replace("port_value: 8080", &format!("port_value: {}", upstream.address().port()));
    let text = text.replace("port_value: 9191", &format!("port_value: {}", server.tcp().port()));
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    let envoy = Envoy::configured(&format!("{admin}{text}"));
    let get = || crate::harness::Request::new(envoy.address(), "GET", "/");
    assert_eq!(get().bearer(ALICE).send().status, 200);
    assert_eq!(get().send().status, 401);
}

/// What `envoy` prints for the configuration of a server that runs, with these files of Envoy's.
fn printed(server: &Server, arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    command.arg("envoy").arg("--config").arg(server.folder().join("config.yaml"));
    command.args(["--address", &server.tcp().to_string(), "--listen", "127.0.0.1:0"]).args(arguments);
    run(command, "")
}

/// A real Envoy with what `envoy` printed for a server, before this application.
#[track_caller]
fn envoy_as_printed(server: &Server, upstream: &Upstream, arguments: &[&str]) -> Envoy {
    let to = upstream.address().to_string();
    let ran = printed(server, &[&["--upstream", &to], arguments].concat());
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""));
    let file = server.folder().join("envoy.yaml");
    std::fs::write(&file, &ran.stdout).unwrap();
    envoy::validate(&file).unwrap_or_else(|message| panic!("{message}\n{}", ran.stdout));
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    Envoy::configured(&format!("{admin}{}", ran.stdout))
}

#[test]
fn the_printed_envoy_speaks_tls_and_shows_its_certificate_where_it_is_required() {
    let ca = Ca::new("the CA");
    let shows = ca.issue(&[ENVOY]);
    let upstream = Upstream::start();
    let open = MUTUAL
        .replace(", client_ca: ca.crt, client_names: ['spiffe://example.org/envoy', envoy.example]", "");
    let spiffe = "spiffe://example.org/authz";
    for (config, names, kind) in [
        (MUTUAL, &[HOST, "127.0.0.1"][..], "DNS"),
        (MUTUAL, &["*.example", spiffe], "URI"),
        (&open, &["127.0.0.1"], "IP_ADDRESS"),
    ] {
        let Pair { cert, key } = ca.issue(names);
        let setup = Server::with(config).own_listeners().file("server.crt", &cert).file("server.key", &key);
        let setup = setup.file("ca.crt", &ca.pem()).file("envoy.crt", &shows.cert);
        let server = setup.file("envoy.key", &shows.key).start();
        let path = |name: &str| server.folder().join(name).to_str().unwrap().to_owned();
        let (trusts, cert, key) = (path("ca.crt"), path("envoy.crt"), path("envoy.key"));
        let mut arguments = vec!["--tls-ca", &trusts];
        if config == MUTUAL {
            arguments.extend(["--tls-cert", &cert, "--tls-key", &key]);
        }
        assert!(printed(&server, &arguments).stdout.contains(&format!("san_type: {kind},")), "{names:?}");
        let envoy = envoy_as_printed(&server, &upstream, &arguments);
        let get = || crate::harness::Request::new(envoy.address(), "GET", "/");
        assert_eq!(get().bearer(ALICE).send().status, 200, "{names:?}");
        assert_eq!(get().send().status, 401);
        assert_eq!(envoy.stat("error"), 0);
    }
}

#[test]
fn the_printed_envoy_believes_no_other_server_of_the_same_ca() {
    let ca = Ca::new("the CA");
    let upstream = Upstream::start();
    let shows = ca.issue(&[ENVOY]);
    let server = mutual(&ca).file("envoy.crt", &shows.cert).file("envoy.key", &shows.key).start();
    let path = |name: &str| server.folder().join(name).to_str().unwrap().to_owned();
    let (trusts, cert, key) = (path("ca.crt"), path("envoy.crt"), path("envoy.key"));
    let arguments = ["--tls-ca", &trusts, "--tls-cert", &cert, "--tls-key", &key];
    let ran = printed(&server, &arguments);
    // Somebody else of the same CA sits where we sat.
    let Pair { cert, key } = ca.issue(&["another.example", "127.0.0.1"]);
    let setup = Server::with(MUTUAL).own_listeners().file("server.crt", &cert).file("server.key", &key);
    let other = setup.file("ca.crt", &ca.pem()).start();
    let text = ran.stdout.replace(&server.tcp().port().to_string(), &other.tcp().port().to_string());
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    let envoy = Envoy::configured(&format!("{admin}{text}"));
    let answer = crate::harness::Request::new(envoy.address(), "GET", "/").bearer(ALICE).send();
    assert_eq!((answer.status, upstream.calls()), (503, 0), "{answer:?}");
}

#[test]
fn what_the_printed_envoy_cannot_speak_is_said() {
    let ca = Ca::new("the CA");
    let open = MUTUAL
        .replace(", client_ca: ca.crt, client_names: ['spiffe://example.org/envoy', envoy.example]", "");
    let plain = "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n";
    let nameless = ca.issue(&[]);
    let named = || configured(MUTUAL, &ca);
    for (setup, arguments, message) in [
        (
            Server::with(plain),
            &["--tls-ca", "/ca.crt"][..],
            "`ext_authz.tls`, which this configuration does not",
        ),
        (configured(&open, &ca), &["--tls-key", "/a.key"], "need `ext_authz.tls.client_ca`"),
        (
            named().file("server.crt", &nameless.cert).file("server.key", &nameless.key),
            &[],
            "has no subjectAltName",
        ),
    ] {
        let ran = setup.run(["envoy", "--address", "127.0.0.1:9191"].iter().chain(arguments));
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""));
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
    // Where nobody says where Envoy's files are.
    let ran = named().run(["envoy", "--address", "127.0.0.1:9191", "--part", "cluster"]);
    let cluster: Value = serde_saphyr::from_str(&ran.stdout).unwrap();
    let context = &cluster[0]["transport_socket"]["typed_config"]["common_tls_context"];
    assert_eq!(
        (&context["validation_context"]["trusted_ca"], &context["tls_certificates"][0]),
        (
            &json!({"filename": "/etc/envoy/ca.crt"}),
            &json!({
                "certificate_chain": {"filename": "/etc/envoy/client.crt"},
                "private_key": {"filename": "/etc/envoy/client.key"},
            })
        ),
        "{}",
        ran.stdout
    );
}
