//! From messages to the model, with everything that is wrong gathered on the way.

use std::collections::HashSet;
use std::time::Duration;

use crate::api::options;
use crate::api::status::Violations;
use crate::api::work;
use crate::model::group::{GroupMode, GroupPolicy};
use crate::model::ids::JobId;
use crate::model::limits::RateLimit;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::time::Timestamp;
use crate::pb;

/// Tasks that one message may bring.
pub(crate) const TASKS_MAX: usize = 10_000;
/// Bytes of a title, a key, a label.
const NAME_BYTES_MAX: usize = 256;
const LABELS_MAX: usize = 64;
/// Bytes of request ids and chunk ids.
pub(crate) const ID_BYTES_MAX: usize = 128;
/// The longest time that may be asked for: ten years, far within what timers can hold.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The highest rate that may be asked for; more is no limit.
const RATE_MAX: f64 = 1e6;

/// A job with its first tasks.
pub(crate) fn job(spec: pb::JobSpec, v: &mut Violations) -> (JobSpec, Vec<TaskSpec>) {
    text(&spec.title, "job.title", NAME_BYTES_MAX, v);
    labels(&spec.labels, "job.labels", v);
    if spec.tasks.is_empty() && !spec.open {
        v.add("job.tasks", "must hold a task, unless the job is `open`");
    }
    let directory = spec.directory;
    work::relative_path(&directory, "job.directory", v);
    let model = JobSpec {
        title: spec.title,
        labels: spec.labels.into_iter().collect(),
        open: spec.open,
        group: group(spec.group.unwrap_or_default(), "job.group", v),
        defaults: options::task_options(spec.defaults.unwrap_or_default(), "job.defaults", v),
        timeout: spec.timeout.and_then(|it| positive(it, "job.timeout", v)),
        start_time: spec.start_time.and_then(|it| timestamp(it, "job.start_time", v)),
        priority: spec.priority,
        rate_limit: rate_limit(spec.rate_limit.unwrap_or_default(), "job.rate_limit", v),
        directory,
        retention: spec.retention.and_then(|it| duration(it, "job.retention", v)),
    };
    let tasks = tasks(spec.tasks, "job.tasks", v);
    (model, tasks)
}

/// A list of tasks; keys must be unique within it.
pub(crate) fn tasks(specs: Vec<pb::TaskSpec>, path: &str, v: &mut Violations) -> Vec<TaskSpec> {
    if specs.len() > TASKS_MAX {
        v.add(
            path,
            format!("holds {} tasks; at most {TASKS_MAX} fit in one call, send more through AddTasks", specs.len()),
        );
        return Vec::new();
    }
    let mut keys = HashSet::new();
    let mut tasks = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        if v.is_full() {
            break;
        }
        let path = format!("{path}[{index}]");
        text(&spec.key, &format!("{path}.key"), NAME_BYTES_MAX, v);
        if !spec.key.is_empty() && !keys.insert(spec.key.clone()) {
            v.add(
                format!("{path}.key"),
                format!("`{}` is the key of another task; keys are unique in a job", spec.key),
            );
        }
        let options = options::task_options(spec.options.unwrap_or_default(), &format!("{path}.options"), v);
        if let Some(work) = work::work(spec.work, &path, v) {
            tasks.push(TaskSpec { key: spec.key, work, options });
        }
    }
    tasks
}

fn group(group: pb::GroupPolicy, path: &str, v: &mut Violations) -> GroupPolicy {
    let mode = match pb::GroupMode::try_from(group.mode) {
        Ok(pb::GroupMode::Unspecified | pb::GroupMode::FailFast) => GroupMode::FailFast,
        Ok(pb::GroupMode::Collect) => GroupMode::Collect,
        Ok(pb::GroupMode::FirstSuccess) => GroupMode::FirstSuccess,
        Err(_) => {
            v.add(format!("{path}.mode"), format!("{} is no GroupMode", group.mode));
            GroupMode::default()
        }
    };
    GroupPolicy { mode, max_failures: group.max_failures, max_concurrency: group.max_concurrency }
}

