//! Tasks whose time is over and that are being read, or could not be. Pure.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::ids::{JobId, TaskId};

/// Tasks that are read at once.
const READS_MAX: usize = 8;
/// Tasks that are looked at in one go. Many of those whose time is over may have gone, or rest.
const LOOKS_MAX: usize = 1024;
/// The first rest of a task that could not be read; doubled with each failure that follows.
const REST_MIN: Duration = Duration::from_millis(50);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// What goes on with tasks whose time is over.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    /// How many reads are under way.
    pub(super) under_way: usize,
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
    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.under_way < READS_MAX
    }

    /// Chooses tasks to be read out of those that `next` gives, each with whether memory has only its wait.
    pub(super) fn choose(&mut self, mut next: impl FnMut() -> Option<(TaskId, bool)>) -> Vec<TaskId> {
        let mut chosen = Vec::new();
        for _ in 0..LOOKS_MAX {
            if !self.has_room() {
                break;
            }
            let Some((id, is_left)) = next() else { break };
            if !is_left {
                self.forget(id);
            } else if !self.is_resting(id) {
                self.under_way += 1;
                chosen.push(id);
            }
        }
        chosen
    }

    /// Whether a task rests.
    fn is_resting(&self, id: TaskId) -> bool {
        self.failed.get(&id).is_some_and(|failed| failed.is_resting)
    }

    /// Forgets a task: it was read, or is not to be.
    pub(super) fn forget(&mut self, id: TaskId) {
        self.failed.remove(&id);
    }

    /// Forgets the tasks of a job.
    pub(super) fn forget_job(&mut self, job: JobId) {
        if !self.failed.is_empty() {
            self.failed.retain(|id, _| id.job != job);
        }
    }

    /// Notes that a task has rested.
    pub(super) fn has_rested(&mut self, id: TaskId) {
        if let Some(failed) = self.failed.get_mut(&id) {
            failed.is_resting = false;
        }
    }

    /// Notes that a task could not be read. Returns how long it rests.
    pub(super) fn fails(&mut self, id: TaskId) -> Duration {
        let before = self.failed.get(&id).map(|failed| failed.rest);
        let rest = before.map_or(REST_MIN, |rest| (rest * 2).min(REST_MAX));
        self.failed.insert(id, Failed { rest, is_resting: true });
        rest
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
        late.forget_job(id.job);
        assert!(late.failed.is_empty());
    }

    /// Of a million whose time is over and that have gone, one turn looks at a few.
    #[test]
    fn one_turn_looks_at_few_tasks() {
        let mut late = LateReads::default();
        let id = |index| TaskId { job: JobId(Uuid::nil()), index };
        late.fails(id(2_000));
        let mut from = 0;
        let mut next = || {
            from += 1;
            Some((id(from), from >= 2_000))
        };
        assert_eq!(late.choose(&mut next), []);
        let chosen = late.choose(&mut next);
        assert_eq!(chosen, (2_001..2_009).map(id).collect::<Vec<_>>(), "one of them rests");
        assert!(!late.has_room() && late.choose(next).is_empty());
        assert!(from < 2_048, "{from}");
    }
}
