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
mod lane;
mod reads;
mod rotation;
pub(crate) mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use crate::engine::queue::backoff::DUE_PAGE;
pub(crate) use crate::engine::queue::lane::{Head, LANE_PAGE, LaneRead};
pub(crate) use crate::engine::queue::rotation::{Admission, Hold};

use crate::engine::queue::backoff::Backoffs;
use crate::engine::queue::lane::{HELD_BACK_MAX, Lane, Reading};
use crate::engine::queue::rotation::Rotation;
use crate::engine::queue::task::{BatchNumber, Held, Queued, Running, Wait, Waiting, due_task};
use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::spec::TaskSpec;
use crate::model::time::Timestamp;
use crate::store::{DueTask, LaneNumber};

/// Lanes of a job up to which a host is looked for one by one, which is smaller and as quick.
const FEW_LANES: usize = 8;
/// The tasks of one job.
#[derive(Debug, Default)]
struct JobQueue {
    lanes: Vec<Lane>,
    /// Empty while the job has few lanes.
    lane_of: HashMap<Host, LaneNumber>,
    held: BTreeMap<TaskIndex, Held>,
    /// Whether its tasks may be kept in memory before their turn.
    may_run: bool,
    /// The limit of time over all attempts of a task that does not set its own.
    task_timeout: Option<Duration>,
}

/// Every task that memory holds.
#[derive(Debug)]
pub(crate) struct Queue {
    rotation: Rotation,
    jobs: HashMap<JobId, JobQueue>,
    running: HashMap<TaskId, Running>,
    backoffs: Backoffs,
    waiting_for_hosts: BTreeMap<DueTask, Waiting>,
    waiting_for_disk: BTreeMap<TaskId, Waiting>,
    /// The ends of the times of waiting tasks that have begun.
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    /// Lanes with a page in memory by the time of its load, oldest first; an entry whose number is not the lane's is old.
    loaded: VecDeque<(JobId, LaneNumber, u64)>,
    /// Lanes to be read, in the order in which their turn came.
    wanted: VecDeque<(JobId, LaneNumber)>,
    reads: usize,
    /// Memory of all tasks that wait, and what it may be. Tasks that wait for something of their own are few and counted,
    /// but not dropped.
    bytes: usize,
    bytes_max: usize,
    /// A source of growing numbers: places in lanes, reads, loads.
    serial: u64,
}

impl JobQueue {
    fn lane(&self, host: &Host) -> Option<LaneNumber> {
        if self.lane_of.is_empty() {
            return self.lanes.iter().position(|lane| lane.host == *host).map(|number| number as LaneNumber);
        }
        self.lane_of.get(host).copied()
    }

    fn add_lane(&mut self, host: Host) -> LaneNumber {
        let number = self.lanes.len() as LaneNumber;
        self.lanes.push(Lane::new(host.clone()));
        if self.lanes.len() == FEW_LANES + 1 {
            self.lane_of =
                self.lanes.iter().enumerate().map(|(number, lane)| (lane.host.clone(), number as LaneNumber)).collect();
        } else if self.lanes.len() > FEW_LANES {
            self.lane_of.insert(host, number);
        }
        number
    }
}

