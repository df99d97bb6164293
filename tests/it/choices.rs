//! What is done to some tasks of a job: ended, tried again now, run again.

use std::time::Duration;

use haul::pb;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::curl::curl;
use crate::it::lookers::named;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, group, job, once};

fn slow_retry() -> pb::TaskOptions {
    let hour = Duration::from_secs(3600).try_into().ok();
    let retry =
        pb::RetryPolicy { max_attempts: Some(9), initial_backoff: hour, max_backoff: hour, ..Default::default() };
    pb::TaskOptions { retry: Some(retry), ..Default::default() }
}

/// Task 0 and 1 hang, 2 and 3 back off by 503, 4 by 429 elsewhere, 5 to 9 wait.
async fn stuck(server: &Server, one: &Origin, other: &Origin) -> String {
    one.reply("/hang", Reply::hang());
    one.reply("/busy", Reply::status(503));
    other.reply("/busy", Reply::status(429));
    one.reply("/ok", Reply::ok("fine"));
    let mut tasks = vec![fetch(one.url("/busy")), fetch(one.url("/busy")), fetch(other.url("/busy"))];
    let group = |max_concurrency| pb::GroupPolicy { max_concurrency, ..group(pb::GroupMode::Collect, 0) };
    tasks.extend((0..7).map(|_| fetch(one.url("/hang"))));
    let spec = pb::JobSpec { group: Some(group(2)), defaults: Some(slow_retry()), ..job(tasks) };
    let id = server.submit(spec).await;
    until(async || {
        let counts = server.job(&id).await.counts.unwrap();
        (counts.backing_off, counts.running) == (3, 2)
    })
    .await;
    id
}

