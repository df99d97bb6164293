//! What follows a commit: plain values. The scheduler performs them once the batch that they belong to is durable.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::engine::command::{Acted, Admitted, EngineError, JobCommand, Reply, answer};
use crate::engine::hub::Notice;
use crate::engine::queue::task::Cause;
use crate::model::access::{AccessAnswer, AccessChange, Actor};
use crate::model::book::Book;
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::limits::Limits;
use crate::model::spec::TaskSpec;
use crate::model::task::TaskState;
use crate::model::tenant::{Owner, Party, TenantNo};
use crate::store::{Chunk, LaneNumber, StoredEvent};

/// Tasks with the lanes that they go to.
pub(crate) type LanedTasks = Vec<(LaneNumber, Arc<TaskSpec>)>;

/// A tenant that is to be deleted.
pub(crate) struct TenantDeletion {
    pub(crate) tenant: Owner,
    pub(crate) change: AccessChange,
    pub(crate) by: Arc<Actor>,
    pub(crate) reply: Reply<AccessAnswer>,
}

/// Something that is done once a batch is durable.
pub(crate) enum Effect {
    /// The n-th submission of the batch: the job begins to live, or its request id was known.
    Admit {
        nth: usize,
        job: Box<Job>,
        lanes: Vec<Host>,
        tasks: LanedTasks,
        request: Option<(String, [u8; 32])>,
        by: Arc<Actor>,
        reply: Reply<Arc<Job>>,
    },
    /// The n-th addition of the batch: its tasks begin to live, or it was known or refused.
    AdmitTasks { nth: usize, job: JobId, chunk_id: String, digest: [u8; 32], tasks: LanedTasks, reply: Reply<Chunk> },
    /// Whether a chunk is known is asked of the store, now that all chunks before it are there. If it is not, this is the answer.
    ReadChunk { job: JobId, chunk_id: String, digest: [u8; 32], otherwise: EngineError, reply: Reply<Chunk> },
    /// Whether a request is known is asked of the store, now that all before it are there. If it is not, this is the answer.
    ReadRequest { request: (String, [u8; 32]), of: Party, otherwise: EngineError, reply: Reply<Arc<Job>> },
    /// A command about tasks is taken, now that all chunks before it are there.
    Select(JobId, Box<Admitted<JobCommand>>),
    /// A change of a job that has not ended is acknowledged.
    Reply(Reply<Arc<Job>>, Arc<Job>),
    /// What was asked of tasks is done.
    Acted(Reply<Acted>, Acted),
    /// A change of an ended job is acknowledged, and the next command for that job is taken.
    Updated(Reply<Arc<Job>>, Arc<Job>),
    /// The n-th deletion of the batch, of a job of this tenant, if that is known. Without a reply the job had expired.
    Deleted { nth: usize, job: JobId, tenant: Option<TenantNo>, reply: Option<Reply<()>> },
    /// New limits come into force.
    LimitsStored(Limits, Reply<Limits>),
    /// The new data key of the batch is in use.
    DataKeyStored(Reply<u32>),
    /// Who may call is another book from now on: the last of the batch, before whoever changed it is answered. Told is
    /// whether anything but credentials and tokens changed.
    BookStored(Arc<Book>, bool),
    /// A change of who may call is acknowledged.
    AccessStored(AccessAnswer, Reply<AccessAnswer>),
    /// All jobs of a tenant that is to be deleted are in the store.
    LookForJobs(Box<TenantDeletion>),
    /// A tenant is gone from the book.
    TenantDeleted(Box<TenantDeletion>),
    /// Rows of the audit are stored.
    Audited(Reply<()>),
    /// A page is acknowledged to its attempt.
    AckPage(JobId, oneshot::Sender<Result<(), Failure>>),
    /// The job as it was committed, and its events, are published.
    Publish(Arc<Job>, Vec<Arc<StoredEvent>>),
    /// A notice is published to those who watch starts, with the number of the durable event of the job before it.
    Notify(JobId, u64, Notice),
    /// The claim of an attempt is stored: what it leaves will be found.
    Claimed(JobId, CancellationToken),
    /// The running attempts of the job are stopped.
    StopAttempts(JobId, Cause),
    /// The n-th sweep of the batch was a piece of this job's.
    Swept { nth: usize, job: JobId, state: TaskState, events: Vec<Arc<StoredEvent>> },
    /// The n-th sweep of the batch was a piece of this job's tasks that somebody has cancelled.
    Withdrawn { nth: usize, job: JobId, state: TaskState, events: Vec<Arc<StoredEvent>> },
    /// The n-th hastening of the batch was a piece of this job's.
    Hastened { nth: usize, job: JobId },
    /// The n-th retry of the batch was a piece of this job's.
    PutBack { nth: usize, job: JobId, events: Vec<Arc<StoredEvent>> },
    /// The n-th purge of the batch was a piece of this job's.
    Purged { nth: usize, job: JobId },
    /// The ends of the job's tasks are durable, so its part files can be found and put away.
    PutPartsAway(JobId),
    /// The end of the job is durable: memory forgets the job.
    Forget(JobId),
}

