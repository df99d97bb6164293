//! Rates, breakers and retries as an origin sees them: how many at once, and when.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use haul::pb;
use haul::pb::{JobState, TaskState, WaitReason};

use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, haul, until};
use crate::support::spec::{download, download_as, fetch, group, job, millis, once, quick_retry, with_timeouts};

async fn set_limits(server: &Server, limits: pb::Limits, paths: &[&str]) {
    let update_mask = Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
    server.admin().update_limits(pb::UpdateLimitsRequest { limits: Some(limits), update_mask }).await.unwrap();
}

fn span(job: &pb::Job) -> Duration {
    let time = |at: &Option<prost_types::Timestamp>| {
        let at = at.as_ref().unwrap();
        Duration::new(at.seconds as u64, at.nanos as u32)
    };
    time(&job.end_time) - time(&job.start_time)
}

#[tokio::test]
async fn bytes_keep_to_each_rate() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.object("/f", Object::new(1, 600_000));
    let tasks = || vec![download(origin.url("/f")), fetch(origin.url("/f"))];
    // Of the job.
    let rate_limit = Some(pb::RateLimit { bytes_per_second: 1_000_000, ..Default::default() });
    let ended = server.run(pb::JobSpec { rate_limit, ..job(tasks()) }).await;
    assert!(span(&ended) >= Duration::from_millis(1050), "1.2 MB at 1 MB/s in {:?}", span(&ended));
    // Of the host.
    let host = origin.address().to_string();
    let hosts = vec![pb::HostLimits { host, bytes_per_second: 1_200_000, ..Default::default() }];
    set_limits(&server, pb::Limits { hosts, ..Default::default() }, &["hosts"]).await;
    let ended = server.run(job(tasks())).await;
    assert!(span(&ended) >= Duration::from_millis(850), "1.2 MB at 1.2 MB/s in {:?}", span(&ended));
    // Of the server.
    set_limits(
        &server,
        pb::Limits { bytes_per_second: 1_000_000, ..Default::default() },
        &["hosts", "bytes_per_second"],
    )
    .await;
    let ended = server.run(job(tasks())).await;
    assert!(span(&ended) >= Duration::from_millis(1050), "1.2 MB at 1 MB/s in {:?}", span(&ended));
}

#[tokio::test]
async fn a_rate_of_bytes_changes_while_it_runs() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.object("/f", Object::new(1, 3_000_000));
    // So slow that the test would not see the end of it.
    let slow = pb::RateLimit { bytes_per_second: 3_000_000 / (4 * PATIENCE.as_secs()), ..Default::default() };
    let id = server.submit(pb::JobSpec { rate_limit: Some(slow), ..job(vec![download(origin.url("/f"))]) }).await;
    until(async || server.task(&id, 0).await.state() == TaskState::Running).await;
    let update = pb::UpdateJobRequest {
        job_id: id.clone(),
        rate_limit: Some(pb::RateLimit::default()),
        update_mask: Some(prost_types::FieldMask { paths: vec!["rate_limit".into()] }),
        ..Default::default()
    };
    server.jobs().update_job(update).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
}

#[tokio::test]
async fn starts_keep_to_the_rate_of_their_host_over_all_jobs() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let host = origin.address().to_string();
    let hosts = vec![pb::HostLimits { host, requests_per_second: 50.0, burst: 5, ..Default::default() }];
    set_limits(&server, pb::Limits { hosts, ..Default::default() }, &["hosts"]).await;
    let tasks = || (0..30).map(|_| fetch(origin.url("/a"))).collect::<Vec<_>>();
    let (first, second) = (server.submit(job(tasks())).await, server.submit(job(tasks())).await);
    server.ended(&first).await;
    server.ended(&second).await;
    let at: Vec<Duration> = origin.requests("/a").iter().map(|request| request.at).collect();
    // Five at once, and 55 intervals of 20 ms. The origin may be late to see the first, and is never early.
    let spread = at[59] - at[0];
    assert!(spread >= Duration::from_millis(900), "60 starts within {spread:?}");
}

