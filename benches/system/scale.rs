//! What a hundred thousand, and a million, of something costs: restarts, cancels, retries, purges, watches and lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use haul::pb;
use haul::pb::watch_jobs_response::Event;
use tokio::task::JoinSet;

use super::CHUNK;
use super::Origin;
use super::Server;
use super::ended;
use super::fetch;

/// A time that no benchmark sees.
const NEVER: Option<prost_types::Timestamp> = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
/// Nobody listens there, and no job here asks for it.
const NOWHERE: &str = "http://127.0.0.1:2/";

async fn submit(server: &Server, job: pb::JobSpec) -> pb::Job {
    let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
    server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap()
}

/// Submits `count` jobs by 32 callers.
async fn submit_many(server: &Server, count: usize, job: impl Fn(usize) -> pb::JobSpec + Send + Sync + 'static) {
    let job = Arc::new(job);
    let mut callers = JoinSet::new();
    for caller in 0..32 {
        let (mut jobs, job) = (server.jobs(), job.clone());
        callers.spawn(async move {
            for nth in (caller..count).step_by(32) {
                let request = pb::SubmitJobRequest { job: Some(job(nth)), ..Default::default() };
                jobs.submit_job(request).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

/// A job of `count` tasks that do not run.
async fn queued(server: &Server, count: usize) -> String {
    let job_id = submit(server, pb::JobSpec { open: true, start_time: NEVER, ..Default::default() }).await.job_id;
    add(server, &job_id, count, |_| fetch(NOWHERE)).await;
    job_id
}

fn once() -> pb::TaskOptions {
    let retry = pb::RetryPolicy { max_attempts: Some(1), ..Default::default() };
    pb::TaskOptions { retry: Some(retry), ..Default::default() }
}

async fn failed(server: &Server, job_id: &str) -> u32 {
    let request = pb::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
    server.jobs().get_job(request).await.unwrap().into_inner().job.unwrap().counts.unwrap().failed
}

/// Adds `count` tasks, each as `task` says.
async fn add(
    server: &Server,
    job_id: &str,
    count: usize,
    task: impl Fn(usize) -> pb::TaskSpec + Send + Sync + 'static,
) {
    let id = job_id.to_owned();
    let chunks = (0..count.div_ceil(CHUNK)).map(move |chunk| pb::AddTasksRequest {
        job_id: id.clone(),
        chunk_id: chunk.to_string(),
        tasks: (chunk * CHUNK..count.min((chunk + 1) * CHUNK)).map(&task).collect(),
    });
    let mut answers = server.jobs().add_tasks(tokio_stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

fn kill(mut server: Server) {
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

/// The time from the start of the process that follows a kill -9 until the first task that is submitted to it has ended.
async fn first_end(dir: &std::path::Path, url: &str) -> (Server, f64) {
    let restarted = Instant::now();
    let server = Server::start(dir, &["--max-per-host", "64"]).await;
    let job = submit(&server, pb::JobSpec { tasks: vec![fetch(url)], ..Default::default() }).await;
    let job = ended(&server, &job.job_id).await;
    assert_eq!(job.counts.unwrap().succeeded, 1);
    (server, restarted.elapsed().as_secs_f64())
}

/// A restart with `count` unfinished jobs, and one with a job over `count` hosts.
pub(crate) async fn restart(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let url = format!("{}/1k", origin.url);
    let server = Server::start(dir.path(), &[]).await;
    let before = server.rss_kib();
    submit_many(&server, count, |_| pb::JobSpec {
        tasks: vec![fetch(NOWHERE)],
        start_time: NEVER,
        ..Default::default()
    })
    .await;
    let each = (server.rss_kib() - before) / count as f64;
    println!("{each:.2} KiB of memory for each job that waits, of {count} that were submitted");
    kill(server);
    let (server, jobs_seconds) = first_end(dir.path(), &url).await;
    let jobs_mib = server.peak_mib();
    println!(
        "{count} unfinished jobs: a task submitted after the restart has ended after {jobs_seconds:.2} s, peak {jobs_mib:.0} MiB"
    );
    drop(server);

    // Nobody listens there, so each task ends with its only attempt.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let job_id = submit(&server, pb::JobSpec { open: true, defaults: Some(once()), ..Default::default() }).await.job_id;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: job_id.clone() }).await.unwrap();
    let host = |nth: usize| format!("http://127.{}.{}.{}:2/", nth >> 16, (nth >> 8) & 255, nth & 255);
    add(&server, &job_id, count, move |nth| fetch(&host(nth))).await;
    kill(server);
    let restarted = Instant::now();
    let server = Server::start(dir.path(), &[]).await;
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: job_id.clone() }).await.unwrap();
    while failed(&server, &job_id).await == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let hosts_seconds = restarted.elapsed().as_secs_f64();
    let hosts_mib = server.peak_mib();
    println!(
        "one job over {count} hosts: its first task has ended after {hosts_seconds:.2} s, peak {hosts_mib:.0} MiB"
    );
    println!(
        "{jobs_seconds:.2} s with {count} jobs ({jobs_mib:.0} MiB, {each:.2} KiB a job), {hosts_seconds:.2} s with {count} hosts ({hosts_mib:.0} MiB)"
    );
}

/// How long `SubmitJob` takes, one call after another, until `stop` says so.
async fn submits_until(server: &Server, stop: Arc<AtomicBool>) -> Vec<f64> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        submit(server, pb::JobSpec { tasks: vec![fetch(NOWHERE)], start_time: NEVER, ..Default::default() }).await;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_by(f64::total_cmp);
    times
}

/// Runs `work` beside callers of `SubmitJob`; gives its time in seconds and the 99th percentile of theirs in milliseconds.
async fn beside_submits(server: &Server, what: &str, work: impl Future<Output = ()>) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let finish = async {
        work.await;
        stop.store(true, Ordering::Relaxed);
        started.elapsed().as_secs_f64()
    };
    let (seconds, times) = tokio::join!(finish, submits_until(server, stop.clone()));
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!(
        "{what}: {seconds:.2} s; SubmitJob beside it: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms of {} calls",
        at(50),
        at(99),
        times[times.len() - 1],
        times.len()
    );
    (seconds, at(99))
}

/// `CancelJob`, `RetryJob` and `DeleteJob` of a job of `count` tasks, and `SubmitJob` beside each.
pub(crate) async fn sweeps(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let id = queued(&server, count).await;
    let job_id = || id.clone();
    let cancel = pb::CancelJobRequest { job_id: job_id(), reason: String::new() };
    let cancelled = beside_submits(&server, "CancelJob", async {
        let job = server.jobs().cancel_job(cancel).await.unwrap().into_inner().job.unwrap();
        assert_eq!(job.counts.unwrap().cancelled as usize, count);
    })
    .await;
    let retried = beside_submits(
        &server,
        "RetryJob",
        Box::pin(async {
            let request = pb::RetryJobRequest { job_id: job_id(), ..Default::default() };
            server.jobs().retry_job(request).await.unwrap();
            let request = pb::GetJobRequest { job_id: job_id(), ..Default::default() };
            while server
                .jobs()
                .get_job(request.clone())
                .await
                .unwrap()
                .into_inner()
                .job
                .unwrap()
                .counts
                .unwrap()
                .cancelled
                > 0
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }),
    )
    .await;
    let cancel = pb::CancelJobRequest { job_id: job_id(), reason: String::new() };
    server.jobs().cancel_job(cancel).await.unwrap();
    let purged = beside_submits(&server, "DeleteJob", async {
        let request = pb::DeleteJobRequest { job_id: job_id(), ..Default::default() };
        server.jobs().delete_job(request).await.unwrap();
        // Its rows go piece by piece afterwards.
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await;
    println!(
        "CancelJob of {count} in {:.2} s; p99 of SubmitJob {:.1} ms beside it, {:.1} beside RetryJob, {:.1} beside a purge",
        cancelled.0, cancelled.1, retried.1, purged.1
    );
}

/// The time until `WatchJobs` says `synced` over `count` unfinished jobs, and over half as many.
pub(crate) async fn watch_jobs(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let mut seconds = Vec::new();
    for _ in 0..2 {
        submit_many(&server, count / 2, |_| pb::JobSpec {
            tasks: vec![fetch(NOWHERE)],
            start_time: NEVER,
            ..Default::default()
        })
        .await;
        let started = Instant::now();
        let mut events = server.jobs().watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
        while !matches!(events.message().await.unwrap().unwrap().event, Some(Event::Synced(_))) {}
        seconds.push(started.elapsed().as_secs_f64());
    }
    println!("{:.3} s to `synced` over {count} jobs, {:.3} s over half of them", seconds[1], seconds[0]);
}

/// A page of each list over `count` rows: the first page, and one in the middle of what its filter admits.
pub(crate) async fn lists(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--queue-bytes", "2147483648"]).await;
    submit_many(&server, count, |nth| pb::JobSpec {
        tasks: vec![fetch(NOWHERE)],
        start_time: NEVER,
        labels: [("nth".to_owned(), (nth % 1_000).to_string()), ("rare".to_owned(), (nth / 10).to_string())].into(),
        ..Default::default()
    })
    .await;
    let mut worst: f64 = 0.0;
    let label = |name: &str, value: &str| pb::ListJobsRequest {
        labels: [(name.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let now = std::time::SystemTime::now();
    let requests = [
        ("jobs, all", pb::ListJobsRequest::default()),
        ("jobs by a label that a thousandth has", label("nth", "7")),
        ("jobs by a label that ten have", label("rare", "7")),
        ("jobs by a label that none has", label("rare", "none")),
        ("jobs by a state that all have", states(&[pb::JobState::Pending])),
        ("jobs by a state that none has", states(&[pb::JobState::Failed])),
        ("jobs before a time", pb::ListJobsRequest { create_time_before: Some(now.into()), ..Default::default() }),
        ("jobs after a time", pb::ListJobsRequest { create_time_after: Some(now.into()), ..Default::default() }),
    ];
    for (what, request) in requests {
        let mut times = Vec::new();
        let mut token = String::new();
        for _ in 0..9 {
            let started = Instant::now();
            let request = pb::ListJobsRequest { page_token: token, ..request.clone() };
            token = server.jobs().list_jobs(request).await.unwrap().into_inner().next_page_token;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        worst = worst.max(page(what, times));
    }
    let id = queued(&server, count).await;
    for state in [None, Some(pb::TaskState::Pending), Some(pb::TaskState::Failed)] {
        let mut times = Vec::new();
        let mut token = String::new();
        for _ in 0..9 {
            let started = Instant::now();
            let states = state.iter().map(|state| i32::from(*state)).collect();
            let request = pb::ListTasksRequest { job_id: id.clone(), states, page_token: token, ..Default::default() };
            token = server.jobs().list_tasks(request).await.unwrap().into_inner().next_page_token;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        worst = worst.max(page(&format!("tasks by state {state:?}"), times));
    }
    println!("{worst:.1} ms for the slowest median page of a list over {count} rows");
}

fn states(states: &[pb::JobState]) -> pb::ListJobsRequest {
    pb::ListJobsRequest { states: states.iter().map(|state| i32::from(*state)).collect(), ..Default::default() }
}

/// Prints the median and the worst of the pages of one list; gives the median.
fn page(what: &str, mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    println!("{what}: median {:.1} ms a page, worst {:.1} ms", times[times.len() / 2], times[times.len() - 1]);
    times[times.len() / 2]
}
