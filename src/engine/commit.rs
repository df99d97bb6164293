//! What waits for the next commit, and what follows it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::event::{EngineError, Reply, Tasks};
use crate::engine::hub::Notice;
use crate::engine::scheduler::Scheduler;
use crate::engine::state::{Cause, JobRun};
use crate::model::event::{EventHead, EventKind};
use crate::model::failure::Failure;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::Limits;
use crate::model::task::TaskState;
use crate::store::{Batch, Chunk, Claim, Committed, NewEvent, StoredEvent, StoredTask, Sweep, TaskMove};

/// Tasks that one batch ends by a sweep. Bounds the commit's time, and so how long others wait.
const SWEEP_MAX: u32 = 4096;

/// Writes and what follows them.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) effects: Vec<Effect>,
    /// Jobs whose moving part changed.
    pub(crate) dirty: HashSet<JobId>,
    /// Their durable events, in order. A job that is swept tells nothing here: its watchers read the store.
    events: HashMap<JobId, Vec<Arc<StoredEvent>>>,
}

/// What is done once a batch is durable.
pub(crate) enum Effect {
    /// A submitted job begins to live.
    Admit {
        job: Box<Job>,
        tasks: Tasks,
        reply: Reply<Arc<Job>>,
    },
    /// Tasks that were added begin to live.
    AdmitTasks {
        job: JobId,
        first: TaskIndex,
        tasks: Tasks,
        reply: Reply<Chunk>,
        chunk: Chunk,
    },
    ReplyLive(Reply<Option<Arc<Job>>>, Arc<Job>),
    /// Jobs are marked deleted: their rows are to go.
    Deleted(Option<Reply<()>>),
    /// The retried tasks of this job are PENDING on disk.
    Revive(JobId, Reply<Arc<Job>>),
    LimitsStored(Limits, Reply<()>),
    /// What was recovered is durable.
    ReadLanes,
    AckPage(oneshot::Sender<Result<(), Failure>>),
    Publish(Arc<Job>, Vec<Arc<StoredEvent>>),
    Notify(JobId, Notice),
    /// Its running attempts stop.
    StopAttempts(JobId, Cause),
    /// The n-th sweep of the batch was one of this job's.
    Swept(JobId, TaskState, usize),
    /// The n-th purge of the batch was this job's.
    Purged(JobId, usize),
    /// The ends of its tasks are durable: their part files go where nobody sees them.
    PutPartsAway(JobId),
    /// Its end is durable: memory forgets it.
    Forget(JobId),
}

impl Pending {
    /// How much waits.
    pub(crate) fn len(&self) -> usize {
        self.batch.new_tasks.len() + self.batch.moves.len() + self.batch.claims.len() + self.batch.pages.len()
    }

    /// Everything that waits, counted: it grows with each thing that is added.
    pub(crate) fn size(&self) -> usize {
        let batch = &self.batch;
        let tasks = batch.new_tasks.len() + batch.new_lanes.len() + batch.claims.len() + batch.moves.len();
        let jobs = batch.new_jobs.len() + batch.events.len() + batch.respecced.len() + batch.deleted.len();
        let rest = batch.new_chunks.len() + batch.pages.len() + batch.dropped_pages.len() + batch.retries.len();
        let more =
            batch.sweeps.len() + batch.lane_heads.len() + batch.purges.len() + usize::from(batch.limits.is_some());
        tasks + jobs + rest + more + self.effects.len() + self.dirty.len()
    }

    /// Records that a task ended, as the next event of its job.
    pub(crate) fn task_ended(&mut self, run: &mut JobRun, task: StoredTask) {
        let time = task.row.task.end_time.unwrap_or(run.job.update_time);
        let head =
            EventHead { sequence: run.next_sequence(), time, kind: EventKind::TaskEnded, task: Some(task.index) };
        self.record(run.job.id, StoredEvent { head, snapshot: None, task: Some(Arc::new(task)) });
    }

