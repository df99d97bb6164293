//! What the end of an attempt means: for its task, for its siblings, for its job.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt as _;

use crate::engine::attempts::Ended;
use crate::engine::commit::Effect;
use crate::engine::hub::Notice;
use crate::engine::scheduler::Scheduler;
use crate::engine::state::{Cause, Queued, Running, Shelf, Sweeping, Waiting};
use crate::engine::timers::Timer;
use crate::model::event::EventKind;
use crate::model::failure::{Failure, FailureReason, TaskError};
use crate::model::group::Verdict;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::{Change, JobEvent, Stop};
use crate::model::outcome::{ATTEMPT_LOG_MAX, Attempt, AttemptEnd, Outcome};
use crate::model::retry::{self, Decision};
use crate::model::spec::{Options, TaskSpec};
use crate::model::task::{TaskEvent, TaskState};
use crate::model::time::Timestamp;
use crate::store::{LaneNumber, StoredTask, TaskMove, TaskRow};

/// How long a task that found no room on the disk waits before it looks again.
const DISK_LOOK: std::time::Duration = std::time::Duration::from_secs(2);

impl Scheduler {
    /// Takes in the end of an attempt. One that is not the current attempt of its task changes nothing.
    pub(crate) fn attempt_ended(&mut self, ended: Ended) {
        let now = self.now();
        let id = ended.id;
        if self.running.get(&id).is_none_or(|running| running.fence != ended.fence) {
            return tracing::warn!(task = %id, "a late end of attempt {} is dropped", ended.fence);
        }
        let Some(mut running) = self.running.remove(&id) else { return };
        self.lanes.ended(id.job);
        let Some(run) = self.jobs.get_mut(&id.job) else { return };
        run.running.remove(&id.index);
        if let Some(feed) = self.hub.feed(id.job) {
            feed.stopped(id.index);
        }
        let options = Options::of(&run.job.spec.defaults, &running.spec);
        let chance = self.rng.random::<f64>();
        let (event, outcome) = meaning(&running, &options, &ended, now, chance);
        note_attempt(&mut running.row, running.attempt_start, &ended, &event, now);
        self.pending.batch.pages.extend(ended.body.filter(|_| outcome.is_some()));
        let shelf = match &ended.end {
            AttemptEnd::NoSpace { .. } => Some(Shelf::Disk(now.plus(DISK_LOOK))),
            AttemptEnd::Failed(Failure { paused_until: Some(until), message, .. }) => {
                Some(Shelf::Host(*until, message.clone()))
            }
            _ => None,
        };
        self.moved(id, running, event, outcome, shelf, now);
    }

    fn moved(
        &mut self,
        id: TaskId,
        mut running: Running,
        event: TaskEvent,
        outcome: Option<Outcome>,
        shelf: Option<Shelf>,
        now: Timestamp,
    ) {
        let Some(run) = self.jobs.get_mut(&id.job) else { return };
        match running.row.task.apply(event, now) {
            Ok(task) => running.row.task = task,
            Err(wrong) => return tracing::error!(task = %id, "not moved: {wrong}"),
        }
        run.job.ended_bytes += outcome.as_ref().map_or(0, outcome_bytes);
        running.row.outcome = outcome;
        let state = running.row.task.state;
        run.job.counts.moved(TaskState::Running, state, 1);
        run.job.update_time = now;
        self.pending.dirty.insert(id.job);
        self.pending.batch.moves.push(TaskMove { id, row: running.row.clone() });
        match state {
            TaskState::BackingOff => self.back_off(id, running),
            TaskState::Pending => {
                let task = queued(id, running.spec, running.row);
                self.lower_head(id, running.lane);
                match shelf {
                    Some(shelf) => self.shelve(id, running.lane, task, shelf),
                    None => self.give_back(id.job, running.lane, task),
                }
            }
            _ => {
                note_first_failure(run, &running.row);
                let error = running.row.task.error.clone();
                let task = StoredTask { index: id.index, spec: running.spec, row: running.row };
                self.pending.task_ended(run, task);
                self.judge(id.job, error, now);
            }
        }
        self.settle_if_done(id.job);
    }

    fn back_off(&mut self, id: TaskId, running: Running) {
        let Running { lane, spec, row, .. } = running;
        if let Some(feed) = self.hub.feed(id.job).filter(|feed| feed.wants_notices()) {
            let task = StoredTask { index: id.index, spec: spec.clone(), row: row.clone() };
            self.pending.effects.push(Effect::Notify(id.job, Notice::BackingOff(Arc::new(task))));
            drop(feed);
        }
        let due = row.task.due.unwrap_or_default();
        self.wait_until(id, lane, queued(id, spec, row), due);
    }

    /// A restart must find a task that is PENDING again.
    fn lower_head(&mut self, id: TaskId, lane: LaneNumber) {
        let run = self.jobs.get_mut(&id.job);
        if run.and_then(|run| run.lanes.get_mut(lane as usize)).is_some_and(|lane| lane.lower_head(id.index)) {
            self.pending.batch.lane_heads.push((id.job, lane, id.index));
        }
    }