impl Queue {
    /// An empty queue whose waiting tasks take at most about `bytes_max` of memory.
    pub(crate) fn new(bytes_max: usize) -> Queue {
        Queue {
            rotation: Rotation::default(),
            jobs: HashMap::new(),
            running: HashMap::new(),
            backoffs: Backoffs::default(),
            waiting_for_hosts: BTreeMap::new(),
            waiting_for_disk: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            loaded: VecDeque::new(),
            wanted: VecDeque::new(),
            reads: 0,
            bytes: 0,
            bytes_max,
            serial: 0,
        }
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    // Jobs and lanes.

    /// Adds a job, without lanes.
    pub(crate) fn add_job(
        &mut self,
        job: JobId,
        priority: i32,
        cap: u32,
        may_run: bool,
        task_timeout: Option<Duration>,
    ) {
        self.rotation.add_job(job, priority, cap, may_run);
        self.jobs.insert(job, JobQueue { may_run, task_timeout, ..JobQueue::default() });
    }

    /// Forgets a job and every task of it that is in memory.
    pub(crate) fn remove_job(&mut self, job: JobId) {
        self.drop_waiting(job);
        if let Some(queue) = self.jobs.remove(&job) {
            for index in queue.held.into_keys() {
                self.running.remove(&TaskId { job, index });
            }
        }
        self.rotation.remove_job(job);
    }

    /// The lane of `job` for `host`, and whether it was made by this call. `None` if the queue does not know the job.
    pub(crate) fn lane_for(&mut self, job: JobId, host: &Host) -> Option<(LaneNumber, bool)> {
        let queue = self.jobs.get_mut(&job)?;
        if let Some(number) = queue.lane(host) {
            return Some((number, false));
        }
        let number = queue.add_lane(host.clone());
        self.rotation.add_lane(job, host.clone());
        Some((number, true))
    }

    /// Adds the next lane of a job as the store has it: none of its tasks before `head` is PENDING, and `total` tasks are
    /// there in all.
    pub(crate) fn restore_lane(&mut self, job: JobId, host: Host, head: TaskIndex, total: TaskIndex) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let number = queue.add_lane(host.clone());
        let lane = &mut queue.lanes[number as usize];
        (lane.stored_head, lane.disk_from, lane.disk_to) = (head, head, total.max(head));
        self.rotation.add_lane(job, host);
        self.refresh(job, number);
    }

    /// How many lanes a job has.
    pub(crate) fn lane_count(&self, job: JobId) -> usize {
        self.jobs.get(&job).map_or(0, |queue| queue.lanes.len())
    }

    /// Sets whether a job may run. The pages of one that may not are dropped: the store has them.
    pub(crate) fn set_may_run(&mut self, job: JobId, may_run: bool) {
        self.rotation.set_may_run(job, may_run);
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        queue.may_run = may_run;
        let lanes = queue.lanes.len();
        for number in (0..lanes).filter(|_| !may_run) {
            self.unload(job, number as LaneNumber);
        }
    }

    /// See [`Rotation::set_resting`].
    pub(crate) fn set_resting(&mut self, job: JobId, resting: bool) {
        self.rotation.set_resting(job, resting);
    }

    /// Changes how a job is chosen.
    pub(crate) fn set_order(&mut self, job: JobId, priority: i32, cap: u32) {
        self.rotation.set_priority(job, priority);
        self.rotation.set_cap(job, cap);
        self.rotation.set_resting(job, false);
    }

