//! The life of the process: build, serve, drain.
//!
//! Starting: the store is opened and recovered, the port bound. Serving: the engine runs and calls are accepted. Draining:
//! health says `NOT_SERVING`, attempts stop at a checkpoint and their tasks are requeued, streams end with UNAVAILABLE. Stopped: all
//! that was decided is durable. The grace bounds the drain: what does not end in time is cut, which is no worse than a
//! crash, and a crash loses nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::api::access::Access;
use crate::api::access::service::AccessApi;
use crate::api::admin::{Admin, Shutdown};
use crate::api::complete::CompleteErrors;
use crate::api::content::Contents;
use crate::api::deadline::Deadlines;
use crate::api::guard::BrowserGuard;
use crate::api::inbound::Inbound;
use crate::api::jobs::Jobs;
use crate::api::options;
use crate::api::status::Violations;
use crate::clock::Clock;
use crate::config::LimitSettings;
use crate::engine;
use crate::engine::bounds::Bounds;
use crate::engine::handle::Engine;
use crate::engine::workers::{MakeParts, WorkerParts};
use crate::engine::writer::Condition;
use crate::files::{ContentStore, Root};
use crate::listen::accept;
use crate::listen::calls::Answers;
use crate::listen::socket::Socket;
use crate::listen::tls::{Tls, TlsError};
use crate::model::access::{AccessChange, AuthMode};
use crate::model::browser::BrowserRules;
use crate::model::spec::TaskOptions;
use crate::net::HttpClient;
use crate::pb;
use crate::pb::access_service_server::AccessServiceServer;
use crate::pb::admin_service_server::AdminServiceServer;
use crate::pb::content_service_server::ContentServiceServer;
use crate::pb::job_service_server::JobServiceServer;
use crate::rest::{BodyBounds, Rest};
use crate::store::sqlite::{self, OpenError, SqliteStore};
use crate::store::{Store, StoreError};
use crate::web::{Readiness, Steer, Web};

/// What settings are made of.
pub use crate::api::access::{CallBounds, Policy};
pub use crate::files::Durability;
pub use crate::files::names;
pub use crate::listen::tls::{ClientAuth, TlsSettings};
pub use crate::listen::{ListenSettings, descriptors};
pub use crate::net::{EnvironmentProxies, Guard};
/// What is done with a data directory beside a server.
pub use crate::store::sqlite::{KeySource, RootKeys, audit, backup, verify_audit};

/// The largest message that is accepted, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What an engine needs to know.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where the database and fetched bodies are.
    pub data_dir: PathBuf,
    /// Where downloads go.
    pub download_dir: PathBuf,
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
}

/// The socket in the data directory by which the server's own user calls.
const SOCKET: &str = "haul.sock";
/// How often the head of the audit is logged.
const HEADS_INTERVAL: Duration = Duration::from_hours(1);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The engine's part.
    pub engine: EngineSettings,
    /// Where calls are taken. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The certificates to show and to take; `None`: nothing is encrypted.
    pub tls: Option<TlsSettings>,
    /// How many may connect, and how long they may be silent.
    pub bounds: ListenSettings,
    /// How long a request that is not whole may wait for its next byte.
    pub request_body_idle: Duration,
    /// Which web pages may call.
    pub browsers: BrowserRules,
    /// Whom it takes callers for.
    pub policy: Policy,
    /// What was given up for other machines, as the contract names it.
    pub insecure: &'static str,
    /// The longest that a token may last.
    pub token_lifetime_max: Duration,
    /// How often somebody may call, and fail.
    pub call_bounds: CallBounds,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
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
        "`listen` is `{0}`, which other machines can reach, and nobody could sign in: make a token first, by `haul token \
         create NAME --grant operator --offline`, or set `--tls-client-ca`"
    )]
    NobodySignsIn(SocketAddr),
    /// The port could not be bound.
    #[error("cannot listen on `{0}`: {1}; choose another `--listen`")]
    Listen(SocketAddr, std::io::Error),
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
}

