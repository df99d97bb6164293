//! The jobs that memory knows: those that have not ended, and ended ones for as long as something changes them.
//!
//! Whoever wants to change a job finds it here or queues up here, so that two changes of one job never meet in the store.
//! A job that has not ended is a [`JobRun`]; commands for any other job are a [`Visit`], which works on one of them at a
//! time: it reads what the store has, decides, and takes the next one when that is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::engine::attempt::Ended;
use crate::engine::command::{Admitted, JobCommand, Reply};
use crate::engine::queue::task::BatchNumber;
use crate::engine::selection::{Hastening, Withdrawal};
use crate::engine::usage::{Part, Usages};
use crate::limits::transport::JobRates;
use crate::model::group::Verdict;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::quotas::Usage;
use crate::model::task::TaskState;
use crate::model::task_filter::TaskChoice;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::StoredTask;
use crate::telemetry::metrics::Kind;

/// The memory of a job that waits, beside its spec and its lanes, in bytes, roughly.
const JOB_BYTES: usize = 1 << 10;

/// Places of the table of jobs below which it is not made smaller.
const TABLE_MIN: usize = 1024;

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
    /// `None` where there is nothing of it: jobs that wait are many.
    activity: Option<Box<Activity>>,
    /// What is counted of it for its tenant.
    counted: Part,
    /// Whether it may have changed since it was counted.
    is_stale: bool,
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
        JobRun {
            job: job.into(),
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
    fn bytes(&self) -> usize {
        JOB_BYTES + self.job.spec.memory_bytes()
    }

    /// What it has of what its tenant may have.
    fn part(&self) -> Part {
        let counts = self.job.counts;
        let mut tasks = u64::from(counts.unfinished()) + self.adding();
        if let Stage::Retrying(retrying) = &self.stage {
            tasks = tasks.max(retrying.tasks);
        }
        Part { tenant: self.job.tenant.no, tasks, running: u64::from(counts.running) }
    }

    /// The job, to be changed. Its spec is changed by [`JobTable::respec`].
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

    /// The attempts of which the ends were deferred.
    pub(crate) fn deferred_attempts(&self) -> Vec<(TaskId, Fence)> {
        let deferred = self.activity().into_iter().flat_map(|it| &it.deferred);
        let attempts = deferred.filter_map(|it| match it {
            Deferred::Attempt(ended) => Some((ended.id, ended.fence)),
            Deferred::Command(_) => None,
        });
        attempts.collect()
    }

    /// Counts a task that failed, and keeps the first failure of the job, in the order of the events.
    pub(crate) fn note_failure(&mut self, task: &StoredTask) {
        let Some(error) = task.placed_error().filter(|_| task.row.task.state == TaskState::Failed) else { return };
        self.job_mut().failures.note(task.index, &error, &task.failed_host());
        if self.job.stop.is_none() && self.job.failure.is_none() {
            self.job_mut().failure = Some(Box::new(error));
        }
    }
}

/// Commands for a job that has ended, or that memory does not know. The first one is being worked on.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    pub(crate) waiting: VecDeque<Admitted<JobCommand>>,
}

/// The jobs that memory knows.
#[derive(Debug, Default)]
pub(crate) struct JobTable {
    runs: HashMap<JobId, JobRun>,
    visits: BTreeMap<JobId, Visit>,
    /// Jobs on their way to the store. Readers see them a moment before memory does.
    arriving: HashSet<JobId>,
    /// The memory of all jobs that have not ended, roughly.
    bytes: usize,
    usages: Usages,
}

impl JobTable {
    /// A job that has not ended.
    pub(crate) fn get(&self, job: JobId) -> Option<&JobRun> {
        self.runs.get(&job)
    }

    /// A job that has not ended.
    pub(crate) fn get_mut(&mut self, job: JobId) -> Option<&mut JobRun> {
        let run = self.runs.get_mut(&job)?;
        if !std::mem::replace(&mut run.is_stale, true) {
            self.usages.mark(job);
        }
        Some(run)
    }

