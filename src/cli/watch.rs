//! `haul watch`, and the end of `haul submit --watch`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cli::client::{Client, is_ours};
use crate::cli::output::{self, Format};
use crate::pb;
use crate::pb::watch_job_response::Event;

/// The first wait before a server that went away is tried again; each one after it is twice as long.
const BACKOFF: Duration = Duration::from_millis(250);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a server may be away.
const AWAY_MAX: Duration = Duration::from_mins(5);

/// Follows a job to its end over restarts of its server: each connection goes on after the last event that was seen.
pub(crate) async fn follow(client: &Client, format: Format, job_id: &str) -> anyhow::Result<ExitCode> {
    let mut watch = Watch::new(format);
    let mut backoff = BACKOFF;
    loop {
        match watch.connect(client, job_id).await {
            Ok(Some(state)) => {
                let succeeded = state == pb::JobState::Succeeded;
                return Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            // It ended without an end of the job: somebody between us and the server closed it.
            Ok(None) => {}
            Err(status) if watch.may_go_on(&status) => {}
            Err(status) => return Err(client.explain(&status)),
        }
        if watch.is_new() {
            backoff = BACKOFF;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// What is known of a job, over all connections.
struct Watch {
    format: Format,
    sequence: u64,
    state: pb::JobState,
    /// When a server last said something; `None`: none has yet.
    heard: Option<Instant>,
    is_lost: bool,
    bar: Option<ProgressBar>,
}

impl Watch {
    fn new(format: Format) -> Watch {
        let shows = format == Format::Text && std::io::stderr().is_terminal();
        let bar = shows.then(ProgressBar::new_spinner);
        Watch { format, sequence: 0, state: pb::JobState::Unspecified, heard: None, is_lost: false, bar }
    }

    /// Reads one connection to its end. The state of the job, if it has ended.
    async fn connect(&mut self, client: &Client, job_id: &str) -> Result<Option<pb::JobState>, Status> {
        let after_sequence = Some(self.sequence);
        let request = pb::WatchJobRequest { job_id: job_id.to_owned(), after_sequence, ..Default::default() };
        let mut stream = client.jobs().watch_job(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            self.heard = Some(Instant::now());
            self.is_lost = false;
            self.take(&message)?;
        }
        Ok(is_ended(self.state).then_some(self.state))
    }

    /// Whether another connection may bring what this one did not. What never was there is not waited for.
    fn may_go_on(&mut self, status: &Status) -> bool {
        let is_away = match status.code() {
            Code::Unavailable => true,
            Code::Unknown | Code::Internal | Code::Cancelled => is_ours(status),
            _ => false,
        };
        let is_late = self.heard.is_none_or(|heard| heard.elapsed() > AWAY_MAX);
        if is_away && !is_late && !std::mem::replace(&mut self.is_lost, true) {
            self.say(&format!("haul: the watch was cut ({}); trying again", output::plain(status.message())));
        }
        is_away && !is_late
    }

    /// Whether the last connection was a good one.
    fn is_new(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < BACKOFF)
    }

    fn take(&mut self, message: &pb::WatchJobResponse) -> Result<(), Status> {
        if let Some(Event::Snapshot(job) | Event::JobChanged(job) | Event::JobEnded(job)) = &message.event {
            self.state = job.state();
        }
        if matches!(message.event, Some(Event::TaskEnded(_) | Event::JobChanged(_) | Event::JobEnded(_))) {
            self.sequence = message.sequence;
        }
        if self.format == Format::Json {
            let printed = output::json_line("haul.v1.WatchJobResponse", message);
            return printed.map_err(|error| Status::data_loss(error.to_string()));
        }
        let line = match &message.event {
            Some(Event::TaskEnded(task)) => task_line(task),
            Some(Event::JobChanged(job) | Event::JobEnded(job)) => job_line(job),
            Some(Event::Progress(progress)) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(progress_line(progress));
                    bar.tick();
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| output::line(&output::plain(&line))),
            None => output::line(&output::plain(&line)),
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::say(text)),
            None => output::say(text),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn is_ended(state: pb::JobState) -> bool {
    matches!(state, pb::JobState::Succeeded | pb::JobState::Failed | pb::JobState::Cancelled)
}

fn job_line(job: &pb::Job) -> String {
    let counts = job.counts.unwrap_or_default();
    let failure = job.failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
    let state = output::word(job.state().as_str_name(), "JOB_STATE_");
    format!("job {state}, {} of {} tasks ended well{failure}", counts.succeeded, counts.total)
}

fn progress_line(progress: &pb::JobProgress) -> String {
    let bytes = progress.progress.unwrap_or_default();
    let counts = progress.counts.unwrap_or_default();
    format!(
        "{} of {} tasks, {} running, {} of {}, {}/s",
        counts.succeeded,
        counts.total,
        counts.running,
        output::size(bytes.bytes_done),
        output::size(bytes.bytes_total),
        output::size(bytes.bytes_per_second)
    )
}

/// How a task ended, in a line.
fn task_line(task: &pb::Task) -> String {
    let state = output::word(task.state().as_str_name(), "TASK_STATE_");
    let what = match (&task.result, &task.error) {
        (Some(pb::task::Result::DownloadResult(download)), _) => {
            format!("{} ({})", download.path, output::size(download.bytes))
        }
        (Some(pb::task::Result::FetchResult(fetch)), _) => {
            format!("{} {} ({})", task.url, fetch.http_status, output::size(fetch.body_bytes))
        }
        (None, Some(error)) => format!("{}: {}", task.url, error.message),
        (None, None) => task.url.clone(),
    };
    format!("task {} {state}: {what}", task.task_index)
}
