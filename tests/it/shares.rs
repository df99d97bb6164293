//! What one caller may take of what all share, and whether those who do not read can hold up the end of a server.

use bytes::Bytes;
use haul::pb;
use haul::pb::content_service_client::ContentServiceClient;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::access::{bearer, operator, sending, token};
use crate::it::network::h2_connection;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{download, fetch_as, job};

/// An eighth of its descriptors are for files that are read.
const DESCRIPTORS: u32 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_content_keeps_few_files_open() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/large", Reply::ok(vec![7; 4 << 20]));
    server.limit_descriptors(DESCRIPTORS).await;
    let job_id = server.run(job(vec![download(origin.url("/large"))])).await.job_id;
    let operator = operator(&server);
    let tokens = ["one", "two"].map(|name| token(&server, &operator, &[name, "--grant", "read"]));
    let read = async |token: &str| {
        let task = Some(pb::read_content_request::Task::TaskIndex(0));
        let request = pb::ReadContentRequest { job_id: job_id.clone(), task, ..Default::default() };
        ContentServiceClient::new(sending(&server, token)).read_content(request).await
    };
    let mut open = Vec::new();
    let refused = loop {
        match read(&tokens[0]).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
        assert!(open.len() < DESCRIPTORS as usize, "any number of files is open");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_WATCHERS");
    assert_eq!(open.len(), DESCRIPTORS as usize / 8 / 2, "half of them, since others want some");
    read(&tokens[1]).await.expect("there are some for another");
    open.pop();
    until(async || read(&tokens[0]).await.is_ok()).await;
    assert!(server.terminate().success());
    assert!(!server.log().contains("grace"), "nobody who does not read holds it: {}", server.log());
}

