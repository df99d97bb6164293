//! Many jobs at once: what is done to all that match, and a list of them that stays true.

use std::collections::HashMap;

use haul::pb;
use haul::pb::watch_jobs_response::Event;
use serde_json::json;
use tonic::Code;

use crate::it::access::{jobs, operator, token};
use crate::it::curl::curl;
use crate::it::lookers::named;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{fetch, job, millis};

fn spec(title: &str, team: &str) -> pb::JobSpec {
    let labels = HashMap::from([("team".to_owned(), team.to_owned())]);
    pb::JobSpec { title: title.to_owned(), labels, open: true, ..job(Vec::new()) }
}

fn order(action: pb::JobAction, search: &str) -> pb::ControlJobsRequest {
    let filter = Some(pb::JobFilter { search: search.to_owned(), ..Default::default() });
    pb::ControlJobsRequest { filter, action: action.into(), ..Default::default() }
}

async fn control(server: &Server, request: pb::ControlJobsRequest) -> Vec<pb::ControlJobsResponse> {
    let mut stream = server.jobs().control_jobs(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        all.push(message);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_is_done_to_all_jobs_that_match() {
    use pb::JobAction as A;
    let server = Server::start().await;
    let mut ids = Vec::new();
    for number in 0..150 {
        ids.push(server.submit(spec(&format!("nightly {number}"), "red")).await);
    }
    let other = server.submit(spec("other", "blue")).await;
    let done = control(&server, pb::ControlJobsRequest { validate_only: true, ..order(A::Pause, "NIGHTLY") }).await;
    assert_eq!(done, [pb::ControlJobsResponse { matched: 150, ..Default::default() }]);
    assert_eq!(server.job(&ids[0]).await.state(), pb::JobState::Pending, "nothing was done");
    let done = control(&server, order(A::Pause, "nightly")).await;
    assert_eq!(done[0], pb::ControlJobsResponse { matched: 150, ..Default::default() }, "the number comes first");
    let last = done.last().unwrap();
    assert_eq!((last.matched, last.done, last.failed_count), (150, 150, 0));
    for id in &ids {
        assert_eq!(server.job(id).await.state(), pb::JobState::Paused);
    }
    assert_eq!(server.job(&other).await.state(), pb::JobState::Pending);
    let again = control(&server, order(A::Pause, "nightly")).await;
    assert_eq!(again, [pb::ControlJobsResponse::default()], "no job is left that can be paused");
    let two = pb::JobFilter {
        job_ids: vec![ids[3].clone(), ids[7].clone(), other.clone(), uuid::Uuid::nil().to_string()],
        labels: HashMap::from([("team".to_owned(), "red".to_owned())]),
        ..Default::default()
    };
    let resume = pb::ControlJobsRequest { filter: Some(two), ..order(A::Resume, "") };
    assert_eq!(control(&server, resume).await[0].matched, 2);
    let cancel = pb::ControlJobsRequest { reason: "enough".into(), ..order(A::Cancel, "nightly") };
    let last = control(&server, cancel).await.pop().unwrap();
    assert_eq!((last.matched, last.done), (150, 150));
    let ended = server.job(&ids[9]).await;
    assert_eq!(ended.state(), pb::JobState::Cancelled);
    assert!(ended.failure.unwrap().message.contains("enough"));
    // By HTTP a document a line.
    let body =
        json!({"filter": {"states": ["JOB_STATE_CANCELLED"], "search": "nightly 1"}, "action": "JOB_ACTION_DELETE"});
    let deleted = curl(&server, &["--json", &body.to_string()], "/v1/jobs:control");
    assert_eq!((deleted.code, deleted.header("content-type")), (200, Some("application/x-ndjson")));
    let lines = deleted.lines();
    assert_eq!((&lines[0]["matched"], &lines[0]["done"]), (&json!(61), &json!(0)));
    assert_eq!(lines.last().unwrap()["done"], json!(61));
    let gone = pb::GetJobRequest { job_id: ids[1].clone(), ..Default::default() };
    assert_eq!(server.jobs().get_job(gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.job(&ids[2]).await.state(), pb::JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_not_which_jobs_or_not_what_is_refused() {
    use pb::JobAction as A;
    let server = Server::start().await;
    let id = server.submit(spec("a", "red")).await;
    let refused = async |request| named(&server.jobs().control_jobs(request).await.unwrap_err());
    let none = pb::ControlJobsRequest { filter: None, ..order(A::Cancel, "") };
    assert_eq!(refused(none).await, (Code::InvalidArgument, vec!["filter".to_owned()]));
    assert_eq!(refused(order(A::Cancel, "")).await.1, ["filter"], "all jobs are named by all states");
    assert_eq!(refused(pb::ControlJobsRequest { action: 0, ..order(A::Cancel, "a") }).await.1, ["action"]);
    let odd = pb::ControlJobsRequest { reason: "why".into(), delete_files: true, ..order(A::Pause, "a") };
    assert_eq!(refused(odd).await.1, ["reason", "delete_files"]);
    let many = pb::JobFilter { job_ids: vec![id.clone(); 10_001], ..Default::default() };
    let many = pb::ControlJobsRequest { filter: Some(many), ..order(A::Pause, "") };
    assert_eq!(refused(many).await.1, ["filter.job_ids"]);
    let odd = pb::JobFilter {
        job_ids: vec!["nightly".into()],
        states: vec![99],
        search: "x".repeat(129),
        ..Default::default()
    };
    let odd = pb::ControlJobsRequest { filter: Some(odd), ..order(A::Pause, "") };
    assert_eq!(refused(odd).await.1, ["filter.states[0]", "filter.job_ids[0]", "filter.search"]);
    // States that the action cannot act on leave none, and all states mean all.
    let ended = pb::JobFilter { states: vec![pb::JobState::Failed.into()], ..Default::default() };
    let none = control(&server, pb::ControlJobsRequest { filter: Some(ended), ..order(A::Pause, "") }).await;
    assert_eq!(none, [pb::ControlJobsResponse::default()]);
    let all = pb::JobFilter { states: (1..=7).collect(), ..Default::default() };
    let all = control(&server, pb::ControlJobsRequest { filter: Some(all), ..order(A::Cancel, "") }).await;
    assert_eq!(all.last().unwrap().done, 1);
    assert_eq!(server.job(&id).await.state(), pb::JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_many_jobs_reaches_as_far_as_its_caller() {
    use pb::JobAction as A;
    let server = Server::start().await;
    let operator = operator(&server);
    let (ci, reader) = (
        token(&server, &operator, &["ci", "--grant", "submit"]),
        token(&server, &operator, &["eve", "--grant", "submit", "--grant", "read"]),
    );
    let submit = async |token: &str, title: &str| {
        let request = pb::SubmitJobRequest { job: Some(spec(title, "red")), ..Default::default() };
        jobs(&server, token).submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
    };
    let own = submit(&ci, "mine").await;
    let foreign = submit(&reader, "mine too").await;
    let last = async |token: &str| {
        let mut stream = jobs(&server, token).control_jobs(order(A::Pause, "mine")).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.unwrap() {
            last = Some(message);
        }
        last.unwrap()
    };
    let done = last(&ci).await;
    assert_eq!((done.matched, done.done), (1, 1), "jobs of others do not match for who does not see them");
    let done = last(&reader).await;
    assert_eq!((done.matched, done.done), (1, 1), "{done:?}: what is paused does not match");
    let resume = order(A::Resume, "mine");
    let mut stream = jobs(&server, &reader).control_jobs(resume).await.unwrap().into_inner();
    let mut failed = Vec::new();
    let mut last = None;
    while let Some(message) = stream.message().await.unwrap() {
        failed.extend(message.failed.clone());
        last = Some(message);
    }
    let last = last.unwrap();
    assert_eq!((last.matched, last.done, last.failed_count), (2, 1, 1));
    assert_eq!((failed[0].job_id.as_str(), failed[0].reason.as_str()), (own.as_str(), "MISSING_ROLE"));
    let audit = pb::ListAuditEventsRequest { subject: format!("jobs/{foreign}"), ..Default::default() };
    let rows = crate::it::access::access(&server, &token(&server, &operator, &["look", "--grant", "auditor"]))
        .list_audit_events(audit)
        .await
        .unwrap()
        .into_inner()
        .events;
    let methods: Vec<_> = rows.iter().map(|row| row.method.rsplit('/').next().unwrap()).collect();
    assert_eq!(methods, ["ResumeJob", "PauseJob", "SubmitJob"], "what became of each job is audited");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_to_some_is_audited_and_what_changed_nothing_is_not() {
    let (server, origin) = (Server::start().await, Origin::start());
    let operator = operator(&server);
    let worker = token(&server, &operator, &["ci", "--grant", "submit"]);
    origin.reply("/busy", Reply::status(503).header("retry-after", "3000"));
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/busy"))])), ..Default::default() };
    let job_id = jobs(&server, &worker).submit_job(request).await.unwrap().into_inner().job.unwrap().job_id;
    let mut client = jobs(&server, &worker);
    let get = || pb::GetJobRequest { job_id: job_id.clone(), ..Default::default() };
    until(async || {
        let job = jobs(&server, &worker).get_job(get()).await.unwrap().into_inner().job.unwrap();
        job.counts.unwrap().backing_off == 1
    })
    .await;
    let host = origin.address().to_string();
    let mut admin = pb::admin_service_client::AdminServiceClient::new(crate::it::access::sending(&server, &operator));
    for _ in 0..2 {
        admin.resume_host(pb::ResumeHostRequest { host: host.clone() }).await.unwrap();
    }
    let pause = pb::PauseJobRequest { job_id: job_id.clone() };
    client.pause_job(pause).await.unwrap();
    let now = |index| pb::RetryNowRequest { job_id: job_id.clone(), task_indexes: vec![index], filter: None };
    let cancel = |index| pb::CancelTasksRequest {
        job_id: job_id.clone(),
        task_indexes: vec![index],
        reason: "private".into(),
        ..Default::default()
    };
    client.retry_now(now(7)).await.unwrap();
    client.retry_now(now(0)).await.unwrap();
    client.cancel_tasks(cancel(7)).await.unwrap();
    client.cancel_tasks(cancel(0)).await.unwrap();
    client.wait_job(pb::WaitJobRequest { job_id: job_id.clone(), timeout: None }).await.unwrap();
    for search in ["no such job", &job_id] {
        let request = order(pb::JobAction::Delete, search);
        let mut stream = client.control_jobs(request).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
    }
    let auditor = token(&server, &operator, &["look", "--grant", "auditor"]);
    let all = pb::ListAuditEventsRequest { after_sequence: Some(0), page_size: 1_000, ..Default::default() };
    let rows = crate::it::access::access(&server, &auditor).list_audit_events(all).await.unwrap().into_inner().events;
    let new = ["ResumeHost", "PauseJob", "RetryNow", "CancelTasks", "ControlJobs", "DeleteJob"];
    let told: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.method.rsplit('/').next().unwrap(), row.subject.as_str()))
        .filter(|(method, _)| new.contains(method))
        .collect();
    let (the_host, the_job) = (format!("hosts/{host}"), format!("jobs/{job_id}"));
    let expected = [
        ("ResumeHost", the_host.as_str()),
        ("PauseJob", &the_job),
        ("RetryNow", &the_job),
        ("CancelTasks", &the_job),
        ("ControlJobs", "jobs"),
        ("DeleteJob", &the_job),
    ];
    assert_eq!(told, expected);
    assert!(!format!("{rows:?}").contains("private"));
}

async fn next(stream: &mut tonic::Streaming<pb::WatchJobsResponse>) -> Event {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    message.expect("nothing is told").unwrap().unwrap().event.unwrap()
}

/// What is listed before `synced`, and how many were left out.
async fn list(stream: &mut tonic::Streaming<pb::WatchJobsResponse>) -> (Vec<String>, u32) {
    let mut listed = Vec::new();
    loop {
        match next(stream).await {
            Event::Job(job) => listed.push(job.job_id),
            Event::Synced(synced) => return (listed, synced.more),
            Event::Totals(_) => {}
            other @ Event::DeletedJobId(_) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_lists_what_it_is_asked_for() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(server.submit(spec(&number.to_string(), "red")).await);
    }
    let cancel = |id: &str| pb::CancelJobRequest { job_id: id.to_owned(), reason: String::new() };
    server.jobs().cancel_job(cancel(&ids[1])).await.unwrap();
    let watch = async |request: pb::WatchJobsRequest| {
        let request = pb::WatchJobsRequest { progress_interval: Some(millis(50)), ..request };
        server.jobs().watch_jobs(request).await.unwrap().into_inner()
    };
    let any = pb::WatchJobsRequest::default;
    // Named ones alone, ended ones too.
    let names = vec![ids[1].clone(), ids[4].clone(), uuid::Uuid::nil().to_string()];
    let mut named_stream = watch(pb::WatchJobsRequest { job_ids: names, ..any() }).await;
    assert_eq!(list(&mut named_stream).await, (vec![ids[4].clone(), ids[1].clone()], 0));
    let mut newest = watch(pb::WatchJobsRequest { max_jobs: Some(2), ..any() }).await;
    assert_eq!(list(&mut newest).await, (vec![ids[5].clone(), ids[4].clone()], 3));
    let paused = vec![pb::JobState::Paused.into(), pb::JobState::Cancelled.into()];
    let mut by_state = watch(pb::WatchJobsRequest { states: paused, ..any() }).await;
    assert_eq!(list(&mut by_state).await, (vec![], 0), "ended ones are not listed unless they are asked for");
    // Nothing is told of what was left out; new ones are told of, and so is what changes.
    for id in [&ids[0], &ids[4]] {
        server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    }
    let Event::Job(told) = next(&mut newest).await else { panic!("no job") };
    assert_eq!(told.job_id, ids[4]);
    let Event::Job(told) = next(&mut named_stream).await else { panic!("no job") };
    assert_eq!((told.job_id.as_str(), told.state()), (ids[4].as_str(), pb::JobState::Paused));
    let mut entered = Vec::new();
    for _ in 0..2 {
        let Event::Job(told) = next(&mut by_state).await else { panic!("no job") };
        entered.push(told.job_id);
    }
    entered.sort();
    assert_eq!(entered, [ids[0].clone(), ids[4].clone()]);
    let new = server.submit(spec("new", "red")).await;
    let Event::Job(told) = next(&mut newest).await else { panic!("no job") };
    assert_eq!(told.job_id, new);
    // It leaves the states: once more, and then no longer.
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: ids[4].clone() }).await.unwrap();
    let Event::Job(told) = next(&mut by_state).await else { panic!("no job") };
    assert_eq!((told.job_id.as_str(), told.state()), (ids[4].as_str(), pb::JobState::Pending));
    // Gone.
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: ids[1].clone(), delete_files: false }).await.unwrap();
    let gone = async { while next(&mut named_stream).await != Event::DeletedJobId(ids[1].clone()) {} };
    gone.await;
    let wrong = pb::WatchJobsRequest { job_ids: vec![ids[0].clone(); 1_001], states: vec![88], ..any() };
    let wrong = server.jobs().watch_jobs(wrong).await.unwrap_err();
    assert_eq!(named(&wrong).1, ["job_ids", "states[0]"]);
    let retention = pb::JobSpec { retention: Some(millis(100)), ..spec("short", "red") };
    let short = server.submit(retention).await;
    server.jobs().cancel_job(cancel(&short)).await.unwrap();
    while next(&mut newest).await != Event::DeletedJobId(short.clone()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_the_server_are_watched() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    let hang = |team: &str| pb::JobSpec {
        open: false,
        ..pb::JobSpec { tasks: vec![fetch(origin.url("/hang"))], ..spec("t", team) }
    };
    let first = server.submit(hang("blue")).await;
    until(async || server.job(&first).await.counts.unwrap().running == 1).await;
    let request = pb::WatchJobsRequest {
        labels: HashMap::from([("team".to_owned(), "red".to_owned())]),
        max_jobs: Some(0),
        totals: true,
        progress_interval: Some(millis(50)),
        ..Default::default()
    };
    let mut stream = server.jobs().watch_jobs(request).await.unwrap().into_inner();
    let Event::Totals(totals) = next(&mut stream).await else { panic!("the numbers come first") };
    let running = pb::JobStateCount { state: pb::JobState::Running.into(), count: 1 };
    assert_eq!((totals.jobs, totals.jobs_created, totals.draining), (vec![running], 0, false), "over all jobs");
    assert_eq!(totals.tasks.unwrap().running, 1);
    assert_eq!(next(&mut stream).await, Event::Synced(pb::Synced { more: 0 }));
    server.submit(hang("blue")).await;
    server.submit(hang("red")).await;
    loop {
        let Event::Totals(totals) = next(&mut stream).await else { panic!("nothing else is told") };
        if totals.tasks.unwrap().running == 3 {
            assert_eq!(totals.jobs_created, 1, "those with the label");
            break;
        }
    }
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(700), stream.message()).await;
    assert!(quiet.is_err(), "nothing changes: {quiet:?}");
    let by_http = curl(&server, &["--max-time", "2"], "/v1/server").json();
    assert_eq!(by_http["counts"]["running"], 3);
    assert!(server.terminate().success());
}
