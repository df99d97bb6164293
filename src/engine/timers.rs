//! What is to happen when: each thing at most once, in one ordered set. The waits of tasks are the queue's.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// The end of the time that a job has.
    JobDeadline(JobId),
    /// The time before which no task of a job starts.
    JobStart(JobId),
    /// The job's rate allows a start again.
    JobRested(JobId),
    /// The host's pause is over for a tenant.
    HostWake(Host, TenantNo),
    /// The host's rate allows a start again.
    RateWake(Host),
    /// The tenant's rate allows a start again.
    TenantRested(TenantNo),
    /// The pause of a host is over whose lanes may be parked at this one, that of a mirror.
    MirrorWake(Host),
    /// Time to look for jobs to remove.
    Housekeeping,
    /// Time to look whether there is disk space for those who wait for it.
    DiskLook,
    /// A task whose time is over and that could not be read has rested.
    LateRested(TaskId),
    /// Time to try again to remove what there was no room to remove.
    Removals,
    /// The end of the time that a drain leaves to requests that must not be sent twice.
    Cut,
}

/// All that is due.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    order: BTreeSet<(Timestamp, Timer)>,
    set: HashMap<Timer, Timestamp>,
}

impl Timers {
    /// Sets a timer, in place of an earlier setting of the same one.
    pub(crate) fn set(&mut self, when: Timestamp, timer: Timer) {
        if let Some(before) = self.set.insert(timer.clone(), when) {
            self.order.remove(&(before, timer.clone()));
        }
        self.order.insert((when, timer));
    }

    /// Sets a timer unless it is set to an earlier time.
    pub(crate) fn set_earlier(&mut self, when: Timestamp, timer: Timer) {
        if self.set.get(&timer).is_none_or(|before| when < *before) {
            self.set(when, timer);
        }
    }

    /// Removes a timer.
    pub(crate) fn clear(&mut self, timer: &Timer) {
        if let Some(before) = self.set.remove(timer) {
            self.order.remove(&(before, timer.clone()));
        }
    }

    /// Takes out the earliest timer that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Timer> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.set.remove(&timer);
        Some(timer)
    }

    /// How long to sleep.
    pub(crate) fn wait(&self, now: Timestamp) -> Duration {
        self.order.first().map_or(SLEEP_MAX, |(when, _)| when.since(now).min(SLEEP_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_is_due_in_order() {
        let mut timers = Timers::default();
        timers.set(Timestamp(20), Timer::Housekeeping);
        timers.set(Timestamp(10), Timer::HostWake(Host::new("a:80"), 1));
        assert_eq!(timers.wait(Timestamp(5)), Duration::from_micros(5));
        assert_eq!(timers.pop_due(Timestamp(5)), None);
        assert_eq!(timers.pop_due(Timestamp(15)), Some(Timer::HostWake(Host::new("a:80"), 1)));
        assert_eq!(timers.pop_due(Timestamp(15)), None);
        assert_eq!(timers.pop_due(Timestamp(20)), Some(Timer::Housekeeping));
    }

    #[test]
    fn a_timer_is_set_once() {
        let mut timers = Timers::default();
        timers.set(Timestamp(20), Timer::Housekeeping);
        timers.set(Timestamp(30), Timer::Housekeeping);
        timers.set_earlier(Timestamp(40), Timer::Housekeeping);
        assert_eq!(timers.pop_due(Timestamp(25)), None);
        assert_eq!(timers.pop_due(Timestamp(35)), Some(Timer::Housekeeping));
        timers.set(Timestamp(1), Timer::DiskLook);
        timers.clear(&Timer::DiskLook);
        assert_eq!(timers.pop_due(Timestamp(100)), None);
    }
}
