//! Authentication and authorisation: who calls, and whether they may, before the message is read.
//!
//! The layer lets a request on with its [`caller::Caller`], and without the secret that it showed: nothing behind this
//! layer ever sees a token. A call that may no longer be made ends while it is open: at once where it streams, and an answer
//! that is being made has a moment to leave.

mod audit;
mod bounds;
pub(crate) mod caller;
mod credentials;
pub(crate) mod messages;
mod refusals;
pub mod service;
pub(crate) mod sessions;
pub(crate) mod table;
mod tenants;
mod uses;

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::access::bounds::{Counted, OpenCall, OpenWatch};
use crate::api::access::caller::{Caller, Denied, Rules, Shown, Unknown, decide};
use crate::api::access::refusals::{Refusal, Refusals};
use crate::api::access::sessions::Sessions;
use crate::api::access::table::Need;
use crate::api::access::uses::Uses;
use crate::api::request_id::RequestId;
use crate::api::status::{draining, precondition, rate_limited, too_many_streams, too_many_watches};
use crate::api::to_proto::timestamp;
use crate::engine::handle::Engine;
use crate::listen::KnownCaller;
use crate::listen::peer::Peer;
use crate::middleware::{Middleware, until};
use crate::model::access::{LOCAL_NAME, Method};
use crate::model::book::Book;
use crate::model::identity::Identities;
use crate::model::quotas::Quota;
use crate::model::tenant::Scope;
use crate::model::time::Timestamp;

pub(crate) use crate::api::access::audit::event as audit_event;
pub use crate::api::access::bounds::{CallBounds, OpenWatches};
pub use crate::api::access::caller::Policy;
pub use crate::api::access::table::Exposure;

/// How long an answer that is being made has to leave: the caller may itself have ended what it came by.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How often an open stream of a session looks whether that has ended, and says that it is used.
const SESSION_LOOK: Duration = Duration::from_secs(60);

/// How often it is stored which tokens were used and what was refused.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The packages of the services that end their streams themselves when the server ends.
const ENDING_THEMSELVES: [&str; 2] = ["haul.v1.", "grpc.health.v1."];

/// Knows who calls. Each call has several clones of it.
#[derive(Clone)]
pub struct Access(Arc<Judge>);

/// What calls are judged by, and what is counted of them.
pub struct Judge {
    engine: Engine,
    policy: Policy,
    identities: Arc<Identities>,
    exposure: Exposure,
    /// Paths of methods whose answers go on.
    streaming: HashSet<String>,
    bounds: CallBounds,
    counted: Arc<Counted>,
    watches: OpenWatches,
    refusals: Refusals,
    uses: Uses,
    sessions: Sessions,
    closing: CancellationToken,
}

impl Deref for Access {
    type Target = Judge;

    fn deref(&self) -> &Judge {
        &self.0
    }
}

