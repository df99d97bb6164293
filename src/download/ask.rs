//! Requests for the bytes of a resource, and what their answers say.

use std::time::Duration;

use http::header::{ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE};
use http::header::{IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::download::announced::announced;
use crate::download::order::Order;
use crate::download::resume::{Answer, Ask};
use crate::download::{DownloadContext, Halt};
use crate::files::binding::Binding;
use crate::files::names;
use crate::files::source::Record;
use crate::files::version::Version;
use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::redacted;
use crate::model::time::Timestamp;
use crate::net::range::ContentRange;
use crate::net::{Body, Permit, Request, Response, Session};
use crate::net::{classify, coding, decode, disposition, drain, exchange, range};

/// Longer values of headers are taken for none.
const TEXT_BYTES_MAX: usize = 1024;

/// A body of no use that is larger is not read for the sake of its connection.
const LEAVE_BYTES_MAX: u64 = 16 << 10;

/// An answer whose body is still to come.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) answer: Answer,
    /// What a failure is judged by; a success may be one to be asked for again.
    headers: HeaderMap,
    /// What `Accept-Ranges` says; `None`: nothing.
    accepts_ranges: Option<bool>,
    pub(super) body: Body,
    /// Where in the whole the next byte of the body belongs.
    pub(super) at: u64,
    /// Past the last byte that the body has; `u64::MAX` when it does not say.
    pub(super) end: u64,
    /// Whether the body ends by its own length. One that is chunked, or ends with its connection, may go on behind the
    /// byte that its `Content-Range` names as the last.
    pub(super) has_length: bool,
    /// It has done so.
    pub(super) goes_on: bool,
    /// How long the head took to come.
    pub(super) head_wait: Duration,
}

impl Stream {
    /// Whether the origin says that it has ranges; `None`: it does not say.
    pub(super) fn has_ranges(&self) -> Option<bool> {
        if self.answer.status == 206 {
            return Some(true);
        }
        self.accepts_ranges
    }

    /// The failure that its status is. The body is read if it is small, so that its connection can be used again.
    pub(super) async fn into_failure(self, ctx: &DownloadContext<'_>) -> Failure {
        let status = StatusCode::from_u16(self.answer.status).unwrap_or_default();
        let failure = classify::judge_status(status, &self.headers, (ctx.now)(), ctx.retry_after_max);
        drain(self.body).await;
        failure
    }

    /// Lets go of an answer whose body is of no use.
    pub(super) async fn leave(self) {
        // Of a larger one the connection is closed, and nobody waits for that.
        if self.answer.length.is_some_and(|length| length <= LEAVE_BYTES_MAX) {
            drain(self.body).await;
        }
    }
}

/// How an answer was carried to its end.
pub(super) enum Carried {
    /// It brought what it was to bring, or a good deal of it.
    Enough,
    /// It brought little of what it was asked for; the failure of several such in a row.
    Trickle(Failure),
}

/// Asks the source of this number. `known`: a file that is there, and need not be sent if it is still the same. `permit`:
/// one that was waited for already, or none.
pub(super) async fn send(
    order: &Order<'_>,
    session: &mut Session,
    source: usize,
    ask: &Ask,
    known: Option<&Record>,
    permit: Permit,
) -> Result<Stream, Halt> {
    let ctx = order.ctx;
    let url = order.sources[source].clone();
    // What is asked for by range is a segment, or the rest of a file: its speed is its own.
    let separate = ask.range.is_some();
    let request = Request { headers: headers(ask, known)?, separate, permit, ..Request::get(url) };
    let asked = Instant::now();
    let response = tokio::select! {
        biased;
        () = ctx.stop.cancelled() => return Err(Halt::Stopped),
        response = exchange(ctx.transport, request, ctx.profile, session) => response?,
    };
    Ok(receive(order, source, response, asked.elapsed())?)
}

fn headers(ask: &Ask, known: Option<&Record>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(range) = &ask.range {
        let last = if range.end == u64::MAX { String::new() } else { (range.end - 1).to_string() };
        insert(&mut headers, RANGE, &format!("bytes={}-{last}", range.start))?;
        insert(&mut headers, IF_RANGE, &ask.if_range)?;
    }
    if let Some(record) = known {
        insert(&mut headers, IF_NONE_MATCH, record.telling_tag())?;
        insert(&mut headers, IF_MODIFIED_SINCE, record.telling_date())?;
    }
    Ok(headers)
}

