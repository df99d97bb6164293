//! Removing what has been kept long enough, and looking for disk space for those who wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::engine::command::{EngineError, Reply, answer};
use crate::engine::patience::caught;
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::read::{Read, Removable};
use crate::engine::scheduler::{DISK_LOOK, Forgetting, Scheduler};
use crate::engine::timers::Timer;
use crate::files::beside;
use crate::model::ids::{JobId, TaskId};
use crate::model::outcome::ShortOf;
use crate::model::storage::Storage;
use crate::model::tenant::{Owner, TenantNo};
use crate::store::{Purged, StoreError};

/// A task that waits for room: of its tenant, where that stores as much as it may, else in this directory.
type Waiting = (TaskId, Owner, Option<Arc<Storage>>, String, u64);

/// How often expired jobs are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How often, as long as there are more of them than one look finds.
const PERIOD_BUSY: Duration = Duration::from_millis(50);
/// Jobs that are looked at in one go.
const JOBS_MAX: u32 = 256;
/// Jobs that are being purged up to which more are looked for without a rest.
const PURGING_MAX: usize = 1024;
/// Deleted jobs whose files are removed at once: one that has a million holds up no other.
const FORGETTING_MAX: usize = 4;
/// Tasks that wait for disk space and are looked at in one go.
const WAITING_MAX: usize = 256;

impl Forgetting {
    /// The next job whose files are to be removed, unless those of enough others are.
    fn next(&mut self) -> Option<JobId> {
        if self.under_way >= FORGETTING_MAX {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.under_way += 1;
        Some(job)
    }
}

impl Scheduler {
    /// Looks for jobs to remove.
    pub(super) fn look_for_removals(&mut self) {
        if self.draining || self.looks.for_removable {
            return;
        }
        self.hub.forget_unwatched();
        self.looks.for_removable = true;
        let (store, now, deleted_left) = (self.runner.store.clone(), self.now(), self.looks.deleted_left);
        let files = self.runner.files.clone();
        self.reads.spawn(async move {
            let read = async {
                files.note_again().await;
                let expired = store.expired_jobs(now, JOBS_MAX).await?;
                let deleted = if deleted_left { store.deleted_jobs(JOBS_MAX).await? } else { Vec::new() };
                Ok::<_, StoreError>(Removable { expired, deleted })
            };
            Read::Removable(caught(read).await)
        });
    }

    pub(super) fn remove_jobs(&mut self, Removable { expired, deleted }: Removable) {
        self.looks.for_removable = false;
        let found = expired.len().max(deleted.len());
        self.timers.set(self.now().plus(rest(found, self.purging.len())), Timer::Housekeeping);
        for (job, tenant) in expired {
            // A job that somebody changes just now is looked at again later.
            if self.jobs.get(job).is_some() || !self.jobs.visit(job, None) {
                continue;
            }
            if self.runner.files.has_left(job) {
                self.drop_left(job, tenant);
            } else {
                self.delete(job, Some(tenant), None);
            }
        }
        self.looks.deleted_left = deleted.len() == JOBS_MAX as usize;
        for job in deleted {
            self.begin_purge(job);
        }
    }

    /// Removes the parts of an expired job that could not be put away. Its rows say where they are, and are there for a moment
    /// more; whoever wants to retry it waits for the end of this visit.
    fn drop_left(&mut self, job: JobId, tenant: TenantNo) {
        let files = self.runner.files.clone();
        self.reads.spawn(async move { Read::LeftDropped(job, tenant, caught(files.drop_left_of(job)).await) });
    }

    /// The parts of an expired job are gone, if it has ended still.
    pub(super) fn left_dropped(&mut self, job: JobId, tenant: TenantNo, is_over: Option<bool>) {
        if is_over == Some(true) && self.jobs.get(job).is_none() {
            self.delete(job, Some(tenant), None);
        } else {
            // It is found again.
            self.next_visitor(job);
        }
    }

    /// A look for jobs to remove failed; the next one looks for the same.
    pub(super) fn not_looked(&mut self) {
        self.looks.for_removable = false;
        self.timers.set(self.now().plus(PERIOD), Timer::Housekeeping);
    }

    /// The deletion of a job is durable, or there was nothing to delete.
    pub(super) fn deleted(
        &mut self,
        (job, tenant): (JobId, Option<TenantNo>),
        was_there: bool,
        reply: Option<Reply<()>>,
    ) {
        if was_there {
            self.hub.changed(job, tenant);
            self.begin_purge(job);
        }
        if let Some(reply) = reply {
            answer(reply, if was_there { Ok(()) } else { Err(EngineError::NoJob(job)) });
        }
        self.next_visitor(job);
    }

