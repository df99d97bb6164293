//! What the server counts about itself, and how that is written for Prometheus.
//!
//! Whoever does something counts it in [`Metrics`], which is one struct of atomics for the whole process; what can be asked
//! for is asked for at a scrape ([`page::Gauges`]). No id, URL or key is ever a label: the number of series depends on the
//! version and on the configured hosts, and not on what is submitted.
//!
//! This knows nothing of jobs: the values of labels are handed in by place.

pub mod page;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

pub use crate::telemetry::metrics::parts::{Count, Counts, Level, Spread};

/// Bounds of durations of attempts, in nanoseconds: 5 ms to 2 h.
const ATTEMPT_TIMES: &[u64] = &[
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    2_500 * MS,
    5 * S,
    10 * S,
    30 * S,
    60 * S,
    300 * S,
    900 * S,
    3_600 * S,
    7_200 * S,
];
/// Bounds of waits for a turn.
const WAIT_TIMES: &[u64] = &[MS, 10 * MS, 100 * MS, S, 10 * S, 60 * S, 600 * S, 3_600 * S, 24 * 3_600 * S];
/// Bounds of what is quick.
const SHORT_TIMES: &[u64] =
    &[100 * US, 500 * US, MS, 2_500 * US, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, S, 5 * S];
/// Bounds of the durations of calls.
const CALL_TIMES: &[u64] = &[500 * US, MS, 5 * MS, 10 * MS, 50 * MS, 100 * MS, 500 * MS, S, 10 * S, 60 * S];
/// Bounds of the sizes of commits.
const COMMIT_SIZES: &[u64] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536];

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// The codes of calls, by number.
pub(in crate::telemetry) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The values of labels that others have the lists of.
#[derive(Clone, Debug, Default)]
pub struct LabelValues {
    /// Reasons of failures, in the order of their places.
    pub failure_reasons: Vec<String>,
    /// Reasons to wait, in the order of their places.
    pub wait_reasons: Vec<String>,
    /// Methods, as `Service/Method`.
    pub methods: Vec<String>,
    /// Hosts that have series of their own, as configured: `name` or `name:port`.
    pub hosts: Vec<String>,
}

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A response is kept.
    Fetch,
    /// Bytes go to a file.
    Download,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The values of the label.
pub enum AttemptOutcome {
    Succeeded,
    Failed,
    GivenBack,
}

/// How a task or a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The values of the label.
pub enum End {
    Succeeded,
    Failed,
    Cancelled,
}

/// What came of a try to connect to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The values of the label.
pub enum Connect {
    Ok,
    Dns,
    Connect,
    Tls,
    Proxy,
    Timeout,
}

/// What there is of each kind of task.
#[derive(Debug)]
pub struct OfKind<T>([T; 2]);

impl<T> OfKind<T> {
    fn new(make: impl Fn() -> T) -> OfKind<T> {
        OfKind([make(), make()])
    }

    /// Returns that of one kind.
    pub fn of(&self, kind: Kind) -> &T {
        &self.0[kind as usize]
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        ["fetch", "download"].into_iter().zip(&self.0)
    }
}

/// The calls of one method.
#[derive(Debug)]
pub struct Calls {
    name: String,
    by_code: [Count; 17],
    times: Spread,
    open: Level,
}

impl Calls {
    fn new(name: String) -> Calls {
        Calls { name, by_code: Default::default(), times: Spread::of_times(CALL_TIMES), open: Level::default() }
    }

    /// Notes that a call has begun.
    pub fn begins(&self) {
        self.open.up();
    }

    /// Notes that a call has ended.
    pub fn ends(&self, code: Code, time: Duration) {
        self.open.down();
        if let Some(count) = self.by_code.get(code as usize) {
            count.add(1);
        }
        self.times.see_time(time);
    }
}

/// What is counted of a host that has series of its own.
#[derive(Debug)]
pub struct HostCounts {
    name: String,
    /// Body bytes that came from it.
    pub received: Arc<Count>,
    /// Attempts that failed at it.
    pub failures: Count,
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The names of the series.
pub struct AttemptSeen {
    pub kind: Kind,
    pub outcome: AttemptOutcome,
    pub time: Duration,
    /// The place of the reason of its failure.
    pub failure_reason: Option<usize>,
    pub resumed_bytes: u64,
    pub discarded_bytes: u64,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    words: LabelValues,
    jobs_ended: Counts,
    tasks_ended: OfKind<Counts>,
    attempts: OfKind<Counts>,
    attempt_times: OfKind<Spread>,
    failures: Counts,
    queue_waits: Spread,
    /// Body bytes that came from origins.
    pub received: OfKind<Arc<Count>>,
    resumed: Count,
    discarded: Count,
    responses: Counts,
    connects: Counts,
    commit_times: Spread,
    commit_changes: Spread,
    loop_lags: Spread,
    calls: Box<[Calls]>,
    other_calls: Calls,
    spans: Counts,
    hosts: Box<[HostCounts]>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new(LabelValues::default())
    }
}

