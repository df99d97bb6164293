//! Converts the model to messages. What could hold a secret is replaced here or is not copied.

use std::time::Duration;

use crate::engine::explanation::{BACKING_OFF, JOB_PAUSED, Wait, WaitReason};
use crate::engine::feed::Active;
use crate::model::access::LOCAL_NAME;
use crate::model::counts::Counts;
use crate::model::failure::{FailureReason, TaskError};
use crate::model::failures::{FailureCount, Failures};
use crate::model::group::{GroupMode, GroupPolicy};
use crate::model::job::{Job, JobState};
use crate::model::limits::{HostLimits, Limits, RateLimit};
use crate::model::outcome::{Attempt, DownloadResult, FetchResult, Outcome, ResumeKind};
use crate::model::progress::{Held, Progress};
use crate::model::secret;
use crate::model::spec::Work;
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::model::told;
use crate::pb;
use crate::store::StoredTask;

/// Converts a job. Without a live `progress` that of the tasks that do not run stands for it.
pub(crate) fn job(job: &Job, progress: Option<Progress>, waiting: Vec<pb::WaitingTasks>) -> pb::Job {
    let progress = progress.unwrap_or_else(|| job.progress());
    let start = job.start_time.or(job.spec.start_time);
    // While the job runs, a failure is that of a task and may not become that of the job.
    let failure = job.failure.as_deref().filter(|_| job.stop.is_some() || job.state.is_ended());
    pb::Job {
        job_id: job.id.to_string(),
        title: job.spec.title.clone(),
        labels: job.spec.labels.clone().into_iter().collect(),
        state: job.state as i32,
        priority: job.spec.priority,
        group: Some(group(job.spec.group)),
        rate_limit: (job.spec.rate_limit != RateLimit::default()).then(|| rate_limit(&job.spec.rate_limit)),
        open: job.open,
        directory: job.directory(),
        counts: Some(counts(&told::counts(job.state, job.counts))),
        progress: Some(job_progress(&progress, &job.counts)),
        failure: failure.map(task_error),
        create_time: Some(timestamp(job.create_time)),
        start_time: start.map(timestamp),
        end_time: job.end_time.map(timestamp),
        update_time: Some(timestamp(job.update_time)),
        expire_time: job.expire_time().map(timestamp),
        sequence: job.sequence,
        waiting,
        failures: failures(&job.failures),
        spec: None,
        spec_tasks_omitted: false,
        tenant: job.tenant.name.to_string(),
        created_by: if job.creator.name.is_empty() { LOCAL_NAME.to_owned() } else { job.creator.name.clone() },
    }
}

/// Converts the failures of a job, the largest kind first.
pub(crate) fn failures(failures: &Failures) -> Vec<pb::FailureCount> {
    let kind = |kind: &FailureCount| pb::FailureCount {
        reason: kind.reason.map_or(pb::FailureReason::Unspecified, failure_reason).into(),
        http_status: u32::from(kind.http_status),
        host: kind.host.clone(),
        count: kind.count,
        sample_task_indexes: kind.samples.clone(),
        sample_message: kind.message.clone(),
    };
    failures.by_size().into_iter().map(kind).collect()
}

/// Converts how the tasks of a job depend on each other.
pub(crate) fn group(group: GroupPolicy) -> pb::GroupPolicy {
    let mode = match group.mode {
        GroupMode::FailFast => pb::GroupMode::FailFast,
        GroupMode::Collect => pb::GroupMode::Collect,
        GroupMode::FirstSuccess => pb::GroupMode::FirstSuccess,
    };
    pb::GroupPolicy { mode: mode.into(), max_failures: group.max_failures, max_concurrency: group.max_concurrency }
}

/// Converts a ceiling on rates.
pub(crate) fn rate_limit(limit: &RateLimit) -> pb::RateLimit {
    pb::RateLimit {
        requests_per_second: limit.requests_per_second,
        burst: limit.burst,
        bytes_per_second: limit.bytes_per_second,
    }
}

/// Converts counts.
pub(crate) fn counts(counts: &Counts) -> pb::TaskCounts {
    pb::TaskCounts {
        total: counts.total,
        pending: counts.pending,
        running: counts.running,
        backing_off: counts.backing_off,
        succeeded: counts.succeeded,
        failed: counts.failed,
        cancelled: counts.cancelled,
    }
}

