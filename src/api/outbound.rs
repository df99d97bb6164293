//! Bounds what a client can make the server keep of answers that it does not read: bytes, for a connection and in all.
//!
//! A frame of an answer is kept from when it is made until it has been written to the connection, and a client that opens
//! many streams and no window lets none be written. So each frame holds room for as long as its bytes are kept, and an
//! answer that finds no room ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::api::request_id::RequestId;
use crate::api::status::exhausted;
use crate::listen::budget::{Hold, Share};
use crate::listen::peer::Peer;
use crate::middleware::Middleware;

/// Frames of fewer bytes hold nothing: what the protocols keep for a stream is more.
const SMALL: usize = 1 << 10;

/// Returns the error of an answer for which there is no room.
pub(crate) fn no_room() -> Status {
    let message = "too many bytes of answers wait for this client to read them; read them, or ask for fewer at once";
    exhausted("OUTBOUND_BUFFER", "outbound_buffer", message)
}

/// Takes room for bytes of an answer that are kept; `None`: the request came by no connection, which has no bound.
pub(crate) fn hold(share: Option<&Arc<Share>>, bytes: u64) -> Result<Option<Hold>, Status> {
    let Some(share) = share else { return Ok(None) };
    // What is larger than any room is sent alone.
    let bytes = bytes.min(share.max());
    let mut hold = Hold::new(share.clone());
    hold.set(bytes, bytes).map_err(|_| no_room())?;
    Ok(Some(hold))
}

/// Bounds answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outbound;

impl Middleware for Outbound {
    type Kept = (Option<Arc<Share>>, RequestId);

    fn before(&self, request: &mut Request<Body>) -> Result<Self::Kept, Box<Response<Body>>> {
        let share = request.extensions().get::<Arc<Peer>>().map(|peer| peer.outbound.clone());
        Ok((share, RequestId::of(request)))
    }

    async fn after<E: Send>(
        (share, id): Self::Kept,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let response = answer.await?;
        let Some(share) = share.filter(|_| response.extensions().get::<Shared>().is_none()) else {
            return Ok(response);
        };
        let kind = response.headers().get(CONTENT_TYPE);
        let form = Form::of(kind.map_or(&[], |kind| kind.as_bytes()));
        Ok(response.map(|body| {
            if body.is_end_stream() {
                return body;
            }
            Body::new(BoundedBody { inner: Some(body), share, id, form })
        }))
    }
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
    share: Arc<Share>,
    id: RequestId,
    form: Form,
}

/// How an answer can say that it ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In trailers.
    Grpc,
    /// In a frame of its own, which browsers can read.
    GrpcWeb,
    /// In such a frame as base64.
    GrpcWebText,
    /// Not at all.
    Plain,
}

impl Form {
    fn of(kind: &[u8]) -> Form {
        match kind {
            b"application/grpc" => Form::Grpc,
            _ if kind.starts_with(b"application/grpc-web-text") => Form::GrpcWebText,
            _ if kind.starts_with(b"application/grpc-web") => Form::GrpcWeb,
            _ => Form::Plain,
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
    let mut frame = vec![0x80];
    frame.extend(u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(lines);
    frame.into()
}

impl BoundedBody {
    /// Ends the answer: with a status where its kind has trailers, else before its end.
    fn end(&mut self, status: Status) -> Result<Frame<Bytes>, Status> {
        self.inner = None;
        let status = self.id.on(status);
        if self.form == Form::Plain {
            return Err(status);
        }
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(match self.form {
            Form::GrpcWeb => Frame::data(trailers_frame(&trailers)),
            Form::GrpcWebText => {
                use base64::Engine as _;
                Frame::data(base64::engine::general_purpose::STANDARD.encode(trailers_frame(&trailers)).into())
            }
            Form::Grpc | Form::Plain => Frame::trailers(trailers),
        })
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = match std::task::ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        if frame.data_ref().is_none_or(|data| data.len() < SMALL) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Ok(bytes) = frame.into_data() else { return Poll::Ready(None) };
        Poll::Ready(Some(match hold(Some(&this.share), bytes.len() as u64) {
            Ok(Some(room)) => Ok(Frame::data(Bytes::from_owner(Held { bytes, _room: room }))),
            Ok(None) => Ok(Frame::data(bytes)),
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

    #[tokio::test]
    async fn bytes_hold_room_until_they_are_written_and_without_room_the_answer_ends() {
        let share = Arc::new(Share::new(Arc::new(Budget::new(5_000)), 5_000));
        let body = |form| {
            let inner = Some(Body::new(Full::new(Bytes::from(vec![7; 3_000]))));
            BoundedBody { inner, share: share.clone(), id: RequestId::among(&http::Extensions::new()), form }
        };
        let kept = body(Form::Grpc).frame().await.unwrap().unwrap().into_data().unwrap();
        let trailers = body(Form::Grpc).frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), tonic::Code::ResourceExhausted);
        let frame = body(Form::of(b"application/grpc-web+proto")).frame().await.unwrap().unwrap().into_data().unwrap();
        let lines = String::from_utf8_lossy(&frame[5..]);
        assert!(frame[0] == 0x80 && lines.contains("grpc-status:8\r\n") && lines.contains("grpc-status-details-bin:"));
        assert_eq!(u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize, frame.len() - 5);
        assert!(body(Form::Plain).frame().await.unwrap().is_err());
        drop(kept);
        assert!(body(Form::Grpc).frame().await.unwrap().unwrap().into_data().is_ok());
        assert!(hold(Some(&share), 1 << 30).unwrap().is_some(), "what is larger than any room goes alone");
    }
}
