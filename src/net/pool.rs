//! Connections that wait for their next request.
//!
//! A pool belongs to one client and thereby to one guard, so a connection is never reused under another policy. Within
//! it, connections are kept apart by scheme, host, port and [`Identity`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::{Host, Url};

use crate::model::failure::{Failure, FailureReason};
use crate::net::connection::{Connection, Http1, Http2};
use crate::net::identity::Identity;
use crate::net::lock;

/// How long a connection is kept unused. Servers close theirs after 60 s or more, mostly.
pub(super) const IDLE_TIME: Duration = Duration::from_mins(1);
/// Unused connections kept for one endpoint.
const IDLE_PER_ENDPOINT_MAX: usize = 128;
/// Unused connections kept in all: each is a file descriptor.
const IDLE_MAX: usize = 1024;
/// Requests at once on one HTTP/2 connection: most peers allow 100 to 256, and more would share one TCP stream thinly.
/// Where a peer allows fewer, the rest queue on the connection.
const STREAMS_MAX: usize = 100;
/// HTTP/2 connections to one endpoint; beyond, requests queue on the least busy.
const SHARED_MAX: usize = 8;
/// How long a connection that has given its answer may take to be ready again.
const READY_WAIT: Duration = Duration::from_millis(50);

/// All endpoints of a client.
#[derive(Default)]
pub(super) struct Pool {
    endpoints: Mutex<HashMap<Box<str>, Vec<Arc<Endpoint>>>>,
    idle: Arc<AtomicUsize>,
}

/// Where requests of one kind go, and the connections there.
pub(super) struct Endpoint {
    pub(super) https: bool,
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) identity: Arc<Identity>,
    /// For HTTP/1.1: the `Host` header.
    pub(super) host_header: HeaderValue,
    /// For HTTP/2.
    pub(super) authority: Authority,
    /// Held while dialling where HTTP/2 is possible, so that a burst of requests shares one connection.
    pub(super) dialling: Semaphore,
    connections: Mutex<Connections>,
    idle: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Connections {
    /// Unused ones, the latest last.
    http1: Vec<(Http1, Instant)>,
    http2: Vec<(Http2, Instant)>,
    /// Whether the last handshake chose HTTP/1.1, in which case dialling one by one would only slow things down.
    is_http1: bool,
}

impl Pool {
    /// The endpoint that a request to `url` goes to.
    pub(super) fn endpoint(&self, url: &Url, identity: &Arc<Identity>) -> Result<Arc<Endpoint>, Failure> {
        let https = url.scheme() == "https";
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Failure::fatal(FailureReason::Protocol, "the URL has no host"));
        };
        let mut endpoints = lock(&self.endpoints);
        let same =
            |own: &&Arc<Endpoint>| own.https == https && own.port == port && Arc::ptr_eq(&own.identity, identity);
        if let Some(known) = endpoints.get(host).and_then(|list| list.iter().find(same)) {
            return Ok(Arc::clone(known));
        }
        let endpoint = Arc::new(Endpoint::new(url, https, port, Arc::clone(identity), Arc::clone(&self.idle))?);
        endpoints.entry(host.into()).or_default().push(Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Closes what has been idle for too long, and forgets endpoints that nobody uses.
    pub(super) fn sweep(&self) {
        let expired = Instant::now().checked_sub(IDLE_TIME);
        lock(&self.endpoints).retain(|_, list| {
            list.retain(|endpoint| {
                let left = expired.map_or(1, |expired| endpoint.expire(expired));
                left > 0 || Arc::strong_count(endpoint) > 1
            });
            !list.is_empty()
        });
    }

    /// Closes every connection that is not in use, and lets go of the rest.
    pub(super) fn clear(&self) {
        for endpoint in std::mem::take(&mut *lock(&self.endpoints)).into_values().flatten() {
            endpoint.expire(Instant::now());
        }
    }
}

