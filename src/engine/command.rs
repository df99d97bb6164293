//! Everything that can be asked of the engine, and what it answers: plain values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::engine::explanation::{Explanation, Waits};
use crate::engine::new_tasks::Tasks;
use crate::engine::writer::Condition;
use crate::model::access::{AccessAnswer, AccessChange, AccessError, Actor};
use crate::model::audit::AuditRow;
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::{self, Job, JobState};
use crate::model::limits::{Limits, LimitsPatch, RateLimit};
use crate::model::quotas::{Quota, Usage};
use crate::model::spec::JobSpec;
use crate::model::task_filter::TaskChoice;
use crate::model::tenant::{Parties, TenantNo};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::store::StoreError;
use crate::store::{Chunk, LaneNumber, NewPage};

/// The reason why the engine did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such job.
    #[error("there is no job `{0}`")]
    NoJob(JobId),
    /// The job is in a state in which this cannot be done.
    #[error("{1}")]
    WrongState(JobId, job::WrongState),
    /// The job, which is in this state, takes no more tasks.
    #[error("job `{0}` {how}: it takes no more tasks", how = closed(*.1))]
    Sealed(JobId, JobState),
    /// The request id was used for another job.
    #[error("request id `{0}` was used for another job; use a new one for this job")]
    RequestIdTaken(String),
    /// The chunk id was used for other tasks.
    #[error("chunk id `{0}` was used for other tasks; use a new one for these")]
    ChunkIdTaken(String),
    /// Tasks of the job have these keys already; by place in the chunk.
    #[error("{} of the keys are taken by other tasks of the job", .0.len())]
    KeysTaken(Vec<(usize, String)>),
    /// There is no such host.
    #[error("there is no host `{0}`")]
    NoHost(Host),
    /// A task cannot be retried.
    #[error("task {1} has not failed and was not cancelled, so it cannot be retried")]
    NotRetryable(JobId, TaskIndex),
    /// Secrets of the job were erased.
    #[error(
        "the secrets of job `{0}` were erased some time after its end; submit it anew, or use a credential that the server keeps"
    )]
    SecretsExpired(JobId),
    /// There is no such task.
    #[error("job `{0}` has no task {1}")]
    NoTask(JobId, TaskIndex),
    /// The job would have more tasks than can be counted.
    #[error("a job has at most 4,294,967,295 tasks")]
    TooManyTasks(JobId),
    /// Unfinished jobs take all the memory that they may.
    #[error("unfinished jobs use all the memory that the server allows them; wait until some have ended")]
    TooManyJobs,
    /// The server is shutting down.
    #[error("the server is shutting down; try again when it is back")]
    Draining,
    /// Too much waits to be stored.
    #[error("too many changes wait to be stored; try again later")]
    Overloaded,
    /// Nothing can be stored at present.
    #[error("nothing can be stored: {0}; try again when that has been corrected")]
    StoreFull(String),
    /// The store cannot take anything at present, as where somebody else has locked it.
    #[error("nothing can be stored at present: {0}; try again")]
    StoreBusy(String),
    /// Memory and store contradict each other about the job; nothing was changed.
    #[error(
        "job `{0}` was found to contradict the store, so this was not done; the server's log has the cause. Try again"
    )]
    Contradiction(JobId),
    /// Who may call stays as it is.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A job is of one tenant, and the call is about none or all.
    #[error("a job is of one tenant; name it")]
    NoTenant,
    /// A tenant would have more than it may.
    #[error("tenant `{tenant}` may have at most {most} {}; wait until some have ended, or have its quota raised", .quota.name())]
    Quota {
        /// Its name.
        tenant: String,
        /// Which quota.
        quota: Quota,
        /// How much it may have.
        most: u64,
    },
    /// A tenant adds more tasks than it may in so short a time.
    #[error("tenant `{tenant}` has added as many tasks as its `tasks_per_second` allows; wait {:.1} s and try again", .wait.as_secs_f64())]
    TaskRate {
        /// Its name.
        tenant: String,
        /// When they could be added.
        wait: Duration,
    },
    /// A job asks for more time than its tenant may have.
    #[error("`{field}` is {asked:?}, and tenant `{tenant}` may have at most {most:?} (`{}`); ask for less", .quota.name())]
    Longer {
        /// Its name.
        tenant: String,
        /// Which quota.
        quota: Quota,
        /// Where it asks.
        field: String,
        /// For how much.
        asked: Duration,
        /// How much it may have.
        most: Duration,
    },
    /// A tenant does nothing more for now.
    #[error("tenant `{0}` is suspended; it takes no work until an operator lifts that")]
    Suspended(String),
    /// A row cannot be read, now or later.
    #[error("{0}")]
    Unreadable(String),
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

