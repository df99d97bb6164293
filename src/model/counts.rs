//! How many tasks of a job are in which state.

use serde::{Deserialize, Serialize};

use crate::model::task::TaskState;

/// How many tasks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The contract's names.
pub struct Counts {
    pub total: u32,
    pub pending: u32,
    pub running: u32,
    pub backing_off: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
}

impl Counts {
    /// Tasks that have not ended. A row whose numbers are damaged may say that there are more than a job can have.
    pub fn unfinished(&self) -> u32 {
        self.pending.saturating_add(self.running).saturating_add(self.backing_off)
    }

    /// The count of one state.
    pub fn of(&mut self, state: TaskState) -> &mut u32 {
        match state {
            TaskState::Pending => &mut self.pending,
            TaskState::Running => &mut self.running,
            TaskState::BackingOff => &mut self.backing_off,
            TaskState::Succeeded => &mut self.succeeded,
            TaskState::Failed => &mut self.failed,
            TaskState::Cancelled => &mut self.cancelled,
        }
    }

    /// Whether at least `count` tasks are in `state`.
    pub fn has(mut self, state: TaskState, count: u32) -> bool {
        *self.of(state) >= count
    }

    /// Moves `count` tasks from one state to another, if there are as many. `false` changes nothing.
    #[must_use]
    pub fn try_move(&mut self, from: TaskState, to: TaskState, count: u32) -> bool {
        let there = self.has(from, count);
        if there {
            self.shift(from, to, count);
        }
        there
    }

    /// Moves tasks as the store found them. Its rows are the truth, so a count that does not hold as many stops at 0.
    pub(crate) fn shift(&mut self, from: TaskState, to: TaskState, count: u32) {
        *self.of(from) = self.of(from).saturating_sub(count);
        *self.of(to) = self.of(to).saturating_add(count);
    }

    /// Takes in new tasks.
    pub fn added(&mut self, count: u32) {
        self.total += count;
        self.pending += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_can_be_are_not_none() {
        let counts = Counts { pending: 1, running: u32::MAX, ..Counts::default() };
        assert_eq!(counts.unfinished(), u32::MAX);
    }
}
