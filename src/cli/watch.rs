//! `haul watch`, `haul wait`, and the end of `haul submit --watch`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tonic::Status;

use crate::cli::args::{Format, JobRef, Usage};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::json;
use crate::cli::patience::Patience;
use crate::cli::states::{self, is_ended, job_state, task_state};
use crate::cli::term::bars::{self, Transfer};
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::live::Live;
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::config::values::parse_duration;
use crate::model::text::{plain, shown};
use crate::pb;
use crate::pb::watch_job_response::Event;

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(250);
/// How long nothing may be said where there is no screen.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// The most tasks that wait already when a watch begins and are shown.
const WAITS_MAX: i32 = 100;
/// The most tasks that wait and are known; of more the later ones are left out, so that a million of them cost no more.
const WAITS_KEPT: usize = 1_000;
/// The most kinds of failures that the end of a job lists.
const KINDS_MAX: usize = 10;
/// The exit code when the time passed before the job ended, as of `timeout`.
const TIMED_OUT: u8 = 124;

/// Follows a job to its end over restarts of its server: each connection goes on after the last event that was seen.
pub(crate) async fn follow(
    client: &Client,
    format: Format,
    job_id: &str,
    mut patience: Patience,
) -> anyhow::Result<ExitCode> {
    let mut watch = Watch::new(format);
    loop {
        let status = match watch.connect(client, job_id, &mut patience).await {
            Ok(Some(state)) => return Ok(exit_code(state)),
            // The stream ended before the job did: something between here and the server closed it.
            Ok(None) => Status::unavailable("the stream was closed"),
            Err(status) => status,
        };
        let Some(wait) = patience.wait(&status) else { return Err(client.explain(&status)) };
        if patience.is_first() {
            watch.say(format!("haul: the watch was cut ({}); trying again", plain(status.message())));
        }
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let silent = patience.last_heard().map(|heard| heard.elapsed()).unwrap_or_default();
            watch.draw(Line::of(Hue::Warn, &format!("no connection for {}; trying again", words::duration(silent))));
            tokio::time::sleep_until(until.min(Instant::now() + TICK)).await;
        }
    }
}

