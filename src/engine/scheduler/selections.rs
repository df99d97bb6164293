//! What is asked of some tasks of a job that goes on: to end, or to be tried again now.
//!
//! The store decides which tasks these are, piece by piece, and says which it has changed; memory then lets them go. While
//! waiting tasks are being ended no attempt of the job starts, so that none is ended that has begun meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::command::{Acted, Admitted, EngineError, JobCommand, Reply, answer};
use crate::engine::effect::Effect;
use crate::engine::jobs::Stage;
use crate::engine::queue::task::{BatchNumber, Cause};
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::piece::Piece;
use crate::engine::selection::{Chosen, Hastening, Withdrawal};
use crate::engine::writer::Condition;
use crate::model::access::Actor;
use crate::model::audit::{AuditRow, Of};
use crate::model::failure::{Failure, FailureReason, TaskError};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::task::TaskState;
use crate::model::task_filter::{TaskChoice, TaskFilter};
use crate::model::told;
use crate::store::{Hasten, Hastened, StoredEvent, Sweep, Swept};
use crate::telemetry::metrics::End;

/// Returns why nothing that needs room is begun.
fn refusal(condition: &Condition) -> Option<EngineError> {
    match condition {
        Condition::Writable => None,
        Condition::Short(why) | Condition::Blocked(why) => Some(EngineError::StoreFull(why.clone())),
        Condition::Busy(why) => Some(EngineError::StoreBusy(why.clone())),
    }
}

impl Scheduler {
    /// Takes a command about some tasks of a job that memory has. One that comes while another is at work waits for it.
    pub(super) fn select(&mut self, job: JobId, admitted: Admitted<JobCommand>) {
        let condition = self.condition();
        let Some(run) = self.jobs.get_mut(job) else { return admitted.command.refuse(EngineError::NoJob(job)) };
        let is_stopped = run.job.stop.is_some();
        if let Some(refusal) = refusal(&condition)
            && !is_stopped
            && (run.activity().is_some_and(|it| it.hastening.is_some()) || matches!(run.stage, Stage::Retrying(_)))
        {
            // What it would wait for goes on once there is room.
            return admitted.command.refuse(refusal);
        }
        if !is_stopped && (run.is_selecting() || !matches!(run.stage, Stage::Open)) {
            // It waits for attempts, too.
            return run.activity_mut().asked.extend(self.parked.admit(admitted));
        }
        let Admitted { command, by, .. } = admitted;
        match command {
            // All of its tasks are being ended.
            JobCommand::CancelTasks { reply, .. } | JobCommand::RetryNow { reply, .. } if is_stopped => {
                let acted = Acted { job: run.job.clone(), tasks: 0 };
                self.outbox.then(Effect::Acted(reply, acted));
            }
            JobCommand::CancelTasks { which, to, reason, reply } => {
                let to = to.unwrap_or(run.job.counts.total);
                self.cancel_tasks(job, Chosen { which, to }, reason, by, reply);
            }
            JobCommand::RetryNow { which, to, reply } => {
                let to = to.unwrap_or(run.job.counts.total);
                self.retry_now(job, Chosen { which, to }, by, reply);
            }
            other => other.refuse(EngineError::NoJob(job)),
        }
    }

    /// Takes the next command that waited, once nothing is at work that it has to wait for.
    pub(super) fn next_selection(&mut self, job: JobId) {
        while let Some(run) = self.jobs.get_mut(job)
            && !run.is_selecting()
            && (run.job.stop.is_some() || matches!(run.stage, Stage::Open))
            && let Some(admitted) = run.ongoing().and_then(|it| it.asked.pop_front())
        {
            self.job_command(job, admitted);
        }
    }

    /// The tasks of the job are being ended for another reason: what was asked of some of them is answered by what was done.
    pub(super) fn end_selections(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        let row = run.job.clone();
        let ongoing = run.ongoing();
        let (withdrawal, hastening) = ongoing.map(|it| (it.withdrawal.take(), it.hastening.take())).unwrap_or_default();
        let withdrawn = withdrawal.map(|it| (it.reply, it.count));
        for (reply, tasks) in withdrawn.into_iter().chain(hastening.map(|it| (it.reply, it.count))) {
            self.outbox.then(Effect::Acted(reply, Acted { job: row.clone(), tasks }));
        }
        self.next_selection(job);
    }

