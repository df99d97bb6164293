//! What tenants may have: quotas, as they are set, judged and told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use haul::pb;
use prost_types::FieldMask;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::it::access::{reason, refused};
use crate::it::curl::curl;
use crate::it::tenants::{access, ended, jobs, make, open_job, submit};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Pause, Reply};
use crate::support::server::{Server, haul, until};
use crate::support::spec::{fetch, job};

/// Changes a tenant: what is in the paths.
async fn change(server: &Server, tenant: pb::Tenant, paths: &[&str]) -> pb::Tenant {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let request = pb::UpdateTenantRequest { tenant: Some(tenant), update_mask };
    access(server).update_tenant(request).await.unwrap().into_inner().tenant.unwrap()
}

async fn give(server: &Server, name: &str, quotas: pb::Quotas) -> pb::Tenant {
    change(server, pb::Tenant { name: name.to_owned(), quotas: Some(quotas), ..Default::default() }, &["quotas"]).await
}

pub(crate) async fn tenant(server: &Server, name: &str) -> pb::Tenant {
    let request = pb::GetTenantRequest { name: name.to_owned() };
    access(server).get_tenant(request).await.unwrap().into_inner().tenant.unwrap()
}

async fn try_submit(server: &Server, tenant: &str, spec: pb::JobSpec, request_id: &str) -> Result<pb::Job, Status> {
    let request = pb::SubmitJobRequest { job: Some(spec), request_id: request_id.to_owned(), validate_only: false };
    Ok(jobs(server, tenant).submit_job(request).await?.into_inner().job.unwrap())
}

pub(crate) async fn cancel(server: &Server, tenant: &str, id: &str) {
    let request = pb::CancelJobRequest { job_id: id.to_owned(), ..Default::default() };
    jobs(server, tenant).cancel_job(request).await.unwrap();
}