impl Effect {
    /// The job that the effect belongs to.
    pub(crate) fn job(&self) -> Option<JobId> {
        match self {
            Effect::Admit { job, .. } => Some(job.id),
            Effect::Reply(_, job) | Effect::Updated(_, job) | Effect::Publish(job, _) => Some(job.id),
            Effect::Acted(_, acted) => Some(acted.job.id),
            Effect::AdmitTasks { job, .. }
            | Effect::ReadChunk { job, .. }
            | Effect::Select(job, _)
            | Effect::Deleted { job, .. }
            | Effect::AckPage(job, _)
            | Effect::Notify(job, ..)
            | Effect::Claimed(job, _)
            | Effect::StopAttempts(job, _)
            | Effect::Swept { job, .. }
            | Effect::Withdrawn { job, .. }
            | Effect::Hastened { job, .. }
            | Effect::PutBack { job, .. }
            | Effect::Purged { job, .. }
            | Effect::PutPartsAway(job)
            | Effect::Forget(job) => Some(*job),
            Effect::LimitsStored(..)
            | Effect::DataKeyStored(_)
            | Effect::BookStored(..)
            | Effect::AccessStored(..)
            | Effect::LookForJobs(_)
            | Effect::TenantDeleted(_)
            | Effect::ReadRequest { .. }
            | Effect::Audited(_) => None,
        }
    }

    /// Answers whoever waits for the effect that it will not come.
    pub(crate) fn fail(self, error: EngineError) {
        match self {
            Effect::Admit { reply, .. }
            | Effect::ReadRequest { reply, .. }
            | Effect::Reply(reply, _)
            | Effect::Updated(reply, _) => {
                answer(reply, Err(error));
            }
            Effect::AdmitTasks { reply, .. } | Effect::ReadChunk { reply, .. } => answer(reply, Err(error)),
            Effect::Select(_, admitted) => admitted.command.refuse(error),
            Effect::Acted(reply, _) => answer(reply, Err(error)),
            Effect::Deleted { reply, .. } => {
                if let Some(reply) = reply {
                    answer(reply, Err(error));
                }
            }
            Effect::LimitsStored(_, reply) => answer(reply, Err(error)),
            Effect::DataKeyStored(reply) => answer(reply, Err(error)),
            Effect::AccessStored(.., reply) => answer(reply, Err(error)),
            Effect::LookForJobs(deletion) | Effect::TenantDeleted(deletion) => answer(deletion.reply, Err(error)),
            Effect::Audited(reply) => answer(reply, Err(error)),
            Effect::AckPage(_, reply) => {
                let _ = reply.send(Err(Failure::retryable(FailureReason::Internal, error.to_string())));
            }
            Effect::BookStored(..)
            | Effect::Publish(..)
            | Effect::Notify(..)
            | Effect::Claimed(..)
            | Effect::StopAttempts(..)
            | Effect::Swept { .. }
            | Effect::Withdrawn { .. }
            | Effect::Hastened { .. }
            | Effect::PutBack { .. }
            | Effect::Purged { .. }
            | Effect::PutPartsAway(_)
            | Effect::Forget(_) => {}
        }
    }
}
