//! What a job leaves in the download root when it ends: finished files, and nothing else, also where the server was killed
//! under it.

use std::time::Duration;

use haul::pb;
use haul::pb::JobState;

use sqlx::Connection as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::it::access::refused;
use crate::it::echoes::count;
use crate::it::held::hold;
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Pause, Reply};
use crate::support::server::{Server, until};
use crate::support::spec::{download, download_as, group, job};

/// A server with a job of two downloads that never end, once both have written a checkpoint.
async fn under_way(origin: &Origin) -> (Server, String) {
    under_way_as(origin, None).await
}

/// As [`under_way`], where the job is kept so long after its end.
async fn under_way_as(origin: &Origin, retention: Option<prost_types::Duration>) -> (Server, String) {
    for path in ["/a", "/b"] {
        let object = Object::new(1, 4 << 20);
        origin.handle(path, move |request| object.respond(request).stall_at(1 << 20));
    }
    let server = Server::start().await;
    let given = pb::DownloadSpec { url: origin.url("/b"), path: "deep/er/b".into(), ..Default::default() };
    let spec = pb::JobSpec { retention, ..job(vec![download(origin.url("/a")), download_as(given)]) };
    let id = server.submit(spec).await;
    until(async || server.files().iter().filter(|name| is_meta(name)).count() == 2).await;
    (server, id)
}

/// Whether a file says what a part file is of.
fn is_meta(name: &str) -> bool {
    name.strip_suffix(".meta").is_some()
}

async fn cancel(server: &Server, id: &str) {
    let request = pb::CancelJobRequest { job_id: id.to_owned(), ..Default::default() };
    server.jobs().cancel_job(request).await.unwrap();
}

