//! Bounds what a client can make the server keep of answers that it does not read: bytes, for a connection and in all.
//!
//! A frame of an answer is kept from when it is made until it has been written to the connection, and a client that opens
//! many streams and no window lets none be written. So each frame holds room for as long as its bytes are kept, and an
//! answer that finds no room ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::api::request_id::RequestId;
use crate::api::status::exhausted;
use crate::listen::KnownCaller;
use crate::listen::budget::{Hold, Holder, Share};
use crate::listen::peer::Peer;
use crate::middleware::Middleware;

/// The first frame of an answer holds nothing if it has fewer bytes: what the protocols keep for a stream is more.
const SMALL: usize = 1 << 10;
/// What the protocols keep of a frame beside its bytes: more than a small one has.
const FRAME_BYTES: u64 = 1 << 10;
/// The flag of a frame of trailers in gRPC-Web.
const TRAILERS: u8 = 0x80;
/// About as much as a stream writes at once, and as the largest piece of an answer whose length is known.
const STREAM_BYTES: u64 = 64 << 10;
const PIECE_BYTES: u64 = 256 << 10;

/// Returns the error of a call whose answer exceeds the memory for unread answers.
pub(crate) fn no_room() -> Status {
    let message = "too many bytes of responses wait for this client to read them; read them, or request fewer at once";
    exhausted("OUTBOUND_BUFFER", "outbound_buffer", message)
}

/// Where answers to a request find room.
#[derive(Clone, Debug)]
pub(crate) struct AnswerRoom {
    share: Arc<Share>,
    holder: Holder,
}

impl AnswerRoom {
    /// Returns the room of a request of which it is known who makes it; `None`: it came by no connection, and has no bound.
    pub(crate) fn of(extensions: &Extensions) -> Option<AnswerRoom> {
        let share = extensions.get::<Arc<Peer>>()?.outbound.clone();
        Some(AnswerRoom { share, holder: KnownCaller::holder_of(extensions) })
    }

    /// Takes room for bytes of an answer that are kept.
    pub(crate) fn hold(&self, bytes: u64) -> Result<Hold, Status> {
        // What is larger than any room is sent alone.
        let bytes = bytes.min(self.share.max_of(self.holder));
        let mut hold = Hold::new(self.share.clone(), self.holder);
        hold.set(bytes, bytes).map_err(|_| no_room())?;
        Ok(hold)
    }
}

/// How an error is written for a client that does not speak gRPC.
#[derive(Clone, Copy, Debug)]
pub struct PlainErrors {
    /// Returns the whole answer that an error is.
    pub refused: fn(Status) -> Response<Body>,
    /// Returns what ends an answer of a type of content that has begun; `None`: it cannot say anything.
    pub last_words: fn(&[u8], Status) -> Option<Bytes>,
}

/// Bounds answers.
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    plain: PlainErrors,
}

impl Outbound {
    /// Makes the layer.
    pub fn new(plain: PlainErrors) -> Outbound {
        Outbound { plain }
    }
}

/// What is known of a request when its answer comes.
pub struct Asked {
    share: Option<Arc<Share>>,
    known: Option<KnownCaller>,
    id: RequestId,
    plain: PlainErrors,
}

impl Middleware for Outbound {
    type Kept = Asked;

    fn before(&self, request: &mut Request<Body>) -> Result<Asked, Box<Response<Body>>> {
        let share = request.extensions().get::<Arc<Peer>>().map(|peer| peer.outbound.clone());
        let known = request.extensions().get::<KnownCaller>().cloned();
        Ok(Asked { share, known, id: RequestId::of(request), plain: self.plain })
    }

    async fn after<E: Send>(
        asked: Asked,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let response = answer.await?;
        let is_bounded = response.extensions().get::<Shared>().is_none() && !response.body().is_end_stream();
        let Some(share) = asked.share.filter(|_| is_bounded) else { return Ok(response) };
        let room = AnswerRoom { share, holder: asked.known.map_or(Holder::Stranger, |known| known.holder()) };
        let form = Form::of(response.headers().get(CONTENT_TYPE), asked.plain);
        let mut first = None;
        let bytes = first_bytes(&response);
        if matches!(form, Form::Plain { .. }) && response.status().is_success() && bytes >= SMALL as u64 {
            // Once its head has left there is no status any more, so it does not begin without room for its first bytes.
            first = match room.hold(bytes.saturating_add(FRAME_BYTES)) {
                Ok(hold) => Some(hold),
                Err(status) => return Ok(instead(&response, (asked.plain.refused)(asked.id.on(status)))),
            };
        }
        Ok(response.map(|body| {
            Body::new(BoundedBody { inner: Some(body), room, id: asked.id, form, first, has_begun: false })
        }))
    }
}

/// Returns how many bytes of an answer are written at first: all, where these are few.
fn first_bytes(response: &Response<Body>) -> u64 {
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    announced.or(response.body().size_hint().exact()).map_or(STREAM_BYTES, |length: u64| length.min(PIECE_BYTES))
}

