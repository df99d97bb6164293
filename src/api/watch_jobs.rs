//! `WatchJobs`: a list of jobs, and then every change of it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::flush::flush;
use crate::api::kept_ids::{KeptIds, SentJobs, UnsentJobs};
use crate::api::lookup::listed_job;
use crate::api::status::{draining, exhausted};
use crate::api::totals::Totals;
use crate::engine::changes::Listener;
use crate::engine::handle::Engine;
use crate::model::access::PrincipalNo;
use crate::model::ids::JobId;
use crate::model::job::{Job, JobState};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::pb;
use crate::pb::watch_jobs_response::Event;
use crate::store::{JobFilter, Store};

/// The most jobs that are read at once.
const JOBS_MAX: u32 = 100;
/// States of jobs that have not ended, which are always on the list.
const UNFINISHED: [JobState; 4] = [JobState::Pending, JobState::Running, JobState::Paused, JobState::Cancelling];

/// States of jobs that have ended.
const ENDED: [JobState; 3] = [JobState::Succeeded, JobState::Failed, JobState::Cancelled];
/// The most names of jobs that are read at once.
const NAMES_MAX: u32 = 10_000;
/// The most jobs that are chosen by their names; who wants all of them does not ask for a number.
const CHOSEN_MAX: usize = 10_000;
/// The most changed jobs that are taken at once: all others stay in the list that all watchers share.
const CHANGED_MAX: usize = 1_000;
/// The memory of listed jobs that wait for the client, in bytes, roughly; the first one waits however large it is.
const QUEUE_BYTES_MAX: usize = 256 << 10;

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The first numbers are due.
    Begin,
    /// It is chosen which jobs are listed.
    Choose,
    List,
    News,
}

/// What a watcher of jobs asks for.
pub(crate) struct WatchJobsOptions {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ended_after: Option<Timestamp>,
    /// Only those of this tenant.
    pub(crate) tenant: Option<TenantNo>,
    /// Only those of this principal.
    pub(crate) created_by: Option<PrincipalNo>,
    pub(crate) interval: Duration,
    /// These alone, the newest first; none: all.
    pub(crate) job_ids: Vec<JobId>,
    /// Empty: any.
    pub(crate) states: Vec<JobState>,
    pub(crate) max_jobs: Option<u32>,
    /// Where the numbers of the server come from, if they are asked for.
    pub(crate) totals: Option<Arc<Totals>>,
}

impl WatchJobsOptions {
    /// Whether a job is of those that may come and go.
    fn is_of(&self, job: &Job) -> bool {
        self.is_whose(job) && (self.job_ids.is_empty() || self.job_ids.contains(&job.id))
    }

    /// Whether a job is of whom is asked for. Looked at before anything else of it.
    fn is_whose(&self, job: &Job) -> bool {
        self.tenant.is_none_or(|no| no == job.tenant.no) && self.created_by.is_none_or(|no| no == job.creator.no)
    }

    fn has_labels(&self, job: &Job) -> bool {
        self.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
    }

    fn fits(&self, job: &Job) -> bool {
        self.has_labels(job) && (self.states.is_empty() || self.states.contains(&job.state))
    }

    /// The listings that make up the list: each a filter over the store.
    fn listings(&self) -> Vec<JobFilter> {
        let of = |possible: &[JobState]| -> Vec<JobState> {
            possible.iter().copied().filter(|state| self.states.is_empty() || self.states.contains(state)).collect()
        };
        let (labels, tenant, created_by) = (self.labels.clone(), self.tenant, self.created_by);
        let listing = |states, ended_after| JobFilter {
            ids: self.job_ids.clone(),
            states,
            labels: labels.clone(),
            ended_after,
            tenant,
            created_by,
            ..JobFilter::default()
        };
        if !self.job_ids.is_empty() {
            return vec![listing(self.states.clone(), None)];
        }
        let unfinished = Some(listing(of(&UNFINISHED), None));
        let ended = self.ended_after.map(|time| listing(of(&ENDED), Some(time)));
        unfinished.into_iter().chain(ended).filter(|filter| !filter.states.is_empty()).collect()
    }
}

struct Watcher {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    listener: Listener,
    /// For the numbers alone.
    created: Option<Listener>,
    wish: WatchJobsOptions,
    phase: Phase,
    /// Listings that are still to be read, the first one now.
    listings: VecDeque<JobFilter>,
    /// How many jobs were left out of the list.
    more: u32,
    /// Older jobs that were not sent are those that were left out.
    floor: Option<JobId>,
    sent: SentJobs,
    /// Whether the first listing is read, and the oldest job of it that was.
    is_first: bool,
    passed: Option<JobId>,
    queue: VecDeque<Arc<Job>>,
    /// Jobs that are sent next, each as it is then: they are not read before there is room for them.
    next: VecDeque<JobId>,
    /// Jobs that changed while the list was read, and are sent behind it.
    unsent: UnsentJobs,
    look: Option<Look>,
    last_totals: Option<pb::ServerTotals>,
    jobs_created: u64,
    next_look: Instant,
    over: bool,
}

