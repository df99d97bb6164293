//! The only owner of running state.
//!
//! [`handle`] is what the faces call, [`hub`] what watchers follow. Between them the scheduler joins three owners of plain
//! data: the queue (every task that memory holds, in one place each), the job table, and the outbox (the batch that fills
//! and what follows it). Attempts run on transfer threads, commits on the writer's.
//!
//! | task | spawned by | stopped by | its error |
//! |---|---|---|---|
//! | scheduler | [`EngineTask::run`], in it | drain | ends the process |
//! | writer | [`EngineTask::run`] | the scheduler's end | ends the process |
//! | copy of the log | the store's writer, in its `JoinSet` | its end, before the store closes | logged; the next commit copies |
//! | transfer threads | `Workers::start` | the scheduler's end | logged |
//! | attempts | `Attempts::hand_out`, in the `JoinSet` of a transfer thread | their token, with a cause; the scheduler's end | a failed attempt |
//! | reads of the scheduler | `scheduler`, in its `JoinSet` | their end; dropped at the drain | tried again, or fails its call |

mod admission;
mod attempt;
mod attempts;
pub mod bounds;
pub mod changes;
pub mod command;
mod credentials;
mod effect;
mod explained;
pub mod explanation;
pub mod feed;
pub mod figures;
pub mod handle;
pub mod hub;
mod job_files;
mod jobs;
pub mod new_tasks;
pub mod notices;
pub mod offline;
mod outbox;
mod patience;
pub mod published;
mod queue;
mod rings;
mod runner;
mod running;
mod scheduler;
mod selection;
mod spans;
mod timers;
mod usage;
pub mod version;
mod watched;
mod work;
pub mod workers;
pub mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::engine::command::{Admitted, Command};
use crate::engine::handle::{Engine, PageCommands};
use crate::engine::hub::Hub;
use crate::engine::patience::patiently;
use crate::engine::runner::Runner;
use crate::engine::scheduler::Scheduler;
use crate::engine::writer::Writer;
use crate::store::{StoreError, WriteStore};

pub use crate::engine::runner::{Checks, EngineParts};
pub use crate::engine::scheduler::recovery::Recovery;

/// Commands that may wait for the scheduler before callers do.
const COMMANDS_MAX: usize = 1024;

/// The engine's own work, to be run by somebody who waits for its end.
pub struct EngineTask {
    scheduler: Scheduler,
    commands: mpsc::Receiver<Admitted<Command>>,
    writer: Writer,
    runner: Arc<Runner>,
    recovery: Recovery,
}

/// Takes in what the store has, and is ready to run it. No attempt has started when this returns.
pub async fn start(
    parts: EngineParts,
    writer: Box<dyn WriteStore>,
    seed: u64,
) -> Result<(Engine, EngineTask), StartError> {
    let (bounds, checks, own_thread) = (parts.bounds, parts.checks, parts.workers > 0);
    let (runner, workers) = Runner::start(parts).await.map_err(StartError::Threads)?;
    let runner = Arc::new(runner);
    let hub = Arc::new(Hub::new(bounds.changed_jobs));
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    runner.connect(Box::new(PageCommands(sender.downgrade())));
    let (writer, link) = writer::start(writer, own_thread, runner.clock.clone(), runner.metrics.clone())?;
    let condition = link.condition.clone();
    let (books, seen) = watch::channel(Arc::new(patiently(|| runner.store.access()).await?));
    let mut scheduler = Scheduler::new((runner.clone(), workers), hub.clone(), link, books, bounds, seed, checks);
    let recovery = scheduler.recover().await?;
    let engine = Engine::new(sender, runner.clone(), hub, condition, seen);
    Ok((engine, EngineTask { scheduler, commands, writer, runner, recovery }))
}

/// The reason why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The threads for transfers could not be made.
    #[error("cannot start the threads for transfers: {0}")]
    Threads(std::io::Error),
}

impl EngineTask {
    /// What the start took in.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Runs until the engine has drained, or until its store cannot be trusted. Then nothing of it runs any more.
    pub async fn run(self) -> Result<(), StoreError> {
        let Self { scheduler, commands, writer, runner, .. } = self;
        // It is large, and so would be whatever awaits this.
        let result = Box::pin(scheduler.run(commands)).await;
        // The scheduler is gone, and with it the ways to writer and workers: the writer closes the store and ends, and so do the
        // workers, with whatever of their attempts still runs.
        writer.join().await;
        runner.shutdown().await;
        result
    }
}
