//! One job that has not ended: what is being done to it, and what waits for that. Plain data, whose methods say what follows
//! from it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::engine::attempt::Ended;
use crate::engine::command::{Admitted, JobCommand, Reply};
use crate::engine::queue::task::BatchNumber;
use crate::engine::selection::{Hastening, Withdrawal};
use crate::engine::usage::Part;
use crate::limits::transport::JobRates;
use crate::model::group::Verdict;
use crate::model::ids::{Fence, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::task::TaskState;
use crate::model::task_filter::TaskChoice;
use crate::model::time::Timestamp;
use crate::store::StoredTask;
use crate::telemetry::metrics::Kind;

/// The memory of a job that waits, beside its spec and its lanes, in bytes, roughly.
const JOB_BYTES: usize = 1 << 10;

/// What is being done to a job as a whole.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its tasks run, or wait to.
    Open,
    /// Its waiting tasks are being ended, piece by piece.
    Sweeping(Sweeping),
    /// Its failed and cancelled tasks are being put back, piece by piece.
    Retrying(Box<Retrying>),
    /// Everything has ended; its part files are being put away.
    Settling,
    /// Its end is on its way to the store.
    Ended,
    /// Memory and store contradict each other; the job is read again once nothing of it runs and batch `after` is durable.
    Reloading {
        /// The last batch that may have something of the job.
        after: BatchNumber,
    },
}

/// How far a retry is.
#[derive(Debug)]
pub(crate) struct Retrying {
    /// Whoever asked waits for the last piece.
    pub(crate) reply: Option<Reply<Arc<Job>>>,
    /// The tasks that were asked for.
    pub(crate) which: TaskChoice,
    /// The lowest index that was put back so far.
    pub(crate) first: Option<TaskIndex>,
    /// All of them are put back, and their part files are on their way.
    pub(crate) returns: bool,
    /// How many tasks will have been put back at its end, at most: its tenant has them from the beginning.
    pub(crate) tasks: u64,
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweeping {
    pub(crate) from_pending: TaskIndex,
    pub(crate) from_backing_off: TaskIndex,
    /// A pass over all tasks found nothing although the counts say that something is left. A second one that finds nothing
    /// is a contradiction.
    pub(crate) in_vain: bool,
}

/// What waits until a piece of the job has been committed.
#[derive(Debug)]
pub(crate) enum Deferred {
    Command(Admitted<JobCommand>),
    Attempt(Box<Ended>),
}

/// A job that has not ended.
#[derive(Debug)]
pub(crate) struct JobRun {
    /// As it will be when all that was decided is durable. Watchers share it until it changes.
    pub(crate) job: Arc<Job>,
    pub(crate) stage: Stage,
    /// A piece of it is being committed. Only the store knows how many tasks it moves, so nothing else happens to the job
    /// meanwhile: its events are numbered, and its counts known, when the answer is there.
    pub(crate) in_flight: bool,
    /// When tasks were added to it, or it was retried or resumed, for the last time, as far as this process knows: tasks of which
    /// nobody has noted since when they could start could do so from then on at the latest.
    pub(crate) arrived: Timestamp,
    /// When it was retried or resumed for the last time, as far as this process knows: before that none of its tasks could start.
    pub(crate) set_going: Timestamp,
    /// `None` where there is nothing of it: jobs that wait are many.
    activity: Option<Box<Activity>>,
    /// What is counted of it for its tenant.
    pub(super) counted: Part,
    /// Whether it may have changed since it was counted.
    pub(super) is_stale: bool,
}

/// What goes on with a job, and what waits for that.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Made with the first attempt.
    rates: Option<Arc<JobRates>>,
    pub(crate) deferred: VecDeque<Deferred>,
    /// Tasks of chunks that are being committed. The job does not end while there are some.
    pub(crate) adding: u64,
    /// Tasks of it that are being ended while it goes on. No attempt starts until those that wait are.
    pub(crate) withdrawal: Option<Box<Withdrawal>>,
    /// What waits until that, or a retry, is over.
    pub(crate) asked: VecDeque<Admitted<JobCommand>>,
    /// Tasks of it that are being made due.
    pub(crate) hastening: Option<Box<Hastening>>,
    /// The credentials that attempts of it have used since the start of the server.
    pub(crate) credentials_used: BTreeSet<String>,
}

