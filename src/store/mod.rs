//! What must survive: one trait, behind which `SQLite` is (and `PostgreSQL` will be).
//!
//! The store holds no policy, but it decides and answers. It applies a [`Batch`] of changes that the engine wants, and
//! says for each item what happened: stored, known already, refused, so many found. A task leaves traces only when
//! something happens to it: without a row it is PENDING, with a claim it is RUNNING, and everything else is in its state
//! row. So a million queued tasks cost their specs and no more.
//!
//! Writes come from the engine's writer alone, which merges what many callers wait for into one batch (group commit).
//! Invariants: a batch is durable when `commit` returns; reads see all batches that returned before they began; what
//! contradicts the store excludes the items of one job and nothing else.

mod batch;
mod error;
mod listing;
pub mod page_token;
pub mod sqlite;

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::model::audit::AuditFilter;
use crate::model::book::Book;
use crate::model::counts::Counts;
use crate::model::event::EventKind;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::LimitsPatch;
use crate::model::pause::{HostPause, PauseKey};
use crate::model::task::TaskState;
use crate::model::tenant::{Party, TenantNo};
use crate::model::time::Timestamp;
use crate::store::page_token::PageTokens;

pub use crate::store::batch::{
    Added, Addition, Batch, Chunk, Claim, Committed, Content, Hasten, Hastened, LaneNumber, NewEvent, NewPage, Purged,
    Retried, Retry, Submission, Submitted, Sweep, Swept, TaskMove, TaskRow, Which,
};
pub use crate::store::error::StoreError;
pub use crate::store::listing::{
    AuditPage, AuditPlace, CutAttempt, CutPage, DuePage, DueTask, EventPage, JobFilter, JobOrder, JobPage, JobPlace,
    LOOK_MAX, LanePage, Listed, PAGE_BYTES_MAX, PageHead, Recovered, StoredEvent, StoredTask, TaskPage, TaskQuery,
    UnfinishedJobs, UnreadableAttempt,
};

/// The answer of a read or a commit, to be awaited.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// How long a store keeps what is not for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Secrets of jobs that have ended; `None`: as long as the job.
    pub secrets: Option<Duration>,
    /// Rows of the audit.
    pub audit: Duration,
    /// What they may take all together, in bytes, roughly: the oldest go before their time.
    pub audit_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { secrets: None, audit: Duration::from_secs(365 * 86_400), audit_bytes: 1 << 30 }
    }
}

/// How far the secrets of a store are sealed with its present key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// Rows that are still to be looked at, or 1 where only traces of plain ones are left; of each table no more are counted
    /// than a look at them takes no time.
    pub rows_left: u64,
    /// The number of the key that seals.
    pub data_key: u32,
}

/// What is left of a store's upkeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing.
    Done,
    /// More, to be done soon.
    More,
    /// Nothing now. With time there is something again.
    Rest,
    /// Something is in the way that takes its time: a reader, or a full disk.
    Later,
}

