//! What callers do again after they gave up, while nothing can be committed: somebody else holds the lock of the database.

use std::time::Duration;

use haul::pb;
use haul::pb::JobState;
use sqlx::{Connection as _, SqliteConnection};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, job, once};

/// How long a caller waits that is to give up.
const IMPATIENT: Duration = Duration::from_millis(300);

/// Keeps the server from committing until it is dropped.
pub(crate) async fn hold(server: &Server) -> SqliteConnection {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    other
}

async fn give_up<T>(call: impl Future<Output = Result<T, tonic::Status>>) {
    let answer = tokio::time::timeout(IMPATIENT, call).await;
    assert!(answer.is_err(), "nothing can be committed");
}

#[tokio::test]
async fn a_request_and_a_chunk_that_are_repeated_are_stored_once() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let open = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let request = || pb::SubmitJobRequest {
        request_id: "order-1".into(),
        job: Some(job(vec![fetch(origin.url("/a"))])),
        ..Default::default()
    };
    let chunk = || pb::AddTasksRequest {
        job_id: open.clone(),
        chunk_id: "c".into(),
        tasks: vec![fetch(origin.url("/a")), fetch(origin.url("/a"))],
    };
    let other = hold(&server).await;
    for _ in 0..2 {
        give_up(async { server.jobs().submit_job(request()).await }).await;
        give_up(async {
            let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk()])).await?.into_inner();
            answers.message().await
        })
        .await;
    }
    other.close().await.unwrap();
    let first = server.jobs().submit_job(request()).await.unwrap().into_inner().job.unwrap();
    let again = server.jobs().submit_job(request()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(first.job_id, again.job_id);
    let mut answers =
        server.jobs().add_tasks(futures_util::stream::iter([chunk(), chunk()])).await.unwrap().into_inner();
    for _ in 0..2 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.first_task_index, answer.task_count), (0, 2));
    }
    server.jobs().seal_job(pb::SealJobRequest { job_id: open.clone() }).await.unwrap();
    assert_eq!(server.ended(&open).await.counts.unwrap().succeeded, 2);
    let jobs = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 2, "the request made one job");
}

#[tokio::test]
async fn changes_of_an_ended_job_that_are_repeated_take_their_turn() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::status(404));
    let ended = server.run(pb::JobSpec { defaults: Some(once()), ..job(vec![fetch(origin.url("/a"))]) }).await;
    let job_id = ended.job_id;
    let update = |title: &str| pb::UpdateJobRequest {
        job_id: job_id.clone(),
        title: title.into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["title".into()] }),
        ..Default::default()
    };
    let retry = || pb::RetryJobRequest { job_id: job_id.clone(), task_indexes: Vec::new(), filter: None };
    let other = hold(&server).await;
    for title in ["one", "two"] {
        give_up(async { server.jobs().update_job(update(title)).await }).await;
        give_up(async { server.jobs().retry_job(retry()).await }).await;
    }
    assert_eq!(server.job(&job_id).await.state(), JobState::Failed, "nothing is told before it is durable");
    other.close().await.unwrap();
    let updated = server.jobs().update_job(update("three")).await.unwrap().into_inner().job.unwrap();
    assert_eq!(updated.title, "three");
    assert_eq!(server.ended(&job_id).await.state(), JobState::Failed);
    server.jobs().delete_job(pb::DeleteJobRequest { job_id, ..Default::default() }).await.unwrap();
}

/// Siblings end in every way while the failure that stops them is on its way to the disk.
#[tokio::test]
async fn jobs_that_fail_fast_harm_nobody() {
    let (server, origin) = (Server::start().await, Origin::start());
    let pause = |nth: usize| Duration::from_millis(nth as u64 * 7 % 40);
    origin.handle("/busy", move |request| Reply::status(503).delay(pause(request.nth)));
    origin.handle("/gone", move |request| Reply::status(404).delay(pause(request.nth)));
    origin.reply("/held", Reply::hang());
    let bystander = server.submit(job(vec![fetch(origin.url("/held"))])).await;
    let pid = server.pid();
    for round in 0..30 {
        let mut tasks: Vec<_> = (0..7).map(|_| fetch(origin.url("/busy"))).collect();
        tasks.push(fetch(origin.url("/gone")));
        let id = server.submit(job(tasks)).await;
        if round % 3 == 0 {
            let pausing = async { server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await };
            let cancel = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
            // Either may come too late.
            let _ = tokio::join!(pausing, async { server.jobs().cancel_job(cancel).await });
        }
        let counts = server.ended(&id).await.counts.unwrap();
        assert_eq!(counts.failed + counts.cancelled, 8, "{counts:?}");
    }
    let task = server.task(&bystander, 0).await;
    assert_eq!((task.state(), task.attempts), (pb::TaskState::Running, 1));
    assert_eq!(server.pid(), pid);
    assert!(!server.log().contains("contradict"), "{}", server.log());
}