/// Returns an error that is sent instead of an answer, to the same reader.
fn instead(answer: &Response<Body>, mut error: Response<Body>) -> Response<Body> {
    let about_reader = |name: &HeaderName| *name == VARY || name.as_str().starts_with("access-control-");
    for (name, value) in answer.headers().iter().filter(|(name, _)| about_reader(name)) {
        error.headers_mut().append(name.clone(), value.clone());
    }
    error
}

/// Marks an answer whose bytes are there whether anybody reads them or not: they take no room, so that who asks for them and reads
/// nothing takes none from others.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

/// Bytes with the room that they take.
struct Held {
    bytes: Bytes,
    _room: Hold,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer, within the bounds of its client.
struct BoundedBody {
    /// `None` once there was no room.
    inner: Option<Body>,
    room: AnswerRoom,
    id: RequestId,
    form: Form,
    /// Room for what is written first, until that is asked for.
    first: Option<Hold>,
    /// Whether a frame of it has been made.
    has_begun: bool,
}

/// How an answer can say that it ends before its end.
#[derive(Debug)]
enum Form {
    /// In trailers.
    Grpc,
    /// In a frame of its own, which browsers can read.
    GrpcWeb,
    /// In such a frame as base64.
    GrpcWebText,
    /// As its type of content has it, or not at all.
    Plain { kind: Vec<u8>, errors: PlainErrors },
}

impl Form {
    fn of(kind: Option<&HeaderValue>, errors: PlainErrors) -> Form {
        match kind.map_or(&[][..], |kind| kind.as_bytes()) {
            b"application/grpc" => Form::Grpc,
            kind if kind.starts_with(b"application/grpc-web-text") => Form::GrpcWebText,
            kind if kind.starts_with(b"application/grpc-web") => Form::GrpcWeb,
            kind => Form::Plain { kind: kind.to_vec(), errors },
        }
    }
}

impl Form {
    /// Whether a frame of data is the trailers of an answer, which has one such frame at most.
    fn is_trailers(&self, data: &[u8]) -> bool {
        match self {
            Form::GrpcWeb => data.first().is_some_and(|flags| flags & TRAILERS != 0),
            // No message begins so: base64 of its flags is `A`.
            Form::GrpcWebText => data.first() == Some(&b'g'),
            Form::Grpc | Form::Plain { .. } => false,
        }
    }
}

/// Writes trailers as gRPC-Web has them: a frame that says so in its first bit, with a header a line.
fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    let mut frame = vec![TRAILERS];
    frame.extend(u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(lines);
    frame.into()
}

impl BoundedBody {
    /// Ends the answer: with a status where its kind can say one, else before its end.
    fn end(&mut self, status: Status) -> Result<Frame<Bytes>, Status> {
        self.inner = None;
        let status = self.id.on(status);
        if let Form::Plain { kind, errors } = &self.form {
            return (errors.last_words)(kind, status.clone()).map(Frame::data).ok_or(status);
        }
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(match self.form {
            Form::GrpcWeb => Frame::data(trailers_frame(&trailers)),
            Form::GrpcWebText => {
                use base64::Engine as _;
                Frame::data(base64::engine::general_purpose::STANDARD.encode(trailers_frame(&trailers)).into())
            }
            Form::Grpc | Form::Plain { .. } => Frame::trailers(trailers),
        })
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.first = None;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = match std::task::ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let is_first = !std::mem::replace(&mut this.has_begun, true);
        if frame.data_ref().is_none_or(|data| data.len() < SMALL && (is_first || this.form.is_trailers(data))) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Ok(bytes) = frame.into_data() else { return Poll::Ready(None) };
        Poll::Ready(Some(match this.room.hold(bytes.len() as u64 + FRAME_BYTES) {
            Ok(room) => Ok(Frame::data(Bytes::from_owner(Held { bytes, _room: room }))),
            Err(status) => this.end(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;
    use crate::listen::budget::Budget;

    const NO_ERRORS: PlainErrors = PlainErrors {
        refused: |_| Response::new(Body::empty()),
        last_words: |kind, status| (kind == b"text/event-stream").then(|| status.message().to_owned().into()),
    };

    #[tokio::test]
    async fn bytes_hold_room_until_they_are_written_and_without_room_the_answer_ends() {
        let share = Arc::new(Share::new(Arc::new(Budget::new(5_000)), 5_000));
        let room = AnswerRoom { share, holder: Holder::Owner };
        let body = |kind: &'static str| {
            let inner = Some(Body::new(Full::new(Bytes::from(vec![7; 3_000]))));
            let form = Form::of(Some(&HeaderValue::from_static(kind)), NO_ERRORS);
            let id = RequestId::among(&Extensions::new());
            BoundedBody { inner, room: room.clone(), id, form, first: None, has_begun: false }
        };
        let kept = body("application/grpc").frame().await.unwrap().unwrap().into_data().unwrap();
        let trailers = body("application/grpc").frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), tonic::Code::ResourceExhausted);
        let frame = body("application/grpc-web+proto").frame().await.unwrap().unwrap().into_data().unwrap();
        let lines = String::from_utf8_lossy(&frame[5..]);
        assert!(frame[0] == 0x80 && lines.contains("grpc-status:8\r\n") && lines.contains("grpc-status-details-bin:"));
        assert_eq!(u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize, frame.len() - 5);
        assert!(body("image/png").frame().await.unwrap().is_err());
        let told = body("text/event-stream").frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(told, no_room().message().as_bytes());
        drop(kept);
        assert!(body("application/grpc").frame().await.unwrap().unwrap().into_data().is_ok());
        assert!(room.hold(1 << 30).is_ok(), "what is larger than any room goes alone");
    }

    /// What is done and answered is not told as refused for want of room for its status.
    #[tokio::test]
    async fn the_status_of_an_answer_for_browsers_needs_no_room() {
        let share = Arc::new(Share::new(Arc::new(Budget::new(5_000)), 5_000));
        let room = AnswerRoom { share, holder: Holder::Owner };
        let _used = room.hold(4_999).unwrap();
        for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
            let trailers = trailers_frame(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]));
            let frames = if kind.ends_with("text") {
                use base64::Engine as _;
                let text = |bytes: &[u8]| Bytes::from(base64::engine::general_purpose::STANDARD.encode(bytes));
                [text(&[0; 5]), text(&trailers)]
            } else {
                [Bytes::from_static(&[0; 5]), trailers]
            };
            let made = frames.clone().map(|frame| Ok::<_, Status>(Frame::data(frame)));
            let inner = Some(Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(made))));
            let form = Form::of(Some(&HeaderValue::from_static(kind)), NO_ERRORS);
            let id = RequestId::among(&Extensions::new());
            let mut body = BoundedBody { inner, room: room.clone(), id, form, first: None, has_begun: false };
            for frame in frames {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), frame);
            }
        }
    }

    /// Each is kept until it is written, with more than its bytes.
    #[tokio::test]
    async fn many_small_frames_hold_room_and_one_alone_does_not() {
        let share = Arc::new(Share::new(Arc::new(Budget::new(5_000)), 5_000));
        let room = AnswerRoom { share, holder: Holder::Owner };
        let body = || {
            let frames = (0..100).map(|_| Ok::<_, Status>(Frame::data(Bytes::from_static(b"0123456789"))));
            let inner = Some(Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames))));
            let (id, form) = (RequestId::among(&Extensions::new()), Form::Grpc);
            BoundedBody { inner, room: room.clone(), id, form, first: None, has_begun: false }
        };
        let (mut answer, mut kept) = (body(), Vec::new());
        let trailers = loop {
            match answer.frame().await.unwrap().unwrap().into_data() {
                Ok(bytes) => kept.push(bytes),
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), tonic::Code::ResourceExhausted);
        assert_eq!(kept.len(), 1 + 4, "the first is free");
        let _rest = room.hold(5_000 - 4 * (FRAME_BYTES + 10)).unwrap();
        let mut other = body();
        assert!(other.frame().await.unwrap().unwrap().into_data().is_ok(), "a short answer needs no room");
        assert!(other.frame().await.unwrap().unwrap().into_data().is_err());
    }

    #[tokio::test]
    async fn an_answer_of_http_without_room_for_its_beginning_is_an_error_of_its_own() {
        let (whole, known) = (Arc::new(Budget::new(2 * STREAM_BYTES)), None);
        let share = Arc::new(Share::new(whole.clone(), u64::MAX));
        let other = whole.take(Holder::Owner, STREAM_BYTES + 1).unwrap();
        let answered = async |kind: &'static str, length: Option<&'static str>| {
            let id = RequestId::among(&Extensions::new());
            let refused = |_| Response::builder().status(429).body(Body::empty()).unwrap();
            let plain = PlainErrors { refused, ..NO_ERRORS };
            let asked = Asked { share: Some(share.clone()), known: known.clone(), id, plain };
            let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()));
            let mut response = Response::builder().header(CONTENT_TYPE, kind).header(VARY, "origin");
            if let Some(length) = length {
                response = response.header(CONTENT_LENGTH, length);
            }
            let response = response.body(body).unwrap();
            Outbound::after(asked, std::future::ready(Ok::<_, Status>(response))).await.unwrap()
        };
        for (kind, length, code) in [
            ("application/grpc", None, 200),
            ("text/event-stream", None, 429),
            ("application/json", Some("100"), 200),
            ("image/png", Some("1000000"), 429),
        ] {
            let response = answered(kind, length).await;
            assert_eq!(response.status(), code, "{kind}");
            assert_eq!(response.headers()[VARY], "origin");
        }
        drop(other);
    }
}
