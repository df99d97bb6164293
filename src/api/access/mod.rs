//! Authentication and authorisation: who calls, and whether they may, before the message is read.
//!
//! The layer lets a request on with its [`caller::Caller`], and without the secret that it showed: nothing behind this
//! layer ever sees a token. A call that may no longer be made ends while it is open: at once where it streams, and an answer
//! that is being made has a moment to leave.

mod audit;
mod bounds;
pub(crate) mod caller;
pub(crate) mod messages;
mod refusals;
pub mod service;
pub(crate) mod table;
mod uses;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::api::access::bounds::Counted;
use crate::api::access::caller::{Caller, Shown, Unknown};
use crate::api::access::refusals::Refusals;
use crate::api::access::table::Need;
use crate::api::access::uses::Uses;
use crate::api::status::{Fault, Violations, rate_limited, shown};
use crate::engine::handle::Engine;
use crate::listen::peer::Peer;
use crate::model::access::{LOCAL_NAME, Method};
use crate::model::book::Book;
use crate::model::role::DEFAULT_TENANT;

pub use crate::api::access::bounds::CallBounds;
pub use crate::api::access::caller::Policy;

/// The name of the tenant that a call is about.
const TENANT_HEADER: HeaderName = HeaderName::from_static("haul-tenant");
/// The server's own name of a call, for logs and questions.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("haul-request-id");
/// How long an answer that is being made has to leave: the caller may itself have ended what it came by.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How often it is stored which tokens were used and what was refused.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The layer that knows who calls.
#[derive(Clone)]
pub struct Access {
    engine: Engine,
    policy: Policy,
    /// Paths of methods whose answers go on.
    streaming: Arc<HashSet<String>>,
    bounds: CallBounds,
    counted: Arc<Counted>,
    refusals: Arc<Refusals>,
    uses: Arc<Uses>,
}

impl Access {
    /// Makes the layer for the services of these descriptors.
    pub fn new(engine: Engine, policy: Policy, bounds: CallBounds, descriptors: &[&[u8]]) -> Access {
        let mut streaming = HashSet::new();
        let sets = descriptors.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let methods = service.method.iter().filter(|method| method.server_streaming());
                streaming
                    .extend(methods.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())));
            }
        }
        Access {
            engine,
            policy,
            streaming: Arc::new(streaming),
            bounds,
            counted: Arc::default(),
            refusals: Arc::default(),
            uses: Arc::default(),
        }
    }

    /// Stores each minute which tokens were used and what was refused, until `closing`.
    pub async fn keep(self, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(KEEP_INTERVAL) => self.flush().await,
                () = closing.cancelled() => return,
            }
        }
    }

    /// Stores which tokens were used and what was refused since that was stored last.
    pub async fn flush(&self) {
        self.uses.flush(&self.engine).await;
        let rows = self.refusals.take(self.engine.now());
        let count = rows.len();
        if count > 0
            && let Err(error) = self.engine.audit(rows).await
        {
            tracing::warn!(count, "refused calls are not in the audit: {error}");
        }
    }

    /// Returns whether a token is needed just now.
    pub fn is_token_needed(&self) -> bool {
        self.policy.is_required(&self.engine.books().borrow())
    }

    /// Judges a request by its head.
    fn judge(&self, request: &Request<Body>, id: &str) -> Result<(Need, Standing), Status> {
        let method = request.uri().path().trim_start_matches('/');
        let need = table::need(method);
        if need == Some(Need::Open) {
            return Ok((Need::Open, Standing::open(self)));
        }
        let peer = request.extensions().get::<Arc<Peer>>();
        let mut books = self.engine.books();
        let book = books.borrow_and_update().clone();
        let shown = Shown::by(request.headers(), peer.map(|peer| &**peer), id);
        let now = self.engine.now();
        let known = need.map(|_| method);
        let caller = match shown.judge(self.policy, &book, now) {
            Ok(caller) => caller,
            Err(unknown) => {
                let status = unauthenticated(unknown, method);
                self.refusals.note(None, shown.address(), known, &status, unknown.detail(), now);
                if matches!(unknown, Unknown::Bad(_)) {
                    let taken = self.counted.note_failure(self.bounds, shown.address(), now);
                    taken.map_err(|wait| rate_limited("wrong credentials", wait))?;
                }
                return Err(status);
            }
        };
        // A method that is not there is for the services to tell, and for strangers none of their business.
        let need = need.unwrap_or(Need::Anybody);
        if let Err(status) = tenant(request.headers()) {
            self.refusals.note(Some(&caller.actor), shown.address(), known, &status, "", now);
            return Err(status);
        }
        if let Some(status) = caller::refusal(need, method, &caller) {
            self.refusals.note(Some(&caller.actor), shown.address(), known, &status, "", now);
            return Err(status);
        }
        if caller.actor.name != LOCAL_NAME {
            let taken = self.counted.take_call(self.bounds, caller.actor.principal, now);
            taken.map_err(|wait| rate_limited("calls of this principal", wait))?;
        }
        if caller.method == Method::Token {
            self.uses.note(&caller.actor, now);
        }
        let method = known.unwrap_or_default().to_owned();
        Ok((need, Standing { access: self.clone(), books, shown, caller: Some(caller), need, method }))
    }
}