/// The longest time that a `google.protobuf.Duration` has in JSON, in seconds.
const DURATION_MAX: u64 = 315_576_000_000;

/// Converts progress, and adds the time that the rest would take.
fn progress_message(progress: &Progress) -> pb::Progress {
    let left = progress.total_bytes.saturating_sub(progress.done_bytes);
    let estimate = (progress.bytes_per_second > 0 && progress.total_bytes > 0)
        .then(|| Duration::try_from_secs_f64(left as f64 / progress.bytes_per_second as f64).ok())
        .flatten()
        // What takes longer than JSON can say is not known.
        .filter(|time| time.as_secs() < DURATION_MAX);
    pb::Progress {
        bytes_done: progress.done_bytes,
        bytes_total: progress.total_bytes,
        bytes_per_second: progress.bytes_per_second,
        estimated_remaining: estimate.and_then(|it| prost_types::Duration::try_from(it).ok()),
    }
}

/// Converts the progress of a job. What its tasks that have not begun are going to bring is not known, and neither is when
/// the job ends while there are any.
pub(crate) fn job_progress(progress: &Progress, counts: &Counts) -> pb::Progress {
    let message = progress_message(progress);
    if counts.pending > 0 { pb::Progress { estimated_remaining: None, ..message } } else { message }
}

/// Converts a task as it is stored, without its log.
pub(crate) fn task(job_id: &str, task: &StoredTask) -> pb::Task {
    let moving = &task.row.task;
    let ended = moving.state.is_ended();
    let kind = match task.spec.work {
        Work::Fetch(_) => pb::TaskKind::Fetch,
        Work::Download(_) => pb::TaskKind::Download,
    };
    let error = moving.error.as_ref().map(task_error);
    let bytes = match task.row.outcome.as_deref() {
        Some(Outcome::Fetch(fetch)) => fetch.body_bytes,
        Some(Outcome::Download(download)) => download.bytes,
        None => 0,
    };
    let progress = Progress { done_bytes: bytes, total_bytes: bytes, bytes_per_second: 0 };
    pb::Task {
        job_id: job_id.to_owned(),
        task_index: task.index,
        key: task.spec.key.clone(),
        kind: kind.into(),
        url: secret::redacted_text(task.spec.work.url()),
        state: moving.state as i32,
        attempts: moving.attempts,
        next_attempt_time: moving.due.filter(|_| moving.state == TaskState::BackingOff).map(timestamp),
        start_time: moving.start_time.map(timestamp),
        end_time: moving.end_time.map(timestamp),
        progress: Some(progress_message(&progress)),
        error: error.clone().filter(|_| ended),
        last_error: error.filter(|_| !ended),
        waiting: None,
        attempt_log: Vec::new(),
        result: task.row.outcome.as_deref().map(|outcome| match outcome {
            Outcome::Fetch(fetch) => pb::task::Result::FetchResult(fetch_result(fetch)),
            Outcome::Download(download) => pb::task::Result::DownloadResult(download_result(download)),
        }),
        spec: None,
    }
}

/// Changes a task into what clients are shown of it while its job is in this state.
pub(crate) fn tell(job: JobState, message: &mut pb::Task) {
    if let Some(stored) = TaskState::from_number(message.state.into()) {
        let told = told::state(job, stored);
        message.state = told as i32;
        message.next_attempt_time = message.next_attempt_time.take().filter(|_| told == TaskState::BackingOff);
    }
}

/// Returns what the last attempt at a task without a result left for the next one.
pub(crate) fn held_progress(task: &StoredTask) -> Option<pb::Progress> {
    if task.row.outcome.is_some() || task.row.log.is_empty() {
        return None;
    }
    let Held { bytes, total_bytes } = task.row.held();
    Some(progress_message(&Progress { done_bytes: bytes, total_bytes, bytes_per_second: 0 }))
}

/// Converts a running task.
pub(crate) fn active(job_id: &str, active: &Active) -> pb::Task {
    let mut message = task(job_id, &active.task);
    message.progress = Some(active_progress(active));
    message
}

/// Converts the progress of a running task; its rate is the average since the attempt started.
pub(crate) fn active_progress(active: &Active) -> pb::Progress {
    let seconds = active.since.elapsed().as_secs_f64().max(0.001);
    progress_message(&Progress {
        done_bytes: active.meter.done(),
        total_bytes: active.meter.total(),
        bytes_per_second: (active.meter.received_bytes() as f64 / seconds) as u64,
    })
}

