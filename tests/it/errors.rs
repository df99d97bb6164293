//! Errors of calls: each reason with its code and details, small enough for every client.

use std::os::unix::fs::FileExt as _;

use haul::pb;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::it::wire::{call, call_web};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until, until_now};
use crate::support::spec::{download, fetch, fetch_as, group, job, once};

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "haul.v1");
    assert!(!status.message().is_empty(), "{info:?}");
    info.reason
}

#[track_caller]
fn assert_precondition<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &str) -> String {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, expected), "{status:?}");
    let violations = status.get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations[0].r#type, expected);
    assert!(!violations[0].subject.is_empty() && !violations[0].description.is_empty());
    violations[0].subject.clone()
}

async fn read(server: &Server, job_id: &str, index: u32, offset: u64) -> Result<(), Status> {
    let task = Some(pb::read_content_request::Task::TaskIndex(index));
    let request = pb::ReadContentRequest { job_id: job_id.to_owned(), task, offset, length: 0 };
    let mut stream = server.contents().read_content(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

async fn items(server: &Server, job_id: &str, index: u32) -> (usize, Result<(), Status>) {
    let task = Some(pb::stream_items_request::Task::TaskIndex(index));
    let request = pb::StreamItemsRequest { job_id: job_id.to_owned(), task, after_item: None };
    let mut stream = match server.contents().stream_items(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (0, Err(status)),
    };
    let mut count = 0;
    loop {
        match stream.message().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, Ok(())),
            Err(status) => return (count, Err(status)),
        }
    }
}

fn listing(url: String) -> pb::TaskSpec {
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    pb::TaskSpec { options: Some(once()), ..fetch_as(pb::FetchSpec { url, pagination, ..Default::default() }) }
}

#[tokio::test]
async fn what_the_state_forbids_says_so_with_its_reason() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    origin.reply("/gone", Reply::status(404));
    origin.reply("/hang", Reply::hang());
    let tasks = vec![fetch(origin.url("/a")), fetch(origin.url("/gone")), download(origin.url("/a"))];
    let spec = pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..job(tasks) };
    let ended = server.run(spec).await.job_id;
    let running = server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    until_now(|| server.log().lines().any(|line| line.contains(&ended) && line.contains("state=SUCCEEDED")));

    let request = pb::PauseJobRequest { job_id: ended.clone() };
    assert_eq!(assert_precondition(server.jobs().pause_job(request).await, "WRONG_STATE"), ended);
    let request = pb::ResumeJobRequest { job_id: ended.clone() };
    assert_precondition(server.jobs().resume_job(request).await, "WRONG_STATE");
    let request = pb::DeleteJobRequest { job_id: running.clone(), delete_files: false };
    assert_eq!(assert_precondition(server.jobs().delete_job(request).await, "WRONG_STATE"), running);
    let request = pb::RetryJobRequest { job_id: running.clone(), task_indexes: Vec::new(), filter: None };
    assert_precondition(server.jobs().retry_job(request).await, "WRONG_STATE");
    let request = pb::RetryJobRequest { job_id: ended.clone(), task_indexes: vec![0], filter: None };
    let subject = assert_precondition(server.jobs().retry_job(request).await, "TASK_NOT_RETRYABLE");
    assert_eq!(subject, format!("{ended}/0"));
    let chunk = pb::AddTasksRequest { job_id: running.clone(), chunk_id: "a".into(), tasks: vec![fetch("http://a/")] };
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
    assert_precondition(answers.message().await, "JOB_SEALED");
    assert_precondition(read(&server, &ended, 1, 0).await, "NO_CONTENT");
    assert_precondition(read(&server, &running, 0, 0).await, "NO_CONTENT");
    assert_precondition(items(&server, &ended, 0).await.1, "NOT_PAGINATED");
    let [file] = server.files().try_into().unwrap();
    std::fs::remove_file(server.downloads().join(file)).unwrap();
    assert_precondition(read(&server, &ended, 2, 0).await, "CONTENT_GONE");
}

