//! What watchers see: durable events in order, the committed job, and how far running tasks are.
//!
//! The scheduler publishes here after each commit, and only then. Each job that has not ended has a [`Feed`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::changes::{Changes, Listener};
use crate::engine::feed::{Active, AllFeeds, Feed};
use crate::engine::figures::{OpenWork, Totals};
/// What watchers of starts are told.
pub use crate::engine::notices::Notice;
use crate::engine::published::{Batch, Shown};
use crate::model::ids::{JobId, JobMap, JobSet, TaskIndex};
use crate::model::job::Job;
use crate::model::tenant::TenantNo;
use crate::store::{StoredEvent, StoredTask};

/// Places of the table of feeds below which it is not made smaller.
const TABLE_MIN: usize = 1024;

/// All feeds.
#[derive(Debug)]
pub struct Hub {
    feeds: Mutex<JobMap<Arc<Feed>>>,
    /// Jobs that have running tasks.
    busy: Mutex<JobSet>,
    all: Arc<AllFeeds>,
    changes: Arc<Changes>,
    created: Arc<Changes>,
    totals: Totals,
    /// How many jobs have begun a feed that had events already.
    returned: AtomicU64,
}

/// A task as it ended.
pub type EndedTask = StoredTask;

impl Hub {
    /// Nothing is known yet. Of changed jobs `changed_max` are kept for those who follow many.
    pub(crate) fn new(changed_max: usize) -> Hub {
        Hub {
            feeds: Mutex::default(),
            busy: Mutex::default(),
            all: Arc::default(),
            changes: Arc::new(Changes::new(changed_max)),
            created: Arc::new(Changes::new(changed_max)),
            totals: Totals::default(),
            returned: AtomicU64::new(0),
        }
    }

