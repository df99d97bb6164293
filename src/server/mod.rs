//! The life of the process: build, serve, drain.
//!
//! Starting: the store is opened and recovered, the port bound. Serving: the engine runs and calls are accepted. Draining:
//! health says `NOT_SERVING`, attempts stop at a checkpoint and their tasks are requeued, streams end with UNAVAILABLE. Stopped: all
//! that was decided is durable. The grace bounds the drain: what does not end in time is cut, which is no worse than a
//! crash, and a crash loses nothing.

mod admission;
mod audit_log;
mod build;
mod check;
mod error;
mod health;
mod listeners;
mod metrics;
mod services;
mod settings;
mod sizes;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

use crate::api::access::Access;
use crate::api::access::service::AccessApi;
use crate::api::admin::{Admin, Facts, Shutdown, Sizes};
use crate::api::content::Contents;
use crate::api::jobs::Jobs;
use crate::api::options;
use crate::api::status::Violations;
use crate::api::watchers::Watchers;
use crate::config::network::Place;
use crate::engine::Recovery;
use crate::engine::handle::Engine;
use crate::listen::tls::Tls;
use crate::model::spec::TaskOptions;
use crate::pb;
use crate::server::admission::{check_addresses, prepare_access};
use crate::server::health::HealthStatuses;
use crate::server::listeners::Listeners;
use crate::server::metrics::Figures;
use crate::server::services::{Browsers, DESCRIPTORS, Layers};
use crate::store::{Store, StoreError};
use crate::telemetry::calls::CallTracer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Sender, Traces};
use crate::web::Readiness;

/// What settings are made of.
pub use crate::api::access::{CallBounds, Exposure, Policy};
pub use crate::api::client_options::ClientOptions;
pub use crate::download::made_from;
pub use crate::files::names;
pub use crate::files::{Durability, Root};
pub use crate::listen::socket::Socket;
pub use crate::listen::tls::{ClientAuth, TlsSettings};
pub use crate::listen::{ListenSettings, descriptors};
pub use crate::net::{EnvironmentProxies, Guard, with_scheme};
pub use crate::server::audit_log::AuditSink;
pub use crate::server::build::{Built, build};
pub use crate::server::check::check;
pub use crate::server::error::ServeError;
pub use crate::server::settings::{EngineSettings, ServerSettings};
pub use crate::store::Retention;
/// What is done with a data directory beside a server.
pub use crate::store::sqlite::{Head, KeySource, RootKeys, audit, backup, has_key, is_free, verify_audit};

/// How often the head of the audit is logged.
const HEADS_INTERVAL: Duration = Duration::from_hours(1);

/// How long a drain waits for what is stored of calls.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Takes from the settings what is said about browsers.
fn browsers(settings: &ServerSettings) -> Browsers {
    Browsers {
        rules: settings.browsers.clone(),
        has_grpc_web: settings.has_grpc_web,
        has_dashboard: settings.has_dashboard,
        is_behind_tls: settings.insecure == "plaintext",
    }
}

/// Checks the options of tasks as `SubmitJob` does, and converts them. The status names every violation.
pub fn task_options(options: pb::TaskOptions) -> Result<TaskOptions, Status> {
    let mut violations = Violations::default();
    let checked = options::task_options(options, &"options", &mut violations);
    violations.or(checked)
}

/// What is said when a drain was not over in time.
const CUT_SHORT: &str = "the drain took longer than `--shutdown-grace`; the attempts that still ran were stopped and are made again \
                         after a restart";

