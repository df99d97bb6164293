//! Streams whose messages are framed before they come here, so that what many clients are sent is put together once.
//!
//! The usual way of a stream encodes and copies each message for each client. Where thousands watch a job that ends a thousand
//! tasks a second that is a million messages a second; here it is as many pieces of bytes as there are looks, which all watchers
//! share. Only what is sent without compression goes this way: compressed messages are made for each client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

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
            Some(frames) => response.map(|_| Body::new(FrameBody { frames: Some(frames) })),
            None => response,
        })
    }
}

/// The body of such an answer.
struct FrameBody {
    /// `None` once its status was sent.
    frames: Option<Frames>,
}

impl HttpBody for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let status = match ready!(Pin::new(frames).poll_next(cx)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.frames = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
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
