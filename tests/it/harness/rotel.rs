//! Rotel: a collector of OpenTelemetry that somebody else wrote, and that prints every span which it takes.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use super::log::Log;
use super::ports::free_port;
use super::{tools, wait_until};

/// A running collector; it dies with this value.
pub struct Rotel {
    child: Child,
    log: Log,
    address: SocketAddr,
}

/// A span as Rotel printed it.
#[derive(Debug, Clone, Default)]
pub struct Printed {
    pub service: String,
    pub trace: String,
    pub parent: String,
    pub id: String,
    pub name: String,
    pub kind: String,
    /// Its attributes, each a line `name: Type(value)`.
    pub attributes: Vec<String>,
}

impl Rotel {
    pub fn start() -> Self {
        // Somebody else may take a port that was free a moment ago.
        (0..5).find_map(|_| Self::try_start()).expect("Rotel listens on one of five free ports")
    }

    fn try_start() -> Option<Self> {
        let [grpc, http] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut command = Command::new(tools::rotel());
        command.arg("start").args(["--exporter", "blackhole"]);
        command.args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"]);
        command.args(["--otlp-grpc-endpoint", &grpc.to_string(), "--otlp-http-endpoint", &http.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("Rotel starts");
        let log = Log::of("Rotel", &mut child);
        let mut rotel = Self { child, log, address: grpc };
        let mut has_ended = false;
        wait_until("Rotel listens", || {
            has_ended = rotel.child.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(grpc).is_ok()
        });
        let taken = rotel.log.text().contains("Address already in use");
        assert!(!has_ended || taken, "Rotel ended: {}", rotel.log.text());
        (!has_ended).then_some(rotel)
    }

    /// Where it takes spans over gRPC.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first span of which this is true, now or soon.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Printed) -> bool) -> Printed {
        let mut found = None;
        wait_until(what, || {
            found = self.spans().into_iter().find(|span| is_it(span));
            found.is_some()
        });
        found.expect("what was waited for")
    }

    /// Every span that has been printed whole.
    fn spans(&self) -> Vec<Printed> {
        let mut spans: Vec<Printed> = Vec::new();
        let mut service = String::new();
        for line in self.log.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("-> service.name: Str(") {
                service = name.trim_end_matches(')').to_owned();
            } else if line.starts_with("Span #") {
                spans.push(Printed { service: service.clone(), ..Printed::default() });
            }
            let Some(span) = spans.last_mut() else {
                continue;
            };
            match line.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("Trace ID", value)) => span.trace = value.to_owned(),
                Some(("Parent ID", value)) => span.parent = value.to_owned(),
                Some(("ID", value)) => span.id = value.to_owned(),
                Some(("Name", value)) => span.name = value.to_owned(),
                Some(("Kind", value)) => span.kind = value.to_owned(),
                _ => span.attributes.extend(line.strip_prefix("-> ").map(str::to_owned)),
            }
        }
        spans
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
