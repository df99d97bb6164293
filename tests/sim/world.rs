//! One history: servers that come and go over one store, clients, faults; then calm, and the judgement.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haul::clock::Clock;
use haul::engine::command::EngineError;
use haul::engine::workers::WorkerParts;
use haul::engine::{self, Checks, EngineParts};
use haul::files::{ContentStore, Durability, Root, Roots};
use haul::model::event::EventKind;
use haul::model::ids::{JobId, TaskId};
use haul::model::job::{Job, JobState};
use haul::model::limits::Limits;
use haul::model::task::TaskState;
use haul::model::time::Timestamp;
use haul::store::sqlite::{self, SqliteStore};
use haul::store::{JobFilter, Store, StoreError, WriteStore};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::block_on::in_one_go;
use crate::clients::{Current, Server, Shared, client};
use crate::memory::MemoryStore;
use crate::network::{Network, Script};
use crate::shape::Shape;
use crate::slow_store::{DISK_FAILED, Faults, SlowStore, SlowWriter};
use crate::tenants::{self, working_for};

/// Requests at once to one host, which clients do not change.
const PER_HOST: u32 = 3;
/// Requests at once in all, at most.
const IN_ALL: u32 = 8;
/// What errors of tasks say where the engine is to blame.
const BUGS: [&str; 2] = ["panicked", "without being asked to"];
/// For how long nothing happens once everything has ended.
const QUIET: Duration = Duration::from_secs(100);
/// A history that takes longer does not end.
const TIME_MAX: Duration = Duration::from_secs(1_000_000);

struct World {
    rng: SmallRng,
    shape: Shape,
    /// Unless the history is over the real store.
    memory: MemoryStore,
    dir: tempfile::TempDir,
    clock: Clock,
    network: Arc<Network>,
    faults: Arc<Faults>,
    current: Current,
    known: Shared,
}

/// Runs the history of a seed, and panics where it breaks a promise. Returns the digest of what happened.
pub(crate) async fn history(seed: u64) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shape = Shape::of(seed, &mut rng);
    let place = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    let world = World {
        dir: tempfile::tempdir_in(place).unwrap(),
        clock: Clock::paced(Timestamp(1_700_000_000_000_000)),
        network: Network::new(seed, shape.tenants),
        faults: Faults::new(rng.random(), shape.real_store, shape.contradicts),
        current: Current::default(),
        known: Shared::default(),
        memory: MemoryStore::default(),
        shape,
        rng,
    };
    let network = world.network.clone();
    assert!(tokio::time::timeout(TIME_MAX, Box::pin(world.run())).await.is_ok(), "the history does not end");
    let seen = network.seen.lock().unwrap();
    seen.digest
}

impl World {
    async fn run(mut self) {
        if self.shape.tenants {
            self.first_life().await;
        }
        let mut clients = JoinSet::new();
        for name in 0..self.shape.clients {
            let rng = SmallRng::seed_from_u64(self.rng.random());
            let tenant = (self.shape.tenants && !name.is_multiple_of(3)).then(|| name as usize % 3 - 1);
            let life = client(name, rng, self.current.clone(), self.known.clone(), self.shape);
            clients.spawn(working_for(tenant, life));
        }
        for life in 0..self.shape.lives {
            self.live(life).await;
        }
        // A restart heals what hangs, so where tenants share hosts the last server meets the faults of the network as well.
        self.network.calm.store(!self.shape.tenants, Ordering::Relaxed);
        self.faults.calm.store(true, Ordering::Relaxed);
        self.faults.fill_disk(0);
        self.faults.doom.store(false, Ordering::Relaxed);
        self.last_life(clients).await;
    }

    fn open(&self) -> (Arc<dyn Store>, Box<dyn WriteStore>) {
        if self.shape.real_store {
            let dir = self.dir.path().join("data");
            let (store, writer) = in_one_go(SqliteStore::open(&dir, sqlite::Durability::Off)).unwrap();
            return (store, Box::new(writer));
        }
        (Arc::new(self.memory.clone()), Box::new(self.memory.writer()))
    }

    async fn start(&mut self) -> (Server, engine::EngineTask) {
        let dir = self.dir.path();
        let (store, writer) = self.open();
        let slow: Arc<dyn Store> = Arc::new(SlowStore { inner: store.clone(), faults: self.faults.clone() });
        let limits = self.faults.done(store.limits()).await.unwrap().unwrap_or_default().over(&Limits::default());
        let network = self.network.clone();
        let parts = EngineParts {
            clock: self.clock.clone(),
            store: slow,
            limits: Limits {
                max_per_host: PER_HOST,
                max_concurrent_tasks: limits.max_concurrent_tasks.min(IN_ALL),
                ..limits
            },
            roots: Roots::new(Root::open(&dir.join("downloads")).unwrap(), BTreeMap::new()),
            content: Arc::new(ContentStore::open(&dir.join("data/content"), None).unwrap()),
            aside: dir.join("data/partials"),
            durability: Durability::None,
            retry_after_max: Duration::from_secs(3600),
            drain_patience: Duration::from_secs(5),
            parts_by_url: false,
            max_download_bytes: None,
            bounds: self.shape.bounds,
            workers: 0,
            make: Arc::new(move || WorkerParts {
                transport: Arc::new(Script(network.clone())),
                close: Box::new(|| Box::pin(std::future::ready(()))),
            }),
            checks: if self.shape.contradicts { Checks::Invariants } else { Checks::All },
            metrics: Arc::default(),
            traces: None,
        };
        let writer = SlowWriter { inner: writer, faults: self.faults.clone(), rests: None };
        let seed = self.rng.random();
        // What the start reads may fail for a while.
        let (engine, task) = engine::start(parts, Box::new(writer), seed).await.unwrap();
        (Server { engine, store, faults: self.faults.clone() }, task)
    }

