//! Downloads through a server: right bytes, no leftovers, resumed over kills.

use std::time::Duration;

use haul::pb;
use haul::pb::{FailureReason, GroupMode, JobState, TaskState, WaitReason};
use sha2::{Digest as _, Sha256};

use crate::support::disk::SmallDisk;
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{download, download_as, fetch, group, job, once, quick_retry};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn result(task: &pb::Task) -> pb::DownloadResult {
    match &task.result {
        Some(pb::task::Result::DownloadResult(result)) => result.clone(),
        other => panic!("{other:?} of {task:?}"),
    }
}

#[tokio::test]
async fn a_download_lands_complete_under_its_name() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, 300_000);
    origin.object("/files/data.bin", object.clone());
    let spec = pb::DownloadSpec {
        url: origin.url("/files/data.bin"),
        checksums: vec![sha256(&object.bytes())],
        digests: vec!["crc32c".into()],
        ..Default::default()
    };
    let ended = server.run(job(vec![download_as(spec)])).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    let task = server.task(&ended.job_id, 0).await;
    let result = result(&task);
    assert_eq!(result.path, format!("{}/data.bin", ended.job_id));
    assert_eq!((result.bytes, result.checksums.len()), (300_000, 2));
    assert_eq!(server.files(), std::slice::from_ref(&result.path));
    assert_eq!(std::fs::read(server.downloads().join(&result.path)).unwrap(), object.bytes());
    assert_eq!(ended.progress.unwrap().bytes_done, 300_000);

    let mut chunks = server
        .contents()
        .read_content(pb::ReadContentRequest {
            job_id: ended.job_id.clone(),
            task: Some(pb::read_content_request::Task::TaskIndex(0)),
            offset: 1000,
            length: 290_000,
        })
        .await
        .unwrap()
        .into_inner();
    let mut read = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert_eq!((chunk.offset, chunk.total_bytes), (1000 + read.len() as u64, 300_000));
        read.extend_from_slice(&chunk.data);
    }
    assert_eq!(read, object.slice(1000..291_000));
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.object("/f", Object::new(1, 50_000));
    let spec = pb::DownloadSpec {
        url: origin.url("/f"),
        checksums: vec![format!("sha256:{}", "0".repeat(64))],
        ..Default::default()
    };
    let ended = server.run(pb::JobSpec { defaults: Some(once()), ..job(vec![download_as(spec)]) }).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::ChecksumMismatch);
    assert!(server.files().is_empty(), "{:?}", server.files());
}

#[tokio::test]
async fn a_kill_in_the_middle_resumes_where_it_was_durable() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(3, 6_000_000);
    let served = object.clone();
    origin.handle("/f", move |request| match request.nth {
        0 => served.respond(request).bytes_per_second(2_000_000),
        _ => served.respond(request),
    });
    let spec = pb::DownloadSpec { url: origin.url("/f"), max_connections: 1, ..Default::default() };
    let id = server.submit(job(vec![download_as(spec)])).await;
    // A checkpoint follows within a second of bytes.
    until(async || origin.body_bytes() >= 3_500_000).await;
    server.restart().await;
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    let task = server.task(&id, 0).await;
    let result = result(&task);
    assert!(result.resumed_bytes > 0, "{task:#?}");
    assert_eq!(task.attempts, 1);
    let last = task.attempt_log.last().unwrap();
    assert_eq!(last.resume_kind(), haul::pb::AttemptResume::Continued);
    assert_eq!(last.resume, format!("continued at {}", last.resumed_from));
    assert!(origin.requests("/f")[1].header("range").is_some());
    assert_eq!(std::fs::read(server.downloads().join(result.path)).unwrap(), object.bytes());
    assert_eq!(server.files().len(), 1);
}

