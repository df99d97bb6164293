//! The only owner of running state: what is asked ([`handle`]), what runs ([`attempts`]), what is decided (the
//! scheduler), what is durable (the writer), what is told ([`hub`]).
//!
//! | task | spawned by | stopped by | its error |
//! |---|---|---|---|
//! | scheduler | [`EngineTask::run`], in it | drain | ends the process |
//! | writer's thread | [`EngineTask::run`] | the scheduler's end | ends the process |
//! | transfer threads | `Workers::start` | `Workers::shutdown`, after the scheduler | logged |
//! | attempts | `Runner::spawn`, on a transfer thread | their token, with a cause | a failed attempt |
//! | reads of the scheduler | `reads`, in its `JoinSet` | their end; dropped at the drain | ends the process |

pub mod attempts;
mod commands;
mod commit;
mod dispatch;
mod ends;
pub mod event;
pub mod handle;
mod housekeeping;
pub mod hub;
mod lanes;
mod parts;
mod reads;
mod recovery;
mod scheduler;
mod state;
mod timers;
pub mod waiting;
mod work;
pub mod workers;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::engine::attempts::{Runner, RunnerParts};
use crate::engine::commit::Pending;
use crate::engine::event::Command;
use crate::engine::handle::Engine;
use crate::engine::hub::Hub;
use crate::engine::lanes::Lanes;
use crate::engine::reads::DueState;
use crate::engine::scheduler::Scheduler;
use crate::engine::timers::Timers;
use crate::store::{StoreError, WriteStore};

/// Commands that may wait for the scheduler before callers do.
const COMMANDS_MAX: usize = 1024;

/// The engine's own work, to be run by somebody who waits for its end.
pub struct EngineTask {
    scheduler: Scheduler,
    commands: mpsc::Receiver<Command>,
    orders: mpsc::Receiver<writer::Order>,
    writer: Box<dyn WriteStore>,
    runner: Arc<Runner>,
}

/// Takes in what the store has, and is ready to run it. Nothing has started when this returns.
pub async fn start(
    parts: RunnerParts,
    writer: Box<dyn WriteStore>,
    seed: u64,
) -> Result<(Engine, EngineTask), StartError> {
    let recovered = parts.store.recover().await?;
    let runner = Arc::new(Runner::start(parts).await.map_err(StartError::Threads)?);
    let hub = Arc::new(Hub::default());
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (order, orders) = mpsc::channel(1);
    runner.connect(&sender);
    let mut scheduler = Scheduler {
        runner: runner.clone(),
        hub: hub.clone(),
        jobs: HashMap::new(),
        lanes: Lanes::default(),
        running: HashMap::new(),
        waiting: HashMap::new(),
        due: DueState::unknown(),
        timers: Timers::default(),
        host_wakes: HashMap::new(),
        sweeping: HashSet::new(),
        pending: Pending::default(),
        rng: SmallRng::seed_from_u64(seed),
        draining: false,
        deleting: HashSet::new(),
        deleted_left: false,
        lane_reads: 0,
        housekeeping: false,
        attempts: JoinSet::new(),
        reads: JoinSet::new(),
        writer: order,
    };
    scheduler.recover(recovered).await?;
    let engine = Engine::new(sender, runner.clone(), hub);
    Ok((engine, EngineTask { scheduler, commands, orders, writer, runner }))
}

/// Why the engine did not start.
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
    /// Runs until the engine has drained, or its store failed. Then nothing of it runs any more.
    pub async fn run(self) -> Result<(), StoreError> {
        let Self { mut scheduler, commands, orders, writer, runner } = self;
        scheduler.pending.effects.push(commit::Effect::ReadLanes);
        let thread = writer::start(writer, orders)?;
        let result = scheduler.run(commands).await;
        // The scheduler is gone, and with it the orders: the writer closes the store and ends.
        thread.join().await;
        runner.shutdown().await;
        result
    }
}
