//! Finds the job or the task that a request names, and adds what is known of it while it runs.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::api::access::caller::{Caller, Reach};
use crate::api::status::{Violations, not_found};
use crate::api::to_proto;
use crate::api::values;
use crate::engine::feed::Feed;
use crate::engine::handle::Engine;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::Job;
use crate::model::task::TaskState;
use crate::pb;
use crate::store::{Store, StoredTask};

/// How old the reasons may be for which tasks of a job wait, where somebody asks for the job.
const WAITS_AGE: Duration = Duration::from_millis(100);

/// How a request names a task.
pub(crate) enum TaskName {
    Index(u32),
    Key(String),
}

macro_rules! task_names {
    ($($request:ident),*) => {$(
        impl From<pb::$request::Task> for TaskName {
            fn from(name: pb::$request::Task) -> TaskName {
                match name {
                    pb::$request::Task::TaskIndex(index) => TaskName::Index(index),
                    pb::$request::Task::TaskKey(key) => TaskName::Key(key),
                }
            }
        }
    )*};
}

task_names!(get_task_request, read_content_request, stream_items_request);

/// Returns the task that a request names, as it is kept, and its job, where the caller may look at it.
pub(crate) async fn task(
    store: &dyn Store,
    engine: &Engine,
    caller: &Caller,
    job_id: &str,
    name: Option<impl Into<TaskName>>,
) -> Result<(JobId, StoredTask), Status> {
    let mut v = Violations::default();
    let job = values::job_id(job_id, &mut v);
    let name = name.map(Into::into);
    if name.is_none() {
        v.add("task_index", "or `task_key` must be set");
    }
    let name = v.or(name)?.unwrap_or(TaskName::Index(0));
    caller.reach(engine, job, Reach::Look).await?;
    engine.job(job).await?;
    let (found, text) = match name {
        TaskName::Index(index) => (store.task(TaskId { job, index }).await?, format!("{job}/{index}")),
        TaskName::Key(key) => (store.task_by_key(job, &key).await?, format!("{job}/{key}")),
    };
    found.map(|task| (job, task)).ok_or_else(|| not_found("task", &text))
}

/// Returns a job with its live progress, without why its tasks wait.
pub(crate) fn live_job(job: &Job, feed: Option<&Arc<Feed>>) -> pb::Job {
    to_proto::job(job, feed.map(|feed| feed.progress()), Vec::new())
}

/// As [`live_job`], for a list: of what failed only the largest kind.
pub(crate) fn listed_job(job: &Job, feed: Option<&Arc<Feed>>) -> pb::Job {
    let mut message = live_job(job, feed);
    message.failures.truncate(1);
    message
}

/// Returns a job with its live progress and why its tasks wait, which is left out where the scheduler does not say it within
/// `patience`.
pub(crate) async fn explained_job(engine: &Engine, job: &Job, patience: Option<Duration>) -> pb::Job {
    let feed = engine.hub().feed(job.id);
    let mut message = live_job(job, feed.as_ref());
    if feed.is_some() {
        message.waiting = waits(engine, job, WAITS_AGE, patience).await;
    }
    message
}

/// Returns why the tasks of a job that has not ended wait, one entry a reason,
/// as that was found at most `age` ago, or is within `patience`.
pub(crate) async fn waits(
    engine: &Engine,
    job: &Job,
    age: Duration,
    patience: Option<Duration>,
) -> Vec<pb::WaitingTasks> {
    let mut waits = Vec::new();
    let waiting = job.counts.pending + job.counts.backing_off;
    if waiting == 0 {
        return waits;
    }
    let Ok(explanation) = engine.explain_job(job, age, patience).await else { return waits };
    if let Some(wait) = &explanation.job {
        waits.push(pb::WaitingTasks { waiting: Some(to_proto::waiting(wait)), tasks: waiting });
        return waits;
    }
    // How many tasks of a lane are in the store is not always known, so those of the job are shared out by what is.
    let seen: u64 = explanation.lanes.iter().map(|(_, count)| u64::from(*count)).sum();
    for (wait, count) in &explanation.lanes {
        let tasks = (u64::from(*count) * u64::from(job.counts.pending) / seen.max(1)) as u32;
        waits.push(pb::WaitingTasks { waiting: Some(to_proto::waiting(wait)), tasks: tasks.max(1) });
    }
    if job.counts.backing_off > 0 {
        let waiting = pb::Waiting {
            reason: pb::WaitReason::BackingOff.into(),
            until: None,
            message: "their next attempts are not due yet".to_owned(),
        };
        waits.push(pb::WaitingTasks { waiting: Some(waiting), tasks: job.counts.backing_off });
    }
    waits
}

/// Returns tasks with the live progress of those that run and the reasons for which the others wait.
pub(crate) async fn live_tasks(engine: &Engine, job: JobId, tasks: &[StoredTask]) -> Vec<pb::Task> {
    let job_id = job.to_string();
    let mut messages: Vec<pb::Task> = tasks.iter().map(|task| to_proto::task(&job_id, task)).collect();
    // Events do not have it: what was held at an end is not kept for their replay.
    for (task, message) in tasks.iter().zip(&mut messages) {
        message.progress = to_proto::held_progress(task).or(message.progress.take());
    }
    let Some(feed) = engine.hub().feed(job) else { return messages };
    let waits = |task: &StoredTask| matches!(task.row.task.state, TaskState::Pending | TaskState::BackingOff);
    let waiting: Vec<_> = tasks.iter().filter(|task| waits(task)).map(|task| (task.index, task.lane)).collect();
    let explanation = if waiting.is_empty() { None } else { engine.explain(job, waiting).await.ok() };
    let state = feed.job().state;
    for message in &mut messages {
        to_proto::tell(state, message);
    }
    for (task, message) in tasks.iter().zip(&mut messages) {
        let moving = &task.row.task;
        if let Some(active) = feed.active_task(task.index).filter(|_| moving.state == TaskState::Running) {
            message.progress = Some(to_proto::active_progress(&active));
        } else if let Some(explanation) = explanation.as_ref().filter(|_| waits(task)) {
            message.waiting = explanation.task(task.index).map(to_proto::waiting);
        }
    }
    messages
}
