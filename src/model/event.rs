//! The durable events of a job: what a watcher gets once, in order, live and in replay alike.

use crate::model::ids::TaskIndex;
use crate::model::time::Timestamp;

/// The kind of a durable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A task ended.
    TaskEnded = 1,
    /// The job changed: started, paused, resumed, sealed, updated, retried, being cancelled.
    JobChanged = 2,
    /// The job ended.
    JobEnded = 3,
}

impl EventKind {
    /// All of them, in the order of the contract.
    pub const ALL: [EventKind; 3] = [Self::TaskEnded, Self::JobChanged, Self::JobEnded];

    /// From its number in the contract and the store.
    pub fn from_number(number: i64) -> Option<EventKind> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// Names a durable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// Grows by one from event to event of a job, from 1.
    pub sequence: u64,
    /// When it was decided.
    pub time: Timestamp,
    /// What it is.
    pub kind: EventKind,
    /// The task, where the event is about one.
    pub task: Option<TaskIndex>,
}