/// Where an answer goes. Who asked may be gone.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Sends an answer. A caller whose deadline passed does not hear it, and what was done stays done.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, EngineError>) {
    let _ = reply.send(result);
}

/// What `UpdateJob` changes: the fields that are `Some`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // The contract's names.
pub struct JobPatch {
    pub priority: Option<i32>,
    pub max_concurrency: Option<u32>,
    pub rate_limit: Option<RateLimit>,
    pub labels: Option<BTreeMap<String, String>>,
    pub title: Option<String>,
}

impl JobPatch {
    /// Returns the names of what it changes.
    pub(crate) fn changed(&self) -> Vec<String> {
        let JobPatch { priority, max_concurrency, rate_limit, labels, title } = self;
        named(&[
            ("priority", priority.is_some()),
            ("group.max_concurrency", max_concurrency.is_some()),
            ("rate_limit", rate_limit.is_some()),
            ("labels", labels.is_some()),
            ("title", title.is_some()),
        ])
    }

    /// The memory that the patch takes, in bytes, roughly.
    pub(crate) fn memory_bytes(&self) -> usize {
        let labels = self.labels.iter().flatten().map(|(key, value)| key.len() + value.len() + 96);
        labels.sum::<usize>() + self.title.as_ref().map_or(0, String::len)
    }

    /// Changes `job` at `now`.
    pub(crate) fn apply(&self, job: &mut Job, now: Timestamp) {
        let spec = Arc::make_mut(&mut job.spec);
        let JobPatch { priority, max_concurrency, rate_limit, labels, title } = self.clone();
        spec.priority = priority.unwrap_or(spec.priority);
        spec.group.max_concurrency = max_concurrency.unwrap_or(spec.group.max_concurrency);
        spec.rate_limit = rate_limit.unwrap_or(spec.rate_limit);
        if let Some(labels) = labels {
            spec.labels = labels;
        }
        if let Some(title) = title {
            spec.title = title;
        }
        job.update_time = now;
    }
}

fn named(fields: &[(&str, bool)]) -> Vec<String> {
    fields.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (*name).to_owned()).collect()
}

/// What can be done to a job.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Seal,
    Pause,
    Resume,
    Cancel(String),
}

impl Control {
    /// Returns the method that asks for it.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Control::Seal => "SealJob",
            Control::Pause => "PauseJob",
            Control::Resume => "ResumeJob",
            Control::Cancel(_) => "CancelJob",
        }
    }
}

/// On how many tasks of a job a call has acted.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The job as it is then.
    pub job: Arc<Job>,
    /// How many.
    pub tasks: u32,
}

/// What is asked of the scheduler about one job. Answers come after the commit.
#[derive(Debug)]
pub(crate) enum JobCommand {
    AddTasks {
        chunk_id: String,
        digest: [u8; 32],
        tasks: Tasks,
        reply: Reply<Chunk>,
    },
    Control {
        what: Control,
        reply: Reply<Arc<Job>>,
    },
    /// Runs failed and cancelled tasks again.
    Retry {
        which: TaskChoice,
        reply: Reply<Arc<Job>>,
    },
    /// Ends tasks that wait or run, for this reason.
    CancelTasks {
        which: TaskChoice,
        /// The lowest index that was not there when the call came, once it has come to its job.
        to: Option<TaskIndex>,
        reason: String,
        reply: Reply<Acted>,
    },
    /// Makes tasks due that back off.
    RetryNow {
        which: TaskChoice,
        /// As in [`JobCommand::CancelTasks`].
        to: Option<TaskIndex>,
        reply: Reply<Acted>,
    },
    Update {
        patch: JobPatch,
        reply: Reply<Arc<Job>>,
    },
    Delete {
        with_files: bool,
        reply: Reply<()>,
    },
}