    /// What a tenant has, jobs and tasks that are on their way to the store among it.
    pub(crate) fn usage(&mut self, tenant: TenantNo) -> Usage {
        self.settle();
        self.usages.get(tenant)
    }

    fn settle(&mut self) {
        for job in self.usages.take_stale() {
            // One that was removed, and added anew, is counted.
            let Some(run) = self.runs.get_mut(&job).filter(|run| run.is_stale) else { continue };
            self.usages.subtract(run.counted);
            (run.counted, run.is_stale) = (run.part(), false);
            self.usages.add(run.counted);
        }
    }

    /// The memory of the jobs that have not ended, without their lanes and tasks, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the spec of a job.
    pub(crate) fn respec(&mut self, job: JobId, change: impl FnOnce(&mut Job)) {
        if let Some(run) = self.runs.get_mut(&job) {
            self.bytes -= run.bytes();
            change(run.job_mut());
            self.bytes += run.bytes();
        }
    }

    /// Notes that a job of a tenant is on its way to the store, with so many tasks: commands for it wait until it is here.
    pub(crate) fn arrives(&mut self, job: JobId, tenant: TenantNo, tasks: u64) {
        self.arriving.insert(job);
        self.usages.arrives(job, Part { tenant, tasks, running: 0 });
    }

    /// Notes that such a job was not stored.
    pub(crate) fn does_not_arrive(&mut self, job: JobId) {
        self.arriving.remove(&job);
        self.usages.has_arrived(job);
    }

    /// Adds a job. What waited for it comes back, to be taken anew.
    pub(crate) fn insert(&mut self, mut run: JobRun) -> VecDeque<Admitted<JobCommand>> {
        let job = run.job.id;
        self.arriving.remove(&job);
        self.usages.has_arrived(job);
        (run.counted, run.is_stale) = (run.part(), false);
        self.usages.add(run.counted);
        self.bytes += run.bytes();
        if let Some(before) = self.runs.insert(job, run) {
            self.bytes -= before.bytes();
            self.usages.subtract(before.counted);
        }
        self.visits.remove(&job).map(|visit| visit.waiting).unwrap_or_default()
    }

    /// Forgets a job that has ended. Its deferred commands come back, to be taken anew.
    pub(crate) fn remove(&mut self, job: JobId) -> Option<JobRun> {
        let run = self.runs.remove(&job)?;
        self.bytes -= run.bytes();
        // A table keeps the memory that it once needed.
        if self.runs.capacity() > TABLE_MIN && self.runs.len() < self.runs.capacity() / 8 {
            self.runs.shrink_to(2 * self.runs.len());
        }
        self.usages.subtract(run.counted);
        // Maybe nobody ever asks, and jobs that are gone are still noted.
        if self.usages.stale() > 2 * self.runs.len() + TABLE_MIN {
            self.settle();
        }
        Some(run)
    }

    /// Queues a command for a job that is not here. Returns whether it is the first, to be worked on now.
    pub(crate) fn visit(&mut self, job: JobId, command: Option<Admitted<JobCommand>>) -> bool {
        let is_first = !self.visits.contains_key(&job) && !self.arriving.contains(&job);
        self.visits.entry(job).or_default().waiting.extend(command);
        is_first
    }

    /// Whether the job is being visited.
    pub(crate) fn is_visited(&self, job: JobId) -> bool {
        self.visits.contains_key(&job)
    }

    /// Takes the next command of a visit; the visit is over when there is none.
    pub(crate) fn next_visitor(&mut self, job: JobId) -> Option<Admitted<JobCommand>> {
        let next = self.visits.get_mut(&job)?.waiting.pop_front();
        if next.is_none() {
            self.visits.remove(&job);
        }
        next
    }