impl Access {
    /// Makes the layer for the services of these descriptors. `identities` are those of the settings; `closing` ends streams
    /// of services that do not end them by themselves.
    pub fn new(
        engine: Engine,
        policy: Policy,
        identities: Arc<Identities>,
        exposure: Exposure,
        bounds: CallBounds,
        descriptors: &[&[u8]],
        closing: CancellationToken,
    ) -> Access {
        let mut streaming = HashSet::new();
        let sets = descriptors.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let methods = service.method.iter().filter(|method| method.server_streaming());
                streaming
                    .extend(methods.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())));
            }
        }
        Access(Arc::new(Judge {
            engine,
            policy,
            identities,
            exposure,
            streaming,
            bounds,
            counted: Arc::default(),
            watches: OpenWatches::default(),
            refusals: Refusals::default(),
            uses: Uses::default(),
            sessions: Sessions::default(),
            closing,
        }))
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

    /// Returns the watches that are open.
    pub fn watches(&self) -> OpenWatches {
        self.watches.clone()
    }

    /// Returns whether a token is needed just now.
    pub fn is_token_needed(&self) -> bool {
        self.policy.is_required(&self.engine.books().borrow())
    }

    /// Returns the door by which sessions begin and end; `has_tls`: whether every client comes over TLS, though it may end
    /// in front of this process.
    pub fn door(&self, has_tls: bool) -> SessionDoor {
        SessionDoor { access: self.clone(), has_tls }
    }

    /// Judges a request that asks by plain HTTP whether the server is well.
    pub(crate) fn judge_probe(&self, request: &Request<Body>) -> Result<(), Status> {
        self.judge_as(request, PROBE_METHOD, RequestId::of(request).as_str()).map(|_| ())
    }

    fn rules<'a>(&'a self, book: &'a Book) -> Rules<'a> {
        Rules { policy: self.policy, identities: &self.identities, book, sessions: &self.sessions }
    }

    /// Judges a request by its head.
    fn judge(&self, request: &Request<Body>, id: &str) -> Result<(Need, Standing), Status> {
        self.judge_as(request, request.uri().path().trim_start_matches('/'), id)
    }

    /// Judges a request by its head, as a call of `method`.
    fn judge_as(&self, request: &Request<Body>, method: &str, id: &str) -> Result<(Need, Standing), Status> {
        let need = table::need(method, self.exposure);
        if need == Some(Need::Open) {
            return Ok((Need::Open, Standing::open(self)));
        }
        let mut books = self.engine.books();
        let book = books.borrow_and_update().clone();
        let shown = Shown::by(request.headers(), request.extensions(), id);
        let now = self.engine.now();
        let known = need.map(|_| method);
        // A method that is not there is for the services to tell, and for strangers none of their business.
        let need = need.unwrap_or(Need::Anybody);
        let rules = self.rules(&book);
        let refuse = |who: Option<&Caller>, status: Status, detail: &str| {
            let who = who.map(|caller| &*caller.actor);
            let tenant = who.map_or("", |actor| table::tenant(need, actor));
            self.refusals.note(Refusal { who, address: shown.address(), tenant, method: known, detail }, &status, now);
            status
        };
        let caller = match decide(&shown, rules, (method, need), None, now) {
            Ok(caller) => caller,
            Err(Denied::Unknown(unknown)) => {
                // A session is gone with the process that began it, and cannot be guessed: its cookie is no attempt.
                let too_many = (matches!(unknown, Unknown::Bad(_)) && shown.session().is_none())
                    .then(|| self.counted.note_failure(self.bounds, shown.address(), now).err())
                    .flatten();
                return Err(match too_many {
                    Some(wait) => {
                        let subject = format!("addresses/{}", shown.address());
                        refuse(None, rate_limited("wrong credentials", &subject, wait), "")
                    }
                    None => refuse(None, unknown.status(method), unknown.detail()),
                });
            }
            Err(denied) => {
                let mut who = shown.judge(rules, now).ok();
                if let Some(who) = &mut who {
                    // What is about no tenant that the caller may name is in no tenant's record.
                    let scope = if let Denied::Lacks(_, scope) = &denied { scope.clone() } else { Scope::Nowhere };
                    Arc::make_mut(&mut who.actor).scope = scope;
                }
                return Err(refuse(who.as_ref(), denied.status(method), ""));
            }
        };
        let places = self.places(&caller, (method, need), &book, now);
        let places = places.map_err(|status| refuse(Some(&caller), status, ""))?;
        if caller.method == Method::Token {
            self.uses.note(&caller.actor, now);
        }
        if let Some(session) = shown.session() {
            self.sessions.note(session, now);
        }
        let is_read = self.exposure.counts_reads && table::reads(method);
        let method = known.unwrap_or_default().to_owned();
        Ok((
            need,
            Standing {
                access: self.clone(),
                books,
                shown,
                caller: Some(caller),
                need,
                method,
                is_read,
                _places: places,
            },
        ))
    }

    /// Counts a call of a known caller among those that it makes, and those that are made about a tenant.
    ///
    /// # Errors
    ///
    /// There are too many.
    fn places(
        &self,
        caller: &Caller,
        (method, need): (&str, Need),
        book: &Book,
        now: Timestamp,
    ) -> Result<Places, Status> {
        let (actor, mut places) = (&caller.actor, Places::default());
        let is_bounded = actor.name != LOCAL_NAME;
        if is_bounded {
            let taken = self.counted.take_call(self.bounds, actor.principal, now);
            let subject = format!("principals/{}", actor.name);
            taken.map_err(|wait| rate_limited("calls of this principal", &subject, wait))?;
        }
        // What the server itself is told by its operators is nobody's call.
        let is_about = table::is_of_tenant(need) && !table::may_on_server(need, actor);
        let tenant = actor.scope.no().filter(|_| is_about).and_then(|no| book.tenant_numbered(no));
        if let Some((tenant, rate)) = tenant.and_then(|it| Some((it, it.quotas.calls_per_second?))) {
            let taken = self.counted.take_call_about(tenant.no, rate, now);
            let subject = format!("tenants/{}/{}", tenant.name, Quota::CallsPerSecond.name());
            taken.map_err(|wait| rate_limited("calls about this tenant", &subject, wait))?;
        }
        if let Some(tenant) = tenant.filter(|_| table::watches(method)) {
            let most = tenant.quotas.watchers;
            let watch = self.watches.open(tenant.no, most);
            places.watch = Some(watch.ok_or_else(|| too_many_watches(&tenant.name, most.unwrap_or_default()))?);
        }
        if is_bounded {
            let open = self.counted.open_call(self.bounds, actor.principal);
            places.open = Some(open.ok_or_else(|| too_many_streams(&actor.name, self.bounds.open_max))?);
        }
        Ok(places)
    }
}

