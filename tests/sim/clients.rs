//! Clients as they are: they ask, give up after a random time, and ask again with the same ids.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use haul::engine::command::{EngineError, JobPatch};
use haul::engine::handle::Engine;
use haul::model::failure::FailureReason;
use haul::model::group::{GroupMode, GroupPolicy};
use haul::model::host::Host;
use haul::model::ids::JobId;
use haul::model::job::Job;
use haul::model::limits::LimitsPatch;
use haul::model::limits::RateLimit;
use haul::model::spec::{
    FetchSpec, JobSpec, PageStyle, Pagination, RetryOptions, TaskOptions, TaskSpec, TimeoutOptions, Work,
};
use haul::model::task::TaskState;
use haul::model::task_filter::{TaskChoice, TaskFilter};
use haul::model::time::Timestamp;
use haul::store::{JobFilter, Store};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::shape::Shape;
use crate::slow_store::Faults;
use crate::tenants::{asked_by_client, counted_as};

/// What clients know because they were told.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) jobs: Vec<KnownJob>,
    /// Tasks that were added after somebody had asked to cancel those of the job, for this reason.
    pub(crate) spared: Vec<(JobId, std::ops::Range<u32>, String)>,
}

pub(crate) struct KnownJob {
    pub(crate) id: JobId,
    pub(crate) request: String,
    /// As what its requests are counted, and how many of them may be in flight; 0: any number.
    counted_as: (String, u32),
    /// The most tasks that were ever acknowledged.
    pub(crate) tasks: u32,
    pub(crate) deleted: bool,
    pub(crate) sealed: bool,
    /// A deletion was asked for, and nobody knows what became of it.
    pub(crate) maybe_deleted: bool,
    pub(crate) chunks: Vec<(String, u32, u32)>,
}

pub(crate) type Shared = Arc<Mutex<Known>>;
/// The server of the moment: one that is restarted has another engine.
pub(crate) type Current = Arc<Mutex<Option<Server>>>;

/// A server, and the store that it runs over, without faults.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
}

impl Server {
    /// A job as it is durable at this moment.
    async fn stored(&self, job: JobId) -> Option<Job> {
        self.faults.done(self.store.job(job)).await.unwrap()
    }
}

fn server(current: &Current) -> Option<Server> {
    current.lock().unwrap().clone()
}

fn engine(current: &Current) -> Option<Engine> {
    server(current).map(|server| asked_by_client(&server.engine))
}

/// The URLs of a job with a limit name the job and the limit, so that the network can count.
fn task(rng: &mut SmallRng, serial: u64, (job, cap): (&str, u32), body: usize) -> TaskSpec {
    // Long bodies are all of one host, to fill the pages of its lane.
    let host = if body > 0 { 1 } else { rng.random_range(1..4) };
    let listing = rng.random_ratio(1, 4);
    let (path, pagination) = if listing {
        let style = PageStyle::LinkHeader;
        ("list", Some(Pagination { style, items_pointer: String::new(), max_pages: 0, max_items: 0 }))
    } else {
        ("t", None)
    };
    let name = if cap > 0 { format!("?job={job}&cap={cap}") } else { String::new() };
    let url = format!("http://10.0.0.{host}/{path}/{serial}{name}");
    let timeouts = TimeoutOptions {
        attempt: rng.random_ratio(1, 3).then(|| {
            Duration::from_millis(if listing { rng.random_range(5..300) } else { rng.random_range(20..5_000) })
        }),
        task: rng.random_ratio(1, 8).then(|| Duration::from_millis(rng.random_range(20..20_000))),
        ..TimeoutOptions::default()
    };
    let retry = RetryOptions {
        max_attempts: Some(rng.random_range(1..5)),
        initial_backoff: Some(Duration::from_millis(if rng.random() {
            rng.random_range(1..20)
        } else {
            rng.random_range(1..2_000)
        })),
        ..RetryOptions::default()
    };
    let options = TaskOptions { retry, timeouts, ..TaskOptions::default() };
    let key = if rng.random_ratio(1, 3) { format!("k{}", serial % 40) } else { String::new() };
    TaskSpec {
        key,
        work: Work::Fetch(FetchSpec { url, pagination, body: vec![b'x'; body], ..FetchSpec::default() }),
        options: options.into(),
    }
}

