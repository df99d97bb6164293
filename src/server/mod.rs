//! The life of the process: build, serve, drain.
//!
//! Starting: the store is opened and recovered, the port bound. Serving: the engine runs and calls are accepted. Draining:
//! health says `NOT_SERVING`, attempts stop at a checkpoint and their tasks are requeued, streams end with UNAVAILABLE. Stopped: all
//! that was decided is durable. The grace bounds the drain: what does not end in time is cut, which is no worse than a
//! crash, and a crash loses nothing.

mod audit_log;
mod health;
mod listeners;
mod metrics;
mod services;
mod sizes;
mod systemd;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
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
use crate::clock::Clock;
use crate::config::LimitSettings;
use crate::config::network::Place;
use crate::engine;
use crate::engine::bounds::Bounds;
use crate::engine::handle::Engine;
use crate::engine::workers::{MakeParts, WorkerParts};
use crate::files::{ContentStore, Root, Roots};
use crate::listen::tls::{Tls, TlsError};
use crate::model::access::{AccessChange, AuthMode};
use crate::model::book::Book;
use crate::model::browser::BrowserRules;
use crate::model::identity::Identities;
use crate::model::secret::Secret;
use crate::model::spec::TaskOptions;
use crate::model::time::Timestamp;
use crate::net::HttpClient;
use crate::pb;
use crate::server::listeners::Listeners;
use crate::server::metrics::Figures;
use crate::server::services::{Around, Browsers, DESCRIPTORS};
use crate::store::sqlite::{self, OpenError, SqliteStore};
use crate::store::{Store, StoreError};
use crate::telemetry::calls::CallTracer;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Sender, Traces, TracesError};
use crate::web::Readiness;

/// What settings are made of.
pub use crate::api::access::{CallBounds, Exposure, Policy};
pub use crate::api::client_options::ClientOptions;
pub use crate::files::Durability;
pub use crate::files::names;
pub use crate::listen::tls::{ClientAuth, TlsSettings};
pub use crate::listen::{ListenSettings, descriptors};
pub use crate::net::{EnvironmentProxies, Guard};
pub use crate::server::audit_log::AuditSink;
pub use crate::store::Retention;
/// What is done with a data directory beside a server.
pub use crate::store::sqlite::{KeySource, RootKeys, access_beside, audit, backup, verify_audit};

/// What an engine needs to know.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where the database and fetched bodies are.
    pub data_dir: PathBuf,
    /// Where downloads go.
    pub download_dir: PathBuf,
    /// Where those of some tenants go, by their names.
    pub tenant_dirs: BTreeMap<String, PathBuf>,
    /// What is said about limits; what is not said is as it was stored.
    pub limits: LimitSettings,
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// The proxies of requests whose tasks name none; `None`: they go directly.
    pub proxies: Option<Arc<EnvironmentProxies>>,
    /// Whether finished downloads are synced.
    pub file_durability: Durability,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// How long a drain waits for requests that must not be sent twice.
    pub drain_patience: Duration,
    /// Bytes that downloads leave free on their file system; `None`: 1 GiB or 5 % of it, whichever is less.
    pub disk_reserve: Option<u64>,
    /// The most bytes of a download whose task sets no limit of its own; `None`: any number.
    pub max_download_bytes: Option<u64>,
    /// Whether partial downloads are found again by their URL and path, whatever job they belong to.
    pub parts_by_url: bool,
    /// Memory for tasks that wait for their turn, in bytes, roughly.
    pub queue_bytes: usize,
    /// Whether the database may be lost with the power: for one that is thrown away.
    pub scratch: bool,
    /// Where the key of the secrets in the database is.
    pub root_keys: RootKeys,
    /// How long it keeps what is not for ever.
    pub retention: Retention,
    /// The proxy that all requests of tasks go through.
    pub egress_proxy: Option<Secret>,
}

/// How often the head of the audit is logged.
const HEADS_INTERVAL: Duration = Duration::from_hours(1);