/// Where sessions of browsers begin and end.
#[derive(Clone)]
pub struct SessionDoor {
    access: Access,
    has_tls: bool,
}

impl fmt::Debug for SessionDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionDoor").finish_non_exhaustive()
    }
}

/// A session that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) principal: String,
    /// When it ends at the latest, as JSON has times.
    pub(crate) expire_time: String,
    pub(crate) cookie: String,
}

impl SessionDoor {
    /// Begins a session with the token that a request shows. Cookies do not keep ports apart, so without TLS every server on
    /// the same machine would get it.
    pub(crate) fn begin(&self, request: &Request<Body>) -> Result<Begun, Status> {
        let access = &self.access;
        let is_encrypted = request.extensions().get::<Arc<Peer>>().is_some_and(|peer| peer.is_encrypted);
        if !is_encrypted && !self.has_tls {
            let message =
                "sessions need TLS; keep the token in the page's memory, and send it as `authorization` with each call";
            return Err(precondition("SESSION_NEEDS_TLS", "session", message));
        }
        let id = RequestId::of(request);
        let (_, standing) = access.judge_as(request, SESSION_METHOD, id.as_str())?;
        let caller =
            standing.caller.filter(|caller| caller.method == Method::Token && !caller.actor.token_id.is_empty());
        let caller = caller.filter(|_| request.headers().contains_key(AUTHORIZATION));
        let caller = caller.ok_or_else(|| Unknown::Nothing.status(SESSION_METHOD))?;
        let now = access.engine.now();
        let cookie = access.sessions.begin(&caller.actor.token_id, caller.expire_time, now);
        let end = caller.expire_time.into_iter().chain([now.plus(sessions::AGE_MAX)]).min().unwrap_or(now);
        Ok(Begun { principal: caller.actor.name.clone(), expire_time: timestamp(end).to_string(), cookie })
    }

    /// Returns whether a request comes from this machine, and no proxy passes it on.
    pub(crate) fn is_here(request: &Request<Body>) -> bool {
        Shown::by(request.headers(), request.extensions(), "").is_here()
    }

    /// Refuses a request that asks by plain HTTP whether the server is well, where the operator wants callers to be known.
    pub(crate) fn judge_probe(&self, request: &Request<Body>) -> Result<(), Status> {
        self.access.judge_probe(request)
    }

    /// Ends the session that a page of this server shows. Returns the cookie that takes its place.
    pub(crate) fn end(&self, request: &Request<Body>) -> String {
        let shown = request.extensions().get::<sessions::OwnPage>().and_then(|_| sessions::shown(request.headers()));
        self.access.sessions.end(shown)
    }
}

/// The method that probes of plain HTTP stand for.
const PROBE_METHOD: &str = "grpc.health.v1.Health/Check";

/// What a session is begun as: who has a token may ask who it is, and so have it in a cookie.
const SESSION_METHOD: &str = "haul.v1.AccessService/WhoAmI";

/// What an open call counts among, until it is dropped.
#[derive(Default)]
#[allow(dead_code)] // They are kept for their ends.
struct Places {
    /// The calls that its caller has open.
    open: Option<OpenCall>,
    /// The watches of its tenant.
    watch: Option<OpenWatch>,
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
    /// Whether it is in the audit when it is answered.
    is_read: bool,
    _places: Places,
}

impl Standing {
    fn open(access: &Access) -> Standing {
        let shown = Shown::by(&HeaderMap::new(), &http::Extensions::new(), "");
        let (books, method) = (access.engine.books(), String::new());
        Standing {
            access: access.clone(),
            books,
            shown,
            caller: None,
            need: Need::Open,
            method,
            is_read: false,
            _places: Places::default(),
        }
    }

    /// Counts an answer that refuses what the layer has let through.
    fn note_refusal(&self, status: &Status) {
        if let Some(caller) = &self.caller {
            let (access, method) = (&self.access, Some(self.method.as_str()).filter(|it| !it.is_empty()));
            let now = access.engine.now();
            let (address, tenant) = (self.shown.address(), table::tenant(self.need, &caller.actor));
            let refusal = Refusal { who: Some(&caller.actor), address, tenant, method, detail: "" };
            access.refusals.note(refusal, status, now);
        }
    }

