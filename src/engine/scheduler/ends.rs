//! What the end of an attempt means: for its task, for its siblings, for its job.

use std::sync::Arc;

use rand::RngExt as _;
use url::Url;

use crate::engine::attempt::Ended;
use crate::engine::effect::Effect;
use crate::engine::figures;
use crate::engine::hub::Notice;
use crate::engine::jobs::{Deferred, JobRun, Stage, Sweeping};
use crate::engine::queue::task::{Cause, Queued, Running, Wait};
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::{DISK_LOOK, Scheduler};
use crate::engine::spans;
use crate::engine::timers::Timer;
use crate::model::event::EventKind;
use crate::model::failure::{Failure, FailureReason, TaskError};
use crate::model::group::Verdict;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::{Change, JobEvent, Stop};
use crate::model::outcome::{ATTEMPT_LOG_MAX, Attempt, AttemptEnd, AttemptReport, Outcome};
use crate::model::progress::Held;
use crate::model::retry::{self, Decision};
use crate::model::spec::{Options, TaskOptions};
use crate::model::task::{TaskEvent, TaskState};
use crate::model::time::Timestamp;
use crate::store::{StoredTask, TaskMove, TaskRow};

impl Scheduler {
    /// Takes in the end of an attempt. One that is not the current attempt of its task changes nothing.
    pub(super) fn attempt_ended(&mut self, ended: Ended) {
        let now = self.now();
        let id = ended.id;
        // Durable with the end of the attempt that was asked to wait, or that could not connect.
        self.note_pauses();
        let Some(run) = self.jobs.get_mut(id.job) else {
            return tracing::warn!(task = %id, "the end of attempt {} of a job that is gone is dropped", ended.fence);
        };
        if matches!(run.stage, Stage::Reloading { .. }) {
            // It is taken in once the job has been read again.
            let fence = ended.fence;
            run.activity_mut().deferred.push_back(Deferred::Attempt(Box::new(ended)));
            self.queue.attempt_ended(id, fence);
            self.cuts.passes(id, self.outbox.number());
            self.hub.stopped(id.job, id.index);
            return self.reload_quiet();
        }
        if run.defers() {
            return run.activity_mut().deferred.push_back(Deferred::Attempt(Box::new(ended)));
        }
        let Some(mut running) = self.queue.attempt_ended(id, ended.fence) else {
            return tracing::warn!(task = %id, "a late end of attempt {} is dropped", ended.fence);
        };
        self.cuts.passes(id, self.outbox.number());
        self.hub.stopped(id.job, id.index);
        let chance = self.rng.random::<f64>();
        let event = meaning(&running, &run.job.spec.defaults, &ended, run.job.stop.as_ref(), now, chance);
        if matches!(event, TaskEvent::Succeeded(_)) {
            self.cuts.succeeded();
        }
        if matches!(event, TaskEvent::Failed(..) | TaskEvent::BackedOff(..)) {
            let url = Url::parse(&ended.report.url).ok().and_then(|url| Host::of(&url));
            if let Some(host) = url.or_else(|| self.queue.host_of(id.job, running.lane).cloned()) {
                self.runner.hosts.attempt_failed(&host, run.job.party());
            }
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (attempt, status) = (running.row.task.attempts, ended.report.http_status);
            tracing::debug!(task = %id, attempt, status, "attempt ended: {}", description(&event));
        }
        let withdrawn = running.withdrawn.is_some().then_some(matches!(event, TaskEvent::Cancelled(_)));
        let seen = figures::attempt(&running, &ended, &event, now);
        self.runner.metrics.attempt_ended(seen);
        figures::note_host(&self.runner.metrics, &running.spec, &event);
        let wait = wait_after(&ended.end, &event);
        // One that only found that it has to wait is not told, as it is not noted.
        if let Some(traces) = self.runner.traces.as_ref().filter(|_| wait.is_none()) {
            spans::attempt(traces, &run.job, &running, &ended, (&event, seen), now);
        }
        let before = running.row.held_of(&running.spec.work, run.job.parts_gone).bytes;
        let Ended { end, report, body, .. } = ended;
        note_attempt(&mut running.row, (running.attempt_start, before), &end, report, &event, now);
        if is_echo(&end) {
            // What came before it may be the other half of what was echoed.
            self.outbox.batch().dropped_pages.push(id);
        }
        let outcome = if let AttemptEnd::Done(outcome) = end { Some(Arc::new(outcome)) } else { None };
        if let Some(body) = body.filter(|_| outcome.is_some()) {
            self.outbox.page(body);
        }
        self.moved(id, running, event, outcome, wait, now);
        if let Some(is_cancelled) = withdrawn {
            self.withdrew(id, is_cancelled);
        }
    }

