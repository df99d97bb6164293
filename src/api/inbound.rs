//! Bounds what a client can make the server keep of requests that are not whole: bytes of messages, and time.
//!
//! The gRPC library keeps the bytes of a message until all of it has come, whatever time that takes. This layer reads the
//! five bytes before each message, holds room for what has come of it, and ends a request whose client has fallen silent.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::status::{Fault, exhausted};
use crate::listen::budget::Hold;
use crate::listen::peer::Peer;
use crate::middleware::Middleware;

/// The bytes before a message: whether it is compressed, and its length.
const HEAD_BYTES: u64 = 5;

/// Where a body stands between its messages.
#[derive(Debug, Default)]
struct Meter {
    /// Bytes that have come of the message that is under way, with its head.
    come: u64,
    /// The length that the head says, of which so much is read.
    length: u64,
}

impl Meter {
    /// Takes the next bytes of a body.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.come < HEAD_BYTES {
                // The first byte of a head says whether the message is compressed.
                if self.come > 0 {
                    self.length = self.length << 8 | u64::from(bytes[0]);
                }
                self.come += 1;
                bytes = &bytes[1..];
            } else {
                let missing = HEAD_BYTES + self.length - self.come;
                let now = missing.min(bytes.len() as u64);
                self.come += now;
                bytes = &bytes[now as usize..];
            }
            if self.come >= HEAD_BYTES && self.come == HEAD_BYTES + self.length {
                *self = Meter::default();
            }
        }
    }

    /// Returns the bytes that the message under way will have, as far as its head is known.
    ///
    /// One that is longer than any may be announces nothing: the gRPC library refuses it by its head.
    fn announced(&self, message_bytes_max: u64) -> u64 {
        let is_known = self.come >= HEAD_BYTES && self.length <= message_bytes_max;
        if is_known { HEAD_BYTES + self.length } else { self.come }
    }
}

/// Bounds requests.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// How long a request may wait for the next byte of its client.
    idle_max: Duration,
    message_bytes_max: u64,
    /// Paths of methods whose clients may be silent between two messages.
    streaming: Arc<HashSet<String>>,
}

impl Inbound {
    /// Makes the layer for the services of these descriptors, which take messages of so many bytes.
    pub fn new(idle_max: Duration, message_bytes_max: u64, descriptors: &[&[u8]]) -> Inbound {
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
        let waits_for_client = self.streaming.contains(request.uri().path());
        let (idle_max, message_bytes_max) = (self.idle_max, self.message_bytes_max);
        let inner = Some(std::mem::take(request.body_mut()));
        let silence = Silence { time: idle_max, sleep: None, is_running: false };
        let (meter, hold) = (Meter::default(), Hold::new(share));
        *request.body_mut() =
            Body::new(BoundedBody { inner, meter, hold, silence, waits_for_client, message_bytes_max });
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
    /// `None` once it broke its bounds.
    inner: Option<Body>,
    meter: Meter,
    hold: Hold,
    silence: Silence,
    waits_for_client: bool,
    message_bytes_max: u64,
}

impl BoundedBody {
    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        Poll::Ready(Some(Err(status)))
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.silence.broken();
                if let Some(bytes) = frame.data_ref() {
                    this.meter.take(bytes);
                    let announced = this.meter.announced(this.message_bytes_max);
                    if this.hold.set(announced, this.meter.come).is_err() {
                        return this.end(no_room());
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending if !this.waits_for_client || this.meter.come > 0 => {
                std::task::ready!(this.silence.poll_over(cx));
                let status = silent(this.silence.time);
                this.end(status)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

pub(crate) fn no_room() -> Status {
    let message = "too many bytes of unfinished messages are waiting for the rest of them; send fewer messages at once";
    exhausted("INBOUND_BUFFER", "inbound_buffer_bytes", message)
}

pub(crate) fn silent(time: Duration) -> Status {
    let message =
        format!("nothing came of the request for {} s, and it is not whole; send it again", time.as_secs_f64());
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_it_is_cut_only_the_unfinished_message_waits(
            lengths in prop::collection::vec(0_usize..600, 0..6),
            cuts in prop::collection::vec(1_usize..200, 1..20),
            missing in 0_usize..300,
        ) {
            let (mut body, mut ends) = (Vec::new(), vec![0]);
            for length in lengths {
                body.push(0);
                body.extend((length as u32).to_be_bytes());
                body.extend(vec![7; length]);
                ends.push(body.len());
            }
            body.truncate(body.len().saturating_sub(missing));
            let (mut meter, mut at) = (Meter::default(), 0);
            for cut in cuts.iter().cycle() {
                if at == body.len() { break; }
                let next = (at + cut).min(body.len());
                meter.take(&body[at..next]);
                at = next;
                let last = ends.iter().rfind(|end| **end <= at).copied().unwrap_or(0);
                prop_assert_eq!(meter.come as usize, at - last);
            }
        }
    }

    #[test]
    fn the_longest_length_does_not_overflow() {
        let mut meter = Meter::default();
        meter.take(&[0, 255, 255, 255, 255, 1, 2]);
        assert_eq!((meter.come, meter.announced(1 << 24)), (7, 7));
        assert_eq!(meter.announced(u64::from(u32::MAX)), 5 + u64::from(u32::MAX));
    }

    #[test]
    fn methods_whose_client_streams_are_known_by_their_path() {
        let layer = Inbound::new(Duration::ZERO, 0, &[crate::pb::FILE_DESCRIPTOR_SET]);
        assert!(layer.streaming.contains("/haul.v1.JobService/AddTasks"));
        assert!(!layer.streaming.contains("/haul.v1.JobService/SubmitJob"));
    }
}
