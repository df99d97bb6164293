//! Lists that are long where they should not be, that never end, or that are cut.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use haul::pb;
use serde_json::Value;

use crate::it::curl::{Answer, curl, raw};
use crate::support::server::{PATIENCE, Server};
use crate::support::spec::job;

async fn open(server: &Server) -> String {
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    id
}

fn import(server: &Server, id: &str, kind: &str, list: &str) -> Answer {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(list.as_bytes()).unwrap();
    let (kind, data) = (format!("Content-Type: {kind}"), format!("@{}", file.path().display()));
    curl(server, &["--header", &kind, "--data-binary", &data], &format!("/v1/jobs/{id}/tasks:import"))
}

/// The line that the error of an import names, and all that it says.
fn wrong_line(mut lines: Vec<Value>) -> (String, String) {
    let last = lines.pop().unwrap();
    let details = last["error"]["details"].as_array().unwrap_or_else(|| panic!("no error: {last}"));
    let info = details.iter().find(|it| it["reason"].is_string()).unwrap();
    (info["metadata"]["line"].as_str().unwrap_or_default().to_owned(), last.to_string())
}

fn head(server: &Server, id: &str, kind: &str) -> String {
    format!(
        "POST /v1/jobs/{id}/tasks:import HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        server.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_task_makes_no_chunk_and_lines_are_counted_with_it() {
    let server = Server::start().await;
    let id = open(&server).await;
    let comments = format!("# {}\n\n", "x".repeat(60)).repeat(20_000);
    let list = format!("http://a.example/1\n{comments}http://a.example/2\n{comments}");
    let answer = import(&server, &id, "text/uri-list", &list);
    assert_eq!((answer.code, answer.lines().len()), (200, 1), "{answer:?}");
    assert_eq!(answer.lines()[0]["task_count"], 2);
    let options = format!("  header=X-Long: {}\n", "y".repeat(1_000)).repeat(60);
    let list = format!("http://a.example/1\n{options}{}http://a.example/2\n", "# no task\n".repeat(200_000));
    let answer = import(&server, &id, "text/x-aria2-input", &list);
    assert_eq!(answer.lines()[0]["task_count"], 2, "{answer:?}");
    let list = format!("{}{}", "# no task\n".repeat(5_000), "z".repeat(5 << 20));
    assert_eq!(wrong_line(import(&server, &id, "text/uri-list", &list).lines()).0, "5001");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_cut_is_no_list_that_is_whole() {
    let server = Server::start().await;
    let id = open(&server).await;
    let urls: Vec<_> = (0..1_500).map(|at| format!("http://a.example/{at}\n")).collect();
    let urls = urls.concat();
    let text = format!("{}{:x}\r\n{urls}\r\nno length\r\n", head(&server, &id, "text/uri-list"), urls.len());
    let answer = raw(&server, text.as_bytes());
    // Between the lengths of its parts.
    let lines = answer.body.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["task_count"], 1_000, "{answer:?}");
    let (line, said) = wrong_line(lines);
    assert!(line == "1501" && said.contains("is incomplete"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_has_become_is_counted() {
    // As much as one connection may have.
    let server = Server::with(&["--inbound-buffer-bytes", "33554432"]).await;
    let id = open(&server).await;
    // Less than a chunk of text, so that nothing of it is sent on, and two thirds of that in memory.
    let mirrors = vec!["\"\""; 9_900].join(",");
    let lines = format!("{{\"download\":{{\"mirrors\":[{mirrors}]}}}}\n").repeat(33);
    let text = format!("{}{:x}\r\n{lines}\r\n", head(&server, &id, "application/x-ndjson"), lines.len());
    let (told, answers) = std::sync::mpsc::channel();
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (mut stream, text, told) = (TcpStream::connect(&server.address).unwrap(), text.clone(), told.clone());
            std::thread::spawn(move || {
                stream.write_all(text.as_bytes()).unwrap();
                let mut said = String::new();
                // It is reset where the server is over.
                let _ = stream.read_to_string(&mut said);
                let _ = told.send(said);
            })
        })
        .collect();
    let first = tokio::task::block_in_place(|| answers.recv_timeout(PATIENCE)).expect("one of them is refused");
    assert!(first.contains("INBOUND_BUFFER"), "{first}");
    drop(server);
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn a_line_has_its_time() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::with(&["--request-body-idle", "500ms"]));
    let id = runtime.block_on(open(&server));
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.write_all(head(&server, &id, "text/uri-list").as_bytes()).unwrap();
    // A byte now and then is no silence, and the line does not end.
    let mut said = Vec::new();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        if stream.write_all(b"1\r\nx\r\n").is_err() {
            break;
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("was still incomplete after"), "{said}");
}
