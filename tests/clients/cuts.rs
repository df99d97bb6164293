//! Each client goes on while its server is killed and started again: in the midst of a watch, and twice in that of a feed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clients::programs::{go, node, output, python, root, source, tool};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::switch::Switch;

/// How many tasks are fed: a multiple of four chunks, so that a quarter of them are whole chunks.
const COUNT: u32 = 12_000;

/// Where the client finds the server.
enum By {
    /// A port that stays while the server's changes.
    Port,
    /// The socket of the server's own user.
    Socket,
}

/// Runs a program of `tests/clients`, which says when its server is to be killed.
async fn survives(mut program: Command, by: By, count: u32) {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let switch = Switch::to(&server.address);
    let was_killed = Arc::new(AtomicBool::new(false));
    origin.reply("/quick", Reply::ok("quick"));
    let killed = was_killed.clone();
    origin.handle("/slow", move |_| if killed.load(Ordering::Acquire) { Reply::ok("slow") } else { Reply::hang() });
    let address = match by {
        By::Port => switch.address.clone(),
        By::Socket => format!("unix:{}", server.data().join("haul.sock").display()),
    };
    let mut child = program.args([address, origin.url(""), count.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line == "kill" {
            server.kill();
            was_killed.store(true, Ordering::Release);
            server.launch().await;
            switch.turn_to(&server.address);
        }
        said.push(line);
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{said:?}; the log of the server: {}", server.log());
    let kills = said.iter().filter(|line| *line == "kill").count();
    assert_eq!(kills, 3, "{said:?}");
    for line in ["watched 5".to_owned(), format!("fed {count}"), "refused".to_owned()] {
        assert!(said.contains(&line), "{line} in {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_feeds_a_hundred_thousand_tasks_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = python(dir.path(), &source("tour.py")) else { return };
    program.arg("sync");
    survives(program, By::Port, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_for_asyncio_goes_on_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = python(dir.path(), &source("tour.py")) else { return };
    program.arg("async");
    survives(program, By::Socket, COUNT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_goes_on_through_kills() {
    for by in [By::Port, By::Socket] {
        let dir = tempfile::tempdir().unwrap();
        let Some(program) = node(dir.path(), &source("tour.mjs")) else { return };
        survives(program, by, COUNT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_client_goes_on_through_kills() {
    for by in [By::Port, By::Socket] {
        let dir = tempfile::tempdir().unwrap();
        let Some(program) = go(dir.path(), &source("tour.go")) else { return };
        survives(program, by, COUNT).await;
    }
}

/// The types of the Python client are those that callers see.
#[test]
fn the_python_client_is_typed() {
    let Some(installed) = tool("python") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut mypy = Command::new("python3");
    mypy.env("PYTHONPATH", installed).env("MYPYPATH", "src").current_dir(root().join("clients/python"));
    output(mypy.args(["-m", "mypy", "src", "--cache-dir"]).arg(dir.path()));
}
