//! Each limit, and a client that tries to break it: the server lives, answers everybody else meanwhile, and its
//! memory stays within bounds.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::harness::cgroup::Cgroup;
use crate::harness::frames::{self, Connection, frame};
use crate::harness::grpc::{self, Checks};
use crate::harness::{MAX_WAIT, Request, Server, Setup, http1, http2, server, wait_until};

const TOKEN: &str = "alice-token-0123456789";
const CONFIG: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice, role: Admin}}]\n";
/// What no attack may add to the process' memory, unless its test says more.
const MEMORY: u64 = 96 * 1024 * 1024;

fn with(ext_authz: &str, more: &str) -> Setup {
    let listeners = format!(
        "ext_authz: {{listen: \"127.0.0.1:0\", {ext_authz}}}\nprobes: {{listen: \"127.0.0.1:0\"}}\n{more}"
    );
    Server::with(&format!("{listeners}{CONFIG}")).own_listeners().quiet().arg("--log-decisions=none")
}

/// A server under attack, and somebody else who asks it.
struct Besieged {
    server: Server,
    witness: Checks,
    memory: u64,
}

impl Besieged {
    fn new() -> Self {
        Self::over(with("", "").start())
    }

    fn over(server: Server) -> Self {
        let mut witness = Checks::of(&server);
        assert_eq!(witness.verdict(TOKEN), "");
        let memory = peak(&server);
        Self { server, witness, memory }
    }

    fn attacker(&self) -> Connection {
        Connection::to(self.server.tcp())
    }

    /// Everybody else is answered, and the process has not grown beyond this.
    fn stands_within(&mut self, most: u64) {
        assert_eq!(self.witness.verdict(TOKEN), "", "on a connection that was open before");
        assert_eq!(Checks::of(&self.server).verdict(TOKEN), "", "on a new one");
        assert_eq!(self.server.probe("/ready").status, 200);
        let grown = peak(&self.server).saturating_sub(self.memory);
        eprintln!("grown by {} KiB", grown / 1024);
        assert!(grown < most, "grown by {grown} bytes");
    }

    fn stands(&mut self) {
        self.stands_within(MEMORY);
    }
}

/// The most memory that a process has had, in bytes.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
    match stream.read(&mut [0; 1024]) {
        Ok(length) => length == 0,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("neither an answer nor an end: {error}"),
    }
}

fn metric(server: &Server, sample: &str) -> u64 {
    let metrics = server.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
    line.unwrap_or_else(|| panic!("no {sample} in {metrics}")).trim().parse().unwrap()
}

const REFUSED: &str = "envoy_auth_tokens_denied_connections_total";

// ---- Connections.

