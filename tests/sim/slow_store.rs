//! A store behind delays and faults. Every call runs to its end in one go; see [`crate::block_on`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use haul::model::audit::AuditFilter;
use haul::model::book::Book;
use haul::model::counts::Counts;
use haul::model::event::EventKind;
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskId, TaskIndex};
use haul::model::job::Job;
use haul::model::limits::LimitsPatch;
use haul::model::pause::{HostPause, PauseKey};
use haul::model::task::TaskState;
use haul::model::tenant::{Party, TenantNo};
use haul::model::time::Timestamp;
use haul::store::page_token::PageTokens;
use haul::store::{
    Answer, AuditPage, AuditPlace, Batch, Chunk, Committed, Content, CutPage, DuePage, DueTask, EventPage, JobFilter,
    JobPage, LaneNumber, LanePage, Listed, PAGE_BYTES_MAX, PageHead, Recovered, Store, StoreError, StoredEvent,
    StoredTask, TaskMove, TaskPage, TaskQuery, TaskRow, WriteStore,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::block_on::in_one_go;

/// Why a server ends whose disk fails.
pub(crate) const DISK_FAILED: &str = "the simulated disk failed";
/// Reads of lanes and of due tasks that a server may have under way at once.
const READS_MAX: u32 = 5;

/// The faults of a store, shared by its halves.
pub(crate) struct Faults {
    rng: Mutex<SmallRng>,
    /// Commits that still fail for want of room.
    full: AtomicU32,
    /// The next commit ends in nobody knows what.
    pub(crate) doom: AtomicBool,
    pub(crate) calm: AtomicBool,
    /// The store has threads of its own, which must not change the order of the history.
    has_threads: bool,
    /// Now and then a job is refused, as one is about which memory and store disagree.
    contradicts: bool,
    reads: AtomicU32,
    /// What a server has asked for that it must not. A panic would only fail the read, which is tried again for ever.
    violations: Mutex<Vec<String>>,
    /// A job of which the row does not parse.
    pub(crate) unreadable: Mutex<Option<JobId>>,
    /// A task of which each read panics.
    pub(crate) panics: Mutex<Option<TaskId>>,
    /// How often it has.
    pub(crate) panicked: AtomicU32,
    /// Whether nobody is told which tasks of a job are downloads, which is asked before its files are moved.
    pub(crate) holds_files: AtomicBool,
    /// How many of these questions still fail.
    pub(crate) fails_files: AtomicU32,
}

/// A read of a lane or of due tasks that is under way.
struct Reading<'a>(&'a AtomicU32);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Faults {
    pub(crate) fn new(seed: u64, has_threads: bool, contradicts: bool) -> Arc<Faults> {
        Arc::new(Faults {
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            full: AtomicU32::new(0),
            doom: false.into(),
            calm: false.into(),
            has_threads,
            contradicts,
            reads: AtomicU32::new(0),
            violations: Mutex::default(),
            unreadable: Mutex::default(),
            panics: Mutex::default(),
            panicked: AtomicU32::new(0),
            holds_files: false.into(),
            fails_files: AtomicU32::new(0),
        })
    }

