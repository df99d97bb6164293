//! The network: one hop at a time through [`Transport`], whole exchanges through [`exchange()`].
//!
//! Every outgoing connection of haul is opened in here, and passes the address guard on the address that is really
//! dialled. It knows nothing of jobs, tasks, retries or files.

mod aside;
mod body;
mod chunks;
pub mod classify;
mod client;
pub mod coding;
mod connect;
mod connection;
mod course;
mod credential;
mod date;
pub mod decode;
pub mod disposition;
mod environment;
mod exchange;
mod fair;
mod framing;
pub mod guard;
mod http1;
mod http2;
mod http2_driver;
mod http2_state;
mod identity;
mod incoming;
mod jar;
mod keep_alive;
pub mod link;
mod lost;
mod members;
mod message;
mod patience;
mod permit;
mod pool;
mod ports;
mod proxy;
pub mod range;
mod reach;
pub mod redirect;
mod resolve;
pub mod retry_after;
mod roots;
mod session;
mod sniff;
mod target;
mod tasks;
mod through;
mod tls;
mod uptake;
mod verify;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::model::failure::Failure;
use crate::model::spec::{HttpOptions, Timeouts};
use crate::model::tenant::{DEFAULT_NO, TenantNo};

pub use client::HttpClient;
pub use course::DEFAULT_USER_AGENT;
pub use credential::{Attached, CredentialSource, Credentialed, watched};
pub use environment::{EnvironmentProxies, with_scheme};
pub use exchange::{drain, exchange};
pub use guard::Guard;
pub use permit::Permit;
pub use session::{Session, Trace};

/// What a task's requests have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Headers, credentials, proxy, TLS identity.
    pub http: HttpOptions,
    /// How long each part may take.
    pub timeouts: Timeouts,
    /// For whom; connections are of one tenant.
    pub tenant: TenantNo,
}

impl Default for Profile {
    fn default() -> Self {
        Profile { http: HttpOptions::default(), timeouts: Timeouts::default(), tenant: DEFAULT_NO }
    }
}

/// One request to one address.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET for nearly all.
    pub method: Method,
    /// Absolute, http or https.
    pub url: Url,
    /// What goes beside the profile's headers; replaces one of the same name.
    pub headers: HeaderMap,
    /// The request's body.
    pub body: Bytes,
    /// Whether the request asks for a connection that it does not share, as a segment of a download does: where several
    /// streams share a connection, they share its speed too. A preference: beyond a bound, connections are shared.
    pub separate: bool,
    /// What must not be released before the origin can no longer count the request.
    pub permit: Permit,
}

impl Request {
    /// A GET of `url`, without headers or body.
    pub fn get(url: Url) -> Request {
        Request {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            separate: false,
            permit: Permit::default(),
        }
    }
}

/// The head of a response, and its body to come.
#[derive(Debug)]
pub struct Response {
    /// Any status: judging it is the caller's.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// Where it came from; after redirects, where [`exchange()`] ended.
    pub url: Url,
    /// The address that was dialled.
    pub remote: Option<SocketAddr>,
    /// Under the idle and low-speed timeouts of the profile.
    pub body: Body,
}

/// One request in, response head and body stream out. No redirects, no retries.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`. Dropping the future, or the body later, closes what cannot be used again.
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>>;

    /// Waits for the right to send one request to `url`, for a caller that decides only then what it asks for. Without
    /// limits there is nothing to wait for.
    fn permit<'a>(&'a self, _url: &'a Url) -> BoxFuture<'a, Result<Permit, Failure>> {
        Box::pin(std::future::ready(Ok(Permit::default())))
    }

    /// Gives back what was set aside for the first request, for a caller that does something else for long before it asks.
    fn rest(&self) {}

    /// Lets others begin, for a caller that will ask for nothing more and only waits for its disk.
    fn settle(&self) {}

    /// Returns whether a request to `url` goes through a proxy: one that hangs says nothing of the host behind it.
    fn goes_by_proxy(&self, _url: &Url, profile: &Profile) -> bool {
        profile.http.proxy_url.is_some()
    }

    /// Returns whether a request to `url` would have to wait because its host is paused. Whoever has a choice goes
    /// elsewhere.
    fn is_paused(&self, _url: &Url) -> bool {
        false
    }
}

/// The source of a body's bytes, wrapped by whoever has to count or slow them.
pub trait BodySource: Send {
    /// The next bytes; `None` after the last. A body that ends before its length fails with `TRUNCATED`.
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>>;

    /// How long bytes were waited for at the origin, without what limits of our own made of it, as far as that is known.
    fn origin_wait(&self) -> Duration {
        Duration::ZERO
    }
}

/// A body that is read chunk by chunk.
pub struct Body(pub Box<dyn BodySource>);

impl Body {
    /// See [`BodySource::chunk`].
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Failure>> {
        self.0.chunk().await
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

/// Nothing in here panics while it holds a lock, and what is behind them stays sound if something does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