/// What a connection has sent when it says no more.
enum Held {
    /// These bytes.
    Bytes(&'static [u8]),
    /// These bytes, which have been answered.
    Answered(&'static [u8]),
    /// These frames behind HTTP/2's greeting.
    FrameScanner(Vec<u8>),
    /// A whole Check, which has been answered.
    Check,
}

impl Held {
    fn by(&self, to: SocketAddr) -> TcpStream {
        let raw = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        };
        match self {
            Self::Bytes(bytes) => raw(bytes),
            Self::Answered(bytes) => {
                let mut stream = raw(bytes);
                assert!(stream.read(&mut [0; 1]).unwrap() > 0);
                stream
            }
            Self::FrameScanner(frames) => {
                let mut connection = Connection::to(to);
                assert!(connection.send(frames));
                // What was sent before has been read when this is answered.
                assert!(connection.read_until(frames::SETTINGS).is_some());
                connection.socket().try_clone().unwrap()
            }
            Self::Check => {
                let mut connection = Connection::to(to);
                let headers = frames::check_headers(&[]);
                let check = frame(frames::HEADERS, frames::END_HEADERS, 1, &headers);
                assert!(
                    connection.send(&[check, frame(frames::DATA, frames::END_STREAM, 1, &[0; 5])].concat())
                );
                assert!(connection.read_until(frames::DATA).is_some());
                connection.socket().try_clone().unwrap()
            }
        }
    }
}

#[test]
fn a_new_client_is_answered_while_every_place_is_taken_by_a_slow_one() {
    let folder = tempfile::tempdir().unwrap();
    let keys = format!(
        "keys: {{store: \"sqlite:{}\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n",
        folder.path().join("keys.db").display()
    );
    let server = with("max_connections: 8", &keys).start();
    let get: &[u8] = b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let http1 = || {
        vec![
            ("nothing", Held::Bytes(b"")),
            ("the beginning of a head", Held::Bytes(b"GET /live HTTP/1.1\r\nhost: h\r\n")),
            ("an answer, and silence", Held::Answered(get)),
            (
                "an answer, and half a head",
                Held::Answered(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /live HTTP/1.1\r\n"),
            ),
        ]
    };
    let mut admin = http1();
    let unfinished = b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\na";
    admin.push(("half a body", Held::Bytes(unfinished)));
    let headers = frames::check_headers(&[]);
    let ext_authz = vec![
        ("nothing", Held::Bytes(b"")),
        ("half a greeting", Held::Bytes(b"PRI * HTTP/2.0\r\n")),
        ("a greeting", Held::FrameScanner(Vec::new())),
        ("half a head", Held::FrameScanner(frame(frames::HEADERS, frames::NONE, 1, &headers))),
        (
            "a head without a body",
            Held::FrameScanner(frame(frames::HEADERS, frames::END_HEADERS, 1, &headers)),
        ),
        ("a Check, and silence", Held::Check),
    ];
    let is_live = |to: SocketAddr, path: &str| {
        let answer = Request::new(to, "GET", path).host("localhost").header("connection", "close").send();
        answer.status == 200
    };
    let cases: [(&str, SocketAddr, usize, Vec<(&str, Held)>, &dyn Fn() -> bool); 3] = [
        ("probes", server.probes(), 64, http1(), &|| is_live(server.probes(), "/live")),
        ("admin", server.admin(), 256, admin, &|| is_live(server.admin(), "/api/health")),
        ("ext_authz", server.tcp(), 8, ext_authz, &|| Checks::of(&server).verdict(TOKEN).is_empty()),
    ];
    for (listener, address, most, forms, is_answered) in &cases {
        for (form, held) in forms {
            let held: Vec<_> = (0..*most).map(|_| held.by(*address)).collect();
            for turn in 0..10 {
                assert!(is_answered(), "{listener}, {form}, {turn}");
            }
            drop(held);
        }
        assert!(metric(&server, &format!("{REFUSED}{{listener=\"{listener}\"}}")) > 0, "{listener}");
        let logged = format!("\"listener\":\"{listener}\"");
        server.log().wait_for("the limit", |line| {
            (line.contains("the limit of open connections is reached") && line.contains(&logged))
                .then_some(())
        });
    }
}

#[test]
fn the_longest_without_a_head_goes_first_then_idle_ones_which_get_a_goaway() {
    let server = with("max_connections: 3", "").start();
    let closed = format!("{REFUSED}{{listener=\"ext_authz\"}}");
    assert_eq!(metric(&server, &closed), 0);
    let check = |connection: &mut Connection, stream: u32| {
        let headers = frame(frames::HEADERS, frames::END_HEADERS, stream, &frames::check_headers(&[]));
        assert!(
            connection.send(&[headers, frame(frames::DATA, frames::END_STREAM, stream, &[0; 5])].concat())
        );
        assert_eq!(connection.read_until(frames::DATA).expect("an answer").stream, stream);
    };
    let mut idle: Vec<_> = (0..2).map(|_| Connection::to(server.tcp())).collect();
    idle.iter_mut().for_each(|connection| check(connection, 1));
    // The first one has been of use since.
    check(&mut idle[0], 3);
    let mut silent = Connection::to(server.tcp());
    assert!(silent.read_until(frames::SETTINGS).is_some());
    let mut next = Connection::to(server.tcp());
    silent.wait_for_the_end();
    check(&mut next, 1);
    assert_eq!(metric(&server, &closed), 1);
    // Now all have finished a request: the second has waited longest.
    let mut last = Connection::to(server.tcp());
    check(&mut last, 1);
    assert!(idle[1].read_until(frames::GOAWAY).is_some(), "it is told");
    idle[1].wait_for_the_end();
    assert_eq!(metric(&server, &closed), 2);
    // The others are still heard.
    check(&mut idle[0], 5);
    check(&mut next, 3);
    check(&mut last, 3);
    // Who watches us does so over another listener.
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(server.probe(path).status, 200, "{path}");
    }
    assert_eq!(metric(&server, &closed), 2);
}

#[test]
fn a_flood_of_connections_is_logged_once_in_a_while() {
    let server = with("max_connections: 3", "").start();
    let flood: Vec<_> = (0..200).map(|_| TcpStream::connect(server.tcp()).unwrap()).collect();
    let closed = format!("{REFUSED}{{listener=\"ext_authz\"}}");
    wait_until("all but three to be closed", || metric(&server, &closed) == 197);
    let lines = server.log().lines();
    let logged = lines.iter().filter(|line| line.contains("the limit of open connections is reached"));
    assert!(logged.count() < 20, "{lines:#?}");
    assert_eq!(Checks::of(&server).verdict(TOKEN), "");
    for mut stream in flood.into_iter().take(197) {
        assert!(is_closed(&mut stream));
    }
}

// ---- HTTP/2.

/// What became of a flood.
#[derive(Debug, PartialEq, Eq)]
enum Flood {
    /// All of it was taken.
    Taken,
    /// The connection was closed in the middle.
    CutOff,
}

/// Sends this again and again while somebody else reads.
fn flood(connection: &mut Connection, turns: u32, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Flood {
    let mut reading = connection.again();
    let reader = std::thread::spawn(move || reading.wait_for_the_end());
    let mut became = Flood::Taken;
    for first in (0..turns).step_by(64) {
        let several: Vec<u8> = (first..first + 64).flat_map(&mut bytes).collect();
        if !connection.send(&several) {
            became = Flood::CutOff;
            break;
        }
    }
    // It may be closed already.
    let _ = connection.socket().shutdown(Shutdown::Write);
    reader.join().unwrap();
    became
}

/// More than any connection may do.
const WITHOUT_END: u32 = 20_000_000;

#[test]
fn a_flood_of_reset_streams_harms_no_other_client() {
    let mut besieged = Besieged::new();
    let headers = frames::check_headers(&[]);
    let mut attacker = besieged.attacker();
    flood(&mut attacker, 100_000, |turn| {
        let stream = turn * 2 + 1;
        let opened = frame(frames::HEADERS, frames::END_HEADERS, stream, &headers);
        [opened, frame(frames::RST_STREAM, frames::NONE, stream, &8_u32.to_be_bytes())].concat()
    });
    besieged.stands();
}

#[test]
fn a_header_block_without_an_end_ends_its_connection_alone() {
    let mut besieged = Besieged::new();
    for more in [Vec::new(), frames::check_headers(&[])] {
        let mut attacker = besieged.attacker();
        assert!(attacker.send(&frame(frames::HEADERS, frames::NONE, 1, &frames::check_headers(&[]))));
        let became =
            flood(&mut attacker, WITHOUT_END, |_| frame(frames::CONTINUATION, frames::NONE, 1, &more));
        assert_eq!(became, Flood::CutOff);
        besieged.stands();
    }
}

#[test]
fn a_header_list_beyond_the_limit_is_refused_and_the_connection_lives() {
    let mut besieged = Besieged::new();
    let mut attacker = besieged.attacker();
    let value = "x".repeat(120);
    let many: Vec<(&str, &str)> = (0..7_000).map(|_| ("x-header", value.as_str())).collect();
    let block = frames::check_headers(&many);
    let (first, rest) = block.split_at(16 * 1024);
    assert!(attacker.send(&frame(frames::HEADERS, frames::END_STREAM, 1, first)));
    let mut rest = rest.chunks(16 * 1024).peekable();
    while let Some(part) = rest.next() {
        let flags = if rest.peek().is_some() { frames::NONE } else { frames::END_HEADERS };
        assert!(attacker.send(&frame(frames::CONTINUATION, flags, 1, part)));
    }
    let answer = attacker.read_until(frames::HEADERS).expect("an answer");
    // `:status 431`, Huffman-coded or not, is no gRPC answer: it stands alone and ends the stream.
    assert_eq!(answer.stream, 1);
    assert!(besieged.server.metrics().contains("envoy_auth_tokens_unreadable_checks_total 0"));
    // The next request is heard.
    let check = frame(frames::HEADERS, frames::END_HEADERS, 3, &frames::check_headers(&[]));
    assert!(attacker.send(&[check, frame(frames::DATA, frames::END_STREAM, 3, &[0; 5])].concat()));
    assert_eq!(attacker.read_until(frames::DATA).expect("an answer").stream, 3);
    besieged.stands();
}

#[test]
fn floods_of_pings_settings_and_empty_frames_harm_no_other_client() {
    let mut besieged = Besieged::new();
    flood(&mut besieged.attacker(), 100_000, |_| frame(frames::PING, frames::NONE, 0, &[1; 8]));
    besieged.stands();
    flood(&mut besieged.attacker(), 100_000, |_| frame(frames::SETTINGS, frames::NONE, 0, &[]));
    besieged.stands();
    let mut attacker = besieged.attacker();
    let opened = frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::check_headers(&[]));
    assert!(attacker.send(&opened));
    let became = flood(&mut attacker, WITHOUT_END, |_| frame(frames::DATA, frames::NONE, 1, &[]));
    assert_eq!(became, Flood::CutOff);
    besieged.stands();
}

#[test]
fn streams_beyond_the_limit_are_refused_and_those_that_never_end_are_ended() {
    let mut besieged = Besieged::new();
    let mut attacker = besieged.attacker();
    let headers = frames::check_headers(&[]);
    let open = |number: u32| frame(frames::HEADERS, frames::END_HEADERS, number * 2 + 1, &headers);
    for number in 0..1024 {
        assert!(attacker.send(&open(number)));
    }
    assert!(attacker.send(&open(1024)));
    let refused = attacker.read_until(frames::RST_STREAM).expect("a denied stream");
    assert_eq!((refused.stream, refused.code()), (2049, frames::REFUSED_STREAM));
    besieged.stands();
    // Whoever goes on like this loses the connection.
    let mut stubborn = besieged.attacker();
    assert_eq!(flood(&mut stubborn, WITHOUT_END, open), Flood::CutOff);
    besieged.stands();
    // Each of the 1024 is answered without its message, DEADLINE_EXCEEDED, when its time is over.
    let mut ended = BTreeSet::new();
    while ended.len() < 1024 {
        ended.insert(attacker.read_until(frames::HEADERS).expect("an answer").stream);
    }
    besieged.stands();
}

#[test]
fn answers_that_are_never_taken_are_given_up() {
    let mut besieged = Besieged::new();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0: no byte of an answer may be sent.
    let mut attacker = Connection::with_settings(besieged.server.tcp(), &[(4, 0)]);
    let headers = frames::check_headers(&[]);
    for number in 0..1000 {
        let check = frame(frames::HEADERS, frames::END_HEADERS, number * 2 + 1, &headers);
        assert!(
            attacker
                .send(&[check, frame(frames::DATA, frames::END_STREAM, number * 2 + 1, &[0; 5])].concat())
        );
    }
    besieged.stands();
    let given_up = std::iter::from_fn(|| attacker.read_until(frames::RST_STREAM)).take(1000);
    assert_eq!(given_up.count(), 1000);
    besieged.stands();
}

#[test]
fn windows_that_are_too_large_end_the_connection() {
    let mut besieged = Besieged::new();
    let mut attacker = besieged.attacker();
    for _ in 0..2 {
        attacker.send(&frame(frames::WINDOW_UPDATE, frames::NONE, 0, &0x7fff_ffff_u32.to_be_bytes()));
    }
    attacker.wait_for_the_end();
    // More than may be sent.
    let mut attacker = besieged.attacker();
    let became = flood(&mut attacker, WITHOUT_END, |turn| {
        let stream = turn * 2 + 1;
        let data = frame(frames::DATA, frames::NONE, stream, &[0xff; 16 * 1024]);
        [frame(frames::HEADERS, frames::END_HEADERS, stream, &frames::check_headers(&[])), data].concat()
    });
    assert_eq!(became, Flood::CutOff);
    besieged.stands();
}

#[test]
fn a_client_that_never_reads_is_disconnected() {
    let mut besieged = Besieged::new();
    let mut attacker = Connection::with_settings(besieged.server.tcp(), &[(4, 0x7fff_ffff)]);
    attacker.send(&frame(frames::WINDOW_UPDATE, frames::NONE, 0, &0x7000_0000_u32.to_be_bytes()));
    let headers = frames::check_headers(&[]);
    // In the end they do not take our bytes any more, because we do not take theirs; and then they close.
    let mut number = 0;
    let cut_off = loop {
        let check = frame(frames::HEADERS, frames::END_HEADERS, number * 2 + 1, &headers);
        if !attacker.send(&[check, frame(frames::DATA, frames::END_STREAM, number * 2 + 1, &[0; 5])].concat())
        {
            break number;
        }
        number += 1;
        assert!(number < 50_000_000, "nobody cuts it off");
    };
    eprintln!("cut off after {cut_off} Checks");
    besieged.stands();
}

#[test]
fn watches_of_health_have_places_and_checks_need_none() {
    let mut besieged = Besieged::new();
    let path = (":path", "/grpc.health.v1.Health/Watch");
    let headers = frames::headers(&[path]);
    // How many of so many watches on one connection are denied.
    let denied = |attacker: &mut Connection, watches: u32| {
        for number in 0..watches {
            let stream = number * 2 + 1;
            let watch = frame(frames::HEADERS, frames::END_HEADERS, stream, &headers);
            let message = frame(frames::DATA, frames::END_STREAM, stream, &[0; 5]);
            assert!(attacker.send(&[watch, message].concat()));
        }
        let (mut answered, mut denied) = (0, 0);
        while answered < watches {
            let answer = attacker.read().expect("an answer");
            let ends = answer.flags & frames::END_STREAM != 0;
            match answer.kind {
                frames::DATA => answered += 1,
                frames::HEADERS if ends => (answered, denied) = (answered + 1, denied + 1),
                _ => {}
            }
        }
        denied
    };
    let mut attackers: Vec<_> = (0..17).map(|_| besieged.attacker()).collect();
    let (last, first) = attackers.split_last_mut().unwrap();
    for attacker in first {
        assert_eq!(denied(attacker, 70), 70 - 64, "of a connection");
    }
    assert_eq!(denied(last, 64), 64, "in all");
    besieged.stands();
}

// ---- Messages.

#[test]
fn messages_that_arrive_in_pieces_have_a_common_budget() {
    let mut besieged = Besieged::new();
    let address = besieged.server.tcp();
    let is_denied = || besieged.server.metrics().contains("reason=\"overloaded\"");
    // Each of 24 sends all but the last byte of 16 MiB and waits: 384 MiB where 256 may be held.
    wait_until("the budget to be used up", || {
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..24).map(|_| scope.spawn(move || hold_a_message(address))).collect();
            // They live on until the last one has sent what it could.
            senders.into_iter().map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
        });
        is_denied()
    });
    // Buffers grow by doubling, so that what is held may take twice the room, and the old half while it is copied.
    besieged.stands_within(3 * 256 * 1024 * 1024);
    // What was held is free again.
    wait_until("room for a long message", || {
        let target = format!("http://{address}/envoy.service.auth.v3.Authorization/Check");
        let request =
            http::Request::post(target).header("content-type", "application/grpc").header("te", "trailers");
        let length = 8 * 1024 * 1024_u32;
        let message = [&[0][..], &length.to_be_bytes(), &vec![0; length as usize]].concat();
        let answer = http2::send(address, request.body(()).unwrap(), Some(message.into())).unwrap();
        answer.grpc_status() == Some("0")
    });
}

