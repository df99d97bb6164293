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
    /// Tasks that have not ended.
    pub fn unfinished(&self) -> u32 {
        self.pending + self.running + self.backing_off
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

    /// Moves `count` tasks from one state to another.
    pub fn moved(&mut self, from: TaskState, to: TaskState, count: u32) {
        *self.of(from) -= count;
        *self.of(to) += count;
    }

    /// Takes in new tasks.
    pub fn added(&mut self, count: u32) {
        self.total += count;
        self.pending += count;
    }
}