/// A host that comes back is asked by one, then by two, four, eight at once in turn, and not by all that wait.
#[tokio::test]
async fn a_host_that_returns_is_not_stormed() {
    const DELAY: Duration = Duration::from_millis(20);
    let server = Server::with(&["--allow-private-networks", "--max-per-host", "32"]).await;
    let gone = Origin::start();
    let (url, address) = (gone.url("/a"), gone.address());
    drop(gone);
    let retry = pb::RetryPolicy {
        max_attempts: Some(100),
        initial_backoff: Some(millis(100)),
        max_backoff: Some(millis(300)),
        ..Default::default()
    };
    let defaults = pb::TaskOptions { retry: Some(retry), ..Default::default() };
    let tasks = (0..400).map(|_| fetch(&url)).collect();
    let id = server.submit(pb::JobSpec { defaults: Some(defaults), ..job(tasks) }).await;
    let is_open = async || {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        // What was under way when the breaker opened does not ask it.
        hosts.iter().any(|host| host.pause_reason.contains("connections in a row failed") && host.running == 0)
    };
    until(is_open).await;
    let origin = Origin::start_at(address);
    origin.reply("/a", Reply::ok("a").delay(DELAY));
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let requests = origin.requests("/a");
    assert_eq!(requests.len(), 400);
    // One more with each answer: the n-th that comes finds at most half of those before it still there. What the origin has
    // held for less than its delay was certainly not answered yet; what it counts itself lags behind the answers.
    for (nth, request) in requests[..30].iter().enumerate() {
        let others = requests[..nth].iter().filter(|other| other.at + DELAY > request.at).count();
        assert!(others <= nth / 2 + 2, "{others} others at once at the {nth}th");
    }
    assert!(origin.peak() > 8, "and then it goes on at full speed: {}", origin.peak());
}

/// Tasks of a host that is gone end when their attempts are used up, however many they are, and whatever leads them there.
#[tokio::test]
async fn tasks_of_a_host_that_is_gone_end() {
    const EACH: u32 = 100;
    let (server, origin, gone) = (Server::start().await, Origin::start(), Origin::start());
    let url = gone.url("/a");
    drop(gone);
    origin.reply("/away", Reply::redirect(302, &url));
    let retry = pb::RetryPolicy { max_attempts: Some(3), initial_backoff: Some(millis(20)), ..Default::default() };
    let spec = || pb::JobSpec {
        defaults: Some(pb::TaskOptions { retry: Some(retry.clone()), ..Default::default() }),
        group: Some(group(pb::GroupMode::Collect, 0)),
        ..Default::default()
    };
    let many = |task: pb::TaskSpec| vec![task; EACH as usize];
    let downloads = (0..EACH).map(|nth| download(format!("{url}{nth}"))).collect();
    // These wait within their attempts.
    let away = vec![fetch(origin.url("/away")); 20];
    let mut jobs = Vec::new();
    for tasks in [many(fetch(&url)), downloads, away] {
        jobs.push(server.submit(pb::JobSpec { tasks, ..spec() }).await);
    }
    // Of these nobody knows when they came.
    let open = server.submit(pb::JobSpec { open: true, ..spec() }).await;
    let chunk = pb::AddTasksRequest { job_id: open.clone(), chunk_id: "1".into(), tasks: many(fetch(&url)) };
    server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner().message().await.unwrap();
    server.jobs().seal_job(pb::SealJobRequest { job_id: open.clone() }).await.unwrap();
    jobs.push(open);
    for id in &jobs {
        let counts = server.ended(id).await.counts.unwrap();
        assert_eq!(counts.failed, counts.total);
        for index in [0, counts.total / 2, counts.total - 1] {
            let task = server.task(id, index).await;
            let error = task.error.clone().unwrap();
            assert_eq!((task.attempts, error.reason()), (3, pb::FailureReason::Connect), "{task:?}");
        }
    }
    let last = server.task(&jobs[0], EACH - 1).await.error.unwrap().message;
    assert!(last.contains("refused") && last.contains("that this one waited for"), "{last}");
}

