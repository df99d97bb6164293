//! Tasks whose time is over and of which memory has only the wait: the store is asked for the rest.
//!
//! A few are read at a time. One that cannot be read rests, longer each time, and keeps no other from being read.

use crate::engine::patience::caught;
use crate::engine::queue::task::Queued;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::read::Read;
use crate::engine::timers::Timer;
use crate::model::ids::TaskId;
use crate::store::{StoreError, StoredTask};

impl Scheduler {
    /// Reads tasks whose time is over and of which memory has only the wait.
    pub(super) fn read_late(&mut self) {
        if self.draining {
            return;
        }
        for id in self.late.choose(|| self.queue.next_late_left()) {
            let store = self.runner.store.clone();
            self.reads.spawn(async move { Read::Late(id, caught(store.task(id)).await) });
        }
    }

    /// Whether there may be more to read at once.
    pub(super) fn has_late_to_read(&self) -> bool {
        !self.draining && self.late.has_room() && self.queue.has_late_left()
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
        self.late.forget(id);
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
        if self.queue.look_at_late(id) { self.late.has_rested(id) } else { self.late.forget(id) }
    }
}
