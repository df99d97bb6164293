//! What one task's end does to its siblings.

use std::time::Duration;

use haul::pb;
use haul::pb::{FailureReason, GroupMode, JobState, TaskState};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, group, job, millis, once};

fn reasons(tasks: &[pb::Task]) -> Vec<(TaskState, Option<FailureReason>)> {
    tasks.iter().map(|task| (task.state(), task.error.as_ref().map(haul::pb::TaskError::reason))).collect()
}

fn origin_of_three() -> Origin {
    let origin = Origin::start();
    origin.reply("/good", Reply::ok("good"));
    origin.reply("/bad", Reply::status(404));
    origin.reply("/stalled", Reply::ok("never all of it").stall_at(5));
    origin
}

#[tokio::test]
async fn fail_fast_cancels_the_siblings_running_and_waiting() {
    let (server, origin) =
        (Server::with(&["--allow-private-networks", "--max-per-host", "2"]).await, origin_of_three());
    let mut tasks = vec![fetch(origin.url("/stalled")), fetch(origin.url("/bad"))];
    tasks.extend((0..50).map(|_| fetch(origin.url("/good"))));
    let ended = server.run(pb::JobSpec { group: Some(group(GroupMode::FailFast, 0)), ..job(tasks) }).await;

    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::HttpStatus);
    let tasks = server.tasks(&ended.job_id).await;
    assert_eq!(reasons(&tasks[..2])[0], (TaskState::Cancelled, Some(FailureReason::SiblingFailed)));
    assert_eq!(reasons(&tasks[..2])[1], (TaskState::Failed, Some(FailureReason::HttpStatus)));
    let counts = ended.counts.unwrap();
    assert_eq!(counts.failed + counts.cancelled + counts.succeeded, 52);
    assert!(counts.cancelled >= 2, "{counts:?}");
    let events = server.events(&ended.job_id, 0).await;
    assert_eq!(
        events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
        (1..=events.len() as u64).collect::<Vec<_>>()
    );
    let ends = events.iter().filter(|it| matches!(it.event, Some(pb::watch_job_response::Event::TaskEnded(_)))).count();
    assert_eq!(ends, 52);
}

#[tokio::test]
async fn collect_runs_all_and_counts_failures() {
    let (server, origin) = (Server::start().await, origin_of_three());
    let tasks = || vec![fetch(origin.url("/bad")), fetch(origin.url("/good")), fetch(origin.url("/bad"))];
    for (max_failures, state) in [(1, JobState::Failed), (2, JobState::Succeeded)] {
        let spec = pb::JobSpec { group: Some(group(GroupMode::Collect, max_failures)), ..job(tasks()) };
        let ended = server.run(spec).await;
        assert_eq!(ended.state(), state);
        assert_eq!(ended.failure.is_some(), state == JobState::Failed);
        let counts = ended.counts.unwrap();
        assert_eq!((counts.succeeded, counts.failed), (1, 2));
    }
}

#[tokio::test]
async fn the_first_success_is_enough() {
    let (server, origin) = (Server::start().await, origin_of_three());
    let tasks = vec![fetch(origin.url("/stalled")), fetch(origin.url("/bad")), fetch(origin.url("/good"))];
    let spec = pb::JobSpec { group: Some(group(GroupMode::FirstSuccess, 0)), ..job(tasks) };
    let ended = server.run(spec).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    assert!(ended.failure.is_none());
    let tasks = reasons(&server.tasks(&ended.job_id).await);
    assert_eq!(tasks[0], (TaskState::Cancelled, Some(FailureReason::Cancelled)));
    assert_eq!(tasks[2].0, TaskState::Succeeded);

    let spec = pb::JobSpec { group: Some(group(GroupMode::FirstSuccess, 0)), ..job(vec![fetch(origin.url("/bad"))]) };
    assert_eq!(server.run(spec).await.state(), JobState::Failed);

    // Where nothing failed, either, the job says what ended it.
    let tasks = vec![fetch(origin.url("/stalled")), fetch(origin.url("/stalled"))];
    let spec = pb::JobSpec { group: Some(group(GroupMode::FirstSuccess, 0)), ..job(tasks) };
    let job_id = server.submit(spec).await;
    let request = pb::CancelTasksRequest { job_id: job_id.clone(), ..Default::default() };
    server.jobs().cancel_tasks(request).await.unwrap();
    let ended = server.ended(&job_id).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::Cancelled);
}

#[tokio::test]
async fn no_more_tasks_run_at_once_than_the_job_allows() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/slow", Reply::ok("x").delay(Duration::from_millis(20)));
    let tasks = (0..12).map(|_| fetch(origin.url("/slow"))).collect();
    let policy = pb::GroupPolicy { max_concurrency: 3, ..group(GroupMode::Collect, 0) };
    let ended = server.run(pb::JobSpec { group: Some(policy), ..job(tasks) }).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    assert_eq!(origin.peak(), 3);
}

#[tokio::test]
async fn a_job_that_takes_too_long_fails() {
    let (server, origin) = (Server::start().await, origin_of_three());
    let tasks = vec![fetch(origin.url("/stalled")), fetch(origin.url("/good"))];
    let spec = pb::JobSpec { timeout: Some(millis(300)), ..job(tasks) };
    let ended = server.run(spec).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::TimeoutJob);
    let tasks = reasons(&server.tasks(&ended.job_id).await);
    assert_eq!(tasks, [(TaskState::Cancelled, Some(FailureReason::TimeoutJob)), (TaskState::Succeeded, None)]);
}

#[tokio::test]
async fn cancelling_reaches_a_stalled_read_and_is_idempotent() {
    let (server, origin) = (Server::start().await, origin_of_three());
    let id = server.submit(job(vec![fetch(origin.url("/stalled"))])).await;
    until(async || !origin.requests("/stalled").is_empty()).await;
    let request = pb::CancelJobRequest { job_id: id.clone(), reason: "enough".into() };
    let ended = server.jobs().cancel_job(request.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(ended.state(), JobState::Cancelled);
    assert!(ended.failure.unwrap().message.contains("enough"));
    let again = server.jobs().cancel_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(again.sequence, ended.sequence);
}

#[tokio::test]
async fn retries_back_off_and_give_up() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.replies("/flaky", vec![Reply::status(503), Reply::status(503), Reply::ok("at last")]);
    origin.reply("/down", Reply::status(500));
    let ended = server.run(job(vec![fetch(origin.url("/flaky"))])).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    let task = server.task(&ended.job_id, 0).await;
    assert_eq!((task.attempts, task.attempt_log.len()), (3, 3));
    assert_eq!(task.attempt_log[0].error.as_ref().unwrap().http_status, 503);

    let ended = server.run(job(vec![fetch(origin.url("/down"))])).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(origin.requests("/down").len(), 5);
    let spec = pb::JobSpec { defaults: Some(once()), ..job(vec![fetch(origin.url("/down"))]) };
    server.run(spec).await;
    assert_eq!(origin.requests("/down").len(), 6);
}
