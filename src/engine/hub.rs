//! What watchers see: durable events in order, the committed job, and how far running tasks are.
//!
//! The scheduler publishes here after each commit, and only then. A feed keeps the last events of its job in memory for
//! as long as somebody watches; a watcher that is further behind reads them from the store, so that a slow one costs
//! nothing but its own reads, and replay and live are the same list.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::engine::changes::{Changes, Listener};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::Job;
use crate::model::progress::{Meter, Progress};
use crate::model::spec::TaskSpec;
use crate::store::{StoredEvent, StoredTask, TaskRow};

/// Events that a feed keeps in memory.
const RING_MAX: usize = 512;
/// Memory that they may take, in bytes, roughly.
const RING_BYTES_MAX: usize = 1 << 20;
/// Notices that a watcher of starts may be behind before it misses some.
const NOTICES_MAX: usize = 256;
/// How often a rate of bytes is measured anew.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// All feeds.
#[derive(Debug, Default)]
pub struct Hub {
    feeds: Mutex<HashMap<JobId, Arc<Feed>>>,
    /// Jobs that have running tasks.
    busy: Mutex<HashSet<JobId>>,
    changes: Arc<Changes>,
}

/// A task as it ended.
pub type EndedTask = StoredTask;

/// Something about a running task that is not durable.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An attempt started.
    Started(Arc<StoredTask>),
    /// A task waits for its next attempt.
    BackingOff(Arc<StoredTask>),
}

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

/// What is known of one job that has not ended.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    /// Made with the first watcher of starts, since few jobs ever have one.
    notices: OnceLock<broadcast::Sender<Notice>>,
}

#[derive(Debug)]
struct State {
    job: Arc<Job>,
    ring: VecDeque<Arc<StoredEvent>>,
    ring_bytes: usize,
    active: BTreeMap<TaskIndex, Active>,
    measured: (Instant, u64),
    bytes_per_second: u64,
}

impl Hub {
    /// The feed of a job that has not ended.
    pub fn feed(&self, job: JobId) -> Option<Arc<Feed>> {
        lock(&self.feeds).get(&job).cloned()
    }

    /// All jobs that have not ended, as they were committed last.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
        feeds.into_iter().map(|feed| feed.job()).collect()
    }

    /// Jobs that have running tasks.
    pub fn busy_jobs(&self) -> Vec<JobId> {
        lock(&self.busy).iter().copied().collect()
    }

    /// Follows all jobs until it is dropped.
    pub fn listen(&self) -> Listener {
        Changes::listen(&self.changes)
    }

    /// Begins the feed of a job that is durable.
    pub(crate) fn open(&self, job: Arc<Job>) {
        let id = job.id;
        let state = State {
            job,
            ring: VecDeque::new(),
            ring_bytes: 0,
            active: BTreeMap::new(),
            measured: (Instant::now(), 0),
            bytes_per_second: 0,
        };
        let feed = Feed { state: Mutex::new(state), version: watch::Sender::new(0), notices: OnceLock::new() };
        lock(&self.feeds).insert(id, Arc::new(feed));
        self.changed(id);
    }

    /// Publishes what a commit made durable. Without `events` that continue the ring, watchers read from the store.
    pub(crate) fn publish(&self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) {
        let id = job.id;
        if let Some(feed) = self.feed(id) {
            feed.publish(job, events);
        }
        self.changed(id);
    }

    /// Wakes those who follow a job, since a page of one of its listings is durable.
    pub(crate) fn page_added(&self, job: JobId) {
        if let Some(feed) = self.feed(job) {
            feed.version.send_modify(|version| *version += 1);
        }
    }

    /// Publishes that tasks were added to a job.
    pub(crate) fn added(&self, job: JobId, count: u32) {
        if let Some(feed) = self.feed(job) {
            let mut added = Job::clone(&feed.job());
            added.counts.added(count);
            feed.publish(Arc::new(added), Vec::new());
        }
        self.changed(job);
    }

    /// Ends the feed of a job whose end was published. Watchers that hold it read to its end.
    pub(crate) fn close(&self, job: JobId) {
        lock(&self.busy).remove(&job);
        let feed = lock(&self.feeds).remove(&job);
        // Whoever waits looks again, also where somebody else holds the feed.
        if let Some(feed) = feed {
            feed.version.send_modify(|version| *version += 1);
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
            && let Some(notices) = feed.notices.get()
        {
            // Nobody listening is no error.
            let _ = notices.send(notice);
        }
    }

    /// Tells those who follow many jobs that this one changed.
    pub(crate) fn changed(&self, job: JobId) {
        self.changes.note(job);
    }
}