fn tasks(rng: &mut SmallRng, serial: &mut u64, count: u64, of: (&str, u32), body: usize) -> Vec<TaskSpec> {
    let mut tasks: Vec<TaskSpec> = Vec::new();
    for _ in 0..count {
        *serial += 1;
        let mut fresh = task(rng, *serial, of, body);
        if tasks.iter().any(|other| other.key == fresh.key) {
            fresh.key.clear();
        }
        tasks.push(fresh);
    }
    tasks
}

fn spec(rng: &mut SmallRng, now: Timestamp) -> JobSpec {
    let mode = match rng.random_range(0..4) {
        0 => GroupMode::Collect,
        1 => GroupMode::FirstSuccess,
        _ => GroupMode::FailFast,
    };
    let max_concurrency = if rng.random_ratio(1, 3) { rng.random_range(1..4) } else { 0 };
    JobSpec {
        open: rng.random_ratio(1, 2),
        group: GroupPolicy { mode, max_failures: rng.random_range(0..3), max_concurrency },
        timeout: rng.random_ratio(1, 8).then(|| Duration::from_secs(rng.random_range(1..60))),
        retention: rng.random_ratio(1, 3).then(|| Duration::from_millis(rng.random_range(0..6_000))),
        priority: rng.random_range(-1..2),
        labels: [("kind".to_owned(), KINDS[rng.random_range(0..KINDS.len())].to_owned())].into(),
        start_time: rng.random_ratio(1, 8).then(|| now.plus(Duration::from_millis(rng.random_range(0..3_000)))),
        rate_limit: RateLimit {
            requests_per_second: if rng.random_ratio(1, 8) { rng.random_range(2.0..20.0) } else { 0.0 },
            ..RateLimit::default()
        },
        ..JobSpec::default()
    }
}

