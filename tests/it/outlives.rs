//! What clients and origins do at the worst moment does not stop the server, nor is anything done twice: commits are held up
//! by somebody who has the lock of the database, callers give up, the server is told to end.

use std::time::Duration;

use futures_util::future::join_all;
use haul::pb;
use haul::pb::{JobState, TaskState};
use sqlx::Connection as _;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::it::held::hold;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{fetch, fetch_as, group, job, millis, once, quick_retry};

/// A time that no test sees.
const NEVER: Option<prost_types::Timestamp> = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });

/// The server has not ended meanwhile, and memory and store agree.
fn is_sound(server: &Server, pid: u32) {
    assert_eq!(server.pid(), pid);
    assert!(!server.log().contains("contradict"), "{}", server.log());
}

/// The attempt of a listing ends while its page is on its way to the disk; the next one goes on behind that page.
#[tokio::test]
async fn a_page_whose_attempt_ends_before_it_is_stored_is_stored_once() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| match request.param("page").unwrap().parse::<u32>().unwrap() {
        page @ 0..6 => Reply::json(format!("[{page}]")),
        _ => Reply::json("[]"),
    });
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    let spec = pb::FetchSpec { url: origin.url("/list"), pagination, ..Default::default() };
    let timeouts = Some(pb::Timeouts { attempt: Some(millis(700)), ..Default::default() });
    let defaults = Some(pb::TaskOptions { retry: Some(quick_retry(20)), timeouts, ..Default::default() });
    let pid = server.pid();
    let id = server.submit(pb::JobSpec { defaults, ..job(vec![fetch_as(spec)]) }).await;
    let other = hold(&server).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    other.close().await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: id, task, after_item: None };
    let mut stream = server.contents().stream_items(request).await.unwrap().into_inner();
    let mut items = Vec::new();
    while let Some(item) = stream.message().await.unwrap() {
        items.push(item.json);
    }
    assert_eq!(items, ["0", "1", "2", "3", "4", "5"]);
    is_sound(&server, pid);
}

/// A listing whose requests must not be sent twice is paused between two of them, and so it is when the server ends; each
/// page is asked for once.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_by_post_stops_between_its_pages() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| match request.param("page").unwrap().parse::<u32>().unwrap() {
        page @ 0..12 => Reply::json(format!("[{page}]")).delay(Duration::from_millis(100)),
        _ => Reply::json("[]"),
    });
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    let spec = pb::FetchSpec { url: origin.url("/list"), method: "POST".into(), pagination, ..Default::default() };
    let id = server.submit(pb::JobSpec { defaults: None, ..job(vec![fetch_as(spec)]) }).await;
    until(async || origin.requests("/list").len() >= 3).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    until(async || server.task(&id, 0).await.state() == TaskState::Pending).await;
    let asked = origin.requests("/list").len();
    assert!(asked < 10, "{asked} pages were asked for although the job is paused");
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    until(async || origin.requests("/list").len() > asked + 2).await;
    server.terminate();
    server.launch().await;
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let mut pages: Vec<String> =
        origin.requests("/list").iter().map(|request| request.param("page").unwrap()).collect();
    let all = pages.len();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!((pages.len(), all), (13, 13), "{pages:?}");
}

/// The mark of an expired job is on its way to the disk when somebody wants to change the job.
#[tokio::test]
async fn changes_meet_the_expiry_of_their_job() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/gone", Reply::status(404));
    let pid = server.pid();
    let jobs = join_all((0..3).map(|_| {
        let spec = pb::JobSpec {
            retention: Some(millis(1_500)),
            defaults: Some(once()),
            ..job(vec![fetch(origin.url("/gone"))])
        };
        server.run(spec)
    }))
    .await;
    let ids: Vec<String> = jobs.into_iter().map(|job| job.job_id).collect();
    let other = hold(&server).await;
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    let update = pb::UpdateJobRequest {
        job_id: ids[0].clone(),
        title: "late".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["title".into()] }),
        ..Default::default()
    };
    let retry = pb::RetryJobRequest { job_id: ids[1].clone(), task_indexes: Vec::new(), filter: None };
    let delete = pb::DeleteJobRequest { job_id: ids[2].clone(), ..Default::default() };
    let (mut updating, mut retrying, mut deleting) = (server.jobs(), server.jobs(), server.jobs());
    let release = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.close().await.unwrap();
    };
    let (updated, retried, deleted, ()) =
        tokio::join!(updating.update_job(update), retrying.retry_job(retry), deleting.delete_job(delete), release);
    for code in [updated.err(), retried.err(), deleted.err()].into_iter().flatten().map(|status| status.code()) {
        assert_eq!(code, Code::NotFound, "whoever comes too late is told so");
    }
    until(async || {
        let all = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        all.iter().all(|job| job.end_time.is_some())
    })
    .await;
    is_sound(&server, pid);
}

/// The largest defaults and bodies that are accepted, more than one read may bring.
#[tokio::test]
async fn what_is_large_is_read_in_pieces() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let header = |nth| pb::Header { name: format!("x-{nth}"), value: "v".repeat(16_000), ..Default::default() };
    let http = Some(pb::HttpOptions { headers: (0..16).map(header).collect(), ..Default::default() });
    let defaults = Some(pb::TaskOptions { http, ..once() });
    for _ in 0..48 {
        let spec = pb::JobSpec { defaults: defaults.clone(), start_time: NEVER, ..job(vec![fetch(origin.url("/a"))]) };
        server.submit(spec).await;
    }
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    let large = || {
        fetch_as(pb::FetchSpec {
            url: origin.url("/a"),
            method: "PUT".into(),
            body: vec![200; 1 << 20].into(),
            ..Default::default()
        })
    };
    let chunks: Vec<_> = (0..3)
        .map(|nth| pb::AddTasksRequest {
            job_id: id.clone(),
            chunk_id: nth.to_string(),
            tasks: (0..10).map(|_| large()).collect(),
        })
        .collect();
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    server.restart().await;
    assert!(server.peak_mib() < 150, "{} MiB at the start", server.peak_mib());
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!(ended.counts.unwrap().succeeded, 30);
    assert!(server.peak_mib() < 200, "{} MiB for 30 MiB of bodies", server.peak_mib());
}

