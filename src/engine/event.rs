//! Everything that can be asked of the engine, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::waiting::Explanation;
use crate::model::failure::Failure;
use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::{self, Job};
use crate::model::limits::{Limits, RateLimit};
use crate::model::spec::TaskSpec;
use crate::store::{Chunk, LaneNumber, NewPage};

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such job.
    #[error("there is no job `{0}`")]
    NoJob(JobId),
    /// The job is where this cannot be done.
    #[error(transparent)]
    WrongState(#[from] job::WrongState),
    /// The job takes no more tasks.
    #[error("job `{0}` is sealed: it takes no more tasks")]
    Sealed(JobId),
    /// The request id stands for another job.
    #[error("request id `{0}` was used for another job; use a new one for this job")]
    RequestIdTaken(String),
    /// The chunk id stands for other tasks.
    #[error("chunk id `{0}` was used for other tasks; use a new one for these")]
    ChunkIdTaken(String),
    /// Keys that tasks of the job have already, by place in the chunk.
    #[error("{} of the keys are taken by other tasks of the job", .0.len())]
    KeysTaken(Vec<(usize, String)>),
    /// A task cannot be retried.
    #[error("task {0} has not failed and was not cancelled, so it cannot be retried")]
    NotRetryable(TaskIndex),
    /// There is no such task.
    #[error("job `{0}` has no task {1}")]
    NoTask(JobId, TaskIndex),
    /// The job would have more tasks than can be counted.
    #[error("a job has at most 4,294,967,295 tasks")]
    TooManyTasks,
    /// The server is shutting down.
    #[error("the server is shutting down; try again when it is back")]
    Draining,
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Tasks on their way in.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) specs: Vec<Arc<TaskSpec>>,
    /// The host of each.
    pub(crate) hosts: Vec<Host>,
}

/// What `UpdateJob` changes: what is `Some`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // The contract's names.
pub struct JobPatch {
    pub priority: Option<i32>,
    pub max_concurrency: Option<u32>,
    pub rate_limit: Option<RateLimit>,
    pub labels: Option<BTreeMap<String, String>>,
    pub title: Option<String>,
}

/// An ended job with its lanes, to be run again.
#[derive(Debug)]
pub(crate) struct Revival {
    pub(crate) job: Job,
    pub(crate) lanes: Vec<(LaneNumber, Host, TaskIndex)>,
    /// `None`: every failed and cancelled task.
    pub(crate) indexes: Option<Vec<TaskIndex>>,
    /// How many of them failed and were cancelled.
    pub(crate) counts: (u32, u32),
}

/// What somebody asks of the scheduler. Answers come after the commit.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        job: Job,
        request: Option<(String, [u8; 32])>,
        tasks: Tasks,
        reply: Reply<Arc<Job>>,
    },
    AddTasks {
        job: JobId,
        chunk_id: String,
        digest: [u8; 32],
        tasks: Tasks,
        reply: Reply<Chunk>,
    },
    Control {
        job: JobId,
        what: Control,
        reply: Reply<Option<Arc<Job>>>,
    },
    Retry {
        revival: Box<Revival>,
        reply: Reply<Arc<Job>>,
    },
    /// For an ended job the job is given.
    Update {
        job: JobId,
        ended: Option<Box<Job>>,
        patch: JobPatch,
        reply: Reply<Option<Arc<Job>>>,
    },
    Delete {
        job: JobId,
        reply: Reply<()>,
    },
    SetLimits {
        limits: Limits,
        reply: Reply<()>,
    },
    /// A page of a running fetch.
    Page {
        id: TaskId,
        fence: Fence,
        page: NewPage,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Why tasks of the job for these hosts do not run; no host: for all of it.
    Explain {
        job: JobId,
        hosts: Vec<Host>,
        reply: oneshot::Sender<Explanation>,
    },
    /// How many tasks wait at each of these hosts.
    WaitingAt {
        hosts: Vec<Host>,
        reply: oneshot::Sender<Vec<u32>>,
    },
    Drain,
}

/// What can be done to a job that has not ended. The answer is `None` when it has.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Seal,
    Pause,
    Resume,
    Cancel(String),
}