    fn shelve(&mut self, id: TaskId, number: LaneNumber, task: Queued, shelf: Shelf) {
        let run = self.jobs.get_mut(&id.job);
        if let Some(lane) = run.and_then(|run| run.lanes.get_mut(number as usize)) {
            lane.shelved.insert(id.index);
        }
        let due = shelf.due();
        self.timers.add(due, Timer::LookAgain(id));
        self.waiting.insert(id, Waiting { lane: number, task, due, shelf: Some(shelf) });
    }

    /// Puts a task that is PENDING again before the others of its lane.
    pub(crate) fn give_back(&mut self, job: JobId, lane: LaneNumber, task: Queued) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let Some(its) = run.lanes.get_mut(lane as usize) else { return };
        its.again.push_back(task);
        self.lanes.has_work(job, lane);
    }

    /// Judges a job by its counts, after a task ended with `error` or without one.
    pub(crate) fn judge(&mut self, job: JobId, error: Option<TaskError>, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let (stop, failure) = match run.job.judge() {
            Verdict::Continue | Verdict::Settle { .. } => return,
            Verdict::StopFailed => (Stop::SiblingFailed, error),
            Verdict::StopSucceeded => (Stop::SiblingSucceeded, None),
        };
        if run.job.apply(JobEvent::Stopped(stop, failure), now) == Ok(Change::Stopping) {
            self.stopping(job);
        }
    }

    /// The job's tasks are to end: no more start, those that run are stopped once that is durable, the rest is swept.
    pub(crate) fn stopping(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        self.lanes.set_may_run(job, false);
        for lane in &mut run.lanes {
            lane.again = VecDeque::new();
            lane.page = VecDeque::new();
            lane.disk_from = lane.disk_to;
        }
        self.waiting.retain(|id, _| id.job != job);
        run.sweeping = Some(Sweeping::default());
        self.sweeping.insert(job);
        if let Some(stop) = run.job.stop.clone() {
            self.pending.job_event(run, EventKind::JobChanged);
            self.pending.effects.push(Effect::StopAttempts(job, Cause::Stop(stop)));
        }
        self.settle_if_done(job);
    }

    /// Begins the end of a job of which nothing is left to run: first its part files go.
    pub(crate) fn settle_if_done(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let swept = run.sweeping.as_ref().is_none_or(|sweeping| !sweeping.in_flight);
        let Verdict::Settle { .. } = run.job.judge() else { return };
        if run.settling || run.ended || !run.running.is_empty() || !swept {
            return;
        }
        run.settling = true;
        let all_well = run.job.counts.failed == 0 && run.job.counts.cancelled == 0;
        if all_well {
            self.settled(job);
        } else {
            // What has parts is told by the store, so the ends must be there first.
            self.pending.effects.push(Effect::PutPartsAway(job));
        }
    }

    /// Ends a job: nothing of it runs and no part file of it is left in its place.
    pub(crate) fn settled(&mut self, job: JobId) {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let Verdict::Settle { succeeded } = run.job.judge() else {
            // Somebody added tasks to it meanwhile.
            run.settling = false;
            return;
        };
        match run.job.apply(JobEvent::Settled(succeeded), now) {
            Ok(_) => {
                run.ended = true;
                self.lanes.remove_job(job);
                self.sweeping.remove(&job);
                self.pending.job_event(run, EventKind::JobEnded);
                self.pending.effects.push(Effect::Forget(job));
            }
            Err(wrong) => tracing::error!(%job, "not ended: {wrong}"),
        }
    }

    pub(crate) fn forget(&mut self, job: JobId) {
        if self.jobs.get(&job).is_some_and(|run| run.ended) {
            self.jobs.remove(&job);
            self.hub.close(job);
        }
    }

    /// The job's time is over.
    pub(crate) fn job_deadline(&mut self, job: JobId, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        // A job that was retried has a later one.
        if run.job.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if run.job.apply(JobEvent::TimedOut, now) == Ok(Change::Stopping) {
            self.stopping(job);
        }
    }

    /// A task's own time is over. One that runs notices by itself; one that waits in memory ends here.
    pub(crate) fn task_deadline(&mut self, id: TaskId, now: Timestamp) {
        if let Some(waiting) = self.waiting.remove(&id) {
            if let Some(task) = self.unless_late(id.job, waiting.task, now) {
                self.waiting.insert(id, Waiting { task, ..waiting });
            } else if let Some(run) = self.jobs.get_mut(&id.job)
                && let Some(lane) = run.lanes.get_mut(waiting.lane as usize)
            {
                lane.shelved.remove(&id.index);
            }
            return;
        }
        let Some(run) = self.jobs.get_mut(&id.job) else { return };
        let found = run.lanes.iter_mut().find_map(|lane| {
            let place = lane.again.iter().position(|task| task.index == id.index)?;
            Some((lane.host.clone(), lane.again.remove(place)?))
        });
        if let Some((host, task)) = found
            && let Some(task) = self.unless_late(id.job, task, now)
            && let Some((lane, _)) = self.lane_for(id.job, &host)
        {
            self.give_back(id.job, lane, task);
        }
    }

    /// Ends a waiting task whose own timeout has passed; gives back one whose has not.
    pub(crate) fn unless_late(&mut self, job: JobId, task: Queued, now: Timestamp) -> Option<Queued> {
        let run = self.jobs.get_mut(&job)?;
        let first = task.row.as_ref().and_then(|row| row.task.start_time);
        let limit = task.spec.options.timeouts.task.or(run.job.spec.defaults.timeouts.task);
        let (Some(first), Some(limit)) = (first, limit) else { return Some(task) };
        if first.plus(limit) > now {
            return Some(task);
        }
        let mut row = task.row.map(|row| *row).unwrap_or_default();
        let before = row.task.state;
        let error = task_timeout(limit, row.task.error.as_ref(), row.task.attempts);
        match row.task.apply(TaskEvent::TimedOut(error), now) {
            Ok(ended) => row.task = ended,
            Err(wrong) => {
                tracing::error!(%job, "not timed out: {wrong}");
                return None;
            }
        }
        run.job.counts.moved(before, row.task.state, 1);
        let id = TaskId { job, index: task.index };
        note_first_failure(run, &row);
        self.pending.batch.moves.push(TaskMove { id, row: row.clone() });
        let error = row.task.error.clone();
        self.pending.task_ended(run, StoredTask { index: task.index, spec: task.spec, row });
        self.judge(job, error, now);
        self.settle_if_done(job);
        None
    }
}