/// What is asked of the scheduler.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        spec: Box<JobSpec>,
        request: Option<(String, [u8; 32])>,
        tasks: Tasks,
        caller: Option<TraceParent>,
        reply: Reply<Arc<Job>>,
    },
    Job(JobId, JobCommand),
    SetLimits {
        patch: LimitsPatch,
        reply: Reply<Limits>,
    },
    /// Seals secrets with another data key from now on.
    NewDataKey {
        reply: Reply<u32>,
    },
    /// Changes who may call.
    Access {
        change: AccessChange,
        reply: Reply<AccessAnswer>,
    },
    /// Ends the pause of a host.
    ResumeHost {
        host: Host,
        reply: Reply<()>,
    },
    /// Stores rows of the audit that belong to no change.
    Audit {
        rows: Vec<AuditRow>,
        reply: Reply<()>,
    },
    /// How many tasks wait for what.
    Waits {
        reply: oneshot::Sender<Waits>,
    },
    /// What tenants have, in their order.
    Usage {
        tenants: Vec<TenantNo>,
        reply: oneshot::Sender<Vec<Usage>>,
    },
    /// A page of a running fetch.
    Page {
        id: TaskId,
        fence: Fence,
        page: NewPage,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// The reasons why tasks of the job do not run: those named, or the job as a whole.
    Explain {
        job: JobId,
        tasks: Vec<(TaskIndex, LaneNumber)>,
        reply: oneshot::Sender<Explanation>,
    },
    /// How many tasks wait at each of these hosts.
    WaitingAt {
        hosts: Vec<Host>,
        whose: Parties,
        reply: oneshot::Sender<Vec<u32>>,
    },
    Drain,
}

/// A command with the room in memory that it was given. The room is free again when the command is dropped or done.
#[derive(Debug)]
pub(crate) struct Admitted<C> {
    pub(crate) command: C,
    /// Who asks.
    pub(crate) by: Arc<Actor>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl JobCommand {
    /// Whether the command carries much that nobody waits for any more, or makes much. Nothing of it was acknowledged, so it need not
    /// be done; commands that are small and change what is there are done all the same.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self, JobCommand::AddTasks { reply, .. } if reply.is_closed())
    }

    /// Whether it adds tasks.
    pub(crate) fn adds_tasks(&self) -> bool {
        matches!(self, JobCommand::AddTasks { .. })
    }

    /// Limits what it acts on to tasks below `total`, those that its job has when the command comes to it.
    pub(crate) fn fix(&mut self, total: TaskIndex) {
        if let JobCommand::CancelTasks { to, .. } | JobCommand::RetryNow { to, .. } = self {
            to.get_or_insert(total);
        }
    }

    /// Whether it acts on tasks of its job, and nobody has said yet which ones there were when it came.
    pub(crate) fn has_to_be_fixed(&self) -> bool {
        matches!(self, JobCommand::CancelTasks { to: None, .. } | JobCommand::RetryNow { to: None, .. })
    }

    fn needs_room(&self) -> bool {
        !matches!(self, JobCommand::Delete { .. })
    }

    fn ends_work(&self) -> bool {
        matches!(self, JobCommand::CancelTasks { .. } | JobCommand::Control { what: Control::Cancel(_), .. })
            || self.holds_work()
    }

    fn holds_work(&self) -> bool {
        matches!(self, JobCommand::Control { what: Control::Pause | Control::Seal, .. })
    }

    /// Why it cannot be done as the store is now.
    pub(crate) fn not_now(&self, store: Condition) -> Option<EngineError> {
        not_now(store, self.needs_room(), self.ends_work())
    }

    /// Answers that it is not done.
    pub(crate) fn refuse(self, error: EngineError) {
        match self {
            JobCommand::AddTasks { reply, .. } => answer(reply, Err(error)),
            JobCommand::Control { reply, .. } | JobCommand::Retry { reply, .. } | JobCommand::Update { reply, .. } => {
                answer(reply, Err(error));
            }
            JobCommand::CancelTasks { reply, .. } | JobCommand::RetryNow { reply, .. } => answer(reply, Err(error)),
            JobCommand::Delete { reply, .. } => answer(reply, Err(error)),
        }
    }
}

