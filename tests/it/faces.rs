//! The ways to the server beside plain calls: gRPC-Web, compression, health, heartbeats, and messages that stay small
//! enough for default clients.

use haul::pb;
use haul::pb::content_service_client::ContentServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use haul::pb::watch_job_response::Event;
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::it::curl::curl;
use crate::it::wire::{call, call_web};
use crate::support::disk::SmallDisk;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{fetch, fetch_as, job};

#[tokio::test]
async fn a_browser_submits_watches_and_reads() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/a"))])), ..Default::default() };
    let answer = call_web(&server, "haul.v1.JobService/SubmitJob", &request.encode_to_vec(), &[]).await;
    assert_eq!(answer.head["content-type"], "application/grpc-web+proto");
    assert_eq!(answer.status().code(), Code::Ok);
    let job_id = answer.message::<pb::SubmitJobResponse>(0).job.unwrap().job_id;
    let watch = pb::WatchJobRequest { job_id: job_id.clone(), after_sequence: Some(0), ..Default::default() };
    let answer = call_web(&server, "haul.v1.JobService/WatchJob", &watch.encode_to_vec(), &[]).await;
    let last: pb::WatchJobResponse = answer.message(answer.messages.len() - 1);
    assert!(matches!(last.event, Some(Event::JobEnded(_))), "{last:?}");
    let task = Some(pb::read_content_request::Task::TaskIndex(0));
    let read = pb::ReadContentRequest { job_id, task, ..Default::default() };
    let answer = call_web(&server, "haul.v1.ContentService/ReadContent", &read.encode_to_vec(), &[]).await;
    assert_eq!(&answer.message::<pb::ReadContentResponse>(0).data[..], b"alpha");
}

#[tokio::test]
async fn messages_are_compressed_both_ways_on_request() {
    let server = Server::start().await;
    for (encoding, name) in [(Gzip, "gzip"), (Zstd, "zstd")] {
        let mut jobs =
            JobServiceClient::new(server.channel.clone()).send_compressed(encoding).accept_compressed(encoding);
        let spec = pb::JobSpec { open: true, title: "t".repeat(200), ..job(Vec::new()) };
        let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
        let submitted = jobs.submit_job(request).await.unwrap().into_inner().job.unwrap();
        assert_eq!(submitted.title.len(), 200);
        let list = pb::ListJobsRequest::default().encode_to_vec();
        let answer = call(&server, "haul.v1.JobService/ListJobs", &list, &[("grpc-accept-encoding", name)]).await;
        assert_eq!(answer.head["grpc-encoding"], name);
        assert_eq!(answer.messages[0].0, 1, "the message is compressed");
    }
    let plain = call(&server, "haul.v1.JobService/ListJobs", b"", &[]).await;
    assert!(!plain.head.contains_key("grpc-encoding") && plain.messages[0].0 == 0, "only on request");
    let unknown = call(&server, "haul.v1.JobService/ListJobs", b"", &[("grpc-encoding", "lzma")]).await.status();
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert!(unknown.get_details_error_info().is_some() && unknown.message().contains("lzma"), "{unknown:?}");
}

/// Events are written once for all who watch, most of whom offer to take compressed messages with each call.
#[tokio::test]
async fn of_watches_those_with_bodies_are_compressed() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let ended = server.run(job(vec![fetch(origin.url("/a"))])).await;
    for (include_body, flag) in [(false, 0), (true, 1)] {
        let job_id = ended.job_id.clone();
        let request = pb::WatchJobRequest { job_id, after_sequence: Some(0), include_body, ..Default::default() };
        let offer = [("grpc-accept-encoding", "identity, deflate, gzip")];
        let answer = call(&server, "haul.v1.JobService/WatchJob", &request.encode_to_vec(), &offer).await;
        assert_eq!(answer.head.contains_key("grpc-encoding"), include_body);
        assert!(answer.messages.len() > 2 && answer.messages.iter().all(|message| message.0 == flag), "{answer:?}");
        assert_eq!(answer.status().code(), Code::Ok);
    }
}

