//! An attempt on its way to a transfer thread and back: plain values, and the port through which it keeps its pages.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::engine::credentials::InUse;
use crate::limits::permits::{AttemptPlace, HostPermit};
use crate::limits::transport::JobRates;
use crate::model::credential::echo::Echo;
use crate::model::failure::Failure;
use crate::model::ids::{Fence, TaskId};
use crate::model::outcome::{AttemptEnd, AttemptReport};
use crate::model::progress::Meter;
use crate::model::spec::{Options, TaskSpec};
use crate::model::storage::StorageHold;
use crate::model::tenant::{Owner, Party};
use crate::model::time::Timestamp;
use crate::net::CredentialSource as _;
use crate::store::NewPage;

/// An attempt to be made.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) id: TaskId,
    pub(crate) fence: Fence,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) options: Options,
    pub(crate) directory: String,
    /// The tenant that the task is of.
    pub(crate) tenant: Owner,
    /// For whom it is made.
    pub(crate) party: Party,
    pub(crate) rates: Arc<JobRates>,
    /// Those of the tenant, where it has some.
    pub(crate) tenant_rates: Option<Arc<JobRates>>,
    pub(crate) permit: Mutex<Option<HostPermit>>,
    pub(crate) place: Arc<AttemptPlace>,
    pub(crate) stop: CancellationToken,
    /// See [`crate::engine::queue::task::Running::rest`].
    pub(crate) rest: CancellationToken,
    pub(crate) meter: Arc<Meter>,
    /// What it holds of the storage of its tenant.
    pub(crate) storage: Arc<StorageHold>,
    pub(crate) attempt_start: Timestamp,
    /// Since when it waits for hosts that it comes to.
    pub(crate) since: Timestamp,
    /// The start of the task's first attempt.
    pub(crate) first_start: Timestamp,
    /// Cancelled once the store knows of the attempt.
    pub(crate) stored: CancellationToken,
    /// Whether there were attempts before, so that something of them may be kept.
    pub(crate) has_history: bool,
    /// Whether it is the first since the task was added, or retried by `RetryJob`.
    pub(crate) is_first: bool,
    /// Whether none follows if it fails.
    pub(crate) is_last: bool,
    /// Where a listing goes on, if memory knows; else the store has it.
    pub(crate) cursor: Option<Arc<str>>,
    /// The credential that it names, or why it may not use that.
    pub(crate) credential: Option<Result<Arc<InUse>, Failure>>,
}

impl Launch {
    /// What must not come back.
    pub(crate) fn echo(&self) -> Option<&Arc<Echo>> {
        self.credential.as_ref()?.as_ref().ok()?.echo()
    }
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) id: TaskId,
    pub(crate) fence: Fence,
    pub(crate) end: AttemptEnd,
    pub(crate) report: AttemptReport,
    /// The body of a fetch, to be stored together with its end.
    pub(crate) body: Option<NewPage>,
}

/// Keeps pages of running fetches.
pub(crate) trait KeepPages: Send + Sync {
    /// Stores a page. It is durable when this returns; an error means that the attempt must stop.
    fn keep(&self, id: TaskId, fence: Fence, page: NewPage) -> BoxFuture<'_, Result<(), Failure>>;
}
