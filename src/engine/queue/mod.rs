//! Every task that memory holds, each in exactly one place.
//!
//! A task is in the page of its lane, or it is *held*: in front of its lane's page, backing off, waiting for a host or for
//! disk space, running, or leaving (ended, with the end on its way to the store). `held` of its job says where, and every
//! other structure is an index that follows from it. What memory does not hold can be found in the store, because a task
//! is let go only when the store shows it as it is: a read that began before that moment is filtered by what left since.
//!
//! The queue is plain data. It decides nothing about tasks, knows neither clock nor store nor network, and answers with
//! what the caller has to do: reads to make, heads of lanes to write, tasks whose time is over.

mod backoff;
mod check;
mod held_back;
mod jobs;
mod lane;
mod looks;
mod parking;
mod reads;
mod rotation;
pub(crate) mod task;
mod tight;
mod waiting;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use crate::engine::queue::lane::{Head, LaneRead};
pub(crate) use crate::engine::queue::rotation::{Admission, Hold, Standing};

use crate::engine::bounds::Bounds;
use crate::engine::queue::backoff::Backoffs;
use crate::engine::queue::lane::{Lane, Reading};
use crate::engine::queue::rotation::{Candidate, Rotation};
use crate::engine::queue::task::{BatchNumber, Held, HeldBack, Queued, Running, Wait};
use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, JobMap, TaskId, TaskIndex};
use crate::model::spec::TaskSpec;
use crate::model::time::Timestamp;
use crate::store::{DueTask, LaneNumber};

/// Lanes that may wait to be read before the others keep their turn.
const WANTED_MAX: usize = 16;

/// The tasks of one job.
#[derive(Debug, Default)]
struct JobQueue {
    lanes: Vec<Lane>,
    /// `None` while the job has few lanes, as nearly all jobs.
    #[allow(clippy::box_collection)] // A map takes six times as much where there is none.
    lane_of: Option<Box<HashMap<Host, LaneNumber>>>,
    held: BTreeMap<TaskIndex, Held>,
    /// Whether its tasks may be kept in memory before their turn.
    may_run: bool,
    /// Its tasks are being ended in the store, so that none comes into memory again.
    is_stopped: bool,
    /// The limit of time over all attempts of a task that does not set its own.
    task_timeout: Option<Duration>,
    misshared: Misshared,
}

/// By how much the shares of lanes in the tasks that only the store has were wrong, as reads have shown since these were shared out.
#[derive(Debug, Default)]
struct Misshared {
    /// What lanes were counted for and do not have, less what they had beyond their shares.
    tasks: i64,
    /// How many reads have shown it.
    reads: u32,
}