/// One look at what changed, which is sent part by part.
struct Look {
    /// The number of the last change that belongs to it.
    until: u64,
    /// Jobs that have running tasks. They are sent whether they changed or not, each once, at the end.
    busy: HashSet<JobId>,
}

/// Returns the messages of one watch, whose ids of jobs count among `ids`.
pub(crate) fn watch_jobs(
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    ids: &Arc<KeptIds>,
    wish: WatchJobsOptions,
) -> impl Stream<Item = Result<pb::WatchJobsResponse, Status>> + Send + use<> {
    let watcher = Watcher {
        // Listening begins before the list is read, so that nothing falls between them.
        listener: engine.hub().listen(wish.tenant),
        created: wish.totals.as_ref().map(|_| engine.hub().listen_created(wish.tenant)),
        engine,
        store,
        closing,
        listings: wish.listings().into(),
        wish,
        phase: Phase::Begin,
        more: 0,
        floor: None,
        sent: SentJobs::new(ids),
        is_first: true,
        passed: None,
        queue: VecDeque::new(),
        next: VecDeque::new(),
        unsent: UnsentJobs::new(ids),
        look: None,
        last_totals: None,
        jobs_created: 0,
        next_look: Instant::now(),
        over: false,
    };
    unfold(watcher, |mut watcher| async move {
        if watcher.over {
            return None;
        }
        let message = watcher.next().await.map(|event| pb::WatchJobsResponse { event: Some(event) });
        watcher.over = message.is_err();
        Some((message, watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(job) = self.queue.pop_front() {
                self.sent.add(job.id);
                return Ok(self.message(&job));
            }
            if let Some(id) = self.next_id()? {
                if let Some(event) = self.event(id).await? {
                    return Ok(event);
                }
                continue;
            }
            match self.phase {
                Phase::Begin => {
                    // The numbers are known at once, and some want nothing else; the names of all jobs are read from the store.
                    self.phase = Phase::Choose;
                    if let Some(totals) = self.totals().await? {
                        return Ok(totals);
                    }
                }
                Phase::Choose => {
                    self.phase = Phase::List;
                    if let Some(max) = self.wish.max_jobs {
                        self.choose(max).await?;
                    }
                }
                Phase::List if !self.listings.is_empty() => self.read().await?,
                Phase::List => {
                    self.phase = Phase::News;
                    return Ok(Event::Synced(pb::Synced { more: self.more }));
                }
                Phase::News => {
                    self.news().await?;
                    if let Some(totals) = self.totals().await? {
                        return Ok(totals);
                    }
                }
            }
        }
    }

    /// Returns the job that is looked at next, if one is due.
    fn next_id(&mut self) -> Result<Option<JobId>, Status> {
        if let Some(id) = self.next.pop_front() {
            return Ok(Some(id));
        }
        if self.phase != Phase::News {
            return Ok(None);
        }
        if let Some(id) = self.unsent.pop() {
            return Ok(Some(id));
        }
        while let Some(look) = &mut self.look {
            let changed = self.listener.take_some(look.until, CHANGED_MAX).map_err(|_| too_slow())?;
            let is_last = changed.len() < CHANGED_MAX;
            self.next = changed.into_iter().filter(|id| !look.busy.contains(id)).collect();
            if is_last {
                self.next.extend(self.look.take().map(|look| look.busy).unwrap_or_default());
            }
            if let Some(id) = self.next.pop_front() {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn message(&self, job: &Job) -> Event {
        let feed = self.engine.hub().feed(job.id);
        Event::Job(listed_job(job, feed.as_ref()))
    }

    /// Chooses the newest `max` jobs of all listings by their names, and counts the others.
    async fn choose(&mut self, max: u32) -> Result<(), Status> {
        flush().await;
        let max = (max as usize).min(CHOSEN_MAX);
        // What is newer than these is not read, so all that changes from here on counts.
        self.is_first = false;
        let (mut newest, mut count) = (Vec::new(), 0_u64);
        for mut filter in std::mem::take(&mut self.listings) {
            let mut kept = 0;
            loop {
                if self.closing.is_cancelled() {
                    return Err(draining());
                }
                let page = self.store.job_ids(&filter, NAMES_MAX).await?;
                count += page.items.len() as u64;
                let room = max.saturating_sub(kept);
                kept += page.items.len().min(room);
                newest.extend(page.items.into_iter().take(room));
                filter.before = page.next;
                if filter.before.is_none() {
                    break;
                }
            }
        }
        newest.sort_unstable();
        newest.reverse();
        newest.dedup();
        newest.truncate(max);
        self.more = u32::try_from(count.saturating_sub(newest.len() as u64)).unwrap_or(u32::MAX);
        self.floor = newest.last().copied().filter(|_| self.more > 0);
        let tenant = self.wish.tenant;
        let listing = |ids: &[JobId]| JobFilter { ids: ids.to_vec(), tenant, ..JobFilter::default() };
        self.listings = newest.chunks(JOBS_MAX as usize).map(listing).collect();
        Ok(())
    }

    /// Reads the next jobs of the list. Those that do not fit are read again when it is their turn.
    async fn read(&mut self) -> Result<(), Status> {
        flush().await;
        if self.closing.is_cancelled() {
            return Err(draining());
        }
        self.hear()?;
        let Some(filter) = self.listings.front_mut() else { return Ok(()) };
        let page = self.store.jobs(filter, JOBS_MAX).await?;
        filter.before = page.next;
        if page.next.is_none() {
            self.listings.pop_front();
            self.is_first = false;
        }
        self.passed = page.items.last().map(|job| job.id).or(self.passed);
        let mut bytes = 0;
        for job in page.items {
            bytes += size_of::<Job>() + job.spec.memory_bytes();
            if bytes <= QUEUE_BYTES_MAX || self.queue.is_empty() {
                self.queue.push_back(Arc::new(job));
            } else {
                self.next.push_back(job.id);
            }
        }
        Ok(())
    }

    /// Keeps what changed while the list is read, so that a long list does not outlast what is kept for those who look late.
    /// What the list has not come to yet is listed as it is then.
    fn hear(&mut self) -> Result<(), Status> {
        let changed = self.listener.take().map_err(|_| too_slow())?;
        if self.wish.max_jobs == Some(0) {
            return Ok(());
        }
        for id in changed {
            if self.floor.is_some_and(|floor| id < floor) && !self.sent.contains(id) {
                // It was left out of the list.
                continue;
            }
            let is_behind = !self.is_first || self.passed.is_some_and(|passed| id >= passed) || self.sent.contains(id);
            if is_behind {
                self.unsent.add(id).map_err(|_| too_slow())?;
            }
        }
        Ok(())
    }

    /// Waits for changes and gathers them for one interval, so that a busy job is sent once in it.
    async fn news(&mut self) -> Result<(), Status> {
        // Without any job only the numbers are watched.
        let follows = self.wish.max_jobs != Some(0);
        let changed = async {
            if follows {
                self.listener.changed().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.closing.cancelled() => return Err(draining()),
            () = changed => {}
            () = tokio::time::sleep(self.wish.interval) => {}
        }
        tokio::select! {
            () = self.closing.cancelled() => return Err(draining()),
            () = tokio::time::sleep_until(self.next_look) => {}
        }
        self.next_look = Instant::now() + self.wish.interval;
        if follows {
            // However many others change: one that only progresses is shown in each interval.
            let busy = self.engine.hub().busy_jobs().into_iter().collect();
            self.look = Some(Look { until: self.listener.latest(), busy });
        }
        Ok(())
    }

    /// Returns the numbers of the server, if they are watched and differ from what was sent last.
    async fn totals(&mut self) -> Result<Option<Event>, Status> {
        let (Some(totals), Some(created)) = (self.wish.totals.clone(), &mut self.created) else { return Ok(None) };
        let created = created.take().map_err(|_| too_slow())?;
        let is_of_all = self.engine.books().borrow().has_one_tenant() || self.wish.tenant.is_none();
        if is_of_all && self.wish.labels.is_empty() && self.wish.created_by.is_none() {
            self.jobs_created += created.len() as u64;
        } else {
            for id in created {
                let job = self.job(id).await?;
                let counts = |job: &Job| self.wish.is_whose(job) && self.wish.has_labels(job);
                self.jobs_created += u64::from(job.is_some_and(|job| counts(&job)));
            }
        }
        let totals =
            pb::ServerTotals { jobs_created: self.jobs_created, ..totals.now(self.wish.tenant, self.wish.created_by) };
        if self.last_totals.as_ref() == Some(&totals) {
            return Ok(None);
        }
        self.last_totals = Some(totals.clone());
        Ok(Some(Event::Totals(totals)))
    }

    async fn job(&self, id: JobId) -> Result<Option<Arc<Job>>, Status> {
        if let Some(feed) = self.engine.hub().feed(id) {
            return Ok(Some(feed.job()));
        }
        flush().await;
        Ok(self.store.job(id).await?.map(Arc::new))
    }

    /// Returns what to send about a job that changed.
    async fn event(&mut self, id: JobId) -> Result<Option<Event>, Status> {
        let Some(job) = self.job(id).await? else {
            return Ok(self.sent.remove(id).then(|| Event::DeletedJobId(id.to_string())));
        };
        if !self.wish.is_of(&job) {
            return Ok(None);
        }
        if !self.wish.fits(&job) {
            // It has left what is watched. One that was forgotten is told all the same, which may be once too often.
            let may_have_been = |this: &Self| {
                this.sent.may_be_forgotten(id)
                    && this.floor.is_none_or(|floor| id >= floor)
                    && this.wish.has_labels(&job)
            };
            let was_sent = self.sent.remove(id) || may_have_been(self);
            return Ok(was_sent.then(|| self.message(&job)));
        }
        if !self.sent.contains(id) {
            if self.floor.is_some_and(|floor| id < floor) {
                return Ok(None);
            }
            self.sent.add(id);
        }
        Ok(Some(self.message(&job)))
    }
}

fn too_slow() -> Status {
    exhausted(
        "WATCHER_TOO_SLOW",
        "changed_jobs",
        "this watcher reads too slowly: more jobs changed than the server keeps for it; watch again, and begin with the new list",
    )
}