/// Nobody is told that the server serves while it takes nothing.
#[tokio::test]
async fn health_says_at_once_that_a_drain_has_begun() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::hang());
    // What may not be sent twice is waited for, so the drain takes its time.
    let post = fetch_as(pb::FetchSpec { url: origin.url("/a"), method: "POST".into(), ..Default::default() });
    server.submit(pb::JobSpec { defaults: None, ..job(vec![post]) }).await;
    until(async || origin.requests("/a").len() == 1).await;
    server.admin().drain(pb::DrainRequest {}).await.unwrap();
    let mut health = HealthClient::new(server.channel.clone());
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/a"))])), ..Default::default() };
    assert_eq!(server.jobs().submit_job(request).await.unwrap_err().code(), Code::Unavailable);
    origin.kill_connections();
    let server = tokio::task::spawn_blocking(move || (server.ended_itself(), server)).await.unwrap();
    assert!(server.0.success(), "{}", server.1.log());
}

/// What may not be sent twice is not sent twice for a pause.
#[tokio::test]
async fn a_pause_waits_for_the_answer_to_what_may_not_be_sent_twice() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("done").delay(Duration::from_millis(600)));
    let task =
        |method: &str| fetch_as(pb::FetchSpec { url: origin.url("/a"), method: method.into(), ..Default::default() });
    let id = server.submit(pb::JobSpec { defaults: None, ..job(vec![task("POST"), task("GET")]) }).await;
    until(async || origin.requests("/a").len() == 2).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    until(async || server.task(&id, 0).await.state() == TaskState::Succeeded).await;
    assert_eq!(server.task(&id, 1).await.state(), TaskState::Pending);
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let posts = origin.requests("/a").iter().filter(|request| request.method == "POST").count();
    assert_eq!((posts, origin.requests("/a").len()), (1, 3));
}

/// Callers with large messages whose deadlines pass while nothing can be committed.
#[tokio::test]
async fn callers_that_give_up_leave_no_memory_behind() {
    const CALLERS: usize = 40;
    let server = Server::start().await;
    let pid = server.pid();
    let url = format!("http://127.0.0.1:2/{}", "u".repeat(1_000));
    let spec = pb::JobSpec { start_time: NEVER, ..job((0..3_000).map(|_| fetch(&url)).collect()) };
    let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
    let before = server.peak_mib();
    let other = hold(&server).await;
    let calls = (0..CALLERS).map(|_| {
        let (mut jobs, request) = (server.jobs(), request.clone());
        async move { tokio::time::timeout(Duration::from_secs(3), jobs.submit_job(request)).await }
    });
    let answered = join_all(calls).await.into_iter().flatten().flatten().count();
    assert_eq!(answered, 0, "nothing can be committed");
    other.close().await.unwrap();
    let small = pb::JobSpec { start_time: NEVER, ..job(vec![fetch(&url)]) };
    let small = pb::SubmitJobRequest { job: Some(small), ..Default::default() };
    until(async || server.jobs().submit_job(small.clone()).await.is_ok()).await;
    let listed = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let stored = server.jobs().list_jobs(listed).await.unwrap().into_inner().jobs.len();
    assert!(stored < CALLERS, "{stored} jobs were stored, which nobody waited for");
    let peak = server.peak_mib() - before;
    assert!(peak < 350, "{peak} MiB for {CALLERS} messages of 3 MB");
    is_sound(&server, pid);
}

/// A call that waits for what will not come any more is ended with the server.
#[tokio::test]
async fn a_cancel_that_waits_does_not_hold_the_end_of_the_server() {
    let mut server = Server::with(&["--allow-private-networks", "--shutdown-grace", "60s"]).await;
    let collect = Some(group(pb::GroupMode::Collect, 0));
    let id = server.submit(pb::JobSpec { open: true, start_time: NEVER, group: collect, ..job(Vec::new()) }).await;
    let chunks: Vec<_> = (0..12)
        .map(|nth| pb::AddTasksRequest {
            job_id: id.clone(),
            chunk_id: nth.to_string(),
            tasks: (0..5_000).map(|_| fetch("http://127.0.0.1:2/")).collect(),
        })
        .collect();
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let mut jobs = server.jobs();
    let request = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
    let mut cancelling = tokio::task::JoinSet::from_iter([async move { jobs.cancel_job(request).await }]);
    until(async || server.job(&id).await.state() != JobState::Pending).await;
    let started = tokio::time::Instant::now();
    server.ask_to_end();
    let ended = tokio::task::spawn_blocking(move || (server.ended_itself(), server));
    let (status, mut server) = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(status.success(), "{}", server.log());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    match cancelling.join_next().await.unwrap().unwrap() {
        Ok(answer) => assert_eq!(answer.into_inner().job.unwrap().state(), JobState::Cancelled),
        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
    }
    server.launch().await;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().cancelled), (JobState::Cancelled, 60_000));
}
