//! Clients in other languages, with the settings that they have by themselves: the programs of `docs/guide/clients.md` as
//! they stand there, and errors as those clients see them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, job};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What `scripts/tools` installs; `None` where it has said that it cannot, so that the client is not tested.
fn tool(name: &str) -> Option<PathBuf> {
    let path = root().join(".tools").join(name);
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        root().join(format!(".tools/{name}.skipped")).exists(),
        "`{}` is missing; run scripts/tools",
        path.display()
    );
    None
}

/// The program of a language in a guide.
fn program(page: &str, language: &str) -> String {
    let guide = std::fs::read_to_string(root().join("docs/guide").join(page)).unwrap();
    let start = guide.find(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language} in the guide"));
    let code = guide[start..].split_once('\n').unwrap().1;
    code.split("\n```").next().unwrap().to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

/// Generates the messages into `dir` and makes a command that runs a Python program with them.
fn python(installed: &Path, dir: &Path) -> Command {
    let mut generate = Command::new("python3");
    let out = |flag: &str| format!("{flag}={}", dir.display());
    generate.env("PYTHONPATH", installed).current_dir(root()).args(["-m", "grpc_tools.protoc", "-I", "proto"]);
    generate.args([out("--python_out"), out("--grpc_python_out")]);
    for file in ["admin_service", "content_service", "job", "job_service", "options", "task"] {
        generate.arg(format!("proto/haul/v1/{file}.proto"));
    }
    output(&mut generate);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", format!("{}:{}", installed.display(), dir.display()));
    python
}

fn node(installed: &Path, dir: &Path, program: &str) -> Command {
    // An import is looked for beside the program and above it.
    std::os::unix::fs::symlink(installed.join("node_modules"), dir.join("node_modules")).unwrap();
    std::fs::write(dir.join("client.mjs"), program).unwrap();
    let mut node = Command::new("node");
    node.arg(dir.join("client.mjs"));
    node
}

const TOLD: [&str; 6] = [
    "1 job_changed",
    "2 task_ended",
    "3 job_ended",
    "bytes 5",
    "tasks 25 JOB_STATE_SUCCEEDED",
    "refused INVALID_ARGUMENT INVALID_ARGUMENT job.tasks[0].fetch.url",
];

async fn tour() -> (Server, Origin) {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    (server, origin)
}

fn assert_told(said: &str) {
    for line in TOLD.iter().chain(&["body alpha"]) {
        assert!(said.lines().any(|own| own == *line), "`{line}` in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_of_the_guide_does_what_it_says() {
    let Some(installed) = tool("python") else { return };
    let (server, origin) = tour().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.py");
    std::fs::write(&path, program("clients.md", "python")).unwrap();
    let mut python = python(&installed, dir.path());
    assert_told(&output(python.arg(path).arg(&server.address).arg(origin.url("/a"))));
    assert_eq!(origin.requests("/a").len(), 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_program_of_the_guide_does_what_it_says() {
    let Some(installed) = tool("node") else { return };
    let (server, origin) = tour().await;
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(&installed, dir.path(), &program("clients.md", "js"));
    assert_told(&output(node.arg(&server.address).arg(origin.url("/a")).arg(root().join("proto"))));
    assert_eq!(origin.requests("/a").len(), 26);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_on_watching_does_what_it_says() {
    let Some(installed) = tool("python") else { return };
    let (server, origin) = tour().await;
    let spec = haul::pb::JobSpec {
        title: "by label".into(),
        labels: [("team".to_owned(), "red".to_owned())].into(),
        ..job(vec![fetch(origin.url("/a")), fetch(origin.url("/slow"))])
    };
    // Its first try fails, so that the job runs on while it is watched.
    origin.handle("/slow", |request| if request.nth == 0 { Reply::status(503) } else { Reply::ok("slow") });
    server.submit(spec).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("watch.py");
    std::fs::write(&path, program("watching.md", "python")).unwrap();
    let said = output(python(&installed, dir.path()).arg(path).arg(&server.address));
    assert!(said.lines().any(|line| line == "by label JOB_STATE_SUCCEEDED 2 of 2"), "{said}");
}

async fn hanging(server: &Server, origin: &Origin) -> String {
    origin.reply("/hang", Reply::hang());
    server.submit(job(vec![fetch(origin.url("/hang"))])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_the_python_client() {
    let Some(installed) = tool("python") else { return };
    let (server, origin) = (Server::start().await, Origin::start());
    let id = hanging(&server, &origin).await;
    let dir = tempfile::tempdir().unwrap();
    let mut python = python(&installed, dir.path());
    output(python.arg(root().join("tests/clients/errors.py")).arg(&server.address).arg(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_the_node_client_and_browsers() {
    let Some(installed) = tool("node") else { return };
    let (server, origin) = (Server::start().await, Origin::start());
    let id = hanging(&server, &origin).await;
    let dir = tempfile::tempdir().unwrap();
    let program = std::fs::read_to_string(root().join("tests/clients/errors.mjs")).unwrap();
    let mut node = node(&installed, dir.path(), &program);
    output(node.arg(&server.address).arg(id).arg(root().join("proto")));
}
