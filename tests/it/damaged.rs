//! Damage in single rows that nobody but whom it is about may notice: the server starts, runs, and ends what can be ended.

use haul::pb;
use haul::pb::JobState;
use sqlx::Connection as _;
use tokio::task::JoinSet;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, group, job};

/// How many attempts run, as far as the database knows.
async fn claims(server: &Server) -> i64 {
    let url = format!("sqlite://{}?mode=ro", server.data().join("haul.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM claims").fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    count
}

/// Changes the database of a server that does not run. Each statement changes one row.
async fn damage(server: &Server, statements: &[&str]) {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for sql in statements {
        let changed = sqlx::query(sqlx::AssertSqlSafe((*sql).to_owned())).execute(&mut conn).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "{sql}");
    }
    conn.close().await.unwrap();
}

async fn delete(server: &Server, id: &str) {
    let request = pb::DeleteJobRequest { job_id: id.to_owned(), ..Default::default() };
    server.jobs().delete_job(request).await.unwrap();
}

async fn cancel(server: &Server, id: &str) {
    let request = pb::CancelJobRequest { job_id: id.to_owned(), ..Default::default() };
    server.jobs().cancel_job(request).await.unwrap();
}

/// Whether no row of a deleted job is left.
async fn are_gone(server: &Server) -> bool {
    let url = format!("sqlite://{}?mode=ro", server.data().join("haul.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE deleted = 1").fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    left == 0
}

/// A digit that became a point makes another number of it, which is no number of bytes: whoever removes the rows of the job, and
/// whoever sums up what its tenant stores, takes what there is.
#[tokio::test]
async fn a_job_whose_figures_are_damaged_can_be_deleted_and_the_server_starts() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a".repeat(1024)));
    let jobs =
        [server.run(job(vec![fetch(origin.url("/a"))])).await, server.run(job(vec![fetch(origin.url("/a"))])).await];
    assert!(server.terminate().success());
    damage(
        &server,
        &["UPDATE jobs SET moving = replace(moving, '\"ended_bytes\":1024', '\"ended_bytes\":10.4') WHERE no = (SELECT min(no) FROM jobs)"],
    )
    .await;
    server.launch().await;
    for job in &jobs {
        delete(&server, &job.job_id).await;
    }
    until(async || are_gone(&server).await).await;
    assert_eq!(server.run(job(vec![fetch(origin.url("/a"))])).await.state(), JobState::Succeeded);
    assert!(server.terminate().success());
    server.launch().await;
    assert_eq!(server.run(job(vec![fetch(origin.url("/a"))])).await.state(), JobState::Succeeded);
    assert!(server.terminate().success());
}

#[tokio::test]
async fn tasks_whose_errors_are_damaged_can_be_tried_again() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| if request.nth < 2 { Reply::status(404) } else { Reply::ok("a") });
    let group = Some(group(pb::GroupMode::Collect, 0));
    let failed = server.run(pb::JobSpec { group, ..job(vec![fetch(origin.url("/a")), fetch(origin.url("/a"))]) }).await;
    assert_eq!(failed.counts.unwrap().failed, 2);
    assert!(server.terminate().success());
    damage(
        &server,
        &["UPDATE task_states SET error = replace(error, '\"http_status\":404', '\"http_status\":4e4') WHERE id = (SELECT max(id) FROM task_states)"],
    )
    .await;
    server.launch().await;
    let retry = pb::RetryJobRequest { job_id: failed.job_id.clone(), ..Default::default() };
    server.jobs().retry_job(retry).await.unwrap();
    let ended = server.ended(&failed.job_id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().succeeded), (JobState::Succeeded, 2));
    assert!(server.terminate().success());
}

