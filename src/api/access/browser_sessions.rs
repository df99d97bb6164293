//! The sessions of browsers as plain HTTP asks for them: begun with a token, shown by pages of this server, and ended.

use std::fmt;
use std::sync::Arc;

use http::Request;
use http::header::AUTHORIZATION;
use tonic::Status;
use tonic::body::Body;

use crate::api::access::caller::{Shown, Unknown};
use crate::api::access::judge::Access;
use crate::api::access::sessions;
use crate::api::request_id::RequestId;
use crate::api::status::precondition;
use crate::api::to_proto::timestamp;
use crate::listen::peer::Peer;
use crate::model::access::Method;

/// What a session is begun as: who has a token may ask who it is, and so have it in a cookie.
const SESSION_METHOD: &str = "haul.v1.AccessService/WhoAmI";

/// The sessions of browsers: begins and ends them, and judges requests that show one.
#[derive(Clone)]
pub struct BrowserSessions {
    pub(super) access: Access,
    pub(super) has_tls: bool,
}

impl fmt::Debug for BrowserSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrowserSessions").finish_non_exhaustive()
    }
}

/// A session that has begun.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) principal: String,
    /// When it ends at the latest, as JSON has times.
    pub(crate) expire_time: String,
    pub(crate) cookie: String,
}

impl BrowserSessions {
    /// Begins a session with the token that a request shows. Cookies do not keep ports apart, so without TLS every server on
    /// the same machine would get it.
    pub(crate) fn begin(&self, request: &Request<Body>) -> Result<NewSession, Status> {
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
        Ok(NewSession { principal: caller.actor.name.clone(), expire_time: timestamp(end).to_string(), cookie })
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
