//! What the store costs: `cargo bench --bench store [DIRECTORY]`. The directory decides which disk is measured.
//!
//! Prints rows per second and CPU time per task (user and system, all threads), the figures of docs/PERFORMANCE.md.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people at a terminal, where a panic says enough.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use haul::model::event::{EventHead, EventKind};
use haul::model::failure::{FailureReason, TaskError};
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskId, TaskIndex};
use haul::model::job::{Job, JobState};
use haul::model::outcome::{Attempt, AttemptReport, FetchResult, Outcome};
use haul::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
use haul::model::task::{Task, TaskEvent, TaskState};
use haul::model::task_filter::TaskChoice;
use haul::model::tenant::DEFAULT_NO;
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore, SqliteWriter};
use haul::store::{
    Addition, Batch, Claim, Content, JobFilter, NewEvent, NewPage, Retry, Store, Submission, Sweep, TaskMove, TaskRow,
    Which, WriteStore,
};
use tokio::time::Instant;

/// Tasks of the bulk measurement.
const BULK: u32 = 1_000_000;
/// Tasks that a sweep or a retry takes at once, and rows that a purge does.
const PIECE: u32 = 4096;
/// Tasks of each cycle measurement.
const CYCLES: u32 = 64_000;

#[tokio::main]
async fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("haul-bench-{}", std::process::id()));
    measure(&dir).await;
    std::fs::remove_dir_all(&dir).unwrap();
}

async fn measure(dir: &Path) {
    let (store, mut writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
    submits(&mut writer).await;
    let job = JobId(uuid::Uuid::now_v7());
    bulk(&mut writer, job).await;
    let mut from = 0;
    for size in [1, 16, 63, 64, 256] {
        cycles(&mut writer, job, from, size).await;
        from += CYCLES;
    }
    pages(&store, job, from).await;
    many(&store, &mut writer, job).await;
    purge(dir, &mut writer, store.visit(job).await.unwrap().unwrap()).await;
    Box::new(writer).close().await;
    drop(store);
    restart(dir, "restart").await;

    let dir = dir.join("jobs");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    for _ in 0..100 {
        let submissions = (0..1000).map(|_| submission(JobId(uuid::Uuid::now_v7()), 1)).collect();
        writer.commit(&Batch { submissions, ..Batch::default() }).await.unwrap();
    }
    hosts(&mut writer).await;
    Box::new(writer).close().await;
    drop(store);
    restart(&dir, "restart with 100,000 jobs").await;
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    jobs(&store, &mut writer).await;
    Box::new(writer).close().await;
}

/// What a part took, of the clock and of the processors.
struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Watch {
        Watch(Instant::now(), cpu())
    }

    fn report(&self, what: &str, count: u32) {
        let (wall, cpu) = (self.0.elapsed(), cpu().saturating_sub(self.1));
        let rate = f64::from(count) / wall.as_secs_f64();
        let each = cpu.as_secs_f64() * 1e6 / f64::from(count);
        println!("{what:<40} {rate:>10.0}/s {each:>8.2} us CPU each");
    }
}

/// User and system time of this process, from the kernel's account in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn spec(index: TaskIndex) -> Arc<TaskSpec> {
    let url = format!("http://origin.example:8080/some/path/of/usual/length/{index}?token=0123456789");
    let work = Work::Fetch(FetchSpec { url, ..FetchSpec::default() });
    Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
}

fn host() -> Host {
    Host::new("origin.example:8080")
}

fn submission(id: JobId, tasks: u32) -> Submission {
    let spec_of_job = JobSpec { title: "bench".into(), ..JobSpec::default() };
    Submission {
        job: Job::new(id, spec_of_job, tasks, Timestamp(1)),
        request: Some((id.to_string(), [7; 32])),
        lanes: vec![host()],
        tasks: (0..tasks).map(|index| (0, spec(index))).collect(),
    }
}

/// Jobs of one task, 32 callers at once.
async fn submits(writer: &mut SqliteWriter) {
    const SUBMITS: u32 = 32_000;
    let watch = Watch::start();
    for _ in 0..SUBMITS / 32 {
        let submissions = (0..32).map(|_| submission(JobId(uuid::Uuid::now_v7()), 1)).collect();
        writer.commit(&Batch { submissions, ..Batch::default() }).await.unwrap();
    }
    watch.report("submit, 32 jobs of one task a commit", SUBMITS);
}

