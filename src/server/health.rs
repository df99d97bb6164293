//! What the health service says, and when.

use std::convert::Infallible;

use tokio::sync::watch;
use tonic::server::NamedService as _;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::api::access::service::AccessApi;
use crate::api::admin::Admin;
use crate::api::content::Contents;
use crate::api::inbound::QUESTION_BYTES_MAX;
use crate::api::jobs::Jobs;
use crate::engine::writer::Condition;
use crate::pb::access_service_server::AccessServiceServer;
use crate::pb::admin_service_server::AdminServiceServer;
use crate::pb::content_service_server::ContentServiceServer;
use crate::pb::job_service_server::JobServiceServer;
use crate::web::Readiness;

/// The services that have a health of their own, and the empty name for the server as a whole.
const SERVICES: [&str; 5] = [
    "",
    JobServiceServer::<Jobs>::NAME,
    ContentServiceServer::<Contents>::NAME,
    AdminServiceServer::<Admin>::NAME,
    AccessServiceServer::<AccessApi>::NAME,
];

/// The name under which health says that the process is alive, while it drains too: a liveness probe must not kill a drain.
const LIVE: &str = "live";

/// Makes the service, and what tells it.
pub(super) fn service() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    (reporter, service.max_decoding_message_size(QUESTION_BYTES_MAX))
}

/// Says that the process is alive.
pub(super) async fn live(reporter: &HealthReporter) {
    reporter.set_service_status(LIVE, tonic_health::ServingStatus::Serving).await;
}

/// Updates health whenever the store becomes writable, and whenever it stops being so.
pub(super) async fn follow(
    reporter: &HealthReporter,
    readiness: &watch::Sender<Readiness>,
    mut condition: watch::Receiver<Condition>,
) -> Infallible {
    while condition.changed().await.is_ok() {
        let is_writable = *condition.borrow_and_update() == Condition::Writable;
        report(reporter, readiness, if is_writable { Readiness::Ready } else { Readiness::Store }).await;
    }
    // The writer has ended, and so will the engine.
    std::future::pending().await
}

pub(super) async fn report(reporter: &HealthReporter, readiness: &watch::Sender<Readiness>, now: Readiness) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    readiness.send_replace(now);
    let status = if now == Readiness::Ready { Serving } else { NotServing };
    for name in SERVICES {
        reporter.set_service_status(name, status).await;
    }
}

/// Ends the streams that follow health, which would otherwise hold their connections open until the grace is over.
pub(super) async fn end(mut reporter: HealthReporter) {
    for name in SERVICES.into_iter().chain([LIVE]) {
        reporter.clear_service_status(name).await;
    }
}
