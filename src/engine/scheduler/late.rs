//! Tasks whose time is over and of which memory has only the wait: the store is asked for the rest.
//!
//! A few are read at a time. One that cannot be read rests, longer each time, and keeps no other from being read.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::patience::caught;
use crate::engine::queue::task::Queued;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::read::Read;
use crate::engine::timers::Timer;
use crate::model::ids::{JobId, TaskId};
use crate::store::{StoreError, StoredTask};

/// Tasks that are read at once.
const READS_MAX: usize = 8;
/// The first rest of a task that could not be read; doubled with each failure that follows.
const REST_MIN: Duration = Duration::from_millis(50);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// What goes on with tasks whose time is over.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    /// How many reads are under way.
    under_way: usize,
    /// Tasks that could not be read.
    failed: HashMap<TaskId, Failed>,
}

/// A task that could not be read.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// Its last rest.
    rest: Duration,
    is_resting: bool,
}

impl LateReads {
    fn is_resting(&self, id: TaskId) -> bool {
        self.failed.get(&id).is_some_and(|failed| failed.is_resting)
    }

    /// Forgets the tasks of a job.
    pub(super) fn forget(&mut self, job: JobId) {
        self.failed.retain(|id, _| id.job != job);
    }

    /// Notes that a task could not be read. Returns how long it rests.
    fn fails(&mut self, id: TaskId) -> Duration {
        let before = self.failed.get(&id).map(|failed| failed.rest);
        let rest = before.map_or(REST_MIN, |rest| (rest * 2).min(REST_MAX));
        self.failed.insert(id, Failed { rest, is_resting: true });
        rest
    }
}

impl Scheduler {
    /// Reads tasks whose time is over and of which memory has only the wait.
    pub(super) fn read_late(&mut self) {
        while self.late.under_way < READS_MAX
            && !self.draining
            && let Some((id, is_left)) = self.queue.next_late_left()
        {
            if !is_left {
                self.late.failed.remove(&id);
            }
            if !is_left || self.late.is_resting(id) {
                continue;
            }
            self.late.under_way += 1;
            let store = self.runner.store.clone();
            self.reads.spawn(async move { Read::Late(id, caught(store.task(id)).await) });
        }
    }

    /// Ends a task whose time is over, as the store has it. Whatever keeps it from that now, it is looked at again.
    pub(super) fn late_read(
        &mut self,
        id: TaskId,
        found: Result<Option<StoredTask>, StoreError>,
    ) -> Result<(), StoreError> {
        self.late.under_way = self.late.under_way.saturating_sub(1);
        let now = self.now();
        let task = match found {
            Ok(task) => task,
            Err(StoreError::Fatal(why)) => return Err(StoreError::Fatal(why)),
            Err(error) => {
                let rest = self.late.fails(id);
                tracing::warn!(task = %id, "a task whose time is over is read again in {rest:?}: {error}");
                self.timers.set(now.plus(rest), Timer::LateRested(id));
                return Ok(());
            }
        };
        self.late.failed.remove(&id);
        // One whose row is gone has nothing more to wait for, either.
        if self.jobs.get(id.job).is_some_and(|run| !run.defers())
            && self.queue.take_left(id)
            && let Some(task) = task
        {
            self.end_late(id.job, Queued::from(task), now);
        }
        Ok(())
    }

    /// A task that could not be read has rested.
    pub(super) fn late_rested(&mut self, id: TaskId) {
        if !self.queue.look_at_late(id) {
            self.late.failed.remove(&id);
        } else if let Some(failed) = self.late.failed.get_mut(&id) {
            failed.is_resting = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_task_that_cannot_be_read_rests_longer_each_time() {
        let mut late = LateReads::default();
        let [id, other] = [0, 1].map(|index| TaskId { job: JobId(Uuid::nil()), index });
        let rests: Vec<u128> = (0..13).map(|_| late.fails(id).as_millis()).collect();
        assert_eq!(rests[..3], [50, 100, 200]);
        assert_eq!(rests[11..], [60_000, 60_000]);
        assert!(late.is_resting(id) && !late.is_resting(other));
        late.forget(id.job);
        assert!(late.failed.is_empty());
    }
}
