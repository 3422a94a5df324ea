//! A load client: sends one request over and over, and checks every answer.
//!
//! The request is a CheckRequest, sent as Envoy sends it, the same with another guessed password or token each time, or
//! a GET for an Envoy that asks the server.  Without a rate
//! each answer is followed by the next request, and a wrong answer is the end.  With one, requests are sent at fixed
//! times, answered or not, so that a server that stops for a second is found out by every request of that second; wrong
//! answers are counted.
//!
//! It goes to loopback only, sends a given number of requests at most, and gives up after a given time.
//! `benches/run.sh` starts it.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse};
use h2::client::SendRequest;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends one request over and over and checks every answer
#[derive(Debug, Parser)]
struct Arguments {
    /// The server, or the Envoy that asks it: a loopback address
    address: SocketAddr,
    /// The CheckRequest to send, without gRPC's prefix
    #[arg(required_unless_present = "token")]
    request: Option<PathBuf>,
    /// Send a GET with this bearer token instead, which must be answered with 200
    #[arg(long, conflicts_with = "request")]
    token: Option<String>,
    /// Send a guessed password with the CheckRequest, another one each time, for this user name, in which `#` stands for a
    /// number that counts; each must be denied
    #[arg(long, conflicts_with = "token")]
    guess: Option<String>,
    /// Send the CheckRequest with this bearer token, in which `#` stands for a number below --names, in no order
    #[arg(long, conflicts_with_all = ["token", "guess"], requires = "names")]
    bearer: Option<String>,
    /// Use only the numbers below this one
    #[arg(long, default_value_t = u64::MAX, value_parser = clap::value_parser!(u64).range(1..))]
    names: u64,
    /// Print "ready", and send so many requests a second from the first byte of standard input to its end
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// How many requests; with a rate at most
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
    request: Request<()>,
    message: Message,
    expect: i32,
    /// How long each request took, from sending to its answer's last byte.
    took: RefCell<Vec<Duration>>,
    /// Answers that were decoded and found right; another one like it need not be decoded again.
    right: RefCell<Vec<Bytes>>,
}

/// What a request carries.
enum Message {
    /// Nothing: it is a GET.
    None,
    /// Always the same Check.
    Check(Bytes),
    /// A Check with another password each time.
    Guess { check: Box<CheckRequest>, name: String, names: u64, number: Cell<u64> },
    /// A Check with another bearer token each time.
    Bearer { check: Box<CheckRequest>, token: String, names: u64, number: Cell<u64> },
}

/// Odd and large: its multiples go through all numbers below a power of two, and far from each to the next.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

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
    LocalSet::new().block_on(&runtime, async {
        let limit = Duration::from_secs(arguments.seconds);
        let run = async {
            match arguments.rate {
                None => run(&arguments).await,
                Some(rate) => run_at(rate, &arguments).await,
            }
        };
        tokio::time::timeout(limit, run).await.map_err(|_| format!("unfinished after {limit:?}"))?
    })
}

/// Sends all requests, and prints how many were answered in a second, connecting left out, and how soon.
async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let load = Rc::new(Load::new(arguments)?);
    let connections = connections(arguments).await?;
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
    let per_second = arguments.requests as f64 / begun.elapsed().as_secs_f64();
    let took = Sorted::new(load.took.take());
    println!(
        "{per_second:.0} requests/s, p50 {:.1} µs, p99 {:.1} µs",
        took.percentile(50),
        took.percentile(99)
    );
    Ok(())
}

/// Sends requests at fixed times until standard input ends, waits for their answers, and prints how soon those came.
///
/// Everything is on one thread that waits for no answer: where a request is sent late, it was kept from running.  How
/// late that was at most is printed too.
async fn run_at(rate: u32, arguments: &Arguments) -> Result<(), Failure> {
    let load = Rc::new(Load::new(arguments)?);
    let connections = connections(arguments).await?;
    for connection in &connections {
        ask(connection.clone(), &load).await?;
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;

    let (begun, mut input_ended) = input();
    begun.await?;
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut late = Duration::ZERO;
    let mut streams = JoinSet::new();
    for (connection, _) in connections.iter().cycle().zip(0..arguments.requests) {
        let planned = tokio::select! {
            biased;
            _ = &mut input_ended => break,
            planned = ticks.tick() => planned,
        };
        late = late.max(planned.elapsed());
        let (connection, load) = (connection.clone(), Rc::clone(&load));
        streams.spawn_local(async move {
            let begun = Instant::now();
            let answer = ask(connection, &load).await.map_err(|error| error.to_string());
            (begun.elapsed(), answer.map(drop))
        });
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    while let Some(ended) = streams.join_next().await {
        let (elapsed, answer) = ended?;
        took.push(elapsed);
        if let Err(error) = answer {
            if failed == 0 {
                eprintln!("the first that failed: {error}");
            }
            failed += 1;
        }
    }
    let took = Sorted::new(took);
    println!(
        "{} requests, {failed} failed, p50 {:.1} µs, p99 {:.1} µs, longest {:.1} µs, sent {:.1} µs late at most",
        took.0.len(),
        took.percentile(50),
        took.percentile(99),
        took.percentile(100),
        late.as_secs_f64() * 1e6
    );
    Ok(())
}

/// Durations, the shortest first.
struct Sorted(Vec<Duration>);

impl Sorted {
    fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// In microseconds; not a number where there is none at all.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * percent / 100).min(last)).map_or(f64::NAN, |one| one.as_secs_f64() * 1e6)
    }
}

/// Resolve when standard input has data or ends, which it does when the parent process ends.
fn input() -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (begin, begun) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut is_open = || matches!(std::io::stdin().read(&mut buffer), Ok(1..));
        if is_open() {
            let _ = begin.send(());
            while is_open() {}
        }
        let _ = end.send(());
    });
    (begun, ended)
}