    /// Records that a job changed or ended, as its next event.
    pub(crate) fn job_event(&mut self, run: &mut JobRun, kind: EventKind) {
        let head = EventHead { sequence: run.next_sequence(), time: run.job.update_time, kind, task: None };
        let snapshot = Some(Arc::new(run.job.clone()));
        self.record(run.job.id, StoredEvent { head, snapshot, task: None });
    }

    fn record(&mut self, job: JobId, event: StoredEvent) {
        self.batch.events.push(NewEvent { job, head: event.head, snapshot: event.snapshot.clone() });
        self.events.entry(job).or_default().push(Arc::new(event));
        self.dirty.insert(job);
    }
}

impl Scheduler {
    /// Closes the batch that has gathered; `None` when there is nothing to do.
    pub(crate) fn seal_batch(&mut self) -> Option<(Batch, Vec<Effect>)> {
        self.add_sweeps();
        let mut pending = std::mem::take(&mut self.pending);
        // One entry a lane, the latest: of two for one row it would be left to chance which one stays.
        let heads: HashMap<_, _> =
            pending.batch.lane_heads.drain(..).map(|(job, lane, head)| ((job, lane), head)).collect();
        pending.batch.lane_heads.extend(heads.into_iter().map(|((job, lane), head)| (job, lane, head)));
        let Batch { claims, moves, .. } = &mut pending.batch;
        keep_last(claims, moves);
        let mut publish = Vec::new();
        for id in pending.dirty.drain() {
            let Some(run) = self.jobs.get(&id) else { continue };
            let job = Arc::new(run.job.clone());
            publish.push(Effect::Publish(job.clone(), pending.events.remove(&id).unwrap_or_default()));
            pending.batch.jobs.push(job);
        }
        if pending.batch.is_empty() && pending.effects.is_empty() {
            return None;
        }
        // Watchers learn of it before the caller does, so that who was answered finds it everywhere.
        publish.append(&mut pending.effects);
        Some((pending.batch, publish))
    }

    /// The next part of each sweep that is under way.
    fn add_sweeps(&mut self) {
        let now = self.now();
        for id in &self.sweeping {
            let Some(run) = self.jobs.get_mut(id) else { continue };
            let (Some(sweeping), Some(stop)) = (&mut run.sweeping, &run.job.stop) else { continue };
            if sweeping.in_flight {
                continue;
            }
            let (state, from, there) = if run.job.counts.pending > 0 {
                (TaskState::Pending, sweeping.from_pending, run.job.counts.pending)
            } else {
                (TaskState::BackingOff, sweeping.from_backing_off, run.job.counts.backing_off)
            };
            let count = there.min(SWEEP_MAX);
            if count == 0 {
                continue;
            }
            sweeping.in_flight = true;
            let first_sequence = run.job.sequence + 1;
            run.job.sequence += u64::from(count);
            run.job.counts.moved(state, TaskState::Cancelled, count);
            run.job.update_time = now;
            let job = run.job.id;
            self.pending.dirty.insert(job);
            self.pending.effects.push(Effect::Swept(job, state, self.pending.batch.sweeps.len()));
            let error = stop.task_error();
            self.pending.batch.sweeps.push(Sweep { job, state, from, count, error, time: now, first_sequence });
        }
    }

    /// Performs what waited for a commit.
    pub(crate) fn perform(&mut self, effects: Vec<Effect>, committed: &Committed) {
        for effect in effects {
            match effect {
                Effect::Admit { job, tasks, reply } => self.admit(*job, tasks, reply),
                Effect::AdmitTasks { job, first, tasks, reply, chunk } => {
                    self.admit_tasks(job, first, tasks);
                    answer(reply, Ok(chunk));
                }
                Effect::ReplyLive(reply, job) => answer(reply, Ok(Some(job))),
                Effect::Deleted(reply) => self.deleted(reply),
                Effect::Revive(job, reply) => self.revive(job, reply),
                Effect::LimitsStored(limits, reply) => self.limits_stored(limits, reply),
                Effect::ReadLanes => self.read_all_lanes(),
                Effect::AckPage(reply) => drop(reply.send(Ok(()))),
                Effect::Publish(job, events) => self.hub.publish(job, events),
                Effect::Notify(job, notice) => {
                    if let Some(feed) = self.hub.feed(job) {
                        feed.notify(notice);
                    }
                }
                Effect::StopAttempts(job, cause) => self.stop_attempts(job, &cause),
                Effect::Swept(job, state, which) => {
                    self.swept(job, state, committed.swept_to.get(which).copied().unwrap_or_default());
                }
                Effect::Purged(job, which) => {
                    self.purged(job, committed.purged.get(which).copied().unwrap_or_default());
                }
                Effect::PutPartsAway(job) => self.put_parts_away(job),
                Effect::Forget(job) => self.forget(job),
            }
        }
    }

