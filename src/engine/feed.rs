//! What is known of one job that has not ended: the committed job, how far its running tasks are, and what is kept for whoever
//! watches it.
//!
//! A feed keeps the last events of its job in memory for as long as somebody watches; a watcher that is further behind reads them
//! from the store, so that a slow one costs nothing but its own reads, and replay and live are the same list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::notices::{Notice, NoticeListener};
use crate::engine::published::{Batch, Published, Shown};
use crate::engine::rings::Rings;
use crate::engine::version::{Follower, Version};
use crate::engine::watched::Watched;
use crate::model::ids::{JobId, JobSet, TaskIndex};
use crate::model::job::Job;
use crate::model::progress::{Meter, Progress};
use crate::store::{StoredEvent, StoredTask};

/// What is kept of why tasks wait.
pub use crate::engine::watched::KeptWaits;

/// How often a rate of bytes is measured anew.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// A running task.
#[derive(Clone, Debug)]
pub struct Active {
    /// As it is since its start.
    pub task: Arc<StoredTask>,
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
}

/// What is noted of all feeds together.
#[derive(Debug, Default)]
pub(crate) struct AllFeeds {
    /// Jobs that were watched when that was last looked at, or since.
    watched: Mutex<JobSet>,
    /// How much is kept for their watchers. Only who holds the state of a feed notes what that one keeps.
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct State {
    job: Arc<Job>,
    watched: Option<Box<Watched>>,
    active: Option<Box<AllActive>>,
    /// `None`: the job has left memory, and nothing more is kept for its watchers.
    all: Option<Arc<AllFeeds>>,
}

/// The running tasks of a job that has had some.
#[derive(Debug)]
struct AllActive {
    tasks: BTreeMap<TaskIndex, Active>,
    measured: (Instant, u64),
    bytes_per_second: u64,
}

impl AllFeeds {
    /// The jobs that were watched when that was last looked at, or since.
    pub(crate) fn watched(&self) -> Vec<JobId> {
        lock(&self.watched).iter().copied().collect()
    }

    /// Notes that nobody watches a job.
    pub(crate) fn is_unwatched(&self, job: JobId) {
        lock(&self.watched).remove(&job);
    }

    /// The memory of what all feeds keep, in bytes, roughly.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.rings).bytes()
    }
}

impl State {
    /// What there is for watchers, to add somebody to it.
    fn watched(&mut self) -> &mut Watched {
        if let Some(all) = &self.all {
            lock(&all.watched).insert(self.job.id);
        }
        self.watched.get_or_insert_default()
    }

    /// Notes how much is kept. Returns the jobs that are to keep nothing, where it is too much for all.
    fn note(&self) -> Vec<JobId> {
        let Some(all) = &self.all else { return Vec::new() };
        let bytes = self.watched.as_ref().map_or(0, |watched| watched.bytes());
        lock(&all.rings).note(self.job.id, bytes)
    }
}

