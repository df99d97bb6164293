//! Which jobs changed since somebody who follows many of them last looked: one list for all who follow a tenant, in which each
//! has only its place, so that one more of them costs a publication nothing, and one who does not look costs no memory.
//!
//! The lists are bounded together. What is dropped is of the tenant that has the most in them, so that one of which many jobs
//! change does not make those of another look too late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::ids::{JobId, JobMap};
use crate::model::tenant::TenantNo;

/// Whose jobs are of which nobody knows any more whose they were: whoever follows looks at them.
const GONE: TenantNo = 0;

/// The jobs that changed, each with the number of its last change.
#[derive(Debug)]
pub(crate) struct Changes {
    /// How many are kept for those who look late.
    jobs_max: usize,
    lists: Mutex<Lists>,
    /// The number of the last change. Without a receiver nobody listens.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Lists {
    of: BTreeMap<TenantNo, List>,
    /// How many jobs are in all of them.
    jobs: usize,
    /// The number of the last change, also while nobody listens.
    last: u64,
    /// The number of the last change of which nobody was to hear.
    unheard: u64,
}

/// The changed jobs of one tenant.
#[derive(Debug, Default)]
struct List {
    by_number: BTreeMap<u64, JobId>,
    by_job: JobMap<u64>,
    /// The number of the last change that the list has dropped.
    dropped: u64,
}

/// Somebody who follows many jobs.
#[derive(Debug)]
pub struct Listener {
    changes: Arc<Changes>,
    last: watch::Receiver<u64>,
    /// Whose jobs it follows; `None`: those of all.
    of: Option<TenantNo>,
    /// The number of the last change that it knows.
    place: u64,
}

/// A listener looked so late that it is not known any more which jobs changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedTooLate;

impl List {
    /// Notes a change. Returns whether the job was not in the list.
    fn note(&mut self, job: JobId, number: u64) -> bool {
        let before = self.by_job.insert(job, number);
        if let Some(before) = before {
            self.by_number.remove(&before);
        }
        self.by_number.insert(number, job);
        before.is_none()
    }

    fn drop_first(&mut self) {
        if let Some((number, job)) = self.by_number.pop_first() {
            self.by_job.remove(&job);
            self.dropped = number;
        }
    }
}

impl Changes {
    /// Empty lists that keep so many jobs.
    pub(crate) fn new(jobs_max: usize) -> Changes {
        Changes { jobs_max, lists: Mutex::default(), last: watch::Sender::default() }
    }

    /// Follows the jobs of a tenant; `None`: of all.
    pub(crate) fn listen(changes: &Arc<Changes>, of: Option<TenantNo>) -> Listener {
        // Under the lock: a change comes before this listener, which then reads it elsewhere, or is in the list for it.
        let lists = changes.lock();
        Listener { changes: changes.clone(), last: changes.last.subscribe(), of, place: lists.last }
    }