/// Sends all that a stream has room for, until it has sent so many bytes or is refused.
async fn pour(body: &mut h2::SendStream<Bytes>, mut left: usize) {
    while left > 0 {
        body.reserve_capacity(left.min(64 << 10));
        let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { return };
        if body.send_data(vec![b'a'; room].into(), false).is_err() {
            return;
        }
        left -= room.min(left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_leave_room_for_those_of_others() {
    let server = Server::with(&["--inbound-buffer-bytes", "33554432", "--request-body-idle", "10m"]).await;
    let operator = operator(&server);
    let tokens = ["one", "two"].map(|name| token(&server, &operator, &[name, "--grant", "submit"]));
    let begin = async |sender: &h2::client::SendRequest<Bytes>, token: &str, length: usize| {
        let request = http::Request::post(format!("http://{}/haul.v1.AccessService/ListTokens", server.address))
            .header("content-type", "application/grpc")
            .header("authorization", bearer(token))
            .header("te", "trailers");
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let head = [&[0][..], &(length as u32).to_be_bytes()].concat();
        body.send_data(head.into(), false).unwrap();
        (response, body)
    };
    // Each has its connection, so that it is the room of all that they would take.
    let mut unended = Vec::new();
    for _ in 0..3 {
        let (sender, connection) = h2_connection(&server).await;
        let (response, mut body) = begin(&sender, &tokens[0], 12 << 20).await;
        let poured = tokio::time::timeout(PATIENCE, pour(&mut body, 10 << 20)).await;
        poured.expect("it is taken or refused");
        unended.push((sender, connection, response, body));
    }
    let (sender, _connection) = h2_connection(&server).await;
    let message = pb::ListTokensRequest { principal: "a".repeat(7 << 20), ..Default::default() }.encode_to_vec();
    let (response, mut body) = begin(&sender, &tokens[1], message.len()).await;
    body.send_data(message.into(), true).unwrap();
    let answer = tokio::time::timeout(PATIENCE, response).await.expect("there is an answer").unwrap();
    let status = tonic::Status::from_header_map(answer.headers());
    let reason = status.as_ref().and_then(tonic_types::StatusExt::get_details_error_info).map(|info| info.reason);
    assert_ne!(reason.as_deref(), Some("INBOUND_BUFFER"), "another finds no room: {status:?}");
}

/// Bytes of answers that nobody reads have a bound, and what is beyond it says so.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_leave_room_for_those_of_others() {
    /// What one connection may have of them.
    const UNREAD_MAX: usize = 128 << 20;
    const BODY: usize = 2_000_000;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/large", Reply::ok(vec![7; BODY]));
    let large = pb::FetchSpec { url: origin.url("/large"), max_response_bytes: Some(2 << 20), ..Default::default() };
    let job_id = server.run(job(vec![fetch_as(large)])).await.job_id;
    let task = Some(pb::get_task_request::Task::TaskIndex(0));
    let message =
        pb::GetTaskRequest { job_id: job_id.clone(), task, include_body: true, ..Default::default() }.encode_to_vec();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    // A window of a byte, so that the server makes each answer and cannot send it.
    let mut client = h2::client::Builder::new();
    let (mut sender, connection) = client.initial_window_size(1).handshake::<_, Bytes>(stream).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    let mut ask = async || {
        let request = http::Request::post(format!("http://{}/haul.v1.JobService/GetTask", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        sender = sender.clone().ready().await.unwrap();
        let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        body.send_data([head, message.clone()].concat().into(), true).unwrap();
        tokio::time::timeout(PATIENCE, response).await.expect("there is an answer").unwrap().into_body()
    };
    let mut unread = Vec::new();
    let refused = loop {
        let mut body = ask().await;
        let first = tokio::time::timeout(PATIENCE, body.data()).await.expect("there is an answer");
        if first.is_none() {
            let trailers = body.trailers().await.unwrap().unwrap();
            break tonic::Status::from_header_map(&trailers).unwrap();
        }
        unread.push(body);
        assert!(unread.len() <= UNREAD_MAX / BODY, "any number of bytes waits");
    };
    assert_eq!(unread.len(), UNREAD_MAX / BODY);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "OUTBOUND_BUFFER");
    assert_eq!(refused.get_details_quota_failure().unwrap().violations[0].subject, "outbound_buffer");
    assert!(refused.get_details_retry_info().is_some());
    assert!(refused.message().starts_with("too many bytes of responses wait for this client"), "{refused:?}");
    // Another connection has room, and so has this one once something is read.
    let task = Some(pb::get_task_request::Task::TaskIndex(0));
    let request = pb::GetTaskRequest { job_id, task, include_body: true, ..Default::default() };
    server.jobs().get_task(request).await.unwrap();
    unread.pop();
    let has_room = async { while ask().await.data().await.is_none() {} };
    tokio::time::timeout(PATIENCE, has_room).await.expect("what is not read any more gives its room back");
}

/// Speaks HTTP/1, and reads nothing of what comes back.
async fn say(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    // It may be that the server takes no more, since nothing is read of what it answers.
    let said = tokio::time::timeout(std::time::Duration::from_secs(1), stream.write_all(text.as_bytes())).await;
    assert!(said.is_err() || said.is_ok_and(|said| said.is_ok()), "the connection is open");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_holds_up_the_end_of_a_server() {
    let mut server = Server::start().await;
    let host = format!("host: {}\r\n", server.address);
    let whole = format!("GET /v1/openapi.json HTTP/1.1\r\n{host}\r\n");
    let watch = format!("GET /v1/jobs:watch HTTP/1.1\r\n{host}accept: text/event-stream\r\n\r\n");
    let body =
        format!("POST /v1/jobs HTTP/1.1\r\n{host}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{");
    let mut open = Vec::new();
    for text in ["GET /v1/jobs HT", &*whole.repeat(100), &*watch, &*body] {
        open.push(say(&server, text).await);
    }
    // Over HTTP/2: with a window of nothing, and with a message that is never whole.
    let mut drivers = JoinSet::new();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let mut client = h2::client::Builder::new();
    let (sender, connection) = client.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    drivers.spawn(async move {
        let _ = connection.await;
    });
    let request = http::Request::get(format!("http://{}/v1/openapi.json", server.address)).body(()).unwrap();
    let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
    let _answer = answer.await.unwrap();
    let (sender, _connection) = h2_connection(&server).await;
    let _half = crate::it::network::begin(&sender, &server, "SubmitJob", 1 << 20).await;
    assert!(server.terminate().success());
    assert!(!server.log().contains("grace"), "{}", server.log());
}