    /// Counts a read that is answered, where reads are counted.
    fn note_read(&self) {
        if let Some(caller) = self.caller.as_ref().filter(|_| self.is_read) {
            let (address, tenant) = (self.shown.address(), table::tenant(self.need, &caller.actor));
            let method = Some(self.method.as_str());
            let call = Refusal { who: Some(&caller.actor), address, tenant, method, detail: "" };
            self.access.refusals.note_read(call, self.access.engine.now());
        }
    }

    /// Waits until the call may not go on.
    async fn lost(&self) -> Status {
        let Some(caller) = &self.caller else { return std::future::pending().await };
        let mut books = self.books.clone();
        let mut sessions = self.access.sessions.ended();
        let expire_time = caller.expire_time;
        // The call has just been judged by the book that `books` has seen, and what changes from there on is waited for. Only a
        // session may have ended in between.
        let mut is_due = self.shown.session().is_some();
        loop {
            let now = self.access.engine.now();
            if std::mem::replace(&mut is_due, true) {
                let book = books.borrow_and_update().clone();
                let rules = self.access.rules(&book);
                // A page that listens is one that is used.
                if let Some(session) = self.shown.session() {
                    self.access.sessions.note(session, now);
                }
                if let Err(denied) = decide(&self.shown, rules, (&self.method, self.need), Some(caller), now) {
                    return denied.status(&self.method);
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
                Ok(()) = sessions.changed(), if self.shown.session().is_some() => {}
                () = tokio::time::sleep(SESSION_LOOK), if self.shown.session().is_some() => {}
                () = expired => {}
            }
        }
    }
}

/// Waits until a call may not go on, or until the server ends where its services do not see to that.
async fn lost(standing: Arc<Standing>, closing: Option<CancellationToken>) -> Status {
    let closed = async {
        match closing {
            Some(closing) => closing.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        status = standing.lost() => status,
        () = closed => draining(),
    }
}

impl Middleware for Access {
    type Kept = Passed;

    fn before(&self, request: &mut Request<Body>) -> Result<Passed, Box<Response<Body>>> {
        let id = RequestId::of(request);
        let judged = self.judge(request, id.as_str());
        let (need, standing) = judged.map_err(|status| Box::new(id.on(status).into_http()))?;
        let path = request.uri().path().trim_start_matches('/');
        let streams = self.streaming.contains(path);
        // These say first what is left to say.
        let ends_itself = ENDING_THEMSELVES.iter().any(|package| path.starts_with(package));
        let closing = (streams && !ends_itself).then(|| self.closing.clone());
        let ends = streams && (need != Need::Open || closing.is_some());
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(caller) = &standing.caller {
            if let Some(call) = request.extensions().get::<KnownCaller>() {
                call.vouch(caller.holder());
            }
            request.extensions_mut().insert(caller.clone());
        }
        Ok(Passed { id, standing: Arc::new(standing), ends, closing })
    }

    async fn after<E: Send>(
        Passed { id, standing, ends, closing }: Passed,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let mut lost: Lost = Box::pin(lost(standing.clone(), closing));
        let mut over = None;
        let late = async {
            let status = lost.as_mut().await;
            over = Some(status.clone());
            tokio::time::sleep(ANSWER_TIME).await;
            status
        };
        let mut response = tokio::select! {
            biased;
            answered = answer => answered?,
            status = late => return Ok(id.on(status).into_http()),
        };
        let status = Status::from_header_map(response.headers());
        if status.as_ref().is_none_or(|status| status.code() == Code::Ok) {
            standing.note_read();
        }
        if let Some(status) = status {
            standing.note_refusal(&status);
            id.on_headers(response.headers_mut());
        }
        if !ends {
            return Ok(response);
        }
        Ok(response.map(|body| {
            let names = id.clone();
            let body = body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    names.on_headers(trailers);
                }
                frame
            });
            until(Body::new(body), move |cx| match over.take() {
                // What was waited for has said so already, and must not be asked again.
                Some(status) => Poll::Ready(id.on(status)),
                None => lost.as_mut().poll(cx).map(|status| id.on(status)),
            })
        }))
    }
}

/// A call that may be made.
pub struct Passed {
    id: RequestId,
    standing: Arc<Standing>,
    /// Whether its answer goes on, and so ends when the call may no longer be made.
    ends: bool,
    /// What ends it beside that.
    closing: Option<CancellationToken>,
}

type Lost = Pin<Box<dyn Future<Output = Status> + Send>>;