/// Refused for a quota, which is named.
fn exceeds(status: &Status, subject: &str) {
    assert_eq!(reason(status), (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned()), "{status:?}");
    let failure = status.get_details_quota_failure().unwrap();
    assert_eq!(failure.violations.iter().map(|it| it.subject.as_str()).collect::<Vec<_>>(), [subject]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_stays_within_quotas_and_ends_make_room() {
    let mut server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let quotas = pb::Quotas { unfinished_jobs: Some(3), queued_tasks: Some(5), ..Default::default() };
    assert_eq!(give(&server, "a", quotas).await.quotas, Some(quotas));
    let tasks = |count: usize| {
        let start_time = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
        pb::JobSpec { start_time, ..job((0..count).map(|_| fetch("http://a.example/")).collect()) }
    };
    // Calls at once exceed together nothing that each of them would not.
    let calls = (0..64).map(|nth| try_submit(&server, "a", open_job("red"), if nth == 0 { "first" } else { "" }));
    let answers = futures_util::future::join_all(calls).await;
    let mut made: Vec<String> = answers.iter().flatten().map(|job| job.job_id.clone()).collect();
    assert_eq!(made.len(), 3);
    for refusal in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        exceeds(refusal, "tenants/a/unfinished_jobs");
    }
    assert!(try_submit(&server, "b", open_job("red"), "").await.is_ok(), "another tenant has its own");
    // What was answered is answered again, and nothing else by its id.
    cancel(&server, "a", &made.remove(0)).await;
    let again = try_submit(&server, "a", tasks(2), "again").await.unwrap();
    assert_eq!(try_submit(&server, "a", tasks(2), "again").await.unwrap().job_id, again.job_id);
    refused(try_submit(&server, "a", tasks(1), "again").await, Code::AlreadyExists, "REQUEST_ID_TAKEN");
    let dry = async |request_id: &str| {
        let request_id = request_id.to_owned();
        let request = pb::SubmitJobRequest { job: Some(tasks(2)), request_id, validate_only: true };
        jobs(&server, "a").submit_job(request).await
    };
    assert!(dry("again").await.is_ok(), "what would be answered again is right");
    exceeds(&dry("another").await.unwrap_err(), "tenants/a/unfinished_jobs");
    let add = async |server: &Server, chunk: &str, count: usize| {
        let tasks = (0..count).map(|_| fetch("http://a.example/")).collect();
        let request = pb::AddTasksRequest { job_id: made[0].clone(), chunk_id: chunk.to_owned(), tasks };
        let stream = futures_util::stream::iter([request]);
        let mut told = jobs(server, "a").add_tasks(stream).await?.into_inner();
        while told.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let paused = pb::PauseJobRequest { job_id: made[0].clone() };
    jobs(&server, "a").pause_job(paused).await.unwrap();
    exceeds(&add(&server, "c", 4).await.unwrap_err(), "tenants/a/queued_tasks");
    add(&server, "c", 3).await.unwrap();
    add(&server, "c", 3).await.expect("the same chunk is there already");
    exceeds(&add(&server, "d", 1).await.unwrap_err(), "tenants/a/queued_tasks");
    let usage = tenant(&server, "a").await.usage.unwrap();
    assert_eq!((usage.unfinished_jobs, usage.queued_tasks, usage.running_tasks), (3, 5, 0));
    // A quota below what there is ends nothing, and holds after a restart.
    give(&server, "a", pb::Quotas { queued_tasks: Some(2), ..Default::default() }).await;
    for is_again in [false, true] {
        let is = tenant(&server, "a").await;
        assert_eq!((is.quotas.unwrap().queued_tasks, is.usage), (Some(2), Some(usage)), "restarted: {is_again}");
        assert!(try_submit(&server, "a", open_job("red"), "").await.is_ok(), "it adds no task");
        cancel(&server, "a", &list_last(&server, "a").await).await;
        exceeds(&try_submit(&server, "a", tasks(1), "").await.unwrap_err(), "tenants/a/queued_tasks");
        if !is_again {
            server.restart().await;
        }
    }
    // Ends make room, and a retry takes it again.
    for id in [&made[0], &again.job_id] {
        cancel(&server, "a", id).await;
    }
    ended(&server, "a", &made[0]).await;
    ended(&server, "a", &again.job_id).await;
    assert_eq!(tenant(&server, "a").await.usage.unwrap().queued_tasks, 0);
    let retry = |id: &str| pb::RetryJobRequest { job_id: id.to_owned(), ..Default::default() };
    exceeds(&jobs(&server, "a").retry_job(retry(&made[0])).await.unwrap_err(), "tenants/a/queued_tasks");
    jobs(&server, "a").retry_job(retry(&again.job_id)).await.unwrap();
    exceeds(&try_submit(&server, "a", tasks(1), "").await.unwrap_err(), "tenants/a/queued_tasks");
    assert!(try_submit(&server, "b", tasks(100), "").await.is_ok());
}

async fn list_last(server: &Server, tenant: &str) -> String {
    let page = jobs(server, tenant).list_jobs(pb::ListJobsRequest { page_size: 1, ..Default::default() }).await;
    page.unwrap().into_inner().jobs.remove(0).job_id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_stays_within_quotas_and_a_suspended_tenant_does_nothing() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    origin.reply("/b", Reply::ok("b"));
    make(&server, &["a", "b"]).await;
    give(&server, "a", pb::Quotas { running_tasks: Some(2), ..Default::default() }).await;
    let id = submit(&server, "a", job((0..20).map(|_| fetch(origin.url("/hang"))).collect()), "").await.job_id;
    let waiting = async |server: &Server| {
        let request = pb::GetTaskRequest {
            job_id: id.clone(),
            task: Some(pb::get_task_request::Task::TaskIndex(19)),
            ..Default::default()
        };
        let task = jobs(server, "a").get_task(request).await.unwrap().into_inner().task.unwrap();
        task.waiting.map(|waiting| waiting.reason())
    };
    let go_on = async |server: &Server| {
        let quiet = submit(server, "b", job(vec![fetch(origin.url("/b"))]), "").await.job_id;
        assert_eq!(ended(server, "b", &quiet).await.state(), pb::JobState::Succeeded);
    };
    for is_again in [false, true] {
        until(|| async { origin.in_flight() == 2 }).await;
        go_on(&server).await;
        assert_eq!(waiting(&server).await, Some(pb::WaitReason::TenantLimit));
        assert_eq!(origin.in_flight(), 2, "restarted: {is_again}");
        if !is_again {
            server.restart().await;
        }
    }
    assert_eq!(tenant(&server, "a").await.usage.unwrap().running_tasks, 2);
    give(&server, "a", pb::Quotas { running_per_host: Some(3), ..Default::default() }).await;
    until(|| async { origin.in_flight() == 3 }).await;
    go_on(&server).await;
    assert_eq!((waiting(&server).await, origin.in_flight()), (Some(pb::WaitReason::TenantLimit), 3));
    let suspended = pb::Tenant { name: "a".into(), suspended: true, ..Default::default() };
    assert!(change(&server, suspended, &["suspended"]).await.suspended);
    give(&server, "a", pb::Quotas::default()).await;
    refused(try_submit(&server, "a", open_job("red"), "").await, Code::FailedPrecondition, "TENANT_SUSPENDED");
    go_on(&server).await;
    assert_eq!(origin.in_flight(), 3, "no attempt starts, and none is ended");
    change(&server, pb::Tenant { name: "a".into(), ..Default::default() }, &["suspended"]).await;
    until(|| async { origin.in_flight() > 3 }).await;
    cancel(&server, "a", &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_tenant_is_shared_by_its_jobs() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    make(&server, &["a", "b"]).await;
    give(&server, "a", pb::Quotas { requests_per_second: Some(0.001), ..Default::default() }).await;
    for _ in 0..3 {
        submit(&server, "a", job(vec![fetch(origin.url("/a"))]), "").await;
    }
    until(|| async { origin.requests("/a").len() == 1 }).await;
    let free = submit(&server, "b", job((0..5).map(|_| fetch(origin.url("/a"))).collect()), "").await.job_id;
    ended(&server, "b", &free).await;
    assert_eq!(origin.requests("/a").len(), 6, "one of the three, and those of the other tenant");
    give(&server, "a", pb::Quotas::default()).await;
    until(|| async { origin.requests("/a").len() == 8 }).await;
}

/// Whether there was a rate when an attempt began, and whatever became of that since, the one in force holds for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_changes_holds_for_what_runs() {
    let (server, origin) = (Server::start().await, Origin::start());
    make(&server, &["a", "b"]).await;
    let object = Object::new(1, 500_000);
    origin.object("/b", object.clone());
    for (number, first) in [None, Some(1 << 40)].into_iter().enumerate() {
        let (path, goes_on) = (format!("/a{number}"), CancellationToken::new());
        origin.reply(&path, Reply::ok(object.slice(0..500_000)).pause_at(1_000, Pause::Until(goes_on.clone())));
        let rate = |bytes_per_second| pb::Quotas { bytes_per_second, ..Default::default() };
        give(&server, "a", rate(first)).await;
        let id = submit(&server, "a", job(vec![fetch(origin.url(&path))]), "").await.job_id;
        until(|| async { origin.requests(&path).len() == 1 }).await;
        give(&server, "a", rate(None)).await;
        give(&server, "a", rate(Some(1))).await;
        goes_on.cancel();
        for _ in 0..5 {
            let other = submit(&server, "b", job(vec![fetch(origin.url("/b"))]), "").await.job_id;
            assert_eq!(ended(&server, "b", &other).await.state(), pb::JobState::Succeeded);
        }
        let request = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
        let held = jobs(&server, "a").get_job(request).await.unwrap().into_inner().job.unwrap();
        assert_eq!(held.state(), pb::JobState::Running, "first {first:?}");
        give(&server, "a", rate(None)).await;
        assert_eq!(ended(&server, "a", &id).await.state(), pb::JobState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)] // One command after the other.
async fn quotas_are_judged_and_told_by_the_command_line() {
    let server = Server::start().await;
    make(&server, &["a"]).await;
    let bad = [
        (pb::Tenant { weight: 101, ..Default::default() }, "weight"),
        (
            pb::Tenant {
                quotas: Some(pb::Quotas { bytes_per_second: Some(0), ..Default::default() }),
                ..Default::default()
            },
            "quotas.bytes_per_second",
        ),
        (
            pb::Tenant {
                quotas: Some(pb::Quotas { requests_per_second: Some(f64::NAN), ..Default::default() }),
                ..Default::default()
            },
            "quotas",
        ),
        (pb::Tenant::default(), "quotas.stored"),
        (
            pb::Tenant {
                quotas: Some(pb::Quotas { max_attempt: seconds(0), ..Default::default() }),
                ..Default::default()
            },
            "quotas.max_attempt",
        ),
        (
            pb::Tenant {
                quotas: Some(pb::Quotas { tasks_per_second: Some(0.0), ..Default::default() }),
                ..Default::default()
            },
            "quotas.tasks_per_second",
        ),
    ];
    for (wish, path) in bad {
        let update_mask = Some(FieldMask { paths: vec![path.to_owned()] });
        let tenant = Some(pb::Tenant { name: "a".into(), ..wish });
        let request = pb::UpdateTenantRequest { tenant, update_mask };
        let status = access(&server).update_tenant(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{path}");
    }
    let run = |args: &[&str]| {
        let ran = haul(&[&["--server", &server.address], args].concat());
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        (ran.status.code(), said)
    };
    let (code, said) = run(&["tenant", "create", "c", "--quota", "queued_tasks=7", "--weight", "3"]);
    assert!(code == Some(0) && said.contains("at most 7") && said.contains('3'), "{said}");
    let (code, said) = run(&["tenant", "update", "c", "--quota", "running_tasks=2", "--quota", "queued_tasks=none"]);
    assert!(code == Some(0) && said.contains("at most 2") && !said.contains("at most 7"), "{said}");
    let (_, said) = run(&["tenant", "show", "c"]);
    assert!(said.contains("0 of 2") && said.contains("unfinished_jobs"), "{said}");
    let quotas = ["max_retention=7d", "max_attempt=90s", "calls_per_second=0.5", "watchers=3", "tasks_per_second=1000"];
    let args: Vec<&str> = quotas.iter().flat_map(|quota| ["--quota", quota]).collect();
    let (code, said) = run(&[&["tenant", "update", "c"], args.as_slice()].concat());
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run(&["tenant", "show", "c"]);
    for (field, value) in [
        ("max_retention", "at most 7 d"),
        ("max_attempt", "at most 1 min 30 s"),
        ("calls_per_second", "at most 0.5"),
        ("watchers", "0 of 3"),
        ("tasks_per_second", "at most 1000"),
        ("bytes_per_second", "0"),
    ] {
        assert!(
            said.lines().any(|line| line.starts_with(field) && line.trim_end().ends_with(value)),
            "{field}: {said}"
        );
    }
    assert_eq!(run(&["tenant", "update", "c", "--suspended"]).0, Some(0));
    let (code, said) = run(&["--tenant", "c", "submit", "--open"]);
    assert!(code == Some(1) && said.contains("is suspended"), "{said}");
    assert_eq!(run(&["tenant", "update", "c", "--suspended=false"]).0, Some(0));
    assert_eq!(run(&["tenant", "update", "c", "--quota", "x=1"]).0, Some(2));
}

#[allow(clippy::unnecessary_wraps)] // Fields of messages are optional.
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Adds a chunk of tasks to a job, under an id of its own.
async fn add(server: &Server, tenant: &str, id: &str, tasks: Vec<pb::TaskSpec>) -> Result<(), Status> {
    static CHUNKS: AtomicU32 = AtomicU32::new(0);
    let chunk_id = CHUNKS.fetch_add(1, Ordering::Relaxed).to_string();
    let request = pb::AddTasksRequest { job_id: id.to_owned(), chunk_id, tasks };
    let mut told = jobs(server, tenant).add_tasks(futures_util::stream::iter([request])).await?.into_inner();
    while told.message().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_more_time_than_its_tenant_may_have_is_refused_and_who_asks_for_none_gets_that() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    make(&server, &["a", "b"]).await;
    let quotas = pb::Quotas { max_retention: seconds(600), max_attempt: seconds(1), ..Default::default() };
    assert_eq!(give(&server, "a", quotas).await.quotas, Some(quotas));
    let kept = |retention| pb::JobSpec { retention, ..open_job("red") };
    exceeds(&try_submit(&server, "a", kept(seconds(601)), "").await.unwrap_err(), "tenants/a/max_retention");
    let dry = pb::SubmitJobRequest { job: Some(kept(seconds(601))), validate_only: true, ..Default::default() };
    exceeds(&jobs(&server, "a").submit_job(dry).await.unwrap_err(), "tenants/a/max_retention");
    assert!(try_submit(&server, "b", kept(seconds(601)), "").await.is_ok(), "another tenant has its own");
    for (asked, has) in [(seconds(600), 600), (seconds(500), 500), (None, 600)] {
        let id = try_submit(&server, "a", kept(asked), "").await.unwrap().job_id;
        cancel(&server, "a", &id).await;
        let job = ended(&server, "a", &id).await;
        assert_eq!(job.expire_time.unwrap().seconds - job.end_time.unwrap().seconds, has, "{asked:?}");
    }
    let with = |attempt| {
        let timeouts = Some(pb::Timeouts { attempt, ..Default::default() });
        let retry = Some(pb::RetryPolicy { max_attempts: Some(1), ..Default::default() });
        pb::TaskOptions { timeouts, retry, ..Default::default() }
    };
    let task = |attempt| pb::TaskSpec { options: Some(with(attempt)), ..fetch(origin.url("/hang")) };
    let defaults = pb::JobSpec { defaults: Some(with(seconds(2))), ..open_job("red") };
    let tasks = job(vec![task(seconds(1)), task(seconds(2))]);
    for spec in [defaults, tasks] {
        let refusal = try_submit(&server, "a", spec, "").await.unwrap_err();
        exceeds(&refusal, "tenants/a/max_attempt");
        assert!(refusal.message().contains("timeouts.attempt"), "{}", refusal.message());
    }
    let open = try_submit(&server, "a", open_job("red"), "").await.unwrap().job_id;
    exceeds(&add(&server, "a", &open, vec![task(seconds(2))]).await.unwrap_err(), "tenants/a/max_attempt");
    add(&server, "a", &open, vec![task(seconds(1))]).await.unwrap();
    // An origin that never answers is waited for no longer.
    let id = submit(&server, "a", job(vec![task(None)]), "").await.job_id;
    let failure = ended(&server, "a", &id).await.failure.unwrap();
    assert_eq!(failure.reason(), pb::FailureReason::TimeoutAttempt);
    cancel(&server, "a", &open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_about_a_tenant_have_a_rate_that_its_operators_do_not_use_up() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    give(&server, "a", pb::Quotas { calls_per_second: Some(0.001), ..Default::default() }).await;
    let list = async |tenant: &str| jobs(&server, tenant).list_jobs(pb::ListJobsRequest::default()).await;
    list("a").await.unwrap();
    for _ in 0..3 {
        let refusal = list("a").await.unwrap_err();
        assert_eq!(reason(&refusal), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
        let wait = refusal.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(wait > Duration::from_secs(60), "{wait:?}");
        let quota = refusal.get_details_quota_failure().unwrap();
        assert_eq!(quota.violations[0].subject, "tenants/a/calls_per_second");
        list("b").await.expect("another tenant has its own");
        tenant(&server, "a").await;
    }
    give(&server, "a", pb::Quotas::default()).await;
    list("a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_watchers_and_gets_their_places_back() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    give(&server, "a", pb::Quotas { watchers: Some(2), ..Default::default() }).await;
    let id = submit(&server, "a", open_job("red"), "").await.job_id;
    let watch_all = async |tenant: &str| jobs(&server, tenant).watch_jobs(pb::WatchJobsRequest::default()).await;
    let watch_one = async || {
        let request = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
        jobs(&server, "a").watch_job(request).await
    };
    let (first, second) = (watch_all("a").await.unwrap(), watch_one().await.unwrap());
    exceeds(&watch_all("a").await.unwrap_err(), "tenants/a/watchers");
    exceeds(&watch_one().await.unwrap_err(), "tenants/a/watchers");
    let told = curl(&server, &["-H", "haul-tenant: a"], "/v1/jobs:watch");
    assert_eq!(told.fault().0, "QUOTA_EXCEEDED", "JSON has no way around it");
    let other = watch_all("b").await.expect("another tenant has its own");
    assert_eq!(tenant(&server, "a").await.usage.unwrap().watchers, 2);
    drop(first);
    until(|| async { tenant(&server, "a").await.usage.unwrap().watchers == 1 }).await;
    let third = watch_one().await.unwrap();
    exceeds(&watch_one().await.unwrap_err(), "tenants/a/watchers");
    drop((second, third, other));
    until(|| async { tenant(&server, "a").await.usage.unwrap().watchers == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_added_no_faster_than_a_tenant_may() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let tasks = |count: usize| {
        let start_time = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
        pb::JobSpec { start_time, ..job((0..count).map(|_| fetch("http://a.example/")).collect()) }
    };
    give(&server, "a", pb::Quotas { tasks_per_second: Some(0.001), ..Default::default() }).await;
    let calls = (0..64).map(|_| try_submit(&server, "a", tasks(1), ""));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refusal in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        exceeds(refusal, "tenants/a/tasks_per_second");
        let wait = refusal.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(wait > Duration::from_secs(60), "{wait:?}");
    }
    let open = try_submit(&server, "a", open_job("red"), "open").await.expect("it adds no task").job_id;
    let chunk = || vec![fetch("http://a.example/")];
    exceeds(&add(&server, "a", &open, chunk()).await.unwrap_err(), "tenants/a/tasks_per_second");
    assert_eq!(try_submit(&server, "a", open_job("red"), "open").await.unwrap().job_id, open);
    try_submit(&server, "a", open_job("red"), "open too").await.expect("nor does this one, while some are owed");
    assert!(try_submit(&server, "b", tasks(100), "").await.is_ok(), "another tenant has its own");
    // What is repeated adds nothing.
    give(&server, "a", pb::Quotas::default()).await;
    give(&server, "a", pb::Quotas { tasks_per_second: Some(50.0), ..Default::default() }).await;
    let first = try_submit(&server, "a", tasks(10), "ten").await.unwrap().job_id;
    for _ in 0..40 {
        assert_eq!(try_submit(&server, "a", tasks(10), "ten").await.unwrap().job_id, first);
    }
    try_submit(&server, "a", tasks(40), "").await.expect("the first ten alone count");
    // More at once than a second has are owed.
    until(|| async { try_submit(&server, "a", tasks(5_000), "many").await.is_ok() }).await;
    exceeds(&try_submit(&server, "a", tasks(1), "").await.unwrap_err(), "tenants/a/tasks_per_second");
    assert!(try_submit(&server, "a", tasks(5_000), "many").await.is_ok(), "it is answered again");
    give(&server, "a", pb::Quotas::default()).await;
    add(&server, "a", &open, chunk()).await.unwrap();
}
