//! Changes of jobs that have ended, or that memory does not know: one at a time for each job, decided over what the store
//! has.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::command::{Admitted, Control, EngineError, JobCommand, JobPatch, Reply, answer};
use crate::engine::effect::Effect;
use crate::engine::jobs::{JobRun, Retrying, Stage};
use crate::engine::patience::{caught, promptly};
use crate::engine::runner::Runner;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::crowded::Next;
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::read::{Found, Read, Retriable};
use crate::model::access::Actor;
use crate::model::audit::Of;
use crate::model::bag::http_is_erased;
use crate::model::event::EventKind;
use crate::model::failure::TaskError;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Job, JobEvent, Kept, WrongState};
use crate::model::task::TaskState;
use crate::model::task_filter::{TaskChoice, TaskFilter};
use crate::model::tenant::TenantNo;
use crate::store::{StoreError, StoredTask, TaskQuery};

/// Failed tasks that are looked at in one go for the first one that a retry leaves as it is.
const FAILURES_MAX: u32 = 1000;

impl Scheduler {
    /// Works on the next command of a visit.
    pub(super) fn next_visitor(&mut self, job: JobId) {
        while let Some(admitted) = self.jobs.next_visitor(job) {
            if admitted.command.is_abandoned() {
                continue;
            }
            if self.draining {
                admitted.command.refuse(EngineError::Draining);
                continue;
            }
            return self.look_up(job, admitted);
        }
    }

