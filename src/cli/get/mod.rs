//! `haul get`: downloads now, by the engine in this process and no server.
//!
//! Run again, it resumes partial downloads and skips complete ones: parts are named by URL and path, finished files
//! remember the validator that they came with. The database holds one run and is thrown away.

mod plan;
mod report;
mod scratch;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::args::Usage;
use crate::cli::get::plan::Plan;
use crate::cli::get::report::Report;
use crate::cli::get::scratch::Scratch;
use crate::config::{LimitSettings, QUEUE_BYTES_DEFAULT};
use crate::engine::handle::Engine;
use crate::engine::notices::{Notice, NoticeListener};
use crate::model::group::{GroupMode, GroupPolicy};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::limits::Limits;
use crate::model::spec::JobSpec;
use crate::server::{self, Built, Durability, EngineSettings, Guard, Retention, RootKeys, descriptors};
use crate::telemetry;

pub(crate) use plan::GetArgs;

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How often the engine is asked why nothing runs.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(1);
/// Files that are asked why they wait.
const OPEN_MAX: usize = 100;
/// Events that are read in one go.
const EVENTS_MAX: u32 = 256;

/// Why a run ended before its files were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    Interrupt,
    Terminate,
    /// The terminal was closed.
    HangUp,
}

impl Interruption {
    /// As shells report a process that the signal ended: 128 and its number.
    fn exit_code(self) -> ExitCode {
        match self {
            Interruption::Interrupt => ExitCode::from(130),
            Interruption::Terminate => ExitCode::from(143),
            Interruption::HangUp => ExitCode::from(129),
        }
    }
}

/// Gets files; succeeds when all of them are there.
pub(crate) async fn run(args: GetArgs) -> anyhow::Result<ExitCode> {
    descriptors::raise();
    let _log = telemetry::start(telemetry::LogFormat::Text, tracing::Level::ERROR)
        .map_err(|error| Usage(error.to_string()))?;
    let plan = Plan::of(&args)?;
    let mut signals = Signals::new()?;
    let scratch = Scratch::new()?;
    let Built { engine, task, .. } =
        server::build(&settings(&plan, &scratch.0), std::sync::Arc::default(), None).await?;
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let spec = JobSpec {
        directory: ".".to_owned(),
        group: GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() },
        defaults: plan.options.clone().into(),
        ..JobSpec::default()
    };
    let mut report = Report::new(plan.tasks.len(), plan.attempts);
    let total = plan.tasks.len();
    let job = engine.submit(spec, plan.tasks, "", None).await?.id;
    let interruption = follow(&engine, job, &mut report, &mut signals).await?;
    let failed = engine.job(job).await?.counts.succeeded as usize != total;
    engine.drain().await;
    tokio::select! {
        ended = work.join_next() => {
            if let Some(ended) = ended {
                ended??;
            }
        }
        // A second signal does not wait for the checkpoints.
        _ = signals.next() => {}
    }
    report.close(interruption.is_some());
    Ok(match interruption {
        Some(interruption) => interruption.exit_code(),
        None if failed => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

/// Shows how far the run is until all has ended, or a signal stops it.
async fn follow(
    engine: &Engine,
    job: JobId,
    report: &mut Report,
    signals: &mut Signals,
) -> anyhow::Result<Option<Interruption>> {
    let mut ticks = tokio::time::interval(TICK);
    let mut notices = engine.hub().feed(job).map(|feed| feed.notices());
    let (mut seen, mut explained) = (0, Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            interruption = signals.next() => return Ok(Some(interruption)),
            notice = next_notice(&mut notices) => report.notice(&notice, engine.now()),
        }
        loop {
            let events = engine.events(job, seen, EVENTS_MAX).await?;
            let Some(last) = events.last() else { break };
            seen = last.head.sequence;
            for task in events.iter().filter_map(|event| event.task.as_ref()) {
                report.ended(task);
            }
        }
        let Some(feed) = engine.hub().feed(job) else { return Ok(None) };
        let active = feed.active(usize::MAX);
        if active.is_empty() && explained.elapsed() >= EXPLAIN_INTERVAL {
            explained = Instant::now();
            report.idle(why_idle(engine, job, report.open(OPEN_MAX)).await?);
        }
        report.show(&active, feed.progress(), engine.now());
    }
}

/// Why nothing runs: what holds the job, or its lanes, or the files that wait on their own, as for room on the disk.
async fn why_idle(engine: &Engine, job: JobId, open: Vec<TaskIndex>) -> anyhow::Result<Option<String>> {
    let of_job = engine.explain(job, Vec::new()).await?;
    let mut wait = of_job.job.or(of_job.lanes.into_iter().next().map(|(wait, _)| wait));
    if wait.is_none() {
        let of_files = engine.explain(job, open.into_iter().map(|index| (index, 0)).collect()).await?;
        wait = of_files.tasks.into_values().next();
    }
    Ok(wait.map(|wait| wait.message))
}

/// The next news of the job; never ends when there will be none.
async fn next_notice(notices: &mut Option<NoticeListener>) -> Notice {
    loop {
        let Some(listener) = notices else { std::future::pending().await };
        match listener.next(u64::MAX).await {
            Some(notice) => return notice,
            None => *notices = None,
        }
    }
}

fn settings(plan: &Plan, scratch: &Path) -> EngineSettings {
    let defaults = Limits::default();
    EngineSettings {
        data_dir: scratch.to_owned(),
        download_dir: plan.directory.clone(),
        tenant_dirs: BTreeMap::new(),
        limits: LimitSettings {
            max_concurrent_tasks: Some(plan.jobs),
            max_per_host: Some(plan.jobs.max(plan.connections).max(defaults.max_per_host)),
            initial: Limits { bytes_per_second: plan.bytes_per_second, ..defaults },
        },
        // It is the user's own tool: it may go wherever the user may.
        guard: Guard { allow_private: true, allow_ports: plan.ports.clone(), ..Guard::default() },
        proxies: plan.proxies.clone(),
        file_durability: Durability::Full,
        retry_after_max: Duration::from_secs(3600),
        // It sends no such requests.
        drain_patience: Duration::ZERO,
        disk_reserve: None,
        max_download_bytes: None,
        queue_bytes: QUEUE_BYTES_DEFAULT as usize,
        parts_by_url: true,
        scratch: true,
        root_keys: RootKeys::Unkept,
        retention: Retention::default(),
        egress_proxy: None,
    }
}

/// The signals that end a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: whoever started the run has had it outlive its terminal, as `nohup` does.
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up,
        })
    }

    async fn next(&mut self) -> Interruption {
        tokio::select! {
            _ = self.interrupt.recv() => Interruption::Interrupt,
            _ = self.terminate.recv() => Interruption::Terminate,
            () = heard(&mut self.hang_up) => Interruption::HangUp,
        }
    }
}

/// Waits for a signal; for ever where there is none to wait for.
async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP, whose number is 1, is ignored by this process.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