/// How long a drain waits for what is stored of calls.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The engine's part.
    pub engine: EngineSettings,
    /// Where calls are accepted.
    pub listen: Vec<Place>,
    /// Where metrics and probes are served alone; `None`: where calls are accepted.
    pub metrics_listen: Option<SocketAddr>,
    /// Hosts that have metrics of their own.
    pub metrics_hosts: Vec<String>,
    /// The certificates to show and to accept; `None`: nothing is encrypted.
    pub tls: Option<TlsSettings>,
    /// Which principals are known by certificates and users of this machine.
    pub identities: Identities,
    /// How many may connect, and how long they may be silent.
    pub bounds: ListenSettings,
    /// How long a request that is not whole may wait for its next byte.
    pub request_body_idle: Duration,
    /// Which web pages may call.
    pub browsers: BrowserRules,
    /// Whether there is a dashboard.
    pub has_dashboard: bool,
    /// Who has to authenticate.
    pub policy: Policy,
    /// Who may ask what the server tells of itself.
    pub exposure: Exposure,
    /// Whether the methods of the server can be listed by reflection.
    pub has_reflection: bool,
    /// What was given up for other machines, as the contract names it.
    pub insecure: &'static str,
    /// The longest that a token may last.
    pub token_lifetime_max: Duration,
    /// How often somebody may call, and fail.
    pub call_bounds: CallBounds,
    /// Of how many attempts of a large job that did not fail a collector of traces is told, from 0 to 1.
    pub trace_ratio: f64,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
    /// Where the audit is written beside the database.
    pub audit_log: Option<AuditSink>,
    /// What tasks may say about how they are sent.
    pub client_options: ClientOptions,
}

/// Takes from the settings what is said about browsers.
fn browsers(settings: &ServerSettings) -> Browsers {
    Browsers {
        rules: settings.browsers.clone(),
        has_dashboard: settings.has_dashboard,
        is_behind_tls: settings.insecure == "plaintext",
    }
}

