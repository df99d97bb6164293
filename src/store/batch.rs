//! What a batch is made of, and what the store answers to each item of it.

use std::sync::Arc;

use crate::model::access::AccessRow;
use crate::model::audit::{AuditEntry, AuditRow, Of};
use crate::model::event::EventHead;
use crate::model::failure::TaskError;
use crate::model::failures::Alike;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::LimitsPatch;
use crate::model::outcome::{Attempt, Outcome};
use crate::model::pause::PauseChange;
use crate::model::progress::Held;
use crate::model::spec::{TaskSpec, Work};
use crate::model::task::{Task, TaskState};
use crate::model::task_filter::{TaskChoice, TaskFilter};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The number of a lane within its job, from 0.
pub type LaneNumber = u32;

/// A job to store with everything that was submitted with it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The job as it is at its submission. Its id is a `UUIDv7` of the time at which it was created, to the millisecond.
    pub job: Job,
    /// The idempotency key with the digest of the request; `None`: the call is not idempotent.
    pub request: Option<(String, [u8; 32])>,
    /// The lanes of the job: the lane with number `i` is `lanes[i]`.
    pub lanes: Vec<Host>,
    /// The tasks of the job with the lane of each: the task with index `i` is `tasks[i]`.
    pub tasks: Vec<(LaneNumber, Arc<TaskSpec>)>,
}

/// A chunk of tasks to add to an open job. The store assigns the indexes: the first one is the total of the job at that
/// moment.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The job that the tasks belong to.
    pub job: JobId,
    /// The idempotency key of the chunk within its job; empty: the chunk is not remembered.
    pub chunk_id: String,
    /// The digest of the tasks, which tells a repetition from another chunk.
    pub digest: [u8; 32],
    /// Lanes that the job does not have yet. They are stored whatever the answer is: a lane without tasks harms nothing.
    pub new_lanes: Vec<(LaneNumber, Host)>,
    /// The tasks in order, with the lane of each.
    pub tasks: Vec<(LaneNumber, Arc<TaskSpec>)>,
}

/// A chunk of `AddTasks` as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The index of its first task.
    pub first: TaskIndex,
    /// The number of its tasks.
    pub count: u32,
    /// The digest of its tasks.
    pub digest: [u8; 32],
}

/// The start of an attempt. It makes the task RUNNING.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The task that is claimed.
    pub id: TaskId,
    /// The task after [`crate::model::task::TaskEvent::Started`].
    pub task: Task,
    /// When this attempt started.
    pub attempt_start: Timestamp,
}

/// What is known of a task beside its spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskRow {
    /// Its moving part.
    pub task: Task,
    /// Its last attempts, oldest first.
    pub log: Vec<Attempt>,
    /// What it left when it succeeded.
    pub outcome: Option<Arc<Outcome>>,
}

impl TaskRow {
    /// The memory that the row takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let log: usize = self.log.iter().map(Attempt::memory_bytes).sum();
        let error = self.task.error.as_ref().map_or(0, |error| error.message.len());
        size_of::<TaskRow>() + log + error + self.outcome.as_deref().map_or(0, Outcome::memory_bytes)
    }

    /// Returns what the last attempt left for the next one. A task that succeeded holds nothing: it has a result.
    pub fn held(&self) -> Held {
        let last = self.log.last().filter(|_| self.outcome.is_none()).map(|attempt| &attempt.report);
        last.map_or_else(Held::default, |report| Held {
            bytes: report.held_bytes,
            total_bytes: report.total_bytes.max(report.held_bytes),
        })
    }

    /// Returns whether the last attempt left a whole file, as far as its size is known. `parts_gone` is that of
    /// [`TaskRow::held_of`].
    pub fn holds_all(&self, work: &Work, parts_gone: Option<Timestamp>) -> bool {
        let total = self.log.last().map_or(0, |last| last.report.total_bytes);
        total > 0 && self.held_of(work, parts_gone).bytes == total
    }

    /// As [`TaskRow::held`], of a task of a job whose part files were removed at that time, if they were.
    pub fn held_of(&self, work: &Work, parts_gone: Option<Timestamp>) -> Held {
        let is_before = |gone: Timestamp| self.log.last().is_some_and(|last| last.end_time <= gone);
        let is_gone = matches!(work, Work::Download(_)) && parts_gone.is_some_and(is_before);
        if is_gone { Held::default() } else { self.held() }
    }
}

