//! Tenants beside others whose tasks never end by themselves: whatever else happens, all tasks of theirs begin.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::clock::Clock;
use haul::engine::bounds::Bounds;
use haul::engine::handle::Engine;
use haul::engine::workers::WorkerParts;
use haul::engine::{self, EngineParts};
use haul::model::access::{AccessAnswer, AccessChange, Actor};
use haul::model::failure::Failure;
use haul::model::ids::JobId;
use haul::model::job::JobState;
use haul::model::limits::{Limits, LimitsPatch};
use haul::model::quotas::Quota;
use haul::model::spec::{JobSpec, TaskOptions, TaskSpec, TimeoutOptions};
use haul::model::tenant::{Owner, Scope, TenantPatch};
use haul::model::time::Timestamp;
use haul::net::{Body, Profile, Request, Response, Transport};
use http::{HeaderMap, StatusCode, header};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::directed::{Nothing, fetch, parts};
use crate::memory::MemoryStore;

/// Tenants whose tasks never end, and then others.
const NAMES: [&str; 4] = ["slow", "slower", "quick", "quicker"];
/// How many are of the first kind: two leave something of five or more.
const SLOW: usize = 2;
const HOSTS: u32 = 4;
const STEPS: u32 = 40;
/// For how long whoever is given back because many wait may wait in all.
const PATIENCE: Duration = Duration::from_secs(100_000);

/// Hosts that never answer where the path says so, after having moved it elsewhere or not, and else answer soon.
struct Neighbours;

impl Transport for Neighbours {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        async move {
            let (url, mut headers) = (request.url.clone(), HeaderMap::new());
            tokio::time::sleep(Duration::from_millis(u64::from(url.path().len() as u32 % 7))).await;
            let status = match url.path().strip_prefix("/moved/") {
                Some(to) => {
                    headers.insert(header::LOCATION, format!("http://{to}").parse().unwrap());
                    StatusCode::FOUND
                }
                None if url.path() == "/never" => std::future::pending().await,
                None => StatusCode::OK,
            };
            Ok(Response { status, headers, url, remote: None, body: Body(Box::new(Nothing(request))) })
        }
        .boxed()
    }
}

fn tasks(rng: &mut SmallRng, most: u32, path: &str) -> Vec<TaskSpec> {
    let mut task = || {
        let [first, second] = [0; 2].map(|_| rng.random_range(0..HOSTS));
        let timeouts = TimeoutOptions { response_headers: Some(10 * PATIENCE), ..TimeoutOptions::default() };
        let moved = if rng.random_ratio(1, 3) { format!("moved/10.0.0.{first}/") } else { String::new() };
        let spec = fetch(&format!("http://10.0.0.{second}/{moved}{path}"), None);
        TaskSpec { options: TaskOptions { timeouts, ..TaskOptions::default() }.into(), ..spec }
    };
    (0..most).map(|_| task()).collect()
}

async fn start(parts: EngineParts, memory: &MemoryStore, limits: Limits, seed: u64) -> (Engine, JoinSet<()>) {
    let make = || WorkerParts { transport: Arc::new(Neighbours), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let bounds = Bounds { lane_page: 4, ..Bounds::default() };
    let parts = EngineParts { make: Arc::new(make), limits, bounds, ..parts };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), seed).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(async { task.run().await.unwrap() });
    (engine, work)
}

async fn create(engine: &Engine, name: &str) -> Arc<Actor> {
    let patch = Box::new(TenantPatch { named: Quota::ALL.to_vec(), ..TenantPatch::default() });
    let made = engine
        .change_access(AccessChange::CreateTenant { name: name.to_owned(), patch, request_id: String::new() })
        .await;
    let Ok(AccessAnswer::Tenant(made)) = made else { panic!("{made:?}") };
    let owner = Owner { no: made.no, name: made.name.clone() };
    Arc::new(Actor { scope: Scope::One(owner), ..Actor::local() })
}

async fn suspend(engine: &Engine, name: &str, is_suspended: bool) {
    let patch = Box::new(TenantPatch { is_suspended: Some(is_suspended), ..TenantPatch::default() });
    let change = AccessChange::UpdateTenant { name: name.to_owned(), patch, etag: String::new() };
    engine.change_access(change).await.unwrap();
}

/// One history.
pub(crate) async fn all_tasks_of_others_begin(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let limits = Limits {
        max_concurrent_tasks: rng.random_range(6..30),
        max_per_host: rng.random_range(5..10),
        ..Limits::default()
    };
    let clock = Clock::paced(Timestamp(1_700_000_000_000_000));
    let life = || EngineParts { clock: clock.clone(), ..parts(dir.path(), &memory) };
    let (mut engine, mut work) = start(life(), &memory, limits.clone(), rng.random()).await;
    let mut actors = Vec::new();
    for name in NAMES {
        actors.push(create(&engine, name).await);
    }
    let (mut slow, mut quick): (Vec<JobId>, Vec<JobId>) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        let which = rng.random_range(0..NAMES.len());
        let by = engine.by(actors[which].clone());
        let spec = JobSpec { priority: rng.random_range(-3..4), ..JobSpec::default() };
        match rng.random_range(0..12) {
            0..6 => {
                let path = if which < SLOW { "never" } else { "soon" };
                let most = rng.random_range(1..60);
                let added = by.submit(spec, tasks(&mut rng, most, path), "", None).await;
                // A tenant that is suspended submits nothing.
                let of = if which < SLOW { &mut slow } else { &mut quick };
                of.extend(added.iter().map(|job| job.id));
            }
            6 => {
                let fewer = Some(rng.random_range(1..limits.max_concurrent_tasks));
                let max_per_host = Some(rng.random_range(1..limits.max_per_host));
                let patch = LimitsPatch { max_concurrent_tasks: fewer, max_per_host, ..LimitsPatch::default() };
                engine.set_limits(patch).await.unwrap();
            }
            7 => suspend(&engine, NAMES[which], rng.random()).await,
            8 if !slow.is_empty() => {
                let job = slow[rng.random_range(0..slow.len())];
                // What it does to a job that has ended is no matter.
                let _ = if rng.random() { engine.pause(job).await } else { engine.resume(job).await };
            }
            9 if !slow.is_empty() => {
                let job = slow.swap_remove(rng.random_range(0..slow.len()));
                let _ = engine.cancel(job, String::new()).await;
            }
            10 => {
                engine.drain().await;
                work.join_next().await.unwrap().unwrap();
                (engine, work) = start(life(), &memory, limits.clone(), rng.random()).await;
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await,
        }
    }
    let patch = LimitsPatch {
        max_concurrent_tasks: Some(limits.max_concurrent_tasks),
        max_per_host: Some(limits.max_per_host),
        ..LimitsPatch::default()
    };
    engine.set_limits(patch).await.unwrap();
    for name in NAMES {
        suspend(&engine, name, false).await;
    }
    for job in quick {
        let Ok(ended) = tokio::time::timeout(PATIENCE, engine.ended(job)).await else {
            let waits = engine.waits().await.unwrap();
            panic!("seed {seed}: {limits:?}: {:?} waits: {waits:?}", engine.job(job).await.unwrap().counts);
        };
        assert_eq!(ended.unwrap().state, JobState::Succeeded);
    }
}
