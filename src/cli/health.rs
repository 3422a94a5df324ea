//! `health`

use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Complaint, ConfigFile};
use crate::config::Listen;
use crate::ext_authz::SERVICE_NAME;
use crate::listener;

/// How long to wait for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the gRPC health of the ext_authz listener that the configuration names.
#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    config: ConfigFile,
    /// The listener's address, as `ext_authz.listen` has it: then the configuration is not read
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Listen>,
}

impl Health {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let address = match self.address {
            Some(address) => address,
            None => self.config.load()?.startup.ext_authz.listen,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start: {error}"))?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, ask(&address))
                .await
                .unwrap_or_else(|_| Err(format!("error: no answer from {address} within {PATIENCE:?}")))
        })
    }
}

async fn ask(address: &Listen) -> Result<(), Complaint> {
    let target = address.clone();
    let connect = tower::service_fn(move |_| {
        let target = target.clone();
        async move { listener::connect(&target).await.map(TokioIo::new) }
    });
    // The connector knows the address; this one is a formality.
    let channel = Endpoint::from_static("http://ext-authz.local")
        .connect_with_connector(connect)
        .await
        .map_err(|_| format!("error: nobody answers at {address}: is the server running?"))?;
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