/// Why a server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] Box<OpenError>),
    /// The download directory, or that of contents, could not be used.
    #[error("{0}")]
    Directory(String),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] engine::StartError),
    /// The store failed while the server ran.
    #[error("{0}; the server ends, so that a restart can read what is really there")]
    Store(#[from] StoreError),
    /// That tokens are needed could not be stored.
    #[error(transparent)]
    Engine(#[from] engine::command::EngineError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Other machines can reach it, and nothing says who calls.
    #[error(
        "`{0}` is `{1}`, which other machines can reach, and nobody could sign in: make a token first, by `haul token \
         create NAME --grant operator --offline`, or name who has which certificate by `[[identity]]` in the settings file"
    )]
    NobodySignsIn(&'static str, String),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// A place could not be listened at.
    #[error("cannot listen on `{1}`: {2}; choose another `--{0}`")]
    Listen(&'static str, String, std::io::Error),
    /// The descriptors that are built in do not fit together.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// An engine that is ready to run, and what reads beside it.
pub struct Built {
    /// What is called.
    pub engine: Engine,
    /// Its own work, to be run.
    pub task: engine::EngineTask,
    /// The reading half of its store.
    pub store: Arc<dyn Store>,
    /// What its attempts send with.
    client: Arc<HttpClient>,
    /// How long that took.
    recovery: Duration,
}

/// Opens the store and makes an engine of it, which counts what it does in `metrics` and tells `traces` of it.
pub async fn build(
    settings: &EngineSettings,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
) -> Result<Built, ServeError> {
    let begun = Instant::now();
    let durability = if settings.scratch { sqlite::Durability::Off } else { sqlite::Durability::Full };
    let (store, mut writer) =
        SqliteStore::open_with(&settings.data_dir, durability, &settings.root_keys).await.map_err(Box::new)?;
    writer.retain(settings.retention);
    let store: Arc<dyn Store> = store;
    let limits = settings.limits.over(store.limits().await?);
    let directory = |failure: crate::model::failure::Failure| ServeError::Directory(failure.message);
    // Of all threads, so that none dials where another has a connection to spare.
    let client = HttpClient::new(settings.guard.clone()).with_proxies(settings.proxies.clone());
    let client = client.with_egress(settings.egress_proxy.clone());
    let client = Arc::new(client.with_metrics(metrics.clone()));
    let parts = engine::EngineParts {
        clock: Clock::system(),
        store: store.clone(),
        limits,
        roots: Roots::new(
            Root::with_reserve(&settings.download_dir, settings.disk_reserve).map_err(directory)?,
            settings.download_dir.clone(),
            settings.tenant_dirs.clone(),
        ),
        content: Arc::new(
            ContentStore::open(&settings.data_dir.join("content"), settings.disk_reserve).map_err(directory)?,
        ),
        aside: settings.data_dir.join("partials"),
        durability: settings.file_durability,
        retry_after_max: settings.retry_after_max,
        drain_patience: settings.drain_patience,
        parts_by_url: settings.parts_by_url,
        max_download_bytes: settings.max_download_bytes,
        bounds: Bounds {
            queue_bytes: settings.queue_bytes,
            jobs_bytes: settings.queue_bytes.saturating_mul(Bounds::JOBS),
            ..Bounds::default()
        },
        checks: engine::Checks::Off,
        workers: std::thread::available_parallelism().map_or(1, usize::from).min(8),
        make: workers(client.clone()),
        metrics,
        traces,
    };
    let (engine, task) = engine::start(parts, Box::new(writer), rand::random()).await?;
    Ok(Built { engine, task, store, client, recovery: begun.elapsed() })
}

fn workers(client: Arc<HttpClient>) -> MakeParts {
    Arc::new(move || {
        let (client, closing) = (client.clone(), client.clone());
        WorkerParts { transport: client, close: Box::new(move || Box::pin(async move { closing.close().await })) }
    })
}

/// Checks the options of tasks as `SubmitJob` does, and converts them. The status names every violation.
pub fn task_options(options: pb::TaskOptions) -> Result<TaskOptions, Status> {
    let mut violations = Violations::default();
    let checked = options::task_options(options, "options", &mut violations);
    violations.or(checked)
}

/// Serves until `stop` is done, a client calls `Drain`, or the engine fails. Reads the certificates anew when `reload`
/// changes. Calls `ready` with where it listens, in the order of the settings, once calls are accepted.
pub async fn serve(
    settings: ServerSettings,
    stop: impl Future<Output = ()>,
    reload: watch::Receiver<()>,
    ready: impl FnOnce(&[String]),
) -> Result<(), ServeError> {
    let tls = settings.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let counted = Arc::new(Metrics::new(metrics::words(settings.metrics_hosts.clone(), &DESCRIPTORS)));
    let (traces, sender) = Traces::start(settings.trace_ratio, counted.clone())?.unzip();
    let Built { engine, task, store, client, recovery } =
        build(&settings.engine, counted.clone(), traces.clone()).await?;
    judge_places(&settings, &engine.books().borrow().clone(), engine.now())?;
    let listeners = listen(&settings, tls.as_ref()).await?;
    let addresses = listeners.addresses();

    let closing = CancellationToken::new();
    let shutdown = Shutdown::default();
    let (reporter, served_health) = tonic_health::server::health_reporter();
    let readiness = watch::Sender::new(Readiness::Ready);
    health::report(&reporter, &readiness, Readiness::Ready).await;
    health::live(&reporter).await;
    let (room, sizes) = sizes::Room::look_at(&settings.engine).await;
    let facts = facts(&settings, tls.as_ref(), sizes.subscribe());
    let routes = routes(&settings, facts, &engine, &store, &shutdown, &closing)?.add_service(served_health);
    let access = judge(&settings, &engine, &closing);
    let directories = [settings.engine.data_dir.clone(), settings.engine.download_dir.clone()];
    let figures = Figures::new(directories, engine.clone(), client, counted.clone(), readiness.subscribe(), recovery);
    let mut around = around(&settings, readiness.subscribe(), access.clone(), counted, figures.clone());
    around.tracer = traces.map(|traces| tracer(traces, &engine));

    let mut work = JoinSet::from_iter([async move { task.run().await.map_err(ServeError::from) }]);
    prepare_access(&settings, &engine).await?;
    let mut calls = listeners.serve(&settings.engine.data_dir, routes, &around, &settings.bounds, &closing);
    let mut following = keep_on(&settings, &access, &engine, store, figures, &closing);
    following.spawn(room.keep(sizes, closing.clone()));
    let telling = Telling::start(sender);
    if let Some(tls) = tls {
        following.spawn(tls.follow(reload, closing.clone()));
    }
    ready(&addresses);
    systemd::ready();

    let early = tokio::select! {
        () = stop => None,
        () = shutdown.asked.cancelled() => None,
        never = health::follow(&reporter, &readiness, engine.condition()) => match never {},
        ended = work.join_next() => ended,
        ended = calls.join_next() => {
            // Without its port the server is of no use: it drains what runs.
            tracing::error!("calls are not taken any more: {ended:?}");
            None
        }
    };
    log_end(early.as_ref());
    systemd::stopping(settings.shutdown_grace);
    health::report(&reporter, &readiness, Readiness::Draining).await;
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
        health::end(reporter).await;
        calls.join_all().await;
        following.join_all().await;
        telling.end().await;
    };
    if tokio::time::timeout(settings.shutdown_grace, drain).await.is_err() {
        tracing::warn!("the drain took longer than its grace; what was left is cut and runs again after a restart");
    }
    match ended {
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

/// What stands around the services.
fn around(
    settings: &ServerSettings,
    readiness: watch::Receiver<Readiness>,
    access: Access,
    metrics: Arc<Metrics>,
    figures: Figures,
) -> Around {
    Around {
        readiness,
        browsers: browsers(settings),
        access,
        request_body_idle: settings.request_body_idle,
        metrics,
        tracer: None,
        scrape: figures.scrape(),
    }
}

/// What tells a collector of calls.
fn tracer(traces: Arc<Traces>, engine: &Engine) -> CallTracer {
    let engine = engine.clone();
    CallTracer { traces, now: Arc::new(move || engine.now()) }
}

/// The sender of spans, where there is a collector.
struct Telling {
    closing: CancellationToken,
    sending: JoinSet<()>,
}

impl Telling {
    fn start(sender: Option<Sender>) -> Telling {
        let closing = CancellationToken::new();
        let sending = sender.into_iter().map(|sender| sender.run(closing.clone())).collect();
        Telling { closing, sending }
    }

    /// Ends it when the last calls have been told of.
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

/// Does what is done from time to time, until `closing`.
fn keep_on(
    settings: &ServerSettings,
    access: &Access,
    engine: &Engine,
    store: Arc<dyn Store>,
    figures: Figures,
    closing: &CancellationToken,
) -> JoinSet<()> {
    let mut all = JoinSet::from_iter([access.clone().keep(closing.clone())]);
    all.spawn(log_audit_heads(store.clone(), closing.clone()));
    if let Some(sink) = settings.audit_log.clone() {
        all.spawn(audit_log::follow(store, sink, closing.clone()));
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
    closing: &CancellationToken,
) -> Result<Routes, ServeError> {
    let watchers = Watchers::default();
    Ok(services::routes(
        settings.has_reflection,
        Jobs::new(
            engine.clone(),
            store.clone(),
            closing.clone(),
            shutdown.begun.clone(),
            watchers.clone(),
            settings.client_options,
        ),
        Contents::new(engine.clone(), store.clone(), closing.clone(), watchers),
        AccessApi::new(engine.clone(), store.clone(), settings.token_lifetime_max),
        Admin::new(engine.clone(), store.clone(), shutdown.clone(), facts),
    )?)
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

/// Returns whether the settings ask that every caller authenticates, which then holds for later starts too.
fn asks_for_credentials(settings: &ServerSettings) -> bool {
    let has_certificates = settings.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    settings.policy.mode == AuthMode::Required || has_certificates || !settings.identities.is_empty()
}

/// Stores that every caller authenticates, where that is asked for.
async fn keep_required(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    if asks_for_credentials(settings) {
        engine.change_access(AccessChange::Require).await?;
    }
    Ok(())
}

/// Does what the settings ask for of principals and tenants, before anybody calls.
async fn prepare_access(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    keep_required(settings, engine).await?;
    make_tenants(settings, engine).await
}

/// Makes the tenants that the settings name and that do not exist.
async fn make_tenants(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    for name in settings.engine.tenant_dirs.keys() {
        if engine.books().borrow().tenant(name).is_none() {
            let (name, patch, request_id) = (name.clone(), Box::default(), String::new());
            engine.change_access(AccessChange::CreateTenant { name, patch, request_id }).await?;
        }
    }
    Ok(())
}

/// Checks settings as a start does, without a start: the certificates, where traces go, and that somebody can sign in where other machines
/// reach the server. Changes nothing. Returns who could sign in: nobody, where nobody was ever made.
pub async fn check(settings: &ServerSettings) -> Result<Book, ServeError> {
    if let Some(tls) = settings.tls.clone() {
        Tls::load(tls)?;
    }
    traces::check()?;
    let book = access_beside(&settings.engine.data_dir).await.map_err(Box::new)?;
    judge_places(settings, &book, Clock::system().now())?;
    Ok(book)
}

/// Fails where a place of the settings may not be reached.
fn judge_places(settings: &ServerSettings, book: &Book, now: Timestamp) -> Result<(), ServeError> {
    let metrics = settings.metrics_listen.map(|at| ("metrics_listen", Place::Address(at)));
    let places = settings.listen.iter().map(|place| ("listen", place.clone())).chain(metrics);
    match places.into_iter().find(|(_, place)| !may_reach(place, settings, book, now)) {
        Some((setting, place)) => Err(ServeError::NobodySignsIn(setting, place.to_string())),
        None => Ok(()),
    }
}

/// Returns whether the server may be reached at a place: from other machines only where callers authenticate, and somebody
/// can.
fn may_reach(place: &Place, settings: &ServerSettings, book: &Book, now: Timestamp) -> bool {
    let policy = settings.policy;
    let is_required = policy.mode != AuthMode::Off && (policy.is_required(book) || asks_for_credentials(settings));
    let has_users = book.has_users(now) || !settings.identities.is_empty();
    place.is_near() || policy.is_open || (is_required && has_users)
}
