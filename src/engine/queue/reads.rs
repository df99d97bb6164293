//! Tasks between the queue and the store: which pages are wanted, what a finished read brings, what is dropped to make
//! room.

use std::collections::BTreeSet;

use crate::engine::queue::lane::{Head, LaneRead, Reading};
use crate::engine::queue::task::Queued;
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
            let (job, lane) = self.wanted.pop_front()?;
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
        lane.reading = Reading::UnderWay { number: serial, from, to: lane.disk_to, left: BTreeSet::new() };
        Some(LaneRead { job, lane: number, from, number: serial })
    }

    /// Takes in a page of a lane; `None`: it could not be read. Returns the lane's head if it has to be written.
    pub(crate) fn lane_read(&mut self, read: LaneRead, page: Option<LanePage>) -> Option<Head> {
        self.reads = self.reads.saturating_sub(1);
        let load = self.serial();
        let queue = self.jobs.get_mut(&read.job)?;
        let JobQueue { lanes, held, .. } = queue;
        let lane = lanes.get_mut(read.lane as usize)?;
        let Reading::UnderWay { number, to, left, .. } = &mut lane.reading else { return None };
        if *number != read.number {
            return None;
        }
        let (to, left) = (*to, std::mem::take(left));
        lane.reading = Reading::Idle;
        let Some(page) = page else {
            self.refresh(read.job, read.lane);
            return None;
        };
        lane.disk_from = match page.next {
            Some(next) => next.max(lane.disk_from),
            None => lane.disk_from.max(to),
        };
        if lane.page.is_empty() {
            lane.load = load;
            self.loaded.push_back((read.job, read.lane, load));
        }
        let mut fresh = Vec::with_capacity(page.tasks.len());
        for task in page.tasks {
            if !held.contains_key(&task.index) && !left.contains(&task.index) {
                fresh.push(Queued::from(task));
            }
        }
        for task in &fresh {
            self.add_waiting(read.job, task);
        }
        let lane = self.jobs.get_mut(&read.job)?.lanes.get_mut(read.lane as usize)?;
        lane.page.extend(fresh);
        let head = lane.head();
        let raised = head > lane.stored_head;
        if raised {
            lane.stored_head = head;
        }
        self.refresh(read.job, read.lane);
        raised.then_some((read.job, read.lane, head))
    }

    /// Begins a read of tasks that back off, if the store has some that memory has room for.
    pub(crate) fn begin_due_read(&mut self) -> Option<DueTask> {
        self.backoffs.begin_read()
    }

    /// Takes in tasks that back off; `None`: they could not be read.
    pub(crate) fn due_read(&mut self, page: Option<DuePage>) {
        let Some(page) = page else { return self.backoffs.fail_read() };
        let last = page.tasks.last().map(|(entry, _)| *entry);
        let admissible = self.backoffs.end_read(last, page.complete);
        for (entry, task) in page.tasks {
            let Some(queue) = self.jobs.get(&entry.id.job) else { continue };
            let in_page = queue.lanes.get(task.lane as usize).and_then(|lane| lane.in_page(task.index)).is_some();
            if admissible.takes(&entry) && !in_page && !queue.held.contains_key(&task.index) {
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

    /// Drops the page of a lane: the store has its tasks.
    pub(super) fn unload(&mut self, job: JobId, number: LaneNumber) {
        let Some(lane) = self.jobs.get_mut(&job).and_then(|queue| queue.lanes.get_mut(number as usize)) else { return };
        let page = std::mem::take(&mut lane.page);
        let Some(first) = page.front() else { return };
        lane.disk_from = first.index;
        if matches!(lane.reading, Reading::UnderWay { .. }) {
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
            let Some((old, lane, load)) = self.loaded.pop_front() else { return };
            let its = self.jobs.get(&old).and_then(|queue| queue.lanes.get(lane as usize));
            if (old, lane) != (job, number) && its.is_some_and(|its| its.load == load) {
                self.unload(old, lane);
            }
        }
        // Entries of lanes that have been loaded again since.
        if self.loaded.len() > 64 + 2 * self.jobs.len() {
            let jobs = &self.jobs;
            self.loaded.retain(|(job, lane, load)| {
                let lane = jobs.get(job).and_then(|queue| queue.lanes.get(*lane as usize));
                lane.is_some_and(|lane| lane.load == *load && !lane.page.is_empty())
            });
        }
    }
}
