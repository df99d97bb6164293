//! Errors of calls while the store cannot do its part, each as a client sees it. A full disk is in `full_disk`.

use std::time::Duration;

use haul::pb;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::it::curl::curl;
use crate::it::held::hold;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{fetch, job};

/// Looks at an error that says that the store cannot do something now.
pub(crate) fn assert_unavailable(status: &Status, reason: &str, text: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "haul.v1"), "{status:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some(), "{status:?}");
    assert!(status.message().contains(text), "{status:?}");
    let names_code = reason == "STORE_FULL" && status.message().contains("(code: ");
    assert!(!names_code, "the database's own words: {status:?}");
}

/// Submits until that is refused: the first one finds out that nothing can be stored, and has no answer meanwhile.
pub(crate) async fn refused(server: &Server) -> Status {
    let refused = async {
        loop {
            let request =
                pb::SubmitJobRequest { job: Some(job(vec![fetch("http://a.example/")])), ..Default::default() };
            let answer = tokio::time::timeout(Duration::from_secs(1), server.jobs().submit_job(request)).await;
            if let Ok(Err(status)) = answer {
                return status;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("a job is neither stored nor refused")
}

async fn health(server: &Server) -> ServingStatus {
    let mut client = HealthClient::new(server.channel.clone());
    client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
}

/// Changes the database from outside, as somebody does who looks for trouble.
async fn change(server: &Server, sql: &str) {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_somebody_else_has_locked_is_said_to_be() {
    let server = Server::start().await;
    let other = hold(&server).await;
    assert_unavailable(&refused(&server).await, "STORE_BUSY", "database is locked");
    until(async || health(&server).await == ServingStatus::NotServing).await;
    let by_http = curl(&server, &["--json", r#"{"tasks": [{"fetch": {"url": "http://a.example/"}}]}"#], "/v1/jobs");
    assert_eq!((by_http.code, by_http.fault().0.as_str()), (503, "STORE_BUSY"), "{by_http:?}");
    assert!(by_http.header("retry-after").is_some(), "{by_http:?}");
    other.close().await.unwrap();
    until(async || health(&server).await == ServingStatus::Serving).await;
    server.submit(job(vec![fetch("http://a.example/")])).await;
}

#[tokio::test]
async fn a_read_that_fails_is_said_to_and_works_again_when_the_cause_is_gone() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let job_id = server.run(job(vec![fetch(origin.url("/a"))])).await.job_id;
    let read = async || {
        let request = pb::ListJobEventsRequest { job_id: job_id.clone(), ..Default::default() };
        server.jobs().list_job_events(request).await
    };
    change(&server, "ALTER TABLE events RENAME TO elsewhere").await;
    assert_unavailable(&read().await.unwrap_err(), "STORE_BUSY", "no such table: events");
    let by_http = curl(&server, &[], &format!("/v1/jobs/{job_id}/events:list"));
    assert_eq!((by_http.code, by_http.fault().0.as_str()), (503, "STORE_BUSY"), "{by_http:?}");
    change(&server, "ALTER TABLE elsewhere RENAME TO events").await;
    assert!(!read().await.unwrap().into_inner().events.is_empty());
}

/// What may or may not be stored is known by a restart alone: the caller is told, and the server ends.
#[tokio::test]
async fn a_write_that_fails_is_said_to_and_ends_the_server() {
    let mut server = Server::start().await;
    let kept = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    change(&server, "ALTER TABLE job_specs RENAME TO elsewhere").await;
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch("http://a.example/")])), ..Default::default() };
    let answer = tokio::time::timeout(PATIENCE, server.jobs().submit_job(request)).await;
    assert_unavailable(&answer.unwrap().unwrap_err(), "STORE_FAILED", "no such table");
    assert!(!server.ended_itself().success());
    assert!(server.log().contains("no such table"), "{}", server.log());
    change(&server, "ALTER TABLE elsewhere RENAME TO job_specs").await;
    server.launch().await;
    assert!(server.job(&kept).await.open);
}

/// What is written into a file that is in no directory any more is lost, however well each commit goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_removed_or_replaced_ends_the_server() {
    for name in ["haul.db", "haul.db-wal"] {
        let server = Server::start().await;
        server.submit(job(vec![fetch("http://a.example/")])).await;
        let (file, other) = (server.data().join(name), server.data().join("other"));
        std::fs::copy(&file, &other).unwrap();
        std::fs::rename(&other, &file).unwrap();
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch("http://a.example/")])), ..Default::default() };
        assert!(server.jobs().submit_job(request).await.is_err(), "{name}: it would be lost");
        let (status, server) = tokio::task::spawn_blocking(move || {
            let mut server = server;
            (server.ended_itself(), server)
        })
        .await
        .unwrap();
        assert_eq!(status.code(), Some(1), "{}", server.log());
        assert!(server.log().contains("is not in its place any more"), "{}", server.log());
    }
}

/// As a kill leaves it that comes before the database has its log: what the first start had begun is undone by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_was_killed_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (data, scratch) = (dir.path().join("data"), dir.path().join("scratch.db"));
    std::fs::create_dir(&data).unwrap();
    let url = format!("sqlite://{}?mode=rwc", scratch.display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    // A cache of few pages is written to the file before the end.
    let begun = "PRAGMA auto_vacuum = INCREMENTAL; VACUUM; PRAGMA cache_size = 5; BEGIN; CREATE TABLE t (a); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
                 INSERT INTO t SELECT randomblob(4000) FROM n;";
    sqlx::raw_sql(begun).execute(&mut conn).await.unwrap();
    for (from, to) in [("scratch.db", "haul.db"), ("scratch.db-journal", "haul.db-journal")] {
        std::fs::copy(dir.path().join(from), data.join(to)).unwrap();
    }
    conn.close().await.unwrap();
    // Nothing of the tables has reached the file.
    std::fs::OpenOptions::new().write(true).open(data.join("haul.db")).unwrap().set_len(4096).unwrap();
    let server = Server::over(dir, &["--allow-private-networks"]).await;
    server.submit(job(vec![fetch("http://a.example/")])).await;
}