/// One job fed in chunks of 1,000 tasks.
async fn bulk(writer: &mut SqliteWriter, job: JobId) {
    writer.commit(&Batch { submissions: vec![submission(job, 0)], ..Batch::default() }).await.unwrap();
    let watch = Watch::start();
    for first in (0..BULK).step_by(1000) {
        let tasks = (first..first + 1000).map(|index| (0, spec(index))).collect();
        let chunk_id = first.to_string();
        let addition = Addition { job, chunk_id, digest: [1; 32], new_lanes: Vec::new(), tasks };
        writer.commit(&Batch { additions: vec![addition], ..Batch::default() }).await.unwrap();
    }
    watch.report("bulk, 1,000 tasks a commit", BULK);
}

fn ended(id: TaskId, claim: &Task) -> TaskRow {
    let task = claim.apply(TaskEvent::Succeeded(claim.fence), Timestamp(3)).unwrap();
    let final_url = format!("http://origin.example:8080/some/path/of/usual/length/{}", id.index);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let outcome = Some(Outcome::Fetch(FetchResult {
        http_status: 200,
        headers: vec![
            header("content-type", "text/plain"),
            header("etag", "\"0123456789\""),
            header("server", "nginx"),
        ],
        body_bytes: 1024,
        final_url: final_url.clone(),
        content_type: "text/plain".into(),
        ..FetchResult::default()
    }));
    let remote_address = "10.0.0.1:8080".into();
    let report =
        AttemptReport { url: final_url, remote_address, http_status: 200, bytes: 1024, ..AttemptReport::default() };
    let log = vec![Attempt { number: 1, start_time: Timestamp(2), end_time: Timestamp(3), report, error: None }];
    TaskRow { task, log, outcome: outcome.map(Arc::new) }
}

/// Each batch ends one set of tasks (body of 1 KiB, row, event) and starts the next, as a busy server does.
async fn cycles(writer: &mut SqliteWriter, job: JobId, from: TaskIndex, size: u32) {
    let count = CYCLES.min(size * 2000) / size * size;
    let moving = Arc::new(Job::new(job, JobSpec::default(), BULK, Timestamp(1)));
    let body = bytes::Bytes::from(vec![0x5a; 1024]);
    let claim = |index| {
        let task = Task::default().apply(TaskEvent::Started, Timestamp(2)).unwrap();
        Claim { id: TaskId { job, index }, task, attempt_start: Timestamp(2) }
    };
    let mut running: Vec<Claim> = Vec::new();
    let watch = Watch::start();
    for first in (from..=from + count).step_by(size as usize) {
        let mut batch = Batch { jobs: vec![moving.clone()], lane_heads: vec![(job, 0, first)], ..Batch::default() };
        for claim in &running {
            let id = claim.id;
            let head = EventHead {
                sequence: u64::from(id.index) + 1,
                time: Timestamp(3),
                kind: EventKind::TaskEnded,
                task: Some(id.index),
            };
            let content = Content::Inline(body.clone());
            batch.pages.push(NewPage { id, page: 0, first_item: 0, items: 0, content, next: None });
            batch.moves.push(TaskMove { id, row: ended(id, &claim.task) });
            batch.events.push(NewEvent { job, head, snapshot: None });
        }
        running = if first < from + count { (first..first + size).map(claim).collect() } else { Vec::new() };
        batch.claims.clone_from(&running);
        writer.commit(&batch).await.unwrap();
    }
    watch.report(&format!("claim, body, end and event, {size} a commit"), count);
}

/// The head of a lane, far into it.
async fn pages(store: &SqliteStore, job: JobId, from: TaskIndex) {
    let watch = Watch::start();
    let mut next = from;
    for _ in 0..500 {
        next = store.lane_page(job, 0, next, 256, Timestamp(4)).await.unwrap().next.unwrap();
    }
    watch.report("pages of a lane, 256 tasks each, per task", 500 * 256);
}

