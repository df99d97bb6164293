//! What each caller sees of tenants: hosts, names, numbers, and who needs not name one.

use std::collections::BTreeSet;

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::admin_service_client::AdminServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::access::{Sent, operator, reason, refused, sending, token};
use crate::it::tenants::{about, make, names, open_job};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, haul, until};
use crate::support::spec::{fetch, job};

#[tokio::test(flavor = "multi_thread")]
async fn of_hosts_each_sees_what_is_done_for_it() {
    let (server, of_a, of_b) = (Server::start().await, Origin::start(), Origin::start());
    of_a.reply("/hang", Reply::hang());
    of_b.reply("/hang", Reply::hang());
    make(&server, &["a", "b"]).await;
    let mut tokens = vec![token(&server, "", &["op", "--grant", "operator"])];
    let grants =
        [("one", "submit@a"), ("other", "submit@a"), ("reader", "read@a"), ("far", "read@b"), ("their", "submit@b")];
    for (name, grant) in grants {
        let made = token(&server, &tokens[0], &[name, "--grant", grant]);
        tokens.push(made);
    }
    let [op, one, other, reader, far, their] = tokens.try_into().unwrap();
    let submit = async |token: &str, origin: &Origin| {
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/hang"))])), ..Default::default() };
        let mut client = JobServiceClient::new(about(&server, "a", token));
        client.submit_job(request).await.unwrap();
    };
    submit(&one, &of_a).await;
    submit(&other, &of_b).await;
    until(|| async { of_a.in_flight() == 1 && of_b.in_flight() == 1 }).await;
    let hosts = async |tenant: &str, token: &str| {
        let mut client = AdminServiceClient::new(about(&server, tenant, token));
        let hosts = client.list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.into_iter().filter(|host| host.running > 0).map(|host| host.host).collect::<BTreeSet<_>>()
    };
    let (first, second) = (of_a.address().to_string(), of_b.address().to_string());
    assert_eq!(hosts("a", &one).await, names(&[&first]));
    assert_eq!(hosts("a", &other).await, names(&[&second]));
    assert_eq!(hosts("a", &reader).await, names(&[&first, &second]));
    assert_eq!(hosts("b", &far).await, names(&[]));
    // Who may see all of them sees those of the tenant that is named, or else all.
    let theirs = about(&server, "b", &their);
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(of_b.url("/hang"))])), ..Default::default() };
    JobServiceClient::new(theirs).submit_job(request).await.unwrap();
    until(|| async { of_b.in_flight() == 2 }).await;
    assert_eq!(hosts("a", &op).await, names(&[&first, &second]));
    assert_eq!(hosts("b", &op).await, names(&[&second]));
    assert_eq!(hosts("default", &op).await, names(&[]));
    assert_eq!(hosts("*", &op).await, names(&[&first, &second]));
    let running = async |client: Sent| {
        let mut client = AdminServiceClient::new(client);
        let hosts = client.list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.into_iter().find(|host| host.host == second).map(|host| host.running)
    };
    assert_eq!(running(sending(&server, &op)).await, Some(2), "who names none is told of all");
    assert_eq!(running(about(&server, "b", &op)).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_without_a_word_calls_about_its_only_tenant() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let op = token(&server, "", &["op", "--grant", "operator"]);
    let one = token(&server, &op, &["one", "--grant", "submit@a"]);
    let both = token(&server, &op, &["both", "--grant", "submit@a", "--grant", "submit@b"]);
    let client = |token: &str| JobServiceClient::new(crate::it::access::sending(&server, token));
    let request = || pb::SubmitJobRequest { job: Some(open_job("red")), ..Default::default() };
    let made = client(&one).submit_job(request()).await.unwrap().into_inner().job.unwrap();
    assert_eq!((made.tenant.as_str(), made.created_by.as_str()), ("a", "one"));
    refused(client(&both).submit_job(request()).await, Code::InvalidArgument, "TENANT_REQUIRED");
    let mut about_b = JobServiceClient::new(about(&server, "b", &one));
    let status = about_b.submit_job(request()).await.unwrap_err();
    assert_eq!(reason(&status), (Code::PermissionDenied, "TENANT_NOT_ALLOWED".to_owned()));
    let mut about_none = JobServiceClient::new(about(&server, "nobody", &one));
    let none = about_none.submit_job(request()).await.unwrap_err();
    assert_eq!(
        status.message().replace("`b`", ""),
        none.message().replace("`nobody`", ""),
        "there or not is one answer"
    );
    let principal = pb::Principal { name: "both".into(), default_tenant: "b".into(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["default_tenant".into()] });
    let change = pb::UpdatePrincipalRequest { principal: Some(principal), update_mask };
    crate::it::access::access(&server, &op).update_principal(change).await.unwrap();
    let made = client(&both).submit_job(request()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(made.tenant, "b");
    let missing = client(&op).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&missing), (Code::PermissionDenied, "MISSING_ROLE".to_owned()));
    assert_eq!(missing.get_details_error_info().unwrap().metadata["tenant"], "default");
    // What a tenant's admin does is in its record, and in nobody else's.
    let admin = token(&server, &op, &["a/boss", "--grant", "admin@a"]);
    let events = async |token: &str, tenant: &str| {
        let request = pb::ListAuditEventsRequest { page_size: 100, ..Default::default() };
        let mut client = AccessServiceClient::new(about(&server, tenant, token));
        client.list_audit_events(request).await.unwrap().into_inner().events
    };
    let own = events(&admin, "a").await;
    assert!(own.iter().any(|event| event.subject == format!("jobs/{}", made_id(&own))), "{own:?}");
    assert!(own.iter().all(|event| event.tenant == "a"));
}