/// A task that stops running or waiting: its claim, if there is one, is removed and its row is written.
#[derive(Clone, Debug)]
pub struct TaskMove {
    /// The task that moves.
    pub id: TaskId,
    /// Its row from now on.
    pub row: TaskRow,
}

/// Ends tasks that are in `state` and have no claim as CANCELLED, each with its `TaskEnded` event.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The job whose tasks end.
    pub job: JobId,
    /// The state that they are in: PENDING or `BACKING_OFF`.
    pub state: TaskState,
    /// Which of them.
    pub which: TaskChoice,
    /// The lowest index to look at.
    pub from: TaskIndex,
    /// The lowest index not to look at any more; `None`: all from `from` on.
    pub to: Option<TaskIndex>,
    /// The most tasks to end.
    pub limit: u32,
    /// Why they end.
    pub error: TaskError,
    /// When they end.
    pub time: Timestamp,
    /// The sequence number of the first event; the others follow it in order of index.
    pub first_sequence: u64,
}

/// Puts failed and cancelled tasks of a job back to PENDING: attempts from 0, log and fence kept. What their `TaskEnded`
/// events showed stays readable in [`crate::store::Store::events`].
#[derive(Clone, Debug)]
pub struct Retry {
    /// The job whose tasks are put back.
    pub job: JobId,
    /// Which of its tasks.
    pub which: Which,
    /// The most tasks to put back with [`Which::From`] and [`Which::Fitting`].
    pub limit: u32,
}

/// Makes tasks due that are `BACKING_OFF` and have no claim.
#[derive(Clone, Debug)]
pub struct Hasten {
    /// The job whose tasks become due.
    pub job: JobId,
    /// Which of them.
    pub which: TaskChoice,
    /// The lowest index to look at.
    pub from: TaskIndex,
    /// The lowest index not to look at any more.
    pub to: TaskIndex,
    /// The most tasks to make due.
    pub limit: u32,
    /// When they are due; one that is due earlier stays so.
    pub due: Timestamp,
}

/// Selects the tasks of a [`Retry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every FAILED or CANCELLED task from this index on (included).
    From(TaskIndex),
    /// Those of them that fit.
    Fitting(TaskIndex, TaskFilter),
    /// These tasks. All of them must be FAILED or CANCELLED, else the job is refused.
    These(Vec<TaskIndex>),
}

/// A page of a fetch (page 0 of one that is not paginated).
#[derive(Clone, Debug, PartialEq)]
pub struct NewPage {
    /// The task that fetched it.
    pub id: TaskId,
    /// The number of the page, from 0.
    pub page: u32,
    /// The index of its first item over all pages.
    pub first_item: u64,
    /// The number of its items.
    pub items: u64,
    /// Its bytes.
    pub content: Content,
    /// Where the listing goes on, as `fetch` wrote it; `None`: it ends here.
    pub next: Option<String>,
}

/// Where bytes are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// In the row.
    Inline(bytes::Bytes),
    /// In a content file of that name.
    File {
        /// The name that `files` gave it.
        name: String,
        /// Its size.
        bytes: u64,
    },
}

/// A durable event to store. Of a task's end only the head is given: the rest is in the task's row.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The job that the event belongs to.
    pub job: JobId,
    /// The event itself.
    pub head: EventHead,
    /// The job as it was, for the kinds of events that show it.
    pub snapshot: Option<Arc<Job>>,
}

