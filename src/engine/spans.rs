//! What a collector of traces is told of attempts and jobs, and what origins are told of the trace that they are asked in.

use crate::engine::attempt::Ended;
use crate::engine::figures;
use crate::engine::queue::task::Running;
use crate::model::failure::TaskError;
use crate::model::ids::{Fence, TaskId};
use crate::model::job::Job;
use crate::model::secret::{Secret, redacted_text};
use crate::model::spec::{HeaderSpec, Options, TaskSpec, Work};
use crate::model::task::TaskEvent;
use crate::model::time::Timestamp;
use crate::model::trace::{TRACEPARENT, TraceParent};
use crate::telemetry::metrics::AttemptSeen;
use crate::telemetry::traces::{AttemptSpan, JobSpan, Traces};

/// Tells of an attempt that ended and meant `event` for its task, which is still as it ran.
pub(crate) fn attempt(
    traces: &Traces,
    job: &Job,
    running: &Running,
    ended: &Ended,
    (event, seen): (&TaskEvent, AttemptSeen),
    now: Timestamp,
) {
    let place = TraceParent::of_job(job.id, job.caller.as_deref().copied(), true);
    // Nothing is made of what nobody records.
    if !place.is_sampled {
        return;
    }
    let (method, url) = match &running.spec.work {
        Work::Fetch(fetch) => (fetch.method.as_str(), &fetch.url),
        Work::Download(download) => ("GET", &download.url),
    };
    let failure = match event {
        TaskEvent::Failed(_, error) | TaskEvent::BackedOff(_, error, _) => Some(failure(error)),
        _ => None,
    };
    traces.attempt(AttemptSpan {
        place: place.of_attempt(ended.id, ended.fence),
        parent: place.span,
        task: ended.id,
        tasks_of_job: job.counts.total,
        number: running.row.task.attempts,
        kind: seen.kind,
        outcome: seen.outcome,
        method: if method.is_empty() { "GET" } else { method },
        url: &redacted_text(url),
        report: &ended.report,
        failure,
        start: running.attempt_start,
        end: now,
    });
}

/// Tells of a job that ended.
pub(crate) fn job(traces: &Traces, job: &Job) {
    let counts = &job.counts;
    traces.job(JobSpan {
        place: TraceParent::of_job(job.id, job.caller.as_deref().copied(), true),
        parent: job.caller.as_ref().map(|caller| caller.span),
        id: job.id,
        end_state: figures::job_end(job.state),
        tasks: [counts.succeeded, counts.failed, counts.cancelled],
        failure: job.failure.as_deref().map(failure),
        start: job.create_time,
        end: job.end_time.unwrap_or(job.update_time),
    });
}

fn failure(error: &TaskError) -> (usize, String) {
    (figures::place(error.reason), error.message.clone())
}

/// Returns the options of an attempt, with the header by which origins know its trace where that is asked for. Requests to
/// other origins than the task's own have none of its headers. `is_recorded`: a collector is told of the attempt.
pub(crate) fn options(job: &Job, spec: &TaskSpec, task: TaskId, fence: Fence, is_recorded: bool) -> Options {
    let mut options = Options::of(&job.spec.defaults, spec);
    if options.http.propagate_trace == Some(true) {
        propagate(&mut options, job, task, fence, is_recorded);
    }
    options
}

fn propagate(options: &mut Options, job: &Job, task: TaskId, fence: Fence, is_recorded: bool) {
    let headers = &mut options.http.headers;
    // What the client says itself is sent.
    if headers.iter().any(|header| header.name.eq_ignore_ascii_case(TRACEPARENT)) {
        return;
    }
    let place = TraceParent::of_job(job.id, job.caller.as_deref().copied(), is_recorded).of_attempt(task, fence);
    let value = Secret::new(place.to_string());
    headers.push(HeaderSpec { name: TRACEPARENT.to_owned(), value, sensitive: false });
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::ids::JobId;
    use crate::model::spec::{DownloadSpec, HttpOptions, JobSpec, TaskOptions};

    #[test]
    fn origins_know_the_trace_where_that_is_asked_for() {
        let id = JobId(Uuid::from_u128(7));
        let mut job = Job::new(id, JobSpec::default(), 1, Timestamp(1));
        let task = TaskId { job: id, index: 0 };
        let sent = |job: &Job, ask: Option<bool>, own: Option<&str>| {
            let own = own.map(|value| HeaderSpec {
                name: "Traceparent".to_owned(),
                value: Secret::new(value),
                sensitive: false,
            });
            let http =
                HttpOptions { propagate_trace: ask, headers: own.into_iter().collect(), ..HttpOptions::default() };
            let work = Work::Download(DownloadSpec::default());
            let options = TaskOptions { http, ..TaskOptions::default() };
            let spec = TaskSpec { key: String::new(), work, options: options.into() };
            let options = super::options(job, &spec, task, 3, false);
            options.http.headers.iter().map(|header| header.value.expose().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(sent(&job, None, None), [""; 0]);
        assert_eq!(sent(&job, Some(false), None), [""; 0]);
        assert_eq!(sent(&job, Some(true), Some("own")), ["own"]);
        let span = TraceParent::of_job(id, None, false).of_attempt(task, 3).span;
        assert_eq!(sent(&job, Some(true), None), [format!("00-{:032x}-{span:016x}-00", 7)]);
        job.caller = Some(Box::new(TraceParent { trace: 9, span: 1, is_sampled: true }));
        assert_eq!(sent(&job, Some(true), None), [format!("00-{:032x}-{span:016x}-01", 9)]);
    }
}
