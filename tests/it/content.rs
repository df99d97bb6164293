//! Results by `curl`: whole, in ranges, under conditions, and harmless to a browser.

use haul::pb;

use crate::it::curl::{Answer, curl};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{download_as, fetch, fetch_as, group, job};

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

async fn stage() -> (Server, Origin, String) {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/letters", Reply::ok(LETTERS).header("Content-Type", "text/plain; charset=utf-8"));
    origin.reply("/page", Reply::ok("<script>alert(1)</script>").header("Content-Type", "text/html"));
    origin.reply("/empty", Reply::ok(""));
    let pagination =
        pb::Pagination { style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})), ..Default::default() };
    origin.reply("/list", Reply::json("[1, 2, {\"a\": 3}]"));
    let file = pb::DownloadSpec {
        url: origin.url("/letters"),
        path: "sub/ö \"x\".txt".into(),
        digests: vec!["sha256".into()],
        ..Default::default()
    };
    let list = pb::FetchSpec { url: origin.url("/list"), pagination: Some(pagination), ..Default::default() };
    let tasks = vec![
        download_as(file),
        fetch(origin.url("/page")),
        fetch(origin.url("/empty")),
        fetch_as(list),
        fetch(origin.url("/missing")),
    ];
    let spec = pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 0)), ..job(tasks) };
    let id = server.run(spec).await.job_id;
    (server, origin, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions() {
    let (mut server, _origin, id) = stage().await;
    let path = format!("/v1/jobs/{id}/tasks/0/content");
    let whole = curl(&server, &[], &path);
    assert_eq!((whole.code, whole.body.as_str()), (200, LETTERS));
    assert_eq!(whole.header("content-length"), Some("26"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("repr-digest"), Some("sha-256=:ccSA35PWri8e+tFEfGbJUl4xYhjPUfyNntgy8trxi3M=:"));
    assert!(whole.header("last-modified").unwrap().ends_with("GMT"));
    assert_eq!(whole.header("cache-control"), Some("private, no-cache"));
    let tag = whole.header("etag").unwrap().to_owned();
    let asked = |server: &Server, headers: &[&str]| {
        let args: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
        curl(server, &args, &path)
    };
    let part = |answer: &Answer| {
        (answer.code, answer.header("content-range").unwrap_or_default().to_owned(), answer.body.clone())
    };
    let expected = |code, range: &str, body: &str| (code, range.to_owned(), body.to_owned());
    for (headers, wanted) in [
        (vec!["Range: bytes=0-2".to_owned()], expected(206, "bytes 0-2/26", "abc")),
        (vec!["Range: bytes=23-".into()], expected(206, "bytes 23-25/26", "xyz")),
        (vec!["Range: bytes=-2".into()], expected(206, "bytes 24-25/26", "yz")),
        (vec!["Range: bytes=0-1,4-5".into()], expected(200, "", LETTERS)),
        (vec!["Range: lines=1-2".into()], expected(200, "", LETTERS)),
        (vec!["Range: bytes=1-2".into(), format!("If-Range: {tag}")], expected(206, "bytes 1-2/26", "bc")),
        (vec!["Range: bytes=1-2".into(), "If-Range: \"other\"".into()], expected(200, "", LETTERS)),
        (vec![format!("If-None-Match: {tag}")], expected(304, "", "")),
        (vec![format!("If-Match: {tag}")], expected(200, "", LETTERS)),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(part(&asked(&server, &headers)), wanted, "{headers:?}");
    }
    let beyond = asked(&server, &["Range: bytes=26-"]);
    assert_eq!((beyond.code, beyond.header("content-range")), (416, Some("bytes */26")));
    assert_eq!(beyond.fault().0, "RANGE_NOT_SATISFIABLE");
    let changed = asked(&server, &["If-Match: \"other\""]);
    assert_eq!((changed.code, changed.fault().0.as_str()), (412, "PRECONDITION_FAILED"));
    for args in [&["--head"][..], &["--head", "--http2-prior-knowledge"]] {
        let head = curl(&server, args, &path);
        assert_eq!((head.code, head.header("content-length"), head.body.as_str()), (200, Some("26"), ""));
        assert_eq!(head.header("etag"), Some(tag.as_str()));
    }
    let condition = format!("If-None-Match: {tag}");
    let same = curl(&server, &["--head", "--header", &condition], &path);
    assert_eq!((same.code, same.header("content-length")), (304, Some("26")), "the length is that of the content");
    server.restart().await;
    assert_eq!(curl(&server, &[], &path).header("etag"), Some(tag.as_str()), "the tag survives a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_origin_runs_in_a_browser() {
    let (server, _origin, id) = stage().await;
    let content = |index: u32| curl(&server, &[], &format!("/v1/jobs/{id}/tasks/{index}/content"));
    for index in 0..4 {
        let answer = content(index);
        assert_eq!((answer.code, answer.header("x-content-type-options")), (200, Some("nosniff")), "{answer:?}");
        assert_eq!(answer.header("content-security-policy"), Some("sandbox"));
        assert!(answer.header("content-disposition").unwrap().starts_with("attachment; filename*=UTF-8''"));
        assert_eq!(answer.header("content-encoding"), None);
    }
    let file = content(0);
    assert_eq!(file.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(file.header("content-disposition"), Some("attachment; filename*=UTF-8''%C3%B6%20%22x%22.txt"));
    let page = content(1);
    assert_eq!(page.header("content-type"), Some("application/octet-stream"));
    assert!(page.header("content-disposition").unwrap().ends_with(&format!("''{id}-1")));
    let empty = content(2);
    assert_eq!((empty.body.as_str(), empty.header("content-length")), ("", Some("0")));
    let none = content(4);
    assert_eq!((none.code, none.fault().0.as_str()), (400, "NO_CONTENT"));
    let missing = content(9);
    assert_eq!((missing.code, missing.fault().0.as_str()), (404, "TASK_NOT_FOUND"));
    let offset = curl(&server, &[], &format!("/v1/jobs/{id}/tasks/0/content?offset=3"));
    assert_eq!((offset.code, offset.fault().1.as_str()), (400, "offset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_lines() {
    let (server, _origin, id) = stage().await;
    let items = curl(&server, &[], &format!("/v1/jobs/{id}/tasks/3/items"));
    let texts: Vec<_> = items.lines().iter().map(|line| line["json"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, ["1", "2", "{\"a\": 3}"]);
    let rest = curl(&server, &[], &format!("/v1/jobs/{id}/tasks/3/items?after_item=1"));
    assert_eq!(rest.lines().len(), 1);
    let events = |headers: &[&str]| {
        let args = [&["--header", "Accept: text/event-stream"], headers].concat();
        curl(&server, &args, &format!("/v1/jobs/{id}/tasks/3/items"))
    };
    let ids = |answer: &Answer| answer.body.lines().filter_map(|it| it.strip_prefix("id: ")).collect::<String>();
    assert_eq!(ids(&events(&[])), "012");
    assert_eq!(ids(&events(&["--header", "Last-Event-ID: 1"])), "2", "a browser goes on after what it has");
    let over = events(&["--header", "Last-Event-ID: 2"]);
    assert_eq!((over.code, over.body.as_str()), (204, ""), "nothing is left, which ends its reconnecting");
    let none = curl(&server, &[], &format!("/v1/jobs/{id}/tasks/1/items"));
    assert_eq!((none.code, none.fault().0.as_str()), (400, "NOT_PAGINATED"));
}

/// Clients that ask for many pages and read none hold no more than their share.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_have_a_bound() {
    use bytes::{BufMut as _, Bytes, BytesMut};
    use http_body_util::{BodyExt as _, Full};
    use prost::Message as _;
    const STREAMS: usize = 60;

    let (origin, server) = (Origin::start(), Server::start().await);
    let item = format!("\"{}\"", "x".repeat(3 << 20));
    let page = format!("[{}]", [item.as_str(); 4].join(","));
    origin.reply("/list", Reply::json(page));
    let pagination =
        pb::Pagination { style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})), ..Default::default() };
    let list = pb::FetchSpec {
        url: origin.url("/list"),
        pagination: Some(pagination),
        max_response_bytes: Some(64 << 20),
        ..Default::default()
    };
    let id = server.submit(job(vec![fetch_as(list)])).await;
    server.ended(&id).await;
    let before = server.peak_memory();

    let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake::<_, Full<Bytes>>(io)
        .await
        .unwrap();
    // Both end with the test.
    let mut connections = tokio::task::JoinSet::from_iter([async move { drop(connection.await) }]);
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let message = pb::StreamItemsRequest { job_id: id, task, after_item: None }.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    let framed = framed.freeze();
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let request = http::Request::post(format!("http://{}/haul.v1.ContentService/StreamItems", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed.clone()))
            .unwrap();
        let mut sender = sender.clone();
        answers.spawn(async move { sender.send_request(request).await.unwrap() });
    }
    let mut refused = 0;
    for answer in answers.join_all().await {
        let mut body = answer.into_body();
        // The first bytes of a page, or the trailers of an answer for which there was no room.
        let frame = tokio::time::timeout(crate::support::server::PATIENCE, body.frame()).await.unwrap();
        if let Some(Ok(frame)) = frame
            && let Ok(trailers) = frame.into_trailers()
        {
            let status = tonic::Status::from_header_map(&trailers).unwrap();
            assert!(status.message().contains("wait for this client"), "{status:?}");
            refused += 1;
        }
    }
    assert!(refused > STREAMS / 3, "{refused} of {STREAMS} had no room");
    let grown = server.peak_memory() - before;
    assert!(grown < 400 << 20, "{} MiB more than before", grown >> 20);
    connections.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_range_and_dates_are_conditions() {
    let (server, _origin, id) = stage().await;
    let path = format!("/v1/jobs/{id}/tasks/0/content");
    let head = curl(&server, &["--head", "--range", "0-1"], &path);
    assert_eq!((head.code, head.header("content-length"), head.header("content-range")), (200, Some("26"), None));
    let made = head.header("last-modified").unwrap();
    let since = format!("if-modified-since: {made}");
    assert_eq!(curl(&server, &["--header", &since], &path).code, 304);
    let before = "if-unmodified-since: Sat, 01 Jan 2000 00:00:00 GMT";
    assert_eq!(curl(&server, &["--header", before], &path).code, 412);
}

/// A file that takes the place of a download while it is read has no part in what the reader gets.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_of_one_file_whatever_takes_its_name_meanwhile() {
    const BYTES: usize = 48 << 20;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/", Reply::ok(vec![7; BYTES]));
    let spec = pb::DownloadSpec { url: origin.url("/"), path: "file".into(), ..Default::default() };
    let id = server.run(job(vec![download_as(spec)])).await.job_id;
    let request = pb::ReadContentRequest {
        job_id: id.clone(),
        task: Some(pb::read_content_request::Task::TaskIndex(0)),
        ..Default::default()
    };
    // More than what the connection holds is left in the server when the first chunk is here.
    let mut read = server.contents().read_content(request.clone()).await.unwrap().into_inner();
    let first = read.message().await.unwrap().unwrap();
    assert!(first.data.len() < BYTES && first.total_bytes == BYTES as u64);
    let [file] = server.files().try_into().unwrap();
    let path = server.downloads().join(file);
    std::fs::write(path.with_extension("new"), vec![8; BYTES]).unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
    let mut got = first.data.len();
    while let Some(chunk) = read.message().await.unwrap() {
        assert_eq!(chunk.offset, got as u64);
        assert!(chunk.data.iter().all(|byte| *byte == 7), "bytes of the other file at {got}");
        got += chunk.data.len();
    }
    assert_eq!(got, BYTES);
    // A call that begins now is about a file that is not the job's.
    let status = match server.contents().read_content(request).await {
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
}

/// Whoever reads slowly is told that the server ends, and does not hold it up; nor does who holds a stream of reflection.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_contents_and_of_reflection_end_with_the_server() {
    let mut server = Server::start().await;
    let origin = Origin::start();
    origin.reply("/", Reply::ok(vec![7; 48 << 20]));
    let spec = pb::DownloadSpec { url: origin.url("/"), ..Default::default() };
    let id = server.run(job(vec![download_as(spec)])).await.job_id;
    let request = pb::ReadContentRequest {
        job_id: id,
        task: Some(pb::read_content_request::Task::TaskIndex(0)),
        ..Default::default()
    };
    let mut read = server.contents().read_content(request).await.unwrap().into_inner();
    read.message().await.unwrap().unwrap();
    let held = futures_util::stream::pending();
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone())
            .server_reflection_info(held)
            .await
            .unwrap()
            .into_inner();
    tokio::task::block_in_place(|| assert!(server.terminate().success()));
    assert!(!server.log().contains("grace"), "nothing holds it: {}", server.log());
    assert_eq!(reflection.message().await.unwrap_err().code(), tonic::Code::Unavailable);
}
