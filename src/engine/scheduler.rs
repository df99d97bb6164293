//! The loop: next event, apply, commit, perform effects.
//!
//! One task owns all running state. It applies what happens to memory at once and gathers the writes; while one batch is
//! being committed the next one fills (group commit without a timer). Answers, announcements and stops wait for the
//! commit of what they tell of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::engine::attempts::{Ended, Runner};
use crate::engine::commit::{Effect, Pending};
use crate::engine::event::Command;
use crate::engine::hub::Hub;
use crate::engine::lanes::Lanes;
use crate::engine::reads::{DueState, Read};
use crate::engine::state::{Cause, JobRun, Running, Waiting};
use crate::engine::timers::{Timer, Timers};
use crate::engine::writer::Order;
use crate::model::failure::Failure;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::time::Timestamp;
use crate::store::{Committed, StoreError};

/// Commands that are taken in one go.
const COMMANDS_MAX: usize = 256;
/// Changes that may wait for a commit before no more commands and starts are taken.
const PENDING_MAX: usize = 50_000;

/// The longest that the start of an attempt waits for company on its way to the disk.
const START_LINGER: Duration = Duration::from_millis(4);

/// All running state. Fields by owner: what is shared first, then what is the loop's alone.
pub(crate) struct Scheduler {
    pub(crate) runner: Arc<Runner>,
    pub(crate) hub: Arc<Hub>,

    pub(crate) jobs: HashMap<JobId, JobRun>,
    pub(crate) lanes: Lanes,
    pub(crate) running: HashMap<TaskId, Running>,
    /// Tasks that back off, or wait for room on the disk, as far as they are in memory.
    pub(crate) waiting: HashMap<TaskId, Waiting>,
    pub(crate) due: DueState,
    pub(crate) timers: Timers,
    /// The wake-up that is set for a host.
    pub(crate) host_wakes: HashMap<Host, Timestamp>,
    /// Jobs whose waiting tasks are being ended.
    pub(crate) sweeping: HashSet<JobId>,
    pub(crate) pending: Pending,
    pub(crate) rng: SmallRng,
    pub(crate) draining: bool,
    /// Deleted jobs whose rows are going.
    pub(crate) deleting: HashSet<JobId>,
    /// Whether the store may hold deleted jobs.
    pub(crate) deleted_left: bool,
    /// Reads of lanes so far.
    pub(crate) lane_reads: u64,
    /// A look for jobs to delete is under way.
    pub(crate) housekeeping: bool,

    pub(crate) attempts: JoinSet<Ended>,
    pub(crate) reads: JoinSet<Read>,
    pub(crate) writer: mpsc::Sender<Order>,
}

/// A batch on its way to the disk, and what follows it.
struct InFlight {
    result: oneshot::Receiver<Result<Committed, StoreError>>,
    effects: Vec<Effect>,
}

impl Scheduler {
    /// Runs until it is drained, or until the store fails. Then nothing runs any more and all that was decided is
    /// durable.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        let mut in_flight: Option<InFlight> = None;
        let mut taken = Vec::with_capacity(COMMANDS_MAX);
        let mut starts = Starts::default();
        loop {
            starts.before_dispatch(&self.pending);
            self.dispatch();
            starts.after_dispatch(&self.pending);
            let linger = starts.linger().filter(|_| self.sweeping.is_empty() && !self.draining);
            if in_flight.is_none() && linger.is_none() {
                in_flight = self.begin_commit().await;
                starts = Starts::default();
            }
            if self.draining && self.running.is_empty() && self.attempts.is_empty() && in_flight.is_none() {
                return self.wind_down(commands).await;
            }
            let roomy = self.pending.len() < PENDING_MAX;
            let wait = self.timers.wait(self.now());
            let sleep = sleep(linger.map_or(wait, |linger| linger.min(wait)));
            tokio::select! {
                result = wait_for(&mut in_flight) => {
                    if let Some(InFlight { effects, .. }) = in_flight.take() {
                        self.perform(effects, &result?);
                    }
                }
                Some(ended) = self.attempts.join_next() => {
                    self.joined(ended);
                    while let Some(ended) = self.attempts.try_join_next() {
                        self.joined(ended);
                    }
                }
                Some(read) = self.reads.join_next() => self.read_done(read)?,
                count = commands.recv_many(&mut taken, COMMANDS_MAX), if roomy => {
                    if count == 0 {
                        self.drain();
                    }
                    for command in taken.drain(..) {
                        self.command(command);
                    }
                }
                () = self.runner.hosts.freed() => self.wake_hosts(),
                () = sleep => {}
            }
            self.timers_due();
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.runner.clock.now()
    }