/// Ends what is queued of the bulk job, puts it back, and asks for pages of each state in between.
async fn many(store: &SqliteStore, writer: &mut SqliteWriter, job: JobId) {
    let row = async || store.visit(job).await.unwrap().unwrap();
    let (watch, mut from, mut swept) = (Watch::start(), Some(0), 0);
    let error = TaskError {
        task_index: None,
        url: String::new(),
        reason: FailureReason::Cancelled,
        message: "the job was cancelled".into(),
        http_status: 0,
        retryable: false,
        attempt: 0,
    };
    let first = row().await.sequence.max(10_000_000);
    while let Some(index) = from {
        let first_sequence = first + u64::from(swept) + 1;
        let (state, error, time) = (TaskState::Pending, error.clone(), Timestamp(5));
        let sweep = Sweep {
            job,
            state,
            which: TaskChoice::All,
            from: index,
            to: None,
            limit: PIECE,
            error,
            time,
            first_sequence,
        };
        let batch = Batch { sweeps: vec![sweep], jobs: vec![Arc::new(row().await)], ..Batch::default() };
        let done = writer.commit(&batch).await.unwrap();
        assert!(done.refused.is_empty(), "{done:?}");
        swept += done.sweeps[0].count;
        from = done.sweeps[0].next;
    }
    watch.report("sweep of what is queued, 4,096 a commit", swept);
    listings(store, job, "after the sweep").await;

    let (watch, mut from, mut back) = (Watch::start(), Some(0), 0);
    while let Some(index) = from {
        let retries = vec![Retry { job, which: Which::From(index), limit: PIECE }];
        let batch = Batch { retries, jobs: vec![Arc::new(row().await)], ..Batch::default() };
        let done = writer.commit(&batch).await.unwrap();
        assert!(done.refused.is_empty(), "{done:?}");
        back += done.retries[0].cancelled;
        from = done.retries[0].next;
    }
    watch.report("retry of it, 4,096 a commit", back);
    listings(store, job, "after the retry").await;
}

/// A page of 51 tasks in each state, from the begin and from the middle.
async fn listings(store: &SqliteStore, job: JobId, when: &str) {
    for state in TaskState::ALL {
        for from in [0, BULK / 2, BULK - 20] {
            let start = Instant::now();
            let page = store.tasks(job, &[state], from, 51).await.unwrap();
            println!("{when}: {} tasks {state:?} from {from}: {:.1?}", page.items.len(), start.elapsed());
        }
    }
    let start = Instant::now();
    let counts = store.recount(job).await.unwrap();
    println!("{when}: recount {:.1?} {counts:?}", start.elapsed());
}

/// Removes a job of a million tasks, and the room with it.
async fn purge(dir: &Path, writer: &mut SqliteWriter, job: Job) {
    let size = || std::fs::metadata(dir.join("haul.db")).unwrap().len() >> 20;
    let before = size();
    let id = job.id;
    let ended = Job { state: JobState::Failed, end_time: Some(Timestamp(9)), ..job };
    let batch = Batch { jobs: vec![Arc::new(ended)], deletions: vec![id], ..Batch::default() };
    assert_eq!(writer.commit(&batch).await.unwrap().deletions, [true]);
    let (watch, mut rows, mut longest) = (Watch::start(), 0, Duration::ZERO);
    loop {
        let start = Instant::now();
        let done = writer.commit(&Batch { purges: vec![(id, PIECE)], ..Batch::default() }).await.unwrap();
        longest = longest.max(start.elapsed());
        rows += done.purges[0].rows;
        if done.purges[0].is_gone {
            break;
        }
    }
    watch.report("purge, 4,096 rows a commit", rows);
    println!("purge: longest commit {longest:.1?}, file {before} to {} MiB", size());
}