    fn begin_purge(&mut self, job: JobId) {
        if self.purging.insert(job) {
            self.looks.forgetting.jobs.push_back(job);
            self.forget_files();
        }
    }

    /// Removes files of deleted jobs, before any of their rows: as long as there is a row, the next start finds the job
    /// again and with it whatever a crash left of its files.
    fn forget_files(&mut self) {
        while !self.draining
            && let Some(job) = self.looks.forgetting.next()
        {
            let files = self.runner.files.clone();
            self.reads.spawn(async move {
                // Files that are not removed now are removed after the next start, as long as a row of their job is left.
                let _ = caught(files.forget(job).map(Ok)).await;
                Read::Forgotten(job)
            });
        }
    }

    /// Begins to remove the rows of a job whose files are gone.
    pub(super) fn forgotten(&mut self, job: JobId) {
        self.looks.forgetting.under_way -= 1;
        self.add_piece(Piece::Purge(job));
        self.forget_files();
    }

    /// The store has refused a purge. The job is purged when it is found among the deleted ones again, if it is one.
    pub(super) fn not_purged(&mut self, job: JobId) {
        self.purging.remove(&job);
        tracing::error!(%job, "the store has refused to remove a deleted job; the next start tries again");
    }

    /// A piece of a deleted job is gone.
    pub(super) fn purged(&mut self, job: JobId, purged: Purged) {
        if let Some((tenant, bytes)) = purged.freed {
            self.jobs.storage(tenant).moves(bytes, 0);
        }
        if purged.is_gone {
            self.purging.remove(&job);
        } else {
            self.add_piece(Piece::Purge(job));
        }
    }

    /// Looks whether there is room for those who wait for it. Their origins are not asked.
    pub(super) fn look_for_space(&mut self) {
        if self.looks.for_space || self.draining {
            return;
        }
        let waiting = self.queue.waiting_for_disk(self.looks.space_after, WAITING_MAX);
        self.looks.space_after = waiting.last().map(|(id, ..)| *id);
        let tenant = |(id, of, folder, bytes): (TaskId, ShortOf, String, u64)| {
            let tenant = self.jobs.get(id.job).map(|run| run.job.tenant.clone()).unwrap_or_default();
            let storage = (of == ShortOf::Tenant).then(|| self.jobs.storage(tenant.no).clone());
            (id, tenant, storage, folder, bytes)
        };
        let waiting: Vec<_> = waiting.into_iter().map(tenant).collect();
        if waiting.is_empty() {
            return;
        }
        self.looks.for_space = true;
        let roots = self.runner.roots.clone();
        self.reads.spawn(async move {
            let look = move || {
                // What fits together goes on together; the rest would only find the disk full again.
                let mut taken: HashMap<(TenantNo, Option<String>), u64> = HashMap::new();
                let fits = |(id, tenant, storage, folder, bytes): Waiting| {
                    let place = (tenant.no, storage.is_none().then_some(folder));
                    let sum = taken.get(&place).copied().unwrap_or_default().saturating_add(bytes);
                    let fits = match (&storage, &place.1) {
                        (Some(storage), _) => storage.has_room(sum),
                        // What is wrong with the root is for the attempt to say.
                        (None, Some(folder)) => roots.of(&tenant).map_or(true, |root| root.has_room(folder, sum)),
                        (None, None) => true,
                    };
                    if fits {
                        taken.insert(place, sum);
                    }
                    fits.then_some(id)
                };
                waiting.into_iter().filter_map(fits).collect()
            };
            Read::Space(beside(look).await.unwrap_or_default())
        });
    }

    pub(super) fn space_found(&mut self, fitting: Vec<TaskId>) {
        self.looks.for_space = false;
        self.queue.wake(fitting, self.committed);
        if !self.queue.waiting_for_disk(None, 1).is_empty() {
            self.timers.set(self.now().plus(DISK_LOOK), Timer::DiskLook);
        }
    }
}

/// How long to wait after a look that found so many jobs, while so many are being purged. As many may expire in a second
/// as were submitted in one.
fn rest(found: usize, purging: usize) -> Duration {
    if found >= JOBS_MAX as usize && purging < PURGING_MAX { PERIOD_BUSY } else { PERIOD }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_faster_than_one_look_finds_is_looked_for_again_at_once() {
        assert_eq!(rest(3, 0), PERIOD);
        assert_eq!(rest(JOBS_MAX as usize, 0), PERIOD_BUSY);
        assert_eq!(rest(JOBS_MAX as usize, PURGING_MAX), PERIOD);
    }
}