    fn cancel_tasks(&mut self, job: JobId, chosen: Chosen, reason: String, by: Arc<Actor>, reply: Reply<Acted>) {
        let now = self.now();
        let Chosen { which, to } = chosen;
        let Some(run) = self.jobs.get(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        let Some(which) = told::choice(run.job.state, which) else {
            let acted = Acted { job: run.job.clone(), tasks: 0 };
            return self.outbox.then(Effect::Acted(reply, acted));
        };
        let message = if reason.is_empty() { "the task was cancelled".to_owned() } else { reason };
        let error = Failure::fatal(FailureReason::Cancelled, message).into_error(0);
        let running = self.withdraw_running(job, &which, to, &error);
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        let sweeping = Withdrawal::first(&which, &run.job.counts);
        if running.is_empty() && sweeping.is_none() {
            // Nothing has to be waited for, and however many of these come one after another, each is done when it returns.
            let acted = Acted { job: run.job.clone(), tasks: 0 };
            return self.outbox.then(Effect::Acted(reply, acted));
        }
        // Of a filter the store says which tasks it has found.
        let which = if which == TaskChoice::All { TaskChoice::Fitting(TaskFilter::default()) } else { which };
        let withdrawal = Withdrawal { which, to, error, by, running, sweeping, count: 0, is_noted: false, reply };
        run.activity_mut().withdrawal = Some(Box::new(withdrawal));
        if sweeping.is_some() {
            self.job_may_run(job, now);
            self.queue.drop_reads(job);
            self.add_piece(Piece::Withdraw(job));
        }
    }

    /// Stops the running attempts of tasks that are cancelled.
    fn withdraw_running(
        &mut self,
        job: JobId,
        which: &TaskChoice,
        to: TaskIndex,
        error: &TaskError,
    ) -> BTreeSet<TaskIndex> {
        let host = |lane| self.queue.host_of(job, lane).map(Host::as_str).unwrap_or_default();
        let is_meant =
            |(index, lane): &(TaskIndex, u32)| *index < to && which.has(*index, TaskState::Running, None, host(*lane));
        let running: BTreeSet<TaskIndex> =
            self.queue.running_places(job).filter(is_meant).map(|(index, _)| index).collect();
        for index in &running {
            if let Some(running) = self.queue.running_task_mut(TaskId { job, index: *index }) {
                running.withdrawn = Some(error.clone());
                running.stop(Cause::Withdrawn);
            }
        }
        running
    }

    /// The attempt of a task that somebody has cancelled has ended.
    pub(super) fn withdrew(&mut self, id: TaskId, is_cancelled: bool) {
        let Some(run) = self.jobs.get_mut(id.job) else { return };
        let withdrawal = run.ongoing().and_then(|it| it.withdrawal.as_mut());
        let Some(withdrawal) = withdrawal.filter(|it| it.running.contains(&id.index)) else { return };
        withdrawal.running.remove(&id.index);
        withdrawal.count += u32::from(is_cancelled);
        if is_cancelled && !std::mem::replace(&mut withdrawal.is_noted, true) {
            let by = withdrawal.by.clone();
            self.note_job(&by, Of::Job(id.job), "CancelTasks", id.job);
        }
        self.end_withdrawal(id.job);
    }

    /// Adds a piece of the waiting tasks that are to end to the batch. Returns whether its effect publishes the job.
    pub(super) fn withdraw(&mut self, job: JobId, limit: u32) -> bool {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return false };
        if run.in_flight {
            self.add_piece(Piece::Withdraw(job));
            return false;
        }
        let Some(withdrawal) = run.withdrawal() else { return false };
        let Some((state, from)) = withdrawal.sweeping else { return false };
        let (which, to, error) = (withdrawal.which.clone(), withdrawal.to, withdrawal.error.clone());
        let unnoted = (!withdrawal.is_noted).then(|| withdrawal.by.clone());
        run.in_flight = true;
        run.job_mut().update_time = now;
        let first_sequence = run.job.sequence + 1;
        self.outbox.changed(job);
        let events = self.outbox.take_events(job);
        let batch = self.outbox.batch();
        let nth = batch.sweeps.len();
        batch.sweeps.push(Sweep { job, state, which, from, to: Some(to), limit, error, time: now, first_sequence });
        if let Some(by) = unnoted {
            self.note_job(&by, Of::Sweep(nth), "CancelTasks", job);
        }
        self.outbox.then(Effect::Withdrawn { nth, job, state, events });
        true
    }

