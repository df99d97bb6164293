//! The API as HTTP and JSON: what gRPC does, and how it says what is wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use haul::pb;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::it::curl::{Answer, curl, raw};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::{fetch, job};

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    curl(server, &["--json", &body.to_string()], path)
}

fn get(server: &Server, path: &str) -> Answer {
    curl(server, &[], path)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_submits_follows_and_reads_a_job() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = json!({"title": "by curl", "labels": {"team": "red"}, "tasks": [{"key": "k", "fetch": {"url": origin.url("/a")}}]});
    std::fs::write(file.path(), spec.to_string()).unwrap();
    let data = format!("@{}", file.path().display());
    let key = ["--json", &data, "--header", "Idempotency-Key: \"tour-1\""];
    let submitted = curl(&server, &key, "/v1/jobs");
    assert_eq!((submitted.code, submitted.header("content-type")), (200, Some("application/json")));
    assert_eq!(submitted.header("cache-control"), Some("no-store"));
    assert_eq!(submitted.header("x-content-type-options"), Some("nosniff"));
    assert!(submitted.body.ends_with("}\n") && submitted.body.lines().count() == 1, "{submitted:?}");
    let id = submitted.json()["job"]["job_id"].as_str().unwrap().to_owned();
    assert_eq!(curl(&server, &key, "/v1/jobs").json()["job"]["job_id"], id.as_str(), "the key makes it one job");

    let waited = get(&server, &format!("/v1/jobs/{id}:wait?timeout=60s")).json();
    assert_eq!(waited["job"]["state"], "JOB_STATE_SUCCEEDED");
    let read = get(&server, &format!("/v1/jobs/{id}")).json();
    assert_eq!((&read["job"]["title"], &read["job"]["counts"]["succeeded"]), (&json!("by curl"), &json!(1)));
    let by_key = get(&server, &format!("/v1/jobs/{id}/tasks:byKey?task_key=k&include_body=true")).json();
    assert_eq!(by_key["task"]["fetch_result"]["body"], "YWxwaGE=");
    let by_index = get(&server, &format!("/v1/jobs/{id}/tasks/0?includeBody=true")).json();
    assert_eq!(by_index, by_key);
    let listed = get(&server, "/v1/jobs?labels[team]=red&states=JOB_STATE_SUCCEEDED&page_size=5").json();
    assert_eq!(listed["jobs"][0]["job_id"], id.as_str());
    assert_eq!(
        get(&server, "/v1/jobs?labels[team]=blue").json(),
        json!({"jobs": [], "next_page_token": "", "examined": 0})
    );
    let tasks = get(&server, &format!("/v1/jobs/{id}/tasks")).json();
    assert_eq!(tasks["tasks"][0]["task_index"], 0);
    // The same job by gRPC.
    let by_grpc = server.job(&id).await;
    assert_eq!(by_grpc.sequence.to_string(), read["job"]["sequence"].as_str().unwrap());
    assert_eq!(by_grpc.labels["team"], "red");

    let changed =
        curl(&server, &["--request", "PATCH", "--json", r#"{"title": "t", "priority": 3}"#], &format!("/v1/jobs/{id}"));
    assert_eq!((&changed.json()["job"]["title"], &changed.json()["job"]["priority"]), (&json!("t"), &json!(3)));
    let gone = curl(&server, &["--request", "DELETE"], &format!("/v1/jobs/{id}?delete_files=true"));
    assert_eq!((gone.code, gone.json()), (200, json!({})));
    let gone = get(&server, &format!("/v1/jobs/{id}"));
    assert_eq!((gone.code, gone.fault().0.as_str()), (404, "JOB_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_the_server_are_controlled() {
    let server = Server::start().await;
    let open = post(&server, "/v1/jobs", &json!({"open": true, "group": {"max_concurrency": 5}})).json();
    let id = open["job"]["job_id"].as_str().unwrap().to_owned();
    let state = |verb: &str, args: &[&str]| {
        let answer = curl(&server, args, &format!("/v1/jobs/{id}:{verb}"));
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.json()["job"]["state"].as_str().unwrap().to_owned()
    };
    // Nothing stands for the default, also where the change is of parts.
    let changed = curl(&server, &["--request", "PATCH", "--json", r#"{"group": null}"#], &format!("/v1/jobs/{id}"));
    assert_eq!((changed.code, &changed.json()["job"]["group"]["max_concurrency"]), (200, &json!(0)), "{changed:?}");
    let bare = ["--request", "POST"];
    assert_eq!(state("pause", &bare), "JOB_STATE_PAUSED");
    assert_ne!(state("resume", &bare), "JOB_STATE_PAUSED");
    assert_eq!(state("cancel", &["--json", r#"{"reason": "enough"}"#]), "JOB_STATE_CANCELLED");
    let again = curl(&server, &bare, &format!("/v1/jobs/{id}:pause"));
    assert_eq!((again.code, again.fault().0.as_str()), (400, "WRONG_STATE"));
    let checked = post(&server, "/v1/jobs?validate_only=true", &json!({"open": true})).json();
    assert_eq!(checked["job"]["job_id"], "");

    let limits = curl(&server, &["--request", "PATCH", "--json", r#"{"max_per_host": 3}"#], "/v1/limits").json();
    assert_eq!(limits["limits"]["max_per_host"], 3);
    assert_eq!(get(&server, "/v1/limits").json(), limits);
    assert_eq!(get(&server, "/v1/server").json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(get(&server, "/v1/hosts").json()["hosts"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_body_is_named() {
    let server = Server::start().await;
    let jobs = |text: &str| curl(&server, &["--json", text], "/v1/jobs");
    for (text, field) in [
        (r#"{"titel": "x"}"#, "job.titel"),
        (r#"{"tasks": [{"fetch": {"url": "http://a/"}}, {"fetch": {"uri": "x"}}]}"#, "job.tasks[1].fetch.uri"),
        (r#"{"tasks": [{"fetch": {"url": 7}}]}"#, "job.tasks[0].fetch.url"),
        (r#"{"tasks": [{"fetch": {"url": "ftp://x/"}}]}"#, "job.tasks[0].fetch.url"),
        (r#"{"title": "a", "title": "b"}"#, "job.title"),
        (r#"{"open": true, "rateLimit": {"burst": 1}, "rate_limit": {"burst": 2}}"#, "job.rate_limit"),
        (
            r#"{"tasks": [{"download": {"url": "http://a/", "maxBytes": 1, "max_bytes": 1}}]}"#,
            "job.tasks[0].download.max_bytes",
        ),
        (
            r#"{"tasks": [{"download": {"url": "http://a/", "max_bytes": 18446744073709551616}}]}"#,
            "job.tasks[0].download.max_bytes",
        ),
        (
            r#"{"tasks": [{"download": {"url": "http://a/", "max_bytes": 0.99999999999999999999}}]}"#,
            "job.tasks[0].download.max_bytes",
        ),
        (r#"{"open": true, "priority": "2147483648"}"#, "job.priority"),
        (r#"{"open": true, "group": {"mode": 0.5}}"#, "job.group.mode"),
        (r#"{"priority": 1e400}"#, "job.priority"),
        ("{}", "job.tasks"),
        ("{} {}", "job"),
        ("[1]", "job"),
        ("title=x", "job"),
    ] {
        let answer = jobs(text);
        let (reason, named) = answer.fault();
        assert_eq!((answer.code, reason.as_str()), (400, "INVALID_ARGUMENT"), "{text}: {answer:?}");
        assert_eq!(named, field, "{text}: {answer:?}");
    }
    let deep = jobs(&"[".repeat(100_000));
    assert_eq!(deep.code, 400, "no text overflows the stack");
    let empty = curl(&server, &["--request", "POST"], "/v1/jobs");
    assert_eq!((empty.code, empty.fault().1.as_str()), (400, "job"));
    for (text, query, code) in [("{}", "request_id=b", 400), (r#"{"open": true}"#, "request_id=a", 200)] {
        let named = curl(&server, &["--json", text, "--header", "Idempotency-Key: a"], &format!("/v1/jobs?{query}"));
        assert_eq!(named.code, code, "{query}: {named:?}");
        assert!(code == 200 || named.fault().1 == "request_id", "{named:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_are_exactly_what_was_written() {
    let server = Server::start().await;
    for (written, kept) in [
        ("9007199254740993.0", "9007199254740993"),
        ("\"9007199254740993.0\"", "9007199254740993"),
        ("18446744073709551615", "18446744073709551615"),
        ("1844674407370955161500e-2", "18446744073709551615"),
        ("1e3", "1000"),
        ("\"1e3\"", "1000"),
        ("\"1844674407370955161.5e1\"", "18446744073709551615"),
    ] {
        let spec = format!(
            r#"{{"start_time": "2100-01-01T00:00:00Z", "priority": "1e2", "group": {{"mode": 2.0}},
                 "tasks": [{{"download": {{"url": "http://a.example/", "max_bytes": {written}}}}}]}}"#
        );
        let submitted = curl(&server, &["--json", &spec], "/v1/jobs");
        assert_eq!(submitted.code, 200, "{written}: {submitted:?}");
        let id = submitted.json()["job"]["job_id"].as_str().unwrap().to_owned();
        let job = get(&server, &format!("/v1/jobs/{id}?include_spec=true")).json()["job"].take();
        assert_eq!(job["spec"]["tasks"][0]["download"]["max_bytes"], kept, "{written}");
        assert_eq!((&job["priority"], &job["group"]["mode"]), (&json!(100), &json!("GROUP_MODE_COLLECT")), "{written}");
    }
    assert_eq!(get(&server, "/v1/jobs?page_size=5e-1").fault().1, "page_size");
    assert_eq!(get(&server, "/v1/jobs?page_size=30e-1").json()["jobs"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_taken() {
    let server = Server::start().await;
    let form = curl(&server, &["--data", "{}"], "/v1/jobs");
    assert_eq!((form.code, form.fault().0.as_str()), (415, "UNSUPPORTED_MEDIA_TYPE"));
    let said = form.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("curl --json @job.json"), "{said}");
    for header in [
        "Content-Type:",
        "Content-Type: text/plain",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/json; charset=\"latin-1\"",
    ] {
        assert_eq!(curl(&server, &["--data", "{}", "--header", header], "/v1/jobs").code, 415, "{header}");
    }
    let packed = curl(&server, &["--json", "{}", "--header", "Content-Encoding: gzip"], "/v1/jobs");
    assert_eq!(packed.code, 415);
    let charset = curl(
        &server,
        &["--data", r#"{"open": true}"#, "--header", "Content-Type: Application/JSON; charset=utf-8"],
        "/v1/jobs",
    );
    assert_eq!(charset.code, 200);
    let html = curl(&server, &["--header", "Accept: text/html"], "/v1/jobs");
    assert_eq!((html.code, html.fault().0.as_str()), (406, "NOT_ACCEPTABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_exact() {
    let server = Server::start().await;
    for path in [
        "/v1/jobs/",
        "/v1//jobs",
        "/v1/",
        "/v1",
        "/v2/jobs",
        "/V1/jobs",
        "/v1/jobs/a/b",
        "/v1/jobs/a:b",
        "/v1/jobs/%ff",
        "/v1/jobs/../jobs",
    ] {
        let answer = get(&server, path);
        assert_eq!((answer.code, answer.fault().0.as_str()), (404, "ROUTE_NOT_FOUND"), "{path}: {answer:?}");
    }
    // An id that is none, whatever it holds, is an id.
    for path in ["/v1/jobs/a%2Fb", "/v1/jobs/..", "/v1/jobs/%2e%2e%2f", "/v1/jobs/a%3Acancel", "/v1/jobs/%00"] {
        let answer = get(&server, path);
        assert_eq!((answer.code, answer.fault().1.as_str()), (400, "job_id"), "{path}: {answer:?}");
    }
    for (method, path, allow) in [
        ("PUT", "/v1/jobs", "POST, GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/limits", "GET, HEAD, PATCH, OPTIONS"),
        ("POST", "/v1/openapi.json", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/server:drain", "POST, OPTIONS"),
        ("BREW", "/v1/server", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let answer = curl(&server, &["--request", method], path);
        assert_eq!((answer.code, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(answer.fault().0, "METHOD_NOT_ALLOWED");
    }
    let options = curl(&server, &["--request", "OPTIONS"], "/v1/jobs");
    assert_eq!((options.code, options.header("allow")), (204, Some("POST, GET, HEAD, OPTIONS")));
    for args in [&["--head"][..], &["--head", "--http2-prior-knowledge"]] {
        let head = curl(&server, args, "/v1/jobs");
        assert_eq!((head.code, head.body.as_str()), (200, ""));
        let length = get(&server, "/v1/jobs").body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()), "as long as the answer to GET");
    }
    for (query, field) in [
        ("page_sizes=1", "page_sizes"),
        ("page_size=x", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("page_token=x", "page_token"),
    ] {
        let answer = get(&server, &format!("/v1/jobs?{query}"));
        assert_eq!((answer.code, answer.fault().1.as_str()), (400, field), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_bounds() {
    let server = Server::with(&["--request-body-idle", "1s"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b' '; (16 << 20) + 1]).unwrap();
    let data = format!("@{}", file.path().display());
    for args in [&["--json", &data][..], &["--json", &data, "--header", "Transfer-Encoding: chunked"]] {
        let large = curl(&server, args, "/v1/jobs");
        assert_eq!((large.code, large.fault().0.as_str()), (413, "MESSAGE_TOO_LARGE"));
    }
    // A client that sends all of it first, and gets the answer all the same.
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        server.address,
        17 << 20
    );
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; 17 << 20]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let sent = |head: &str, body: &str| {
        let text = format!(
            "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\n{head}\r\n\r\n{body}",
            server.address
        );
        raw(&server, text.as_bytes())
    };
    let short = sent("Content-Length: 100", r#"{"open": true}"#);
    assert_eq!((short.code, short.fault().0.as_str()), (408, "DEADLINE_EXCEEDED"));
    let long = sent("Content-Length: 2", r#"{}"open": true}"#);
    assert_eq!((long.code, long.fault().1.as_str()), (400, "job.tasks"), "what is beyond the length is not read");
    assert_eq!(sent("Content-Length: 2\r\nContent-Length: 3", "{}").code, 400);
    assert_eq!(sent("Content-Length: -1", "{}").code, 400);
    let chunked = sent("Transfer-Encoding: chunked", "e\r\n{\"open\": true}\r\n0\r\n\r\n");
    assert_eq!(chunked.code, 200, "{chunked:?}");
    let lying = sent("Content-Length: 18446744073709551615", "{}");
    assert!((400..500).contains(&lying.code), "{lying:?}");
    assert_eq!(get(&server, "/v1/jobs").json()["jobs"].as_array().unwrap().len(), 1, "and it serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_are_kept_out() {
    let server = Server::start().await;
    let rebound = curl(&server, &["--header", "Host: evil.example"], "/v1/jobs");
    assert_eq!((rebound.code, rebound.fault().0.as_str()), (421, "AUTHORITY_NOT_ALLOWED"));
    let foreign = curl(&server, &["--header", "Origin: http://evil.example", "--json", "{}"], "/v1/jobs");
    assert_eq!((foreign.code, foreign.fault().0.as_str()), (403, "ORIGIN_NOT_ALLOWED"));
    let cross = curl(&server, &["--header", "Sec-Fetch-Site: cross-site"], "/v1/jobs");
    assert_eq!(cross.code, 403);
    let probe = curl(&server, &["--header", "Host: haul.default.svc"], "/healthz");
    assert_eq!((probe.code, probe.body.as_str()), (200, "ok\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_in_plain_text() {
    let server = Server::start().await;
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = get(&server, path);
        assert_eq!((answer.code, answer.body.as_str()), (200, text));
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
        let head = curl(&server, &["--head"], path);
        assert_eq!(
            (head.code, head.body.as_str(), head.header("content-length").unwrap()),
            (200, "", text.len().to_string().as_str())
        );
    }
}

/// `docs/openapi.json` is what a server says; after a change of the contract: `curl ADDRESS/v1/openapi.json > docs/openapi.json`.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_the_one_in_the_repository() {
    let server = Server::start().await;
    let served = get(&server, "/v1/openapi.json");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::env::var("INSTA_UPDATE").is_ok_and(|it| it == "always") {
        std::fs::write(path, &served.body).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(served.body == written, "the contract has changed: write docs/openapi.json anew");
}

fn data_of(text: &str) -> Vec<(Option<String>, String, Value)> {
    let field =
        |event: &str, name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(|it| it.trim().to_owned()));
    let events = text.split("\n\n").filter(|event| event.contains("data:"));
    events
        .map(|event| {
            let data = serde_json::from_str(&field(event, "data:").unwrap()).unwrap();
            (field(event, "id:"), field(event, "event:").unwrap(), data)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_by_lines_and_by_events() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let id = server.run(job(vec![fetch(origin.url("/a")), fetch(origin.url("/a"))])).await.job_id;
    let path = format!("/v1/jobs/{id}/events");

    let lines = get(&server, &format!("{path}?after_sequence=0"));
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let documents = lines.lines();
    assert!(
        documents[0].get("snapshot").is_some() && documents.last().unwrap().get("job_ended").is_some(),
        "{lines:?}"
    );
    let by_grpc: Vec<String> = server.events(&id, 0).await.iter().map(|event| event.sequence.to_string()).collect();
    let sequences: Vec<&str> = documents[1..].iter().map(|it| it["sequence"].as_str().unwrap()).collect();
    assert_eq!(sequences, by_grpc);

    let stream = ["--header", "Accept: text/event-stream"];
    let fresh = curl(&server, &stream, &path);
    assert_eq!((fresh.code, fresh.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(fresh.header("x-accel-buffering"), Some("no"));
    assert!(fresh.body.starts_with("retry: "), "{fresh:?}");
    let events = data_of(&fresh.body);
    assert_eq!(events.len(), 1, "an ended job has its snapshot alone: {events:?}");
    let last = events[0].0.clone().expect("a snapshot without a sequence before it has an id");
    assert_eq!((events[0].1.as_str(), &events[0].2["sequence"]), ("snapshot", &json!(last)));

    let replay = curl(&server, &[&stream[..], &["--header", "Last-Event-ID: 0"]].concat(), &path);
    let events = data_of(&replay.body);
    assert_eq!((events[0].0.as_deref(), events[0].1.as_str()), (None, "snapshot"), "it is ahead of what follows");
    let ids: Vec<String> = events[1..].iter().map(|event| event.0.clone().unwrap()).collect();
    assert_eq!(ids, by_grpc);
    assert_eq!(events.iter().filter(|event| event.1 == "task_ended").count(), 2);
    assert_eq!(events.last().unwrap().1, "job_ended");

    let over = curl(&server, &[&stream[..], &["--header", &format!("Last-Event-ID: {last}")]].concat(), &path);
    assert_eq!((over.code, over.body.as_str()), (204, ""));
    let ahead = curl(&server, &[&stream[..], &["--header", "Last-Event-ID: 999"]].concat(), &path);
    assert_eq!((ahead.code, ahead.fault().0.as_str()), (400, "SEQUENCE_AHEAD"));
    let wrong = curl(&server, &[&stream[..], &["--header", "Last-Event-ID: x"]].concat(), &path);
    assert_eq!((wrong.code, wrong.fault().1.as_str()), (400, "after_sequence"));
    let none = get(&server, &path.replace(&id, "0192a6c0-0000-7000-8000-000000000000"));
    assert_eq!((none.code, none.fault().0.as_str()), (404, "JOB_NOT_FOUND"));
}

/// What is no body is the fault of the request, and not of a client that went away.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_framed_is_an_invalid_argument() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("INVALID_ARGUMENT") && answer.contains("`body` is incomplete"), "{answer}");
}

/// Asks for a stream and returns it once it has begun.
fn begin(server: &Server, accept: &str, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(&server.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", server.address);
    stream.write_all(head.as_bytes())?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    assert_eq!(&first, b"HTTP/1.1 200");
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_streams_with_an_error() {
    let mut server = Server::start().await;
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let path = format!("/v1/jobs/{id}/events");
    let forms = [("*/*", path.as_str()), ("text/event-stream", path.as_str()), ("text/event-stream", "/v1/jobs:watch")];
    let streams = forms.map(|(accept, path)| begin(&server, accept, path).unwrap());
    let readers = streams.map(|mut stream| {
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            String::from_utf8(rest).unwrap()
        })
    });
    tokio::task::block_in_place(|| assert!(server.terminate().success()));
    let [lines, events, all] = readers.map(|reader| reader.join().unwrap());
    assert!(lines.contains("\n{\"error\":") && lines.contains("SERVER_DRAINING"), "{lines}");
    for events in [events, all] {
        assert!(
            events.contains("event: stream_error\ndata: {\"error\":") && events.contains("SERVER_DRAINING"),
            "{events}"
        );
        assert!(events.contains("\"code\":503"), "{events}");
    }
    assert!(!server.log().contains("grace"), "nothing holds it: {}", server.log());
}

/// A stream ends on the server when its client goes: a server that may hold few connections serves the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_stream() {
    let server = Server::with(&["--max-connections", "8"]).await;
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let path = format!("/v1/jobs/{id}/events");
    let deadline = Instant::now() + PATIENCE;
    for nth in 0..40 {
        while begin(&server, "*/*", &path).is_err() {
            assert!(Instant::now() < deadline, "the places of those before are not free at stream {nth}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
