//! Commands that say which jobs and which tasks.

use std::process::Output;

use haul::pb;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul};
use crate::support::spec::{fetch, group, job, once};

fn run(server: &Server, args: &[&str]) -> (i32, String) {
    let mut all = vec!["--server", &server.address];
    all.extend(args);
    let Output { status, stdout, stderr } = haul(&all);
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().unwrap(), text)
}

fn said(server: &Server, args: &[&str]) -> String {
    let (code, text) = run(server, args);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_tasks_are_chosen() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/ok", Reply::ok("fine"));
    origin.reply("/gone", Reply::status(404));
    let tasks = vec![fetch(origin.url("/ok")), fetch(origin.url("/gone")), fetch("http://127.0.0.1:9/")];
    let group = Some(group(pb::GroupMode::Collect, 0));
    let spec = pb::JobSpec { title: "Nightly".into(), group, defaults: Some(once()), ..job(tasks) };
    let id = server.run(spec).await.job_id;
    let open = server.submit(pb::JobSpec { title: "other".into(), open: true, ..job(Vec::new()) }).await;

    assert!(said(&server, &["list", "--search", "night"]).contains(&id));
    assert!(!said(&server, &["list", "--search", "night"]).contains(&open));
    let by_end = said(&server, &["list", "--order", "end-time"]);
    assert!(by_end.contains(&id) && !by_end.contains(&open), "{by_end}");
    let host = origin.address().to_string();
    let failed = said(&server, &["tasks", &id, "--reason", "http-status", "--host", &host]);
    assert!(failed.contains("/gone") && !failed.contains("127.0.0.1:9/"), "{failed}");
    assert_eq!(said(&server, &["tasks", &id, "--from", "2"]).lines().count(), 2);
    assert!(said(&server, &["tasks", &id, "--search", "/OK"]).contains("/ok"));
    let events = said(&server, &["events", &id]);
    assert!(events.lines().nth(1).unwrap().contains("job ended") && events.contains("task 1 ended"), "{events}");
    let (code, text) = run(&server, &["events", &id, "--kind", "nothing"]);
    assert!(code == 2 && text.contains("unknown kind `nothing`"), "{text}");
    let (code, text) = run(&server, &["retry", &id, "--reason", "nothing"]);
    assert!(code == 2 && text.contains("unknown reason `nothing`"), "{text}");
    let (code, _) = run(&server, &["retry", &id, "--reason", "dns", "--task", "1"]);
    assert_eq!(code, 2, "either or");

    origin.reply("/gone", Reply::ok("fine"));
    said(&server, &["retry", &id, "--reason", "http-status"]);
    assert_eq!(server.ended(&id).await.counts.unwrap().succeeded, 2);
    assert_eq!(run(&server, &["retry-now", &id]).0, 1, "it has ended");
    assert!(said(&server, &["retry-now", &open]).contains("0 tasks due now"));
    assert!(said(&server, &["hosts", "resume", &host]).contains(&host));
    assert_eq!(run(&server, &["hosts", "resume"]).0, 2);
    assert_eq!(run(&server, &["hosts", "resume", "nowhere:1"]).0, 1);

    let waits = server.submit(pb::JobSpec { open: true, ..job(vec![fetch(origin.url("/ok"))]) }).await;
    said(&server, &["pause", &waits]);
    let cancelled = said(&server, &["cancel", &waits, "--task", "0", "--task", "5"]);
    let count = server.job(&waits).await.counts.unwrap().cancelled;
    assert!(cancelled.contains(&format!("cancelled {count} task")), "{cancelled}");

    let (code, text) = run(&server, &["control", "pause"]);
    assert!(code == 2 && text.contains("say which jobs"), "{text}");
    for (action, option) in [("pause", vec!["--reason", "x"]), ("cancel", vec!["--files"])] {
        let (code, text) =
            run(&server, &[vec!["control", action, "--search", "other", "--yes"], option.clone()].concat());
        assert!(code == 2 && text.contains(&format!("`{}` applies only to", option[0])), "{text}");
    }
    let (code, text) = run(&server, &["control", "cancel", "--search", "other"]);
    assert!(code == 2 && text.contains("this would cancel 1 job"), "{text}");
    assert!(
        said(&server, &["control", "cancel", "--search", "other", "--reason", "enough", "--yes"])
            .contains("cancelled 1 job")
    );
    assert_eq!(server.job(&open).await.state(), pb::JobState::Cancelled);
    let json = said(&server, &["control", "delete", "--state", "cancelled", "--yes", "-o", "json"]);
    assert!(json.lines().last().unwrap().contains(r#""done":1"#), "{json}");
    assert!(said(&server, &["info"]).contains("free for downloads"));

    let (code, text) = run(&server, &["list", "--limit", "-1"]);
    assert!(code == 2 && text.contains("`--limit` is `-1`; it must be at least 0"), "{text}");
    assert_eq!(run(&server, &["cat", &id, "0", "--length", "0"]).0, 2, "0 is no length, and not all of it");
    let (code, text) = run(&server, &["--ca", "none.pem", "list"]);
    assert!(code == 2 && text.contains("begin it with `https://`"), "{text}");
    let (code, text) = run(&server, &["token", "create", "nobody"]);
    assert!(code == 1 && text.contains("there is no principal `nobody`; `--grant`"), "{text}");
}

/// The server's messages are for all its clients, so the command line says which command helps.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_calls_say_which_command_helps() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/ok", Reply::ok("fine"));
    origin.reply("/gone", Reply::status(404));
    let group = Some(group(pb::GroupMode::Collect, 0));
    let id = server.run(pb::JobSpec { group, ..job(vec![fetch(origin.url("/ok")), fetch(origin.url("/gone"))]) }).await;
    let id = id.job_id;
    let open = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    for args in [&["retry-now", &id][..], &["cancel", &id, "--task", "0"]] {
        let (code, text) = run(&server, args);
        assert!(code == 1 && text.contains("the tasks of a job that is FAILED cannot be"), "{text}");
        assert!(text.contains("(`haul retry JOB` runs its failed and cancelled tasks again)"), "{text}");
    }
    let (code, text) = run(&server, &["delete", &open]);
    assert!(code == 1 && text.contains("`haul cancel JOB` cancels it"), "{text}");
    let (code, text) = run(&server, &["cat", &id, "0", "--items"]);
    assert!(code == 1 && text.contains("`haul cat JOB TASK` prints its body"), "{text}");
    let (code, text) = run(&server, &["cat", &id, "0", "--offset", "5"]);
    assert!(code == 1 && text.contains("`offset` is 5, beyond the end: the content has 4 bytes"), "{text}");
}