    fn moved(
        &mut self,
        id: TaskId,
        mut running: Running,
        event: TaskEvent,
        outcome: Option<Arc<Outcome>>,
        wait: Option<Wait>,
        now: Timestamp,
    ) {
        let Some(run) = self.jobs.get_mut(id.job) else { return };
        let storage = running.storage.clone();
        match running.row.task.apply(event, now) {
            Ok(task) => running.row.task = task,
            Err(wrong) => return self.contradicted(id.job, &format!("task {} was to move: {wrong}", id.index)),
        }
        let state = running.row.task.state;
        if !run.job_mut().counts.try_move(TaskState::Running, state, 1) {
            return self.contradicted(id.job, &format!("no task was counted as running, and task {} ran", id.index));
        }
        let (bytes, is_skipped) = outcome.as_deref().map_or((0, false), outcome_bytes);
        run.job_mut().ended_bytes += bytes;
        run.job_mut().skipped_bytes += if is_skipped { bytes } else { 0 };
        running.row.outcome = outcome;
        let parts_gone = run.job.parts_gone;
        run.job_mut().held.add(running.row.held_of(&running.spec.work, parts_gone));
        run.job_mut().update_time = now;
        self.outbox.moved(TaskMove { id, row: running.row.clone() });
        if state.is_ended() {
            self.task_ended(id, running.lane, running.spec, running.row, now);
        } else {
            self.task_waits(id, running, wait);
        }
        if storage.bytes() > 0 {
            self.jobs.hand_over(id.job, &storage, 0);
        }
        self.settle_if_done(id.job);
    }

    /// Puts a task that has not ended where it waits for its next attempt.
    fn task_waits(&mut self, id: TaskId, running: Running, wait: Option<Wait>) {
        let Running { lane, spec, row, cursor, .. } = running;
        let wait = match row.task.state {
            TaskState::BackingOff => {
                let task = StoredTask { index: id.index, lane, spec: spec.clone(), row: row.clone() };
                let after = self.jobs.get(id.job).map(|run| run.job.sequence).unwrap_or_default();
                self.outbox.then(Effect::Notify(id.job, after, Notice::BackingOff(Arc::new(task))));
                Some(Wait::Backoff(row.task.due.unwrap_or_default()))
            }
            _ => wait,
        };
        let batch = self.outbox.number();
        let task = Queued { index: id.index, lane, spec, row: Some(Box::new(row)), cursor, waited_for: None, batch };
        if matches!(wait, Some(Wait::Disk { .. })) {
            self.timers.set_earlier(self.now().plus(DISK_LOOK), Timer::DiskLook);
        }
        let head = match wait {
            Some(wait) => self.queue.wait(id.job, task, wait),
            None => self.queue.put_first(id.job, task, true),
        };
        self.outbox.head(head);
    }

    /// Records the end of a task, and judges its job by it.
    pub(super) fn task_ended(
        &mut self,
        id: TaskId,
        lane: u32,
        spec: Arc<crate::model::spec::TaskSpec>,
        row: TaskRow,
        now: Timestamp,
    ) {
        let Some(run) = self.jobs.get_mut(id.job) else { return };
        self.queue.leaving(id, self.outbox.number());
        let task = StoredTask { index: id.index, lane, spec, row };
        run.note_failure(&task, || self.queue.host_of(id.job, lane).map(Host::to_string).unwrap_or_default());
        self.runner.metrics.tasks_ended(figures::kind(&task.spec.work), figures::task_end(task.row.task.state), 1);
        let error = task.placed_error();
        self.outbox.task_ended(run.job_mut(), task);
        self.judge(id.job, error, now);
    }

    /// Ends a waiting task whose time over all attempts is over.
    pub(super) fn end_late(&mut self, job: JobId, task: Queued, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        let id = TaskId { job, index: task.index };
        let limit = task.spec.options.timeouts.task.or(run.job.spec.defaults.timeouts.task).unwrap_or_default();
        let mut row = task.row.map(|row| *row).unwrap_or_default();
        let before = row.task.state;
        let error = task_timeout(limit, row.task.error.as_ref(), row.task.attempts);
        match row.task.apply(TaskEvent::TimedOut(error), now) {
            Ok(ended) => row.task = ended,
            Err(wrong) => return self.contradicted(job, &format!("task {} was to time out: {wrong}", id.index)),
        }
        if !run.job_mut().counts.try_move(before, row.task.state, 1) {
            return self.contradicted(job, &format!("no task was counted as {before}, and task {} was", id.index));
        }
        self.outbox.moved(TaskMove { id, row: row.clone() });
        self.task_ended(id, task.lane, task.spec, row, now);
        self.settle_if_done(job);
    }

