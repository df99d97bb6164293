//! Open jobs: fed, sealed, changed and waited for from the command line.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use haul::pb;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, binary, haul, until};
use crate::support::spec::{fetch, job};
use crate::support::switch::Switch;

fn run(server: &Server, args: &[&str]) -> Output {
    haul(&[&["--server", &server.address][..], args].concat())
}

fn run_with(server: &Server, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .args(["--server", &server.address])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_added_again_adds_nothing_twice() {
    let server = Server::start().await;
    let opened = run(&server, &["submit", "--open", "--title", "crawl"]);
    assert!(opened.status.success(), "{}", text(&opened));
    let id = text(&opened).trim().to_owned();
    run(&server, &["pause", &id]);
    let list = (0..2500).map(|nth| format!("http://127.0.0.1:1/{nth}\r\n")).collect::<Vec<_>>().concat();
    for _ in 0..2 {
        let added = run_with(&server, &["add", "@last", "--fetch", "-i", "-"], list.as_bytes());
        assert!(added.status.success(), "{}", text(&added));
        assert!(text(&added).contains("2,500 tasks are in the job, from index 0 on"), "{}", text(&added));
    }
    assert_eq!(server.job(&id).await.counts.unwrap().total, 2500);

    // A chunk with a bad line is not sent; what stands before it is, and stays when the line is corrected.
    let broken =
        list.clone() + &(0..999).map(|nth| format!("http://127.0.0.1:1/x{nth}\n")).collect::<Vec<_>>().concat();
    let broken = broken.replacen("http://127.0.0.1:1/2700", "nonsense", 1).replacen("/x700\n", "\u{202e}\n", 1);
    let refused = run_with(&server, &["add", &id, "--fetch", "-i", "-"], broken.as_bytes());
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("stdin, line 3201: "), "{}", text(&refused));
    assert_eq!(run(&server, &["add", &id]).status.code(), Some(2), "nothing to add");

    let sealed = run(&server, &["seal", &id[28..]]);
    assert!(sealed.status.success(), "{}", text(&sealed));
    assert!(!server.job(&id).await.open);
    let late = run(&server, &["add", &id, "http://127.0.0.1:1/late"]);
    assert_eq!(late.status.code(), Some(1), "{}", text(&late));
    assert!(text(&late).contains("is sealed") && !text(&late).contains("adds the rest"), "{}", text(&late));
    let shown = run(&server, &["show", &id]);
    // The chunk before that with the bad line may have been on its way when the line was met.
    let thousands = server.job(&id).await.counts.unwrap().total / 1000;
    let expected = format!("{thousands},500 in all: {thousands},500 pending");
    assert!(text(&shown).contains(&expected), "{}", text(&shown));
}

/// Nobody has sealed it: its first task has failed, and that was its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_says_why_it_takes_no_more_of_a_list() {
    let server = Server::start().await;
    let opened = run(&server, &["submit", "--open", "--fetch", "http://127.0.0.1:9/first"]);
    let id = text(&opened).trim().to_owned();
    assert_eq!(server.ended(&id).await.state(), pb::JobState::Failed);
    let late = run_with(&server, &["add", &id, "--fetch", "-i", "-"], b"http://127.0.0.1:9/late\n");
    let said = text(&late);
    assert_eq!(late.status.code(), Some(1), "{said}");
    for part in ["has ended, FAILED (task 0: ", "`--mode collect`", "no task was added"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("is sealed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_any_length_is_submitted() {
    let server = Server::start().await;
    let list = (0..10_500).map(|nth| format!("http://127.0.0.1:1/{nth}\n")).collect::<Vec<_>>().concat();
    let args = ["submit", "--mode", "collect", "-i", "-", "--request-id", "once"];
    let submitted = run_with(&server, &args, list.as_bytes());
    assert!(submitted.status.success(), "{}", text(&submitted));
    let id = text(&submitted).trim().to_owned();
    let job = server.job(&id).await;
    assert_eq!((job.counts.unwrap().total, job.open), (10_500, false));
    let again = run_with(&server, &args, list.as_bytes());
    assert_eq!(text(&again).trim(), id, "the same submission is the same job");
    let shown = run(&server, &["show", &id, "--spec"]);
    assert_eq!(shown.status.code(), Some(1), "another job than what was submitted: {}", text(&shown));
    let bad = run_with(&server, &["submit", "-i", "-"], b"http://a/\nexample.com/x\n");
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad).contains("stdin, line 2: `example.com/x` is not a URL; did you mean `https://example.com/x`?"));
    run(&server, &["cancel", &id]);
    for (args, input, part) in [
        (&["submit", "-i", "-"][..], &b"# nothing yet\n"[..], "the list has no URL"),
        (&["submit", "-f", "-"], b"\r\n", "stdin is empty"),
        (&["submit", "-f", "-"], b"{\"tasks\": [], \"tasks\": []}", "`tasks` is given twice"),
    ] {
        let empty = run_with(&server, args, input);
        assert_eq!(empty.status.code(), Some(2), "{}", text(&empty));
        assert!(text(&empty).contains(part), "{}", text(&empty));
    }
}