    /// A server before all others, without faults, that makes the tenants.
    async fn first_life(&mut self) {
        self.faults.calm.store(true, Ordering::Relaxed);
        let (Server { engine, store, .. }, task) = self.start().await;
        let mut work = JoinSet::new();
        work.spawn(task.run());
        tenants::make(&engine).await;
        engine.drain().await;
        drop((engine, store));
        work.join_next().await.unwrap().unwrap().unwrap();
        self.faults.calm.store(false, Ordering::Relaxed);
    }

    /// One server, from its start to its end by a kill, a failed disk or a drain.
    async fn live(&mut self, life: u32) {
        let (server, task) = self.start().await;
        *self.current.lock().unwrap() = Some(server.clone());
        let mut work = JoinSet::new();
        work.spawn(task.run());
        let end = Duration::from_millis(self.rng.random_range(50..8_000));
        let fault = self.rng.random_range(0..4);
        match fault {
            0 => {
                tokio::time::sleep(end / 2).await;
                self.faults.fill_disk(self.rng.random_range(1..6));
                tokio::time::sleep(end / 2).await;
            }
            1 => {
                tokio::time::sleep(end).await;
                self.faults.doom.store(true, Ordering::Relaxed);
                // Until something is committed, at the latest when it drains.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            _ => tokio::time::sleep(end).await,
        }
        match work.try_join_next() {
            None => {}
            Some(Ok(Err(StoreError::Fatal(why)))) if fault == 1 && why.contains(DISK_FAILED) => {}
            other => panic!("life {life} ended early: {other:?}"),
        }
        let drains = self.rng.random_ratio(1, 3);
        *self.current.lock().unwrap() = None;
        if drains {
            server.engine.drain().await;
        }
        let Server { engine, store, .. } = server;
        drop(engine);
        if drains {
            match tokio::time::timeout(Duration::from_secs(600), work.join_next()).await {
                // Nothing is left of a server whose disk had failed before.
                Ok(None | Some(Ok(Ok(()) | Err(StoreError::Full(_))))) => {}
                Ok(Some(Ok(Err(StoreError::Fatal(why))))) if fault == 1 && why.contains(DISK_FAILED) => {}
                other => panic!("life {life}: the drain ended in {other:?}"),
            }
        }
        // A kill: whatever was on its way is gone.
        work.abort_all();
        while let Some(ended) = work.join_next().await {
            assert!(!ended.is_err_and(|error| error.is_panic()), "life {life} ended in a panic");
        }
        // Calls that were under way notice, and leave the data directory to the next server.
        while Arc::strong_count(&store) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.network.in_flight(), 0, "something still runs");
        self.faults.judge();
        self.faults.doom.store(false, Ordering::Relaxed);
    }

