//! What goes into one batch, and what does not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::engine::bounds::Bounds;
use haul::engine::command::EngineError;
use haul::engine::handle::Engine;
use haul::engine::workers::WorkerParts;
use haul::engine::{self, EngineParts};
use haul::model::access::{AccessAnswer, AccessChange, Actor};
use haul::model::failure::Failure;
use haul::model::ids::JobId;
use haul::model::limits::Limits;
use haul::model::quotas::{Quota, Quotas};
use haul::model::spec::JobSpec;
use haul::model::task_filter::{TaskChoice, TaskFilter};
use haul::model::tenant::{Owner, Scope, TenantPatch};
use haul::model::time::Timestamp;
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use haul::store::{Answer, Batch, Committed, Content, Retry, StoreError, Which, WriteStore};
use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::directed::{Fine, LeftAlone, fetch, parts};
use crate::memory::{MemoryStore, MemoryWriter};

/// Bodies that are stored with the ends of their tasks.
const BODY_BYTES: usize = 64_000;
const BODIES: usize = 300;
/// What a batch takes of them: it has room for one more as long as it has less than 8 MiB.
const BATCH_BYTES: usize = (8 << 20) + BODY_BYTES;

/// What a store and an origin are told, and what they saw.
#[derive(Clone, Default)]
struct Course {
    /// Requests that wait for their answers.
    asked: Arc<AtomicUsize>,
    /// Whether a commit waits that cancels tasks.
    is_held: Arc<AtomicBool>,
    /// Bodies come.
    answers: CancellationToken,
    /// That commit goes on.
    commits: CancellationToken,
    /// The most bytes that one batch brought.
    most: Arc<AtomicUsize>,
}

static LEFT_ALONE: LeftAlone = LeftAlone;

/// One host brings bodies when it is told to; the others ask to be left alone for an hour.
struct Bodies(Course);

struct Late {
    course: Course,
    is_over: bool,
    _request: Request,
}

impl BodySource for Late {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        async move {
            if std::mem::replace(&mut self.is_over, true) {
                return None;
            }
            self.course.asked.fetch_add(1, Ordering::Relaxed);
            self.course.answers.cancelled().await;
            Some(Ok(Bytes::from(vec![b'x'; BODY_BYTES])))
        }
        .boxed()
    }
}

impl Transport for Bodies {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        if request.url.host_str() != Some("10.0.0.1") {
            return LEFT_ALONE.send(request, profile);
        }
        let (url, headers) = (request.url.clone(), HeaderMap::new());
        let body = Body(Box::new(Late { course: self.0.clone(), is_over: false, _request: request }));
        std::future::ready(Ok(Response { status: StatusCode::OK, headers, url, remote: None, body })).boxed()
    }
}

/// A store that holds what cancels tasks until it is told.
struct Held(MemoryWriter, Course);

impl WriteStore for Held {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            let bytes =
                batch.pages.iter().map(|page| if let Content::Inline(it) = &page.content { it.len() } else { 0 });
            self.1.most.fetch_max(bytes.sum(), Ordering::Relaxed);
            if !batch.sweeps.is_empty() {
                self.1.is_held.store(true, Ordering::Relaxed);
                self.1.commits.cancelled().await;
            }
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All attempts of a job end while tasks of it are being cancelled: what they bring comes into several batches.
pub(crate) async fn ends_that_were_deferred_go_into_several_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, course) = (MemoryStore::default(), Course::default());
    let origin = course.clone();
    let make = move || WorkerParts {
        transport: Arc::new(Bodies(origin.clone())),
        close: Box::new(|| Box::pin(std::future::ready(()))),
    };
    let limits = Limits { max_concurrent_tasks: 512, max_per_host: 512, ..Limits::default() };
    let parts = EngineParts { make: Arc::new(make), limits, bounds: Bounds::default(), ..parts(dir.path(), &memory) };
    let writer = Box::new(Held(memory.writer(), course.clone()));
    let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let bodies = (0..BODIES).map(|number| fetch(&format!("http://10.0.0.1/{number}"), None));
    let others = (0..20).map(|number| fetch(&format!("http://10.0.0.2/{number}"), None));
    let job = engine.submit(JobSpec::default(), bodies.chain(others).collect::<Vec<_>>(), "", None).await.unwrap().id;
    until(|| course.asked.load(Ordering::Relaxed) == BODIES).await;
    let canceller = engine.clone();
    work.spawn(async move {
        let filter = TaskFilter { host: "10.0.0.2".to_owned(), ..TaskFilter::default() };
        let acted = canceller.cancel_tasks(job, TaskChoice::Fitting(filter), "not these".to_owned()).await.unwrap();
        assert_eq!(acted.tasks, 20);
        Ok(())
    });
    until(|| course.is_held.load(Ordering::Relaxed)).await;
    course.answers.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(course.most.load(Ordering::Relaxed), 0, "the ends are deferred");
    course.commits.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), engine.ended(job)).await.unwrap().unwrap();
    assert_eq!((ended.counts.succeeded as usize, ended.counts.cancelled), (BODIES, 20));
    let most = course.most.load(Ordering::Relaxed);
    assert!(most > 0 && most <= BATCH_BYTES, "one batch brought {most} bytes");
}

