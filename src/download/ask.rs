//! Requests for the bytes of a resource, and what their answers say.

use http::header::{ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE};
use http::header::{IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::download::resume::{Answer, Ask};
use crate::download::{DownloadContext, Halt};
use crate::files::source::Record;
use crate::files::version::Version;
use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::redacted;
use crate::net::range::ContentRange;
use crate::net::{Body, Permit, Request, Response, Session, classify, decode, disposition, exchange, range};

/// An answer whose body is still to come.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) answer: Answer,
    pub(super) headers: HeaderMap,
    /// What the origin suggests to call it; empty: nothing.
    pub(super) suggested_name: String,
    /// After redirects, without secrets.
    pub(super) final_url: String,
    pub(super) body: Body,
    /// Where in the whole the next byte of the body belongs.
    pub(super) at: u64,
    /// Past the last byte that the body has; `u64::MAX` when it does not say.
    pub(super) end: u64,
}

impl Stream {
    /// Whether the origin says that it has ranges; `None`: it does not say.
    pub(super) fn has_ranges(&self) -> Option<bool> {
        if self.answer.status == 206 {
            return Some(true);
        }
        let text = self.headers.get(ACCEPT_RANGES)?.to_str().ok()?;
        Some(text.trim().eq_ignore_ascii_case("bytes"))
    }

    /// The failure that its status is.
    pub(super) fn failure(&self, ctx: &DownloadContext<'_>) -> Failure {
        let status = StatusCode::from_u16(self.answer.status).unwrap_or_default();
        classify::judge_status(status, &self.headers, (ctx.now)(), ctx.retry_after_max)
    }
}

/// Asks the origin at `url`. `known`: a file that is there, and need not be sent if it is still the same.
pub(super) async fn send(
    ctx: &DownloadContext<'_>,
    session: &mut Session,
    url: &Url,
    ask: &Ask,
    known: Option<&Record>,
) -> Result<Stream, Halt> {
    let headers = headers(ask, known)?;
    let request = Request {
        method: Method::GET,
        url: url.clone(),
        headers,
        body: bytes::Bytes::new(),
        permit: Permit::default(),
    };
    let response = tokio::select! {
        biased;
        () = ctx.stop.cancelled() => return Err(Halt::Stopped),
        response = exchange(ctx.transport, request, ctx.profile, session) => response?,
    };
    Ok(receive(response)?)
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
        insert(&mut headers, IF_NONE_MATCH, &record.etag)?;
        insert(&mut headers, IF_MODIFIED_SINCE, &record.last_modified)?;
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

fn receive(response: Response) -> Result<Stream, Failure> {
    let Response { status, headers, url, body, .. } = response;
    let text =
        |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let content_range = range::content_range(&headers);
    let content_type = text(CONTENT_TYPE);
    let is_encoded = is_encoded(&headers, &content_type, &url);
    let length = if is_encoded || headers.contains_key(TRANSFER_ENCODING) {
        None
    } else {
        text(CONTENT_LENGTH).parse::<u64>().ok()
    };
    let total = match (status.as_u16(), content_range) {
        (206, Some(ContentRange::Bytes { total, .. })) => total,
        (416, Some(ContentRange::Unsatisfied { total })) => Some(total),
        (200 | 203, _) => length,
        _ => None,
    };
    let (at, end) = match content_range {
        Some(ContentRange::Bytes { first, last, .. }) if status == 206 => (first, last + 1),
        _ => (0, total.unwrap_or(u64::MAX)),
    };
    let version = Version { etag: text(ETAG), last_modified: text(LAST_MODIFIED), date: text(DATE), total };
    let answer = Answer { status: status.as_u16(), version, content_range, content_type, is_encoded };
    let body = if is_encoded && status.is_success() { decode::decode(body, &headers)? } else { body };
    let suggested_name = disposition::file_name(&headers).unwrap_or_default();
    Ok(Stream { answer, suggested_name, final_url: redacted(&url), headers, body, at, end })
}

/// Whether the body must be decoded. Servers call compressed archives encoded, though they are meant to be kept as they
/// are: those are not.
fn is_encoded(headers: &HeaderMap, content_type: &str, url: &Url) -> bool {
    let codings = headers.get_all(http::header::CONTENT_ENCODING).iter();
    let mut codings = codings.filter_map(|value| value.to_str().ok()).filter(|text| !text.trim().is_empty());
    let Some(coding) = codings.find(|text| !text.trim().eq_ignore_ascii_case("identity")) else { return false };
    let is_gzip = coding.trim().eq_ignore_ascii_case("gzip") || coding.trim().eq_ignore_ascii_case("x-gzip");
    let path = url.path().to_ascii_lowercase();
    let is_archive = content_type.contains("gzip") || [".gz", ".tgz"].iter().any(|ending| path.ends_with(ending));
    !(is_gzip && is_archive)
}