/// Reads the tenant of a call: there is one.
fn tenant(headers: &HeaderMap) -> Result<(), Status> {
    let mut named = headers.get_all(TENANT_HEADER).iter();
    match (named.next(), named.next()) {
        (None, _) => Ok(()),
        (Some(name), None) if name.as_bytes() == DEFAULT_TENANT.as_bytes() => Ok(()),
        (Some(name), None) => {
            let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
            let message =
                format!("tenant `{}` does not exist, or is not the caller's; `default` exists", self::shown(&name));
            Err(Fault::new(Code::PermissionDenied, "TENANT_NOT_ALLOWED", message).into())
        }
        (Some(_), Some(_)) => Err(Violations::one("haul-tenant", "is there twice; a call is about one tenant")),
    }
}

/// Returns the answer to somebody who is nobody.
fn unauthenticated(unknown: Unknown, method: &str) -> Status {
    let (reason, message) = match unknown {
        Unknown::Nothing => (
            "NO_CREDENTIALS",
            "this server needs a token; send it as `authorization: Bearer TOKEN` (the command line: --token-file or \
             HAUL_TOKEN), and get one with `haul token create`",
        ),
        Unknown::Bad(why) => {
            tracing::debug!(method, why, "credentials are refused");
            (
                "BAD_CREDENTIALS",
                "what the call shows is no good: its token or certificate is damaged, unknown, expired or revoked; get \
                 another one",
            )
        }
        Unknown::Proxied => (
            "PROXIED_WITHOUT_AUTH",
            "a proxy passes this call on, so it may come from anywhere; make a token with `haul token create`, and have \
             callers send it",
        ),
    };
    Fault::new(Code::Unauthenticated, reason, message).into()
}

/// Whether a call that is open may go on.
struct Standing {
    access: Access,
    books: watch::Receiver<Arc<Book>>,
    shown: Shown,
    /// `None`: anybody may make it.
    caller: Option<Caller>,
    need: Need,
    /// Empty: it is not there.
    method: String,
}

impl Standing {
    fn open(access: &Access) -> Standing {
        let shown = Shown::by(&HeaderMap::new(), None, "");
        let (books, method) = (access.engine.books(), String::new());
        Standing { access: access.clone(), books, shown, caller: None, need: Need::Open, method }
    }

    /// Counts an answer that refuses what the layer has let through.
    fn note_refusal(&self, status: &Status) {
        if let Some(caller) = &self.caller {
            let (access, method) = (&self.access, Some(self.method.as_str()).filter(|it| !it.is_empty()));
            let now = access.engine.now();
            access.refusals.note(Some(&caller.actor), self.shown.address(), method, status, "", now);
        }
    }

    /// Waits until the call may not go on.
    async fn lost(&self) -> Status {
        let Some(caller) = &self.caller else { return std::future::pending().await };
        let mut books = self.books.clone();
        let expire_time = caller.expire_time;
        loop {
            let now = self.access.engine.now();
            let book = books.borrow_and_update().clone();
            match self.shown.judge(self.access.policy, &book, now) {
                Err(unknown) => return unauthenticated(unknown, ""),
                Ok(caller) => {
                    if let Some(status) = caller::refusal(self.need, &self.method, &caller) {
                        return status;
                    }
                }
            }
            let expired = async {
                match expire_time {
                    Some(time) => tokio::time::sleep(time.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = books.changed() => if changed.is_err() {
                    // The engine has ended, and so will every call.
                    return std::future::pending().await;
                },
                () = expired => {}
            }
        }
    }
}

async fn lost(standing: Arc<Standing>) -> Status {
    standing.lost().await
}

impl<S> Layer<S> for Access {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, access: self.clone() }
    }
}

/// The service that [`Access`] makes.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    access: Access,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let name = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        let id = HeaderValue::try_from(&name);
        let named = move |mut response: Response<Body>| {
            if let Ok(id) = id {
                response.headers_mut().insert(REQUEST_ID_HEADER, id);
            }
            response
        };
        let (need, standing) = match self.access.judge(&request, &name) {
            Ok(judged) => judged,
            Err(status) => return Box::pin(std::future::ready(Ok(named(status.into_http())))),
        };
        let streams = self.access.streaming.contains(request.uri().path().trim_start_matches('/'));
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(caller) = &standing.caller {
            request.extensions_mut().insert(caller.clone());
        }
        let answer = self.inner.call(request);
        if need == Need::Open {
            return Box::pin(async move { answer.await.map(named) });
        }
        let standing = Arc::new(standing);
        Box::pin(async move {
            let mut lost: Lost = Box::pin(lost(standing.clone()));
            let mut over = None;
            let late = async {
                let status = lost.as_mut().await;
                over = Some(status.clone());
                tokio::time::sleep(ANSWER_TIME).await;
                status
            };
            let response = tokio::select! {
                biased;
                answered = answer => answered?,
                status = late => return Ok(named(status.into_http())),
            };
            if let Some(status) = Status::from_header_map(response.headers()) {
                standing.note_refusal(&status);
            }
            if !streams {
                return Ok(named(response));
            }
            Ok(named(response.map(|body| Body::new(StandingBody { inner: Some(body), over, lost }))))
        })
    }
}

type Lost = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The body of an answer, for as long as its call may go on.
struct StandingBody {
    /// `None` once the call has ended, so that what feeds the body ends too.
    inner: Option<Body>,
    /// What `lost` has said, which must not be asked again.
    over: Option<Status>,
    lost: Lost,
}

impl HttpBody for StandingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.inner.is_none() {
            return Poll::Ready(None);
        }
        // First: a stream that always has a message ends too.
        let over = match self.over.take() {
            Some(status) => Poll::Ready(status),
            None => self.lost.as_mut().poll(cx),
        };
        if let Poll::Ready(status) = over {
            self.inner = None;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        Pin::new(inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
