//! What stands around calls: the one way in which a layer of any face looks at requests and answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Looks at a request on its way in, and at its answer on its way out.
pub trait Middleware: Clone {
    /// What is kept of a request until its answer comes.
    type Kept: Send + 'static;

    /// Looks at a request before anything behind it runs. An answer that is returned as the error is the whole answer, and
    /// nothing runs.
    fn before(&self, request: &mut Request<Body>) -> Result<Self::Kept, Box<Response<Body>>>;

    /// Waits for the answer, and may change it or end the call before it comes.
    fn after<E: Send>(
        kept: Self::Kept,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> impl Future<Output = Result<Response<Body>, E>> + Send;
}

/// The layer that puts a [`Middleware`] around a service.
#[derive(Clone, Debug)]
pub struct MiddlewareLayer<M>(pub M);

impl<S, M: Middleware> Layer<S> for MiddlewareLayer<M> {
    type Service = MiddlewareService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        MiddlewareService { inner, middleware: self.0.clone() }
    }
}

/// A service with a [`Middleware`] around it.
#[derive(Clone, Debug)]
pub struct MiddlewareService<S, M> {
    inner: S,
    middleware: M,
}

impl<S, M> Service<Request<Body>> for MiddlewareService<S, M>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    M: Middleware + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.middleware.before(&mut request) {
            Ok(kept) => Box::pin(M::after(kept, self.inner.call(request))),
            Err(answer) => Box::pin(std::future::ready(Ok(*answer))),
        }
    }
}

/// Returns a body that ends with the error that `over` says, in trailers, as soon as it says one.
pub fn until(body: Body, over: impl FnMut(&mut Context<'_>) -> Poll<Status> + Send + Unpin + 'static) -> Body {
    Body::new(Until { inner: Some(body), over })
}

struct Until<F> {
    /// `None` once the call has ended, so that what feeds the body ends too.
    inner: Option<Body>,
    over: F,
}

impl<F: FnMut(&mut Context<'_>) -> Poll<Status> + Unpin> HttpBody for Until<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Until { inner, over } = &mut *self;
        let Some(body) = inner else { return Poll::Ready(None) };
        // The end is asked first: a stream that always has a message ends too.
        if let Poll::Ready(status) = over(cx) {
            *inner = None;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
