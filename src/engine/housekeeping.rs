//! Deleting what has been kept long enough, a bounded bit at a time.

use std::time::Duration;

use crate::engine::commit::{Effect, answer};
use crate::engine::event::Reply;
use crate::engine::reads::Read;
use crate::engine::scheduler::Scheduler;
use crate::engine::timers::Timer;
use crate::model::ids::JobId;

/// How often expired jobs are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// The same while there are deleted jobs whose rows have to go.
const BUSY_PERIOD: Duration = Duration::from_millis(50);
/// Jobs that are looked at in one go.
const JOBS_MAX: u32 = 64;
/// Rows of one job that one commit deletes: bounds how long others wait for it.
const ROWS_MAX: u32 = 2_000;

impl Scheduler {
    /// Looks for jobs to delete.
    pub(crate) fn housekeeping(&mut self) {
        if self.draining {
            return;
        }
        if self.housekeeping {
            // One look at a time; it is asked for again when this one is done.
            self.timers.add(self.now().plus(BUSY_PERIOD), Timer::Housekeeping);
            return;
        }
        self.housekeeping = true;
        let (store, now, deleted_left) = (self.runner.store.clone(), self.now(), self.deleted_left);
        self.reads.spawn(async move {
            let read = async {
                let expired = store.expired_jobs(now, JOBS_MAX).await?;
                let deleted = if deleted_left { store.deleted_jobs(JOBS_MAX).await? } else { Vec::new() };
                Ok((expired, deleted))
            };
            Read::Housekeeping(read.await)
        });
    }

    pub(crate) fn housekept(&mut self, expired: Vec<JobId>, deleted: Vec<JobId>) {
        self.housekeeping = false;
        self.deleted_left = !deleted.is_empty();
        let expired: Vec<JobId> = expired.into_iter().filter(|job| !self.jobs.contains_key(job)).collect();
        if !expired.is_empty() {
            self.pending.batch.deleted.extend(expired);
            self.pending.effects.push(Effect::Deleted(None));
        }
        for job in deleted {
            if self.deleting.insert(job) {
                self.purge(job);
            }
        }
        let wait = if self.deleted_left { BUSY_PERIOD } else { PERIOD };
        self.timers.add(self.now().plus(wait), Timer::Housekeeping);
    }

    /// What is marked deleted, durably, is looked for at once.
    pub(crate) fn deleted(&mut self, reply: Option<Reply<()>>) {
        self.deleted_left = true;
        self.timers.add(self.now(), Timer::Housekeeping);
        if let Some(reply) = reply {
            answer(reply, Ok(()));
        }
    }

    fn purge(&mut self, job: JobId) {
        self.pending.effects.push(Effect::Purged(job, self.pending.batch.purges.len()));
        self.pending.batch.purges.push((job, ROWS_MAX));
    }

    /// A bit of a deleted job is gone; the files of it go with the last row.
    pub(crate) fn purged(&mut self, job: JobId, is_gone: bool) {
        if !is_gone {
            return self.purge(job);
        }
        self.deleting.remove(&job);
        let parts = self.runner.parts.clone();
        self.reads.spawn(async move {
            parts.forget(job).await;
            Read::Done
        });
    }
}