/// A connection whose Check lacks its last byte, or was denied before.
fn hold_a_message(address: SocketAddr) -> Connection {
    let mut sender = Connection::to(address);
    let prefix = [&[0][..], &(16 * 1024 * 1024_u32).to_be_bytes()].concat();
    let headers = frames::check_headers(&[]);
    assert!(sender.send(&frame(frames::HEADERS, frames::END_HEADERS, 1, &headers)));
    assert!(sender.send(&frame(frames::DATA, frames::NONE, 1, &prefix)));
    pour(&mut sender, 16 * 1024 * 1024 - 1);
    sender
}

/// Sends so many bytes of a message as fast as the windows allow, unless it is answered before.
fn pour(sender: &mut Connection, mut left: usize) {
    // Of larger windows than these we hear by WINDOW_UPDATE alone: we never take note of their SETTINGS.
    let (mut window, mut of_connection): (i64, i64) = (65_535 - 5, 65_535 - 5);
    while left > 0 {
        let piece = left.min(16 * 1024);
        let length = i64::try_from(piece).unwrap();
        while window < length || of_connection < length {
            let Some(frame) = sender.read() else { return };
            match (frame.kind, frame.stream) {
                (frames::HEADERS | frames::RST_STREAM, 1) => return,
                (frames::WINDOW_UPDATE, stream) => {
                    let more = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                    *(if stream == 0 { &mut of_connection } else { &mut window }) += i64::from(more);
                }
                _ => {}
            }
        }
        sender.send(&frame(frames::DATA, frames::NONE, 1, &vec![0; piece]));
        window -= length;
        of_connection -= length;
        left -= piece;
    }
}

