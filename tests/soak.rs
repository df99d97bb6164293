//! A server under everything at once, for as long as is wished: jobs that fail fast against an origin that mixes 200, 503
//! and 404, callers with short deadlines who repeat themselves, `kill -9` now and then, and whatever can be done to jobs and
//! tasks meanwhile. Afterwards every job that was acknowledged has ended, and nothing is left over.
//!
//! `HAUL_SOAK_SECONDS=S` says for how long, and `HAUL_BIN` over which binary:
//! `HAUL_BIN=target/release/haul HAUL_SOAK_SECONDS=600 cargo test --test soak -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // A test ends at the first surprise.

#[path = "support/mod.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haul::pb;
use haul::pb::job_service_client::JobServiceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::faults::Dice;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, binary, until};
use crate::support::spec::{fetch, group, job};

/// For how long, without `HAUL_SOAK_SECONDS`.
const SECONDS: u64 = 20;
/// Callers at once.
const CALLERS: u64 = 6;
/// Labels of jobs.
const KINDS: [&str; 4] = ["a", "b", "c", "d"];
/// What the log must not say.
const BUGS: [&str; 4] = ["contradict", "panicked", "does not know", "was lost"];
/// How long jobs may take to end once nobody disturbs them.
const END: Duration = Duration::from_secs(300);
/// The most memory that the server may have had, in MiB.
const MEMORY_MIB: u64 = 400;

struct Shared {
    /// The server of the moment.
    channel: Mutex<Channel>,
    /// Jobs that were acknowledged.
    jobs: Mutex<Vec<String>>,
    /// Jobs that somebody has asked to delete.
    deleted: Mutex<HashSet<String>>,
    is_over: AtomicBool,
    calls: AtomicU64,
    origin: Origin,
}

impl Shared {
    fn client(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.lock().unwrap().clone())
    }

    fn pick(&self, dice: &mut Dice) -> Option<String> {
        let jobs = self.jobs.lock().unwrap();
        // Mostly those that came last, which have not ended.
        let from = if dice.one_in(4) { 0 } else { jobs.len().saturating_sub(40) };
        jobs.get(from + dice.below((jobs.len() - from) as u64) as usize).cloned()
    }
}

