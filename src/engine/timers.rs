//! What is to happen when: each thing at most once, in one ordered set, and the starts of jobs in another. The waits of tasks are
//! the queue's.

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
    /// A job that is to be read again, once more within a short time, has rested.
    JobReread(JobId),
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

/// The times before which no task of a job starts. That of a job never changes, so it is found by the time itself: jobs that wait
/// for theirs are many, and this is a third of what as many timers take.
#[derive(Debug, Default)]
pub(crate) struct Starts(BTreeSet<(Timestamp, JobId)>);

impl Starts {
    /// Notes the start of a job.
    pub(crate) fn set(&mut self, start: Timestamp, job: JobId) {
        self.0.insert((start, job));
    }

    /// Forgets it.
    pub(crate) fn clear(&mut self, start: Timestamp, job: JobId) {
        self.0.remove(&(start, job));
    }

    /// Takes out the first job that may start at `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<JobId> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, job)| job)
    }

    /// How long to sleep.
    pub(crate) fn wait(&self, now: Timestamp) -> Duration {
        self.0.first().map_or(SLEEP_MAX, |(start, _)| start.since(now).min(SLEEP_MAX))
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
    fn jobs_start_in_order_unless_they_are_gone() {
        let (mut starts, job) = (Starts::default(), |number| JobId(uuid::Uuid::from_u128(number)));
        assert_eq!((starts.wait(Timestamp(5)), starts.pop_due(Timestamp(5))), (SLEEP_MAX, None));
        for (start, number) in [(20, 1), (10, 2), (10, 3), (15, 4)] {
            starts.set(Timestamp(start), job(number));
        }
        starts.clear(Timestamp(10), job(3));
        assert_eq!(starts.wait(Timestamp(4)), Duration::from_micros(6));
        let due = |starts: &mut Starts, now| std::iter::from_fn(|| starts.pop_due(Timestamp(now))).collect::<Vec<_>>();
        assert_eq!([due(&mut starts, 9), due(&mut starts, 19)], [vec![], vec![job(2), job(4)]]);
        assert_eq!([due(&mut starts, 20), due(&mut starts, 30)], [vec![job(1)], vec![]]);
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
