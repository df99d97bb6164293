//! What waits, and who else would have to: one history each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::engine::bounds::Bounds;
use haul::engine::command::EngineError;
use haul::engine::handle::Engine;
use haul::engine::workers::WorkerParts;
use haul::engine::writer::Condition;
use haul::engine::{self, EngineParts};
use haul::model::failure::{Failure, FailureReason};
use haul::model::group::{GroupMode, GroupPolicy};
use haul::model::ids::{JobId, TaskId};
use haul::model::job::JobState;
use haul::model::limits::Limits;
use haul::model::spec::{DownloadSpec, JobSpec, TaskOptions, TaskSpec, Work};
use haul::model::task_filter::TaskChoice;
use haul::model::time::Timestamp;
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use haul::store::{Answer, Batch, Committed, Content, Store as _, StoreError, WriteStore};
use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::directed::{Fine, LeftAlone, Slow, fetch, parts};
use crate::memory::{MemoryStore, MemoryWriter};
use crate::slow_store::{Faults, SlowStore};

/// No host has what it is asked for.
struct Missing;

impl Transport for Missing {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let (url, headers, body) = (request.url.clone(), HeaderMap::new(), Body(Box::new(Once(None))));
        std::future::ready(Ok(Response { status: StatusCode::NOT_FOUND, headers, url, remote: None, body })).boxed()
    }
}

/// Every host answers with a body of about 60 KB, all of it at the same time.
struct Long;

struct Once(Option<Bytes>);

impl BodySource for Once {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        std::future::ready(self.0.take().map(Ok)).boxed()
    }
}

impl Transport for Long {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let body = Body(Box::new(Once(Some(vec![b'x'; 60_000].into()))));
        let (url, headers) = (request.url.clone(), HeaderMap::new());
        std::future::ready(Ok(Response { status: StatusCode::OK, headers, url, remote: None, body })).boxed()
    }
}

/// A slow store that notes how many bytes of pages there are in a batch at most.
struct Pages(Slow, Arc<AtomicUsize>);

impl WriteStore for Pages {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        let bytes = batch.pages.iter().map(|page| match &page.content {
            Content::Inline(body) => body.len(),
            Content::File { .. } => 0,
        });
        self.1.fetch_max(bytes.sum(), Ordering::Relaxed);
        self.0.commit(batch)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// A store that says that room is short.
struct Short(MemoryWriter, Arc<AtomicBool>);

impl WriteStore for Short {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        self.0.commit(batch)
    }

    fn is_short(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

fn by<T: Transport + 'static>(make: impl Fn() -> T + Send + Sync + 'static, parts: EngineParts) -> EngineParts {
    let make =
        move || WorkerParts { transport: Arc::new(make()), close: Box::new(|| Box::pin(std::future::ready(()))) };
    EngineParts { make: Arc::new(make), ..parts }
}

/// A job of one task that has ended, and of which the files are being moved until `faults` let them.
struct Settling {
    engine: Engine,
    faults: Arc<Faults>,
    job: JobId,
    /// The index of its task.
    first: u32,
    _work: JoinSet<Result<(), StoreError>>,
}

fn download() -> Vec<TaskSpec> {
    let download = DownloadSpec { url: "http://10.0.0.9/f".to_owned(), ..DownloadSpec::default() };
    vec![TaskSpec { key: String::new(), work: Work::Download(download), options: TaskOptions::default().into() }]
}

async fn settling(dir: &Path) -> Settling {
    let memory = MemoryStore::default();
    let faults = Faults::new(7, false, false);
    faults.calm.store(true, Ordering::Relaxed);
    faults.holds_files.store(true, Ordering::Relaxed);
    let store = Arc::new(SlowStore { inner: Arc::new(memory.clone()), faults: faults.clone() });
    let parts = by(|| Missing, EngineParts { store, ..parts(dir, &memory) });
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let group = GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() };
    let spec = JobSpec { open: true, group, ..JobSpec::default() };
    let job = engine.submit(spec, Vec::new(), "", None).await.unwrap().id;
    let first = engine.add_tasks(job, "first", download()).await.unwrap().first;
    engine.seal(job).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let now = engine.job(job).await.unwrap();
    assert_eq!((now.counts.failed, now.state.is_ended()), (1, false), "its files are being moved");
    Settling { engine, faults, job, first, _work: work }
}