/// No answer is a mixture of what a download left and of what somebody makes of its file meanwhile.
#[tokio::test]
async fn a_file_that_is_changed_while_it_is_read_ends_the_reading() {
    const SIZE: u64 = 24 << 20;
    type Change = fn(&std::fs::File);
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok(vec![b'a'; SIZE as usize]));
    let changes: [Change; 2] =
        [|file| file.write_all_at(&[b'c'; 100], SIZE - 100).unwrap(), |file| file.set_len(SIZE / 2).unwrap()];
    for change in changes {
        let ended = server.run(job(vec![download(origin.url("/a"))])).await;
        let task = server.task(&ended.job_id, 0).await;
        let Some(pb::task::Result::DownloadResult(result)) = task.result else { panic!("{task:?}") };
        let task = Some(pb::read_content_request::Task::TaskIndex(0));
        let request = pb::ReadContentRequest { job_id: ended.job_id.clone(), task, offset: 0, length: 0 };
        let mut stream = server.contents().read_content(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert!(first.data.iter().all(|byte| *byte == b'a'));
        let path = server.downloads().join(&result.path);
        change(&std::fs::OpenOptions::new().write(true).open(path).unwrap());
        let rest = async {
            while let Some(chunk) = stream.message().await? {
                assert!(chunk.data.iter().all(|byte| *byte == b'a'));
            }
            Ok::<_, Status>(())
        };
        assert_precondition(rest.await, "CONTENT_GONE");
    }
}

#[tokio::test]
async fn what_is_not_there_or_beyond_the_end_says_so() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let ended = server.run(job(vec![fetch(origin.url("/a"))])).await;
    let id = ended.job_id;
    let nowhere = "01890a5d-ac96-774b-bcce-b302099a8057";
    let request = pb::SealJobRequest { job_id: nowhere.into() };
    let status = server.jobs().seal_job(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("haul.v1.Job", nowhere));

    let task = Some(pb::get_task_request::Task::TaskKey("k".repeat(4_000)));
    let request = pb::GetTaskRequest { job_id: id.clone(), task, ..Default::default() };
    let status = server.jobs().get_task(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TASK_NOT_FOUND"));
    let resource = status.get_details_resource_info().unwrap();
    assert!(resource.resource_type == "haul.v1.Task" && resource.resource_name.len() <= 128, "{resource:?}");
    let request = pb::RetryJobRequest { job_id: id.clone(), task_indexes: vec![7], filter: None };
    let status = server.jobs().retry_job(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TASK_NOT_FOUND"));

    let status = read(&server, &id, 0, 2).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "OFFSET_BEYOND_END"));
    let request = pb::WatchJobRequest { job_id: id, after_sequence: Some(999), ..Default::default() };
    let status = server.jobs().watch_job(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "SEQUENCE_AHEAD"));
}

#[tokio::test]
async fn ids_that_are_taken_and_keys_that_are_too() {
    let (server, origin) = (Server::start().await, Origin::start());
    // A job that failed would take no more tasks.
    origin.reply("/*", Reply::hang());
    let spec = || pb::JobSpec { open: true, ..job(vec![pb::TaskSpec { key: "k".into(), ..fetch(origin.url("/")) }]) };
    let request = |title: &str| pb::SubmitJobRequest {
        request_id: "r".into(),
        job: Some(pb::JobSpec { title: title.into(), ..spec() }),
        validate_only: false,
    };
    let job_id = server.jobs().submit_job(request("a")).await.unwrap().into_inner().job.unwrap().job_id;
    let status = server.jobs().submit_job(request("b")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "REQUEST_ID_TAKEN"));

    let chunk = |tasks| pb::AddTasksRequest { job_id: job_id.clone(), chunk_id: "c".into(), tasks };
    let chunks = [chunk(vec![fetch(origin.url("/"))]), chunk(vec![fetch(origin.url("/b"))])];
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().task_count, 1);
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "CHUNK_ID_TAKEN"));

    let taken = pb::AddTasksRequest {
        chunk_id: "d".into(),
        ..chunk(vec![fetch(origin.url("/")), pb::TaskSpec { key: "k".into(), ..fetch(origin.url("/")) }])
    };
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter([taken])).await.unwrap().into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "tasks[1].key");
}

