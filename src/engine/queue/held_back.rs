//! Tasks that are PENDING and held back: by the pause of a host that an attempt came to, or by want of disk space.
//!
//! They may wait for an hour, be many, and be large. So beyond a share of the memory only what one waits for is kept of
//! it, once the store has its row: when the wait is over its lane reads it again.

use crate::engine::queue::Queue;
use crate::engine::queue::task::{BatchNumber, Held, HeldBack, Kept, LEFT_BYTES, Queued, Wait, due_task};
use crate::model::ids::{JobId, TaskId};
use crate::store::{DueTask, LaneNumber};

impl Queue {
    /// How many tasks of a lane may be held back now.
    pub(super) fn held_back_max(&self) -> usize {
        let count = self.waiting_for_hosts.len() + self.waiting_for_disk.len();
        if count * LEFT_BYTES < self.held_back_bytes_max() { self.bounds.held_back } else { 1 }
    }

    /// The memory that tasks may take that are held back.
    fn held_back_bytes_max(&self) -> usize {
        self.bounds.queue_bytes / 4
    }

    /// Takes in a task that is held back.
    pub(super) fn hold_back(&mut self, job: JobId, task: Queued, wait: Wait) {
        let id = TaskId { job, index: task.index };
        let (number, batch) = (task.lane, task.batch);
        self.add_waiting(job, &task);
        self.held_back_bytes += task.bytes();
        let held_back = HeldBack { kept: Kept::Whole(task), wait };
        let held = match &held_back.wait {
            Wait::Host { until, .. } | Wait::Apart(until) | Wait::Backoff(until) => {
                let entry = due_task(*until, id);
                self.waiting_for_hosts.insert(entry, held_back);
                Held::Host(number, entry)
            }
            Wait::Disk { .. } => {
                self.waiting_for_disk.insert(id, held_back);
                Held::Disk(number)
            }
        };
        self.whole.push_back((batch, id));
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        queue.held.insert(id.index, held);
        if let Some(lane) = queue.lanes.get_mut(number as usize) {
            lane.held_back.insert(id.index);
        }
    }

    /// A task that is held back as `held` says.
    pub(super) fn held_back(&self, id: TaskId, held: Held) -> Option<&HeldBack> {
        match held {
            Held::Host(_, entry) => self.waiting_for_hosts.get(&entry),
            Held::Disk(_) => self.waiting_for_disk.get(&id),
            _ => None,
        }
    }

    /// Takes out a task that is held back, which has left all indexes then. `None`: the store alone has it.
    pub(super) fn take_held_back(&mut self, id: TaskId, lane: LaneNumber, entry: Option<&DueTask>) -> Option<Queued> {
        let queue = self.jobs.get_mut(&id.job)?;
        queue.lanes.get_mut(lane as usize)?.held_back.remove(&id.index);
        let held_back = match entry {
            Some(entry) => self.waiting_for_hosts.remove(entry)?,
            None => self.waiting_for_disk.remove(&id)?,
        };
        self.held_back_bytes = self.held_back_bytes.saturating_sub(held_back.bytes());
        let task = match held_back.kept {
            Kept::Whole(task) => {
                self.let_go(id, &task);
                let waited_for = if let Wait::Host { host, .. } = held_back.wait { host } else { None };
                Some(Queued { waited_for, ..task })
            }
            Kept::Left { lane, deadline } => {
                self.bytes = self.bytes.saturating_sub(LEFT_BYTES);
                if let Some(deadline) = deadline {
                    self.remove_deadline(id, deadline);
                }
                self.unhold(id, lane);
                None
            }
        };
        self.refresh(id.job, lane);
        self.let_barred_go();
        task
    }

    /// Lets a task whose wait is over be found by its lane, if only the wait is kept of it. Returns whether that was so.
    pub(super) fn return_left(&mut self, id: TaskId) -> bool {
        let held = self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index)).copied();
        let Some(Kept::Left { lane, .. }) = held.and_then(|held| self.held_back(id, held)).map(|it| it.kept.clone())
        else {
            return false;
        };
        self.take(id);
        self.leave_to_store(id.job, lane, id.index);
        true
    }

    /// Whether only the wait of a task is kept.
    pub(super) fn is_left(&self, id: TaskId) -> bool {
        let held = self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index)).copied();
        held.and_then(|held| self.held_back(id, held)).is_some_and(|it| matches!(it.kept, Kept::Left { .. }))
    }

    /// Leaves tasks that are held back to the store until they take as much memory as they may, now that `batch` is
    /// durable: those first that have waited longest.
    pub(super) fn leave_held_back(&mut self, batch: BatchNumber) {
        while self.held_back_bytes > self.held_back_bytes_max()
            && let Some((of, id)) = self.whole.front().copied()
            && of <= batch
        {
            self.whole.pop_front();
            self.leave(id, of);
        }
        // Entries of tasks that wait no more.
        if self.whole.len() > 2 * (self.waiting_for_hosts.len() + self.waiting_for_disk.len()) + 16 {
            let whole = std::mem::take(&mut self.whole);
            self.whole = whole.into_iter().filter(|(of, id)| self.is_whole(*id, *of)).collect();
        }
    }

    fn is_whole(&self, id: TaskId, batch: BatchNumber) -> bool {
        let held = self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index)).copied();
        let held_back = held.and_then(|held| self.held_back(id, held));
        held_back.is_some_and(|it| matches!(&it.kept, Kept::Whole(task) if task.batch == batch))
    }

    fn leave(&mut self, id: TaskId, batch: BatchNumber) {
        if !self.is_whole(id, batch) {
            return;
        }
        let Some(queue) = self.jobs.get(&id.job) else { return };
        let Some(held) = queue.held.get(&id.index).copied() else { return };
        let timeout = queue.task_timeout;
        let held_back = match held {
            Held::Host(_, entry) => self.waiting_for_hosts.get_mut(&entry),
            _ => self.waiting_for_disk.get_mut(&id),
        };
        let Some(HeldBack { kept, .. }) = held_back else { return };
        let Kept::Whole(task) = kept else { return };
        let (bytes, lane) = (task.bytes(), task.lane);
        // The time of one that has no row has not begun.
        let deadline = task.row.as_ref().and_then(|_| task.deadline(timeout));
        *kept = Kept::Left { lane, deadline };
        self.bytes = self.bytes.saturating_sub(bytes) + LEFT_BYTES;
        self.held_back_bytes = self.held_back_bytes.saturating_sub(bytes) + LEFT_BYTES;
    }

    /// Lets lanes go on that gave no more because many tasks were held back in all, once there are fewer.
    fn let_barred_go(&mut self) {
        if self.barred.is_empty() || self.held_back_max() < self.bounds.held_back {
            return;
        }
        for (job, lane) in std::mem::take(&mut self.barred) {
            self.refresh(job, lane);
        }
    }
}
