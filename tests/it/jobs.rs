//! Submitting and looking.

use haul::pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, job, millis};

#[tokio::test]
async fn a_job_of_fetches_runs_to_its_end() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |_| Reply::ok("alpha").header("X-Kept", "yes"));
    origin.handle("/b", |_| Reply::ok("beta"));
    let ended = server.run(job(vec![fetch(origin.url("/a")), fetch(origin.url("/b"))])).await;

    assert_eq!(ended.state(), pb::JobState::Succeeded);
    let counts = ended.counts.unwrap();
    assert_eq!((counts.total, counts.succeeded), (2, 2));
    let task = server.task(&ended.job_id, 0).await;
    assert_eq!(task.state(), pb::TaskState::Succeeded);
    assert_eq!(task.attempt_log.len(), 1);
    let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!("{task:?}") };
    assert_eq!((result.http_status, &result.body[..], result.body_bytes), (200, &b"alpha"[..], 5));
}

/// An attempt may end and the next begin before either is durable.
#[tokio::test]
async fn attempts_that_follow_each_other_faster_than_commits() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let tasks = (0..100).map(|nth| {
        let path = format!("/{nth}");
        origin.handle(&path, |request| if request.nth < 15 { Reply::status(500) } else { Reply::ok("at last") });
        fetch(origin.url(&path))
    });
    let tasks = tasks.collect();
    let retry = pb::RetryPolicy {
        max_attempts: Some(100),
        initial_backoff: Some(millis(1)),
        max_backoff: Some(millis(1)),
        ..Default::default()
    };
    let defaults = pb::TaskOptions { retry: Some(retry), ..Default::default() };
    let ended = server.run(pb::JobSpec { defaults: Some(defaults), ..job(tasks) }).await;
    assert_eq!(ended.counts.unwrap().succeeded, 100, "{}", server.log());
    let listed = server.tasks(&ended.job_id).await;
    assert_eq!(listed.len(), 100);
    for task in listed {
        assert_eq!(task.attempts, 16, "{task:?}");
    }
    // What is durable agrees.
    server.restart().await;
    assert_eq!(server.job(&ended.job_id).await.state(), pb::JobState::Succeeded);
    let task = server.task(&ended.job_id, 7).await;
    assert_eq!((task.attempts, task.attempt_log.len()), (16, 16));
}

#[tokio::test]
async fn the_same_request_id_is_the_same_job_however_often_and_at_once() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let spec = job(vec![fetch(origin.url("/a"))]);
    let request = pb::SubmitJobRequest { request_id: "once".into(), job: Some(spec.clone()), validate_only: false };
    let calls = (0..20).map(|_| {
        let (mut jobs, request) = (server.jobs(), request.clone());
        async move { jobs.submit_job(request).await.unwrap().into_inner().job.unwrap().job_id }
    });
    let ids = futures_util::future::join_all(calls).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    server.ended(&ids[0]).await;
    let again = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!((again.job_id, again.state), (ids[0].clone(), pb::JobState::Succeeded as i32));
    assert_eq!(origin.requests("/a").len(), 1);

    let other = pb::JobSpec { title: "another".into(), ..spec.clone() };
    for validate_only in [true, false] {
        let request = pb::SubmitJobRequest { request_id: "once".into(), job: Some(other.clone()), validate_only };
        let refused = server.jobs().submit_job(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert_eq!(refused.get_details_error_info().unwrap().reason, "REQUEST_ID_TAKEN");
    }
    let request = pb::SubmitJobRequest { request_id: "once".into(), job: Some(spec), validate_only: true };
    let checked = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(checked.job_id, "", "what would be answered again is right");
}

#[tokio::test]
async fn jobs_and_tasks_are_listed_page_by_page() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let mut ids = Vec::new();
    for number in 0..5 {
        let labels = [("parity".to_owned(), (number % 2).to_string())].into();
        let spec = pb::JobSpec { labels, ..job((0..7).map(|_| fetch(origin.url("/a"))).collect()) };
        ids.push(server.run(spec).await.job_id);
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListJobsRequest { page_size: 2, page_token, ..Default::default() };
        let page = server.jobs().list_jobs(request).await.unwrap().into_inner();
        seen.extend(page.jobs.into_iter().map(|job| job.job_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ids.reverse();
    assert_eq!(seen, ids, "newest first");

    let labels = [("parity".to_owned(), "1".to_owned())].into();
    let odd = pb::ListJobsRequest { labels, ..Default::default() };
    assert_eq!(server.jobs().list_jobs(odd).await.unwrap().into_inner().jobs.len(), 2);

    let request = pb::ListTasksRequest { job_id: ids[0].clone(), page_size: 3, ..Default::default() };
    let page = server.jobs().list_tasks(request.clone()).await.unwrap().into_inner();
    assert_eq!(page.tasks.iter().map(|task| task.task_index).collect::<Vec<_>>(), [0, 1, 2]);
    let next = pb::ListTasksRequest { page_token: page.next_page_token.clone(), ..request };
    let page = server.jobs().list_tasks(next).await.unwrap().into_inner();
    assert_eq!(page.tasks.iter().map(|task| task.task_index).collect::<Vec<_>>(), [3, 4, 5]);

    let elsewhere = pb::ListJobsRequest { page_token: page.next_page_token, ..Default::default() };
    assert_eq!(server.jobs().list_jobs(elsewhere).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::start().await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let missing =
        server.jobs().get_job(pb::GetJobRequest { job_id: id.into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(missing.get_details_resource_info().unwrap().resource_name, id);
    let watch = pb::WatchJobRequest { job_id: id.into(), ..Default::default() };
    assert_eq!(server.jobs().watch_job(watch).await.unwrap_err().code(), Code::NotFound);
    let wait = pb::WaitJobRequest { job_id: id.into(), timeout: None };
    assert_eq!(server.jobs().wait_job(wait).await.unwrap_err().code(), Code::NotFound);
}
