//! Many connections at once: `make test-connections`.

use std::net::SocketAddr;
use std::process::Command;

use futures_util::stream::{self, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ALICE;
use crate::harness::http1::basic;
use crate::harness::{MAX_WAIT, Server, Shape, Stack, grpc};
use crate::soak::status_of;
use crate::users::settle;

const CAROL: &str = "correct horse battery";
/// Requests on their way at the same time; the application has a thread for each.
const AT_ONCE: usize = 100;
/// Descriptors beside those of the connections.
const OTHERS: usize = 1000;

#[test]
fn a_thousand_open_connections_are_decided_right() {
    decide_on(1000);
}

#[test]
#[ignore = "takes 10,000 connections and as many descriptors: make test-connections"]
fn ten_thousand_open_connections_are_decided_right() {
    decide_on(10_000);
}

/// Opens so many connections to one Envoy, and sends two requests on each while all are open.
fn decide_on(connections: usize) {
    allow_descriptors(connections + OTHERS);
    let config =
        format!("{}users: [{{username: carol, password: {CAROL}, actor: {{id: carol}}}}]\n", super::CONFIG);
    let shape = Shape::plain().module(serde_json::json!({})).workers(4);
    let stack = Stack::shaped(Server::with(&config).quiet(), shape);
    // Remembered from here on.
    assert_eq!(settle(|| stack.get("/").basic("carol", CAROL).send()).status, 200);
    let (address, process) = (stack.address(), stack.envoy.process());
    let memory = || status_of(process, "VmRSS");
    let before = memory();
    let (opened, after, passed) = grpc::block_on(async {
        let mut all: Vec<_> = stream::iter(0..connections)
            .map(|_| async move { Client::to(address).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        assert_eq!(all.len(), connections);
        let opened = memory();
        let mut passed = 0;
        for round in 0..2 {
            let asked = stream::iter(all.into_iter().enumerate())
                .map(|(number, mut client)| async move {
                    let passes = client.ask(number + round).await;
                    (client, passes)
                })
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>()
                .await;
            passed += asked.iter().filter(|(_, passes)| *passes).count();
            all = asked.into_iter().map(|(client, _)| client).collect();
        }
        assert_eq!(all.len(), connections);
        let after = memory();
        let active = stack.envoy.counter("http.ingress.downstream_cx_active");
        assert!(active >= connections as u64, "{active} of {connections} are open");
        (opened, after, passed)
    });
    println!(
        "{connections} connections: Envoy's resident memory {before} KiB before them, {opened} KiB with them, \
         {after} KiB after {} requests, {passed} of which passed",
        2 * connections
    );
    // Those that passed, and the one before.
    assert_eq!(stack.upstream.calls(), passed + 1);
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn to(address: SocketAddr) -> Self {
        let stream = timeout(MAX_WAIT, TcpStream::connect(address)).await.expect("in time");
        Self(BufReader::new(stream.expect("a connection")))
    }

    /// Sends the request of this number, and holds that it is decided right.  Gives back whether it passed.
    async fn ask(&mut self, number: usize) -> bool {
        let authorization = match number % 4 {
            0 => format!("authorization: Bearer {ALICE}\r\n"),
            1 => "authorization: Bearer nobody-token-012345678\r\n".to_owned(),
            2 => format!("authorization: {}\r\n", basic("carol", CAROL)),
            _ => String::new(),
        };
        let request = format!("GET /{number} HTTP/1.1\r\nhost: app.example\r\n{authorization}\r\n");
        let (status, body) = timeout(MAX_WAIT, self.exchange(&request)).await.expect("an answer in time");
        let (expected, actor) = match number % 4 {
            0 => ("200", Some("alice")),
            2 => ("200", Some("carol")),
            _ => ("401", None),
        };
        assert_eq!(status, expected, "{number}: {body}");
        if let Some(actor) = actor {
            // The answer to this very request, with the actor of this very credential.
            assert!(body.contains(&format!("[\"x-actor-id\",\"{actor}\"]")), "{body}");
            assert!(body.contains(&format!("\"path\":\"/{number}\"")), "{body}");
        }
        actor.is_some()
    }

    async fn exchange(&mut self, request: &str) -> (String, String) {
        self.0.get_mut().write_all(request.as_bytes()).await.expect("it takes the request");
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.expect("a line") > 0, "the connection ended");
            if line.trim_end().is_empty() {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        self.0.read_exact(&mut body).await.expect("a whole body");
        let status = head[0].split(' ').nth(1).expect("a status").to_owned();
        (status, String::from_utf8(body).expect("text"))
    }
}

/// Raises the limit of descriptors of this process, which Envoy inherits, where it is lower.
fn allow_descriptors(wanted: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|index| line.split_whitespace().nth(index).unwrap());
    if soft == "unlimited" || soft.parse::<usize>().unwrap() >= wanted {
        return;
    }
    let may = hard == "unlimited" || hard.parse::<usize>().unwrap() >= wanted;
    assert!(
        may,
        "{wanted} descriptors are needed, and the hard limit is {hard}: raise it (ulimit -Hn {wanted})"
    );
    let limit = format!("--nofile={wanted}:{hard}");
    let raised = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &limit]).status();
    assert!(raised.expect("prlimit of util-linux").success(), "prlimit {limit}");
}
