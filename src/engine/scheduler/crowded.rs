//! Retries of named tasks that wait for a batch with room for them, in the order in which they came.
//!
//! What the store has of them is kept as far as that is within a bound: a job may have many lanes, and those who wait are many.
//! Beyond, it is looked up again when the turn of the retry has come.

use std::collections::VecDeque;

use crate::engine::command::{Admitted, JobCommand};
use crate::engine::scheduler::read::Found;
use crate::model::ids::JobId;

/// A retry that waits.
#[derive(Debug)]
struct Waiting {
    job: JobId,
    admitted: Admitted<JobCommand>,
    rows: usize,
    found: Option<Box<Found>>,
}

/// The retries that wait.
#[derive(Debug)]
pub(super) struct Crowded {
    waiting: VecDeque<Waiting>,
    /// The memory of what is kept of the store, roughly, and what it may be.
    bytes: usize,
    most: usize,
    /// The first of them, while it is looked up again.
    looked_up: Option<JobId>,
}

/// The retry whose turn has come.
#[derive(Debug)]
pub(super) enum Next {
    /// With what the store has of it.
    Found(JobId, Admitted<JobCommand>, Box<Found>),
    /// That is to be looked up again. Nobody else has a turn until [`Crowded::is_looked_up`].
    LookUp(JobId, Admitted<JobCommand>),
}

impl Crowded {
    /// None wait. What is kept of them takes so many bytes at most.
    pub(super) fn new(most: usize) -> Crowded {
        Crowded { waiting: VecDeque::new(), bytes: 0, most, looked_up: None }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.looked_up.is_none()
    }

    /// Adds a retry that moves so many rows, behind the others.
    pub(super) fn push(&mut self, job: JobId, admitted: Admitted<JobCommand>, rows: usize, found: Box<Found>) {
        let bytes = found.bytes();
        let found = (self.bytes + bytes <= self.most).then_some(found);
        self.bytes += found.as_ref().map_or(0, |_| bytes);
        self.waiting.push_back(Waiting { job, admitted, rows, found });
    }

    /// Puts the first one back, that was looked up again.
    pub(super) fn put_back(&mut self, job: JobId, admitted: Admitted<JobCommand>, rows: usize, found: Box<Found>) {
        self.bytes += found.bytes();
        self.waiting.push_front(Waiting { job, admitted, rows, found: Some(found) });
    }

    /// Whether this is the first one, that was looked up again. Its turn is over.
    pub(super) fn is_looked_up(&mut self, job: JobId) -> bool {
        self.looked_up.take_if(|first| *first == job).is_some()
    }

    /// Takes out the first one, if a batch has room for its rows.
    pub(super) fn next(&mut self, has_room: impl FnOnce(usize) -> bool) -> Option<Next> {
        if self.looked_up.is_some() || !has_room(self.waiting.front()?.rows) {
            return None;
        }
        let Waiting { job, admitted, found, .. } = self.waiting.pop_front()?;
        let Some(found) = found else {
            self.looked_up = Some(job);
            return Some(Next::LookUp(job, admitted));
        };
        self.bytes -= found.bytes();
        Some(Next::Found(job, admitted, found))
    }

    /// Takes out all of them, to be refused.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = JobCommand> {
        self.bytes = 0;
        self.waiting.drain(..).map(|waiting| waiting.admitted.command)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::engine::scheduler::read::Retriable;
    use crate::model::access::Actor;
    use crate::model::host::Host;
    use crate::model::task_filter::TaskChoice;

    fn retry() -> Admitted<JobCommand> {
        let command = JobCommand::Retry { which: TaskChoice::All, reply: oneshot::channel().0 };
        Admitted { command, by: Arc::new(Actor::local()), room: None }
    }

    fn found(lanes: usize) -> Box<Found> {
        let lanes = vec![(Host::new("a.example:443"), 0); lanes];
        let retriable = Retriable { lanes, which: TaskChoice::These(vec![1]), failed: 1, cancelled: 0, failure: None };
        Box::new(Found { retry: Some(Ok(retriable)), ..Found::default() })
    }

    /// What is kept of a thousand jobs over a hundred thousand hosts each would take more memory than there is.
    #[test]
    fn what_waits_is_kept_within_its_bound_and_keeps_its_order() {
        let job = |number| JobId(Uuid::from_u128(number));
        let mut crowded = Crowded::new(2 * found(100).bytes());
        for number in 0..5 {
            crowded.push(job(number), retry(), 10, found(if number == 4 { 0 } else { 100 }));
        }
        assert!(crowded.bytes <= crowded.most && crowded.bytes >= found(100).bytes() * 2);
        assert!(crowded.next(|rows| rows < 10).is_none(), "there is no room");
        let mut order = Vec::new();
        while let Some(next) = crowded.next(|rows| rows == 10) {
            match next {
                Next::Found(id, ..) => order.push((id, true)),
                Next::LookUp(id, admitted) => {
                    order.push((id, false));
                    assert!(!crowded.is_empty() && crowded.next(|_| true).is_none(), "it is its turn");
                    assert!(!crowded.is_looked_up(job(9)) && crowded.is_looked_up(id));
                    crowded.put_back(id, admitted, 10, found(100));
                }
            }
        }
        let looked_up = |number| [(job(number), false), (job(number), true)];
        let expected =
            [vec![(job(0), true), (job(1), true)], looked_up(2).into(), looked_up(3).into(), looked_up(4).into()];
        assert_eq!(order, expected.concat());
        assert!(crowded.is_empty() && crowded.bytes == 0);
    }
}