/// A task that comes later is not ended by what was found before: it is sent, although it has one attempt.
#[tokio::test]
async fn a_host_that_is_back_is_asked_by_those_that_come_later() {
    let (server, gone) = (Server::start().await, Origin::start());
    let (url, address) = (gone.url("/a"), gone.address());
    drop(gone);
    let retry = pb::RetryPolicy { max_attempts: Some(2), initial_backoff: Some(millis(20)), ..Default::default() };
    let spec = pb::JobSpec {
        defaults: Some(pb::TaskOptions { retry: Some(retry), ..Default::default() }),
        group: Some(group(pb::GroupMode::Collect, 0)),
        tasks: vec![fetch(&url); 20],
        ..Default::default()
    };
    let id = server.submit(spec).await;
    assert_eq!(server.ended(&id).await.counts.unwrap().failed, 20);
    let origin = Origin::start_at(address);
    origin.reply("/a", Reply::ok("a"));
    let later = pb::JobSpec { defaults: Some(once()), ..job(vec![fetch(&url); 20]) };
    assert_eq!(server.run(later).await.counts.unwrap().succeeded, 20);
}

/// More tasks back off than are held in memory; their due times outlive the server.
#[tokio::test]
async fn a_crowd_of_retries_outlives_a_kill() {
    const TASKS: u32 = 4_000;
    /// A quarter of the memory for queued tasks is for those that back off: here it is enough for some hundreds.
    const HELD: u32 = 3_000;
    let memory = ["--queue-bytes", "4194304"];
    let flags = ["--allow-private-networks", "--max-per-host", "64", "--max-concurrent-tasks", "64"];
    let (mut server, origin) = (Server::with(&[&flags[..], &memory].concat()).await, Origin::start());
    let is_up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = is_up.clone();
    origin.handle("/a", move |_| {
        if up.load(std::sync::atomic::Ordering::Relaxed) { Reply::ok("a") } else { Reply::status(500) }
    });
    let retry = pb::RetryPolicy {
        max_attempts: Some(100),
        initial_backoff: Some(millis(20_000)),
        max_backoff: Some(millis(20_000)),
        jitter: Some(0.5),
        ..Default::default()
    };
    let defaults = pb::TaskOptions { retry: Some(retry), ..once() };
    let id = server.submit(pb::JobSpec { defaults: Some(defaults), open: true, ..job(Vec::new()) }).await;
    let (job_id, url) = (id.clone(), origin.url("/a"));
    let chunks = (0..TASKS / 1_000).map(move |chunk| pb::AddTasksRequest {
        job_id: job_id.clone(),
        chunk_id: chunk.to_string(),
        tasks: (0..1_000).map(|_| fetch(&url)).collect(),
    });
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    // As long as more of them come: how fast they do is the machine's to say.
    let (mut most, mut since) = (0, tokio::time::Instant::now());
    while most <= HELD {
        let waiting = server.job(&id).await.counts.unwrap().backing_off;
        if waiting > most {
            (most, since) = (waiting, tokio::time::Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "at most {most} wait at once");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    is_up.store(true, std::sync::atomic::Ordering::Relaxed);
    server.restart().await;
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().succeeded), (JobState::Succeeded, TASKS));
    assert!(origin.requests("/a").len() as u32 > TASKS + HELD);
}

