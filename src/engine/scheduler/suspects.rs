//! Which of the tasks that may have brought the server down runs: one at a time. So the next crash is held against the one that ran,
//! and not against those that only ran beside it before. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::engine::queue::task::BatchNumber;
use crate::model::ids::TaskId;
use crate::model::time::Timestamp;

/// How long a suspect runs before another one may run beside it: what it does to the server it has mostly done by then.
const ALONE: Duration = Duration::from_secs(30);
/// How many are woken when one has ended. Most of them find that another one runs, and wait again.
const WAKES_MAX: usize = 16;

/// The suspects that wait for each other.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Since when each of them runs, and the batch that has its end.
    running: HashMap<TaskId, (Timestamp, Option<BatchNumber>)>,
    /// Those that were kept from running, and have not run since.
    kept: BTreeSet<TaskId>,
    /// Those of them that have not been woken since.
    asleep: BTreeSet<TaskId>,
}

impl Suspects {
    /// Whether a suspect may run.
    ///
    /// # Errors
    ///
    /// Until when another one is to run without it.
    pub(super) fn admit(&mut self, task: TaskId, now: Timestamp) -> Result<(), Timestamp> {
        let until = self.running.values().map(|(since, _)| since.plus(ALONE)).max();
        let Some(until) = until.filter(|until| *until > now) else { return Ok(()) };
        self.kept.insert(task);
        self.asleep.insert(task);
        Err(until)
    }

    /// Whether a task was kept from running, and has not run since.
    pub(super) fn has_kept(&self, task: TaskId) -> bool {
        self.kept.contains(&task)
    }

    /// Notes that a suspect runs.
    pub(super) fn runs(&mut self, task: TaskId, now: Timestamp) {
        self.running.insert(task, (now, None));
    }

    /// A task is kept from running no more: it runs, or is no suspect.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.kept.remove(&task);
        self.asleep.remove(&task);
    }

    /// Notes that batch `batch` has the end of a suspect, or what shows that it is none. Until that is durable a crash is held
    /// against it.
    pub(super) fn passes(&mut self, task: TaskId, batch: BatchNumber) {
        if let Some((_, end)) = self.running.get_mut(&task) {
            end.get_or_insert(batch);
        }
    }

    /// Takes in that a batch is durable. Where that ends a suspect, others look again whether they may run: `wake` has one do so, and
    /// returns whether it still waits. Those that were cancelled meanwhile do not, and wake nobody when they end.
    pub(super) fn committed(&mut self, batch: BatchNumber, mut wake: impl FnMut(TaskId) -> bool) {
        let before = self.running.len();
        self.running.retain(|_, (_, end)| end.is_none_or(|end| end > batch));
        let mut left = if before > self.running.len() { WAKES_MAX } else { 0 };
        while left > 0
            && let Some(task) = self.asleep.pop_first()
        {
            left -= usize::from(wake(task));
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::ids::JobId;

    const START: Timestamp = Timestamp(1_000_000);

    fn task(index: u32) -> TaskId {
        TaskId { job: JobId(Uuid::nil()), index }
    }

    #[test]
    fn one_runs_until_its_end_is_durable() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.admit(task(1), START), Ok(()));
        suspects.runs(task(1), START);
        for index in 2..40 {
            assert_eq!(suspects.admit(task(index), START), Err(START.plus(ALONE)));
        }
        // The first twenty have been cancelled since.
        let woken = |suspects: &mut Suspects, batch| {
            let mut woken = Vec::new();
            suspects.committed(batch, |id| {
                let waits = id.index > 20;
                woken.extend(waits.then_some(id));
                waits
            });
            woken
        };
        suspects.passes(task(1), 7);
        assert_eq!(woken(&mut suspects, 6), []);
        assert!(suspects.admit(task(22), START).is_err(), "a crash now would be held against the first");
        assert_eq!(woken(&mut suspects, 7), (21..21 + WAKES_MAX as u32).map(task).collect::<Vec<_>>());
        assert_eq!(suspects.admit(task(9), START), Ok(()));
        suspects.runs(task(9), START);
        suspects.forget(task(9));
        assert!(suspects.admit(task(22), START).is_err() && suspects.has_kept(task(22)) && !suspects.has_kept(task(9)));
        suspects.passes(task(9), 8);
        assert_eq!(woken(&mut suspects, 8)[0], task(22), "it was kept again");
    }

    #[test]
    fn one_that_runs_for_long_holds_up_no_other() {
        let mut suspects = Suspects::default();
        suspects.runs(task(1), START);
        let until = suspects.admit(task(2), START).unwrap_err();
        assert_eq!(suspects.admit(task(2), until), Ok(()));
        suspects.runs(task(2), until);
        assert_eq!(suspects.admit(task(3), until), Err(until.plus(ALONE)));
    }
}
