//! Authentication and authorisation: who calls, and whether they may, before the message is read.
//!
//! The layer lets a request on with its [`caller::Caller`], and without the secret that it showed: nothing behind this
//! layer ever sees a token. A call that may no longer be made ends while it is open: at once where it streams, and an answer
//! that is being made has a moment to leave.

mod audit;
mod bounds;
mod browser_sessions;
pub(crate) mod caller;
mod credentials;
mod judge;
pub(crate) mod messages;
mod refusals;
pub mod service;
pub(crate) mod sessions;
mod standing;
pub(crate) mod table;
mod tenants;
mod uses;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::access::caller::{Caller, Denied, Shown, Unknown, decide};
use crate::api::access::refusals::Refusal;
use crate::api::access::standing::{Places, Standing, lost};
use crate::api::access::table::Need;
use crate::api::request_id::RequestId;
use crate::api::status::{rate_limited, too_many_by_anybody, too_many_streams, too_many_watches};
use crate::listen::KnownCaller;
use crate::listen::peer::Peer;
use crate::middleware::{Middleware, until};
use crate::model::access::{LOCAL_NAME, Method};
use crate::model::book::Book;
use crate::model::quotas::Quota;
use crate::model::tenant::Scope;
use crate::model::time::Timestamp;

pub(crate) use crate::api::access::audit::event as audit_event;
pub use crate::api::access::bounds::{CallBounds, OpenWatches};
pub use crate::api::access::browser_sessions::BrowserSessions;
pub use crate::api::access::caller::Policy;
pub use crate::api::access::judge::Access;
pub use crate::api::access::table::Exposure;

/// How long an answer that is being made has to leave: the caller may itself have ended what it came by.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The packages of the services that end their streams themselves when the server ends.
const ENDING_THEMSELVES: [&str; 2] = ["haul.v1.", "grpc.health.v1."];

impl Access {
    /// Returns the sessions of browsers; `has_tls`: whether every client comes over TLS, though it may end
    /// in front of this process.
    pub fn browser_sessions(&self, has_tls: bool) -> BrowserSessions {
        BrowserSessions { access: self.clone(), has_tls }
    }

    /// Judges a request that asks by plain HTTP whether the server is well.
    pub(crate) fn judge_probe(&self, request: &Request<Body>) -> Result<(), Status> {
        self.judge_as(request, PROBE_METHOD, RequestId::of(request).as_str()).map(|_| ())
    }

    /// Judges a request by its head.
    fn judge(&self, request: &Request<Body>, id: &str) -> Result<(Need, Standing), Status> {
        self.judge_as(request, request.uri().path().trim_start_matches('/'), id)
    }

    /// Judges a request by its head, as a call of `method`.
    fn judge_as(&self, request: &Request<Body>, method: &str, id: &str) -> Result<(Need, Standing), Status> {
        let need = table::need(method, self.exposure);
        if need == Some(Need::Open) {
            let peer = request.extensions().get::<Arc<Peer>>();
            let open = peer.map(|peer| peer.by_anybody.open().ok_or_else(too_many_by_anybody)).transpose()?;
            return Ok((Need::Open, Standing::open(self, open)));
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
        // A call by which operators control the server itself belongs to no tenant.
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

/// The method that probes of plain HTTP stand for.
const PROBE_METHOD: &str = "grpc.health.v1.Health/Check";

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
                call.identify(caller.party(&self.engine.books().borrow()));
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