fn note_first_failure(run: &mut crate::engine::state::JobRun, row: &TaskRow) {
    if row.task.state == TaskState::Failed && run.job.stop.is_none() && run.job.failure.is_none() {
        run.job.failure.clone_from(&row.task.error);
    }
}

fn queued(id: TaskId, spec: Arc<TaskSpec>, row: TaskRow) -> Queued {
    Queued { index: id.index, spec, row: Some(Box::new(row)) }
}

fn outcome_bytes(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Fetch(fetch) => fetch.body_bytes,
        Outcome::Download(download) => download.bytes,
    }
}

/// What an end means for the task, by what was asked of it meanwhile. A success counts whatever was asked: it is there.
fn meaning(
    running: &Running,
    options: &Options,
    ended: &Ended,
    now: Timestamp,
    chance: f64,
) -> (TaskEvent, Option<Outcome>) {
    let fence = running.fence;
    let attempt = running.row.task.attempts;
    match (&ended.end, running.cause.get()) {
        (AttemptEnd::Done(outcome), _) => (TaskEvent::Succeeded(fence), Some(outcome.clone())),
        (_, Some(Cause::Stop(stop))) => (TaskEvent::Cancelled(TaskError { attempt, ..stop.task_error() }), None),
        (_, Some(Cause::Drain | Cause::Pause))
        | (AttemptEnd::NoSpace { .. } | AttemptEnd::Failed(Failure { paused_until: Some(_), .. }), None) => {
            (TaskEvent::GivenBack(fence), None)
        }
        (AttemptEnd::Failed(failure), None) => (failed(running, options, failure, now, chance), None),
        (AttemptEnd::Stopped, None) => {
            let failure = Failure::retryable(FailureReason::Internal, "the attempt stopped without being told to");
            (failed(running, options, &failure, now, chance), None)
        }
    }
}

fn failed(running: &Running, options: &Options, failure: &Failure, now: Timestamp, chance: f64) -> TaskEvent {
    let attempt = running.row.task.attempts;
    let error = failure.clone().into_error(attempt);
    match retry::decide(&options.retry, attempt, failure, now, chance) {
        Decision::GiveUp => TaskEvent::Failed(running.fence, error),
        Decision::RetryAt(due) => {
            let over = options
                .timeouts
                .task
                .zip(running.row.task.start_time)
                .filter(|(limit, first)| first.plus(*limit) <= due);
            match over {
                Some((limit, _)) => TaskEvent::Failed(running.fence, task_timeout(limit, Some(&error), attempt)),
                None => TaskEvent::BackedOff(running.fence, error, due),
            }
        }
    }
}

fn task_timeout(limit: std::time::Duration, last: Option<&TaskError>, attempt: u32) -> TaskError {
    let last = last.map(|error| format!("; its last attempt failed: {}", error.message)).unwrap_or_default();
    TaskError {
        reason: FailureReason::TimeoutTask,
        message: format!("the task did not end within its `timeouts.task` of {limit:?}{last}"),
        http_status: 0,
        retryable: false,
        attempt,
    }
}

/// Writes the attempt into the log, unless it was given back without having done anything.
fn note_attempt(row: &mut TaskRow, start_time: Timestamp, ended: &Ended, event: &TaskEvent, now: Timestamp) {
    let error = match event {
        TaskEvent::Failed(_, error) | TaskEvent::BackedOff(_, error, _) | TaskEvent::Cancelled(error) => {
            Some(error.clone())
        }
        _ => None,
    };
    row.log.push(Attempt { number: row.task.attempts, start_time, end_time: now, report: ended.report.clone(), error });
    let surplus = row.log.len().saturating_sub(ATTEMPT_LOG_MAX);
    row.log.drain(..surplus);
}
