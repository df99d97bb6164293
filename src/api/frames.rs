//! Streams whose messages are framed before they come here, so that what many clients are sent is put together once.
//!
//! The usual way of a stream encodes and copies each message for each client. Where thousands watch a job that ends a thousand
//! tasks a second that is a million messages a second; here it is as many pieces of bytes as there are looks, which all watchers
//! share. Only what is sent without compression goes this way: compressed messages are made for each client. Many clients offer to
//! take compressed messages with each call and are none the worse for others, so watches with bodies alone are compressed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use crate::middleware::Middleware;

/// Bytes before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;
/// What is sent by itself, since many clients share it. Less is copied, so that it travels together.
const ALONE_BYTES: usize = 4 << 10;
/// How much is put together.
const TOGETHER_BYTES: usize = 32 << 10;

/// Whole messages, each framed.
pub(crate) type Frames = BoxStream<'static, Result<Bytes, Status>>;

/// Returns how many bytes a message takes with its frame.
pub(crate) fn framed_len(message: &[u8]) -> usize {
    HEAD_BYTES + message.len()
}

/// Adds a message with its frame.
pub(crate) fn put_framed(message: &[u8], to: &mut BytesMut) {
    to.put_u8(0);
    to.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    to.put_slice(message);
}

/// Returns whether the messages that a client is sent are to be compressed.
pub(crate) fn wants_compression(metadata: &MetadataMap) -> bool {
    let accepted = metadata.get("grpc-accept-encoding").and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|encoding| matches!(encoding.trim(), "gzip" | "zstd"))
}

/// Returns an answer whose messages are these, once it has passed [`SendFrames`].
pub(crate) fn answer<T: Send + 'static>(frames: Frames) -> tonic::Response<BoxStream<'static, Result<T, Status>>> {
    let mut response = tonic::Response::new(stream::empty().boxed());
    response.extensions_mut().insert(Framed(Arc::new(Mutex::new(Some(frames)))));
    response
}

/// Frames on their way from the service to its layer. What an answer carries has to be cloneable; they are taken once.
#[derive(Clone)]
struct Framed(Arc<Mutex<Option<Frames>>>);

/// Gives answers that were made by [`answer`] their body.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendFrames;

impl Middleware for SendFrames {
    type Kept = ();

    fn before(&self, _: &mut Request<Body>) -> Result<(), Box<Response<Body>>> {
        Ok(())
    }

    async fn after<E: Send>(
        (): (),
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let mut response = answer.await?;
        let framed = response.extensions_mut().remove::<Framed>();
        let frames = framed.and_then(|Framed(frames)| frames.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(match frames {
            Some(frames) => {
                // The library announces what the client accepts, and none of these is compressed.
                response.headers_mut().remove("grpc-encoding");
                response.map(|_| Body::new(FrameBody::new(frames)))
            }
            None => response,
        })
    }
}

/// The body of such an answer. Small pieces that are ready at once travel together: each frame costs memory beside its bytes, for
/// which it holds room among all answers that nobody reads.
struct FrameBody {
    /// `None` once it has ended.
    frames: Option<Frames>,
    /// Small pieces that wait for more.
    small: BytesMut,
    /// What follows them by itself.
    alone: Option<Bytes>,
    /// How it ended, until that is sent.
    end: Option<Status>,
}

impl FrameBody {
    fn new(frames: Frames) -> FrameBody {
        FrameBody { frames: Some(frames), small: BytesMut::new(), alone: None, end: None }
    }

    /// Takes what is ready, until there is something to send.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.alone.is_none() && self.small.len() < TOGETHER_BYTES {
            let Some(frames) = &mut self.frames else { break };
            match Pin::new(frames).poll_next(cx) {
                Poll::Pending if self.small.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(bytes))) if bytes.len() >= ALONE_BYTES => self.alone = Some(bytes),
                Poll::Ready(Some(Ok(bytes))) => self.small.extend_from_slice(&bytes),
                Poll::Ready(last) => {
                    self.frames = None;
                    self.end = Some(last.and_then(Result::err).unwrap_or_else(|| Status::ok("")));
                }
            }
        }
        Poll::Ready(())
    }
}

impl HttpBody for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.gather(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.small.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.small.split().freeze()))));
        }
        if let Some(bytes) = self.alone.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(status) = self.end.take() else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none() && self.small.is_empty() && self.alone.is_none() && self.end.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn sent(items: Vec<Result<Bytes, Status>>) -> (Vec<u8>, Status) {
        let mut response = Response::new(Body::empty());
        (_, _, *response.extensions_mut()) = answer::<()>(stream::iter(items).boxed()).into_parts();
        let passed = SendFrames::after((), std::future::ready(Ok::<_, ()>(response))).await.unwrap();
        let whole = passed.into_body().collect().await.unwrap();
        let status = Status::from_header_map(whole.trailers().unwrap()).unwrap();
        (whole.to_bytes().to_vec(), status)
    }

    #[tokio::test]
    async fn frames_are_sent_as_they_are_and_the_status_follows() {
        let mut frames = BytesMut::new();
        put_framed(b"ab", &mut frames);
        put_framed(b"", &mut frames);
        assert_eq!(frames.len(), framed_len(b"ab") + framed_len(b""));
        let (bytes, status) = sent(vec![Ok(frames.freeze())]).await;
        assert_eq!(bytes, b"\0\0\0\0\x02ab\0\0\0\0\0");
        assert_eq!(status.code(), tonic::Code::Ok);
        let (bytes, status) = sent(vec![Err(Status::unavailable("why"))]).await;
        assert_eq!((bytes.len(), status.code(), status.message()), (0, tonic::Code::Unavailable, "why"));
    }

    #[tokio::test]
    async fn small_pieces_travel_together_and_in_order() {
        let piece = |length: usize, fill: u8| Ok(Bytes::from(vec![fill; length]));
        let pieces = vec![piece(10, 1), piece(20, 2), piece(ALONE_BYTES, 3), piece(30, 4), Err(Status::aborted("end"))];
        let mut body = FrameBody::new(stream::iter(pieces).boxed());
        let mut sizes = Vec::new();
        let mut all = Vec::new();
        let status = loop {
            let frame = body.frame().await.unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => {
                    sizes.push(data.len());
                    all.extend_from_slice(&data);
                }
                Err(frame) => break Status::from_header_map(frame.trailers_ref().unwrap()).unwrap(),
            }
        };
        assert_eq!(sizes, [30, ALONE_BYTES, 30]);
        assert!(all.is_sorted(), "the order is another one");
        assert_eq!(status.code(), tonic::Code::Aborted);
        assert!(body.is_end_stream() && body.frame().await.is_none());
        // What is ready does not wait for what is not.
        let mut body = FrameBody::new(stream::iter([piece(5, 1)]).chain(stream::pending()).boxed());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 5);
        let mut body = FrameBody::new(stream::iter((0..100).map(move |_| piece(1000, 1))).boxed());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 33_000);
    }

    #[test]
    fn a_client_says_whether_it_wants_compression() {
        let says = |value: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-accept-encoding", value.parse().unwrap());
            wants_compression(&metadata)
        };
        assert!(says("identity, deflate, gzip") && says("zstd"));
        assert!(!says("identity") && !wants_compression(&MetadataMap::new()));
    }
}