impl Endpoint {
    fn new(
        url: &Url,
        https: bool,
        port: u16,
        identity: Arc<Identity>,
        idle: Arc<AtomicUsize>,
    ) -> Result<Endpoint, Failure> {
        // The port is written where it is not the scheme's own, which is when the URL keeps it.
        let text = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let bad = || Failure::fatal(FailureReason::Protocol, format!("`{text}` is no host that HTTP can name"));
        Ok(Endpoint {
            https,
            host: url.host().ok_or_else(bad)?.to_owned(),
            port,
            identity,
            host_header: HeaderValue::from_str(text).map_err(|_| bad())?,
            authority: text.parse().map_err(|_| bad())?,
            dialling: Semaphore::new(1),
            connections: Mutex::default(),
            idle,
        })
    }

    /// `host:port`, for messages.
    pub(super) fn name(&self) -> &str {
        self.authority.as_str()
    }

    /// A connection that can carry a request now.
    pub(super) async fn checkout(&self) -> Option<Connection> {
        if let Some(http2) = self.shared() {
            return Some(http2);
        }
        loop {
            let mut http1 = self.take_http1()?;
            // Its task signals that it is ready after the last byte of the answer before; mostly it has long since.
            if http1.is_ready() || tokio::time::timeout(READY_WAIT, http1.ready()).await.is_ok_and(|is_ready| is_ready)
            {
                return Some(Connection::Http1(http1));
            }
        }
    }

    fn take_http1(&self) -> Option<Http1> {
        let mut connections = lock(&self.connections);
        while let Some((http1, _)) = connections.http1.pop() {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            if !http1.is_closed() {
                return Some(http1);
            }
        }
        None
    }

    /// A share of an HTTP/2 connection that has room.
    pub(super) fn shared(&self) -> Option<Connection> {
        if !self.https {
            return None;
        }
        let mut connections = lock(&self.connections);
        connections.http2.retain(|(http2, _)| !http2.is_closed());
        let count = connections.http2.len();
        let (http2, used) = connections.http2.iter_mut().min_by_key(|(http2, _)| http2.load())?;
        if http2.load() >= STREAMS_MAX && count < SHARED_MAX {
            return None;
        }
        *used = Instant::now();
        Some(Connection::Http2(http2.share()))
    }

    /// Takes an HTTP/1.1 connection back after its answer has been read to the end.
    pub(super) fn give_back(&self, http1: Http1) {
        if http1.is_closed() {
            return;
        }
        if self.idle.fetch_add(1, Ordering::Relaxed) < IDLE_MAX {
            let mut connections = lock(&self.connections);
            if connections.http1.len() < IDLE_PER_ENDPOINT_MAX {
                connections.http1.push((http1, Instant::now()));
                return;
            }
        }
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets others use a fresh HTTP/2 connection.
    pub(super) fn share(&self, http2: &Http2) {
        let mut connections = lock(&self.connections);
        connections.is_http1 = false;
        connections.http2.push((http2.share(), Instant::now()));
    }

    pub(super) fn set_http1(&self) {
        lock(&self.connections).is_http1 = true;
    }

    /// Whether connections may turn out to be of HTTP/2.
    pub(super) fn may_be_http2(&self) -> bool {
        self.https && !lock(&self.connections).is_http1
    }

    /// Closes what was last used before `expired`, and says how many are left.
    fn expire(&self, expired: Instant) -> usize {
        let mut connections = lock(&self.connections);
        let before = connections.http1.len();
        connections.http1.retain(|(http1, since)| *since > expired && !http1.is_closed());
        self.idle.fetch_sub(before - connections.http1.len(), Ordering::Relaxed);
        connections.http2.retain(|(http2, used)| (*used > expired || http2.load() > 0) && !http2.is_closed());
        connections.http1.len() + connections.http2.len()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.idle.fetch_sub(lock(&self.connections).http1.len(), Ordering::Relaxed);
    }
}
