//! `grpc.health.v1.Health`, for Envoy's health checks and Kubernetes' gRPC probes.

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::service::SERVICE_NAME;
use super::tonic_services::MAX_MESSAGE;

/// The paths of its methods.
pub const PATHS: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// Sets the status of the health service, for `""` and for Authorization.
pub struct ServingStatusHandle(HealthReporter);

impl ServingStatusHandle {
    /// From now on the status is SERVING.
    pub async fn set_serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// From now on the status is NOT_SERVING.
    pub async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        self.0.set_service_status("", status).await;
        self.0.set_service_status(SERVICE_NAME, status).await;
    }
}

/// The health service, and its status: NOT_SERVING at first.
pub async fn routes() -> (Routes, ServingStatusHandle) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let service = service.max_decoding_message_size(MAX_MESSAGE);
    let status = ServingStatusHandle(reporter);
    // tonic's reporter starts with SERVING, which is not true yet.
    status.set_not_serving().await;
    (Routes::new(service), status)
}
