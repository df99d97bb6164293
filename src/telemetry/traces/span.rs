//! What a span says, in the words of OpenTelemetry's semantic conventions. No secret is in it: URLs come as answers show them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;
use url::Url;

use crate::model::ids::{JobId, TaskId};
use crate::model::outcome::{AttemptReport, ResumeKind};
use crate::model::text;
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::telemetry::metrics::{AttemptOutcome, CODES, End, Kind, Metrics};

/// The most bytes of a text in a span.
const TEXT_BYTES_MAX: usize = 1024;

/// An attempt that has ended.
#[derive(Debug)]
pub struct AttemptSpan<'a> {
    /// Its place in the trace of its job.
    pub place: TraceParent,
    /// The span of its job.
    pub parent: u64,
    /// Its task.
    pub task: TaskId,
    /// How many tasks that task's job has.
    pub tasks_of_job: u32,
    /// Which attempt it was, from 1.
    pub number: u32,
    /// What it was at.
    pub kind: Kind,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The method of its request.
    pub method: &'a str,
    /// The URL of its task, as answers show it.
    pub url: &'a str,
    /// What it saw on its way.
    pub report: &'a AttemptReport,
    /// The place of the reason among the labels of failures, and the message, where it failed.
    pub failure: Option<(usize, String)>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
}

/// A job that has ended.
#[derive(Debug)]
pub struct JobSpan {
    /// Its place in the trace.
    pub place: TraceParent,
    /// Where its caller stood.
    pub parent: Option<u64>,
    /// The job.
    pub id: JobId,
    /// How it ended.
    pub end_state: End,
    /// How its tasks ended: succeeded, failed, cancelled.
    pub tasks: [u32; 3],
    /// As [`AttemptSpan::failure`].
    pub failure: Option<(usize, String)>,
    /// When it was acknowledged.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
}

/// A call that has ended.
#[derive(Debug)]
pub struct CallSpan<'a> {
    /// Its place in the trace.
    pub place: TraceParent,
    /// Where its caller stood.
    pub parent: Option<u64>,
    /// `Service/Method`.
    pub method: &'a str,
    /// How it ended.
    pub code: Code,
    /// When it came.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
}

/// What all spans have.
struct Frame {
    name: Cow<'static, str>,
    kind: SpanKind,
    place: TraceParent,
    parent: Option<u64>,
    is_remote: bool,
    start: Timestamp,
    end: Timestamp,
}

impl Frame {
    fn with(self, attributes: Vec<KeyValue>, status: Status) -> SpanData {
        let Frame { name, kind, place, parent, is_remote, start, end } = self;
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(place.trace),
                SpanId::from(place.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: is_remote && parent.is_some(),
            span_kind: kind,
            name,
            start_time: time(start),
            end_time: time(end.max(start)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: scope(),
        }
    }
}

/// Who says it.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("haul").with_version(env!("CARGO_PKG_VERSION")).build()
}

fn time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or(0))
}

/// A text of others, cut, with nothing in it that a terminal obeys: traces are read on terminals, too.
fn cut(value: &str) -> String {
    text::cut(text::plain(value).chars(), TEXT_BYTES_MAX)
}

fn text_of(key: &'static str, value: &str) -> KeyValue {
    KeyValue::new(key, cut(value))
}

fn number(key: &'static str, value: u64) -> KeyValue {
    KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
}

/// The class of a failure, and the status that says it.
fn failed(attributes: &mut Vec<KeyValue>, failure: Option<(usize, String)>, metrics: &Metrics) -> Status {
    let Some((reason, message)) = failure else { return Status::Unset };
    attributes.push(text_of("error.type", metrics.failure_reason(reason).unwrap_or("internal")));
    Status::error(cut(&message))
}

