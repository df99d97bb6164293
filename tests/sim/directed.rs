//! What chance meets too seldom: one history each, written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::api::client_options::ClientOptions;
use haul::api::jobs::Jobs;
use haul::api::watchers::Watchers;
use haul::clock::Clock;
use haul::engine::bounds::Bounds;
use haul::engine::command::{EngineError, JobPatch};
use haul::engine::workers::WorkerParts;
use haul::engine::writer::Condition;
use haul::engine::{self, Checks, EngineParts};
use haul::files::{ContentStore, Durability, Root, Roots};
use haul::model::access::{AccessAnswer, AccessChange, Actor};
use haul::model::failure::{Failure, FailureReason};
use haul::model::group::{GroupMode, GroupPolicy};
use haul::model::ids::TaskId;
use haul::model::job::JobState;
use haul::model::limits::Limits;
use haul::model::quotas::{Quota, Quotas};
use haul::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, TimeoutOptions, Work};
use haul::model::task::TaskState;
use haul::model::task_filter::{TaskChoice, TaskFilter};
use haul::model::tenant::{Owner, Scope, TenantPatch};
use haul::model::time::Timestamp;
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use haul::pb;
use haul::pb::job_service_server::JobServiceServer;
use haul::pb::watch_jobs_response::Event;
use haul::store::{Answer, Batch, Committed, Store as _, StoreError, WriteStore};
use haul::telemetry::metrics::page;
use http::{HeaderMap, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::memory::{MemoryStore, MemoryWriter};
use crate::slow_store::{Faults, SlowStore, SlowWriter};

/// Every host asks to be left alone for an hour, but for what has moved to one of them.
pub(crate) struct LeftAlone;

pub(crate) struct Nothing(#[allow(dead_code)] pub(crate) Request);

impl BodySource for Nothing {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        std::future::ready(None).boxed()
    }
}

impl Transport for LeftAlone {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let mut headers = HeaderMap::new();
        let status = if request.url.path() == "/moved" {
            headers.insert(header::LOCATION, header::HeaderValue::from_static("http://10.0.0.9/there"));
            StatusCode::FOUND
        } else {
            headers.insert(header::RETRY_AFTER, 3600.into());
            StatusCode::SERVICE_UNAVAILABLE
        };
        let url = request.url.clone();
        let response = Response { status, headers, url, remote: None, body: Body(Box::new(Nothing(request))) };
        std::future::ready(Ok(response)).boxed()
    }
}

/// Every host answers.
pub(crate) struct Fine;

impl Transport for Fine {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let (url, headers) = (request.url.clone(), HeaderMap::new());
        let body = Body(Box::new(Nothing(request)));
        std::future::ready(Ok(Response { status: StatusCode::OK, headers, url, remote: None, body })).boxed()
    }
}

/// A store of which each commit takes a while.
pub(crate) struct Slow(pub(crate) MemoryWriter);

impl WriteStore for Slow {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            tokio::time::sleep(Duration::from_millis(40)).await;
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// Every host answers, and how often is counted.
struct Counted(Arc<AtomicUsize>);

impl Transport for Counted {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Fine.send(request, profile)
    }
}

/// A store that takes as long for a commit as this says.
struct Stalled(MemoryWriter, Arc<AtomicBool>);