/// What is asked of a job waits for its files, and others do not wait for what that takes.
pub(crate) async fn large_commands_wait() {
    let dir = tempfile::tempdir().unwrap();
    let Settling { engine, faults, job, _work, .. } = settling(dir.path()).await;
    let mut asked = JoinSet::new();
    for _ in 0..5 {
        let asker = engine.clone();
        let which = TaskChoice::These((0..4_000_000).collect());
        asked.spawn(async move { asker.cancel_tasks(job, which, String::new()).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let other = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None);
    assert!(timeout(Duration::from_secs(60), other).await.expect("it waits for nobody").is_ok());
    for _ in 0..4 {
        let refused = asked.join_next().await.unwrap().unwrap();
        assert!(matches!(refused, Err(EngineError::Overloaded)), "{refused:?}");
    }
    assert!(asked.try_join_next().is_none(), "the first one waits");
    faults.holds_files.store(false, Ordering::Relaxed);
    let late = asked.join_next().await.unwrap().unwrap();
    assert!(matches!(late, Err(EngineError::WrongState(..))), "{late:?}");
}

/// A job that is sealed takes no tasks, and whoever sends some does not wait until its files are where they belong.
pub(crate) async fn tasks_come_while_files_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let Settling { engine, faults, job, first, _work } = settling(dir.path()).await;
    let add = async |chunk| timeout(Duration::from_secs(60), engine.add_tasks(job, chunk, download())).await;
    let refused = add("second").await.expect("it is answered at once");
    assert!(matches!(refused, Err(EngineError::Sealed(..))), "{refused:?}");
    let again = add("first").await.expect("it is answered at once").unwrap();
    assert_eq!((again.first, again.count), (first, 1));
    faults.holds_files.store(false, Ordering::Relaxed);
    assert_eq!(engine.ended(job).await.unwrap().state, JobState::Failed);
}

/// Tasks of which memory has only the wait end when their time is over, but for one whose row nobody can read: that is read
/// again now and then.
pub(crate) async fn a_late_task_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let faults = Faults::new(7, false, false);
    faults.calm.store(true, Ordering::Relaxed);
    let store = Arc::new(SlowStore { inner: Arc::new(memory.clone()), faults: faults.clone() });
    let bounds = Bounds { queue_bytes: 0, ..Bounds::default() };
    let parts = EngineParts { store, bounds, ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let group = GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() };
    let spec = || JobSpec { group, ..JobSpec::default() };
    engine.submit(spec(), vec![fetch("http://10.0.0.9/", None)], "", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let moved = (0..8).map(|host| fetch(&format!("http://10.0.1.{host}/moved"), Some(Duration::from_secs(30))));
    let job = engine.submit(spec(), moved.collect::<Vec<_>>(), "", None).await.unwrap().id;
    *faults.panics.lock().unwrap() = Some(TaskId { job, index: 0 });
    tokio::time::sleep(Duration::from_secs(40)).await;
    let counts = engine.job(job).await.unwrap().counts;
    assert_eq!((counts.failed, counts.pending), (7, 1), "{counts:?}");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let reads = faults.panicked.load(Ordering::Relaxed);
    assert!((20..200).contains(&reads), "{reads} reads in an hour");
    *faults.panics.lock().unwrap() = None;
    let ended = timeout(Duration::from_secs(120), engine.ended(job)).await.unwrap().unwrap();
    assert_eq!(ended.counts.failed, 8);
    let late = memory.task(TaskId { job, index: 0 }).await.unwrap().unwrap();
    assert_eq!(late.row.task.error.unwrap().reason, FailureReason::TimeoutTask);
}

/// On a full disk a batch has to fit into what is left.
pub(crate) async fn bodies_fill_no_batch() {
    const TASKS: u32 = 400;
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let limits = Limits { max_concurrent_tasks: 1000, ..Limits::default() };
    let parts = by(|| Long, EngineParts { limits, ..parts(dir.path(), &memory) });
    let most = Arc::new(AtomicUsize::new(0));
    let writer = Box::new(Pages(Slow(memory.writer()), most.clone()));
    let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let tasks = (0..TASKS).map(|number| fetch(&format!("http://10.1.{}.{}/", number / 200, number % 200 + 1), None));
    let job = engine.submit(JobSpec::default(), tasks.collect::<Vec<_>>(), "", None).await.unwrap();
    let ended = timeout(Duration::from_secs(600), engine.ended(job.id)).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.counts.succeeded), (JobState::Succeeded, TASKS));
    let most = most.load(Ordering::Relaxed);
    assert!((4 << 20..9 << 20).contains(&most), "{most} bytes in one batch");
}

/// Pauses take what is left of a full disk and end nothing.
pub(crate) async fn few_are_paused_while_room_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let is_short = Arc::new(AtomicBool::new(false));
    let parts = parts(dir.path(), &memory);
    let (engine, task) = engine::start(parts, Box::new(Short(memory.writer(), is_short.clone())), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let mut jobs = Vec::new();
    for _ in 0..150 {
        jobs.push(engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await.unwrap().id);
    }
    is_short.store(true, Ordering::Relaxed);
    let mut paused = 0;
    for job in &jobs {
        match engine.pause(*job).await {
            Ok(_) => paused += 1,
            Err(error) => assert!(matches!(error, EngineError::StoreFull(_)), "{error}"),
        }
    }
    assert!((90..=110).contains(&paused), "{paused} were paused");
    for job in &jobs {
        engine.begin_cancel(*job, String::new()).await.unwrap();
    }
    is_short.store(false, Ordering::Relaxed);
    engine.condition().wait_for(|it| *it == Condition::Writable).await.unwrap();
    let job = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await.unwrap();
    engine.pause(job.id).await.unwrap();
}

