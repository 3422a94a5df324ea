//! `grpc.health.v1.Health`, for Envoy's health checks and Kubernetes' gRPC probes.

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::SERVICE_NAME;
use crate::health::Readiness;

/// The health service, for `""` and for Authorization, NOT_SERVING until we are ready.
pub async fn routes(readiness: Readiness) -> Routes {
    let (reporter, service) = tonic_health::server::health_reporter();
    // tonic's reporter begins with SERVING, which would be a lie.
    report(&reporter, false).await;
    tokio::spawn(follow(reporter, readiness));
    Routes::new(service)
}

async fn follow(reporter: HealthReporter, mut readiness: Readiness) {
    loop {
        report(&reporter, readiness.is_ready()).await;
        if readiness.changed().await.is_err() {
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}
