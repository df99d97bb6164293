//! Requests whose messages are whole and which do not end: what they make the server keep, and for how long.

use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use haul::pb;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::network::h2_connection;
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::{fetch, job};

const LARGE: usize = 15 << 20;

type Sender = h2::client::SendRequest<Bytes>;

fn framed(flag: u8, message: &[u8]) -> Bytes {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

async fn packed(message: &[u8]) -> Bytes {
    let mut packed = Vec::new();
    GzipEncoder::new(message).read_to_end(&mut packed).await.unwrap();
    framed(1, &packed)
}

/// Sends bytes of a call that does not end.
async fn send(
    sender: &Sender,
    server: &Server,
    method: &str,
    bytes: Bytes,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    send_to(sender, server, &format!("haul.v1.{method}"), bytes).await
}

/// The same, to a method of any package.
async fn send_to(
    sender: &Sender,
    server: &Server,
    method: &str,
    bytes: Bytes,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let request = http::Request::post(format!("http://{}/{method}", server.address))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .header("te", "trailers");
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(bytes, false).unwrap();
    (response, body)
}

async fn answered(response: h2::client::ResponseFuture) -> http::Response<h2::RecvStream> {
    tokio::time::timeout(PATIENCE, response).await.expect("there is an answer").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_of_a_call_is_unpacked_when_its_request_has_ended() {
    // The last of them is silent until those before it are answered.
    let server = Server::with(&["--request-body-idle", "10m"]).await;
    let (sender, _connection) = h2_connection(&server).await;
    let large = pb::ListTokensRequest { principal: "a".repeat(LARGE), ..Default::default() };
    let large = packed(&large.encode_to_vec()).await;
    let before = server.peak_mib();
    let mut calls = Vec::new();
    for _ in 0..40 {
        calls.push(send(&sender, &server, "AccessService/ListTokens", large.clone()).await);
    }
    for (response, mut body) in calls {
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(answered(response).await.headers().get("grpc-status"), None, "it is answered with a message");
    }
    let grown = server.peak_mib() - before;
    assert!(grown < 300, "40 messages of 15 MiB took {grown} MiB");
}

#[tokio::test]
async fn a_call_that_takes_one_message_takes_no_byte_after_it() {
    let server = Server::start().await;
    let (sender, _connection) = h2_connection(&server).await;
    for method in ["AccessService/WhoAmI", "JobService/WatchJobs"] {
        let (response, mut body) = send(&sender, &server, method, framed(0, &[])).await;
        body.send_data(framed(0, &[]), false).unwrap();
        let status = tonic::Status::from_header_map(answered(response).await.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert!(fields[0].description.contains("one message"), "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_of_chunks_keeps_is_counted_until_it_ends() {
    let server = Server::start().await;
    let (sender, _connection) = h2_connection(&server).await;
    let job_id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: job_id.clone() }).await.unwrap();
    // A chunk of one task, with a field that no reader knows.
    let chunk = async |chunk_id: &str| {
        let tasks = vec![fetch("http://a.example/".to_owned())];
        let mut chunk =
            pb::AddTasksRequest { job_id: job_id.clone(), chunk_id: chunk_id.into(), tasks }.encode_to_vec();
        prost::encoding::bytes::encode(100, &vec![0_u8; LARGE], &mut chunk);
        packed(&chunk).await
    };
    let (response, mut body) = send(&sender, &server, "JobService/AddTasks", chunk("a").await).await;
    let mut first = answered(response).await.into_body();
    assert!(first.data().await.unwrap().unwrap().len() > 5, "the chunk is durable");
    // The next one takes the room of the one before it.
    body.send_data(chunk("a2").await, false).unwrap();
    assert!(first.data().await.unwrap().unwrap().len() > 5);
    // Half of the connection's share is for streams that wait for their next chunk. This one gets its chunk through.
    let (response, _second) = send(&sender, &server, "JobService/AddTasks", chunk("b").await).await;
    let status = ended_after_one(response).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INBOUND_BUFFER", "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    body.send_data(chunk("a3").await, false).unwrap();
    assert!(first.data().await.unwrap().unwrap().len() > 5, "the first is as it was");
    drop((first, body));
    let chunk = chunk("c").await;
    loop {
        let (response, mut body) = send(&sender, &server, "JobService/AddTasks", chunk.clone()).await;
        let mut answers = answered(response).await.into_body();
        // The room is given back when the server has seen that the stream was reset.
        let mut is_durable = async || answers.data().await.is_some_and(|data| data.is_ok());
        if is_durable().await && body.send_data(chunk.clone(), false).is_ok() && is_durable().await {
            break;
        }
    }
}

/// Reads the one answer of a stream, and how the server ended it.
async fn ended_after_one(response: h2::client::ResponseFuture) -> tonic::Status {
    let mut answers = answered(response).await.into_body();
    assert!(answers.data().await.unwrap().unwrap().len() > 5, "the chunk is durable");
    let end = tokio::time::timeout(PATIENCE, answers.data()).await.expect("the stream ends");
    assert!(end.is_none(), "{end:?}");
    tonic::Status::from_header_map(&answers.trailers().await.unwrap().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_leave_half_of_the_room_for_calls() {
    let server = Server::with(&["--inbound-buffer-bytes", "33554432"]).await;
    let job_id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: job_id.clone() }).await.unwrap();
    let chunk = async |chunk_id: &str, more: usize| {
        let tasks = vec![fetch("http://a.example/".to_owned())];
        let mut chunk =
            pb::AddTasksRequest { job_id: job_id.clone(), chunk_id: chunk_id.into(), tasks }.encode_to_vec();
        prost::encoding::bytes::encode(100, &vec![0_u8; more], &mut chunk);
        packed(&chunk).await
    };
    // Each has its connection, so that it is the room of all that they would keep.
    let (sender, _connection) = h2_connection(&server).await;
    let (response, _body) = send(&sender, &server, "JobService/AddTasks", chunk("a", LARGE).await).await;
    let mut first = answered(response).await.into_body();
    assert!(first.data().await.unwrap().unwrap().len() > 5, "the chunk is durable");
    let (sender, _connection) = h2_connection(&server).await;
    let (response, _body) = send(&sender, &server, "JobService/AddTasks", chunk("b", LARGE).await).await;
    let status = ended_after_one(response).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INBOUND_BUFFER", "{status:?}");
    let large = pb::ListTokensRequest { principal: "a".repeat(LARGE), ..Default::default() };
    let large = packed(&large.encode_to_vec()).await;
    loop {
        let (response, mut body) = send(&sender, &server, "AccessService/ListTokens", large.clone()).await;
        let _ = body.send_data(Bytes::new(), true);
        // The room is given back when the server has seen the end of its answer.
        if answered(response).await.headers().get("grpc-status").is_none() {
            break;
        }
    }
    // A small chunk keeps nothing that counts, and its stream stays open.
    let (response, mut body) = send(&sender, &server, "JobService/AddTasks", chunk("d", 100).await).await;
    let mut answers = answered(response).await.into_body();
    for chunk_id in ["e", "f"] {
        assert!(answers.data().await.unwrap().unwrap().len() > 5);
        body.send_data(chunk(chunk_id, 100).await, false).unwrap();
    }
    assert!(answers.data().await.unwrap().unwrap().len() > 5);
}

#[tokio::test]
async fn questions_about_names_are_short() {
    let server = Server::start().await;
    let (sender, _connection) = h2_connection(&server).await;
    let name = |bytes: usize| [&[10][..], &varint(bytes), &vec![b'a'; bytes]].concat();
    for (bytes, reason) in [(1 << 20, "MESSAGE_TOO_LARGE"), (3 << 10, "SERVICE_NOT_FOUND")] {
        for message in [packed(&name(bytes)).await, framed(0, &name(bytes))] {
            let (response, mut body) = send_to(&sender, &server, "grpc.health.v1.Health/Check", message).await;
            let _ = body.send_data(Bytes::new(), true);
            let status = tonic::Status::from_header_map(answered(response).await.headers()).unwrap();
            assert_eq!(status.get_details_error_info().unwrap().reason, reason, "{status:?}");
            assert!(!status.message().contains("16 MiB"), "{status:?}");
        }
    }
}

fn varint(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number as u64, &mut bytes);
    bytes
}
