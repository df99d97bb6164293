//! The bytes of a result as a file: ranges, conditions, and headers that keep a browser from running them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;
use prost_reflect::MethodDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::status::internal;
use crate::pb;
use crate::rest::answer::Refusal;
use crate::rest::call::{Caller, Messages, Services, one};
use crate::rest::ranges::{self, Version, Wanted};

/// What a parameter of a header may hold as it is (RFC 8187).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');
/// Types of origins that are passed on: none that a browser would run as part of a page of this server.
const HARMLESS: [&str; 14] = [
    "text/plain",
    "text/csv",
    "application/json",
    "application/x-ndjson",
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/x-tar",
    "application/zstd",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
];
const HARMLESS_FAMILIES: [&str; 3] = ["audio/", "video/", "font/"];

/// What is known of a content before its bytes.
#[derive(Debug, Default)]
struct Known {
    content_type: String,
    name: String,
    tag: String,
    modified: Option<SystemTime>,
    digest: Option<String>,
}

/// Answers a request for the content of a task.
pub(crate) async fn answer(
    caller: &Caller,
    services: &Services,
    [get_task, read_content]: [&MethodDescriptor; 2],
    wish: pb::ReadContentRequest,
    headers: &HeaderMap,
    is_head: bool,
) -> Result<Response<Body>, Refusal> {
    let (job_id, index) = match &wish.task {
        Some(pb::read_content_request::Task::TaskIndex(index)) => (wish.job_id.clone(), *index),
        _ => return Err(internal("the path of a content names its task").into()),
    };
    let task = Some(pb::get_task_request::Task::TaskIndex(index));
    let asked = pb::GetTaskRequest { job_id: job_id.clone(), task, ..Default::default() };
    let answered = caller.call(services, get_task, one(&asked.encode_to_vec())).await?.only().await?;
    let task = pb::GetTaskResponse::decode(answered).map_err(|_| internal("a task cannot be read"))?.task;
    let is_part = is_head || ranges::are_asked(headers);
    // The first byte tells how many there are.
    let wish = pb::ReadContentRequest { offset: 0, length: u64::from(is_part), ..wish };
    let mut messages = caller.call(services, read_content, one(&wish.encode_to_vec())).await?;
    let first = next(&mut messages).await?.ok_or_else(|| internal("a content has no first chunk"))?;
    let total = first.total_bytes;
    let known = known(&task.unwrap_or_default(), &job_id, index, total);
    let (code, from, length) =
        match ranges::judge(headers, is_head, Version { tag: &known.tag, modified: known.modified, total }) {
            Wanted::Whole => (StatusCode::OK, 0, total),
            Wanted::Part(from, length) => (StatusCode::PARTIAL_CONTENT, from, length),
            Wanted::NotModified => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                describe(response.headers_mut(), &known);
                if is_head {
                    // An empty body would be announced otherwise, and the length is that of the content (RFC 9110, 8.6).
                    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(total));
                }
                return Ok(response);
            }
            Wanted::Changed => {
                let message = format!("the content is not the one that `If-Match` names; it is {}", known.tag);
                let code = StatusCode::PRECONDITION_FAILED;
                return Err(Refusal::new(code, Code::FailedPrecondition, "PRECONDITION_FAILED", &message));
            }
            Wanted::BeyondEnd => {
                let message = format!("the range begins beyond the end: there are {total} bytes");
                let code = StatusCode::RANGE_NOT_SATISFIABLE;
                let refusal = Refusal::new(code, Code::OutOfRange, "RANGE_NOT_SATISFIABLE", &message);
                return Err(refusal.with_header(CONTENT_RANGE, format!("bytes */{total}")));
            }
        };
    let body = if is_head || length == 0 {
        Body::empty()
    } else if is_part {
        let wish = pb::ReadContentRequest { offset: from, length, ..wish };
        bytes_of(caller.call(services, read_content, one(&wish.encode_to_vec())).await?, None)
    } else {
        bytes_of(messages, Some(first.data))
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let out = response.headers_mut();
    describe(out, &known);
    out.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if code == StatusCode::PARTIAL_CONTENT {
        insert(out, CONTENT_RANGE, &format!("bytes {from}-{}/{total}", from + length - 1));
    }
    Ok(response)
}

