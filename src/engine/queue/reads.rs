//! Tasks between the queue and the store: which pages are wanted, what a finished read brings, what is dropped to make
//! room.

use std::collections::BTreeSet;

use crate::engine::queue::lane::{Head, LaneRead, Reading, UnderWay};
use crate::engine::queue::task::{BatchNumber, Held, Queued};
use crate::engine::queue::{JobQueue, Queue};
use crate::model::ids::{JobId, TaskIndex};
use crate::store::{DuePage, DueTask, LaneNumber, LanePage};

/// Reads of lanes that may be under way at once. More would only wait for each other.
const READS_MAX: usize = 4;
/// The memory that a read is taken to need until its result is there.
const READ_BYTES: usize = 256 << 10;

impl Queue {
    /// The next page of a lane to be read, if there is room for it.
    pub(crate) fn next_read(&mut self) -> Option<LaneRead> {
        while self.reads < READS_MAX {
            let (job, lane) = self.wanted.pop_front().or_else(|| self.run_low.pop_front())?;
            if let Some(read) = self.begin_read(job, lane) {
                self.make_room(job, lane);
                self.reads += 1;
                return Some(read);
            }
        }
        None
    }

    fn begin_read(&mut self, job: JobId, number: LaneNumber) -> Option<LaneRead> {
        let serial = self.serial();
        let queue = self.jobs.get_mut(&job)?;
        let lane = queue.lanes.get_mut(number as usize).filter(|lane| lane.reading == Reading::Wanted)?;
        if !queue.may_run || !lane.has_more_in_store() {
            lane.reading = Reading::Idle;
            self.refresh(job, number);
            return None;
        }
        let from = lane.disk_from;
        let read = UnderWay { number: serial, from, to: lane.disk_to, left: BTreeSet::new() };
        lane.reading = Reading::UnderWay(Box::new(read));
        Some(LaneRead { job, lane: number, from, number: serial })
    }

    /// Takes in a page of a lane; `None`: it could not be read. Returns the lane's head if it has to be written.
    pub(crate) fn lane_read(&mut self, read: LaneRead, page: Option<LanePage>) -> Option<Head> {
        self.reads = self.reads.saturating_sub(1);
        let load = self.serial();
        let queue = self.jobs.get_mut(&read.job)?;
        let JobQueue { lanes, held, may_run, .. } = &mut **queue;
        let lane = lanes.get_mut(read.lane as usize)?;
        let Reading::UnderWay(under_way) = &mut lane.reading else { return None };
        if under_way.number != read.number {
            return None;
        }
        let (to, left) = (under_way.to, std::mem::take(&mut under_way.left));
        lane.reading = Reading::Idle;
        // The tasks of a job that may not run stay in the store.
        let Some(page) = page.filter(|_| *may_run) else {
            // What cannot be read must not keep its turn: others would not have theirs.
            lane.is_next = false;
            self.refresh(read.job, read.lane);
            return None;
        };
        // Tasks from `to` on were added while the read was under way: they are admitted, or read, by themselves.
        lane.disk_from = lane.disk_from.max(page.next.map_or(to, |next| next.min(to)));
        let mut fresh = Vec::with_capacity(page.tasks.len());
        for task in page.tasks {
            if task.index < to && !held.contains_key(&task.index) && !left.contains(&task.index) {
                fresh.push(Queued::from(task));
            }
        }
        for task in &fresh {
            self.add_waiting(read.job, task);
        }
        let lane = self.jobs.get_mut(&read.job)?.lanes.get_mut(read.lane as usize)?;
        if lane.page.is_empty() && !fresh.is_empty() {
            lane.load = load;
            self.loaded.insert(load, (read.job, read.lane));
        }
        let (share, took) = (i64::from(lane.stored), fresh.len() as i64);
        let wrong = if took > share || !lane.has_more_in_store() { share - took } else { 0 };
        lane.takes(fresh.len());
        lane.page.extend(fresh);
        lane.unreadable_from = lane.unreadable_from.min(page.first_unreadable.unwrap_or(TaskIndex::MAX));
        let head = lane.head();
        let raised = head > lane.stored_head;
        if raised {
            lane.stored_head = head;
        }
        self.refresh(read.job, read.lane);
        self.share_was_wrong(read.job, wrong);
        raised.then_some((read.job, read.lane, head))
    }

    /// Begins a read of tasks that back off, if the store has some that memory has room for.
    pub(crate) fn begin_due_read(&mut self) -> Option<DueTask> {
        self.backoffs.begin_read()
    }

