//! Running attempts: each on a transfer thread, under its token and its deadlines, through a limited transport.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::engine::event::Command;
use crate::engine::parts::JobParts;
use crate::engine::work;
use crate::engine::workers::{MakeParts, Workers};
use crate::files::{ContentStore, Durability, Root};
use crate::limits::hosts::{HostPermit, Hosts};
use crate::limits::rate::ByteRate;
use crate::limits::transport::{JobRates, Limited};
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{Fence, TaskId};
use crate::model::limits::Limits;
use crate::model::outcome::{AttemptEnd, AttemptReport};
use crate::model::progress::Meter;
use crate::model::spec::{Options, TaskSpec};
use crate::model::time::Timestamp;
use crate::net::{Profile, Transport};
use crate::store::{NewPage, Store};

/// What an engine is made of.
pub struct RunnerParts {
    /// Where stamps come from.
    pub clock: Clock,
    /// What is read.
    pub store: Arc<dyn Store>,
    /// What holds at first.
    pub limits: Limits,
    /// Where downloads go.
    pub root: Arc<Root>,
    /// Where long bodies go.
    pub content: Arc<ContentStore>,
    /// Where partial downloads of ended jobs are kept for a retry; on the download root's file system, or they are lost.
    pub aside: PathBuf,
    /// Whether finished downloads are synced.
    pub durability: Durability,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// Whether partial downloads are found again by URL and path, whatever job they belong to.
    pub parts_by_url: bool,
    /// The most bytes of a download whose task sets no limit of its own; `None`: any number.
    pub max_download_bytes: Option<u64>,
    /// Threads for transfers.
    pub workers: usize,
    /// What each of them has.
    pub make: MakeParts,
}

/// Runs attempts. Shared by the scheduler and those who call it.
pub(crate) struct Runner {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) server_bytes: Arc<ByteRate>,
    pub(crate) root: Arc<Root>,
    pub(crate) content: Arc<ContentStore>,
    pub(crate) parts: Arc<JobParts>,
    pub(crate) durability: Durability,
    pub(crate) retry_after_max: Duration,
    pub(crate) max_download_bytes: Option<u64>,
    /// The root of all attempts' tokens.
    pub(crate) token: CancellationToken,
    workers: Mutex<Option<Workers>>,
    commands: OnceLock<mpsc::WeakSender<Command>>,
}

/// An attempt to be made.
pub(crate) struct Launch {
    pub(crate) id: TaskId,
    pub(crate) fence: Fence,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) options: Options,
    pub(crate) directory: String,
    pub(crate) rates: Arc<JobRates>,
    pub(crate) permit: Mutex<Option<HostPermit>>,
    pub(crate) stop: CancellationToken,
    pub(crate) meter: Arc<Meter>,
    pub(crate) attempt_start: Timestamp,
    /// Of the task's first attempt.
    pub(crate) first_start: Timestamp,
    /// Whether there were attempts before, so that something of them may be kept.
    pub(crate) has_history: bool,
}

/// An attempt that has ended.
pub(crate) struct Ended {
    pub(crate) id: TaskId,
    pub(crate) fence: Fence,
    pub(crate) end: AttemptEnd,
    pub(crate) report: AttemptReport,
    /// The body of a fetch, to be stored with its end.
    pub(crate) body: Option<NewPage>,
}

impl Runner {
    pub(crate) async fn start(parts: RunnerParts) -> std::io::Result<Runner> {
        let workers = Workers::start(parts.workers, &parts.make).await?;
        Ok(Runner {
            hosts: Hosts::new(parts.limits.clone(), parts.clock.clone()),
            server_bytes: Arc::new(ByteRate::new(parts.limits.bytes_per_second)),
            parts: Arc::new(JobParts::new(
                parts.root.clone(),
                parts.content.clone(),
                parts.aside,
                parts.store.clone(),
                parts.parts_by_url,
            )),
            clock: parts.clock,
            store: parts.store,
            root: parts.root,
            content: parts.content,
            durability: parts.durability,
            retry_after_max: parts.retry_after_max,
            max_download_bytes: parts.max_download_bytes,
            token: CancellationToken::new(),
            workers: Mutex::new(Some(workers)),
            commands: OnceLock::new(),
        })
    }

