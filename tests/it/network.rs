//! What keeps a server safe and reachable on its socket: web pages of others, peers that say nothing or half of it, and
//! more connections than there are places.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use haul::pb;
use haul::pb::job_service_client::JobServiceClient;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::access::{bearer, operator, token};
use crate::it::wire::{call, call_web};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, haul, until};
use crate::support::spec::{fetch, job};

const SUBMIT: &str = "haul.v1.JobService/SubmitJob";

/// Sends these bytes and reads until the server closes.
pub(super) async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    until_closed(stream).await
}

async fn until_closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A submission as a page in a browser sends it, with these header lines.
fn submission(kind: &str, lines: &str) -> Vec<u8> {
    let message =
        pb::SubmitJobRequest { job: Some(pb::JobSpec { open: true, ..job(Vec::new()) }), ..Default::default() };
    let message = message.encode_to_vec();
    let mut bytes = format!(
        "POST /{SUBMIT} HTTP/1.1\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {}\r\n{lines}\r\n",
        message.len() + 5
    )
    .into_bytes();
    bytes.push(0);
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

async fn jobs(server: &Server) -> usize {
    server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs.len()
}

#[tokio::test]
async fn pages_of_others_are_refused_before_anything_runs() {
    let server = Server::start().await;
    let port = server.address.rsplit(':').next().unwrap();
    let own = format!("host: {}\r\n", server.address);
    let web = "application/grpc-web+proto";
    for (lines, reason) in [
        (format!("host: evil.example:{port}\r\norigin: http://evil.example:{port}\r\n"), "AUTHORITY_NOT_ALLOWED"),
        ("host: evil.example\r\n".to_owned(), "AUTHORITY_NOT_ALLOWED"),
        (format!("{own}host: evil.example\r\n"), "AUTHORITY_NOT_ALLOWED"),
        (String::new(), "AUTHORITY_NOT_ALLOWED"),
        (format!("{own}origin: http://evil.example\r\n"), "ORIGIN_NOT_ALLOWED"),
        (format!("{own}origin: null\r\n"), "ORIGIN_NOT_ALLOWED"),
        (format!("{own}origin: http://localhost:1\r\n"), "ORIGIN_NOT_ALLOWED"),
        (format!("{own}sec-fetch-site: cross-site\r\n"), "ORIGIN_NOT_ALLOWED"),
    ] {
        let answer = raw(&server, &submission(web, &lines)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("grpc-status: 7\r\n"), "{lines}{answer}");
        assert!(!answer.contains("access-control"), "{answer}");
        let plain = raw(&server, &submission("text/plain", &lines)).await;
        let status = if reason.starts_with('A') { "HTTP/1.1 421" } else { "HTTP/1.1 403" };
        assert!(plain.starts_with(status) && plain.contains(reason), "{lines}{plain}");
    }
    assert_eq!(jobs(&server).await, 0);
    let refused = call_web(&server, SUBMIT, b"", &[("origin", "http://evil.example")]).await.status();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ORIGIN_NOT_ALLOWED");
    for lines in [format!("{own}origin: http://{}\r\nsec-fetch-site: same-origin\r\n", server.address), own] {
        let answer = raw(&server, &submission(web, &lines)).await;
        assert!(answer.contains("grpc-status:0") && !answer.contains("access-control"), "{lines}{answer}");
    }
    assert_eq!(jobs(&server).await, 2);
}

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    let server = Server::with(&["--cors-origins", "https://dash.example", "--web-hosts", "haul.lan"]).await;
    let listed = "host: haul.lan\r\norigin: https://dash.example\r\nsec-fetch-site: cross-site\r\n";
    let answer = raw(&server, &submission("application/grpc-web+proto", listed)).await;
    assert!(answer.contains("access-control-allow-origin: https://dash.example\r\n"), "{answer}");
    assert!(answer.contains("vary: Origin\r\n") && answer.contains("grpc-status-details-bin"), "{answer}");
    assert!(!answer.contains("access-control-allow-credentials"), "{answer}");
    let ask = |origin: &str| {
        format!(
            "OPTIONS /{SUBMIT} HTTP/1.1\r\nhost: haul.lan\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\
             access-control-request-headers: content-type,x-grpc-web\r\nconnection: close\r\n\r\n"
        )
    };
    let granted = raw(&server, ask("https://dash.example").as_bytes()).await;
    assert!(
        granted.starts_with("HTTP/1.1 204")
            && granted.contains("access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE"),
        "{granted}"
    );
    assert!(granted.contains("x-grpc-web") && granted.contains("vary: Origin"), "{granted}");
    let refused = raw(&server, ask("http://haul.lan").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 403") && !refused.contains("access-control"), "{refused}");
    assert_eq!(jobs(&server).await, 1);
    let info = server.admin().get_server_info(pb::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.access.unwrap().cors_origins, ["https://dash.example"]);
}

#[tokio::test]
async fn peers_that_fall_silent_are_closed() {
    let server = Server::with(&["--handshake-timeout", "300ms", "--request-body-idle", "300ms"]).await;
    let half = format!(
        "POST /{SUBMIT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/grpc-web+proto\r\n\
         content-length: 1000\r\n\r\n\0"
    );
    for first in [&b""[..], b"PRI * HTTP/2.0\r\n", b"POST /x HTTP/1.1\r\n", half.as_bytes()] {
        let answer = raw(&server, first).await;
        let is_told = answer.contains("grpc-status: 4") || answer.contains("grpc-status:4");
        assert_eq!(is_told, first == half.as_bytes(), "{answer}");
    }
}

#[tokio::test]
async fn a_stream_of_chunks_may_be_silent_between_them_and_not_within_one() {
    let server = Server::with(&["--request-body-idle", "300ms", "--allow-private-networks"]).await;
    let origin = Origin::start();
    origin.reply("/", Reply::hang());
    let url = origin.url("/");
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let chunk = |chunk_id: &str| pb::AddTasksRequest {
        job_id: id.clone(),
        chunk_id: chunk_id.to_owned(),
        tasks: vec![fetch(url.clone())],
    };
    let (first, second) = (chunk("a"), chunk("b"));
    let chunks = futures_util::stream::unfold(0, move |at| {
        let (first, second) = (first.clone(), second.clone());
        async move {
            match at {
                0 => Some((first, 1)),
                1 => {
                    // Longer than a request that is not whole may be silent.
                    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
                    Some((second, 2))
                }
                _ => None,
            }
        }
    });
    let mut answers = server.jobs().add_tasks(chunks).await.unwrap().into_inner();
    for expected in ["a", "b"] {
        assert_eq!(answers.message().await.unwrap().unwrap().chunk_id, expected);
    }
    let mut cut = half_sent(&server, "AddTasks", 1 << 20).await;
    assert_eq!(cut.status().await, Some(Code::DeadlineExceeded as i32));
}

/// A call whose message was begun.
struct HalfSent {
    response: h2::client::ResponseFuture,
    _body: h2::SendStream<bytes::Bytes>,
    _sender: h2::client::SendRequest<bytes::Bytes>,
    _connection: tokio::task::JoinSet<()>,
}

impl HalfSent {
    /// Waits for the status that ends the call.
    async fn status(&mut self) -> Option<i32> {
        let response = tokio::time::timeout(PATIENCE, &mut self.response).await.unwrap().unwrap();
        if let Some(status) = response.headers().get("grpc-status") {
            return status.to_str().unwrap().parse().ok();
        }
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        body.trailers().await.unwrap()?.get("grpc-status")?.to_str().unwrap().parse().ok()
    }
}

pub(crate) async fn h2_connection(
    server: &Server,
) -> (h2::client::SendRequest<bytes::Bytes>, tokio::task::JoinSet<()>) {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    (sender, driver)
}

/// Begins a message of this length.
pub(crate) async fn begin(
    sender: &h2::client::SendRequest<bytes::Bytes>,
    server: &Server,
    method: &str,
    length: u32,
) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    let request = http::Request::post(format!("http://{}/haul.v1.JobService/{method}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    let mut head = vec![0];
    head.extend(length.to_be_bytes());
    head.extend([0; 100]);
    body.send_data(head.into(), false).unwrap();
    (response, body)
}

async fn half_sent(server: &Server, method: &str, length: u32) -> HalfSent {
    let (sender, connection) = h2_connection(server).await;
    let (response, body) = begin(&sender, server, method, length).await;
    HalfSent { response, _body: body, _sender: sender, _connection: connection }
}

#[tokio::test]
async fn a_connection_announces_no_more_than_its_share() {
    let server = Server::start().await;
    let (sender, _connection) = h2_connection(&server).await;
    let length = 15 << 20;
    let (mut answers, mut bodies) = (FuturesUnordered::new(), Vec::new());
    for _ in 0..3 {
        let (answer, body) = begin(&sender, &server, "SubmitJob", length).await;
        answers.push(answer);
        bodies.push(body);
    }
    // Which of them comes first is the scheduler's business.
    let refused = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INBOUND_BUFFER");
    assert!(status.get_details_retry_info().is_some());
    // Another connection has a share of its own, and this one has room again when its messages are given up.
    assert_eq!(jobs(&server).await, 0);
    drop((answers, bodies));
    loop {
        let (answer, body) = begin(&sender, &server, "SubmitJob", length).await;
        // It waits for its message where there was room.
        if tokio::time::timeout(std::time::Duration::from_millis(100), answer).await.is_err() {
            break;
        }
        drop(body);
    }
    let (too_long, _body) = begin(&sender, &server, "SubmitJob", 17 << 20).await;
    let refused = tokio::time::timeout(PATIENCE, too_long).await.unwrap().unwrap();
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.get_details_error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_few_calls_that_need_no_token() {
    let server = Server::with(&["--auth", "required"]).await;
    let (sender, _connection) = h2_connection(&server).await;
    let ask = async || {
        let request = http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        sender.clone().ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap()
    };
    let (mut answers, mut bodies) = (FuturesUnordered::new(), Vec::new());
    for _ in 0..17 {
        let (answer, body) = ask().await;
        answers.push(answer);
        bodies.push(body);
    }
    // None of them is whole, so one alone is answered: which of them came last is the scheduler's business.
    let refused = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_STREAMS"));
    // Whoever asks on another connection is answered, and on this one when the others are given up.
    let answered = call(&server, "grpc.health.v1.Health/Check", b"", &[]).await;
    assert_eq!(answered.status().code(), Code::Ok);
    drop((answers, bodies));
    until(async || {
        let (answer, mut body) = ask().await;
        body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        !answer.headers().contains_key("grpc-status")
    })
    .await;
}

#[tokio::test]
async fn connections_without_calls_give_way_to_new_ones() {
    let server = Server::with(&["--max-connections", "8"]).await;
    // The test's own connection has called, so it is not among the first to go.
    assert_eq!(jobs(&server).await, 0);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let mut client = JobServiceClient::new(channel.connect().await.unwrap());
    client.list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    for stream in silent.drain(..30) {
        assert_eq!(until_closed(stream).await, "");
    }
    // Calls that are open keep their connections, whatever comes.
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let watch = pb::WatchJobRequest { job_id: id, ..Default::default() };
    let mut watched = client.watch_job(watch).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    watched.message().await.unwrap().unwrap();
}

/// A connection of somebody who asks for something and opens a window of so many bytes for the answer, of which only the head
/// comes, and so much. The task is the connection, and ends with it.
async fn unread(
    server: &Server,
    path: &str,
    window: u32,
) -> (h2::client::SendRequest<bytes::Bytes>, tokio::task::JoinSet<()>) {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(window).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    let request = http::Request::get(format!("http://{}{path}", server.address)).body(()).unwrap();
    let mut ready = sender.ready().await.unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    // A stream that is dropped is reset, and so read enough.
    driver.spawn(async move {
        let _body = response.into_body();
        std::future::pending::<()>().await;
    });
    (ready, driver)
}

#[tokio::test]
async fn strangers_who_read_nothing_keep_nobody_out() {
    let server = Server::with(&["--max-connections", "8"]).await;
    let token = token(&server, "", &["op", "--grant", "read", "--grant", "operator"]);
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(unread(&server, "/healthz", 0).await);
    }
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let mut request = tonic::Request::new(pb::ListJobsRequest::default());
    request.metadata_mut().insert("authorization", bearer(&token).parse().unwrap());
    JobServiceClient::new(channel.connect().await.unwrap()).list_jobs(request).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_answer_loses_its_connection() {
    let server = Server::with(&["--answer-idle", "1s"]).await;
    // With a little of a window the last of an answer is handed over at once, and waits in the connection.
    for (path, window) in [("/healthz", 0), ("/v1/openapi.json", 0), ("/v1/openapi.json", 1), ("/app.js", 1)] {
        let (_sender, mut connection) = unread(&server, path, window).await;
        let closed = tokio::time::timeout(PATIENCE, connection.join_next()).await;
        closed.unwrap_or_else(|_| panic!("the server closes the connection: {path} with a window of {window}"));
    }
    // A stream whose server has nothing to say waits for nobody.
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let watch = pb::WatchJobRequest { job_id: id, ..Default::default() };
    let mut watched = server.jobs().watch_job(watch).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    watched.message().await.unwrap().expect("a heartbeat, and no end");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_body_is_read_before_it_is_known_who_calls() {
    let server = Server::start().await;
    operator(&server);
    for (kind, length) in [("application/json", 16_u64 << 20), ("application/json", 1 << 40), ("text/plain", 7)] {
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{{",
            server.address
        );
        let answer = raw(&server, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("NO_CREDENTIALS"), "{answer}");
    }
}

#[tokio::test]
async fn a_message_that_trickles_in_ends() {
    let server = Server::with(&["--request-body-idle", "300ms"]).await;
    for kind in ["application/json", "application/grpc-web+proto"] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let path = if kind == "application/json" { "v1/jobs" } else { SUBMIT };
        let head = format!(
            "POST /{path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: \
             100000\r\n\r\n",
            server.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The head of a message of gRPC, or what begins a text of JSON; it never falls silent.
        let first: &[u8] = if kind == "application/json" { b"\"" } else { &[0, 0, 1, 0, 0] };
        stream.write_all(first).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let mut sending = tokio::task::JoinSet::new();
        sending.spawn(async move {
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        let mut answer = [0; 4_096];
        let length = tokio::time::timeout(PATIENCE, reader.read(&mut answer)).await.expect("it ends").unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(
            answer.contains("is incomplete")
                || answer.contains("was still incomplete")
                || answer.contains("grpc-status: 4"),
            "{answer}"
        );
    }
}

#[test]
fn what_other_machines_can_reach_is_refused_unless_it_is_open_on_purpose() {
    for listen in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let output = haul(&["serve", "--listen", listen]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("authentication") && said.contains("--insecure-listen open"), "{said}");
    }
}

/// Without gRPC-Web there is no dashboard either, which calls by it; plain gRPC and the other face go on.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_the_operators_to_switch_off() {
    let call = |server: &Server, kind: &str| {
        let header = format!("content-type: {kind}");
        let args = ["--header", &*header, "--header", "x-grpc-web: 1", "--data-binary", "@/dev/null"];
        crate::it::curl::curl(server, &args, "/haul.v1.AccessService/WhoAmI")
    };
    let on = Server::with(&[]).await;
    assert_eq!(call(&on, "application/grpc-web+proto").code, 200);
    // What is no call has no body, which would be taken for messages.
    let args = ["--header", "content-type: application/grpc-web+proto"];
    let refused = crate::it::curl::curl(&on, &args, "/haul.v1.AccessService/WhoAmI");
    assert_eq!((refused.code, refused.body.as_str()), (405, ""));
    // A proxy that speaks HTTP/1.1 to the server is the usual cause.
    let refused = call(&on, "application/grpc");
    assert_eq!((refused.code, refused.fault().0.as_str()), (415, "UNSUPPORTED_MEDIA_TYPE"));
    let said = refused.json()["error"]["message"].to_string();
    assert!(said.contains("gRPC needs HTTP/2"), "{said}");
    let off = Server::with(&["--grpc-web=false"]).await;
    for kind in ["application/grpc-web+proto", "application/grpc-web", "application/grpc-web-text"] {
        let refused = call(&off, kind);
        assert_eq!((refused.code, refused.fault().0.as_str()), (415, "UNSUPPORTED_MEDIA_TYPE"), "{kind}");
    }
    assert_eq!(crate::it::curl::curl(&off, &[], "/").code, 404, "no dashboard");
    assert_eq!(crate::it::curl::curl(&off, &[], "/v1/whoami").code, 200);
    off.jobs().list_jobs(haul::pb::ListJobsRequest::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let both = ["--grpc-web=false", "--web", "on"].map(str::to_owned);
    let (code, said) = crate::support::server::refusal(crate::support::server::command(dir.path(), &both));
    assert!(code == 2 && said.contains("grpc_web"), "{said}");
}