/// A redirect to a host that is paused: the task is requeued, and its place goes to others meanwhile.
#[tokio::test]
async fn nobody_waits_inside_an_attempt_for_a_paused_host() {
    let server = Server::with(&["--allow-private-networks", "--max-concurrent-tasks", "2"]).await;
    let (front, busy, other) = (Origin::start(), Origin::start(), Origin::start());
    front.reply("/a", Reply::redirect(302, &busy.url("/a")));
    // Longer than this test.
    busy.reply("/a", Reply::status(429).header("Retry-After", "600"));
    other.reply("/b", Reply::ok("b"));
    let asking = pb::JobSpec { defaults: Some(once()), ..job(vec![fetch(busy.url("/a"))]) };
    assert_eq!(server.run(asking).await.state(), JobState::Failed);

    let id = server.submit(job((0..4).map(|_| fetch(front.url("/a"))).collect())).await;
    let waits = |task: &pb::Task| {
        let is_host_paused = |waiting: &pb::Waiting| waiting.reason() == WaitReason::HostPaused;
        task.state() == TaskState::Pending && task.waiting.as_ref().is_some_and(is_host_paused)
    };
    // What a task waits for is known before the row of the attempt that found it out is durable, and so is its count of
    // attempts: the wait costs none once both are.
    let mut tasks = Vec::new();
    for _ in 0..1_000 {
        tasks = server.tasks(&id).await;
        if tasks.iter().all(|task| waits(task) && task.attempts == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(tasks.iter().all(|task| waits(task) && task.attempts == 0), "the wait costs no attempt: {tasks:?}");
    // Both places are free.
    assert_eq!(server.run(job(vec![fetch(other.url("/b"))])).await.state(), JobState::Succeeded);
    assert_eq!(busy.requests("/a").len(), 1, "it is paused");
    let request = pb::CancelJobRequest { job_id: id, reason: String::new() };
    let cancelled = server.jobs().cancel_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.counts.unwrap().cancelled, 4);
}

/// Origins that send without an end, and faster than anybody reads: in interim answers, in chunks of one byte.
#[tokio::test]
async fn an_origin_that_never_stops_sending_holds_nobody_up() {
    let server = Server::with(&["--allow-private-networks"]).await;
    let endless = [
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ];
    let mut bad = Vec::new();
    for (head, rest) in endless {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // Its threads end with their connections.
        std::thread::spawn(move || {
            for stream in listener.incoming().take(4) {
                let rest = rest.repeat(4_000);
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let _ = stream.read(&mut [0; 4_096]);
                    let _ = stream.write_all(head.as_bytes());
                    while stream.write_all(rest.as_bytes()).is_ok() {}
                });
            }
        });
        let download = pb::DownloadSpec { url, max_bytes: Some(1 << 40), ..Default::default() };
        let task = pb::TaskSpec { work: Some(pb::task_spec::Work::Download(download)), ..Default::default() };
        // One for each of the transfer threads, at least.
        let tasks = vec![task; 4];
        bad.push(
            server
                .submit(pb::JobSpec {
                    defaults: Some(once()),
                    group: Some(group(pb::GroupMode::Collect, 0)),
                    ..job(tasks)
                })
                .await,
        );
    }
    let origin = Origin::start();
    origin.reply("/b", Reply::ok("b"));
    assert_eq!(server.run(job((0..16).map(|_| fetch(origin.url("/b"))).collect())).await.state(), JobState::Succeeded);
    assert_eq!(
        server.ended(&bad[0]).await.counts.unwrap().failed,
        4,
        "what does not end before its answer is no answer"
    );
    assert_eq!(server.job(&bad[1]).await.counts.unwrap().running, 4);
    let request = pb::CancelJobRequest { job_id: bad.remove(1), reason: String::new() };
    let cancelled = server.jobs().cancel_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.counts.unwrap().cancelled, 4);
}

