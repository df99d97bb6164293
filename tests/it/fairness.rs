//! Tenants share the server: places, hosts and rates, whatever one of them does.

use std::time::Duration;

use haul::pb;
use haul::pb::admin_service_client::AdminServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use prost_types::FieldMask;

use crate::it::access::{operator, token};
use crate::it::quotas::{cancel, tenant};
use crate::it::tenants::{about, delete, ended, jobs, make, submit};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{download_as, fetch, job};

#[tokio::test(flavor = "multi_thread")]
async fn ten_tasks_are_not_held_up_by_ten_thousand_of_another_tenant() {
    let flags = ["--allow-private-networks", "--max-concurrent-tasks", "8", "--max-per-host", "8"];
    let (server, origin) = (Server::with(&flags).await, Origin::start());
    origin.handle("/of-a", |_| Reply::ok("a").delay(Duration::from_millis(5)));
    origin.reply("/of-b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    // Of the highest priority, which is the tenant's own affair.
    let all = job((0..10_000).map(|_| fetch(origin.url("/of-a"))).collect());
    let noisy = submit(&server, "a", pb::JobSpec { priority: i32::MAX, ..all }, "").await.job_id;
    until(|| async { origin.requests("/of-a").len() > 100 }).await;
    let before = origin.requests("/of-a").len();
    let few = job((0..10).map(|_| fetch(origin.url("/of-b"))).collect());
    let quiet = submit(&server, "b", few, "").await.job_id;
    assert_eq!(ended(&server, "b", &quiet).await.state(), pb::JobState::Succeeded);
    let meanwhile = origin.requests("/of-a").len() - before;
    assert!(meanwhile < 2_000, "{meanwhile} tasks of the other ran before ten");
    cancel(&server, "a", &noisy).await;
}

/// At a host with a rate each start is for one task: whoever has fewer tasks running elsewhere must not get all of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_host_is_shared_by_tenants_whatever_runs_elsewhere() {
    let (server, origin, elsewhere) = (Server::start().await, Origin::start(), Origin::start());
    elsewhere.reply("/hang", Reply::hang());
    origin.reply("/of-a", Reply::ok("a"));
    origin.reply("/of-b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    let hosts =
        vec![pb::HostLimits { host: origin.address().to_string(), requests_per_second: 20.0, ..Default::default() }];
    let update_mask = Some(FieldMask { paths: vec!["hosts".into()] });
    let request = pb::UpdateLimitsRequest { limits: Some(pb::Limits { hosts, ..Default::default() }), update_mask };
    server.admin().update_limits(request).await.unwrap();
    let many = |url: &str, count: usize| job((0..count).map(|_| fetch(url)).collect());
    let held = submit(&server, "b", many(&elsewhere.url("/hang"), 3), "").await.job_id;
    until(|| async { elsewhere.in_flight() == 3 }).await;
    let all = submit(&server, "a", many(&origin.url("/of-a"), 2_000), "").await.job_id;
    until(|| async { !origin.requests("/of-a").is_empty() }).await;
    let few = submit(&server, "b", many(&origin.url("/of-b"), 5), "").await.job_id;
    assert_eq!(ended(&server, "b", &few).await.state(), pb::JobState::Succeeded);
    assert!(origin.requests("/of-a").len() < 200, "{} of the other's", origin.requests("/of-a").len());
    cancel(&server, "b", &held).await;
    // And the other way round: now the one that has much to do there is the one of which more tasks run.
    let held = submit(&server, "a", many(&elsewhere.url("/hang"), 3), "").await.job_id;
    until(|| async { elsewhere.in_flight() == 3 }).await;
    let before = origin.requests("/of-a").len();
    let more = submit(&server, "b", many(&origin.url("/of-b"), 30), "").await.job_id;
    assert_eq!(ended(&server, "b", &more).await.state(), pb::JobState::Succeeded);
    let meanwhile = origin.requests("/of-a").len() - before;
    assert!((20..60).contains(&meanwhile), "{meanwhile} of the other's beside thirty");
    for id in [&held, &all] {
        cancel(&server, "a", id).await;
    }
}

/// All places that a tenant may have are held by tasks that never end: whoever has fewer gets the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_origin_never_answers_does_not_come_to_hold_all_places() {
    let flags = ["--allow-private-networks", "--max-concurrent-tasks", "4", "--max-per-host", "100"];
    let (server, origin) = (Server::with(&flags).await, Origin::start());
    origin.reply("/hang", Reply::hang());
    origin.reply("/b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    let one = submit(&server, "a", job(vec![fetch(origin.url("/hang"))]), "").await.job_id;
    let noisy = submit(&server, "a", job((0..1_000).map(|_| fetch(origin.url("/hang"))).collect()), "").await.job_id;
    until(|| async { origin.in_flight() == 3 }).await;
    let last = submit(&server, "default", job(vec![fetch(origin.url("/hang"))]), "").await.job_id;
    until(|| async { origin.in_flight() == 4 }).await;
    let quiet = submit(&server, "b", job((0..50).map(|_| fetch(origin.url("/b"))).collect()), "").await.job_id;
    // One place becomes free, and then the quiet one has it for all of its tasks.
    cancel(&server, "a", &one).await;
    assert_eq!(ended(&server, "b", &quiet).await.state(), pb::JobState::Succeeded);
    cancel(&server, "a", &noisy).await;
    cancel(&server, "default", &last).await;
}

/// A job whose downloads do not end in any time.
fn slow(count: usize, url: impl Fn(usize) -> String) -> pb::JobSpec {
    let task = |nth: usize| {
        let spec = pb::DownloadSpec { url: url(nth), path: nth.to_string(), max_connections: 8, ..Default::default() };
        download_as(spec)
    };
    let rate_limit = Some(pb::RateLimit { bytes_per_second: 1, ..Default::default() });
    pb::JobSpec { rate_limit, ..job((0..count).map(task).collect()) }
}

async fn succeeds(server: &Server, tenant: &str, id: &str) {
    let request = || pb::GetJobRequest { job_id: id.to_owned(), ..Default::default() };
    let state = async || jobs(server, tenant).get_job(request()).await.unwrap().into_inner().job.unwrap().state();
    until(|| async { state().await == pb::JobState::Succeeded }).await;
}

/// What a task waits for.
async fn waiting(server: &Server, tenant: &str, id: &str, index: u32) -> (pb::WaitReason, String) {
    let task = Some(pb::get_task_request::Task::TaskIndex(index));
    let request = pb::GetTaskRequest { job_id: id.to_owned(), task, ..Default::default() };
    let task = jobs(server, tenant).get_task(request).await.unwrap().into_inner().task.unwrap();
    let waiting = task.waiting.unwrap_or_default();
    (waiting.reason(), waiting.message)
}

async fn running(server: &Server, tenant: &str) -> u32 {
    self::tenant(server, tenant).await.usage.unwrap().running_tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_take_for_ever_leave_places_to_other_tenants() {
    let (mut server, origin) = (Server::start().await, Origin::start_on([0, 0, 0, 0]));
    let object = Object::new(1, 1 << 20);
    origin.handle("/slow", move |request| object.respond(request));
    origin.reply("/b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    let port = origin.address().port();
    let all = slow(400, |nth| format!("http://127.0.0.{}:{port}/slow", 2 + nth % 20));
    let noisy = submit(&server, "a", all, "").await.job_id;
    for is_again in [false, true] {
        until(|| async { running(&server, "a").await >= 48 }).await;
        let few = job((0..100).map(|_| fetch(format!("http://127.0.0.99:{port}/b"))).collect());
        let quiet = submit(&server, "b", few, "").await.job_id;
        succeeds(&server, "b", &quiet).await;
        assert_eq!(running(&server, "a").await, 48, "restarted: {is_again}");
        let (reason, message) = waiting(&server, "a", &noisy, 399).await;
        assert_eq!(reason, pb::WaitReason::TenantLimit);
        assert_eq!(message, "48 tasks of the tenant run, and the rest of the 64 places is left to other tenants");
        if !is_again {
            server.restart().await;
        }
    }
    cancel(&server, "a", &noisy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_take_for_ever_leave_requests_of_their_host_to_other_tenants() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    // One alone would have as many by its segments.
    for (count, size) in [(20, 16 << 20), (1, 256 << 20)] {
        let object = Object::new(1, size);
        origin.handle("/slow", move |request| object.respond(request));
        let noisy = submit(&server, "a", slow(count, |_| origin.url("/slow")), "").await.job_id;
        until(|| async { origin.in_flight() >= 6 }).await;
        let quiet = submit(&server, "b", job((0..20).map(|_| fetch(origin.url("/b"))).collect()), "").await.job_id;
        succeeds(&server, "b", &quiet).await;
        if count > 1 {
            let (reason, message) = waiting(&server, "a", &noisy, 19).await;
            assert_eq!(reason, pb::WaitReason::TenantLimit);
            let host = origin.address();
            let left = format!("the rest of the 8 requests that `{host}` may have is left to other tenants");
            assert_eq!(message, left);
        }
        cancel(&server, "a", &noisy).await;
        until(|| async { origin.in_flight() == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_left_alone_has_all_places_and_requests() {
    let flags = ["--allow-private-networks", "--max-concurrent-tasks", "10", "--max-per-host", "8"];
    let (server, origin, other) = (Server::with(&flags).await, Origin::start(), Origin::start());
    for origin in [&origin, &other] {
        origin.reply("/hang", Reply::hang());
    }
    let many = |origin: &Origin| job((0..20).map(|_| fetch(origin.url("/hang"))).collect());
    let alone = submit(&server, "default", many(&origin), "").await.job_id;
    until(|| async { origin.in_flight() == 8 }).await;
    make(&server, &["a"]).await;
    cancel(&server, "default", &alone).await;
    let ids = [
        submit(&server, "default", many(&origin), "").await.job_id,
        submit(&server, "default", many(&other), "").await.job_id,
    ];
    // Of ten places seven, and of eight requests six.
    until(|| async { origin.in_flight() + other.in_flight() == 7 }).await;
    assert!(origin.in_flight() <= 6 && other.in_flight() <= 6);
    delete(&server, "a").await.unwrap();
    until(|| async { origin.in_flight() + other.in_flight() == 10 }).await;
    cancel(&server, "default", &ids[1]).await;
    until(|| async { origin.in_flight() == 8 }).await;
    cancel(&server, "default", &ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_asks_of_one_tenant_holds_up_no_other() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.replies("/a", vec![Reply::status(429).header("retry-after", "600"), Reply::ok("a")]);
    origin.reply("/b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    let op = operator(&server);
    let of = |name: &str, grant: &str| token(&server, &op, &[name, "--grant", grant]);
    let (one, other) = (of("one", "submit@a"), of("other", "submit@b"));
    let submit = async |tenant: &str, token: &str, path: &str| {
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url(path))])), ..Default::default() };
        let mut client = JobServiceClient::new(about(&server, tenant, token));
        client.submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
    };
    let wait = async |tenant: &str, token: &str, id: &str| {
        let request = pb::WaitJobRequest { job_id: id.to_owned(), ..Default::default() };
        let mut client = JobServiceClient::new(about(&server, tenant, token));
        client.wait_job(request).await.unwrap().into_inner().job.unwrap().state()
    };
    let hosts = async |tenant: &str, token: &str| {
        let mut client = AdminServiceClient::new(about(&server, tenant, token));
        let hosts = client.list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.into_iter().find(|host| host.host == origin.address().to_string()).unwrap_or_default()
    };
    let held = submit("a", &one, "/a").await;
    until(|| async { hosts("a", &one).await.paused_until.is_some() }).await;
    for _ in 0..3 {
        let id = submit("b", &other, "/b").await;
        assert_eq!(wait("b", &other, &id).await, pb::JobState::Succeeded);
    }
    assert!(hosts("a", &one).await.pause_reason.contains("429"));
    let seen = hosts("b", &other).await;
    assert_eq!((seen.paused_until, seen.pause_reason.as_str(), seen.recent_error.as_str()), (None, "", ""));
    assert!(hosts("a", &op).await.paused_until.is_some(), "who sees all hosts sees it");
    // Its own further tasks wait, and go on when an operator says so.
    let second = submit("a", &one, "/b").await;
    let request = pb::GetJobRequest { job_id: second.clone(), ..Default::default() };
    let waiting = JobServiceClient::new(about(&server, "a", &one)).get_job(request).await.unwrap().into_inner();
    assert_eq!(waiting.job.unwrap().state(), pb::JobState::Pending);
    let resume = pb::ResumeHostRequest { host: origin.address().to_string() };
    AdminServiceClient::new(about(&server, "default", &op)).resume_host(resume).await.unwrap();
    assert_eq!(wait("a", &one, &second).await, pb::JobState::Succeeded);
    let retry = pb::RetryNowRequest { job_id: held.clone(), task_indexes: vec![0], ..Default::default() };
    JobServiceClient::new(about(&server, "a", &one)).retry_now(retry).await.unwrap();
    assert_eq!(wait("a", &one, &held).await, pb::JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_for_a_tenant_is_told_of_it_alone() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/large", Reply::ok(vec![b'x'; 512 << 10]));
    make(&server, &["a", "b"]).await;
    let id = submit(&server, "a", job(vec![fetch(origin.url("/large"))]), "").await.job_id;
    assert_eq!(ended(&server, "a", &id).await.state(), pb::JobState::Succeeded);
    until(|| async { tenant(&server, "a").await.usage.unwrap().bytes_per_second > 0.0 }).await;
    assert!(tenant(&server, "b").await.usage.unwrap().bytes_per_second <= 0.0);
}
