//! What the scheduler waits for beside commits and attempts: plain values.

use std::sync::Arc;

use crate::engine::command::{Admitted, EngineError, JobCommand, Reply};
use crate::engine::effect::TenantDeletion;
use crate::engine::new_tasks::Tasks;
use crate::engine::queue::LaneRead;
use crate::model::access::Actor;
use crate::model::failure::TaskError;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::progress::Held;
use crate::model::spec::JobSpec;
use crate::model::task_filter::TaskChoice;
use crate::model::tenant::TenantNo;
use crate::model::trace::TraceParent;
use crate::store::{Chunk, CutAttempt, DuePage, LanePage, StoreError, StoredTask, UnreadableAttempt};

/// Something that the scheduler waited for.
pub(super) enum Read {
    Lane(LaneRead, Result<LanePage, StoreError>),
    Due(Result<DuePage, StoreError>),
    /// What the store has of a job that somebody wants to change.
    Visited(JobId, Admitted<JobCommand>, Result<Box<Found>, StoreError>),
    /// What is known of a chunk for a job that takes it no more.
    Chunk {
        chunk_id: String,
        digest: [u8; 32],
        known: Result<Option<Chunk>, StoreError>,
        /// The answer if it is not known.
        otherwise: EngineError,
        reply: Reply<Chunk>,
    },
    /// What is known of a request id for a job for which there is no room.
    Request {
        request: (String, [u8; 32]),
        known: Result<Option<(JobId, [u8; 32])>, StoreError>,
        /// The answer if it is not known.
        otherwise: EngineError,
        reply: Reply<Arc<Job>>,
    },
    /// The job that a request id stands for. Where the request was another one, that is the answer, with the id.
    Known {
        job: JobId,
        found: Box<Result<Option<Job>, StoreError>>,
        taken: Option<String>,
        otherwise: Otherwise,
        reply: Reply<Arc<Job>>,
    },
    /// Whether a tenant that is to be deleted has jobs.
    JobsOf(Box<TenantDeletion>, Result<bool, StoreError>),
    /// The files of a tenant are put aside.
    TenantGone(Box<TenantDeletion>, bool),
    /// The part files of a job are out of the way; of those that could not be kept this is gone.
    PartsAway(JobId, Held),
    /// The part files of a job that is retried are where they were.
    PartsBack(JobId),
    /// Jobs that can be removed.
    Removable(Result<Removable, StoreError>),
    /// The parts of an expired job that were left in the download root are gone. `false`: it has not ended any more.
    LeftDropped(JobId, TenantNo, Result<bool, StoreError>),
    /// Deleted jobs whose files are gone.
    Forgotten(JobId),
    /// A task whose time is over, as the store has it.
    Late(TaskId, Result<Option<StoredTask>, StoreError>),
    /// Tasks that waited for disk space and now have it.
    Space(Vec<TaskId>),
    /// A job as the store has it, after a contradiction.
    Reloaded(JobId, Box<Result<Option<Reloaded>, StoreError>>),
}

/// What becomes of a submission whose request id stood for a job that is deleted by now.
#[derive(Debug)]
pub(super) enum Otherwise {
    /// It makes a new job.
    Submit(Box<Repeated>),
    /// It is refused, as a new one would have been.
    Refuse(EngineError),
}

/// A submission as it came.
#[derive(Debug)]
pub(super) struct Repeated {
    pub(super) spec: JobSpec,
    pub(super) request: (String, [u8; 32]),
    pub(super) tasks: Tasks,
    pub(super) caller: Option<TraceParent>,
    pub(super) by: Arc<Actor>,
}

/// The memory of what the store has of a job, beside its spec and its lanes, in bytes, roughly.
const FOUND_BYTES: usize = 1 << 10;
/// That of a lane beside the name of its host.
const LANE_BYTES: usize = 48;

/// What the store has of a job.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) job: Option<Job>,
    /// Its row cannot be read, and it is to be deleted.
    pub(super) is_unreadable: bool,
    /// For `AddTasks`.
    pub(super) chunk: Option<Chunk>,
    /// For `RetryJob` of an ended job.
    pub(super) retry: Option<Result<Retriable, EngineError>>,
}

impl Found {
    /// The retry of named tasks that was found to be possible, with the number of these.
    pub(super) fn named_rows(&self) -> Option<usize> {
        match &self.retry {
            Some(Ok(Retriable { which: TaskChoice::These(these), .. })) => Some(these.len()),
            _ => None,
        }
    }

    /// Its memory, in bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let job = self.job.as_ref().map_or(0, |job| job.spec.memory_bytes());
        let Some(Ok(Retriable { lanes, which, .. })) = &self.retry else { return job + FOUND_BYTES };
        let lanes = lanes.iter().map(|(host, _)| LANE_BYTES + host.as_str().len()).sum::<usize>();
        job + FOUND_BYTES + lanes + which.memory_bytes()
    }
}

/// What is needed to retry a job.
#[derive(Debug)]
pub(super) struct Retriable {
    pub(super) lanes: Vec<(Host, TaskIndex)>,
    pub(super) which: TaskChoice,
    /// How many tasks will be put back.
    pub(super) failed: u32,
    pub(super) cancelled: u32,
    /// The failure that stays.
    pub(super) failure: Option<TaskError>,
}

/// Jobs that can be removed.
#[derive(Debug, Default)]
pub(super) struct Removable {
    /// Ended jobs whose retention is over, with their tenants.
    pub(super) expired: Vec<(JobId, TenantNo)>,
    /// Jobs that are marked deleted.
    pub(super) deleted: Vec<JobId>,
}

/// A job as the store has it.
pub(super) struct Reloaded {
    pub(super) job: Job,
    pub(super) lanes: Vec<(Host, TaskIndex)>,
    /// Attempts that were stopped for the reload.
    pub(super) cut: Vec<CutAttempt>,
    /// Those of them whose tasks cannot be read.
    pub(super) unreadable: Vec<UnreadableAttempt>,
}

/// A read that failed is no reason to end, unless it shows that the store cannot be trusted.
pub(super) fn trusted<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Fatal(why)) => Err(StoreError::Fatal(why)),
        Err(error) => {
            tracing::error!("a read of the scheduler failed and is tried again: {error}");
            Ok(None)
        }
    }
}