/// A request id names one job as long as that is there: a deletion that is under way when another request comes by it frees it.
pub(crate) async fn a_request_id_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let parts = by(|| Fine, parts(dir.path(), &memory));
    let (engine, task) = engine::start(parts, Box::new(Slow(memory.writer())), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let submit = async |path: &str| {
        let tasks = vec![fetch(&format!("http://10.0.0.9/{path}"), None)];
        engine.submit(JobSpec::default(), tasks, "one", None).await.map(|job| job.id)
    };
    let first = submit("a").await.unwrap();
    assert!(matches!(submit("b").await, Err(EngineError::RequestIdTaken(_))), "its job runs");
    engine.ended(first).await.unwrap();
    assert!(matches!(submit("b").await, Err(EngineError::RequestIdTaken(_))), "its job is there");
    // A commit is under way, and the next batch gets both.
    let other = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None);
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::join!(submit("b"), engine.delete(first, false))
    };
    let (other, (second, deleted)) = tokio::join!(other, late);
    assert!(other.is_ok() && deleted.is_ok(), "{deleted:?}");
    let second = second.unwrap();
    assert_ne!(second, first);
    assert_eq!(engine.ended(second).await.unwrap().state, JobState::Succeeded);
    assert!(matches!(submit("a").await, Err(EngineError::RequestIdTaken(_))));
}

/// A store of which a commit takes as long as this says.
struct Held(MemoryWriter, Arc<AtomicBool>);

impl WriteStore for Held {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            while self.1.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// What waits for a piece of a job, for as long as a commit takes, waits for the files of the job when that is what follows.
pub(crate) async fn large_commands_wait_on() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let (faults, is_held) = (Faults::new(7, false, false), Arc::new(AtomicBool::new(false)));
    faults.calm.store(true, Ordering::Relaxed);
    faults.holds_files.store(true, Ordering::Relaxed);
    let store = Arc::new(SlowStore { inner: Arc::new(memory.clone()), faults: faults.clone() });
    let parts = by(|| LeftAlone, EngineParts { store, ..parts(dir.path(), &memory) });
    let (engine, task) = engine::start(parts, Box::new(Held(memory.writer(), is_held.clone())), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let group = GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() };
    let spec = JobSpec { open: true, group, ..JobSpec::default() };
    let job = engine.submit(spec, download(), "", None).await.unwrap().id;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(engine.job(job).await.unwrap().counts.backing_off, 1, "it is to wait for an hour");
    is_held.store(true, Ordering::Relaxed);
    let mut asked = JoinSet::new();
    for tasks in [1, 0, 4_000_000, 4_000_000, 4_000_000, 4_000_000, 4_000_000] {
        let asker = engine.clone();
        asked.spawn(async move {
            match tasks {
                0 => asker.seal(job).await.map(|_| ()),
                _ => asker.cancel_tasks(job, TaskChoice::These((0..tasks).collect()), String::new()).await.map(|_| ()),
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    is_held.store(false, Ordering::Relaxed);
    let other = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None);
    assert!(timeout(Duration::from_secs(60), other).await.expect("it waits for nobody").is_ok());
    assert!(!engine.job(job).await.unwrap().state.is_ended(), "its files are being moved");
    faults.holds_files.store(false, Ordering::Relaxed);
    assert!(engine.ended(job).await.unwrap().state.is_ended());
}

/// Why the tasks of a job wait is asked of the scheduler, which may be busy; who waits for the job for some time is answered then.
pub(crate) async fn a_wait_is_over_while_the_scheduler_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let (engine, task) = engine::start(parts(dir.path(), &memory), Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let later = JobSpec { start_time: Some(Timestamp(4_102_444_800_000_000)), ..JobSpec::default() };
    let job = engine.submit(later, vec![fetch("http://10.0.0.1/", None)], "", None).await.unwrap().id;
    work.shutdown().await;
    drop(engine);
    // The scheduler of this one never has its turn.
    let (engine, _task) = engine::start(parts(dir.path(), &memory), Box::new(memory.writer()), 1).await.unwrap();
    let begun = tokio::time::Instant::now();
    let answer = async {
        let job = engine.wait(job, Some(Duration::from_secs(20))).await.unwrap();
        let why = engine.explain_job(&job, Duration::from_millis(100), Some(Duration::from_secs(2))).await;
        (job, why)
    };
    let (job, why) = timeout(Duration::from_secs(30), answer).await.expect("it is answered");
    assert_eq!((job.state, job.counts.pending), (JobState::Pending, 1));
    assert!(matches!(why, Err(EngineError::Overloaded)), "{why:?}");
    assert!(begun.elapsed() >= Duration::from_secs(20));
}