/// A mirror that is full is no reason to wait longer than for the host itself.
#[tokio::test]
async fn a_host_that_is_back_is_asked_although_its_mirror_is_full() {
    let (server, origin, mirror) = (Server::start().await, Origin::start(), Origin::start());
    set_limits(&server, pb::Limits { max_per_host: 1, ..Default::default() }, &["max_per_host"]).await;
    mirror.reply("/held", Reply::hang());
    mirror.object("/f", Object::new(1, 1000));
    origin.object("/f", Object::new(1, 1000));
    origin.reply("/busy", Reply::status(503).header("retry-after", "2"));
    // Held for longer than the test waits.
    let timeouts = pb::Timeouts { response_headers: Some(millis(600_000)), ..Default::default() };
    let held = pb::TaskSpec { options: Some(with_timeouts(timeouts)), ..fetch(mirror.url("/held")) };
    server.submit(job(vec![held])).await;
    until(|| async { mirror.in_flight() == 1 }).await;
    let once = pb::TaskSpec { options: Some(once()), ..fetch(origin.url("/busy")) };
    assert_eq!(server.run(job(vec![once])).await.state(), JobState::Failed);
    let spec = pb::DownloadSpec {
        url: origin.url("/f"),
        mirrors: vec![mirror.url("/f")],
        path: "f".into(),
        max_connections: 1,
        ..Default::default()
    };
    let ended = server.run(job(vec![download_as(spec)])).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert_eq!((origin.requests("/f").len(), mirror.requests("/f").len()), (1, 0));
}

/// Who waits for room at a mirror hears that somebody has ended the pause of its own host.
#[tokio::test]
async fn a_host_whose_pause_is_ended_is_asked_although_its_mirror_is_full() {
    let (server, origin, mirror) = (Server::start().await, Origin::start(), Origin::start());
    set_limits(&server, pb::Limits { max_per_host: 1, ..Default::default() }, &["max_per_host"]).await;
    mirror.reply("/held", Reply::hang());
    origin.object("/f", Object::new(1, 1000));
    origin.reply("/busy", Reply::status(503).header("retry-after", "3600"));
    // Held for longer than the test waits.
    let timeouts = pb::Timeouts { response_headers: Some(millis(600_000)), ..Default::default() };
    let held = pb::TaskSpec { options: Some(with_timeouts(timeouts)), ..fetch(mirror.url("/held")) };
    server.submit(job(vec![held])).await;
    until(|| async { mirror.in_flight() == 1 }).await;
    let once = pb::TaskSpec { options: Some(once()), ..fetch(origin.url("/busy")) };
    assert_eq!(server.run(job(vec![once])).await.state(), JobState::Failed);
    let mirrors = vec![mirror.url("/f")];
    let spec = pb::DownloadSpec { url: origin.url("/f"), mirrors, path: "f".into(), ..Default::default() };
    let id = server.submit(job(vec![download_as(spec)])).await;
    let at_mirror = async || {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.iter().any(|host| host.host == mirror.address().to_string() && host.waiting == 1)
    };
    until(at_mirror).await;
    let request = pb::ResumeHostRequest { host: origin.address().to_string() };
    server.admin().resume_host(request).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
}

/// Tasks that were redirected to a full host only wait, and hold no place that others could use.
#[tokio::test]
async fn who_waits_for_a_full_host_does_not_stop_the_jobs_of_others() {
    let flags = ["--allow-private-networks", "--max-concurrent-tasks", "6", "--max-per-host", "2"];
    let (server, first, full, other) = (Server::with(&flags).await, Origin::start(), Origin::start(), Origin::start());
    let to = full.url("/slow");
    first.handle("/moved", move |_| Reply::status(302).header("Location", &to));
    full.handle("/slow", |_| Reply::hang());
    other.reply("/a", Reply::ok("a").delay(Duration::from_millis(20)));
    let id = server.submit(job((0..60).map(|_| fetch(first.url("/moved"))).collect())).await;
    // As many wait as may work, and those behind them are tried again later.
    until(async || first.requests("/moved").len() >= 12).await;
    let started = tokio::time::Instant::now();
    let ended = server.run(job((0..40).map(|_| fetch(other.url("/a"))).collect())).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(other.peak() >= 2 && full.peak() == 2, "{} and {} at once", other.peak(), full.peak());
    let waiting = server.tasks(&id).await.into_iter().filter_map(|task| task.waiting).collect::<Vec<_>>();
    assert!(waiting.iter().any(|wait| wait.message.contains("too many others wait")), "{waiting:?}");

    full.handle("/slow", |_| Reply::ok("at last"));
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: id, ..Default::default() }).await.unwrap();
    let ended = server.run(job((0..20).map(|_| fetch(first.url("/moved"))).collect())).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    assert!(full.peak() <= 2);
}