fn seconds() -> u64 {
    std::env::var("HAUL_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

/// What a call may be answered with beside what it asks for.
fn expected(what: &str, status: &Status) {
    use Code as C;
    let fine = matches!(
        status.code(),
        C::Unavailable
            | C::DeadlineExceeded
            | C::Cancelled
            | C::FailedPrecondition
            | C::NotFound
            | C::ResourceExhausted
    );
    // A connection that breaks under a call is told as this.
    let cut = std::error::Error::source(status).is_some();
    assert!(fine || cut, "{what}: {status:?}");
}

fn spec(shared: &Shared, dice: &mut Dice, serial: &str) -> pb::JobSpec {
    let tasks = 1 + dice.below(12);
    let mode = if dice.one_in(3) { pb::GroupMode::Collect } else { pb::GroupMode::FailFast };
    let tasks: Vec<_> =
        (0..tasks).map(|task| fetch(shared.origin.url(&format!("/mixed/{}/{serial}-{task}", dice.below(3))))).collect();
    let kind = KINDS[dice.below(KINDS.len() as u64) as usize];
    pb::JobSpec {
        labels: HashMap::from([("kind".to_owned(), kind.to_owned())]),
        group: Some(group(mode, dice.below(2) as u32)),
        ..job(tasks)
    }
}

/// Submits a job, with deadlines that are too short now and then, and repeats itself until it is answered.
async fn submit(shared: &Shared, dice: &mut Dice, serial: &str) {
    let request = pb::SubmitJobRequest {
        job: Some(spec(shared, dice, serial)),
        request_id: serial.to_owned(),
        ..Default::default()
    };
    let mut first: Option<String> = None;
    for _ in 0..40 {
        let most = if dice.one_in(2) { 8 } else { 500 };
        let deadline = Duration::from_millis(1 + dice.below(most));
        let mut call = tonic::Request::new(request.clone());
        call.set_timeout(deadline);
        shared.calls.fetch_add(1, Ordering::Relaxed);
        match shared.client().submit_job(call).await {
            Ok(answer) => {
                let id = answer.into_inner().job.unwrap().job_id;
                // A deleted job has freed its request id.
                let is_gone = |first: &String| shared.deleted.lock().unwrap().contains(first);
                let is_first = first.as_ref() != Some(&id);
                assert!(!is_first || first.as_ref().is_none_or(is_gone), "request {serial} made two jobs");
                if is_first {
                    shared.jobs.lock().unwrap().push(id.clone());
                }
                first = Some(id);
                // Now and then it asks again although it was answered.
                if !dice.one_in(8) {
                    return;
                }
            }
            Err(status) => {
                expected("SubmitJob", &status);
                tokio::time::sleep(Duration::from_millis(dice.below(100))).await;
            }
        }
    }
}

fn filter(dice: &mut Dice) -> pb::TaskFilter {
    let states = match dice.below(3) {
        0 => vec![pb::TaskState::Pending.into()],
        1 => vec![pb::TaskState::BackingOff.into(), pb::TaskState::Running.into()],
        _ => Vec::new(),
    };
    pb::TaskFilter { states, ..Default::default() }
}

async fn act(shared: &Shared, dice: &mut Dice) {
    let Some(job_id) = shared.pick(dice) else { return };
    let most = if dice.one_in(3) { 10 } else { 1_000 };
    let deadline = Duration::from_millis(2 + dice.below(most));
    shared.calls.fetch_add(1, Ordering::Relaxed);
    let mut client = shared.client();
    let kind = KINDS[dice.below(KINDS.len() as u64) as usize].to_owned();
    let all = |action: pb::JobAction| pb::ControlJobsRequest {
        filter: Some(pb::JobFilter {
            labels: HashMap::from([("kind".to_owned(), kind.clone())]),
            ..Default::default()
        }),
        action: action.into(),
        ..Default::default()
    };
    let filter = Some(filter(dice));
    let done = match dice.below(10) {
        0 | 1 => {
            let request = pb::CancelTasksRequest { job_id, filter, reason: "soaked".into(), ..Default::default() };
            tokio::time::timeout(deadline, client.cancel_tasks(request)).await.map(|it| it.map(drop))
        }
        2 | 3 => {
            let states = vec![pb::TaskState::BackingOff.into()];
            let filter = dice.one_in(2).then(|| pb::TaskFilter { states, ..Default::default() });
            let request = pb::RetryNowRequest { job_id, filter, ..Default::default() };
            tokio::time::timeout(deadline, client.retry_now(request)).await.map(|it| it.map(drop))
        }
        4 => tokio::time::timeout(deadline, client.pause_job(pb::PauseJobRequest { job_id }))
            .await
            .map(|it| it.map(drop)),
        5 => tokio::time::timeout(deadline, client.resume_job(pb::ResumeJobRequest { job_id }))
            .await
            .map(|it| it.map(drop)),
        6 => {
            let request = pb::RetryJobRequest { job_id, ..Default::default() };
            tokio::time::timeout(deadline, client.retry_job(request)).await.map(|it| it.map(drop))
        }
        7 => {
            let request = pb::CancelJobRequest { job_id, ..Default::default() };
            tokio::time::timeout(deadline, client.cancel_job(request)).await.map(|it| it.map(drop))
        }
        8 => {
            shared.deleted.lock().unwrap().insert(job_id.clone());
            let request = pb::DeleteJobRequest { job_id, ..Default::default() };
            tokio::time::timeout(deadline, client.delete_job(request)).await.map(|it| it.map(drop))
        }
        _ => {
            let actions = [pb::JobAction::Pause, pb::JobAction::Resume, pb::JobAction::Resume, pb::JobAction::Retry];
            let request = all(actions[dice.below(4) as usize]);
            let call = async {
                let mut stream = client.control_jobs(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok(())
            };
            tokio::time::timeout(deadline, call).await
        }
    };
    if let Ok(Err(status)) = done {
        expected("an action", &status);
    }
}

async fn caller(shared: Arc<Shared>, number: u64) {
    let mut dice = Dice::new(number);
    let mut serial = 0;
    while !shared.is_over.load(Ordering::Relaxed) {
        serial += 1;
        if dice.one_in(2) {
            submit(&shared, &mut dice, &format!("{number}-{serial}")).await;
        } else {
            act(&shared, &mut dice).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(40))).await;
    }
}

async fn list(shared: &Shared, states: &[pb::JobState]) -> Vec<pb::Job> {
    let mut request = pb::ListJobsRequest {
        states: states.iter().map(|state| (*state).into()).collect(),
        page_size: 1000,
        ..Default::default()
    };
    let mut all = Vec::new();
    loop {
        let page = shared.client().list_jobs(request.clone()).await.unwrap().into_inner();
        all.extend(page.jobs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

const UNFINISHED: [pb::JobState; 4] =
    [pb::JobState::Pending, pb::JobState::Running, pb::JobState::Paused, pb::JobState::Cancelling];

/// Every job that was acknowledged is there and has ended, as its events tell.
async fn check(shared: &Shared) {
    let deadline = Instant::now() + END;
    loop {
        let resume = pb::ControlJobsRequest {
            filter: Some(pb::JobFilter { states: vec![pb::JobState::Paused.into()], ..Default::default() }),
            action: pb::JobAction::Resume.into(),
            ..Default::default()
        };
        let mut stream = shared.client().control_jobs(resume).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
        let left = list(shared, &UNFINISHED).await;
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{} jobs do not end, as {:#?}", left.len(), left[0]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let there: HashMap<String, pb::Job> =
        list(shared, &[]).await.into_iter().map(|job| (job.job_id.clone(), job)).collect();
    let deleted = shared.deleted.lock().unwrap().clone();
    let acknowledged = shared.jobs.lock().unwrap().clone();
    for (nth, id) in acknowledged.iter().enumerate() {
        let Some(job) = there.get(id) else {
            assert!(deleted.contains(id), "job {id} was acknowledged and is gone");
            continue;
        };
        let counts = job.counts.unwrap();
        assert_eq!(counts.total, counts.succeeded + counts.failed + counts.cancelled, "{job:?}");
        if nth % 20 == 0 {
            check_events(shared, job).await;
        }
    }
    println!("{} jobs were acknowledged, {} are left", acknowledged.len(), there.len());
}

async fn check_events(shared: &Shared, job: &pb::Job) {
    let request = pb::WatchJobRequest { job_id: job.job_id.clone(), after_sequence: Some(0), ..Default::default() };
    let mut stream = shared.client().watch_job(request).await.unwrap().into_inner();
    let mut last = 0;
    while let Some(message) = stream.message().await.unwrap() {
        if support::server::is_durable(&message) {
            last += 1;
            assert_eq!(message.sequence, last, "the events of {} have a gap", job.job_id);
        }
    }
    assert_eq!(last, job.sequence, "the events of {}", job.job_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_ends_whatever_happens_meanwhile() {
    let seconds = seconds();
    let origin = Origin::start();
    origin.handle("/mixed/*", |request| {
        let mut dice = Dice::new(request.nth as u64 ^ u64::from(request.peer.port()) << 20);
        let delay = Duration::from_millis(dice.below(15));
        match dice.below(20) {
            0..9 => Reply::status(503).delay(delay),
            9 => Reply::status(404).delay(delay),
            _ => Reply::ok("fine").delay(delay),
        }
    });
    let mut server = Server::start().await;
    let shared = Arc::new(Shared {
        channel: Mutex::new(server.channel.clone()),
        jobs: Mutex::default(),
        deleted: Mutex::default(),
        is_over: AtomicBool::new(false),
        calls: AtomicU64::new(0),
        origin,
    });
    let mut callers = JoinSet::new();
    (0..CALLERS).for_each(|number| drop(callers.spawn(caller(shared.clone(), number))));
    let mut dice = Dice::new(rand::random());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut memory) = (0, 0);
    while Instant::now() < end {
        let life = Duration::from_millis(2_000 + dice.below(seconds.min(60) * 200));
        tokio::time::sleep(life.min(end.saturating_duration_since(Instant::now()))).await;
        if let Some(done) = callers.try_join_next() {
            done.unwrap();
            panic!("a caller ended early; log:\n{}", server.log());
        }
        memory = memory.max(server.peak_mib());
        if Instant::now() < end {
            server.restart().await;
            *shared.channel.lock().unwrap() = server.channel.clone();
            kills += 1;
        }
    }
    shared.is_over.store(true, Ordering::Relaxed);
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    check(&shared).await;
    // A permit is given back when the connection of a request that was cut has closed.
    until(async || {
        let hosts = server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap().into_inner().hosts;
        hosts.iter().all(|host| host.running == 0 && host.waiting == 0)
    })
    .await;
    // All of it goes.
    let ended = [pb::JobState::Succeeded, pb::JobState::Failed, pb::JobState::Cancelled];
    let filter = pb::JobFilter { states: ended.iter().map(|state| (*state).into()).collect(), ..Default::default() };
    let delete =
        pb::ControlJobsRequest { filter: Some(filter), action: pb::JobAction::Delete.into(), ..Default::default() };
    let mut stream = shared.client().control_jobs(delete).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    assert!(list(&shared, &[]).await.is_empty());
    let log = server.log();
    for line in log.lines() {
        assert!(!BUGS.iter().any(|bug| line.contains(bug)), "{line}");
    }
    assert!(server.terminate().success(), "{}", server.log());
    let checked =
        std::process::Command::new(binary()).arg("check").arg("--data-dir").arg(server.data()).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(memory < MEMORY_MIB, "the server has had {memory} MiB");
    let calls = shared.calls.load(Ordering::Relaxed);
    println!("{calls} calls in {seconds} s over {kills} kills; at most {memory} MiB");
}
