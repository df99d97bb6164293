//! What happens when memory and store contradict each other about a job: the job is stopped, forgotten and read again. No
//! other job notices.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::attempt::Ended;
use crate::engine::command::{EngineError, answer};
use crate::engine::jobs::{Deferred, JobRun, Stage};
use crate::engine::patience::{caught, patiently};
use crate::engine::queue::task::{Cause, Running};
use crate::engine::runner::Checks;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::read::{Read, Reloaded};
use crate::engine::timers::Timer;
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::task::TaskEvent;
use crate::model::time::Timestamp;
use crate::store::{CutAttempt, StoredTask};

impl Scheduler {
    /// Notes a contradiction about a job, and begins to read the job again.
    ///
    /// In tests that check everything it panics, so that a simulation stops where the first contradiction is.
    pub(super) fn contradicted(&mut self, job: JobId, why: &str) {
        assert!(self.checks != Checks::All, "memory and store contradict each other about job {job}: {why}");
        tracing::error!(%job, "memory and store contradict each other, so the job is read again: {why}");
        if self.jobs.is_visited(job) {
            return self.next_visitor(job);
        }
        let Some(run) = self.jobs.get_mut(job) else { return };
        if matches!(run.stage, Stage::Reloading { .. }) {
            return;
        }
        self.outbox.drop_job(job);
        // What was on its way when the contradiction was found has to be durable before the job is read.
        let after = self.outbox.number() - u64::from(self.outbox.is_empty());
        if let Stage::Retrying(retrying) = std::mem::replace(&mut run.stage, Stage::Reloading { after })
            && let Some(reply) = retrying.reply
        {
            answer(reply, Err(EngineError::Contradiction(job)));
        }
        if let Some(activity) = run.ongoing() {
            if let Some(withdrawal) = activity.withdrawal.take() {
                answer(withdrawal.reply, Err(EngineError::Contradiction(job)));
            }
            if let Some(hastening) = activity.hastening.take() {
                answer(hastening.reply, Err(EngineError::Contradiction(job)));
            }
            activity.deferred.extend(activity.asked.drain(..).map(Deferred::Command));
        }
        self.park_deferred(job);
        self.queue.stop_job(job);
        for running in self.queue.running_of(job) {
            running.stop(Cause::Reload);
        }
        // Ends that were deferred are taken in once the job has been read again.
        let deferred = self.jobs.get(job).map(JobRun::deferred_attempts).unwrap_or_default();
        for (id, fence) in deferred {
            self.queue.attempt_ended(id, fence);
            self.hub.stopped(job, id.index);
        }
        let now = self.now();
        match self.rereads.begin(job, now) {
            Duration::ZERO => self.read_again(job),
            rest => self.timers.set(now.plus(rest), Timer::JobReread(job)),
        }
    }

    /// Reads a job again as soon as that can be done, if it is still to be.
    pub(super) fn read_again(&mut self, job: JobId) {
        self.reloading.push(job);
        self.reload_quiet();
    }

    /// A job that the store has as unfinished and memory does not know is taken in.
    pub(super) fn unknown_job(&mut self, job: Job) {
        let id = job.id;
        tracing::error!(job = %id, "the store has an unfinished job that memory does not know; it is read again");
        let now = self.now();
        let job = Arc::new(job);
        self.hub.open(job.clone());
        let mut run = JobRun::new(job);
        run.stage = Stage::Reloading { after: 0 };
        let waiting = self.enlist(run, now);
        for admitted in waiting {
            self.job_command(id, admitted);
        }
        self.reloading.push(id);
        self.reload_quiet();
    }

    /// Reads those jobs again of which nothing runs and nothing is on its way to the store.
    pub(super) fn reload_quiet(&mut self) {
        for job in std::mem::take(&mut self.reloading) {
            let Some(run) = self.jobs.get(job) else { continue };
            let Stage::Reloading { after } = run.stage else { continue };
            let is_quiet = self.outbox.is_empty() && self.in_flight.is_none();
            if (self.committed >= after || is_quiet) && self.queue.running_of(job).next().is_none() {
                self.reload(job);
            } else {
                self.reloading.push(job);
            }
        }
    }