impl JobRun {
    pub(crate) fn new(job: impl Into<Arc<Job>>) -> JobRun {
        let job = job.into();
        JobRun {
            arrived: job.create_time,
            set_going: job.create_time,
            job,
            stage: Stage::Open,
            in_flight: false,
            activity: None,
            counted: Part::default(),
            is_stale: false,
        }
    }

    /// What goes on with it, if anything does.
    pub(crate) fn activity(&self) -> Option<&Activity> {
        self.activity.as_deref()
    }

    /// What goes on with it, to be changed.
    pub(crate) fn activity_mut(&mut self) -> &mut Activity {
        self.activity.get_or_insert_default()
    }

    /// What goes on with it, to be taken from: `None` where there is nothing.
    pub(crate) fn ongoing(&mut self) -> Option<&mut Activity> {
        self.activity.as_deref_mut()
    }

    /// Takes out all that goes on with it.
    pub(crate) fn take_activity(&mut self) -> Activity {
        self.activity.take().map(|activity| *activity).unwrap_or_default()
    }

    /// The memory that it takes while it waits, roughly. What it shares with others is counted with each.
    pub(super) fn bytes(&self) -> usize {
        JOB_BYTES + self.job.spec.memory_bytes()
    }

    /// What it has of what its tenant may have.
    pub(super) fn part(&self) -> Part {
        let counts = self.job.counts;
        let mut tasks = u64::from(counts.unfinished()) + self.adding();
        if let Stage::Retrying(retrying) = &self.stage {
            tasks = tasks.max(retrying.tasks);
        }
        Part { tenant: self.job.tenant.no, tasks, running: u64::from(counts.running), stored: self.job.stored_bytes() }
    }

    /// The job, to be changed. Its spec is changed by `JobTable::respec`.
    pub(crate) fn job_mut(&mut self) -> &mut Job {
        Arc::make_mut(&mut self.job)
    }

    /// The rates that the attempts of the job share.
    pub(crate) fn rates(&mut self) -> &Arc<JobRates> {
        let limit = self.job.spec.rate_limit;
        self.activity_mut().rates.get_or_insert_with(|| Arc::new(JobRates::new(limit)))
    }

    /// Whether an attempt of the job may start at `now` by its rates.
    ///
    /// # Errors
    ///
    /// The time from which on it may.
    pub(crate) fn rates_allow(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.activity().and_then(|it| it.rates.as_ref()).map_or(Ok(()), |rates| rates.check(now))
    }

    /// Brings the rates in line with what the job asks for at `now`.
    pub(crate) fn set_rates(&self, now: Timestamp) {
        if let Some(rates) = self.activity().and_then(|it| it.rates.as_ref()) {
            rates.set(self.job.spec.rate_limit, now);
        }
    }

    /// Whether attempts may start at `now`.
    pub(crate) fn may_run(&self, now: Timestamp) -> bool {
        self.job.may_run()
            && matches!(self.stage, Stage::Open)
            && self.withdrawal().is_none_or(|it| it.sweeping.is_none())
            && self.job.spec.start_time.is_none_or(|start| start <= now)
    }

    /// What tasks are counted as that end before they have run: those are not in memory to be asked what they are.
    pub(crate) fn kind(&self) -> Kind {
        if self.job.downloads { Kind::Download } else { Kind::Fetch }
    }

    /// Whether what happens to the job has to wait.
    pub(crate) fn defers(&self) -> bool {
        self.in_flight || matches!(self.stage, Stage::Reloading { .. } | Stage::Settling | Stage::Ended)
    }

    /// Whether that is for longer than a commit takes: for as long as its files are moved, or it is read again.
    pub(crate) fn defers_for_long(&self) -> bool {
        !matches!(self.stage, Stage::Open | Stage::Sweeping(_))
    }

    /// Whether it takes no more tasks, for good. What is thought of one that is to be read again may be wrong.
    pub(crate) fn takes_no_tasks(&self) -> bool {
        (!self.job.open || self.job.stop.is_some()) && !matches!(self.stage, Stage::Reloading { .. })
    }

    /// Whether some of its tasks are being cancelled or tried again at once: one call after another, since those that wait
    /// are counted by their bytes and those at work are not.
    pub(crate) fn is_selecting(&self) -> bool {
        self.activity().is_some_and(|it| it.withdrawal.is_some() || it.hastening.is_some())
    }

    /// How many tasks of chunks are being committed.
    pub(crate) fn adding(&self) -> u64 {
        self.activity().map_or(0, |it| it.adding)
    }