impl Feed {
    /// The feed of a job that is durable.
    pub(crate) fn new(job: Arc<Job>, all: Arc<AllFeeds>) -> Feed {
        Feed { state: Mutex::new(State { job, watched: None, active: None, all: Some(all) }) }
    }

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
        let is_over = state.all.is_none();
        let version = version(state.watched());
        let follower = version.follow();
        if is_over {
            // Nothing is published to it any more: whoever found it a moment before looks again, and finds what came after it.
            version.grow();
        }
        follower
    }

    /// How many follow the job.
    pub fn watchers(&self) -> usize {
        lock(&self.state).watched.as_ref().map_or(0, |watched| watched.version.followers())
    }

    /// Notices of starts and backoffs, which are not durable.
    pub fn notices(&self) -> NoticeListener {
        lock(&self.state).watched().notices.get_or_insert_default().listen()
    }

    /// The events after `after`, in order; `None` when memory does not reach back that far.
    pub fn events_after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Published>>> {
        let state = lock(&self.state);
        if state.job.sequence <= after {
            return Some(Vec::new());
        }
        state.watched.as_ref()?.events_after(after, limit)
    }

    /// When the first of its watchers came; `None`: nobody watches.
    pub fn watched_since(&self) -> Option<Instant> {
        lock(&self.state).watched.as_ref().map(|watched| watched.since)
    }

    /// What was put together lately and follows event `after`.
    pub fn batch_after(&self, after: u64) -> Option<Batch> {
        lock(&self.state).watched.as_ref()?.batch_after(after)
    }

    /// How far the job is, as it was written for its watchers last.
    pub fn shown(&self) -> Option<Shown> {
        lock(&self.state).watched.as_ref()?.shown().cloned()
    }

    /// Why the tasks of the job wait, as it was written for its watchers last, or since nobody began to look it up within `period`.
    pub fn waits(&self, period: Duration) -> KeptWaits {
        lock(&self.state).watched.as_mut().map_or(KeptWaits::Old, |watched| watched.waits(period))
    }

    /// Keeps something for the watchers of the job. Returns the jobs that are to keep nothing, where it is too much for all.
    pub(crate) fn keep(&self, keep: impl FnOnce(&mut Watched)) -> Vec<JobId> {
        let mut state = lock(&self.state);
        let State { watched: Some(watched), all: Some(_), .. } = &mut *state else { return Vec::new() };
        keep(watched);
        state.note()
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
    pub(crate) fn started(&self, index: TaskIndex, active: Active) -> bool {
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
    pub(crate) fn stopped(&self, index: TaskIndex) -> bool {
        let mut state = lock(&self.state);
        let Some(all) = &mut state.active else { return true };
        all.tasks.remove(&index);
        all.tasks.is_empty()
    }

    /// Whether there is anything for watchers.
    #[cfg(test)]
    pub(crate) fn keeps_something(&self) -> bool {
        lock(&self.state).watched.is_some()
    }

    /// Takes in the job as it was committed, and its events. Returns the jobs that are to keep nothing, where that is too much for all.
    pub(crate) fn publish(&self, job: Arc<Job>, events: Vec<Arc<StoredEvent>>) -> Vec<JobId> {
        let mut state = lock(&self.state);
        let last = job.sequence;
        let before = std::mem::replace(&mut state.job, job).sequence;
        let Some(watched) = &mut state.watched else { return Vec::new() };
        if watched.has_watchers() {
            watched.add(events, before, last);
            // Under the lock: whoever subscribes sees the job from before and is woken, or the job as it is now.
            watched.grow();
        } else {
            state.watched = None;
        }
        state.note()
    }

    /// Tells whoever watches starts what came after event `after`. Returns the jobs that are to keep nothing, where that is too much
    /// for all.
    pub(crate) fn notify(&self, after: u64, notice: Notice) -> Vec<JobId> {
        let state = lock(&self.state);
        let Some(notices) = state.watched.as_ref().and_then(|watched| watched.notices.as_ref()) else {
            return Vec::new();
        };
        notices.send(after, notice);
        state.note()
    }

    /// Wakes those who read the listings of the job.
    pub(crate) fn page_added(&self) {
        if let Some(watched) = &lock(&self.state).watched {
            watched.pages.grow();
        }
    }

    /// Drops what is kept for watchers.
    pub(crate) fn forget(&self) {
        let mut state = lock(&self.state);
        if let Some(watched) = &mut state.watched {
            watched.forget();
        }
        // Less than before: nobody else has to keep less for it.
        let _ = state.note();
    }

    /// Ends the feed of a job that has left memory, and wakes whoever watches.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        if let Some(all) = state.all.take() {
            let _ = lock(&all.rings).note(state.job.id, 0);
        }
        if let Some(watched) = &mut state.watched {
            watched.forget_long_past();
            watched.grow();
        }
    }

    /// Drops what is kept for watchers if there are none.
    pub(crate) fn forget_unwatched(&self) {
        let mut state = lock(&self.state);
        if !state.watched.as_ref().is_some_and(|watched| watched.has_watchers()) {
            state.watched = None;
            let _ = state.note();
            if let Some(all) = &state.all {
                all.is_unwatched(state.job.id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the data whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