fn fetch_result(fetch: &FetchResult) -> pb::FetchResult {
    let header = |(name, value): &(String, String)| pb::Header {
        name: name.clone(),
        sensitive: secret::is_secret_header(name),
        value: if secret::is_secret_header(name) { secret::REDACTED.to_owned() } else { value.clone() },
    };
    pb::FetchResult {
        http_status: u32::from(fetch.http_status),
        headers: fetch.headers.iter().map(header).collect(),
        body: bytes::Bytes::new(),
        body_bytes: fetch.body_bytes,
        final_url: fetch.final_url.clone(),
        content_type: fetch.content_type.clone(),
        pages: fetch.pages,
        items: fetch.items,
        body_omitted: false,
    }
}

fn download_result(download: &DownloadResult) -> pb::DownloadResult {
    pb::DownloadResult {
        path: download.path.clone(),
        bytes: download.bytes,
        checksums: download.checksums.iter().map(ToString::to_string).collect(),
        final_url: download.final_url.clone(),
        content_type: download.content_type.clone(),
        etag: download.etag.clone(),
        last_modified: download.last_modified.clone(),
        resumed_bytes: download.resumed_bytes,
        connections: download.connections,
        skipped: download.skipped,
    }
}

/// Converts an attempt of the log.
pub(crate) fn attempt(attempt: &Attempt) -> pb::Attempt {
    let report = &attempt.report;
    pb::Attempt {
        number: attempt.number,
        start_time: Some(timestamp(attempt.start_time)),
        end_time: Some(timestamp(attempt.end_time)),
        url: report.url.clone(),
        remote_address: report.remote_address.clone(),
        http_status: u32::from(report.http_status),
        bytes: report.bytes,
        error: attempt.error.as_ref().map(task_error),
        resumed_from: report.resumed_from,
        resume: report.resume.clone(),
        resume_kind: resume_kind(report.resume_kind).into(),
    }
}

fn resume_kind(kind: ResumeKind) -> pb::AttemptResume {
    use pb::AttemptResume as P;
    match kind {
        ResumeKind::Fresh => P::Unspecified,
        ResumeKind::Continued => P::Continued,
        ResumeKind::ReceivedAgain => P::ReceivedAgain,
        ResumeKind::Complete => P::Complete,
        ResumeKind::ContentChanged => P::ContentChanged,
        ResumeKind::Unproven => P::Unproven,
        ResumeKind::UnusableAnswer => P::UnusableAnswer,
        ResumeKind::Disabled => P::Disabled,
        ResumeKind::ChecksumMismatch => P::ChecksumMismatch,
    }
}

/// Converts the error of a task, an attempt or a job.
pub(crate) fn task_error(error: &TaskError) -> pb::TaskError {
    pb::TaskError {
        reason: failure_reason(error.reason).into(),
        message: error.message.clone(),
        http_status: u32::from(error.http_status),
        retryable: error.retryable,
        attempt: error.attempt,
        task_index: error.task_index,
        url: error.url.clone(),
    }
}

/// Converts a class of failure.
pub(crate) fn failure_reason(reason: FailureReason) -> pb::FailureReason {
    use FailureReason as F;
    use pb::FailureReason as P;
    match reason {
        F::Dns => P::Dns,
        F::Connect => P::Connect,
        F::Tls => P::Tls,
        F::Proxy => P::Proxy,
        F::TimeoutConnect => P::TimeoutConnect,
        F::TimeoutHeaders => P::TimeoutHeaders,
        F::TimeoutIdle => P::TimeoutIdle,
        F::LowSpeed => P::LowSpeed,
        F::TimeoutAttempt => P::TimeoutAttempt,
        F::TimeoutTask => P::TimeoutTask,
        F::TimeoutJob => P::TimeoutJob,
        F::HttpStatus => P::HttpStatus,
        F::TooManyRedirects => P::TooManyRedirects,
        F::ForbiddenAddress => P::ForbiddenAddress,
        F::ForbiddenPath => P::ForbiddenPath,
        F::Protocol => P::Protocol,
        F::Truncated => P::Truncated,
        F::TooLarge => P::TooLarge,
        F::SizeMismatch => P::SizeMismatch,
        F::ChecksumMismatch => P::ChecksumMismatch,
        F::ContentChanged => P::ContentChanged,
        F::BadContent => P::BadContent,
        F::FileExists => P::FileExists,
        F::DiskFull => P::DiskFull,
        F::Io => P::Io,
        F::SiblingFailed => P::SiblingFailed,
        F::Cancelled => P::Cancelled,
        F::Internal => P::Internal,
        F::Credential => P::Credential,
        F::SecretEchoed => P::SecretEchoed,
    }
}

