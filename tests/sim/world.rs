//! One history: servers that come and go over one store, clients, faults; then calm, and the judgement.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haul::clock::Clock;
use haul::engine::workers::WorkerParts;
use haul::engine::{self, EngineParts};
use haul::files::{ContentStore, Durability, Root};
use haul::model::event::EventKind;
use haul::model::ids::JobId;
use haul::model::job::{Job, JobState};
use haul::model::limits::Limits;
use haul::model::task::TaskState;
use haul::model::time::Timestamp;
use haul::store::sqlite::{self, SqliteStore};
use haul::store::{JobFilter, Store, StoreError};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::block_on::in_one_go;
use crate::clients::{Current, Shared, client};
use crate::network::{Network, Script};
use crate::slow_store::{Faults, SlowStore, SlowWriter};

/// Requests at once to one host, which clients do not change.
const PER_HOST: u32 = 3;

struct World {
    seed: u64,
    rng: SmallRng,
    dir: tempfile::TempDir,
    clock: Clock,
    network: Arc<Network>,
    faults: Arc<Faults>,
    current: Current,
    known: Shared,
}

/// Runs the history of a seed, and panics where it breaks a promise.
pub(crate) async fn history(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let place = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    let world = World {
        seed,
        dir: tempfile::tempdir_in(place).unwrap(),
        clock: Clock::paced(Timestamp(1_700_000_000_000_000)),
        network: Network::new(seed),
        faults: Faults::new(rng.random()),
        current: Current::default(),
        known: Shared::default(),
        rng,
    };
    world.run().await;
}

impl World {
    async fn run(mut self) {
        let mut clients = JoinSet::new();
        for name in 0..3 {
            let rng = SmallRng::seed_from_u64(self.rng.random());
            let steps = self.rng.random_range(5..25);
            clients.spawn(client(name, rng, self.current.clone(), self.known.clone(), steps));
        }
        let lives = self.rng.random_range(1..4);
        for life in 0..lives {
            self.live(life).await;
        }
        self.network.calm.store(true, Ordering::Relaxed);
        self.faults.calm.store(true, Ordering::Relaxed);
        self.faults.fill_disk(0);
        self.faults.doom.store(false, Ordering::Relaxed);
        self.last_life(clients).await;
    }

    async fn start(&mut self) -> (engine::handle::Engine, engine::EngineTask, Arc<dyn Store>) {
        let dir = self.dir.path();
        let (store, writer) = in_one_go(SqliteStore::open(&dir.join("data"), sqlite::Durability::Off)).unwrap();
        let store: Arc<dyn Store> = store;
        let slow: Arc<dyn Store> = Arc::new(SlowStore { inner: store.clone(), faults: self.faults.clone() });
        let limits = in_one_go(store.limits()).unwrap().unwrap_or_default();
        let network = self.network.clone();
        let parts = EngineParts {
            clock: self.clock.clone(),
            store: slow,
            limits: Limits {
                max_per_host: PER_HOST,
                max_concurrent_tasks: limits.max_concurrent_tasks.min(8),
                ..limits
            },
            root: Arc::new(Root::open(&dir.join("downloads")).unwrap()),
            content: Arc::new(ContentStore::open(&dir.join("data/content")).unwrap()),
            aside: dir.join("data/partials"),
            durability: Durability::None,
            retry_after_max: Duration::from_secs(3600),
            parts_by_url: false,
            max_download_bytes: None,
            queue_bytes: if self.rng.random_ratio(1, 3) { 300_000 } else { 64 << 20 },
            workers: 0,
            make: Arc::new(move || WorkerParts {
                transport: Arc::new(Script(network.clone())),
                close: Box::new(|| Box::pin(std::future::ready(()))),
            }),
            checks: true,
        };
        let writer = SlowWriter { inner: Box::new(writer), faults: self.faults.clone() };
        let seed = self.rng.random();
        // What the start reads may fail for a while.
        let (engine, task) = engine::start(parts, Box::new(writer), seed).await.unwrap();
        (engine, task, store)
    }

