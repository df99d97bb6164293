//! What the scheduler reads while it goes on: pages of lanes, tasks that are due, part files to put away.

use std::collections::BTreeSet;

use crate::engine::scheduler::Scheduler;
use crate::engine::state::{LANE_PAGE, Queued, Waiting};
use crate::engine::timers::Timer;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::store::{DueTask, LaneNumber, StoreError, StoredTask};

/// Tasks that back off in memory. A million of them cost disk, and these some tens of megabytes at most.
const WAITING_MAX: usize = 20_000;

/// Which tasks that back off are in memory.
#[derive(Debug, Default)]
pub(crate) struct DueState {
    /// All that are due up to here are in memory; `None`: all are.
    horizon: Option<DueTask>,
    /// Those in memory, by time.
    there: BTreeSet<DueTask>,
    /// Some went beyond the horizon since the last read began.
    overflowed: bool,
    loading: bool,
}

impl DueState {
    /// Nothing is in memory, and the store has not been asked yet.
    pub(crate) fn unknown() -> DueState {
        let first = DueTask { due: Timestamp(i64::MIN), id: TaskId { job: JobId(uuid::Uuid::nil()), index: 0 } };
        DueState { horizon: Some(first), ..DueState::default() }
    }
}

/// A finished read.
pub(crate) enum Read {
    Lane(JobId, LaneNumber, u64, Result<Vec<StoredTask>, StoreError>),
    Due(Result<Vec<(DueTask, StoredTask)>, StoreError>, bool),
    /// The part files of a job are out of the way.
    PartsAway(JobId),
    /// Jobs whose time to be kept is over, and jobs that are marked deleted.
    Housekeeping(Result<(Vec<JobId>, Vec<JobId>), StoreError>),
    /// Nothing follows.
    Done,
}

impl Scheduler {
    pub(crate) fn read_lane(&mut self, job: JobId, number: LaneNumber) {
        self.lane_reads += 1;
        let read = self.lane_reads;
        let Some(lane) = self.jobs.get_mut(&job).and_then(|run| run.lanes.get_mut(number as usize)) else { return };
        lane.read_number = read;
        lane.read_to = lane.disk_to;
        let (store, from) = (self.runner.store.clone(), lane.disk_from);
        self.reads
            .spawn(async move { Read::Lane(job, number, read, store.lane_page(job, number, from, LANE_PAGE).await) });
    }

    pub(crate) fn read_done(&mut self, read: Result<Read, tokio::task::JoinError>) -> Result<(), StoreError> {
        match read.map_err(|error| StoreError::Fatal(format!("a read was lost: {error}")))? {
            Read::Lane(job, lane, read, tasks) => self.lane_read(job, lane, read, tasks?),
            Read::Due(tasks, complete) => self.due_read(tasks?, complete),
            Read::PartsAway(job) => self.settled(job),
            Read::Done => {}
            Read::Housekeeping(jobs) => {
                let (expired, deleted) = jobs?;
                self.housekept(expired, deleted);
            }
        }
        Ok(())
    }

    fn lane_read(&mut self, job: JobId, number: LaneNumber, read: u64, tasks: Vec<StoredTask>) {
        let Some(run) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = run.lanes.get_mut(number as usize) else { return };
        if !lane.loading || lane.read_number != read {
            return;
        }
        lane.loading = false;
        if run.job.stop.is_some() {
            return;
        }
        // A short page is the end of what was durable when the read began; what was added since is read next time.
        match tasks.last() {
            Some(last) if tasks.len() == LANE_PAGE as usize => lane.disk_from = last.index + 1,
            last => lane.disk_from = last.map_or(lane.disk_from, |last| last.index + 1).max(lane.read_to),
        }
        lane.page.extend(tasks.into_iter().map(Queued::from));
        let head = lane.head();
        if head > lane.stored_head {
            lane.stored_head = head;
            self.pending.batch.lane_heads.push((job, number, head));
        }
        self.refill(job, number);
    }

