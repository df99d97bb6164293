//! What must survive: one trait, behind which `SQLite` is (and `PostgreSQL` will be).
//!
//! The store holds no policy. It applies a [`Batch`] of changes that the engine has decided, all of it or nothing, and
//! answers questions. A task leaves traces only when something happens to it: without a row it is PENDING, with a claim
//! it is RUNNING, and what came of it is in its state row. So a million queued tasks cost their specs and no more.
//!
//! Writes come from the engine's writer alone, which merges what many callers wait for into one batch (group commit).
//! Invariants: a batch is durable when `commit` returns; reads see all batches that returned before they began.

pub mod page_token;
pub mod sqlite;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::model::event::EventHead;
use crate::model::failure::TaskError;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::{Job, JobState};
use crate::model::limits::Limits;
use crate::model::outcome::{Attempt, Outcome};
use crate::model::spec::TaskSpec;
use crate::model::task::{Task, TaskState};
use crate::model::time::Timestamp;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Certainly not applied; the same batch may be tried again when there is room.
    #[error("the disk of the data directory is full: {0}")]
    Full(String),
    /// Certainly not applied, and it may work when tried again.
    #[error("the store could not do it just now: {0}")]
    Retry(String),
    /// It may or may not have been applied, or the data is not what it must be. Only a restart, which reads what is
    /// really there, can tell.
    #[error("the store failed: {0}")]
    Fatal(String),
}

/// The number of a lane within its job, from 0.
pub type LaneNumber = u32;

/// A job to store, with what belongs to its submission.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// As it is at its submission.
    pub job: Job,
    /// The idempotency key with the digest of the request; `None`: not idempotent.
    pub request: Option<(String, [u8; 32])>,
}

/// A task to store.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Its name.
    pub id: TaskId,
    /// Which lane of its job it goes to.
    pub lane: LaneNumber,
    /// What to do.
    pub spec: Arc<TaskSpec>,
}

/// A lane to store: the tasks of one job for one host.
#[derive(Clone, Debug)]
pub struct NewLane {
    /// Whose.
    pub job: JobId,
    /// Which.
    pub lane: LaneNumber,
    /// To whom.
    pub host: Host,
}

/// A chunk of `AddTasks` to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where its tasks begin.
    pub first: TaskIndex,
    /// How many.
    pub count: u32,
    /// Digest of the tasks, to tell a repetition from another chunk.
    pub digest: [u8; 32],
}

/// The start of an attempt. It makes the task RUNNING.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whose.
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
    /// What came of it.
    pub outcome: Option<Outcome>,
}

/// A task that stops running or waiting: its claim, if any, goes and its row is written.
#[derive(Clone, Debug)]
pub struct TaskMove {
    /// Whose.
    pub id: TaskId,
    /// Its row from now on.
    pub row: TaskRow,
}

/// Ends the first `count` tasks of a job, from `from` on in order of index, that are in `state` (PENDING or
/// `BACKING_OFF`), as CANCELLED with `error`, each with its `TaskEnded` event from `first_sequence` on.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Whose.
    pub job: JobId,
    /// What they are now.
    pub state: TaskState,
    /// Where to begin.
    pub from: TaskIndex,
    /// Exactly how many; there must be as many.
    pub count: u32,
    /// Why they end.
    pub error: TaskError,
    /// When.
    pub time: Timestamp,
    /// The number of the first event.
    pub first_sequence: u64,
}

/// Puts failed and cancelled tasks of an ended job back to PENDING: attempts from 0, log and fence kept. What their
/// old `TaskEnded` events told stays readable in [`Store::events`].
#[derive(Clone, Debug)]
pub struct Retry {
    /// Whose.
    pub job: JobId,
    /// Which; `None`: every failed and cancelled one.
    pub indexes: Option<Vec<TaskIndex>>,
}

/// A page of a fetch (page 0 of one that is not paginated).
#[derive(Clone, Debug, PartialEq)]
pub struct NewPage {
    /// Whose.
    pub id: TaskId,
    /// From 0.
    pub page: u32,
    /// The index of its first item over all pages.
    pub first_item: u64,
    /// How many items it has.
    pub items: u64,
    /// Its bytes.
    pub content: Content,
    /// Where the listing goes on, as `fetch` wrote it; `None`: nowhere.
    pub next: Option<String>,
}

