//! One HTTP connection: its handshake, and one request on it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use url::Position;

use crate::model::failure::{Failure, FailureReason};
use crate::net::pool::Endpoint;
use crate::net::tasks::Tasks;
use crate::net::wire::Wire;
use crate::net::{Permit, Request, classify, lock};

/// Read buffers of HTTP/1.1 grow up to this: below 256 KiB large bodies cost much more CPU, above 1 MiB they fall out
/// of the processor's cache.
const BUFFER_BYTES_MAX: usize = 512 << 10;
/// What an HTTP/2 peer may send of one body, and of all on a connection, before we read it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// An HTTP/2 connection in use is asked this often whether it still lives: many requests depend on it.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a close takes to reach the peer, about: until then it counts the request that was broken off.
const CLOSE_TRAVEL: Duration = Duration::from_millis(100);

/// A connection as one request has it.
pub(super) enum Connection {
    /// For this request alone.
    Http1(Http1),
    /// Shared.
    Http2(Http2),
}

pub(super) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    received: Arc<AtomicU64>,
    remote: SocketAddr,
    /// Of the request that is in flight; shared with the task that drives the connection and knows when it is closed.
    permit: Arc<Mutex<Permit>>,
}

pub(super) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    /// One reference is the pool's; every other is a request's.
    load: Arc<()>,
    remote: SocketAddr,
}

impl Http1 {
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until it can take a request; `false` when it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Gives the permit of the request back, whose response has been read to its end.
    pub(super) fn free(&self) {
        drop(std::mem::take(&mut *lock(&self.permit)));
    }
}

impl Http2 {
    pub(super) fn share(&self) -> Http2 {
        Http2 { sender: self.sender.clone(), load: Arc::clone(&self.load), remote: self.remote }
    }

    /// Requests on it.
    pub(super) fn load(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Shakes hands over `wire`. The task that drives the connection is owned by `tasks`.
pub(super) async fn establish(
    wire: Wire,
    remote: SocketAddr,
    tasks: &Tasks,
    host: &str,
) -> Result<Connection, Failure> {
    if wire.is_http2() {
        return establish_http2(wire, remote, tasks, host).await;
    }
    let received = wire.received();
    let shaken = http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(TokioIo::new(wire)).await;
    let (sender, driver) = shaken.map_err(|error| classify::answer(host, &error, false))?;
    let permit = Arc::new(Mutex::new(Permit::default()));
    let held = Arc::clone(&permit);
    tasks.spawn(async move {
        // Its error, if any, reaches the request that it hit.
        let is_closed_by_us = driver.await.is_ok();
        let permit = std::mem::take(&mut *lock(&held));
        if is_closed_by_us && !permit.is_empty() {
            tokio::time::sleep(CLOSE_TRAVEL).await;
        }
        drop(permit);
    });
    Ok(Connection::Http1(Http1 { sender, received, remote, permit }))
}

async fn establish_http2(wire: Wire, remote: SocketAddr, tasks: &Tasks, host: &str) -> Result<Connection, Failure> {
    let shaken = http2::Builder::new(tasks.executor())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .handshake(TokioIo::new(wire))
        .await;
    let (sender, driver) = shaken.map_err(|error| classify::answer(host, &error, false))?;
    tasks.spawn(async move {
        let _ = driver.await;
    });
    Ok(Connection::Http2(Http2 { sender, load: Arc::new(()), remote }))
}

/// A request that came to nothing, and with it its connection.
pub(super) struct Lost {
    pub(super) failure: Failure,
    /// Whether it may be sent again although it may have arrived: nothing of it went out, or nothing came back and the
    /// method allows repeating.
    pub(super) may_resend: bool,
}

impl Connection {
    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Connection::Http1(http1) => http1.remote,
            Connection::Http2(http2) => http2.remote,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        endpoint: &Endpoint,
        request: &Request,
    ) -> Result<http::Response<Incoming>, Lost> {
        let fatal = |failure| Lost { failure, may_resend: false };
        match self {
            Connection::Http1(http1) => {
                let message = http1_message(endpoint, request).map_err(fatal)?;
                *lock(&http1.permit) = request.permit.clone();
                let before = http1.received.load(Ordering::Relaxed);
                http1.sender.try_send_request(message).await.map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    let answered = http1.received.load(Ordering::Relaxed) != before;
                    lost(endpoint, request, error.error(), unsent, answered)
                })
            }
            Connection::Http2(http2) => {
                let message = http2_message(endpoint, request).map_err(fatal)?;
                http2.sender.try_send_request(message).await.map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    lost(endpoint, request, error.error(), unsent, false)
                })
            }
        }
    }
}

fn lost(endpoint: &Endpoint, request: &Request, error: &hyper::Error, unsent: bool, answered: bool) -> Lost {
    let failure = classify::answer(endpoint.name(), error, answered);
    Lost { failure, may_resend: unsent || (!answered && is_idempotent(&request.method)) }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

fn http1_message(endpoint: &Endpoint, request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let mut message = http::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = Uri::from(path_of(request)?);
    *message.headers_mut() = request.headers.clone();
    message.headers_mut().entry(http::header::HOST).or_insert_with(|| endpoint.host_header.clone());
    Ok(message)
}

fn http2_message(endpoint: &Endpoint, request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let mut message = http::Request::new(Full::new(request.body.clone()));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    // A `Host` that the client set takes the place of the authority, as it does over HTTP/1.1.
    let own_host = request.headers.get(http::header::HOST);
    parts.authority = Some(match own_host {
        Some(host) => host.as_bytes().try_into().map_err(|_| unsendable("the `Host` header"))?,
        None => endpoint.authority.clone(),
    });
    parts.path_and_query = Some(path_of(request)?);
    *message.uri_mut() = Uri::from_parts(parts).map_err(|_| unsendable("the URL"))?;
    *message.method_mut() = request.method.clone();
    *message.version_mut() = Version::HTTP_2;
    *message.headers_mut() = request.headers.clone();
    message.headers_mut().remove(http::header::HOST);
    Ok(message)
}

fn path_of(request: &Request) -> Result<PathAndQuery, Failure> {
    let text = &request.url[Position::BeforePath..Position::AfterQuery];
    PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes())).map_err(|_| unsendable("the URL"))
}

fn unsendable(what: &str) -> Failure {
    Failure::fatal(FailureReason::Protocol, format!("{what} has characters that cannot be sent; percent-encode them"))
}