    /// Takes back everything that waits for visits, to be refused.
    pub(crate) fn take_waiting(&mut self) -> Vec<JobCommand> {
        let visits = std::mem::take(&mut self.visits).into_values().flat_map(|visit| visit.waiting);
        // In an order that a simulation can repeat.
        let runs: BTreeMap<_, _> = self.runs.iter_mut().collect();
        let deferred = runs.into_values().filter_map(JobRun::ongoing).flat_map(|activity| {
            let asked = activity.asked.drain(..).map(Deferred::Command);
            activity.deferred.drain(..).chain(asked)
        });
        let deferred = deferred.filter_map(|it| match it {
            Deferred::Command(command) => Some(command),
            Deferred::Attempt(_) => None,
        });
        visits.chain(deferred).map(|admitted| admitted.command).collect()
    }

    /// The jobs that have not ended.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&JobId, &JobRun)> {
        self.runs.iter()
    }

    /// Compares the counts of each job with what runs of it. Slow: simulations call it after each step.
    pub(crate) fn check(&self, running: impl Fn(JobId) -> usize) -> Result<(), String> {
        let bytes = self.runs.values().map(JobRun::bytes).sum::<usize>();
        if bytes != self.bytes {
            return Err(format!("the jobs take {bytes} bytes, and {} are counted", self.bytes));
        }
        let outdated = self.runs.values().find(|run| !run.is_stale && run.counted != run.part());
        if let Some(run) = outdated {
            return Err(format!("{} has {:?}, and {:?} is counted", run.job.id, run.part(), run.counted));
        }
        self.usages.check(self.runs.values().map(|run| run.counted))?;
        for (id, run) in &self.runs {
            let counts = run.job.counts;
            let sum = u64::from(counts.unfinished())
                + u64::from(counts.succeeded)
                + u64::from(counts.failed)
                + u64::from(counts.cancelled);
            if sum != u64::from(counts.total) {
                return Err(format!("the counts of {id} do not add up: {counts:?}"));
            }
            // An attempt whose end is deferred still counts as running in both.
            let runs = running(*id);
            if !matches!(run.stage, Stage::Reloading { .. }) && runs != counts.running as usize {
                return Err(format!("{runs} tasks of {id} run, and {} are counted", counts.running));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::engine::command::Control;
    use crate::model::access::Actor;
    use crate::model::spec::JobSpec;

    /// Memory that a hundred thousand jobs needed is given back when they are gone.
    #[test]
    fn a_table_of_jobs_that_have_ended_is_small_again() {
        let mut table = JobTable::default();
        let id = |number: u128| JobId(Uuid::from_u128(number));
        for number in 0..10_000 {
            table.insert(JobRun::new(Job::new(id(number), JobSpec::default(), 1, Timestamp(1))));
        }
        for number in 1..10_000 {
            table.remove(id(number));
        }
        assert!(table.runs.capacity() < 2 * TABLE_MIN && table.get(id(0)).is_some());
    }

    fn pause() -> Admitted<JobCommand> {
        let command = JobCommand::Control { what: Control::Pause, reply: oneshot::channel().0 };
        Admitted { command, by: Arc::new(Actor::local()), room: None }
    }

    /// Rows are visible before the answer to their commit is here. Whoever finds a job in a list at that moment must not
    /// make the engine read it as one that memory has lost.
    #[test]
    fn a_command_for_a_job_that_is_being_stored_waits_for_it() {
        let mut table = JobTable::default();
        let id = JobId(Uuid::from_u128(1));
        table.arrives(id, 1, 1);
        assert!(!table.visit(id, Some(pause())), "nothing is read");
        assert!(!table.visit(id, Some(pause())));
        let job = Job::new(id, JobSpec::default(), 1, Timestamp(1));
        assert_eq!(table.insert(JobRun::new(job)).len(), 2, "both are taken now");

        let other = JobId(Uuid::from_u128(2));
        table.arrives(other, 1, 1);
        table.does_not_arrive(other);
        assert!(table.visit(other, Some(pause())), "the store is asked");
    }
}