impl Command {
    /// See [`JobCommand::is_abandoned`].
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Command::Submit { reply, .. } => reply.is_closed(),
            Command::Access { reply, .. } => reply.is_closed(),
            Command::Job(_, command) => command.is_abandoned(),
            _ => false,
        }
    }

    /// Whether it adds to what is stored, so that it cannot be done while the store is full. The page of a running fetch
    /// waits with its attempt, of which there are few.
    pub(crate) fn needs_room(&self) -> bool {
        match self {
            Command::Job(_, command) => command.needs_room(),
            Command::Page { .. }
            | Command::Explain { .. }
            | Command::WaitingAt { .. }
            | Command::Waits { .. }
            | Command::Usage { .. }
            | Command::Drain => false,
            _ => true,
        }
    }

    /// Whether it only ends or holds what there is, which is possible as long as there is some room.
    fn ends_work(&self) -> bool {
        match self {
            Command::Job(_, command) => command.ends_work(),
            Command::Audit { .. } => true,
            _ => false,
        }
    }

    /// Why it cannot be done as the store is now.
    pub(crate) fn not_now(&self, store: Condition) -> Option<EngineError> {
        not_now(store, self.needs_room(), self.ends_work())
    }

    /// Answers that it is not done.
    pub(crate) fn refuse(self, error: EngineError) {
        match self {
            Command::Submit { reply, .. } => answer(reply, Err(error)),
            Command::Job(_, command) => command.refuse(error),
            Command::SetLimits { reply, .. } => answer(reply, Err(error)),
            Command::NewDataKey { reply } => answer(reply, Err(error)),
            Command::Access { reply, .. } => answer(reply, Err(error)),
            Command::Audit { reply, .. } | Command::ResumeHost { reply, .. } => answer(reply, Err(error)),
            Command::Page { reply, .. } => {
                let _ = reply.send(Err(Failure::retryable(FailureReason::Internal, error.to_string())));
            }
            // Looks are answered with what is known, by whoever has it; nothing is known here.
            Command::Explain { .. }
            | Command::WaitingAt { .. }
            | Command::Waits { .. }
            | Command::Usage { .. }
            | Command::Drain => {}
        }
    }
}

/// Why a job in this state takes no more tasks.
fn closed(state: JobState) -> String {
    if state.is_ended() || state == JobState::Cancelling { format!("is {state}") } else { "is sealed".to_owned() }
}

impl EngineError {
    /// The error of a change that the store did not take, but may take later.
    pub(crate) fn not_stored(error: &StoreError) -> EngineError {
        match error {
            StoreError::Retry(why) => EngineError::StoreBusy(why.clone()),
            _ => EngineError::StoreFull(error.to_string()),
        }
    }
}

/// Why what needs room, or ends work, cannot be done as the store is now.
fn not_now(store: Condition, needs_room: bool, ends_work: bool) -> Option<EngineError> {
    match store {
        Condition::Blocked(why) if needs_room => Some(EngineError::StoreFull(why)),
        Condition::Busy(why) if needs_room => Some(EngineError::StoreBusy(why)),
        Condition::Short(why) if needs_room && !ends_work => Some(EngineError::StoreFull(why)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Content;

    /// On a full disk an attempt waits with its page, which costs it no try; and whoever deletes makes room.
    #[test]
    fn pages_and_deletions_are_taken_while_nothing_can_be_stored() {
        let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 0 };
        let content = Content::Inline(bytes::Bytes::new());
        let page = NewPage { id, page: 0, first_item: 0, items: 0, content, next: None };
        assert!(!Command::Page { id, fence: 1, page, reply: oneshot::channel().0 }.needs_room());
        let delete = JobCommand::Delete { with_files: false, reply: oneshot::channel().0 };
        assert!(!Command::Job(id.job, delete).needs_room());
        let pause = JobCommand::Control { what: Control::Pause, reply: oneshot::channel().0 };
        assert!(Command::Job(id.job, pause).needs_room());
    }
}