    /// What the store has for a command is here.
    pub(super) fn visited(&mut self, id: JobId, admitted: Admitted<JobCommand>, found: Result<Box<Found>, StoreError>) {
        let is_first = self.crowded.is_looked_up(id);
        let Some(admitted) = self.still_admitted(id, admitted) else { return };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                admitted.command.refuse(error.into());
                return self.next_visitor(id);
            }
        };
        match found.named_rows() {
            Some(rows) if is_first && !self.has_room_for_named(rows) => {
                self.crowded.put_back(id, admitted, rows, found);
            }
            // Whoever came before goes before, however few this one names.
            Some(rows) if !(is_first || self.crowded.is_empty() && self.has_room_for_named(rows)) => {
                self.crowded.push(id, admitted, rows, found);
            }
            _ => self.decide_over(id, admitted, *found),
        }
    }

    /// Returns a command that may still be decided over what was read of its job; it is refused, or handed on, where something has
    /// changed meanwhile.
    fn still_admitted(&mut self, id: JobId, admitted: Admitted<JobCommand>) -> Option<Admitted<JobCommand>> {
        if self.draining {
            admitted.command.refuse(EngineError::Draining);
            self.next_visitor(id);
            return None;
        }
        if self.jobs.get(id).is_some() {
            // It came into memory.
            self.job_command(id, admitted);
            return None;
        }
        // Room became short.
        let Some(error) = admitted.command.not_now(self.condition()) else { return Some(admitted) };
        admitted.command.refuse(error);
        self.next_visitor(id);
        None
    }

    /// Decides a command over what the store has.
    fn decide_over(&mut self, id: JobId, admitted: Admitted<JobCommand>, found: Found) {
        let Admitted { command, by, .. } = admitted;
        let Found { job, is_unreadable, chunk, retry } = found;
        let command = match command {
            JobCommand::Delete { reply, .. } if is_unreadable => {
                let nth = self.delete(id, None, Some(reply));
                self.outbox.batch().unreadable.push(id);
                return self.note_job(&by, Of::Deletion(nth), "DeleteJob", id);
            }
            command => command,
        };
        let Some(job) = job else {
            command.refuse(EngineError::NoJob(id));
            return self.next_visitor(id);
        };
        if !job.state.is_ended() {
            command.refuse(EngineError::Contradiction(id));
            return self.unknown_job(job);
        }
        let refused = |event, of_tasks| EngineError::WrongState(id, WrongState { state: job.state, event, of_tasks });
        let wrong = |event| refused(event, false);
        match command {
            JobCommand::AddTasks { chunk_id, digest, reply, .. } => {
                let known = match chunk {
                    Some(chunk) if chunk.digest == digest => Ok(chunk),
                    Some(_) => Err(EngineError::ChunkIdTaken(chunk_id)),
                    None => Err(EngineError::Sealed(id, job.state)),
                };
                answer(reply, known);
            }
            JobCommand::Control { what: Control::Pause, reply } => answer(reply, Err(wrong("paused"))),
            JobCommand::Control { what: Control::Resume, reply } => answer(reply, Err(wrong("resumed"))),
            JobCommand::Control { reply, .. } => answer(reply, Ok(Arc::new(job))),
            JobCommand::CancelTasks { reply, .. } => answer(reply, Err(refused("cancelled", true))),
            JobCommand::RetryNow { reply, .. } => answer(reply, Err(refused("tried earlier", true))),
            JobCommand::Update { patch, reply } => return self.update_ended(job, &patch, &by, reply),
            JobCommand::Delete { reply, .. } => {
                let nth = self.delete(id, Some(job.tenant.no), Some(reply));
                return self.note_job(&by, Of::Deletion(nth), "DeleteJob", id);
            }
            JobCommand::Retry { reply, .. } => match self.may_retry(&job, retry) {
                Ok(Some(retriable)) => return self.retry(job, retriable, &by, reply),
                Ok(None) => answer(reply, Ok(Arc::new(job))),
                Err(refusal) => answer(reply, Err(refusal)),
            },
        }
        self.next_visitor(id);
    }

    /// Decides whether tasks of an ended job may be put back; `None`: there are none.
    fn may_retry(
        &mut self,
        job: &Job,
        found: Option<Result<Retriable, EngineError>>,
    ) -> Result<Option<Retriable>, EngineError> {
        let Some(retriable) = found.transpose()? else { return Ok(None) };
        let again = u64::from(retriable.failed) + u64::from(retriable.cancelled);
        if again == 0 {
            return Ok(None);
        }
        if job.secrets_gone || http_is_erased(&job.spec.defaults.http, false) {
            return Err(EngineError::SecretsExpired(job.id));
        }
        if self.is_full_of_jobs(job.spec.memory_bytes(), retriable.lanes.len()) {
            return Err(EngineError::TooManyJobs);
        }
        self.admits(job.tenant.no, 1, again)?;
        Ok(Some(retriable))
    }

    /// Whether the batch has room for so many named tasks beside those of other retries: all that one names are put back at once,
    /// but nobody waits for many such retries behind each other.
    fn has_room_for_named(&self, tasks: usize) -> bool {
        fits(&self.named_retries, tasks, self.bounds.piece_rows)
    }

    /// Takes the retries for which an earlier batch had no room.
    pub(super) fn take_crowded(&mut self) {
        let most = self.bounds.piece_rows;
        while let Some(next) = self.crowded.next(|tasks| fits(&self.named_retries, tasks, most)) {
            match next {
                Next::Found(id, admitted, found) => {
                    if let Some(admitted) = self.still_admitted(id, admitted) {
                        self.decide_over(id, admitted, *found);
                    }
                }
                Next::LookUp(id, admitted) => self.look_up(id, admitted),
            }
        }
    }

    /// Reads what a command needs.
    fn look_up(&mut self, job: JobId, admitted: Admitted<JobCommand>) {
        let runner = self.runner.clone();
        self.reads.spawn(async move {
            let found = caught(find(&runner, job, &admitted.command)).await;
            Read::Visited(job, admitted, found)
        });
    }

    /// After its end a job publishes nothing more: only what is read of it changes.
    fn update_ended(&mut self, mut job: Job, patch: &JobPatch, by: &Actor, reply: Reply<Arc<Job>>) {
        patch.apply(&mut job, self.now());
        let job = Arc::new(job);
        self.outbox.batch().jobs.push(job.clone());
        self.outbox.respecced(job.clone());
        self.note_update(by, job.id, patch);
        self.outbox.then(Effect::Updated(reply, job));
    }

    /// Marks an ended job of a tenant, if that is known, deleted. Its rows go piece by piece. Returns its place among the
    /// deletions of the batch.
    pub(super) fn delete(&mut self, job: JobId, tenant: Option<TenantNo>, reply: Option<Reply<()>>) -> usize {
        let batch = self.outbox.batch();
        let nth = batch.deletions.len();
        batch.deletions.push(job);
        self.outbox.then(Effect::Deleted { nth, job, tenant, reply });
        nth
    }

    /// Puts failed and cancelled tasks of an ended job back, and the job among those that run.
    fn retry(&mut self, mut job: Job, retriable: Retriable, by: &Actor, reply: Reply<Arc<Job>>) {
        let now = self.now();
        let id = job.id;
        let Retriable { lanes, which, failed, cancelled, failure } = retriable;
        let tasks = u64::from(failed) + u64::from(cancelled);
        let kept =
            Kept { failures: job.counts.failed.saturating_sub(failed), successes: job.counts.succeeded, failure };
        if let Err(wrong) = job.apply(JobEvent::Retried(kept), now) {
            answer(reply, Err(EngineError::WrongState(id, wrong)));
            return self.next_visitor(id);
        }
        let in_pieces = !matches!(which, TaskChoice::These(_));
        job.retrying = in_pieces.then_some(0);
        if let TaskChoice::Fitting(filter) = &which {
            job.retry_filter = Some(Box::new(filter.clone()));
        }
        let mut run = JobRun::new(job);
        let retrying = Retrying { reply: Some(reply), which, first: None, tasks, returns: false };
        run.stage = Stage::Retrying(Box::new(retrying));
        (run.arrived, run.set_going) = (now, now);
        self.outbox.job_event(run.job_mut(), EventKind::JobChanged);
        self.note_job(by, Of::Job(id), "RetryJob", id);
        let waiting = self.enlist(run, now);
        for (host, head) in lanes {
            // Nothing of it can run until the last piece is durable.
            self.queue.restore_lane(id, host, head, head);
        }
        if in_pieces {
            self.add_piece(Piece::Retry(id));
        } else {
            self.named_retries.push((id, tasks as usize));
        }
        for admitted in waiting {
            self.job_command(id, admitted);
        }
    }
}