// ---- The memory limits of the shipped manifests.

/// A server that may use so much memory, and how much it has used at most.  The limit is real where this machine lets a
/// test make a cgroup; everywhere the most that it has used is compared with it.
fn within_memory(name: &str, mebibytes: u64, attack: impl Fn(SocketAddr) -> Vec<Connection>) {
    within_memory_with(name, mebibytes, &[], attack);
}

/// The same, of a server with these arguments.
fn within_memory_with(
    name: &str,
    mebibytes: u64,
    arguments: &[&str],
    attack: impl Fn(SocketAddr) -> Vec<Connection>,
) {
    let limit = mebibytes * 1024 * 1024;
    let group = Cgroup::with_memory(&format!("{name}-{mebibytes}"), limit);
    let setup = with("", "");
    let server = match &group {
        Some(group) => {
            let folder = tempfile::tempdir().unwrap();
            let config = folder.path().join("config.yaml");
            std::fs::copy(setup.write(), &config).unwrap();
            let mut command = group.command(server::BINARY);
            command.arg("serve").arg("--config").arg(config);
            command.args(["--log-format=json", "--log-decisions=none"]).args(arguments);
            Server::by(command, folder)
        }
        None => {
            let setup = setup.arg(&format!("--memory-limit={mebibytes}MiB"));
            arguments.iter().fold(setup, |setup, argument| setup.arg(argument)).start()
        }
    };
    assert_eq!(metric(&server, "envoy_auth_tokens_memory_limit_bytes"), limit);
    let mut witness = Checks::of(&server);
    assert_eq!(witness.verdict(TOKEN), "");
    let before = peak(&server);
    let held = attack(server.tcp());
    assert_eq!(Checks::of(&server).verdict(TOKEN), "", "on a new connection");
    assert_eq!(witness.verdict(TOKEN), "", "on a connection that was open before");
    assert_eq!(server.probe("/ready").status, 200);
    let most = peak(&server);
    eprintln!("memory {name}: from {} to {} of {mebibytes} MiB", before >> 20, most >> 20);
    assert!(most < limit, "{most} of {limit} bytes");
    drop(held);
}