    fn swept(&mut self, job: JobId, state: TaskState, to: TaskIndex) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let Some(sweeping) = &mut run.sweeping else { return };
        sweeping.in_flight = false;
        match state {
            TaskState::BackingOff => sweeping.from_backing_off = to,
            _ => sweeping.from_pending = to,
        }
        self.settle_if_done(job);
    }

    fn stop_attempts(&mut self, job: JobId, cause: &Cause) {
        let Some(run) = self.jobs.get(&job) else { return };
        for index in &run.running {
            if let Some(running) = self.running.get(&crate::model::ids::TaskId { job, index: *index }) {
                running.stop(cause.clone());
            }
        }
    }
}

/// Sends an answer. Who asked may be gone: their deadline passed, and what was done stays done.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, EngineError>) {
    let _ = reply.send(result);
}

/// Of what happened to a task within one batch the last is kept: an attempt that has ended needs no claim, and of several
/// ends the latest tells all. The fence says what came after what.
fn keep_last(claims: &mut Vec<Claim>, moves: &mut Vec<TaskMove>) {
    if moves.is_empty() {
        return;
    }
    let mut last: HashMap<TaskId, Fence> = HashMap::with_capacity(moves.len());
    for change in moves.iter() {
        last.insert(change.id, change.row.task.fence);
    }
    claims.retain(|claim| last.get(&claim.id).is_none_or(|ended| claim.task.fence > *ended));
    if last.len() < moves.len() {
        let mut kept = HashSet::with_capacity(last.len());
        moves.reverse();
        moves.retain(|change| kept.insert(change.id));
        moves.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::{Task, TaskEvent};
    use crate::model::time::Timestamp;
    use crate::store::TaskRow;

    fn id(index: u32) -> TaskId {
        TaskId { job: JobId(uuid::Uuid::nil()), index }
    }

    #[test]
    fn the_last_of_each_task_is_kept() {
        let now = Timestamp(1);
        let started = |task: &Task| task.apply(TaskEvent::Started, now).unwrap();
        let given_back = |task: &Task| task.apply(TaskEvent::GivenBack(task.fence), now).unwrap();
        let claim = |index, task: &Task| Claim { id: id(index), task: task.clone(), attempt_start: now };
        let to =
            |index, task: &Task| TaskMove { id: id(index), row: TaskRow { task: task.clone(), ..TaskRow::default() } };
        let first = started(&Task::default());
        let (ended, second) = (given_back(&first), started(&given_back(&first)));
        let ended_again = given_back(&second);
        // 0 began; 1 began and ended; 2 ended and began again; 3 ended, began and ended.
        let mut claims = vec![claim(0, &first), claim(1, &first), claim(2, &second), claim(3, &second)];
        let mut moves = vec![to(1, &ended), to(2, &ended), to(3, &ended), to(3, &ended_again)];
        keep_last(&mut claims, &mut moves);
        let left: Vec<(u32, Fence)> = claims.iter().map(|claim| (claim.id.index, claim.task.fence)).collect();
        assert_eq!(left, [(0, 1), (2, 2)]);
        let left: Vec<(u32, Fence)> = moves.iter().map(|change| (change.id.index, change.row.task.fence)).collect();
        assert_eq!(left.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(left[2].1 >= left[1].1);
        assert!(moves.iter().all(|change| change.row.task.state == TaskState::Pending));
    }
}