/// Adds a header, unless it would be empty.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Failure> {
    if value.is_empty() {
        return Ok(());
    }
    let value = HeaderValue::from_str(value).map_err(|_| {
        Failure::fatal(FailureReason::Internal, format!("the stored validator `{value}` cannot be sent"))
    })?;
    headers.insert(name, value);
    Ok(())
}

fn receive(order: &Order<'_>, source: usize, response: Response, head_wait: Duration) -> Result<Stream, Failure> {
    let Response { status, headers, url, body, .. } = response;
    let status = understood(status);
    let text = |name: HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // What is kept of an answer is bounded, and half of a validator is none.
        if value.len() <= TEXT_BYTES_MAX { value.to_owned() } else { String::new() }
    };
    // As it may be used, so that what is kept of it is bounded too.
    let suggested_name = disposition::file_name(&headers).and_then(|name| names::sanitize(&name)).unwrap_or_default();
    if let Some(echo) = order.ctx.echo {
        let led_to = if url == order.sources[source] { "" } else { url.as_str() };
        echo.refuse(&[&suggested_name, led_to])?;
    }
    let content_type = text(CONTENT_TYPE);
    let codings = if status.is_success() && headers.contains_key(CONTENT_ENCODING) {
        coding::codings_of_file(&headers, order.name_for(&suggested_name))?
    } else {
        Vec::new()
    };
    let is_encoded = !codings.is_empty();
    let content_range = range::content_range_of_bytes(status, &headers);
    let length =
        if is_encoded || headers.contains_key(TRANSFER_ENCODING) { None } else { range::content_length(&headers) };
    let has_length = length.is_some();
    let length = length.or(if is_encoded { None } else { range::whole_length(status, &headers) });
    let mut answer = Answer {
        status: status.as_u16(),
        content_range,
        length,
        is_encoded,
        has_retry_after: !status.is_success() && asks_to_wait(order, status, &headers),
        seen: Binding {
            version: Version { etag: text(ETAG), last_modified: text(LAST_MODIFIED), date: text(DATE), total: None },
            source: order.source_ids[source].clone(),
            final_url: redacted(&url),
            suggested_name,
            content_type,
            http_status: status.as_u16(),
            connections: 0,
            announced: Vec::new(),
            is_pieced: false,
            is_decoded: is_encoded,
        },
    };
    if !is_encoded {
        let is_whole = answer.status == 200 && !answer.is_range_as_200();
        answer.seen.announced = announced(is_whole, &headers);
    }
    if answer.seen.version.date.is_empty() {
        answer.seen.version.date = http_date((order.ctx.now)());
    }
    answer.seen.version.total = match (status.as_u16(), answer.content_range) {
        (206, Some(ContentRange::Bytes { total, .. })) => total,
        (416, Some(ContentRange::Unsatisfied { total })) => Some(total),
        (200, Some(ContentRange::Bytes { total, .. })) if answer.is_range_as_200() => total,
        (200 | 201 | 203, _) => length,
        _ => None,
    };
    let body = decode::undo_unasked(body, codings);
    let bytes = answer.bytes();
    let says_bytes = |value: &HeaderValue| Some(value.to_str().ok()?.trim().eq_ignore_ascii_case("bytes"));
    let accepts_ranges = headers.get(ACCEPT_RANGES).and_then(says_bytes);
    let (at, end) = (bytes.start, bytes.end);
    Ok(Stream { answer, headers, accepts_ranges, body, at, end, has_length, goes_on: false, head_wait })
}

/// Returns whether a failure says how long to wait, in whichever header.
fn asks_to_wait(order: &Order<'_>, status: StatusCode, headers: &HeaderMap) -> bool {
    let ctx = order.ctx;
    classify::judge_status(status, headers, (ctx.now)(), ctx.retry_after_max).retry_after.is_some()
}

/// A success that nobody knows is as a 200 (RFC 9110, section 15).
fn understood(status: StatusCode) -> StatusCode {
    let is_known = matches!(status.as_u16(), 200..=208 | 226);
    if status.is_success() && !is_known { StatusCode::OK } else { status }
}

/// The time as a `Date`; empty where it makes none.
fn http_date(now: Timestamp) -> String {
    let since_epoch = std::time::Duration::from_micros(u64::try_from(now.0).unwrap_or_default());
    std::time::UNIX_EPOCH.checked_add(since_epoch).map(httpdate::fmt_http_date).unwrap_or_default()
}