    /// Judges a job that was taken in: what decided its group may have come just before the end of the process.
    pub(super) fn judge_again(&mut self, job: JobId) {
        if self.jobs.get(job).is_some_and(JobRun::is_decided) {
            self.judge(job, None, self.now());
        }
    }

    /// Judges a job by its counts, after a task ended with `error` or without one.
    pub(super) fn judge(&mut self, job: JobId, error: Option<TaskError>, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        if matches!(run.stage, Stage::Reloading { .. }) {
            // What is thought of it may be wrong: it is judged again once it was read.
            return;
        }
        let (stop, failure) = match run.job.judge() {
            Verdict::Continue | Verdict::Settle { .. } => return,
            Verdict::StopFailed => (Stop::SiblingFailed, error),
            Verdict::StopSucceeded => (Stop::SiblingSucceeded, None),
        };
        if run.job_mut().apply(JobEvent::Stopped(stop, failure), now) == Ok(Change::Stopping) {
            self.stopping(job);
        }
    }

    /// Begins to end the tasks of a job: from now on none starts and none is put back, those that run are stopped once that
    /// is durable, and the rest is ended in the store piece by piece.
    pub(super) fn stopping(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        self.queue.stop_job(job);
        run.job_mut().retrying = None;
        run.job_mut().retry_filter = None;
        if let Stage::Retrying(retrying) = std::mem::replace(&mut run.stage, Stage::Sweeping(Sweeping::default()))
            && let Some(reply) = retrying.reply
        {
            self.outbox.then(Effect::Reply(reply, run.job.clone()));
        }
        if let Some(stop) = run.job.stop.clone() {
            self.outbox.job_event(run.job_mut(), EventKind::JobChanged);
            self.outbox.then(Effect::StopAttempts(job, Cause::Stop(stop)));
        }
        if run.to_sweep().is_some() {
            self.add_piece(Piece::Sweep(job));
        }
        self.end_selections(job);
        self.settle_if_done(job);
    }

    /// Begins the end of a job of which nothing is left to run: first its part files are put away.
    pub(super) fn settle_if_done(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        if run.settles().is_none() {
            return;
        }
        run.stage = Stage::Settling;
        if run.job.downloads && (run.job.counts.failed > 0 || run.job.counts.cancelled > 0) {
            // The store says which tasks have parts, so their ends must be there first.
            self.outbox.then(Effect::PutPartsAway(job));
            self.park_deferred(job);
        } else {
            self.settled(job);
        }
    }

    /// The part files of an ending job are put away, or removed where they could not be kept: then nothing of them is counted any
    /// more.
    pub(super) fn parts_away(&mut self, job: JobId, gone: Held) {
        let now = self.now();
        if let Some(run) = self.jobs.get_mut(job).filter(|_| gone != Held::default()) {
            run.job_mut().held.remove(gone);
            run.job_mut().parts_gone = Some(now);
        }
        self.settled(job);
    }

    /// Ends a job: nothing of it runs, and no part file of it is left in its place. One that is read again meanwhile is judged by what
    /// the store has.
    pub(super) fn settled(&mut self, job: JobId) {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job).filter(|run| matches!(run.stage, Stage::Settling)) else { return };
        let Verdict::Settle { succeeded } = run.job.judge() else {
            return self.contradicted(job, "it was to end and has tasks that have not");
        };
        match run.job_mut().apply(JobEvent::Settled(succeeded), now) {
            Ok(_) => {
                run.stage = Stage::Ended;
                self.runner.metrics.job_ended(figures::job_end(run.job.state));
                if let Some(traces) = &self.runner.traces {
                    spans::job(traces, &run.job);
                }
                self.outbox.job_event(run.job_mut(), EventKind::JobEnded);
                self.outbox.then(Effect::Forget(job));
            }
            Err(wrong) => self.contradicted(job, &format!("it was to end: {wrong}")),
        }
    }

    /// Ends the tasks of a job whose time is over.
    pub(super) fn job_deadline(&mut self, job: JobId, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        let Some(deadline) = run.job.deadline() else { return };
        // A piece is on its way, or the job has a later deadline since a retry: the timer is set again.
        if deadline > now || run.in_flight {
            let soon = now.plus(std::time::Duration::from_millis(20));
            return self.deadlines.set(deadline.max(soon), Timer::JobDeadline(job));
        }
        if matches!(run.stage, Stage::Open | Stage::Retrying(_))
            && run.job_mut().apply(JobEvent::TimedOut, now) == Ok(Change::Stopping)
        {
            self.stopping(job);
        }
    }
}

/// The bytes of a result, and whether it is a file that was there already.
fn outcome_bytes(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Fetch(fetch) => (fetch.body_bytes, false),
        Outcome::Download(download) => (download.bytes, download.skipped),
    }
}

