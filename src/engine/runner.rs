//! Running attempts: each on a transfer thread, under its token and its deadlines, through a limited transport.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::engine::attempt::KeepPages;
use crate::engine::bounds::Bounds;
use crate::engine::job_files::JobFiles;
use crate::engine::workers::{MakeParts, Worker, Workers};
use crate::files::{ContentStore, Durability, Roots};
use crate::limits::hosts::Hosts;
use crate::limits::rate::ByteRate;
use crate::model::limits::Limits;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// What an engine is made of.
pub struct EngineParts {
    /// The clock that every decision and stamp goes by.
    pub clock: Clock,
    /// The reading half of the store.
    pub store: Arc<dyn Store>,
    /// The limits in force at the start.
    pub limits: Limits,
    /// Where downloads go, of each tenant.
    pub roots: Roots,
    /// Where long bodies go.
    pub content: Arc<ContentStore>,
    /// Where partial downloads of ended jobs are kept for a retry; on the download root's file system, or they are lost.
    pub aside: PathBuf,
    /// Whether finished downloads are synced.
    pub durability: Durability,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// How long a drain waits for requests that must not be sent twice.
    pub drain_patience: Duration,
    /// Whether partial downloads are found again by URL and path, whatever job they belong to.
    pub parts_by_url: bool,
    /// The most bytes of a download whose task sets no limit of its own; `None`: any number.
    pub max_download_bytes: Option<u64>,
    /// How much is held, read and moved at once.
    pub bounds: Bounds,
    /// Threads for transfers; 0: attempts and commits run on the caller's runtime, as simulations need.
    pub workers: usize,
    /// Makes what each thread has.
    pub make: MakeParts,
    /// Where what happens is counted.
    pub metrics: Arc<Metrics>,
    /// Who is told of attempts and jobs that ended, if anybody is.
    pub traces: Option<Arc<Traces>>,
    /// What the scheduler checks of itself.
    pub checks: Checks,
}

/// What a scheduler checks of itself, and ends the process for. Slow; for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Nothing.
    Off,
    /// Its invariants after each step.
    Invariants,
    /// Its invariants, and that memory and store never contradict each other.
    All,
}

/// Runs attempts, and has what they need. Shared by the scheduler and those who call it.
pub(crate) struct Runner {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) server_bytes: Arc<ByteRate>,
    pub(crate) roots: Arc<Roots>,
    pub(crate) content: Arc<ContentStore>,
    pub(crate) files: Arc<JobFiles>,
    pub(crate) durability: Durability,
    pub(crate) retry_after_max: Duration,
    pub(crate) max_download_bytes: Option<u64>,
    pub(crate) drain_patience: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Option<Arc<Traces>>,
    /// The root of all attempts' tokens.
    pub(crate) token: CancellationToken,
    workers: Mutex<Option<Workers>>,
    pages: OnceLock<Box<dyn KeepPages>>,
}

impl Runner {
    /// Starts the transfer threads. Returns what runs attempts, and the ways to these threads.
    pub(crate) async fn start(parts: EngineParts) -> std::io::Result<(Runner, Vec<Worker>)> {
        let (threads, workers) = Workers::start(parts.workers, &parts.make).await?;
        let roots = Arc::new(parts.roots);
        let runner = Runner {
            hosts: Hosts::with_attempts(parts.limits.clone(), parts.bounds.attempts, parts.clock.clone()),
            server_bytes: Arc::new(ByteRate::new(parts.limits.bytes_per_second)),
            files: Arc::new(JobFiles::new(
                roots.clone(),
                parts.content.clone(),
                parts.aside,
                parts.store.clone(),
                parts.parts_by_url,
            )),
            clock: parts.clock,
            store: parts.store,
            roots,
            content: parts.content,
            durability: parts.durability,
            retry_after_max: parts.retry_after_max,
            max_download_bytes: parts.max_download_bytes,
            drain_patience: parts.drain_patience,
            metrics: parts.metrics,
            traces: parts.traces,
            token: CancellationToken::new(),
            workers: Mutex::new(Some(threads)),
            pages: OnceLock::new(),
        };
        Ok((runner, workers))
    }

    /// Sets where attempts keep their pages. Only the first call counts.
    pub(crate) fn connect(&self, pages: Box<dyn KeepPages>) {
        let _ = self.pages.set(pages);
    }

    /// Where attempts keep their pages; `None` before [`Runner::connect`].
    pub(crate) fn pages(&self) -> Option<&dyn KeepPages> {
        self.pages.get().map(|pages| &**pages)
    }

    /// Waits for the ends of the transfer threads. All ways to them must be gone.
    pub(crate) async fn shutdown(&self) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(workers) = workers {
            workers.shutdown().await;
        }
    }
}
