//! What goes wrong inside Envoy denies whom it concerns, and harms nobody else.

use std::fs;

use http::Request;

use super::{ALICE, CONFIG};
use crate::harness::http1::{self, basic};
use crate::harness::issuer::Issuer;
use crate::harness::{Encoding, Envoy, MAX_WAIT, Server, Shape, Stack, Upstream, grpc, wait_until};

#[test]
fn a_key_is_denied_until_the_store_can_be_read_and_nobody_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let (place, elsewhere) = (folder.path().join("store"), folder.path().join("elsewhere"));
    fs::create_dir(&place).unwrap();
    let store = format!("sqlite:{}", place.join("keys.db").display());
    let issuer = Issuer::start(&store);
    let (_, key) = issuer.create("a");
    drop(issuer);
    fs::rename(&place, &elsewhere).unwrap();

    let server = Server::with(CONFIG).start();
    let with_keys = format!("keys: {{store: '{store}'}}\n{CONFIG}");
    for (what, contents) in
        [("no store", None), ("what is no store", Some("neither a store nor anything else\n"))]
    {
        fs::create_dir(&place).unwrap();
        if let Some(text) = contents {
            fs::write(place.join("keys.db"), text.repeat(1000)).unwrap();
        }
        fs::write(server.config_path(), &with_keys).unwrap();
        let upstream = Upstream::start();
        let envoy = Envoy::start(&Shape::plain().inside(), &server, &upstream);
        let status = |token: &str| {
            http1::Request::new(envoy.address(), "GET", "/").host("app.example").bearer(token).send().status
        };
        assert_eq!(status(&key), 503, "{what}");
        assert_eq!(status("nobody-token-012345678"), 401, "{what}");
        assert_eq!(status(ALICE), 200, "{what}");
        assert_eq!(upstream.calls(), 1, "{what}");
        fs::remove_dir_all(&place).unwrap();
        // Nobody need restart Envoy.
        fs::rename(&elsewhere, &place).unwrap();
        wait_until("the key counts", || status(&key) == 200);
        drop(envoy);
        fs::rename(&place, &elsewhere).unwrap();
    }
}

#[test]
fn tokens_are_answered_inside_while_the_queue_of_passwords_is_full() {
    // Each takes seconds: none of the 64 is done when the next one comes.
    let hash = bcrypt::hash("slow-password", 15).expect("bcrypt");
    let config = format!("{CONFIG}users: [{{username: slow, password_hash: '{hash}'}}]\n");
    let stack = Stack::shaped(Server::with(&config), Shape::plain().inside().workers(2));
    let guess = |number: usize| stack.get("/").basic("slow", &format!("guess-{number}")).send();
    std::thread::scope(|scope| {
        for first in (0..120).step_by(10) {
            let guess = &guess;
            scope.spawn(move || {
                for number in first..first + 10 {
                    // Not one of them is known to be wrong by then.
                    assert_eq!(guess(number).status, 503, "{number}");
                }
            });
        }
    });
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    // The queue is still full: another one is denied as before, the right one too.
    assert_eq!(guess(1000).status, 503);
    assert_eq!(stack.get("/").basic("slow", "slow-password").send().status, 503);
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(stack.upstream.calls(), 2);
}

#[test]
fn a_stream_that_is_reset_while_its_password_is_verified_harms_no_other() {
    // Its password takes far longer to verify than the test takes to reset the stream.
    let hash = bcrypt::hash("slow-password", 13).expect("bcrypt");
    let config = format!("{CONFIG}users: [{{username: slow, password_hash: '{hash}'}}]\n");
    let stack = Stack::encoded(&config, Encoding::Inside);
    let request = |value: &str| {
        let uri = format!("http://{}/", stack.address());
        Request::post(uri).header("authorization", value).body(()).unwrap()
    };
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(stack.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        for guess in 0..20 {
            client = client.ready().await.unwrap();
            // It waits: its body has not ended.
            let wrong = request(&basic("nobody", &format!("guess-{guess}")));
            let (answer, mut sending) = client.send_request(wrong, false).unwrap();
            sending.send_data("a part".into(), false).unwrap();
            sending.send_reset(h2::Reason::CANCEL);
            assert!(answer.await.is_err(), "a stream that was reset has no answer");
            // The same connection serves others, whose worker did not wait.
            client = client.ready().await.unwrap();
            let (answer, _) = client.send_request(request(&format!("Bearer {ALICE}")), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        connection.abort();
    };
    grpc::block_on(async { tokio::time::timeout(MAX_WAIT, exchange).await.expect("answers") });
    assert_eq!(stack.upstream.calls(), 20);
}