async fn next(messages: &mut Messages) -> Result<Option<pb::ReadContentResponse>, Status> {
    let Some(message) = messages.next().await? else { return Ok(None) };
    pb::ReadContentResponse::decode(message).map(Some).map_err(|_| internal("a chunk cannot be read"))
}

/// Returns the bytes of chunks. An error cuts the body, which is then shorter than it said.
fn bytes_of(messages: Messages, first: Option<Bytes>) -> Body {
    let frames = unfold(Some((messages, first)), |state| async move {
        let (mut messages, first) = state?;
        let data = match first {
            Some(first) => Ok(Some(first)),
            None => next(&mut messages).await.map(|chunk| chunk.map(|chunk| chunk.data)),
        };
        match data {
            Ok(data) => data.map(|data| (Ok(Frame::data(data)), Some((messages, None)))),
            Err(status) => Some((Err(status), None)),
        }
    });
    Body::new(StreamBody::new(frames))
}

fn known(task: &pb::Task, job_id: &str, index: u32, total: u64) -> Known {
    use pb::task::Result::{DownloadResult as Download, FetchResult as Fetch};
    let end = task.end_time.unwrap_or_default();
    let modified = u64::try_from(end.seconds).ok().map(Duration::from_secs);
    let modified = modified.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let tag = format!("\"{:x}.{:x}-{total:x}\"", end.seconds, end.nanos);
    let (content_type, name, digest) = match &task.result {
        Some(Download(download)) => {
            let name = download.path.rsplit('/').next().unwrap_or_default().to_owned();
            (download.content_type.clone(), name, download.checksums.iter().find_map(|it| repr_digest(it)))
        }
        Some(Fetch(fetch)) => (fetch.content_type.clone(), format!("{job_id}-{index}"), None),
        None => (String::new(), format!("{job_id}-{index}"), None),
    };
    Known { content_type: passed_on(&content_type), name, tag, modified, digest }
}

/// Returns the type to send for that of an origin.
fn passed_on(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_harmless =
        HARMLESS.contains(&essence.as_str()) || HARMLESS_FAMILIES.iter().any(|family| essence.starts_with(family));
    if is_harmless { content_type.to_owned() } else { "application/octet-stream".to_owned() }
}

/// Returns a digest as RFC 9530 writes it.
fn repr_digest(checksum: &str) -> Option<String> {
    use base64::Engine as _;
    let (algorithm, hex) = checksum.split_once(':')?;
    let name = match algorithm {
        "sha256" => "sha-256",
        "sha512" => "sha-512",
        _ => return None,
    };
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(pair).collect::<Option<_>>()?;
    Some(format!("{name}=:{}:", base64::engine::general_purpose::STANDARD.encode(bytes)))
}

fn describe(headers: &mut HeaderMap, known: &Known) {
    insert(headers, CONTENT_TYPE, &known.content_type);
    insert(headers, ETAG, &known.tag);
    if let Some(modified) = known.modified {
        insert(headers, LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
    if let Some(digest) = &known.digest {
        insert(headers, HeaderName::from_static("repr-digest"), digest);
    }
    let name = utf8_percent_encode(&known.name, PLAIN);
    insert(headers, CONTENT_DISPOSITION, &format!("attachment; filename*=UTF-8''{name}"));
    insert(headers, ACCEPT_RANGES, "bytes");
    insert(headers, CACHE_CONTROL, "private, no-cache");
    insert(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(headers, CONTENT_SECURITY_POLICY, "sandbox");
}

/// Sets a header; what cannot stand in one is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_that_a_browser_runs_is_passed_on() {
        for kind in ["text/plain; charset=utf-8", "application/json", "video/mp4", "IMAGE/png"] {
            assert_eq!(passed_on(kind), kind);
        }
        for kind in ["text/html", "image/svg+xml", "text/javascript", "application/xhtml+xml", "", "x", "text/css"] {
            assert_eq!(passed_on(kind), "application/octet-stream", "{kind}");
        }
    }

    #[test]
    fn digests_are_written_as_http_has_them() {
        assert_eq!(repr_digest("sha256:00ff").as_deref(), Some("sha-256=:AP8=:"));
        assert_eq!(repr_digest("sha256:0"), None);
        assert_eq!(repr_digest("md5:00"), None);
    }
}