impl WriteStore for Stalled {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            while self.1.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// A store that somebody holds for as long as this says.
struct Locked(MemoryWriter, Arc<AtomicBool>);

impl WriteStore for Locked {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.1.load(Ordering::Relaxed) {
                return Err(StoreError::Retry("somebody holds it".to_owned()));
            }
            self.0.commit(batch).await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// A store that notes the most events that a batch had.
struct Noting(MemoryWriter, Arc<AtomicUsize>);

impl WriteStore for Noting {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        self.1.fetch_max(batch.events.len(), Ordering::Relaxed);
        self.0.commit(batch)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

pub(crate) fn fetch(url: &str, limit: Option<Duration>) -> TaskSpec {
    let timeouts = TimeoutOptions { task: limit, ..TimeoutOptions::default() };
    let options = TaskOptions { timeouts, ..TaskOptions::default() };
    let work = Work::Fetch(FetchSpec { url: url.to_owned(), ..FetchSpec::default() });
    TaskSpec { key: String::new(), work, options: options.into() }
}

pub(crate) fn parts(dir: &std::path::Path, memory: &MemoryStore) -> EngineParts {
    EngineParts {
        traces: None,
        clock: Clock::paced(Timestamp(1_700_000_000_000_000)),
        store: Arc::new(memory.clone()),
        limits: Limits::default(),
        roots: Roots::new(Root::open(&dir.join("downloads")).unwrap(), BTreeMap::new()),
        content: Arc::new(ContentStore::open(&dir.join("content"), None).unwrap()),
        aside: dir.join("partials"),
        durability: Durability::None,
        retry_after_max: Duration::from_secs(3600),
        drain_patience: Duration::from_secs(5),
        parts_by_url: false,
        max_download_bytes: None,
        bounds: Bounds { piece_rows: 8, piece_share: 8, ..Bounds::default() },
        workers: 0,
        make: Arc::new(|| WorkerParts {
            transport: Arc::new(LeftAlone),
            close: Box::new(|| Box::pin(std::future::ready(()))),
        }),
        checks: Checks::All,
        metrics: Arc::default(),
    }
}

/// The number of the next event is known when the piece that is at the store has been answered.
pub(crate) async fn a_time_is_over_while_others_are_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let parts = parts(dir.path(), &memory);
    let metrics = parts.metrics.clone();
    let (engine, task) = engine::start(parts, Box::new(Slow(memory.writer())), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let group = || GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() };
    let spec = || JobSpec { group: group(), ..JobSpec::default() };
    engine.submit(spec(), vec![fetch("http://10.0.0.9/", None)], "", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let moved = (0..5).map(|_| fetch("http://10.0.0.1/moved", Some(Duration::from_secs(3))));
    let others = (0..400).map(|number| fetch(&format!("http://10.0.0.2/{number}"), None));
    let job = engine.submit(spec(), moved.chain(others).collect::<Vec<_>>(), "", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let filter = TaskFilter { host: "10.0.0.2".to_owned(), ..TaskFilter::default() };
    let acted = engine.cancel_tasks(job.id, TaskChoice::Fitting(filter), "not these".to_owned()).await.unwrap();
    assert_eq!(acted.tasks, 400);
    let counted = page::page(&metrics, page::Gauges::default(), page::Form::Classic);
    let of_cancelled = |line: &&str| line.starts_with("haul_tasks_ended") && line.contains("cancelled");
    let of_cancelled: Vec<&str> = counted.lines().filter(of_cancelled).collect();
    assert!(of_cancelled.iter().any(|line| line.contains("fetch") && line.ends_with(" 400")), "{of_cancelled:?}");
    let ended = tokio::time::timeout(Duration::from_secs(60), engine.ended(job.id)).await.unwrap().unwrap();
    assert_eq!((ended.counts.failed, ended.counts.cancelled), (5, 400));
    assert_eq!(ended.sequence, memory.job(job.id).await.unwrap().unwrap().sequence);
    let late = memory.task(TaskId { job: job.id, index: 0 }).await.unwrap().unwrap();
    assert_eq!(late.row.task.error.unwrap().reason, FailureReason::TimeoutTask);
    assert!(work.try_join_next().is_none(), "the engine ended by itself");
}

/// What has ended and is not stored is no more than a batch takes and what may run.
pub(crate) async fn origins_are_quicker_than_the_store() {
    const TASKS: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let (sent, stalls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let asked = sent.clone();
    let make = move || {
        let transport = Arc::new(Counted(asked.clone()));
        WorkerParts { transport, close: Box::new(|| Box::pin(std::future::ready(()))) }
    };
    let parts = EngineParts { make: Arc::new(make), ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(Stalled(memory.writer(), stalls.clone())), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let tasks = (0..TASKS).map(|number| fetch(&format!("http://10.0.{}.{}/", number / 250, number % 250), None));
    let job = engine.submit(JobSpec::default(), tasks.collect::<Vec<_>>(), "", None).await.unwrap();
    stalls.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = sent.load(Ordering::Relaxed);
    assert!(before < TASKS / 4, "{before} attempts ran while nothing was stored");
    stalls.store(false, Ordering::Relaxed);
    let ended = tokio::time::timeout(Duration::from_secs(60), engine.ended(job.id)).await.unwrap().unwrap();
    assert_eq!((ended.counts.succeeded as usize, sent.load(Ordering::Relaxed)), (TASKS, TASKS));
}

/// What is stored with patience runs once, and what is given up runs again.
pub(crate) async fn a_drain_waits_for_a_store_that_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let held = Arc::new(AtomicBool::new(false));
    let writer = Box::new(Locked(memory.writer(), held.clone()));
    let (engine, task) = engine::start(parts(dir.path(), &memory), writer, 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let job = engine.submit(JobSpec::default(), vec![fetch("http://10.0.0.9/", None)], "", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    held.store(true, Ordering::Relaxed);
    let (asker, id) = (engine.clone(), job.id);
    let mut asked = tokio::task::JoinSet::new();
    asked.spawn(async move { asker.pause(id).await });
    let mut condition = engine.condition();
    condition.wait_for(|it| matches!(it, Condition::Busy(_))).await.unwrap();
    engine.drain().await;
    // Less than a drain waits.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(work.try_join_next().is_none(), "it has given up");
    held.store(false, Ordering::Relaxed);
    assert!(asked.join_next().await.unwrap().unwrap().is_ok());
    work.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(memory.job(id).await.unwrap().unwrap().state, JobState::Paused);
}

/// A client whose answer was lost learns its job and its chunk, whatever else there is no room for.
pub(crate) async fn a_repetition_needs_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let bounds = Bounds { jobs_bytes: 16 << 10, ..Bounds::default() };
    let parts = EngineParts { bounds, ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let spec = || JobSpec { open: true, ..JobSpec::default() };
    let submit = async |id: &str, path: &str| {
        let task = fetch(&format!("http://10.0.0.9/{path}"), None);
        engine.submit(spec(), vec![task], id, None).await.map(|job| job.id)
    };
    let first = submit("first", "a").await.unwrap();
    let chunk = async |id: &str| engine.add_tasks(first, id, vec![fetch("http://10.0.0.9/b", None)]).await;
    let added = chunk("c").await.unwrap();
    let mut number = 0;
    let full = loop {
        number += 1;
        if let Err(error) = submit(&format!("job {number}"), "a").await {
            break error;
        }
        assert!(number < 100, "memory is never used up");
    };
    assert!(matches!(full, EngineError::TooManyJobs), "{full}");
    assert_eq!(submit("first", "a").await.unwrap(), first);
    assert!(matches!(submit("first", "other").await, Err(EngineError::RequestIdTaken(_))));
    assert!(matches!(submit("", "a").await, Err(EngineError::TooManyJobs)));
    let again = chunk("c").await.unwrap();
    assert_eq!((again.first, again.count), (added.first, added.count));
}

/// A client that does not read its list of jobs while more of them change than are kept for it is told so, once it reads.
pub(crate) async fn a_client_looks_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let parts = EngineParts { bounds: Bounds { changed_jobs: 8, ..Bounds::default() }, ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let (store, never) = (Arc::new(memory.clone()), CancellationToken::new);
    let allowed = ClientOptions { proxy: true, skip_verify: true };
    let jobs = Jobs::new(engine.clone(), store, never(), never(), Watchers::new(64), allowed);
    let mut client = pb::job_service_client::JobServiceClient::new(JobServiceServer::new(jobs));
    let mut list = client.watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
    let is_synced = |message: pb::WatchJobsResponse| matches!(message.event, Some(Event::Synced(_)));
    while !is_synced(list.message().await.unwrap().unwrap()) {}
    for _ in 0..20 {
        engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await.unwrap();
    }
    let status = loop {
        match list.message().await {
            Ok(message) => assert!(message.is_some(), "the list ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "WATCHER_TOO_SLOW");
}

/// A tenant that may have no request at a host starts when it may, also at a host that nobody asks.
pub(crate) async fn a_tenant_may_ask_hosts_again() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let parts = EngineParts { make: Arc::new(make), ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let patch = |running_per_host| {
        let quotas = Quotas { running_per_host, ..Quotas::default() };
        Box::new(TenantPatch { quotas, named: Quota::ALL.to_vec(), ..TenantPatch::default() })
    };
    let (name, request_id) = ("few".to_owned(), String::new());
    let made = engine.change_access(AccessChange::CreateTenant { name, patch: patch(Some(0)), request_id }).await;
    let Ok(AccessAnswer::Tenant(made)) = made else { panic!("{made:?}") };
    let owner = Owner { no: made.no, name: made.name.clone() };
    let few = engine.by(Arc::new(Actor { scope: Scope::One(owner), ..Actor::local() }));
    let job = few.submit(JobSpec::default(), vec![fetch("http://10.0.0.9/", None)], "", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(engine.job(job.id).await.unwrap().counts.pending, 1);
    let name = "few".to_owned();
    engine
        .change_access(AccessChange::UpdateTenant { name, patch: patch(Some(2)), etag: String::new() })
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), engine.ended(job.id)).await.unwrap().unwrap();
    assert_eq!(ended.state, JobState::Succeeded);
}

/// Jobs of one tenant that are deleted do not make those who follow another look too late.
pub(crate) async fn deletions_push_out_no_other_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let bounds = Bounds { changed_jobs: 8, ..Bounds::default() };
    let parts = EngineParts { make: Arc::new(make), bounds, ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let (name, request_id) = ("noisy".to_owned(), String::new());
    let patch = Box::new(TenantPatch { named: Quota::ALL.to_vec(), ..TenantPatch::default() });
    let made = engine.change_access(AccessChange::CreateTenant { name, patch, request_id }).await;
    let Ok(AccessAnswer::Tenant(made)) = made else { panic!("{made:?}") };
    let owner = Owner { no: made.no, name: made.name.clone() };
    let noisy = engine.by(Arc::new(Actor { scope: Scope::One(owner), ..Actor::local() }));
    let mut ended = Vec::new();
    for number in 0..20 {
        // Half of them go because their time is over.
        let retention = (number % 2 == 0).then_some(Duration::from_secs(60));
        let spec = JobSpec { retention, ..JobSpec::default() };
        let job = noisy.submit(spec, vec![fetch("http://10.0.0.9/", None)], "", None).await.unwrap();
        assert_eq!(noisy.ended(job.id).await.unwrap().state, JobState::Succeeded);
        ended.push(job.id);
    }
    let [mut quiet, mut all] = [Some(1), None].map(|of| engine.hub().listen(of));
    for job in ended.iter().skip(1).step_by(2) {
        noisy.delete(*job, false).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    for job in &ended {
        assert!(memory.job(*job).await.unwrap().is_none());
    }
    assert_eq!(quiet.take(), Ok(Vec::new()));
    assert!(all.take().is_err(), "there were more of them than are kept");
}

/// What a retry puts back counts among what a tenant has, by whatever it is chosen.
pub(crate) async fn a_retry_by_filter_keeps_to_the_quota() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let (engine, task) = engine::start(parts(dir.path(), &memory), Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let quotas = Quotas { queued_tasks: Some(3), ..Quotas::default() };
    let patch = Box::new(TenantPatch { quotas, named: Quota::ALL.to_vec(), ..TenantPatch::default() });
    let (name, request_id) = ("few".to_owned(), String::new());
    let made = engine.change_access(AccessChange::CreateTenant { name, patch, request_id }).await;
    let Ok(AccessAnswer::Tenant(made)) = made else { panic!("{made:?}") };
    let owner = Owner { no: made.no, name: made.name.clone() };
    let few = engine.by(Arc::new(Actor { scope: Scope::One(owner), ..Actor::local() }));
    let job = few.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await.unwrap();
    for chunk in 0..2 {
        let tasks = (0..3).map(|task| fetch(&format!("http://10.0.0.9/{chunk}/{task}"), None)).collect::<Vec<_>>();
        few.add_tasks(job.id, &format!("c{chunk}"), tasks).await.unwrap();
        few.cancel_tasks(job.id, TaskChoice::Fitting(TaskFilter::default()), String::new()).await.unwrap();
    }
    few.cancel(job.id, String::new()).await.unwrap();
    let states = vec![TaskState::Cancelled];
    let retried = few.retry(job.id, TaskChoice::Fitting(TaskFilter { states, ..TaskFilter::default() })).await;
    assert!(matches!(retried, Err(EngineError::Quota { .. })), "{retried:?}");
}

/// The times of many jobs may be over at once, when the server was down: others do not wait until all of that is stored.
pub(crate) async fn many_times_are_over_at_once() {
    const JOBS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let limits = Limits { max_concurrent_tasks: 1000, ..Limits::default() };
    let parts = |seconds: i64| EngineParts {
        clock: Clock::paced(Timestamp((1_700_000_000 + seconds) * 1_000_000)),
        limits: limits.clone(),
        ..parts(dir.path(), &memory)
    };
    let (engine, task) = engine::start(parts(0), Box::new(memory.writer()), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let spec = JobSpec { timeout: Some(Duration::from_secs(600)), ..JobSpec::default() };
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let url = format!("http://10.1.{}.{}/", number / 200, number % 200 + 1);
        jobs.push(engine.submit(spec.clone(), vec![fetch(&url, None)], "", None).await.unwrap().id);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    engine.drain().await;
    work.join_next().await.unwrap().unwrap().unwrap();
    let most = Arc::new(AtomicUsize::new(0));
    let (engine, task) = engine::start(parts(3600), Box::new(Noting(memory.writer(), most.clone())), 1).await.unwrap();
    work.spawn(task.run());
    for job in jobs {
        let ended = tokio::time::timeout(Duration::from_secs(600), engine.ended(job)).await.unwrap().unwrap();
        assert_eq!(ended.state, JobState::Failed);
    }
    let most = most.load(Ordering::Relaxed);
    assert!(most < 50, "{most} events in one batch");
}

/// A request whose job is being deleted while it is repeated makes a new job.
pub(crate) async fn a_request_is_repeated_while_its_job_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let make = || WorkerParts { transport: Arc::new(Fine), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let parts = EngineParts { make: Arc::new(make), ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(Slow(memory.writer())), 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let submit = async || {
        let tasks = vec![fetch("http://10.0.0.9/", None)];
        engine.submit(JobSpec::default(), tasks, "again", None).await.map(|job| job.id)
    };
    let first = submit().await.unwrap();
    engine.ended(first).await.unwrap();
    // A commit is under way, and the next batch gets both.
    let other = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None);
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::join!(submit(), engine.delete(first, false))
    };
    let (other, (second, deleted)) = tokio::join!(other, late);
    assert!(other.is_ok() && deleted.is_ok(), "{deleted:?}");
    let second = second.unwrap();
    assert_ne!(second, first);
    assert_eq!(engine.ended(second).await.unwrap().state, JobState::Succeeded);
    assert_eq!(submit().await.unwrap(), second);
}

/// A job that memory is to read again and cannot: whoever asks for it is answered.
pub(crate) async fn a_job_cannot_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let faults = Faults::new(7, false, true);
    let store = Arc::new(SlowStore { inner: Arc::new(memory.clone()), faults: faults.clone() });
    let writer = Box::new(SlowWriter { inner: Box::new(memory.writer()), faults: faults.clone(), rests: None });
    let parts = EngineParts { checks: Checks::Invariants, store, ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, writer, 1).await.unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(task.run());
    let job = loop {
        if let Ok(job) = engine.submit(JobSpec { open: true, ..JobSpec::default() }, Vec::new(), "", None).await {
            break job.id;
        }
    };
    *faults.unreadable.lock().unwrap() = Some(job);
    let update = async || {
        let patch = JobPatch { title: Some("other".to_owned()), ..JobPatch::default() };
        tokio::time::timeout(Duration::from_secs(600), engine.update(job, patch)).await
    };
    while let Ok(done) = update().await.map(|done| done.is_ok()) {
        if !done {
            break;
        }
    }
    assert!(update().await.expect("it is answered").is_err());
    let deleted = tokio::time::timeout(Duration::from_secs(600), engine.delete(job, false)).await;
    assert!(deleted.is_ok(), "it is answered");
    assert!(work.try_join_next().is_none(), "the engine ended by itself");
}