/// Follows health from the first answer on; what it says is the state of the server at each time.
async fn health(server: &Server, service: &str) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut stream = HealthClient::new(server.channel.clone()).watch(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving, "{service}");
    stream
}

// With a thread of its own for the client, which is spoken to while the end of the server is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn health_says_not_serving_while_draining_and_streams_are_told_to_come_back() {
    for by_signal in [true, false] {
        let (mut server, origin) = (Server::start().await, Origin::start());
        origin.reply("/hang", Reply::hang());
        let id = server.submit(job(vec![fetch(origin.url("/hang"))])).await;
        until(async || !origin.requests("/hang").is_empty()).await;
        let mut followed = Vec::new();
        for service in ["", "haul.v1.JobService", "haul.v1.ContentService", "haul.v1.AdminService"] {
            followed.push(health(&server, service).await);
        }
        let mut live = health(&server, "live").await;
        let watch = pb::WatchJobRequest { job_id: id, ..Default::default() };
        let mut watched = server.jobs().watch_job(watch).await.unwrap().into_inner();
        if by_signal {
            assert!(server.terminate().success());
        } else {
            server.admin().drain(pb::DrainRequest {}).await.unwrap();
        }
        for stream in &mut followed {
            let next = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(next.status(), ServingStatus::NotServing);
            assert!(tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().is_none(), "it ends");
        }
        let next = tokio::time::timeout(PATIENCE, live.message()).await.unwrap().unwrap();
        assert!(next.is_none(), "a liveness probe does not end a drain: {next:?}");
        let end = loop {
            match tokio::time::timeout(PATIENCE, watched.message()).await.unwrap() {
                Ok(message) => assert!(message.is_some(), "the stream must not end as if the job had"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
        assert_eq!(end.get_details_error_info().unwrap().reason, "SERVER_DRAINING");
        assert!(end.get_details_retry_info().unwrap().retry_delay.is_some());
        if !by_signal {
            assert!(server.ended_itself().success());
        }
        assert!(!server.log().contains("grace"), "nothing holds it: {}", server.log());
    }
}

/// The protocol of health says it so: who follows a service that comes later learns of it by the same stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_followed_and_not_found() {
    let mut server = Server::start().await;
    let request = HealthCheckRequest { service: "nobody.v1.Nothing".to_owned() };
    let mut client = HealthClient::new(server.channel.clone());
    let refused = client.check(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "SERVICE_NOT_FOUND");
    let mut stream = client.watch(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let silence = tokio::time::timeout(std::time::Duration::from_millis(300), stream.message()).await;
    assert!(silence.is_err(), "it stays open: {silence:?}");
    assert!(server.terminate().success());
    let end = tokio::time::timeout(PATIENCE, stream.message()).await.expect("it ends with the server");
    assert!(end.unwrap().is_none());
    assert!(!server.log().contains("grace"), "nothing holds it: {}", server.log());
}

/// A full disk is waited out; meanwhile health sends callers elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn health_says_not_serving_while_nothing_can_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let Some(_disk) = SmallDisk::mount(&data, "24m") else { return };
    let server = Server::over(dir, &["--allow-private-networks"]).await;
    let mut followed = health(&server, "").await;
    let filler = data.join("filler");
    let fill = || {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&filler).unwrap();
        // Until the disk is full, which is the error that is wanted.
        while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
    };
    let submit = async {
        loop {
            // Commits may free pages, or find some in what was written before.
            fill();
            let spec = pb::JobSpec { open: true, ..job((0..50).map(|_| fetch("http://127.0.0.1:2/")).collect()) };
            let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
            let mut jobs = server.jobs();
            drop(tokio::time::timeout(std::time::Duration::from_secs(1), jobs.submit_job(request)).await);
        }
    };
    let next = tokio::time::timeout(PATIENCE, followed.message());
    let next = tokio::select! { next = next => next.unwrap().unwrap().unwrap(), () = submit => unreachable!() };
    assert_eq!(next.status(), ServingStatus::NotServing);
    let ready = curl(&server, &[], "/readyz");
    assert_eq!((ready.code, ready.body.as_str()), (503, "store\n"));
    assert_eq!(curl(&server, &[], "/healthz").code, 200, "the process is alive");
    std::fs::remove_file(&filler).unwrap();
    let next = tokio::time::timeout(PATIENCE, followed.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::Serving);
    assert_eq!(curl(&server, &[], "/readyz").code, 200);
}