/// A low rate of one job is no matter of the others.
#[tokio::test]
async fn who_waits_for_the_rate_of_its_job_does_not_stop_the_jobs_of_others() {
    let flags = ["--allow-private-networks", "--max-concurrent-tasks", "3", "--max-per-host", "8"];
    let (server, origin) = (Server::with(&flags).await, Origin::start());
    let to = origin.url("/a");
    // Late enough that all three have begun: each redirect takes of the rate, too.
    origin.handle("/moved", move |_| Reply::status(302).header("Location", &to).delay(Duration::from_secs(1)));
    origin.reply("/a", Reply::ok("a"));
    let rate_limit = Some(pb::RateLimit { requests_per_second: 0.01, burst: 3, bytes_per_second: 0 });
    let tasks = (0..3).map(|_| fetch(origin.url("/moved"))).collect();
    let id = server.submit(pb::JobSpec { rate_limit, ..job(tasks) }).await;
    until(async || origin.requests("/moved").len() == 3).await;
    let ended = server.run(job((0..20).map(|_| fetch(origin.url("/a"))).collect())).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: id, ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn the_limits_of_a_host_are_those_of_its_urls() {
    let server = Server::start().await;
    let of = |host: &str| pb::Limits {
        hosts: vec![pb::HostLimits { host: host.into(), max_concurrent: 1, ..Default::default() }],
        ..Default::default()
    };
    for (given, kept) in [("Example.COM.:443", "example.com:443"), ("b\u{fc}cher.example", "xn--bcher-kva.example")] {
        set_limits(&server, of(given), &["hosts"]).await;
        let limits = server.admin().get_limits(pb::GetLimitsRequest {}).await.unwrap().into_inner().limits.unwrap();
        assert_eq!(limits.hosts[0].host, kept);
    }
    for bad in ["example.com:https", " a", "a\nb", "[::1", &"a.".repeat(200)] {
        let update_mask = Some(prost_types::FieldMask { paths: vec!["hosts".into()] });
        let request = pb::UpdateLimitsRequest { limits: Some(of(bad)), update_mask };
        let refused = server.admin().update_limits(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{bad:?}");
    }
}

/// Whom an origin has asked to wait does so after a crash as well, until somebody who may says otherwise, for good.
#[tokio::test]
async fn a_pause_outlives_a_kill() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/wait", Reply::status(503).header("retry-after", "300"));
    origin.reply("/b", Reply::ok("b"));
    let asked = server.submit(job(vec![fetch(origin.url("/wait"))])).await;
    until(async || server.task(&asked, 0).await.state() == TaskState::BackingOff).await;
    let host = async |server: &Server| {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.into_iter().find(|host| host.host == origin.address().to_string()).unwrap_or_default()
    };
    let paused = host(&server).await;
    assert!(paused.paused_until.is_some() && paused.pause_reason.contains("503"), "{paused:?}");
    let before = server.submit(job(vec![fetch(origin.url("/b"))])).await;
    server.restart().await;
    let after = server.submit(job(vec![fetch(origin.url("/b"))])).await;
    for id in [&before, &after] {
        until(async || {
            let waiting = server.task(id, 0).await.waiting.unwrap_or_default();
            waiting.reason() == WaitReason::HostPaused
        })
        .await;
    }
    let again = host(&server).await;
    assert_eq!((&again.paused_until, &again.pause_reason), (&paused.paused_until, &paused.pause_reason));
    let shown = haul(&["--server", &server.address, "hosts"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("503"), "{shown:?}");
    assert_eq!(origin.all_requests().len(), 1, "nothing has left for the host since");
    let request = pb::ResumeHostRequest { host: origin.address().to_string() };
    server.admin().resume_host(request).await.unwrap();
    server.restart().await;
    assert_eq!(host(&server).await.paused_until, None);
    for id in [&before, &after] {
        assert_eq!(server.ended(id).await.state(), JobState::Succeeded);
    }
}

/// As many tasks are told to wait for a paused host after a crash as before it, whatever of them memory has read.
#[tokio::test]
async fn tasks_that_wait_for_a_paused_host_are_counted_after_a_crash() {
    let (mut server, origin, other) = (Server::start().await, Origin::start(), Origin::start());
    origin.reply("/wait", Reply::status(503).header("retry-after", "300"));
    origin.reply("/b", Reply::ok("b"));
    other.reply("/b", Reply::ok("b"));
    let asked = server.submit(job(vec![fetch(origin.url("/wait"))])).await;
    until(async || server.task(&asked, 0).await.state() == TaskState::BackingOff).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let tasks = (0..12).map(|index| fetch(if index < 2 { other.url("/b") } else { origin.url("/b") }));
        ids.push(server.submit(job(tasks.collect())).await);
    }
    for id in &ids {
        until(async || server.job(id).await.counts.unwrap().succeeded == 2).await;
    }
    let waits = async |server: &Server, tasks: u32| {
        until(async || {
            let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
            hosts.iter().any(|host| host.host == origin.address().to_string() && host.waiting == tasks)
        })
        .await;
    };
    waits(&server, 30).await;
    server.restart().await;
    waits(&server, 30).await;
    let job_id = ids.remove(0);
    server.jobs().cancel_job(pb::CancelJobRequest { job_id, ..Default::default() }).await.unwrap();
    waits(&server, 20).await;
    let request = pb::CancelTasksRequest { job_id: ids[0].clone(), task_indexes: vec![3, 4, 11], ..Default::default() };
    server.jobs().cancel_tasks(request).await.unwrap();
    waits(&server, 17).await;
    let request = pb::ResumeHostRequest { host: origin.address().to_string() };
    server.admin().resume_host(request).await.unwrap();
    assert_eq!(server.ended(&ids[1]).await.state(), JobState::Succeeded);
}

/// A host may be gone from here and not from a proxy: who goes by one does not share what others meet on their way.
#[tokio::test]
async fn who_goes_by_a_proxy_shares_no_failure_of_who_does_not() {
    let (server, proxy, gone) = (Server::start().await, Origin::start(), Origin::start());
    let url = gone.url("/a");
    drop(gone);
    proxy.reply("/a", Reply::ok("by the proxy").delay(Duration::from_millis(5)));
    let retry = pb::RetryPolicy { max_attempts: Some(8), initial_backoff: Some(millis(20)), ..Default::default() };
    let defaults = |retry, http| Some(pb::TaskOptions { retry: Some(retry), http, ..Default::default() });
    let direct = pb::JobSpec {
        defaults: defaults(retry, None),
        group: Some(group(pb::GroupMode::Collect, 0)),
        ..job(vec![fetch(&url); 30])
    };
    // Whoever comes last asks last, so that others have found the host gone by then.
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(server.submit(direct.clone()).await);
    }
    let http = Some(pb::HttpOptions { proxy_url: proxy.url(""), ..Default::default() });
    let by_proxy = pb::JobSpec { defaults: defaults(quick_retry(1), http), ..job(vec![fetch(&url); 20]) };
    let is_open = async || {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        // Behind the eighth each is a probe, whose failure is shared.
        let reason = |host: &pb::Host| host.pause_reason.clone();
        hosts.iter().map(reason).any(|why| why.contains(" in a row failed") && !why.starts_with("8 "))
    };
    until(is_open).await;
    let ended = server.run(by_proxy).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{:?}", ended.failure);
    for job_id in others {
        server.jobs().cancel_job(pb::CancelJobRequest { job_id, ..Default::default() }).await.unwrap();
    }
}
