//! The faces of the server on its one listener: what is gRPC goes to the services, everything else comes here.
//!
//! [`Dispatch`] parts the two by the content type of a request. [`Web`] answers plain HTTP: probes for whoever runs the
//! server, metrics, the API as JSON, and the dashboard. It owns no socket and decides nothing about jobs.

mod assets;
pub mod metrics;
mod pages;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use crate::api::access::BrowserSessions;
use crate::api::request_id::RequestId;
use crate::rest::answer::{Refusal, whole};
use crate::rest::{Rest, Services};

/// Sends `application/grpc*` to one service and the rest to another.
#[derive(Clone, Debug)]
pub struct Dispatch<G, W> {
    grpc: G,
    web: W,
    has_grpc_web: bool,
}

impl<G, W> Dispatch<G, W> {
    /// Joins the services of gRPC, gRPC-Web among it where `has_grpc_web`, and those of plain HTTP.
    pub fn new(grpc: G, web: W, has_grpc_web: bool) -> Dispatch<G, W> {
        Dispatch { grpc, web, has_grpc_web }
    }
}

impl<G, W> Service<Request<Body>> for Dispatch<G, W>
where
    G: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    W: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<G::Future, W::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        std::task::ready!(self.grpc.poll_ready(cx))?;
        self.web.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // What is no call is answered there too, without a body: who speaks gRPC would take one for messages.
        let is_taken = |kind: &HeaderValue| {
            if is_grpc_web(kind) { self.has_grpc_web } else { is_grpc(kind) && request.version() >= Version::HTTP_2 }
        };
        if request.headers().get(CONTENT_TYPE).is_some_and(is_taken) {
            Either::Left(self.grpc.call(request))
        } else {
            Either::Right(self.web.call(request))
        }
    }
}

fn is_grpc(kind: &HeaderValue) -> bool {
    kind.as_bytes().starts_with(b"application/grpc")
}

fn is_grpc_web(kind: &HeaderValue) -> bool {
    kind.as_bytes().starts_with(b"application/grpc-web")
}

/// Whether new work is taken, for whoever sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// The server is on its way to its end.
    Draining,
    /// Nothing can be committed at present.
    Store,
}

/// Answers plain HTTP. Each call has a clone of it, those of gRPC too.
#[derive(Clone, Debug)]
pub struct Web(Arc<Pages>);

/// What plain HTTP is answered with.
#[derive(Clone, Debug)]
struct Pages {
    readiness: watch::Receiver<Readiness>,
    sessions: BrowserSessions,
    api: Option<Rest>,
    metrics: Option<Services>,
    /// The metrics for callers on this machine, who need no token for them and for probes; `None`: they do.
    metrics_here: Option<Services>,
    has_dashboard: bool,
}

impl Web {
    /// Makes the service; `readiness` is what `/readyz` says, `sessions` judges who asks for it, `api` answers what is below
    /// `/v1/`, `metrics` is `/metrics`, and `has_dashboard` says whether there is one.
    pub fn new(
        readiness: watch::Receiver<Readiness>,
        sessions: BrowserSessions,
        api: Option<Rest>,
        metrics: Option<Services>,
        has_dashboard: bool,
    ) -> Web {
        Web(Arc::new(Pages { readiness, sessions, api, metrics, metrics_here: None, has_dashboard }))
    }

    /// Serves these metrics, and probes, to callers on this machine without asking who they are.
    #[must_use]
    pub fn with_metrics_here(mut self, metrics: Services) -> Web {
        Arc::make_mut(&mut self.0).metrics_here = Some(metrics);
        self
    }
}