async fn cancel(server: &Server, request: pb::CancelTasksRequest) -> (pb::TaskCounts, u32) {
    let answer = server.jobs().cancel_tasks(request).await.unwrap().into_inner();
    (answer.job.unwrap().counts.unwrap(), answer.tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_end_while_their_job_goes_on() {
    let (mut server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    let job_id = stuck(&server, &one, &other).await;
    let of = |task_indexes: &[u32]| pb::CancelTasksRequest {
        job_id: job_id.clone(),
        task_indexes: task_indexes.to_vec(),
        reason: "not these".to_owned(),
        ..Default::default()
    };
    // One that backs off, one that runs, one that waits, and two that are not there.
    let (counts, tasks) = cancel(&server, of(&[0, 3, 9, 77, 78])).await;
    assert_eq!((tasks, counts.cancelled), (3, 3));
    let ended = server.task(&job_id, 3).await;
    assert_eq!(ended.state(), pb::TaskState::Cancelled);
    let error = ended.error.unwrap();
    assert_eq!((error.reason(), error.message.as_str()), (pb::FailureReason::Cancelled, "not these"));
    assert_eq!(server.job(&job_id).await.state(), pb::JobState::Running, "the others go on");
    assert_eq!(cancel(&server, of(&[0, 3])).await.1, 0, "what has ended is passed over");
    server.restart().await;
    assert_eq!(server.job(&job_id).await.counts.unwrap().cancelled, 3, "what is acknowledged is there");

    let by = |filter: pb::TaskFilter| pb::CancelTasksRequest { filter: Some(filter), ..of(&[]) };
    let throttled = pb::TaskFilter { http_statuses: vec![429], ..Default::default() };
    assert_eq!(cancel(&server, by(throttled)).await.1, 1);
    assert_eq!(server.task(&job_id, 2).await.state(), pb::TaskState::Cancelled);
    let running = pb::TaskFilter { states: vec![pb::TaskState::Running.into()], ..Default::default() };
    until(async || server.job(&job_id).await.counts.unwrap().running == 2).await;
    assert_eq!(cancel(&server, by(running)).await.1, 2);
    until(async || server.job(&job_id).await.counts.unwrap().running == 2).await;
    let elsewhere = pb::TaskFilter { host: other.address().to_string(), ..Default::default() };
    assert_eq!(cancel(&server, by(elsewhere)).await.1, 0, "none is left there");
    // The rest; none of them is a failure.
    let rest = pb::TaskFilter { host: "127.0.0.1".to_owned(), ..Default::default() };
    let (counts, tasks) = cancel(&server, by(rest)).await;
    assert_eq!((tasks, counts.cancelled), (4, 10));
    let ended = server.ended(&job_id).await;
    assert_eq!((ended.state(), ended.failure), (pb::JobState::Succeeded, None));
    let events = server.events(&job_id, 0).await;
    let ends = events.iter().filter(|it| matches!(it.event, Some(pb::watch_job_response::Event::TaskEnded(_))));
    assert_eq!(ends.count(), 10, "each has its event");
    let late = server.jobs().cancel_tasks(of(&[])).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert_eq!(late.get_details_error_info().unwrap().reason, "WRONG_STATE");
}

/// A request that must not be sent twice is cut, too; and however many wait for that, each finds nothing left to do.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_may_wait_for_the_one_that_cancels() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    let post = pb::FetchSpec { url: origin.url("/hang"), method: "POST".to_owned(), ..Default::default() };
    let post = pb::TaskSpec { work: Some(pb::task_spec::Work::Fetch(post)), ..Default::default() };
    let job_id = server.submit(pb::JobSpec { open: true, ..job(vec![post]) }).await;
    until(async || server.job(&job_id).await.counts.unwrap().running == 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3_000 {
        let mut jobs = server.jobs();
        let request = pb::CancelTasksRequest { job_id: job_id.clone(), task_indexes: vec![0], ..Default::default() };
        calls.spawn(async move { jobs.cancel_tasks(request).await.unwrap().into_inner().tasks });
    }
    assert_eq!(calls.join_all().await.iter().sum::<u32>(), 1);
    assert_eq!(server.task(&job_id, 0).await.state(), pb::TaskState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_tasks_properly_is_refused() {
    let server = Server::start().await;
    let job_id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let filter = Some(pb::TaskFilter { host: "a".into(), ..Default::default() });
    let both = pb::CancelTasksRequest {
        job_id: job_id.clone(),
        task_indexes: vec![1],
        filter: filter.clone(),
        ..Default::default()
    };
    assert_eq!(named(&server.jobs().cancel_tasks(both).await.unwrap_err()).1, ["filter"]);
    let many = pb::RetryNowRequest { job_id: job_id.clone(), task_indexes: (0..10_001).collect(), filter: None };
    assert_eq!(named(&server.jobs().retry_now(many).await.unwrap_err()).1, ["task_indexes"]);
    let state = |state: pb::TaskState| Some(pb::TaskFilter { states: vec![state.into()], ..Default::default() });
    let wrong = pb::CancelTasksRequest {
        job_id: job_id.clone(),
        filter: state(pb::TaskState::Failed),
        reason: "x".repeat(1025),
        ..Default::default()
    };
    assert_eq!(named(&server.jobs().cancel_tasks(wrong).await.unwrap_err()).1, ["reason", "filter.states[0]"]);
    let wrong =
        pb::RetryNowRequest { job_id: job_id.clone(), filter: state(pb::TaskState::Pending), ..Default::default() };
    assert_eq!(named(&server.jobs().retry_now(wrong).await.unwrap_err()).1, ["filter.states[0]"]);
    let wrong =
        pb::RetryJobRequest { job_id: job_id.clone(), filter: state(pb::TaskState::Running), ..Default::default() };
    assert_eq!(named(&server.jobs().retry_job(wrong).await.unwrap_err()).1, ["filter.states[0]"]);
    let odd = pb::TaskFilter { states: vec![99], reasons: vec![-1], http_statuses: vec![600], host: "a/b".into() };
    let wrong = pb::RetryJobRequest { job_id: job_id.clone(), filter: Some(odd), ..Default::default() };
    let fields = named(&server.jobs().retry_job(wrong).await.unwrap_err()).1;
    assert_eq!(fields, ["filter.states[0]", "filter.reasons[0]", "filter.http_statuses[0]", "filter.host"]);
    let unknown = pb::RetryNowRequest { job_id: uuid::Uuid::nil().to_string(), ..Default::default() };
    assert_eq!(server.jobs().retry_now(unknown).await.unwrap_err().code(), Code::NotFound);
    let nothing = server.jobs().retry_now(pb::RetryNowRequest { job_id, ..Default::default() }).await.unwrap();
    assert_eq!(nothing.into_inner().tasks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_back_off_are_tried_at_once() {
    let (mut server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    let job_id = stuck(&server, &one, &other).await;
    one.reply("/busy", Reply::ok("fine"));
    other.reply("/busy", Reply::ok("fine"));
    // Once it is paused nobody is told which of its tasks back off.
    let others: Vec<u32> = server
        .tasks(&job_id)
        .await
        .iter()
        .filter(|task| task.state() != pb::TaskState::BackingOff)
        .map(|task| task.task_index)
        .collect();
    let pause = pb::PauseJobRequest { job_id: job_id.clone() };
    server.jobs().pause_job(pause).await.unwrap();
    let now = |task_indexes: &[u32], filter| pb::RetryNowRequest {
        job_id: job_id.clone(),
        task_indexes: task_indexes.to_vec(),
        filter,
    };
    let acted = server.jobs().retry_now(now(&[1, 5, 99], None)).await.unwrap().into_inner();
    assert_eq!(acted.tasks, 1, "what does not back off is passed over");
    assert_eq!(server.job(&job_id).await.counts.unwrap().succeeded, 0, "the job is paused");
    // It is durable.
    server.restart().await;
    let body = json!({"filter": {"http_statuses": [429]}}).to_string();
    let by_http = curl(&server, &["--json", &body], &format!("/v1/jobs/{job_id}/tasks:retryNow"));
    assert_eq!((by_http.code, &by_http.json()["tasks"]), (200, &json!(1)), "{by_http:?}");
    let cancel = json!({"task_indexes": others, "reason": "enough"}).to_string();
    let by_http = curl(&server, &["--json", &cancel], &format!("/v1/jobs/{job_id}/tasks:cancel"));
    assert_eq!((by_http.code, &by_http.json()["tasks"]), (200, &json!(7)), "{by_http:?}");
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: job_id.clone() }).await.unwrap();
    until(async || server.job(&job_id).await.counts.unwrap().succeeded == 2).await;
    let left = server.job(&job_id).await.counts.unwrap();
    assert_eq!(left.backing_off, 1, "that one is not due");
    let acted = server.jobs().retry_now(now(&[], None)).await.unwrap().into_inner();
    assert_eq!(acted.tasks, 1);
    let ended = server.ended(&job_id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().succeeded), (pb::JobState::Succeeded, 3));
    let late = server.jobs().retry_now(now(&[], None)).await.unwrap_err();
    assert_eq!(late.get_details_error_info().unwrap().reason, "WRONG_STATE");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_again_that_failed_in_one_way() {
    let (server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    one.reply("/gone", Reply::status(404));
    one.reply("/broken", Reply::status(500));
    other.reply("/gone", Reply::status(404));
    let mut tasks: Vec<_> = (0..20).map(|_| fetch(one.url("/gone"))).collect();
    tasks.extend([fetch(other.url("/gone")), fetch(one.url("/broken"))]);
    let spec = pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 0)), defaults: Some(once()), ..job(tasks) };
    let job_id = server.run(spec).await.job_id;
    one.reply("/gone", Reply::ok("fine"));
    other.reply("/gone", Reply::ok("fine"));
    let retry = async |filter: pb::TaskFilter| {
        let request = pb::RetryJobRequest { job_id: job_id.clone(), filter: Some(filter), ..Default::default() };
        server.jobs().retry_job(request).await.unwrap();
        server.ended(&job_id).await
    };
    let reasons = vec![pb::FailureReason::HttpStatus.into()];
    let here = one.address().to_string();
    let ended =
        retry(pb::TaskFilter { reasons, http_statuses: vec![404], host: here.clone(), ..Default::default() }).await;
    let counts = ended.counts.unwrap();
    assert_eq!((ended.state(), counts.succeeded, counts.failed), (pb::JobState::Failed, 20, 2));
    let kinds: Vec<_> =
        ended.failures.iter().map(|it| (it.http_status, it.count, it.sample_task_indexes.clone())).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds.contains(&(404, 1, vec![20])) && kinds.contains(&(500, 1, vec![21])), "{kinds:?}");
    assert!([Some(20), Some(21)].contains(&ended.failure.unwrap().task_index));
    let same = retry(pb::TaskFilter { http_statuses: vec![418], ..Default::default() }).await;
    assert_eq!(same.counts.unwrap().failed, 2, "nothing fits, and nothing changes");
    let states = vec![pb::TaskState::Failed.into()];
    let ended = retry(pb::TaskFilter { host: other.address().to_string(), states, ..Default::default() }).await;
    assert_eq!((ended.counts.unwrap().failed, ended.failure.unwrap().task_index), (1, Some(21)));
    one.reply("/broken", Reply::ok("fine"));
    let ended = retry(pb::TaskFilter::default()).await;
    assert_eq!((ended.state(), ended.failures.len()), (pb::JobState::Succeeded, 0));
}