    async fn begin_commit(&mut self) -> Option<InFlight> {
        let (batch, effects) = self.seal_batch()?;
        if batch.is_empty() {
            self.perform(effects, &Committed::default());
            return None;
        }
        let (reply, result) = oneshot::channel();
        // The writer takes one order at a time and we give one at a time, so this does not wait.
        if self.writer.send((batch, reply)).await.is_err() {
            tracing::error!("the writer is gone");
        }
        Some(InFlight { result, effects })
    }

    fn joined(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok(ended) => self.attempt_ended(ended),
            // Attempts catch their panics and are not aborted while the loop runs.
            Err(error) => tracing::error!("an attempt was lost: {error}"),
        }
    }

    fn timers_due(&mut self) {
        let now = self.now();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::TaskDue(id) | Timer::LookAgain(id) => self.task_due(id, now),
                Timer::TaskDeadline(id) => self.task_deadline(id, now),
                Timer::JobDeadline(job) => self.job_deadline(job, now),
                Timer::JobStart(job) => self.job_start(job, now),
                Timer::JobRested(job) => self.lanes.set_resting(job, false),
                Timer::HostWake(host) => {
                    self.host_wakes.remove(&host);
                    self.wake_host(&host);
                }
                Timer::Housekeeping => self.housekeeping(),
            }
        }
    }

    fn wake_hosts(&mut self) {
        for host in self.runner.hosts.take_freed() {
            self.lanes.wake_host(&host, 1);
        }
    }

    /// After a pause, a change of limits or a rate's wait: as many lanes look again as might have room.
    pub(crate) fn wake_host(&mut self, host: &Host) {
        let room = self.runner.hosts.max_concurrent(host);
        self.lanes.wake_host(host, room as usize);
    }

    /// No attempt starts any more; those that run stop at a checkpoint and are given back.
    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            for running in self.running.values() {
                running.stop(Cause::Drain);
            }
        }
    }

    async fn wind_down(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        commands.close();
        while let Some(command) = commands.recv().await {
            Self::refuse(command);
        }
        self.reads.shutdown().await;
        let Some(mut last) = self.begin_commit().await else { return Ok(()) };
        let result = (&mut last.result).await.map_err(|_| lost())?;
        self.perform(last.effects, &result?);
        Ok(())
    }

    pub(crate) fn refuse(command: Command) {
        use crate::engine::event::EngineError::Draining;
        match command {
            Command::Submit { reply, .. } | Command::Retry { reply, .. } => drop(reply.send(Err(Draining))),
            Command::AddTasks { reply, .. } => drop(reply.send(Err(Draining))),
            Command::Control { reply, .. } | Command::Update { reply, .. } => drop(reply.send(Err(Draining))),
            Command::Delete { reply, .. } | Command::SetLimits { reply, .. } => drop(reply.send(Err(Draining))),
            Command::Page { reply, .. } => {
                let reason = crate::model::failure::FailureReason::Internal;
                let _ = reply.send(Err(Failure::retryable(reason, "the server is shutting down")));
            }
            Command::Explain { .. } | Command::WaitingAt { .. } | Command::Drain => {}
        }
    }
}

/// Starts alone are no reason to commit at once: nobody waits for them, and an attempt that ends within moments takes its
/// start with it. What else comes in ends the wait.
#[derive(Debug, Default)]
struct Starts {
    /// How much is pending, and since when, as long as starts are all there is.
    only: Option<(usize, Instant)>,
    was_only: bool,
}

impl Starts {
    fn before_dispatch(&mut self, pending: &Pending) {
        self.was_only = pending.size() == self.only.map_or(0, |(size, _)| size);
    }

    fn after_dispatch(&mut self, pending: &Pending) {
        let size = pending.size();
        let since = self.only.map(|(_, since)| since);
        self.only = (self.was_only && size > 0).then(|| (size, since.unwrap_or_else(Instant::now)));
    }

    /// How long they may still wait; `None`: no longer.
    fn linger(&self) -> Option<Duration> {
        let (_, since) = self.only?;
        START_LINGER.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

async fn wait_for(in_flight: &mut Option<InFlight>) -> Result<Committed, StoreError> {
    match in_flight {
        Some(in_flight) => (&mut in_flight.result).await.unwrap_or_else(|_| Err(lost())),
        None => std::future::pending().await,
    }
}

fn lost() -> StoreError {
    StoreError::Fatal("the writer ended without an answer".to_owned())
}
