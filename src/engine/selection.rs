//! What is being done to some tasks of a job that goes on: plain values.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::command::{Acted, Reply};
use crate::model::access::Actor;
use crate::model::counts::Counts;
use crate::model::failure::TaskError;
use crate::model::ids::TaskIndex;
use crate::model::task::TaskState;
use crate::model::task_filter::TaskChoice;

/// The tasks that a call acts on: those that fit and were there when it came.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) which: TaskChoice,
    /// The lowest index that was not there.
    pub(crate) to: TaskIndex,
}

/// Tasks are being ended because somebody asked for that.
#[derive(Debug)]
pub(crate) struct Withdrawal {
    pub(crate) which: TaskChoice,
    /// The lowest index that was not there when the call came.
    pub(crate) to: TaskIndex,
    /// What they end with.
    pub(crate) error: TaskError,
    pub(crate) by: Arc<Actor>,
    /// Those whose attempts are being stopped.
    pub(crate) running: BTreeSet<TaskIndex>,
    /// The state of those that are ended next, and from which index on; `None`: none waits any more.
    pub(crate) sweeping: Option<(TaskState, TaskIndex)>,
    /// How many have ended by it.
    pub(crate) count: u32,
    /// Whether the audit has it.
    pub(crate) is_noted: bool,
    pub(crate) reply: Reply<Acted>,
}

impl Withdrawal {
    /// Returns what is to be ended first of the tasks that wait; `None`: none of them.
    pub(crate) fn first(which: &TaskChoice, counts: &Counts) -> Option<(TaskState, TaskIndex)> {
        let states = [TaskState::Pending, TaskState::BackingOff];
        states.into_iter().find(|state| which.has_state(*state) && counts.has(*state, 1)).map(|state| (state, 0))
    }

    /// Takes in a piece that has ended `count` tasks in `state`; the next one begins at `next`, if there is one.
    pub(crate) fn swept(&mut self, state: TaskState, count: u32, next: Option<TaskIndex>) {
        self.count += count;
        self.sweeping = match (state, next) {
            (state, Some(next)) => Some((state, next)),
            (TaskState::Pending, None) if self.which.has_state(TaskState::BackingOff) => {
                Some((TaskState::BackingOff, 0))
            }
            _ => None,
        };
    }

    /// Returns whether nothing is left to end.
    pub(crate) fn is_over(&self) -> bool {
        self.sweeping.is_none() && self.running.is_empty()
    }
}

/// Tasks are being made due.
#[derive(Debug)]
pub(crate) struct Hastening {
    pub(crate) which: TaskChoice,
    /// The lowest index that was not there when the call came.
    pub(crate) to: TaskIndex,
    pub(crate) by: Arc<Actor>,
    /// Where to go on.
    pub(crate) from: TaskIndex,
    /// How many are due by it.
    pub(crate) count: u32,
    /// Whether the audit has it.
    pub(crate) is_noted: bool,
    pub(crate) reply: Reply<Acted>,
}