    /// Tells the attempts where their pages go. The sender is weak, so that the engine ends when its callers are gone.
    pub(crate) fn connect(&self, commands: &mpsc::Sender<Command>) {
        let _ = self.commands.set(commands.downgrade());
    }

    pub(crate) fn commands(&self) -> Option<mpsc::Sender<Command>> {
        self.commands.get()?.upgrade()
    }

    pub(crate) fn spawn(self: &Arc<Self>, attempts: &mut JoinSet<Ended>, launch: Launch) {
        let worker = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().map(Workers::next);
        // Without workers the engine has ended, and nothing is launched any more.
        let Some(worker) = worker else { return };
        let runner = self.clone();
        let runtime = worker.runtime.clone();
        attempts.spawn_on(async move { runner.run(launch, worker.transport).await }, &runtime);
    }

    /// Runs an attempt to its end. A panic in it is a failed attempt and harms no other.
    async fn run(self: Arc<Self>, launch: Launch, transport: Arc<dyn Transport>) -> Ended {
        let (id, fence) = (launch.id, launch.fence);
        let attempt = AssertUnwindSafe(Box::pin(self.attempt(&launch, transport))).catch_unwind();
        attempt.await.unwrap_or_else(|_| {
            let message = "the attempt panicked; that is a defect of haul, please report it with the server's log";
            let end = AttemptEnd::Failed(Failure::retryable(FailureReason::Internal, message));
            Ended { id, fence, end, report: AttemptReport::default(), body: None }
        })
    }

    async fn attempt(&self, launch: &Launch, transport: Arc<dyn Transport>) -> Ended {
        let limited = Limited {
            inner: transport,
            hosts: self.hosts.clone(),
            job: launch.rates.clone(),
            server_bytes: self.server_bytes.clone(),
            first: Mutex::new(launch.permit.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()),
            clock: self.clock.clone(),
            retry_after_max: self.retry_after_max,
        };
        let profile = Arc::new(Profile { http: launch.options.http.clone(), timeouts: launch.options.timeouts });
        // Its own token below the launch's: a deadline stops this attempt in the same way as everybody else does.
        let stop = launch.stop.child_token();
        let work = work::run(self, launch, &limited, &profile, &stop);
        tokio::pin!(work);
        let deadline = self.deadline(launch);
        let (mut ended, late) = tokio::select! {
            biased;
            ended = &mut work => (ended, None),
            failure = deadline => {
                stop.cancel();
                (work.await, Some(failure))
            }
        };
        if let Some(failure) = late.filter(|_| !matches!(ended.end, AttemptEnd::Done(_))) {
            ended.end = AttemptEnd::Failed(failure);
        }
        ended
    }

    /// Resolves when the attempt's or the task's time is over.
    async fn deadline(&self, launch: &Launch) -> Failure {
        let timeouts = &launch.options.timeouts;
        let now = self.clock.now();
        let attempt = timeouts.attempt.map(|limit| (limit, launch.attempt_start.plus(limit).since(now), true));
        let task = timeouts.task.map(|limit| (limit, launch.first_start.plus(limit).since(now), false));
        let first = attempt.into_iter().chain(task).min_by_key(|(_, wait, _)| *wait);
        let Some((limit, wait, is_attempt)) = first else { return std::future::pending().await };
        tokio::time::sleep(wait).await;
        if is_attempt {
            let message = format!(
                "the attempt did not end within its `timeouts.attempt` of {limit:?}; allow more, or see why it is slow"
            );
            Failure::retryable(FailureReason::TimeoutAttempt, message)
        } else {
            let message = format!(
                "the task did not end within its `timeouts.task` of {limit:?}; allow more, or see why it is slow"
            );
            Failure::fatal(FailureReason::TimeoutTask, message)
        }
    }

    /// Ends the transfer threads. Attempts must have ended.
    pub(crate) async fn shutdown(&self) {
        let workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(workers) = workers {
            workers.shutdown().await;
        }
    }
}