    /// A piece of the waiting tasks has ended.
    pub(super) fn withdrawn(&mut self, job: JobId, state: TaskState, swept: &Swept, events: Vec<Arc<StoredEvent>>) {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return };
        if !run.job.counts.has(state, swept.count) {
            return self.contradicted(job, &format!("{} tasks were {state}, more than were counted", swept.count));
        }
        run.in_flight = false;
        self.runner.metrics.tasks_ended(run.kind(), End::Cancelled, u64::from(swept.count));
        run.job_mut().swept(state, swept.count);
        let (published, pending) = (run.job.clone(), run.job.counts.pending);
        let mut goes_on = false;
        if let Some(withdrawal) = run.ongoing().and_then(|it| it.withdrawal.as_mut()) {
            withdrawal.is_noted |= swept.count > 0;
            withdrawal.swept(state, swept.count, swept.next);
            goes_on = withdrawal.sweeping.is_some();
        }
        for index in &swept.indexes {
            self.queue.forget(TaskId { job, index: *index });
        }
        self.hub.publish(published, events);
        if goes_on {
            self.add_piece(Piece::Withdraw(job));
        } else {
            self.job_may_run(job, now);
            self.queue.share_out(job, pending);
            self.end_withdrawal(job);
        }
        self.go_on_with(job);
    }

    /// Answers who has cancelled tasks, once all of them have ended.
    fn end_withdrawal(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        let Some(withdrawal) = run.ongoing().and_then(|it| it.withdrawal.take_if(|it| it.is_over())) else { return };
        let acted = Acted { job: run.job.clone(), tasks: withdrawal.count };
        self.outbox.then(Effect::Acted(withdrawal.reply, acted));
        self.next_selection(job);
        self.settle_if_done(job);
    }

    fn retry_now(&mut self, job: JobId, chosen: Chosen, by: Arc<Actor>, reply: Reply<Acted>) {
        let Some(run) = self.jobs.get_mut(job) else { return answer(reply, Err(EngineError::NoJob(job))) };
        let Chosen { which, to } = chosen;
        if !which.has_state(TaskState::BackingOff) || run.job.counts.backing_off == 0 {
            let acted = Acted { job: run.job.clone(), tasks: 0 };
            return self.outbox.then(Effect::Acted(reply, acted));
        }
        let hastening = Hastening { which, to, by, from: 0, count: 0, is_noted: false, reply };
        run.activity_mut().hastening = Some(Box::new(hastening));
        self.add_piece(Piece::Hasten(job));
    }

    /// Adds a piece of the tasks that are to be due to the batch.
    pub(super) fn hasten(&mut self, job: JobId, limit: u32) {
        let due = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return };
        let Some(hastening) = run.activity().and_then(|it| it.hastening.as_ref()) else { return };
        let (which, from, to) = (hastening.which.clone(), hastening.from, hastening.to);
        let unnoted = (!hastening.is_noted).then(|| hastening.by.clone());
        let batch = self.outbox.batch();
        let nth = batch.hastens.len();
        batch.hastens.push(Hasten { job, which, from, to, limit, due });
        if let Some(by) = unnoted {
            self.note_job(&by, Of::Hasten(nth), "RetryNow", job);
        }
        self.outbox.then(Effect::Hastened { nth, job });
    }

    /// A piece of the tasks that back off is due, as batch `number` has it.
    pub(super) fn hastened(&mut self, job: JobId, number: BatchNumber, hastened: &Hastened) {
        for (index, lane) in &hastened.tasks {
            self.queue.hasten(TaskId { job, index: *index }, *lane, number);
        }
        let Some(run) = self.jobs.get_mut(job) else { return };
        let row: Arc<Job> = run.job.clone();
        let Some(activity) = run.ongoing() else { return };
        let Some(hastening) = activity.hastening.as_mut() else { return };
        hastening.count += hastened.tasks.len() as u32;
        hastening.is_noted |= !hastened.tasks.is_empty();
        if let Some(next) = hastened.next {
            hastening.from = next;
            self.add_piece(Piece::Hasten(job));
        } else if let Some(done) = activity.hastening.take() {
            // The job may have changed since the piece was on its way, and that is not durable yet.
            self.outbox.then(Effect::Acted(done.reply, Acted { job: row, tasks: done.count }));
            self.next_selection(job);
        }
    }

    /// Adds what became of pauses to what becomes durable.
    pub(super) fn note_pauses(&mut self) {
        let changes = self.runner.hosts.take_pauses();
        if !changes.is_empty() {
            self.outbox.pauses(changes);
        }
    }

    /// Ends the pause of a host. Tasks that have waited for the end of this pause look again.
    pub(super) fn resume_host(&mut self, host: Host, by: &Actor, reply: Reply<()>) {
        match self.runner.hosts.resume(&host) {
            None => answer(reply, Err(EngineError::NoHost(host))),
            Some(false) => answer(reply, Ok(())),
            Some(true) => {
                self.note(by, Of::Always, |now| {
                    AuditRow::done(by, "AdminService/ResumeHost", format!("hosts/{host}"), "", now)
                });
                self.note_pauses();
                self.wake_host(&host);
                for (mirror, paused) in &mut self.mirrored {
                    if paused.remove(&host) {
                        self.queue.wake_all(mirror);
                    }
                }
                let waiting = self.queue.waiting_for_pause(&host);
                self.queue.wake(waiting, self.committed);
                self.outbox.then(Effect::Audited(reply));
            }
        }
    }
}
