//! A data directory on a disk that is full: nothing is added, and what there is can be ended and removed.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use haul::pb;
use haul::pb::JobState;

use crate::it::curl::curl;
use crate::it::store_errors::assert_unavailable;
use crate::support::disk::SmallDisk;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul, until};
use crate::support::spec::{fetch, fetch_as, job};

/// Takes all the room that there is.
fn fill(path: &std::path::Path) {
    let mut rest = fs::File::create(path).unwrap();
    while rest.write_all(&[0; 4096]).is_ok() {}
    rest.sync_all().unwrap();
}

/// One submission that there is no room for is refused, and keeps nobody from ending work.
#[tokio::test]
async fn a_large_job_on_a_full_disk_is_refused_and_others_are_cancelled() {
    let place = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir_in(place.path()).unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path(), "64m") else { return };
    let root = dir.path().to_owned();
    let (server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    origin.reply("/stall", Reply::hang());
    let running = server.submit(job(vec![fetch(origin.url("/stall"))])).await;
    until(async || !origin.requests("/stall").is_empty()).await;
    fill(&root.join("rest"));
    // A little is left beside the reserve.
    let rest = fs::File::options().write(true).open(root.join("rest")).unwrap();
    rest.set_len(rest.metadata().unwrap().len() - (4 << 20)).unwrap();
    let body = pb::FetchSpec {
        url: origin.url("/stall"),
        method: "POST".into(),
        body: vec![7; 1 << 20].into(),
        ..Default::default()
    };
    let large = || job((0..10).map(|_| fetch_as(body.clone())).collect());
    for _ in 0..2 {
        let request = pb::SubmitJobRequest { job: Some(large()), ..Default::default() };
        let answer = tokio::time::timeout(Duration::from_secs(30), server.jobs().submit_job(request)).await;
        let refused = answer.expect("the job is neither stored nor refused").unwrap_err();
        assert_unavailable(&refused, "STORE_FULL", "disk is full");
    }
    let cancel = pb::CancelJobRequest { job_id: running.clone(), ..Default::default() };
    let cancelled = server.jobs().cancel_job(cancel).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    // What was done is in the audit, and of what was not there is no row that says so.
    let mut access = pb::access_service_client::AccessServiceClient::new(server.channel.clone());
    let request = pb::ListAuditEventsRequest { after_sequence: Some(0), ..Default::default() };
    let events = access.list_audit_events(request).await.unwrap().into_inner().events;
    let done: Vec<&str> = events.iter().filter(|it| it.code == "OK").map(|it| it.method.as_str()).collect();
    assert_eq!(done, ["haul.v1.JobService/SubmitJob", "haul.v1.JobService/CancelJob"]);
    assert!(events.iter().all(|it| it.code != "OK" || it.subject == format!("jobs/{running}")), "{events:?}");
    let verified = haul(&["audit", "verify", "--data-dir", server.data().to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn jobs_are_cancelled_and_deleted_on_a_full_disk_and_the_server_ends_as_it_should() {
    let place = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir_in(place.path()).unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path(), "48m") else { return };
    let root = dir.path().to_owned();
    let (mut server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    origin.reply("/stall", Reply::hang());
    origin.reply("/a", Reply::ok("a"));
    let tasks = || (0..50).map(|_| fetch(origin.url("/stall"))).collect();
    let (first, second) = (server.submit(job(tasks())).await, server.submit(job(tasks())).await);
    let ended = server.run(job(vec![fetch(origin.url("/a"))])).await;
    until(async || !origin.requests("/stall").is_empty()).await;
    fill(&root.join("rest"));
    // The next change finds that out.
    let mut submitted = 0;
    let full = loop {
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/a"))])), ..Default::default() };
        match tokio::time::timeout(Duration::from_secs(30), server.jobs().submit_job(request)).await {
            Ok(Ok(_)) => submitted += 1,
            Ok(Err(status)) => break status,
            Err(late) => panic!("a job is neither stored nor refused: {late}"),
        }
        assert!(submitted < 20_000, "the disk is not full");
    };
    assert_unavailable(&full, "STORE_FULL", "disk is full");
    let by_http = curl(&server, &["--json", r#"{"tasks": [{"fetch": {"url": "http://a.example/"}}]}"#], "/v1/jobs");
    assert_eq!((by_http.code, by_http.fault().0.as_str()), (503, "STORE_FULL"), "{by_http:?}");

    let cancel = pb::CancelJobRequest { job_id: first.clone(), ..Default::default() };
    let cancelled = server.jobs().cancel_job(cancel).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    for job_id in [first, ended.job_id] {
        server.jobs().delete_job(pb::DeleteJobRequest { job_id, ..Default::default() }).await.unwrap();
    }
    assert!(server.terminate().success(), "{}", server.log());

    // It starts again on the full disk, with what was acknowledged.
    server.launch().await;
    assert_eq!(server.job(&second).await.counts.unwrap().total, 50);
    let cancel = pb::CancelJobRequest { job_id: second.clone(), ..Default::default() };
    server.jobs().cancel_job(cancel).await.unwrap();
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: second, ..Default::default() }).await.unwrap();
    fs::remove_file(root.join("rest")).unwrap();
    // There is room again.
    until(async || {
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/a"))])), ..Default::default() };
        server.jobs().submit_job(request).await.is_ok()
    })
    .await;
    assert!(server.terminate().success(), "{}", server.log());
}
