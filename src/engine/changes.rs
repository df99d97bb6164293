//! Which jobs changed since somebody who follows many of them last looked: one list for all who follow, in which each has
//! only its place, so that one more of them costs a publication nothing, and one who does not look costs no memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::ids::JobId;

/// The jobs that changed, each with the number of its last change.
#[derive(Debug)]
pub(crate) struct Changes {
    /// How many are kept for those who look late.
    jobs_max: usize,
    list: Mutex<List>,
    /// The number of the last change. Without a receiver nobody listens.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct List {
    by_number: BTreeMap<u64, JobId>,
    by_job: HashMap<JobId, u64>,
    /// The number of the last change, also while nobody listens.
    last: u64,
    /// The number of the last change that the list has dropped.
    dropped: u64,
}

/// Somebody who follows many jobs.
#[derive(Debug)]
pub struct Listener {
    changes: Arc<Changes>,
    last: watch::Receiver<u64>,
    /// The number of the last change that it knows.
    place: u64,
}

/// A listener looked so late that it is not known any more which jobs changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedTooLate;

impl Changes {
    /// An empty list that keeps so many.
    pub(crate) fn new(jobs_max: usize) -> Changes {
        Changes { jobs_max, list: Mutex::default(), last: watch::Sender::default() }
    }

    pub(crate) fn listen(changes: &Arc<Changes>) -> Listener {
        // Under the lock: a change comes before this listener, which then reads it elsewhere, or is in the list for it.
        let list = changes.lock();
        Listener { changes: changes.clone(), last: changes.last.subscribe(), place: list.last }
    }

    pub(crate) fn note(&self, job: JobId) {
        let mut list = self.lock();
        list.last += 1;
        let number = list.last;
        if self.last.receiver_count() == 0 {
            if !list.by_number.is_empty() {
                *list = List { last: number, ..List::default() };
            }
            list.dropped = number;
            return;
        }
        if let Some(before) = list.by_job.insert(job, number) {
            list.by_number.remove(&before);
        }
        list.by_number.insert(number, job);
        if list.by_number.len() > self.jobs_max
            && let Some((number, job)) = list.by_number.pop_first()
        {
            list.by_job.remove(&job);
            list.dropped = number;
        }
        drop(list);
        self.last.send_replace(number);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Each critical section leaves the data whole at every step.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Waits for a change since the last look.
    pub async fn changed(&mut self) {
        let place = self.place;
        // The sender lives as long as this does.
        let _ = self.last.wait_for(|last| *last > place).await;
    }

    /// The jobs that changed since the last look, each once, in the order of their last changes.
    ///
    /// # Errors
    ///
    /// There were too many to keep; the list of jobs has to be read again.
    pub fn take(&mut self) -> Result<Vec<JobId>, LookedTooLate> {
        let list = self.changes.lock();
        let place = std::mem::replace(&mut self.place, list.last);
        if place < list.dropped {
            return Err(LookedTooLate);
        }
        Ok(list.by_number.range(place + 1..).map(|(_, job)| *job).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: usize) -> JobId {
        JobId(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn each_listener_sees_each_job_that_changed_since_it_looked() {
        let changes = Arc::new(Changes::new(100));
        changes.note(job(1));
        let mut first = Changes::listen(&changes);
        changes.note(job(2));
        let mut second = Changes::listen(&changes);
        changes.note(job(3));
        changes.note(job(2));
        assert_eq!(first.take(), Ok(vec![job(3), job(2)]));
        assert_eq!(first.take(), Ok(vec![]));
        assert_eq!(second.take(), Ok(vec![job(3), job(2)]));
        changes.note(job(4));
        assert_eq!((first.take(), second.take()), (Ok(vec![job(4)]), Ok(vec![job(4)])));
    }

    #[test]
    fn a_listener_that_never_looks_costs_no_memory_and_is_told() {
        const JOBS_MAX: usize = 1_000;
        let changes = Arc::new(Changes::new(JOBS_MAX));
        let mut late = Changes::listen(&changes);
        (0..JOBS_MAX).for_each(|number| changes.note(job(number)));
        assert_eq!(late.take().map(|jobs| jobs.len()), Ok(JOBS_MAX));
        let mut other = Changes::listen(&changes);
        (0..3 * JOBS_MAX).for_each(|number| changes.note(job(number)));
        assert_eq!(changes.lock().by_job.len(), JOBS_MAX);
        assert_eq!((late.take(), other.take()), (Err(LookedTooLate), Err(LookedTooLate)));
        changes.note(job(7));
        assert_eq!(late.take(), Ok(vec![job(7)]));
        drop((late, other));
        changes.note(job(8));
        assert!(changes.lock().by_job.is_empty(), "nobody listens");
        let mut new = Changes::listen(&changes);
        assert_eq!(new.take(), Ok(vec![]));
    }

    #[tokio::test]
    async fn a_change_wakes_whoever_waits_and_one_that_was_seen_does_not() {
        use futures_util::FutureExt as _;
        let changes = Arc::new(Changes::new(100));
        let mut listener = Changes::listen(&changes);
        assert!(listener.changed().now_or_never().is_none());
        changes.note(job(1));
        listener.changed().await;
        assert_eq!(listener.take(), Ok(vec![job(1)]));
        assert!(listener.changed().now_or_never().is_none());
    }
}
