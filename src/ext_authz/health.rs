//! `grpc.health.v1.Health`, for Envoy's health checks and Kubernetes' gRPC probes.

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::service::SERVICE_NAME;
use super::tonic_services::MAX_MESSAGE;

/// The paths of its methods.
pub const PATHS: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// What the health service says, for `""` and for Authorization.
pub struct Reported(HealthReporter);

impl Reported {
    /// From now on it says SERVING, or NOT_SERVING.
    pub async fn ready(&self, is_ready: bool) {
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status("", status).await;
        self.0.set_service_status(SERVICE_NAME, status).await;
    }
}

/// The health service, and what it says: NOT_SERVING until it is told otherwise.
pub async fn routes() -> (Routes, Reported) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let service = service.max_decoding_message_size(MAX_MESSAGE);
    let reported = Reported(reporter);
    // tonic's reporter begins with SERVING, which would be a lie.
    reported.ready(false).await;
    (Routes::new(service), reported)
}