/// What the server finds wrong with a line is said with its list and its number, whichever command takes the list.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_a_line_names_its_list_and_its_number() {
    let server = Server::start().await;
    let open = text(&run(&server, &["submit", "--open"])).trim().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    let list = path.to_str().unwrap();
    let long = format!("http://a/{}", "x".repeat(8_200));
    let task = |fetch: &str| format!("{{\"fetch\": {{\"url\": \"http://a/\"{fetch}}}}}\n");
    for (lines, what) in [
        (format!("http://a/\n# of one\n{long}\n"), vec!["line 3: the URL is"]),
        (
            task("") + &task(", \"bogus\": 1"),
            vec!["line 2: cannot read the JSON", "`fetch.bogus` is unknown", " (column "],
        ),
        (task("") + &task(", \"method\": \"A B\""), vec!["line 2: `fetch.method` "]),
        (format!("http://a/\n{long}\n{long}\n"), vec!["line 2: the URL is", "line 3: the URL is"]),
    ] {
        std::fs::write(&path, lines).unwrap();
        for command in [&["submit"][..], &["add", &open]] {
            let refused = run(&server, &[command, &["-i", list]].concat());
            assert_eq!(refused.status.code(), Some(2), "{command:?}: {}", text(&refused));
            let said = text(&refused);
            for part in &what {
                assert!(said.contains(part), "{command:?}: {part} in {said}");
            }
            assert!(said.contains(&format!("`{list}`, line ")) && !said.contains("tasks["), "{command:?}: {said}");
        }
    }
    let typed = run(&server, &["submit", &long]);
    assert!(text(&typed).contains("haul: the URL `http://a/xxx"), "{}", text(&typed));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_changed_and_waited_for() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/stalled", Reply::hang());
    let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    let id = server.submit(pb::JobSpec { labels, ..job(vec![fetch(origin.url("/stalled"))]) }).await;
    let args =
        ["--title", "new", "--priority", "-3", "--max-concurrency", "2", "--label", "c=3", "--remove-label", "a"];
    let updated = run(&server, &[&["update", "@last"][..], &args].concat());
    assert!(updated.status.success(), "{}", text(&updated));
    let job = server.job(&id).await;
    assert_eq!((job.title.as_str(), job.priority, job.group.unwrap().max_concurrency), ("new", -3, 2));
    let mut labels: Vec<_> = job.labels.into_iter().collect();
    labels.sort();
    assert_eq!(labels, [("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())]);
    assert_eq!(run(&server, &["update", &id]).status.code(), Some(2), "nothing to change");

    let waited = run(&server, &["wait", &id, "--timeout", "50ms"]);
    assert_eq!(waited.status.code(), Some(124), "{}", text(&waited));
    run(&server, &["cancel", &id, "--reason", "enough"]);
    let waited = run(&server, &["wait", "@last"]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(text(&waited).contains("job cancelled") && text(&waited).contains("enough"), "{}", text(&waited));
    assert_eq!(run(&server, &["wait", &id, "--timeout", "soon"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn job_files_of_other_systems_are_read() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let spec = format!("{{\r\n\"title\": \"für\", \"tasks\": [{{\"fetch\": {{\"url\": \"{}\"}}}}]}}", origin.url("/a"));
    let marked = format!("\u{feff}{spec}");
    let utf16: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [spec.as_bytes(), marked.as_bytes(), &utf16] {
        let submitted = run_with(&server, &["submit", "-f", "-", "--watch"], bytes);
        assert!(submitted.status.success(), "{}", text(&submitted));
    }
    let latin1: Vec<u8> = spec.chars().map(|letter| letter as u8).collect();
    let refused = run_with(&server, &["submit", "-f", "-"], &latin1);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("stdin, line 2: this is not UTF-8"), "{}", text(&refused));
}

#[test]
fn a_port_that_says_nothing_is_named_as_such() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = haul(&["--server", &listener.local_addr().unwrap().to_string(), "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("has not answered for 20 s; check that --server"), "{}", text(&output));
}

#[test]
fn a_port_that_is_no_server_is_named_as_such() {
    let origin = Origin::start();
    let output = haul(&["--server", &origin.address().to_string(), "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("does not speak gRPC"), "{}", text(&output));

    // The origin would wait for the rest of what it takes for a request.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let output = haul(&["--server", &format!("https://{address}"), "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("does not use TLS"), "{}", text(&output));
}

/// Whoever reads what `add` and `submit` print may have seen enough; the list has not ended with that.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_fed_to_its_end_though_nobody_reads_what_is_said_of_it() {
    let server = Server::start().await;
    let list = (0..12_000).map(|nth| format!("http://127.0.0.1:1/{nth}\n")).collect::<Vec<_>>().concat();
    let unread = |args: &[&str], input: &[u8]| {
        let mut command = Command::new(binary());
        command.args(["--server", &server.address]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let id = text(&run(&server, &["submit", "--open", "--title", "fed"])).trim().to_owned();
    run(&server, &["pause", &id]);
    let added = unread(&["add", &id, "--fetch", "-i", "-", "-o", "json"], list.as_bytes());
    assert_eq!((added.status.code(), text(&added).as_str()), (Some(0), ""));
    assert_eq!(server.job(&id).await.counts.unwrap().total, 12_000);

    let submitted = unread(&["submit", "--mode", "collect", "--title", "whole", "-i", "-"], list.as_bytes());
    assert_eq!((submitted.status.code(), text(&submitted).as_str()), (Some(0), ""));
    let found = run(&server, &["list", "--search", "whole", "-o", "json"]);
    let job: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((&job["open"], &job["counts"]["total"]), (&false.into(), &12_000.into()));
    run(&server, &["cancel", job["job_id"].as_str().unwrap()]);

    // What has a job's end for its exit code does not say that it succeeded.
    let watched = unread(&["watch", &id], b"");
    assert_eq!((watched.status.code(), text(&watched).as_str()), (Some(141), ""));
    let cancelled = unread(&["control", "cancel", "--search", "fed", "--yes", "-o", "json"], b"");
    assert_eq!(cancelled.status.code(), Some(0), "{}", text(&cancelled));
    assert_eq!(server.job(&id).await.state(), pb::JobState::Cancelled);
}

fn metrics(server: &Server) -> String {
    let mut connection = std::net::TcpStream::connect(&server.address).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The time passes while the server is away, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_in_its_time_without_its_server() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let switch = Switch::to(&server.address);
    origin.reply("/stalled", Reply::hang());
    let id = server.submit(job(vec![fetch(origin.url("/stalled"))])).await;
    let mut command = Command::new(binary());
    command.args(["--server", &switch.address, "wait", &id, "--timeout", "3s"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It knows that the server has the job: a server that never answered is not waited for.
    until(async || metrics(&server).contains("haul_calls_total{method=\"JobService/GetJob\",code=\"OK\"} 1\n")).await;
    server.kill();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
    assert!(text(&output).contains("the time passed before the job ended"), "{}", text(&output));
    server.launch().await;
    run(&server, &["cancel", &id]);
    // No clock goes so far.
    let endless = run(&server, &["wait", &id, "--timeout", "5000000000000000h"]);
    assert_eq!(endless.status.code(), Some(1), "{}", text(&endless));
}

/// A relay to a server that cuts the first connection when the server has answered on it `after` bytes, so that what was asked for
/// is done and nobody knows it.
fn cut_once(server: &str, after: usize) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
    std::thread::spawn(move || {
        for (nth, near) in listener.incoming().map_while(Result::ok).enumerate() {
            let far = std::net::TcpStream::connect(&server).unwrap();
            let (mut from_near, mut to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_near, &mut to_far);
                let _ = to_far.shutdown(std::net::Shutdown::Both);
            });
            let (mut from_far, mut to_near) = (far, near);
            std::thread::spawn(move || {
                let (mut piece, mut passed) = ([0; 4096], 0);
                while let Ok(count @ 1..) = from_far.read(&mut piece) {
                    passed += count;
                    if nth == 0 && passed > after {
                        break;
                    }
                    let _ = to_near.write_all(&piece[..count]);
                }
                let _ = to_near.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// The answer to a submission is lost, and the job is there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_answer_is_lost_is_made_once() {
    let server = Server::start().await;
    // Enough for the settings of HTTP/2 and not for an answer with a job.
    let relay = cut_once(&server.address, 150);
    let submitted = haul(&["--server", &relay, "submit", "--open", "--title", "once"]);
    assert!(submitted.status.success(), "{}", text(&submitted));
    assert!(text(&submitted).contains("the connection was cut"), "{}", text(&submitted));
    let found = run(&server, &["list", "--search", "once", "-o", "json"]);
    assert_eq!(text(&found).lines().count(), 1, "{}", text(&found));
    assert!(text(&submitted).contains(text(&found).split('"').nth(3).unwrap()), "{}", text(&found));
}
