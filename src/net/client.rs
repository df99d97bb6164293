//! The real [`Transport`]: requests over pooled connections that all came through the guard.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Response as HttpResponse, StatusCode, header};
use tokio::time::Instant;
use url::Url;

use crate::model::failure::{Failure, FailureReason};
use crate::model::retry::is_idempotent;
use crate::model::secret::Secret;
use crate::model::spec::HttpOptions;
use crate::net::body::HttpBody;
use crate::net::connection::Connection;
use crate::net::guard::Guard;
use crate::net::http2_state::Windows;
use crate::net::identity::{Identities, Identity};
use crate::net::incoming::Incoming;
use crate::net::keep_alive::{IDLE_TIME, IDLE_TIME_UNSAFE};
use crate::net::lost::Fate;
use crate::net::message::Form;
use crate::net::pool::{Choice, Endpoint, Pool, Protocol};
use crate::net::tasks::Tasks;
use crate::net::wire::{Link, Wire};
use crate::net::{Body, EnvironmentProxies, Profile, Request, Response, Transport, connect, decode, through, tls};
use crate::telemetry::metrics::{Connect, Level, Metrics};

/// How often a request that came to nothing is sent again at once: for a connection that had gone away, and for a peer
/// that wants another one.
const RESENDS_MAX: u32 = 2;

/// How long a request waits for the one whose connection it might share, as a part of the time that connecting may take. To
/// dial one by one is thrift and no rule: where one handshake hangs, the others are made meanwhile.
const TURN_WAIT_PART: u32 = 8;

/// A client for any number of runtimes, which share its connections.
///
/// A connection is registered with the runtime that uses it, and goes to another one only while it is unused.
pub struct HttpClient {
    guard: Guard,
    proxies: Option<Arc<EnvironmentProxies>>,
    /// The operator's proxy, with the guard that lets it through.
    egress: Option<(Secret, Guard)>,
    identities: Identities,
    pool: Arc<Pool>,
    tasks: Arc<Tasks>,
    windows: Arc<Windows>,
    is_swept: AtomicBool,
    metrics: Arc<Metrics>,
    /// Connections that are open.
    open: Arc<Level>,
}

impl HttpClient {
    /// A client that dials only what `guard` lets through.
    pub fn new(guard: Guard) -> HttpClient {
        HttpClient {
            guard,
            proxies: None,
            egress: None,
            identities: Identities::default(),
            pool: Arc::new(Pool::new()),
            tasks: Arc::new(Tasks::new()),
            windows: Arc::default(),
            is_swept: AtomicBool::new(false),
            metrics: Arc::default(),
            open: Arc::default(),
        }
    }