/// Where bytes are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// In the row.
    Inline(bytes::Bytes),
    /// In a content file of that name.
    File {
        /// As `files` named it.
        name: String,
        /// Its size.
        bytes: u64,
    },
}

/// A durable event to store. Of a task's end only the head is given: its row tells the rest.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Whose.
    pub job: JobId,
    /// Which.
    pub head: EventHead,
    /// The job as it was, for the kinds that tell of it.
    pub snapshot: Option<Arc<Job>>,
}

/// Changes that become durable together, in the order of the fields.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Each element type says what it is.
pub struct Batch {
    pub new_jobs: Vec<NewJob>,
    pub new_lanes: Vec<NewLane>,
    pub new_tasks: Vec<NewTask>,
    pub new_chunks: Vec<(JobId, String, Chunk)>,
    pub pages: Vec<NewPage>,
    /// Pages of these tasks go, before `pages` come: a fetch that starts over.
    pub dropped_pages: Vec<TaskId>,
    /// At most one entry a task.
    pub moves: Vec<TaskMove>,
    /// Attempts that have begun and do not end in this batch. They come after `moves`: one attempt of a task may end and
    /// the next begin in one batch.
    pub claims: Vec<Claim>,
    pub retries: Vec<Retry>,
    pub sweeps: Vec<Sweep>,
    pub events: Vec<NewEvent>,
    /// The moving part of jobs (state, open, stop, counts, failure, sequence, times). At most one entry a job.
    pub jobs: Vec<Arc<Job>>,
    /// Jobs whose spec changed too.
    pub respecced: Vec<Arc<Job>>,
    /// No task of the lane before this index is PENDING any more: where a restart begins to read.
    pub lane_heads: Vec<(JobId, LaneNumber, TaskIndex)>,
    /// Hides these jobs from every read but [`Store::deleted_jobs`].
    pub deleted: Vec<JobId>,
    /// Takes away at most so many rows of each of these deleted jobs, in the end the job itself.
    pub purges: Vec<(JobId, u32)>,
    pub limits: Option<Limits>,
}

impl Batch {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.new_jobs.is_empty()
            && self.new_lanes.is_empty()
            && self.new_tasks.is_empty()
            && self.new_chunks.is_empty()
            && self.claims.is_empty()
            && self.pages.is_empty()
            && self.dropped_pages.is_empty()
            && self.moves.is_empty()
            && self.retries.is_empty()
            && self.sweeps.is_empty()
            && self.events.is_empty()
            && self.jobs.is_empty()
            && self.respecced.is_empty()
            && self.lane_heads.is_empty()
            && self.deleted.is_empty()
            && self.purges.is_empty()
            && self.limits.is_none()
    }
}

/// What a commit found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// For each sweep: the index after the last task that it ended.
    pub swept_to: Vec<TaskIndex>,
    /// For each purge: whether nothing of the job is left.
    pub purged: Vec<bool>,
}

/// Which jobs to list: newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Empty: all.
    pub states: Vec<JobState>,
    /// All must match.
    pub labels: BTreeMap<String, String>,
    /// Created after.
    pub created_after: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// Ended after.
    pub ended_after: Option<Timestamp>,
    /// Only jobs older than this one: where the last page ended.
    pub before: Option<JobId>,
}

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTask {
    /// Its place.
    pub index: TaskIndex,
    /// What to do.
    pub spec: Arc<TaskSpec>,
    /// How it is; a task that nothing happened to has the default row.
    pub row: TaskRow,
}

/// An event as it is kept.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Which.
    pub head: EventHead,
    /// The job as it was, for the kinds that tell of it.
    pub snapshot: Option<Arc<Job>>,
    /// The task as it ended, for `TaskEnded`.
    pub task: Option<Arc<StoredTask>>,
}

/// A page without its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct PageHead {
    /// From 0.
    pub page: u32,
    /// The index of its first item.
    pub first_item: u64,
    /// How many items.
    pub items: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Where the listing goes on.
    pub next: Option<String>,
}