    /// Whether chunks of tasks are being committed.
    pub(crate) fn is_adding(&self) -> bool {
        self.adding() > 0
    }

    /// So many tasks of chunks are not being committed any more.
    pub(crate) fn no_longer_adds(&mut self, count: u32) {
        if let Some(activity) = self.ongoing() {
            activity.adding = activity.adding.saturating_sub(u64::from(count));
        }
    }

    /// The tasks of it that are being ended while it goes on.
    pub(crate) fn withdrawal(&self) -> Option<&Withdrawal> {
        self.activity()?.withdrawal.as_deref()
    }

    /// Whether no page of its tasks counts any more.
    pub(crate) fn refuses_pages(&self) -> bool {
        self.job.stop.is_some() || matches!(self.stage, Stage::Reloading { .. } | Stage::Settling | Stage::Ended)
    }

    /// Whether the job ends, and how: every task has ended, and no more can come.
    pub(crate) fn settles(&self) -> Option<bool> {
        let is_quiet = !self.in_flight && !self.is_adding() && self.withdrawal().is_none();
        let may = matches!(self.stage, Stage::Open | Stage::Sweeping(_)) && is_quiet;
        match self.job.judge() {
            Verdict::Settle { succeeded } if may => Some(succeeded),
            _ => None,
        }
    }

    /// Whether its tasks are to be stopped, and are not yet. What a retry has yet to put back says nothing.
    pub(crate) fn is_decided(&self) -> bool {
        matches!(self.stage, Stage::Open) && matches!(self.job.judge(), Verdict::StopFailed | Verdict::StopSucceeded)
    }

    /// The state of which a sweep has to end tasks next, and from where; `None`: no task waits any more.
    pub(crate) fn to_sweep(&self) -> Option<(TaskState, TaskIndex)> {
        let Stage::Sweeping(sweeping) = &self.stage else { return None };
        if self.job.counts.pending > 0 {
            Some((TaskState::Pending, sweeping.from_pending))
        } else if self.job.counts.backing_off > 0 {
            Some((TaskState::BackingOff, sweeping.from_backing_off))
        } else {
            None
        }
    }

    /// Notes what a piece of a sweep found. `false`: the counts contradict the store.
    pub(crate) fn swept(&mut self, state: TaskState, count: u32, next: Option<TaskIndex>) -> bool {
        self.in_flight = false;
        self.job_mut().swept(state, count);
        let Stage::Sweeping(sweeping) = &mut self.stage else { return true };
        let from = match state {
            TaskState::BackingOff => &mut sweeping.from_backing_off,
            _ => &mut sweeping.from_pending,
        };
        let began_at_0 = *from == 0;
        *from = next.unwrap_or(0);
        if count > 0 {
            sweeping.in_vain = false;
        } else if next.is_none() && began_at_0 {
            let twice = sweeping.in_vain;
            sweeping.in_vain = true;
            return !twice;
        }
        true
    }

    /// Whether a sweep has found nothing although the counts say that something is left.
    pub(crate) fn is_swept_in_vain(&self) -> bool {
        matches!(self.stage, Stage::Sweeping(Sweeping { in_vain: true, .. }))
    }

    /// The attempts of which the ends were deferred.
    pub(crate) fn deferred_attempts(&self) -> Vec<(TaskId, Fence)> {
        let deferred = self.activity().into_iter().flat_map(|it| &it.deferred);
        let attempts = deferred.filter_map(|it| match it {
            Deferred::Attempt(ended) => Some((ended.id, ended.fence)),
            Deferred::Command(_) => None,
        });
        attempts.collect()
    }

    /// Counts a task that failed, and keeps the first failure of the job, in the order of the events. `host` is that of its lane:
    /// a task that cannot be read has no URL, and a retry puts it back as one of its lane.
    pub(crate) fn note_failure(&mut self, task: &StoredTask, host: impl FnOnce() -> String) {
        let Some(error) = task.placed_error().filter(|_| task.row.task.state == TaskState::Failed) else { return };
        let failed_host = Some(task.failed_host()).filter(|known| !known.is_empty()).unwrap_or_else(host);
        self.job_mut().failures.note(task.index, &error, &failed_host);
        if self.job.stop.is_none() && self.job.failure.is_none() {
            self.job_mut().failure = Some(Box::new(error));
        }
    }
}
