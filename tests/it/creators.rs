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