#[tokio::test]
async fn a_task_waits_for_room_on_the_disk_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let downloads = dir.path().join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    let Some(_disk) = SmallDisk::mount(&downloads, "8m") else { return };
    let (server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    let ballast = downloads.join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let (big, small) = (Object::new(1, 6 << 20), Object::new(2, 1 << 20));
    origin.object("/big", big.clone());
    origin.object("/small", small);
    let id = server.submit(job(vec![download(origin.url("/big")), download(origin.url("/small"))])).await;
    let waits = |task: &pb::Task| task.waiting.as_ref().is_some_and(|it| it.reason() == WaitReason::DiskSpace);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // The task that was seen to wait is the one that is judged: from time to time it runs, to look for room.
    let waiting = loop {
        let task = server.task(&id, 0).await;
        if waits(&task) {
            break task;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((waiting.state(), waiting.attempts), (TaskState::Pending, 0), "no attempt is burnt: {waiting:?}");
    // What fits is not held by what does not.
    until(async || server.task(&id, 1).await.state() == TaskState::Succeeded).await;
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let path = server.downloads().join(result(&server.task(&id, 0).await).path);
    assert_eq!(std::fs::read(path).unwrap(), big.bytes());
}

#[tokio::test]
async fn a_dead_first_source_does_not_hold_tasks_that_have_mirrors() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, 1000);
    origin.handle("/m", move |request| object.respond(request).delay(Duration::from_millis(20)));
    let dead = Origin::start();
    let gone = dead.url("/f");
    drop(dead);
    let task = |nth| {
        let (path, mirrors) = (format!("f{nth}"), vec![origin.url("/m")]);
        download_as(pb::DownloadSpec { url: gone.clone(), mirrors, path, ..Default::default() })
    };
    let options = pb::TaskOptions { retry: Some(quick_retry(1)), ..Default::default() };
    let spec = pb::JobSpec { defaults: Some(options), ..job((0..200).map(task).collect()) };
    let ended = server.run(spec).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert_eq!(server.files().len(), 200);
    // Once the breaker is open they go to the mirror at once, and not one by one as probes of the dead host.
    let asked = origin.requests("/m");
    assert!(asked.len() == 200 && origin.peak() > 1, "{} {}", asked.len(), origin.peak());
    let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert!(hosts.iter().any(|host| host.recent_error.contains("refused")), "{hosts:?}");
}

#[tokio::test]
async fn no_part_file_is_left_of_a_job_that_has_ended_and_a_retry_goes_on_from_it() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(4, 4_000_000);
    let served = object.clone();
    origin.handle("/slow", move |request| match request.nth {
        0 => served.respond(request).bytes_per_second(1_500_000),
        _ => served.respond(request),
    });
    let mut spec = job(vec![download(origin.url("/slow"))]);
    spec.group = Some(group(GroupMode::Collect, 0));
    let id = server.submit(spec).await;
    until(async || origin.body_bytes() >= 2_500_000).await;
    let request = pb::CancelJobRequest { job_id: id.clone(), reason: String::new() };
    let cancelled = server.jobs().cancel_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    assert!(server.files().is_empty(), "{:?}", server.files());

    let request = pb::RetryJobRequest { job_id: id.clone(), task_indexes: Vec::new(), filter: None };
    let retried = server.jobs().retry_job(request).await.unwrap().into_inner().job.unwrap();
    assert!(retried.failure.is_none());
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let task = server.task(&id, 0).await;
    assert!(result(&task).resumed_bytes > 0, "{task:#?}");
    assert_eq!(std::fs::read(server.downloads().join(result(&task).path)).unwrap(), object.bytes());
    let events = server.events(&id, 0).await;
    assert_eq!(events.iter().map(|it| it.sequence).collect::<Vec<_>>(), (1..=events.len() as u64).collect::<Vec<_>>());
}

/// Also when it ended before anything of its attempt was durable.
#[tokio::test]
async fn nothing_is_left_of_what_failed_within_moments() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, 50_000);
    origin.handle("/cut", move |request| object.respond(request).cut_at(20_000, Cut::Fin));
    for _ in 0..40 {
        let spec = pb::JobSpec { defaults: Some(once()), ..job(vec![download(origin.url("/cut"))]) };
        assert_eq!(server.run(spec).await.state(), JobState::Failed);
        assert!(server.files().is_empty(), "{:?}", server.files());
    }
}

#[tokio::test]
async fn deleting_a_job_takes_its_files_when_asked_to() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.object("/f", Object::new(1, 1000));
    let mut ids = Vec::new();
    for delete_files in [false, true] {
        let ended = server.run(job(vec![download(origin.url("/f"))])).await;
        let request = pb::DeleteJobRequest { job_id: ended.job_id.clone(), delete_files };
        server.jobs().delete_job(request.clone()).await.unwrap();
        assert_eq!(server.jobs().delete_job(request).await.unwrap_err().code(), tonic::Code::NotFound);
        ids.push(ended.job_id);
    }
    assert_eq!(server.files(), [format!("{}/f", ids[0])]);
}