/// Opens the store and makes an engine of it.
pub async fn build(settings: &EngineSettings) -> Result<Built, ServeError> {
    let durability = if settings.scratch { sqlite::Durability::Off } else { sqlite::Durability::Full };
    let (store, writer) =
        SqliteStore::open_with(&settings.data_dir, durability, &settings.root_keys).await.map_err(Box::new)?;
    let store: Arc<dyn Store> = store;
    let limits = settings.limits.over(store.limits().await?);
    let directory = |failure: crate::model::failure::Failure| ServeError::Directory(failure.message);
    let parts = engine::EngineParts {
        clock: Clock::system(),
        store: store.clone(),
        limits,
        root: Arc::new(Root::with_reserve(&settings.download_dir, settings.disk_reserve).map_err(directory)?),
        content: Arc::new(
            ContentStore::open(&settings.data_dir.join("content"), settings.disk_reserve).map_err(directory)?,
        ),
        aside: settings.data_dir.join("partials"),
        durability: settings.file_durability,
        retry_after_max: settings.retry_after_max,
        parts_by_url: settings.parts_by_url,
        max_download_bytes: settings.max_download_bytes,
        bounds: Bounds { queue_bytes: settings.queue_bytes, ..Bounds::default() },
        checks: false,
        workers: std::thread::available_parallelism().map_or(1, usize::from).min(8),
        make: workers(settings.guard.clone(), settings.proxies.clone()),
    };
    let (engine, task) = engine::start(parts, Box::new(writer), rand::random()).await?;
    Ok(Built { engine, task, store })
}

