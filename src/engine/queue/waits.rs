//! Tasks that wait for something of their own: the end of a backoff or of a host's pause, disk space; and for all of them
//! the end of the time that they have.

use std::ops::Bound;

use crate::engine::queue::Queue;
use crate::engine::queue::lane::Head;
use crate::engine::queue::task::{BatchNumber, Held, HeldBack, Queued, Wait, Waiting, due_task};
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::outcome::ShortOf;
use crate::model::time::Timestamp;
use crate::store::{DueTask, LaneNumber};

/// Tasks whose time is over and at which one call of [`Queue::take_late`] looks: most of them may have to stay.
const LATE_LOOKS: usize = 4096;

impl Queue {
    /// Lets a task wait for something of its own. Returns the lane's head as [`Queue::put_first`] does.
    pub(crate) fn wait(&mut self, job: JobId, task: Queued, wait: Wait) -> Option<Head> {
        match wait {
            Wait::Backoff(due) => {
                let id = TaskId { job, index: task.index };
                self.back_off(due_task(due, id), task);
                None
            }
            Wait::Host { .. } | Wait::Apart(_) | Wait::Disk { .. } => {
                let head = self.lower_head(job, &task);
                self.hold_back(job, task, wait);
                head
            }
        }
    }

    pub(super) fn back_off(&mut self, entry: DueTask, task: Queued) {
        let job = entry.id.job;
        self.add_waiting(job, &task);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.held.insert(entry.id.index, Held::Backoff(entry));
        }
        let wait = Wait::Backoff(entry.due);
        for (entry, waiting) in self.backoffs.add(entry, Waiting { task, wait }) {
            self.let_go(entry.id, &waiting.task);
            let batch = waiting.task.batch;
            if batch > self.committed {
                // Until then a read finds the row from before, of a task that may run.
                self.leaving(entry.id, batch);
                self.left_early.push((batch, entry.id, waiting.task.lane));
            }
        }
    }

    /// Lets a waiting task go that has ended in the store. Reads that are under way may still show it as it was.
    pub(crate) fn forget(&mut self, id: TaskId) {
        self.take(id);
        self.backoffs.left(id);
    }

    /// Lets a task that backs off go to its lane, which finds it in the store: there it is due, as batch `batch` has it.
    pub(crate) fn hasten(&mut self, id: TaskId, lane: LaneNumber, batch: BatchNumber) {
        let Some(queue) = self.jobs.get(&id.job).filter(|queue| !queue.is_stopped) else { return };
        match queue.held.get(&id.index) {
            None => {}
            Some(Held::Backoff(entry)) => {
                let waits_since = self.backoffs.get(entry).map(|waiting| waiting.task.batch);
                if waits_since.is_none_or(|since| since > batch) {
                    // It has been tried since.
                    return;
                }
                self.take(id);
            }
            Some(_) => return,
        }
        self.backoffs.left(id);
        self.leave_to_store(id.job, lane, id.index);
    }

    /// When something of this queue is due next, but for the ends of times.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let host = self.waiting_for_hosts.first_key_value().map(|(entry, _)| entry.due);
        self.backoffs.next_due().into_iter().chain(host).min()
    }

    /// When the time of a waiting task is over next.
    pub(crate) fn next_late(&self) -> Option<Timestamp> {
        self.deadlines.first_key_value().map(|((when, _), _)| *when)
    }

    /// Moves tasks that are due at `now` before the others of their lanes: at most `limit` that back off, and as many that wait
    /// for hosts. The others come with the next call. `committed` is the last durable batch.
    pub(crate) fn wake_due(&mut self, now: Timestamp, committed: BatchNumber, limit: usize) {
        for _ in 0..limit {
            let Some((entry, waiting)) = self.backoffs.pop_due(now) else { break };
            self.let_go(entry.id, &waiting.task);
            self.woken(entry.id.job, waiting.task, committed);
        }
        for _ in 0..limit {
            let first = self.waiting_for_hosts.first_key_value().map(|(entry, _)| *entry);
            let Some(entry) = first.filter(|entry| entry.due <= now) else { break };
            if self.return_left(entry.id) {
                continue;
            }
            let Some(task) = self.take(entry.id) else { break };
            self.woken(entry.id.job, task, committed);
        }
    }

    /// A task whose wait is over goes before the others of its lane, or back to the store when there is no room for it.
    fn woken(&mut self, job: JobId, task: Queued, committed: BatchNumber) {
        let Some(queue) = self.jobs.get(&job) else { return };
        let Some(lane) = queue.lanes.get(task.lane as usize) else { return };
        let in_bounds = lane.again.len() < self.bounds.lane_page as usize && self.bytes < self.bounds.queue_bytes;
        let room = queue.may_run && in_bounds;
        if room || task.batch > committed {
            return self.push_again(job, task);
        }
        // The lane finds it again, since a page also has tasks that back off and are due.
        self.leave_to_store(job, task.lane, task.index);
    }

    /// Takes out at most `limit` tasks whose time over all attempts is over at `now`, of at most [`LATE_LOOKS`] at which it looks.
    /// The caller ends them, and calls again for the others. Those of a job that `defers` stay until [`Queue::look_at_overdue`].
    pub(crate) fn take_late(
        &mut self,
        now: Timestamp,
        limit: usize,
        defers: impl Fn(JobId) -> bool,
    ) -> Vec<(JobId, Queued)> {
        let mut late = Vec::new();
        for _ in 0..LATE_LOOKS {
            let first = self.deadlines.first_key_value().map(|(key, lane)| (*key, *lane));
            let Some(((when, id), lane)) = first.filter(|((when, _), _)| *when <= now && late.len() < limit) else {
                break;
            };
            if defers(id.job) {
                self.deadlines.pop_first();
                self.overdue.insert((id.job, when, id.index), lane);
                continue;
            }
            if self.is_left(id) {
                // Its lane may not be read for long.
                self.deadlines.pop_first();
                self.overdue.insert((id.job, when, id.index), lane);
                self.late_left.insert(id);
                continue;
            }
            let task = self.take(id).or_else(|| self.take_from_page(id, lane));
            match task {
                Some(task) => late.push((id.job, task)),
                // An entry without its task would come back for ever.
                None => drop(self.deadlines.pop_first()),
            }
        }
        late
    }

    /// The next task whose time is over and of which the caller has to read the rest, and whether that is so still. One that is not
    /// given to [`Queue::take_left`] then comes again with [`Queue::look_at_overdue`] or [`Queue::look_at_late`].
    pub(crate) fn next_late_left(&mut self) -> Option<(TaskId, bool)> {
        let id = self.late_left.pop_first()?;
        Some((id, self.is_left(id)))
    }

    /// Whether [`Queue::next_late_left`] gives one.
    pub(crate) fn has_late_left(&self) -> bool {
        !self.late_left.is_empty()
    }

    /// Lets [`Queue::next_late_left`] give a task again, if memory has only its wait. Returns whether it has.
    pub(crate) fn look_at_late(&mut self, id: TaskId) -> bool {
        let is_left = self.is_left(id);
        if is_left {
            self.late_left.insert(id);
        }
        is_left
    }

    /// Takes out a task of which only the wait is in memory. Returns whether it was there: if so, nothing has happened to it
    /// since it was left to the store.
    pub(crate) fn take_left(&mut self, id: TaskId) -> bool {
        let is_left = self.is_left(id);
        if is_left {
            self.take(id);
        }
        is_left
    }

    /// Lets [`Queue::take_late`] look again at the tasks of a job that it passed over.
    pub(crate) fn look_at_overdue(&mut self, job: JobId) {
        let all = (job, Timestamp(i64::MIN), 0)..=(job, Timestamp(i64::MAX), TaskIndex::MAX);
        for ((job, when, index), lane) in self.overdue.extract_if(all, |_, _| true) {
            self.deadlines.insert((when, TaskId { job, index }), lane);
        }
    }

    fn take_from_page(&mut self, id: TaskId, lane: LaneNumber) -> Option<Queued> {
        let lane = self.jobs.get_mut(&id.job)?.lanes.get_mut(lane as usize)?;
        let place = lane.in_page(id.index)?;
        let task = lane.page.remove(place)?;
        self.left_page(id.job, &task);
        self.refresh(id.job, task.lane);
        Some(task)
    }

    /// `limit` tasks that wait for room, each with where it needs how many bytes: those behind `after`, and then from
    /// the first one on, so that who looks again and again looks at each.
    pub(crate) fn waiting_for_disk(&self, after: Option<TaskId>, limit: usize) -> Vec<(TaskId, ShortOf, String, u64)> {
        let need = |(id, waiting): (&TaskId, &HeldBack)| match &waiting.wait {
            Wait::Disk { of, folder, bytes, .. } => Some((*id, *of, folder.clone(), *bytes)),
            _ => None,
        };
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let before = after.map(|after| self.waiting_for_disk.range(..=after)).into_iter().flatten();
        self.waiting_for_disk.range(behind).chain(before).filter_map(need).take(limit).collect()
    }

    /// Puts waiting tasks before the others of their lanes.
    pub(crate) fn wake(&mut self, tasks: Vec<TaskId>, committed: BatchNumber) {
        for id in tasks {
            self.wake_one(id, committed);
        }
    }

    /// As [`Queue::wake`], for one task. Returns whether it waits still, and its job may run.
    pub(crate) fn wake_one(&mut self, id: TaskId, committed: BatchNumber) -> bool {
        if !self.return_left(id) {
            let Some(task) = self.take(id) else { return false };
            self.woken(id.job, task, committed);
        }
        self.jobs.get(&id.job).is_some_and(|queue| queue.may_run)
    }
}