    /// Lets a task wait for its next attempt: in memory, or on disk alone when there are too many.
    pub(crate) fn wait_until(&mut self, id: TaskId, lane: LaneNumber, task: Queued, due: Timestamp) {
        let entry = DueTask { due, id };
        if self.due.horizon.is_some_and(|horizon| entry > horizon) {
            self.due.overflowed = true;
            return;
        }
        self.insert_waiting(entry, lane, task);
        if self.due.there.len() > WAITING_MAX
            && let Some(last) = self.due.there.pop_last()
        {
            self.waiting.remove(&last.id);
            self.due.horizon = self.due.there.last().copied();
            self.due.overflowed = true;
        }
    }

    fn insert_waiting(&mut self, entry: DueTask, lane: LaneNumber, task: Queued) {
        self.due.there.insert(entry);
        self.timers.add(entry.due, Timer::TaskDue(entry.id));
        self.waiting.insert(entry.id, Waiting { lane, task, due: entry.due, shelf: None });
    }

    /// A wait is over: the task goes before the others of its lane.
    pub(crate) fn task_due(&mut self, id: TaskId, now: Timestamp) {
        if let Some(waiting) = self.waiting.remove(&id) {
            if waiting.due > now {
                self.waiting.insert(id, waiting);
                return;
            }
            self.due.there.remove(&DueTask { due: waiting.due, id });
            let Some(run) = self.jobs.get_mut(&id.job) else { return };
            if let Some(lane) = run.lanes.get_mut(waiting.lane as usize) {
                lane.shelved.remove(&id.index);
                lane.again.push_back(waiting.task);
                self.lanes.has_work(id.job, waiting.lane);
            }
        }
        self.read_due();
    }

    /// Reads the next tasks that back off, when there are some on disk alone and there is room for them.
    pub(crate) fn read_due(&mut self) {
        if self.due.loading || self.due.horizon.is_none() || self.due.there.len() > WAITING_MAX / 2 {
            return;
        }
        self.due.loading = true;
        self.due.overflowed = false;
        let (store, after) = (self.runner.store.clone(), self.due.horizon);
        self.reads.spawn(async move {
            let limit = WAITING_MAX as u32 / 4;
            let read = async {
                let due = store.due_tasks(after, limit).await?;
                let complete = due.len() < limit as usize;
                let mut tasks = Vec::with_capacity(due.len());
                for entry in due {
                    if let Some(task) = store.task(entry.id).await? {
                        tasks.push((entry, task));
                    }
                }
                Ok((tasks, complete))
            };
            match read.await {
                Ok((tasks, complete)) => Read::Due(Ok(tasks), complete),
                Err(error) => Read::Due(Err(error), false),
            }
        });
    }

    fn due_read(&mut self, tasks: Vec<(DueTask, StoredTask)>, complete: bool) {
        self.due.loading = false;
        if let Some((last, _)) = tasks.last() {
            self.due.horizon = Some(*last);
        }
        if complete && !self.due.overflowed {
            self.due.horizon = None;
        }
        for (entry, task) in tasks {
            // It may have moved since the store was read, and it may be in memory already.
            let waits = task.row.task.state == TaskState::BackingOff && !self.waiting.contains_key(&entry.id);
            let host = host_of(&task);
            let is_stopped = self.jobs.get(&entry.id.job).is_none_or(|run| run.job.stop.is_some());
            if !waits || is_stopped || self.running.contains_key(&entry.id) {
                continue;
            }
            if let Some((lane, _)) = host.and_then(|host| self.lane_for(entry.id.job, &host)) {
                self.insert_waiting(entry, lane, Queued::from(task));
            }
        }
        self.read_due();
    }

    /// Puts the part files of an ending job where nobody sees them, for a retry.
    pub(crate) fn put_parts_away(&mut self, job: JobId) {
        let Some(directory) = self.jobs.get(&job).map(|run| run.job.directory()) else { return };
        let parts = self.runner.parts.clone();
        self.reads.spawn(async move {
            parts.put_away(job, &directory).await;
            Read::PartsAway(job)
        });
    }
}

/// The host whose lane a task belongs to: that of its first URL.
pub(crate) fn host_of(task: &StoredTask) -> Option<Host> {
    Host::of(&url::Url::parse(task.spec.work.url()).ok()?)
}