/// Changes that become durable together, in the order of the fields.
///
/// A contradiction excludes all items of that one job; see [`Committed::refused`].
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Jobs to store.
    pub submissions: Vec<Submission>,
    /// Chunks of tasks to add to jobs.
    pub additions: Vec<Addition>,
    /// Pages of fetches. A page is stored once. One of a listing starts the count of crashes of its task anew.
    pub pages: Vec<NewPage>,
    /// Tasks of which no page is kept, those of this batch included.
    pub dropped_pages: Vec<TaskId>,
    /// Tasks that stop running or waiting. At most one entry per task.
    pub moves: Vec<TaskMove>,
    /// Those of them whose row is written whatever stands in it, since it cannot be read.
    pub unreadable_tasks: Vec<TaskId>,
    /// Attempts that have begun and do not end in this batch. They come after `moves`: one attempt of a task may end and
    /// the next begin in one batch.
    pub claims: Vec<Claim>,
    /// No task of the lane before this index is PENDING any more: a restart begins to read there. They come before
    /// `retries`, which lower heads, and `sweeps`, which begin at the lowest head.
    pub lane_heads: Vec<(JobId, LaneNumber, TaskIndex)>,
    /// At most one per job. The batch must have the row of the job in `jobs`.
    pub retries: Vec<Retry>,
    /// At most one per job. The batch must have the row of the job in `jobs`.
    pub sweeps: Vec<Sweep>,
    /// They come after `moves` and `claims`.
    pub hastens: Vec<Hasten>,
    /// Durable events.
    pub events: Vec<NewEvent>,
    /// The moving part of jobs (state, open, stop, counts, failure, sequence, times). At most one entry per job. Counts
    /// and sequence of a job that is swept or retried in this batch are adjusted by what was found. `counts.total` and
    /// `counts.pending` are not written.
    pub jobs: Vec<Arc<Job>>,
    /// Jobs whose spec changed too.
    pub respecced: Vec<Arc<Job>>,
    /// Jobs to hide from every read but [`crate::store::Store::deleted_jobs`].
    pub deletions: Vec<JobId>,
    /// Those of them that may go although they have not ended: they cannot be read, so nothing of them runs.
    pub unreadable: Vec<JobId>,
    /// Removes at most so many rows of each of these deleted jobs, and in the end the job itself.
    pub purges: Vec<(JobId, u32)>,
    /// What changes of the limits of the server that somebody has set.
    pub limits: Option<LimitsPatch>,
    /// What became of pauses of hosts, in the order in which it did.
    pub pauses: Vec<PauseChange>,
    /// Whether there is to be a new data key, with which everything is sealed from now on. What is there is sealed anew by
    /// [`crate::store::WriteStore::upkeep`].
    pub new_data_key: bool,
    /// Who may call, in the order in which it was decided.
    pub access: Vec<AccessRow>,
    /// Who did it.
    pub audit: Vec<AuditEntry>,
}

/// The tasks of a piece that is made smaller for want of room. It goes on with the next one.
const SMALL_PIECE: u32 = 256;

impl Batch {
    /// Returns whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.only_submits()
            && self.submissions.is_empty()
            && self.deletions.is_empty()
            && self.purges.is_empty()
            && self.limits.is_none()
            && self.pauses.is_empty()
            && !self.new_data_key
            && self.access.is_empty()
            && self.audit.is_empty()
    }

    /// Returns whether nothing happens to jobs and tasks that are stored already, except that some may be removed.
    pub(crate) fn only_submits(&self) -> bool {
        self.additions.is_empty()
            && self.pages.is_empty()
            && self.dropped_pages.is_empty()
            && self.moves.is_empty()
            && self.claims.is_empty()
            && self.lane_heads.is_empty()
            && self.retries.is_empty()
            && self.sweeps.is_empty()
            && self.hastens.is_empty()
            && self.events.is_empty()
            && self.jobs.is_empty()
            && self.respecced.is_empty()
    }

    /// Takes out the tasks that it adds, with the jobs that are new, for a store that has no room for them, and makes pieces
    /// smaller that put tasks back or make them due. Returns whether there were any. New lanes stay: memory has given their numbers to others.
    pub fn leave_out_tasks(&mut self) -> bool {
        let adds = !self.submissions.is_empty() || self.additions.iter().any(|addition| !addition.tasks.is_empty());
        if adds {
            self.submissions.clear();
            for addition in &mut self.additions {
                // Without its id it is not remembered: it may come again.
                (addition.tasks, addition.chunk_id) = (Vec::new(), String::new());
            }
            self.additions.retain(|addition| !addition.new_lanes.is_empty());
            self.audit.retain(|entry| !matches!(entry.of, Of::Submission(_) | Of::Addition(_)));
        }
        let retries = self.retries.iter_mut().filter(|it| !matches!(it.which, Which::These(_)));
        let limits = retries.map(|it| &mut it.limit).chain(self.hastens.iter_mut().map(|it| &mut it.limit));
        let mut is_less = adds;
        for limit in limits.filter(|limit| **limit > SMALL_PIECE) {
            (*limit, is_less) = (SMALL_PIECE, true);
        }
        is_less
    }

    /// Returns what of [`Batch::audit`] was done: what changed nothing leaves no trace.
    pub fn audited<'a>(&'a self, committed: &'a Committed) -> impl Iterator<Item = &'a AuditRow> {
        let is_in = |job: JobId| !committed.refused.iter().any(|(refused, _)| *refused == job);
        let was_done = move |entry: &&AuditEntry| match entry.of {
            Of::Always => true,
            Of::Job(job) => is_in(job),
            Of::Submission(nth) => {
                committed.submissions.get(nth) == Some(&Submitted::Stored)
                    && self.submissions.get(nth).is_some_and(|new| is_in(new.job.id))
            }
            Of::Addition(nth) => {
                matches!(committed.additions.get(nth), Some(Added::Stored { .. }))
                    && self.additions.get(nth).is_some_and(|new| is_in(new.job))
            }
            Of::Sweep(nth) => {
                committed.sweeps.get(nth).is_some_and(|swept| swept.count > 0)
                    && self.sweeps.get(nth).is_some_and(|sweep| is_in(sweep.job))
            }
            Of::Hasten(nth) => {
                committed.hastened.get(nth).is_some_and(|hastened| !hastened.tasks.is_empty())
                    && self.hastens.get(nth).is_some_and(|hasten| is_in(hasten.job))
            }
            Of::Deletion(nth) => {
                committed.deletions.get(nth) == Some(&true) && self.deletions.get(nth).is_some_and(|job| is_in(*job))
            }
        };
        self.audit.iter().filter(was_done).map(|entry| &entry.row)
    }
}