    /// Panics where a server has asked for what it must not.
    pub(crate) fn judge(&self) {
        let violations = self.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:?}");
    }

    pub(crate) fn fill_disk(&self, commits: u32) {
        self.full.store(commits, Ordering::Relaxed);
    }

    async fn delay(&self) {
        let (wait, slow) = {
            let mut rng = self.rng.lock().unwrap();
            (rng.random_range(0..3_000), rng.random_ratio(1, 12))
        };
        let wait = if slow && !self.calm.load(Ordering::Relaxed) { wait * 300 } else { wait };
        tokio::time::sleep(Duration::from_micros(wait)).await;
    }

    fn read_fails(&self) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.rng.lock().unwrap().random_ratio(1, 30)
    }

    fn commit_fails(&self) -> Option<StoreError> {
        if self.full.load(Ordering::Relaxed) > 0 {
            self.full.fetch_sub(1, Ordering::Relaxed);
            return Some(StoreError::Full("the simulated disk is full".to_owned()));
        }
        let fails = !self.calm.load(Ordering::Relaxed) && self.rng.lock().unwrap().random_ratio(1, 25);
        fails.then(|| StoreError::Retry("the simulated store is locked".to_owned()))
    }

    fn rest(&self) -> Option<Duration> {
        let mut rng = self.rng.lock().unwrap();
        (!self.calm.load(Ordering::Relaxed) && rng.random_ratio(1, 20))
            .then(|| Duration::from_micros(rng.random_range(0..100_000)))
    }

    /// A batch with something that cannot be about one of its jobs, so that all of that job is refused.
    fn contradiction(&self, batch: &Batch) -> Option<(JobId, Batch)> {
        if !self.contradicts || self.calm.load(Ordering::Relaxed) {
            return None;
        }
        let jobs: Vec<JobId> = (batch.submissions.iter().map(|it| it.job.id))
            .chain(batch.additions.iter().map(|it| it.job))
            .chain(batch.jobs.iter().map(|it| it.id))
            .collect();
        let mut rng = self.rng.lock().unwrap();
        if jobs.is_empty() || !rng.random_ratio(1, 20) {
            return None;
        }
        let job = jobs[rng.random_range(0..jobs.len())];
        let mut batch = batch.clone();
        batch.moves.push(TaskMove { id: TaskId { job, index: TaskIndex::MAX - 1 }, row: TaskRow::default() });
        Some((job, batch))
    }

    async fn read<T: Send>(&self, read: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        self.delay().await;
        if self.read_fails() {
            return Err(StoreError::Retry("the simulated store is busy".to_owned()));
        }
        self.done(read).await
    }

    /// As [`Faults::read`], for those reads whose number a server bounds.
    async fn read_some<T: Send>(
        &self,
        read: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let before = self.reads.fetch_add(1, Ordering::Relaxed);
        let _reading = Reading(&self.reads);
        if before >= READS_MAX {
            let violation = format!("{before} reads of lanes and due tasks are under way, and one more begins");
            self.violations.lock().unwrap().push(violation);
        }
        self.read(read).await
    }

    /// Runs work on the store itself to its end, in no simulated time.
    pub(crate) async fn done<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        if self.has_threads { in_one_go(work) } else { work.await }
    }
}

pub(crate) struct SlowWriter {
    pub(crate) inner: Box<dyn WriteStore>,
    pub(crate) faults: Arc<Faults>,
    /// Until when it wants to be given no more than it must.
    pub(crate) rests: Option<Instant>,
}

impl WriteStore for SlowWriter {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        Box::pin(async move {
            self.faults.delay().await;
            if let Some(error) = self.faults.commit_fails() {
                return Err(error);
            }
            let doomed = self.faults.doom.swap(false, Ordering::Relaxed);
            // Of an unknown outcome: half of the doomed commits are there.
            if doomed && self.faults.rng.lock().unwrap().random() {
                return Err(StoreError::Fatal(DISK_FAILED.to_owned()));
            }
            let contradiction = self.faults.contradiction(batch);
            let (contradicted, batch) =
                contradiction.as_ref().map_or((None, batch), |(job, batch)| (Some(*job), batch));
            let committed = self.faults.done(self.inner.commit(batch)).await;
            if let Ok(Committed { refused, .. }) = &committed {
                let others: Vec<_> = refused.iter().filter(|(job, _)| Some(*job) != contradicted).collect();
                assert!(others.is_empty(), "memory and store contradict each other: {others:?}");
            }
            // The answer takes its way too.
            self.faults.delay().await;
            if doomed { Err(StoreError::Fatal(DISK_FAILED.to_owned())) } else { committed }
        })
    }

    fn between_commits(&mut self) -> BoxFuture<'_, ()> {
        self.rests = match self.rests {
            Some(until) => (Instant::now() < until).then_some(until),
            None => self.faults.rest().map(|rest| Instant::now() + rest),
        };
        Box::pin(std::future::ready(()))
    }

    fn wants_rest(&self) -> bool {
        self.rests.is_some()
    }

    fn rested(&mut self) -> BoxFuture<'_, ()> {
        let rests = self.rests;
        Box::pin(async move {
            match rests {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.faults.done(self.inner.close()).await;
        })
    }
}

pub(crate) struct SlowStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
}

/// Passes reads on, each with its delay.
macro_rules! reads {
    ($how:ident $(fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name<'a>(&'a self, $($arg: $type),*) -> Answer<'a, $answer> {
            Box::pin(self.faults.$how(self.inner.$name($($arg),*)))
        })*
    };
}

#[allow(clippy::elidable_lifetime_names)] // The arguments of some reads have it.
impl Store for SlowStore {
    fn keyed(&self, digest: [u8; 32]) -> [u8; 32] {
        self.inner.keyed(digest)
    }