/// The writing half. It has one owner, the engine's writer.
pub trait WriteStore: Send + 'static {
    /// Makes the batch durable, except for the items of refused jobs. The future must be awaited to its end.
    ///
    /// [`StoreError::Full`] and [`StoreError::Retry`] say that nothing of the batch was applied. After
    /// [`StoreError::Fatal`] the store accepts no more batches.
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed>;
    /// Does what is to be done between two commits. To be called after each, once it is answered.
    fn between_commits(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Whether what can wait is to stay out of the next commits: they all wait soon for what these write.
    fn wants_rest(&self) -> bool {
        false
    }
    /// Waits until [`WriteStore::between_commits`] can end that, whether there was a commit or not; for ever where nothing is to
    /// end. A caller that stops waiting loses nothing.
    fn rested(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
    /// Whether so little room is left that work is to end and to be removed, and nothing is to be added: small batches and
    /// removals go on for a while.
    fn is_short(&self) -> bool {
        false
    }
    /// Looks whether there is more room by now, after [`WriteStore::is_short`].
    fn regain(&mut self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Does a piece of what nobody waits for at `now`, and returns what is left of it. An error says that it was not done.
    fn upkeep(&mut self, _now: Timestamp) -> Answer<'_, Upkeep> {
        Box::pin(std::future::ready(Ok(Upkeep::Done)))
    }
    /// Closes the files after a last checkpoint of the log.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// The reading half. It is cheap to share and never waits for the writer.
///
/// Each read may fail with [`StoreError::Retry`] (the store is busy), [`StoreError::Unreadable`] (a row does not parse)
/// and [`StoreError::Fatal`] (the file is damaged). Nothing else is returned by a read.
pub trait Store: Send + Sync + 'static {
    /// Returns the name of this data, made with it.
    fn node_id(&self) -> String;
    /// Returns a digest that only this store can compute: one of a request with a password in it must not be guessable from
    /// the database. The digests of [`Submission`] and [`Addition`] are of this kind.
    fn keyed(&self, digest: [u8; 32]) -> [u8; 32];
    /// Returns what makes and reads the page tokens of this store.
    fn page_tokens(&self) -> PageTokens;
    /// Returns the kind of the store: `sqlite`.
    fn backend(&self) -> &'static str;
    /// Returns all pauses of hosts, those first that were begun first.
    fn host_pauses(&self) -> Answer<'_, Vec<(PauseKey, HostPause)>>;
    /// Returns how many bytes the jobs of each tenant keep ([`Job::stored_bytes`]), those that are deleted and not removed yet
    /// among them.
    fn stored_bytes(&self) -> Answer<'_, Vec<(TenantNo, u64)>>;
    /// How far its secrets are sealed with its present key. Nothing is left by default.
    fn sealing(&self) -> Answer<'_, Sealing> {
        Box::pin(async { Ok(Sealing::default()) })
    }
    /// Returns the limits that were set by all changes so far, each as it was last.
    fn limits(&self) -> Answer<'_, Option<LimitsPatch>>;
    /// Returns who may call.
    fn access(&self) -> Answer<'_, Book>;
    /// Lists rows of the audit that fit, in the order of `place`. Looks at a bounded number of them, so that a page may have
    /// few while there are more.
    fn audit<'a>(&'a self, filter: &'a AuditFilter, place: AuditPlace, limit: u32) -> Answer<'a, AuditPage>;
    /// Returns the number and the digest of the last row of the audit, as `NUMBER:DIGEST`; `None`: there is none.
    fn audit_head(&self) -> Answer<'_, Option<String>>;

    /// Returns a job, unless it is deleted.
    fn job(&self, id: JobId) -> Answer<'_, Option<Job>>;
    /// Lists at most `limit` jobs.
    fn jobs<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<Job>>;
    /// Lists at most `limit` jobs by their names alone.
    fn job_ids<'a>(&'a self, filter: &'a JobFilter, limit: u32) -> Answer<'a, JobPage<JobId>>;
    /// Returns the job that a request id of a party stands for, with the digest of its request. The job may be deleted, as
    /// long as rows of it are left.
    fn request<'a>(&'a self, of: Party, request_id: &'a str) -> Answer<'a, Option<(JobId, [u8; 32])>>;

    /// Returns a task with its log.
    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>>;
    /// Returns the task with this key, with its log.
    fn task_by_key<'a>(&'a self, job: JobId, key: &'a str) -> Answer<'a, Option<StoredTask>>;
    /// Lists at most `limit` tasks in one of `states` (empty: any) in order of index, beginning with `from`. Of their
    /// logs only the last attempt of those without a result is there.
    fn tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>>;

    /// Lists at most `limit` tasks of those that are asked for, with as much of their logs as [`Store::tasks`] has.
    fn find_tasks<'a>(&'a self, job: JobId, query: &'a TaskQuery, limit: u32) -> Answer<'a, TaskPage>;

    /// Lists at most `limit` durable events of these kinds (none: all) with a sequence number below `before`, the last
    /// first. Looks at [`LOOK_MAX`] of them at most; `next` is where it goes on.
    fn events_before<'a>(
        &'a self,
        job: JobId,
        before: u64,
        kinds: &'a [EventKind],
        limit: u32,
    ) -> Answer<'a, EventPage>;
    /// Lists at most `limit` durable events with a sequence number above `after`, in order.
    fn events(&self, job: JobId, after: u64, limit: u32) -> Answer<'_, Listed<StoredEvent>>;

    /// Lists at most `limit` pages of a fetch in order, beginning with the number `from`.
    fn page_heads(&self, id: TaskId, from: u32, limit: u32) -> Answer<'_, Vec<PageHead>>;
    /// Returns the page that holds an item, or the last page before it.
    fn page_of_item(&self, id: TaskId, item: u64) -> Answer<'_, Option<PageHead>>;
    /// Returns the bytes of a page, or where they are.
    fn page_content(&self, id: TaskId, page: u32) -> Answer<'_, Option<Content>>;

    // The engine's own reads. They never wait behind the reads above; and those up to `due_tasks`, which its tasks need, wait
    // behind no other either.

    /// Returns the last page of a fetch.
    fn last_page(&self, id: TaskId) -> Answer<'_, Option<PageHead>>;
    /// Returns unfinished jobs with their lanes, in order of creation, beginning after the job `after`. A job whose row
    /// does not parse is logged and left out.
    fn recover(&self, after: Option<JobId>) -> Answer<'_, Recovered>;
    /// Returns attempts that have a claim, beginning after the task `after`. Tasks follow each other in an order of the
    /// store's own.
    fn claims(&self, after: Option<TaskId>) -> Answer<'_, CutPage>;
    /// Returns at most `limit` tasks of a lane that may start, in order of index, beginning with `from`: those that are
    /// PENDING, and those that are `BACKING_OFF` and due at `now` or before. None of them has a claim.
    fn lane_page(
        &self,
        job: JobId,
        lane: LaneNumber,
        from: TaskIndex,
        limit: u32,
        now: Timestamp,
    ) -> Answer<'_, LanePage>;
    /// Returns at most `limit` tasks of all jobs that are `BACKING_OFF` and have no claim, in order of due time and id,
    /// beginning after `after`.
    fn due_tasks(&self, after: Option<DueTask>, limit: u32) -> Answer<'_, DuePage>;
    /// Returns a job as it is stored, unless it is deleted.
    fn visit(&self, job: JobId) -> Answer<'_, Option<Job>>;
    /// Returns all lanes of a job: the number of a lane is its place, the index is its head.
    fn lanes(&self, job: JobId) -> Answer<'_, Vec<(Host, TaskIndex)>>;
    /// Returns the chunk that was stored with this id.
    fn chunk<'a>(&'a self, job: JobId, chunk_id: &'a str) -> Answer<'a, Option<Chunk>>;
    /// Returns the states of these tasks in order of index, without those that do not exist.
    fn task_states<'a>(&'a self, job: JobId, indexes: &'a [TaskIndex]) -> Answer<'a, Vec<(TaskIndex, TaskState)>>;
    /// Counts the tasks of a job by their rows, for a job whose counts are in doubt. All are 0 for an unknown job.
    fn recount(&self, job: JobId) -> Answer<'_, Counts>;
    /// Lists at most `limit` downloads in one of `states` that have started at least once, in order of index, beginning
    /// with `from`, with their logs.
    fn download_tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>>;
    /// Lists at most `limit` ended jobs whose retention passed at `now` or before, those first that expired first; each with
    /// its tenant.
    fn expired_jobs(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<(JobId, TenantNo)>>;
    /// Lists at most `limit` jobs that are deleted and not purged yet.
    fn deleted_jobs(&self, limit: u32) -> Answer<'_, Vec<JobId>>;
}