impl AttemptSpan<'_> {
    pub(super) fn into_data(self, metrics: &Metrics) -> SpanData {
        let report = self.report;
        let url = if report.url.is_empty() { self.url } else { &report.url };
        let mut attributes = vec![
            text_of("haul.job_id", &self.task.job.0.to_string()),
            number("haul.task_index", self.task.index.into()),
            number("haul.attempt", self.number.into()),
            KeyValue::new(
                "haul.kind",
                match self.kind {
                    Kind::Fetch => "fetch",
                    Kind::Download => "download",
                },
            ),
            KeyValue::new(
                "haul.outcome",
                match self.outcome {
                    AttemptOutcome::Succeeded => "succeeded",
                    AttemptOutcome::Failed => "failed",
                    AttemptOutcome::GivenBack => "given_back",
                },
            ),
            text_of("http.request.method", self.method),
            text_of("url.full", url),
        ];
        if let Ok(url) = Url::parse(url) {
            attributes.extend(url.host_str().map(|host| text_of("server.address", host)));
            attributes.extend(url.port_or_known_default().map(|port| number("server.port", port.into())));
        }
        if let Ok(peer) = report.remote_address.parse::<std::net::SocketAddr>() {
            attributes.push(text_of("network.peer.address", &peer.ip().to_string()));
            attributes.push(number("network.peer.port", peer.port().into()));
        }
        if report.http_status > 0 {
            attributes.push(number("http.response.status_code", report.http_status.into()));
        }
        if self.number > 1 {
            attributes.push(number("http.request.resend_count", u64::from(self.number) - 1));
        }
        if report.bytes > 0 {
            attributes.push(number("haul.received_bytes", report.bytes));
        }
        if report.resume_kind != ResumeKind::Fresh {
            attributes.push(number("haul.resumed_from", report.resumed_from));
        }
        let status = failed(&mut attributes, self.failure, metrics);
        let frame = Frame {
            name: "attempt".into(),
            kind: SpanKind::Client,
            place: self.place,
            parent: Some(self.parent),
            is_remote: false,
            start: self.start,
            end: self.end,
        };
        frame.with(attributes, status)
    }
}

impl JobSpan {
    pub(super) fn into_data(self, metrics: &Metrics) -> SpanData {
        let state = match self.end_state {
            End::Succeeded => "succeeded",
            End::Failed => "failed",
            End::Cancelled => "cancelled",
        };
        let [succeeded, failures, cancelled] = self.tasks;
        let mut attributes = vec![
            text_of("haul.job_id", &self.id.0.to_string()),
            KeyValue::new("haul.state", state),
            number("haul.tasks_succeeded", succeeded.into()),
            number("haul.tasks_failed", failures.into()),
            number("haul.tasks_cancelled", cancelled.into()),
        ];
        let status = failed(&mut attributes, self.failure, metrics);
        let frame = Frame {
            name: "job".into(),
            kind: SpanKind::Internal,
            place: self.place,
            parent: self.parent,
            is_remote: true,
            start: self.start,
            end: self.end,
        };
        frame.with(attributes, status)
    }
}

impl CallSpan<'_> {
    pub(super) fn into_data(self) -> SpanData {
        let (service, method) = self.method.split_once('/').unwrap_or((self.method, ""));
        let code = CODES.get(self.code as usize).copied().unwrap_or("UNKNOWN");
        let mut attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", format!("haul.v1.{service}")),
            KeyValue::new("rpc.method", method.to_owned()),
            number("rpc.grpc.status_code", self.code as u64),
        ];
        // Of a server's span only what the server is to blame for is an error.
        let is_error = matches!(
            self.code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        let status = if is_error { Status::error(code) } else { Status::Unset };
        if is_error {
            attributes.push(KeyValue::new("error.type", code));
        }
        let frame = Frame {
            name: format!("haul.v1.{}", self.method).into(),
            kind: SpanKind::Server,
            place: self.place,
            parent: self.parent,
            is_remote: true,
            start: self.start,
            end: self.end,
        };
        frame.with(attributes, status)
    }
}
