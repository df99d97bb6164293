//! What is to happen when: one ordered set, one timer.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::time::Timestamp;

/// The longest sleep. The wall clock may be set while we sleep; nothing is later than this because of it.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The next attempt of a task that is in memory.
    TaskDue(TaskId),
    /// The end of the time that a task has over all attempts.
    TaskDeadline(TaskId),
    /// The end of the time that a job has.
    JobDeadline(JobId),
    /// The time before which no task of a job starts.
    JobStart(JobId),
    /// The job's rate allows a start again.
    JobRested(JobId),
    /// The host's pause is over, or its rate allows a start again.
    HostWake(Host),
    /// A task that was given back to wait for something looks again.
    LookAgain(TaskId),
    /// Time to delete what has been kept long enough.
    Housekeeping,
}

/// All that is due.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Timestamp, Timer)>);

impl Timers {
    pub(crate) fn add(&mut self, when: Timestamp, timer: Timer) {
        self.0.insert((when, timer));
    }

    /// The earliest that is due at `now`, taken out.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Timer> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    /// How long to sleep.
    pub(crate) fn wait(&self, now: Timestamp) -> Duration {
        self.0.first().map_or(SLEEP_MAX, |(when, _)| when.since(now).min(SLEEP_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_is_due_in_order() {
        let mut timers = Timers::default();
        timers.add(Timestamp(20), Timer::Housekeeping);
        timers.add(Timestamp(10), Timer::HostWake(Host::new("a:80")));
        assert_eq!(timers.wait(Timestamp(5)), Duration::from_micros(5));
        assert_eq!(timers.pop_due(Timestamp(5)), None);
        assert_eq!(timers.pop_due(Timestamp(15)), Some(Timer::HostWake(Host::new("a:80"))));
        assert_eq!(timers.pop_due(Timestamp(15)), None);
        assert_eq!(timers.pop_due(Timestamp(20)), Some(Timer::Housekeeping));
    }
}