fn is_clean(server: &Server) {
    assert_eq!(server.files(), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(server.downloads()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_job_that_is_cancelled_after_a_kill_leaves_nothing() {
    let origin = Origin::start();
    let (mut server, id) = under_way(&origin).await;
    server.restart().await;
    cancel(&server, &id).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
    is_clean(&server);
}

/// What cannot be put away when its job ends is put away by the next start, or goes with the job.
#[tokio::test]
async fn parts_that_cannot_be_put_away_are_not_forgotten() {
    let kept = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    for (goes_by, retention) in [("a start", None), ("a deletion", None), ("its time", kept)] {
        let origin = Origin::start();
        let (mut server, id) = under_way_as(&origin, retention).await;
        let partials = server.data().join("partials");
        std::fs::create_dir_all(&partials).unwrap();
        std::fs::write(partials.join(&id), "in the way").unwrap();
        cancel(&server, &id).await;
        assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
        match goes_by {
            "a start" => {
                assert!(!server.files().is_empty());
                std::fs::remove_file(partials.join(&id)).unwrap();
                server.restart().await;
            }
            "a deletion" => {
                server.restart().await;
                assert!(!server.files().is_empty());
                server
                    .jobs()
                    .delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() })
                    .await
                    .unwrap();
            }
            _ => {}
        }
        // The directory goes after what was in it.
        until(async || std::fs::read_dir(server.downloads()).unwrap().next().is_none()).await;
        until(async || !partials.join(format!("{id}.left")).exists()).await;
        assert_eq!(partials.join(&id).is_dir(), goes_by == "a start", "a retry goes on with them");
    }
}

/// A note that there is no place for is written when there is.
#[tokio::test]
async fn a_note_of_parts_that_are_left_is_written_at_last() {
    let origin = Origin::start();
    let (mut server, id) = under_way(&origin).await;
    let partials = server.data().join("partials");
    std::fs::write(&partials, "in the way").unwrap();
    cancel(&server, &id).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
    assert!(!server.files().is_empty());
    std::fs::remove_file(&partials).unwrap();
    until(async || partials.join(format!("{id}.left")).exists()).await;
    server.restart().await;
    until(async || partials.join(&id).is_dir() && !partials.join(format!("{id}.left")).exists()).await;
    is_clean(&server);
}

/// The time of the job is over before its retry is stored, and what is left of its parts is there all the same.
#[tokio::test]
async fn a_job_that_is_retried_as_its_time_ends_goes_on_with_its_parts() {
    let origin = Origin::start();
    let kept = Some(prost_types::Duration { seconds: 6, nanos: 0 });
    let (server, id) = under_way_as(&origin, kept).await;
    let partials = server.data().join("partials");
    std::fs::create_dir_all(&partials).unwrap();
    std::fs::write(partials.join(&id), "in the way").unwrap();
    cancel(&server, &id).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
    let parts = server.files();
    let other = hold(&server).await;
    let (mut jobs, job_id) = (server.jobs(), id.clone());
    let mut retry = JoinSet::new();
    retry.spawn(async move { jobs.retry_job(pb::RetryJobRequest { job_id, ..Default::default() }).await });
    // Expired jobs are looked for each second.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!((parts.len(), server.files()), (4, parts));
    other.close().await.unwrap();
    retry.join_next().await.unwrap().unwrap().unwrap();
    let goes_on = |path: &str| origin.requests(path).iter().any(|request| request.header("range").is_some());
    until(async || goes_on("/a") && goes_on("/b")).await;
    cancel(&server, &id).await;
}

/// Attempts that were cut, and whose tasks never run again.
#[tokio::test]
async fn a_job_that_was_paused_when_it_was_killed_leaves_nothing() {
    let origin = Origin::start();
    let (mut server, id) = under_way(&origin).await;
    let request = pb::PauseJobRequest { job_id: id.clone() };
    server.jobs().pause_job(request).await.unwrap();
    server.restart().await;
    cancel(&server, &id).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
    is_clean(&server);
}

/// The part of an ended job is back in its place only once it is decided that the job goes on.
#[tokio::test]
async fn a_retry_that_is_refused_leaves_nothing() {
    let origin = Origin::start();
    origin.handle("/a", move |request| Object::new(1, 4 << 20).respond(request).stall_at(1 << 20));
    let mut server = Server::with(&["--allow-private-networks", "--secret-retention", "1ms"]).await;
    let header = pb::Header { name: "x-secret".into(), value: "SESAME".into(), sensitive: true };
    let http = pb::HttpOptions { headers: vec![header], ..Default::default() };
    let mut task = download(origin.url("/a"));
    task.options = Some(pb::TaskOptions { http: Some(http), ..Default::default() });
    let id = server.submit(job(vec![task])).await;
    until(async || server.files().iter().any(|name| is_meta(name))).await;
    cancel(&server, &id).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
    is_clean(&server);
    assert!(server.data().join("partials").join(&id).is_dir());
    // Secrets are erased some time after a start.
    server.restart().await;
    until(async || count(&server, "jobs WHERE moving ->> '$.secrets_gone'").await == 1).await;
    let request = pb::RetryJobRequest { job_id: id.clone(), ..Default::default() };
    refused(server.jobs().retry_job(request).await, Code::FailedPrecondition, "SECRETS_EXPIRED");
    is_clean(&server);
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    until(async || !server.data().join("partials").join(&id).exists()).await;
    is_clean(&server);
}

#[tokio::test]
async fn a_kill_while_a_job_is_being_cancelled_leaves_nothing() {
    for wait in [0, 2, 10, 40] {
        let origin = Origin::start();
        let (mut server, id) = under_way(&origin).await;
        let mut jobs = server.jobs();
        let request = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
        let cancelling = JoinSet::from_iter([async move { jobs.cancel_job(request).await.is_ok() }]);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        server.restart().await;
        cancelling.join_all().await;
        cancel(&server, &id).await;
        assert_eq!(server.ended(&id).await.state(), JobState::Cancelled);
        is_clean(&server);
    }
}

/// While nothing can be committed, a kill leaves no part of an attempt that the store does not know of.
#[tokio::test]
async fn a_kill_before_an_attempt_is_stored_leaves_nothing_of_it() {
    let (mut server, origin, go_on) = (Server::start().await, Origin::start(), CancellationToken::new());
    let (object, until_then) = (Object::new(1, 4 << 20), go_on.clone());
    origin.handle("/a", move |_| Reply::ok("first").after(Pause::Until(until_then.clone())));
    origin.handle("/b", move |request| object.respond(request).stall_at(1 << 20));
    let spec = pb::JobSpec {
        group: Some(pb::GroupPolicy { max_concurrency: 1, ..Default::default() }),
        ..job(vec![download(origin.url("/a")), download(origin.url("/b"))])
    };
    let id = server.submit(spec).await;
    until(async || origin.requests("/a").len() == 1).await;
    // The first attempt is stored by then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let other = hold(&server).await;
    go_on.cancel();
    until(async || origin.requests("/b").len() == 1).await;
    // A checkpoint is made each second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    server.kill();
    other.close().await.unwrap();
    server.launch().await;
    cancel(&server, &id).await;
    server.ended(&id).await;
    assert!(server.files().iter().all(|name| !name.contains(".haul-")), "{:?}", server.files());
}

/// The group stops tasks whose attempts a kill has cut.
#[tokio::test]
async fn a_job_that_its_group_stops_after_a_kill_leaves_nothing() {
    let origin = Origin::start();
    let (mut server, _) = under_way(&origin).await;
    let object = Object::new(2, 4 << 20);
    origin.handle("/c", move |request| object.respond(request).stall_at(1 << 20));
    let spec = pb::JobSpec {
        open: true,
        group: Some(group(pb::GroupMode::FailFast, 0)),
        directory: "group".into(),
        ..job(vec![download(origin.url("/c"))])
    };
    let id = server.submit(spec).await;
    until(async || server.files().iter().any(|name| name.starts_with("group/") && is_meta(name))).await;
    server.restart().await;
    let wrong =
        pb::AddTasksRequest { job_id: id.clone(), chunk_id: "1".into(), tasks: vec![download(origin.url("/missing"))] };
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter([wrong])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Failed);
    assert!(!server.files().iter().any(|name| name.starts_with("group/")), "{:?}", server.files());
}