/// A store that has no room for tasks for as long as this says.
struct Full(MemoryWriter, Arc<AtomicBool>);

impl WriteStore for Full {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        let adds = !batch.submissions.is_empty() || batch.additions.iter().any(|it| !it.tasks.is_empty());
        if adds && self.1.load(Ordering::Relaxed) {
            return std::future::ready(Err(StoreError::Full("the disk is full".to_owned()))).boxed();
        }
        self.0.commit(batch)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// Who is told that the disk is full may ask again when it is not, and has used up nothing.
pub(crate) async fn tasks_without_room_use_up_no_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, is_full) = (MemoryStore::default(), Arc::new(AtomicBool::new(false)));
    let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let parts = EngineParts { make: Arc::new(make), ..parts(dir.path(), &memory) };
    let writer = Box::new(Full(memory.writer(), is_full.clone()));
    let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let quotas = Quotas { tasks_per_second: Some(0.001), ..Quotas::default() };
    let patch = Box::new(TenantPatch { quotas, named: Quota::ALL.to_vec(), ..TenantPatch::default() });
    let change = AccessChange::CreateTenant { name: "few".to_owned(), patch, request_id: String::new() };
    let made = engine.change_access(change).await;
    let Ok(AccessAnswer::Tenant(made)) = made else { panic!("{made:?}") };
    let owner = Owner { no: made.no, name: made.name.clone() };
    let few = engine.by(Arc::new(Actor { scope: Scope::One(owner), ..Actor::local() }));
    let tasks = || vec![fetch("http://10.0.0.9/", None)];
    let open = JobSpec { open: true, ..JobSpec::default() };
    let open = few.submit(open, Vec::new(), "", None).await.unwrap().id;
    is_full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let refused = few.submit(JobSpec::default(), tasks(), "", None).await.unwrap_err();
        assert!(matches!(refused, EngineError::StoreFull(_)), "{refused}");
        let refused = few.add_tasks(open, "chunk", tasks()).await.unwrap_err();
        assert!(matches!(refused, EngineError::StoreFull(_)), "{refused}");
    }
    is_full.store(false, Ordering::Relaxed);
    few.add_tasks(open, "chunk", tasks()).await.unwrap();
    let refused = few.submit(JobSpec::default(), tasks(), "", None).await.unwrap_err();
    assert!(matches!(refused, EngineError::TaskRate { .. }), "{refused}");
}

/// A store that wants to be given little until it has rested, and counts the ends that it is given.
struct Resting {
    inner: MemoryWriter,
    rested: CancellationToken,
    ends: Arc<AtomicUsize>,
}

impl WriteStore for Resting {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        self.ends.fetch_add(batch.moves.len(), Ordering::Relaxed);
        self.inner.commit(batch)
    }

    fn wants_rest(&self) -> bool {
        !self.rested.is_cancelled()
    }

    fn rested(&mut self) -> BoxFuture<'_, ()> {
        self.rested.cancelled().boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// What callers wait for is committed meanwhile, what attempts bring afterwards, and no more of them begin than may run.
pub(crate) async fn a_store_that_rests_is_given_what_callers_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, rested, ends) = (MemoryStore::default(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let parts = EngineParts { make: Arc::new(make), bounds: Bounds::default(), ..parts(dir.path(), &memory) };
    let writer = Box::new(Resting { inner: memory.writer(), rested: rested.clone(), ends: ends.clone() });
    let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let open = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await.unwrap().id;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tasks = (0..100).map(|number| fetch(&format!("http://10.0.0.1/{number}"), None));
    let job = engine.submit(JobSpec::default(), tasks.collect::<Vec<_>>(), "", None).await.unwrap().id;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.pause(open).await.unwrap();
        engine.resume(open).await.unwrap();
    }
    assert_eq!(ends.load(Ordering::Relaxed), 0, "ends can wait");
    rested.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), engine.ended(job)).await.unwrap().unwrap();
    assert_eq!((ended.counts.succeeded, ends.load(Ordering::Relaxed)), (100, 100));
}

/// What one sees and steers of a store that is given retries of named tasks.
#[derive(Clone, Default)]
struct Retries {
    /// How many tasks each batch put back, of each job.
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
    /// The room of the store is short.
    is_short: Arc<AtomicBool>,
}

/// A store that notes the named tasks of each batch, and takes its time for them.
struct Named(MemoryWriter, Retries);

