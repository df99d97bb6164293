//! What the scheduler holds of jobs, lanes and running tasks.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use url::Url;

use crate::limits::transport::JobRates;
use crate::model::host::Host;
use crate::model::ids::{Fence, TaskIndex};
use crate::model::job::{Job, Stop};
use crate::model::spec::{TaskSpec, Work};
use crate::model::time::Timestamp;
use crate::store::{LaneNumber, StoredTask, TaskRow};

/// Tasks of a lane that are in memory: as many as are read at once, so that memory goes with lanes and not with tasks.
pub(crate) const LANE_PAGE: u32 = 256;

/// Tasks of a lane that may be shelved before the lane gives no more: those behind them would most likely come to wait for
/// the same, one by one, in memory and at the cost of a request each.
pub(crate) const SHELVED_MAX: usize = 256;

/// A task that waits in memory.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) index: TaskIndex,
    pub(crate) spec: Arc<TaskSpec>,
    /// `None`: nothing happened to it yet.
    pub(crate) row: Option<Box<TaskRow>>,
}

impl From<StoredTask> for Queued {
    fn from(task: StoredTask) -> Self {
        let row = (task.row != TaskRow::default()).then(|| Box::new(task.row));
        Queued { index: task.index, spec: task.spec, row }
    }
}

/// The tasks of one job for one host.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) host: Host,
    /// Given back, due again or recovered: before all others.
    pub(crate) again: VecDeque<Queued>,
    /// Fresh ones in order.
    pub(crate) page: VecDeque<Queued>,
    /// PENDING and not in their turn; see [`Shelf`].
    pub(crate) shelved: BTreeSet<TaskIndex>,
    /// From here on fresh ones are on disk only.
    pub(crate) disk_from: TaskIndex,
    /// Up to here (excluded) there may be some.
    pub(crate) disk_to: TaskIndex,
    /// A read is under way, or must not begin yet.
    pub(crate) loading: bool,
    /// Which read that is: one of an earlier life of the job is not taken.
    pub(crate) read_number: u64,
    /// What was durable when it began: up to here (excluded) it finds everything.
    pub(crate) read_to: TaskIndex,
    /// What the store knows as its head.
    pub(crate) stored_head: TaskIndex,
}

impl Lane {
    pub(crate) fn new(host: Host) -> Lane {
        Lane {
            host,
            again: VecDeque::new(),
            page: VecDeque::new(),
            shelved: BTreeSet::new(),
            disk_from: 0,
            disk_to: 0,
            loading: false,
            read_number: 0,
            read_to: 0,
            stored_head: 0,
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.again.is_empty() || !self.page.is_empty()
    }

    /// Whether so many of its tasks wait for something of their own that the others are held back.
    pub(crate) fn is_held(&self) -> bool {
        self.shelved.len() >= SHELVED_MAX
    }

    pub(crate) fn next(&mut self) -> Option<Queued> {
        self.again.pop_front().or_else(|| self.page.pop_front())
    }

    /// Whether it is time to read more.
    pub(crate) fn wants_page(&self) -> bool {
        !self.loading && self.disk_from < self.disk_to && self.page.len() < LANE_PAGE as usize / 2
    }

    /// Lowers the stored head to a task that is PENDING again; says whether that has to be written.
    pub(crate) fn lower_head(&mut self, index: TaskIndex) -> bool {
        let lower = index < self.stored_head;
        self.stored_head = self.stored_head.min(index);
        lower
    }

    /// The index before which nothing of it is PENDING.
    pub(crate) fn head(&self) -> TaskIndex {
        let again = self.again.iter().map(|task| task.index).min();
        let page = self.page.front().map(|task| task.index);
        let shelved = self.shelved.first().copied();
        again.into_iter().chain(page).chain(shelved).chain([self.disk_from]).min().unwrap_or(self.disk_from)
    }
}

/// A sweep of waiting tasks that is under way.
#[derive(Debug, Default)]
pub(crate) struct Sweeping {
    pub(crate) from_pending: TaskIndex,
    pub(crate) from_backing_off: TaskIndex,
    /// A part of it is being committed.
    pub(crate) in_flight: bool,
}

/// A job that has not ended.
#[derive(Debug)]
pub(crate) struct JobRun {
    pub(crate) job: Job,
    pub(crate) rates: Arc<JobRates>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) lane_of: HashMap<Host, LaneNumber>,
    /// Its running tasks.
    pub(crate) running: BTreeSet<TaskIndex>,
    pub(crate) sweeping: Option<Sweeping>,
    /// Its part files are being put away; the end follows.
    pub(crate) settling: bool,
    /// The commit with its end is under way: nothing more happens to it.
    pub(crate) ended: bool,
}

impl JobRun {
    pub(crate) fn new(job: Job) -> JobRun {
        JobRun {
            rates: Arc::new(JobRates::new(job.spec.rate_limit)),
            job,
            lanes: Vec::new(),
            lane_of: HashMap::new(),
            running: BTreeSet::new(),
            sweeping: None,
            settling: false,
            ended: false,
        }
    }

    /// Whether attempts may start at `now`.
    pub(crate) fn may_run(&self, now: Timestamp) -> bool {
        self.job.may_run() && !self.settling && !self.ended && self.job.spec.start_time.is_none_or(|start| start <= now)
    }

    /// The hosts of the mirrors of the task that a lane would give next.
    pub(crate) fn mirrors_of_next(&self, lane: LaneNumber) -> Vec<Host> {
        let next = self.lanes.get(lane as usize).and_then(|lane| lane.again.front().or_else(|| lane.page.front()));
        let Some(Work::Download(spec)) = next.map(|queued| &queued.spec.work) else { return Vec::new() };
        spec.mirrors.iter().filter_map(|url| Host::of(&Url::parse(url).ok()?)).collect()
    }

    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.job.sequence += 1;
        self.job.sequence
    }
}

/// Why an attempt is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The server shuts down.
    Drain,
    /// The job is paused.
    Pause,
    /// The job's tasks end.
    Stop(Stop),
}

/// A running attempt.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) fence: Fence,
    pub(crate) lane: LaneNumber,
    pub(crate) spec: Arc<TaskSpec>,
    /// With the attempt started.
    pub(crate) row: TaskRow,
    pub(crate) attempt_start: Timestamp,
    pub(crate) stop: CancellationToken,
    /// The first cause wins.
    pub(crate) cause: Arc<OnceLock<Cause>>,
}

impl Running {
    pub(crate) fn stop(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }
}

/// A task that waits for its next attempt.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) lane: LaneNumber,
    pub(crate) task: Queued,
    pub(crate) due: Timestamp,
    /// Why, when it is not its retry policy's backoff: then it is PENDING.
    pub(crate) shelf: Option<Shelf>,
}

/// Why an attempt that had begun was given back, and when the task looks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    /// There was no room on the disk.
    Disk(Timestamp),
    /// A host that it came to, by a redirect or as a mirror, is left alone.
    Host(Timestamp, String),
}

impl Shelf {
    pub(crate) fn due(&self) -> Timestamp {
        match self {
            Shelf::Disk(due) | Shelf::Host(due, _) => *due,
        }
    }
}