    fn page_tokens(&self) -> PageTokens {
        self.inner.page_tokens()
    }

    fn node_id(&self) -> String {
        self.inner.node_id()
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    reads! { read
        fn limits() -> Option<LimitsPatch>;
        fn stored_bytes() -> Vec<(TenantNo, u64)>;
        fn host_pauses() -> Vec<(PauseKey, HostPause)>;
        fn access() -> Book;
        fn audit(filter: &'a AuditFilter, place: AuditPlace, limit: u32) -> AuditPage;
        fn audit_head() -> Option<String>;
        fn job(id: JobId) -> Option<Job>;
        fn jobs(filter: &'a JobFilter, limit: u32) -> JobPage<Job>;
        fn job_ids(filter: &'a JobFilter, limit: u32) -> JobPage<JobId>;
        fn request(of: Party, request_id: &'a str) -> Option<(JobId, [u8; 32])>;
        fn task_by_key(job: JobId, key: &'a str) -> Option<StoredTask>;
        fn tasks(job: JobId, states: &'a [TaskState], from: TaskIndex, limit: u32) -> Listed<StoredTask>;
        fn find_tasks(job: JobId, query: &'a TaskQuery, limit: u32) -> TaskPage;
        fn events_before(job: JobId, before: u64, kinds: &'a [EventKind], limit: u32) -> EventPage;
        fn events(job: JobId, after: u64, limit: u32) -> Listed<StoredEvent>;
        fn page_heads(id: TaskId, from: u32, limit: u32) -> Vec<PageHead>;
        fn page_of_item(id: TaskId, item: u64) -> Option<PageHead>;
        fn last_page(id: TaskId) -> Option<PageHead>;
        fn page_content(id: TaskId, page: u32) -> Option<Content>;
        fn recover(after: Option<JobId>) -> Recovered;
        fn claims(after: Option<TaskId>) -> CutPage;
        fn lanes(job: JobId) -> Vec<(Host, TaskIndex)>;
        fn chunk(job: JobId, chunk_id: &'a str) -> Option<Chunk>;
        fn task_states(job: JobId, indexes: &'a [TaskIndex]) -> Vec<(TaskIndex, TaskState)>;
        fn recount(job: JobId) -> Counts;
        fn expired_jobs(now: Timestamp, limit: u32) -> Vec<(JobId, TenantNo)>;
        fn deleted_jobs(limit: u32) -> Vec<JobId>;
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<StoredTask>> {
        Box::pin(async move {
            if *self.faults.panics.lock().unwrap() == Some(id) {
                self.faults.panicked.fetch_add(1, Ordering::Relaxed);
                panic!("the row of {id} is as no reader expects it");
            }
            self.faults.read(self.inner.task(id)).await
        })
    }

    fn download_tasks<'a>(
        &'a self,
        job: JobId,
        states: &'a [TaskState],
        from: TaskIndex,
        limit: u32,
    ) -> Answer<'a, Listed<StoredTask>> {
        Box::pin(async move {
            while self.faults.holds_files.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let count = |fails: u32| fails.checked_sub(1);
            if self.faults.fails_files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok() {
                return Err(StoreError::Fatal(DISK_FAILED.to_owned()));
            }
            self.faults.read(self.inner.download_tasks(job, states, from, limit)).await
        })
    }

    fn visit(&self, job: JobId) -> Answer<'_, Option<Job>> {
        Box::pin(async move {
            let found = self.faults.read(self.inner.visit(job)).await?;
            let is_unreadable = *self.faults.unreadable.lock().unwrap() == Some(job);
            if is_unreadable { Err(StoreError::Unreadable("it does not parse".to_owned())) } else { Ok(found) }
        })
    }

    fn lane_page(
        &self,
        job: JobId,
        lane: LaneNumber,
        from: TaskIndex,
        limit: u32,
        now: Timestamp,
    ) -> Answer<'_, LanePage> {
        Box::pin(async move {
            let page = self.faults.read_some(self.inner.lane_page(job, lane, from, limit, now)).await?;
            let before_the_last = page.tasks.iter().rev().skip(1).map(|task| task.spec.memory_bytes()).sum::<usize>();
            if before_the_last >= PAGE_BYTES_MAX {
                let violation = format!("a read brought {before_the_last} bytes, and one task more");
                self.faults.violations.lock().unwrap().push(violation);
            }
            Ok(page)
        })
    }

    reads! { read_some
        fn due_tasks(after: Option<DueTask>, limit: u32) -> DuePage;
    }
}