impl Feed {
    /// The job as it was committed last.
    pub fn job(&self) -> Arc<Job> {
        lock(&self.state).job.clone()
    }

    /// Changes with each publication, and with each page of a listing.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Notices of starts and backoffs, which are not durable.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.get_or_init(|| broadcast::Sender::new(NOTICES_MAX)).subscribe()
    }

    /// The events after `after`, in order; `None` when memory does not reach back that far.
    pub fn events_after(&self, after: u64, limit: usize) -> Option<Vec<Arc<StoredEvent>>> {
        let state = lock(&self.state);
        if state.job.sequence <= after {
            return Some(Vec::new());
        }
        let first = state.ring.front()?.head.sequence;
        let skip = usize::try_from((after + 1).checked_sub(first)?).unwrap_or(usize::MAX);
        Some(state.ring.iter().skip(skip).take(limit).cloned().collect())
    }

    /// How far the job is, running tasks included.
    pub fn progress(&self) -> Progress {
        let mut state = lock(&self.state);
        let Progress { done_bytes: mut done, total_bytes: mut total, .. } = state.job.progress();
        let mut received = 0;
        for active in state.active.values() {
            // Origins say what they like.
            done = done.saturating_add(active.meter.done());
            total = total.saturating_add(active.meter.total().max(active.meter.done()));
            received = active.meter.received_bytes().saturating_add(received);
        }
        let now = Instant::now();
        let passed = now.saturating_duration_since(state.measured.0);
        if passed >= RATE_WINDOW {
            // What ended in between moved from `received` to `ended_bytes`; a fall is no rate.
            let seen = state.job.ended_bytes.saturating_add(received);
            let fresh = seen.saturating_sub(state.measured.1) as f64 / passed.as_secs_f64();
            state.bytes_per_second = f64::midpoint(state.bytes_per_second as f64, fresh) as u64;
            state.measured = (now, seen);
        }
        let bytes_per_second = if state.active.is_empty() { 0 } else { state.bytes_per_second };
        Progress { done_bytes: done, total_bytes: total, bytes_per_second }
    }

    /// At most `limit` of the running tasks.
    pub fn active(&self, limit: usize) -> Vec<(TaskIndex, Active)> {
        lock(&self.state).active.iter().take(limit).map(|(index, active)| (*index, active.clone())).collect()
    }

    /// One running task.
    pub fn active_task(&self, index: TaskIndex) -> Option<Active> {
        lock(&self.state).active.get(&index).cloned()
    }

    /// Adds a running task; returns whether it is the first.
    fn started(&self, index: TaskIndex, active: Active) -> bool {
        let mut state = lock(&self.state);
        state.active.insert(index, active);
        state.active.len() == 1
    }

    /// Removes a running task; returns whether it was the last.
    fn stopped(&self, index: TaskIndex) -> bool {
        let mut state = lock(&self.state);
        state.active.remove(&index);
        state.active.is_empty()
    }

    fn publish(&self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) {
        let mut state = lock(&self.state);
        let continues = events.first().is_none_or(|event| event.head.sequence == state.job.sequence + 1)
            && events.last().map_or(state.job.sequence, |event| event.head.sequence) == job.sequence;
        let is_watched = self.version.receiver_count() > 0;
        if continues && is_watched {
            state.ring_bytes += events.iter().map(|event| bytes_of(event)).sum::<usize>();
            state.ring.extend(events);
            while state.ring.len() > RING_MAX || state.ring_bytes > RING_BYTES_MAX {
                let Some(oldest) = state.ring.pop_front() else { break };
                state.ring_bytes = state.ring_bytes.saturating_sub(bytes_of(&oldest));
            }
        } else {
            state.ring = VecDeque::new();
            state.ring_bytes = 0;
        }
        state.job = job;
        drop(state);
        self.version.send_modify(|version| *version += 1);
    }
}

/// The memory of an event, roughly.
fn bytes_of(event: &StoredEvent) -> usize {
    let task = event.task.as_ref().map_or(0, |task| task.spec.memory_bytes() + task.row.memory_bytes());
    let snapshot = event.snapshot.as_ref().map_or(0, |job| size_of_val(&**job) + job.spec.memory_bytes());
    size_of_val(event) + task + snapshot
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the data whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
