//! What watchers see: durable events in order, the committed job, and how far running tasks are.
//!
//! The scheduler publishes here after each commit, and only then. A feed keeps the last events of its job in memory for
//! as long as somebody watches; a watcher that is further behind reads them from the store, so that a slow one costs
//! nothing but its own reads, and replay and live are the same list.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::engine::changes::{Changes, Listener};
use crate::engine::figures::{OpenWork, Totals};
use crate::engine::notices::{NoticeListener, Notices};
use crate::engine::published::{Batch, Published, Shown, bytes_of};
use crate::engine::rings::Rings;
use crate::engine::version::{Follower, Version};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::Job;
use crate::model::progress::{Meter, Progress};
use crate::model::spec::TaskSpec;
use crate::model::tenant::TenantNo;
use crate::store::{StoredEvent, StoredTask, TaskRow};

/// Events that a feed keeps in memory.
const RING_MAX: usize = 512;
/// Memory that they may take, in bytes, roughly.
const RING_BYTES_MAX: usize = 1 << 20;
/// The most bytes of pieces that were put together and are kept.
const BATCH_BYTES_KEPT: usize = 128 << 10;
/// The most such pieces.
const BATCHES_KEPT: usize = 32;
/// Places of the table of feeds below which it is not made smaller.
const TABLE_MIN: usize = 1024;
/// The most bytes of events that stay with the feed of a job that has ended, as long as somebody holds it.
const ENDED_BYTES_MAX: usize = 64 << 10;
/// How often a rate of bytes is measured anew.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// All feeds.
#[derive(Debug)]
pub struct Hub {
    feeds: Mutex<HashMap<JobId, Arc<Feed>>>,
    /// Jobs that have running tasks.
    busy: Mutex<HashSet<JobId>>,
    /// Jobs that were watched when that was last looked at, or since.
    watched: Arc<Mutex<HashSet<JobId>>>,
    changes: Arc<Changes>,
    created: Arc<Changes>,
    totals: Totals,
    rings: Mutex<Rings>,
}

/// A task as it ended.
pub type EndedTask = StoredTask;

/// What watchers of starts are told.
pub use crate::engine::notices::Notice;

/// A running task.
#[derive(Clone, Debug)]
pub struct Active {
    /// What to do.
    pub spec: Arc<TaskSpec>,
    /// As it is since its start.
    pub row: Arc<TaskRow>,
    /// What it counts.
    pub meter: Arc<Meter>,
    /// When this attempt started.
    pub since: Instant,
}

/// What is known of one job that has not ended. Most jobs wait and nobody watches them, so it is small until something
/// runs or somebody watches.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    /// See [`Hub::watched`].
    watched: Arc<Mutex<HashSet<JobId>>>,
}

#[derive(Debug)]
struct State {
    job: Arc<Job>,
    watched: Option<Box<Watched>>,
    active: Option<Box<AllActive>>,
}

/// What there is for the watchers of a job.
#[derive(Debug)]
struct Watched {
    /// When the first of them came. Their looks are in step with it.
    since: Instant,
    version: Version,
    /// Changes with it, and with each page of a listing.
    pages: Version,
    ring: VecDeque<Arc<Published>>,
    ring_bytes: usize,
    /// What was put together last, the newest at the end. Watchers who look at the same time are as far as each other, and find
    /// what the first of them made.
    batches: VecDeque<Batch>,
    /// How far the job is, as it was written last.
    shown: Option<Shown>,
    /// Why its tasks wait, as it was written last, and when somebody began to look that up.
    waits: (Option<Instant>, Bytes),
    /// Made with the first watcher of starts.
    notices: Option<Notices>,
}

/// The running tasks of a job that has had some.
#[derive(Debug)]
struct AllActive {
    tasks: BTreeMap<TaskIndex, Active>,
    measured: (Instant, u64),
    bytes_per_second: u64,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            since: Instant::now(),
            version: Version::default(),
            pages: Version::default(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            batches: VecDeque::new(),
            shown: None,
            waits: (None, Bytes::new()),
            notices: None,
        }
    }
}

impl Watched {
    fn has_watchers(&self) -> bool {
        self.version.followers() > 0
            || self.pages.followers() > 0
            || self.notices.as_ref().is_some_and(Notices::has_listeners)
    }

    /// Wakes whoever follows the job.
    fn grow(&self) {
        self.version.grow();
        self.pages.grow();
    }
}