/// A ceiling on rates.
pub(crate) fn rate_limit(limit: pb::RateLimit, path: &str, v: &mut Violations) -> RateLimit {
    rate(limit.requests_per_second, &format!("{path}.requests_per_second"), v);
    RateLimit {
        requests_per_second: limit.requests_per_second,
        burst: limit.burst,
        bytes_per_second: limit.bytes_per_second,
    }
}

/// Checks a rate per second.
pub(crate) fn rate(rate: f64, path: &str, v: &mut Violations) {
    if !(0.0..=RATE_MAX).contains(&rate) {
        v.add(path, format!("is {rate}; a rate is from 0 (no limit) to {RATE_MAX}"));
    }
}

/// Checks labels.
pub(crate) fn labels(labels: &std::collections::HashMap<String, String>, path: &str, v: &mut Violations) {
    if labels.len() > LABELS_MAX {
        v.add(path, format!("holds {} labels; at most {LABELS_MAX}", labels.len()));
    }
    for (key, value) in labels {
        if key.is_empty() {
            v.add(path, "has a label without a name");
        }
        if key.len() > NAME_BYTES_MAX || value.len() > NAME_BYTES_MAX {
            v.add(format!("{path}[{key:.32}]"), format!("is longer than {NAME_BYTES_MAX} bytes"));
        }
    }
}

/// Checks a text for people.
pub(crate) fn text(text: &str, path: &str, bytes_max: usize, v: &mut Violations) {
    if text.len() > bytes_max {
        v.add(path, format!("is {} bytes long; at most {bytes_max}", text.len()));
    }
}

/// The name of a job.
pub(crate) fn job_id(text: &str, v: &mut Violations) -> JobId {
    text.parse().unwrap_or_else(|_| {
        v.add("job_id", format!("`{text:.64}` is no job id; one reads `01890a5d-ac96-774b-bcce-b302099a8057`"));
        JobId(uuid::Uuid::nil())
    })
}

/// As [`job_id`], where nothing else can be wrong.
pub(crate) fn only_job_id(text: &str) -> Result<JobId, tonic::Status> {
    let mut v = Violations::default();
    let id = job_id(text, &mut v);
    v.or(id)
}

/// A length of time that is not negative.
pub(crate) fn duration(value: prost_types::Duration, path: &str, v: &mut Violations) -> Option<Duration> {
    let nanos_in_range = (-999_999_999..=999_999_999).contains(&value.nanos);
    match Duration::try_from(value) {
        Ok(duration) if nanos_in_range && duration <= DURATION_MAX => Some(duration),
        Ok(_) => {
            v.add(path, "is longer than ten years");
            None
        }
        Err(_) => {
            v.add(path, "is negative or malformed; a duration here is 0 or more, as in `1.5s`");
            None
        }
    }
}

/// A length of time that is more than nothing.
pub(crate) fn positive(value: prost_types::Duration, path: &str, v: &mut Violations) -> Option<Duration> {
    let duration = duration(value, path, v)?;
    if duration.is_zero() {
        v.add(path, "is 0; leave it unset for the default");
        return None;
    }
    Some(duration)
}

/// A point in time.
pub(crate) fn timestamp(value: prost_types::Timestamp, path: &str, v: &mut Violations) -> Option<Timestamp> {
    let micros = value.seconds.checked_mul(1_000_000).and_then(|it| it.checked_add(i64::from(value.nanos) / 1000));
    let time = micros.map(Timestamp).filter(|time| (0..=Timestamp::MAX.0).contains(&time.0));
    if time.is_none() || !(0..1_000_000_000).contains(&value.nanos) {
        v.add(path, "is out of range; a time is from 1970 to 9999, as in `2026-01-31T12:00:00Z`");
        return None;
    }
    time
}
