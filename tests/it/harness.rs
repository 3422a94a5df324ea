//! What the tests stand on: processes that die with the test, and clients that send exact bytes.

pub mod browser;
pub mod cgroup;
pub mod collector;
pub mod datasette;
pub mod documents;
pub mod envoy;
pub mod frames;
pub mod grpc;
pub mod guardian;
pub mod http1;
pub mod http2;
pub mod issuer;
pub mod ldap;
pub mod load;
pub mod log;
pub mod lying_provider;
pub mod machine;
pub mod manifests;
pub mod ns_slapd;
pub mod oidc_provider;
pub mod oidc_provider_mock;
pub mod pgbouncer;
pub mod pki;
mod ports;
pub mod postgres;
pub mod relay;
pub mod rotel;
pub mod server;
pub mod slapd;
pub mod small_disk;
pub mod sqlite;
pub mod stored_keys;
pub mod tools;
pub mod upstream;
pub mod visitor;

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use envoy::{Encoding, Envoy, Shape};
pub use http1::{Answer, Request};
pub use ports::free_port;
pub use server::{Server, Setup};
pub use upstream::Upstream;

/// The longest that anything is waited for.  Nothing takes this long: it is an upper bound,
/// not a duration that a test relies on.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Waits until something is so, however long it takes on a busy machine.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + MAX_WAIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An Envoy that asks our server about every request to an upstream.
///
/// When it goes, it holds that Envoy never counted an error or an invalid answer of ours, unless
/// the test is about one.
pub struct Stack {
    pub envoy: Envoy,
    pub server: Server,
    pub upstream: Upstream,
    errors_expected: bool,
    /// Whether the module decides, in Envoy's own process; the server only keeps it company.
    is_inside: bool,
}

thread_local! {
    /// Whether stacks of this thread have the module inside Envoy, where their shapes do not say.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test with the server beside Envoy, and with the module inside it: a case is written once.
pub fn in_each_form(test: impl Fn()) {
    for inside in [false, true] {
        // Shown where the test fails.
        println!(
            "{}",
            if inside { "with the module inside Envoy:" } else { "with the server beside Envoy:" }
        );
        INSIDE.set(inside);
        test();
        INSIDE.set(false);
    }
}

impl Stack {
    /// A plain Envoy, which strips and normalises nothing, before a server of this configuration.
    pub fn start(config: &str) -> Self {
        Self::shaped(Server::with(config), Shape::plain())
    }

    /// The same, with the headers in this encoding.
    pub fn encoded(config: &str, encoding: Encoding) -> Self {
        Self::shaped(Server::with(config), Shape::plain().encoding(encoding))
    }

    /// A server set up like this behind an Envoy of this shape.
    pub fn shaped(setup: Setup, shape: Shape) -> Self {
        Self::before(setup, shape, Upstream::start())
    }

    /// The same in front of this upstream.
    pub fn before(setup: Setup, shape: Shape, upstream: Upstream) -> Self {
        let shape = if INSIDE.get() { shape.inside() } else { shape };
        let server = setup.start();
        let envoy = Envoy::start(&shape, &server, &upstream);
        Self { envoy, server, upstream, errors_expected: false, is_inside: shape.is_inside() }
    }

    /// Whether the module inside Envoy decides.
    pub fn is_inside(&self) -> bool {
        self.is_inside
    }

    /// The decision line of the request with this `x-request-id`.
    pub fn decision(&self, request_id: &str) -> Value {
        server::decision(self.deciding_log(), request_id)
    }

    /// The decision lines so far, each with its fields.
    pub fn decisions(&self) -> Vec<Value> {
        server::decisions(self.deciding_log())
    }

    /// The log of the process that decides.
    pub fn deciding_log(&self) -> &log::Log {
        if self.is_inside { self.envoy.log() } else { self.server.log() }
    }

    /// The hardened Envoy that the command `envoy` prints for this configuration, in front of this upstream.
    pub fn printed(config: &str, upstream: Upstream) -> Self {
        let server = Server::with(config).start();
        let (ours, theirs) = (server.tcp().to_string(), upstream.address().to_string());
        let arguments = ["envoy", "--address", &ours, "--listen", "127.0.0.1:0", "--upstream", &theirs];
        let printed = Server::with(config).run(arguments);
        assert_eq!(printed.code(), Some(0), "{printed:?}");
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let envoy = Envoy::configured(&format!("{admin}{}", printed.stdout));
        Self { envoy, server, upstream, errors_expected: false, is_inside: false }
    }

    /// This test is about a gRPC error or an answer that Envoy denies.
    pub fn expecting_errors(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Where Envoy listens.
    pub fn address(&self) -> SocketAddr {
        self.envoy.address()
    }

    pub fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str) -> Request {
        self.request("POST", target)
    }

    pub fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.address(), method, target).host("app.example")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if !self.errors_expected && !std::thread::panicking() {
            self.envoy.assert_no_fault_of(&self.server);
        }
    }
}
