//! Bad input: everything that is wrong, at once, and nothing stored.

use haul::pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::server::Server;
use crate::support::spec::{download_as, fetch, fetch_as, job, millis};

async fn violations(server: &Server, spec: pb::JobSpec) -> Vec<String> {
    let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().domain, "haul.v1");
    let request = status.get_details_bad_request().unwrap();
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn every_violation_is_told_at_once_with_its_path() {
    let server = Server::start().await;
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let retry = pb::RetryPolicy {
        max_attempts: Some(0),
        backoff_multiplier: Some(1e9),
        jitter: Some(1.5),
        initial_backoff: Some(negative),
        ..Default::default()
    };
    let mut spec = job(vec![
        fetch("ftp://example.com/a"),
        fetch(""),
        download_as(pb::DownloadSpec { url: "http://a/".into(), path: "../etc/passwd".into(), ..Default::default() }),
        pb::TaskSpec { key: "k".into(), ..fetch("http://a/") },
        pb::TaskSpec { key: "k".into(), ..fetch("http://a/") },
        download_as(pb::DownloadSpec {
            url: "http://a/".into(),
            checksums: vec!["sha256:xyz".into()],
            ..Default::default()
        }),
        pb::TaskSpec::default(),
        fetch_as(pb::FetchSpec { url: "http://a/".into(), max_response_bytes: Some(0), ..Default::default() }),
    ]);
    spec.timeout = Some(negative);
    spec.directory = "/abs".into();
    spec.defaults = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
    let fields = violations(&server, spec).await;
    insta::assert_debug_snapshot!(fields, @r#"
    [
        "job.directory",
        "job.defaults.retry.max_attempts",
        "job.defaults.retry.backoff_multiplier",
        "job.defaults.retry.jitter",
        "job.defaults.retry.initial_backoff",
        "job.timeout",
        "job.tasks[0].fetch.url",
        "job.tasks[1].fetch.url",
        "job.tasks[2].download.path",
        "job.tasks[4].key",
        "job.tasks[5].download.checksums[0]",
        "job.tasks[6]",
        "job.tasks[7].fetch.max_response_bytes",
    ]
    "#);
    let listed = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner();
    assert!(listed.jobs.is_empty());
}

#[tokio::test]
async fn a_call_has_its_limits() {
    let server = Server::start().await;
    let many = (0..10_001).map(|_| fetch("http://a/")).collect();
    assert_eq!(violations(&server, job(many)).await, ["job.tasks"]);
    assert_eq!(violations(&server, job(Vec::new())).await, ["job.tasks"]);
    let huge = (0..2_000).map(|_| {
        fetch_as(pb::FetchSpec { url: "http://a/".into(), body: vec![0; 10_000].into(), ..Default::default() })
    });
    let request = pb::SubmitJobRequest { job: Some(job(huge.collect())), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_error_info().is_some());
}

#[tokio::test]
async fn validate_only_stores_nothing_and_does_not_use_up_the_id() {
    let server = Server::start().await;
    let spec = pb::JobSpec { title: "dry".into(), ..job(vec![fetch("http://127.0.0.1:9/")]) };
    let request = pb::SubmitJobRequest { request_id: "r".into(), job: Some(spec), validate_only: true };
    let dry = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!((dry.title.as_str(), dry.job_id.as_str()), ("dry", ""));
    assert!(server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs.is_empty());
    let other = pb::JobSpec { timeout: Some(millis(100)), ..job(vec![fetch("http://127.0.0.1:9/")]) };
    let request = pb::SubmitJobRequest { request_id: "r".into(), job: Some(other), validate_only: false };
    assert!(server.jobs().submit_job(request).await.is_ok());
}

#[tokio::test]
async fn lists_and_names_are_checked_too() {
    let server = Server::start().await;
    let status = server.jobs().get_job(pb::GetJobRequest { job_id: "nonsense".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = pb::ListJobsRequest { page_size: -1, page_token: "bm9uc2Vuc2U".into(), ..Default::default() };
    let status = server.jobs().list_jobs(request).await.unwrap_err();
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), ["page_size", "page_token"]);
    let request = pb::GetTaskRequest { job_id: "x".into(), ..Default::default() };
    assert_eq!(server.jobs().get_task(request).await.unwrap_err().code(), Code::InvalidArgument);
}