/// The items before the failure come, and then the failure, so that nobody takes a part of a listing for all of it.
#[tokio::test]
async fn a_listing_that_failed_or_was_cancelled_ends_with_the_error_of_its_task() {
    let (server, origin) = (Server::start().await, Origin::start());
    let pages = |last: fn() -> Reply| {
        move |request: &crate::support::origin::Request| {
            if request.param("page").unwrap() == "2" { last() } else { Reply::json(format!("[{}, 1, 2]", request.nth)) }
        }
    };
    origin.handle("/fails", pages(|| Reply::status(404)));
    origin.handle("/hangs", pages(Reply::hang));
    let failed = server.run(job(vec![listing(origin.url("/fails"))])).await.job_id;
    let (count, end) = items(&server, &failed, 0).await;
    assert_eq!(count, 6);
    let status = end.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "TASK_FAILED"));
    assert!(status.message().contains("404"), "{status:?}");
    let all: tonic_types::pb::Status = prost::Message::decode(status.details()).unwrap();
    let error = all.details.iter().find(|any| any.type_url.ends_with("haul.v1.TaskError")).unwrap();
    let error: pb::TaskError = prost::Message::decode(&error.value[..]).unwrap();
    assert_eq!((error.reason(), error.http_status), (pb::FailureReason::HttpStatus, 404));
    assert_eq!((error.task_index, error.url), (Some(0), origin.url("/fails")));

    // A follower that was there before the end is told too.
    let id = server.submit(job(vec![listing(origin.url("/hangs"))])).await;
    let follower = items(&server, &id, 0);
    let cancel = async {
        until(async || origin.requests("/hangs").len() >= 3).await;
        let request = pb::CancelJobRequest { job_id: id.clone(), reason: "enough".into() };
        server.jobs().cancel_job(request).await.unwrap();
    };
    let ((count, end), ()) = tokio::join!(follower, cancel);
    assert_eq!(count, 6);
    assert_precondition(end, "TASK_FAILED");
}

#[tokio::test]
async fn what_the_library_refuses_is_complete_too() {
    let server = Server::start().await;
    for method in ["haul.v1.JobService/Nope", "haul.v1.Nope/Nope"] {
        let status = call(&server, method, b"", &[]).await.status();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "UNIMPLEMENTED"));
        assert!(status.message().contains(method), "{status:?}");
    }
    let status = call(&server, "haul.v1.JobService/GetJob", b"\xff\xff\xff", &[]).await.status();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "message");

    // One of another service: health, of a name that it does not know (field 1 is `x`).
    let status = call(&server, "grpc.health.v1.Health/Check", b"\x0a\x01x", &[]).await.status();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "SERVICE_NOT_FOUND"));

    let spec = pb::JobSpec { title: "x".repeat(17 << 20), ..job(Vec::new()) };
    let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert!(status.message().starts_with("the message is longer than 16 MiB"), "{status:?}");
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "message");
    assert!(status.get_details_retry_info().is_none(), "it will never fit");
}

/// Requests with as much that is wrong, and as long, as a client can make them.
fn hostile() -> [(&'static str, Vec<u8>); 7] {
    let long = "ü\u{202e}\n".repeat(1_000);
    let job_id = long.clone();
    let tasks = (0..200).map(|_| pb::TaskSpec { key: long.clone(), ..fetch(long.clone()) }).collect();
    let spec = pb::JobSpec {
        title: long.clone(),
        directory: long.clone(),
        labels: (0..100).map(|at| (format!("{at}{long}"), long.clone())).collect(),
        ..job(tasks)
    };
    let submit = pb::SubmitJobRequest { request_id: long.clone(), job: Some(spec), validate_only: false };
    let task = Some(pb::get_task_request::Task::TaskKey(long.clone()));
    let list = pb::ListJobsRequest { page_token: long.clone(), states: vec![99; 1_000], ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: (0..100).map(|at| format!("{at}{long}")).collect() });
    let update =
        pb::UpdateJobRequest { job_id: job_id.clone(), update_mask: update_mask.clone(), ..Default::default() };
    let limits = pb::UpdateLimitsRequest { limits: None, update_mask };
    [
        ("JobService/SubmitJob", submit.encode_to_vec()),
        ("JobService/GetJob", pb::GetJobRequest { job_id: job_id.clone(), ..Default::default() }.encode_to_vec()),
        ("JobService/GetTask", pb::GetTaskRequest { job_id, task, ..Default::default() }.encode_to_vec()),
        ("JobService/ListJobs", list.encode_to_vec()),
        ("JobService/UpdateJob", update.encode_to_vec()),
        ("AdminService/UpdateLimits", limits.encode_to_vec()),
        ("JobService/CancelJob", pb::CancelJobRequest { job_id: long.clone(), reason: long }.encode_to_vec()),
    ]
}

/// What a client sent is its own mistake, and no failure of the server that somebody is woken for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_base64_is_the_clients_fault() {
    let server = Server::start().await;
    for body in ["!!!!!!!!", "AAAAAAA"] {
        let args = ["--header", "content-type: application/grpc-web-text", "--data-binary", body];
        let answer = crate::it::curl::curl(&server, &args, "/haul.v1.JobService/ListJobs");
        assert_eq!(answer.header("grpc-status"), Some("3"), "{body}: {answer:?}");
    }
}