impl Hub {
    /// Nothing is known yet. Of changed jobs `changed_max` are kept for those who follow many.
    pub(crate) fn new(changed_max: usize) -> Hub {
        Hub {
            feeds: Mutex::default(),
            busy: Mutex::default(),
            watched: Arc::default(),
            changes: Arc::new(Changes::new(changed_max)),
            created: Arc::new(Changes::new(changed_max)),
            totals: Totals::default(),
            rings: Mutex::default(),
        }
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
        let state = Mutex::new(State { job, watched: None, active: None });
        let feed = Arc::new(Feed { state, watched: self.watched.clone() });
        let job = feed.job();
        let before = lock(&self.feeds).insert(id, feed);
        self.totals.moved(before.map(|feed| feed.job()).as_deref(), Some(&job));
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
        if let Some(feed) = self.feed(job)
            && let Some(watched) = &lock(&feed.state).watched
        {
            watched.pages.grow();
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
        let id = job.id;
        self.keeps(id, feed.publish(job, events));
    }

    /// Notes how much is kept for the watchers of a job. Others keep less, where it is too much for all.
    fn keeps(&self, job: JobId, bytes: usize) {
        let gone = lock(&self.rings).note(job, bytes);
        for feed in gone.into_iter().filter_map(|job| self.feed(job)) {
            feed.forget_events();
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
        self.keeps(job, 0);
        // Whoever waits looks again, also where somebody else holds the feed.
        if let Some(feed) = feed {
            self.totals.moved(Some(&feed.job()), None);
            feed.forget_long_past();
            feed.wake();
        }
    }

    /// Drops what is kept for the watchers of jobs that nobody watches any more. A job that is published drops it by itself,
    /// and one that waits is not published.
    pub(crate) fn forget_unwatched(&self) {
        let watched: Vec<JobId> = lock(&self.watched).iter().copied().collect();
        for job in watched {
            match self.feed(job) {
                Some(feed) if feed.forget_unwatched() => self.keeps(job, 0),
                Some(_) => {}
                None => drop(lock(&self.watched).remove(&job)),
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

    /// Publishes something that is not durable, to those who watch starts at this moment: after the commit, since a watcher
    /// that came before it read a state without the change.
    pub(crate) fn notify(&self, job: JobId, notice: Notice) {
        if let Some(feed) = self.feed(job)
            && let Some(notices) = lock(&feed.state).watched.as_ref().and_then(|watched| watched.notices.as_ref())
        {
            notices.send(notice);
        }
    }

    /// Tells those who follow many jobs that this one of a tenant changed, or is gone; `None`: nobody knows whose it was.
    pub(crate) fn changed(&self, job: JobId, tenant: Option<TenantNo>) {
        self.changes.note(job, tenant);
    }
}

impl Feed {
    /// The job as it was committed last.
    pub fn job(&self) -> Arc<Job> {
        lock(&self.state).job.clone()
    }

    /// Changes with each publication.
    pub fn subscribe(&self) -> Follower {
        self.follow(|watched| &watched.version)
    }

    /// Changes with each publication, and with each page of a listing.
    pub fn subscribe_to_pages(&self) -> Follower {
        self.follow(|watched| &watched.pages)
    }

    fn follow(&self, version: impl FnOnce(&Watched) -> &Version) -> Follower {
        let mut state = lock(&self.state);
        let follower = version(state.watched.get_or_insert_default()).follow();
        lock(&self.watched).insert(state.job.id);
        follower
    }

    /// How many follow the job.
    pub fn watchers(&self) -> usize {
        lock(&self.state).watched.as_ref().map_or(0, |watched| watched.version.followers())
    }

    /// Notices of starts and backoffs, which are not durable.
    pub fn notices(&self) -> NoticeListener {
        let mut state = lock(&self.state);
        let listener = state.watched.get_or_insert_default().notices.get_or_insert_default().listen();
        lock(&self.watched).insert(state.job.id);
        listener
    }

    /// The events after `after`, in order; `None` when memory does not reach back that far.
    pub fn events_after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Published>>> {
        let state = lock(&self.state);
        if state.job.sequence <= after {
            return Some(Vec::new());
        }
        let ring = &state.watched.as_ref()?.ring;
        let first = ring.front()?.event.head.sequence;
        let skip = usize::try_from((after + 1).checked_sub(first)?).unwrap_or(usize::MAX);
        Some(ring.iter().skip(skip).take(limit).cloned().collect())
    }

    /// When the first of its watchers came; `None`: nobody watches.
    pub fn watched_since(&self) -> Option<Instant> {
        lock(&self.state).watched.as_ref().map(|watched| watched.since)
    }

    /// What was put together lately and follows event `after`.
    pub fn batch_after(&self, after: u64) -> Option<Batch> {
        let state = lock(&self.state);
        state.watched.as_ref()?.batches.iter().rfind(|batch| batch.after == after).cloned()
    }

    /// Keeps what was put together for the other watchers, if there are any.
    pub fn keep_batch(&self, batch: Batch) {
        let mut state = lock(&self.state);
        let Some(watched) = state.watched.as_mut().filter(|watched| watched.version.followers() > 1) else { return };
        watched.batches.push_back(batch);
        let mut bytes: usize = watched.batches.iter().map(|batch| batch.bytes.len()).sum();
        while bytes > BATCH_BYTES_KEPT || watched.batches.len() > BATCHES_KEPT {
            let Some(oldest) = watched.batches.pop_front() else { break };
            bytes -= oldest.bytes.len();
        }
    }

    /// How far the job is, as it was written for its watchers last.
    pub fn shown(&self) -> Option<Shown> {
        lock(&self.state).watched.as_ref()?.shown.clone()
    }

    /// Keeps how far the job is for its other watchers.
    pub fn keep_shown(&self, shown: Shown) {
        if let Some(watched) = &mut lock(&self.state).watched
            && watched.shown.as_ref().is_none_or(|kept| kept.at < shown.at)
        {
            watched.shown = Some(shown);
        }
    }

    /// Why the tasks of the job wait, as it was written for its watchers last.
    pub fn waits(&self) -> Bytes {
        lock(&self.state).watched.as_ref().map(|watched| watched.waits.1.clone()).unwrap_or_default()
    }

    /// Returns whether the caller is to look up why tasks wait: nobody began to within `period`.
    pub fn are_waits_due(&self, period: Duration) -> bool {
        let mut state = lock(&self.state);
        let Some(watched) = &mut state.watched else { return false };
        let is_due = watched.waits.0.is_none_or(|at| at.elapsed() >= period);
        if is_due {
            watched.waits.0 = Some(Instant::now());
        }
        is_due
    }

    /// Keeps why the tasks of the job wait for its watchers.
    pub fn keep_waits(&self, written: Bytes) {
        if let Some(watched) = &mut lock(&self.state).watched {
            watched.waits.1 = written;
        }
    }

    /// How far the job is, running tasks included.
    pub fn progress(&self) -> Progress {
        let mut state = lock(&self.state);
        let State { job, active, .. } = &mut *state;
        let ended = job.progress();
        let Some(all) = active else { return ended };
        let Progress { done_bytes: mut done, total_bytes: mut total, .. } = ended;
        let mut received = 0;
        for active in all.tasks.values() {
            // Origins say what they like.
            done = done.saturating_add(active.meter.done());
            total = total.saturating_add(active.meter.total().max(active.meter.done()));
            received = active.meter.received_bytes().saturating_add(received);
        }
        let now = Instant::now();
        let passed = now.saturating_duration_since(all.measured.0);
        if passed >= RATE_WINDOW {
            // What ended in between moved from `received` to `ended_bytes`; a fall is no rate.
            let seen = job.ended_bytes.saturating_add(received);
            let fresh = seen.saturating_sub(all.measured.1) as f64 / passed.as_secs_f64();
            all.bytes_per_second = f64::midpoint(all.bytes_per_second as f64, fresh) as u64;
            all.measured = (now, seen);
        }
        let bytes_per_second = if all.tasks.is_empty() { 0 } else { all.bytes_per_second };
        Progress { done_bytes: done, total_bytes: total, bytes_per_second }
    }

    /// At most `limit` of the running tasks.
    pub fn active(&self, limit: usize) -> Vec<(TaskIndex, Active)> {
        let state = lock(&self.state);
        let all = state.active.iter().flat_map(|all| &all.tasks);
        all.take(limit).map(|(index, active)| (*index, active.clone())).collect()
    }

    /// One running task.
    pub fn active_task(&self, index: TaskIndex) -> Option<Active> {
        lock(&self.state).active.as_ref()?.tasks.get(&index).cloned()
    }

    /// Adds a running task; returns whether it is the first.
    fn started(&self, index: TaskIndex, active: Active) -> bool {
        let mut state = lock(&self.state);
        let ended_bytes = state.job.ended_bytes;
        let all = state.active.get_or_insert_with(|| {
            let measured = (Instant::now(), ended_bytes);
            Box::new(AllActive { tasks: BTreeMap::new(), measured, bytes_per_second: 0 })
        });
        all.tasks.insert(index, active);
        all.tasks.len() == 1
    }

    /// Removes a running task; returns whether it was the last.
    fn stopped(&self, index: TaskIndex) -> bool {
        let mut state = lock(&self.state);
        let Some(all) = &mut state.active else { return true };
        all.tasks.remove(&index);
        all.tasks.is_empty()
    }

    /// Returns how much is kept for its watchers now.
    fn publish(&self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) -> usize {
        let mut state = lock(&self.state);
        let sequence = job.sequence;
        let before = std::mem::replace(&mut state.job, job).sequence;
        let Some(watched) = &mut state.watched else { return 0 };
        if !watched.has_watchers() {
            state.watched = None;
            return 0;
        }
        let continues = events.first().is_none_or(|event| event.head.sequence == before + 1)
            && events.last().map_or(before, |event| event.head.sequence) == sequence;
        if continues {
            watched.ring_bytes += events.iter().map(|event| bytes_of(event)).sum::<usize>();
            watched.ring.extend(events.into_iter().map(Published::new));
            while watched.ring.len() > RING_MAX || watched.ring_bytes > RING_BYTES_MAX {
                let Some(oldest) = watched.ring.pop_front() else { break };
                watched.ring_bytes = watched.ring_bytes.saturating_sub(bytes_of(&oldest.event));
            }
        } else {
            watched.ring = VecDeque::new();
            watched.ring_bytes = 0;
            watched.batches = VecDeque::new();
        }
        // Under the lock: whoever subscribes sees the job from before and is woken, or the job as it is now.
        watched.grow();
        watched.ring_bytes
    }

    /// Drops the events that are kept: watchers read them from the store.
    fn forget_events(&self) {
        if let Some(watched) = &mut lock(&self.state).watched {
            (watched.ring, watched.ring_bytes, watched.batches) = (VecDeque::new(), 0, VecDeque::new());
        }
    }

    /// Drops the events of a job that has ended where these are many: who holds the feed may hold it for long, and reads them from
    /// the store.
    fn forget_long_past(&self) {
        let is_long = lock(&self.state).watched.as_ref().is_some_and(|watched| watched.ring_bytes > ENDED_BYTES_MAX);
        if is_long {
            self.forget_events();
        }
    }

    /// Drops what is kept for watchers if there are none. Returns whether there are none.
    fn forget_unwatched(&self) -> bool {
        let mut state = lock(&self.state);
        let is_unwatched = !state.watched.as_ref().is_some_and(|watched| watched.has_watchers());
        if is_unwatched {
            state.watched = None;
            lock(&self.watched).remove(&state.job.id);
        }
        is_unwatched
    }

    /// Wakes whoever watches.
    fn wake(&self) {
        if let Some(watched) = &lock(&self.state).watched {
            watched.grow();
        }
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
    fn nothing_is_kept_for_a_job_that_nobody_watches() {
        let hub = Hub::new(100);
        let id = JobId(uuid::Uuid::from_u128(1));
        let job = |sequence| Arc::new(Job { sequence, ..Job::new(id, JobSpec::default(), 1, Timestamp(1)) });
        hub.open(job(0));
        let feed = hub.feed(id).unwrap();
        hub.publish(job(1), vec![event(1)]);
        assert!(lock(&feed.state).watched.is_none() && feed.events_after(0, 9).is_none());
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
        assert!(lock(&feed.state).watched.is_none(), "it is not published any more, and nobody watches");
        assert!(lock(&hub.watched).is_empty());

        let notices = feed.notices();
        hub.forget_unwatched();
        assert!(lock(&feed.state).watched.is_some());
        drop(notices);
        let mut version = feed.subscribe();
        hub.close(id);
        assert_eq!(version.changed().now_or_never(), Some(Ok(())), "whoever waits looks again");
        hub.forget_unwatched();
        assert!(lock(&hub.watched).is_empty());
    }

    #[test]
    fn what_was_put_together_is_kept_for_others_within_its_bound() {
        let hub = Hub::new(100);
        let id = JobId(uuid::Uuid::from_u128(1));
        hub.open(Arc::new(Job::new(id, JobSpec::default(), 1, Timestamp(1))));
        let feed = hub.feed(id).unwrap();
        let piece =
            |after| Batch { after, upto: after + 1, all_of: None, bytes: vec![0_u8; BATCH_BYTES_KEPT / 3].into() };
        let _first = feed.subscribe();
        feed.keep_batch(piece(0));
        assert!(feed.batch_after(0).is_none(), "there is nobody else");
        let _second = feed.subscribe();
        (0..9).for_each(|after| feed.keep_batch(piece(after)));
        let kept: Vec<u64> = (0..9).filter(|after| feed.batch_after(*after).is_some()).collect();
        assert_eq!(kept, [6, 7, 8]);
    }
}
