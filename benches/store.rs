//! What the store costs: `cargo bench --bench store [DIRECTORY]`. The directory decides which disk is measured.
//!
//! Prints rows per second and CPU time per task (user and system, all threads), the figures of docs/PERFORMANCE.md.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people at a terminal, where a panic says enough.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use haul::model::event::{EventHead, EventKind};
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskId, TaskIndex};
use haul::model::job::Job;
use haul::model::outcome::{Attempt, AttemptReport, FetchResult, Outcome};
use haul::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
use haul::model::task::{Task, TaskEvent};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore, SqliteWriter};
use haul::store::{
    Batch, Claim, Content, NewEvent, NewJob, NewLane, NewPage, NewTask, Store, TaskMove, TaskRow, WriteStore,
};
use tokio::time::Instant;

/// Tasks of the bulk measurement.
const BULK: u32 = 1_000_000;
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
    Box::new(writer).close().await;
    drop(store);
    restart(dir).await;
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

fn new_task(id: TaskId) -> NewTask {
    let url = format!("http://origin.example:8080/some/path/of/usual/length/{}?token=0123456789", id.index);
    let work = Work::Fetch(FetchSpec { url, ..FetchSpec::default() });
    NewTask { id, lane: 0, spec: Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default() }) }
}

fn new_job(id: JobId, tasks: u32) -> Batch {
    Batch {
        new_jobs: vec![NewJob {
            job: Job::new(id, JobSpec { title: "bench".into(), ..JobSpec::default() }, tasks, Timestamp(1)),
            request: Some((id.to_string(), [7; 32])),
        }],
        new_lanes: vec![NewLane { job: id, lane: 0, host: Host::new("origin.example:8080") }],
        ..Batch::default()
    }
}

/// Jobs of one task, 32 callers at once.
async fn submits(writer: &mut SqliteWriter) {
    const SUBMITS: u32 = 32_000;
    let watch = Watch::start();
    for _ in 0..SUBMITS / 32 {
        let mut batch = Batch::default();
        for _ in 0..32 {
            let job = JobId(uuid::Uuid::now_v7());
            let one = new_job(job, 1);
            batch.new_jobs.extend(one.new_jobs);
            batch.new_lanes.extend(one.new_lanes);
            batch.new_tasks.push(new_task(TaskId { job, index: 0 }));
        }
        writer.commit(&batch).await.unwrap();
    }
    watch.report("submit, 32 jobs of one task a commit", SUBMITS);
}

/// One job fed in chunks of 1,000 tasks.
async fn bulk(writer: &mut SqliteWriter, job: JobId) {
    writer.commit(&new_job(job, BULK)).await.unwrap();
    let watch = Watch::start();
    for first in (0..BULK).step_by(1000) {
        let new_tasks = (first..first + 1000).map(|index| new_task(TaskId { job, index })).collect();
        writer.commit(&Batch { new_tasks, ..Batch::default() }).await.unwrap();
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
    TaskRow { task, log, outcome }
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
        let page = store.lane_page(job, 0, next, 256).await.unwrap();
        next = page.last().unwrap().index + 1;
    }
    watch.report("pages of a lane, 256 tasks each, per task", 500 * 256);
}

/// From nothing to the first page of the lane, as after a kill.
async fn restart(dir: &Path) {
    let start = Instant::now();
    let (store, writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
    let opened = start.elapsed();
    let found = store.recover().await.unwrap();
    let recovered = start.elapsed();
    let (job, lane, _, head) = found.lanes.last().unwrap();
    let page = store.lane_page(*job, *lane, *head, 256).await.unwrap();
    println!(
        "restart: open {opened:.1?}, recovery of {} jobs {:.1?}, first page of {} {:.1?}",
        found.jobs.len(),
        recovered.saturating_sub(opened),
        page.len(),
        start.elapsed().saturating_sub(recovered)
    );
    Box::new(writer).close().await;
}