/// Whether a batch with these retries of named tasks has room for one of so many more.
fn fits(retries: &[(JobId, usize)], tasks: usize, most: u32) -> bool {
    let rows: usize = retries.iter().map(|(_, rows)| rows).sum();
    rows == 0 || rows + tasks <= most as usize
}

/// Reads what a command needs, and does with files what has to be done before it.
async fn find(runner: &Runner, id: JobId, command: &JobCommand) -> Result<Box<Found>, StoreError> {
    let store = &runner.store;
    let job = match readable(runner, id).await {
        Err(StoreError::Unreadable(why)) if matches!(command, JobCommand::Delete { .. }) => {
            tracing::warn!(job = %id, "a job that cannot be read is to be deleted, and files that it made or began are left: {why}");
            return Ok(Box::new(Found { is_unreadable: true, ..Found::default() }));
        }
        job => job?,
    };
    let Some(job) = job else { return Ok(Box::default()) };
    let mut found = Box::<Found>::default();
    if job.state.is_ended() {
        match command {
            JobCommand::AddTasks { chunk_id, .. } => {
                found.chunk = promptly(|| store.chunk(id, chunk_id)).await?;
            }
            JobCommand::Delete { with_files: true, .. } => runner.files.delete_created(&job).await?,
            JobCommand::Retry { which, .. } => found.retry = Some(retriable(runner, &job, which).await?),
            _ => {}
        }
        if matches!(command, JobCommand::Delete { .. }) {
            runner.files.drop_left(&job).await;
        }
    }
    found.job = Some(job);
    Ok(found)
}

/// Reads a job. One that has not ended and whose lanes cannot be read cannot be read: memory would not take it in.
async fn readable(runner: &Runner, id: JobId) -> Result<Option<Job>, StoreError> {
    let store = &runner.store;
    let Some(job) = promptly(|| store.visit(id)).await?.filter(|job| job.id == id) else { return Ok(None) };
    if !job.state.is_ended() {
        promptly(|| store.lanes(id)).await?;
    }
    Ok(Some(job))
}

async fn retriable(
    runner: &Runner,
    job: &Job,
    which: &TaskChoice,
) -> Result<Result<Retriable, EngineError>, StoreError> {
    let store = &runner.store;
    let id = job.id;
    let (mut failed, mut cancelled) = (job.counts.failed, job.counts.cancelled);
    let mut failure = None;
    let mut which = which.clone();
    match &mut which {
        TaskChoice::All => {}
        TaskChoice::These(indexes) => {
            indexes.sort_unstable();
            indexes.dedup();
            let states: HashMap<_, _> = promptly(|| store.task_states(id, indexes)).await?.into_iter().collect();
            (failed, cancelled) = (0, 0);
            for index in &*indexes {
                match states.get(index) {
                    Some(TaskState::Failed) => failed += 1,
                    Some(TaskState::Cancelled) => cancelled += 1,
                    Some(_) => return Ok(Err(EngineError::NotRetryable(id, *index))),
                    None => return Ok(Err(EngineError::NoTask(id, *index))),
                }
            }
            if failed < job.counts.failed {
                failure = failure_that_stays(runner, job, indexes).await?;
            }
        }
        TaskChoice::Fitting(filter) => {
            (failed, failure) = without_fitting(runner, job, filter).await?;
            cancelled = cancelled_fitting(runner, job, filter).await?;
        }
    }
    let lanes = promptly(|| store.lanes(id)).await?;
    Ok(Ok(Retriable { lanes, which, failed, cancelled, failure }))
}

