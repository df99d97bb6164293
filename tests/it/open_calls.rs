//! Calls that are open while what they came by ends, and callers who make too many.

use std::time::Duration;

use haul::pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::access::{access, id_of, jobs, operator, reason, refused, token};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::{fetch, job};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_ends_its_streams_and_what_waits() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    let running = server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    let operator = operator(&server);
    let reader = |name: &str| token(&server, &operator, &[name, "--grant", "read"]);
    let watch = async |token: &str| {
        let mut stream = jobs(&server, token).watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        stream
    };
    let end_of = async |mut stream: tonic::Streaming<pb::WatchJobsResponse>| {
        let end = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ended well"),
                    Err(status) => return reason(&status),
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("the stream ends")
    };
    let (revoked, narrowed, disabled) = (reader("revoked"), reader("narrowed"), reader("disabled"));
    let streams = (watch(&revoked).await, watch(&narrowed).await, watch(&disabled).await);
    let mut wait = {
        let mut client = jobs(&server, &revoked);
        let request = pb::WaitJobRequest { job_id: running.clone(), timeout: None };
        tokio::task::JoinSet::from_iter([async move { client.wait_job(request).await }])
    };
    let mut admin = access(&server, &operator);
    let request = pb::RevokeTokenRequest { token_id: id_of(&revoked), with_descendants: false };
    admin.revoke_token(request).await.unwrap();
    for (name, path) in [("narrowed", "grants"), ("disabled", "disabled")] {
        let principal = pb::Principal { name: name.to_owned(), disabled: true, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
        admin.update_principal(pb::UpdatePrincipalRequest { principal: Some(principal), update_mask }).await.unwrap();
    }
    let bad = (Code::Unauthenticated, "BAD_CREDENTIALS".to_owned());
    assert_eq!(end_of(streams.0).await, bad);
    assert_eq!(end_of(streams.1).await, (Code::PermissionDenied, "MISSING_ROLE".to_owned()));
    assert_eq!(end_of(streams.2).await, bad);
    let waited = tokio::time::timeout(PATIENCE, wait.join_next()).await.expect("the wait ends").unwrap().unwrap();
    assert_eq!(reason(&waited.unwrap_err()), bad);
    let short = token(&server, &operator, &["short", "--grant", "read", "--lifetime", "10s"]);
    assert_eq!(end_of(watch(&short).await).await, bad);
    refused(jobs(&server, &short).list_jobs(pb::ListJobsRequest::default()).await, bad.0, &bad.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_too_often_is_told_to_wait_and_good_tokens_pass_all_the_same() {
    let server = Server::with(&["--auth-failures-per-minute", "1"]).await;
    let operator = operator(&server);
    let wrong = format!("haul_{}", &operator[5..].chars().rev().collect::<String>());
    // A minute may end meanwhile, which forgives what was before: three failures are at most two minutes' first ones.
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let status = access(&server, &wrong).who_am_i(pb::WhoAmIRequest {}).await.unwrap_err();
        if status.code() == Code::ResourceExhausted {
            assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() <= std::time::Duration::from_mins(1));
        }
        reasons.push(reason(&status).1);
    }
    assert_eq!(reasons[0], "BAD_CREDENTIALS");
    assert!(reasons.contains(&"RATE_LIMITED".to_owned()), "{reasons:?}");
    assert!(access(&server, &operator).who_am_i(pb::WhoAmIRequest {}).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_to_wait_and_nobody_else_is() {
    let mut server = Server::start().await;
    let operator = operator(&server);
    let other = token(&server, &operator, &["other", "--grant", "read"]);
    assert!(server.terminate().success());
    server.flags.extend(["--calls-per-second".to_owned(), "0.01".to_owned()]);
    server.launch().await;
    let who = async |token: &str| access(&server, token).who_am_i(pb::WhoAmIRequest {}).await;
    assert!(who(&operator).await.is_ok());
    let status = who(&operator).await.unwrap_err();
    assert_eq!(reason(&status), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(who(&other).await.is_ok());
}

/// A stream that rests on a role ends with it, also where another role would let a new one begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_role_that_it_came_by() {
    let server = Server::start().await;
    let op = operator(&server);
    let both = token(&server, &op, &["p", "--grant", "read", "--grant", "submit"]);
    let other = token(&server, &op, &["other", "--grant", "submit"]);
    let spec = pb::JobSpec { open: true, ..Default::default() };
    let theirs = jobs(&server, &other)
        .submit_job(pb::SubmitJobRequest { job: Some(spec), ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap()
        .job_id;
    let mut all = jobs(&server, &both).watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
    let wish = pb::WatchJobRequest { job_id: theirs.clone(), ..Default::default() };
    let mut one = jobs(&server, &both).watch_job(wish).await.unwrap().into_inner();
    assert!(all.message().await.unwrap().is_some() && one.message().await.unwrap().is_some());
    let narrower = pb::Principal {
        name: "p".into(),
        grants: vec![pb::Grant { role: pb::Role::Submit as i32, tenant: "default".into() }],
        ..Default::default()
    };
    let mask = Some(prost_types::FieldMask { paths: vec!["grants".into()] });
    let request = pb::UpdatePrincipalRequest { principal: Some(narrower), update_mask: mask };
    access(&server, &op).update_principal(request).await.unwrap();
    for stream in ["all", "one"] {
        let ended = async {
            loop {
                let next = match stream {
                    "all" => all.message().await.map(|it| it.map(|_| ())),
                    _ => one.message().await.map(|it| it.map(|_| ())),
                };
                match next {
                    Ok(Some(())) => {}
                    Ok(None) => panic!("{stream} ended without a status"),
                    Err(status) => return status,
                }
            }
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.expect(stream);
        assert_eq!(reason(&status), (Code::PermissionDenied, "MISSING_ROLE".to_owned()), "{stream}");
        assert_eq!(status.get_details_error_info().unwrap().metadata["role"], "read");
    }
}

/// One caller opens more connections than there are, a call on each; others find a place all the same, and keep it.
#[tokio::test(flavor = "multi_thread")]
async fn open_calls_of_one_caller_keep_nobody_out() {
    const CONNECTIONS: usize = 16;
    let server = Server::with(&["--max-connections", &CONNECTIONS.to_string()]).await;
    let operator = operator(&server);
    let greedy = token(&server, &operator, &["greedy", "--grant", "read"]);
    let other = token(&server, &operator, &["other", "--grant", "read"]);
    let watch = async |token: &str| {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let head = format!(
            "GET /v1/jobs:watch HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\naccept: text/event-stream\r\n\r\n",
            server.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        let read = stream.read_exact(&mut first).await;
        read.is_ok_and(|_| first == *b"HTTP/1.1 200").then_some(stream)
    };
    let mut held = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        held.push(watch(&greedy).await.expect("there is a place, if not for long"));
    }
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(watch(&other).await.expect("there is a place for others"));
    }
    for _ in 0..2 * CONNECTIONS {
        held.push(watch(&greedy).await.expect("there is a place, if not for long"));
    }
    for stream in &mut others {
        let mut rest = [0; 4096];
        let ended = async { while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
        assert!(tokio::time::timeout(Duration::from_millis(200), ended).await.is_err(), "it stays");
    }
    drop(held);
}