/// A task that stands in no lane of its job is found by no lane. It waits, and is cancelled with its job.
#[tokio::test]
async fn a_task_of_no_lane_is_cancelled_with_its_job() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    let tasks = (0..5).map(|_| fetch(origin.url("/a"))).collect();
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "c".into(), tasks };
    let mut answers = server.jobs().add_tasks(tokio_stream::once(chunk)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    assert!(server.terminate().success());
    damage(&server, &["UPDATE tasks SET lane = -1 WHERE id = (SELECT min(id) FROM tasks)"]).await;
    server.launch().await;
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
    until(async || server.job(&id).await.counts.unwrap().succeeded == 4).await;
    cancel(&server, &id).await;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().cancelled), (JobState::Cancelled, 1));
    assert!(!server.log().contains("contradict"), "{}", server.log());
    delete(&server, &id).await;
    assert!(server.terminate().success());
}

/// Rows of attempts that were cut: of one the task is not there any more, one stands in no lane.
#[tokio::test]
async fn attempts_that_lead_nowhere_end_their_tasks() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/good", Reply::ok("good"));
    origin.reply("/bad", Reply::hang());
    let mut jobs = Vec::new();
    for nth in 1..=2 {
        let group = Some(group(pb::GroupMode::Collect, 0));
        jobs.push(
            server
                .submit(pb::JobSpec { group, ..job(vec![fetch(origin.url("/good")), fetch(origin.url("/bad"))]) })
                .await,
        );
        until(async || origin.requests("/bad").len() == nth).await;
        until(async || server.job(&jobs[nth - 1]).await.counts.unwrap().succeeded == 1).await;
    }
    until(async || claims(&server).await == jobs.len() as i64).await;
    server.kill();
    damage(
        &server,
        &[
            "DELETE FROM tasks WHERE id = (SELECT min(id) FROM claims)",
            "UPDATE tasks SET lane = -1 WHERE id = (SELECT max(id) FROM claims)",
        ],
    )
    .await;
    server.launch().await;
    for id in &jobs {
        let ended = server.ended(id).await;
        let counts = ended.counts.unwrap();
        assert_eq!((ended.state(), counts.succeeded, counts.failed), (JobState::Failed, 1, 1));
        assert_eq!(ended.failure.unwrap().reason(), pb::FailureReason::Internal);
        let told: Vec<u64> = server.events(id, 0).await.iter().map(|event| event.sequence).collect();
        assert_eq!(told, (1..=ended.sequence).collect::<Vec<_>>(), "each event is told");
        delete(&server, id).await;
    }
    assert!(server.terminate().success());
}

/// Who waits for a job that was left out at the start learns why nothing comes.
#[tokio::test]
async fn who_waits_for_a_job_that_cannot_run_is_told() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let start_time = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    let id = server.submit(pb::JobSpec { start_time, ..job(vec![fetch(origin.url("/a"))]) }).await;
    assert!(server.terminate().success());
    damage(&server, &["UPDATE lanes SET head = 'x'"]).await;
    server.launch().await;
    let wait = pb::WaitJobRequest { job_id: id.clone(), ..Default::default() };
    let refused = server.jobs().wait_job(wait).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Internal, "{refused:?}");
    let watch = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
    let refused = server.jobs().watch_job(watch).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Internal, "{refused:?}");
    delete(&server, &id).await;
    assert!(server.terminate().success());
}

/// Counts that say that more is left than there is contradict the store whenever the job is swept: it is read again, and again, and
/// in between others have their turns, and the log its end.
#[tokio::test]
async fn a_job_that_contradicts_itself_for_ever_keeps_nobody_busy() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let start_time = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    let id = server.submit(pb::JobSpec { start_time, ..job(vec![fetch(origin.url("/a"))]) }).await;
    assert!(server.terminate().success());
    damage(&server, &["UPDATE jobs SET total = 3"]).await;
    server.launch().await;
    let request = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
    let mut jobs = server.jobs();
    let mut callers = JoinSet::new();
    callers.spawn(async move { jobs.cancel_job(request).await });
    let said = |server: &Server| server.log().matches("contradict").count();
    until(async || said(&server) > 1).await;
    assert_eq!(server.run(job(vec![fetch(origin.url("/a"))])).await.state(), JobState::Succeeded);
    assert!(said(&server) < 10, "{}", server.log());
    assert!(server.terminate().success());
    assert!(callers.join_all().await[0].is_err(), "it was never cancelled");
}
