//! Taking in what the store has: at the start, and after a contradiction. Its size goes with unfinished jobs and running
//! tasks, not with queued ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::engine::jobs::{JobRun, Retrying, Stage, Sweeping};
use crate::engine::patience::{caught, patiently};
use crate::engine::queue::task::Queued;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::piece::Piece;
use crate::engine::scheduler::shared::Shared;
use crate::engine::timers::Timer;
use crate::model::failure::{Failure, FailureReason, TaskError};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::spec::{TaskSpec, Work};
use crate::model::task::{Crashes, TaskEvent, TaskState};
use crate::model::task_filter::TaskChoice;
use crate::model::time::Timestamp;
use crate::store::{CutAttempt, StoreError, StoredTask, TaskMove, TaskRow, UnreadableAttempt};

/// What a start took in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Jobs that have not ended.
    pub jobs: usize,
    /// Attempts that the end of the last process cut.
    pub attempts: usize,
}

impl Scheduler {
    /// Takes in all that the store has, in pieces. Tasks whose attempt the end of the last process cut are requeued; nothing
    /// has started when this returns.
    pub(crate) async fn recover(&mut self) -> Result<Recovery, StoreError> {
        let store = self.runner.store.clone();
        let mut recovery = Recovery::default();
        self.runner.hosts.tell_parties_apart(self.book.has_parties());
        self.share_out(&self.book.clone());
        self.put_tenants_aside().await;
        for (tenant, bytes) in caught(patiently(|| store.stored_bytes())).await? {
            self.jobs.storage(tenant).moves(0, bytes);
        }
        match caught(patiently(|| store.host_pauses())).await {
            Ok(pauses) => self.runner.hosts.restore(pauses),
            Err(error @ StoreError::Fatal(_)) => return Err(error),
            Err(error) => tracing::warn!("pauses of hosts are forgotten, since they cannot be read: {error}"),
        }
        let mut done = BTreeSet::new();
        recovery.jobs = self.take_in_all(&mut done).await?;
        let mut after = None;
        loop {
            let now = self.now();
            let piece = patiently(|| store.claims(after)).await?;
            for CutAttempt { id, attempt_start, mut task } in piece.attempts {
                recovery.attempts += 1;
                if self.has_progressed(id, &task, attempt_start) {
                    task.row.task.crashes = Crashes::default();
                }
                tracing::info!(task = %id, since_micros = attempt_start.0, "the end of the last process cut an attempt");
                self.cuts.found(id, now);
                self.recover_attempt(id, task, TaskEvent::Crashed, now);
                done.insert(id.job);
            }
            recovery.attempts += piece.unreadable.len();
            for attempt in piece.unreadable {
                done.insert(attempt.id.job);
                self.end_unreadable(attempt, now);
            }
            after = piece.next;
            if after.is_none() {
                break;
            }
        }
        for job in done {
            self.judge_again(job);
            self.settle_if_done(job);
        }
        self.recover_parts().await;
        self.timers.set(self.now(), Timer::Housekeeping);
        Ok(recovery)
    }

    /// Takes in all unfinished jobs, and returns how many there are; those of which nothing is left to do are added to `done`. While
    /// a part of them is taken in, the next one is made of what was found of it, and the store looks for the one after that.
    async fn take_in_all(&mut self, done: &mut BTreeSet<JobId>) -> Result<usize, StoreError> {
        let (found, mut to_make) = mpsc::channel(1);
        let (made, mut to_take_in) = mpsc::channel(1);
        let mut stages = JoinSet::<Result<Option<Shared>, StoreError>>::new();
        let store = self.runner.store.clone();
        stages.spawn(async move {
            let mut after = None;
            loop {
                let part = caught(patiently(|| store.recover(after))).await?;
                after = part.next;
                // Where nobody takes it any more, why is said by that one.
                if found.send(part).await.is_err() || after.is_none() {
                    return Ok(None);
                }
            }
        });
        let mut shared = std::mem::take(&mut self.shared);
        stages.spawn(async move {
            while let Some(part) = to_make.recv().await {
                let jobs = caught(async { Ok(part.jobs()) }).await?;
                let jobs: Vec<_> = jobs.into_iter().map(|(job, lanes)| shared.job(job, lanes)).collect();
                if made.send(jobs).await.is_err() {
                    break;
                }
            }
            Ok(Some(shared))
        });
        let mut count = 0;
        while let Some(jobs) = to_take_in.recv().await {
            let now = self.now();
            count += jobs.len();
            for (job, lanes) in jobs {
                let id = job.id;
                self.hub.open(job.clone());
                self.take_in(job, lanes, now);
                // Not once more over all of them, of which few are.
                if self.jobs.get(id).is_some_and(|run| run.settles().is_some() || run.is_decided()) {
                    done.insert(id);
                }
            }
        }
        while let Some(ended) = stages.join_next().await {
            let shared =
                ended.map_err(|error| StoreError::Fatal(format!("a read of the store was lost: {error}")))??;
            self.shared = shared.unwrap_or(std::mem::take(&mut self.shared));
        }
        Ok(count)
    }

    /// Brings back the part files of jobs whose retry was stored, where the last process ended before it had done that.
    async fn recover_parts(&self) {
        for job in self.runner.files.set_aside().await {
            let Some(run) = self.jobs.get(job) else { continue };
            if matches!(run.stage, Stage::Open) {
                self.runner.files.bring_back(&run.job).await;
            }
        }
    }