/// Serves until `stop` is done, a client calls `Drain`, or the engine fails. Reads the certificates anew when `reload`
/// changes. Calls `ready` with where it listens, in the order of the settings, and with what the start took in, once calls are
/// accepted.
pub async fn serve(
    settings: ServerSettings,
    stop: impl Future<Output = ()>,
    reload: watch::Receiver<()>,
    ready: impl FnOnce(&[String], Recovery),
) -> Result<(), ServeError> {
    let tls = settings.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    check::surroundings(&settings)?;
    settings.audit_log.iter().for_each(audit_log::check);
    let counted = Arc::new(Metrics::new(metrics::label_values(settings.metrics_hosts.clone(), &DESCRIPTORS)));
    let (traces, sender) = Traces::start(settings.trace_ratio, counted.clone())?.unzip();
    let Built { engine, task, store, client, recovery } =
        build(&settings.engine, counted.clone(), traces.clone()).await?;
    let recovered = task.recovery();
    check_addresses(&settings, &engine.books().borrow().clone(), engine.now())?;
    let listeners = listen(&settings, tls.as_ref()).await?;
    let (addresses, bounds) = (listeners.addresses(), within_descriptors(&settings.bounds)?);

    let (closing, shutdown) = (CancellationToken::new(), Shutdown::default());
    let healths = HealthStatuses::new();
    let readiness = watch::Sender::new(Readiness::Ready);
    health::report(&healths, &readiness, Readiness::Ready);
    let (looked_at, sizes) = sizes::Directories::look_at(&settings.engine).await;
    let facts = facts(&settings, tls.as_ref(), sizes.subscribe());
    let access = judge(&settings, &engine, &closing);
    let routes =
        routes(&settings, facts, &engine, &store, &shutdown, &access, &closing)?.add_service(healths.service());
    let directories = [settings.engine.data_dir.clone(), settings.engine.download_dir.clone()];
    let figures = Figures::new(directories, engine.clone(), client, counted.clone(), readiness.subscribe(), recovery);
    let mut layers = layers(&settings, readiness.subscribe(), access.clone(), counted, figures.clone());
    layers.tracer = traces.map(|traces| tracer(traces, &engine));

    let last_row = audit_log::last_row(store.as_ref()).await?;
    let mut work = JoinSet::from_iter([async move { task.run().await.map_err(ServeError::from) }]);
    prepare_access(&settings, &engine).await?;
    let mut calls = listeners.serve(&settings.engine.data_dir, routes, &layers, &bounds, &closing);
    let mut following = keep_on(&settings, &access, &engine, (store, last_row), figures, &closing);
    following.spawn(looked_at.keep(sizes, closing.clone()));
    let telling = SpanExport::start(sender);
    if let Some(tls) = tls {
        following.spawn(tls.follow(reload, closing.clone()));
    }
    ready(&addresses, recovered);
    systemd::ready();

    let early = tokio::select! {
        () = stop => None,
        () = shutdown.asked.cancelled() => None,
        never = health::follow(&healths, &readiness, engine.condition()) => match never {},
        ended = work.join_next() => ended,
        ended = calls.join_next() => {
            // Without its port the server is of no use: it drains what runs.
            tracing::error!(error = ended.and_then(Result::err).map(tracing::field::display), "calls are not taken any more");
            None
        }
    };
    log_end(early.as_ref());
    systemd::stopping(settings.shutdown_grace);
    health::report(&healths, &readiness, Readiness::Draining);
    // How the engine ended counts, also when a call outlives the grace.
    let mut ended = early;
    let drain = async {
        flush_uses(&access).await;
        engine.drain().await;
        shutdown.begun.cancel();
        if ended.is_none() {
            ended = work.join_next().await;
        }
        closing.cancel();
        healths.end();
        calls.join_all().await;
        following.join_all().await;
        telling.end().await;
    };
    if tokio::time::timeout(settings.shutdown_grace, drain).await.is_err() {
        tracing::warn!("{CUT_SHORT}");
    }
    outcome(ended)
}

/// How the server ends by the end of its engine; `None` where that outlives the grace.
fn outcome(engine: Option<Result<Result<(), ServeError>, JoinError>>) -> Result<(), ServeError> {
    match engine {
        Some(Ok(result)) => result,
        Some(Err(panic)) => Err(StoreError::Fatal(format!("the engine panicked: {panic}")).into()),
        None => Ok(()),
    }
}

/// Makes the layer that knows who calls.
fn judge(settings: &ServerSettings, engine: &Engine, closing: &CancellationToken) -> Access {
    Access::new(
        engine.clone(),
        settings.policy,
        Arc::new(settings.identities.clone()),
        settings.exposure,
        settings.call_bounds,
        &DESCRIPTORS,
        closing.clone(),
    )
}

/// Listens at the places of the settings.
async fn listen(settings: &ServerSettings, tls: Option<&Arc<Tls>>) -> Result<Listeners, ServeError> {
    let bound = Listeners::bind(&settings.listen, settings.metrics_listen.map(Place::Address), tls).await;
    bound.map_err(|(flag, place, error)| ServeError::Listen(flag, place, error))
}

/// Returns these bounds with no more connections than there is room for beside what the server has opened for itself.
fn within_descriptors(bounds: &ListenSettings) -> Result<ListenSettings, descriptors::TooFew> {
    let room = descriptors::room(descriptors::limit(), descriptors::used())?;
    let connections_max = bounds.connections_max.min(usize::try_from(room).unwrap_or(usize::MAX));
    Ok(ListenSettings { connections_max, ..bounds.clone() })
}

