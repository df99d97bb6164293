//! What reads ask for and return.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use crate::model::access::PrincipalNo;
use crate::model::audit::AuditRecord;
use crate::model::event::EventHead;
use crate::model::failure::TaskError;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::{Job, JobState};
use crate::model::search::Search;
use crate::model::secret;
use crate::model::spec::TaskSpec;
use crate::model::task::Task;
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::batch::{LaneNumber, TaskRow};

/// The bytes of rows after which a page ends, however many rows were asked for: 4 MiB. A page has at least one row, so
/// it is larger by one row at most.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// A part of a listing, bounded by rows and by [`PAGE_BYTES_MAX`].
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// The rows in the order of the listing.
    pub items: Vec<T>,
    /// Whether more rows may follow the last one. Never true without items.
    pub has_more: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { items: Vec::new(), has_more: false }
    }
}

/// The most rows that one page of a listing looks at, those that do not fit included: some tenths of a second.
pub const LOOK_MAX: u32 = 100_000;

/// The order of a listing of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobOrder {
    /// Newest first, as their ids say.
    #[default]
    Created,
    /// Ended jobs alone; those that ended last first.
    Ended,
}

/// Where a listing of jobs goes on: behind this job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobPlace {
    /// The job.
    pub id: JobId,
    /// When it ended; needed in the order of the ends.
    pub end: Option<Timestamp>,
}

/// A part of a listing of jobs, bounded by rows, by [`PAGE_BYTES_MAX`] and by how many rows were looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobPage<T> {
    /// The jobs that fit, in the order of the listing.
    pub items: Vec<T>,
    /// How many jobs were looked at.
    pub examined: u32,
    /// Where it goes on, also after a page without items; `None`: no more jobs fit.
    pub next: Option<JobPlace>,
}

/// Which jobs to list. All conditions hold together.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// These alone; empty: all. In the order of their creation only.
    pub ids: Vec<JobId>,
    /// In one of these states; empty: in any.
    pub states: Vec<JobState>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Created after this time (not at it).
    pub created_after: Option<Timestamp>,
    /// Created before this time (not at it).
    pub created_before: Option<Timestamp>,
    /// Ended after this time (not at it).
    pub ended_after: Option<Timestamp>,
    /// Ended before this time (not at it).
    pub ended_before: Option<Timestamp>,
    /// Of this tenant; `None`: of all.
    pub tenant: Option<TenantNo>,
    /// Submitted by this principal.
    pub created_by: Option<PrincipalNo>,
    /// With this text in the title or in the value of a label, or with an id that begins with it.
    pub search: Search,
    /// The order of the listing.
    pub order: JobOrder,
    /// Behind this place: where the last page ended.
    pub before: Option<JobPlace>,
    /// The most jobs to look at; 0: [`LOOK_MAX`].
    pub look_max: u32,
}

impl JobFilter {
    /// Returns how many jobs may be looked at.
    pub fn look_max(&self) -> u32 {
        if self.look_max == 0 { LOOK_MAX } else { self.look_max }
    }
}

/// Which tasks of a job to list. All conditions hold together.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// Their states, failures and host.
    pub filter: TaskFilter,
    /// With this text in the key, or in the URL as people may see it: what is hidden there is not found.
    pub search: Search,
    /// From this index on.
    pub from: TaskIndex,
    /// The most tasks to look at; 0: [`LOOK_MAX`].
    pub look_max: u32,
}

impl TaskQuery {
    /// Returns how many tasks may be looked at.
    pub fn look_max(&self) -> u32 {
        if self.look_max == 0 { LOOK_MAX } else { self.look_max }
    }
}

/// A part of a listing of tasks, bounded by rows, by [`PAGE_BYTES_MAX`] and by how many rows were looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPage {
    /// The tasks that fit, in order of index.
    pub items: Vec<StoredTask>,
    /// How many tasks were looked at.
    pub examined: u32,
    /// Where it goes on, also after a page without items; `None`: no more tasks fit.
    pub next: Option<TaskIndex>,
}

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTask {
    /// Its place in its job.
    pub index: TaskIndex,
    /// The number of its lane.
    pub lane: LaneNumber,
    /// What to do.
    pub spec: Arc<TaskSpec>,
    /// How it is; a task that nothing happened to has the default row.
    pub row: TaskRow,
}

impl StoredTask {
    /// Returns the error of the task for a place outside it, so with the task and its URL.
    pub fn placed_error(&self) -> Option<TaskError> {
        self.row.task.error.as_ref().map(|error| error.of_task(self.index, self.spec.work.url()))
    }

    /// Returns whether people see a text in its key or its URL.
    pub fn shows(&self, search: &Search) -> bool {
        let url = || secret::redacted_text(self.spec.work.url());
        search.is_empty() || search.is_in(&self.spec.key) || search.is_in(&url())
    }