/// Opens so many streams of this header block on so many connections, and takes what is answered.
fn open_streams(
    to: SocketAddr,
    connections: u32,
    streams: u32,
    block: &[u8],
    body: &[u8],
) -> Vec<Connection> {
    let open = |stream: u32| {
        let (first, rest) = block.split_at(block.len().min(16 * 1024));
        let flags = if rest.is_empty() { frames::END_HEADERS } else { frames::NONE };
        let mut bytes = frame(frames::HEADERS, flags, stream, first);
        if !rest.is_empty() {
            bytes.extend(frame(frames::CONTINUATION, frames::END_HEADERS, stream, rest));
        }
        if !body.is_empty() {
            bytes.extend(frame(frames::DATA, frames::NONE, stream, body));
        }
        bytes
    };
    let open_all = || {
        let mut connection = Connection::to(to);
        let mut reading = connection.again();
        let reader = std::thread::spawn(move || {
            // All that was sent has been read when this is answered.
            while reading.read().is_some_and(|frame| frame.kind != frames::PING || frame.flags == 0) {}
        });
        for number in 0..streams {
            if !connection.send(&open(number * 2 + 1)) {
                break;
            }
        }
        connection.send(&frame(frames::PING, frames::NONE, 0, &[1; 8]));
        reader.join().unwrap();
        connection
    };
    (0..connections).map(|_| open_all()).collect()
}