    /// Notes that a job of a tenant changed, or is gone; `None`: nobody knows whose it was.
    pub(crate) fn note(&self, job: JobId, tenant: Option<TenantNo>) {
        let mut lists = self.lock();
        lists.last += 1;
        let number = lists.last;
        if self.last.receiver_count() == 0 {
            lists.of.clear();
            lists.jobs = 0;
            lists.unheard = number;
            return;
        }
        let is_new = lists.of.entry(tenant.unwrap_or(GONE)).or_default().note(job, number);
        lists.jobs += usize::from(is_new);
        if lists.jobs > self.jobs_max {
            lists.jobs -= 1;
            let fullest = lists.of.values_mut().max_by_key(|list| list.by_number.len());
            fullest.into_iter().for_each(List::drop_first);
        }
        drop(lists);
        self.last.send_replace(number);
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        // Each critical section leaves the data whole at every step.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Waits for a change since the last look.
    pub async fn changed(&mut self) {
        let place = self.place;
        // The sender lives as long as this does.
        let _ = self.last.wait_for(|last| *last > place).await;
    }

    /// The number of the last change that there is now.
    pub fn latest(&self) -> u64 {
        self.changes.lock().last
    }

    /// Takes the jobs that changed since the last look, each once, in the order of their last changes.
    ///
    /// # Errors
    ///
    /// There were too many to keep; the list of jobs has to be read again.
    pub fn take(&mut self) -> Result<Vec<JobId>, LookedTooLate> {
        let latest = self.latest();
        self.take_some(latest, usize::MAX)
    }

    /// Takes at most `max` of the jobs whose last change since the last look is not after the change `until`; the next look
    /// goes on behind them. Fewer than `max`: these were all. So who sends them one after the other keeps few of them: the list keeps
    /// the others, once for all who follow.
    ///
    /// # Errors
    ///
    /// There were too many to keep; the list of jobs has to be read again.
    pub fn take_some(&mut self, until: u64, max: usize) -> Result<Vec<JobId>, LookedTooLate> {
        let lists = self.changes.lock();
        let is_followed = |tenant: TenantNo| tenant == GONE || self.of.is_none_or(|of| of == tenant);
        let followed = || lists.of.iter().filter(|(tenant, _)| is_followed(**tenant)).map(|(_, list)| list);
        let place = self.place;
        if followed().map(|list| list.dropped).chain([lists.unheard]).any(|dropped| place < dropped) {
            self.place = lists.last;
            return Err(LookedTooLate);
        }
        if until <= place {
            return Ok(Vec::new());
        }
        let mut changed: Vec<(u64, JobId)> = Vec::new();
        for list in followed() {
            let later = list.by_number.range(place + 1..=until).take(max);
            changed.extend(later.map(|(number, job)| (*number, *job)));
        }
        changed.sort_unstable();
        changed.truncate(max);
        let is_all = changed.len() < max;
        self.place = changed.last().filter(|_| !is_all).map_or(until, |(number, _)| *number);
        Ok(changed.into_iter().map(|(_, job)| job).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS_MAX: usize = 1_000;

    fn job(number: usize) -> JobId {
        JobId(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn each_listener_sees_each_job_that_changed_since_it_looked() {
        let changes = Arc::new(Changes::new(100));
        changes.note(job(1), Some(1));
        let mut first = Changes::listen(&changes, None);
        changes.note(job(2), Some(1));
        let mut second = Changes::listen(&changes, None);
        changes.note(job(3), Some(1));
        changes.note(job(2), Some(1));
        assert_eq!(first.take(), Ok(vec![job(3), job(2)]));
        assert_eq!(first.take(), Ok(vec![]));
        assert_eq!(second.take(), Ok(vec![job(3), job(2)]));
        changes.note(job(4), Some(1));
        assert_eq!((first.take(), second.take()), (Ok(vec![job(4)]), Ok(vec![job(4)])));
    }

    #[test]
    fn a_listener_that_never_looks_costs_no_memory_and_is_told() {
        let changes = Arc::new(Changes::new(JOBS_MAX));
        let mut late = Changes::listen(&changes, None);
        (0..JOBS_MAX).for_each(|number| changes.note(job(number), Some(1)));
        assert_eq!(late.take().map(|jobs| jobs.len()), Ok(JOBS_MAX));
        let mut other = Changes::listen(&changes, None);
        (0..3 * JOBS_MAX).for_each(|number| changes.note(job(number), Some(1)));
        assert_eq!(changes.lock().jobs, JOBS_MAX);
        assert_eq!((late.take(), other.take()), (Err(LookedTooLate), Err(LookedTooLate)));
        changes.note(job(7), Some(1));
        assert_eq!(late.take(), Ok(vec![job(7)]));
        drop((late, other));
        changes.note(job(8), Some(1));
        assert!(changes.lock().of.is_empty(), "nobody listens");
        let mut new = Changes::listen(&changes, None);
        assert_eq!(new.take(), Ok(vec![]));
    }

    #[test]
    fn a_tenant_of_which_much_changes_pushes_out_no_other() {
        let changes = Arc::new(Changes::new(JOBS_MAX));
        let [mut quiet, mut noisy, mut all] = [Some(1), Some(2), None].map(|of| Changes::listen(&changes, of));
        changes.note(job(1), Some(1));
        (10..10 + 2 * JOBS_MAX).for_each(|number| changes.note(job(number), Some(2)));
        changes.note(job(2), Some(1));
        changes.note(job(1), None);
        assert_eq!(quiet.take(), Ok(vec![job(1), job(2), job(1)]), "one of nobody is looked at, too");
        assert_eq!((noisy.take(), all.take()), (Err(LookedTooLate), Err(LookedTooLate)));
        changes.note(job(11), Some(2));
        assert_eq!((quiet.take(), noisy.take(), all.take()), (Ok(vec![]), Ok(vec![job(11)]), Ok(vec![job(11)])));
    }

    #[test]
    fn what_changed_is_taken_in_parts_in_the_order_of_the_changes() {
        let changes = Arc::new(Changes::new(100));
        let mut listener = Changes::listen(&changes, None);
        for (number, of) in [(1, 1), (2, 2), (3, 2), (4, 1), (5, 1)] {
            changes.note(job(number), Some(of));
        }
        let until = listener.latest();
        assert_eq!(listener.take_some(until, 2), Ok(vec![job(1), job(2)]));
        // What changes again comes with the next look alone.
        changes.note(job(4), Some(1));
        changes.note(job(1), Some(1));
        assert_eq!(listener.take_some(until, 2), Ok(vec![job(3), job(5)]));
        assert_eq!(listener.take_some(until, 2), Ok(vec![]));
        assert_eq!(listener.take_some(until, 2), Ok(vec![]), "also behind the end");
        assert_eq!(listener.take(), Ok(vec![job(4), job(1)]));
        assert_eq!(listener.take(), Ok(vec![]));
    }

    #[tokio::test]
    async fn a_change_wakes_whoever_waits_and_one_that_was_seen_does_not() {
        use futures_util::FutureExt as _;
        let changes = Arc::new(Changes::new(100));
        let mut listener = Changes::listen(&changes, None);
        assert!(listener.changed().now_or_never().is_none());
        changes.note(job(1), Some(1));
        listener.changed().await;
        assert_eq!(listener.take(), Ok(vec![job(1)]));
        assert!(listener.changed().now_or_never().is_none());
    }
}
