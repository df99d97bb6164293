//! The real grpcurl, with nothing but reflection to go by.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;

/// `scripts/tools` installs it; `HAUL_GRPCURL` names another one.
fn grpcurl(server: &Server, args: &[&str]) -> Output {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/grpcurl");
    let path = std::env::var_os("HAUL_GRPCURL").map_or(installed, PathBuf::from);
    // Flags come before the address, the method after it.
    let (options, rest) = args.split_at(if args[0] == "-d" { 2 } else { 0 });
    let output = Command::new(&path).arg("-plaintext").args(options).arg(&server.address).args(rest).output();
    output.unwrap_or_else(|error| panic!("cannot run `{}` ({error}); run scripts/tools", path.display()))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_describes() {
    let server = Server::start().await;
    let listed = said(&grpcurl(&server, &["list"]));
    for service in ["haul.v1.JobService", "haul.v1.ContentService", "haul.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{listed}");
    }
    let described = said(&grpcurl(&server, &["describe", "haul.v1.JobSpec"]));
    assert!(described.contains("repeated .haul.v1.TaskSpec tasks"), "{described}");
    let health = said(&grpcurl(&server, &["grpc.health.v1.Health/Check"]));
    assert!(health.contains("\"SERVING\""), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_watches_and_reads() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let job = format!(
        r#"{{"job": {{"title": "by hand", "timeout": "30s", "tasks": [{{"key": "a", "fetch": {{"url": "{}"}}}}]}}}}"#,
        origin.url("/a")
    );
    let submitted = grpcurl(&server, &["-d", &job, "haul.v1.JobService/SubmitJob"]);
    assert!(submitted.status.success(), "{}", said(&submitted));
    let answer: serde_json::Value = serde_json::from_slice(&submitted.stdout).unwrap();
    let id = answer["job"]["jobId"].as_str().unwrap().to_owned();

    let request = format!(r#"{{"job_id": "{id}", "after_sequence": "0"}}"#);
    let watched = grpcurl(&server, &["-d", &request, "haul.v1.JobService/WatchJob"]);
    assert!(watched.status.success(), "{}", said(&watched));
    let text = said(&watched);
    for part in ["snapshot", "taskEnded", "jobEnded", "JOB_STATE_SUCCEEDED"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let request = format!(r#"{{"job_id": "{id}", "task_key": "a", "include_body": true}}"#);
    let task = grpcurl(&server, &["-d", &request, "haul.v1.JobService/GetTask"]);
    let task: serde_json::Value = serde_json::from_slice(&task.stdout).unwrap();
    assert_eq!(task["task"]["fetchResult"]["body"], "YWxwaGE=");
    assert_eq!(task["task"]["state"], "TASK_STATE_SUCCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_the_details_of_errors() {
    let server = Server::start().await;
    let job = r#"{"job": {"tasks": [{"fetch": {"url": "ftp://a/"}}, {"download": {"url": ""}}]}}"#;
    let refused = grpcurl(&server, &["-d", job, "haul.v1.JobService/SubmitJob"]);
    assert!(!refused.status.success());
    let text = said(&refused);
    for part in ["InvalidArgument", "google.rpc.BadRequest", "job.tasks[0].fetch.url", "job.tasks[1].download.url"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let unknown = grpcurl(&server, &["-d", r#"{"job": {"taskz": []}}"#, "haul.v1.JobService/SubmitJob"]);
    assert!(said(&unknown).contains("taskz"), "{}", said(&unknown));
}