#[tokio::test]
async fn a_silent_watch_gives_signs_of_life() {
    let server = Server::start().await;
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let request = pb::WatchJobRequest { job_id: id, ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    let snapshot = stream.message().await.unwrap().unwrap();
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        match next.event.unwrap() {
            Event::Heartbeat(_) => return assert_eq!(next.sequence, snapshot.sequence, "the last durable one"),
            Event::Progress(_) => {}
            other => panic!("nothing happens to this job: {other:?}"),
        }
    }
}

/// Clients of default settings take messages of 4 MiB.
#[tokio::test]
async fn pages_end_by_their_bytes_too() {
    let server = Server::start().await;
    let long = format!("http://127.0.0.1:2/{}", "x".repeat(8_000));
    let mut job_id = String::new();
    for _ in 0..3 {
        let spec = pb::JobSpec {
            labels: (0..64).map(|at| (format!("{at:0256}"), "v".repeat(256))).collect(),
            start_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
            ..job((0..800).map(|_| fetch(long.clone())).collect())
        };
        job_id = server.submit(spec).await;
    }
    let mut jobs = JobServiceClient::new(server.channel.clone());
    let (mut seen, mut pages, mut page_token) = (0, 0, String::new());
    loop {
        let request = pb::ListTasksRequest {
            job_id: job_id.clone(),
            page_size: 1_000,
            page_token,
            include_spec: true,
            ..Default::default()
        };
        let page = jobs.list_tasks(request).await.unwrap().into_inner();
        for (task, expected) in page.tasks.iter().zip(seen..) {
            assert_eq!(task.task_index, expected);
        }
        seen += page.tasks.len() as u32;
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 800);
    assert!(pages > 3, "{pages}");
}

#[tokio::test]
async fn an_item_that_is_too_large_for_a_message_comes_in_parts() {
    let (server, origin) = (Server::start().await, Origin::start());
    let fits = format!("\"{}\"", "y".repeat(3_900_000));
    // Two bytes a letter, so that a cut must not fall within one.
    let large = format!("\"x{}\"", "ü".repeat(5 << 20));
    let page = format!("[\"small\", {fits}, {large}, \"last\"]");
    origin.reply("/list", Reply::json(page));
    let pagination = pb::Pagination {
        style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})),
        max_pages: 1,
        ..Default::default()
    };
    let spec = pb::FetchSpec {
        url: origin.url("/list"),
        max_response_bytes: Some(32 << 20),
        pagination: Some(pagination),
        ..Default::default()
    };
    let id = server.run(job(vec![fetch_as(spec)])).await.job_id;
    let mut contents = ContentServiceClient::new(server.channel.clone());
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    for (after_item, expected) in [(None, vec![0, 1, 2, 3]), (Some(1), vec![2, 3])] {
        let request = pb::StreamItemsRequest { job_id: id.clone(), task: task.clone(), after_item };
        let mut stream = contents.stream_items(request).await.unwrap().into_inner();
        let mut items: Vec<(u64, String, u32)> = Vec::new();
        let mut is_whole = true;
        while let Some(item) = stream.message().await.unwrap() {
            if is_whole {
                items.push((item.item_index, String::new(), 0));
            }
            let last = items.last_mut().unwrap();
            assert_eq!((item.item_index, item.part), (last.0, last.2));
            last.1 += &item.json;
            last.2 += 1;
            is_whole = item.last_part;
        }
        assert!(is_whole);
        assert_eq!(items.iter().map(|item| item.0).collect::<Vec<_>>(), expected);
        for (index, json, parts) in items {
            let (text, count) =
                [("\"small\"", 1), (fits.as_str(), 1), (large.as_str(), 3), ("\"last\"", 1)][index as usize];
            assert!(json == text, "item {index}");
            assert_eq!(parts, count, "item {index}");
        }
    }
}