#[test]
fn memory_stays_bounded_under_watches_with_long_headers() {
    let value = "x".repeat(120);
    let more: Vec<(&str, &str)> = (0..80).map(|_| ("x-header", value.as_str())).collect();
    let path = (":path", "/grpc.health.v1.Health/Watch");
    let block = frames::headers(&[&[path], &more[..]].concat());
    assert!(block.len() > 10_000, "{}", block.len());
    for mebibytes in [128, 256] {
        within_memory("watches", mebibytes, |to| open_streams(to, 9, 1024, &block, &[0; 5]));
        within_memory("watches-without-a-message", mebibytes, |to| open_streams(to, 9, 1024, &block, &[]));
    }
}

#[test]
fn memory_stays_bounded_under_open_checks_without_a_body() {
    let block = frames::check_headers(&[]);
    for mebibytes in [128, 256] {
        within_memory("checks", mebibytes, |to| open_streams(to, 73, 1024, &block, &[]));
        within_memory("begun-checks", mebibytes, |to| open_streams(to, 73, 1024, &block, &[0, 0, 0, 1, 0]));
        within_memory("wrong-calls", mebibytes, |to| {
            open_streams(to, 73, 1024, &frames::instead(&[(":path", "/any")]), &[])
        });
    }
}

#[test]
fn memory_stays_bounded_under_answers_that_nobody_reads() {
    let headers = frames::check_headers(&[]);
    for mebibytes in [128, 256] {
        within_memory("answers", mebibytes, |to| {
            let ask = |_| {
                // SETTINGS_INITIAL_WINDOW_SIZE is 0.
                let mut connection = Connection::with_settings(to, &[(4, 0)]);
                for number in 0..1000 {
                    let head = frame(frames::HEADERS, frames::END_HEADERS, number * 2 + 1, &headers);
                    let message = frame(frames::DATA, frames::END_STREAM, number * 2 + 1, &[0; 5]);
                    if !connection.send(&[head, message].concat()) {
                        break;
                    }
                }
                connection.send(&frame(frames::PING, frames::NONE, 0, &[1; 8]));
                while connection.read().is_some_and(|frame| frame.kind != frames::PING || frame.flags == 0) {}
                connection
            };
            (0..73).map(ask).collect()
        });
    }
}

