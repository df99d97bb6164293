//! How long calls take while a big job runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use haul::pb;
use haul::pb::watch_job_response::Event;

use super::{Origin, Server, fetch};

/// A time that no benchmark sees.
const NEVER: Option<prost_types::Timestamp> = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });

/// Calls and events beside a job of `count` fetches, 64 of which run at once.
pub(crate) async fn calls(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let server = Arc::new(Server::start(dir.path(), &["--max-per-host", "64"]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let url = format!("{}/1k", origin.url);
    let id = super::fill(&server, count, &url).await;

    let submit = repeat(&stop, {
        let server = server.clone();
        move || {
            let mut jobs = server.jobs();
            async move {
                let job =
                    pb::JobSpec { tasks: vec![fetch("http://127.0.0.1:2/")], start_time: NEVER, ..Default::default() };
                jobs.submit_job(pb::SubmitJobRequest { job: Some(job), ..Default::default() }).await.unwrap();
            }
        }
    });
    let get = repeat(&stop, {
        let (server, job_id) = (server.clone(), id.clone());
        move || {
            let (mut jobs, job_id) = (server.jobs(), job_id.clone());
            async move {
                jobs.get_job(pb::GetJobRequest { job_id, ..Default::default() }).await.unwrap();
            }
        }
    });
    let list = repeat(&stop, {
        let (server, job_id) = (server.clone(), id.clone());
        move || {
            let (mut jobs, job_id) = (server.jobs(), job_id.clone());
            async move {
                jobs.list_tasks(pb::ListTasksRequest { job_id, ..Default::default() }).await.unwrap();
            }
        }
    });
    let events = tokio::spawn(events(server.clone(), stop.clone()));
    super::ended(&server, &id).await;
    stop.store(true, Ordering::Relaxed);

    let mut worst: f64 = 0.0;
    for (what, times) in [("SubmitJob", submit), ("GetJob", get), ("ListTasks", list), ("an event", events)] {
        let mut times = times.await.unwrap();
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[times.len() * share / 100];
        println!("{what}: p50 {:.1} ms, p99 {:.1} ms of {}", at(50), at(99), times.len());
        worst = worst.max(at(99));
    }
    println!("{worst:.1} ms: the largest 99th percentile beside a job of {count} tasks");
}

/// Makes one call after another until `stop` says so; gives their times in milliseconds.
fn repeat<F: Future<Output = ()> + Send + 'static>(
    stop: &Arc<AtomicBool>,
    call: impl Fn() -> F + Send + 'static,
) -> tokio::task::JoinHandle<Vec<f64>> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            call().await;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times
    })
}

/// The time from a call that changes a job until its watcher is told.
async fn events(server: Arc<Server>, stop: Arc<AtomicBool>) -> Vec<f64> {
    let mut jobs = server.jobs();
    let job = pb::JobSpec { open: true, start_time: NEVER, ..Default::default() };
    let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
    let job_id = jobs.submit_job(request).await.unwrap().into_inner().job.unwrap().job_id;
    let request = pb::WatchJobRequest { job_id: job_id.clone(), ..Default::default() };
    let mut events = jobs.watch_job(request).await.unwrap().into_inner();
    let mut times = Vec::new();
    let mut paused = false;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let job_id = job_id.clone();
        if paused {
            jobs.resume_job(pb::ResumeJobRequest { job_id }).await.unwrap();
        } else {
            jobs.pause_job(pb::PauseJobRequest { job_id }).await.unwrap();
        }
        paused = !paused;
        while !matches!(events.message().await.unwrap().unwrap().event, Some(Event::JobChanged(_))) {}
        times.push(started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}