/// Returns how many failed tasks of a job fit, and of the others the first failure.
async fn without_fitting(
    runner: &Runner,
    job: &Job,
    filter: &TaskFilter,
) -> Result<(u32, Option<TaskError>), StoreError> {
    if !filter.has_state(TaskState::Failed) {
        return Ok((0, job.failure.as_deref().cloned()));
    }
    let mut count = 0;
    let mut first: Option<StoredTask> = None;
    let mut from = Some(0);
    while let Some(start) = from {
        let page = promptly(|| runner.store.tasks(job.id, &[TaskState::Failed], start, FAILURES_MAX)).await?;
        from = page.items.last().filter(|_| page.has_more).and_then(|last| last.index.checked_add(1));
        for task in page.items {
            let Some(error) = &task.row.task.error else { continue };
            if filter.fits(TaskState::Failed, Some(error), &task.own_host()) {
                count += 1;
                continue;
            }
            if first.as_ref().is_none_or(|first| task.row.task.end_time < first.row.task.end_time) {
                first = Some(task);
            }
        }
    }
    Ok((count, first.and_then(|task| task.placed_error())))
}

/// Returns how many cancelled tasks of a job fit.
async fn cancelled_fitting(runner: &Runner, job: &Job, filter: &TaskFilter) -> Result<u32, StoreError> {
    if !filter.has_state(TaskState::Cancelled) {
        return Ok(0);
    }
    if (TaskFilter { states: Vec::new(), ..filter.clone() }) == TaskFilter::default() {
        return Ok(job.counts.cancelled);
    }
    let filter = TaskFilter { states: vec![TaskState::Cancelled], ..filter.clone() };
    let mut query = TaskQuery { filter, ..TaskQuery::default() };
    let mut count = 0_u32;
    loop {
        let page = promptly(|| runner.store.find_tasks(job.id, &query, FAILURES_MAX)).await?;
        count = count.saturating_add(page.items.len() as u32);
        match page.next {
            Some(next) => query.from = next,
            None => return Ok(count),
        }
    }
}

/// Returns the first failure of a job among those of the tasks that are not put back.
async fn failure_that_stays(
    runner: &Runner,
    job: &Job,
    indexes: &[TaskIndex],
) -> Result<Option<TaskError>, StoreError> {
    let stays = |index: TaskIndex| indexes.binary_search(&index).is_err();
    if let Some(first) = job.failure.as_deref().filter(|failure| failure.task_index.is_some_and(stays)) {
        return Ok(Some(first.clone()));
    }
    let (mut from, mut first) = (Some(0), None);
    while let Some(start) = from {
        let page = promptly(|| runner.store.tasks(job.id, &[TaskState::Failed], start, FAILURES_MAX)).await?;
        from = page.items.last().filter(|_| page.has_more).and_then(|last| last.index.checked_add(1));
        first = first_to_fail(first, page.items.into_iter().filter(|task| stays(task.index)));
    }
    Ok(first.and_then(|task| task.placed_error()))
}

/// Returns which of some tasks failed first, by time, with the first of those before them.
fn first_to_fail(before: Option<StoredTask>, tasks: impl Iterator<Item = StoredTask>) -> Option<StoredTask> {
    before.into_iter().chain(tasks).min_by_key(|task| task.row.task.end_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{FetchSpec, TaskOptions, TaskSpec, Work};
    use crate::model::task::Task;
    use crate::model::time::Timestamp;
    use crate::store::TaskRow;

    /// Tasks are read in pages, in order of index, and end in another order.
    #[test]
    fn the_first_failure_is_that_of_all_pages() {
        let task = |index, end| {
            let work = Work::Fetch(FetchSpec::default());
            let spec = Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() });
            let task = Task { end_time: Some(Timestamp(end)), ..Task::default() };
            StoredTask { index, lane: 0, spec, row: TaskRow { task, ..TaskRow::default() } }
        };
        let pages =
            [vec![task(0, 50), task(1, 40)], vec![], vec![task(1000, 30), task(1001, 20)], vec![task(2000, 90)]];
        let first = pages.into_iter().fold(None, |first, page| first_to_fail(first, page.into_iter()));
        assert_eq!(first.map(|task| task.index), Some(1001));
    }
}
