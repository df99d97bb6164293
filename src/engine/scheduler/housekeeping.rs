//! Removing what has been kept long enough, and looking for disk space for those who wait for it.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::command::{EngineError, Reply, answer};
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::read::{Read, Removable};
use crate::engine::scheduler::{DISK_LOOK, Scheduler};
use crate::engine::timers::Timer;
use crate::model::ids::{JobId, TaskId};
use crate::store::StoreError;

/// How often expired jobs are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// Jobs that are looked at in one go.
const JOBS_MAX: u32 = 64;
/// Tasks that wait for disk space and are looked at in one go.
const WAITING_MAX: usize = 256;

impl Scheduler {
    /// Looks for jobs to remove.
    pub(super) fn look_for_removals(&mut self) {
        if self.draining || self.looks.for_removable {
            return;
        }
        self.looks.for_removable = true;
        let (store, now, deleted_left) = (self.runner.store.clone(), self.now(), self.looks.deleted_left);
        self.reads.spawn(async move {
            let read = async {
                let expired = store.expired_jobs(now, JOBS_MAX).await?;
                let deleted = if deleted_left { store.deleted_jobs(JOBS_MAX).await? } else { Vec::new() };
                Ok::<_, StoreError>(Removable { expired, deleted })
            };
            Read::Removable(read.await)
        });
    }

    pub(super) fn remove_jobs(&mut self, Removable { expired, deleted }: Removable) {
        self.looks.for_removable = false;
        self.timers.set(self.now().plus(PERIOD), Timer::Housekeeping);
        for job in expired {
            // A job that somebody changes just now is looked at again later.
            if self.jobs.get(job).is_none() && self.jobs.visit(job, None) {
                self.delete(job, None);
            }
        }
        self.looks.deleted_left = deleted.len() == JOBS_MAX as usize;
        for job in deleted {
            self.begin_purge(job);
        }
    }

    /// The deletion of a job is durable, or there was nothing to delete.
    pub(super) fn deleted(&mut self, job: JobId, was_there: bool, reply: Option<Reply<()>>) {
        if was_there {
            self.begin_purge(job);
        }
        if let Some(reply) = reply {
            answer(reply, if was_there { Ok(()) } else { Err(EngineError::NoJob(job)) });
        }
        self.next_visitor(job);
    }

    fn begin_purge(&mut self, job: JobId) {
        if self.purging.insert(job) {
            self.add_piece(Piece::Purge(job));
        }
    }

    /// A piece of a deleted job is gone; its files go with the last row.
    pub(super) fn purged(&mut self, job: JobId, is_gone: bool) {
        if !is_gone {
            return self.add_piece(Piece::Purge(job));
        }
        self.purging.remove(&job);
        let files = self.runner.files.clone();
        self.reads.spawn(async move {
            files.forget(job).await;
            Read::Done
        });
    }

    /// Looks whether there is disk space for those who wait for it. Their origins are not asked.
    pub(super) fn look_for_space(&mut self) {
        let waiting = self.queue.waiting_for_disk(WAITING_MAX);
        if waiting.is_empty() || self.looks.for_space || self.draining {
            return;
        }
        self.looks.for_space = true;
        let root = self.runner.root.clone();
        self.reads.spawn(async move {
            let look = move || {
                // What fits together goes on together; the rest would only find the disk full again.
                let mut taken: HashMap<String, u64> = HashMap::new();
                let fits = |(id, folder, bytes): (TaskId, String, u64)| {
                    let sum = taken.get(&folder).copied().unwrap_or_default().saturating_add(bytes);
                    let fits = root.has_room(&folder, sum);
                    if fits {
                        taken.insert(folder, sum);
                    }
                    fits.then_some(id)
                };
                waiting.into_iter().filter_map(fits).collect()
            };
            Read::Space(tokio::task::spawn_blocking(look).await.unwrap_or_default())
        });
    }

    pub(super) fn space_found(&mut self, fitting: Vec<TaskId>) {
        self.looks.for_space = false;
        self.queue.wake(fitting, self.committed);
        if !self.queue.waiting_for_disk(1).is_empty() {
            self.timers.set(self.now().plus(DISK_LOOK), Timer::DiskLook);
        }
    }
}