    /// Reads the tasks that back off anew: a job was taken in again, without those of its own.
    pub(crate) fn reread_backoffs(&mut self) {
        self.backoffs.reread();
    }

    /// Takes in tasks that back off; `None`: they could not be read.
    pub(crate) fn due_read(&mut self, page: Option<DuePage>) {
        let Some(page) = page else { return self.backoffs.fail_read() };
        let admissible = self.backoffs.end_read(page.next);
        for (entry, task) in page.tasks {
            let Some(queue) = self.jobs.get(&entry.id.job).filter(|queue| !queue.is_stopped) else { continue };
            // Where a row is damaged so that its task is in no lane, that could never go anywhere: it stays in the store.
            let Some(lane) = queue.lanes.get(task.lane as usize) else { continue };
            let is_held = lane.in_page(task.index).is_some() || queue.held.contains_key(&task.index);
            if admissible.takes(&entry) && !is_held {
                self.back_off(entry, Queued::from(task));
            }
        }
    }

    /// Puts tasks of a job that the store shows as PENDING again from `first` on within the reach of its lanes.
    pub(crate) fn reread(&mut self, job: JobId, first: TaskIndex, total: TaskIndex) {
        for number in 0..self.lane_count(job) as LaneNumber {
            self.unload(job, number);
            let Some(lane) = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize)) else {
                return;
            };
            lane.reading = Reading::Idle;
            lane.disk_from = lane.disk_from.min(first);
            lane.disk_to = total;
            lane.stored_head = lane.stored_head.min(first);
            self.refresh(job, number);
        }
    }

    /// Lets a task go that memory holds no more, and that the store has as it is: its lane reads it again.
    pub(super) fn leave_to_store(&mut self, job: JobId, number: LaneNumber, index: TaskIndex) {
        self.unload(job, number);
        let Some(lane) = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize)) else {
            return;
        };
        lane.disk_from = lane.disk_from.min(index);
        lane.disk_to = lane.disk_to.max(index + 1);
        lane.stores(1);
        if matches!(lane.reading, Reading::UnderWay(_)) {
            // Its result would raise `disk_from` again.
            lane.reading = Reading::Idle;
        }
        self.refresh(job, number);
    }

    /// Drops the results of reads of a job's lanes that are under way: they show tasks as they were before what comes now.
    pub(crate) fn drop_reads(&mut self, job: JobId) {
        for number in 0..self.lane_count(job) as LaneNumber {
            let lane = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize));
            if let Some(lane) = lane.filter(|lane| matches!(lane.reading, Reading::UnderWay { .. })) {
                lane.reading = Reading::Idle;
                self.refresh(job, number);
            }
        }
    }

    /// Lets go what waits for its turn in jobs that may not run, now that `batch` is durable.
    pub(super) fn let_stopped_go(&mut self, batch: BatchNumber) {
        for (of, id) in std::mem::take(&mut self.stopped) {
            if of > batch {
                self.stopped.push_back((of, id));
                continue;
            }
            let Some(queue) = self.jobs.get(&id.job).filter(|queue| !queue.may_run) else { continue };
            let Some(Held::Again(number, place)) = queue.held.get(&id.index).copied() else { continue };
            let task = queue.lanes.get(number as usize).and_then(|lane| lane.again.get(&place));
            if task.is_some_and(|task| task.batch <= batch) && self.take(id).is_some() {
                self.leave_to_store(id.job, number, id.index);
            }
        }
    }

    /// Drops the page of a lane: the store has its tasks.
    pub(super) fn unload(&mut self, job: JobId, number: LaneNumber) {
        let Some(lane) = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize)) else { return };
        if lane.page.is_empty() {
            return;
        }
        let page = std::mem::take(&mut lane.page);
        let Some(first) = page.front() else { return };
        lane.disk_from = first.index;
        lane.stores(page.len());
        self.loaded.remove(&lane.load);
        lane.ran_out();
        if matches!(lane.reading, Reading::UnderWay(_)) {
            // Its result would raise `disk_from` beyond what was dropped.
            lane.reading = Reading::Idle;
        }
        for task in &page {
            self.sub_waiting(job, task);
        }
        self.refresh(job, number);
    }

    /// Drops the pages that were loaded longest ago until there is room for one more.
    fn make_room(&mut self, job: JobId, number: LaneNumber) {
        while self.bytes + (self.reads + 1) * READ_BYTES > self.bounds.queue_bytes {
            // That of the lane itself stays, and can be dropped later.
            let oldest = self.loaded.values().find(|lane| **lane != (job, number)).copied();
            let Some((job, lane)) = oldest else { return };
            self.unload(job, lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::engine::bounds::Bounds;
    use crate::engine::queue::Admission;
    use crate::engine::queue::task::{Running, Wait};
    use crate::model::host::Host;
    use crate::model::ids::TaskId;
    use crate::model::spec::{FetchSpec, TaskOptions, TaskSpec, Work};
    use crate::model::task::{Task, TaskEvent};
    use crate::model::time::Timestamp;
    use crate::store::{StoredTask, TaskRow};

    fn spec() -> Arc<TaskSpec> {
        let work = Work::Fetch(FetchSpec { body: vec![7; 1000], ..FetchSpec::default() });
        Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
    }

    /// Runs the next task, and gives it back with batch `batch`.
    fn run_and_give_back(queue: &mut Queue, job: JobId, batch: BatchNumber) {
        let host = Host::new("a:80");
        let (_, task) =
            queue.pick(|_, _, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone()))).unwrap();
        let started = Task::default().apply(TaskEvent::Started, Timestamp(1)).unwrap();
        let given_back = started.apply(TaskEvent::GivenBack(started.fence), Timestamp(2)).unwrap();
        let id = TaskId { job, index: task.index };
        let running = Running {
            fence: started.fence,
            lane: task.lane,
            spec: task.spec.clone(),
            row: TaskRow { task: started, ..TaskRow::default() },
            attempt_start: Timestamp(1),
            stop: CancellationToken::new(),
            rest: CancellationToken::new(),
            cause: Arc::new(OnceLock::new()),
            cursor: None,
            storage: Arc::default(),
            withdrawn: None,
        };
        queue.start(id, running).unwrap();
        queue.attempt_ended(id, 1).unwrap();
        let row = Some(Box::new(TaskRow { task: given_back, ..TaskRow::default() }));
        queue.put_first(job, Queued { row, batch, ..task }, true);
    }

    fn queue_with_three_tasks(job: JobId) -> Queue {
        let mut queue = Queue::new(Bounds::default());
        queue.add_job(job, 0, 0, true, None);
        queue.lane_for(job, &Host::new("a:80"));
        queue.admit(job, 0, (0..3).map(|_| (0, spec())));
        queue
    }

    #[test]
    fn a_paused_job_keeps_no_task_in_memory_once_its_rows_are_durable() {
        let job = JobId(Uuid::from_u128(1));
        let mut queue = queue_with_three_tasks(job);
        run_and_give_back(&mut queue, job, 1);
        // Paused while the row of the task is on its way, and others are given back after that.
        queue.committed(1, &[]);
        run_and_give_back(&mut queue, job, 2);
        queue.set_may_run(job, false);
        queue.check().unwrap();
        assert!(queue.bytes > 1000, "the store does not show it yet");
        queue.committed(2, &[]);
        queue.check().unwrap();
        assert_eq!((queue.bytes, queue.jobs[&job].held.len()), (0, 0));
        assert_eq!(queue.jobs[&job].lanes[0].disk_from, 0, "all of them are read again");

        queue.set_may_run(job, true);
        assert!(queue.pick(|_, _, _, next| next.map_or(Admission::Empty, |_| Admission::JobBlocked)).is_none());
        let read = queue.next_read().unwrap();
        assert_eq!((read.job, read.from), (job, 0));
    }

    #[test]
    fn the_page_of_the_lane_that_is_read_can_be_dropped_later() {
        let job = JobId(Uuid::from_u128(1));
        let mut queue = queue_with_three_tasks(job);
        assert_eq!(queue.loaded.len(), 1);
        queue.bounds.queue_bytes = 0;
        queue.make_room(job, 0);
        assert_eq!((queue.loaded.len(), queue.jobs[&job].lanes[0].page.len()), (1, 3), "its own stays");
        queue.make_room(JobId(Uuid::from_u128(2)), 0);
        assert_eq!((queue.loaded.len(), queue.jobs[&job].lanes[0].page.len()), (0, 0));
    }

    /// A read that was under way when the tasks of a job began to be ended.
    #[test]
    fn a_job_that_is_stopped_takes_no_task_that_backs_off() {
        let job = JobId(Uuid::from_u128(1));
        let mut queue = queue_with_three_tasks(job);
        assert!(queue.begin_due_read().is_some());
        queue.stop_job(job);
        let entry = DueTask { due: Timestamp(5), id: TaskId { job, index: 1 } };
        queue.due_read(Some(DuePage { tasks: vec![(entry, stored(1))], next: None }));
        assert!(queue.jobs[&job].held.is_empty());
        queue.check().unwrap();
    }

    /// Picks a task, which does not run for long.
    fn pick(queue: &mut Queue) -> Option<(JobId, Queued)> {
        let picked = queue.pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))?;
        queue.rotation.ended(picked.0);
        Some(picked)
    }

    /// A task that backs off again before its row is durable, while the store still shows the wait before.
    #[test]
    fn a_row_that_is_out_of_date_brings_no_task_back() {
        let job = JobId(Uuid::from_u128(1));
        let mut queue = queue_with_three_tasks(job);
        let (_, task) = pick(&mut queue).unwrap();
        let index = task.index;
        // Nothing of the store has been read yet, so it is left to the store.
        queue.wait(job, Queued { batch: 2, ..task }, Wait::Backoff(Timestamp(50)));
        assert!(queue.begin_due_read().is_some());
        let before = || {
            let entry = DueTask { due: Timestamp(5), id: TaskId { job, index } };
            DuePage { tasks: vec![(entry, stored(index))], next: None }
        };
        queue.due_read(Some(before()));
        queue.wake_due(Timestamp(9), 1, 100);
        assert_eq!(queue.jobs[&job].held.get(&index), Some(&Held::Leaving(2)), "it is not woken by it");
        queue.check().unwrap();
        queue.committed(2, &[]);
        assert_eq!(queue.jobs[&job].held.get(&index), None, "the store has it");
        queue.check().unwrap();
    }

    fn stored(index: TaskIndex) -> StoredTask {
        let work = Work::Fetch(FetchSpec::default());
        let spec = TaskSpec { key: String::new(), work, options: TaskOptions::default().into() }.into();
        StoredTask { index, lane: 0, spec, row: TaskRow::default() }
    }

    /// Tasks that are added while a page is read may be in it already, and come once all the same.
    #[test]
    fn tasks_that_are_added_meanwhile_come_once() {
        let job = JobId(Uuid::nil());
        for admitted_first in [false, true] {
            for next in [None, Some(4)] {
                let mut queue = Queue::new(Bounds::default());
                queue.add_job(job, 0, 0, true, None);
                queue.restore_lane(job, Host::new("a:80"), 0, 2);
                assert!(pick(&mut queue).is_none());
                let read = queue.next_read().unwrap();
                let page = LanePage { tasks: (0..4).map(stored).collect(), next, first_unreadable: None };
                let admit = |queue: &mut Queue| queue.admit(job, 2, (2..4).map(|index| (0, stored(index).spec)));
                if admitted_first {
                    admit(&mut queue);
                    queue.lane_read(read, Some(page));
                } else {
                    queue.lane_read(read, Some(page));
                    admit(&mut queue);
                }
                assert_eq!(queue.check(), Ok(()));
                let mut came = Vec::new();
                for _ in 0..9 {
                    came.extend(pick(&mut queue).map(|(_, task)| task.index));
                    if let Some(read) = queue.next_read() {
                        let tasks = (read.from..4).map(stored).collect();
                        queue.lane_read(read, Some(LanePage { tasks, next: None, first_unreadable: None }));
                    }
                    assert_eq!(queue.check(), Ok(()));
                }
                assert_eq!(came, [0, 1, 2, 3], "admitted first: {admitted_first}, next: {next:?}");
            }
        }
    }

    /// A page that was on its way when the job was paused.
    #[test]
    fn a_job_that_may_not_run_takes_no_page() {
        let job = JobId(Uuid::nil());
        let mut queue = Queue::new(Bounds::default());
        queue.add_job(job, 0, 0, true, None);
        queue.restore_lane(job, Host::new("a:80"), 0, 2);
        let page = || Some(LanePage { tasks: vec![stored(0), stored(1)], next: None, first_unreadable: None });
        assert!(pick(&mut queue).is_none());
        let read = queue.next_read().unwrap();
        queue.set_may_run(job, false);
        assert_eq!(queue.lane_read(read, page()), None);
        assert_eq!(queue.check(), Ok(()));
        assert_eq!(queue.busy_lanes(job, 1).count(), 1, "the store has its tasks");
        queue.set_may_run(job, true);
        assert!(pick(&mut queue).is_none());
        let read = queue.next_read().unwrap();
        assert_eq!(read.from, 0);
        queue.lane_read(read, page());
        assert_eq!(pick(&mut queue).map(|(_, task)| task.index), Some(0));
        assert_eq!(queue.check(), Ok(()));
    }
}