#[test]
fn memory_stays_bounded_under_reflection_that_nobody_reads() {
    let path = (":path", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let headers = frames::headers(&[path]);
    let symbol = b"envoy.service.auth.v3.Authorization";
    // ServerReflectionRequest.file_containing_symbol = 4
    let field = [&[0x22, u8::try_from(symbol.len()).unwrap()][..], symbol].concat();
    let message = [&[0, 0, 0, 0, u8::try_from(field.len()).unwrap()][..], &field].concat();
    within_memory_with("reflection", 128, &["--reflection"], |to| {
        let ask = |_| {
            // SETTINGS_INITIAL_WINDOW_SIZE is 0.
            let mut connection = Connection::with_settings(to, &[(4, 0)]);
            for number in 0..64 {
                let stream = number * 2 + 1;
                let head = frame(frames::HEADERS, frames::END_HEADERS, stream, &headers);
                connection
                    .send(&[head, frame(frames::DATA, frames::NONE, stream, &message.repeat(20))].concat());
            }
            connection.send(&frame(frames::PING, frames::NONE, 0, &[1; 8]));
            while connection.read().is_some_and(|frame| frame.kind != frames::PING || frame.flags == 0) {}
            connection
        };
        (0..20).map(ask).collect()
    });
}

#[test]
fn memory_stays_bounded_under_long_messages_in_pieces() {
    for mebibytes in [128, 256] {
        within_memory("messages", mebibytes, |to| {
            let senders: Vec<_> = (0..16).map(|_| std::thread::spawn(move || hold_a_message(to))).collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
    }
}

#[test]
fn memory_stays_bounded_under_header_blocks_without_an_end() {
    // One byte a header: `accept-charset` of the static table.
    let indexed = [&frames::check_headers(&[])[..], &[0x80 | 15; 15 * 1024]].concat();
    let value = "y".repeat(120);
    let many: Vec<(&str, &str)> = (0..100).map(|_| ("x-header", value.as_str())).collect();
    for block in [indexed, frames::check_headers(&many)] {
        within_memory("blocks", 128, |to| {
            let begin = |_| {
                let mut connection = Connection::to(to);
                connection.send(&frame(frames::HEADERS, frames::NONE, 1, &block));
                for _ in 0..20 {
                    if !connection.send(&frame(
                        frames::CONTINUATION,
                        frames::NONE,
                        1,
                        &[0x80 | 15; 16 * 1024],
                    )) {
                        break;
                    }
                }
                connection
            };
            (0..300).map(begin).collect()
        });
    }
}

#[test]
fn memory_stays_bounded_under_connections_with_unread_bytes() {
    within_memory("connections", 128, |to| {
        let begin = |_| {
            let mut connection = Connection::to(to);
            let headers = frames::check_headers(&[]);
            connection.send(&frame(frames::HEADERS, frames::END_HEADERS, 1, &headers));
            // Of a message of 16 MiB as much as a connection takes at first.
            connection.send(&frame(frames::DATA, frames::NONE, 1, &[0, 1, 0, 0, 0]));
            for _ in 0..3 {
                connection.send(&frame(frames::DATA, frames::NONE, 1, &[7; 16 * 1024]));
            }
            connection
        };
        (0..400).map(begin).collect()
    });
}

// ---- Slow clients of probes and admin.

#[test]
fn slow_clients_of_the_probes_and_of_admin_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let keys = format!(
        "keys: {{store: \"sqlite:{}\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n",
        folder.path().join("keys.db").display()
    );
    let server = with("", &keys).start();
    std::thread::scope(|scope| {
        for to in [server.probes(), server.admin()] {
            let begin = move |bytes: &[u8]| {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(bytes).unwrap();
                stream
            };
            // A head that never ends, no head at all, and a connection that has been answered and then says nothing.
            scope.spawn(move || assert!(ends(begin(b"GET /live HTTP/1.1\r\nhost: h\r\n"))));
            scope.spawn(move || assert!(ends(begin(b""))));
            scope.spawn(move || assert!(ends(begin(b"GET /live HTTP/1.1\r\nhost: h\r\n\r\n"))));
            // A body that never comes.
            let body = b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\na";
            scope.spawn(move || assert!(ends(begin(body))));
            // A head without end.
            scope.spawn(move || {
                let mut stream = begin(b"GET /live HTTP/1.1\r\n");
                let line = [b"x: ".as_slice(), &[b'y'; 8 * 1024], b"\r\n"].concat();
                let mut taken = 0;
                while taken < 64 * 1024 * 1024 && stream.write_all(&line).is_ok() {
                    taken += line.len();
                }
                assert!(taken < 64 * 1024 * 1024, "nobody minds");
            });
            // Requests whose answers are never read.
            scope.spawn(move || {
                let mut stream = begin(b"");
                stream.set_write_timeout(Some(MAX_WAIT)).unwrap();
                let request = b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n".repeat(1000);
                let error = loop {
                    if let Err(error) = stream.write_all(&request) {
                        break error;
                    }
                };
                let closed = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "{error}");
            });
        }
        assert_eq!(server.probe("/ready").status, 200);
        let answer = Request::new(server.admin(), "GET", "/api/auth/actor").bearer(TOKEN);
        assert_eq!(answer.header("connection", "close").send().status, 200);
        assert_eq!(Checks::of(&server).verdict(TOKEN), "");
    });
}

/// Whether the other side closes, whatever it says before that.
fn ends(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

// ---- Passwords.

#[test]
fn tokens_are_answered_while_the_queue_of_passwords_is_full() {
    // Each takes seconds: none of the 64 is done when the next one comes.
    let hash = bcrypt::hash("slow-password", 15).expect("bcrypt");
    let users = format!("users: [{{username: slow, password_hash: '{hash}'}}]\n");
    let server = with("", &users).start();
    let basic = |guess: usize| {
        let value = http1::basic("slow", &format!("guess-{guess}"));
        grpc::check(&server, grpc::request("GET", "h", "/", &[("authorization", &value)]))
    };
    std::thread::scope(|scope| {
        for first in (0..120).step_by(10) {
            let basic = &basic;
            scope.spawn(move || {
                for guess in first..first + 10 {
                    // Not one of them is known to be wrong by then.
                    assert_eq!(grpc::refused(&basic(guess)).0, 503, "{guess}");
                }
            });
        }
    });
    assert_eq!(Checks::of(&server).verdict(TOKEN), "");
    // The queue is still full: another one is denied as before.
    assert_eq!(grpc::refused(&basic(1000)).0, 503);
    assert_eq!(Checks::of(&server).verdict(TOKEN), "");
}
