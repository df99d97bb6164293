//! A store in memory that answers as the one over `SQLite` does, for simulations that have no time for a database.
//!
//! The conformance suite (`tests/store.rs`) keeps the two together. What is committed outlives the writer, so that a
//! simulated server can be killed and started again over it; a batch is applied in one go.

mod find;
mod job;
mod reads;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::model::access::AccessRow;
use haul::model::audit::AuditRow;
use haul::model::event::EventKind;
use haul::model::ids::{JobId, TaskId};
use haul::model::job::Job;
use haul::model::limits::LimitsPatch;
use haul::model::pause::{HostPause, PauseKey};
use haul::store::{
    Addition, Answer, Batch, Claim, Committed, Hasten, NewEvent, NewPage, Purged, Retry, Submission, Submitted, Sweep,
    TaskMove, WriteStore,
};

use job::{JobRows, Refusal};
use table::Table;

/// How many tasks a sweep, or the page of a lane, looks at. Few, so that simulations see that there is an end.
const LOOK_MAX: u32 = 512;

#[derive(Default)]
struct Rows {
    jobs: BTreeMap<JobId, JobRows>,
    /// By their text, the principal that used them, and the tenant.
    requests: Table<(String, u64, u32), (JobId, [u8; 32])>,
    limits: Option<LimitsPatch>,
    pauses: BTreeMap<PauseKey, HostPause>,
    access: Vec<AccessRow>,
    audit: Vec<AuditRow>,
}

/// The data, and its reading half.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Rows>>);

/// The writing half.
pub(crate) struct MemoryWriter(MemoryStore);

