//! A load client: sends one CheckRequest over and over, as Envoy does, and checks every answer.
//!
//! It goes to loopback only, sends a given number of requests, and gives up after a given time.
//! `benches/run.sh` starts it.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use envoy_types::ext_authz::v3::pb::CheckResponse;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends a CheckRequest over and over and checks every answer
#[derive(Debug, Parser)]
struct Arguments {
    /// The server: a loopback address
    address: SocketAddr,
    /// The CheckRequest to send, without gRPC's prefix
    request: PathBuf,
    /// How many requests
    #[arg(short = 'n', default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Connections
    #[arg(short, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Requests in flight on each connection
    #[arg(short = 'm', default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    /// What CheckResponse.status.code must be
    #[arg(long, default_value_t = 0)]
    expect: i32,
    /// Seconds after which to give up
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What the streams share.
struct Load {
    left: Cell<u64>,
    head: (Uri, HeaderMap),
    body: Bytes,
    expect: i32,
    /// How long each request took, from sending to its answer's last byte.
    took: RefCell<Vec<Duration>>,
    /// Answers that were decoded and found right; another one like it need not be decoded again.
    right: RefCell<Vec<Bytes>>,
}

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    // `cargo bench` adds `--bench`: a target that is only a part of the comparison has nothing to do then.
    let arguments: Vec<String> = std::env::args().filter(|argument| argument != "--bench").collect();
    if arguments.len() == 1 {
        println!("load is a part of the comparison that benches/run.sh makes; --help says what it takes");
        return Ok(());
    }
    let arguments = Arguments::parse_from(arguments);
    if !arguments.address.ip().is_loopback() {
        return Err("load goes to loopback only".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (elapsed, took) = LocalSet::new().block_on(&runtime, async {
        let run = run(&arguments);
        let limit = Duration::from_secs(arguments.seconds);
        tokio::time::timeout(limit, run).await.map_err(|_| format!("unfinished after {limit:?}"))?
    })?;
    let per_second = arguments.requests as f64 / elapsed.as_secs_f64();
    let micros = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e6;
    println!("{per_second:.0} requests/s, p50 {:.1} µs, p99 {:.1} µs", micros(50), micros(99));
    Ok(())
}

/// Sends all requests; how long that took, connecting left out, and how long each of them took, in order.
async fn run(arguments: &Arguments) -> Result<(Duration, Vec<Duration>), Failure> {
    let message = std::fs::read(&arguments.request)?;
    let load = Rc::new(Load {
        left: Cell::new(arguments.requests),
        head: head(),
        body: framed(&message)?,
        expect: arguments.expect,
        took: RefCell::default(),
        right: RefCell::default(),
    });
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(connect(arguments.address).await?);
    }
    let begun = Instant::now();
    let mut streams = JoinSet::new();
    for connection in &connections {
        for _ in 0..arguments.in_flight {
            streams.spawn_local(ask_until_done(connection.clone(), Rc::clone(&load)));
        }
    }
    while let Some(ended) = streams.join_next().await {
        ended??;
    }
    let elapsed = begun.elapsed();
    let mut took = load.took.take();
    took.sort_unstable();
    Ok((elapsed, took))
}

/// A connection with the settings of Envoy 1.40.
async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    const MIB: u32 = 1024 * 1024;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).initial_window_size(16 * MIB).initial_connection_window_size(24 * MIB);
    let (sender, connection) = builder.handshake(stream).await?;
    tokio::task::spawn_local(async move {
        // Its streams say what went wrong.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Path and metadata as Envoy 1.40 sends them, but for its patience: of ours no busy machine may make an end.
fn head() -> (Uri, HeaderMap) {
    let metadata = [
        ("te", "trailers"),
        ("grpc-timeout", "20S"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "192.0.2.2"),
        ("x-envoy-expected-rq-timeout-ms", "20000"),
    ];
    let metadata =
        metadata.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let uri = Uri::from_static("http://ext_authz/envoy.service.auth.v3.Authorization/Check");
    (uri, metadata.into_iter().collect())
}

/// The message behind gRPC's prefix: not compressed, its length.
fn framed(message: &[u8]) -> Result<Bytes, Failure> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into()?);
    framed.put_slice(message);
    Ok(framed.freeze())
}

async fn ask_until_done(mut sender: SendRequest<Bytes>, load: Rc<Load>) -> Result<(), String> {
    while let Some(left) = load.left.get().checked_sub(1) {
        load.left.set(left);
        let begun = Instant::now();
        sender = ask(sender, &load).await.map_err(|error| error.to_string())?;
        load.took.borrow_mut().push(begun.elapsed());
    }
    Ok(())
}

/// One request, its answer read and checked.
async fn ask(sender: SendRequest<Bytes>, load: &Load) -> Result<SendRequest<Bytes>, Failure> {
    let mut sender = sender.ready().await?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    (*request.uri_mut(), *request.headers_mut()) = load.head.clone();
    let (response, mut sending) = sender.send_request(request, false)?;
    sending.send_data(load.body.clone(), true)?;

    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(format!("HTTP status {}", response.status()).into());
    }
    let mut body = response.into_body();
    let mut answer = Bytes::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        answer = if answer.is_empty() { piece } else { [answer, piece].concat().into() };
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    if trailers.get("grpc-status").is_none_or(|status| status != "0") {
        return Err(format!("gRPC status {:?}", trailers.get("grpc-status")).into());
    }
    load.check(answer)?;
    Ok(sender)
}

impl Load {
    fn check(&self, answer: Bytes) -> Result<(), Failure> {
        if self.right.borrow().contains(&answer) {
            return Ok(());
        }
        let message = answer.get(5..).ok_or("an answer without a message")?;
        let status = CheckResponse::decode(message)?.status.ok_or("an answer without status")?;
        if status.code != self.expect {
            return Err(format!("status code {}, expected {}", status.code, self.expect).into());
        }
        self.right.borrow_mut().push(answer);
        Ok(())
    }
}
