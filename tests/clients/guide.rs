//! The programs of `docs/guide`, as they stand there.

use std::path::Path;
use std::process::Command;

use crate::clients::programs::{go, output, python, root, tool, typed_node};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, job};

/// The programs of a language in a guide.
fn programs(page: &str, language: &str) -> Vec<String> {
    let guide = std::fs::read_to_string(root().join("docs/guide").join(page)).unwrap();
    let fence = format!("```{language}\n");
    let starts = guide.match_indices(&fence).map(|(at, fence)| at + fence.len());
    let programs: Vec<String> =
        starts.map(|start| guide[start..].split("\n```").next().unwrap().to_owned() + "\n").collect();
    assert!(!programs.is_empty(), "no {language} in {page}");
    programs
}

async fn tour() -> (Server, Origin, tempfile::TempDir) {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    (server, origin, tempfile::tempdir().unwrap())
}

/// Runs a program of the guide and looks for what it is to say.
fn assert_says(mut program: Command, server: &Server, origin: &Origin, lines: &[&str]) {
    let said = output(program.arg(&server.address).arg(origin.url("/a")));
    for line in lines {
        assert!(said.lines().any(|own| own == *line), "`{line}` in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_programs_of_the_guide_do_what_they_say() {
    let (server, origin, dir) = tour().await;
    let programs = programs("clients.md", "python");
    let [threads, asyncio] = programs.as_slice() else { panic!("one for threads, one for asyncio") };
    let Some(program) = python(dir.path(), threads) else { return };
    let events = ["1 job_changed", "2 task_ended", "3 job_ended", "body alpha"];
    let rest =
        ["bytes 5", "tasks 25 JOB_STATE_SUCCEEDED", "refused INVALID_ARGUMENT INVALID_ARGUMENT job.tasks[0].fetch.url"];
    assert_says(program, &server, &origin, &[&events[..], &rest[..]].concat());
    assert_eq!(origin.requests("/a").len(), 26);
    assert_says(python(dir.path(), asyncio).unwrap(), &server, &origin, &events);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_program_of_the_guide_does_what_it_says() {
    let (server, origin, dir) = tour().await;
    let Some(program) = typed_node(dir.path(), &programs("clients.md", "ts")[0]) else { return };
    let lines = [
        "1 jobChanged",
        "2 taskEnded",
        "3 jobEnded",
        "body alpha",
        "bytes 5",
        "tasks 25 SUCCEEDED",
        "refused InvalidArgument INVALID_ARGUMENT job.tasks[0].fetch.url",
    ];
    assert_says(program, &server, &origin, &lines);
    assert_eq!(origin.requests("/a").len(), 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_program_of_the_guide_does_what_it_says() {
    let (server, origin, dir) = tour().await;
    let Some(program) = go(dir.path(), &programs("clients.md", "go")[0]) else { return };
    let lines = [
        "2 TASK_STATE_SUCCEEDED",
        "body alpha",
        "tasks 25 JOB_STATE_SUCCEEDED",
        "refused InvalidArgument INVALID_ARGUMENT job.tasks[0].fetch.url",
    ];
    assert_says(program, &server, &origin, &lines);
    assert_eq!(origin.requests("/a").len(), 26);
}

/// Generates the messages into `dir`, as a user of another language does, and makes a command that runs a Python program
/// with them.
pub(crate) fn generated_python(installed: &Path, dir: &Path) -> Command {
    let mut generate = Command::new("python3");
    let out = |flag: &str| format!("{flag}={}", dir.display());
    generate.env("PYTHONPATH", installed).current_dir(root()).args(["-m", "grpc_tools.protoc", "-I", "proto"]);
    generate.args([out("--python_out"), out("--grpc_python_out")]);
    for file in ["access_service", "admin_service", "content_service", "job", "job_service", "options", "task"] {
        generate.arg(format!("proto/haul/v1/{file}.proto"));
    }
    output(&mut generate);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", format!("{}:{}", installed.display(), dir.display()));
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_on_watching_does_what_it_says() {
    let Some(installed) = tool("python") else { return };
    let (server, origin, dir) = tour().await;
    let spec = haul::pb::JobSpec {
        title: "by label".into(),
        labels: [("team".to_owned(), "red".to_owned())].into(),
        ..job(vec![fetch(origin.url("/a")), fetch(origin.url("/slow"))])
    };
    // Its first try fails, so that the job runs on while it is watched.
    origin.handle("/slow", |request| if request.nth == 0 { Reply::status(503) } else { Reply::ok("slow") });
    server.submit(spec).await;
    let path = dir.path().join("watch.py");
    std::fs::write(&path, &programs("watching.md", "python")[0]).unwrap();
    let said = output(generated_python(&installed, dir.path()).arg(path).arg(&server.address));
    assert!(said.lines().any(|line| line == "by label JOB_STATE_SUCCEEDED 2 of 2"), "{said}");
}