/// Listings of a million jobs of which a few are of each kind.
async fn jobs(store: &SqliteStore, writer: &mut SqliteWriter) {
    const JOBS: u32 = 1_000_000;
    let watch = Watch::start();
    for first in (0..JOBS).step_by(1000) {
        let submissions = (first..first + 1000).map(|number| {
            let labels = [("all".to_owned(), "x".to_owned()), ("rare".to_owned(), (number / 100).to_string())];
            let spec = JobSpec { labels: labels.into(), ..JobSpec::default() };
            let ms = 1_700_000_000_000 + u64::from(number);
            let id = uuid::Builder::from_unix_timestamp_millis(ms, &rand::random()).into_uuid();
            let mut job = Job::new(JobId(id), spec, 0, Timestamp(ms as i64 * 1000));
            job.state = if number % 50_000 == 7 { JobState::Failed } else { JobState::Succeeded };
            if number % 50 == 3 {
                job.state = JobState::Paused;
            }
            job.end_time = job.state.is_ended().then_some(Timestamp(ms as i64 * 1000 + 5));
            Submission { job, request: None, lanes: Vec::new(), tasks: Vec::new() }
        });
        let submissions = submissions.collect();
        writer.commit(&Batch { submissions, ..Batch::default() }).await.unwrap();
    }
    watch.report("jobs with two labels, 1,000 a commit", JOBS);
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let at = |number: i64| Some(Timestamp((1_700_000_000_000 + number) * 1000));
    let unfinished = vec![JobState::Pending, JobState::Running, JobState::Paused, JobState::Cancelling];
    let filters = [
        ("all", JobFilter::default()),
        ("FAILED", JobFilter { states: vec![JobState::Failed], ..JobFilter::default() }),
        ("CANCELLED", JobFilter { states: vec![JobState::Cancelled], ..JobFilter::default() }),
        ("label of all", JobFilter { labels: label("all", "x"), ..JobFilter::default() }),
        ("label of few", JobFilter { labels: label("rare", "77"), ..JobFilter::default() }),
        (
            "two labels",
            JobFilter {
                labels: [label("all", "x"), label("rare", "77")]
                    .into_iter()
                    .flat_map(|one: std::collections::BTreeMap<_, _>| one)
                    .collect(),
                ..JobFilter::default()
            },
        ),
        ("before an old time", JobFilter { created_before: at(1000), ..JobFilter::default() }),
        ("after a late time", JobFilter { created_after: at(999_990), ..JobFilter::default() }),
        ("ended after a late time", JobFilter { ended_after: at(999_000), ..JobFilter::default() }),
        ("ended after an early time", JobFilter { ended_after: at(1), ..JobFilter::default() }),
    ];
    for (what, filter) in filters {
        // As the server asks: of one tenant.
        let filter = JobFilter { tenant: Some(DEFAULT_NO), ..filter };
        let start = Instant::now();
        let page = store.jobs(&filter, 101).await.unwrap();
        println!("{} jobs, {what}: {:.1?}", page.items.len(), start.elapsed());
    }
    let (start, mut filter, mut count) = (Instant::now(), JobFilter { states: unfinished, ..JobFilter::default() }, 0);
    loop {
        let page = store.jobs(&filter, 100).await.unwrap();
        count += page.items.len();
        filter.before = page.next;
        if filter.before.is_none() {
            break;
        }
    }
    println!("{count} unfinished jobs among {JOBS}, 100 a page: {:.1?}", start.elapsed());
}

/// From nothing to the first page of the lane, as after a kill, with many jobs and with many lanes.
async fn restart(dir: &Path, what: &str) {
    let start = Instant::now();
    let (store, writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
    let opened = start.elapsed();
    let (mut after, mut jobs, mut lanes, mut parts, mut first_lane) = (None, 0, 0, 0, None);
    loop {
        let part = store.recover(after).await.unwrap();
        parts += 1;
        after = part.next;
        let found = part.jobs();
        jobs += found.len();
        lanes += found.iter().map(|(_, lanes)| lanes.len()).sum::<usize>();
        first_lane = first_lane.or(found.first().map(|(job, lanes)| (job.id, lanes[0].1)));
        if after.is_none() {
            break;
        }
    }
    let recovered = start.elapsed();
    let (job, head) = first_lane.unwrap();
    let page = store.lane_page(job, 0, head, 256, Timestamp(4)).await.unwrap();
    println!(
        "{what}: open {opened:.1?}, recovery of {jobs} jobs and {lanes} lanes in {parts} parts {:.1?}, first page of {} {:.1?}",
        recovered.saturating_sub(opened),
        page.tasks.len(),
        start.elapsed().saturating_sub(recovered)
    );
    Box::new(writer).close().await;
}

/// One job over 100,000 hosts.
async fn hosts(writer: &mut SqliteWriter) {
    let mut one = submission(JobId(uuid::Uuid::now_v7()), 100_000);
    one.lanes = (0..100_000).map(|number| Host::new(&format!("origin-{number}.example:8080"))).collect();
    for (lane, (of, _)) in (0..).zip(&mut one.tasks) {
        *of = lane;
    }
    writer.commit(&Batch { submissions: vec![one], ..Batch::default() }).await.unwrap();
}