    /// Changes before a job that had a feed once gets another, as one does that is retried. Whoever has found none for a job that left
    /// memory, and sees what was here before, knows that it has not come back.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Acquire)
    }

    /// The feed of a job that has not ended.
    pub fn feed(&self, job: JobId) -> Option<Arc<Feed>> {
        lock(&self.feeds).get(&job).cloned()
    }

    /// All jobs that have not ended, as they were committed last.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
        feeds.into_iter().map(|feed| feed.job()).collect()
    }

    /// How many jobs have not ended, and how many tasks they have, as they were committed last.
    pub fn open_work(&self) -> OpenWork {
        self.totals.read()
    }

    /// Jobs that have running tasks.
    pub fn busy_jobs(&self) -> Vec<JobId> {
        lock(&self.busy).iter().copied().collect()
    }

    /// Follows the jobs of a tenant, or all, until it is dropped.
    pub fn listen(&self, of: Option<TenantNo>) -> Listener {
        Changes::listen(&self.changes, of)
    }

    /// Follows the jobs that are created, of a tenant or all, until it is dropped.
    pub fn listen_created(&self, of: Option<TenantNo>) -> Listener {
        Changes::listen(&self.created, of)
    }

    /// Tells those who follow what is created that this job was.
    pub(crate) fn created(&self, job: JobId, tenant: TenantNo) {
        self.created.note(job, Some(tenant));
    }

    /// Begins the feed of a job that is durable.
    pub(crate) fn open(&self, job: Arc<Job>) {
        let id = job.id;
        if job.sequence > 0 {
            self.returned.fetch_add(1, Ordering::AcqRel);
        }
        let feed = Arc::new(Feed::new(job, self.all.clone()));
        let job = feed.job();
        let before = lock(&self.feeds).insert(id, feed);
        self.totals.moved(before.as_ref().map(|feed| feed.job()).as_deref(), Some(&job));
        // Whoever watches it is woken, and finds the new one.
        if let Some(before) = before {
            before.close();
        }
        self.changed(id, Some(job.tenant.no));
    }

    /// Publishes what a commit made durable. Without `events` that continue the ring, watchers read from the store.
    pub(crate) fn publish(&self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) {
        let (id, tenant) = (job.id, job.tenant.no);
        if let Some(feed) = self.feed(id) {
            self.publish_to(&feed, job, events);
        }
        self.changed(id, Some(tenant));
    }

    /// Wakes those who read the listings of a job, since a page of one of them is durable.
    pub(crate) fn page_added(&self, job: JobId) {
        if let Some(feed) = self.feed(job) {
            feed.page_added();
        }
    }

    /// Publishes that tasks were added to a job.
    pub(crate) fn added(&self, job: JobId, count: u32) {
        let Some(feed) = self.feed(job) else { return self.changed(job, None) };
        let mut added = Job::clone(&feed.job());
        added.counts.added(count);
        let tenant = added.tenant.no;
        self.publish_to(&feed, Arc::new(added), Vec::new());
        self.changed(job, Some(tenant));
    }

    fn publish_to(&self, feed: &Feed, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) {
        self.totals.moved(Some(&feed.job()), Some(&job));
        self.forget(feed.publish(job, events));
    }

    /// Keeps events that were put together for the other watchers of a job, if there are any.
    pub fn keep_batch(&self, feed: &Feed, batch: Batch) {
        self.forget(feed.keep(|watched| watched.keep_batch(batch)));
    }

    /// Keeps how far a job is for its other watchers.
    pub fn keep_shown(&self, feed: &Feed, shown: Shown) {
        self.forget(feed.keep(|watched| watched.keep_shown(shown)));
    }

    /// Keeps why the tasks of a job wait for its watchers.
    pub fn keep_waits(&self, feed: &Feed, written: Bytes) {
        self.forget(feed.keep(|watched| watched.keep_waits(written)));
    }

    /// Lets jobs keep nothing for their watchers, since it is too much for all.
    fn forget(&self, jobs: Vec<JobId>) {
        for feed in jobs.into_iter().filter_map(|job| self.feed(job)) {
            feed.forget();
        }
    }

    /// Ends the feed of a job whose end was published. Watchers that hold it read to its end.
    pub(crate) fn close(&self, job: JobId) {
        lock(&self.busy).remove(&job);
        let feed = {
            let mut feeds = lock(&self.feeds);
            let feed = feeds.remove(&job);
            // A table keeps the memory that it once needed.
            if feeds.capacity() > TABLE_MIN && feeds.len() < feeds.capacity() / 8 {
                let twice = 2 * feeds.len();
                feeds.shrink_to(twice);
            }
            feed
        };
        // Whoever waits looks again, also where somebody else holds the feed.
        if let Some(feed) = feed {
            self.totals.moved(Some(&feed.job()), None);
            feed.close();
        }
    }

    /// Drops what is kept for the watchers of jobs that nobody watches any more. A job that is published drops it by itself,
    /// and one that waits is not published.
    pub(crate) fn forget_unwatched(&self) {
        for job in self.all.watched() {
            match self.feed(job) {
                Some(feed) => feed.forget_unwatched(),
                None => self.all.is_unwatched(job),
            }
        }
    }

    /// Notes that an attempt at a task of the job runs.
    pub(crate) fn started(&self, job: JobId, index: TaskIndex, active: Active) {
        if let Some(feed) = self.feed(job)
            && feed.started(index, active)
        {
            lock(&self.busy).insert(job);
        }
    }

    /// Notes that the attempt at a task of the job has ended.
    pub(crate) fn stopped(&self, job: JobId, index: TaskIndex) {
        if let Some(feed) = self.feed(job)
            && feed.stopped(index)
        {
            lock(&self.busy).remove(&job);
        }
    }

    /// Publishes something that is not durable and came after event `after`, to those who watch starts at this moment: after the
    /// commit, since a watcher that came before it read a state without the change.
    pub(crate) fn notify(&self, job: JobId, after: u64, notice: Notice) {
        if let Some(feed) = self.feed(job) {
            self.forget(feed.notify(after, notice));
        }
    }

    /// Tells those who follow many jobs that this one of a tenant changed, or is gone; `None`: nobody knows whose it was.
    pub(crate) fn changed(&self, job: JobId, tenant: Option<TenantNo>) {
        self.changes.note(job, tenant);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the data whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::event::{EventHead, EventKind};
    use crate::model::spec::JobSpec;
    use crate::model::time::Timestamp;

    fn event(sequence: u64) -> Arc<StoredEvent> {
        let head = EventHead { sequence, time: Timestamp(1), kind: EventKind::JobChanged, task: None };
        Arc::new(StoredEvent { head, snapshot: None, task: None })
    }

    #[test]
    fn a_job_that_comes_back_is_told_from_a_new_one() {
        let hub = Hub::new(100);
        let job = |id, sequence| {
            let id = JobId(uuid::Uuid::from_u128(id));
            Arc::new(Job { sequence, ..Job::new(id, JobSpec::default(), 1, Timestamp(1)) })
        };
        hub.open(job(1, 0));
        hub.publish(job(1, 1), vec![event(1)]);
        hub.close(job(1, 1).id);
        let before = hub.returned();
        hub.open(job(2, 0));
        assert_eq!(hub.returned(), before);
        hub.open(job(1, 2));
        assert_ne!(hub.returned(), before);
    }

    #[test]
    fn nothing_is_kept_for_a_job_that_nobody_watches() {
        let hub = Hub::new(100);
        let id = JobId(uuid::Uuid::from_u128(1));
        let job = |sequence| Arc::new(Job { sequence, ..Job::new(id, JobSpec::default(), 1, Timestamp(1)) });
        hub.open(job(0));
        let feed = hub.feed(id).unwrap();
        hub.publish(job(1), vec![event(1)]);
        assert!(!feed.keeps_something() && feed.events_after(0, 9).is_none());
        let mut version = feed.subscribe();
        hub.publish(job(2), vec![event(2)]);
        assert_eq!(version.changed().now_or_never(), Some(Ok(())));
        assert_eq!(feed.events_after(1, 9).unwrap().len(), 1);
        hub.forget_unwatched();
        assert_eq!(feed.events_after(1, 9).unwrap().len(), 1, "somebody watches");
        let mut pages = feed.subscribe_to_pages();
        hub.page_added(id);
        assert_eq!(version.changed().now_or_never(), None, "a page is nothing to a watcher");
        assert_eq!(pages.changed().now_or_never(), Some(Ok(())));
        drop(version);
        hub.publish(job(3), vec![event(3)]);
        assert_eq!(pages.changed().now_or_never(), Some(Ok(())), "who reads pages is told of an end, too");
        drop(pages);
        hub.forget_unwatched();
        assert!(!feed.keeps_something(), "it is not published any more, and nobody watches");
        assert!(hub.all.watched().is_empty());

        let notices = feed.notices();
        hub.forget_unwatched();
        assert!(feed.keeps_something());
        drop(notices);
        let mut version = feed.subscribe();
        hub.close(id);
        assert_eq!(version.changed().now_or_never(), Some(Ok(())), "whoever waits looks again");
        hub.forget_unwatched();
        assert!(hub.all.watched().is_empty());
        let mut late = feed.subscribe();
        assert_eq!(late.changed().now_or_never(), Some(Ok(())), "who found the feed before looks again, too");
        assert_eq!(late.changed().now_or_never(), None, "and once");
    }

    /// Whoever holds the feed of a job that has ended may hold it for long.
    #[test]
    fn what_is_kept_for_watchers_is_counted_and_goes_with_the_job() {
        let hub = Hub::new(100);
        let id = JobId(uuid::Uuid::from_u128(1));
        let job = |sequence| Arc::new(Job { sequence, ..Job::new(id, JobSpec::default(), 1, Timestamp(1)) });
        hub.open(job(0));
        let feed = hub.feed(id).unwrap();
        let _watchers = [feed.subscribe(), feed.subscribe()];
        let batch = |after| Batch { after, upto: after + 1, all_of: None, bytes: vec![0; 1000].into() };
        let shown = || Shown { at: tokio::time::Instant::now(), job: job(0), bytes: vec![0; 500].into() };
        hub.keep_batch(&feed, batch(0));
        hub.keep_shown(&feed, shown());
        hub.keep_waits(&feed, vec![0; 70].into());
        assert_eq!(hub.all.bytes(), 1570);
        hub.publish(job(1), vec![event(1)]);
        let with_event = hub.all.bytes();
        assert!(with_event > 1570);
        hub.close(id);
        assert_eq!(hub.all.bytes(), 0);
        assert!(feed.batch_after(0).is_none() && feed.shown().is_none());
        assert_eq!(feed.events_after(0, 9).unwrap().len(), 1, "its last events are few");
        hub.keep_batch(&feed, batch(1));
        hub.keep_shown(&feed, shown());
        assert!(feed.batch_after(1).is_none() && feed.shown().is_none() && hub.all.bytes() == 0);
    }
}
