//! Traces: spans of calls, jobs and attempts, sent to a collector by OTLP when the environment names one.
//!
//! A span is built once, when what it is about ends, from the record that is there anyway: nothing is noted while work runs,
//! so that the work costs nothing where no collector is named. Whoever hands a span over never waits: what the queue does
//! not take, or the collector does not, is lost and counted.

mod sender;
mod span;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

use crate::model::ids::JobId;
use crate::telemetry::metrics::Metrics;

pub use sender::{Sender, TracesError, check};
pub use span::{AttemptSpan, CallSpan, JobSpan};

/// Spans that wait for the sender. Each takes at most about 4 KiB, since texts in it are cut.
const QUEUE_MAX: usize = 4096;
/// The part of the queue that calls may fill, so that a flood of them does not push out the spans of work.
const CALLS_MAX: usize = QUEUE_MAX / 2;
/// A job of more tasks has so many spans of failed attempts at most, and of others a share.
const WHOLE_TASKS_MAX: u32 = 1_000;
/// See [`WHOLE_TASKS_MAX`].
const FAILURES_MAX: u32 = 1_000;

/// Takes spans. Nothing in it waits.
#[derive(Debug)]
pub struct Traces {
    queue: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    /// Of how many attempts of a large job that did not fail there is a span, from 0 to 1.
    ratio: f64,
    /// How many failed attempts have a span, of large jobs that have not ended.
    failures: Mutex<HashMap<JobId, u32>>,
}

impl Traces {
    /// Makes what takes spans, and what sends them: `None` where the environment names no collector. Calls for a runtime.
    ///
    /// # Errors
    /// When the environment asks for what cannot be done.
    pub fn start(ratio: f64, metrics: Arc<Metrics>) -> Result<Option<(Arc<Traces>, Sender)>, TracesError> {
        let Some(exporter) = sender::exporter()? else { return Ok(None) };
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let sender = Sender::new(exporter, spans, metrics.clone());
        Ok(Some((Arc::new(Traces { queue, metrics, ratio, failures: Mutex::default() }), sender)))
    }

    /// Takes an attempt that has ended.
    pub fn attempt(&self, attempt: AttemptSpan<'_>) {
        if self.is_kept(&attempt) {
            self.hand_over(attempt.into_data(&self.metrics), 0);
        }
    }

    /// Takes a job that has ended.
    pub fn job(&self, job: JobSpan) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.id);
        if job.place.is_sampled {
            self.hand_over(job.into_data(&self.metrics), 0);
        }
    }

    /// Takes a call that has ended.
    pub fn call(&self, call: CallSpan<'_>) {
        if call.place.is_sampled {
            self.hand_over(call.into_data(), QUEUE_MAX - CALLS_MAX);
        }
    }

    /// Whether there is to be a span of an attempt. Chance has no part in it: the same attempt is judged the same.
    fn is_kept(&self, attempt: &AttemptSpan<'_>) -> bool {
        if !attempt.place.is_sampled {
            return false;
        }
        if attempt.tasks_of_job <= WHOLE_TASKS_MAX {
            return true;
        }
        if attempt.failure.is_none() {
            return (attempt.place.span as f64) < self.ratio * u64::MAX as f64;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let told = failures.entry(attempt.task.job).or_default();
        *told = told.saturating_add(1);
        *told <= FAILURES_MAX
    }

    /// Queues a span where more than `spare` places are free.
    fn hand_over(&self, span: SpanData, spare: usize) {
        if self.queue.capacity() <= spare || self.queue.try_send(span).is_err() {
            self.metrics.spans_lost(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::ids::TaskId;
    use crate::model::outcome::AttemptReport;
    use crate::model::time::Timestamp;
    use crate::model::trace::TraceParent;
    use crate::telemetry::metrics::{AttemptOutcome, Kind, LabelValues};

    fn traces(ratio: f64) -> (Traces, mpsc::Receiver<SpanData>) {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let words = LabelValues { failure_reasons: vec!["dns".to_owned()], ..LabelValues::default() };
        let metrics = Arc::new(Metrics::new(words));
        (Traces { queue, metrics, ratio, failures: Mutex::default() }, spans)
    }

    fn attempt(index: u32, tasks_of_job: u32, fails: bool, is_sampled: bool) -> AttemptSpan<'static> {
        static REPORT: std::sync::LazyLock<AttemptReport> = std::sync::LazyLock::new(AttemptReport::default);
        let task = TaskId { job: JobId(Uuid::from_u128(5)), index };
        AttemptSpan {
            place: TraceParent::of_job(task.job, None, is_sampled).of_attempt(task, 1),
            parent: 1,
            task,
            tasks_of_job,
            number: 1,
            kind: Kind::Fetch,
            outcome: if fails { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded },
            method: "GET",
            url: "https://a.example/",
            report: &REPORT,
            failure: fails.then(|| (0, "no such name".to_owned())),
            start: Timestamp(1),
            end: Timestamp(2),
        }
    }

    fn count(spans: &mut mpsc::Receiver<SpanData>) -> usize {
        std::iter::from_fn(|| spans.try_recv().ok()).count()
    }

    #[test]
    fn of_large_jobs_there_is_a_share() {
        let (traces, mut spans) = traces(0.1);
        (0..1_000).for_each(|index| traces.attempt(attempt(index, 1_000, index % 2 == 0, true)));
        assert_eq!(count(&mut spans), 1_000, "all of a small job");
        (0..1_500).for_each(|index| traces.attempt(attempt(index, 1_500, true, true)));
        assert_eq!(count(&mut spans), 1_000, "failures of a large one");
        (0..2_000).for_each(|index| traces.attempt(attempt(index, 2_000, false, true)));
        let share = count(&mut spans);
        assert!((100..300).contains(&share), "{share}");
        traces.attempt(attempt(0, 1, true, false));
        assert_eq!(count(&mut spans), 0, "whoever began the trace does not record it");
        assert_eq!(traces.metrics.spans(), [0, 0]);
    }

    #[test]
    fn what_has_no_room_is_counted_and_calls_leave_some() {
        let (traces, mut spans) = traces(1.0);
        let place = TraceParent { trace: 1, span: 2, is_sampled: true };
        let call = || CallSpan {
            place,
            parent: None,
            method: "JobService/GetJob",
            code: tonic::Code::Ok,
            start: Timestamp(1),
            end: Timestamp(2),
        };
        (0..CALLS_MAX + 10).for_each(|_| traces.call(call()));
        (0..CALLS_MAX as u32 + 5).for_each(|index| traces.attempt(attempt(index, 1, false, true)));
        assert_eq!(traces.metrics.spans(), [0, 15]);
        assert_eq!(count(&mut spans), QUEUE_MAX);
    }
}
