//! The clients of a server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

use haul::pb;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul};
use crate::support::spec::{fetch, fetch_as, job, quick_retry};
use crate::support::switch::Switch;

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
    assert!(text(&submitted).contains("job succeeded: 1 of 1 task"), "{}", text(&submitted));
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
async fn what_was_submitted_can_be_submitted_again() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let spec = pb::JobSpec { title: "again".into(), priority: 3, ..job(vec![fetch(origin.url("/a"))]) };
    let id = server.run(spec).await.job_id;
    let shown = run(&server, &["show", &id, "--spec"]);
    assert!(!text(&shown).contains("open"), "what is not set is left out: {}", text(&shown));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("job.json");
    std::fs::write(&file, &shown.stdout).unwrap();
    let again = run(&server, &["submit", "--watch", "-f", file.to_str().unwrap()]);
    assert!(again.status.success(), "{}", text(&again));
    let second = server.job(text(&again).lines().next().unwrap()).await;
    assert_eq!((second.title.as_str(), second.priority, second.counts.unwrap().total), ("again", 3, 1));

    let mut secret = job(vec![fetch(origin.url("/a"))]);
    let http = pb::HttpOptions { bearer_token: "t0ken".into(), ..Default::default() };
    secret.defaults = Some(pb::TaskOptions { http: Some(http), ..Default::default() });
    let id = server.run(secret).await.job_id;
    for format in ["text", "json"] {
        let shown = text(&run(&server, &["show", &id, "--spec", "-o", format]));
        assert!(shown.contains("REDACTED") && !shown.contains("t0ken"), "{shown}");
    }
    assert!(!text(&run(&server, &["show", &id])).contains("bearer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_shown_with_its_attempts() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/flaky", |request| if request.nth == 0 { Reply::status(503) } else { Reply::ok("alpha") });
    let task = pb::TaskSpec { key: "7".into(), ..fetch(origin.url("/flaky")) };
    let retry = pb::TaskOptions { retry: Some(quick_retry(3)), ..Default::default() };
    let id = server.run(pb::JobSpec { defaults: Some(retry), ..job(vec![task]) }).await.job_id;
    let shown = text(&run(&server, &["show", &id, "0"]));
    for part in ["succeeded", "/flaky", "key", "TRY", "503", "200", "ok", "5 B"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(text(&run(&server, &["show", &id, "7", "--key"])).contains("/flaky"));
    assert_eq!(run(&server, &["show", &id, "7"]).status.code(), Some(1), "there is no task 7");
    let json = json(&run(&server, &["show", &id, "0", "-o", "json"]));
    assert_eq!(json[0]["attempt_log"].as_array().unwrap().len(), 2);
    assert!(text(&run(&server, &["show", &id, "0", "--spec"])).contains("\"fetch\""));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_will_do_while_it_is_unique() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let first = server.run(job(vec![fetch(origin.url("/a"))])).await.job_id;
    let second =
        server.run(pb::JobSpec { title: "the\tother".into(), ..job(vec![fetch(origin.url("/a"))]) }).await.job_id;
    let shown = json(&run(&server, &["show", &first.replace('-', "").to_uppercase()[..31], "-o", "json"]));
    assert_eq!(shown[0]["job_id"], first.as_str());
    // So much of an id stays the same for three days.
    let ambiguous = run(&server, &["show", &first[..5]]);
    assert_eq!(ambiguous.status.code(), Some(2));
    assert!([&first, &second].iter().all(|id| text(&ambiguous).contains(*id)), "{}", text(&ambiguous));
    assert!(text(&ambiguous).contains("the\u{fffd}other"), "{}", text(&ambiguous));
    assert_eq!(run(&server, &["show", "00000000000000000000"]).status.code(), Some(1));
    assert_eq!(run(&server, &["show", "nonsense"]).status.code(), Some(2));
    let cut = run(&server, &["list", "--limit", "1"]);
    assert!(text(&cut).contains("--limit 0"), "{}", text(&cut));
    assert_eq!(json(&run(&server, &["list", "--limit", "0", "-o", "json"])).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_parts_and_items() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alphabet"));
    origin.reply("/items", Reply::json("[{\n  \"a\" : 1\n},\n  \"x y\"]"));
    let pagination =
        pb::Pagination { style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})), ..Default::default() };
    let listing = pb::FetchSpec { url: origin.url("/items"), pagination: Some(pagination), ..Default::default() };
    let mut tasks = vec![fetch(origin.url("/a")), fetch_as(listing)];
    tasks[0].key = "7".into();
    let id = server.run(job(tasks)).await.job_id;
    assert_eq!(run(&server, &["cat", &id, "0", "--offset", "2", "--length", "3"]).stdout, b"pha");
    assert_eq!(run(&server, &["cat", &id, "7"]).status.code(), Some(1), "there is no task 7");
    assert_eq!(run(&server, &["cat", &id, "7", "--key"]).stdout, b"alphabet");
    assert_eq!(text(&run(&server, &["cat", &id, "1", "--items"])), "{\"a\":1}\n\"x y\"\n");
    let items = json(&run(&server, &["cat", &id, "1", "--items", "--after-item", "0", "-o", "json"]));
    assert_eq!((items.len(), items[0]["json"].as_str()), (1, Some("\"x y\"")));
    assert_eq!(json(&run(&server, &["delete", &id, "-o", "json"])), [serde_json::json!({})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_the_server_and_ends_it() {
    let mut server = Server::start().await;
    let host = ["limits", "--host", "a.example"];
    assert!(
        run(&server, &[&host[..], &["--max-concurrent", "2", "--bytes-per-second", "1M"]].concat()).status.success()
    );
    assert!(run(&server, &["limits", "--bytes-per-second", "10MiB"]).status.success());
    let limits = json(&run(&server, &["limits", "-o", "json"]));
    assert_eq!(limits[0]["bytes_per_second"], "10485760");
    assert_eq!(limits[0]["hosts"][0]["host"], "a.example");
    assert_eq!(limits[0]["hosts"][0]["bytes_per_second"], "1048576");
    assert_eq!(run(&server, &host).status.code(), Some(2), "nothing to change");
    assert!(run(&server, &[&host[..], &["--remove"]].concat()).status.success());
    assert_eq!(run(&server, &["limits", "--max-per-host", "0"]).status.code(), Some(2));
    let info = json(&run(&server, &["info", "-o", "json"]));
    assert_eq!(
        (info[0]["store_backend"].as_str(), info[0]["limits"]["hosts"].as_array()),
        (Some("sqlite"), Some(&Vec::new()))
    );
    assert!(text(&run(&server, &["info"])).contains("sqlite"));
    assert!(run(&server, &["drain"]).status.success());
    assert!(server.ended_itself().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_its_server() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let switch = Switch::to(&server.address);
    origin.reply("/quick", Reply::ok("quick"));
    origin.handle("/slow", |request| if request.nth == 0 { Reply::hang() } else { Reply::ok("slow") });
    let id = server.submit(job(vec![fetch(origin.url("/quick")), fetch(origin.url("/slow"))])).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["--server", &switch.address, "watch", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen: Vec<String> = Vec::new();
    while !seen.iter().any(|line| line.starts_with("task 0 succeeded")) {
        seen.push(lines.next().expect("the watch has not ended"));
    }
    server.restart().await;
    switch.turn_to(&server.address);
    seen.extend(lines);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{seen:?} {}", text(&output));
    assert_eq!(seen.iter().filter(|line| line.starts_with("task 0")).count(), 1, "{seen:?}");
    assert!(seen.iter().any(|line| line.starts_with("task 1 succeeded")), "{seen:?}");
    assert!(text(&output).contains("trying again"), "{}", text(&output));
}

#[test]
fn does_not_wait_for_a_server_that_never_was() {
    let id = "01900000-0000-7000-8000-000000000000";
    let output = haul(&["--server", "127.0.0.1:1", "watch", id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no server answers"), "{}", text(&output));
    for args in [
        &["--server", "ftp://a:1", "list"][..],
        &["get", "-o", "json", "http://a/"],
        &["submit", "--mode", "odd", "http://a/"],
        &["limits", "--burst", "2"],
    ] {
        assert_eq!(haul(args).status.code(), Some(2), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_quietly_when_nobody_reads() {
    let server = Server::start().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["--server", &server.address, "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""));
    let full = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["--server", &server.address, "list"])
        .stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1), "a full disk is no success");
}