impl WriteStore for Named {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            let named = |retry: &Retry| match &retry.which {
                Which::These(these) => Some(these.len() as u32),
                _ => None,
            };
            let rows: Vec<u32> = batch.retries.iter().filter_map(named).collect();
            if !rows.is_empty() {
                self.1.batches.lock().unwrap().push(rows);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn is_short(&self) -> bool {
        self.1.is_short.load(Ordering::Relaxed)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// The rows that a batch takes for retries of named tasks.
const ROWS_MAX: u32 = 20;

/// A server with a cancelled job for each number of tasks, over a store of [`Named`] that is given [`ROWS_MAX`] rows a batch.
struct Crowd {
    engine: Engine,
    retries: Retries,
    jobs: Vec<(JobId, u32)>,
    work: JoinSet<Result<(), StoreError>>,
    _dir: tempfile::TempDir,
}

impl Crowd {
    async fn start(named: &[u32], crowded_bytes: usize) -> Crowd {
        let dir = tempfile::tempdir().unwrap();
        let (memory, retries) = (MemoryStore::default(), Retries::default());
        let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
        let bounds = Bounds { piece_rows: ROWS_MAX, piece_share: ROWS_MAX, crowded_bytes, ..Bounds::default() };
        let parts = EngineParts { make: Arc::new(make), bounds, ..parts(dir.path(), &memory) };
        let writer = Box::new(Named(memory.writer(), retries.clone()));
        let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
        let mut work = JoinSet::new();
        work.spawn(task.run());
        let later = JobSpec { start_time: Some(Timestamp(4_102_444_800_000_000)), ..JobSpec::default() };
        let mut jobs = Vec::new();
        for &count in named {
            let tasks = (0..count).map(|number| fetch(&format!("http://10.0.0.1/{number}"), None));
            let job = engine.submit(later.clone(), tasks.collect::<Vec<_>>(), "", None).await.unwrap().id;
            engine.cancel(job, String::new()).await.unwrap();
            jobs.push((job, count));
        }
        Crowd { engine, retries, jobs, work, _dir: dir }
    }

    /// All tasks of all jobs are retried by their names at once, a call for each job.
    fn retry_all(&self) -> JoinSet<Result<(), EngineError>> {
        let mut calls = JoinSet::new();
        for &(job, count) in &self.jobs {
            let engine = self.engine.clone();
            calls.spawn(async move {
                let retried = engine.retry(job, TaskChoice::These((0..count).collect())).await?;
                assert_eq!((retried.counts.pending, retried.counts.cancelled), (count, 0));
                Ok(())
            });
        }
        calls
    }

    fn batches(&self) -> Vec<Vec<u32>> {
        self.retries.batches.lock().unwrap().clone()
    }
}

/// All tasks that one call names are put back at once, and nobody waits for those of many calls behind each other: what a batch
/// has no room for goes into the next ones, in the order in which the calls came, whether it was kept in memory or is read again.
pub(crate) async fn retries_of_many_named_tasks_go_into_several_batches(crowded_bytes: usize) {
    const NAMED: [u32; 8] = [8, 8, 8, 8, 30, 3, 18, 2];
    let crowd = Crowd::start(&NAMED, crowded_bytes).await;
    let answers = tokio::time::timeout(Duration::from_secs(60), crowd.retry_all().join_all()).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let batches = crowd.batches();
    assert_eq!(batches.concat(), NAMED, "they have their turns in order: {batches:?}");
    let is_bounded = |batch: &Vec<u32>| batch.len() == 1 || batch.iter().sum::<u32>() <= ROWS_MAX;
    assert!(batches.iter().all(is_bounded), "{batches:?}");
    assert!(batches.len() < NAMED.len(), "small ones go together: {batches:?}");
}

/// What happens while retries wait for their batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meanwhile {
    Drain,
    ShortOfRoom,
}

/// Retries that wait for a batch are refused as those that come now are, whether they were kept in memory or are read again: a
/// drain does not wait for them, and they take nothing of what a full disk has left.
pub(crate) async fn retries_that_wait_are_refused(crowded_bytes: usize, meanwhile: Meanwhile) {
    let mut crowd = Crowd::start(&[15; 12], crowded_bytes).await;
    let mut calls = crowd.retry_all();
    until(|| crowd.batches().len() == 1).await;
    match meanwhile {
        Meanwhile::Drain => crowd.engine.drain().await,
        Meanwhile::ShortOfRoom => crowd.retries.is_short.store(true, Ordering::Relaxed),
    }
    let mut done = 0;
    while let Some(answer) = tokio::time::timeout(Duration::from_secs(60), calls.join_next()).await.unwrap() {
        match answer.unwrap() {
            Ok(()) => done += 1,
            Err(EngineError::Draining) if meanwhile == Meanwhile::Drain => {}
            Err(EngineError::StoreFull(_)) if meanwhile == Meanwhile::ShortOfRoom => {}
            Err(error) => panic!("{error}"),
        }
    }
    // The batch that was under way, and perhaps the one that was made meanwhile.
    assert!((1..=2).contains(&done), "{done} were done");
    assert_eq!(crowd.batches().len(), done, "{:?}", crowd.batches());
    if meanwhile == Meanwhile::Drain {
        tokio::time::timeout(Duration::from_secs(10), crowd.work.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}
