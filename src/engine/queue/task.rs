//! Tasks as memory holds them, by where they are.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::failure::TaskError;
use crate::model::host::Host;
use crate::model::ids::{Fence, TaskId, TaskIndex};
use crate::model::job::Stop;
use crate::model::outcome::ShortOf;
use crate::model::spec::TaskSpec;
use crate::model::storage::StorageHold;
use crate::model::time::Timestamp;
use crate::store::{DueTask, LaneNumber, StoredTask, TaskRow};

/// The number of a batch of the outbox, from 1. Batch 0 stands for what was read from the store.
pub(crate) type BatchNumber = u64;

/// A task that waits in memory for an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) index: TaskIndex,
    pub(crate) lane: LaneNumber,
    pub(crate) spec: Arc<TaskSpec>,
    /// `None`: nothing has happened to the task yet.
    pub(crate) row: Option<Box<TaskRow>>,
    /// The place where a listing goes on, as of the last page that was accepted. The store may not show that page yet,
    /// so an attempt must not ask the store while memory knows better.
    pub(crate) cursor: Option<Arc<str>>,
    /// The host whose pause it has waited for since an attempt came to it: the next one begins there, if it can.
    pub(crate) waited_for: Option<Host>,
    /// The batch that has the task's row as it is here.
    pub(crate) batch: BatchNumber,
}

impl From<StoredTask> for Queued {
    fn from(task: StoredTask) -> Self {
        let StoredTask { index, lane, spec, row } = task;
        let row = (row != TaskRow::default()).then(|| Box::new(row));
        Queued { index, lane, spec, row, cursor: None, waited_for: None, batch: 0 }
    }
}

impl Queued {
    /// The memory that the task takes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.spec.memory_bytes() + self.row.as_ref().map_or(0, |row| row.memory_bytes())
    }

    /// When the task's time over all attempts ends, with `default` for a task that sets no limit of its own.
    pub(crate) fn deadline(&self, default: Option<Duration>) -> Option<Timestamp> {
        let first = self.row.as_ref()?.task.start_time?;
        Some(first.plus(self.spec.options.timeouts.task.or(default)?))
    }
}

/// What a task waits for before its next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The backoff of its retry policy; the task is `BACKING_OFF`.
    Backoff(Timestamp),
    /// The end of the pause of a host that an attempt came to by a redirect or a mirror; the task is PENDING.
    Host {
        /// When it ends.
        until: Timestamp,
        /// The host that is paused; `None` where it is something else that takes as long.
        host: Option<Host>,
        /// A text for people.
        message: String,
    },
    /// The end, or the beginning for that long, of another task that may have brought the server down as this one may; the task is
    /// PENDING.
    Apart(Timestamp),
    /// Free disk space, or room within what the tenant may store; the task is PENDING.
    Disk {
        /// Which of them.
        of: ShortOf,
        /// The directory, relative to the download root, on whose file system it is needed.
        folder: String,
        /// How much is needed.
        bytes: u64,
        /// A text for people.
        message: String,
    },
}

/// A task that waits for something of its own.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) task: Queued,
    pub(crate) wait: Wait,
}

/// The memory of a task of which only the wait is kept, with its entries in all indexes, in bytes, roughly.
pub(crate) const LEFT_BYTES: usize = 384;

/// A task that is held back.
#[derive(Clone, Debug)]
pub(crate) struct HeldBack {
    pub(crate) kept: Kept,
    pub(crate) wait: Wait,
}

/// What memory has of such a task.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    Whole(Queued),
    /// The rest is in the store.
    Left {
        lane: LaneNumber,
        deadline: Option<Timestamp>,
    },
}

impl HeldBack {
    pub(crate) fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Whole(task) => task.bytes(),
            Kept::Left { .. } => LEFT_BYTES,
        }
    }
}

/// The cause for which an attempt is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The server shuts down.
    Drain,
    /// The job is paused.
    Pause,
    /// The tasks of the job are being ended.
    Stop(Stop),
    /// Memory and store disagree about the job, so memory reads it again.
    Reload,
    /// Somebody has cancelled the task.
    Withdrawn,
}

/// A running attempt.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) fence: Fence,
    pub(crate) lane: LaneNumber,
    pub(crate) spec: Arc<TaskSpec>,
    /// The row with the attempt started.
    pub(crate) row: TaskRow,
    pub(crate) attempt_start: Timestamp,
    /// Stops the attempt at once.
    pub(crate) stop: CancellationToken,
    /// Below `stop`: stops the attempt as soon as that loses nothing. A request that must not be sent twice goes on to its
    /// end.
    pub(crate) rest: CancellationToken,
    /// The first cause wins.
    pub(crate) cause: Arc<OnceLock<Cause>>,
    /// See [`Queued::cursor`].
    pub(crate) cursor: Option<Arc<str>>,
    /// What it holds of the storage of its tenant, until that is counted for its job.
    pub(crate) storage: Arc<StorageHold>,
    /// Somebody has cancelled the task: it ends with this, however its attempt ends, unless that has succeeded.
    pub(crate) withdrawn: Option<TaskError>,
}

impl Running {
    /// Stops the attempt. Its end comes like any other.
    pub(crate) fn stop(&self, cause: Cause) {
        let is_wanted_no_more = matches!(cause, Cause::Stop(_) | Cause::Withdrawn);
        let _ = self.cause.set(cause);
        if is_wanted_no_more { self.stop.cancel() } else { self.rest.cancel() }
    }

    /// Stops the attempt, which was asked to rest, whatever it has under way.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
    }
}

/// Where a task is that memory holds outside the page of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// In front of its lane's page, at this place of the lane's order.
    Again(LaneNumber, u64),
    /// Backing off.
    Backoff(DueTask),
    /// Waiting for the end of a host's pause.
    Host(LaneNumber, DueTask),
    /// Waiting for disk space.
    Disk(LaneNumber),
    /// Running.
    Running,
    /// Ended, with the end in this batch: until that is durable, the store may still show the task as one that can run.
    Leaving(BatchNumber),
}

/// The name of a task of `job` by its due time.
pub(crate) fn due_task(due: Timestamp, id: TaskId) -> DueTask {
    DueTask { due, id }
}
