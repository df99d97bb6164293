//! Control over jobs that run: pause, resume, feed, seal, update, limits, retention.

use std::time::Duration;

use haul::pb;
use haul::pb::watch_job_response::Event;
use haul::pb::{JobState, TaskState, WaitReason};
use tonic::Code;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, fetch_as, job, millis};

#[tokio::test]
async fn a_paused_job_gives_its_attempts_back_and_goes_on() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| if request.nth == 0 { Reply::hang() } else { Reply::ok("a") });
    let id = server.submit(job(vec![fetch(origin.url("/a"))])).await;
    until(async || origin.requests("/a").len() == 1).await;
    let request = pb::PauseJobRequest { job_id: id.clone() };
    let paused = server.jobs().pause_job(request.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(paused.state(), JobState::Paused);
    server.jobs().pause_job(request).await.unwrap();
    until(async || server.task(&id, 0).await.state() == TaskState::Pending).await;
    let task = server.task(&id, 0).await;
    assert_eq!((task.attempts, task.waiting.unwrap().reason()), (0, WaitReason::JobPaused));
    server.restart().await;
    assert_eq!(server.job(&id).await.state(), JobState::Paused, "also after a kill");
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    assert_eq!(server.task(&id, 0).await.attempts, 1);
    let request = pb::PauseJobRequest { job_id: id };
    assert_eq!(server.jobs().pause_job(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// While a job is paused none of its tasks backs off, whoever is asked: each is PENDING, and its wait goes on afterwards.
#[tokio::test]
async fn the_tasks_of_a_paused_job_are_pending_wherever_they_are_told() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::status(500));
    let retry = pb::RetryPolicy { initial_backoff: Some(millis(600_000)), jitter: Some(0.0), ..Default::default() };
    let options = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
    let task = pb::TaskSpec { options, ..fetch(origin.url("/a")) };
    let id = server.submit(job_of(vec![task.clone(), task])).await;
    let told = async || {
        let job = server.job(&id).await;
        let counts = job.counts.unwrap();
        let of = async |state: TaskState| {
            let request = pb::ListTasksRequest { job_id: id.clone(), states: vec![state.into()], ..Default::default() };
            let listed = server.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
            assert!(listed.iter().all(|task| task.state() == state), "{listed:?}");
            listed.len() as u32
        };
        let listed = [of(TaskState::Pending).await, of(TaskState::BackingOff).await];
        assert_eq!(listed, [counts.pending, counts.backing_off]);
        let task = server.task(&id, 0).await;
        (listed, task.state(), task.waiting.map(|it| it.reason()), task.next_attempt_time)
    };
    until(async || server.job(&id).await.counts.unwrap().backing_off == 2).await;
    let before = told().await;
    assert_eq!((before.1, before.2), (TaskState::BackingOff, Some(WaitReason::BackingOff)));
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    assert_eq!(told().await, ([2, 0], TaskState::Pending, Some(WaitReason::JobPaused), None));
    let waiting = server.job(&id).await.waiting;
    assert!(waiting.iter().all(|it| it.waiting.as_ref().unwrap().reason() == WaitReason::JobPaused), "{waiting:?}");
    let request = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
    let mut watch = server.jobs().watch_job(request).await.unwrap().into_inner();
    let Some(Event::Snapshot(seen)) = watch.message().await.unwrap().unwrap().event else { panic!("it comes first") };
    assert_eq!(seen.counts.map(|it| (it.pending, it.backing_off)), Some((2, 0)));
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    assert_eq!(told().await, before, "the wait goes on");
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    let cancel = async |state: TaskState| {
        let filter = Some(pb::TaskFilter { states: vec![state.into()], ..Default::default() });
        let request = pb::CancelTasksRequest { job_id: id.clone(), filter, ..Default::default() };
        server.jobs().cancel_tasks(request).await.unwrap().into_inner().tasks
    };
    assert_eq!((cancel(TaskState::BackingOff).await, cancel(TaskState::Pending).await), (0, 2));
    assert_eq!(server.job(&id).await.counts.unwrap().cancelled, 2);
}

fn post(url: String) -> pb::TaskSpec {
    fetch_as(pb::FetchSpec { url, method: "POST".into(), ..Default::default() })
}

/// Unlike `job`, which says how often to try.
fn job_of(tasks: Vec<pb::TaskSpec>) -> pb::JobSpec {
    pb::JobSpec { tasks, ..Default::default() }
}

/// Nobody knows whether the origin has done what a request asked for whose answer is not waited for.
#[tokio::test]
async fn a_request_that_must_not_be_sent_twice_goes_on_through_pauses_and_drains() {
    let (mut server, origin) =
        (Server::with(&["--allow-private-networks", "--max-per-host", "1"]).await, Origin::start());
    for path in ["/paused", "/drained"] {
        let slow = Reply::ok("done").delay(Duration::from_millis(700));
        origin.reply(path, slow);
        let id = server.submit(job_of(vec![post(origin.url(path)), post(origin.url(path))])).await;
        until(async || origin.requests(path).len() == 1).await;
        if path == "/paused" {
            let request = pb::PauseJobRequest { job_id: id.clone() };
            server.jobs().pause_job(request).await.unwrap();
            until(async || server.job(&id).await.counts.unwrap().succeeded == 1).await;
            assert_eq!(origin.requests(path).len(), 1, "what was not sent is not");
            server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
        } else {
            assert!(server.terminate().success());
            assert_eq!(origin.requests(path).len(), 1, "what was not sent is not");
            server.launch().await;
        }
        let ended = server.ended(&id).await;
        assert_eq!((ended.state(), origin.requests(path).len()), (JobState::Succeeded, 2), "{path}");
    }
}

#[tokio::test]
async fn a_request_that_must_not_be_sent_twice_fails_where_its_answer_comes_too_late() {
    let flags = ["--allow-private-networks", "--shutdown-grace", "2s"];
    let (mut server, origin) = (Server::with(&flags).await, Origin::start());
    origin.reply("/hangs", Reply::hang());
    origin.handle("/fails", |_| Reply::status(503).delay(Duration::from_millis(700)));
    let late = server.submit(job_of(vec![post(origin.url("/hangs"))])).await;
    let failed = server.submit(job_of(vec![post(origin.url("/fails"))])).await;
    let safe = server.submit(job_of(vec![fetch(origin.url("/hangs?safe"))])).await;
    until(async || origin.in_flight() == 3).await;
    assert!(server.terminate().success());
    server.launch().await;
    let late = server.ended(&late).await;
    assert_eq!(late.failure.unwrap().reason(), pb::FailureReason::Cancelled);
    assert_eq!(server.ended(&failed).await.failure.unwrap().http_status, 503);
    until(async || origin.requests("/hangs").len() == 3).await;
    assert_eq!(server.job(&safe).await.state(), JobState::Running, "what may be sent again is");
    assert_eq!(origin.requests("/fails").len(), 1);
}

fn chunk(job_id: &str, name: &str, origin: &Origin, count: usize) -> pb::AddTasksRequest {
    let tasks = (0..count).map(|_| fetch(origin.url("/a"))).collect();
    pb::AddTasksRequest { job_id: job_id.into(), chunk_id: name.into(), tasks }
}

#[tokio::test]
async fn an_open_job_is_fed_runs_meanwhile_and_ends_when_sealed() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let chunks: Vec<_> = (0..10).map(|n| chunk(&id, &format!("c{n}"), &origin, 30)).collect();
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    let mut next = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!((answer.first_task_index, answer.task_count), (next, 30));
        next += 30;
    }
    assert_eq!(next, 300);
    until(async || server.job(&id).await.counts.unwrap().succeeded == 300).await;
    assert_eq!(server.job(&id).await.state(), JobState::Running, "it may get more");
    server.restart().await;

    // A chunk again, also after a kill, is answered again and stored once; with other tasks it is refused.
    let mut again =
        server.jobs().add_tasks(tokio_stream::once(chunk(&id, "c3", &origin, 30))).await.unwrap().into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().first_task_index, 90);
    let mut other =
        server.jobs().add_tasks(tokio_stream::once(chunk(&id, "c3", &origin, 1))).await.unwrap().into_inner();
    assert_eq!(other.message().await.unwrap_err().code(), Code::AlreadyExists);

    let seal = pb::SealJobRequest { job_id: id.clone() };
    server.jobs().seal_job(seal.clone()).await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().total), (JobState::Succeeded, 300));
    server.jobs().seal_job(seal).await.unwrap();
    let mut late =
        server.jobs().add_tasks(tokio_stream::once(chunk(&id, "late", &origin, 1))).await.unwrap().into_inner();
    assert_eq!(late.message().await.unwrap_err().code(), Code::FailedPrecondition);

    let empty = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().seal_job(pb::SealJobRequest { job_id: empty.clone() }).await.unwrap();
    assert_eq!(server.ended(&empty).await.state(), JobState::Succeeded);
}