    pub(super) fn reload(&mut self, job: JobId) {
        let store = self.runner.store.clone();
        self.reads.spawn(async move {
            let read = async {
                let Some(mut found) = patiently(|| store.visit(job)).await? else { return Ok(None) };
                if found.state.is_ended() {
                    return Ok(None);
                }
                found.counts = patiently(|| store.recount(job)).await?;
                let lanes = patiently(|| store.lanes(job)).await?;
                let (mut cut, mut unreadable) = (Vec::new(), Vec::new());
                let mut after = None;
                loop {
                    let page = patiently(|| store.claims(after)).await?;
                    cut.extend(page.attempts.into_iter().filter(|it| it.id.job == job));
                    unreadable.extend(page.unreadable.into_iter().filter(|it| it.id.job == job));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                Ok(Some(Reloaded { job: found, lanes, cut, unreadable }))
            };
            Read::Reloaded(job, Box::new(caught(read).await))
        });
    }

    /// A job that is to be read again cannot be: it is left out, as at a start. Whoever waits for it is told by another look at the
    /// store.
    pub(super) fn not_reloaded(&mut self, job: JobId, why: &str) {
        if self.jobs.get(job).is_some_and(|run| matches!(run.stage, Stage::Reloading { .. })) {
            tracing::error!(%job, "a job cannot be read again, and nothing more of it runs: {why}");
            self.drop_job(job);
        }
    }

    /// Takes in the end of an attempt that came while its job was being read again. What has been sent is not sent again for
    /// that.
    fn take_end(&mut self, task: StoredTask, attempt_start: Timestamp, ended: Ended) {
        let StoredTask { lane, spec, row, .. } = task;
        let running = Running {
            fence: ended.fence,
            lane,
            spec,
            row,
            attempt_start,
            stop: CancellationToken::new(),
            rest: CancellationToken::new(),
            cause: Arc::new(OnceLock::from(Cause::Reload)),
            cursor: None,
            storage: Arc::default(),
            withdrawn: None,
        };
        let id = ended.id;
        if let Err(held) = self.queue.start_unpicked(id, running) {
            return self.contradicted(id.job, &format!("task {} has run and is {held:?}", id.index));
        }
        self.deferred_end(ended);
    }

    /// Takes a job in again as the store has it.
    pub(super) fn reloaded(&mut self, id: JobId, found: Option<Reloaded>) {
        if self.jobs.get(id).is_none_or(|run| !matches!(run.stage, Stage::Reloading { .. })) {
            return;
        }
        let Some(Reloaded { job, lanes, cut, unreadable }) = found else { return self.drop_job(id) };
        let now = self.now();
        let deferred = self.jobs.take_back(&job).map(|mut run| run.take_activity().deferred).unwrap_or_default();
        self.queue.remove_job(id);
        let (job, lanes) = self.shared.job(job, lanes);
        self.hub.publish(job.clone(), Vec::new());
        self.take_in(job, lanes, now);
        self.queue.reread_backoffs();
        let mut ends = HashMap::new();
        let mut commands = Vec::new();
        for deferred in deferred {
            match deferred {
                Deferred::Command(admitted) => commands.push(admitted),
                Deferred::Attempt(ended) => drop(ends.insert((ended.id, ended.fence), *ended)),
            }
        }
        for CutAttempt { id, attempt_start, task } in cut {
            let fence = task.row.task.fence;
            match ends.remove(&(id, fence)) {
                Some(ended) => self.take_end(task, attempt_start, ended),
                // The server stopped it by itself: it does not count, and is no crash.
                None => self.recover_attempt(id, task, TaskEvent::GivenBack(fence), now),
            }
        }
        for attempt in unreadable {
            self.end_unreadable(attempt, now);
        }
        for admitted in commands {
            self.job_command(id, admitted);
        }
        self.judge_again(id);
        self.settle_if_done(id);
    }
}
