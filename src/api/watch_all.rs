//! `WatchJobs`: a list of jobs, and then every change of it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::lookup::listed_job;
use crate::api::status::{draining, exhausted};
use crate::engine::changes::Listener;
use crate::engine::handle::Engine;
use crate::model::access::PrincipalNo;
use crate::model::ids::JobId;
use crate::model::job::{Job, JobState};
use crate::model::time::Timestamp;
use crate::pb;
use crate::pb::watch_jobs_response::Event;
use crate::store::{JobFilter, Listed, Store};

/// The most jobs that are read at once.
const JOBS_MAX: u32 = 100;
/// States of jobs that have not ended, which are always on the list.
const UNFINISHED: [JobState; 4] = [JobState::Pending, JobState::Running, JobState::Paused, JobState::Cancelling];

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Unfinished,
    Ended,
    Synced,
    News,
}

/// What a watcher of jobs asks for.
pub(crate) struct WishJobs {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ended_after: Option<Timestamp>,
    /// Only those of this principal.
    pub(crate) created_by: Option<PrincipalNo>,
    pub(crate) interval: Duration,
}

struct Watcher {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    listener: Listener,
    wish: WishJobs,
    phase: Phase,
    before: Option<JobId>,
    queue: VecDeque<Arc<Job>>,
    dirty: HashSet<JobId>,
    /// Jobs that changed and are sent next, each as it is then: they are not read before there is room for them.
    changed: VecDeque<JobId>,
    next_look: Instant,
    over: bool,
}

/// Returns the messages of one watch.
pub(crate) fn watch_jobs(
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    wish: WishJobs,
) -> impl Stream<Item = Result<pb::WatchJobsResponse, Status>> + Send + 'static {
    let watcher = Watcher {
        // Listening begins before the list is read, so that nothing falls between them.
        listener: engine.hub().listen(),
        engine,
        store,
        closing,
        wish,
        phase: Phase::Unfinished,
        before: None,
        queue: VecDeque::new(),
        dirty: HashSet::new(),
        changed: VecDeque::new(),
        next_look: Instant::now(),
        over: false,
    };
    unfold(watcher, |mut watcher| async move {
        if watcher.over {
            return None;
        }
        let message = watcher.next().await;
        watcher.over = message.is_err();
        Some((message, watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Result<pb::WatchJobsResponse, Status> {
        loop {
            if let Some(job) = self.queue.pop_front() {
                let feed = self.engine.hub().feed(job.id);
                let event = Some(Event::Job(listed_job(&job, feed.as_ref())));
                return Ok(pb::WatchJobsResponse { event });
            }
            if let Some(id) = self.changed.pop_front() {
                self.queue.extend(self.look(id).await?);
                continue;
            }
            match self.phase {
                Phase::Unfinished => self.read(UNFINISHED.to_vec(), None).await?,
                Phase::Ended if self.wish.ended_after.is_some() => {
                    self.read(ended_states(), self.wish.ended_after).await?;
                }
                Phase::Ended => self.phase = Phase::Synced,
                Phase::Synced => {
                    self.phase = Phase::News;
                    return Ok(pb::WatchJobsResponse { event: Some(Event::Synced(pb::Synced { more: 0 })) });
                }
                Phase::News => self.news().await?,
            }
        }
    }

    async fn read(&mut self, states: Vec<JobState>, ended_after: Option<Timestamp>) -> Result<(), Status> {
        let (labels, created_by) = (self.wish.labels.clone(), self.wish.created_by);
        let filter = JobFilter { states, labels, ended_after, created_by, before: self.before, ..JobFilter::default() };
        let Listed { items: jobs, has_more } = self.store.jobs(&filter, JOBS_MAX).await?;
        self.before = jobs.last().map(|job| job.id);
        if !has_more {
            self.before = None;
            self.phase = if self.phase == Phase::Unfinished { Phase::Ended } else { Phase::Synced };
        }
        self.queue.extend(jobs.into_iter().map(Arc::new));
        Ok(())
    }

    /// Waits for changes and gathers them for one interval, so that a busy job is sent once in it.
    async fn news(&mut self) -> Result<(), Status> {
        tokio::select! {
            () = self.closing.cancelled() => return Err(draining()),
            () = self.listener.changed() => {}
            () = tokio::time::sleep(self.wish.interval) => self.dirty.extend(self.engine.hub().busy_jobs()),
        }
        tokio::select! {
            () = self.closing.cancelled() => return Err(draining()),
            () = tokio::time::sleep_until(self.next_look) => {}
        }
        self.next_look = Instant::now() + self.wish.interval;
        self.dirty.extend(self.listener.take().map_err(|_| too_slow())?);
        self.changed.extend(std::mem::take(&mut self.dirty));
        Ok(())
    }

    /// Returns a job as it is now, if it is one of those that are watched.
    async fn look(&self, id: JobId) -> Result<Option<Arc<Job>>, Status> {
        let job = match self.engine.hub().feed(id) {
            Some(feed) => Some(feed.job()),
            None => self.store.job(id).await?.map(Arc::new),
        };
        let wish = &self.wish;
        let fits = |job: &Job| {
            wish.created_by.is_none_or(|no| no == job.creator.no)
                && wish.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
        };
        Ok(job.filter(|job| fits(job)))
    }
}

fn too_slow() -> Status {
    exhausted(
        "WATCHER_TOO_SLOW",
        "changed_jobs",
        "more jobs changed than are kept for a watcher that does not read; watch again, and begin with the new list",
    )
}

fn ended_states() -> Vec<JobState> {
    vec![JobState::Succeeded, JobState::Failed, JobState::Cancelled]
}