/// The answers to a batch: one entry per item, in order. The entry of an item of a refused job has no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// To [`Batch::submissions`].
    pub submissions: Vec<Submitted>,
    /// To [`Batch::additions`].
    pub additions: Vec<Added>,
    /// To [`Batch::retries`].
    pub retries: Vec<Retried>,
    /// To [`Batch::sweeps`].
    pub sweeps: Vec<Swept>,
    /// To [`Batch::hastens`].
    pub hastened: Vec<Hastened>,
    /// To [`Batch::deletions`]: whether the job was there, had ended and was not deleted yet.
    pub deletions: Vec<bool>,
    /// To [`Batch::purges`].
    pub purges: Vec<Purged>,
    /// To [`Batch::new_data_key`]: its number.
    pub data_key: Option<u32>,
    /// Jobs whose items contradict what is stored, and why. Nothing of them was stored by this batch.
    pub refused: Vec<(JobId, String)>,
    /// Why the batch was committed without the tasks that it was to add: see [`Batch::leave_out_tasks`]. Whoever has left
    /// them out says so, and no store does; [`Committed::submissions`] and [`Committed::additions`] have no meaning then.
    pub left_out: Option<String>,
}

/// The answer to a [`Submission`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Submitted {
    /// The job is stored.
    #[default]
    Stored,
    /// The request id was used before. Nothing of the submission was stored.
    Known {
        /// The job that the request id stands for.
        job: JobId,
        /// The digest of its request.
        digest: [u8; 32],
    },
}

/// The answer to an [`Addition`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// The tasks are stored.
    Stored {
        /// The index of the first one.
        first: TaskIndex,
    },
    /// The chunk id was used before. Nothing but the lanes was stored.
    Known(Chunk),
    /// Keys of these tasks (places in the chunk, in order) belong to other tasks of the job. Nothing but the lanes was
    /// stored.
    KeysTaken(Vec<u32>),
}

impl Default for Added {
    fn default() -> Self {
        Added::Stored { first: 0 }
    }
}

/// The answer to a [`Retry`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// The FAILED tasks that were put back, by how they failed.
    pub failed: Vec<Alike>,
    /// How many CANCELLED tasks were put back.
    pub cancelled: u32,
    /// The lowest index that was put back.
    pub first: Option<TaskIndex>,
    /// Where to go on; `None`: nothing is left to put back.
    pub next: Option<TaskIndex>,
}

impl Retried {
    /// Returns how many FAILED tasks were put back.
    pub fn failed_count(&self) -> u32 {
        self.failed.iter().fold(0, |sum, alike| sum.saturating_add(alike.tasks.len() as u32))
    }
}

/// The answer to a [`Sweep`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many tasks ended.
    pub count: u32,
    /// Which ones, unless it was to end all.
    pub indexes: Vec<TaskIndex>,
    /// Where to go on, also after a piece that found nothing; `None`: no task from there on is in that state.
    pub next: Option<TaskIndex>,
}

/// The answer to a [`Hasten`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hastened {
    /// The tasks that are due now, each with its lane, in order of index.
    pub tasks: Vec<(TaskIndex, LaneNumber)>,
    /// Where to go on; `None`: no other task is to be due.
    pub next: Option<TaskIndex>,
}

/// The answer to a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many rows were removed.
    pub rows: u32,
    /// Whether nothing of the job is left.
    pub is_gone: bool,
    /// What its tenant stored for it, where it is gone now.
    pub freed: Option<(TenantNo, u64)>,
}