fn made_id(events: &[pb::AuditEvent]) -> String {
    let submitted = events.iter().find(|event| event.method == "haul.v1.JobService/SubmitJob");
    submitted.and_then(|event| event.subject.strip_prefix("jobs/")).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_names_tenants() {
    let server = Server::start().await;
    let run = |args: &[&str]| {
        let mut all = vec!["--server", &server.address];
        all.extend(args);
        let ran = haul(&all);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        (ran.status.code(), said)
    };
    let ok = |args: &[&str]| {
        let (code, said) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        said
    };
    assert!(ok(&["tenant", "create", "acme", "--title", "Acme Ltd."]).contains("acme"));
    assert!(ok(&["tenant", "list"]).contains("Acme Ltd.") && ok(&["tenant", "list"]).contains("default"));
    assert!(ok(&["tenant", "update", "acme", "--title", "Acme"]).contains("Acme"));
    assert!(ok(&["tenant", "show", "acme", "-o", "json"]).contains("\"etag\""));
    let id = ok(&["--tenant", "acme", "submit", "--open", "--title", "one", "-o", "json"]);
    assert!(id.contains("\"tenant\":\"acme\""), "{id}");
    assert!(ok(&["--tenant", "acme", "list"]).contains("one"));
    assert!(!ok(&["list"]).contains("one") && ok(&["--tenant", "*", "list"]).contains("one"));
    assert!(ok(&["--tenant", "acme", "whoami"]).contains("acme"));
    let (code, said) = run(&["tenant", "delete", "acme"]);
    assert!(code == Some(1) && said.contains("still has jobs"), "{said}");
    ok(&["--tenant", "acme", "cancel", "@last"]);
    ok(&["--tenant", "acme", "delete", "@last"]);
    ok(&["tenant", "delete", "acme"]);
    let (code, said) = run(&["--tenant", "acme", "list"]);
    assert!(code == Some(1) && said.contains("does not exist"), "{said}");
    assert_eq!(run(&["--tenant", "", "list"]).0, Some(2));
}

/// What an admin is not shown of a principal cannot be asked for tenant by tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_no_more_than_is_shown() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let op = token(&server, "", &["op", "--grant", "operator"]);
    let admin = token(&server, &op, &["a/boss", "--grant", "admin@a"]);
    token(&server, &op, &["bot", "--grant", "read@a", "--grant", "submit@b"]);
    let mut found = Vec::new();
    for (who, tenant) in [(&admin, "a"), (&admin, "b"), (&admin, "c"), (&op, "b")] {
        let mut client = AccessServiceClient::new(about(&server, if who == &op { "default" } else { "a" }, who));
        let request = pb::ListPrincipalsRequest { tenant: tenant.to_owned(), ..Default::default() };
        let listed = client.list_principals(request).await.unwrap().into_inner().principals;
        found.push(listed.iter().any(|it| it.name == "bot"));
    }
    assert_eq!(found, [true, false, false, true]);
}

/// Numbers are of what their reader may see: who only submits is told of its own jobs alone.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_of_the_jobs_that_their_reader_sees() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/held", Reply::hang());
    let operator = operator(&server);
    let tokens = ["one", "two"].map(|name| token(&server, &operator, &[name, "--grant", "submit"]));
    let reader = token(&server, &operator, &["reader", "--grant", "read"]);
    let jobs = |token: &str| JobServiceClient::new(sending(&server, token));
    for (token, count) in tokens.iter().zip([1, 3]) {
        for _ in 0..count {
            let spec = Some(job(vec![fetch(origin.url("/held"))]));
            jobs(token).submit_job(pb::SubmitJobRequest { job: spec, ..Default::default() }).await.unwrap();
        }
    }
    for (token, count) in [(&tokens[0], 1), (&tokens[1], 3), (&reader, 4)] {
        let wish = pb::WatchJobsRequest { totals: true, max_jobs: Some(0), ..Default::default() };
        let mut watch = jobs(token).watch_jobs(wish).await.unwrap().into_inner();
        // What is summed up may be a moment old.
        let told = async {
            loop {
                let event = watch.message().await.unwrap().unwrap().event.unwrap();
                let pb::watch_jobs_response::Event::Totals(totals) = event else { continue };
                let open: u32 = totals.jobs.iter().map(|it| it.count).sum();
                assert!(open <= count && totals.tasks.unwrap().total <= count, "{count} are seen: {totals:?}");
                if open == count && totals.tasks.unwrap().total == count {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("its own are told of");
        let mut info = AdminServiceClient::new(sending(&server, token));
        let counts = info.get_server_info(pb::GetServerInfoRequest {}).await.unwrap().into_inner().counts.unwrap();
        assert_eq!(counts.total, count);
    }
}