    /// The same, which counts what it does in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> HttpClient {
        HttpClient { metrics, ..self }
    }

    /// Returns how many connections have a request, and how many have none.
    pub fn connections(&self) -> [u64; 2] {
        let (open, unused) = (self.open.value(), (self.pool.unused() + self.windows.unused()) as u64);
        [open.saturating_sub(unused), unused.min(open)]
    }

    /// The same, whose requests go through `proxies` where their profile names none.
    #[must_use]
    pub fn with_proxies(self, proxies: Option<Arc<EnvironmentProxies>>) -> HttpClient {
        HttpClient { proxies, ..self }
    }

    /// The same, all of whose requests go through the operator's `proxy`, whatever their profiles name. Where it is, nobody
    /// but the operator has said, so that its address is not judged; and its certificate is, whatever tasks say of certificates.
    #[must_use]
    pub fn with_egress(self, proxy: Option<Secret>) -> HttpClient {
        let Some(proxy) = proxy else { return self };
        let open = Guard { allow_private: true, ..Guard::default() };
        HttpClient { egress: Some((proxy, open)), identities: Identities::of_egress(), ..self }
    }

    /// Who the connection for a request to `url` is made as.
    fn identity(&self, profile: &Profile, url: &Url) -> Result<Arc<Identity>, Failure> {
        if let Some((proxy, _)) = &self.egress {
            let http = HttpOptions { proxy_url: Some(proxy.clone()), ..profile.http.clone() };
            return self.identities.of(&Profile { http, ..profile.clone() });
        }
        let proxies = self.proxies.as_ref().filter(|_| profile.http.proxy_url.is_none());
        match proxies.and_then(|proxies| proxies.proxy_for(url)) {
            Some(proxy) => {
                let http = HttpOptions { proxy_url: Some(proxy), ..profile.http.clone() };
                self.identities.of(&Profile { http, ..Profile::clone(profile) })
            }
            None => self.identities.of(profile),
        }
    }

    /// Ends every connection that is unused or shared, and returns when all tasks have ended. What has a connection to
    /// itself ends with its body. Requests after it fail.
    pub async fn close(&self) {
        self.tasks.close().await;
        self.pool.clear();
    }

    async fn exchange(&self, request: Request, profile: &Profile) -> Result<Response, Failure> {
        if self.tasks.is_closed() {
            return Err(Failure::retryable(FailureReason::Connect, "the client of the network is closed"));
        }
        let identity = self.identity(profile, &request.url)?;
        let endpoint = self.pool.endpoint(&request.url, &identity)?;
        let (connection, answer) = self.answer(&endpoint, &request, profile).await?;
        let remote = Some(connection.remote());
        let (head, incoming) = answer.into_parts();
        let body = HttpBody::new(incoming, connection, endpoint, &profile.timeouts);
        Ok(Response {
            status: head.status,
            url: request.url,
            remote,
            body: decode::undo_transfer(Body(Box::new(body)), &head.headers)?,
            headers: head.headers,
        })
    }

    /// Sends on a pooled connection, or on a fresh one. A pooled one may have been closed by its peer just now, which
    /// shows only in use, and a peer may refuse a request that it has not looked at: then, if nothing is repeated by
    /// it, the request goes once more, on a fresh one.
    async fn answer(
        &self,
        endpoint: &Arc<Endpoint>,
        request: &Request,
        profile: &Profile,
    ) -> Result<(Connection, HttpResponse<Incoming>), Failure> {
        let is_repeatable = is_idempotent(request.method.as_str());
        let idle_max = if is_repeatable { IDLE_TIME } else { IDLE_TIME_UNSAFE };
        let mut pooled = endpoint.checkout(request.separate, idle_max);
        let mut resends = 0;
        loop {
            let is_fresh = pooled.is_none();
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => self.connect(endpoint, request.separate, profile.timeouts.connect).await?,
            };
            let lost = match connection.send(&endpoint.target, request, &profile.timeouts).await {
                // Said to the connection when it had been idle for too long, and not to a request that nobody has looked at; or
                // else to one that was begun, which only some may repeat.
                Ok(answer) if is_repeatable && !is_fresh && resends < RESENDS_MAX && ends_idle(&answer) => {
                    resends += 1;
                    continue;
                }
                Ok(answer) => {
                    self.metrics.answered(answer.status().as_u16());
                    return Ok((connection, answer));
                }
                Err(lost) => lost,
            };
            if lost.fate == Fate::NeedsHttp1 {
                endpoint.need_http1();
            }
            if resends == RESENDS_MAX || !lost.may_resend(&request.method, is_fresh) {
                let is_unsent = matches!(lost.fate, Fate::Unsent | Fate::NeedsHttp1);
                return Err(Failure { is_unsent, ..lost.failure });
            }
            resends += 1;
        }
    }

    /// A fresh connection, or an HTTP/2 one that somebody else has just made. Whatever fails in here, the request has
    /// not been sent.
    async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        is_separate: bool,
        wait: Duration,
    ) -> Result<Connection, Failure> {
        let connecting = Box::pin(self.choose(endpoint, is_separate, wait / TURN_WAIT_PART));
        let connected = tokio::time::timeout(wait, connecting).await.unwrap_or_else(|_| {
            let host = endpoint.target.name();
            let message = format!("no connection to `{host}` within {wait:?} (`timeouts.connect`)");
            Err(Failure::retryable(FailureReason::TimeoutConnect, message))
        });
        connected.map_err(|failure| {
            if let Some(result) = result_of(failure.reason) {
                self.metrics.connected(result);
            }
            Failure { is_unsent: true, ..failure }
        })
    }

    /// Waits for its turn where HTTP/2 may be spoken, since the connection that is being made may do for several.
    async fn choose(
        &self,
        endpoint: &Arc<Endpoint>,
        is_separate: bool,
        turn_wait: Duration,
    ) -> Result<Connection, Failure> {
        let may_be_http2 =
            || endpoint.target.https && !matches!(endpoint.protocol(), Protocol::Http1 | Protocol::Http1Only);
        if !may_be_http2() {
            return self.dial(endpoint, is_separate).await;
        }
        // Never closed, so that a turn comes; a dial that hangs is not waited for by all others.
        let Ok(turn) = tokio::time::timeout(turn_wait, endpoint.dialling.acquire()).await else {
            return self.dial(endpoint, is_separate).await;
        };
        while may_be_http2() {
            match endpoint.choose(is_separate) {
                Choice::Use(connection) => return Ok(connection),
                Choice::Settle(settled) => {
                    // A peer that says nothing is not waited for by all others.
                    if tokio::time::timeout(turn_wait, settled.cancelled()).await.is_err() {
                        break;
                    }
                }
                // One that nobody else will use is nothing to wait for.
                Choice::Dial if is_separate && endpoint.protocol() == Protocol::Http2 => break,
                Choice::Dial => {
                    let connection = self.dial(endpoint, is_separate).await;
                    drop(turn);
                    return connection;
                }
            }
        }
        drop(turn);
        self.dial(endpoint, is_separate).await
    }

    async fn dial(&self, endpoint: &Arc<Endpoint>, is_separate: bool) -> Result<Connection, Failure> {
        let (target, identity) = (&endpoint.target, &endpoint.identity);
        self.pool.make_room(self.windows.unused());
        let (link, remote) = match self.link(endpoint).await {
            // Where there are no descriptors, those of kept connections are for the next attempt.
            Err(failure) if failure.is_own => {
                self.pool.close_unused();
                return Err(failure);
            }
            linked => linked?,
        };
        let wire = if target.https {
            let is_http1 = endpoint.protocol() == Protocol::Http1Only;
            let config = if is_http1 { identity.tls_http1()? } else { identity.tls()? };
            let begun = Instant::now();
            let stream = tls::handshake(config, link, &target.host).await?;
            Wire::tls(stream, begun.elapsed())
        } else {
            Wire::plain(link)
        };
        let wire = wire.counted(&self.open);
        self.start_sweeper();
        let form = identity.proxy().map_or(Form::Origin, |proxy| proxy.form(target));
        let established = Connection::establish(wire, remote, form, &self.tasks, &self.windows, target.name());
        let connection = established.await?;
        self.metrics.connected(Connect::Ok);
        Ok(endpoint.admit(connection, is_separate))
    }

    /// A connection of TCP to the endpoint, or to the proxy before it.
    async fn link(&self, endpoint: &Endpoint) -> Result<(Link, SocketAddr), Failure> {
        let (target, identity) = (&endpoint.target, &endpoint.identity);
        if let Some(proxy) = identity.proxy() {
            let of_proxy = self.egress.as_ref().map_or(&self.guard, |(_, guard)| guard);
            return through::connect(proxy, (&self.guard, of_proxy), identity, target).await;
        }
        let dialled = connect::dial(&self.guard, &target.host, target.port, identity.tenant()).await?;
        Ok((Link::Tcp(dialled.stream), dialled.remote))
    }

    /// With the first connection, since only then is the runtime known.
    fn start_sweeper(&self) {
        if !self.is_swept.swap(true, Ordering::Relaxed) {
            self.tasks.spawn(sweep(Arc::downgrade(&self.pool)));
        }
    }
}

impl Transport for HttpClient {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(self.exchange(request, profile))
    }

    fn goes_by_proxy(&self, url: &Url, profile: &Profile) -> bool {
        self.egress.is_some()
            || profile.http.proxy_url.is_some()
            || self.proxies.as_ref().is_some_and(|proxies| proxies.proxy_for(url).is_some())
    }
}

/// Whether an answer says that its connection is closed because no request came.
fn ends_idle<T>(answer: &HttpResponse<T>) -> bool {
    let closes = answer.headers().get(header::CONNECTION).and_then(|value| value.to_str().ok());
    answer.status() == StatusCode::REQUEST_TIMEOUT && closes.is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

/// What is counted of a connection that did not come about. `None`: nothing was dialled.
fn result_of(reason: FailureReason) -> Option<Connect> {
    match reason {
        FailureReason::ForbiddenAddress => None,
        FailureReason::Dns => Some(Connect::Dns),
        FailureReason::Tls => Some(Connect::Tls),
        FailureReason::Proxy => Some(Connect::Proxy),
        FailureReason::TimeoutConnect => Some(Connect::Timeout),
        _ => Some(Connect::Connect),
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIME / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}