fn exit_code(state: pb::JobState) -> ExitCode {
    if state == pb::JobState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is known of a job, over all connections.
struct Watch {
    format: Format,
    live: Live,
    sequence: u64,
    /// The last durable event that the snapshot of this connection includes. The list of waits is newer than that.
    snapshot_sequence: u64,
    state: pb::JobState,
    /// Whether more tasks may be added.
    is_open: bool,
    progress: pb::JobProgress,
    /// Tasks that wait for their next attempt, by index.
    backing_off: BTreeMap<u32, pb::Task>,
    /// When something was last printed.
    said: Instant,
}

impl Watch {
    fn new(format: Format) -> Watch {
        Watch {
            format,
            live: Live::default(),
            sequence: 0,
            snapshot_sequence: 0,
            state: pb::JobState::Unspecified,
            is_open: false,
            progress: pb::JobProgress::default(),
            backing_off: BTreeMap::new(),
            said: Instant::now(),
        }
    }

    /// Reads one connection to its end. The state of the job, if it has ended.
    async fn connect(
        &mut self,
        client: &Client,
        job_id: &str,
        patience: &mut Patience,
    ) -> Result<Option<pb::JobState>, Status> {
        let request = pb::WatchJobRequest {
            job_id: job_id.to_owned(),
            after_sequence: Some(self.sequence),
            // Waits are drawn; whoever reads lines reads ends.
            task_starts: self.format == Format::Text && screen::stderr_size().is_some(),
            ..Default::default()
        };
        let is_drawn = request.task_starts;
        let mut stream = client.jobs().watch_job(request).await?.into_inner();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                message = stream.message() => match message? {
                    Some(message) => {
                        patience.heard();
                        let snapshot = matches!(message.event, Some(Event::Snapshot(_))).then_some(message.sequence);
                        self.take(message)?;
                        if let Some(sequence) = snapshot {
                            self.snapshot_sequence = sequence;
                            if is_drawn {
                                self.backing_off = waiting_tasks(client, job_id).await?;
                            }
                        }
                    }
                    None => return Ok(is_ended(self.state).then_some(self.state)),
                },
                _ = ticks.tick() => self.show(),
            }
        }
    }

    fn take(&mut self, message: pb::WatchJobResponse) -> Result<(), Status> {
        if let Some(Event::Snapshot(job) | Event::JobChanged(job) | Event::JobEnded(job)) = &message.event {
            self.state = job.state();
            self.is_open = job.open;
            self.progress.counts = job.counts;
        }
        if matches!(message.event, Some(Event::TaskEnded(_) | Event::JobChanged(_) | Event::JobEnded(_))) {
            self.sequence = message.sequence;
        }
        if self.format == Format::Json {
            let printed = json::print("haul.v1.WatchJobResponse", &message);
            return printed.map_err(|error| Status::data_loss(error.to_string()));
        }
        match message.event {
            Some(Event::TaskEnded(task)) => {
                // A replayed end may be that of a run before the retry for which the task waits now.
                if message.sequence > self.snapshot_sequence {
                    self.backing_off.remove(&task.task_index);
                }
                self.print(task_line(&task));
            }
            Some(Event::JobChanged(job)) => self.print(job_line(&job)),
            Some(Event::JobEnded(job)) => ended_lines(&job).into_iter().for_each(|line| self.print(line)),
            Some(Event::TaskStarted(task)) => self.started(&task),
            Some(Event::TaskBackingOff(task)) => {
                self.backing_off.insert(task.task_index, task);
                if self.backing_off.len() > WAITS_KEPT {
                    self.backing_off.pop_last();
                }
            }
            Some(Event::Progress(progress)) => {
                // A watcher that was slow may have missed their starts.
                for task in &progress.active {
                    self.started(task);
                }
                self.progress = progress;
            }
            Some(Event::Snapshot(_) | Event::Heartbeat(_)) | None => {}
        }
        Ok(())
    }

    /// Ends the wait for the attempt that runs now. The start of the attempt before the wait may arrive behind the wait.
    fn started(&mut self, task: &pb::Task) {
        if self.backing_off.get(&task.task_index).is_some_and(|wait| wait.attempts < task.attempts) {
            self.backing_off.remove(&task.task_index);
        }
    }

    /// Shows how far the job is: on a screen always, else when nothing was said for long.
    fn show(&mut self) {
        if self.format == Format::Json || is_ended(self.state) {
            return;
        }
        let sum = progress_line(&self.progress, self.is_open);
        if screen::stderr_size().is_some() {
            self.draw(sum);
        } else if self.said.elapsed() >= QUIET_MAX {
            self.said = Instant::now();
            screen::say(sum);
        }
    }

    fn draw(&mut self, sum: Line) {
        let Some(size) = screen::stderr_size().filter(|_| self.format == Format::Text) else { return };
        let running = self.progress.active.iter().map(|task| {
            let progress = task.progress.unwrap_or_default();
            Transfer {
                name: task.url.clone(),
                done: progress.bytes_done,
                total: progress.bytes_total,
                bytes_per_second: progress.bytes_per_second,
                waits: None,
            }
        });
        let waiting = self.backing_off.values().map(|task| Transfer {
            name: task.url.clone(),
            waits: Some(states::why(task)),
            ..Transfer::default()
        });
        self.live.draw(bars::frame(&running.chain(waiting).collect::<Vec<_>>(), sum, size), size);
    }

    fn print(&mut self, line: Line) {
        self.live.clear();
        self.said = Instant::now();
        screen::line(line);
    }

    fn say(&mut self, line: String) {
        self.live.clear();
        self.said = Instant::now();
        screen::say(line);
    }
}

/// Returns the tasks that wait for their next attempt, as many as a screen may show. The stream announces a wait when it
/// begins, so those that began before the stream are asked for.
async fn waiting_tasks(client: &Client, job_id: &str) -> Result<BTreeMap<u32, pb::Task>, Status> {
    let request = pb::ListTasksRequest {
        job_id: job_id.to_owned(),
        states: vec![pb::TaskState::BackingOff.into()],
        page_size: WAITS_MAX,
        ..Default::default()
    };
    let tasks = client.jobs().list_tasks(request).await?.into_inner().tasks;
    Ok(tasks.into_iter().map(|task| (task.task_index, task)).collect())
}

fn job_line(job: &pb::Job) -> Line {
    let counts = job.counts.unwrap_or_default();
    let of = if counts.total == 1 { "task" } else { "tasks" };
    let (succeeded, total) = (words::number(counts.succeeded.into()), words::number(counts.total.into()));
    let line =
        Line::from("job ").and(job_state(job)).with(Hue::Plain, &format!(": {succeeded} of {total} {of} succeeded"));
    match &job.failure {
        Some(failure) => line.with(Hue::Plain, "; ").with(Hue::Bad, &states::failure(failure)),
        None => line,
    }
}

/// How a job ended, and what failed in it by kind.
fn ended_lines(job: &pb::Job) -> Vec<Line> {
    let mut kinds = states::failures(job);
    let more = kinds.len().saturating_sub(KINDS_MAX);
    kinds.truncate(KINDS_MAX);
    if more > 0 {
        kinds.push(format!("and {}; `haul show` lists all", words::count(more as u64, "more kind")));
    }
    let kinds = kinds.iter().map(|kind| Line::from("  ").with(Hue::Bad, kind));
    std::iter::once(job_line(job)).chain(kinds).collect()
}

