//! `haul watch`, and the end of `haul submit --watch`.

use std::process::ExitCode;
use std::time::Duration;

use tonic::Code;

use crate::cli::client::Client;
use crate::cli::output::{self, Format};
use crate::pb;
use crate::pb::watch_job_response::Event;

/// Waits between tries to reach a server that went away.
const RECONNECT: Duration = Duration::from_millis(500);
/// How long a server may be away.
const AWAY_MAX: u32 = 240;

/// Follows a job to its end over restarts of its server: each connection goes on after the last event that was seen.
pub(crate) async fn follow(client: &Client, format: Format, job_id: &str) -> anyhow::Result<ExitCode> {
    let mut sequence = 0;
    let mut away = 0;
    loop {
        let request =
            pb::WatchJobRequest { job_id: job_id.to_owned(), after_sequence: Some(sequence), ..Default::default() };
        let ended = match client.jobs().watch_job(request).await {
            Ok(stream) => read(stream.into_inner(), format, &mut sequence, &mut away).await,
            Err(status) => Err(status),
        };
        match ended {
            Ok(state) => {
                let succeeded = state == pb::JobState::Succeeded;
                return Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) && away < AWAY_MAX =>
            {
                away += 1;
                tokio::time::sleep(RECONNECT).await;
            }
            Err(status) => return Err(client.explain(&status)),
        }
    }
}

async fn read(
    mut stream: tonic::Streaming<pb::WatchJobResponse>,
    format: Format,
    sequence: &mut u64,
    away: &mut u32,
) -> Result<pb::JobState, tonic::Status> {
    let mut last = pb::JobState::Unspecified;
    while let Some(message) = stream.message().await? {
        *away = 0;
        if let Some(Event::Snapshot(job) | Event::JobChanged(job) | Event::JobEnded(job)) = &message.event {
            last = job.state();
        }
        if matches!(message.event, Some(Event::TaskEnded(_) | Event::JobChanged(_) | Event::JobEnded(_))) {
            *sequence = message.sequence;
        }
        match format {
            Format::Json => {
                let json = output::json("haul.v1.WatchJobResponse", &message);
                output::line(&json.map_err(|error| tonic::Status::internal(error.to_string()))?);
            }
            Format::Text => {
                if let Some(text) = message.event.as_ref().and_then(text) {
                    output::line(&text);
                }
            }
        }
    }
    Ok(last)
}

fn text(event: &Event) -> Option<String> {
    match event {
        Event::TaskEnded(task) => Some(task_line(task)),
        Event::JobChanged(job) | Event::JobEnded(job) => {
            let counts = job.counts.unwrap_or_default();
            let failure = job.failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
            let state = output::word(job.state().as_str_name(), "JOB_STATE_");
            Some(format!("job {state}, {} of {} tasks ended well{failure}", counts.succeeded, counts.total))
        }
        Event::Progress(progress) => {
            let bytes = progress.progress.unwrap_or_default();
            let counts = progress.counts.unwrap_or_default();
            let rate = output::size(bytes.bytes_per_second);
            Some(format!("  {} of {}, {} running, {rate}/s", counts.succeeded, counts.total, counts.running))
        }
        _ => None,
    }
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