impl Metrics {
    /// Makes metrics that have counted nothing.
    pub fn new(words: LabelValues) -> Metrics {
        let ends = || Counts::new(["succeeded", "failed", "cancelled"]);
        let host =
            |name: &String| HostCounts { name: name.clone(), received: Arc::default(), failures: Count::default() };
        Metrics {
            jobs_ended: ends(),
            tasks_ended: OfKind::new(ends),
            attempts: OfKind::new(|| Counts::new(["succeeded", "failed", "given_back"])),
            attempt_times: OfKind::new(|| Spread::of_times(ATTEMPT_TIMES)),
            failures: Counts::new(words.failure_reasons.iter().map(String::as_str)),
            queue_waits: Spread::of_times(WAIT_TIMES),
            received: OfKind::new(Arc::default),
            resumed: Count::default(),
            discarded: Count::default(),
            responses: Counts::new(["1xx", "2xx", "3xx", "4xx", "5xx"]),
            connects: Counts::new(["ok", "dns", "connect", "tls", "proxy", "timeout"]),
            commit_times: Spread::of_times(SHORT_TIMES),
            commit_changes: Spread::of_numbers(COMMIT_SIZES),
            loop_lags: Spread::of_times(SHORT_TIMES),
            calls: words.methods.iter().cloned().map(Calls::new).collect(),
            other_calls: Calls::new("other".to_owned()),
            spans: Counts::new(["sent", "lost"]),
            hosts: words.hosts.iter().map(host).collect(),
            words,
        }
    }

    /// Names the method at a place; `None` for those that have none of their own.
    pub fn method(&self, place: usize) -> Option<&str> {
        self.calls.get(place).map(|calls| calls.name.as_str())
    }

    /// Returns how many spans were sent and lost.
    #[cfg(test)]
    pub(crate) fn spans(&self) -> [u64; 2] {
        let mut counts = self.spans.iter().map(|(_, count)| count);
        [counts.next(), counts.next()].map(Option::unwrap_or_default)
    }

    /// Names a reason of a failure, by its place among the labels.
    pub fn failure_reason(&self, place: usize) -> Option<&str> {
        self.words.failure_reasons.get(place).map(String::as_str)
    }

    /// Counts spans that the collector took.
    pub fn spans_sent(&self, count: u64) {
        self.spans.add_many(0, count);
    }

    /// Counts spans that nobody took.
    pub fn spans_lost(&self, count: u64) {
        self.spans.add_many(1, count);
    }

    /// Counts a job that has ended.
    pub fn job_ended(&self, end: End) {
        self.jobs_ended.add(end as usize);
    }

    /// Counts tasks that have ended.
    pub fn tasks_ended(&self, kind: Kind, end: End, count: u64) {
        self.tasks_ended.of(kind).add_many(end as usize, count);
    }

    /// Counts an attempt that has ended.
    pub fn attempt_ended(&self, attempt: AttemptSeen) {
        self.attempts.of(attempt.kind).add(attempt.outcome as usize);
        self.attempt_times.of(attempt.kind).see_time(attempt.time);
        if let Some(place) = attempt.failure_reason {
            self.failures.add(place);
        }
        self.resumed.add(attempt.resumed_bytes);
        self.discarded.add(attempt.discarded_bytes);
    }

    /// Counts a task that has started, so long after it could.
    pub fn task_started(&self, waited: Duration) {
        self.queue_waits.see_time(waited);
    }

    /// Counts an answer of an origin by its status.
    pub fn answered(&self, status: u16) {
        self.responses.add(usize::from(status / 100).wrapping_sub(1));
    }

    /// Counts a try to connect.
    pub fn connected(&self, result: Connect) {
        self.connects.add(result as usize);
    }

    /// Counts a commit of so many changes.
    pub fn committed(&self, changes: usize, time: Duration) {
        self.commit_times.see_time(time);
        self.commit_changes.see(changes as u64);
    }

    /// Notes how long a turn of the engine's loop took, since what came meanwhile waited for its end.
    pub fn looped(&self, time: Duration) {
        self.loop_lags.see_time(time);
    }

    /// Returns the place of a method among those that are counted by name; what has no name has a place behind them.
    pub fn place(&self, method: &str) -> usize {
        self.calls.iter().position(|calls| calls.name == method).unwrap_or(usize::MAX)
    }

    /// Returns where the calls of the method with this place are counted.
    pub fn calls_at(&self, place: usize) -> &Calls {
        self.calls.get(place).unwrap_or(&self.other_calls)
    }

    /// Returns what is counted of a host, which is given with its port and without. `None`: it has no series of its own.
    pub fn host(&self, host: &str, name: &str) -> Option<&HostCounts> {
        self.hosts.iter().find(|own| own.name == host || own.name == name)
    }

    /// Returns the hosts that have series of their own, as configured.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }

    /// Returns the open calls of a method.
    fn open(&self, method: &str) -> u64 {
        self.calls_at(self.place(method)).open.value()
    }
}
