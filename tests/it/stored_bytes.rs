//! What tenants store: how much each of them keeps, and what waits where that is all it may.

use haul::pb;
use prost_types::FieldMask;

use crate::it::tenants::{access, ended, jobs, make, submit};
use crate::support::disk::SmallDisk;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};
use crate::support::server::{Server, until};
use crate::support::spec::{download_as, fetch, job, millis, once};

/// More than a body that stands in a row has.
const BYTES: u64 = 100_000;

async fn allow(server: &Server, name: &str, stored_bytes: Option<u64>) {
    let quotas = Some(pb::Quotas { stored_bytes, ..Default::default() });
    let request = pb::UpdateTenantRequest {
        tenant: Some(pb::Tenant { name: name.to_owned(), quotas, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["quotas.stored_bytes".to_owned()] }),
    };
    let changed = access(server).update_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(changed.quotas.and_then(|quotas| quotas.stored_bytes), stored_bytes);
}

async fn stores(server: &Server, name: &str) -> u64 {
    let request = pb::GetTenantRequest { name: name.to_owned() };
    let tenant = access(server).get_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    tenant.usage.unwrap().stored_bytes
}

async fn task(server: &Server, tenant: &str, id: &str) -> pb::Task {
    let task = Some(pb::get_task_request::Task::TaskIndex(0));
    let request = pb::GetTaskRequest { job_id: id.to_owned(), task, ..Default::default() };
    jobs(server, tenant).get_task(request).await.unwrap().into_inner().task.unwrap()
}

async fn wants_room(server: &Server, tenant: &str, id: &str) {
    let is_it = |task: pb::Task| task.waiting.is_some_and(|it| it.reason() == pb::WaitReason::TenantStorage);
    until(|| async { is_it(task(server, tenant, id).await) }).await;
}

async fn delete(server: &Server, tenant: &str, id: &str) {
    let request = pb::DeleteJobRequest { job_id: id.to_owned(), ..Default::default() };
    jobs(server, tenant).delete_job(request).await.unwrap();
}

fn file(origin: &Origin, url: &str) -> pb::TaskSpec {
    download_as(pb::DownloadSpec { url: origin.url(url), path: "file".to_owned(), ..Default::default() })
}

fn origin() -> Origin {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(vec![b'a'; BYTES as usize]));
    origin.reply("/large", Reply::ok(vec![b'l'; 3 * BYTES as usize]));
    origin.reply("/small", Reply::ok(vec![b's'; 1000]));
    origin
}