/// Every task that memory holds.
#[derive(Debug)]
pub(crate) struct Queue {
    rotation: Rotation,
    jobs: JobMap<Box<JobQueue>>,
    running: BTreeMap<TaskId, Running>,
    backoffs: Backoffs,
    waiting_for_hosts: BTreeMap<DueTask, HeldBack>,
    waiting_for_disk: BTreeMap<TaskId, HeldBack>,
    /// Those of which all is in memory, in the order in which they came, each with the batch that has its row. Some wait
    /// no more.
    whole: VecDeque<(BatchNumber, TaskId)>,
    /// Lanes that give no more because many tasks are held back in all.
    barred: BTreeSet<(JobId, LaneNumber)>,
    /// The ends of the times of waiting tasks that have begun, each with the lane of the task.
    deadlines: BTreeMap<(Timestamp, TaskId), LaneNumber>,
    /// Those that are over, of tasks of jobs to which nothing may happen at the moment, by job.
    overdue: BTreeMap<(JobId, Timestamp, TaskIndex), LaneNumber>,
    /// Tasks whose time is over and of which memory has only the wait: the store has to be asked for the rest.
    late_left: BTreeSet<TaskId>,
    /// Tasks that go before the others of their lane, of jobs that may not run, by the batch that has their rows: memory
    /// lets them go once that is durable.
    stopped: VecDeque<(BatchNumber, TaskId)>,
    /// Tasks that back off and were left to the store before it had their rows, with their lanes.
    left_early: Vec<(BatchNumber, TaskId, LaneNumber)>,
    /// The last batch that is durable.
    committed: BatchNumber,
    /// Lanes with a page in memory, by the number of its load.
    loaded: BTreeMap<u64, (JobId, LaneNumber)>,
    /// Lanes to be read, in the order in which their turn came: few, so that what is read is run before it has to make room
    /// for what is read after it.
    wanted: VecDeque<(JobId, LaneNumber)>,
    /// Lanes of which little is left in memory, or that were passed over, to be read when no other is.
    run_low: VecDeque<(JobId, LaneNumber)>,
    reads: usize,
    /// How many lanes there are.
    lanes: usize,
    /// The part of `bytes` that waits for hosts or for disk space.
    held_back_bytes: usize,
    /// Memory of all tasks that wait. Tasks that wait for something of their own are few and counted, but not dropped.
    bytes: usize,
    bounds: Bounds,
    /// A source of growing numbers: places in lanes, reads, loads.
    serial: u64,
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new(bounds: Bounds) -> Queue {
        Queue {
            rotation: Rotation::default(),
            jobs: JobMap::default(),
            running: BTreeMap::new(),
            backoffs: Backoffs::new(bounds.backoffs, bounds.queue_bytes / 4),
            waiting_for_hosts: BTreeMap::new(),
            waiting_for_disk: BTreeMap::new(),
            whole: VecDeque::new(),
            barred: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            overdue: BTreeMap::new(),
            late_left: BTreeSet::new(),
            stopped: VecDeque::new(),
            left_early: Vec::new(),
            committed: 0,
            loaded: BTreeMap::new(),
            wanted: VecDeque::new(),
            run_low: VecDeque::new(),
            reads: 0,
            lanes: 0,
            held_back_bytes: 0,
            bytes: 0,
            bounds,
            serial: 0,
        }
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    // Tasks in.

    /// Takes in tasks that are durable and that nothing has happened to: as many as there is room for, the rest is read when
    /// its turn comes.
    pub(crate) fn admit(
        &mut self,
        job: JobId,
        first: TaskIndex,
        tasks: impl Iterator<Item = (LaneNumber, Arc<TaskSpec>)>,
    ) {
        let (roomy, page) = (self.bytes < self.bounds.queue_bytes / 2, self.bounds.lane_page as usize);
        let mut fresh: Option<LaneNumber> = None;
        for (place, (number, spec)) in tasks.enumerate() {
            let index = first + place as TaskIndex;
            let serial = self.serial;
            let Some(queue) = self.jobs.get_mut(&job) else { return };
            let keep = queue.may_run && roomy;
            let Some(lane) = queue.lanes.get_mut(number as usize) else { continue };
            let all_in_memory = !lane.has_more_in_store() && lane.reading == Reading::Idle;
            if !lane.has_more_in_store() {
                lane.disk_from = index;
            }
            lane.disk_to = index + 1;
            if keep && all_in_memory && lane.page.len() < page {
                lane.disk_from = lane.disk_to;
                if lane.page.is_empty() {
                    lane.load = serial + 1;
                    self.serial += 1;
                    self.loaded.insert(lane.load, (job, number));
                }
                let task = Queued { index, lane: number, spec, row: None, cursor: None, waited_for: None, batch: 0 };
                self.bytes += task.bytes();
                lane.page.push_back(task);
            } else {
                lane.stores(1);
            }
            // Neighbours are mostly of one lane.
            if fresh.is_some_and(|last| last != number) {
                self.refresh(job, fresh.unwrap_or(number));
            }
            fresh = Some(number);
        }
        if let Some(number) = fresh {
            self.refresh(job, number);
        }
    }

    /// Puts a task before the others of its lane. Returns the lane's head if it has to be written, because the task is
    /// PENDING and a restart begins to read at the head.
    pub(crate) fn put_first(&mut self, job: JobId, task: Queued, is_pending: bool) -> Option<Head> {
        let head = if is_pending { self.lower_head(job, &task) } else { None };
        self.push_again(job, task);
        head
    }

    fn push_again(&mut self, job: JobId, task: Queued) {
        let serial = self.serial();
        let (number, index) = (task.lane, task.index);
        self.add_waiting(job, &task);
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        if !queue.may_run {
            self.stopped.push_back((task.batch, TaskId { job, index }));
        }
        let Some(lane) = queue.lanes.get_mut(number as usize) else { return };
        queue.held.insert(index, Held::Again(number, serial));
        lane.again.insert(serial, task);
        self.refresh(job, number);
    }

    fn lower_head(&mut self, job: JobId, task: &Queued) -> Option<Head> {
        let lane = self.jobs.get_mut(&job)?.lanes.get_mut(task.lane as usize)?;
        lane.lower_head(task.index).then_some((job, task.lane, task.index))
    }

    /// Counts a task among those that wait in memory.
    fn add_waiting(&mut self, job: JobId, task: &Queued) {
        self.bytes += task.bytes();
        if let Some(deadline) = self.deadline(job, task) {
            self.deadlines.insert((deadline, TaskId { job, index: task.index }), task.lane);
        }
    }

    fn sub_waiting(&mut self, job: JobId, task: &Queued) {
        self.bytes = self.bytes.saturating_sub(task.bytes());
        if let Some(deadline) = self.deadline(job, task) {
            self.remove_deadline(TaskId { job, index: task.index }, deadline);
        }
    }

    fn remove_deadline(&mut self, id: TaskId, deadline: Timestamp) {
        if self.deadlines.remove(&(deadline, id)).is_none() {
            self.overdue.remove(&(id.job, deadline, id.index));
        }
    }

    fn deadline(&self, job: JobId, task: &Queued) -> Option<Timestamp> {
        task.row.as_ref()?;
        task.deadline(self.jobs.get(&job)?.task_timeout)
    }

    // Tasks out.

    /// Takes a waiting task out of wherever it is. `None`: it does not wait, or memory has nothing of it but the wait.
    fn take(&mut self, id: TaskId) -> Option<Queued> {
        let queue = self.jobs.get_mut(&id.job)?;
        let held = *queue.held.get(&id.index)?;
        let task = match held {
            Held::Again(number, place) => queue.lanes.get_mut(number as usize)?.again.remove(&place)?,
            Held::Backoff(entry) => self.backoffs.remove(&entry)?.task,
            Held::Host(number, entry) => return self.take_held_back(id, number, Some(&entry)),
            Held::Disk(number) => return self.take_held_back(id, number, None),
            Held::Running | Held::Leaving(_) => return None,
        };
        self.let_go(id, &task);
        self.refresh(id.job, task.lane);
        Some(task)
    }

    /// Memory holds the task no more.
    fn let_go(&mut self, id: TaskId, task: &Queued) {
        self.sub_waiting(id.job, task);
        self.unhold(id, task.lane);
    }

    fn unhold(&mut self, id: TaskId, number: LaneNumber) {
        self.backoffs.left(id);
        let Some(queue) = self.jobs.get_mut(&id.job) else { return };
        queue.held.remove(&id.index);
        if let Some(lane) = queue.lanes.get_mut(number as usize) {
            lane.left(id.index);
        }
    }

    /// Chooses the next task. `admit` judges a candidate by its job, its host, of whose room so much is promised to others,
    /// and, if it is in memory, the task. A lane of which no task is in memory is noted to be read, one that is passed over only
    /// where no other waits for a read.
    pub(crate) fn pick(
        &mut self,
        mut admit: impl FnMut(JobId, &Host, u32, Option<&Queued>) -> Admission,
    ) -> Option<(JobId, Queued)> {
        loop {
            let mut aside = Vec::new();
            let picked = self.pick_once(&mut admit, &mut aside);
            let has_more = picked.is_none() && !aside.is_empty();
            for (job, lane, wait) in aside {
                if let Some(task) = self.take_next(job, lane) {
                    self.hold_back(job, task, wait);
                }
                self.refresh(job, lane);
            }
            if !has_more {
                return picked;
            }
        }
    }

    /// Picks a task. Lanes whose next task is to be put aside are added to `aside`.
    fn pick_once(
        &mut self,
        admit: &mut impl FnMut(JobId, &Host, u32, Option<&Queued>) -> Admission,
        aside: &mut Vec<(JobId, LaneNumber, Wait)>,
    ) -> Option<(JobId, Queued)> {
        let held_back = self.held_back_max();
        let Self { rotation, jobs, wanted, run_low, barred, bounds, .. } = self;
        let (job, number) = rotation.pick(|Candidate { job, lane: number, host, kept }| {
            let lane = jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize));
            let Some(lane) = lane else { return Admission::Empty };
            if lane.held_back.len() >= held_back {
                if lane.is_barred(held_back, bounds.held_back) {
                    barred.insert((job, number));
                }
                return Admission::Empty;
            }
            let admission = admit(job, host, kept, lane.next());
            if let Admission::Aside(wait) = &admission {
                aside.push((job, number, wait.clone()));
                return admission;
            }
            if admission == Admission::Behind {
                // One that may start may be in the store. It is looked for when nobody else reads anything.
                let is_idle = lane.reading == Reading::Idle && wanted.is_empty() && run_low.is_empty();
                if is_idle && lane.next().is_none() && lane.has_more_in_store() {
                    lane.reading = Reading::Wanted;
                    run_low.push_back((job, number));
                }
                return admission;
            }
            if admission != Admission::Empty || !lane.has_more_in_store() {
                return admission;
            }
            if !matches!(lane.reading, Reading::UnderWay(_)) {
                if wanted.len() >= WANTED_MAX {
                    return Admission::Later;
                }
                lane.reading = Reading::Wanted;
                wanted.push_back((job, number));
            }
            lane.is_next = true;
            Admission::Read
        })?;
        let task = self.take_next(job, number);
        if task.is_none() {
            self.rotation.unpick(job, number);
        }
        self.refresh(job, number);
        Some((job, task?))
    }

    fn take_next(&mut self, job: JobId, number: LaneNumber) -> Option<Queued> {
        let lane = self.jobs.get_mut(&job)?.lanes.get_mut(number as usize)?;
        if let Some(task) = lane.again.first_key_value().map(|(_, task)| task.index) {
            return self.take(TaskId { job, index: task });
        }
        let task = lane.page.pop_front()?;
        self.left_page(job, &task);
        Some(task)
    }

    /// A task of the page of its lane is there no more.
    fn left_page(&mut self, job: JobId, task: &Queued) {
        self.sub_waiting(job, task);
        let lane = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(task.lane as usize));
        if let Some(lane) = lane.filter(|lane| lane.page.is_empty()) {
            self.loaded.remove(&lane.load);
            lane.ran_out();
        }
    }

    /// Gives back a task that was picked and does not start: its permit was lost, or its time is over.
    pub(crate) fn unpick(&mut self, job: JobId, lane: LaneNumber) {
        self.rotation.unpick(job, lane);
    }

    /// Notes that an attempt at a picked task runs. A task that is held already is not started again.
    pub(crate) fn start(&mut self, id: TaskId, running: Running) -> Result<(), Held> {
        let Some(queue) = self.jobs.get_mut(&id.job) else { return Ok(()) };
        if let Some(held) = queue.held.get(&id.index) {
            return Err(*held);
        }
        queue.held.insert(id.index, Held::Running);
        self.running.insert(id, running);
        Ok(())
    }

    /// As [`Queue::start`], for a task that was not picked: its attempt has run since before its job was read again.
    pub(crate) fn start_unpicked(&mut self, id: TaskId, running: Running) -> Result<(), Held> {
        self.start(id, running)?;
        self.rotation.runs(id.job);
        Ok(())
    }

    /// Takes out a running task whose attempt has ended. `None`: the attempt is not the task's current one.
    ///
    /// The caller must put the task back, or say that it is leaving, before anything else happens.
    pub(crate) fn attempt_ended(&mut self, id: TaskId, fence: Fence) -> Option<Running> {
        if self.running.get(&id)?.fence != fence {
            return None;
        }
        let running = self.running.remove(&id)?;
        self.rotation.ended(id.job);
        self.unhold(id, running.lane);
        Some(running)
    }

    /// Notes that a task has ended or is left to the store, which has it as it is once batch `batch` is durable.
    pub(crate) fn leaving(&mut self, id: TaskId, batch: BatchNumber) {
        if let Some(queue) = self.jobs.get_mut(&id.job) {
            queue.held.insert(id.index, Held::Leaving(batch));
        }
    }

    /// Notes that a batch is durable, with the ends of these tasks.
    pub(crate) fn committed(&mut self, batch: BatchNumber, ended: &[(TaskId, LaneNumber)]) {
        self.committed = self.committed.max(batch);
        self.backoffs.committed(batch);
        self.let_stopped_go(batch);
        self.leave_held_back(batch);
        let durable = self.left_early.extract_if(.., |(of, ..)| *of <= batch).collect::<Vec<_>>();
        for (of, id, lane) in durable {
            self.left_with(of, id, lane);
        }
        for (id, lane) in ended {
            self.left_with(batch, *id, *lane);
        }
    }

    /// A task that was leaving with batch `batch` has left.
    fn left_with(&mut self, batch: BatchNumber, id: TaskId, lane: LaneNumber) {
        let held = self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index));
        if held == Some(&Held::Leaving(batch)) {
            self.unhold(id, lane);
        }
    }

    /// Tells the rotation that a lane has work, and reads ahead.
    fn refresh(&mut self, job: JobId, number: LaneNumber) {
        let held_back = self.held_back_max();
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = queue.lanes.get_mut(number as usize) else { return };
        lane.shrink();
        if !lane.has_more_in_store() {
            lane.stored = 0;
        }
        self.rotation.set_waiting(job, number, lane.waiting());
        let (roomy, page) = (self.bytes < self.bounds.queue_bytes / 4 * 3, self.bounds.lane_page as usize);
        let runs_low = !lane.page.is_empty() && lane.page.len() < page / 2;
        if roomy && runs_low && queue.may_run && lane.has_more_in_store() && lane.reading == Reading::Idle {
            lane.reading = Reading::Wanted;
            self.run_low.push_back((job, number));
        }
        if lane.is_barred(held_back, self.bounds.held_back) {
            self.barred.insert((job, number));
        } else if lane.has_work(held_back) {
            if std::mem::take(&mut lane.is_next) {
                self.rotation.has_read(job, number);
            } else {
                self.rotation.has_work(job, number);
            }
        }
    }
}

#[cfg(test)]
mod tests;
