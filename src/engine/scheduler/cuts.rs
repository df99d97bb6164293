//! Which attempts the end of the last process cut, so that a task that brings the server down is told from those that only ran
//! beside it.
//!
//! What is held against a task is a number of crashes in a row. A new row begins where the server has ended without running the
//! task since, or has done other work for a while before the task ran again. That may be so each time, where other work goes before
//! such a task or another one brings the server down first: so all crashes count as well ([`Crashes`]).
//!
//! Those that the next crash would fail are suspects, and run one at a time ([`Suspects`]): what only ran beside the cause does not
//! run when that brings the server down once more, and so begins a new row.

use std::collections::HashSet;
use std::time::Duration;

use crate::engine::queue::task::BatchNumber;
use crate::engine::scheduler::suspects::Suspects;
use crate::model::ids::TaskId;
use crate::model::task::Crashes;
use crate::model::time::Timestamp;

/// How long other work goes well before a new row begins. A task that was cut is the first of its lane to run again, so one that
/// brings the server down has mostly run by then.
const CLEAN_RUN: Duration = Duration::from_secs(5);

/// The tasks whose attempts the end of the last process cut, and which have not run since.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    tasks: HashSet<TaskId>,
    /// When this process found the first of them.
    found_time: Option<Timestamp>,
    has_succeeded: bool,
    suspects: Suspects,
}

impl Cuts {
    /// Notes a task whose attempt was cut.
    pub(super) fn found(&mut self, task: TaskId, now: Timestamp) {
        self.found_time.get_or_insert(now);
        self.tasks.insert(task);
    }

    /// Notes that an attempt has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.has_succeeded = true;
    }

    /// Whether a task may run now, of which the store has so many crashes: a suspect not beside another one.
    ///
    /// # Errors
    ///
    /// When it is to look again, unless it is woken before.
    pub(super) fn admit(&mut self, task: TaskId, crashes: Crashes, now: Timestamp) -> Result<(), Timestamp> {
        if crashes.are_all_but_too_many() && self.counted(task, crashes, now).are_all_but_too_many() {
            return self.suspects.admit(task, now);
        }
        Ok(())
    }

    /// Returns the crashes that are held against a task which runs now, of those that the store has.
    pub(super) fn held_against(&mut self, task: TaskId, crashes: Crashes, now: Timestamp) -> Crashes {
        let crashes = self.counted(task, crashes, now);
        self.tasks.remove(&task);
        self.suspects.forget(task);
        if crashes.are_all_but_too_many() {
            self.suspects.runs(task, now);
        }
        crashes
    }

    /// Those of the crashes of a task that are in a row with one that would come now. What went well while a suspect was kept waiting
    /// says nothing of it.
    fn counted(&self, task: TaskId, crashes: Crashes, now: Timestamp) -> Crashes {
        let is_clean = self.has_succeeded && self.found_time.is_some_and(|found| found.plus(CLEAN_RUN) <= now);
        let is_new = !self.tasks.contains(&task) || is_clean && !self.suspects.has_kept(task);
        if is_new { crashes.in_a_new_row() } else { crashes }
    }

    /// Notes that batch `batch` has the end of an attempt, or progress that shows that its task is no suspect.
    pub(super) fn passes(&mut self, task: TaskId, batch: BatchNumber) {
        self.suspects.passes(task, batch);
    }

    /// Takes in that a batch is durable; see [`Suspects::committed`].
    pub(super) fn committed(&mut self, batch: BatchNumber, wake: impl FnMut(TaskId) -> bool) {
        self.suspects.committed(batch, wake);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::task::{Task, TaskEvent};

    const START: Timestamp = Timestamp(1_000_000);

    fn task(index: u32) -> TaskId {
        TaskId { job: crate::model::ids::JobId(Uuid::nil()), index }
    }

    /// After so many crashes in a row.
    fn cut(times: u32) -> Crashes {
        let mut task = Task::default();
        for _ in 0..times {
            task = task.apply(TaskEvent::Started, START).unwrap().apply(TaskEvent::Crashed, START).unwrap();
        }
        task.crashes
    }

    #[test]
    fn crashes_are_held_against_who_runs_again_at_once() {
        let mut cuts = Cuts::default();
        cuts.found(task(1), START);
        cuts.found(task(2), START);
        cuts.succeeded();
        assert_eq!(cuts.held_against(task(1), cut(2), START), cut(2));
        assert_eq!(cuts.held_against(task(1), cut(2), START), cut(2).in_a_new_row(), "it ran since");
        assert_eq!(cuts.held_against(task(3), cut(2), START), cut(2).in_a_new_row(), "the last end has not cut it");
        assert_eq!(cuts.held_against(task(2), cut(1), START.plus(CLEAN_RUN)), cut(1).in_a_new_row(), "others ran well");
    }

    #[test]
    fn time_alone_begins_no_new_row() {
        let mut cuts = Cuts::default();
        cuts.found(task(1), START);
        assert_eq!(cuts.held_against(task(1), cut(2), START.plus(CLEAN_RUN * 100)), cut(2));
    }

    /// Whatever else goes well while they wait for each other.
    #[test]
    fn suspects_run_one_at_a_time_and_their_row_goes_on() {
        let mut cuts = Cuts::default();
        for index in 1..4 {
            cuts.found(task(index), START);
        }
        assert_eq!(cuts.admit(task(1), cut(2), START), Ok(()));
        assert_eq!(cuts.held_against(task(1), cut(2), START), cut(2));
        assert!(cuts.admit(task(2), cut(2), START).is_err());
        assert_eq!(cuts.admit(task(3), cut(1), START), Ok(()), "it is no suspect");
        assert_eq!(cuts.admit(task(4), cut(2), START), Ok(()), "the last end has not cut it");
        cuts.succeeded();
        cuts.passes(task(1), 1);
        let mut woken = Vec::new();
        cuts.committed(1, |id| {
            woken.push(id);
            true
        });
        assert_eq!(woken, [task(2)]);
        let later = START.plus(CLEAN_RUN);
        assert_eq!(cuts.admit(task(2), cut(2), later), Ok(()));
        assert_eq!(cuts.held_against(task(2), cut(2), later), cut(2));
    }
}