impl Pages {
    /// Returns the metrics for a caller on this machine that need no token.
    fn here(&self, request: &Request<Body>) -> Option<&Services> {
        self.metrics_here.as_ref().filter(|_| BrowserSessions::is_here(request))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if let Some(kind) = request.headers().get(CONTENT_TYPE).filter(|kind| is_grpc(kind)) {
            return no_grpc(&request, is_grpc_web(kind));
        }
        let is_head = request.method() == Method::HEAD;
        let response = match (request.uri().path(), &self.api, &self.metrics) {
            (path, Some(api), _) if path.starts_with("/v1/") => api.answer(request).await,
            ("/metrics", _, Some(metrics)) => scraped(self.here(&request).unwrap_or(metrics), request).await,
            ("/healthz" | "/readyz", ..) => self.probe(&request),
            (path, ..) => self.page(&request, path),
        };
        if is_head { without_body(response) } else { response }
    }

    fn page(&self, request: &Request<Body>, path: &str) -> Response<Body> {
        let page = self.has_dashboard.then(|| pages::answer(request.method(), path, request.headers())).flatten();
        page.unwrap_or_else(|| Refusal::no_route(path).of(&RequestId::of(request)).into_response())
    }

    fn probe(&self, request: &Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if self.here(request).is_none()
            && let Err(refused) = self.sessions.judge_probe(request)
        {
            return Refusal::from(refused).of(&RequestId::of(request)).into_response();
        }
        let probe = match path {
            "/healthz" => (StatusCode::OK, "ok\n"),
            "/readyz" => match *self.readiness.borrow() {
                Readiness::Ready => (StatusCode::OK, "ready\n"),
                Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
                Readiness::Store => (StatusCode::SERVICE_UNAVAILABLE, "store\n"),
            },
            _ => return Refusal::no_route(path).of(&RequestId::of(request)).into_response(),
        };
        match *request.method() {
            Method::GET | Method::HEAD => {
                whole(probe.0, "text/plain; charset=utf-8", bytes::Bytes::from_static(probe.1.as_bytes()))
            }
            // What a page of another origin may do is answered before this; here it is what the path takes.
            Method::OPTIONS => looks_only(),
            _ => no_method(request),
        }
    }
}

/// Says that a path can be looked at and nothing else.
fn looks_only() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    response
}

fn no_method(request: &Request<Body>) -> Response<Body> {
    let (method, path) = (request.method().as_str(), request.uri().path());
    Refusal::no_method(method, path, "GET, HEAD, OPTIONS".to_owned()).of(&RequestId::of(request)).into_response()
}

/// Refuses a call that came here since its form is not taken: gRPC-Web that is off, or gRPC by HTTP/1.1.
fn no_grpc(request: &Request<Body>, is_web: bool) -> Response<Body> {
    let why = if is_web {
        "gRPC-Web is switched off at this server (`grpc_web`); call by gRPC, or by HTTP and JSON below /v1/"
    } else {
        "gRPC needs HTTP/2, and this call came by HTTP/1.1; use a gRPC client, have a proxy in between speak HTTP/2 to the \
         server, or call by gRPC-Web, or by HTTP and JSON below /v1/"
    };
    let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, "UNSUPPORTED_MEDIA_TYPE", why);
    refusal.of(&RequestId::of(request)).into_response()
}

/// Answers a scrape. A caller that may not is refused as everywhere outside gRPC.
async fn scraped(metrics: &Services, request: Request<Body>) -> Response<Body> {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return looks_only(),
        _ => return no_method(&request),
    }
    let response = match metrics.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    match Status::from_header_map(response.headers()) {
        Some(status) => Refusal::from(status).into_response(),
        None => response,
    }
}

/// Returns the head of an answer, which says how long its body would have been.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    // A 304 says nothing of the length: one would be of what was not sent (RFC 9110, section 8.6).
    let has_length = head.headers.contains_key(CONTENT_LENGTH) || head.status == StatusCode::NOT_MODIFIED;
    if let (Some(length), false) = (body.size_hint().exact(), has_length) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

impl Service<Request<Body>> for Web {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pages = self.0.clone();
        Box::pin(async move { Ok(pages.answer(request).await) })
    }
}