    /// Faults have stopped, so everything comes to its end.
    async fn last_life(mut self, mut clients: JoinSet<()>) {
        let (server, task) = self.start().await;
        *self.current.lock().unwrap() = Some(server.clone());
        let Server { engine, store, .. } = server;
        self.check_acknowledged(&store).await;
        let mut work = JoinSet::new();
        work.spawn(task.run());
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let limits = haul::model::limits::LimitsPatch { max_concurrent_tasks: Some(IN_ALL), ..Default::default() };
        engine.set_limits(limits).await.unwrap();
        if self.shape.tenants {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..20_000))).await;
            self.network.calm.store(true, Ordering::Relaxed);
        }
        self.finish(&engine, &store).await;
        assert!(work.try_join_next().is_none(), "the last server ended by itself");
        self.judge(&store).await;
        let requests = self.network.requests();
        tokio::time::sleep(QUIET).await;
        assert_eq!(requests, self.network.requests(), "ended jobs are not quiet");
        let hosts = engine.hosts(None, None, usize::MAX).await.unwrap();
        assert!(hosts.iter().all(|(host, waiting)| host.running == 0 && *waiting == 0), "permits are lost: {hosts:?}");
        engine.drain().await;
        drop(engine);
        *self.current.lock().unwrap() = None;
        work.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Seals and resumes what clients left, and waits for every end.
    async fn finish(&self, engine: &engine::handle::Engine, store: &Arc<dyn Store>) {
        for job in self.jobs(store).await {
            let _ = engine.seal(job.id).await;
            let _ = engine.resume(job.id).await;
        }
        for job in self.jobs(store).await {
            let ended = tokio::time::timeout(Duration::from_secs(40_000), engine.ended(job.id)).await;
            let Ok(ended) = ended else {
                let job = engine.job(job.id).await.unwrap();
                let explanation = engine.explain(job.id, Vec::new()).await;
                panic!("job {} does not end: {:?} {:?} {explanation:?}", job.id, job.state, job.counts);
            };
            // It may have been deleted by its retention.
            assert!(matches!(ended, Ok(_) | Err(EngineError::NoJob(_))), "job {}: {ended:?}", job.id);
        }
    }

    /// What clients were told of is there again after a restart.
    async fn check_acknowledged(&self, store: &Arc<dyn Store>) {
        let all: BTreeMap<JobId, Job> = self.jobs(store).await.into_iter().map(|job| (job.id, job)).collect();
        for known in &self.known.lock().unwrap().jobs {
            let Some(job) = all.get(&known.id) else {
                assert!(known.maybe_deleted, "job {} of request {} is lost", known.id, known.request);
                continue;
            };
            assert!(!known.deleted, "job {} was deleted and is there", known.id);
            assert!(job.counts.total >= known.tasks, "tasks of {} are lost: {:?}", known.id, job.counts);
            assert!(!(job.open && known.sealed), "job {} was sealed and is open", known.id);
        }
    }

    async fn judge(&self, store: &Arc<dyn Store>) {
        {
            let seen = self.network.seen.lock().unwrap();
            assert!(seen.most_at_a_host <= PER_HOST, "{} requests at once to a host", seen.most_at_a_host);
            assert!(seen.most_in_all <= IN_ALL, "{} requests at once", seen.most_in_all);
            assert!(seen.violations.is_empty(), "{:?}", seen.violations);
        }
        self.faults.judge();
        self.check_acknowledged(store).await;
        for job in self.jobs(store).await {
            self.judge_job(store, &job).await;
        }
        let spared = std::mem::take(&mut self.known.lock().unwrap().spared);
        for (job, tasks, reason) in spared {
            for index in tasks {
                let task = self.faults.done(store.task(TaskId { job, index })).await.unwrap();
                let error = task.and_then(|task| task.row.task.error).map_or(String::new(), |error| error.message);
                assert!(error != reason, "task {job}/{index} was added after its like had been cancelled");
            }
        }
    }

    async fn judge_job(&self, store: &Arc<dyn Store>, job: &Job) {
        assert!(job.state.is_ended(), "{job:?}");
        let rows = self.faults.done(store.recount(job.id)).await.unwrap();
        assert_eq!(job.counts, rows, "the counts of {} are not its rows", job.id);
        assert_eq!(job.failures.total(), rows.failed, "the kinds of failures of {}", job.id);
        let mut expected = 1;
        let mut ends: HashMap<u32, TaskState> = HashMap::new();
        let mut job_ends = 0;
        loop {
            let events = self.faults.done(store.events(job.id, expected - 1, 500)).await.unwrap();
            if events.items.is_empty() {
                break;
            }
            for event in events.items {
                assert_eq!(event.head.sequence, expected, "a gap in the events of {}", job.id);
                expected += 1;
                if let Some(then) = &event.snapshot {
                    assert_eq!(
                        then.failures.total(),
                        then.counts.failed,
                        "event {} of {}",
                        event.head.sequence,
                        job.id
                    );
                }
                match event.head.kind {
                    EventKind::TaskEnded => {
                        let task = event.task.expect("the task is told");
                        let error = task.row.task.error.as_ref().map_or("", |error| error.message.as_str());
                        assert!(!BUGS.iter().any(|bug| error.contains(bug)), "task {}/{}: {error}", job.id, task.index);
                        let before = ends.insert(task.index, task.row.task.state);
                        let again = matches!(before, None | Some(TaskState::Failed | TaskState::Cancelled));
                        assert!(again, "task {}/{} ended after it was {before:?}", job.id, task.index);
                    }
                    EventKind::JobEnded => job_ends += 1,
                    EventKind::JobChanged => {}
                }
            }
        }
        assert_eq!(expected - 1, job.sequence, "the sequence of {}", job.id);
        assert!(job_ends >= 1);
        assert_eq!(ends.len() as u32, job.counts.total, "not every task of {} ended", job.id);
        let count = |state| ends.values().filter(|it| **it == state).count() as u32;
        assert_eq!(count(TaskState::Succeeded), job.counts.succeeded);
        assert_eq!(count(TaskState::Failed), job.counts.failed);
        match job.state {
            JobState::Succeeded => assert!(job.failure.is_none()),
            JobState::Failed => assert!(job.failure.is_some() || job.counts.failed == 0, "{job:?}"),
            _ => {}
        }
    }

    async fn jobs(&self, store: &Arc<dyn Store>) -> Vec<Job> {
        let mut filter = JobFilter::default();
        let mut all = Vec::new();
        loop {
            let page = self.faults.done(store.jobs(&filter, 100)).await.unwrap();
            filter.before = page.next;
            all.extend(page.items);
            if filter.before.is_none() {
                return all;
            }
        }
    }
}
