//! Streams: a document a line, or the events that browsers read by themselves (`text/event-stream`).
//!
//! A message is written when the client has room for it, so a slow client costs the memory of a few. A client that goes
//! away drops the stream, and with it the call.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use prost_reflect::{MessageDescriptor, MethodDescriptor};
use tonic::Status;
use tonic::body::Body;
use tonic_types::StatusExt as _;

use crate::pb;
use crate::pb::watch_job_response::Event;
use crate::rest::accept;
use crate::rest::answer::{Refusal, harden};
use crate::rest::call::Messages;
use crate::rest::json;
use crate::rest::writer::Look;

/// How long the answer waits for the first message, so that an error before it is an answer of its own.
const FIRST: Duration = Duration::from_millis(250);
/// The longest silence of a stream of events, which proxies end otherwise.
const SILENCE: Duration = Duration::from_secs(15);
/// About how many bytes are written at once where several messages are there.
const BATCH_BYTES: usize = 64 << 10;
/// Events that a client which goes on after them does not get again.
const DURABLE: [&str; 3] = ["task_ended", "job_changed", "job_ended"];
/// How long a browser waits before it connects anew, in milliseconds.
const RECONNECT: &str = "retry: 1000\n";

/// How the messages of a stream are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A document a line.
    Lines,
    /// Events, as browsers read them.
    Events,
}

impl Form {
    /// Returns how the answer of a method is written for these headers; `None` where it is one message.
    pub(crate) fn of(rpc: &MethodDescriptor, headers: &HeaderMap) -> Result<Option<Form>, Refusal> {
        if !rpc.is_server_streaming() {
            accept::takes(headers, &["application/json"])?;
            return Ok(None);
        }
        if accept::wants_events(headers) {
            return Ok(Some(Form::Events));
        }
        accept::takes(headers, &accept::LINES)?;
        Ok(Some(Form::Lines))
    }

    /// Returns the type of content.
    fn kind(self) -> &'static str {
        match self {
            Form::Lines => "application/x-ndjson",
            Form::Events => "text/event-stream",
        }
    }

    /// Returns the error that ends a stream: never a silent end.
    fn error(self, status: Status) -> String {
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let document = Refusal::from(status).document();
        match self {
            Form::Lines => format!("{document}\n"),
            Form::Events => {
                let retry = delay.map(|delay| format!("retry: {}\n", delay.as_millis())).unwrap_or_default();
                format!("{retry}event: stream_error\ndata: {document}\n\n")
            }
        }
    }
}

/// What is left of a stream.
struct Rest {
    messages: Messages,
    /// A message that was awaited before the answer began.
    first: Option<Bytes>,
    form: Form,
    /// The number after which the client goes on.
    after: Option<u64>,
    of: MessageDescriptor,
    preface: &'static str,
    is_over: bool,
}

/// Returns the answer that a stream of messages becomes; `after`: the number after which the client goes on.
pub(crate) async fn answer(
    mut messages: Messages,
    of: MessageDescriptor,
    form: Form,
    after: Option<u64>,
) -> Result<Response<Body>, Refusal> {
    let (first, is_over) = match tokio::time::timeout(FIRST, messages.next()).await {
        Ok(Ok(Some(first))) => (Some(first), false),
        Ok(Ok(None)) => (None, true),
        Ok(Err(status)) => return Err(status.into()),
        Err(_) => (None, false),
    };
    let nothing_is_left = match (&first, after) {
        (Some(first), Some(after)) => has_seen_all(first, after),
        (first, _) => first.is_none() && is_over,
    };
    if form == Form::Events && nothing_is_left {
        // It ends the reconnecting of a browser.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let preface = if form == Form::Events { RECONNECT } else { "" };
    let rest = Rest { messages, first, form, after, of, preface, is_over };
    let frames = unfold(rest, |mut rest| async move {
        let bytes = rest.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), rest))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    harden(&mut response, form.kind());
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Rest {
    /// Returns the next bytes: those of all messages that are there, up to a bound. No more is asked for meanwhile: what
    /// is returned may wait for the client, and the stream must not hold anything then.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = std::mem::take(&mut self.preface).as_bytes().to_vec();
        if let Some(first) = self.first.take() {
            self.write(Ok(Some(first)), &mut out);
        }
        if out.is_empty() && !self.is_over {
            match self.form {
                Form::Lines => {
                    let next = self.messages.next().await;
                    self.write(next, &mut out);
                }
                Form::Events => match tokio::time::timeout(SILENCE, self.messages.next()).await {
                    Ok(next) => self.write(next, &mut out),
                    Err(_) => out.extend_from_slice(b": heartbeat\n\n"),
                },
            }
        }
        while !self.is_over && out.len() < BATCH_BYTES {
            let Some(next) = self.messages.at_hand() else { break };
            self.write(next.map(Some), &mut out);
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn write(&mut self, next: Result<Option<Bytes>, Status>, out: &mut Vec<u8>) {
        let written = next.and_then(|next| {
            self.is_over = next.is_none();
            next.map_or(Ok(()), |message| self.message(&message, out))
        });
        if let Err(status) = written {
            self.is_over = true;
            out.extend(self.form.error(status).into_bytes());
        }
    }

    fn message(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
        if self.form == Form::Lines {
            json::append(&self.of, message, out)?;
            out.push(b'\n');
            return Ok(());
        }
        let Look { event, sequence, ends_item } = json::look(&self.of, message)?;
        if event == Some("heartbeat") {
            out.extend(format!(": heartbeat {sequence}\n\n").into_bytes());
            return Ok(());
        }
        let data = json::write(&self.of, message)?;
        // The snapshot of a replay is ahead of what follows it: a cut there would lose events.
        let is_durable = event.is_some_and(|it| DURABLE.contains(&it) || (it == "snapshot" && self.after.is_none()));
        if is_durable || ends_item {
            out.extend(format!("id: {sequence}\n").into_bytes());
        }
        if let Some(event) = event {
            out.extend(format!("event: {event}\n").into_bytes());
        }
        out.extend_from_slice(b"data: ");
        out.extend(data);
        out.extend_from_slice(b"\n\n");
        Ok(())
    }
}

/// Returns the bytes that end a streamed answer when there is no room for the rest of it; `None` if the content type is not
/// that of a stream.
pub(crate) fn last_words(kind: &[u8], status: Status) -> Option<Bytes> {
    let form = [Form::Lines, Form::Events].into_iter().find(|form| form.kind().as_bytes() == kind)?;
    Some(form.error(status).into())
}

/// Returns whether a job has ended and a client that has seen `after` has seen all of it. No other watch goes on after a number.
fn has_seen_all(first: &[u8], after: u64) -> bool {
    let Ok(message) = pb::WatchJobResponse::decode(first) else { return false };
    let has_ended = matches!(&message.event, Some(Event::Snapshot(job)) if job.end_time.is_some());
    has_ended && message.sequence == after
}