fn workers(guard: Guard, proxies: Option<Arc<EnvironmentProxies>>) -> MakeParts {
    // Of all threads, so that none dials where another has a connection to spare.
    let client = Arc::new(HttpClient::new(guard).with_proxies(proxies));
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
/// changes. Calls `ready` with the address once calls are accepted.
pub async fn serve(
    settings: ServerSettings,
    stop: impl Future<Output = ()>,
    reload: watch::Receiver<()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let tls = settings.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let Built { engine, task, store } = build(&settings.engine).await?;
    if !may_listen(&settings, &engine) {
        return Err(ServeError::NobodySignsIn(settings.listen));
    }
    let cannot_listen = |error| ServeError::Listen(settings.listen, error);
    let listener = TcpListener::bind(settings.listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;

    let closing = CancellationToken::new();
    let shutdown = Shutdown::default();
    let (reporter, health) = tonic_health::server::health_reporter();
    let readiness = watch::Sender::new(Readiness::Ready);
    report(&reporter, &readiness, Readiness::Ready).await;
    reporter.set_service_status(LIVE, tonic_health::ServingStatus::Serving).await;
    let services = services(&settings, &engine, &store, &shutdown, &closing)?.add_service(health);
    let access = Access::new(engine.clone(), settings.policy, settings.call_bounds, &DESCRIPTORS);
    let probes = readiness.subscribe();
    let layered = layered(services, probes, settings.browsers, access.clone(), settings.request_body_idle);

    let mut work = JoinSet::from_iter([async move { task.run().await.map_err(ServeError::from) }]);
    keep_required(settings.policy, &engine).await?;
    let mut calls = JoinSet::new();
    if let Some(socket) = socket(&settings.engine.data_dir) {
        calls.spawn(socket.serve(layered.clone(), settings.bounds.clone(), closing.clone()));
    }
    calls.spawn(accept::serve(listener, layered, tls.clone(), settings.bounds, closing.clone()));
    let mut following = JoinSet::from_iter([access.clone().keep(closing.clone())]);
    following.spawn(tell_heads(store, closing.clone()));
    if let Some(tls) = tls {
        following.spawn(tls.follow(reload, closing.clone()));
    }
    ready(address);

    let early = tokio::select! {
        () = stop => None,
        () = shutdown.asked.cancelled() => None,
        never = follow(&reporter, &readiness, engine.condition()) => match never {},
        ended = work.join_next() => ended,
        ended = calls.join_next() => {
            // Without its port the server is of no use: it drains what runs.
            tracing::error!("calls are not taken any more: {ended:?}");
            None
        }
    };
    tell_end(early.as_ref());
    report(&reporter, &readiness, Readiness::Draining).await;
    // How the engine ended counts, also when a call outlives the grace.
    let mut ended = early;
    let drain = async {
        access.flush().await;
        engine.drain().await;
        shutdown.begun.cancel();
        if ended.is_none() {
            ended = work.join_next().await;
        }
        closing.cancel();
        end_health(reporter).await;
        calls.join_all().await;
        following.join_all().await;
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

/// Listens at the socket of the data directory, whose lock is held. Where there can be none the server does without.
fn socket(data_dir: &Path) -> Option<Socket> {
    let path = data_dir.join(SOCKET);
    match Socket::bind(&path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(
                "cannot listen on `{}` ({error}), so the server's own user needs a token too, once there is one",
                path.display()
            );
            None
        }
    }
}

/// The services, but for health.
fn services(
    settings: &ServerSettings,
    engine: &Engine,
    store: &Arc<dyn Store>,
    shutdown: &Shutdown,
    closing: &CancellationToken,
) -> Result<Routes, ServeError> {
    let admins = Admin::new(engine.clone(), store.clone(), shutdown.clone(), settings.policy, settings.insecure);
    Ok(Routes::new(reflected().build_v1()?)
        .add_service(reflected().build_v1alpha()?)
        .add_service(jobs(Jobs::new(engine.clone(), store.clone(), closing.clone())))
        .add_service(contents(Contents::new(engine.clone(), store.clone(), closing.clone())))
        .add_service(people(AccessApi::new(engine.clone(), store.clone(), settings.token_lifetime_max)))
        .add_service(admin(admins)))
}

/// Logs the head of the audit at the start, each hour and at the end, so that a tail that is cut off shows.
async fn tell_heads(store: Arc<dyn Store>, closing: CancellationToken) {
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
fn tell_end(engine: Option<&Result<Result<(), ServeError>, JoinError>>) {
    match engine {
        Some(Ok(Err(error))) => tracing::error!("the engine has ended: {error}"),
        Some(Err(panic)) => tracing::error!("the engine panicked: {panic}"),
        Some(Ok(Ok(()))) | None => tracing::info!("draining"),
    }
}

/// Puts around the services what each request passes, from the outside in: the guard before anything runs; what is not
/// gRPC goes to plain HTTP, which calls the services as gRPC does; then gRPC-Web made plain gRPC, bounds on what has not
/// arrived, deadlines, and errors with all their details.
fn layered(
    services: Routes,
    readiness: watch::Receiver<Readiness>,
    browsers: BrowserRules,
    access: Access,
    request_body_idle: Duration,
) -> impl Answers {
    let judge = access.clone();
    let called = ServiceBuilder::new().layer(Deadlines).layer(CompleteErrors).service(services.prepare());
    let bounds = BodyBounds { bytes_max: MESSAGE_BYTES_MAX as u64, idle_max: request_body_idle };
    let within = ServiceBuilder::new().layer(access.clone()).service(called.clone());
    let web = Web::new(readiness, Rest::new(BoxCloneSyncService::new(within), bounds));
    let grpc = ServiceBuilder::new()
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(access)
        .layer(Inbound::new(request_body_idle, MESSAGE_BYTES_MAX as u64, &DESCRIPTORS))
        .service(called);
    ServiceBuilder::new()
        .layer(BrowserGuard::new(browsers, move || judge.is_token_needed()))
        .service(Steer::new(grpc, web))
}

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

/// Lets health follow whether anything can be committed.
async fn follow(
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

async fn report(reporter: &HealthReporter, readiness: &watch::Sender<Readiness>, now: Readiness) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    readiness.send_replace(now);
    let status = if now == Readiness::Ready { Serving } else { NotServing };
    for name in SERVICES {
        reporter.set_service_status(name, status).await;
    }
}

/// Ends the streams that follow health, which would otherwise hold their connections open until the grace is over.
async fn end_health(mut reporter: HealthReporter) {
    for name in SERVICES.into_iter().chain([LIVE]) {
        reporter.clear_service_status(name).await;
    }
}

fn jobs(service: Jobs) -> JobServiceServer<Jobs> {
    JobServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
}

fn contents(service: Contents) -> ContentServiceServer<Contents> {
    ContentServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
}

fn admin(service: Admin) -> AdminServiceServer<Admin> {
    AdminServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
}

fn people(service: AccessApi) -> AccessServiceServer<AccessApi> {
    AccessServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
}

/// Stores that tokens are needed, where that is asked for: it holds for later starts too.
async fn keep_required(policy: Policy, engine: &Engine) -> Result<(), ServeError> {
    if policy.mode == AuthMode::Required {
        engine.change_access(AccessChange::Require).await?;
    }
    Ok(())
}

/// Returns whether the server may be reached from where it listens: from other machines only where somebody has to say who
/// they are, and can.
fn may_listen(settings: &ServerSettings, engine: &Engine) -> bool {
    let books = engine.books();
    let book = books.borrow();
    let policy = settings.policy;
    let is_near = settings.listen.ip().to_canonical().is_loopback();
    let has_certificates = settings.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    is_near || policy.is_open || has_certificates || (policy.is_required(&book) && book.has_users(engine.now()))
}

/// The descriptors of all services whose clients or servers may stream.
const DESCRIPTORS: [&[u8]; 4] = [
    pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Registers the protos of haul, of health and of error details, so that a client without them reads all of these.
fn reflected() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