/// Asks, and gives up after a random time.
async fn patience<T>(
    rng: &mut SmallRng,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Option<Result<T, EngineError>> {
    let patience = if rng.random_ratio(1, 2) { rng.random_range(0..4) } else { rng.random_range(0..2_000) };
    tokio::time::timeout(Duration::from_millis(patience), call).await.ok()
}

/// One client's life.
pub(crate) async fn client(name: u64, mut rng: SmallRng, current: Current, known: Shared, shape: Shape) {
    let mut serial = name * 1_000_000;
    for step in 0..shape.steps {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        match rng.random_range(0..22) {
            0..5 => submit(&mut rng, &current, &known, &mut serial, &format!("{name}-{step}"), shape).await,
            5..10 => add(&mut rng, &current, &known, &mut serial, &format!("{name}-{step}"), shape).await,
            10 => limits(&mut rng, &current).await,
            11 => watch(&mut rng, &current, &known).await,
            12 => meet_expiry(&mut rng, &current, &known).await,
            13 => control_jobs(&mut rng, &current, &known).await,
            14 => resume_host(&mut rng, &current).await,
            15 | 16 => {
                cancel_beside_adding(&mut rng, &current, &known, &mut serial, &format!("{name}-{step}"), shape).await;
            }
            _ => control(&mut rng, &current, &known).await,
        }
    }
}

async fn submit(rng: &mut SmallRng, current: &Current, known: &Shared, serial: &mut u64, request: &str, shape: Shape) {
    let many = if rng.random_ratio(1, 10) { 5 } else { 1 };
    let count = rng.random_range(1..=shape.tasks * many);
    let Some(now) = engine(current).map(|engine| engine.now()) else { return };
    let spec = spec(rng, now);
    let counted_as = counted_as(request, spec.group.max_concurrency);
    let tasks = tasks(rng, serial, count, (&counted_as.0, counted_as.1), shape.body);
    let mut first: Option<JobId> = None;
    for _ in 0..rng.random_range(1..4) {
        let Some(engine) = engine(current) else { return };
        match patience(rng, engine.submit(spec.clone(), tasks.clone(), request, None)).await {
            Some(Ok(job)) => {
                assert!(first.is_none_or(|it| it == job.id), "request {request} made two jobs");
                if first.is_none() {
                    let tasks = tasks.len() as u32;
                    known.lock().unwrap().jobs.push(KnownJob {
                        id: job.id,
                        request: request.to_owned(),
                        counted_as: counted_as.clone(),
                        tasks,
                        deleted: false,
                        sealed: !spec.open,
                        maybe_deleted: spec.retention.is_some(),
                        chunks: Vec::new(),
                    });
                }
                first = Some(job.id);
            }
            Some(Err(EngineError::NoJob(_))) => assert!(spec.retention.is_some() || first.is_some()),
            Some(Err(error)) => expected(&error),
            None => {}
        }
    }
}

fn expected(error: &EngineError) {
    use EngineError as E;
    let is_expected = matches!(
        error,
        E::Draining
            | E::StoreFull(_)
            | E::StoreBusy(_)
            | E::Store(_)
            | E::WrongState(..)
            | E::Sealed(..)
            | E::KeysTaken(_)
            | E::NotRetryable(..)
            | E::Contradiction(_)
            | E::Quota { .. }
    );
    assert!(is_expected, "unexpected: {error:?}");
}

fn pick(rng: &mut SmallRng, known: &Shared) -> Option<(usize, JobId, bool)> {
    let known = known.lock().unwrap();
    let place = (!known.jobs.is_empty()).then(|| rng.random_range(0..known.jobs.len()))?;
    let job = &known.jobs[place];
    Some((place, job.id, job.maybe_deleted || job.deleted))
}

async fn add(rng: &mut SmallRng, current: &Current, known: &Shared, serial: &mut u64, chunk: &str, shape: Shape) {
    let Some((place, job, gone)) = pick(rng, known) else { return };
    let count = rng.random_range(1..=shape.tasks);
    let of = {
        let known = known.lock().unwrap();
        known.jobs[place].counted_as.clone()
    };
    let tasks = tasks(rng, serial, count, (&of.0, of.1), shape.body);
    for _ in 0..rng.random_range(1..4) {
        let Some(engine) = engine(current) else { return };
        match patience(rng, engine.add_tasks(job, chunk, tasks.clone())).await {
            Some(Ok(stored)) => {
                assert_eq!(stored.count, tasks.len() as u32);
                let mut known = known.lock().unwrap();
                let known = &mut known.jobs[place];
                if let Some((_, first, _)) = known.chunks.iter().find(|(id, ..)| id == chunk) {
                    assert_eq!(*first, stored.first, "chunk {chunk} was stored twice");
                } else {
                    known.chunks.push((chunk.to_owned(), stored.first, stored.count));
                }
                known.tasks = known.tasks.max(stored.first + stored.count);
            }
            Some(Err(EngineError::NoJob(_))) => assert!(gone || known.lock().unwrap().jobs[place].maybe_deleted),
            Some(Err(error)) => expected(&error),
            None => {}
        }
    }
}

/// Follows a job for a while. Events come in order and without gaps, and none before it is durable.
async fn watch(rng: &mut SmallRng, current: &Current, known: &Shared) {
    let Some((_, job, _)) = pick(rng, known) else { return };
    let Some(engine) = engine(current) else { return };
    let limit = rng.random_range(1..20);
    let mut after = 0;
    for _ in 0..rng.random_range(1..30) {
        let Ok(events) = engine.events(job, after, limit).await else { return };
        assert!(events.len() <= limit as usize);
        for event in events {
            after += 1;
            assert_eq!(event.head.sequence, after, "a watcher of {job} was told out of order");
        }
        let Some(server) = server(current) else { return };
        if let Some(seen) = server.engine.hub().feed(job).map(|feed| feed.job().sequence)
            && let Some(durable) = server.stored(job).await
        {
            assert!(durable.sequence >= seen, "event {seen} of {job} was published and is not durable");
        }
        drop(server);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
}

async fn limits(rng: &mut SmallRng, current: &Current) {
    let Some(engine) = engine(current) else { return };
    let patch = LimitsPatch { max_concurrent_tasks: Some(rng.random_range(1..9)), ..LimitsPatch::default() };
    if let Some(Err(error)) = patience(rng, engine.set_limits(patch)).await {
        expected(&error);
    }
}

/// Changes a job again and again around its end, so that a change meets its expiry and its removal.
async fn meet_expiry(rng: &mut SmallRng, current: &Current, known: &Shared) {
    let Some((place, job, _)) = pick(rng, known) else { return };
    for _ in 0..rng.random_range(1..30) {
        let Some(engine) = engine(current) else { return };
        let patch = JobPatch { title: Some(format!("{}", rng.random::<u32>())), ..JobPatch::default() };
        match patience(rng, engine.update(job, patch)).await {
            Some(Err(EngineError::NoJob(_))) => {
                assert!(known.lock().unwrap().jobs[place].maybe_deleted, "job {job} is gone, and nobody deleted it");
                return;
            }
            Some(Err(error)) => expected(&error),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
}

/// Values of a label of jobs.
const KINDS: [&str; 3] = ["a", "b", "c"];

/// Does one thing to all jobs of a kind at once, as `ControlJobs` does.
async fn control_jobs(rng: &mut SmallRng, current: &Current, known: &Shared) {
    let Some(Server { engine, store, faults }) = server(current) else { return };
    let kind = KINDS[rng.random_range(0..KINDS.len())];
    let filter = JobFilter { labels: [("kind".to_owned(), kind.to_owned())].into(), ..JobFilter::default() };
    let names = faults.done(store.job_ids(&filter, 1_000)).await.unwrap().items;
    drop(store);
    let action = rng.random_range(0..5);
    if action == 4 {
        known
            .lock()
            .unwrap()
            .jobs
            .iter_mut()
            .filter(|it| names.contains(&it.id))
            .for_each(|it| it.maybe_deleted = true);
    }
    let unit = |_: Arc<Job>| ();
    let acts = names.into_iter().map(|id| {
        let engine = engine.clone();
        async move {
            let acted = match action {
                0 => engine.pause(id).await.map(unit),
                1 => engine.resume(id).await.map(unit),
                2 => engine.begin_cancel(id, "all of them".to_owned()).await.map(unit),
                3 => engine.retry(id, TaskChoice::All).await.map(unit),
                _ => engine.delete(id, false).await,
            };
            (id, acted)
        }
    });
    let all = futures_util::future::join_all(acts);
    let patience = Duration::from_millis(rng.random_range(0..2_000));
    for (id, acted) in tokio::time::timeout(patience, all).await.unwrap_or_default() {
        let mut known = known.lock().unwrap();
        let known = known.jobs.iter_mut().find(|it| it.id == id);
        match (acted, known) {
            (Ok(()), Some(known)) if action == 4 => known.deleted = true,
            (Err(EngineError::NoJob(_)), Some(known)) => assert!(known.maybe_deleted, "job {id} is gone"),
            (Ok(()) | Err(EngineError::NoJob(_)), _) => {}
            (Err(error), _) => expected(&error),
        }
    }
}

async fn resume_host(rng: &mut SmallRng, current: &Current) {
    let Some(engine) = engine(current) else { return };
    let host = Host::new(&format!("10.0.0.{}:80", rng.random_range(1..4)));
    match patience(rng, engine.resume_host(host)).await {
        Some(Err(EngineError::NoHost(_)) | Ok(())) | None => {}
        Some(Err(error)) => expected(&error),
    }
}

/// Cancels tasks of a job, and adds some a moment later, which are none of those that were meant.
async fn cancel_beside_adding(
    rng: &mut SmallRng,
    current: &Current,
    known: &Shared,
    serial: &mut u64,
    chunk: &str,
    shape: Shape,
) {
    let Some((place, job, _)) = pick(rng, known) else { return };
    let Some(engine) = engine(current) else { return };
    let count = rng.random_range(1..=shape.tasks);
    let of = {
        let known = known.lock().unwrap();
        known.jobs[place].counted_as.clone()
    };
    let tasks = tasks(rng, serial, count, (&of.0, of.1), shape.body);
    let (which, reason) = (choice(rng), format!("not those before {chunk}"));
    let delay = Duration::from_millis(rng.random_range(1..30));
    let cancel = tokio::time::timeout(Duration::from_secs(2), engine.cancel_tasks(job, which, reason.clone()));
    let add = tokio::time::timeout(Duration::from_secs(3), async {
        tokio::time::sleep(delay).await;
        engine.add_tasks(job, chunk, tasks).await
    });
    let (cancelled, added) = tokio::join!(cancel, add);
    let gone = |error: &EngineError| matches!(error, EngineError::NoJob(_));
    for error in [cancelled.ok().and_then(Result::err), added.as_ref().ok().and_then(|it| it.as_ref().err().cloned())] {
        match error {
            Some(error) if gone(&error) => assert!(known.lock().unwrap().jobs[place].maybe_deleted, "{job} is gone"),
            Some(error) => expected(&error),
            None => {}
        }
    }
    if let Ok(Ok(stored)) = added {
        let mut known = known.lock().unwrap();
        known.spared.push((job, stored.first..stored.first + stored.count, reason));
        let known = &mut known.jobs[place];
        known.chunks.push((chunk.to_owned(), stored.first, stored.count));
        known.tasks = known.tasks.max(stored.first + stored.count);
    }
}

fn any() -> TaskFilter {
    TaskFilter::default()
}

/// Some tasks of a job.
fn choice(rng: &mut SmallRng) -> TaskChoice {
    match rng.random_range(0..5) {
        0 => TaskChoice::All,
        1 => {
            let mut indexes: Vec<u32> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..40)).collect();
            indexes.sort_unstable();
            indexes.dedup();
            TaskChoice::These(indexes)
        }
        2 => TaskChoice::Fitting(TaskFilter { states: vec![TaskState::Pending], ..any() }),
        3 => TaskChoice::Fitting(TaskFilter { states: vec![TaskState::BackingOff, TaskState::Running], ..any() }),
        _ => TaskChoice::Fitting(TaskFilter { reasons: vec![FailureReason::HttpStatus], ..any() }),
    }
}

/// Cancels some tasks, and sees that what was there when it was asked for has ended.
async fn cancel_some(
    rng: &mut SmallRng,
    current: &Current,
    engine: &Engine,
    job: JobId,
) -> Option<Result<(), EngineError>> {
    let which = choice(rng);
    let before = match server(current) {
        Some(server) => server.stored(job).await.map_or(0, |job| job.counts.total),
        None => 0,
    };
    let cancelled = patience(rng, engine.cancel_tasks(job, which.clone(), "not these".to_owned())).await;
    if let Some(Ok(acted)) = &cancelled {
        assert!(acted.tasks <= acted.job.counts.cancelled, "{acted:?}");
        if which == TaskChoice::All && acted.job.stop.is_none() {
            // Only what was added since has not ended.
            let counts = acted.job.counts;
            assert!(counts.total > before || counts.unfinished() == 0, "{acted:?}");
        }
    }
    cancelled.map(|it| it.map(drop))
}

async fn control(rng: &mut SmallRng, current: &Current, known: &Shared) {
    let Some((place, job, _)) = pick(rng, known) else { return };
    let Some(engine) = engine(current) else { return };
    let unit = |_: Arc<Job>| ();
    let answer = match rng.random_range(0..13) {
        0 => {
            let answer = patience(rng, engine.seal(job)).await;
            if let Some(Ok(_)) = &answer {
                known.lock().unwrap().jobs[place].sealed = true;
            }
            answer.map(|it| it.map(unit))
        }
        1 => patience(rng, engine.pause(job)).await.map(|it| it.map(unit)),
        2 => patience(rng, engine.resume(job)).await.map(|it| it.map(unit)),
        3 => patience(rng, engine.cancel(job, "why not".to_owned())).await.map(|it| it.map(unit)),
        4 => patience(rng, engine.retry(job, TaskChoice::All)).await.map(|it| it.map(unit)),
        5 => {
            let indexes = vec![rng.random_range(0..3), rng.random_range(0..3)];
            match patience(rng, engine.retry(job, TaskChoice::These(indexes))).await {
                Some(Err(EngineError::NoTask(..))) => None,
                other => other.map(|it| it.map(unit)),
            }
        }
        6 => {
            let title = Some(format!("{}", rng.random::<u32>()));
            let patch = JobPatch { title, priority: Some(rng.random_range(-1..2)), ..JobPatch::default() };
            patience(rng, engine.update(job, patch)).await.map(|it| it.map(unit))
        }
        9 | 10 => cancel_some(rng, current, &engine, job).await,
        11 => {
            let which = choice(rng);
            patience(rng, engine.retry_now(job, which)).await.map(|it| it.map(drop))
        }
        12 => {
            let filter = TaskFilter { reasons: vec![FailureReason::HttpStatus, FailureReason::Cancelled], ..any() };
            patience(rng, engine.retry(job, TaskChoice::Fitting(filter))).await.map(|it| it.map(unit))
        }
        7 => patience(rng, engine.wait(job, Some(Duration::from_millis(500)))).await.map(|it| it.map(unit)),
        _ => {
            known.lock().unwrap().jobs[place].maybe_deleted = true;
            let answer = patience(rng, engine.delete(job, false)).await;
            let mut known = known.lock().unwrap();
            if let Some(Ok(())) = &answer {
                known.jobs[place].deleted = true;
            }
            answer
        }
    };
    match answer {
        Some(Err(EngineError::NoJob(_))) => {
            let known = known.lock().unwrap();
            assert!(known.jobs[place].maybe_deleted, "job {job} is gone, and nobody deleted it");
        }
        Some(Err(error)) => expected(&error),
        _ => {}
    }
}