/// What a restart begins with. Its size follows from unfinished jobs and running tasks, not from queued ones.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// All that have not ended.
    pub jobs: Vec<Job>,
    /// Their lanes: job, number, host, and the index before which nothing is PENDING.
    pub lanes: Vec<(JobId, LaneNumber, Host, TaskIndex)>,
    /// The attempts that the last process left behind: the task, when the attempt started, and the row from before.
    pub claims: Vec<(TaskId, Timestamp, TaskRow)>,
}

/// A task that waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueTask {
    /// When.
    pub due: Timestamp,
    /// Which.
    pub id: TaskId,
}

/// The answer of a read or a commit, to be awaited.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The writing half. One owner, the engine's writer.
pub trait WriteStore: Send + 'static {
    /// Makes the batch durable, all of it or nothing. Not to be dropped half-way: await it to its end.
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed>;
    /// Closes files after a last checkpoint of the log.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// The reading half. Cheap to share; never waits for the writer.
#[allow(missing_docs)] // The names say it; what is not obvious has a line.
pub trait Store: Send + Sync + 'static {
    /// A name for this data, made with it.
    fn node_id(&self) -> String;
    /// `sqlite`.
    fn backend(&self) -> &'static str;
    fn limits(&self) -> Answer<'_, Option<Limits>>;

    fn job(&self, id: JobId) -> Answer<'_, Option<Job>>;
    /// Newest first, at most `limit`.
    fn jobs<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, Vec<Job>>;
    /// The job that a request id stands for, with the digest of its request. Also of deleted jobs that still have rows.
    fn request<'a>(&'a self, request_id: &'a str) -> Answer<'a, Option<(JobId, [u8; 32])>>;
    fn chunk<'a>(&'a self, job: JobId, chunk_id: &'a str) -> Answer<'a, Option<Chunk>>;
    /// Which of these keys tasks of the job have already.
    fn taken_keys<'a>(&'a self, job: JobId, keys: &'a [String]) -> Answer<'a, Vec<String>>;

    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>>;
    fn task_by_key<'a>(&'a self, job: JobId, key: &'a str) -> Answer<'a, Option<StoredTask>>;
    /// In order of index from `from` on, at most `limit`, in one of `states` (empty: any). The logs are left out.
    fn tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Vec<StoredTask>>;
    /// States of the named tasks, for `RetryJob`.
    fn task_states<'a>(&'a self, job: JobId, indexes: &'a [TaskIndex]) -> Answer<'a, Vec<(TaskIndex, TaskState)>>;

    /// Durable events after `after`, in order, at most `limit`.
    fn events(&self, job: JobId, after: u64, limit: u32) -> Answer<'_, Vec<StoredEvent>>;

    fn page_heads(&self, id: TaskId, from: u32, limit: u32) -> Answer<'_, Vec<PageHead>>;
    /// The page that holds an item, or the last page before it.
    fn page_of_item(&self, id: TaskId, item: u64) -> Answer<'_, Option<PageHead>>;
    fn last_page(&self, id: TaskId) -> Answer<'_, Option<PageHead>>;
    fn page_content(&self, id: TaskId, page: u32) -> Answer<'_, Option<Content>>;

    fn recover(&self) -> Answer<'_, Recovered>;
    /// PENDING tasks of a lane (no claim) in order of index from `from` on, at most `limit`.
    fn lane_page(&self, job: JobId, lane: LaneNumber, from: TaskIndex, limit: u32) -> Answer<'_, Vec<StoredTask>>;
    /// `BACKING_OFF` tasks of all jobs by (due, id), strictly after `after`, at most `limit`.
    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> Answer<'_, Vec<DueTask>>;
    /// Lanes of a job, as in [`Recovered::lanes`].
    fn lanes(&self, job: JobId) -> Answer<'_, Vec<(LaneNumber, Host, TaskIndex)>>;
    /// Ended jobs whose time to be kept has passed, at most `limit`.
    fn expired_jobs(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<JobId>>;
    /// Jobs that are marked deleted and not purged yet.
    fn deleted_jobs(&self, limit: u32) -> Answer<'_, Vec<JobId>>;
    /// Paths (relative to the download root) of finished downloads of a job, from index `from` on.
    fn download_paths(&self, job: JobId, from: TaskIndex, limit: u32) -> Answer<'_, Vec<(TaskIndex, String)>>;
}