fn progress_line(progress: &pb::JobProgress, is_open: bool) -> Line {
    let bytes = progress.progress.unwrap_or_default();
    let counts = progress.counts.unwrap_or_default();
    let succeeded = words::number(counts.succeeded.into());
    let line = Line::from(format!("{succeeded} of {} succeeded", words::count(u64::from(counts.total), "task")));
    let failed =
        if counts.failed > 0 { format!(", {} failed", words::number(counts.failed.into())) } else { String::new() };
    let running = format!(
        ", {} running; {}",
        words::number(counts.running.into()),
        bars::phrase(bytes.bytes_done, bytes.bytes_total, bytes.bytes_per_second, counts.pending == 0)
    );
    let is_idle = counts.pending + counts.running + counts.backing_off == 0;
    let open = if is_open && is_idle { "; open for `haul add` until `haul seal`" } else { "" };
    line.with(Hue::Bad, &failed).with(Hue::Plain, &running).with(Hue::Warn, open)
}

/// How a task ended, in a line.
fn task_line(task: &pb::Task) -> Line {
    let what = match (&task.result, &task.error) {
        (Some(pb::task::Result::DownloadResult(download)), _) => {
            format!("{} ({})", download.path, words::size(download.bytes))
        }
        (Some(pb::task::Result::FetchResult(fetch)), _) => {
            format!("{} {} ({})", task.url, fetch.http_status, words::size(fetch.body_bytes))
        }
        (None, Some(error)) => format!("{}: {}", task.url, error.message),
        (None, None) => task.url.clone(),
    };
    Line::from(format!("task {} ", task.task_index)).and(task_state(task)).with(Hue::Plain, &format!(": {what}"))
}

/// Which job to wait for, and how long.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    job: JobRef,
    /// Give up after this time (`500ms`, `10s`, `5m`, `1h`), with exit code 124
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

/// Waits until a job has ended, and prints how. Exit codes are those of [`follow`], and 124 when the time passed first.
pub(crate) async fn wait(client: &Client, format: Format, args: WaitArgs) -> anyhow::Result<ExitCode> {
    let timeout = match &args.timeout {
        None => None,
        Some(text) => Some(parse_duration(text).ok_or_else(|| {
            Usage(format!(
                "`--timeout` is `{}`, which is not a time; write it like `500ms`, `10s`, `5m` or `1h`",
                shown(text)
            ))
        })?),
    };
    let job_id = jobref::resolve(client, &args.job.job).await?;
    // What is beyond all times is no bound.
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let is_over = || until.is_some_and(|until| Instant::now() >= until);
    // A server that is there, and knows the job, is waited for when it goes away.
    let request = pb::GetJobRequest { job_id: job_id.clone(), ..Default::default() };
    let known = client.jobs().get_job(request).await.map_err(|status| client.explain(&status))?;
    let mut job = known.into_inner().job.unwrap_or_default();
    let mut patience = Patience::of_server_that_answered();
    loop {
        // A timeout of nothing would be none.
        let left = until.map(|until| until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let timeout = left.and_then(|left| prost_types::Duration::try_from(left).ok());
        let request = pb::WaitJobRequest { job_id: job_id.clone(), timeout };
        match answer_until(until, client.jobs().wait_job(request)).await {
            Some(Ok(answer)) => {
                patience.heard();
                job = answer.into_inner().job.unwrap_or_default();
            }
            Some(Err(status)) => {
                let Some(wait) = patience.wait(&status) else { return Err(client.explain(&status)) };
                let left = until.map_or(wait, |until| wait.min(until.saturating_duration_since(Instant::now())));
                tokio::time::sleep(left).await;
            }
            None => {}
        }
        // A server that is away at the end of the time is not waited for: what it said last is what is known.
        if is_ended(job.state()) || is_over() {
            break;
        }
    }
    match format {
        Format::Json => json::print("haul.v1.Job", &job)?,
        Format::Text => ended_lines(&job).into_iter().for_each(screen::line),
    }
    if !is_ended(job.state()) {
        screen::say("haul: the time passed before the job ended");
        return Ok(ExitCode::from(TIMED_OUT));
    }
    Ok(exit_code(job.state()))
}

/// The answer of a call that ends at a time; `None`: none came until a little later, since its server is gone without a word.
async fn answer_until<T>(until: Option<Instant>, call: impl Future<Output = T>) -> Option<T> {
    /// What the answer at the end of the time has for its way.
    const WAY: Duration = Duration::from_secs(2);
    let end = until.and_then(|until| until.checked_add(WAY));
    match end {
        Some(end) => tokio::time::timeout_at(end, call).await.ok(),
        None => Some(call.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_for_more_tasks_says_so() {
        let progress = |pending: u32| pb::JobProgress {
            counts: Some(pb::TaskCounts { total: 3, succeeded: 3 - pending, pending, ..Default::default() }),
            ..Default::default()
        };
        assert!(progress_line(&progress(0), true).text().contains("open for `haul add` until `haul seal`"));
        for (pending, is_open) in [(0, false), (1, true)] {
            assert!(!progress_line(&progress(pending), is_open).text().contains("haul add"));
        }
    }
}