    /// Drops every task of a job that waits, because all of them are about to be ended in the store. Running ones stay.
    pub(crate) fn stop_job(&mut self, job: JobId) {
        self.rotation.set_may_run(job, false);
        self.drop_waiting(job);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.may_run = false;
            for lane in &mut queue.lanes {
                lane.disk_from = lane.disk_to;
                lane.reading = Reading::Idle;
            }
        }
    }

    fn drop_waiting(&mut self, job: JobId) {
        let Some(queue) = self.jobs.get(&job) else { return };
        let lanes = queue.lanes.len();
        let held: Vec<TaskIndex> = queue
            .held
            .iter()
            .filter(|(_, held)| !matches!(held, Held::Running | Held::Leaving(_)))
            .map(|(index, _)| *index)
            .collect();
        for index in held {
            self.take(TaskId { job, index });
        }
        for number in 0..lanes {
            self.unload(job, number as LaneNumber);
        }
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
        let roomy = self.bytes < self.bytes_max / 2;
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
            if keep && all_in_memory && lane.page.len() < LANE_PAGE as usize {
                lane.disk_from = lane.disk_to;
                if lane.page.is_empty() {
                    lane.load = serial + 1;
                    self.serial += 1;
                    self.loaded.push_back((job, number, lane.load));
                }
                let task = Queued { index, lane: number, spec, row: None, cursor: None, batch: 0 };
                self.bytes += task.bytes();
                lane.page.push_back(task);
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
        let Some(lane) = queue.lanes.get_mut(number as usize) else { return };
        queue.held.insert(index, Held::Again(number, serial));
        lane.again.insert(serial, task);
        self.refresh(job, number);
    }

    /// Lets a task wait for something of its own. Returns the lane's head as [`Queue::put_first`] does.
    pub(crate) fn wait(&mut self, job: JobId, task: Queued, wait: Wait) -> Option<Head> {
        let id = TaskId { job, index: task.index };
        let number = task.lane;
        match wait {
            Wait::Backoff(due) => {
                self.back_off(due_task(due, id), task);
                None
            }
            Wait::Host(due, _) => {
                let head = self.lower_head(job, &task);
                self.hold_back(job, &task, Held::Host(number, due_task(due, id)));
                self.waiting_for_hosts.insert(due_task(due, id), Waiting { task, wait });
                head
            }
            Wait::Disk { .. } => {
                let head = self.lower_head(job, &task);
                self.hold_back(job, &task, Held::Disk(number));
                self.waiting_for_disk.insert(id, Waiting { task, wait });
                head
            }
        }
    }

    fn back_off(&mut self, entry: DueTask, task: Queued) {
        let job = entry.id.job;
        self.add_waiting(job, &task);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.held.insert(entry.id.index, Held::Backoff(entry));
        }
        let wait = Wait::Backoff(entry.due);
        if let Some((entry, waiting)) = self.backoffs.add(entry, Waiting { task, wait }) {
            self.let_go(entry.id, &waiting.task);
        }
    }

    fn hold_back(&mut self, job: JobId, task: &Queued, held: Held) {
        self.add_waiting(job, task);
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        queue.held.insert(task.index, held);
        if let Some(lane) = queue.lanes.get_mut(task.lane as usize) {
            lane.held_back.insert(task.index);
        }
    }

    fn lower_head(&mut self, job: JobId, task: &Queued) -> Option<Head> {
        let lane = self.jobs.get_mut(&job)?.lanes.get_mut(task.lane as usize)?;
        lane.lower_head(task.index).then_some((job, task.lane, task.index))
    }

    /// Counts a task among those that wait in memory.
    fn add_waiting(&mut self, job: JobId, task: &Queued) {
        self.bytes += task.bytes();
        if let Some(deadline) = self.deadline(job, task) {
            self.deadlines.insert((deadline, TaskId { job, index: task.index }));
        }
    }

    fn sub_waiting(&mut self, job: JobId, task: &Queued) {
        self.bytes = self.bytes.saturating_sub(task.bytes());
        if let Some(deadline) = self.deadline(job, task) {
            self.deadlines.remove(&(deadline, TaskId { job, index: task.index }));
        }
    }

    fn deadline(&self, job: JobId, task: &Queued) -> Option<Timestamp> {
        task.row.as_ref()?;
        task.deadline(self.jobs.get(&job)?.task_timeout)
    }

    // Tasks out.

    /// Takes a waiting task out of wherever it is.
    fn take(&mut self, id: TaskId) -> Option<Queued> {
        let queue = self.jobs.get_mut(&id.job)?;
        let held = *queue.held.get(&id.index)?;
        let task = match held {
            Held::Again(number, place) => queue.lanes.get_mut(number as usize)?.again.remove(&place)?,
            Held::Backoff(entry) => self.backoffs.remove(&entry)?.task,
            Held::Host(number, entry) => {
                queue.lanes.get_mut(number as usize)?.held_back.remove(&id.index);
                self.waiting_for_hosts.remove(&entry)?.task
            }
            Held::Disk(number) => {
                queue.lanes.get_mut(number as usize)?.held_back.remove(&id.index);
                self.waiting_for_disk.remove(&id)?.task
            }
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

    /// Chooses the next task. `admit` judges a candidate by its job, its host and, if it is in memory, the task. A lane of
    /// which no task is in memory is noted to be read.
    pub(crate) fn pick(
        &mut self,
        mut admit: impl FnMut(JobId, &Host, Option<&Queued>) -> Admission,
    ) -> Option<(JobId, Queued)> {
        let Self { rotation, jobs, wanted, .. } = self;
        let (job, number) = rotation.pick(|job, number, host| {
            let lane = jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize));
            let Some(lane) = lane.filter(|lane| lane.held_back.len() < HELD_BACK_MAX) else { return Admission::Empty };
            let admission = admit(job, host, lane.next());
            if admission == Admission::Empty && lane.reading == Reading::Idle && lane.has_more_in_store() {
                lane.reading = Reading::Wanted;
                wanted.push_back((job, number));
            }
            admission
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
        self.sub_waiting(job, &task);
        Some(task)
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

    /// Notes that a task has ended, and that batch `batch` has its end.
    pub(crate) fn leaving(&mut self, id: TaskId, batch: BatchNumber) {
        if let Some(queue) = self.jobs.get_mut(&id.job) {
            queue.held.insert(id.index, Held::Leaving(batch));
        }
    }

    /// Notes that a batch is durable, with the ends of these tasks.
    pub(crate) fn committed(&mut self, batch: BatchNumber, ended: &[(TaskId, LaneNumber)]) {
        self.backoffs.committed(batch);
        for (id, lane) in ended {
            let held = self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index));
            if held == Some(&Held::Leaving(batch)) {
                self.unhold(*id, *lane);
            }
        }
    }

    // Waits.

    /// When something of this queue is due next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let host = self.waiting_for_hosts.first_key_value().map(|(entry, _)| entry.due);
        let deadline = self.deadlines.first().map(|(when, _)| *when);
        [self.backoffs.next_due(), host, deadline].into_iter().flatten().min()
    }

    /// Moves every task that is due at `now` before the others of its lane. `committed` is the last durable batch.
    pub(crate) fn wake_due(&mut self, now: Timestamp, committed: BatchNumber) {
        while let Some((entry, waiting)) = self.backoffs.pop_due(now) {
            self.let_go(entry.id, &waiting.task);
            self.woken(entry.id.job, waiting.task, committed);
        }
        while let Some(entry) = self.waiting_for_hosts.first_key_value().map(|(entry, _)| *entry) {
            if entry.due > now {
                break;
            }
            let Some(task) = self.take(entry.id) else { break };
            self.woken(entry.id.job, task, committed);
        }
    }

    /// A task whose wait is over goes before the others of its lane, or back to the store when there is no room for it.
    fn woken(&mut self, job: JobId, task: Queued, committed: BatchNumber) {
        let Some(queue) = self.jobs.get(&job) else { return };
        let Some(lane) = queue.lanes.get(task.lane as usize) else { return };
        let room = queue.may_run && lane.again.len() < LANE_PAGE as usize;
        if room || task.batch > committed {
            return self.push_again(job, task);
        }
        // The lane finds it again, since a page also has tasks that back off and are due.
        self.unload(job, task.lane);
        let Some(lane) = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(task.lane as usize)) else {
            return;
        };
        lane.disk_from = lane.disk_from.min(task.index);
        lane.disk_to = lane.disk_to.max(task.index + 1);
        if matches!(lane.reading, Reading::UnderWay { .. }) {
            // Its result would raise `disk_from` again.
            lane.reading = Reading::Idle;
        }
        self.refresh(job, task.lane);
    }

    /// Takes out the tasks whose time over all attempts is over at `now`. The caller ends them.
    pub(crate) fn take_late(&mut self, now: Timestamp) -> Vec<(JobId, Queued)> {
        let mut late = Vec::new();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(when, _)| *when <= now) {
            let task = self.take(id).or_else(|| self.take_from_page(id));
            match task {
                Some(task) => late.push((id.job, task)),
                // An entry without its task would come back for ever.
                None => drop(self.deadlines.pop_first()),
            }
        }
        late
    }

    fn take_from_page(&mut self, id: TaskId) -> Option<Queued> {
        let lanes = &mut self.jobs.get_mut(&id.job)?.lanes;
        let task = lanes.iter_mut().find_map(|lane| lane.page.remove(lane.in_page(id.index)?))?;
        self.sub_waiting(id.job, &task);
        Some(task)
    }

    /// The first `limit` tasks that wait for disk space, each with where it needs how many bytes.
    pub(crate) fn waiting_for_disk(&self, limit: usize) -> Vec<(TaskId, String, u64)> {
        let need = |(id, waiting): (&TaskId, &Waiting)| match &waiting.wait {
            Wait::Disk { folder, bytes, .. } => Some((*id, folder.clone(), *bytes)),
            _ => None,
        };
        self.waiting_for_disk.iter().filter_map(need).take(limit).collect()
    }

    /// Puts waiting tasks before the others of their lanes.
    pub(crate) fn wake(&mut self, tasks: Vec<TaskId>, committed: BatchNumber) {
        for id in tasks {
            if let Some(task) = self.take(id) {
                self.woken(id.job, task, committed);
            }
        }
    }

    /// Tells the rotation that a lane has work, and reads ahead.
    fn refresh(&mut self, job: JobId, number: LaneNumber) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = queue.lanes.get_mut(number as usize) else { return };
        let roomy = self.bytes < self.bytes_max / 4 * 3;
        let runs_low = !lane.page.is_empty() && lane.page.len() < LANE_PAGE as usize / 2;
        if roomy && runs_low && queue.may_run && lane.has_more_in_store() && lane.reading == Reading::Idle {
            lane.reading = Reading::Wanted;
            self.wanted.push_back((job, number));
        }
        if lane.has_work() {
            self.rotation.has_work(job, number);
        }
    }

    // Looks.

    /// Running tasks in all.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// A running task, to note what it has reached.
    pub(crate) fn running_task_mut(&mut self, id: TaskId) -> Option<&mut Running> {
        self.running.get_mut(&id)
    }

    /// All running tasks.
    pub(crate) fn all_running(&self) -> impl Iterator<Item = &Running> {
        self.running.values()
    }

    /// The running tasks of a job.
    pub(crate) fn running_of(&self, job: JobId) -> impl Iterator<Item = &Running> {
        let held = self.jobs.get(&job).map(|queue| &queue.held);
        let running = held.into_iter().flatten().filter(|(_, held)| **held == Held::Running);
        running.filter_map(move |(index, _)| self.running.get(&TaskId { job, index: *index }))
    }

    /// What a task waits for, if it waits for something of its own.
    pub(crate) fn wait_of(&self, id: TaskId) -> Option<&Wait> {
        let waiting = match self.jobs.get(&id.job)?.held.get(&id.index)? {
            Held::Backoff(entry) => self.backoffs.get(entry),
            Held::Host(_, entry) => self.waiting_for_hosts.get(entry),
            Held::Disk(_) => self.waiting_for_disk.get(&id),
            _ => None,
        };
        waiting.map(|waiting| &waiting.wait)
    }

    /// What holds back a lane whose tasks all wait for the same.
    pub(crate) fn lane_wait(&self, job: JobId, lane: LaneNumber) -> Option<&Wait> {
        let lane = self.jobs.get(&job)?.lanes.get(lane as usize)?;
        let first = lane.held_back.first().filter(|_| lane.held_back.len() >= HELD_BACK_MAX)?;
        self.wait_of(TaskId { job, index: *first })
    }

    /// What holds a lane with work.
    pub(crate) fn hold(&self, job: JobId, lane: LaneNumber) -> Hold {
        self.rotation.hold(job, lane)
    }

    /// The host of a lane.
    pub(crate) fn host_of(&self, job: JobId, lane: LaneNumber) -> Option<&Host> {
        Some(&self.jobs.get(&job)?.lanes.get(lane as usize)?.host)
    }

    /// The first `limit` lanes of a job that have work, each with its host and how many of its tasks are in memory.
    pub(crate) fn busy_lanes(&self, job: JobId, limit: usize) -> impl Iterator<Item = (LaneNumber, &Host, usize)> {
        let lanes = self.jobs.get(&job).into_iter().flat_map(|queue| queue.lanes.iter().enumerate());
        let busy = lanes.take(limit).filter(|(_, lane)| lane.next().is_some() || lane.has_more_in_store());
        busy.map(|(number, lane)| (number as LaneNumber, &lane.host, lane.queued().max(1)))
    }

    /// How many tasks in memory wait for room at a host.
    pub(crate) fn waiting_at(&self, host: &Host) -> u32 {
        let count = |(job, lane): (JobId, LaneNumber)| {
            let lane = self.jobs.get(&job).and_then(|queue| queue.lanes.get(lane as usize));
            lane.map_or(0, Lane::queued)
        };
        self.rotation.parked_at(host).map(count).sum::<usize>() as u32
    }

    /// `host` may have room for so many more requests.
    pub(crate) fn wake_host(&mut self, host: &Host, room: usize) {
        self.rotation.wake_host(host, room);
    }
}
