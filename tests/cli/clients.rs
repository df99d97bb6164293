//! The clients of a server.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use haul::pb;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul};
use crate::support::spec::{fetch, job};

fn run(server: &Server, args: &[&str]) -> Output {
    let mut all = vec!["--server", &server.address];
    all.extend(args);
    haul(&all)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_and_looks() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let submitted = run(&server, &["submit", "--fetch", "--watch", "--title", "by hand", &origin.url("/a")]);
    assert!(submitted.status.success(), "{}", text(&submitted));
    assert!(text(&submitted).contains("job succeeded, 1 of 1"), "{}", text(&submitted));
    let id = text(&submitted).lines().next().unwrap().to_owned();

    // Ids of jobs made in one moment begin alike; the whole but for its end is unique.
    let prefix = &id[..35];
    assert!(text(&run(&server, &["show", prefix])).contains("by hand"));
    assert!(text(&run(&server, &["list"])).contains(&id));
    assert!(text(&run(&server, &["list", "--state", "failed"])).lines().count() == 1);
    assert!(text(&run(&server, &["tasks", prefix])).contains("succeeded"));
    assert_eq!(run(&server, &["cat", prefix, "0"]).stdout, b"alpha");
    assert!(run(&server, &["watch", prefix]).status.success());
    let listed = json(&run(&server, &["list", "-o", "json"]));
    assert_eq!((listed[0]["job_id"].as_str(), listed[0]["title"].as_str()), (Some(id.as_str()), Some("by hand")));
    let events = json(&run(&server, &["watch", &id, "-o", "json"]));
    assert!(events.last().unwrap()["job_ended"].is_object(), "{events:?}");
    assert!(run(&server, &["delete", &id]).status.success());
    assert_eq!(run(&server, &["show", &id]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_from_json_too() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::status(404));
    let submit = |spec: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
            .args(["--server", &server.address, "submit", "-f", "-", "--watch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(spec.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let spec =
        format!(r#"{{"title": "json", "timeout": "30s", "tasks": [{{"fetch": {{"url": "{}"}}}}]}}"#, origin.url("/a"));
    let failed = submit(&spec);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert!(text(&failed).contains("404"), "{}", text(&failed));
    let unknown = submit(r#"{"tasks": [], "titel": "x"}"#);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown).contains("titel"), "{}", text(&unknown));
    let refused = submit(r#"{"tasks": [{"fetch": {"url": "ftp://a/"}}, {"download": {"url": ""}}]}"#);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("job.tasks[1].download.url"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn controls_jobs_and_limits() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/stalled", Reply::hang());
    let id = server.submit(job(vec![fetch(origin.url("/stalled"))])).await;
    assert!(text(&run(&server, &["pause", &id])).contains("paused"));
    assert!(text(&run(&server, &["resume", &id])).contains("state"));
    assert!(text(&run(&server, &["cancel", &id, "--reason", "enough"])).contains("enough"));
    assert_eq!(run(&server, &["watch", &id]).status.code(), Some(1));
    origin.reply("/stalled", Reply::ok("now"));
    assert!(run(&server, &["retry", &id]).status.success());
    assert_eq!(server.ended(&id).await.state(), pb::JobState::Succeeded);
    assert!(text(&run(&server, &["hosts"])).contains(&origin.address().to_string()));
    assert!(text(&run(&server, &["limits", "--max-per-host", "3"])).contains('3'));
    let limits = json(&run(&server, &["limits", "-o", "json"]));
    assert_eq!(limits[0]["max_per_host"], 3);
}

#[test]
fn says_what_to_do_when_there_is_no_server() {
    let output = haul(&["--server", "127.0.0.1:1", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("haul serve"), "{}", text(&output));
    for args in [&["submit"][..], &["nonsense"], &["list", "--state", "odd"], &["submit", "-f", "/nowhere.json"]] {
        assert_eq!(haul(args).status.code(), Some(2), "{args:?}");
    }
}
