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

use super::{Complaint, ConfigFile};
use crate::config::{Listen, Startup, Transport};
use crate::ext_authz::SERVICE_NAME;
use crate::server;

/// How long to wait for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the gRPC health of the ext_authz listener that the configuration names.
///
/// Where that one speaks TLS, the probes are asked instead: they say the same to whoever has no certificate.
/// Of the configuration nothing else matters: a server whose file is being mended serves on under its old rules.
#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    config: ConfigFile,
    /// The listener's address, as `ext_authz.listen` has it: then the configuration is not read, and it must
    /// not speak TLS
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Listen>,
}

impl Health {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let (address, way) = match self.address {
            Some(address) => (address, Way::Grpc),
            None => choose(self.config.load_listeners()?),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start: {error}"))?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, way.ask(&address))
                .await
                .unwrap_or_else(|_| Err(format!("error: no answer from {address} within {PATIENCE:?}")))
        })
    }
}

/// How a listener is asked.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `grpc.health.v1.Health`
    Grpc,
    /// `GET /ready`
    Probe,
}

fn choose(startup: Startup) -> (Listen, Way) {
    match startup.ext_authz.transport {
        Transport::Plain => (startup.ext_authz.listen, Way::Grpc),
        Transport::Tls => (startup.probes.listen, Way::Probe),
    }
}

impl Way {
    async fn ask(self, address: &Listen) -> Result<(), Complaint> {
        match self {
            Self::Grpc => ask_for_health(address).await,
            Self::Probe => ask_whether_ready(address).await,
        }
    }
}

fn nobody_answers(address: &Listen) -> Complaint {
    format!("error: nobody answers at {address}: is the server running?")
}

async fn ask_whether_ready(address: &Listen) -> Result<(), Complaint> {
    let stream = server::connect(address).await.map_err(|_| nobody_answers(address))?;
    let broken = |error: hyper::Error| format!("error: {address} gives no health: {error}");
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let request = Request::get("/ready").header(HOST, "probes.local").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| format!("error: {error}"))?;
    match client.send_request(request).await.map_err(broken)?.status() {
        StatusCode::OK => Ok(()),
        _ => Err(format!("error: {address} is not serving")),
    }
}

async fn ask_for_health(address: &Listen) -> Result<(), Complaint> {
    let target = address.clone();
    let connect = tower::service_fn(move |_| {
        let target = target.clone();
        async move { server::connect(&target).await.map(TokioIo::new) }
    });
    // The connector knows the address; this one is a formality.
    let channel = Endpoint::from_static("http://ext-authz.local")
        .connect_with_connector(connect)
        .await
        .map_err(|_| nobody_answers(address))?;
    let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|status| format!("error: {address} gives no health: {}", status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Err(format!("error: {address} is not serving"))
        }
    }
}
