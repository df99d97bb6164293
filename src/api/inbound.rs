//! Bounds what a client can make the server keep of requests that are not whole: bytes of messages, and time.
//!
//! The gRPC library keeps the bytes of a message until all of it has come, and the message until its request has ended,
//! whatever time that takes. This layer keeps what has come instead and holds room for it ([`Framing`]), gives on the one
//! message of a call when its request has ended, and ends a request whose client has fallen silent.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::framing::{Framing, Packing};
use crate::api::status::{Fault, exhausted, unavailable};
use crate::listen::KnownCaller;
use crate::listen::budget::Hold;
use crate::listen::peer::Peer;
use crate::middleware::Middleware;

/// How many times the longest silence a whole message may take: a client that sends a byte now and then is not silent.
pub(crate) const WHOLE_TIMES: u32 = 20;

/// The largest message of what is not of the contract, which asks about names of services and of symbols. Strangers may
/// ask, so no such message is unpacked to more, or takes room from others.
pub(crate) const QUESTION_BYTES_MAX: usize = 4 << 10;

/// Bounds requests.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// How long a request may wait for the next byte of its client.
    idle_max: Duration,
    message_bytes_max: usize,
    /// Paths of methods whose clients may be silent between two messages.
    streaming: Arc<HashSet<String>>,
}

impl Inbound {
    /// Makes the layer for the services of these descriptors, which take messages of so many bytes.
    pub fn new(idle_max: Duration, message_bytes_max: usize, descriptors: &[&[u8]]) -> Inbound {
        let sets = descriptors.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
        let mut streaming = HashSet::new();
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let methods = service.method.iter().filter(|method| method.client_streaming());
                streaming
                    .extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
            }
        }
        Inbound { idle_max, message_bytes_max, streaming: Arc::new(streaming) }
    }
}

impl Middleware for Inbound {
    type Kept = ();

    fn before(&self, request: &mut Request<Body>) -> Result<(), Box<Response<Body>>> {
        let share = request.extensions().get::<Arc<Peer>>().map(|peer| peer.share.clone());
        let Some(share) = share.filter(|_| !request.body().is_end_stream()) else { return Ok(()) };
        let path = request.uri().path();
        let is_streaming = self.streaming.contains(path);
        let bytes_max = if path.starts_with("/haul.v1.") { self.message_bytes_max } else { QUESTION_BYTES_MAX };
        let packing = Packing::take(request.headers_mut());
        let framing = Framing::new(is_streaming, packing, bytes_max);
        let inner = Some(std::mem::take(request.body_mut()));
        let silence = Silence { time: self.idle_max, sleep: None, is_running: false };
        let began = (!is_streaming).then(Instant::now);
        let hold = Hold::of_request(share, KnownCaller::holder_of(request.extensions()));
        *request.body_mut() = Body::new(BoundedBody {
            inner,
            framing,
            trailers: None,
            hold,
            silence,
            began,
            under_way: None,
            is_streaming,
        });
        Ok(())
    }

    async fn after<E: Send>(
        (): (),
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        answer.await
    }
}

/// The time since the last byte.
struct Silence {
    time: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Silence {
    /// Waits for the end of the time that runs since the first call after [`Silence::broken`].
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.time;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if !self.is_running {
            self.is_running = true;
            sleep.as_mut().reset(Instant::now() + time);
        }
        sleep.as_mut().poll(cx)
    }

    /// Notes that something came.
    fn broken(&mut self) {
        self.is_running = false;
    }
}

/// The body of a request, within its bounds.
struct BoundedBody {
    /// `None` once it has ended or broke its bounds.
    inner: Option<Body>,
    framing: Framing,
    /// What ends the request, until its message was given on.
    trailers: Option<Frame<Bytes>>,
    hold: Hold,
    silence: Silence,
    /// When what is under way began: a message of a stream, and any other request.
    began: Option<Instant>,
    /// Which message of a stream that is.
    under_way: Option<u64>,
    is_streaming: bool,
}

impl BoundedBody {
    /// Returns the next bytes to give on, of what has come so far.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut next = self.framing.give()?;
        if next.is_none() && self.inner.is_none() {
            next = self.framing.last()?;
        }
        let (announced, come) = self.framing.held();
        self.hold.set(announced, come).map_err(|_| no_room())?;
        Ok(next)
    }

    /// Takes what has come.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Status> {
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                self.silence.broken();
                self.framing.take(bytes);
            }
            Err(trailers) => (self.trailers, self.inner) = (Some(trailers), None),
        }
        let whole_max = self.silence.time.saturating_mul(WHOLE_TIMES);
        match self.began {
            Some(began) if began.elapsed() > whole_max => Err(slow(whole_max)),
            _ => Ok(()),
        }
    }

    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.inner, self.trailers) = (None, None);
        self.framing = Framing::new(false, None, 0);
        Poll::Ready(Some(Err(status)))
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            match this.next() {
                Ok(Some(bytes)) => {
                    if this.is_streaming && this.framing.is_between() {
                        // What is handed on has its own bounds, and nobody may ask for more until these let it in. Where it may
                        // not rest, the stream ends once more is asked for.
                        let _ = this.hold.rest();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Ok(None) => {}
                Err(status) => return this.end(status),
            }
            if this.is_streaming {
                let under_way = this.framing.under_way();
                if this.under_way != under_way {
                    (this.under_way, this.began) = (under_way, under_way.map(|_| Instant::now()));
                }
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(this.trailers.take().map(Ok)) };
            match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Err(status) = this.take(frame) {
                        return this.end(status);
                    }
                }
                Poll::Ready(Some(Err(status))) => return this.end(status),
                Poll::Ready(None) => this.inner = None,
                Poll::Pending if this.began.is_some() => {
                    std::task::ready!(this.silence.poll_over(cx));
                    let status = silent(this.silence.time);
                    return this.end(status);
                }
                // Nothing is under way, and nothing is waited for that has a time.
                Poll::Pending => match this.hold.rest() {
                    Ok(()) => return Poll::Pending,
                    Err(_) => return this.end(no_rest()),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_more = self.inner.as_ref().is_some_and(|inner| !inner.is_end_stream());
        !has_more && self.trailers.is_none() && self.framing.is_empty()
    }
}

pub(crate) fn no_room() -> Status {
    let message =
        "the server holds too many bytes of requests that have not ended; send fewer or smaller messages at once";
    exhausted("INBOUND_BUFFER", "inbound_buffer_bytes", message)
}

/// Returns the error of a stream that has to end, since too many keep the room of their messages. What it has sent is stored.
fn no_rest() -> Status {
    let message = "too many streams are open that have brought large messages and bring nothing now; open this one again \
                   for the next message";
    unavailable("INBOUND_BUFFER", message)
}

pub(crate) fn silent(time: Duration) -> Status {
    let message =
        format!("no byte of the request arrived for {} s, and it is incomplete; send it again", time.as_secs_f64());
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
}

pub(crate) fn slow(time: Duration) -> Status {
    let message = format!("the request was still incomplete after {} s; send it in smaller parts", time.as_secs_f64());
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_whose_client_streams_are_known_by_their_path() {
        let layer = Inbound::new(Duration::ZERO, 0, &[crate::pb::FILE_DESCRIPTOR_SET]);
        assert!(layer.streaming.contains("/haul.v1.JobService/AddTasks"));
        assert!(!layer.streaming.contains("/haul.v1.JobService/SubmitJob"));
    }
}
