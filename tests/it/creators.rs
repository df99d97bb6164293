//! Jobs by who submitted them.

use haul::pb;

use crate::it::access::{access, jobs, operator, token};
use crate::support::server::{Server, haul};
use crate::support::spec::job;

fn spec(title: &str) -> pb::JobSpec {
    pb::JobSpec { title: title.to_owned(), open: true, ..job(Vec::new()) }
}

async fn titles(server: &Server, token: &str, created_by: &str) -> Vec<String> {
    let request = pb::ListJobsRequest { created_by: created_by.to_owned(), ..Default::default() };
    let page = jobs(server, token).list_jobs(request).await.unwrap().into_inner();
    page.jobs.into_iter().map(|job| job.title).collect()
}

/// Jobs outlive the principals that submitted them, and a name may be given again.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_principals_that_are_gone_too() {
    let server = Server::start().await;
    let ops = operator(&server);
    let reader = token(&server, &ops, &["reader", "--grant", "read"]);
    let make = || token(&server, &ops, &["robot", "--grant", "submit"]);
    let submit = async |token: &str, title: &str| {
        let request = pb::SubmitJobRequest { job: Some(spec(title)), ..Default::default() };
        jobs(&server, token).submit_job(request).await.unwrap();
    };
    let first = make();
    submit(&first, "old").await;
    let delete = pb::DeletePrincipalRequest { name: "robot".into(), ..Default::default() };
    access(&server, &ops).delete_principal(delete).await.unwrap();
    assert_eq!(titles(&server, &reader, "robot").await, ["old"]);
    let second = make();
    submit(&second, "new").await;
    assert_eq!(titles(&server, &reader, "robot").await, ["new"], "they are another principal's");
    assert!(titles(&server, &reader, "nobody").await.is_empty());
}

/// Who only submits learns nothing of what others have, not even how much there is.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_are_not_looked_at_for_who_only_submits() {
    let server = Server::start().await;
    let ops = operator(&server);
    let [alice, bob] = ["alice", "bob"].map(|name| token(&server, &ops, &[name, "--grant", "submit"]));
    let submit = async |token: &str, spec: pb::JobSpec| {
        let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
        jobs(&server, token).submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
    };
    let labels = || [("team".to_owned(), "red".to_owned())].into();
    for title in ["a", "b", "c"] {
        submit(&alice, pb::JobSpec { labels: labels(), ..spec(title) }).await;
    }
    for token in [&alice, &bob] {
        let job_id = submit(token, pb::JobSpec { labels: labels(), ..spec("ended") }).await;
        jobs(&server, token).cancel_job(pb::CancelJobRequest { job_id, ..Default::default() }).await.unwrap();
    }
    let unfinished = vec![pb::JobState::Pending as i32, pb::JobState::Running as i32];
    let ended = vec![pb::JobState::Cancelled as i32];
    let by_end = pb::JobOrder::EndTime as i32;
    let past = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let of = pb::ListJobsRequest::default;
    for (request, fits) in [
        (of(), true),
        (pb::ListJobsRequest { states: unfinished, ..of() }, false),
        (pb::ListJobsRequest { states: ended.clone(), ..of() }, true),
        (pb::ListJobsRequest { order: by_end, ..of() }, true),
        (pb::ListJobsRequest { order: by_end, states: ended, labels: labels(), ..of() }, true),
        (pb::ListJobsRequest { labels: labels(), ..of() }, true),
        (pb::ListJobsRequest { end_time_after: past, ..of() }, true),
        (pb::ListJobsRequest { search: "ended".into(), ..of() }, true),
    ] {
        let page = jobs(&server, &bob).list_jobs(request.clone()).await.unwrap().into_inner();
        assert_eq!((page.jobs.len(), page.examined), (usize::from(fits), 1), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_callers_who_need_no_token_are_found_by_either_name() {
    let server = Server::with(&["--allow-private-networks", "--auth", "none"]).await;
    let id = server.submit(spec("mine")).await;
    let request = pb::SubmitJobRequest { job: Some(spec("mine")), validate_only: true, ..Default::default() };
    let checked = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!((checked.created_by, server.job(&id).await.created_by), ("local".to_owned(), "local".to_owned()));
    for name in ["local", "anonymous"] {
        assert_eq!(titles(&server, "", name).await, ["mine"], "{name}");
        let listed = haul(&["--server", &server.address, "list", "--created-by", name]);
        assert!(String::from_utf8_lossy(&listed.stdout).contains(&id), "{listed:?}");
    }
    let listed = haul(&["--server", &server.address, "list", "--created-by", "nobody"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains(&id), "{listed:?}");
}
