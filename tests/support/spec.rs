//! Jobs and tasks in few words.

use std::time::Duration;

use haul::pb;

pub fn fetch(url: impl Into<String>) -> pb::TaskSpec {
    task(pb::task_spec::Work::Fetch(pb::FetchSpec { url: url.into(), ..Default::default() }))
}

pub fn download(url: impl Into<String>) -> pb::TaskSpec {
    task(pb::task_spec::Work::Download(pb::DownloadSpec { url: url.into(), ..Default::default() }))
}

pub fn download_as(spec: pb::DownloadSpec) -> pb::TaskSpec {
    task(pb::task_spec::Work::Download(spec))
}

pub fn fetch_as(spec: pb::FetchSpec) -> pb::TaskSpec {
    task(pb::task_spec::Work::Fetch(spec))
}

fn task(work: pb::task_spec::Work) -> pb::TaskSpec {
    pb::TaskSpec { work: Some(work), ..Default::default() }
}

/// A job of these tasks that tries again quickly.
pub fn job(tasks: Vec<pb::TaskSpec>) -> pb::JobSpec {
    let defaults = pb::TaskOptions { retry: Some(quick_retry(5)), ..Default::default() };
    pb::JobSpec { tasks, defaults: Some(defaults), ..Default::default() }
}

pub fn group(mode: pb::GroupMode, max_failures: u32) -> pb::GroupPolicy {
    pb::GroupPolicy { mode: mode.into(), max_failures, max_concurrency: 0 }
}

pub fn quick_retry(max_attempts: u32) -> pb::RetryPolicy {
    pb::RetryPolicy {
        max_attempts: Some(max_attempts),
        initial_backoff: Some(millis(10)),
        max_backoff: Some(millis(50)),
        ..Default::default()
    }
}

pub fn once() -> pb::TaskOptions {
    pb::TaskOptions { retry: Some(quick_retry(1)), ..Default::default() }
}

pub fn with_timeouts(timeouts: pb::Timeouts) -> pb::TaskOptions {
    pb::TaskOptions { timeouts: Some(timeouts), ..once() }
}

pub fn millis(millis: u64) -> prost_types::Duration {
    Duration::from_millis(millis).try_into().unwrap()
}
