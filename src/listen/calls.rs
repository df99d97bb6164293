//! The requests of one connection on their way to the service, the count of those that are open, and whether the client
//! reads what it asked for.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower::util::Oneshot;
use tower::{Service, ServiceExt as _};

use crate::listen::peer::Peer;
use crate::listen::places::{KnownCaller, OpenCall, Place};
use crate::listen::unread::{Answering, Unread};

/// What answers requests: a stack of layers over the services.
pub trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The service of one connection.
pub(super) struct Calls<S> {
    pub(super) service: S,
    pub(super) peer: Arc<Peer>,
    pub(super) place: Arc<Place>,
    pub(super) unread: Arc<Unread>,
}

impl<S: Answers> hyper::service::Service<Request<Incoming>> for Calls<S> {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = Answer<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let open = Arc::new(self.place.call());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(KnownCaller(Arc::downgrade(&open)));
        let call = Call { open, unread: self.unread.clone() };
        Answer { answer: Box::pin(self.service.clone().oneshot(request)), call: Some(call) }
    }
}

/// A call that is open, on a connection.
struct Call {
    open: Arc<OpenCall>,
    unread: Arc<Unread>,
}

/// The answer to come.
pub(super) struct Answer<S: Answers> {
    answer: Pin<Box<Oneshot<S, Request<Body>>>>,
    call: Option<Call>,
}

impl<S: Answers> Future for Answer<S> {
    type Output = Result<Response<CountedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = std::task::ready!(self.answer.as_mut().poll(cx));
        let call = self.call.take();
        Poll::Ready(answered.map(|response| {
            response.map(|body| {
                let call = call.map(|it| Arc::new(Answered { answering: it.unread.answering(), _open: it.open }));
                CountedBody { body, call }
            })
        }))
    }
}

/// The body of an answer. Its call is open until this and all that came of it are dropped.
pub(super) struct CountedBody {
    body: Body,
    call: Option<Arc<Answered>>,
}

/// A call that is answered, for as long as anything of the answer has not left.
struct Answered {
    answering: Answering,
    _open: Arc<OpenCall>,
}

/// Bytes of an answer. The connection takes the last of them before there is room to write them, and drops the body then; so it is
/// they that say when the answer has left.
struct Leaving {
    bytes: Bytes,
    call: Arc<Answered>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.call.answering.has_moved();
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(call) = &this.call else { return polled };
        // Asked for more, the connection has room; what it was given waits for the client until it asks again.
        call.answering.set_waits(polled.is_ready());
        let leaving = |bytes| Bytes::from_owner(Leaving { bytes, call: call.clone() });
        polled.map_ok(|frame| frame.map_data(leaving))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