async fn run(server: &Server, tenant: &str, task: pb::TaskSpec) -> pb::Job {
    let id = submit(server, tenant, job(vec![task]), "").await.job_id;
    ended(server, tenant, &id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_keeps_is_bounded_across_a_crash_until_it_deletes_something() {
    let (mut server, origin) = (Server::start().await, origin());
    make(&server, &["a", "b"]).await;
    allow(&server, "a", Some(5 * BYTES / 2)).await;
    let body = run(&server, "a", fetch(origin.url("/a"))).await;
    let kept = run(&server, "a", file(&origin, "/a")).await;
    for job in [&body, &kept] {
        assert_eq!(job.state(), pb::JobState::Succeeded);
    }
    assert_eq!(stores(&server, "a").await, 2 * BYTES);

    let never = run(&server, "a", file(&origin, "/large")).await;
    assert_eq!(never.state(), pb::JobState::Failed);
    let error = task(&server, "a", &never.job_id).await.error.unwrap();
    assert_eq!((error.reason(), error.attempt), (pb::FailureReason::DiskFull, 1), "{error:?}");
    assert!(error.message.contains("stored_bytes"), "{error:?}");

    let waiting = submit(&server, "a", job(vec![fetch(origin.url("/a"))]), "").await.job_id;
    let other = submit(&server, "a", job(vec![file(&origin, "/a")]), "").await.job_id;
    for is_again in [false, true] {
        wants_room(&server, "a", &waiting).await;
        wants_room(&server, "a", &other).await;
        assert_eq!(stores(&server, "a").await, 2 * BYTES, "restarted: {is_again}");
        assert_eq!(run(&server, "b", fetch(origin.url("/a"))).await.state(), pb::JobState::Succeeded);
        let small = run(&server, "a", fetch(origin.url("/small"))).await;
        assert_eq!(small.state(), pb::JobState::Succeeded, "there is room for it");
        delete(&server, "a", &small.job_id).await;
        until(|| async { stores(&server, "a").await == 2 * BYTES }).await;
        if !is_again {
            server.restart().await;
        }
    }
    assert_eq!(stores(&server, "b").await, 2 * BYTES);
    delete(&server, "a", &body.job_id).await;
    let done = async |id: &str| jobs(&server, "a").get_job(get(id)).await.unwrap().into_inner().job.unwrap().state();
    until(|| async { [done(&waiting).await, done(&other).await].contains(&pb::JobState::Succeeded) }).await;
    assert_eq!(stores(&server, "a").await, 2 * BYTES, "one of them");
    delete(&server, "a", &kept.job_id).await;
    for id in [&waiting, &other] {
        assert_eq!(ended(&server, "a", id).await.state(), pb::JobState::Succeeded);
    }
    for id in [&waiting, &other, &never.job_id] {
        delete(&server, "a", id).await;
    }
    until(|| async { stores(&server, "a").await == 0 }).await;
    assert_eq!(stores(&server, "b").await, 2 * BYTES);
}

fn get(id: &str) -> pb::GetJobRequest {
    pb::GetJobRequest { job_id: id.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_keeps_all_it_may_asks_nobody_until_a_job_expires_or_its_quota_changes() {
    let (server, origin) = (Server::start().await, origin());
    make(&server, &["a"]).await;
    allow(&server, "a", Some(BYTES)).await;
    let expiring = pb::JobSpec { retention: Some(millis(3_000)), ..job(vec![fetch(origin.url("/a"))]) };
    let first = submit(&server, "a", expiring, "").await.job_id;
    assert_eq!(ended(&server, "a", &first).await.state(), pb::JobState::Succeeded);
    let second = submit(&server, "a", job(vec![fetch(origin.url("/a"))]), "").await.job_id;
    let asked = || origin.requests("/a").len();
    // It is full when the second one could start, and asks when the first has expired.
    assert_eq!(ended(&server, "a", &second).await.state(), pb::JobState::Succeeded);
    assert_eq!((stores(&server, "a").await, asked()), (BYTES, 2));

    let third = submit(&server, "a", job(vec![fetch(origin.url("/small"))]), "").await.job_id;
    wants_room(&server, "a", &third).await;
    assert_eq!(origin.requests("/small").len(), 0);
    let says = async |id: &str| task(&server, "a", id).await.waiting.unwrap().message;
    assert!(says(&third).await.starts_with("the tenant stores 100000 bytes, and may store 100000 (`stored_bytes`)"));
    allow(&server, "a", None).await;
    assert_eq!(ended(&server, "a", &third).await.state(), pb::JobState::Succeeded);
    allow(&server, "a", Some(0)).await;
    let fourth = submit(&server, "a", job(vec![fetch(origin.url("/small"))]), "").await.job_id;
    wants_room(&server, "a", &fourth).await;
    assert_eq!(stores(&server, "a").await, BYTES + 1000, "what is there stays");
    assert!(says(&fourth).await.starts_with("the tenant stores 101000 bytes, and may store 0 (`stored_bytes`)"));
}

/// Where the parts of ended jobs cannot be kept, since downloads go to another file system, nothing of them is counted.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_removed_at_the_end_of_their_job_count_no_more() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("downloads")).unwrap();
    let Some(_disk) = SmallDisk::mount(&dir.path().join("downloads"), "32m") else { return };
    let (mut server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    let whole = Reply::ok(vec![b'a'; 4_000_000]).header("ETag", "\"a\"");
    let cut = whole.clone();
    origin.handle(
        "/a",
        move |request| if request.nth == 0 { cut.clone().cut_at(3_000_000, Cut::Fin) } else { cut.clone() },
    );
    make(&server, &["a"]).await;
    let download = pb::TaskSpec { options: Some(once()), ..file(&origin, "/a") };
    let failed = run(&server, "a", download).await;
    assert_eq!(failed.state(), pb::JobState::Failed);
    assert_eq!(stores(&server, "a").await, 0);
    server.restart().await;
    assert_eq!(stores(&server, "a").await, 0);
    let retry = pb::RetryJobRequest { job_id: failed.job_id.clone(), ..Default::default() };
    jobs(&server, "a").retry_job(retry).await.unwrap();
    assert_eq!(ended(&server, "a", &failed.job_id).await.state(), pb::JobState::Succeeded);
    assert_eq!(stores(&server, "a").await, 4_000_000);
    server.terminate();
}

/// What has all its bytes needs no room to be finished: a tenant that stores as much as it may would keep it unfinished for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_part_is_finished_although_its_tenant_stores_all_it_may() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    make(&server, &["a"]).await;
    let (all, begun) = (4_000_000, 3_000_000);
    let part = move |reply: Reply| reply.header("ETag", "\"a\"").header("Accept-Ranges", "bytes");
    // The first answer says how large the file is. The second brings the rest, and does not end. Then all is as it was.
    origin.handle("/a", move |request| match request.nth {
        0 => part(Reply::ok(vec![b'a'; all])).cut_at(begun as u64, Cut::Fin),
        1 => {
            let range = format!("bytes {begun}-{}/{all}", all - 1);
            let rest = Reply::status(206).header("Content-Range", &range).body(vec![b'a'; all - begun]);
            part(rest).chunked(1 << 16).stall_at((all - begun) as u64)
        }
        _ => part(Reply::ok(vec![b'a'; all])),
    });
    let download = pb::TaskSpec { options: Some(once()), ..file(&origin, "/a") };
    let failed = run(&server, "a", download).await;
    assert_eq!((failed.state(), stores(&server, "a").await), (pb::JobState::Failed, begun as u64));
    let retry = pb::RetryJobRequest { job_id: failed.job_id.clone(), ..Default::default() };
    jobs(&server, "a").retry_job(retry).await.unwrap();
    let has_all = |task: pb::Task| task.progress.is_some_and(|progress| progress.bytes_done == all as u64);
    until(|| async { has_all(task(&server, "a", &failed.job_id).await) }).await;
    jobs(&server, "a").pause_job(pb::PauseJobRequest { job_id: failed.job_id.clone() }).await.unwrap();
    until(|| async { task(&server, "a", &failed.job_id).await.state() == pb::TaskState::Pending }).await;
    assert_eq!(stores(&server, "a").await, all as u64);

    allow(&server, "a", Some(all as u64)).await;
    let other = submit(&server, "a", job(vec![fetch(origin.url("/b"))]), "").await.job_id;
    wants_room(&server, "a", &other).await;
    // It is found in the store as well.
    server.restart().await;
    jobs(&server, "a").resume_job(pb::ResumeJobRequest { job_id: failed.job_id.clone() }).await.unwrap();
    assert_eq!(ended(&server, "a", &failed.job_id).await.state(), pb::JobState::Succeeded);
    assert_eq!(stores(&server, "a").await, all as u64);
    wants_room(&server, "a", &other).await;
    assert_eq!(origin.requests("/b").len(), 0);
}