/// Lists and masks that would take seconds to look at are refused by their length.
#[tokio::test]
async fn lists_and_masks_of_any_length_are_refused_at_once() {
    let server = Server::start().await;
    let job_id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let violation = |status: tonic::Status| status.get_details_bad_request().unwrap().field_violations.remove(0);
    for states in [vec![1; 1_001], vec![127; 150_000], vec![1; 300_000]] {
        let request = pb::ListJobsRequest { states: states.clone(), ..Default::default() };
        let refused = violation(server.jobs().list_jobs(request).await.unwrap_err());
        assert_eq!(refused.field, "states", "{refused:?}");
        let request = pb::ListTasksRequest { job_id: job_id.clone(), reasons: states.clone(), ..Default::default() };
        assert_eq!(violation(server.jobs().list_tasks(request).await.unwrap_err()).field, "reasons");
        let request = pb::ListJobEventsRequest { job_id: job_id.clone(), kinds: states, ..Default::default() };
        assert_eq!(violation(server.jobs().list_job_events(request).await.unwrap_err()).field, "kinds");
    }
    let mask = |count: usize| Some(prost_types::FieldMask { paths: vec!["title".to_owned(); count] });
    let request = |count| pb::UpdateJobRequest {
        job_id: job_id.clone(),
        title: "x".repeat(1_000),
        update_mask: mask(count),
        ..Default::default()
    };
    let refused = violation(server.jobs().update_job(request(101)).await.unwrap_err());
    assert_eq!(refused.field, "update_mask", "{refused:?}");
    let twice = server.jobs().update_job(request(100)).await.unwrap_err();
    let violations = twice.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1, "a field is looked at once: {violations:?}");
    let limits = pb::UpdateLimitsRequest { limits: None, update_mask: mask(101) };
    assert_eq!(violation(server.admin().update_limits(limits).await.unwrap_err()).field, "update_mask");
}

#[tokio::test]
async fn no_input_makes_an_error_that_a_client_cannot_take() {
    let server = Server::start().await;
    for (method, message) in hostile() {
        let method = format!("haul.v1.{method}");
        for answer in [call(&server, &method, &message, &[]).await, call_web(&server, &method, &message, &[]).await] {
            let status = answer.status();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::InvalidArgument, "INVALID_ARGUMENT"),
                "{method}"
            );
            assert!(answer.status_bytes() < 4_096, "{method}: {} bytes", answer.status_bytes());
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert!(!violations.is_empty() && violations.iter().all(|it| !it.description.is_empty()), "{status:?}");
        }
    }
}

/// Neither client has a timer, so it is the server that ends each call; many at once, since the library's own timer is
/// as long.
#[tokio::test]
async fn a_deadline_that_passes_is_told_as_such_on_streams_too() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    let job_id = server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    let wait = pb::WaitJobRequest { job_id: job_id.clone(), timeout: None }.encode_to_vec();
    let watch = pb::WatchJobRequest { job_id: job_id.clone(), ..Default::default() }.encode_to_vec();
    let headers = [("grpc-timeout", "100m")];
    let check = |answer: &crate::it::wire::Answer| {
        let status = answer.status();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{status:?}"
        );
    };
    for _ in 0..4 {
        let calls = (0..50).map(|_| call(&server, "haul.v1.JobService/WaitJob", &wait, &headers));
        futures_util::future::join_all(calls).await.iter().for_each(check);
    }
    check(&call_web(&server, "haul.v1.JobService/WaitJob", &wait, &headers).await);
    for answer in [
        call(&server, "haul.v1.JobService/WatchJob", &watch, &headers).await,
        call_web(&server, "haul.v1.JobService/WatchJob", &watch, &headers).await,
    ] {
        check(&answer);
        let first: pb::WatchJobResponse = answer.message(0);
        assert!(matches!(first.event, Some(pb::watch_job_response::Event::Snapshot(_))), "{first:?}");
    }
    let bad = call(&server, "haul.v1.JobService/WaitJob", &wait, &[("grpc-timeout", "soon")]).await.status();
    assert_eq!(bad.get_details_bad_request().unwrap().field_violations[0].field, "grpc-timeout");
    assert_eq!(server.job(&job_id).await.state(), pb::JobState::Running, "the job goes on");
}
