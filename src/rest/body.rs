//! The body of a request: its type, its length, and the time that it takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use http::{Extensions, HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;

use crate::api::inbound::{no_room, silent, slow};
use crate::api::status::{Violations, message_too_large, shown};
use crate::listen::KnownCaller;
use crate::listen::budget::Hold;
use crate::listen::peer::Peer;
use crate::rest::answer::Refusal;

/// What is read and thrown away of a body that is too large, at most, and for how long.
const PASSED_OVER_BYTES: usize = 64 << 20;
const PASSED_OVER_TIME: Duration = Duration::from_secs(2);

/// The bounds of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyBounds {
    /// The most bytes.
    pub bytes_max: u64,
    /// How long the next byte may take.
    pub idle_max: Duration,
    /// How long the whole body may take.
    pub whole_max: Duration,
}

/// A body that is whole, and the room that it takes among what clients have sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    _room: Option<Hold>,
}

/// Reads a body of JSON whole. None is empty.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    extensions: &Extensions,
    bounds: BodyBounds,
) -> Result<Sent, Refusal> {
    if body.is_end_stream() {
        return Ok(Sent::default());
    }
    let announced = body.size_hint().lower();
    if announced > bounds.bytes_max {
        pass_over(headers, body).await;
        return Err(too_large(bounds));
    }
    is_json(headers)?;
    let peer = extensions.get::<Arc<Peer>>();
    let mut hold = peer.map(|peer| Hold::of_request(peer.share.clone(), KnownCaller::holder_of(extensions)));
    let mut whole = BytesMut::new();
    let end = Instant::now() + bounds.whole_max;
    loop {
        let idle = Instant::now() + bounds.idle_max;
        let Ok(next) = tokio::time::timeout_at(idle.min(end), body.frame()).await else {
            let status = if end < idle { slow(bounds.whole_max) } else { silent(bounds.idle_max) };
            return Err(Refusal::from(status).with_code(StatusCode::REQUEST_TIMEOUT));
        };
        match next {
            None => return Ok(Sent { bytes: whole.freeze(), _room: hold }),
            Some(Err(_)) => {
                return Err(
                    Violations::one("body", "is incomplete, or is not framed as HTTP says; send it again").into()
                );
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                let come = (whole.len() + data.len()) as u64;
                if come > bounds.bytes_max {
                    drop(whole);
                    pass_over(headers, body).await;
                    return Err(too_large(bounds));
                }
                if hold.as_mut().is_some_and(|hold| hold.set(announced.max(come), come).is_err()) {
                    return Err(no_room().into());
                }
                whole.extend_from_slice(&data);
            }
        }
    }
}

/// Reads on for a while, and keeps nothing of it: many clients send all of a body before they look at the answer, and a connection that
/// is closed under them takes the answer away. Who asks before it sends its body has not begun.
async fn pass_over(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let (end, mut left) = (Instant::now() + PASSED_OVER_TIME, PASSED_OVER_BYTES);
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(end, body.frame()).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

fn too_large(bounds: BodyBounds) -> Refusal {
    let message = format!(
        "the body is longer than {} MiB, the most that the server accepts; submit an open job and add tasks to it",
        bounds.bytes_max >> 20
    );
    message_too_large(message).into()
}

/// Checks that a body says that it is JSON: a form of a web page of others cannot say so.
fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let unsupported = |message: &str| {
        let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(Refusal::new(code, Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", message))
    };
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return unsupported(&format!("the body is sent as `{}`; send it as it is", shown(&encoding)));
    }
    let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let kind = kind.unwrap_or_default();
    let mut parts = kind.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let charset = parts.find_map(|part| part.strip_prefix("charset=").map(|it| it.trim_matches('"').to_owned()));
    if let Some(charset) = charset.filter(|charset| !matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii")) {
        return unsupported(&format!("the body is written in `{}`; JSON is UTF-8", shown(&charset)));
    }
    match essence.as_str() {
        "application/json" => Ok(()),
        "application/x-www-form-urlencoded" => unsupported(
            "the body says that it is a form, as that of `curl -d` does; send JSON: curl --json @job.json URL, or with \
             an older curl: -H 'Content-Type: application/json' -d @job.json",
        ),
        "" => unsupported("the body does not say what it is; send `Content-Type: application/json`"),
        _ => unsupported(&format!(
            "the body is `{}`; send JSON, as `application/json`: curl --json @job.json URL",
            shown(&essence)
        )),
    }
}
