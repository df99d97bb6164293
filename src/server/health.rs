//! What the health service says, and when.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

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

/// The health of each service: set by the server, checked and watched by clients.
#[derive(Clone, Debug)]
pub(super) struct HealthStatuses {
    all: Arc<HashMap<&'static str, watch::Sender<ServingStatus>>>,
    /// That of all names that are not among them.
    unknown: Arc<watch::Sender<ServingStatus>>,
    /// Ends the streams.
    ended: CancellationToken,
}

impl HealthStatuses {
    /// Makes the statuses of a server that is alive, and whose services do not serve yet.
    pub(super) fn new() -> HealthStatuses {
        let all = SERVICES.map(|name| (name, ServingStatus::NotServing)).into_iter();
        let all = all.chain([(LIVE, ServingStatus::Serving)]).map(|(name, status)| (name, watch::Sender::new(status)));
        let unknown = Arc::new(watch::Sender::new(ServingStatus::ServiceUnknown));
        HealthStatuses { all: Arc::new(all.collect()), unknown, ended: CancellationToken::new() }
    }

    /// Returns the service that is asked.
    pub(super) fn service(&self) -> HealthServer<impl Health> {
        HealthServer::new(self.clone()).max_decoding_message_size(QUESTION_BYTES_MAX)
    }

    /// Ends the streams that follow health, which would otherwise hold their connections open until the grace is over.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }
}

fn said(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthStatuses {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        // The text of the error is completed on its way out.
        let health = self.all.get(&*request.get_ref().service).ok_or_else(|| Status::not_found(""))?;
        Ok(Response::new(said(*health.borrow())))
    }

    /// Follows the health of a service. One that does not exist is `SERVICE_UNKNOWN`, and its stream stays open.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.all.get(&*request.get_ref().service);
        let mut health = known.map_or_else(|| self.unknown.subscribe(), watch::Sender::subscribe);
        health.mark_changed();
        let changes = unfold((health, self.ended.clone()), |(mut health, ended)| async move {
            // Before the end all are told how the server is.
            tokio::select! {
                biased;
                changed = health.changed() => changed.ok()?,
                () = ended.cancelled() => return None,
            }
            let now = *health.borrow_and_update();
            Some((Ok(said(now)), (health, ended)))
        });
        Ok(Response::new(changes.boxed()))
    }
}

/// Updates health whenever the store becomes writable, and whenever it stops being so.
pub(super) async fn follow(
    statuses: &HealthStatuses,
    readiness: &watch::Sender<Readiness>,
    mut condition: watch::Receiver<Condition>,
) -> Infallible {
    while condition.changed().await.is_ok() {
        let is_writable = *condition.borrow_and_update() == Condition::Writable;
        report(statuses, readiness, if is_writable { Readiness::Ready } else { Readiness::Store });
    }
    // The writer has ended, and so will the engine.
    std::future::pending().await
}

/// Says how the server is.
pub(super) fn report(statuses: &HealthStatuses, readiness: &watch::Sender<Readiness>, now: Readiness) {
    readiness.send_replace(now);
    let status = if now == Readiness::Ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for health in SERVICES.into_iter().filter_map(|name| statuses.all.get(name)) {
        health.send_if_modified(|told| std::mem::replace(told, status) != status);
    }
}