/// What stands around the services.
fn layers(
    settings: &ServerSettings,
    readiness: watch::Receiver<Readiness>,
    access: Access,
    metrics: Arc<Metrics>,
    figures: Figures,
) -> Layers {
    Layers {
        readiness,
        browsers: browsers(settings),
        access,
        request_body_idle: settings.request_body_idle,
        metrics,
        tracer: None,
        scrape: figures.scrape(),
    }
}

/// Returns what makes a span of each call.
fn tracer(traces: Arc<Traces>, engine: &Engine) -> CallTracer {
    let engine = engine.clone();
    CallTracer { traces, now: Arc::new(move || engine.now()) }
}

/// The sender of spans, where there is a collector.
struct SpanExport {
    closing: CancellationToken,
    sending: JoinSet<()>,
}

impl SpanExport {
    fn start(sender: Option<Sender>) -> SpanExport {
        let closing = CancellationToken::new();
        let sending = sender.into_iter().map(|sender| sender.run(closing.clone())).collect();
        SpanExport { closing, sending }
    }

    /// Ends it when the spans of the last calls have been sent.
    async fn end(self) {
        self.closing.cancel();
        self.sending.join_all().await;
    }
}

/// Stores the last uses of tokens. What nobody waits for must not keep attempts from hearing of the drain.
async fn flush_uses(access: &Access) {
    if tokio::time::timeout(FLUSH_TIME, access.flush()).await.is_err() {
        tracing::warn!("the last uses of tokens were not stored in time");
    }
}

/// Does what is done from time to time, until `closing`. `audit`: the store, and the number of its last row when it started.
fn keep_on(
    settings: &ServerSettings,
    access: &Access,
    engine: &Engine,
    (store, last_row): (Arc<dyn Store>, u64),
    figures: Figures,
    closing: &CancellationToken,
) -> JoinSet<()> {
    let mut all = JoinSet::from_iter([access.clone().store_uses(closing.clone())]);
    all.spawn(log_audit_heads(store.clone(), closing.clone()));
    if let Some(sink) = settings.audit_log.clone() {
        all.spawn(audit_log::follow(store, sink, last_row, closing.clone()));
    }
    all.spawn(figures.follow_sizes(closing.clone()));
    all.spawn(systemd::watch(engine.clone(), closing.clone()));
    all
}

/// What the server is, for those who ask.
fn facts(settings: &ServerSettings, tls: Option<&Arc<Tls>>, sizes: watch::Receiver<Sizes>) -> Facts {
    Facts {
        policy: settings.policy,
        insecure: settings.insecure,
        tls: tls.cloned(),
        features: services::features(settings.has_dashboard),
        has_grpc_web: settings.has_grpc_web,
        cors_origins: settings.browsers.origins.clone(),
        sizes,
    }
}

/// The services, but for health.
fn routes(
    settings: &ServerSettings,
    facts: Facts,
    engine: &Engine,
    store: &Arc<dyn Store>,
    shutdown: &Shutdown,
    access: &Access,
    closing: &CancellationToken,
) -> Result<Routes, ServeError> {
    let watchers = Watchers::new(descriptors::files_read(descriptors::limit()));
    let jobs = Jobs::new(
        engine.clone(),
        store.clone(),
        closing.clone(),
        shutdown.begun.clone(),
        watchers.clone(),
        settings.client_options,
    );
    let admin = Admin::new(engine.clone(), store.clone(), shutdown.clone(), facts, &jobs);
    let contents = Contents::new(engine.clone(), store.clone(), closing.clone(), watchers);
    let access = AccessApi::new(engine.clone(), store.clone(), settings.token_lifetime_max, access.watches());
    Ok(services::routes(settings.has_reflection, jobs, contents, access, admin)?)
}

/// Logs the head of the audit at the start, each hour and at the end, so that a tail that is cut off shows.
async fn log_audit_heads(store: Arc<dyn Store>, closing: CancellationToken) {
    loop {
        let is_last = closing.is_cancelled();
        match store.audit_head().await {
            Ok(Some(head)) => tracing::info!("the head of the audit is {head}"),
            Ok(None) => {}
            Err(error) => tracing::warn!("the head of the audit cannot be read: {error}"),
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEADS_INTERVAL) => {}
            () = closing.cancelled() => {}
        }
    }
}

/// Says why the server ends; `None`: it was asked to.
fn log_end(engine: Option<&Result<Result<(), ServeError>, JoinError>>) {
    match engine {
        Some(Ok(Err(error))) => tracing::error!("the engine has ended: {error}"),
        Some(Err(panic)) => tracing::error!("the engine panicked: {panic}"),
        Some(Ok(Ok(()))) | None => tracing::info!("draining"),
    }
}