    /// One server, from its start to its end by a kill, a failed disk or a drain.
    async fn live(&mut self, life: u32) {
        let (engine, task, store) = self.start().await;
        *self.current.lock().unwrap() = Some(engine.clone());
        let mut work = JoinSet::new();
        work.spawn(task.run());
        let end = Duration::from_millis(self.rng.random_range(50..8_000));
        match self.rng.random_range(0..4) {
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
        let drains = self.rng.random_ratio(1, 3);
        *self.current.lock().unwrap() = None;
        if drains {
            engine.drain().await;
        }
        drop(engine);
        if drains {
            match tokio::time::timeout(Duration::from_secs(600), work.join_next()).await {
                Ok(Some(Ok(Ok(()) | Err(StoreError::Fatal(_) | StoreError::Full(_))))) => {}
                other => panic!("seed {}, life {life}: the drain ended in {other:?}", self.seed),
            }
        }
        // A kill: whatever was on its way is gone.
        work.shutdown().await;
        // Calls that were under way notice, and leave the data directory to the next server.
        while Arc::strong_count(&store) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.network.in_flight(), 0, "something still runs");
        self.faults.doom.store(false, Ordering::Relaxed);
    }

    /// Faults have stopped, so everything comes to its end.
    async fn last_life(mut self, mut clients: JoinSet<()>) {
        let (engine, task, store) = self.start().await;
        *self.current.lock().unwrap() = Some(engine.clone());
        let mut work = JoinSet::new();
        work.spawn(task.run());
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let limits = haul::engine::command::LimitsPatch { max_concurrent_tasks: Some(8), ..Default::default() };
        engine.set_limits(limits).await.unwrap();
        self.finish(&engine, &store).await;
        self.judge(&store);
        let requests = self.network.requests();
        tokio::time::sleep(Duration::from_secs(3_000)).await;
        assert_eq!(requests, self.network.requests(), "ended jobs are not quiet");
        engine.drain().await;
        drop(engine);
        *self.current.lock().unwrap() = None;
        work.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Seals and resumes what clients left, and waits for every end.
    async fn finish(&self, engine: &engine::handle::Engine, store: &Arc<dyn Store>) {
        for job in jobs(store) {
            let _ = engine.seal(job.id).await;
            let _ = engine.resume(job.id).await;
        }
        for job in jobs(store) {
            let ended = tokio::time::timeout(Duration::from_secs(40_000), engine.ended(job.id)).await;
            let Ok(ended) = ended else {
                let job = engine.job(job.id).await.unwrap();
                let explanation = engine.explain(job.id, Vec::new()).await;
                panic!("job {} does not end: {:?} {:?} {explanation:?}", job.id, job.state, job.counts);
            };
            // It may have been deleted by its retention.
            drop(ended);
        }
    }

    fn judge(&self, store: &Arc<dyn Store>) {
        let seen = self.network.seen.lock().unwrap().most_at_a_host;
        assert!(seen <= PER_HOST, "{seen} requests at once to a host");
        let all: HashMap<JobId, Job> = jobs(store).into_iter().map(|job| (job.id, job)).collect();
        for known in &self.known.lock().unwrap().jobs {
            let Some(job) = all.get(&known.id) else {
                assert!(known.maybe_deleted, "job {} of request {} is lost", known.id, known.request);
                continue;
            };
            assert!(!known.deleted, "job {} was deleted and is there", known.id);
            assert!(job.counts.total >= known.tasks, "tasks of {} are lost: {:?}", known.id, job.counts);
        }
        for job in all.values() {
            Self::judge_job(store, job);
        }
    }

    fn judge_job(store: &Arc<dyn Store>, job: &Job) {
        assert!(job.state.is_ended(), "{job:?}");
        assert_eq!(job.counts, in_one_go(store.recount(job.id)).unwrap(), "the counts of {} are not its rows", job.id);
        let mut expected = 1;
        let mut ends: HashMap<u32, TaskState> = HashMap::new();
        let mut job_ends = 0;
        loop {
            let events = in_one_go(store.events(job.id, expected - 1, 500)).unwrap();
            if events.items.is_empty() {
                break;
            }
            for event in events.items {
                assert_eq!(event.head.sequence, expected, "a gap in the events of {}", job.id);
                expected += 1;
                match event.head.kind {
                    EventKind::TaskEnded => {
                        let task = event.task.expect("the task is told");
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
}

fn jobs(store: &Arc<dyn Store>) -> Vec<Job> {
    let mut filter = JobFilter::default();
    let mut all = Vec::new();
    loop {
        let page = in_one_go(store.jobs(&filter, 100)).unwrap();
        filter.before = page.items.last().map(|job| job.id);
        all.extend(page.items);
        if !page.has_more {
            return all;
        }
    }
}