    /// Takes a job into memory as the store has it. It shares with others what it has in common with them.
    pub(super) fn take_in(&mut self, job: Arc<Job>, lanes: Vec<(Host, TaskIndex)>, now: Timestamp) {
        let id = job.id;
        let (total, pending) = (job.counts.total, job.counts.pending);
        let mut run = JobRun::new(job);
        if run.job.stop.is_some() {
            run.stage = Stage::Sweeping(Sweeping::default());
        } else if run.job.retrying.is_some() {
            let filter = run.job.retry_filter.clone();
            let which = filter.map_or(TaskChoice::All, |filter| TaskChoice::Fitting(*filter));
            // Which of them it was to put back is not known before it looks.
            let tasks = u64::from(total.saturating_sub(run.job.counts.succeeded));
            let retrying = Retrying { reply: None, which, first: Some(0), tasks, returns: false };
            run.stage = Stage::Retrying(Box::new(retrying));
        }
        let piece = match run.stage {
            Stage::Sweeping(_) => Some(Piece::Sweep(id)),
            Stage::Retrying(_) => Some(Piece::Retry(id)),
            _ => None,
        };
        let is_open = piece.is_none();
        // Nobody can have asked for a job that is only being taken in.
        self.enlist(run, now);
        for (host, head) in lanes {
            self.queue.restore_lane(id, host, head, if is_open { total } else { head });
        }
        self.queue.share_out(id, pending);
        if matches!(piece, Some(Piece::Sweep(_))) {
            self.queue.stop_job(id);
        }
        if let Some(piece) = piece {
            self.add_piece(piece);
        }
    }

    /// Whether a download that crashes are held against has gone on in its last attempt.
    fn has_progressed(&self, id: TaskId, task: &StoredTask, since: Timestamp) -> bool {
        let Work::Download(spec) = &task.spec.work else { return false };
        let job = self.jobs.get(id.job).map(|run| &run.job);
        !task.row.task.crashes.is_none()
            && job.is_some_and(|job| self.runner.files.has_progressed(job, id.index, spec, since))
    }

    /// Takes in an attempt that was cut, by `event`. One whose task stands in no lane of its job can never be made anew.
    pub(super) fn recover_attempt(&mut self, id: TaskId, task: StoredTask, event: TaskEvent, now: Timestamp) {
        // One that cannot be read was left out.
        if self.jobs.get(id.job).is_none() {
            return;
        }
        if self.queue.host_of(id.job, task.lane).is_some() {
            return self.end_attempt(id, task, event, false, now);
        }
        tracing::error!(task = %id, "an attempt was cut of a task that is in no lane of its job, so the task fails");
        let event = TaskEvent::Failed(task.row.task.fence, lost(task.row.task.attempts));
        self.end_attempt(id, task, event, false, now);
    }

    /// Takes in the end of an attempt that was cut. `rewrites`: what is stored of its task is written whatever stands there.
    fn end_attempt(&mut self, id: TaskId, task: StoredTask, event: TaskEvent, rewrites: bool, now: Timestamp) {
        let Some(run) = self.jobs.get_mut(id.job) else { return };
        let StoredTask { lane, spec, mut row, .. } = task;
        // A job whose tasks are being ended ends this one too.
        let event = run.job.stop.as_ref().map_or(event, |stop| TaskEvent::Cancelled(stop.task_error()));
        match row.task.apply(event, now) {
            Ok(moved) => row.task = moved,
            Err(wrong) => return tracing::error!(task = %id, "an attempt was not recovered: {wrong}"),
        }
        if !run.job_mut().counts.try_move(TaskState::Running, row.task.state, 1) {
            tracing::error!(task = %id, "an attempt was cut, and none was counted as running");
            return self.contradicted(id.job, "more attempts were cut than were counted as running");
        }
        let held = row.held_of(&spec.work, run.job.parts_gone);
        run.job_mut().held.add(held);
        if rewrites {
            self.outbox.rewritten(id);
        }
        self.outbox.moved(TaskMove { id, row: row.clone() });
        if row.task.state.is_ended() {
            self.task_ended(id, lane, spec, row, now);
        } else {
            let batch = self.outbox.number();
            let task =
                Queued { index: id.index, lane, spec, row: Some(Box::new(row)), cursor: None, waited_for: None, batch };
            let head = self.queue.put_first(id.job, task, true);
            self.outbox.head(head);
        }
    }

    /// Ends the task of an attempt that was cut, since it cannot be read: nobody can make another attempt, and its job would wait for
    /// one for ever.
    pub(super) fn end_unreadable(&mut self, attempt: UnreadableAttempt, now: Timestamp) {
        let UnreadableAttempt { id, lane, task } = attempt;
        if self.jobs.get(id.job).is_none() {
            return;
        }
        let event = TaskEvent::Failed(task.fence, lost(task.attempts));
        let row = TaskRow { task, ..TaskRow::default() };
        tracing::error!(task = %id, "an attempt was cut of a task that cannot be read, so the task fails");
        self.end_attempt(
            id,
            StoredTask { index: id.index, lane, spec: Arc::new(TaskSpec::lost()), row },
            event,
            true,
            now,
        );
    }
}

/// Why a task fails of which the store has lost something.
fn lost(attempts: u32) -> TaskError {
    let message = "what is stored of this task cannot be read, so it is not run again; submit it in a new job (`haul check` says \
                   what is damaged)";
    Failure::fatal(FailureReason::Internal, message).into_error(attempts)
}