async fn connections(arguments: &Arguments) -> Result<Vec<SendRequest<Bytes>>, Failure> {
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(connect(arguments.address).await?);
    }
    Ok(connections)
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

/// A Check with path and metadata as Envoy 1.40 sends them, but for its patience: of ours no busy machine may make an end.
fn check() -> Request<()> {
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
    request(Method::POST, uri, metadata.into_iter().collect())
}

/// A GET of what the CheckRequests ask about.
fn get(token: &str) -> Result<Request<()>, Failure> {
    let uri = Uri::from_static("http://app.example.com/fixtures/facetable.json?_shape=array&_size=20");
    let token = HeaderValue::try_from(format!("Bearer {token}"))?;
    Ok(request(Method::GET, uri, HeaderMap::from_iter([(AUTHORIZATION, token)])))
}

fn request(method: Method, uri: Uri, headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    request
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
    let body = load.message.next()?;
    let (response, mut sending) = sender.send_request(load.request.clone(), body.is_none())?;
    if let Some(body) = body {
        sending.send_data(body, true)?;
    }

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
    if matches!(load.message, Message::None) {
        return Ok(sender);
    }
    if trailers.get("grpc-status").is_none_or(|status| status != "0") {
        return Err(format!("gRPC status {:?}", trailers.get("grpc-status")).into());
    }
    load.check(answer)?;
    Ok(sender)
}

impl Message {
    fn of(request: &[u8], arguments: &Arguments) -> Result<Self, Failure> {
        let check = || CheckRequest::decode(request).map(Box::new);
        let (names, number) = (arguments.names, Cell::new(0));
        if let Some(name) = arguments.guess.clone() {
            return Ok(Self::Guess { check: check()?, name, names, number });
        }
        if let Some(token) = arguments.bearer.clone() {
            return Ok(Self::Bearer { check: check()?, token, names, number });
        }
        Ok(Self::Check(framed(request)?))
    }

    /// The next request's, with gRPC's prefix; none for a GET.
    fn next(&self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::None => Ok(None),
            Self::Check(body) => Ok(Some(body.clone())),
            Self::Guess { check, name, names, number } => {
                let next = number.replace(number.get() + 1);
                let pair = format!("{}:guess {next}", name.replace('#', &(next % names).to_string()));
                with_authorization(check, format!("Basic {}", STANDARD.encode(pair))).map(Some)
            }
            Self::Bearer { check, token, names, number } => {
                let next = number.replace(number.get().wrapping_add(STRIDE));
                let token = token.replace('#', &(next % names).to_string());
                with_authorization(check, format!("Bearer {token}")).map(Some)
            }
        }
    }
}

/// This Check with another `Authorization`, with gRPC's prefix.
fn with_authorization(check: &CheckRequest, value: String) -> Result<Bytes, Failure> {
    let mut check = check.clone();
    let attributes = check.attributes.as_mut().and_then(|attributes| attributes.request.as_mut());
    let http = attributes.and_then(|request| request.http.as_mut());
    http.ok_or("the CheckRequest has no `http`")?.headers.insert(AUTHORIZATION.to_string(), value);
    framed(&check.encode_to_vec())
}

impl Load {
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let (request, message) = match (&arguments.request, &arguments.token) {
            (Some(path), _) => (check(), Message::of(&std::fs::read(path)?, arguments)?),
            (None, Some(token)) => (get(token)?, Message::None),
            (None, None) => return Err("neither a CheckRequest nor a token".into()),
        };
        Ok(Self {
            left: Cell::new(arguments.requests),
            request,
            message,
            expect: arguments.expect,
            took: RefCell::default(),
            right: RefCell::default(),
        })
    }

    fn check(&self, answer: Bytes) -> Result<(), Failure> {
        if self.right.borrow().contains(&answer) {
            return Ok(());
        }
        let message = answer.get(5..).ok_or("an answer without a message")?;
        let status = CheckResponse::decode(message)?.status.ok_or("an answer without status")?;
        if matches!(self.message, Message::Guess { .. }) {
            return if status.code == 0 { Err("a guess was right".into()) } else { Ok(()) };
        }
        if status.code != self.expect {
            return Err(format!("status code {}, expected {}", status.code, self.expect).into());
        }
        // Each of many actors has another answer.
        if !matches!(self.message, Message::Bearer { .. }) {
            self.right.borrow_mut().push(answer);
        }
        Ok(())
    }
}