/// What somebody else has under the name since is not the job's.
#[tokio::test]
async fn deleting_a_job_leaves_what_it_did_not_create() {
    let (server, origin) = (Server::start().await, Origin::start());
    for nth in 1..=3 {
        origin.object(&format!("/{nth}"), Object::new(nth, 1000));
    }
    let run = async |nth: u64, policy: pb::OnConflict| {
        let spec = pb::DownloadSpec {
            url: origin.url(&format!("/{nth}")),
            path: "x".into(),
            on_conflict: policy.into(),
            ..Default::default()
        };
        server.run(pb::JobSpec { directory: "shared".into(), ..job(vec![download_as(spec)]) }).await.job_id
    };
    let delete = async |job_id: String| {
        server.jobs().delete_job(pb::DeleteJobRequest { job_id, delete_files: true }).await.unwrap();
    };
    let first = run(1, pb::OnConflict::Overwrite).await;
    let second = run(2, pb::OnConflict::Overwrite).await;
    let third = run(2, pb::OnConflict::Skip).await;
    delete(first).await;
    delete(third).await;
    let path = server.downloads().join("shared/x");
    assert_eq!(std::fs::read(&path).unwrap(), Object::new(2, 1000).bytes());
    std::fs::write(&path, "edited").unwrap();
    delete(second).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"edited");
}

/// The origin never counts more requests than the limit, and is not asked for what it has sent.
#[tokio::test]
async fn segments_keep_to_the_limit_of_their_host() {
    let server = Server::with(&["--allow-private-networks", "--max-per-host", "2"]).await;
    let origin = Origin::start();
    let object = Object::new(1, 6 << 20);
    origin.object("/f", object.clone());
    origin.limit_connections(8 << 20);
    let task = |nth| {
        let (url, path) = (origin.url("/f"), format!("f{nth}"));
        download_as(pb::DownloadSpec { url, path, max_connections: 4, ..Default::default() })
    };
    let ended = server.run(job((0..4).map(task).collect())).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert_eq!(server.files().len(), 4);
    for path in server.files() {
        assert_eq!(std::fs::read(server.downloads().join(path)).unwrap(), object.bytes());
    }
    // One connection that was closed may not be noticed yet, by an origin that is slow to look.
    assert!(origin.peak() <= 3, "{}", origin.peak());
    let sent = origin.body_bytes();
    assert!(sent < 4 * object.size() * 3 / 2, "{sent} bytes for four files of {}", object.size());
}

/// Errors cost no connections, whichever threads their tasks ran on.
#[tokio::test]
async fn there_are_never_more_connections_than_requests_at_once() {
    let server = Server::with(&["--allow-private-networks", "--max-per-host", "3"]).await;
    let origin = Origin::start();
    for path in ["/d/*", "/f/*"] {
        origin.handle(path, |_| Reply::status(404).body("x".repeat(500)));
    }
    let (downloads, fetches) = ((0..200).map(|nth| download(origin.url(&format!("/d/{nth}")))), 0..200);
    let tasks = downloads.chain(fetches.map(|nth| fetch(origin.url(&format!("/f/{nth}"))))).collect();
    let ended = server.run(pb::JobSpec { group: Some(group(GroupMode::Collect, 0)), ..job(tasks) }).await;
    assert_eq!(ended.counts.unwrap().failed, 400);
    assert_eq!(origin.all_requests().len(), 400);
    assert!(origin.connections() <= 3, "{} connections", origin.connections());
}

/// A success that is to be asked for again says when.
#[tokio::test]
async fn a_file_that_is_being_made_is_asked_for_when_its_origin_says() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/f", Reply::status(202).header("Retry-After", "600"));
    let retry = pb::RetryPolicy { retry_statuses: vec![202], ..quick_retry(5) };
    let options = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
    let task = pb::TaskSpec { options, ..download(origin.url("/f")) };
    let id = server.submit(job(vec![task])).await;
    until(async || server.task(&id, 0).await.state() == TaskState::BackingOff).await;
    let task = server.task(&id, 0).await;
    let (due, ended) = (task.next_attempt_time.unwrap(), task.attempt_log.last().unwrap().end_time.unwrap());
    assert!((590..=610).contains(&(due.seconds - ended.seconds)), "{due:?} after {ended:?}");
}