#[tokio::test]
async fn keys_are_unique_over_the_whole_job() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let keyed = |key: &str| pb::TaskSpec { key: key.into(), ..fetch(origin.url("/a")) };
    let id = server.submit(pb::JobSpec { open: true, ..job(vec![keyed("one")]) }).await;
    let request = pb::AddTasksRequest { job_id: id, chunk_id: "c".into(), tasks: vec![keyed("two"), keyed("one")] };
    let mut answers = server.jobs().add_tasks(tokio_stream::once(request)).await.unwrap().into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = tonic_types::StatusExt::get_details_bad_request(&status).unwrap();
    assert_eq!(details.field_violations[0].field, "tasks[1].key");
}

#[tokio::test]
async fn limits_change_at_once_and_survive_a_restart() {
    let (mut server, origin) = (Server::with(&["--allow-private-networks"]).await, Origin::start());
    origin.reply("/slow", Reply::ok("x").delay(Duration::from_millis(30)));
    let wish = |max_per_host| pb::UpdateLimitsRequest {
        limits: Some(pb::Limits { max_per_host, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["max_per_host".into()] }),
    };
    server.admin().update_limits(wish(2)).await.unwrap();
    server.run(job((0..10).map(|_| fetch(origin.url("/slow"))).collect())).await;
    assert_eq!(origin.peak(), 2);
    server.restart().await;
    let limits = server.admin().get_limits(pb::GetLimitsRequest {}).await.unwrap().into_inner().limits.unwrap();
    assert_eq!((limits.max_per_host, limits.max_concurrent_tasks), (2, 64));

    let id = server.submit(job((0..60).map(|_| fetch(origin.url("/slow"))).collect())).await;
    until(async || !origin.requests("/slow").is_empty()).await;
    let waiting = server.task(&id, 59).await.waiting.unwrap();
    assert_eq!(waiting.reason(), WaitReason::HostLimit, "{waiting:?}");
    server.admin().update_limits(wish(6)).await.unwrap();
    server.ended(&id).await;
    assert_eq!(origin.peak(), 6);
    assert_eq!(server.admin().update_limits(wish(0)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn starts_keep_to_the_rate_of_their_job() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let rate_limit = Some(pb::RateLimit { requests_per_second: 40.0, burst: 1, bytes_per_second: 0 });
    let spec = pb::JobSpec { rate_limit, ..job((0..41).map(|_| fetch(origin.url("/a"))).collect()) };
    server.run(spec).await;
    let requests = origin.requests("/a");
    let spread = requests[40].at - requests[0].at;
    assert!(spread >= Duration::from_millis(950), "40 intervals of 25 ms took {spread:?}");
}

#[tokio::test]
async fn a_host_that_asks_to_wait_is_left_alone_by_every_job() {
    for (status, header) in [(429, "Retry-After"), (503, "RateLimit-Reset")] {
        left_alone(status, header).await;
    }
}

async fn left_alone(status: u16, header: &'static str) {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/busy", move |request| match request.nth {
        0 => Reply::status(status).header(header, "1"),
        _ => Reply::ok("fine"),
    });
    origin.reply("/other", Reply::ok("other"));
    let first = server.submit(job(vec![fetch(origin.url("/busy"))])).await;
    until(async || server.task(&first, 0).await.state() == TaskState::BackingOff).await;
    let second = server.submit(job(vec![fetch(origin.url("/other"))])).await;
    let waiting = server.task(&second, 0).await.waiting.unwrap();
    assert_eq!(waiting.reason(), WaitReason::HostPaused);
    let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert!(hosts[0].paused_until.is_some() && hosts[0].pause_reason.contains(&status.to_string()), "{hosts:?}");
    assert_eq!(server.ended(&second).await.state(), JobState::Succeeded);
    assert_eq!(server.ended(&first).await.state(), JobState::Succeeded);
    let asked = origin.requests("/busy")[0].at;
    assert!(origin.requests("/other")[0].at - asked >= Duration::from_millis(900));
}

