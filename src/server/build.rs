//! An engine of the settings: its store, its directories, and what its attempts send with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::engine;
use crate::engine::bounds::Bounds;
use crate::engine::handle::Engine;
use crate::engine::workers::{MakeParts, WorkerParts};
use crate::files::{ContentStore, Root, Roots};
use crate::listen::descriptors;
use crate::net::HttpClient;
use crate::server::error::ServeError;
use crate::server::settings::EngineSettings;
use crate::store::Store;
use crate::store::sqlite::{self, SqliteStore};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// An engine that is ready to run, and what reads beside it.
pub struct Built {
    /// What is called.
    pub engine: Engine,
    /// Its own work, to be run.
    pub task: engine::EngineTask,
    /// The reading half of its store.
    pub store: Arc<dyn Store>,
    /// What its attempts send with.
    pub(super) client: Arc<HttpClient>,
    /// How long that took.
    pub(super) recovery: Duration,
}

/// Opens the store and makes an engine of it, which counts what it does in `metrics` and reports it to `traces`.
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
    let bounds = Bounds {
        queue_bytes: settings.queue_bytes,
        jobs_bytes: settings.queue_bytes.saturating_mul(Bounds::JOBS),
        attempts: descriptors::attempts(descriptors::limit()),
        ..Bounds::default()
    };
    bounds.warn_of(&limits);
    let parts = engine::EngineParts {
        clock: Clock::system(),
        store: store.clone(),
        limits,
        roots: Roots::new(
            Root::with_reserve(&settings.download_dir, settings.disk_reserve).map_err(directory)?,
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
        bounds,
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