/// What an end means for the task. A success counts whatever was asked meanwhile: the result is there. Otherwise a job
/// whose tasks are being ended ends this one too, also if its attempt was stopped for another cause before: no task of
/// such a job may wait for another attempt.
fn meaning(
    running: &Running,
    defaults: &TaskOptions,
    ended: &Ended,
    stop: Option<&Stop>,
    now: Timestamp,
    chance: f64,
) -> TaskEvent {
    let fence = running.fence;
    let attempt = running.row.task.attempts;
    // Nearly all attempts succeed, which no option has to do with.
    let options = || Options::of(defaults, &running.spec);
    match (&ended.end, stop, running.cause.get()) {
        (AttemptEnd::Done(_), ..) => TaskEvent::Succeeded(fence),
        (_, Some(stop), _) => TaskEvent::Cancelled(TaskError { attempt, ..stop.task_error() }),
        _ if let Some(error) = &running.withdrawn => TaskEvent::Cancelled(TaskError { attempt, ..error.clone() }),
        (AttemptEnd::Failed(failure), None, Some(_)) if must_count(&options(), failure) || is_echo(&ended.end) => {
            failed(running, &options(), failure, now, chance)
        }
        (_, None, Some(Cause::Drain | Cause::Pause | Cause::Reload | Cause::Stop(_) | Cause::Withdrawn))
        | (AttemptEnd::NoSpace { .. } | AttemptEnd::Failed(Failure { paused_until: Some(_), .. }), None, None) => {
            TaskEvent::GivenBack(fence)
        }
        (AttemptEnd::Failed(failure), None, None) => failed(running, &options(), failure, now, chance),
        (AttemptEnd::Stopped, None, None) => {
            let failure = Failure::retryable(FailureReason::Internal, "the attempt stopped without being asked to");
            failed(running, &options(), &failure, now, chance)
        }
    }
}

/// Whether an attempt found the secret that it sent. Its pages are gone then, so it counts whatever was asked meanwhile.
fn is_echo(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Failed(failure) if failure.reason == FailureReason::SecretEchoed)
}

/// Whether a failure counts although the attempt was asked to stop: an origin may have looked at a request that must not be
/// sent twice.
fn must_count(options: &Options, failure: &Failure) -> bool {
    !options.retry.may_repeat && !failure.is_unsent && failure.paused_until.is_none()
}

/// What a requeued task waits for.
fn wait_after(end: &AttemptEnd, event: &TaskEvent) -> Option<Wait> {
    match (event, end) {
        (TaskEvent::GivenBack(_), AttemptEnd::NoSpace { of, folder, needed_bytes, message }) => {
            Some(Wait::Disk { of: *of, folder: folder.clone(), bytes: *needed_bytes, message: message.clone() })
        }
        (
            TaskEvent::GivenBack(_),
            AttemptEnd::Failed(Failure { paused_until: Some(until), paused_host: host, message, .. }),
        ) => Some(Wait::Host { until: *until, host: host.clone(), message: message.clone() }),
        _ => None,
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
    let message = format!("the task did not end within its `timeouts.task` of {limit:?}{last}");
    Failure::fatal(FailureReason::TimeoutTask, message).into_error(attempt)
}

fn description(event: &TaskEvent) -> String {
    match event {
        TaskEvent::Failed(_, error) => format!("failed: {}", error.message),
        TaskEvent::BackedOff(_, error, due) => format!("failed, next attempt at {}: {}", due.0, error.message),
        TaskEvent::Cancelled(error) => format!("cancelled: {}", error.message),
        TaskEvent::Succeeded(_) => "succeeded".to_owned(),
        _ => "requeued".to_owned(),
    }
}

/// Appends the attempt to the task's log, which keeps the last [`ATTEMPT_LOG_MAX`]. An attempt that ended
/// because a host was paused or there was no room did nothing, and would push out those that did; one that holds more or
/// less than `before` did something.
fn note_attempt(
    row: &mut TaskRow,
    (start_time, before): (Timestamp, u64),
    end: &AttemptEnd,
    report: AttemptReport,
    event: &TaskEvent,
    now: Timestamp,
) {
    let has_more = report.held_bytes > before;
    let has_less = report.held_bytes < before && matches!(end, AttemptEnd::NoSpace { .. });
    if wait_after(end, event).is_some() && !has_more && !has_less {
        return;
    }
    let error = match event {
        TaskEvent::Failed(_, error) | TaskEvent::BackedOff(_, error, _) | TaskEvent::Cancelled(error) => {
            Some(error.clone())
        }
        _ => None,
    };
    row.log.push(Attempt { number: row.task.attempts, start_time, end_time: now, report, error });
    let surplus = row.log.len().saturating_sub(ATTEMPT_LOG_MAX);
    row.log.drain(..surplus);
}