impl MemoryStore {
    /// A writer over the same data. There is one at a time.
    pub(crate) fn writer(&self) -> MemoryWriter {
        MemoryWriter(self.clone())
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A history that failed while it held the lock is over.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteStore for MemoryWriter {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        std::future::ready(Ok(self.0.rows().commit(batch))).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// What a batch changes beside the rows of jobs that it finds.
#[derive(Default)]
struct Changes {
    fresh: Vec<JobId>,
    gone: BTreeSet<JobId>,
}

impl Rows {
    /// Applies a batch; what contradicts the rows excludes the items of its job, and the rest is applied anew.
    fn commit(&mut self, batch: &Batch) -> Committed {
        let mut refused: BTreeMap<JobId, Refusal> = BTreeMap::new();
        let touched = named_jobs(batch);
        loop {
            let mut changes = Changes::default();
            match self.apply(batch, &refused, &mut changes) {
                Ok(mut committed) => {
                    self.requests.settle();
                    for job in &touched {
                        if let Some(rows) = self.jobs.get_mut(job) {
                            rows.settle();
                        }
                    }
                    for job in changes.gone {
                        self.jobs.remove(&job);
                        self.forget_requests(job);
                        self.requests.settle();
                    }
                    if let Some(limits) = batch.limits.clone() {
                        self.limits = Some(limits.after(self.limits.take().unwrap_or_default()));
                    }
                    for (key, pause) in &batch.pauses {
                        match pause {
                            Some(pause) => drop(self.pauses.insert(key.clone(), pause.clone())),
                            None => drop(self.pauses.remove(key)),
                        }
                    }
                    self.access.extend(batch.access.iter().cloned());
                    let in_order = touched.iter().filter_map(|job| Some((*job, refused.remove(job)?)));
                    committed.refused = in_order.collect();
                    self.audit.extend(batch.audited(&committed).cloned());
                    committed.data_key = batch.new_data_key.then_some(1);
                    return committed;
                }
                Err((job, why)) => {
                    self.requests.roll_back();
                    for job in &touched {
                        if let Some(rows) = self.jobs.get_mut(job) {
                            rows.roll_back();
                        }
                    }
                    for job in changes.fresh {
                        self.jobs.remove(&job);
                    }
                    refused.insert(job, format!("job `{job}`: {why}"));
                }
            }
        }
    }

    fn forget_requests(&mut self, job: JobId) {
        let its: Vec<_> = self.requests.iter().filter(|(_, (of, _))| *of == job).map(|(id, _)| id.clone()).collect();
        for id in &its {
            self.requests.remove(id);
        }
    }

    fn apply(
        &mut self,
        batch: &Batch,
        refused: &BTreeMap<JobId, Refusal>,
        changes: &mut Changes,
    ) -> Result<Committed, (JobId, Refusal)> {
        let mut done = Committed::default();
        let is_in = |job: &JobId| !refused.contains_key(job);
        for new in &batch.submissions {
            let answer = if is_in(&new.job.id) { self.submit(new, changes) } else { Ok(Submitted::Stored) };
            done.submissions.push(answer.map_err(|why| (new.job.id, why))?);
        }
        /// Calls `$change` for each item of a field whose job is not refused; the answers are those of all items.
        macro_rules! each {
            ($items:expr, $job:expr, $change:expr) => {{
                let mut answers = Vec::new();
                for item in $items {
                    let job: JobId = $job(item);
                    let answer = if is_in(&job) {
                        let found = self.jobs.get_mut(&job).ok_or_else(|| "it is not in the store".to_owned());
                        found.and_then(|rows| $change(rows, item)).map_err(|why| (job, why))?
                    } else {
                        Default::default()
                    };
                    answers.push(answer);
                }
                answers
            }};
        }
        done.additions = each!(&batch.additions, |it: &Addition| it.job, JobRows::add);
        each!(&batch.pages, |it: &NewPage| it.id.job, JobRows::add_page);
        each!(&batch.dropped_pages, |it: &TaskId| it.job, |rows: &mut JobRows, it: &TaskId| {
            rows.drop_pages(it.index);
            Ok(())
        });
        each!(&batch.unreadable_tasks, |it: &TaskId| it.job, |rows: &mut JobRows, it: &TaskId| {
            rows.states.remove(&it.index);
            Ok(())
        });
        each!(&batch.moves, |it: &TaskMove| it.id.job, JobRows::move_task);
        each!(&batch.claims, |it: &Claim| it.id.job, JobRows::claim);
        each!(&batch.lane_heads, |it: &(JobId, u32, u32)| it.0, |rows: &mut JobRows, it: &(JobId, u32, u32)| {
            rows.move_head(it.1, it.2);
            Ok(())
        });
        let with_row = |job: JobId| {
            let has_row = batch.jobs.iter().any(|it| it.id == job);
            if has_row { Ok(()) } else { Err("it is swept or retried without its row".to_owned()) }
        };
        done.retries = each!(&batch.retries, |it: &Retry| it.job, |rows: &mut JobRows, retry: &Retry| {
            with_row(retry.job)?;
            let ends = batch.events.iter().filter(|it| it.job == retry.job && it.head.kind == EventKind::TaskEnded);
            rows.retry(retry, ends.map(|it| it.head.sequence).max().unwrap_or(0))
        });
        done.sweeps = each!(&batch.sweeps, |it: &Sweep| it.job, |rows: &mut JobRows, sweep: &Sweep| {
            with_row(sweep.job)?;
            rows.sweep(sweep, LOOK_MAX)
        });
        done.hastened =
            each!(&batch.hastens, |it: &Hasten| it.job, |rows: &mut JobRows, it: &Hasten| Ok(rows.hasten(it)));
        each!(&batch.events, |it: &NewEvent| it.job, JobRows::add_event);
        each!(&batch.jobs, |it: &Arc<Job>| it.id, |rows: &mut JobRows, job: &Arc<_>| rows.update(job));
        for (retry, found) in batch.retries.iter().zip(&done.retries).filter(|(it, _)| is_in(&it.job)) {
            self.jobs.get_mut(&retry.job).into_iter().for_each(|rows| rows.have_retried(found));
        }
        for (sweep, found) in batch.sweeps.iter().zip(&done.sweeps).filter(|(it, _)| is_in(&it.job)) {
            self.jobs.get_mut(&sweep.job).into_iter().for_each(|rows| rows.have_swept(sweep.state, found.count));
        }
        each!(&batch.respecced, |it: &Arc<Job>| it.id, |rows: &mut JobRows, job: &Arc<_>| {
            rows.update_spec(job);
            Ok(())
        });
        self.remove(batch, &is_in, changes, &mut done)?;
        Ok(done)
    }

    fn remove(
        &mut self,
        batch: &Batch,
        is_in: &impl Fn(&JobId) -> bool,
        changes: &mut Changes,
        done: &mut Committed,
    ) -> Result<(), (JobId, Refusal)> {
        for job in &batch.deletions {
            let was_there =
                is_in(job) && self.jobs.get_mut(job).is_some_and(|rows| rows.delete(batch.unreadable.contains(job)));
            if was_there {
                self.forget_requests(*job);
            }
            done.deletions.push(was_there);
        }
        for (job, limit) in &batch.purges {
            let purged = match self.jobs.get_mut(job).filter(|_| !changes.gone.contains(job)) {
                _ if !is_in(job) => Purged::default(),
                Some(rows) => rows.purge(*limit).map_err(|why| (*job, why))?,
                None => Purged { is_gone: true, ..Purged::default() },
            };
            if purged.is_gone {
                changes.gone.insert(*job);
            }
            done.purges.push(purged);
        }
        Ok(())
    }

    fn submit(&mut self, new: &Submission, changes: &mut Changes) -> Result<Submitted, Refusal> {
        let id = new.job.id;
        if let Some((request, digest)) = &new.request {
            let request = (request.clone(), new.job.creator.no, new.job.tenant.no);
            if let Some((job, digest)) = self.requests.get(&request) {
                return Ok(Submitted::Known { job: *job, digest: *digest });
            }
            self.requests.put(request, (id, *digest));
        }
        if self.jobs.contains_key(&id) {
            return Err("a job of this id is stored already".to_owned());
        }
        self.jobs.insert(id, JobRows::new(new)?);
        changes.fresh.push(id);
        Ok(Submitted::Stored)
    }
}

/// The jobs of a batch in the order in which it names them first.
fn named_jobs(batch: &Batch) -> Vec<JobId> {
    let mut seen = BTreeSet::new();
    let all = (batch.submissions.iter().map(|it| it.job.id))
        .chain(batch.additions.iter().map(|it| it.job))
        .chain(batch.pages.iter().map(|it| it.id.job))
        .chain(batch.moves.iter().map(|it| it.id.job))
        .chain(batch.claims.iter().map(|it| it.id.job))
        .chain(batch.lane_heads.iter().map(|it| it.0))
        .chain(batch.retries.iter().map(|it| it.job))
        .chain(batch.sweeps.iter().map(|it| it.job))
        .chain(batch.hastens.iter().map(|it| it.job))
        .chain(batch.events.iter().map(|it| it.job))
        .chain(batch.jobs.iter().map(|it| it.id))
        .chain(batch.respecced.iter().map(|it| it.id))
        .chain(batch.deletions.iter().copied())
        .chain(batch.purges.iter().map(|it| it.0));
    all.filter(|job| seen.insert(*job)).collect()
}
