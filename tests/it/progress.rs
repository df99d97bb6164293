//! How far tasks are that do not run: what they hold is told, and not as if it were lost.

use std::time::Duration;

use haul::pb;
use haul::pb::TaskState;
use tokio_util::sync::CancellationToken;

use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Pause, Reply};
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::{download, fetch, job, millis, quick_retry};

const SIZE: u64 = 400_000;
const HELD: u64 = 150_000;

async fn until_state(server: &Server, id: &str, state: TaskState) -> pb::Task {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let task = server.task(id, 0).await;
        if task.state() == state {
            return task;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[track_caller]
fn assert_held(progress: Option<pb::Progress>) {
    let progress = progress.unwrap();
    assert_eq!(progress.bytes_total, SIZE, "{progress:?}");
    assert!((1..SIZE).contains(&progress.bytes_done), "{progress:?}");
    assert_eq!(progress.bytes_per_second, 0, "nothing runs");
}

/// Waits until the job says what its only task does, of which it is the sum: the two are published one after the other.
async fn until_job_agrees(server: &Server, id: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (job, task) = (server.job(id).await.progress.unwrap(), server.task(id, 0).await.progress.unwrap());
        if (job.bytes_done, job.bytes_total) == (task.bytes_done, task.bytes_total) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{job:?} and {task:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn patient_job(url: String) -> pb::JobSpec {
    let retry = pb::RetryPolicy { initial_backoff: Some(millis(600_000)), ..Default::default() };
    let defaults = pb::TaskOptions { retry: Some(retry), ..Default::default() };
    pb::JobSpec { defaults: Some(defaults), ..job(vec![download(url)]) }
}

#[tokio::test]
async fn a_download_that_backs_off_or_was_cancelled_shows_what_it_holds() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, SIZE);
    origin.handle("/f", move |request| object.respond(request).cut_at(HELD, Cut::Fin));
    let id = server.submit(patient_job(origin.url("/f"))).await;
    assert_held(until_state(&server, &id, TaskState::BackingOff).await.progress);
    until_job_agrees(&server, &id).await;
    server.restart().await;
    assert_held(server.task(&id, 0).await.progress);
    assert_held(server.job(&id).await.progress);
    let listed = server.tasks(&id).await;
    assert_held(listed[0].progress);
    assert!(listed[0].attempt_log.is_empty(), "the log comes with GetTask only");
    let request = pb::CancelJobRequest { job_id: id.clone(), reason: String::new() };
    server.jobs().cancel_job(request).await.unwrap();
    assert_held(until_state(&server, &id, TaskState::Cancelled).await.progress);
    assert_held(server.ended(&id).await.progress);
}

#[tokio::test]
async fn what_was_held_is_counted_once() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(3, SIZE);
    origin.handle("/f", move |request| match request.nth {
        0 => object.respond(request).cut_at(HELD, Cut::Fin),
        1 => object.respond(request).pause_at(HELD / 2, Pause::Forever),
        _ => object.respond(request),
    });
    let retry = Some(quick_retry(5));
    let defaults = pb::TaskOptions { retry, ..Default::default() };
    let id = server.submit(pb::JobSpec { defaults: Some(defaults), ..job(vec![download(origin.url("/f"))]) }).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let task = server.task(&id, 0).await;
        if task.attempts == 2 && task.progress.unwrap().bytes_done > 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_job_agrees(&server, &id).await;
    // The second attempt is cut, and what the first one left is held again until the third one counts it.
    server.kill();
    server.launch().await;
    let progress = server.ended(&id).await.progress.unwrap();
    assert_eq!((progress.bytes_done, progress.bytes_total), (SIZE, SIZE));
}

#[tokio::test]
async fn a_paused_download_shows_what_it_holds() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(2, SIZE);
    origin.handle("/f", move |request| object.respond(request).pause_at(HELD, Pause::Forever));
    let id = server.submit(patient_job(origin.url("/f"))).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.task(&id, 0).await.progress.unwrap().bytes_done < HELD {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    assert_held(until_state(&server, &id, TaskState::Pending).await.progress);
    until_job_agrees(&server, &id).await;
}

/// A job without a durable change for long is shown as it progresses, however busy the server is beside it.
#[tokio::test]
async fn a_job_that_only_progresses_is_shown_beside_busy_ones() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let object = Object::new(1, 64 << 20);
    origin.handle("/slow", move |request| object.respond(request).bytes_per_second(1 << 20));
    let slow = server.submit(job(vec![download(origin.url("/slow"))])).await;
    let request = pb::WatchJobsRequest { progress_interval: Some(millis(300)), ..Default::default() };
    let mut stream = server.jobs().watch_jobs(request).await.unwrap().into_inner();
    let done = CancellationToken::new();
    let busy = async {
        while !done.is_cancelled() {
            server.submit(job(vec![fetch(origin.url("/a"))])).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let watch = async {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 4 {
            if let pb::watch_jobs_response::Event::Job(job) = stream.message().await.unwrap().unwrap().event.unwrap()
                && job.job_id == slow
            {
                seen.insert(job.progress.unwrap_or_default().bytes_done);
            }
        }
        done.cancel();
    };
    tokio::join!(busy, async { tokio::time::timeout(PATIENCE, watch).await.unwrap() });
}