/// The reasons of failures as labels have them, in the order of [`FailureReason::ALL`].
pub(crate) fn failure_reason_labels() -> Vec<String> {
    FailureReason::ALL.map(|reason| label(failure_reason(reason).as_str_name(), "failure_reason_")).into()
}

/// The reasons to wait as labels have them, in the order of [`WaitReason::ALL`].
pub(crate) fn wait_reason_labels() -> Vec<String> {
    WaitReason::ALL.map(|reason| label(wait_reason(reason).as_str_name(), "wait_reason_")).into()
}

fn label(name: &str, prefix: &str) -> String {
    name.to_ascii_lowercase().trim_start_matches(prefix).to_owned()
}

fn wait_reason(reason: WaitReason) -> pb::WaitReason {
    use pb::WaitReason as P;
    match reason {
        WaitReason::ServerLimit => P::ServerLimit,
        WaitReason::HostLimit => P::HostLimit,
        WaitReason::JobLimit => P::JobLimit,
        WaitReason::RateLimit => P::RateLimit,
        WaitReason::HostPaused => P::HostPaused,
        WaitReason::BackingOff => P::BackingOff,
        WaitReason::StartTime => P::StartTime,
        WaitReason::JobPaused => P::JobPaused,
        WaitReason::DiskSpace => P::DiskSpace,
        WaitReason::Draining => P::Draining,
        WaitReason::TenantLimit => P::TenantLimit,
        WaitReason::TenantStorage => P::TenantStorage,
    }
}

/// Converts the reason for which something waits.
pub(crate) fn waiting(wait: &Wait) -> pb::Waiting {
    let reason = wait_reason(wait.reason);
    // `haul get` shows the same message, and has no server to ask.
    let hint = if wait.reason == WaitReason::HostPaused { "; see ListHosts" } else { "" };
    pb::Waiting { reason: reason.into(), until: wait.until.map(timestamp), message: format!("{}{hint}", wait.message) }
}

/// Says that a task backs off until its next attempt.
pub(crate) fn backing_off(due: Option<Timestamp>) -> pb::Waiting {
    waiting(&Wait { reason: WaitReason::BackingOff, until: due, message: BACKING_OFF.to_owned() })
}

/// Says that a task waits until its job is resumed.
pub(crate) fn job_paused() -> pb::Waiting {
    waiting(&Wait { reason: WaitReason::JobPaused, until: None, message: JOB_PAUSED.to_owned() })
}

/// Converts limits.
pub(crate) fn limits(limits: &Limits) -> pb::Limits {
    pb::Limits {
        max_concurrent_tasks: limits.max_concurrent_tasks,
        max_per_host: limits.max_per_host,
        requests_per_second_per_host: limits.requests_per_second_per_host,
        bytes_per_second: limits.bytes_per_second,
        hosts: limits.hosts.iter().map(host_limits).collect(),
    }
}

/// Converts the limits of one host.
pub(crate) fn host_limits(limits: &HostLimits) -> pb::HostLimits {
    pb::HostLimits {
        host: limits.host.clone(),
        max_concurrent: limits.max_concurrent,
        requests_per_second: limits.requests_per_second,
        burst: limits.burst,
        bytes_per_second: limits.bytes_per_second,
    }
}

/// Converts a point in time.
pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: (time.0.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_one_that_json_can_say() {
        let estimate = |total_bytes| {
            let progress = Progress { done_bytes: 0, total_bytes, bytes_per_second: 1 };
            progress_message(&progress).estimated_remaining.map(|time| time.seconds)
        };
        assert_eq!(estimate(400), Some(400));
        assert_eq!((estimate(400_000_000_000), estimate(u64::MAX)), (None, None));
    }
}
