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
    let request = http::Request::post(format!("http://{}/haul.v1.{method}", server.address))
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
    let mut open = Vec::new();
    for chunk_id in ["a", "b"] {
        let (response, mut body) = send(&sender, &server, "JobService/AddTasks", chunk(chunk_id).await).await;
        let mut answers = answered(response).await.into_body();
        assert!(answers.data().await.unwrap().unwrap().len() > 5, "the chunk is durable");
        // The next one takes the room of the one before it.
        body.send_data(chunk(&format!("{chunk_id}2")).await, false).unwrap();
        assert!(answers.data().await.unwrap().unwrap().len() > 5);
        open.push((answers, body));
    }
    let (response, _body) = send(&sender, &server, "JobService/AddTasks", chunk("c").await).await;
    let response = answered(response).await;
    let trailers = if response.headers().contains_key("grpc-status") {
        response.headers().clone()
    } else {
        let mut answers = response.into_body();
        assert!(answers.data().await.is_none(), "two streams have the share of the connection");
        answers.trailers().await.unwrap().unwrap()
    };
    let status = tonic::Status::from_header_map(&trailers).unwrap();
    assert_eq!(status.get_details_error_info().unwrap().reason, "INBOUND_BUFFER", "{status:?}");
    drop(open);
    let chunk = chunk("c").await;
    loop {
        let (response, body) = send(&sender, &server, "JobService/AddTasks", chunk.clone()).await;
        // The room is given back when the server has seen that the streams were reset.
        if answered(response).await.into_body().data().await.is_some_and(|data| data.is_ok()) {
            break;
        }
        drop(body);
    }
}
