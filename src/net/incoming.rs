//! The bytes of a body as they come off a connection, of either version of HTTP.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::Body as _;

use crate::model::failure::Failure;
use crate::net::classify;

/// HTTP/2 frames are gathered up to this before they are handed on: each would be a write of its own otherwise.
const GATHER_BYTES: usize = 256 << 10;

/// Where two frames have so many bytes, room is made for many more at once. What comes in less must not cost a whole buffer for
/// each byte.
const LARGE_BYTES: usize = 16 << 10;

/// A body on its way.
pub(super) enum Incoming {
    /// Over HTTP/1.1, where hyper watches its framing.
    Http1(Plain),
    /// Over HTTP/2.
    Http2(Stream),
}

/// A body over HTTP/1.1.
pub(super) struct Plain {
    body: hyper::body::Incoming,
    /// How many bytes are still to come, where the head says so and nothing frames them.
    due: Option<u64>,
}

/// A body over HTTP/2.
pub(super) struct Stream {
    stream: RecvStream,
    /// What `Content-Length` says that there is.
    length: Option<u64>,
    /// Bytes that came.
    came: u64,
    end: End,
}

/// What comes behind the bytes that were gathered.
enum End {
    /// More of them, for all that is known.
    Open,
    Whole,
    Broken(h2::Error),
}

impl Incoming {
    /// The body of an HTTP/1.1 answer. `due`: how many bytes its head says there are, where nothing frames them.
    pub(super) fn http1(body: hyper::body::Incoming, due: Option<u64>) -> Incoming {
        Incoming::Http1(Plain { body, due })
    }

    /// The body of an HTTP/2 answer. `length`: what its head says of it.
    pub(super) fn http2(stream: RecvStream, length: Option<u64>) -> Incoming {
        Incoming::Http2(Stream { stream, length, came: 0, end: End::Open })
    }

    /// Returns whether all of it has been handed out.
    pub(super) fn is_at_end(&self) -> bool {
        match self {
            Incoming::Http1(plain) => plain.body.is_end_stream(),
            Incoming::Http2(body) => body.stream.is_end_stream() || matches!(body.end, End::Whole),
        }
    }

    /// The next bytes; never empty. `None` only where the body is whole.
    pub(super) fn poll_data(&mut self, host: &str, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        match self {
            Incoming::Http1(Plain { body, due }) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    // Trailers are of no interest.
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => {
                            // More than it said shows at the end, as less does.
                            *due = due.map(|due| due.checked_sub(data.len() as u64).unwrap_or(u64::MAX));
                            return Poll::Ready(Some(Ok(data)));
                        }
                        _ => {}
                    },
                    Some(Err(error)) => return Poll::Ready(Some(Err(classify::body(host, &error)))),
                    None => {
                        let is_other = due.take().is_some_and(|due| due > 0);
                        return Poll::Ready(is_other.then(|| Err(classify::other_length(host))));
                    }
                }
            },
            Incoming::Http2(body) => match ready!(body.poll_gathered(cx)) {
                Some(Ok(data)) => Poll::Ready(Some(Ok(data))),
                Some(Err(error)) => {
                    let due = body.length.map(|length| (body.came, length));
                    Poll::Ready(Some(Err(classify::stream_body(host, &error, due))))
                }
                None => Poll::Ready(None),
            },
        }
    }
}

impl Stream {
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        match std::mem::replace(&mut self.end, End::Whole) {
            End::Open => self.end = End::Open,
            End::Whole => return Poll::Ready(None),
            End::Broken(error) => return Poll::Ready(Some(Err(error))),
        }
        let first = match ready!(self.poll_frame(cx)) {
            Some(Ok(data)) => data,
            other => return Poll::Ready(other),
        };
        let mut more = BytesMut::new();
        while first.len().max(more.len()) < GATHER_BYTES {
            let Poll::Ready(next) = self.poll_frame(cx) else { break };
            match next {
                Some(Ok(data)) => {
                    if more.is_empty() {
                        let both = first.len() + data.len();
                        more.reserve(if both >= LARGE_BYTES { GATHER_BYTES } else { both });
                        more.extend_from_slice(&first);
                    }
                    more.extend_from_slice(&data);
                }
                // It goes on behind its length, and what was gathered would pass for the whole. One that is short has brought what it has.
                Some(Err(error)) if error.is_library() && error.is_reset() && self.length == Some(self.came) => {
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Err(error)) => {
                    self.end = End::Broken(error);
                    break;
                }
                None => {
                    self.end = End::Whole;
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(if more.is_empty() { first } else { more.freeze() })))
    }

    /// One frame that is not empty. A stream ends where its peer ends it, or where its length is reached; one that is
    /// reset before either is not whole, whatever the reason given, nor is one that goes on behind its length.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // Fails only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.came += data.len() as u64;
                    return Poll::Ready(Some(Ok(data)));
                }
                Some(Err(error)) if self.length == Some(self.came) && !error.is_library() => return Poll::Ready(None),
                other => return Poll::Ready(other),
            }
        }
    }
}
