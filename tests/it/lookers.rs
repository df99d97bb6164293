//! Lists as people look through them: searches, failures, orders, events; over gRPC and as JSON.

use std::time::Duration;

use haul::pb;
use prost_types::Timestamp;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::it::curl::curl;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, group, job, once};

fn indexes(tasks: &[pb::Task]) -> Vec<u32> {
    tasks.iter().map(|task| task.task_index).collect()
}

/// The code of an error and the fields that it names.
pub(crate) fn named(status: &Status) -> (Code, Vec<String>) {
    let violations = status.get_details_bad_request().map(|it| it.field_violations).unwrap_or_default();
    (status.code(), violations.into_iter().map(|it| it.field).collect())
}

async fn titled(server: &Server, title: &str, team: &str) -> String {
    let labels = [("team".to_owned(), team.to_owned())].into();
    let spec = pb::JobSpec { title: title.to_owned(), labels, open: true, ..job(Vec::new()) };
    server.submit(spec).await
}

async fn titles(server: &Server, request: pb::ListJobsRequest) -> Vec<String> {
    let page = server.jobs().list_jobs(request).await.unwrap().into_inner();
    assert!(page.examined >= page.jobs.len() as u32, "{page:?}");
    page.jobs.into_iter().map(|job| job.title).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_searched_and_ordered() {
    let mut server = Server::start().await;
    let first = titled(&server, "Nightly mirror", "red").await;
    let second = titled(&server, "50% of it_all", "blue").await;
    let third = titled(&server, "docs", "mirrors").await;
    let search = |text: &str| pb::ListJobsRequest { search: text.to_owned(), ..Default::default() };
    assert_eq!(titles(&server, search("MIRROR")).await, ["docs", "Nightly mirror"]);
    assert_eq!(titles(&server, search("%")).await, ["50% of it_all"]);
    assert_eq!(titles(&server, search("itxall")).await, [""; 0]);
    assert_eq!(titles(&server, search(&second[..23])).await, ["50% of it_all"]);
    let long = server.jobs().list_jobs(search(&"x".repeat(129))).await.unwrap_err();
    assert_eq!(named(&long), (Code::InvalidArgument, vec!["search".to_owned()]));
    // What ends last comes first, and what has not ended does not come.
    for id in [&third, &first] {
        server.jobs().cancel_job(pb::CancelJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    }
    let by_end = pb::ListJobsRequest { order: pb::JobOrder::EndTime.into(), ..Default::default() };
    assert_eq!(titles(&server, by_end.clone()).await, ["Nightly mirror", "docs"]);
    let end = |job: pb::Job| job.end_time.unwrap();
    let (early, late) = (end(server.job(&third).await), end(server.job(&first).await));
    let after = pb::ListJobsRequest { end_time_after: Some(early), ..Default::default() };
    assert_eq!(titles(&server, after).await, ["Nightly mirror"]);
    let before = pb::ListJobsRequest { end_time_before: Some(late), ..by_end.clone() };
    assert_eq!(titles(&server, before).await, ["docs"]);
    let wrong =
        pb::ListJobsRequest { order: 9, end_time_after: Some(Timestamp { seconds: 0, nanos: -1 }), ..by_end.clone() };
    let wrong = server.jobs().list_jobs(wrong).await.unwrap_err();
    assert_eq!(named(&wrong).1, ["end_time_after", "order"]);
    // A token goes on in its listing, also after a restart, and in no other.
    let page =
        server.jobs().list_jobs(pb::ListJobsRequest { page_size: 1, ..by_end.clone() }).await.unwrap().into_inner();
    assert_eq!(page.jobs[0].title, "Nightly mirror");
    server.restart().await;
    let next = pb::ListJobsRequest { page_token: page.next_page_token.clone(), page_size: 5, ..by_end.clone() };
    assert_eq!(titles(&server, next.clone()).await, ["docs"]);
    for other in [
        pb::ListJobsRequest { search: "d".to_owned(), ..next.clone() },
        pb::ListJobsRequest { end_time_before: Some(late), ..next.clone() },
        pb::ListJobsRequest { order: 0, ..next.clone() },
    ] {
        let refused = server.jobs().list_jobs(other).await.unwrap_err();
        assert_eq!(named(&refused), (Code::InvalidArgument, vec!["page_token".to_owned()]));
    }
    let by_http = curl(&server, &[], "/v1/jobs?order=JOB_ORDER_END_TIME&search=dOcS").json();
    assert_eq!((&by_http["jobs"][0]["title"], &by_http["examined"]), (&json!("docs"), &json!(2)));
}

/// Task 0 succeeds, 1 and 2 fail by status, 3 at another host, 4 cannot be connected to; the rest wait.
async fn troubled(server: &Server, one: &Origin, other: &Origin) -> String {
    one.reply("/ok", Reply::ok("fine"));
    one.reply("/gone", Reply::status(404));
    one.reply("/broken", Reply::status(500));
    other.reply("/gone", Reply::status(404));
    let mut tasks = vec![
        fetch(one.url("/ok?token=SESAME")),
        fetch(one.url("/gone")),
        fetch(one.url("/broken")),
        fetch(other.url("/gone")),
        fetch("http://127.0.0.1:9/closed"),
    ];
    "Needle".clone_into(&mut tasks[1].key);
    let group = Some(group(pb::GroupMode::Collect, 9));
    let id = server.submit(pb::JobSpec { group, defaults: Some(once()), ..job(tasks) }).await;
    server.ended(&id).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_found_by_how_they_failed_and_where() {
    let (server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    let job_id = troubled(&server, &one, &other).await;
    let ask = async |request: pb::ListTasksRequest| {
        let request = pb::ListTasksRequest { job_id: job_id.clone(), ..request };
        let page = server.jobs().list_tasks(request).await.unwrap().into_inner();
        assert!(page.examined >= page.tasks.len() as u32);
        indexes(&page.tasks)
    };
    let any = pb::ListTasksRequest::default;
    let status = vec![pb::FailureReason::HttpStatus.into()];
    assert_eq!(ask(pb::ListTasksRequest { reasons: status.clone(), ..any() }).await, [1, 2, 3]);
    assert_eq!(ask(pb::ListTasksRequest { http_statuses: vec![404, 404], ..any() }).await, [1, 3]);
    let connect = vec![pb::FailureReason::Connect.into()];
    assert_eq!(ask(pb::ListTasksRequest { reasons: connect, http_statuses: vec![404], ..any() }).await, [0; 0]);
    let here = one.address().to_string();
    assert_eq!(ask(pb::ListTasksRequest { host: here.clone(), reasons: status, ..any() }).await, [1, 2]);
    assert_eq!(ask(pb::ListTasksRequest { host: "127.0.0.1".into(), ..any() }).await, [0, 1, 2, 3, 4]);
    assert_eq!(ask(pb::ListTasksRequest { first_task_index: Some(3), ..any() }).await, [3, 4]);
    assert_eq!(ask(pb::ListTasksRequest { search: "needle".into(), ..any() }).await, [1]);
    assert_eq!(ask(pb::ListTasksRequest { search: "/GONE".into(), ..any() }).await, [1, 3]);
    assert_eq!(ask(pb::ListTasksRequest { search: "sesame".into(), ..any() }).await, [0; 0], "no secret is guessed");
    assert_eq!(ask(pb::ListTasksRequest { search: "token=REDACTED".into(), ..any() }).await, [0]);
    let wrong = pb::ListTasksRequest {
        job_id: job_id.clone(),
        reasons: vec![99],
        http_statuses: vec![42],
        host: "http://x".into(),
        search: "x".repeat(129),
        states: vec![9],
        ..any()
    };
    let wrong = server.jobs().list_tasks(wrong).await.unwrap_err();
    assert_eq!(named(&wrong).1, ["states[0]", "reasons[0]", "http_statuses[0]", "host", "search"]);
    // A place for the first page only, and a token that is bound to all conditions.
    let first = pb::ListTasksRequest { job_id: job_id.clone(), page_size: 1, first_task_index: Some(2), ..any() };
    let page = server.jobs().list_tasks(first.clone()).await.unwrap().into_inner();
    assert_eq!(indexes(&page.tasks), [2]);
    let next = pb::ListTasksRequest { page_token: page.next_page_token, first_task_index: Some(0), ..first };
    let page = server.jobs().list_tasks(next.clone()).await.unwrap().into_inner();
    assert_eq!(indexes(&page.tasks), [3]);
    let other = server.jobs().list_tasks(pb::ListTasksRequest { host: here, ..next }).await.unwrap_err();
    assert_eq!(named(&other).1, ["page_token"]);
    let path =
        format!("/v1/jobs/{job_id}/tasks?reasons=FAILURE_REASON_HTTP_STATUS&http_statuses=500&include_spec=true");
    let by_http = curl(&server, &[], &path).json();
    assert_eq!((by_http["tasks"].as_array().unwrap().len(), &by_http["tasks"][0]["task_index"]), (1, &json!(2)));
    assert_eq!(by_http["tasks"][0]["spec"]["fetch"]["url"], one.url("/broken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_from_the_last_on() {
    let (mut server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    let job_id = troubled(&server, &one, &other).await;
    let told = server.events(&job_id, 0).await;
    server.restart().await;
    let list = async |kinds: &[pb::JobEventKind], page_size| {
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        let mut request = pb::ListJobEventsRequest { job_id: job_id.clone(), page_size, kinds, ..Default::default() };
        let mut all = Vec::new();
        loop {
            let page = server.jobs().list_job_events(request.clone()).await.unwrap().into_inner();
            all.extend(page.events);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return all;
            }
        }
    };
    let all = list(&[], 2).await;
    assert_eq!(all.len(), told.len());
    for (event, told) in all.iter().rev().zip(&told) {
        use pb::{job_event::Event as Listed, watch_job_response::Event as Told};
        assert_eq!((event.sequence, event.time), (told.sequence, told.time));
        match (event.event.clone().unwrap(), told.event.clone().unwrap()) {
            (Listed::TaskEnded(one), Told::TaskEnded(other)) => assert_eq!(one, other),
            (Listed::JobChanged(one), Told::JobChanged(other)) | (Listed::JobEnded(one), Told::JobEnded(other)) => {
                assert_eq!(one, other);
            }
            other => panic!("{other:?}"),
        }
    }
    let ends = list(&[pb::JobEventKind::TaskEnded], 3).await;
    assert_eq!(ends.len(), 5);
    assert_eq!(list(&[pb::JobEventKind::JobEnded], 0).await[0].sequence, told.last().unwrap().sequence);
    let wrong =
        pb::ListJobEventsRequest { job_id: job_id.clone(), kinds: vec![7], page_size: -1, ..Default::default() };
    assert_eq!(named(&server.jobs().list_job_events(wrong).await.unwrap_err()).1, ["page_size", "kinds[0]"]);
    let unknown = pb::ListJobEventsRequest { job_id: uuid::Uuid::nil().to_string(), ..Default::default() };
    assert_eq!(server.jobs().list_job_events(unknown).await.unwrap_err().code(), Code::NotFound);
    let path = format!("/v1/jobs/{job_id}/events:list?kinds=JOB_EVENT_KIND_JOB_ENDED");
    let by_http = curl(&server, &[], &path).json();
    assert_eq!(by_http["events"][0]["job_ended"]["job_id"], job_id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_the_server_show_what_they_do() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("x".repeat(50_000)));
    origin.reply("/gone", Reply::status(404));
    let tasks = vec![fetch(origin.url("/a")), fetch(origin.url("/gone")), fetch(origin.url("/gone"))];
    server.run(pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..job(tasks) }).await;
    let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert_eq!((hosts.len(), hosts[0].recent_failures), (1, 2), "{hosts:?}");
    assert!((0.1..=0.6).contains(&hosts[0].requests_per_second), "{hosts:?}");
    assert!((9_000..=10_100).contains(&hosts[0].bytes_per_second), "{hosts:?}");
    let info = server.admin().get_server_info(pb::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.disk_free_bytes > 0 && info.download_free_bytes > 0 && info.store_bytes > 4096, "{info:?}");
    assert_eq!((info.features.join(" "), info.draining), ("rest metrics web".to_owned(), false));

    let access = info.access.unwrap();
    assert_eq!((access.grpc_web, access.cors_origins, access.sealing_rows_left), (true, Vec::new(), 0));

    // The end of a pause.
    origin.reply("/busy", Reply::status(503).header("retry-after", "3000"));
    let waits = server.submit(job(vec![fetch(origin.url("/busy"))])).await;
    let host = origin.address().to_string();
    let paused = async || {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts[0].paused_until.is_some()
    };
    crate::support::server::until(paused).await;
    origin.reply("/busy", Reply::ok("fine"));
    let path = format!("/v1/hosts/{host}:resume");
    let resumed = curl(&server, &["--request", "POST"], &path);
    assert_eq!((resumed.code, resumed.json()["host"]["host"].as_str()), (200, Some(host.as_str())), "{resumed:?}");
    assert!(!paused().await);
    let again = server.admin().resume_host(pb::ResumeHostRequest { host: host.clone() }).await.unwrap().into_inner();
    assert_eq!(again.host.unwrap().host, host, "a host that is not paused is no error");
    // Its task waits for its own backoff, which is as long.
    let now =
        server.jobs().retry_now(pb::RetryNowRequest { job_id: waits.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(now.into_inner().tasks, 1);
    let ended = tokio::time::timeout(Duration::from_secs(20), server.ended(&waits)).await.unwrap();
    assert_eq!(ended.state(), pb::JobState::Succeeded);
    let unknown = server.admin().resume_host(pb::ResumeHostRequest { host: "nowhere.example:1".into() }).await;
    let unknown = unknown.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.get_details_error_info().unwrap().reason, "HOST_NOT_FOUND");
    for host in ["", "http://x/"] {
        let wrong = server.admin().resume_host(pb::ResumeHostRequest { host: host.into() }).await.unwrap_err();
        assert_eq!(named(&wrong), (Code::InvalidArgument, vec!["host".to_owned()]));
    }
}
