//! Converts jobs and tasks from messages to the model, and gathers every violation on the way.

use std::collections::HashSet;
use std::fmt::Display;

use prost::Message as _;

use crate::api::options;
use crate::api::status::{Violations, shown};
use crate::api::values::{self, NAME_BYTES_MAX};
use crate::api::work;
use crate::codec::TASKS_MAX;
use crate::engine::new_tasks::NewTasks;
use crate::model::group::{GroupMode, GroupPolicy};
use crate::model::host::Host;
use crate::model::spec::{JobSpec, TaskOptions, TaskSpec};
use crate::pb;

/// The most bytes of one task as it is encoded.
const TASK_BYTES_MAX: usize = 4 << 20;
/// The most bytes of a job's defaults as they are encoded: each task of the job is run with them.
const DEFAULTS_BYTES_MAX: usize = 1 << 20;

/// Reads a job with its first tasks.
pub(crate) fn job(spec: pb::JobSpec, v: &mut Violations) -> (JobSpec, NewTasks) {
    values::text(&spec.title, &"job.title", NAME_BYTES_MAX, v);
    values::labels(&spec.labels, &"job.labels", v);
    if spec.tasks.is_empty() && !spec.open {
        v.add("job.tasks", "must hold a task, unless the job is `open`");
    }
    let directory = spec.directory;
    if directory != "." {
        work::relative_path(&directory, &"job.directory", v);
    }
    let model = JobSpec {
        title: spec.title,
        labels: spec.labels.into_iter().collect(),
        open: spec.open,
        group: group(spec.group.unwrap_or_default(), &"job.group", v),
        defaults: defaults(spec.defaults.unwrap_or_default(), &"job.defaults", v).into(),
        timeout: spec.timeout.and_then(|it| values::positive(it, &"job.timeout", v)),
        start_time: spec.start_time.and_then(|it| values::timestamp(it, &"job.start_time", v)),
        priority: spec.priority,
        rate_limit: values::rate_limit(spec.rate_limit.unwrap_or_default(), &"job.rate_limit", v),
        directory,
        retention: spec.retention.and_then(|it| values::duration(it, &"job.retention", v)),
    };
    let tasks = tasks(spec.tasks, &"job.tasks", &model.defaults, v);
    (model, tasks)
}

fn defaults(options: pb::TaskOptions, path: &dyn Display, v: &mut Violations) -> TaskOptions {
    let bytes = options.encoded_len();
    if bytes > DEFAULTS_BYTES_MAX {
        v.add(path, format!("are {bytes} bytes long; the defaults of a job are at most {DEFAULTS_BYTES_MAX}"));
        return TaskOptions::default();
    }
    let options = options::task_options(options, path, v);
    options::backoffs_fit(&TaskOptions::default(), &options, path, v);
    options
}

/// Reads a list of tasks of a job with these defaults. Keys must be unique within the list.
pub(crate) fn tasks(specs: Vec<pb::TaskSpec>, path: &dyn Display, job: &TaskOptions, v: &mut Violations) -> NewTasks {
    if specs.len() > TASKS_MAX {
        let count = specs.len();
        v.add(path, format!("holds {count} tasks; at most {TASKS_MAX} fit into one call, add more to an open job"));
        return NewTasks::default();
    }
    let mut keys = HashSet::new();
    let mut tasks = NewTasks::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let path = format_args!("{path}[{index}]");
        if !spec.key.is_empty() && !keys.insert(spec.key.clone()) {
            let key = shown(&spec.key);
            v.add(format!("{path}.key"), format!("`{key}` is the key of another task; keys are unique in a job"));
        }
        if let Some((spec, host)) = task(spec, &path, job, v) {
            tasks.add(spec, host);
        }
    }
    tasks
}

fn task(
    spec: pb::TaskSpec,
    path: &dyn Display,
    job: &TaskOptions,
    v: &mut Violations,
) -> Option<(TaskSpec, Option<Host>)> {
    let bytes = spec.encoded_len();
    if bytes > TASK_BYTES_MAX {
        v.add(path, format!("is {bytes} bytes long; one task is at most {TASK_BYTES_MAX}"));
        return None;
    }
    values::text(&spec.key, &format_args!("{path}.key"), NAME_BYTES_MAX, v);
    let options_path = format_args!("{path}.options");
    let options = options::task_options(spec.options.unwrap_or_default(), &options_path, v);
    options::backoffs_fit(job, &options, &options_path, v);
    if matches!(spec.work, Some(pb::task_spec::Work::Download(_))) {
        options::no_range(job, &options, path, v);
    }
    let (work, host) = work::work(spec.work, path, v)?;
    Some((TaskSpec { key: spec.key, work, options: options.into() }, host))
}

fn group(group: pb::GroupPolicy, path: &dyn Display, v: &mut Violations) -> GroupPolicy {
    let mode = match pb::GroupMode::try_from(group.mode) {
        Ok(pb::GroupMode::Unspecified | pb::GroupMode::FailFast) => GroupMode::FailFast,
        Ok(pb::GroupMode::Collect) => GroupMode::Collect,
        Ok(pb::GroupMode::FirstSuccess) => GroupMode::FirstSuccess,
        Err(_) => {
            v.add(format!("{path}.mode"), format!("{} is not a GroupMode", group.mode));
            GroupMode::default()
        }
    };
    GroupPolicy { mode, max_failures: group.max_failures, max_concurrency: group.max_concurrency }
}
