//! `health`

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{CliError, ConfigFile};
use crate::config::{Listen, Startup, Transport};
use crate::ext_authz::SERVICE_NAME;
use crate::server;

/// How long the whole exchange may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for the gRPC health of the ext_authz listener that the configuration names.
///
/// Where that listener speaks TLS, the command uses the probes instead: they need no certificate.
/// Nothing else of the configuration matters: a server whose file is being edited serves on under its old rules.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The address of the listener, in the form of `ext_authz.listen`.  The configuration is not read then, and the
    /// listener must not use TLS
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Listen>,
}

impl HealthArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (address, protocol) = match self.address {
            Some(address) => (address, HealthProtocol::Grpc),
            None => choose(self.config.load_listeners()?),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
        let checked =
            runtime.block_on(async { tokio::time::timeout(TIMEOUT, protocol.check(&address)).await });
        Ok(checked.unwrap_or(Err(HealthError::Timeout(address)))?)
    }
}

/// Why a server does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No connection can be made.
    #[error("cannot connect to {address}: {}", reason(.source.as_ref()))]
    Unreachable {
        /// The listener's address.
        address: Listen,
        /// Why the connection failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There was no answer in time.
    #[error("no answer from {0} within {TIMEOUT:?}")]
    Timeout(Listen),
    /// The connection broke before there was an answer.
    #[error("{address} does not report its health: {source}")]
    Http {
        /// The listener's address.
        address: Listen,
        /// The HTTP error.
        source: hyper::Error,
    },
    /// The health service answered with an error.
    #[error("{address} does not report its health: {}", status.message())]
    Grpc {
        /// The listener's address.
        address: Listen,
        /// The gRPC error.
        #[source]
        status: Box<tonic::Status>,
    },
    /// The server answers that it does not serve.
    #[error("{0} is not serving")]
    NotServing(Listen),
}

/// Why there is no connection, and what to do.
fn reason(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            return "this user may not connect to the socket: join its group, or be the user that the server runs as";
        }
        cause = error.source();
    }
    "check that the server runs and listens there"
}

/// The protocol by which a listener tells its health.
#[derive(Debug, Clone, Copy)]
enum HealthProtocol {
    /// `grpc.health.v1.Health`
    Grpc,
    /// `GET /ready`
    Probe,
}

fn choose(startup: Startup) -> (Listen, HealthProtocol) {
    match startup.ext_authz.transport {
        Transport::Plain => (startup.ext_authz.listen, HealthProtocol::Grpc),
        Transport::Tls => (startup.probes.listen, HealthProtocol::Probe),
    }
}

impl HealthProtocol {
    async fn check(self, address: &Listen) -> Result<(), HealthError> {
        match self {
            Self::Grpc => check_grpc(address).await,
            Self::Probe => check_probe(address).await,
        }
    }
}

fn unreachable(address: &Listen, source: impl std::error::Error + Send + Sync + 'static) -> HealthError {
    HealthError::Unreachable { address: address.clone(), source: source.into() }
}

async fn check_probe(address: &Listen) -> Result<(), HealthError> {
    let stream = server::connect(address).await.map_err(|error| unreachable(address, error))?;
    let broken = |source: hyper::Error| HealthError::Http { address: address.clone(), source };
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // This task ends with the runtime.
    tokio::spawn(connection);
    let request = Request::get("/ready").header(HOST, "probes.local").body(Empty::<Bytes>::new());
    let request = request.expect("a constant path and header are valid");
    match client.send_request(request).await.map_err(broken)?.status() {
        StatusCode::OK => Ok(()),
        _ => Err(HealthError::NotServing(address.clone())),
    }
}

async fn check_grpc(address: &Listen) -> Result<(), HealthError> {
    let target = address.clone();
    let connect = tower::service_fn(move |_| {
        let target = target.clone();
        async move { server::connect(&target).await.map(TokioIo::new) }
    });
    // The connector has the address: this URL only names the host.
    let channel = Endpoint::from_static("http://ext-authz.local")
        .connect_with_connector(connect)
        .await
        .map_err(|error| unreachable(address, error))?;
    let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|status| HealthError::Grpc { address: address.clone(), status: Box::new(status) })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Err(HealthError::NotServing(address.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    /// As tonic tells why it has no connection.
    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct TransportError(#[source] Error);

    #[test]
    fn a_socket_without_permission_has_its_own_error() {
        let address: Listen = "unix:/run/x.sock".parse().expect("an address");
        let denied = || Error::from(ErrorKind::PermissionDenied);
        for error in [unreachable(&address, denied()), unreachable(&address, TransportError(denied()))] {
            let text = error.to_string();
            assert!(
                text.starts_with("cannot connect to unix:/run/x.sock: this user may not connect"),
                "{text}"
            );
        }
        let missing = unreachable(&address, TransportError(ErrorKind::NotFound.into())).to_string();
        assert_eq!(
            missing,
            "cannot connect to unix:/run/x.sock: check that the server runs and listens there"
        );
    }
}
