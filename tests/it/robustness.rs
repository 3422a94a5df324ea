//! Whoever is slow, silent or gone harms nobody else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;

use crate::harness::server::{BINARY, ListenAddress};
use crate::harness::{MAX_WAIT, Server, grpc};

const CONFIG: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n";
const BEARER: (&str, &str) = ("authorization", "Bearer alice-token-0123456789");

fn passes(server: &Server) -> bool {
    grpc::code(&grpc::check(server, grpc::request("GET", "h", "/", &[BEARER]))) == 0
}

/// A process that ends with the test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = (folder.path().join("config.yaml"), folder.path().join("s"));
    let listeners = "ext_authz: {listen: \"unix:s\"}\nprobes: {listen: \"unix:p\"}\n";
    std::fs::write(&config, format!("{listeners}{CONFIG}")).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--drain=0s", "--log-format=json", "--config"]).arg(&config);
    // The pipe holds a few hundred lines, and nobody takes one out of it.
    let mut server = Killed(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());

    let listen_address = ListenAddress::Unix(socket);
    let answered = grpc::block_on(async {
        let begun = Instant::now();
        let channel = loop {
            match grpc::channel(&listen_address).await {
                Ok(channel) => break channel,
                Err(error) => assert!(begun.elapsed() < MAX_WAIT, "{error}"),
            }
        };
        let mut client = AuthorizationClient::new(channel);
        for number in 0..3000 {
            let request = grpc::request("GET", "h", "/", &[BEARER]);
            let answer = client.check(request).await;
            assert!(answer.is_ok(), "Check {number}: {answer:?}");
        }
        3000
    });
    assert_eq!(answered, 3000);
    crate::harness::server::signal("-TERM", server.0.id());
    assert!(server.0.wait().unwrap().success(), "it ends although nobody reads its last words");
}

#[test]
fn a_message_that_does_not_arrive_is_not_waited_for_beyond_the_deadline() {
    let server = Server::with(CONFIG).start();
    let address = server.tcp();
    let status = grpc::block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request =
            http::Request::post(format!("http://h{}", "/envoy.service.auth.v3.Authorization/Check"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", "200m");
        let mut client = client.ready().await.unwrap();
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        // The prefix announces four bytes, of which one comes and the stream stays open.
        body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\x04a"), false).unwrap();
        let mut answer = tokio::time::timeout(MAX_WAIT, answer).await.expect("an answer").unwrap();
        let trailers = answer.body_mut().trailers().await.unwrap().expect("trailers");
        trailers["grpc-status"].to_str().unwrap().to_owned()
    });
    assert_eq!(status, "4", "DEADLINE_EXCEEDED");
    assert!(passes(&server));
}

#[test]
fn a_connection_that_says_nothing_is_closed_and_holds_up_no_shutdown() {
    let mut server = Server::with(CONFIG).arg("--drain=0s").start();
    let mut silent = TcpStream::connect(server.tcp()).unwrap();
    assert!(passes(&server));
    server.terminate();
    // Its end is heard at once, and not after the time that open requests are given.
    silent.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let heard = silent.read(&mut [0; 1]);
    let closed = match &heard {
        Ok(length) => *length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    };
    assert!(closed, "{heard:?}");
    assert!(server.wait().success());

    let server = Server::with(CONFIG).start();
    let mut silent = TcpStream::connect(server.tcp()).unwrap();
    silent.set_read_timeout(Some(MAX_WAIT)).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).expect("closed within the time-out of this test"), 0);
    assert!(passes(&server));
}

#[test]
fn an_old_instance_leaves_its_successors_socket_alone() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listen = format!("unix:{}", socket.display());
    let mut old = Server::with(CONFIG).listen(listen.as_str()).arg("--drain=0s").start();
    std::fs::remove_file(&socket).unwrap();
    let new = Server::with(CONFIG).listen(listen.as_str()).start();
    old.terminate();
    old.wait();
    assert!(socket.exists());
    assert!(passes(&new));
}

#[test]
fn bytes_that_are_no_http_2_end_a_connection_and_nothing_else() {
    let server = Server::with(CONFIG).start();
    for bytes in [
        b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish",
        &[0; 100],
    ] {
        let mut stream = TcpStream::connect(server.tcp()).unwrap();
        stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // It is closed or reset; what it says before that does not matter.
        let _ = stream.read_to_end(&mut answer);
        assert!(passes(&server), "{}", bytes.escape_ascii());
    }
}