#[tokio::test]
async fn hosts_are_listed_page_by_page_with_tokens_of_their_own() {
    let server = Server::start().await;
    let origins: Vec<Origin> = (0..3).map(|_| Origin::start()).collect();
    for origin in &origins {
        origin.reply("/a", Reply::ok("a"));
    }
    server.run(job(origins.iter().map(|origin| fetch(origin.url("/a"))).collect())).await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListHostsRequest { page_size: 1, page_token };
        let page = server.admin().list_hosts(request).await.unwrap().into_inner();
        seen.extend(page.hosts.into_iter().map(|host| host.host));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<String> = origins.iter().map(|origin| origin.address().to_string()).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let elsewhere = pb::ListHostsRequest { page_size: 1, page_token: "127.0.0.1:1".into() };
    assert_eq!(server.admin().list_hosts(elsewhere).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn updates_and_retention_take_effect() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let spec = pb::JobSpec { retention: Some(millis(200)), ..job(vec![fetch(origin.url("/a"))]) };
    let ended = server.run(spec).await;
    assert!(ended.expire_time.is_some());
    let request = pb::GetJobRequest { job_id: ended.job_id.clone(), ..Default::default() };
    until(async || server.jobs().get_job(request.clone()).await.is_err()).await;

    origin.reply("/stalled", Reply::hang());
    let id = server.submit(job(vec![fetch(origin.url("/stalled"))])).await;
    let request = pb::UpdateJobRequest {
        job_id: id.clone(),
        priority: 7,
        title: "renamed".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["priority".into(), "title".into()] }),
        ..Default::default()
    };
    let job = server.jobs().update_job(request.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!((job.priority, job.title.as_str()), (7, "renamed"));
    let delete = pb::DeleteJobRequest { job_id: id, delete_files: false };
    assert_eq!(server.jobs().delete_job(delete).await.unwrap_err().code(), Code::FailedPrecondition);
    let empty = pb::UpdateJobRequest { update_mask: None, ..request };
    assert_eq!(server.jobs().update_job(empty).await.unwrap_err().code(), Code::InvalidArgument);
}

/// A part of a job is retried, and the failure that is left is far behind those that run again.
#[tokio::test]
async fn a_retry_of_named_tasks_is_bounded_and_keeps_the_failure_of_what_still_fails() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/bad", Reply::status(404));
    let collect = Some(crate::support::spec::group(pb::GroupMode::Collect, 0));
    let tasks = (0..1_010).map(|_| fetch(origin.url("/bad"))).collect();
    let failed = server.run(pb::JobSpec { group: collect, ..job(tasks) }).await;
    assert_eq!(failed.counts.unwrap().failed, 1_010);
    let request =
        |count| pb::RetryJobRequest { job_id: failed.job_id.clone(), task_indexes: (0..count).collect(), filter: None };
    let refused = server.jobs().retry_job(request(10_001)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let details = tonic_types::StatusExt::get_details_bad_request(&refused).unwrap();
    assert_eq!(details.field_violations[0].field, "task_indexes");

    server.jobs().retry_job(request(1_005)).await.unwrap();
    let ended = server.ended(&failed.job_id).await;
    assert_eq!(ended.counts.unwrap().failed, 1_010);
    let failure = ended.failure.expect("five tasks failed all the time");
    assert!(failure.task_index.is_some_and(|index| index >= 1_005), "{failure:?}");
}
