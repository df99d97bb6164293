//! The services of the API, and what each request passes on its way to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::api::access::service::AccessApi;
use crate::api::access::{Access, BrowserSessions};
use crate::api::admin::Admin;
use crate::api::complete::CompleteErrors;
use crate::api::content::Contents;
use crate::api::deadline::Deadlines;
use crate::api::frames::SendFrames;
use crate::api::guard::BrowserGuard;
use crate::api::inbound::{Inbound, QUESTION_BYTES_MAX, WHOLE_TIMES};
use crate::api::jobs::Jobs;
use crate::api::outbound::Outbound;
use crate::api::request_id::NameRequests;
use crate::listen::calls::Answers;
use crate::middleware::MiddlewareLayer;
use crate::model::browser::BrowserRules;
use crate::pb;
use crate::pb::access_service_server::AccessServiceServer;
use crate::pb::admin_service_server::AdminServiceServer;
use crate::pb::content_service_server::ContentServiceServer;
use crate::pb::job_service_server::JobServiceServer;
use crate::rest::{self, BodyBounds, Rest};
use crate::telemetry::calls::{CallTracer, CountCalls};
use crate::telemetry::metrics::Metrics;
use crate::web::metrics::Scrape;
use crate::web::{self, Dispatch, Readiness, Web};

/// The largest message that is accepted, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The descriptors of all services whose clients or servers may stream.
pub(super) const DESCRIPTORS: [&[u8]; 4] = [
    pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Names what this server has beside gRPC.
pub(super) fn features(has_dashboard: bool) -> &'static [&'static str] {
    if has_dashboard { &["rest", "metrics", "web"] } else { &["rest", "metrics"] }
}

/// Gives a service the size of messages and the compression that all have.
macro_rules! tuned {
    ($server:ident, $service:expr) => {
        $server::new($service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd)
    };
}

/// Serves these, and reflection where `has_reflection`.
pub(super) fn routes(
    has_reflection: bool,
    jobs: Jobs,
    contents: Contents,
    access: AccessApi,
    admin: Admin,
) -> Result<Routes, tonic_reflection::server::Error> {
    let mut services = Routes::new(tuned!(JobServiceServer, jobs));
    if has_reflection {
        let v1 = reflected().build_v1()?.max_decoding_message_size(QUESTION_BYTES_MAX);
        let v1alpha = reflected().build_v1alpha()?.max_decoding_message_size(QUESTION_BYTES_MAX);
        services = services.add_service(v1).add_service(v1alpha);
    }
    Ok(services
        .add_service(tuned!(ContentServiceServer, contents))
        .add_service(tuned!(AccessServiceServer, access))
        .add_service(tuned!(AdminServiceServer, admin)))
}

/// What is said about browsers.
#[derive(Clone)]
pub(super) struct Browsers {
    /// Whose pages may call.
    pub(super) rules: BrowserRules,
    /// Whether they may call by gRPC-Web.
    pub(super) has_grpc_web: bool,
    /// Whether there are pages of the server's own.
    pub(super) has_dashboard: bool,
    /// Whether connections without TLS come from something that encrypts.
    pub(super) is_behind_tls: bool,
}

/// What the layers around the services are made of, and what is answered beside them.
#[derive(Clone)]
pub(super) struct Layers {
    pub(super) readiness: watch::Receiver<Readiness>,
    pub(super) browsers: Browsers,
    pub(super) access: Access,
    pub(super) request_body_idle: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Option<CallTracer>,
    pub(super) scrape: Scrape,
}

impl Layers {
    /// What is scraped, for everybody.
    fn open_page(&self) -> rest::Services {
        BoxCloneSyncService::new(web::metrics::service(self.scrape.clone()))
    }

    /// What is scraped, for who may.
    fn page(&self) -> rest::Services {
        let page = web::metrics::service(self.scrape.clone());
        BoxCloneSyncService::new(ServiceBuilder::new().layer(MiddlewareLayer(self.access.clone())).service(page))
    }

    /// Where sessions of browsers begin and end.
    fn browser_sessions(&self) -> BrowserSessions {
        self.access.browser_sessions(self.browsers.is_behind_tls)
    }

    fn guard(&self) -> BrowserGuard {
        let judge = self.access.clone();
        BrowserGuard::new(self.browsers.rules.clone(), move || judge.is_token_needed())
    }
}

/// Puts around the services what each request passes, from the outside in: its name; room for the answer; the guard before
/// anything runs; what is not gRPC goes to plain HTTP, which calls the services as gRPC does; then gRPC-Web made plain
/// gRPC, the count of calls, who calls, bounds on what has not arrived, deadlines, errors with all their details, and messages
/// that were framed for many.
pub(super) fn layered(services: Routes, layers: &Layers, has_metrics: bool) -> impl Answers + use<> {
    let Layers { readiness, browsers, access, request_body_idle, metrics, tracer, .. } = layers.clone();
    let count = CountCalls::new(metrics, "haul.v1").traced(tracer);
    let called = ServiceBuilder::new()
        .layer(MiddlewareLayer(Deadlines))
        .layer(MiddlewareLayer(CompleteErrors))
        .layer(MiddlewareLayer(SendFrames));
    let called = called.service(services.prepare());
    let whole_max = request_body_idle.saturating_mul(WHOLE_TIMES);
    let bounds = BodyBounds { bytes_max: MESSAGE_BYTES_MAX as u64, idle_max: request_body_idle, whole_max };
    let within = ServiceBuilder::new()
        .layer(MiddlewareLayer(count.clone()))
        .layer(MiddlewareLayer(access.clone()))
        .service(called.clone());
    let rest = Rest::new(BoxCloneSyncService::new(within), bounds, layers.browser_sessions());
    let page = has_metrics.then(|| layers.page());
    let web = Web::new(readiness, layers.browser_sessions(), Some(rest), page, browsers.has_dashboard);
    let grpc = ServiceBuilder::new()
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(MiddlewareLayer(count))
        .layer(MiddlewareLayer(access))
        .layer(MiddlewareLayer(Inbound::new(request_body_idle, MESSAGE_BYTES_MAX, &DESCRIPTORS)))
        .service(called);
    ServiceBuilder::new()
        .layer(MiddlewareLayer(NameRequests))
        .layer(MiddlewareLayer(Outbound::new(rest::ERRORS)))
        .layer(MiddlewareLayer(layers.guard()))
        .service(Dispatch::new(grpc, web, browsers.has_grpc_web))
}

/// Metrics and probes alone, for an address of their own. Where that is on this machine (`is_near`) its users need no token.
pub(super) fn metrics_alone(layers: &Layers, is_near: bool) -> impl Answers + use<> {
    let web = Web::new(layers.readiness.clone(), layers.browser_sessions(), None, Some(layers.page()), false);
    let web = if is_near { web.with_metrics_here(layers.open_page()) } else { web };
    ServiceBuilder::new()
        .layer(MiddlewareLayer(NameRequests))
        .layer(MiddlewareLayer(Outbound::new(rest::ERRORS)))
        .layer(MiddlewareLayer(layers.guard()))
        .service(web)
}

/// Registers the protos of haul, of health and of error details, so that a client without them reads all of these.
fn reflected() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