    /// Returns the host of its URL. Empty for none.
    pub fn own_host(&self) -> String {
        host_of(self.spec.work.url())
    }

    /// Returns the host of the URL that failed: that of the last attempt, or the task's own. Empty for none.
    pub fn failed_host(&self) -> String {
        let last = self.row.log.last().map(|attempt| attempt.report.url.as_str()).filter(|url| !url.is_empty());
        host_of(last.unwrap_or_else(|| self.spec.work.url()))
    }
}

/// Returns the host of a URL. Empty for none.
pub(crate) fn host_of(url: &str) -> String {
    let url = Url::parse(url).ok();
    url.and_then(|url| Host::of(&url)).map(|host| host.to_string()).unwrap_or_default()
}

/// An event as it is kept.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// The event itself.
    pub head: EventHead,
    /// The job as it was, for the kinds of events that show it.
    pub snapshot: Option<Arc<Job>>,
    /// The task as it ended, for `TaskEnded`. Its spec need not have its headers, its secrets and its body, which no event tells.
    pub task: Option<Arc<StoredTask>>,
}

/// Durable events of a job, the last first.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// The events that fit.
    pub items: Vec<StoredEvent>,
    /// Below which number it goes on; `None`: there are no more.
    pub next: Option<u64>,
}

/// A page of a fetch without its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct PageHead {
    /// The number of the page, from 0.
    pub page: u32,
    /// The index of its first item.
    pub first_item: u64,
    /// The number of its items.
    pub items: u64,
    /// The number of its bytes.
    pub bytes: u64,
    /// Where the listing goes on.
    pub next: Option<String>,
}

/// A part of what a restart begins with. All of it follows from unfinished jobs, not from queued tasks.
pub struct Recovered {
    /// The job after which the next part begins; `None`: this is the last part.
    pub next: Option<JobId>,
    read: ReadJobs,
}

/// Unfinished jobs in order of creation, each with all its lanes: the number of a lane is its place, the index is its head,
/// before which no task is PENDING.
pub type UnfinishedJobs = Vec<(Job, Vec<(Host, TaskIndex)>)>;

/// Makes jobs of what was found of them.
type ReadJobs = Box<dyn FnOnce() -> UnfinishedJobs + Send>;

impl Recovered {
    /// A part whose jobs `read` makes, once they are asked for.
    pub fn new(next: Option<JobId>, read: impl FnOnce() -> UnfinishedJobs + Send + 'static) -> Recovered {
        Recovered { next, read: Box::new(read) }
    }

    /// Makes the jobs of what was found of them. It takes about as long as to find it, and while it is done the next part can be
    /// looked for.
    pub fn jobs(self) -> UnfinishedJobs {
        (self.read)()
    }
}

/// An attempt that the last process left behind.
#[derive(Clone, Debug, PartialEq)]
pub struct CutAttempt {
    /// The task that was running.
    pub id: TaskId,
    /// When the attempt started.
    pub attempt_start: Timestamp,
    /// The task as it was: RUNNING.
    pub task: StoredTask,
}

/// An attempt that the last process left behind, of a task that cannot be read: nobody can make another one.
#[derive(Clone, Debug, PartialEq)]
pub struct UnreadableAttempt {
    /// The task that was running.
    pub id: TaskId,
    /// The number of its lane.
    pub lane: LaneNumber,
    /// How far the task was, as its claim says: RUNNING.
    pub task: Task,
}

/// A part of the attempts that the last process left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CutPage {
    /// The attempts of tasks that can be read.
    pub attempts: Vec<CutAttempt>,
    /// The others.
    pub unreadable: Vec<UnreadableAttempt>,
    /// The task after which the next part begins, also after a part without attempts; `None`: this is the last part.
    pub next: Option<TaskId>,
}

/// A part of a lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LanePage {
    /// The tasks that may start, in order of index.
    pub tasks: Vec<StoredTask>,
    /// Where the next page begins, also after a page without tasks; `None`: no more task may start.
    pub next: Option<TaskIndex>,
    /// The first of those that cannot be read: they are left out, and still PENDING.
    pub first_unreadable: Option<TaskIndex>,
}

/// A task that waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueTask {
    /// When the attempt is due.
    pub due: Timestamp,
    /// The task.
    pub id: TaskId,
}

/// A part of all tasks that wait for their next attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DuePage {
    /// The tasks in order of due time and id, without those that cannot be read.
    pub tasks: Vec<(DueTask, StoredTask)>,
    /// The task after which the next part begins, also after a part without tasks; `None`: this is the last part.
    pub next: Option<DueTask>,
}

/// Where a listing of the audit goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPlace {
    /// Oldest first, after this number.
    After(u64),
    /// Newest first, before this number.
    Before(u64),
}

/// A page of the audit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditPage {
    /// The rows that fit.
    pub records: Vec<AuditRecord>,
    /// Where it goes on; `None`: there are no more.
    pub next: Option<AuditPlace>,
}
