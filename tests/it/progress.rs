//! How far tasks are that do not run: what they hold is told, and not as if it were lost.

use std::time::Duration;

use haul::pb;
use haul::pb::TaskState;

use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Pause};
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::{download, job, millis};

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
    server.restart().await;
    assert_held(server.task(&id, 0).await.progress);
    let listed = server.tasks(&id).await;
    assert_held(listed[0].progress);
    assert!(listed[0].attempt_log.is_empty(), "the log comes with GetTask only");
    let request = pb::CancelJobRequest { job_id: id.clone(), reason: String::new() };
    server.jobs().cancel_job(request).await.unwrap();
    assert_held(until_state(&server, &id, TaskState::Cancelled).await.progress);
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
}
